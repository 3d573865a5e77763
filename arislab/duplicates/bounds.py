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
from arislab.duplicates.pairs import n_shared
from arislab.duplicates.shingles import (
    ALPHANUMERIC,
    CHUNK_BYTES,
    U32,
    U64,
    Bytes,
    Floats,
    Ints,
    Shingles,
    Words,
    chunks,
    counted,
    lines_of,
    once_a_row,
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
    """The plain words of texts, three by three."""

    shingles: Shingles
    """Of words of the letters a to z and digits alone, whatever stands between them; hashed otherwise than there."""
    n_sure: Ints
    """Of these, those that are shingles of the normal form, or fewer: how many may depend on the texts beside it."""
    most: Floats
    """Shingles that the normal form has at most; `_UNKNOWN`: more than any text has."""
    is_whole: Bools
    """Whether the shingles hold all of the normal form that are words alone."""

    @classmethod
    def of(cls, texts: pl.Series) -> "Plain":
        """Return the plain words of texts without nulls."""
        sizes, sure, most, whole = ([np.zeros(0, dtype)] for dtype in (np.int64, np.int64, np.float64, np.bool_))

        def values() -> Iterator[U32]:
            for hashes, *rest in threads.mapped(lambda part: _chunk(texts[part]), chunks(lengths, CHUNK_BYTES)):
                for held, some in zip((sizes, sure, most, whole), rest, strict=True):
                    held.append(some)
                yield hashes

        lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
        every = spilled.concatenated(values(), np.uint32)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
        return cls(Shingles(every, offsets), *(np.concatenate(held) for held in (sure, most, whole)))

    def may_resemble(self, left: Ints, right: Ints, threshold: float) -> Bools:
        """Return of which pairs the Jaccard index of the shingles of their normal forms may reach the threshold.

        With x shingles that only the left text has, and y that only the right one has, it is reached where x + y is at
        most 1 - threshold of all; all are those of the left text and y, or those of the right one and x.
        """
        shared = n_shared(self.shingles, left, right)
        x, y = (
            np.where(self.is_whole[other], np.maximum(self.n_sure[own] - shared, 0), 0)
            for own, other in ((left, right), (right, left))
        )
        fits: Bools = x + threshold * y <= (1 - threshold) * self.most[left] + _LITTLE
        fits &= y + threshold * x <= (1 - threshold) * self.most[right] + _LITTLE
        return fits


_LITTLE = 1e-6  # an index that is the threshold may be a little less in floats


def _chunk(texts: pl.Series) -> tuple[U32, Ints, Ints, Floats, Bools]:
    """Return the distinct shingles of some texts, and of each text how many, how many are sure, the most, if whole."""
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
    is_one = once_a_row(hashes, sizes)
    is_sure_one = is_one & is_sure[begin + 3] & np.repeat(words.counts > 2, sizes)
    n_unsure = np.diff(np.searchsorted(unsure, ends), prepend=0)
    # a character beyond ASCII may stand for many, and punctuation alone stays as it is
    most = np.where(is_whole & (words.counts > 0), np.maximum(words.counts + n_unsure - 2, 1), _UNKNOWN)
    return hashes[is_one].astype(np.uint32), counted(is_one, sizes), counted(is_sure_one, sizes), most, is_whole


def _seen_at(data: Bytes, starts: Ints, stops: Ints) -> U64:
    """Hashes of words by what is soon seen: how long they are, and their first, middle and last byte.

    Words that differ may have one hash. Then less is ruled out, never more: of hashes that one text has and the other
    has not, each is of another shingle.
    """
    seen = (stops - starts).astype(np.uint64)
    for at in (starts, (starts + stops) >> 1, stops - 1):
        seen = (seen << np.uint64(8)) | data[at]
    return seen
