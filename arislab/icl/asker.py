"""How the sets of a search, and of its report, are asked.

All answer the same rows with the same random seeds, so that differences are paired. This module does not know how sets
are searched, nor what is decided by what they are worth.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch
from arislab.icl import answers
from arislab.icl.prompt import with_examples
from arislab.task import Task

_N_DRAWN = 25  # sets of each size


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
        self.label = f"{model} {batch.canonical(dict(parameters))} {task.version} {sorted(texts.items())}"
        """What the answers depend on beside sets and rows, for the name of the search (``icl.search(label=…)``)."""

    def requests(self, example_ids: Sequence[str], candidates: pl.DataFrame) -> pl.DataFrame:
        """Return what a set would ask about candidates, as ``batch.build_requests`` does."""
        write = with_examples(self.task.to_messages, [self.texts[i] for i in example_ids])
        return batch.build_requests(candidates, write, **self.how)

    def drawn(self, rows: pl.DataFrame, *, sizes: Sequence[int]) -> pl.DataFrame:
        """Return a few requests of a search, 25 random sets of each size on four rows each, for ``icl.cost``.

        Args:
            rows: Candidates of the search.
            sizes: Examples a set.
        """
        ids = pl.Series(list(self.texts))
        return pl.concat(
            self.requests(ids.sample(min(size, ids.len()), seed=i).to_list(), rows.sample(min(4, rows.height), seed=i))
            for i in range(_N_DRAWN)
            for size in sizes
        )

    def report(self, arms: pl.DataFrame, *, search_id: str) -> pl.DataFrame:
        """Return the answers of the sets of a report, each asked once however many arms hold it.

        Args:
            arms: From ``icl.reference_sets``.
            search_id: Of the search.

        Returns:
            One row per arm and candidate: arm, candidate_id, quality and tokens (means over the arm's sets).
        """
        wanted = arms.unique(["set_id", "candidate_id"], maintain_order=True).with_columns(search_id=pl.lit(search_id))
        # sets with the same first examples stand together: servers share the prefix
        answered = self(wanted.sort("example_ids", maintain_order=True), purpose="holdout")
        answered = answered.select("set_id", "candidate_id", "quality", "tokens")
        scores = arms.join(answered, on=["set_id", "candidate_id"], maintain_order="left")
        return scores.group_by("arm", "candidate_id", maintain_order=True).agg(pl.mean("quality", "tokens"))

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
