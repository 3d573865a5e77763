"""How the sets of a search, and of its report, are asked.

The same rows with the same random seeds, so that differences are paired.

This module does not know how sets are searched, nor what is decided by what they are worth.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch
from arislab.icl import answers
from arislab.icl.prompt import with_examples
from arislab.task import Task


class Asker:
    """Asks cells (a set of examples on a row) as ``icl.search`` wants them, and keeps count of what became of each.

    It is called once a round; what a round wants is written before it is sent, so that after a failure only the rest is
    asked.

    Args:
        texts: Example id to what was asked and what was answered: the turns that the prompt shows.
        candidates: Rows of ``candidates`` that may be asked.
        model: Name as the server knows it.
        parameters: Of ``batch.build_requests``: temperature, max_tokens, seed and so on.
        server: As in ``batch.answer``.
        folder: As in ``batch.answer``.
        recorded: As in ``icl.ask``.
        searched: As in ``icl.ask``.
        task: Writes the question, and its scorers judge.
    """

    def __init__(
        self,
        texts: Mapping[str, tuple[str, str]],
        candidates: pl.DataFrame,
        *,
        model: str,
        parameters: Mapping[str, Any],
        server: batch.Server,
        folder: Path,
        recorded: batch.Recorded,
        searched: batch.Recorded,
        task: Task,
    ) -> None:
        self.texts, self.candidates, self.task = texts, candidates, task
        # paired: a row has the same seed under every set, else the seeds' luck would be part of each difference
        self.how = {**parameters, "model": model, "pair_by_candidate": True}
        self.where: dict[str, Any] = {"server": server, "folder": folder, "recorded": recorded, "searched": searched}
        self.counts: dict[str, int] = {}
        """Cells by what became of them, for the run's account; ``unsent``: never asked."""

    def requests(self, example_ids: Sequence[str], candidates: pl.DataFrame) -> pl.DataFrame:
        """Return what a set would ask about candidates, as ``batch.build_requests`` does."""
        write = with_examples(self.task.to_messages, [self.texts[i] for i in example_ids])
        return batch.build_requests(candidates, write, **self.how)

    def __call__(self, cells: pl.DataFrame, *, purpose: str = "search") -> pl.DataFrame:
        """Return the answers of cells as ``icl.ask`` does.

        Args:
            cells: As in ``icl.ask``.
            purpose: As in ``icl.ask``.
        """
        arms = {
            part["set_id"][0]: self.requests(
                part["example_ids"][0], self.candidates.join(part, on="candidate_id", how="semi")
            )
            for part in cells.partition_by("set_id", maintain_order=True)
        }
        answered = answers.ask(
            cells, arms, candidates=self.candidates, task=self.task, purpose=purpose, **self.where
        )  # one row per cell
        for status, n in answered.group_by(pl.col("status").fill_null("unsent")).len().iter_rows():
            self.counts[status] = self.counts.get(status, 0) + n
        return answered
