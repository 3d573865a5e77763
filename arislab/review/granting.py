"""The lead's part in certificates, without code: fix a stratum, hand its sample out, issue or withdraw.

What is promised and shown by what is known elsewhere (certificates); this is the form in front of it.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import polars as pl

from arislab.errors import ArislabError, ParameterError
from arislab.review import certificates
from arislab.review.decisions import metadata_of
from arislab.review.layout import visible
from arislab.system.kinds import takes_any_frame
from arislab.system.text import html

_SHOWN = ("certificate", "state", "stratum", "n_rows", "promise", "look", "looks", "n", "n_rejects", "bound", "n_next")


class Events(Protocol):
    """A table of the lake."""

    def read(self) -> pl.DataFrame:
        """Return all rows."""

    def append(self, frame: pl.DataFrame) -> object:
        """Add rows, in one commit."""


class Granting:
    """A form in which the lead approves many rows at once, on a random sample of them that people judge.

    Args:
        curated: Rows of ``training_data_curated``, as all decisions leave them.
        table: ``lake["certificates"]``.
        rows: ``lake["certified_rows"]``.
        reviews: ``lake["reviews"]``.
        actor: Who leads.
        hand_out: Gives rows to reviewers, as ``review.queue`` returns them; such as ``sessions.start`` with a folder.
    """

    @takes_any_frame
    def __init__(
        self,
        curated: pl.DataFrame,
        *,
        table: Events,
        rows: Events,
        reviews: Events,
        actor: str,
        hand_out: Callable[[pl.DataFrame], object],
    ) -> None:
        categories = [metadata_of(text).get("category") for text in curated["metadata"]]
        self._curated = curated.with_columns(_category=pl.Series(categories, dtype=pl.String, strict=False))
        self._table, self._rows, self._reviews = table, rows, reviews
        self.actor, self._hand_out = actor, hand_out
        self.notice = ""
        """What became of the last step; empty before the first."""
        self._box: Any = None

    def fix(self, *, quality: float, category: str = "", promise: float = 0.05, looks: int = 1) -> bool:
        """Fix the rows of a quality and a category (empty: all), and hand the first look's sample to reviewers.

        Returns whether that was done; `notice` says why not, as after every step.
        """
        chosen = self._curated.filter(pl.col("quality_score") >= quality)
        stratum = f"quality >= {quality:g}" + (f", category {category}" if category else "")
        chosen = chosen.filter(_category=category) if category else chosen

        def step() -> str:
            known = self._table.read(), self._rows.read()
            plan = certificates.fix(
                chosen.drop("_category"), self._reviews.read(), stratum=stratum, actor=self.actor, promise=promise,
                looks=looks, earlier=known,
            )  # fmt: skip
            if plan.certificate in set(known[0]["certificate"]):
                raise ParameterError(
                    f"these rows are fixed already, as certificate {plan.certificate}; nothing is new."
                )
            self._rows.append(plan.rows)  # before the event: an event without its rows would be damage
            self._table.append(plan.event)
            self._give(plan.certificate, look=1)
            return f"{plan!r}. Its sample waits for reviewers."

        return self._done(step)

    def look_further(self, certificate: str) -> bool:
        """Hand the rows that the next look adds to reviewers."""

        def step() -> str:
            one = self._verdict(certificate)
            if one.state != "fixed" or one.n_next is None:
                raise ParameterError(f"{one!r}; there is no further look.")
            self._give(certificate, look=one.look + 1)
            return f"{one!r}. The rows up to {one.n_next:,} wait for reviewers."

        return self._done(step)

    def issue(self, certificate: str) -> bool:
        """Approve all rows of a certificate, if its sample shows what was promised."""

        def step() -> str:
            known = self._table.read(), self._rows.read(), self._reviews.read()
            self._table.append(certificates.issue(*known, certificate=certificate, actor=self.actor))
            return f"certificate {certificate} is issued; phases with approve 'certified' take its rows."

        return self._done(step)

    def withdraw(self, certificate: str, reason: str) -> bool:
        """Take a certificate and all of its rows back."""

        def step() -> str:
            if not reason.strip():
                raise ParameterError("say why: the reason stands in the log of the certificate.")
            known = self._table.read(), self._rows.read(), self._reviews.read()
            self._table.append(certificates.withdraw(*known, certificate=certificate, actor=self.actor, reason=reason))
            return f"certificate {certificate} is withdrawn; its rows wait again."

        return self._done(step)

    def overview(self) -> pl.DataFrame:
        """Return how all certificates stand, as ``certificates.overview`` does."""
        return certificates.overview(self._table.read(), self._rows.read(), self._reviews.read())

    def _verdict(self, certificate: str) -> certificates.Verdict:
        known = self._table.read(), self._rows.read(), self._reviews.read()
        return certificates.verdict(*known, certificate=certificate)

    def _give(self, certificate: str, *, look: int) -> None:
        known = self._table.read(), self._rows.read()
        self._hand_out(certificates.sample(*known, self._curated.drop("_category"), certificate=certificate, look=look))

    def _done(self, step: Callable[[], str]) -> bool:
        try:
            if not self.actor.strip():
                raise ParameterError("say who leads: every certificate is signed.")
            self.notice = step()
        except (ArislabError, OSError) as error:
            self.notice = str(error)
            return False
        finally:
            self._draw()
        return True

    # ---- what it looks like ------------------------------------------------------------------------------------------

    def page(self) -> str:
        """Return notice and certificates as HTML; names and reasons are never read as such."""
        notice = f'<p role="status"><b>{visible(self.notice)}</b></p>' if self.notice else ""
        known = self.overview()
        if not known.height:
            return f"{notice}<p>There is no certificate yet.</p>"
        head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in _SHOWN)
        lines = "".join(
            "<tr>" + "".join(f"<td>{visible(_said(row[name]))}</td>" for name in _SHOWN) + "</tr>"
            for row in known.iter_rows(named=True)
        )
        return f"{notice}<table><tr>{head}</tr>{lines}</table>"

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

        wide = {"description_width": "initial"}
        quality = widgets.FloatText(0.95, description="quality from", step=0.01, style=wide)
        category = widgets.Dropdown(
            options=[("all", ""), *((c, c) for c in self._curated["_category"].drop_nulls().unique().sort())],
            description="category",
        )
        promise = widgets.FloatText(0.05, description="rejects at most, share", step=0.01, style=wide)
        looks = widgets.BoundedIntText(1, min=1, max=20, description="looks")
        steps: list[tuple[str, Callable[[], bool]]] = [
            (
                "Fix and hand the sample out",
                lambda: self.fix(
                    quality=quality.value, category=category.value, promise=promise.value, looks=looks.value
                ),
            )
        ]
        rows = [widgets.HTML(self.page()), widgets.HBox([quality, category, promise, looks], layout=_wrapped())]
        rows.append(widgets.HBox(_buttons(steps), layout=_wrapped()))
        if names := self.overview()["certificate"].to_list():
            which = widgets.Dropdown(options=names[::-1], description="certificate")
            reason = widgets.Text(placeholder="why it is withdrawn", description="reason")
            later: list[tuple[str, Callable[[], bool]]] = [
                ("Hand the next look out", lambda: self.look_further(which.value)),
                ("Issue", lambda: self.issue(which.value)),
                ("Withdraw", lambda: self.withdraw(which.value, reason.value)),
            ]
            rows.append(widgets.HBox([which, reason, *_buttons(later)], layout=_wrapped()))
        self._box.children = rows

    def __repr__(self) -> str:
        states = json.dumps(dict(self.overview().group_by("state").len().sort("state").iter_rows()))
        return f"Certificates: {states}."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        plain = {"text/plain": repr(self), "text/html": f"<p>{html(repr(self))}</p>"}
        return plain if "ARISLAB_RUN_ID" in os.environ else {**self.widget._repr_mimebundle_(), **plain}


def _said(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrapped() -> Any:
    import ipywidgets as widgets

    return widgets.Layout(flex_flow="row wrap")


def _buttons(steps: list[tuple[str, Callable[[], bool]]]) -> list[Any]:
    import ipywidgets as widgets

    made = []
    for name, step in steps:
        button = widgets.Button(description=name, layout=widgets.Layout(width="auto"))
        button.on_click(partial(_press, step))
        made.append(button)
    return made


def _press(step: Callable[[], bool], _button: object) -> None:
    step()
