"""The queue is drawn by chance from below the cut, near it and above it, each row with a chance that is known."""

import random

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toys import curated_rows, events

from arislab import review
from arislab.errors import ParameterError
from arislab.lake import tables

NOBODY = tables.empty("reviews")


def rows(n=200, *, kept=40, **more):
    """Curated rows, r-0 the worst; the best are kept."""
    return curated_rows(n, **more).with_columns(kept=pl.col("custom_id").str.slice(2).cast(pl.Int64) >= n - kept)


def number(frame):
    return set(frame["custom_id"].str.slice(2).cast(pl.Int64))


def test_the_queue_draws_from_below_the_cut_too_and_says_with_what_chance():
    chosen = review.queue(rows(), NOBODY, n=20, seed=1)
    parts = {why: number(part) for (why,), part in chosen.group_by("why")}
    assert {why: len(part) for why, part in parts.items()} == {"below the cut": 6, "near the cut": 5, "kept": 9}
    assert max(parts["below the cut"]) < 160
    assert parts["near the cut"] <= set(range(160, 170))
    assert parts["kept"] <= set(range(170, 200))
    assert dict(chosen.select("why", "inclusion_prob").unique().iter_rows()) == {
        "below the cut": 6 / 160, "near the cut": 5 / 10, "kept": 9 / 30,
    }  # fmt: skip
    assert chosen["queue"].n_unique() == 1
    shuffled = rows()[random.Random(0).sample(range(200), 200)]
    assert_frame_equal(chosen, review.queue(shuffled, NOBODY, n=20, seed=1))
    other = review.queue(rows(), NOBODY, n=20, seed=2)
    assert number(other) != number(chosen)
    assert other["queue"][0] != chosen["queue"][0]


@pytest.mark.slow
def test_every_row_comes_as_often_as_its_chance_says():
    came = dict.fromkeys(range(200), 0)
    for seed in range(400):
        chosen = review.queue(rows(), NOBODY, n=40, seed=seed)
        for i in number(chosen):
            came[i] += 1
    chances = {int(name[2:]): chance for name, chance in chosen.select("custom_id", "inclusion_prob").iter_rows()}
    for part in (range(160), range(160, 170), range(170, 200)):
        (chance,) = {chances[i] for i in part if i in chances}
        shares = [came[i] / 400 for i in part]
        assert sum(shares) / len(shares) == pytest.approx(chance)
        spread = (chance * (1 - chance) / 400) ** 0.5
        assert all(abs(share - chance) <= 4.5 * spread + 1e-9 for share in shares)


def test_whoever_stops_early_has_decided_on_some_of_each_part():
    begun = pl.concat([review.queue(rows(400, kept=120), NOBODY, n=60, seed=seed).head(20) for seed in range(40)])
    shares = {why: n / begun.height for why, n in begun.group_by("why").len().iter_rows()}
    assert shares == pytest.approx({"below the cut": 18 / 60, "near the cut": 15 / 60, "kept": 27 / 60}, abs=0.05)


def test_where_one_part_has_too_few_the_others_give_more():
    chosen = review.queue(rows(40, kept=36), NOBODY, n=30, seed=0)
    assert dict(chosen.group_by("why").len().iter_rows()) == {"below the cut": 4, "near the cut": 9, "kept": 17}
    everything = review.queue(rows(40, kept=36), NOBODY, n=100, seed=0)
    assert number(everything) == set(range(40))
    assert set(everything["inclusion_prob"]) == {1.0}
    none_below = review.queue(rows(40, kept=40), NOBODY, n=10, seed=0)
    assert set(none_below["why"]) == {"kept"}, "without a cut there is nothing near it"
    assert set(review.queue(rows(), NOBODY, n=30, seed=0, below=0)["why"]) == {"kept", "near the cut"}


def test_the_queue_holds_only_waiting_rows_that_nobody_settled():
    curated = curated_rows(5).with_columns(needs_review=pl.col("id") != "r-4")
    reviews = events(
        {"decision": "approve"}, {"decision": "skip", "custom_id": "r-1"}, {"decision": "label", "custom_id": "r-2"}
    )
    chosen = review.queue(curated, reviews, n=50, seed=0)
    assert set(chosen["custom_id"]) == {"r-1", "r-2", "r-3"}
    assert set(chosen["inclusion_prob"]) == {1.0}
    assert chosen.columns == [*curated.columns, "why", "inclusion_prob", "queue", "stale", "stale_by"]
    assert review.queue(curated_rows(0), reviews, n=3, seed=0).is_empty()
    with pytest.raises(ParameterError, match="at least 1"):
        review.queue(curated, reviews, n=0, seed=0)
    with pytest.raises(ParameterError, match="below must be in"):
        review.queue(curated, reviews, n=1, seed=0, below=1.5)


def test_only_drawn_and_judged_rows_are_made():
    made = []

    def show(chosen):
        made.append(set(chosen["custom_id"]))
        return curated_rows(200).join(chosen, on="custom_id", how="semi")

    cheap = rows().select("custom_id", "kept", "quality_score")
    reviews = events({"decision": "approve", "custom_id": "r-190"})
    chosen = review.queue(cheap, reviews, n=10, seed=3, show=show)
    assert made == [{"r-190"}, set(chosen["custom_id"])]
    assert "r-190" not in set(chosen["custom_id"])
    assert chosen["output"].null_count() == 0


def test_every_waiting_row_counts_once_in_the_estimate_of_the_whole():
    """Weights 1 / inclusion_prob sum to the number of waiting rows."""
    chosen = review.queue(rows(73, kept=20), NOBODY, n=30, seed=4)
    assert (1 / chosen["inclusion_prob"]).sum() == pytest.approx(73)


def test_rows_that_somebody_picked_bear_no_chance_and_no_queue():
    chosen = review.picked(review.queue(rows(), NOBODY, n=20, seed=1))
    assert chosen.height == 20
    assert set(chosen["why"]) == {"picked"}
    assert chosen["inclusion_prob"].null_count() == chosen["queue"].null_count() == 20
    panel = review.Panel(chosen, reviewer="Ada", decide=(stored := []).append)
    assert panel.approve()
    assert stored[0].select("why", "inclusion_prob", "queue").row(0) == ("picked", None, None)
