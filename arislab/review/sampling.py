"""Which answers people look at: those near the cut, the best, and a random share whose chance is known."""

import random

import polars as pl

from arislab.errors import ParameterError
from arislab.review.decisions import standing

NEAR_CUT, TOP = 0.4, 0.2
"""Shares of a queue taken from the lowest and the highest kept qualities; the rest is drawn at random."""


def queue(curated: pl.DataFrame, reviews: pl.DataFrame, *, n: int, seed: int) -> pl.DataFrame:
    """Return up to n rows to review next, in an order that `seed` shuffles.

    40 % lie nearest to the cut (the lowest kept qualities), 20 % are the best, and the rest is drawn at random, so that
    the share of rejects can be estimated for all waiting rows.

    Args:
        curated: columns custom_id, quality_score, needs_review and whatever the panel shows.
        reviews: events so far, folded first: a row that somebody settled is not queued again; one that was skipped, was
            taken back, or reads otherwise than when it was judged, is.
        n: rows wanted, at least 1.
        seed: of the random share and of the order.

    Returns:
        Rows of curated with four more columns: why (near the cut, top, random), inclusion_prob, the chance that the row
        came into this queue: 1 for the first two, n_random / n_others for the random share; stale and stale_by, the
        verdict about an earlier text of the row and its reviewer (null if there is none).

    Raises:
        ParameterError: n is below 1.
    """
    if n < 1:
        raise ParameterError(f"n must be at least 1, got {n}; it is the number of rows to review next.")
    waiting = standing(curated, reviews).filter(pl.col("needs_review"))
    ranked = waiting.sort("quality_score", "custom_id", nulls_last=True)["custom_id"].to_list()
    n = min(n, len(ranked))
    # the chosen ends leave the urn before the draw, so that of each row it is known with what chance it came
    n_near, n_top = round(n * NEAR_CUT), round(n * TOP)
    near, top, others = ranked[:n_near], ranked[len(ranked) - n_top :], ranked[n_near : len(ranked) - n_top]
    draw = random.Random(seed)
    n_random = n - n_near - n_top
    chosen = [(c, "near the cut", 1.0) for c in near] + [(c, "top", 1.0) for c in top]
    chosen += [(c, "random", n_random / len(others)) for c in draw.sample(others, n_random)]
    draw.shuffle(chosen)
    order = pl.DataFrame(
        chosen, schema={"custom_id": pl.String, "why": pl.String, "inclusion_prob": pl.Float64}, orient="row"
    )
    return order.join(waiting, on="custom_id", how="left", maintain_order="left").select(
        *curated.columns, "why", "inclusion_prob", "stale", "stale_by"
    )  # one row per output to review
