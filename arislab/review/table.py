"""Frames as people read them who know no data frames: names in words, and every character shown.

The rest is the house style of tables (``system.frames``).
"""

from datetime import UTC, datetime

import polars as pl

from arislab.review.layout import visible
from arislab.system import frames
from arislab.system.kinds import takes_any_frame


class Table:
    """A frame on a page; texts of others are shown as they are, and never read as HTML.

    Args:
        frame: Few rows: all of them are shown.
        caption: Stands above it.
        digits: Of numbers that are not whole, behind the point.

    Example:
        >>> print(Table(pl.DataFrame({"n_rows": [3], "share": [0.25], "note": [None]})))
        n rows  share  note
             3  0.250  –
    """

    @takes_any_frame
    def __init__(self, frame: pl.DataFrame, *, caption: str = "", digits: int = 3) -> None:
        self.caption = caption
        self.names = [name.replace("_", " ") for name in frame.columns]
        self.rows = [[frames.written(value, digits=digits) for value in row] for row in frame.iter_rows()]
        self._is_text = [not frame.schema[name].is_numeric() for name in frame.columns]

    def _repr_html_(self) -> str:
        return frames.markup(self.names, self.rows, is_text=self._is_text, caption=self.caption, safe=visible)

    def __repr__(self) -> str:
        return frames.plain(self.names, self.rows, is_text=self._is_text, caption=self.caption)


def as_of(moment: datetime, *, again: str = "load the page again") -> str:
    """Return when numbers were read, in words; what is decided beside them since then does not stand there.

    Args:
        moment: When.
        again: What gives newer numbers.
    """
    return f"as of {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; {again} for newer numbers"
