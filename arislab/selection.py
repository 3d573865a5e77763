"""Which rows to keep: the top fraction, all above a threshold, and one of each cluster of near-duplicates.

`keep_top` and `keep_above` are different promises: one fixes how many rows stay, the other how good they must be. Both
add a column `kept`, drop nothing, and say what they did in a `Selection`. A null (or NaN) quality is not 0: it is never
kept and counted apart.

Near-duplicates: texts are lower-cased words; two texts resemble each other when the Jaccard index of their sets of
3-word shingles reaches the threshold. Up to `_EXACT_ROWS` rows every pair is compared; above, MinHash with locality-
sensitive hashing proposes pairs (it misses about 1 % of the pairs that sit exactly at the threshold, far fewer above it)
and every proposed pair is verified, so that no row is called a duplicate by estimate.

What this module does not know: meaning. A paraphrase is not a near-duplicate here.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.errors import ParameterError, closest

Ints = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]


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
    """The lowest quality kept (`keep_top`) or demanded (`keep_above`), in units of quality; None if nothing was kept."""
    n_tied_at_cut: int
    """Scored rows whose quality equals `threshold`."""
    n_tied_kept: int
    """Those of them that were kept."""

    @property
    def kept(self) -> pl.DataFrame:
        """The rows kept, without the column `kept`."""
        return self.frame.filter(pl.col("kept")).drop("kept")

    def __repr__(self) -> str:
        n_scored = self.n - self.n_unscored
        share = f" ({self.n_kept / n_scored:.1%})" if n_scored else ""
        cut = "" if self.threshold is None else f"; cut at {self.threshold:.4g}"
        ties = f", {self.n_tied_kept:,} of {self.n_tied_at_cut:,} tied there kept" if self.n_tied_at_cut > 1 else ""
        unscored = f"; {self.n_unscored:,} unscored left out" if self.n_unscored else ""
        return f"{self.rule}: kept {self.n_kept:,} of {n_scored:,} scored rows{share}{cut}{ties}{unscored}"


def keep_top(
    frame: pl.DataFrame,
    *,
    fraction: float = 0.2,
    by: str = "quality",
    seed: int = 0,
    id: str = "custom_id",
    quota: str | None = None,
    max_share: float = 1.0,
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

    Raises:
        ParameterError: A fraction out of range, or a column that the frame does not have.

    Example:
        >>> rows = pl.DataFrame({"custom_id": ["a", "b", "c", "d", "e"], "quality": [0.9, 0.4, 0.8, None, 0.5]})
        >>> keep_top(rows, fraction=0.5)
        the top 0.5 by quality: kept 2 of 4 scored rows (50.0%); cut at 0.8; 1 unscored left out
    """
    for name, value, example in (
        ("keep_fraction", fraction, "0.2 keeps one in five"),
        ("max_share", max_share, "0.3 lets no value fill more than three in ten"),
    ):
        if not 0 < value <= 1:
            raise ParameterError(f"{name} must be in (0, 1], got {value!r}; it is a fraction: {example}.")
    _check_columns(frame, [by, id] if quota is None else [by, id, quota])
    _check_unique(frame, id)
    quality = _scored(frame, by)
    order = _order(quality, frame[id], seed=seed)[: len(frame) - quality.null_count()]
    n_target = math.ceil(round(fraction * len(order), 9))  # 0.1 * 30 is 3.0000000000000004
    rule = f"the top {fraction:g} by {by}"
    if quota is not None:
        limit = max(1, math.floor(round(max_share * n_target, 9)))
        place = frame[quota].gather(order).to_frame("value").select(pl.int_range(pl.len()).over("value")).to_series()
        free = frame[quota].gather(order).is_null()  # no value is not a value: such rows fill no quota
        order = order[((place < limit) | free).to_numpy()]
        rule += f", at most {limit:,} rows of one {quota}"
    kept = np.zeros(len(frame), dtype=bool)
    kept[order[:n_target]] = True
    threshold = quality.filter(pl.Series(kept)).min()
    return _selection(frame, quality, kept, rule=rule, threshold=threshold)


def keep_above(frame: pl.DataFrame, *, threshold: float = 0.8, by: str = "quality") -> Selection:
    """Keep every row with `by` >= `threshold`, however many that are.

    Raises:
        ParameterError: A threshold out of range, or a column that the frame does not have.

    Example:
        >>> keep_above(pl.DataFrame({"quality": [0.9, 0.8, 0.79, None]}))
        quality >= 0.8: kept 2 of 3 scored rows (66.7%); cut at 0.8; 1 unscored left out
    """
    if not math.isfinite(threshold) or (by == "quality" and not 0 <= threshold <= 1):
        raise ParameterError(f"threshold must be in [0, 1], got {threshold!r}; quality runs from 0 to 1.")
    _check_columns(frame, [by])
    quality = _scored(frame, by)
    kept = (quality >= threshold).fill_null(value=False).to_numpy()
    return _selection(frame, quality, kept, rule=f"{by} >= {threshold:g}", threshold=threshold)


def keep(
    frame: pl.DataFrame,
    *,
    rule: str,
    fraction: float,
    threshold: float,
    seed: int = 0,
    quota: str | None = None,
    max_share: float = 1.0,
) -> Selection:
    """Keep by rule: ``top`` is `keep_top` with `fraction`, ``above`` is `keep_above` with `threshold`.

    Raises:
        ParameterError: Another rule.
    """
    if rule == "top":
        quota = quota if max_share < 1 else None
        return keep_top(frame, fraction=fraction, seed=seed, quota=quota, max_share=max_share)
    if rule == "above":
        return keep_above(frame, threshold=threshold)
    raise ParameterError(
        f"keep_rule must be 'top' (the best share) or 'above' (all from a threshold on), got {rule!r}."
    )


def near_duplicates(
    frame: pl.DataFrame,
    *,
    on: Sequence[str],
    threshold: float = 0.8,
    prefer: str | None = "quality",
    id: str = "custom_id",
    seed: int = 0,
) -> pl.DataFrame:
    """Mark every row that resembles a better one in all columns of `on`; drop nothing.

    Going from the best row to the worst, a row is kept unless it resembles a kept row: a star, not a chain, so a
    duplicate always resembles the row it points to. To keep one of each: `.filter(pl.col("duplicate_of").is_null())`.

    Args:
        frame: Columns `on` (String), `id` (String, unique) and `prefer`.
        on: Texts; all of them must be similar. A null resembles nothing, so such a row is always kept.
        threshold: Jaccard index of the sets of 3-word shingles, in (0, 1]; shorter texts are compared as a whole.
        prefer: The row with the highest value of this column stays (null last); None: no preference.
        id: The column that names a row.
        seed: Of the order among rows that are equally good.

    Returns:
        `frame` plus duplicate_of (String, `id` of the kept row; null = kept) and similarity (Float64, the lowest
        Jaccard index over `on`; null = kept).

    Source:
        Broder 1997 (shingles, MinHash); Indyk and Motwani 1998 (banding); star clusters as in Aslam et al. 2004.

    Example:
        >>> rows = pl.DataFrame({"custom_id": ["a", "b"], "output": ["Strong fit for it", "strong fit, for it."]})
        >>> near_duplicates(rows, on=["output"], prefer=None)["duplicate_of"].null_count()
        1
    """
    _check_threshold(threshold)
    on = list(on)
    _check_texts(frame, on, id)
    _check_columns(frame, [] if prefer is None else [prefer])
    quality = _scored(frame, prefer) if prefer else pl.Series([None] * len(frame), dtype=pl.Float64)
    order = _order(quality, frame[id], seed=seed)
    known = ~frame.select(pl.any_horizontal(pl.col(on).is_null())).to_series().gather(order).to_numpy()
    order = order[known]  # from here on a row is its place in this order: smaller is better
    first = _first_of_equals(frame[order, on])
    unique = np.flatnonzero(first == np.arange(len(order)))
    star, similarity = _stars(_texts(frame[order[unique], on]), threshold)
    place = np.searchsorted(unique, first)  # an exact copy goes where the first of its kind goes
    target, score = unique[star[place]], similarity[place]
    is_copy = target != np.arange(len(order))
    ids = frame[id].gather(order)
    found = pl.DataFrame(
        {
            "_row": order[is_copy],
            "duplicate_of": ids.gather(target[is_copy]),
            "similarity": score[is_copy],
        },
        schema={"_row": pl.Int64, "duplicate_of": frame[id].dtype, "similarity": pl.Float64},
    )
    rows = pl.DataFrame({"_row": np.arange(len(frame))}).join(found, on="_row", how="left", maintain_order="left")
    return frame.with_columns(rows["duplicate_of"], rows["similarity"])


def groups(
    frame: pl.DataFrame,
    *,
    on: Sequence[str],
    id: str = "candidate_id",
    threshold: float = 0.8,
) -> pl.DataFrame:
    """Return one row per row of `frame`: `id` and `group_id`, equal for rows that near-duplicates connect.

    A chain counts (a like b, b like c: one group), because splits must not put near-duplicates on two sides.
    `group_id` is the smallest `id` of the group. Columns and similarity as in `near_duplicates`.

    Example:
        >>> rows = pl.DataFrame({"candidate_id": ["a", "b", "c"], "profile": ["one", "two", "One!"]})
        >>> groups(rows, on=["profile"])["group_id"].to_list()
        ['a', 'b', 'a']
    """
    _check_threshold(threshold)
    on = list(on)
    _check_texts(frame, on, id)
    order = frame[id].arg_sort().to_numpy().astype(np.int64)
    known = ~frame.select(pl.any_horizontal(pl.col(on).is_null())).to_series().gather(order).to_numpy()
    places = np.flatnonzero(known)
    first = _first_of_equals(frame[order[places], on])
    unique = np.flatnonzero(first == np.arange(len(places)))
    left, right = _similar_pairs(_texts(frame[order[places[unique]], on]), threshold)
    root = np.arange(len(order))
    edges = np.concatenate([np.stack([places[first], places]), places[unique[np.stack([left, right])]]], axis=1)

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for a, b in edges.T.tolist():
        low, high = sorted((find(a), find(b)))
        root[high] = low
    group = np.empty(len(order), dtype=np.int64)
    group[order] = order[[find(i) for i in range(len(order))]]
    return frame.select(pl.col(id), frame[id].gather(group).alias("group_id"))


def _check_columns(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in frame.columns:
            raise ParameterError(f"the frame has no column {column!r}; {closest(column, frame.columns)}.")


def _check_unique(frame: pl.DataFrame, id: str) -> None:
    if frame[id].n_unique() < len(frame):
        twice = frame[id].filter(frame[id].is_duplicated())[0]
        raise ParameterError(
            f"{id} {twice!r} stands in several rows; one row per {id} is needed, so filter or group first."
        )


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ParameterError(
            f"threshold must be in (0, 1], got {threshold!r}; 0.8 means that 8 of 10 shingles are shared."
        )


def _check_texts(frame: pl.DataFrame, on: Sequence[str], id: str) -> None:
    if not on:
        raise ParameterError("on must name at least one text column, got none; for example on=['output'].")
    _check_columns(frame, [*on, id])
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


def _order(quality: pl.Series, ids: pl.Series, *, seed: int) -> Ints:
    """Return row numbers from best to worst: by quality, null last, then by a hash of the id."""
    digests = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in ids.to_list())
    ties = np.frombuffer(b"".join(digests), dtype=">u8")
    return np.lexsort((ties, -quality.fill_null(-math.inf).to_numpy()))


def _selection(
    frame: pl.DataFrame, quality: pl.Series, kept: NDArray[np.bool_], *, rule: str, threshold: Any
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
    )


# ---- near-duplicates: shingles, MinHash, verification -----------------------------------------------------------

_EXACT_ROWS = 2_000  # up to here every pair is compared ...
_EXACT_WORK = 1_000_000_000  # ... unless the texts are so long that this many look-ups would not do
_CHUNK_BYTES = 1 << 21  # text hashed at once; what it takes fits the cache
_PAIR_WORDS = 1 << 22  # shingles compared at once: 32 MB
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_IS_WORD = np.zeros(256, dtype=bool)  # bytes of UTF-8; everything beyond ASCII that is punctuation is blanked before
_IS_WORD[[*range(128, 256), *b"abcdefghijklmnopqrstuvwxyz0123456789_"]] = True
# scripts written without spaces: one character is one word
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"


@dataclass(frozen=True)
class _Shingles:
    """The sets of one column, row after row."""

    values: U32  # ascending and distinct within a row
    offsets: Ints  # row i is values[offsets[i]:offsets[i + 1]], never empty

    @property
    def sizes(self) -> Ints:
        return np.diff(self.offsets)


def _first_of_equals(texts: pl.DataFrame) -> Ints:
    """Return for each row the number of the first row that is equal to it."""
    rows = texts.with_row_index("_row").select(pl.col("_row").min().over(texts.columns))
    return rows.to_series().to_numpy().astype(np.int64)


def _texts(frame: pl.DataFrame) -> list[_Shingles]:
    return [_shingles(frame[column], salt=i) for i, column in enumerate(frame.columns)]


def _shingles(texts: pl.Series, *, salt: int) -> _Shingles:
    """Return the 3-word shingles of each text as 32-bit hashes; a shorter text is one shingle."""
    texts = texts.cast(pl.String).str.to_lowercase()
    if (texts.str.len_bytes() != texts.str.len_chars()).any():
        texts = texts.str.replace_all(r"[^\w\x00-\x7F]", " ").str.replace_all(_UNSPACED, " $1 ")
    ends = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64))
    parts, sizes, start = [], [], 0
    while start < len(texts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK_BYTES)))
        values, counts = _shingle_chunk(texts[start:stop].to_list(), salt=salt)
        parts.append(values)
        sizes.append(counts)
        start = stop
    offsets = np.concatenate([[0], *(sizes)]).astype(np.int64).cumsum()
    return _Shingles(np.concatenate([np.zeros(0, dtype=np.uint32), *parts]), offsets)


def _shingle_chunk(texts: list[str], *, salt: int) -> tuple[U32, Ints]:
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"\n".join([*encoded, b""]), dtype=np.uint8)
    row_ends = np.cumsum([len(text) + 1 for text in encoded])
    edges = np.diff(_IS_WORD[data].view(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # a word's hash is its polynomial in an odd number mod 2**64: prefix sums give all words at once
    powers = np.cumprod(np.full(len(data), _ODD[0]))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(data * powers)])
    inverse = np.uint64(pow(int(_ODD[0]), -1, 1 << 64))
    words = (sums[ends] - sums[starts]) * np.cumprod(np.full(len(data), inverse))[starts]
    words = _mix(words)
    last = np.searchsorted(starts, row_ends)  # the word after the row's last
    n_words = np.diff(last, prepend=0)
    sizes = np.maximum(n_words - 2, 1)
    row = np.repeat(np.arange(len(texts)), sizes)
    at = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(last - n_words, sizes)
    limit = np.repeat(last, sizes)
    padded = np.concatenate([words, np.zeros(3, np.uint64)])
    mixed = np.full(len(row), salt, dtype=np.uint64)
    for k in range(3):
        mixed += np.where(at + k < limit, padded[at + k], np.uint64(0)) * _ODD[k]
    keys = np.sort((row.astype(np.uint64) << np.uint64(32)) | (_mix(mixed) >> np.uint64(32)))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return keys.astype(np.uint32), np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(29))) * _ODD[1]
    return x ^ (x >> np.uint64(32))


def _stars(texts: list[_Shingles], threshold: float) -> tuple[Ints, NDArray[np.float64]]:
    """Return for each row, best first, the kept row it resembles (itself if kept), and how much."""
    n = len(texts[0].sizes)
    star, similarity = np.arange(n), np.ones(n)
    if _compares_all(texts):
        for i, later, score in _all_pairs(texts, threshold, star):
            star[later], similarity[later] = i, score
        return star, similarity
    keys = _band_keys(texts, threshold)
    tested = left = right = np.zeros(0, dtype=np.int64)
    score = np.zeros(0)
    for window in (0, 4, 4, 4):  # first only the best row of each bucket, which resolves large clusters cheaply
        kept = np.flatnonzero(star == np.arange(n))
        # a row whose better neighbours are all duplicates may still resemble what those point to
        follows = (star[right] == right) & (star[left] != left)
        codes = _distinct(np.concatenate([_candidates(keys, kept, window), right[follows] * n + star[left[follows]]]))
        codes = np.setdiff1d(codes, tested, assume_unique=True)
        tested = np.concatenate([tested, codes])
        found = _verified(texts, codes % n, codes // n, threshold)
        left, right, score = (np.concatenate(pair) for pair in zip((left, right, score), found, strict=True))
        star, similarity = _greedy(left, right, score, n)
        if window and np.array_equal(kept, np.flatnonzero(star == np.arange(n))):
            break
    return star, similarity


def _greedy(left: Ints, right: Ints, score: NDArray[np.float64], n: int) -> tuple[Ints, NDArray[np.float64]]:
    """Go from the best row to the worst: a row joins the best kept row it resembles, or is kept."""
    star, similarity = list(range(n)), np.ones(n)
    order = np.lexsort((left, right))
    for i, j, s in zip(left[order].tolist(), right[order].tolist(), score[order].tolist(), strict=True):
        if star[i] == i and star[j] == j:
            star[j], similarity[j] = i, s
    return np.array(star, dtype=np.int64), similarity


def _similar_pairs(texts: list[_Shingles], threshold: float) -> tuple[Ints, Ints]:
    """Return pairs of similar rows that connect every cluster."""
    n = len(texts[0].sizes)
    if _compares_all(texts):
        pairs = [(np.full(len(later), i), later) for i, later, _ in _all_pairs(texts, threshold, np.arange(n))]
        empty = np.zeros(0, dtype=np.int64)
        left, right = (np.concatenate([empty, *(pair[side] for pair in pairs)]) for side in (0, 1))
        return left, right
    codes = _candidates(_band_keys(texts, threshold), np.arange(n), 4)
    left, right, _ = _verified(texts, codes % n, codes // n, threshold)
    return left, right


def _compares_all(texts: list[_Shingles]) -> bool:
    n = len(texts[0].sizes)
    return n <= _EXACT_ROWS and n * sum(len(column.values) for column in texts) <= _EXACT_WORK


def _all_pairs(texts: list[_Shingles], threshold: float, star: Ints) -> Iterator[tuple[int, Ints, NDArray[np.float64]]]:
    """Yield (row, similar later rows, similarities) for each row that is its own star when its turn comes."""
    columns = [(column, *np.unique(column.values, return_inverse=True)) for column in texts]
    for i in range(len(star) - 1):
        if star[i] != i:
            continue
        lowest = np.ones(len(star) - i - 1)
        for column, distinct, codes in columns:
            at = column.offsets
            here = np.zeros(len(distinct), dtype=np.int64)
            here[codes[at[i] : at[i + 1]]] = 1
            shared = np.add.reduceat(here[codes[at[i + 1] :]], at[i + 1 : -1] - at[i + 1])
            lowest = np.minimum(lowest, shared / (column.sizes[i] + column.sizes[i + 1 :] - shared))
        similar = np.flatnonzero((lowest >= threshold) & (star[i + 1 :] == np.arange(i + 1, len(star))))
        yield i, similar + i + 1, lowest[similar]


def _bands(threshold: float) -> tuple[int, int]:
    """Return (bands, hashes per band): two rows at the threshold meet in a band with p = 0.1, in any with p = 0.99."""
    n_hashes = 16 if threshold > 0.99 else min(16, max(1, round(math.log(0.1) / math.log(threshold))))
    missed = 1 - threshold**n_hashes
    return max(1, math.ceil(math.log(0.01) / math.log(missed))) if missed > 0 else 1, n_hashes


def _band_keys(texts: list[_Shingles], threshold: float) -> U64:
    """Return bands x rows keys; rows with equal keys in a band share its bucket.

    Rows that are similar in every column are similar in each one and in all taken together (the least hash of a union
    is the lesser of the two least hashes). So any of these views may propose; we take the one with the fewest
    collisions, because a long template in one column would throw thousands of rows into one bucket.
    """
    n, (n_bands, n_hashes) = len(texts[0].sizes), _bands(threshold)
    rng = np.random.default_rng(0)
    flips = rng.integers(0, 1 << 32, (n_bands, n_hashes), dtype=np.uint32)
    factors = rng.integers(0, 1 << 31, (n_bands, n_hashes), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    views = np.zeros((len(texts) + (len(texts) > 1), n_bands, n), dtype=np.uint64)
    for start in range(0, n, 2_000):
        stop = min(start + 2_000, n)
        parts = [
            (c.values[c.offsets[start] : c.offsets[stop]], c.offsets[start:stop] - c.offsets[start]) for c in texts
        ]
        for band in range(n_bands):
            for flip, factor in zip(flips[band], factors[band], strict=True):
                least = [np.minimum.reduceat((values ^ flip) * factor, at) for values, at in parts]
                for view, hashes in enumerate(least if len(least) == 1 else [*least, np.minimum.reduce(least)]):
                    key = views[view, band, start:stop]
                    key *= _ODD[0]
                    key += hashes
    return min((_mix(view) for view in views), key=_collisions)


def _collisions(keys: U64) -> float:
    """Return the number of pairs that share a bucket in a few bands."""
    counts = [np.unique(band, return_counts=True)[1].astype(float) for band in keys[:4]]
    return float(sum((c * (c - 1)).sum() for c in counts))


def _candidates(keys: U64, rows: Ints, window: int) -> Ints:
    """Return distinct pairs of rows, each with the best row of its bucket and with `window` neighbours, as codes.

    The code of a pair is worse * n + better, n being the number of all rows. At most window + 1 pairs per row and
    band, however full the bucket is.
    """
    n = keys.shape[1]
    found = np.zeros(0, dtype=np.int64)
    for band in keys:
        order = np.argsort(band[rows], kind="stable")  # `rows` is ascending, so a bucket is in order of preference
        ordered = band[rows[order]]
        same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        position = np.flatnonzero(same)
        partners = [first[position], *(np.maximum(position - d, first[position]) for d in range(1, window + 1))]
        pairs = [rows[order[position]] * n + rows[order[partner]] for partner in partners]
        found = _distinct(np.concatenate([found, *(_distinct(codes) for codes in pairs)]))
    return found


def _distinct(codes: Ints) -> Ints:
    """Return the sorted distinct values (`np.unique` hashes, which is many times slower on such codes)."""
    ordered = np.sort(codes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _verified(
    texts: list[_Shingles], left: Ints, right: Ints, threshold: float
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Return the pairs that are similar in every column, with the lowest Jaccard index over the columns."""
    lowest = np.ones(len(left))
    for column in sorted(texts, key=lambda shingles: len(shingles.values)):  # the short texts rule most pairs out
        small, large = np.sort([column.sizes[left], column.sizes[right]], axis=0)
        fits = small >= threshold * large - 1e-9  # the index cannot exceed the ratio of sizes
        left, right, lowest = left[fits], right[fits], lowest[fits]
        lowest = np.minimum(lowest, _jaccard(column, left, right))
        similar = lowest >= threshold
        left, right, lowest = left[similar], right[similar], lowest[similar]
    return left, right, lowest


def _jaccard(column: _Shingles, left: Ints, right: Ints) -> NDArray[np.float64]:
    """Return the exact Jaccard index of each pair: sort both sets together, count the neighbours that are equal."""
    result = np.empty(len(left))
    ends = np.cumsum(column.sizes[left] + column.sizes[right])
    start = 0
    while start < len(left):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIR_WORDS)))
        keys = []
        for side in (left[start:stop], right[start:stop]):
            sizes = column.sizes[side]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            values = column.values[np.repeat(column.offsets[side], sizes) + within]
            keys.append((np.repeat(np.arange(len(side)), sizes).astype(np.uint64) << np.uint64(32)) | values)
        merged = np.sort(np.concatenate(keys))
        twice = merged[1:][merged[1:] == merged[:-1]] >> np.uint64(32)
        shared = np.bincount(twice.astype(np.int64), minlength=stop - start)
        union = column.sizes[left[start:stop]] + column.sizes[right[start:stop]] - shared
        result[start:stop] = shared / union
        start = stop
    return result
