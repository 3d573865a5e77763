"""What the server remembers: files and batches in SQLite, and the bytes of the files beside it.

Layout of the data folder::

    server.db          files, batches and the places of results (``database``)
    files/<file id>    uploads, and the output and error files of finished batches
    spool/<seq>.jsonl  result lines of a running batch (``spools``)
    tmp/               uploads on their way in
    lock               held by the one server that may use this folder
"""

import secrets
import shutil
import sqlite3
import time
from pathlib import Path
from typing import IO, Any

from arislab.server.database import LIVE, TERMINAL, Database, Record, refuse_beyond, require_room, used_bytes
from arislab.server.spools import Spools
from arislab.system import files

COLLECTED_S = 24 * 3600  # an output stays for this long after its first whole download, should that one go wrong


class Store:
    """Files, batches and results under one folder, for one server process at a time.

    Args:
        data: the folder; made if absent.
        quota_bytes: files and results together; beyond it uploads are refused and results wait. Making the output files
            of a batch may pass it, for as long as its spool is still there.

    Attributes:
        database: where their rows are.
        spools: the results of running batches.

    Raises:
        PrerequisiteError: another server uses the folder.
    """

    def __init__(self, data: Path, *, quota_bytes: int | None = None):
        self.data, self._quota_bytes = data, quota_bytes
        self.files_dir, self.tmp_dir, spool_dir = data / "files", data / "tmp", data / "spool"
        for folder in (data, self.files_dir, self.tmp_dir, spool_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(data)
        self.spools = Spools(spool_dir, self.database, quota_bytes=quota_bytes)
        self._recover()

    def close(self) -> None:
        """Write what is queued, and let the folder go."""
        self.database.finish_writing()
        self.spools.close()
        self.database.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def file(self, file_id: str) -> Record | None:
        """The row of one file, expired or not, or None."""
        rows = self.database.query("select * from files where id = ?", file_id)
        return rows[0] if rows else None

    def batch(self, batch_id: str) -> Record | None:
        """The row of one batch, or None."""
        rows = self.database.query("select * from batches where id = ?", batch_id)
        return rows[0] if rows else None

    def unfinished(self) -> list[Record]:
        """Batches that are not in a terminal state, oldest first."""
        return self.database.query(f"select * from batches where status not in {TERMINAL} order by seq")

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file lie; ``file_id`` comes from a row of ours, never from a request."""
        return self.files_dir / file_id

    def require_room(self, n_bytes: int) -> None:
        """Refuse what would pass the quota, before it is sent.

        Raises:
            OSError: EDQUOT.
        """
        if self._quota_bytes is not None:
            refuse_beyond(used_bytes(self.database) + n_bytes, self._quota_bytes)

    # -- files ---------------------------------------------------------------------------------------------------------

    def add_file(self, source: IO[bytes], *, filename: str, purpose: str, keep_s: int) -> Record:
        """Copy an upload to disk, then record it.

        A crash leaves no row without bytes, a failure no bytes without a row.

        Raises:
            OSError: the disk or the quota (EDQUOT) is full.
        """
        file_id = "file-" + secrets.token_hex(16)

        def insert(db: sqlite3.Connection) -> None:
            # again, now that the size is known: a client may send more than it said, and others came meanwhile
            require_room(db, n_bytes, self._quota_bytes)
            _insert_file(db, file_id, n_bytes, filename, purpose, keep_s)

        try:
            with files.written(self.path(file_id)) as target:
                shutil.copyfileobj(source, target, 1 << 20)
                n_bytes = target.tell()
            self.database.write(insert).result()
        except (OSError, sqlite3.Error):
            self._discard(file_id)
            raise
        row = self.file(file_id)
        assert row is not None
        return row

    def delete_file(self, file_id: str) -> bool:
        """Remove a file unless a running batch reads it; says whether it was removed."""

        def delete(db: sqlite3.Connection) -> bool:
            sql = (
                "delete from files where id = ? and id not in"
                f" (select input_file_id from batches where status not in {TERMINAL})"
            )
            return db.execute(sql, (file_id,)).rowcount == 1

        removed = self.database.write(delete).result()
        if removed:  # bytes after the row: a crash in between leaves bytes, which the next start removes
            self.path(file_id).unlink(missing_ok=True)
        return removed

    def collected(self, file_id: str) -> None:
        """Remember that an output was downloaded whole: from now on it may expire, in a day at the earliest."""
        now = int(time.time())
        sql = (
            "update files set collected_at = ?, expires_at = max(expires_at, ?)"
            " where id = ? and pinned and collected_at is null"
        )
        self.database.write(lambda db: db.execute(sql, (now, now + COLLECTED_S, file_id))).result()

    def sweep(self) -> int:
        """Remove expired files; returns how many.

        What a running batch reads stays, and so does an output that nobody has downloaded yet, unless its batch was
        made with ``output_expires_after``.
        """
        rows = self.database.query(f"select id from files where not {LIVE}", {"now": int(time.time())})
        return sum(self.delete_file(row["id"]) for row in rows)

    # -- batches -------------------------------------------------------------------------------------------------------

    def add_batch(self, columns: Record) -> tuple[Record, bool]:
        """Insert a batch in state ``validating``.

        Returns:
            The row, and whether it is new: a known ``idempotency_key`` gives the batch that was made with it.
        """
        batch_id = "batch_" + secrets.token_hex(16)
        key = columns["idempotency_key"]

        def insert(db: sqlite3.Connection) -> str:
            # looked up in the same transaction: of two equal requests at once the second finds the first
            if key is not None and (
                row := db.execute("select id from batches where idempotency_key = ?", (key,)).fetchone()
            ):
                return str(row["id"])
            names = ["id", "status", *columns]
            sql = f"insert into batches({', '.join(names)}) values ({', '.join('?' * len(names))})"
            db.execute(sql, [batch_id, "validating", *columns.values()])
            return batch_id

        inserted = self.database.write(insert).result()
        row = self.batch(inserted)
        assert row is not None
        return row, inserted == batch_id

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

        return self.database.write(update).result()

    def finish(self, batch: Record, status: str, *, errors: str | None = None) -> None:
        """Make the output and error files in input order and set the terminal state; can be run again after a crash.

        The files get their rows in the transaction that ends the batch, so a crash before it leaves orphans only, which
        the next start removes; an error of the disk leaves none.

        Raises:
            OSError, sqlite3.Error: the disk; nothing has changed.
        """
        self.database.write(lambda db: None).result()  # everything queued is on disk
        seq = batch["seq"]
        made: dict[str, tuple[str, int]] = {}

        def close(db: sqlite3.Connection) -> bool:
            (now,) = db.execute("select status from batches where id = ?", (batch["id"],)).fetchone()
            if now in TERMINAL:
                return False
            end = "cancelled" if now == "cancelling" else status  # someone cancelled while the files were made
            ids = [made[column][0] if column in made else None for column in ("output_file_id", "error_file_id")]
            sql = (
                f"update batches set status = ?, {end}_at = ?, output_file_id = ?, error_file_id = ?, errors = ?"
                " where id = ?"
            )
            db.execute(sql, (end, int(time.time()), *ids, errors, batch["id"]))
            for column, (file_id, n_bytes) in made.items():
                name = f"{batch['id']}_{column.split('_')[0]}.jsonl"
                pinned = batch["pin_outputs"]
                _insert_file(db, file_id, n_bytes, name, "batch_output", batch["output_expires_s"], pinned=pinned)
            self.spools.end(db, seq)
            return True

        file_ids = {column: "file-" + secrets.token_hex(16) for column in ("output_file_id", "error_file_id")}
        try:
            for column, file_id in file_ids.items():
                if n_bytes := self.spools.copy(seq, self.path(file_id), ok=column == "output_file_id"):
                    made[column] = (file_id, n_bytes)
            is_closed = self.database.write(close).result()
        except (OSError, sqlite3.Error):
            for file_id in file_ids.values():
                self._discard(file_id)
            raise
        if is_closed:  # the spool goes last: until the files have their rows it is all that there is of the answers
            self.spools.remove(seq)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _discard(self, file_id: str) -> None:
        """Remove the bytes of a file that has got no row."""
        if self.file(file_id) is None:
            self.path(file_id).unlink(missing_ok=True)

    def _recover(self) -> None:
        """Cut spools to what is committed and remove what no row knows.

        Files of an upload or a finish that did not end.
        """
        self.spools.recover(self.unfinished())
        known = {row["id"] for row in self.database.query("select id from files")}
        for path in self.files_dir.iterdir():
            if path.name not in known:
                path.unlink()
        for path in self.tmp_dir.iterdir():
            # whatever asks for a temporary file in this process has it here: libraries make folders, too
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _insert_file(
    db: sqlite3.Connection, file_id: str, n_bytes: int, filename: str, purpose: str, keep_s: int, *, pinned: int = 0
) -> None:
    now = int(time.time())
    sql = "insert into files(id, created_at, expires_at, bytes, filename, purpose, pinned) values (?, ?, ?, ?, ?, ?, ?)"
    db.execute(sql, (file_id, now, now + keep_s, n_bytes, filename, purpose, pinned))
