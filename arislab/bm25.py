"""How alike texts are by their words, for which no model is needed.

Source:
    Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond.
"""

import math
import re
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75  # the usual ones; nothing is tuned on anybody's rows


class Index:
    """Documents, ready to be compared with questions.

    Args:
        documents: Texts; null has no word.
        questions: Those that ``scores`` will be asked about, where they are known: other words are not looked up then.
    """

    def __init__(self, documents: Iterable[str | None], *, questions: Iterable[str | None] | None = None) -> None:
        number: dict[str, int] = {}  # of each word
        if questions is not None:
            number = {word: i for i, word in enumerate({word for text in questions for word in _words(text)})}
        counted, kept, held = array("d"), array("q"), array("q")  # words of each document, known ones, and which
        for text in documents:
            words = _words(text)
            if questions is None:
                known = [number.setdefault(word, len(number)) for word in words]
            else:
                known = [number[word] for word in words if word in number]
            counted.append(len(words))
            kept.append(len(known))
            held.extend(known)
        lengths = np.array(counted, dtype=np.float64)
        norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if len(lengths) else 0.0, 1e-9))
        self.n = len(lengths)
        # word by word the documents that hold it, and how often
        of = np.repeat(np.arange(self.n), np.array(kept, dtype=np.int64))
        pairs, times = np.unique(np.array(held, dtype=np.int64) * max(self.n, 1) + of, return_counts=True)
        word, at = np.divmod(pairs, max(self.n, 1))
        ends = np.searchsorted(word, np.arange(len(number) + 1))
        often = times.astype(np.float64)
        self._weights: dict[str, tuple[NDArray[np.int64] | slice, NDArray[np.float64]]] = {}
        for name, i in number.items():
            part = slice(ends[i], ends[i + 1])
            if ends[i] < ends[i + 1]:
                rarity = math.log(1 + (self.n - len(at[part]) + 0.5) / (len(at[part]) + 0.5))
                weight = often[part] * (_K1 + 1) / (often[part] + norm[at[part]]) * rarity
                holds_all = len(weight) == self.n  # then they stand in order, and none needs to be looked up
                self._weights[name] = slice(None) if holds_all else at[part], weight

    def scores(self, question: str | None) -> NDArray[np.float64]:
        """Return how well each document answers to a question: 0 or more, 0 without a common word."""
        total = np.zeros(self.n)
        for word in sorted(set(_words(question)) & self._weights.keys()):
            at, weight = self._weights[word]
            total[at] += weight
        return total


def _words(text: str | None) -> list[str]:
    return _WORD.findall((text or "").lower())
