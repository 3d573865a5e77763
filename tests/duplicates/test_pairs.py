"""The nearest of many texts, looked up in pieces, is the one that a look at all pairs finds."""

import random

import numpy as np
import polars as pl
import pytest
from toys import corpus, edited

from arislab.duplicates import pairs, shingles


@pytest.mark.parametrize("size", [1 << 21, 500])  # all at once, and some rows at a time
@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_the_nearest_is_the_first_of_the_most_similar(size, threshold, monkeypatch):
    monkeypatch.setattr(pairs, "_SHINGLES", size)
    monkeypatch.setattr(pairs, "_PAIRS", max(size // 10, 20))
    rng = random.Random(3)
    texts = corpus(80, rng, length=30)
    texts += [edited(text, k, rng) for k in (0, 0, 1, 1, 3, 9) for text in texts[:40]]
    rows, _, _ = shingles.shingles_of(pl.Series(texts), salt=0, is_whole=False)
    sets = [set(rows.values[a:b].tolist()) for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]
    order = np.random.default_rng(1).permutation(len(texts))
    left, right = order[:120], order[120:]
    best = {}
    for i in left:
        likeness = [(len(sets[i] & sets[j]) / len(sets[i] | sets[j]), -j) for j in right]
        score, j = max(likeness)
        if score >= threshold:
            best[i] = (-j, score)
    assert 20 < len(best) < 120
    found = pairs.nearest(rows, left, right, threshold)
    assert {a: (b, score) for a, b, score in zip(*(side.tolist() for side in found), strict=True)} == best
