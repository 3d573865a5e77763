"""A foreign record is code: it runs only if this user signed it, as it was signed, or says that it is trusted."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# ---- the key


def test_the_key_is_made_once_and_only_its_owner_reads_it(home):
    signature = signing.sign("a" * 64)
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert signing.sign("a" * 64) == signature
    assert signing.problem(signature, "a" * 64) is None
    assert (home / "key").read_text().strip() not in json.dumps(signature)
    assert [path.name for path in home.iterdir()] == ["key"]


def test_two_first_runs_at_once_get_one_key(home):
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: json.dumps(signing.sign("b" * 64)), range(24)))
    assert len(set(signed)) == 1


@pytest.mark.parametrize("variable", ["ARISLAB_HOME", "XDG_DATA_HOME", "HOME"])
def test_the_key_lies_where_the_environment_says(tmp_path, monkeypatch, variable):
    for name in ("ARISLAB_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = {"ARISLAB_HOME": "", "XDG_DATA_HOME": "arislab", "HOME": ".local/share/arislab"}[variable]
    assert signing.home() == tmp_path / below


def test_a_home_that_cannot_be_written_leaves_the_record_unsigned_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not signed"):
        assert signing.sign("c" * 64) is None


def test_a_signature_says_what_is_wrong_with_it(home, tmp_path, monkeypatch):
    signature = signing.sign("d" * 64)
    assert signing.problem(None, "d" * 64) == "it is not signed"
    assert "changed after it was signed" in signing.problem(signature, "e" * 64)
    assert "changed after it was signed" in signing.problem(signature | {"hmac": "é"}, "d" * 64)
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "other"))
    assert "no key" in signing.problem(signature, "d" * 64)
    signing.sign("d" * 64)
    assert "another key" in signing.problem(signature, "d" * 64)


# ---- records


def test_a_record_of_this_user_is_run_again_and_the_key_is_nowhere_in_it(project, home, tmp_path):
    found = ran(project, n=2)
    assert trust.foreign(found) is None
    assert rerun.rerun(found, into=tmp_path / "again")["status"] == "ok"
    key = (home / "key").read_bytes().strip()
    for root in (project[0], tmp_path / "again"):
        assert [p for p in root.rglob("*") if p.is_file() and key in p.read_bytes()] == []


def test_a_record_of_somebody_else_is_refused_with_what_would_run(project, home, tmp_path, monkeypatch):
    (project[1] / "tasks" / "shout.py").write_text("SYSTEM = 'Changed.'\n")
    found = ran(project, n=2)
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "other"))
    with pytest.raises(PrerequisiteError) as caught:
        rerun.rerun(found, into=tmp_path / "again")
    said = str(caught.value)
    for part in (
        found["notebook"]["path"],
        found["notebook"]["sha256"],
        "code.diff",
        "task.py",
        found["code"]["commit"],
        "--trust",
    ):
        assert part in said
    assert not (tmp_path / "again").exists()
    assert rerun.rerun(found, into=tmp_path / "again", trust=True)["status"] == "ok"


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
    found = {run["launched_by"]: records.read(Path(run["folder"])) for run in records.as_json(root)}
    assert {name: trust.foreign(run) for name, run in found.items()} == {"jupyter": None, "papermill": None}


# ---- the command


def arislab(*words, home=None):
    env = os.environ | ({"ARISLAB_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "arislab", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("verb", ["verify", "rerun", "resume"])
def test_without_a_terminal_a_foreign_record_is_refused_with_exit_2_and_one_message(project, tmp_path, verb):
    root, books = project
    path = books / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.head(n / 0)"))
    runs.execute("curate", {"n": 2}, root=root, notebooks=books)
    done = arislab(verb, "curate", "--root", str(root), home=tmp_path / "other")
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert re.search(r"is not run: you have no key .*--trust", done.stderr, re.S)
    assert ("V0 equal" in done.stdout) == (verb == "verify")
    assert len(records.as_json(root)) == 1
    trusted = arislab(verb, "curate", "--trust", "--root", str(root), home=tmp_path / "other")
    assert trusted.returncode == {"verify": 0, "rerun": 0, "resume": 1}[verb], trusted


def test_at_a_terminal_it_asks(project, tmp_path):
    import pty

    root, _ = project
    ran(project, n=2)
    command = [sys.executable, "-m", "arislab", "verify", "curate", "--root", str(root)]
    for answer, code, says in ((b"n\n", 2, "Run it?"), (b"y\n", 0, "V1 equal")):
        ours, theirs = pty.openpty()
        env = os.environ | {"ARISLAB_HOME": str(tmp_path / "other")}
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        os.write(ours, answer)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # Linux says so that the other end is closed
            pass
        os.close(ours)
        assert process.wait(timeout=120) == code, said
        assert says in said.decode()


def test_a_level_that_runs_nothing_needs_no_trust(project, tmp_path):
    root, _ = project
    found = ran(project, n=2)
    for options in (["--level", "0"], ["--against", found["folder"]]):
        done = arislab("verify", "curate", "--root", str(root), *options, home=tmp_path / "other")
        assert done.returncode == 0, done
