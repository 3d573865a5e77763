"""Kept rows that stand for more of the good ones: some of the places go by what they cover, and what that cost.

A place for coverage goes to the row, among the best twice as many as are kept, that makes these most like a kept row
(facility location). Rows of equal quality at the edge of the other places go so too. What this module does not know:
whether variety helps whoever learns from the rows; phases 3 to 5 measure that.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab import batch, vectors
from arislab.curate import subsets
from arislab.curate.selection import Selection, check_columns, queued, ranking
from arislab.errors import ParameterError
from arislab.system.kinds import takes_any_frame
from arislab.vectors import Embed, Floats, Ints, Matrix

LIMIT = 10_000
"""Rows among which is chosen by coverage, at most, the best of them: 200 MB, and about a minute."""
ON = ("input", "output")
_ONE = 1 << 15  # a cosine of 1: whole numbers have the same sums on every machine
_BLOCK = 500
_N_LOOKED_AT = 2_000
_N_DRAWS = 10


@dataclass(frozen=True)
class Places:
    """Rows from the best to the worst, and how many places there are."""

    quality: Floats
    """Of each row, falling."""
    value: Ints
    """Number of the value of which only so many rows may be kept; -1: no value."""
    limit: int
    """Rows of one value."""
    n: int
    """Rows to keep."""

    def best(self, first: Sequence[int] = ()) -> list[int]:
        """Return the rows that are kept by quality alone, after some that are kept anyway."""
        taken, free = list(first), _Free(self, first)
        chosen = set(first)
        for row in range(len(self.quality)):
            if len(taken) >= self.n:
                break
            if row not in chosen and free.has(row):
                free.take(row)
                taken.append(row)
        return taken


class _Free:
    """How many places each value has left."""

    def __init__(self, places: Places, taken: Sequence[int]) -> None:
        self.places = places
        self.count = np.bincount(places.value + 1, minlength=1) * 0
        for row in taken:
            self.take(row)

    def has(self, row: int) -> bool:
        return bool(self.places.value[row] < 0 or self.count[self.places.value[row] + 1] < self.places.limit)

    def take(self, row: int) -> None:
        self.count[self.places.value[row] + 1] += 1


def chosen(places: Places, *, share: float, vectors_of: Callable[[Ints], list[Matrix]]) -> tuple[list[int], int]:
    """Return the rows to keep, and how many rows were compared.

    The better part of the places goes by quality, the share by coverage: one after the other to the row that adds most
    to the sum, over the rows compared, of the cosine to the nearest kept row. No other choice for these places adds
    more than 1 / (1 - 1/e) = 1.58 times as much (without a quota). Rows level with the last one that quality alone
    decides on are put in order by coverage too; where that is level, rows go in the order given.

    Args:
        places: The rows, and the places.
        share: Of the places, in (0, 1].
        vectors_of: From numbers of rows to their vectors.

    Raises:
        ParameterError: More places than half of the rows that are compared, where not all are.

    Source:
        Nemhauser, Wolsey and Fisher 1978 (greedy on monotone submodular functions); Minoux 1978 (lazy); Wei, Iyer and
        Bilmes 2015 (facility location for subsets of training data).
    """
    n_best = places.n - round(share * places.n)
    by_quality = places.best()
    edge = places.quality[by_quality[min(n_best, len(by_quality)) - 1]] if n_best else np.inf
    sure = [row for row in by_quality[:n_best] if places.quality[row] > edge]
    is_sure = np.zeros(len(places.quality), dtype=bool)
    is_sure[sure] = True
    free = _Free(places, sure)
    pool = np.flatnonzero(~is_sure & (places.quality >= _lowest(places.quality, places.n)))
    every = pool[[free.has(row) for row in pool.tolist()]] if len(pool) else pool
    pool = every[:LIMIT]
    if len(every) > LIMIT and 2 * (places.n - len(sure)) > LIMIT:
        raise ParameterError(
            f"diversity gives {places.n - len(sure):,} places to coverage, which compares {LIMIT:,} rows at most: "
            "too few to choose from; lower diversity or keep_fraction."
        )
    if len(pool) <= places.n - len(sure):  # all of them stay
        return places.best(sure), len(pool)
    rows = vectors.joined(vectors_of(np.concatenate([np.array(sure, dtype=np.int64), pool])))
    own, others = rows[len(sure) :], rows[: len(sure)]
    greedy = _Greedy(own, others, allowed=lambda place: free.has(int(pool[place])))
    taken = list(sure)
    tied = places.quality[pool] == edge
    for among, n in ((tied, n_best), (np.ones(len(pool), dtype=bool), places.n)):
        for place in greedy.take(among, n - len(taken)):
            free.take(int(pool[place]))
            taken.append(int(pool[place]))
    return places.best(taken), len(pool)


def _lowest(quality: Floats, n: int) -> float:
    """Return the quality of the last of the best twice as many rows; with it, all that are level with it compete."""
    return float(quality[min(2 * n, len(quality)) - 1]) if len(quality) else np.inf


class _Greedy:
    """Lazy greedy facility location."""

    def __init__(self, own: Matrix, others: Matrix, *, allowed: Callable[[int], bool]) -> None:
        n = own.shape[0]
        self.alike = np.zeros((n, n), dtype=np.uint16)
        self.covered = np.zeros(n, dtype=np.uint16)
        for start in range(0, n, _BLOCK):
            part = slice(start, start + _BLOCK)
            self.alike[part] = _whole(vectors.products(own[part], own))
        for start in range(0, others.shape[0], _BLOCK):
            near = _whole(vectors.products(others[start : start + _BLOCK], own))
            np.maximum(self.covered, near.max(axis=0), out=self.covered)
        self.taken = np.zeros(n, dtype=bool)
        self.allowed = allowed

    def gain(self, place: int) -> int:
        """Return what a row adds."""
        row = self.alike[place]
        return int((np.maximum(row, self.covered) - self.covered).sum(dtype=np.int64))

    def take(self, among: NDArray[np.bool_], n: int) -> Iterator[int]:
        """Yield so many rows, one after the other."""
        heap = [(-self.gain(place), place) for place in np.flatnonzero(among & ~self.taken).tolist()]
        heapq.heapify(heap)
        while heap and n > 0:
            _, place = heapq.heappop(heap)
            if not self.allowed(place):
                continue
            again = (-self.gain(place), place)
            if heap and again > heap[0]:  # it adds less than it did: others may add more now
                heapq.heappush(heap, again)
                continue
            self.taken[place], n = True, n - 1
            np.maximum(self.covered, self.alike[place], out=self.covered)
            yield place


@takes_any_frame
def keep_diverse(
    frame: pl.DataFrame,
    *,
    fraction: float = 0.2,
    diversity: float = 0.3,
    by: str = "quality",
    seed: int = 0,
    id: str = "custom_id",
    quota: str | None = None,
    max_share: float = 1.0,
    one_per: str | None = None,
    on: Sequence[str] = ON,
    embed: Embed | None = None,
) -> Selection:
    """Keep as many rows as `keep_top`, a share of them for what they cover.

    The first 1 - `diversity` of the places go to the best rows. Each other one goes to the row among the best twice as
    many, and those level with the last of them (in all the best ``LIMIT`` = 10,000 that are not kept yet), that adds
    most to the sum of their cosines to the nearest kept row. Rows tied at the end of the first places are put in order
    by that too. The same rows are kept in any row order; on another machine too, but where cosines of words differ by
    less than the rounding of their logarithms, or embeddings do.

    Args:
        frame: Columns `by` (number, null = unscored), `id` (unique) and `on` (String; null says nothing).
        fraction: As in `keep_top`, as are by, seed, id, quota, max_share and one_per.
        diversity: Share of the places, in (0, 1].
        by: The column to rank by.
        seed: Of the order among rows that are level in quality and coverage.
        id: The column that names a row.
        quota: A column of which no value may fill more than `max_share`.
        max_share: In (0, 1].
        one_per: A column of which one row of each value may be kept.
        on: Texts that are compared; the mean of their cosines counts.
        embed: From ``vectors.embedder``; None: hashed TF-IDF.

    Raises:
        ParameterError: As in `keep_top`, or a share out of range.

    Source:
        See ``chosen``.
    """
    if not 0 < diversity <= 1:
        raise ParameterError(
            f"diversity must be in [0, 1], got {diversity!r}; it is a fraction: 0.3 gives three places in ten to rows "
            "that cover more, 0 none."
        )
    queue = queued(frame, fraction=fraction, by=by, seed=seed, id=id, quota=quota, max_share=max_share, one_per=one_per)
    check_columns(frame, on)
    order = queue.order
    values = np.full(len(order), -1, dtype=np.int64)
    if quota is not None:
        named = frame[quota].gather(order)
        values = (named.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
    places = Places(queue.quality.gather(order).to_numpy(), values, queue.limit, queue.n_target)
    texts = frame.select(on)
    rows, n_compared = chosen(
        places, share=diversity, vectors_of=lambda some: vectors.of(texts[order[some]], embed=embed)
    )
    rule = (
        f", {diversity:g} of the places for coverage (of {n_compared:,} rows, by "
        f"{'hashed TF-IDF' if embed is None else 'embeddings'})"
    )
    return queue.kept(order[rows], rule=rule, ties="coverage, then a hash")


def cost(
    cut: Selection, plain: Selection, *, on: Sequence[str] = ON, embed: Embed | None = None, seed: int = 0
) -> pl.DataFrame:
    """Return what places for coverage cost in quality and what they brought, beside a draw that looks at nothing.

    Args:
        cut: From `keep_diverse`.
        plain: From `keep_top`, of the same rows.
        on: As in `keep_diverse`.
        embed: As there.
        seed: Of the draws, and of the rows that are looked at where there are more than 2,000.

    Returns:
        One row per way: kept ("by quality alone"; "for coverage"; "by chance": of as many rows drawn from those among
        which coverage chose, means of 10 draws), n, n_replaced (of those kept by quality alone), quality (mean),
        coverage (mean cosine of a scored row to the nearest kept one, 0..1), repetition (mean cosine of a kept row to
        the nearest other). None where both kept the same.
    """
    names = ["kept", "n", "n_replaced", "quality", "coverage", "repetition"]
    if set(cut.kept["custom_id"]) == set(plain.kept["custom_id"]):
        return pl.DataFrame(schema=dict(zip(names, (pl.String, pl.Int64, *[pl.Float64] * 4), strict=True)))
    frame = cut.frame.filter(pl.col("quality").is_not_null())
    order = ranking(frame, seed=seed)
    frame = frame[order]
    other = frame.select("custom_id").join(
        plain.frame.select("custom_id", "kept"), on="custom_id", how="left", maintain_order="left"
    )
    both = {"by quality alone": other["kept"].to_numpy(), "for coverage": frame["kept"].to_numpy()}
    old, new = both.values()
    n_replaced = int((old & ~new).sum())
    quality = frame["quality"].cast(pl.Float64).to_numpy()
    pool = np.flatnonzero(~(old & new) & (new | (quality >= _lowest(quality, int(old.sum())))))[: LIMIT + n_replaced]
    ties = np.argsort(subsets.stable_hash(frame["custom_id"], seed).to_numpy(), kind="stable")
    masks = list(both.items())
    for draw in range(_N_DRAWS if n_replaced else 0):
        mask = old & new
        rng = np.random.default_rng([seed, draw])
        mask[rng.choice(pool, n_replaced, replace=False)] = True
        masks.append(("by chance", mask))
    every = vectors.joined(vectors.of(frame.select(on), embed=embed))
    near, again = _nearest(every, np.array([mask for _, mask in masks]), ties)
    rows = [
        (name, int(mask.sum()), int((old & ~mask).sum()), float(quality[mask].mean()), near[i], again[i])
        for i, (name, mask) in enumerate(masks)
        if mask.any()
    ]
    table = pl.DataFrame(rows, schema=names, orient="row")
    return table.group_by("kept", maintain_order=True).agg(pl.col("n").first(), pl.exclude("kept", "n").mean())


def _nearest(every: Matrix, masks: NDArray[np.bool_], ties: Ints) -> tuple[list[float], list[float]]:
    """Return for each set of rows the mean likeness to it of all rows, and of its own rows to its others."""
    used = np.flatnonzero(masks.any(axis=0))
    drawn = ties[np.isin(ties, used)][:_N_LOOKED_AT]
    means = []
    for looked_at, is_own in ((ties[:_N_LOOKED_AT], False), (drawn, True)):
        parts = [list[NDArray[np.float32]]() for _ in masks]
        for start in range(0, len(looked_at), _BLOCK):
            rows = looked_at[start : start + _BLOCK]
            alike = np.clip(vectors.products(every[rows], every[used]), 0.0, 1.0)
            if is_own:
                alike[rows[:, None] == used[None, :]] = 0.0
            for part, mask in zip(parts, masks, strict=True):
                of = alike[mask[rows]] if is_own else alike
                part.append(of[:, mask[used]].max(axis=1, initial=0.0))
        means.append([_mean(part) for part in parts])
    return means[0], means[1]


def cost_in_words(table: pl.DataFrame) -> str:
    r"""Return ``cost`` in a sentence.

    Example:
        >>> names = ["kept", "n", "n_replaced", "quality", "coverage", "repetition"]
        >>> rows = [("by quality alone", 9, 0.0, 0.9, 0.4, 0.7), ("for coverage", 9, 2.0, 0.88, 0.5, 0.5)]
        >>> rows += [("by chance", 9, 2.0, 0.87, 0.45, 0.6)]
        >>> print(cost_in_words(pl.DataFrame(rows, schema=names, orient="row")).replace("; ", ";\n"))
        coverage replaced 2 of 9 rows: mean quality 0.900 -> 0.880 (by chance 0.870);
        cosine of a row to the nearest kept one 0.400 -> 0.500 (0.450);
        of a kept row to the nearest other 0.700 -> 0.500 (0.600)
    """
    rows = {row["kept"]: row for row in table.iter_rows(named=True)}
    if not rows:
        return "no row is kept for coverage alone"
    old, new, luck = rows["by quality alone"], rows["for coverage"], rows["by chance"]
    parts = [
        f"{what} {old[name]:.3f} -> {new[name]:.3f} ({'by chance ' if name == 'quality' else ''}{luck[name]:.3f})"
        for what, name in (
            ("mean quality", "quality"),
            ("cosine of a row to the nearest kept one", "coverage"),
            ("of a kept row to the nearest other", "repetition"),
        )
    ]
    return f"coverage replaced {new['n_replaced']:,.0f} of {new['n']:,} rows: " + "; ".join(parts)


def cost_in_numbers(table: pl.DataFrame) -> dict[str, float]:
    """Return ``cost`` for a headline: rows replaced, and how quality and coverage changed; empty where none was."""
    if not table.height:
        return {}
    old, new = (table.row(i, named=True) for i in (0, 1))
    changes = {f"diversity_{name}": new[name] - old[name] for name in ("quality", "coverage")}
    return {"diversity_replaced": new["n_replaced"]} | changes


def embedder(model: str, *, folder: Path) -> Embed | None:
    """Return what embeds texts, each once; null without a model: words are compared.

    Args:
        model: MODEL@URL: the model's name, and the URL of a server with ``/v1/embeddings``.
        folder: As in ``batch.connect``.

    Raises:
        ParameterError: No URL stands in it.
        PrerequisiteError: The server does not answer; and as in ``vectors.embedder``.
    """
    if not model:
        return None
    name, at, url = model.rpartition("@")
    if not at or not name or "://" not in url:
        raise ParameterError(
            f"embedding_model must be MODEL@URL, got {model!r}; for example bge-small@http://127.0.0.1:8000/v1, or "
            "empty to compare words."
        )
    return vectors.remembered(vectors.embedder(batch.connect(url, folder=folder), model=name))


def _mean(parts: list[NDArray[np.float32]]) -> float:
    values = np.concatenate([np.zeros(0, np.float32), *parts])
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def _whole(cosines: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.rint(np.clip(cosines, 0.0, 1.0) * _ONE).astype(np.uint16)
