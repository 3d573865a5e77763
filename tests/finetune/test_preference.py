"""Preferences are tokenized as examples are, trained by the published losses, and compared with a control of chance."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from toys import TINY, learned, nurses, said

from arislab import finetune
from arislab.errors import ParameterError, TrainingError
from arislab.finetune.pairs import tokenize_preferences

QUICK = {"base_model": "tiny", "name": "toy", "num_train_epochs": 2, "batch_size": 8}
RATE = 5e-4


def compared(numbers):
    """Pairs of nurses, all of other messages: better are those that score below one."""
    rows = nurses(numbers).with_columns(pl.col("messages").str.replace("Nurse", pl.format("Nurse {}", "id")))
    return rows.select(
        pair_id=pl.format("p-{}", "id"), messages="messages", chosen="output",
        rejected=pl.col("output").str.replace('"score": 0', '"score": 9', literal=True),
        custom_ids=pl.concat_list("id", pl.format("{}-b", "id")),
    )  # fmt: skip


def verdicts(pairs):
    """The single verdicts behind pairs."""
    long = pairs.unpivot(["chosen", "rejected"], index=["pair_id", "messages"], value_name="output")
    names = {"id": pl.format("{}-{}", "pair_id", "variable"), "is_desirable": pl.col("variable") == "chosen"}
    return long.select("messages", "output", **names).sort("id")


def of(folder):
    return finetune.Settings(folder=folder, **QUICK)


def pair(chosen, rejected, messages='[{"role": "user", "content": "Capital of Peru?"}]', name="p-0"):
    return pl.DataFrame([{"id": name, "messages": messages, "output": chosen, "rejected": rejected}])


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", "llama3", "qwen3"])
@settings(max_examples=30, deadline=None)
@given(user=said, chosen=said, rejected=said)
def test_both_answers_are_trained_whole_with_their_stop_behind_the_same_prompt(
    speakers, family, user, chosen, rejected
):
    tokenizer, kwargs = speakers[family]
    messages = json.dumps([{"role": "system", "content": "Be kind."}, {"role": "user", "content": user}])
    how = {"max_length": 4096, "chat_template_kwargs": kwargs}
    row = tokenize_preferences(pair(chosen, rejected, messages), tokenizer, **how).row(0, named=True)
    alone = [
        finetune.tokenize(pair(text, "", messages), tokenizer, **how).row(0, named=True) for text in (chosen, rejected)
    ]
    assert (row["status"] == "ok") == (chosen.strip() != rejected.strip() and {r["status"] for r in alone} == {"ok"})
    if row["status"] != "ok":
        assert row["status"] in ({r["status"] for r in alone} | {"equal"}) - {"ok"}
        return
    prompts = []
    for ids, labels, text in (("input_ids", "labels", chosen), ("other_ids", "other_labels", rejected)):
        stop, n_prompt = tokenizer.decode(row[labels][-1:]), row[labels].count(-100)
        assert learned(tokenizer, {"labels": row[labels]}) in (text + stop, text.lstrip(" ") + stop)
        assert row[ids][n_prompt:] == row[labels][n_prompt:]
        prompts.append(row[ids][:n_prompt])
    assert prompts[0] == prompts[1] != []


ROLES = json.dumps([{"role": "captain", "content": "go"}])
LIMA, CUZCO = "Lima.", "Cuzco."


@pytest.mark.parametrize(
    ("rows", "statuses", "reason"),
    [
        ([(LIMA, " Lima. ")], ["equal"], "chosen and rejected say the same"),
        ([(LIMA, CUZCO), (LIMA, CUZCO)], ["ok", "repeated"], "another row says the same"),
        ([(LIMA, CUZCO), (CUZCO, LIMA)], ["contradicted"] * 2, "another row says the opposite"),
        ([(LIMA, "no end " * 600)], ["too_long"], r"rejected: \d+ tokens, max_length is 512"),
        ([("no end " * 600, CUZCO)], ["too_long"], r"chosen: \d+ tokens, max_length is 512"),
        ([(LIMA, "<|end|> Cuzco.")], ["control_token"], "rejected: a content holds '<|end|>'"),
        ([(LIMA, "")], ["empty"], "rejected: the answer or a message has no text"),
        ([(LIMA, CUZCO, ROLES)], ["bad_roles"], r"chosen: roles are \['captain'\]"),
    ],
)
def test_a_pair_that_says_nothing_or_cannot_be_trained_has_a_status_and_a_reason(tokenizer, rows, statuses, reason):
    frame = pl.concat([pair(*row, name=f"p-{i}") for i, row in enumerate(rows)])
    tokenized = tokenize_preferences(frame, tokenizer)
    assert tokenized["status"].to_list() == statuses
    assert re.match(reason.replace("|", r"\|"), tokenized["reason"][-1])
    assert tokenized["id"].to_list() == frame["id"].to_list()


def test_an_answer_that_is_both_desirable_and_not_is_not_trained(tokenizer):
    rows = verdicts(compared(range(3)))
    odd = rows.head(3).with_columns(output=pl.lit("Same."), messages=pl.lit(rows["messages"][0]))
    tokenized = tokenize_preferences(pl.concat([rows, odd]), tokenizer)
    assert tokenized["status"].to_list() == ["ok"] * 6 + ["contradicted"] * 3


# ---- the losses ------------------------------------------------------------------------------------------------------

ORACLE = """
import json, os, pathlib, sys
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
import datasets, polars as pl, torch, transformers, trl
from peft import PeftModel
from arislab import finetune
from arislab.finetune import pairs, preferring
base, adapter, work = sys.argv[1:]
work, tokenizer, found = pathlib.Path(work), finetune.load_tokenizer(base), {}
quick = {"output_dir": work, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    "max_length": None, "beta": 0.3}
settings = {"backend": "trl", "method": "lora", "r": 8, "lora_alpha": 16, "batch_size": 6, "seed": 0,
    "gradient_accumulation_steps": 1, "num_train_epochs": 1, "learning_rate": 1e-3, "max_length": 512}

def moved(trainer):  # away from the reference
    generator = torch.Generator().manual_seed(3)
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    trainer.model.train()

def loss_and_gradients(trainer, batch):
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}

for loss in ("dpo", "ipo", "kto"):
    starts = {"0": {"path": adapter, "sha256": ""}}
    spec = {"base_model": base, "device": "cpu", "arm": loss, "settings": settings,
        "preference": {"loss": loss, "beta": 0.3, "controls": [], "starts": starts}}
    rows = pl.read_parquet(work / f"{loss == 'kto'}.parquet")
    ours = preferring.new_trainer(spec, tokenizer, pairs.tokenize_preferences(rows, tokenizer), work)
    read, data = ours.train_dataset.to_list(), []
    for row in read:
        n, m = row["labels"].count(-100), row["other_labels"].count(-100)
        prompt, first, second = row["input_ids"][:n], row["input_ids"][n:], row["other_ids"][m:]
        data.append({"prompt_ids": prompt, "chosen_ids": first, "rejected_ids": second, "completion_ids": first,
            "KL_completion_ids": second, "label": row.get("is_desirable")})
    kind, config = trl.DPOTrainer, trl.DPOConfig(**quick, loss_type=[{"dpo": "sigmoid"}.get(loss, "ipo")])
    if loss == "kto":
        weighed = {name: ours.preference[name] for name in ("desirable_weight", "undesirable_weight")}
        kind, config = trl.KTOTrainer, trl.KTOConfig(**quick, per_device_train_batch_size=6, **weighed)
    kind._prepare_dataset = lambda self, dataset, *_: dataset
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    theirs = kind(model=model, args=config, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer)
    moved(ours), moved(theirs)
    (one, mine), (other, known) = (
        loss_and_gradients(ours, ours.batch(read)), loss_and_gradients(theirs, theirs.data_collator(data))
    )
    apart = max(float((mine[n] - known[n]).norm() / known[n].norm()) for n in mine)
    found[loss] = [one, other, apart, len(mine), len(read)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def oracle(trained, tmp_path_factory):
    """Our loss and that of TRL on the same batch, of a model that has moved away from its reference."""
    _, rows, _ = trained
    work, pairs = tmp_path_factory.mktemp("oracle"), compared(range(6))
    pairs.rename({"pair_id": "id", "chosen": "output"}).write_parquet(work / "False.parquet")
    verdicts(pairs)[[0, 1, 2, 3, 4, 6]].write_parquet(work / "True.parquet")
    (work / "oracle.py").write_text(ORACLE)
    command = [sys.executable, "-W", "ignore", work / "oracle.py", TINY, rows["model_path"][0], work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto"])
def test_loss_and_gradients_are_those_of_trl(oracle, loss):
    ours, theirs, apart, n_weights, n_rows = oracle[loss]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert apart < 1e-3
    assert (n_weights, n_rows) == (7 * 2 * json.loads((TINY / "config.json").read_text())["num_hidden_layers"], 6)
    at_start = {"dpo": 0.6931, "ipo": 2.7778, "kto": 0.5}[loss]
    assert abs(ours - at_start) > 0.01  # it has moved


# ---- the training ----------------------------------------------------------------------------------------------------

PAIRS, HELD_OUT = compared(range(32)), compared(range(100, 112))


@pytest.fixture(scope="module")
def preferred(trained, tmp_path_factory):
    """An adapter of examples that goes on with pairs, and its control: (settings, where it starts, rows)."""
    _, rows, _ = trained
    settings, start = of(tmp_path_factory.mktemp("preferred")), rows["model_path"][0]
    pairs = pl.concat([PAIRS, PAIRS.head(2).with_columns(pair_id=pl.format("{}-odd", "pair_id"))])
    return settings, start, finetune.prefer(pairs, HELD_OUT, settings, start=start, learning_rate=RATE)


@pytest.mark.slow
def test_pairs_that_were_not_learned_are_told_apart_and_chance_learns_less(preferred):
    _, _, rows = preferred
    curve = finetune.losses(rows).filter(arm="dpo").drop_nulls("eval_loss")["eval_loss"]
    assert curve[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: the model is its own reference
    assert curve[-1] < 0.6
    assert rows["eval_loss"][0] == curve[-1]
    apart = finetune.told_apart(rows)
    assert apart["arm"].to_list() == ["dpo", "dpo-control"]
    assert apart["n"].to_list() == [12, 12]
    assert apart["accuracy"][0] == 1.0
    assert apart["margin"][0] > 1.0 > abs(apart["margin"][1])


def test_the_record_says_what_was_preferred_and_where_it_started(preferred):
    _, start, rows = preferred
    row = rows.row(0, named=True)
    assert (row["arm"], row["method"], row["training_examples"]) == ("dpo", "dpo", 32)
    hyperparameters = json.loads(row["hyperparameters"])
    assert hyperparameters["preference"] == {"loss": "dpo", "beta": 0.1, "start_from": "sft", "is_control": False}
    assert hyperparameters["rows"] == {"ok": 32, "repeated": 2}
    manifest = json.loads((Path(row["model_path"]) / "manifest.json").read_text())
    sha256 = json.loads((Path(start) / "manifest.json").read_text())["files"]["adapter_model.safetensors"]
    assert manifest["start"] == {"name": Path(start).name, "sha256": sha256}
    other = json.loads((Path(rows["model_path"][1]) / "manifest.json").read_text())
    assert other["data_sha256"] != manifest["data_sha256"]  # it learned from pairs that are turned round
    assert other["hyperparameters"]["preference"]["is_control"]
    assert not {path.name for path in Path(row["model_path"]).iterdir() if path.is_dir()}  # one adapter is served
    learned_from = finetune.preference_rows(rows, PAIRS, HELD_OUT).filter(arm="dpo")
    assert dict(learned_from.group_by("role").len().iter_rows()) == {"trained": 64, "held out": 24}


@pytest.mark.slow
def test_the_same_pairs_in_another_order_and_process_give_the_same_adapter_bit_for_bit(preferred, tmp_path):
    settings, start, rows = preferred
    how = {"start": start, "learning_rate": RATE, "control": False, "folder": tmp_path}
    again = finetune.prefer(PAIRS.reverse(), HELD_OUT, settings, **how)
    assert again["adapter_sha256"].to_list() == rows["adapter_sha256"].to_list()[:1]
    assert again["adapter_sha256"][0][:12] not in start


@pytest.mark.slow
def test_pairs_that_are_turned_round_go_the_other_way_from_the_base_too(tmp_path):
    turned = PAIRS.rename({"chosen": "rejected", "rejected": "chosen"})
    rows = finetune.prefer(turned, HELD_OUT, of(tmp_path), learning_rate=RATE, control=False)
    assert finetune.told_apart(rows)["accuracy"].to_list() == [0.0]
    assert finetune.told_apart(rows)["margin"][0] < -1.0
    assert json.loads(rows["hyperparameters"][0])["preference"]["start_from"] == "base"


@pytest.mark.slow
def test_single_verdicts_are_told_apart_and_the_rarer_kind_counts_more(trained, tmp_path):
    _, rows, _ = trained
    few = verdicts(PAIRS).filter(pl.col("is_desirable") | pl.col("id").str.contains("p-r-00(0|10)"))
    how = {"loss": "kto", "start": rows["model_path"][0], "learning_rate": RATE, "control": False}
    made = finetune.prefer(few, verdicts(HELD_OUT), of(tmp_path), **how)
    preference = json.loads(made["hyperparameters"][0])["preference"]
    n = few["is_desirable"].sum()
    assert preference["undesirable_weight"] == pytest.approx(n / (few.height - n))
    assert preference["desirable_weight"] == 1.0
    assert finetune.told_apart(made)["accuracy"][0] > 0.9


# ---- what is refused -------------------------------------------------------------------------------------------------


WEIGHTS, RECORD = "adapter_model.safetensors", "manifest.json"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHTS, None, r"adapter_model.safetensors in \S+ are not as they were"),
        (WEIGHTS, lambda content: content[:-1] + b"!", "train that adapter again"),
        (RECORD, None, "is no adapter that finetune.train wrote"),
        (RECORD, lambda content: content[:-9], "is no adapter that finetune.train wrote"),
        (RECORD, lambda content: content.replace(b'"sha256": "', b'"sha256": "0'), "fit their own base"),
    ],
)
def test_a_start_that_is_damaged_or_of_another_base_is_refused(trained, tmp_path, name, change, message):
    _, rows, _ = trained
    start = shutil.copytree(rows["model_path"][0], tmp_path / "adapter")
    content = (start / name).read_bytes()
    (start / name).unlink()
    if change:
        (start / name).write_bytes(change(content))
    with pytest.raises(TrainingError, match=message):
        finetune.prefer(PAIRS, None, of(tmp_path / "models"), start=start)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"loss": "dpa"}, "loss 'dpa' is not known"),
        ({"beta": 0}, "beta must be a number above 0"),
        ({"beta": True}, "beta must be a number above 0"),
        ({"backend": "unsloth"}, "backend must be 'trl' or 'auto'"),
        ({"r": 4}, r"r must be 8, that of \S+, got 4"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, r"chat_template_kwargs must be \{\}"),
        ({"seeds": 0}, "seeds must be a whole number"),
        ({"start": ["a", "b"], "seeds": 3}, "one for each of 3 seeds, got 2"),
        ({"loss": "kto"}, "the rows for loss 'kto' have no column"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_a_process_starts(trained, tmp_path, how, message):
    _, rows, _ = trained
    with pytest.raises(ParameterError, match=message):
        finetune.prefer(PAIRS, None, of(tmp_path / "models"), **{"start": rows["model_path"][0], **how})
    assert not (tmp_path / "models").exists()


def test_too_few_preferences_are_refused_with_the_number_that_is_missing(tmp_path):
    with pytest.raises(TrainingError, match=r"29 of 29 preferences .* at least 30 are needed: 1 more"):
        finetune.prefer(PAIRS.head(29), None, of(tmp_path))
    long = PAIRS.with_columns(rejected=pl.lit("no end " * 600))
    with pytest.raises(TrainingError, match=r"0 of 32 .*'too_long': 32.*rejected: \d+ tokens"):
        finetune.prefer(long, None, of(tmp_path))
    with pytest.raises(TrainingError, match="32 answers are desirable and 0 are not, and at least 10 of each"):
        finetune.prefer(verdicts(PAIRS).filter("is_desirable"), None, of(tmp_path), loss="kto")
