"""Near-duplicates gathered: stars around the row that stays, and groups for the splits, in which chains count."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from arislab import cluster
from arislab.duplicates import spread
from arislab.duplicates.pairs import EXACT_ROWS, all_pairs, buckets, candidates, compares_all, similar_pairs, verified
from arislab.duplicates.resolving import resolved
from arislab.duplicates.shingles import (
    Floats,
    Hashed,
    Ints,
    Shingles,
    check_threshold,
    columns_of,
    common_to_most,
    first_of,
    first_of_equals,
    rows_of,
    stands_in,
    with_signs,
    without,
)


def stars(
    texts: pl.DataFrame, *, threshold: float = 0.8, questions: Sequence[str] = (), engine: str = ""
) -> tuple[Ints, Floats]:
    """Return for each row, best first, the row it is a near-duplicate of, and how similar they are.

    A near-duplicate of none has its own number. Going down the rows, a row stays unless it resembles one that stayed,
    in all columns: a star, not a chain.

    Args:
        texts: String columns without nulls; the order of the rows says which of two near-duplicates stays.
        threshold: Jaccard index of the sets of 3-word shingles, in (0, 1]; shorter texts are compared as a whole.
        questions: The columns in which what most texts say does not count.
        engine: Who hashes and compares more than ``pairs.EXACT_ROWS`` distinct rows, as ``cluster.connect`` takes it;
            empty: this process. The result is the same.

    Source:
        Broder 1997 (shingles, MinHash); Indyk and Motwani 1998 (banding); star clusters as in Aslam et al. 2004.
    """
    check_threshold(threshold)
    first = first_of_equals(texts)
    unique = np.flatnonzero(first == np.arange(len(first)))
    many = cluster.connect(engine)
    if many is not None and len(unique) > EXACT_ROWS:
        star, similarity = spread.stars(texts[unique], many, threshold=threshold, questions=questions)
    else:
        star, similarity = _stars(columns_of(texts[unique], questions=questions), threshold)
    place = np.searchsorted(unique, first)  # an exact copy goes where the first of its kind goes
    return unique[star[place]], similarity[place]


def _stars(texts: list[Shingles], threshold: float) -> tuple[Ints, Floats]:
    """Return for each row, best first, the kept row it resembles (itself if kept), and how much."""
    n = len(texts[0].sizes)
    if compares_all(texts):
        star, similarity = np.arange(n), np.ones(n)
        for i, later, score in all_pairs(texts, threshold, star):  # which reads `star` as it is filled here
            star[later], similarity[later] = i, score
        return star, similarity
    held = buckets(texts, threshold)
    return resolved(
        n,
        lambda kept, window: candidates(held, kept, window),
        lambda left, right: verified(texts, left, right, threshold),
    )


def groups(
    frame: pl.DataFrame,
    *,
    on: str = "text",
    id: str = "candidate_id",
    threshold: float = 0.8,
    everybody: pl.Series | None = None,
) -> pl.DataFrame:
    """Return one row per row of `frame`: `id`, and the `group_id` that it shares with its near-duplicates.

    Rows of one `id` are of one group too. A chain counts (a like b, b like c: one group), because splits must not put
    near-duplicates on two sides. `group_id` is the smallest `id` of the group. A null text resembles nothing. What most
    texts say does not count.

    Args:
        frame: Columns `id` (String; several rows of one are several texts of it) and `on` (String, what is asked).
        on: The column to compare.
        id: The column that names a row.
        threshold: As in ``stars``.
        everybody: Those of the texts by which it is judged what most of them say; default: all.

    Example:
        >>> rows = pl.DataFrame({"candidate_id": ["a", "b", "c"], "text": ["one", "two", "One!"]})
        >>> groups(rows)["group_id"].to_list()
        ['a', 'b', 'a']
    """
    check_threshold(threshold)
    return frame.select(pl.col(id), grouped(frame[on], frame[id], threshold, everybody).alias("group_id"))


def grouped(
    texts: pl.Series, names: pl.Series, threshold: float, everybody: pl.Series | None, hashed: Hashed | None = None
) -> pl.Series:
    """Return the group of each row, as ``groups`` does; ``hashed`` has all the texts, where they were hashed before."""
    order = names.arg_sort().to_numpy().astype(np.int64)
    root = _components(texts.gather(order), names.gather(order), threshold, everybody, hashed)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = order[root]
    return names.gather(group)


def _components(
    texts: pl.Series, names: pl.Series, threshold: float, everybody: pl.Series | None, hashed: Hashed | None
) -> Ints:
    """Return for each row the number of the first row that near-duplicates, or its name, connect it with.

    ``names`` are sorted, so that equal ones are neighbours.
    """
    places = (~texts.is_null()).arg_true().to_numpy().astype(np.int64)
    known = texts.drop_nulls().to_frame()
    copies = first_of_equals(known)  # of rows with a text; `first` below is of texts, `rows` of normal forms
    unique = np.flatnonzero(copies == np.arange(len(copies)))
    distinct = known.to_series().gather(unique)
    seen = Hashed.of(distinct) if hashed is None else hashed.only(distinct)
    shingles, signs, first = seen.shingles, seen.signs, first_of(seen.whole)
    judged = first if everybody is None else first[stands_in(distinct, everybody.drop_nulls())]
    common = common_to_most(rows_of(shingles, np.unique(judged)))
    rows = np.unique(first)
    column = with_signs(without(rows_of(shingles, rows), common), signs[rows])
    similar = rows[np.stack(similar_pairs([column], threshold))]
    alike = unique[np.concatenate([_of_others(first), similar], axis=1)]
    edges = places[np.concatenate([_of_others(copies), alike], axis=1)]
    again = (names == names.shift()).fill_null(value=False).arg_true().to_numpy().astype(np.int64)
    edges = np.concatenate([edges, np.stack([again - 1, again])], axis=1)
    up: dict[int, int] = {}  # of the rows that are no root, for most are

    def find(i: int) -> int:
        while (above := up.get(i)) is not None:
            up[i] = i = up.get(above, above)
        return i

    for a, b in edges.T.tolist():
        low, high = sorted((find(a), find(b)))
        if low != high:
            up[high] = low  # so that the root of a group is its first row, whatever the order of the edges
    roots = np.arange(len(texts))
    roots[np.fromiter(up.keys(), np.int64, len(up))] = np.fromiter(up.values(), np.int64, len(up))
    while not np.array_equal(higher := roots[roots], roots):
        roots = higher
    return roots


def _of_others(first: Ints) -> Ints:
    """The rows that another one stands for, as two rows of numbers: who stands for it, and which it is."""
    rows = np.flatnonzero(first != np.arange(len(first)))
    return np.stack([first[rows], rows])
