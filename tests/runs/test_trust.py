"""A foreign record is code: it runs only if this user signed it, as it was signed, or says that it is trusted."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import reads
from toys import CELLS, FUZZ, notebook, ran

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.records import find as records
from arislab.records import record as run_record
from arislab.runs import rerun, signing, trust


@pytest.mark.slow
def test_a_record_of_this_user_is_run_again_and_the_key_is_nowhere_in_it(project, home, tmp_path):
    run = ran(project, n=2)
    assert trust.foreign(run) is None
    assert rerun.rerun(run, into=tmp_path / "again")["status"] == "ok"
    key = (home / "key").read_bytes().strip()
    for root in (project[0], tmp_path / "again"):
        assert [p for p in root.rglob("*") if p.is_file() and key in p.read_bytes()] == []


@pytest.mark.slow
def test_a_record_of_somebody_else_is_refused_with_what_would_run(project, home, tmp_path, monkeypatch):
    (project[1] / "tasks" / "shout.py").write_text("SYSTEM = 'Changed.'\n")
    run = ran(project, n=2)
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "other"))
    with pytest.raises(PrerequisiteError) as caught:
        rerun.rerun(run, into=tmp_path / "again")
    message = str(caught.value)
    for part in (
        run["notebook"]["path"],
        run["notebook"]["sha256"],
        "code.diff",
        "task.py",
        run["code"]["commit"],
        "--trust",
    ):
        assert part in message
    assert not (tmp_path / "again").exists()
    assert rerun.rerun(run, into=tmp_path / "again", trust=True)["status"] == "ok"


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed record with all that a rerun reads as code: changes, task file, lock, notebook."""
    base = tmp_path_factory.mktemp("signed")
    books = notebook(base / "repo" / "notebooks", "1", "'two'")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "toy"],
    ):
        subprocess.run(["git", "-C", str(books.parent), *words], check=True, capture_output=True)
    (books / "tasks" / "shout.py").write_text("SYSTEM = 'Changed.'\n")
    record = runs.execute("curate", {"n": 4}, root=base / "root", notebooks=books)
    assert trust.foreign(records.read(record.folder)) is None
    return record.folder


FILES = ("run.json", "code.diff", "env.lock", "notebook.ipynb", "task.py")


@given(
    name=st.sampled_from(FILES),
    at=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from(["flip", "drop", "double", "cut"]),
)
@settings(max_examples=FUZZ, deadline=None)
def test_any_change_of_what_would_be_executed_is_found(signed, name, at, how):
    path = signed / name
    before = path.read_bytes()
    place = int(at * len(before))
    changes = {
        "flip": before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :],
        "drop": before[:place] + before[place + 1 :],
        "double": before[:place] + before[place : place + 1] + before[place:],
        "cut": before[:place],
    }
    path.write_bytes(changes[how])
    try:
        why = trust.foreign(records.read(signed))
        is_same = {"run.json": _same, "notebook.ipynb": _same_cells}.get(name, bytes.__eq__)(before, changes[how])
        assert why is None if is_same else why, f"{name} changed at {place} ({how})"
    finally:
        path.write_bytes(before)


def _same(before, now):
    """Whether run.json still says the same: white space between its values may change."""
    try:
        return json.loads(before) == json.loads(now)
    except ValueError:
        return False


def _same_cells(before, now):
    """Whether a notebook, which a rerun does not read, shows the same.

    Opening it in JupyterLab writes its metadata anew.
    """
    try:
        one, other = ([_without_metadata(cell) for cell in reads(text.decode()).cells] for text in (before, now))
    except (ValueError, KeyError, AttributeError, TypeError):
        return False
    return one == other


def _without_metadata(cell):
    return {**cell, "metadata": cell["metadata"].get("tags", [])}


FIELDS = (
    "parameters_passed",
    "parameters",
    "code",
    "environment",
    "notebook",
    "task",
    "root",
    "files",
    "phase",
    "run_id",
    "tables_read",
)


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_is_found_although_its_digest_was_made_anew(signed, field):
    path = signed / "run.json"
    before = path.read_text()
    raw = json.loads(before)
    raw[field] = raw[field] + "x" if isinstance(raw[field], str) else {**raw[field], "more": 1}
    raw["record_sha256"] = run_record.record_sha256(raw)
    path.write_text(json.dumps(raw))
    try:
        assert trust.foreign(records.read(signed)) == "run.json was changed after it was signed"
    finally:
        path.write_text(before)


def test_a_file_that_was_added_replaced_by_a_link_or_taken_away_is_found(signed, tmp_path):
    shutil.copytree(signed, tmp_path / signed.name)
    folder, kept = tmp_path / signed.name, (signed / "code.diff").read_bytes()
    (folder / "code.diff").unlink()
    assert trust.foreign(records.read(folder)) == "code.diff is gone"
    (tmp_path / "elsewhere").write_bytes(kept)
    (folder / "code.diff").symlink_to(tmp_path / "elsewhere")
    assert trust.foreign(records.read(folder)) == "code.diff is a link"
    raw = json.loads((folder / "run.json").read_text())
    raw["files"].pop("code.diff")
    raw["record_sha256"] = run_record.record_sha256(raw)
    raw["signature"] = signing.sign(raw["record_sha256"])
    (folder / "run.json").write_text(json.dumps(raw))
    (folder / "code.diff").unlink()
    assert trust.foreign(records.read(folder)) is None
    (folder / "code.diff").write_bytes(kept)
    assert trust.foreign(records.read(folder)) == "code.diff was added after the record was signed"


def test_plain_papermill_and_jupyterlab_sign_their_records_too(root, kernel, tmp_path):
    import papermill

    kernel(*CELLS)
    book = notebook(tmp_path / "books", "1") / "2_curate.ipynb"
    papermill.execute_notebook(
        str(book),
        str(tmp_path / "out.ipynb"),
        engine_name="arislab",
        kernel_name="python3",
        language="python",
        progress_bar=False,
    )
    by_launcher = {run["launched_by"]: records.read(Path(run["folder"])) for run in records.as_json(root)}
    assert {name: trust.foreign(run) for name, run in by_launcher.items()} == {"jupyter": None, "papermill": None}
