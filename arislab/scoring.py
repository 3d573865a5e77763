"""Scorers to quality: each output gets one number per scorer, and their weighted mean.

A scorer is a function whose parameter names are columns, and that returns 0..1, a bool, or None for "cannot tell".
Unscored is null, never 0: an output that nobody could judge is not a bad output. So is one on which a scorer failed,
and its row says how; only when that happens too often is nothing scored. This module does not know any task.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import polars as pl

from arislab import calls, cluster, questions, workers
from arislab import task as tasks
from arislab.calls import GOLD, Batch, Failure, Job
from arislab.errors import ParameterError, TaskError, closest
from arislab.system import json_text, processes, spilled
from arislab.system.kinds import takes_any_frame
from arislab.task import Scorer, Task

MAX_FAILURES, TIMEOUT_S = 0.01, 10.0
"""Share of the rows on which scorers may fail, and seconds that one may take for a row."""


@takes_any_frame
def rows(raw: pl.DataFrame, candidates: pl.DataFrame | None = None, *, task: Task | None = None) -> pl.DataFrame:
    """Return the columns that scorers may ask for, one row per row of ``raw``.

    What was kept at import goes before what stands under the same name elsewhere, but for the names in ``reserved``.
    Profile and category of a row without messages are about its own question.

    Args:
        raw: Rows of ``training_data_raw``: custom_id, candidate_id, llm_output, and where present input, messages,
            metadata and others, which stay.
        candidates: Rows of ``candidates`` behind them; null: nothing is known of them.
        task: Its category(candidate), if it has one, decides the category of the candidates that have rows here.

    Returns:
        The columns of ``raw``, llm_output as output; from ``candidates`` profile (JSON), company, title, category,
        use_case; from the JSON in metadata each of its keys, as text. ``score`` makes two columns if a scorer asks for
        them: others, the other outputs of the same candidate to the same question; and gold, the reference answer of
        the row or of the candidate's profile.
    """
    frame = raw.rename({"llm_output": "output"})
    if candidates is not None:
        new = [
            c
            for c in ("profile", "company", "title", "category", "use_case")
            if c in candidates.columns and c not in frame.columns
        ]
        # by the names alone: a join of the frames would copy all profiles of a large table
        places = candidates.select("candidate_id").with_row_index("_row")
        places = frame.select("candidate_id").join(places, on="candidate_id", how="left", maintain_order="left")
        frame = frame.hstack(candidates.select(pl.col(new).gather(places["_row"]))) if new else frame
        if "profile" in new:
            frame = frame.with_columns(profile=_profiles(frame))
    taken = _RESERVED if task is None else reserved(task)
    frame = frame.with_columns(_kept(frame, taken))
    if task is not None and task.category is not None and candidates is not None:
        frame = frame.with_columns(category=_categories(frame, candidates, task))
    return spilled.frame(frame)


_FEW_ROWS = 10_000
"""Rows whose values are Python's at a time: of a large table they would be many times what their texts are."""


def _kept(frame: pl.DataFrame, taken: frozenset[str]) -> list[pl.Series]:
    """What was kept at import, one column of texts for each name; where a row has none, what the column holds."""
    parts: list[tuple[int, int, dict[str, list[str | None]]]] = []
    for start in range(0, frame.height if _has_kept(frame) else 0, _FEW_ROWS):
        some = frame.slice(start, _FEW_ROWS)
        kept = calls.kept_of(some["metadata"].to_list(), taken, read=json_text.exact)  # texts keep the file's digits
        texts = {}
        for name in dict.fromkeys(name for values in kept for name in values):
            own = some[name] if name in some.columns else [None] * some.height
            texts[name] = [json_text.as_text(v[name]) if name in v else o for v, o in zip(kept, own, strict=True)]
        parts.append((start, some.height, texts))
    columns, n_rows = [], frame.height
    for name in dict.fromkeys(name for _, _, texts in parts for name in texts):
        if name in frame.columns and frame.schema[name] != pl.String:
            continue  # scorers get the kept values all the same
        own = frame[name] if name in frame.columns else pl.Series([None], dtype=pl.String).new_from_index(0, n_rows)
        held = [pl.Series(some[name], dtype=pl.String) if name in some else own.slice(i, n) for i, n, some in parts]
        columns.append(pl.concat(held, rechunk=True).alias(name))
    return columns


def _categories(frame: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.Series:
    """The category of each row's candidate, asked the question of the row."""
    assert task.category is not None
    asked = frame.select("candidate_id", _asked=_recorded(frame)).with_columns(_question=pl.col("_asked").hash())
    once = asked.unique(["candidate_id", "_question"], maintain_order=True)
    behind = once.join(candidates, on="candidate_id", how="inner", maintain_order="left")
    names = []
    for row in behind.iter_rows(named=True):
        question, _ = row.pop("_asked"), row.pop("_question")
        names.append(task.category(questions.about(tasks.candidate_of(row), question)))
    told = behind.select("candidate_id", "_question", category=pl.Series(names, dtype=pl.String))
    on = ["candidate_id", "_question"]
    return asked.join(told, on=on, how="left", nulls_equal=True, maintain_order="left")["category"]


def _recorded(frame: pl.DataFrame) -> pl.Series:
    """The question that a row answers; null where its messages say it, or nobody knows."""
    if "input" not in frame.columns:
        return pl.Series([None] * frame.height, dtype=pl.String)
    alone = pl.col("messages").is_null() if "messages" in frame.columns else pl.lit(value=True)
    return frame.select(pl.when(alone).then("input")).to_series().cast(pl.String)


def _profiles(frame: pl.DataFrame) -> pl.Series:
    """The profile of each row, with its own question in it; as it was written where that is the same."""
    pairs = frame.select("candidate_id", "profile", _asked=_recorded(frame))
    pairs = pairs.with_columns(_question=pl.col("_asked").hash())
    known = pairs.drop_nulls().unique(["candidate_id", "_question"])
    profiles = []
    for profile, asked in known.select("profile", "_asked").iter_rows():
        candidate = {"profile": json_text.stored(profile)}
        one = questions.about(candidate, asked)
        profiles.append(None if one is candidate else json.dumps(one["profile"], ensure_ascii=False))
    own = known.select("candidate_id", "_question", _own=pl.Series(profiles, dtype=pl.String))
    own = own.filter(pl.col("_own").is_not_null())
    if not own.height:
        return pairs["profile"]
    return (
        pairs.join(own, on=["candidate_id", "_question"], how="left", maintain_order="left")
        .select(pl.coalesce("_own", "profile"))
        .to_series()
    )


_RESERVED = frozenset(
    [
        "attempt",
        "batch_id",
        "candidate_id",
        "created_at",
        "custom_id",
        "edited",
        "group_id",
        "input",
        "llm_output",
        "messages",
        "metadata",
        "others",
        "original_output",
        "output",
        "profile",
        "quality",
        "reason",
        "repaired",
        "request_sha256",
        "run_id",
        "sample",
        "schema_error",
        "scored_sha256",
        "scorer_version",
        "split",
        "stem",
        "task",
        "tool_calls",
        "tools",
    ]
)


def reserved(task: Task) -> frozenset[str]:
    """Return the names under which scorers know something else than a kept column.

    A task decides category and difficulty if it can.
    """
    return _RESERVED | {name for name in ("category", "difficulty") if getattr(task, name) is not None}


@takes_any_frame
def score(
    frame: pl.DataFrame,
    task: Task,
    *,
    max_failures: float = MAX_FAILURES,
    timeout_s: float = TIMEOUT_S,
    n_workers: int = 0,
    engine: str = "",
) -> pl.DataFrame:
    """Score every row with every scorer of the task.

    A scorer fails on a row where it raises, returns something outside 0..1, takes too long, or ends its process. The
    row then has no quality: a mean without that scorer would be of something else than all others. Scores are the same
    whatever the number of workers, for scorers that are functions of their row.

    Args:
        frame: From ``rows``: custom_id, candidate_id, output, what the scorers ask for, and where present the marks of
            ``structured.check`` and ``curate.verdicts.edited``.
        task: Its scorers and their weights.
        max_failures: Share of the rows with an output on which scorers may fail, 0..1.
        timeout_s: Seconds that a scorer may take for a row; without workers measured in the main thread only, where
            notebooks run, and not in a call that no signal interrupts.
        n_workers: Processes that score, each with the task file loaded; 0: one per core, and none beside this one for
            a few rows; 1: this one alone, as for scorers that the task file does not define.
        engine: Who scores in place of workers, as ``cluster.connect`` takes it; empty: nobody.

    Returns:
        One row per row of ``frame``: custom_id, scorer_version, candidate_id, task, score_<scorer> (Float64, 0..1, null
        = could not tell, or failed), quality (weighted mean over the scorers that could tell, null if none could, one
        failed, or there is no output), reason (of a null quality; after ``task.FAILED`` the scorer, the error and its
        line); schema_error, repaired and edited as they came.

    Raises:
        TaskError: A scorer asks for a column that is not there, or scorers fail on more rows: with the most frequent
            errors, and a row of each.
        ParameterError: There are no rows.
    """
    if not frame.height:
        raise ParameterError(
            "there is no output to score; run 1_generate, or import outputs (arislab import FILE --as outputs)."
        )
    values, failures = _values(
        frame,
        task,
        "SCORERS",
        task.scorers,
        timeout_s=timeout_s,
        n_workers=n_workers,
        most=max_failures,
        engine=engine,
    )
    _refuse(failures, frame, max_failures)
    scores = [column.alias(f"score_{name}") for name, column in values.items()]
    total, mean = weighted_mean(task.weights)
    marks = [name for name in ("schema_error", "repaired", "edited") if name in frame.columns]
    failed = _reasons(failures, frame.height)
    out = frame.select("custom_id", "candidate_id", *marks, output=pl.col("output")).with_columns(*scores, failed)
    out = out.with_columns(quality=pl.when((total > 0) & pl.col("_failed").is_null()).then(mean))
    reason = (
        pl.when(pl.col("output").is_null())
        .then(pl.lit("no output"))
        .when(pl.col("_failed").is_not_null())
        .then("_failed")
        .when(pl.col("quality").is_null())
        .then(pl.lit("no scorer could tell"))
    )
    out = out.with_columns(reason=reason, scorer_version=pl.lit(task.version), task=pl.lit(task.name))
    return spilled.frame(out.drop("output", "_failed"))


def weighted_mean(weights: Mapping[str, float]) -> tuple[pl.Expr, pl.Expr]:
    """Return the weight of the signals that could tell, and the mean of what they say (0..1; NaN where none could).

    Args:
        weights: Name of a signal, whose column is ``score_<name>``, to its weight.
    """
    weighted = [(pl.col(f"score_{name}"), weight) for name, weight in weights.items()]
    total = pl.sum_horizontal(*[column.is_not_null() * weight for column, weight in weighted])
    gained = pl.sum_horizontal(*[(column * weight).fill_null(0.0) for column, weight in weighted])
    # rounded: sums in another order differ in the last bit, and rows that tie would not
    return total, (gained / total).clip(0, 1).round(9)


def without(scored: pl.DataFrame, task: Task, *, every: bool = False) -> dict[str, pl.DataFrame]:
    """Return what quality would be without each signal that has a weight; nothing where there is only one.

    Args:
        scored: From ``score``, or from ``judge.Judge.joined``.
        task: As there.
        every: Leave out also each signal without a weight, which changes nothing by itself: where quality is learned.

    Returns:
        Name of what is left out -> custom_id, quality (null where it was, or nothing else could tell).
    """
    votes = {f"judge_{criterion}": weight for criterion, weight in task.votes.items()}
    weights = dict(task.weights) | votes
    signals = [name.removeprefix("score_") for name in scored.columns if name.startswith("score_")]
    left_out = {}
    for name in signals if every else weights:
        if rest := {other: weight for other, weight in weights.items() if other != name}:
            total, mean = weighted_mean(rest)
            known = (total > 0) & pl.col("quality").is_not_null()
            left_out[name] = scored.select("custom_id", quality=pl.when(known).then(mean))
    return left_out


@takes_any_frame
def as_came(scored: pl.DataFrame, rows: pl.DataFrame, task: Task, *, timeout_s: float = TIMEOUT_S) -> pl.DataFrame:
    """Return scored rows with those that a reviewer edited scored as they came: what the reviewer judged.

    Args:
        scored: From ``score``, with edited.
        rows: What was scored, before the edits: as in ``score``.
        task: As there. A scorer that fails on one of them makes its scores null, however many there are.
        timeout_s: As there.
    """
    edited = rows.join(scored.filter("edited"), on="custom_id", how="semi", maintain_order="left")
    if not edited.height:
        return scored
    before = score(edited, task, max_failures=1, timeout_s=timeout_s)
    others = scored.join(before, on="custom_id", how="anti", maintain_order="left")
    return pl.concat([others, before], how="diagonal_relaxed")


def failing(
    frame: pl.DataFrame, task: Task, *, kept: Callable[[], Collection[str]], timeout_s: float = TIMEOUT_S
) -> dict[tuple[str, str], list[Failure]]:
    """Return the failures of each scorer of a task, called on a few rows in a worker; its scores are not looked at.

    Args:
        frame: From ``rows``: a few rows of a table.
        task: Its SCORERS and REPORT.
        kept: Gives the names of what was kept at import with any row of that table; asked if these rows lack a column.
            A scorer that asks for one of those is left out.
        timeout_s: As in ``score``.

    Raises:
        TaskError: A scorer asks for a column that no row has.
    """
    failed: dict[tuple[str, str], list[Failure]] = {}
    for kind, named in (("SCORERS", task.scorers), ("REPORT", task.report)):
        scorers = {name: scorer for name, scorer in named.items() if not isinstance(scorer, str)}
        known = {*frame.columns, "others", GOLD}
        lacking = {name: {*_wanted(frame, task, name, s)} - known for name, s in scorers.items()}
        elsewhere = kept() if any(lacking.values()) else ()
        here = {name: s for name, s in scorers.items() if not lacking[name] or lacking[name] - {*elsewhere}}
        _, all_failed = _values(frame, task, kind, here, timeout_s=timeout_s, n_workers=2, most=frame.height)
        failed |= {(kind, name): [failure for failure in all_failed if failure.scorer == name] for name in here}
    return failed


@takes_any_frame
def report(frame: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Judge every row by the REPORT scorers of the task, which no earlier phase has seen.

    Args:
        frame: As in ``score``.
        task: Its REPORT scorers, each of the same weight: functions, or names of columns that hold scores which
            somebody else gave (0..1; null, as is a column that is not there: not judged). A task without any is judged
            by its SCORERS, which chose the training rows.

    Returns:
        One row per row of ``frame``: custom_id, report_<scorer> (Float64, 0..1, null = could not tell) and report
        (their mean over those that could tell, null where one failed, see ``score``); without REPORT scorers, custom_id
        and report alone, which is the quality of ``score``.

    Raises:
        TaskError: As in ``score``.
        ParameterError: There are no rows.
    """
    if not task.report:
        return score(frame, task).select("custom_id", report="quality")
    functions = {name: judge for name, judge in task.report.items() if not isinstance(judge, str)}
    values, failed = _values(frame, task, "REPORT", functions, timeout_s=TIMEOUT_S, n_workers=0, most=MAX_FAILURES)
    _refuse(failed, frame, MAX_FAILURES)
    for name, column in task.report.items():
        if isinstance(column, str):
            values[name] = _stored(frame, column, task, name)
    columns = [values[name].alias(f"report_{name}") for name in task.report]
    mean = pl.mean_horizontal([column.name for column in columns]).round(9)
    judged = frame.select("custom_id").with_columns(*columns, _reasons(failed, frame.height))
    return judged.with_columns(report=pl.when(pl.col("_failed").is_null()).then(mean)).drop("_failed")


def _stored(frame: pl.DataFrame, column: str, task: Task, name: str) -> pl.Series:
    """Scores as they stand in a column; null where there is none."""
    stored = frame[column].to_list() if column in frame.columns else [None] * frame.height
    scores = []
    for custom_id, value in zip(frame["custom_id"], stored, strict=True):
        try:
            scores.append(tasks.fraction(value))
        except TypeError:
            raise TaskError(
                f"REPORT[{name!r}] of {task.path.name} is the column {column!r}, which holds {tasks.in_short(value)} "
                f"on row {custom_id!r}; a stored score is 0..1, or null."
            ) from None
    return pl.Series(scores, dtype=pl.Float64)


def _refuse(failures: list[Failure], frame: pl.DataFrame, most: float) -> None:
    """Raise if scorers failed on too many rows."""
    n, n_failed = frame["output"].count(), len({failure.row for failure in failures})
    if n_failed <= most * n:
        return
    kinds = Counter((failure.scorer, failure.what) for failure in failures).most_common(3)
    if n_failed == len(failures) == 1:
        told = failures[0].message
    else:
        first = {(failure.scorer, failure.what): failure for failure in reversed(failures)}
        told = f"scorers failed on {n_failed:,} of {n:,} rows, most often: " + "; ".join(
            f"{count:,} times {first[kind].message}" for kind, count in kinds
        )
    raise TaskError(
        f"{told}. Nothing was scored, for scorers may fail on {most:g} of the rows (max_scorer_failures): mend the "
        "scorer, and return None where it cannot tell."
    )


def _reasons(failures: list[Failure], n: int) -> pl.Series:
    """For each row the reason why it has no quality, if scorers failed on it."""
    reasons: list[str | None] = [None] * n
    for failure in failures:
        text = f"{failure.scorer!r}: {failure.what}"
        known = reasons[failure.row]
        reasons[failure.row] = f"{tasks.FAILED}{text}" if known is None else f"{known}; {text}"
    return pl.Series("_failed", reasons, dtype=pl.String)


def _values(
    frame: pl.DataFrame,
    task: Task,
    kind: str,
    scorers: Mapping[str, Scorer],
    *,
    timeout_s: float,
    n_workers: int,
    most: float,
    engine: str = "",
) -> tuple[dict[str, pl.Series], list[Failure]]:
    """What each scorer says of each row, null where there is no output; and where scorers failed."""
    if not scorers:
        return {}, []
    job = _job(frame, task, kind, scorers, timeout_s)
    batches = _batches(frame, task, job)
    values = {name: np.full(frame.height, np.nan) for name in scorers}  # no score is NaN
    failures: list[Failure] = []

    def take(part: calls.Judged) -> None:
        failures.extend(part.failures)
        for name, column in zip(scorers, part.values, strict=bool(part.values)):
            values[name][part.start : part.start + len(column)] = np.array(column, dtype=np.float64)

    n = _n_workers(n_workers, frame, task, kind, scorers)
    most_ended = most * frame["output"].count()
    spread = cluster.connect(engine)
    if spread is not None and _can_be_sent(n_workers, frame, task, kind, scorers):
        some = partial(_judged, job=job, most_ended=most_ended)
        chunks = iter(lambda: list(islice(batches, _BATCHES)), [])
        for part in chain.from_iterable(spread.map(some, chunks)):
            take(part)
    elif n == 1:
        now = calls.clock()
        with calls.limited(timeout_s, now):
            for batch in batches:
                for part in calls.judged(job, batch, scorers, now=now):
                    take(part)
    else:
        for part in workers.judged(job, batches, n_workers=n, most_ended=most_ended):
            take(part)
    places = {name: k for k, name in enumerate(scorers)}
    columns = {name: pl.Series(column, nan_to_null=True) for name, column in values.items()}
    return columns, sorted(failures, key=lambda failure: (failure.row, places[failure.scorer]))


FEW = 200
"""Rows that are scored sooner here than workers start (0.2 s), unless a task is slow."""
_BATCH_ROWS, _BATCH_BYTES = 500, 130_000
"""What is sent to a worker at once, at most: what a socket takes in (200 kB), so that nobody waits while it is read."""
_BATCHES = 32
"""Of these, what is sent to an engine at once: a process that takes .2 s to start is to have work for longer."""


def _judged(batches: list[Batch], *, job: Job, most_ended: float) -> list[calls.Judged]:
    """What the scorers say, in an engine: its process has a worker of its own, which a scorer may take along."""
    return list(workers.judged(job, batches, n_workers=1, most_ended=most_ended))


def _n_workers(asked: int, frame: pl.DataFrame, task: Task, kind: str, scorers: Mapping[str, Scorer]) -> int:
    """How many processes score: 1 is this one, where functions that no file defines can be called too."""
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise ParameterError(f"n_workers must be a whole number from 0 on, got {asked!r}; 0 is one per core.")
    return (asked or processes.cores()) if _can_be_sent(asked, frame, task, kind, scorers) else 1


def _can_be_sent(asked: int, frame: pl.DataFrame, task: Task, kind: str, scorers: Mapping[str, Scorer]) -> bool:
    """Whether another process can score these rows, and would be the sooner."""
    own = task.own.get(kind, {})
    is_of_file = all(own.get(name) is scorer for name, scorer in scorers.items())
    is_worth_it = bool(asked) or frame.height >= FEW
    return is_of_file and sys.platform != "win32" and pl.Object not in frame.dtypes and is_worth_it


def _job(frame: pl.DataFrame, task: Task, kind: str, scorers: Mapping[str, Scorer], timeout_s: float) -> Job:
    wanted = {name: _wanted(frame, task, name, scorer) for name, scorer in scorers.items()}
    known, file = {*frame.columns, "others", GOLD}, task.path.name
    lacking = [(column, name) for name, columns in wanted.items() for column in columns if column not in known]
    if lacking:  # a table that ``rows`` has not made may hold it in its metadata alone
        kept = calls.kept_of(frame["metadata"].to_list(), reserved(task)) if _has_kept(frame) else []
        lacking = [(column, name) for column, name in lacking if not any(column in values for values in kept)]
    for column, name in lacking[:1]:
        raise TaskError(
            f"scorer {name!r} of {file} asks for the column {column!r}, which the rows do not have; "
            f"{closest(column, [*frame.columns, 'others'])}. "
            "Rename the parameter, or keep that column at import (--keep)."
        )
    needs_gold = {n for n, s in scorers.items() if tasks.parameters_of(s, file=file, name=n).get(GOLD)}
    return Job(task.path, task.source, kind, wanted, frozenset(needs_gold), reserved(task), timeout_s)


def _has_kept(frame: pl.DataFrame) -> bool:
    return frame.schema.get("metadata") == pl.String and frame["metadata"].null_count() < frame.height


def _batches(frame: pl.DataFrame, task: Task, job: Job) -> Iterator[Batch]:
    """The rows, a few at a time, with what the scorers ask for."""
    asked = {column for columns in job.wanted.values() for column in columns}
    names = [c for c in frame.columns if c in asked | {"custom_id", "output"} or (c == "profile" and GOLD in asked)]
    has_kept = bool(asked - reserved(task)) and _has_kept(frame)
    has_others = "others" not in asked or "others" in frame.columns  # GOLD and BAD bring them
    others = None if has_others else _Others(frame)
    some = frame.select(names)
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * frame.height // max(1, some.estimated_size())))
    for start in range(0, frame.height, int(size)):
        part = some.slice(start, int(size))
        columns: dict[str, list[Any]] = {name: part[name].to_list() for name in names}
        if others is not None:
            columns["others"] = others.of(start, part.height)
        metadata = frame["metadata"].slice(start, part.height).to_list() if has_kept else []
        yield Batch(start, columns, metadata)


def others_of(frame: pl.DataFrame) -> list[list[str]]:
    """The other outputs of the same candidate to the same question, for each row."""
    return _Others(frame).of(0, frame.height)


class _Others:
    """Which rows are about the same candidate and question; their texts are taken for a few rows at a time."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.outputs = frame["output"]
        question = [pl.col("input").hash().alias("_question")] if "input" in frame.columns else []
        keys = frame.select("candidate_id", *question)
        first = pl.col("_row").first().over(keys.columns)
        self.groups = keys.with_row_index("_row").select(first).to_series().to_numpy()
        answered = self.outputs.is_not_null().arg_true().to_numpy().astype(np.int64)
        self.members = answered[np.argsort(self.groups[answered], kind="stable")]
        self.sorted = self.groups[self.members]

    def of(self, start: int, n: int) -> list[list[str]]:
        """Return the other outputs, in the order of the rows, for each of ``n`` rows."""
        wanted = self.groups[start : start + n]
        low, high = (np.searchsorted(self.sorted, wanted, side) for side in ("left", "right"))
        rows = [self.members[a:b] for a, b in zip(low, high, strict=True)]
        texts = iter(self.outputs.gather(np.concatenate([np.zeros(0, np.int64), *rows])).to_list())
        held = [[(row, next(texts)) for row in some] for some in rows]
        return [[text for row, text in some if row != i] for i, some in enumerate(held, start)]


def _wanted(frame: pl.DataFrame, task: Task, name: str, scorer: Scorer) -> list[str]:
    """The columns that a scorer is given: those it cannot do without, and what there is of the others."""
    asked = tasks.parameters_of(scorer, file=task.path.name, name=name)
    return [column for column, needed in asked.items() if needed or column in (*frame.columns, "others", GOLD)]


def check(task: Task) -> pl.DataFrame:
    """Score the task's own GOLD and BAD rows and return them, one row each, with ``kind``.

    Raises:
        TaskError: A scorer does not give 1.0 on a gold row, or a bad row reaches quality 1.0.
    """
    if not task.gold:
        raise TaskError(
            f"task file {task.path.name} has no GOLD rows; add one that every scorer must give 1.0, so that the "
            "scorers can be trusted."
        )
    frames = []
    for kind, examples in (("gold", task.gold), ("bad", task.bad)):
        for i, example in enumerate(examples):
            row = {k: json.dumps(v) if k == "profile" else v for k, v in example.items()}
            frame = pl.DataFrame([{"custom_id": f"{kind}-{i}", "candidate_id": f"{kind}-{i}"} | row], strict=False)
            frames.append(score(frame, task, max_failures=0).with_columns(kind=pl.lit(kind)))
    out = pl.concat(frames)
    for line in out.filter(pl.col("kind") == "gold").to_dicts():
        low = [n for n in task.scorers if line[f"score_{n}"] is not None and line[f"score_{n}"] < 1 - tasks.ROUNDING]
        if low:
            raise TaskError(
                f"scorer {low[0]!r} of {task.path.name} gives {line[f'score_{low[0]}']:.3g} to GOLD row "
                f"{line['custom_id'].removeprefix('gold-')}; gold must be 1.0: mend the scorer or the row."
            )
    mute = [n for n in task.scorers if out.filter(pl.col("kind") == "gold")[f"score_{n}"].is_null().all()]
    if mute:
        raise TaskError(
            f"scorer {mute[0]!r} of {task.path.name} cannot tell on any GOLD row; add one on which it gives 1.0, so "
            "that it can be trusted."
        )
    for line in out.filter((pl.col("kind") == "bad") & (pl.col("quality") >= 1)).to_dicts():
        raise TaskError(
            f"BAD row {line['custom_id'].removeprefix('bad-')} of {task.path.name} reaches quality 1.0; no scorer sees "
            "what is bad about it."
        )
    return out
