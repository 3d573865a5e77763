"""What the server remembers: files and batches in SQLite, results in one append-only spool file per batch.

Layout of the data folder::

    server.db          SQLite (WAL, synchronous=FULL), written by one thread
    files/<file id>    uploads, and the output and error files of finished batches
    spool/<seq>.jsonl  result lines of a running batch, in the order in which they came
    lock               held by the one server that may use this folder

The crash rule: a line is done when its bytes are on disk *and* its offset is committed. What lies in a spool beyond the
committed offset is cut off at the next start, and its lines run again: inference happens at least once, a result
exactly once. A line whose committed bytes are gone (somebody removed the spool, the disk lost it) is lost: it was paid
for, so it does not run again by itself.
"""

import errno
import fcntl
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from arislab.errors import PrerequisiteError
from arislab.system import files

log = logging.getLogger("arislab.server")

TERMINAL = ("failed", "completed", "expired", "cancelled")
GROUP_S = 0.02  # a flush waits so long for company: 11 % less CPU for the whole server at 100 answers a second
COLLECTED_S = 24 * 3600  # an output stays for this long after its first whole download, should that one go wrong

LIVE = "(expires_at > :now or (pinned and collected_at is null))"
"""Files that can be read: an output without ``output_expires_after`` stays until somebody has downloaded it."""

SCHEMA = """
create table if not exists files(
  seq integer primary key autoincrement, id text unique not null, created_at integer not null, expires_at integer not null,
  bytes integer not null, filename text not null, purpose text not null,
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
  spool_bytes integer not null default 0, pin_outputs integer not null default 1);
create table if not exists results(
  batch integer not null, line integer not null, offset integer not null, length integer not null, ok integer not null,
  primary key (batch, line)) without rowid;
create table if not exists meta(name text primary key, value text not null) without rowid;
"""
# for folders of earlier versions
ADDED = {
    "files": {"pinned": "integer not null default 0", "collected_at": "integer"},
    "batches": {"pin_outputs": "integer not null default 1"},
}
INDEX = f"create index if not exists open_batches on batches(input_file_id) where status not in {TERMINAL}"

Usage = tuple[int, int, int, int]
"""Tokens: input, of these cached, output, of these reasoning."""
NO_USAGE: Usage = (0, 0, 0, 0)
LOST = -1
"""``ok`` of a result whose bytes are gone."""
POISON = (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError)
"""What a row may raise that cannot be stored; an error of the disk (OSError, sqlite3.OperationalError) is no row's
fault."""

T = TypeVar("T")
Record = dict[str, Any]


class Row(NamedTuple):
    """One finished line of a batch, ready for the output (ok) or the error file."""

    line: int
    ok: bool
    data: bytes
    usage: Usage
    custom_id: str = ""


class Refused(NamedTuple):
    """A row that cannot be stored, and why."""

    seq: int
    row: Row
    error: Exception


class Store:
    """Files, batches and results under one folder, for one server process at a time.

    Args:
        data: the folder; made if absent.
        quota_bytes: files and results together; beyond it uploads are refused and results wait. Making the output files
            of a batch may pass it, for as long as its spool is still there.

    Attributes:
        instance: an id that was drawn when the folder was made.

    Raises:
        PrerequisiteError: another server uses the folder.
    """

    def __init__(self, data: Path, *, quota_bytes: int | None = None):
        self.data, self._quota_bytes = data, quota_bytes
        self.files_dir, self.spool_dir, self.tmp_dir = data / "files", data / "spool", data / "tmp"
        for folder in (data, self.files_dir, self.spool_dir, self.tmp_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(data)
        self._db = _connect(data / "server.db")
        self._db.executescript(SCHEMA)
        for table, columns in ADDED.items():
            known = {row["name"] for row in self._db.execute(f"pragma table_info({table})")}
            for name in columns.keys() - known:
                self._db.execute(f"alter table {table} add column {name} {columns[name]}")
        self._db.execute(INDEX)
        self._db.execute("insert or ignore into meta values ('instance', ?)", (secrets.token_hex(16),))
        self.instance = str(self._db.execute("select value from meta where name = 'instance'").fetchone()["value"])
        self._reader, self._reading = _connect(data / "server.db"), threading.Lock()
        self._spools: dict[int, int] = {}  # batch seq -> file descriptor, used by the writer thread only
        self._recover()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
        self._pending: list[tuple[int, list[Row]]] = []
        self._pending_lock = threading.Lock()
        self._next_flush: Future[list[Refused]] | None = None

    def close(self) -> None:
        """Write what is queued, and let the folder go."""
        self._writer.shutdown(wait=True)
        for descriptor in self._spools.values():
            os.close(descriptor)
        self._reader.close()
        self._db.close()
        self._lock.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[Record]:
        """Rows of a select, as dicts; one dict gives values by name."""
        named = values[0] if len(values) == 1 and isinstance(values[0], dict) else values
        with self._reading:
            return [dict(row) for row in self._reader.execute(sql, named)]

    def file(self, file_id: str) -> Record | None:
        """The row of one file, expired or not, or None."""
        rows = self.query("select * from files where id = ?", file_id)
        return rows[0] if rows else None

    def batch(self, batch_id: str) -> Record | None:
        """The row of one batch, or None."""
        rows = self.query("select * from batches where id = ?", batch_id)
        return rows[0] if rows else None

    def used_bytes(self) -> int:
        """Bytes of all files and of the results of running batches."""
        with self._reading:
            return _used_bytes(self._reader)

    def require_room(self, n_bytes: int) -> None:
        """Refuse what would pass the quota.

        Raises:
            OSError: EDQUOT.
        """
        if self._quota_bytes is not None:
            _require_room(self.used_bytes(), n_bytes, self._quota_bytes)

    def unfinished(self) -> list[Record]:
        """Batches that are not in a terminal state, oldest first."""
        return self.query(f"select * from batches where status not in {TERMINAL} order by seq")

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file lie; ``file_id`` comes from a row of ours, never from a request."""
        return self.files_dir / file_id

    def done_lines(self, seq: int) -> set[int]:
        """Lines of a batch that have a durable result."""
        with self._reading:
            return {line for (line,) in self._reader.execute("select line from results where batch = ?", (seq,))}

    def spooled(self, batch: Record, offset: int, limit: int) -> bytes:
        """Whole durable result lines of a running batch from ``offset`` on, about ``limit`` bytes at most."""
        spool, end = self._spool_path(batch["seq"]), batch["spool_bytes"]
        if offset >= end or not spool.exists():
            return b""
        with spool.open("rb") as file:
            file.seek(offset)
            data = file.read(min(limit, end - offset))
            return data if data.endswith(b"\n") else data + file.readline()

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run ``work`` in one transaction on the writer thread, after everything queued before it."""
        return self._writer.submit(self._in_transaction, work)

    def append(self, seq: int, rows: list[Row]) -> "Future[list[Refused]]":
        """Make result lines durable; the future resolves when they are, or fails with what the disk said.

        All callers that come while a flush is under way share the next one, so the group grows with the load.
        Never cancel the future: it belongs to the group. It holds the rows, of any batch in the group, that cannot be
        stored.
        """
        with self._pending_lock:
            self._pending.append((seq, rows))
            if self._next_flush is None:
                self._next_flush = self._writer.submit(self._flush)
            return self._next_flush

    def add_file(self, source: IO[bytes], *, filename: str, purpose: str, keep_s: int) -> Record:
        """Copy an upload to disk, then record it.

        A crash leaves no row without bytes, a failure no bytes without a row.

        Raises:
            OSError: the disk or the quota (EDQUOT) is full.
        """
        file_id = "file-" + secrets.token_hex(16)
        partial = self.tmp_dir / file_id

        def insert(db: sqlite3.Connection) -> None:
            if self._quota_bytes is not None:
                _require_room(_used_bytes(db), n_bytes, self._quota_bytes)
            _insert_file(db, file_id, n_bytes, filename, purpose, keep_s)

        try:
            with partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                _sync(target)
            n_bytes = partial.stat().st_size
            self._publish(partial, file_id)
            self.write(insert).result()
        except (OSError, sqlite3.Error):
            partial.unlink(missing_ok=True)
            self._discard(file_id)
            raise
        row = self.file(file_id)
        assert row is not None
        return row

    def delete_file(self, file_id: str) -> bool:
        """Remove a file unless a running batch reads it; says whether it was removed."""

        def delete(db: sqlite3.Connection) -> bool:
            sql = f"delete from files where id = ? and id not in (select input_file_id from batches where status not in {TERMINAL})"
            return db.execute(sql, (file_id,)).rowcount == 1

        removed = self.write(delete).result()
        if removed:
            self.path(file_id).unlink(missing_ok=True)
        return removed

    def collected(self, file_id: str) -> None:
        """Remember that an output was downloaded whole: from now on it may expire, in a day at the earliest."""
        now = int(time.time())
        sql = "update files set collected_at = ?, expires_at = max(expires_at, ?) where id = ? and pinned and collected_at is null"
        self.write(lambda db: db.execute(sql, (now, now + COLLECTED_S, file_id))).result()

    def add_batch(self, columns: Record) -> tuple[Record, bool]:
        """Insert a batch in state ``validating``.

        Returns:
            The row, and whether it is new: a known ``idempotency_key`` gives the batch that was made with it.
        """
        batch_id = "batch_" + secrets.token_hex(16)
        key = columns["idempotency_key"]

        def insert(db: sqlite3.Connection) -> str:
            if key is not None and (
                row := db.execute("select id from batches where idempotency_key = ?", (key,)).fetchone()
            ):
                return str(row["id"])
            names = ["id", "status", *columns]
            sql = f"insert into batches({', '.join(names)}) values ({', '.join('?' * len(names))})"
            db.execute(sql, [batch_id, "validating", *columns.values()])
            return batch_id

        found = self.write(insert).result()
        row = self.batch(found)
        assert row is not None
        return row, found == batch_id

    def advance(self, batch_id: str, status: str, *, from_: tuple[str, ...], **columns: Any) -> bool:
        """Move a batch to ``status`` if it is in one of ``from_``; says whether it moved.

        Terminal states never move.
        """
        columns = {"status": status, f"{status}_at": int(time.time()), **columns}
        assert not set(from_) & set(TERMINAL)

        def update(db: sqlite3.Connection) -> bool:
            assignments = ", ".join(f"{name} = ?" for name in columns)
            marks = ", ".join("?" * len(from_))
            sql = f"update batches set {assignments} where id = ? and status in ({marks})"
            return db.execute(sql, [*columns.values(), batch_id, *from_]).rowcount == 1

        return self.write(update).result()

    def lost_lines(self, seq: int) -> list[int]:
        """Lines of a batch whose durable result is gone, because its spool is gone or cut."""

        def look(db: sqlite3.Connection) -> list[int]:
            batch = db.execute("select * from batches where seq = ?", (seq,)).fetchone()
            if (size := self._spool_size(seq)) < batch["spool_bytes"]:
                _mark_lost(db, dict(batch), size)
            sql = "select line from results where batch = ? and ok = ? order by line"
            return [line for (line,) in db.execute(sql, (seq, LOST))]

        return self.write(look).result()

    def forget(self, seq: int, lines: list[int]) -> None:
        """Let other results take the place of those that are lost."""
        sql = "delete from results where batch = ? and line = ? and ok = ?"
        self.write(lambda db: db.executemany(sql, [(seq, line, LOST) for line in lines])).result()

    def finish(self, batch: Record, status: str, *, errors: str | None = None) -> None:
        """Make the output and error files in input order and set the terminal state; can be run again after a crash.

        The files get their rows in the transaction that ends the batch, so a crash before it leaves orphans only, which
        the next start removes; an error of the disk leaves none.

        Raises:
            OSError, sqlite3.Error: the disk; nothing has changed.
        """
        self.write(lambda db: None).result()  # everything queued is on disk
        seq = batch["seq"]
        made: dict[str, tuple[str, int]] = {}

        def close(db: sqlite3.Connection) -> bool:
            (now,) = db.execute("select status from batches where id = ?", (batch["id"],)).fetchone()
            if now in TERMINAL:
                return False
            end = "cancelled" if now == "cancelling" else status  # someone cancelled while the files were made
            ids = [made[column][0] if column in made else None for column in ("output_file_id", "error_file_id")]
            sql = f"update batches set status = ?, {end}_at = ?, output_file_id = ?, error_file_id = ?, errors = ? where id = ?"
            db.execute(sql, (end, int(time.time()), *ids, errors, batch["id"]))
            for column, (file_id, n_bytes) in made.items():
                name = f"{batch['id']}_{column.split('_')[0]}.jsonl"
                pinned = batch["pin_outputs"]
                _insert_file(db, file_id, n_bytes, name, "batch_output", batch["output_expires_s"], pinned=pinned)
            db.execute("delete from results where batch = ?", (seq,))
            if (descriptor := self._spools.pop(seq, None)) is not None:
                os.close(descriptor)
            return True

        file_ids = {column: "file-" + secrets.token_hex(16) for column in ("output_file_id", "error_file_id")}
        try:
            for column, file_id in file_ids.items():
                if n_bytes := self._collect(seq, int(column == "output_file_id"), file_id):
                    made[column] = (file_id, n_bytes)
            is_closed = self.write(close).result()
        except (OSError, sqlite3.Error):
            for file_id in file_ids.values():
                self._discard(file_id)
            raise
        if is_closed:
            self._spool_path(seq).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove expired files; returns how many.

        What a running batch reads stays, and so does an output that nobody has downloaded yet, unless its batch was
        made with ``output_expires_after``.
        """
        rows = self.query(f"select id from files where not {LIVE}", {"now": int(time.time())})
        return sum(self.delete_file(row["id"]) for row in rows)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _spool_path(self, seq: int) -> Path:
        return self.spool_dir / f"{seq}.jsonl"

    def _spool_size(self, seq: int) -> int:
        """Bytes that can be read of a spool; also of one that was removed while it is open here."""
        if (descriptor := self._spools.get(seq)) is not None:
            return os.fstat(descriptor).st_size
        path = self._spool_path(seq)
        return path.stat().st_size if path.exists() else 0

    def _discard(self, file_id: str) -> None:
        """Remove the bytes of a file that has got no row."""
        if self.file(file_id) is None:
            (self.tmp_dir / file_id).unlink(missing_ok=True)
            self.path(file_id).unlink(missing_ok=True)

    def _publish(self, partial: Path, file_id: str) -> None:
        partial.rename(self.path(file_id))
        _sync_folder(self.files_dir)

    def _collect(self, seq: int, ok: int, file_id: str) -> int:
        """Copy the spooled lines of one kind, in input order, to a new file; returns its size, 0 for no file.

        Raises:
            OSError: the disk, or a spool that is shorter than its lines.
        """
        sql = "select offset, length from results where batch = ? and ok = ? order by line"
        ranges = [(row["offset"], row["length"]) for row in self.query(sql, seq, ok)]
        if not ranges:
            return 0
        partial, held = self.tmp_dir / file_id, self._spools.get(seq)
        spool = os.open(self._spool_path(seq), os.O_RDONLY) if held is None else held
        try:
            with partial.open("wb") as target:
                for offset, length in ranges:
                    if target.write(os.pread(spool, length, offset)) < length:
                        raise OSError(
                            errno.EIO, f"the spool of batch {seq} was cut; the next try names the answers that are lost"
                        )
                _sync(target)
        finally:
            if held is None:
                os.close(spool)
        self._publish(partial, file_id)
        return sum(length for _, length in ranges)

    def _recover(self) -> None:
        """Cut spools to what is committed and remove what no row knows.

        Files of an upload or a finish that did not end.
        """
        running = {}
        for batch in self.unfinished():
            spool = self._spool_path(batch["seq"])
            running[spool.name] = batch
            size, committed = spool.stat().st_size if spool.exists() else 0, batch["spool_bytes"]
            if size > committed:
                os.truncate(spool, committed)
            elif size < committed:
                with _transaction(self._db) as db:
                    _mark_lost(db, batch, size)
        known = {row["id"] for row in self.query("select id from files")}
        for path in self.files_dir.iterdir():
            if path.name not in known:
                path.unlink()
        for path in self.spool_dir.iterdir():
            if path.name not in running:
                path.unlink()
        for path in self.tmp_dir.iterdir():
            path.unlink()

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with _transaction(self._db) as db:
            return work(db)

    def _flush(self) -> list[Refused]:
        """Write all result lines that came while the last flush waited for the disk: two fsyncs for the whole group."""
        time.sleep(GROUP_S)
        with self._pending_lock:
            pending, self._pending, self._next_flush = self._pending, [], None
        return self._stored([(seq, row) for seq, rows in pending for row in rows])

    def _stored(self, entries: list[tuple[int, Row]]) -> list[Refused]:
        """Write rows in one transaction; where one of them cannot be written, halve by halve until it stands alone.

        Raises:
            OSError, sqlite3.OperationalError: the disk; it is no row's fault.
        """
        self._note_cuts({seq for seq, _ in entries})
        try:
            with _transaction(self._db) as db:
                self._write_group(db, entries)
        except sqlite3.OperationalError:
            raise
        except POISON as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                return self._stored(entries[:middle]) + self._stored(entries[middle:])
            seq, row = entries[0]
            if self._db.execute("select 1 from results where batch = ? and line = ?", (seq, row.line)).fetchone():
                return []  # the group was written in part before the disk was full
            log.error("a result line cannot be stored: %s: %s", type(error).__name__, error)
            return [Refused(seq, row, error)]
        return []

    def _note_cuts(self, seqs: set[int]) -> None:
        """Mark what spools have lost, for good before a byte is written.

        Bytes stay where a transaction is rolled back, and hide the gap.
        """
        for seq in seqs:
            batch = self._db.execute("select * from batches where seq = ?", (seq,)).fetchone()
            if batch["status"] not in TERMINAL and (size := self._spool_size(seq)) < batch["spool_bytes"]:
                with _transaction(self._db) as db:
                    _mark_lost(db, dict(batch), size)

    def _write_group(self, db: sqlite3.Connection, entries: list[tuple[int, Row]]) -> None:
        by_batch: dict[int, list[Row]] = defaultdict(list)
        for seq, row in entries:
            by_batch[seq].append(row)
        if self._quota_bytes is not None:
            n_bytes = sum(len(row.data) for _, row in entries)
            _require_room(_used_bytes(db), n_bytes, self._quota_bytes)
        for seq, rows in by_batch.items():
            self._spool(db, seq, rows)

    def _spool(self, db: sqlite3.Connection, seq: int, rows: list[Row]) -> None:
        """Write lines at the committed end of the spool (so a failed earlier try is overwritten), then their offsets."""
        batch = db.execute("select * from batches where seq = ?", (seq,)).fetchone()
        if batch["status"] in TERMINAL:
            return  # an answer that came after the batch was cancelled
        if seq not in self._spools:
            self._spools[seq] = os.open(self._spool_path(seq), os.O_RDWR | os.O_CREAT, 0o600)
            _sync_folder(self.spool_dir)
        begin = offset = batch["spool_bytes"]
        entries = []
        for row in rows:
            entries.append((seq, row.line, offset, len(row.data), row.ok))
            offset += len(row.data)
        _write_at(self._spools[seq], b"".join(row.data for row in rows), begin)
        db.executemany("insert into results(batch, line, offset, length, ok) values (?, ?, ?, ?, ?)", entries)
        n_ok = sum(row.ok for row in rows)
        tokens = map(sum, zip(*(row.usage for row in rows), strict=True))  # input, cached, output, reasoning
        db.execute(
            "update batches set spool_bytes = ?, completed = completed + ?, failed = failed + ?, input_tokens = input_tokens + ?,"
            " cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?, reasoning_tokens = reasoning_tokens + ? where seq = ?",
            (offset, n_ok, len(rows) - n_ok, *tokens, seq),
        )


def _mark_lost(db: sqlite3.Connection, batch: Record, size: int) -> None:
    """Mark the results that lie beyond the ``size`` bytes that a spool still has, and end the spool before them."""
    log.error("%s: its spool lost %d bytes; the answers in them are lost", batch["id"], batch["spool_bytes"] - size)
    seq = batch["seq"]
    sql = "update results set ok = ?, offset = 0, length = 0 where batch = ? and offset + length > ?"
    db.execute(sql, (LOST, seq, size))
    sql = "select coalesce(max(offset + length), 0) size, count(*) filter (where ok = 1) ok, count(*) filter (where ok = 0) bad"
    left = db.execute(f"{sql} from results where batch = ?", (seq,)).fetchone()
    values = (left["size"], left["ok"], left["bad"], seq)
    db.execute("update batches set spool_bytes = ?, completed = ?, failed = ? where seq = ?", values)


def _insert_file(
    db: sqlite3.Connection, file_id: str, n_bytes: int, filename: str, purpose: str, keep_s: int, *, pinned: int = 0
) -> None:
    now = int(time.time())
    sql = "insert into files(id, created_at, expires_at, bytes, filename, purpose, pinned) values (?, ?, ?, ?, ?, ?, ?)"
    db.execute(sql, (file_id, now, now + keep_s, n_bytes, filename, purpose, pinned))


def _used_bytes(db: sqlite3.Connection) -> int:
    sql = f"select (select coalesce(sum(bytes), 0) from files) + (select coalesce(sum(spool_bytes), 0) from batches where status not in {TERMINAL}) n"
    return int(db.execute(sql).fetchone()["n"])


def _require_room(used_bytes: int, n_bytes: int, quota_bytes: int) -> None:
    if used_bytes + n_bytes > quota_bytes:
        raise OSError(
            errno.EDQUOT,
            f"{used_bytes + n_bytes} bytes are more than the quota of {quota_bytes}; delete files, or raise --quota-gb",
        )


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    db.row_factory = sqlite3.Row
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("begin immediate")
    try:
        yield db
        db.execute("commit")
    finally:
        if db.in_transaction:
            db.execute("rollback")


def _lock(data: Path) -> IO[bytes]:
    """Take the folder for this process; the kernel gives it back however the process ends."""
    file = files.opened(data / "lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip() or "unknown"
        file.close()
        raise PrerequisiteError(
            f"{str(data)!r} is in use by another arislab server (pid {owner}); stop that one, use its url, or give this one a folder of its own with --data"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    return file


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            n_bytes = os.pwrite(descriptor, view, offset)
            view, offset = view[n_bytes:], offset + n_bytes
        os.fdatasync(descriptor)
    except OSError as error:
        log.error("results cannot be written: %s; they are kept and tried again", error)
        raise


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
