"""Rows of a user's file to rows of the lake: candidates, and outputs that were recorded elsewhere.

One row of a file, and the candidate that it becomes (``--id badge``)::

    {"badge": "007", "title": "cook", "years": Number("1.50")}
    candidate_id='007', profile='{"badge":"007","title":"cook","years":1.50}', title='cook', split='train'

An id, an input or an answer is text: the characters of the file. Nothing is written here: every function returns
frames, whole or not at all, and the caller writes them. How a file is read is known in ``files``, what a batch file is
in ``batch_files``.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from arislab import duplicates, questions
from arislab.batch import protocol, requests
from arislab.errors import PrerequisiteError, TaskError
from arislab.inputs.rows import Rows
from arislab.lake import tables
from arislab.system import equals, json_text, spilled
from arislab.task import Task, candidate_of

THRESHOLD = 0.8
"""Jaccard similarity of word 3-shingles from which two questions are one group, as in phase 5's search for leaks."""

_FACTS = ("company", "title", "category", "use_case")


Chat = list[dict[str, Any]]
Asked = Callable[[dict[str, Any]], str | Chat | None]
"""A row of ``candidates`` (profile parsed) to what the model is asked about it: a text, or the messages."""


@dataclass(frozen=True)
class Placed:
    """Where candidates stand, and what that did to others."""

    frame: pl.DataFrame
    """The candidates given, each with its group_id and split (null: in none)."""
    exposed: pl.DataFrame
    """candidate_id of the lake's own test candidates that are asked what others outside of the test split are asked,
    and id of one of these."""


def candidates(rows: Rows, *, id: str, group: str | None = None, split: str | None = None) -> pl.DataFrame:
    """Return rows of ``candidates`` from a user's own profiles, for ``placed``.

    The profile is the row itself, as JSON. Columns named company, title, category and use_case fill those of the table.

    Args:
        rows: One per candidate.
        id: Column with unique names.
        group: Column that related candidates share; they stay in one split. Null or blank: of no group.
        split: Column with train, validation or test.

    Returns:
        One row per candidate; group_id and split are null where the file does not say them.

    Raises:
        PrerequisiteError: A column is missing, ids are empty or repeated, a split is none, or one group has two.
    """
    rows.check(id, "--id")
    ids = _named(rows, id)
    columns: dict[str, Sequence[str | None]] = {"candidate_id": ids}
    columns |= {name: [json_text.as_text(row.get(name)) for row in rows.rows] for name in _FACTS}
    columns |= {"profile": [json_text.dumps(row) for row in rows.rows]}
    named = [None] * len(ids) if group is None else rows.texts(group, "--group")
    columns["group_id"] = [None if name is None or not name.strip() else f"g-{name}" for name in named]
    columns["split"] = [None] * len(ids) if split is None else _given_splits(rows, split)
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    refuse_torn_groups(rows, frame, frame)
    return frame.with_columns(pl.col("use_case").fill_null("general"))


def refuse_torn_groups(rows: Rows, frame: pl.DataFrame, placed: pl.DataFrame) -> None:
    """Refuse a file that marks rows of one group with two splits.

    Args:
        rows: Of the file.
        frame: From ``candidates``, with the splits of the file.
        placed: The same rows in their groups.

    Raises:
        PrerequisiteError: There is such a group; the message names two of its rows.
    """
    first: dict[str, int] = {}
    splits = frame["split"].to_list()
    for i, (group, split) in enumerate(zip(placed["group_id"], splits, strict=True)):
        other = i if group is None or split is None else first.setdefault(group, i)
        if splits[other] != split:
            raise rows.refuse(
                i,
                f"the row is marked {split}, {rows.place(other)} is marked {splits[other]}, and both are of group "
                f"{group!r} (near-duplicates, or the same --group); mark them alike or drop one",
            )


def by_column(name: str) -> Asked:
    """Return what takes a column of the profile for what is asked."""
    return lambda candidate: json_text.as_text(candidate["profile"].get(name))


def by_task(task: Task) -> Asked:
    """Return what writes the question of a task about a candidate; a TaskError where it cannot."""
    return lambda candidate: requests.written(task.to_messages, candidate)


def or_else(asked: Asked, otherwise: Asked) -> Asked:
    """Return what is asked, or something else where the task knows no question.

    A task need not be able to ask about candidates whose outputs it judges, or whom another task is about.
    """

    def text(candidate: dict[str, Any]) -> str | Chat | None:
        try:
            return asked(candidate)
        except TaskError:
            return otherwise(candidate)

    return text


def by_input(candidate: dict[str, Any]) -> str | Chat | None:
    """Return what was asked about a candidate for whom outputs were recorded elsewhere.

    It is null of any other, whose messages may be anything.
    """
    chat = _chat(candidate["profile"])
    return chat if chat else json_text.as_text(candidate["profile"].get("input"))


def _chat(profile: dict[str, Any]) -> Chat:
    """The conversation that a profile holds; empty if none."""
    messages = profile.get("messages")
    is_chat = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
    return messages if is_chat and messages else []


def by_profile(candidate: dict[str, Any]) -> str:
    """Return the profile without the name of the candidate, where nobody says what is asked."""
    rest = {k: v for k, v in candidate["profile"].items() if json_text.as_text(v) != candidate["candidate_id"]}
    return json_text.dumps(rest)


def placed(
    frame: pl.DataFrame,
    known: pl.DataFrame,
    *,
    asked: Asked,
    recorded: pl.DataFrame | None = None,
    fixed: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Placed:
    """Return candidates in their groups and splits.

    A candidate without a group joins that of its near-duplicates, in the file and in the lake, by any question that was
    asked under its name, and its split is a stable hash of the group. Where near-duplicates are of several groups,
    these are not merged: what would be test is then in no split, unless it stands in the lake and is not given here:
    then it stays where it is, and is ``exposed``.

    Args:
        frame: From ``candidates``: candidate_id, profile, group_id and split (null: not given), and more.
        known: candidate_id, profile, group_id, split and more of the candidates in the lake.
        asked: What is asked about a candidate; null resembles nothing.
        recorded: candidate_id and input, the questions of all outputs without messages, those of the lake too.
        fixed: Names of those in the lake that keep group and split, because outputs are recorded for them: what was
            trained on must never move into the test split because a larger file groups it anew.
        renamed: New name to the name in the lake of a candidate that an earlier import wrote otherwise; it takes over
            group and split.
    """
    before = known.select(_name="candidate_id", _group="group_id", _split="split")
    keeps = before.filter(pl.col("_name").is_in([*fixed, *(renamed or {}).values()]))
    name = pl.col("candidate_id").replace(dict(renamed or {}))
    new = frame.with_columns(_name=name).join(keeps, on="_name", how="left", maintain_order="left")
    new = new.with_columns(group_id=pl.coalesce("_group", "group_id"), split=pl.coalesce("_split", "split"))
    others = known.join(frame, on="candidate_id", how="anti")
    places = pl.concat([part.select("candidate_id", "group_id", "split") for part in (new, others)])
    texts = spilled.frames(
        itertools.chain(_texts(frame, asked, recorded), _texts(others, or_else(asked, lambda _: None), recorded))
    )
    every = texts.join(places, on="candidate_id", how="left", maintain_order="left")
    grouped = duplicates.split(every, split_of=tables.split_of, hidden=tables.SPLITS[-1], threshold=THRESHOLD)
    stands = frame.drop("group_id", "split").join(grouped, on="candidate_id", how="left", maintain_order="left")
    return Placed(spilled.frame(stands), _exposed(every, others, grouped))


def _exposed(every: pl.DataFrame, others: pl.DataFrame, grouped: pl.DataFrame) -> pl.DataFrame:
    """The test candidates of the lake that had to leave their split, and whom each of them resembles."""
    leave = others.filter(split=tables.SPLITS[-1]).join(
        grouped.filter(pl.col("split").is_null()), on="candidate_id", how="semi"
    )
    if not leave.height:
        return pl.DataFrame(schema={"candidate_id": pl.String, "id": pl.String})
    rows = every.drop("group_id", "split").join(grouped, on="candidate_id", how="left", maintain_order="left")
    test = rows.filter("whole").join(leave, on="candidate_id", how="semi", maintain_order="left")
    used = rows.filter(pl.col("split") != tables.SPLITS[-1]).with_columns(id="candidate_id")
    alike = duplicates.leaks(test, used, everybody=rows.filter("whole")["text"], threshold=THRESHOLD)
    return alike.select("candidate_id", "id")


def _texts(people: pl.DataFrame, asked: Asked, recorded: pl.DataFrame | None) -> Iterator[pl.DataFrame]:
    """All that is asked under the names of candidates, as ``duplicates.split`` reads it: candidate_id, text, whole.

    Some candidates at a time, and once without any.
    """
    schema = {"candidate_id": pl.String, "text": pl.String, "whole": pl.Boolean}
    yield pl.DataFrame(schema=schema)
    recorded = (
        recorded if recorded is not None else pl.DataFrame(schema={"candidate_id": pl.String, "input": pl.String})
    )
    rows, of = _behind(recorded, people)
    for start in range(0, people.height, 5 * _ROWS):
        part = people.slice(start, 5 * _ROWS)
        names, texts, wholes = [], [], []
        first, last = np.searchsorted(of, [start, start + part.height])
        told: list[dict[str, None]] = [{} for _ in range(part.height)]  # the distinct questions of each, in their order
        for i, question in zip(of[first:last] - start, recorded["input"].gather(rows[first:last]), strict=True):
            told[i][question] = None
        for i, row in enumerate(part.iter_rows(named=True)):
            known = [question for question in told[i] if question is not None]
            for text, whole in _texts_of(candidate_of(row), asked, known):
                names.append(row["candidate_id"])
                texts.append(text)
                wholes.append(whole)
        yield pl.DataFrame({"candidate_id": names, "text": texts, "whole": wholes}, schema=schema)


def _behind(recorded: pl.DataFrame, people: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the rows about these people, and the number of the one that each is about; ordered by that."""
    numbers = people.select("candidate_id").with_row_index("_row").unique("candidate_id", keep="first")
    of = recorded.select("candidate_id").join(numbers, on="candidate_id", how="left", maintain_order="left")["_row"]
    rows = of.is_not_null().arg_true().to_numpy().astype(np.int64)
    told = of.drop_nulls().to_numpy().astype(np.int64)
    order = np.argsort(told, kind="stable")
    return rows[order], told[order]


def _texts_of(candidate: dict[str, Any], asked: Asked, recorded: Sequence[str]) -> Iterator[tuple[str | None, bool]]:
    """The texts of a candidate: of each question all that is asked.

    After these come the ends of conversations, which may be trained on too, where they are other texts.
    """
    chat = _chat(candidate["profile"])
    parts = {duplicates.asked(chat), protocol.asked(chat)} if chat else set()
    wholes = set()
    for one in questions.each(candidate, recorded):
        question = asked(one) if one is candidate else or_else(asked, lambda _: None)(one)
        whole = duplicates.asked(question) if isinstance(question, list) else question
        if whole in wholes:
            continue
        yield whole, True
        wholes.add(whole)
        if isinstance(question, list):
            parts.add(protocol.asked(question))
    yield from ((part, False) for part in sorted(parts - wholes))


def _given_splits(rows: Rows, split: str) -> list[str]:
    splits = rows.texts(split, "--split")
    for i, name in enumerate(splits):
        if name not in tables.SPLITS:
            raise rows.refuse(i, f"--split {split!r} must be one of {', '.join(tables.SPLITS)}, got {name!r}")
    return [str(name) for name in splits]


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

    Several outputs of one input (or of one ``id``) are samples of one candidate, whose profile is ``{"input": …}`` with
    the first of its inputs; each row keeps its own. Importing the same file twice gives the same rows. A null or blank
    output is a row with status empty.

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
    rows.check(input, "--input")
    rows.check(output, "--output")
    if model:
        rows.check(model, "--model")
    if id:
        rows.check(id, "--id")
    _check_kept(rows, keep, reserved)
    raw = spilled.frames(_parts(rows, task=task, input=input, output=output, id=id, model=model, keep=keep))
    first = equals.first_of_equals(raw.select("candidate_id"))  # numbers: texts take far more to group
    raw = raw.with_columns(sample=pl.Series(equals.number_among(first)).cast(pl.Int32))
    people = _people(rows, raw, first, split)
    return people, spilled.frame(raw.with_columns(spilled.frames(_names(raw, task))))


_ROWS = 10_000
"""Rows whose values are Python's at once."""


def _parts(
    rows: Rows,
    *,
    task: str,
    input: str,
    output: str,
    id: str | None,
    model: str | None,
    keep: Sequence[str],
) -> Iterator[pl.DataFrame]:
    """Some outputs at a time: candidate_id, input, llm_output, model, metadata, request_sha256, status, task.

    The digests are those of rows to which no other is equal.
    """
    texts = ("candidate_id", "input", "llm_output", "model", "metadata", "request_sha256")
    schema = dict.fromkeys(texts, pl.String)
    is_empty = pl.col("llm_output").str.strip_chars().str.len_bytes().fill_null(0) == 0
    objects = iter(rows.rows)
    start = 0
    while some := list(itertools.islice(objects, _ROWS)):
        asked = [json_text.as_text(row.get(input)) or "" for row in some]
        ids = [_name(rows, start + i, row, id) if id else hashed(asked[i]) for i, row in enumerate(some)]
        answers = [json_text.as_text(row.get(output)) for row in some]
        models = [json_text.as_text(row.get(model)) if model else None for row in some]
        kept = [json_text.dumps({name: row[name] for name in keep if name in row}) if keep else None for row in some]
        digests = [_digest(task, *row, 0) for row in zip(ids, asked, answers, models, strict=True)]
        columns = dict(zip(texts, (ids, asked, answers, models, kept, digests), strict=True))
        yield pl.DataFrame(columns, schema=schema).with_columns(  # one row per output
            status=pl.when(is_empty).then(pl.lit("empty")).otherwise(pl.lit("ok")), task=pl.lit(task)
        )
        start += len(some)


def _names(raw: pl.DataFrame, task: str) -> Iterator[pl.DataFrame]:
    """Some rows at a time: custom_id and request_sha256.

    Equal rows are told apart by a number, all others by what they say: the order of the file changes no name.
    """
    content = raw.select("candidate_id", "input", "llm_output", "model")
    again = equals.number_among(equals.first_of_equals(content))
    for start in range(0, raw.height, _ROWS):
        digests = raw["request_sha256"].slice(start, _ROWS)
        more = np.flatnonzero(again[start : start + _ROWS])
        equal = content.slice(start, _ROWS)[more].with_columns(again=again[start + more])
        digests = digests.scatter(more, [_digest(task, *row) for row in equal.iter_rows()]) if len(more) else digests
        yield pl.select(custom_id=pl.lit("r-") + digests.str.slice(0, 40), request_sha256=digests)


def _digest(task: str, *row: str | int | None) -> str:
    """What a recorded output is known by: candidate_id, input, llm_output, model, and which of equal ones it is."""
    return hashlib.sha256(orjson.dumps(["import", task, *row])).hexdigest()


def _named(rows: Rows, id: str) -> list[str]:
    """The names of a column, each there, and once."""
    first: dict[str, int] = {}
    names = [_name(rows, i, row, id) for i, row in enumerate(rows.rows)]
    for i, name in enumerate(names):
        if name in first:
            raise rows.refuse(
                i,
                f"--id {id!r} {name!r} stands {names.count(name):,} times (first in {rows.place(first[name])}); it "
                "must be unique, or choose another column",
            )
        first[name] = i
    return names


def _name(rows: Rows, i: int, row: dict[str, Any], id: str) -> str:
    name = json_text.as_text(row.get(id))
    if name is None or not name.strip():
        raise rows.refuse(i, f"--id {id!r} is empty; give each row a name, or choose another column")
    return name


def _check_kept(rows: Rows, keep: Sequence[str], reserved: Collection[str]) -> None:
    """Refuse columns that cannot be kept."""
    for name in keep:
        rows.check(name, "--keep")
        if name in reserved or name.startswith("score_"):
            instead = "--split decides the split" if name == "split" else "rename the column"
            raise PrerequisiteError(
                f"--keep {name!r}: scorers know something else under this name; {instead}, nothing was imported."
            )


def _people(rows: Rows, raw: pl.DataFrame, first: NDArray[np.int64], split: str | None) -> pl.DataFrame:
    """The candidates behind recorded outputs, one row per candidate, for ``placed``; ``first`` is where each stands."""
    lines = np.flatnonzero(first == np.arange(len(first)))
    asked = spilled.taken(raw.select("candidate_id", "input"), pl.Series(lines))
    people = spilled.frames(
        nameless(part["candidate_id"], [orjson.dumps({"input": text}).decode() for text in part["input"]])
        for part in asked.iter_slices(_ROWS)
    )
    if split is None:
        return people
    given = _given_splits(rows, split)
    for i, place in enumerate(first.tolist()):
        if given[i] != given[place]:
            raise rows.refuse(
                i,
                f"the row is marked {given[i]}, {rows.place(place)} about the same candidate {given[place]}; mark "
                "them alike",
            )
    return people.with_columns(split=pl.Series([given[i] for i in lines.tolist()], dtype=pl.String))


def nameless(ids: pl.Series, profiles: Sequence[str] | pl.Series) -> pl.DataFrame:
    """Return rows for ``placed`` of those about whom outputs were recorded.

    Nothing but their names and profiles is known.
    """
    frame = pl.DataFrame({"candidate_id": ids, "profile": profiles}, schema_overrides={"profile": pl.String})
    nothing = pl.lit(None, dtype=pl.String)
    return spilled.frame(frame.with_columns(group_id=nothing, split=nothing, use_case=pl.lit("general")))


def of_candidates(rows: Rows, raw: pl.DataFrame) -> Rows:
    """Return the rows of a file in which each candidate of ``outputs`` stands first."""
    places = raw.with_row_index("_line").unique("candidate_id", keep="first", maintain_order=True)["_line"].to_list()
    return Rows(rows.name, [], [rows.lines[i] for i in places], rows.kind)  # only where they stand is told of them


def hashed(text: str) -> str:
    """Return the name of a candidate without one: a digest of what is asked."""
    return "c-" + hashlib.sha256(text.encode()).hexdigest()[:24]
