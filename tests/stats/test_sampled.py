"""AUC of a population by labels of rows that were drawn from it with unequal chances."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arislab import stats
from arislab.errors import ParameterError

rows = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 4)), min_size=1, max_size=40)


@given(rows)
def test_a_row_that_stands_for_many_counts_as_many(drawn):
    scores, good, weights = (np.array(column) for column in zip(*drawn, strict=True))
    found = stats.sampled_auc(scores, good, weights)
    whole = stats.auc(np.repeat(scores, weights), np.repeat(good, weights), n_boot=1)
    assert found.mean == pytest.approx(whole.mean, nan_ok=True)
    if math.isnan(found.mean):
        assert good.all() or not good.any()
        assert math.isnan(found.low)
        return
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.n == len(drawn)
    turned = stats.sampled_auc(-scores, good, weights)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))
    scaled = stats.sampled_auc(scores, good, weights * 7.5)
    assert (scaled.low, scaled.high) == pytest.approx((found.low, found.high))


@given(rows)
def test_twins_of_one_group_tell_no_more_than_one_of_them(drawn):
    scores, good, weights = (np.array(column) for column in zip(*drawn, strict=True))
    once = stats.sampled_auc(scores, good, weights)
    twice = stats.sampled_auc(
        np.repeat(scores, 2), np.repeat(good, 2), np.repeat(weights, 2), groups=list(np.repeat(np.arange(len(good)), 2))
    )
    assert (twice.mean, twice.low, twice.high) == pytest.approx((once.mean, once.low, once.high), nan_ok=True)
    if not math.isnan(once.mean):
        assert twice.n_groups == once.n_groups == len(drawn)


@given(rows, st.randoms(use_true_random=False))
def test_a_gain_is_the_difference_of_two_areas(drawn, random):
    scores, good, weights = (np.array(column) for column in zip(*drawn, strict=True))
    others = np.array([random.randint(0, 3) for _ in drawn])
    gain = stats.sampled_auc_gain(scores, others, good, weights)
    one, other = stats.sampled_auc(scores, good, weights), stats.sampled_auc(others, good, weights)
    assert gain.mean == pytest.approx(one.mean - other.mean, nan_ok=True)
    back = stats.sampled_auc_gain(others, scores, good, weights)
    assert (back.low, back.high) == pytest.approx((-gain.high, -gain.low), nan_ok=True)
    if not math.isnan(gain.mean):
        assert -1 <= gain.low <= gain.mean <= gain.high <= 1
        same = stats.sampled_auc_gain(scores, 3 * scores, good, weights)
        assert same.mean == 0


def test_a_gain_that_every_label_shows_alike_is_not_certain():
    good = [True] * 6 + [False] * 6
    gain = stats.sampled_auc_gain(good, [1] * 12, good, [1] * 12)
    assert gain.mean == pytest.approx(0.5)
    assert gain.low < 0.3
    assert gain.high > 0.7


def test_rows_without_a_score_are_left_out_and_counted():
    found = stats.sampled_auc([0.9, None, 0.1, 0.4, math.nan], [1, 1, 0, 1, 0], [1, 1, 2, 1, 1])
    assert (found.mean, found.n, found.n_missing) == (1.0, 3, 2)
    assert found.low < 0.5, "three labels show nothing"


def test_where_one_row_stands_for_all_of_its_kind_nothing_is_known():
    assert repr(stats.sampled_auc([3, 2, 1], [1, 0, 0], [1, 1, 1])) == "1.000 [0.000, 1.000] n=3"
    gain = stats.sampled_auc_gain([3, 2, 1], [1, 2, 3], [1, 0, 0], [1, 1, 1])
    assert (gain.low, gain.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (([1, 2], [1], [1, 1]), "there are 1 labels, 2 weights and 2 scores; they must be aligned"),
        (([1, 2], [1, None], [1, 1]), "a label is null; leave out rows without one"),
        (([1, 2], [1, 0], [1, 0]), "weights must be above 0, got"),
        (([1, 2], [1, 0], [1, math.nan]), "weights must be above 0, got"),
    ],
)
def test_what_does_not_fit_is_refused(given, why):
    with pytest.raises(ParameterError, match=why):
        stats.sampled_auc(*given)


def population(seed, *, strength=1.0):
    """A score by which rows are drawn, and another one; the best fifth by the first is kept."""
    rng = np.random.default_rng(seed)
    rules, other = rng.normal(size=(2, 5_000))
    good = rng.logistic(size=5_000) < strength * (0.5 * rules + other) - 1.5
    return rules, other, good, rules >= np.quantile(rules, 0.8)


def drawn(kept, n, rng):
    """Seven tenths of the places for kept rows, as a review queue has it, and what each row stands for."""
    parts = [(7 * n // 10, np.flatnonzero(kept)), (3 * n // 10, np.flatnonzero(~kept))]
    chosen = np.concatenate([rng.choice(part, size, replace=False) for size, part in parts])
    return chosen, np.concatenate([np.full(size, len(part) / size) for size, part in parts])


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 300, 1_000])
def test_the_interval_holds_the_area_of_the_population_and_that_of_the_labels_does_not(n):
    rules, other, good, kept = population(0)
    held = {"rules": 0, "other": 0, "gain": 0, "as if by chance": 0}
    truth = {name: stats.auc(score, good, n_boot=1).mean for name, score in (("rules", rules), ("other", other))}
    for seed in range(400):
        at, weights = drawn(kept, n, np.random.default_rng(seed))
        for name, score in (("rules", rules), ("other", other)):
            found = stats.sampled_auc(score[at], good[at], weights)
            held[name] += found.low <= truth[name] <= found.high
        gain = stats.sampled_auc_gain(other[at], rules[at], good[at], weights)
        held["gain"] += gain.low <= truth["other"] - truth["rules"] <= gain.high
        plain = stats.sampled_auc(rules[at], good[at], np.ones(n))
        held["as if by chance"] += plain.low <= truth["rules"] <= plain.high
    assert min(held["rules"], held["other"], held["gain"]) >= 0.93 * 400
    assert n == 100 or held["as if by chance"] < 0.93 * 400


@pytest.mark.slow
def test_a_score_as_good_as_another_is_rarely_called_better():
    called = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        base, one, two = rng.normal(size=(3, 3_000))
        good = rng.logistic(size=3_000) < base + one / 2 + two / 2 - 1
        rules = base + rng.normal(size=3_000)
        at, weights = drawn(rules >= np.quantile(rules, 0.8), 150, rng)
        called += stats.sampled_auc_gain((base + one)[at], (base + two)[at], good[at], weights).low > 0
    assert called <= 0.04 * 400
