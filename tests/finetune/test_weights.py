"""Weights are found here, and nothing is downloaded."""

import pytest

from arislab import finetune
from arislab.errors import PrerequisiteError


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder", "llama"])
def test_a_base_model_that_is_not_here_is_refused_without_a_download(name):
    with pytest.raises(PrerequisiteError, match=r"neither a folder with a config\.json nor a model in the local"):
        finetune.resolve_model(name)


def test_the_device_comes_with_its_reason():
    device, why = finetune.compute_device()
    assert device in ("cpu", "cuda")
    assert why
