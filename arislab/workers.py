"""Worker processes that call the scorers of a task file: each loads the file's text itself, and is sent rows.

A worker is started as a program of its own, not forked (polars has threads, which a fork does not survive), and imports
nothing of whoever started it. Batches go to it one at a time and come back as they are done; the number of the call
that it is making stands in memory that both see. A call that no signal interrupts (a regular expression that
backtracks without end) and one that takes its process along (a crash, ``os._exit``, no memory left) is therefore known,
costs its row the score, and the rest goes on in a new worker. Workers end with the call that uses them, and with the
process that started them. What a scorer prints is shown; what it remembers between rows, each worker remembers alone: a
scorer is a function of its row.
"""

import contextlib
import ctypes
import io
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import connection
from typing import IO, Any

from arislab import calls
from arislab import task as tasks
from arislab.calls import Batch, Failure, Job, Judged
from arislab.errors import TaskError

GRACE_S = 2.0
"""What a call may take beyond its time before its worker is ended, s."""
_EVERY_S = 0.2
"""How often a worker sends what it has, and how often it is looked at, s."""
_UNINTERRUPTED = " and could not be interrupted: its process was ended"
_START = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[1])); "
    "sys.path[:] = c.recv(); from arislab import workers; workers.work(c, *map(int, sys.argv[2:]))"
)


def judged(job: Job, batches: Iterable[Batch], *, n_workers: int, most_ended: float) -> Iterator[Judged]:
    """Yield what the scorers say of all batches, in whatever order they come back.

    Args:
        job: The scorers, and what they are given.
        batches: The rows; they are asked for as workers become free.
        n_workers: Processes, at least 1.
        most_ended: Rows on which a scorer may end its process; with one more nothing else is scored.

    Raises:
        TaskError: The file cannot be loaded in a worker, or a worker ends outside of a scorer, twice on one row.
    """
    todo, ended = iter(batches), list[Failure]()
    with _workers(job, n_workers) as workers:
        ready = next(todo, None)
        while ready is not None or workers.busy:
            while ready is not None and (worker := workers.free()):
                worker.take(ready)
                ready = next(todo, None)
            for worker in workers.looked_at():
                yield from worker.parts()
                if (failure := worker.mended()) is not None:
                    ended.append(failure)
                    if len({failure.row for failure in ended}) > most_ended:
                        yield Judged(0, [], ended)
                        return


@dataclass(frozen=True)
class _Kept:
    """The workers of a block of ``kept``."""

    ends: contextlib.ExitStack
    workers: "list[_Workers]"


_KEPT: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let the calls of a block that score alike use the same workers: they start once, and end with the block."""
    with contextlib.ExitStack() as stack:
        token = _KEPT.set(_Kept(stack, []))
        try:
            yield
        finally:
            _KEPT.reset(token)


@contextlib.contextmanager
def _workers(job: Job, n: int) -> "Iterator[_Workers]":
    """Some workers for a call, of whom none has a batch; a block of ``kept`` leaves them to its next call."""
    kept = _KEPT.get()
    if kept is None:
        with _Workers(job, n) as workers:
            yield workers
        return
    those = [some for some in kept.workers if (some.job, some.n) == (job, n)]
    if not those:
        those = [kept.ends.enter_context(_Workers(job, n))]
        kept.workers.extend(those)
    try:
        yield those[0]
    finally:
        those[0].leave()


class _Worker:
    """One process after the other, the batch that it has, and how far it is."""

    def __init__(self, job: Job, slot: int, shared: IO[bytes], now: "memoryview[int]") -> None:
        self.job, self.slot, self.shared, self.now = job, slot, shared, now
        self.batch: Batch | None = None
        self.n_lost = 0
        self.start()

    def start(self) -> None:
        """Start the process; it answers by a connection of its own."""
        self.now[self.slot] = self.call = 0
        self.since, self.is_gone = time.monotonic(), False
        self.connection, theirs = multiprocessing.Pipe()
        fds = (theirs.fileno(), self.shared.fileno())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *map(str, (*fds, self.slot, os.getpid()))],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                env={"PYTHONHASHSEED": "0"} | os.environ,  # sets of names in the same order in each
                start_new_session=True,  # an interrupt of the terminal is for the parent; and whatever it starts ends
            )
        self._send(sys.path)
        self._send(self.job)

    def take(self, batch: Batch) -> None:
        """Have a batch judged."""
        self.batch, self.since = batch, time.monotonic()
        self._send(batch)

    def _send(self, what: Any) -> None:
        try:
            self.connection.send(what)
        except OSError:  # it ended before it could read
            self.is_gone = True

    def parts(self) -> Iterator[Judged]:
        """Yield what has come back, without waiting."""
        try:
            while self.batch is not None and self.connection.poll():
                part, printed = self.connection.recv()
                if isinstance(part, str):
                    raise TaskError(part)
                sys.stdout.write(printed)
                n = len(part.values[0])
                self.batch, self.n_lost = self.batch.after(n, {}) if n < len(self.batch) else None, 0
                yield part
        except (EOFError, OSError):
            self.is_gone = True

    def mended(self) -> Failure | None:
        """Put a new process in the place of one that ended, or that nothing but this ends: the call it was in, or null.

        Raises:
            TaskError: It ended in no call, twice on one row.
        """
        if self.batch is None:
            return None
        call, at = self.now[self.slot], time.monotonic()
        if call != self.call:
            self.call, self.since = call, at
        is_late = bool(call) and at - self.since > self.job.timeout_s + GRACE_S
        if self.is_gone or self.process.poll() is not None:
            is_late = False
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)  # its connection ends a moment before it does
        elif not is_late:
            return None
        self.end()
        why = calls.too_long(self.job.timeout_s) + _UNINTERRUPTED if is_late else _how(self.process.returncode)
        last = self.now[self.slot]
        is_over = is_late and last != call  # at the last moment it went on: nobody is to blame
        failure = calls.ended(self.job, self.batch, last, why) if last and not is_over else None
        self.n_lost += failure is None and not is_over
        if self.n_lost > 1:
            row = self.batch.columns["custom_id"][0]
            raise TaskError(
                f"a worker of {self.job.path.name} ended near row {row!r}, in none of its scorers: {why}. "
                "Score in this process, where Python says more: scoring.score(..., n_workers=1)."
            )
        self.start()
        self.take(self.batch.after(0, {last: failure} if failure else {}))
        return failure

    def end(self) -> None:
        """End the process, and what it started."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _Workers:
    """Some workers, as many as there is work for; they end with the block."""

    def __init__(self, job: Job, n: int) -> None:
        self.job, self.n, self.all = job, n, list[_Worker]()

    def __enter__(self) -> "_Workers":
        self.shared = tempfile.TemporaryFile()
        self.shared.truncate(8 * self.n)
        self.memory = mmap.mmap(self.shared.fileno(), 8 * self.n)
        self.now = memoryview(self.memory).cast("q")
        return self

    @property
    def busy(self) -> list[_Worker]:
        """Those that have a batch."""
        return [worker for worker in self.all if worker.batch is not None]

    def free(self) -> _Worker | None:
        """Return a worker without a batch, a new one if there may be more."""
        for worker in self.all:
            if worker.batch is None:
                return worker
        if len(self.all) == self.n:
            return None
        slot = min({*range(self.n)} - {worker.slot for worker in self.all})
        self.all.append(_Worker(self.job, slot, self.shared, self.now))
        return self.all[-1]

    def leave(self) -> None:
        """End those that have a batch of a call which was cut off."""
        for worker in self.busy:
            worker.end()
        self.all = [worker for worker in self.all if worker.batch is None]

    def looked_at(self) -> list[_Worker]:
        """Return the busy ones, as soon as one of them says something, or after a while."""
        connection.wait([worker.connection for worker in self.busy], timeout=_EVERY_S)
        return self.busy

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.end()
        self.now.release()
        self.memory.close()
        self.shared.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended its process (exit code {code})"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    more = ", as where memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{more}"


def work(messages: "connection.Connection[Any, Any]", shared: int, slot: int, parent: int) -> None:
    """Judge what comes until nothing more does: the worker's side.

    Args:
        messages: Sends the job, then batches; takes what is said of them.
        shared: File descriptor of the memory in which the number of the call is written.
        slot: Where in it.
        parent: Process without which this one ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(parent)
    os.set_inheritable(messages.fileno(), False)
    os.set_inheritable(shared, False)
    now = memoryview(mmap.mmap(shared, 0)).cast("q")[slot : slot + 1]
    job = messages.recv()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            loaded = tasks.of_source(job.path, job.source)
        except TaskError as error:
            messages.send((str(error), ""))
            return
        printed.truncate(printed.seek(0))  # whoever loaded the file has seen it
        scorers = {name: loaded.own[job.kind][name] for name in job.wanted}
        with calls.limited(job.timeout_s, now):
            while True:
                try:
                    batch = messages.recv()
                except EOFError:
                    os._exit(0)  # what a task file left running does not hold it up
                for part in calls.judged(job, batch, scorers, now=now, every_s=_EVERY_S):
                    messages.send((part, printed.getvalue()))
                    printed.truncate(printed.seek(0))


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even if that is killed, and even in a call that no signal interrupts."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of sys/prctl.h

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
