"""The ledger of a folder of batches: what was intended, and what was done, in SQLite.

A shard is one file of requests on its way: planned -> uploading -> creating -> submitted -> collected; or fruitless
(completed, and without a single answer), refused (as a whole), lost (gone at the server), withdrawn (never sent; it has
no lines any more). Each state is on disk before the call that it announces. A line is claimed by one shard at a time,
in one transaction, so that two notebooks never send it twice. A twin is a second batch that was made for one shard, by
a create that somebody on the way repeated: found -> merged (what it brought is in the folder, and its answers fill the
shard's gaps). This module does not know servers or requests.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import reduce
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from arislab.batch import ledger_versions
from arislab.batch.protocol import ANSWERED
from arislab.errors import PrerequisiteError
from arislab.system import processes

UNSENT = ledger_versions.UNSENT
OPEN = (*UNSENT, "submitted")
FETCHED = ("collected", "fruitless")
"""Result files came, and lie in the folder."""
_LEASE_S = 300.0  # longer than a create may take


class Ledger:
    """Shards, their lines, and what was intended and done with them.

    Every change is on disk before the next call goes out.

    Args:
        folder: Where ``ledger.sqlite`` lies; made if absent.

    Raises:
        PrerequisiteError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # isolation_level None: transactions begin where this file says so, not before the next write
            self.db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self.db.row_factory = sqlite3.Row
            self.db.execute("pragma synchronous = extra")  # full: a loss of power may bring the last journal back
            with self._transaction():
                ledger_versions.renew(self.db)
            ledger_versions.clean(self.db)
            self.db.execute("create temp table asked (custom_id text primary key)")
        except (OSError, sqlite3.OperationalError) as error:
            raise PrerequisiteError(
                f"cannot write the batch ledger in {folder} ({error}); choose another folder with --root."
            ) from None
        (self._nonce,) = self.db.execute("select nonce from about").fetchone()
        self.owner = json.dumps(processes.identity(os.getpid()))

    def close(self) -> None:
        """Let the file go."""
        self.db.close()

    def rows(self, where: str = "true", *values: Any) -> list[dict[str, Any]]:
        """Return shards, oldest first."""
        sql = f"select * from shards where state != 'withdrawn' and ({where}) order by id"
        return [dict(row) for row in self.db.execute(sql, values)]

    def mark(self, row: dict[str, Any]) -> str:
        """The name under which a shard is found again at a server: given once, and by no other ledger."""
        return f"{self._nonce}-{row['shard'][:40]}-{row['id']}-{row['attempt']}"

    def lines(self, shard_id: int) -> dict[str, str | None]:
        """Return custom_id and status of the lines of a shard; the status is null until the shard is collected."""
        return dict(self.db.execute("select custom_id, status from lines where shard_id = ?", (shard_id,)).fetchall())

    def counts(self, shard_id: int) -> dict[str, int]:
        """Return how many lines of a shard have which status."""
        sql = "select coalesce(status, 'open'), count(*) from lines where shard_id = ? group by 1 order by 1"
        return dict(self.db.execute(sql, (shard_id,)).fetchall())

    def twins(self, shard_id: int) -> list[dict[str, Any]]:
        """Return the twins of a shard's batch, one dict each.

        It has batch_id, state, n_used and n_doubled (answers that filled a gap, and that did not).
        """
        sql = "select batch_id, state, n_used, n_doubled from twins where shard_id = ? order by batch_id"
        return [dict(row) for row in self.db.execute(sql, (shard_id,))]

    def look(
        self, wanted: Iterable[str], *, server: str, resend: Iterable[str], attempts: int | None = None
    ) -> tuple[dict[int, list[str]], set[int], dict[str, str]]:
        """Say what stands about wanted lines, and change nothing.

        Args:
            wanted: custom_ids.
            server: Identity of the server.
            resend: Statuses whose lines may be sent again.
            attempts: Lines that were sent this often may not; null: no limit.

        Returns:
            The lines that may be sent, by the number of the attempt; the shards that hold others; and of these the
            lines that have no answer and stay as they are, with their status.
        """
        # a table of this connection: 170,000 names fit into no list of parameters
        self.db.execute("delete from asked")
        self.db.executemany("insert or ignore into asked values (?)", ((name,) for name in wanted))
        last = self.db.execute(
            "select a.custom_id, s.id, s.state, s.attempt, l.status from asked a left join lines l using (custom_id) "
            "left join shards s on s.id = l.shard_id and s.server = ? order by a.rowid, s.id",
            (server,),
        )
        free: dict[int, list[str]] = {}
        held, stay = set(), {}
        for name, tries in groupby(last, key=itemgetter("custom_id")):
            row = reduce(_later, tries)
            if row["id"] is None:
                free.setdefault(1, []).append(name)
            elif row["state"] in OPEN or row["status"] in ANSWERED:
                held.add(row["id"])
            elif row["status"] in resend and (attempts is None or row["attempt"] < attempts):
                free.setdefault(row["attempt"] + 1, []).append(name)
            else:
                held.add(row["id"])
                stay[name] = str(row["status"])
        return free, held, stay

    def claim(
        self,
        wanted: Iterable[str],
        *,
        server: str,
        resend: Iterable[str],
        write: Callable[[list[str]], list[tuple[str, Path, int, list[str]]]],
        attempts: int | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Attach to the shards that hold wanted lines, and claim those that none holds, in one transaction.

        Args:
            wanted: As in ``look``.
            server: As in ``look``.
            resend: As in ``look``.
            write: Gets the free custom_ids and returns the files made of them: digest, path, bytes, custom_ids.
            attempts: As in ``look``.

        Returns:
            All shards concerned, oldest first; and the lines that stay as they are, with their status.
        """
        with self._transaction():
            free, held, stay = self.look(wanted, server=server, resend=resend, attempts=attempts)
            for attempt, names in free.items():
                for shard, path, n_bytes, part in write(names):
                    sql = "insert into shards (shard, attempt, server, path, n, bytes, state, owner, beat) "
                    sql += "values (?,?,?,?,?,?,'planned',?,?)"
                    values = (shard, attempt, server, str(path), len(part), n_bytes, self.owner, time.time())
                    made = self.db.execute(sql, values).lastrowid
                    new = ((name, made) for name in part)
                    self.db.executemany("insert into lines (custom_id, shard_id) values (?, ?)", new)
                    held.add(int(made or 0))
        return [row for row in self.rows() if row["id"] in held], stay

    def note(self, row: dict[str, Any], **changes: Any) -> None:
        """Write changed columns of a shard, and into ``row``."""
        changes["changed_at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        row.update(changes)
        names = ", ".join(f"{name} = ?" for name in changes)
        self.db.execute(f"update shards set {names} where id = ?", (*changes.values(), row["id"]))

    def advance(self, row: dict[str, Any], **changes: Any) -> bool:
        """Take the shard and write changed columns, unless another process has moved it since ``row`` was read.

        Of two that send one shard (a lease may end while a file is uploaded), only the first comes past each state.

        Returns:
            False: nothing was written, and ``row`` shows what the other did.
        """
        with self._transaction():
            if not self._is_as(row):
                return False
            self.note(row, owner=self.owner, beat=time.time(), **changes)
        return True

    def pair(self, row: dict[str, Any], batch_id: str, twins: Iterable[str]) -> bool:
        """Write which batch of a shard counts, and which are its twins; False as in ``advance``.

        Before any of them is cancelled: a process that dies in between leaves it to the next.
        """
        with self._transaction():
            if not self._is_as(row) or row["state"] not in ("creating", "submitted"):
                return False
            self.db.execute("delete from twins where shard_id = ? and batch_id = ?", (row["id"], batch_id))
            sql = "insert or ignore into twins (shard_id, batch_id) values (?, ?)"
            self.db.executemany(sql, ((row["id"], twin) for twin in twins))
            if row["state"] == "creating":
                self.note(row, state="submitted", batch_id=batch_id, owner=self.owner, beat=time.time())
            elif row["batch_id"] != batch_id:  # changed_at stays: the time of the submission
                self.db.execute("update shards set batch_id = ? where id = ?", (batch_id, row["id"]))
                row["batch_id"] = batch_id
        return True

    def note_twin(self, row: dict[str, Any], batch_id: str, *, n_used: int, n_doubled: int) -> None:
        """Write what a twin brought; within the transaction that settles its shard."""
        sql = "update twins set state = 'merged', n_used = ?, n_doubled = ? where shard_id = ? and batch_id = ?"
        self.db.execute(sql, (n_used, n_doubled, row["id"], batch_id))

    def settle(
        self,
        row: dict[str, Any],
        statuses: dict[str, str],
        *,
        state: str,
        error: str | None = None,
        write: Callable[[], None] | None = None,
    ) -> bool:
        """Write what became of the lines of a shard, and its last state, in one transaction; False as in ``advance``.

        Args:
            row: The shard.
            statuses: Of its lines.
            state: Of the shard, from now on.
            error: Reason, or the batch's last status.
            write: Puts the results into the folder; only the process that settles the shard does that.
        """
        with self._transaction():
            if not self._is_as(row):
                return False
            if write is not None:
                write()
            sql = "update lines set status = ? where custom_id = ? and shard_id = ?"
            self.db.executemany(sql, ((status, name, row["id"]) for name, status in statuses.items()))
            self.note(row, state=state, error=error)
        return True

    def withdraw(self, row: dict[str, Any]) -> bool:
        """Forget a shard that was never sent: its lines are free again; False as in ``advance``."""
        with self._transaction():
            if not self._is_as(row):
                return False
            self.db.execute("delete from lines where shard_id = ?", (row["id"],))
            self.note(row, state="withdrawn", attempt=-row["id"])  # the row stays, so that its id is not given again
        return True

    def hold(self, row: dict[str, Any]) -> bool:
        """Take or keep the right to send a shard.

        Returns False while another process that lives has it, or if the shard was withdrawn; ``row`` then shows what
        stands in the ledger.
        """
        with self._transaction():
            self.reload(row)
            if row["state"] == "withdrawn":
                return False
            mine = row["owner"] in (None, self.owner)
            if not mine and time.time() - (row["beat"] or 0) < _LEASE_S and _may_live(row["owner"]):
                return False
            self.note(row, owner=self.owner, beat=time.time())
        return True

    def reload(self, row: dict[str, Any]) -> None:
        """Read again what another process may have written."""
        row.update(dict(self.db.execute("select * from shards where id = ?", (row["id"],)).fetchone()))

    def _is_as(self, row: dict[str, Any]) -> bool:
        before = row["state"], row["batch_id"]
        self.reload(row)
        return (row["state"], row["batch_id"]) == before

    @contextmanager
    def _transaction(self) -> Any:
        if self.db.in_transaction:  # within another: its commit writes both, or neither
            yield
            return
        try:
            self.db.execute("begin immediate")  # what is read must still hold when it is written
            yield
            self.db.execute("commit")
        except sqlite3.OperationalError as error:  # the disk is full, or another process holds the file for long
            raise PrerequisiteError(
                f"cannot write the batch ledger {self._path} ({error}); mend this and run the cell again: nothing is "
                "lost."
            ) from None
        finally:
            if self.db.in_transaction:
                self.db.execute("rollback")


def _later(before: sqlite3.Row, row: sqlite3.Row) -> sqlite3.Row:
    """Which of two shards counts for a line, the older one first: an answer beats what came later."""
    return row if before["id"] is None or (row["id"] and before["status"] not in ANSWERED) else before


def _may_live(owner: str) -> bool:
    """Whether a process can still be there; one that cannot be asked is believed until its lease ends."""
    try:
        named = json.loads(owner)
    except json.JSONDecodeError:  # of an earlier version, which wrote pid@host: the pid may be another process's by now
        return True
    return not processes.gone(named)
