"""A record's notebook that was only saved again is the same; one character of a cell is a change, and is named."""

import json
import shutil
import string
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toys import CHECKOUT, FUZZ, ran

from arislab.records import digests, ro_crate
from arislab.records import find as records
from arislab.runs import compare, rerun, trust, verify

TEXT = "kept 12 of 60\nrows\n"
SHOWN = new_output("execute_result", {"text/plain": "0.125", "application/x+json": {"mean": 1.0, "all": ["a", "b"]}})


def book():
    streams = [new_output("stream", name=name, text=text) for name, text in (("stdout", TEXT), ("stderr", "slow"))]
    cells = [
        new_markdown_cell("# A question?", id="question"),
        new_code_cell("n = 3  # rows", id="parameters", metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell("print(n)\nn / 24", id="shown", outputs=[*streams, SHOWN], execution_count=2),
        new_code_cell(
            "1 / 0", id="fails", outputs=[new_output("error", ename="E", evalue="zero", traceback=["a", "b"])]
        ),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A notebook as a run leaves it, and what its record says of it."""
    path = tmp_path_factory.mktemp("record") / "notebook.ipynb"
    path.write_text(nbformat.v4.writes(book()) + "\n")
    return path, digests.of_file(path)


def saved_by_jupyterlab(path):
    """Write a notebook as JupyterLab does when it knows the kernel.

    Other metadata, white space, JavaScript's numbers.
    """
    saved = nbformat.read(path, as_version=4)
    saved.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    saved.metadata.language_info = {"name": "python", "version": "3.12.1"}
    saved.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    for cell in saved.cells:
        cell.metadata.trusted = True
    text = json.dumps(saved, indent=1, ensure_ascii=False, sort_keys=True).replace('"mean": 1.0', '"mean": 1')
    path.write_text(text)


def test_a_notebook_that_was_saved_anew_is_the_same(recorded, tmp_path):
    path, digest = shutil.copy(recorded[0], tmp_path), recorded[1]
    saved_by_jupyterlab(Path(path))
    assert digests.of_file(Path(path))["sha256"] != digest["sha256"]
    assert digests.change(Path(path), digest) is None
    assert digests.of_file(Path(path))["cells"] == digest["cells"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda cells: cells[2].outputs[0].update(text=TEXT.replace("12", "13")), "cell 3 (shown), its outputs"),
        (lambda cells: cells[2].outputs[2].data.update({"text/plain": "0.126"}), "cell 3 (shown), its outputs"),
        (lambda cells: cells[2].outputs[2].data["application/x+json"].update(mean=1.5), "cell 3 (shown), its outputs"),
        (
            lambda cells: cells[2].outputs[2].data["application/x+json"].update(all=["ab"]),
            "cell 3 (shown), its outputs",
        ),
        (lambda cells: cells[2].outputs.reverse(), "cell 3 (shown), its outputs"),
        (lambda cells: cells[2].update(execution_count=3), "cell 3 (shown), its outputs"),
        (lambda cells: cells[3].outputs[0].update(evalue="Zero"), "cell 4 (fails), its outputs"),
        (lambda cells: cells[2].update(source="print(n)\nn / 25"), "cell 3 (shown), its source"),
        (lambda cells: cells[0].update(source="# A claim"), "cell 1 (question), its source"),
        (lambda cells: cells[2].metadata.update(tags=["volatile-output"]), "cell 3 (shown), its source"),
        (lambda cells: cells[2].update(source="", outputs=[]), "cell 3 (shown), its source and outputs"),
        (lambda cells: cells[1].update(id="other"), "cell 2 is 'other', was 'parameters'"),
        (lambda cells: cells.pop(), "cell 4 is gone"),
        (lambda cells: cells.append(new_markdown_cell("more")), "cell 5 was added"),
    ],
)
def test_a_change_of_a_cell_is_named(recorded, tmp_path, change, says):
    path = Path(shutil.copy(recorded[0], tmp_path))
    saved_by_jupyterlab(path)
    changed = nbformat.read(path, as_version=4)
    change(changed.cells)
    path.write_text(json.dumps(changed))
    assert digests.change(path, recorded[1]) == f"was changed after the run: {says}"


@given(at=st.integers(0, len(TEXT) - 1), other=st.sampled_from(string.printable))
@settings(max_examples=FUZZ, deadline=None)
def test_any_other_character_in_an_output_is_found(recorded, at, other):
    path, digest = recorded
    changed, before = book(), path.read_bytes()
    text = TEXT[:at] + other + TEXT[at + 1 :]
    changed.cells[2].outputs[0].text = text
    path.write_text(json.dumps(changed, indent=2))
    try:
        assert (digests.change(path, digest) is None) == (text == TEXT)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}', '{"cells": [[]]}', "[" * 100_000])
def test_what_is_no_notebook_any_more_is_said(recorded, tmp_path, text):
    path = tmp_path / "notebook.ipynb"
    path.write_text(text)
    assert digests.change(path, recorded[1]) == "was changed after the run: it is no notebook any more"
    assert "cells" not in digests.of_file(path)


def test_cells_without_ids_get_some_when_they_are_saved(tmp_path):
    path, old = tmp_path / "notebook.ipynb", book()
    for cell in old.cells:
        del cell["id"]
    path.write_text(json.dumps(old | {"nbformat_minor": 4}))
    digest = digests.of_file(path)
    path.write_text(nbformat.v4.writes(book()))
    assert digests.change(path, digest) is None


def test_a_record_of_an_earlier_version_is_held_to_the_bytes_and_says_why(recorded, tmp_path):
    path = Path(shutil.copy(recorded[0], tmp_path))
    digest = {name: recorded[1][name] for name in ("bytes", "sha256")}
    assert digests.change(path, digest) is None
    saved_by_jupyterlab(path)
    assert digests.change(path, digest).startswith("was changed after the run, or only saved by JupyterLab: ")
    example = tmp_path / "example"
    shutil.copytree(CHECKOUT / "papermill_runs" / "example" / "curate", example)
    record = json.loads((example / "run.json").read_text())
    del record["files"]["notebook.ipynb"]["cells"]
    (example / "run.json").write_text(json.dumps(record))
    saved_by_jupyterlab(example / "notebook.ipynb")
    (line,) = (f for f in verify.check_files(records.read(example)).findings if f.where == "notebook.ipynb")
    assert "only saved by JupyterLab" in line.what


@pytest.mark.slow
def test_a_record_that_was_saved_in_jupyterlab_is_verified_run_again_and_exported(project, tmp_path):
    run = ran(project, n=2)
    notebook = Path(run["folder"]) / "notebook.ipynb"
    assert [cell["id"] for cell in run["files"]["notebook.ipynb"]["cells"]][2] == "injected-parameters"
    saved_by_jupyterlab(notebook)
    assert verify.check_files(run).findings == []
    assert trust.foreign(run) is None
    assert compare.compare(run, rerun.rerun(run, into=tmp_path / "again")).findings == []
    assert (ro_crate.ro_crate(run, tmp_path / "crate") / "notebook.ipynb").read_bytes() == notebook.read_bytes()
    notebook.write_text(notebook.read_text().replace("measured", "measurer"))
    findings = [repr(finding) for finding in verify.check_files(run).findings]
    assert len(findings) == 1
    assert findings[0].startswith("V0 notebook.ipynb: was changed after the run: cell 5 ("), findings
    assert trust.foreign(run).startswith("notebook.ipynb was changed after the record was signed: cell 5 (")
