"""Scored rows as a review queue draws and shows them, whether they were kept or not."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from arislab import structured
from arislab.batch import protocol
from arislab.curate import curated as examples
from arislab.system.kinds import takes_any_frame
from arislab.task import Task


@takes_any_frame
def newest(scored: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return the rows as they were scored last: of one version of the task file, and one learned quality.

    Args:
        scored: Rows of ``training_data_scored``: scorer_version (the version of the task, and of what was learned),
            created_at.
        task: Its version now.
    """
    ours = scored.filter(pl.col("scorer_version").str.starts_with(task.version))
    last = ours.sort("created_at", "scorer_version")["scorer_version"].tail(1)
    return ours.filter(pl.col("scorer_version").is_in(last.to_list()))


@takes_any_frame
def drawable(scored: pl.DataFrame, curated: pl.DataFrame) -> pl.DataFrame:
    """Return what a queue can draw: custom_id, quality_score, kept; one row of each group of near-duplicates.

    Args:
        scored: From ``newest``: custom_id, quality (null: not drawn), duplicate_of.
        curated: Rows of ``training_data_curated``: those that were kept.
    """
    rows = scored.filter(pl.col("quality").is_not_null(), pl.col("duplicate_of").is_null())
    is_kept = pl.col("custom_id").is_in(curated["custom_id"].to_list())
    return rows.select("custom_id", kept=is_kept, quality_score="quality")


def showing(
    scored: pl.DataFrame,
    raw: Callable[[list[str]], pl.DataFrame],
    candidates: pl.DataFrame,
    *,
    curated: pl.DataFrame,
    task: Task,
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return what makes of drawn rows what the panel shows: rows of ``training_data_curated``, as 2_curate writes them.

    Args:
        scored: From ``newest``: custom_id, quality, repaired (true: the repaired text is shown).
        raw: From custom_ids to their rows of ``training_data_raw``: of 170,000 texts those that are shown are read.
        candidates: Candidates of the train split.
        curated: Rows of ``training_data_curated``: what was kept is shown as it stands there.
        task: Writes the messages where the record has none, and has the SCHEMA.
    """

    def show(chosen: pl.DataFrame) -> pl.DataFrame:
        kept = curated.join(chosen, on="custom_id", how="semi", maintain_order="left").select(examples.none().columns)
        chosen = chosen.join(kept, on="custom_id", how="anti")
        marks = scored.select("custom_id", "quality", mended=pl.col("repaired").fill_null(value=False))
        texts = examples.plain(raw(chosen["custom_id"].to_list()).rename({"llm_output": "output"}))
        texts = texts.join(marks, on="custom_id", how="inner", maintain_order="left")
        texts = texts.join(candidates.select("candidate_id"), on="candidate_id", how="semi", maintain_order="left")
        parts = [
            structured.check(part.drop("mended"), task.schema, repair=is_mended)
            for (is_mended,), part in texts.group_by("mended", maintain_order=True)
        ]
        made = examples.examples(pl.concat(parts), candidates, task) if parts else examples.none()
        return pl.concat([kept, made])

    return show


def known(task: Task) -> pl.DataFrame:
    """Return the answers of the task file of which it says whether they are good, as rows of a queue.

    They are planted among others, to see how people judge them.

    Args:
        task: Its GOLD and BAD rows.

    Returns:
        One row per answer: custom_id, input, output, metadata (JSON: company, title, category and use_case as far as
        the row or its profile has them), queue (gold) and decision (approve of GOLD, reject of BAD).
    """
    rows = []
    for decision, examples_of in (("approve", task.gold), ("reject", task.bad)):
        for example in examples_of:
            question, output = protocol.asked(task.to_messages(example)), str(example["output"])
            name = hashlib.sha256(json.dumps([question, output]).encode()).hexdigest()
            rows.append((f"r-{name[:40]}", question, output, _facts(example), "gold", decision))
    names = ("custom_id", "input", "output", "metadata", "queue", "decision")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")  # one row per known answer


def _facts(example: Mapping[str, Any]) -> str:
    profile = example.get("profile")
    given = {**profile, **example} if isinstance(profile, Mapping) else example
    facts = {name: given[name] for name in examples.METADATA if isinstance(given.get(name), str)}
    return json.dumps(facts, ensure_ascii=False)
