"""Rows that are equal, found by their hashes, are those that a comparison finds."""

import numpy as np
import polars as pl
import pytest

from arislab.system import equals


@pytest.mark.parametrize("bits", [20, 4])  # all keys sorted at once, and a part at a time
def test_the_first_of_equals_and_the_number_among_them(bits, monkeypatch):
    monkeypatch.setattr(equals, "_SORTED_BITS", bits)
    keys = np.random.default_rng(5).integers(0, 90, 400).astype(np.uint64)
    keys = np.where(keys < 60, keys * np.uint64(1 << 33), keys)  # some differ in their first bits alone
    first, seen = [], []
    for i, key in enumerate(keys.tolist()):
        before = keys[:i].tolist()
        first.append(before.index(key) if key in before else i)
        seen.append(before.count(key))
    assert equals.first_of(keys).tolist() == first
    assert equals.number_among(np.array(first)).tolist() == seen
    assert equals.first_of(keys[:0]).tolist() == equals.number_among(np.arange(0)).tolist() == []


def test_rows_whose_hashes_are_equal_by_chance_are_told_apart(monkeypatch):
    rows = pl.DataFrame({"a": ["x", "y", "x", None, "y", None], "b": ["1", "1", "1", "1", "2", "1"]})
    right = [0, 1, 0, 3, 4, 3]
    assert equals.first_of_equals(rows).tolist() == right
    monkeypatch.setattr(equals, "first_of", lambda keys: np.zeros(len(keys), dtype=np.int64))
    assert equals.first_of_equals(rows).tolist() == right


def test_numbers_go_up_in_the_order_in_which_rows_come():
    number, first = equals.numbered(np.array([0, 1, 0, 3, 1, 3]))
    assert (number.tolist(), first.tolist()) == ([0, 1, 0, 2, 1, 2], [0, 1, 3])


def test_places_of_names_among_known_ones():
    names, known = pl.Series("n", ["b", "z", None, "a", "b"]), pl.Series("k", ["a", "b", "a"])
    assert equals.places(names, known).tolist() == [1, -1, -1, 0, 1]
    assert equals.places(names, pl.Series("k", [None, "b"])).tolist() == [1, -1, 0, -1, 1]
    assert equals.places(names[:0], known).tolist() == []
    assert equals.places(names, known[:0]).tolist() == [-1] * 5
