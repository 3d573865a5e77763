"""Columns as codes of one byte, as ``explore.js`` counts them: numbers by bins, names by how many rows have them.

0.613 in bins of 1/50 -> 30        "tech", the second most frequent -> 1        null -> 255
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.curate.chosen import Condition
from arislab.review import layout

BINS, NAMES, NONE = 50, 11, 255
"""Bins of a column of numbers at most, names of a column of names (the rest are "other"), and the code of null."""


@dataclass(frozen=True)
class Binned:
    """One column as codes, and what each of them stands for."""

    name: str
    codes: NDArray[np.uint8]
    """One per row."""
    edges: tuple[float, ...] = ()
    """Of numbers: code i is from edge i to below edge i + 1; the first and the last bin hold what lies beyond."""
    names: tuple[str, ...] = ()
    """Of names: code i is the i-th, and the code after the last one every other name."""
    n_others: int = 0
    """How many other names there are."""
    is_open: bool = False
    """Whether the last bin of numbers holds some from its upper edge on."""

    @property
    def described(self) -> dict[str, Any]:
        """What the browser is told of it."""
        if self.edges:
            return {"name": self.name, "edges": list(self.edges), "open": self.is_open}
        other = [f"{self.n_others:,} others"] if self.n_others else []
        return {"name": self.name, "names": [*map(layout.seen, self.names), *other]}

    def conditions(self, brush: Sequence[int]) -> list[Condition]:
        """Return a brush as conditions: of numbers the first and the last code, of names all codes."""
        if not self.edges:
            return [self._named(sorted(set(brush)))]
        low, high = brush
        n, found = len(self.edges) - 1, []
        if low > 0 or high == n - 1:  # a brush over all bins still leaves out the rows without a value
            found.append(Condition(self.name, ">=", self.edges[low]))
        if high < n - 1:
            found.append(Condition(self.name, "<", self.edges[high + 1]))
        return found

    def _named(self, codes: list[int]) -> Condition:
        if len(self.names) in codes:  # with the others: all but those that are not brushed
            rest = tuple(name for code, name in enumerate(self.names) if code not in codes)
            return Condition(self.name, "not in", rest)
        if len(codes) == 1:
            return Condition(self.name, "=", self.names[codes[0]])
        return Condition(self.name, "in", tuple(self.names[code] for code in codes))


def numbers(values: pl.Series, *, edges: Sequence[float] | None = None) -> Binned:
    """Return a column of numbers as codes.

    Args:
        values: Numbers; null has no value.
        edges: Of the bins; default: fiftieths of 0..1 where all values lie there, else round steps up to the 99th
            percentile, and the last bin holds what lies above.
    """
    known = values.cast(pl.Float64).fill_nan(None)
    found = known.drop_nulls()
    high = _as_float(found.max())
    edges = tuple(edges) if edges is not None else _edges(found)
    codes = np.searchsorted(np.array(edges[1:-1]), known.fill_null(0).to_numpy(), side="right").astype(np.uint8)
    codes[known.is_null().to_numpy()] = NONE
    return Binned(values.name, codes, edges=edges, is_open=high > edges[-1])


def _as_float(value: Any) -> float:
    return 0.0 if value is None else float(value)


def _edges(found: pl.Series) -> tuple[float, ...]:
    low, high = _as_float(found.min()), _as_float(found.quantile(0.99))
    if low >= 0 and _as_float(found.max()) <= 1:
        return tuple(i / BINS for i in range(BINS + 1))
    least = max(high - low, abs(high) * 1e-6, 1e-9) / (BINS - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = math.floor(low / step), math.floor(high / step) + 1
    digits = max(0, -math.floor(math.log10(step)))
    return (min(low, round(first * step, digits)), *(round(i * step, digits) for i in range(first + 1, last + 1)))


def names(values: pl.Series) -> Binned:
    """Return a column of names as codes, the most frequent first."""
    counts = values.drop_nulls().value_counts(name="n").sort("n", values.name, descending=[True, False])
    most = counts[values.name].head(NAMES).to_list()
    code = {name: i for i, name in enumerate(most)}
    codes = values.replace_strict(code, default=len(most), return_dtype=pl.UInt8)
    codes = pl.select(pl.when(values.is_null()).then(pl.lit(NONE, pl.UInt8)).otherwise(codes)).to_series()
    return Binned(values.name, codes.to_numpy(), names=tuple(most), n_others=counts.height - len(most))


def block(scores: pl.Series, columns: Sequence[Binned]) -> bytes:
    """Return scores (Float64, null as 0) and codes one after the other."""
    return b"".join([scores.cast(pl.Float64).fill_null(0).to_numpy().tobytes(), *(c.codes.tobytes() for c in columns)])
