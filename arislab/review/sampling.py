"""Which answers people look at: drawn by chance from all that were scored, each with a chance that is known.

A decision about a row that a rule picked tells of that row; only a draw tells of the rows that nobody looks at. So
every row of a queue is drawn, and what matters more (the rows just above the cut) is drawn more densely.
"""

import hashlib
import json
import random
from collections.abc import Callable

import polars as pl

from arislab.errors import ParameterError
from arislab.review.decisions import standing
from arislab.system.kinds import takes_any_frame

BELOW = 0.3
"""Share of a queue that is drawn from the rows below the cut."""
_NEAR, _OF_NEAR = 0.25, 0.35
"""The worst quarter of the kept rows lies near the cut; it gets a third of what is drawn from the kept ones."""


@takes_any_frame
def queue(
    rows: pl.DataFrame,
    reviews: pl.DataFrame,
    *,
    n: int,
    seed: int,
    below: float = BELOW,
    show: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """Return up to n rows to review next, in an order that ``seed`` shuffles.

    Three strata are drawn from, each at random: below the cut (the share ``below``), the worst quarter of the kept rows
    (a third of the rest), the other kept rows. Where one has too few, the others give more. Whoever stops early has
    decided on a random part of all three, for the order is random too.

    Args:
        rows: What can be drawn: custom_id, quality_score (null last) and, if present, kept (Boolean; absent: all are
            kept). Without ``show`` they are rows of ``training_data_curated``.
        reviews: Events so far, folded first: a row that somebody settled is not queued again, nor is a disputed one,
            which is for adjudication; one that was skipped, was taken back, or reads otherwise than when it was judged,
            is.
        n: Rows wanted, at least 1.
        seed: Of the draw and of the order.
        below: Share of the queue that is drawn from rows that are not kept, 0..1.
        show: Makes rows of ``training_data_curated`` of those of ``rows`` that it is given. Only the drawn and the
            judged ones are made: there may be 170,000.

    Returns:
        Rows as the panel shows them, with five more columns: why (the stratum: below the cut, near the cut, kept),
        inclusion_prob (the chance that this queue held the row), queue (the name of this draw); stale and stale_by, the
        verdict about an earlier text of the row and its reviewer (null if there is none).

    Raises:
        ParameterError: n is below 1, or ``below`` no share.

    Source:
        Cochran 1977, Sampling Techniques, section 5 (stratified random sampling).
    """
    if n < 1:
        raise ParameterError(f"n must be at least 1, got {n}; it is the number of rows to review next.")
    if not 0 <= below <= 1:
        raise ParameterError(f"below must be in [0, 1], got {below!r}; 0.3 draws three in ten from below the cut.")
    judged = rows.filter(pl.col("custom_id").is_in(reviews["custom_id"].to_list()))
    seen = standing(judged if show is None else show(judged), reviews)
    settled = seen.filter(~pl.col("needs_review") | pl.col("disputed").is_not_null())
    waiting = rows.join(settled, on="custom_id", how="anti", maintain_order="left")
    if "needs_review" in waiting.columns:
        waiting = waiting.filter(pl.col("needs_review") | pl.col("custom_id").is_in(seen["custom_id"].to_list()))
    drawn = _draw(waiting, n=n, seed=seed, below=below)
    chosen = rows.join(drawn, on="custom_id", how="semi")
    shown = chosen if show is None else show(chosen)
    folded = standing(shown, reviews)
    return drawn.join(folded, on="custom_id", how="left", maintain_order="left").select(
        *shown.columns, "why", "inclusion_prob", "queue", "stale", "stale_by"
    )  # one row per output to review


@takes_any_frame
def picked(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a queue over rows that somebody picked: what is decided in it speaks of these rows alone.

    Reads: why, inclusion_prob, queue.

    Adds: nothing; why is "picked", and of the other two there are none, so no verdict counts as a label.
    """
    chance, queue = pl.lit(None, dtype=pl.Float64), pl.lit(None, dtype=pl.String)
    return rows.with_columns(why=pl.lit("picked"), inclusion_prob=chance, queue=queue)


def _draw(waiting: pl.DataFrame, *, n: int, seed: int, below: float) -> pl.DataFrame:
    """Draw from the strata: custom_id, why, inclusion_prob, queue, in a random order."""
    ranked = waiting.sort("quality_score", "custom_id", nulls_last=True)
    is_kept = ranked["kept"] if "kept" in ranked.columns else pl.Series([True] * ranked.height, dtype=pl.Boolean)
    kept = ranked.filter(is_kept)["custom_id"].to_list()
    others = ranked.filter(~is_kept)["custom_id"].to_list()
    n_near = round(_NEAR * len(kept)) if others else 0  # without rows below it there is no cut
    strata = {"below the cut": others, "near the cut": kept[:n_near], "kept": kept[n_near:]}
    of_kept = (1 - below) * n
    wanted = {"below the cut": below * n, "near the cut": _OF_NEAR * of_kept, "kept": (1 - _OF_NEAR) * of_kept}
    counts = _counts(wanted, {why: len(ids) for why, ids in strata.items()}, n=n)
    rng, chosen = random.Random(seed), list[tuple[str, str, float]]()
    for why, ids in strata.items():
        chosen += [(name, why, counts[why] / len(ids)) for name in rng.sample(ids, counts[why])]
    # rows of all strata mixed: those that are decided when somebody stops are a random part of each
    rng.shuffle(chosen)
    columns = {"custom_id": pl.String, "why": pl.String, "inclusion_prob": pl.Float64}
    name = hashlib.sha256(json.dumps([seed, [row[0] for row in chosen]]).encode()).hexdigest()[:12]
    return pl.DataFrame(chosen, schema=columns, orient="row").with_columns(queue=pl.lit(name))


def _counts(wanted: dict[str, float], sizes: dict[str, int], *, n: int) -> dict[str, int]:
    """How many to take of each stratum: as wanted, as far as there are, and n in all where there are that many."""
    counts = dict.fromkeys(sizes, 0)
    while (left := min(n, sum(sizes.values())) - sum(counts.values())) > 0:
        free = [why for why in sizes if counts[why] < sizes[why]]
        # the stratum that is furthest behind its share gets the next one
        for _ in range(left):
            why = max(free, key=lambda name: wanted[name] - counts[name])
            counts[why] += 1
            if counts[why] == sizes[why]:
                break
    return counts
