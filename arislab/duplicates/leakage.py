"""Test rows that also stand in what is trained or searched on, and splits that let none through."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.duplicates.clusters import components
from arislab.duplicates.pairs import nearest
from arislab.duplicates.shingles import Floats, Forms, Ints, Shingles, check_threshold, codes_of
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
    is_whole = rows["whole"].to_numpy()
    forms = Forms.made(rows["text"], is_whole)
    at = _asked_of_somebody(forms, is_whole, threshold)
    # from here on numbers: of millions of rows each column of names or texts counts
    rows, is_whole = spilled.taken(rows.select("candidate_id", "group_id", "split"), pl.Series(at)), is_whole[at]
    alike = components(replace(forms, of=forms.of[at]), rows["candidate_id"], threshold)
    groups = _groups(rows, alike)
    every = Numbers(codes_of(rows["candidate_id"]), codes_of(groups), forms.of[at])
    splits = _splits(groups, every.group, rows["split"], split_of)
    is_new, is_hidden = rows["split"].is_null().to_numpy(), (splits == hidden).fill_null(value=False).to_numpy()
    was_hidden = (rows["split"] == hidden).fill_null(value=False).to_numpy()
    leaves = np.zeros(len(rows), dtype=bool)
    # what is known stays where it is, so that later imports do not change a test set: who comes later gives way
    for test, used in (
        (is_new & ~is_hidden, was_hidden & is_whole),
        (is_hidden & is_whole, ~is_hidden & splits.is_not_null().to_numpy()),
    ):
        stays = ~leaves
        first, second = (np.flatnonzero(some & stays) for some in (test, used))
        leaking, *_ = _leaks(every.of(first), every.of(second), forms.shingles, threshold)
        leaves |= np.isin(every.candidate, every.candidate[first[leaking]])
    one = pl.Series(np.flatnonzero(every.candidate == np.arange(len(rows))))
    made = {"group_id": groups, "split": splits.set(pl.Series(leaves), None)}
    return spilled.taken(rows.select("candidate_id").with_columns(**made), one)


def _groups(rows: pl.DataFrame, alike: Ints) -> pl.Series:
    """The group of each row: its own; else that of the others that are alike, if it is one; else the first of these."""
    own = codes_of(rows["group_id"])
    low, high = np.full(len(own), len(own)), np.full(len(own), -1)
    has = own >= 0
    np.minimum.at(low, alike[has], own[has])
    np.maximum.at(high, alike[has], own[has])
    # to join one of several is to choose, and to merge them moves who is known
    joined = np.where(has, own, np.where(low == high, high, -1)[alike])
    given = rows["group_id"].gather(pl.Series(np.where(joined < 0, 0, joined)))
    return given.zip_with(pl.Series(joined >= 0), rows["candidate_id"].gather(pl.Series(alike)))


def _splits(groups: pl.Series, group: Ints, known: pl.Series, split_of: Callable[[str], str]) -> pl.Series:
    """The split of each row: its own if known, else that of the known ones of its group, else by the function."""
    at = known.is_not_null().arg_true().to_numpy()
    last = np.full(len(group), -1)
    np.maximum.at(last, group[at], at)
    split = known.gather(pl.Series(np.where(last < 0, 0, last)))  # of each group, at its first row
    new = np.flatnonzero((group == np.arange(len(group))) & (last < 0))
    some = (groups.gather(new[start : start + _NAMES]) for start in range(0, len(new), _NAMES))
    made = pl.concat(
        [pl.Series("split", [], pl.String), *(pl.Series("split", map(split_of, s), pl.String) for s in some)]
    )
    split = split.scatter(new, made).gather(pl.Series(group))
    return known.zip_with(known.is_not_null(), split)


_NAMES = 100_000
"""Names that are Python's at once."""


def _asked_of_somebody(forms: Forms, is_whole: NDArray[np.bool_], threshold: float) -> Ints:
    """Return the rows without texts that are not asked and that nobody is asked either.

    Conversations end with the same "go on" without being alike: as long as nobody is asked just that, it joins nothing.
    """
    of, is_part = forms.of, ~is_whole & (forms.of >= 0)
    if not is_part.any():
        return np.flatnonzero(is_whole)
    wholes, parts = (np.unique(of[some & (of >= 0)]) for some in (is_whole, is_part))
    others = np.setdiff1d(parts, wholes)
    near, _, _ = nearest(forms.shingles, others, wholes, threshold)
    counts = np.zeros(len(forms.shingles.offsets) - 1, dtype=bool)
    counts[wholes] = counts[near] = True
    return np.flatnonzero(is_whole | (is_part & counts[of]))


@dataclass(frozen=True)
class Numbers:
    """Who is asked what, as numbers: equal ones are equal names or texts."""

    candidate: Ints
    group: Ints
    form: Ints
    """One each a row; -1: none."""

    def of(self, rows: Ints) -> "Numbers":
        """Return some rows."""
        return Numbers(self.candidate[rows], self.group[rows], self.form[rows])


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
    if test.is_empty() or used.is_empty():
        return test.select("candidate_id", kind=pl.lit(""), similarity=1.0).clear().with_columns(id=used["id"].clear())
    rows = pl.concat(part.select("candidate_id", "group_id", "text") for part in (test, used))
    if everybody is not None:
        rows = pl.concat([rows, everybody.alias("text").to_frame()], how="diagonal")
    judges = np.arange(len(rows)) >= (0 if everybody is None else len(test) + len(used))
    forms = Forms.made(rows["text"], judges)
    every = Numbers(codes_of(rows["candidate_id"]), codes_of(rows["group_id"]), forms.of)
    first, second = np.arange(len(test)), np.arange(len(test), len(test) + len(used))
    left, right, kinds, similarity = _leaks(every.of(first), every.of(second), forms.shingles, threshold)
    found = pl.DataFrame(
        {"kind": kinds, "similarity": similarity}, schema={"kind": pl.String, "similarity": pl.Float64}
    )
    found = found.with_columns(candidate_id=test["candidate_id"].gather(left), id=used["id"].gather(right))
    return found.select("candidate_id", "id", "kind", "similarity").sort("candidate_id")


def _leaks(test: Numbers, used: Numbers, shingles: Shingles, threshold: float) -> tuple[Ints, Ints, list[str], Floats]:
    """Return of each leaking candidate a test row, the used row that it stands in, how, and how similar they are."""
    left, right, kinds, similarity = list[Ints](), list[Ints](), list[str](), list[Floats]()
    rest = np.arange(len(test.candidate))

    def leak(at: Ints, holder: Ints, kind: str, score: Floats) -> Ints:
        """Note the first row of each candidate; return the rows of all others."""
        candidate = test.candidate[at]
        one = np.sort(np.unique(candidate, return_index=True)[1])
        left.append(at[one])
        right.append(holder[one])
        kinds.extend([kind] * len(one))
        similarity.append(score[one])
        return rest[~np.isin(test.candidate[rest], candidate)]

    for kind, asked, held in (
        ("candidate", test.candidate, used.candidate),
        ("group", test.group, used.group),
        ("exact", test.form, used.form),
    ):
        at, holder = _shared(asked, held, rest)
        rest = leak(at, holder, kind, np.ones(len(at)))
    asked, held = (np.unique(form[form >= 0]) for form in (test.form[rest], used.form))
    form, alike, score = nearest(shingles, asked, held, threshold)
    most = np.full(len(shingles.offsets) - 1, -1)
    most[form] = np.arange(len(form))
    at = rest[test.form[rest] >= 0]
    at = at[most[test.form[at]] >= 0]
    found = most[test.form[at]]
    _, holder = _shared(alike[found], used.form, np.arange(len(found)))
    leak(at, holder, "near", score[found])
    return np.concatenate(left), np.concatenate(right), kinds, np.concatenate(similarity)


def _shared(codes: Ints, held: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return those of some rows whose code stands among those that are held, and where it stands first."""
    first = np.full(max(codes.max(initial=-1), held.max(initial=-1)) + 2, -1)
    first[held[::-1]] = np.arange(len(held))[::-1]
    first[-1] = -1  # of the code -1, which is none
    holder = first[codes[rows]]
    return rows[holder >= 0], holder[holder >= 0]


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
