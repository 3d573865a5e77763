"""Pairs of similar texts, proposed and verified, so that no row is called a duplicate by estimate.

Up to `EXACT_ROWS` rows every pair is compared; above, MinHash with locality-sensitive hashing proposes pairs (it
misses about 1 % of the pairs that sit exactly at the threshold, far fewer above it) and every proposed pair is
verified. `nearest` proposes by prefix filter and misses no pair.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from arislab.duplicates.shingles import ODD, U64, Floats, Ints, Shingles, chunks, mix, rows_of, threads, within
from arislab.system import spilled

EXACT_ROWS = 2_000
"""Up to here every pair is compared …"""
EXACT_WORK = 1_000_000_000
"""… unless the texts are so long that this many look-ups would not do."""
_PAIRS = 1 << 21  # pairs proposed at once
_CACHED_ROWS = 2_000  # rows whose shingles stay in the cache while all hashes are taken of them
_PAIR_WORDS = 1 << 22  # shingles compared at once: 32 MB


def similar_pairs(texts: list[Shingles], threshold: float) -> tuple[Ints, Ints]:
    """Return pairs of similar rows that connect every cluster."""
    n = len(texts[0].sizes)
    if compares_all(texts):
        pairs = [(np.full(len(later), i), later) for i, later, _ in all_pairs(texts, threshold, np.arange(n))]
        empty = np.zeros(0, dtype=np.int64)
        left, right = (np.concatenate([empty, *(pair[side] for pair in pairs)]) for side in (0, 1))
        return left, right
    # the first of its bucket and four neighbours: a chain through them is enough, a group needs no pair for each two
    codes = candidates(band_keys(texts, threshold), np.arange(n), 4)
    left, right, _ = verified(texts, codes % n, codes // n, threshold)
    return left, right


def compares_all(texts: list[Shingles]) -> bool:
    """Whether there are so few rows that each is compared with each."""
    n = len(texts[0].sizes)
    return n <= EXACT_ROWS and n * sum(len(column.values) for column in texts) <= EXACT_WORK


def all_pairs(texts: list[Shingles], threshold: float, star: Ints) -> Iterator[tuple[int, Ints, Floats]]:
    """Yield (row, similar later rows, similarities) for each row that is its own star when its turn comes."""
    columns = [(column, *np.unique(column.values, return_inverse=True)) for column in texts]
    for i in range(len(star) - 1):
        if star[i] != i:
            continue
        lowest = np.ones(len(star) - i - 1)
        for column, values, codes in columns:
            at = column.offsets
            here = np.zeros(len(values), dtype=np.int64)
            here[codes[at[i] : at[i + 1]]] = 1
            shared = np.add.reduceat(here[codes[at[i + 1] :]], at[i + 1 : -1] - at[i + 1])
            lowest = np.minimum(lowest, shared / (column.sizes[i] + column.sizes[i + 1 :] - shared))
        similar = np.flatnonzero((lowest >= threshold) & (star[i + 1 :] == np.arange(i + 1, len(star))))
        yield i, similar + i + 1, lowest[similar]


def bands_of(threshold: float) -> tuple[int, int]:
    """Return (bands, hashes per band): two rows at the threshold meet in a band with p = 0.1, in any with p = 0.99."""
    # a band of k hashes is shared with p = threshold ** k; at a threshold of 1 every k would do, and 0 has no logarithm
    n_hashes = 16 if threshold > 0.99 else min(16, max(1, round(math.log(0.1) / math.log(threshold))))
    missed = 1 - threshold**n_hashes
    return max(1, math.ceil(math.log(0.01) / math.log(missed))) if missed > 0 else 1, n_hashes


def band_keys(texts: list[Shingles], threshold: float) -> U64:
    """Return bands x rows keys; rows with equal keys in a band share its bucket.

    Rows that are similar in every column are similar in each one and in all taken together (the least hash of a union
    is the lesser of the two least hashes). So any of these views may propose; we take the one with the fewest
    collisions, because a long template in one column would throw thousands of rows into one bucket.
    """
    views = views_of(texts, threshold)
    best: U64 = min(views, key=lambda view: collisions(view[:4]))
    for band in best:
        band[:] = mix(band)
    return best


def views_of(texts: list[Shingles], threshold: float, *, most_bands: int | None = None) -> U64:
    """Return views x bands x rows keys that are not mixed yet: of each column, and of all together.

    Args:
        texts: Columns.
        threshold: Jaccard index that decides how many bands there are, and of how many hashes.
        most_bands: Only so many of them, the first.
    """
    n, (n_bands, n_hashes) = len(texts[0].sizes), bands_of(threshold)
    rng = np.random.default_rng(0)  # always the same hashes: what is a duplicate must not change from run to run
    flips = rng.integers(0, 1 << 32, (n_bands, n_hashes), dtype=np.uint32)
    factors = rng.integers(0, 1 << 31, (n_bands, n_hashes), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    n_bands = n_bands if most_bands is None else min(most_bands, n_bands)
    views: U64 = spilled.zeros((len(texts) + (len(texts) > 1), n_bands, n), np.uint64)

    def fill(start: int) -> None:
        stop = min(start + _CACHED_ROWS, n)
        parts = [
            (c.values[c.offsets[start] : c.offsets[stop]], c.offsets[start:stop] - c.offsets[start]) for c in texts
        ]
        for band in range(n_bands):
            for flip, factor in zip(flips[band], factors[band], strict=True):
                least = [np.minimum.reduceat((values ^ flip) * factor, at) for values, at in parts]
                for view, hashes in enumerate(least if len(least) == 1 else [*least, np.minimum.reduce(least)]):
                    # a polynomial of the band's hashes, built up in place
                    key = views[view, band, start:stop]
                    key *= ODD[0]
                    key += hashes

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(fill, range(0, n, _CACHED_ROWS)))
    return views


def collisions(keys: U64) -> float:
    """Return the number of pairs that share a bucket in a few bands."""
    counts = [np.unique(band, return_counts=True)[1].astype(float) for band in keys]
    return float(sum((c * (c - 1)).sum() for c in counts))


def candidates(keys: U64, rows: Ints, window: int) -> Ints:
    """Return distinct pairs of rows, each with the best row of its bucket and with `window` neighbours, as codes.

    The code of a pair is worse * n + better, n being the number of all rows. At most window + 1 pairs per row and
    band, however full the bucket is.
    """
    n = keys.shape[1]
    proposed = np.zeros(0, dtype=np.int64)
    for band in keys:
        held = rows[_may_share(band[rows])]
        proposed = distinct(np.concatenate([proposed, within_buckets(band[held], held, n, window)]))
    return proposed


def within_buckets(keys: U64, rows: Ints, n: int, window: int) -> Ints:
    """Return the pairs of ``candidates`` that one band gives.

    Args:
        keys: Of the rows, in this band.
        rows: Ascending.
        n: Number of all rows.
        window: As in ``candidates``.
    """
    order = np.argsort(keys, kind="stable")  # `rows` is ascending, so a bucket is in order of preference
    ordered = keys[order]
    same = np.concatenate([np.zeros(min(1, len(keys)), dtype=bool), ordered[1:] == ordered[:-1]])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    position = np.flatnonzero(same)
    partners = [first[position], *(np.maximum(position - d, first[position]) for d in range(1, window + 1))]
    pairs = [rows[order[position]] * n + rows[order[partner]] for partner in partners]
    return distinct(np.concatenate([distinct(codes) for codes in pairs]))


def _may_share(keys: U64) -> NDArray[np.bool_]:
    """Mark all rows whose key another one has, and a few more: most have none, and need not be sorted."""
    slots = (keys >> np.uint64(44)).astype(np.int64)
    return (np.bincount(slots, minlength=1 << 20) > 1)[slots]


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
    own, other = rows_of(shingles, left), rows_of(shingles, right)
    ordered = np.sort(other.values)
    n_holders = np.searchsorted(ordered, own.values, "right") - np.searchsorted(ordered, own.values, "left")
    row = np.repeat(np.arange(len(left)), own.sizes)
    rarest = np.lexsort((n_holders, row))
    # less a little: 0.55 * 100 is 55.00000000000001 here, and one shingle fewer looked up would miss pairs
    n_looked_up = own.sizes - np.ceil(threshold * own.sizes - 1e-9).astype(np.int64) + 1
    rank = np.arange(len(rarest)) - own.offsets[row]
    looked_up = rarest[(rank < n_looked_up[row]) & (n_holders[rarest] > 0)]
    wanted = own.values[looked_up]
    table = np.zeros(1 << 24, dtype=bool)  # of prefixes: it rules most shingles out before anything is sorted
    table[wanted >> np.uint32(8)] = True
    at = np.flatnonzero(table[other.values >> np.uint32(8)])
    at = at[np.argsort(other.values[at], kind="stable")]
    low, high = (np.searchsorted(other.values[at], wanted, side) for side in ("left", "right"))
    holder = np.searchsorted(other.offsets, at, "right") - 1
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in chunks(high - low, _PAIRS):
        n = (high - low)[part]
        held = holder[within(n) + np.repeat(low[part], n)]
        codes = distinct(np.repeat(row[looked_up[part]], n) * len(right) + held)
        parts.append(verified([shingles], left[codes // len(right)], right[codes % len(right)], threshold))
    a, b, score = (np.concatenate(side) for side in zip(*parts, strict=True))
    best = np.lexsort((b, -score, a))
    best = best[np.concatenate([[True], a[best][1:] != a[best][:-1]])] if len(best) else best
    return a[best], b[best], score[best]


def _jaccard(column: Shingles, left: Ints, right: Ints) -> Floats:
    """Return the exact Jaccard index of each pair: sort both sets together, count the neighbours that are equal."""
    result = np.empty(len(left))
    for part in chunks(column.sizes[left] + column.sizes[right], _PAIR_WORDS):
        keys = []
        for side in (left[part], right[part]):
            sizes = column.sizes[side]
            values = column.values[np.repeat(column.offsets[side], sizes) + within(sizes)]
            keys.append((np.repeat(np.arange(len(side)), sizes).astype(np.uint64) << np.uint64(32)) | values)
        merged = np.sort(np.concatenate(keys))
        twice = merged[1:][merged[1:] == merged[:-1]] >> np.uint64(32)
        shared = np.bincount(twice.astype(np.int64), minlength=len(left[part]))
        result[part] = shared / (column.sizes[left[part]] + column.sizes[right[part]] - shared)
    return result
