r"""Files from elsewhere to rows, each as it stood in its file: JSONL, CSV and Parquet, also gzipped or with Zstandard.

Lines of three files, and the row that each becomes::

    {"id": 7, "price": 1.50}    {"id": 7, "price": Number("1.50")}   JSONL: no key of another line, numbers as written
    007,1.50,                   {"id": "007", "price": "1.50", "note": None}   CSV: text, or null where nothing stands
    7 | 1.5 | null              {"id": 7, "price": 1.5, "note": None}   Parquet: as typed there

What cannot be kept is refused with its line or row. This module knows neither the lake nor what the columns mean.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.inputs import csv_text
from arislab.system import json_text
from arislab.system.json_text import Number

TYPES = ("text", "int", "float", "bool", "json")
"""What a column's texts may be taken as, if asked for."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file."""

    name: str
    """Of the file."""
    rows: list[dict[str, Any]]
    """One a row, by column, as ``json_text.exact`` gives values; a JSONL row has only the keys that its line has."""
    lines: Sequence[int]
    """Number of each row's first line, from 1; in Parquet the number of the row."""
    kind: str = "jsonl"
    """csv, jsonl or parquet."""
    notes: tuple[str, ...] = ()
    """How the file was read, where that is no matter of course."""
    unread: tuple[str, ...] = ()
    """Columns of a Parquet file that nobody asked for: images beside a text, for instance, which no text could hold."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def texts(self, name: str, option: str) -> list[str | None]:
        """Return a column as text: the characters of the file, null where nothing stands.

        Raises:
            PrerequisiteError: No row has the column.
        """
        if not any(name in row for row in self.rows):
            few = self.kind == "csv" and len(self.columns) == 1
            hint = " Is it another separator? (--separator)" if few else ""
            raise PrerequisiteError(
                f"{option} {name!r} is no column of {self.name}; {closest(name, self.columns)}.{hint}"
            )
        return [json_text.as_text(row.get(name)) for row in self.rows]

    def place(self, i: int) -> str:
        """Return where a row stands in its file, in words: ``line 3``, or ``row 3`` where a file has no lines."""
        return f"{'row' if self.kind == 'parquet' else 'line'} {self.lines[i]}"

    def refuse(self, i: int, problem: str) -> PrerequisiteError:
        """Return the error that names a row."""
        return PrerequisiteError(f"{self.name} {self.place(i)}: {problem}; nothing was imported.")


def read(
    path: Path,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    types: Mapping[str, str] | None = None,
    lenient: bool = False,
    wanted: Collection[str] | None = None,
) -> Rows:
    r"""Return the rows of a CSV, JSONL or Parquet file; JSONL is split at ``\n`` bytes only.

    Args:
        path: Its ending says the format; ``.gz`` or ``.zst`` may follow.
        encoding: Of a text file; default UTF-8, or what a byte order mark says.
        separator: Of a CSV file, one character or ``tab``; default what its ``sep=`` line or its header says.
        types: Column to one of TYPES: what its values are in the row. All other values of a CSV file are text.
        lenient: True: NaN and infinities become null, half surrogate pairs U+FFFD; ``notes`` counts them.
        wanted: Columns that are used; of a Parquet file the others are not read. Null: all are used.

    Raises:
        PrerequisiteError: No such file, another format, no rows, or a line or row that cannot be kept as it is (with
            its number).
        ParameterError: An unknown encoding, separator, type or column.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "parquet":
        rows = _parquet(path, lenient=lenient, wanted=wanted)
    elif kind == "csv":
        data, notes = _utf8(path, encoding)
        rows = _csv(path.name, data.decode(), separator, notes)
    else:
        data, notes = _utf8(path, encoding)
        numbered, overlooked = _objects(path.name, data, json_text.exact_leniently if lenient else _exactly)
        rows = Rows(path.name, [o for _, o in numbered], [n for n, _ in numbered], kind, (*notes, *overlooked))
    if not rows.rows:
        raise PrerequisiteError(f"{path.name} has no rows; nothing was imported.")
    return _typed(rows, types or {})


Reader = Callable[[bytes], tuple[Any, tuple[str, ...]]]
"""A line to its value and the marks of ``json_text.loads_leniently``; a ValueError if it is no JSON."""


def objects(path: Path, reader: Reader) -> list[tuple[int, dict[str, Any]]]:
    """Return the number and the object of each line of a JSONL file that is not blank.

    Raises:
        PrerequisiteError: No such file, or a line that is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise PrerequisiteError(f"there is no file {str(path)!r}; give a .jsonl file.")
    return _objects(path.name, _utf8(path, None)[0], reader)[0]


def strictly(line: bytes) -> tuple[Any, tuple[str, ...]]:
    """Read a line as ``json_text.loads`` does: a ``Reader``."""
    return json_text.loads(line), ()


def _exactly(line: bytes) -> tuple[Any, tuple[str, ...]]:
    return json_text.exact(line), ()


def _kind(path: Path) -> str:
    if not path.is_file():
        raise PrerequisiteError(f"there is no file {str(path)!r}; give a .csv, .jsonl or .parquet file.")
    endings = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".zst")]
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    kind = kinds.get(endings[-1] if endings else "")
    if kind is None:
        more = {".json": " Write one object a line.", ".xlsx": " Save it as CSV UTF-8."}.get((endings or [""])[-1], "")
        raise PrerequisiteError(f"cannot read {path.name!r}; the ending must be .csv, .jsonl or .parquet.{more}")
    return kind


def _bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its first bytes say that it is compressed."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            import pyarrow as pa

            return bytes(pa.input_stream(pa.py_buffer(data), compression="zstd").read())
    except (OSError, EOFError, zlib.error) as error:
        raise PrerequisiteError(f"cannot read {path.name}: {error}; mend the file, nothing was imported.") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise PrerequisiteError(f"{path.name} is a zip or Excel file inside; unpack it, or save it as CSV UTF-8.")
    return data


_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def _utf8(path: Path, encoding: str | None) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a text file as UTF-8 without a byte order mark, and a note if they were something else."""
    data = _bytes(path)
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    name = encoding or marked
    try:
        text = data.decode(name)
    except LookupError:
        raise ParameterError(f"--encoding {encoding!r} is unknown; for instance utf-8, cp1252, utf-16.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PrerequisiteError(
            f"{path.name} line {line}: byte 0x{data[error.start]:02x} is no {name}; give its encoding (--encoding "
            "cp1252 for most files of Windows), or save it as UTF-8. Nothing was imported."
        ) from None
    if "\0" in text[:2]:
        raise PrerequisiteError(
            f"{path.name} looks like UTF-16 without its mark; give --encoding utf-16-le or utf-16-be."
        )
    if name == "utf-8":
        return data.removeprefix(b"\xef\xbb\xbf"), ()
    return text.removeprefix("\ufeff").encode(), (f"encoding {name}",)


def _objects(name: str, data: bytes, reader: Reader) -> tuple[list[tuple[int, dict[str, Any]]], tuple[str, ...]]:
    """The objects of the lines with their numbers, and notes on what was overlooked in them."""
    found: list[tuple[int, dict[str, Any]]] = []
    n_marked: dict[str, int] = {}
    lines = [line.strip(b" \t\r") for line in data.split(b"\n")]
    for i, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            value, marks = reader(line)
        except ValueError as error:
            last = max(n for n, text in enumerate(lines, 1) if text)
            raise PrerequisiteError(_no_json(name, i, last, line, str(error))) from None
        if not isinstance(value, dict):
            raise PrerequisiteError(
                f"{name} line {i}: a JSON object is needed, got {type(value).__name__}; nothing was imported."
            )
        for mark in marks:
            n_marked[mark] = n_marked.get(mark, 0) + 1
        found.append((i, value))
    return found, tuple(f"{_OVERLOOKED[mark]} in {n:,} lines" for mark, n in n_marked.items())


_OVERLOOKED = {
    "nan": "NaN or infinity read as null",
    "surrogates": "half surrogate pairs read as U+FFFD",
    "control": "raw control characters kept",
    "bom": "byte order marks dropped",
}


def _no_json(name: str, i: int, last: int, line: bytes, error: str) -> str:
    """The message about a line that is no JSON."""
    why, way = f"this line is not JSON: {error}", "mend or drop the line"
    if "NaN" in error or "surrogate" in error:
        way += ", or give --lenient (NaN is null then, half a character U+FFFD)"
    elif i == last and not line.endswith(b"}"):
        why = f"the last line is torn (was the file cut while it was written?): {error}"
    return f"{name} line {i} of {last}: {why}; {way}, nothing was imported."


def _csv(name: str, text: str, separator: str | None, notes: tuple[str, ...]) -> Rows:
    told, start = csv_text.separator(text)
    mark = {"tab": "\t", "\\t": "\t"}.get(separator or "", separator) or told
    if len(mark) != 1 or mark in '"\r\n':
        raise ParameterError(f"--separator must be one character or tab, got {separator!r}.")
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    try:
        records = csv_text.records(text[start:], mark, line=2 if start else 1)
        header = _header(name, next(records, (1, []))[1])
        for line, fields in records:
            if len(fields) != len(header):
                called = csv_text.SEPARATORS.get(mark, repr(mark))
                raise ValueError(
                    f"line {line}: {len(fields)} fields, the header has {len(header)} (separator: {called}); put a "
                    "field that holds the separator into quotes, or give another --separator"
                )
            rows.append(dict(zip(header, fields, strict=True)))
            numbers.append(line)
    except ValueError as error:
        raise PrerequisiteError(f"{name} {error}; nothing was imported.") from None
    said = () if mark == "," else (f"separator {csv_text.SEPARATORS.get(mark, repr(mark))}",)
    return Rows(name, rows, numbers, "csv", (*notes, *said))


def _header(name: str, fields: list[str | None]) -> list[str]:
    """The names of the columns, each there and once."""
    names = [field or "" for field in fields]
    for i, field in enumerate(names):
        if not field.strip() or names.index(field) < i:
            first = names.index(field) + 1
            what = f"repeats {field!r} of column {first}" if field.strip() else "has no name"
            raise PrerequisiteError(
                f"{name} header: column {i + 1} {what}; name each column once, nothing was imported."
            )
    return names


def _parquet(path: Path, *, lenient: bool, wanted: Collection[str] | None) -> Rows:
    try:
        names = list(pl.read_parquet_schema(path))
        # with a name that is not there all are read, so that the refusal can list them
        used = [n for n in names if n in wanted] if wanted is not None and set(wanted) <= set(names) else names
        frame = pl.read_parquet(path, columns=used, glob=False, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PrerequisiteError(
            f"cannot read {path.name}: {str(error).splitlines()[0]}; mend the file, nothing was imported."
        ) from None
    n_nan = 0
    columns: dict[str, list[Any]] = {}
    for series in frame:
        try:
            columns[series.name], n = _values(series, lenient=lenient)
        except ValueError as error:
            raise PrerequisiteError(f"{path.name} column {series.name!r} {error}; nothing was imported.") from None
        n_nan += n
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    notes = (f"{_OVERLOOKED['nan']} in {n_nan:,} values",) if n_nan else ()
    unread = tuple(name for name in names if name not in used)
    return Rows(path.name, rows, range(1, frame.height + 1), "parquet", notes, unread)


def _values(series: pl.Series, *, lenient: bool) -> tuple[list[Any], int]:
    """The values of a Parquet column as JSON has them, and how many NaN became null."""
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
            row = int(bad.arg_true()[0]) + 1
            raise ValueError(f"row {row} is NaN or infinite, which JSON does not have; write null, or give --lenient")
        shortest = series.set(bad, None).cast(pl.String).to_list()
        return [None if text is None else Number(text) for text in shortest], n_nan
    values: list[Any] = []
    infinite: list[float] = []
    for row, value in enumerate(series.to_list(), 1):
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


_WHOLE = re.compile(r"[+-]?[0-9]+")
_FRACTION = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _typed(rows: Rows, types: Mapping[str, str]) -> Rows:
    """The rows with the columns that are asked for as another type."""
    for name, kind in types.items():
        if kind not in TYPES:
            raise ParameterError(
                f"--type {name}={kind}: the type must be one of {', '.join(TYPES)}; {closest(kind, TYPES)}."
            )
        for i, (row, text) in enumerate(zip(rows.rows, rows.texts(name, "--type"), strict=True)):
            if name not in row or text is None:
                continue
            try:
                row[name] = _as(text, kind)
            except ValueError as error:
                raise rows.refuse(i, f"{name!r} is {text[:60]!r}, no {kind} ({error})") from None
    return rows


def _as(text: str, kind: str) -> Any:
    """A text as another type; a number that JSON can write so keeps its digits."""
    if kind == "json":
        return json_text.exact(text)
    if kind == "bool":
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError("true, false, 1 or 0")
        return text.lower() in ("true", "1")
    if kind == "int":
        if not _WHOLE.fullmatch(text):
            raise ValueError("digits with an optional sign")
        return Number(int(text))
    if kind == "float":
        if not _FRACTION.fullmatch(text) or not abs(float(text)) < float("inf"):
            raise ValueError("a decimal number such as -1.5 or 2e-3, with a point")
        try:
            is_written_so = isinstance(json_text.loads(text), float)
        except ValueError:  # such as .5 or +1.5
            is_written_so = False
        return Number(text if is_written_so else repr(float(text)))
    return text
