"""The widget of a review panel: what the browser is sent of a row, and what is believed of what the browser says.

``core.js`` is the other half. An item that it shows, before a decision is acknowledged, holds no score, no model, no
stratum and no chance: they are not hidden there, they are not sent. This module is imported when a widget is made, for
it loads ipywidgets.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from arislab.errors import ArislabError, ParameterError
from arislab.review import markup
from arislab.review.decisions import json_error, metadata_of, sha256
from arislab.review.layout import differences, laid_out, parts

_FOLDER = Path(__file__).parent
AHEAD, BEHIND = 50, 20
"""Rows that the browser has: still to be decided, and decided."""
_TRAIL = 1_000
"""Own decisions that the browser can take back before it asks for more."""
SAID = ("approve", "reject", "edit", "skip", "flag", "undo", "left", "right", "tie")
"""What a browser may decide."""
_SHOWN = ("title", "company", "category", "difficulty", "use_case")
"""Of a row's metadata, what says nothing of who made the answer, and how good it is."""

ACTIONS = [
    ("approve", "Approve", "a: good as it is"),
    ("reject", "Reject", "r: must not be trained on"),
    ("edit", "Edit…", "e: correct the output, then save"),
    ("left", "Left", "1: the left one is better"),
    ("tie", "Tie", "0: neither is better"),
    ("right", "Right", "2: the right one is better"),
    ("save", "Save edit", "Ctrl+Enter: store the correction"),
    ("cancel", "Cancel", "Esc: back; what was typed is kept as a draft"),
    ("skip", "Skip", "s: leave it to somebody else"),
    ("flag", "Flag", "f: show it to the lead"),
    ("undo", "Undo", "u: take my last decision back"),
    ("guide", "Guideline", "g: what is good, and what is not"),
    ("help", "Keys", "?: what the keys do"),
]
"""Buttons: name, label, tip."""
_COMMON = [
    ("s", "skip: leave it to somebody else"),
    ("u", "undo, without limit"),
    ("j / k", "next, previous"),
    ("/", "search"),
    ("n", "note"),
    ("g", "guideline"),
    ("m", "metadata"),
    ("Esc", "close, go back"),
]
HELP = {
    "text": [
        ("a", "approve"),
        ("r, then 1-9", "reject, for a reason; r or Enter: without one"),
        ("e", "edit; Ctrl+Enter saves, Esc leaves"),
        ("1-5", "rate the marked criterion, then the next one"),
        ("c, then a letter", "category"),
        ("d", "what an edit changes"),
        ("v", "Markdown or raw"),
        ("f", "flag for the lead"),
        *_COMMON,
    ],
    "pair": [
        ("1 or \N{LEFTWARDS ARROW}", "the left one is better"),
        ("2 or \N{RIGHTWARDS ARROW}", "the right one is better"),
        ("0", "neither: a tie"),
        *_COMMON,
    ],
}
"""Keys and what they do, of both kinds of items."""

TEXTS = {
    "done": "All done, thank you. What was decided counts at once; run 2_curate again to score what was edited.",
    "none": "Nothing waits for review. Run 2_curate first (arislab run curate), then this notebook again.",
    "waiting": "Waiting for the kernel.",
    "held": "Others have before them what is left; what they leave comes here by itself.",
    "name": "Enter your name first: every decision is signed.",
    "early": "That came as this output appeared and was not counted.",
    "panel": "Review panel: press ? for the keys",
    "nothing": "There is nothing of yours to undo.",
    "search": "search what you were handed; Enter opens the first",
    "hidden": "What the text field cannot show stays unless you delete it:",
    "json": "The output was JSON and the edited text is not:",
    "refused": "The edit was refused (press e, your text is kept):",
    "elsewhere": "That output is not in this queue; it comes back with the next one.",
    "blind": "Score and model are told once you have decided.",
    "categories": "The task names no categories (REVIEW).",
    "guideline": "The task has no guideline (REVIEW).",
    "why": "Why? 1-9, or r for no reason; Esc goes back.",
    "flagged": "Flagged for the lead. Now decide.",
    "kept": "kept in this browser",
    "full": "the browser's storage is full: leave this page open",
    "denied": "this browser keeps nothing (storage is denied): leave this page open",
}
"""What the panel says."""


class Reviewed(Protocol):
    """What the widget asks of a panel."""

    reviewer: str

    @property
    def counts(self) -> dict[str, int]:
        """Rows in all, decided, skipped, left."""

    def ahead(self, n: int) -> list[dict[str, Any]]:
        """Return rows that are not decided, n if there are; further ones are taken from the desk."""

    def more(self, n: int) -> list[dict[str, Any]]:
        """Take up to n further rows from the desk."""

    def behind(self, n: int) -> list[dict[str, Any]]:
        """Return the rows decided last, oldest first."""

    def trail(self, n: int) -> list[dict[str, Any]]:
        """Return own events that count, the last n: event_id, custom_id, queue, decision and id (of the item)."""

    def key(self, of: Mapping[str, Any]) -> str:
        """Return the name of a row's item."""

    def row(self, key: str) -> dict[str, Any] | None:
        """Return the row of an item."""

    def find(self, text: str, n: int) -> list[dict[str, Any]]:
        """Return rows that were handed out and hold a text."""

    def hear(self, events: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Store decisions; return what may be shown now, and why others were refused, by event_id."""


class Core(anywidget.AnyWidget):  # type: ignore[misc]
    """The panel in the browser."""

    _esm = (_FOLDER / "core.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "core.css").read_text(encoding="utf-8")
    about = traitlets.Dict().tag(sync=True)
    """What does not change: lake, session, labels, criteria, categories, guideline (a tree), dwell_ms, and
    what this module adds: actions, help, texts."""

    def __init__(self, panel: Reviewed, **about: Any) -> None:
        super().__init__(about=about | {"actions": ACTIONS, "help": HELP, "texts": TEXTS})
        self._panel, self._is_all = panel, False
        self.on_msg(lambda _, content, __: self.answer(content))

    def state(self) -> dict[str, Any]:
        """Return all that a browser needs to begin, or to begin again."""
        panel = self._panel
        items = panel.ahead(AHEAD)
        self._is_all = len(items) < AHEAD
        return {
            "kind": "state",
            "reviewer": panel.reviewer,
            "items": self._items(items),
            "behind": self._items(panel.behind(BEHIND)),
            "trail": panel.trail(_TRAIL),
            "counts": panel.counts,
            "is_all": self._is_all,
        }

    def refresh(self) -> None:
        """Tell browsers that something else changed: the name, or a decision made elsewhere."""
        self.send(self.state())

    def answer(self, said: Mapping[str, Any]) -> None:
        """Answer what a browser said.

        Args:
            said: kind (hello, name, events, more, row, find, markdown, diff) and what belongs to it.
        """
        panel, kind = self._panel, said.get("kind")
        if kind == "hello":
            self.refresh()
        elif kind == "name" and not panel.reviewer:
            panel.reviewer = str(said["name"])  # which refreshes
        elif kind == "events" and said["reviewer"] == panel.reviewer:
            self.send(self._stored(said["events"]))
        elif kind == "more":
            rows = panel.more(min(int(said["n"]), AHEAD))
            self._is_all = not rows
            items = {"items": self._items(rows), "is_all": self._is_all}
            self.send({"kind": "items"} | items | {"counts": panel.counts})
        elif kind == "row":
            row = panel.row(str(said["id"]))
            self.send({"kind": "row", "id": said["id"], "item": self._items([row])[0] if row else None})
        elif kind == "find":
            found = self._items(panel.find(str(said["text"]), BEHIND))
            self.send({"kind": "found", "text": said["text"], "items": found})
        elif kind == "markdown" and (row := panel.row(str(said["id"]))) is not None:
            self.send({"kind": "markdown", "id": said["id"], "tree": markup.tree(row.get("output") or "")})
        elif kind == "diff" and (row := panel.row(str(said["id"]))) is not None:
            self.send({"kind": "diff", "id": said["id"], "changes": _changes(row, said["text"])})

    def _items(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item(row, name=self._panel.key(row)) for row in rows]

    def _stored(self, said: Sequence[Any]) -> dict[str, Any]:
        """What became of decisions, by event_id; one that is none, or is refused, holds no other up."""
        fit, refused = list[dict[str, Any]](), dict[str, str]()
        for one in said:
            try:
                fit.append(event(one))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                # without a name there is nothing that could be answered
                if isinstance(one, Mapping) and "event_id" in one:
                    refused[str(one["event_id"])] = f"this is no decision that can be stored ({error})."
        try:
            told, unfit = self._heard(fit)
        except (OSError, ArislabError) as error:
            return {"kind": "failed", "reason": f"{error}"}
        return {"kind": "acks", "told": told, "refused": refused | unfit, "counts": self._panel.counts}

    def _heard(self, fit: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """What the panel says; where it refuses one decision by raising, each is told for itself."""
        try:
            return self._panel.hear(fit)
        except ParameterError as error:
            if len(fit) == 1:
                return {}, {fit[0]["event_id"]: f"{error}"}
        told, refused = dict[str, dict[str, Any]](), dict[str, str]()
        for one in fit:
            told_of_it, refused_of_it = self._heard([one])
            told, refused = told | told_of_it, refused | refused_of_it
        return told, refused


_MOST = 2**53
"""Above it a browser has no whole numbers."""


def event(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a browser says of a decision in columns of the table reviews; what it has no say in is left out.

    Half a character (a lone surrogate) becomes U+FFFD, since no file could hold it.

    Args:
        said: event_id, custom_id, decision, edited_output, labels, ratings, category, note, shown_sha256, asked_sha256,
            queue, shown_at, decided_at (both with their time zone), dwell_ms, client_seq, undoes; stream (which browser
            it is; no column, but client_seq counts within it).

    Raises:
        LookupError: One of them is missing.
        ValueError: One of them is no such thing.
        TypeError: One of them is of another type.
    """
    if said["decision"] not in SAID:
        raise ParameterError(f"there is no decision {said['decision']!r} here")
    needed = {name: _whole(str(said[name])) for name in ("event_id", "custom_id", "decision")}
    names = ("edited_output", "category", "note", "queue", "undoes", "shown_sha256", "asked_sha256", "stream")
    texts = {name: None if said.get(name) is None else _whole(str(said[name])) for name in names}
    times = {name: datetime.fromisoformat(said[name]).astimezone(UTC) for name in ("shown_at", "decided_at")}
    labels = json.dumps([str(label) for label in said["labels"]], ensure_ascii=False)
    return needed | texts | times | {
        "labels": _whole(labels),
        "ratings": _whole(json.dumps(said["ratings"], ensure_ascii=False)) if said["ratings"] else None,
        "dwell_ms": min(max(0, int(said["dwell_ms"])), _MOST),
        "client_seq": min(max(1, int(said["client_seq"])), _MOST),
    }  # fmt: skip


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def item(row: Mapping[str, Any], *, name: str = "") -> dict[str, Any]:
    """Return a row as the browser shows it before the decision; texts are in parts (see layout).

    Args:
        row: custom_id, input, output, metadata; of a pair: kind ("pair"), custom_id, input, left, right, shown_sha256.
        name: Of the item among those of its panel; default its custom_id.
    """
    metadata = metadata_of(row.get("metadata"))
    facts = {name: metadata[name] for name in _SHOWN if metadata.get(name) is not None}
    title = " · ".join(str(facts[k]) for k in ("title", "company") if k in facts) or row["custom_id"]
    shown = {
        "id": name or row["custom_id"],
        "custom_id": row["custom_id"],
        "queue": row.get("queue"),
        "asked": sha256(row.get("input")),
        "title": parts(title),
        "input": parts(laid_out(row.get("input") or "")),
    }
    if row.get("kind") == "pair":
        sides = {side: parts(laid_out(row[side] or "")) for side in ("left", "right")}
        return shown | sides | {"kind": "pair", "shown": row["shown_sha256"], "chips": [], "meta": []}
    output = row["output"] or ""
    chips = [f"{k.replace('_', ' ')} {_short(v)}" for k, v in facts.items() if k not in ("title", "company")]
    original = metadata.get("original_output")
    chips += ["edited before"] if original is not None else []
    is_laid_out = output.lstrip().startswith(("{", "["))
    laid = laid_out(output)
    meta = {"custom_id": row["custom_id"]} | facts
    return shown | {
        "shown": sha256(row["output"]),
        "chips": [parts(chip) for chip in chips],
        "meta": [[name, parts(str(value))] for name, value in meta.items()],
        "output": parts(laid) or [("", False)],
        "form": "JSON" if is_laid_out and not json_error(output) else "not valid JSON" if is_laid_out else "text",
        "edit": output if "\n" in output.strip() and output != laid else None,  # lines of its own stay
        "isEdited": original is not None,
    }


def _changes(row: Mapping[str, Any], text: str | None) -> list[Any]:
    """What an edit changes: [what became of it, parts]; without a text, what an earlier one did to this row."""
    output = row["output"] or ""
    original = str(metadata_of(row.get("metadata")).get("original_output", output))
    compared = differences(laid_out(original), laid_out(output if text is None else text))
    return [(kind, parts(words)) for kind, words in compared]


def _short(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
