"""Processes of a Python that has imported what they need: a fork takes milliseconds, the libraries of training seconds.

`python -m arislab.system.forking MODULE…` imports the modules and then forks a process for each line on its stdin,
{"arguments": ["-m", "arislab.finetune.worker", "spec.json"], "environment": {…}, "log": "log.txt", "folder": "/lab"},
as if `python ARGUMENTS` was started in that folder. It answers {"pid": 17}, and {"pid": 17, "code": 0} when that ended.
It ends with its stdin, when its processes have, or after a while without any.

No module may start threads that it needs later: a fork has none of them. Polars does, so it is not for here.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NOT_READ = ("ARISLAB_", "OPENAI_", "PYTEST_", "JPY_", "_")  # by a library at its import; any other may be
_IDLE_S = 120.0


class Forks:
    """A Python that has imported modules, and the processes that are forks of it.

    Args:
        modules: Their names.
    """

    def __init__(self, *modules: str) -> None:
        self._modules, self._lock = modules, threading.Lock()
        self._pythons: list[_Python] = []  # the last is in use, the others end when their forks have

    def start(self, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> "Fork":
        """Start `python ARGUMENTS` (-m MODULE, -c CODE or a path, and what follows).

        Args:
            arguments: Of the command line.
            environment: Of the process; of another one that libraries read at their import a new Python is started.
            log: File for its output; stdin is empty.

        Raises:
            EOFError: The modules cannot be imported; a process without them says why.
        """
        order: dict[str, Any] = {"arguments": list(arguments), "environment": dict(environment)}
        order |= {"log": str(log), "folder": str(Path.cwd())}
        with self._lock:
            for _ in range(2):
                python = self._ready(environment)
                with contextlib.suppress(BrokenPipeError, EOFError):  # the first may have gone for want of work
                    return Fork(python, python.fork(order))
        raise EOFError(f"a Python with {', '.join(self._modules)} ended")

    def _ready(self, environment: Mapping[str, str]) -> "_Python":
        key = _key(environment)
        for python in (gone := [python for python in self._pythons if not python.is_alive()]):
            python.close()
        self._pythons = [python for python in self._pythons if python not in gone]
        if not self._pythons or self._pythons[-1].key != key:
            for python in self._pythons:
                python.leave()
            self._pythons.append(_Python(self._modules, environment, key))
            atexit.unregister(self.close)
            atexit.register(self.close)
        return self._pythons[-1]

    def close(self) -> None:
        """Let each Python end, when its forks have; wait for those that have none."""
        for python in self._pythons:
            python.leave()
        until = time.monotonic() + 2
        while any(python.is_alive() for python in self._pythons) and time.monotonic() < until:
            time.sleep(0.01)
        for python in self._pythons:
            python.close()


def _key(environment: Mapping[str, str]) -> str:
    """Return what a process started now would have of its own: in another one, another Python is needed."""
    early = {name: value for name, value in environment.items() if not name.startswith(_NOT_READ)}
    limits = [resource.getrlimit(n) for name, n in vars(resource).items() if name.startswith("RLIMIT_")]
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    rights = [line for line in status if line.startswith(("Umask", "Uid", "Gid", "Cpus_allowed:"))]
    packages = [Path(place) for place in sys.path if place.endswith("-packages")]  # what pip installs changes them
    installed = [folder.stat().st_mtime_ns for folder in packages if folder.is_dir()]
    # the pid, as a fork of this very process has the pipes of its parent
    facts = [os.getpid(), str(Path.cwd()), sorted(early.items()), limits, rights, os.getpriority(os.PRIO_PROCESS, 0)]
    return json.dumps([*facts, installed])


class _Python:
    """The server's other end."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], key: str) -> None:
        self.key, self._lock = key, threading.Lock()
        self._codes: dict[int, int] = {}
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def fork(self, order: Mapping[str, Any]) -> int:
        """Have a process started, and return its number."""
        pid = None
        try:
            self._in.write(json.dumps(order).encode() + b"\n")
            self._in.flush()
            with self._lock:
                while pid is None:
                    pid = next((int(line["pid"]) for line in self._lines(timeout=None) if "code" not in line), None)
        finally:
            if pid is None:  # interrupted: the next answer would be to this order
                self.key = ""
                self.leave()
        if pid == 0:
            raise EOFError  # the system gives it no more processes
        return pid

    def code(self, pid: int) -> int | None:
        """Return the exit code of a process; null while it runs."""
        is_alive = self.is_alive()  # before what it said is read
        self._read()
        if pid in self._codes:
            return self._codes[pid]
        # without it nobody knows, and what it forked ends when it sees that
        return None if is_alive else self._process.returncode or 1

    def _read(self) -> None:
        """Read what it has said; nothing of a pipe that was closed, after it was read to its end."""
        with self._lock, contextlib.suppress(EOFError, ValueError):
            while self._lines(timeout=0):
                pass

    def _lines(self, *, timeout: float | None) -> list[dict[str, Any]]:
        """Return what it said since the last call, and keep the exit codes."""
        if not select.select([self._out], [], [], timeout)[0]:
            return []
        if not (read := os.read(self._out.fileno(), 65_536)):
            raise EOFError
        *whole, self._rest = (self._rest + read).split(b"\n")
        lines = [json.loads(line) for line in whole]
        for line in lines:
            self._codes.pop(line["pid"], None)  # of an earlier process with this number
            if "code" in line:
                self._codes[line["pid"]] = line["code"]
        return lines

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def leave(self) -> None:
        """Let it end when its forks have."""
        with contextlib.suppress(BrokenPipeError):
            self._in.close()

    def close(self) -> None:
        self.leave()
        self._read()
        with self._lock:
            self._out.close()


class Fork:
    """A process, with the methods of subprocess.Popen that a supervisor needs."""

    def __init__(self, python: _Python, pid: int) -> None:
        self._python, self.pid = python, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; null while it runs."""
        if self.returncode is None:
            self.returncode = self._python.code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: It has not ended by then.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.02)
        return code

    def terminate(self) -> None:
        """Send SIGTERM, if it still runs."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


# ---- the server ------------------------------------------------------------------------------------------------------


def _serve(modules: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal or kernel sends it to all; its forks are told
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that the forks share the pages
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: set[int] = set()
    orders, is_open = b"", True
    while is_open or running:
        ready, _, _ = select.select([0, ended] if is_open else [ended], [], [], _IDLE_S)
        if not ready and not running:
            return
        if ended in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(ended, 4096)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            running.discard(pid)
            _say(pid=pid, code=os.waitstatus_to_exitcode(status))
        if 0 in ready:
            read = os.read(0, 1 << 20)
            is_open = bool(read)
            *whole, orders = (orders + read).split(b"\n")
            for line in whole:
                order = json.loads(line)
                try:
                    pid = os.fork()
                except OSError:
                    _say(pid=0)
                    continue
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    os.close(ended)
                    os.close(wake)
                    _run(order)
                running.add(pid)
                _say(pid=pid)


def _say(**words: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(1, json.dumps(words).encode() + b"\n")


def _run(order: dict[str, Any]) -> None:
    """Be the process that was ordered, and end."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        what, *rest = order["arguments"]
        if what == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [what, *rest]
            sys.path[0] = str(Path(what).resolve().parent)
            runpy.run_path(what, run_name="__main__")
        code = 0
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)  # noqa: T201
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        if sys.exc_info()[1] is not None:  # Python prints any error and ends with 1, and so does this
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1:])
