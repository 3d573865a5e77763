"""One search for examples under way: what each round wants, what it learned, and which set leads.

What this module does not know: who answers, and what was paid for before.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from arislab.errors import ParameterError, closest
from arislab.icl import proposals, surrogate
from arislab.icl.sets import CELLS, Rules, Set, set_id
from arislab.icl.surrogate import Fit

_SMALL = 2_000  # requests; below, halving gains as much as the surrogate, or more (synthetic surfaces, lab log)
_LARGE = 12_000  # requests; above, rows per set grow instead of sets, so that the surrogate stays small
_SHARES = (0.35, 0.20, 0.20, 0.15, 0.10)  # of the budget, by round
_ROWS = (8, 12, 20, 30, 100)  # per set, by round; the last is the race
_NOISE = (1.0, 0.7, 0.7, 0.5, 0.5)  # of the draws, by round
_N_ELITES = 25
_HALVING_ROWS = 16  # of the first round, doubled each round; 6 and 8 gain the same (lab log), 16 share a prompt best


def plan(*, budget: int, n_validation: int, method: str = "auto") -> pl.DataFrame:
    """Return what a search will ask, before anything is spent, one row per round.

    Args:
        budget: Most requests.
        n_validation: Rows for the search.
        method: ``surrogate``, ``halving``, or ``auto``: halving below 2,000 requests.

    Returns:
        round (from 1), method, n_sets (most sets that get cells), n_rows (new rows each; halving: new common rows),
        n_requests (the most that the round spends). Their sum is at most ``budget``; where fewer sets or rows exist,
        less is spent.

    Raises:
        ParameterError: The budget is too small for two sets, or the method is unknown.

    Example:
        >>> plan(budget=10_000, n_validation=250)["n_requests"].to_list()
        [3496, 2004, 2000, 1500, 1000]
        >>> plan(budget=1_000, n_validation=100).select("n_sets", "n_rows").rows()
        [(26, 16), (13, 16), (7, 32), (4, 36)]
    """
    methods = ("auto", "surrogate", "halving")
    if method not in methods:
        raise ParameterError(f"there is no method {method!r}; {closest(method, methods)}.")
    if n_validation < 1:
        raise ParameterError(f"n_validation must be at least 1, got {n_validation}; compose or import candidates.")
    if method == "auto":
        method = "halving" if budget < _SMALL else "surrogate"
    steps = _halving_plan(budget, n_validation) if method == "halving" else _surrogate_plan(budget, n_validation)
    columns = ["round", "method", "n_sets", "n_rows", "n_requests"]
    return pl.DataFrame(
        [(i, method, n, each, most) for i, (n, each, most) in enumerate(steps, start=1)], schema=columns, orient="row"
    )


def _halving_plan(budget: int, n_validation: int) -> list[tuple[int, int, int]]:
    totals = [min(_HALVING_ROWS, n_validation)]
    while totals[-1] < n_validation:
        totals.append(min(2 * totals[-1], n_validation))
    new = [b - a for a, b in zip([0, *totals[:-1]], totals, strict=True)]

    def sets(n: int) -> list[int]:
        return [max(2, math.ceil(n / 2**i)) for i in range(len(new))]

    def cost(n: int) -> int:
        return sum(a * b for a, b in zip(sets(n), new, strict=True))

    while len(new) > 1 and cost(4) > budget:  # too little for a final on all rows
        new.pop()
    if cost(2) > budget:
        raise ParameterError(
            f"budget must be at least {2 * new[0]} (two sets on {new[0]} validation rows), got {budget}; raise it."
        )
    n = 2
    while cost(n + 1) <= budget:
        n += 1
    return [(a, b, a * b) for a, b in zip(sets(n), new, strict=True)]


def _surrogate_plan(budget: int, n_validation: int) -> list[tuple[int, int, int]]:
    each = [min(n_validation, round(m * max(1.0, budget / _LARGE))) for m in _ROWS]
    steps: list[tuple[int, int, int]] = []
    total = 0.0
    for share, m in zip(_SHARES, each, strict=True):
        total += share * budget
        left = int(total + 1e-9) - sum(most for *_, most in steps)
        steps.append((left // m, m, left // m * m))
    if steps[0][0] < 8:
        raise ParameterError(
            f"budget must be at least {math.ceil(8 * each[0] / _SHARES[0])} for a surrogate (eight sets on {each[0]} "
            f"rows), got {budget}; raise it, or use method='halving'."
        )
    return steps


class Rounds:
    """The search for one k, under way: rounds alternate between ``wanted`` and ``learn``."""

    def __init__(self, rules: Rules, *, ids: list[str], rows: list[str], steps: pl.DataFrame, seed: list[int]) -> None:
        self.rules, self.ids, self.rows, self.steps, self.seed = rules, ids, rows, steps, seed
        self.seen: dict[Set, dict[int, float]] = {}  # NaN: asked, and missing
        self.cells: list[pl.DataFrame] = []
        self.trials: list[pl.DataFrame] = []
        self.fit: Fit | None = None
        self.best: Set = ()
        self.order = np.random.default_rng([*seed, 0]).permutation(len(rows))  # of rows, for halving
        self.alive: list[Set] = []
        self.names: dict[str, Set] = {}

    def wanted(self, number: int) -> pl.DataFrame:
        """Return the cells of a round: set_id, example_ids, candidate_id, round."""
        chosen: list[tuple[Set, list[int]]] = []
        if number <= self.steps.height:
            step = self.steps.row(number - 1, named=True)
            rng = np.random.default_rng([*self.seed, number])
            want = self._halving if step["method"] == "halving" else self._model
            chosen = [(members, rows) for members, rows in want(step, rng) if rows]
        sets, cells = [], []
        for at, (members, rows) in enumerate(chosen):
            example_ids = [self.ids[i] for i in members]
            sets.append((set_id(example_ids), example_ids))
            self.names[sets[at][0]] = members
            self.seen.setdefault(members, {}).update(dict.fromkeys(rows, math.nan))
            cells += [(example_ids, self.rows[v], at) for v in rows]
        cells.sort()  # sets with the same first examples stand together: servers share the prefix
        schema = {name: CELLS[name] for name in ("set_id", "example_ids")}
        each = pl.Series([at for *_, at in cells], dtype=pl.UInt32)
        # a list per set, taken for each of its cells: as many lists as cells would take as long as the fit
        return pl.DataFrame(sets, schema=schema, orient="row").select(
            pl.all().gather(each),
            candidate_id=pl.Series([row for _, row, _ in cells], dtype=CELLS["candidate_id"]),
            round=pl.lit(number, dtype=CELLS["round"]),
        )

    def _halving(self, step: dict[str, Any], rng: np.random.Generator) -> Iterator[tuple[Set, list[int]]]:
        if step["round"] == 1:
            self.alive = proposals.draw(self.rules, step["n_sets"], rng)
        self.alive = self.alive[: step["n_sets"]]
        before = int(self.steps["n_rows"].head(step["round"] - 1).sum())
        rows = [int(v) for v in self.order[before : before + step["n_rows"]]]
        return ((members, rows) for members in self.alive)

    def _model(self, step: dict[str, Any], rng: np.random.Generator) -> Iterator[tuple[Set, list[int]]]:
        number, each = step["round"], step["n_rows"]
        left = int(self.steps["n_requests"].head(number).sum()) - sum(map(len, self.seen.values()))
        if number == 1 or self.fit is None:  # nothing is known
            sets = proposals.draw(self.rules, left // each, rng)
            drawn = proposals.rows(len(self.rows), each, len(sets), rng)
            return ((members, [int(v) for v in rows]) for members, rows in zip(sets, drawn, strict=True))
        elites, noise = self.leaders(_N_ELITES), _NOISE[number - 1]
        if number == self.steps.height:
            return self._race(self.fit, left, each, elites, rng)
        return self._spread(self.fit, left, each, elites, noise, rng)

    def _spread(
        self, fit: Fit, left: int, each: int, elites: list[Set], noise: float, rng: np.random.Generator
    ) -> Iterator[tuple[Set, list[int]]]:
        """New rows for each proposed set, rather those on which answers differ.

        What all solve, or none, tells nothing.
        """
        p = surrogate.sigmoid(fit.difficulty)
        for members in proposals.propose(fit, self.rules, max(2, left // each), rng, elites=elites, noise=noise):
            free = np.array([v for v in range(len(self.rows)) if v not in self.seen.get(members, {})], dtype=np.int64)
            # a weighted draw without replacement (Efraimidis and Spirakis 2006); 0.02 leaves every row a chance
            keys = rng.random(len(free)) ** (1 / (p * (1 - p) + 0.02)[free])
            rows = free[np.argsort(-keys, kind="stable")[: min(each, left)]]
            left -= len(rows)
            yield members, [int(v) for v in rows]

    def _race(
        self, fit: Fit, left: int, each: int, elites: list[Set], rng: np.random.Generator
    ) -> Iterator[tuple[Set, list[int]]]:
        """The leaders, and what may be better than they, on common rows."""
        proposed = proposals.propose(fit, self.rules, 60, rng, elites=elites)
        runners = list(dict.fromkeys([*proposed, *elites]))
        mean, sd = surrogate.posterior(fit, np.array(runners))
        common = rng.permutation(len(self.rows))[:each]
        # half an SD for what has been seen little: a race that runs only what leads cannot be lost by it
        for i in np.argsort(-(mean + 0.5 * sd), kind="stable"):
            rows = [int(v) for v in common if int(v) not in self.seen.get(runners[i], {})]
            if len(rows) <= left:
                left -= len(rows)
                yield runners[i], rows

    def learn(self, cells: pl.DataFrame, number: int) -> None:
        """Take the answers of a round, fit, and choose."""
        cells = cells.filter(pl.col("set_id").is_in(self.names.keys()))
        if not cells.height:
            return
        at = {name: i for i, name in enumerate(self.rows)}
        for name, row, value in cells.select("set_id", "candidate_id", "quality").iter_rows():
            self.seen[self.names[name]][at[row]] = math.nan if value is None else value
        self.cells.append(cells)
        self._refit()
        here = list(dict.fromkeys(self.names[name] for name in cells["set_id"]))
        table = self.table(here)
        if self.steps["method"][0] == "halving":
            ranked = table.sort(["score", "set_id"], descending=[True, False], nulls_last=True)
            self.alive = [self.names[name] for name in ranked["set_id"]]
            self.best = self.alive[0]
        else:
            self.best = self.leaders(1)[0] if self.fit else here[0]
        self.trials.append(table.with_columns(round=pl.lit(number, dtype=pl.Int64)))

    def _refit(self) -> None:
        sets = [members for members, rows in self.seen.items() if any(map(math.isfinite, rows.values()))]
        flat = [  # in the order of rows, not of answers: sums of floats depend on it, and a resumed search must not
            (s, v, y)
            for s, members in enumerate(sets)
            for v, y in sorted(self.seen[members].items())
            if math.isfinite(y)
        ]
        if not flat:
            return
        set_of, row_of = (np.array(column, dtype=np.int64) for column in list(zip(*flat, strict=True))[:2])
        quality = np.array([y for *_, y in flat])
        sizes = {"n_examples": self.rules.n, "n_rows": len(self.rows)}
        self.fit = surrogate.fit(np.array(sets), set_of, row_of, quality, start=self.fit, **sizes)

    def leaders(self, n: int) -> list[Set]:
        """Return the sets with cells that the surrogate thinks best."""
        assert self.fit is not None
        mean, _ = surrogate.posterior(self.fit, self.fit.sets)
        best = np.argsort(-mean, kind="stable")[:n]
        return [tuple(int(i) for i in members) for members in self.fit.sets[best]]

    def table(self, sets: list[Set]) -> pl.DataFrame:
        """Return one row per set: set_id, example_ids, score, n_validation, estimate, low, high."""
        rows = []
        for members in sets:
            values = [y for y in self.seen[members].values() if math.isfinite(y)]
            example_ids = [self.ids[i] for i in members]
            rows.append(
                # fsum: the same mean in whatever order the answers came
                (set_id(example_ids), example_ids, math.fsum(values) / len(values) if values else None, len(values))
            )
        schema: dict[str, Any] = {
            "set_id": pl.String,
            "example_ids": pl.List(pl.String),
            "score": pl.Float64,
            "n_validation": pl.Int64,
        }
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        if self.fit is None:
            return frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(c) for c in ("estimate", "low", "high"))
        return frame.hstack(surrogate.estimates(self.fit, np.array(sets)))
