"""What a run prints, starts and loses has bounds, and what became of it is said in one message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from toys import CHECKOUT, ended, need, notebook, people

from arislab import runs
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake
from arislab.records import files as run_files
from arislab.records import find as records
from arislab.records import mlflow, ro_crate
from arislab.runs import client, verify
from arislab.runs import log as log_file
from arislab.runs.parameter_file import from_file
from arislab.server.guard import read_token
from arislab.system import floods, processes


def ran(root, *cells, **given):
    return runs.execute("curate", given, root=root, notebooks=notebook(root / "notebooks", *cells))


# ---- floods


def test_a_cell_that_prints_without_end_fills_neither_record_nor_memory(root):
    record = ran(root, "for _ in range(300): print('x' * 200_000)", "print('y' * 30_000_000)", "print('after')")
    assert record.status == "ok", record
    log = (record.folder / "log.txt").read_text()
    assert log.count("x") < floods.CELL_CHARACTERS + 1000
    assert log.count("y") < floods.CELL_CHARACTERS + 1000
    assert "50,000,300 more characters were printed and not kept" in log
    assert "20,000,001 more characters were printed and not kept" in log
    assert "after" in log
    assert (record.folder / "notebook.ipynb").stat().st_size < 1_000_000


def test_the_log_of_a_run_has_a_bound_and_the_verdict_stands_behind_it(root, monkeypatch):
    monkeypatch.setattr(log_file, "LOG_BYTES", 1_000_000)
    record = ran(root, "print('x' * 3_000_000)", "print('z' * 3_000_000)", "raise ValueError('why')")
    log = (record.folder / "log.txt").read_text()
    assert len(log) < 1_100_000
    assert "the rest is not kept" in log
    assert "ValueError: why" in log.splitlines()[-1]


def test_displays_without_end_are_counted_and_not_held(root, monkeypatch):
    monkeypatch.setattr(client, "_MOST_OUTPUTS", 50)
    record = ran(root, "from IPython.display import display\nfor i in range(500): display(i)", "1 / 0")
    cell = nbformat.read(record.folder / "notebook.ipynb", as_version=4).cells[-2]
    assert "450 more outputs were not kept" in json.dumps(cell.outputs)
    assert record.reason == "ZeroDivisionError: division by zero"


def test_a_picture_that_is_drawn_again_and_again_is_not_a_flood(root, monkeypatch):
    monkeypatch.setattr(client, "_HELD_BYTES", 10_000)
    source = "from IPython.display import clear_output, display\nfor i in range(40):\n    clear_output(wait=True)\n    display('a' * 1000 + str(i))"
    record = ran(root, source)
    (output,) = nbformat.read(record.folder / "notebook.ipynb", as_version=4).cells[-1].outputs
    assert output.data["text/plain"].endswith("39'")


PEAK = """
import json, pathlib, re, sys
from arislab import runs
def peak_mb(): return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
root, small, large = map(pathlib.Path, sys.argv[1:])
runs.execute("curate", {}, root=root, notebooks=small)
before = peak_mb()
record = runs.execute("curate", {}, root=root, notebooks=large)
print(json.dumps([peak_mb() - before, record.status, record.reason, str(record.folder)]))
"""
SHOWN = {
    "a display": "from IPython.display import HTML, display\ndisplay(HTML('<p>' + 'x' * 300_000_000))",
    "many parts of one display": "from IPython.display import JSON, display\ndisplay(JSON(['x' * 1_000_000] * 300))",
    "a value": "class Long:\n    def __repr__(self): return 'x' * 300_000_000\nLong()",
    "an error": "raise ValueError('why: ' + 'x' * 300_000_000)",
}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process's memory is read from /proc")
@pytest.mark.parametrize("what", SHOWN)
def test_one_large_display_is_not_held_by_who_receives_it(root, what):
    small, large = notebook(root / "small", "'small'"), notebook(root / "large", SHOWN[what])
    command = [sys.executable, "-c", PEAK, str(root), str(small), str(large)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    peak_mb, status, reason, folder = json.loads(done.stdout.splitlines()[-1])
    assert peak_mb < 150
    assert status == ("failed" if what == "an error" else "ok")
    assert reason is None or reason.startswith("ValueError: why: xxx")
    text = (Path(folder) / "notebook.ipynb").read_text()
    assert "bytes were shown at once and not kept: a cell passes on 100,000,000" in text
    assert len(text) < 1_000_000


def test_a_display_within_the_bound_arrives_whole(root):
    record = ran(root, "from IPython.display import HTML, display\ndisplay(HTML('<p>' + 'é' * 20_000_000))")
    assert record.status == "ok"
    (kept,) = (record.folder / "outputs").iterdir()
    assert kept.read_text() == "<p>" + "é" * 20_000_000


# ---- displays that fail


@pytest.mark.parametrize(
    "method", ["__repr__(self)", "_repr_html_(self)", "_repr_mimebundle_(self, **_)", "_ipython_display_(self)"]
)
def test_a_display_that_fails_is_named_by_its_own_error(root, method):
    record = ran(root, f"class Broken:\n    def {method}: raise LookupError('no such picture')\nBroken()")
    assert (record.status, record.reason) == ("failed", "LookupError: no such picture")
    assert (record.cell["ename"], record.cell["evalue"]) == ("LookupError", "no such picture")
    assert "NoneType" not in (record.folder / "log.txt").read_text()


# ---- children


STUBBORN = """
import os, signal, subprocess, sys
code = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; print('up', flush=True); time.sleep(120)"
options = {"stdout": subprocess.PIPE, "start_new_session": True}
child = subprocess.Popen([sys.executable, "-c", code], **options)
bare = subprocess.Popen([sys.executable, "-c", code], env={}, **options)
for one in (child, bare): one.stdout.readline()
open(os.environ["ARISLAB_ROOT"] + "/pids", "w").write(f"{child.pid} {bare.pid}")
"""


def test_children_that_refuse_to_end_are_ended_and_named(root):
    record = ran(root, STUBBORN)
    pids = [int(pid) for pid in (root / "pids").read_text().split()]
    assert record.status == "ok"
    assert [ended(pid) for pid in pids] == [True, True]
    log = (record.folder / "log.txt").read_text()
    assert all(f"(process {pid}), which did not end by itself" in log for pid in pids)


def test_children_of_a_killed_kernel_are_ended_too(root):
    with_name = STUBBORN.replace("(child, bare)", "(child,)").replace("bare = ", "bare = child or ")
    record = ran(root, with_name, "os.kill(os.getpid(), 9)")
    assert record.cause == "kernel-died"
    assert ended(int((root / "pids").read_text().split()[0]))


def test_processes_are_known_by_start_time_and_environment():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "MARK": "of this test"}
    )
    try:
        deadline = time.monotonic() + 20
        while not processes.with_variable("MARK", "of this test") and time.monotonic() < deadline:
            time.sleep(0.05)
        ((pid, ticks),) = processes.with_variable("MARK", "of this test")
        assert (pid, ticks) in processes.descendants(os.getpid())
        assert processes.with_variable("MARK", "of this") == set()
        assert processes.end({(pid, ticks - 1)}, patience_s=0.1) == [], "another process that has its number stays"
        assert child.poll() is None
        assert processes.end({(pid, ticks)}, patience_s=10) == []
    finally:
        child.kill()
        assert child.wait() == -signal.SIGTERM


# ---- what is lost


def test_a_run_folder_that_disappears_is_one_message_and_a_verdict(root):
    record = ran(root, "import os, shutil; shutil.rmtree(os.environ['ARISLAB_RUN_DIR'])", "'more'")
    assert (record.status, record.cause) == ("failed", "folder-gone")
    assert "removed while it ran" in record.reason
    (found,) = runs.as_json(root)
    assert (found["status"], found["cause"]) == ("failed", "folder-gone")


def test_a_folder_of_runs_that_disappears_is_one_message(root):
    wipe = "import os, pathlib, shutil\nbase = pathlib.Path(os.environ['ARISLAB_RUN_DIR']).parent\nshutil.rmtree(base); base.write_text('')"
    with pytest.raises(PrerequisiteError, match="verdict cannot be written"):
        ran(root, wipe)


@pytest.fixture
def full_disk(root):
    """A root on a disk without a free byte."""
    full = root / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    need("mount", present=mounted.returncode == 0, why="a small disk cannot be mounted (not root)")
    (full / "papermill_runs" / ".locks").mkdir(parents=True)
    with (full / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    yield full
    subprocess.run(["umount", "-l", str(full)], check=True)


def test_a_disk_without_a_free_byte_is_one_message_that_says_that_nothing_was_stored(root, full_disk, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(full_disk))
    books = notebook(root / "notebooks", "1")
    command = [sys.executable, "-m", "arislab", "run", str(books / "2_curate.ipynb"), "--root", str(full_disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "No space left" in done.stderr
    assert "nothing was stored" in done.stderr


def test_a_run_that_fails_after_writing_says_what_is_stored_and_what_is_not(root):
    write = """
import polars as pl
from arislab.lake import Lake
lake = Lake()
lake["candidates"].append(pl.DataFrame({"candidate_id": ["a", "b"], "profile": "{}", "group_id": "g", "split": "train"}))
"""
    said = repr(ran(root, write, "1 / 0", "'never'"))
    assert "stored in the lake, and kept: candidates (2 rows, version 0); 2 of 4 code cells did not complete" in said
    assert "stored in the lake, and kept: nothing" in repr(ran(root, "1 / 0"))
    assert "stored" not in repr(ran(root, "1"))


# ---- links and names


def test_no_link_leads_out_of_a_record(root, tmp_path):
    secret = root / "secret.txt"
    secret.write_text("outside")
    cell = f"import os, pathlib; folder = pathlib.Path(os.environ['ARISLAB_RUN_DIR']); (folder / 'out').symlink_to({str(secret)!r})"
    record = ran(root, cell)
    assert "out" not in record.files
    assert secret.read_text() == "outside"
    found = records.read(record.folder)
    with pytest.raises(PrerequisiteError, match=r"out of .* is a link"):
        ro_crate.ro_crate(found, root / "crate")
    with pytest.raises(PrerequisiteError, match="is a link"):
        mlflow.mlflow(found, f"sqlite:///{root}/m.db")
    assert not (root / "crate").exists()
    assert "V0 out: is a link" in repr(verify.check_files(found))


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a/../../secret.txt"])
def test_a_name_that_leads_out_of_a_record_is_not_read(root, name):
    record = ran(root, "1")
    found = records.read(record.folder) | {"files": {name: {"bytes": 1, "sha256": "0" * 64}}}
    assert f"V0 {name}: is not read" in repr(verify.check_files(found))
    assert run_files.is_linked(record.folder / name, record.folder)


def test_a_rerun_stays_in_its_folder_whatever_a_record_calls_itself(root):
    from arislab.cli.runs import _target

    folder = root / "papermill_runs" / "x"
    assert (
        _target({"run_id": "../../../evil", "folder": str(folder)}, None).parent == root / "papermill_runs" / ".reruns"
    )


def test_a_table_with_a_link_is_not_taken_into_a_rerun(lake, tmp_path):
    lake["candidates"].append(people(2))
    (Path(lake.path) / "candidates" / "more.parquet").symlink_to("/etc/passwd")
    with pytest.raises(LakeError, match=r"holds a link, more\.parquet"):
        lake["candidates"].link(Lake(tmp_path / "then"), version=0)


@pytest.mark.parametrize("name", ['it\'s a "task"', "$(task);`x`", "名前 é 🙂", "a{b}c", "x" * 180])
def test_odd_names_of_notebooks_and_tasks_are_recorded(root, name):
    books = notebook(root / "notebooks", "1", name=name)
    (books / "tasks" / f"{name}.py").write_text("SYSTEM = 'Shout.'\n")
    record = runs.execute(str(books / f"{name}.ipynb"), {"task": str(books / "tasks" / f"{name}.py")}, root=root)
    assert record.status == "ok", record
    assert records.find(root, record.run_id)["task"]["name"] == name
    assert verify.check_files(records.read(record.folder)).findings == []


# ---- parameters as they were written


def test_a_value_in_yaml_is_read_by_the_declared_type(root):
    path = root / "p.yaml"
    declared = runs.parameters_of(notebook(root / "notebooks", "1") / "2_curate.ipynb")
    for written, name, value in (
        ("label: no", "label", "no"),
        ("label: 3.10", "label", "3.10"),
        ("label: 2026-01-31", "label", "2026-01-31"),
        ("label: 0x1F", "label", "0x1F"),
        ("label: '7'", "label", "7"),
        ("names: [no, 1.0, x]", "names", ["no", "1.0", "x"]),
        ("n: 010", "n", 10),
        ("keep_fraction: 1", "keep_fraction", 1.0),
        ("strict: no", "strict", False),
        ("strict: true", "strict", True),
        ("limit: ~", "limit", None),
        ("limit: 4", "limit", 4),
        ("mode: above", "mode", "above"),
    ):
        path.write_text(written + "\n")
        assert runs.convert(declared, from_file(path)) == {name: value}, written
    for written in ("label:", "label: ~"):
        path.write_text(written + "\n")
        with pytest.raises(PrerequisiteError, match="quote it in YAML"):
            runs.convert(declared, from_file(path))
    path.write_text("n: 1:30\n")
    with pytest.raises(PrerequisiteError, match="n must be a whole number, got '1:30'"):
        runs.convert(declared, from_file(path))


def test_a_file_of_comments_gives_nothing_and_a_name_twice_is_refused(root):
    path = root / "p.yaml"
    for written in ("", "# nothing\n", "---\n# later\n"):
        path.write_text(written)
        assert from_file(path) == {}
    for written in ("n: 1\nlabel: a\nn: 2\n", '{"n": 1, "n": 2}'):
        path.write_text(written)
        with pytest.raises(PrerequisiteError, match=r"'n' stands on line 1 and again on line"):
            from_file(path)


# ---- the token file of a server


@pytest.mark.parametrize("kind", ["a folder", "a link to", "not text"])
def test_a_token_file_that_is_none_is_one_message(tmp_path, kind):
    path = tmp_path / "token"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(b"\xff\xfe")
        path.chmod(0o600)
    with pytest.raises(PrerequisiteError, match="the token file") as caught:
        read_token(path)
    assert kind in str(caught.value) or "no text" in str(caught.value)
    assert not (tmp_path / "nowhere").exists()
