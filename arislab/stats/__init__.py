"""Intervals and tests: bootstrap of means and paired differences, Holm, AUC, shares by labels, agreement of raters.

The resampling unit is a row (of `compare`: a candidate), or its group where groups are named: rows of one group, such
as near-duplicates or sentences of one text, are not independent. Null and NaN are never 0: they are left out and
counted. Every function is deterministic in its arguments and `seed`.

What this room does not know: where scores come from, and whether the rows were looked at before. The maximum of a
search is biased upward whatever its interval says; score the winner on rows that the search never saw.
"""

from arislab.stats.bootstrap import Difference, Interval, mean_interval, paired_difference
from arislab.stats.contrasts import compare, group_of, holm, minimal_detectable_effect, verdicts
from arislab.stats.ranking import auc, aucs, kendall_tau, precision_at
from arislab.stats.sampled import sampled_auc, sampled_auc_gain
from arislab.stats.shares import Share, lower_bound, most_in_population, n_labels_for, share

__all__ = [
    "Difference",
    "Interval",
    "Share",
    "auc",
    "aucs",
    "compare",
    "group_of",
    "holm",
    "kendall_tau",
    "lower_bound",
    "mean_interval",
    "minimal_detectable_effect",
    "most_in_population",
    "n_labels_for",
    "paired_difference",
    "precision_at",
    "sampled_auc",
    "sampled_auc_gain",
    "share",
    "verdicts",
]
