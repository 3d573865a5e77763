"""Scorers called on rows: what each is given, what it says, and what it says when it fails.

A batch of three rows, as ``scoring`` cuts it, with what a scorer asks for still as the table holds it::

    Batch(start=1000, columns={"custom_id": ["a", "b", "c"], "output": ["7", None, "8"]}, metadata=['{"gt": 7}', …])

It works in the process of whoever scores and in those that ``workers`` starts, and gives the same in both; polars,
which takes longer to import than most rows to score, is not needed here. This module does not know tables or weights.
"""

import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arislab import task as tasks
from arislab.system import json_text
from arislab.task import Scorer

GOLD = "gold"
"""Column of reference answers: kept at import, or of the candidate's profile; a scorer that cannot do
without it (no default) says nothing of a row that has none."""
PARSED = ("profile", "tools", "tool_calls")
"""Columns of JSON that scorers are given as values."""


@dataclass(frozen=True)
class Job:
    """Which scorers are called, and with what."""

    path: Path
    """The task file."""
    source: str
    """Its text."""
    kind: str
    """Where in the file the scorers stand: SCORERS or REPORT."""
    wanted: Mapping[str, list[str]]
    """Name of each scorer to the columns that it is given."""
    needs_gold: frozenset[str]
    """Scorers that say nothing of a row without a reference answer."""
    reserved: frozenset[str]
    """Names that mean something else than what was kept at import."""
    timeout_s: float
    """Seconds that a scorer may take for a row."""


@dataclass(frozen=True)
class Failure:
    """A scorer could not be used on a row."""

    row: int
    scorer: str
    what: str
    """Kind and text of the error, and its line; equal for errors of one kind."""
    message: str
    """The whole, with the row and what it holds."""


@dataclass(frozen=True)
class Batch:
    """Some rows that follow each other."""

    start: int
    """Place of the first one among all rows."""
    columns: dict[str, list[Any]]
    """custom_id, output, and what scorers ask for, as the table holds it."""
    metadata: list[str | None]
    """What was kept at import with each row, JSON; empty if nobody asks for it."""
    failed: dict[int, Failure] = field(default_factory=dict)
    """Number of a call (see ``numbered``) that ended a worker: it is not made again."""

    def __len__(self) -> int:
        return len(self.columns["output"])

    def after(self, n: int, failed: dict[int, Failure]) -> "Batch":
        """Return what is left behind the first ``n`` rows."""
        columns = {name: column[n:] for name, column in self.columns.items()}
        return Batch(self.start + n, columns, self.metadata[n:], self.failed | failed)


@dataclass
class Judged:
    """What scorers said of rows that follow each other."""

    start: int
    values: list[list[float | None]]
    """For each scorer one value per row; null: could not tell, or failed."""
    failures: list[Failure]


def numbered(job: Job, number: int) -> tuple[int, str]:
    """Return the row and the scorer of a call; calls are numbered from 1 over all rows, scorers within rows."""
    row, scorer = divmod(number - 1, len(job.wanted))
    return row, list(job.wanted)[scorer]


def judged(
    job: Job, batch: Batch, scorers: Mapping[str, Scorer], *, now: "memoryview[int]", every_s: float | None = None
) -> Iterator[Judged]:
    """Yield what the scorers say of a batch, in one piece or in several.

    Args:
        job: What each is given.
        batch: The rows.
        scorers: Name to function.
        now: Its first entry is the number of the call that is being made, 0 in between.
        every_s: Yield what there is after this many seconds; default: at the end.
    """
    columns, n_scorers, failed = _given(job, batch), len(scorers), batch.failed
    needing = job.needs_gold if GOLD in columns else frozenset[str]()
    outputs, gold, ids = batch.columns["output"], columns.get(GOLD, []), batch.columns["custom_id"]
    plan = [
        (k, name, tasks.bound(scorers[name], wanted), _rows([columns[c] for c in wanted], len(batch)), name in needing)
        for k, (name, wanted) in enumerate(job.wanted.items(), 1)
    ]
    part, since = Judged(batch.start, [[] for _ in plan], []), time.monotonic()
    # row by row, so that a task file can parse an output once and keep it for its next scorer
    for i, output in enumerate(outputs):
        base = (batch.start + i) * n_scorers
        for k, name, scorer, given, needs_gold in plan:
            value: Any = None
            # what cannot be compared is not told, without the scorer's asking
            if output is None or (needs_gold and gold[i] is None):
                pass
            elif failed and base + k in failed:
                part.failures.append(failed[base + k])
            else:
                row = given[i]
                try:
                    now[0] = base + k
                    value = scorer(*row)
                    now[0] = 0
                except (*tasks.NO_EXIT, TooLongError) as error:  # foreign code: whatever it raises stops here
                    now[0] = 0
                    value = _raised(job, name, error, row, ids[i], batch.start + i)
                # the most frequent, a million times
                if value is not None and not (type(value) is float and 0 <= value <= 1):
                    value = _read(job, name, value, row, ids[i], batch.start + i)
                    if isinstance(value, Failure):
                        part.failures.append(value)
                        value = None
            part.values[k - 1].append(value)
        if every_s is not None and time.monotonic() - since > every_s:
            yield part
            part, since = Judged(batch.start + i + 1, [[] for _ in plan], []), time.monotonic()
    if part.values[0]:
        yield part


def _rows(columns: Sequence[Sequence[Any]], n: int) -> list[tuple[Any, ...]]:
    """The values of columns, row by row."""
    return list(zip(*columns, strict=True)) if columns else [()] * n


def _raised(job: Job, name: str, error: BaseException, row: Sequence[Any], custom_id: str, place: int) -> Failure:
    holds = dict(zip(job.wanted[name], row, strict=True))
    function, what = f"scorer {name!r}", tasks.error_text(error, str(job.path))
    failed = tasks.failure(error, file=job.path, function=function, row=f"row {custom_id!r}", holds=holds)
    return Failure(place, name, what, str(failed))


def _read(job: Job, name: str, value: Any, row: Sequence[Any], custom_id: str, place: int) -> float | Failure | None:
    """A score of another type, or why it is none."""
    if isinstance(value, Failure):
        return value
    try:
        return tasks.fraction(value)
    except TypeError:
        holds = dict(zip(job.wanted[name], row, strict=True))
        message = (
            f"scorer {name!r} of {job.path.name} returned {tasks.in_short(value)} on row {custom_id!r}; "
            f"it must return 0..1, a bool, or None for 'cannot tell'; {tasks.shown(holds)}"
        )
        return Failure(place, name, f"returned {tasks.in_short(value, 60)}, which is not in 0..1", message)


def ended(job: Job, batch: Batch, number: int, why: str) -> Failure:
    """Return what to say of a call that its process did not survive."""
    row, name = numbered(job, number)
    columns, i = _given(job, batch), row - batch.start
    holds = tasks.shown({c: columns[c][i] for c in job.wanted[name]})
    where = f"scorer {name!r} of {job.path.name} failed on row {batch.columns['custom_id'][i]!r}"
    return Failure(row, name, why, f"{where}: {why}; {holds}")


class TooLongError(BaseException):
    """A scorer took more than its time; no ``except Exception`` of a task file holds it up."""


def too_long(timeout_s: float) -> str:
    """Return what is said of a call that took too long."""
    return f"it took more than {timeout_s:g} s for this row (scorer_timeout_s)"


@contextmanager
def limited(timeout_s: float, now: "memoryview[int]") -> Iterator[None]:
    """Raise ``TooLongError`` in a call that takes too long; it works in the main thread only.

    A look at the clock now and then costs nothing, a timer for each of a million calls costs seconds.

    Args:
        timeout_s: What a call may take.
        now: As in ``judged``.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    call, since = 0, 0.0

    def look(*_: object) -> None:
        nonlocal call, since
        if now[0] != call:
            call, since = now[0], time.monotonic()
        elif call and time.monotonic() - since >= timeout_s:
            since = time.monotonic()
            raise TooLongError(too_long(timeout_s))

    before, every_s = signal.signal(signal.SIGALRM, look), min(max(timeout_s / 20, 0.002), 1.0)
    try:
        signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clock() -> "memoryview[int]":
    """Return a place for the number of the call that is being made."""
    return memoryview(array("q", [0]))


def _given(job: Job, batch: Batch) -> dict[str, list[Any]]:
    """What scorers are given of each row, by column."""
    kept = kept_of(batch.metadata, job.reserved)
    return {name: _column(batch, kept, name) for name in dict.fromkeys(c for w in job.wanted.values() for c in w)}


def kept_of(
    metadata: list[str | None], reserved: frozenset[str], *, read: Callable[[str], Any] = json_text.stored
) -> list[dict[str, Any]]:
    """Return what was kept at import with each row, but for the names that mean something else."""
    kept = [read(text) if text else {} for text in metadata]
    return [{name: value for name, value in values.items() if name not in reserved} for values in kept]


def _column(batch: Batch, kept: list[dict[str, Any]], name: str) -> list[Any]:
    own = batch.columns.get(name) or [None] * len(batch)
    if name == GOLD:
        return _golden(own, batch.columns.get("profile"), kept)
    if any(name in values for values in kept):
        return [values.get(name, other) for values, other in zip(kept, own, strict=True)]
    return [json_text.stored(v) if isinstance(v, str) else v for v in own] if name in PARSED else own


def _golden(own: list[Any], profiles: list[Any] | None, kept: list[dict[str, Any]]) -> list[Any]:
    """The reference answer of each row: as it was kept at import, as the row has it, else as the profile holds it."""
    golden = []
    for i, (value, profile) in enumerate(zip(own, profiles or [None] * len(own), strict=True)):
        of_import = kept[i].get(GOLD) if kept else None
        known = of_import if of_import is not None else value  # in the frame it is text
        if known is None and profile is not None and GOLD in profile:
            known = (json_text.stored(profile) if isinstance(profile, str) else profile).get(GOLD)
        golden.append(known)
    return golden
