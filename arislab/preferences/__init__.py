"""Preference pairs: of two answers to one question, the one that is better, and who says so.

``mining`` makes them of what people decided, of pairs that people compared and of what a judge said; ``patterns`` says
which edits repeat; ``files`` writes pairs for trainers elsewhere.

It does not know how decisions are made or folded, and no test answer: pairs are of candidates outside the test split.
"""

from arislab.preferences.files import provenance, write_jsonl
from arislab.preferences.mining import PEOPLE, SOURCES, SPLITS, by_judge, mined, rated, withdrawn
from arislab.preferences.patterns import edit_patterns, in_words

__all__ = [
    "PEOPLE",
    "SOURCES",
    "SPLITS",
    "by_judge",
    "edit_patterns",
    "in_words",
    "mined",
    "provenance",
    "rated",
    "withdrawn",
    "write_jsonl",
]
