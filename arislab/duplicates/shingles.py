"""Texts as sets of 3-word shingles, hashed all at once, and a hash of their numbers and signs.

What this file does not know: which texts resemble each other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.duplicates.columns import worded
from arislab.duplicates.helpers import Helpers
from arislab.errors import ParameterError
from arislab.system import spilled, threads
from arislab.system.equals import first_of, first_of_equals, numbered

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

FEW = 20
"""Texts; of fewer it cannot be signs what most of them say."""
CHUNK_BYTES = 1 << 20  # text hashed at once: of more what it takes leaves the cache, of less threads wait for the lock
_WITH_HELP = 1 << 23  # bytes of text from which on it is worth to start helpers: .03 s of a core each, and two pipes
_ROWS = 10_000  # rows of shingles worked on at once
ALPHANUMERIC = np.isin(np.arange(256), np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", dtype=np.uint8))
ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no Jaccard index."""
    if not 0 < threshold <= 1:
        raise ParameterError(
            f"threshold must be in (0, 1], got {threshold!r}; 0.8 means that 8 of 10 shingles are shared."
        )


@dataclass(frozen=True)
class Shingles:
    """The sets of one column, row after row."""

    # distinct within a row, in no order; in texts of 60 words two different ones are equal in one pair of a million
    values: U32
    offsets: Ints  # row i is values[offsets[i]:offsets[i + 1]], never empty

    @property
    def sizes(self) -> Ints:
        """Shingles of each row; made of all rows each time."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Forms:
    """Texts by their normal form: texts that differ in nothing that counts are one."""

    of: Ints
    """Number of the form of each row; -1: no text."""
    shingles: Shingles
    """Of each form, as two are compared: without what most say, and with numbers and signs."""

    @classmethod
    def made(cls, texts: pl.Series, judges: NDArray[np.bool_], *, salt: int = 0) -> "Forms":
        """Return the forms of texts (null: none); ``judges`` are the rows by which it is judged what most say."""
        places = texts.is_not_null().arg_true().to_numpy()
        known = texts.drop_nulls().to_frame()
        number, some = numbered(first_of_equals(known))
        distinct = known.to_series() if len(some) == len(known) else known.to_series().gather(some)
        shingles, signs, whole = shingles_of(distinct, salt=salt, is_whole=True)
        form, some = numbered(first_of(whole))
        of = np.full(len(texts), -1, dtype=np.int64)
        of[places] = form[number]
        shingles, is_judge = rows_of(shingles, some), np.zeros(len(some), dtype=bool)
        is_judge[of[judges & (of >= 0)]] = True
        common = common_to_most(rows_of(shingles, np.flatnonzero(is_judge)))
        return cls(of, with_signs(without(shingles, common), signs[some]))


def codes_of(texts: pl.Series) -> Ints:
    """Return for each text the number of the first row that is equal to it; -1: null."""
    first = first_of_equals(texts.to_frame())
    if texts.null_count():
        first[texts.is_null().to_numpy()] = -1
    return first


def questions_of(texts: pl.DataFrame, questions: Sequence[str]) -> dict[str, Forms]:
    """Return the forms of the columns that are questions, by name; what most of them say does not count."""
    everyone = np.ones(texts.height, dtype=bool)
    return {
        name: Forms.made(texts[name], everyone, salt=salt)
        for salt, name in enumerate(texts.columns)
        if name in questions
    }


def columns_of(texts: pl.DataFrame, asked: Mapping[str, Forms]) -> list[Shingles]:
    """Return the shingles of each column, of questions those of their forms."""
    # salted: `band_keys` joins the columns of a row, and what two of them say must not become one shingle
    return [
        rows_of(asked[name].shingles, asked[name].of) if name in asked else _column_of(texts[name], salt)
        for salt, name in enumerate(texts.columns)
    ]


def _column_of(texts: pl.Series, salt: int) -> Shingles:
    """Return the shingles of texts without nulls; of equal ones they are taken once."""
    number, some = numbered(first_of_equals(texts.to_frame()))
    return rows_of(shingles_of(texts.gather(some), salt=salt, is_whole=False, is_signed=True)[0], number)


def shingles_of(texts: pl.Series, *, salt: int, is_whole: bool, is_signed: bool = False) -> tuple[Shingles, U32, U64]:
    """Return of each text its 3-word shingles, a hash of its numbers and signs, and one of its normal form.

    A shorter text is one shingle. Without ``is_whole`` there are no hashes of normal forms, which take a while. With
    ``is_signed`` the shingles are those of ``with_signs``.
    """
    texts = texts.cast(pl.String)
    whole, sizes, signs = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]

    def chunk(part: slice) -> tuple[U64, tuple[U32, Ints, U32]]:
        words, (shingles, n, sign) = _shingle_chunk(*worded(texts[part], helpers.forms), salt=salt)
        if is_signed:
            shingles ^= np.repeat(sign, n)
        return words.wholes() if is_whole else np.zeros(0, np.uint64), (shingles, n, sign)

    def values() -> Iterator[U32]:
        for hashes, (shingles, n, sign) in threads.mapped(chunk, chunks(lengths, CHUNK_BYTES)):
            whole.append(hashes)
            sizes.append(n)
            signs.append(sign)
            yield shingles

    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    with Helpers(threads.count() if threads.count() > 1 and lengths.sum() > _WITH_HELP else 0) as helpers:
        every = spilled.concatenated(values(), np.uint32)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return Shingles(every, offsets), np.concatenate(signs), np.concatenate(whole)


def signs(texts: pl.DataFrame) -> Ints:
    """Return a number per row that two rows share if their columns have the same numbers and signs, each as often.

    Args:
        texts: String columns without nulls.
    """
    total = np.zeros(len(texts), dtype=np.uint64)
    for name in texts.columns:
        copies = first_of_equals(texts.select(name))
        unique = np.unique(copies)
        own = shingles_of(texts[name].gather(unique), salt=0, is_whole=False)[1].astype(np.uint64)
        total = mix(total * ODD[1] + own[np.searchsorted(unique, copies)] + ODD[0])
    return total.view(np.int64)


def chunks(sizes: Ints, most: int) -> Iterator[slice]:
    """Yield slices of the rows, of which the sizes sum to `most` at most; a larger row is alone."""
    ends, start = np.cumsum(sizes), 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + most, "right")))
        yield slice(start, stop)
        start = stop


def places(starts: Ints, sizes: Ints) -> Ints:
    """Return the numbers from each start on, as many as its size, which is never 0."""
    steps = np.ones(sizes.sum(), dtype=np.int64)
    if len(starts):
        steps[0] = starts[0]
        steps[np.cumsum(sizes)[:-1]] = starts[1:] - (starts + sizes)[:-1] + 1
    return np.cumsum(steps, out=steps)


def within(sizes: Ints) -> Ints:
    """Return the places in each row, one row after the other: 0, 1, 2, 0, 1 for the sizes 3 and 2."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


@dataclass(frozen=True)
class Words:
    """The words of some texts, one text after the other."""

    starts: Ints
    hashes: U64
    last: Ints
    """Of each text the number of the word after its last."""
    counts: Ints
    """Of each text."""

    @classmethod
    def cut(
        cls, data: Bytes, in_word: NDArray[np.bool_], ends: Ints, hashed: Callable[[Bytes, Ints, Ints], U64]
    ) -> "Words":
        """Return the words of texts; each ends with a byte that is in no word, the place after it is its end.

        ``hashed`` takes the bytes, and where words begin and end in them.
        """
        edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
        if in_word[0]:
            edges = np.concatenate([[0], edges])
        starts, stops = edges[::2], edges[1::2]
        last = np.searchsorted(starts, ends)
        return cls(starts, hashed(data, starts, stops), last, np.diff(last, prepend=0))

    def threes(self, salt: int) -> tuple[U64, Ints, Ints]:
        """Return the shingles of all texts, 32 bits each, how many each text has, and the word each begins with."""
        n_words, first = self.counts, self.last - self.counts
        sizes = np.maximum(n_words - 2, 1)
        # of each word and the two after it, whosever they are; of a row those count that end in it
        threes = np.zeros(len(self.hashes) + 1, np.uint64)
        for k in range(3):
            threes[: max(len(self.hashes) - k, 0)] += self.hashes[k:] * ODD[k]
        begin = places(first, sizes)
        mixed = threes[begin]
        short = np.flatnonzero(n_words < 3)
        padded = np.concatenate([self.hashes, np.zeros(3, np.uint64)])  # np.where reads past the end before it chooses
        own = [np.where(k < n_words[short], padded[first[short] + k], np.uint64(0)) * ODD[k] for k in range(3)]
        mixed[(np.cumsum(sizes) - sizes)[short]] = np.sum(own, axis=0, dtype=np.uint64)
        return mix(mixed + np.uint64(salt)) >> np.uint64(32), sizes, begin

    def wholes(self) -> U64:
        """Return a hash of each text: of all its words, in their order."""
        powers, inverses = _powers(1 << len(self.hashes).bit_length())
        sums = np.zeros(len(self.hashes) + 1, np.uint64)
        np.cumsum(self.hashes * powers[: len(self.hashes)], out=sums[1:])
        first = self.last - self.counts
        return mix((sums[self.last] - sums[first]) * inverses[first])


def _polynomials(data: Bytes, starts: Ints, stops: Ints) -> U64:
    """Hashes of words: the polynomial of each in an odd number mod 2**64, of which prefix sums give all at once."""
    powers, inverses = _powers(1 << len(data).bit_length())
    sums = np.zeros(len(data) + 1, np.uint64)
    np.multiply(data, powers[: len(data)], out=sums[1:])
    np.cumsum(sums, out=sums)
    return mix((sums[stops] - sums[starts]) * inverses[starts])


def lines_of(texts: pl.Series) -> tuple[Bytes, Ints]:
    """Return the bytes of all texts, each with a line end after it, and how many each has."""
    lines = pl.concat([texts, pl.Series(texts.name, [""], texts.dtype)]).str.join("\n")
    data = np.frombuffer(lines.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()[2], dtype=np.uint8)
    return data, texts.str.len_bytes().to_numpy().astype(np.int64) + 1


def once_a_row(hashes: U64, sizes: Ints) -> NDArray[np.bool_]:
    """Mark of the equal shingles of each row one."""
    row = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    return once((row << np.uint64(32)) | hashes)


def _shingle_chunk(texts: pl.Series, is_plain: pl.Series, *, salt: int) -> tuple[Words, tuple[U32, Ints, U32]]:
    """Return the words of texts; their distinct shingles, how many each has, and a hash of its numbers and signs."""
    data, lengths = lines_of(texts)
    if is_plain.all():
        in_word = ALPHANUMERIC.take(data)
    else:
        in_word = (data != ord(" ")) & (data != ord("\n"))
        if is_plain.any():
            in_word &= ALPHANUMERIC.take(data) | ~np.repeat(is_plain.to_numpy(), lengths)
    words = Words.cut(data, in_word, np.cumsum(lengths), _polynomials)
    hashes, sizes, _ = words.threes(salt)
    is_one = once_a_row(hashes, sizes)
    counts = counted(is_one, sizes)
    first = data[words.starts]
    # a sign (beyond ASCII it begins with its mark), a number, or a name that holds one: vitamin B12 is not B6
    is_sign = (first < ord("a")) | ((first > ord("z")) & (first < 128))
    digits = np.flatnonzero((data >= ord("0")) & (data <= ord("9")))
    is_sign[np.searchsorted(words.starts, digits, "right") - 1] = True
    sign = np.flatnonzero(is_sign)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mix(words.hashes[sign] * ODD[2]), dtype=np.uint64)])
    # a sum: how often each stands there counts, where it stands does not
    upto, before = np.searchsorted(sign, words.last), np.searchsorted(sign, words.last - words.counts)
    signs = mix(total[upto] - total[before]) >> np.uint64(32)
    return words, (hashes[is_one].astype(np.uint32), counts, signs.astype(np.uint32))


def counted(marked: NDArray[np.bool_], sizes: Ints) -> Ints:
    """Return how many are marked of each row, of rows one after the other."""
    return np.add.reduceat(marked, np.cumsum(sizes) - sizes, dtype=np.int64) if len(sizes) else sizes


def once(keys: U64) -> NDArray[np.bool_]:
    """Mark one of equal keys each; most stand alone, and of those none is sorted."""
    bits = len(keys).bit_length() + 2
    slots = ((keys * ODD[0]) >> np.uint64(64 - bits)).astype(np.int64)
    number = np.arange(len(keys), dtype=np.int32)
    holder = np.empty(1 << bits, np.int32)
    holder[slots] = number
    holds = holder[slots]
    is_one: NDArray[np.bool_] = holds == number
    rest = np.flatnonzero(~is_one)
    rest = rest[keys[rest] != keys[holds[rest]]]  # in one slot by chance
    is_one[rest[np.unique(keys[rest], return_index=True)[1]]] = True
    return is_one


@lru_cache(maxsize=2)  # of the chunks of a table most are of one size, and have about as many words
def _powers(n: int) -> tuple[U64, U64]:
    """The first powers of an odd number and of its inverse, mod 2**64."""
    inverse = np.uint64(pow(int(ODD[0]), -1, 1 << 64))
    first, second = (np.full(n, factor, dtype=np.uint64) for factor in (ODD[0], inverse))
    return np.cumprod(first, dtype=np.uint64), np.cumprod(second, dtype=np.uint64)


def mix(x: U64) -> U64:
    """Return hashes whose high bits depend on all bits: products alone never carry anything down."""
    x = (x ^ (x >> np.uint64(29))) * ODD[1]
    return x ^ (x >> np.uint64(32))


def rows_of(shingles: Shingles, rows: Ints) -> Shingles:
    """Return some rows, in that order."""
    if len(rows) == len(shingles.sizes) and np.array_equal(rows, np.arange(len(rows))):
        return shingles
    sizes = shingles.sizes[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    def values(start: int) -> U32:
        part = slice(start, start + _ROWS)
        return shingles.values.take(places(shingles.offsets[rows[part]], sizes[part]))

    # the places of all at once would take four times what they point to
    return Shingles(spilled.concatenated(threads.mapped(values, range(0, len(rows), _ROWS)), np.uint32), offsets)


def with_signs(shingles: Shingles, signs: U32) -> Shingles:
    """Return shingles that only texts with the same numbers and signs can share: others have an index of 0."""

    def signed(block: tuple[slice, U32, Ints]) -> U32:
        part, values, sizes = block
        return values ^ np.repeat(signs[part], sizes)

    return Shingles(spilled.concatenated(threads.mapped(signed, _blocks(shingles)), np.uint32), shingles.offsets)


def _blocks(shingles: Shingles) -> Iterator[tuple[slice, U32, Ints]]:
    """Yield some rows at a time: which, their shingles, and how many each has."""
    for start in range(0, len(shingles.offsets) - 1, _ROWS):
        offsets = shingles.offsets[start : start + _ROWS + 1]
        yield slice(start, start + _ROWS), shingles.values[offsets[0] : offsets[-1]], np.diff(offsets)


def common_to_most(shingles: Shingles) -> U32:
    """Return the shingles that stand in more than half of the rows, if there are at least `FEW` rows; sorted."""
    n = len(shingles.sizes)
    if n < FEW:
        return np.zeros(0, np.uint32)
    counted = np.zeros(1 << 20, np.int64)
    for _, values, _ in _blocks(shingles):
        counted += np.bincount(values >> np.uint32(12), minlength=1 << 20)
    often = counted > n / 2  # few prefixes are: count only what can be common
    held = [values[often[values >> np.uint32(12)]] for _, values, _ in _blocks(shingles)]
    values, counts = np.unique(np.concatenate(held), return_counts=True)
    return values[counts > n / 2]


def without(shingles: Shingles, common: U32) -> Shingles:
    """Return the rows without some shingles; a row that would lose all keeps them, for nothing resembles nothing."""
    if not len(common):
        return shingles
    sizes = []

    def left() -> Iterator[U32]:
        for _, values, n in _blocks(shingles):
            stays = ~np.isin(values, common)
            row = np.repeat(np.arange(len(n)), n)
            n_left = np.bincount(row[stays], minlength=len(n))
            stays |= (n_left == 0)[row]
            sizes.append(np.where(n_left == 0, n, n_left))
            yield values[stays]

    every = spilled.concatenated(left(), np.uint32)
    return Shingles(every, np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))]))
