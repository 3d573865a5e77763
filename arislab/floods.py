"""An IPython extension of the kernels of recorded runs: what a cell prints ends somewhere.

A loop that prints a gigabyte would fill the disk with its log, and one text of that size the memory of whoever receives it; so the kernel
itself stops passing it on, and says how much it left out. This module loads nothing of arislab.
"""

import sys
from collections.abc import Callable
from typing import Any

CELL_CHARACTERS = 10_000_000
"""Most characters that a cell's stdout, and its stderr, pass on."""


class _Limited:
    """The ``write`` of a stream, up to a number of characters a cell."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self.left, self.n_dropped = write, CELL_CHARACTERS, 0

    def __call__(self, text: str) -> int:
        if not isinstance(text, str):
            self._write(text)  # raises what it always raised
        if len(text) <= self.left:
            self.left -= len(text)
            self._write(text)
        else:
            if self.left:
                self._write(text[: self.left])
            self.n_dropped += len(text) - self.left
            self.left = 0
        return len(text)

    def cell_ends(self) -> None:
        """Say what was left out, and begin to count anew."""
        if self.n_dropped:
            told = f"\n[{self.n_dropped:,} more characters were printed and not kept: a cell passes on {CELL_CHARACTERS:,}]\n"
            self._write(told)
        self.left, self.n_dropped = CELL_CHARACTERS, 0


def load_ipython_extension(shell: Any) -> None:
    """Limit stdout and stderr of this kernel."""
    for stream in (sys.stdout, sys.stderr):
        limited = _Limited(stream.write)
        stream.write = limited  # type: ignore[method-assign] # the kernel's stream; a wrapper would hide its other methods
        shell.events.register("post_run_cell", lambda _, limited=limited: limited.cell_ends())
