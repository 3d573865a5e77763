"""One function per figure; each draws on `ax` (a new figure if None) and returns the Axes.

Figures are 7.5 inches wide, the width of a notebook cell. Lines and bars carry their names and numbers, so there are no
legends to decode; counts of rows stand in the titles; rows without a value are counted there, not drawn as 0. Names of
arms, columns and categories are shown as they are: two dollar signs in one are no formula.
"""

from arislab.plots.answers import bias, funnel, precision_curve, quality_distribution, reliability, tokens, two_orders
from arislab.plots.comparisons import arms, losses
from arislab.plots.searches import effects, trials

__all__ = [
    "arms",
    "bias",
    "effects",
    "funnel",
    "losses",
    "precision_curve",
    "quality_distribution",
    "reliability",
    "tokens",
    "trials",
    "two_orders",
]
