"""Look at a quality distribution: how many rows a cut keeps, whom it keeps, and what the rows on either side read like.

It reads the columns quality and score_<scorer> (0..1, null = unscored), and groups by category, use_case, difficulty or
model where the frame has them. It decides nothing: the cut that counts is the one in 2_curate.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import polars as pl

from arislab.curate.selection import n_top
from arislab.errors import ParameterError, closest
from arislab.system.text import html

GROUPS = ("category", "use_case", "difficulty", "model")
KEPT, DROPPED, LINE = "#2f7d5b", "#c3cad1", "#24292f"
NEAR = 0.02
"""How far from the cut a row still counts as lying at it."""


@dataclass(frozen=True)
class Cut:
    """What one cut does to a column of scores."""

    threshold: float
    """Rows at or above it are kept."""
    rows: int
    unscored: int
    """Rows without a score; never kept."""
    kept: int
    ties: int
    """Rows exactly at the threshold; all of them are kept, so a fraction may keep more rows than it names."""

    def __str__(self) -> str:
        share = self.kept / max(self.rows, 1)
        return (
            f"kept {self.kept:,} of {self.rows:,} rows ({share:.1%}) at {self.threshold:.3f} or above; "
            f"{self.ties:,} lie exactly there; {self.unscored:,} unscored"
        )


def cut(scored: pl.DataFrame, *, by: str, fraction: float | None = None, threshold: float | None = None) -> Cut:
    """Return the cut that keeps the best `fraction` of the scored rows (and ties), or all rows from `threshold` up.

    Args:
        scored: Column `by` (Float64, null = unscored).
        by: The column.
        fraction: Share of the scored rows, in (0, 1], as ``keep_top`` takes it: rounded up to a whole row.
        threshold: Lowest score to keep; one of the two.

    Raises:
        ParameterError: Both, neither, or no fraction.
    """
    if (fraction is None) == (threshold is None):
        raise ParameterError("give either fraction (0.2 keeps one row in five) or threshold (0.8 keeps from 0.8 up).")
    values = scored[by].drop_nulls().sort(descending=True)
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ParameterError(f"fraction must be in (0, 1], got {fraction}; 0.2 keeps one row in five.")
        threshold = values[n_top(values.len(), fraction) - 1] if values.len() else 0.0
    kept, ties = (values >= threshold).sum(), (values == threshold).sum()
    return Cut(float(threshold or 0), scored.height, scored.height - values.len(), int(kept), int(ties))


def balance(scored: pl.DataFrame, *, by: str, group: str, threshold: float) -> pl.DataFrame:
    """Return one row per group: rows, kept, share before and after the cut, largest group first.

    A number is grouped in quarters of 0..1; null stands as "unknown".
    """
    values = pl.col(group)
    if scored.schema[group].is_numeric():
        values = values.cut([0.25, 0.5, 0.75], labels=["0 - 0.25", "0.25 - 0.5", "0.5 - 0.75", "0.75 - 1"])
    counted = scored.group_by(values.cast(pl.String).fill_null("unknown").alias(group)).agg(
        rows=pl.len(), kept=(pl.col(by) >= threshold).sum()
    )
    return counted.with_columns(
        before=pl.col("rows") / scored.height, after=pl.col("kept") / pl.max_horizontal(pl.col("kept").sum(), pl.lit(1))
    ).sort("rows", group, descending=[True, False])  # one row per group


class Explorer:
    """Sliders over a quality distribution; under papermill, or without a front end, one picture and one table.

    Args:
        scored: columns quality and score_<scorer>; optional category, use_case, difficulty, model, output.
        by: column of the distribution.
        group: column whose balance is shown; default the first of category, use_case, difficulty, model that the frame
            has.
        fraction: share of the rows that the first cut keeps.
    """

    def __init__(
        self, scored: pl.DataFrame, *, by: str = "quality", group: str | None = None, fraction: float = 0.2
    ) -> None:
        self.scored = scored
        self.scores = [c for c in scored.columns if c == "quality" or c.startswith("score_")]
        self.groups = [c for c in GROUPS if c in scored.columns and scored[c].null_count() < scored.height]
        for name, known in ((by, self.scores), (group, self.groups)):
            if name is not None and name not in known:
                raise ParameterError(f"there is no column {name!r} to show; {closest(name, known)}.")
        self.by, self.group = by, group or next(iter(self.groups), None)
        self.fraction: float | None = fraction
        self.threshold: float | None = None
        self._seed = 0

    @property
    def cut(self) -> Cut:
        """What the present settings keep."""
        return cut(self.scored, by=self.by, fraction=self.fraction, threshold=self.threshold)

    @property
    def balance(self) -> pl.DataFrame:
        """Share of each group before and after the cut; empty without a column to group by."""
        if self.group is None or self.scored.is_empty():
            return pl.DataFrame()
        return balance(self.scored, by=self.by, group=self.group, threshold=self.cut.threshold)

    def sample(self, n: int = 5, *, side: str = "kept", seed: int | None = None) -> pl.DataFrame:
        """Return n random rows of one side of the cut.

        Args:
            n: At most all of that side.
            side: kept, dropped, or at the cut (within 0.02 of it).
            seed: Of the draw; null: another one each time.

        Raises:
            ParameterError: Another side.
        """
        score, at = pl.col(self.by), self.cut.threshold
        sides = {"kept": score >= at, "dropped": score < at, "at the cut": (score - at).abs() <= NEAR}
        if side not in sides:
            raise ParameterError(f"there is no side {side!r} of a cut; {closest(side, sides)}.")
        rows = self.scored.filter(sides[side])
        return rows.sample(min(n, rows.height), seed=seed, shuffle=True)

    def png(self) -> bytes:
        """Return the histogram with the cut, and the balance of the groups, as a PNG."""
        buffer = BytesIO()
        self._figure().savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _figure(self) -> Any:
        """The picture; ``parse_math=False``: a name with two dollar signs is a name and no formula."""
        from matplotlib.figure import Figure

        at, table = self.cut.threshold, self.balance.head(12).reverse()
        figure = Figure(figsize=(10.5, 3.4), dpi=100, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2)) if table.width else (figure.subplots(), None)
        values = self.scored[self.by].drop_nulls()
        edges = [i / 50 for i in range(51)]
        for part, color, label in (
            (values.filter(values < at), DROPPED, "dropped"),
            (values.filter(values >= at), KEPT, "kept"),
        ):
            left.hist(part.to_numpy(), bins=edges, color=color, label=f"{label} {part.len():,}")
        left.axvline(at, color=LINE, linewidth=1, linestyle="--")
        left.set_xlabel(self.by, parse_math=False)
        left.set(ylabel="rows", xlim=(0, 1))
        left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        if right is not None:
            y = range(table.height)
            names = [n if len(n) <= 32 else n[:31] + "…" for n in table[self.group or ""].to_list()]
            right.barh([v + 0.2 for v in y], table["before"].to_list(), height=0.38, color=DROPPED, label="all rows")
            right.barh([v - 0.2 for v in y], table["after"].to_list(), height=0.38, color=KEPT, label="kept")
            right.set_yticks(list(y), names, fontsize=8, parse_math=False)
            more = f", the {table.height} largest" if table.height < self.balance.height else ""
            right.set_xlabel(f"share by {self.group}{more}", parse_math=False)
            right.set_ylim(min(-0.6, table.height - 4.6), table.height - 0.4)
            right.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        for ax in figure.axes:
            ax.spines[["top", "right"]].set_visible(False)
        return figure

    @cached_property
    def widget(self) -> Any:
        """The ipywidgets VBox; made when it is first asked for."""
        import ipywidgets as w

        picture, account, rows = w.Image(format="png", layout={"max_width": "100%"}), w.HTML(), w.HTML()
        short = {"style": {"description_width": "auto"}, "layout": {"margin": "2px 16px 2px 0"}}
        slider = {"max": 1, "continuous_update": False, "readout_format": ".3f"} | short
        by = w.Dropdown(options=self.scores, value=self.by, description="by", **short)
        groups = [("none", None), *((g, g) for g in self.groups)]
        group = w.Dropdown(options=groups, value=self.group, description="group", **short)
        how = w.ToggleButtons(options=["keep fraction", "threshold"], style={"button_width": "auto"})
        share = w.FloatSlider(self.fraction, min=0.001, step=0.001, description="keep", **slider)
        level = w.FloatSlider(0.8, min=0, step=0.005, description="from", **slider)
        side = w.Dropdown(options=["kept", "at the cut", "dropped"], layout={"width": "110px"})
        more = w.Button(description="five random rows", icon="random", layout={"width": "auto"})
        self.controls = {
            "by": by,
            "group": group,
            "how": how,
            "fraction": share,
            "threshold": level,
            "side": side,
            "rows": more,
        }

        def update(_: object = None) -> None:
            fraction = how.value == "keep fraction"
            self.by, self.group = by.value, group.value
            self.fraction, self.threshold = (share.value, None) if fraction else (None, level.value)
            share.layout.display, level.layout.display = ("", "none") if fraction else ("none", "")
            picture.value, account.value, rows.value = self.png(), f"<b>{html(str(self.cut))}</b>", ""

        def draw_rows(_: object = None) -> None:
            self._seed += 1
            rows.value = _table(self.sample(side=side.value, seed=self._seed), self.by)

        for control in (by, group, how, share, level):
            control.observe(update, names="value")
        more.on_click(draw_rows)
        update()
        line = {"flex_flow": "row wrap"}
        top = [w.HBox([by, group], layout=line), w.HBox([how, share, level], layout=line)]
        return w.VBox([*top, account, picture, w.HBox([side, more]), rows])

    def __repr__(self) -> str:
        if self.scored.is_empty():
            return "Explorer: no scored rows yet. Run 2_curate first (`arislab run curate`)."
        return f"Explorer of {self.by}: {self.cut}"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.scored.is_empty():
            display({"text/plain": repr(self)}, raw=True)
            return
        still = {"image/png": self.png(), "text/plain": repr(self)}
        if "ARISLAB_RUN_ID" not in os.environ:
            display({**self.widget._repr_mimebundle_(), **still}, raw=True)  # who cannot show widgets shows the picture
            return
        display(still, raw=True)  # nobody is there to move a slider
        display(self.balance)


def _table(rows: pl.DataFrame, by: str) -> str:
    columns = [
        c
        for c in (by, *GROUPS, "output", "llm_output", "reason")
        if c in rows.columns and rows[c].null_count() < rows.height
    ]
    head = "".join(f"<th style='text-align:left;padding:2px 10px'>{html(c)}</th>" for c in columns)
    body = ""
    for row in rows.select(columns).iter_rows():
        cells = ["" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v)[:700] for v in row]
        body += (
            "<tr>"
            + "".join(
                "<td style='text-align:left;vertical-align:top;white-space:pre-wrap;line-height:1.4;padding:6px "
                f"10px'>{html(c)}</td>"
                for c in cells
            )
            + "</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
