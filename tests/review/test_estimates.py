"""What drawn and decided rows say of all, how long the rest takes, and how many more would say how much."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from toys import NOON

from arislab import review
from arislab.errors import ParameterError
from arislab.review import decisions, estimates

NOBODY = pl.DataFrame(schema=decisions.SCHEMA)


def population(n, seed=0):
    """Rows of which the better ones are approved more often, and a fifth is kept."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(size=n)
    return pl.DataFrame({
        "custom_id": [f"r-{i:05}" for i in range(n)], "quality_score": quality, "kept": quality > 0.8,
        "good": rng.uniform(size=n) < 0.4 + 0.55 * quality, "category": ["nurse", "chef"] * (n // 2),
    })  # fmt: skip


def show(chosen):
    return chosen.select(
        "custom_id", "quality_score", input=pl.lit("q"), output=pl.lit("a"), needs_review=True, approved=False,
        reviewed_by=pl.lit(None, dtype=pl.String), metadata=pl.lit("{}"),
    )  # fmt: skip


def decided(rows, *, n, seed, reviews=NOBODY, done=None, at=NOON, dwell=(4.0,)):
    """Draw a queue and decide on its first rows as is true of them."""
    queue = review.queue(rows.drop("good", "category"), reviews, n=n, seed=seed, show=show).head(done or n)
    told = queue.join(rows.select("custom_id", "good"), on="custom_id", maintain_order="left")
    made = told.select(
        "custom_id", "why", "inclusion_prob", "queue",
        event_id=pl.concat_str("queue", "custom_id"), reviewer=pl.lit("Ada"),
        decision=pl.when("good").then(pl.lit("approve")).otherwise(pl.lit("reject")),
        shown_sha256=pl.lit(decisions.sha256("a")), asked_sha256=pl.lit(decisions.sha256("q")),
        decided_at=pl.lit(at) + pl.duration(seconds=pl.int_range(pl.len())),
        dwell_ms=pl.Series([int(1000 * dwell[i % len(dwell)]) for i in range(told.height)]),
    )  # fmt: skip
    return pl.concat([reviews, decisions.complete(made)])


def rate(rows, reviews, what="all", **how):
    return estimates.approve_rate(rows, reviews, **how).row(by_predicate=pl.col("what") == what, named=True)


@pytest.mark.slow
def test_the_intervals_hold_the_truth_of_all_and_of_waiting_rows_as_often_as_they_say():
    """The queue draws more densely near the cut: the mean of its labels as they come is another number."""
    held, n, naive = dict.fromkeys(("all", "waiting", "nurse"), 0), 150, []
    for seed in range(n):
        rows = population(800, seed)
        reviews = decided(rows, n=120, seed=seed)
        waiting = rows.join(reviews, on="custom_id", how="anti")
        truth = {"all": rows, "waiting": waiting, "nurse": rows.filter(category="nurse")}
        table = {row["what"]: row for row in estimates.approve_rate(rows, reviews, by="category").to_dicts()}
        for what, part in truth.items():
            held[what] += table[what]["low"] <= part["good"].mean() <= table[what]["high"]
        naive.append((reviews["decision"] == "approve").mean() - rows["good"].mean())
    assert min(held.values()) >= 0.92 * n, held
    assert np.mean(naive) > 0.08


def test_one_queue_of_one_part_is_its_mean_whoever_stops_early():
    rows = population(100).drop("kept")
    reviews = decided(rows.with_columns(kept=True), n=40, seed=1, done=25)
    mean = (reviews["decision"] == "approve").mean()
    for what, n_rows in (("all", 100), ("waiting", 75)):
        row = rate(rows, reviews, what)
        assert row["estimate"] == pytest.approx(mean)
        assert (row["n"], row["n_rows"]) == (25, n_rows)
        assert row["low"] < mean < row["high"]


def test_once_every_row_is_judged_nothing_is_estimated():
    rows = population(40)
    reviews = decided(rows, n=40, seed=1)
    row = rate(rows, reviews)
    assert row["low"] == row["estimate"] == row["high"] == pytest.approx(rows["good"].mean())
    assert rate(rows, reviews, "waiting")["estimate"] is None


def test_without_labels_nothing_is_said():
    row = rate(population(10), NOBODY)
    assert (row["estimate"], row["low"], row["n"], row["n_rows"]) == (None, None, 0, 10)


@pytest.mark.parametrize(
    "marks", [{"why": "certificate"}, {"planted": "gold"}, {"queue": None}, {"inclusion_prob": None}]
)
def test_what_was_not_drawn_from_all_rows_says_nothing_of_them(marks):
    rows = population(200)
    drawn = decided(rows, n=60, seed=1)
    other = rows.join(drawn, on="custom_id", how="anti").head(30)
    more = decided(other, n=30, seed=2, at=NOON + timedelta(hours=1)).with_columns(
        pl.lit(value, dtype=decisions.SCHEMA[name]).alias(name) for name, value in marks.items()
    )
    alone, beside = rate(rows, drawn), rate(rows, pl.concat([drawn, more]))
    assert beside == alone
    n_waiting = rate(rows, pl.concat([drawn, more]), "waiting")["n_rows"]
    assert n_waiting == (140 if "planted" in marks else 110), "but nobody needs to look at them again"


def test_two_queues_count_together():
    rows = population(600)
    one = decided(rows, n=60, seed=1)
    two = decided(rows, n=120, seed=2, reviews=one, at=NOON + timedelta(hours=1))
    first, second = rate(rows, one), rate(rows, two)
    assert second["n"] == 180
    assert second["high"] - second["low"] < 0.75 * (first["high"] - first["low"])
    assert second["low"] < rows["good"].mean() < second["high"]


def test_a_row_on_which_people_differ_counts_in_part_until_it_is_adjudicated():
    rows = population(50)
    reviews = decided(rows, n=20, seed=1)
    name = reviews.filter(decision="approve")["custom_id"][0]
    row = reviews.filter(custom_id=name).to_dicts()[0] | {"queue": None, "inclusion_prob": None, "why": None}
    late = {"decided_at": NOON + timedelta(hours=1)}
    ben = row | late | {"event_id": "b", "reviewer": "Ben", "decision": "reject"}
    final = row | late | {"event_id": "c", "reviewer": "Cleo", "decision": "adjudicate", "labels": '["reject"]'}
    frames = [pl.DataFrame([one], schema=decisions.SCHEMA) for one in (ben, final)]
    steps = [rate(rows, pl.concat([reviews, *frames[:n]]))["estimate"] for n in range(3)]
    assert steps[0] > steps[1] > steps[2]
    assert steps[0] - steps[1] == pytest.approx(steps[1] - steps[2])


def test_verdicts_about_another_text_are_left_out_where_the_text_is_known():
    rows = population(50).with_columns(shown_sha256=pl.lit(decisions.sha256("a")))
    reviews = decided(rows.drop("shown_sha256"), n=20, seed=1)
    assert rate(rows, reviews)["n"] == 20
    assert rate(rows.with_columns(shown_sha256=pl.lit(decisions.sha256("b"))), reviews)["n"] == 0


# ---- time and budget -------------------------------------------------------------------------------------------------


def timed(took):
    return decisions.complete(
        pl.DataFrame({
            "event_id": [f"e{i}" for i in range(len(took))], "custom_id": "r", "reviewer": "Ada", "decision": "skip",
            "decided_at": [NOON + timedelta(minutes=i) for i in range(len(took))],
            "dwell_ms": [round(1000 * s) for s in took],
        })
    )  # fmt: skip


def test_the_time_that_is_left_holds_what_it_takes_as_often_as_it_says():
    rng, held, n = np.random.default_rng(2), 0, 300
    for seed in range(n):
        took = np.minimum(rng.lognormal(1.3, 0.8, 350), 60)
        left = estimates.time_left(timed(took[:50]), n_left=300, seed=seed, n_boot=500)
        held += left.low <= took[50:].sum() / 60 <= left.high
    assert 0.9 <= held / n <= 0.98


def test_time_left_is_that_of_the_newest_decisions():
    slow_then_fast = timed([30.0] * 50 + [2.0, 4.0] * 25)
    left = estimates.time_left(slow_then_fast, n_left=100)
    assert left.mean == pytest.approx(5.0)
    assert 4 < left.low < 5 < left.high < 6
    assert estimates.time_left(slow_then_fast, n_left=100, last=100).mean > 20
    assert estimates.time_left(slow_then_fast, n_left=0).high == 0
    assert np.isnan(estimates.time_left(slow_then_fast, n_left=9, reviewer="Ben").mean)
    with pytest.raises(ParameterError, match="n_left must be at least 0, got -1"):
        estimates.time_left(NOBODY, n_left=-1)


def test_the_budget_that_is_named_gives_the_width_that_was_asked_for():
    rows = population(3_000)
    reviews = decided(rows, n=150, seed=3, dwell=(3.0, 5.0))
    budget = estimates.labels_for(rows, reviews, half_width=0.04)
    assert 200 < budget.n_more < 800
    assert budget.minutes.mean == pytest.approx(budget.n_more * 4 / 60)
    again = decided(rows, n=budget.n_more, seed=4, reviews=reviews, at=NOON + timedelta(hours=1))
    row = rate(rows, again)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(0.04, rel=0.15)
    assert repr(budget).startswith(f"for ± 0.04: {budget.n_more:,} more labels, about ")


def test_a_budget_of_a_population_without_labels_is_that_of_a_textbook():
    """n = 384.16 for ± 0.05 at one half, and 278 of a population of 1,000 (Cochran 1977, section 4.4)."""
    rows = population(1_000)
    assert estimates.labels_for(rows, NOBODY, half_width=0.05).n_more == 278
    assert "minutes" not in repr(estimates.labels_for(rows, NOBODY, half_width=0.05))
    done = decided(rows, n=1_000, seed=1)
    assert estimates.labels_for(rows, done, half_width=0.01).n_more == 0
    for wrong in (0, 0.5, 3):
        with pytest.raises(ParameterError, match="half_width must be in"):
            estimates.labels_for(rows, NOBODY, half_width=wrong)
