"""Rows of a user's file to rows of the lake: candidates, and outputs that were recorded elsewhere.

One row of a file, and the candidate that it becomes (``--id badge``)::

    {"badge": "007", "title": "cook", "years": Number("1.50")}
    candidate_id='007', profile='{"badge":"007","title":"cook","years":1.50}', title='cook', group_id='007', split='train'

An id, an input or an answer is text: the characters of the file. Nothing is written here: every function returns frames, whole or not
at all, and the caller writes them. How a file is read is known in ``files``, what a batch file is in ``batch_files``.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from arislab import duplicates, json_text, tables
from arislab.errors import PrerequisiteError
from arislab.files import Rows

THRESHOLD = 0.8
"""Jaccard similarity of word 3-shingles from which two questions are one group, as in phase 5's search for leaks."""

_FACTS = ("company", "title", "category", "use_case")


def candidates(
    rows: Rows,
    *,
    id: str,
    group: str | None = None,
    text: str | None = None,
    split: str | None = None,
    asked: Callable[[dict[str, Any]], str] | None = None,
) -> pl.DataFrame:
    """Return rows of ``candidates`` from a user's own profiles.

    The profile is the row itself, as JSON. Columns named company, title, category and use_case fill those of the table.

    Args:
        rows: One per candidate.
        id: Column with unique names.
        group: Column that related candidates share; they stay in one split, together with their near-duplicates.
        text: Column by which near-duplicates are found, which form a group.
        split: Column with train, validation or test; without it a stable hash of the group decides.
        asked: Row of ``candidates`` (profile parsed) to what the model is asked about it: the text by which near-duplicates are
            found, if ``text`` is not given. Without either it is the row without its id.

    Raises:
        PrerequisiteError: A column is missing, ids are empty or repeated, or rows of one group have two splits.
    """
    ids = _unique(rows, rows.texts(id, "--id"), f"--id {id!r}")
    profiles = [json_text.dumps(row) for row in rows.rows]
    facts = {name: [json_text.as_text(row.get(name)) for row in rows.rows] for name in _FACTS}
    frame = pl.DataFrame({"candidate_id": ids, "profile": profiles} | facts, schema=_schema(_FACTS))
    if text is not None:
        texts = rows.texts(text, "--text")
    elif asked is not None:
        texts = [asked(row | {"profile": json_text.loads(row["profile"])}) for row in frame.iter_rows(named=True)]
    else:
        texts = [json_text.dumps({k: v for k, v in row.items() if k != id}) for row in rows.rows]
    named = None if group is None else rows.texts(group, "--group")
    frame = frame.with_columns(
        pl.col("use_case").fill_null("general"), group_id=_groups(frame["candidate_id"], texts, named)
    )
    given = None if split is None else _given_splits(rows, split)
    return _with_split(rows, frame, given)


def _schema(more: Sequence[str]) -> dict[str, Any]:
    return dict.fromkeys(("candidate_id", "profile", *more), pl.String)


def _unique(rows: Rows, ids: list[str | None], option: str) -> list[str]:
    """The ids, each there and once."""
    first: dict[str, int] = {}
    for i, name in enumerate(ids):
        if name is None or not name.strip():
            raise rows.refuse(i, f"{option} is empty; give each row a name, or choose another column")
        if name in first:
            times = ids.count(name)
            raise rows.refuse(
                i,
                f"{option} {name!r} stands {times:,} times (first in line {rows.lines[first[name]]}); it must be unique, or choose another column",
            )
        first[name] = i
    return list(first)


def _given_splits(rows: Rows, split: str) -> list[str]:
    splits = rows.texts(split, "--split")
    for i, name in enumerate(splits):
        if name not in tables.SPLITS:
            raise rows.refuse(i, f"--split {split!r} must be one of {', '.join(tables.SPLITS)}, got {name!r}")
    return [str(name) for name in splits]


def _groups(ids: pl.Series, texts: Sequence[str | None], named: Sequence[str | None] | None = None) -> pl.Series:
    """The group of each candidate: the one that the user named, joined with those of near-duplicate texts."""
    frame = pl.DataFrame({"id": ids, "text": pl.Series(texts, dtype=pl.String)})
    found = duplicates.groups(frame, id="id", threshold=THRESHOLD)
    if named is not None:
        return pl.Series(["g-" + (name if name is not None else str(i)) for name, i in zip(named, ids, strict=True)])
    return frame.join(found, on="id", how="left", maintain_order="left")["group_id"]


def _with_split(rows: Rows, frame: pl.DataFrame, given: Sequence[str] | None) -> pl.DataFrame:
    """The frame with the splits that are given, or else those that the groups' names decide."""
    if given is None:
        return hashed_splits(frame)
    frame = frame.with_columns(split=pl.Series(given, dtype=pl.String))
    first: dict[str, int] = {}
    for i, (group, split) in enumerate(frame.select("group_id", "split").iter_rows()):
        other = first.setdefault(group, i)
        if given[other] != split:
            raise rows.refuse(
                i,
                f"the row is marked {split}, line {rows.lines[other]} is marked {given[other]}, and both are of group {group!r} (near-duplicates, or "
                "the same --group); mark them alike or drop one",
            )
    return frame


def hashed_splits(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with the split that the name of each group decides."""
    splits = {group: tables.split_of(group) for group in frame["group_id"].unique()}
    return frame.with_columns(split=pl.col("group_id").replace_strict(splits, return_dtype=pl.String))


def outputs(
    rows: Rows,
    *,
    task: str,
    input: str,
    output: str,
    id: str | None = None,
    model: str | None = None,
    split: str | None = None,
    keep: Sequence[str] = (),
    reserved: Collection[str] = (),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rows of ``candidates``, rows of ``training_data_raw``) from outputs recorded elsewhere.

    Several outputs of one input (or of one ``id``) are samples of one candidate, whose profile is ``{"input": …}``. Importing the
    same file twice gives the same rows. A null or blank output is a row with status empty.

    Args:
        rows: One per output.
        task: Name of the task file that will judge them.
        input: Column with the question; null is an empty one.
        output: Column with the answer.
        id: Column that names the candidate; default: equal inputs are one candidate.
        model: Column with the model's name.
        split: As in ``candidates``; all outputs of a candidate have the same.
        keep: Columns kept as JSON in ``metadata``; scorers may ask for them by name.
        reserved: Names that cannot be kept, because scorers know something else under them.

    Raises:
        PrerequisiteError: A column is missing or cannot be kept, an id is empty, or rows of one group have two splits.
    """
    inputs = [text if text is not None else "" for text in rows.texts(input, "--input")]
    answers = rows.texts(output, "--output")
    models = rows.texts(model, "--model") if model else [None] * len(rows.rows)
    names = _named(rows, id) if id else [hashed(text) for text in inputs]
    raw = pl.DataFrame(
        {
            "candidate_id": names,
            "input": inputs,
            "llm_output": answers,
            "model": models,
            "metadata": _kept(rows, keep, reserved),
        },
        schema=dict.fromkeys(("candidate_id", "input", "llm_output", "model", "metadata"), pl.String),
    )  # one row per output
    is_empty = pl.col("llm_output").str.strip_chars().str.len_bytes().fill_null(0) == 0
    raw = raw.with_columns(
        sample=pl.int_range(pl.len()).over("candidate_id").cast(pl.Int32),
        status=pl.when(is_empty).then(pl.lit("empty")).otherwise(pl.lit("ok")),
        task=pl.lit(task),
    )
    content = ["candidate_id", "input", "llm_output", "model"]
    # equal rows are told apart by a number, all others by what they say: the order of the file changes no name
    again = raw.select(*content, again=pl.int_range(pl.len()).over(content))
    digests = [hashlib.sha256(orjson.dumps(["import", task, *row])).hexdigest() for row in again.iter_rows()]
    raw = raw.with_columns(custom_id=pl.Series(["r-" + d[:40] for d in digests]), request_sha256=pl.Series(digests))
    return _people(rows, raw, split), raw


def _named(rows: Rows, id: str) -> list[str]:
    names = rows.texts(id, "--id")
    for i, name in enumerate(names):
        if name is None or not name.strip():
            raise rows.refuse(i, f"--id {id!r} is empty; give each row a name, or choose another column")
    return [str(name) for name in names]


def _kept(rows: Rows, keep: Sequence[str], reserved: Collection[str]) -> list[str | None]:
    """The kept columns of each row as JSON; a row has those that its line has."""
    for name in keep:
        rows.texts(name, "--keep")
        if name in reserved or name.startswith("score_"):
            instead = "--split decides the split" if name == "split" else "rename the column"
            raise PrerequisiteError(
                f"--keep {name!r}: scorers know something else under this name; {instead}, nothing was imported."
            )
    if not keep:
        return [None] * len(rows.rows)
    return [json_text.dumps({name: row[name] for name in keep if name in row}) for row in rows.rows]


def _people(rows: Rows, raw: pl.DataFrame, split: str | None) -> pl.DataFrame:
    """The candidates behind recorded outputs, one row per candidate."""
    first = raw.with_row_index("_line").unique("candidate_id", keep="first", maintain_order=True)
    profiles = [orjson.dumps({"input": text}).decode() for text in first["input"]]
    people = asked(first["candidate_id"], profiles, first["input"])
    if split is None:
        return people
    places, given = first["_line"].to_list(), _given_splits(rows, split)
    place = dict(zip(first["candidate_id"], places, strict=True))
    for i, name in enumerate(raw["candidate_id"]):
        if given[i] != given[place[name]]:
            raise rows.refuse(
                i,
                f"the row is marked {given[i]}, line {rows.lines[place[name]]} about the same candidate {given[place[name]]}; mark them alike",
            )
    few = Rows(rows.name, [rows.rows[i] for i in places], [rows.lines[i] for i in places], rows.kind)
    return _with_split(few, people, [given[i] for i in places])


def asked(ids: pl.Series, profiles: Sequence[str], texts: Sequence[str] | pl.Series) -> pl.DataFrame:
    """Return rows of ``candidates`` for those about whom outputs were recorded.

    Args:
        ids: Their names.
        profiles: JSON of each.
        texts: What was asked about each; near-duplicates are one group.
    """
    frame = pl.DataFrame({"candidate_id": ids, "profile": profiles}, schema=_schema(()))
    frame = frame.with_columns(group_id=_groups(ids, list(texts)), use_case=pl.lit("general"))
    return hashed_splits(frame)


def hashed(text: str) -> str:
    """Return the name of a candidate without one: a digest of what is asked."""
    return "c-" + hashlib.sha256(text.encode()).hexdigest()[:24]


def keep_known(frame: pl.DataFrame, known: pl.DataFrame, *, renamed: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Return candidates in which those that the lake knows keep their group and split.

    A candidate that was trained on must never move into the test split because a larger file groups it anew.

    Args:
        frame: Rows of ``candidates``, new and known.
        known: candidate_id, group_id, split of those in the lake that keep theirs.
        renamed: New name to known name of a candidate that an earlier import wrote otherwise; it takes over group and split.
    """
    before = known.select(_name="candidate_id", _group="group_id", _split="split")
    name = pl.col("candidate_id").replace(dict(renamed or {}))
    joined = frame.with_columns(_name=name).join(before, on="_name", how="left", maintain_order="left")
    # a new member of a known group follows the group
    groups = dict(joined.filter(pl.col("_group").is_not_null()).select("group_id", "_group").iter_rows())
    moved = pl.col("group_id").replace_strict(groups, default=pl.col("group_id"), return_dtype=pl.String)
    joined = joined.with_columns(group_id=pl.coalesce("_group", moved))
    splits = dict(known.select("group_id", "split").iter_rows())
    split = pl.col("group_id").replace_strict(splits, default=pl.col("split"), return_dtype=pl.String)
    return joined.with_columns(split=pl.coalesce("_split", split)).drop("_name", "_group", "_split")
