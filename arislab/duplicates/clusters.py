"""Near-duplicates gathered: stars around the row that stays, and groups for the splits, in which chains count."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from arislab import cluster
from arislab.duplicates import spread
from arislab.duplicates.bounds import Plain
from arislab.duplicates.pairs import EXACT_ROWS, all_pairs, buckets, candidates, compares_all, similar_pairs, verified
from arislab.duplicates.resolving import greedy, resolved
from arislab.duplicates.same_question import asked_alike_here
from arislab.duplicates.shingles import (
    Floats,
    Forms,
    Ints,
    check_threshold,
    columns_of,
    questions_of,
    rows_of,
)
from arislab.system.equals import first_of_equals


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
        star, similarity = _stars(texts[unique], questions, threshold)
    place = np.searchsorted(unique, first)  # an exact copy goes where the first of its kind goes
    return unique[star[place]], similarity[place]


def _stars(texts: pl.DataFrame, questions: Sequence[str], threshold: float) -> tuple[Ints, Floats]:
    """Return for each row, best first, the kept row it resembles (itself if kept), and how much."""
    asked, n = questions_of(texts, questions), texts.height
    if n > EXACT_ROWS and asked:
        first = next(iter(asked.values()))
        pairs = asked_alike_here(first.of, first.shingles, threshold)
        if pairs is not None:
            return greedy(*_similar(texts, asked, pairs, threshold), n)
    columns = columns_of(texts, asked)
    if compares_all(columns):
        star, similarity = np.arange(n), np.ones(n)
        for i, later, score in all_pairs(columns, threshold, star):  # which reads `star` as it is filled here
            star[later], similarity[later] = i, score
        return star, similarity
    held = buckets(columns, threshold)
    return resolved(
        n,
        lambda kept, window: candidates(held, kept, window),
        lambda left, right: verified(columns, left, right, threshold),
    )


def _similar(
    texts: pl.DataFrame, asked: Mapping[str, Forms], pairs: Iterable[tuple[Ints, Ints]], threshold: float
) -> tuple[Ints, Ints, Floats]:
    """Return which of the pairs are similar, and how much; of few texts normal forms are written."""
    plain = [Plain.of(texts[name]) for name in texts.columns if name not in asked]
    some = [np.zeros((2, 0), dtype=np.int64)]
    for left, right in pairs:
        for column in plain:
            fits = column.may_resemble(left, right, threshold)
            left, right = left[fits], right[fits]
        some.append(np.stack([left, right]))
    rows, place = np.unique(np.concatenate(some, axis=1), return_inverse=True)
    of_these = {name: Forms(forms.of[rows], forms.shingles) for name, forms in asked.items()}
    left, right = place.reshape(2, -1)
    left, right, score = verified(columns_of(texts[rows], of_these), left, right, threshold)
    return rows[left], rows[right], score


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
    texts, names = frame[on], frame[id]
    judges = texts.is_not_null() if everybody is None else texts.is_in(everybody.drop_nulls().implode())
    group = components(Forms.made(texts, judges.fill_null(value=False).to_numpy()), names, threshold)
    return frame.select(pl.col(id), names.gather(group).alias("group_id"))


def components(forms: Forms, names: pl.Series, threshold: float) -> Ints:
    """Return for each row the number of the one with the smallest name that near-duplicates, or names, connect it with.

    Args:
        forms: Of the texts; ``forms.of`` may have been taken of some rows.
        names: One a row.
        threshold: As in ``stars``.
    """
    order = names.arg_sort().to_numpy().astype(np.int64)
    names, of = names.gather(order), forms.of[order]
    known = np.flatnonzero(of >= 0)
    first = np.full(len(forms.shingles.offsets) - 1, -1, dtype=np.int64)
    first[of[known[::-1]]] = known[::-1]
    again = known[first[of[known]] != known]
    rows = np.sort(first[first >= 0])
    similar = rows[np.stack(similar_pairs([rows_of(forms.shingles, of[rows])], threshold))]
    named = (names == names.shift()).fill_null(value=False).arg_true().to_numpy().astype(np.int64)
    root = _roots(
        len(order),
        np.concatenate([first[of[again]], similar[0], named - 1]),
        np.concatenate([again, similar[1], named]),
    )
    group = np.empty(len(order), dtype=np.int64)
    group[order] = order[root]
    return group


def _roots(n: int, left: Ints, right: Ints) -> Ints:
    """Return for each of n rows the first row that pairs connect it with."""
    roots = np.arange(n)
    while len(left):
        # each first row that a pair connects with an earlier one goes to it, until no pair connects two of them
        a, b = roots[left], roots[right]
        apart = a != b
        left, right = left[apart], right[apart]
        low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        np.minimum.at(roots, high, low)
        while not np.array_equal(higher := roots[roots], roots):
            roots = higher
    return roots
