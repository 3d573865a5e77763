"""The weights are what the card says, and training is repeatable."""

import hashlib
import json
from random import Random

import pytest
from toys import chats

from arislab.tiny import grammar, pretrain
from arislab.tiny.decoder import MODEL_DIR, Engine, Request

CARD = MODEL_DIR / "README.md"


def test_the_card_names_the_digest_and_size_of_the_committed_weights():
    path = MODEL_DIR / "model.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in CARD.read_text("utf-8")
    assert path.stat().st_size <= 4_000_000
    record = json.loads((MODEL_DIR / "train.json").read_text("utf-8"))
    assert record["recipe"] == pretrain.read_recipe()
    assert record["steps"] == record["recipe"]["train"]["steps"]


SMALL = {"micro_tokens": 300, "stages": [{"until": 9, "flawless": 0.5, "mix": {"primer 1": 0.5, "document 2": 0.5}}]}


def small_recipe():
    recipe = pretrain.read_recipe()
    return recipe | {"train": recipe["train"] | SMALL | {"steps": 3}}


@pytest.mark.slow
def test_training_is_finite_repeatable_and_goes_on_from_a_checkpoint(tmp_path):
    recipe = small_recipe()
    whole = pretrain.pretrain(recipe, tmp_path / "whole")
    assert whole["steps"] == 3
    assert 0 < whole["answered_tokens"] < whole["tokens"]
    assert all(0 < loss < 10 for loss in whole["loss"].values())
    pretrain.pretrain(recipe, tmp_path / "parts", stop=2, checkpoint_every=1)
    pretrain.pretrain(recipe, tmp_path / "parts", checkpoint_every=1)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    answer = Engine(tmp_path / "whole").generate([Request(chats(1)[0], "whole", max_tokens=3)])[0]
    assert answer.error is None


def test_training_text_is_what_the_chat_template_writes(engine):
    chat = grammar.document(Random(2), 2)
    ids, answered = pretrain.encode([chat], engine.tokenizer)[0]
    text = engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert text + "<|assistant|>" == engine.template.render(chat)
    supervised = engine.tokenizer.decode(
        [i for i, own in zip(ids, answered, strict=True) if own], skip_special_tokens=False
    )
    assert supervised == "".join(m["content"] + "<|end|>" for m in chat if m["role"] == "assistant")


def test_learning_rate_warms_up_stays_and_decays():
    train = pretrain.read_recipe()["train"]
    rates = [pretrain.lr_factor(step, train) for step in range(train["steps"])]
    assert rates[0] < 0.1
    assert rates[100] == 1.0
    assert rates[-1] == pytest.approx(train["final_lr"], abs=0.01)
    assert train["stages"][-1]["until"] == train["steps"]
