"""What else than quality could explain which rows were kept: length, place, category, model.

A cut that a cheap fact explains has chosen by that fact, whatever the scorers were meant to see. This module does not
know how rows were scored.
"""

import math
import zlib

import polars as pl

from arislab import stats

_FOLDS = 5
_SURPRISING = 0.7
"""AUC from which a fact is said to explain the cut; a coin has one half."""


def audit(
    frame: pl.DataFrame, *, by: tuple[str, ...] = ("category", "model", "shown"), seed: int = 0, n_boot: int = 200
) -> pl.DataFrame:
    """Return how well each fact alone tells the kept rows from the others.

    Args:
        frame: ``Selection.frame``: custom_id, kept (Boolean), output (text), quality, and what there is of ``by``; in
            the order in which the rows were recorded.
        by: Columns of names. Each name stands for the share of its rows that are kept, counted on the other four fifths
            of the rows, so that a column of names that come once explains nothing.
        seed: Of the intervals.
        n_boot: Resamples of rows.

    Returns:
        One row a fact: fact (length of the answer, place in the file, each of ``by`` that has two names), auc (chance
        that a kept row has more of it than another, 0.5: it says nothing; of names, 1: it says all), low, high (95 %),
        n, says (in words).
    """
    scored = frame.filter(pl.col("quality").is_not_null())
    facts = {
        "length of the answer": scored["output"].str.len_chars(),
        "place in the file": pl.Series(range(len(scored))),
    }
    for name in by:
        if name in scored.columns and scored[name].n_unique() > 1:
            facts[name] = _shares(scored, name)
    rows = []
    for fact, values in facts.items():
        area = stats.auc(values, scored["kept"], seed=seed, n_boot=n_boot)
        rows.append((fact, area.mean, area.low, area.high, area.n, _in_words(fact, area, is_name=fact in by)))
    columns = ["fact", "auc", "low", "high", "n", "says"]
    schema = dict(zip(columns, (pl.String, *[pl.Float64] * 3, pl.Int64, pl.String), strict=True))
    return pl.DataFrame(rows, schema=schema, orient="row")  # one row per fact


def _shares(rows: pl.DataFrame, name: str) -> pl.Series:
    """For each row the share of kept ones among the rows of its name in the other folds; without any, that of all."""
    fold = pl.Series("_fold", [zlib.crc32(text.encode()) % _FOLDS for text in rows["custom_id"]])
    counted = rows.select(pl.col(name).fill_null(""), "kept").with_columns(fold)
    of = pl.col("kept").sum(), pl.len()
    whole = counted.group_by(name).agg(kept_all=of[0], n_all=of[1])
    part = counted.group_by(name, "_fold").agg(kept_fold=of[0], n_fold=of[1])
    joined = counted.join(whole, on=name, how="left", maintain_order="left")
    joined = joined.join(part, on=[name, "_fold"], how="left", maintain_order="left")
    n = pl.col("n_all") - pl.col("n_fold")
    share = pl.when(n > 0).then((pl.col("kept_all") - pl.col("kept_fold")) / n)
    return joined.select(share.fill_null(counted["kept"].mean())).to_series()


def _in_words(fact: str, area: stats.Interval, *, is_name: bool) -> str:
    strength = area.mean if is_name else max(area.mean, 1 - area.mean)
    if math.isnan(area.low) or area.low <= 0.5 <= area.high:  # NaN: all were kept, or none
        return "says nothing"
    direction = "" if is_name else (": more is kept" if area.mean > 0.5 else ": less is kept")
    return f"{'EXPLAINS the cut' if strength >= _SURPRISING else 'says a little'}{direction}"
