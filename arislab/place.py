"""Where everything lies: the root folder of ``data/`` and ``papermill_runs/``. This module loads nothing but the standard library."""

import os
import re
from pathlib import Path

from arislab.errors import PrerequisiteError

RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-(\w+?)-([0-9a-f]{4})(?![0-9a-f])")
"""Name of a run: time of its start (UTC), phase, 4 hex."""


def root() -> Path:
    """Return the folder that holds ``data/`` and ``papermill_runs/``: $ARISLAB_ROOT, else the checkout around the working directory."""
    given = os.environ.get("ARISLAB_ROOT")
    if given:
        return Path(given).resolve()
    for folder in [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parent.parent]:
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "arislab"' in project.read_text(encoding="utf-8"):
            return folder
    raise PrerequisiteError("no arislab checkout around the working directory; set ARISLAB_ROOT or pass --root DIR.")


def enter(folder: Path | str | None) -> Path:
    """Make ``--root`` the root of this process and of the kernels that it starts."""
    if folder is not None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrerequisiteError(
                f"cannot write to {folder} ({error.strerror}); choose another folder with --root."
            ) from None
        os.environ["ARISLAB_ROOT"] = str(Path(folder).resolve())
    return root()
