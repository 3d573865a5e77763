"""Who writes to a table next: one after the other, as far as they know of each other.

Commits are safe without (``storage``), but each that comes second is work for nothing, and whoever takes longer than
the others would come second for ever. The writers of one machine wait for a lock. Those of several machines, below a
URL, whose store has no locks, collide once; who did so, or finds that others did, puts an object beside the table and
waits until its is the oldest:

    s3://bucket/lab/.turns/candidates/1796021334.052116-6f1c09aa

A machine that died is waited for no longer than its object is young. This module does not know what is written.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import random
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.lake.places import Place, Url
from arislab.system import files

_TURN_S = 120.0
"""Longest that a writer waits for its turn; then it tries without."""
_DEAD_S, _ALIVE_S = 45.0, 15.0
"""Age at which an object of a machine counts no more, and after which one that waits or writes is put again."""
_PAUSE_S = 0.1, 0.3


@contextlib.contextmanager
def turn(folder: Place) -> Iterator[None]:
    """Wait until no other writer of arislab on this machine is at work on this table."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no lock where the file system has none, or the folder is not ours
            _wait_for(held.enter_context(files.opened(_lock_of(folder))))
        yield


def _lock_of(folder: Place) -> Path:
    """The file that who writes to a table locks; the folder around it is made."""
    if isinstance(folder, Url):
        locks = Path(tempfile.gettempdir()) / f"arislab-{os.getuid()}"
        locks.mkdir(mode=0o700, exist_ok=True)
        return locks / hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    locks = folder.parent / ".locks"
    locks.mkdir(exist_ok=True)
    return locks / folder.name


def _wait_for(file: Any) -> None:
    until = time.monotonic() + _TURN_S  # asked again and again, as a flock that waits knows no time limit
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.005)
    return None


class Queue:
    """A writer among those of other machines; in a folder, whose writers have a lock, nobody is waited for."""

    def __init__(self, folder: Place) -> None:
        self._around = folder.parent / ".turns" / folder.name if isinstance(folder, Url) else None
        # by this machine's clock: another that goes wrong costs fairness and no row
        self._name = f"{time.time():017.6f}-{secrets.token_hex(4)}"
        self._put_at: float | None = None

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_: object) -> None:
        if self._around is not None and self._put_at is not None:
            with contextlib.suppress(PrerequisiteError):  # of a store that is gone; the object grows old
                (self._around / self._name).unlink()

    def wait(self, *, is_crowded: bool = False) -> None:
        """Return when those who came before have written, or seem to be gone; at once where nobody waits.

        Args:
            is_crowded: Others write too, as a collision has shown: wait in line with them.
        """
        until = time.monotonic() + _TURN_S
        while self._around is not None and time.monotonic() < until:
            if is_crowded:
                self._put(self._around)
            at = {path.name: path.stat().st_mtime_ns / 1e9 for path in self._around.iterdir()}
            mine = at.pop(self._name, None)
            if mine is None:
                if not at:
                    return
                is_crowded = True
                continue
            dead = {name for name, then in at.items() if mine - then > _DEAD_S}  # by the store's clock
            for name in dead:
                (self._around / name).unlink()
            if all(self._name < name for name in at.keys() - dead):
                return
            time.sleep(random.uniform(*_PAUSE_S))

    def _put(self, around: Url) -> None:
        if self._put_at is None or time.monotonic() - self._put_at > _ALIVE_S:
            (around / self._name).write(io.BytesIO(b"1"))
            self._put_at = time.monotonic()
