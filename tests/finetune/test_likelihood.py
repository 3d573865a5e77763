import json
import math
import shutil

import polars as pl
import pytest
import torch
import transformers

from arislab import finetune
from arislab.errors import TrainingError
from arislab.tiny.weights import MODEL_DIR

ANSWERS = ["A fit.", "Hire her.", "Do not hire him, he has never worked here.", "A fit!", "Z 9 q", "", "A fit. " * 60]


@pytest.fixture(scope="module")
def answers():
    messages = [[{"role": "user", "content": f"Candidate {i} " * (i % 3 + 1)}] for i in range(len(ANSWERS))]
    return pl.DataFrame(
        {
            "id": [f"r-{i}" for i in range(len(ANSWERS))],
            "messages": [json.dumps(chat) for chat in messages],
            "output": ANSWERS,
            "task": "fit",
        }
    )


def random_model(folder, config):
    torch.manual_seed(3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL_DIR / name, folder)
    return folder


@pytest.fixture(scope="module", params=["tiny", "gpt2", "mamba"])
def model(request, tmp_path_factory):
    ends = {"vocab_size": 1152, "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}
    if request.param == "tiny":
        return "tiny"
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":  # knows the place of a token by its number: padding on the left would shift it
        return random_model(folder, transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, **ends))
    return random_model(folder, transformers.MambaConfig(hidden_size=64, num_hidden_layers=2, state_size=8, **ends))


def told(answers, model, **more):
    tokens = finetune.tokenize(answers, model, max_length=200)
    identity = finetune.identity(model)
    return tokens, pl.concat(finetune.perplexities(answers, tokens, base_model=model, identity=identity, **more))


def test_the_figures_are_the_loss_of_transformers_row_by_row(answers, model):
    tokens, known = told(answers, model)
    usable = tokens.filter(pl.col("status") == "ok")
    assert sorted(known["custom_id"]) == sorted(usable["id"])
    assert known.height == len(ANSWERS) - 2  # neither the empty one nor the longest has a figure
    stock = transformers.AutoModelForCausalLM.from_pretrained(finetune.resolve_model(model)).eval()
    of_row = {row["custom_id"]: row for row in known.to_dicts()}
    for row in usable.to_dicts():
        with torch.no_grad():
            loss = stock(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        assert of_row[row["id"]]["logprob_mean"] == pytest.approx(-float(loss), abs=1e-4)
        assert of_row[row["id"]]["n_supervised"] == row["n_supervised"]


def test_rows_that_are_added_later_change_no_figure(answers):
    _, every = told(answers, "tiny")
    _, few = told(answers.head(2), "tiny")
    both = every.join(few, on=["base_sha256", "asked_as", "custom_id", "output_sha256"], suffix="_few")
    assert both.height == few.height == 2
    assert both["logprob_mean"].to_list() == pytest.approx(both["logprob_mean_few"].to_list(), abs=1e-5)


def test_two_models_two_templates_and_two_texts_are_told_apart(answers):
    assert finetune.identity("tiny") == finetune.identity(MODEL_DIR)
    assert finetune.identity("tiny") != finetune.identity("tiny", chat_template_kwargs={"enable_thinking": False})
    changed = answers.with_columns(output=pl.lit("Another."))
    assert not set(finetune.digests(answers)["output_sha256"]) & set(finetune.digests(changed)["output_sha256"])


def test_nothing_to_look_at_loads_no_model(answers):
    tokens = finetune.tokenize(answers, "tiny", max_length=1)
    assert not list(finetune.perplexities(answers, tokens, base_model="nowhere", identity={}))


def test_broken_weights_are_named_and_give_no_figure(answers, tmp_path):
    ends = {"vocab_size": 1152, "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}
    folder = random_model(tmp_path, transformers.GPT2Config(n_embd=64, n_layer=1, n_head=4, **ends))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.wte.weight[:] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(TrainingError, match="a probability that is no number"):
        told(answers, folder)
