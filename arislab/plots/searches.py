"""A search for examples: the sets that it tried, and what each example adds."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from arislab.errors import ParameterError, closest
from arislab.plots import style
from arislab.system.kinds import takes_any_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@takes_any_frame
def trials(trials: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw every set of examples that an ICL search tried, by round; the area of a dot grows with its validation rows.

    Args:
        trials: Columns round (Int), score (Float64 in 0..1, null = no answer), n_validation (Int) and, optionally,
            chosen (Boolean) for the set that the search decided for, example_ids (a set that goes on is one set),
            estimate, low and high (what the surrogate made of the score, drawn in its place with its 95 % interval), k
            (Int; several get a colour each).
        ax: Where to draw.
    """
    ax = style.axes(ax, height=3.6)
    modelled = "estimate" in trials.columns and trials["estimate"].null_count() < len(trials)
    if modelled:
        trials = trials.with_columns(score="estimate")
    scored = trials.drop_nulls(["round", "score"])
    missing = f", {len(trials) - len(scored):,} without score" if len(scored) < len(trials) else ""
    n_rounds = scored["round"].n_unique()
    n_sets = scored["example_ids"].n_unique() if "example_ids" in scored.columns else len(scored)
    style.apply(ax, title=f"{n_sets:,} sets of examples in {n_rounds} {style.plural('round', n_rounds)}{missing}")
    ax.set_xlabel("round")
    ax.set_ylabel("expected quality, 95 % interval" if modelled else "validation score (0 to 1)")
    if len(scored) == 0:
        return style.empty(ax)
    rounds, score, n = (scored[c].cast(pl.Float64).to_numpy() for c in ("round", "score", "n_validation"))
    spread = ((np.arange(len(scored)) * 0.618034) % 1 - 0.5) * 0.56  # golden ratio: even, and the same each time
    area = 8 + 72 * n / max(n.max(), 1)
    sizes = scored["k"].unique().sort().to_list() if "k" in scored.columns else []
    colours = [style.ARM_COLOURS[sizes.index(k) % len(style.ARM_COLOURS)] for k in scored["k"]] if sizes else style.BLUE
    if modelled:
        low, high = scored["low"].to_numpy(), scored["high"].to_numpy()
        ax.vlines(rounds + spread, low, high, color=colours, alpha=0.15, lw=0.8)
    ax.scatter(rounds + spread, score, s=area, color=colours, alpha=0.4, lw=0)
    for i, size in enumerate(sizes if len(sizes) > 1 else []):
        colour = style.ARM_COLOURS[i % len(style.ARM_COLOURS)]
        ax.text(
            0.995,
            0.03 + 0.075 * (len(sizes) - 1 - i),
            f"k={size}",
            transform=ax.transAxes,
            **style.text(colour, ha="right", va="bottom", weight="bold"),
        )
    for r in np.unique(rounds):
        mean = score[rounds == r].mean()
        ax.plot([r - 0.34, r + 0.34], [mean, mean], color=style.INK, lw=1.6)
        ax.text(
            r + 0.36, mean, f"{mean:.3f}", **style.text(size=style.SMALL, ha="left", va="center"), bbox=style.halo()
        )
    ax.set_xticks(np.unique(rounds), [f"{r:g}" for r in np.unique(rounds)])
    ax.set_xlim(rounds.min() - 0.55, rounds.max() + 0.75)
    style.headroom(ax, np.concatenate([score, low, high]) if modelled else score)
    chosen = scored["chosen"].fill_null(value=False) if "chosen" in scored.columns else pl.Series([], dtype=pl.Boolean)
    for i in chosen.arg_true():
        at, label = (rounds[i] + spread[i], score[i]), f"chosen: {score[i]:.3f} on {n[i]:,.0f} rows"
        ax.scatter(*at, s=area[i] + 30, facecolor="none", edgecolor=style.ORANGE, lw=2)
        _point_at(ax, at, label, left=rounds.min() - 0.5, right=rounds.max() + 0.7, is_late=rounds[i] > rounds.mean())
    style.note(ax, "bar: mean of the round")
    return ax


def _point_at(ax: "Axes", at: tuple[float, float], label: str, *, left: float, right: float, is_late: bool) -> None:
    """Write a label in the free corner above a dot, with a line to it."""
    above = (right if is_late else left, ax.get_ylim()[1])
    line = {"arrowstyle": "-", "color": style.ORANGE, "lw": 1.0, "shrinkB": 5}
    place = style.text(style.ORANGE, ha="right" if is_late else "left", weight="bold")
    ax.annotate(label, at, xytext=above, arrowprops=line, bbox=style.halo(), **place)


@takes_any_frame
def effects(frame: pl.DataFrame, *, by: str = "effect", n: int = 12, ax: "Axes | None" = None) -> "Axes":
    """Draw what the examples of an ICL search add, or what their place in the prompt does, with 95 % intervals.

    Of many, the largest and the smallest are drawn.

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
    ax = style.axes(ax, height=1.3 + 0.27 * max(1, rows.height))
    style.apply(ax, title=title, grid="x")
    ax.set_xlabel(f"points (quality × 100), 95 % interval; {clear:,} of {frame.height:,} exclude 0")
    if not rows.height:
        return style.empty(ax)
    ax.axvline(0, color=style.MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for i, row in enumerate(rows.iter_rows(named=True)):
        mean, ends = 100 * row[by], (100 * row[low], 100 * row[high])
        colour = style.BLUE if ends[0] > 0 else style.ORANGE if ends[1] < 0 else style.GREY
        ax.plot(ends, [i, i], color=colour, lw=2.2, solid_capstyle="round")
        ax.plot([mean], [i], color=colour, marker="o", ms=6)
        label = (
            f"{mean:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]  in {row['n_sets']:,} {style.plural('set', row['n_sets'])}"
        )
        place = style.text(size=style.SMALL, ha="left", va="center")
        ax.text(1.015, i, label.replace("-", "−"), transform=ax.get_yaxis_transform(), **place)
    if frame.height > n:
        ax.axhline(n - n // 2 - 0.5, color=style.FAINT, lw=1.4)
    names = style.apart([row.get("example") or row["id"] for row in rows.iter_rows(named=True)], 30)
    ax.set_yticks(range(rows.height), names, **style.AS_IS)
    ax.tick_params(axis="y", labelsize=style.SMALL, labelcolor=style.INK)
    ax.set_ylim(rows.height - 0.4, -0.6)
    return ax
