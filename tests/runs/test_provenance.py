"""A run knows where it comes from: code, task file and environment."""

import json
import shutil
from pathlib import Path

import pytest
from toys import CHECKOUT, PARAMETERS, git, ran

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.runs import provenance


def test_a_run_knows_which_files_made_it(project):
    run = ran(project)
    assert run["code"]["package_sha256"] == provenance.package_sha256()
    assert PARAMETERS.splitlines()[0] in "".join(
        json.loads((project[1] / "2_curate.ipynb").read_text())["cells"][1]["source"]
    )


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


def test_a_virtual_environment_in_a_checkout_is_no_code_of_it_whatever_it_is_called(tmp_path):
    git(tmp_path, "init", "-q")
    for name in (
        "env/lib/python3.11/site-packages/polars/frame.py",
        "tools/v/bin/activate_this.py",
        "notebooks/mine.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("SECRET = 1\n" if "mine" not in name else "MINE = 1\n")
    for folder in ("env", "tools/v"):
        (tmp_path / folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    state, diff = provenance.code(tmp_path)
    assert state["untracked"] == ["notebooks/mine.py"]
    assert b"+MINE = 1" in diff
    assert b"SECRET" not in diff
