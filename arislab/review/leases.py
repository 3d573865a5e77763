"""Who holds which item of a session, and who judged it: an index in SQLite that many processes share.

An item is held by whoever was handed it, until they decide or the lease ends; so two people judge the same item only
where two are wanted. What was decided stands in journals and in the lake: this file says no more than they do, and one
that is lost or damaged is built again from them (`Leases.learn`). It does not know what an item is, nor what an event
means for a row (decisions).
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arislab.errors import LakeError
from arislab.review.decisions import VERDICTS

PASSING = (*VERDICTS, "left", "right", "tie", "skip")
"""Decisions, or votes, after which a reviewer is done with an item."""
_COLUMNS = ("event_id", "custom_id", "reviewer", "decision", "planted", "undoes", "seq")
_TABLES = """
CREATE TABLE IF NOT EXISTS items (custom_id TEXT PRIMARY KEY, k INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    event_id TEXT PRIMARY KEY, custom_id TEXT, reviewer TEXT, decision TEXT, planted TEXT NOT NULL, undoes TEXT,
    seq INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of ON events (reviewer, custom_id);
CREATE INDEX IF NOT EXISTS events_at ON events (custom_id);
CREATE INDEX IF NOT EXISTS undone ON events (undoes) WHERE undoes IS NOT NULL;
CREATE TABLE IF NOT EXISTS leases (
    custom_id TEXT, reviewer TEXT, planted TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (custom_id, reviewer, planted)
);
CREATE TABLE IF NOT EXISTS handed (
    custom_id TEXT, reviewer TEXT, planted TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (custom_id, reviewer, planted)
);
"""
_TAKEN_BACK = "EXISTS (SELECT 1 FROM events AS undo WHERE undo.undoes = {0}.event_id AND undo.reviewer = {0}.reviewer)"
_LIVE = f"""
CREATE VIEW IF NOT EXISTS live AS
SELECT rowid AS place, * FROM events AS one WHERE decision IN {PASSING!r} AND NOT {_TAKEN_BACK.format("one")}
"""
_LAST = f"""AND NOT EXISTS (
    SELECT 1 FROM events AS later WHERE later.reviewer = one.reviewer AND later.custom_id = one.custom_id
    AND later.planted = one.planted AND later.decision IN {PASSING!r}
    AND (later.seq, later.rowid) > (one.seq, one.rowid) AND NOT {_TAKEN_BACK.format("later")}
)"""
_OPINIONS = "CREATE VIEW IF NOT EXISTS opinions AS SELECT * FROM live WHERE planted = '' AND decision != 'skip';"
# whoever judged an item or holds it takes one of its places, once; asked so, it takes long only where much is taken
_TAKEN = """
SELECT custom_id FROM (
    SELECT custom_id, COUNT(*) AS n FROM (
        SELECT custom_id, reviewer FROM opinions WHERE reviewer != :reviewer
        UNION SELECT custom_id, reviewer FROM leases WHERE planted = '' AND until > :now AND reviewer != :reviewer
    ) GROUP BY custom_id
) JOIN items USING (custom_id) WHERE n >= k
UNION SELECT custom_id FROM live JOIN items USING (custom_id) WHERE reviewer = :reviewer AND planted = ''
"""
# the same, asked of a few items each for itself
_FREE_OF = """
SELECT custom_id FROM json_each(:names) JOIN items ON custom_id = value WHERE k > (
    SELECT COUNT(*) FROM (
        SELECT reviewer FROM opinions WHERE custom_id = items.custom_id AND reviewer != :reviewer
        UNION SELECT reviewer FROM leases
        WHERE custom_id = items.custom_id AND planted = '' AND until > :now AND reviewer != :reviewer
    )
) AND NOT EXISTS (
    SELECT 1 FROM live WHERE custom_id = items.custom_id AND reviewer = :reviewer AND planted = ''
) ORDER BY json_each.key
"""
_FEW = 1_000
"""Items that are asked for themselves before all are: what is free is nearly always among them."""


class Leases:
    """The index of one session.

    Args:
        path: Its file; made if absent.
        lease_s: Seconds that an item is held without a sign of whoever holds it, above 0.
        is_last_only: Of each reviewer only the latest decision on an item counts, so that a skip takes an opinion back,
            as with votes; else what settles an item stands until it is undone, as with verdicts.
        clock: Seconds since 1970, the same for all processes.

    Raises:
        LakeError: The file is damaged.

    Example:
        >>> import tempfile
        >>> leases = Leases(Path(tempfile.mkdtemp()) / "leases.sqlite", lease_s=600)
        >>> leases.learn({"r-1": 1, "r-2": 2}, [])
        >>> leases.take("Ada", ["r-1", "r-2"], n=5), leases.take("Grace", ["r-1", "r-2"], n=5)
        (['r-1', 'r-2'], ['r-2'])
    """

    def __init__(
        self, path: Path, *, lease_s: float, is_last_only: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.lease_s, self._clock = Path(path), lease_s, clock
        self._lock = threading.RLock()
        with self._said():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA synchronous = OFF")  # a file that a power cut spoils is built again
            self._db.executescript(f"{_TABLES}{_LIVE}{_LAST if is_last_only else ''};{_OPINIONS}")

    def close(self) -> None:
        """Give the file up; what is held stays held until its lease ends."""
        self._db.close()

    def learn(self, places: Mapping[str, int], events: Iterable[Mapping[str, Any]]) -> None:
        """Take over what draws and journals say; what is known already changes nothing.

        Args:
            places: custom_id to k, how many people are to judge it.
            events: Of this session; custom_id, reviewer, decision, planted, undoes and seq of each.
        """
        with self._writing():
            self._db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", places.items())
            self._note(events)
            # whoever was killed between journal and index held it still
            same = "live.custom_id = leases.custom_id AND live.reviewer = leases.reviewer AND "
            same += "live.planted = leases.planted"
            self._db.execute(f"DELETE FROM leases WHERE EXISTS (SELECT 1 FROM live WHERE {same})")

    def note(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Take over events that their reviewer has just made: what they settle is held no more, what they undo is.

        It is a sign of the reviewer, as ``beat`` is.
        """
        with self._writing():
            self._note(events)
            for event in events:  # those too that another process read in a journal before this one came here
                if event["decision"] == "undo":
                    self._hold_again(event)
                elif event["decision"] in PASSING:
                    key = (event["custom_id"], event["reviewer"], event["planted"] or "")
                    self._db.execute("DELETE FROM leases WHERE custom_id = ? AND reviewer = ? AND planted = ?", key)
            for reviewer in {event["reviewer"] for event in events}:
                self._beat(reviewer)

    def take(self, reviewer: str, wanted: Sequence[str], *, n: int) -> list[str]:
        """Lease up to n of the wanted items, in their order: those that have a place, which this reviewer never passed.

        Args:
            reviewer: Who is to hold them.
            wanted: custom_ids; one that this reviewer holds already is leased anew.
            n: How many.
        """
        with self._writing():
            leased, step = list[str](), max(4 * n, 64)
            for begin in range(0, _FEW, step):
                if len(leased) < n:
                    leased += self._free_of(reviewer, wanted[begin : begin + step])
            if len(leased) < n:
                unfree = self._taken(reviewer)
                leased = [name for name in wanted if name not in unfree]
            self._hold(reviewer, leased[: max(n, 0)])
        return leased[: max(n, 0)]

    def _free_of(self, reviewer: str, names: Sequence[str]) -> list[str]:
        given = {"reviewer": reviewer, "now": self._clock(), "names": json.dumps(names)}
        return [row[0] for row in self._rows(_FREE_OF, given)]

    def _taken(self, reviewer: str) -> set[str]:
        """Items that are not to be handed to a reviewer: they passed them, or others have all places."""
        return {row[0] for row in self._rows(_TAKEN, {"reviewer": reviewer, "now": self._clock()})}

    def plant(self, reviewer: str, custom_id: str, planted: str) -> None:
        """Note that a reviewer was handed an item only to measure how they judge; it takes no place of it."""
        with self._writing():
            self._hold(reviewer, [custom_id], planted)

    def beat(self, reviewer: str) -> None:
        """Begin the leases of a reviewer anew; those that have ended stay so, for others may hold the items now."""
        with self._writing():
            self._beat(reviewer)

    def _beat(self, reviewer: str) -> None:
        now = self._clock()
        until = (now + self.lease_s, reviewer, now)
        self._db.execute("UPDATE leases SET until = ? WHERE reviewer = ? AND until > ?", until)

    def expire(self) -> None:
        """Forget leases that have ended."""
        with self._writing():
            self._db.execute("DELETE FROM leases WHERE until <= ?", [self._clock()])

    @property
    def has_expired(self) -> bool:
        """Whether a lease has ended without a decision; it may have been made, and not be in this file."""
        return bool(self._rows("SELECT 1 FROM leases WHERE until <= ? LIMIT 1", self._clock()))

    def held(self, reviewer: str) -> list[tuple[str, str]]:
        """Return what a reviewer holds, in the order in which they got it: custom_id, planted (empty: it is not)."""
        sql = "SELECT custom_id, planted FROM leases WHERE reviewer = ? AND until > ? ORDER BY rowid"
        return self._rows(sql, reviewer, self._clock())

    def judged(self, reviewer: str, planted: str = "") -> list[str]:
        """Return the custom_ids that a reviewer judged, of those planted so, oldest first; skips are none."""
        sql = "SELECT custom_id FROM live WHERE reviewer = ? AND planted = ? AND decision != 'skip' GROUP BY custom_id "
        return [row[0] for row in self._rows(sql + "ORDER BY MIN(place)", reviewer, planted)]

    def handed_at(self, reviewer: str, custom_id: str, planted: str = "") -> datetime | None:
        """Return when a reviewer was first handed an item; null if this index does not know."""
        sql = "SELECT at FROM handed WHERE reviewer = ? AND custom_id = ? AND planted = ?"
        return next(
            (datetime.fromtimestamp(row[0], UTC) for row in self._rows(sql, reviewer, custom_id, planted)), None
        )

    def trail(self, reviewer: str) -> list[tuple[str, str, str, str]]:
        """Return a reviewer's events that were not taken back, oldest first: event_id, custom_id, decision, planted."""
        sql = "SELECT event_id, custom_id, decision, planted FROM events AS one WHERE reviewer = ? AND "
        sql += f"decision != 'undo' AND NOT {_TAKEN_BACK.format('one')} ORDER BY rowid"
        return self._rows(sql, reviewer)

    def n_handed(self, reviewer: str) -> int:
        """Return how many items a reviewer was handed that were not planted."""
        sql = "SELECT custom_id FROM {} WHERE reviewer = ?1 AND planted = ''"
        both = f"SELECT COUNT(*) FROM ({sql.format('events')} UNION {sql.format('leases')})"
        return int(self._rows(both, reviewer)[0][0])

    def has_decided(self, reviewer: str, custom_id: str) -> bool:
        """Say whether a reviewer ever gave a verdict on an item, taken back or not."""
        sql = f"SELECT 1 FROM events WHERE reviewer = ? AND custom_id = ? AND decision IN {VERDICTS!r} LIMIT 1"
        return bool(self._rows(sql, reviewer, custom_id))

    def holds(self, reviewer: str, custom_id: str, planted: str) -> bool:
        """Say whether a reviewer holds an item that was handed out so, and was not done with it before."""
        sql = "SELECT 1 FROM leases AS one WHERE reviewer = ? AND custom_id = ? AND planted = ? AND until > ? AND "
        sql += "NOT EXISTS (SELECT 1 FROM live WHERE custom_id = one.custom_id AND reviewer = one.reviewer AND "
        sql += "planted = one.planted)"
        return bool(self._rows(sql, reviewer, custom_id, planted, self._clock()))

    def opinions(self, reviewer: str, custom_id: str) -> set[str]:
        """Return the event_ids of a reviewer's live verdicts on an item, planted ones left out."""
        sql = "SELECT event_id FROM opinions WHERE reviewer = ? AND custom_id = ?"
        return {row[0] for row in self._rows(sql, reviewer, custom_id)}

    def others(self, reviewer: str, custom_id: str) -> list[str]:
        """Return the decisions of other people on an item, in the order in which they came."""
        sql = "SELECT decision FROM opinions WHERE custom_id = ? AND reviewer != ? ORDER BY place"
        return [row[0] for row in self._rows(sql, custom_id, reviewer)]

    def known(self, event_ids: Iterable[str]) -> set[str]:
        """Return those of the event_ids that are known."""
        found = (self._rows("SELECT event_id FROM events WHERE event_id = ?", name) for name in event_ids)
        return {row[0] for rows in found for row in rows}

    def counts(self, reviewer: str, *, among: Collection[str] | None = None) -> dict[str, int]:
        """Return total, decided, skipped and left of a reviewer; left: held, or free to be handed out.

        Args:
            reviewer: Whose.
            among: custom_ids to count; default all.
        """
        is_counted = (lambda name: True) if among is None else among.__contains__
        n_items = self._rows("SELECT COUNT(*) FROM items")[0][0] if among is None else len(among)
        n_free = n_items - sum(map(is_counted, self._taken(reviewer)))
        passed = dict[tuple[str, str], bool]()
        sql = "SELECT custom_id, planted, decision = 'skip' FROM live WHERE reviewer = ? ORDER BY place"
        for name, planted, is_skip in self._rows(sql, reviewer):
            if is_counted(name):  # who judged it has decided, though they skip it afterwards
                passed[name, planted] = passed.get((name, planted), True) and bool(is_skip)
        waiting = {name for name, planted in self.held(reviewer) if planted}
        n_skipped = sum(passed.values())
        counts = {"decided": len(passed) - n_skipped, "skipped": n_skipped, "left": n_free + len(waiting)}
        return {"total": sum(counts.values())} | counts

    @property
    def n_left(self) -> int:
        """How many opinions are wanted and not there yet, whoever gives them.

        What somebody skipped and nobody holds is left out: it may wait for ever.
        """
        sql = """
        SELECT COALESCE(SUM(MAX(k - COALESCE(n, 0), 0)), 0) FROM items LEFT JOIN
        (SELECT custom_id, COUNT(DISTINCT reviewer) AS n FROM opinions GROUP BY custom_id) USING (custom_id)
        WHERE NOT EXISTS (SELECT 1 FROM live WHERE custom_id = items.custom_id AND decision = 'skip' AND planted = '')
        OR EXISTS (SELECT 1 FROM leases WHERE custom_id = items.custom_id AND planted = '' AND until > ?)
        """
        return int(self._rows(sql, self._clock())[0][0])

    def _note(self, events: Iterable[Mapping[str, Any]]) -> None:
        sql = f"INSERT OR IGNORE INTO events VALUES ({', '.join('?' * len(_COLUMNS))})"
        rows = ([event.get(name) for name in _COLUMNS] for event in events)
        self._db.executemany(sql, ([*row[:4], row[4] or "", row[5], row[6] or 0] for row in rows))

    def _hold(self, reviewer: str, names: Sequence[str], planted: str = "") -> None:
        until = self._clock() + self.lease_s
        rows = [(name, reviewer, planted, until) for name in names]
        sql = "INSERT INTO leases VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until"
        self._db.executemany(sql, rows)
        sql = "INSERT OR IGNORE INTO handed VALUES (?, ?, ?, ?)"
        self._db.executemany(sql, [(name, reviewer, planted, self._clock()) for name in names])

    def _hold_again(self, undo: Mapping[str, Any]) -> None:
        """What was taken back is held again, if nobody has its place by now; without it there is nothing to repeat."""
        reviewer = undo["reviewer"]
        sql = f"SELECT custom_id, planted FROM events WHERE event_id = ? AND reviewer = ? AND decision IN {PASSING!r}"
        for name, planted in self._db.execute(sql, (undo["undoes"], reviewer)).fetchall():
            if planted == "repeat":
                is_free = bool(self.opinions(reviewer, name))
            else:
                is_free = bool(planted) or bool(self._free_of(reviewer, [name]))
            if is_free:
                self._hold(reviewer, [name], planted)
            if not planted:
                sql = "DELETE FROM leases WHERE custom_id = ? AND reviewer = ? AND planted = 'repeat'"
                self._db.execute(sql, (name, reviewer))

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._said(), self._lock:
            return self._db.execute(sql, values[0] if values and isinstance(values[0], dict) else values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One process at a time, and all of it or nothing."""
        with self._said(), self._lock, self._db:  # which commits, or rolls back where something was raised
            self._db.execute("BEGIN IMMEDIATE")
            yield

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LakeError(
                f"the index of leases {self.path} cannot be used ({error}); when nobody reviews, remove it: it is "
                "built again from the journals."
            ) from None
