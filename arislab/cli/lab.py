"""``arislab lab``: JupyterLab on the notebooks, with a root."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import typer

from arislab.cli.options import Root
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system.paths import enter

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context of a command whose further options are those of another."""
_LOOPBACK = "127.0.0.1"


def lab(context: typer.Context, root: Root = None) -> None:
    """Open the notebooks in JupyterLab with this root; further options (--no-browser, --port 8899) are JupyterLab's."""
    options = list(context.args)
    if beyond := [option for option in options if re.match(r"--?(\w+\.)*ip(=|$)", option)]:
        raise ParameterError(
            f"{beyond[0]!r} is not passed on: the notebooks run any code, so that JupyterLab listens on {_LOOPBACK} "
            "only. Leave it out; from another machine, go through an SSH tunnel."
        )
    if find_spec("jupyterlab") is None:
        raise PrerequisiteError('JupyterLab is not installed here; run: pip install -e ".[lab]"')
    notebooks = Path(__file__).resolve().parents[2] / "notebooks"
    if not notebooks.is_dir():
        raise PrerequisiteError(
            f"there are no notebooks at {notebooks}; install arislab from its checkout: pip install -e ."
        )
    os.environ["ARISLAB_ROOT"] = str(enter(root))
    # this process becomes JupyterLab: a signal to it reaches the server, which ends its kernels
    command = [sys.executable, "-m", "jupyterlab", str(notebooks), *options, f"--ip={_LOOPBACK}"]
    os.execv(sys.executable, command)
