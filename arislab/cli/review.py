"""``arislab review``: the review panel as a page, for people who do not know Jupyter."""

import json
import os
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli.options import Root, open_lake
from arislab.cli.runs import given
from arislab.errors import PrerequisiteError
from arislab.records.outputs import INJECTED
from arislab.system import paths
from arislab.system.files import replace
from arislab.system.text import print, print_secret

_SHARE = Path(__file__).parents[1] / "review" / "share"
_HOST = "127.0.0.1"
_PAGES = {"review.ipynb": "review_page.ipynb", "lead.ipynb": "review_lead.ipynb"}
"""Page -> notebook; no other notebook can be opened."""


def review(
    reviewers: Annotated[
        list[str] | None, typer.Option("--reviewer", metavar="NAME", help="Someone who reviews; repeat it.")
    ] = None,
    lead: Annotated[str | None, typer.Option("--lead", metavar="NAME", help="Who adjudicates; default: lead.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: the one that this lake had before.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="A parameter of the pages, such as task or n_review; repeat it."),
    ] = None,
    root: Root = None,
) -> None:
    """Serve the review panel as a page for each reviewer, and one for the lead, until Ctrl-C.

    Each has a secret address that says who decides; it stays the same, also after a restart: keep the port, for what a
    browser could not send yet lies under host and port. The server listens on this machine only. For others, put your
    own proxy with TLS in front of it, which passes HTTP and websockets of one host name on to the port that is printed,
    and leaves path, query and the header Host as they came; keep addresses with their tokens out of its log.
    """
    if find_spec("voila") is None:
        raise PrerequisiteError('Voila is not installed here; run: pip install "arislab[lab]"')
    from arislab.review import seats

    lake = open_lake(root)
    known = seats.prepare(lake.review, reviewers or (), lead=lead, port=port)
    _check_free(known.port)
    desk = _desk(lake.review, given(parameters or (), ())[0])
    for name in known.tokens:
        print_secret(f"{name}{' (lead)' if name == known.lead else ''}: {known.url(name)}")
    print("Ctrl-C ends it.")
    sys.stdout.flush()  # before this process becomes another program
    for name, folder in (("JUPYTER_PATH", _SHARE), ("JUPYTER_CONFIG_PATH", _SHARE / "config")):
        os.environ[name] = os.pathsep.join([str(folder), *filter(None, [os.environ.get(name)])])
    os.environ["ARISLAB_ROOT"] = str(paths.root())
    where = [f"--port={known.port}", f"--Voila.root_dir={desk}", f"--Seated.folder={lake.review}"]
    # this process becomes Voila: a signal to it reaches the server, which ends its kernels
    os.execv(sys.executable, [sys.executable, "-m", "voila", *where])


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise PrerequisiteError(
                f"port {port} cannot be used ({error.strerror}); if `arislab review` serves this lake already, go on "
                "there. Another --port works too, but what browsers have not sent yet stays at the old one."
            ) from None


def _desk(folder: Path, given: Mapping[str, Any]) -> Path:
    """Return a folder with each page's notebook, and nothing else that could be opened.

    A link to it, or where one of its parameters is given, a copy in which it is set.

    Raises:
        ParameterError: No page has such a parameter, or it is of another type.
    """
    from arislab.runs import parameters

    desk = folder / "pages"
    desk.mkdir(exist_ok=True)
    notebooks = {name: paths.notebooks() / notebook for name, notebook in _PAGES.items()}
    declared = {name: parameters.parameters_of(notebook) for name, notebook in notebooks.items()}
    values = parameters.convert({name: one for page in declared.values() for name, one in page.items()}, given)
    for name, target in notebooks.items():
        link = desk / name
        if own := {one: value for one, value in values.items() if one in declared[name]}:
            content = json.dumps(_with(parameters.notebook_json(target), own), ensure_ascii=False)
            replace(link, content)
        elif not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return desk


def _with(book: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook with values set below the cell of its parameters."""
    [after] = [i for i, cell in enumerate(book["cells"], start=1) if "parameters" in cell["metadata"].get("tags", [])]
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cell: dict[str, Any] = {"cell_type": "code", "id": INJECTED, "metadata": {"tags": [INJECTED]}, "source": source}
    cell |= {"outputs": [], "execution_count": None}
    return book | {"cells": [*book["cells"][:after], cell, *book["cells"][after:]]}
