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

import polars as pl

from arislab.lake import tables
from arislab.system.paths import RUN_ID

_CHUNK_ROWS = 10_000  # long texts are not in memory a second time as a whole


def canonical(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of a table in its canonical form: what is compared when runs are compared.

    Args:
        table: Name of the table; its contract says the key, and which columns differ between equal runs.
        frame: Rows of the table, any columns.
    """
    known = tables.columns_of(table)
    columns = []
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
        columns.append(values)
    out = pl.DataFrame(columns)
    keys = [name for name in tables.contract(table).key if name in out.columns]
    rest = [name for name in out.columns if name not in keys and out[name].dtype != pl.List(pl.String)]
    return out.sort([*keys, *([] if keys else rest)], nulls_last=True) if keys or rest else out


def columns(table: str, frame: pl.DataFrame) -> dict[str, str]:
    """Return the sha256 of each column of a frame in canonical form.

    Example:
        >>> one = pl.DataFrame({"candidate_id": ["b", "a"], "title": ["x", "y"]})
        >>> columns("candidates", one) == columns("candidates", one.reverse())
        True
    """
    form = canonical(table, frame)
    return {name: column_sha256(form[name]) for name in form.columns}


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


def _bytes(values: pl.Series) -> Iterator[bytes]:
    """Which values are null, their lengths if they have one, and the values."""
    yield values.is_null().cast(pl.UInt8).to_numpy().tobytes()
    if values.dtype == pl.List(pl.String):
        yield values.list.len().fill_null(0).cast(pl.UInt64).to_numpy().tobytes()
        yield from _bytes(values.drop_nulls().explode(empty_as_null=False))
    elif values.dtype == pl.String:
        yield values.str.len_bytes().fill_null(0).cast(pl.UInt64).to_numpy().tobytes()
        yield "".join(values.drop_nulls().to_list()).encode()
    elif values.dtype == pl.Boolean:
        yield values.fill_null(value=False).cast(pl.UInt8).to_numpy().tobytes()
    else:
        yield values.to_physical().fill_null(0).to_numpy().tobytes()
