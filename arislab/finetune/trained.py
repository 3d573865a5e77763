"""What `train` returned, read: its curves, what each adapter learned from, and how it must be asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import ParameterError

COLUMNS = {
    "id": pl.String,
    "name": pl.String,
    "arm": pl.String,
    "base_model": pl.String,
    "method": pl.String,
    "training_examples": pl.Int64,
    "train_loss": pl.Float64,
    "eval_loss": pl.Float64,
    "model_path": pl.String,
    "hyperparameters": pl.String,
    "adapter_sha256": pl.String,
    "seconds": pl.Float64,
    "device": pl.String,
    "losses": pl.String,
    "left_out": pl.String,
    "resumed": pl.Int64,
}
"""Of what `train` returns."""


def names(trained: pl.DataFrame) -> pl.Series:
    """Return a name for each training: its arm, and from the second seed on its number, such as ``curated #2``.

    Args:
        trained: arm, in the order of the seeds.
    """
    number = pl.int_range(pl.len()).over("arm") + 1
    later = pl.concat_str("arm", pl.lit(" #"), number)
    return trained.select(pl.when(number > 1).then(later).otherwise("arm").alias("label")).to_series()


def with_control(arm: str) -> tuple[str, str]:
    """Return an arm of ``finetuning_runs`` and the one that shows what it is worth.

    Args:
        arm: curated, or a loss of ``prefer``.

    Example:
        >>> with_control("curated"), with_control("dpo")
        (('curated', 'control'), ('dpo', 'dpo-control'))
    """
    return arm, "control" if arm == "curated" else f"{arm}-control"


def started_from(tuned: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the adapter that a training went on with, as a list of one; an empty one of a new adapter.

    Of one whose folder is not here, as where only the server has it, nothing is known.

    Args:
        tuned: A row of ``finetuning_runs``: model_path.
        folder: Of the adapters.
    """
    path = folder / tuned["model_path"] / "manifest.json"
    start = json.loads(path.read_text(encoding="utf-8")).get("start") if path.is_file() else None
    return [start["name"]] if start else []


def of_seeds(trained: pl.DataFrame, arm: str, *, n: int = 1) -> list[dict[str, Any]]:
    """Return the newest training of an arm, and others that are alike but for their seed.

    Those of the newest run come first, in the order of their seeds: whoever trains again with another seed evaluates
    that one.

    Args:
        trained: Rows of ``finetuning_runs``.
        arm: curated, control, or an arm of ``prefer``.
        n: How many.

    Raises:
        ParameterError: There are fewer.
    """
    rows = trained.filter(arm=arm).sort("created_at", "id").to_dicts()
    alike = [row for row in rows if _kind(row) == _kind(rows[-1])]
    by_seed = {_seed(row): row for row in alike}
    if len(by_seed) < n or not by_seed:
        raise ParameterError(
            f"phase 4 trained {len(by_seed)} of {arm} alike but for the seed, and {n} are asked for; run it with "
            f"-p seeds {n} (arislab run finetune), or ask for fewer."
        )
    newest = rows[-1]["run_id"]
    return sorted(by_seed.values(), key=lambda row: (row["run_id"] != newest, _seed(row)))[:n]


def _kind(row: Mapping[str, Any]) -> str:
    settings = json.loads(row["hyperparameters"] or "{}")
    for own in ("seed", "early_stop"):  # when it stops is a result of the seed
        settings.pop(own, None)
    return json.dumps([row["base_model"], row["data_version"], row["training_examples"], settings], sort_keys=True)


def _seed(row: Mapping[str, Any]) -> int:
    return int(json.loads(row["hyperparameters"] or "{}").get("seed", 0))


def losses(trained: pl.DataFrame) -> pl.DataFrame:
    """Return the loss curves of what `train` returned.

    Returns:
        One row per training and step at which something was measured: arm (see ``names``), step, train_loss (mean
        since the row before) and eval_loss, both in nats per trained token; null is the one that was not measured.
    """
    columns = {"arm": pl.String, "step": pl.Int64, "train_loss": pl.Float64, "eval_loss": pl.Float64}
    rows = [
        {"arm": name, **row}
        for name, curve in zip(names(trained), trained["losses"], strict=True)
        for row in json.loads(curve)
    ]
    return pl.DataFrame(rows, schema=columns)


def rows(trained: pl.DataFrame, sets: Mapping[str, pl.DataFrame], validation: pl.DataFrame | None) -> pl.DataFrame:
    """Return what each adapter learned from, in the columns of ``training_rows``.

    Args:
        trained: What ``train`` returned.
        sets: What it was given: arm -> examples (reads id).
        validation: What it was given (reads id).

    Returns:
        One row per adapter and example: model_path, arm, id, role (trained; held out: scored for the loss, not learned
        from; or one of ``STATUSES``: why it was left out).
    """
    parts = []
    for arm, path, left_out in trained.select("arm", "model_path", "left_out").iter_rows():
        role = pl.col("id").replace_strict(json.loads(left_out), default="trained", return_dtype=pl.String)
        learned = sets[arm].select("id", role=role)
        held = [] if validation is None else [validation.select("id", role=pl.lit("held out"))]
        both = pl.concat([learned, *held]).select(
            pl.lit(path).alias("model_path"), pl.lit(arm).alias("arm"), "id", "role"
        )
        parts.append(both)
    return pl.concat(parts)


def asked_as(tuned: Mapping[str, Any], *others: str | None, chat_template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which the arms of an evaluation must be asked: those with which the adapter was trained.

    Args:
        tuned: A row of ``finetuning_runs``.
        others: Records of the arms beside it, as JSON: hyperparameters of another adapter, params of an example set;
            null in older rows.
        chat_template_kwargs: What the caller wants; empty: as recorded.

    Raises:
        ParameterError: The caller wants another, or an arm beside it was made with another.
    """
    trained = json.loads(tuned["hyperparameters"] or "{}")
    recorded = trained.get("chat_template_kwargs") or {}
    mine, wanted = _chosen(recorded), _chosen(chat_template_kwargs)
    if wanted and wanted != mine:
        raise ParameterError(
            f"chat_template_kwargs must be {mine!r}, with which {tuned['model_path']} was trained, got {wanted!r}; "
            "leave it out, or train with it."
        )
    for other in others:
        theirs = _chosen(json.loads(other or "{}").get("chat_template_kwargs") or {})
        if theirs != mine:
            same = f"-p chat_template_kwargs '{json.dumps(mine or theirs)}'"
            raise ParameterError(
                f"{tuned['model_path']} was trained with chat_template_kwargs {mine!r}, and an arm beside it was "
                f"made with {theirs!r}; run phases 3 and 4 with the same, such as {same}."
            )
    return chat.fields(chat_template_kwargs=recorded, system_role=trained.get("system_role", ""))


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the date, which `train` adds where a template takes one."""
    return {name: value for name, value in given.items() if name != chat.DATE}
