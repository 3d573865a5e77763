"""Rows of the table ``models``, which notebooks of earlier versions write; ``model_events`` has taken its place."""

import json
from typing import Any

import polars as pl


def promote(models: pl.DataFrame, tuned: dict[str, Any], gate: dict[str, Any]) -> pl.DataFrame:
    """Return the rows of ``models`` that follow from a verdict: the new champion, and the one that it retires.

    Args:
        models: Rows of ``models``: name, version, alias, created_at; the newest row of a version is its state.
        tuned: The row of ``finetuning_runs`` that was evaluated.
        gate: From ``gate``.
    """
    facts = {name: tuned[name] for name in ("name", "base_model", "adapter_sha256")}
    won = gate["verdict"] == "promote"
    version = {
        "version": tuned["model_path"],
        "adapter_path": tuned["model_path"],
        "alias": "champion" if won else "candidate",
    }
    # one spelling of one gate: a run that is repeated must write the same row
    rows = [facts | version | {"gate": json.dumps(gate, sort_keys=True, separators=(",", ":"), allow_nan=False)}]
    state = models.filter(pl.col("name") == tuned["name"]).sort("created_at").unique("version", keep="last")
    for old in (
        state.filter((pl.col("alias") == "champion") & (pl.col("version") != tuned["model_path"])).to_dicts()
        if won
        else []
    ):
        rows.append(
            {k: old[k] for k in ("name", "base_model", "adapter_sha256", "version", "adapter_path", "gate")}
            | {"alias": "retired"}
        )
    return pl.DataFrame(rows, schema_overrides={"gate": pl.String})


def register(trained: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of ``models`` for adapters that were trained; a version that is known keeps its state.

    Args:
        trained: From ``finetune.train``: name, base_model, adapter_sha256, model_path, arm. The arm curated is a
            candidate for promotion, every other one a control.
        known: Rows of ``models``: version.
    """
    alias = pl.when(pl.col("arm") == "curated").then(pl.lit("candidate")).otherwise(pl.lit("control"))
    rows = trained.select(
        "name", "base_model", "adapter_sha256", version="model_path", adapter_path="model_path", alias=alias
    )
    return rows.join(known, on="version", how="anti", maintain_order="left")  # one row per new version
