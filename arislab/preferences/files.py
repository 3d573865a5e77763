"""Preference pairs as chat JSONL, for trainers elsewhere, and where they come from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab.system import files
from arislab.system.kinds import takes_any_frame


@takes_any_frame
def write_jsonl(pairs: pl.DataFrame, path: str | Path) -> int:
    """Write pairs as chat JSONL, the conversational form that TRL's DPOTrainer and others read.

    Args:
        pairs: Rows of ``preferences``; of those that say the same the first is written.
        path: Written to a temporary file beside it, then renamed.

    Returns:
        The number of lines, one per pair: ``{"prompt": [messages], "chosen": [assistant], "rejected": [assistant],
        "pair_id": …}``.

    Source:
        TRL, Dataset formats and types: preference, conversational, with explicit prompt.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    distinct = pairs.unique(["messages", "chosen", "rejected"], keep="first", maintain_order=True)
    with files.written(path) as file:
        for row in distinct.iter_rows(named=True):
            line = {"prompt": json.loads(row["messages"])}
            line |= {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
            file.write((json.dumps(line | {"pair_id": row["pair_id"]}, ensure_ascii=False) + "\n").encode())
    return distinct.height


def provenance(
    pairs: pl.DataFrame, path: str | Path, *, versions: Mapping[str, int | None], left_out: int
) -> dict[str, Any]:
    """Return where the pairs of a file come from, as JSON for a file beside it.

    Args:
        pairs: Those of the file.
        path: Of the file.
        versions: Table to its version that was read.
        left_out: Pairs about which people have decided otherwise since they were mined.

    Returns:
        file (its name), bytes and sha256, tasks, splits, n (rows of pairs), by_source, reviewers (decisions by each),
        run_ids, versions, left_out, and pairs: pair_id to source, candidate_id, custom_ids and event_ids.
    """
    counts = pairs.group_by("source").len().sort("source")
    names = pairs.explode("reviewers").group_by("reviewers").len().sort("reviewers")
    facts = ("source", "candidate_id", "custom_ids", "event_ids")
    return {
        "file": Path(path).name,
        **files.of_file(Path(path)),
        "tasks": sorted(set(pairs["task"])),
        "splits": sorted(set(pairs["split"])),
        "n": pairs.height,
        "by_source": dict(counts.iter_rows()),
        "reviewers": dict(names.iter_rows()),
        "run_ids": sorted(set(pairs["run_id"])),
        "versions": dict(versions),
        "left_out": left_out,
        "pairs": {row["pair_id"]: {fact: row[fact] for fact in facts} for row in pairs.iter_rows(named=True)},
    }
