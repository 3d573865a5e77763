"""Files from elsewhere to rows of the lake: candidates, and outputs that were recorded elsewhere.

One line of an OpenAI batch output file that ``from_batch_files`` joins with its request file::

    {
        "id": "…",
        "custom_id": "request-1",
        "response": {"status_code": 200, "body": {"choices": [...], "usage": {...}}},
        "error": null,
    }

Nothing is written here: every function returns frames, whole or not at all, and the caller writes them.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from arislab import batch, duplicates, tables
from arislab.errors import PrerequisiteError, closest


def read_file(path: str | Path) -> pl.DataFrame:
    r"""Return the rows of a CSV, JSONL or Parquet file; JSONL is split on ``\n`` bytes only.

    Raises:
        PrerequisiteError: No such file, another format, no rows, or a line that is not JSON (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise PrerequisiteError(f"there is no file {str(path)!r}; give a .csv, .jsonl or .parquet file.")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pl.read_csv(path, infer_schema_length=None)
        elif path.suffix in (".jsonl", ".ndjson"):
            frame = pl.DataFrame(read_lines(path), infer_schema_length=None, strict=False)
        else:
            raise PrerequisiteError(f"cannot read {path.name!r}; the ending must be .csv, .jsonl or .parquet.")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PrerequisiteError(
            f"cannot read {path.name}: {str(error).splitlines()[0]}; mend the file, nothing was imported."
        ) from None
    if not frame.height:
        raise PrerequisiteError(f"{path.name} has no rows; nothing was imported.")
    return frame


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, or name the line that is none."""
    if not path.is_file():
        raise PrerequisiteError(f"there is no file {str(path)!r}; give a .jsonl file.")
    found = []
    lines = path.read_bytes().split(b"\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=0)
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            torn = (
                "the last line is torn (was the file cut while it was written?)"
                if i == last and not line.endswith(b"}")
                else "this line is not JSON"
            )
            raise PrerequisiteError(
                f"{path.name} line {i + 1} of {last + 1}: {torn}: {error}; mend or drop the line, nothing was imported."
            ) from None
        if not isinstance(value, dict):
            raise PrerequisiteError(
                f"{path.name} line {i + 1}: a JSON object is needed, got {type(value).__name__}; nothing was imported."
            )
        found.append(value)
    return found


def _column(frame: pl.DataFrame, name: str, option: str) -> pl.Series:
    if name not in frame.columns:
        raise PrerequisiteError(f"{option} {name!r} is no column of the file; {closest(name, frame.columns)}.")
    return frame[name]


def candidates(frame: pl.DataFrame, *, id: str, group: str | None = None, text: str | None = None) -> pl.DataFrame:
    """Return rows of ``candidates`` from a user's own profiles.

    The profile is the row itself, as JSON. Columns named company, title, category and use_case fill those of the table.

    Args:
        frame: One row per candidate.
        id: Column with unique names.
        group: Column that related candidates share (they stay in one split). Without it candidates whose texts are
            near-duplicates (Jaccard of word 3-shingles >= 0.8) form a group.
        text: Column to compare; default all text columns together.

    Raises:
        PrerequisiteError: A column is missing, or ids are null or repeated.
    """
    ids = _column(frame, id, "--id").cast(pl.String)
    if ids.null_count() or ids.is_duplicated().any():
        bad = ids.filter(ids.is_null() | ids.is_duplicated())
        times = int(ids.is_null().sum() if bad[0] is None else ids.eq(bad[0]).sum())
        raise PrerequisiteError(
            f"--id {id!r} must be unique and never empty, got {bad[0]!r} {times:,} times ({bad.len():,} rows concerned); "
            "choose another column, nothing was imported."
        )
    profiles = pl.Series("profile", [orjson.dumps(row, default=str).decode() for row in frame.to_dicts()])
    if group is not None:
        groups = "g-" + _column(frame, group, "--group").cast(pl.String).fill_null(ids)
    else:
        texts = _column(frame, text, "--text").cast(pl.String) if text else profiles
        groups = _groups(ids, texts)
    out = pl.DataFrame({"candidate_id": ids, "profile": profiles, "group_id": groups})
    for name in ("company", "title", "category", "use_case"):
        values = (
            frame[name].cast(pl.String) if name in frame.columns else pl.Series([None] * frame.height, dtype=pl.String)
        )
        out = out.with_columns(values.alias(name))
    return _with_split(out.with_columns(pl.col("use_case").fill_null("general")))


def _groups(ids: pl.Series, texts: pl.Series) -> pl.Series:
    found = duplicates.groups(pl.DataFrame({"id": ids, "text": texts}), id="id")
    return pl.DataFrame({"id": ids}).join(found, on="id", how="left", maintain_order="left")["group_id"]


def _with_split(frame: pl.DataFrame) -> pl.DataFrame:
    splits = {group: tables.split_of(group) for group in frame["group_id"].unique()}
    return frame.with_columns(split=pl.col("group_id").replace_strict(splits, return_dtype=pl.String))


def outputs(
    frame: pl.DataFrame,
    *,
    task: str,
    input: str,
    output: str,
    id: str | None = None,
    model: str | None = None,
    keep: Sequence[str] = (),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rows of ``candidates``, rows of ``training_data_raw``) from outputs recorded elsewhere.

    Several outputs of one input (or of one ``id``) are samples of one candidate, whose profile is ``{"input": …}``. Importing the
    same file twice gives the same rows. A null or blank output is a row with status empty.

    Args:
        frame: One row per output.
        task: Name of the task file that will judge them.
        input: Column with the question.
        output: Column with the answer.
        id: Column that names the candidate; default: equal inputs are one candidate.
        model: Column with the model's name.
        keep: Columns kept as JSON in ``metadata``; scorers may ask for them by name.
    """
    inputs = _column(frame, input, "--input").cast(pl.String).fill_null("")
    answers = _column(frame, output, "--output").cast(pl.String)
    models = (
        _column(frame, model, "--model").cast(pl.String) if model else pl.Series([None] * frame.height, dtype=pl.String)
    )
    kept = frame.select([_column(frame, name, "--keep") for name in keep]) if keep else None
    names = _column(frame, id, "--id").cast(pl.String) if id else _hashed(inputs)
    if names.null_count():
        raise PrerequisiteError(
            f"--id {id!r} is empty in {names.null_count():,} of {frame.height:,} rows; choose another column, nothing was imported."
        )
    raw = pl.DataFrame({"candidate_id": names, "input": inputs, "llm_output": answers, "model": models})
    raw = raw.with_columns(sample=pl.int_range(pl.len()).over("candidate_id").cast(pl.Int32))
    metadata = (
        [orjson.dumps(row, default=str).decode() for row in kept.to_dicts()]
        if kept is not None
        else [None] * frame.height
    )
    status = (
        pl.when(pl.col("llm_output").str.strip_chars().str.len_bytes().fill_null(0) == 0)
        .then(pl.lit("empty"))
        .otherwise(pl.lit("ok"))
    )
    raw = raw.with_columns(status=status, metadata=pl.Series(metadata, dtype=pl.String))
    content = ["candidate_id", "input", "llm_output", "model"]
    # equal rows are told apart by a number, all others by what they say: the order of the file changes no name
    again = raw.select(*content, again=pl.int_range(pl.len()).over(content))
    digests = [hashlib.sha256(orjson.dumps(["import", task, *row])).hexdigest() for row in again.iter_rows()]
    raw = raw.with_columns(
        custom_id=pl.Series(["r-" + d[:40] for d in digests]), request_sha256=pl.Series(digests), task=pl.lit(task)
    )
    return _asked(raw), raw


def _hashed(texts: pl.Series) -> pl.Series:
    unique = {text: "c-" + hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts.unique()}
    return texts.replace_strict(unique, return_dtype=pl.String)


def _asked(raw: pl.DataFrame) -> pl.DataFrame:
    """The candidates behind recorded outputs, one row per candidate."""
    asked = raw.unique("candidate_id", keep="first", maintain_order=True)
    profiles = [orjson.dumps({"input": text}).decode() for text in asked["input"]]
    frame = pl.DataFrame({"candidate_id": asked["candidate_id"], "profile": pl.Series(profiles, dtype=pl.String)})
    groups = _groups(asked["candidate_id"], asked["input"])
    return _with_split(frame.with_columns(group_id=groups, use_case=pl.lit("general")))


def from_batch_files(requests: Path, results: Path, *, task: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rows of ``candidates``, rows of ``training_data_raw``) from an OpenAI batch input file and its output file.

    Every request is a row: one without a line in the output file has status unavailable.
    """
    sent, came = read_lines(requests), {line.get("custom_id"): line for line in read_lines(results)}
    rows: list[dict[str, Any]] = []
    drawn: dict[str, int] = {}
    for line in sent:
        if "custom_id" not in line or "messages" not in line.get("body", {}):
            raise PrerequisiteError(
                f"{requests.name} is no chat batch file: a line has no custom_id or no body.messages; nothing was imported."
            )
        body, messages = line["body"], line["body"]["messages"]
        text = str(messages[-1]["content"])
        asked = batch.canonical(body)
        drawn[asked] = drawn.get(asked, -1) + 1  # the same body several times: several samples
        row = {
            "custom_id": batch.custom_id(body, sample=drawn[asked]),
            "input": text,
            "messages": batch.canonical(messages),
            "model": body.get("model"),
        }
        row |= {
            "metadata": json.dumps({"imported_custom_id": line["custom_id"]}),
            "request_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        }
        rows.append(row | batch.outcome(came.pop(line["custom_id"], None), "completed"))
    if came:
        raise PrerequisiteError(
            f"{len(came):,} lines of {results.name} answer no request of {requests.name} (first: {next(iter(came))!r}); these files do not belong together, nothing was imported."
        )
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)  # one row per request
    frame = frame.with_columns(candidate_id=_hashed(frame["input"]), task=pl.lit(task))
    return _asked(frame), frame.with_columns(sample=pl.int_range(pl.len()).over("candidate_id").cast(pl.Int32))


def keep_known(frame: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return candidates in which those that the lake knows keep their group and split.

    A candidate that was trained on must never move into the test split because a larger file groups it anew.

    Args:
        frame: Rows of ``candidates``, new and known.
        known: candidate_id, group_id, split of those in the lake.
    """
    before = known.select("candidate_id", _group="group_id", _split="split")
    joined = frame.join(before, on="candidate_id", how="left", maintain_order="left")
    # a new member of a known group follows the group
    groups = dict(joined.filter(pl.col("_group").is_not_null()).select("group_id", "_group").iter_rows())
    moved = pl.col("group_id").replace_strict(groups, default=pl.col("group_id"), return_dtype=pl.String)
    return _with_split(joined.with_columns(group_id=pl.coalesce("_group", moved)).drop("_group", "_split"))
