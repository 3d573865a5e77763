r"""Files from elsewhere to rows, each as it stood in its file: JSONL, CSV and Parquet, also gzipped or with Zstandard.

Lines of three files, and the row that each becomes::

    {"id": 7, "price": 1.50}    {"id": 7, "price": Number("1.50")}   JSONL: no key of another line, numbers as written
    007,1.50,                   {"id": "007", "price": "1.50", "note": None}   CSV: text, or null where nothing stands
    7 | 1.5 | null              {"id": 7, "price": 1.5, "note": None}   Parquet: as typed there

What cannot be kept is refused with its line or row. This module knows neither the lake nor what the columns mean.
"""

import codecs
import gzip
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from arislab.errors import ParameterError, PrerequisiteError
from arislab.inputs import csv_text, parquet
from arislab.inputs.rows import OVERLOOKED, Rows, typed
from arislab.system import json_text, spilled

_PIECE = 1 << 24
"""Bytes of a text that are decoded at once."""


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
        rows = parquet.read(path, lenient=lenient, wanted=wanted)
    elif kind == "csv":
        data, notes = _utf8(path, encoding)
        rows = _csv(path.name, data.decode(), separator, notes)
    else:
        data, notes = _utf8(path, encoding)
        numbers, overlooked = array("q"), dict[str, int]()
        reader = json_text.exact_leniently if lenient else _exactly
        objects = spilled.listed(_objects(path.name, data, reader, numbers, overlooked))
        overlooks = (f"{OVERLOOKED[mark]} in {n:,} lines" for mark, n in overlooked.items())
        rows = Rows(path.name, objects, numbers, kind, (*notes, *overlooks))
    if not rows.rows:
        raise PrerequisiteError(f"{path.name} has no rows; nothing was imported.")
    return typed(rows, types or {})


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
    numbers = array("q")
    return list(zip(numbers, list(_objects(path.name, _utf8(path, None)[0], reader, numbers, {})), strict=True))


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
            import pyarrow as pa  # Python itself reads Zstandard from 3.14 on

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
        text = data.decode(name) if name != "utf-8" else _checked(data)
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


def _checked(data: bytes) -> str:
    """The first characters of a text in UTF-8, of which all was decoded, a piece at a time."""
    if data.isascii():
        return data[:2].decode()
    decoder, start = codecs.getincrementaldecoder("utf-8")(), ""
    for at in range(0, max(1, len(data)), _PIECE):
        piece = data[at : at + _PIECE]
        try:
            text = decoder.decode(piece, at + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            before = at + len(piece) - len(error.object)  # what a piece before it held back stands in front of it
            first, end = before + error.start, before + error.end
            raise UnicodeDecodeError(error.encoding, data, first, end, error.reason) from None
        start = start or text[:2]
    return start


def _lines(data: bytes) -> Iterator[bytes]:
    """The lines without blanks around them, one by one: all at once would be the file a second time."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield data[start:end].strip(b" \t\r")
        start = end + 1
    yield data[start:].strip(b" \t\r")


def _objects(
    name: str, data: bytes, reader: Reader, numbers: "array[int]", overlooked: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """The objects of the lines; the numbers of these, and how many have what was overlooked, are noted as they come."""
    for i, line in enumerate(_lines(data), 1):
        if not line:
            continue
        try:
            value, marks = reader(line)
        except ValueError as error:
            last = max(n for n, text in enumerate(_lines(data), 1) if text)
            raise PrerequisiteError(_no_json(name, i, last, line, str(error))) from None
        if not isinstance(value, dict):
            raise PrerequisiteError(
                f"{name} line {i}: a JSON object is needed, got {type(value).__name__}; nothing was imported."
            )
        for mark in marks:
            overlooked[mark] = overlooked.get(mark, 0) + 1
        numbers.append(i)
        yield value


def _no_json(name: str, i: int, last: int, line: bytes, error: str) -> str:
    """The message about a line that is no JSON."""
    why, way = f"this line is not JSON: {error}", "mend or drop the line"
    if "NaN" in error or "surrogate" in error:
        way += ", or give --lenient (NaN is null then, half a character U+FFFD)"
    elif i == last and not line.endswith(b"}"):
        why = f"the last line is torn (was the file cut while it was written?): {error}"
    return f"{name} line {i} of {last}: {why}; {way}, nothing was imported."


def _csv(name: str, text: str, separator: str | None, notes: tuple[str, ...]) -> Rows:
    likely, start = csv_text.separator(text)
    mark = {"tab": "\t", "\\t": "\t"}.get(separator or "", separator) or likely
    if len(mark) != 1 or mark in '"\r\n':
        raise ParameterError(f"--separator must be one character or tab, got {separator!r}.")
    numbers = array("q")

    def objects(header: list[str], records: Iterator[tuple[int, list[str | None]]]) -> Iterator[dict[str, Any]]:
        for line, fields in records:
            if len(fields) != len(header):
                called = csv_text.SEPARATORS.get(mark, repr(mark))
                raise ValueError(
                    f"line {line}: {len(fields)} fields, the header has {len(header)} (separator: {called}); put a "
                    "field that holds the separator into quotes, or give another --separator"
                )
            numbers.append(line)
            yield dict(zip(header, fields, strict=True))

    try:
        records = csv_text.records(text[start:], mark, line=2 if start else 1)
        header = _header(name, next(records, (1, []))[1])
        rows = spilled.listed(objects(header, records))
    except ValueError as error:
        raise PrerequisiteError(f"{name} {error}; nothing was imported.") from None
    note = () if mark == "," else (f"separator {csv_text.SEPARATORS.get(mark, repr(mark))}",)
    return Rows(name, rows, numbers, "csv", (*notes, *note))


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
