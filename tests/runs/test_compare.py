"""Two runs are compared bit for bit, and the first thing in which they differ is named."""

import json

import polars as pl
import pytest
from toys import people, ran

from arislab import runs
from arislab.lake import Lake
from arislab.records import find as records
from arislab.runs import compare


@pytest.mark.slow
def test_a_result_that_differs_is_named_down_to_cell_row_and_column(project, tmp_path):
    one, other = ran(project, n=2), ran(project, n=2, keep_fraction="0.25")
    findings = [repr(finding) for finding in compare.compare(one, other).findings]
    assert findings[0] == "V1 parameter keep_fraction: 0.2 before, 0.25 now"
    assert "V1 reviews: row event_id='c0000', column 'inclusion_prob': 0.2 before, 0.25 now" in findings
    assert any(line.startswith("V1 notebook: code cell 2 (injected-parameters): source") for line in findings)


def test_at_v3_the_numbers_must_lie_in_the_recorded_intervals(project):
    run = ran(project, n=2)
    assert compare.within(run, run).findings == []
    moved = json.loads(json.dumps(run))
    moved["headline"]["share"]["mean"] = 0.31
    assert repr(compare.within(run, moved).findings[0]).startswith("V3 headline share: 0.200 [0.100, 0.300] n=2 before")


@pytest.mark.slow
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
    places = [f.where for f in compare.compare(one, records.find(tmp_path / "second", other.run_id)).findings]
    assert places == ["input candidates"]
