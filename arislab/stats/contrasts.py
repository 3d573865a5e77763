"""Arms against each other on the same candidates, corrected for the number of contrasts."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from arislab.errors import ParameterError, closest
from arislab.stats.bootstrap import NORMAL, Floats, check_level, floats, paired_difference
from arislab.system.equals import places
from arislab.system.kinds import takes_any_frame


def holm(pvalues: Iterable[float | None] | ArrayLike | pl.Series) -> Floats:
    """Return the p values adjusted for their number, in the order given; NaN (no test) stays NaN and does not count.

    Source:
        Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005]).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    p = floats(pvalues)
    adjusted = np.full(len(p), np.nan)
    order = np.flatnonzero(np.isfinite(p))
    order = order[np.argsort(p[order], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    # a larger p never gets the smaller adjusted one
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


@takes_any_frame
def compare(
    scores: pl.DataFrame,
    *,
    baseline: str | None = None,
    contrasts: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 10_000,
    by: str = "quality",
    groups: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return one row per contrast of two arms, paired by candidate and corrected for the number of contrasts.

    Args:
        scores: Columns `arm` (String), `candidate_id` (String), and `by` (Float64, null = unscored). Several rows of
            one arm and candidate are averaged first: the candidate is the unit.
        baseline: The arm that every other arm is compared with, in the order in which arms appear.
        contrasts: Pairs (arm, baseline) instead, for what was decided beforehand; give one of the two.
        level: Of each interval, not corrected for the number of contrasts; p_holm is.
        seed: Of the bootstrap.
        n_boot: Resamples.
        by: Column that is compared.
        groups: candidate_id and group_id of candidates who are not independent: whole groups are resampled. A candidate
            who is not named stands alone. Null: all do.

    Returns:
        arm, baseline, difference, low, high, p, p_holm, n (candidates scored in both arms), n_dropped (candidates
        with a row in at least one of the two arms, but not scored in both), wins, ties, losses, n_groups (of those
        scored in both).

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
        scores.with_columns(pl.col(by).cast(pl.Float64).fill_nan(None))
        .group_by("candidate_id", "arm", maintain_order=True)
        .agg(pl.col(by).mean())
        .sort("candidate_id")  # the resamples depend on the order of rows; the result must not
    )
    rows = []
    for arm, other in contrasts:
        sides = [table.filter(pl.col("arm") == name).select("candidate_id", by) for name in (arm, other)]
        both = sides[0].join(sides[1], on="candidate_id", how="full", coalesce=True, suffix="_b").sort("candidate_id")
        of = None if groups is None else group_of(both["candidate_id"], groups)
        result = paired_difference(both[by], both[f"{by}_b"], groups=of, level=level, seed=seed, n_boot=n_boot)
        rows.append((arm, other, result))
    adjusted = holm([result.p for _, _, result in rows])
    return pl.DataFrame(
        [
            (a, b, d.mean, d.low, d.high, d.p, float(p_holm), d.n, d.n_dropped, d.wins, d.ties, d.losses, d.n_groups)
            for (a, b, d), p_holm in zip(rows, adjusted, strict=True)
        ],
        schema={
            "arm": pl.String,
            "baseline": pl.String,
            **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), pl.Float64),
            **dict.fromkeys(("n", "n_dropped", "wins", "ties", "losses", "n_groups"), pl.Int64),
        },
        orient="row",
    )  # one row per contrast


@takes_any_frame
def group_of(candidates: pl.Series, groups: pl.DataFrame) -> pl.Series:
    """Return the group of each candidate; one who is in none of ``groups`` stands alone.

    Args:
        candidates: candidate_id.
        groups: candidate_id and group_id, such as rows of ``candidates``.
    """
    at = places(candidates, groups["candidate_id"])
    if not (at >= 0).any():
        return candidates.alias("group_id")
    group = groups["group_id"].gather(np.where(at < 0, 0, at))
    return group.zip_with(pl.Series(at >= 0) & group.is_not_null(), candidates.alias("group_id"))


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
    check_level(level)
    if n < 1 or sd < 0 or not 0 < power < 1 or n_contrasts < 1:
        raise ParameterError(
            f"need n >= 1, sd >= 0, 0 < power < 1, n_contrasts >= 1; got {n=}, {sd=}, {power=}, {n_contrasts=}."
        )
    alpha = (1 - level) / n_contrasts
    return (NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(power)) * sd / math.sqrt(n)


@takes_any_frame
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
    check_level(level)
    z = NORMAL.inv_cdf((1 + level) / 2)
    sd = (pl.col("high") - pl.col("low")) / (2 * z)  # of the mean of the pairs
    mde = minimal_detectable_effect(1.0, 1, level=level, power=power)
    clear = pl.col("p_holm") < 1 - level
    verdict = (
        pl.when(clear & (pl.col("difference") > 0))
        .then(pl.lit("improves"))
        .when(clear & (pl.col("difference") < 0))
        .then(pl.lit("worse"))
        .otherwise(pl.lit("not shown"))
    )
    return comparison.with_columns(mde=(mde * sd).fill_nan(None), verdict=verdict)
