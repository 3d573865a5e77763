"""Reading run records: listing ten thousand of them, one of them whole, and what differs between two.

The truth is the files ``papermill_runs/*/run.json``; ``.index.sqlite`` beside them only remembers what was read, by time and size of the
file, and may be deleted at any time. This module writes no record.
"""

import contextlib
import difflib
import gc
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from arislab import canonical, provenance
from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.headline import number_text

OPEN = ("created", "running")
_SILENT_S = 30.0  # without a sign of life from another machine for this long, a run is lost

COLUMNS = (
    "run_id",
    "phase",
    "status",
    "created_at",
    "started_at",
    "duration_s",
    "parameters",
    "headline",
    "reason",
    "commit",
    "run_key",
    "launched_by",
    "folder",
)
"""What a list of runs has for each; null: not known, or not yet."""


def as_json(root: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Return every record under a root, newest first, as plain dicts: the columns of ``list_runs``, cause, signal, cell and some more.

    ``read`` gives one whole. A record without a verdict is shown as ``lost`` if its supervisor is gone; a folder without a readable record as ``unreadable``.

    Args:
        root: Folder of ``papermill_runs/``.
        limit: The newest so many; null: all.
    """
    return select(root, limit=limit)


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


def select(root: Path, *, where: str = "", sort: str = "", limit: int | None = None) -> list[dict[str, Any]]:
    """Return the runs that fulfil a condition, newest first or sorted.

    Args:
        root: Folder of ``papermill_runs/``.
        where: Condition in SQL (SQLite) over ``COLUMNS``, and the numbers of the headline (of intervals: the mean) and the parameters by name.
        sort: One of these; the largest first.
        limit: Most runs.

    Raises:
        ParameterError: The condition cannot be read, or no run has what is sorted by.
    """
    base = root / "papermill_runs"
    if not where and not sort:
        return _indexed(base, limit)
    with _no_collector():
        return _wholes(base, _chosen(base, where, sort)[:limit])


def _chosen(base: Path, where: str, sort: str) -> list[str]:
    """Return the folders of the runs that fulfil a condition, sorted."""
    with contextlib.closing(_whole_index(base)) as index:
        named = list(
            dict.fromkeys(
                [
                    *COLUMNS,
                    *(name for (name,) in index.execute("select name from named union select name from more_named")),
                ]
            )
        )
        said = f"{where} {sort}".lower()
        asked = [n for n in named if '"' not in n and (n.lower() in said or n in ("created_at", "run_id"))]
        values = [f"json_extract(brief, '$.numbers.\"{n}\"')" for n in (_quoted(name) for name in asked)]
        values = [
            f"coalesce(json_extract(brief, '$.{n}'), {v})" if n in COLUMNS else v
            for n, v in zip(asked, values, strict=True)
        ]
        columns = ", ".join(f'{value} as "{name}"' for name, value in zip(asked, values, strict=True))
        order = f'"{sort}"' if sort else "created_at"
        query = f"""with known as (select name, brief from listed where name not in (select name from seen) union all select name, brief from seen),
            runs as materialized (select name as "in folder", {columns} from known)
            select "in folder" from runs where {where or "true"} order by {order} is null, {order} desc, run_id desc"""
        try:
            chosen = [name for (name,) in index.execute(query)]
        except sqlite3.Error as error:
            raise ParameterError(
                f"--where {where!r} --sort {sort!r} cannot be answered: {error}. Known: {', '.join(named)}."
            ) from None
    if sort and sort not in named:
        raise ParameterError(f"--sort {sort!r}: no run has it; known: {', '.join(named)}.")
    return chosen


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _whole_index(base: Path) -> sqlite3.Connection:
    """Return the index with every run in it, and a table ``seen`` of those that read otherwise than they are stored: open ones."""
    names, fresh = _refreshed(base)
    index = _stored(base, set(names) - fresh.keys())
    if index is None:  # the one on disk cannot be written
        fresh = {name: _brief(_read(base / name)) for name in names}
        index = _made(sqlite3.connect(":memory:"))
    opened = index.execute("select name, brief from listed where is_open").fetchall()
    known = fresh | {name: orjson.loads(brief) for name, brief in opened}
    index.execute("create temp table more_named (name text primary key)")
    _note_names(index, fresh.values(), table="more_named")  # the index on disk may be closed to us
    index.execute("create temp table seen (name text primary key, brief text)")
    index.executemany(
        "insert into seen values (?, ?)",
        [
            (name, orjson.dumps(_seen(brief | {"folder": f"{base}/{name}"}), default=str).decode())
            for name, brief in known.items()
        ],
    )
    return index


def _stored(base: Path, names: set[str]) -> sqlite3.Connection | None:
    """Return the index on disk if it has these runs."""
    if not base.is_dir():
        return None
    try:
        index = _index(base)
    except sqlite3.Error:
        return None
    with contextlib.suppress(sqlite3.Error):
        if not names - {name for (name,) in index.execute("select name from listed")}:
            return index
    index.close()
    return None


def short(headline: Mapping[str, Any] | None) -> str:
    """Return a headline on one line."""
    return ", ".join(f"{name} {number_text(value)}" for name, value in (headline or {}).items() if name != "account")[
        :160
    ]


# ---- from files to rows -----------------------------------------------------------------------------------------------


def _indexed(base: Path, limit: int | None) -> list[dict[str, Any]]:
    """Return the records as they are on disk, newest first; files that have not changed since are taken from the index."""
    names = _refreshed(base)[0]
    named = [name for name in names if canonical.RUN_ID.match(name)]  # such a name begins with the time
    if len(named) < len(names):
        other = [name for name in names if not canonical.RUN_ID.match(name)]
        times = {name: str(_read(base / name)["created_at"] or "") for name in other}
        moments = {name: text.replace("-", "").replace(":", "")[:15] for name, text in times.items()}
        ordered = sorted(
            [(name[:16], name) for name in named] + [(moments[name], name) for name in moments], reverse=True
        )
        return _wholes(base, [name for _, name in ordered[:limit]])
    return _wholes(base, sorted(named, reverse=True)[:limit])


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the garbage collector from looking at ten thousand new dicts again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refreshed(base: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Bring the index up to what is on disk; return all folders of runs, and what a list needs of those that the index did not know."""
    stamps = _stamps(base) if base.is_dir() else {}
    if not stamps:
        return [], {}
    known: dict[str, str] = {}
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_index(base)) as index:
        known = dict(index.execute("select name, stamp from listed"))
    fresh, new = {}, []
    for name, stamp in stamps.items():
        if not stamp or known.get(name) != stamp:
            run = _read(base / name)
            fresh[name] = _brief(run)
            told = [orjson.dumps(each, default=str).decode() for each in (fresh[name], _shown(run))]
            new.append((name, stamp, run["status"] in OPEN, *told))
    gone = known.keys() - stamps.keys()
    if fresh or gone:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_index(base)) as index, index:
            index.executemany("insert or replace into listed values (?, ?, ?, ?, ?)", [row for row in new if row[1]])
            _note_names(index, fresh.values())
            changed = [*gone, *(row[0] for row in new if not row[1])]
            index.executemany("delete from listed where name = ?", [(name,) for name in changed])
    return list(stamps), fresh


def _wholes(base: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return what a list shows of these runs, in this order."""
    stored: dict[str, bytes] = {}
    few = names if len(names) <= 500 else []
    condition = f" where name in ({', '.join('?' * len(few))})" if few else ""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_index(base)) as index:
        stored = dict(index.execute(f"select name, whole from listed{condition}", few))
    with _no_collector():
        rows = [orjson.loads(stored[name]) if name in stored else _shown(_read(base / name)) for name in names]
    return [_seen(row | {"folder": f"{base}/{name}"}) for name, row in zip(names, rows, strict=True)]


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    return {key: run.get(key) for key in (*_LISTED, *(("supervisor",) if run["status"] in OPEN else ()))}


def _brief(run: dict[str, Any]) -> dict[str, Any]:
    """The columns of a run, its numbers and parameters by name, and what tells whether one without a verdict is lost."""
    told = {name: run.get(name) for name in COLUMNS if name not in ("parameters", "headline", "folder")}
    numbers = {}
    for part in ("parameters", "headline"):
        for name, value in (run.get(part) or {}).items():
            value = value.get("mean") if isinstance(value, dict) else value
            if isinstance(value, (int, float, str)):
                numbers[name.lower()] = value
    more = {"supervisor": run["supervisor"]} if run["status"] in OPEN else {}
    return told | {"numbers": numbers} | more


def _stamps(base: Path) -> dict[str, str]:
    """Name of each run's folder to what changes when its run.json is written; empty where there is none."""
    stamps, prefix = {}, str(base)
    for name in os.listdir(base):  # noqa: PTH208 - ten thousand Paths would cost more than the stats
        if name.startswith("."):
            continue
        try:
            seen = os.stat(f"{prefix}/{name}/run.json")  # noqa: PTH116 - the same
            stamps[name] = f"{seen.st_mtime_ns} {seen.st_size} {seen.st_ino}"
        except OSError:
            if canonical.RUN_ID.fullmatch(name) and (base / name).is_dir():
                stamps[name] = ""
    return stamps


_VERSION = 2
_SCHEMA = """
drop table if exists listed;
drop table if exists named;
create table listed (name text primary key, stamp text, is_open int, brief text, whole text);
create index stamps on listed (name, stamp);
create index open on listed (is_open) where is_open;
create table named (name text primary key);
"""


def _index(base: Path) -> sqlite3.Connection:
    return _made(sqlite3.connect(base / ".index.sqlite", timeout=2))


def _made(index: sqlite3.Connection) -> sqlite3.Connection:
    """Make the tables of an index that has none, or those of another version."""
    if index.execute("pragma user_version").fetchone()[0] != _VERSION:
        index.executescript(f"begin; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
    return index


def _note_names(index: sqlite3.Connection, briefs: Iterable[dict[str, Any]], table: str = "named") -> None:
    """Remember under which names numbers and parameters can be asked for."""
    names = {name for brief in briefs for name in brief["numbers"]}
    index.executemany(f"insert or ignore into {table} values (?)", [(name,) for name in sorted(names)])


_LISTED = (*COLUMNS, "cause", "signal", "cell", "resumed_from", "rerun_of", "seed", "finished_at", "root")


def _read(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "run_id": folder.name,
        "folder": str(folder),
        "status": "unreadable",
    }
    named = canonical.RUN_ID.fullmatch(folder.name)
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
        read[table]["digest"] = hashlib.sha256(json.dumps(sorted(several)).encode()).hexdigest()
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
        found.append({cell["id"]: cell for cell in canonical.cells(notebook, places=places(run))[0]})
    one, other = found
    lines = []
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            lines.append(f"{name}: only in {'the first' if name in one else 'the second'}")
        elif difference := canonical.first_differing_cell([one[name]], [other[name]]):
            lines.append(difference.partition(" ")[2].partition(" ")[2].partition(" ")[2])
    return lines
