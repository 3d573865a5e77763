"""One file without what is a person's: Parquet, SQLite, JSON, JSON lines, notebooks, CSV and plain text.

A form is told by the bytes, not by the name. What has another form is searched, and left as it is. This module does not
know which files there are.
"""

import contextlib
import csv
import gzip
import io
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import polars as pl

from arislab.forgetting.person import SUBJECTS, Person
from arislab.system import files

_WEIGHTS = (".safetensors", ".gguf")
"""Numbers alone, and gigabytes of them."""
_CODE = (".py", ".diff", ".lock", ".toml", ".jinja")
"""Not rewritten: what ran is what a record proves, and people write it by hand."""


class Kept(Exception):  # noqa: N818  # raised and caught here and by the search, which names it as a place that is left
    """Why a file cannot be rewritten, or looked into."""


def without(path: Path, person: Person, *, table: str = "", is_dry: bool = True) -> int:
    """Take what is a person's out of a file; return how many rows, lines or texts that were.

    Args:
        path: Of the file.
        person: Who is forgotten.
        table: The table whose data it holds; empty: none.
        is_dry: Only count.

    Raises:
        Kept: The file holds something and stays as it is, or its form is not known to the last byte.
        OSError: It cannot be read or written.
    """
    if path.suffix in _WEIGHTS:
        return 0
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"PAR1" or path.suffix == ".parquet":
        return _parquet(path, person, table, is_dry=is_dry)
    if start == b"SQLite format 3\0":
        return _sqlite(path, person, is_dry=is_dry)
    content = path.read_bytes()
    is_packed = start[:2] == b"\x1f\x8b"
    try:
        text = (gzip.decompress(content) if is_packed else content).decode()
    except (UnicodeDecodeError, EOFError, OSError):
        sought = [*person.ids, *(name for name in person.names if len(name) >= 6), *(p for p, _ in person.texts)]
        if any(one.encode() in content for one in sought):
            raise Kept("it is of no form that is known here, and holds their data; remove it yourself") from None
        return 0
    if not person.may_hold(pl.Series([text]))[0]:
        return 0
    new, n = _form(path)(text, person)
    if n and path.suffix in _CODE:
        raise Kept("it is code, which is not rewritten; take their data out yourself")
    if n and not is_dry:
        encoded = new.encode()
        with _anew(path) as file:
            file.write(gzip.compress(encoded) if is_packed else encoded)
    return n


@contextlib.contextmanager
def _anew(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all, for those who could read it before."""
    mode = stat.S_IMODE(path.stat().st_mode)
    with files.written(path) as file:
        os.fchmod(file.fileno(), mode)
        yield file


def _form(path: Path) -> Callable[[str, Person], tuple[str, int]]:
    kind = next((s for s in reversed(path.suffixes) if s not in (".gz", ".damaged", files.beside(path).suffix)), "")
    return {".ipynb": _notebook, ".json": _json, ".csv": _csv}.get(kind, _lines)


def _json(text: str, person: Person) -> tuple[str, int]:
    try:
        value = json.loads(text)
    except ValueError:
        return person.text(text)
    new, n = person.value(value)
    indent = 1 if text.startswith(("{\n ", "[\n ")) else None
    return (json.dumps(new, indent=indent, ensure_ascii=False) + "\n" * text.endswith("\n"), n) if n else (text, 0)


def _lines(text: str, person: Person) -> tuple[str, int]:
    """Lines of JSON, or of a log; a line about the person goes."""
    lines, n, is_log = text.split("\n"), 0, True
    for i in person.may_hold(pl.Series(lines)).arg_true().to_list():
        try:
            value = json.loads(lines[i])
        except ValueError:
            continue
        if isinstance(value, dict) and person.is_about(value):
            lines[i], n = "\0", n + 1
        elif isinstance(value, dict | list):
            new, count = person.value(value)
            lines[i], n = (json.dumps(new, ensure_ascii=lines[i].isascii()) if count else lines[i]), n + count
        is_log &= not isinstance(value, dict | list)
    if is_log:  # a text that is theirs may go on over several lines
        return person.text(text)
    return "\n".join(line for line in lines if line != "\0"), n


def _notebook(text: str, person: Person) -> tuple[str, int]:
    """Outputs and parameters; what else stands in cells is code."""
    try:
        book, n = json.loads(text), 0
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        for cell in code:
            cell["outputs"], count = person.value(_joined(cell["outputs"]))
            n += count
            if {"parameters", "injected-parameters"} & {*cell["metadata"].get("tags", [])}:
                cell["source"], count = person.text("".join(cell["source"]))
                n += count
        book["metadata"], count = person.value(book["metadata"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return person.text(text)
    if n + count:
        return json.dumps(book, indent=1, ensure_ascii=False) + "\n", n + count
    if any(person.text("".join(cell["source"]))[1] for cell in book["cells"]):
        raise Kept("the source of a cell holds it, which is code and not rewritten; take it out yourself")
    return text, 0


def _joined(value: object) -> object:
    """Outputs with texts that the file has as lists of lines as one text each."""
    if isinstance(value, list):
        is_text = bool(value) and all(isinstance(line, str) for line in value)
        return "".join(value) if is_text else [_joined(inner) for inner in value]
    return {name: _joined(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _csv(text: str, person: Person) -> tuple[str, int]:
    delimiter = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        rows = []
    if {len(row) for row in rows if row} != {len(rows[0]) if rows else -1}:  # of no form that could be written again
        return person.text(text)
    kept, n = [], 0
    for row in rows:
        named = dict(zip(rows[0], row, strict=False))
        if person.is_about(named) or any(cell in person.wholes or cell in person.names for cell in row):
            n += 1
            continue
        done = [person.leaf(cell) for cell in row]
        kept.append([new for new, _ in done])
        n += sum(count for _, count in done)
    target = io.StringIO(newline="")
    ending = "\r\n" if "\r\n" in text else "\n"
    csv.writer(target, delimiter=delimiter, lineterminator=ending).writerows(kept)
    return (target.getvalue(), n) if n else (text, 0)


def _parquet(path: Path, person: Person, table: str, *, is_dry: bool) -> int:
    try:
        rows = pl.read_parquet(path, glob=False, hive_partitioning=False)
    except pl.exceptions.PolarsError as error:
        raise Kept(f"it cannot be read, so nobody knows what it holds ({str(error).splitlines()[0]})") from None
    new, n = person.frame(rows, table)
    if n and not is_dry:
        with _anew(path) as file:
            new.write_parquet(file)
    return n


def _sqlite(path: Path, person: Person, *, is_dry: bool) -> int:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
            db.execute("pragma query_only = on" if is_dry else "pragma secure_delete = on")
            db.execute("begin" if is_dry else "begin immediate")
            n = sum(_rows_of(db, table, person, is_dry=is_dry) for table in _tables(db))
            db.execute("commit")
            if n and not is_dry:
                db.execute("pragma wal_checkpoint(truncate)")
                db.execute("vacuum")  # what was deleted lies in free pages until then
                db.execute("pragma wal_checkpoint(truncate)")
            return n
    except sqlite3.Error as error:
        raise Kept(f"the database cannot be read or written ({error})") from None


def _tables(db: sqlite3.Connection) -> list[str]:
    names = db.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'").fetchall()
    return [name for (name,) in names]


def _rows_of(db: sqlite3.Connection, table: str, person: Person, *, is_dry: bool) -> int:
    columns = [name for _, name, *_ in db.execute(f"pragma table_info({_quoted(table)})")]
    n = 0
    for name in (name for name in columns if name in (*SUBJECTS, "candidate_id")):
        sought = person.names if name == "candidate_id" else person.ids
        given = (json.dumps(sought),)
        where = f"from {_quoted(table)} where {_quoted(name)} in (select value from json_each(?))"
        n += db.execute(f"select count(*) {where}", given).fetchone()[0]
        if not is_dry:
            db.execute(f"delete {where}", given)
    for name in columns:
        for old, new, count in list(_changes(db, table, name, person)):
            n += count
            if not is_dry:
                db.execute(f"update {_quoted(table)} set {_quoted(name)} = ? where {_quoted(name)} = ?", (new, old))
    return n


def _changes(db: sqlite3.Connection, table: str, name: str, person: Person) -> Iterator[tuple[str, str, int]]:
    sql = f"select distinct {_quoted(name)} from {_quoted(table)} where typeof({_quoted(name)}) = 'text'"
    values = pl.Series([value for (value,) in db.execute(sql)], dtype=pl.String)
    skipped = {*person.ids} if name in SUBJECTS else {*person.names} if name == "candidate_id" else set()
    for value in values.filter(person.may_hold(values)):
        new, n = person.leaf(value, name)
        if n and value not in skipped:
            yield value, new, n


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
