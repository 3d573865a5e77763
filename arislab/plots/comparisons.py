"""Arms beside each other: how they learned, and what their answers are worth."""

import math
from typing import TYPE_CHECKING

import polars as pl

from arislab.errors import ParameterError, closest
from arislab.plots import style
from arislab.system.kinds import takes_any_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@takes_any_frame
def losses(frame: pl.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the training loss (thin) and the validation loss (with dots) of each arm by step, an arm in one colour.

    Args:
        frame: Columns arm (String), step (Int), train_loss and eval_loss (Float64, nats per token; null where the step
            has none).
        ax: Where to draw.
    """
    from matplotlib.ticker import MaxNLocator

    ax = style.axes(ax, height=3.6)
    style.apply(ax, title="Loss by training step")
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("loss (nats per token)")
    if len(frame) == 0:
        return style.empty(ax)
    ends = []
    for arm, colour in zip(style.arms(frame), style.cycle(frame), strict=True):
        rows = frame.filter(pl.col("arm") == arm).sort("step")
        train, evaluated = (rows.drop_nulls(c).select("step", c).to_numpy() for c in ("train_loss", "eval_loss"))
        ax.plot(*train.T, color=colour, lw=1.0, alpha=0.55)
        ax.plot(*evaluated.T, color=colour, lw=1.8, marker="o", ms=4)
        last = next((curve for curve in (evaluated, train) if len(curve)), None)
        if last is not None:
            ends.append((last[-1][1], f"{arm} {last[-1][1]:.3f}", colour))
    style.end_labels(ax, ends)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.note(ax, "an arm a colour; thin: training, dots: validation")
    return ax


@takes_any_frame
def arms(
    frame: pl.DataFrame, *, baseline: str | None = None, score: str = "quality", ax: "Axes | None" = None
) -> "Axes":
    """Draw the mean of each arm with its interval, in the order given.

    Args:
        frame: Columns arm (String), mean, low, high (Float64 in 0..1), n (Int, rows) and, if rows are of fewer groups,
            n_groups (Int).
        baseline: The arm whose mean is drawn as a line through all.
        score: Name of what the means are of.
        ax: Where to draw.

    Raises:
        ParameterError: The frame has no arm of that name.
    """
    ax = style.axes(ax, height=1.1 + 0.42 * max(1, len(frame)))
    style.apply(ax, title=f"{score[:1].upper()}{score[1:]} by arm", grid="x")
    ax.set_xlabel(f"mean {score} (0 to 1), 95 % interval", **style.AS_IS)
    if len(frame) == 0:
        return style.empty(ax)
    if baseline is not None:
        if baseline not in frame["arm"]:
            raise ParameterError(f"there is no arm {baseline!r}; {closest(baseline, style.arms(frame))}.")
        ax.axvline(
            frame.filter(pl.col("arm") == baseline)["mean"][0], color=style.MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1
        )
    for i, row in enumerate(frame.iter_rows(named=True)):
        mean, low, high = (math.nan if row[c] is None else row[c] for c in ("mean", "low", "high"))
        colour = style.MUTED if row["arm"] == baseline else style.BLUE
        ax.plot([low, high], [i, i], color=colour, lw=2.4, solid_capstyle="round")
        ax.plot([mean], [i], color=colour, marker="o", ms=7)
        groups = f", {row['n_groups']:,} groups" if row.get("n_groups", row["n"]) < row["n"] else ""
        label = "not scored" if math.isnan(mean) else f"{mean:.3f} [{low:.3f}, {high:.3f}]  n={row['n']:,}{groups}"
        ax.text(
            1.015, i, label, transform=ax.get_yaxis_transform(), **style.text(size=style.SMALL, ha="left", va="center")
        )
    ax.set_yticks(range(len(frame)), [str(arm) for arm in frame["arm"]], **style.AS_IS)
    ax.tick_params(axis="y", labelsize=style.NORMAL, labelcolor=style.INK)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.margins(x=0.08)
    return ax
