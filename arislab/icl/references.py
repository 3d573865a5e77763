"""What a searched set of examples must beat: sets and choices that cost no search.

Texts are compared by words (BM25), for which no model is needed, and by their embeddings where a model is given.
Nothing is learned from validation.

Source:
    Gonzalez 1985, k-centre (farthest first).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from arislab import bm25, vectors
from arislab.errors import ParameterError
from arislab.icl.sets import set_id
from arislab.icl.surrogate import Floats
from arislab.system.kinds import takes_any_frame
from arislab.vectors import Embed

_N_RANDOM = 3


def reference_sets(
    pool: pl.DataFrame,
    questions: pl.DataFrame,
    *,
    chosen: Sequence[str],
    k: int,
    seed: int = 0,
    n_random: int = _N_RANDOM,
    n_nearest: int | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    embed: Embed | None = None,
) -> pl.DataFrame:
    """Return what to ask to compare a chosen set with sets that cost no search, all on the same rows.

    Args:
        pool: id, input, output and quality_score.
        questions: The rows: candidate_id and text (as it is asked).
        chosen: The set that the search chose.
        k: Examples a set of the others.
        seed: Of the random sets.
        n_random: Random sets; their arm is their mean.
        n_nearest: Most questions of the arms nearest: no two of their prompts begin alike, so servers have no prefix to
            share. None: all.
        others: More sets to compare, by the name of their arm: winners of other k.
        embed: Texts to one vector each, see ``vectors.embedder``; adds the arm nearest (embedding).

    Returns:
        One row per arm, set and candidate: arm, set_id, example_ids, candidate_id. Arms: zero-shot (no example),
        chosen, those of ``others``, top quality (best last), diverse (k-centre by words, around the best), random, and
        nearest (for each question its own, see ``nearest``).

    Raises:
        ParameterError: k is not in 1..size of the pool.
    """
    if not 1 <= k <= pool.height:
        raise ParameterError(f"k must be 1..{pool.height} (the size of the pool), got {k}.")
    ranked = pool.sort(["quality_score", "id"], descending=[True, False], nulls_last=True)
    ids = ranked["id"].to_list()
    rng = np.random.default_rng(seed)
    sets: list[tuple[str, Sequence[str]]] = [
        ("zero-shot", ()),
        ("chosen", chosen),
        *(others or {}).items(),
        ("top quality", ids[:k][::-1]),
        ("diverse", _diverse(ranked, k)),
        *[("random", [ids[int(i)] for i in rng.permutation(len(ids))[:k]]) for _ in range(n_random)],
    ]
    schema: dict[str, Any] = {"arm": pl.String, "example_ids": pl.List(pl.String)}
    fixed = pl.DataFrame([(arm, list(members)) for arm, members in sets], schema=schema, orient="row")
    some = questions.head(n_nearest or questions.height)
    likeness: dict[str, Embed | None] = {"nearest": None} | ({"nearest (embedding)": embed} if embed else {})
    near = [
        nearest(pool, some, k=k, embed=by).select(pl.lit(arm).alias("arm"), "example_ids", "candidate_id")
        for arm, by in likeness.items()
    ]
    every = pl.concat([fixed.join(questions.select("candidate_id"), how="cross"), *near])
    names = pl.Series([set_id(members) for members in every["example_ids"].to_list()], dtype=pl.String)
    return every.with_columns(set_id=names).unique(["arm", "set_id", "candidate_id"], maintain_order=True)


def n_report(n_rows: int, *, n_sizes: int, n_nearest: int, by_meaning: bool = False) -> int:
    """Return how many requests the sets of ``reference_sets`` take at most.

    Args:
        n_rows: Rows of the report.
        n_sizes: Numbers of examples that were searched; the winners of the others than the chosen one are asked too.
        n_nearest: As in ``reference_sets``.
        by_meaning: Whether there is an arm nearest (embedding).

    Example:
        >>> n_report(300, n_sizes=1, n_nearest=100)
        2200
    """
    n_sets = 4 + _N_RANDOM + n_sizes - 1  # zero-shot, chosen, top quality, diverse; random ones; winners of other k
    return n_rows * n_sets + min(n_nearest, n_rows) * (2 if by_meaning else 1)


@takes_any_frame
def nearest(pool: pl.DataFrame, questions: pl.DataFrame, *, k: int, embed: Embed | None = None) -> pl.DataFrame:
    """Return for each question the ``k`` examples whose input is most like it, the nearest last.

    Args:
        pool: id and input.
        questions: candidate_id and text.
        k: Examples each.
        embed: Compare by the cosine of these vectors; None: by words (BM25).

    Returns:
        One row per question: candidate_id, example_ids.
    """
    order = np.argsort(pool["id"].to_numpy())  # equally near ones go by id, in whatever order the pool came
    ids = [pool["id"][int(i)] for i in order]
    asked, inputs = questions["text"].to_list(), [pool["input"][int(i)] for i in order]
    scores = _by_words(asked, inputs) if embed is None else vectors.cosine(embed(asked), embed(inputs))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k][:, ::-1]
    return questions.select("candidate_id").with_columns(
        example_ids=pl.Series([[ids[int(i)] for i in row] for row in best], dtype=pl.List(pl.String))
    )


def _by_words(questions: list[str | None], documents: list[str | None]) -> Floats:
    """Return one row per question, one column per document."""
    index = bm25.Index(documents)
    return np.array([index.scores(text) for text in questions]).reshape(len(questions), len(documents))


def _diverse(ranked: pl.DataFrame, k: int) -> tuple[str, ...]:
    texts: list[str | None] = [f"{a or ''} {b or ''}" for a, b in ranked.select("input", "output").iter_rows()]
    likeness = _by_words(texts, texts)
    likeness = likeness / np.maximum(np.diag(likeness)[:, None], 1e-9)
    likeness = (likeness + likeness.T) / 2
    chosen = [0]
    while len(chosen) < k:
        closest = likeness[:, chosen].max(axis=1)
        closest[chosen] = math.inf
        chosen.append(int(np.argmin(closest)))
    return tuple(ranked["id"][i] for i in reversed(chosen))
