"""Shares of a finite population from a drawn sample of labels, with or without a prediction for every row.

The labels are exact and few; the predictions are for all rows and may be wrong. Whatever they are worth, the interval
is about what the labels say: a prediction that tells nothing gets no weight, and the interval is that of the labels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arislab.errors import ParameterError
from arislab.stats.bootstrap import NORMAL, Floats, Interval, check_level, floats


@dataclass(frozen=True)
class Share:
    """A share of a population, estimated from labels of some of its rows."""

    interval: Interval
    """With the predictions, if there are any and they help."""
    labels_only: Interval
    """Without them."""
    naive: float
    """Mean of the labels as if all rows had been drawn with the same chance; NaN without labels."""
    n_effective: float
    """How many labels of a simple random sample would say as much as these do alone."""
    power: float
    """Weight of the predictions; 0: they tell nothing, 1: they are right on average."""


def share(
    good: Any,
    weights: Any,
    *,
    strata: Any = None,
    predicted: Any = None,
    predicted_mean: float | None = None,
    within: Any = None,
    inflation: float = 1.0,
    level: float = 0.95,
) -> Share:
    """Estimate the share of good rows in a population, or in a part of it, from a stratified random sample of its rows.

    Args:
        good: Labels of the sampled rows: true or false, none missing.
        weights: How many rows of the population each stands for (1 / its chance to be drawn, or more), at least 1.
        strata: Stratum of each; null: one.
        predicted: A number for each sampled row that goes along with ``good``, 0..1, made without its label; null:
            there is none.
        predicted_mean: Mean of that number over the whole population, or its part.
        within: Whether each sampled row is in the part whose share is asked for; null: all are. Those outside still
            tell how many of the sample fall into it.
        inflation: How many times the variance is larger than the draw alone makes it, at least 1.
        level: Confidence level of the two-sided intervals, in (0, 1).

    Returns:
        The estimates; without labels they are NaN, and the interval is 0..1.

    Raises:
        ParameterError: Columns of different lengths, a weight below 1, or a level out of range.

    Source:
        Regression estimator, Särndal, Swensson and Wretman 1992, section 6; the coefficient that makes the interval
        shortest, Angelopoulos, Duchi and Zrnic 2023, PPI++; residuals without their own pull, MacKinnon and White 1985.
        Interval of a share by Jeffreys' beta distribution on the effective sample size, Korn and Graubard 1998; Brown,
        Cai and DasGupta 2001.

    Example:
        >>> share([True] * 9 + [False], [10.0] * 10).interval
        0.900 [0.566, 0.992] n=10
    """
    check_level(level)
    y, w = floats(good), floats(weights)
    if len(y) != len(w) or not np.isfinite(y).all():
        raise ParameterError(
            f"there are {len(y)} labels and {len(w)} weights; give each label one, and leave out null."
        )
    if (w < 1 - 1e-9).any():
        raise ParameterError(f"a row stands for itself at least: weights must be 1 or more, got {w.min():g}.")
    inside = np.ones(len(y)) if within is None else floats(within)
    n = int(inside.sum())
    if not n:
        nothing = Interval(math.nan, 0.0, 1.0, 0, 0, level)
        return Share(nothing, nothing, math.nan, 0.0, 0.0)
    sample = _Sample(
        w, inside, np.unique(np.asarray([0] * len(y) if strata is None else strata), return_inverse=True)[1]
    )
    mean = min(max(sample.mean(y), 0.0), 1.0)
    n_effective = _effective(y, mean, sample, None) / inflation
    n_told = _effective(y, mean, sample, level) / inflation
    labels_only = Interval(mean, *_beta(mean, n_told, level), n, 0, level)
    power, estimate, gain = 0.0, mean, 1.0
    if predicted is not None and predicted_mean is not None:
        power, estimate, gain = _with_predictions(y, floats(predicted), predicted_mean, sample)
    # what the predictions explain is as good as more labels; they never make it worse than the labels are alone
    low, high = _beta(estimate, n_told / gain, level)
    interval = Interval(estimate, low, high, n, 0, level)
    return Share(interval, labels_only, float(y[inside > 0].mean()), n_effective, power)


@dataclass(frozen=True)
class _Sample:
    """Which rows were drawn, from which strata, and which of them are in the part that is asked about."""

    w: Floats
    inside: Floats
    stratum: NDArray[np.int64]

    def mean(self, values: Floats) -> float:
        """Weighted mean inside."""
        return float(self.w * self.inside @ values / (self.w @ self.inside))

    @property
    def kish(self) -> float:
        """Size of the sample inside, less what unequal weights cost."""
        w = self.w * self.inside
        return float(w.sum()) ** 2 / float(w @ w)

    def strata(self) -> Iterator[NDArray[np.bool_]]:
        """Rows of each stratum."""
        return (self.stratum == number for number in range(int(self.stratum.max()) + 1))

    def variance(self, deviations: Floats) -> float:
        """Variance of the weighted mean inside of which these are the deviations; without replacement."""
        total = 0.0
        for rows in self.strata():
            values, weight = (self.w * self.inside * deviations)[rows], float(self.w[rows].mean())
            # one label tells no spread: its square, as if its stratum lay around the mean
            spread = float(values.var(ddof=1)) if len(values) > 1 else float(values[0] ** 2)
            total += len(values) * spread * (1 - 1 / weight)  # all rows drawn: nothing is left to chance
        return total / float(self.w @ self.inside) ** 2


def _with_predictions(y: Floats, f: Floats, population_mean: float, sample: _Sample) -> tuple[float, float, float]:
    """Return the weight of the predictions, the estimate, and its variance as a share of that without them."""
    y_mean, f_mean, kish = sample.mean(y), sample.mean(f), sample.kish
    e, g = y - y_mean, f - f_mean
    of_f, alone = sample.variance(g), sample.variance(e)
    if of_f <= 0 or alone <= 0 or kish <= 3:
        return 0.0, y_mean, 1.0
    covariance = (sample.variance(e + g) - alone - of_f) / 2
    power = max(covariance / of_f, 0.0)
    # the coefficient leans towards each label as its weight makes it: what is left of it is larger by that
    w = sample.w * sample.inside
    leverage = w / w.sum() + w * g**2 / float(w @ g**2)
    left = (e - power * g) / (1 - np.minimum(leverage, 0.9))
    gain = sample.variance(left) / alone
    if gain >= 1 or power == 0:
        return 0.0, y_mean, 1.0
    estimate = y_mean + power * (population_mean - f_mean)
    return power, min(max(estimate, 0.0), 1.0), gain


def _effective(y: Floats, mean: float, sample: _Sample, level: float | None) -> float:
    """Size of the simple random sample that would say as much; with a level less, where few labels tell the spread."""
    parts, dfs = [], []
    n_all = float(sample.inside.sum())
    overall = (float(sample.inside @ y) + 0.5) / (n_all + 1)
    for rows in sample.strata():
        w, inside = sample.w[rows], sample.inside[rows]
        n, weight = int(inside.sum()), float(w.mean())
        # drawn towards the whole by two labels: a stratum whose few labels agree is not one without any spread
        share = (float(inside @ y[rows]) + 2 * overall) / (n + 2)
        own = float((w * inside * (y[rows] - mean)).var(ddof=1)) if len(w) > 1 else 0.0
        parts.append((1 - 1 / weight) * max(len(w) * own, n * weight**2 * share * (1 - share)))
        dfs.append(max(len(w) - 1, 1))
    variance = sum(parts) / float(sample.w @ sample.inside) ** 2
    if variance <= 0:
        return math.inf  # every row has a label
    middle = min(max(mean, 0.5 / (n_all + 1)), 1 - 0.5 / (n_all + 1))
    w = sample.w * sample.inside
    # strata that are alike in the sample need not be so in the population: never more than equal ones would give
    most = float(w.sum()) ** 2 / float(w @ (w - sample.inside))
    size = min(middle * (1 - middle) / variance, most)
    if level is None:
        return size
    from scipy.stats import t

    df = sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, dfs, strict=True))
    return size * float((NORMAL.inv_cdf((1 + level) / 2) / t.ppf((1 + level) / 2, df)) ** 2)


def _beta(mean: float, n: float, level: float) -> tuple[float, float]:
    """Jeffreys' interval of a share of so many labels."""
    from scipy.stats import beta

    if math.isinf(n):
        return mean, mean
    good, bad = mean * n, (1 - mean) * n
    tail = (1 - level) / 2
    low = 0.0 if good <= 0 else float(beta.ppf(tail, good + 0.5, bad + 0.5))
    high = 1.0 if bad <= 0 else float(beta.ppf(1 - tail, good + 0.5, bad + 0.5))
    return min(low, mean), max(high, mean)


def lower_bound(mean: float, n: float, *, alpha: float) -> float:
    """Return the exact one-sided lower bound of a share that n labels put at ``mean``: wrong with chance alpha at most.

    Source:
        Clopper and Pearson 1934; n may be an effective size (Korn and Graubard 1998).

    Example:
        >>> round(lower_bound(0.95, 300, alpha=0.05), 3)
        0.924
    """
    from scipy.stats import beta

    if n <= 0 or mean * n <= 0:
        return 0.0
    return mean if math.isinf(n) else float(beta.ppf(alpha, mean * n, (1 - mean) * n + 1))


def most_in_population(n_found: int, n: int, n_population: int, *, alpha: float) -> int:
    """Return the exact one-sided upper bound of how many rows of a population are such as n_found of n drawn ones.

    The n were drawn without replacement; the bound is wrong with chance alpha at most.

    Source:
        Konijn 1973, Statistical Theory of Sample Survey Design and Analysis: Clopper and Pearson 1934 by the
        hypergeometric distribution.

    Example:
        >>> most_in_population(0, 59, 10_000, alpha=0.05) / 10_000
        0.0493
    """
    from scipy.stats import hypergeom

    low, high = n_found, n_population - (n - n_found) + 1  # as many there are at least; and more than there can be
    while high - low > 1:
        middle = (low + high) // 2
        is_likely = hypergeom.cdf(n_found, n_population, middle, n) > alpha
        low, high = (middle, high) if is_likely else (low, middle)
    return low


def n_labels_for(mean: float, promise: float, *, alpha: float, most: int = 1_000_000) -> int | None:
    """Return how many labels would show that a share which is ``mean`` is at least ``promise``; None: no number.

    Args:
        mean: The share as it is, 0..1.
        promise: What is to be shown, 0..1.
        alpha: Chance to be wrong.
        most: Where to stop looking.

    Example:
        >>> n_labels_for(0.95, 0.9, alpha=0.05)
        107
    """
    if mean <= promise:
        return None
    low, high = 1, 2
    while lower_bound(mean, high, alpha=alpha) < promise:
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_bound(mean, middle, alpha=alpha) >= promise else (middle, high)
    return high
