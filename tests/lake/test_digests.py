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


@pytest.mark.parametrize(
    ("values", "dtype", "sha256"),
    [
        (
            ["", None, "ä", "long " * 9, "a", "bc"],
            pl.String,
            "e99f4438bfa9917b69a0b11168cddd402674a87548e444e2ba250e8e40a17b7d",
        ),
        (
            [["x"], None, [], ["y", "", "zz"], ["é"], ["x"]],
            pl.List(pl.String),
            "b7e561632aa5858cc6682fd2dee64b3b8d7bd5cd37c0955f657e4f88bc91387d",
        ),
        (
            [None, None, None, None, None, None],
            pl.String,
            "c08083bde571a8e07b34b3160b3172bad477d72a7655cdf48ddb0f0951a2f450",
        ),
        (
            [True, None, False, True, True, False],
            pl.Boolean,
            "2b76691b4b20a2a8b2656498723b106fe01b365fa98e60bef016b1bab520fc2a",
        ),
        (
            [1.5, None, -2.0, 3.25, 0.0, 7.0],
            pl.Float64,
            "9b0cbcdb8be795d88653ed785b0ac911b595142cc2f8863c702e5e5718f66807",
        ),
    ],
)
def test_records_that_are_kept_stay_comparable(values, dtype, sha256):
    whole = pl.Series("c", values, dtype=dtype)
    assert digests.column_sha256(whole) == sha256
    assert digests.column_sha256(pl.concat([whole, whole]).slice(6, 6)) == sha256
    assert digests.column_sha256(pl.concat([whole[:2], whole[2:]], rechunk=False)) == sha256
