"""A record is run again from itself and compared bit for bit; one changed byte anywhere is found and named."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, PARAMETERS, git, need, people, ran

from arislab import runs
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake, digests
from arislab.records import find as records
from arislab.runs import compare, provenance, rerun, trust, verify


def test_a_rerun_has_the_code_the_inputs_and_the_parameters_of_then(project, tmp_path):
    notebooks = project[1]
    found = ran(project, n=2, label="007")
    # since then: the notebook and the task were changed, committed or not; the table grew; the run's own output stands
    # in the lake
    (notebooks / "2_curate.ipynb").write_text(
        (notebooks / "2_curate.ipynb").read_text().replace("people.head(n)", "people.tail(n)")
    )
    git(notebooks.parent, "commit", "-q", "-a", "-m", "other")
    (notebooks / "tasks" / "shout.py").write_text("SYSTEM = 'Whisper.'\n")
    Lake()["candidates"].upsert(people(9).with_columns(title=pl.lit("new")))
    made = rerun.rerun(found, into=tmp_path / "again")
    assert (made["status"], made["rerun_of"], made["parameters"]) == ("ok", found["run_id"], found["parameters"])
    assert made["run_key"] == found["run_key"]
    assert compare.compare(found, made).findings == []
    assert Lake(tmp_path / "again" / "data" / "lake")["candidates"].rows == 5
    assert Lake()["candidates"].rows == 9
    worktrees = subprocess.run(
        ["git", "-C", str(notebooks.parent), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1, "nothing is left behind"


def test_uncommitted_changes_and_new_files_are_run_again_too(project, tmp_path):
    _, notebooks = project
    path = notebooks / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.tail(n)"))
    (notebooks / "tasks" / "fresh.py").write_text("SYSTEM = 'New.'\n")
    found = ran(project, task="fresh")
    path.write_text(path.read_text().replace("people.tail(n)", "people.sample(n, seed=3)"))
    (notebooks / "tasks" / "fresh.py").unlink()
    assert compare.compare(found, rerun.rerun(found, into=tmp_path / "again")).findings == []


def test_a_result_that_differs_is_named_down_to_cell_row_and_column(project, tmp_path):
    one, other = ran(project, n=2), ran(project, n=2, keep_fraction="0.25")
    said = [repr(finding) for finding in compare.compare(one, other).findings]
    assert said[0] == "V1 parameter keep_fraction: 0.2 before, 0.25 now"
    assert "V1 reviews: row event_id='c0000', column 'inclusion_prob': 0.2 before, 0.25 now" in said
    assert any(line.startswith("V1 notebook: code cell 2 (injected-parameters): source") for line in said)


def test_what_was_recorded_and_changed_since_is_named(project):
    root, _ = project
    found = ran(project, n=2)
    folder = Path(found["folder"])
    assert verify.check_files(found).findings == []

    def said(path, change):
        before = path.read_bytes()
        path.write_bytes(change(before))
        try:
            return [repr(finding) for finding in verify.check_files(records.find(root, found["run_id"])).findings]
        finally:
            path.write_bytes(before)

    assert said(folder / "task.py", lambda data: data.replace(b"Shout", b"Shour")) == [
        "V0 task.py: was changed after the run"
    ]
    assert said(folder / "run.json", lambda data: data.replace(b'"n": 2', b'"n": 3')) == [
        "V0 run.json: parameter 'n' is 3, was 2 when the run was made"
    ]
    (line,) = said(folder / "run.json", lambda data: data.replace(b'"status": "ok"', b'"status": "oK"'))
    assert line.startswith("V0 run.json: was changed after the run")
    # one value of a table's file, and one bit of it
    for table, column, kind in (
        ("candidates", "profile", "an input, is not what was read"),
        ("reviews", "reviewer", "an output, was changed: column 'reviewer'"),
    ):
        (parquet,) = (root / "data" / "lake" / table).glob("*.parquet")
        log = root / "data" / "lake" / table / "_delta_log" / "00000000000000000000.json"
        before = log.read_text()
        other = with_another_value(parquet, column)
        log.write_text(before.replace(f'"size":{parquet.stat().st_size}', f'"size":{len(other)}'))
        (line,) = said(parquet, lambda _, other=other: other)
        assert line.startswith(f"V0 {table}: version 0, {kind}"), line
        log.write_text(before)
        (line,) = said(parquet, lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:])
        assert line.startswith(f"V0 {table}: version 0, "), line


def with_another_value(parquet, column):
    frame = pl.read_parquet(parquet)
    changed = pl.Series(column, [frame[column][0] + "!", *frame[column][1:]])
    file = io.BytesIO()
    frame.with_columns(changed).write_parquet(file)
    return file.getvalue()


def test_the_rows_of_other_runs_may_come_and_go(project):
    found = ran(project, n=2)
    ran(project, n=3)
    Lake()["candidates"].replace(people(1), where="split = 'train'")
    assert verify.check_files(found).findings == []


def test_a_rerun_in_another_environment_is_refused_unless_it_is_allowed(project, tmp_path):
    found = ran(project, n=2)
    lock = Path(found["folder"]) / "env.lock"
    lock.write_text(lock.read_text().replace("polars==", "polars==0.") + "gone==1.0\n")
    lines = rerun.drift(found)
    assert lines[0].startswith("gone 1.0 then, absent now")
    assert lines[1].startswith("polars 0.")
    with pytest.raises(PrerequisiteError, match=r"gone 1\.0 then, absent now.*--allow-drift"):
        rerun.rerun(found, into=tmp_path / "again", trust=True)
    assert not (tmp_path / "again").exists()
    assert rerun.rerun(found, into=tmp_path / "again", allow_drift=True, trust=True)["status"] == "ok"


def test_what_cannot_be_had_any_more_is_said(project, tmp_path):
    found = ran(project)
    with pytest.raises(PrerequisiteError, match=r"commit 0000.* is not in"):
        rerun.rerun({**found, "code": found["code"] | {"commit": "0" * 40}}, into=tmp_path / "a")
    with pytest.raises(PrerequisiteError, match="the arislab that is installed now is another one"):
        rerun.rerun({**found, "code": found["code"] | {"package_sha256": "other"}}, into=tmp_path / "b")
    with pytest.raises(PrerequisiteError, match="only a run that has ended"):
        rerun.rerun({**found, "status": "running"}, into=tmp_path / "c")
    with pytest.raises(LakeError, match="no version 7"):
        Lake()["candidates"].link(Lake(tmp_path / "x"), version=7)


def test_a_failing_run_fails_again_in_the_same_cell(project, tmp_path):
    root, notebooks = project
    path = notebooks / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.head(n / 0)"))
    record = runs.execute("curate", root=root, notebooks=notebooks)
    found = records.find(root, record.run_id)
    made = rerun.rerun(found, into=tmp_path / "again")
    assert (made["status"], made["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert compare.compare(found, made).findings == []


def test_at_v3_the_numbers_must_lie_in_the_recorded_intervals(project):
    found = ran(project, n=2)
    assert compare.within(found, found).findings == []
    moved = json.loads(json.dumps(found))
    moved["headline"]["share"]["mean"] = 0.31
    assert repr(compare.within(found, moved).findings[0]).startswith(
        "V3 headline share: 0.200 [0.100, 0.300] n=2 before"
    )


def test_the_command_says_equal_or_exits_with_3(project):
    root, _ = project
    found = ran(project, n=2)

    def verified(*options):
        command = [sys.executable, "-m", "arislab", "verify", "curate", "--root", str(root), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verified()
    assert done.returncode == 0, done
    assert "V0 equal" in done.stdout
    assert "V1 equal (5 code cells" in done.stdout
    assert not list((root / "papermill_runs" / ".reruns").iterdir())
    (Path(found["folder"]) / "task.py").write_text("SYSTEM = 'x'\n")
    done = verified("--level", "0", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)[0]["findings"] == [
        {"level": "V0", "where": "task.py", "what": "was changed after the run"}
    ]


def test_equal_runs_under_two_roots_are_equal(project, tmp_path, monkeypatch):
    notebooks = project[1]
    one = ran(project, n=2)
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / "second"))
    Lake()["candidates"].append(people(5))
    other = runs.execute("curate", {"n": 2}, root=tmp_path / "second", notebooks=notebooks)
    other = records.find(tmp_path / "second", other.run_id)
    assert compare.compare(one, other).findings == []
    assert one["run_key"] == other["run_key"]
    Lake()["candidates"].upsert(people(5).with_columns(title=pl.lit("x")))
    other = runs.execute("curate", {"n": 2}, root=tmp_path / "second", notebooks=notebooks)
    said = [f.where for f in compare.compare(one, records.find(tmp_path / "second", other.run_id)).findings]
    assert said == ["input candidates"]


OLD = "1d7d6e24c747f3a025cd3afc9063dc7eae37eef3"
"""A commit from before records could be verified."""


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
    found = records.find(root, "curate")
    assert "schema_version" not in found
    assert trust.foreign(found) == "it is not signed"
    made = rerun.rerun(found, into=tmp_path / "again", trust=True)
    assert made["headline"] == found["headline"]
    assert made["code"]["commit"] == OLD
    assert compare.compare(found, made).findings == []


# ---- canonical forms


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [(0.0, -0.0, True), (float("nan"), float("nan"), True), (None, float("nan"), False), (1.0, 1.0000000001, False)],
)
def test_numbers_have_one_form(value, other, same):
    frames = [
        pl.DataFrame({"event_id": ["a", "b"], "inclusion_prob": pl.Series([x, 0.5], dtype=pl.Float64)})
        for x in (value, other)
    ]
    assert (digests.digest("reviews", frames[0]) == digests.digest("reviews", frames[1])) == same


def test_values_cannot_slip_from_one_row_to_the_next():
    one = pl.DataFrame({"candidate_id": ["a", "b"], "title": ["xy", "z"]})
    other = pl.DataFrame({"candidate_id": ["a", "b"], "title": ["x", "yz"]})
    empty = pl.DataFrame({"candidate_id": ["a", "b"], "title": ["", None]})
    nulls = pl.DataFrame({"candidate_id": ["a", "b"], "title": [None, ""]})
    found = {digests.digest("candidates", frame) for frame in (one, other, empty, nulls)}
    assert len(found) == 4
    lists = [
        pl.DataFrame({"id": ["a"], "example_ids": [x]}, schema_overrides={"example_ids": pl.List(pl.String)})
        for x in (["a", "b"], ["ab"], [], ["a", None])
    ]
    assert len({digests.digest("icl_examples", frame) for frame in lists}) == 4


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


def test_a_run_knows_which_files_made_it(project):
    found = ran(project)
    assert found["code"]["package_sha256"] == provenance.package_sha256()
    assert PARAMETERS.splitlines()[0] in "".join(
        json.loads((project[1] / "2_curate.ipynb").read_text())["cells"][1]["source"]
    )
