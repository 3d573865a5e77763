"""Frames as people read them who know no data frames: names in words, no types or quotes, a dash for the unknown."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from arislab.review.layout import visible
from arislab.system.text import AS_IS, one_line

UNKNOWN = "\N{EN DASH}"
"""Stands for null and NaN."""


class Table:
    """A frame on a page; texts of others are shown as they are, and never read as HTML.

    Args:
        frame: Few rows: all of them are shown.
        caption: Stands above it.
        digits: Of numbers that are not whole, behind the point.

    Example:
        >>> print(Table(pl.DataFrame({"n_rows": [3], "share": [0.25], "note": [None]})))
        n rows  share  note
             3  0.250     –
    """

    def __init__(self, frame: pl.DataFrame, *, caption: str = "", digits: int = 3) -> None:
        self.caption, self.digits = caption, digits
        self.names = [name.replace("_", " ") for name in frame.columns]
        self.rows = [[self._text(value) for value in row] for row in frame.iter_rows()]
        self._is_text = [not frame.schema[name].is_numeric() for name in frame.columns]

    def _text(self, value: Any) -> str:
        if value is None or value != value:  # NaN alone is not itself
            return UNKNOWN
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, float):
            return f"{value:,.{self.digits}f}"
        if isinstance(value, datetime):
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if isinstance(value, pl.Series | list):
            return ", ".join(map(self._text, value)) or UNKNOWN
        if isinstance(value, Mapping):
            return ", ".join(f"{name.replace('_', ' ')} {self._text(one)}" for name, one in value.items())
        return str(value)

    def _repr_html_(self) -> str:
        sides = ["left" if is_text else "right" for is_text in self._is_text]

        def line(tag: str, texts: list[str]) -> str:
            cells = zip(texts, sides, strict=True)
            inside = "".join(f'<{tag} style="text-align: {side}">{visible(text)}</{tag}>' for text, side in cells)
            return f"<tr>{inside}</tr>"

        style = "white-space: nowrap; text-align: left"
        above = f'<caption style="{style}">{visible(self.caption)}</caption>' if self.caption else ""
        rows = "".join(line("td", row) for row in self.rows)
        return f"<table {AS_IS}>{above}<thead>{line('th', self.names)}</thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        table = [[one_line(text) for text in row] for row in (self.names, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join(([self.caption] if self.caption else []) + lines)


def as_of(moment: datetime) -> str:
    """Return when numbers were read, in words."""
    return f"as of {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; load the page again for newer numbers"
