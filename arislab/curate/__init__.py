"""From scored answers to the curated set: what is kept, what people's verdicts change, and what it looks like.

In the order of the phase: ``verdicts`` (what people said, and near-duplicates), ``labels`` (what it says of other
rows), ``learned`` (quality from it), ``promised``, ``selection`` and ``diversity`` (the cut), ``worth`` (what people
would say of it), ``curated`` (kept rows to examples); ``audits`` says what else explains the cut. Where a cut is
decided: ``explore``, ``chosen`` (rows, as a text says which), ``binned`` and ``brushing`` (what the browser is given).
For those that use them: ``policy`` (which may be used), ``subsets`` (which are taken), ``drawing`` (what is reviewed
next).

It knows no model, and no server but the one that may give vectors of the texts.
"""

from arislab.curate.audits import audit, stability
from arislab.curate.chosen import described, held, within
from arislab.curate.curated import CONTROLS, control, control_in_words, draw, examples, plain, rounds
from arislab.curate.diversity import cost, cost_in_numbers, cost_in_words, embedder, keep_diverse
from arislab.curate.drawing import drawable, newest, showing
from arislab.curate.explore import Explorer, earlier, made_with
from arislab.curate.labels import Labels, labelled
from arislab.curate.learned import Learned, learn
from arislab.curate.policy import approved, data_version, usable, versions, withdrawn
from arislab.curate.promised import keep, keep_promised
from arislab.curate.selection import Selection, changed, keep_above, keep_top, near_duplicates, states, with_approved
from arislab.curate.subsets import first_of_groups, hold_out, one_per_group, pool, serves, spread, to_look_at
from arislab.curate.worth import curve, estimates, worth_in_words
from arislab.review.certificates import in_force

__all__ = [
    "CONTROLS",
    "Explorer",
    "Labels",
    "Learned",
    "Selection",
    "approved",
    "audit",
    "changed",
    "control",
    "control_in_words",
    "cost",
    "cost_in_numbers",
    "cost_in_words",
    "curve",
    "data_version",
    "described",
    "draw",
    "drawable",
    "earlier",
    "embedder",
    "estimates",
    "examples",
    "first_of_groups",
    "held",
    "hold_out",
    "in_force",
    "keep",
    "keep_above",
    "keep_diverse",
    "keep_promised",
    "keep_top",
    "labelled",
    "learn",
    "made_with",
    "near_duplicates",
    "newest",
    "one_per_group",
    "plain",
    "pool",
    "rounds",
    "serves",
    "showing",
    "spread",
    "stability",
    "states",
    "to_look_at",
    "usable",
    "versions",
    "with_approved",
    "withdrawn",
    "within",
    "worth_in_words",
]
