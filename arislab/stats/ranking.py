"""How well a score ranks good rows before bad ones."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from arislab.errors import ParameterError
from arislab.stats.bootstrap import Floats, Interval, check_level, floats, numbered
from arislab.system.kinds import takes_any_frame


@takes_any_frame
def auc(
    scores: Iterable[float | None] | ArrayLike | pl.Series,
    labels: Iterable[bool | None] | ArrayLike | pl.Series,
    *,
    groups: Sequence[Any] | pl.Series | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2_000,
) -> Interval:
    """Return the chance that a good row scores above a bad one (ties count half), with its bootstrap interval.

    NaN when all labels are equal. Rows without score or label are left out and counted.

    Args:
        scores: Any numbers, the better the larger; null and NaN are no score.
        labels: Whether a row is good; null is no label.
        groups: Group of each row, where rows of one group are alike (answers to one question): whole groups are
            resampled. Null: each row stands alone.
        level: Confidence level, in (0, 1).
        seed: Of the resamples.
        n_boot: Resamples of rows.

    Raises:
        ParameterError: `scores`, `labels` and `groups` have different lengths, or a level out of range.

    Source:
        Hanley and McNeil 1982, The Meaning and Use of the Area under a ROC Curve; percentile
        bootstrap over rows or groups.

    Example:
        >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]).mean
        0.875
    """

    def area(good: Floats, bad: Floats) -> float:  # counts by level of the score, lowest first
        n_pairs = good.sum() * bad.sum()
        return float((good * (np.cumsum(bad) - bad / 2)).sum() / n_pairs) if n_pairs else math.nan

    return _ranking(area, scores, labels, groups, level=level, seed=seed, n_boot=n_boot)


@takes_any_frame
def precision_at(
    scores: Iterable[float | None] | ArrayLike | pl.Series,
    labels: Iterable[bool | None] | ArrayLike | pl.Series,
    fraction: float = 0.2,
    *,
    groups: Sequence[Any] | pl.Series | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2_000,
) -> Interval:
    """Return the share of good rows among the top `fraction` by score, with its percentile bootstrap interval.

    Rows tied at the cut count with the share of them that fits, which is what a random order would keep on average.

    Args:
        scores: As in ``auc``.
        labels: As in ``auc``.
        fraction: Share of the rows with score and label that is the top, in (0, 1]; rounded up to a whole row.
        groups: As in ``auc``.
        level: As in ``auc``.
        seed: As in ``auc``.
        n_boot: As in ``auc``.

    Raises:
        ParameterError: A fraction out of range, or as in ``auc``.

    Example:
        >>> precision_at([0.9, 0.8, 0.8, 0.1], [True, True, False, False], 0.5).mean
        0.75
    """
    if not 0 < fraction <= 1:
        raise ParameterError(f"fraction must be in (0, 1], got {fraction!r}; it is a fraction: 0.2 is the top fifth.")

    def precision(good: Floats, bad: Floats) -> float:
        good, both = good[::-1], (good + bad)[::-1]
        n_top = math.ceil(round(fraction * both.sum(), 9))
        taken = np.clip(n_top - (np.cumsum(both) - both), 0, both)
        share = np.divide(good, both, out=np.zeros_like(both), where=both > 0)
        return float((taken * share).sum() / n_top) if n_top else math.nan

    return _ranking(precision, scores, labels, groups, level=level, seed=seed, n_boot=n_boot)


def _ranking(
    statistic: Callable[[Floats, Floats], float],
    scores: Any,
    labels: Any,
    groups: Sequence[Any] | pl.Series | None,
    *,
    level: float,
    seed: int,
    n_boot: int,
) -> Interval:
    """Bootstrap a statistic of (good, bad) counts per distinct score, lowest score first."""
    check_level(level)
    score, label = floats(scores), floats(labels)
    if len(score) != len(label):
        raise ParameterError(f"there are {len(score)} scores and {len(label)} labels; they must be aligned.")
    known = np.isfinite(score) & np.isfinite(label)
    n, n_missing = int(known.sum()), int((~known).sum())
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, n_missing, level)
    group = numbered(groups, known)
    n_groups = int(group.max()) + 1
    values, levels = np.unique(score[known], return_inverse=True)
    good = label[known] > 0.5
    cells = levels + len(values) * ~good

    def counts(weights: NDArray[Any] | None = None) -> tuple[Floats, Floats]:
        table = np.bincount(cells, weights, minlength=2 * len(values)).astype(float)
        return table[: len(values)], table[len(values) :]

    estimate = statistic(*counts())
    rng, draws = np.random.default_rng(seed), []
    for _ in range(n_boot if n_groups > 1 else 0):
        times = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
        draws.append(statistic(*counts(times[group])))
    finite = np.array([draw for draw in draws if math.isfinite(draw)])
    if math.isnan(estimate) or len(finite) == 0:
        return Interval(estimate, math.nan, math.nan, n, n_missing, level, n_groups)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), n, n_missing, level, n_groups)
