"""How far reviewers agree: with each other, with themselves, with what is known; how that changes; how fast they are.

All of it is read from events, in the columns of the table reviews. An opinion is the latest live verdict of a reviewer
on one text (the same answer to the same question). Adjudications are none, for who adjudicates has seen what others
said; planted ones are none, for they measure their reviewer alone. Opinions that were given blind never stand beside
others. This module does not know where events are kept, nor what a verdict does to its row (decisions).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from arislab import stats
from arislab.errors import ParameterError, closest
from arislab.review.decisions import VERDICTS, in_order, live
from arislab.stats.agreement import Coefficient
from arislab.stats.agreement import coefficients as coefficients_of
from arislab.system.kinds import takes_any_frame

DECISIONS = ("reject", "edit", "approve")
"""What an opinion may be, from worst to best."""
LONGEST_S = 60.0
"""A pause: what took longer counts as so many seconds, for nobody looked at the screen."""
TEXT = ("custom_id", "shown_sha256", "asked_sha256")
"""What names the text of an event."""
_OTHERS = ("krippendorff_alpha", "gwet_ac1", "raw_agreement")
_PAIR = ("cohen_kappa", "gwet_ac1", "raw_agreement")
_COEFFICIENTS: dict[str, Any] = {
    "blind": pl.Boolean,
    **dict.fromkeys(("part", "name", "other", "measure"), pl.String),
    **dict.fromkeys(("estimate", "low", "high"), pl.Float64),
    **dict.fromkeys(("n", "n_raters"), pl.Int64),
    "reason": pl.String,
}


@takes_any_frame
def opinions(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the latest live verdict of each reviewer on each text: no adjudications, nothing planted.

    Args:
        reviews: Every event so far, in any order, in the columns of the table reviews.

    Returns:
        One row per reviewer and text, in the columns of the table reviews; those that bind no text are left out.
    """
    given = live(reviews).filter(pl.col("decision").is_in(DECISIONS), pl.col("planted").is_null())
    return given.drop_nulls("shown_sha256").unique(["reviewer", *TEXT], keep="last", maintain_order=True)


@takes_any_frame
def coefficients(
    reviews: pl.DataFrame,
    *,
    of: str = "decision",
    scale: str | None = None,
    rows: pl.DataFrame | None = None,
    by: str = "category",
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2000,
) -> pl.DataFrame:
    """Return how far reviewers agree: all of them, by category of the row, each with the others, and pair by pair.

    Args:
        reviews: As in ``opinions``.
        of: What they agree on: decision, category (that they gave the row), or a criterion of their ratings.
        scale: nominal, ordinal or interval, as in ``stats.agreement``; null: nominal, of ratings ordinal.
        rows: Frame with custom_id and ``by``, for agreement by category; null: without.
        by: Column of ``rows`` with the category of the row.
        level: Confidence level, in (0, 1).
        seed: Of the resamples.
        n_boot: Resamples of the items.

    Returns:
        One row per part and measure, blind opinions first: blind (whether they were given without seeing score, model
        and others), part (all, category, reviewer, pair), name (of the category, or of the reviewer), other (second
        reviewer of a pair), measure (krippendorff_alpha, gwet_ac1, raw_agreement; of pairs cohen_kappa), estimate, low,
        high, n (texts with two opinions or more), n_raters, reason (why estimate or interval is null).

    Raises:
        ParameterError: ``of`` is no criterion that anybody rated, or as in ``stats.agreement``.

    Source:
        As in ``stats.agreement``.
    """
    given = _valued(opinions(reviews), of)
    if rows is not None:
        given = given.join(rows.select("custom_id", part=by).unique("custom_id"), on="custom_id", how="left")
    how: dict[str, Any] = {"scale": scale or ("nominal" if of in ("decision", "category") else "ordinal")}
    how |= {"order": DECISIONS if of == "decision" else (), "level": level, "seed": seed, "n_boot": n_boot}
    table = [
        {"blind": is_blind, "part": part, "name": name, "other": other} | vars(one)
        for is_blind in (True, False)
        for part, name, other, found in _parts(given.filter(pl.col("blind") == is_blind), how)
        for one in found
    ]
    return pl.DataFrame(table, schema=_COEFFICIENTS)  # one row per part and measure


def _parts(
    given: pl.DataFrame, how: Mapping[str, Any]
) -> Iterator[tuple[str, str | None, str | None, list[Coefficient]]]:
    """Give what is measured of one kind of opinions, and its coefficients."""
    yield "all", None, None, coefficients_of(given, measures=_OTHERS, **how)
    if "part" in given.columns:
        for name in given["part"].drop_nulls().unique().sort():
            yield "category", name, None, coefficients_of(given.filter(part=name), measures=_OTHERS, **how)
    names = given["rater"].unique().sort().to_list()
    if len(names) < 2:
        return
    for name in names:
        yield "reviewer", name, None, coefficients_of(given, measures=_OTHERS, rater=name, **how)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            both = given.filter(pl.col("rater").is_in([name, other]))
            found = coefficients_of(both, measures=_PAIR, **how)
            if found[0].n:  # of eight reviewers most pairs have no text in common
                yield "pair", name, other, found


def _valued(given: pl.DataFrame, of: str) -> pl.DataFrame:
    """Return item, rater, value, blind and custom_id of opinions."""
    if of in ("decision", "category"):
        values = given[of]
    else:
        ratings = [_ratings(text) for text in given["ratings"]]
        names = sorted({name for rated in ratings for name in rated})
        if of not in names:
            raise ParameterError(f"nobody has rated {of!r}; {closest(of, ('decision', 'category', *names))}.")
        values = pl.Series([rated.get(of) for rated in ratings], dtype=pl.Int64)
    item = pl.concat_str(TEXT, separator=" ", ignore_nulls=True)  # older events name no question
    blind = pl.col("blind").fill_null(value=False)
    return given.select("custom_id", blind, item=item, rater="reviewer", value=values)


def _ratings(text: str | None) -> dict[str, int]:
    """The ratings of an event: whole numbers by criterion; of a text that is no JSON object none."""
    try:
        rated = json.loads(text or "{}")
    except ValueError:
        return {}
    return {name: n for name, n in rated.items() if isinstance(n, int)} if isinstance(rated, dict) else {}


# ---- what planted texts tell of a reviewer ---------------------------------------------------------------------------


@takes_any_frame
def repeats(reviews: pl.DataFrame, *, level: float = 0.95, seed: int = 0, n_boot: int = 2000) -> pl.DataFrame:
    """Return how far reviewers agree with themselves on texts that they were shown again (planted repeats).

    Args:
        reviews: As in ``opinions``. A repeat is compared with the verdict on the same text before it.
        level: As in ``coefficients``.
        seed: As there.
        n_boot: As there.

    Returns:
        One row per reviewer and measure, first those of all together (reviewer null): reviewer, measure (cohen_kappa,
        gwet_ac1, raw_agreement), estimate, low, high, n (texts judged twice), reason.
    """
    events = live(reviews).filter(pl.col("decision").is_in(DECISIONS)).drop_nulls("shown_sha256").with_row_index("at")
    first = events.filter(pl.col("planted").is_null()).select("reviewer", *TEXT, "at", before="decision")
    again = events.filter(pl.col("planted") == "repeat").select("reviewer", *TEXT, repeat="at", after="decision")
    both = again.join(first, on=["reviewer", *TEXT], how="inner", nulls_equal=True)
    both = both.filter(pl.col("at") < pl.col("repeat")).sort("repeat", "at").unique("repeat", keep="last")
    both = both.sort("repeat")
    lines = []
    for name in [None, *both["reviewer"].unique().sort()]:
        own = both if name is None else both.filter(reviewer=name)
        said = [own.select(item="repeat", rater=pl.lit(of), value=of) for of in ("before", "after")]
        found = coefficients_of(pl.concat(said), measures=_PAIR, order=DECISIONS, level=level, seed=seed, n_boot=n_boot)
        lines += [{"reviewer": name} | vars(one) for one in found]
    schema = {"reviewer": pl.String} | {
        name: _COEFFICIENTS[name] for name in list(_COEFFICIENTS)[4:] if name != "n_raters"
    }
    return pl.DataFrame(lines, schema=schema)  # one row per reviewer and measure


@takes_any_frame
def accuracy(reviews: pl.DataFrame, gold: pl.DataFrame, *, level: float = 0.95) -> pl.DataFrame:
    """Return how often reviewers are right on planted texts of which the right answer is known.

    What counts is whether the text is good as it came: an edit of what should be rejected is right.

    Args:
        reviews: As in ``opinions``.
        gold: custom_id and decision (approve, edit, reject: the right one).
        level: As in ``coefficients``.

    Returns:
        One row per reviewer: reviewer, accuracy (0..1), low, high (exact, Clopper and Pearson), n (texts judged),
        n_missed (bad ones approved), n_refused (good ones not approved).
    """
    judged = _on_gold(reviews, gold)
    counts = judged.group_by("reviewer").agg(
        n=pl.len(),
        right=pl.col("is_right").sum(),
        n_missed=(pl.col("said") & ~pl.col("should")).sum(),
        n_refused=(~pl.col("said") & pl.col("should")).sum(),
    )
    return _with_interval(counts.sort("reviewer"), "accuracy", level).select(
        "reviewer", "accuracy", "low", "high", "n", "n_missed", "n_refused"
    )  # one row per reviewer


def _on_gold(reviews: pl.DataFrame, gold: pl.DataFrame) -> pl.DataFrame:
    """Return the latest verdict of each reviewer on each planted text: reviewer, decided_at, said, should, is_right."""
    given = live(reviews).filter(pl.col("planted") == "gold", pl.col("decision").is_in(DECISIONS))
    given = given.unique(["reviewer", "custom_id"], keep="last", maintain_order=True)
    known = gold.select("custom_id", should=pl.col("decision") == "approve").unique("custom_id")
    joined = given.join(known, on="custom_id", how="inner", maintain_order="left")
    joined = joined.with_columns(said=pl.col("decision") == "approve")
    return joined.select("reviewer", "decided_at", "said", "should", is_right=pl.col("said") == pl.col("should"))


def _with_interval(counts: pl.DataFrame, name: str, level: float) -> pl.DataFrame:
    """Add a share, right of n, and its exact interval: ``name``, low, high (Float64)."""
    tail = (1 - level) / 2
    lines = [
        (right / n, stats.lower_bound(right / n, n, alpha=tail), 1 - stats.lower_bound(1 - right / n, n, alpha=tail))
        for right, n in counts.select("right", "n").iter_rows()
    ]
    found = pl.DataFrame(lines, schema=dict.fromkeys((name, "low", "high"), pl.Float64), orient="row")
    return counts.hstack(found)


# ---- over time -------------------------------------------------------------------------------------------------------


@takes_any_frame
def drift(
    reviews: pl.DataFrame, *, every: str = "1h", gold: pl.DataFrame | None = None, level: float = 0.95
) -> pl.DataFrame:
    """Return how each reviewer's agreement with the others, or with gold, goes over time.

    Args:
        reviews: As in ``opinions``. A text counts at the hour at which the reviewer judged it.
        every: Length of a block, as polars writes durations: 1h, 30m, 1d.
        gold: As in ``accuracy``: then being right on planted texts counts; null: agreeing with half of the others or
            more on texts that several judged, whether blind or not as the reviewer did.
        level: As in ``coefficients``.

    Returns:
        One row per reviewer and block with such a text: reviewer, start, agreement (0..1), low, high (exact, Clopper
        and Pearson), n, p (chance of as large a difference from the reviewer's other blocks if there is none, Fisher's
        exact test; null with one block), p_holm (the same, corrected for the number of blocks of all).
    """
    from scipy.stats import fisher_exact

    judged = _with_others(opinions(reviews)) if gold is None else _on_gold(reviews, gold)
    blocks = judged.group_by("reviewer", start=pl.col("decided_at").dt.truncate(every)).agg(
        n=pl.len(), right=pl.col("is_right").sum()
    )
    blocks = _with_interval(blocks.sort("reviewer", "start"), "agreement", level)
    rest = (pl.col(name).sum().over("reviewer") - pl.col(name) for name in ("n", "right"))
    tested = blocks.with_columns(
        *(column.alias(f"{name}_else") for column, name in zip(rest, ("n", "right"), strict=True))
    )
    p = [
        float(fisher_exact([[right, n - right], [right_else, n_else - right_else]]).pvalue) if n_else else None
        for n, right, n_else, right_else in tested.select("n", "right", "n_else", "right_else").iter_rows()
    ]
    return (
        blocks.drop("right")
        .with_columns(pl.Series("p", p, dtype=pl.Float64), pl.Series("p_holm", stats.holm(p)).fill_nan(None))
        .select("reviewer", "start", "agreement", "low", "high", "n", "p", "p_holm")
    )  # one row per reviewer and block


def _with_others(given: pl.DataFrame) -> pl.DataFrame:
    """Return reviewer, decided_at and is_right (agrees with half of the others) of texts that several judged."""
    given = given.with_columns(pl.col("blind").fill_null(value=False))
    text = [*TEXT, "blind"]
    n, same = pl.len().over(text), pl.len().over([*text, "decision"])
    return given.filter(n > 1).select("reviewer", "decided_at", is_right=2 * (same - 1) >= n - 1)


@takes_any_frame
def seconds(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return how long each decision took, in the order in which they were made.

    dwell_ms if the panel measured it, else from shown to decided, else since the reviewer's decision before; at most
    ``LONGEST_S``. Decisions that were taken back took their time too; labels, flags and undos are none of their own.

    Returns:
        One row per decision of which that is known: reviewer, decided_at, seconds (0..60).
    """
    given = in_order(reviews).filter(pl.col("decision").is_in((*VERDICTS, "skip")))
    between = pl.col("decided_at").diff().over("reviewer", order_by="decided_at")
    took = pl.coalesce(
        pl.col("dwell_ms") / 1000,
        (pl.col("decided_at") - pl.col("shown_at")).dt.total_microseconds() / 1e6,
        between.dt.total_microseconds() / 1e6,
    )
    timed = given.select("reviewer", "decided_at", seconds=took.clip(0, LONGEST_S))
    return timed.drop_nulls("seconds").sort("decided_at", maintain_order=True)


@takes_any_frame
def speed(reviews: pl.DataFrame, *, level: float = 0.95, seed: int = 0) -> pl.DataFrame:
    """Return how fast reviewers decide, pauses cut to ``LONGEST_S``.

    Args:
        reviews: As in ``opinions``.
        level: As in ``coefficients``.
        seed: Of the resamples.

    Returns:
        One row per reviewer: reviewer, n (decisions of which the time is known), minutes (that they took), per_minute,
        low, high (of per_minute, by bootstrap of the mean time; null below two decisions), median_s.
    """
    lines = []
    for (name,), own in (
        seconds(reviews).sort("reviewer", "decided_at", maintain_order=True).group_by("reviewer", maintain_order=True)
    ):
        mean = stats.mean_interval(own["seconds"], level=level, seed=seed)
        # the slowest mean is the lowest rate
        rate, low, high = (60 / s if s > 0 else None for s in (mean.mean, mean.high, mean.low))
        lines.append((name, own.height, own["seconds"].sum() / 60, rate, low, high, own["seconds"].median()))
    floats = ("minutes", "per_minute", "low", "high", "median_s")
    schema = {"reviewer": pl.String, "n": pl.Int64, **dict.fromkeys(floats, pl.Float64)}
    return pl.DataFrame(lines, schema=schema, orient="row")  # one row per reviewer
