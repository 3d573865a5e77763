"""Tokens are drawn as they should be, and other layers are refused."""

import pytest
import torch

from arislab.errors import PrerequisiteError
from arislab.tiny.llama import Llama, problems
from arislab.tiny.sampling import draw


def test_top_p_keeps_the_likeliest_tokens_only():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(1000, 1)
    noise = torch.linspace(0, 0.9999, 1000)

    def seen(temperature, top_p):
        settings = torch.full((1000,), temperature), torch.full((1000,), top_p)
        return torch.bincount(draw(logits, *settings, noise), minlength=4).tolist()

    assert seen(0.0, 1.0) == [1000, 0, 0, 0]
    assert seen(1.0, 0.0) == [1000, 0, 0, 0]
    assert seen(1.0, 0.5) == [1000, 0, 0, 0]
    nucleus = seen(1.0, 0.7)
    assert nucleus[2:] == [0, 0]
    assert nucleus[0] == pytest.approx(625, abs=2)
    assert seen(1.0, 1.0) == pytest.approx([500, 300, 150, 50], abs=2)
    assert seen(0.5, 1.0)[0] > 650


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen3"},
        {"rope_parameters": {"rope_type": "llama3"}},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
    ],
)
def test_a_checkpoint_that_would_be_computed_wrongly_is_refused(engine, change):
    name, value = next(iter(change.items()))
    told = {"rope_parameters": "rope_type 'llama3', allowed is 'default'", "attention_bias": "biases, allowed is none"}
    expected = told.get(name, f"{name} {value!r}, allowed is")
    assert [problem.startswith(expected) for problem in problems(engine.config | change)] == [True]
    with pytest.raises(PrerequisiteError, match="this checkpoint has"):
        Llama(engine.config | change, engine.weights)
