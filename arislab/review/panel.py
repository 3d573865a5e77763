"""People judge outputs: a panel to decide in, by keys in the browser or by calls in Python.

This module does not know where decisions are kept, or who else reviews: a panel asks its desk for rows, and hands each
decision over to it. What decisions are, and how they are folded into the curated rows, stands in ``decisions``.
"""

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from arislab import structured
from arislab.errors import ArislabError, ParameterError, closest
from arislab.review import decisions
from arislab.review.decisions import is_json, json_error, sha256
from arislab.review.desk import SETTLES_NOTHING, Desk, QueueDesk
from arislab.review.layout import as_typed
from arislab.review.view import Shell, View
from arislab.system.kinds import takes_any_frame
from arislab.system.text import html

LABELS = ("helpful", "wrong facts", "bad format", "too vague", "unfair")
BACKENDS = ("keys", "buttons")


class Panel:
    """A panel in which one person approves, rejects, edits, rates, skips or flags outputs, one after the other.

    In the browser a decision shows the next output at once, and is kept there until the desk has stored it; from Python
    it is stored before the next one shows, and where that fails the output stays. Text of candidates and models is
    never interpreted as HTML. In a run without people (ARISLAB_RUN_ID is set) a static summary shows instead.

    Args:
        queue: What to review: a desk, or rows in this order: custom_id, input, output, quality_score, metadata (JSON
            object with company, title, difficulty, category) and, if present, inclusion_prob, why, stale and stale_by.
        reviewer: name that signs the decisions; may be empty, then the panel asks for it before the first decision.
        decide: Of rows without a desk: stores a frame in the columns of the table reviews durably.
        reviews: Of rows without a desk: events so far. The panel goes on after those of this reviewer about the texts
            of the queue, and can undo them.
        labels: texts of the labels; the first nine are reasons to reject, by their number.
        schema: JSON schema of the answers, such as the task's SCHEMA; an edit must satisfy it where the output did.
        guide: The task's REVIEW: labels, ratings, categories and guideline; its labels go before ``labels``.
        backend: keys: decided in the browser, as fast as one types. buttons: ipywidgets alone, one click after the
            other, for places that run no modules of widgets; it shows the score.
        dwell_s: A key or click in the browser that comes sooner after an output appeared is not counted, seconds.
        lake: Name of the lake; the browser keeps what is not stored yet under it, the session and the reviewer.

    Raises:
        ParameterError: The rows lack a column, nobody stores, or there is no such backend.

    Example:
        >>> rows = {"custom_id": ["r-1"], "input": ["Q"], "output": ["A"], "quality_score": [0.9], "metadata": ["{}"]}
        >>> panel = Panel(pl.DataFrame(rows), reviewer="Ada", decide=lambda frame: None)
        >>> panel.approve(), panel.current
        (True, None)
    """

    @takes_any_frame
    def __init__(
        self,
        queue: pl.DataFrame | Desk,
        *,
        reviewer: str,
        decide: Callable[[pl.DataFrame], object] | None = None,
        reviews: pl.DataFrame | None = None,
        labels: Sequence[str] = LABELS,
        schema: dict[str, Any] | None = None,
        guide: Mapping[str, Any] | None = None,
        backend: str = "keys",
        dwell_s: float = 0.15,
        lake: str = "",
    ) -> None:
        if backend not in BACKENDS:
            raise ParameterError(f"there is no backend {backend!r} of the panel; {closest(backend, BACKENDS)}.")
        self.desk = _desk(queue, decide, reviews) if isinstance(queue, pl.DataFrame) else queue
        self.guide = dict(guide or {})
        self.labels, self._schema = tuple(self.guide.get("labels") or labels), schema
        self.backend, self.dwell_s, self.lake = backend, dwell_s, lake
        self.notice: tuple[str, str] = ("", "")
        """What the panel says above the output: ("error" | "info" | "", text)."""
        self._seats = dict[str, _Seat]()
        self._name, self._unsure = reviewer.strip(), dict[str, Any]()
        self._current: str | None = None
        self.shown_at = decisions.now()
        """When the current output appeared."""
        self._show(None)

    # what stands where

    @property
    def reviewer(self) -> str:
        """Name that signs the decisions; setting it goes to the first output that this reviewer has not passed."""
        return self._name

    @reviewer.setter
    def reviewer(self, name: str) -> None:
        self._name = name.strip()
        self.notice = ("", "")
        self._show(None)

    @property
    def is_name_fixed(self) -> bool:
        """Whether the desk serves one reviewer alone, as the page of a reviewer does."""
        return bool(getattr(self.desk, "reviewer", ""))

    @property
    def current(self) -> dict[str, Any] | None:
        """The row of the queue that is shown now; None when nothing is left."""
        return self.row(self._current) if self._current else None

    @property
    def counts(self) -> dict[str, int]:
        """Rows of this queue: total, decided and skipped by this reviewer, left."""
        return self.desk.counts(self._name)

    @property
    def _seat(self) -> "_Seat":
        if self._name not in self._seats:
            seat = self._seats[self._name] = _Seat(self.key)
            for event in self.desk.trail(self._name) if self._name else ():
                seat.note(event, row_of=self.row)
        return self._seats[self._name]

    def key(self, of: Mapping[str, Any]) -> str:
        """Return the name of an item in this panel.

        A desk may hand a row out again under another queue, to see whether its verdict is repeated: that is another
        item. A queue alone holds a row once, and goes by another name when it is drawn again.

        Args:
            of: custom_id and queue, of a row or an event.
        """
        if isinstance(self.desk, QueueDesk):
            return str(of["custom_id"])
        return f"{of.get('queue') or ''}\n{of['custom_id']}"

    def row(self, key: str) -> dict[str, Any] | None:
        """Return the row of an item that was handed out, or that the desk knows; None for others."""
        row = self._seat.rows.get(key)
        if row is None:
            queue, _, custom_id = ("", "", key) if isinstance(self.desk, QueueDesk) else key.partition("\n")
            row = self.desk.row(custom_id, queue or None)
        return row

    def ahead(self, n: int) -> list[dict[str, Any]]:
        """Return n rows that are still to be decided, fewer if there are no more; further ones come from the desk."""
        seat = self._seat
        if (lacking := n - len(seat.waiting)) > 0:
            self.more(lacking)
        return [*seat.waiting.values()][:n]

    def more(self, n: int) -> list[dict[str, Any]]:
        """Take up to n further rows from the desk; one that holds them for people is asked once there is a name."""
        if not self._name and not isinstance(self.desk, QueueDesk):
            return []
        rows = self.desk.take(self._name, n)
        if self.backend == "buttons" and any(row.get("kind") == "pair" for row in rows):
            raise ParameterError(
                "the backend 'buttons' shows one output at a time, and these are pairs; backend='keys' shows pairs."
            )
        self._seat.take(rows)
        return rows

    def behind(self, n: int) -> list[dict[str, Any]]:
        """Return the rows that were decided last, oldest first."""
        names = dict.fromkeys(e["id"] for e in self.trail(3 * n) if e["decision"] not in SETTLES_NOTHING)
        rows = [self.row(name) for name in names if name not in self._seat.waiting]
        return [row for row in rows if row is not None][-n:]

    def trail(self, n: int) -> list[dict[str, Any]]:
        """Return this reviewer's last n events that count, oldest first: event_id, custom_id, queue, decision, id."""
        return [*self._seat.trail.values()][-n:]

    def find(self, text: str, n: int) -> list[dict[str, Any]]:
        """Return up to n rows that were handed out and hold a text, in any case of its letters."""
        small, found = text.casefold(), list[dict[str, Any]]()
        for row in self._seat.rows.values():
            if len(found) < n and any(small in str(row.get(c) or "").casefold() for c in _SEARCHED):
                found.append(row)
        return found

    def _show(self, key: str | None) -> None:
        target = key or next(map(self.key, self.ahead(1)), None)
        fresh = target != self._current
        if fresh:
            self._current, self.shown_at = target, decisions.now()
        self._render(fresh=fresh)

    # what a reviewer can do

    def approve(self, *, labels: Sequence[str] = ()) -> bool:
        """The output is good as it is. Returns False when nothing was stored; `notice` says why."""
        return self._settle("approve", labels=labels)

    def reject(self, *, labels: Sequence[str] = ()) -> bool:
        """The output must not be trained on."""
        return self._settle("reject", labels=labels)

    def edit(self, text: str, *, labels: Sequence[str] = ()) -> bool:
        """The output is good once it reads `text`, stored in the layout of the original.

        JSON must stay JSON, and satisfy the schema where the output did; a text that says the same as the output is no
        edit.
        """
        if self.current is None:
            return self.say("error", "Nothing is left to edit.")
        return self._settle("edit", edited_output=text, labels=labels)

    def label(self, *labels: str) -> bool:
        """Store labels without a verdict; the output stays."""
        if not labels:
            return self.say("error", "Choose a label first.")
        stored = self._settle("label", labels=labels, advance=False)
        if stored:
            self.say("info", "Labels stored: " + ", ".join(labels) + ". Now decide.")
        return stored

    def flag(self) -> bool:
        """Show the output to the lead; it is still to be decided."""
        stored = self._settle("flag", advance=False)
        if stored:
            self.say("info", "Flagged for the lead. Now decide.")
        return stored

    def skip(self) -> bool:
        """Leave the output to somebody else."""
        return self._settle("skip")

    def undo(self) -> bool:
        """Take this reviewer's latest event back and show its output again; can be repeated to the very first."""
        last = self.trail(1)
        if not self._name or not last:
            return self.say("info", "There is nothing of yours to undo." if self._name else "Enter your name first.")
        event = last[0]
        if not self._store("undo", event, undoes=event["event_id"]):
            return False
        again = event["id"] if self.row(event["id"]) else None
        self.notice = (
            "info",
            f"Took back: {event['decision']}."
            + ("" if again else " That output is not in this queue; it comes back with the next one."),
        )
        self._show(again)
        return True

    def hear(self, events: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Store decisions of this reviewer, durably, those that can be.

        Args:
            events: As ``Desk.decide`` takes them.

        Returns:
            By event_id what may be shown now; and by event_id why an edit was refused.

        Raises:
            OSError: Nothing was stored.
            ArislabError: Nothing was stored.
        """
        fit, refused = list[dict[str, Any]](), dict[str, str]()
        for event in events:
            full, why = self._checked(event)
            if why:
                refused[event["event_id"]] = why
            else:
                fit.append(full)
        told = self.desk.decide(fit, self._name) if fit else {}
        for event in fit:
            self._seat.note(event, row_of=self.row)
        if self._current is not None and self._current not in self._seat.waiting:
            self._current = None  # decided in the browser; whoever calls next is shown the next one
        return told, refused

    def _checked(self, event: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """An edit in the layout of its output, and why it, or another decision, is none."""
        row = self.row(self.key(event))
        wrong: tuple[str, ...] = ()
        if row is not None:
            wrong = _OF_OUTPUTS if row.get("kind") == "pair" else _OF_PAIRS
        if event["decision"] in wrong:
            what = "a pair" if wrong == _OF_OUTPUTS else "an output"
            return event, f"There is no decision {event['decision']!r} about {what}."
        if event["decision"] != "edit" or row is None or sha256(row.get("output")) != event["shown_sha256"]:
            return event, ""  # what another kernel showed, and this one does not know, is kept as it came
        original = row["output"] or ""
        text = as_typed(event["edited_output"] or "", original=original)
        return event | {"edited_output": text}, self._refusal(original, text)

    def _refusal(self, original: str, text: str) -> str:
        """Why a text is no edit of an output; empty if it is."""
        if text == original:
            return "The edited text is the same as the output; approve it instead."
        if is_json(original) and not is_json(text):
            reason = json_error(text) or "it is no object or list"
            return f"The output was valid JSON and the edited text is not ({reason}). Nothing was stored."
        if not text.strip():
            return "The edited text is empty; reject the output instead."
        why = structured.error(text, self._schema)
        if why is not None and structured.error(original, self._schema) is None:
            return f"The output fitted the task's SCHEMA and the edited text does not ({why}). Nothing was stored."
        return ""

    def _settle(
        self, decision: str, *, edited_output: str | None = None, labels: Sequence[str] = (), advance: bool = True
    ) -> bool:
        if not self._name:
            return self.say("error", _NAMELESS)
        if self.current is None:
            self._show(None)  # one may have come; or the browser decided on what was shown here
        if self.current is None:
            return self.say("error", "Nothing is left to decide.")
        if not self._store(decision, self.current, edited_output=edited_output, labels=labels):
            return False
        if advance:
            self.notice = ("", "")
            self._show(None)
        return True

    def _store(
        self,
        decision: str,
        of: Mapping[str, Any],
        *,
        edited_output: str | None = None,
        labels: Sequence[str] = (),
        undoes: str | None = None,
    ) -> bool:
        row = self.row(self.key(of))
        what = {
            "custom_id": of["custom_id"],
            "decision": decision,
            "edited_output": edited_output,
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "shown_at": self.shown_at,
            "undoes": undoes,
            "shown_sha256": row.get("shown_sha256") or sha256(row.get("output")) if row else None,
            "asked_sha256": sha256(row.get("input")) if row else None,
            "queue": row.get("queue") if row else of.get("queue"),
            "blind": False,  # whoever calls has the row with its score
        }
        # a write that failed may have been done (the disk went away after it): the same decision again keeps its
        # event_id, by which it counts once, stored before or not
        is_same = what.items() <= self._unsure.items()
        event = self._unsure if is_same else what | {"event_id": uuid.uuid4().hex, "decided_at": decisions.now()}
        try:
            _, refused = self.hear([event])
        except (OSError, ArislabError) as error:
            self._unsure = event
            return self.say("error", f"Not stored: {error}. The output stays; try again.")
        self._unsure = {}
        return not refused or self.say("error", *refused.values())

    def say(self, kind: str, text: str) -> bool:
        """Show a notice of kind "error" or "info"; returns False, for callers that store nothing."""
        self.notice = (kind, text)
        self._render()
        return False

    # what it looks like

    @cached_property
    def widget(self) -> Any:
        """The widget of the backend, in an ipywidgets VBox; made when it is first asked for."""
        self._view: View | Shell = View(self) if self.backend == "buttons" else Shell(self)
        return self._view.box

    @property
    def buttons(self) -> dict[str, Any]:
        """Buttons of the backend buttons by name: approve, reject, edit, save, cancel, label, skip, undo."""
        assert self.widget is not None
        assert isinstance(self._view, View)
        return self._view.buttons

    def _render(self, *, fresh: bool = False) -> None:
        if "widget" in self.__dict__:  # asking for it would make it, and load ipywidgets
            self._view.render(fresh=fresh)

    def __repr__(self) -> str:
        counts = self.counts
        if not counts["total"]:
            return "Review panel: nothing waits for review. Run 2_curate first (`arislab run curate`)."
        who = f" by {self._name}" if self._name else ""
        decided, skipped = f"{counts['decided']} of {counts['total']} decided{who}", f"{counts['skipped']} skipped"
        return f"Review panel: {decided}, {skipped}, {counts['left']} left."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        summary = {
            "text/plain": repr(self),
            "text/html": f"<p>{html(repr(self))} Decide in <code>notebooks/review.ipynb</code>, in JupyterLab.</p>",
        }
        if "ARISLAB_RUN_ID" in os.environ:
            return summary  # nobody is there to click
        return {**self.widget._repr_mimebundle_(), **summary}


_OF_PAIRS, _OF_OUTPUTS = ("left", "right", "tie"), ("approve", "reject", "edit", "label")
_NAMELESS = "Enter your name first: every decision is signed."
_SEARCHED = ("custom_id", "input", "output", "left", "right", "metadata")


class _Seat:
    """What one reviewer was handed and decided in a panel, kept as it comes.

    Args:
        key: Names the item of a row or an event.
    """

    def __init__(self, key: Callable[[Mapping[str, Any]], str]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        """Handed out."""
        self.waiting: dict[str, dict[str, Any]] = {}
        """Of these still to be decided, in the order in which they are shown."""
        self.trail: dict[str, dict[str, Any]] = {}
        """Own events that count, by event_id."""
        self._key, self._known, self._undone = key, set[str](), set[str]()

    def take(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take over rows of the desk."""
        for row in rows:
            name = self._key(row)
            self.rows[name] = self.waiting[name] = row

    def note(self, event: Mapping[str, Any], *, row_of: Callable[[str], dict[str, Any] | None]) -> None:
        """Take an event over that is stored; a row whose decision was taken back is shown first."""
        event_id, decision = event["event_id"], event["decision"]
        if event_id in self._known:
            return  # a browser tells again what it had no answer to
        self._known.add(event_id)
        if decision == "undo":
            self._take_back(event["undoes"] or "", row_of)
        elif event_id not in self._undone:
            name, known = self._key(event), {k: event.get(k) for k in ("event_id", "custom_id", "queue", "decision")}
            self.trail[event_id] = known | {"id": name}
            if decision not in SETTLES_NOTHING:
                self.waiting.pop(name, None)

    def _take_back(self, event_id: str, row_of: Callable[[str], dict[str, Any] | None]) -> None:
        self._undone.add(event_id)  # which may come after its undo
        event = self.trail.pop(event_id, None)
        if event is None or event["decision"] in SETTLES_NOTHING:
            return
        name = event["id"]
        if (row := row_of(name)) is not None:
            self.waiting = {name: row} | {k: v for k, v in self.waiting.items() if k != name}


def _desk(
    queue: pl.DataFrame, decide: Callable[[pl.DataFrame], object] | None, reviews: pl.DataFrame | None
) -> QueueDesk:
    """The desk of rows that came without one."""
    missing = [c for c in ("custom_id", "input", "output", "quality_score", "metadata") if c not in queue.columns]
    if missing:
        raise ParameterError(
            f"the queue has no column {missing[0]!r}; it has {', '.join(queue.columns)}. Make it with "
            "review.queue(curated, …)."
        )
    if decide is None:
        raise ParameterError(
            "nobody stores what is decided here: give decide=…, or review.QueueDesk(queue, folder=…) instead."
        )
    return QueueDesk(queue, reviews=reviews, store=decide, name=sha256("\n".join(queue["custom_id"]))[:12])
