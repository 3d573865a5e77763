"""Which rows to keep: the top fraction, all above a threshold, and one of each cluster of near-duplicates.

`keep_top` and `keep_above` are different promises: one fixes how many rows stay, the other how good they must be. Both
add a column `kept`, drop nothing, and say what they did in a `Selection`. A null (or NaN) quality is not 0: it is never
kept and counted apart.

What this module does not know: meaning, but where vectors of the texts are asked for. Without, a paraphrase is not a
near-duplicate.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab import duplicates, vectors
from arislab.errors import ParameterError, closest
from arislab.system import spilled
from arislab.system.kinds import takes_any_frame
from arislab.task import FAILED
from arislab.vectors import Embed, Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """What a rule kept, and what it took to say so."""

    frame: pl.DataFrame
    """All rows given, in their order, with the column `kept` (Boolean, never null)."""
    rule: str
    """The rule in words, with its numbers."""
    n: int
    """Rows given."""
    n_unscored: int
    """Rows without quality; never kept."""
    n_kept: int
    """Rows kept."""
    threshold: float | None
    """The lowest quality kept (`keep_top`) or demanded (`keep_above`), in units of quality; None if nothing was
    kept."""
    n_tied_at_cut: int
    """Scored rows whose quality equals `threshold`."""
    n_tied_kept: int
    """Those of them that were kept."""
    n_wanted: int | None = None
    """Rows that the rule asks for (`keep_top`); more than `n_kept` where a quota leaves none. None: no fixed number."""
    ties_by: str = ""
    """What decided which of the rows tied at the cut are kept; empty: nothing had to, all are."""

    @property
    def kept(self) -> pl.DataFrame:
        """The rows kept, without the column `kept`."""
        return spilled.filtered(self.frame, pl.col("kept")).drop("kept")

    def __repr__(self) -> str:
        n_scored = self.n - self.n_unscored
        share = f" ({self.n_kept / n_scored:.1%})" if n_scored else ""
        cut = "" if self.threshold is None else f"; cut at {self.threshold:.4g}"
        ties = f", {self.n_tied_kept:,} of {self.n_tied_at_cut:,} tied there kept" if self.n_tied_at_cut > 1 else ""
        unscored = f"; {self.n_unscored:,} unscored left out" if self.n_unscored else ""
        short = self.n_wanted is not None and self.n_kept < self.n_wanted
        wanted = f", {self.n_wanted:,} were wanted" if short else ""
        return f"{self.rule}: kept {self.n_kept:,} of {n_scored:,} scored rows{share}{wanted}{cut}{ties}{unscored}"


@takes_any_frame
def keep_top(
    frame: pl.DataFrame,
    *,
    fraction: float = 0.2,
    by: str = "quality",
    seed: int = 0,
    id: str = "custom_id",
    quota: str | None = None,
    max_share: float = 1.0,
    one_per: str | None = None,
) -> Selection:
    """Keep exactly ceil(fraction * scored rows), best first.

    Ties at the cut are broken by a hash of `id` and `seed`: the same rows on every machine and in any row order.

    Args:
        frame: Columns `by` (number, null = unscored) and `id` (unique).
        fraction: Share of the scored rows to keep, in (0, 1].
        by: The column to rank by, highest first.
        seed: Of the order among ties.
        id: The column that names a row.
        quota: A column (say `category`) of which no value may fill more than `max_share` of the kept rows; the next
            best rows of other values move up. Fewer rows are kept only when the other values run out.
        max_share: In (0, 1].
        one_per: A column (say `group_id`) of which only the best row of each value may be kept; null is no value.

    Raises:
        ParameterError: A fraction out of range, or a column that the frame does not have.

    Example:
        >>> rows = pl.DataFrame({"custom_id": ["a", "b", "c", "d", "e"], "quality": [0.9, 0.4, 0.8, None, 0.5]})
        >>> keep_top(rows, fraction=0.5)
        the top 0.5 by quality: kept 2 of 4 scored rows (50.0%); cut at 0.8; 1 unscored left out
    """
    is_whole = quota is not None or one_per is not None  # else only the order at the cut decides what is kept
    queue = queued(
        frame, fraction=fraction, by=by, seed=seed, id=id, quota=quota, max_share=max_share, one_per=one_per,
        is_whole=is_whole,
    )  # fmt: skip
    order = queue.order
    if quota is not None:
        place = frame[quota].gather(order).to_frame("value").select(pl.int_range(pl.len()).over("value")).to_series()
        free = frame[quota].gather(order).is_null()  # no value is not a value: such rows fill no quota
        order = order[((place < queue.limit) | free).to_numpy()]
    return queue.kept(order)


@dataclass(frozen=True)
class Queue:
    """Rows from the best to the worst, and what a share of them is."""

    frame: pl.DataFrame
    quality: pl.Series
    """Of each row of ``frame``."""
    order: Ints
    """Rows that may be kept, from the best on."""
    n_target: int
    """Rows to keep."""
    limit: int
    """Rows of one value of the quota."""
    rule: str
    short: str
    """What to say where too few may be kept."""

    def kept(self, order: Ints, *, rule: str = "", ties: str = "a hash") -> Selection:
        """Return what is kept if the rows go in this order."""
        kept = np.zeros(len(self.frame), dtype=bool)
        kept[order[: self.n_target]] = True
        rule = self.rule + rule
        if len(order) < self.n_target:
            rule += f" (only {len(order):,} of {self.n_target:,} wanted: {self.short})"
        threshold = self.quality.filter(pl.Series(kept)).min()
        cut = _selection(self.frame, self.quality, kept, rule=rule, threshold=threshold, n_wanted=self.n_target)
        return replace(cut, ties_by=ties)


def queued(
    frame: pl.DataFrame,
    *,
    fraction: float,
    by: str,
    seed: int,
    id: str,
    quota: str | None,
    max_share: float,
    one_per: str | None,
    is_whole: bool = True,
) -> Queue:
    """Check what `keep_top` was given, and put the rows in order; arguments as there.

    Without `is_whole` the order tells only which rows are the best ones, as many as are to be kept.
    """
    for name, value, example in (
        ("keep_fraction", fraction, "0.2 keeps one in five"),
        ("max_share", max_share, "0.3 lets no value fill more than three in ten"),
    ):
        if not 0 < value <= 1:
            raise ParameterError(f"{name} must be in (0, 1], got {value!r}; it is a fraction: {example}.")
    check_columns(frame, [by, id, *[column for column in (quota, one_per) if column is not None]])
    _check_unique(frame, id)
    quality = _scored(frame, by)
    n_scored = len(frame) - quality.null_count()
    n_target = n_top(n_scored, fraction)
    order = _order(quality, frame[id], seed=seed, n=None if is_whole else n_target)[:n_scored]
    limit = max(1, math.floor(round(max_share * n_target, 9)))
    rule, short = f"the top {fraction:g} by {by}", []
    if one_per is not None:
        order = order[first_of_each(frame[one_per].gather(order))]
        rule += f", one row of each {one_per}"
        short.append(f"there are no more values of {one_per}")
    if quota is not None:
        rule += f", at most {limit:,} rows of one {quota}"
        short.append(f"the other rows of each {quota} are above its share")
    return Queue(frame, quality, order, n_target, limit, rule, ", or ".join(short))


def first_of_each(values: pl.Series) -> NDArray[np.bool_]:
    """Whether a row is the first of its value; one without a value always is."""
    return (values.is_first_distinct() | values.is_null()).to_numpy()


@takes_any_frame
def keep_above(
    frame: pl.DataFrame,
    *,
    threshold: float = 0.8,
    by: str = "quality",
    one_per: str | None = None,
    id: str = "custom_id",
    seed: int = 0,
) -> Selection:
    """Keep every row with `by` >= `threshold`, however many that are.

    Args:
        frame: Column `by` (number, null = unscored).
        threshold: Lowest value to keep; of quality in [0, 1].
        by: The column.
        one_per: As in `keep_top`; then also `id` and `seed`.
        id: The column that names a row.
        seed: Of the order among ties.

    Raises:
        ParameterError: A threshold out of range, or a column that the frame does not have.

    Example:
        >>> keep_above(pl.DataFrame({"quality": [0.9, 0.8, 0.79, None]}))
        quality >= 0.8: kept 2 of 3 scored rows (66.7%); cut at 0.8; 1 unscored left out
    """
    if not math.isfinite(threshold) or (by == "quality" and not 0 <= threshold <= 1):
        raise ParameterError(f"threshold must be in [0, 1], got {threshold!r}; quality runs from 0 to 1.")
    check_columns(frame, [by])
    quality = _scored(frame, by)
    kept = (quality >= threshold).fill_null(value=False).to_numpy()
    rule = f"{by} >= {threshold:g}"
    if one_per is None:
        return _selection(frame, quality, kept, rule=rule, threshold=threshold)
    check_columns(frame, [one_per, id])
    _check_unique(frame, id)
    order = _order(quality, frame[id], seed=seed)
    kept[order[~first_of_each(frame[one_per].gather(order))]] = False
    cut = _selection(frame, quality, kept, rule=f"{rule}, one row of each {one_per}", threshold=threshold)
    return replace(cut, ties_by="a hash")


def states(recorded: pl.DataFrame, *, train: pl.DataFrame, marked: pl.DataFrame, cut: Selection) -> dict[str, int]:
    """Return what became of every recorded output, for the account: counts that sum to all of them.

    Args:
        recorded: Rows of ``training_data_raw``.
        train: Those about candidates of the train split: status. One that is not ok counts under it.
        marked: The ok ones, from ``verdicts.represent``: duplicate_of (null: represents), like_rejected.
        cut: What was kept of those that represent, or of the selected ones of them; of its rows the reason of a null
            quality, from ``scoring.score``.
    """
    failed = dict(train.filter(pl.col("status") != "ok").group_by("status").len().sort("status").iter_rows())
    like_rejected, n_unique = int(marked["like_rejected"].sum()), marked["duplicate_of"].null_count()
    if n_unique > cut.n:
        failed["not_selected"] = n_unique - cut.n
    scorer_failed = int(cut.frame["reason"].str.starts_with(FAILED).sum())
    return failed | {
        "near_duplicate": marked.height - n_unique - like_rejected,
        "like_a_rejected": like_rejected,
        "scorer_failed": scorer_failed,
        "unscored": cut.n_unscored - scorer_failed,
        "kept": cut.n_kept,
        "below_the_cut": cut.n - cut.n_unscored - cut.n_kept,
        "held_out": recorded.height - train.height,
    }


@takes_any_frame
def near_duplicates(
    frame: pl.DataFrame,
    *,
    on: Sequence[str],
    threshold: float = 0.8,
    prefer: str | None = "quality",
    id: str = "custom_id",
    seed: int = 0,
    questions: Sequence[str] = ("input",),
    by_meaning: float = 0.0,
    embed: Embed | None = None,
    engine: str = "",
) -> pl.DataFrame:
    """Mark every row that resembles a better one in all columns of `on`; drop nothing.

    Going from the best row to the worst, a row is kept unless it resembles a kept row: a star, not a chain, so a
    duplicate always resembles the row it points to. To keep one of each: `.filter(pl.col("duplicate_of").is_null())`.

    Args:
        frame: Columns `on` (String), `id` (String, unique) and `prefer`.
        on: Texts; all of them must be similar. A null resembles nothing, so such a row is always kept.
        threshold: Jaccard index of the sets of 3-word shingles, in (0, 1]; shorter texts are compared as a whole. Texts
            with other numbers or signs (operators, currency, emoji) are not similar (see duplicates).
        prefer: The row with the highest value of this column stays (null last); None: no preference.
        id: The column that names a row.
        seed: Of the order among rows that are equally good.
        questions: Those of `on` in which what most texts say (a rubric, a form) does not count.
        by_meaning: Cosine, of all columns of `on`, from which rows that are left resemble each other too, in (0, 1];
            0: they do not. Texts with other numbers or signs never do. A row goes where the one that it resembles goes.
        embed: From ``vectors.embedder``; None: hashed TF-IDF, to which "hire" and "do not hire" are much alike.
        engine: Who compares words, as ``cluster.connect`` takes it; empty: this process. The result is the same.

    Returns:
        `frame` plus duplicate_of (String, `id` of the kept row; null = kept) and similarity (Float64, the lowest
        Jaccard index over `on`, or cosine if that is lower; null = kept).

    Raises:
        ParameterError: A threshold out of range, or a column that the frame does not have.

    Source:
        Broder 1997 (shingles, MinHash); Indyk and Motwani 1998 (banding); star clusters as in Aslam et al. 2004.

    Example:
        >>> rows = pl.DataFrame({"custom_id": ["a", "b"], "output": ["Strong fit for it", "strong fit, for it."]})
        >>> near_duplicates(rows, on=["output"], prefer=None)["duplicate_of"].null_count()
        1
    """
    on = list(on)
    _check_texts(frame, on, id)
    check_columns(frame, [] if prefer is None else [prefer])
    quality = _scored(frame, prefer) if prefer else pl.Series([None] * len(frame), dtype=pl.Float64)
    order = _order(quality, frame[id], seed=seed)
    known = ~frame.select(pl.any_horizontal(pl.col(on).is_null())).to_series().gather(order).to_numpy()
    order = order[known]  # from here on a row is its place in this order: smaller is better
    target, score = duplicates.stars(frame[order, on], threshold=threshold, questions=questions, engine=engine)
    if by_meaning:
        target, score = _by_meaning(frame[order, on], target, score, threshold=by_meaning, embed=embed)
    is_copy = target != np.arange(len(order))
    ids = frame[id].gather(order)
    copies = pl.DataFrame(
        {
            "_row": order[is_copy],
            "duplicate_of": ids.gather(target[is_copy]),
            "similarity": score[is_copy],
        },
        schema={"_row": pl.Int64, "duplicate_of": frame[id].dtype, "similarity": pl.Float64},
    )
    rows = pl.DataFrame({"_row": np.arange(len(frame))}).join(copies, on="_row", how="left", maintain_order="left")
    return frame.with_columns(rows["duplicate_of"], rows["similarity"])


def _by_meaning(
    texts: pl.DataFrame, target: Ints, score: Floats, *, threshold: float, embed: Embed | None
) -> tuple[Ints, Floats]:
    """Return where rows go, and how alike they are, when those that stayed are compared by their vectors."""
    if not 0 < threshold <= 1:
        raise ParameterError(
            f"similar_by_meaning must be in [0, 1], got {threshold!r}; it is a cosine: 0.95 joins what is all but the "
            "same, 0 nothing."
        )
    stayed = np.flatnonzero(target == np.arange(len(target)))
    some = texts[stayed]
    star, cosine = vectors.stars(vectors.of(some, embed=embed), threshold=threshold, apart=duplicates.signs(some))
    place = np.searchsorted(stayed, target)
    return stayed[star[place]], np.minimum(score, cosine[place])


def n_top(n: int, fraction: float) -> int:
    """Return ceil(fraction * n): how many of n scored rows the top fraction is.

    Example:
        >>> n_top(30, 0.1)
        3
    """
    return math.ceil(round(fraction * n, 9))  # 0.1 * 30 is 3.0000000000000004


def check_columns(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Refuse columns that the frame does not have."""
    for column in columns:
        if column not in frame.columns:
            raise ParameterError(f"the frame has no column {column!r}; {closest(column, frame.columns)}.")


def _check_unique(frame: pl.DataFrame, id: str) -> None:
    if frame[id].hash().n_unique() == len(frame):  # names whose hashes differ do, and hashes are sooner compared
        return
    if frame[id].n_unique() < len(frame):
        twice = frame[id].filter(frame[id].is_duplicated())[0]
        raise ParameterError(
            f"{id} {twice!r} stands in several rows; one row per {id} is needed, so filter or group first."
        )


def _check_texts(frame: pl.DataFrame, on: Sequence[str], id: str) -> None:
    if not on:
        raise ParameterError("on must name at least one text column, got none; for example on=['output'].")
    check_columns(frame, [*on, id])
    _check_unique(frame, id)
    for column in on:
        if frame.schema[column] not in (pl.String, pl.Null):
            raise ParameterError(
                f"column {column!r} is {frame.schema[column]}; near-duplicates compare String columns."
            )


def _scored(frame: pl.DataFrame, by: str) -> pl.Series:
    """Return the column as Float64 with null for NaN."""
    if not (frame.schema[by].is_numeric() or frame.schema[by] in (pl.Null, pl.Boolean)):
        raise ParameterError(f"column {by!r} is {frame.schema[by]}; rows are ranked by a number.")
    return frame[by].cast(pl.Float64).fill_nan(None)


def _order(quality: pl.Series, ids: pl.Series, *, seed: int, n: int | None = None) -> Ints:
    """Return row numbers from best to worst: by quality, null last, then by a hash of the id.

    With n only which rows are the first n is told, not their order.
    """
    values = -quality.fill_null(-math.inf).to_numpy()
    if n is None:
        _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
        at = np.flatnonzero(counts[number] > 1)  # a hash takes longer than all the rest
        ties = np.zeros(len(values), dtype=np.uint64)
        ties[at] = _hashes(ids.gather(at), seed)
        return np.lexsort((ties, values))  # the last key counts first
    cut = np.partition(values, n - 1)[n - 1] if n else -math.inf
    at = np.flatnonzero(values == cut)
    tied = at[np.argsort(_hashes(ids.gather(at), seed), kind="stable")]
    return np.concatenate([np.flatnonzero(values < cut), tied, np.flatnonzero(values > cut)])


def _hashes(ids: pl.Series, seed: int) -> NDArray[np.uint64]:
    begun, digests = hashlib.blake2b(f"{seed} ".encode(), digest_size=8), np.empty(len(ids), np.uint64)

    def digest(name: str) -> bytes:
        one = begun.copy()
        one.update(name.encode())
        return one.digest()

    for start in range(0, len(ids), _NAMES):
        some = ids.slice(start, _NAMES).to_list()
        digests[start : start + len(some)] = np.frombuffer(b"".join(map(digest, some)), dtype=">u8")
    return digests


_NAMES = 100_000
"""Names that are Python's at once: of a large table they would be more than their texts."""


def ranking(frame: pl.DataFrame, *, by: str = "quality", id: str = "custom_id", seed: int = 0) -> Ints:
    """Return the numbers of the rows from the best to the worst, as ``keep_top`` takes them; null last."""
    return _order(_scored(frame, by), frame[id], seed=seed)


def with_approved(cut: Selection, ids: Sequence[str]) -> Selection:
    """Keep also what people approved, though it lies below the cut.

    Args:
        cut: What a rule kept.
        ids: custom_id of what people approved or edited.

    Returns:
        The same, with more rows kept; its threshold stays that of the rule, and the rule says how many came in.
    """
    quality = _scored(cut.frame, "quality")
    more = cut.frame["custom_id"].is_in(list(ids)) & ~cut.frame["kept"] & quality.is_not_null()
    if not more.any():
        return cut
    rule = f"{cut.rule}, and {int(more.sum()):,} that people approved below it"
    kept = (cut.frame["kept"] | more).to_numpy()
    return replace(cut, frame=cut.frame.with_columns(pl.Series("kept", kept)), rule=rule, n_kept=int(kept.sum()))


def changed(cut: Selection, by_rules: pl.DataFrame, *, keep: Callable[[pl.DataFrame], Selection]) -> str:
    """Return in words which rows are kept because quality was learned, beside what is kept by what the rules say.

    Args:
        cut: What was kept.
        by_rules: custom_id and quality, by the rules.
        keep: The rule, from rows to what is kept.
    """
    told = by_rules.select("custom_id", "quality")
    rows = cut.frame.drop("quality").join(told, on="custom_id", how="left", maintain_order="left")
    if _scored(rows, "quality").equals(_scored(cut.frame, "quality"), null_equal=True):
        return "quality is what the rules say"
    try:
        best = set(keep(rows.drop("kept")).kept["custom_id"].to_list())
    except ParameterError as error:  # what can be promised of learned quality need not be of the rules'
        return f"quality is learned from people; by the rules nothing would be kept: {error}"
    n_same = len(best & set(cut.kept["custom_id"].to_list()))
    return (
        f"quality is learned from people: {n_same:,} of the {cut.n_kept:,} kept rows would be kept by the rules too, "
        f"{cut.n_kept - n_same:,} are in the place of others"
    )


def _selection(
    frame: pl.DataFrame,
    quality: pl.Series,
    kept: NDArray[np.bool_],
    *,
    rule: str,
    threshold: Any,
    n_wanted: int | None = None,
) -> Selection:
    tied = (quality == threshold).fill_null(value=False).to_numpy() if threshold is not None else np.zeros_like(kept)
    return Selection(
        frame=frame.with_columns(pl.Series("kept", kept, dtype=pl.Boolean)),
        rule=rule,
        n=len(frame),
        n_unscored=quality.null_count(),
        n_kept=int(kept.sum()),
        threshold=threshold,
        n_tied_at_cut=int(tied.sum()),
        n_tied_kept=int((tied & kept).sum()),
        n_wanted=n_wanted,
    )
