"""What was read of ten thousand run records, in SQLite: for conditions, sorting and long lists.

The truth is the files ``papermill_runs/*/run.json``. ``.index.sqlite`` beside them only remembers them by time, size and inode, and may be
deleted at any time; where it cannot be written, a copy in memory takes its place. This module writes no record.
"""

import contextlib
import gc
import json
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from arislab import run_files
from arislab.errors import ParameterError

_PLAIN = tuple(name for name in run_files.COLUMNS if name not in ("parameters", "headline", "folder"))
_VERSION = 4
_SCHEMA = f"""
drop table if exists listed;
drop table if exists named;
drop table if exists numbers;
drop table if exists wholes;
create table listed (number integer primary key, name text, stamp int, is_open int, {", ".join(f'"{n}"' for n in _PLAIN)});
create index stamps on listed (name, stamp);
create index open on listed (is_open) where is_open;
create table numbers (key text, number int, value, primary key (key, number)) without rowid;
create table named (key text primary key) without rowid;
create table wholes (number integer primary key, whole text);
"""
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class RunIndex:
    """The runs under one folder as they are on disk when it is opened; close it after use."""

    def __init__(self, base: Path) -> None:
        self.base = base
        with _no_collector():
            self._index = _current(base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()

    def runs(self) -> list[tuple[str, str, str | None]]:
        """Return folder name, run_id and phase of every run, newest first."""
        found = {
            name: told for name, *told in self._index.execute("select name, created_at, run_id, phase from listed")
        }
        ordered = run_files.newest_first(list(found), lambda name: found[name][0])
        return [(name, found[name][1], found[name][2]) for name in ordered]

    def chosen(self, where: str, sort: str, limit: int | None) -> list[str]:
        """Return the folder names of the runs that fulfil a condition, newest first or by the largest of a column.

        Raises:
            ParameterError: The condition cannot be read, or no run has what is sorted by.
        """
        numbers = [key for (key,) in self._index.execute("select key from named")]
        known = [*run_files.COLUMNS, *(key for key in numbers if key not in run_files.COLUMNS)]
        if sort and sort.lower() not in known:
            raise ParameterError(f"--sort {sort!r}: no run has it; known: {', '.join(known)}.")
        said = f"{where} {_identifier(sort)}".lower()
        asked = [name for name in known if _identifier(name)[1:-1] in said or name in ("created_at", "run_id")]
        values = [self._value(name, numbers) for name in asked]
        columns = ", ".join(f"{value} as {_identifier(name)}" for value, name in zip(values, asked, strict=True))
        order = _identifier(sort) if sort else "created_at"
        self._note_open()
        query = f"""with runs as materialized (select name as "in folder", {columns} from listed left join seen using (number))
            select "in folder" from runs where ({where or "true"}
            ) order by {order} is null, {order} desc, run_id desc limit ?"""
        try:
            return [name for (name,) in self._index.execute(query, (-1 if limit is None else limit,))]
        except sqlite3.Error as error:
            raise ParameterError(
                f"--where {where!r} --sort {sort!r} cannot be answered: {error}. Known: {', '.join(known)}."
            ) from None

    def wholes(self, names: list[str]) -> list[dict[str, Any]]:
        """Return what a list shows of these runs, in this order."""
        few = names if len(names) <= 500 else []
        condition = f"where name in ({', '.join('?' * len(few))})" if few else ""
        query = f"select name, whole from listed join wholes using (number) {condition}"
        loads: Callable[[str], Any] = json.loads
        if not few:  # orjson saves more than its loading takes
            import orjson

            loads = orjson.loads
        with _no_collector():
            stored = dict(self._index.execute(query, few))
            rows = [loads(stored[n]) if n in stored else run_files.shown(run_files.read(self.base / n)) for n in names]
            return [
                run_files.seen(row | {"folder": f"{self.base}/{name}"}) for name, row in zip(names, rows, strict=True)
            ]

    def _value(self, name: str, numbers: Container[str]) -> str:
        """A column or number of a run, in SQL; where both have the name, the column is meant."""
        number = f"(select value from numbers where key = {_text(name)} and numbers.number = listed.number)"
        if name not in run_files.COLUMNS:
            return number
        column = f"listed.{_identifier(name)}"
        if name in ("status", "reason"):
            column = f"coalesce(seen.{name}, {column})"
        elif name == "folder":
            column = f"{_text(f'{self.base}/')} || listed.name"
        elif name in ("parameters", "headline"):
            column = f"(select json_extract(whole, '$.{name}') from wholes where wholes.number = listed.number)"
        return f"coalesce({column}, {number})" if name in numbers else column

    def _note_open(self) -> None:
        """Make the table ``seen``: status and reason of the runs that had no verdict, as they are now."""
        opened = self._index.execute("select number, name from listed where is_open").fetchall()
        now = self.wholes([name for _, name in opened]) if opened else []
        self._index.execute("create temp table seen (number integer primary key, status text, reason text)")
        self._index.executemany(
            "insert into seen values (?, ?, ?)",
            [(number, run["status"], run["reason"]) for (number, _), run in zip(opened, now, strict=True)],
        )


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# ---- keeping it up to date --------------------------------------------------------------------------------------------


def _current(base: Path) -> sqlite3.Connection:
    """Return an index that has what is on disk."""
    if not base.is_dir():
        return _made(sqlite3.connect(":memory:"))
    for _ in range(2):
        index = None
        try:
            index = _on_disk(base)
            _refresh(index, base)
        except sqlite3.Error as error:
            if index is not None:
                index.close()
            if getattr(error, "sqlite_errorcode", None) not in _DAMAGED:
                break
            (base / _FILE).unlink(missing_ok=True)
        else:
            return index
    index = _copied(base)
    _refresh(index, base)
    return index


_FILE = ".index.sqlite"


def _on_disk(base: Path) -> sqlite3.Connection:
    index = sqlite3.connect(base / _FILE, timeout=2)
    try:
        return _made(index)
    except sqlite3.Error:
        index.close()
        raise


def _copied(base: Path) -> sqlite3.Connection:
    """Return a copy in memory of the index on disk, as far as it can be read."""
    copy = sqlite3.connect(":memory:")
    try:
        with contextlib.closing(sqlite3.connect(f"{(base / _FILE).as_uri()}?mode=ro", uri=True, timeout=2)) as index:
            index.execute("begin")
            index.execute(
                "select 1 from listed limit 1"
            )  # a lock that is held by now; a backup would wait for it for ever
            index.backup(copy)
        return _made(copy)
    except sqlite3.Error:
        copy.close()
    return _made(sqlite3.connect(":memory:"))


def _made(index: sqlite3.Connection) -> sqlite3.Connection:
    """Make the tables of an index that has none, or those of another version."""
    if index.execute("pragma user_version").fetchone()[0] != _VERSION:
        index.executescript(f"begin; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
    return index


def _refresh(index: sqlite3.Connection, base: Path) -> None:
    """Bring an index up to what is on disk."""
    with run_files.opened(base) as folder:
        stamps = {name: run_files.stamp(name, folder) for name in run_files.names(base)}
    known: dict[str, int] = dict(index.execute("select name, stamp from listed"))
    if known == stamps:
        return
    changed = {name: stamp for name, stamp in stamps.items() if stamp is not None and known.get(name) != stamp}
    left = [name for name in known if stamps.get(name) is None]
    if not changed and not left:
        return
    with index:
        index.execute("begin immediate")
        _forget(index, [*left, *changed])
        names = list(changed)
        for first in range(0, len(names), 5_000):  # what is held in memory at once
            _add(index, base, {name: changed[name] for name in names[first : first + 5_000]})


def _forget(index: sqlite3.Connection, names: list[str]) -> None:
    """Leave out runs, whoever has added them by now."""
    index.execute("create temp table less (name text primary key)")
    index.executemany("insert into less values (?)", [(name,) for name in names])
    if index.execute("select 1 from listed where name in less limit 1").fetchone():
        for table in ("numbers", "wholes", "listed"):
            index.execute(f"delete from {table} where number in (select number from listed where name in less)")
    index.execute("drop table less")


def _add(index: sqlite3.Connection, base: Path, names: Mapping[str, int]) -> None:
    """Read the records of these runs and store them; ``names`` has their stamps."""
    import orjson

    last = index.execute("select coalesce(max(number), 0) from listed").fetchone()[0]
    listed, numbers, wholes = [], [], []
    keys: set[str] = set()
    for number, (name, stamp) in enumerate(names.items(), start=last + 1):
        run = run_files.read(base / name)
        told = [_storable(run.get(column)) for column in _PLAIN]
        listed.append((number, name, stamp, run["status"] in run_files.OPEN, *told))
        found = _numbers(run)
        numbers += [(key, number, value) for key, value in found.items()]
        keys |= found.keys()
        with contextlib.suppress(TypeError):  # what orjson cannot hold is read from its file each time
            wholes.append((number, orjson.dumps(run_files.shown(run)).decode()))
    numbers.sort(key=lambda row: row[:2])  # in the order of the tree
    index.executemany(f"insert into listed values ({', '.join('?' * (4 + len(_PLAIN)))})", listed)
    index.executemany("insert into numbers values (?, ?, ?)", numbers)
    index.executemany("insert or ignore into named values (?)", [(key,) for key in keys])
    index.executemany("insert into wholes values (?, ?)", wholes)


def _numbers(run: dict[str, Any]) -> dict[str, Any]:
    """Parameters and headline of a run by name; of intervals the mean."""
    found = {}
    for part in ("parameters", "headline"):
        told = run.get(part)
        for name, value in told.items() if isinstance(told, dict) else ():
            value = value.get("mean") if isinstance(value, dict) else value
            if isinstance(value, (int, float, str)):
                found[str(_storable(name.lower()))] = _storable(value)
    return found


def _storable(value: Any) -> Any:
    """A value as SQLite can hold it: integers beyond 64 bits as floats, text as UTF-8, what is no scalar as JSON."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value if abs(value) < 2**63 else float(str(value))
    return value if value is None or isinstance(value, float) else json.dumps(value)


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
