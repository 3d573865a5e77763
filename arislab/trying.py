"""Every function of a task file called on a handful of rows, before a phase spends anything.

A wrong key in ``to_messages`` is then an error of the first cell, and names the file, the function, the candidate, what
its profile holds and the nearest key. This module does not judge scorers: ``scoring.check`` does.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import polars as pl

from arislab import questions, scoring, structured
from arislab.calls import Failure
from arislab.errors import TaskError
from arislab.task import Task, candidate_of

N_ROWS = 5
"""A handful: rows that each function is tried on, at most."""
_ALL = 10**9


class Table(Protocol):
    """What gives some rows of a table of the lake."""

    def head(self, n: int, *, where: dict[str, Any], columns: list[str] | None = None) -> pl.DataFrame:
        """The first ``n`` rows of those that fulfil a condition."""


class Tables(Protocol):
    """What gives tables by name: the lake, or anything like it."""

    def __getitem__(self, name: str) -> Table:
        """One table."""


def tried(
    task: Task, lake: Tables, *, asks: bool = True, repair: bool = False, timeout_s: float = scoring.TIMEOUT_S
) -> Task:
    """Return a task after each of its functions has been called on a few rows of the train split, and its SCHEMA read.

    What they return is not looked at, beyond its form. A scorer may fail on a row: only one that fails on all of them
    is refused. In a lake without rows of the task, its candidates are tried; without candidates, nothing is.

    Args:
        task: From ``task.load``.
        lake: Tables by name; read are ``candidates`` and ``training_data_raw``.
        asks: Whether models are asked, and so to_messages for every candidate; else for recorded answers without
            messages alone.
        repair: Whether answers will be scored repaired.
        timeout_s: As in ``scoring.score``.

    Raises:
        TaskError: A function fails; the SCHEMA is none.
    """
    _try_schema(task)
    answered, train = {"task": task.name, "status": "ok"}, {"split": "train"}
    about = lake["training_data_raw"].head(_ALL, where=answered, columns=["candidate_id"])
    ids = lake["candidates"].head(_ALL, where=train, columns=["candidate_id"])
    if about.height:
        ids = ids.join(about, on="candidate_id", how="semi")
    names = ids["candidate_id"].unique().sort()
    some = names.gather_every(max(1, len(names) // N_ROWS)).head(N_ROWS)  # not all of one import
    named = {"candidate_id": some.to_list()}
    people = lake["candidates"].head(N_ROWS, where=train | named)
    every = lake["training_data_raw"].head(_ALL, where=answered | named)
    raw = every.unique("candidate_id", keep="first", maintain_order=True)
    people, raw = people.sort("candidate_id"), raw.sort("candidate_id")
    known = {row["candidate_id"]: candidate_of(row) for row in people.to_dicts()}
    for row in raw.to_dicts():
        messages, candidate = row["messages"], known[row["candidate_id"]]
        _try(task, candidate if messages else questions.about(candidate, row["input"]), asks=asks or not messages)
    if not raw.height:
        for candidate in list(known.values())[:N_ROWS]:
            _try(task, candidate, asks=asks)
        return task
    rows = structured.check(scoring.rows(every, people, task=task), task.schema, repair=repair)
    rows = rows.with_columns(others=pl.Series(scoring.others_of(rows), dtype=pl.List(pl.String)))
    rows = rows.join(raw, on="custom_id", how="semi", maintain_order="left")
    failed = scoring.failing(rows, task, kept=lambda: _kept(task, lake), timeout_s=timeout_s)
    for failures in failed.values():
        if len(failures) == rows.height:
            raise _refused(failures)
    return task


def _try_schema(task: Task) -> None:
    if task.schema is None:
        return
    try:
        json.dumps(task.schema)
        structured.check(pl.DataFrame({"output": []}, schema={"output": pl.String}), task.schema)
    except (TypeError, ValueError, AttributeError) as error:
        raise TaskError(f"SCHEMA of {task.path.name} is no JSON schema: {error}; mend the task file.") from None
    except TaskError as error:
        raise TaskError(f"{task.path.name}: {error}") from None


def _try(task: Task, candidate: dict[str, Any], *, asks: bool) -> None:
    if asks:
        task.to_messages(candidate)
    for function in (task.difficulty, task.category):
        if function is not None:
            function(candidate)


def _kept(task: Task, lake: Tables) -> set[str]:
    """The names of all that was kept at import, which a handful of rows need not show."""
    texts = (
        lake["training_data_raw"].head(_ALL, where={"task": task.name}, columns=["metadata"])["metadata"].drop_nulls()
    )
    return {name for text in texts for name in json.loads(text)}


def _refused(failures: Sequence[Failure]) -> TaskError:
    n = len(failures)
    tried = "the row" if n == 1 else f"each of the {n} rows"
    return TaskError(
        f"{failures[0].message}. It fails on {tried} that it was tried on: mend the scorer, and return None where it "
        "cannot tell."
    )
