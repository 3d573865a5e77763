"""Texts that say the same: one normal form, and from it near-duplicates, groups for the splits, and leaks.

Two texts resemble each other when they have the same numbers and signs, each as often, and the Jaccard index of their
sets of 3-word shingles reaches the threshold. So 7 * 3 never resembles -7 * 3, nor $5 €5, nor B12 B6, however long the
text around it; a text with another date or telephone number is another text. Scripts written without spaces are
compared by character.

What most questions say (a rubric, a form) says nothing about what is asked: where questions are compared, shingles that
stand in more than half of at least `shingles.FEW` distinct texts do not count.

What this room does not know: meaning. A paraphrase or a translation is no near-duplicate here.
"""

from arislab.duplicates.clusters import groups, stars
from arislab.duplicates.columns import normal_forms
from arislab.duplicates.leakage import asked, leaks, split
from arislab.duplicates.shingles import signs
from arislab.normal import normalise

__all__ = ["asked", "groups", "leaks", "normal_forms", "normalise", "signs", "split", "stars"]
