"""Weights are found here, and nothing is downloaded."""

import pytest

from arislab import finetune
from arislab.errors import PrerequisiteError


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no/such-model", r"nor a model in the local Hugging Face cache.*hf download no/such-model --local-dir FOLDER"),
        ("/no/such/folder", r"no config\.json in '/no/such/folder'; give 'tiny', or a folder"),
        ("llama", r"no config\.json in 'llama'"),
    ],
)
def test_a_base_model_that_is_not_here_is_refused_without_a_download(name, told):
    with pytest.raises(PrerequisiteError, match=told):
        finetune.resolve_model(name)


def test_gguf_is_named_with_who_serves_it(tmp_path):
    file = tmp_path / "model-q4_k_m.gguf"
    file.touch()
    for given in (tmp_path, file):
        with pytest.raises(PrerequisiteError, match=r"as GGUF \(model-q4_k_m\.gguf\).*llama-server.*--upstream"):
            finetune.resolve_model(given)


def test_the_device_comes_with_its_reason():
    device, why = finetune.compute_device()
    assert device in ("cpu", "cuda")
    assert why
