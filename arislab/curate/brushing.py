"""The widget of an ``Explorer``: what the browser needs to brush by itself, and what it asks the kernel for.

``explore.js`` is the other half. This module is imported when a widget is made, for it loads ipywidgets.
"""

from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

_FOLDER = Path(__file__).parent
SIZE = 10
"""Rows of a page."""


class Explored(Protocol):
    """What a widget shows of an explorer, and does with it."""

    def settle(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take over brushes and cut from the browser; return what is said of them."""

    def page(self, first: int, size: int) -> dict[str, Any]:
        """Return rows that the selection holds, with their texts."""

    def review(self) -> dict[str, Any]:
        """Hand the selection over."""


class Brushed(anywidget.AnyWidget):  # type: ignore[misc]
    """Linked histograms that are brushed in the browser."""

    _esm = (_FOLDER / "explore.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "explore.css").read_text(encoding="utf-8")
    about = traitlets.Dict().tag(sync=True)
    """What does not change: n, scored, columns, by, title, curve, labels, before."""
    block = traitlets.Bytes().tag(sync=True)
    """Scores (Float64, best first) and then codes (Uint8), column after column."""
    state = traitlets.Dict().tag(sync=True)
    """brushes (by column, codes), cut (rule, fraction, threshold), seq (counts what the browser sent)."""
    told = traitlets.Dict().tag(sync=True)
    """What the kernel says of a state: selection, command, worth, moved, seq."""

    def __init__(self, explored: Explored, **traits: Any) -> None:
        super().__init__(**traits)
        self._explored = explored
        self.observe(lambda change: self.set_trait("told", explored.settle(change["new"])), names="state")
        self.on_msg(self._asked)

    def _asked(self, _: object, content: dict[str, Any], __: object) -> None:
        if content.get("kind") == "rows":
            self.send({"kind": "rows"} | self._explored.page(int(content["first"]), SIZE))
        elif content.get("kind") == "review":
            self.send({"kind": "review"} | self._explored.review())
