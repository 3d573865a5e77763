"""Cells of an in-context search as requests: what is asked now, what came, and which searches saw a row.

A cell is an ordered set of examples on one candidate. Its custom_id is a digest of model, parameters, examples and
question, so a cell that any earlier search paid for, with any k and budget, is found by it; the scorer version says
whether its quality still holds. This module does not know how sets are searched (loop) or what it all costs (budget).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from arislab import batch, evaluate
from arislab.icl.budget import FACTS, paid
from arislab.task import Task


def ask(
    cells: pl.DataFrame,
    arms: Mapping[str, pl.DataFrame],
    *,
    candidates: pl.DataFrame,
    server: batch.Server,
    folder: Path,
    recorded: batch.Recorded,
    searched: batch.Recorded,
    task: Task,
    purpose: str = "search",
) -> pl.DataFrame:
    """Answer and score cells, asking only those that no search has paid for.

    What is wanted is written before it is sent.

    Args:
        cells: search_id, set_id, example_ids, candidate_id and, for a search, round; in the order in which they are to
            be sent.
        arms: set_id to its requests (from ``batch.build_requests``), at least for the candidates of its cells.
        candidates: Rows of ``candidates`` behind the cells.
        server: As in ``batch.answer``.
        folder: As in ``batch.answer``.
        recorded: As in ``batch.answer``.
        searched: Rows of ``icl_cells`` of all searches in the columns ``SEARCHED``, with the key of that table.
        task: Its scorers judge.
        purpose: ``search``, or ``holdout``.

    Returns:
        One row per cell, as ``icl.search`` takes them: set_id, candidate_id, custom_id, status, quality, tokens, known
        (true: the answer was recorded before; it is judged anew if the scorers are others now).
    """
    wanted = requested(cells, arms, task=task.name, scorer_version=task.version, purpose=purpose)
    earlier = paid(wanted, searched.frame)
    key = ["search_id", "set_id", "candidate_id"]
    known = wanted.join(earlier.drop(key), on="custom_id", how="inner")
    noted = known.join(earlier, on=key, how="anti")  # paid for by another search; this one has no row of it yet
    new = wanted.join(earlier, on="custom_id", how="anti", maintain_order="left")
    has_answer = pl.col("custom_id").is_in(recorded.answered.implode())  # before a crash, or under other scorers
    new = new.with_columns(asked_at=pl.when(~has_answer).then(pl.lit(datetime.now(UTC))))
    if noted.height + new.height:
        searched.add(pl.concat([noted, new], how="diagonal_relaxed"))
    new_answers = new.with_columns(pl.lit(None, dtype=known.schema[name]).alias(name) for name in FACTS)
    if new.height:
        left = {
            part["set_id"][0]: arms[part["set_id"][0]].join(part, on="candidate_id", how="semi", maintain_order="left")
            for part in new.partition_by("set_id", maintain_order=True)
        }
        scores = evaluate.ask(left, candidates=candidates, server=server, folder=folder, recorded=recorded, task=task)
        new_answers = answered(new, scores)
        searched.add(new_answers)
    every = [
        part.select(*key, "custom_id", *FACTS, known=how)
        for part, how in ((known, pl.lit(value=True)), (new_answers, pl.col("asked_at").is_null()))
    ]
    answers = pl.concat(every, how="vertical_relaxed")
    return cells.select(key).join(answers, on=key, how="left", maintain_order="left").drop("search_id")


_OVERFLOW = r"(?i)context.?length|maximum context|context.?window|exceed.{0,40}context"  # what servers say


def requested(
    cells: pl.DataFrame, arms: Mapping[str, pl.DataFrame], *, task: str, scorer_version: str, purpose: str = "search"
) -> pl.DataFrame:
    """Return the manifest of a round: rows of ``icl_cells`` that are wanted and not answered yet.

    Args:
        cells: As in ``ask``.
        arms: set_id to its requests (from ``batch.build_requests``): candidate_id, custom_id.
        task: Name of the task.
        scorer_version: Of the task.
        purpose: ``search``, or ``holdout``.
    """
    asked = pl.concat([r.select("candidate_id", "custom_id", set_id=pl.lit(name)) for name, r in arms.items()])
    facts = {"task": task, "scorer_version": scorer_version, "purpose": purpose}
    keep = ["search_id", "set_id", "candidate_id", "example_ids", *(["round"] if "round" in cells.columns else [])]
    return (
        cells.select(keep)
        .join(asked, on=["set_id", "candidate_id"], how="left", maintain_order="left")
        .with_columns(pl.lit(value).alias(name) for name, value in facts.items())
    )


def answered(manifest: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Return the manifest with what came: status, quality and tokens.

    A prompt that the model cannot hold has status overflow and quality 0.

    Args:
        manifest: From ``requested``.
        scores: From ``evaluate.ask``, with the sets as arms: arm, candidate_id, status, error, quality, tokens.
    """
    overflow = (pl.col("status") == "error") & pl.col("error").str.contains(_OVERFLOW)
    answers = scores.select(
        "candidate_id",
        "tokens",
        set_id="arm",
        status=pl.when(overflow).then(pl.lit("overflow")).otherwise("status"),
        quality=pl.when(overflow).then(0.0).otherwise("quality"),
    )
    return manifest.join(answers, on=["set_id", "candidate_id"], how="left", maintain_order="left")


def holdout_uses(cells: pl.DataFrame, rows: pl.DataFrame, *, people: pl.DataFrame, search_id: str) -> int:
    """Return how many searches have reported on a group of these rows, this one included: 1 means that they are fresh.

    Args:
        cells: Rows of ``icl_cells``: search_id, candidate_id, purpose.
        rows: Candidates of the hold-out: group_id.
        people: All validation candidates: candidate_id, group_id.
        search_id: Of this search.
    """
    used = cells.filter((pl.col("purpose") == "holdout") & (pl.col("search_id") != search_id))
    members = people.join(rows, on="group_id", how="semi")
    return 1 + used.join(members, on="candidate_id", how="semi")["search_id"].n_unique()
