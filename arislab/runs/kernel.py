"""One notebook in one fresh kernel, and what really became of it.

papermill calls the engine, the engine calls ``run`` here, also when somebody types plain ``papermill``. The kernel is
always this interpreter. What ended the run is told apart: an exception, ``sys.exit``, a signal to the kernel or to us,
a time limit, a full disk. This module does not write the record.
"""

import contextlib
import errno
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from arislab.records.headline import HEADLINE_MIME
from arislab.runs import notebook as notebook_file
from arislab.runs.parameters import plain
from arislab.system import processes
from arislab.system.text import terminal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    log: "Log"
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


LOG_BYTES = 50_000_000
"""Most characters that the cells of a run leave in its log; what the supervisor says is always written."""
_HELD_MESSAGES = (
    100_000  # while a slow disk holds us up; of more than 1,000, the default, the kernel would throw some away
)
_CHILDREN_S = 5.0  # a server finishes what it writes
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Log:
    """The file log.txt: what the kernel prints, and lines of the supervisor with the time before them."""

    def __init__(self, file: TextIO, *, clean: Callable[[str], str], echo: Callable[[str], object] | None) -> None:
        self._file, self._clean, self._echo, self._left = file, clean, echo, LOG_BYTES

    def printed(self, text: str) -> None:
        """Add what a cell printed, up to ``LOG_BYTES`` in all."""
        if self._left > 0:
            self.write(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self.line(f"[the cells printed more than {LOG_BYTES:,} characters: the rest is not kept]")

    def write(self, text: str) -> None:
        """Add text; a full disk loses it, and ends nothing."""
        try:
            self._file.write(terminal(self._clean(text)))
            self._file.flush()
        except OSError as error:
            if error.errno not in _FULL:
                raise

    def flush(self) -> None:
        """Nothing to do: each write is flushed."""

    def line(self, text: str) -> None:
        """Add a line of the supervisor; the caller's echo gets it too."""
        self.write(f"[{datetime.now(UTC):%H:%M:%S}] {text}\n")
        if self._echo is not None:
            self._echo(terminal(self._clean(text)))


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM reached the supervisor; asyncio lets only KeyboardInterrupt through at once."""


def run(nb: Any, job: Job) -> Outcome:
    """Run the cells of a notebook that papermill has prepared, in a kernel of this interpreter.

    Args:
        nb: The notebook with its parameters; it gets outputs and states.
        job: How to run it.
    """
    parameters = nb.metadata.get("papermill", {}).get("parameters")
    if parameters is not None:
        nb.metadata.papermill["parameters"] = plain(parameters)
    watch = _Watch(job.source, job.log)
    notebook = notebook_file.Notebook(
        nb, path=job.output, overflow=job.output.parent / "outputs", also=job.also_save, clean=job.clean
    )
    kernel: dict[str, Any] = {"oom_kills": _oom_kills()}
    widgets: dict[str, Any] = {}
    with tempfile.TemporaryFile() as raw:
        try:
            told = _run(notebook, job, watch, _manager_class(job.cwd, job.env, raw, kernel), kernel, widgets)
            _hold()
        except Stopped as stop:
            told = {"status": "interrupted", "cause": "signal", "reason": str(stop), "signal": str(stop)}
        if told["status"] != "ok" and not watch.error:
            job.log.write(_last_words(raw))
    if kernel.get("pid"):
        for which in _end_children(kernel, job.env.get("ARISLAB_RUN_ID")):
            job.log.line(f"outlived the kernel: {which}")
    last = None if told["status"] == "ok" or watch.cell is None else {**watch.cell, **(watch.error or {})}
    try:
        notebook.ends(exception=told["status"] != "ok", widgets=widgets)
    except OSError as error:
        if told["status"] == "ok":
            told = {"status": "failed", "cause": "disk-full" if error.errno in _FULL else "exception"}
            told["reason"] = f"the executed notebook could not be written: {error.strerror}"
    cells = [
        {"id": cell.get("id"), "status": cell.metadata.papermill.status, "duration_s": cell.metadata.papermill.duration}
        for cell in nb.cells
        if cell.cell_type == "code"
    ]
    return Outcome(**told, cell=last, cells=cells, headline=watch.headline, peak_rss_mb=kernel.get("peak_rss_mb"))


def _end_children(kernel: dict[str, Any], run_id: str | None) -> list[str]:
    """End what the kernel has started and left.

    Its process group, its descendants, and whatever has the run's name in its environment.

    Returns:
        Which did not end by themselves.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(kernel["pid"], signal.SIGTERM)
    left = kernel.get("children", set()) | (processes.with_variable("ARISLAB_RUN_ID", run_id) if run_id else set())
    return processes.end(left, patience_s=_CHILDREN_S) if left else []


def _run(
    notebook: notebook_file.Notebook,
    job: Job,
    watch: "_Watch",
    manager: type,
    kernel: dict[str, Any],
    widgets: dict[str, Any],
) -> dict[str, Any]:
    """Return status, cause, reason and signal."""
    from nbclient.exceptions import CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError

    until = None if job.timeout_s is None else time.monotonic() + job.timeout_s

    def left_s(_: Any) -> int | None:
        limits = [job.cell_timeout_s, None if until is None else max(0.0, until - time.monotonic())]
        known = [limit for limit in limits if limit is not None]
        return max(1, round(min(known))) if known else None

    client = notebook_file.make_client(
        notebook,
        write=job.log.printed,
        kernel_manager_class=manager,
        startup_timeout=180,
        iopub_timeout=60,  # 4 s, the default, turns a busy machine into a failure
        raise_on_iopub_timeout=True,  # else outputs would be missing and nobody told
        timeout_func=left_s,
    )
    client.reset_execution_trackers()
    told: dict[str, Any] = {}
    try:
        with client.setup_kernel():
            job.started()
            try:
                for index, cell in enumerate(notebook.nb.cells):
                    if cell.cell_type != "code" or not cell.source.strip():
                        continue
                    _run_cell(client, notebook, watch, cell, index)
                told = {"status": "ok"}
            except CellExecutionError:
                told = _exception(watch.error or {})
            except CellTimeoutError:
                kernel["now"] = True
                limit = (
                    f"{job.cell_timeout_s:g} s a cell"
                    if job.cell_timeout_s is not None
                    else f"{job.timeout_s:g} s in all"
                )
                told = {"status": "timeout", "cause": "time-limit", "reason": f"the cell passed its limit ({limit})"}
            except DeadKernelError:
                told = _death(client.km, kernel)
            except RuntimeError as error:  # outputs that did not come in time
                told = {"status": "failed", "cause": "exception", "reason": f"{type(error).__name__}: {error}"}
            client.set_widgets_metadata()
            widgets.update(client.widget_state)
    except (CellControlSignal, RuntimeError) as error:
        if not told:  # else it is the end of a kernel that had done its work
            return {"status": "failed", "cause": "no-start", "reason": f"the kernel did not start: {error}"}
    return told


def _run_cell(client: Any, notebook: notebook_file.Notebook, watch: "_Watch", cell: Any, index: int) -> None:
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
    said = error.get("evalue", "")
    if os.strerror(errno.ENOSPC) in said or os.strerror(errno.EDQUOT) in said:
        cause = "disk-full"
    elif error.get("ename") in ("MemoryError", "OutOfMemoryError"):
        cause = "out-of-memory"
    return {"status": "failed", "cause": cause, "reason": ": ".join(filter(None, error.values()))}


def _death(manager: Any, kernel: dict[str, Any]) -> dict[str, Any]:
    """What the end of the kernel's process means."""
    process = getattr(getattr(manager, "provisioner", None), "process", None)
    code = process.poll() if process is not None else kernel.get("code")
    name = signal.Signals(-code).name if code is not None and code < 0 else None
    if name == "SIGKILL" and _oom_kills() > kernel["oom_kills"]:
        return {
            "status": "killed",
            "cause": "out-of-memory",
            "reason": "the system ended the kernel: out of memory",
            "signal": name,
        }
    how = f"by {name}" if name else f"with exit code {code}" if code is not None else "for an unknown reason"
    return {"status": "killed", "cause": "kernel-died", "reason": f"kernel died {how}", "signal": name}


def _oom_kills() -> int:
    """How many processes the system has ended for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class _Watch:
    """Hooks of the client: which cell runs, and the error that ended the notebook."""

    def __init__(self, source: list[dict[str, Any]], log: Log) -> None:
        self.log = log
        self.cell: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.headline: dict[str, Any] | None = None
        self._source = source
        self._index = {cell.get("id"): index for index, cell in enumerate(source) if "id" in cell}
        self._total = sum(cell["cell_type"] == "code" for cell in source)
        self._done = 0

    def cell_starts(self, cell: Any, cell_index: int) -> None:
        if notebook_file.INJECTED in cell.metadata.get("tags", []):
            return
        self._done += 1
        index = self._index.get(cell.get("id"), cell_index)
        self.cell = {"index": index, "id": cell.get("id"), "heading": self._heading(index, cell.source)}
        self.log.line(f"cell {self._done}/{self._total}: {self.cell['heading']}")

    def cell_ends(self, cell: Any) -> None:
        for output in cell.outputs:
            self.headline = output.get("data", {}).get(HEADLINE_MIME, self.headline)

    def cell_fails(self, cell: Any, error: Any) -> None:
        self.error = {"ename": str(error.ename), "evalue": str(error.evalue)}
        traceback = str(error.traceback)
        if (
            error.ename == "NoneType"
        ):  # what IPython answers when a value could not be displayed: the error is among the outputs
            shown = [output for output in cell.outputs if output.output_type == "error"]
            if shown:
                self.error = {"ename": str(shown[-1].ename), "evalue": str(shown[-1].evalue)}
                traceback = "\n".join(map(str, shown[-1].traceback))
        self.log.write(f"{traceback}\n")

    def _heading(self, index: int, source: str) -> str:
        """Return the heading right above the cell, else its first line."""
        above = self._source[index - 1] if 0 < index <= len(self._source) else None
        if above is not None and above["cell_type"] == "markdown":
            headings = re.findall(r"^#+ *(.+)$", "".join(above["source"]), re.MULTILINE)
            if headings:
                return str(headings[-1])
        return source.strip().splitlines()[0]


def _last_words(raw: Any) -> str:
    """Return what the kernel process itself printed, such as why it could not start; the rest came as messages."""
    raw.seek(max(0, raw.seek(0, 2) - 10_000))
    return str(raw.read().decode(errors="replace"))


def _manager_class(cwd: Path, env: dict[str, str], raw: Any, kernel: dict[str, Any]) -> type:
    """Return a kernel manager for this interpreter; ``kernel`` gets pid and, at its end, peak memory of the kernel."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            # without folders to look in, python3 is the kernel of sys.executable
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **settings)

        def client(self, **settings: Any) -> Any:
            client = super().client(**settings)
            client.context.rcvhwm = _HELD_MESSAGES
            return client

        async def start_kernel(self, **settings: Any) -> Any:  # type: ignore[override]
            arguments = [*settings.get("extra_arguments", ()), "--IPKernelApp.extra_extensions=arislab.system.floods"]
            options = {"cwd": str(cwd), "env": env, "stdout": raw, "stderr": raw, "extra_arguments": arguments}
            await super().start_kernel(**{**settings, **options})
            kernel["pid"] = getattr(self.provisioner, "pid", None)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> Any:  # type: ignore[override] # noqa: FBT001, FBT002 - Jupyter's signature
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{kernel['pid']}/status").read_text(encoding="utf-8")
                kernel["peak_rss_mb"] = round(int(text.split("VmHWM:")[1].split()[0]) / 1024, 1)
            kernel["children"] = processes.descendants(kernel["pid"]) if kernel.get("pid") else set()
            # once the run was stopped, the end of the running cell is not waited for
            stopped = kernel.get("now") or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            return await super().shutdown_kernel(now=now or stopped, restart=restart)

    return ThisInterpreter


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into Stopped and ignore later ones, so that a verdict can be written."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    _hold()
    raise Stopped(signal.Signals(number).name)


def _hold() -> None:
    """Ignore both signals from now on, inside ``stoppable``."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
