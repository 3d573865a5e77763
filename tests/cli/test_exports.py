"""``arislab export --training`` and ``--adapter``: what a training left in the lake, for other programs."""

import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from toys import curated_rows, names_in, nurses

from arislab import curate, finetune
from arislab.__main__ import main
from arislab.review import decisions


@pytest.fixture
def lab(lake, trained):
    """A lake with one training of 40 examples, 20 held out; and the version that it made."""
    folder, rows, _ = trained
    shutil.copytree(folder, lake.models, dirs_exist_ok=True)
    examples, held_out = nurses(range(40)), nurses(range(100, 120))
    both = pl.concat([examples, held_out]).select("id", "messages", "output", custom_id="id")
    stored = curated_rows(60, quality_score=0.9).drop("id", "messages", "output", "custom_id")
    lake["training_data_curated"].append(pl.concat([stored, both], how="horizontal"))
    path = pl.col("model_path").str.split("/").list.last()
    fitted = rows.filter(arm="curated").with_columns(path)
    versions = {name: lake[name].version for name in ("training_data_curated", "reviews")}
    facts = {"data_version": curate.data_version(versions), "approve_policy": "score"}
    lake["finetuning_runs"].upsert(
        fitted.drop("losses", "left_out").with_columns(pl.lit(value).alias(name) for name, value in facts.items())
    )
    lake["training_rows"].upsert(finetune.rows(fitted, {"curated": examples}, held_out))
    return lake, fitted["model_path"][0]


@pytest.fixture
def export(capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["arislab", "export", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openai", "axolotl", "llama-factory"])
def test_a_training_goes_out_as_it_was_learned_and_held_out(lab, export, tmp_path, form):
    code, out, err = export("--training", "--format", form, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "train.jsonl: 40 ok\nvalidation.jsonl: 20 ok\n" in out
    assert ("not checked: tokens" in out) == (form == "openai")
    answers = [line["messages"][-1]["content"] for line in lines(tmp_path / "out/train.jsonl")]
    assert answers == nurses(range(40))["output"].to_list()
    account = json.loads((tmp_path / "out/account.json").read_text())
    run = lab[0]["finetuning_runs"].read().row(0, named=True)
    assert (account["training"], account["data_version"]) == (run["id"], "training_data_curated@0")


def test_an_example_that_was_rejected_since_is_left_out_and_an_edit_since_was_not_learned(lab, export, tmp_path):
    lake, _ = lab
    rows = {row["id"]: row for row in lake["training_data_curated"].read().to_dicts()}
    lake["reviews"].append(decisions.event(rows["r-0003"], "reject", reviewer="Ada"))
    lake["reviews"].append(decisions.event(rows["r-0005"], "edit", reviewer="Ada", edited_output="later"))
    code, out, err = export("--training", "--out", tmp_path / "out")
    assert code == 0
    assert "1 of 60 examples may not be used any more by the decisions of today (first: 'r-0003')" in err
    assert "train.jsonl: 39 ok" in out
    answers = [line["messages"][-1]["content"] for line in lines(tmp_path / "out/train.jsonl")]
    assert answers == nurses([i for i in range(40) if i != 3])["output"].to_list()


def test_an_adapter_goes_out_with_what_its_evaluation_said(lab, export, tmp_path):
    lake, version = lab
    arms = (("baseline", "b", 0.25), ("finetuned", version, 0.5))
    scored = [
        {"evaluation_id": "e", "arm": arm, "candidate_id": str(i), "task": "t", "model": model, "status": "ok",
         "quality": 1.0 - quality, "report": quality} for i in range(4) for arm, model, quality in arms
    ]  # fmt: skip
    lake["evaluations"].append(pl.DataFrame(scored))
    code, out, err = export("--adapter", version, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out == f"{version}, with a card, in {tmp_path / 'out'}\n"
    card = (tmp_path / "out/README.md").read_text()
    for text in ("| baseline | 4 | 0 | 0.250 |", "| finetuned | 4 | 0 | 0.500 |", "| held out for the loss | 20 |"):
        assert text in card, text
    assert str(lake.path) not in card
    assert "adapter_model.safetensors" in names_in(tmp_path / "out")


@pytest.mark.slow
def test_merged_weights_are_compared_on_what_was_held_out(lab, export, tmp_path):
    _, version = lab
    code, out, _ = export("--adapter", version, "--merged", "--out", tmp_path / "out")
    assert code == 0
    assert "20 of 20 greedy answers equal the adapter's" in out
    assert f"{version} merged into its base, with a card, in {tmp_path / 'out'}\n" in out
    assert json.loads((tmp_path / "out/manifest.json").read_text())["merged"]["n"] == 20


def test_what_cannot_be_exported_is_one_clear_error_and_writes_nothing(lab, export, tmp_path):
    lake, version = lab
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("mine")
    new = tmp_path / "out"
    for words, message in [
        (["--training"], "export --training needs --out DIR"),
        (["--adapter", version], "export --adapter needs --out DIR"),
        (["--merged", "--out", new], "export needs one of --icl"),
        (["--training", "--icl", "--out", new], "export needs one of --icl"),
        (["--training", "--merged", "--out", new], "export needs one of --icl"),
        (["--training", "--format", "opnai", "--out", new], "did you mean 'openai'"),
        (["--training", "--out", tmp_path / "taken"], "taken exists already; give a new folder with --out"),
        (["--adapter", f"{version}x", "--out", new], f"no adapter '{version}x' was trained; did you mean '{version}'"),
        (["--adapter", version, "--merged", "--base-model", tmp_path, "--out", new], "no config.json"),
        (["--training", "--out", tmp_path / "taken/mine/out"], "cannot write"),
    ]:
        code, out, err = export(*words)
        assert (code, out) == (2, ""), words
        assert message in err
        assert "Traceback" not in err
    assert not new.exists()
    assert names_in(tmp_path / "taken") == ["mine"]
    weights = lake.models / version / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    code, _, err = export("--adapter", version, "--out", new)
    assert (code, "adapter_model.safetensors" in err, new.exists()) == (2, True, False)


def test_without_a_training_the_way_to_one_is_named(lake, export, tmp_path):
    code, _, err = export("--training", "--out", tmp_path / "out")
    assert (code, err) == (2, "arislab: no adapter is trained; `arislab run finetune` trains some.\n")
    assert not Path(tmp_path / "out").exists()
