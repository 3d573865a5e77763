"""log.txt of a run: what its kernel prints, which cell runs and what it failed with. A full disk ends nothing here."""

import errno
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from arislab.records.headline import HEADLINE_MIME
from arislab.records.outputs import INJECTED
from arislab.system.text import terminal

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk that is full, or of a share of it that is."""
LOG_BYTES = 50_000_000
"""Most characters that the cells of a run leave in its log; what the supervisor says is always written."""


class Log:
    """The file log.txt: what the kernel prints, and lines of the supervisor with the time before them."""

    def __init__(self, file: TextIO, *, clean: Callable[[str], str], echo: Callable[[str], object] | None) -> None:
        self._file, self._clean, self._echo, self._left = file, clean, echo, LOG_BYTES

    def printed(self, text: str) -> None:
        """Add what a cell printed, up to ``LOG_BYTES`` in all."""
        if self._left > 0:
            self.write(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self.line(f"[the cells printed more than {LOG_BYTES:,} characters: the rest is not kept]")

    def write(self, text: str) -> None:
        """Add text; a full disk loses it, and ends nothing."""
        try:
            self._file.write(terminal(self._clean(text)))
            self._file.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise

    def flush(self) -> None:
        """Nothing to do: each write is flushed."""

    def line(self, text: str) -> None:
        """Add a line of the supervisor; the caller's echo gets it too."""
        self.write(f"[{datetime.now(UTC):%H:%M:%S}] {text}\n")
        if self._echo is not None:
            self._echo(terminal(self._clean(text)))


class Watch:
    """Hooks of the client: which cell runs, and the error that ended the notebook."""

    def __init__(
        self, source: list[dict[str, Any]], log: Log, *, starts: Callable[[int, str], object] | None = None
    ) -> None:
        self.log, self._starts = log, starts
        self.cell: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.headline: dict[str, Any] | None = None
        self._source = source
        self._index = {cell.get("id"): index for index, cell in enumerate(source) if "id" in cell}
        self._total = sum(cell["cell_type"] == "code" for cell in source)
        self._done = 0

    def cell_starts(self, cell: Any, cell_index: int) -> None:
        """Note that a cell runs; the one with the passed parameters is none of the user's."""
        if INJECTED in cell.metadata.get("tags", []):
            return
        self._done += 1
        index = self._index.get(cell.get("id"), cell_index)
        self.cell = {"index": index, "id": cell.get("id"), "heading": self._heading(index, cell.source)}
        self.log.line(f"cell {self._done}/{self._total}: {self.cell['heading']}")
        if self._starts is not None:
            self._starts(self._done, self._section(index) or self.cell["heading"])

    def cell_ends(self, cell: Any) -> None:
        """Keep the headline, if the cell showed one."""
        for output in cell.outputs:
            self.headline = output.get("data", {}).get(HEADLINE_MIME, self.headline)

    def cell_fails(self, cell: Any, error: Any) -> None:
        """Keep the error that ended the notebook, and write its traceback."""
        self.error = {"ename": str(error.ename), "evalue": str(error.evalue)}
        traceback = str(error.traceback)
        if error.ename == "NoneType":
            # what IPython answers when a value could not be displayed: the error is among the outputs
            shown = [output for output in cell.outputs if output.output_type == "error"]
            if shown:
                self.error = {"ename": str(shown[-1].ename), "evalue": str(shown[-1].evalue)}
                traceback = "\n".join(map(str, shown[-1].traceback))
        self.log.write(f"{traceback}\n")

    def _heading(self, index: int, source: str) -> str:
        """Return the heading right above the cell, else its first line."""
        above = self._source[index - 1] if 0 < index <= len(self._source) else None
        return (_heading_in(above) if above is not None else None) or source.strip().splitlines()[0]

    def _section(self, index: int) -> str | None:
        """Return the heading under which a cell stands, however far above it."""
        return next(filter(None, map(_heading_in, reversed(self._source[:index]))), None)


def _heading_in(cell: dict[str, Any]) -> str | None:
    """The last heading in a cell of words; null: it has none, or is code."""
    if cell["cell_type"] != "markdown":
        return None
    headings = re.findall(r"^#+ *(.+)$", "".join(cell["source"]), re.MULTILINE)
    return str(headings[-1]) if headings else None
