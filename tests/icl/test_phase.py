"""Phase 3 as a recorded run on a small root.

Kills, use cases, several k, rules, and the message list that comes out of it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, TASK, arislab, good, people, serving

from arislab.lake import Lake
from arislab.task import candidate_of, load

SMALL = {"k": 2, "pool_size": 6, "budget": 150, "n_search": 24, "n_holdout": 24}
N_BATCHES = 3  # two rounds and the hold-out


def planted(root):
    """A root with 48 validation and 48 test candidates, half of them tech, and ten examples, seven of them tech."""
    root.mkdir(exist_ok=True)
    (root / "shout.py").write_text(TASK)
    lake = Lake(root / "data" / "lake")
    every = people(96).with_columns(
        split=pl.Series(["validation"] * 48 + ["test"] * 48), use_case=pl.Series(["tech", "general"] * 48)
    )
    authors = people(10).with_columns(candidate_id=pl.concat_str(pl.lit("t"), "candidate_id"), use_case=pl.lit("tech"))
    lake["candidates"].append(pl.concat([every, authors.with_columns(group_id="candidate_id")]))
    rows = [
        {
            "id": f"e{i}", "candidate_id": name, "custom_id": f"e{i}", "task": "shout",
            "input": f"candidate number {i}",
            "output": f"CANDIDATE NUMBER {i}", "quality_score": 1 - i / 20, "needs_review": True, "approved": False,
            "split": "train",
            "metadata": json.dumps({"use_case": "tech" if i < 7 else "general", "category": f"c{i % 3}"}),
        }
        for i, name in enumerate(authors["candidate_id"])
    ]  # fmt: skip
    lake["training_data_curated"].append(pl.DataFrame(rows))
    return root


def options(root, url, **more):
    given = SMALL | {"task": str(root / "shout.py"), "base_url": url} | more
    return [text for name, value in given.items() for text in ("-p", f"{name}={value}")]


@pytest.fixture
def server():
    """A server that counts what it is asked; whether an answer is loud depends on its request alone."""
    with serving() as (faults, url):
        faults.is_ours = True
        faults.line = lambda name, n: good(name, "FINE" if hashlib.sha256(name.encode()).digest()[0] % 2 else "fine")
        yield faults, url


def killed(root, url, faults, *, at):
    """Run the phase and kill it, runner and kernel, when the batch of this number has been made and not answered."""
    made = threading.Event()

    def watch(batch, names):
        if faults.n_made - 1 == at:
            faults.is_lazy = True
            faults.waits = batch["id"]
            made.set()

    faults.watch = watch
    command = [sys.executable, "-m", "arislab", "run", "icl", *options(root, url), "--root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=CHECKOUT)
    try:
        assert made.wait(60), "the batch was never made"
    finally:
        for pid in [process.pid, *below(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    faults.is_lazy = False
    faults.finish(faults.waits, {"status": "completed"})  # the server went on while nobody listened


def below(pid):
    """Processes that a process started, and those that they started."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            pids += [int(stat.parent.name), *below(int(stat.parent.name))]
    return pids


def outcome(root):
    """What must not depend on kills: every cell, every trial, the chosen set."""
    lake = Lake(root / "data" / "lake")
    cells = lake["icl_cells"].read().drop("run_id", "created_at", "asked_at").sort("set_id", "candidate_id")
    trials = lake["icl_trials"].read().drop("run_id", "created_at").sort("trial_id")
    return [
        *(frame.to_dicts() for frame in (cells, trials)),
        lake["icl_examples"].read().drop("run_id", "created_at").to_dicts(),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the kernel by /proc")
def test_a_phase_killed_in_each_round_and_in_the_holdout_goes_on_and_asks_no_cell_twice(tmp_path, server):
    faults, url = server
    whole, broken = planted(tmp_path / "whole"), planted(tmp_path / "broken")
    arislab("run", "icl", *options(whole, url), root=whole)
    asked = dict(faults.asked)
    assert faults.n_made == N_BATCHES
    faults.batches.clear()
    faults.asked.clear()
    faults.keys.clear()
    faults.n_made = 0
    for at in range(N_BATCHES):
        killed(broken, url, faults, at=at)
    faults.watch = lambda batch, names: None
    arislab("run", "icl", *options(broken, url), root=broken)
    assert faults.n_made == N_BATCHES  # each batch was made once, and adopted
    assert dict(faults.asked) == asked
    assert set(asked.values()) == {1}
    assert outcome(broken) == outcome(whole)


def digits(asked):
    """Embed a text as how often it has each digit."""
    vectors = [[float(text.count(digit)) for digit in "0123456789"] for text in asked["input"]]
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


@pytest.mark.slow
def test_a_use_case_has_a_search_of_its_own_under_its_rules_and_phase_5_takes_its_set(tmp_path, server):
    faults, url = server
    faults.embed = digits
    root = planted(tmp_path / "root")
    lake = Lake(root / "data" / "lake")
    rules = {
        "k": "1,2",
        "pinned": "e3",
        "banned": "e1",
        "one_per": "category",
        "use_case": "tech",
        "embedding_model": "e",
    }
    arislab("run", "icl", *options(root, url, **rules), root=root)
    arislab("run", "icl", *options(root, url), root=root)  # general, and newer

    sets = {row["use_case"]: row for row in lake["icl_examples"].read().to_dicts()}
    assert set(sets) == {"tech", "general"}
    assert (sets["general"]["k"], sets["general"]["n_validation"]) == (2, 24)
    assert sets["tech"]["n_validation"] == 12
    who = lake["candidates"].read().select("candidate_id", "use_case", "split")
    cells = lake["icl_cells"].read().join(who, on="candidate_id")
    assert cells["split"].unique().to_list() == ["validation"]
    assert cells.filter(pl.col("search_id") == sets["general"]["search_id"])["use_case"].n_unique() == 2
    mine = cells.filter(pl.col("search_id") == sets["tech"]["search_id"])
    assert mine["use_case"].unique().to_list() == ["tech"]
    category = {f"e{i}": i % 3 for i in range(10)}
    tried = mine.filter(pl.col("purpose") == "search")["example_ids"].unique().to_list()
    assert {len(ids) for ids in tried} == {1, 2}
    for ids in tried:
        assert "e3" in ids
        assert set(ids) <= {"e0", "e2", "e3", "e4", "e5", "e6"}
        assert len({category[i] for i in ids}) == len(ids)

    book = min((root / "papermill_runs").glob("*icl*")) / "notebook.ipynb"  # the first
    report = "".join(
        "".join(o.get("text", "")) for c in json.loads(book.read_text())["cells"] for o in c.get("outputs", [])
    )
    other = 3 - sets["tech"]["k"]
    assert f"chosen - best of k={other}" in report  # paired on fresh rows, corrected with the other contrasts
    assert "p (Holm)" in report
    assert "nearest (embedding) - chosen" in report
    assert faults.calls["embeddings"] == 2  # questions, and examples

    tuned = {
        "id": "t", "name": "shout", "base_model": "m", "method": "lora", "model_path": "m", "adapter_sha256": "0",
        "data_version": "training_data_curated@0", "approve_policy": "score", "training_examples": 1,
        "hyperparameters": "{}",
    }  # fmt: skip
    lake["finetuning_runs"].append(pl.DataFrame([tuned | {"id": arm, "arm": arm} for arm in ("curated", "control")]))
    arguments = [
        "-p",
        f"task={root / 'shout.py'}",
        "-p",
        f"base_url={url}",
    ]  # questions that differ by their number are no leaks
    arislab("run", "evaluate", *arguments, "-p", "use_case=tech", root=root)
    asked = lake["evaluations"].read().join(who, on="candidate_id")
    assert asked.select("use_case", "split").unique().rows() == [("tech", "test")]
    assert asked["candidate_id"].n_unique() == 24
    shown = asked.filter(pl.col("arm") == "icl").join(lake["training_data_raw"].read(), on="custom_id")
    expected = [
        text for i in sets["tech"]["example_ids"] for text in (f"candidate number {i[1:]}", f"CANDIDATE NUMBER {i[1:]}")
    ]
    for messages in shown["messages"]:
        assert [m["content"] for m in json.loads(messages)[1:-1]] == expected
    assert shown.height == 24
    record = max((root / "papermill_runs").glob("*evaluate*")) / "run.json"
    assert json.loads(record.read_text())["headline"]["leaks_taken_out"] == "none"

    seen = asked["candidate_id"].min()
    person = lake["candidates"].read().filter(candidate_id=seen).row(0, named=True)
    question = load(root / "shout.py").to_messages(candidate_of(person))[-1]
    chat = json.dumps([question | {"content": f"**{question['content'].upper()}**!"}])
    leaking = lake["training_data_curated"].read().head(1).with_columns(id=pl.lit("planted"), messages=pl.lit(chat))
    lake["training_data_curated"].append(leaking)
    arislab("run", "evaluate", *arguments, "-p", "use_case=tech", "-p", "leaks=drop", root=root)
    again = lake["evaluations"].read().filter(~pl.col("evaluation_id").is_in(asked["evaluation_id"].unique().implode()))
    assert set(again["candidate_id"]) == set(asked["candidate_id"]) - {seen}
    record = max((root / "papermill_runs").glob("*evaluate*")) / "run.json"
    numbers = json.loads(record.read_text())["headline"]
    assert (numbers["leaks"], numbers["leaks_taken_out"], numbers["baseline"]["n"]) == (1, seen, 23)

    exported = json.loads(arislab("export", "--icl", "--use-case", "tech", "--task", root / "shout.py", root=root))
    assert [m["content"] for m in exported["messages"][1:-1]] == expected
