"""Lake and Table as users type them."""

import polars as pl
import pytest
from toys import people

from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import tables


def test_an_absent_table_reads_as_an_empty_one_and_says_so(lake):
    assert lake["candidates"].read().columns == list(tables.columns_of("candidates"))
    assert not lake["candidates"].exists
    assert lake["candidates"].version is None
    assert "does not exist yet" in repr(lake["candidates"])
    assert "empty" in repr(lake)


def test_an_unknown_table_is_refused_with_the_closest_name(lake):
    with pytest.raises(LakeError, match="did you mean 'candidates'"):
        lake["candidate"]


def test_rows_come_back_as_written_with_run_and_time(lake):
    lake["candidates"].append(people(3), run_id="run-7")
    back = lake["candidates"].read(where="candidate_id = 'c0001'")
    assert back["run_id"].to_list() == ["run-7"]
    assert back["profile"][0] == '{"text": "candidate number 1"}'
    assert back["created_at"].dtype == pl.Datetime("us", "UTC")


def test_upsert_replaces_by_key_and_adds_the_rest(lake):
    lake["candidates"].upsert(people(2))
    lake["candidates"].upsert(people(3).with_columns(title=pl.lit("new")))
    assert lake["candidates"].read().sort("candidate_id")["title"].to_list() == ["new"] * 3


def test_upsert_may_add_score_columns_and_older_rows_get_null(lake):
    row = {"custom_id": "a", "scorer_version": "1", "candidate_id": "a", "task": "t", "quality": 0.5, "score_x": 1.0}
    lake["training_data_scored"].upsert(pl.DataFrame([row]))
    lake["training_data_scored"].upsert(pl.DataFrame([row | {"custom_id": "b", "score_y": 0.25}]))
    assert lake["training_data_scored"].read().sort("custom_id")["score_y"].to_list() == [None, 0.25]


def test_replace_touches_only_the_rows_it_names(lake):
    def rows(task, ids):
        return pl.DataFrame({"id": ids}).with_columns(
            candidate_id="id",
            custom_id="id",
            task=pl.lit(task),
            output=pl.lit("x"),
            needs_review=True,
            approved=False,
            split=pl.lit("train"),
        )

    table = lake["training_data_curated"]
    table.replace(rows("a", ["1", "2"]), where="task = 'a'").replace(rows("b", ["3"]), where="task = 'b'")
    table.replace(rows("a", ["2", "9"]), where="task = 'a'")
    assert sorted(table.read()["id"]) == ["2", "3", "9"]
    assert sorted(table.read(version=1)["id"]) == ["1", "2", "3"]


def test_a_condition_with_an_unknown_column_names_the_columns(lake):
    lake["candidates"].append(people(1))
    with pytest.raises(LakeError, match="Columns: candidate_id"):
        lake["candidates"].read(where="colour = 'red'")


def test_export_is_whole_or_not_at_all(lake, root):
    lake["candidates"].append(people(2))
    assert pl.read_csv(lake.export("candidates", root / "out" / "c.csv")).height == 2
    with pytest.raises(PrerequisiteError, match="ending"):
        lake.export("candidates", root / "c.xlsx")
