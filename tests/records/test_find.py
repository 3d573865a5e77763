"""Ten thousand records are listed, filtered and compared without a server.

The index is only a memory and may go at any time."""

import json
import os
from pathlib import Path

import pytest
from toys import arislab_command, ids, plant

import arislab
from arislab.errors import ParameterError, PrerequisiteError
from arislab.records import diff as run_diff
from arislab.records import find as records
from arislab.system import processes


def test_runs_are_found_by_phase_by_ends_and_by_numbers(three):
    assert ids(records.select(three, where="phase = 'icl' and gain > 0.8")) == ["bbbb"]
    assert ids(records.select(three, where="k = 3 or status = 'failed'")) == ["cccc", "aaaa"]
    assert ids(records.select(three, sort="gain")) == ["bbbb", "aaaa", "cccc"]
    assert ids(records.select(three, limit=2)) == ["cccc", "bbbb"]
    assert records.find(three, "aaaa")["run_id"] == "20260101T000000Z-icl-aaaa"
    assert records.find(three, "20260103")["phase"] == "curate"
    assert records.find(three, "icl")["run_id"].endswith("bbbb"), "the newest of a phase"
    with pytest.raises(PrerequisiteError, match="there is no run 'zzzz'"):
        records.find(three, "zzzz")
    with pytest.raises(PrerequisiteError, match="3 runs match"):
        records.find(three, "2026")
    with pytest.raises(ParameterError, match=r"'nonsense = 1' .*cannot be answered.*gain"):
        records.select(three, where="nonsense = 1")
    with pytest.raises(ParameterError, match=r"--sort 'gane'"):
        records.select(three, sort="gane")


def test_a_silent_run_on_another_machine_is_lost(root):
    far = processes.identity(os.getpid()) | {"boot_id": "other", "hostname": "elsewhere"}
    folder = plant(root, "20260101T000000Z-icl-aaaa", status="running", supervisor=far)
    (folder / "heartbeat").touch()
    assert records.as_json(root)[0]["status"] == "running"
    os.utime(folder / "heartbeat", (0, 0))
    assert records.as_json(root)[0]["status"] == "lost"


def test_a_record_of_the_first_version_is_read(root):
    folder = plant(root, "20260101T000000Z-icl-aaaa", started_at="2026-01-01T00:00:01.000+00:00")
    old = json.loads((folder / "run.json").read_text())
    del old["created_at"]
    (folder / "run.json").write_text(json.dumps(old))
    assert records.as_json(root)[0]["created_at"] == "2026-01-01T00:00:01.000+00:00"


@pytest.mark.parametrize(
    "odd",
    [
        {"duration_s": "long"},
        {"duration_s": True},
        {"headline": ["gain"]},
        {"headline": "gain"},
        {"status": None},
        {"status": ["ok"]},
        {"phase": ["icl"]},
        {"reason": {"not": "a text"}},
        {"started_at": "soon"},
        {"created_at": "0001-01-01T00:00:00+12:00"},
        {"created_at": "2026-01-04"},
        {"status": "running", "supervisor": {"pid": "one"}},
        {"status": "running", "supervisor": {"pid": 2**70}},
        {"status": "running"},
        {"status": "running", "supervisor": {"pid": 1.5}},
        {"code": None},
        {"code": "a" * 40},
        {"parameters": None},
        {"run_id": 7},
    ],
)
def test_a_record_with_a_field_of_another_type_is_unreadable_and_the_others_are_listed(three, odd):
    folder = plant(three, "20260104T000000Z-icl-dddd", **odd)
    for listed in (records.as_json(three, limit=9), records.as_json(three), records.select(three, where="true")):
        assert [run["status"] for run in listed] == ["unreadable", "failed", "ok", "ok"]
        assert listed[0]["reason"].startswith("run.json: ")
    assert len(arislab_command(three, "runs").stdout.splitlines()) == 4
    assert arislab.runs(three).height == 4
    shown = arislab_command(three, "runs", "show", folder.name)
    assert (shown.returncode, "unreadable" in shown.stdout) == (0, True), shown
    assert run_diff.diff(records.find(three, folder.name), records.find(three, "aaaa"))["status"] == ["unreadable → ok"]


def test_a_record_nested_too_deeply_is_unreadable(three):
    (three / "papermill_runs" / "20260101T000000Z-icl-aaaa" / "run.json").write_text("[" * 100_000)
    assert [run["status"] for run in records.select(three, where="true")] == ["failed", "ok", "unreadable"]


def test_a_record_that_could_not_be_read_is_read_again(three, monkeypatch):
    text = Path.read_text

    def fail(path, *rest, **more):
        if path.parent.name.endswith("aaaa"):
            raise OSError(5, "Input/output error")
        return text(path, *rest, **more)

    monkeypatch.setattr(Path, "read_text", fail)
    assert ids(records.select(three, where="status = 'unreadable'")) == ["aaaa"]
    monkeypatch.undo()
    assert records.select(three, where="status = 'unreadable'") == []
    assert ids(records.select(three, where="k = 3")) == ["aaaa"]


def test_runs_of_one_second_are_in_one_order_everywhere(root):
    made = [("ffff", "00.100+00:00"), ("0000", "00.900+00:00"), ("8888", "00.500+00:00")]
    for name, moment in made:
        plant(root, f"20260101T000000Z-icl-{name}", created_at=f"2026-01-01T00:00:{moment}")
    plant(root, "20260101T000001Z-icl-aaaa", created_at="2026-01-01T02:00:01.000+02:00")
    plant(root, "20260101T000002Z-icl-bbbb", created_at="2026-01-01T00:00:02.000+00:00")
    expected = ["bbbb", "aaaa", "0000", "8888", "ffff"]
    assert ids(records.as_json(root)) == ids(records.as_json(root, limit=9)) == expected
    assert ids(records.select(root, where="true")) == expected
    assert ids(records.as_json(root, limit=3)) == ids(records.select(root, where="true", limit=3)) == expected[:3]
    assert records.find(root, "icl")["run_id"].endswith("bbbb")


def test_the_newest_from_their_files_are_those_of_the_index(three):
    base = three / "papermill_runs"
    plant(three, "20261399T000000Z-icl-eeee")  # digits that are no time
    (base / "20261399T000000Z-icl-eeee" / "run.json").write_text("{}")
    (base / "20260102T120000Z-icl-ffff").mkdir()  # a run that left nothing
    (base / "20260105T000000Z-icl-ffff").write_text("a file")
    (base / "20260105T000000Z-icl-ffff copy").mkdir()
    (base / "notes").mkdir()
    example = plant(three, "20260102T180000Z-icl-aaaa").rename(base / "example")
    every = records.as_json(three)
    assert [Path(run["folder"]).name[-4:] for run in every] == ["eeee", "cccc", "mple", "ffff", "bbbb", "aaaa"]
    assert [run["status"] for run in every] == ["unreadable", "failed", "ok", "unreadable", "ok", "ok"]
    for limit in range(1, 8):
        assert records.as_json(three, limit=limit) == every[:limit]
    assert records.find(three, "example") == records.read(example)
