"""What people decided, each decision bound to the text that was shown.

They are events in an order, which are folded into curated rows. One real event::

    event_id='4be1…' custom_id='r-0b6f…' reviewer='Ada' decision='edit'
    edited_output='{"strengths": […], "score": 0.6, …}' labels='["wrong facts"]' shown_sha256='9c2a…'
    asked_sha256='51f0…' seq=1790035200000000 shown_at=… decided_at=… inclusion_prob=0.25
    why='kept' queue='8d1e…' blind=False undoes=None

Nothing is overwritten: an undo is one more event, and `fold` can always be run again from the first one. A decision
applies to a row only if question and answer are what its reviewer was shown; one whose text changed is stale: it is
shown, counted and never applied. A row about which people disagree is disputed: it waits until somebody adjudicates.
Events of older arislab have no asked_sha256 and no seq: they bind the answer alone,
and are ordered by decided_at. This module does not know where decisions are kept, how they are made (panel) or what
they are used for (curate).
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from arislab.system import json_text
from arislab.system.kinds import takes_any_frame

VERDICTS = ("approve", "reject", "edit", "adjudicate")
"""Decisions that settle a row. skip, label and flag settle nothing, and nothing does that was planted to measure people
(gold, repeat); undo takes one event of the same reviewer back."""
CERTIFICATE = "certificate:"
"""How reviewed_by begins where no person approved the row, but a certificate did (see certificates)."""
STATES = ("approved", "edited", "certified", "rejected", "disputed", "stale", "waiting", "not queued")

_TIME = pl.Datetime("us", "UTC")
SCHEMA: dict[str, Any] = {
    "event_id": pl.String,
    "custom_id": pl.String,
    "reviewer": pl.String,
    "decision": pl.String,
    "edited_output": pl.String,
    "labels": pl.String,
    "shown_sha256": pl.String,
    "asked_sha256": pl.String,
    "seq": pl.Int64,
    "shown_at": _TIME,
    "decided_at": _TIME,
    "inclusion_prob": pl.Float64,
    "why": pl.String,
    "queue": pl.String,
    "blind": pl.Boolean,
    "undoes": pl.String,
    "ratings": pl.String,
    "category": pl.String,
    "note": pl.String,
    "session": pl.String,
    "planted": pl.String,
    "dwell_ms": pl.Int64,
    "client_seq": pl.Int64,
}


def sha256(text: str | None) -> str:
    """Return the digest by which an event names a text; no text is the empty one."""
    return hashlib.sha256((text or "").encode()).hexdigest()


# ---- events ----------------------------------------------------------------------------------------------------------


def event(
    row: Mapping[str, Any],
    decision: str,
    *,
    reviewer: str,
    seen: pl.DataFrame | None = None,
    edited_output: str | None = None,
    labels: Sequence[str] = (),
    shown_at: datetime | None = None,
    undoes: str | None = None,
) -> pl.DataFrame:
    """Return one decision as a frame of one row in the columns of the table reviews.

    Args:
        row: What was shown: custom_id, output, input and, if it came from a queue, inclusion_prob, why and queue.
            Without output the event binds no text.
        decision: approve, reject, edit, adjudicate, label, skip or undo.
        reviewer: Who decided.
        seen: Events that the reviewer's session knows; this one comes after all of them, whatever the clock says.
        edited_output: The corrected text of an edit, or of an adjudication.
        labels: Texts of labels.
        shown_at: When the text appeared.
        undoes: event_id that an undo takes back.

    Example:
        >>> event({"custom_id": "r-1", "input": "Q", "output": "A"}, "approve", reviewer="Ada")["decision"].item()
        'approve'
    """
    at = now()
    is_shown = "output" in row
    made = {
        "event_id": uuid.uuid4().hex,
        "custom_id": row["custom_id"],
        "reviewer": reviewer,
        "decision": decision,
        "edited_output": edited_output,
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "shown_sha256": sha256(row["output"]) if is_shown else None,
        "asked_sha256": sha256(row.get("input")) if is_shown else None,
        "seq": _next(seen, at),
        "shown_at": shown_at,
        "decided_at": at,
        "inclusion_prob": row.get("inclusion_prob"),
        "why": row.get("why"),
        "queue": row.get("queue"),
        "blind": False,  # the panel shows the score
        "undoes": undoes,
    }
    return pl.DataFrame([made], schema=SCHEMA)  # one row: the decision


def now() -> datetime:
    """Return the time, by the one clock that decisions go by."""
    return datetime.now(UTC)


_MOMENT = pl.coalesce("seq", pl.col("decided_at").dt.epoch("us"))


def _next(seen: pl.DataFrame | None, at: datetime) -> int:
    """The number of a new event: the time in microseconds, but after everything seen.

    Source:
        Hybrid logical clocks (Kulkarni et al. 2014): what knew of an event comes after it, and what did not is ordered
        by time.
    """
    newest = None if seen is None else complete(seen).select(_MOMENT.max()).item()
    return max(int(at.timestamp() * 1e6), -1 if newest is None else newest + 1)  # clocks are set back: by hand, by NTP


def complete(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return events in the columns of ``SCHEMA``; columns that older events lack are null."""
    late = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in SCHEMA.items() if name not in reviews.columns]
    return reviews.with_columns(late).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def in_order(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return all events, each once, by seq (older ones, without it, by decided_at), then by decided_at and event_id."""
    # by event_id last: events of one microsecond have no order of their own, but must have the same one each time
    events = complete(reviews).sort(_MOMENT, "decided_at", "event_id")
    return events.unique("event_id", keep="first", maintain_order=True)


@takes_any_frame
def live(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the events that still count, in their order: each once, without undos and what they take back.

    A reviewer can take back only their own events, and an undo itself cannot be undone: decide again instead.
    """
    events = in_order(reviews)
    undos = events.filter(pl.col("decision") == "undo", pl.col("undoes").is_not_null())
    return events.filter(pl.col("decision") != "undo").join(
        undos.select("reviewer", event_id="undoes"), on=["reviewer", "event_id"], how="anti", maintain_order="left"
    )


def kind_of(verdict: Mapping[str, Any]) -> str:
    """Return what a verdict comes to: approve, reject or edit; an adjudication is one of them.

    adjudicate is an edit if it carries edited_output, a rejection if its labels hold "reject", else an approval.
    """
    if verdict["decision"] != "adjudicate":
        return str(verdict["decision"])
    if verdict["edited_output"] is not None:
        return "edit"
    return "reject" if "reject" in labels_of(verdict["labels"]) else "approve"


def labels_of(text: str | None) -> list[str]:
    """Return the labels of an event; a text that is no JSON list is one label."""
    try:
        labels = json.loads(text or "[]")
    except ValueError:
        labels = text
    return labels if isinstance(labels, list) else [str(labels)]


# ---- the fold --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opinion:
    """What one reviewer says of a row: their latest verdict about its text."""

    verdict: dict[str, Any]
    """The event."""
    output: str
    """The answer that it was about, or made of it."""

    @property
    def comes_to(self) -> str | None:
        """The text that it wants; None if it rejects. Two opinions agree if they come to the same."""
        return None if kind_of(self.verdict) == "reject" else self.output


@dataclass(frozen=True)
class _Standing:
    """What the decisions about one row come to."""

    winner: dict[str, Any] | None
    """The verdict that settles it; None if none applies to its text, or people disagree."""
    output: str
    """The answer under it."""
    stale: dict[str, Any] | None = None
    """The verdict about another text, of a row that nothing settles; a rejection goes before others."""
    disputed: str | None = None
    """Of a row about which people disagree, reject if one of them rejects it, else edit."""


def _stand(original: str, question: str | None, verdicts: Sequence[dict[str, Any]]) -> _Standing:
    """Fold the verdicts about one request, oldest first."""
    latest, stale = opinions(original, question, verdicts)
    adjudged = [one for one in latest if one.verdict["decision"] == "adjudicate"]
    wanted = {one.comes_to for one in latest} if len(latest) > 1 else set()
    if len(wanted) > 1 and not adjudged:
        return _Standing(None, original, disputed="reject" if None in wanted else "edit")
    if latest:
        winner = (adjudged or latest)[-1]
        return _Standing(winner.verdict, winner.output)
    rejected = [one for one in stale if kind_of(one) == "reject"]
    return _Standing(None, original, stale=next(reversed(rejected or stale), None))


def opinions(
    original: str, question: str | None, verdicts: Sequence[dict[str, Any]]
) -> tuple[list[Opinion], list[dict[str, Any]]]:
    """Return what each reviewer says of a row now, oldest first, and the latest verdicts that are about other texts.

    Args:
        original: The answer as it came.
        question: What was asked.
        verdicts: Live events about the request, oldest first; those that settle nothing are left out before.
    """
    # what may have been shown, by its digest: the answer as it came, and what people made of it
    texts, asked = {sha256(original): original}, sha256(question)
    applied, stale = dict[str, Opinion](), dict[str, Any]()
    for verdict in verdicts:
        name, shown = verdict["reviewer"], texts.get(verdict["shown_sha256"])
        is_asked = verdict["asked_sha256"] in (None, asked)
        if shown is None or not is_asked or not _is_fit(verdict, shown):
            stale[name] = verdict
            continue
        after = shown
        if _edits(verdict):
            after = verdict["edited_output"]
            texts[sha256(after)] = after  # it may be judged again, by who was shown it
        applied.pop(name, None)  # of each reviewer the latest counts, at its own place
        applied[name] = Opinion(verdict, after)
    return list(applied.values()), list(stale.values())


def _edits(verdict: Mapping[str, Any]) -> bool:
    return verdict["decision"] in ("edit", "adjudicate") and verdict["edited_output"] is not None


def _is_fit(verdict: Mapping[str, Any], shown: str) -> bool:
    """Whether an edit left JSON where JSON was; what is not JSON (NaN, a key twice) was stored by older panels."""
    return not _edits(verdict) or not is_json(shown) or is_json(verdict["edited_output"])


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list, by the letter: no NaN, no key twice."""
    return text.lstrip().startswith(("{", "[")) and not json_error(text)


def json_error(text: str) -> str:
    """Return why a text is not JSON; empty if it is."""
    try:
        json_text.loads(text)
    except ValueError as error:
        return str(error)
    return ""


def standing(curated: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the curated rows as all decisions leave them: same rows, same order, same types, and what is stale.

    approve: approved. reject: not approved. edit: approved, output becomes edited_output and the original stays in
    metadata as original_output. adjudicate: see ``kind_of``. All of them clear needs_review and set reviewed_by.

    Of each reviewer only the latest verdict about the row's text counts, and none that was planted. Where those of
    several people come to different things (good or not, and the text that it would have), the row is disputed: nobody
    approved it, it waits, as the answer came, until somebody adjudicates. Who was shown an edited text and approves it,
    agrees with the edit. A row that no decision settles any more
    (undone, or another text by now) returns to the state before; rows without events are left alone. Folding twice
    changes nothing.

    quality_score is of the answer as it came, or of the text whose digest metadata has as scored_sha256.

    Args:
        curated: columns custom_id, input, output, needs_review, approved, reviewed_by, metadata and, if present,
            updated_at.
        reviews: every event so far, in any order, in the columns of the table reviews.

    Returns:
        ``curated`` with three more columns, null where a decision settles the row or nobody judged it: stale (approve,
        reject or edit: the verdict about another text of this request; a rejection if there is one), stale_by (its
        reviewer) and disputed (reject: people disagree and one of them rejects the row; edit: they disagree about its
        text alone).
    """
    of_row = verdicts_by_row(reviews)
    last = dict(reviews.group_by("custom_id").agg(pl.col("decided_at").max()).iter_rows())
    columns = ["output", "needs_review", "approved", "reviewed_by", "metadata", "updated_at"]
    schema: dict[str, Any] = {c: curated.schema[c] for c in columns if c in curated.columns}
    rows = curated.with_row_index("row").filter(pl.col("custom_id").is_in(list(last)))
    folded = []
    for row in rows.select("row", "custom_id", "input", *schema).rows(named=True):
        original = _original(row)
        stand = _stand(original, row["input"], of_row.get(row["custom_id"], ()))
        # one that an earlier fold settled must be folded too, if only to undo it
        is_settled = stand.winner is not None or stand.disputed is not None or row["reviewed_by"] is not None
        after = _folded(row, stand, last[row["custom_id"]]) if is_settled else {c: row[c] for c in schema}
        stale = stand.stale or {}
        after |= {"stale": kind_of(stale) if stale else None, "stale_by": stale.get("reviewer")}
        folded.append({"row": row["row"], "disputed": stand.disputed} | {c: after[c] for c in (*schema, *_ADDED[:2])})
    schema |= dict.fromkeys(_ADDED, pl.String)
    changes = pl.DataFrame(folded, schema={"row": pl.UInt32} | schema, infer_schema_length=None)
    joined = curated.with_row_index("row").join(changes, on="row", how="left", suffix="_folded", maintain_order="left")
    is_changed = pl.col("row").is_in(changes["row"].to_list())
    return joined.with_columns(
        pl.when(is_changed).then(pl.col(f"{c}_folded")).otherwise(pl.col(c)).alias(c) for c in schema if c in curated
    ).select(*curated.columns, *_ADDED)


_ADDED = ("stale", "stale_by", "disputed")
_VERDICT = ["custom_id", "reviewer", "decision", "edited_output", "labels", "shown_sha256", "asked_sha256"]
_VERDICT += ["note", "decided_at"]


def verdicts_by_row(reviews: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return by custom_id the live events that settle rows, oldest first; what was planted is none."""
    settling = live(reviews).filter(pl.col("decision").is_in(VERDICTS), pl.col("planted").is_null())
    of_row: dict[str, list[dict[str, Any]]] = {}
    for verdict in settling.select(_VERDICT).rows(named=True):
        of_row.setdefault(verdict["custom_id"], []).append(verdict)
    return of_row


def _folded(row: Mapping[str, Any], stand: _Standing, last: datetime) -> dict[str, Any]:
    winner, original = stand.winner, _original(row)
    return {
        "output": stand.output,
        "needs_review": winner is None,
        "approved": winner is not None and kind_of(winner) != "reject",
        "reviewed_by": None if winner is None else winner["reviewer"],
        "metadata": _metadata(row, None if stand.output == original else original),
        "updated_at": last if winner is None else winner["decided_at"],
    }


def _is_edited(metadata: str | None) -> bool:
    # the name is looked for before the object is read: most rows are not edited, and there may be 100,000
    return metadata is not None and "original_output" in metadata and "original_output" in metadata_of(metadata)


def _original(row: Mapping[str, Any]) -> str:
    """The answer of a curated row as it came."""
    text = metadata_of(row["metadata"])["original_output"] if _is_edited(row["metadata"]) else row["output"]
    return str(text)


def _metadata(row: Mapping[str, Any], original: str | None) -> str | None:
    """The metadata of a row with the answer as it came, if it is edited; else without it."""
    text: str | None = row["metadata"]
    if original is None and not _is_edited(text):
        return text  # to the letter: folding changes no bytes
    before = metadata_of(text)
    after = {name: value for name, value in before.items() if name != "original_output"}
    after |= {} if original is None else {"original_output": original}
    if after == before:
        return text
    return json.dumps(after, ensure_ascii=False) if after else None


@takes_any_frame
def fold(curated: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the curated rows with all decisions applied, in the columns of ``curated``; see ``standing``."""
    return standing(curated, reviews).select(curated.columns)


@takes_any_frame
def progress(curated: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return how many curated rows are in each of ``STATES``; the rows sum to all.

    disputed: people disagree about it, and nobody adjudicated; stale: judged when its text was another one, so it
    waits again; not queued: neither judged nor waiting.
    """
    rows = standing(curated, reviews)
    is_edited = pl.Series([_is_edited(text) for text in rows["metadata"]], dtype=pl.Boolean)
    state = (
        pl.when(pl.col("reviewed_by").str.starts_with(CERTIFICATE)).then(pl.lit("certified"))
        .when(pl.col("approved") & is_edited).then(pl.lit("edited"))
        .when(pl.col("approved")).then(pl.lit("approved"))
        .when(pl.col("reviewed_by").is_not_null()).then(pl.lit("rejected"))
        .when(pl.col("disputed").is_not_null()).then(pl.lit("disputed"))
        .when(pl.col("stale").is_not_null()).then(pl.lit("stale"))
        .when(pl.col("needs_review")).then(pl.lit("waiting"))
        .otherwise(pl.lit("not queued"))
    )  # fmt: skip
    counts = rows.select(state=state).group_by("state").agg(rows=pl.len().cast(pl.Int64))
    states = pl.DataFrame({"state": STATES})
    return states.join(counts, on="state", how="left", maintain_order="left").with_columns(
        pl.col("rows").fill_null(0),
        fraction=pl.col("rows").fill_null(0) / max(curated.height, 1),
    )  # one row per state


def metadata_of(text: str | None) -> dict[str, Any]:
    """Return a metadata column's JSON object; what is no object is kept under the key metadata."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"metadata": value}
