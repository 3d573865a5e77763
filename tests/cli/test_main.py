"""The command line: what the README types, and what goes wrong with one clear message and nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toys import CHECKOUT, TASK, arislab

from arislab import smollm2
from arislab.lake import Lake
from arislab.tiny.decoder import MODEL_DIR

SMALL = ["-p", "n_candidates", "300", "-p", "n_dry_run", "8"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A root after a small generate run."""
    root = tmp_path_factory.mktemp("generated")
    arislab("run", "generate", *SMALL, root=root)
    return root


def test_candidates_are_composed_and_counted(tmp_path):
    printed = arislab("candidates", "--n", 200, "--seed", 3, root=tmp_path)
    assert printed.startswith("200 candidates = ")
    numbers = [int(x) for x in printed.split(";")[0].split("= ")[1].replace("+", " ").split() if x.isdigit()]
    assert sum(numbers) == 200
    arislab("candidates", "--n", 200, "--seed", 3, root=tmp_path)  # again: nothing doubles
    assert json.loads(arislab("sql", "--format", "json", "select count(*) n from candidates", root=tmp_path)) == [
        {"n": 200}
    ]


@pytest.mark.slow
def test_sql_speaks_table_json_and_csv(generated):
    query = "select split, count(*) n from candidates group by 1 order by 1"
    assert [r["split"] for r in json.loads(arislab("sql", query, "--format", "json", root=generated))] == [
        "test",
        "train",
        "validation",
    ]
    lines = arislab("sql", query, "--format", "csv", root=generated).split("\n")
    assert [line.partition(",")[0] for line in lines] == ["split", "test", "train", "validation", ""]
    assert "validation" in arislab("sql", query, root=generated)
    assert "Tables: candidates" in arislab("sql", "select * from nothing", root=generated, ok=False)


@pytest.mark.slow
def test_the_run_is_listed_with_its_account(generated):
    run = json.loads(arislab("runs", "--json", root=generated))[0]
    assert (run["phase"], run["status"]) == ("generate", "ok")
    assert {"run_id", "started_at", "duration_s", "parameters", "headline"} <= set(run)
    account = run["headline"]["account"]
    assert sum(account["states"].values()) == account["total"] == 300
    assert run["parameters"]["n_candidates"] == 300


def test_generate_reads_each_table_once(generated):
    """Each read is digested; what the run writes itself it knows."""
    (log,) = generated.glob("papermill_runs/*generate*/tables.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    read = [line["table"] for line in lines if line["op"] == "read"]
    assert sorted(read) == ["candidates", "training_data_raw"]
    assert sum(line["rows"] for line in lines if (line["op"], line["table"]) == ("write", "training_data_raw")) <= 300


@pytest.mark.slow
def test_running_generate_again_asks_nothing(generated):
    before = Lake(generated / "data" / "lake")["training_data_raw"].version
    arislab("run", "generate", *SMALL, root=generated)
    assert Lake(generated / "data" / "lake")["training_data_raw"].version == before


@pytest.mark.slow
def test_a_server_killed_during_generate_costs_nothing(generated, tmp_path):
    command = [sys.executable, "-m", "arislab", "run", "generate", *SMALL, "--root", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT)
    address, killed = tmp_path / "data" / "batches" / "server" / "address.json", []

    def kill_when_it_works():
        until = time.monotonic() + 120
        while time.monotonic() < until and not killed:
            spool = list((tmp_path / "data" / "batches" / "requests").glob("*.jsonl"))
            if len(spool) > 1 and address.is_file():  # the second file is the main batch
                time.sleep(0.3)
                os.kill(json.loads(address.read_text())["pid"], signal.SIGKILL)
                killed.append(True)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_when_it_works)
    thread.start()
    process.communicate(timeout=240)
    thread.join()
    assert killed
    arislab("run", "generate", *SMALL, root=tmp_path)
    columns = ["custom_id", "candidate_id", "status", "llm_output", "finish_reason", "completion_tokens"]
    rows = [
        Lake(r / "data" / "lake")["training_data_raw"].read(columns=columns).sort("custom_id")
        for r in (generated, tmp_path)
    ]
    assert rows[0].equals(rows[1])


@pytest.mark.slow
def test_imported_outputs_are_curated_with_a_full_account(tmp_path):
    sample = CHECKOUT / "data" / "sample" / "outputs.jsonl"
    task = ["--task", "instruction_following", "--input", "question", "--output", "answer", "--model", "model"]
    printed = arislab("import", sample, "--as", "outputs", *task, root=tmp_path)
    assert printed.startswith("80 outputs = 80 ok; samples of 38 candidates")
    arislab("run", "curate", "-p", "task", "instruction_following", root=tmp_path)
    account = json.loads(arislab("runs", "--json", root=tmp_path))[0]["headline"]["account"]
    assert sum(account["states"].values()) == account["total"] == 80
    kept = Lake(tmp_path / "data" / "lake")["training_data_curated"].read()
    assert kept.height == account["states"]["kept"]
    assert not kept["approved"].any()
    assert "sorry" not in " ".join(kept["output"])


BAD = [
    (["run", "generate", "-p", "n_candidate", "5"], "did you mean 'n_candidates'"),
    (["run", "generate", "-p", "n_candidates", "many"], "n_candidates"),
    (["run", "genrate"], "did you mean 'generate'"),
    (["run", "curate", "-p", "keep_fraction", "20"], "keep_fraction must be in (0, 1], got 20"),
    (["demo", "--until", "dinner"], "--until must be one of generate"),
    (["demo", "--model", "gpt-9"], "--model must be one of tiny, smollm2"),
    (["import", "nothing.csv", "--as", "candidates", "--id", "x"], "there is no file"),
    (["import", "nothing.csv", "--as", "dogs"], "--as must be candidates, outputs or examples"),
    (["import", "nothing.csv", "--as", "candidates"], "needs --id"),
    (["import", "nothing.csv", "--as", "outputs"], "needs --task"),
    (["sql", "select 1", "--format", "xml"], "--format must be"),
    (["export"], "export needs one of --icl"),
    (["export", "--icl"], "no examples were chosen for use case 'general'; there are: none"),
    (["run", "icl", "-p", "k", "three"], "k must be a whole number, or several with commas between, got 'three'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_clear_message(generated, arguments, message):
    lake = Lake(generated / "data" / "lake")
    before = {name: lake[name].version for name in lake.tables()}
    printed = arislab(*arguments, root=generated, ok=False)
    assert message in printed
    assert "Traceback" not in printed
    assert {name: lake[name].version for name in lake.tables()} == before


@pytest.mark.slow
def test_a_task_file_without_scorers_and_one_whose_scorer_returns_7(generated, tmp_path):
    for name, change, message in (
        ("none", ("SCORERS =", "SCORES ="), "has no SCORERS"),
        ("seven", ("return output.isupper()", "return 7"), "returned 7"),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(TASK.replace(*change).replace('["text"]', '["input"]'))  # what the rows of the import hold
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"q": "a", "a": "B"}\n')
        if name == "seven":
            arislab("import", rows, "--as", "outputs", "--task", path, "--input", "q", "--output", "a", root=tmp_path)
        printed = arislab("run", "curate", "-p", "task", str(path), root=tmp_path, ok=False)
        assert message in printed
        assert not Lake(tmp_path / "data" / "lake")["training_data_curated"].exists


@pytest.mark.slow
def test_the_demo_on_a_real_model_asks_about_real_sentences_in_a_root_for_each_seed(tmp_path):
    shutil.copytree(MODEL_DIR, tmp_path / "data" / "models" / "base" / smollm2.NAME)  # as if it had been written
    asked = ("demo", "--model", "smollm2", "--until", "generate", "--quick")
    printed = arislab(*asked, "--seeds", 2, "--seed", 5, root=tmp_path)
    assert "1,095 candidates = 1,095 new" in printed
    answers = []
    for seed in (5, 6):
        lake = Lake(tmp_path / f"seed-{seed}" / "data" / "lake")
        people = lake["candidates"].read()
        assert (people.height, people.filter(split="test")["group_id"].n_unique()) == (1095, 68)
        raw = lake["training_data_raw"].read()
        assert (raw.height, raw["model"].unique().to_list()) == (80, [smollm2.NAME])
        assert raw["messages"].str.contains("Key terms of: ").all()
        assert raw["shown"].str.starts_with("key_terms.jsonl-").all()
        answers.append(raw["llm_output"].to_list())
    assert answers[0] != answers[1]
    arislab("candidates", "--n", 5, root=tmp_path / "other")
    (tmp_path / "data" / "models").rename(tmp_path / "other" / "data" / "models")
    refused = arislab(*asked, root=tmp_path / "other", ok=False)
    assert "this lake has 5 candidates of another origin" in refused


@pytest.mark.slow
def test_bad_files_import_nothing(tmp_path):
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"id": 1, "q": "x", "a": "y"}\n{"id": 2, "q": "z", "a')
    doubled = tmp_path / "doubled.csv"
    doubled.write_text("id,text\n1,a\n1,b\n")
    empty = tmp_path / "empty.csv"
    empty.write_text("id,text\n")
    for arguments, message in (
        (
            ["import", torn, "--as", "outputs", "--task", "instruction_following", "--input", "q", "--output", "a"],
            "line 2 of 2: the last line is torn",
        ),
        (["import", doubled, "--as", "candidates", "--id", "id"], "must be unique"),
        (["import", empty, "--as", "candidates", "--id", "id"], "has no rows"),
        (["run", "curate"], "no output"),
    ):
        assert message in arislab(*arguments, root=tmp_path / "r", ok=False)
    assert Lake(tmp_path / "r" / "data" / "lake").tables() == []


def test_a_root_that_cannot_be_written_is_one_clear_message(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot write" in arislab("candidates", "--n", 5, root=blocked / "x", ok=False)


@pytest.mark.slow
def test_a_planted_key_stands_in_no_record(generated, tmp_path):
    key = "sk-planted-8151"
    arislab("run", "generate", *SMALL, root=generated, ARISLAB_API_KEY=key)
    leaking = [p for p in Path(generated).rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert leaking == []


@pytest.mark.slow
def test_every_command_has_help():
    for name in ("demo", "run", "runs", "sql", "candidates", "import", "export", "serve", "lab"):
        done = subprocess.run(
            [sys.executable, "-m", "arislab", name, "--help"], capture_output=True, text=True, check=True
        )
        assert "Usage" in done.stdout
