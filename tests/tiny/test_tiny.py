"""The embedded model: its weights are what the card says, and its own decoder computes what transformers computes."""

import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import polars as pl
import pytest
import torch

from arislab import task as tasks
from arislab.errors import ParameterError, PrerequisiteError
from arislab.lake.tables import split_of
from arislab.tiny import grammar, pretrain, tokenizer
from arislab.tiny.candidates import compose, first
from arislab.tiny.decoder import MODEL_DIR, Engine, Request, clusters
from arislab.tiny.llama import Row, check, draw
from arislab.tiny.muon import Muon

CARD = MODEL_DIR / "README.md"
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


def chats(n, k=0, seed=7):
    """``n`` prompts that share ``k`` examples."""
    rng = Random(seed)
    chat = [{"role": "system", "content": grammar.SYSTEM[0]}]
    evaluator = grammar.make_evaluator(rng, flawless=True)
    for _ in range(k):
        profile = grammar.make_profile(rng)
        chat.append({"role": "user", "content": grammar.prompt(profile)})
        chat.append({"role": "assistant", "content": grammar.evaluate(profile, evaluator, rng)})
    return [[*chat, {"role": "user", "content": grammar.prompt(grammar.make_profile(rng))}] for _ in range(n)]


def requests(engine, n, *, k=0, seeds=None, **settings):
    return [Request(chat, engine.base, seed=seeds[i] if seeds else i, **settings) for i, chat in enumerate(chats(n, k))]


def greedy(stock, chat, max_new_tokens=120):
    tok, model = stock
    given = tok.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**given, do_sample=False, max_new_tokens=max_new_tokens)
    return tok.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


# ---- weights


def test_the_card_names_the_digest_and_size_of_the_committed_weights():
    path = MODEL_DIR / "model.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in CARD.read_text("utf-8")
    assert path.stat().st_size <= 4_000_000
    record = json.loads((MODEL_DIR / "train.json").read_text("utf-8"))
    assert record["recipe"] == pretrain.read_recipe()
    assert record["steps"] == record["recipe"]["train"]["steps"]


def test_the_committed_tokenizer_is_the_one_that_the_recipe_builds(tmp_path):
    tokenizer.save(tokenizer.build(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text("utf-8") == (MODEL_DIR / name).read_text("utf-8"), name


def test_every_skill_is_one_token_and_every_title_at_most_three(engine):
    def n_tokens(text):
        return len(engine.tokenizer.encode(" " + text, add_special_tokens=False).ids)

    assert [skill for skill in grammar.SKILLS if n_tokens(skill) != 1] == []
    assert [title for title in grammar.titles() if n_tokens(title) > 3] == []


# ---- decoder


@pytest.mark.parametrize("k", [0, 5])
def test_greedy_texts_equal_those_of_transformers(engine, stock, k):
    asked = requests(engine, 16, k=k, temperature=0.0, max_tokens=120)
    found = engine.generate(asked)
    assert [a.text for a in found] == [greedy(stock, r.messages) for r in asked]
    tok, _ = stock
    ids = tok.apply_chat_template(asked[0].messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found[0].prompt_tokens == len(ids)
    assert {a.finish_reason for a in found} == {"stop"}
    assert all(a.completion_tokens == len(tok(a.text)["input_ids"]) + 1 for a in found)


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
    found = engine.generate(requests(engine, 2, max_tokens=7))
    assert [(a.finish_reason, a.completion_tokens) for a in found] == [("length", 7)] * 2


def test_a_row_that_cannot_be_answered_says_why_and_leaves_its_siblings_alone(engine):
    good = requests(engine, 1, temperature=0.0)[0]
    long = replace(good, messages=[{"role": "user", "content": "Skills: " + "Python, " * 1100}])
    unknown = replace(good, model="gpt-none")
    broken = replace(good, messages=[{"role": "user"}, {"role": "user", "content": None}])
    found = engine.generate([long, good, unknown, good])
    assert [a.error for a in found] == ["context_length_exceeded", None, "model_not_found", None]
    assert found[0].prompt_tokens > 2048
    assert found[1] == found[3] == engine.generate([good])[0]
    assert engine.generate([broken, good])[1] == found[1]


def test_a_prompt_that_nearly_fills_the_context_gets_what_is_left(engine):
    chat = [{"role": "user", "content": "Skills:" + " Python" * 2036}]
    answer = engine.generate([Request(chat, engine.base, 1.0, max_tokens=50)])[0]
    assert answer.prompt_tokens + answer.completion_tokens <= 2048
    assert answer.error is None


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


def test_prompts_with_one_prefix_are_read_together():
    def row(*prompt):
        return Row(list(prompt), 0.0, 1.0, 8, 0)

    common, other = list(range(300)), list(range(1000, 1300))
    rows = (
        [row(*common, 7, i) for i in range(20)]
        + [row(*other, 7, i) for i in range(20)]
        + [row(5, 6, i) for i in range(3)]
    )
    found = list(clusters(rows))
    assert [(n, len(members)) for n, members in found] == [(301, 20), (301, 20), (2, 3)]
    assert sum(len(members) for _, members in found) == len(rows)
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


def test_other_llama_checkpoints_load_too(tmp_path, stock):
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
    found = Engine(tmp_path / "other")
    assert found.models() == ["other"]
    assert len(list((tmp_path / "other").glob("*.safetensors"))) > 1
    chat = chats(1)[0]
    answers = found.generate([Request(chat, "other", 0.0, max_tokens=20)])
    assert answers[0].text == greedy((tok, same), chat, 20)


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
    with pytest.raises(PrerequisiteError, match="Serve it with vLLM"):
        check(engine.config | change)


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


# ---- adapters


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder with one random LoRA adapter, one of another base and one that is no LoRA; and the merged model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder / "small")
    for name, change in (("dora", {"use_dora": True}), ("bias", {"bias": "all"})):
        shutil.copytree(folder / "small", folder / name)
        path = folder / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (folder / "no-adapter").mkdir()
    return folder, model.merge_and_unload().eval()


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


def test_an_adapter_that_is_not_plain_lora_is_an_answer_not_a_crash(adapters):
    engine = Engine(MODEL_DIR, adapters_dir=adapters[0])
    good = requests(engine, 1, temperature=0.0)[0]
    found = engine.generate([replace(good, model="dora"), good, replace(good, model="bias")])
    assert [a.error for a in found] == ["model_not_loadable", None, "model_not_loadable"]


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


# ---- candidates


def test_candidates_are_the_same_each_time_and_the_first_do_not_depend_on_n():
    frame = compose(2000, seed=3)
    assert frame.equals(compose(2000, seed=3))
    assert frame.head(50).equals(compose(50, seed=3))
    assert not frame.head(50)["profile"].equals(compose(50, seed=4)["profile"])
    assert frame["candidate_id"].is_unique().all()
    assert frame["candidate_id"][7] == "s3-000007"


def test_duplicates_come_at_the_stated_rates_and_never_straddle_splits():
    frame = compose(6000, seed=0, duplicate_fraction=0.05, near_duplicate_fraction=0.10)
    repeated = frame.filter(pl.col("group_id").is_duplicated())
    first = frame["group_id"].is_first_distinct()
    exact = frame.height - frame["profile"].n_unique()
    assert 1 - first.mean() == pytest.approx(0.15, abs=0.015)
    assert exact / frame.height == pytest.approx(0.05, abs=0.02)
    assert repeated.group_by("group_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert repeated.group_by("group_id").agg(pl.col("title").n_unique())["title"].max() == 1
    assert frame["split"].to_list() == [split_of(group) for group in frame["group_id"]]
    shares = dict(frame["split"].value_counts(normalize=True).iter_rows())
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)
    clean = compose(3000, seed=0, duplicate_fraction=0.0, near_duplicate_fraction=0.0)
    assert clean["profile"].is_unique().all()
    assert clean["group_id"].is_unique().all()


def test_candidates_stay_inside_the_grammar():
    frame = compose(3000, seed=1)
    assert set(frame["use_case"]) == {"tech", "executive", "general"}
    assert set(frame.filter(pl.col("use_case") == "tech")["category"]) == {"Computer and Mathematical"}
    assert set(frame["title"]) <= set(grammar.titles())
    for profile in map(json.loads, frame["profile"]):
        assert {*profile["skills"], *profile["needs"]} <= set(grammar.SKILLS)
        assert 1 <= len(profile["skills"]) <= 5
        assert len(set(profile["skills"])) == len(profile["skills"])
        assert 1 <= profile["years"] <= 15


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": 5, "duplicate_fraction": 1.5}, {"n": 5, "near_duplicate_fraction": -0.1}]
)
def test_impossible_candidates_are_refused(wrong):
    with pytest.raises(ParameterError, match="got"):
        compose(**wrong, seed=0)


def test_titles_name_their_source_and_licence():
    text = (Path(grammar.__file__).parent / "titles.tsv").read_text("utf-8")
    assert "O*NET" in text
    assert "CC BY 4.0" in text
    assert "CC BY 4.0" in CARD.read_text("utf-8")
    assert len(grammar.titles()) == 60
    assert all(len(title.split()) <= 3 for title in grammar.titles())


# ---- training


SMALL = {"micro_tokens": 300, "stages": [{"until": 9, "flawless": 0.5, "mix": {"primer 1": 0.5, "document 2": 0.5}}]}


def small_recipe():
    recipe = pretrain.read_recipe()
    return recipe | {"train": recipe["train"] | SMALL | {"steps": 3}}


def test_training_is_finite_repeatable_and_goes_on_from_a_checkpoint(tmp_path):
    recipe = small_recipe()
    whole = pretrain.pretrain(recipe, tmp_path / "whole")
    assert whole["steps"] == 3
    assert 0 < whole["answered_tokens"] < whole["tokens"]
    assert all(0 < loss < 10 for loss in whole["loss"].values())
    pretrain.pretrain(recipe, tmp_path / "parts", stop=2, checkpoint_every=1)
    pretrain.pretrain(recipe, tmp_path / "parts", checkpoint_every=1)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    answer = Engine(tmp_path / "whole").generate([Request(chats(1)[0], "whole", max_tokens=3)])[0]
    assert answer.error is None


def test_training_text_is_what_the_chat_template_writes(engine):
    chat = grammar.document(Random(2), 2)
    ids, answered = pretrain.encode([chat], engine.tokenizer)[0]
    text = engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert text + "<|assistant|>" == engine.template.render(chat)
    supervised = engine.tokenizer.decode(
        [i for i, own in zip(ids, answered, strict=True) if own], skip_special_tokens=False
    )
    assert supervised == "".join(m["content"] + "<|end|>" for m in chat if m["role"] == "assistant")


def test_learning_rate_warms_up_stays_and_decays():
    train = pretrain.read_recipe()["train"]
    rates = [pretrain.lr_factor(step, train) for step in range(train["steps"])]
    assert rates[0] < 0.1
    assert rates[100] == 1.0
    assert rates[-1] == pytest.approx(train["final_lr"], abs=0.01)
    assert train["stages"][-1]["until"] == train["steps"]


def test_our_muon_takes_the_steps_of_torch():
    torch.manual_seed(0)
    shapes = [(64, 32), (32, 32), (32, 64), (32, 32)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = [Muon(ours, lr=0.1, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1)]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=0.01)  # theirs iterates in bfloat16


# ---- the default task


@pytest.fixture(scope="module")
def task():
    return tasks.load("candidate_evaluation")


def scores(task, row):
    return {n: float(f(**{c: row[c] for c in inspect.signature(f).parameters})) for n, f in task.scorers.items()}


def test_the_task_asks_in_the_words_of_the_grammar(task):
    rng = Random(0)
    for _ in range(200):
        profile = grammar.make_profile(rng)
        chat = task.to_messages({"profile": profile})
        assert chat == [
            {"role": "system", "content": grammar.SYSTEM[0]},
            {"role": "user", "content": grammar.prompt(profile)},
        ]


def test_every_scorer_gives_gold_one_and_sees_what_is_bad(task):
    assert len(task.gold) >= 3
    assert len(task.bad) >= 5
    for row in task.gold:
        assert scores(task, row) == dict.fromkeys(task.scorers, 1.0)
    for row in task.bad:
        assert scores(task, row)[row["breaks"]] < 1.0, row
    assert {row["breaks"] for row in task.bad} == set(task.scorers)


def test_scorers_and_corpus_agree_on_flawless_answers_and_see_every_habit(task):
    rng = Random(0)
    flawless = grammar.make_evaluator(rng, flawless=True)
    for _ in range(300):
        profile = grammar.make_profile(rng)
        found = scores(task, {"profile": profile, "output": grammar.evaluate(profile, flawless, rng)})
        assert found.pop("calibrated") > 0.6
        assert set(found.values()) == {1.0}, (profile, found)
    for habit in grammar.HABITS:
        hurt = 0
        for _ in range(60):
            evaluator = replace(grammar.make_evaluator(rng, flawless=True), habits=frozenset([habit]))
            profile = grammar.make_profile(rng)
            found = scores(task, {"profile": profile, "output": grammar.evaluate(profile, evaluator, rng)})
            hurt += sum(found.values()) < len(found) - 0.5
        assert hurt > 15, habit


@pytest.mark.parametrize("output", ["", "null", "[1]", "I would hire.", "{'score': 1}", '{"score": 0.5', "NaN"])
def test_an_answer_that_is_no_json_object_scores_nothing(task, output):
    assert set(scores(task, task.gold[0] | {"output": output}).values()) == {0.0}


@pytest.mark.parametrize(
    "output",
    [
        "{}",
        '{"score": NaN}',
        '{"score": true, "strengths": "x", "concerns": [1, null, {}], "summary": 3}',
        '{"strengths": [[]]}',
    ],
)
def test_odd_answers_are_scored_without_a_crash(task, output):
    found = scores(task, task.gold[0] | {"output": output})
    assert found["valid_json"] == 1.0
    assert all(0 <= value <= 1 for value in found.values())


def test_the_task_file_needs_only_the_standard_library(task):
    used = set(re.findall(r"^(?:import|from) (\w+)", task.source, re.MULTILINE))
    assert used <= sys.stdlib_module_names


def test_difficulty_is_a_fraction_that_varies(task):
    frame = compose(300, seed=0)
    rows = [row | {"profile": json.loads(row["profile"])} for row in frame.iter_rows(named=True)]
    found = [task.difficulty(row) for row in rows]
    assert 0 <= min(found) < 0.2
    assert 0.8 < max(found) <= 1
    assert task.category(rows[0]) == rows[0]["category"]


def test_candidates_are_made_up_unasked_only_for_the_shipped_task_on_the_embedded_server(tmp_path):
    shipped = tasks.load("candidate_evaluation")
    assert first(5, seed=2, task=shipped, base_url="embedded").equals(compose(5, seed=2))
    own = tmp_path / "candidate_evaluation.py"
    own.write_text(shipped.source + "\n# mine\n")
    for task, url in (
        (shipped, "http://127.0.0.1:1/v1"),
        (tasks.load(own), "embedded"),
        (tasks.load("instruction_following"), "embedded"),
    ):
        with pytest.raises(
            PrerequisiteError, match=f"no candidates for task '{task.name}' on '{url}'; .*arislab import FILE"
        ):
            first(5, seed=2, task=task, base_url=url)
