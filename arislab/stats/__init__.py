"""Intervals and tests: bootstrap of means and paired differences, Holm, AUC, precision at the top.

One resampling unit everywhere: a row (of `compare`: a candidate). Rows of one group of near-duplicates are not
independent; drop near-duplicates first. Null and NaN are never 0: they are left out and counted. Every function is
deterministic in its arguments and `seed`.

What this room does not know: where scores come from, and whether the rows were looked at before. The maximum of a
search is biased upward whatever its interval says; score the winner on rows that the search never saw.
"""

from arislab.stats.bootstrap import Difference, Interval, mean_interval, paired_difference
from arislab.stats.contrasts import compare, holm, minimal_detectable_effect, verdicts
from arislab.stats.ranking import auc, precision_at

__all__ = [
    "Difference",
    "Interval",
    "auc",
    "compare",
    "holm",
    "mean_interval",
    "minimal_detectable_effect",
    "paired_difference",
    "precision_at",
    "verdicts",
]
