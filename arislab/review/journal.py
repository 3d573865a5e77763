"""What people decide, on disk before it is in the lake: a file for each process and reviewer, folded in batches.

One real line of one::

    {"event_id": "4be1…", "custom_id": "r-0b6f…", "reviewer": "Ada", "decision": "approve", "seq": 1790035200000000,
     "decided_at": "2026-11-28T08:00:00.000000+00:00", …}

A decision, or a vote, is acknowledged once its line is on the disk; to commit each one to a Delta table would cost a
file and some 0.1 s. One process writes a journal, and holds it locked while it lives: what is not locked has come to
its end, and goes once the table holds it. This module does not know the lake, nor what a decision means.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arislab.errors import LakeError, ParameterError
from arislab.review import decisions, votes
from arislab.system import files


@dataclass(frozen=True)
class Form:
    """What events a journal holds."""

    ending: str
    """Of its file."""
    schema: Mapping[str, Any]
    required: tuple[str, ...]
    allowed: Mapping[str, tuple[str | None, ...]]
    """Column to the values that it may have."""
    least: Mapping[str, float]
    """Column to the lowest number that it may hold."""

    @property
    def times(self) -> list[str]:
        """Columns that hold a time."""
        return [name for name, dtype in self.schema.items() if isinstance(dtype, pl.Datetime)]


DECISIONS = Form(
    ending=".jsonl",
    schema=decisions.SCHEMA,
    required=("event_id", "custom_id", "reviewer"),
    allowed={
        "decision": (*decisions.VERDICTS, "label", "flag", "skip", "undo"),
        "planted": (None, "gold", "repeat"),
    },
    least={"seq": 0, "dwell_ms": 0, "client_seq": 1, "inclusion_prob": 0},
)
"""Decisions about answers: the table ``reviews``."""
VOTES = Form(
    ending=".votes",
    schema=votes.SCHEMA,
    required=("event_id", "pair_id", "reviewer"),
    allowed={"vote": votes.VOTES},
    least={"seq": 0, "dwell_ms": 0, "client_seq": 1},
)
"""Votes about pairs of answers: the table ``arm_votes``."""


class Events(Protocol):
    """The table that journals are folded into, such as ``lake["reviews"]``."""

    @property
    def exists(self) -> bool:
        """Whether anything was written to it."""

    def read(self, *, columns: list[str]) -> pl.DataFrame:
        """Return columns of all rows."""

    def append(self, frame: pl.DataFrame) -> object:
        """Add rows, in one commit."""


class Journal:
    """What one reviewer decides in one process, in a file of its own.

    The file is made at the first decision.

    Args:
        folder: Of the session; made if absent.
        reviewer: Who decides.
        form: What they decide.

    Example:
        >>> import tempfile
        >>> from arislab.review import decisions
        >>> folder = Path(tempfile.mkdtemp())
        >>> made = decisions.event({"custom_id": "r-1"}, "skip", reviewer="Ada")
        >>> Journal(folder, reviewer="Ada").append(made.to_dicts())
        >>> read(folder).select("custom_id", "decision").rows()
        [('r-1', 'skip')]
    """

    def __init__(self, folder: Path, *, reviewer: str, form: Form = DECISIONS) -> None:
        self.folder, self.reviewer, self.form = Path(folder), reviewer, form
        self._descriptor: int | None = None
        self.close: Callable[[], object] = lambda: None
        """Give the journal up, as its end does; the next fold removes it."""

    def append(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write events, in the columns of the form; they are on the disk when this returns.

        Raises:
            ParameterError: One of them is none that the table could take; nothing was written.
            OSError: They are not, and nothing of them stays in the journal.
        """
        if not events:
            return
        if why := _fault(events, self.form):
            raise ParameterError(f"{why}. Nothing was written to the review journal in {self.folder}; decide again.")
        if self._descriptor is None:
            self._descriptor = self._made()
            self.close = weakref.finalize(self, os.close, self._descriptor)
        lines = b"".join(_line(event, self.form) for event in events)
        end = os.fstat(self._descriptor).st_size
        try:
            if (written := os.write(self._descriptor, lines)) != len(lines):
                raise OSError(
                    errno.ENOSPC, f"only {written:,} of {len(lines):,} bytes could be written", str(self.folder)
                )
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)  # half a line in the middle would spoil the next one
            raise

    def _made(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{hashlib.sha256(self.reviewer.encode()).hexdigest()[:8]}-{secrets.token_hex(8)}"
        path = self.folder / f"{name}{self.form.ending}"
        part = files.beside(path)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            part.rename(path)  # locked before anyone can find and remove it
            files.sync(self.folder)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _fault(events: Sequence[Mapping[str, Any]], form: Form) -> str:
    """Why the table would not take events; empty if it takes them."""
    for event in events:
        for name, allowed in form.allowed.items():
            if event.get(name) not in allowed:
                known = ", ".join(filter(None, allowed))
                return f"{name} of a decision must be one of {known}, got {event.get(name)!r}"
        for name in form.required:
            if not event.get(name):
                return f"a decision must have {name}, got {event.get(name)!r}"
    try:
        rows = [{name: event.get(name) for name in form.schema} for event in events]
        frame = pl.DataFrame(rows, schema=form.schema)  # one row per event
    except (pl.exceptions.PolarsError, ArithmeticError, TypeError, ValueError) as error:
        return f"a column of a decision holds what does not belong there ({error})"
    for name, least in form.least.items():
        below = frame.filter(pl.col(name) < least)
        if below.height:
            return f"{name} of a decision must be at least {least}, got {below[name][0]}"
    return ""


def _line(event: Mapping[str, Any], form: Form) -> bytes:
    fields = {name: event[name] for name in form.schema if event.get(name) is not None}
    return json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in fields.items()}).encode() + b"\n"


def read(folder: Path, form: Form = DECISIONS) -> pl.DataFrame:
    """Return the events of all journals of a form under a folder, each once, in the columns of the form.

    A last line without its end was never acknowledged, and is no event.

    Args:
        folder: Of a session, or of all of them.
        form: What they hold.

    Raises:
        LakeError: A line is no event.
    """
    once: dict[str, dict[str, Any]] = {}
    for path in _journals(folder, form):
        for event in _events(path, form):
            once.setdefault(event["event_id"], event)
    return pl.DataFrame([*once.values()], schema=form.schema)  # one row per event


def fold(folder: Path, table: Events, form: Form = DECISIONS) -> int:
    """Append to the table what it lacks of the journals of a form, in one commit; return how many events.

    Then journals that nobody writes any more are removed. May be run at any time, by several processes at once.

    Args:
        folder: Of a session, or of all of them.
        table: ``lake["reviews"]``, or the one of the form.
        form: What they hold.

    Raises:
        LakeError: A line is no event, or the table refuses one; no journal was removed.
    """
    if not _journals(folder, form):
        return 0
    with contextlib.ExitStack() as stack, files.opened(Path(folder) / "fold.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one fold at a time: the other finds nothing left to do
        ended = [path for path in _journals(folder, form) if _take(path, stack)]
        events = read(folder, form)
        known = table.read(columns=["event_id"])["event_id"] if table.exists else pl.Series([], dtype=pl.String)
        lacking = events.filter(~pl.col("event_id").is_in(known.implode()))
        if lacking.height:
            table.append(lacking)
        for path in ended:
            path.unlink(missing_ok=True)
    return lacking.height


def _journals(folder: Path, form: Form) -> list[Path]:
    return sorted(Path(folder).rglob(f"*{form.ending}"))


def _take(path: Path, stack: contextlib.ExitStack) -> bool:
    """Lock a journal until the stack ends; false while its process lives."""
    try:
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return False  # a fold of another folder above or below this one was faster
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _events(path: Path, form: Form) -> list[dict[str, Any]]:
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # what stands behind the last line feed is torn, or nothing
    except FileNotFoundError:
        return []
    events = list[dict[str, Any]]()
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            times = {name: datetime.fromisoformat(event[name]) for name in form.times if name in event}
            events.append(event | times)
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise _no_event(path, number, f"{error}") from None
    if _fault(events, form):  # all at once: one by one would take long
        number, why = next((n, why) for n, event in enumerate(events, start=1) if (why := _fault([event], form)))
        raise _no_event(path, number, why)
    return events


def _no_event(path: Path, number: int, why: str) -> LakeError:
    return LakeError(
        f"line {number} of the review journal {path} is no event ({why}); mend or remove the line, then run this again."
    )
