"""Where everything lies: the root folder of ``data/`` and ``papermill_runs/``.

This module loads nothing but the standard library.
"""

import os
import re
from pathlib import Path

from arislab.errors import PrerequisiteError

_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\[\]\\^|*?]|%[0-9A-Fa-f]{2}|[\ud800-\udfff]")
"""What Delta Lake cannot have in the path of a table, or would read as a pattern or as another character."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST = 3_500
"""Bytes of a root's path: the files below it need the rest of the system's 4,096."""

RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-(\w+?)-([0-9a-f]{4})(?![0-9a-f])")
"""Name of a run: time of its start (UTC), phase, 4 hex."""


def root() -> Path:
    """Return the folder of ``data/`` and ``papermill_runs/``.

    $ARISLAB_ROOT, else the checkout around the working directory.
    """
    given = os.environ.get("ARISLAB_ROOT")
    if given:
        return usable(given, "ARISLAB_ROOT")
    for folder in [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]]:
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "arislab"' in project.read_text(encoding="utf-8"):
            return folder
    raise PrerequisiteError("no arislab checkout around the working directory; set ARISLAB_ROOT or pass --root DIR.")


def enter(folder: Path | str | None) -> Path:
    """Make ``--root`` the root of this process and of the kernels that it starts."""
    if folder is not None:
        os.environ["ARISLAB_ROOT"] = str(made(usable(folder, "--root")))
    return root()


def made(folder: Path) -> Path:
    """Make a folder of a root, with those above it, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --root."
        ) from None
    return folder


def usable(given: Path | str, name: str) -> Path:
    """Return the whole path of a folder in which tables can lie, or say what in it is in the way; nothing is made.

    Args:
        given: As the user wrote it; ``~`` and ``~/…`` are the home folder.
        name: Of the option or variable that gave it, for the message.
    """
    text = str(given)
    if _URL.match(text):
        raise PrerequisiteError(
            f"{name} {text!r} is a URL; a root is a folder on this machine so far. Give a folder; nothing was made."
        )
    path = Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)
    path = path if "\0" in text else path.resolve()
    if bad := _UNUSABLE.search(str(path)):
        raise PrerequisiteError(
            f"{name} {str(path)!r} holds {bad[0]!r}, with which Delta Lake cannot store a table. Give a folder "
            "without control characters, [ ] \\ ^ | * ? and % before two hex digits (spaces, umlauts and quotes are "
            "fine); nothing was made."
        )
    if len(os.fsencode(path)) > _LONGEST:
        raise PrerequisiteError(
            f"{name} is {len(os.fsencode(path)):,} bytes long; the files below it need it to be shorter than "
            f"{_LONGEST:,}. Give another folder; nothing was made."
        )
    return path
