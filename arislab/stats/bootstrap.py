"""Intervals and tests: bootstrap of means and paired differences, Holm, AUC, precision at the top.

One resampling unit everywhere: a row (of `compare`: a candidate). Rows of one group of near-duplicates are not
independent; drop near-duplicates first. Null and NaN are never 0: they are left out and counted. Every function is
deterministic in its arguments and `seed`.

What this module does not know: where scores come from, and whether the rows were looked at before. The maximum of a
search is biased upward whatever its interval says; score the winner on rows that the search never saw.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from arislab.errors import ParameterError, closest

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
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

    def __repr__(self) -> str:
        missing = f" ({self.n_missing:,} missing)" if self.n_missing else ""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n:,}{missing}"


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

    def __repr__(self) -> str:
        dropped = f" ({self.n_dropped:,} dropped)" if self.n_dropped else ""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] n={self.n:,}{dropped} p={_p_text(self.p)}"


def mean_interval(
    values: Iterable[float | None] | ArrayLike | pl.Series,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
) -> Interval:
    """Return the mean of `values` with its BCa bootstrap interval.

    A sample without spread has an interval of width 0, whatever its size: 20 of 20 passed does not prove 100 %.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 14.3; tails expanded for small samples
        after Hesterberg 2015, What Teachers Should Know About the Bootstrap; Student's t after Wallace 1959.

    Example:
        >>> mean_interval([0.2, 0.4, None, 0.9, 0.7, 0.8, 0.5, 0.6, 0.7])
        0.600 [0.375, 0.762] n=8 (1 missing)
    """
    _check_level(level)
    given = _floats(values)
    present = given[np.isfinite(given)]
    low, high, _ = _bca(present, level=level, seed=seed, n_boot=n_boot)
    mean = float(present.mean()) if len(present) else math.nan
    return Interval(mean, low, high, len(present), len(given) - len(present), level)


def paired_difference(
    a: Iterable[float | None] | ArrayLike | pl.Series,
    b: Iterable[float | None] | ArrayLike | pl.Series,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
) -> Difference:
    """Return the mean of a - b over aligned rows, with BCa bootstrap interval and the p that belongs to it.

    p inverts the interval: it is below 1 - level when the interval excludes 0 (up to ties among the resamples).

    Raises:
        ParameterError: `a` and `b` have different lengths.

    Source:
        Efron and Tibshirani 1993, sections 14.3 (interval) and 15.4 (p by inverting it); pairing over test rows as in
        Dror et al. 2018, The Hitchhiker's Guide to Testing Statistical Significance in NLP.

    Example:
        >>> paired_difference([0.9, 0.8, 0.7, 0.9, 0.6, None], [0.5, 0.6, 0.7, 0.4, 0.7, 0.3])
        +0.200 [-0.080, +0.480] n=5 (1 dropped) p=0.15
    """
    _check_level(level)
    first, second = _floats(a), _floats(b)
    if len(first) != len(second):
        raise ParameterError(f"a has {len(first)} rows and b has {len(second)}; pairs need rows that are aligned.")
    given = first - second
    present = given[np.isfinite(given)]
    low, high, p = _bca(present, level=level, seed=seed, n_boot=n_boot)
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
    )


def holm(pvalues: Iterable[float | None] | ArrayLike | pl.Series) -> Floats:
    """Return the p values adjusted for their number, in the order given; NaN (no test) stays NaN and does not count.

    Source:
        Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005]).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    p = _floats(pvalues)
    adjusted = np.full(len(p), np.nan)
    order = np.flatnonzero(np.isfinite(p))
    order = order[np.argsort(p[order], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def compare(
    scores: pl.DataFrame,
    *,
    baseline: str | None = None,
    contrasts: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
) -> pl.DataFrame:
    """Return one row per contrast of two arms, paired by candidate and corrected for the number of contrasts.

    Args:
        scores: Columns `arm` (String), `candidate_id` (String), `quality` (Float64, null = unscored). Several rows of
            one arm and candidate are averaged first: the candidate is the unit.
        baseline: The arm that every other arm is compared with, in the order in which arms appear.
        contrasts: Pairs (arm, baseline) instead, for what was decided beforehand; give one of the two.
        level: Of each interval, not corrected for the number of contrasts; p_holm is.
        seed: Of the bootstrap.
        n_boot: Resamples.

    Returns:
        arm, baseline, difference, low, high, p, p_holm, n (candidates scored in both arms), n_dropped (candidates
        with a row in at least one of the two arms, but not scored in both), wins, ties, losses.

    Raises:
        ParameterError: An arm that `scores` does not have, or not exactly one of `baseline` and `contrasts`.
    """
    if (baseline is None) == (contrasts is None):
        raise ParameterError("compare needs exactly one of baseline= (one arm) and contrasts= (pairs of arms).")
    arms = scores["arm"].unique(maintain_order=True).to_list()
    if contrasts is None:
        contrasts = [(arm, str(baseline)) for arm in arms if arm != baseline]
    for arm in [baseline, *(arm for pair in contrasts for arm in pair)]:
        if arm is not None and arm not in arms:
            raise ParameterError(f"there is no arm {arm!r} in the scores; {closest(arm, arms)}.")
    table = (
        scores.with_columns(pl.col("quality").cast(pl.Float64).fill_nan(None))
        .group_by("candidate_id", "arm", maintain_order=True)
        .agg(pl.col("quality").mean())
        .sort("candidate_id")  # the resamples depend on the order of rows; the result must not
    )
    rows = []
    for arm, other in contrasts:
        sides = [table.filter(pl.col("arm") == name).select("candidate_id", "quality") for name in (arm, other)]
        both = sides[0].join(sides[1], on="candidate_id", how="full", coalesce=True, suffix="_b").sort("candidate_id")
        result = paired_difference(both["quality"], both["quality_b"], level=level, seed=seed, n_boot=n_boot)
        rows.append((arm, other, result))
    adjusted = holm([result.p for _, _, result in rows])
    return pl.DataFrame(
        [
            (a, b, d.mean, d.low, d.high, d.p, float(p_holm), d.n, d.n_dropped, d.wins, d.ties, d.losses)
            for (a, b, d), p_holm in zip(rows, adjusted, strict=True)
        ],
        schema={
            "arm": pl.String,
            "baseline": pl.String,
            **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), pl.Float64),
            **dict.fromkeys(("n", "n_dropped", "wins", "ties", "losses"), pl.Int64),
        },
        orient="row",
    )  # one row per contrast


def auc(
    scores: Iterable[float | None] | ArrayLike | pl.Series,
    labels: Iterable[bool | None] | ArrayLike | pl.Series,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2_000,
) -> Interval:
    """Return the chance that a good row scores above a bad one (ties count half), with its bootstrap interval.

    NaN when all labels are equal. Rows without score or label are left out and counted.

    Source:
        Hanley and McNeil 1982, The Meaning and Use of the Area under a ROC Curve; percentile bootstrap over rows.

    Example:
        >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]).mean
        0.875
    """

    def area(good: Floats, bad: Floats) -> float:  # counts by level of the score, lowest first
        n_pairs = good.sum() * bad.sum()
        return float((good * (np.cumsum(bad) - bad / 2)).sum() / n_pairs) if n_pairs else math.nan

    return _ranking(area, scores, labels, level=level, seed=seed, n_boot=n_boot)


def precision_at(
    scores: Iterable[float | None] | ArrayLike | pl.Series,
    labels: Iterable[bool | None] | ArrayLike | pl.Series,
    fraction: float = 0.2,
    *,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2_000,
) -> Interval:
    """Return the share of good rows among the top `fraction` by score, with its percentile bootstrap interval.

    Rows tied at the cut count with the share of them that fits, which is what a random order would keep on average.

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

    return _ranking(precision, scores, labels, level=level, seed=seed, n_boot=n_boot)


def minimal_detectable_effect(
    sd: float, n: int, *, level: float = 0.95, power: float = 0.8, n_contrasts: int = 1
) -> float:
    """Return the smallest true difference that n pairs show with the stated power.

    (z(1 - alpha / 2) + z(power)) * sd / sqrt(n), with alpha = (1 - level) / n_contrasts.

    Args:
        sd: Standard deviation of the paired differences, in units of quality.
        n: Pairs.
        level: Confidence level of the two-sided test.
        power: Chance to see an effect of that size, in (0, 1).
        n_contrasts: Comparisons made, corrected after Bonferroni.

    Source:
        Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, chapter 2.

    Example:
        >>> round(minimal_detectable_effect(0.5, 200), 3)
        0.099
    """
    _check_level(level)
    if n < 1 or sd < 0 or not 0 < power < 1 or n_contrasts < 1:
        raise ParameterError(
            f"need n >= 1, sd >= 0, 0 < power < 1, n_contrasts >= 1; got {n=}, {sd=}, {power=}, {n_contrasts=}."
        )
    alpha = (1 - level) / n_contrasts
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)) * sd / math.sqrt(n)


def verdicts(comparison: pl.DataFrame, *, level: float = 0.95, power: float = 0.8) -> pl.DataFrame:
    """Return the comparison with what may be said about each contrast.

    Args:
        comparison: From `compare`, made with the same `level`.
        level: Confidence over all contrasts together (Holm).
        power: Of the minimal detectable effect.

    Returns:
        The columns of `comparison` and mde (the smallest true difference that these rows show with that power, from the
        width of the interval; null below two pairs) and verdict: improves or worse (p_holm below 1 - level), else not
        shown. "Not shown" says nothing about differences smaller than mde.

    Example:
        >>> scores = pl.DataFrame(
        ...     {
        ...         "arm": ["a"] * 9 + ["b"] * 9,
        ...         "candidate_id": [*"123456789"] * 2,
        ...         "quality": [0.9, 0.8, 0.7] * 3 + [0.2, 0.3, 0.4] * 3,
        ...     }
        ... )
        >>> verdicts(compare(scores, baseline="b"))["verdict"].to_list()
        ['improves']
    """
    _check_level(level)
    z = _NORMAL.inv_cdf((1 + level) / 2)
    sd = (pl.col("high") - pl.col("low")) / (2 * z)  # of the mean of the pairs
    mde = minimal_detectable_effect(1.0, 1, level=level, power=power)
    clear = pl.col("p_holm") < 1 - level
    said = (
        pl.when(clear & (pl.col("difference") > 0))
        .then(pl.lit("improves"))
        .when(clear & (pl.col("difference") < 0))
        .then(pl.lit("worse"))
        .otherwise(pl.lit("not shown"))
    )
    return comparison.with_columns(mde=(mde * sd).fill_nan(None), verdict=said)


def _bca(values: Floats, *, level: float, seed: int, n_boot: int) -> tuple[float, float, float]:
    """Return low, high and the two-sided p against 0 of the mean."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan, math.nan if n == 0 else 1.0
    mean = float(values.mean())
    floor = max(2.0 ** (1 - n), 1 / (n_boot + 1))
    if np.ptp(values) < _EQUAL:  # 0 +- 0 is no evidence; c +- 0 is as much as n equal signs
        return mean, mean, 1.0 if abs(mean) < _EQUAL else floor
    means = np.sort(_resampled_means(values, n_boot=n_boot, seed=seed))
    # bias z0 and acceleration a correct the percentiles for a skewed sample
    z0 = _z(_share_below(means, mean), n_boot)
    deviations = values - mean
    a = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))

    def percentile(tail: float) -> float:
        z = z0 + _expanded(_NORMAL.inv_cdf(tail), n)
        return float(np.quantile(means, _NORMAL.cdf(z0 + z / (1 - a * z)) if a * z < 1 else float(z > 0)))

    w = _z(_share_below(means, 0.0), n_boot) - z0
    tail = _NORMAL.cdf(_contracted(w / (1 + a * w) - z0 if a * w > -1 else w, n))
    p = min(1.0, max(2 * min(tail, 1 - tail), floor))
    return percentile((1 - level) / 2), percentile((1 + level) / 2), p


def _expanded(z: float, n: int) -> float:
    """Return the quantile of Student's t, times sqrt(n / (n - 1)).

    N values have less spread than what they stand for.
    """
    df = n - 1
    t = math.sqrt(df * math.expm1((z * (8 * df + 3) / (8 * df + 1)) ** 2 / df))
    return math.copysign(t * math.sqrt(n / df), z)


def _contracted(x: float, n: int) -> float:
    """Undo `_expanded`."""
    df = n - 1
    z = math.sqrt(df * math.log1p(x * x / n)) * (8 * df + 1) / (8 * df + 3)
    return math.copysign(z, x)


def _resampled_means(values: Floats, *, n_boot: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    n = len(values)
    if n > _MANY_ROWS:
        return rng.normal(values.mean(), values.std() / math.sqrt(n), n_boot)
    step = max(1, _CELLS // n)
    sizes = [min(step, n_boot - start) for start in range(0, n_boot, step)]
    return np.concatenate([values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def _share_below(ordered: Floats, x: float) -> float:
    """Return the share of `ordered` below x, equal ones counted half."""
    tolerance = 1e-12 * max(1.0, abs(x))  # sums of the same numbers in another order
    return float(np.searchsorted(ordered, x - tolerance) + np.searchsorted(ordered, x + tolerance)) / (2 * len(ordered))


def _z(share: float, n_boot: int) -> float:
    half = 0.5 / (n_boot + 1)
    return _NORMAL.inv_cdf(min(max(share, half), 1 - half))


def _ranking(
    statistic: Callable[[Floats, Floats], float], scores: Any, labels: Any, *, level: float, seed: int, n_boot: int
) -> Interval:
    """Bootstrap a statistic of (good, bad) counts per distinct score, lowest score first."""
    _check_level(level)
    score, label = _floats(scores), _floats(labels)
    if len(score) != len(label):
        raise ParameterError(f"there are {len(score)} scores and {len(label)} labels; they must be aligned.")
    known = np.isfinite(score) & np.isfinite(label)
    n, n_missing = int(known.sum()), int((~known).sum())
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, n_missing, level)
    values, levels = np.unique(score[known], return_inverse=True)
    good = label[known] > 0.5
    cells = levels + len(values) * ~good

    def counts(rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        table = np.bincount(rows, minlength=2 * len(values)).astype(float)
        return table[: len(values)], table[len(values) :]

    estimate = statistic(*counts(cells))
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(*counts(cells[rng.integers(0, n, n)])) for _ in range(n_boot if n > 1 else 0)])
    draws = draws[np.isfinite(draws)]
    if math.isnan(estimate) or len(draws) == 0:
        return Interval(estimate, math.nan, math.nan, n, n_missing, level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), n, n_missing, level)


def _floats(values: Any) -> Floats:
    """Return a float array with NaN for null."""
    if not isinstance(values, pl.Series):
        if not isinstance(values, np.ndarray):
            values = list(values)
        values = pl.Series(values=values, strict=False)
    return values.cast(pl.Float64).fill_null(math.nan).to_numpy()  # type: ignore[no-any-return]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ParameterError(f"level must be in (0, 1), got {level!r}; 0.95 is a 95 % interval.")


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else f"{p:.0e}"
