"""Files into the lake: candidates and recorded outputs are written, and what became of the file is said.

What ``arislab import people.csv --as candidates --id badge`` prints::

    3 candidates = 3 new + 0 replaced; 3 groups
    splits: 2 train, 0 validation, 1 test
    read from people.csv: every value as text
    columns: badge, postcode, note; none dropped
    first row: 007: {"badge":"007","postcode":"02116","note":"knows locks"}
    warning: none of these candidates is in the validation split; …

This module knows neither formats (``files``) nor how rows become candidates (``lake_rows``), but what a lake may hold
already.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch as requests_of
from arislab import scoring
from arislab.errors import PrerequisiteError
from arislab.inputs import account, batch_files, earlier, files, lake_rows
from arislab.inputs.rows import Rows
from arislab.lake import receipts
from arislab.review import decisions
from arislab.system import spilled
from arislab.task import Task


def candidates(
    lake: Any,
    file: Path,
    task: Task | None,
    *,
    id: str,
    group: str | None = None,
    text: str | None = None,
    split: str | None = None,
    read: dict[str, Any],
    dry_run: bool = False,
) -> list[str]:
    """Write the candidates of a file, and return what became of it, in lines.

    Candidates for which outputs are recorded keep their group and split, whatever the file says.

    Args:
        lake: Takes them.
        file: One row a candidate.
        task: Says what is asked about them; null: not known yet.
        id: As in ``lake_rows.candidates``.
        group: As in ``lake_rows.candidates``.
        text: Column that holds what is asked about a candidate; null: the task writes it, or it is the profile.
        split: As in ``lake_rows.candidates``.
        read: Options of ``files.read``.
        dry_run: True: nothing is written.

    Raises:
        PrerequisiteError: The file cannot be taken as it is, or ``split`` moves a candidate for which outputs are
            recorded.
    """
    rows = files.read(file, **read)
    rows, skipped = _let_in(lake, rows, rows.texts(id, "--id"))
    frame = lake_rows.candidates(rows, id=id, group=group, split=split)
    known = lake["candidates"].read()
    used = lake["training_data_raw"].read(columns=["candidate_id"]).unique()
    names = earlier.renamed(frame, known)
    asked: lake_rows.Asked = lake_rows.by_profile if task is None else lake_rows.by_task(task)
    if text is not None:
        rows.texts(text, "--text")  # refused here if no row has it; the question itself is read from the profile
        asked = lake_rows.by_column(text)
    fixed = used["candidate_id"].to_list()
    stand = lake_rows.placed(frame, known, asked=asked, recorded=_recorded_questions(lake), fixed=fixed, renamed=names)
    placed = stand.frame
    _refuse_moves(frame, placed, split)
    lake_rows.refuse_torn_groups(rows, frame, placed)
    again = known.join(frame, on="candidate_id", how="semi")
    lines = [
        f"{frame.height:,} candidates = {frame.height - again.height:,} new + {again.height:,} replaced; "
        f"{placed['group_id'].n_unique():,} groups",
        *skipped,
        *account.splits(placed),
        *account.read(rows, read["types"], rows.columns),
        f"first row: {account.short(frame['candidate_id'][0])}: {account.short(frame['profile'][0])}",
        *account.renamed(names),
        *account.changed(frame, again.join(used, on="candidate_id", how="semi")),
        *account.kept_groups(frame, placed, group),
        *account.exposed(stand.exposed),
    ]
    lines += account.unused_split(rows, split)
    if task is None and text is None:
        lines.append(
            "note: near-duplicates were sought in whole rows without the id; --task NAME seeks them in what the model "
            "is asked"
        )
    if not dry_run:
        lake["candidates"].upsert(placed)
    return account.ended(lines, placed, dry_run=dry_run)


def outputs(
    lake: Any,
    file: Path,
    task: Task,
    *,
    input: str,
    output: str,
    id: str | None = None,
    model: str | None = None,
    split: str | None = None,
    keep: Sequence[str] = (),
    author: str | None = None,
    read: dict[str, Any],
    dry_run: bool = False,
) -> list[str]:
    """Write outputs that were recorded elsewhere, with the candidates behind them.

    Returns what became of the file, in lines.

    Args:
        lake: Takes them.
        file: One row an output.
        task: Will judge them.
        input: As in ``lake_rows.outputs``.
        output: As in ``lake_rows.outputs``.
        id: As in ``lake_rows.outputs``.
        model: As in ``lake_rows.outputs``.
        split: As in ``lake_rows.outputs``.
        keep: As in ``lake_rows.outputs``.
        author: Who wrote them as examples: new groups are all for training, whatever their hash says, and what stands
            there counts as reviewed by its author. What is of a known group elsewhere, or resembles a candidate of the
            hidden split, is no example. Null: outputs of a model.
        read: Options of ``files.read``.
        dry_run: True: nothing is written.

    Raises:
        PrerequisiteError: As in ``candidates``, or the outputs cannot be taken as they are.
    """
    columns: dict[str, Any] = {"input": input, "output": output, "id": id, "model": model, "split": split}
    used = [name for name in (*columns.values(), *keep) if name]
    rows = files.read(file, wanted={*used, *read["types"]}, **read)
    reserved = scoring.reserved(task)
    people, raw = lake_rows.outputs(rows, task=task.name, keep=keep, reserved=reserved, **columns)
    rows, lines = _let_in(lake, rows, raw["candidate_id"])
    if lines:
        people, raw = lake_rows.outputs(rows, task=task.name, keep=keep, reserved=reserved, **columns)
    lines += account.read(rows, read["types"], used)
    lines += account.unused_split(rows, split)
    if n := raw.filter(pl.col("input").str.strip_chars() == "").height:
        lines.append(f"warning: {n:,} outputs have no question (--input is null or blank)")
    raw = raw.with_columns(error=pl.lit(None, dtype=pl.String))
    is_taught = author is not None
    lines = _write(lake, people, raw, lines, task=task, rows=rows, split=split, is_taught=is_taught, dry_run=dry_run)
    return lines if author is None or dry_run else [*_approved(lake, raw, author), *lines]


def _approved(lake: Any, raw: pl.DataFrame, author: str) -> list[str]:
    """Let the author's approval of each example stand in ``reviews``, once, and say how many there are.

    Afterwards: a loss in between leaves outputs that nobody has reviewed, and the same import approves them.
    """
    trained = lake["candidates"].read(columns=["candidate_id"], where={"split": "train"})
    rows = raw.filter(status="ok").join(trained, on="candidate_id", how="semi", maintain_order="left")
    seen = lake["reviews"].read()
    mine = seen.filter(reviewer=author, decision="approve").select("custom_id", "shown_sha256", "asked_sha256")
    shown = rows.select("custom_id", "input", output="llm_output").to_dicts()
    events = [decisions.event(row, "approve", reviewer=author, seen=seen) for row in shown]
    if events:
        keys = ["custom_id", "shown_sha256", "asked_sha256"]
        new = pl.concat(events).join(mine, on=keys, how="anti", maintain_order="left")
        if new.height:
            lake["reviews"].append(new)
    left = raw.height - rows.height
    more = f"; {left:,} are none: without an answer, or like a candidate that is kept unseen" if left else ""
    return [f"{rows.height:,} examples, approved by {author}{more}"]


def batch(lake: Any, file: Path, task: Task, *, requests: Path, dry_run: bool = False) -> list[str]:
    """Write the answers of an OpenAI batch output file, as ``outputs`` does.

    Its error file, or another part of it, may follow in another call.

    Args:
        lake: Where they are written.
        file: The output or error file.
        task: Judges them.
        requests: The input file of the batch, which has the questions.
        dry_run: Say what would become of it, and write nothing.
    """
    people, raw = batch_files.read(requests, file, task=task.name)
    gone = receipts.forgotten(lake.data, people["candidate_id"])
    skipped = account.skipped(gone, raw.filter(raw["candidate_id"].is_in([*gone])).height, raw.height)
    people, raw = (part.filter(~part["candidate_id"].is_in([*gone])) for part in (people, raw))
    read = [*skipped, f"read from {requests.name} and {file.name}"]
    return _write(lake, people, raw, read, task=task, dry_run=dry_run)


def _let_in(lake: Any, rows: Rows, names: Sequence[str | None] | pl.Series) -> tuple[Rows, list[str]]:
    """Return the rows of a file without those of people who were forgotten, and what is said of these."""
    gone = receipts.forgotten(lake.data, filter(None, names))
    if not gone:
        return rows, []
    kept = [i for i, name in enumerate(names) if name not in gone]
    skipped = account.skipped(gone, len(names) - len(kept), len(names))
    objects = spilled.listed(rows.rows[i] for i in kept)
    left = dataclasses.replace(rows, rows=objects, lines=[rows.lines[i] for i in kept])
    return left, skipped


def _write(
    lake: Any,
    people: pl.DataFrame,
    raw: pl.DataFrame,
    read: list[str],
    *,
    task: Task,
    rows: Rows | None = None,
    split: str | None = None,
    is_taught: bool = False,
    dry_run: bool,
) -> list[str]:
    known = lake["candidates"].read()
    columns = ["custom_id", "candidate_id", "task", "status", "error", "llm_output"]
    recorded = lake["training_data_raw"].read(columns=columns)
    before = recorded.filter(task=raw["task"][0])
    moved = raw.join(before, on="custom_id", suffix="_old").filter(pl.col("candidate_id") != pl.col("candidate_id_old"))
    names = dict(moved.select("candidate_id", "candidate_id_old").iter_rows())
    asked = _recorded_questions(lake)
    if rows is not None:  # else the messages are known
        asked = pl.concat([asked, raw.select("candidate_id", "input")])
    new = people.join(known, on="candidate_id", how="anti", maintain_order="left")  # what is known of a person stays
    question = lake_rows.or_else(lake_rows.by_task(task), lake_rows.by_input)
    stand = lake_rows.placed(new, known, asked=question, recorded=asked, renamed=names)
    if is_taught:
        # a group that the lake knows stays where it is, and what resembles one of the hidden split is in none
        is_free = pl.col("split").is_not_null() & ~pl.col("group_id").is_in(known["group_id"].to_list())
        taught = pl.when(is_free).then(pl.lit("train")).otherwise("split")
        stand = dataclasses.replace(stand, frame=stand.frame.with_columns(split=taught))
    places = pl.concat([part.select("candidate_id", "group_id", "split") for part in (stand.frame, known)])
    placed = people.drop("group_id", "split").join(places, on="candidate_id", how="left", maintain_order="left")
    placed = spilled.frame(placed)
    _refuse_moves(people, placed, split)
    if rows is not None and people["split"].count():
        lake_rows.refuse_torn_groups(lake_rows.of_candidates(rows, raw), people, placed)
    states = " + ".join(f"{n:,} {s}" for s, n in raw.group_by("status").len().sort("status").iter_rows())
    lines = [
        f"{raw.height:,} outputs = {states}; samples of {people.height:,} candidates in "
        f"{placed['group_id'].n_unique():,} groups",
        *account.splits(placed),
        *read,
        f"first row: {account.short(raw['input'][0])} -> {account.short(raw['llm_output'][0])}",
        *account.moved(moved),
        *account.respelled(earlier.respelled(raw, before)),
        *_recorded(raw, recorded),
        *account.several(placed, known, asked),
        *account.exposed(stand.exposed),
    ]
    if not dry_run:
        # candidates first: a loss in between leaves people without answers, not answers about nobody
        lake["candidates"].upsert(stand.frame)
        new = _without(raw, _telling_more(raw, recorded))
        lake["training_data_raw"].upsert(_without(new, _unchanged(new, lake, recorded)))
    return account.ended(lines, placed, dry_run=dry_run)


def _without(raw: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose custom_id none of the others has."""
    is_one = pl.col("custom_id").is_in(others["custom_id"].implode()).fill_null(value=False)
    return spilled.filtered(raw, ~is_one) if others.height else raw


def _weight() -> pl.Expr:
    """How much a row tells of its request: 2 an answer, 1 why none came, 0 that a file has no line of it."""
    is_missing = pl.col("error").str.contains('"code":"missing_line"', literal=True).fill_null(value=False)
    return pl.when(pl.col("status").is_in(requests_of.ANSWERED)).then(2).when(is_missing).then(0).otherwise(1)


def _telling_more(raw: pl.DataFrame, recorded: pl.DataFrame) -> pl.DataFrame:
    """Return the recorded rows that tell more of their request than the new ones.

    An answer is worth more than a failure.
    """
    new = raw.select("custom_id", _new=_weight())
    return recorded.join(new, on="custom_id").filter(_weight() > pl.col("_new"))


def _unchanged(raw: pl.DataFrame, lake: Any, recorded: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of rows that are recorded word for word.

    They keep when they came, on which it depends what a review queue could have drawn.
    """
    if not raw.join(recorded, on="custom_id", how="semi").height:
        return raw.select("custom_id").clear()
    known: pl.DataFrame = lake["training_data_raw"].read(columns=raw.columns, where={"task": raw["task"][0]})
    return known.join(raw.cast(known.schema), on=raw.columns, how="semi", nulls_equal=True).select("custom_id")


def _recorded(raw: pl.DataFrame, recorded: pl.DataFrame) -> list[str]:
    """What becomes of the answers that are recorded for the same requests."""
    lines = []
    if n := _telling_more(raw, recorded).filter(_weight() == 2).height:
        lines.append(f"note: {n:,} answers are recorded for requests to which this file has none; they are kept")
    both = raw.filter(_weight() == 2).join(recorded.filter(_weight() == 2), on="custom_id", suffix="_old")
    others = both.filter(pl.col("llm_output").ne_missing(pl.col("llm_output_old")))
    if others.height:
        new, old = others.select("llm_output", "llm_output_old").row(0)
        lines.append(
            f"warning: {others.height:,} recorded answers are replaced by other ones (first: {account.short(old)!r} by "
            f"{account.short(new)!r}); decisions on them are stale now, and a new lake (--root) keeps both"
        )
    return lines


def _recorded_questions(lake: Any) -> pl.DataFrame:
    """The questions of recorded outputs without messages, of which an id may have several."""
    rows: pl.DataFrame = lake["training_data_raw"].read(columns=["candidate_id", "input"], where={"messages": None})
    return rows


def _refuse_moves(frame: pl.DataFrame, placed: pl.DataFrame, split: str | None) -> None:
    both = frame.join(placed, on="candidate_id", suffix="_kept", maintain_order="left")
    moved = both.filter(pl.col("split") != pl.col("split_kept"))
    if moved.height:
        first = moved.row(0, named=True)
        raise PrerequisiteError(
            f"--split {split!r} moves {moved.height:,} candidates for which outputs are recorded (first: "
            f"{first['candidate_id']!r} from {first['split_kept']} to {first['split']}), but what was trained on must "
            "not become test; import into a new lake (--root). Nothing was imported."
        )
