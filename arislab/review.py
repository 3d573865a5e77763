"""People judge outputs: what to review next, a panel to decide in, and the fold of all decisions into the curated rows.

One real decision::

    event_id='4be1…' custom_id='r-0b6f…' reviewer='Ada' decision='edit' edited_output='{"strengths": […], "score": 0.6, …}'
    labels='["wrong facts"]' shown_sha256='9c2a…' shown_at=… decided_at=… inclusion_prob=0.25 blind=False undoes=None

Decisions are events: nothing is overwritten, an undo is one more event, and `fold` can always be run again from the first one.
This module does not know where decisions are kept: `Panel` hands each one to the ``decide`` function that it was given.
"""

import hashlib
import html
import json
import os
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from arislab.errors import ArislabError, ParameterError
from arislab.panel import View, is_json, json_error, metadata_of, relayout

LABELS = ("helpful", "wrong facts", "bad format", "too vague", "unfair")
VERDICTS = ("approve", "reject", "edit", "adjudicate")
"""Decisions that settle a row. skip and label settle nothing; undo takes one event of the same reviewer back."""
NEAR_CUT, TOP = 0.4, 0.2
"""Shares of a queue taken from the lowest and the highest kept qualities; the rest is drawn at random."""

_TIME = pl.Datetime("us", "UTC")
SCHEMA: dict[str, Any] = {
    "event_id": pl.String,
    "custom_id": pl.String,
    "reviewer": pl.String,
    "decision": pl.String,
    "edited_output": pl.String,
    "labels": pl.String,
    "shown_sha256": pl.String,
    "shown_at": _TIME,
    "decided_at": _TIME,
    "inclusion_prob": pl.Float64,
    "blind": pl.Boolean,
    "undoes": pl.String,
}


def live(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the events that still count, oldest first: each once, without undos and what they take back.

    A reviewer can take back only their own events, and an undo itself cannot be undone: decide again instead.
    Events of the same microsecond are ordered by event_id.
    """
    events = reviews.sort("decided_at", "event_id").unique("event_id", keep="first", maintain_order=True)
    undos = events.filter(pl.col("decision") == "undo", pl.col("undoes").is_not_null())
    return events.filter(pl.col("decision") != "undo").join(
        undos.select("reviewer", event_id="undoes"), on=["reviewer", "event_id"], how="anti", maintain_order="left"
    )


def verdicts(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the event that settles each custom_id: an adjudication if there is one, else the latest decision.

    Of each reviewer only the latest approve, reject, edit or adjudicate counts.
    """
    latest = (
        live(reviews)
        .filter(pl.col("decision").is_in(VERDICTS))
        .unique(["custom_id", "reviewer"], keep="last", maintain_order=True)
    )
    return latest.sort(pl.col("decision") == "adjudicate", "decided_at", "event_id").unique(
        "custom_id", keep="last", maintain_order=True
    )  # one row per settled custom_id


def fold(curated: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the curated rows with all decisions applied; same rows, same order, same types.

    approve: approved. reject: not approved. edit: approved, output becomes edited_output and the original stays in
    metadata as original_output. adjudicate: an edit if it carries edited_output, a rejection if its labels hold "reject",
    else an approval. All of them clear needs_review and set reviewed_by. A row whose decisions were all taken back returns
    to the state before them; rows without events are left alone. Folding twice changes nothing.

    Args:
        curated: columns custom_id, output, needs_review, approved, reviewed_by, metadata and, if present, updated_at.
        reviews: every event so far, in any order, in the columns of the table reviews.
    """
    winners = {event["custom_id"]: event for event in verdicts(reviews).iter_rows(named=True)}
    last = dict(reviews.group_by("custom_id").agg(pl.col("decided_at").max()).iter_rows())
    columns = [
        c
        for c in ("output", "needs_review", "approved", "reviewed_by", "metadata", "updated_at")
        if c in curated.columns
    ]
    touched = curated.with_row_index("row").filter(
        pl.col("custom_id").is_in(list(winners))
        | (pl.col("custom_id").is_in(list(last)) & pl.col("reviewed_by").is_not_null())
    )
    if touched.is_empty():
        return curated
    folded = pl.DataFrame(
        [
            {"row": row["row"]} | _folded(row, winners.get(row["custom_id"]), last[row["custom_id"]])
            for row in touched.iter_rows(named=True)
        ],
        schema={"row": touched["row"].dtype} | {c: curated.schema[c] for c in columns},
        infer_schema_length=None,
    )
    joined = curated.with_row_index("row").join(folded, on="row", how="left", suffix="_folded", maintain_order="left")
    changed = pl.col("row").is_in(folded["row"].to_list())
    return joined.with_columns(
        pl.when(changed).then(pl.col(f"{c}_folded")).otherwise(pl.col(c)).alias(c) for c in columns
    ).select(curated.columns)


def _folded(row: dict[str, Any], event: dict[str, Any] | None, last: datetime) -> dict[str, Any]:
    metadata = metadata_of(row["metadata"])
    output = metadata.pop("original_output", row["output"])
    kind = None if event is None else event["decision"]
    if event is not None and kind == "adjudicate":
        kind = (
            "edit"
            if event["edited_output"] is not None
            else "reject"
            if "reject" in _labels(event["labels"])
            else "approve"
        )
    if event is not None and kind == "edit" and event["edited_output"] is not None:
        metadata["original_output"], output = output, event["edited_output"]
    unchanged = metadata == metadata_of(row["metadata"])
    return {
        "output": output,
        "needs_review": event is None,
        "approved": kind in ("approve", "edit"),
        "reviewed_by": None if event is None else event["reviewer"],
        "metadata": row["metadata"] if unchanged else json.dumps(metadata, ensure_ascii=False) if metadata else None,
        "updated_at": last if event is None else event["decided_at"],
    }


def queue(curated: pl.DataFrame, reviews: pl.DataFrame, *, n: int, seed: int) -> pl.DataFrame:
    """Return up to n rows to review next, in an order that `seed` shuffles.

    40 % lie nearest to the cut (the lowest kept qualities), 20 % are the best, and the rest is drawn at random, so that the
    share of rejects can be estimated for all waiting rows.

    Args:
        curated: columns custom_id, quality_score, needs_review and whatever the panel shows.
        reviews: events so far; a row that somebody settled is not queued again, a skipped one is.
        n: rows wanted, at least 1.
        seed: of the random share and of the order.

    Returns:
        Rows of curated with two more columns: why (near the cut, top, random) and inclusion_prob, the chance that the row
        came into this queue: 1 for the first two, n_random / n_others for the random share.
    """
    if n < 1:
        raise ParameterError(f"n must be at least 1, got {n}; it is the number of rows to review next.")
    waiting = curated.filter(pl.col("needs_review")).join(verdicts(reviews), on="custom_id", how="anti")
    ranked = waiting.sort("quality_score", "custom_id", nulls_last=True)["custom_id"].to_list()
    n = min(n, len(ranked))
    n_near, n_top = round(n * NEAR_CUT), round(n * TOP)
    near, top, others = ranked[:n_near], ranked[len(ranked) - n_top :], ranked[n_near : len(ranked) - n_top]
    draw = random.Random(seed)
    n_random = n - n_near - n_top
    chosen = [(c, "near the cut", 1.0) for c in near] + [(c, "top", 1.0) for c in top]
    chosen += [(c, "random", n_random / len(others)) for c in draw.sample(others, n_random)]
    draw.shuffle(chosen)
    order = pl.DataFrame(
        chosen, schema={"custom_id": pl.String, "why": pl.String, "inclusion_prob": pl.Float64}, orient="row"
    )
    return order.join(waiting, on="custom_id", how="left", maintain_order="left").select(
        *curated.columns, "why", "inclusion_prob"
    )  # one row per output to review


def progress(curated: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return how many curated rows are approved, edited, rejected, waiting, or were never queued; the rows sum to all."""
    settled = fold(curated, reviews)
    edited = pl.col("custom_id").is_in(
        verdicts(reviews).filter(pl.col("edited_output").is_not_null())["custom_id"].to_list()
    )
    state = (
        pl.when(pl.col("needs_review")).then(pl.lit("waiting"))
        .when(pl.col("approved") & edited).then(pl.lit("edited"))
        .when(pl.col("approved")).then(pl.lit("approved"))
        .when(pl.col("reviewed_by").is_not_null()).then(pl.lit("rejected"))
        .otherwise(pl.lit("not queued"))
    )  # fmt: skip
    states = pl.DataFrame({"state": ["approved", "edited", "rejected", "waiting", "not queued"]})
    counts = settled.select(state=state).group_by("state").agg(rows=pl.len().cast(pl.Int64))
    return states.join(counts, on="state", how="left", maintain_order="left").with_columns(
        pl.col("rows").fill_null(0),
        fraction=pl.col("rows").fill_null(0) / max(curated.height, 1),
    )  # one row per state


class Panel:
    """A panel in which one person approves, rejects, edits, labels or skips outputs, one after the other.

    Every decision goes to ``decide`` as a frame of one row in the columns of the table reviews, and the next output shows
    only after ``decide`` returned. When it raises, the panel says why and the output stays. Text of candidates and models is
    never interpreted as HTML. In a run without people (ARISLAB_RUN_ID is set) a static summary shows instead.

    Args:
        queue: rows to review in this order: custom_id, input, output, quality_score, metadata (JSON object with company,
            title, difficulty, category) and, if present, inclusion_prob and why.
        reviewer: name that signs the decisions; may be empty, then the panel asks for it before the first decision.
        decide: stores the one-row frame durably, for example ``lambda frame: lake["reviews"].append(frame)``.
        reviews: events so far. The panel goes on after those of this reviewer, and can undo them.
        labels: texts of the label chips.

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
    ) -> None:
        missing = [c for c in ("custom_id", "input", "output", "quality_score", "metadata") if c not in queue.columns]
        if missing:
            raise ParameterError(
                f"the queue has no column {missing[0]!r}; it has {', '.join(queue.columns)}. Make it with review.queue(curated, …)."
            )
        self._rows = {row["custom_id"]: row for row in queue.iter_rows(named=True)}
        self._events = pl.DataFrame(schema=SCHEMA)
        if reviews is not None:
            self._events = reviews.select(pl.col(c).cast(dtype) for c, dtype in SCHEMA.items())
        self._decide = decide
        self.labels = tuple(labels)
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
        own = self._own().filter(pl.col("decision") != "label")
        return {c: d for c, d in own.select("custom_id", "decision").iter_rows() if c in self._rows}

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
        """The output is good once it reads `text`; JSON must stay JSON and is stored in the layout of the original."""
        if self.current is None:
            return self.say("error", "Nothing is left to edit.")
        original = self.current["output"] or ""
        if is_json(original) and not is_json(text):
            return self.say(
                "error",
                f"The output was valid JSON and the edited text is not ({json_error(text)}). Nothing was stored.",
            )
        text = relayout(text, like=original)
        if not text.strip():
            return self.say("error", "The edited text is empty; reject the output instead.")
        if text == original:
            return self.say("error", "The edited text is the same as the output; approve it instead.")
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
        row = self._rows.get(custom_id, {})
        event = {
            "event_id": uuid.uuid4().hex,
            "custom_id": custom_id,
            "reviewer": self._name,
            "decision": decision,
            "shown_sha256": hashlib.sha256((row.get("output") or "").encode()).hexdigest() if row else None,
            "shown_at": self.shown_at,
            "decided_at": datetime.now(UTC),
            "inclusion_prob": row.get("inclusion_prob"),
            "blind": False,
            "edited_output": edited_output,
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "undoes": undoes,
        }
        frame = pl.DataFrame([event], schema=SCHEMA)  # one row: the decision
        try:
            self._decide(frame)
        except (OSError, ArislabError) as error:
            return self.say("error", f"Not stored: {error}. The output stays; try again.")
        self._events = self._events.vstack(frame)
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
        if "widget" in self.__dict__:
            self._view.render(fresh=fresh)

    def __repr__(self) -> str:
        counts = self.counts
        if not counts["total"]:
            return "Review panel: nothing waits for review. Run 2_curate first (`arislab run curate`)."
        who = f" by {self._name}" if self._name else ""
        return f"Review panel: {counts['decided']} of {counts['total']} decided{who}, {counts['skipped']} skipped, {counts['left']} left."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        summary = {
            "text/plain": repr(self),
            "text/html": f"<p>{html.escape(repr(self))} Decide in <code>notebooks/review.ipynb</code>, in JupyterLab.</p>",
        }
        if "ARISLAB_RUN_ID" in os.environ:
            return summary  # nobody is there to click
        return {**self.widget._repr_mimebundle_(), **summary}


def _labels(text: str | None) -> list[str]:
    return list(json.loads(text)) if text else []
