"""The search for the examples of a prompt: in a few large batches, within a budget, with every answer kept.

``loop`` is the search: of each number of examples a ``rounds``, which asks ``proposals`` for sets and ``surrogate`` for
what they are worth. ``asker`` and ``answers`` ask, ``references`` and ``report`` say whether the gain is real,
``prompt`` shows the examples, ``budget`` says what it costs before.

It does not know what an answer is worth.
"""

from arislab.icl.answers import answered, ask, holdout_uses, requested
from arislab.icl.asker import Asker
from arislab.icl.budget import SEARCHED, Cost, cost, paid, plan
from arislab.icl.loop import Ask, Search, halves, search, sizes
from arislab.icl.prompt import Messages, texts, turns, with_examples
from arislab.icl.references import n_report, nearest, reference_sets
from arislab.icl.report import Optimism, optimism, set_row
from arislab.icl.sets import set_id
from arislab.icl.shown import Shown, of_file
from arislab.vectors import embedder

cells = reference_sets  # its name in notebooks of earlier versions

__all__ = [
    "SEARCHED",
    "Ask",
    "Asker",
    "Cost",
    "Messages",
    "Optimism",
    "Search",
    "Shown",
    "answered",
    "ask",
    "cost",
    "embedder",
    "halves",
    "holdout_uses",
    "n_report",
    "nearest",
    "of_file",
    "optimism",
    "paid",
    "plan",
    "reference_sets",
    "requested",
    "search",
    "set_id",
    "set_row",
    "sizes",
    "texts",
    "turns",
    "with_examples",
]
