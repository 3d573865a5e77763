"""Rows of a user's file as values, wherever they came from, and their columns taken as another type where asked.

    {"id": "007", "price": Number("1.50"), "note": None}    a number keeps its digits; null where nothing stands

This module knows no file formats (``files``, ``parquet``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.system import json_text, spilled
from arislab.system.json_text import Number

TYPES = ("text", "int", "float", "bool", "json")
"""What a column's texts may be taken as, if asked for."""


OVERLOOKED = {
    "nan": "NaN or infinity read as null",
    "surrogates": "half surrogate pairs read as U+FFFD",
    "control": "raw control characters kept",
    "bom": "byte order marks dropped",
}
"""Mark of ``json_text.loads_leniently`` to what is said of it."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file."""

    name: str
    """Of the file."""
    rows: Sequence[dict[str, Any]]
    """One a row, by column, as ``json_text.exact`` gives values; a JSONL row has only the keys that its line has. Of a
    large file they are on disk (``spilled.listed``): one that is changed is not changed there."""
    lines: Sequence[int]
    """Number of each row's first line, from 1; in Parquet the number of the row."""
    kind: str = "jsonl"
    """csv, jsonl or parquet."""
    notes: tuple[str, ...] = ()
    """How the file was read, where that is no matter of course."""
    unread: tuple[str, ...] = ()
    """Columns of a Parquet file that nobody asked for: images beside a text, for instance, which no text could hold."""

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, in order of their first appearance."""
        names: dict[str, None] = {}
        for row in self.rows[:1] if self.kind == "parquet" else self.rows:  # there each row has all
            if not row.keys() <= names.keys():
                names |= dict.fromkeys(row)
        return list(names)

    def texts(self, name: str, option: str) -> list[str | None]:
        """Return a column as text: the characters of the file, null where nothing stands.

        Raises:
            PrerequisiteError: No row has the column.
        """
        self.check(name, option)
        return [json_text.as_text(row.get(name)) for row in self.rows]

    def check(self, name: str, option: str) -> None:
        """Refuse a column that no row has."""
        if not any(name in row for row in self.rows):
            few = self.kind == "csv" and len(self.columns) == 1
            hint = " Is it another separator? (--separator)" if few else ""
            raise PrerequisiteError(
                f"{option} {name!r} is no column of {self.name}; {closest(name, self.columns)}.{hint}"
            )

    def place(self, i: int) -> str:
        """Return where a row stands in its file, in words: ``line 3``, or ``row 3`` where a file has no lines."""
        return f"{'row' if self.kind == 'parquet' else 'line'} {self.lines[i]}"

    def refuse(self, i: int, problem: str) -> PrerequisiteError:
        """Return the error that names a row."""
        return PrerequisiteError(f"{self.name} {self.place(i)}: {problem}; nothing was imported.")


_WHOLE = re.compile(r"[+-]?[0-9]+")
_FRACTION = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def typed(rows: Rows, types: Mapping[str, str]) -> Rows:
    """Return the rows with columns taken as another type.

    Raises:
        ParameterError: An unknown type.
        PrerequisiteError: No row has the column, or a value is none of the type.
    """
    for name, kind in types.items():
        if kind not in TYPES:
            raise ParameterError(
                f"--type {name}={kind}: the type must be one of {', '.join(TYPES)}; {closest(kind, TYPES)}."
            )
        rows.check(name, "--type")

    def typed_row(i: int, row: dict[str, Any]) -> dict[str, Any]:
        for name, kind in types.items():
            text = json_text.as_text(row.get(name))
            if text is None:
                continue
            try:
                row = row | {name: _as(text, kind)}
            except ValueError as error:
                raise rows.refuse(i, f"{name!r} is {text[:60]!r}, no {kind} ({error})") from None
        return row

    return replace(rows, rows=spilled.listed(typed_row(i, row) for i, row in enumerate(rows.rows))) if types else rows


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
