"""A record is run again from itself: its code, inputs and parameters of then, in a root of its own."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, TASK, git, need, notebook, people, ran

from arislab import runs
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake
from arislab.records import find as records
from arislab.runs import compare, rerun, trust


@pytest.mark.slow
def test_a_rerun_has_the_code_the_inputs_and_the_parameters_of_then(project, tmp_path):
    notebooks = project[1]
    run = ran(project, n=2, label="007")
    # since then: the notebook and the task were changed, committed or not; the table grew; the run's own output stands
    # in the lake
    (notebooks / "2_curate.ipynb").write_text(
        (notebooks / "2_curate.ipynb").read_text().replace("people.head(n)", "people.tail(n)")
    )
    git(notebooks.parent, "commit", "-q", "-a", "-m", "other")
    (notebooks / "tasks" / "shout.py").write_text("SYSTEM = 'Whisper.'\n")
    Lake()["candidates"].upsert(people(9).with_columns(title=pl.lit("new")))
    made = rerun.rerun(run, into=tmp_path / "again")
    assert (made["status"], made["rerun_of"], made["parameters"]) == ("ok", run["run_id"], run["parameters"])
    assert made["run_key"] == run["run_key"]
    assert compare.compare(run, made).findings == []
    assert Lake(tmp_path / "again" / "data" / "lake")["candidates"].rows == 5
    assert Lake()["candidates"].rows == 9
    worktrees = subprocess.run(
        ["git", "-C", str(notebooks.parent), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1, "nothing is left behind"


@pytest.mark.slow
def test_uncommitted_changes_and_new_files_are_run_again_too(project, tmp_path):
    _, notebooks = project
    path = notebooks / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.tail(n)"))
    (notebooks / "tasks" / "fresh.py").write_text("SYSTEM = 'New.'\n")
    run = ran(project, task="fresh")
    path.write_text(path.read_text().replace("people.tail(n)", "people.sample(n, seed=3)"))
    (notebooks / "tasks" / "fresh.py").unlink()
    assert compare.compare(run, rerun.rerun(run, into=tmp_path / "again")).findings == []


@pytest.mark.slow
def test_a_rerun_in_another_environment_is_refused_unless_it_is_allowed(project, tmp_path):
    run = ran(project, n=2)
    lock = Path(run["folder"]) / "env.lock"
    lock.write_text(lock.read_text().replace("polars==", "polars==0.") + "gone==1.0\n")
    lines = rerun.drift(run)
    assert lines[0].startswith("gone 1.0 then, absent now")
    assert lines[1].startswith("polars 0.")
    with pytest.raises(PrerequisiteError, match=r"gone 1\.0 then, absent now.*--allow-drift"):
        rerun.rerun(run, into=tmp_path / "again", trust=True)
    assert not (tmp_path / "again").exists()
    assert rerun.rerun(run, into=tmp_path / "again", allow_drift=True, trust=True)["status"] == "ok"


def test_what_cannot_be_had_any_more_is_said(project, tmp_path):
    run = ran(project)
    with pytest.raises(PrerequisiteError, match=r"commit 0000.* is not in"):
        rerun.rerun({**run, "code": run["code"] | {"commit": "0" * 40}}, into=tmp_path / "a")
    with pytest.raises(PrerequisiteError, match="the arislab that is installed now is another one"):
        rerun.rerun({**run, "code": run["code"] | {"package_sha256": "other"}}, into=tmp_path / "b")
    with pytest.raises(PrerequisiteError, match="only a run that has ended"):
        rerun.rerun({**run, "status": "running"}, into=tmp_path / "c")
    with pytest.raises(LakeError, match="no version 7"):
        Lake()["candidates"].link(Lake(tmp_path / "x"), version=7)


@pytest.mark.slow
def test_a_failing_run_fails_again_in_the_same_cell(project, tmp_path):
    root, notebooks = project
    path = notebooks / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.head(n / 0)"))
    record = runs.execute("curate", root=root, notebooks=notebooks)
    run = records.find(root, record.run_id)
    made = rerun.rerun(run, into=tmp_path / "again")
    assert (made["status"], made["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert compare.compare(run, made).findings == []


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"task": "shout"}, {"task": "/"}, {"n": "2"}], ids=["none", "name", "path", "n"])
def test_a_run_outside_git_is_equal_though_its_task_file_is_the_records_now(root, tmp_path, given):
    shown = ["from arislab.task import load", "from pathlib import Path", "shout = load(task)"]
    folder = notebook(tmp_path / "loose", "\n".join([*shown, "print(shout.path)"]), "n, shout")
    path = folder / "tasks" / "shout.py"
    path.write_text(TASK)
    given = {name: str(path) if value == "/" else value for name, value in given.items()}
    record = runs.execute("curate", given, root=root, notebooks=folder)
    path.write_text(TASK + "\n# changed since\n")
    recorded = records.find(root, record.run_id)
    made = rerun.rerun(recorded, into=tmp_path / "again")
    assert (made["status"], made["task"]["sha256"]) == ("ok", recorded["task"]["sha256"]), made["reason"]
    assert compare.compare(recorded, made).findings == []


@pytest.mark.slow
@pytest.mark.parametrize("is_gone", [False, True], ids=["edited", "gone"])
def test_a_run_outside_git_is_equal_though_its_notebook_was_edited_since_or_is_gone(root, tmp_path, is_gone):
    folder = notebook(tmp_path / "loose", "print(n * 3)", "n")
    record = runs.execute("curate", {"n": 2}, root=root, notebooks=folder)
    path = folder / "2_curate.ipynb"
    content = path.read_text()
    path.unlink()
    if not is_gone:
        path.write_text(content.replace("n * 3", "n * 4"))
    recorded = records.find(root, record.run_id)
    made = rerun.rerun(recorded, into=tmp_path / "again")
    assert made["notebook"]["source_sha256"] == recorded["notebook"]["source_sha256"]
    assert made["parameters_passed"]["n"] == 2
    assert compare.compare(recorded, made).findings == []
    other = recorded | {"notebook": recorded["notebook"] | {"source_sha256": "other"}}
    with pytest.raises(PrerequisiteError, match="the one in the record has other cells than the run had; restore it"):
        rerun.rerun(other, into=tmp_path / "never", trust=True)


OLD = "1d7d6e24c747f3a025cd3afc9063dc7eae37eef3"
"""A commit from before records could be verified."""


@pytest.mark.slow
def test_a_run_of_an_older_commit_of_this_repository_is_run_again_by_its_own_code(tmp_path):
    known = subprocess.run(["git", "-C", str(CHECKOUT), "cat-file", "-e", OLD], capture_output=True, check=False)
    need("history", present=known.returncode == 0, why=f"commit {OLD[:7]} is not in this clone")
    old, root = tmp_path / "old", tmp_path / "root"
    subprocess.run(["git", "clone", "-q", "--no-checkout", str(CHECKOUT), str(old)], check=True)
    subprocess.run(["git", "-C", str(old), "checkout", "-q", OLD], check=True)
    rerun._installed(old)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ARISLAB_")} | {"PYTHONPATH": str(old)}
    outputs = ["--as", "outputs", "--task", "instruction_following", "--input", "question", "--output", "answer"]
    for words in (
        ["import", "data/sample/outputs.jsonl", *outputs, "--model", "model"],
        ["run", "curate", "-p", "task", "instruction_following", "-p", "keep_fraction", "0.3"],
    ):
        command = [sys.executable, "-m", "arislab", *words, "--root", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=old, env=env)
        assert done.returncode == 0, done
    run = records.find(root, "curate")
    assert "schema_version" not in run
    assert trust.foreign(run) == "it is not signed"
    made = rerun.rerun(run, into=tmp_path / "again", trust=True)
    assert made["headline"] == run["headline"]
    assert made["code"]["commit"] == OLD
    assert compare.compare(run, made).findings == []


def test_a_table_is_taken_back_without_copying_bytes_or_touching_its_source(project, tmp_path):
    lake = Lake()
    lake["candidates"].upsert(people(7))
    then = Lake(tmp_path / "then")
    lake["candidates"].link(then, version=0)
    assert (then["candidates"].version, then["candidates"].rows) == (0, 5)
    then["candidates"].append(people(8).tail(1))
    assert (then["candidates"].version, then["candidates"].rows) == (1, 6)
    assert (lake["candidates"].version, lake["candidates"].rows) == (1, 7)
    linked = [p.stat().st_nlink > 1 for p in (tmp_path / "then" / "candidates").glob("*.parquet")]
    assert sorted(linked) == [False, True, True], "all but the new file"


def test_a_table_with_a_link_is_not_taken_into_a_rerun(lake, tmp_path):
    lake["candidates"].append(people(2))
    (Path(lake.path) / "candidates" / "more.parquet").symlink_to("/etc/passwd")
    with pytest.raises(LakeError, match=r"holds a link, more\.parquet"):
        lake["candidates"].link(Lake(tmp_path / "then"), version=0)
