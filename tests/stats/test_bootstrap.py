import doctest
import math

import numpy as np
import polars as pl
import pytest

from arislab import stats
from arislab.errors import ParameterError


def test_holm_gives_the_textbook_values_in_the_order_given():
    # Holm's step-down by hand: 4*.005, 3*.01, max(2*.03, ...), max(.04, ...)
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert stats.holm([]).tolist() == []


def test_holm_keeps_a_missing_p_missing_and_does_not_count_it():
    adjusted = stats.holm([0.02, math.nan, 0.04])
    assert math.isnan(adjusted[1])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])


def test_the_mean_interval_agrees_with_the_normal_one_on_a_large_sample():
    values = np.random.default_rng(1).normal(0.5, 0.1, 2_000)
    interval = stats.mean_interval(values)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-4)


def test_bca_moves_both_ends_towards_the_long_tail():
    values = np.random.default_rng(3).exponential(1.0, 40)
    rng = np.random.default_rng(0)
    plain = np.quantile(values[rng.integers(0, 40, (10_000, 40))].mean(axis=1), [0.025, 0.975])
    interval = stats.mean_interval(values)
    assert interval.low > plain[0]
    assert interval.high > plain[1]


def test_missing_values_are_counted_and_never_zero():
    interval = stats.mean_interval([1.0, None, 0.5, math.nan])
    assert (interval.mean, interval.n, interval.n_missing) == (0.75, 2, 2)
    assert stats.mean_interval(pl.Series([1.0, None, 0.5, math.nan])) == interval


@pytest.mark.parametrize(("values", "n"), [([], 0), ([None], 0), ([0.3], 1)])
def test_without_spread_to_measure_there_is_no_interval(values, n):
    interval = stats.mean_interval(values)
    assert interval.n == n
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(11)
    runs, n = 800, 80
    covered = significant = 0
    for run in range(runs):
        a = rng.beta(6, 2, n)
        b = np.clip(a + rng.normal(0, 0.1, n), None, None)  # same mean: an A/A comparison
        interval = stats.mean_interval(a, seed=run, n_boot=1_000)
        covered += interval.low <= 0.75 <= interval.high
        significant += stats.paired_difference(b, a, seed=run, n_boot=1_000).p < 0.05
    assert 0.93 <= covered / runs <= 0.97
    assert 0.03 <= significant / runs <= 0.07


@pytest.mark.parametrize(("n", "t"), [(5, 2.7764), (10, 2.2622), (31, 2.0423), (201, 1.9719)])
def test_tails_are_those_of_students_t(n, t):
    z = stats._expanded(-1.959964, n)
    assert z == pytest.approx(-t * math.sqrt(n / (n - 1)), rel=6e-3)
    assert stats._contracted(z, n) == pytest.approx(-1.959964)


def test_small_samples_are_covered_too():
    rng = np.random.default_rng(12)
    covered = 0
    for run in range(800):
        interval = stats.mean_interval(rng.beta(6, 2, 20), seed=run, n_boot=1_000)
        covered += interval.low <= 0.75 <= interval.high
    assert 0.925 <= covered / 800 <= 0.97  # 0.914 without the expanded tails


def test_an_arm_against_itself_shows_nothing():
    values = np.random.default_rng(0).random(50)
    result = stats.paired_difference(values, values)
    assert (result.mean, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)
    assert (result.wins, result.ties, result.losses) == (0, 50, 0)


def test_the_p_value_and_the_interval_never_disagree():
    rng = np.random.default_rng(5)
    for run in range(200):
        a, b = rng.random(40) ** 2, rng.random(40)
        result = stats.paired_difference(a + 0.1 * (run % 3), b, seed=run, n_boot=999)
        if abs(result.p - 0.05) > 0.004:  # the grid of 999 resamples
            assert (result.p < 0.05) == (not result.low <= 0 <= result.high)


def test_p_is_close_to_the_t_test_where_that_is_right():
    differences = np.random.default_rng(8).normal(0.04, 0.3, 400)
    t = differences.mean() / (differences.std(ddof=1) / 20)
    expected = 2 * (1 - stats._NORMAL.cdf(abs(t)))
    assert stats.paired_difference(differences, np.zeros(400)).p == pytest.approx(expected, rel=0.15)


def test_few_equal_differences_are_little_evidence():
    assert stats.paired_difference([0.9, 0.8], [0.8, 0.7]).p == 0.5
    assert stats.paired_difference([0.9], [0.1]).p == 1.0


def test_reprs_are_what_a_reader_wants_to_see():
    assert (
        repr(stats.Difference(0.123, 0.101, 0.145, 0.0004, 500, 300, 50, 150))
        == "+0.123 [+0.101, +0.145] n=500 p=4e-04"
    )
    assert repr(stats.Interval(0.723, 0.7, 0.745, 1500, 3)) == "0.723 [0.700, 0.745] n=1,500 (3 missing)"


def scores():
    quality = {
        "baseline": [0.1, 0.2, 0.3, None, 0.5],
        "icl": [0.2, 0.2, 0.5, 0.9, None],
        "finetuned": [0.6, 0.7, 0.8, 0.9, 1.0],
    }
    return pl.DataFrame(
        [
            {"arm": arm, "candidate_id": f"c{i}", "quality": q}
            for arm, values in quality.items()
            for i, q in enumerate(values)
        ]
    )


def test_compare_uses_candidates_scored_in_both_arms_and_counts_the_rest():
    table = stats.compare(scores(), baseline="baseline")
    assert table["arm"].to_list() == ["icl", "finetuned"]
    assert table["n"].to_list() == [3, 4]
    assert table["n_dropped"].to_list() == [2, 1]
    assert table["difference"].to_list() == pytest.approx([0.1, 0.5])
    assert table.select("wins", "ties", "losses").row(0) == (2, 1, 0)
    assert table["p_holm"].to_list() == pytest.approx(stats.holm(table["p"]).tolist())


def test_compare_does_not_depend_on_the_order_of_rows():
    shuffled = scores().sample(fraction=1.0, shuffle=True, seed=4)
    contrasts = [("finetuned", "icl"), ("icl", "baseline")]
    assert stats.compare(shuffled, contrasts=contrasts).equals(stats.compare(scores(), contrasts=contrasts))


def test_compare_averages_the_samples_of_a_candidate_first():
    doubled = pl.concat([scores(), scores().with_columns(pl.col("quality") + 0.2)])
    table = stats.compare(doubled, baseline="baseline")
    assert table["n"].to_list() == [3, 4]


def test_compare_names_the_arms_it_has():
    with pytest.raises(ParameterError, match="no arm 'base' in the scores; did you mean 'baseline'"):
        stats.compare(scores(), baseline="base")
    with pytest.raises(ParameterError, match="exactly one"):
        stats.compare(scores())


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
    truth = stats._NORMAL.cdf(1 / math.sqrt(2))  # two normals one standard deviation apart
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


def test_the_minimal_detectable_effect_is_the_textbook_formula():
    # two-sided 5 %, power 80 %: (1.95996 + 0.84162) * sd / sqrt(n)
    assert stats.minimal_detectable_effect(1.0, 100) == pytest.approx(0.280158, abs=1e-6)
    assert stats.minimal_detectable_effect(1.0, 100, n_contrasts=3) > stats.minimal_detectable_effect(1.0, 100)
    with pytest.raises(ParameterError, match="n >= 1"):
        stats.minimal_detectable_effect(1.0, 0)


def test_the_same_seed_gives_the_same_interval_and_a_very_large_sample_is_quick():
    values = np.random.default_rng(0).random(170_000)
    assert stats.mean_interval(values, seed=3) == stats.mean_interval(values, seed=3)
    assert stats.mean_interval(values, seed=3) != stats.mean_interval(values, seed=4)
    with pytest.raises(ParameterError, match="level must be"):
        stats.mean_interval(values, level=95)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(stats)
    assert result.attempted
    assert not result.failed


# --- what a hold-out may claim ----------------------------------------------------------------------------------------


def holdout(rng, n, gain):
    """Pass or fail of two arms on n rows of very different difficulty; ``gain`` is in logits."""
    difficulty = rng.normal(0.6, 3.0, n)
    return [(rng.random(n) < 1 / (1 + np.exp(-(difficulty + g)))).astype(float) for g in (gain, 0.0)]


def true_gain(gain):
    """The same in quality: integrated over difficulties."""
    x, w = np.polynomial.hermite_e.hermegauss(201)
    means = [float((w / w.sum()) @ (1 / (1 + np.exp(-(0.6 + 3.0 * x + g))))) for g in (gain, 0.0)]
    return means[0] - means[1]


@pytest.mark.parametrize("gain", [0.0, 0.5, 2.0])
def test_the_interval_of_a_holdout_covers_the_true_difference(gain):
    rng, truth, runs = np.random.default_rng(21), true_gain(gain), 1_000
    covered = sum(
        d.low <= truth <= d.high
        for d in (stats.paired_difference(*holdout(rng, 200, gain), seed=r, n_boot=1_000) for r in range(runs))
    )
    assert 0.93 <= covered / runs <= 0.97


def compared(rng, gains, n=200):
    arms = {"base": holdout(rng, n, 0.0)[1]} | {name: holdout(rng, n, gain)[0] for name, gain in gains.items()}
    frame = pl.concat(
        [
            pl.DataFrame({"arm": [name] * n, "candidate_id": [f"c{i:04d}" for i in range(n)], "quality": values})
            for name, values in arms.items()
        ]
    )
    return stats.verdicts(stats.compare(frame, baseline="base", n_boot=1_000))


def test_equal_arms_are_told_apart_in_at_most_one_of_twenty_families():
    rng, runs = np.random.default_rng(22), 400
    families = [compared(rng, dict.fromkeys("xyz", 0.0)) for _ in range(runs)]
    assert {f["verdict"].n_unique() for f in families} <= {1, 2}
    wrong = sum((f["verdict"] != "not shown").any() for f in families)
    assert wrong / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_verdicts_name_what_is_better_worse_and_not_shown():
    table = compared(np.random.default_rng(23), {"better": 3.0, "worse": -3.0, "same": 0.0}, n=1_000)
    assert dict(table.select("arm", "verdict").iter_rows()) == {
        "better": "improves",
        "worse": "worse",
        "same": "not shown",
    }
    se = (table["high"] - table["low"]) / 3.92
    assert table["mde"].to_list() == pytest.approx((2.8 * se).to_list(), rel=0.01)
    few = pl.DataFrame({"arm": ["a", "b"], "candidate_id": ["c", "c"], "quality": [1.0, 0.0]})
    assert stats.verdicts(stats.compare(few, baseline="b")).select("mde", "verdict").row(0) == (None, "not shown")


def test_an_effect_of_the_minimal_detectable_size_is_seen_in_four_of_five_runs():
    rng, runs, n = np.random.default_rng(24), 400, 200
    sd = 0.4
    effect = stats.minimal_detectable_effect(sd, n)
    shown = sum(
        stats.paired_difference(rng.normal(effect, sd, n), np.zeros(n), seed=r, n_boot=1_000).low > 0
        for r in range(runs)
    )
    assert 0.74 <= shown / runs <= 0.86
