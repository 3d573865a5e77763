"""What was read of ten thousand run records, in SQLite: for conditions, sorting and long lists.

The truth is the files ``papermill_runs/*/run.json``. ``.index.sqlite`` beside them only remembers them by time, size
and inode, and may be deleted at any time; a damaged one is made anew, and where it cannot be written a copy in memory
takes its place. This module writes no record.
"""

import contextlib
import gc
import json
import re
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from arislab.errors import ParameterError, closest
from arislab.records import files as run_files
from arislab.system.text import identifier

_FILE = ".index.sqlite"
_PATIENCE_S = 2.0
"""How long a lock of another process is waited for, each time that the index is opened."""
_PLAIN = tuple(name for name in run_files.COLUMNS if name not in ("parameters", "headline", "folder"))
_VERSION = 5  # to be raised with the tables: an index of another version is dropped, never migrated
_SCHEMA = f"""
drop table if exists listed;
drop table if exists named;
drop table if exists numbers;
drop table if exists wholes;
create table listed (number integer primary key, name text, stamp int, is_open int, age text,
    {", ".join(f'"{n}"' for n in _PLAIN)});
create index stamps on listed (name, stamp);
create index open on listed (is_open) where is_open;
create table numbers (key text, number int, value, primary key (key, number)) without rowid;
create table named (key text primary key) without rowid;
create table wholes (number integer primary key, is_plain int, whole text);
pragma user_version = {_VERSION}
"""
_NEWEST_FIRST = "age desc, run_id desc, name desc"
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_ABOUT_THE_QUESTION = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISMATCH)
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")

_Answer = TypeVar("_Answer")


def ask(base: Path, question: Callable[["RunIndex"], _Answer]) -> _Answer:
    """Return the answer to a question about the runs in a folder, as they are on disk now.

    Raises:
        PrerequisiteError: The folder may not be read.
    """
    is_damaged = False
    for source in (_on_disk, _anew, _copied, _empty):
        # a damaged file is made anew and not copied; one that is locked or read-only is copied and not removed
        if source in ((_copied,) if is_damaged else (_anew,)):
            continue
        try:
            with _no_collector(), contextlib.closing(source(base)) as index:
                _refresh(index, base)
                answer = question(RunIndex(base, index))
                with contextlib.suppress(sqlite3.Error):  # another process is in the way: it is only a memory
                    index.execute("commit")
                return answer
        except sqlite3.Error as error:
            if source is _empty:
                raise
            is_damaged = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGED
    raise AssertionError("the last source answers or raises")


class RunIndex:
    """An index that has what is on disk; a transaction keeps it as it is while questions are asked."""

    def __init__(self, base: Path, index: sqlite3.Connection) -> None:
        self.base = base
        self._index = index

    def runs(self) -> list[tuple[str, str, str | None]]:
        """Return folder name, run_id and phase of every run, newest first."""
        return self._index.execute(f"select name, run_id, phase from listed order by {_NEWEST_FIRST}").fetchall()

    def chosen(self, where: str, sort: str, limit: int | None) -> list[str]:
        """Return the folder names of the runs that fulfil a condition, newest first or by the largest of a column.

        Raises:
            ParameterError: The condition cannot be read, or no run has what is sorted by.
        """
        numbers = [key for (key,) in self._index.execute("select key from named")]
        known = [*run_files.COLUMNS, *(key for key in numbers if key not in run_files.COLUMNS)]
        sort = sort.lower()
        if sort and sort not in known:
            raise ParameterError(f"--sort {sort!r}: no run has it; {closest(sort, known)}.")
        condition = _QUOTED.sub(lambda quoted: _checked(quoted, known), where) or "true"
        text = f"{condition} {identifier(sort)}".lower()
        asked = [name for name in known if identifier(name)[1:-1] in text or name == "run_id"]
        bound: dict[str, Any] = {"limit": -1 if limit is None else min(limit, 2**63 - 1)}
        values = [self._value(name, numbers, bound) for name in asked]
        columns = ", ".join(f"{value} as {identifier(name)}" for value, name in zip(values, asked, strict=True))
        order = f"{identifier(sort)} is null, {identifier(sort)} desc, " if sort else ""
        self._note_open()
        # materialized: else SQLite looks a number of the headline up again each time that the condition names it;
        # the line break before the bracket ends a comment in the condition
        query = f"""with runs as materialized (select name as "in folder", age as "by age", {columns}
                from listed left join seen using (number))
            select "in folder" from runs where ({condition}
            ) order by {order} "by age" desc, run_id desc, "in folder" desc limit :limit"""
        try:
            return [name for (name,) in self._index.execute(query, bound)]
        except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _ABOUT_THE_QUESTION:
                raise
            raise ParameterError(
                f"--where {where!r} --sort {sort!r} cannot be answered: {error}. Known: {', '.join(known)}."
            ) from None

    def wholes(self, names: list[str]) -> list[dict[str, Any]]:
        """Return what a list shows of these runs, in this order."""
        if not names:
            return []
        # SQLite binds so many values in every build; beyond them reading all rows is as quick
        few = names if len(names) <= 500 else []
        condition = f"where name in ({', '.join('?' * len(few))})" if few else ""
        query = f"select name, is_plain, whole from listed join wholes using (number) {condition}"
        quick: Callable[[str], Any] = json.loads
        if not few:  # orjson saves more than its loading takes
            import orjson

            quick = orjson.loads
        stored = {
            name: (quick if is_plain else json.loads, text) for name, is_plain, text in self._index.execute(query, few)
        }
        runs = []
        for name in names:
            loads, text = stored[name]
            runs.append(run_files.seen(loads(text) | {"folder": f"{self.base}/{name}"}))
        return runs

    def _value(self, name: str, numbers: Container[str], bound: dict[str, Any]) -> str:
        """A column or number of a run, in SQL; where both have the name, the column is meant.

        Adds to ``bound`` what the SQL refers to.
        """
        n = len(bound)
        # bound, not written into the SQL: names come from other people's notebooks
        bound |= {f"name{n}": name, f"part{n}": f"{self.base}/" if name == "folder" else f"$.{name}"}
        number = f"(select value from numbers where numbers.number = listed.number and key = :name{n})"
        if name not in run_files.COLUMNS:
            return number
        column = f"listed.{identifier(name)}"
        if name in ("status", "reason"):
            column = f"coalesce(seen.{name}, {column})"
        elif name == "folder":
            column = f":part{n} || listed.name"
        elif name in ("parameters", "headline"):
            part = f"case when json_valid(whole) then json_extract(whole, :part{n}) end"
            column = f"(select {part} from wholes where wholes.number = listed.number)"
        return f"coalesce({column}, {number})" if name in numbers else column

    def _note_open(self) -> None:
        """Make the table ``seen``: status and reason of the runs that had no verdict, as they are now."""
        opened = self._index.execute("select number, name from listed where is_open").fetchall()
        now = self.wholes([name for _, name in opened])
        self._index.execute(
            "create temp table if not exists seen (number integer primary key, status text, reason text)"
        )
        self._index.executemany(
            "insert or replace into seen values (?, ?, ?)",
            [(n, _storable(run["status"]), _storable(run["reason"])) for (n, _), run in zip(opened, now, strict=True)],
        )


def _checked(quoted: re.Match[str], known: list[str]) -> str:
    """A name in double quotes as the index has it.

    SQLite would take an unknown one for a text, and a misspelt condition for an answer.
    """
    if quoted[1] is None:
        return quoted[0]
    name = quoted[1].replace('""', '"').lower()
    if name not in known:
        raise ParameterError(f"--where: no run has {quoted[0]}; {closest(name, known)}. Texts stand in single quotes.")
    return identifier(name)


# ---- keeping it up to date -------------------------------------------------------------------------------------------


def _on_disk(base: Path) -> sqlite3.Connection:
    return _made(str(base / _FILE)) if base.is_dir() else _empty(base)


def _anew(base: Path) -> sqlite3.Connection:
    """Return an index on disk instead of the damaged one."""
    with contextlib.suppress(OSError):
        (base / _FILE).unlink()
    return _on_disk(base)


def _copied(base: Path) -> sqlite3.Connection:
    """Return a copy in memory of the index on disk, which is locked or may not be written."""
    uri = f"{(base / _FILE).absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None)) as index:
        index.execute("begin")
        index.execute("select 1 from listed limit 1")  # a lock that is held by now; a backup would wait for it for ever
        copy = sqlite3.connect(":memory:", isolation_level=None)
        try:
            index.backup(copy)
        except sqlite3.Error:
            copy.close()
            raise
    return copy


def _empty(_: Path) -> sqlite3.Connection:
    return _made(":memory:")


def _made(where: str) -> sqlite3.Connection:
    """Open an index; make its tables if it has none, or those of another version."""
    index = sqlite3.connect(where, timeout=_PATIENCE_S, isolation_level=None)
    try:
        if not _is_current(index):
            index.execute("begin immediate")
            if not _is_current(index):  # another process may have been faster
                for statement in _SCHEMA.split(";"):
                    index.execute(statement)
            index.execute("commit")
    except sqlite3.Error:
        index.close()
        raise
    return index


def _is_current(index: sqlite3.Connection) -> bool:
    return bool(index.execute("pragma user_version").fetchone()[0] == _VERSION)


def _refresh(index: sqlite3.Connection, base: Path) -> None:
    """Bring an index up to what is on disk, and leave a transaction open in which it stays so."""
    # looked at first without the lock of a writer: almost every list finds nothing new, and many may look at once
    for begin in ("begin", "begin immediate"):
        index.execute(begin)
        known: dict[str, int | None] = dict(index.execute("select name, stamp from listed"))
        with run_files.opened(base) as folder:
            names = run_files.names(folder)
            stamps = {
                n: stamp for n in names if folder is not None and (stamp := run_files.stamp(n, folder)) is not None
            }
        if known == stamps:
            return
        if begin == "begin":
            index.execute("rollback")
    changed = {name: stamp for name, stamp in stamps.items() if known.get(name) != stamp}
    _forget(index, [*(known.keys() - stamps.keys()), *(changed.keys() & known.keys())])
    names = list(changed)
    for first in range(0, len(names), 5_000):  # what is held in memory at once
        _add(index, base, {name: changed[name] for name in names[first : first + 5_000]})


def _forget(index: sqlite3.Connection, names: list[str]) -> None:
    if not names:
        return
    index.execute("create temp table less (name text primary key)")
    index.executemany("insert into less values (?)", [(name,) for name in names])
    for table in ("numbers", "wholes", "listed"):
        index.execute(f"delete from {table} where number in (select number from listed where name in less)")
    index.execute("delete from named where not exists (select 1 from numbers where numbers.key = named.key)")
    index.execute("drop table less")


def _add(index: sqlite3.Connection, base: Path, names: Mapping[str, int]) -> None:
    """Read the records of these runs and store them; ``names`` has their stamps."""
    last = index.execute("select coalesce(max(number), 0) from listed").fetchone()[0]
    listed, numbers, wholes = [], [], []
    keys: set[str] = set()
    for number, (name, stamp) in enumerate(names.items(), start=last + 1):
        run = run_files.read(base / name)
        plain = [_storable(run.get(column)) for column in _PLAIN]
        age = run_files.age(name, run["created_at"])
        listed.append(
            (number, name, None if run.get("is_unread") else stamp, run["status"] in run_files.OPEN, age, *plain)
        )
        named = _numbers(run)
        numbers += [(key, number, value) for key, value in named.items()]
        keys |= named.keys()
        wholes.append((number, *_whole(run)))
    numbers.sort(key=lambda row: row[:2])  # in the order of the tree
    index.executemany(f"insert into listed values ({', '.join('?' * (5 + len(_PLAIN)))})", listed)
    index.executemany("insert into numbers values (?, ?, ?)", numbers)
    index.executemany("insert or ignore into named values (?)", [(key,) for key in keys])
    index.executemany("insert into wholes values (?, ?, ?)", wholes)


def _whole(run: dict[str, Any]) -> tuple[bool, str]:
    """What a list shows of a run as JSON, and whether orjson reads it as it is.

    Integers within 64 bits, no lone surrogates, no NaN or Infinity.
    """
    import orjson

    shown = run_files.shown(run)
    text = json.dumps(shown)
    try:
        orjson.dumps(shown)
    except TypeError:
        return False, text
    return "NaN" not in text and "Infinity" not in text, text


def _numbers(run: dict[str, Any]) -> dict[str, Any]:
    """Parameters and headline of a run by name; of intervals the mean."""
    numbers = {}
    for part in ("parameters", "headline"):
        for name, value in (run.get(part) or {}).items():
            value = value.get("mean") if isinstance(value, dict) else value
            key = _storable(name.lower())
            if isinstance(value, (int, float, str)):
                numbers[key] = _storable(value)
            else:
                numbers.pop(key, None)  # the headline says that it is unknown
    return numbers


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
