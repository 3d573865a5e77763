"""What a run notes of its reads and writes."""

import json

import pytest
from toys import people

from arislab.errors import PrerequisiteError
from arislab.lake.digests import digest


def test_under_a_run_reads_and_writes_are_noted(lake, root, monkeypatch):
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(root))
    lake["candidates"].append(people(3))
    lake["candidates"].read(where="candidate_id = 'c0000'")
    lake.sql("select * from candidates")
    noted = [json.loads(line) for line in (root / "tables.jsonl").read_text().splitlines()]
    assert [(n["op"], n["table"], n["version"], n["rows"]) for n in noted] == [
        ("write", "candidates", 0, 3),
        ("read", "candidates", 0, 1),
        ("read", "candidates", 0, None),
    ]
    assert (noted[0]["version_before"], noted[1]["where"]) == (None, "candidate_id = 'c0000'")
    assert noted[0]["digest"] == digest("candidates", people(3))
    assert noted[2]["sql"] == "select * from candidates"


def test_a_record_that_cannot_be_written_says_that_the_rows_are_stored(lake, root, monkeypatch):
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(root / "gone"))
    with pytest.raises(PrerequisiteError, match=r"^version 0 of candidates is stored, but the record in"):
        lake["candidates"].append(people(3))
    assert lake["candidates"].rows == 3
    with pytest.raises(PrerequisiteError, match=r"^the record in"):
        lake["candidates"].read()
