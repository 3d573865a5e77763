"""The embedded model in its own decoder and in transformers; one thread, so that sums are the same."""

import pytest
import torch

from arislab.tiny.decoder import MODEL_DIR, Engine

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture(scope="module")
def stock():
    """The same weights in transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(MODEL_DIR), model
