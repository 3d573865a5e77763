"""Pairs of similar texts, proposed and verified, so that no row is called a duplicate by estimate.

Up to `EXACT_ROWS` rows every pair is compared; above, MinHash with locality-sensitive hashing proposes pairs (it
misses about 1 % of the pairs that sit exactly at the threshold, far fewer above it) and every proposed pair is
verified. Of rows that share their question with few others every pair is compared then too (``same_question``): the
hashes are of questions alone. `nearest` proposes by prefix filter and misses no pair.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from arislab.duplicates.shingles import (
    ODD,
    U32,
    U64,
    Floats,
    Ints,
    Shingles,
    chunks,
    counted,
    mix,
    once,
    places,
    rows_of,
    within,
)
from arislab.system import spilled, threads

EXACT_ROWS = 2_000
"""Up to here every pair is compared …"""
EXACT_WORK = 1_000_000_000
"""… unless the texts are so long that this many look-ups would not do."""
_PAIRS = 1 << 21  # pairs proposed at once
_HASHED = 400_000
"""Shingles of which hashes are taken at once: more leave the cache, of fewer the threads wait for Python's lock."""
_FIRST = 3  # hashes of a band after which most rows are known to be alone
TRIED = 2
"""Bands by which it is judged in which view rows collide least."""
Hashes = tuple[U32, U32]
"""Flips and factors of the hashes of a band."""
COUNTED = 1 << 23
"""Shingles of which it is known whether several rows have each: of more it takes too much memory."""
_KEYS = 1 << 25  # keys begun at once: 256 MB
_PAIR_WORDS = 1 << 19  # shingles compared at once; what it takes fits the cache


def similar_pairs(texts: list[Shingles], threshold: float) -> tuple[Ints, Ints]:
    """Return pairs of similar rows that connect every cluster."""
    n = len(texts[0].sizes)
    if compares_all(texts):
        pairs = [(np.full(len(later), i), later) for i, later, _ in all_pairs(texts, threshold, np.arange(n))]
        empty = np.zeros(0, dtype=np.int64)
        left, right = (np.concatenate([empty, *(pair[side] for pair in pairs)]) for side in (0, 1))
        return left, right
    # the first of its bucket and four neighbours: a chain through them is enough, a group needs no pair for each two
    codes = candidates(buckets_of_few(texts, threshold), np.arange(n), 4)
    left, right, _ = verified(texts, codes % n, codes // n, threshold)
    return left, right


def compares_all(texts: list[Shingles]) -> bool:
    """Whether there are so few rows that each is compared with each."""
    n = len(texts[0].sizes)
    return n <= EXACT_ROWS and n * sum(len(column.values) for column in texts) <= EXACT_WORK


def all_pairs(texts: list[Shingles], threshold: float, star: Ints) -> Iterator[tuple[int, Ints, Floats]]:
    """Yield (row, similar later rows, similarities) for each row that is its own star when its turn comes."""
    columns = [(column, column.sizes, *np.unique(column.values, return_inverse=True)) for column in texts]
    for i in range(len(star) - 1):
        if star[i] != i:
            continue
        lowest = np.ones(len(star) - i - 1)
        for column, sizes, values, codes in columns:
            at = column.offsets
            here = np.zeros(len(values), dtype=np.int64)
            here[codes[at[i] : at[i + 1]]] = 1
            shared = np.add.reduceat(here[codes[at[i + 1] :]], at[i + 1 : -1] - at[i + 1])
            lowest = np.minimum(lowest, shared / (sizes[i] + sizes[i + 1 :] - shared))
        similar = np.flatnonzero((lowest >= threshold) & (star[i + 1 :] == np.arange(i + 1, len(star))))
        yield i, similar + i + 1, lowest[similar]


def _bands(threshold: float) -> tuple[int, int]:
    """Return (bands, hashes per band): two rows at the threshold meet in a band with p = 0.1, in any with p = 0.99."""
    # a band of k hashes is shared with p = threshold ** k; at a threshold of 1 every k would do, and 0 has no logarithm
    n_hashes = 16 if threshold > 0.99 else min(16, max(1, round(math.log(0.1) / math.log(threshold))))
    missed = 1 - threshold**n_hashes
    return max(1, math.ceil(math.log(0.01) / math.log(missed))) if missed > 0 else 1, n_hashes


@dataclass(frozen=True)
class Buckets:
    """Rows that share a bucket of a band with others."""

    n: int
    """All rows, of which most share none."""
    bands: list[tuple[Ints, Ints]]
    """Of each band the rows, bucket after bucket and ascending in each, and the number of their bucket."""

    @property
    def n_pairs(self) -> float:
        """Pairs that share a bucket, each once in both orders."""
        counts = [np.bincount(number).astype(float) for _, number in self.bands]
        return float(sum((c * (c - 1)).sum() for c in counts))


def buckets(texts: list[Shingles], threshold: float) -> Buckets:
    """Return the rows whose hashes agree in a band.

    Rows that are similar in every column are similar in each one and in all taken together (the least hash of a union
    is the lesser of the two least hashes). So any of these views may propose; we take the one with the fewest
    collisions, because a long template in one column would throw thousands of rows into one bucket.
    """
    hashes = hashes_of(threshold)
    tried = [(_banded(view, hashes[:TRIED]), view) for view in views_of(texts)]
    best, view = min(tried, key=lambda one: one[0].n_pairs)
    return Buckets(best.n, best.bands + _banded(view, hashes[TRIED:]).bands)


def buckets_of_few(texts: list[Shingles], threshold: float) -> Buckets:
    """Return the same buckets without rows that are similar to no other: too many of their shingles are theirs alone.

    Of more than `COUNTED` shingles all rows are in them.
    """
    n = len(texts[0].offsets) - 1
    if sum(len(column.values) for column in texts) > COUNTED:
        return buckets(texts, threshold)
    some = np.flatnonzero(np.logical_and.reduce([_shares(column, threshold) for column in texts]))
    held = buckets([rows_of(column, some) for column in texts], threshold)
    return Buckets(n, [(some[rows], number) for rows, number in held.bands])


def _shares(column: Shingles, threshold: float) -> NDArray[np.bool_]:
    """Return which rows share with others as many shingles as two similar rows do, or maybe so."""
    values, sizes, bits = column.values, column.sizes, len(column.values).bit_length() + 1
    slots = ((values * ODD[0]) >> np.uint64(64 - bits)).astype(np.int64)
    number = np.arange(len(values), dtype=np.int32)
    holder = np.empty(1 << bits, np.int32)
    holder[slots] = number
    is_shared = np.zeros(len(holder), dtype=np.bool_)  # two shingles may have one slot: then of both it is not known
    is_shared[slots[holder[slots] != number]] = True
    n_shared = counted(is_shared[slots], sizes)
    return n_shared >= threshold * sizes - 1e-9  # each has all that both have, which is this share of it or more


def hashes_of(threshold: float) -> list[Hashes]:
    """Return the hashes of each band."""
    n_bands, n_hashes = _bands(threshold)
    rng = np.random.default_rng(0)  # always the same hashes: what is a duplicate must not change from run to run
    flips = rng.integers(0, 1 << 32, (n_bands, n_hashes), dtype=np.uint32)
    factors = rng.integers(0, 1 << 31, (n_bands, n_hashes), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return list(zip(flips, factors, strict=True))


def views_of(texts: list[Shingles]) -> list[list[Shingles]]:
    """Return what may propose pairs: each column, and all columns together."""
    return [[column] for column in texts] + ([texts] if len(texts) > 1 else [])


def keys_of(texts: list[Shingles], hashes: list[Hashes]) -> U64:
    """Return bands x rows: the key of each row, whole, of all columns together."""
    n = len(texts[0].sizes)
    keys = np.zeros((len(hashes), n), np.uint64)
    step = _step(texts)
    for start in range(0, n, step):
        values, at = _joined(texts, slice(start, min(start + step, n)))
        for (flips, factors), key in zip(hashes, keys[:, start : start + step], strict=True):
            _hash(key, values, at, flips, factors)
    return keys


def _step(texts: list[Shingles]) -> int:
    """Rows that have, as a mean, as many shingles as are hashed at once."""
    n = max(1, len(texts[0].sizes))
    return max(1, _HASHED * n // max(n, sum(len(column.values) for column in texts)))


def _banded(texts: list[Shingles], hashes: list[Hashes]) -> Buckets:
    """Return the buckets of all columns together, for some bands.

    Two rows that differ in the first hashes of a band differ in the band, and most rows do: the other hashes are taken
    of those alone that share the first ones with another row.
    """
    n, sizes = len(texts[0].sizes), list[int]()
    step, n_rows = max(1, _KEYS // max(n, 1)), _step(texts)

    def bands() -> Iterator[Ints]:
        with ThreadPoolExecutor(threads.count()) as pool:
            for first in range(0, len(hashes), step):
                some = hashes[first : first + step]
                begun = np.zeros((len(some), n), np.uint64)
                list(pool.map(partial(_begin, texts, some, begun, n_rows), range(0, n, n_rows)))
                for rows, number in pool.map(partial(_finished, texts), some, begun):
                    sizes.append(len(rows))
                    yield np.concatenate([rows, number])

    held = spilled.concatenated(bands(), np.int64)
    ends = 2 * np.cumsum(sizes, dtype=np.int64)
    both = [held[end - 2 * size : end].reshape(2, size) for end, size in zip(ends, sizes, strict=True)]
    return Buckets(n, [(rows, number) for rows, number in both])


def _begin(texts: list[Shingles], hashes: list[Hashes], keys: U64, n_rows: int, start: int) -> None:
    """Fill in the keys of a few rows, one a band, as far as its first hashes make them."""
    stop = min(start + n_rows, keys.shape[1])
    values, at = _joined(texts, slice(start, stop))
    for (flips, factors), key in zip(hashes, keys[:, start:stop], strict=True):
        _hash(key, values, at, flips[:_FIRST], factors[:_FIRST])


def _hash(key: U64, values: U32, at: Ints, flips: U32, factors: U32) -> None:
    """Go on with the key of each row: a polynomial of its least hashes, built up in place."""
    for flip, factor in zip(flips, factors, strict=True):
        hashed = values ^ flip
        hashed *= factor
        key *= ODD[0]
        key += np.minimum.reduceat(hashed, at)


def _finished(texts: list[Shingles], band: Hashes, begun: U64) -> tuple[Ints, Ints]:
    """Return the rows of a band that share a bucket, bucket after bucket, and the number of it."""
    rows = _sharing(begun)
    keys, step = begun[rows], _step(texts)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        _hash(keys[part], *_joined(texts, rows[part]), *(numbers[_FIRST:] for numbers in band))
    order = np.argsort(keys, kind="stable")  # `rows` are ascending, so a bucket is in order of preference
    ordered = keys[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    number = np.cumsum(is_new) - 1
    shared = (np.bincount(number) > 1)[number]
    return rows[order[shared]], number[shared]


def _sharing(keys: U64) -> Ints:
    """Return all rows whose key another one has, ascending, and few more; nothing is sorted, for most share none."""
    parts = max(0, len(keys).bit_length() - _SHARED_BITS)  # by the last bits: what is done at once is bounded
    if not parts:
        return _sharing_of(keys, np.arange(len(keys)))
    last = np.empty(len(keys), np.uint16)
    for start in range(0, len(keys), _SHINGLES):
        some = slice(start, start + _SHINGLES)
        last[some] = mix(keys[some]) & np.uint64((1 << parts) - 1)
    every = (_sharing_of(keys, np.flatnonzero(last == part)) for part in range(1 << parts))
    return np.sort(np.concatenate(list(every)))


_SHARED_BITS = 22
"""Bits of the number of keys whose slots are counted at once."""


def _sharing_of(keys: U64, rows: Ints) -> Ints:
    """Return those of some rows whose key another of them has, and few more."""
    mixed, bits = mix(keys[rows]), max(20, len(rows).bit_length() + 2)
    for shift in (64 - bits, max(0, 64 - 2 * bits)):
        slots = ((mixed >> np.uint64(shift)) & np.uint64((1 << bits) - 1)).astype(np.int64)
        is_shared = (np.bincount(slots, minlength=1 << bits) > 1)[slots]
        rows, mixed = rows[is_shared], mixed[is_shared]
    return rows


def _joined(texts: list[Shingles], rows: Ints | slice) -> tuple[U32, Ints]:
    """Return the shingles of some rows, those of all columns of a row together, and where each row begins."""
    if isinstance(rows, slice):
        if len(texts) == 1:
            offsets = texts[0].offsets[rows.start : rows.stop + 1]
            return texts[0].values[offsets[0] : offsets[-1]], offsets[:-1] - offsets[0]
        rows = np.arange(rows.start, rows.stop)
    sizes = [column.offsets[rows + 1] - column.offsets[rows] for column in texts]
    total = np.sum(sizes, axis=0)
    starts = np.cumsum(total) - total
    if len(texts) == 1:
        return texts[0].values.take(places(texts[0].offsets[rows], sizes[0])), starts
    values, at = np.empty(total.sum(), np.uint32), starts
    for column, n in zip(texts, sizes, strict=True):
        values[places(at, n)] = column.values.take(places(column.offsets[rows], n))
        at = at + n
    return values, starts


def candidates(held: Buckets, rows: Ints, window: int) -> Ints:
    """Return distinct pairs of rows, each with the best row of its bucket and with `window` neighbours, as codes.

    The code of a pair is worse * n + better, n being the number of all rows. At most window + 1 pairs per row and
    band, however full the bucket is.
    """
    is_one = np.zeros(held.n, dtype=bool)
    is_one[rows] = True
    proposed = np.zeros(0, dtype=np.int64)
    for members, bucket in held.bands:
        some = is_one[members]
        ordered, number = members[some], bucket[some]
        same = np.concatenate([[False], number[1:] == number[:-1]])[: len(number)]
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(number))))
        position = np.flatnonzero(same)
        partners = [first[position], *(np.maximum(position - d, first[position]) for d in range(1, window + 1))]
        pairs = [ordered[position] * held.n + ordered[partner] for partner in partners]
        proposed = distinct(np.concatenate([proposed, *(distinct(codes) for codes in pairs)]))
    return proposed


def distinct(codes: Ints) -> Ints:
    """Return the sorted distinct values (`np.unique` hashes, which is many times slower on such codes)."""
    ordered = np.sort(codes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def verified(texts: list[Shingles], left: Ints, right: Ints, threshold: float) -> tuple[Ints, Ints, Floats]:
    """Return the pairs that are similar in every column, with the lowest Jaccard index over the columns."""
    lowest = np.ones(len(left))
    for column in sorted(texts, key=lambda shingles: len(shingles.values)):  # the short texts rule most pairs out
        small, large = np.sort([column.sizes[left], column.sizes[right]], axis=0)
        fits = small >= threshold * large - 1e-9  # the index cannot exceed the ratio of sizes
        left, right, lowest = left[fits], right[fits], lowest[fits]
        lowest = np.minimum(lowest, _jaccard(column, left, right))
        similar = lowest >= threshold
        left, right, lowest = left[similar], right[similar], lowest[similar]
    return left, right, lowest


def nearest(shingles: Shingles, left: Ints, right: Ints, threshold: float) -> tuple[Ints, Ints, Floats]:
    """Return for each row of `left` that resembles one of `right` the one it resembles most, and how much.

    Prefix filter: a row with an index of t or more shares at least t of its n shingles, so one of any n - t + 1 of
    them; the rarest are looked up. No pair is missed.

    Source:
        Chaudhuri, Ganti and Kaushik 2006.
    """
    left, right = np.sort(left), np.sort(right)
    sizes, other = shingles.offsets[left + 1] - shingles.offsets[left], rows_of(shingles, right)
    shift = np.uint32(32 - min(22, max(8, len(other.values).bit_length() + 1)))
    n_holders = np.zeros(1 << (32 - int(shift)), np.int64)  # by the first bits of a shingle: roughly which are rare
    for start in range(0, len(other.values), _SHINGLES):
        n_holders += np.bincount(other.values[start : start + _SHINGLES] >> shift, minlength=len(n_holders))
    # less a little: 0.55 * 100 is 55.00000000000001 here, and one shingle fewer looked up would miss pairs
    n_looked_up = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    alike, highest = np.full(len(left), -1), np.zeros(len(left))
    for some in chunks(n_looked_up, _SHINGLES):
        looked_up = [
            _rarest(
                rows_of(shingles, left[some][part]), n_looked_up[some][part], n_holders, shift, some.start + part.start
            )
            for part in chunks(sizes[some], _SHINGLES)
        ]
        wanted, row = (np.concatenate(side) for side in zip(*looked_up, strict=True))
        order = np.argsort(wanted, kind="stable")
        for a, b in _holding(wanted[order], row[order], other, shift):
            one, two, score = verified([shingles], left[a], right[b], threshold)
            best = np.lexsort((two, -score, one))
            best = best[np.concatenate([[True], one[best][1:] != one[best][:-1]])] if len(best) else best
            at = np.searchsorted(left, one[best])
            is_more = score[best] > highest[at]  # of equal ones the first stays: they come in order
            alike[at[is_more]], highest[at[is_more]] = two[best][is_more], score[best][is_more]
    found = np.flatnonzero(alike >= 0)
    return left[found], alike[found], highest[found]


_SHINGLES = 1 << 21
"""Shingles that are looked at, or looked up, at once."""


def _rarest(own: Shingles, n_looked_up: Ints, n_holders: Ints, shift: np.uint32, start: int) -> tuple[U32, Ints]:
    """Return the rarest shingles of rows, so many of each as are looked up and somebody may hold, and whose each is."""
    row = np.repeat(np.arange(len(n_looked_up)), own.sizes)
    held = n_holders[own.values >> shift]
    rarest = np.lexsort((held, row))
    rank = np.arange(len(rarest)) - own.offsets[row]
    rarest = rarest[(rank < n_looked_up[row]) & (held[rarest] > 0)]
    return own.values[rarest], row[rarest] + start


def _holding(wanted: U32, row: Ints, other: Shingles, shift: np.uint32) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of a row that looks a shingle up and one that holds it, some at a time, the first holders first.

    ``wanted`` is sorted.
    """
    is_wanted = np.zeros(1 << (32 - int(shift)), dtype=bool)  # it rules most shingles out before any is searched
    is_wanted[wanted >> shift] = True
    n = len(other.offsets) - 1
    for part in chunks(np.diff(other.offsets), _SHINGLES):
        values = other.values[other.offsets[part.start] : other.offsets[part.stop]]
        at = np.flatnonzero(is_wanted[values >> shift])
        low, high = (np.searchsorted(wanted, values[at], side) for side in ("left", "right"))
        at, low, high = at[high > low], low[high > low], high[high > low]
        holder = np.searchsorted(other.offsets, at + other.offsets[part.start], "right") - 1
        for some in chunks(high - low, _PAIRS):
            many = (high - low)[some]
            codes = distinct(row[within(many) + np.repeat(low[some], many)] * n + np.repeat(holder[some], many))
            yield codes // n, codes % n


def _jaccard(column: Shingles, left: Ints, right: Ints) -> Floats:
    """Return the exact Jaccard index of each pair."""
    shared, sizes = _n_shared(column, left, right), column.sizes
    return shared / (sizes[left] + sizes[right] - shared)


def _n_shared(column: Shingles, left: Ints, right: Ints) -> Ints:
    """Return how many shingles each pair shares: what stands in both sets stands twice in the two together."""
    sizes = column.sizes

    def shared(part: slice) -> Ints:
        keys = []
        for side in (left[part], right[part]):
            pair = np.repeat(np.arange(len(side), dtype=np.uint64), sizes[side])
            keys.append((pair << np.uint64(32)) | column.values[places(column.offsets[side], sizes[side])])
        merged = np.concatenate(keys)
        twice = merged[~once(merged)] >> np.uint64(32)
        return np.bincount(twice.astype(np.int64), minlength=len(left[part]))

    parts = threads.mapped(shared, chunks(sizes[left] + sizes[right], _PAIR_WORDS))
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
