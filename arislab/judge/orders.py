"""How far a judge agrees with itself, before anybody asks how far it agrees with people.

The same answer is judged twice, with the scale written the other way round; of a pair, the one that was first stands
second. Whatever changes then is no opinion about the answer.
"""

import polars as pl

from arislab import stats
from arislab.judge.asking import WINS

_PAIR = ["criterion", "asked_sha256", "shown_sha256", "other_sha256"]


def both_orders(judgements: pl.DataFrame) -> pl.DataFrame:
    """Return what a judge said the one way and the other.

    Args:
        judgements: From ``current``: criterion, swapped, score, asked_sha256, shown_sha256, other_sha256.

    Returns:
        One row per answer and criterion, or pair: criterion, asked_sha256, first (score with the scale upwards; of a
        pair, that the one whose turn it is first is better), second (the other way; of the same answer), null where it
        said no number; asked_twice (Boolean: it was asked both ways).
    """
    is_pair = pl.col("criterion") == WINS
    turned = is_pair & pl.col("swapped")  # told from the side of the answer that was shown first before
    one = judgements.with_columns(
        shown_sha256=pl.when(turned).then("other_sha256").otherwise("shown_sha256"),
        other_sha256=pl.when(turned).then("shown_sha256").otherwise("other_sha256"),
        score=pl.when(turned).then(1 - pl.col("score")).otherwise("score"),
    )
    one = one.group_by(*_PAIR, "swapped", maintain_order=True).agg(pl.col("score").mean())
    by_order = [
        one.filter(pl.col("swapped") == swapped).select(
            *_PAIR, pl.col("score").alias(name), pl.lit(value=True).alias(f"{name}_asked")
        )
        for swapped, name in ((False, "first"), (True, "second"))
    ]
    both = by_order[0].join(by_order[1], on=_PAIR, how="full", coalesce=True, nulls_equal=True)
    return (
        both.sort(_PAIR)
        .select(
            "criterion", "asked_sha256", "first", "second", asked_twice=pl.all_horizontal("first_asked", "second_asked")
        )
        .with_columns(pl.col("asked_twice").fill_null(value=False))
    )


def consistency(judgements: pl.DataFrame, *, seed: int = 0, n_boot: int = 2_000) -> pl.DataFrame:
    """Return for each criterion how much of what a judge says depends on the order in which it was asked.

    Args:
        judgements: From ``current``.
        seed: Of the intervals.
        n_boot: Resamples of questions.

    Returns:
        One row per criterion: criterion, n (answers, or pairs, that were asked both ways), unread (share of them
        without a number one way or both), score (mean; null of pairs), disagreement (mean distance of the two scores,
        0..1; a judge that answers at random has 0.4, of pairs 0.44) with low and high (95 %), order_effect (by how much
        the second order scores higher; of pairs by how much an answer gains where it is shown first; 0: it does not
        matter) with its low and high, and spread (standard deviation of the scores, of pairs around a tie: a judge that
        says the same of all has 0, and agrees with itself).
    """
    rows = []
    for (criterion,), part in both_orders(judgements).group_by("criterion", maintain_order=True):
        part = part.filter("asked_twice")
        whole = part.drop_nulls(["first", "second"])
        change = whole["second"] - whole["first"]
        signed = -change / 2 if criterion == WINS else change  # of pairs ``second`` is told from the other place
        means = [
            stats.mean_interval(values, seed=seed, n_boot=n_boot, groups=whole["asked_sha256"])
            for values in (change.abs(), signed)
        ]
        score = (whole["first"] + whole["second"]) / 2
        unread = 1 - whole.height / part.height if part.height else None
        middle, spread = score.mean(), score.std()
        if criterion == WINS:  # which of the two is told of is chance
            middle, spread = None, (score - 0.5).pow(2).to_frame().select(pl.all().mean().sqrt()).item()
        intervals = [number for m in means for number in (m.mean, m.low, m.high)]
        rows.append((criterion, part.height, unread, middle, *intervals, spread))
    names = ["criterion", "n", "unread", "score", "disagreement", "low", "high"]
    names += ["order_effect", "effect_low", "effect_high", "spread"]
    types = [pl.String, pl.Int64, *[pl.Float64] * 9]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row").sort("criterion")
