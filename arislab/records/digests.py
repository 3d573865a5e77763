"""Digests of a record's files, and whether a file is still what the run left.

A file is its bytes, but for the executed notebook: JupyterLab writes that anew as soon as it is open (kernelspec,
language_info, widget state, indentation, the minor version), though nobody touched a cell. So each of its cells has
digests of its own, and a file whose bytes differ is the same if these do not. Not covered by them: the metadata of the
notebook and of cells, but for tags, which say what a cell is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from arislab.system import files, imports

NOTEBOOK = "notebook.ipynb"

_NO_NOTEBOOK = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading JSON raises that is no notebook."""


def of_file(path: Path) -> dict[str, Any]:
    """Return bytes and sha256 of a record's file, and of the executed notebook its cells.

    A cell is its id, the sha256 of its source, and that of its outputs (null for a cell that is no code).

    Raises:
        OSError: It cannot be read.
    """
    digests = files.of_file(path)
    if path.name == NOTEBOOK and (cells := _cells(path)) is not None:
        digests["cells"] = cells
    return digests


def change(path: Path, recorded: Mapping[str, Any], *, after: str = "the run") -> str | None:
    """Say what of a file is not what the record says of it; null if it is the same.

    Args:
        path: Of the file.
        recorded: What ``of_file`` gave when the run ended; records of earlier versions have no cells, and are held to
            the bytes.
        after: Since when it is another one, for the words.

    Raises:
        OSError: It cannot be read.
    """
    if files.of_file(path)["sha256"] == recorded["sha256"]:
        return None
    changed = f"was changed after {after}"
    if path.name != NOTEBOOK:
        return changed
    if "cells" not in recorded:
        return f"{changed}, or only saved by JupyterLab: this earlier record has no digests of cells, which would tell"
    now = _cells(path)
    if now is None:
        return f"{changed}: it is no notebook any more"
    for number, (one, other) in enumerate(zip_longest(recorded["cells"], now), start=1):
        if difference := _difference(one, other):
            return f"{changed}: cell {number}{difference}"
    return None


def _difference(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str | None:
    """Say in which way a cell is another one; null if it is the same."""
    if one is None or other is None:
        return " is gone" if one else " was added"
    if one["id"] not in (None, other["id"]):  # a cell of an old notebook has no id, and gets one when it is saved
        return f" is {other['id']!r}, was {one['id']!r}"
    parts = [name for name in ("source", "outputs") if one[name] != other[name]]
    name = "" if one["id"] is None else f" ({one['id']})"
    return f"{name}, its {' and '.join(parts)}" if parts else None


def _cells(path: Path) -> list[dict[str, Any]] | None:
    """Digests of a notebook's cells in order; null if it is no notebook."""
    imports.jsonschema()  # before nbformat does
    from nbformat.v4 import reads

    try:
        text = path.read_text(encoding="utf-8")
        # read by nbformat, for which a text that the file has as a list of lines is one text
        return [_cell(cell) for cell in reads(text).cells]
    except _NO_NOTEBOOK:
        return None


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's id, the digest of what it is and says, and that of its outputs."""
    tags = cell["metadata"].get("tags", [])
    outputs = [cell["execution_count"], list(_outputs(cell["outputs"]))] if cell["cell_type"] == "code" else None
    return {
        "id": cell.get("id"),
        "source": of_json(_plain([cell["cell_type"], cell["source"], cell.get("attachments"), tags])),
        "outputs": None if outputs is None else of_json(_plain(outputs)),
    }


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[Any]:
    """Outputs, with what was printed to one stream in a row as one text, as JupyterLab joins it."""
    for stream, group in groupby(outputs, key=lambda output: output["output_type"] == "stream" and output["name"]):
        if stream:
            yield [stream, "".join(output["text"] for output in group)]
        else:
            yield from group


def of_json(value: Any) -> str:
    """Return the sha256 of a JSON value, names in their order; what is no JSON counts as its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A JSON value with numbers as JavaScript has them, all of one type: Python's 1.0 is a browser's 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | dict | list):
        return value
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0
    except OverflowError:  # an integer beyond every double, which JavaScript knows as null
        return None
