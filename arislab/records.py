"""Reading run records: listing ten thousand of them, one of them whole, and what differs between two.

The truth is the files ``papermill_runs/*/run.json``; ``.index.sqlite`` beside them only remembers what was read, by time and size of the
file, and may be deleted at any time. This module writes no record.
"""

import contextlib
import difflib
import gc
import html
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from arislab import digests, provenance
from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.headline import number_text

OPEN = ("created", "running")
_SILENT_S = 30.0  # without a sign of life from another machine for this long, a run is lost

_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "phase": pl.String,
    "status": pl.String,
    "created_at": pl.Datetime("ms", "UTC"),
    "started_at": pl.Datetime("ms", "UTC"),
    "duration_s": pl.Float64,
    "parameters": pl.String,
    "headline": pl.String,
    "reason": pl.String,
    "commit": pl.String,
    "run_key": pl.String,
    "launched_by": pl.String,
    "folder": pl.String,
}


class Runs(pl.DataFrame):
    """One row per run, newest first; in a notebook it shows what a researcher compares.

    Columns: run_id, phase, status, created_at, started_at, duration_s, parameters and headline (JSON), reason, commit, run_key, launched_by, folder.
    Null: not known, or not yet.
    """

    def _repr_html_(self, *, _from_series: bool = False) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(row['run_id'])}</td><td>{html.escape(row['phase'] or '')}</td>"
            f"<td><b style='color:{_COLOURS.get(row['status'], 'inherit')}'>{row['status']}</b></td>"
            f"<td style='text-align:right'>{'' if row['duration_s'] is None else format(row['duration_s'], '.1f')}</td>"
            f"<td style='text-align:left'>{html.escape(row['reason'] or short(json.loads(row['headline'] or 'null')))}</td></tr>"
            for row in self.head(50).to_dicts()
        )
        more = f"<caption>the newest 50 of {self.height:,} runs</caption>" if self.height > 50 else ""
        head = "<tr><th>run</th><th>phase</th><th>status</th><th>seconds</th><th>headline, or why not ok</th></tr>"
        return f"<table>{more}{head}{rows}</table>" if rows else "<i>No runs yet: <code>arislab demo</code></i>"


_COLOURS = {"ok": "#2e7d32", "failed": "#c62828", "killed": "#c62828", "timeout": "#c62828", "lost": "#ef6c00"}


def as_json(root: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Return every record under a root, newest first, as plain dicts: the columns of ``list_runs``, cause, signal, cell and some more.

    ``read`` gives one whole. A record without a verdict is shown as ``lost`` if its supervisor is gone; a folder without a readable record as ``unreadable``.

    Args:
        root: Folder of ``papermill_runs/``.
        limit: The newest so many; null: all.
    """
    return [_seen(run) for run in _indexed(root / "papermill_runs", limit)]


def list_runs(root: Path) -> Runs:
    """Return the recorded runs under a root, newest first.

    Returns:
        One row per run, in the columns of ``Runs``.
    """
    rows = []
    for run in as_json(root):
        row = {name: run.get(name) for name in _SCHEMA}
        for name in ("created_at", "started_at"):
            row[name] = datetime.fromisoformat(str(row[name])) if row[name] else None
        row |= {name: row[name] if row[name] is None else json.dumps(row[name]) for name in ("parameters", "headline")}
        rows.append(row)
    return Runs(rows, schema=_SCHEMA, strict=False)  # one row per run


def read(folder: Path) -> dict[str, Any]:
    """Return one record whole, as ``as_json`` does."""
    return _seen(_read(folder))


def find(root: Path, name: str) -> dict[str, Any]:
    """Return the record whose run_id starts or ends with a text, or the newest run of a phase.

    Raises:
        PrerequisiteError: No run, or several.
    """
    base = root / "papermill_runs"
    if name and Path(name).name == name and (base / name / "run.json").is_file():
        return read(base / name)
    runs = as_json(root)
    found = [run for run in runs if run["run_id"].startswith(name) or run["run_id"].endswith(f"-{name}")]
    found = found or [run for run in runs if run["phase"] == name][:1]
    if len(found) != 1:
        known = [run["run_id"] for run in runs]
        which = (
            f"{len(found)} runs match, such as {found[0]['run_id']}; give more of it" if found else closest(name, known)
        )
        raise PrerequisiteError(f"there is no run {name!r} under {root}: {which}. `arislab runs` lists them.")
    return read(Path(found[0]["folder"]))


def where(runs: list[dict[str, Any]], condition: str) -> list[dict[str, Any]]:
    """Return the runs that fulfil a condition in SQL, over the columns of ``Runs`` and the numbers of the headline by name.

    Raises:
        ParameterError: The condition cannot be read.

    Example:
        >>> where([{"run_id": "a", "status": "ok", "headline": {"n": 3}}], "status = 'ok' and n > 2")[0]["run_id"]
        'a'
    """
    asked = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*|\"[^\"]+\"", condition))
    wanted = {name.strip('"') for name in asked}
    columns: dict[str, list[Any]] = {"_row": list(range(len(runs)))}
    for name in wanted:
        values = [_value(run, name) for run in runs]
        if any(value is not None for value in values):
            columns[name] = values
    frame = pl.DataFrame({name: pl.Series(name, values, strict=False) for name, values in columns.items()})
    try:
        kept = frame.filter(pl.sql_expr(condition))["_row"].to_list()
    except pl.exceptions.PolarsError as error:
        names = dict.fromkeys(
            name for run in runs for name in (*(run.get("headline") or ()), *(run.get("parameters") or ()))
        )
        raise ParameterError(
            f"--where {condition!r} cannot be answered: {str(error).splitlines()[0]}. Known: {', '.join([*_SCHEMA, *names])}."
        ) from None
    return [runs[number] for number in kept]


def _value(run: Mapping[str, Any], name: str) -> Any:
    """A column, else a number of the headline (its mean), else a parameter."""
    if name in _SCHEMA and name not in ("parameters", "headline"):
        return run.get(name)
    for part in ("headline", "parameters"):
        value = (run.get(part) or {}).get(name)
        value = value.get("mean") if isinstance(value, dict) else value
        if isinstance(value, (int, float, str)):
            return value
    return run.get(name) if isinstance(run.get(name), (int, float, str)) else None


def short(headline: Mapping[str, Any] | None) -> str:
    """Return a headline on one line."""
    return ", ".join(f"{name} {number_text(value)}" for name, value in (headline or {}).items() if name != "account")[
        :160
    ]


# ---- from files to rows -----------------------------------------------------------------------------------------------


def _indexed(base: Path, limit: int | None) -> list[dict[str, Any]]:
    """Return the records as they are on disk, newest first; files that have not changed since are taken from the index."""
    stamps = _stamps(base) if base.is_dir() else {}
    if not stamps:
        return []
    known: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_index(base)) as index:
        known = {name: (stamp, row) for name, stamp, row in index.execute("select name, stamp, row from runs")}
    fresh: dict[str, dict[str, Any]] = {}
    for name, stamp in stamps.items():
        if not stamp or known.get(name, ("",))[0] != stamp:
            fresh[name] = _summary(_read(base / name))
    gone = known.keys() - stamps.keys()
    if fresh or gone:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_index(base)) as index, index:
            new = ((n, stamps[n], json.dumps(row, default=str)) for n, row in fresh.items() if stamps[n])
            index.executemany("insert or replace into runs values (?, ?, ?)", new)
            index.executemany("delete from runs where name = ?", [(name,) for name in gone])
    names = sorted(stamps, key=lambda name: (_time_of(name, fresh), name), reverse=True)[:limit]
    rows = []
    was_on = gc.isenabled()
    gc.disable()  # ten thousand dicts make the collector look at all of them again and again
    try:
        for name in names:
            row = fresh.get(name) or orjson.loads(known[name][1])
            row["folder"] = f"{base}/{name}"
            rows.append(row)
    finally:
        if was_on:
            gc.enable()
    return rows


def _stamps(base: Path) -> dict[str, str]:
    """Name of each run's folder to what changes when its run.json is written; empty where there is none."""
    stamps = {}
    with os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                seen = os.stat(f"{entry.path}/run.json")  # noqa: PTH116 - ten thousand Paths would cost more than the stats
                stamps[entry.name] = f"{seen.st_mtime_ns} {seen.st_size} {seen.st_ino}"
            except OSError:
                if digests.RUN_ID.fullmatch(entry.name) and entry.is_dir():
                    stamps[entry.name] = ""
    return stamps


def _time_of(name: str, fresh: Mapping[str, Mapping[str, Any]]) -> str:
    """When a run was made: its folder's name begins with it; others (examples) are looked into."""
    if digests.RUN_ID.match(name) or name not in fresh:
        return name[:16]
    return str(fresh[name]["created_at"] or "").replace("-", "").replace(":", "")[:15] + "Z"


def _index(base: Path) -> sqlite3.Connection:
    index = sqlite3.connect(base / ".index.sqlite", timeout=2)
    index.execute("pragma page_size = 32768")
    index.execute("create table if not exists runs (name text primary key, stamp text not null, row text not null)")
    return index


_LISTED = (*_SCHEMA, "cause", "signal", "cell", "resumed_from", "rerun_of", "seed", "finished_at", "root")


def _summary(run: dict[str, Any]) -> dict[str, Any]:
    """What a list needs of a record; one without a verdict keeps what tells whether it is lost."""
    more = ("supervisor",) if run["status"] in OPEN else ()
    return {name: run.get(name) for name in (*_LISTED, *more)}


def _read(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_SCHEMA) | {
        "run_id": folder.name,
        "folder": str(folder),
        "status": "unreadable",
    }
    named = digests.RUN_ID.fullmatch(folder.name)
    if named:
        began = datetime.strptime(named[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        row |= {"phase": named[2], "created_at": began.isoformat(timespec="milliseconds")}
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found.setdefault("created_at", found.get("started_at"))  # records of version 1
        began = datetime.fromisoformat(found["created_at"])
        if not (began.tzinfo and isinstance(found["run_id"], str) and isinstance(found["parameters"], dict)):
            raise ValueError("fields of other types")
        row |= found | {"commit": found.get("code", {}).get("commit")}
        if row["status"] in OPEN:
            _ = row["supervisor"]["pid"]  # a record without one cannot be judged
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row |= {"status": "unreadable", "reason": f"run.json: {type(error).__name__}: {error}"}
    return row


def _seen(run: dict[str, Any]) -> dict[str, Any]:
    """The record as a reader sees it now: one without a verdict may be lost."""
    if run["status"] not in OPEN:
        return run
    is_gone = provenance.gone(run["supervisor"])
    if is_gone is None:
        heart = Path(run["folder"]) / "heartbeat"
        with contextlib.suppress(OSError):
            is_gone = time.time() - heart.stat().st_mtime > _SILENT_S
    if not is_gone:
        return run
    return run | {"status": "lost", "reason": "the process that ran it is gone and wrote no verdict"}


def reads_and_writes(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge the lines of tables.jsonl: what was read before it was written (inputs), and what was written, by table."""
    read: dict[str, Any] = {}
    written: dict[str, Any] = {}
    parts: dict[str, set[str]] = {}
    for entry in table_lines(path):
        table, version, rows = entry["table"], entry["version"], entry["rows"]
        if entry["op"] == "write":
            first = written.setdefault(table, {"version_before": entry.get("version_before"), "rows": 0})
            first |= {"version": version, "rows": rows + first["rows"]}
        elif table not in written:
            told = read.setdefault(table, {"version": version, "rows": rows})
            told["rows"] = max(told["rows"] or 0, rows or 0) if rows is not None else told["rows"]
            asked = [entry.get(name) for name in ("columns", "where", "sql", "digest")]
            parts.setdefault(table, set()).add(json.dumps(asked))
    for table, several in parts.items():
        read[table]["digest"] = digests.of_columns(dict.fromkeys(several, ""), len(several))
    return read, written


def table_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the lines of a tables.jsonl; a torn last one (the kernel died while it wrote) is left out."""
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            _ = entry["op"], entry["table"], entry["version"], entry["rows"]
            yield entry


# ---- two runs ---------------------------------------------------------------------------------------------------------


def diff(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Return what differs between two runs: lines of text by heading; headings without a difference are left out.

    Args:
        before: A record from ``find`` or ``read``.
        now: Another one.
    """
    one, other = Path(before["folder"]), Path(now["folder"])
    found = {
        "status": _pair(before["status"], now["status"]),
        "parameters": _fields(before["parameters"], now["parameters"]),
        "code": [
            *_fields(*({k: run.get("code", {}).get(k) for k in ("commit", "package_sha256")} for run in (before, now))),
            *_texts(one / "code.diff", other / "code.diff"),
        ],
        "notebook": _fields(*({"source": run.get("notebook", {}).get("source_sha256")} for run in (before, now))),
        "task file": _texts(one / "task.py", other / "task.py"),
        "environment": [
            *_fields(
                *({k: run.get("environment", {}).get(k) for k in ("python", "platform")} for run in (before, now))
            ),
            *_texts(one / "env.lock", other / "env.lock"),
        ],
        "inputs": _fields(*({k: _stand(v) for k, v in run.get("tables_read", {}).items()} for run in (before, now))),
        "outputs": _fields(
            *({k: _stand(v) for k, v in run.get("tables_written", {}).items()} for run in (before, now))
        ),
        "headline": _headlines(before.get("headline") or {}, now.get("headline") or {}),
        "cells": _cells(before, now),
    }
    return {name: lines for name, lines in found.items() if lines}


def places(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders that a run's outputs may name, for comparisons."""
    root = run.get("root") or str(Path(run["folder"]).parent.parent)
    return {"root": root, "code": run.get("code", {}).get("checkout") or ""}


def _pair(one: Any, other: Any) -> list[str]:
    return [] if one == other else [f"{one} → {other}"]


def _fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*one, *other])
    return [f"{n}: {one.get(n)!r} → {other.get(n)!r}" for n in names if one.get(n) != other.get(n)]


def _stand(told: Mapping[str, Any]) -> str:
    return (
        f"version {told.get('version')}, {told.get('rows'):,} rows, {str(told.get('digest'))[:12]}"
        if told.get("rows") is not None
        else f"version {told.get('version')}"
    )


def _texts(one: Path, other: Path) -> list[str]:
    before, now = ((p.read_text(errors="replace").splitlines() if p.is_file() else []) for p in (one, other))
    lines = difflib.unified_diff(before, now, lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _headlines(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Numbers side by side; intervals that do not overlap say so."""
    lines = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if a == b:
            continue
        line = f"{name}: {number_text(a)} → {number_text(b)}"
        if isinstance(a, dict) and isinstance(b, dict) and {"low", "high"} <= a.keys() & b.keys():
            apart = a["high"] < b["low"] or b["high"] < a["low"]
            line += " (intervals apart)" if apart else " (intervals overlap)"
        lines.append(line)
    return lines


def _cells(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The code cells whose outputs differ, with the first difference of each."""
    found = []
    for run in (before, now):
        try:
            notebook = json.loads((Path(run["folder"]) / "notebook.ipynb").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        found.append({cell["id"]: cell for cell in digests.cells(notebook, places=places(run))[0]})
    one, other = found
    lines = []
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            lines.append(f"{name}: only in {'the first' if name in one else 'the second'}")
        elif difference := digests.first_differing_cell([one[name]], [other[name]]):
            lines.append(difference.partition(" ")[2].partition(" ")[2].partition(" ")[2])
    return lines
