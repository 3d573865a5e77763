"""Decide a cut: linked histograms of scored rows, what a cut keeps and is worth, and the rows behind every bar.

It reads the columns quality and score_<scorer> (0..1, null = unscored), length, category, use_case, difficulty and
model where the frame has them. What it shows is what 2_curate does: the same rows (one of each group of
near-duplicates), the same selection, and the same cut.
"""

import os
import shlex
from collections.abc import Callable, Mapping
from functools import cached_property
from io import BytesIO
from typing import Any

import polars as pl

from arislab.curate import binned, chosen, selection, worth
from arislab.curate.labels import Labels
from arislab.curate.selection import Selection
from arislab.errors import ParameterError, closest
from arislab.review import layout
from arislab.system.kinds import takes_any_frame

GROUPS = ("category", "use_case", "difficulty", "model")
KEPT, DROPPED, LINE = "#2f7d5b", "#aeb7c0", "#24292f"
_MOST = 24
"""Columns that are shown at most."""
_CUTS = tuple(i / 40 for i in range(1, 41))
"""Shares whose precision the browser knows while a cut is dragged."""
BEFORE = "quality before"
Show = Callable[[pl.DataFrame], pl.DataFrame]


def earlier(scored: pl.DataFrame, compare_with: str, *, now: pl.DataFrame) -> pl.DataFrame | None:
    """Return how rows were scored before: custom_id and the quality before; None if nothing is to be compared.

    Args:
        scored: Rows of ``training_data_scored`` of every version: custom_id, quality, scorer_version, run_id.
        compare_with: A scorer_version, its beginning, or the id of the run that wrote them; empty: nothing.
        now: Those that are shown, from ``drawing.newest``.

    Raises:
        ParameterError: No row stands there under this version or run.
    """
    if not compare_with:
        return None
    versions, run_ids = scored["scorer_version"], scored["run_id"]
    before = scored.filter((versions == compare_with) | (run_ids == compare_with).fill_null(value=False))
    before = before if before.height else scored.filter(versions.str.starts_with(compare_with))
    if before["scorer_version"].n_unique() != 1:
        known = closest(compare_with, {*versions.unique(), *run_ids.drop_nulls().unique()})
        raise ParameterError(
            f"compare_with {compare_with!r} names {before['scorer_version'].n_unique()} versions of the scorers, and "
            f"must name one that stands in training_data_scored, or a run that wrote one; {known}."
        )
    return before.join(now, on="custom_id", how="semi").select("custom_id", pl.col("quality").alias(BEFORE))


def made_with(scored: pl.DataFrame, *, judge_model: str = "") -> dict[str, Any]:
    """Return parameters of 2_curate without which rows would not be scored as these are.

    Args:
        scored: From ``drawing.newest``: quality_rules, repaired.
        judge_model: The judge that was heard; empty: none.
    """
    given: dict[str, Any] = {"judge_model": judge_model} if judge_model else {}
    if "quality_rules" in scored.columns and scored["quality_rules"].count():
        given["quality_from"] = "people"
    if "repaired" in scored.columns and scored["repaired"].any():
        given["repair"] = True
    return given


def balance(frame: pl.DataFrame, *, group: str) -> pl.DataFrame:
    """Return one row per group: rows, kept, share before and after the cut, largest group first.

    A number is grouped in quarters of 0..1; null stands as "unknown".

    Args:
        frame: ``Selection.frame``: kept, and the column ``group``.
        group: Column of names, or of numbers.
    """
    values = pl.col(group)
    if frame.schema[group].is_numeric():
        values = values.cut([0.25, 0.5, 0.75], labels=["0 - 0.25", "0.25 - 0.5", "0.5 - 0.75", "0.75 - 1"])
    counted = frame.group_by(values.cast(pl.String).fill_null("unknown").alias(group)).agg(
        rows=pl.len(), kept=pl.col("kept").sum()
    )
    return counted.with_columns(
        before=pl.col("rows") / frame.height, after=pl.col("kept") / pl.max_horizontal(pl.col("kept").sum(), pl.lit(1))
    ).sort("rows", group, descending=[True, False])  # one row per group


class Explorer:
    """Linked histograms and a cut that can be dragged; under papermill, or without a front end, a picture and a table.

    Brushing happens in the browser. The attributes ``selection``, ``fraction`` and ``threshold`` follow it; set them
    before the widget is shown.

    Args:
        scored: custom_id, quality, score_<scorer>; optional duplicate_of (rows with one are left out, as they are in
            2_curate), length, category, use_case, difficulty, model, reason, quality_rules, and what ``show`` reads.
        by: Column that is cut.
        group: Column whose balance the picture shows; default the first of category, use_case, difficulty, model that
            has more than one value, else that the frame has.
        fraction: Share of the scored rows that the first cut keeps.
        threshold: Lowest value that the first cut keeps; null: by ``fraction``.
        selection: Rows that are looked at, as text (see chosen); empty or null: all of them.
        seed: Of the order among ties, as in 2_curate.
        task: As 2_curate is given it, for the command that curates so.
        given: Parameters of 2_curate that made these scores, from ``made_with``: the command names them too.
        labels: From ``labelled``, for the precision of a cut; null: nothing is said of it.
        before: From ``earlier``: what the rows were given before.
        show: Makes of rows (custom_id) what a person sees of them: custom_id, input, output; from ``drawing.showing``.
    """

    @takes_any_frame
    def __init__(
        self,
        scored: pl.DataFrame,
        *,
        by: str = "quality",
        group: str | None = None,
        fraction: float = 0.2,
        threshold: float | None = None,
        selection: str | None = "",
        seed: int = 0,
        task: str = "",
        given: Mapping[str, Any] | None = None,
        labels: Labels | None = None,
        before: pl.DataFrame | None = None,
        show: Show | None = None,
    ) -> None:
        is_copy = pl.col("duplicate_of").is_not_null()
        self.scored = scored.filter(~is_copy) if "duplicate_of" in scored.columns else scored
        self.n_copies = scored.height - self.scored.height
        if before is not None:
            self.scored = self.scored.join(before, on="custom_id", how="left", maintain_order="left")
        self.compared = before is not None
        self.scores = [c for c in scored.columns if c == "quality" or c.startswith("score_")]
        self.groups = [c for c in GROUPS if c in scored.columns and scored[c].null_count() < scored.height]
        for name, known in ((by, self.scores), (group, self.groups)):
            if name is not None and name not in known:
                raise ParameterError(f"there is no column {name!r} to show; {closest(name, known)}.")
        several = [c for c in self.groups if scored[c].n_unique() > 1]
        self.by, self.group = by, group or next(iter([*several, *self.groups]), None)
        self.fraction, self.threshold = fraction, threshold
        """The cut: the share that it keeps, unless a threshold is given, the lowest value that it keeps."""
        self._cuts: dict[str, tuple[tuple[str, float, float | None], Selection]] = {}
        self.given = dict(given or {})
        self._from = self.selection = (selection or "").strip()
        self._base = chosen.held(self.scored, self.selection)
        self.seed, self.task, self.labels, self._show = seed, task, labels, show

    @property
    def held(self) -> pl.DataFrame:
        """Rows that the selection holds."""
        return chosen.held(self._base, self.selection)

    @property
    def cut(self) -> Selection:
        """What the present settings keep, by the functions that 2_curate keeps by."""
        return self._cut(self.by)

    def _cut(self, by: str) -> Selection:
        """The cut of a column; the last one is kept, for much is said of it, and to rank 170,000 rows takes a while."""
        key = (self.selection, self.fraction, self.threshold)
        if by not in self._cuts or self._cuts[by][0] != key:
            if self.threshold is not None:
                made = selection.keep_above(self.held, threshold=self.threshold, by=by)
            else:
                made = selection.keep_top(self.held, fraction=self.fraction, by=by, seed=self.seed)
            self._cuts[by] = (key, made)
        return self._cuts[by][1]

    @property
    def balance(self) -> pl.DataFrame:
        """Share of each group before and after the cut; empty without a column to group by."""
        frame = self.cut.frame
        return pl.DataFrame() if self.group is None or frame.is_empty() else balance(frame, group=self.group)

    @property
    def worth(self) -> str:
        """What people would approve of what the cut keeps, in words."""
        if why := self._unknown:
            return why
        kept = self.cut.kept["custom_id"].implode()
        sample = worth.Labelled(self.scored, self._labels, None)
        told = sample.precision(pl.col("custom_id").is_in(kept)).interval
        if not told.n:
            return "estimated precision of the kept: no label says it"
        return (
            f"estimated precision of the kept: {told.mean:.3f} [{told.low:.3f}, {told.high:.3f}], n {told.n:,} labels"
        )

    @property
    def _labels(self) -> Labels:
        assert self.labels is not None
        return self.labels

    @property
    def _unknown(self) -> str:
        """Why nothing can be said of the precision; empty if something can."""
        if self.by != "quality":
            return f"no precision: the cut is on {self.by}, and 2_curate cuts quality"
        if self.labels is None or self.labels.frame.is_empty():
            return "no labels: review some rows first (review.ipynb), and the precision of a cut can be estimated"
        if "quality_rules" in self.scored.columns and self.scored["quality_rules"].count():
            return "no precision here: this quality was learned from the labels; 2_curate says what it is worth"
        return ""

    @property
    def command(self) -> str:
        """The command that curates by this selection and this cut; 2_curate cuts quality alone."""
        if self.by != "quality":
            return f"2_curate cuts quality, this is a cut of {layout.seen(self.by)}"
        cut = {"keep_rule": "above", "keep_threshold": self.threshold}
        if self.threshold is None:
            cut = {"keep_rule": "top", "keep_fraction": self.fraction}
        given = {"task": self.task, **self.given, "selection": self.selection, **cut, "seed": self.seed}
        words = [f"-p {name} {shlex.quote(str(value))}" for name, value in given.items() if value != ""]
        return " ".join(["arislab run curate", *words])

    # two versions

    @property
    def moves(self) -> pl.DataFrame:
        """Rows whose quality differs from that before, the largest difference first; empty if nothing is compared.

        Columns: custom_id, before, now, change, kept_before, kept_now (by the same rule in either version).
        """
        schema = {"custom_id": pl.String, "before": pl.Float64, "now": pl.Float64, "change": pl.Float64}
        if not self.compared:
            return pl.DataFrame(schema=schema | {"kept_before": pl.Boolean, "kept_now": pl.Boolean})
        was = self._cut(BEFORE).frame.select("custom_id", kept_before="kept")
        rows = self.cut.frame.join(was, on="custom_id", how="left", maintain_order="left")
        told = rows.select(
            "custom_id", before=BEFORE, now=self.by, change=pl.col(self.by) - pl.col(BEFORE), kept_before="kept_before",
            kept_now="kept",
        )  # fmt: skip
        return told.sort(pl.col("change").abs(), "custom_id", descending=[True, False], nulls_last=True)

    @property
    def moved(self) -> str:
        """How many rows the same cut keeps now and did not keep before, and the other way round."""
        if not self.compared:
            return ""
        moves = self.moves
        n_both = moves.filter("kept_now", "kept_before").height
        n_in, n_out = int(moves["kept_now"].sum()) - n_both, int(moves["kept_before"].sum()) - n_both
        return f"beside the version before: {n_in:,} rows came in, {n_out:,} went out, {n_both:,} are in both"

    # the rows

    def page(self, first: int, size: int) -> dict[str, Any]:
        """Return rows that the selection holds, best first, as the browser shows them.

        Args:
            first: Number of the first one, from 0.
            size: How many at most.
        """
        cut = self.cut
        order = selection.ranking(cut.frame, by=self.by, seed=self.seed)
        rows = cut.frame[order[first : first + size]]
        texts = rows.rename({"llm_output": "output"}) if "llm_output" in rows.columns else rows
        if self._show is not None:
            texts = self._show(rows.select("custom_id"))
        seen = {row["custom_id"]: row for row in texts.iter_rows(named=True)}
        shown = [_row(row, seen.get(row["custom_id"], {})) for row in rows.iter_rows(named=True)]
        return {"rows": shown, "n": cut.frame.height, "first": first, "size": size}

    def review(self) -> dict[str, Any]:
        """Return the selection as review.ipynb takes it."""
        line = f"selection: str = {self.selection!r}"
        where = "every row" if not self.selection else f"{self.held.height:,} rows"
        return {"text": line, "notice": f"copied, for the parameters of review.ipynb ({where}): {line}"}

    # what the browser does

    def settle(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take over brushes and cut from the browser.

        Args:
            state: brushes (column to codes), cut (rule, fraction, threshold), seq.

        Returns:
            selection, command, worth, moved (all in words) and seq.
        """
        conditions = [one for c in self._columns if (b := state["brushes"].get(c.name)) for one in c.conditions(b)]
        self.selection = " and ".join(filter(None, [self._from, chosen.written(conditions)]))
        cut = state["cut"]
        if cut["rule"] == "top":
            self.fraction, self.threshold = float(cut["fraction"]), None
        else:
            self.threshold = float(cut["threshold"])
        return self._told(int(state["seq"]))

    def _told(self, seq: int) -> dict[str, Any]:
        texts = {"selection": self.selection, "command": self.command, "worth": self.worth, "moved": self.moved}
        return texts | {"seq": seq}

    @cached_property
    def _ranked(self) -> pl.DataFrame:
        """Rows from the best to the worst, as the browser has them."""
        return self._base[selection.ranking(self._base, by=self.by, seed=self.seed)]

    @cached_property
    def _columns(self) -> list[binned.Binned]:
        """Columns that can be brushed, the one that is cut first."""
        rows = self._ranked
        numbers, names = chosen.columns_of(rows)
        wanted = [self.by, *(c for c in (*numbers, *names) if c != self.by)]
        known = [c for c in wanted if rows[c].count() and (c == self.by or rows[c].n_unique() > 1)]
        return [(binned.names if name in names else binned.numbers)(rows[name]) for name in known[:_MOST]]

    @cached_property
    def widget(self) -> Any:
        """The widget; made when it is first asked for."""
        from arislab.curate.brushing import Brushed

        columns, told = list(self._columns), [c.described for c in self._columns]
        if self.compared and columns and columns[0].name == self.by:  # which is not there where nothing is scored
            told[0] |= {"before": len(columns)}
            columns.append(binned.numbers(self._ranked[BEFORE], edges=columns[0].edges))
            told.append(columns[-1].described | {"hidden": True})
        cut = self.cut
        about = {
            "n": self._ranked.height,
            "scored": self._ranked[self.by].count(),
            "columns": told,
            "by": self.by,
            "title": self._title,
            "labels": self._unknown,
            "curve": self._curve,
            "before": BEFORE if self.compared else "",
        }
        start = {"rule": "top" if self.threshold is None else "above", "fraction": self.fraction}
        start |= {"threshold": cut.threshold or 0.0}
        state = {"brushes": {}, "cut": start, "seq": 0}
        block = binned.block(self._ranked[self.by], columns)
        return Brushed(self, about=about, block=block, state=state, told=self._told(0))

    @property
    def _title(self) -> str:
        where = f" with {self._from}" if self._from else ""
        copies = f" ({self.n_copies:,} near-duplicates are left out)" if self.n_copies else ""
        return f"{self._base.height:,} rows{where}{copies}: what would a cut of {self.by} keep?"

    @property
    def _curve(self) -> list[list[float]]:
        """Number kept, precision, low, high and labels of cuts of all rows."""
        if self._unknown or self._from:
            return []
        table = worth.curve(self.scored, self._labels, seed=self.seed, shares=_CUTS)
        n = self.scored["quality"].count()
        told = table.select("share", "precision", "low", "high", "n").filter(
            pl.all_horizontal(pl.col("precision", "low", "high").is_finite())
        )
        return [[selection.n_top(n, share), *rest] for share, *rest in told.iter_rows()]

    # what stands in a record

    def png(self) -> bytes:
        """Return the histogram with the cut, and the balance of the groups, as a PNG."""
        buffer = BytesIO()
        self._figure().savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _figure(self) -> Any:
        """The picture; ``parse_math=False``: a name with two dollar signs is a name and no formula."""
        from matplotlib.figure import Figure

        cut, table = self.cut, self.balance.head(12).reverse()
        figure = Figure(figsize=(10.5, 3.6), dpi=100, layout="constrained")
        figure.suptitle(self._title, fontsize=10, parse_math=False)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2)) if table.width else (figure.subplots(), None)
        known = cut.frame.filter(pl.col(self.by).is_not_null())
        edges = binned.numbers(known[self.by]).edges
        parts = [(name, known.filter(is_in)[self.by].to_numpy()) for name, is_in in _SIDES.items()]
        left.hist(
            [values for _, values in parts],
            bins=edges,
            color=[DROPPED, KEPT],
            label=[f"{name} {len(values):,}" for name, values in parts],
            stacked=True,
        )
        if self.compared:
            before = cut.frame[BEFORE].drop_nulls()
            label = f"all {before.len():,} before"
            left.hist(before.to_numpy(), bins=edges, histtype="step", color=LINE, linestyle=":", label=label)
        if cut.threshold is not None:
            left.axvline(cut.threshold, color=LINE, linewidth=1, linestyle="--")
        left.set_xlabel(self.by, parse_math=False)
        left.set(ylabel="rows", xlim=(edges[0], edges[-1]))
        left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
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

    def __repr__(self) -> str:
        if self.scored.is_empty():
            return "Explorer: no scored rows yet. Run 2_curate first (`arislab run curate`)."
        where = f" where {self.selection}" if self.selection else ""
        lines = [f"Explorer of {self.by}{where}: {self.cut}", self.worth, self.moved, self.command]
        return "\n".join(filter(None, lines))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.scored.is_empty():
            display({"text/plain": repr(self)}, raw=True)
            return
        still = {"image/png": self.png(), "text/plain": repr(self)}
        if "ARISLAB_RUN_ID" not in os.environ:
            display(self.widget._repr_mimebundle_()[0] | still, raw=True)  # who cannot show widgets shows the picture
            return
        display(still, raw=True)  # nobody is there to drag a cut
        display(self.balance)


_TEXTS = {"Question": "input", "Answer": "output"}
_SIDES = {"not kept": ~pl.col("kept"), "kept": pl.col("kept")}


def _row(row: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """A row as the browser shows it: facts in words, and texts in parts (see layout)."""
    facts = [str(row["custom_id"])]
    for name, value in row.items():
        if name in (*chosen.NUMBERED, *chosen.NAMED, BEFORE) or name.startswith("score_"):
            known = (
                "none" if value is None else f"{value:,.3f}" if isinstance(value, float) else layout.seen(str(value))
            )
            facts.append(f"{layout.seen(name)} {known}")
    texts = [(title, layout.laid_out(seen.get(name) or "(none)")) for title, name in _TEXTS.items()]
    return {
        "facts": facts,
        "kept": bool(row["kept"]),
        "why": layout.parts(row.get("reason") or ""),
        "texts": [(title, layout.parts(text)) for title, text in texts],
    }
