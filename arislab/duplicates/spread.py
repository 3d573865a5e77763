"""Near-duplicates by many processors: as ``clusters.stars``, with shingles, keys, buckets and comparisons in an engine.

Here are only the numbers of rows that share a bucket, of the pairs that these propose, and of the rows that they went
to: some tens of bytes for each row. Texts are sent once. What is computed of a block of rows does not depend on the
block, so results are those of one process, bit for bit.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.cluster import Cluster, Rows
from arislab.duplicates.pairs import COUNTED, TRIED, Buckets, Hashes, candidates, hashes_of, keys_of, verified, views_of
from arislab.duplicates.resolving import greedy, resolved
from arislab.duplicates.same_question import asked_alike, asked_alike_here
from arislab.duplicates.shingles import (
    FEW,
    U32,
    U64,
    Floats,
    Ints,
    Shingles,
    mix,
    rows_of,
    shingles_of,
    with_signs,
    without,
)
from arislab.system import spilled
from arislab.system.equals import first_of, numbered

_KEYS = 2_000_000
"""Keys in one part of the buckets, roughly: 21 bytes each."""
Table = Any
"""A pyarrow.Table."""


def stars(
    texts: pl.DataFrame, engine: Cluster, *, threshold: float, questions: Sequence[str] = ()
) -> tuple[Ints, Floats]:
    """Return what ``clusters.stars`` does for distinct rows, more than ``pairs.EXACT_ROWS`` of them.

    Args:
        texts: String columns without nulls, best first.
        engine: From ``cluster.connect``.
        threshold: As there.
        questions: As there.
    """
    n, names = texts.height, [f"text_{i}" for i in range(texts.width)]  # whatever they are called
    asked = [name for name, column in zip(names, texts.columns, strict=True) if column in questions]
    signed, forms = _texts(texts.rename(dict(zip(texts.columns, names, strict=True))), engine, asked)
    verify = partial(_verified, signed, engine, names, threshold)
    if asked:
        pairs = _asked_alike(signed, engine, asked[0], forms[asked[0]], threshold)
        if pairs is not None:
            none = np.zeros((2, 0), dtype=np.int64)
            return greedy(*verify(*np.concatenate([none, *map(np.stack, pairs)], axis=1)), n)
    held = _buckets(signed, names, n, threshold)
    return resolved(n, lambda kept, window: candidates(held, kept, window), verify)


def _verified(
    signed: Rows, engine: Cluster, names: Sequence[str], threshold: float, left: Ints, right: Ints
) -> tuple[Ints, Ints, Floats]:
    """What ``pairs.verified`` returns of some columns, in any order."""
    import pyarrow as pa

    if not len(left):
        return left, right, np.zeros(0)
    pairs = engine.rows(pa.table({"left": left, "right": right}))
    for side in ("left", "right"):
        of_side = signed.renamed({"row": side} | {name: f"{side}_{name}" for name in names})
        pairs = pairs.joined(of_side, side)
    compared = pairs.map(
        partial(_compared, names=names, threshold=threshold),
        _schema(left="int64", right="int64", score="float64"),
    )
    a, b, score = _columns(compared, left=np.int64, right=np.int64, score=np.float64)
    return a, b, score


def _asked_alike(
    signed: Rows, engine: Cluster, name: str, form: U64, threshold: float
) -> Iterator[tuple[Ints, Ints]] | None:
    """What ``same_question.asked_alike`` returns, of one column of questions and the hashes of its normal forms."""
    number, some = numbered(first_of(form))
    place = np.full(len(form), -1, dtype=np.int32)  # it goes to each worker
    place[some] = np.arange(len(some))
    one_each = signed.map(partial(_numbered, name=name, place=place), _schema(row="int64", **{name: "shingles"}))
    (sizes,) = _columns(one_each.map(partial(_sized, name=name), _schema(n="int64")), n=np.int64)
    if sizes.sum() <= COUNTED:
        return asked_alike_here(number, _fetched(one_each, name), threshold)
    return asked_alike(
        number,
        lambda: _buckets(one_each, [name], len(some), threshold),
        partial(_verified, one_each, engine, [name], threshold),
    )


def _numbered(table: Table, name: str, place: NDArray[np.int32]) -> Table:
    """The rows that have a number, one a question, under that number."""
    import pyarrow as pa

    number = place[np.array(table["row"])].astype(np.int64)
    rows = np.flatnonzero(number >= 0)
    return pa.table({"row": number[rows], name: _as_list(rows_of(_of_list(table[name]), rows))})


def _sized(table: Table, name: str) -> Table:
    """How many shingles each row has."""
    import pyarrow as pa

    return pa.table({"n": _of_list(table[name]).sizes})


def _fetched(rows: Rows, name: str) -> Shingles:
    """A column of shingles here, in the order of the rows."""
    numbers, values, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for batch in rows.batches(["row", name]):
        some = _of_list(batch.column(name))
        numbers.append(np.array(batch.column("row")))
        values.append(some.values)
        sizes.append(some.sizes)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return rows_of(Shingles(np.concatenate(values), offsets), np.argsort(np.concatenate(numbers)))


def _texts(texts: pl.DataFrame, engine: Cluster, questions: Sequence[str]) -> tuple[Rows, dict[str, U64]]:
    """The shingles of each row that two similar ones share, and hashes of the normal forms of questions."""
    names = texts.columns
    schema = _hashed_schema(names, questions)
    hashed = partial(_hashed, names=names, asked=questions)
    rows = first = (
        engine.rows(spilled.arrow(texts.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))))
        .map(hashed, schema)
        .kept()
    )
    forms = {name: _forms(first, name, texts.height) for name in questions}
    for name in questions:
        rows = rows.map(partial(_without, name=name, common=_common(first, name, forms[name])), schema)
    signed = _schema(row="int64", **dict.fromkeys(names, "shingles"))
    return rows.map(partial(_signed, names=names), signed).kept(), forms


def _schema(**columns: str) -> Any:
    import pyarrow as pa

    types = {"shingles": pa.large_list(pa.uint32())}
    return pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])


def _hashed_schema(names: Sequence[str], asked: Sequence[str]) -> Any:
    signs, forms = {f"{name}_signs": "uint32" for name in names}, {f"{name}_form": "uint64" for name in asked}
    return _schema(row="int64", **dict.fromkeys(names, "shingles"), **signs, **forms)


def _columns(rows: Rows, **dtypes: Any) -> tuple[Any, ...]:
    """Some columns of numbers, whole."""
    parts: dict[str, list[Any]] = {name: [np.zeros(0, dtype)] for name, dtype in dtypes.items()}
    for batch in rows.batches(list(dtypes)):
        for name in dtypes:
            parts[name].append(np.array(batch.column(name)))
    return tuple(np.concatenate(parts[name]) for name in dtypes)


def _hashed(table: Table, names: Sequence[str], asked: Sequence[str]) -> Table:
    """Shingles and signs of each text, and of a question a hash of its normal form."""
    import pyarrow as pa

    made = {"row": table["row"]}
    for salt, name in enumerate(names):  # salted as in `columns_of`
        texts = pl.Series(table[name].to_pylist(), dtype=pl.String)
        shingles, signs, form = shingles_of(texts, salt=salt, is_whole=name in asked)
        made |= {name: _as_list(shingles), f"{name}_signs": pa.array(signs)}
        made |= {f"{name}_form": pa.array(form)} if name in asked else {}
    return pa.table(made)


def _without(table: Table, name: str, common: U32) -> Table:
    """Less the shingles that stand in most texts."""
    at = table.column_names.index(name)
    return table.set_column(at, name, _as_list(without(_of_list(table[name]), common)))


def _signed(table: Table, names: Sequence[str]) -> Table:
    """Shingles that only texts with the same numbers and signs share."""
    import pyarrow as pa

    signs = {name: np.array(table[f"{name}_signs"]) for name in names}
    return pa.table(
        {"row": table["row"]} | {name: _as_list(with_signs(_of_list(table[name]), signs[name])) for name in names}
    )


def _forms(hashed: Rows, name: str, n: int) -> U64:
    """A hash of the normal form of each row."""
    row, form = _columns(hashed, row=np.int64, **{f"{name}_form": np.uint64})
    forms = np.zeros(n, np.uint64)
    forms[row] = form
    return forms


def _common(hashed: Rows, name: str, forms: U64) -> U32:
    """What ``shingles.common_to_most`` finds among the distinct normal forms of a column, counted by the engine."""
    judged = np.zeros(len(forms), dtype=bool)
    judged[np.unique(first_of(forms))] = True
    n_judged = int(judged.sum())
    if n_judged < FEW:
        return np.zeros(0, np.uint32)
    schema = _schema(value="uint32", n="int64")
    counts = hashed.map(partial(_counted, name=name, judged=judged, often=None), schema)
    value, count = _columns(counts, value=np.uint32, n=np.int64)
    often = np.bincount(value, count, minlength=1 << 20) > n_judged / 2  # few prefixes are: count what can be common
    if not often.any():
        return np.zeros(0, np.uint32)
    counts = hashed.map(partial(_counted, name=name, judged=judged, often=often), schema)
    value, count = _columns(counts, value=np.uint32, n=np.int64)
    values, place = np.unique(value, return_inverse=True)
    return values[np.bincount(place, count, minlength=len(values)) > n_judged / 2]


def _counted(table: Table, name: str, judged: Any, often: Any) -> Table:
    """How often each shingle, or with no ``often`` each of their prefixes, stands in the rows that are judged by."""
    import pyarrow as pa

    rows = np.flatnonzero(judged[np.array(table["row"])])
    values = rows_of(_of_list(table[name]), rows).values
    prefixes = values >> np.uint32(12)
    value, count = np.unique(prefixes if often is None else values[often[prefixes]], return_counts=True)
    return pa.table({"value": value.astype(np.uint32), "n": count.astype(np.int64)})


def _buckets(signed: Rows, names: Sequence[str], n: int, threshold: float) -> Buckets:
    """What ``pairs.buckets`` returns, found by the engine: rows that share none stay there."""
    hashes, n_views = hashes_of(threshold), len(names) + (len(names) > 1)

    def shared(views: Sequence[int], bands: list[Hashes]) -> tuple[Any, ...]:
        n_parts = 1 + n * len(bands) * len(views) // _KEYS
        keyed = partial(_keyed, names=names, views=views, hashes=bands, n_parts=n_parts)
        keys = signed.map(keyed, _schema(part="int32", view="uint8", band="uint8", key="uint64", row="int64"))
        shared = keys.grouped("part", _sharing, _schema(view="uint8", band="uint8", key="uint64", row="int64"))
        return _columns(shared, view=np.uint8, band=np.uint8, key=np.uint64, row=np.int64)

    of_view, *keys = shared(range(n_views), hashes[:TRIED])
    tried = [_held(n, len(hashes[:TRIED]), *(part[of_view == view] for part in keys)) for view in range(n_views)]
    best = min(range(n_views), key=lambda view: tried[view].n_pairs)
    _, *keys = shared([best], hashes[TRIED:])
    return Buckets(n, tried[best].bands + _held(n, len(hashes[TRIED:]), *keys).bands)


def _held(n: int, n_bands: int, band: Any, key: Any, row: Ints) -> Buckets:
    """Rows that share a key in a band, as buckets."""
    order = np.lexsort((row, key, band))
    ends = np.searchsorted(band[order], np.arange(n_bands + 1))
    bands = []
    for low, high in pairwise(ends):
        here = order[low:high]
        is_new = np.concatenate([[True], key[here][1:] != key[here][:-1]])[: len(here)]
        bands.append((row[here], np.cumsum(is_new) - 1))
    return Buckets(n, bands)


def _keyed(table: Table, names: Sequence[str], views: Sequence[int], hashes: list[Hashes], n_parts: int) -> Table:
    """The keys of each row in some views, one row a view and band; rows of one bucket get to one part."""
    import pyarrow as pa

    of_view = views_of([_of_list(table[name]) for name in names])
    rows, n_bands = np.array(table["row"]), len(hashes)
    key = np.concatenate([keys_of(of_view[view], hashes).ravel() for view in views])
    return pa.table(
        {
            # mixed: the low bits of a sum of products depend on few
            "part": ((mix(key) >> np.uint64(8)) % np.uint64(n_parts)).astype(np.int32),
            "view": np.repeat(np.array(views, dtype=np.uint8), n_bands * len(rows)),
            "band": np.tile(np.repeat(np.arange(n_bands, dtype=np.uint8), len(rows)), len(views)),
            "key": key,
            "row": np.tile(rows, n_bands * len(views)),
        }
    )


def _sharing(table: Table) -> Table:
    """The rows of a part that share a bucket with another."""
    view, band, key = (np.array(table[name]) for name in ("view", "band", "key"))
    order = np.lexsort((band, view, key))
    same = (view[order][1:] == view[order][:-1]) & (band[order][1:] == band[order][:-1])
    same &= key[order][1:] == key[order][:-1]
    both = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    return table.take(np.sort(order[both])).select(["view", "band", "key", "row"])


def _compared(table: Table, names: Sequence[str], threshold: float) -> Table:
    """The pairs that are similar, and how much."""
    import pyarrow as pa

    n = len(table)
    texts = [_below(_of_list(table[f"left_{name}"]), _of_list(table[f"right_{name}"])) for name in names]
    pair, _, score = verified(texts, np.arange(n), np.arange(n) + n, threshold)
    left, right = (np.array(table[side])[pair] for side in ("left", "right"))
    return pa.table({"left": left, "right": right, "score": score})


def _below(upper: Shingles, lower: Shingles) -> Shingles:
    return Shingles(
        np.concatenate([upper.values, lower.values]),
        np.concatenate([upper.offsets, lower.offsets[1:] + upper.offsets[-1]]),
    )


def _as_list(shingles: Shingles) -> Any:
    import pyarrow as pa

    return pa.LargeListArray.from_arrays(pa.array(shingles.offsets), pa.array(shingles.values))


def _of_list(column: Any) -> Shingles:
    held = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    offsets = np.array(held.offsets, dtype=np.int64)
    values: U32 = np.array(held.values)[offsets[0] : offsets[-1]]
    return Shingles(values, offsets - offsets[0])
