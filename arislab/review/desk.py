"""Where a review panel gets what is to be judged, and hands over what was decided: the desk of one queue.

A panel asks its desk for items, and tells it decisions; what the browser says of one is completed here with what the
browser is never told before it decides: stratum, chance, score, model. A desk for several people at once has leases and
lives elsewhere (sessions). This module does not know how items are drawn or shown.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arislab.errors import LakeError
from arislab.review import decisions
from arislab.review.decisions import SCHEMA, VERDICTS, complete, live, sha256
from arislab.review.journal import Journal
from arislab.system import files
from arislab.system.kinds import takes_any_frame

SETTLES_NOTHING = ("label", "flag")
"""Decisions after which an item is still to be decided."""
DRAWN = ("why", "inclusion_prob", "planted")
"""What an event has from the draw of its queue."""


class Desk(Protocol):
    """What a panel asks of the kernel."""

    name: str
    """Of the session; the browser keeps what is unsaved under lake, session and reviewer."""

    def take(self, reviewer: str, n: int) -> list[dict[str, Any]]:
        """Return up to n further items, which this reviewer was not handed yet: rows as ``queue`` returns them."""

    def decide(self, events: Sequence[Mapping[str, Any]], reviewer: str) -> dict[str, dict[str, Any]]:
        """Store decisions durably, each event_id once; return by event_id what may be shown now.

        Args:
            events: As the browser says them, with times as datetimes and labels and ratings as JSON text. ``blind``
                stands there, as false, only where the panel showed the score.
            reviewer: Who decided.

        Returns:
            event_id to {"revealed": {"score": …, "model": …}}.

        Raises:
            OSError: Nothing was stored.
            ArislabError: Nothing was stored.
        """

    def counts(self, reviewer: str) -> dict[str, int]:
        """Return total, decided, skipped and left of this reviewer."""

    def trail(self, reviewer: str) -> list[dict[str, Any]]:
        """Return the reviewer's events that can be taken back, oldest first: event_id, custom_id, decision, queue."""

    def row(self, custom_id: str, queue: str | None = None) -> dict[str, Any] | None:
        """Return a row as ``take`` returns it, handed out or not; None if the desk does not know it.

        Args:
            custom_id: Of the row.
            queue: As ``take`` returned it, where a row is handed out under several.
        """


class QueueDesk:
    """The desk of one queue for one person at a time, without leases.

    Args:
        queue: Rows to judge, in this order, as ``review.queue`` returns them: custom_id, input, output and, if present,
            quality_score, model, why, inclusion_prob, queue, planted.
        reviews: Events so far: what a reviewer decided of a row, as it reads now, is not handed out again.
        folder: Of the session: journals, and draws by which late decisions are completed. Without it, ``store`` keeps.
        store: Stores a frame in the columns of the table reviews durably; default: a journal in ``folder``.
        name: Of the session; default the folder's.

    Example:
        >>> rows = pl.DataFrame({"custom_id": ["r-1", "r-2"], "input": ["Q", "Q"], "output": ["A", "B"]})
        >>> desk = QueueDesk(rows, store=lambda frame: None)
        >>> [row["custom_id"] for row in desk.take("Ada", 5)], desk.counts("Ada")["left"]
        (['r-1', 'r-2'], 2)
    """

    @takes_any_frame
    def __init__(
        self,
        queue: pl.DataFrame,
        *,
        reviews: pl.DataFrame | None = None,
        folder: Path | None = None,
        store: Callable[[pl.DataFrame], object] | None = None,
        name: str = "",
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.name = name or (self.folder.name if self.folder else "")
        self.store = store
        self.rows = {row["custom_id"]: row for row in queue.iter_rows(named=True)}
        self._texts = {c: (sha256(row["output"]), sha256(row["input"])) for c, row in self.rows.items()}
        self._reviews = pl.DataFrame(schema=SCHEMA) if reviews is None else complete(reviews)
        moments = pl.coalesce("seq", pl.col("decided_at").dt.epoch("us"))
        self._newest = self._reviews.select(moments.max()).item() or 0
        self._order, self._names = list(self.rows), {row.get("queue") for row in self.rows.values()}
        self._ledgers: dict[str, _Ledger] = {}
        self._draws: dict[str, dict[str, dict[str, Any]]] = {}
        self._drawn_at: dict[str, datetime] = {}
        self._keep_draw(queue)

    def take(self, reviewer: str, n: int) -> list[dict[str, Any]]:
        """Return up to n further items; see ``Desk``."""
        ledger, items = self._ledger(reviewer), list[dict[str, Any]]()
        while len(items) < n and ledger.at < len(self._order):
            custom_id = self._order[ledger.at]
            ledger.at += 1
            if custom_id not in ledger.passed:
                items.append(self.rows[custom_id])
        return items

    def decide(self, events: Sequence[Mapping[str, Any]], reviewer: str) -> dict[str, dict[str, Any]]:
        """Store decisions; see ``Desk``."""
        ledger = self._ledger(reviewer)
        new = {e["event_id"]: e for e in events if e["event_id"] not in ledger.known}
        made, clocks, revealed = list[dict[str, Any]](), ledger.clocks.copy(), set(ledger.revealed)
        for event in new.values():
            full = self._completed(event, reviewer=reviewer, floor=_floor(event, clocks))
            full["blind"] = event.get("blind", event["custom_id"] not in revealed)
            clocks[event.get("stream")] = max(clocks.get(event.get("stream"), (0, 0)), _moment(full))
            revealed |= {event["custom_id"]} if event["decision"] in VERDICTS else set()
            made.append(full)
        if made:
            self._store(made, reviewer)
        ledger.clocks = clocks
        for full in made:
            ledger.note(full, is_current=self._is_current(full))
        return {e["event_id"]: {"revealed": self._revealed(e)} for e in events}

    def counts(self, reviewer: str) -> dict[str, int]:
        """Return total, decided, skipped and left; see ``Desk``."""
        ledger = self._ledger(reviewer)
        n_passed, n_skipped = len(ledger.passed), ledger.n_skipped
        total = len(self.rows)
        return {"total": total, "decided": n_passed - n_skipped, "skipped": n_skipped, "left": total - n_passed}

    def trail(self, reviewer: str) -> list[dict[str, Any]]:
        """Return a reviewer's events that can be taken back; see ``Desk``.

        They are those of the session or about rows of the queue; without a folder, all that the desk knows of.
        """
        return [*self._ledger(reviewer).trail.values()]

    def row(self, custom_id: str, queue: str | None = None) -> dict[str, Any] | None:
        """Return a row of the queue, whatever queue showed it; see ``Desk``."""
        return self.rows.get(custom_id)

    def _ledger(self, reviewer: str) -> "_Ledger":
        if reviewer not in self._ledgers:
            own = self._reviews.filter(pl.col("reviewer") == reviewer)
            ledger = self._ledgers[reviewer] = _Ledger(known=set(own["event_id"]))
            # what was decided is known to its reviewer, also where it was taken back
            ledger.revealed |= set(own.filter(pl.col("decision").is_in(VERDICTS))["custom_id"])
            for event in live(own).iter_rows(named=True):
                ledger.note(event, is_current=self._is_current(event), is_own=self._is_own(event))
        return self._ledgers[reviewer]

    def _is_own(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is of this session; one of another is taken back where it was made."""
        return self.folder is None or event["session"] == self.name or event["custom_id"] in self.rows

    def _is_current(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is about a row of the queue as it reads now."""
        if event["custom_id"] not in self._texts:
            return False
        shown, asked = self._texts[event["custom_id"]]
        return event["shown_sha256"] == shown and event["asked_sha256"] in (None, asked)

    def _completed(self, event: Mapping[str, Any], *, reviewer: str, floor: int) -> dict[str, Any]:
        """An event in all columns: with what the draw knows of its row, and its number, above a floor.

        Nothing of a queue was shown or decided before it was drawn, whatever the clock of a browser says.

        Source:
            Hybrid logical clocks (Kulkarni et al. 2014): by the time of the decision, but after all that its browser
            told before, and after all that this queue was drawn by; what another kernel showed knew less.
        """
        now, queue = decisions.now(), event.get("queue")
        drawn = self._draw_of(event)
        drawn_at = self._drawn_at.get(queue or "")
        times = {name: _between(drawn_at, event.get(name), now) for name in ("shown_at", "decided_at")}
        decided_at = times["decided_at"] or now
        is_late = queue is not None and queue not in self._names
        floor = floor if is_late else max(floor, self._newest)
        return {
            **{name: event.get(name) for name in SCHEMA},
            **{name: drawn.get(name) for name in DRAWN},
            "reviewer": reviewer,
            "session": self.name or None,
            "shown_at": times["shown_at"],
            "decided_at": decided_at,
            "seq": max(int(decided_at.timestamp() * 1e6), floor + 1),
        }

    def _draw_of(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the draw of the event's queue says of its row: of this one, or of one that another kernel showed."""
        row, name = self.rows.get(event["custom_id"], {}), event.get("queue")
        if name is None or row.get("queue") == name:
            return row
        if name not in self._draws:
            self._draws[name] = {one["custom_id"]: one for one in self._kept(name)}
        return self._draws[name].get(event["custom_id"], {})

    def _kept(self, name: str) -> list[dict[str, Any]]:
        """What is kept of a draw; when it was drawn is known from then on."""
        path = self._draw_path(name)
        rows = pl.read_parquet(path).to_dicts() if path and path.is_file() else []
        if rows and rows[0].get("drawn_at") is not None:  # older draws do not say it
            self._drawn_at[name] = rows[0]["drawn_at"]
        return rows

    def _draw_path(self, name: str) -> Path | None:
        is_name = name.isalnum()  # it comes from a browser, and must lead nowhere else
        return self.folder / "draws" / f"{name}.parquet" if self.folder and is_name else None

    def _keep_draw(self, queue: pl.DataFrame) -> None:
        """Keep what the draw knows, so that another kernel can complete a decision that arrives late."""
        if self.folder is None or "queue" not in queue.columns:
            return
        kept = queue.select("custom_id", "queue", *(c for c in DRAWN if c in queue.columns), drawn_at=decisions.now())
        for (name,), rows in kept.filter(pl.col("queue").is_not_null()).group_by("queue"):
            path = self._draw_path(str(name))
            if path is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.written(path) as file:
                    rows.write_parquet(file)
            self._kept(str(name))

    def _store(self, made: list[dict[str, Any]], reviewer: str) -> None:
        if self.store is not None:
            self.store(pl.DataFrame(made, schema=SCHEMA))  # one row per decision
            return
        if self.folder is None:
            raise LakeError("nobody keeps decisions: give the desk a folder, or a function that stores them.")
        ledger = self._ledger(reviewer)
        if ledger.journal is None:
            ledger.journal = Journal(self.folder, reviewer=reviewer)
        ledger.journal.append(made)

    def _revealed(self, event: Mapping[str, Any]) -> dict[str, Any]:
        if event["decision"] not in VERDICTS:
            return {}  # who skips or flags may still decide, and is to do so blind
        row = self.rows.get(event["custom_id"], {})
        return {"score": row.get("quality_score"), "model": row.get("model")}


def _floor(event: Mapping[str, Any], clocks: Mapping[str | None, tuple[int, int]]) -> int:
    """The number that an event must exceed: of what the same browser told before, in the order of its client_seq.

    What another browser told says nothing of it: an older decision may come late. What no browser told is decided here
    and now, after all of them.
    """
    if event.get("client_seq") is None:
        return max((seq for _, seq in clocks.values()), default=0)
    client_seq, seq = clocks.get(event.get("stream"), (0, 0))
    return seq if event["client_seq"] > client_seq else 0


def _moment(full: Mapping[str, Any]) -> tuple[int, int]:
    return full["client_seq"] or 0, full["seq"]


def _between(low: datetime | None, moment: datetime | None, high: datetime) -> datetime | None:
    return moment and min(max(moment, low or moment), high)


class _Ledger:
    """What one reviewer decided, kept as decisions come: none of it is counted anew for each."""

    def __init__(self, *, known: set[str]) -> None:
        self.known = known
        self.revealed: set[str] = set()
        """custom_ids of which score and model were told, because they were judged."""
        self.trail: dict[str, dict[str, Any]] = {}
        """Events that can be taken back, by event_id."""
        self.clocks: dict[str | None, tuple[int, int]] = {}
        """By browser: client_seq and seq of the newest that it told."""
        self.passed: dict[str, str] = {}
        self.n_skipped = self.at = 0
        self.journal: Journal | None = None
        self._verdicts: dict[str, dict[str, str]] = {}
        self._undone: set[str] = set()

    def note(self, event: Mapping[str, Any], *, is_current: bool, is_own: bool = True) -> None:
        """Take an event over that is stored."""
        event_id, custom_id, decision = event["event_id"], event["custom_id"], event["decision"]
        self.known.add(event_id)
        if decision in VERDICTS:
            self.revealed.add(custom_id)
        verdicts = self._verdicts.setdefault(custom_id, {})
        if decision == "undo":
            self._undone.add(event["undoes"] or "")  # which may come after its undo
            self.trail.pop(event["undoes"] or "", None)
            verdicts.pop(event["undoes"] or "", None)
        elif event_id not in self._undone:
            if is_own:
                self.trail[event_id] = {k: event[k] for k in ("event_id", "custom_id", "decision", "queue")}
            if is_current and decision not in SETTLES_NOTHING:
                verdicts[event_id] = decision
        self.n_skipped -= self.passed.pop(custom_id, None) == "skip"
        if verdicts:
            self.passed[custom_id] = [*verdicts.values()][-1]
            self.n_skipped += self.passed[custom_id] == "skip"
