"""How figures look: colours, sizes, axes without a frame, and the texts on them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.errors import ParameterError, closest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, INK, MUTED, FAINT = "#ffffff", "#1f2933", "#6b7785", "#dfe4ea"
BLUE, ORANGE, GREY = "#1f6fb2", "#d5670f", "#a9b4c0"
ARM_COLOURS = ("#1f6fb2", "#d5670f", "#2e8b6a", "#8a5aa8", "#b8860b", "#4f5b66")  # apart for colour-blind readers too
SMALL, NORMAL, LARGE = 8.5, 9.5, 11.5  # points
AS_IS: Any = {"parse_math": False}
"""Of every text that may hold a user's name: matplotlib reads what stands between two dollar signs as TeX, and raises
when it is none."""


def axes(ax: "Axes | None", *, height: float) -> "Axes":
    """Return where to draw: what was given, or the axes of a new figure as wide as a cell (7.5 inches)."""
    if ax is None:
        from matplotlib import pyplot

        figure, ax = pyplot.subplots(figsize=(7.5, height), layout="constrained", facecolor=PAPER)
        if pyplot.get_backend().endswith("inline"):  # it draws what it shows: what is drawn before is drawn twice
            pyplot.uninstall_repl_displayhook()
        # the inks are made for it: a notebook may be dark, and a user's own settings too
        figure.patch.set_alpha(1)
        ax.set_facecolor(PAPER)
    return ax


def apply(ax: "Axes", *, title: str, grid: Literal["x", "y", ""] = "y") -> None:
    """Apply the house style: no frame, a faint grid on the axis that is read, the title flush left."""
    ax.set_title(title, loc="left", fontsize=LARGE, color=INK, fontweight="bold", pad=8, **AS_IS)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GREY)
    ax.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=MUTED, fontsize=NORMAL)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=FAINT, lw=0.8)


def empty(ax: "Axes") -> "Axes":
    """Say that there are no rows, in the place of a picture."""
    ax.text(0.5, 0.5, "no rows", transform=ax.transAxes, **text(MUTED, va="center"))
    ax.set_yticks([])
    ax.set_xticks([])
    return ax


def text(
    colour: str = INK, size: float = NORMAL, *, ha: str = "center", va: str = "top", weight: str = "normal"
) -> Any:
    """Return the keywords of a text on a figure."""
    return {"color": colour, "fontsize": size, "ha": ha, "va": va, "fontweight": weight, **AS_IS}


def halo() -> dict[str, Any]:
    """Return the box that keeps a text readable over lines."""
    return {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def note(ax: "Axes", text: str) -> None:
    """Say how to read the figure, right of its title."""
    ax.set_title(text, loc="right", fontsize=SMALL, color=MUTED, pad=8)


def end_labels(ax: "Axes", ends: list[tuple[float, str, str]]) -> None:
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
            1.015, y, label, transform=ax.get_yaxis_transform(), **text(colour, ha="left", va="center", weight="bold")
        )


def headroom(ax: "Axes", values: NDArray[np.float64]) -> None:
    """Leave room for labels above what is drawn."""
    span = max(float(np.ptp(values)), 0.02)
    ax.set_ylim(values.min() - 0.08 * span, values.max() + 0.25 * span)


def edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about 40 bins of a round width; whole numbers get bins of whole width."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / 40 or 1.0
    if np.array_equal(values, np.round(values)):
        width = max(1.0, math.ceil(width))
        low -= 0.5
    return np.asarray(low + width * np.arange(math.floor((high - low) / width + 1e-9) + 2))


def numbers(frame: pl.DataFrame, column: str) -> tuple[NDArray[np.float64], int]:
    """Return the values of a column, and how many rows have none."""
    if column not in frame.columns:
        raise ParameterError(f"the frame has no column {column!r}; {closest(column, frame.columns)}.")
    values = frame[column].cast(pl.Float64).fill_nan(None)
    return values.drop_nulls().to_numpy(), values.null_count()


def arms(frame: pl.DataFrame) -> list[str]:
    """Return the arms in order of appearance."""
    return frame["arm"].unique(maintain_order=True).to_list()


def cycle(frame: pl.DataFrame) -> list[str]:
    """Return a colour for each arm."""
    return [ARM_COLOURS[i % len(ARM_COLOURS)] for i in range(len(arms(frame)))]


def mixed(colour: str, share: float) -> tuple[float, ...]:
    """Return the colour mixed with white."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(1 - share * (1 - channel) for channel in channels)


def thousands(value: float, _: object = None) -> str:
    """Write a number on an axis with separators."""
    return f"{value:,.10g}"


def percent(value: float, _: object = None) -> str:
    """Write a share on an axis."""
    return f"{100 * value:.3g}%"


def plural(noun: str, n: int) -> str:
    """Return the noun for ``n`` of it."""
    return noun if n == 1 else noun + "s"


def words(column: str) -> str:
    """Return the name of a column as words."""
    return column.replace("_", " ")


def capital(label: str) -> str:
    """Return a label with its first letter large, and no other changed."""
    return label[:1].upper() + label[1:]


def in_short(text: str, limit: int = 34) -> str:
    """Return a name cut to what stands beside an axis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def apart(texts: Sequence[str], limit: int = 34) -> list[str]:
    """Return names for texts that stand beside an axis, and differ wherever the texts do.

    What all begin with is left out; of those that are alike as far as there is room, the name goes on where they part.

    Example:
        >>> apart(["Title: Nurse, 4 years, Triage", "Title: Nurse, 4 years, Surgery", "Title: Baker, 2 years"], 16)
        ['Nurse… Triage', 'Nurse… Surgery', 'Baker, 2 years']
    """
    shared = _begun_alike(set(texts)) if len(set(texts)) > 1 else 0
    rests = [text[shared:] for text in texts]
    names = [in_short(rest, limit) for rest in rests]
    for i, name in enumerate(names):
        alike = {rest for rest in rests if in_short(rest, limit) == name}
        if len(alike) > 1:
            start = max(_begun_alike({rests[i], other}) for other in alike - {rests[i]})
            names[i] = in_short(f"{rests[i][: limit // 3].rstrip()}… {rests[i][start:]}", limit)
    return names


def _begun_alike(texts: set[str]) -> int:
    """Characters with which all texts begin, in whole words."""
    first, last = min(texts), max(texts)  # all others begin as these two do
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first.rfind(" ", 0, n) + 1
