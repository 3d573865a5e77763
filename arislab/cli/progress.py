"""Where a run is, for who sits before it: a bar at a terminal; a line now and then in a file, a pipe and CI.

What is shown comes from ``runs.Step``. A reader that has gone, or a full disk behind a pipe, ends the showing and never
the run.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from arislab.runs.progress import Step
from arislab.system.text import print

_TICK_S = 0.5
_LINE_S = 10.0
"""Least seconds between two lines about the same cell."""
_QUIET_S = 60.0
"""Seconds after which a line says that a cell goes on which tells nothing."""
_SHORT_S = 1.0
"""A cell that is done by then has no line."""
_COLUMNS = 120
_BAR = "{desc} {n_fmt}/{total_fmt} |{bar:16}| {elapsed}{postfix}"


class View(Protocol):
    """One way to show steps."""

    def show(self, step: Step) -> None:
        """Take in where the run is."""

    def tick(self) -> None:
        """Do what is due: it is called twice a second."""

    def close(self) -> None:
        """Leave the place to what is printed next."""


class Bar:
    """A line at a terminal that is written over and over; nothing is left of it.

    Args:
        phase: Stands before it.
    """

    def __init__(self, phase: str) -> None:
        from tqdm import tqdm

        # nrows: a terminal that does not know its size would get none of it
        form = {"bar_format": _BAR, "ncols": _columns(), "nrows": 20}
        self._bar = tqdm(desc=phase, total=1, file=sys.stdout, leave=False, mininterval=0, **form)
        self._bar.set_postfix_str("starting", refresh=False)

    def show(self, step: Step) -> None:
        """Take in where the run is."""
        self._bar.n, self._bar.total = step.cell, step.n_cells
        self._bar.set_postfix_str(step.words(), refresh=False)
        self.tick()

    def tick(self) -> None:
        """Draw it: the time goes on."""
        # looked up each time: a window may be made narrower, and a line that does not fit would stay on the screen
        self._bar.ncols = _columns()
        self._bar.refresh()

    def close(self) -> None:
        """Remove it."""
        self._bar.close()


class Lines:
    """Lines: one for each cell that takes its time, more while that goes on.

    Args:
        phase: Stands before each.
        short_s: A cell that is done after so many seconds has none.
        clock: Seconds, going on.
    """

    def __init__(self, phase: str, *, short_s: float = _SHORT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._phase, self._short_s, self._clock, self._began = phase, short_s, clock, clock()
        self._step: Step | None = None
        self._last: Step | None = None  # that was printed
        self._since = self._printed = self._began
        self._is_begun = False

    def show(self, step: Step) -> None:
        """Take in where the run is."""
        if self._step is None or step.cell != self._step.cell:
            self._since = self._clock()
        self._step = step

    def tick(self) -> None:
        """Print what is due."""
        step, last, now = self._step, self._last, self._clock()
        if not self._is_begun:
            self._is_begun = True
            print(f"{self._phase}: running …", flush=True)
        if step is None:
            return
        if last is None or step.cell != last.cell:
            is_due = now - self._since >= self._short_s
        else:
            is_due = now - self._printed >= (_LINE_S if step.bars != last.bars else _QUIET_S)
        if is_due:
            self._last, self._printed = step, now
            line = step.line(self._phase, now - self._began)
            print(line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 1]}…", flush=True)

    def close(self) -> None:
        """Nothing to do."""


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


@contextlib.contextmanager
def shown(phase: str, *, is_retold: bool = False) -> Iterator[Callable[[Step], object]]:
    """Show where a run of a phase is while the block lasts; give what it yields to ``runs.execute`` as ``tell``.

    Args:
        phase: As the user called it.
        is_retold: The steps are read out of the lines of another run (a rerun), which leaves short cells out already.
    """
    is_seen = sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    view: View = Bar(phase) if is_seen else Lines(phase, short_s=0.0 if is_retold else _SHORT_S)
    turn, ended = threading.Lock(), threading.Event()

    def do(act: Callable[..., Any], *given: Any) -> None:
        with turn:
            if not ended.is_set():
                try:
                    act(*given)
                except OSError:  # nobody reads any more: the run goes on all the same
                    ended.set()

    def ticks() -> None:
        while not ended.wait(_TICK_S):
            do(view.tick)

    do(view.tick)
    ticking = threading.Thread(target=ticks, daemon=True)
    ticking.start()
    try:
        yield lambda step: do(view.show, step)
    finally:
        ended.set()
        ticking.join()
        with contextlib.suppress(OSError):
            view.close()
