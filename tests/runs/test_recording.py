"""What a record says and keeps, and what is said where it cannot be kept."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import nbformat
import pytest
from toys import CHECKOUT, disk, notebook, people, ran_cells, saved

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.lake import Lake, digests
from arislab.records import find as records
from arislab.records import record as run_record
from arislab.runs import verify
from arislab.system import files, masking


def test_a_run_folder_that_disappears_is_one_message_and_a_verdict(root):
    record = ran_cells(root, "import os, shutil; shutil.rmtree(os.environ['ARISLAB_RUN_DIR'])", "'more'")
    assert (record.status, record.cause) == ("failed", "folder-gone")
    assert "removed while it ran" in record.reason
    (run,) = runs.as_json(root)
    assert (run["status"], run["cause"]) == ("failed", "folder-gone")


def test_a_folder_of_runs_that_disappears_is_one_message(root):
    wipe = "import os, pathlib, shutil\nbase = pathlib.Path(os.environ['ARISLAB_RUN_DIR']).parent\n"
    wipe += "shutil.rmtree(base); base.write_text('')"
    with pytest.raises(PrerequisiteError, match="verdict cannot be written"):
        ran_cells(root, wipe)


@pytest.fixture
def full_disk(root):
    """A root on a disk without a free byte."""
    with disk(root / "full", size="64k") as full:
        (full / "papermill_runs" / ".locks").mkdir(parents=True)
        with (full / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        yield full


def test_a_disk_without_a_free_byte_is_one_message_that_says_that_nothing_was_stored(root, full_disk, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(full_disk))
    books = notebook(root / "notebooks", "1")
    command = [sys.executable, "-m", "arislab", "run", str(books / "2_curate.ipynb"), "--root", str(full_disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "No space left" in done.stderr
    assert "nothing was stored" in done.stderr


@pytest.mark.slow
def test_a_run_that_fails_after_writing_says_what_is_stored_and_what_is_not(root):
    write = """
import polars as pl
from arislab.lake import Lake
lake = Lake()
people = {"candidate_id": ["a", "b"], "profile": "{}", "group_id": "g", "split": "train"}
lake["candidates"].append(pl.DataFrame(people))
"""
    text = repr(ran_cells(root, write, "1 / 0", "'never'"))
    assert "stored in the lake, and kept: candidates (2 rows, version 0); 2 of 4 code cells did not complete" in text
    assert "stored in the lake, and kept: nothing" in repr(ran_cells(root, "1 / 0"))
    assert "stored" not in repr(ran_cells(root, "1"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ['it\'s a "task"', "$(task);`x`", "名前 é 🙂", "a{b}c", "x" * 180])
def test_odd_names_of_notebooks_and_tasks_are_recorded(root, name):
    books = notebook(root / "notebooks", "1", name=name)
    (books / "tasks" / f"{name}.py").write_text("SYSTEM = 'Shout.'\n")
    record = runs.execute(str(books / f"{name}.ipynb"), {"task": str(books / "tasks" / f"{name}.py")}, root=root)
    assert record.status == "ok", record
    assert records.find(root, record.run_id)["task"]["name"] == name
    assert verify.check_files(records.read(record.folder)).findings == []


PLANTED = "sk-planted-0123456789"


def test_a_record_is_complete(root, toy, monkeypatch):
    foreign = root / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    monkeypatch.setenv("PLANTED_API_KEY", PLANTED)
    monkeypatch.setenv("SHORT_TOKEN", "true")
    notebooks = toy(
        "import os, sys, json\nprint('to stdout', os.environ['PLANTED_API_KEY'])\nprint('to stderr', file=sys.stderr)",
        "import polars as pl\n"
        "from arislab.lake import Lake\n"
        "lake = Lake()\n"
        "lake['candidates'].read(where=\"split = 'train'\", columns=['candidate_id'])\n"
        "def review(*names):\n"
        "    now = pl.datetime(2026, 1, 1, time_unit='us', time_zone='UTC')\n"
        "    rows = [{'event_id': n, 'custom_id': n, 'reviewer': 'ann', 'decision': 'approve'} for n in names]\n"
        "    lake['reviews'].append(pl.DataFrame(rows).with_columns(decided_at=now))\n"
        "review('a', 'b')\n"
        "review('c', 'd', 'e')\n"
        "lake['reviews'].read()\n"
        "with open(os.environ['ARISLAB_RUN_DIR'] + '/tables.jsonl', 'a') as log:\n"
        '    log.write(\'{"op": "wri\')',
        "from arislab import runs\n"
        "runs.headline(runs.account(n, ok=n), zeta=(0.5, 0.4, 0.6, 9), label=label,\n"
        "    python=sys.executable, cwd=os.getcwd(),\n"
        "    root=os.environ['ARISLAB_ROOT'], run=os.environ['ARISLAB_RUN_ID'], backend=os.environ['MPLBACKEND'],\n"
        "    hashseed=os.environ['PYTHONHASHSEED'], tasks=os.environ['ARISLAB_TASKS'])",
    )
    lake = Lake()
    lake["candidates"].append(people(3))
    lake["candidates"].append(people(4).tail(1))
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "notebooks"], ["commit", "-q", "-m", "toy"]):
        subprocess.run([*git, *command], check=True)
    (notebooks / "tasks" / "shout.py").write_text("SYSTEM = 'SHOUT!'\n")
    (notebooks / "scratch.py").write_text("1\n")
    lines = []

    record = runs.execute(
        "2_curate", {"n": "4", "label": PLANTED, "limit": None}, root=root, notebooks=notebooks, echo=lines.append
    )

    run = saved(record)
    assert (record.status, record.reason, record.cell) == ("ok", None, None), record
    assert record.parameters_passed == {"n": 4, "label": PLANTED, "limit": None}
    assert (run["parameters"]["n"], run["parameters"]["keep_fraction"], run["seed"]) == (4, 0.2, 7)
    head = run["headline"]
    assert list(head)[:3] == ["account", "zeta", "label"]
    assert head["account"] == {"total": 4, "label": "candidates", "states": {"ok": 4}}
    assert (head["python"], head["cwd"], head["hashseed"]) == (sys.executable, str(notebooks), "0")
    assert (head["root"], head["run"], head["tasks"]) == (str(root), record.run_id, str(notebooks / "tasks"))
    assert "inline" in head["backend"]
    assert run["tables_read"].keys() == {"candidates"}
    assert {**run["tables_read"]["candidates"], "digest": ""} == {"version": 1, "rows": 4, "digest": ""}
    left = run["tables_written"].pop("reviews")
    assert (left["version_before"], left["version"], left["rows"]) == (None, 1, 5)
    assert left["digest"] == digests.digest("reviews", lake["reviews"].read())
    assert set(left["columns"]) == {"event_id", "custom_id", "reviewer", "decision", "decided_at"}
    assert run["tables_written"] == {}
    assert record.parameters_from["n"] == "given"
    assert record.parameters_from["seed"] == "default"
    assert run["record_sha256"] == run_record.record_sha256(saved(record))
    schema = json.loads((CHECKOUT / "arislab" / "records" / "run.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((record.folder / "run.json").read_text()))
    assert run["task"]["name"] == "shout"
    assert (record.folder / "task.py").read_text() == "SYSTEM = 'SHOUT!'\n"
    assert (len(run["code"]["commit"]), run["code"]["dirty"]) == (40, True)
    assert run["code"]["untracked"] == ["notebooks/scratch.py"]
    assert "+SYSTEM = 'SHOUT!'" in (record.folder / "code.diff").read_text()
    assert "papermill==" in (record.folder / "env.lock").read_text()
    assert run["duration_s"] > 0
    assert run["finished_at"] > run["started_at"]
    assert run["peak_rss_mb"] > 10 or not Path("/proc").exists()
    log = (record.folder / "log.txt").read_text()
    assert "to stdout [hidden]" in log
    assert "to stderr" in log
    assert any(line.startswith("cell 2/4") for line in lines)
    assert nbformat.read(record.folder / "notebook.ipynb", 4)
    assert runs.list_runs(root)["status"].to_list() == ["ok"]
    assert "zeta" in repr(record)
    for path in record.folder.iterdir():
        assert PLANTED.encode() not in path.read_bytes(), path.name
        assert not path.name.endswith(".part")


def test_a_record_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.replace(path, '"old"')

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.replace(path, '"new"')
    assert path.read_text() == '"old"'
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_reader_never_sees_half_a_record(tmp_path):
    path, texts, seen = tmp_path / "run.json", [json.dumps([c] * 20_000) for c in "ab"], set()
    files.replace(path, texts[0])
    done = threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        files.replace(path, texts[i % 2])
    done.set()
    reader.join()
    assert seen <= set(texts)


def test_secrets_are_found_by_the_name_of_their_variable(tmp_path):
    pem = "-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----"
    secrets = masking.secrets_of(
        {
            "MY_API_KEY": PLANTED,
            "db_password": "hunter2hunter2",
            "A_TOKEN": "short",
            "KEY_FILE": str(tmp_path),
            "PEM_SECRET": pem,
            "HOME": "/home/someone",
        }
    )
    assert {PLANTED, "hunter2hunter2", "MIIEvQIBADAN"} <= set(secrets)
    assert not {"short", str(tmp_path), "/home/someone"} & set(secrets)
    assert masking.without({"a": [f"x{PLANTED}y", 3]}, secrets) == {"a": ["x[hidden]y", 3]}
