"""What a table promises, and whether a frame keeps it; which tables there are stands in ``tables``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

import polars as pl

from arislab.errors import LakeError, closest


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    dtype: pl.DataType | type[pl.DataType]
    """Polars type; a write casts to it, and fails where the cast would lose something."""
    doc: str
    """Meaning, unit or range, and what null means."""
    required: bool = False
    """True: null is refused. False: a missing column is written as null."""
    allowed: tuple[str, ...] = ()
    """Closed set of values, if there is one."""
    low: float | None = None
    high: float | None = None
    """Closed range of numbers, if there is one."""
    volatile: bool = False
    """True: differs between two equal runs (a measured time, a name that a server gave); left out of digests."""
    names_run: bool = False
    """True: the text may hold the run's id, which digests replace."""


@dataclass(frozen=True)
class Contract:
    """What one table promises."""

    doc: str
    """One row per what."""
    key: tuple[str, ...]
    """Columns that identify a row; no two rows of one write share them."""
    columns: dict[str, Column]
    prefix: str = ""
    """Columns with this prefix may be added freely as Float64 (score_<scorer>)."""


def checked(table: str, frame: pl.DataFrame, spec: Contract, columns: Mapping[str, Column]) -> pl.DataFrame:
    """Return a frame in a table's columns and types, or raise LakeError that names column, row and next step.

    Args:
        table: Its name, for the message.
        frame: Rows; a column that may be null may be missing.
        spec: The table's own contract.
        columns: All of its columns, those that every table has included.
    """
    extra = [c for c in frame.columns if c not in columns and not (spec.prefix and c.startswith(spec.prefix))]
    if extra:
        raise LakeError(
            f"{table} has no column {extra[0]!r}; {closest(extra[0], columns)}. Drop it, or put it into metadata."
        )
    exprs = []
    for name, column in columns.items():
        if name in frame.columns:
            exprs.append(pl.col(name))
        elif column.required:
            raise LakeError(
                f"{table} needs the column {name!r} ({column.doc}); the frame has {', '.join(frame.columns)}."
            )
        else:
            exprs.append(pl.lit(None, dtype=column.dtype).alias(name))
    scores = [c for c in frame.columns if c not in columns]
    frame = frame.select(*exprs, *[pl.col(c) for c in scores])
    for name in frame.columns:
        column = columns.get(name, Column(pl.Float64, ""))
        frame = frame.with_columns(_cast(table, frame, name, column))
        _check_values(table, frame, name, column, spec.key)
    keys = [k for k in spec.key if k in frame.columns]
    if keys and has_doubles(frame.select(keys)):
        doubled = frame.filter(frame.select(keys).is_duplicated())
        raise LakeError(
            f"{table}: {doubled.height:,} rows share their {' + '.join(keys)} with another row of this write (first: "
            f"{doubled.row(0, named=True)[keys[0]]!r}); keys must be unique: drop or rename the doubles, nothing was "
            "written."
        )
    return frame


def has_doubles(keys: pl.DataFrame) -> bool:
    """Return whether two rows are equal."""
    hashes = keys.select(pl.struct(pl.all()).hash()).to_series()  # rows of different hashes differ, and a set is small
    return hashes.n_unique() < keys.height and bool(keys.is_duplicated().any())


def _cast(table: str, frame: pl.DataFrame, name: str, column: Column) -> pl.Series:
    values = frame[name]
    if values.dtype == column.dtype:
        return values
    try:
        return values.cast(column.dtype, strict=True)
    except pl.exceptions.PolarsError as error:
        raise LakeError(
            f"{table} expects {name}: {column.dtype}, got {values.dtype} ({str(error).splitlines()[0]}); "
            f"{column.doc or 'a number'}. Convert the column; nothing was written."
        ) from None


def _check_values(table: str, frame: pl.DataFrame, name: str, column: Column, key: tuple[str, ...]) -> None:
    for bad, rule in _rules(frame[name], column, is_needed=column.required or name in key):
        if bad.any():
            row = frame.filter(bad).row(0, named=True)
            raise LakeError(
                f"{table}.{name} {rule}, got {row[name]!r} in {int(bad.sum()):,} of {frame.height:,} rows "
                f"(first: {key[0]} {row.get(key[0])!r}); {column.doc}. Nothing was written."
            )


def _rules(values: pl.Series, column: Column, *, is_needed: bool) -> Iterator[tuple[pl.Series, str]]:
    """Which values break a rule of their column, and the rule; null breaks none but the first."""
    if is_needed:
        yield values.is_null(), "must not be null"
    if column.allowed:
        outside = ~values.is_in(list(column.allowed))
        yield outside.fill_null(value=False), f"must be one of {', '.join(column.allowed)}"
    low, high = column.low, column.high
    if low is not None or high is not None:
        parts = [] if low is None else [values < low]
        parts += [] if high is None else [values > high]
        parts += [values.is_nan()] if values.dtype.is_float() else []  # polars: larger than any number, so not < low
        outside = reduce(or_, parts).fill_null(value=False)
        yield outside, f"must lie in {low if low is not None else '-inf'}..{high if high is not None else 'inf'}"
