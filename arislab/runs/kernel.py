"""One notebook in one fresh kernel, and what really became of it.

papermill calls the engine, the engine calls ``run`` here, also when somebody types plain ``papermill``. The kernel is
always this interpreter. What ended the run is told apart: an exception, ``sys.exit``, a signal to the kernel or to us,
a time limit, a full disk. This module does not write the record.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arislab.runs.client import make_client
from arislab.runs.log import FULL, Log, Watch
from arislab.runs.notebook import Notebook
from arislab.runs.parameters import plain
from arislab.runs.process import Kernel, death, end_children, last_words, started
from arislab.runs.progress import Step, Teller
from arislab.runs.signals import Stopped, hold


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook."""

    status: str
    """ok, failed, interrupted, timeout or killed."""
    cause: str | None = None
    """exception, exit, signal, time-limit, kernel-died, out-of-memory, disk-full or no-start; null if ok."""
    reason: str | None = None
    """Why it is not ok, in a few words."""
    signal: str | None = None
    """Name of the signal that ended the kernel or the run."""
    cell: dict[str, Any] | None = None
    """The cell that ran when it ended: index in the source notebook (from 0), id, heading, ename, evalue."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Every code cell: id, status (completed, failed, running, not-run), duration_s."""
    headline: dict[str, Any] | None = None
    """The last headline that a cell showed, in its order (a saved notebook has its keys sorted)."""
    peak_rss_mb: float | None = None
    """Largest memory of the kernel process, without its children; null if it died or the system cannot tell."""


@dataclass(frozen=True)
class Job:
    """A notebook to run."""

    source: list[dict[str, Any]]
    """Cells of the notebook as the user edits it."""
    output: Path
    """Where the executed notebook is saved."""
    cwd: Path
    """Working directory of the kernel."""
    env: dict[str, str]
    """The kernel's environment."""
    log: Log
    """Gets the kernel's streams."""
    started: Callable[[], object]
    """Called when the kernel is there."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Injected below the cell tagged ``parameters``."""
    timeout_s: float | None = None
    """Longest run of all cells, seconds."""
    cell_timeout_s: float | None = None
    """Longest run of one cell, seconds."""
    also_save: Callable[[Any], object] | None = None
    """Gets the notebook whenever it is saved."""
    clean: Callable[[str], str] = str
    """Takes secrets out of what is written."""
    tell: Callable[[Step], object] | None = None
    """Gets where the run is, a few times a second at most."""


@contextlib.contextmanager
def kernel_of(job: Job) -> Iterator[Kernel]:
    """Start the kernel of a job, and go on without waiting until it is there; it ends with the block at the latest."""
    with tempfile.TemporaryFile() as raw, started(job.cwd, job.env, raw) as kernel:
        yield kernel


def run(nb: Any, job: Job, kernel: Kernel) -> Outcome:
    """Run the cells of a notebook that papermill has prepared, in a kernel of this interpreter.

    Args:
        nb: The notebook with its parameters; it gets outputs and states.
        job: How to run it.
        kernel: From ``kernel_of``, for this run alone.
    """
    parameters = nb.metadata.get("papermill", {}).get("parameters")
    if parameters is not None:
        nb.metadata.papermill["parameters"] = plain(parameters)
    n_cells = sum(cell["cell_type"] == "code" for cell in job.source)
    teller = Teller(job.tell, n_cells=n_cells, clean=job.clean)
    watch = Watch(job.source, job.log, starts=teller.cell_starts)
    notebook = Notebook(
        nb, path=job.output, overflow=job.output.parent / "outputs", also=job.also_save, clean=job.clean
    )
    process = kernel.process
    widgets: dict[str, Any] = {}
    try:
        ending = _run(notebook, job, watch, kernel, widgets, teller.hear)
        hold()  # from here on a signal would only cut off the verdict
    except Stopped as stop:
        ending = {"status": "interrupted", "cause": "signal", "reason": str(stop), "signal": str(stop)}
    if ending["status"] != "ok" and not watch.error:
        job.log.write(last_words(kernel.raw))
    # before the record is summed up: what still runs would go on writing to its files
    for which in end_children(process, job.env.get("ARISLAB_RUN_ID")):
        job.log.line(f"outlived the kernel: {which}")
    last = None if ending["status"] == "ok" or watch.cell is None else {**watch.cell, **(watch.error or {})}
    try:
        notebook.ends(exception=ending["status"] != "ok", widgets=widgets)
    except OSError as error:
        if ending["status"] == "ok":
            ending = {"status": "failed", "cause": "disk-full" if error.errno in FULL else "exception"}
            ending["reason"] = f"the executed notebook could not be written: {error.strerror}"
    cells = [
        {"id": cell.get("id"), "status": cell.metadata.papermill.status, "duration_s": cell.metadata.papermill.duration}
        for cell in nb.cells
        if cell.cell_type == "code"
    ]
    return Outcome(**ending, cell=last, cells=cells, headline=watch.headline, peak_rss_mb=process.peak_rss_mb)


def _run(
    notebook: Notebook,
    job: Job,
    watch: Watch,
    kernel: Kernel,
    widgets: dict[str, Any],
    hear: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Return status, cause, reason and signal."""
    from nbclient.exceptions import CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError

    until = None if job.timeout_s is None else time.monotonic() + job.timeout_s

    def left_s(_: Any) -> int | None:
        limits = [job.cell_timeout_s, None if until is None else max(0.0, until - time.monotonic())]
        known = [limit for limit in limits if limit is not None]
        # nbclient takes whole seconds, and 0 for no limit
        return max(1, round(min(known))) if known else None

    client = make_client(
        notebook,
        write=job.log.printed,
        hear=hear,
        km=kernel.manager,
        startup_timeout=180,
        iopub_timeout=60,  # 4 s, the default, turns a busy machine into a failure
        raise_on_iopub_timeout=True,  # else outputs would be missing and nobody told
        timeout_func=left_s,
    )
    client.reset_execution_trackers()
    ending: dict[str, Any] = {}
    try:
        with client.setup_kernel(cleanup_kc=True):
            job.started()
            try:
                for index, cell in enumerate(notebook.nb.cells):
                    if cell.cell_type != "code" or not cell.source.strip():
                        continue
                    _run_cell(client, notebook, watch, cell, index)
                ending = {"status": "ok"}
            except CellExecutionError:
                ending = _exception(watch.error or {})
            except CellTimeoutError:
                kernel.process.is_given_up = True
                limit = (
                    f"{job.cell_timeout_s:g} s a cell"
                    if job.cell_timeout_s is not None
                    else f"{job.timeout_s:g} s in all"
                )
                ending = {"status": "timeout", "cause": "time-limit", "reason": f"the cell passed its limit ({limit})"}
            except DeadKernelError:
                ending = death(kernel)
            except RuntimeError as error:  # outputs that did not come in time
                ending = {"status": "failed", "cause": "exception", "reason": f"{type(error).__name__}: {error}"}
            client.set_widgets_metadata()
            widgets.update(client.widget_state)
    except (CellControlSignal, RuntimeError) as error:
        if not ending:  # else it is the end of a kernel that had done its work
            return {"status": "failed", "cause": "no-start", "reason": f"the kernel did not start: {error}"}
    return ending


def _run_cell(client: Any, notebook: Notebook, watch: Watch, cell: Any, index: int) -> None:
    from nbclient.exceptions import CellExecutionError

    watch.cell_starts(cell, index)
    notebook.cell_starts(cell)
    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        watch.cell_fails(cell, error)
        notebook.cell_ends(cell, failed=True, widgets=client.widget_state)
        raise
    watch.cell_ends(cell)
    notebook.cell_ends(cell, failed=False, widgets=client.widget_state)


def _exception(error: dict[str, str]) -> dict[str, Any]:
    """What an error of a cell means."""
    cause = "exit" if error.get("ename") == "SystemExit" else "exception"
    message = error.get("evalue", "")
    # the kernel's error arrives as text: its class may be any library's, the system's own words are in it
    if any(os.strerror(number) in message for number in FULL):
        cause = "disk-full"
    elif error.get("ename") in ("MemoryError", "OutOfMemoryError"):
        cause = "out-of-memory"
    return {"status": "failed", "cause": cause, "reason": ": ".join(filter(None, error.values()))}
