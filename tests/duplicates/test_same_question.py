"""Rows that were asked alike: all pairs of them, each once, or none if they are too many."""

import random
from itertools import chain

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, corpus, edited

from arislab.duplicates import clusters, pairs, same_question, stars
from arislab.duplicates.pairs import Buckets
from arislab.duplicates.same_question import asked_alike


def _held(n, *bands):
    """Buckets of bands, each a list of lists of questions."""
    made = []
    for band in bands:
        number = np.repeat(np.arange(len(band)), [len(bucket) for bucket in band])
        made.append((np.array(list(chain(*band)), dtype=np.int64), number))
    return Buckets(n, made)


def _equal_halves(left, right):
    """Questions are alike if they are equal when halved."""
    same = left // 2 == right // 2
    return left[same], right[same], np.ones(same.sum())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 50))
@settings(max_examples=FUZZ, deadline=None)
def test_all_pairs_of_rows_with_one_or_two_similar_questions_are_made_once(given_numbers, at_once):
    numbers = sorted(set(given_numbers))
    form = np.array([numbers.index(number) for number in given_numbers])
    n = len(numbers)
    bands = [[list(range(n))], [[i for i in range(n) if i % 3 == k] for k in range(3) if n > k]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same_question, "_PAIRS_A_ROW", 1000)
        patch.setattr(same_question, "_PAIRS", at_once)
        some = list(asked_alike(form, lambda: _held(n, *bands), _equal_halves))
    made = [pair for left, right in some for pair in zip(left.tolist(), right.tolist(), strict=True)]
    rows = range(len(form))
    assert sorted(made) == [(i, j) for i in rows for j in rows if i < j and form[i] // 2 == form[j] // 2]


def test_of_a_question_with_many_answers_hashes_are_taken():
    def none():
        raise AssertionError("asked for buckets")

    form = np.zeros(9, dtype=np.int64)  # 36 pairs, 4 a row
    assert len(list(asked_alike(form, lambda: _held(1), _equal_halves))) == 1
    assert asked_alike(np.zeros(10, dtype=np.int64), none, _equal_halves) is None
    many = np.arange(20)
    assert asked_alike(many, lambda: _held(20, [list(range(20))]), _equal_halves) is None, "190 pairs to compare"
    ones = np.repeat(np.arange(2), 9)  # 72 pairs with one question, 81 more with two similar ones
    assert asked_alike(ones, lambda: _held(2, [[0, 1]]), _equal_halves) is None


def _answers(rng, n_questions):
    """Questions, some near another one, with three answers each, of which some are near another one."""
    asked = corpus(n_questions, rng, length=30)
    asked += [edited(text, 1, rng) + "!" for text in asked[: n_questions // 10]]
    said = corpus(n_questions // 4, rng, length=40)
    rows = []
    for question in asked:
        for _ in range(3):
            answer = edited(rng.choice(said), rng.choice([0, 0, 1, 2]), rng)
            rows.append((question, rng.choice([answer, f"**{answer}**", answer + " - 7", answer + " é"])))
    rows += [(question, edited(answer, 1, rng)) for question, answer in rows[::7]]
    rng.shuffle(rows)
    return pl.DataFrame(rows, schema=["input", "output"], orient="row").unique(maintain_order=True)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_stars_of_few_answers_a_question_are_those_of_all_pairs(threshold, monkeypatch):
    rows = _answers(random.Random(6), 700)
    assert rows.height > pairs.EXACT_ROWS

    def refuse(*_):
        raise AssertionError("hashes of all rows were taken")

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "resolved", refuse)
        found, score = stars(rows, threshold=threshold, questions=("input",))
    monkeypatch.setattr(clusters, "EXACT_ROWS", rows.height)
    monkeypatch.setattr(pairs, "EXACT_ROWS", rows.height)
    every, exactly = stars(rows, threshold=threshold, questions=("input",))
    assert (every != np.arange(rows.height)).sum() > rows.height / 20
    assert np.array_equal(found, every)
    assert np.array_equal(score, exactly)
