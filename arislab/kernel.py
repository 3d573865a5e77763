"""One notebook in one fresh kernel, by papermill, and what really became of it.

papermill alone cannot be asked: it marks cells that a killed kernel never ran as completed, calls ``sys.exit(0)`` a success,
and takes the kernel named python3 from wherever Jupyter finds one first. Here hooks on the cells see each error, the kernel
is always this interpreter, and SIGINT and SIGTERM end the run in order. This module does not write the record.
"""

import contextlib
import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from arislab.headline import HEADLINE_MIME
from arislab.parameters import notebook_json

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook."""

    status: str
    """ok, failed or interrupted."""
    reason: str | None = None
    """Why it is not ok, in a few words."""
    cell: dict[str, Any] | None = None
    """The cell that ran when it ended: index in the source notebook (from 0), id, heading, ename, evalue."""
    headline: dict[str, Any] | None = None
    """The last headline that a cell showed, in its order (a saved notebook has its keys sorted)."""
    peak_rss_mb: float | None = None
    """Largest memory of the kernel process, without its children; null if it died or the system cannot tell."""


class Log:
    """The file log.txt: what the kernel prints, and lines of the supervisor with the time before them."""

    def __init__(self, file: TextIO, *, clean: Callable[[str], str], echo: Callable[[str], object] | None) -> None:
        self._file, self._clean, self._echo = file, clean, echo

    def write(self, text: str) -> None:
        """Add what the kernel printed."""
        self._file.write(self._clean(text))
        self._file.flush()

    def flush(self) -> None:
        """Nothing to do: each write is flushed."""

    def line(self, text: str) -> None:
        """Add a line of the supervisor; the caller's echo gets it too."""
        self.write(f"[{datetime.now(UTC):%H:%M:%S}] {text}\n")
        if self._echo is not None:
            self._echo(self._clean(text))


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM reached the supervisor; asyncio lets only KeyboardInterrupt through at once."""


def supervise(
    notebook: Path, output: Path, *, parameters: dict[str, Any], cwd: Path, env: dict[str, str], log: Log
) -> Outcome:
    """Execute a notebook to ``output`` and return what became of it; a failure is an outcome, never an exception.

    Inside ``stoppable``, SIGINT and SIGTERM end it as interrupted, and later ones are ignored.

    Args:
        notebook: Source; not changed.
        output: Executed notebook, saved after each cell.
        parameters: Injected below the cell tagged ``parameters``.
        cwd: Working directory of the kernel.
        env: The kernel's environment.
        log: Gets the kernel's streams.
    """
    watch = _Watch(notebook_json(notebook)["cells"], log)
    kernel: dict[str, Any] = {}
    with tempfile.TemporaryFile() as raw:
        try:
            status, reason = _execute(notebook, output, parameters, watch, _manager_class(cwd, env, raw, kernel))
            _hold()
        except Stopped as stop:
            status, reason = "interrupted", str(stop)
        if status == "failed" and not watch.error:
            log.write(_last_words(raw))
    if kernel.get("pid"):  # the kernel leads a process group of its own: what it started ends with it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(kernel["pid"], signal.SIGTERM)
    cell = None if status == "ok" or watch.cell is None else {**watch.cell, **(watch.error or {})}
    return Outcome(status, reason, cell, watch.headline, kernel.get("peak_rss_mb"))


def _execute(
    notebook: Path, output: Path, parameters: dict[str, Any], watch: "_Watch", manager: type
) -> tuple[str, str | None]:
    """Return status and reason."""
    import papermill
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from nbformat import ValidationError
    from papermill.exceptions import PapermillException

    try:
        with _papermill_log(watch.log):
            papermill.execute_notebook(
                _escaped(notebook),
                _escaped(output),
                parameters=parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=180,
                iopub_timeout=60,  # 4 s, the default, turns a busy machine into a failure
                stdout_file=watch.log,
                stderr_file=watch.log,
                kernel_manager_class=manager,
                coalesce_streams=True,
                on_cell_execute=watch.cell_starts,
                on_cell_executed=watch.cell_ends,
            )
    except DeadKernelError:
        return "failed", "kernel died"
    except (CellControlSignal, PapermillException, ValidationError, RuntimeError, OSError, ValueError) as error:
        if not watch.error:
            return "failed", f"{type(error).__name__}: {error}"
    if watch.error:  # papermill itself takes sys.exit(0) for a success
        return "failed", ": ".join(filter(None, watch.error.values()))
    return "ok", None


class _Watch:
    """Hooks of the client: which cell runs, and the error that ended the notebook."""

    def __init__(self, source: list[dict[str, Any]], log: Log) -> None:
        self.log = log
        self.cell: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.headline: dict[str, Any] | None = None
        self._source = source
        self._total = sum(cell["cell_type"] == "code" for cell in source)
        self._done = 0

    def cell_starts(self, cell: Any, cell_index: int) -> None:
        if "injected-parameters" in cell.metadata.get("tags", []):
            return
        self._done += 1
        ids = [c.get("id") for c in self._source]
        index = ids.index(cell.get("id")) if cell.get("id") in ids else cell_index
        self.cell = {"index": index, "id": cell.get("id"), "heading": self._heading(index, cell.source)}
        self.log.line(f"cell {self._done}/{self._total}: {self.cell['heading']}")

    def cell_ends(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        for output in cell.outputs:
            self.headline = output.get("data", {}).get(HEADLINE_MIME, self.headline)
        content = execute_reply["content"]
        if content["status"] != "error":
            return
        self.error = {"ename": str(content.get("ename", "")), "evalue": str(content.get("evalue", ""))}
        self.log.write("".join(f"{_ANSI.sub('', line)}\n" for line in content.get("traceback", [])))

    def _heading(self, index: int, source: str) -> str:
        """Return the heading right above the cell, else its first line."""
        above = self._source[index - 1] if 0 < index <= len(self._source) else None
        if above is not None and above["cell_type"] == "markdown":
            headings = re.findall(r"^#+ *(.+)$", "".join(above["source"]), re.MULTILINE)
            if headings:
                return str(headings[-1])
        return source.strip().splitlines()[0]


_ANSI = re.compile(r"\x1b\[[0-9;]*m")


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

        async def start_kernel(self, **settings: Any) -> Any:  # type: ignore[override]
            await super().start_kernel(**{**settings, "cwd": str(cwd), "env": env, "stdout": raw, "stderr": raw})
            kernel["pid"] = getattr(self.provisioner, "pid", None)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> Any:  # type: ignore[override] # noqa: FBT001, FBT002 - Jupyter's signature
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{kernel['pid']}/status").read_text(encoding="utf-8")
                kernel["peak_rss_mb"] = round(int(text.split("VmHWM:")[1].split()[0]) / 1024, 1)
            # once the run was stopped, the end of the running cell is not waited for
            stopped = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
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


@contextlib.contextmanager
def _papermill_log(log: Log) -> Iterator[None]:
    """Send papermill's own remarks to the run's log instead of the terminal."""
    logger, handler = logging.getLogger("papermill"), logging.StreamHandler(log)
    handler.setLevel(logging.ERROR)  # it warns of parameters that its pattern does not find, though they are set
    passed, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed


def _escaped(path: Path) -> str:
    """Return the path as papermill wants it: it reads braces as places to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")
