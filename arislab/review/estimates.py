"""What decisions on drawn rows say of all rows, how long the rest takes, and how many more would say how much.

Only a row that a queue drew with a known chance tells of others; what was picked, planted, or drawn for a certificate
(from its stratum alone) speaks of itself. This module does not know how queues draw (sampling), nor what is kept
(curate).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl

from arislab import stats
from arislab.errors import ParameterError
from arislab.review.agreement import TEXT, opinions, seconds
from arislab.review.decisions import VERDICTS, kind_of, live
from arislab.system.kinds import takes_any_frame

CERTIFICATE = "certificate"
"""Stratum (why) of rows that were drawn for a certificate."""


def draws(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the verdicts on rows that a queue drew from all rows, oldest first, in the columns of the table reviews.

    Verdicts that were taken back, on planted rows, and on rows that were drawn for a certificate are left out.
    """
    given = live(reviews).filter(pl.col("decision").is_in(VERDICTS), pl.col("planted").is_null())
    is_whole = pl.col("why").is_null() | (pl.col("why") != CERTIFICATE)
    return given.filter(pl.col("queue").is_not_null(), pl.col("inclusion_prob") > 0, is_whole)


def weighed(verdicts: pl.DataFrame, drawn: pl.DataFrame, *, n: int) -> pl.DataFrame:
    """Weigh the labels of each queue, and several queues by what each leaves to chance.

    Args:
        verdicts: One row per judged row: custom_id, good, known_at (when somebody first judged it).
        drawn: One row per judged row and queue that drew it: custom_id, queue, start (when the queue was first shown),
            inclusion_prob, why; sorted by start, queue.
        n: Rows of the population.

    Returns:
        One row per label: custom_id, good, weight (rows that it stands for, at least 1), stratum (queue and its part).

    Source:
        Weights of labels from one queue after the other: a mean of Des Raj's (1956) estimates, each of which counts
        earlier labels as known and weighs its own by 1 / chance; scaled to the number of rows (Hájek 1971).
    """
    parts = []
    # what was decided before a queue was drawn could not be drawn, and stands for itself
    queues = [
        (own, verdicts.filter(pl.col("known_at") < start).join(own, on="custom_id", how="anti"))
        for (_, start), own in drawn.group_by("queue", "start", maintain_order=True)
    ]
    shares = _shares([(own.height, n - before.height) for own, before in queues])
    for (own, before), share in zip(queues, shares, strict=True):
        mine = own.select(
            "custom_id",
            weight=1 / pl.col("inclusion_prob"),
            stratum=pl.concat_str("queue", pl.lit(" "), pl.col("why").fill_null("")),
        )
        scale = (n - before.height) / mine["weight"].sum()
        parts.append(mine.with_columns(pl.max_horizontal(pl.col("weight") * scale, 1.0) * share))
        parts.append(before.select("custom_id", weight=pl.lit(share), stratum=pl.lit(None, dtype=pl.String)))
    schema = {"custom_id": pl.String, "weight": pl.Float64, "stratum": pl.String}
    weights = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    total = weights.group_by("custom_id", maintain_order=True).agg(
        pl.col("weight").sum(), pl.col("stratum").drop_nulls().first()
    )
    # in the order of the ids: sums in another order differ in the last bit
    known = verdicts.select("custom_id", "good").join(total, on="custom_id", how="inner").sort("custom_id")
    floor = pl.max_horizontal(pl.col("weight"), 1.0)
    return known.filter(pl.col("stratum").is_not_null()).with_columns(weight=floor)


def _shares(sizes: list[tuple[int, int]]) -> list[float]:
    """Weigh estimates by 1 / variance, were all rows alike: of n labels drawn from so many rows that were left."""
    variances = [left**2 / n * max(0.0, 1 - n / left) for n, left in sizes]
    if exact := [variance == 0 for variance in variances].count(True):
        return [(variance == 0) / exact for variance in variances]
    total = sum(1 / variance for variance in variances)
    return [1 / variance / total for variance in variances]


# ---- the approve rate ------------------------------------------------------------------------------------------------


@takes_any_frame
def approve_rate(
    rows: pl.DataFrame, reviews: pl.DataFrame, *, by: str | None = None, level: float = 0.95
) -> pl.DataFrame:
    """Return which share of all rows, and of those that wait, people would approve as they came.

    A row on which people differ counts in part until somebody adjudicates it; an edited one was not good as it came.

    Args:
        rows: All rows that could be drawn when the last queue was, judged ones too: custom_id; ``by``; and, if they
            have them, shown_sha256 and asked_sha256, then verdicts about other texts are left out.
        reviews: Every event so far.
        by: Column of ``rows`` with names; null: none.
        level: Of the intervals, in (0, 1).

    Returns:
        One row for all rows, one for those that wait, and one for each name: what (all, waiting, or the name),
        estimate, low, high (null without labels), n (labels that say it), n_rows (of which it is said).

    Source:
        Hájek 1971, by the logged chances of the queues (see ``weighed``); intervals as in ``stats.share``.
    """
    said, labels = _labels(rows, reviews)
    lines = []
    of_all = _share(labels, None, level)
    lines.append(("all", of_all.labels_only, rows.height))
    lines.append(("waiting", _of_rest(of_all.labels_only, said, rows.height), rows.height - said.height))
    for name in [] if by is None else rows[by].drop_nulls().unique().sort():
        inside = rows.filter(pl.col(by or "") == name)
        within = labels["custom_id"].is_in(inside["custom_id"].to_list()).to_numpy().astype(float)
        lines.append((str(name), _share(labels, within, level).labels_only, inside.height))
    table = [
        (what, *((one.mean, one.low, one.high) if one.n and n else (None, None, None)), one.n, n)
        for what, one, n in lines
    ]
    floats = dict.fromkeys(("estimate", "low", "high"), pl.Float64)
    schema = {"what": pl.String} | floats | dict.fromkeys(("n", "n_rows"), pl.Int64)
    return pl.DataFrame(table, schema=schema, orient="row")  # one row per share


def _labels(rows: pl.DataFrame, reviews: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what was said of rows (custom_id, good: 0..1, known_at), and the labels among it, from ``weighed``."""
    texts = [name for name in TEXT if name in rows.columns]
    known = rows.select(texts).unique("custom_id")
    events = live(reviews).filter(pl.col("decision").is_in(VERDICTS), pl.col("planted").is_null())
    events = events.join(known, on=texts, how="semi", maintain_order="left")
    given = opinions(events).unique(["custom_id", "reviewer"], keep="last")
    good = given.group_by("custom_id").agg(good=(pl.col("decision") == "approve").mean())
    adjudged = events.filter(decision="adjudicate").unique("custom_id", keep="last")
    final = pl.DataFrame(
        [(row["custom_id"], float(kind_of(row) == "approve")) for row in adjudged.iter_rows(named=True)],
        schema={"custom_id": pl.String, "good": pl.Float64},
        orient="row",
    )
    said = pl.concat([final, good.join(final, on="custom_id", how="anti")])
    first = events.group_by("custom_id").agg(known_at=pl.col("decided_at").min())
    said = said.join(first, on="custom_id").sort("custom_id")
    drawn = draws(reviews).join(said, on="custom_id", how="semi", maintain_order="left")
    starts = drawn.group_by("queue").agg(start=pl.coalesce("shown_at", "decided_at").min())
    drawn = drawn.unique(["custom_id", "queue"], keep="first", maintain_order=True).join(starts, on="queue")
    drawn = drawn.sort("start", "queue", "custom_id")
    return said, weighed(said, drawn, n=known.height)


def _share(labels: pl.DataFrame, within: np.ndarray | None, level: float) -> stats.Share:
    good, weights = labels["good"].to_numpy(), labels["weight"].to_numpy()
    return stats.share(good, weights, strata=labels["stratum"].to_list() or None, within=within, level=level)


def _of_rest(share: stats.Interval, said: pl.DataFrame, n: int) -> stats.Interval:
    """Of the rows of which nothing was said: all that is expected to be good, less what is known to be."""
    left, good = n - said.height, float(said["good"].sum())
    if not left or not share.n:
        return stats.Interval(math.nan, math.nan, math.nan, share.n)
    mean, low, high = (min(max((n * x - good) / left, 0.0), 1.0) for x in (share.mean, share.low, share.high))
    return stats.Interval(mean, low, high, share.n, level=share.level)


# ---- time and budget -------------------------------------------------------------------------------------------------


def time_left(
    reviews: pl.DataFrame,
    *,
    n_left: int,
    reviewer: str | None = None,
    last: int = 50,
    level: float = 0.95,
    seed: int = 0,
    n_boot: int = 2000,
) -> stats.Interval:
    """Return how many minutes of work so many decisions take, at the pace of the last ones.

    The mean time of a decision counts, with pauses cut (see ``agreement.seconds``): some texts take much longer than
    the median one, and they come too.

    Args:
        reviews: Every event so far.
        n_left: Decisions that are left, at least 0.
        reviewer: Whose pace; null: that of all, and the minutes are of one person.
        last: How many of the newest decisions tell the pace.
        level: Of the interval: of the time it will take, not only of its mean; in (0, 1).
        seed: Of the resamples.
        n_boot: Resamples of the decisions.

    Returns:
        Minutes; NaN below two timed decisions. n: timed decisions that say it.

    Raises:
        ParameterError: n_left is below 0.
    """
    if n_left < 0:
        raise ParameterError(f"n_left must be at least 0, got {n_left}; it is the number of decisions that are left.")
    timed = seconds(reviews)
    timed = timed if reviewer is None else timed.filter(pl.col("reviewer") == reviewer)
    took = timed["seconds"].tail(last).to_numpy()
    if len(took) < 2:
        return stats.Interval(math.nan, math.nan, math.nan, len(took), level=level)
    rng = np.random.default_rng(seed)
    drawn = took[rng.integers(0, len(took), (n_boot, len(took)))]
    # what is left varies around its mean too
    total = n_left * drawn.mean(axis=1) + math.sqrt(n_left) * took.std(ddof=1) * rng.standard_normal(n_boot)
    low, high = (max(float(np.quantile(total, tail)), 0.0) / 60 for tail in ((1 - level) / 2, (1 + level) / 2))
    return stats.Interval(float(n_left * took.mean()) / 60, low, high, len(took), level=level)


@dataclass(frozen=True, repr=False)
class Budget:
    """What an interval of a wanted width would cost."""

    half_width: float
    """What is wanted: half of the interval of the approve rate, 0..1."""
    half_width_now: float
    """What the labels so far give; 0.5 without any."""
    n: int
    """Labels so far."""
    n_more: int
    """Further labels of drawn rows, about; 0: there are enough."""
    minutes: stats.Interval
    """Work of one person for them; NaN if no times are known."""

    def __repr__(self) -> str:
        now = f"± {self.half_width_now:.3f} with {self.n:,} labels"
        if not self.n_more:
            return f"± {self.half_width:g} is reached: {now}"
        time = self.minutes
        known = not math.isnan(time.mean)
        cost = f", about {time.mean:,.0f} minutes [{time.low:,.0f}, {time.high:,.0f}]" if known else ""
        return f"for ± {self.half_width:g}: {self.n_more:,} more labels{cost}; now {now}"


def labels_for(
    rows: pl.DataFrame, reviews: pl.DataFrame, *, half_width: float, level: float = 0.95, seed: int = 0
) -> Budget:
    """Return how many more labels would tell the approve rate of all rows so exactly, and how long they take.

    Args:
        rows: As in ``approve_rate``.
        reviews: As there. The rows to come are taken to be drawn from the parts of the queue as those before.
        half_width: Half of the interval that is wanted, in (0, 0.5).
        level: Of that interval, in (0, 1).
        seed: As in ``time_left``.

    Raises:
        ParameterError: half_width is out of range.

    Source:
        Cochran 1977, Sampling Techniques, section 4 (sample size with finite population), at the design effect of the
        labels so far; without labels at a rate of one half.

    Example:
        >>> from arislab.review.decisions import SCHEMA
        >>> rows = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(10_000)]})
        >>> labels_for(rows, pl.DataFrame(schema=SCHEMA), half_width=0.03)
        for ± 0.03: 965 more labels; now ± 0.500 with 0 labels
    """
    if not 0 < half_width < 0.5:
        raise ParameterError(f"half_width must be in (0, 0.5), got {half_width!r}; 0.03 is a rate ± 3 in a hundred.")
    _, labels = _labels(rows, reviews)
    share = _share(labels, None, level)
    now, n, n_all = share.labels_only, labels.height, rows["custom_id"].n_unique()
    half_now = (now.high - now.low) / 2
    n_more = 0
    if half_now > half_width:
        spread = 0.25
        if n:
            middle = min(max(now.mean, 0.5 / (n + 1)), 1 - 0.5 / (n + 1))
            spread = middle * (1 - middle) / share.n_effective / (1 / n - 1 / n_all)
        z = NormalDist().inv_cdf((1 + level) / 2)
        n_more = max(math.ceil(1 / (half_width**2 / (z**2 * spread) + 1 / n_all) - n), 1)
    return Budget(half_width, half_now, n, n_more, time_left(reviews, n_left=n_more, level=level, seed=seed))
