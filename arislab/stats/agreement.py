"""How far several people who judged the same things agree, beyond what chance alone would give.

Reads a frame of opinions: item, rater, value. One that stands alone on its item tells nothing and is left out; a
missing opinion is no value. Where nothing can be said (fewer than two raters, one value only) the estimate is null,
with why.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from arislab.errors import ParameterError, closest
from arislab.stats.bootstrap import Floats, check_level

SCALES = ("nominal", "ordinal", "interval")
"""How far two values are apart: equal or not; by their ranks; by their difference."""
_UNDEFINED = 0.1
"""Share of the resamples that may hold one value only: of more, the rest is no picture of what could have been."""


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of agreement with its bootstrap interval."""

    measure: str
    """krippendorff_alpha, gwet_ac1, cohen_kappa or raw_agreement."""
    estimate: float | None
    """At most 1; 0 or less is what chance alone gives (raw_agreement: 0..1, chance included). Null: see reason."""
    low: float | None
    """Lower end of the interval; null: see reason."""
    high: float | None
    """Upper end."""
    n: int
    """Items with two opinions or more."""
    n_raters: int
    """Who gave them."""
    reason: str | None = None
    """Why estimate or interval is null; null if neither is."""


@dataclass(frozen=True)
class _Items:
    """Items with two opinions or more; those with the same opinions stand together."""

    counts: Floats
    """How many items of each kind."""
    tables: Floats
    """Of each kind, values by values: how often one stands beside the other, 1 / (opinions - 1) for each such pair."""
    values: list[Any]
    n_raters: int

    @property
    def n(self) -> int:
        return int(self.counts.sum())


def coefficients(
    opinions: pl.DataFrame,
    *,
    measures: Sequence[str] = ("krippendorff_alpha", "gwet_ac1", "raw_agreement"),
    scale: str = "nominal",
    order: Sequence[Any] = (),
    rater: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2000,
) -> list[Coefficient]:
    """Return coefficients of agreement over all items that two raters or more judged.

    Args:
        opinions: item, rater, value: at most one row per item and rater; a null value is no opinion.
        measures: krippendorff_alpha; gwet_ac1 (does not collapse where nearly all values are one); raw_agreement (mean
            over the items of the share of pairs that agree); cohen_kappa, which is of two raters.
        scale: As in ``SCALES``; only krippendorff_alpha reads it.
        order: Values from lowest to highest, for the ordinal scale; empty: as they sort.
        rater: Only pairs with this one count: how far they agree with the others. Null: all pairs.
        level: Confidence level, in (0, 1).
        seed: Of the resamples.
        n_boot: Resamples of the items.

    Raises:
        ParameterError: An unknown measure or scale, a level out of range, or cohen_kappa of other than two raters.

    Source:
        Krippendorff 2011, Computing Krippendorff's Alpha-Reliability; Gwet 2008, Computing inter-rater reliability and
        its variance in the presence of high agreement; Cohen 1960. Percentile bootstrap over items, Efron and
        Tibshirani 1993, section 13.

    Example:
        >>> rows = [
        ...     ("a", "Ada", 1),
        ...     ("a", "Ben", 1),
        ...     ("b", "Ada", 2),
        ...     ("b", "Ben", 2),
        ...     ("c", "Ada", 1),
        ...     ("c", "Ben", 2),
        ... ]
        >>> opinions = pl.DataFrame(rows, schema=["item", "rater", "value"], orient="row")
        >>> [(one.measure, round(one.estimate, 3)) for one in coefficients(opinions)]
        [('krippendorff_alpha', 0.444), ('gwet_ac1', 0.333), ('raw_agreement', 0.667)]
    """
    check_level(level)
    for name, allowed in ((scale, SCALES), *((measure, tuple(_MEASURES)) for measure in measures)):
        if name not in allowed:
            raise ParameterError(f"there is no {name!r}; {closest(name, allowed)}.")
    given = opinions.drop_nulls("value")
    items = _items(given, order, rater)
    if "cohen_kappa" in measures and items.n_raters > 2:
        raise ParameterError(
            f"cohen_kappa is of two raters, and {items.n_raters} judged the same items; take them pair by pair."
        )
    directed = _items(given, order, rater, is_directed=True) if "cohen_kappa" in measures else items
    each = ((measure, directed if measure == "cohen_kappa" else items) for measure in measures)
    return [_coefficient(measure, of, scale, level, seed, n_boot) for measure, of in each]


def _items(opinions: pl.DataFrame, order: Sequence[Any], rater: str | None, *, is_directed: bool = False) -> _Items:
    """Gather the items with two opinions or more; opinions of an item stand in the order of its raters."""
    counted = opinions.filter(pl.col("rater").n_unique().over("item") > 1)
    if rater is not None:
        counted = counted.filter((pl.col("rater") == rater).any().over("item"))
    values = [value for value in (order or sorted(counted["value"].unique())) if value in set(counted["value"])]
    place = {value: number for number, value in enumerate(values)}
    if strange := sorted(set(counted["value"]) - set(values)):
        raise ParameterError(f"value {strange[0]!r} is not in order; it has {', '.join(map(str, order))}.")
    is_own = pl.lit(value=False) if rater is None else pl.col("rater") == rater
    sorted_by = ["item", "first", "rater"] if is_directed else ["item", "first", "place"]
    marked = counted.with_columns(
        place=pl.col("value").replace_strict(place, return_dtype=pl.Int64, default=None), first=~is_own
    ).sort(sorted_by)
    kinds = marked.group_by("item", maintain_order=True).agg("place").group_by("place", maintain_order=True).len()
    k = len(values)
    tables = np.zeros((kinds.height, k, k))
    for table, said in zip(tables, kinds["place"].to_list(), strict=True):
        _fill(table, said, is_directed=is_directed, is_own=rater is not None)
    counts = kinds["len"].to_numpy().astype(float)
    return _Items(counts, tables, values, counted["rater"].n_unique())


def _fill(table: Floats, said: list[int], *, is_directed: bool, is_own: bool) -> None:
    if is_directed:  # Cohen: who said which
        table[said[0], said[1]] += 1
        return
    firsts = range(1) if is_own else range(len(said))
    for one in firsts:
        for other in range(len(said)):
            if one != other:
                table[said[one], said[other]] += 1 / (len(said) - 1)
    if is_own:
        table += table.T.copy()


def _coefficient(measure: str, items: _Items, scale: str, level: float, seed: int, n_boot: int) -> Coefficient:
    if items.n == 0:
        return Coefficient(measure, None, None, None, 0, items.n_raters, "no item has two opinions")
    if len(items.values) < 2:
        why = f"all opinions on {items.n:,} items are {items.values[0]}: nothing sets agreement apart from chance"
        return Coefficient(measure, None, None, None, items.n, items.n_raters, why)
    of = _MEASURES[measure]
    estimate = float(of(items.counts[None, :], items, scale)[0])
    if math.isnan(estimate):
        why = "each rater gave one value only: nothing sets agreement apart from chance"
        return Coefficient(measure, None, None, None, items.n, items.n_raters, why)
    low, high, reason = None, None, None
    # as many items of each kind as if all items were drawn with replacement
    drawn = np.random.default_rng(seed).multinomial(items.n, items.counts / items.n, size=n_boot).astype(float)
    resampled = of(drawn, items, scale)
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < (1 - _UNDEFINED) * n_boot:
        reason = f"nearly all opinions on {items.n:,} items are the same: an interval needs more that differ"
    elif np.ptp(resampled) < 1e-12:
        reason = f"no spread among {items.n:,} items: an interval needs some on which people differ"
    else:
        low, high = (float(np.quantile(resampled, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return Coefficient(measure, estimate, low, high, items.n, items.n_raters, reason)


# ---- of weights (resamples by kinds of items) to one number per resample, NaN where there is none --------------------


def _alpha(weights: Floats, items: _Items, scale: str) -> Floats:
    k = len(items.values)
    pairs = (weights @ items.tables.reshape(len(items.counts), -1)).reshape(-1, k, k)
    said = pairs.sum(axis=2)
    apart = _apart(said, items.values, scale)
    observed = (pairs * apart).sum(axis=(1, 2))
    expected = (said[:, :, None] * said[:, None, :] * apart).sum(axis=(1, 2)) / (said.sum(axis=1) - 1)
    return _beyond(-observed, -expected, whole=0.0)


def _apart(said: Floats, values: list[Any], scale: str) -> Floats:
    """Squared distance of each two values."""
    if scale == "nominal":
        return (1 - np.eye(len(values)))[None, :, :]
    # by ranks: all that was said from the middle of one value to the middle of the other
    at = said.cumsum(axis=1) - said / 2 if scale == "ordinal" else np.asarray([values], dtype=float)
    squared: Floats = (at[:, :, None] - at[:, None, :]) ** 2
    return squared


def _ac1(weights: Floats, items: _Items, scale: str) -> Floats:
    sizes = items.tables.sum(axis=(1, 2))
    shares = (items.tables.sum(axis=1) + items.tables.sum(axis=2)) / (2 * sizes[:, None])
    share = weights @ shares / weights.sum(axis=1, keepdims=True)
    chance = (share * (1 - share)).sum(axis=1) / (len(items.values) - 1)
    return _beyond(_raw(weights, items, scale), chance)


def _kappa(weights: Floats, items: _Items, scale: str) -> Floats:
    pairs = np.tensordot(weights, items.tables, axes=1) / weights.sum(axis=1)[:, None, None]
    chance = (pairs.sum(axis=1) * pairs.sum(axis=2)).sum(axis=1)
    return _beyond(_raw(weights, items, scale), chance)


def _raw(weights: Floats, items: _Items, scale: str) -> Floats:
    agreed = np.trace(items.tables, axis1=1, axis2=2) / items.tables.sum(axis=(1, 2))
    mean: Floats = weights @ agreed / weights.sum(axis=1)
    return mean


def _beyond(agreed: Floats, chance: Floats, *, whole: float = 1.0) -> Floats:
    """Return the part of what chance leaves that is agreed on."""
    left = whole - chance
    is_left = np.abs(left) > 1e-12
    return np.where(is_left, (agreed - chance) / np.where(is_left, left, 1.0), np.nan)


_MEASURES: dict[str, Callable[[Floats, _Items, str], Floats]] = {
    "krippendorff_alpha": _alpha,
    "gwet_ac1": _ac1,
    "cohen_kappa": _kappa,
    "raw_agreement": _raw,
}
