"""Vectors of texts, and the rows that they join; scikit-learn and every pair are the oracles."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from arislab import duplicates, vectors

TEXTS = [
    "the red car",
    "The RED car!",
    "a blue house",
    "",
    None,
    "the blue car and the house",
    "漢字漢字",
    "7 * 3 = 21",
]
WORDS = ["fit", "strong", "weak", "candidate", "the", "a", "role", "python", "sql", "years", "night", "ward"]


def test_hashed_tf_idf_is_that_of_scikit_learn_on_the_normal_form():
    forms = [duplicates.normalise(text or "") for text in TEXTS]
    told = TfidfVectorizer(analyzer=str.split, sublinear_tf=True).fit_transform(forms)
    own = vectors.words(pl.Series(TEXTS))
    assert vectors.products(own, own) == pytest.approx(cosine_similarity(told), abs=1e-6)
    assert vectors.words(pl.Series([], dtype=pl.String)).shape[0] == 0


def test_a_text_without_a_word_resembles_nothing_not_even_itself():
    own = vectors.words(pl.Series(["", None, "a"]))
    assert vectors.products(own, own).diagonal().tolist() == [0.0, 0.0, 1.0]
    star, _ = vectors.stars([own], threshold=0.5, apart=np.zeros(3, dtype=np.int64))
    assert star.tolist() == [0, 1, 2]


def test_the_joined_vectors_give_the_mean_of_the_cosines():
    texts = pl.DataFrame({"input": ["red car", "red house"], "output": ["blue sky", "blue sky"]})
    parts = vectors.of(texts)
    both = [vectors.products(part, part)[0, 1] for part in parts]
    whole = vectors.joined(parts)
    assert vectors.products(whole, whole)[0, 1] == pytest.approx(sum(both) / 2, abs=1e-6)


def by_every_pair(parts, threshold, apart):
    """The star of each row, by the definition."""
    alike = np.min([np.asarray(vectors.products(part, part)) for part in parts], axis=0)
    star = list(range(len(apart)))
    for i in range(len(apart)):
        near = [j for j in range(i) if star[j] == j and alike[i, j] >= threshold - 1e-6 and apart[i] == apart[j]]
        star[i] = near[0] if near else i
    return star


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=30), st.data())
def test_stars_are_those_of_every_pair_by_words_and_by_embeddings(texts, data):
    threshold = data.draw(st.sampled_from([0.3, 0.7, 0.95, 1.0]))
    apart = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts))))
    frame = pl.DataFrame({"input": texts[::-1], "output": texts})

    def counts(some):
        return np.array([[(text or "").split().count(word) for word in WORDS] for text in some])

    for embed in (None, counts):
        parts = vectors.of(frame, embed=embed)
        star, similarity = vectors.stars(parts, threshold=threshold, apart=apart)
        assert star.tolist() == by_every_pair(parts, threshold, apart)
        assert (similarity[star == np.arange(len(star))] == 1).all()
        assert (similarity >= threshold - 1e-5).all()


def test_stars_are_the_same_over_many_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    texts = pl.DataFrame({"output": [" ".join(rng.choice(WORDS, 5)) for _ in range(300)]})
    parts, apart = vectors.of(texts), np.zeros(300, dtype=np.int64)
    whole = vectors.stars(parts, threshold=0.9, apart=apart)[0].tolist()
    monkeypatch.setattr(vectors, "_BLOCK", 7)
    assert vectors.stars(parts, threshold=0.9, apart=apart)[0].tolist() == whole == by_every_pair(parts, 0.9, apart)
    assert len(set(whole)) < 300


def test_a_text_is_embedded_once():
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return np.array([[float(len(text or "")), 1.0] for text in texts])

    again = vectors.remembered(embed)
    assert again(["ab", None, "ab"]).tolist() == [[2.0, 1.0], [0.0, 1.0], [2.0, 1.0]]
    assert again(["abc", "ab"]).tolist() == [[3.0, 1.0], [2.0, 1.0]]
    assert calls == [["ab", None], ["abc"]]


def test_signs_are_equal_where_numbers_and_signs_are():
    texts = ["pays 100 a month", "a month pays 100", "pays 900 a month", "7 * 3", "-7 * 3", "no number"]
    signs = duplicates.signs(pl.DataFrame({"a": texts, "b": ["x"] * 6})).tolist()
    assert signs[0] == signs[1]
    assert len({*signs[1:]}) == 5
