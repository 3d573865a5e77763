"""Merged weights are base plus adapter, answer as the adapter does, or are not written; a card says what a model is."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from toys import TINY, disk, names_in, nurses

from arislab import finetune
from arislab.errors import PrerequisiteError, TrainingError
from arislab.finetune import cards

PROMPTS = nurses(range(100, 103))
MERGED = {"base_model": "tiny", "prompts": PROMPTS, "max_new_tokens": 12}


@pytest.fixture
def tuned(trained):
    """A row of finetuning_runs, and the folder of its adapter."""
    row = trained[1].row(0, named=True)
    facts = {"data_version": "training_data_curated@3 reviews@1", "approve_policy": "reviewed", "validation_score": 0.5}
    return row | facts | {"model_path": Path(row["model_path"]).name}, Path(row["model_path"])


def copied(folder, target, **changed):
    """A copy of a folder, with files in place of others (null: without)."""
    shutil.copytree(folder, target)
    for name, content in changed.items():
        path = target / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory):
    """The folder of merged weights, of a base that stops at another token too, and how they agree."""
    root = tmp_path_factory.mktemp("merged")
    own = json.loads((TINY / "generation_config.json").read_text()) | {"eos_token_id": [7, 5], "temperature": 0.6}
    base = copied(TINY, root / "base", generation_config__json=json.dumps(own).encode())
    row = trained[1].row(0, named=True) | {"data_version": "d@1", "approve_policy": "score", "validation_score": None}
    return root / "out", finetune.export_model(row["model_path"], root / "out", row, **MERGED | {"base_model": base})


def test_merged_weights_are_the_base_plus_scaled_b_times_a(merged, tuned):
    from safetensors.torch import load_file

    out, base = load_file(merged[0] / "model.safetensors"), load_file(TINY / "model.safetensors")
    lora = load_file(tuned[1] / "adapter_model.safetensors")
    assert out.keys() == base.keys()
    assert not any("lm_head" in name for name in out), "tied to the embeddings"
    n_changed = 0
    for name, weight in out.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name]
        if f"{key}.lora_A.weight" in lora:
            expected = expected + 16 / 8 * lora[f"{key}.lora_B.weight"] @ lora[f"{key}.lora_A.weight"]
            n_changed += 1
        assert (weight - expected).abs().max() < 1e-6
    assert n_changed == len(lora) / 2 > 20


def test_the_folder_loads_anywhere_and_answers_as_base_and_adapter_do(merged, tuned):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged[0])
    whole = AutoModelForCausalLM.from_pretrained(merged[0])
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), tuned[1])
    said = []
    for messages in PROMPTS["messages"]:
        ids = tokenizer.apply_chat_template(
            json.loads(messages), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        both = [m.generate(**ids, do_sample=False, temperature=None, max_new_tokens=120) for m in (whole, adapted)]
        texts = [tokenizer.decode(answer[0, ids["input_ids"].shape[1] :]) for answer in both]
        assert texts[0] == texts[1]
        said.append(texts[0])
    assert any(text.endswith("<|end|>") for text in said), "they stop"
    assert (merged[1].n, merged[1].n_equal, merged[1].dtype) == (3, 3, "float32")
    assert merged[1].logit_difference < 1e-4 < 0.1 < merged[1].logit_effect


def test_an_answer_ends_at_the_trained_token_and_at_those_of_the_base(merged):
    config = json.loads((merged[0] / "generation_config.json").read_text())
    assert config["eos_token_id"] == [5, 7]
    assert config["temperature"] == 0.6


def test_merged_weights_have_the_type_of_the_base_cast_once(tuned, tmp_path):
    import torch
    from safetensors.torch import load_file

    config = json.loads((TINY / "config.json").read_text()) | {"dtype": "bfloat16"}
    base = copied(TINY, tmp_path / "base", config__json=json.dumps(config).encode())
    agreement = finetune.export_model(tuned[1], tmp_path / "out", tuned[0], **MERGED | {"base_model": base})
    out = load_file(tmp_path / "out/model.safetensors")
    assert {weight.dtype for weight in out.values()} == {torch.bfloat16}
    assert agreement.dtype == "bfloat16"
    assert 1e-3 < agreement.logit_difference < agreement.logit_effect


def test_weights_that_are_not_merged_are_refused_with_the_numbers(tuned, tmp_path, monkeypatch):
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(TrainingError, match=r"answer 0 of 3 prompts.*at least 99%.*logits differ by up to 0\."):
        finetune.export_model(tuned[1], tmp_path / "out", tuned[0], **MERGED)
    assert names_in(tmp_path) == []


def test_another_base_of_the_same_shape_is_refused(tuned, tmp_path):
    from safetensors.torch import load_file, save_file

    base = copied(TINY, tmp_path / "base", model__safetensors=None)
    weights = load_file(TINY / "model.safetensors")
    save_file({name: w + 0.01 for name, w in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrerequisiteError, match=r"was trained on arislab-tiny-\w+ \(sha256 .*is another.*--base-model"):
        finetune.export_model(tuned[1], tmp_path / "out", tuned[0], **MERGED | {"base_model": base})
    assert names_in(tmp_path) == ["base"]


@pytest.mark.parametrize("base_model", [None, "tiny"])
def test_a_damaged_adapter_is_refused_by_the_name_of_the_file(tuned, tmp_path, base_model):
    weights = bytearray((tuned[1] / "adapter_model.safetensors").read_bytes())
    weights[-3] ^= 1
    damages = {"adapter_model__safetensors": bytes(weights), "tokenizer__json": None, "manifest__json": b"[]"}
    for i, (name, content) in enumerate(damages.items()):
        adapter = copied(tuned[1], tmp_path / f"damaged-{i}", **{name: content})
        with pytest.raises(PrerequisiteError, match=name.replace("__", r"\.")):
            finetune.export_model(adapter, tmp_path / "out", tuned[0], **MERGED | {"base_model": base_model})
    assert not (tmp_path / "out").exists()


def test_without_a_prompt_that_can_be_asked_nothing_is_merged(tuned, tmp_path):
    for prompts in (None, PROMPTS.clear(), PROMPTS.with_columns(output=pl.lit(""))):
        with pytest.raises(PrerequisiteError, match="no example to compare"):
            finetune.export_model(tuned[1], tmp_path / "out", tuned[0], **MERGED | {"prompts": prompts})
    assert names_in(tmp_path) == []


def test_a_full_disk_leaves_nothing_and_says_so(tuned, tmp_path):
    with disk(tmp_path / "small", size="2m") as small:
        with pytest.raises(OSError, match="No space left on device"):
            finetune.export_model(tuned[1], small / "out", tuned[0], **MERGED)
        assert names_in(small) == []


def test_the_adapter_itself_goes_out_byte_by_byte_with_a_card(tuned, tmp_path):
    assert finetune.export_model(tuned[1], tmp_path / "out", tuned[0]) is None
    of = json.loads((tuned[1] / "manifest.json").read_text())["files"]
    assert names_in(tmp_path / "out") == sorted({"README.md", "manifest.json", *of})
    for name in of:
        assert (tmp_path / "out" / name).read_bytes() == (tuned[1] / name).read_bytes()
    out = json.loads((tmp_path / "out/manifest.json").read_text())
    assert out["merged"] is None
    assert of.items() <= out["files"].items()


def test_a_card_says_what_it_knows_and_what_it_does_not(merged, tuned, trained):
    card = (merged[0] / "README.md").read_text()
    for text in ("**Not evaluated**", "No control was trained", "| left out | not known |", "3 of 3 greedy answers",
                 "**To be filled in**", "library_name: transformers", "| r | 8 |", "`<|end|>`"):  # fmt: skip
        assert text in card, text
    weights = json.loads((tuned[1] / "manifest.json").read_text())["base"]["sha256"]
    assert f"`{weights}`" in card
    for secret in (str(trained[0]), "Nurse", "Evaluate the candidate", "huggingface.co", "base_model:", "r-0001"):
        assert secret not in card, secret


def test_a_card_shows_the_evaluation_the_control_and_a_base_that_a_hub_knows(tuned):
    manifest = json.loads((tuned[1] / "manifest.json").read_text())
    manifest["base"]["name"] = "google/gemma-3-1b-it"
    scores = pl.DataFrame([
        {"arm": "baseline", "n": 1200, "n_missing": 3, "mean": 0.41234, "low": 0.4, "high": 0.43},
        {"arm": "finetuned", "n": 0, "n_missing": 1203, "mean": None, "low": None, "high": None},
    ])  # fmt: skip
    control = {"training_examples": 40, "drawn": "random", "model_path": "toy-control-0123"}
    roles = {"trained": 40, "held out": 2, "too_long": 7}
    card = cards.card(manifest, tuned[0], roles=roles, control=control, scores=scores)
    for text in ("base_model: google/gemma-3-1b-it", "library_name: peft", "| left out | 7 too_long |",
                 "| held out for the loss | 2 |", "| baseline | 1,200 | 3 | 0.412 | 0.400 to 0.430 |",
                 "| finetuned | 0 | 1,203 | not measured | not measured to not measured |", "drawn: random",
                 "reviewed: people approved or edited each example", "PeftModel.from_pretrained",
                 "| mean quality on validation candidates | 0.500 |"):  # fmt: skip
        assert text in card, text
    for text in ("Not evaluated", "by force"):
        assert text not in card
    assert "No gate judged it." in card
    gate = {"verdict": "hold", "reason": "worse than icl"}
    card = cards.card(manifest, tuned[0], gate=gate, forced="a demo for the board")
    assert "Its gate said **hold**: worse than icl." in card
    assert "**It was promoted by force**, against its gate or without one: a demo for the board." in card
