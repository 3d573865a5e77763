"""How alike texts are by their words, for which no model is needed.

Source:
    Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond.
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75  # the usual ones; nothing is tuned on anybody's rows


class Index:
    """Documents, ready to be compared with questions.

    Args:
        documents: Texts; null has no word.
    """

    def __init__(self, documents: Iterable[str | None]) -> None:
        counted = array("d")  # words of each document
        holders: dict[str, tuple[array[int], array[float]]] = {}  # which hold a word, and how often
        for i, text in enumerate(documents):
            words = Counter(_WORD.findall((text or "").lower()))
            counted.append(words.total())
            for word, n in words.items():
                places, times = holders.setdefault(word, (array("q"), array("d")))
                places.append(i)
                times.append(n)
        lengths = np.array(counted, dtype=np.float64)
        norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if len(lengths) else 0.0, 1e-9))
        self.n = len(lengths)
        self._weights: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word in list(holders):
            at, often = (np.array(held) for held in holders.pop(word))
            rarity = math.log(1 + (self.n - len(at) + 0.5) / (len(at) + 0.5))
            self._weights[word] = at, often * (_K1 + 1) / (often + norm[at]) * rarity

    def scores(self, question: str | None) -> NDArray[np.float64]:
        """Return how well each document answers to a question: 0 or more, 0 without a common word."""
        total = np.zeros(self.n)
        for word in sorted(set(_WORD.findall((question or "").lower())) & self._weights.keys()):
            at, weight = self._weights[word]
            total[at] += weight
        return total
