"""What a cut is worth by what people said: how many of the kept rows they would approve, and what it left behind.

Labels of drawn rows say it, for all rows that could be drawn; the quality of every row makes the intervals shorter
where it goes along with the labels.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from arislab import stats
from arislab.curate import selection
from arislab.curate.labels import Labels
from arislab.system.kinds import takes_any_frame

SHARES = (0.01, 0.02, 0.05, *(n / 10 for n in range(1, 11)))
"""Shares of the rows whose cuts the curve shows."""


_CROSSFITTED = 1.5
"""Variance of what labels say of a cut that was learned from them, beside that of their draw: the models without a fold
cut elsewhere than the one that is used. In ``tests/curate/test_worth.py`` the spread is 1.2 times that of the draw.

Source:
    Bates, Hastie and Tibshirani 2023, Cross-validation: what does it estimate and how well does it do it?
"""


class Labelled:
    """The labelled rows among those that could be drawn, with what is known of all of them."""

    def __init__(self, frame: pl.DataFrame, labels: Labels, chances: pl.DataFrame | None) -> None:
        rows = frame.join(labels.population, on="custom_id", how="semi", maintain_order="left")
        self.rows = rows.filter(pl.col("quality").is_not_null())
        is_own = chances is None
        if chances is None:
            chances = rows.select("custom_id", chance="quality", held="quality")
        self.rows = self.rows.join(chances, on="custom_id", how="left", maintain_order="left")
        known = labels.frame.join(self.rows, on="custom_id", how="inner", maintain_order="left")
        self.known = known if is_own else self._placed(known)
        self.inflation = 1.0 if is_own else _CROSSFITTED
        self.good = self.known["good"].to_numpy().astype(float)
        self.weights, self.strata = self.known["weight"].to_numpy(), self.known["stratum"].to_list()

    def _placed(self, known: pl.DataFrame) -> pl.DataFrame:
        """Place each label where models that have not seen it put its row: its own label pulled the row to its side.

        Among rows that they put level, it stays where it is.
        """
        n = self.rows.height
        first, last = known["above"].to_numpy() * n, known["upto"].to_numpy() * n
        columns = {}
        if "_rank" in known.columns:
            columns["_rank"] = pl.Series(np.clip(known["_rank"].to_numpy(), first, np.maximum(last - 1, first)))
        if "kept" in known.columns and self._is_top:  # else a place in the order does not say what is kept
            n_kept = int(self.rows["kept"].sum())
            is_in = np.where(last <= n_kept, True, np.where(first >= n_kept, False, known["kept"].to_numpy()))
            columns["kept"] = pl.Series(is_in)
        return known.with_columns(**columns)

    @property
    def _is_top(self) -> bool:
        """Whether the kept rows are the best ones: no quota, group or coverage had a say."""
        kept, quality = self.rows["kept"].to_numpy(), self.rows["quality"].to_numpy()
        return bool(quality[kept].min(initial=np.inf) >= quality[~kept].max(initial=-np.inf))

    def precision(self, is_in: pl.Expr, *, helped: bool = True) -> stats.Share:
        """Return the share of good rows among those that an expression names."""
        rows = self.rows.filter(is_in)
        mean = rows["chance"].mean()
        return stats.share(
            self.good,
            self.weights,
            strata=self.strata,
            within=self.known.select(is_in).to_series().to_numpy().astype(float),
            predicted=self.known["held"].to_numpy() if helped and mean is not None else None,
            predicted_mean=mean if isinstance(mean, float) else None,
            inflation=self.inflation if rows.height < self.rows.height else 1.0,  # no cut, no doubt where it lies
        )

    def recall(self, is_in: pl.Expr) -> stats.Share:
        """Return the share of the good rows that are among those that an expression names."""
        kept = self.known.select(is_in).to_series().to_numpy().astype(float)
        return stats.share(kept, self.weights, strata=self.strata, within=self.good, inflation=self.inflation)


@takes_any_frame
def estimates(
    frame: pl.DataFrame, labels: Labels, *, chances: pl.DataFrame | None = None, by: str = "category"
) -> pl.DataFrame:
    """Return what people would say of all rows, of the kept ones, and of each category of them.

    Args:
        frame: ``Selection.frame``: custom_id, quality (0..1), kept (Boolean), and ``by`` where there is one.
        labels: From ``labelled``.
        chances: From ``Learned.unseen``, where the quality was learned from the labels. Null: the quality knows nothing
            of the labels.
        by: Column of names; each with kept rows gets a row.

    Returns:
        One row per estimate: what, estimate, low, high (95 %), n (labels that say it), naive (mean of the labels as if
        they were all rows), labels_low, labels_high (interval without the qualities), power (weight that the qualities
        got, 0 or more). Without labels the interval is 0..1.
    """
    needed = ["custom_id", "quality", "kept", *([by] if by in frame.columns else [])]
    sample = Labelled(frame.select(needed), labels, chances)
    lines = [
        ("approved of all rows", sample.precision(pl.col("kept").is_not_null())),
        ("precision of the kept", sample.precision(pl.col("kept"))),
        ("recall of the approved", sample.recall(pl.col("kept"))),
    ]
    if by in frame.columns:
        counts = sample.rows.filter("kept", pl.col(by).is_not_null()).group_by(by).len()
        for name in counts.sort("len", by, descending=[True, False])[by]:
            is_in = pl.col("kept") & (pl.col(by) == name).fill_null(value=False)
            lines.append((f"precision, {name}", sample.precision(is_in)))
    return _table(lines)


def _table(lines: list[tuple[str, stats.Share]]) -> pl.DataFrame:
    rows = []
    for what, s in lines:
        told, alone = s.interval, s.labels_only
        rows.append((what, told.mean, told.low, told.high, told.n, s.naive, alone.low, alone.high, s.power))
    names = ["what", "estimate", "low", "high", "n", "naive", "labels_low", "labels_high", "power"]
    types = [pl.String, *[pl.Float64] * 3, pl.Int64, *[pl.Float64] * 4]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")  # one row per estimate


@takes_any_frame
def curve(
    frame: pl.DataFrame,
    labels: Labels,
    *,
    chances: pl.DataFrame | None = None,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> pl.DataFrame:
    """Return precision and recall of the cuts that keep the best rows, from the best hundredth to all.

    Args:
        frame: As in ``estimates``; kept is not read.
        labels: From ``labelled``.
        chances: As in ``estimates``.
        seed: Of the order among ties, as in ``selection.keep_top``.
        shares: Those of the rows that are kept, in (0, 1].

    Returns:
        One row per share of the rows that is kept: share, threshold (lowest quality kept), precision, low, high, n
        (labels), recall, recall_low, recall_high.
    """
    sample = Labelled(ranked(frame.select("custom_id", "quality"), seed), labels, chances)
    n, rows = sample.rows.height, []
    for share in shares if n else ():
        is_in = pl.col("_rank") < selection.n_top(n, share)
        precise, complete = sample.precision(is_in).interval, sample.recall(is_in).interval
        threshold = sample.rows.filter(is_in)["quality"].min()
        of_kept, of_good = (precise.mean, precise.low, precise.high), (complete.mean, complete.low, complete.high)
        rows.append((share, threshold, *of_kept, precise.n, *of_good))
    names = ["share", "threshold", "precision", "low", "high", "n", "recall", "recall_low", "recall_high"]
    types = [*[pl.Float64] * 5, pl.Int64, *[pl.Float64] * 3]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")  # one row per cut


def ranked(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Add _rank, 0 for the best row, as ``keep_top`` ranks them.

    Reads: custom_id, quality.

    Adds: _rank (Int64).
    """
    order = selection.ranking(frame, seed=seed)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return frame.with_columns(pl.Series("_rank", ranks))


def worth_in_words(table: pl.DataFrame) -> str:
    """Return what ``estimates`` found in a line; the mean that takes the labels for all rows stands struck through.

    Example:
        >>> row = {"what": ["precision of the kept"], "estimate": [0.9], "low": [0.8], "high": [0.95]}
        >>> worth_in_words(pl.DataFrame(row | {"n": [70], "naive": [0.7]}))
        'precision of the kept 0.900 [0.800, 0.950], n 70 labels (not 0̶.̶7̶0̶0̶)'
    """
    lines = []
    for row in table.head(3).iter_rows(named=True):
        if not row["n"]:
            lines.append(f"{row['what']}: no label says it")
            continue
        struck = "".join(f"{letter}\u0336" for letter in f"{row['naive']:.3f}")
        lines.append(
            f"{row['what']} {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n {row['n']:,} labels (not "
            f"{struck})"
        )
    return "\n".join(lines)
