"""Kept rows to examples that later phases may use, and the control set that shows whether the choice was worth it.

This module does not know how rows were scored or cut (scoring, selection) nor how people decide (review); what they
decided it asks of decisions.
"""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from arislab import questions
from arislab import task as tasks
from arislab.batch import protocol
from arislab.curate import subsets
from arislab.errors import ParameterError
from arislab.review import decisions
from arislab.system import json_text, spilled
from arislab.system.kinds import takes_any_frame
from arislab.task import Task

_MARKS = ("original_output", "scored_sha256")
"""Facts by which `decisions` knows an edited row; a column of these names in an older import is none."""
METADATA = ("company", "title", "category", "use_case")
"""Facts of a candidate that its examples have in their metadata."""
_TEXTS = ("id", "candidate_id", "custom_id", "task", "input", "messages", "output", "tools", "tool_calls")
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, pl.String),
    "quality_score": pl.Float64,
    "needs_review": pl.Boolean,
    "approved": pl.Boolean,
    **dict.fromkeys(("reviewed_by", "metadata", "split"), pl.String),
    "updated_at": pl.Datetime("us", "UTC"),
}


@takes_any_frame
def examples(kept: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return rows of ``training_data_curated`` for kept outputs; nobody has reviewed them yet.

    Args:
        kept: custom_id, candidate_id, task, input, messages (null: written again by the task), output, quality,
            metadata; tools, tool_calls and finish_reason, if present (an output that is calls of tools stays one);
            repaired (where true, the example's metadata say so); original_output (where not null, output is a text that
            a reviewer made of it, and quality that text's: the metadata keep the original, and scored_sha256).
        candidates: Rows of ``candidates`` behind them.
        task: Its to_messages, difficulty and category fill what the record does not have.

    Raises:
        ParameterError: No row was kept.
    """
    if not kept.height:
        raise ParameterError(
            "the cut keeps no row; lower keep_threshold or raise keep_fraction (if no row has a quality, see what the "
            "scorers return). The curated set stays as it was."
        )
    places = candidates.select("candidate_id").with_row_index("_row").unique("candidate_id", keep="last")
    behind = kept.select("candidate_id").join(places, on="candidate_id", how="left", maintain_order="left")["_row"]

    def some(start: int) -> pl.DataFrame:
        people = candidates[behind.slice(start, _ROWS).drop_nulls().unique()]
        return _examples(kept.slice(start, _ROWS), people, task)

    # a few at a time: as Python's values rows are many times their texts
    return spilled.frames(map(some, range(0, kept.height, _ROWS)))


_ROWS = 10_000
_MESSAGES = json.JSONEncoder(ensure_ascii=False)
_FACTS = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)
_READ = (
    *("custom_id", "candidate_id", "input", "messages", "output", "tools", "tool_calls", "finish_reason", "quality"),
    *("metadata", "shown", "repaired", "original_output"),
)


def _examples(kept: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    people = {row["candidate_id"]: tasks.candidate_of(row) for row in candidates.iter_rows(named=True)}
    rows = []
    for row in kept.select(name for name in _READ if name in kept.columns).iter_rows(named=True):
        candidate = people[row["candidate_id"]]
        if not row["messages"]:  # the answer is to its own question, not to the first of its name
            candidate = questions.about(candidate, row.get("input"))
        messages = messages_of(row, candidate, task)
        facts = _facts(row, candidate, task)
        rows.append(
            {
                "id": row["custom_id"],
                "candidate_id": row["candidate_id"],
                "custom_id": row["custom_id"],
                "task": task.name,
                "input": protocol.asked(messages),
                "messages": _MESSAGES.encode(messages),
                "output": row["output"],
                "tools": row.get("tools"),
                "tool_calls": _calls(row),
                "quality_score": row["quality"],
                "needs_review": True,
                "approved": False,
                "reviewed_by": None,
                "metadata": _FACTS.encode(facts),
                "split": candidate["split"],
                "updated_at": None,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA)  # one row per kept example


def messages_of(row: Mapping[str, Any], candidate: dict[str, Any], task: Task) -> list[dict[str, Any]]:
    """Return the messages that an output answers: those of its record, else as the task writes them.

    Args:
        row: messages (JSON, null: unknown), and input (null: unknown), the question of its own.
        candidate: Behind it, its profile parsed.
        task: Writes messages.
    """
    if row["messages"]:
        recorded: list[dict[str, Any]] = json_text.stored(row["messages"])
        return recorded
    return task.to_messages(questions.about(candidate, row.get("input")))


def none() -> pl.DataFrame:
    """Return no example, in the columns of ``examples``."""
    return pl.DataFrame(schema=_SCHEMA)


def _facts(row: Mapping[str, Any], candidate: dict[str, Any], task: Task) -> dict[str, Any]:
    """Return the metadata of an example: of its candidate, of what came with its answer, and of what was done to it."""
    facts: dict[str, Any] = {name: candidate[name] for name in METADATA if candidate.get(name) is not None}
    facts["difficulty"] = None
    facts |= json_text.stored(row["metadata"]) if row.get("metadata") else {}  # what the user kept at import goes first
    facts = {name: fact for name, fact in facts.items() if name not in _MARKS}
    if task.difficulty:
        facts["difficulty"] = task.difficulty(candidate)
    if row.get("shown"):
        facts["shown"] = row["shown"]
    if row.get("repaired"):
        facts["repaired"] = True
    if row.get("original_output") is not None:
        facts |= {"original_output": row["original_output"], "scored_sha256": decisions.sha256(row["output"])}
    if task.category:
        facts["category"] = task.category(candidate)
    return facts


def _calls(row: Mapping[str, Any]) -> str | None:
    """The calls of tools that an output is, as they came; rows of older versions have them as the text alone."""
    if row.get("tool_calls") or row.get("finish_reason") != "tool_calls":
        return row.get("tool_calls")
    text = row.get("original_output") or row["output"]
    return text if text and text.lstrip().startswith("[") else None


@takes_any_frame
def plain(raw: pl.DataFrame) -> pl.DataFrame:
    """Return outputs with the messages on which is trained: without the examples that phase 1 showed, if it showed any.

    Args:
        raw: Rows of ``training_data_raw``: messages, and plain where present.
    """
    if "plain" not in raw.columns:
        return raw
    return raw.with_columns(messages=pl.coalesce("plain", "messages")).drop("plain")


@takes_any_frame
def rounds(raw: pl.DataFrame) -> str:
    """Return how many outputs came from which model and which examples in its prompt: the rounds of a study.

    Args:
        raw: Rows of ``training_data_raw``: model, shown.
    """
    parts = raw.group_by("model", "shown").len().sort("len", "model", "shown", descending=[True, False, False])
    return "; ".join(
        f"{n:,} of {model or 'an unknown model'}, {f'shown {shown}' if shown else 'without examples'}"
        for model, shown, n in parts.iter_rows()
    )


CONTROLS = ("random", "longest", "unfiltered")
"""How the rows of a control are taken: as many as were trained on at random, as many of the longest, or all."""


@takes_any_frame
def draw(
    answers: pl.DataFrame | pl.LazyFrame,
    candidates: pl.DataFrame,
    *,
    curated: pl.DataFrame,
    heldout: pl.DataFrame,
    n: int,
    seed: int = 0,
    rule: str = "random",
) -> list[str]:
    """Return the custom_ids of the outputs for ``control``.

    They are drawn from all that the same models were asked with the same prompt (the same examples shown, or none)
    about the train split and answered with a text, before any filter of
    phase 2: truncated ones and those that break the SCHEMA too. A control that had passed the filters would
    be curated itself, and the difference to it would be what the rest of curating is worth.

    Args:
        answers: Rows of ``training_data_raw`` of the task; few columns of them are read.
        candidates: Candidates of the train split.
        curated: Examples whose models count, each with the examples that its prompt showed.
        heldout: Examples whose candidates do not.
        n: How many under random and longest; at most all.
        seed: Of the draw, a stable hash of custom_id; of outputs of one length too.
        rule: One of ``CONTROLS``.

    Raises:
        ParameterError: Another rule.
    """
    if rule not in CONTROLS:
        raise ParameterError(
            f"control must be one of {', '.join(CONTROLS)} (how its rows are drawn from what was answered before any "
            f"filter), got {rule!r}."
        )
    texts = answers.lazy()
    if "llm_output" in texts.collect_schema():  # notebooks of earlier versions draw from names alone
        texts = texts.with_columns(length=pl.col("llm_output").str.len_chars()).filter(pl.col("length") > 0)
    else:
        texts = texts.with_columns(length=pl.lit(None, dtype=pl.UInt32))
    if "shown" not in texts.collect_schema():
        texts = texts.with_columns(shown=pl.lit(None, dtype=pl.String))
    rows = texts.select("custom_id", "candidate_id", "model", "shown", "length").collect()
    asked = rows.join(curated, on="custom_id", how="semi").select("model", "shown").unique()
    rows = rows.join(asked, on=["model", "shown"], how="semi", nulls_equal=True)
    rows = rows.join(candidates, on="candidate_id", how="semi")
    rows = rows.join(heldout, on="candidate_id", how="anti")
    rows = rows.with_columns(_tie=subsets.stable_hash(rows["custom_id"], seed)).sort("_tie")
    if rule == "longest":
        rows = rows.sort("length", descending=True, nulls_last=True, maintain_order=True)
    return (rows if rule == "unfiltered" else rows.head(n))["custom_id"].to_list()


@takes_any_frame
def control(
    raw: pl.DataFrame, candidates: pl.DataFrame, task: Task, *, n: int | None = None, seed: int = 0
) -> pl.DataFrame:
    """Return outputs as examples, as they came: what training on rows that nothing chose gives.

    Args:
        raw: Rows of ``training_data_raw`` that ``draw`` names.
        candidates: Candidates of the train split.
        task: Writes the messages where the record has none.
        n: How many; null: all.
        seed: Of the order, a stable hash of custom_id.

    Raises:
        ParameterError: There is no such output.
    """
    rows = plain(raw).join(candidates, on="candidate_id", how="semi").rename({"llm_output": "output"})
    rows = rows.with_columns(_tie=subsets.stable_hash(rows["custom_id"], seed)).sort("_tie").drop("_tie")
    rows = rows if n is None else rows.head(n)
    return examples(rows.with_columns(quality=pl.lit(None, dtype=pl.Float64)), candidates, task)


def control_in_words(raw: pl.DataFrame, *, rule: str) -> str:
    """Return how many rows a control has, of which status, and how they were drawn.

    Args:
        raw: As in ``control``.
        rule: As in ``draw``.
    """
    by_status = raw.group_by("status").len().sort("len", "status", descending=[True, False])
    counts = ", ".join(f"{n:,} {status}" for status, n in by_status.iter_rows())
    how = {"random": "drawn at random", "longest": "the longest", "unfiltered": "all that there were"}[rule]
    return f"control: {raw.height:,} outputs of the same models before any filter ({counts}), {how}"
