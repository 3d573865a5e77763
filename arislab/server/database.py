"""The server's database: a folder that one server holds, in which one thread writes and any thread may read.

    server.db    SQLite (WAL, synchronous=FULL)
    lock         held by the one server that may use this folder

Every write is a transaction on the one writer thread, in the order in which they were asked for; a write that has
returned is on disk. This module does not know what a batch does.
"""

import errno
import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from arislab.errors import PrerequisiteError
from arislab.system import files

TERMINAL = ("failed", "completed", "expired", "cancelled")
LIVE = "(expires_at > :now or (pinned and collected_at is null))"
"""Files that can be read: an output without ``output_expires_after`` stays until somebody has downloaded it."""

SCHEMA = """
create table if not exists files(
  seq integer primary key autoincrement, id text unique not null, created_at integer not null,
  expires_at integer not null, bytes integer not null, filename text not null, purpose text not null,
  pinned integer not null default 0, collected_at integer);
create table if not exists batches(
  seq integer primary key autoincrement, id text unique not null, status text not null, endpoint text not null,
  input_file_id text not null, output_file_id text, error_file_id text, output_expires_s integer not null,
  metadata text, errors text, model text, idempotency_key text unique,
  created_at integer not null, expires_at integer not null, in_progress_at integer, finalizing_at integer,
  completed_at integer, failed_at integer, expired_at integer, cancelling_at integer, cancelled_at integer,
  total integer not null default 0, completed integer not null default 0, failed integer not null default 0,
  input_tokens integer not null default 0, cached_tokens integer not null default 0,
  output_tokens integer not null default 0, reasoning_tokens integer not null default 0,
  spool_bytes integer not null default 0, pin_outputs integer not null default 1, aliases text);
create table if not exists results(
  batch integer not null, line integer not null, offset integer not null, length integer not null, ok integer not null,
  primary key (batch, line)) without rowid;
create table if not exists aliases(
  alias text primary key, model text not null, previous text, since integer not null) without rowid;
create table if not exists meta(name text primary key, value text not null) without rowid;
"""
# for folders of earlier versions
ADDED = {
    "files": {"pinned": "integer not null default 0", "collected_at": "integer"},
    "batches": {"pin_outputs": "integer not null default 1", "aliases": "text"},
}
INDEX = f"create index if not exists open_batches on batches(input_file_id) where status not in {TERMINAL}"

T = TypeVar("T")
P = ParamSpec("P")
Record = dict[str, Any]


class Database:
    """The tables under one folder, for one server process at a time.

    Args:
        folder: it exists.

    Attributes:
        instance: an id that was drawn when the folder was made.
        connection: the writer thread's own; before the first write also of whoever opened the folder.

    Raises:
        PrerequisiteError: another server uses the folder.
    """

    def __init__(self, folder: Path):
        self._lock = lock(folder)
        self.connection = _connect(folder / "server.db")
        self.connection.executescript(SCHEMA)
        for table, columns in ADDED.items():
            known = {row["name"] for row in self.connection.execute(f"pragma table_info({table})")}
            for name in columns.keys() - known:
                self.connection.execute(f"alter table {table} add column {name} {columns[name]}")
        self.connection.execute(INDEX)
        self.connection.execute("insert or ignore into meta values ('instance', ?)", (secrets.token_hex(16),))
        row = self.connection.execute("select value from meta where name = 'instance'").fetchone()
        self.instance = str(row["value"])
        # a connection of its own: in WAL a reader waits for no write, and a request must not wait for a full disk
        self._reader, self._reading = _connect(folder / "server.db"), threading.Lock()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")

    def finish_writing(self) -> None:
        """Write what is queued, and take no more."""
        self._writer.shutdown(wait=True)

    def close(self) -> None:
        """Let the folder go."""
        self._reader.close()
        self.connection.close()
        self._lock.close()  # last: until here another server would find a database that is being written

    def query(self, sql: str, *values: Any) -> list[Record]:
        """Rows of a select, as dicts; one dict gives values by name."""
        return [dict(row) for row in self.rows(sql, *values)]

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a select as SQLite gives them, where there may be many."""
        named = values[0] if len(values) == 1 and isinstance(values[0], dict) else values
        with self._reading:
            return self._reader.execute(sql, named).fetchall()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run ``work`` in one transaction on the writer thread, after everything queued before it."""
        return self.submit(self._in_transaction, work)

    def submit(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> "Future[T]":
        """Run ``work`` on the writer thread, which opens its own transactions."""
        return self._writer.submit(work, *args, **named)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with transaction(self.connection) as db:
            return work(db)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what the block does, or nothing of it."""
    db.execute("begin immediate")  # not deferred: one that begins by reading cannot become a writer if it must wait
    try:
        yield db
        db.execute("commit")
    finally:
        if db.in_transaction:  # also where the commit itself failed, as on a full disk
            db.execute("rollback")


def used_bytes(database: Database) -> int:
    """Bytes of all files and of the results of running batches."""
    return int(database.rows(_USED_BYTES)[0]["n"])


def require_room(db: sqlite3.Connection, n_bytes: int, quota_bytes: int | None) -> None:
    """Refuse, within a transaction, what would pass the quota.

    Raises:
        OSError: EDQUOT.
    """
    if quota_bytes is not None:
        refuse_beyond(int(db.execute(_USED_BYTES).fetchone()["n"]) + n_bytes, quota_bytes)


def refuse_beyond(n_bytes: int, quota_bytes: int) -> None:
    """Refuse more bytes than the quota, as a full disk would.

    Raises:
        OSError: EDQUOT.
    """
    if n_bytes > quota_bytes:
        raise OSError(
            errno.EDQUOT,
            f"{n_bytes} bytes are more than the quota of {quota_bytes}; delete files, or raise --quota-gb",
        )


_USED_BYTES = (
    "select (select coalesce(sum(bytes), 0) from files)"
    f" + (select coalesce(sum(spool_bytes), 0) from batches where status not in {TERMINAL}) n"
)


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level: no transactions that the module opens by itself; the thread that opens it is not the writer
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    db.row_factory = sqlite3.Row
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")  # with less, WAL loses the last commits when the power goes
    return db


def lock(folder: Path) -> IO[bytes]:
    """Take a folder for this process; the kernel gives it back however the process ends.

    Raises:
        PrerequisiteError: Another server has it.
    """
    file = files.opened(folder / "lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip() or "unknown"
        file.close()
        raise PrerequisiteError(
            f"{str(folder)!r} is in use by another arislab server (pid {owner}); stop that one, use its url, "
            "or give this one a folder of its own with --data"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    return file
