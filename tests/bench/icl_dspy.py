"""The search for examples on real in-context learning (tier 1), beside real dspy and exhaustive truth.

Prints one JSON object.

    python tests/bench/icl_dspy.py PART ... --folder DIR [--kinds "as it came"] [--seeds 0 10] [--budgets 2000 10000]
    [--rows 100]

Every cell is a text that the embedded model wrote (``icl_embedded.py``), scored by the scorers of candidate_evaluation.
DIR keeps the cells and the finished runs; starting again goes on. Rows are synthetic candidates of the validation
split, of another seed than the pools'.

    surface      SD of true quality over random ordered sets, by the covariance of two halves of the rows
    search       pools of 100, 5 examples: arislab beside random search as dspy does it, equal calls; true quality on
    fresh rows exhaustive   pools of 12, 3 examples: all 220 sets on all rows, beside searches with a part of these
    calls dspy         the real dspy through `arislab serve`, installed into DIR/dspy: same sets, scores and winner as
    the emulation in "search"? report       the tables of what is in DIR

A pool is "as it came" (unreviewed outputs of phase 1), "approved" (drawn from the top fifth by quality) or "best" (what
phase 3 takes). True quality is the mean over --truth fresh rows; a gain is true quality minus that of random sets of
the pool (100 sets, rows in turn).
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from icl_embedded import MAX_TOKENS, Cells, Decoder, Example, candidates

from arislab import curate, icl, stats

N, K, N_OUTPUTS = 100, 5, 5_000
KINDS = ("as it came", "approved", "best")


class World:
    """Phase 1 outputs, pools drawn from them, and rows that no pool has seen."""

    def __init__(self, folder: Path, *, temperature: float = 0.9, n_rows: int = 2_200) -> None:
        self.decoder = Decoder(folder)
        self.temperature = temperature
        self.outputs = self._outputs(folder)
        self.rows = candidates(n_rows, seed=7001, split="validation")
        self.cells = Cells(folder / "cells.sqlite", self.decoder, self.rows, temperature=temperature)

    def _outputs(self, folder: Path) -> pl.DataFrame:
        path = folder / "outputs.parquet"
        if not path.exists():
            people = candidates(N_OUTPUTS, seed=1, split="train")
            cells = Cells(folder / "cells.sqlite", self.decoder, people, temperature=0.9)
            texts = cells.texts([((), range(people.height))])[0]
            quality = cells.scores(texts, range(people.height)).astype(float)
            frame = people.select("candidate_id").with_columns(
                id="candidate_id",
                input=cells.requests["input"],
                output=pl.Series(texts),
                quality_score=pl.Series(quality),
            )
            frame.write_parquet(path)
        return pl.read_parquet(path)

    def pool(self, kind: str, seed: int, n: int = N) -> pl.DataFrame:
        """Examples: id, input, output, quality_score.

        ``as it came`` is unreviewed, ``approved`` the top fifth, ``best`` what phase 3 takes.
        """
        ranked = self.outputs.sort("quality_score", "id", descending=[True, False])
        if kind == "best":
            return curate.pool(self.outputs, n=n, seed=seed)
        among = ranked if kind == "as it came" else ranked.head(ranked.height // 5)
        return among.sample(n, shuffle=True, seed=1000 + seed)


def examples_of(pool: pl.DataFrame) -> dict[str, Example]:
    return {row["id"]: (row["input"], row["output"]) for row in pool.to_dicts()}


def spread(world: World, kind: str, k: int, *, n_sets: int, n_rows: int, seed: int = 0) -> dict:
    """SD of true quality over random ordered sets, by the covariance of two halves of the rows."""
    rng = np.random.default_rng([5, seed, k])
    pool = list(examples_of(world.pool(kind, seed)).values())
    sets = [[pool[i] for i in rng.permutation(len(pool))[:k]] for _ in range(n_sets)]
    y = np.array(world.cells.ask([(s, range(n_rows)) for s in sets]))
    halves = []
    for i in range(50):
        order = np.random.default_rng(i).permutation(n_rows)
        a, b = y[:, order[: n_rows // 2]].mean(1), y[:, order[n_rows // 2 :]].mean(1)
        halves.append(np.cov(a, b)[0, 1])
    means = y.mean(1)
    rows = y - means[:, None]
    return {
        "pool": kind, "k": k, "temperature": world.temperature, "n_sets": n_sets, "n_rows": n_rows,
        "mean": means.mean(), "sd": means.std(ddof=1), "sd_true": max(np.mean(halves), 0) ** 0.5,
        "reliability": np.mean(halves) / means.var(ddof=1), "worst": means.min(), "best": means.max(),
        "sd_of_a_cell": y.std(), "sd_of_a_paired_cell": (rows - rows.mean(0)).std(),
    }  # fmt: skip


# -- searches ---------------------------------------------------------------------------------------------------------


class Arena:
    """One pool, the rows that searches may ask, and fresh rows for the truth."""

    def __init__(self, world: World, kind: str, seed: int, *, n: int, k: int, n_rows: int, n_truth: int) -> None:
        self.world, self.kind, self.seed, self.k = world, kind, seed, k
        self.pool = world.pool(kind, seed, n)
        self.ids = self.pool["id"].to_list()
        self.examples = examples_of(self.pool)
        first = 100 * seed
        self.search_rows = list(range(first, first + n_rows))
        self.truth_rows = list(range(world.rows.height - n_truth, world.rows.height))
        assert self.search_rows[-1] < self.truth_rows[0]

    def ask(self, sets: list[tuple[str, ...]], rows: list[list[int]]) -> list[np.ndarray]:
        return self.world.cells.ask([([self.examples[i] for i in s], r) for s, r in zip(sets, rows, strict=True)])

    def full(self, sets: list[tuple[str, ...]]) -> np.ndarray:
        return np.array(self.ask(sets, [self.search_rows] * len(sets)))

    def truth(self, members: tuple[str, ...]) -> np.ndarray:
        return self.ask([members], [self.truth_rows])[0]

    def typical(self, sets: list[tuple[str, ...]], each: int) -> float:
        """Mean true quality of sets, each on some truth rows, every row equally often."""
        rng = np.random.default_rng([6, self.seed])
        deck = np.concatenate(
            [rng.permutation(self.truth_rows) for _ in range(len(sets) * each // len(self.truth_rows) + 1)]
        )
        return float(np.mean(self.ask(sets, [deck[i * each : (i + 1) * each].tolist() for i in range(len(sets))])))

    def arislab(self, budget: int, method: str, seed: int) -> dict:
        at = dict(zip(self.world.rows["candidate_id"], range(self.world.rows.height), strict=True))

        def ask(cells: pl.DataFrame) -> pl.DataFrame:
            parts = cells.partition_by("set_id", maintain_order=True)
            rows = [[at[c] for c in part["candidate_id"]] for part in parts]
            qualities = self.ask([tuple(part["example_ids"][0]) for part in parts], rows)
            return pl.concat(
                part.select("set_id", "candidate_id", quality=pl.Series(q))
                for part, q in zip(parts, qualities, strict=True)
            )

        result = icl.search(
            self.pool.select("id"),
            self.world.rows[self.search_rows],
            k=self.k,
            budget=budget,
            ask=ask,
            seed=seed,
            method=method,
        )
        more = {"score": result.score, "evidence": result.evidence, "rounds": result.round}
        return {"members": result.example_ids, "estimate": result.estimate[0], "calls": result.n_requests, **more}

    def best_of(self, sets: list[tuple[str, ...]]) -> dict:
        """Random search: every set on all rows, the first of the best wins."""
        means = [round(100 * float(np.sum(q)) / len(q), 2) for q in self.full(sets)]  # as dspy.Evaluate rounds
        best = int(np.argmax(means))
        return {
            "members": sets[best],
            "estimate": means[best] / 100,
            "calls": len(sets) * len(self.search_rows),
            "rounds": 1,
        }


def dspy_sets(ids: list[str], n: int, k: int = K) -> list[tuple[str, ...]]:
    """What ``LabeledFewShot(k).compile(trainset=shuffled by seed)`` shows, for seeds 0, 1, ....

    The emulation of dspy.
    """
    sets = []
    for seed in range(n):
        shuffled = list(ids)
        random.Random(seed).shuffle(shuffled)
        sets.append(tuple(random.Random(0).sample(shuffled, k)))
    return sets


def searches(
    world: World, kind: str, seeds: list[int], budgets: list[int], results: "Results", *, n_rows: int, n_truth: int
) -> None:
    for seed in seeds:
        arena = Arena(world, kind, seed, n=N, k=K, n_rows=n_rows, n_truth=n_truth)
        facts = {
            "part": "search",
            "kind": kind,
            "temperature": world.temperature,
            "n": N,
            "k": K,
            "n_rows": n_rows,
            "seed": seed,
        }
        ranked = arena.pool.sort("quality_score", "id", descending=[True, False])["id"].to_list()
        free = {
            "members": tuple(ranked[:K]),
            "estimate": None,
            "calls": 0,
            "rounds": 0,
        }  # the scorers have judged the pool
        runs = {("top quality", 0): lambda f=free: f}
        for budget in budgets:
            n = budget // n_rows
            runs["dspy", budget] = lambda a=arena, n=n: a.best_of(dspy_sets(a.ids, n))
            runs["arislab", budget] = lambda a=arena, b=budget: a.arislab(b, "auto", a.seed)
            if budget < 3_000:
                runs["arislab halving", budget] = lambda a=arena, b=budget: a.arislab(b, "halving", a.seed)
                # other draws of the same distribution, disjoint from dspy's own
                runs["random", budget] = lambda a=arena, n=n: a.best_of(dspy_sets(a.ids, 2 * n)[n:])
        typical = None
        for (arm, budget), run in runs.items():
            here = {**facts, "budget": budget, "arm": arm}
            if results.has(here):
                continue
            if typical is None:
                typical = arena.typical(dspy_sets(arena.ids, 100), 10)
            result = run()
            quality = arena.truth(result["members"])
            results.add({**here, **result, "typical": typical, "truth": quality.mean(), "n_truth": n_truth}, quality)


def exhaustive(
    world: World, kind: str, seeds: list[int], results: "Results", *, n_rows: int, n_truth: int, n_searches: int = 2
) -> None:
    """All 220 sets of 3 among 12 on all rows, beside searches with a part of the calls.

    True quality of all sets on fresh rows.
    """
    for seed in seeds:
        arena = Arena(world, kind, seed, n=12, k=3, n_rows=n_rows, n_truth=n_truth)
        facts = {
            "part": "exhaustive",
            "kind": kind,
            "temperature": world.temperature,
            "n": 12,
            "k": 3,
            "n_rows": n_rows,
            "seed": seed,
        }
        every = list(itertools.combinations(arena.ids, 3))  # the pool is in random order, so this order is arbitrary
        runs = {("exhaustive sets", 0, len(every) * n_rows): lambda a=arena, e=every: a.best_of(e)}
        for i in range(n_searches):
            for share in (0.05, 0.10, 0.20):
                budget = round(share * len(every) * n_rows)
                runs["arislab surrogate", i, budget] = lambda a=arena, b=budget, i=i: a.arislab(b, "surrogate", i)
                if share == 0.10:
                    runs["arislab halving", i, budget] = lambda a=arena, b=budget, i=i: a.arislab(b, "halving", i)
        typical = None
        for (arm, i, budget), run in runs.items():
            here = {**facts, "budget": budget, "arm": arm, "search": i}
            if results.has(here):
                continue
            if typical is None:
                typical = arena.typical(every, 20)
            result = run()
            quality = arena.truth(result["members"])
            results.add({**here, **result, "typical": typical, "truth": quality.mean(), "n_truth": n_truth}, quality)


# -- the real dspy ----------------------------------------------------------------------------------------------------


def install(folder: Path) -> Path:
    """An environment of its own with dspy."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "dspy"], check=True
        )
    return python


def real_dspy(arena: Arena, python: Path, n_candidates: int, *, transport: str, probe: bool) -> dict:
    """Random search by dspy itself, over HTTP to a fresh `arislab serve`."""
    cells = arena.world.cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "arislab", "serve", "--data", str(folder / "srv"), "--workers", "1"]
        command += ["--parent-pid", str(os.getpid())]
        with (folder / "server.log").open("w") as log:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            ready = json.loads(server.stdout.readline())
            bodies = [json.loads(cells.requests["body"][v]) for v in arena.search_rows]
            job = {
                "url": ready["url"], "token_file": ready["token_file"], "model": cells.decoder.engine.base,
                "k": arena.k, "temperature": cells.temperature, "max_tokens": MAX_TOKENS,
                "n_candidates": n_candidates, "transport": transport,
                "probe": probe, "task_file": str(cells.task.path), "system": bodies[0]["messages"][0]["content"],
                "pool": arena.pool.select("id", "input", "output").to_dicts(),
                "rows": [
                    {
                        "input": b["messages"][-1]["content"],
                        "seed": b["seed"],
                        "profile": json.loads(cells.rows["profile"][v]),
                    }
                    for v, b in zip(arena.search_rows, bodies, strict=True)
                ],
            }  # fmt: skip
            (folder / "job.json").write_text(json.dumps(job))
            client = [
                str(python),
                str(Path(__file__).with_name("icl_dspy_client.py")),
                str(folder / "job.json"),
                str(folder / "out.json"),
            ]
            subprocess.run(
                client,
                check=True,
                env={**os.environ, "HOME": name, "PYTHONPATH": ""},
                cwd=name,
                stdout=subprocess.DEVNULL,
            )
            return json.loads((folder / "out.json").read_text())
        finally:
            server.terminate()
            server.wait(timeout=30)
            server.stdout.close()


def against_emulation(
    world: World, kind: str, seeds: list[int], budget: int, folder: Path, *, n_rows: int, n_truth: int, transport: str
) -> None:
    """Real dspy beside its emulation: sets, scores of all cells, winner."""
    python = install(folder / "dspy")
    path = folder / "dspy.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in seeds:
        if any(
            d["kind"] == kind
            and d["seed"] == seed
            and d["budget"] >= budget
            and d["n_rows"] == n_rows
            and d["transport"] == transport
            for d in done
        ):
            continue
        arena = Arena(world, kind, seed, n=N, k=K, n_rows=n_rows, n_truth=n_truth)
        n = budget // n_rows
        ran = real_dspy(arena, python, n, transport=transport, probe=not seed)
        sets = dspy_sets(arena.ids, n)
        ours = arena.full(sets)
        theirs = np.array([c["scores"] for c in ran["candidates"]])
        row = {
            "kind": kind, "seed": seed, "budget": budget, "n_rows": n_rows, "temperature": world.temperature,
            "transport": transport,
            "same_sets": sum(tuple(c["ids"]) == s for c, s in zip(ran["candidates"], sets, strict=True)), "n_sets": n,
            "same_cells": int((abs(ours - theirs) < 1e-6).sum()), "n_cells": ours.size,
            "same_winner": tuple(ran["candidates"][ran["best"]]["ids"]) == arena.best_of(sets)["members"],
            "winner": ran["candidates"][ran["best"]]["ids"], "score": ran["candidates"][ran["best"]]["score"],
            "wall_s": round(ran["wall_s"], 1), "dspy_cpu_ms_per_call": round(1000 * ran["cpu_s"] / ours.size, 2),
            "versions": ran["versions"], "labelled_only": ran.get("labelled_only"),
            "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            time.strftime("%H:%M:%S"),
            json.dumps({k: v for k, v in row.items() if k != "winner"}),
            file=sys.stderr,
            flush=True,
        )


class Results:
    """Finished runs, one JSON line each; a run that is there is not run again."""

    KEY = ("part", "kind", "temperature", "n_rows", "seed", "budget", "arm", "search")

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runs.jsonl"
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def has(self, row: dict) -> bool:
        return any(all(row.get(name) == old.get(name) for name in self.KEY) for old in self.rows)

    def add(self, row: dict, quality: np.ndarray) -> None:
        self.rows.append(
            {**row, "truth_se": float(quality.std(ddof=1) / len(quality) ** 0.5), "load": round(os.getloadavg()[0], 1)}
        )
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1], default=float) + "\n")
        line = {
            name: row.get(name) for name in ("kind", "seed", "budget", "arm", "search", "estimate", "truth", "typical")
        }
        print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def report(folder: Path) -> dict:
    """Tables of finished runs; differences are paired by pool seed."""
    runs = pl.DataFrame(Results(folder).rows, infer_schema_length=None)
    runs = runs.with_columns(gain=pl.col("truth") - pl.col("typical"), optimism=pl.col("estimate") - pl.col("truth"))
    report: dict = {"search": [], "exhaustive": []}
    for part in runs.filter(pl.col("part") == "search").partition_by(
        "kind", "temperature", "n_rows", maintain_order=True
    ):
        for arm, budget in part.select("arm", "budget").unique().sort("budget", "arm").iter_rows():
            mine = part.filter((pl.col("arm") == arm) & (pl.col("budget") == budget)).sort("seed")
            row = {**mine.row(0, named=True), **means(mine)}
            row = {name: row[name] for name in ("kind", "temperature", "n_rows", "arm", "budget", *means(mine))}
            baselines = [
                ("top quality", 0),
                *(("dspy", b) for b in sorted(part.filter(pl.col("arm") == "dspy")["budget"].unique())),
            ]
            baselines += [("arislab", budget)] if arm == "arislab halving" else []
            for other, calls in baselines:
                theirs = part.filter((pl.col("arm") == other) & (pl.col("budget") == calls))
                pairs = mine.join(theirs, on="seed").sort("seed")
                if pairs.height > 1 and (arm, budget) != (other, calls):
                    row[f"minus {other} {calls}"] = paired(pairs["truth"], pairs["truth_right"])
            report["search"].append(row)
    for part in runs.filter(pl.col("part") == "exhaustive").partition_by(
        "kind", "temperature", "n_rows", maintain_order=True
    ):
        full = part.filter(pl.col("arm") == "exhaustive sets")
        for arm, budget in part.select("arm", "budget").unique().sort("budget", "arm").iter_rows():
            mine = part.filter((pl.col("arm") == arm) & (pl.col("budget") == budget))
            per_pool = (
                mine.group_by("seed", maintain_order=True)
                .agg(pl.mean("truth", "gain", "optimism", "calls"))
                .sort("seed")
            )
            pairs = per_pool.join(full, on="seed").sort("seed")
            row = {
                "kind": part["kind"][0],
                "arm": arm,
                "budget": budget,
                "n_pools": per_pool.height,
                "n_searches": mine.height,
            }
            row |= {name: per_pool[name].mean() for name in ("truth", "gain", "optimism", "calls")}
            row["share_of_exhaustive_gain"] = pairs["gain"].sum() / pairs["gain_right"].sum()
            row["shares"] = [round(x, 3) for x in pairs["gain"] / pairs["gain_right"]]
            row["minus exhaustive"] = paired(pairs["truth"], pairs["truth_right"])
            report["exhaustive"].append(row)
    path = folder / "surfaces.jsonl"
    report["surface"] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path = folder / "dspy.jsonl"
    real = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in real:
        mine = runs.filter(
            (pl.col("part") == "search") & (pl.col("arm") == "dspy") & (pl.col("kind") == row["kind"])
            & (pl.col("seed") == row["seed"])
            & (pl.col("budget") == row["budget"]) & (pl.col("n_rows") == row["n_rows"])
            & (pl.col("temperature") == row["temperature"])
        )  # fmt: skip
        row["same_winner_as_reported"] = row.pop("winner") == mine["members"][0].to_list() if mine.height else None
    versions = {name: importlib.metadata.version(name) for name in ("arislab", "torch", "numpy", "polars")}
    return {**report, "dspy": real, "versions": versions, "load": os.getloadavg(), "cores": os.cpu_count()}


def means(runs: pl.DataFrame) -> dict:
    names = ("truth", "gain", "estimate", "optimism", "calls", "rounds")
    return {"n_seeds": runs.height, **{name: runs[name].mean() for name in names}}


def paired(a: pl.Series, b: pl.Series) -> dict:
    d = stats.paired_difference(a, b)
    return {"mean": d.mean, "low": d.low, "high": d.high, "n": d.n, "wins": d.wins, "ties": d.ties, "p": d.p}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("surface", "search", "exhaustive", "dspy", "report"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["as it came"])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 10])
    parser.add_argument("--budgets", nargs="+", type=int, default=[2_000, 10_000])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--truth", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument(
        "--transport", choices=("chat", "batch"), default="batch", help="dspy.LM one by one, or batches"
    )
    parser.add_argument("--k", nargs="+", type=int, default=[5, 1, 3], help="of the surface")
    given = parser.parse_args()
    if set(given.parts) != {"report"}:
        world, results = World(given.folder, temperature=given.temperature), Results(given.folder)
        seeds, sizes = list(range(*given.seeds)), {"n_rows": given.rows, "n_truth": given.truth}
        for kind in given.kinds:
            if "surface" in given.parts:
                for k in given.k:
                    row = spread(world, kind, k, n_sets=40, n_rows=200)
                    with (given.folder / "surfaces.jsonl").open("a") as file:
                        file.write(json.dumps(row, default=float) + "\n")
            if "exhaustive" in given.parts:
                exhaustive(world, kind, seeds, results, **sizes)
            if "search" in given.parts:
                searches(world, kind, seeds, given.budgets, results, **sizes)
            for budget in given.budgets if "dspy" in given.parts else ():
                against_emulation(world, kind, seeds, budget, given.folder, transport=given.transport, **sizes)
        print(f"{world.cells.n_answered:,} cells answered in {world.cells.seconds:.0f} s", file=sys.stderr)
    json.dump(report(given.folder), sys.stdout, indent=1, default=float)


if __name__ == "__main__":
    main()
