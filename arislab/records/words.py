"""What a console calls the numbers of a headline, and which of them it leaves to the record.

A record keeps the names that notebooks give, which ``--where`` and ``--sort`` take; ``arislab runs show`` prints all of
them. This module loads nothing but the standard library.
"""

from collections.abc import Mapping
from typing import Any

from arislab.records.text import number_text

_WORDS: dict[str, str | None] = {
    "verdict": "verdict",
    "chosen": "chosen examples",
    "zero_shot": "no examples",
    "gain": "gain of the chosen ones",
    "gain_over_random": "gain over random ones",
    "quality_kept": "quality of the kept",
    "quality_all": "quality of all",
    "rule": "kept",
    "threshold": "lowest quality kept",
    "n_scored": "answers scored",
    "n_invalid": "answers that break the schema",
    "n_repaired": "answers repaired",
    "quality_from": "quality comes from",
    "n_labels": "labels of people",
    "precision": "kept that people would approve",
    "recall": "approved by people that is kept",
    "best_trivial": "best answer that costs nothing",
    "quality_best_trivial": "its quality",
    "n_approved": "approved by people",
    "n_certified": "approved by certificate",
    "n_approved_not_kept": "approved, but not kept",
    "n_stale": "decided on a text that changed since",
    "n_disputed": "disputed among people",
    "k": "examples in the set",
    "choice_matters": "whether the choice matters",
    "holdout_uses": "searches that used these fresh rows",
    "n_requests_search": "requests of the search",
    "n_train": "examples trained on",
    "train_loss": "loss on them",
    "eval_loss": "loss on held-out ones",
    "train_seconds": "seconds of training",
    "examples": "examples shown",
    "n_without_answer": "requests without an answer",
    "prompt_tokens": "tokens of prompts",
    "completion_tokens": "tokens of answers",
    "batch_seconds": "seconds of waiting for answers",
    "reason": "why",
    "judged_by": "judged by",
    "leaks": "test candidates seen before",
    "n_withdrawn": "examples withdrawn by now",
    "approve_policy": "approval policy",
    # the account says it, it checks the machinery, or it cannot be understood without the notebook
    "n_requests": None,
    "n_ok": None,
    "n_kept": None,
    "n_tied_at_cut": None,
    "auc_of_length": None,
    "least_jaccard": None,
    "n_paid_earlier": None,
    "search_score_optimistic": None,
    "selection_optimism_points": None,
    "leaks_taken_out": None,
    "isolation": None,
    "n_validation": None,
    "n_unlike_base": None,
}
"""Name to words, the most telling first; null: left out. A name that is not here keeps its own, with underscores
as spaces."""
_PLACES = {name: at for at, name in enumerate(_WORDS)}


def known(headline: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the numbers that a console shows by their words, the most telling first: those that are known, and told.

    Example:
        >>> known({"n_paid_earlier": 0, "my_number": 1, "n_train": 79, "eval_loss": None, "verdict": "hold"})
        {'verdict': 'hold', 'examples trained on': 79, 'my number': 1}
    """
    numbers = {name: value for name, value in (headline or {}).items() if name != "account" and _is_known(value)}
    told = [name for name in numbers if _WORDS.get(name, "") is not None]
    # what notebooks name after an arm has an interval, and stands behind the verdict
    places = {name: _PLACES.get(name, 0.5 if is_interval(numbers[name]) else len(_PLACES)) for name in told}
    return {_in_words(name): numbers[name] for name in sorted(told, key=lambda name: places[name])}


def line(headline: Mapping[str, Any] | None, *, columns: int) -> str:
    """Return as many of them as fit in a line, none cut in two.

    Example:
        >>> line({"verdict": "hold", "icl": {"mean": 0.78, "low": 0.589, "high": 0.889, "n": 20}, "k": 5}, columns=45)
        'verdict hold, icl 0.780 [0.589, 0.889]'
    """
    text = ""
    for name, value in known(headline).items():
        short = {part: value[part] for part in ("mean", "low", "high")} if is_interval(value) else value
        longer = f"{text}, {name} {number_text(short)}" if text else f"{name} {number_text(short)}"
        if len(longer) > columns:
            break
        text = longer
    return text


def is_interval(value: Any) -> bool:
    """Say whether a number comes with its interval."""
    return isinstance(value, dict) and {"mean", "low", "high"} <= value.keys()


def _is_known(value: Any) -> bool:
    return value["mean"] is not None if is_interval(value) else value not in (None, "", "none")


def _in_words(name: str) -> str:
    if name.startswith("validation_"):
        return f"{name.removeprefix('validation_')} on validation rows"
    return _WORDS.get(name) or name.replace("_", " ")
