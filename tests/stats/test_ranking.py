import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from arislab import stats
from arislab.errors import ParameterError
from arislab.stats import bootstrap, ranking


def test_auc_by_hand():
    # pairs (good, bad): .9>.4, .9>.1, .4=.4 (half), .4>.1 -> 3.5 of 4
    interval = stats.auc([0.9, 0.4, 0.4, 0.1, None], [True, True, False, False, True])
    assert interval.mean == 3.5 / 4
    assert (interval.n, interval.n_missing) == (4, 1)
    assert math.isnan(stats.auc([0.1, 0.2], [True, True]).mean)


def test_auc_and_precision_agree_with_a_slow_count():
    rng = np.random.default_rng(2)
    score, label = rng.integers(0, 12, 90) / 12, rng.random(90) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in score[label] for b in score[~label]]
    assert stats.auc(score, label).mean == pytest.approx(np.mean(pairs))
    kept = []
    for run in range(4_000):
        order = np.lexsort([np.random.default_rng(run).random(90), -score])
        kept.append(label[order[:18]].mean())
    assert stats.precision_at(score, label, 0.2).mean == pytest.approx(np.mean(kept), abs=0.01)


def test_auc_intervals_cover_a_known_area():
    rng = np.random.default_rng(6)
    truth = bootstrap.NORMAL.cdf(1 / math.sqrt(2))  # two normals one standard deviation apart
    covered = 0
    for run in range(150):
        label = rng.random(120) < 0.5
        interval = stats.auc(rng.normal(label, 1.0), label, seed=run, n_boot=300)
        covered += interval.low <= truth <= interval.high
    assert covered / 150 >= 0.9


def test_precision_counts_ties_at_the_cut_in_proportion():
    assert stats.precision_at([0.9, 0.8, 0.8, 0.1], [True, True, False, False], 0.5).mean == 0.75
    assert stats.precision_at([1.0] * 10, [True] * 3 + [False] * 7, 0.2).mean == pytest.approx(0.3)
    with pytest.raises(ParameterError, match=r"fraction must be in \(0, 1\], got 20"):
        stats.precision_at([1.0], [True], 20)


def test_groups_are_resampled_whole_so_that_copies_of_a_row_add_nothing():
    rng = np.random.default_rng(5)
    label = rng.random(60) < 0.5
    score = rng.normal(label * 0.8, 1.0)
    alone = stats.auc(score, label)
    copied = [np.repeat(values, 8) for values in (score, label, np.arange(60))]
    grouped = stats.auc(*copied[:2], groups=copied[2].tolist())
    assert (grouped.mean, grouped.n, grouped.n_groups) == (pytest.approx(alone.mean), 480, 60)
    assert (grouped.low, grouped.high) == (pytest.approx(alone.low, abs=0.01), pytest.approx(alone.high, abs=0.01))
    naive = stats.auc(*copied[:2])
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)
    assert stats.precision_at(*copied[:2], groups=copied[2].tolist()).n_groups == 60


@pytest.mark.parametrize("groups", [None, np.arange(80) % 23])
def test_a_resample_counts_each_pair_of_drawn_rows_and_several_scores_get_what_each_gets_alone(groups):
    rng = np.random.default_rng(4)
    good, score = rng.random(80) < 0.3, rng.integers(0, 12, 80).astype(float)
    other, holed = rng.random(80), np.where(np.arange(80) % 9, score, np.nan)
    area = stats.auc(score, good, groups=groups, seed=7, n_boot=30)
    n, draws, resampled = 80 if groups is None else 23, [], np.random.default_rng(7)
    for _ in range(30):
        times = np.bincount(resampled.integers(0, n, n), minlength=n)
        rows = np.repeat(np.arange(80), times if groups is None else times[groups])
        above = score[rows[good[rows]]][:, None] - score[rows[~good[rows]]]
        draws.append(((above > 0).sum() + (above == 0).sum() / 2) / above.size)
    assert (area.low, area.high) == tuple(np.quantile(draws, [0.025, 0.975]))
    scores = {"score": score, "holed": holed, "other": other}
    alone = {name: stats.auc(values, good, groups=groups, seed=7, n_boot=30) for name, values in scores.items()}
    assert stats.aucs(scores, good, groups=groups, seed=7, n_boot=30) == alone


def test_tau_is_scipys_to_the_last_bit_with_ties_and_without_and_for_more_rows_than_a_run_has():
    rng = np.random.default_rng(6)
    for n in (2, 3, 31, 32, 33, 64, 65, 1000, 5000):
        for levels in (2, 7, 10 * n):
            first, second = rng.integers(0, levels, n) / 7, rng.random(n).round(2)
            for one, two in ((first, second), (first, first), (first, -first), (first, first + second)):
                ours, theirs = stats.kendall_tau(one, two), float(kendalltau(one, two).statistic)
                assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    for without in (np.zeros(0), np.array([0.1, math.nan, 0.2])):
        assert math.isnan(stats.kendall_tau(without, without))


def test_areas_are_the_same_in_threads(monkeypatch):
    rng = np.random.default_rng(3)
    scores, labels = {"a": rng.random(300), "b": rng.integers(0, 5, 300)}, rng.random(300) < 0.3
    alone = stats.aucs(scores, labels, n_boot=200)
    monkeypatch.setattr(ranking, "_MANY", 0)
    assert stats.aucs(scores, labels, n_boot=200) == alone
