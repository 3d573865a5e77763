"""Test rows that also stand in what is trained or searched on, and splits that let none through."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from arislab.duplicates.clusters import grouped
from arislab.duplicates.pairs import nearest
from arislab.duplicates.shingles import (
    Hashed,
    check_threshold,
    common_to_most,
    first_of,
    rows_of,
    stands_in,
    with_signs,
    without,
)
from arislab.system import spilled


def split(frame: pl.DataFrame, *, split_of: Callable[[str], str], hidden: str, threshold: float = 0.8) -> pl.DataFrame:
    """Return candidate_id, group_id and split (null: in none), one row per candidate: ``leaks`` finds nothing later.

    A candidate with a group of its own keeps it; one without joins the group of its near-duplicates, of whichever of
    its texts. Where these are of several groups, the groups are not merged: a candidate of the hidden split of which a
    text also stands outside of it is in no split, and so is a new candidate of which a known one of the hidden split
    has a text.

    Args:
        frame: One row per candidate and text: candidate_id, text (what is asked; null resembles nothing), group_id
            (String, null: none of its own; of a known candidate the one that it has) and, where some are known already,
            split (their split; null: a new candidate). whole, if present: false marks a text that is not asked but may
            be trained on, such as the last question of a conversation; two of these do not resemble each other. A
            candidate has one row at least where it is true.
        split_of: Group to split.
        hidden: The split that nothing may be seen of before it is evaluated on.
        threshold: As in ``stars``.

    Example:
        >>> rows = pl.DataFrame(
        ...     {"candidate_id": ["a", "b", "c"], "text": ["one", "one!", "two"], "group_id": ["x", "y", None]}
        ... )
        >>> split(rows, split_of=lambda group: "b" if group == "x" else "a", hidden="b").rows()
        [('a', 'x', None), ('b', 'y', 'a'), ('c', 'c', 'a')]
    """
    given = {"split": pl.lit(None, dtype=pl.String), "whole": pl.lit(value=True)}
    rows = frame.with_columns(**{name: value for name, value in given.items() if name not in frame.columns})
    everybody = rows.filter("whole")["text"]
    hashed = Hashed.of(rows["text"].drop_nulls().unique(maintain_order=True))  # once: it takes the longest of all
    rows = _without_parts(rows, everybody, threshold, hashed)
    alike = grouped(rows["text"], rows["candidate_id"], threshold, everybody, hashed).alias("_alike")
    own = pl.col("group_id")
    rows = rows.with_columns(alike, _known="split", id="candidate_id")
    # the group of the others, if it is one: to join one of several is to choose, to merge them moves who is known
    n_own = own.drop_nulls().n_unique().over("_alike")
    joined = pl.when(n_own == 1).then(own.drop_nulls().first().over("_alike")).otherwise("_alike")
    rows = rows.with_columns(group_id=pl.coalesce(own, joined))
    rows = rows.with_columns(split=pl.coalesce("split", _splits(rows, split_of)))
    is_hidden = pl.col("split") == hidden
    # what is known stays where it is, so that later imports do not change a test set: who comes later gives way
    for test, used in (
        (pl.col("_known").is_null() & ~is_hidden, is_hidden & (pl.col("_known") == hidden) & pl.col("whole")),
        (is_hidden & pl.col("whole"), ~is_hidden),
    ):
        compared = rows.select("candidate_id", "group_id", "id", "text")  # of large ones each column counts
        first, second = (spilled.taken(compared, rows.select(one).to_series().arg_true()) for one in (test, used))
        leaking = _leaks(first, second, threshold, everybody, hashed)
        leaves = pl.col("candidate_id").is_in(leaking["candidate_id"].to_list())
        rows = rows.with_columns(split=pl.when(~leaves).then("split"))
    return rows.unique("candidate_id", keep="first", maintain_order=True).select("candidate_id", "group_id", "split")


def _splits(rows: pl.DataFrame, split_of: Callable[[str], str]) -> pl.Series:
    """The split of each row's group: that of its known candidates, else by the function."""
    groups = rows.select("group_id").unique()
    parts = [pl.Series("split", [], pl.String)]
    parts += [pl.Series("split", map(split_of, some["group_id"]), pl.String) for some in groups.iter_slices(_GROUPS)]
    known = rows.filter(pl.col("split").is_not_null()).select("group_id", _known="split")
    known = known.unique("group_id", keep="last", maintain_order=True)
    groups = groups.with_columns(pl.concat(parts)).join(known, on="group_id", how="left", maintain_order="left")
    groups = groups.select("group_id", split=pl.coalesce("_known", "split"))
    return rows.select("group_id").join(groups, on="group_id", how="left", maintain_order="left")["split"]


_GROUPS = 100_000
"""Names that are Python's at once."""


def _without_parts(rows: pl.DataFrame, everybody: pl.Series, threshold: float, hashed: Hashed) -> pl.DataFrame:
    """Return the rows without texts that are not asked and that nobody is asked either.

    Conversations end with the same "go on" without being alike: as long as nobody is asked just that, it joins nothing.
    """
    is_part = ~rows["whole"]
    if not is_part.any():
        return rows
    numbered = rows.with_row_index("_row").with_columns(id=pl.col("_row").cast(pl.String)).drop_nulls("text")
    wholes, parts = numbered.filter("whole"), numbered.filter(~pl.col("whole"))
    alike = _alike(parts.select("text", candidate_id="id"), wholes.select("id", "text"), threshold, everybody, hashed)
    return rows.filter(~is_part | pl.int_range(pl.len()).cast(pl.String).is_in(alike["candidate_id"].to_list()))


def leaks(
    test: pl.DataFrame, used: pl.DataFrame, *, threshold: float = 0.8, everybody: pl.Series | None = None
) -> pl.DataFrame:
    """Return the test rows that also stand in what was trained or searched on.

    Args:
        test: candidate_id, group_id, text.
        used: id, candidate_id, group_id, text.
        threshold: As in ``stars``.
        everybody: Texts of all candidates, by which it is judged what most questions say; default: `test` and `used`.
            With the same texts as at import nothing is found that ``split`` let through.

    Returns:
        One row per leaking test candidate: candidate_id, id (of the used row), kind (candidate, group, exact, near),
        similarity.
    """
    check_threshold(threshold)
    return _leaks(test, used, threshold, everybody, None)


def _leaks(
    test: pl.DataFrame, used: pl.DataFrame, threshold: float, everybody: pl.Series | None, hashed: Hashed | None
) -> pl.DataFrame:
    """As ``leaks``; ``hashed`` has all the texts, where they were hashed before."""
    rows = [_shared(test, used, "candidate_id", "candidate"), _shared(test, used, "group_id", "group")]
    rest = test.filter(pl.col("text").is_not_null()).join(pl.concat(rows), on="candidate_id", how="anti")
    texts = used.drop_nulls("text").select("id", "text")
    rows.append(_alike(rest.select("candidate_id", "text"), texts, threshold, everybody, hashed))
    return pl.concat(rows).unique("candidate_id", keep="first", maintain_order=True).sort("candidate_id")


def _shared(test: pl.DataFrame, used: pl.DataFrame, column: str, kind: str) -> pl.DataFrame:
    """Return the test rows whose value in a column stands in `used` too."""
    holders = used.drop_nulls(column).unique(column, keep="first", maintain_order=True).select("id", _value=column)
    both = test.select("candidate_id", _value=column).join(holders, on="_value", how="inner")
    return both.select("candidate_id", "id", kind=pl.lit(kind), similarity=1.0)


def _alike(
    test: pl.DataFrame, used: pl.DataFrame, threshold: float, everybody: pl.Series | None, hashed: Hashed | None
) -> pl.DataFrame:
    """Return the test rows whose text is that of a used row, or near it."""
    if test.is_empty() or used.is_empty():  # as at a first import; the shingles of everybody would be made for nothing
        return _shared(test, used, "text", "exact")
    judges = pl.concat([test["text"], used["text"]]) if everybody is None else everybody.drop_nulls()
    texts = pl.concat([test["text"], used["text"], judges]).unique(maintain_order=True)
    seen = Hashed.of(texts) if hashed is None else hashed.only(texts)
    shingles, first = seen.shingles, first_of(seen.whole)
    forms = pl.DataFrame({"text": texts, "_form": first})  # texts of one normal form have one number
    common = common_to_most(rows_of(shingles, np.unique(first[stands_in(texts, judges)])))
    shingles = with_signs(without(shingles, common), seen.signs)
    test, used = (part.join(forms, on="text", maintain_order="left") for part in (test, used))
    exact = _shared(test, used, "_form", "exact")
    rest = test.join(exact, on="candidate_id", how="anti", maintain_order="left")
    left, right, score = nearest(
        shingles, rest["_form"].unique().to_numpy(), used["_form"].unique().to_numpy(), threshold
    )
    pairs = pl.DataFrame({"_form": left, "_used": right, "similarity": score})
    holders = used.unique("_form", keep="first", maintain_order=True).select("id", _used="_form")
    near = rest.join(pairs, on="_form", maintain_order="left").join(holders, on="_used", maintain_order="left")
    return pl.concat([exact, near.select("candidate_id", "id", pl.lit("near").alias("kind"), "similarity")])


def asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a model is asked, as one text.

    That is all that the messages say but for the system's part, which all questions share.

    Args:
        messages: A chat; content is text or a list of parts, of which the texts count.

    Example:
        >>> asked([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a fjord?"}])
        'What is a fjord?'
    """
    texts = []
    for message in messages:
        content = message.get("content")
        if message.get("role") not in ("system", "developer"):
            parts = content if isinstance(content, list) else [{"text": content}]
            texts += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts)
