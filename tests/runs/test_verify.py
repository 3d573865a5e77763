"""A record is run again from itself and compared bit for bit; one changed byte anywhere is found and named."""

import io
from pathlib import Path

import polars as pl
import pytest
from toys import people, ran

from arislab.lake import Lake
from arislab.records import find as records
from arislab.runs import verify


@pytest.mark.slow
def test_what_was_recorded_and_changed_since_is_named(project):
    root, _ = project
    run = ran(project, n=2)
    folder = Path(run["folder"])
    assert verify.check_files(run).findings == []

    def said(path, change):
        before = path.read_bytes()
        path.write_bytes(change(before))
        try:
            return [repr(finding) for finding in verify.check_files(records.find(root, run["run_id"])).findings]
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
    for damaged in (None, b"", b"[]", b"{", b'{"run": {"facets": {"arislab_run": {"parameters": 7}}}}', b"\xff"):
        events = (folder / "events.jsonl").read_bytes()  # what would tell which parameter it was
        (folder / "events.jsonl").unlink()
        if damaged is not None:
            (folder / "events.jsonl").write_bytes(damaged)
        lines = said(folder / "run.json", lambda data: data.replace(b'"n": 2', b'"n": 3'))
        assert [line.partition(" (")[0] for line in lines[:1]] == ["V0 run.json: was changed after the run"]
        assert len(lines) == 2, "the other is events.jsonl itself"
        (folder / "events.jsonl").write_bytes(events)
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


@pytest.mark.slow
def test_the_rows_of_other_runs_may_come_and_go(project):
    run = ran(project, n=2)
    ran(project, n=3)
    Lake()["candidates"].replace(people(1), where="split = 'train'")
    assert verify.check_files(run).findings == []
