"""The tokenizer of the embedded model: byte-level BPE trained on the grammar, with a chat template.

Digits stand alone (with their leading space), and every skill is one token, so that copied text is the same tokens
everywhere. The template has no generation markers: labels are built from prefixes (see arislab.finetune).
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from arislab.tiny.grammar import SKILLS, document, primer, titles

SPECIAL = ["<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|end|>",
    "pad_token": "<|pad|>",
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
    "backend": "tokenizers",
}


def corpus(seed: int = 1) -> Iterator[str]:
    """Yield the texts that the tokenizer learns from."""
    rng = Random(seed)
    for _ in range(3000):
        yield from (message["content"] for message in document(rng, 2) + primer(rng, 1))
    for word in (*SKILLS, *titles()):
        yield from [" " + word] * 60  # often enough that all its merges are made


@cache
def build(vocab_size: int = 1152) -> Any:
    """Train a ``tokenizers.Tokenizer``; the same vocabulary each time."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def save(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer as transformers, vLLM and arislab.tiny.decoder read it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
