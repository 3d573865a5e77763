"""What two equal runs must have in common, bit for bit.

Digests of frames by column (``records.outputs`` does the same for notebooks).

A frame is put into one canonical form: without the columns that name a run or a time, rows sorted by key, -0.0 as 0.0,
every NaN as one NaN, a column of nulls only as no column at all. Then each column has a sha256 over its values,
whatever Parquet file, version or order of rows they came from.
This module does not know the lake or any record.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from arislab.lake import tables
from arislab.system.paths import RUN_ID

_THREADS = 2
"""Columns that are hashed at once; hashing and polars work beside each other."""
_CHUNK_ROWS = 10_000  # long texts are not in memory a second time as a whole


def canonical(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of a table in its canonical form: what is compared when runs are compared.

    Args:
        table: Name of the table; its contract says the key, and which columns differ between equal runs.
        frame: Rows of the table, any columns.
    """
    order = _order(table, frame)
    clean = _cleaned(table, frame)
    return pl.DataFrame([values if order is None else values.gather(order) for values in clean])


def _cleaned(table: str, frame: pl.DataFrame) -> Iterator[pl.Series]:
    """The columns that equal runs have in common, by name, each value in one form; the rows in their order."""
    known = tables.columns_of(table)
    for name in sorted(frame.columns):
        column, values = known.get(name), frame[name]
        if name in ("run_id", "created_at", "updated_at") or (column and column.volatile):
            continue
        if values.null_count() == values.len() and values.len():
            continue
        if column and column.names_run:
            values = values.str.replace_all(RUN_ID.pattern.replace("(?![0-9a-f])", ""), "<run>")
        if values.dtype.is_float():
            zero, nan = pl.lit(0.0, values.dtype), pl.lit(float("nan"), values.dtype)
            clean = pl.when(values == 0).then(zero).when(values.is_nan()).then(nan).otherwise(values)
            values = pl.select(clean.alias(name)).to_series()
        yield values


def _order(table: str, frame: pl.DataFrame) -> pl.Series | None:
    """The numbers of the rows in the order of their key, or without one of all that they hold; null: as they stand."""
    key = [name for name in tables.contract(table).key if name in frame.columns]
    by = {values.name: values for values in _cleaned(table, frame.select(key))}
    if not by:
        by = {values.name: values for values in _cleaned(table, frame) if values.dtype != pl.List(pl.String)}
    names = [name for name in key if name in by] or list(by)
    if not names:
        return None
    return pl.DataFrame(list(by.values())).select(pl.arg_sort_by(names, nulls_last=True)).to_series()


def columns(table: str, frame: pl.DataFrame) -> dict[str, str]:
    """Return the sha256 of each column of a frame in canonical form.

    Example:
        >>> one = pl.DataFrame({"candidate_id": ["b", "a"], "title": ["x", "y"]})
        >>> columns("candidates", one) == columns("candidates", one.reverse())
        True
    """
    order = _order(table, frame)

    def named(values: pl.Series) -> tuple[str, str]:
        return values.name, column_sha256(values if order is None else values.gather(order))

    with ThreadPoolExecutor(_THREADS) as pool:  # few: all sorted texts at once would be a second table
        return dict(pool.map(named, _cleaned(table, frame)))


def digest(table: str, frame: pl.DataFrame) -> str:
    """Return one sha256 for a frame: equal content gives an equal digest."""
    return of_columns(columns(table, frame), frame.height)


def of_columns(sha256s: dict[str, str], n_rows: int) -> str:
    """Return the digest of a frame from those of its columns."""
    return hashlib.sha256(json.dumps([n_rows, sorted(sha256s.items())]).encode()).hexdigest()


def column_sha256(values: pl.Series) -> str:
    """Return the digest of the values of one column, in their order."""
    sha = hashlib.sha256(f"{values.dtype} {values.len()}".encode())
    for start in range(0, values.len(), _CHUNK_ROWS):
        for data in _bytes(values.slice(start, _CHUNK_ROWS)):
            sha.update(data)
    return sha.hexdigest()


def _bytes(values: pl.Series) -> Iterator[bytes | memoryview]:
    """Which values are null, their lengths if they have one, and the values."""
    yield values.is_null().cast(pl.UInt8).to_numpy().tobytes()
    if values.dtype == pl.List(pl.String):
        yield values.list.len().fill_null(0).cast(pl.UInt64).to_numpy().tobytes()
        yield from _bytes(values.drop_nulls().explode(empty_as_null=False))
    elif values.dtype == pl.String:
        yield values.str.len_bytes().fill_null(0).cast(pl.UInt64).to_numpy().tobytes()
        texts = values.drop_nulls().rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())  # one after the other
        _, _, data = texts.buffers()
        yield b"" if data is None else memoryview(data).cast("B")
    elif values.dtype == pl.Boolean:
        yield values.fill_null(value=False).cast(pl.UInt8).to_numpy().tobytes()
    else:
        yield values.to_physical().fill_null(0).to_numpy().tobytes()
