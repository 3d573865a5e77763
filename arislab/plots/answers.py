"""Answers in numbers: their quality, what each step left, what a cut did to the mix, how long they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from arislab.errors import ParameterError, closest
from arislab.plots import style
from arislab.system.kinds import takes_any_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BANDS = (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)  # of quality; the last one includes 1
_BAND_COLOURS = ("#c3ccd6", "#a8cbe6", "#6fa8d6", "#3380bd", "#10518c")
_BESIDE = 0.02
_NAMED = 9  # criteria that have room for their names beside a figure


@takes_any_frame
def quality_distribution(
    frame: pl.DataFrame, *, threshold: float | None = None, by: str = "quality", ax: "Axes | None" = None
) -> "Axes":
    """Draw the histogram of quality in bands with the share of each band, and the cut.

    Args:
        frame: Column `by` (Float64 in 0..1, null = unscored: counted in the title).
        threshold: Where the cut is; drawn with its value and the rows at or above it (and those kept, if there is a
            column `kept`: ties and quotas keep fewer).
        by: The column.
        ax: Where to draw.
    """
    values, n_missing = style.numbers(frame, by)
    ax = style.axes(ax, height=3.4)
    missing = f", {n_missing:,} unscored" if n_missing else ""
    style.apply(
        ax, title=f"{style.capital(style.words(by))} of {len(values):,} {style.plural('output', len(values))}{missing}"
    )
    ax.set_xlabel(f"{style.words(by)} (0 to 1)", **style.AS_IS)
    ax.set_ylabel("outputs")
    ax.yaxis.set_major_formatter(style.thousands)
    ax.set_xlim(-0.005, 1.005)
    if len(values) == 0:
        return style.empty(ax)
    edges = np.linspace(0, 1, 41)
    # 0.7 may be 0.6999999: what lies on an edge belongs to the bin that begins there
    counts = np.histogram(np.clip(values, 0, 1), np.append(edges[:-1] - 1e-9, 1.0))[0]
    band = np.searchsorted(_BANDS, edges[:-1] + 1e-9) - 1
    ax.bar(
        edges[:-1], counts, width=0.025, align="edge", color=np.array(_BAND_COLOURS)[band], edgecolor="white", lw=0.6
    )
    top = counts.max()
    ax.set_ylim(0, top * 1.42)  # bars leave room for two lines of labels and the cut's
    shares = np.histogram(np.clip(values, 0, 1), [*(np.array(_BANDS[:-1]) - 1e-9), 1.0])[0] / len(values)
    for low, high, colour, share in zip(_BANDS, _BANDS[1:], _BAND_COLOURS, shares, strict=False):
        ax.axvspan(low, high, color=colour, alpha=0.13, lw=0, zorder=0)
        middle = (low + high) / 2
        ax.text(
            middle, top * 1.385, f"{share:.0%}" if share >= 0.01 or share == 0 else "<1%", **style.text(weight="bold")
        )
        ax.text(middle, top * 1.285, f"{low:g}–{high:g}", **style.text(style.MUTED, style.SMALL))
    if threshold is not None:
        n_above = int((values >= threshold).sum())
        ax.plot([threshold, threshold], [0, top * 1.19], color=style.ORANGE, lw=1.6)
        left = threshold > 0.5
        label = f"cut {threshold:.3g}: {n_above:,} at or above ({n_above / len(values):.0%})"
        if "kept" in frame.columns:  # fewer where ties or a quota decided
            label += f", {frame['kept'].sum():,} kept"
        place = style.text(style.ORANGE, ha="right" if left else "left", weight="bold")
        ax.text(threshold + (-0.01 if left else 0.01), top * 1.18, label, **place, bbox=style.halo())
    return ax


@takes_any_frame
def precision_curve(curve: pl.DataFrame, *, kept: float | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw what people would approve of among the best rows, for every share of them that a cut keeps.

    Args:
        curve: Columns share (of the rows that are kept, 0..1), precision, low, high (95 %), recall (0..1), n (labels).
        kept: The share that is kept, drawn as the cut.
        ax: Where to draw.
    """
    ax = style.axes(ax, height=3.2)
    known = curve.filter(pl.col("n") > 0, pl.col("precision").is_finite())
    n = int(known["n"].to_numpy().max()) if known.height else 0
    style.apply(ax, title=f"What people would approve, by share kept ({n:,} labels)")
    ax.set_xlabel("share of the rows that is kept, best first")
    if not known.height:
        return style.empty(ax)
    share = known["share"].to_numpy()
    ax.fill_between(share, known["low"].to_numpy(), known["high"].to_numpy(), color=style.BLUE, alpha=0.16, lw=0)
    ax.plot(share, known["precision"].to_numpy(), color=style.BLUE, lw=2, marker="o", ms=3.5)
    ax.plot(share, known["recall"].to_numpy(), color=style.GREY, lw=1.6)
    if kept is not None:
        ax.axvline(kept, color=style.ORANGE, lw=1.6)
        ax.text(kept, 1.06, f" cut: {kept:.1%}", **style.text(style.ORANGE, ha="left", weight="bold"))
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.08)
    ends = [(known["precision"][-1], "precision, 95 %", style.BLUE), (known["recall"][-1], "recall", style.MUTED)]
    style.end_labels(ax, ends)
    ax.yaxis.set_major_formatter(style.percent)
    ax.xaxis.set_major_formatter(style.percent)
    return ax


@takes_any_frame
def reliability(bins: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw whether chances mean what they say: what share of the rows of about one chance people approved.

    Args:
        bins: Columns chance, approved, low, high (95 %), all 0..1, and n (labels): one row a bin.
        ax: Where to draw.
    """
    ax = style.axes(ax, height=3.2)
    n = int(bins["n"].sum()) if bins.height else 0
    style.apply(ax, title=f"Said and approved ({n:,} labels, each by a model that had not seen it)")
    ax.set_xlabel("chance that a person approves, as said")
    ax.set_ylabel("approved, 95 %")
    if not n:
        return style.empty(ax)
    x, y = bins["chance"].to_numpy(), bins["approved"].to_numpy()
    ax.plot([0, 1], [0, 1], color=style.GREY, lw=1.2)
    ax.vlines(x, bins["low"].to_numpy(), bins["high"].to_numpy(), color=style.BLUE, alpha=0.45, lw=2)
    ax.scatter(x, y, color=style.BLUE, s=26, zorder=3)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.05)
    style.note(ax, "on the line: said as it is")
    return ax


@takes_any_frame
def two_orders(scores: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw what a judge said of each answer one way round beside what it said the other way round.

    Args:
        scores: Columns criterion, first and second (0..1, null: no number): one row an answer and criterion.
        ax: Where to draw.
    """
    ax = style.axes(ax, height=3.6)
    known = scores.drop_nulls(["first", "second"])
    style.apply(ax, title=f"Said twice: {known.height:,} of {scores.height:,} answers")
    ax.set_xlabel("score, the one way round")
    ax.set_ylabel("score, the other")
    if not known.height:
        return style.empty(ax)
    ax.plot([0, 1], [0, 1], color=style.GREY, lw=1.2)
    counted = known.group_by("criterion", "first", "second").len().sort("criterion", "first", "second")
    most, n = counted["len"].max(), counted["criterion"].n_unique()
    for i, ((name,), part) in enumerate(counted.group_by("criterion", maintain_order=True)):
        colour = style.ARM_COLOURS[i % len(style.ARM_COLOURS)]
        sizes = 10 + 150 * (part["len"] / most).to_numpy()  # area: answers with these two scores
        beside = _BESIDE * (i - (n - 1) / 2)  # scores are steps: criteria would hide each other
        points = part["first"].to_numpy() + beside, part["second"].to_numpy()
        ax.scatter(*points, s=sizes, color=colour, alpha=0.55, lw=0, zorder=3)
        if i < _NAMED:
            words = style.text(colour, ha="left", va="center")
            ax.text(1.02, 0.95 - 0.1 * i, style.in_short(str(name), 22), transform=ax.transAxes, **words)
    ax.set_xlim(-0.05, 1.05)
    ax.set_ylim(-0.05, 1.08)
    style.note(ax, "on the line: the order changed nothing")
    return ax


def funnel(steps: Sequence[tuple[str, int]], *, ax: "Axes | None" = None) -> "Axes":
    """Draw how many rows are left after each step, as [(label, n), …] from the first step to the last."""
    ax = style.axes(ax, height=0.8 + 0.42 * max(1, len(steps)))
    style.apply(ax, title="What is left after each step", grid="")
    if not steps:
        return style.empty(ax)
    counts = [n for _, n in steps]
    whole = max(*counts, 1)
    places = np.arange(len(steps))
    shade = np.linspace(0.42, 1.0, len(steps))
    ax.barh(places, counts, height=0.66, color=[style.mixed(style.BLUE, s) for s in shade])
    for i, n in enumerate(counts):
        ax.text(n + whole * 0.012, i, f"{n:,}", **style.text(ha="left", va="center", weight="bold"))
        if i:
            share = f"{n / counts[0]:.1%} of all" if counts[0] else ""
            lost = f"  ({n - counts[i - 1]:+,})".replace("-", "−")
            place = style.text(style.MUTED, style.SMALL, ha="left", va="center")
            ax.text(1.015, i, share + lost, transform=ax.get_yaxis_transform(), **place)
    ax.set_yticks(places, [label for label, _ in steps], **style.AS_IS)
    ax.tick_params(axis="y", labelsize=style.NORMAL, labelcolor=style.INK)
    ax.set_xlim(0, 1.2 * whole)
    ax.set_ylim(len(steps) - 0.5, -0.5)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    return ax


@takes_any_frame
def bias(frame: pl.DataFrame, column: str, *, kept: str = "kept", ax: "Axes | None" = None) -> "Axes":
    """Draw what a cut did to the mix: the distribution of `column` among all rows and among those kept.

    Args:
        frame: Columns `kept` (Boolean) and `column`: a number (two distributions), a category (shares before and
            after; the eleven that changed most if there are many), or free text (its length in characters): more than
            40 different values that are long (60 characters in the median) or mostly occur once.
        column: What to look at.
        kept: The column that says which rows were kept.
        ax: Where to draw.

    Raises:
        ParameterError: The frame has no such column.
    """
    for name in (column, kept):
        if name not in frame.columns:
            raise ParameterError(f"the frame has no column {name!r}; {closest(name, frame.columns)}.")
    values, mask = frame[column], frame[kept].fill_null(value=False)
    unit = ""
    n_different = values.n_unique()
    is_long = values.dtype == pl.String and float(values.str.len_chars().median() or 0) > 60  # type: ignore[arg-type]
    if values.dtype == pl.String and n_different > 40 and (is_long or n_different > len(values) / 2):
        values, unit = values.str.len_chars(), "length, characters"
    if values.dtype.is_numeric():
        return _bias_of_numbers(values.cast(pl.Float64), mask, f"{style.words(column)}{unit and f' ({unit})'}", ax)
    return _bias_of_categories(values.cast(pl.String).fill_null("(none)"), mask, style.words(column), ax)


@takes_any_frame
def tokens(frame: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the distributions of prompt and completion length.

    Args:
        frame: Columns prompt_tokens and completion_tokens (Int, null = no answer).
        ax: Where to draw.
    """
    ax = style.axes(ax, height=3.2)
    series = [
        (name, *style.numbers(frame, f"{name}_tokens"), colour)
        for name, colour in (("prompt", style.GREY), ("completion", style.BLUE))
    ]
    n = max(len(values) for _, values, _, _ in series)
    style.apply(ax, title=f"Tokens per request, {n:,} {style.plural('request', n)}")
    ax.set_xlabel("tokens")
    ax.set_ylabel("requests")
    ax.yaxis.set_major_formatter(style.thousands)
    if n == 0:
        return style.empty(ax)
    edges = style.edges(np.concatenate([values for _, values, _, _ in series]))
    peaks = []
    for _, values, _, colour in series:
        counts = np.histogram(values, edges)[0]
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, alpha=0.75, edgecolor="white", lw=0.4)
        peaks.append(counts.max())
    ax.set_ylim(0, max(peaks) * 1.3)
    for line, (name, values, _, colour) in enumerate(series):
        dark = style.MUTED if colour == style.GREY else colour
        if len(values):
            label = f"{name}: median {np.median(values):,.0f}, longest {values.max():,.0f}, {values.sum():,.0f} in all"
            ax.text(
                0.99, 0.985 - 0.075 * line, label, transform=ax.transAxes, **style.text(dark, ha="right", weight="bold")
            )
    return ax


def _bias_of_numbers(values: pl.Series, mask: pl.Series, label: str, ax: "Axes | None") -> "Axes":
    ax = style.axes(ax, height=3.2)
    everything, kept = (part.drop_nulls().drop_nans().to_numpy() for part in (values, values.filter(mask)))
    style.apply(ax, title=f"{style.capital(label)}: all {len(everything):,} rows and the {len(kept):,} kept")
    ax.set_xlabel(label, **style.AS_IS)
    ax.set_ylabel("share of rows per bin")
    if len(everything) == 0:
        return style.empty(ax)
    edges = style.edges(everything)
    shares = [np.histogram(part, edges)[0] / max(len(part), 1) for part in (everything, kept)]
    top = max(share.max() for share in shares)
    ax.stairs(shares[0], edges, fill=True, color=style.GREY, alpha=0.7)
    ax.stairs(shares[1], edges, color=style.BLUE, lw=1.8)
    ax.set_ylim(0, top * 1.3)
    ax.yaxis.set_major_formatter(style.percent)
    for line, (name, part, colour) in enumerate((("all", everything, style.MUTED), ("kept", kept, style.BLUE))):
        if len(part):
            middle = float(np.median(part))
            ax.plot([middle] * 2, [0, top * 1.08], color=colour, lw=1.2, ls=(0, (4, 3)))
            place = style.text(colour, ha="right", weight="bold")
            ax.text(0.99, 0.985 - 0.075 * line, f"{name}: median {middle:,.4g}", transform=ax.transAxes, **place)
    return ax


def _bias_of_categories(values: pl.Series, mask: pl.Series, label: str, ax: "Axes | None") -> "Axes":
    table = (
        pl.DataFrame({"value": values, "kept": mask})
        .group_by("value")
        .agg(pl.len().alias("n"), pl.col("kept").sum().alias("n_kept"))
        .sort(["n", "value"], descending=[True, False])
    )
    n, n_kept = len(values), int(mask.sum())
    if len(table) > 12:  # the ones that the cut changed most stay in sight
        change = (pl.col("n_kept") / max(n_kept, 1) - pl.col("n") / n).abs()
        table = table.with_columns((change.rank("ordinal", descending=True) <= 11).alias("is_shown"))
        shown, rest = (table.filter(pl.col("is_shown") == side).drop("is_shown") for side in (True, False))
        others = pl.DataFrame({"value": f"{len(rest)} others", "n": rest["n"].sum(), "n_kept": rest["n_kept"].sum()})
        table = pl.concat([shown, others], how="vertical_relaxed")
    ax = style.axes(ax, height=1.2 + 0.36 * max(1, len(table)))
    style.apply(ax, title=f"{style.capital(label)}: all {n:,} rows and the {n_kept:,} kept", grid="x")
    ax.set_xlabel("share of rows (hollow: all, filled: kept)")
    if n == 0:
        return style.empty(ax)
    for i, (_, count, count_kept) in enumerate(table.iter_rows()):
        before, after = count / n, count_kept / max(n_kept, 1)
        colour = style.BLUE if after >= before else style.ORANGE
        ax.plot([before, after], [i, i], color=colour, lw=2.2, alpha=0.55)
        ax.scatter([before], [i], s=42, facecolor="white", edgecolor=style.MUTED, lw=1.5, zorder=3)
        ax.scatter([after], [i], s=46, color=colour, zorder=4)
        text = f"{before:.1%} → {after:.1%}  ({100 * (after - before):+.1f})".replace("-", "−")
        ax.text(
            1.015, i, text, transform=ax.get_yaxis_transform(), **style.text(size=style.SMALL, ha="left", va="center")
        )
    ax.set_yticks(range(len(table)), [style.in_short(value) for value in table["value"]], **style.AS_IS)
    ax.tick_params(axis="y", labelsize=style.NORMAL, labelcolor=style.INK)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.margins(x=0.08)
    ax.set_xlim(left=0)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(style.percent)
    return ax
