"""How alike texts are by their words, for which no model is needed.

Source:
    Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75  # the usual ones; nothing is tuned on anybody's rows


class Index:
    """Documents, ready to be compared with questions.

    Args:
        documents: Texts; null has no word.
    """

    def __init__(self, documents: Sequence[str | None]) -> None:
        counts = [Counter(_WORD.findall((text or "").lower())) for text in documents]
        lengths = np.array([sum(c.values()) for c in counts], dtype=np.float64)
        norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if len(lengths) else 0.0, 1e-9))
        holders: dict[str, list[tuple[int, int]]] = {}
        for i, words in enumerate(counts):
            for word, n in words.items():
                holders.setdefault(word, []).append((i, n))
        self.n = len(counts)
        self._weights: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, holding in holders.items():
            at, times = np.array([i for i, _ in holding]), np.array([n for _, n in holding], dtype=np.float64)
            rarity = math.log(1 + (self.n - len(holding) + 0.5) / (len(holding) + 0.5))
            self._weights[word] = at, times * (_K1 + 1) / (times + norm[at]) * rarity

    def scores(self, question: str | None) -> NDArray[np.float64]:
        """Return how well each document answers to a question: 0 or more, 0 without a common word."""
        total = np.zeros(self.n)
        for word in sorted(set(_WORD.findall((question or "").lower())) & self._weights.keys()):
            at, weight = self._weights[word]
            total[at] += weight
        return total
