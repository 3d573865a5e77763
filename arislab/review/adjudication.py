"""Rows about which people disagree, for a third person who sees what they said, but not who said it.

An adjudication is one more event: it settles the row until it is taken back. This module does not know where events
are kept (`Adjudication` hands each one to its ``decide`` function), nor what a verdict comes to (decisions).
"""

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from functools import partial
from string import ascii_uppercase
from typing import Any

import polars as pl

from arislab.errors import ArislabError
from arislab.review import decisions
from arislab.review.decisions import (
    Opinion,
    event,
    is_json,
    labels_of,
    metadata_of,
    opinions,
    standing,
    verdicts_by_row,
)
from arislab.review.layout import as_typed, visible
from arislab.system.kinds import takes_any_frame
from arislab.system.text import html

_OPINION = pl.Struct(dict.fromkeys(("who", "decision", "text", "labels", "note"), pl.String))
_LONGEST = 20_000
"""Characters up to which two texts are compared word by word."""


def disputed(curated: pl.DataFrame, reviews: pl.DataFrame, *, reviewer: str = "") -> pl.DataFrame:
    """Return the disputed rows that a person can adjudicate: those on which they gave no opinion themselves.

    Args:
        curated: custom_id, input, output, needs_review, approved, reviewed_by and metadata of the rows.
        reviews: Every event so far.
        reviewer: Who is to adjudicate.

    Returns:
        One row per disputed row: custom_id, input, output (as the answer came) and opinions: of each reviewer who
        (reviewer A, B, …: of each row anew), decision (approve, reject, edit), text (as they would have it; null if
        they reject it), labels and note.
    """
    stands = standing(curated, reviews).filter(pl.col("disputed").is_not_null())
    of_row = verdicts_by_row(reviews)
    rows = []
    for row in stands.select("custom_id", "input", "output", "metadata").rows(named=True):
        original = metadata_of(row.pop("metadata")).get("original_output", row["output"])
        given, _ = opinions(original, row["input"], of_row[row["custom_id"]])
        if reviewer not in {one.verdict["reviewer"] for one in given}:
            rows.append(row | {"output": original, "opinions": _anonymous(row["custom_id"], given)})
    schema = dict.fromkeys(("custom_id", "input", "output"), pl.String) | {"opinions": pl.List(_OPINION)}
    return pl.DataFrame(rows, schema=schema)  # one row per row to adjudicate


def _anonymous(custom_id: str, given: list[Opinion]) -> list[dict[str, Any]]:
    """What people said, under letters in an order that tells neither who they are nor who came first."""
    mixed = sorted(given, key=lambda one: hashlib.sha256(f"{custom_id} {one.verdict['reviewer']}".encode()).digest())
    return [
        {
            "who": f"reviewer {ascii_uppercase[place] if place < 26 else place + 1}",
            "decision": "reject" if one.comes_to is None else one.verdict["decision"],
            "text": one.comes_to,
            "labels": one.verdict["labels"],
            "note": one.verdict["note"],
        }
        for place, one in enumerate(mixed)
    ]


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """Return how one text becomes another, word by word: parts that are same, out or in.

    Example:
        >>> difference("a good nurse", "a very good nurse")
        [('same', 'a '), ('in', 'very '), ('same', 'good nurse')]
    """
    if len(before) + len(after) > _LONGEST:
        return [("out", before), ("in", after)]
    old, new = (re.findall(r"\w+\s*|\W", text) for text in (before, after))
    parts = list[tuple[str, str]]()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        texts = [("same", old[a:b])] if kind == "equal" else [("out", old[a:b]), ("in", new[c:d])]
        parts += [(what, "".join(words)) for what, words in texts if words]
    return parts


class Adjudication:
    """A panel in which one person settles disputed rows, one after the other.

    Args:
        rows: From ``disputed``.
        reviewer: Who adjudicates.
        decide: Stores the one-row frame durably, for example ``lambda frame: lake["reviews"].append(frame)``.
        reviews: Events so far; an adjudication comes after all of them.

    Example:
        >>> row = {"custom_id": "r-1", "input": "Q", "output": "A", "opinions": []}
        >>> panel = Adjudication(pl.DataFrame([row]), reviewer="Alan", decide=lambda frame: None)
        >>> panel.reject(), panel.current
        (True, None)
    """

    @takes_any_frame
    def __init__(
        self,
        rows: pl.DataFrame,
        *,
        reviewer: str,
        decide: Callable[[pl.DataFrame], object],
        reviews: pl.DataFrame | None = None,
    ) -> None:
        self._waiting = rows.rows(named=True)
        self.reviewer, self._decide, self._reviews = reviewer, decide, reviews
        self.notice = ""
        """Why the last decision was not stored; empty if it was."""
        self._shown_at = decisions.now()
        self._box: Any = None

    @property
    def current(self) -> dict[str, Any] | None:
        """The row that is shown; null if none is left."""
        return self._waiting[0] if self._waiting else None

    def approve(self, text: str | None = None) -> bool:
        """Settle the row with a text (null: as the answer came).

        Returns whether that was stored; `notice` says why not.
        """
        row = self.current
        if row is None or text is None or text == row["output"]:
            return self._settle(edited_output=None)
        text = as_typed(text, original=row["output"])
        if not text.strip():
            return self._say("The text is empty; reject the row instead.")
        if is_json(row["output"]) and not is_json(text):
            return self._say("The answer is valid JSON and this text is not. Nothing was stored.")
        return self._settle(edited_output=text)

    def reject(self) -> bool:
        """Settle that nobody is to learn from the row."""
        return self._settle(labels=["reject"])

    def skip(self) -> bool:
        """Leave the row for later, behind the others."""
        self._waiting = [*self._waiting[1:], *self._waiting[:1]]
        self._show()
        return True

    def _settle(self, **what: Any) -> bool:
        row = self.current
        if row is None:
            return self._say("Nothing is left to adjudicate.")
        if not self.reviewer:
            return self._say("Say who adjudicates: every decision is signed.")
        frame = event(
            row, "adjudicate", reviewer=self.reviewer, seen=self._reviews, shown_at=self._shown_at, **what
        ).with_columns(dwell_ms=pl.lit(int((decisions.now() - self._shown_at).total_seconds() * 1000), pl.Int64))
        try:
            self._decide(frame)
        except (OSError, ArislabError) as error:
            return self._say(f"Not stored: {error}. The row stays; try again.")
        self._waiting = self._waiting[1:]
        self._show()
        return True

    def _say(self, text: str) -> bool:
        self.notice = text
        self._draw()
        return False

    def _show(self) -> None:
        self.notice, self._shown_at = "", decisions.now()
        self._draw()

    # ---- what it looks like ------------------------------------------------------------------------------------------

    def page(self) -> str:
        """Return what is shown as HTML; texts of candidates, models and people are never read as such."""
        notice = f'<p role="alert"><b>{html(self.notice)}</b></p>' if self.notice else ""
        row = self.current
        if row is None:
            return f"{notice}<p>Nothing is left to adjudicate.</p>"
        cards = [_card("Question", _text(row["input"] or "")), _card("Answer, as it came", _text(row["output"]))]
        for one in row["opinions"]:
            said = [f"{one['who']}: {one['decision']}", *labels_of(one["labels"]), one["note"] or ""]
            edited = one["text"] is not None and one["text"] != row["output"]
            cards.append(_card(", ".join(filter(None, said)), _changes(row["output"], one["text"]) if edited else ""))
        return f"{notice}<p>{len(self._waiting)} to adjudicate</p>{''.join(cards)}"

    @property
    def widget(self) -> Any:
        """The ipywidgets VBox; made when it is first asked for."""
        if self._box is None:
            import ipywidgets as widgets

            self._box = widgets.VBox([], layout=widgets.Layout(max_width="60em"))
            self._draw()
        return self._box

    def _draw(self) -> None:
        if self._box is None:
            return
        import ipywidgets as widgets

        children = [widgets.HTML(self.page())]
        if row := self.current:
            texts = {one["text"]: one["who"] for one in reversed(row["opinions"]) if one["text"] is not None}
            edits = [(text, who) for text, who in texts.items() if text != row["output"]]
            own = widgets.Textarea(row["output"], layout=widgets.Layout(width="100%", height="9em"))
            actions: list[tuple[str, Callable[[], bool]]] = [("Approve as it came", self.approve)]
            actions += [(f"Take the text of {who}", partial(self.approve, text)) for text, who in edits]
            actions += [
                ("Reject", self.reject),
                ("Save own text", lambda: self.approve(own.value)),
                ("Later", self.skip),
            ]
            buttons = [widgets.Button(description=name, layout=widgets.Layout(width="auto")) for name, _ in actions]
            for button, (_, act) in zip(buttons, actions, strict=True):
                button.on_click(lambda _button, act=act: act())
            children += [widgets.HBox(buttons, layout=widgets.Layout(flex_flow="row wrap")), own]
        self._box.children = children

    def __repr__(self) -> str:
        return f"Adjudication: {len(self._waiting)} rows left."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        plain = {"text/plain": repr(self), "text/html": f"<p>{html(repr(self))}</p>"}
        return plain if "ARISLAB_RUN_ID" in os.environ else {**self.widget._repr_mimebundle_(), **plain}


def _text(text: str) -> str:
    return f'<pre dir="auto" style="white-space: pre-wrap; margin: 4px 0">{visible(text)}</pre>'


def _card(head: str, body: str) -> str:
    return f'<section style="border-top: 1px solid; padding: 4px 0"><b>{visible(head)}</b>{body}</section>'


def _changes(before: str, after: str) -> str:
    tags = {"same": "span", "out": "del", "in": "ins"}
    parts = [f"<{tags[kind]}>{visible(text)}</{tags[kind]}>" for kind, text in difference(before, after)]
    return f'<pre dir="auto" style="white-space: pre-wrap; margin: 4px 0">{"".join(parts)}</pre>'
