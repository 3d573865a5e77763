"""Results of running batches on disk: lines in one append-only spool file per batch, their places in SQLite.

    spool/<seq>.jsonl  result lines of a running batch, in the order in which they came

The crash rule: a line is done when its bytes are on disk *and* its offset is committed. What lies in a spool beyond the
committed offset is cut off at the next start, and its lines run again: inference happens at least once, a result
exactly once. A line whose committed bytes are gone (somebody removed the spool, the disk lost it) is lost: it was paid
for, so it does not run again by itself.
"""

import errno
import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from arislab.server.database import TERMINAL, Database, Record, require_room, transaction
from arislab.system import files

log = logging.getLogger("arislab.server")

GROUP_S = 0.02  # a flush waits so long for company: 11 % less CPU for the whole server at 100 answers a second

Usage = tuple[int, int, int, int]
"""Tokens: input, of these cached, output, of these reasoning."""
NO_USAGE: Usage = (0, 0, 0, 0)
LOST = -1
"""``ok`` of a result whose bytes are gone."""
POISON = (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError)
"""What a row may raise that cannot be stored; an error of the disk (OSError, sqlite3.OperationalError) is no row's
fault."""


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


class Spools:
    """The spools of one server's running batches.

    Args:
        folder: where they lie; it exists.
        database: holds the offsets.
        quota_bytes: files and results together; beyond it results wait.
    """

    def __init__(self, folder: Path, database: Database, *, quota_bytes: int | None = None):
        self.folder, self._database, self._quota_bytes = folder, database, quota_bytes
        self._open: dict[int, int] = {}  # batch seq -> file descriptor, used by the writer thread only
        self._pending: list[tuple[int, list[Row]]] = []
        self._pending_lock = threading.Lock()
        self._next_flush: Future[list[Refused]] | None = None

    def close(self) -> None:
        """Let the files go; the writer thread has ended."""
        for descriptor in self._open.values():
            os.close(descriptor)

    # -- reading -------------------------------------------------------------------------------------------------------

    def done_lines(self, seq: int) -> set[int]:
        """Lines of a batch that have a durable result."""
        return {line for (line,) in self._database.rows("select line from results where batch = ?", seq)}

    def read(self, batch: Record, offset: int, limit: int) -> bytes:
        """Whole durable result lines of a running batch from ``offset`` on, about ``limit`` bytes at most."""
        spool, end = self._path(batch["seq"]), batch["spool_bytes"]
        if offset >= end or not spool.exists():
            return b""
        with spool.open("rb") as file:
            file.seek(offset)
            data = file.read(min(limit, end - offset))
            return data if data.endswith(b"\n") else data + file.readline()

    def copy(self, seq: int, path: Path, *, ok: bool) -> int:
        """Write the result lines of one kind, in input order, to a new file; returns its size, 0 for no file.

        Raises:
            OSError: the disk, or a spool that is shorter than its lines.
        """
        sql = "select offset, length from results where batch = ? and ok = ? order by line"
        ranges = [(row["offset"], row["length"]) for row in self._database.rows(sql, seq, int(ok))]
        if not ranges:
            return 0
        held = self._open.get(seq)
        spool = os.open(self._path(seq), os.O_RDONLY) if held is None else held
        try:
            with files.written(path) as target:
                for offset, length in ranges:
                    if target.write(os.pread(spool, length, offset)) < length:
                        raise OSError(
                            errno.EIO, f"the spool of batch {seq} was cut; the next try names the answers that are lost"
                        )
        finally:
            if held is None:
                os.close(spool)
        return sum(length for _, length in ranges)

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, seq: int, rows: list[Row]) -> "Future[list[Refused]]":
        """Make result lines durable; the future resolves when they are, or fails with what the disk said.

        All callers that come while a flush is under way share the next one, so the group grows with the load.
        Never cancel the future: it belongs to the group. It holds the rows, of any batch in the group, that cannot be
        stored.
        """
        with self._pending_lock:
            self._pending.append((seq, rows))
            if self._next_flush is None:
                self._next_flush = self._database.submit(self._flush)
            return self._next_flush

    def lost_lines(self, seq: int) -> list[int]:
        """Lines of a batch whose durable result is gone, because its spool is gone or cut."""

        def look(db: sqlite3.Connection) -> list[int]:
            batch = db.execute("select * from batches where seq = ?", (seq,)).fetchone()
            if (size := self._size(seq)) < batch["spool_bytes"]:
                _mark_lost(db, dict(batch), size)
            sql = "select line from results where batch = ? and ok = ? order by line"
            return [line for (line,) in db.execute(sql, (seq, LOST))]

        return self._database.write(look).result()

    def forget(self, seq: int, lines: list[int]) -> None:
        """Let other results take the place of those that are lost."""
        sql = "delete from results where batch = ? and line = ? and ok = ?"
        self._database.write(lambda db: db.executemany(sql, [(seq, line, LOST) for line in lines])).result()

    def end(self, db: sqlite3.Connection, seq: int) -> None:
        """Forget a batch's results, within the transaction that ends it; ``remove`` follows once that is on disk."""
        db.execute("delete from results where batch = ?", (seq,))
        if (descriptor := self._open.pop(seq, None)) is not None:
            os.close(descriptor)

    def remove(self, seq: int) -> None:
        """Remove the spool of a batch that has ended."""
        self._path(seq).unlink(missing_ok=True)

    def recover(self, running: Iterable[Record]) -> None:
        """Cut the spools of running batches to what is committed, and remove all others; before anything is written."""
        known = set()
        for batch in running:
            spool = self._path(batch["seq"])
            known.add(spool.name)
            size, committed = spool.stat().st_size if spool.exists() else 0, batch["spool_bytes"]
            if size > committed:
                os.truncate(spool, committed)
            elif size < committed:
                with transaction(self._database.connection) as db:
                    _mark_lost(db, batch, size)
        for path in self.folder.iterdir():
            if path.name not in known:
                path.unlink()

    # -- inside, on the writer thread ----------------------------------------------------------------------------------

    def _path(self, seq: int) -> Path:
        return self.folder / f"{seq}.jsonl"

    def _size(self, seq: int) -> int:
        """Bytes that can be read of a spool; also of one that was removed while it is open here."""
        if (descriptor := self._open.get(seq)) is not None:
            return os.fstat(descriptor).st_size
        path = self._path(seq)
        return path.stat().st_size if path.exists() else 0

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
        connection = self._database.connection
        try:
            with transaction(connection) as db:
                self._write_group(db, entries)
        except sqlite3.OperationalError:
            raise
        except POISON as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                return self._stored(entries[:middle]) + self._stored(entries[middle:])
            seq, row = entries[0]
            if connection.execute("select 1 from results where batch = ? and line = ?", (seq, row.line)).fetchone():
                return []  # the group was written in part before the disk was full
            log.error("a result line cannot be stored: %s: %s", type(error).__name__, error)
            return [Refused(seq, row, error)]
        return []

    def _note_cuts(self, seqs: set[int]) -> None:
        """Mark what spools have lost, for good before a byte is written.

        Bytes stay where a transaction is rolled back, and hide the gap.
        """
        connection = self._database.connection
        for seq in seqs:
            batch = connection.execute("select * from batches where seq = ?", (seq,)).fetchone()
            if batch["status"] not in TERMINAL and (size := self._size(seq)) < batch["spool_bytes"]:
                with transaction(connection) as db:
                    _mark_lost(db, dict(batch), size)

    def _write_group(self, db: sqlite3.Connection, entries: list[tuple[int, Row]]) -> None:
        by_batch: dict[int, list[Row]] = defaultdict(list)
        for seq, row in entries:
            by_batch[seq].append(row)
        require_room(db, sum(len(row.data) for _, row in entries), self._quota_bytes)
        for seq, rows in by_batch.items():
            self._spool(db, seq, rows)

    def _spool(self, db: sqlite3.Connection, seq: int, rows: list[Row]) -> None:
        """Write lines at the committed end of the spool, over what a failed try left there, then their offsets."""
        batch = db.execute("select * from batches where seq = ?", (seq,)).fetchone()
        if batch["status"] in TERMINAL:
            return  # an answer that came after the batch was cancelled
        if seq not in self._open:
            self._open[seq] = os.open(self._path(seq), os.O_RDWR | os.O_CREAT, 0o600)
            files.sync(self.folder)  # else a loss of power takes the name, and offsets are committed of no file
        begin = offset = batch["spool_bytes"]
        entries = []
        for row in rows:
            entries.append((seq, row.line, offset, len(row.data), row.ok))
            offset += len(row.data)
        # bytes before offsets: the other way round, a crash in between would commit lines that were never written
        write_at(self._open[seq], b"".join(row.data for row in rows), begin)
        db.executemany("insert into results(batch, line, offset, length, ok) values (?, ?, ?, ?, ?)", entries)
        n_ok = sum(row.ok for row in rows)
        tokens = map(sum, zip(*(row.usage for row in rows), strict=True))  # input, cached, output, reasoning
        db.execute(
            "update batches set spool_bytes = ?, completed = completed + ?, failed = failed + ?,"
            " input_tokens = input_tokens + ?, cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?,"
            " reasoning_tokens = reasoning_tokens + ? where seq = ?",
            (offset, n_ok, len(rows) - n_ok, *tokens, seq),
        )


def _mark_lost(db: sqlite3.Connection, batch: Record, size: int) -> None:
    """Mark the results that lie beyond the ``size`` bytes that a spool still has, and end the spool before them."""
    log.error("%s: its spool lost %d bytes; the answers in them are lost", batch["id"], batch["spool_bytes"] - size)
    seq = batch["seq"]
    sql = "update results set ok = ?, offset = 0, length = 0 where batch = ? and offset + length > ?"
    db.execute(sql, (LOST, seq, size))
    left = db.execute(
        "select coalesce(max(offset + length), 0) size, count(*) filter (where ok = 1) ok,"
        " count(*) filter (where ok = 0) bad from results where batch = ?",
        (seq,),
    ).fetchone()
    values = (left["size"], left["ok"], left["bad"], seq)
    db.execute("update batches set spool_bytes = ?, completed = ?, failed = ? where seq = ?", values)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write bytes at a place of a file; they are on disk when this returns."""
    view = memoryview(data)
    try:
        while view:  # a write may take fewer bytes than it is given, as on a disk that fills up
            n_bytes = os.pwrite(descriptor, view, offset)
            view, offset = view[n_bytes:], offset + n_bytes
        os.fdatasync(descriptor)  # the size is synced too, the time of change need not be
    except OSError as error:
        log.error("results cannot be written: %s; they are kept and tried again", error)
        raise
