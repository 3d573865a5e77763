"""Examples that phase 1 shows, so that a model answers better than its own prompt lets it.

What it writes then is trained with the prompt alone: the adapter learns to do without the examples (prompt
distillation). So each row keeps both, the messages that were sent and those without the examples.

Source:
    Askell et al. 2021, A General Language Assistant as a Laboratory for Alignment, section 2 (context distillation).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from arislab.errors import ParameterError
from arislab.icl.prompt import Write, with_examples

RECORDED = "examples.jsonl"
"""Name of the copy in a record."""


@dataclass(frozen=True, repr=False)
class Shown:
    """A set of examples in a prompt, and its name; none: the prompt as the task writes it."""

    name: str | None = None
    """Stands in ``shown`` of each row of ``training_data_raw``."""
    turns: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """What was asked and what was answered, in prompt order."""

    def __repr__(self) -> str:
        return f"{len(self.turns)} examples are shown ({self.name})" if self.turns else "no examples are shown"

    def over(self, to_messages: Write) -> Write:
        """Return a ``to_messages`` that shows the examples; the task's own without any."""
        return with_examples(to_messages, self.turns) if self.turns else to_messages

    def marking(
        self, write: Callable[[pl.DataFrame], object], requests: pl.DataFrame, *, plain: pl.Series
    ) -> Callable[[pl.DataFrame], object]:
        """Return a writer of rows that marks those of these requests: what they were shown, and the prompt without it.

        Args:
            write: Makes rows of ``training_data_raw`` durable.
            requests: From ``batch.build_requests`` over ``over``.
            plain: Messages (JSON) of the same rows without the examples.
        """
        if not self.turns:
            return write
        marks = requests.select("custom_id").with_row_index("_mark").unique("custom_id", keep="first")

        def marked(rows: pl.DataFrame) -> object:
            # by the names alone: a join of the frames would copy all texts of large ones
            at = rows.select("custom_id").join(marks, on="custom_id", how="left", maintain_order="left")["_mark"]
            shown = pl.select(shown=pl.when(at.is_not_null()).then(pl.lit(self.name))).to_series()
            bare = rows.drop("shown", "plain", strict=False)
            return write(bare.with_columns(shown, plain.gather(at).alias("plain")))

        return marked


def of_file(path: str | Path) -> Shown:
    """Return the examples of a file: a JSON object with input and output (texts) a line, in prompt order.

    Under a run, the record gets a copy (``RECORDED``); when it is run again, $ARISLAB_EXAMPLES names that copy, and the
    file may be another or gone.

    Raises:
        ParameterError: There is no such file, or a line is no such object.
    """
    place = Path(path)
    source = Path(os.environ.get("ARISLAB_EXAMPLES", place))
    if not source.is_file():
        raise ParameterError(
            f"examples must be icl, or a file with a JSON object of input and output a line, got {str(path)!r}; there "
            f"is no such file, seen from {Path.cwd()}: give its whole path."
        )
    content = source.read_bytes()
    turns: list[tuple[str, str]] = []
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        asked, answered = (row.get("input"), row.get("output")) if isinstance(row, dict) else (None, None)
        if not (isinstance(asked, str) and isinstance(answered, str) and asked.strip() and answered.strip()):
            raise ParameterError(
                f'line {number} of {place} is no example; one is {{"input": "the question as it is asked", "output": '
                '"the answer"}.'
            )
        turns.append((asked, answered))
    if not turns:
        raise ParameterError(f"{place} holds no example; leave examples empty to show none.")
    if folder := os.environ.get("ARISLAB_RUN_DIR"):
        (Path(folder) / RECORDED).write_bytes(content)
    return Shown(f"{place.name}-{hashlib.sha256(content).hexdigest()[:12]}", tuple(turns))
