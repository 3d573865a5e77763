"""Shares by drawn labels: right whatever the predictions are worth, and shorter where they are worth something."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from arislab import stats
from arislab.errors import ParameterError

TRUE_SHARES = {
    "goes along": lambda score: np.clip(score, 0.02, 0.98),
    "a coin": lambda score: np.full(len(score), 0.38),
    "the other way round": lambda score: 1 - score,
    "nearly all good": lambda score: 0.9 + 0.1 * score,
}


def drawn(kind, seed, *, n, size=4_000):
    """A population, and a sample of it that is denser in the best fifth: labels, weights, strata, scores."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(size=size)
    good = rng.uniform(size=size) < TRUE_SHARES[kind](score)
    kept = score >= np.quantile(score, 0.8)
    rows, weights = [], []
    for stratum, m in ((~kept, int(0.3 * n)), (kept, n - int(0.3 * n))):
        ids = np.flatnonzero(stratum)
        rows += list(rng.choice(ids, m, replace=False))
        weights += [len(ids) / m] * m
    rows = np.array(rows)
    return score, good, kept, rows, np.array(weights)


@pytest.mark.parametrize("kind", TRUE_SHARES)
def test_the_interval_holds_the_truth_as_often_as_it_says(kind):
    n_in = dict.fromkeys(("all", "labels only", "kept"), 0)
    widths = {"all": 0.0, "labels only": 0.0}
    for seed in range(300):
        score, good, kept, rows, weights = drawn(kind, seed, n=100)
        more = {"strata": kept[rows], "predicted": score[rows]}
        whole = stats.share(good[rows], weights, predicted_mean=score.mean(), **more)
        part = stats.share(good[rows], weights, predicted_mean=score[kept].mean(), within=kept[rows], **more)
        for name, interval, truth in (
            ("all", whole.interval, good.mean()),
            ("labels only", whole.labels_only, good.mean()),
            ("kept", part.interval, good[kept].mean()),
        ):
            n_in[name] += interval.low <= truth <= interval.high
            if name in widths:
                widths[name] += interval.high - interval.low
    assert all(n >= 0.93 * 300 for n in n_in.values()), n_in  # 0.95, less what 300 draws vary by
    ratio = widths["all"] / widths["labels only"]
    assert ratio < 0.92 if kind == "goes along" else 0.97 < ratio <= 1, ratio


def test_a_score_that_says_all_makes_a_few_labels_as_good_as_many():
    rng = np.random.default_rng(0)
    good = rng.uniform(size=5_000) < 0.4
    rows = rng.choice(5_000, 60, replace=False)
    score = np.where(good, 0.9, 0.1)
    one = stats.share(good[rows], [5_000 / 60] * 60, predicted=score[rows], predicted_mean=score.mean())
    assert one.interval.low > good.mean() - 0.03
    assert one.interval.high < good.mean() + 0.03
    assert one.labels_only.high - one.labels_only.low > 0.2
    assert one.power > 0.9


def test_labels_of_all_rows_leave_nothing_to_chance():
    one = stats.share([True, False, True, True], [1.0] * 4).interval
    assert (one.mean, one.low, one.high) == (0.75, 0.75, 0.75)


def test_labels_that_agree_do_not_prove_that_all_rows_do():
    one = stats.share([True] * 20, [100.0] * 20)
    assert one.interval.mean == 1
    assert 0.85 < one.interval.low < 0.95
    assert one.interval.high == 1


def test_without_labels_nothing_is_said():
    one = stats.share([], [])
    assert math.isnan(one.interval.mean)
    assert (one.interval.low, one.interval.high, one.interval.n) == (0, 1, 0)
    outside = stats.share([True, False], [2.0, 2.0], within=[False, False])
    assert outside.interval.n == 0


def test_the_naive_mean_is_that_of_the_labels_as_they_come():
    one = stats.share([True, True, True, False], [1.0, 1.0, 1.0, 97.0])
    assert one.naive == 0.75
    assert one.interval.mean == pytest.approx(0.03)


def test_what_cannot_be_a_sample_is_refused():
    with pytest.raises(ParameterError, match="2 labels and 1 weights"):
        stats.share([True, False], [1.0])
    with pytest.raises(ParameterError, match="leave out null"):
        stats.share([True, None], [1.0, 1.0])
    with pytest.raises(ParameterError, match=r"1 or more, got 0\.5"):
        stats.share([True], [0.5])
    with pytest.raises(ParameterError, match="level"):
        stats.share([True], [1.0], level=1.0)


@pytest.mark.parametrize(("k", "n"), [(285, 300), (29, 29), (50, 100), (1, 40)])
def test_the_lower_bound_is_the_exact_one(k, n):
    bound = stats.lower_bound(k / n, n, alpha=0.05)
    assert binom.sf(k - 1, n, bound) == pytest.approx(0.05)
    assert stats.lower_bound(0.0, n, alpha=0.05) == 0


def test_as_many_labels_as_are_said_are_enough_and_one_less_is_not():
    n = stats.n_labels_for(0.95, 0.9, alpha=0.05)
    assert stats.lower_bound(0.95, n, alpha=0.05) >= 0.9 > stats.lower_bound(0.95, n - 1, alpha=0.05)
    assert stats.n_labels_for(0.9, 0.9, alpha=0.05) is None
