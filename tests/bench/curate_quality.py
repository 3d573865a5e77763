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

import polars as pl

from arislab import scoring, signals, stats
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


def shown(name: str, score: pl.Series, rows: pl.DataFrame) -> None:
    """Print a line for a signal."""
    how = {"groups": rows["candidate_id"], "n_boot": N_DRAWS}
    area, fifth = stats.auc(score, rows["good"], **how), stats.precision_at(score, rows["good"], 0.2, **how)
    print(f"  {name:<12} AUC {area}; best fifth {fifth}", flush=True)


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
