"""How well a score ranks good rows before bad ones."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from arislab.errors import ParameterError
from arislab.stats.bootstrap import Floats, Interval, check_level, floats, numbered
from arislab.system import threads
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
    return aucs({"": scores}, labels, groups=groups, level=level, seed=seed, n_boot=n_boot)[""]


def aucs(
    scores: Mapping[str, Any],
    labels: Any,
    *,
    groups: Sequence[Any] | pl.Series | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2_000,
) -> dict[str, Interval]:
    """Return ``auc`` of several scores by name; those that the same rows have are resampled together, to the same end.

    Args:
        scores: Name to scores, as in ``auc``.
        labels: As in ``auc``.
        groups: As in ``auc``.
        level: As in ``auc``.
        seed: As in ``auc``.
        n_boot: As in ``auc``.

    Raises:
        ParameterError: As in ``auc``.
    """
    alike: dict[bytes, list[tuple[str, _Rows]]] = {}
    for name, values in scores.items():
        rows = _Rows.of(values, labels, groups, level=level)
        alike.setdefault(rows.known.tobytes(), []).append((name, rows))
    found = {}
    for several in alike.values():
        rows = several[0][1]
        orders = [_Order(one.score, one.good) for _, one in several]
        areas = partial(_areas, orders)
        resamples = rows.draws(seed=seed, n_boot=n_boot)
        drawn = list(threads.mapped(areas, resamples) if rows.n > _MANY else map(areas, resamples))
        once = areas(np.ones(rows.n, dtype=np.uint8)) if rows.n else [math.nan] * len(several)
        for i, (name, _) in enumerate(several):
            found[name] = rows.interval(once[i], [one[i] for one in drawn])
    return {name: found[name] for name in scores}


_MANY = 10_000
"""Rows from which on it is worth to look at resamples in threads."""


def _areas(orders: Sequence["_Order"], times: NDArray[Any]) -> list[float]:
    return [order.area(times) for order in orders]


class _Order:
    """Where the good rows stand among the bad ones, so that a resample sorts nothing."""

    def __init__(self, score: Floats, good: NDArray[np.bool_]) -> None:
        self._good, self._bad = (
            rows[np.argsort(score[rows], kind="stable")] for rows in map(np.flatnonzero, (good, ~good))
        )
        self._below, self._up_to = (
            np.searchsorted(score[self._bad], score[self._good], side) for side in ("left", "right")
        )

    def area(self, times: NDArray[Any]) -> float:
        """Return the chance that a good row scores above a bad one, if each counts as often as it was drawn."""
        # `take` is twice as fast as brackets
        good, bad = times.take(self._good).astype(np.int64), np.zeros(len(self._bad) + 1, dtype=np.int64)
        np.cumsum(times.take(self._bad), out=bad[1:])
        n_pairs = int(good.sum()) * int(bad[-1])
        n_twice = int(np.dot(good, bad.take(self._below) + bad.take(self._up_to)))
        return n_twice / 2 / n_pairs if n_pairs else math.nan


def kendall_tau(first: Floats, second: Floats) -> float:
    """Return how far two qualities put the same rows in one order: tau-b, -1 to 1; NaN where one has no order or a NaN.

    ``scipy.stats`` has it too, and takes longer to load than this takes for a hundred thousand rows.

    Args:
        first: One per row.
        second: Of the same rows.

    Source:
        Kendall 1945, The Treatment of Ties in Ranking Problems; inversions by merge sort as in Knight 1966.

    Example:
        >>> kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
        0.33333333333333337
    """
    if not len(first) or np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    sides = [np.unique(side, return_inverse=True)[1] for side in (first, second)]
    width = int(sides[1].max()) + 1
    both = np.sort(sides[0] * width + sides[1])  # by the first, and where that is tied by the second
    n_pairs = len(both) * (len(both) - 1) // 2
    ties = [_n_pairs(np.bincount(side)) for side in sides]
    if n_pairs in ties:
        return math.nan
    edges = np.flatnonzero(np.concatenate([[True], both[1:] != both[:-1], [True]]))
    turned = 0 if np.array_equal(sides[0], sides[1]) else _inversions(both % width)
    agreeing = n_pairs - sum(ties) + _n_pairs(np.diff(edges)) - 2 * turned
    tau = agreeing / math.sqrt(n_pairs - ties[0]) / math.sqrt(n_pairs - ties[1])
    return min(1.0, max(-1.0, tau))


def _n_pairs(counts: NDArray[np.int64]) -> int:
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: NDArray[np.int64]) -> int:
    """Return how many pairs of whole numbers from 0 on stand in falling order."""
    width = 32
    n = width << max(0, math.ceil(len(values) / width) - 1).bit_length()
    runs: NDArray[np.int64] = np.full(n, values.max() + 1, dtype=np.int64)  # what is filled up stands behind all others
    runs[: len(values)] = values
    runs = runs.reshape(-1, width)
    total = sum(int((runs[:, :-k] > runs[:, k:]).sum()) for k in range(1, width))
    runs = np.sort(runs, axis=1)
    while len(runs) > 1:
        runs = runs.reshape(-1, 2 * width)
        order = np.argsort(runs, axis=1, kind="stable")  # two sorted halves, which it merges
        places = np.flatnonzero(order.ravel() >= width) % (2 * width)
        # of the right half the i-th comes to place i plus as many of the left half as are not above it
        total += len(runs) * (width * width + width * (width - 1) // 2) - int(places.sum())
        runs = np.take_along_axis(runs, order, axis=1)
        width *= 2
    return total


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
    rows = _Rows.of(scores, labels, groups, level=level)
    values, levels = np.unique(rows.score, return_inverse=True)
    cells = levels + len(values) * ~rows.good

    def counts(times: NDArray[Any] | None = None) -> tuple[Floats, Floats]:
        table = np.bincount(cells, times, minlength=2 * len(values)).astype(float)
        return table[: len(values)], table[len(values) :]

    drawn = [statistic(*counts(times)) for times in rows.draws(seed=seed, n_boot=n_boot)]
    return rows.interval(statistic(*counts()) if rows.n else math.nan, drawn)


@dataclass(frozen=True)
class _Rows:
    """Rows with a score and a label, and what is drawn of them."""

    score: Floats
    good: NDArray[np.bool_]
    group: NDArray[np.int64] | None
    known: NDArray[np.bool_]
    """Of all rows that were given, whether it is one of these."""
    level: float

    @classmethod
    def of(cls, scores: Any, labels: Any, groups: Sequence[Any] | pl.Series | None, *, level: float) -> "_Rows":
        check_level(level)
        score, label = floats(scores), floats(labels)
        if len(score) != len(label):
            raise ParameterError(f"there are {len(score)} scores and {len(label)} labels; they must be aligned.")
        known = np.isfinite(score) & np.isfinite(label)
        group = None if groups is None or not known.any() else numbered(groups, known)
        return cls(score[known], label[known] > 0.5, group, known, level)

    @property
    def n(self) -> int:
        return len(self.score)

    @property
    def n_groups(self) -> int:
        return self.n if self.group is None else int(self.group.max()) + 1

    def draws(self, *, seed: int, n_boot: int) -> Iterator[NDArray[Any]]:
        """Yield how often each row is in a resample of the groups."""
        rng, n = np.random.default_rng(seed), self.n_groups
        for _ in range(n_boot if n > 1 else 0):
            times = np.bincount(rng.integers(0, n, n), minlength=n)
            times = times.astype(np.min_scalar_type(int(times.max())))  # what is looked up all over stays in the cache
            yield times if self.group is None else times.take(self.group)

    def interval(self, estimate: float, drawn: Sequence[float]) -> Interval:
        n, n_missing = self.n, len(self.known) - self.n
        if n == 0:
            return Interval(math.nan, math.nan, math.nan, 0, n_missing, self.level)
        finite = np.array([one for one in drawn if math.isfinite(one)])
        if math.isnan(estimate) or len(finite) == 0:
            return Interval(estimate, math.nan, math.nan, n, n_missing, self.level, self.n_groups)
        low, high = np.quantile(finite, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Interval(estimate, float(low), float(high), n, n_missing, self.level, self.n_groups)
