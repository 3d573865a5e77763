"""A run knows where it comes from: code, task file and environment."""

import json
import shutil
from pathlib import Path

import pytest
from toys import CHECKOUT, PARAMETERS, ran

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
