"""What was trained is told with its curve and its settings."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from toys import TINY

from arislab import finetune
from arislab.errors import ParameterError


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


def recorded(*rows):
    """Rows of finetuning_runs: arm, seed, rate, version of the data, minute, which names the run too."""
    return pl.DataFrame(
        [
            {
                "id": f"{arm}-{seed}-{minute}", "arm": arm, "base_model": "b", "data_version": data,
                "training_examples": 9, "model_path": f"{arm}-{seed}-{rate}-{data}",
                "created_at": minute, "run_id": f"run-{minute}",
                "hyperparameters": json.dumps(
                    {"seed": seed, "learning_rate": rate, "rows": {"ok": 9}, "early_stop": {"kept_step": minute}}
                ),
            }
            for arm, seed, rate, data, minute in rows
        ]
    )  # fmt: skip


def test_trainings_that_differ_in_their_seed_alone_belong_together():
    rows = recorded(
        ("curated", 1, 0.1, "t@1", 1), ("curated", 1, 0.2, "t@2", 2), ("curated", 3, 0.2, "t@2", 3),
        ("curated", 2, 0.2, "t@2", 3), ("curated", 4, 0.1, "t@2", 2), ("control", 1, 0.2, "t@2", 4),
    )  # fmt: skip
    paths = [row["model_path"] for row in finetune.of_seeds(rows, "curated", n=3)]
    assert paths == [f"curated-{seed}-0.2-t@2" for seed in (2, 3, 1)], "the newest run first, then an earlier one"
    again = pl.concat([rows, recorded(("curated", 9, 0.2, "t@2", 7))])
    assert finetune.of_seeds(again, "curated")[0]["model_path"] == "curated-9-0.2-t@2", "the newest, whatever its seed"
    assert [row["model_path"] for row in finetune.of_seeds(rows, "control")] == ["control-1-0.2-t@2"]
    with pytest.raises(
        ParameterError, match="phase 4 trained 3 of curated alike but for the seed, and 4 are asked for"
    ):
        finetune.of_seeds(rows, "curated", n=4)
    with pytest.raises(ParameterError, match="phase 4 trained 0 of other"):
        finetune.of_seeds(rows, "other")
