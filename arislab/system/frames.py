"""The house style of tables: how a frame is written for people, in HTML and as text.

In a notebook polars' frames and columns are shown in it: no row of types, numbers with separators and rounded, a dash
for the unknown, long texts wrapped, rows that are left out counted. What ``pl.Config`` is told of rows, columns, types
and the length of texts still counts. Nothing changes outside of a notebook's kernel: scripts see polars' own tables.

Texts are shown as they are. polars escapes what would be HTML, but Jupyter typesets what stands between two dollar
signs in any HTML that a cell shows: of "$5 … $9" in a column of answers it makes a formula. This module imports
neither polars nor IPython.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from arislab.system.text import AS_IS, html, one_line

UNKNOWN = "\N{EN DASH}"
"""Stands for null and NaN."""
_MOST_ROWS, _MOST_COLUMNS, _LONGEST = 24, 40, 400
"""Rows, columns and characters of a text that are shown of a frame, where ``pl.Config`` says nothing else."""
_TINY = 0.0005
"""Below it a number would look like 0."""
_NAMING = ("id", "seed", "seq", "version", "year")
"""Last words of the names of columns whose whole numbers are names and no counts: they get no separators."""
_TYPES = (("polars.dataframe.frame", "DataFrame"), ("polars.series.series", "Series"))
_TEXT = "text-align: left; white-space: pre-wrap; overflow-wrap: break-word; max-width: 46em; vertical-align: top"
_NUMBER = "text-align: right; white-space: nowrap; vertical-align: top"
_HIDE = "POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES"


def written(value: Any, *, digits: int = 3, is_count: bool = True) -> str:
    """Return a value of a frame as people write it.

    Args:
        value: Of any type that a frame holds.
        digits: Of numbers that are not whole, behind the point; one below .0005 is written with its power of ten.
        is_count: Whether whole numbers get separators.

    Example:
        >>> [written(value) for value in (6000, 0.25, 0.00002, None, ["a", "b"])]
        ['6,000', '0.250', '2.0e-05', '–', 'a, b']
    """
    if value is None or value != value:  # NaN alone is not itself
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if is_count else str(value)
    if isinstance(value, float):
        is_lost = 0 < abs(value) < _TINY
        return f"{value:.1e}" if is_lost else f"{value:,.{digits}f}"
    if isinstance(value, datetime):
        zoned = value.tzinfo is not None
        return f"{value.astimezone(UTC) if zoned else value:%Y-%m-%d %H:%M}{' UTC' if zoned else ''}"
    if isinstance(value, Mapping):
        parts = [f"{str(name).replace('_', ' ')} {written(one, digits=digits)}" for name, one in value.items()]
        return ", ".join(parts)
    if isinstance(value, list):
        return ", ".join(written(one, digits=digits) for one in value) or UNKNOWN
    return str(value)


def markup(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    is_text: Sequence[bool],
    caption: str = "",
    safe: Callable[[str], str] = html,
) -> str:
    """Return a table as HTML; texts stand left, numbers right.

    Args:
        names: Of the columns; a long one is broken after an underscore. Empty: no row of names.
        rows: Texts, as many a row as there are names.
        is_text: Which columns hold texts.
        caption: Stands above it.
        safe: Makes HTML of a text that somebody else may have written.
    """
    sides = ["left" if text else "right" for text in is_text]
    head = "".join(
        f'<th style="text-align: {side}; vertical-align: bottom">{safe(name).replace("_", "_<wbr>")}</th>'
        for name, side in zip(names, sides, strict=False)
    )
    styles = [_TEXT if text else _NUMBER for text in is_text]
    lines = [
        "".join(f'<td style="{style}">{safe(text)}</td>' for text, style in zip(row, styles, strict=True))
        for row in rows
    ]
    above = f'<caption style="white-space: nowrap; text-align: left">{safe(caption)}</caption>' if caption else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    head = f"<thead><tr>{head}</tr></thead>" if names else ""
    return f"<table {AS_IS}>{above}{head}<tbody>{body}</tbody></table>"


def plain(names: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: Sequence[bool], caption: str = "") -> str:
    """Return a table as text, one line a row; arguments as of ``markup``."""
    table = [[one_line(text) for text in row] for row in (names, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(t.ljust(w) if left else t.rjust(w) for t, w, left in zip(row, widths, is_text, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(([caption] if caption else []) + lines)


def show_in_house_style() -> None:
    """Let the notebook that this process is a kernel of, if any, show frames in the house style."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    if shell := get_ipython():
        os.environ.setdefault(_HIDE, "1")  # of frames that are printed; as pl.Config does it
        for module, name in _TYPES:
            formatters = shell.display_formatter.formatters
            formatters["text/html"].for_type_by_name(module, name, _html)
            formatters["text/plain"].for_type_by_name(module, name, _plain)


def _html(frame: Any) -> str:
    if not _is_plain(frame):  # a frame with a table of its own
        return f"<div {AS_IS}>{frame._repr_html_()}</div>"
    names, rows, is_text, caption = _parts(frame)
    if not names:
        return "<i>no rows</i>"
    return f'<div style="overflow-x: auto">{markup(names, rows, is_text=is_text, caption=caption)}</div>'


def _plain(frame: Any, printer: Any, cycle: bool) -> None:  # noqa: FBT001 (IPython calls it so)
    names, rows, is_text, caption = _parts(frame)
    printer.text(plain(names, rows, is_text=is_text, caption=caption) if names else "no rows")


def _is_plain(frame: Any) -> bool:
    return (type(frame).__module__, type(frame).__name__) in _TYPES


def _limit(name: str, otherwise: int) -> int:
    """What ``pl.Config`` says, which keeps it in the environment; below 0 it means all."""
    told = os.environ.get(f"POLARS_FMT_{name}", "")
    return otherwise if not told.lstrip("-").isdigit() else int(told) if int(told) >= 0 else sys.maxsize


def _parts(frame: Any) -> tuple[list[str], list[list[str]], list[bool], str]:
    """Names, rows and sides of what is shown of a frame or a column, and what is said of the rest."""
    whole = frame if hasattr(frame, "columns") else frame.to_frame()
    n_columns = _limit("MAX_COLS", _MOST_COLUMNS)
    shown = whole[:, : min(n_columns, whole.width)]
    n_rows = _limit("MAX_ROWS", _MOST_ROWS)
    is_cut = whole.height > n_rows
    first, last = (math.ceil(n_rows / 2), n_rows // 2) if is_cut else (whole.height, 0)
    longest = _limit("STR_LEN", _LONGEST)
    is_count = [name.split("_")[-1] not in _NAMING for name in shown.columns]

    def line(row: tuple[Any, ...]) -> list[str]:
        texts = [written(value, is_count=count) for value, count in zip(row, is_count, strict=True)]
        return [text if len(text) <= longest else f"{text[:longest].rstrip()}…" for text in texts]

    rows = [line(row) for row in shown.head(first).iter_rows()]
    rows += [["…"] * shown.width] if is_cut else []
    rows += [line(row) for row in shown.tail(last).iter_rows()] if last else []
    is_text = [not dtype.is_numeric() for dtype in shown.dtypes]
    names = list(shown.columns)
    if os.environ.get(_HIDE) == "0":  # asked for by pl.Config
        names = [f"{name} ({dtype})" for name, dtype in shown.schema.items()]
    left_out = [f"{n_rows:,} of {whole.height:,} rows"] if is_cut else [] if whole.height else ["no rows"]
    left_out += [f"{shown.width} of {whole.width:,} columns"] if shown.width < whole.width else []
    return names, rows, is_text, ", ".join(left_out)
