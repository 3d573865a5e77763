"""People judge outputs: what to review next, and a panel to decide in.

This module does not know where decisions are kept: `Panel` hands each one to the ``decide`` function that it was given.
What decisions are, and how they are folded into the curated rows, stands in ``decisions``.
"""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from arislab import structured
from arislab.errors import ArislabError, ParameterError
from arislab.review.decisions import SCHEMA, complete, event, is_json, json_error, live, sha256
from arislab.review.layout import as_typed
from arislab.review.view import View
from arislab.system.text import html

LABELS = ("helpful", "wrong facts", "bad format", "too vague", "unfair")


class Panel:
    """A panel in which one person approves, rejects, edits, labels or skips outputs, one after the other.

    Every decision goes to ``decide`` as a frame of one row in the columns of the table reviews, and the next output
    shows only after ``decide`` returned. When it raises, the panel says why and the output stays. Text of candidates
    and models is never interpreted as HTML. In a run without people (ARISLAB_RUN_ID is set) a static summary shows
    instead.

    Args:
        queue: rows to review in this order: custom_id, input, output, quality_score, metadata (JSON object with
            company, title, difficulty, category) and, if present, inclusion_prob, why, stale and stale_by.
        reviewer: name that signs the decisions; may be empty, then the panel asks for it before the first decision.
        decide: stores the one-row frame durably, for example ``lambda frame: lake["reviews"].append(frame)``.
        reviews: events so far. The panel goes on after those of this reviewer about the texts of the queue, and can
            undo them.
        labels: texts of the label chips.
        schema: JSON schema of the answers, such as the task's SCHEMA; an edit must satisfy it where the output did.

    Example:
        >>> rows = {"custom_id": ["r-1"], "input": ["Q"], "output": ["A"], "quality_score": [0.9], "metadata": ["{}"]}
        >>> panel = Panel(pl.DataFrame(rows), reviewer="Ada", decide=lambda frame: None)
        >>> panel.approve(), panel.current
        (True, None)
    """

    def __init__(
        self,
        queue: pl.DataFrame,
        *,
        reviewer: str,
        decide: Callable[[pl.DataFrame], object],
        reviews: pl.DataFrame | None = None,
        labels: Sequence[str] = LABELS,
        schema: dict[str, Any] | None = None,
    ) -> None:
        missing = [c for c in ("custom_id", "input", "output", "quality_score", "metadata") if c not in queue.columns]
        if missing:
            raise ParameterError(
                f"the queue has no column {missing[0]!r}; it has {', '.join(queue.columns)}. Make it with "
                "review.queue(curated, …)."
            )
        self._rows = {row["custom_id"]: row for row in queue.iter_rows(named=True)}
        digests = [(c, sha256(row["output"]), sha256(row["input"])) for c, row in self._rows.items()]
        names = ["custom_id", "shown_sha256", "question_sha256"]
        self._texts = pl.DataFrame(digests, schema=dict.fromkeys(names, pl.String), orient="row")
        self._events = pl.DataFrame(schema=SCHEMA)
        if reviews is not None:
            self._events = complete(reviews)
        self._decide, self._unsure = decide, pl.DataFrame(schema=SCHEMA)
        self.labels, self._schema = tuple(labels), schema
        self.notice: tuple[str, str] = ("", "")
        """What the panel says above the output: ("error" | "info" | "", text)."""
        self._name = reviewer.strip()
        self._current: str | None = None
        self.shown_at = datetime.now(UTC)
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
    def current(self) -> dict[str, Any] | None:
        """The row of the queue that is shown now; None when nothing is left."""
        return self._rows.get(self._current) if self._current else None

    @property
    def counts(self) -> dict[str, int]:
        """Rows of this queue: total, decided and skipped by this reviewer, left."""
        passed = self._passed()
        decided = sum(decision != "skip" for decision in passed.values())
        return {
            "total": len(self._rows),
            "decided": decided,
            "skipped": len(passed) - decided,
            "left": len(self._rows) - len(passed),
        }

    def _own(self) -> pl.DataFrame:
        return live(self._events.filter(pl.col("reviewer") == self._name))

    def _passed(self) -> dict[str, str]:
        """Decisions of this reviewer about rows of the queue, as they read now; of several about one the last."""
        own = self._own().filter(pl.col("decision") != "label")
        about = own.join(self._texts, on=["custom_id", "shown_sha256"], maintain_order="left")
        is_asked = pl.col("asked_sha256").is_null() | (pl.col("asked_sha256") == pl.col("question_sha256"))
        return dict(about.filter(is_asked).select("custom_id", "decision").iter_rows())

    def _show(self, custom_id: str | None) -> None:
        passed = self._passed()
        target = custom_id or next((c for c in self._rows if c not in passed), None)
        fresh = target != self._current
        if fresh:
            self._current, self.shown_at = target, datetime.now(UTC)
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
        original = self.current["output"] or ""
        text = as_typed(text, original=original)
        if text == original:
            return self.say("error", "The edited text is the same as the output; approve it instead.")
        if is_json(original) and not is_json(text):
            reason = json_error(text) or "it is no object or list"
            return self.say(
                "error", f"The output was valid JSON and the edited text is not ({reason}). Nothing was stored."
            )
        if not text.strip():
            return self.say("error", "The edited text is empty; reject the output instead.")
        why = structured.error(text, self._schema)
        if why is not None and structured.error(original, self._schema) is None:
            return self.say(
                "error",
                f"The output fitted the task's SCHEMA and the edited text does not ({why}). Nothing was stored.",
            )
        return self._settle("edit", edited_output=text, labels=labels)

    def label(self, *labels: str) -> bool:
        """Store labels without a verdict; the output stays."""
        if not labels:
            return self.say("error", "Choose a label first.")
        stored = self._settle("label", labels=labels, advance=False)
        if stored:
            self.say("info", "Labels stored: " + ", ".join(labels) + ". Now decide.")
        return stored

    def skip(self) -> bool:
        """Leave the output to somebody else."""
        return self._settle("skip")

    def undo(self) -> bool:
        """Take this reviewer's latest event back and show its output again; can be repeated to the very first."""
        own = self._own()
        if not self._name or own.is_empty():
            return self.say("info", "There is nothing of yours to undo." if self._name else "Enter your name first.")
        event = own.row(-1, named=True)
        if not self._store("undo", event["custom_id"], undoes=event["event_id"]):
            return False
        again = event["custom_id"] if event["custom_id"] in self._rows else None
        self.notice = (
            "info",
            f"Took back: {event['decision']}."
            + ("" if again else " That output is not in this queue; it comes back with the next one."),
        )
        self._show(again)
        return True

    def _settle(
        self, decision: str, *, edited_output: str | None = None, labels: Sequence[str] = (), advance: bool = True
    ) -> bool:
        if self._current is None:
            return self.say("error", "Nothing is left to decide.")
        if not self._store(decision, self._current, edited_output=edited_output, labels=labels):
            return False
        if advance:
            self.notice = ("", "")
            self._show(None)
        return True

    def _store(
        self,
        decision: str,
        custom_id: str,
        *,
        edited_output: str | None = None,
        labels: Sequence[str] = (),
        undoes: str | None = None,
    ) -> bool:
        if not self._name:
            return self.say("error", "Enter your name first: every decision is signed.")
        row = self._rows.get(custom_id, {"custom_id": custom_id})
        frame = event(
            row,
            decision,
            reviewer=self._name,
            seen=self._events,
            edited_output=edited_output,
            labels=labels,
            undoes=undoes,
            shown_at=self.shown_at,
        )
        # a write that failed may have been done (the disk went away after it): the same decision again keeps its
        # event_id, by which it counts once, stored before or not
        same = ["custom_id", "reviewer", "decision", "edited_output", "labels", "shown_at"]
        if frame.join(self._unsure, on=same, how="semi", nulls_equal=True).height:
            frame = frame.with_columns(self._unsure["event_id"])
        try:
            self._decide(frame)
        except (OSError, ArislabError) as error:
            self._unsure = frame
            return self.say("error", f"Not stored: {error}. The output stays; try again.")
        self._events, self._unsure = self._events.vstack(frame), frame.clear()
        return True

    def say(self, kind: str, text: str) -> bool:
        """Show a notice of kind "error" or "info"; returns False, for callers that store nothing."""
        self.notice = (kind, text)
        self._render()
        return False

    # what it looks like

    @cached_property
    def widget(self) -> Any:
        """The ipywidgets VBox; made when it is first asked for."""
        self._view = View(self)
        return self._view.box

    @property
    def buttons(self) -> dict[str, Any]:
        """Buttons by name: approve, reject, edit, save, cancel, label, skip, undo."""
        assert self.widget is not None
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
