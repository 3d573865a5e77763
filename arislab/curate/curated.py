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
from arislab.task import Task

_MARKS = ("original_output", "scored_sha256")
"""Facts by which `decisions` knows an edited row; a column of these names in an older import is none."""
_METADATA = ("company", "title", "category", "use_case")


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
    people = {
        row["candidate_id"]: tasks.candidate_of(row)
        for row in candidates.join(kept, on="candidate_id", how="semi").to_dicts()
    }
    rows = []
    for row in kept.to_dicts():
        candidate = people[row["candidate_id"]]
        if not row["messages"]:  # the answer is to its own question, not to the first of its name
            candidate = questions.about(candidate, row.get("input"))
        messages = json.loads(row["messages"]) if row["messages"] else task.to_messages(candidate)
        facts = _facts(row, candidate, task)
        rows.append(
            {
                "id": row["custom_id"],
                "candidate_id": row["candidate_id"],
                "custom_id": row["custom_id"],
                "task": task.name,
                "input": protocol.asked(messages),
                "messages": json.dumps(messages, ensure_ascii=False),
                "output": row["output"],
                "tools": row.get("tools"),
                "tool_calls": _calls(row),
                "quality_score": row["quality"],
                "needs_review": True,
                "approved": False,
                "reviewed_by": None,
                "metadata": json.dumps(facts, ensure_ascii=False, sort_keys=True, default=str),
                "split": candidate["split"],
                "updated_at": None,
            }
        )
    schema: dict[str, Any] = {
        "reviewed_by": pl.String,
        "tools": pl.String,
        "tool_calls": pl.String,
        "quality_score": pl.Float64,
        "needs_review": pl.Boolean,
        "approved": pl.Boolean,
        "updated_at": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)  # one row per kept example


def _facts(row: Mapping[str, Any], candidate: dict[str, Any], task: Task) -> dict[str, Any]:
    """Return the metadata of an example: of its candidate, of what came with its answer, and of what was done to it."""
    facts: dict[str, Any] = {name: candidate[name] for name in _METADATA if candidate.get(name) is not None}
    facts["difficulty"] = None
    facts |= json.loads(row["metadata"]) if row.get("metadata") else {}  # what the user kept at import goes first
    facts = {name: fact for name, fact in facts.items() if name not in _MARKS}
    if task.difficulty:
        facts["difficulty"] = task.difficulty(candidate)
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


def draw(
    answers: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    curated: pl.DataFrame,
    heldout: pl.DataFrame,
    n: int,
    seed: int = 0,
) -> list[str]:
    """Return the custom_ids of ``n`` random outputs for ``control``: of the same models, about nobody who is held out.

    They are drawn by name, so that texts are read of these alone.

    Args:
        answers: custom_id, candidate_id, model of the rows of ``training_data_raw`` with status ok.
        candidates: Candidates of the train split.
        curated: Examples whose models count.
        heldout: Examples whose candidates do not.
        n: As in ``control``.
        seed: As in ``control``.
    """
    models = answers.join(curated, on="custom_id", how="semi").select("model").unique()
    rows = answers.join(models, on="model", how="semi", nulls_equal=True)
    rows = rows.join(heldout, on="candidate_id", how="anti").join(candidates, on="candidate_id", how="semi")
    return _drawn(rows, n=n, seed=seed)["custom_id"].to_list()


def control(raw: pl.DataFrame, candidates: pl.DataFrame, task: Task, *, n: int, seed: int = 0) -> pl.DataFrame:
    """Return ``n`` random outputs as examples: what training on uncurated rows of the same number gives.

    Args:
        raw: Rows of ``training_data_raw`` with status ok, of the models whose outputs were curated.
        candidates: Candidates of the train split.
        task: Writes the messages where the record has none.
        n: How many; at most all.
        seed: Of the draw, a stable hash of custom_id.

    Raises:
        ParameterError: There is no such output.
    """
    rows = raw.join(candidates, on="candidate_id", how="semi")
    drawn = _drawn(rows, n=n, seed=seed).rename({"llm_output": "output"})
    return examples(drawn.with_columns(quality=pl.lit(None, dtype=pl.Float64)), candidates, task)


def _drawn(rows: pl.DataFrame, *, n: int, seed: int) -> pl.DataFrame:
    return rows.with_columns(_tie=subsets.stable_hash(rows["custom_id"], seed)).sort("_tie").head(n)
