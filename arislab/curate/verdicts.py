"""What people's verdicts mean when answers are curated again.

Edits are applied before answers are scored, judged answers stand before others among their near-duplicates, and it is
said which approved answers are not kept, and why. This module does not know how decisions are folded (decisions), how
answers are scored (scoring) or what a near-duplicate is (selection).
"""

import functools
import json
from typing import Any

import polars as pl

from arislab import duplicates, structured
from arislab.curate import curated, selection
from arislab.review import decisions
from arislab.task import Task
from arislab.vectors import Embed

STALE, DISPUTED = "read otherwise when they were judged", "disputed"
_COLUMNS = {"custom_id": pl.String, "verdict": pl.String, "holds": pl.Boolean, "reason": pl.String, "model": pl.String}
_COLUMNS |= dict.fromkeys(("input", "output", "original_output", "edit_error"), pl.String)


def judged(
    raw: pl.DataFrame, candidates: pl.DataFrame, task: Task, reviews: pl.DataFrame, *, repair: bool = False
) -> pl.DataFrame:
    """Return what people say of recorded answers, whatever model gave them.

    Args:
        raw: Rows of ``training_data_raw`` of the task.
        candidates: Rows of ``candidates`` whose answers are curated: the train split.
        task: Its messages are what was shown, and its SCHEMA what was repaired.
        reviews: Every event so far.
        repair: As in ``structured.check``: whether answers are shown repaired.

    Returns:
        One row per answer with a verdict that nobody took back: custom_id, verdict (approve, reject, edit), holds (it
        is about the text as it is now), reason (why it does not; null if it does), model, input (all that was asked),
        output (edited, if it was), original_output (null unless edited), edit_error (how an edit breaks the SCHEMA
        where the answer did not; null if not).
    """
    verdicts = {name: decisions.kind_of(events[-1]) for name, events in decisions.verdicts_by_row(reviews).items()}
    rows = _with_all_asked(raw.filter(pl.col("custom_id").is_in(list(verdicts))))
    answers = rows.filter(pl.col("status") == "ok").join(candidates, on="candidate_id", how="semi")
    states = {}
    if answers.height:
        texts = answers.rename({"llm_output": "output"}).with_columns(quality=pl.lit(None, dtype=pl.Float64))
        shown = curated.examples(structured.check(texts, task.schema, repair=repair), candidates, task)
        states = {row["custom_id"]: row for row in decisions.standing(shown, reviews).iter_rows(named=True)}
    judgements = [
        _verdict(row, states.get(row["custom_id"]), verdicts[row["custom_id"]], task) for row in rows.to_dicts()
    ]
    return pl.DataFrame(judgements, schema=_COLUMNS)  # one row per judged answer


def _verdict(row: dict[str, object], state: dict[str, object] | None, said: str, task: Task) -> dict[str, object]:
    out = {"custom_id": row["custom_id"], "model": row["model"], "input": row["input"], "verdict": said, "holds": False}
    if state is None:
        why = (
            "of candidates outside the train split"
            if row["status"] == "ok"
            else f"without an answer now ({row['status']})"
        )
        return out | {"reason": why}
    if state["disputed"] is not None:
        return out | {"verdict": state["disputed"], "reason": DISPUTED, "output": state["output"]}
    if state["reviewed_by"] is None:
        return out | {"verdict": state["stale"], "reason": STALE, "output": state["output"]}
    original = decisions.metadata_of(str(state["metadata"])).get("original_output")
    verdict = "reject" if not state["approved"] else "approve" if original is None else "edit"
    error = None if original is None else structured.error(str(state["output"]), task.schema)
    is_worse = error is not None and structured.error(str(original), task.schema) is None
    out |= {"verdict": verdict, "holds": True, "output": state["output"], "original_output": original}
    return out | {"edit_error": error if is_worse else None}


def edited(rows: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    """Put the edited texts in the place of the answers, so that what is trained is what is scored and compared.

    Reads: custom_id, output.

    Adds: edited (Boolean), original_output (String, the answer that was edited; null if it was not); changes output.
    """
    edits = judged.filter("holds", pl.col("original_output").is_not_null())
    edits = edits.select("custom_id", "original_output", _edited="output")
    if not edits.height:
        return rows.with_columns(original_output=pl.lit(None, dtype=pl.String), edited=pl.lit(value=False))
    joined = rows.join(edits, on="custom_id", how="left", maintain_order="left")
    return joined.with_columns(
        output=pl.coalesce("_edited", "output"), edited=pl.col("original_output").is_not_null()
    ).drop("_edited")


def represent(
    rows: pl.DataFrame,
    judged: pl.DataFrame,
    *,
    threshold: float,
    seed: int,
    by_meaning: float = 0.0,
    embed: Embed | None = None,
    engine: str = "",
) -> pl.DataFrame:
    """Mark near-duplicates (question and answer alike), judged answers first.

    An approved or edited answer represents its near-duplicates whatever their quality. A rejected one takes its
    near-duplicates out with it, also if it is the answer of a model that is not curated now: they are as doubtful, and
    nobody has looked at them. Whoever thinks otherwise raises the threshold. What people approved goes by their word,
    however alike it is to what they rejected. An answer whose earlier text was rejected represents before those that
    nobody judged: it waits for a person, and they with it.

    Args:
        rows: custom_id, input, messages (null: the input is all that was asked), output, quality: the answers to choose
            from.
        judged: From ``judged``.
        threshold: As in ``selection.near_duplicates``.
        seed: As there.
        by_meaning: As there.
        embed: As there.
        engine: As there.

    Returns:
        ``rows`` with duplicate_of and similarity (null = represents), and like_rejected (Boolean: duplicate_of was
        rejected).
    """
    texts = _with_all_asked(rows).select("custom_id", "input", "output", "quality")
    holding = judged.filter("holds")
    is_bad = pl.col("verdict") == "reject"
    rejected = holding.filter(is_bad)
    elsewhere = rejected.join(texts, on="custom_id", how="anti").select("custom_id", "input", "output")
    bad = pl.concat([texts.join(rejected, on="custom_id", how="semi"), elsewhere], how="diagonal")
    doubtful = judged.filter(~pl.col("holds"), is_bad)["custom_id"].to_list()
    good = texts.join(holding.filter(~is_bad), on="custom_id", how="semi")
    rest = texts.join(holding, on="custom_id", how="anti")
    is_doubtful = pl.col("custom_id").is_in(doubtful)
    rest = rest.with_columns(quality=pl.when(is_doubtful).then(2.0).otherwise("quality"))  # before all others
    alike_to = functools.partial(
        _alike, threshold=threshold, seed=seed, by_meaning=by_meaning, embed=embed, engine=engine
    )
    marks = [_NONE]
    while bad.height:
        # again for rejected ones that resemble another: what is like them is not always like that other one
        alike = alike_to(bad, rest)
        alike = alike.filter(pl.col("duplicate_of").is_in(bad["custom_id"].to_list()))
        marks.append(alike.with_columns(like_rejected=pl.lit(value=True)))
        bad, rest = bad.join(alike, on="custom_id", how="semi"), rest.join(alike, on="custom_id", how="anti")
    marks.append(alike_to(good, rest).with_columns(like_rejected=pl.lit(value=False)))
    marked = pl.concat(marks).unique("custom_id", keep="first", maintain_order=True)
    # of names alone: a join of all columns would move all texts
    told = rows.select("custom_id").join(marked, on="custom_id", how="left", maintain_order="left")
    return rows.with_columns(told["duplicate_of"], told["similarity"], told["like_rejected"].fill_null(value=False))


def _with_all_asked(rows: pl.DataFrame) -> pl.DataFrame:
    """Put the whole conversation in the place of its last question: different conversations may end alike."""
    if "messages" not in rows.columns:
        return rows
    several = (pl.col("messages").str.count_matches('"role"', literal=True) > 2).fill_null(value=False)
    conversations = rows.select(pl.when(several).then("messages")).to_series()
    if not conversations.count():
        return rows
    texts = [None if text is None else duplicates.asked(json.loads(text)) for text in conversations]
    return rows.with_columns(input=pl.coalesce(pl.Series(texts, dtype=pl.String), "input"))


_NONE = pl.DataFrame(
    schema={"custom_id": pl.String, "duplicate_of": pl.String, "similarity": pl.Float64, "like_rejected": pl.Boolean}
)


def _alike(first: pl.DataFrame, others: pl.DataFrame, **how: Any) -> pl.DataFrame:
    """Return custom_id, duplicate_of and similarity of near-duplicates; of two, a row of ``first`` stays."""
    quality = pl.col("quality").cast(pl.Float64).fill_nan(None).fill_null(-1)  # 0..1, or 2: levels do not meet
    ranked = [
        rows.select("custom_id", "input", "output", _rank=quality + 4 * level)
        for level, rows in ((1, first), (0, others))
    ]
    marked = selection.near_duplicates(pl.concat(ranked), on=["input", "output"], prefer="_rank", **how)
    return marked.filter(pl.col("duplicate_of").is_not_null()).select("custom_id", "duplicate_of", "similarity")


def not_kept(judged: pl.DataFrame, marked: pl.DataFrame, cut: pl.DataFrame) -> pl.DataFrame:
    """Return the approved and edited answers that are not kept, one row each: custom_id, verdict, reason.

    Args:
        judged: From ``judged``.
        marked: From ``represent``.
        cut: ``selection.Selection.frame``: custom_id, quality, kept of what represents and was selected.
    """
    approved = judged.filter(pl.col("verdict") != "reject")
    of_all = {"marked": marked.select("custom_id", "duplicate_of"), "cut": cut.select("custom_id", "quality", "kept")}
    of = {name: rows.join(approved, on="custom_id", how="semi") for name, rows in of_all.items()}  # they are few
    alike = of["marked"].filter(pl.col("duplicate_of").is_not_null())
    rows = approved.join(alike, on="custom_id", how="left", maintain_order="left")
    rows = rows.join(of["cut"], on="custom_id", how="left", maintain_order="left")
    is_here = pl.col("custom_id").is_in(of["marked"]["custom_id"].implode())
    reason = (
        pl.when(pl.col("reason").is_not_null()).then("reason")
        .when(~is_here).then(pl.lit("of another model"))
        .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near-duplicates of another approved one"))
        .when(pl.col("kept").is_null()).then(pl.lit("outside the selection"))
        .when(pl.col("quality").is_null()).then(pl.lit("without a quality"))
        .when(~pl.col("kept")).then(pl.lit("below the cut"))
    )  # fmt: skip
    return rows.select("custom_id", "verdict", reason=reason).filter(pl.col("reason").is_not_null())


def in_words(lost: pl.DataFrame) -> str:
    """Return what ``not_kept`` found in one line.

    Example:
        >>> in_words(
        ...     pl.DataFrame(
        ...         {
        ...             "custom_id": ["a", "b"],
        ...             "verdict": ["approve", "edit"],
        ...             "reason": ["below the cut", "below the cut"],
        ...         }
        ...     )
        ... )
        'WARNING: 2 approved answers are not kept: 2 below the cut'
    """
    if not lost.height:
        return "every approved answer is kept"
    counts = lost.group_by("reason").len().sort("len", "reason", descending=[True, False])
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts.iter_rows())
    return f"WARNING: {lost.height:,} approved answers are not kept: {reasons}"
