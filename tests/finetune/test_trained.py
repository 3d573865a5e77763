"""What was trained is told with its curve and its settings."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from toys import TINY

from arislab import finetune


def test_the_loss_falls_on_the_training_rows_and_on_rows_held_out(trained):
    _, rows, _ = trained
    curves = finetune.losses(rows)
    assert curves.columns == ["arm", "step", "train_loss", "eval_loss"]
    curve = curves.filter(pl.col("arm") == "curated")
    measured = curve.drop_nulls("eval_loss")
    assert measured["step"].to_list() == [0, 5, 10, 15, 20]
    assert measured["eval_loss"][-1] < 0.7 * measured["eval_loss"][0]
    losses = curve["train_loss"].drop_nulls()
    assert losses.tail(5).mean() < 0.7 * losses.head(5).mean()
    first = rows.row(0, named=True)
    assert first["eval_loss"] == measured["eval_loss"][-1]
    assert first["train_loss"] == pytest.approx(losses.tail(5).mean())


def test_a_row_says_what_was_trained(trained):
    folder, rows, other = trained
    row = rows.row(0, named=True)
    assert (row["name"], row["arm"], row["method"], row["device"], row["training_examples"]) == (
        "toy",
        "curated",
        "lora",
        "cpu",
        40,
    )
    weights = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert row["base_model"] == f"arislab-tiny-{weights[:8]}"
    assert Path(row["model_path"]) == folder / f"toy-curated-{row['adapter_sha256'][:12]}"
    hyperparameters = json.loads(row["hyperparameters"])
    assert (hyperparameters["r"], hyperparameters["steps"], hyperparameters["rows"]) == (8, 20, {"ok": 40})
    assert hyperparameters["stop_tokens"] == ["<|end|>"]
    assert row["seconds"] > 0
    assert other["eval_loss"].to_list() == [None]
