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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch as requests_of
from arislab import questions, scoring
from arislab.batch import requests as batch_requests
from arislab.errors import PrerequisiteError, TaskError
from arislab.inputs import batch_files, earlier, files, lake_rows
from arislab.lake.tables import SPLITS
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
        id: As ``group``, ``text`` and ``split`` in ``inputs.candidates``.
        group: See ``id``.
        text: See ``id``.
        split: See ``id``.
        read: Options of ``files.read``.
        dry_run: True: nothing is written.

    Raises:
        PrerequisiteError: The file cannot be taken as it is, or ``split`` moves a candidate for which outputs are
            recorded.
    """
    rows = files.read(file, **read)
    frame = lake_rows.candidates(rows, id=id, group=group, split=split)
    known = lake["candidates"].read()
    used = lake["training_data_raw"].read(columns=["candidate_id"]).unique()
    names = earlier.renamed(frame, known)
    asked = lake_rows.by_column(text) if text is not None else lake_rows.by_profile if task is None else _asked(task)
    if text is not None:
        rows.texts(text, "--text")
    fixed = used["candidate_id"].to_list()
    stand = lake_rows.placed(frame, known, asked=asked, recorded=_recorded_questions(lake), fixed=fixed, renamed=names)
    placed = stand.frame
    _refuse_moves(frame, placed, split)
    lake_rows.refuse_torn_groups(rows, frame, placed)
    again = known.join(frame, on="candidate_id", how="semi")
    said = [
        f"{frame.height:,} candidates = {frame.height - again.height:,} new + {again.height:,} replaced; "
        f"{placed['group_id'].n_unique():,} groups",
        *_splits(placed),
        *_read(rows, read["types"], rows.columns),
        f"first row: {_short(frame['candidate_id'][0])}: {_short(frame['profile'][0])}",
        *_renamed(names),
        *_changed(frame, again.join(used, on="candidate_id", how="semi")),
        *_kept_groups(frame, placed, group),
        *_exposed(stand.exposed),
    ]
    if split is None and "split" in rows.columns:
        said.append("warning: the file has a column 'split', which decides nothing; give --split split if it should")
    if task is None and text is None:
        said.append(
            "note: near-duplicates were sought in whole rows without the id; --task NAME seeks them in what the model "
            "is asked"
        )
    if not dry_run:
        lake["candidates"].upsert(placed)
    return _ended(said, placed, dry_run=dry_run)


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
    read: dict[str, Any],
    dry_run: bool = False,
) -> list[str]:
    """Write outputs that were recorded elsewhere, with the candidates behind them.

    Returns what became of the file, in lines.

    Args:
        lake: Takes them.
        file: One row an output.
        task: Will judge them.
        input: As ``output``, ``id``, ``model``, ``split`` and ``keep`` in ``inputs.outputs``.
        output: See ``input``.
        id: See ``input``.
        model: See ``input``.
        split: See ``input``.
        keep: See ``input``.
        read: Options of ``files.read``.
        dry_run: True: nothing is written.
    """
    columns: dict[str, Any] = {"input": input, "output": output, "id": id, "model": model, "split": split}
    used = [name for name in (*columns.values(), *keep) if name]
    rows = files.read(file, wanted={*used, *read["types"]}, **read)
    reserved = scoring.reserved(task)
    people, raw = lake_rows.outputs(rows, task=task.name, keep=keep, reserved=reserved, **columns)
    said = _read(rows, read["types"], used)
    if split is None and "split" in (*rows.columns, *rows.unread):
        said.append("warning: the file has a column 'split', which decides nothing; give --split split if it should")
    if n := raw.filter(pl.col("input").str.strip_chars() == "").height:
        said.append(f"warning: {n:,} outputs have no question (--input is null or blank)")
    raw = raw.with_columns(error=pl.lit(None, dtype=pl.String))
    return _write(lake, people, raw, said, task=task, rows=rows, split=split, dry_run=dry_run)


def batch(lake: Any, file: Path, task: Task, *, requests: Path, dry_run: bool = False) -> list[str]:
    """Write the answers of an OpenAI batch output file, as ``outputs`` does.

    Its error file, or another part of it, may follow.
    """
    people, raw = batch_files.read(requests, file, task=task.name)
    return _write(lake, people, raw, [f"read from {requests.name} and {file.name}"], task=task, dry_run=dry_run)


def _write(
    lake: Any,
    people: pl.DataFrame,
    raw: pl.DataFrame,
    read: list[str],
    *,
    task: Task,
    rows: files.Rows | None = None,
    split: str | None = None,
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
    stand = lake_rows.placed(new, known, asked=_asked_or_recorded(task), recorded=asked, renamed=names)
    places = pl.concat([part.select("candidate_id", "group_id", "split") for part in (stand.frame, known)])
    placed = people.drop("group_id", "split").join(places, on="candidate_id", how="left", maintain_order="left")
    _refuse_moves(people, placed, split)
    if rows is not None:
        lake_rows.refuse_torn_groups(lake_rows.of_candidates(rows, raw), people, placed)
    states = " + ".join(f"{n:,} {s}" for s, n in raw.group_by("status").len().sort("status").iter_rows())
    said = [
        f"{raw.height:,} outputs = {states}; samples of {people.height:,} candidates in "
        f"{placed['group_id'].n_unique():,} groups",
        *_splits(placed),
        *read,
        f"first row: {_short(raw['input'][0])} -> {_short(raw['llm_output'][0])}",
        *_moved(moved),
        *_respelled(earlier.respelled(raw, before)),
        *_recorded(raw, recorded),
        *_several(placed, known, asked),
        *_exposed(stand.exposed),
    ]
    if not dry_run:
        lake["candidates"].upsert(stand.frame)
        lake["training_data_raw"].upsert(raw.join(_telling_more(raw, recorded), on="custom_id", how="anti"))
    return _ended(said, placed, dry_run=dry_run)


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


def _recorded(raw: pl.DataFrame, recorded: pl.DataFrame) -> list[str]:
    """What becomes of the answers that are recorded for the same requests."""
    said = []
    if n := _telling_more(raw, recorded).filter(_weight() == 2).height:
        said.append(f"note: {n:,} answers are recorded for requests to which this file has none; they are kept")
    both = raw.filter(_weight() == 2).join(recorded.filter(_weight() == 2), on="custom_id", suffix="_old")
    others = both.filter(pl.col("llm_output").ne_missing(pl.col("llm_output_old")))
    if others.height:
        new, old = others.select("llm_output", "llm_output_old").row(0)
        said.append(
            f"warning: {others.height:,} recorded answers are replaced by other ones (first: {_short(old)!r} by "
            f"{_short(new)!r}); decisions on them are stale now, and a new lake (--root) keeps both"
        )
    return said


def _recorded_questions(lake: Any) -> pl.DataFrame:
    """The questions of recorded outputs without messages, of which an id may have several."""
    found: pl.DataFrame = lake["training_data_raw"].read(columns=["candidate_id", "input"], where={"messages": None})
    return found


def _asked(task: Task) -> lake_rows.Asked:
    return lambda candidate: batch_requests.written(task.to_messages, candidate)


def _asked_or_recorded(task: Task) -> lake_rows.Asked:
    """What the task asks; where it cannot, what was recorded: it need not be able to ask, only to judge."""

    def asked(candidate: dict[str, Any]) -> str | lake_rows.Chat | None:
        try:
            return batch_requests.written(task.to_messages, candidate)
        except TaskError:
            return lake_rows.by_input(candidate)

    return asked


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


def _renamed(names: dict[str, str]) -> list[str]:
    if not names:
        return []
    new, old = next(iter(names.items()))
    return [
        f"note: {len(names):,} candidates stand in the lake under a name that an older import changed ({old!r} for "
        f"{new!r}); they are new rows, in the old ones' group and split. The old rows stay, because recorded outputs "
        "name them: a new lake (--root) is without"
    ]


def _changed(frame: pl.DataFrame, asked: pl.DataFrame) -> list[str]:
    both = asked.join(frame, on="candidate_id", suffix="_new")
    n = both.filter(pl.col("profile") != pl.col("profile_new")).height
    if not n:
        return []
    return [
        f"note: {n:,} candidates for which outputs are recorded have another profile now; the outputs keep the "
        "messages that they answered, and 1_generate asks again where messages change"
    ]


def _kept_groups(frame: pl.DataFrame, placed: pl.DataFrame, group: str | None) -> list[str]:
    kept = frame.join(placed, on="candidate_id", suffix="_kept", maintain_order="left")
    kept = kept.filter(pl.col("group_id") != pl.col("group_id_kept"))
    if not kept.height:
        return []
    row = kept.row(0, named=True)
    return [
        f"warning: --group {group!r} does not count for {kept.height:,} candidates (first: {row['candidate_id']!r} "
        f"stays in {row['group_id_kept']!r}): outputs are recorded for them, and what was trained on must never move "
        "into the test split. A new lake (--root) takes the groups as given"
    ]


def _moved(moved: pl.DataFrame) -> list[str]:
    if not moved.height:
        return []
    return [
        f"note: {moved.height:,} rows of an older import are samples of another candidate now, which is the whole "
        f"conversation and not its last message; {moved['candidate_id'].n_unique():,} candidates are new, in the old "
        "ones' group and split"
    ]


def _respelled(pairs: list[tuple[str, str]]) -> list[str]:
    if not pairs:
        return []
    new, old = pairs[0]
    return [
        f"note: {len(pairs):,} answers stand in the lake as an older import spelled them ({old!r} for {new!r}) and now "
        "as they are; the old rows stay, because reviews name them: a new lake (--root) is without"
    ]


def _read(rows: files.Rows, types: dict[str, str], used: Sequence[str]) -> list[str]:
    """How a file was read, and which columns were kept."""
    dropped = [*(name for name in rows.columns if name not in used), *rows.unread]
    kinds = {"csv": "every value as text", "jsonl": "each line as it stands", "parquet": "values of the types there"}
    asked = [f"{name} as {kind}" for name, kind in types.items()]
    columns = ", ".join(dict.fromkeys(used)) + (f"; dropped: {', '.join(dropped)}" if dropped else "; none dropped")
    return [f"read from {rows.name}: {'; '.join([kinds[rows.kind], *rows.notes, *asked])}", f"columns: {columns}"]


def _splits(frame: pl.DataFrame) -> list[str]:
    counts = dict(frame.group_by("split").len().iter_rows())
    said = ["splits: " + ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)]
    if alone := counts.get(None):
        first = frame.filter(pl.col("split").is_null())["candidate_id"][0]
        said[0] += f", {alone:,} none"
        said.append(
            f"note: {alone:,} candidates are in no split, because what is asked about them stands on both sides of the "
            f"{SPLITS[-1]} split, in different groups (first: {first!r})"
        )
    return said


def _several(placed: pl.DataFrame, known: pl.DataFrame, asked: pl.DataFrame) -> list[str]:
    """What several questions under one id mean."""
    n = pl.col("input").n_unique()
    several = asked.drop_nulls().group_by("candidate_id", maintain_order=True).agg(n).filter(pl.col("input") > 1)
    several = several.join(placed, on="candidate_id", how="semi", maintain_order="left")
    if not several.height:
        return []
    largest = max(placed.group_by("group_id").len()["len"].to_list())
    said = [
        f"note: {several.height:,} candidates have several questions (first: {_short(several['candidate_id'][0])}); "
        f"who shares one is of one group (the largest has {largest:,}), and phases 1 and 3 to 5 ask the first; leave "
        "--id out, and each question is a candidate of its own"
    ]
    own = known.join(several, on="candidate_id", how="semi", maintain_order="left")
    own = own.filter([not questions.takes(json.loads(profile)) for profile in own["profile"]])
    if own.height:
        said.append(
            f"warning: {own.height:,} of them (first: {_short(own['candidate_id'][0])}) have a profile without "
            "'input', about which the task writes one question: all answers would be trained as answers to that one; "
            "leave --id out"
        )
    return said


def _exposed(exposed: pl.DataFrame) -> list[str]:
    """Test candidates of the lake that stand outside of the test split too, by name."""
    if not exposed.height:
        return []
    pairs = [f"{_short(name)} as {_short(other)}" for name, other in exposed.head(20).iter_rows()]
    more = f" and {exposed.height - 20:,} more" if exposed.height > 20 else ""
    return [
        f"warning: {exposed.height:,} candidates of the {SPLITS[-1]} split are asked what is asked outside of it too "
        f"({', '.join(pairs)}{more}): what is in the lake keeps its split, so phase 5 refuses when it asks these "
        "(leaks 'drop' takes them out); a new lake (--root) places all anew"
    ]


def _short(text: str | None) -> str:
    """The start of a text, on one line."""
    if text is None:
        return "null"
    start = text[:160].replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return start if len(text) <= 160 else start + "…"


def _ended(said: list[str], frame: pl.DataFrame, *, dry_run: bool) -> list[str]:
    """What was said, with what is true of every import."""
    missing = " and ".join(split for split in SPLITS[1:] if split not in set(frame["split"]))
    warning = [
        f"warning: the {missing} split has none of these candidates; phases 3 to 5 need some: import more, or give "
        "--split"
    ]
    return [*said, *(warning if missing else []), *(["dry run: nothing was written"] if dry_run else [])]
