"""People's verdicts as labels: which of them say something about rows that nobody looked at, and how much.

A label is a verdict on a row that a review queue drew with a known chance. Examples that experts wrote, verdicts on
rows that somebody picked, and decisions from before queues had names are none: they speak of themselves alone.
"""

from dataclasses import dataclass

import polars as pl

from arislab import review
from arislab.review import decisions

LEAST = 50
"""Labels below which nothing is learned from them."""


@dataclass(frozen=True, eq=False, repr=False)
class Labels:
    """What people said of drawn rows, and of which rows it can be said to hold."""

    frame: pl.DataFrame
    """One row per label: custom_id, good (Boolean: approved as it came; what was edited was not), weight (rows of the
    population that it stands for, at least 1), stratum (queue and its part)."""
    population: pl.DataFrame
    """The rows that could be drawn, of those given."""
    n_not_drawable: int
    """Rows that came after the last queue was drawn: nothing is said of them."""
    n_picked: int
    """Verdicts that are no labels, for no queue drew their rows, or not from all of the population."""

    def __repr__(self) -> str:
        n, n_good = self.frame.height, int(self.frame["good"].sum())
        if not n and not self.n_picked:
            return "no labels: nobody has decided on a row that a queue drew (review.ipynb)"
        text = f"{n:,} labels of {self.population.height:,} rows that could be drawn: {n_good:,} approved as they came"
        if self.n_picked:
            text += f"; {self.n_picked:,} verdicts are no labels (their rows were not drawn from all of these)"
        if self.n_not_drawable:
            text += f"; of {self.n_not_drawable:,} rows nothing is said, they came after the last queue"
        return text


def labelled(rows: pl.DataFrame, judged: pl.DataFrame, reviews: pl.DataFrame) -> Labels:
    """Return the labels among the verdicts.

    Args:
        rows: The scored rows among which is chosen, one of each group of near-duplicates: custom_id, created_at (when
            the row was recorded), quality (null: it could not be drawn).
        judged: From ``verdicts.judged``: custom_id, verdict, holds.
        reviews: Every event so far, with why, queue and inclusion_prob of what a queue drew.

    Source:
        Weights of labels from one queue after the other: a mean of Des Raj's (1956) estimates, each of which counts
        earlier labels as known and weighs its own by 1 / chance; scaled to the number of rows (Hájek 1971).
    """
    known = rows.filter(pl.col("quality").is_not_null()).select("custom_id", "created_at")
    events = review.live(reviews).filter(pl.col("decision").is_in(decisions.VERDICTS))
    first = events.group_by("custom_id").agg(known_at=pl.col("decided_at").min())
    holding = judged.filter("holds").select("custom_id", good=pl.col("verdict") == "approve")
    drawn = events.filter(pl.col("queue").is_not_null(), pl.col("inclusion_prob") > 0)
    drawn = drawn.join(known, on="custom_id", how="semi").join(holding, on="custom_id", how="semi")
    shown = pl.coalesce("shown_at", "decided_at")
    starts = drawn.group_by("queue").agg(start=shown.min()).sort("start", "queue")
    last = starts["start"].max()
    population = known if last is None else known.filter(pl.col("created_at") <= last)
    newest = population["created_at"].max()
    covering = starts.filter(pl.col("start") >= newest) if newest is not None else starts.clear()
    drawn = drawn.join(population, on="custom_id", how="semi").join(covering, on="queue", how="inner")
    drawn = drawn.unique(["custom_id", "queue"], keep="first", maintain_order=True)
    frame = holding.join(population, on="custom_id", how="semi").join(first, on="custom_id", how="left")
    frame = _weighed(frame, drawn, n=population.height)
    usable = rows.join(population, on="custom_id", how="semi", maintain_order="left")
    n_picked = holding.join(known, on="custom_id", how="semi").height - frame.height
    return Labels(frame, usable, known.height - population.height, n_picked)


def _weighed(verdicts: pl.DataFrame, drawn: pl.DataFrame, *, n: int) -> pl.DataFrame:
    """Weigh the labels of each queue, and several queues by what each leaves to chance."""
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
