"""Models that are no Llama are computed by transformers, and give what transformers gives."""

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from toys import chats

from arislab.errors import PrerequisiteError
from arislab.tiny import decoder, sampling
from arislab.tiny.decoder import MODEL_DIR, Engine, Request

ENDS = {"bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}
SMALL = ENDS | {
    "vocab_size": 1152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
WINDOW = 24  # tokens, far less than a prompt has
CONFIGS = {
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=WINDOW),
    "phi3": lambda: transformers.Phi3Config(**SMALL),
    "mistral": lambda: transformers.MistralConfig(**SMALL, sliding_window=WINDOW),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SMALL),
    # as they are saved: without a context, and Mamba without heads
    "bloom": lambda: transformers.BloomConfig(vocab_size=1152, hidden_size=64, n_layer=4, n_head=4, **ENDS),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=1152, n_embd=64, n_layer=3, n_head=4, n_positions=2048, **ENDS),
    "biased llama": lambda: transformers.LlamaConfig(**SMALL, attention_bias=True),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=1152, hidden_size=64, num_hidden_layers=3, state_size=8, **ENDS
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Make a model of random weights: strong enough that texts differ, with the embedded model's tokenizer."""
    parent, made = tmp_path_factory.mktemp("models"), {}

    def folder(kind):
        if kind not in made:
            made[kind] = parent / kind.replace(" ", "-")
            torch.manual_seed(7)
            model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    scale = 0.15 if "embed" not in name else 0.05 if kind == "gemma3" else 0.5
                    weight += scale * torch.randn_like(weight)
            model.save_pretrained(made[kind])
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copy(MODEL_DIR / name, made[kind])
        return made[kind]

    return folder


def endless(folder, **settings):
    """An engine that writes to the limit: random weights would end soon, or never."""
    engine = Engine(folder, **settings)
    engine.ends = frozenset()
    return engine


def asked(engine, n=9, *, k=0, model=None, **settings):
    return [Request(chat, model or engine.base, seed=i, **settings) for i, chat in enumerate(chats(n, k))]


def alone(model, engine, request):
    """What ``generate`` of transformers writes to one request."""
    text = engine.template.render(request.messages)
    ids = engine.tokenizer.encode(text, add_special_tokens=False).ids
    given = torch.tensor([ids])
    model.generation_config.eos_token_id = None
    out = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=request.max_tokens, pad_token_id=0
    )
    return engine.tokenizer.decode(out[0, len(ids) :].tolist(), skip_special_tokens=True)


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_texts_are_those_of_generate(folders, kind, k):
    engine = endless(folders(kind))
    stock = transformers.AutoModelForCausalLM.from_pretrained(folders(kind)).eval()
    requests = asked(engine, k=k, temperature=0.0, max_tokens=40)
    texts = [a.text for a in engine.generate(requests)]
    assert texts == [alone(stock, engine, request) for request in requests]
    assert len(set(texts)) > 1, "the model looks at what is asked"
    assert transformers.__version__ in engine.about


def test_rows_depend_on_their_seed_alone_and_may_be_put_off(folders, monkeypatch):
    engine = endless(folders("qwen3"))
    requests = asked(engine, k=1, temperature=0.9, max_tokens=70)
    requests += asked(engine, 3, k=1, temperature=0.0, max_tokens=5)
    together = engine.generate(requests)
    assert [engine.generate([one])[0] for one in requests[::4]] == together[::4]
    one_more = [replace(r, seed=r.seed + 100) for r in requests[:9]]
    assert [a.text for a in engine.generate(one_more)] != [a.text for a in together[:9]]
    longest = max(a.prompt_tokens + a.completion_tokens for a in together)
    monkeypatch.setattr(sampling, "KEY_VALUE_BYTES", 3 * engine._base_model.bytes_of(longest, 0))
    monkeypatch.setattr(decoder, "EXPECTED_TOKENS", 1)
    assert engine.generate(requests) == together


def test_adapters_stand_beside_weights_that_all_share(folders, tmp_path):
    folder = folders("gemma3")
    for number, name in enumerate(("first-0.5", "second")):
        torch.manual_seed(number)
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
        config = peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned = peft.get_peft_model(plain, config)
        with torch.no_grad():
            for weight_name, weight in tuned.named_parameters():
                if "lora_B" in weight_name:
                    weight += 0.3 * torch.randn_like(weight)
        tuned.save_pretrained(tmp_path / name)
    engine = endless(folder, adapters_dir=tmp_path)
    assert engine.models() == [engine.base, "first-0.5", "second"]
    names = [engine.base, "first-0.5", "second", engine.base, "first-0.5"]
    requests = [replace(asked(engine, 1, temperature=0.0, max_tokens=30)[0], model=name) for name in names]
    base, first, second, base_again, first_again = (a.text for a in engine.generate(requests))
    assert (base, first) == (base_again, first_again)
    assert len({base, first, second}) == 3
    for name, text in (("first-0.5", first), ("second", second)):
        stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
        stock = peft.PeftModel.from_pretrained(stock, tmp_path / name).eval()
        assert alone(stock, engine, requests[0]) == text
    assert engine.generate(requests[:1])[0].text == base  # no adapter stays behind


def test_no_more_adapters_are_kept_than_fit_and_one_for_another_model_is_refused(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "ADAPTED_MODELS", 1)
    for kind, name in (("qwen3", "good"), ("qwen3", "other"), ("phi3", "foreign")):
        plain = transformers.AutoModelForCausalLM.from_pretrained(folders(kind))
        config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        peft.get_peft_model(plain, config).save_pretrained(tmp_path / name)
    engine = Engine(folders("qwen3"), adapters_dir=tmp_path)
    requests = [replace(asked(engine, 1, temperature=0.0, max_tokens=3)[0], model=name)
                for name in ("good", "other", "good", "foreign")]  # fmt: skip
    *fine, foreign = [engine.generate([one])[0] for one in requests]
    assert {a.error for a in fine} == {None}
    assert foreign.error == "model_not_loadable"
    assert "belongs to another base" in foreign.why
    assert len(engine._base_model._model.peft_config) == 1


def test_a_model_that_transformers_does_not_know_is_refused_with_the_way_out(folders, tmp_path):
    shutil.copytree(folders("qwen3"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "qwen9"}))
    with pytest.raises(PrerequisiteError, match=r"qwen9.*serve it with vLLM and give its URL"):
        Engine(tmp_path / "model")
