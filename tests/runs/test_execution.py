"""Run records tell the truth: toy notebooks, real kernels, real deaths."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import jsonschema
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from toys import CHECKOUT, ended, notebook, parameters, people

from arislab import runs
from arislab.errors import BatchError, ParameterError, PrerequisiteError
from arislab.lake import Lake, digests
from arislab.records import record as run_record
from arislab.runs import signals
from arislab.system import files, masking
from arislab.system.processes import identity

PLANTED = "sk-planted-0123456789"


@pytest.fixture
def toy(root):
    return lambda *cells, **kw: notebook(root / "notebooks", *cells, **kw)


def saved(record):
    return json.loads((record.folder / "run.json").read_text())


# ---- parameters


def test_parameters_are_read_with_type_default_and_help(root):
    found = parameters(root)
    assert list(found)[:3] == ["task", "keep_fraction", "n"]
    assert found["keep_fraction"] == runs.Parameter("keep_fraction", "float", 0.2, "share to keep, in (0, 1]")
    assert (found["label"].default, found["label"].help) == ("a # b", "free text")
    assert found["seed"].help == ""
    untyped = parameters(root, "x = 3\ny = None\nz = 'a'  # text")
    assert [p.type for p in untyped.values()] == ["int", "str", "str"]


def test_a_notebook_without_a_parameters_cell_has_none(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "plain.ipynb")
    assert runs.parameters_of(tmp_path / "plain.ipynb") == {}


@pytest.mark.parametrize(
    ("source", "says"),
    [("n: int = 3 +", "line 1"), ("n: int = 2 * 3", "must be a literal"), ("n: frame = 1", "declared as 'frame'")],
)
def test_a_parameters_cell_that_cannot_be_read_is_named(root, source, says):
    with pytest.raises(ParameterError, match=says):
        runs.convert(parameters(root, source), {"n": "3"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(PrerequisiteError, match=r"x\.ipynb is not a notebook"):
        runs.parameters_of(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("n", "12", 12),
        ("n", "1_000", 1000),
        ("n", 5, 5),
        ("keep_fraction", "1e-1", 0.1),
        ("keep_fraction", 1, 1.0),
        ("label", "007", "007"),
        ("label", "true", "true"),
        ("label", 'it\'s "so" \\ é\n{}', 'it\'s "so" \\ é\n{}'),
        ("strict", "false", False),
        ("strict", "True", True),
        ("names", "a, b", ["a", "b"]),
        ("names", '["a,b"]', ["a,b"]),
        ("names", "", []),
        ("names", ("a",), ["a"]),
        ("limit", "none", None),
        ("limit", "4", 4),
        ("limit", None, None),
        ("mode", "above", "above"),
    ],
)
def test_values_get_the_declared_type(root, name, given, value):
    found = runs.convert(parameters(root), {name: given})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("n", "12.5"),
        ("n", "1e3"),
        ("n", "١٢"),
        ("n", True),
        ("n", 3.0),
        ("n", ""),
        ("keep_fraction", "many"),
        ("keep_fraction", "nan"),
        ("keep_fraction", "inf"),
        ("keep_fraction", True),
        ("label", 7),
        ("strict", "1"),
        ("strict", 1),
        ("names", 3),
        ("names", [1]),
        ("names", "[1"),
        ("limit", "all"),
        ("mode", "below"),
    ],
)
def test_a_value_of_another_type_is_refused(root, name, given):
    with pytest.raises(ParameterError) as caught:
        runs.convert(parameters(root), {name: given})
    assert f"{name} must be" in str(caught.value)
    assert repr(given) in str(caught.value)
    assert "default" in str(caught.value)


def test_numpy_numbers_keep_their_kind(root):
    import numpy as np

    assert runs.convert(parameters(root), {"n": np.int64(3), "keep_fraction": np.float64(0.5)}) == {
        "n": 3,
        "keep_fraction": 0.5,
    }


@pytest.mark.parametrize("name", ["api_key", "token", "openai_api_key", "password", "client_secret"])
def test_a_parameter_that_looks_like_a_secret_is_refused(root, name):
    with pytest.raises(ParameterError, match="looks like a secret"):
        runs.convert(parameters(root), {name: "x"})


def test_tokens_and_files_of_tokens_are_no_secrets(root):
    source = "max_tokens: int = 3\ntoken_file: str = ''\napi_key_env: str = 'K'\n"
    assert runs.convert(parameters(root, source), {"max_tokens": "4", "token_file": "t", "api_key_env": "E"})


def test_what_cannot_run_is_refused_before_anything_is_made(root, toy):
    notebooks = toy("1")
    for phase, given, says in [
        ("curate", {"keep_fracton": "0.1"}, "did you mean 'keep_fraction'"),
        ("curate", {"n": "many"}, "n must be a whole number, got 'many'"),
        ("curate", {"task": "shuot"}, "did you mean 'shout'"),
        ("curat", {}, "did you mean 'curate'"),
        ("gone.ipynb", {}, "no notebook"),
    ]:
        with pytest.raises(PrerequisiteError, match=says):
            runs.execute(phase, given, root=root, notebooks=notebooks)
    assert not (root / "papermill_runs").exists()


def test_a_task_file_is_the_one_that_the_kernel_loads(root, toy):
    notebooks = toy("from arislab.task import find\nprint(*find(task))")
    shutil.rmtree(notebooks / "tasks")
    record = runs.execute("curate", {"task": "candidate_evaluation"}, root=root, notebooks=notebooks)
    assert record.status == "ok", record
    assert record.task["path"] == str(CHECKOUT / "notebooks" / "tasks" / "candidate_evaluation.py")
    assert record.task["path"] in (record.folder / "log.txt").read_text()
    assert (record.folder / "task.py").read_text() == Path(record.task["path"]).read_text()


def test_a_task_file_that_is_no_text_is_refused_before_anything_is_made(root, toy):
    notebooks = toy("1")
    (notebooks / "tasks" / "shout.py").write_bytes("SYSTEM = 'Größe'".encode("latin-1"))
    with pytest.raises(PrerequisiteError, match=r"task file shout\.py cannot be read: UnicodeDecodeError.*in UTF-8"):
        runs.execute("curate", root=root, notebooks=notebooks)
    assert not (root / "papermill_runs").exists()


def test_a_root_that_cannot_be_written_is_named(root, toy):
    notebooks = toy("1")
    (root / "papermill_runs").write_text("a file is in the way")
    with pytest.raises(PrerequisiteError, match="cannot write to"):
        runs.execute("curate", root=root, notebooks=notebooks)


# ---- account and headline


def test_an_account_reads_like_a_sum():
    view = runs.account(6000, ok=5870, truncated=61, refused=0, same_request_as_another=69)
    assert repr(view) == "6,000 candidates = 5,870 ok + 61 truncated + 69 same request as another"
    assert "6,000 candidates" in view._repr_html_()
    assert repr(runs.account(0, label="rows")) == "0 rows = 0"


@pytest.mark.parametrize("states", [{"ok": 5}, {"ok": 8}, {"ok": 8, "lost": -1}, {}])
def test_an_account_that_does_not_add_up_is_refused(states):
    with pytest.raises(BatchError, match=f"account of 7 rows does not add up: .*= {sum(states.values())} "):
        runs.account(7, label="rows", **states)


def test_a_headline_takes_numbers_text_and_intervals():
    import numpy as np

    interval = namedtuple("interval", "mean low high n")(0.5, 0.4, 0.6, 100)
    shown = runs.headline(
        runs.account(2, ok=2),
        icl=(0.7, 0.6, 0.8, 50),
        base=interval,
        n=np.int64(1234),
        policy="score",
        bad=float("nan"),
    )
    bundle = shown._repr_mimebundle_()
    numbers = json.loads(json.dumps(bundle["application/vnd.arislab.headline+json"], allow_nan=False))
    assert numbers == {
        "account": {"total": 2, "label": "candidates", "states": {"ok": 2}},
        "icl": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 50},
        "base": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100},
        "n": 1234,
        "policy": "score",
        "bad": None,
    }
    assert bundle["text/plain"].splitlines()[:2] == ["2 candidates = 2 ok", "icl     0.700 [0.600, 0.800] n=50"]
    assert "<script" not in runs.headline(x="<script>")._repr_mimebundle_()["text/html"]
    with pytest.raises(ParameterError, match="headline x="):
        runs.headline(x=[1])


# ---- a run that goes well


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
        "runs.headline(runs.account(n, ok=n), zeta=(0.5, 0.4, 0.6, 9), label=label, python=sys.executable, cwd=os.getcwd(),\n"
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

    found = saved(record)
    assert (record.status, record.reason, record.cell) == ("ok", None, None), record
    assert record.parameters_passed == {"n": 4, "label": PLANTED, "limit": None}
    assert (found["parameters"]["n"], found["parameters"]["keep_fraction"], found["seed"]) == (4, 0.2, 7)
    head = found["headline"]
    assert list(head)[:3] == ["account", "zeta", "label"]
    assert head["account"] == {"total": 4, "label": "candidates", "states": {"ok": 4}}
    assert (head["python"], head["cwd"], head["hashseed"]) == (sys.executable, str(notebooks), "0")
    assert (head["root"], head["run"], head["tasks"]) == (str(root), record.run_id, str(notebooks / "tasks"))
    assert "inline" in head["backend"]
    assert found["tables_read"].keys() == {"candidates"}
    assert {**found["tables_read"]["candidates"], "digest": ""} == {"version": 1, "rows": 4, "digest": ""}
    left = found["tables_written"].pop("reviews")
    assert (left["version_before"], left["version"], left["rows"]) == (None, 1, 5)
    assert left["digest"] == digests.digest("reviews", lake["reviews"].read())
    assert set(left["columns"]) == {"event_id", "custom_id", "reviewer", "decision", "decided_at"}
    assert found["tables_written"] == {}
    assert record.parameters_from["n"] == "given"
    assert record.parameters_from["seed"] == "default"
    assert found["record_sha256"] == run_record.record_sha256(saved(record))
    schema = json.loads((CHECKOUT / "arislab" / "records" / "run.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((record.folder / "run.json").read_text()))
    assert found["task"]["name"] == "shout"
    assert (record.folder / "task.py").read_text() == "SYSTEM = 'SHOUT!'\n"
    assert (len(found["code"]["commit"]), found["code"]["dirty"]) == (40, True)
    assert found["code"]["untracked"] == ["notebooks/scratch.py"]
    assert "+SYSTEM = 'SHOUT!'" in (record.folder / "code.diff").read_text()
    assert "papermill==" in (record.folder / "env.lock").read_text()
    assert found["duration_s"] > 0
    assert found["finished_at"] > found["started_at"]
    assert found["peak_rss_mb"] > 10 or not Path("/proc").exists()
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


def test_importing_runs_loads_nothing_heavy():
    code = "import sys, arislab.runs; print([m for m in ('papermill', 'nbformat', 'IPython', 'zmq', 'torch') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# ---- runs that do not


def test_a_failing_cell_is_named(root, toy):
    notebooks = toy("print('before')", "\n\n1 / 0", "print('after')")
    record = runs.execute("curate", {"n": 4}, root=root, notebooks=notebooks)
    found = saved(record)
    assert (found["status"], found["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert found["cell"]["index"] == 3, "the place in the notebook that the user edits"
    assert (found["cell"]["ename"], found["cell"]["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in (record.folder / "log.txt").read_text()
    assert "after" not in (record.folder / "log.txt").read_text()
    assert "cell 3 of 2_curate.ipynb: 1 / 0" in repr(record)


def test_a_killed_kernel_is_a_failure(root, toy):
    notebooks = toy(
        "import os, subprocess\nchild = subprocess.Popen(['sleep', '60']).pid",
        "open(os.environ['ARISLAB_ROOT'] + '/child', 'w').write(str(child))\nos.kill(os.getpid(), 9)",
        "1",
    )
    found = saved(runs.execute("curate", root=root, notebooks=notebooks))
    assert (found["status"], found["reason"], found["cell"]["index"]) == ("killed", "kernel died by SIGKILL", 3)
    assert ended(int((root / "child").read_text())), "what the kernel started ends with it"


def test_leaving_by_sys_exit_is_a_failure(root, toy):
    record = runs.execute("curate", root=root, notebooks=toy("import sys\nsys.exit(0)"))
    assert (record.status, record.reason) == ("failed", "SystemExit: 0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_later_ones_wait_for_the_verdict(number):
    before = signal.getsignal(number)
    with signals.stoppable():
        with pytest.raises(signals.Stopped, match=signal.Signals(number).name):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


@pytest.fixture
def supervisor(root):
    """Start a supervisor in a process of its own; returns it and its kernel's pid once the long cell runs."""
    started = []

    def start():
        notebooks = notebook(
            root / "notebooks",
            "import os, time",
            "open(os.environ['ARISLAB_ROOT'] + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(120)",
        )
        code = "import sys; from pathlib import Path; from arislab import runs; "
        code += "print(runs.execute('curate', root=Path(sys.argv[1]), notebooks=Path(sys.argv[2])).status)"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(notebooks)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        for _ in range(1200):
            if (root / "pid").exists() and (root / "pid").read_text():
                return process, int((root / "pid").read_text())
            assert process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the kernel did not start within a minute")

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_stopped_supervisor_says_interrupted(root, supervisor):
    process, pid = supervisor()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "interrupted"
    (run,) = runs.as_json(root)
    assert (run["status"], run["reason"], run["cell"]["index"]) == ("interrupted", "SIGTERM", 3)
    assert ended(pid)


def test_a_killed_supervisor_is_seen_as_lost_and_the_phase_is_free_again(root, supervisor):
    process, pid = supervisor()
    (run,) = runs.as_json(root)
    assert run["status"] == "running"
    with pytest.raises(PrerequisiteError, match=f"'curate' is already running under .*process {process.pid} since"):
        runs.execute("curate", root=root, notebooks=root / "notebooks")
    assert len(runs.as_json(root)) == 1, "the refused run left nothing"
    process.kill()
    process.wait()
    (run,) = runs.as_json(root)
    assert (run["status"], run["duration_s"]) == ("lost", None)
    with runs.lock(root, "curate"):
        pass
    assert ended(pid)


def test_phases_and_roots_do_not_lock_each_other(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    with (
        runs.lock(a, "curate"),
        runs.lock(a, "icl"),
        runs.lock(b, "curate"),
        pytest.raises(PrerequisiteError, match="already running"),
        runs.lock(a, "curate"),
    ):
        pass
    with runs.lock(tmp_path / "a", "curate"):
        pass


# ---- reading records


def plant(root, name, **fields):
    folder = root / "papermill_runs" / name
    folder.mkdir(parents=True)
    record = {
        "run_id": name,
        "phase": "icl",
        "status": "ok",
        "started_at": "2026-01-02T00:00:00.000+00:00",
        "parameters": {},
    }
    (folder / "run.json").write_text(json.dumps(record | fields))
    return folder


def test_runs_are_listed_newest_first_and_unreadable_ones_too(root):
    plant(root, "20260101T000000Z-icl-aaaa", started_at="2026-01-01T00:00:00.000+00:00", headline={"x": 1})
    plant(root, "20260102T000000Z-icl-bbbb", duration_s=1.5, parameters={"k": 5})
    (root / "papermill_runs" / "20260103T000000Z-icl-cccc").mkdir()
    (plant(root, "20260104T000000Z-curate-dddd") / "run.json").write_text('{"run_id": "2026')
    (plant(root, "20260105T000000Z-curate-eeee") / "run.json").write_text("[]")
    plant(root, "20260106T000000Z-curate-ffff", status="running", started_at="2026-01-06T00:00:00.000+00:00")
    (root / "papermill_runs" / "example").mkdir()
    (root / "papermill_runs" / ".locks").mkdir()
    (root / "papermill_runs" / "README.md").write_text("log")

    frame = runs.list_runs(root)

    assert [name[-4:] for name in frame["run_id"]] == ["ffff", "eeee", "dddd", "cccc", "bbbb", "aaaa"]
    assert frame["status"].to_list() == ["unreadable"] * 4 + ["ok"] * 2
    assert frame["phase"].to_list()[2:5] == ["curate", "icl", "icl"]
    assert frame["parameters"].to_list()[-2] == '{"k": 5}'
    assert runs.as_json(root)[-1]["headline"] == {"x": 1}
    asked = {"run_id", "phase", "status", "started_at", "duration_s", "parameters", "headline"}
    assert all(asked <= run.keys() for run in runs.as_json(root))
    json.dumps(runs.as_json(root))


def test_no_runs_is_an_empty_list(tmp_path):
    assert runs.as_json(tmp_path) == []
    assert runs.list_runs(tmp_path).height == 0


def test_a_running_record_of_this_process_another_boot_or_another_machine(root):
    me = identity(os.getpid())
    for name, supervisor, status in [
        ("20260101T000000Z-icl-0001", me, "running"),
        ("20260101T000000Z-icl-0002", me | {"start_ticks": 1}, "lost"),
        ("20260101T000000Z-icl-0003", me | {"boot_id": "before"}, "lost"),
        ("20260101T000000Z-icl-0004", me | {"boot_id": "other", "hostname": "elsewhere"}, "running"),
    ]:
        plant(root, name, status="running", supervisor=supervisor)
        assert runs.as_json(root)[0]["status"] == status, name


# ---- writing records


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
    found = masking.secrets_of(
        {
            "MY_API_KEY": PLANTED,
            "db_password": "hunter2hunter2",
            "A_TOKEN": "short",
            "KEY_FILE": str(tmp_path),
            "PEM_SECRET": pem,
            "HOME": "/home/someone",
        }
    )
    assert {PLANTED, "hunter2hunter2", "MIIEvQIBADAN"} <= set(found)
    assert not {"short", str(tmp_path), "/home/someone"} & set(found)
    assert masking.without({"a": [f"x{PLANTED}y", 3]}, found) == {"a": ["x[hidden]y", 3]}
