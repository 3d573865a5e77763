"""Pairs of rows that were asked alike: where few answers share a question all of them are compared, and none is missed.

What this file does not know: what a question says, and how questions and answers are compared.
"""

from collections.abc import Callable, Iterator

import numpy as np

from arislab.duplicates.pairs import Buckets, buckets_of_few, distinct, verified
from arislab.duplicates.shingles import Floats, Ints, Shingles, chunks, places, within

Verify = Callable[[Ints, Ints], tuple[Ints, Ints, Floats]]
"""Left and right rows of pairs: those of the pairs that are similar, and how much."""
_PAIRS_A_ROW = 4
"""Pairs for each row that are sooner compared one by one than hashes are taken of all rows, who may share their
question with 8 others."""
_PAIRS = 1 << 20
"""Pairs that are made at once."""


def asked_alike(form: Ints, held: Callable[[], Buckets], verify: Verify) -> Iterator[tuple[Ints, Ints]] | None:
    """Return the pairs of rows whose questions are alike, the better row left, some at a time; None: they are too many.

    Args:
        form: Of each row, best first, the number of its question: 0, 1, …
        held: The buckets of the questions, asked for if not too many rows have one question.
        verify: Which pairs of questions are similar.
    """
    count, most = np.bincount(form), _PAIRS_A_ROW * len(form)
    own = (count * (count - 1) // 2).sum()
    if own > most:
        return None
    alike = _alike(held(), most, verify)
    if alike is None or own + (count[alike[0]] * count[alike[1]]).sum() > most:
        return None
    return _pairs(form, count, *alike)


def asked_alike_here(form: Ints, questions: Shingles, threshold: float) -> Iterator[tuple[Ints, Ints]] | None:
    """Return the same, of questions whose shingles are at hand."""
    return asked_alike(
        form,
        lambda: buckets_of_few([questions], threshold),
        lambda left, right: verified([questions], left, right, threshold),
    )


def _alike(held: Buckets, most: int, verify: Verify) -> tuple[Ints, Ints] | None:
    """Return the pairs of similar questions; None: in one band there are more than ``most`` to compare."""
    codes = np.zeros(0, dtype=np.int64)
    for questions, number in held.bands:
        size = np.bincount(number)
        if (size * (size - 1) // 2).sum() > most:
            return None
        place = within(size[size > 0])
        later = np.flatnonzero(place > 0)
        earlier = places(later - place[later], place[later])
        codes = distinct(
            np.concatenate([codes, np.repeat(questions[later], place[later]) * held.n + questions[earlier]])
        )
    left, right, _ = verify(codes % held.n, codes // held.n)
    return left, right


def _pairs(form: Ints, count: Ints, left: Ints, right: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield all pairs of rows that have one question, or two similar ones."""
    rows = np.argsort(form, kind="stable")  # question after question, in each the best first
    begin = np.cumsum(count) - count
    place = within(count[count > 0])
    later = np.flatnonzero(place > 0)
    # each row with those before it that have its question, and with all that have a similar one
    across = places(begin[left], count[left]) if len(left) else np.zeros(0, dtype=np.int64)
    one = np.concatenate([later, across])
    other = np.concatenate([later - place[later], np.repeat(begin[right], count[left])])
    size = np.concatenate([place[later], np.repeat(count[right], count[left])])
    for part in chunks(size, _PAIRS):
        a = np.repeat(rows[one[part]], size[part])
        b = rows[places(other[part], size[part])]
        yield np.minimum(a, b), np.maximum(a, b)
