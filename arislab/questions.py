"""What was asked about a candidate: the question of its profile, and others that were recorded under its name.

An import may bring several questions of one ``--id``::

    {"who": "Ann", "q": "Why is it dark at night?", "a": "The sun is elsewhere."}
    {"who": "Ann", "q": "How far is Mars?", "a": "Very."}

The candidate's profile holds the first one, ``{"input": "Why is it dark at night?"}``; each answer keeps its own as
``input`` of ``training_data_raw``, where ``messages`` is null. What is written, scored or compared about such an answer
is about its own question.

This module does not know tasks. A profile without ``input`` has no place for a question: the task writes about the
profile as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl


def about(candidate: dict[str, Any], question: str | None) -> dict[str, Any]:
    """Return a candidate (profile parsed) as it was when a recorded question was asked; null: nobody knows which.

    Example:
        >>> about({"candidate_id": "Ann", "profile": {"input": "Why?", "level": 2}}, "How?")["profile"]
        {'input': 'How?', 'level': 2}
    """
    profile = candidate["profile"]
    if question is None or not takes(profile) or profile["input"] == question:
        return candidate
    rest = {name: value for name, value in profile.items() if name != "messages"}  # they end in another question
    return candidate | {"profile": rest | {"input": question}}


def takes(profile: Mapping[str, Any]) -> bool:
    """Whether a profile has a place for a question."""
    return type(profile.get("input")) is str  # a json_text.Number is a number


def each(candidate: dict[str, Any], recorded: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a candidate (profile parsed) as it is, then once for each other question that was recorded."""
    yield candidate
    for question in recorded:
        if (other := about(candidate, question)) is not candidate:
            yield other


def by_name(recorded: pl.DataFrame) -> dict[str, list[str]]:
    """Return the distinct questions of each candidate, in their order.

    Args:
        recorded: candidate_id and input (null: unknown), one row per output without messages.
    """
    pairs = recorded.select("candidate_id", "input").drop_nulls().unique(maintain_order=True)
    return dict(pairs.group_by("candidate_id", maintain_order=True).agg("input").iter_rows())
