"""``arislab lab``: JupyterLab on the notebooks and on the records of a root.

JupyterLab shows one folder. In a lab that is its own root that is the lab. Elsewhere the two that belong together lie
apart: the notebooks in the lab, the records in the root. So it shows a desk: a folder with a link to each, among the
files that Jupyter keeps while it runs. Nothing is made in the root but ``papermill_runs``, and nothing is copied: what
is saved is saved where it lies.
"""

import hashlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import typer

from arislab.cli.options import Root
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import paths
from arislab.system.paths import enter

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context of a command whose further options are those of another."""
_LOOPBACK = "127.0.0.1"


def lab(context: typer.Context, root: Root = None) -> None:
    """Open notebooks and records of this root in JupyterLab, whose options (--no-browser, --port 8899) follow."""
    options = list(context.args)
    if beyond := [option for option in options if re.match(r"--?(\w+\.)*ip(=|$)", option)]:
        raise ParameterError(
            f"{beyond[0]!r} is not passed on: the notebooks run any code, so that JupyterLab listens on {_LOOPBACK} "
            "only. Leave it out; from another machine, go through an SSH tunnel."
        )
    if find_spec("jupyterlab") is None:
        raise PrerequisiteError('JupyterLab is not installed here; run: pip install "arislab[lab]"')
    where = enter(root)
    os.environ["ARISLAB_ROOT"] = str(where)
    notebooks = paths.notebooks()
    shown = where if (where / paths.MARKER).is_file() else desk(where, notebooks)
    places = [f"--ServerApp.root_dir={shown}", f"--FileContentsManager.preferred_dir={notebooks.name}"]
    # this process becomes JupyterLab: a signal to it reaches the server, which ends its kernels
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *places, *options, f"--ip={_LOOPBACK}"])


def desk(root: Path, notebooks: Path) -> Path:
    """Return the folder with links to the notebooks and to the records of a root; the same one for the same root.

    Args:
        root: Folder of ``papermill_runs/``, which is made if absent.
        notebooks: Folder of the notebooks.

    Raises:
        PrerequisiteError: A folder cannot be written.
    """
    from jupyter_core.paths import jupyter_runtime_dir

    records = root / "papermill_runs"
    folder = Path(jupyter_runtime_dir()) / f"arislab-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    try:
        records.mkdir(exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for target in (notebooks, records):
            link = folder / target.name
            if not link.is_symlink() or link.readlink() != target:
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        # what somebody makes beside the two links would be lost from sight: JupyterLab says that it may not write there
        folder.chmod(0o500)
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {error.filename} ({error.strerror}); choose another folder with --root, or set "
            "JUPYTER_RUNTIME_DIR."
        ) from None
    return folder
