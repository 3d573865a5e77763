"""Which rows stay, from pairs that are proposed and verified round after round.

What this file does not know: how pairs are proposed, and where.
"""

from array import array
from collections.abc import Callable

import numpy as np

from arislab.duplicates.pairs import distinct
from arislab.duplicates.shingles import Floats, Ints


def resolved(
    n: int, propose: Callable[[Ints, int], Ints], verify: Callable[[Ints, Ints], tuple[Ints, Ints, Floats]]
) -> tuple[Ints, Floats]:
    """Return for each row, best first, the kept row it resembles (itself if kept), and how much.

    Args:
        n: Number of rows.
        propose: Rows that are kept so far, ascending, and a window: distinct codes of pairs, as ``candidates`` gives.
        verify: Left and right rows of pairs: those of the pairs that are similar, and how much, in any order.
    """
    star, similarity = np.arange(n), np.ones(n)
    tested = left = right = np.zeros(0, dtype=np.int64)
    score = np.zeros(0)
    for window in (0, 4, 4, 4):  # first only the best row of each bucket, which resolves large clusters cheaply
        kept = np.flatnonzero(star == np.arange(n))
        # a row whose better neighbours are all duplicates may still resemble what those point to
        follows = (star[right] == right) & (star[left] != left)
        codes = distinct(np.concatenate([propose(kept, window), right[follows] * n + star[left[follows]]]))
        codes = np.setdiff1d(codes, tested, assume_unique=True)
        tested = np.concatenate([tested, codes])
        similar = verify(codes % n, codes // n)
        left, right, score = (np.concatenate(pair) for pair in zip((left, right, score), similar, strict=True))
        star, similarity = greedy(left, right, score, n)
        if window and np.array_equal(kept, np.flatnonzero(star == np.arange(n))):
            break
    return star, similarity


def greedy(left: Ints, right: Ints, score: Floats, n: int) -> tuple[Ints, Floats]:
    """Go from the best row to the worst: a row joins the best kept row it resembles, or is kept."""
    star, similarity = (
        array("q", np.arange(n).tobytes()),
        array("d", np.ones(n).tobytes()),
    )  # lists take five times that
    order = np.lexsort((left, right))
    for start in range(0, len(order), _PAIRS):
        some = order[start : start + _PAIRS]
        for i, j, s in zip(left[some].tolist(), right[some].tolist(), score[some].tolist(), strict=True):
            if star[i] == i and star[j] == j:
                star[j], similarity[j] = i, s
    return np.array(star, dtype=np.int64), np.array(similarity)


_PAIRS = 1 << 20
"""Pairs that are Python's at once."""
