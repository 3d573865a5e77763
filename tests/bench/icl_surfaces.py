"""Searches for examples at equal calls on ten seeded synthetic surfaces; prints one JSON object.

    python tests/bench/icl_surfaces.py [--surfaces ABCDEFHOXN] [--budget 10000] [--seeds 10] [--rows 100] [--methods
    random,surrogate,...] python tests/bench/icl_surfaces.py --small       # exhaustive, n=12, k=3
    python tests/bench/icl_surfaces.py --speed       # CPU seconds and memory at 10,000 and 40,000 cells

A surface gives each ordered set of examples a true quality and each cell (set, row) one answer, drawn once::

    logit p = base + difficulty of the row + scale * (main + coverage of the row + pair + order + own + net)(set)
              + example x row
    y = 1 with chance p, or, graded, sigmoid(logit + noise)

True quality is the mean over rows that nobody sees. `example x row` makes any finite validation set misleading a
little, as real ones are. A additive, B mixed, C weak, D interacting, E a few harmful examples, F as B but graded, H
coverage of the row, O order, X a random net that no method's model contains, N null: the choice is irrelevant.
Synthetic evidence only; the constants of the search were chosen on seeds 1000-1023.

Reported per method: gain (points of true quality above an average random set), the same minus random search with a 95 %
bootstrap interval over seeds (the surfaces of one seed share their rows: their mean is one observation), wins over it
by surface and seed, optimism (own estimate minus truth) as it is and without the luck of the drawn validation rows
(what an average set has on them more than on the population: shared by all methods of a seed, and 0 on average),
coverage of the hold-out's 95 % interval for the true difference to a fixed random set, claims (share of runs in which
that interval lies above 0), in how many runs the search said that the choice matters, calls, rounds, CPU seconds. A
long run is kept with --out FILE.jsonl, and goes on there when it is started again.
"""

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from arislab import icl, stats

SURFACES: dict[str, dict] = {
    "A": {"sd": 4.0, "shares": {"main": 0.80, "coverage": 0.05, "pair": 0.05, "order": 0.07, "own": 0.03}},
    "B": {"sd": 2.5, "shares": {"main": 0.50, "coverage": 0.10, "pair": 0.15, "order": 0.15, "own": 0.10}},
    "C": {"sd": 1.2, "shares": {"main": 0.50, "coverage": 0.10, "pair": 0.15, "order": 0.15, "own": 0.10}},
    "D": {"sd": 3.0, "shares": {"main": 0.15, "coverage": 0.15, "pair": 0.40, "order": 0.20, "own": 0.10}},
    "E": {"sd": 3.0, "shares": {"main": 0.70, "coverage": 0.05, "pair": 0.05, "order": 0.10, "own": 0.10}, "bad": True},
    "F": {
        "sd": 2.5,
        "shares": {"main": 0.50, "coverage": 0.10, "pair": 0.15, "order": 0.15, "own": 0.10},
        "graded": True,
    },
    "H": {"sd": 3.0, "shares": {"main": 0.25, "coverage": 0.50, "pair": 0.05, "order": 0.10, "own": 0.10}},
    "O": {"sd": 2.5, "shares": {"main": 0.30, "coverage": 0.05, "pair": 0.10, "order": 0.45, "own": 0.10}},
    "X": {"sd": 2.5, "shares": {"coverage": 0.05, "own": 0.05, "net": 0.90}},
    "N": {"sd": 0.0, "shares": {"main": 1.0}},
}
"""sd: of true quality over random ordered sets, points; shares: of the variance of the set's logit."""
_HOLDOUT, _POPULATION = 400, 1_200
_NOISE = 0.6  # of a graded answer, logits


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _blocks(sets: np.ndarray) -> list[np.ndarray]:
    """Sets x rows of 200 sets at once."""
    return [sets[i : i + 200] for i in range(0, len(sets), 200)]


class Surface:
    """One world: examples, rows, and what every set answers on every row."""

    def __init__(self, kind: str, seed: int, *, n: int = 100, k: int = 5, n_rows: int = 100) -> None:
        what = SURFACES[kind]
        self.kind, self.seed, self.n, self.k, self.n_rows = kind, seed, n, k, n_rows
        self.shares, self.graded = what["shares"], what.get("graded", False)
        rng = np.random.default_rng([7, seed])
        total = n_rows + _HOLDOUT + _POPULATION
        centres = rng.normal(size=(5, 6)) * 1.2
        self.embedding = centres[rng.integers(5, size=n)] + rng.normal(size=(n, 6)) * 0.7
        mix = rng.dirichlet(np.ones(5) * 2)
        of_rows = centres[rng.choice(5, p=mix, size=total)] + rng.normal(size=(total, 6)) * 0.7
        self.near = np.exp(-((self.embedding[:, None] - of_rows[None]) ** 2).sum(-1) / 8)
        self.difficulty = rng.normal(size=total) * 3.0
        self.clash = rng.normal(size=(n, total)) * (0.35 if what["sd"] else 0.0)
        worth = rng.normal(size=n)
        if what.get("bad"):  # 12 % do harm, the others are nearly equal
            worth *= 0.25
            harmful = rng.choice(n, size=max(1, int(0.12 * n)), replace=False)
            worth[harmful] -= rng.exponential(size=len(harmful)) * 2.0 + 1
        self.worth = worth - worth.mean()
        self.lean = 0.5 * self.worth / self.worth.std() + 0.87 * rng.normal(size=n)  # who gains by standing last
        between = rng.normal(size=(n, n))
        self.between = (between + between.T) / math.sqrt(2)
        self.place = np.linspace(-1, 1, k)
        net = np.random.default_rng([12, seed])
        self.net = (
            net.normal(size=(6 * k, 32)) / math.sqrt(6 * k) * 1.3,
            net.normal(size=32) / math.sqrt(32),
            net.normal(size=n),
            net.normal(size=n) * 0.8,
        )
        self.lucks: dict[tuple[int, ...], float] = {}
        self.scale, self.centre = 0.0, {}
        sample = self.random(400, np.random.default_rng([8, seed]))
        parts = self.parts(sample)
        coverage = self.coverage(sample, slice(n_rows + _HOLDOUT, None))
        self.centre = {name: (x.mean(), x.std()) for name, x in parts.items() if name != "own"}
        self.centre["coverage"] = (coverage.mean(), coverage.mean(axis=1).std())
        self.scale = 0.1 if what["sd"] else 0.0
        rows = slice(n_rows + _HOLDOUT, None)
        terms = [self.terms(some, rows) for some in _blocks(sample)] if what["sd"] else []
        for _ in range(4 if what["sd"] else 0):
            self.scale *= what["sd"] / 100 / max(float(self._mean_quality(terms, rows).std()), 1e-6)
        self.answers: dict[tuple[int, ...], np.ndarray] = {}

    def random(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return np.argsort(rng.random((size, self.n)), axis=1)[:, : self.k]

    def parts(self, sets: np.ndarray) -> dict[str, np.ndarray]:
        """What of a set does not depend on the row; only what this surface has."""
        made: dict[str, Callable[[], np.ndarray]] = {
            "main": lambda: self.worth[sets].sum(1),
            "pair": lambda: sum(
                (self.between[sets[:, i], sets[:, j]] for i in range(self.k) for j in range(i)), np.zeros(len(sets))
            ),
            "order": lambda: (self.lean[sets] * self.place).sum(1) + 0.7 * self.luck(sets, 1),
            "own": lambda: self.luck(np.sort(sets, axis=1), 2),
            "net": lambda: self._net(sets),
        }
        return {name: make() for name, make in made.items() if self.shares.get(name)}

    def _net(self, sets: np.ndarray) -> np.ndarray:
        into, out, quality, attention = self.net
        weight = np.exp(attention[sets] + 0.5 * self.place)
        weight /= weight.sum(1, keepdims=True)
        dense = np.tanh(self.embedding[sets].reshape(len(sets), -1) @ into) @ out / 0.6
        return dense + 0.7 * quality[sets].min(1) + 1.2 * (weight * quality[sets]).sum(1)

    def luck(self, sets: np.ndarray, salt: int) -> np.ndarray:
        keys = [(salt, self.seed, *members) for members in sets.tolist()]
        for key in keys:
            if key not in self.lucks:
                self.lucks[key] = np.random.default_rng(key).standard_normal()
        return np.array([self.lucks[key] for key in keys])

    def coverage(self, sets: np.ndarray, rows: slice) -> np.ndarray:
        return self.near[:, rows][sets].max(1)

    def terms(self, sets: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the logits of sets are made of, whatever the scale: of each set, coverage, and example x row."""
        of_set = np.zeros(len(sets))
        for name, x in self.parts(sets).items():
            centre, sd = self.centre.get(name, (0.0, 1.0))
            of_set += math.sqrt(self.shares[name]) * (x - centre) / max(sd, 1e-9)
        coverage = self.coverage(sets, rows) if self.shares.get("coverage") else np.zeros(0)
        return of_set, coverage, self.clash[:, rows][sets].sum(1)

    def logits(self, terms: tuple[np.ndarray, np.ndarray, np.ndarray], rows: slice) -> np.ndarray:
        of_set, coverage, clash = terms
        out = 1.05 + self.difficulty[rows][None] + self.scale * of_set[:, None]
        if self.shares.get("coverage"):
            centre, sd = self.centre["coverage"]
            out = out + self.scale * math.sqrt(self.shares["coverage"]) * (coverage - centre) / sd
        return out + clash

    def truth(self, sets: np.ndarray, rows: slice | None = None) -> np.ndarray:
        """Mean quality over the population (or other rows), 0..1."""
        rows = rows or slice(self.n_rows + _HOLDOUT, None)
        return self._mean_quality((self.terms(some, rows) for some in _blocks(sets)), rows)

    def _mean_quality(self, terms: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], rows: slice) -> np.ndarray:
        shrink = math.sqrt(1 + _NOISE**2 * 0.35) if self.graded else 1.0
        return np.concatenate([sigmoid(self.logits(block, rows) / shrink).mean(1) for block in terms])

    def answer(self, members: Iterable[int], *, rows: slice | None = None) -> np.ndarray:
        """What one ordered set answers on the validation rows (or others).

        Drawn once, the same whenever it is asked.
        """
        key = tuple(int(i) for i in members)
        if rows is None and key in self.answers:
            return self.answers[key]
        at = rows or slice(0, self.n_rows)
        logits = self.logits(self.terms(np.array([key]), at), at)[0]
        rng = np.random.default_rng([9 if rows is None else 10, self.seed, *key])
        noise = rng.normal(size=len(logits)) * _NOISE if self.graded else rng.random(len(logits))
        out = sigmoid(logits + noise) if self.graded else (noise < sigmoid(logits)).astype(float)
        if rows is None:
            self.answers[key] = out
        return out

    def holdout(self, members: Iterable[int]) -> np.ndarray:
        return self.answer(members, rows=slice(self.n_rows, self.n_rows + _HOLDOUT))


@dataclass
class Found:
    members: tuple[int, ...]
    estimate: float
    calls: int
    rounds: int
    matters: bool | None = None


def random_search(surface: Surface, budget: int, rng: np.random.Generator) -> Found:
    """As DSPy's: full validation of as many random ordered sets as the budget has; the best mean wins."""
    sets = surface.random(budget // surface.n_rows, rng)
    means = [surface.answer(s).mean() for s in sets]
    best = int(np.argmax(means))
    return Found(tuple(sets[best]), means[best], len(sets) * surface.n_rows, 1)


def greedy(surface: Surface, budget: int, rng: np.random.Generator) -> Found:
    """Add the example that helps most, in front, k times; all candidates of a step on the same rows.

    Sets of fewer than k are judged on
    the surface as k examples of which the others are drawn at random."""
    chosen: list[int] = []
    calls = 0
    for _ in range(surface.k):
        options = [i for i in range(surface.n) if i not in chosen]
        each = int(min(surface.n_rows, max(1, budget / surface.k // len(options))))
        rows = rng.permutation(surface.n_rows)[:each]
        fill = [i for i in rng.permutation(surface.n) if i not in chosen]
        scores = []
        for i in options:
            others = [int(j) for j in fill if j != i][: surface.k - 1 - len(chosen)]
            scores.append(surface.answer([*others, i, *chosen])[rows].mean() + 1e-9 * rng.random())
            calls += each
        chosen = [options[int(np.argmax(scores))], *chosen]
    return Found(tuple(chosen), float(max(scores)), calls, surface.k)


def main_effects(surface: Surface, budget: int, rng: np.random.Generator) -> Found:
    """One shot, as CondAcc (Chang and Jia 2023): mean residual of the cells that an example takes part in.

    Top k, best last.
    """
    n_sets, each = budget // 10, 10
    sets = surface.random(n_sets, rng)
    rows = [rng.permutation(surface.n_rows)[:each] for _ in range(n_sets)]
    y = [surface.answer(s)[r] for s, r in zip(sets, rows, strict=True)]
    total, count = np.zeros(surface.n_rows), np.zeros(surface.n_rows)
    for r, values in zip(rows, y, strict=True):
        total[r] += values
        count[r] += 1
    of_row = total / np.maximum(count, 1)
    effect, times = np.zeros(surface.n), np.zeros(surface.n)
    for s, r, values in zip(sets, rows, y, strict=True):
        effect[s] += (values - of_row[r]).sum()
        times[s] += each
    effect /= np.maximum(times, 1)
    best = np.argsort(-effect)[: surface.k][::-1]
    return Found(tuple(best), float(of_row.mean() + effect[best].sum()), n_sets * each, 1)


def tpe(surface: Surface, budget: int, rng: np.random.Generator) -> Found:
    """Optuna's, multivariate, one categorical per position, full validation, one trial after another."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")
    n = budget // surface.n_rows
    sampler = optuna.samplers.TPESampler(
        seed=int(rng.integers(1 << 30)), multivariate=True, n_startup_trials=max(10, n // 5)
    )
    study, best = optuna.create_study(direction="maximize", sampler=sampler), (-1.0, ())
    for _ in range(n):
        trial, members = study.ask(), []
        for at in range(surface.k):
            i = trial.suggest_categorical(f"p{at}", list(range(surface.n)))
            while i in members:
                i = (i + 1) % surface.n
            members.append(i)
        value = float(surface.answer(members).mean())
        best = max(best, (value, tuple(members)))
        study.tell(trial, value)
    return Found(best[1], best[0], n * surface.n_rows, n)


def ours(surface: Surface, budget: int, rng: np.random.Generator, *, method: str) -> Found:
    pool = pl.DataFrame({"id": [f"{i:03d}" for i in range(surface.n)]})
    validation = pl.DataFrame({"candidate_id": [f"{v:04d}" for v in range(surface.n_rows)]})

    def ask(cells: pl.DataFrame) -> pl.DataFrame:
        sets = cells.select("set_id", "example_ids").unique("set_id", maintain_order=True)
        answers = {name: surface.answer(map(int, ids)) for name, ids in sets.iter_rows()}
        quality = [float(answers[name][int(v)]) for name, v in cells.select("set_id", "candidate_id").iter_rows()]
        return cells.select("set_id", "candidate_id", quality=pl.Series(quality, dtype=pl.Float64))

    seed = int(rng.integers(1 << 30))
    result = icl.search(pool, validation, k=surface.k, budget=budget, ask=ask, seed=seed, method=method)
    return Found(
        tuple(map(int, result.example_ids)), result.estimate[0], result.n_requests, result.round, result.matters
    )


METHODS: dict[str, Callable[[Surface, int, np.random.Generator], Found]] = {
    "random": random_search,
    "greedy": greedy,
    "halving": lambda s, b, r: ours(s, b, r, method="halving"),
    "main effects": main_effects,
    "tpe": tpe,
    "surrogate": lambda s, b, r: ours(s, b, r, method="surrogate"),
    "auto": lambda s, b, r: ours(s, b, r, method="auto"),
}


def run(
    surfaces: str, seeds: Iterable[int], methods: Iterable[str], *, budget: int, n_rows: int, kept: Path | None = None
) -> pl.DataFrame:
    """One row per surface, seed and method."""
    out = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.is_file() else []
    done = {(r["surface"], r["seed"], r["method"]) for r in out}
    for seed, kind in itertools.product(seeds, surfaces):
        todo = [method for method in methods if (kind, seed, method) not in done]
        if not todo:
            continue
        surface = Surface(kind, seed, n_rows=n_rows)
        sample = surface.random(400, np.random.default_rng(1))
        base, other = float(surface.truth(sample).mean()), tuple(int(i) for i in sample[0])
        luck = float(surface.truth(sample, slice(0, n_rows)).mean()) - base
        for method in todo:
            surface.answers.clear()
            started = time.process_time()
            result = METHODS[method](surface, budget, np.random.default_rng([seed, 3]))
            cpu_s = time.process_time() - started
            truth, truth_other = surface.truth(np.array([result.members, other]))
            shown = stats.paired_difference(
                surface.holdout(result.members), surface.holdout(other), n_boot=2_000, seed=seed
            )
            out.append(
                {
                    "surface": kind, "seed": seed, "method": method, "gain": 100 * (truth - base), "truth": truth,
                    "optimism": 100 * (result.estimate - truth), "luck_of_rows": 100 * luck, "calls": result.calls,
                    "rounds": result.rounds, "cpu_s": cpu_s,
                    "covered": bool(shown.low <= truth - truth_other <= shown.high), "claims": bool(shown.low > 0),
                    "matters": result.matters,
                }
            )  # fmt: skip
            if kept:
                with kept.open("a") as file:
                    file.write(json.dumps(out[-1]) + "\n")
    return pl.DataFrame(out)


def against_random(runs: pl.DataFrame, method: str) -> tuple[stats.Difference, float]:
    """Gain over random search, points, over surfaces where the choice matters, one observation a seed.

    And the share of runs won, ties count half.
    """
    real = runs.filter(pl.col("surface") != "N")
    both = real.filter(pl.col("method") == method).join(
        real.filter(pl.col("method") == "random"), on=["surface", "seed"], suffix="_random"
    )
    by_seed = both.group_by("seed").agg(pl.col("gain", "gain_random").mean()).sort("seed")
    more = both["gain"] - both["gain_random"]
    return stats.paired_difference(by_seed["gain"], by_seed["gain_random"]), float(
        ((more > 0) + 0.5 * (more == 0)).mean() or 0.0
    )


def report(runs: pl.DataFrame) -> dict:
    out: dict = {}
    for method in runs["method"].unique(maintain_order=True):
        mine, difference_and_wins = runs.filter(pl.col("method") == method), against_random(runs, method)
        real, null = mine.filter(pl.col("surface") != "N"), mine.filter(pl.col("surface") == "N")
        difference, wins = difference_and_wins
        out[method] = {
            "gain": {s: round(g, 2) for s,
                g in real.group_by("surface").agg(pl.col("gain").mean()).sort("surface").iter_rows()},
            "gain_mean": _round(real["gain"].mean()),
            "minus_random": [_round(x) for x in (difference.mean, difference.low, difference.high)],
            "seeds": difference.n,
            "wins": _round(wins),
            "optimism": _interval(real, pl.col("optimism")),
            "optimism_without_luck_of_rows": _interval(real, pl.col("optimism") - pl.col("luck_of_rows")),
            "holdout_coverage": _round(mine["covered"].mean()),
            "holdouts": mine.height,
            "told_that_the_choice_matters": _told(mine),
            "null_claims": f"{null['claims'].sum()} of {null.height}",
            "calls": int(mine["calls"].max()),
            "rounds": int(mine["rounds"].max()),
            "cpu_s": _round(mine["cpu_s"].mean()),
        }  # fmt: skip
    return out


def _told(runs: pl.DataFrame) -> dict[str, str] | None:
    """In how many runs of each surface the search said that the choice matters.

    Null for methods that say nothing of it.
    """
    said = runs.filter(pl.col("matters").is_not_null()).group_by("surface").agg(pl.col("matters").sum(), pl.len())
    return {s: f"{m} of {n}" for s, m, n in said.sort("surface").iter_rows()} or None


def _interval(runs: pl.DataFrame, value: pl.Expr) -> list[float | None]:
    """Mean over seeds, with the ends of its 95 % interval."""
    shown = stats.mean_interval(runs.group_by("seed").agg(value.mean().alias("x")).sort("seed")["x"])
    return [_round(x) for x in (shown.mean, shown.low, shown.high)]


def _round(x: float | None) -> float | None:
    return None if x is None or math.isnan(x) else round(float(x), 3)


def small(seeds: Iterable[int], surfaces: str, kept: Path | None = None) -> dict:
    """n=12, k=3: what all 220 sets (in one order) and all 1,320 orders gain, and ours with a part of the calls."""
    out = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.is_file() else []
    done = {(row["surface"], row["seed"]) for row in out}
    for seed, kind in itertools.product(seeds, surfaces):
        if (kind, seed) in done:
            continue
        surface = Surface(kind, seed, n=12, k=3)
        orders = np.array(list(itertools.permutations(range(12), 3)))
        truth = dict(zip(map(tuple, orders.tolist()), surface.truth(orders), strict=True))
        base = float(np.mean(list(truth.values())))
        row = {"surface": kind, "seed": seed, "best": 100 * (max(truth.values()) - base)}
        sets = np.array(list(itertools.combinations(range(12), 3)))
        for name, all_of in (("exhaustive sets, 22,000", sets), ("exhaustive orders, 132,000", orders)):
            means = np.array([surface.answer(s).mean() for s in all_of])
            best = int(np.argmax(means + 1e-9 * np.random.default_rng(seed).random(len(means))))
            row[name] = 100 * (truth[tuple(all_of[best].tolist())] - base)
            row[f"optimism: {name}"] = 100 * (means[best] - truth[tuple(all_of[best].tolist())])
        for budget in (1_100, 2_200, 4_400, 8_800):
            result = ours(surface, budget, np.random.default_rng([seed, 3]), method="surrogate")
            row[f"surrogate, {budget:,}"] = 100 * (truth[result.members] - base)
            row[f"optimism: surrogate, {budget:,}"] = 100 * (result.estimate - truth[result.members])
        out.append(row)
        if kept:
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
    frame = pl.DataFrame(out)
    means = frame.group_by("surface").mean().sort("surface").drop("seed")
    return {
        r["surface"]: {name: _round(value) for name, value in r.items() if name != "surface"} for r in means.to_dicts()
    }


def speed(cells: int) -> dict:
    """CPU seconds of the search alone (without what the surface needs to answer), and peak memory of the process."""
    surface = Surface("B", 0, n_rows=250)
    spent = [0.0]
    truly = surface.answer

    @cache
    def answer(key: tuple[int, ...]) -> np.ndarray:
        started = time.process_time()
        out = truly(key)
        spent[0] += time.process_time() - started
        return out

    surface.answer = lambda members, rows=None: answer(tuple(members))  # type: ignore[method-assign]
    started = time.process_time()
    result = ours(surface, cells, np.random.default_rng(0), method="surrogate")
    cpu_s = time.process_time() - started - spent[0]
    kilobytes = 1024 if sys.platform == "darwin" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / kilobytes
    return {
        "cells": result.calls,
        "cpu_s": round(cpu_s, 2),
        "peak_mb": round(peak),
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surfaces", default="ABCDEFHOXN")
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--methods", default="random,greedy,halving,main effects,tpe,surrogate")
    parser.add_argument("--out", type=Path, help="keep each run in this file, and do not repeat those that it has")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--cells", type=int, help="only this many, in this process")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.cells:
        print(json.dumps(speed(options.cells)))
        return
    if options.speed:
        for cells in (10_000, 40_000):
            subprocess.run([sys.executable, __file__, "--cells", str(cells)], check=True)
        return
    if options.small:
        print(json.dumps({"seeds": options.seeds, "small": small(seeds, "ABCDO", options.out)}, indent=1))
        return
    methods, notes = options.methods.split(","), []
    if "tpe" in methods:
        try:
            import optuna  # noqa: F401
        except ImportError:
            methods.remove("tpe")
            notes.append("tpe: skipped, optuna is not installed (pip install optuna)")
    runs = run(options.surfaces, seeds, methods, budget=options.budget, n_rows=options.rows, kept=options.out)
    head = {"budget": options.budget, "seeds": options.seeds, "surfaces": options.surfaces, "rows": options.rows}
    print(json.dumps(head | {"load": round(os.getloadavg()[0], 2), "notes": notes, "methods": report(runs)}, indent=1))


if __name__ == "__main__":
    main()
