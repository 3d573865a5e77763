"""A record for whoever runs a phase by hand: JupyterLab's "Run all", without a supervisor, and marked as such.

A notebook calls ``begin`` before it opens the lake. In a kernel that Jupyter started for the notebook of a phase, each
cell that ends is noted from then on. The verdict is ``ok`` only if all code cells of the notebook ran, once each, in
order, and as the file has them; ``failed`` if the last cell did; else ``interactive``: no verdict, since what the
kernel remembered cannot be known. A kernel that is killed leaves ``running``, which a reader sees as lost.
"""

import atexit
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.runs.parameters import convert, notebook_json, parameters_of
from arislab.runs.recording import Recording
from arislab.system.paths import root as found_root

_open: list["_Session"] = []


def begin(root: Path | None = None) -> str | None:
    """Record this kernel's notebook, if it is that of a phase and nobody records it yet, and return the id of its run.

    Args:
        root: Folder of ``papermill_runs/``; default: $ARISLAB_ROOT, else the lab.

    Returns:
        Null where nothing is recorded by this kernel itself: under ``arislab run`` and papermill, and outside of
        Jupyter.
    """
    if _open:
        return _open[0].recording.record.run_id
    named, shell = os.environ.get("JPY_SESSION_NAME"), _shell()
    if named is None or shell is None or "ARISLAB_RUN_ID" in os.environ:
        return None
    notebook = Path(named) if Path(named).is_file() else Path.cwd() / Path(named).name
    if not notebook.is_file():
        return None
    root = found_root() if root is None else root
    content = notebook_json(notebook)
    phase = content.get("metadata", {}).get("arislab", {}).get("phase")
    if phase is None:
        return None
    try:
        _open.append(_Session(str(phase), notebook, content["cells"], shell, root))
    except (OSError, PrerequisiteError) as error:
        warnings.warn(f"this run is not recorded: {root / 'papermill_runs'} cannot be written ({error}).", stacklevel=2)
        return None
    return _open[0].recording.record.run_id


def _shell() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


class _Session:
    """The cells that a kernel has run since the parameters cell."""

    def __init__(self, phase: str, notebook: Path, cells: list[Any], shell: Any, root: Path) -> None:
        self.code = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        declared = parameters_of(notebook, cells=cells)
        now = {name: shell.user_ns[name] for name in declared if name in shell.user_ns}
        passed = convert(declared, {n: v for n, v in now.items() if v != declared[n].default})
        self.recording = Recording(
            phase,
            notebook.resolve(),
            declared,
            passed,
            root=root,
            echo=None,
            launched_by="jupyter",
            parameters_from=dict.fromkeys(passed, "jupyter"),
        )
        self.shell, self.done = shell, [(self._place(0), "completed")]
        self.recording.open()
        os.environ["ARISLAB_RUN_DIR"] = str(self.recording.record.folder)
        shell.events.register("post_run_cell", self.cell_ended)
        # the last moment for a verdict: a kernel that is shut down ends no cell
        atexit.register(self.close)

    def _place(self, number: int) -> str:
        return str(self.code[number].get("id", number)) if number < len(self.code) else f"new-{number}"

    def cell_ended(self, result: Any) -> None:
        """Note a cell; the parameters cell begins another run."""
        source = str(result.info.raw_cell).strip()
        known = [str(c.get("id")) for c in self.code if "".join(c["source"]).strip() == source]
        place = known[0] if known else f"new-{len(self.done)}"
        if place == self._place(0):
            self.close()
            return
        error = result.error_in_exec or result.error_before_exec
        if error is None:
            self.recording.note_headline(result.result)
        self.done.append((place, "completed" if error is None else "failed"))
        verdict = self._verdict(error)
        if verdict["status"] == "running":
            self.recording.note(status="running", cause=None, reason=None, finished_at=None, cells=self._cells())
            return
        self._end(verdict)
        if verdict["status"] == "ok":
            self.close()  # what is run from now on is no part of it

    def _cells(self) -> list[dict[str, Any]]:
        return [{"id": place, "status": status, "duration_s": None} for place, status in self.done]

    def _verdict(self, error: BaseException | None) -> dict[str, Any]:
        wanted = [self._place(i) for i in range(len(self.code))]
        ran = [place for place, _ in self.done]
        if error is not None:
            return {"status": "failed", "cause": "exception", "reason": f"{type(error).__name__}: {error}"}
        if ran == wanted:
            return {"status": "ok"}
        if ran == wanted[: len(ran)]:
            return {"status": "running"}
        why = "cells were edited, run out of order, or more than once; run all in a fresh kernel, or `arislab run`"
        return (
            {"status": "interactive", "cause": None, "reason": why}
            if set(wanted) <= set(ran)
            else {"status": "running"}
        )

    def _end(self, verdict: dict[str, Any]) -> None:
        self.recording.end(cells=self._cells(), **verdict)

    def close(self) -> None:
        """End the record with what is known."""
        if not _open or _open[0] is not self:
            return
        _open.clear()
        atexit.unregister(self.close)
        self.shell.events.unregister("post_run_cell", self.cell_ended)
        os.environ.pop("ARISLAB_RUN_DIR", None)
        if self.recording.record.status == "running":
            why = "the kernel ended, or was used for another run, before all cells had run in order"
            self._end({"status": "interactive", "reason": why})
