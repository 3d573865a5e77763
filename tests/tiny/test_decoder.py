"""The decoder computes what transformers and PEFT compute."""

import gc
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import chats, random_adapter

from arislab.tiny import decoder, llama, sampling, tokenizer
from arislab.tiny.decoder import MODEL_DIR, Engine, Request, clusters
from arislab.tiny.sampling import Row


def requests(engine, n, *, k=0, seeds=None, **settings):
    return [Request(chat, engine.base, seed=seeds[i] if seeds else i, **settings) for i, chat in enumerate(chats(n, k))]


def greedy(stock, chat, max_new_tokens=120):
    tok, model = stock
    given = tok.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**given, do_sample=False, max_new_tokens=max_new_tokens)
    return tok.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


def test_log_probabilities_are_those_of_transformers_and_change_no_text(engine, stock):
    asked = requests(engine, 6, temperature=0.9, top_p=0.9, max_tokens=60)
    plain = engine.generate(asked)
    given = [replace(one, logprobs=i != 2, top_logprobs=(0, 3, 3, 20, 0, 1)[i]) for i, one in enumerate(asked)]
    answers = engine.generate(given)
    assert [(a.text, a.completion_tokens) for a in answers] == [(a.text, a.completion_tokens) for a in plain]
    assert [a.logprobs is None for a in answers] == [False, False, True, False, False, False]
    assert all(a.logprobs is None for a in plain)
    tok, model = stock
    for request, answer in zip(given, answers, strict=True):
        if answer.logprobs is None:
            continue
        assert "".join(token for token, *_ in answer.logprobs).strip() == answer.text.strip()
        prompt = tok.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        written = tok(answer.text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
        known = logits.log_softmax(-1).gather(1, torch.tensor(written)[:, None]).squeeze(1)
        assert [value for _, value, _ in answer.logprobs] == pytest.approx(known.tolist(), abs=2e-4)
        values, tokens = logits.log_softmax(-1).topk(request.top_logprobs)
        assert [[q for _, q in top] for *_, top in answer.logprobs] == [
            pytest.approx(row, abs=2e-4) for row in values.tolist()
        ]
        assert [[text for text, _ in top[:1]] for *_, top in answer.logprobs] == [
            [tok.decode([token], skip_special_tokens=True) for token in row[:1]] for row in tokens.tolist()
        ]


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 5])
def test_greedy_texts_equal_those_of_transformers(engine, stock, k):
    asked = requests(engine, 16, k=k, temperature=0.0, max_tokens=120)
    answers = engine.generate(asked)
    assert [a.text for a in answers] == [greedy(stock, r.messages) for r in asked]
    tok, _ = stock
    ids = tok.apply_chat_template(asked[0].messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert answers[0].prompt_tokens == len(ids)
    assert {a.finish_reason for a in answers} == {"stop"}
    assert all(a.completion_tokens == len(tok(a.text)["input_ids"]) + 1 for a in answers)


def test_the_same_requests_give_the_same_texts_also_in_a_new_engine(engine):
    asked = requests(engine, 40, temperature=0.9)
    first = engine.generate(asked)
    assert engine.generate(asked) == first
    assert Engine().generate(asked) == first


def test_a_row_does_not_depend_on_its_neighbours(engine):
    asked = requests(engine, 20, k=1, temperature=0.9) + requests(engine, 4, temperature=0.0, max_tokens=5)
    together = [a.text for a in engine.generate(asked)]
    assert [engine.generate([r])[0].text for r in asked[::5]] == together[::5]
    assert [a.text for a in engine.generate(asked[::-1])] == together[::-1]


def test_rows_with_one_seed_share_their_luck_and_rows_without_seed_do_not(engine):
    chat = chats(1)[0]

    def distinct(**seed):
        return len({a.text for a in engine.generate([Request(chat, engine.base, 0.9, **seed) for _ in range(8)])})

    assert distinct(seed=3) == 1
    assert len({a.text for a in engine.generate(requests(engine, 1, temperature=0.9) * 2)}) == 1
    own = [Request(chat, engine.base, 0.9, seed=i) for i in range(8)]
    assert len({a.text for a in engine.generate(own)}) > 1
    unseeded = [Request(chat, engine.base, 0.9 + i / 1000) for i in range(8)]
    assert len({a.text for a in engine.generate(unseeded)}) > 1
    assert engine.generate(unseeded) == engine.generate(unseeded)


def test_max_tokens_cuts_and_says_so(engine):
    answers = engine.generate(requests(engine, 2, max_tokens=7))
    assert [(a.finish_reason, a.completion_tokens) for a in answers] == [("length", 7)] * 2


def test_a_row_that_cannot_be_answered_says_why_and_leaves_its_siblings_alone(engine):
    good = requests(engine, 1, temperature=0.0)[0]
    long = replace(good, messages=[{"role": "user", "content": "Skills: " + "Python, " * 1100}])
    unknown = replace(good, model="gpt-none")
    broken = replace(good, messages=[{"role": "user"}, {"role": "user", "content": None}])
    answers = engine.generate([long, good, unknown, good])
    assert [a.error for a in answers] == ["context_length_exceeded", None, "model_not_found", None]
    assert answers[0].prompt_tokens > 2048
    assert answers[1] == answers[3] == engine.generate([good])[0]
    assert engine.generate([broken, good])[1] == answers[1]


def test_a_prompt_that_nearly_fills_the_context_gets_what_is_left(engine):
    chat = [{"role": "user", "content": "Skills:" + " Python" * 2036}]
    answer = engine.generate([Request(chat, engine.base, 1.0, max_tokens=50)])[0]
    assert answer.prompt_tokens + answer.completion_tokens <= 2048
    assert answer.error is None


def test_a_stop_text_ends_the_answer_where_it_is_written(engine):
    chat = chats(1)[0]
    whole = engine.generate([Request(chat, engine.base, 0.0)])[0]
    ids = engine.tokenizer.encode(whole.text, add_special_tokens=False).ids
    marks = [whole.text[i : i + 7] for i in range(5, len(whole.text) - 7, 3)]  # most lie across tokens
    asked = [Request(chat, engine.base, 0.0, stop=("never written", mark)) for mark in marks]
    answers = engine.generate([*asked, Request(chat, engine.base, 0.0, stop=("never written", ""))])
    assert answers.pop() == whole
    for mark, answer in zip(marks, answers, strict=True):
        written = next(n for n in range(1, len(ids) + 1) if mark in engine.tokenizer.decode(ids[:n]))
        assert (answer.text, answer.finish_reason) == (whole.text[: whole.text.index(mark)], "stop")
        assert answer.completion_tokens == written
    assert min(a.completion_tokens for a in answers) < len(ids) / 4
    both = engine.generate([Request(chat, engine.base, 0.0, stop=(marks[9], marks[3]))])[0]
    assert both == answers[3]


def test_a_stop_text_may_lie_across_the_bytes_of_a_character(engine):
    def stopped(text, stop):
        row, ids = Row([], 0.0, 1.0, 99, 0, stop), engine.tokenizer.encode(text, add_special_tokens=False).ids
        for n in range(1, len(ids) + 1):
            row.written = ids[:n]
            if engine._is_stopped(row):
                return engine._answer(row).text, n == len(ids)
        return None

    assert stopped("né 日本語", ("本語",)) == ("né 日", True)
    assert stopped("a" * 300 + "END.", ("END",))[0] == "a" * 300
    assert stopped("né 日本", ("本語",)) is None


def test_answers_are_given_one_by_one(engine):
    asked = [replace(r, max_tokens=n) for r, n in zip(requests(engine, 3, temperature=0.0), (9, 3, 6), strict=True)]
    asked.append(replace(asked[0], model="unknown"))
    given = []
    assert engine.generate(asked, lambda i, answer: given.append((i, answer))) == [a for _, a in sorted(given)]
    assert [i for i, _ in given] == [3, 1, 2, 0]


def test_rows_that_outgrow_the_memory_are_put_off_and_end_the_same(engine, monkeypatch):
    asked = requests(engine, 12, temperature=0.9, max_tokens=150)
    roomy = engine.generate(asked)
    longest = max(a.prompt_tokens + a.completion_tokens for a in roomy)
    monkeypatch.setattr(sampling, "KEY_VALUE_BYTES", 3 * engine._base_model.bytes_of(longest, 0))
    monkeypatch.setattr(decoder, "EXPECTED_TOKENS", 1)
    put_off, decode = [], sampling.decode

    def seen(*args, **kwargs):
        rows = decode(*args, **kwargs)
        put_off.extend(len(row.written) for row in rows)
        return rows

    monkeypatch.setattr(sampling, "decode", seen)
    assert engine.generate(asked) == roomy
    assert any(put_off), "some rows went on amid their answer"


def test_without_a_limit_an_answer_takes_what_the_context_leaves():
    endless = Engine()
    endless.ends = frozenset()
    asked = Request([{"role": "user", "content": "Skills:" + " Python" * 1500}], endless.base, seed=1)
    (free,) = endless.generate([asked])
    assert (free.prompt_tokens + free.completion_tokens, free.finish_reason) == (2048, "length")
    assert free.completion_tokens > 256
    assert endless.generate([replace(asked, max_tokens=4096)]) == [free]


def test_a_setting_that_the_template_does_not_read_is_an_error_of_its_row(engine):
    good = requests(engine, 1, temperature=0.0, max_tokens=9)[0]
    answers = engine.generate([replace(good, chat_template_kwargs={"enable_thinking": False}), good])
    assert [a.error for a in answers] == ["unsupported_parameter", None]
    assert "does not read 'enable_thinking'" in answers[0].why


def test_prompts_with_one_prefix_are_read_together():
    def row(*prompt):
        return Row(list(prompt), 0.0, 1.0, 8, 0)

    common, other = list(range(300)), list(range(1000, 1300))
    rows = (
        [row(*common, 7, i) for i in range(20)]
        + [row(*other, 7, i) for i in range(20)]
        + [row(5, 6, i) for i in range(3)]
    )
    parts = list(clusters(rows))
    assert [(n, len(members)) for n, members in parts] == [(301, 20), (301, 20), (2, 3)]
    assert sum(len(members) for _, members in parts) == len(rows)
    assert [n for n, _ in clusters([row(1, *common)] * 2)] == [300]
    pairs = [row(*start, 7, i) for start in (common, other) for i in range(2)]  # as few rows a set as a search asks
    assert [(n, len(members)) for n, members in clusters([*pairs, row(5, 6, 7)])] == [(301, 2), (301, 2), (2, 1)]


def test_the_decoder_needs_no_transformers():
    code = (
        "import sys; from arislab.tiny.decoder import Engine, Request; e = Engine();"
        "e.generate([Request([{'role': 'user', 'content': 'x'}], e.base, max_tokens=2)]);"
        "print(sorted({'transformers', 'peft', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("small_bytes", [decoder.SMALL_BYTES, 0])
def test_other_llama_checkpoints_load_too(tmp_path, stock, monkeypatch, small_bytes):
    from transformers import LlamaConfig, LlamaForCausalLM

    tok, _ = stock
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=[5, 4],
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "other", max_shard_size="100KB")
    tokenizer.save(tokenizer.build(), tmp_path / "other")
    same = LlamaForCausalLM.from_pretrained(tmp_path / "other", dtype=torch.float32).eval()
    monkeypatch.setattr(decoder, "SMALL_BYTES", small_bytes)
    monkeypatch.setattr(llama, "PACKED_NUMBERS", 2**12)
    other = Engine(tmp_path / "other")
    assert other.models() == ["other"]
    assert len(list((tmp_path / "other").glob("*.safetensors"))) > 1
    chat = chats(1)[0]
    answers = other.generate([Request(chat, "other", 0.0, max_tokens=20)])
    assert answers[0].text == greedy((tok, same), chat, 20)


def test_chat_templates_render_as_in_transformers(tmp_path, stock):
    tok, _ = stock
    shutil.copytree(MODEL_DIR, tmp_path / "m")
    template = """
    {%- if not messages %}{{ raise_exception('empty') }}{% endif %}
    {{ bos_token }}
    {% for m in messages %}
      {%- if m.role == 'assistant' %}{%- generation -%}{{ m.content }}{%- endgeneration -%}
      {%- else %}
    [{{ m.role | upper }}] {{ m | tojson }}
      {% endif %}
    {% endfor %}
    {% if add_generation_prompt %}GO{% endif %}"""
    (tmp_path / "m" / "chat_template.jinja").write_text(template)
    own = Engine(tmp_path / "m")
    chat = [*chats(1, k=1)[0], {"role": "user", "content": "Zoë <b>"}]
    expected = tok.apply_chat_template(chat, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert own.template.render(chat) == expected
    assert own.generate([Request([], "m")])[0].error == "invalid_messages"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder with a random LoRA adapter, two that are no plain LoRA and one that is none; and the merged model."""
    folder = tmp_path_factory.mktemp("adapters")
    model = random_adapter(folder / "small")
    for name, change in (("dora", {"use_dora": True}), ("bias", {"bias": "all"})):
        shutil.copytree(folder / "small", folder / name)
        path = folder / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (folder / "no-adapter").mkdir()
    return folder, model.merge_and_unload().eval()


@pytest.mark.slow
def test_a_merged_adapter_computes_what_peft_computes(adapters, stock):
    folder, merged = adapters
    engine = Engine(MODEL_DIR, adapters_dir=folder)
    assert engine.models() == [engine.base, "bias", "dora", "small"]
    asked = requests(engine, 16, k=1, temperature=0.0, max_tokens=60)
    tuned = engine.generate([replace(r, model="small") for r in asked])
    assert [a.text for a in tuned] == [greedy((stock[0], merged), r.messages, 60) for r in asked]
    mixed = engine.generate([replace(r, model="small") if i % 2 else r for i, r in enumerate(asked)])
    plain = engine.generate(asked)
    assert [a.text for a in mixed] == [(tuned if i % 2 else plain)[i].text for i in range(len(asked))]
    assert tuned != plain


@pytest.fixture
def as_large(monkeypatch):
    """As if the embedded model were large: its adapters stand beside its matrices."""
    monkeypatch.setattr(decoder, "SMALL_BYTES", 0)


@pytest.mark.slow
def test_an_adapter_beside_the_matrices_computes_what_peft_computes(adapters, stock, as_large):
    folder, merged = adapters
    engine = Engine(MODEL_DIR, adapters_dir=folder)
    asked = requests(engine, 16, k=1, temperature=0.0, max_tokens=60)
    tuned = engine.generate([replace(r, model="small") for r in asked])
    assert [a.text for a in tuned] == [greedy((stock[0], merged), r.messages, 60) for r in asked]
    assert [a.text for a in engine.generate(asked)] == [greedy(stock, r.messages, 60) for r in asked]


@pytest.mark.slow
@pytest.mark.parametrize("has_onednn", [True, False])
def test_matrices_in_the_layout_of_onednn_compute_the_same_and_are_in_memory_once(
    adapters, stock, as_large, monkeypatch, has_onednn
):
    if has_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    monkeypatch.setattr(llama, "PACKED_NUMBERS", 2**14)
    folder, merged = adapters
    before = held()
    engine = Engine(MODEL_DIR, adapters_dir=folder)
    model, others = engine._base_model, held() - before
    matrices = [m for _, _, of_layer in model.layers for m in of_layer]
    assert {m.is_mkldnn for m in matrices} == {has_onednn}
    assert model.unembed.data_ptr() == model.embed.data_ptr()
    n_plain = model.embed.numel() + 2 * model.cos.numel() + sum(m.numel() for m in matrices if not m.is_mkldnn)
    assert others == pytest.approx(4 * n_plain, rel=0.01)
    asked = requests(engine, 16, k=1, temperature=0.0, max_tokens=60)
    tuned = engine.generate([replace(r, model="small") for r in asked])
    assert [a.text for a in tuned] == [greedy((stock[0], merged), r.messages, 60) for r in asked]
    assert [a.text for a in engine.generate(asked)] == [greedy(stock, r.messages, 60) for r in asked]
    sampled = requests(engine, 4, temperature=0.9, top_p=0.9, max_tokens=20)
    assert [engine.generate([r])[0].text for r in sampled] == [a.text for a in engine.generate(sampled)]


def test_the_embedded_model_is_multiplied_as_it_was_recorded(adapters, monkeypatch):
    monkeypatch.setattr(llama, "PACKED_NUMBERS", 1)
    engine, read, forward = Engine(MODEL_DIR, adapters_dir=adapters[0]), [], llama.Llama.forward
    models = [engine._base_model, engine._model("small")]
    assert not any(m.is_mkldnn for model in models for _, _, matrices in model.layers for m in matrices)

    def seen(model, tokens, *args):
        read.append((model, tokens.shape))
        return forward(model, tokens, *args)

    monkeypatch.setattr(llama.Llama, "forward", seen)
    long = [{"role": "user", "content": "Skills:" + " Python, SQL" * 60}]
    asked = [Request(chat, engine.base, 0.0, max_tokens=1) for chat in [*chats(2), long]]
    for name, model in zip((engine.base, "small"), models, strict=True):
        read.clear()
        lengths = [a.prompt_tokens for a in engine.generate([replace(r, model=name) for r in asked])]
        (_, (_, n_prefix)), *own = read
        assert {of for of, _ in read} == {model}
        assert [shape for _, shape in own] == [(3, max(lengths) - n_prefix)], "padding is read too"


def test_an_adapter_of_another_base_is_refused_by_name(adapters, tmp_path, as_large):
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapters[0] / "small" / "adapter_model.safetensors")
    (name,) = [name for name in tensors if "layers.2.mlp.down_proj.lora_B" in name]
    strange = "base_model.model.model.layers.9.mlp.down_proj.lora_{}.weight"
    changes = {
        "shape": {name: tensors[name][:-1].contiguous()},
        "layer": {strange.format(part): tensors[name.replace("lora_B", f"lora_{part}")].clone() for part in "AB"},
    }
    for kind, change in changes.items():
        shutil.copytree(adapters[0] / "small", tmp_path / kind)
        save_file(tensors | change, tmp_path / kind / "adapter_model.safetensors")
    engine = Engine(MODEL_DIR, adapters_dir=tmp_path)
    asked = requests(engine, 1, max_tokens=3)[0]
    answers = engine.generate([replace(asked, model=kind) for kind in changes])
    assert [a.error for a in answers] == ["model_not_loadable"] * 2
    assert "changes 'model.layers.2.mlp.down_proj.weight'" in answers[0].why
    assert "changes 'model.layers.9.mlp.down_proj.weight'" in answers[1].why


def held():
    """Bytes of all tensors but those in the layout of oneDNN, which do not tell."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects of other packages warn when they are asked what they are
        tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and not thing.is_mkldnn]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.slow
def test_weights_are_in_memory_once(adapters, tmp_path, as_large):
    for i in range(3):
        shutil.copytree(adapters[0] / "small", tmp_path / f"small-{i}")
    before = held()
    engine = Engine(MODEL_DIR, adapters_dir=tmp_path)
    rotary = 2 * 4 * 64 * 2048
    n_bytes = (MODEL_DIR / "model.safetensors").stat().st_size
    assert held() - before == pytest.approx(n_bytes + rotary, rel=0.01)
    asked = requests(engine, 1, max_tokens=3)[0]
    engine.generate([replace(asked, model=f"small-{i}") for i in range(3)])
    assert len(engine._adapted) == 3
    adapter = (tmp_path / "small-0" / "adapter_model.safetensors").stat().st_size
    assert held() - before < n_bytes + rotary + 3 * 3 * adapter
    assert 9 * adapter < n_bytes / 2, "three merged copies would not pass"


def test_a_large_model_reads_no_padding_that_all_rows_of_a_piece_have(as_large, monkeypatch):
    engine = Engine()
    long = [{"role": "user", "content": "Skills:" + " Python, SQL" * 60}]
    asked = [Request(chat, engine.base, 0.0, max_tokens=20) for chat in [*chats(5), long]]
    alone = [engine.generate([one])[0] for one in asked]
    model, read = engine._base_model, []
    forward = model.forward

    def seen(tokens, *args):
        read.append(tokens.numel())
        return forward(tokens, *args)

    monkeypatch.setattr(model, "forward", seen)
    monkeypatch.setattr(model, "_prefix", None)
    monkeypatch.setattr(llama, "READ_SCORES", 1)  # one row a piece, of 16 tokens
    assert engine.generate(asked) == alone
    n_steps = sum(a.completion_tokens - 1 for a in alone)
    assert sum(read) <= sum(a.prompt_tokens for a in alone) + n_steps


def anonymous() -> int:
    """Bytes of this process's own memory."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_room_counts_where_it_is_written_and_goes_back_piece_by_piece():
    before, n = anonymous(), 2**23
    rooms = [llama.zeros(4, n) for _ in range(3)]  # 128 MB each
    assert anonymous() - before < n
    for room in rooms:
        room[0] = 1
    assert all(float(room[:, -1].sum()) == float(room[:, 0].sum()) == 1 for room in rooms)
    assert 3 * 4 * n <= anonymous() - before < 4 * 4 * n
    del rooms[1], room
    assert anonymous() - before < 3 * 4 * n  # though one that was made later is still there


def test_a_large_model_has_onednn_keep_few_kernels():
    code = (
        "import os; os.environ.pop('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 0); given = {values}; os.environ |= given;"
        "from arislab.tiny import llama; from arislab.tiny.decoder import MODEL_DIR; import json;"
        "from arislab.tiny.weights import Checkpoint;"
        "config = json.loads((MODEL_DIR / 'config.json').read_text());"
        "llama.Llama(config, Checkpoint(MODEL_DIR), is_small={is_small});"
        "print(os.environ.get('ONEDNN_PRIMITIVE_CACHE_CAPACITY'))"
    )

    def capacity(**values) -> str:
        run = code.format(values=values.get("given", {}), is_small=values.get("is_small", False))
        return subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True).stdout.strip()

    assert capacity() == ("16" if torch.backends.mkldnn.is_available() else "None")
    assert capacity(given={"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "5"}) == "5"
    assert capacity(is_small=True) == "None"


@pytest.mark.parametrize("is_small", [True, False])
def test_rows_of_a_batch_are_kept_by_their_places(engine, is_small, monkeypatch):
    model = engine._base_model
    monkeypatch.setattr(model, "is_small", is_small)
    tokens, padding = torch.arange(20).view(5, 4), torch.zeros(5, 4)
    padding[2, :2] = sampling.MASKED
    for rows in ([0, 1, 2, 3], [1, 2, 4], [0, 4, 1, 2], [3, 2, 1, 0]):
        kept = torch.tensor(rows)
        with torch.inference_mode():
            batch, _ = model.start(tokens, padding, None, 0)
            before = [(keys.clone(), values.clone()) for keys, values in batch._slots]
            batch.keep(kept)
        for (keys, values), (old_keys, old_values) in zip(batch._slots, before, strict=True):
            assert torch.equal(keys, old_keys[kept])
            assert torch.equal(values, old_values[kept])
        assert torch.equal(batch._padding, padding[kept])


def test_a_long_prompt_is_read_in_pieces(engine, stock, monkeypatch):
    chat = [{"role": "user", "content": "Skills:" + " Python, SQL" * 300}]
    asked = [Request(c, engine.base, 0.0, max_tokens=30) for c in [chat, *chats(3, k=2)]]
    whole = engine.generate(asked)
    scores, forward = [], engine._base_model.forward

    def seen(tokens, positions, slots, at, mask, prefix=None, room=None):
        n_seen = mask.shape[-1] + (prefix[0][0].shape[1] if prefix else 0)
        scores.append(tokens.numel() * engine._base_model.n_heads * n_seen)
        return forward(tokens, positions, slots, at, mask, prefix, room)

    monkeypatch.setattr(engine._base_model, "forward", seen)
    monkeypatch.setattr(engine._base_model, "_prefix", None)
    monkeypatch.setattr(llama, "READ_SCORES", 2**17)
    assert engine.generate(asked) == whole
    n = whole[0].prompt_tokens
    assert max(scores) <= 2**17 < n * n
    assert whole[0].text == greedy(stock, chat, 30)


def test_a_large_model_has_one_room_for_logits_and_says_what_a_small_one_does(engine, as_large):
    large = Engine(MODEL_DIR)
    wanted = {"temperature": 0.0, "max_tokens": 60, "logprobs": True, "top_logprobs": 3}
    small_said, said = (e.generate(requests(e, 9, k=1, **wanted)) for e in (engine, large))
    assert [a.text for a in said] == [a.text for a in small_said]
    assert len({a.completion_tokens for a in said}) > 1  # rows end, and the others go on
    for one, other in zip(said, small_said, strict=True):
        assert [p for _, p, _ in one.logprobs] == pytest.approx([p for _, p, _ in other.logprobs], abs=1e-3)
        assert [[text for text, _ in top] for *_, top in one.logprobs] == [
            [text for text, _ in top] for *_, top in other.logprobs
        ]
    tokens, padding = torch.arange(20).view(5, 4), torch.zeros(5, 4)
    with torch.inference_mode():
        batch, first = large._base_model.start(tokens, padding, None, 0)
        begin, before = first.data_ptr(), first.clone()
        steps = [batch.step(torch.zeros(5, dtype=torch.long)) for _ in range(2)]
    assert {logits.data_ptr() for logits in steps} == {begin}
    assert not torch.equal(steps[0], before)


def test_a_prefix_that_was_read_before_is_not_read_again(engine, monkeypatch):
    asked, other = (requests(engine, 8, k=k, temperature=0.9, max_tokens=20) for k in (3, 0))
    engine.generate(other)
    fresh = engine.generate(asked)
    read, forward = [], engine._base_model.forward

    def seen(tokens, *args):
        read.append(tokens.numel())
        return forward(tokens, *args)

    monkeypatch.setattr(engine._base_model, "forward", seen)
    assert engine.generate(asked) == fresh
    n_again = sum(read)
    engine.generate(other)
    read.clear()
    assert engine.generate(asked) == fresh
    assert sum(read) > n_again + 300


@pytest.mark.parametrize("packed_numbers", [2**14, llama.PACKED_NUMBERS])
def test_matrices_in_bfloat16_give_nearly_the_same_logits(tmp_path, as_large, monkeypatch, packed_numbers):
    from safetensors.torch import load_file, save_file

    shutil.copytree(MODEL_DIR, tmp_path / "half")
    path = tmp_path / "half" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    monkeypatch.setattr(llama, "PACKED_NUMBERS", packed_numbers)
    exact = Engine(tmp_path / "half")
    monkeypatch.setattr(decoder, "FLOAT32_BYTES", 0)
    monkeypatch.setattr(decoder, "multiplies_bfloat16", lambda: True)
    half = Engine(tmp_path / "half")
    assert {m.dtype for _, _, matrices in exact._base_model.layers for m in matrices} == {torch.float32}
    assert {m.dtype for _, _, matrices in half._base_model.layers for m in matrices} == {torch.bfloat16}

    def logits(engine):
        ids = engine.tokenizer.encode(engine.template.render(chats(1)[0]), add_special_tokens=False).ids
        tokens, model = torch.tensor([ids]), engine._base_model
        with torch.inference_mode():
            slots, everything = model.empty(1, len(ids)), torch.arange(len(ids))[None]
            return model._read(tokens, everything, slots, torch.zeros(1, len(ids)), None)

    one, other = logits(exact), logits(half)
    assert one.dtype == other.dtype == torch.float32
    assert 0 < (one - other).abs().max() < 0.02 * one.abs().max()


def test_an_adapter_that_is_not_plain_lora_is_an_answer_not_a_crash(adapters):
    engine = Engine(MODEL_DIR, adapters_dir=adapters[0])
    good = requests(engine, 1, temperature=0.0)[0]
    answers = engine.generate([replace(good, model="dora"), good, replace(good, model="bias")])
    assert [a.error for a in answers] == ["model_not_loadable", None, "model_not_loadable"]


def test_a_replaced_adapter_is_read_again(adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapters[0] / "small", tmp_path / "small")
    engine = Engine(MODEL_DIR, adapters_dir=tmp_path)
    asked = [replace(r, model="small") for r in requests(engine, 4, temperature=0.0, max_tokens=40)]
    before = engine.generate(asked)
    path = tmp_path / "small" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * 5 for name, tensor in tensors.items()}, path)
    assert engine.generate(asked) != before
    save_file({name: tensor * 0 for name, tensor in tensors.items()}, path)
    assert [a.text for a in engine.generate(asked)] == [
        a.text for a in engine.generate([replace(r, model=engine.base) for r in asked])
    ]
