import doctest
import math

import numpy as np
import polars as pl
import pytest

from arislab import stats
from arislab.errors import ParameterError
from arislab.stats import bootstrap, contrasts, ranking


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
        b = a + rng.normal(0, 0.1, n)  # same mean: an A/A comparison
        interval = stats.mean_interval(a, seed=run, n_boot=1_000)
        covered += interval.low <= 0.75 <= interval.high
        significant += stats.paired_difference(b, a, seed=run, n_boot=1_000).p < 0.05
    assert 0.93 <= covered / runs <= 0.97
    assert 0.03 <= significant / runs <= 0.07


def test_groups_of_one_change_nothing():
    values = np.random.default_rng(2).beta(2, 3, 60)
    alone, named = stats.mean_interval(values), stats.mean_interval(values, groups=[f"g{i}" for i in range(60)])
    assert alone == named
    assert named.n_groups == 60
    a, b = (
        stats.paired_difference(values, 0.4 - values),
        stats.paired_difference(values, 0.4 - values, groups=range(60)),
    )
    assert a == b


def test_a_group_of_equal_rows_says_no_more_than_one_row():
    values, groups = [0.2, 0.9, 0.4, 0.6, 0.8, 0.1, 0.7], "abcdefg"
    alone = stats.mean_interval(values)
    repeated = stats.mean_interval(np.repeat(values, 10), groups=[g for g in groups for _ in range(10)])
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert (repeated.n, repeated.n_groups) == (70, 7)
    assert repr(repeated).endswith("n=70 of 7 groups")
    p = stats.paired_difference(np.repeat(values, 10), np.zeros(70), groups=[g for g in groups for _ in range(10)]).p
    assert p >= 2.0**-6


@pytest.mark.parametrize("shape", ["equal", "skewed"])
def test_intervals_over_groups_cover_the_truth_where_rows_alone_do_not(shape):
    rng = np.random.default_rng(4)
    runs, n_groups = 500, 30
    covered = covered_by_rows = significant = 0
    for run in range(runs):
        sizes = np.full(n_groups, 8) if shape == "equal" else rng.geometric(0.15, n_groups)
        group = np.repeat(np.arange(n_groups), sizes)
        values = np.repeat(rng.normal(0, 0.2, n_groups), sizes) + rng.normal(0, 0.1, len(group))  # mean 0 of each group
        grouped = stats.paired_difference(values, np.zeros(len(group)), groups=group, seed=run, n_boot=600)
        rows = stats.mean_interval(values, seed=run, n_boot=600)
        covered += grouped.low <= 0 <= grouped.high
        covered_by_rows += rows.low <= 0 <= rows.high
        significant += grouped.p < 0.05
    assert 0.92 <= covered / runs <= 0.98
    assert 0.02 <= significant / runs <= 0.08
    assert covered_by_rows / runs < 0.7


def test_groups_that_have_the_same_mean_have_no_spread():
    values, groups = [1.0, 0.0] * 12, [i // 2 for i in range(24)]
    interval = stats.mean_interval(values, groups=groups)
    assert (interval.mean, interval.low, interval.high, interval.n_groups) == (0.5, 0.5, 0.5, 12)
    assert stats.paired_difference(values, [0.5] * 24, groups=groups).p == 1
    assert stats.paired_difference(values, [0.0] * 24, groups=groups).p == 2**-11, "as much as twelve equal signs"
    uneven = stats.mean_interval([1.0, 0.0, *[1.0, 0.0] * 3], groups=[0, 0, *[1] * 6])
    assert (uneven.low, uneven.high) == (0.5, 0.5)


def test_missing_rows_leave_their_group_and_a_wrong_number_of_groups_is_refused():
    interval = stats.mean_interval([0.1, None, 0.3, 0.5], groups=["a", "b", "c", "c"])
    assert (interval.n, interval.n_missing, interval.n_groups) == (3, 1, 2)
    assert math.isnan(stats.mean_interval([0.1, 0.9], groups=["a", "a"]).low), "one group has no spread to measure"
    with pytest.raises(ParameterError, match="groups has 1 rows and the values have 2"):
        stats.mean_interval([0.1, 0.2], groups=["a"])


@pytest.mark.parametrize(("n", "t"), [(5, 2.7764), (10, 2.2622), (31, 2.0423), (201, 1.9719)])
def test_tails_are_those_of_students_t(n, t):
    z = bootstrap._expanded(-1.959964, n)
    assert z == pytest.approx(-t * math.sqrt(n / (n - 1)), rel=6e-3)
    assert bootstrap._contracted(z, n) == pytest.approx(-1.959964)


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
    expected = 2 * (1 - bootstrap.NORMAL.cdf(abs(t)))
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


def test_the_same_seed_gives_the_same_interval_and_a_very_large_sample_is_quick():
    values = np.random.default_rng(0).random(170_000)
    assert stats.mean_interval(values, seed=3) == stats.mean_interval(values, seed=3)
    assert stats.mean_interval(values, seed=3) != stats.mean_interval(values, seed=4)
    with pytest.raises(ParameterError, match="level must be"):
        stats.mean_interval(values, level=95)


def test_the_examples_in_the_docstrings_are_true():
    for module in (bootstrap, contrasts, ranking):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_array_of_floats_is_read_as_a_list_is_and_stays_as_it_was(dtype):
    given = [0.5, 0.25, None, 1.0, 0.75]
    array = np.array([np.nan if x is None else x for x in given], dtype=dtype)
    before = array.copy()
    assert bootstrap.floats(array).dtype == np.float64
    assert stats.mean_interval(array) == stats.mean_interval(given)
    assert stats.mean_interval(array).n_missing == 1
    other = [0.5, 0.5, 0.5, 0.5, 0.25]
    assert stats.paired_difference(array, np.array(other)) == stats.paired_difference(given, other)
    assert str(array) == str(before)
