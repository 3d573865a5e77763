"""The queue mixes the cut, the top and chance."""

import random

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toys import curated_rows, events

from arislab import review
from arislab.errors import ParameterError
from arislab.lake import tables


def test_the_queue_mixes_the_cut_the_top_and_chance_and_says_with_what_probability():
    curated = curated_rows(100)
    chosen = review.queue(curated, tables.empty("reviews"), n=20, seed=1)
    groups = {why: set(rows["custom_id"]) for (why,), rows in chosen.group_by("why")}
    assert groups["near the cut"] == {f"r-{i}" for i in range(8)}
    assert groups["top"] == {f"r-{i}" for i in range(96, 100)}
    assert len(groups["random"]) == 8
    assert dict(chosen.select("why", "inclusion_prob").unique().iter_rows()) == {
        "near the cut": 1.0, "top": 1.0, "random": pytest.approx(8 / 88),
    }  # fmt: skip
    assert_frame_equal(
        chosen, review.queue(curated[random.Random(0).sample(range(100), 100)], tables.empty("reviews"), n=20, seed=1)
    )
    assert not chosen.equals(review.queue(curated, tables.empty("reviews"), n=20, seed=2))


def test_the_queue_holds_only_waiting_rows_that_nobody_settled():
    curated = curated_rows(5).with_columns(needs_review=pl.col("id") != "r-4")
    reviews = events(
        {"decision": "approve"}, {"decision": "skip", "custom_id": "r-1"}, {"decision": "label", "custom_id": "r-2"}
    )
    chosen = review.queue(curated, reviews, n=50, seed=0)
    assert set(chosen["custom_id"]) == {"r-1", "r-2", "r-3"}
    assert set(chosen["inclusion_prob"]) == {1.0}
    assert chosen.columns == [*curated.columns, "why", "inclusion_prob", "stale", "stale_by"]
    assert review.queue(curated_rows(0), reviews, n=3, seed=0).is_empty()
    with pytest.raises(ParameterError, match="at least 1"):
        review.queue(curated, reviews, n=0, seed=0)


def test_every_waiting_row_counts_once_in_the_estimate_of_the_whole():
    """Hájek weights 1 / inclusion_prob sum to the number of waiting rows."""
    chosen = review.queue(curated_rows(73), tables.empty("reviews"), n=30, seed=4)
    assert (1 / chosen["inclusion_prob"]).sum() == pytest.approx(73)
