"""People's verdicts as labels: which of them say something about rows that nobody looked at, and how much.

A label is a verdict on a row that a review queue drew with a known chance. Examples that experts wrote, verdicts on
rows that somebody picked or that were drawn for a certificate, and decisions from before queues had names are none:
they speak of themselves alone. Rows that a certificate approved have no verdict.
"""

from dataclasses import dataclass

import polars as pl

from arislab import review
from arislab.review import decisions, estimates
from arislab.system import spilled

LEAST = 50
"""Labels below which nothing is learned from them."""


@dataclass(frozen=True, eq=False, repr=False)
class Labels:
    """What people said of drawn rows, and of which rows it can be said to hold."""

    frame: pl.DataFrame
    """One row per label: custom_id, good (Boolean: approved as it came; what was edited was not), weight (rows of the
    population that it stands for, at least 1), stratum (queue and its part)."""
    population: pl.DataFrame
    """The rows that could be drawn, of those given: custom_id, and category where it is known."""
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
        As in ``review.estimates.weighed``.
    """
    events = review.live(reviews).filter(pl.col("decision").is_in(decisions.VERDICTS))
    first = events.group_by("custom_id").agg(known_at=pl.col("decided_at").min())
    holding = judged.filter("holds").select("custom_id", good=pl.col("verdict") == "approve")
    drawn = estimates.draws(reviews).join(holding, on="custom_id", how="semi")
    could = pl.col("quality").is_not_null()
    known = few(rows.select("custom_id", "created_at", "quality"), holding["custom_id"]).filter(could)
    known = known.select("custom_id", "created_at")
    drawn = drawn.join(known, on="custom_id", how="semi")
    shown = pl.coalesce("shown_at", "decided_at")
    starts = drawn.group_by("queue").agg(start=shown.min()).sort("start", "queue")
    n_known, last = int(rows.select(could.sum()).item()), starts["start"].max()
    if last is not None:
        could &= pl.col("created_at") <= last
    facts = [name for name in ("custom_id", "category") if name in rows.columns]
    population = spilled.filtered(rows.select(*facts, "quality", "created_at"), could)
    newest = population["created_at"].max()
    covering = starts.filter(pl.col("start") >= newest) if newest is not None else starts.clear()
    usable = known if last is None else known.filter(pl.col("created_at") <= last)
    drawn = drawn.join(usable, on="custom_id", how="semi").join(covering, on="queue", how="inner")
    drawn = drawn.unique(["custom_id", "queue"], keep="first").sort("start", "queue", "custom_id")
    frame = holding.join(usable, on="custom_id", how="semi").join(first, on="custom_id", how="left")
    frame = estimates.weighed(frame, drawn, n=population.height)
    return Labels(frame, population.select(facts), n_known - population.height, known.height - frame.height)


def few(rows: pl.DataFrame, names: pl.Series) -> pl.DataFrame:
    """Return those of many rows that have one of a few names, which stand in the column called as ``names`` is.

    Names of millions take far more to join than to look through.
    """
    return rows.lazy().filter(pl.col(names.name).is_in(names.implode())).collect()
