"""Rows that break the contract of their table."""

import polars as pl
import pytest
from toys import people

from arislab.errors import LakeError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": pl.lit("dev")}, "must be one of train, validation, test, got 'dev'"),
        ({"profile": pl.lit(None, dtype=pl.String)}, "must not be null"),
        ({"candidate_id": pl.lit("same")}, "share their candidate_id"),
        ({"tittle": pl.lit("x")}, "did you mean 'title'"),
        ({"title": pl.Series([["a"], ["b"], ["c"]])}, "expects title: String"),
    ],
)
def test_rows_that_break_the_contract_are_refused_and_nothing_is_written(lake, change, message):
    with pytest.raises(LakeError, match=message):
        lake["candidates"].append(people(3).with_columns(**change))
    assert not lake["candidates"].exists


def test_quality_outside_0_to_1_and_nan_are_refused(lake):
    row = {"custom_id": "a", "scorer_version": "1", "candidate_id": "a", "task": "t"}
    for bad in (1.01, -0.1, float("nan")):
        with pytest.raises(LakeError, match=r"quality must lie in 0\.\.1|quality must lie in 0"):
            lake["training_data_scored"].append(pl.DataFrame([row | {"quality": bad}]))


def test_a_missing_required_column_is_named(lake):
    with pytest.raises(LakeError, match="needs the column 'group_id'"):
        lake["candidates"].append(people(1).drop("group_id"))
