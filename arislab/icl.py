"""Search for the in-context examples that help most, on validation rows, within a budget of requests.

Paired successive halving (Jamieson & Talwalkar 2016, on common instances as in F-race, Birattari et al. 2002): all sets of a
round answer the same validation rows with the same random seeds; the better part of them goes on to more rows. Each round is one batch.
The score by which a set won is biased upward, since it was the luckiest of many: report ``holdout`` instead, on fresh rows.
This module does not know servers or tasks: it gets a function that answers and scores.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab.errors import ParameterError

Messages = list[dict[str, str]]
Ask = Callable[[list[tuple[str, ...]], pl.DataFrame], pl.DataFrame]
"""(ordered sets of example ids, candidates) -> one row per cell: set_id, candidate_id, quality (null = missing)."""


def set_id(example_ids: Sequence[str]) -> str:
    """Return the name of an ordered set of examples; the empty set is ``zero-shot``."""
    return "set-" + hashlib.sha256("\n".join(example_ids).encode()).hexdigest()[:16] if example_ids else "zero-shot"


def with_examples(
    to_messages: Callable[[dict[str, Any]], Messages], examples: Sequence[tuple[str, str]]
) -> Callable[[dict[str, Any]], Messages]:
    """Return a ``to_messages`` that shows the examples, as earlier turns, between system message and question.

    The examples come first, so that requests with the same set share their prefix at the server.

    Args:
        to_messages: Of the task.
        examples: (input, output) in prompt order.
    """
    turns = [
        m
        for asked, answered in examples
        for m in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]

    def write(candidate: dict[str, Any]) -> Messages:
        messages = to_messages(candidate)
        system = [m for m in messages if m["role"] == "system"]
        return [*system, *turns, *messages[len(system) :]]

    return write


def halves(
    validation: pl.DataFrame, *, n_search: int, n_holdout: int, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split validation candidates, shuffled, into rows for the search and fresh rows for the report.

    Args:
        validation: Candidates, one per group.
        n_search: Most rows for the search; at most half of all are taken.
        n_holdout: Most rows for the report.
        seed: Of the shuffle.

    Raises:
        ParameterError: Fewer than 20 candidates: nothing could be shown with them.
    """
    if validation.height < 20:
        raise ParameterError(
            f"there are {validation.height} independent validation candidates, at least 20 are needed (10 to search, 10 to report); compose or import more."
        )
    shuffled = validation.sort("candidate_id").sample(fraction=1.0, shuffle=True, seed=seed)
    n = min(n_search, shuffled.height // 2)
    return shuffled.head(n), shuffled.slice(n, n_holdout)


@dataclass(frozen=True)
class Search:
    """What a search tried and chose."""

    trials: pl.DataFrame
    """One row per set and round: trial_id, search_id, example_ids, k, order, score, n_validation, round, chosen."""
    example_ids: tuple[str, ...]
    """The chosen set, in prompt order."""
    score: float
    """Its mean quality on the rows of the search. The luckiest of many: never report it as the result."""
    n_requests: int
    """Cells asked."""
    search_id: str

    def __repr__(self) -> str:
        return f"Search {self.search_id}: {self.trials['example_ids'].n_unique()} sets, {self.n_requests:,} requests; chose {set_id(self.example_ids)} (search score {self.score:.3f}, optimistic)"


def plan(*, budget: int, n_sets: int, n_validation: int, rounds: int = 4, keep: float = 0.4) -> list[tuple[int, int]]:
    """Return (sets, validation rows each has seen by its end) for each round: about equal cost a round, at most ``budget`` in all.

    Example:
        >>> plan(budget=2000, n_sets=36, n_validation=300)
        [(36, 13), (14, 49), (5, 151), (2, 300)]
    """
    if budget < 2 * n_sets:
        raise ParameterError(
            f"budget must be at least 2 requests a set, got {budget} for {n_sets} sets; raise it, or try fewer sets."
        )
    steps, seen, sets, left = [], 0, n_sets, budget
    for i in range(rounds):
        more = min(max(1, left // (rounds - i) // sets), n_validation - seen)
        if more < 1 or more * sets > left:
            break
        seen, left = seen + more, left - more * sets
        steps.append((sets, seen))
        if sets == 1:
            break
        sets = max(2, int(sets * keep))
    return steps


def search(
    pool: pl.DataFrame,
    validation: pl.DataFrame,
    *,
    k: int,
    budget: int,
    ask: Ask,
    seed: int = 0,
    n_sets: int = 36,
    rounds: int = 4,
    label: str = "",
) -> Search:
    """Find a good ordered set of ``k`` examples.

    Args:
        pool: Examples to choose from: id.
        validation: Candidates to judge by: candidate_id. None of them may be a source of the pool.
        k: Examples a set.
        budget: Most requests to spend.
        ask: Answers and scores; called once a round, a cell is never asked twice.
        seed: Of the sets and of the order of rows.
        n_sets: Sets of the first round, drawn so that every example occurs about equally often; order at random.
        rounds: Batches.
        label: What else the answers depend on (model, temperature): part of the search's name.

    Raises:
        ParameterError: Pool or validation too small, or shared between each other.
    """
    if not 1 <= k <= pool.height:
        raise ParameterError(f"k must be 1..{pool.height} (the size of the pool), got {k}.")
    if not validation.height:
        raise ParameterError(
            "there are no validation candidates; compose or import more, so that the validation split has some."
        )
    if "candidate_id" in pool.columns and pool.join(validation, on="candidate_id", how="semi").height:
        raise ParameterError(
            "the pool holds answers about validation candidates; take examples from the train split only."
        )
    chance = random.Random(seed)
    sets = _draw(pool["id"].to_list(), k=k, n=n_sets, chance=chance)
    rows = validation.sort("candidate_id").sample(fraction=1.0, shuffle=True, seed=seed)
    search_id = (
        "icl-"
        + hashlib.sha256(
            f"{label}:{seed}:{k}:{budget}:{sorted(pool['id'])}:{rows['candidate_id'].to_list()}".encode()
        ).hexdigest()[:12]
    )
    names = {set_id(s): s for s in sets}
    cells = pl.DataFrame(schema={"set_id": pl.String, "candidate_id": pl.String, "quality": pl.Float64})
    trials: list[dict[str, Any]] = []
    for i, (n, seen) in enumerate(
        plan(budget=budget, n_sets=len(sets), n_validation=rows.height, rounds=rounds), start=1
    ):
        sets = sets[:n]
        asked = trials[-1]["_seen"] if trials else 0
        fresh = ask(sets, rows[asked:seen])
        cells = pl.concat([cells, fresh.select("set_id", "candidate_id", pl.col("quality").cast(pl.Float64))])
        alive = cells.filter(pl.col("set_id").is_in([set_id(s) for s in sets]))
        means = (
            alive.group_by("set_id")
            .agg(score=pl.col("quality").mean(), n=pl.col("quality").count())
            .sort(["score", "set_id"], descending=[True, False], nulls_last=True)
        )
        for name, score, count in means.iter_rows():
            trials.append(
                {
                    "trial_id": f"{search_id}-{i}-{name}",
                    "search_id": search_id,
                    "example_ids": list(names[name]),
                    "k": k,
                    "order": "as drawn",
                    "score": score,
                    "n_validation": count,
                    "round": i,
                    "chosen": False,
                    "_seen": seen,
                }
            )
        sets = [names[name] for name in means["set_id"]]
    best = sets[0]
    last = trials[-1]["round"]
    for trial in trials:
        trial["chosen"] = trial["round"] == last and tuple(trial["example_ids"]) == best
    frame = pl.DataFrame(trials, schema_overrides={"score": pl.Float64}).drop("_seen")
    score = frame.filter("chosen")["score"][0]
    return Search(frame, best, float("nan") if score is None else float(score), cells.height, search_id)


def _draw(ids: list[str], *, k: int, n: int, chance: random.Random) -> list[tuple[str, ...]]:
    """Draw distinct ordered sets from shuffled decks, so that every example occurs about equally often."""
    most = math.perm(len(ids), k)
    sets: dict[tuple[str, ...], None] = {}
    deck: list[str] = []
    while len(sets) < min(n, most):
        if len(deck) < k:
            rest = [i for i in ids if i not in deck]
            chance.shuffle(rest)
            deck += rest
        drawn, deck = tuple(deck[:k]), deck[k:]
        sets[drawn] = None
    return list(sets)
