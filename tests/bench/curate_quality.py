"""What each signal of quality is worth on real outputs that somebody labelled.

``python tests/bench/curate_quality.py [SHARED]`` reads tora_gsm8k (right or wrong answers to sums) and alpaca_eval
(``win_prob`` above one half) of the folder of shared data, and prints for each signal: rows that it could tell, the
chance that a good row stands above a bad one (AUC), and the share of good rows in its best fifth, each with a 95 %
interval over questions (200 draws of whole questions), beside the base rate.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab import scoring, signals
from arislab.task import load

CHECKOUT = Path(__file__).resolve().parents[2]
N_DRAWS = 200


def sums(shared: Path) -> pl.DataFrame:
    """Outputs of two models on the same questions, and whether the answer is right."""
    rows = [
        (f"{file.stem}-{n}", f"q{n}", row["code"][0], row["pred"][0] == row["gt"], row["question"])
        for file in sorted((shared / "tora_gsm8k").glob("*.jsonl"))
        for n, row in enumerate(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    ]
    return pl.DataFrame(rows, schema=["custom_id", "candidate_id", "output", "good", "input"], orient="row")


def instructions(shared: Path) -> pl.DataFrame:
    """Labelled outputs of many models on the same instructions; the others count as samples beside them."""
    frame = pl.read_parquet(shared / "alpaca_eval" / "outputs_dev.parquet").drop_nulls("win_prob")
    ids = pl.concat_str(pl.lit("r"), pl.int_range(pl.len()))
    return frame.select(
        "output", custom_id=ids, candidate_id="instruction", input="instruction", good=pl.col("win_prob") > 0.5
    )


def last_number(output: str) -> float | None:
    """The last number of a text."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", output)
    return float(numbers[-1].replace(",", "")) if numbers else None


def auc(score: NDArray[Any], good: NDArray[Any]) -> float:
    """Chance that a good row scores above a bad one, ties counting half."""
    ranks, n = pl.Series(score).rank("average").to_numpy(), good.sum()
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * (len(good) - n)))


def best_fifth(score: NDArray[Any], good: NDArray[Any]) -> float:
    """Share of good rows in the best fifth; rows that tie at its edge count in part."""
    n = len(score) / 5
    edge = np.sort(score)[::-1][int(n)]
    above, tied = score > edge, score == edge
    return float((good[above].sum() + good[tied].mean() * (n - above.sum())) / n)


def shown(name: str, score: pl.Series, rows: pl.DataFrame) -> None:
    """Print a line for a signal."""
    told = rows.with_columns(score=score).drop_nulls("score")
    values, good = told["score"].to_numpy(), told["good"].to_numpy()
    _, group = np.unique(told["candidate_id"].to_numpy(), return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    random, draws = np.random.default_rng(1), []
    for _ in range(N_DRAWS):
        taken = np.concatenate([parts[i] for i in random.integers(len(parts), size=len(parts))])
        draws.append((auc(values[taken], good[taken]), best_fifth(values[taken], good[taken])))
    line = f"  {name:<22} n {told.height:>6,}"
    for what, value, drawn in zip(("AUC", "best fifth"), (auc(values, good), best_fifth(values, good)),
                                  np.array(draws).T, strict=True):  # fmt: skip
        low, high = np.quantile(drawn, (0.025, 0.975))
        line += f"   {what} {value:.3f} [{low:.3f}, {high:.3f}]"
    print(line, flush=True)


def main() -> None:
    """Print both sets."""
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT.parent / "shared" / "data"
    rules = load("instruction_following")
    for name, rows, key in (("sums", sums(shared), last_number), ("instructions", instructions(shared), None)):
        n_questions = rows["candidate_id"].n_unique()
        print(f"{name}: {rows.height:,} outputs on {n_questions:,} questions, good {rows['good'].mean():.3f}")
        agrees = signals.agreement(key)
        others = scoring._others(rows)
        values = [agrees(output, rest) for output, rest in zip(rows["output"], others, strict=True)]
        shown("agreement", pl.Series(values, dtype=pl.Float64), rows)
        length = rows["output"].str.len_chars()
        shown("longest", length, rows)
        shown("shortest", -length.cast(pl.Int64), rows)
        shown("rules", scoring.score(rows.drop("good"), rules, max_failures=1)["quality"], rows)


if __name__ == "__main__":
    main()
