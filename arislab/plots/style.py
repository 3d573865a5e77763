"""One function per figure; each draws on `ax` (a new figure if None) and returns the Axes.

Figures are 7.5 inches wide, the width of a notebook cell. Lines and bars carry their names and numbers, so there are no
legends to decode; counts of rows stand in the titles; rows without a value are counted there, not drawn as 0. Names of
arms, columns and categories are shown as they are: two dollar signs in one are no formula.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.errors import ParameterError, closest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _FAINT = "#1f2933", "#6b7785", "#dfe4ea"
_BLUE, _ORANGE, _GREY = "#1f6fb2", "#d5670f", "#a9b4c0"
_BANDS = (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)  # of quality; the last one includes 1
_BAND_COLOURS = ("#c3ccd6", "#a8cbe6", "#6fa8d6", "#3380bd", "#10518c")
_ARM_COLOURS = ("#1f6fb2", "#d5670f", "#2e8b6a", "#8a5aa8", "#b8860b", "#4f5b66")  # apart for colour-blind readers too
_SMALL, _NORMAL, _LARGE = 8.5, 9.5, 11.5  # points
_AS_IS: Any = {"parse_math": False}
"""Of every text that may hold a user's name: matplotlib reads what stands between two dollar signs as TeX, and raises
when it is none."""


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
    values, n_missing = _values(frame, by)
    ax = _axes(ax, height=3.4)
    missing = f", {n_missing:,} unscored" if n_missing else ""
    _style(ax, title=f"{_capital(_words(by))} of {len(values):,} {_plural('output', len(values))}{missing}")
    ax.set_xlabel(f"{_words(by)} (0 to 1)", **_AS_IS)
    ax.set_ylabel("outputs")
    ax.yaxis.set_major_formatter(_thousands)
    ax.set_xlim(-0.005, 1.005)
    if len(values) == 0:
        return _empty(ax)
    edges = np.linspace(0, 1, 41)
    counts = np.histogram(np.clip(values, 0, 1), np.append(edges[:-1] - 1e-9, 1.0))[0]
    band = np.searchsorted(_BANDS, edges[:-1] + 1e-9) - 1
    ax.bar(
        edges[:-1], counts, width=0.025, align="edge", color=np.array(_BAND_COLOURS)[band], edgecolor="white", lw=0.6
    )
    top = counts.max()
    ax.set_ylim(0, top * 1.42)
    shares = np.histogram(np.clip(values, 0, 1), [*(np.array(_BANDS[:-1]) - 1e-9), 1.0])[0] / len(values)
    for low, high, colour, share in zip(_BANDS, _BANDS[1:], _BAND_COLOURS, shares, strict=False):
        ax.axvspan(low, high, color=colour, alpha=0.13, lw=0, zorder=0)
        middle = (low + high) / 2
        ax.text(middle, top * 1.385, f"{share:.0%}" if share >= 0.01 or share == 0 else "<1%", **_text(weight="bold"))
        ax.text(middle, top * 1.285, f"{low:g}–{high:g}", **_text(_MUTED, _SMALL))
    if threshold is not None:
        n_above = int((values >= threshold).sum())
        ax.plot([threshold, threshold], [0, top * 1.19], color=_ORANGE, lw=1.6)
        left = threshold > 0.5
        label = f"cut {threshold:.3g}: {n_above:,} at or above ({n_above / len(values):.0%})"
        if "kept" in frame.columns:  # fewer where ties or a quota decided
            label += f", {frame['kept'].sum():,} kept"
        place = _text(_ORANGE, ha="right" if left else "left", weight="bold")
        ax.text(threshold + (-0.01 if left else 0.01), top * 1.18, label, **place, bbox=_halo())
    return ax


def funnel(steps: Sequence[tuple[str, int]], *, ax: "Axes | None" = None) -> "Axes":
    """Draw how many rows are left after each step, as [(label, n), …] from the first step to the last."""
    ax = _axes(ax, height=0.8 + 0.42 * max(1, len(steps)))
    _style(ax, title="What is left after each step", grid="")
    if not steps:
        return _empty(ax)
    counts = [n for _, n in steps]
    whole = max(*counts, 1)
    places = np.arange(len(steps))
    shade = np.linspace(0.42, 1.0, len(steps))
    ax.barh(places, counts, height=0.66, color=[_mixed(_BLUE, s) for s in shade])
    for i, n in enumerate(counts):
        ax.text(n + whole * 0.012, i, f"{n:,}", **_text(ha="left", va="center", weight="bold"))
        if i:
            share = f"{n / counts[0]:.1%} of all" if counts[0] else ""
            lost = f"  ({n - counts[i - 1]:+,})".replace("-", "−")
            place = _text(_MUTED, _SMALL, ha="left", va="center")
            ax.text(1.015, i, share + lost, transform=ax.get_yaxis_transform(), **place)
    ax.set_yticks(places, [label for label, _ in steps], **_AS_IS)
    ax.tick_params(axis="y", labelsize=_NORMAL, labelcolor=_INK)
    ax.set_xlim(0, 1.2 * whole)
    ax.set_ylim(len(steps) - 0.5, -0.5)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    return ax


def trials(trials: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw every set of examples that an ICL search tried, by round; the area of a dot grows with its validation rows.

    Args:
        trials: Columns round (Int), score (Float64 in 0..1, null = no answer), n_validation (Int) and, optionally,
            chosen (Boolean) for the set that the search decided for, example_ids (a set that goes on is one set),
            estimate, low and high (what the surrogate made of the score, drawn in its place with its 95 % interval), k
            (Int; several get a colour each).
        ax: Where to draw.
    """
    ax = _axes(ax, height=3.6)
    modelled = "estimate" in trials.columns and trials["estimate"].null_count() < len(trials)
    if modelled:
        trials = trials.with_columns(score="estimate")
    scored = trials.drop_nulls(["round", "score"])
    missing = f", {len(trials) - len(scored):,} without score" if len(scored) < len(trials) else ""
    n_rounds = scored["round"].n_unique()
    n_sets = scored["example_ids"].n_unique() if "example_ids" in scored.columns else len(scored)
    _style(ax, title=f"{n_sets:,} sets of examples in {n_rounds} {_plural('round', n_rounds)}{missing}")
    ax.set_xlabel("round")
    ax.set_ylabel("expected quality, 95 % interval" if modelled else "validation score (0 to 1)")
    if len(scored) == 0:
        return _empty(ax)
    rounds, score, n = (scored[c].cast(pl.Float64).to_numpy() for c in ("round", "score", "n_validation"))
    spread = ((np.arange(len(scored)) * 0.618034) % 1 - 0.5) * 0.56  # even, and the same each time
    area = 8 + 72 * n / max(n.max(), 1)
    sizes = scored["k"].unique().sort().to_list() if "k" in scored.columns else []
    colours = [_ARM_COLOURS[sizes.index(k) % len(_ARM_COLOURS)] for k in scored["k"]] if sizes else _BLUE
    if modelled:
        low, high = scored["low"].to_numpy(), scored["high"].to_numpy()
        ax.vlines(rounds + spread, low, high, color=colours, alpha=0.15, lw=0.8)
    ax.scatter(rounds + spread, score, s=area, color=colours, alpha=0.4, lw=0)
    for i, size in enumerate(sizes if len(sizes) > 1 else []):
        colour = _ARM_COLOURS[i % len(_ARM_COLOURS)]
        ax.text(
            0.995,
            0.03 + 0.075 * (len(sizes) - 1 - i),
            f"k={size}",
            transform=ax.transAxes,
            **_text(colour, ha="right", va="bottom", weight="bold"),
        )
    for r in np.unique(rounds):
        mean = score[rounds == r].mean()
        ax.plot([r - 0.34, r + 0.34], [mean, mean], color=_INK, lw=1.6)
        ax.text(r + 0.36, mean, f"{mean:.3f}", **_text(size=_SMALL, ha="left", va="center"), bbox=_halo())
    ax.set_xticks(np.unique(rounds), [f"{r:g}" for r in np.unique(rounds)])
    ax.set_xlim(rounds.min() - 0.55, rounds.max() + 0.75)
    _headroom(ax, np.concatenate([score, low, high]) if modelled else score)
    chosen = scored["chosen"].fill_null(value=False) if "chosen" in scored.columns else pl.Series([], dtype=pl.Boolean)
    for i in chosen.arg_true():
        at = (rounds[i] + spread[i], score[i])
        ax.scatter(*at, s=area[i] + 30, facecolor="none", edgecolor=_ORANGE, lw=2)
        label = f"chosen: {score[i]:.3f} on {n[i]:,.0f} rows"
        right = rounds[i] > rounds.mean()
        above = (rounds.max() + 0.7 if right else rounds.min() - 0.5, ax.get_ylim()[1])
        line = {"arrowstyle": "-", "color": _ORANGE, "lw": 1.0, "shrinkB": 5}
        place = _text(_ORANGE, ha="right" if right else "left", weight="bold")
        ax.annotate(label, at, xytext=above, arrowprops=line, bbox=_halo(), **place)
    _note(ax, "bar: mean of the round")
    return ax


def effects(frame: pl.DataFrame, *, by: str = "effect", n: int = 12, ax: "Axes | None" = None) -> "Axes":
    """Draw what the examples of an ICL search add, or what their place in the prompt does, with 95 % intervals.

    The largest and the smallest.

    Args:
        frame: ``Search.effects``: id, n_sets, and effect, low, high or last_minus_first, last_low, last_high (Float64,
            quality); optionally example (String) as a name to read instead of the id.
        by: ``effect``: gained when it takes the place of an average example. ``last_minus_first``: gained when it
            stands last instead of first.
        n: Most examples to draw, half from either end.
        ax: Where to draw.

    Raises:
        ParameterError: Another ``by``.
    """
    known = {
        "effect": ("low", "high", "Quality gained over an average example"),
        "last_minus_first": ("last_low", "last_high", "Quality gained by standing last, not first"),
    }
    if by not in known:
        raise ParameterError(f"there is no effect {by!r}; {closest(by, known)}.")
    low, high, title = known[by]
    rows = frame.sort([by, "id"], descending=[True, False]) if frame.width else frame
    if rows.height > n:
        rows = pl.concat([rows.head(n - n // 2), rows.tail(n // 2)])
    clear = frame.filter((pl.col(low) > 0) | (pl.col(high) < 0)).height if frame.width else 0
    ax = _axes(ax, height=1.3 + 0.27 * max(1, rows.height))
    _style(ax, title=title, grid="x")
    ax.set_xlabel(f"points (quality × 100), 95 % interval; {clear:,} of {frame.height:,} exclude 0")
    if not rows.height:
        return _empty(ax)
    ax.axvline(0, color=_MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for i, row in enumerate(rows.iter_rows(named=True)):
        mean, ends = 100 * row[by], (100 * row[low], 100 * row[high])
        colour = _BLUE if ends[0] > 0 else _ORANGE if ends[1] < 0 else _GREY
        ax.plot(ends, [i, i], color=colour, lw=2.2, solid_capstyle="round")
        ax.plot([mean], [i], color=colour, marker="o", ms=6)
        label = f"{mean:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]  in {row['n_sets']:,} {_plural('set', row['n_sets'])}"
        place = _text(size=_SMALL, ha="left", va="center")
        ax.text(1.015, i, label.replace("-", "−"), transform=ax.get_yaxis_transform(), **place)
    if frame.height > n:
        ax.axhline(n - n // 2 - 0.5, color=_FAINT, lw=1.4)
    names = [_short(row.get("example") or row["id"], 30) for row in rows.iter_rows(named=True)]
    ax.set_yticks(range(rows.height), names, **_AS_IS)
    ax.tick_params(axis="y", labelsize=_SMALL, labelcolor=_INK)
    ax.set_ylim(rows.height - 0.4, -0.6)
    return ax


def losses(frame: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the training loss (thin) and the validation loss (with dots) of each arm by step.

    Args:
        frame: Columns arm (String), step (Int), train_loss and eval_loss (Float64, nats per token; null where the step
            has none).
        ax: Where to draw.
    """
    ax = _axes(ax, height=3.6)
    _style(ax, title="Loss by training step")
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("loss (nats per token)")
    if len(frame) == 0:
        return _empty(ax)
    ends = []
    for arm, colour in zip(_arms(frame), _cycle(frame), strict=True):
        rows = frame.filter(pl.col("arm") == arm).sort("step")
        train, evaluated = (rows.drop_nulls(c).select("step", c).to_numpy() for c in ("train_loss", "eval_loss"))
        ax.plot(*train.T, color=colour, lw=1.0, alpha=0.55)
        ax.plot(*evaluated.T, color=colour, lw=1.8, marker="o", ms=4)
        last = next((curve for curve in (evaluated, train) if len(curve)), None)
        if last is not None:
            ends.append((last[-1][1], f"{arm} {last[-1][1]:.3f}", colour))
    _end_labels(ax, ends)
    _note(ax, "thin: training, dots: validation")
    return ax


def arms(frame: pl.DataFrame, *, baseline: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw the mean of each arm with its interval, in the order given.

    Args:
        frame: Columns arm (String), mean, low, high (Float64 in 0..1) and n (Int, rows).
        baseline: The arm whose mean is drawn as a line through all.
        ax: Where to draw.

    Raises:
        ParameterError: The frame has no arm of that name.
    """
    ax = _axes(ax, height=1.1 + 0.42 * max(1, len(frame)))
    _style(ax, title="Quality by arm", grid="x")
    ax.set_xlabel("mean quality (0 to 1), 95 % interval")
    if len(frame) == 0:
        return _empty(ax)
    if baseline is not None:
        if baseline not in frame["arm"]:
            raise ParameterError(f"there is no arm {baseline!r}; {closest(baseline, _arms(frame))}.")
        ax.axvline(frame.filter(pl.col("arm") == baseline)["mean"][0], color=_MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for i, row in enumerate(frame.iter_rows(named=True)):
        mean, low, high = (math.nan if row[c] is None else row[c] for c in ("mean", "low", "high"))
        colour = _MUTED if row["arm"] == baseline else _BLUE
        ax.plot([low, high], [i, i], color=colour, lw=2.4, solid_capstyle="round")
        ax.plot([mean], [i], color=colour, marker="o", ms=7)
        label = "not scored" if math.isnan(mean) else f"{mean:.3f} [{low:.3f}, {high:.3f}]  n={row['n']:,}"
        ax.text(1.015, i, label, transform=ax.get_yaxis_transform(), **_text(size=_SMALL, ha="left", va="center"))
    ax.set_yticks(range(len(frame)), [str(arm) for arm in frame["arm"]], **_AS_IS)
    ax.tick_params(axis="y", labelsize=_NORMAL, labelcolor=_INK)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.margins(x=0.08)
    return ax


def bias(frame: pl.DataFrame, column: str, *, kept: str = "kept", ax: "Axes | None" = None) -> "Axes":
    """Draw what a cut did to the mix: the distribution of `column` among all rows and among those kept.

    Args:
        frame: Columns `kept` (Boolean) and `column`: a number (two distributions), a category (shares before and
            after; the eleven that changed most if there are many), or free text (its length in characters): more than
            40 different values that are long (60 characters in the median) or mostly occur once.
        column: What to look at.
        kept: The column that says which rows were kept.
        ax: Where to draw.
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
        return _bias_of_numbers(values.cast(pl.Float64), mask, f"{_words(column)}{unit and f' ({unit})'}", ax)
    return _bias_of_categories(values.cast(pl.String).fill_null("(none)"), mask, _words(column), ax)


def tokens(frame: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the distributions of prompt and completion length.

    Args:
        frame: Columns prompt_tokens and completion_tokens (Int, null = no answer).
        ax: Where to draw.
    """
    ax = _axes(ax, height=3.2)
    series = [
        (name, *_values(frame, f"{name}_tokens"), colour) for name, colour in (("prompt", _GREY), ("completion", _BLUE))
    ]
    n = max(len(values) for _, values, _, _ in series)
    _style(ax, title=f"Tokens per request, {n:,} {_plural('request', n)}")
    ax.set_xlabel("tokens")
    ax.set_ylabel("requests")
    ax.yaxis.set_major_formatter(_thousands)
    if n == 0:
        return _empty(ax)
    edges = _edges(np.concatenate([values for _, values, _, _ in series]))
    peaks = []
    for _, values, _, colour in series:
        counts = np.histogram(values, edges)[0]
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, alpha=0.75, edgecolor="white", lw=0.4)
        peaks.append(counts.max())
    ax.set_ylim(0, max(peaks) * 1.3)
    for line, (name, values, _, colour) in enumerate(series):
        dark = _MUTED if colour == _GREY else colour
        if len(values):
            label = f"{name}: median {np.median(values):,.0f}, longest {values.max():,.0f}, {values.sum():,.0f} in all"
            ax.text(0.99, 0.985 - 0.075 * line, label, transform=ax.transAxes, **_text(dark, ha="right", weight="bold"))
    return ax


# ---- parts ------------------------------------------------------------------------------------------------------


def _bias_of_numbers(values: pl.Series, mask: pl.Series, label: str, ax: "Axes | None") -> "Axes":
    ax = _axes(ax, height=3.2)
    everything, kept = (part.drop_nulls().drop_nans().to_numpy() for part in (values, values.filter(mask)))
    _style(ax, title=f"{_capital(label)}: all {len(everything):,} rows and the {len(kept):,} kept")
    ax.set_xlabel(label, **_AS_IS)
    ax.set_ylabel("share of rows per bin")
    if len(everything) == 0:
        return _empty(ax)
    edges = _edges(everything)
    shares = [np.histogram(part, edges)[0] / max(len(part), 1) for part in (everything, kept)]
    top = max(share.max() for share in shares)
    ax.stairs(shares[0], edges, fill=True, color=_GREY, alpha=0.7)
    ax.stairs(shares[1], edges, color=_BLUE, lw=1.8)
    ax.set_ylim(0, top * 1.3)
    ax.yaxis.set_major_formatter(_percent)
    for line, (name, part, colour) in enumerate((("all", everything, _MUTED), ("kept", kept, _BLUE))):
        if len(part):
            middle = float(np.median(part))
            ax.plot([middle] * 2, [0, top * 1.08], color=colour, lw=1.2, ls=(0, (4, 3)))
            place = _text(colour, ha="right", weight="bold")
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
    ax = _axes(ax, height=1.2 + 0.36 * max(1, len(table)))
    _style(ax, title=f"{_capital(label)}: all {n:,} rows and the {n_kept:,} kept", grid="x")
    ax.set_xlabel("share of rows (hollow: all, filled: kept)")
    if n == 0:
        return _empty(ax)
    for i, (_, count, count_kept) in enumerate(table.iter_rows()):
        before, after = count / n, count_kept / max(n_kept, 1)
        colour = _BLUE if after >= before else _ORANGE
        ax.plot([before, after], [i, i], color=colour, lw=2.2, alpha=0.55)
        ax.scatter([before], [i], s=42, facecolor="white", edgecolor=_MUTED, lw=1.5, zorder=3)
        ax.scatter([after], [i], s=46, color=colour, zorder=4)
        text = f"{before:.1%} → {after:.1%}  ({100 * (after - before):+.1f})".replace("-", "−")
        ax.text(1.015, i, text, transform=ax.get_yaxis_transform(), **_text(size=_SMALL, ha="left", va="center"))
    ax.set_yticks(range(len(table)), [_short(value) for value in table["value"]], **_AS_IS)
    ax.tick_params(axis="y", labelsize=_NORMAL, labelcolor=_INK)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.margins(x=0.08)
    ax.set_xlim(left=0)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(_percent)
    return ax


def _axes(ax: "Axes | None", *, height: float) -> "Axes":
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(7.5, height), layout="constrained")
    return ax


def _style(ax: "Axes", *, title: str, grid: Literal["x", "y", ""] = "y") -> None:
    """Apply the house style: no frame, a faint grid on the axis that is read, the title flush left."""
    ax.set_title(title, loc="left", fontsize=_LARGE, color=_INK, fontweight="bold", pad=8, **_AS_IS)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(_GREY)
    ax.tick_params(length=0, labelsize=_SMALL, labelcolor=_MUTED)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=_MUTED, fontsize=_NORMAL)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=_FAINT, lw=0.8)


def _empty(ax: "Axes") -> "Axes":
    ax.text(0.5, 0.5, "no rows", transform=ax.transAxes, **_text(_MUTED, va="center"))
    ax.set_yticks([])
    ax.set_xticks([])
    return ax


def _text(
    colour: str = _INK, size: float = _NORMAL, *, ha: str = "center", va: str = "top", weight: str = "normal"
) -> Any:
    return {"color": colour, "fontsize": size, "ha": ha, "va": va, "fontweight": weight, **_AS_IS}


def _halo() -> dict[str, Any]:
    return {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def _note(ax: "Axes", text: str) -> None:
    ax.set_title(text, loc="right", fontsize=_SMALL, color=_MUTED, pad=8)


def _end_labels(ax: "Axes", ends: list[tuple[float, str, str]]) -> None:
    """Write labels right of the axes at their heights, moved apart where they would touch."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.06
    places: list[float] = []
    for y, _, _ in sorted(ends):
        places.append(max(y, places[-1] + gap) if places else y)
    excess = max(0.0, places[-1] - high) if places else 0.0
    for place, (_, label, colour) in zip(places, sorted(ends), strict=True):
        y = place - excess
        ax.text(
            1.015, y, label, transform=ax.get_yaxis_transform(), **_text(colour, ha="left", va="center", weight="bold")
        )


def _headroom(ax: "Axes", values: NDArray[np.float64]) -> None:
    span = max(float(np.ptp(values)), 0.02)
    ax.set_ylim(values.min() - 0.08 * span, values.max() + 0.25 * span)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about 40 bins of a round width; whole numbers get bins of whole width."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / 40 or 1.0
    if np.array_equal(values, np.round(values)):
        width = max(1.0, math.ceil(width))
        low -= 0.5
    return np.asarray(low + width * np.arange(math.floor((high - low) / width + 1e-9) + 2))


def _values(frame: pl.DataFrame, column: str) -> tuple[NDArray[np.float64], int]:
    if column not in frame.columns:
        raise ParameterError(f"the frame has no column {column!r}; {closest(column, frame.columns)}.")
    values = frame[column].cast(pl.Float64).fill_nan(None)
    return values.drop_nulls().to_numpy(), values.null_count()


def _arms(frame: pl.DataFrame) -> list[str]:
    return frame["arm"].unique(maintain_order=True).to_list()


def _cycle(frame: pl.DataFrame) -> list[str]:
    return [_ARM_COLOURS[i % len(_ARM_COLOURS)] for i in range(len(_arms(frame)))]


def _mixed(colour: str, share: float) -> tuple[float, ...]:
    """Return the colour mixed with white."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(1 - share * (1 - channel) for channel in channels)


def _thousands(value: float, _: object = None) -> str:
    return f"{value:,.10g}"


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.3g}%"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else noun + "s"


def _words(column: str) -> str:
    return column.replace("_", " ")


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]


def _short(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
