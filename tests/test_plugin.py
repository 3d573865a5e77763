"""Plain papermill leaves records of phases, and runs other notebooks as ever."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import nbformat
import papermill as papermill_itself
import pytest
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from toys import notebook

from arislab import runs


def papermill(root, *words):
    command = [str(Path(sys.executable).with_name("papermill")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def phase_notebook(root, *cells):
    path = notebook(root / "notebooks", *cells) / "2_curate.ipynb"
    nb = nbformat.read(path, 4)
    nb.metadata.arislab = {"phase": "curate"}
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, path)
    return path


@pytest.mark.slow
def test_plain_papermill_leaves_a_record_of_a_phase(root):
    path = phase_notebook(root, "from arislab import runs\nruns.headline(share=keep_fraction)")
    done = papermill(root, path, root / "out.ipynb", "-p", "keep_fraction", "0.1")
    assert done.returncode == 0, done.stderr
    (run,) = runs.as_json(root)
    assert (run["status"], run["launched_by"]) == ("ok", "papermill")
    assert run["headline"] == {"share": 0.1}
    assert run["parameters"]["keep_fraction"] == 0.1
    out = nbformat.read(root / "out.ipynb", 4)
    assert [c.metadata.papermill.status for c in out.cells if c.cell_type == "code"] == ["completed"] * 3


def executed(root, path, **how):
    """What the papermill command does with a notebook, in this process."""
    papermill_itself.execute_notebook(str(path), str(root / "out.ipynb"), progress_bar=False, **how)


@pytest.mark.parametrize(
    ("cell", "status", "ends"),
    [
        ("1 / 0", "failed", pytest.raises(PapermillExecutionError, match="ZeroDivisionError")),
        ("import sys; sys.exit(0)", "failed", nullcontext()),
        ("import os; os.kill(os.getpid(), 9)", "killed", pytest.raises(DeadKernelError)),
    ],
    ids=["an exception", "an exit", "a kill"],
)
def test_plain_papermill_tells_how_a_phase_ended(root, cell, status, ends):
    path = phase_notebook(root, cell, "2")
    with ends:
        executed(root, path)
    (run,) = runs.as_json(root)
    assert (run["status"], run["launched_by"]) == (status, "papermill")
    out = nbformat.read(root / "out.ipynb", 4)
    states = [c.metadata.papermill.status for c in out.cells if c.cell_type == "code"]
    assert states[-1] == "not-run"
    assert states[-2] == ("failed" if status == "failed" else "running")


@pytest.mark.slow
def test_plain_papermill_refuses_a_misspelt_parameter_and_leaves_other_notebooks_alone(root):
    path = phase_notebook(root, "1")
    done = papermill(root, path, root / "out.ipynb", "-p", "keep_fracton", "0.1")
    assert done.returncode != 0
    assert "did you mean 'keep_fraction'" in done.stderr
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x")])
    other.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(other, root / "other.ipynb")
    executed(root, root / "other.ipynb", parameters={"x": 3})
    assert runs.as_json(root) == []
    executed(root, root / "other.ipynb", engine_name="arislab")
    assert [run["phase"] for run in runs.as_json(root)] == ["other"]


@pytest.mark.slow
def test_papermill_finds_the_engine_whoever_is_imported_first():
    for first in ("papermill", "arislab.plugin"):
        code = f"import {first}, papermill; from papermill.engines import papermill_engines as e\n"
        code += "print(e.get_engine('arislab').__name__, e.get_engine(None).__name__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["RecordedRun", "Chooser"], first
