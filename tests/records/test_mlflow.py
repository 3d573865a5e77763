"""A record as a run of MLflow."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from toys import CHECKOUT, need, sha256

from arislab.errors import PrerequisiteError
from arislab.records import mlflow as mlflow_runs

COMMANDS = """
import json, os, sys
from mlflow import MlflowClient
from mlflow.store.tracking import sqlalchemy_store
from arislab.__main__ import main
for line in sys.stdin:
    words, folder, files = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, path in enumerate(files, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["arislab", *words]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs each command in a process of its own, which finds MLflow imported: that takes longer than all the rest."""


@pytest.fixture(scope="module")
def arislab(tmp_path_factory):
    """The command in a process of its own, so that no warning or thread of MLflow stays in this one."""
    folder = tmp_path_factory.mktemp("printed")
    files = [folder / "out", folder / "err"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    env = os.environ | quiet | {"PYTHONPATH": str(CHECKOUT) + os.pathsep + os.environ.get("PYTHONPATH", "")}
    with subprocess.Popen(
        [sys.executable, "-c", COMMANDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as commands:

        def export(*words, root):
            words = ["runs", "export", *words, "--root", str(root)]
            print(json.dumps([words, str(root), list(map(str, files))]), file=commands.stdin, flush=True)
            code = int(commands.stdout.readline())
            return subprocess.CompletedProcess(words, code, *(path.read_text() for path in files))

        yield export


@pytest.fixture
def mlflow():
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if find_spec(name) is None]
    need("mlflow", present=not missing, why=f"{', '.join(missing)} not installed ({mlflow_runs.INSTALL})")


def test_numbers_of_a_headline_are_metrics_and_intervals_are_four():
    headline = {"account": {"total": 3, "label": "rows", "states": {"ok": 3}}, "a": (1), "b": "text", "c": True}
    interval = {"icl": {"mean": 0.5, "low": None, "high": 0.6, "n": 9}}
    assert mlflow_runs.numbers(headline | interval) == {
        "account.total": 3.0,
        "account.ok": 3.0,
        "a": 1.0,
        "icl": 0.5,
        "icl.high": 0.6,
        "icl.n": 9.0,
    }


@pytest.mark.slow
def test_without_mlflow_one_error_names_the_extra(good, monkeypatch):
    monkeypatch.setattr(mlflow_runs, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError) as error:
        mlflow_runs.mlflow(good, "sqlite:///x.db")
    assert str(error.value) == (
        'the export to MLflow needs mlflow, sqlalchemy, alembic, not installed here; run: pip install "arislab[mlflow]"'
    )
    with pytest.raises(PrerequisiteError, match="needs mlflow, not installed"):
        mlflow_runs.mlflow(good, "http://127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_a_run_is_in_the_store_once_with_all_it_says(good, bad, recorded, arislab, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for phase, says in (("good", "written"), ("good", "stands already"), ("bad", "written")):
        done = arislab(phase, "--mlflow", uri, root=recorded)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        exported = {row[0]: row[1:] for row in store.execute("select name, run_uuid, status, start_time from runs")}
        assert {name: row[1] for name, row in exported.items()} == {good["run_id"]: "FINISHED", bad["run_id"]: "FAILED"}
        mine = exported[good["run_id"]][0]

        def values(table):
            return dict(store.execute(f"select key, value from {table} where run_uuid = ?", [mine]))

        assert values("params") == {"n": "4", "names": '["a"]', "note": ""}
        numbers = {"icl_tuned": 0.5, "icl_tuned.low": 0.4, "icl_tuned.high": 0.6, "icl_tuned.n": 9.0, "k": 5.0}
        assert values("metrics") == numbers | {"account.total": 3.0, "account.ok": 3.0}
        tags = values("tags")
    assert (tags["arislab.run_id"], tags["status"], tags["phase"]) == (good["run_id"], "ok", "good")
    assert tags["run_key"] == good["run_key"]
    stored = tmp_path / "mlartifacts" / mine / "artifacts"
    for name in ("run.json", "notebook.ipynb"):
        assert sha256(stored / name) == sha256(Path(good["folder"]) / name)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_an_export_that_was_cut_off_is_finished_not_doubled(recorded, arislab, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = arislab("good", "--mlflow", uri, root=recorded)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("delete from tags where key = 'arislab.record_sha256'")
    again = arislab("good", "--mlflow", uri, root=recorded)
    assert again.stdout == first.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select count(*) from runs").fetchone() == (1,)
        assert store.execute("select count(*), count(distinct key) from metrics").fetchone() == (7, 7)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_nothing_leaves_the_machine(good, tmp_path):
    code = (
        "import sys, json; seen = []\n"
        "calls = ('socket.connect', 'socket.getaddrinfo', 'socket.sendto')\n"
        "sys.addaudithook(lambda e, a: seen.append(e) if e in calls else None)\n"
        "from pathlib import Path\n"
        "from arislab.records import mlflow as export; from arislab.records import find as records\n"
        f"export.mlflow(records.read(Path({good['folder']!r})), 'sqlite:///' + {str(tmp_path / 'x.db')!r})\n"
        "import time; time.sleep(2); print(json.dumps(seen))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_a_store_that_cannot_be_used_is_one_error_without_its_password(recorded, arislab, tmp_path):
    (tmp_path / "bad.db").write_text("rubbish, and more than a few bytes of it")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for uri in (f"sqlite:///{tmp_path / 'bad.db'}", "nonsense://x", f"http://me:sk-planted@127.0.0.1:{port}"):
        done = arislab("good", "--mlflow", uri, root=recorded)
        assert done.returncode == 2
        assert "MLflow refused" in done.stderr
        assert "Traceback" not in done.stderr
        assert "sk-planted" not in done.stderr
