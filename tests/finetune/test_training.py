"""The same rows give the same adapter, and sets that cannot be trained are refused before a process starts."""

import importlib.util
import json
import re

import polars as pl
import pytest
from toys import need, nurses

from arislab import finetune
from arislab.errors import ParameterError, PrerequisiteError, TrainingError
from arislab.tiny.weights import multiplies_bfloat16


@pytest.mark.slow
def test_the_same_rows_in_another_order_and_process_give_the_same_adapter_bit_for_bit(trained):
    _, rows, other = trained
    assert rows["adapter_sha256"].n_unique() == 1
    assert rows["id"].n_unique() == 2
    assert other["adapter_sha256"][0] not in rows["adapter_sha256"]


def test_a_set_without_a_usable_row_is_refused_with_its_reasons_before_any_set_is_trained(tmp_path):
    long = nurses([1]).with_columns(output=pl.lit("no end " * 600))
    for sets, validation in (
        ({"fine": nurses(range(4)), "a": long}, None),
        ({"fine": nurses(range(2, 4))}, long),
    ):
        with pytest.raises(
            TrainingError,
            match=r"none of the 1 examples of set '\w+' can be used: \{'too_long': 1\}.*max_length is 512",
        ):
            finetune.train(sets, validation, base_model="tiny", folder=tmp_path / "models", name="toy")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("sets", "validation", "message"),
    [
        ({}, None, "sets is empty"),
        ({"a/b": nurses([1])}, None, "'a/b' becomes part of a model name"),
        ({"a": nurses([1]).drop("output")}, None, r"set 'a' has no column ['output']"),
        ({"a": nurses([1]).head(0)}, None, "set 'a' has no rows"),
        ({"a": nurses([1, 1])}, None, "set 'a' has 2 rows with repeated ids"),
        ({"a": nurses([1, 2])}, nurses([2, 3]), "1 examples of set 'a' also stand in validation"),
    ],
)
def test_sets_that_cannot_be_trained_are_refused_before_a_process_starts(tmp_path, sets, validation, message):
    with pytest.raises((TrainingError, ParameterError), match=re.escape(message)):
        finetune.train(sets, validation, base_model="tiny", folder=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("missing", "setting", "pip"),
    [
        ("bitsandbytes", {"method": "qlora"}, "pip install 'bitsandbytes>=0.48'"),
        ("unsloth", {"backend": "unsloth"}, "pip install 'unsloth>=2026.8'"),
        ("trl", {}, 'pip install "arislab[train]"'),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, missing, setting, pip):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(PrerequisiteError, match=re.escape(missing) + ".*" + re.escape(pip)):
        finetune.train({"a": nurses([1])}, None, base_model="tiny", folder=tmp_path, **setting)


@pytest.mark.slow
def test_each_seed_is_a_training_of_its_own_and_the_first_is_the_one_without_seeds(tmp_path):
    how = {"base_model": "tiny", "folder": tmp_path, "num_train_epochs": 2, "batch_size": 4, "seed": 4}
    rows = finetune.train({"a": nurses(range(12)), "b": nurses(range(12, 24))}, None, seeds=2, **how)
    assert rows["arm"].to_list() == ["a", "b", "a", "b"]
    assert [json.loads(h)["seed"] for h in rows["hyperparameters"]] == [4, 4, 5, 5]
    assert rows["adapter_sha256"].n_unique() == rows["model_path"].n_unique() == 4
    assert finetune.names(rows).to_list() == ["a", "b", "a #2", "b #2"]
    assert finetune.losses(rows)["arm"].unique(maintain_order=True).to_list() == ["a", "b", "a #2", "b #2"]
    alone = finetune.train({"a": nurses(range(12))}, None, **how)
    assert (alone["id"][0], alone["adapter_sha256"][0]) == (rows["id"][0], rows["adapter_sha256"][0])
    for seeds in (0, 101, 2.0, True):
        with pytest.raises(ParameterError, match="seeds must be a whole number from 1 to 100"):
            finetune.train({"a": nurses(range(4))}, None, seeds=seeds, **how)


def test_without_validation_rows_there_is_an_adapter_and_no_loss_of_its_own(tmp_path):
    rows = finetune.train(
        {"a": nurses(range(6))}, nurses([1]).clear(), base_model="tiny", folder=tmp_path, num_train_epochs=1
    )
    assert rows["eval_loss"].to_list() == [None]
    assert rows["train_loss"][0] > 0
    assert finetune.losses(rows)["eval_loss"].null_count() == finetune.losses(rows).height
    assert (tmp_path / rows["model_path"][0]).is_dir()


def test_a_base_in_bfloat16_lowers_the_loss(tmp_path):
    need("bfloat16", present=multiplies_bfloat16(), why="this CPU does not multiply bfloat16")
    assert lowered(tmp_path, method="bf16-lora")


def test_qlora_lowers_the_loss(tmp_path):
    present = importlib.util.find_spec("bitsandbytes") is not None
    need("bitsandbytes", present=present, why="bitsandbytes is not installed (it comes with the gpu extra)")
    assert lowered(tmp_path, method="qlora")


def test_unsloth_lowers_the_loss(tmp_path):
    present = importlib.util.find_spec("unsloth") is not None
    need("unsloth", present=present, why="unsloth is not installed (it comes with the gpu extra)")
    assert lowered(tmp_path, backend="unsloth")


@pytest.mark.gpu
def test_training_on_a_gpu_lowers_the_loss(tmp_path):
    need("gpu", present=finetune.compute_device()[0] == "cuda", why="no CUDA device")
    assert lowered(tmp_path)


def lowered(folder, **settings):
    quick = {"base_model": "tiny", "folder": folder, "batch_size": 8}
    rows = finetune.train({"a": nurses(range(40))}, nurses(range(100, 120)), **quick, **settings)
    measured = finetune.losses(rows)["eval_loss"].drop_nulls()
    return measured[-1] < 0.8 * measured[0]
