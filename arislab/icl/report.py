"""What a search comes to: how far its own score was from the truth, and the set that later phases show.

It does not know how sets were searched, nor what the report asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab import batch
from arislab.icl import surrogate
from arislab.icl.loop import Search
from arislab.icl.sets import set_id
from arislab.task import Task


@dataclass(frozen=True, repr=False)
class Optimism:
    """The score by which a set won, beside what it is worth on rows that the search never saw."""

    search_score: float
    """Of the search, 0..1; the luckiest of many."""
    estimate: float
    """Of the surrogate, 0..1."""
    fresh: tuple[float, float, float]
    """On fresh rows: mean, low, high (95 %)."""
    evidence: float
    """That the choice of examples matters, nats."""

    @property
    def points(self) -> float:
        """How much better the search made the set look, points of quality × 100."""
        return 100 * (self.search_score - self.fresh[0])

    @property
    def matters(self) -> str:
        """Whether the choice of examples matters: ``yes`` or ``not shown``."""
        return "yes" if self.evidence > surrogate.CLEAR else "not shown"

    def _text(self, gone: str, strong: str) -> str:
        mean, low, high = self.fresh
        return (
            f"Search score {gone}{self.search_score:.3f}{gone}, surrogate {self.estimate:.3f}, on fresh rows "
            f"{strong}{mean:.3f}{strong} [{low:.3f}, {high:.3f}]. Selection optimism: {self.points:+.1f} points. Does "
            f"the choice of examples matter? {self.matters} ({self.evidence:.1f} nats, {surrogate.CLEAR:g} are needed)."
        )

    def __repr__(self) -> str:
        return self._text("", "")

    def _repr_markdown_(self) -> str:
        return self._text("~~", "**")


def optimism(search: Search, means: pl.DataFrame) -> Optimism:
    """Return how optimistic a search was about the set that it chose.

    Args:
        search: Of which the arm ``chosen`` came.
        means: Of the arms on fresh rows, from ``evaluate.summary``: arm, mean, low, high; ``chosen`` is among them.
    """
    fresh = means.filter(pl.col("arm") == "chosen").select("mean", "low", "high").row(0)
    return Optimism(search.score, search.estimate[0], fresh, search.evidence)


def set_row(
    search: Search,
    means: pl.DataFrame,
    comparison: pl.DataFrame,
    *,
    task: Task,
    model: str,
    parameters: Mapping[str, Any],
    **facts: Any,
) -> pl.DataFrame:
    """Return the row of ``icl_examples`` for the set that a search chose.

    Args:
        search: Of which the arm ``chosen`` came.
        means: Of the arms on fresh rows, from ``evaluate.summary``.
        comparison: From ``stats.verdicts``; what it says of chosen against zero-shot is the verdict.
        task: Whose examples they are.
        model: That answered.
        parameters: With which it was asked.
        facts: What else the table holds of the set: use_case, use_case_column, approve_policy, n_holdout_uses,
            data_version.
    """
    chosen = means.filter(pl.col("arm") == "chosen").row(0, named=True)
    gain = comparison.filter(pl.col("arm") == "chosen", pl.col("baseline") == "zero-shot").row(0, named=True)
    ids = list(search.example_ids)
    row = {
        "id": f"{search.search_id}-{set_id(ids)}",
        "search_id": search.search_id,
        "task": task.name,
        "example_ids": ids,
        "k": len(ids),
        "validation_score": chosen["mean"],
        "ci_low": chosen["low"],
        "ci_high": chosen["high"],
        "n_validation": chosen["n"],
        "verdict": gain["verdict"],
        "model": model,
        "scorer_version": task.version,
        "params": batch.canonical(dict(parameters)),
    }
    return pl.DataFrame([row | facts])  # one row: the set
