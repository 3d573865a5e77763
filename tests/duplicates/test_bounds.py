"""What plain words rule out: never two texts that resemble each other, and nearly all that do not."""

import random
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, corpus, edited

from arislab.duplicates import bounds, shingles
from arislab.duplicates.bounds import Plain
from arislab.normal import SMART, normalise

_WORDS = [
    "one",
    "two",
    "a",
    "i",
    "x",
    "fine",
    "don't",
    "it's",
    "7",
    "1,000",
    "3.5",
    "b12",
    "naïve",
    "ﬁne",
    "日本",
    "sin",
]
_BETWEEN = [" ", " ", " ", "\n", ", ", ". ", "; ", ": ", "? ", '" ', " '", "' ", "! ", ".", ",", "-", " - ", " -", "'"]
_SIGNS = ["+", "=", "&", "&amp;", "&nbsp;", "&#42;", "; ", ";", "*", "**", "_", "\u200b", "\u0301", "$", "(", ")"]
_SIGNS += ["→"]
_MORE = ["\n- ", "\n# ", "|", "!", "...", ".", "\t", "\r\n", "’", "…", "—", "\x01", "\x02", "\x0b", "/"]
_MORE += ["§", "²", "½"]
_ODD = _BETWEEN + _SIGNS + _MORE
_START = ["", "", "- ", "-", ".", "'", "&", "*"]


def _joined(parts, start=""):
    return start + "".join(word + between for word, between in parts)


@st.composite
def _parts(draw, most=14):
    """Words with what is between them: blanks, and one or two other things, for many together hide what one does."""
    odd = [" ", " ", draw(st.sampled_from(_ODD)), draw(st.sampled_from(_ODD))]
    words = draw(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5))
    return draw(st.lists(st.tuples(st.sampled_from(words), st.sampled_from(odd)), max_size=most))


@st.composite
def _pairs(draw):
    """A text, and the same with a few places edited: what is between words, or a word."""
    one = draw(_parts())
    other = list(one)
    odd, word = draw(st.sampled_from([" ", *_ODD])), draw(st.sampled_from(_WORDS))
    for at in draw(st.lists(st.integers(0, max(len(one) - 1, 0)), max_size=4)):
        if other:
            other[at] = (other[at][0], odd) if draw(st.booleans()) else (word, other[at][1])
    start = draw(st.sampled_from(_START))
    return _joined(one, start), _joined(other, draw(st.sampled_from([start, ""])))


def _index(one, other):
    """The exact Jaccard index of the shingles of two normal forms, whatever their numbers and signs."""
    rows, _, _ = shingles.shingles_of(pl.Series([one, other]), salt=0, is_whole=False)
    a, b = (set(rows.values[rows.offsets[i] : rows.offsets[i + 1]].tolist()) for i in (0, 1))
    return len(a & b) / len(a | b)


@given(st.lists(_pairs(), min_size=1, max_size=6), st.sampled_from([0.1, 0.3, 0.5, 0.8, 0.95, 1.0]))
@settings(max_examples=3 * FUZZ, deadline=None)
def test_no_two_texts_that_resemble_each_other_are_ruled_out(pairs, threshold):
    plain = Plain.of(pl.Series([text for pair in pairs for text in pair]))
    left = np.arange(len(pairs)) * 2
    may = plain.may_resemble(left, left + 1, threshold)
    for (one, other), is_possible in zip(pairs, may, strict=True):
        assert is_possible or _index(one, other) < threshold


_TEN = " ".join(f"w{letter}" for letter in "abcdefghij")  # 8 shingles


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [
        (_TEN, f"{_TEN} z", 8 / 9),  # one more in the one
        (f"z {_TEN}", f"{_TEN} z", 8 / 10),  # one more in each
        (_TEN, _TEN.replace(" ", "&nbsp;"), 1.0),  # a word that nobody reads, and blanks that nobody writes
        (_TEN, _TEN.replace("wa", "w\u00ada"), 1.0),
        (f"{_TEN} é", f"{_TEN} e\u0301", 1.0),
    ],
)
def test_an_index_is_possible_up_to_itself(one, other, index):
    assert _index(one, other) == pytest.approx(index)
    pair = np.array([0]), np.array([1])
    for texts in ([one, other], [other, one]):
        plain = Plain.of(pl.Series(texts))
        assert plain.may_resemble(*pair, index)[0]
        assert plain.may_resemble(*pair, min(index + 0.03, 1))[0] == (index == 1)


@pytest.mark.parametrize(
    ("text", "n_sure"),
    [
        ("one two three", 1),
        ("ONE,\ntwo.  Three?", 1),
        ('don\'t say "so"', 2),
        ("x' one two", 0),  # a prime
        ("x y' one two", 0),
        ("one two :) three", 0),
        ("one two ;-) three", 0),
        ("one two 5:3", 0),  # one number
        ("1'000 one two", 0),
        ("use .net for it", 0),
        ("&#65;one two three", 0),  # Aone
        ("one two n! three", 0),
        ("one two three\u0301", 0),
        ("one two\u200b three four five six", 1),
        ("one_two three - four five six seven", 1),
        ("one two", 0),
    ],
)
def test_what_could_be_a_sign_makes_what_stands_around_it_unsure(text, n_sure):
    assert _n_bits(Plain.of(pl.Series([text])).sure) == n_sure


def test_signs_are_counted_among_what_a_text_has_at_most():
    texts = ["x + y - z", "one two three", "one", '? " , ; ?', "naïve one"]
    shares = [len(_threes(normalise(text).split())) for text in texts]
    assert shares == [3, 1, 1, 3, 1]
    assert (Plain.of(pl.Series(texts)).most >= shares).all()


def test_of_a_text_with_entities_or_beyond_ascii_is_not_known_what_it_does_not_say():
    texts = ["R & D", "R&D", "one &lt; two", "&#42; one", "a; b & ;", "naïve", "it’s – so…", "it's so"]
    assert Plain.of(pl.Series(texts)).is_whole.tolist() == [True, False, False, False, True, False, True, True]


def _n_bits(some):
    return int(np.bitwise_count(some).sum())


def _threes(words):
    return set(zip(words, words[1:], words[2:], strict=False)) if len(words) > 2 else {tuple(words)}


@given(st.lists(_parts(most=6), min_size=1, max_size=8), st.sampled_from(_START))
@settings(max_examples=FUZZ, deadline=None)
def test_sure_shingles_are_those_of_the_normal_form_and_those_without_signs_are_all_there(texts, start):
    texts = [_joined(parts, start) for parts in texts]
    plain = Plain.of(pl.Series(texts))
    for i, text in enumerate(texts):
        words = re.findall("[a-z0-9]+", "".join(SMART.get(char, char) for char in text).lower())
        normal = _threes(normalise(text).split())
        assert _n_bits(plain.said[i]) <= len(_threes(words))
        assert _n_bits(plain.sure[i]) <= len(_threes(words) & normal)
        assert len(normal) <= plain.most[i]
        if plain.is_whole[i] and words:  # of three words alone each stands in the text as it does in the form
            assert {one for one in normal if all(map(str.isalnum, one))} <= _threes(words)
        alone = Plain.of(pl.Series([text]))  # beside others a shingle is unsure sooner
        if re.fullmatch(r"[a-z0-9 ?\"\n]*", text) and len(words) > 2:
            assert alone.is_whole[0]
            assert np.array_equal(alone.sure, alone.said), "nothing is unsure"


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_texts_that_say_something_else_are_ruled_out_without_their_normal_form(at_once, monkeypatch):
    monkeypatch.setattr(bounds, "CHUNK_BYTES", at_once)
    monkeypatch.setattr(bounds, "_WORDS_AT_ONCE", at_once)
    rng = random.Random(5)
    texts = [text.replace(" ", ", ", 3) + ". It's said - by all (or most) at 3.5 %." for text in corpus(200, rng)]
    near = [edited(text, 1, rng) for text in texts]
    plain, one = Plain.of(pl.Series(texts + near)), np.arange(200)
    assert plain.may_resemble(one, one + 200, 0.8).all()
    assert not plain.may_resemble(one, np.roll(one, 1), 0.8).any()
    beyond = Plain.of(pl.Series([f"{text} é" for text in texts] + texts))
    assert beyond.is_whole.tolist() == [False] * 200 + [True] * 200
    assert not beyond.may_resemble(one, np.roll(one, 1) + 200, 0.8).any(), "what the other says is known"
    assert beyond.may_resemble(one, np.roll(one, 1), 0.8).all(), "of neither is known what it does not say"


def test_few_long_texts_among_many_short_ones_take_no_more_memory_at_once():
    rng = random.Random(7)
    long = corpus(2, rng, length=200_000)
    plain = Plain.of(pl.Series([*long, *(f"short {i}" for i in range(3_000)), edited(long[0], 9, rng)]))
    assert plain.said.shape == (3_003, 32), "2,048 bits: of long ones nearly all are set, so that nothing is known"
    assert plain.may_resemble(np.array([0, 0]), np.array([1, 3_002]), 0.8).all()
    assert not plain.may_resemble(np.array([0]), np.array([500]), 0.8)[0]
