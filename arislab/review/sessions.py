"""Several people review one queue: who gets what, who judges twice, and what nobody is told before they decide.

A session is a folder, by which any process can serve any of its reviewers::

    session.json    seed, share that two people judge, shares that are planted, seconds of a lease
    draws/          a file for each queue: the rows to judge, with what their draw knows of them
    gold.parquet    rows whose verdict is known, planted to see how people judge them
    *.jsonl         what was decided (journal)
    leases.sqlite   who holds what (leases); can be built again from the others

This module does not know how a queue is drawn (sampling), how it is shown (panel), what decisions come to (decisions)
or how far people agree (agreement).
"""

import hashlib
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import LakeError, ParameterError
from arislab.review import decisions
from arislab.review.decisions import SCHEMA, VERDICTS, complete, metadata_of
from arislab.review.desk import SETTLES_NOTHING
from arislab.review.journal import Journal
from arislab.review.journal import read as read_journals
from arislab.review.leases import Leases
from arislab.review.streams import Streams
from arislab.system import files

BLIND = (
    "quality_score",
    "score",
    "model",
    "why",
    "inclusion_prob",
    "planted",
    "stale",
    "stale_by",
    "disputed",
    "decision",
    "run_id",
    "drawn_at",
)
"""Columns of a queue that no reviewer is told before their own decision is stored."""
_BLIND_METADATA = ("quality_score", "quality", "score", "model", "original_output", "scored_sha256")
_APART = 10
"""Items from one to its repeat: who remembers the first verdict repeats it. A session of fewer than twelve has none."""
_RECOUNTED_S = 5.0
"""Seconds after which what other processes did is counted too."""


@dataclass(frozen=True)
class Settings:
    """How a session hands out its items; fixed when it starts."""

    seed: int
    """Of all that is left to chance: which items two people judge, and the order that each reviewer gets."""
    overlap: float = 0.15
    """Share of the items that k people judge, 0..1; the others are judged by one."""
    k: int = 2
    """People who judge an item of the overlap, at least 1."""
    gold: float = 0.02
    """Chance, before each item, that one whose verdict is known is planted, 0..1; none is where there is no gold."""
    repeats: float = 0.02
    """Chance, before each item, that the reviewer is shown one again that they judged before, 0..1."""
    lease_s: float = 600.0
    """Seconds that an item is held without a sign of its reviewer, above 0."""

    def __post_init__(self) -> None:
        for name in ("overlap", "gold", "repeats"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be in [0, 1], got {getattr(self, name)!r}; 0.15 is 15 of 100 items.")
        if self.k < 1:
            raise ParameterError(
                f"k must be at least 1, got {self.k}; 2 has two people judge each item of the overlap."
            )
        if self.lease_s <= 0:
            raise ParameterError(f"lease_s must be above 0, got {self.lease_s}; 600 holds an item for ten minutes.")


def start(folder: Path, queue: pl.DataFrame, settings: Settings, *, gold: pl.DataFrame | None = None) -> None:
    """Make the folder of a session, or add a queue to one that is there, which keeps its settings and its gold.

    Args:
        folder: Of the session; its name is the session's.
        queue: Rows to judge, as ``review.queue`` returns them: custom_id, input, output, queue and, if present,
            quality_score, model, why, inclusion_prob, metadata.
        settings: How the items are handed out.
        gold: Rows whose verdict is known, in the columns of the queue.

    Raises:
        ParameterError: The queue lacks a column.
        OSError: The folder cannot be written.
    """
    for name in ("custom_id", "input", "output", "queue"):
        if name not in queue.columns:
            raise ParameterError(
                f"the queue has no column {name!r}; it has {', '.join(queue.columns)}. Make it with review.queue(…)."
            )
    folder = Path(folder)
    if not is_started(folder):
        try:
            with files.made(folder) as part:
                if gold is not None and gold.height:
                    gold.write_parquet(part / "gold.parquet")
                known = asdict(settings) | {"secret": secrets.token_hex(16)}
                (part / "session.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        except OSError:
            if not is_started(folder):  # else another page was faster: its session is this one
                raise
    for (name,), rows in queue.group_by("queue", maintain_order=True):
        path = folder / "draws" / f"{'picked' if name is None else name}.parquet"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            with files.written(path) as file:
                rows.with_columns(drawn_at=pl.lit(decisions.now())).write_parquet(file)


def is_started(folder: Path) -> bool:
    """Say whether a folder holds a session."""
    return (Path(folder) / "session.json").is_file()


class Session:
    """A session as one process serves it: the desk of all its reviewers (``review.Desk``).

    An item is handed to no more people than are to judge it while they hold or have judged it, and to nobody again who
    passed it, but for repeats that are planted. A decision that arrives late, about an item that others hold by now, is
    kept as one more opinion.

    Args:
        folder: That ``start`` made.
        reviewer: The only one whom this process serves, as the page of a reviewer does; empty: all of them.
        reviews: Reads all events of the table reviews; those of this session that no journal has any more are known
            by it, and what a reviewer was told already.
        clock: Seconds since 1970, the same for all processes.

    Raises:
        LakeError: There is no session in the folder, or its index is damaged.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "nurses"
        >>> rows = {"custom_id": ["r-1"], "input": ["Q"], "output": ["A"], "queue": ["q"], "quality_score": [0.9]}
        >>> start(folder, pl.DataFrame(rows), Settings(seed=1))
        >>> sorted(Session(folder).take("Ada", 5)[0])
        ['custom_id', 'input', 'output', 'queue']
    """

    def __init__(
        self,
        folder: Path,
        *,
        reviewer: str = "",
        reviews: Callable[[], pl.DataFrame] = lambda: pl.DataFrame(schema=SCHEMA),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self._reviews = Path(folder), reviews
        self.name, self.reviewer = self.folder.name, reviewer
        if not is_started(self.folder):
            raise LakeError(f"there is no review session in {self.folder}; review_page.ipynb starts one.")
        known = json.loads((self.folder / "session.json").read_text(encoding="utf-8"))
        self._secret = known.pop("secret")
        self.settings = Settings(**known)
        self._leases = Leases(self.folder / "leases.sqlite", lease_s=self.settings.lease_s, clock=clock)
        self._drawn, self._rows = list[dict[str, Any]](), dict[str, dict[str, Any]]()
        self._gold = {row["custom_id"]: row for row in _rows_of([self.folder / "gold.parquet"])}
        self._all, self._orders = dict[str, dict[str, Any]](), dict[str, list[str]]()
        self._told, self._streams = set[tuple[str, str]](), Streams()
        self._handed = dict[str, set[tuple[str, str]]]()
        self._journals, self._counts = dict[str, Journal](), dict[str, dict[str, int]]()
        self._counted_at = 0.0
        self.learn()

    def learn(self) -> None:
        """Take over the draws, journals and reviews as they stand now."""
        draws = sorted((self.folder / "draws").glob("*.parquet"))
        self._drawn = _rows_of(draws)
        self._rows = {row["custom_id"]: row for row in self._drawn}  # what was skipped may be in several draws
        self._all, self._orders = self._gold | self._rows, {}
        # journals first: what is folded between the two readings stands in the table by then
        events = complete(pl.concat([read_journals(self.folder), complete(self._reviews())]))
        events = events.unique("event_id", keep="first", maintain_order=True)
        verdicts = events.filter(pl.col("decision").is_in(VERDICTS))
        self._told |= set(verdicts.select("reviewer", "custom_id").iter_rows())
        own = events.filter(pl.col("session") == self.name).sort("seq", "event_id")
        self._streams.learn(own.select("reviewer", "client_seq", "seq").rows(named=True))
        self._leases.learn(self._places(), own.rows(named=True))

    def _places(self) -> dict[str, int]:
        """How many people are to judge each item: k of a share of each draw, one of the others."""
        places, draws = dict[str, int](), dict[str | None, list[str]]()
        for row in self._drawn:
            draws.setdefault(row["queue"], []).append(row["custom_id"])
        for queue, names in draws.items():
            rng = random.Random(f"{self.settings.seed} overlap {queue}")
            double = set(rng.sample(sorted(names), round(self.settings.overlap * len(names))))
            places |= {name: self.settings.k if name in double else 1 for name in names}
        return places

    # ---- the desk ----------------------------------------------------------------------------------------------------

    def take(self, reviewer: str, n: int) -> list[dict[str, Any]]:
        """Return up to n further items for a reviewer, in an order of their own, and hold them.

        What they hold and this process did not hand out yet, since another page of theirs did, comes first.

        Args:
            reviewer: Who is to judge.
            n: How many items.

        Returns:
            Rows of the queue without ``BLIND``; queue is a name that tells an item from its repeat to this session
            alone. Who has no name yet gets none.
        """
        if not reviewer or self._is_other(reviewer):
            return []
        if time.monotonic() - self._counted_at > _RECOUNTED_S:
            self._counts.clear()
        if self._leases.has_expired:  # whoever held it may have decided, and been killed before the index knew
            self.learn()
            self._leases.expire()
            self._counts.clear()
        self._leases.beat(reviewer)
        handed = self._handed.setdefault(reviewer, set())
        held = self._leases.held(reviewer)
        chosen = [one for one in held if one not in handed and one[0] in self._all][:n]
        handed |= set(chosen)
        given = [*self._leases.judged(reviewer), *(name for name, planted in held if not planted)]
        order = [name for name in self._order(reviewer) if (name, "") not in handed]
        slot = self._leases.n_handed(reviewer)
        for name in self._leases.take(reviewer, order, n=n - len(chosen)):
            if (planted := self._planted(reviewer, slot, given[:-_APART])) is not None:
                self._leases.plant(reviewer, *planted)
                self._counts.clear()
                chosen.append(planted)
            chosen.append((name, ""))
            given.append(name)
            slot += 1
        handed |= set(chosen)
        return [self._shown(reviewer, *one) for one in chosen]

    def decide(self, events: Sequence[Mapping[str, Any]], reviewer: str) -> dict[str, dict[str, Any]]:
        """Store decisions durably, each event_id once.

        Args:
            events: As the browser says them; see ``review.Desk``.
            reviewer: Who decided.

        Returns:
            event_id to {"revealed": {"score": …, "model": …, "others": [their decisions]}}; after a decision
            that is no verdict nothing is revealed.

        Raises:
            OSError: Nothing was stored.
            ArislabError: Nothing was stored.
        """
        if self._is_other(reviewer):
            raise ParameterError(f"this page is {self.reviewer!r}'s and stores no decision of {reviewer!r}.")
        if not reviewer:
            raise ParameterError("a decision has no reviewer; enter your name first: every decision is signed.")
        known = self._leases.known(event["event_id"] for event in events)
        new = {event["event_id"]: event for event in events if event["event_id"] not in known}
        made = list[dict[str, Any]]()
        for event in sorted(new.values(), key=lambda event: event.get("client_seq") or 0):
            made.append(self._completed(event, reviewer, made))
        if made:
            if reviewer not in self._journals:
                self._journals[reviewer] = Journal(self.folder, reviewer=reviewer)
            self._journals[reviewer].append(made)
            self._streams.learn(made)
            self._told |= {(reviewer, event["custom_id"]) for event in made if event["decision"] in VERDICTS}
            self._count(made, reviewer)
            self._leases.note(made)
        else:
            self._leases.beat(reviewer)
        return {event["event_id"]: {"revealed": self._revealed(event, reviewer)} for event in events}

    def trail(self, reviewer: str) -> list[dict[str, Any]]:
        """Return a reviewer's events of this session that can be taken back, oldest first, whoever serves them.

        Args:
            reviewer: Who decided.

        Returns:
            event_id, custom_id, decision and queue (the name under which ``take`` hands the item out; null if the draw
            of it is gone) of each.
        """
        events = self._leases.trail(reviewer)
        return [
            {
                "event_id": event_id,
                "custom_id": name,
                "decision": decision,
                "queue": self._name_of(reviewer, name, kind),
            }
            for event_id, name, decision, kind in events
        ]

    def row(self, custom_id: str, queue: str | None = None) -> dict[str, Any] | None:
        """Return an item as ``take`` hands it out, whoever holds it; null if it is none of this session.

        Args:
            custom_id: Of the item.
            queue: The name under which it was handed out, which the row gets; without it, that of an item which was not
                planted, where this process serves one reviewer alone, else null.
        """
        if custom_id not in self._all:
            return None
        name = queue or (self._name_of(self.reviewer, custom_id, "") if self.reviewer else None)
        return self._open(custom_id) | {"queue": name}

    def counts(self, reviewer: str) -> dict[str, int]:
        """Return total, decided, skipped and left of a reviewer; what others will judge alone is none of it.

        What other processes did in the last seconds may be missing.
        """
        if reviewer not in self._counts:
            self._counts[reviewer] = self._leases.counts(reviewer)
            self._counted_at = time.monotonic()
        return self._counts[reviewer]

    def _count(self, made: Sequence[Mapping[str, Any]], reviewer: str) -> None:
        """Carry the counts of a reviewer over their decisions: to count 34,000 items anew takes 50 ms.

        Args:
            made: Decisions that the index does not know yet.
            reviewer: Who decided.
        """
        counts, seen = self._counts.get(reviewer), set[tuple[str, str]]()
        self._counts.clear()
        if counts is None:
            return
        for event in made:
            one = (event["custom_id"], event["planted"] or "")
            if event["decision"] in SETTLES_NOTHING:
                continue
            is_first = one not in seen and self._leases.holds(reviewer, *one)
            if event["decision"] == "undo" or not is_first:
                return  # rare: they are counted anew
            seen.add(one)
            passed = "skipped" if event["decision"] == "skip" else "decided"
            counts = counts | {passed: counts[passed] + 1, "left": counts["left"] - 1}
        self._counts[reviewer] = counts

    def _is_other(self, reviewer: str) -> bool:
        return self.reviewer not in ("", reviewer)

    @property
    def n_left(self) -> int:
        """How many decisions are wanted and not made yet, whoever makes them; planted ones are none of them."""
        return self._leases.n_left

    @property
    def gold(self) -> pl.DataFrame:
        """Rows whose verdict is known: custom_id and decision, where the gold of this session says it."""
        rows = [(name, row.get("decision")) for name, row in self._gold.items()]
        return pl.DataFrame(rows, schema={"custom_id": pl.String, "decision": pl.String}, orient="row")

    def close(self) -> None:
        """Give journals and index up, as the end of the process does."""
        for one in self._journals.values():
            one.close()
        self._leases.close()

    # ---- what is handed out ------------------------------------------------------------------------------------------

    def _order(self, reviewer: str) -> list[str]:
        if reviewer not in self._orders:
            self._orders[reviewer] = sorted(self._rows, key=lambda name: self._number("order", reviewer, name))
        return self._orders[reviewer]

    def _number(self, *parts: object) -> float:
        """A number in [0, 1) that the seed and these parts decide."""
        digest = hashlib.sha256(json.dumps([self.settings.seed, *parts]).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def _planted(self, reviewer: str, slot: int, given: Sequence[str]) -> tuple[str, str] | None:
        """What is planted before the item of this number, if anything is.

        Args:
            reviewer: Who is to judge it.
            slot: Number of the item.
            given: Items that may be repeated: handed out long enough before. One that is not judged when its repeat
                comes is judged then.
        """
        drawn = self._number("planted", reviewer, slot)
        if drawn >= self.settings.gold + self.settings.repeats:
            return None
        kind = "gold" if drawn < self.settings.gold else "repeat"
        before = {*self._leases.judged(reviewer, kind), *(name for name, k in self._leases.held(reviewer) if k == kind)}
        before |= {name for name, k in self._handed[reviewer] if k == kind}
        names = [*self._gold] if kind == "gold" else given
        names = [name for name in names if name not in before and name in self._all]
        return (min(names, key=lambda name: self._number(kind, reviewer, name)), kind) if names else None

    def _shown(self, reviewer: str, custom_id: str, planted: str) -> dict[str, Any]:
        return self._open(custom_id) | {"queue": self._token(reviewer, self._all[custom_id], planted)}

    def _open(self, custom_id: str) -> dict[str, Any]:
        """What anybody may be told of an item."""
        row = self._all[custom_id]
        shown = {name: value for name, value in row.items() if name not in BLIND and not name.startswith("score_")}
        if shown.get("metadata"):
            known = self._facts(custom_id) if custom_id not in self._rows else metadata_of(shown["metadata"])
            shown["metadata"] = json.dumps({k: known[k] for k in known if k not in _BLIND_METADATA}, ensure_ascii=False)
        return shown

    def _facts(self, custom_id: str) -> dict[str, Any]:
        """The metadata of gold, in the names that a drawn row has, and with its facts where the gold has none.

        The row is the one that has most of them in common; else gold would stand out by what is not known of it.
        """
        own = metadata_of(self._gold[custom_id].get("metadata"))
        drawn = {name: metadata_of(row.get("metadata")) for name, row in self._rows.items()}
        alike = {name: sum(facts.get(k) == own[k] for k in own) for name, facts in drawn.items()}
        near = max(drawn, key=lambda name: (alike[name], self._number("facts", custom_id, name)), default=None)
        return own if near is None else {k: own.get(k, value) for k, value in drawn[near].items()}

    def _name_of(self, reviewer: str, custom_id: str, planted: str) -> str | None:
        row = self._all.get(custom_id)
        return None if row is None else self._token(reviewer, row, planted)

    def _token(self, reviewer: str, row: Mapping[str, Any], planted: str) -> str:
        """The name under which an item is handed out: it says nothing, and is found again by whoever knows the secret.

        No two items have the same one, so that what is planted does not stand out.
        """
        parts = [self._secret, row.get("queue"), reviewer, row["custom_id"], planted]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    # ---- what was decided --------------------------------------------------------------------------------------------

    def _completed(
        self, event: Mapping[str, Any], reviewer: str, before: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """An event in all columns; of an item that this session did not hand out so, the draw says nothing.

        Args:
            event: As the browser says it.
            reviewer: Who decided.
            before: What the same browser says before it, completed.
        """
        row = self._all.get(event["custom_id"], {})
        planted = self._kind(event, reviewer)
        if planted == "repeat" and not self._opinions(event["custom_id"], reviewer, before):
            planted = ""  # what it would repeat was taken back: this is the reviewer's verdict
        drawn = row if planted == "" else {}
        shown_at, decided_at = self._times(event, reviewer)
        told = (reviewer, event["custom_id"])
        is_blind = event.get("blind", True) and told not in self._told and not self._leases.has_decided(*told)
        return {name: event.get(name) for name in SCHEMA} | {
            "reviewer": reviewer,
            "session": self.name,
            "queue": drawn.get("queue"),
            "why": drawn.get("why"),
            "inclusion_prob": drawn.get("inclusion_prob"),
            "planted": planted or None,
            "blind": is_blind,
            "shown_at": shown_at,
            "decided_at": decided_at,
            "seq": self._streams.seq(event, reviewer, at=decided_at, before=before),
        }

    def _times(self, event: Mapping[str, Any], reviewer: str) -> tuple[datetime | None, datetime]:
        """When an item was shown and decided: not before it was handed out, nor in the future.

        A browser whose clock is slow would say that the queue is older than its rows.
        """
        now = decisions.now()
        shown_at, decided_at = event.get("shown_at"), event.get("decided_at") or now
        kind = self._kind(event, reviewer)
        if kind is not None:
            handed_at = self._leases.handed_at(reviewer, event["custom_id"], kind)
            first = max(filter(None, (handed_at, self._all[event["custom_id"]].get("drawn_at"))), default=decided_at)
            slow = max(first - (shown_at or decided_at), timedelta(0))
            shown_at, decided_at = shown_at and shown_at + slow, max(decided_at + slow, first)
        return shown_at and min(shown_at, now), min(decided_at, now)

    def _kind(self, event: Mapping[str, Any], reviewer: str) -> str | None:
        """As what the item of an event was handed out: empty, gold or repeat; null: it was not."""
        row = self._all.get(event["custom_id"])
        tokens = {self._token(reviewer, row, kind): kind for kind in ("", "gold", "repeat")} if row else {}
        return tokens.get(event.get("queue") or "")

    def _opinions(self, custom_id: str, reviewer: str, before: Sequence[Mapping[str, Any]]) -> set[str]:
        """The event_ids of what a reviewer says of an item: verdicts that were not planted, nor taken back."""
        of_item = {e["event_id"] for e in before if e["custom_id"] == custom_id and e["decision"] in VERDICTS
                   and e["planted"] is None}  # fmt: skip
        return (self._leases.opinions(reviewer, custom_id) | of_item) - {e["undoes"] for e in before}

    def _revealed(self, event: Mapping[str, Any], reviewer: str) -> dict[str, Any]:
        row = self._all.get(event["custom_id"])
        if row is None or event["decision"] not in VERDICTS:
            return {}
        others = self._leases.others(reviewer, event["custom_id"])
        return {"score": row.get("quality_score"), "model": row.get("model"), "others": others}


def _rows_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [row for path in paths if path.is_file() for row in pl.read_parquet(path).rows(named=True)]
