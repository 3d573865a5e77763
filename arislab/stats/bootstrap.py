"""Means and paired differences with their BCa bootstrap intervals, and the p that belongs to an interval."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from arislab.errors import ParameterError
from arislab.system import equals
from arislab.system.kinds import takes_any_frame

Floats = NDArray[np.float64]

NORMAL = NormalDist()
_MANY_ROWS = 20_000  # from here on the bootstrap distribution of a mean is normal in all digits that anyone prints
_EQUAL = 1e-12  # 0.7 - 0.2 and 0.6 - 0.1 are the same difference
_CELLS = 4_000_000  # random indices held at once: 32 MB


@dataclass(frozen=True, repr=False)
class Interval:
    """An estimate with its confidence interval."""

    mean: float
    """The estimate on the rows at hand (a mean, an AUC, a precision); NaN without rows."""
    low: float
    """Lower end; NaN below two rows."""
    high: float
    """Upper end; NaN below two rows."""
    n: int
    """Rows used."""
    n_missing: int = 0
    """Rows left out because their value is null or NaN."""
    level: float = 0.95
    """Confidence level, in (0, 1)."""
    n_groups: int = 0
    """Groups of the rows used; as many as rows where each stands alone; 0: nobody counted."""

    def __repr__(self) -> str:
        missing = f" ({self.n_missing:,} missing)" if self.n_missing else ""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n:,}{_of(self)}{missing}"


@dataclass(frozen=True, repr=False)
class Difference:
    """The mean of paired differences with interval and two-sided p."""

    mean: float
    """Mean of a - b over the pairs; NaN without pairs."""
    low: float
    """Lower end; NaN below two pairs."""
    high: float
    """Upper end; NaN below two pairs."""
    p: float
    """Two-sided; the level at which the interval would just touch 0, never below 2**(1 - n) nor 1/(n_boot + 1)."""
    n: int
    """Pairs used: rows with both values."""
    wins: int
    """Pairs with a > b."""
    ties: int
    """Pairs with a = b."""
    losses: int
    """Pairs with a < b."""
    n_dropped: int = 0
    """Rows left out because one side is null or NaN."""
    level: float = 0.95
    """Confidence level, in (0, 1)."""
    n_groups: int = 0
    """Groups of the pairs used; as many as pairs where each stands alone; 0: nobody counted."""

    def __repr__(self) -> str:
        dropped = f" ({self.n_dropped:,} dropped)" if self.n_dropped else ""
        return (
            f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] n={self.n:,}{_of(self)}{dropped} p={_p_text(self.p)}"
        )


def _of(estimate: Interval | Difference) -> str:
    return f" of {estimate.n_groups:,} groups" if 0 < estimate.n_groups < estimate.n else ""


@takes_any_frame
def mean_interval(
    values: Iterable[float | None] | ArrayLike | pl.Series,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
    groups: Sequence[Any] | pl.Series | None = None,
) -> Interval:
    """Return the mean of `values` with its BCa bootstrap interval.

    A sample without spread has an interval of width 0, whatever its size: 20 of 20 passed does not prove 100 %.

    Args:
        values: Any numbers; null and NaN are left out and counted.
        level: Confidence level, in (0, 1).
        seed: Of the resamples.
        n_boot: Resamples; above 20,000 rows their means are drawn from the normal distribution instead.
        groups: Group of each value, where values of one group are alike (sentences of one text): whole groups are
            resampled, and the interval is as wide as that many groups make it. Null: each value stands alone.

    Raises:
        ParameterError: A level out of range.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 14.3; tails expanded for small samples
        after Hesterberg 2015, What Teachers Should Know About the Bootstrap; Student's t after Wallace 1959; groups
        after Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (whole groups, drawn with
        replacement).

    Example:
        >>> mean_interval([0.2, 0.4, None, 0.9, 0.7, 0.8, 0.5, 0.6, 0.7])
        0.600 [0.375, 0.762] n=8 (1 missing)
    """
    check_level(level)
    given = floats(values)
    is_here = np.isfinite(given)
    present = given[is_here]
    group = numbered(groups, is_here)
    low, high, _ = _bca(present, group, level=level, seed=seed, n_boot=n_boot)
    mean = float(present.mean()) if len(present) else math.nan
    return Interval(mean, low, high, len(present), len(given) - len(present), level, _n_groups(group))


@takes_any_frame
def paired_difference(
    a: Iterable[float | None] | ArrayLike | pl.Series,
    b: Iterable[float | None] | ArrayLike | pl.Series,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
    groups: Sequence[Any] | pl.Series | None = None,
) -> Difference:
    """Return the mean of a - b over aligned rows, with BCa bootstrap interval and the p that belongs to it.

    p inverts the interval: it is below 1 - level when the interval excludes 0 (up to ties among the resamples).

    Args:
        a: Any numbers, one per pair.
        b: The other side of each pair; a pair in which one is null or NaN is left out and counted.
        level: As in ``mean_interval``.
        seed: As in ``mean_interval``.
        n_boot: As in ``mean_interval``.
        groups: Group of each pair, as in ``mean_interval``.

    Raises:
        ParameterError: `a` and `b` have different lengths, or a level out of range.

    Source:
        Efron and Tibshirani 1993, sections 14.3 (interval) and 15.4 (p by inverting it); pairing over test rows as in
        Dror et al. 2018, The Hitchhiker's Guide to Testing Statistical Significance in NLP.

    Example:
        >>> paired_difference([0.9, 0.8, 0.7, 0.9, 0.6, None], [0.5, 0.6, 0.7, 0.4, 0.7, 0.3])
        +0.200 [-0.080, +0.480] n=5 (1 dropped) p=0.15
    """
    check_level(level)
    first, second = floats(a), floats(b)
    if len(first) != len(second):
        raise ParameterError(f"a has {len(first)} rows and b has {len(second)}; pairs need rows that are aligned.")
    given = first - second
    is_here = np.isfinite(given)
    present = given[is_here]
    group = numbered(groups, is_here)
    low, high, p = _bca(present, group, level=level, seed=seed, n_boot=n_boot)
    return Difference(
        mean=float(present.mean()) if len(present) else math.nan,
        low=low,
        high=high,
        p=p,
        n=len(present),
        wins=int((present >= _EQUAL).sum()),
        ties=int((abs(present) < _EQUAL).sum()),
        losses=int((present <= -_EQUAL).sum()),
        n_dropped=len(given) - len(present),
        level=level,
        n_groups=_n_groups(group),
    )


def numbered(groups: Sequence[Any] | pl.Series | None, is_here: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the group of each value that is there, numbered in the order in which they come."""
    if groups is None:
        return np.arange(int(is_here.sum()))
    if len(groups) != len(is_here):
        raise ParameterError(f"groups has {len(groups)} rows and the values have {len(is_here)}; give one a value.")
    if isinstance(groups, pl.Series):
        return equals.numbered(equals.first_of_equals(groups.filter(pl.Series(is_here)).to_frame()))[0]
    numbers: dict[Any, int] = {}
    here = itertools.compress(groups, is_here.tolist())
    return np.array([numbers.setdefault(group, len(numbers)) for group in here], dtype=np.int64)


def _n_groups(group: NDArray[np.int64]) -> int:
    return int(group.max()) + 1 if len(group) else 0


def _bca(
    values: Floats, group: NDArray[np.int64], *, level: float, seed: int, n_boot: int
) -> tuple[float, float, float]:
    """Return low, high and the two-sided p against 0 of the mean."""
    n = _n_groups(group)
    sums = np.asarray(np.bincount(group, weights=values, minlength=n), dtype=np.float64)
    sizes = np.bincount(group, minlength=n).astype(np.float64)
    if n < 2:
        return math.nan, math.nan, math.nan if n == 0 else 1.0
    mean = float(values.mean())
    # no sign test of n pairs says less than 2 ** (1 - n), and no resample outside says "fewer than one in n_boot + 1"
    floor = max(2.0 ** (1 - n), 1 / (n_boot + 1))
    deviations = sums - mean * sizes
    # groups that have the same mean have no spread either; 0 +- 0 is no evidence; c +- 0 is as much as n equal signs
    if min(np.ptp(values), np.ptp(deviations)) < _EQUAL:
        return mean, mean, 1.0 if abs(mean) < _EQUAL else floor
    means = np.sort(_resampled_means(sums, sizes, n_boot=n_boot, seed=seed))
    # bias z0 and acceleration a correct the percentiles for a skewed sample
    z0 = _z(_share_below(means, mean), n_boot)
    a = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))

    def percentile(tail: float) -> float:
        z = z0 + _expanded(NORMAL.inv_cdf(tail), n)
        return float(np.quantile(means, NORMAL.cdf(z0 + z / (1 - a * z)) if a * z < 1 else float(z > 0)))

    w = _z(_share_below(means, 0.0), n_boot) - z0
    tail = NORMAL.cdf(_contracted(w / (1 + a * w) - z0 if a * w > -1 else w, n))
    p = min(1.0, max(2 * min(tail, 1 - tail), floor))
    return percentile((1 - level) / 2), percentile((1 + level) / 2), p


def _expanded(z: float, n: int) -> float:
    """Return the quantile of Student's t, times sqrt(n / (n - 1)).

    A sample of n has less spread than what it stands for.
    """
    df = n - 1
    t = math.sqrt(df * math.expm1((z * (8 * df + 3) / (8 * df + 1)) ** 2 / df))
    return math.copysign(t * math.sqrt(n / df), z)


def _contracted(x: float, n: int) -> float:
    """Undo `_expanded`."""
    df = n - 1
    z = math.sqrt(df * math.log1p(x * x / n)) * (8 * df + 1) / (8 * df + 3)
    return math.copysign(z, x)


def _resampled_means(sums: Floats, sizes: Floats, *, n_boot: int, seed: int) -> Floats:
    """Means of the values of as many groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n, mean = len(sums), sums.sum() / sizes.sum()
    if n > _MANY_ROWS:
        spread = float(np.sqrt(((sums - mean * sizes) ** 2).sum())) / float(sizes.sum())
        return rng.normal(mean, spread, n_boot)
    step = max(1, _CELLS // n)
    parts = [min(step, n_boot - start) for start in range(0, n_boot, step)]
    drawn = (rng.integers(0, n, (part, n)) for part in parts)
    if (sizes == 1).all():
        return np.concatenate([sums[indices].mean(axis=1) for indices in drawn])
    return np.concatenate([sums[indices].sum(axis=1) / sizes[indices].sum(axis=1) for indices in drawn])


def _share_below(ordered: Floats, x: float) -> float:
    """Return the share of `ordered` below x, equal ones counted half."""
    tolerance = 1e-12 * max(1.0, abs(x))  # sums of the same numbers in another order
    return float(np.searchsorted(ordered, x - tolerance) + np.searchsorted(ordered, x + tolerance)) / (2 * len(ordered))


def _z(share: float, n_boot: int) -> float:
    half = 0.5 / (n_boot + 1)  # of a share of 0 or 1 the normal quantile is infinite
    return NORMAL.inv_cdf(min(max(share, half), 1 - half))


def floats(values: Any) -> Floats:
    """Return a float array with NaN for null."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype == np.float64:
        return values  # as it is; nobody writes to it
    if not isinstance(values, pl.Series):
        if not isinstance(values, np.ndarray):
            values = list(values)
        values = pl.Series(values=values, strict=False)
    return values.cast(pl.Float64).fill_null(math.nan).to_numpy()  # type: ignore[no-any-return]


def check_level(level: float) -> None:
    """Refuse a level that is none."""
    if not 0 < level < 1:
        raise ParameterError(f"level must be in (0, 1), got {level!r}; 0.95 is a 95 % interval.")


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else f"{p:.0e}"
