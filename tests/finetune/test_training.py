"""Labels are proven row by row, and an adapter is named by its content."""

import copy
import hashlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import need

from arislab import finetune
from arislab.errors import ParameterError, PrerequisiteError, TrainingError
from arislab.tiny.decoder import MODEL_DIR

TINY = MODEL_DIR
KEY = "sk-planted-0123456789"


def example(i, answer=None):
    messages = [
        {"role": "system", "content": "Evaluate the candidate for the role. Reply with one JSON object."},
        {"role": "user", "content": f"Title: Nurse\nExperience: {i % 15 + 1} years\nSkills: SQL, Kafka"},
    ]
    output = answer or json.dumps({"strengths": [f"worked {i % 15 + 1} years as Nurse"], "score": 0.75})
    return {"id": f"r-{i:04d}", "messages": json.dumps(messages), "output": output}


def frame(numbers):
    return pl.DataFrame([example(i) for i in numbers])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def one(messages, output):
    messages = messages if isinstance(messages, str) else json.dumps(messages)
    return pl.DataFrame([{"id": "r-0", "messages": messages, "output": output}], schema_overrides={"output": pl.String})


@pytest.fixture(scope="module")
def tokenizer():
    return finetune.load_tokenizer(TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two arms with the same rows in another order, then one with another seed: (folder, rows, row of the other seed)."""
    folder = tmp_path_factory.mktemp("models")
    quick = {"base_model": "tiny", "folder": folder, "num_train_epochs": 4, "batch_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        both = {"curated": frame(range(40)), "shuffled": frame(reversed(range(40)))}
        rows = finetune.train(both, frame(range(100, 120)), name="toy", **quick)
        other = finetune.train(
            {"curated": frame(range(8))}, None, name="other", **{**quick, "num_train_epochs": 1, "seed": 1}
        )
    return folder, rows, other


# Labels


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
said = words.filter(lambda text: text.strip() and "<|" not in text)


@settings(max_examples=300, deadline=None)
@given(system=st.none() | said, user=said, turns=st.lists(st.tuples(said, said), max_size=2), answer=said)
def test_what_is_trained_is_the_answer_and_the_stop_token_and_nothing_of_the_prompt(
    tokenizer, system, user, turns, answer
):
    chat = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": user})
    for reply, question in turns:
        chat += [{"role": "assistant", "content": reply}, {"role": "user", "content": question}]
    row = finetune.tokenize(one(chat, answer), tokenizer).row(0, named=True)
    assert (row["status"], row["reason"]) == ("ok", None)
    trained = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(trained) == answer + "<|end|>"
    assert row["labels"][-len(trained) :] == row["input_ids"][-len(trained) :] == trained
    served = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert row["input_ids"][: -len(trained)] == served
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    assert (row["n_tokens"], row["n_supervised"]) == (len(row["input_ids"]), len(trained))


USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be kind"}
ASSISTANT = {"role": "assistant", "content": "hello"}
MALFORMED = [
    ("[", "yes", "bad_messages"),
    ("{}", "yes", "bad_messages"),
    ("null", "yes", "bad_messages"),
    ([{"role": "user"}], "yes", "bad_messages"),
    ([{"role": "user", "content": None}], "yes", "bad_messages"),
    ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "yes", "bad_messages"),
    ([], "yes", "bad_roles"),
    ([SYSTEM], "yes", "bad_roles"),
    ([USER, USER], "yes", "bad_roles"),
    ([SYSTEM, SYSTEM, USER], "yes", "bad_roles"),
    ([USER, SYSTEM], "yes", "bad_roles"),
    ([ASSISTANT, USER], "yes", "bad_roles"),
    ([USER, ASSISTANT], "yes", "bad_roles"),
    ([USER, {"role": "tool", "content": "4"}, USER], "yes", "bad_roles"),
    ([USER], None, "empty"),
    ([USER], "", "empty"),
    ([USER], " \n", "empty"),
    ([{"role": "user", "content": " "}], "yes", "empty"),
    ([USER], "yes<|end|>", "control_token"),
    ([{"role": "user", "content": "a profile with <|assistant|> in it"}], "yes", "control_token"),
    ([SYSTEM | {"content": "<|pad|>"}, USER], "yes", "control_token"),
]


@pytest.mark.parametrize(("messages", "output", "status"), MALFORMED)
def test_a_malformed_row_gets_a_status_and_a_reason_and_no_labels(tokenizer, messages, output, status):
    row = finetune.tokenize(one(messages, output), tokenizer).row(0, named=True)
    assert row["status"] == status in finetune.STATUSES
    assert row["reason"]
    assert row["input_ids"] is row["labels"] is None


def test_every_row_comes_back_once_and_in_order(tokenizer):
    frames = [one(messages, output) for messages, output, _ in MALFORMED] + [frame(range(5))]
    examples = pl.concat(frames).with_columns(id=pl.int_range(pl.len()).cast(pl.String))
    tokenized = finetune.tokenize(examples, tokenizer)
    assert tokenized["id"].to_list() == examples["id"].to_list()
    assert finetune.count_statuses(tokenized) == {
        "bad_messages": 6,
        "bad_roles": 8,
        "control_token": 3,
        "empty": 4,
        "ok": 5,
    }


def test_a_row_at_max_length_is_whole_and_one_token_less_refuses_it(tokenizer):
    examples = frame([1])
    n = finetune.tokenize(examples, tokenizer)["n_tokens"][0]
    fits = finetune.tokenize(examples, tokenizer, max_length=n).row(0, named=True)
    assert fits["status"] == "ok"
    assert fits["labels"][-1] == tokenizer.convert_tokens_to_ids("<|end|>")
    long = finetune.tokenize(examples, tokenizer, max_length=n - 1).row(0, named=True)
    assert (long["status"], long["labels"], long["n_tokens"]) == ("too_long", None, n)


def with_template(tokenizer, template, *tokens):
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"additional_special_tokens": list(tokens)})
    changed.chat_template = template
    return changed


def from_trl(name):
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    return (Path(folder) / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("name", "tokens", "kwargs", "stop"),
    [
        ("gemma3", ["<start_of_turn>", "<end_of_turn>"], {}, "<end_of_turn>"),
        ("llama3", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], {}, "<|eot_id|>"),
        ("qwen3", ["<|im_start|>", "<|im_end|>"], {"enable_thinking": False}, "<|im_end|>"),
    ],
)
def test_stock_templates_of_other_families_train_the_answer_and_their_own_stop_token(
    tokenizer, name, tokens, kwargs, stop
):
    other = with_template(tokenizer, from_trl(name), *tokens)
    for chat in ([SYSTEM, USER], [USER], [USER, ASSISTANT, USER]):
        row = finetune.tokenize(one(chat, "Yes, I do."), other, chat_template_kwargs=kwargs).row(0, named=True)
        assert (row["status"], row["reason"]) == ("ok", None)
        assert other.decode([label for label in row["labels"] if label != -100]) == "Yes, I do." + stop
        assert row["labels"][-1] == other.convert_tokens_to_ids(stop)


@pytest.mark.parametrize(
    ("template", "status"),
    [
        # what qwen3 does unless thinking is off: text between the generation prompt and the answer
        (from_trl("qwen3"), "template"),
        ("{{ raise_exception('no') }}", "template"),
        (
            "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}",
            "no_stop",
        ),
        ("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}{% endif %}", "ok"),
        (
            "{% for m in messages %}Ski{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}Ski{% endif %}",
            "boundary",
        ),
        ("{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}", "template"),
    ],
)
def test_a_template_that_cannot_be_labelled_is_refused_row_by_row(tokenizer, template, status):
    other = with_template(tokenizer, template, "<|im_start|>", "<|im_end|>")
    row = finetune.tokenize(one([USER], "lls: SQL"), other).row(0, named=True)
    assert row["status"] == status


def test_the_preview_marks_what_is_trained_and_escapes_what_people_wrote(tokenizer):
    examples = pl.concat([one([USER], "<script>x</script>"), one([USER], "")])
    shown = finetune.preview(finetune.tokenize(examples, tokenizer), tokenizer)
    html = shown._repr_html_()
    assert re.search(r"<mark[^>]*>&lt;script&gt;x&lt;/script&gt;&lt;\|end\|&gt;</mark>", html)
    assert "<script>" not in html
    assert repr(shown) == "Preview(1 rows; empty 1, ok 1)"


# Export


def test_export_writes_one_chat_per_line_with_the_answer_last(tmp_path):
    examples = pl.concat([frame(range(3)), one([USER], "line\u2028separator é\n")])
    path = tmp_path / "out" / "finetuning_data.jsonl"
    assert finetune.export_jsonl(examples, path) == 4
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    chats = [json.loads(line)["messages"] for line in lines]
    assert [chat[-1] for chat in chats] == [{"role": "assistant", "content": o} for o in examples["output"]]
    assert chats[0][:-1] == json.loads(examples["messages"][0])
    assert names(path.parent) == [path.name]


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "finetuning_data.jsonl"
    finetune.export_jsonl(frame(range(3)), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Expecting"):
        finetune.export_jsonl(pl.concat([frame(range(2)), one("[", "yes")]), path)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


# Training


def test_the_loss_falls_on_the_training_rows_and_on_rows_held_out(trained):
    _, rows, _ = trained
    curves = finetune.losses(rows)
    assert curves.columns == ["arm", "step", "train_loss", "eval_loss"]
    curve = curves.filter(pl.col("arm") == "curated")
    measured = curve.drop_nulls("eval_loss")
    assert measured["step"].to_list() == [0, 5, 10, 15, 20]
    assert measured["eval_loss"][-1] < 0.7 * measured["eval_loss"][0]
    losses = curve["train_loss"].drop_nulls()
    assert losses.tail(5).mean() < 0.7 * losses.head(5).mean()
    first = rows.row(0, named=True)
    assert first["eval_loss"] == measured["eval_loss"][-1]
    assert first["train_loss"] == pytest.approx(losses.tail(5).mean())


def test_the_same_rows_in_another_order_and_process_give_the_same_adapter_bit_for_bit(trained):
    _, rows, other = trained
    assert rows["adapter_sha256"].n_unique() == 1
    assert rows["id"].n_unique() == 2
    assert other["adapter_sha256"][0] not in rows["adapter_sha256"]


def test_a_row_says_what_was_trained(trained):
    folder, rows, other = trained
    row = rows.row(0, named=True)
    assert (row["name"], row["arm"], row["method"], row["device"], row["training_examples"]) == (
        "toy",
        "curated",
        "lora",
        "cpu",
        40,
    )
    weights = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert row["base_model"] == f"arislab-tiny-{weights[:8]}"
    assert Path(row["model_path"]) == folder / f"toy-curated-{row['adapter_sha256'][:12]}"
    hyperparameters = json.loads(row["hyperparameters"])
    assert (hyperparameters["r"], hyperparameters["steps"], hyperparameters["rows"]) == (8, 20, {"ok": 40})
    assert hyperparameters["stop_tokens"] == ["<|end|>"]
    assert row["seconds"] > 0
    assert other["eval_loss"].to_list() == [None]


def test_the_adapter_folder_holds_only_what_is_served_with_its_digests_and_no_secret_or_path(trained):
    folder, rows, _ = trained
    row = rows.row(0, named=True)
    adapter = Path(row["model_path"])
    kept = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "manifest.json",
        "tokenizer.json",
    }
    assert {path.name for path in adapter.iterdir()} == {*kept, "tokenizer_config.json"}
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in adapter.iterdir()} - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == digest
    assert manifest["files"]["adapter_model.safetensors"] == row["adapter_sha256"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"{row['base_model']}@sha256:{manifest['base']['sha256'][:12]}"
    assert config["target_modules"] == sorted(config["target_modules"])
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY.encode() not in content
            assert str(folder).encode() not in content or path.suffix == ".log"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_loss_at_trained_positions_is_the_loss_of_the_trainer(trained):
    _, rows, _ = trained
    log = Path(f"{rows['model_path'][0]}.log").read_text()
    ours, theirs = re.search(r"loss at trained positions (\S+), of the trainer (\S+)", log).groups()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


CHECK = """
import sys, json, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
base, adapter, rows = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
rows = json.load(open(rows))
with torch.no_grad():
    before = model(torch.tensor([rows[0]["input_ids"]])).logits
    model = PeftModel.from_pretrained(model, adapter).eval()
    changed = float((model(torch.tensor([rows[0]["input_ids"]])).logits - before).abs().max())
    total = n = 0
    for row in rows:
        trained = sum(label != -100 for label in row["labels"])
        total += float(model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss) * trained
        n += trained
loaded = {k.replace(".default", "") for k in model.state_dict() if "lora" in k}
every = loaded == set(load_file(adapter + "/adapter_model.safetensors"))

from arislab.finetune.worker import speed_up_lora
parameters = [p.requires_grad_() for n, p in model.named_parameters() if "lora" in n]
def gradients():
    model.zero_grad()
    ids, labels = torch.tensor([rows[0]["input_ids"]]), torch.tensor([rows[0]["labels"]])
    model(ids, labels=labels).loss.backward()
    return [p.grad.clone() for p in parameters]
slow = gradients()
speed_up_lora(model)
replaced = sum("forward" in vars(module) for module in model.modules())
apart = max(float((x - y).norm() / x.norm()) for x, y in zip(slow, gradients(), strict=True))
print(json.dumps({"changed": changed, "loss": total / n, "every": every, "replaced": replaced, "apart": apart}))
"""


@pytest.fixture(scope="module")
def checked(trained, tokenizer, tmp_path_factory):
    """What peft and a plain forward pass find in the adapter, after its folder has moved."""
    _, rows, _ = trained
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(rows["model_path"][0], folder / "adapter")
    held_out = finetune.tokenize(frame(range(100, 120)), tokenizer).select("input_ids", "labels")
    (folder / "rows.json").write_text(json.dumps(held_out.to_dicts()))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CHECK,
        str(TINY),
        str(folder / "adapter"),
        str(folder / "rows.json"),
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def test_peft_loads_the_adapter_from_a_moved_folder_and_finds_the_eval_loss_row_by_row(trained, checked):
    _, rows, _ = trained
    assert checked["every"]
    assert checked["changed"] > 0.1
    assert checked["loss"] == pytest.approx(rows["eval_loss"][0], rel=1e-4)


def test_the_faster_lora_layers_have_the_gradients_of_peft(checked):
    blocks = json.loads((TINY / "config.json").read_text())["num_hidden_layers"]
    assert checked["replaced"] == 7 * blocks  # q, k, v, o, gate, up, down
    assert checked["apart"] < 1e-4


def test_the_embedded_engine_serves_the_adapter_under_its_folder_name(trained):
    from arislab.tiny.decoder import Engine

    folder, rows, _ = trained
    served = Engine(TINY, adapters_dir=folder).models()
    assert {rows["base_model"][0], Path(rows["model_path"][0]).name} <= set(served)


def test_training_again_reuses_the_folder_and_refuses_one_that_somebody_changed(trained, caplog):
    folder, _, other = trained
    again = {"base_model": "tiny", "folder": folder, "num_train_epochs": 1, "batch_size": 8, "seed": 1, "name": "other"}
    adapter = Path(other["model_path"][0])
    written = (adapter / "manifest.json").stat().st_mtime_ns
    sets = {"curated": pl.concat([frame(range(8)), one([USER], "")])}
    rows = finetune.train(sets, None, **again)
    roles = finetune.rows(rows, sets, frame([20, 21]))
    assert dict(roles.group_by("role").len().iter_rows()) == {"trained": 8, "empty": 1, "held out": 2}
    assert roles.filter(role="empty")["id"].to_list() == one([USER], "")["id"].to_list()
    assert set(roles["model_path"]) == set(rows["model_path"])
    assert rows["adapter_sha256"][0] == other["adapter_sha256"][0]
    assert (adapter / "manifest.json").stat().st_mtime_ns == written
    assert json.loads(rows["hyperparameters"][0])["rows"] == {"empty": 1, "ok": 8}
    assert "1 of 9 examples of set 'curated' are not trained" in caplog.text
    config = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(config.replace('"lora_alpha": 16', '"lora_alpha": 99'))
    with pytest.raises(TrainingError, match=r"adapter_config\.json differ from what was trained now"):
        finetune.train({"curated": frame(range(8))}, None, **again)
    (adapter / "adapter_config.json").write_text(config)


def test_a_set_without_a_usable_row_is_refused_with_its_reasons_before_any_set_is_trained(tmp_path):
    long = frame([1]).with_columns(output=pl.lit("no end " * 600))
    for sets, validation in (
        ({"fine": frame(range(4)), "a": long}, None),
        ({"fine": frame(range(2, 4))}, long),
    ):
        with pytest.raises(
            TrainingError,
            match=r"none of the 1 examples of set '\w+' can be used: \{'too_long': 1\}.*max_length is 512",
        ):
            finetune.train(sets, validation, base_model="tiny", folder=tmp_path / "models", name="toy")
    assert not (tmp_path / "models").exists()


def test_a_training_process_that_dies_is_reported_with_the_end_of_its_log(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in TINY.iterdir():
        if path.suffix != ".safetensors":
            (broken / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match=r"(?s)training of set 'a' ended with exit code 1 .*model\.safetensors"):
        finetune.train({"a": frame(range(4))}, None, base_model=broken, folder=tmp_path / "models", name="toy")
    assert names(tmp_path / "models") == ["toy-a.failed.log"]


ENDLESS = """
import sys, polars as pl
from arislab import finetune
finetune.train({"a": pl.read_parquet(sys.argv[1])}, None, base_model="tiny", folder=sys.argv[2], num_train_epochs=10_000)
"""


def test_a_training_process_ends_when_its_parent_is_killed(tmp_path):
    frame(range(8)).write_parquet(tmp_path / "examples.parquet")
    models = tmp_path / "models"
    command = [sys.executable, "-c", ENDLESS, str(tmp_path / "examples.parquet"), str(models)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        progress = wait_for(lambda: next(models.glob(".adapter-a-*/progress.jsonl"), None))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_for(
        lambda: "the process that started this training is gone" in (progress.parent / "log.txt").read_text()
    )


def wait_for(found, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")


# Refusals before anything runs


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
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"name": "../up"}, "'../up' becomes part of a model name"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_a_process_starts(tmp_path, setting, message):
    given_settings = {"base_model": "tiny", "folder": tmp_path / "models", **setting}
    with pytest.raises(ParameterError, match=re.escape(message)):
        finetune.train({"a": frame(range(4))}, None, **given_settings)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("sets", "validation", "message"),
    [
        ({}, None, "sets is empty"),
        ({"a/b": frame([1])}, None, "'a/b' becomes part of a model name"),
        ({"a": frame([1]).drop("output")}, None, r"set 'a' has no column ['output']"),
        ({"a": frame([1]).head(0)}, None, "set 'a' has no rows"),
        ({"a": frame([1, 1])}, None, "set 'a' has 2 rows with repeated ids"),
        ({"a": frame([1, 2])}, frame([2, 3]), "1 examples of set 'a' also stand in validation"),
    ],
)
def test_sets_that_cannot_be_trained_are_refused_before_a_process_starts(tmp_path, sets, validation, message):
    with pytest.raises((TrainingError, ParameterError), match=re.escape(message)):
        finetune.train(sets, validation, base_model="tiny", folder=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("missing", "setting", "pip"),
    [
        ("bitsandbytes", {"method": "qlora"}, "pip install 'bitsandbytes>=0.48'"),
        ("unsloth", {"backend": "unsloth"}, "pip install 'unsloth>=2026.8'"),
        ("trl", {}, 'pip install -e ".[train]"'),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, missing, setting, pip):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(PrerequisiteError, match=re.escape(missing) + ".*" + re.escape(pip)):
        finetune.train({"a": frame([1])}, None, base_model="tiny", folder=tmp_path, **setting)


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder", "llama"])
def test_a_base_model_that_is_not_here_is_refused_without_a_download(name):
    with pytest.raises(PrerequisiteError, match=r"neither a folder with a config\.json nor a model in the local"):
        finetune.resolve_model(name)


def test_the_device_comes_with_its_reason():
    device, why = finetune.compute_device()
    assert device in ("cpu", "cuda")
    assert why


def test_qlora_lowers_the_loss(tmp_path):
    present = importlib.util.find_spec("bitsandbytes") is not None
    need("bitsandbytes", present=present, why="bitsandbytes is not installed (it comes with the gpu extra)")
    assert lowered(tmp_path, method="qlora")


def test_unsloth_lowers_the_loss(tmp_path):
    present = importlib.util.find_spec("unsloth") is not None
    need("unsloth", present=present, why="unsloth is not installed (it comes with the gpu extra)")
    assert lowered(tmp_path, backend="unsloth")


@pytest.mark.gpu
def test_training_on_a_gpu_lowers_the_loss(tmp_path):
    need("gpu", present=finetune.compute_device()[0] == "cuda", why="no CUDA device")
    assert lowered(tmp_path)


def lowered(folder, **settings):
    quick = {"base_model": "tiny", "folder": folder, "batch_size": 8}
    rows = finetune.train({"a": frame(range(40))}, frame(range(100, 120)), **quick, **settings)
    measured = finetune.losses(rows)["eval_loss"].drop_nulls()
    return measured[-1] < 0.8 * measured[0]
