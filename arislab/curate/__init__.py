"""From scored answers to the curated set: what is kept, what people's verdicts change, and what it looks like.

In the order of the phase: ``verdicts`` (what people said, and near-duplicates), ``selection`` (the cut), ``curated``
(kept rows to examples); ``audits`` says what else explains the cut. For those that use them: ``policy`` (which may be
used), ``subsets`` (which are taken).

It knows no model and no server.
"""

from arislab.curate.audits import audit
from arislab.curate.curated import CONTROLS, control, control_in_words, draw, examples, plain, rounds
from arislab.curate.explore import Explorer
from arislab.curate.policy import approved, data_version, usable, versions, withdrawn
from arislab.curate.selection import Selection, keep, keep_above, keep_top, near_duplicates, states
from arislab.curate.subsets import first_of_groups, hold_out, one_per_group, pool, serves, spread, to_look_at

__all__ = [
    "CONTROLS",
    "Explorer",
    "Selection",
    "approved",
    "audit",
    "control",
    "control_in_words",
    "data_version",
    "draw",
    "examples",
    "first_of_groups",
    "hold_out",
    "keep",
    "keep_above",
    "keep_top",
    "near_duplicates",
    "one_per_group",
    "plain",
    "pool",
    "rounds",
    "serves",
    "spread",
    "states",
    "to_look_at",
    "usable",
    "versions",
    "withdrawn",
]
