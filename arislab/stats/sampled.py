"""How well a score ranks the rows of a population, by labels of rows that were drawn from it with unequal chances.

What is drawn more densely counts less. A score that the drawing itself looked at would else seem better than it is:
rows above a cut are both denser in the sample and more often good.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.errors import ParameterError
from arislab.stats.bootstrap import Floats, Interval, check_level, floats, numbered

Groups = Sequence[Any] | pl.Series | None


def sampled_auc(scores: Any, good: Any, weights: Any, *, groups: Groups = None, level: float = 0.95) -> Interval:
    """Return the chance that a good row of the population scores above a bad one (ties count half), with its interval.

    Args:
        scores: Of the labelled rows: any numbers, the better the larger; rows without one are left out and counted.
        good: Labels of these rows: true or false, none missing.
        weights: How many rows of the population each stands for, up to a factor; above 0.
        groups: Group of each row, where rows of one group are alike; null: each row stands alone.
        level: Confidence level, in (0, 1).

    Returns:
        NaN where one kind is missing; where one row stands for all others of its kind, the interval is 0..1.

    Raises:
        ParameterError: Columns of different lengths, a weight that is not above 0, or a level out of range.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, with weights and sums over groups; effective sizes of either kind, Kish
        1965; never narrower than what Hanley and McNeil 1982 give for these; on the logit scale (Pepe 2003), with
        Student's t by Satterthwaite 1946.

    Example:
        >>> sampled_auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False], [1, 1, 1, 3]).mean
        0.9375
    """
    check_level(level)
    sample = _Sample.of([floats(scores)], good, weights, groups)
    if not sample.has_both:
        return Interval(math.nan, math.nan, math.nan, sample.n, sample.n_missing, level)
    area, pulls = _area(sample.scores[0], sample)
    known = (sample.n, sample.n_missing, level, sample.n_groups)
    variance, df = sample.variance(pulls)
    if df <= 0:
        return Interval(area, 0.0, 1.0, *known)
    middle, least = _least(area, sample)
    logit = math.log(middle / (1 - middle))
    reach = _quantile(df, level) * math.sqrt(max(variance, least)) / (middle * (1 - middle))
    low, high = (1 / (1 + math.exp(-end)) if end > -700 else 0.0 for end in (logit - reach, logit + reach))
    return Interval(area, min(low, area), max(high, area), *known)


def sampled_auc_gain(
    scores: Any, others: Any, good: Any, weights: Any, *, groups: Groups = None, level: float = 0.95
) -> Interval:
    """Return by how much the ``sampled_auc`` of one score is above that of another one on the same rows.

    Args:
        scores: As in ``sampled_auc``.
        others: The other score of each row; rows without one of both are left out and counted.
        good: As in ``sampled_auc``.
        weights: As in ``sampled_auc``.
        groups: As in ``sampled_auc``.
        level: As in ``sampled_auc``.

    Returns:
        -1..1; NaN where one kind is missing; where one row stands for all others of its kind, the interval is -1..1.

    Raises:
        ParameterError: As in ``sampled_auc``.

    Source:
        As ``sampled_auc``; DeLong, DeLong and Clarke-Pearson 1988 for two scores of the same rows.

    Example:
        >>> sampled_auc_gain([3, 2, 1], [1, 1, 1], [True, True, False], [1, 1, 1]).mean
        0.5
    """
    check_level(level)
    sample = _Sample.of([floats(scores), floats(others)], good, weights, groups)
    if not sample.has_both:
        return Interval(math.nan, math.nan, math.nan, sample.n, sample.n_missing, level)
    (one, pulls), (other, other_pulls) = (_area(score, sample) for score in sample.scores)
    variance, df = sample.variance(pulls - other_pulls)
    if df > 0 and variance == 0 and one != other:  # every label gains as much: the population need not
        variance = max(_least(area, sample)[1] for area in (one, other))
    reach = _quantile(df, level) * math.sqrt(variance) if df > 0 else math.inf
    low, high = max(one - other - reach, -1.0), min(one - other + reach, 1.0)
    return Interval(one - other, low, high, sample.n, sample.n_missing, level, sample.n_groups)


@dataclass(frozen=True)
class _Sample:
    """Labelled rows that have all scores."""

    scores: tuple[Floats, ...]
    is_good: NDArray[np.bool_]
    weights: Floats
    group: NDArray[np.int64]
    n_missing: int

    @classmethod
    def of(cls, scores: Sequence[Floats], good: Any, weights: Any, groups: Groups) -> "_Sample":
        label, weight = floats(good), floats(weights)
        if {len(label), len(weight)} != {len(score) for score in scores}:
            sizes = ", ".join(str(len(score)) for score in scores)
            raise ParameterError(
                f"there are {len(label)} labels, {len(weight)} weights and {sizes} scores; they must be aligned."
            )
        if not np.isfinite(label).all():
            raise ParameterError("a label is null; leave out rows without one.")
        if not (np.isfinite(weight) & (weight > 0)).all():
            raise ParameterError(f"weights must be above 0, got {weight[~(weight > 0)][:1]}; leave such rows out.")
        known = np.logical_and.reduce([np.isfinite(score) for score in scores])
        group = numbered(groups, known) if groups is not None and known.any() else np.arange(int(known.sum()))
        some = tuple(score[known] for score in scores)
        return cls(some, label[known] > 0.5, weight[known], group, int((~known).sum()))

    @property
    def n(self) -> int:
        return len(self.weights)

    @property
    def n_groups(self) -> int:
        return int(self.group.max()) + 1 if self.n else 0

    @property
    def has_both(self) -> bool:
        return bool(self.is_good.any() and not self.is_good.all())

    @property
    def sizes(self) -> tuple[float, float]:
        """Groups with good and with bad rows, less what unequal weights cost."""
        kinds = (self.is_good, ~self.is_good)
        parts = (np.bincount(self.group[kind], self.weights[kind], self.n_groups) for kind in kinds)
        good, bad = (float(w.sum() ** 2 / (w @ w)) for w in parts)
        return good, bad

    def variance(self, pulls: Floats) -> tuple[float, float]:
        """Return the variance of a sum of what each row adds, and its degrees of freedom; 0: nobody can tell."""
        sums, parts = [], []
        for kind, size in zip((self.is_good, ~self.is_good), self.sizes, strict=True):
            if size < 1 + 1e-9:
                return 0.0, 0.0
            sums.append(np.bincount(self.group[kind], pulls[kind], self.n_groups).round(12))  # ties pull by no bit
            parts.append((float(sums[-1] @ sums[-1]) * size / (size - 1), size - 1))
        total = sum(part for part, _ in parts) + 2 * float(sums[0] @ sums[1])
        total = max(total, max(part for part, _ in parts) * 1e-9)
        squared = sum(part**2 / df for part, df in parts)
        return total, total**2 / squared if squared > 0 else min(df for _, df in parts)


def _area(score: Floats, sample: _Sample) -> tuple[float, Floats]:
    """Return the area, and how far each row pulls it to its side: what it adds, with its weight; together 0."""
    level = np.unique(score, return_inverse=True)[1]
    n_levels = int(level.max()) + 1

    def below(kind: NDArray[np.bool_]) -> Floats:
        """Share of the rows of a kind below each row, and half of those level with it."""
        mass = np.bincount(level[kind], sample.weights[kind], n_levels)
        shares: Floats = ((np.cumsum(mass) - mass / 2) / mass.sum())[level]
        return shares

    good, bad = sample.is_good, ~sample.is_good
    weights = np.where(good, sample.weights / sample.weights[good].sum(), sample.weights / sample.weights[bad].sum())
    wins = np.where(good, below(bad), 1 - below(good))
    area = float(weights[good] @ wins[good])
    return area, weights * (wins - area)


def _least(area: float, sample: _Sample) -> tuple[float, float]:
    """Return the area, not quite 0 or 1, and the least variance that is believed of it.

    Labels that happen to agree have no spread, and the population may; and they cannot say 0 or 1: half a pair is taken
    to be the other way round.
    """
    n_good, n_bad = sample.sizes
    edge = 0.5 / (n_good * n_bad)
    middle = min(max(area, edge), 1 - edge)
    best = max(middle, 1 - middle)  # whichever way round the score is
    q1, q2, square = best / (2 - best), 2 * best**2 / (1 + best), best**2
    return middle, (best - square + (n_good - 1) * (q1 - square) + (n_bad - 1) * (q2 - square)) / (n_good * n_bad)


def _quantile(df: float, level: float) -> float:
    from scipy.special import stdtrit  # the quantiles of scipy.stats, at a third of its import

    return float(stdtrit(df, (1 + level) / 2))
