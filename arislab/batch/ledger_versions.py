"""The tables of a ledger, and how one of an earlier version becomes one of today's.

What may be on its way is taken over under the name by which the server knows it. This module does not know what is done
with shards and lines.
"""

import secrets
import sqlite3
from pathlib import Path
from typing import Any

from arislab.batch.protocol import parse, split
from arislab.system import masking

UNSENT = ("planned", "uploading", "creating")
_TABLES = """
create table shards (
  id integer primary key, shard text not null, attempt integer not null, server text not null, path text not null,
  n integer not null, bytes integer not null, state text not null, file_id text, batch_id text, error text,
  owner text, beat real, changed_at text not null default current_timestamp,
  unique (shard, attempt, server));
create table lines (
  custom_id text not null, shard_id integer not null, status text, primary key (custom_id, shard_id)) without rowid;
create index lines_of on lines (shard_id);
create table about (nonce text not null);
"""
_TWINS = """
create table if not exists twins (
  shard_id integer not null, batch_id text not null, state text not null default 'found', n_used integer,
  n_doubled integer,
  primary key (shard_id, batch_id)) without rowid;
pragma user_version = 4;
"""


def renew(db: sqlite3.Connection) -> None:
    """Make the tables that are missing, and take over what stands in those of an earlier version."""
    (version,) = db.execute("pragma user_version").fetchone()
    if version < 2:
        _make(db)
    if version < 3:
        for statement in _TWINS.split(";"):
            db.execute(statement)
    _hide_passwords(db)


def clean(db: sqlite3.Connection) -> None:
    """Take passwords out of the pages of the file too, where one of an earlier version was renewed."""
    (version,) = db.execute("pragma user_version").fetchone()
    if version < 4:  # no part of the transaction: SQLite cannot vacuum in one; where it fails, the next process tries
        db.execute("vacuum")  # what was written over lies in the file's pages still
        db.execute("pragma user_version = 4")


def _make(db: sqlite3.Connection) -> None:
    """Make the tables, and take over the shards of a ledger of version 0."""
    old: list[sqlite3.Row] = []
    if db.execute("select 1 from sqlite_master where name = 'shards'").fetchone():
        old = db.execute("select * from shards").fetchall()
        db.execute("drop table shards")
    for statement in _TABLES.split(";"):  # executescript would commit the transaction around this
        db.execute(statement)
    db.execute("insert into about values (?)", (secrets.token_hex(4),))
    sql = "insert into shards (shard, attempt, server, path, n, bytes, state, file_id, batch_id) "
    sql += "values (?,?,?,?,?,?,?,?,?)"
    for row in old:
        if not row["batch_id"] or row["state"] == "fruitless" or not Path(row["path"]).is_file():
            continue  # nothing of it can be on its way
        content = Path(row["path"]).read_bytes()
        values = [row[k] for k in ("shard", "attempt", "server", "path", "n")]
        made = db.execute(sql, (*values, len(content), "submitted", row["file_id"], row["batch_id"])).lastrowid
        names = [(parse(line) or {}).get("custom_id") for line in split(content)]
        db.executemany("insert into lines (custom_id, shard_id) values (?, ?)", ((n, made) for n in names))


def _hide_passwords(db: sqlite3.Connection) -> None:
    """Name servers as today, without the user and password of earlier versions, so that they are known again."""
    sql = "select * from shards where server like '%://%@%' order by id"
    named = [dict(row) for row in db.execute(sql) if masking.take_apart(row["server"])[0] != row["server"]]
    if not named:
        return
    hidden = masking.secrets_of({}, *(row["server"] for row in named))
    for row in named:
        server, _ = masking.take_apart(row["server"])
        _make_room(db, row, server)
        values = (server, masking.without(row["error"], hidden), row["id"])
        db.execute("update shards set server = ?, error = ? where id = ?", values)
    db.execute("pragma user_version = 3")


def _make_room(db: sqlite3.Connection, row: dict[str, Any], server: str) -> None:
    """Count one of two shards as a further attempt, where a file was sent under two spellings of a server's URL."""
    sql = "select id from shards where server = ? and shard = ? and attempt = ?"
    other = db.execute(sql, (server, row["shard"], row["attempt"])).fetchone()
    if other is None:
        return
    moved = other["id"] if row["state"] in UNSENT else row["id"]  # one on its way may be looked for by its mark
    sql = "update shards set attempt = (select max(attempt) + 1 from shards where shard = ?) where id = ?"
    db.execute(sql, (row["shard"], moved))
