"""What the plain words of two texts say about their likeness at most, without a normal form, which takes a while.

Three words with nothing between and beside them that could be a sign, or join two words, are a shingle of the normal
form of any text. And of a text in ASCII without entities, three words of its normal form without a sign between them
follow each other in the text itself. So of shingles that stand so in one text, and in no way in the other, is known
that the two do not share them; where these are too many the texts cannot resemble each other, whatever else they say.

What this file does not know: what is between words, but that it does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.duplicates.columns import without_smart
from arislab.duplicates.shingles import (
    ALPHANUMERIC,
    CHUNK_BYTES,
    U64,
    Bytes,
    Floats,
    Ints,
    Words,
    chunks,
    lines_of,
)
from arislab.system import spilled, threads

Bools = NDArray[np.bool_]


def _among(chars: str) -> Bools:
    return np.isin(np.arange(256), np.frombuffer(chars.encode(), dtype=np.uint8))


_UNKNOWN = 1e15  # not infinite: at a threshold of 1 no shingle may differ, and nothing is their share of all
_WORD, _HARMLESS, _UNSURE = 0, 1, 2
_BLANK = _among(" \n\t\r")
_KINDS = np.select([ALPHANUMERIC, _BLANK | _among('"?')], [_WORD, _HARMLESS], _UNSURE).astype(np.uint8)
"""Of each byte whether it is of a word, or else can be of no other token, wherever it stands."""
_BEFORE_BLANK = _among(".,:;")  # nothing before a blank: no number goes on, no name begins, no face, no entity ends
_LETTER = _among("abcdefghijklmnopqrstuvwxyz")
_ENTITY = _LETTER | _among("#")  # what follows its &


@dataclass(frozen=True)
class Plain:
    """The plain words of texts, three by three, as bits: each shingle sets one, which others may set too."""

    said: U64
    """n x bits / 64: of words of the letters a to z and digits alone, whatever stands between them."""
    sure: U64
    """Likewise, of those of them that are shingles of the normal form; maybe not of all."""
    most: Floats
    """Shingles that the normal form has at most; `_UNKNOWN`: more than any text has."""
    is_whole: Bools
    """Whether ``said`` holds all shingles of the normal form that are words alone."""

    @classmethod
    def of(cls, texts: pl.Series) -> "Plain":
        """Return the plain words of texts without nulls."""
        lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
        # a bit or two for each byte of a text of mean length: six or more for each word, of which few are set twice
        n_bits = max(256, 1 << int(lengths.sum() // max(len(lengths), 1)).bit_length())
        most, whole = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]

        def bits() -> Iterator[U64]:
            for some, n, is_whole in threads.mapped(
                lambda part: _chunk(texts[part], n_bits), chunks(np.maximum(lengths, n_bits), CHUNK_BYTES)
            ):
                most.append(n)
                whole.append(is_whole)
                yield some.ravel()

        every = spilled.concatenated(bits(), np.uint64).reshape(len(lengths), 2, n_bits // 64)
        return cls(every[:, 0], every[:, 1], np.concatenate(most), np.concatenate(whole))

    def may_resemble(self, left: Ints, right: Ints, threshold: float) -> Bools:
        """Return of which pairs the Jaccard index of the shingles of their normal forms may reach the threshold.

        With x shingles that only the left text has, and y that only the right one has, it is reached where x + y is at
        most 1 - threshold of all; all are those of the left text and y, or those of the right one and x.
        """

        def fits(start: int) -> Bools:
            a, b = left[start : start + step], right[start : start + step]
            x, y = self._alone(a, b), self._alone(b, a)
            may: Bools = x + threshold * y <= (1 - threshold) * self.most[a] + _LITTLE
            return may & (y + threshold * x <= (1 - threshold) * self.most[b] + _LITTLE)

        step = max(1, _WORDS_AT_ONCE // self.said.shape[1])
        parts = threads.mapped(fits, range(0, len(left), step))
        return np.concatenate([np.zeros(0, dtype=np.bool_), *parts])

    def _alone(self, own: Ints, other: Ints) -> Ints:
        """Return how many shingles one text of each pair has alone, at least: those whose bits the other has not."""
        n: Ints = np.bitwise_count(self.sure[own] & ~self.said[other]).sum(axis=1, dtype=np.int64)
        return np.where(self.is_whole[other], n, 0)


_LITTLE = 1e-6  # an index that is the threshold may be a little less in floats
_WORDS_AT_ONCE = 1 << 17  # of bits that are compared; what it takes fits the cache


def _chunk(texts: pl.Series, n_bits: int) -> tuple[U64, Floats, Bools]:
    """Return ``said`` and ``sure`` of some texts beside each other, ``most`` and ``is_whole``."""
    data, lengths = lines_of(without_smart(texts).str.to_lowercase())
    ends, kinds = np.cumsum(lengths), _KINDS.take(data)
    words = Words.cut(data, kinds == _WORD, ends, _seen_at)
    hashes, sizes, begin = words.threes(0)
    unsure = np.flatnonzero(kinds == _UNSURE)
    byte, after = data[unsure], data[unsure + 1]  # a line ends after each text
    is_whole = np.ones(len(lengths), dtype=np.bool_)
    is_strange = (byte >= 128) | ((byte == ord("&")) & _ENTITY[after])
    is_whole[np.searchsorted(ends, unsure[is_strange], "right")] = False
    unsure = unsure[~((_BEFORE_BLANK[byte] & _BLANK[after]) | ((byte == ord("'")) & _LETTER[after]))]
    # a shingle is three words, what stands between them, and one byte before and after
    is_sure = np.ones(len(words.starts) + 5, dtype=np.bool_)
    before = np.searchsorted(words.starts, unsure, "right") - 1
    for k in (-2, -1, 0, 1):
        is_sure[before + k + 3] = False
    bits = np.zeros((2, len(lengths) * n_bits), dtype=np.bool_)
    at = np.repeat(np.arange(len(lengths)) * n_bits, sizes) + (hashes & np.uint64(n_bits - 1)).astype(np.int64)
    bits[0, at] = True
    bits[1, at[is_sure[begin + 3] & np.repeat(words.counts > 2, sizes)]] = True
    packed = np.packbits(bits.reshape(2, len(lengths), n_bits), axis=2).view(np.uint64)
    n_unsure = np.diff(np.searchsorted(unsure, ends), prepend=0)
    # a character beyond ASCII may stand for many, and punctuation alone stays as it is
    most = np.where(is_whole & (words.counts > 0), np.maximum(words.counts + n_unsure - 2, 1), _UNKNOWN)
    return np.swapaxes(packed, 0, 1), most, is_whole


def _seen_at(data: Bytes, starts: Ints, stops: Ints) -> U64:
    """Hashes of words by what is soon seen: how long they are, and their first, middle and last byte.

    Words that differ may have one hash, and shingles one bit. Then less is ruled out, never more: of bits that one text
    has and the other has not, each is of another shingle.
    """
    seen = (stops - starts).astype(np.uint64)
    for at in (starts, (starts + stops) >> 1, stops - 1):
        seen = (seen << np.uint64(8)) | data[at]
    return seen
