"""Parquet files to rows: each value as JSON can have it, or refused with its row.

    Float32 0.1 -> Number("0.1"), Decimal 1.50 -> Number("1.50"), 2024-05-01 -> "2024-05-01", NaN -> refused

This module does not know what the columns mean.
"""

from collections.abc import Collection, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from arislab.errors import PrerequisiteError
from arislab.inputs.rows import OVERLOOKED, Rows
from arislab.system import spilled
from arislab.system.json_text import Number

_ROWS = 10_000
"""Rows whose values are Python's at once."""


def read(path: Path, *, lenient: bool, wanted: Collection[str] | None) -> Rows:
    """Return the rows of a Parquet file.

    Args:
        path: It exists.
        lenient: True: NaN and infinities become null, and ``notes`` counts them.
        wanted: Columns that are used, the others are not read; null: all are.

    Raises:
        PrerequisiteError: It cannot be read, or holds what has no exact text; the message names the row.
    """
    try:
        names = list(pl.read_parquet_schema(path))
        # with a name that is not there all are read, so that the refusal can list them
        used = [n for n in names if n in wanted] if wanted is not None and set(wanted) <= set(names) else names
        scan = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(used)
        frame = spilled.frame(scan) if _is_large(path) else scan.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PrerequisiteError(
            f"cannot read {path.name}: {str(error).splitlines()[0]}; mend the file, nothing was imported."
        ) from None
    n_nan = 0

    def objects() -> Iterator[dict[str, Any]]:
        nonlocal n_nan
        for start in range(0, frame.height, _ROWS):
            columns: dict[str, list[Any]] = {}
            for series in frame.slice(start, _ROWS):
                try:
                    columns[series.name], n = _values(series, lenient=lenient, before=start)
                except ValueError as error:
                    what = f"{path.name} column {series.name!r} {error}"
                    raise PrerequisiteError(f"{what}; nothing was imported.") from None
                n_nan += n
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    rows = spilled.listed(objects())
    notes = (f"{OVERLOOKED['nan']} in {n_nan:,} values",) if n_nan else ()
    unread = tuple(name for name in names if name not in used)
    return Rows(path.name, rows, range(1, frame.height + 1), "parquet", notes, unread)


def _is_large(path: Path) -> bool:
    try:
        return spilled.is_large(path.stat().st_size, lambda: [_footer(path)], most=1_000)
    except (ValueError, NotImplementedError):  # pyarrow's: polars may read what it does not, and disk is always right
        return True


def _footer(path: Path) -> Any:
    from pyarrow import parquet  # needed for few files, and it takes a while to load

    return parquet.read_metadata(path)


def _values(series: pl.Series, *, lenient: bool, before: int) -> tuple[list[Any], int]:
    """The values of a Parquet column, behind some rows of it, as JSON has them, and how many NaN became null."""
    kind = series.dtype
    if kind in (pl.String, pl.Boolean, pl.Null) or (kind.is_integer() and kind not in (pl.Int128, pl.UInt128)):
        return series.to_list(), 0
    if isinstance(kind, pl.Categorical | pl.Enum):
        return series.cast(pl.String).to_list(), 0
    if isinstance(kind, pl.Datetime) and kind.time_unit == "ns" and (series.dt.nanosecond() % 1000 != 0).any():
        raise ValueError("has nanoseconds, which Python's times do not; cast it to text")
    _check_kept(kind, inside=False)
    if kind.is_float():
        bad = series.is_nan() | series.is_infinite()
        n_nan = int(bad.sum())
        if n_nan and not lenient:
            row = before + int(bad.arg_true()[0]) + 1
            raise ValueError(f"row {row} is NaN or infinite, which JSON does not have; write null, or give --lenient")
        # polars writes the fewest digits that read back as the same number, of 32 bits too
        shortest = series.set(bad, None).cast(pl.String).to_list()
        return [None if text is None else Number(text) for text in shortest], n_nan
    values: list[Any] = []
    infinite: list[float] = []
    for row, value in enumerate(series.to_list(), before + 1):
        values.append(_plain(value, kind, infinite))
        if infinite and not lenient:
            raise ValueError(
                f"row {row} holds NaN or infinity, which JSON does not have; write null, or give --lenient"
            )
    return values, len(infinite)


def _check_kept(kind: Any, *, inside: bool) -> None:
    """Refuse a type whose values cannot be kept exactly."""
    if isinstance(kind, pl.List | pl.Array):
        _check_kept(kind.inner, inside=True)
    elif isinstance(kind, pl.Struct):
        for part in kind.fields:
            _check_kept(part.dtype, inside=True)
    elif kind in (pl.Binary, pl.Object, pl.Duration) or (
        inside and isinstance(kind, pl.Datetime) and kind.time_unit == "ns"
    ):
        raise ValueError(f"is of type {kind}, which has no exact text; drop it, or cast it to text")


def _plain(value: Any, kind: Any, infinite: list[float]) -> Any:
    """A value of Python as JSON has it.

    Digits of numbers kept, times as ISO 8601; NaN and what is infinite are null, and listed.
    """
    if isinstance(value, dict):
        return {part.name: _plain(value[part.name], part.dtype, infinite) for part in kind.fields}
    if isinstance(value, list):
        return [_plain(part, kind.inner, infinite) for part in value]
    if isinstance(value, Decimal):
        return Number(format(value, "f"))
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return Number(str(value))
    if isinstance(value, float) and not abs(value) < float("inf"):
        infinite.append(value)
        return None
    if kind == pl.Float32 and value is not None:
        return float(str(np.float32(value)))  # its own shortest digits, not those of the double
    return value.isoformat() if isinstance(value, date | datetime | time) else value
