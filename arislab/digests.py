"""What two equal runs must have in common, bit for bit: digests of frames by column, and notebooks without their clocks.

A frame is put into one canonical form: without the columns that name a run or a time, rows sorted by key, -0.0 as 0.0, every NaN as
one NaN, a column of nulls only as no column at all. Then each column has a sha256 over its values, whatever Parquet file, version or
order of rows they came from. A notebook is put into one form too: without execution times and counts, widget ids, what went to
stderr (progress bars), and with run ids and the root's path replaced. This module does not know the lake or any record.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arislab import tables

RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-(\w+?)-([0-9a-f]{4})(?![0-9a-f])")
"""Name of a run: time of its start (UTC), phase, 4 hex."""
VOLATILE_TAG = "volatile-output"
"""Tag of a cell whose output shows measured times; such outputs are left out of comparisons, and counted."""

_CHUNK_ROWS = 10_000
_WIDGET = "application/vnd.jupyter.widget-view+json"
_HEADLINE = "application/vnd.arislab.headline+json"
_MEASURED = re.compile(r"(^|_)(seconds|s)$")
_OBJECT_AT = re.compile(r" at 0x[0-9a-f]+")


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
    found = canonical(table, frame)
    return {name: _column(found[name]) for name in found.columns}


def digest(table: str, frame: pl.DataFrame) -> str:
    """Return one sha256 for a frame: equal content gives an equal digest."""
    return of_columns(columns(table, frame), frame.height)


def of_columns(found: dict[str, str], n_rows: int) -> str:
    """Return the digest of a frame from those of its columns."""
    return hashlib.sha256(json.dumps([n_rows, sorted(found.items())]).encode()).hexdigest()


def _column(values: pl.Series) -> str:
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


def first_difference(table: str, before: pl.DataFrame, now: pl.DataFrame) -> str | None:
    """Say where two frames of a table first differ: column, key of the row, both values; null if they are equal."""
    one, other = canonical(table, before), canonical(table, now)
    if missing := sorted(set(one.columns) ^ set(other.columns)):
        where = "now" if missing[0] in other.columns else "before"
        return f"column {missing[0]!r} has values only {where}"
    keys = [k for k in tables.contract(table).key if k in one.columns]
    if one.height != other.height or (keys and not one.select(keys).equals(other.select(keys), null_equal=True)):
        left, right = ((a.join(b, on=keys, how="anti") if keys else a) for a, b in ((one, other), (other, one)))
        alone = left if left.height else right
        which = f"; only {'before' if left.height else 'now'}: {_key(alone, keys, 0)}" if keys and alone.height else ""
        return f"{one.height:,} rows before, {other.height:,} now{which}"
    for name in one.columns:
        if _column(one[name]) != _column(other[name]):
            same = one[name].eq_missing(other[name])
            row = next((i for i, equal in enumerate(same.to_list()) if not equal), 0)
            return f"row {_key(one, keys, row)}, column {name!r}: {_short(one[name][row])} before, {_short(other[name][row])} now"
    return None


def _key(frame: pl.DataFrame, keys: list[str], row: int) -> str:
    return ", ".join(f"{k}={frame[k][row]!r}" for k in keys) or f"number {row}"


def _short(value: Any) -> str:
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) <= 120 else f"{text[:90]}… ({len(text):,} characters)"


# ---- notebooks --------------------------------------------------------------------------------------------------------


def cells(notebook: dict[str, Any], *, places: dict[str, str]) -> tuple[list[dict[str, Any]], int]:
    """Return the code cells of an executed notebook in canonical form, and how many have outputs that are left out.

    Args:
        notebook: The notebook's JSON.
        places: Name to path of the folders of the run (its root, its checkout), which are replaced in texts.

    Returns:
        One dict a code cell: id, source, outputs.
    """
    found, n_left_out = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        is_volatile = VOLATILE_TAG in cell.get("metadata", {}).get("tags", [])
        n_left_out += is_volatile
        outputs = [] if is_volatile else [o for o in map(_output, cell.get("outputs", [])) if o is not None]
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        is_injected = "injected-parameters" in cell.get("metadata", {}).get("tags", [])
        name = "injected-parameters" if is_injected else cell.get("id")
        found.append({"id": name, "source": source, "outputs": _replaced(outputs, places)})
    return found, n_left_out


def _output(output: dict[str, Any]) -> dict[str, Any] | None:
    """One output without what differs between equal runs; null if nothing is left of it."""
    if output["output_type"] == "stream":
        return None if output["name"] == "stderr" else {"text": "".join(output["text"])}
    if output["output_type"] == "error":
        return {"ename": output["ename"], "evalue": output["evalue"]}
    data = output.get("data", {})
    if _WIDGET in data:
        return None
    if _HEADLINE in data:
        return {_HEADLINE: {k: v for k, v in data[_HEADLINE].items() if not _MEASURED.search(k)}}
    return {kind: "".join(v) if isinstance(v, list) else v for kind, v in sorted(data.items())}


def _replaced(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, path in sorted(places.items(), key=lambda place: -len(place[1])):
            value = value.replace(path, f"<{name}>") if path else value
        return _OBJECT_AT.sub("", RUN_ID.sub("<run>", value))
    if isinstance(value, dict):
        return {k: _replaced(v, places) for k, v in value.items()}
    return [_replaced(v, places) for v in value] if isinstance(value, list) else value


def first_differing_cell(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """Say which code cell of two notebooks in canonical form first differs, and how; null if none does."""
    for number, (one, other) in enumerate(zip(before, now, strict=False), start=1):
        if one == other:
            continue
        where = f"code cell {number} ({one['id']})"
        if one["source"] != other["source"]:
            return f"{where}: source {_lines(one['source'], other['source'])}"
        if len(one["outputs"]) != len(other["outputs"]):
            return f"{where}: {len(one['outputs'])} outputs before, {len(other['outputs'])} now"
        for a, b in zip(one["outputs"], other["outputs"], strict=True):
            for kind in sorted(a.keys() | b.keys()):
                if a.get(kind) != b.get(kind):
                    return f"{where}: {kind} {_lines(a.get(kind), b.get(kind))}"
        return f"{where}: id {one['id']!r} before, {other['id']!r} now"
    if len(before) != len(now):
        return f"{len(before)} code cells before, {len(now)} now"
    return None


def _lines(one: Any, other: Any) -> str:
    """The first line in which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = next(k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k))
        return f"{name!r}: {_short(one.get(name))} before, {_short(other.get(name))} now"
    left, right = str(one).split("\n"), str(other).split("\n")
    for a, b in zip(left, right, strict=False):
        if a != b:
            start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(0, start - 20)
            return f"{_short(a[start:])} before, {_short(b[start:])} now"
    return f"{len(left)} lines before, {len(right)} now"


def of_file(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": sha.hexdigest()}
