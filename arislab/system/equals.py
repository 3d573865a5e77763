"""Rows that are equal, as numbers: names and texts of millions take far more memory to group and to join.

    first_of_equals(rows)       0 1 0 3 1     the first row that is equal to each
    numbered(first)             0 1 0 2 1     and 0 1 3, where each number stands first
    number_among(first)         0 0 1 0 1
    places(names, known)        2 -1 0        where each name stands first among the known ones

What this file does not know: what rows are about.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def first_of_equals(rows: pl.DataFrame) -> Ints:
    """Return for each row the number of the first row that is equal to it."""
    # by a hash, for groups by text hold all texts again; and compared, for a hash may be that of another text
    hashes = rows.select(pl.struct(pl.all().hash()).hash()).to_series().to_numpy()
    first = first_of(hashes)
    again = np.flatnonzero(first != np.arange(len(first)))
    if all(rows[name].gather(again).equals(rows[name].gather(first[again])) for name in rows.columns):
        return first
    numbers = rows.with_row_index("_row").select(pl.col("_row").min().over(rows.columns))
    return numbers.to_series().to_numpy().astype(np.int64)


def first_of(keys: NDArray[np.uint64]) -> Ints:
    """Return for each row the number of the first row with the same key."""
    first = np.empty(len(keys), dtype=np.int64)
    parts = max(0, len(keys).bit_length() - _SORTED_BITS)  # by the last bits: what is sorted at once is bounded
    last = (keys & np.uint64((1 << parts) - 1)).astype(np.uint16)
    for part in range(1 << parts):
        rows = np.flatnonzero(last == part)
        _, at, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
        first[rows] = rows[at][inverse]
    return first


_SORTED_BITS = 20
"""Bits of the number of keys that are sorted at once."""


def number_among(first: Ints) -> Ints:
    """Return the number, from 0, that each row has among its equals, the first of whom is known."""
    order = np.argsort(first, kind="stable")
    ordered = first[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    number, at = np.empty(len(first), dtype=np.int64), np.arange(len(first))
    number[order] = at - np.maximum.accumulate(np.where(is_new, at, 0))
    return number


def numbered(first: Ints) -> tuple[Ints, Ints]:
    """Return 0, 1, … of each row of whom the first equal row is known, and the first row that has each number."""
    is_first = first == np.arange(len(first))
    return (np.cumsum(is_first) - 1)[first], np.flatnonzero(is_first)


def places(names: pl.Series, known: pl.Series) -> Ints:
    """Return where each name stands first among the known ones; -1: it is none of them. Two nulls are equal."""
    both = pl.concat([known.alias("name"), names.alias("name")]).to_frame()
    first = first_of_equals(both)[len(known) :]
    return np.where(first < len(known), first, -1)
