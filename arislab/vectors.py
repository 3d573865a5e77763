"""Texts as vectors whose cosine says how alike they are: hashed TF-IDF, or embeddings where a model is given.

Vectors are rows of length 1, or 0 where a text says nothing: a text without a word resembles nothing. What this module
does not know: what a model's embeddings mean. TF-IDF knows words and how rare they are, no synonyms, no order, and no
negation.

Source:
    Salton and Buckley 1988 (TF-IDF, cosine); Weinberger et al. 2009 (hashing); Bayardo, Ma and Srikant 2007 (all pairs
    above a threshold by the rare part of a vector).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab import duplicates
from arislab.errors import PrerequisiteError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Matrix = Any
"""One row a text: a numpy array (embeddings), or a scipy.sparse.csr_matrix (words)."""
Embed = Callable[[Sequence[str | None]], Floats]
"""Texts to vectors, one row each."""
_N_FEATURES = 1 << 20
_TEXTS = 256  # of one call for embeddings
_BLOCK = 512  # rows compared at once


def of(texts: pl.DataFrame, *, embed: Embed | None = None) -> list[Matrix]:
    """Return the vectors of each column.

    Args:
        texts: String columns; null says nothing.
        embed: From ``embedder``; None: hashed TF-IDF of the words (of ``duplicates.normalise``; rarity among these
            texts).
    """
    return [words(texts[name]) if embed is None else _unit(embed(texts[name].to_list())) for name in texts.columns]


def words(texts: pl.Series) -> Matrix:
    """Return the hashed TF-IDF of texts: 1 + log of how often a word stands there, times how rare it is.

    Example:
        >>> a = words(pl.Series(["the red car", "The red car!", "a blue house"]))
        >>> (a @ a.T).toarray().round(3).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    if not len(texts):
        return csr_matrix((0, _N_FEATURES), dtype=np.float32)
    known = texts.cast(pl.String).fill_null("")
    copies = known.to_frame("text").with_row_index().select(pl.col("index").min().over("text")).to_series()
    unique = copies.unique().sort()  # one question has many answers
    forms = duplicates.normal_forms(known.gather(unique)).to_list()
    hashed = HashingVectorizer(
        analyzer=str.split, n_features=_N_FEATURES, norm=None, alternate_sign=False, dtype=np.float32
    )
    counts = hashed.transform(forms)[unique.search_sorted(copies).to_numpy()]
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts).tocsr()


def joined(parts: Sequence[Matrix]) -> Matrix:
    """Return vectors whose products are the means of the cosines of all columns."""
    from scipy.sparse import hstack, issparse

    scale = np.float32(len(parts) ** -0.5)
    if len(parts) == 1:
        return parts[0]
    if issparse(parts[0]):
        return (hstack(parts, format="csr", dtype=np.float32) * scale).tocsr()
    return np.hstack(parts) * scale


def products(left: Matrix, right: Matrix) -> NDArray[np.float32]:
    """Return one row per row of ``left``, one column per row of ``right``."""
    product = left @ right.T
    return np.asarray(product.toarray() if hasattr(product, "toarray") else product, dtype=np.float32)


def cosine(a: Floats, b: Floats) -> Floats:
    """Return the cosine of each row of a (rows) with each of b (columns), whatever their lengths."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return np.asarray(a @ b.T)


def stars(parts: Sequence[Matrix], *, threshold: float, apart: Ints) -> tuple[Ints, Floats]:
    """Return for each row, best first, the row that it says the same as, and how alike they are.

    As in ``duplicates.stars``: going down the rows, one stays unless it resembles one that stayed, in all columns. No
    pair is estimated, and none missed: by words, those that share no rare word cannot reach the threshold.

    Args:
        parts: From ``of``; the order of the rows says which of two stays.
        threshold: Lowest cosine, of each column, in (0, 1].
        apart: A number per row; rows of different numbers are never alike (see ``duplicates.signs``).

    Returns:
        Row that stays (its own number: it stays), and the lowest cosine over the columns.
    """
    n = len(apart)
    star, similarity = np.arange(n), np.ones(n)
    every = joined(parts)
    rare = _rare(every, threshold)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        kept = np.flatnonzero(star[:start] == np.arange(start))  # few rows are alike to each of them: memory is bounded
        left, right = _proposed(rare, every, rows, np.concatenate([kept, rows]), threshold)
        fits = (right < left) & (apart[left] == apart[right])
        left, right = left[fits], right[fits]
        score = _lowest(parts, left, right)
        near = score >= threshold - 1e-6  # 32 bits: a text and itself are 1 but for the last of them
        order = np.lexsort((right[near], left[near]))
        for i, j, s in zip(left[near][order], right[near][order], score[near][order], strict=True):
            if star[i] == i and star[j] == j:  # the first that stayed, as they come in their order
                star[i], similarity[i] = j, min(float(s), 1.0)
    return star, similarity


def _rare(every: Matrix, threshold: float) -> Matrix:
    """Keep of each row the rarest words, without which no product with a vector of length 1 reaches the threshold."""
    from scipy.sparse import csr_matrix, issparse

    if not issparse(every):
        return every
    n_holders = np.bincount(every.indices, minlength=every.shape[1])
    row = np.repeat(np.arange(every.shape[0]), np.diff(every.indptr))
    order = np.lexsort((every.indices, -n_holders[every.indices], row))  # in each row the most frequent word first
    squares = every.data[order].astype(np.float64) ** 2
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    before = sums[1:] - sums[every.indptr[row]]  # of the words up to this one
    stays = before >= (threshold - 1e-5) ** 2
    at = order[stays]
    return csr_matrix((every.data[at], (row[stays], every.indices[at])), shape=every.shape, dtype=np.float32)


def _proposed(rare: Matrix, every: Matrix, rows: Ints, others: Ints, threshold: float) -> tuple[Ints, Ints]:
    """Return the pairs that may reach the threshold."""
    if rare is every:
        at = np.nonzero(products(every[rows], every[others]) >= threshold - 1e-4)
    else:
        at = (rare[rows] @ every[others].T).nonzero()
    return rows[at[0]], others[at[1]]


def _lowest(parts: Sequence[Matrix], left: Ints, right: Ints) -> Floats:
    """Return the lowest cosine over the columns of each pair."""
    lowest = np.full(len(left), 1.0)
    for start in range(0, len(left), 1 << 16):
        pairs = slice(start, start + (1 << 16))
        for part in parts:
            one, other = part[left[pairs]], part[right[pairs]]
            product = one.multiply(other) if hasattr(one, "multiply") else one * other
            lowest[pairs] = np.minimum(lowest[pairs], np.asarray(product.sum(axis=1), dtype=np.float64).ravel())
    return lowest


def _unit(rows: Floats) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def remembered(embed: Embed) -> Embed:
    """Return the same, which asks for the vector of a text once."""
    known: dict[str | None, NDArray[np.float32]] = {}

    def remember(texts: Sequence[str | None]) -> Floats:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, embed(new).astype(np.float32), strict=True))
        return np.array([known[text] for text in texts])

    return remember


def embedder(server: Any, *, model: str) -> Embed:
    """Return a function from texts to vectors, by ``/v1/embeddings`` of a server.

    Args:
        server: From ``batch.connect``.
        model: Embedding model as the server names it.

    Raises:
        PrerequisiteError: The server has no such route or model, or gave another number of vectors; raised where texts
            are embedded.
    """
    import openai

    def embed(texts: Sequence[str | None]) -> Floats:
        rows: list[list[float]] = []
        for begin in range(0, len(texts), _TEXTS):
            part = [text or " " for text in texts[begin : begin + _TEXTS]]
            try:
                answer = server.patiently(
                    lambda part=part: server.client.embeddings.create(model=model, input=part, encoding_format="float")
                )
            except openai.APIStatusError as error:
                raise PrerequisiteError(
                    f"{server.base_url} refuses embeddings of {model!r} ({error.status_code}: {error.message}); name a "
                    "model that it embeds with, or leave embedding_model empty."
                ) from None
            # the protocol numbers the vectors and promises no order
            vectors = sorted(answer.data, key=lambda vector: vector.index)
            if [vector.index for vector in vectors] != list(range(len(part))):
                raise PrerequisiteError(
                    f"{server.base_url} gave {len(vectors)} vectors for {len(part)} texts; leave embedding_model empty."
                )
            rows += [vector.embedding for vector in vectors]
        return np.array(rows, dtype=np.float64)

    return embed
