"""``arislab export --preferences``: pairs as chat JSONL that trainers read, and where they come from."""

import hashlib
import json
import subprocess
import sys

import polars as pl
import pytest
from toys import TINY

from arislab import pairwise, preferences
from arislab.__main__ import main
from arislab.lake import Lake
from arislab.review import decisions

QUESTION = [{"role": "system", "content": "Name the capital."}, {"role": "user", "content": "Of Peru?\u2028 “now”"}]


def pair(n, **more):
    return {
        "pair_id": f"p-{n}", "candidate_id": f"c{n}", "task": "capital", "split": "train",
        "messages": json.dumps(QUESTION), "chosen": f"Lima {n}.", "rejected": f"Cuzco {n}.\nI hope this helps!",
        "source": "edit", "reviewers": ["Ada"], "custom_ids": [f"r{n}"], "event_ids": [f"e{n}"],
    } | more  # fmt: skip


PAIRS = [
    pair(0),
    pair(1, source="approve-reject", custom_ids=["r1", "r9"], event_ids=["e1", "e9"], reviewers=["Ada", "Bo"]),
    pair(2, split="validation"),
    pair(3, source="judged", reviewers=["a judge"], event_ids=["q1", "q2"]),
    pair(4, chosen="Lima 0.", rejected="Cuzco 0.\nI hope this helps!", source="pairwise", event_ids=["v"]),
]


def approvals(names):
    return pl.concat(
        decisions.event({"custom_id": f"r{n}", "input": "Q", "output": "A"}, "approve", reviewer="Ada").with_columns(
            event_id=pl.lit(f"e{n}")
        )
        for n in names
    )


@pytest.fixture
def decided(lake):
    """A lake with pairs, the decisions behind them, and one vote."""
    lake["preferences"].append(pl.DataFrame(PAIRS))
    lake["reviews"].append(approvals([0, 1, 2, 9]))
    shown = pairwise.shown_sha256("l", "r")
    columns = ("pair_id", "task", "candidate_id", "group_id", "arm", "baseline", "arm_custom_id", "baseline_custom_id")
    sides = {"left": "l", "right": "r", "messages": "[]", "arm_is_left": True, "n_people": 1, "shown_sha256": shown}
    lake["arm_pairs"].append(pl.DataFrame([dict.fromkeys(columns, "v-1") | {"split": "train"} | sides]))
    vote = {"event_id": "v", "pair_id": "v-1", "reviewer": "Ada", "vote": "left", "shown_sha256": shown}
    lake["arm_votes"].append(pl.DataFrame([vote | {"decided_at": approvals([0])["decided_at"][0]}]))
    return lake


def exported(capsys, monkeypatch, *more):
    monkeypatch.setattr(sys, "argv", ["arislab", "export", "--preferences", *map(str, more)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_pairs_are_written_as_chat_messages_with_where_they_come_from(decided, capsys, monkeypatch, tmp_path):
    path = tmp_path / "dpo.jsonl"
    code, out, err = exported(capsys, monkeypatch, "--out", path)
    assert (code, err) == (0, "")
    assert out == f"2 pairs of the train split (by source: 1 approve-reject, 1 edit, 1 pairwise), in {path}\n"
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert lines == [
        {
            "prompt": QUESTION,
            "chosen": [{"role": "assistant", "content": f"Lima {n}."}],
            "rejected": [{"role": "assistant", "content": f"Cuzco {n}.\nI hope this helps!"}],
            "pair_id": f"p-{n}",
        }
        for n in (0, 1)
    ], "what two sources say is written once"
    facts = json.loads((tmp_path / "dpo.jsonl.provenance.json").read_text())
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["n"], facts["by_source"]) == (3, {"approve-reject": 1, "edit": 1, "pairwise": 1})
    assert (facts["splits"], facts["tasks"], facts["left_out"]) == (["train"], ["capital"], 0)
    assert facts["reviewers"] == {"Ada": 3, "Bo": 1}
    assert facts["versions"] == {"preferences": 0, "reviews": 0, "arm_pairs": 0, "arm_votes": 0}
    assert facts["pairs"]["p-1"]["event_ids"] == ["e1", "e9"]
    first = path.read_bytes()
    exported(capsys, monkeypatch, "--out", path)
    assert path.read_bytes() == first


def test_another_split_and_what_a_judge_said_are_written_only_if_asked_for(decided, capsys, monkeypatch, tmp_path):
    path = tmp_path / "some" / "dpo.jsonl"
    assert exported(capsys, monkeypatch, "--out", path, "--split", "validation")[0] == 0
    assert [json.loads(line)["pair_id"] for line in path.read_text().split("\n")[:-1]] == ["p-2"]
    assert exported(capsys, monkeypatch, "--out", path, "--source", "judged", "--source", "edit")[0] == 0
    assert path.read_text().count('"pair_id"') == 2


def test_a_pair_whose_decisions_changed_since_is_left_out_and_named(decided, capsys, monkeypatch, tmp_path):
    path = tmp_path / "dpo.jsonl"
    undo = decisions.event({"custom_id": "r0"}, "undo", reviewer="Ada", undoes="e0")
    decided["reviews"].append(undo)
    decided["arm_votes"].append(
        decided["arm_votes"].read().with_columns(event_id=pl.lit("u"), vote=pl.lit("undo"), undoes=pl.lit("v"))
    )
    code, out, err = exported(capsys, monkeypatch, "--out", path)
    assert (code, out) == (0, f"1 pairs of the train split (by source: 1 approve-reject), in {path}\n")
    assert "about 2 of 3 pairs people have decided otherwise, or more, since (first: 'p-0')" in err
    assert json.loads((tmp_path / "dpo.jsonl.provenance.json").read_text())["left_out"] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "needs --out FILE"),
        (("--out", "x", "--split", "test"), "--split must be one of train, validation, got 'test'"),
        (("--out", "x", "--source", "edits"), "--source must be one of edit, approve-reject, pairwise, judged"),
        (("--out", "x", "--icl"), "export needs one of --icl, --preferences, --training or --adapter VERSION"),
        (("--out", "x", "--task", "other"), "there is no pair of edit, approve-reject, pairwise in the train split"),
        (("--out", "/dev/null/x"), "cannot write /dev/null/x"),
    ],
)
def test_what_cannot_be_exported_is_said(decided, capsys, monkeypatch, tmp_path, given, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = exported(capsys, monkeypatch, *given)
    assert (code != 0, out) == (True, "")
    assert message in " ".join(err.split())
    assert list(tmp_path.glob("x*")) == []


def test_an_empty_lake_has_no_pairs(lake, capsys, monkeypatch, tmp_path):
    _, _, err = exported(capsys, monkeypatch, "--out", tmp_path / "x")
    assert "there is no pair" in err


STEP = """
import json, sys
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.data_utils import is_conversational
path, model, out = sys.argv[1:]
rows = load_dataset("json", data_files=path, split="train", cache_dir=out)
tokenizer = AutoTokenizer.from_pretrained(model)
settings = DPOConfig(
    output_dir=out, max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, logging_steps=1,
    gradient_checkpointing=False, bf16=False, save_strategy="no", disable_tqdm=True,
)
net = AutoModelForCausalLM.from_pretrained(model)
trainer = DPOTrainer(net, args=settings, train_dataset=rows, processing_class=tokenizer)
done = trainer.train()
first = trainer.train_dataset[0]
print(json.dumps({
    "chat": is_conversational(rows[0]), "loss": done.training_loss,
    **{side: tokenizer.decode(first[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")},
}))
"""


@pytest.mark.slow
def test_datasets_loads_the_file_and_trl_takes_a_step_of_dpo(tmp_path):
    path = tmp_path / "dpo.jsonl"
    assert preferences.write_jsonl(pl.DataFrame(PAIRS), path) == 4
    command = [sys.executable, "-W", "ignore", "-c", STEP, str(path), str(TINY), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["chat"]
    assert told["loss"] == pytest.approx(0.6931, abs=1e-3), "before the first step both sides are as likely: ln 2"
    assert "Of Peru?" in told["prompt"]
    assert told["chosen"].startswith("Lima 0.")
    assert told["rejected"].startswith("Cuzco 0.\nI hope this helps!")


def test_a_lake_without_these_tables_is_read_as_before(tmp_path):
    assert Lake(tmp_path)["preferences"].read().height == 0
