"""Settings are refused before a process starts."""

import re

import pytest
from toys import nurses

from arislab import finetune
from arislab.errors import ParameterError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "qlore"}, "method 'qlore' is not known; did you mean 'qlora'"),
        ({"backend": "axolotl"}, "backend 'axolotl' is not known; Known: auto, trl, unsloth"),
        ({"r": 0}, "r must be a whole number from 1, got 0"),
        ({"r": True}, "r must be a whole number from 1, got True"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1, got 2.5"),
        ({"max_length": -1}, "max_length must be"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
        ({"num_train_epochs": "3"}, "num_train_epochs must be a number above 0, got '3'"),
        ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps must divide batch_size 16, got 3"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes must be a number from 0, got nan"),
        ({"checkpoint_steps": -1}, "checkpoint_steps must be a whole number from 0, got -1"),
        ({"early_stopping": 2}, "early_stopping 2 needs held-out examples, and there are none"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"name": "../up"}, "'../up' becomes part of a model name"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_a_process_starts(tmp_path, setting, message):
    given_settings = {"base_model": "tiny", "folder": tmp_path / "models", **setting}
    with pytest.raises(ParameterError, match=re.escape(message)):
        finetune.train({"a": nurses(range(4))}, None, **given_settings)
    assert not (tmp_path / "models").exists()


def test_settings_made_beforehand_or_named_in_the_call_are_the_same_and_one_can_be_changed(tmp_path):
    named = {"base_model": "tiny", "folder": tmp_path, "r": 4}
    settings = finetune.Settings(**named)
    assert finetune.check(settings) == finetune.check(**named)
    with pytest.raises(ParameterError, match="max_length must be at most 2048, the context of tiny, got 4096"):
        finetune.check(settings, max_length=4096)
    with pytest.raises(ParameterError, match="r must be a whole number from 1, got 0"):
        finetune.train({"a": nurses([1])}, None, settings, r=0)


def test_what_changes_the_weights_is_recorded_and_where_they_lie_is_not(tmp_path):
    numbers = finetune.Settings(base_model="tiny", folder=tmp_path, name="mine", r=4).numbers
    assert numbers["r"] == 4
    assert not {"base_model", "folder", "name", "chat_template_kwargs"} & set(numbers)
    safer = finetune.Settings(base_model="tiny", folder=tmp_path, r=4, checkpoint_steps=9, checkpoint_minutes=1)
    assert safer.numbers == numbers, "what only saves changes no adapter's manifest"
    assert safer.checkpoints == {"steps": 9, "minutes": 1}
    stops = finetune.Settings(base_model="tiny", folder=tmp_path, r=4, early_stopping=2)
    assert stops.numbers == {**numbers, "early_stopping": 2}
    assert {"method", "backend", "lora_alpha", "learning_rate", "num_train_epochs", "batch_size", "seed"} < set(numbers)
