"""What two equal frames have in common."""

import polars as pl
import pytest
from toys import people

from arislab.lake import digests
from arislab.lake.digests import digest


def test_the_digest_knows_content_and_nothing_else(lake):
    one = people(3)
    assert digest("candidates", one) == digest("candidates", one.reverse().select(reversed(one.columns)))
    assert digest("candidates", one) != digest("candidates", one.with_columns(title=pl.lit("x")))
    assert digest("candidates", one) == digest("candidates", one.with_columns(title=pl.lit(None), run_id=pl.lit("r")))


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
    values = {digests.digest("candidates", frame) for frame in (one, other, empty, nulls)}
    assert len(values) == 4
    lists = [
        pl.DataFrame({"id": ["a"], "example_ids": [x]}, schema_overrides={"example_ids": pl.List(pl.String)})
        for x in (["a", "b"], ["ab"], [], ["a", None])
    ]
    assert len({digests.digest("icl_examples", frame) for frame in lists}) == 4
