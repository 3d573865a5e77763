"""The nearest of many texts, looked up in pieces, is the one that a look at all pairs finds."""

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, corpus, edited

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


@given(
    st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=25),
    st.sampled_from([0.2, 0.5, 0.8, 1.0]),
)
@settings(max_examples=FUZZ, deadline=None)
def test_no_row_is_left_out_that_is_similar_to_another(sets, threshold):
    values = np.concatenate([np.array(sorted(one), dtype=np.uint32) for one in sets]) * np.uint32(0x9E3779B1)
    rows = shingles.Shingles(values, np.concatenate([[0], np.cumsum([len(one) for one in sets])]))
    shares = pairs._shares(rows, threshold)
    for i, one in enumerate(sets):
        if any(len(one & other) / len(one | other) >= threshold for j, other in enumerate(sets) if i != j):
            assert shares[i]


def test_rows_whose_shingles_are_theirs_alone_are_in_no_bucket(monkeypatch):
    rng = random.Random(9)
    texts = corpus(3_000, rng)
    texts += [edited(text, 1, rng) for text in texts[:200]]
    rows, _, _ = shingles.shingles_of(pl.Series(texts), salt=0, is_whole=False)
    assert pairs._shares(rows, 0.8).sum() == 400
    few = pairs.buckets_of_few([rows], 0.8)
    every = pairs.buckets([rows], 0.8)
    both = [{tuple(members) for members in _buckets(held)} for held in (few, every)]
    assert both[0] == {members for members in both[1] if len({i % 3_000 for i in members[1:]}) == 1}
    monkeypatch.setattr(pairs, "COUNTED", 0)
    assert {tuple(members) for members in _buckets(pairs.buckets_of_few([rows], 0.8))} == both[1]


def _buckets(held):
    """The rows of each bucket of each band."""
    for band, (rows, number) in enumerate(held.bands):
        for i in np.unique(number):
            yield band, *rows[number == i].tolist()
