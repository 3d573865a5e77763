"""What each signal of quality is worth on real outputs that somebody labelled, and what labels make of them.

``python tests/bench/curate_quality.py [SHARED] [--draws 20] [--coverage]`` reads tora_gsm8k (right or wrong answers to
sums) and alpaca_eval (``win_prob`` above one half) of the folder of shared data. It prints for each signal: rows that
it could tell, the chance that a good row stands above a bad one (AUC), and the share of good rows in its best fifth,
each with a 95 % interval over questions (200 draws of whole questions), beside the base rate.

Then reviewers who know the truth decide on queues of 50 to 1,000 rows (the cut is the best fifth by the rules), once a
draw, and it prints what was learned from them, means over the draws: AUC of the stack on all rows (mean, its standard
error, and 95 % of the draws), whether it was used or not, beside the best signal's, and how often the interval that is
told for the AUC of the rules holds it; how often anything was learned, and of the quality that was: AUC, precision in
the best fifth and calibration error; and of the estimate of the share of good rows: how often its 95 % interval holds
the truth, and its width beside that of the labels alone (mean and its standard error), beside the narrowest that a
quality made of the best signal alone could have: the share of good rows at each of its values; above that, what a
regression on everything that is known would make of all labels. The same with judges in the place of the other signals:
right with a chance of 0.9, 0.7 and 0.5 (a coin); right with 0.7, but taken in by long answers; and right with 0.7, but
kinder where the scale is written downwards. Of each it prints how far it agrees with itself (``judge.consistency``):
the last one alone is seen there. At last the same of made-up rows with an agreement that tells as much as that of four
older models does on grade-school sums; with labels of a queue, and of rows drawn by chance.

``--coverage`` prints something else: what a tenth and three tenths of the places for coverage cost and brought, in the
best fifth by a judge that is right with a chance of 0.8 (another one a draw), beside as many rows by chance.
"""

import argparse
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from arislab import curate, judge, review, scoring, signals, stats
from arislab.curate import learned
from arislab.lake import tables
from arislab.task import load

CHECKOUT = Path(__file__).resolve().parents[2]
N_DRAWS = 200
Draw = Callable[[pl.DataFrame, int, int], curate.Labels]
"""Rows with their cut, how many labels, and a seed: what reviewers say of those that are drawn."""


def sums(shared: Path) -> pl.DataFrame:
    """Outputs of two models on the same questions, and whether the answer is right."""
    rows = [
        (f"{file.stem}-{n}", f"q{n}", row["code"][0], row["pred"][0] == row["gt"], row["question"], file.stem)
        for file in sorted((shared / "tora_gsm8k").glob("*.jsonl"))
        for n, row in enumerate(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    ]
    return pl.DataFrame(rows, schema=["custom_id", "candidate_id", "output", "good", "input", "model"], orient="row")


def instructions(shared: Path) -> pl.DataFrame:
    """Labelled outputs of many models on the same instructions; the others count as samples beside them."""
    frame = pl.read_parquet(shared / "alpaca_eval" / "outputs_dev.parquet").drop_nulls("win_prob")
    ids = pl.concat_str(pl.lit("r"), pl.int_range(pl.len()))
    return frame.select(
        "output",
        custom_id=ids,
        candidate_id="instruction",
        input="instruction",
        good=pl.col("win_prob") > 0.5,
        model="generator",
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


def labels_of(frame: pl.DataFrame, n: int, seed: int) -> curate.Labels:
    """What reviewers who know the truth say of a queue."""

    def show(chosen: pl.DataFrame) -> pl.DataFrame:
        nothing = pl.lit(None, dtype=pl.String)
        return chosen.select(
            "custom_id", "quality_score", input=pl.lit(""), output=pl.lit(""), needs_review=True, approved=False,
            reviewed_by=nothing, metadata=nothing,
        )  # fmt: skip

    rows = frame.select("custom_id", "kept", quality_score="quality")
    queue = review.queue(rows, tables.empty("reviews"), n=n, seed=seed, show=show)
    told = queue.join(frame, on="custom_id").select(
        "custom_id", "good", weight=1 / pl.col("inclusion_prob"), stratum="why"
    )
    return curate.Labels(told.sort("custom_id"), frame, 0, 0)


def by_chance(frame: pl.DataFrame, n: int, seed: int) -> curate.Labels:
    """What the same reviewers say of rows that are drawn by chance alone."""
    told = frame.sample(n, seed=seed).select("custom_id", "good", weight=pl.lit(len(frame) / n), stratum=pl.lit("all"))
    return curate.Labels(told.sort("custom_id"), frame, 0, 0)


def narrowest(signal: pl.Series, good: pl.Series) -> float:
    """Width of the interval, beside that of as many labels drawn by chance, if the share at each value were known.

    Values are binned to a fiftieth of the rows: of a signal that no two rows share every share would be 0 or 1.
    """
    bins = pl.DataFrame(
        {"bin": (signal.rank("min") * 50 / len(signal)).fill_null(-1).floor(), "good": good.cast(float)}
    )
    left = bins["good"] - bins.select(pl.col("good").mean().over("bin"))["good"]
    return float(np.sqrt((left**2).mean() / bins["good"].var(ddof=0)))


def with_everything(frame: pl.DataFrame, more: pl.DataFrame) -> float:
    """Width of the interval, as ``narrowest`` has it, by a regression on all signals and more.

    It has nine tenths of all labels to learn from, which nobody would have; whole questions are held out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns = pl.concat([frame.select(pl.selectors.starts_with("score_"), "quality"), more], how="horizontal")
    known = columns.with_columns(pl.selectors.numeric().is_null().cast(float).name.suffix("_null")).fill_null(0)
    good = frame["good"].to_numpy()
    said = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)), known.to_numpy(), good,
        groups=frame["candidate_id"].to_list(), cv=StratifiedGroupKFold(10, shuffle=True, random_state=0),
        method="predict_proba",
    )[:, 1]  # fmt: skip
    return float(np.sqrt(((good - said) ** 2).mean() / good.var()))


def learn(name: str, frame: pl.DataFrame, *, n_draws: int, draw: Draw = labels_of) -> None:
    """Print what labels make of the signals of a frame."""
    good = frame["good"].to_numpy().astype(float)
    ones = np.ones(len(good))
    groups = frame.select("custom_id", group_id="candidate_id")
    signals_here = [column for column in frame.columns if column.startswith("score_")]
    best, of_best = max((stats.auc(frame[column], frame["good"], n_boot=1).mean, column) for column in signals_here)
    of_rules = stats.auc(frame["quality"], frame["good"], n_boot=1).mean
    least = narrowest(frame[of_best], frame["good"])
    raw = learned.calibration_error(frame["quality"].to_numpy(), good, ones)
    print(
        f" {name}: best signal AUC {best:.3f}; calibration error of the rules {raw:.3f}; rows {len(good):,}; "
        f"no interval by that signal alone is narrower than {least:.2f} of the labels alone"
    )
    cut = curate.keep_top(frame, fraction=0.2, seed=1).frame
    for n in (50, 100, 300, 1_000):
        found, held, widths, stacked, told = [], [], [], [], []
        for seed in range(n_draws):
            labels = draw(cut, n, seed)
            one = curate.learn(labels, frame, groups, seed=seed)
            if "stack" in one.ways:
                score = pl.Series(one.ways["stack"].log_odds(frame))
                stacked.append(stats.auc(score, frame["good"], n_boot=1).mean)
                own = one.worth.row(by_predicate=pl.col("signal") == "rules", named=True)
                told.append(own["low"] <= of_rules <= own["high"])
            after = one.apply(frame)
            quality = after["quality"].to_numpy().astype(float)
            top = curate.keep_top(after, fraction=0.2, seed=seed)
            chances = one.unseen(frame)
            share = curate.estimates(top.frame, labels, chances=chances).row(0, named=True)
            held.append(share["low"] <= good.mean() <= share["high"])
            widths.append((share["high"] - share["low"]) / (share["labels_high"] - share["labels_low"]))
            if one.model is not None:
                area = stats.auc(after["quality"], frame["good"], n_boot=1).mean
                error = learned.calibration_error(quality, good, ones)
                found.append((area, top.kept["good"].mean(), error, len(one.model.signals) > 1))
        mean = np.mean(found, axis=0) if found else [float("nan")] * 4
        print(
            f"  {n:>5} labels: AUC of the stack {spread(stacked)}, of the rules held in "
            f"{np.mean(told) if told else float('nan'):.2f}; learned in {len(found)} of {n_draws} (a stack in "
            f"{sum(row[3] for row in found)}), AUC {spread([row[0] for row in found])}, best fifth {mean[1]:.3f}, "
            f"calibration error {mean[2]:.3f}; interval of the share: holds in {np.mean(held):.2f}, width "
            f"{np.mean(widths):.2f} (+- {np.std(widths) / np.sqrt(n_draws):.3f}) of the labels alone",
            flush=True,
        )


def spread(found: list[float]) -> str:
    """Mean of what draws gave, its standard error, and where 95 % of them lie."""
    if not found:
        return "none"
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{np.mean(found):.3f} (+- {np.std(found) / np.sqrt(len(found)):.3f}) [{low:.3f}, {high:.3f}]"


def judged(
    rows: pl.DataFrame, *, right: float, taken_in: float = 0.0, kinder: float = 0.0, seed: int = 0
) -> tuple[pl.Series, pl.DataFrame]:
    """Return the scores of a judge of one criterion that is asked twice, and how far it agrees with itself.

    Args:
        rows: custom_id, candidate_id, output, good.
        right: Chance that its verdict is the truth.
        taken_in: By how much the longest answer scores above the shortest, whatever its verdict.
        kinder: By how much it scores higher where the scale is written downwards.
        seed: Of the verdicts.
    """
    rng = np.random.default_rng(seed)
    says = np.where(rng.uniform(size=rows.height) < right, rows["good"], ~rows["good"])
    length = (rows["output"].str.len_chars().rank() / rows.height).to_numpy()
    base = 0.6 * says + taken_in * (length - 0.5)
    noise = 0.4 * rng.uniform(size=(2, rows.height))
    both = [
        rows.select(
            pl.lit("right").alias("criterion"),
            pl.lit(bool(swapped)).alias("swapped"),
            asked_sha256="candidate_id",
            shown_sha256="custom_id",
            other_sha256=pl.lit(None, dtype=pl.String),
            score=pl.Series(np.clip(base + noise[swapped] + kinder * swapped, 0, 1)),
        )
        for swapped in (0, 1)
    ]
    return (both[0]["score"] + both[1]["score"]) / 2, judge.consistency(pl.concat(both))


JUDGES = {
    "right in 0.9": {"right": 0.9},
    "right in 0.7": {"right": 0.7},
    "that throws a coin": {"right": 0.5},
    "right in 0.7, taken in by length": {"right": 0.7, "taken_in": 0.6},
    "right in 0.7, kinder downwards": {"right": 0.7, "kinder": 0.2},
}


AGREEING = ((0.0, 0.098, 2_963), (1 / 3, 0.510, 926), (2 / 3, 0.837, 735), (1.0, 0.957, 652))
"""How many of three other models gave the same answer, the share that was right, and how many answers: four older
models on the sums of GSM8K, as they were counted."""


def agreeing() -> pl.DataFrame:
    """Made-up rows with an agreement that tells as much as that one, and rules with an AUC of about .65."""
    rng = np.random.default_rng(0)
    agreement = np.concatenate([np.full(n, value) for value, _, n in AGREEING])
    good = rng.uniform(size=len(agreement)) < np.concatenate([np.full(n, right) for _, right, n in AGREEING])
    rules = pl.Series(rng.normal(size=len(good)) + 0.53 * good).rank() / len(good)
    asked = rng.permutation(len(good)) // 4
    names = pl.Series([f"r{i}" for i in range(len(good))])
    return pl.DataFrame(
        {
            "custom_id": names, "candidate_id": [f"q{i}" for i in asked], "score_agreement": agreement,
            "score_rules": rules, "quality": rules, "good": good,
        }
    ).with_columns(
        created_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)), scorer_version=pl.lit("made-up"), task=pl.lit("sums"),
        reason=pl.lit(None, dtype=pl.String),
    )  # fmt: skip


def covered(rows: pl.DataFrame, *, n_draws: int) -> None:
    """Print what places for coverage cost and brought."""
    good = rows["good"].fill_null(value=False).to_numpy().astype(bool)
    for share in (0.1, 0.3):
        found = []
        for seed in range(n_draws):
            rng = np.random.default_rng(seed)
            says = np.where(rng.uniform(size=len(rows)) < 0.8, good, ~good)
            frame = rows.with_columns(quality=pl.Series(0.5 * says + 0.5 * rng.uniform(size=len(rows))), good=good)
            plain = curate.keep_top(frame, fraction=0.2, seed=seed)
            cut = curate.keep_diverse(frame, fraction=0.2, diversity=share, seed=seed)
            old, new, luck = curate.cost(cut, plain, seed=seed).iter_rows(named=True)
            n = (plain.n_kept, new["n_replaced"])
            change = [one[name] - old[name] for one in (new, luck) for name in ("quality", "coverage", "repetition")]
            found.append((*n, *change, cut.kept["good"].mean() - plain.kept["good"].mean()))
        mean, low, high = np.mean(found, axis=0), *np.quantile(found, [0.025, 0.975], axis=0)
        print(f" {share:g} of {mean[0]:,.0f} places: {mean[1]:.0f} rows replaced; change of", flush=True)
        names = [f"{what}, {way}" for way in ("coverage", "chance") for what in ("quality", "coverage", "repetition")]
        for i, name in enumerate([*names, "share of good rows, coverage"], start=2):
            print(f"  {name:<30} {mean[i]:+.3f} [{low[i]:+.3f}, {high[i]:+.3f}] of {n_draws} draws", flush=True)


def main() -> None:
    """Print both sets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", nargs="?", type=Path, default=CHECKOUT.parent / "shared" / "data")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    rules = load("instruction_following")
    sets = (("sums", sums(given.shared), last_number), ("instructions", instructions(given.shared), None))
    for name, rows, key in sets:
        n_questions = rows["candidate_id"].n_unique()
        print(f"{name}: {rows.height:,} outputs on {n_questions:,} questions, good {rows['good'].mean():.3f}")
        if given.coverage:
            covered(rows, n_draws=given.draws)
            continue
        agrees = signals.agreement(key)
        others = scoring.others_of(rows)
        values = [agrees(output, rest) for output, rest in zip(rows["output"], others, strict=True)]
        shown("agreement", pl.Series(values, dtype=pl.Float64), rows)
        length = rows["output"].str.len_chars()
        shown("longest", length, rows)
        shown("shortest", -length.cast(pl.Int64), rows)
        scored = scoring.score(rows.drop("good"), rules, max_failures=1)
        shown("rules", scored["quality"], rows)
        frame = scored.with_columns(rows["good"], created_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)))
        agreed = frame.with_columns(score_agreement=pl.Series(values, dtype=pl.Float64))
        more = pl.concat([length.log1p().to_frame("length"), rows.select("model").to_dummies()], how="horizontal")
        whole = with_everything(agreed, more)
        print(
            f"  a regression on all of these, length and generator, taught by all labels: width {whole:.2f} of theirs"
        )
        learn("rules and agreement", agreed, n_draws=given.draws)
        for kind, how in JUDGES.items():
            scores, itself = judged(rows, **how)
            one = itself.row(0, named=True)
            print(
                f" a judge {kind}: disagreement {one['disagreement']:.3f}, order effect {one['order_effect']:+.3f} "
                f"[{one['effect_low']:+.3f}, {one['effect_high']:+.3f}], spread {one['spread']:.3f}"
            )
            learn(f"rules and a judge {kind}", frame.with_columns(score_judge=scores), n_draws=given.draws)
    if not given.coverage:
        for how, draw in (("a queue's", labels_of), ("drawn by chance", by_chance)):
            learn(f"made up, four answers that agree or not, labels {how}", agreeing(), n_draws=given.draws, draw=draw)


if __name__ == "__main__":
    main()
