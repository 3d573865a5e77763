"""A set of examples: its name, what it may hold, and the columns that tell of it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab.errors import ParameterError

Set = tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """What a set may look like."""

    n: int
    """Examples in the pool."""
    k: int
    """Examples a set."""
    pinned: Set = ()
    """Examples that every set holds."""
    group_of: tuple[int, ...] = ()
    """Of each example; no set holds two of one group. Empty: no such rule."""

    def __post_init__(self) -> None:
        groups = [self.group(i) for i in range(self.n)]
        if not 1 <= self.k <= self.n:
            raise ParameterError(f"k must be 1..{self.n} (the size of the pool), got {self.k}.")
        if len(self.pinned) > self.k:
            raise ParameterError(f"{len(self.pinned)} examples are pinned and k is {self.k}; raise k, or pin fewer.")
        if len({groups[i] for i in self.pinned}) < len(self.pinned):
            raise ParameterError(
                "two pinned examples are of one group (one_per), of which a set may hold one; unpin one."
            )
        if len(set(groups)) < self.k:
            raise ParameterError(
                f"k={self.k} examples of different groups (one_per) are asked for, and the pool has "
                f"{len(set(groups))}; lower k, or drop the rule."
            )

    def group(self, example: int) -> int:
        """Return the group of an example; without groups, each is its own."""
        return self.group_of[example] if self.group_of else example

    def allows(self, members: Sequence[int]) -> bool:
        """Return whether a set keeps the rules."""
        return len({self.group(i) for i in members}) == self.k and set(self.pinned) <= set(members)

    def fill(self, ranked: Iterable[int], n: int) -> list[int]:
        """Return the first ``n`` of ``ranked`` that go with the pinned ones and with each other."""
        taken = {self.group(i) for i in self.pinned}
        chosen: list[int] = []
        for i in ranked:
            if len(chosen) == n:
                break
            if self.group(i) not in taken:
                taken.add(self.group(i))
                chosen.append(i)
        return chosen


CELLS: dict[str, Any] = {
    "search_id": pl.String,
    "set_id": pl.String,
    "example_ids": pl.List(pl.String),
    "candidate_id": pl.String,
    "round": pl.Int64,
    "quality": pl.Float64,
    "status": pl.String,
    "tokens": pl.Int64,
    "known": pl.Boolean,
}
"""Columns of ``Search.cells``; known: taken from ``known``, not asked."""


def set_id(example_ids: Sequence[str]) -> str:
    """Return the name of an ordered set of examples; the empty set is ``zero-shot``."""
    return "set-" + hashlib.sha256("\n".join(example_ids).encode()).hexdigest()[:16] if example_ids else "zero-shot"
