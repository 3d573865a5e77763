"""What the review panel looks like: the ipywidgets around `review.Panel`, of both backends.

Text of candidates and models passes through `visible` on its way to the screen, always: it is never HTML, and
characters that would be invisible, or would change the order of others, stand there by their number, so that the text
approved is the text seen.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from arislab.errors import ArislabError
from arislab.review.decisions import json_error, metadata_of, sha256
from arislab.review.layout import hidden, laid_out, pretty_html, visible

MINIMUM_DWELL_S = 0.3
"""A click in the browser that arrives sooner after an output appeared was meant for the one before (a double click)."""


class Shown(Protocol):
    """What a view shows of a panel, and does with it."""

    reviewer: str
    notice: tuple[str, str]
    labels: tuple[str, ...]
    shown_at: datetime

    @property
    def is_name_fixed(self) -> bool:
        """Whether the name cannot be changed."""

    @property
    def current(self) -> dict[str, Any] | None:
        """The row that is shown."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows in all, decided, skipped, left."""

    def approve(self, *, labels: Sequence[str] = ()) -> bool:
        """Decide that the output is good."""

    def reject(self, *, labels: Sequence[str] = ()) -> bool:
        """Decide that it is not."""

    def edit(self, text: str, *, labels: Sequence[str] = ()) -> bool:
        """Decide that it is good once it reads so."""

    def label(self, *labels: str) -> bool:
        """Store labels alone."""

    def skip(self) -> bool:
        """Leave it to somebody else."""

    def undo(self) -> bool:
        """Take the last decision back."""

    def say(self, kind: str, text: str) -> bool:
        """Show a notice."""


class Shell:
    """The name of the reviewer, and the core that decides in the browser; holds no state that matters."""

    def __init__(self, panel: Any) -> None:
        import ipywidgets

        from arislab.review import markup
        from arislab.review.core import Core

        self.panel, guide = panel, panel.guide
        self.core = Core(
            panel,
            lake=sha256(panel.lake)[:12],
            session=panel.desk.name,
            labels=list(panel.labels),
            criteria=[*(guide.get("ratings") or {"difficulty": "1 easy, 5 hard"}).items()],
            categories=list(guide.get("categories") or ()),
            guideline=markup.tree(guide.get("guideline") or ""),
            dwell_ms=round(1000 * panel.dwell_s),
        )
        self.name = _name(panel)
        self.box = ipywidgets.VBox([self.name, self.core])

    def render(self, *, fresh: bool = False) -> None:
        """Show what changed outside the browser."""
        if self.name.value.strip() != self.panel.reviewer:
            self.name.value = self.panel.reviewer  # the browser remembered it
        self.core.refresh()


def _name(panel: Any) -> Any:
    """The field for the reviewer's name."""
    import ipywidgets

    # not as each letter is typed: every part of a name would be another reviewer
    name = ipywidgets.Text(
        value=panel.reviewer,
        placeholder="your name",
        description="Reviewer",
        continuous_update=False,
        disabled=panel.is_name_fixed,
    )
    name.observe(lambda change: setattr(panel, "reviewer", change["new"]), names="value")
    return name


class View:
    """The ipywidgets of one panel; holds no state that matters."""

    def __init__(self, panel: Shown) -> None:
        import ipywidgets

        self.panel = panel
        self.head, self.notice, self.card = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.name = _name(panel)
        self.text = ipywidgets.Textarea(rows=14)
        self.chips = {label: ipywidgets.ToggleButton(description=label) for label in panel.labels}
        actions: dict[str, tuple[str, str, Callable[[], object]]] = {
            "approve": ("Approve", "good as it is", lambda: panel.approve(labels=self.chosen)),
            "reject": ("Reject", "must not be trained on", lambda: panel.reject(labels=self.chosen)),
            "edit": ("Edit…", "correct the output, then save", lambda: self.editing(on=True)),
            "save": ("Save edit", "store the correction", lambda: panel.edit(self.text.value, labels=self.chosen)),
            "cancel": ("Cancel", "back, without a change", lambda: self.editing(on=False)),
            "label": ("Save labels only", "store the chosen labels, decide later", lambda: panel.label(*self.chosen)),
            "skip": ("Skip", "leave it to somebody else", panel.skip),
            "undo": ("Undo", "take my last decision back", panel.undo),
        }
        self.buttons = {k: ipywidgets.Button(description=d, tooltip=tip) for k, (d, tip, _) in actions.items()}
        for name, (_, _, action) in actions.items():
            self.buttons[name].add_class(f"arislab-{name}")
            self.buttons[name].on_click(lambda _, action=action: self.click(action))  # bound now, not at the click
        self.label_row = self.row("labels", *self.chips.values())
        self.button_row = self.row("buttons")
        style = ipywidgets.HTML(f"<style>{(Path(__file__).parent / 'review.css').read_text(encoding='utf-8')}</style>")
        top, bottom = self.row("top", self.head, self.name), (self.label_row, self.button_row)
        # The notice stands last: above, it would move the buttons as it comes and goes, and a click whose mouse goes
        # down on one thing and up on another is no click. (The name is sent as the mouse goes down elsewhere, and its
        # notice goes.)
        self.box = ipywidgets.VBox([style, top, self.card, self.text, *bottom, self.notice])
        self.box.add_class("arislab-review")
        self.render(fresh=True)

    def row(self, name: str, *children: Any) -> Any:
        """Return a box that wraps, with a CSS class of its own."""
        import ipywidgets

        row = ipywidgets.Box(children)
        row.add_class(f"arislab-{name}")
        return row

    @property
    def chosen(self) -> list[str]:
        """Labels whose chips are on."""
        return [label for label, chip in self.chips.items() if chip.value]

    def click(self, action: Callable[[], object]) -> None:
        """Do what a button says.

        Whatever goes wrong stands in the panel, since Jupyter shows no traceback of a click.
        """
        dwell_s = (datetime.now(UTC) - self.panel.shown_at).total_seconds()
        # the kernel works off the clicks of a browser one by one: the second of two comes when the next output stands
        if dwell_s < MINIMUM_DWELL_S and _sent_by_browser():
            self.panel.say("info", "That click came as this output appeared and was not counted.")
            return
        try:
            action()
        except (
            ArislabError,
            ArithmeticError,
            AttributeError,
            LookupError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            self.panel.say("error", f"{type(error).__name__}: {error}")
            raise  # into the log, for whoever mends it

    def editing(self, *, on: bool) -> None:
        """Open or close the text field."""
        row = self.panel.current
        on = on and row is not None
        if row is not None and on:
            output = row["output"] or ""
            self.text.value = output if "\n" in output.strip() else laid_out(output)  # lines of its own stay
        names = ", ".join(hidden(self.text.value)) if on else ""
        notice = (
            f"The text field cannot show {names}; they stay where the output above has them, unless you delete them."
        )
        self.panel.notice = ("info", notice) if names else ("", "")
        self.render(editing=on)

    def render(self, *, fresh: bool = False, editing: bool | None = None) -> None:
        """Show the panel's state; `fresh` for an output that just came: chips off, text field closed."""
        panel = self.panel
        row, (kind, text) = panel.current, panel.notice
        if fresh:
            editing = False
            for chip in self.chips.values():
                chip.value = False
        if editing is not None:
            self.text.layout.display = "" if editing else "none"
            shown = ("save", "cancel") if editing else ("approve", "reject", "edit", "skip", "undo", "label")
            self.button_row.children = [self.buttons[k] for k in shown]
        for name, button in self.buttons.items():
            button.disabled = row is None and name != "undo"
        self.label_row.layout.display = "" if row and self.chips else "none"
        self.head.value = _head(panel.counts)
        role = "alert" if kind == "error" else "status"
        self.notice.value = f'<div class="arislab-notice {kind}" role="{role}">{visible(text)}</div>' if text else ""
        done = _done(panel.counts) if panel.reviewer or not panel.counts["total"] else "Enter your name first."
        self.card.value = _card(row) if row else f'<div class="arislab-done">{visible(done)}</div>'


def _sent_by_browser() -> bool:
    """Whether a person clicked; code of a cell that calls ``click()`` decides as fast as it likes."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and kernel.get_parent().get("header", {}).get("msg_type") == "comm_msg"


def _head(counts: dict[str, int]) -> str:
    total, left = counts["total"], counts["left"]
    if not total:
        return "<h3>Review</h3>"
    decided, skipped = 100 * counts["decided"] / total, 100 * counts["skipped"] / total
    return (
        f"<h3>Review <small>{min(total - left + 1, total):,} of {total:,}</small></h3>"
        f'<div class="arislab-bar"><i style="width:{decided:.2f}%"></i>'
        f'<i class="skipped" style="width:{skipped:.2f}%"></i></div>'
        f"<p>{counts['decided']:,} decided by you · {counts['skipped']:,} skipped · {left:,} left</p>"
    )


def _done(counts: dict[str, int]) -> str:
    if not counts["total"]:
        return "Nothing waits for review. Run 2_curate first (arislab run curate), then this notebook again."
    return "All done, thank you. Phases 3 and 4 use the decisions at once; run 2_curate again to score what was edited."


def _card(row: dict[str, Any]) -> str:
    metadata = metadata_of(row.get("metadata"))
    title = " · ".join(str(metadata[k]) for k in ("title", "company") if metadata.get(k)) or row["custom_id"]
    chips = [
        f"{k.replace('_', ' ')} {metadata[k]}"
        for k in ("category", "difficulty", "use_case")
        if metadata.get(k) is not None
    ]
    chips += ["edited before"] if "original_output" in metadata else []
    chips += [f"queued: {row['why']}"] if row.get("why") else []
    if row.get("stale"):
        chips += [f"{row['stale']} by {row.get('stale_by')}, of another text"]
    output = row.get("output") or ""
    is_laid_out = output.lstrip().startswith(("{", "["))
    layout = "JSON" if is_laid_out and not json_error(output) else "not valid JSON" if is_laid_out else "text"
    return (
        f"<header><b>{visible(title)}</b>{_score(row)}"
        + "".join(f"<span>{visible(chip)}</span>" for chip in chips)
        + "</header><div class='arislab-pair'>"
        f"<section><h4>Input</h4><pre dir='auto'>{visible(row.get('input') or '')}</pre></section>"
        f"<section><h4>Output <small>{layout}</small></h4><pre dir='auto'>{pretty_html(output)}</pre></section></div>"
    )


def _score(row: dict[str, Any]) -> str:
    """The score of a row; nothing where its desk does not tell it before the decision."""
    if "quality_score" not in row:
        return ""
    quality = row["quality_score"]
    text = "not scored" if quality is None else f"quality {quality:.2f}"
    return f'<span class="quality">{text}</span>'
