"""Search for the in-context examples that help most, on validation rows, within a budget of requests.

A few rounds, each one batch. A surrogate (``surrogate``) learns from scattered cells, a set of examples on a validation
row, what examples, pairs and positions are worth; each round asks the sets that are best in draws of its posterior, the
last one races the leaders on common rows. Below about 2,000 requests paired successive halving of random sets is as
good, and used instead (Jamieson and Talwalkar 2016, on common instances as in F-race, Birattari et al. 2002).

The truth is the table of cells. What is asked next is a pure function of the cells of earlier rounds and of the seed,
so a search that was killed goes on where it was when its cells are given back as ``known``: same cells, same winner,
none asked twice.

The score by which a set won is biased upward, since it was the luckiest of many: report fresh rows instead
(``halves``). This module does not know servers, tasks or the lake: it gets a function that answers and scores.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab.errors import ParameterError, closest
from arislab.icl import surrogate
from arislab.icl.rounds import Rounds, plan
from arislab.icl.sets import CELLS, Rules, set_id
from arislab.system.kinds import takes_any_frame

Ask = Callable[[pl.DataFrame], pl.DataFrame]
"""Wanted cells (search_id, set_id, example_ids, candidate_id, round; one set's cells stand together, sets with the same
first examples too) -> one row per cell: set_id, candidate_id, quality (0..1; null = missing, never 0) and, optionally,
status, tokens and known (true: paid for earlier, not asked now). A missing row is a missing cell. A prompt that does
not fit the model's context is quality 0: it would be so in use."""

_MOST_MISSING = 0.05  # share of a round's cells without an answer; more, and something is broken
_ANSWERED = ("ok", "truncated", "refused", "empty", "overflow")  # an answer came, or never can


@takes_any_frame
def halves(
    validation: pl.DataFrame, *, n_search: int, n_holdout: int, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split validation candidates by group, shuffled, into rows for the search and fresh rows for the report.

    No group has rows in both. Of each half's groups the first member is taken, then the second of each, until there are
    enough rows: more groups tell more than more rows of a group (``stats`` resamples whole groups).

    Args:
        validation: candidate_id, group_id.
        n_search: Most rows for the search; they are of at most half of the groups.
        n_holdout: Most rows for the report.
        seed: Of the shuffle.

    Raises:
        ParameterError: Fewer than 20 groups: nothing could be shown with them.
    """
    members = validation.sort("candidate_id").with_columns(_place=pl.int_range(pl.len()).over("group_id"))
    shuffled = members.filter(pl.col("_place") == 0).sample(fraction=1.0, shuffle=True, seed=seed)["group_id"]
    if len(shuffled) < 20:
        raise ParameterError(
            f"there are {len(shuffled)} independent validation candidates (groups), at least 20 are needed (10 to "
            "search, 10 to report); compose or import more."
        )
    n_groups = min(n_search, len(shuffled) // 2)
    order = pl.DataFrame({"group_id": shuffled}).with_row_index("_group")
    members = members.join(order, on="group_id", maintain_order="left").sort("_place", "_group")
    is_searched = pl.col("_group") < n_groups
    search, report = (members.filter(of).drop("_place", "_group") for of in (is_searched, ~is_searched))
    return search.head(n_search), report.head(n_holdout)


def sizes(k: int | Sequence[int], *, pool: pl.DataFrame, n_approved: int) -> list[int]:
    """Return the numbers of examples to compare, each once, in order.

    Args:
        k: Examples a set; one number, or several.
        pool: Examples to choose from.
        n_approved: Examples that the pool was taken from.

    Raises:
        ParameterError: There is none, or one that is not in 1..size of the pool.
    """
    given: list[Any] = list(k) if isinstance(k, list | tuple) else [k]
    if not given:
        raise ParameterError("k is an empty list; give the number of examples a set, or several.")
    for size in given:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= pool.height:
            raise ParameterError(
                f"k must be 1..{pool.height} (the size of the pool), got {size!r}; {n_approved:,} examples are "
                "approved: show fewer, approve more in review.ipynb, or raise pool_size."
            )
    return sorted(set(given))


@dataclass(frozen=True, repr=False)
class Search:
    """What a search tried and chose; valid after every round."""

    trials: pl.DataFrame
    """One row per set and round: trial_id, search_id, example_ids, k, order, score, n_validation, estimate, low, high
    (the surrogate's, 95 %), round, chosen."""
    cells: pl.DataFrame
    """One row per cell: the columns of ``CELLS``."""
    example_ids: tuple[str, ...]
    """The chosen set, in prompt order."""
    score: float
    """Its mean quality on the rows that it saw. The luckiest of many: never report it as the result."""
    estimate: tuple[float, float, float]
    """What the surrogate expects of it on the rows of the search: mean, low, high (95 %). Shrunken, so far less biased
    than ``score``; measure on fresh rows what you report."""
    effects: pl.DataFrame
    """One row per example: id, effect (quality gained by taking the place of an average example), low, high,
    last_minus_first, last_low, last_high, n_sets. Of the chosen k."""
    winners: pl.DataFrame
    """One row per k: k, set_id, example_ids, score, estimate, low, high, evidence."""
    evidence: float
    """Log evidence, nats, that sets of the chosen k differ at all."""
    n_requests: int
    """Cells wanted, known ones included: what counts against the budget."""
    n_asked: int
    """Cells asked in this call: neither known beforehand, nor told by ``ask`` to be known."""
    n_missing: int
    """Cells without a quality."""
    search_id: str
    round: int
    """Rounds done."""
    stopped: str
    """Why the search ended before its plan; empty if it did not."""

    @property
    def matters(self) -> bool:
        """Whether the search shows that the choice of examples matters."""
        return self.evidence > surrogate.CLEAR

    def __repr__(self) -> str:
        mean, low, high = self.estimate
        verdict = (
            "the choice of examples matters" if self.matters else "that the choice of examples matters is not shown"
        )
        missing = f", {self.n_missing:,} missing" if self.n_missing else ""
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return (
            f"Search {self.search_id}: {self.cells['set_id'].n_unique():,} sets in {self.round} rounds, "
            f"{self.n_requests:,} requests ({self.n_asked:,} asked now{missing}){stopped}; chose "
            f"{set_id(self.example_ids)}, expected {mean:.3f} [{low:.3f}, {high:.3f}] (search score {self.score:.3f}, "
            f"optimistic); {verdict}"
        )


@takes_any_frame
def search(
    pool: pl.DataFrame,
    validation: pl.DataFrame,
    *,
    k: int | Sequence[int],
    budget: int,
    ask: Ask,
    seed: int = 0,
    method: str = "auto",
    rounds: int | None = None,
    known: pl.DataFrame | None = None,
    pinned: Sequence[str] = (),
    banned: Sequence[str] = (),
    one_per: str | None = None,
    label: str = "",
) -> Search:
    """Find a good ordered set of ``k`` examples.

    Args:
        pool: Examples to choose from: id, and the column ``one_per`` if given.
        validation: Candidates to judge by: candidate_id. None of them may be a source of the pool.
        k: Examples a set; several numbers share the budget equally and are compared (on the rows of the search: compare
            the winners on fresh rows).
        budget: Most requests to spend, known cells included.
        ask: Answers and scores; called once a round with the cells that are not known.
        seed: Of everything drawn.
        method: ``surrogate``, ``halving``, or ``auto``: halving below 2,000 requests for each k.
        rounds: Stop after so many; the choice is valid after each. None: all of the plan.
        known: Cells that need not be asked: set_id, candidate_id, quality (null: answered, but without a score),
            optionally status and tokens. They are used where the search wants them, and change nothing else: with the
            cells of a killed search it goes on where it was.
        pinned: Ids of examples that every set holds.
        banned: Ids of examples that no set holds.
        one_per: Column of the pool; no set holds two examples with the same value (null: its own).
        label: What else the answers depend on (model, temperature): part of the search's name.

    Raises:
        ParameterError: Pool, validation or budget too small; pool and validation share candidates; a rule that no set
            can keep.
    """
    from tqdm.auto import tqdm

    ks = sorted({k} if isinstance(k, int) else set(k))
    pool = _checked(pool, validation, ks=ks, pinned=pinned, banned=banned)
    ids = pool["id"].to_list()
    rows = validation.sort("candidate_id")["candidate_id"].to_list()
    asked_for = [label, seed, ks, budget, method, ids, rows, list(pinned), pool[one_per].to_list() if one_per else None]
    search_id = "icl-" + hashlib.sha256(json.dumps(asked_for, default=str).encode()).hexdigest()[:12]
    at = {name: i for i, name in enumerate(ids)}
    groups = _groups(pool[one_per]) if one_per else ()
    searches = [
        Rounds(
            Rules(len(ids), size, tuple(at[i] for i in pinned), groups),
            ids=ids,
            rows=rows,
            steps=plan(budget=budget // len(ks), n_validation=len(rows), method=method),
            seed=[seed, size],
        )
        for size in ks
    ]
    facts = _facts(known)
    stopped, done, n_requests = "", 0, 0
    n_rounds = min(rounds or 99, max(one.steps.height for one in searches))
    with tqdm(total=n_rounds, unit="round", desc="search") as bar:
        while done < n_rounds and not stopped:
            done += 1
            wanted = pl.concat([one.wanted(done) for one in searches]).with_columns(search_id=pl.lit(search_id))
            n_requests += wanted.height
            bar.set_postfix_str(f"round {done}, {n_requests:,} of {budget:,} requests")
            cells = _answered(wanted, facts, ask)
            for one in searches:
                one.learn(cells, done)
            share = _missing_share(cells)
            if share > _MOST_MISSING and done < n_rounds:
                stopped = (
                    f"{share:.0%} of the cells of round {done} got no answer; "
                    "see why, then search again with the known cells"
                )
            bar.update()
    return _result(searches, search_id=search_id, done=done, stopped=stopped)


def _checked(
    pool: pl.DataFrame,
    validation: pl.DataFrame,
    *,
    ks: list[int],
    pinned: Sequence[str],
    banned: Sequence[str],
) -> pl.DataFrame:
    """Return the examples that may be chosen, sorted by id, or refuse."""
    if not validation.height:
        raise ParameterError(
            "there are no validation candidates; compose or import more, so that the validation split has some."
        )
    for name in [*pinned, *banned]:
        if name not in pool["id"]:
            raise ParameterError(f"the pool has no example {name!r}; {closest(name, pool['id'].to_list())}.")
    if set(pinned) & set(banned):
        raise ParameterError(f"example {min(set(pinned) & set(banned))!r} is both pinned and banned; decide.")
    if pool["id"].is_duplicated().any() or validation["candidate_id"].is_duplicated().any():
        raise ParameterError("an id of the pool, or a candidate_id of validation, occurs twice; drop the doubles.")
    if "candidate_id" in pool.columns and pool.join(validation, on="candidate_id", how="semi").height:
        raise ParameterError(
            "the pool holds answers about validation candidates; take examples from the train split only."
        )
    pool = pool.filter(~pl.col("id").is_in(list(banned))).sort("id")
    sizes(ks, pool=pool, n_approved=pool.height)
    return pool


def _groups(values: pl.Series) -> tuple[int, ...]:
    """Return a number per example, the same where the values are; null is its own group."""
    own = pl.int_range(pl.len()).cast(pl.String)
    # "own 3" and "of 3": a number of its own must not be the value of another
    key = pl.when(pl.col("v").is_null()).then("own " + own).otherwise("of " + pl.col("v").cast(pl.String))
    return tuple(values.alias("v").to_frame().select(key.rank("dense").cast(pl.Int64) - 1).to_series().to_list())


_ANSWER = {name: CELLS[name] for name in ("set_id", "candidate_id", "quality", "status", "tokens", "known")}


def _facts(cells: pl.DataFrame | None) -> pl.DataFrame:
    """Return cells in the columns of an answer; NaN is null."""
    if cells is None:
        return pl.DataFrame(schema=_ANSWER)
    frame = cells.select(
        (pl.col(name) if name in cells.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in _ANSWER.items()
    ).with_columns(pl.col("quality").fill_nan(None))
    doubled = frame.filter(pl.struct("set_id", "candidate_id").is_duplicated())
    if doubled.height:
        raise ParameterError(
            f"{doubled.height:,} cells share set and candidate with another (first: {doubled['set_id'][0]!r}, "
            f"{doubled['candidate_id'][0]!r}); a cell has one answer: keep one row of each."
        )
    outside = frame.filter(~pl.col("quality").is_between(0, 1))
    if outside.height:
        raise ParameterError(f"quality must be in 0..1, got {outside['quality'][0]!r}; scale it.")
    return frame


def _answered(wanted: pl.DataFrame, known: pl.DataFrame, ask: Ask) -> pl.DataFrame:
    """Return the wanted cells with their answers, asking for those that are not known."""
    cell = ["set_id", "candidate_id"]
    missing = wanted.join(known, on=cell, how="anti", maintain_order="left")
    answers = _facts(ask(missing)) if missing.height else known.clear()
    answers = answers.join(missing, on=cell, how="semi")
    both = pl.concat([known.with_columns(known=pl.lit(value=True)), answers])
    cells = wanted.join(both, on=cell, how="left", maintain_order="left")
    return cells.with_columns(pl.col("known").fill_null(value=False)).select(CELLS.keys())


def _missing_share(cells: pl.DataFrame) -> float:
    """Return the share of cells without an answer; an answer without a score is an answer."""
    unanswered = cells.filter(pl.col("quality").is_null() & ~pl.col("status").is_in(_ANSWERED).fill_null(value=False))
    return unanswered.height / max(1, cells.height)


def _result(searches: list[Rounds], *, search_id: str, done: int, stopped: str) -> Search:
    winners = pl.concat(
        [
            one.table([one.best]).with_columns(
                k=pl.lit(one.rules.k, dtype=pl.Int64), evidence=pl.lit(one.fit.evidence if one.fit else 0.0)
            )
            for one in searches
        ]
    ).select("k", "set_id", "example_ids", "score", "estimate", "low", "high", "evidence")
    at = winners["estimate"].fill_null(-1).arg_max() or 0  # by the surrogate: scores of few rows are the luckiest
    one, won = searches[at], winners.row(at, named=True)
    trials = pl.concat(
        [table.with_columns(k=pl.lit(c.rules.k, dtype=pl.Int64)) for c in searches for table in c.trials]
    ).with_columns(
        trial_id=pl.concat_str(pl.lit(search_id), pl.col("round").cast(pl.String), "set_id", separator="-"),
        search_id=pl.lit(search_id),
        order=pl.lit("searched"),
    )
    # a set that goes on has a row in each round: the last one is what was decided on
    last = trials.filter(pl.col("set_id") == won["set_id"])["round"].max()
    trials = trials.with_columns(chosen=(pl.col("set_id") == won["set_id"]) & (pl.col("round") == last))
    cells = pl.concat([frame for c in searches for frame in c.cells])
    nan = float("nan")
    return Search(
        trials=trials.select(
            "trial_id",
            "search_id",
            "set_id",
            "example_ids",
            "k",
            "order",
            "score",
            "n_validation",
            "estimate",
            "low",
            "high",
            "round",
            "chosen",
        ),
        cells=cells,
        example_ids=tuple(won["example_ids"]),
        score=nan if won["score"] is None else won["score"],
        estimate=(nan, nan, nan) if won["estimate"] is None else (won["estimate"], won["low"], won["high"]),
        effects=surrogate.effects(one.fit, one.ids) if one.fit else pl.DataFrame(),
        winners=winners,
        evidence=won["evidence"],
        n_requests=cells.height,
        n_asked=cells.filter(~pl.col("known")).height,
        n_missing=cells["quality"].null_count(),
        search_id=search_id,
        round=done,
        stopped=stopped,
    )
