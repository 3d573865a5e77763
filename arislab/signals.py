"""Scorers that need no rule of the task's own: a task names them beside its own.

    from arislab import signals
    SCORERS = {"agrees": signals.agreement(lambda output: output.split()[-1])}

Each is a plain function of columns, as every scorer is, and says None where it cannot tell. This module knows no task.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from arislab.errors import ParameterError
from arislab.task import Scorer

Key = Callable[[str], Any]
"""An output to what several outputs can agree on, such as a final answer or an object; None: it has none."""


def agreement(key: Key | None = None) -> Scorer:
    """Return a scorer of self-consistency: how far the other samples of the same candidate say the same.

    Phase 1 makes samples (``-p samples 4``); imported outputs about one candidate and one question are samples too.
    What many draws of a model say is more often right than what one of them says. A model that errs the same way each
    time agrees with itself too: this is no judge of what all samples share. Without a key, on open text, it told
    nothing here (``papermill_runs/README.md``).

    Args:
        key: Output to what is compared. An object (a dict) is compared field by field, over the fields that either has;
            anything else is equal or not. None: the sets of words are compared, by their Jaccard index.

    Returns:
        A scorer of the columns output and others: the mean over the others, 0..1. None without others, or where the
        output has no key; another one without a key does not agree.

    Source:
        Wang et al. 2023, Self-Consistency Improves Chain of Thought Reasoning in Language Models.

    Example:
        >>> agrees = agreement(lambda output: output.split()[-1])
        >>> agrees("so 18", ["it is 18", "17", "18"]), agrees("18", [])
        (0.6666666666666666, None)
    """

    def agrees(output: str, others: list[str]) -> float | None:
        own = _words(output) if key is None else key(output)
        if not others or own is None:
            return None
        alike = _overlap if key is None else _equal
        return sum(alike(own, _words(other) if key is None else key(other)) for other in others) / len(others)

    return agrees


def confidence(part: str = "window") -> Scorer:
    """Return a scorer of how sure the generator was: the mean probability of its tokens, as its server reported it.

    Phase 1 asks for it with ``-p logprobs true``. How sure is sure enough differs between models: what it tells of
    quality is for labels to say (``quality_from``).

    Args:
        part: mean (all tokens), tail (the last 16: the answer comes at the end), window (the weakest 16 in a row).

    Returns:
        A scorer of a column logprob_…: exp of it, 0..1, the geometric mean. None where the server told nothing.

    Raises:
        ParameterError: Another part.

    Source:
        Fu et al. 2025, Deep Think with Confidence.

    Example:
        >>> confidence("mean")(-0.5)
        0.6065306597126334
    """
    scorers = {"mean": _mean, "tail": _tail, "window": _window}
    if part not in scorers:
        raise ParameterError(f"confidence must be of mean, tail or window, got {part!r}.")
    return scorers[part]


def _mean(logprob_mean: float | None = None) -> float | None:
    return None if logprob_mean is None else math.exp(logprob_mean)


def _tail(logprob_tail: float | None = None) -> float | None:
    return None if logprob_tail is None else math.exp(logprob_tail)


def _window(logprob_window: float | None = None) -> float | None:
    return None if logprob_window is None else math.exp(logprob_window)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _overlap(own: frozenset[str], other: frozenset[str]) -> float:
    return len(own & other) / len(own | other) if own | other else 1.0


def _equal(own: Any, other: Any) -> float:
    """Share of the fields of two objects that are equal; of other values, whether they are."""
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        fields: set[Hashable] = {*own, *other}
        n_equal = sum(name in own and name in other and own[name] == other[name] for name in fields)
        return n_equal / len(fields) if fields else 1.0
    return float(own == other)
