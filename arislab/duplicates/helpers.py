"""Processes that write the normal forms of texts: in one process a loop of Python keeps all its threads waiting.

A helper is a program of its own, as a worker of scorers is; texts go to it, and their normal forms come back. It ends
with the block that uses it, and with the process that started it. Without one the loop is gone through here.
"""

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
from typing import Any

from arislab.normal import canonical

_START = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from arislab.normal import canonical
while True:
    try:
        texts = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump([canonical(text) for text in texts], sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()
"""
"""It answers lists of texts until no more come. Nothing is imported but the normal form: so it starts at once."""


class Helpers:
    """Some helpers, each started when there is work that no other is free for."""

    def __init__(self, n: int) -> None:
        self._n, self._all = n, list[subprocess.Popen[bytes]]()
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def __enter__(self) -> "Helpers":
        return self

    def forms(self, texts: list[str]) -> list[str]:
        """Return ``arislab.normal.canonical`` of each text; called from as many threads as there are helpers."""
        helper = self._taken() if len(texts) >= _FEW else None
        if helper is not None:
            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):  # it ended, as where memory runs out
                _send(texts, helper.stdin)
                forms: list[str] = pickle.load(helper.stdout)  # type: ignore[arg-type] # it has one
                self._idle.put(helper)
                return forms
        return [canonical(text) for text in texts]

    def _taken(self) -> subprocess.Popen[bytes] | None:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if len(self._all) == self._n:
                return None
            helper = subprocess.Popen(
                [sys.executable, "-P", "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # an interrupt of the terminal is for whoever started it
            )
            self._all.append(helper)
        with contextlib.suppress(OSError):
            _send(sys.path, helper.stdin)
        return helper

    def __exit__(self, *_: object) -> None:
        for helper in self._all:
            helper.kill()
            with contextlib.suppress(OSError):  # what it has not read
                helper.stdin.close()  # type: ignore[union-attr]
            helper.stdout.close()  # type: ignore[union-attr]
            helper.wait()


_FEW = 20
"""Texts that are sooner gone through here."""


def _send(what: Any, stream: Any) -> None:
    pickle.dump(what, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()
