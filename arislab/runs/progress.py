"""How far a run is: which cell of how many, and the progress bars that this cell shows.

What a bar says is in the messages that the kernel sends to every front end anyway. So a notebook does nothing for who
watches, and a run takes as long, and its record holds the same, whether somebody watches or not.
"""

import html
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arislab.system.text import one_line

_PAUSE_S = 0.2  # between two steps that are told while a cell runs
_BETWEEN = " · "
_LINE = re.compile(r"\S+ (?P<cell>\d+)/(?P<n>\d+), \d+:\d\d, (?P<words>.*)")
_BOX, _PROGRESS, _LEFT = "HBoxModel", "FloatProgressModel", ("", "info")


@dataclass(frozen=True)
class Step:
    """Where a run is."""

    cell: int
    """The code cell that runs, from 1."""
    n_cells: int
    heading: str
    """The heading under which the cell stands, else its first line."""
    bars: tuple[str, ...] = ()
    """What each progress bar of the cell says that is not at its end, in the order in which they were shown."""

    def words(self) -> str:
        """Return what is being done: the inner bars first, for a line ends where the window does."""
        return _BETWEEN.join([self.heading, *reversed(self.bars)])

    def line(self, phase: str, seconds: float) -> str:
        """Return the step as a line of a log; ``read_line`` reads it.

        Args:
            phase: Stands before it.
            seconds: Since the run began.
        """
        minutes, rest = divmod(int(seconds), 60)
        return f"{phase} {self.cell}/{self.n_cells}, {minutes}:{rest:02}, {self.words()}"


def read_line(line: str) -> Step | None:
    """Return the step that a line of a log tells of; null: it tells of none.

    Example:
        >>> read_line("curate 7/15, 0:12, What is good? · score: 3/9")
        Step(cell=7, n_cells=15, heading='What is good?', bars=('score: 3/9',))
    """
    told = _LINE.fullmatch(line.rstrip("\n"))
    if told is None:
        return None
    heading, *bars = told["words"].split(_BETWEEN)
    return Step(int(told["cell"]), int(told["n"]), heading, tuple(reversed(bars)))


class Bars:
    """The progress bars of tqdm that a cell shows, as the kernel tells of its widgets."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Any]] = {}

    def hear(self, message: dict[str, Any]) -> bool:
        """Take in a message of the kernel, and say whether it was about a widget of this cell."""
        content, kind = message["content"], message["msg_type"]
        name = content.get("comm_id")
        if kind == "comm_close":
            return self._models.pop(name, None) is not None
        state = content.get("data", {}).get("state")
        if not isinstance(state, dict) or (kind == "comm_msg" and name not in self._models):
            return False
        self._models.setdefault(name, {}).update(state)
        return True

    def clear(self) -> None:
        """Forget them: another cell runs."""
        self._models.clear()

    def words(self) -> tuple[str, ...]:
        """Return what each bar that goes on says.

        Example:
            >>> bars = Bars()
            >>> for name, state in {
            ...     "a": {"value": "batch:  20%"},
            ...     "b": {"_model_name": "FloatProgressModel", "bar_style": ""},
            ...     "c": {"value": " 1/5 [00:02&lt;00:08, 2.00s/req]"},
            ...     "d": {"_model_name": "HBoxModel", "children": ["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_c"]},
            ... }.items():
            ...     _ = bars.hear({"msg_type": "comm_open", "content": {"comm_id": name, "data": {"state": state}}})
            >>> bars.words()
            ('batch: 1/5 [00:02<00:08, 2.00s/req]',)
        """
        return tuple(filter(None, (self._of(box) for box in self._models.values() if box.get("_model_name") == _BOX)))

    def _of(self, box: dict[str, Any]) -> str:
        children = [self._models.get(str(name).removeprefix("IPY_MODEL_"), {}) for name in box.get("children") or []]
        bars = [child for child in children if child.get("_model_name") == _PROGRESS]
        if not bars or any(bar.get("bar_style") not in _LEFT for bar in bars):
            return ""
        texts = [child["value"] for child in children if isinstance(child.get("value"), str)]
        words = one_line(html.unescape(re.sub(r"<[^>]+>", "", " ".join(texts))))
        return re.sub(r" \d+%(?= \d+/)", "", words)  # the share of a count that stands beside it


class Teller:
    """Tells the steps of a run, not more often than somebody can read them.

    Args:
        tell: Gets each step; null: nobody watches.
        n_cells: Code cells in all.
        clean: Takes secrets out of what is told.
    """

    def __init__(
        self, tell: Callable[[Step], object] | None, *, n_cells: int, clean: Callable[[str], str] = str
    ) -> None:
        self._tell, self._n_cells, self._clean = tell, n_cells, clean
        self._bars, self._cell, self._heading, self._told_at = Bars(), 0, "", 0.0

    def cell_starts(self, cell: int, heading: str) -> None:
        """Tell that a cell runs."""
        self._bars.clear()
        self._cell, self._heading = cell, one_line(self._clean(heading))
        self._told(())

    def hear(self, message: dict[str, Any]) -> None:
        """Take in a message of the kernel, and tell what the bars say by now."""
        if self._tell is None or not message["msg_type"].startswith("comm_") or not self._bars.hear(message):
            return
        if time.monotonic() - self._told_at >= _PAUSE_S:
            self._told(tuple(self._clean(words) for words in self._bars.words()))

    def _told(self, bars: tuple[str, ...]) -> None:
        self._told_at = time.monotonic()
        if self._tell is not None and self._cell:
            self._tell(Step(self._cell, self._n_cells, self._heading, bars))
