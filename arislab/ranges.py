"""The ranges of the parameters that several phases share: one message for a wrong one, before anything is spent.

    n_candidates -1  ->  n_candidates must be a whole number from 1 to 1,000,000,000, got -1; candidates to ask about.

What only one function uses is checked by that function. ``arislab run`` converts texts to the declared types before
(``runs.parameters``); whoever edits the cell in JupyterLab is told here.
"""

import math
from collections.abc import Mapping
from typing import Any

from arislab import chat, cluster
from arislab.batch import ASK
from arislab.errors import ParameterError

_MANY = 10**9
WHOLE: dict[str, tuple[int, int, str]] = {
    "n_candidates": (1, _MANY, "candidates to ask about"),
    "samples": (1, 10_000, "answers per candidate"),
    "max_tokens": (1, 10_000_000, "tokens of the longest answer"),
    "n_dry_run": (1, 1_000_000, "requests to try before the rest is sent"),
    "n_validation": (1, _MANY, "validation candidates to ask about"),
    "n_canary": (1, 10_000, "prompts that are asked before a version is served"),
    "n_test": (1, _MANY, "test candidates to ask about"),
    "n_search": (1, _MANY, "validation candidates for the search"),
    "n_holdout": (1, _MANY, "validation candidates for the report"),
    "n_review": (1, _MANY, "rows to queue for review"),
    "n_arm_pairs": (0, _MANY, "pairs of two arms' answers that people compare; 0 for none"),
    "n_people": (1, 1_000, "people who compare each pair"),
    "n_opinions": (1, 100, "people who judge an output of the overlap"),
    "n_outputs": (0, _MANY, "outputs to look at; 0 for all"),
    "top_logprobs": (0, 20, "tokens that the judge wavers between; 0: what it says counts"),
    "pool_size": (1, 1_000_000, "examples to choose from"),
    "seeds": (1, 100, "trainings of each set"),
    "budget": (1, _MANY, "requests that the search may spend"),
    "seed": (0, 2**32 - 1, "of everything random"),
}
"""Name to lowest, highest and meaning of whole numbers."""
NUMBERS: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 2.0, "of sampling, 0 for greedy"),
    "budget_usd": (0.0, 1e9, "most money to spend, USD; 0 for no limit"),
    "keep_threshold": (0.0, 1.0, "lowest quality to keep"),
    "diversity": (0.0, 1.0, "share of the kept places that go to rows which cover more"),
    "similar_by_meaning": (0.0, 1.0, "cosine from which two rows are one; 0 for off"),
    "keep_precision": (0.0, 1.0, "share of the kept rows that people would approve, for keep_rule 'precision'"),
    "below_cut": (0.0, 1.0, "share of the queue that is drawn from below the cut"),
    "overlap": (0.0, 1.0, "share of the queue that several people judge"),
    "planted": (0.0, 0.5, "chance of a known answer before an output, and of a repeat"),
    "max_unread": (0.0, 1.0, "share of the tried answers that may be no number"),
    "max_scorer_failures": (0.0, 1.0, "share of the rows on which scorers may fail"),
    "scorer_timeout_s": (0.001, 86_400.0, "longest that a scorer may take for a row, s"),
    "loss_margin": (0.0, 1.0, "quality by which a promoted arm may lie below in-context examples, or what it knew"),
    "beta": (1e-6, 1_000.0, "how strongly an adapter is held to where it starts"),
    "rate_margin": (0.0, 1.0, "share by which format validity, stop rate and answers may be lower"),
    "min_equal": (0.0, 1.0, "share of the canary's answers that must be those of the reference"),
    "drain_s": (0.0, 86_400.0, "seconds to wait for requests of the version before"),
    "margin": (-1.0, 1.0, "smallest gain in quality that is worth a promotion"),
}
"""Name to lowest, highest and meaning of other numbers."""
FRACTIONS: dict[str, str] = {
    "top_p": "it is a fraction: 0.9 samples from the likeliest tokens that make up nine tenths",
    "keep_fraction": "it is a fraction: 0.2 keeps one in five",
    "max_share": "it is a fraction: 0.3 lets no category fill more than three in ten",
    "duplicate_threshold": "0.8 means that 8 of 10 shingles are shared",
    "leak_threshold": "0.8 means that 8 of 10 shingles are shared",
}
"""Name to meaning of what must be above 0 and at most 1."""
CHOICES: dict[str, tuple[str, ...]] = {
    "control": ("random", "longest", "unfiltered"),
    "quality_from": ("rules", "people"),
    "gate_by": ("scorers", "people"),
    "trained": ("curated", "dpo", "ipo", "kto"),
    "loss": ("dpo", "ipo", "kto"),
    "start": ("sft", "base"),
    "compare": ("outputs", "samples", "arms"),
}
"""Name to the words that it may be."""
TEXTS = ("task", "base_url", "base_model", "use_case", "use_case_column", "alias")
"""Names of texts that must not be empty or blank."""
MAY_BE_EMPTY = (
    "model",
    "judge_model",
    "embedding_model",
    "one_per",
    "examples",
    "selection",
    "compare_with",
    "server_models",
)
"""Names of texts of which an empty one, or None, is the default."""
OTHERS = (
    "usd_per_million",
    "resend",
    "pinned",
    "banned",
    "repair",
    "keep_approved",
    "one_per_group",
    "logprobs",
    "pairs",
    "system_role",
    "chat_template_kwargs",
    "engine",
)
"""Names of what has a rule of its own, see ``check``."""
ELSEWHERE = {
    "model": "batch.Server.model",
    "judge_model": "judge.Judge",
    "embedding_model": "icl.embedder",
    "examples": "icl.of_file",
    "approve": "curate.approved",
    "keep_rule": "curate.keep",
    "k": "icl.sizes",
    **dict.fromkeys(("pinned", "banned", "one_per"), "curate.pool"),
    **dict.fromkeys(
        (
            "method",
            "r",
            "lora_alpha",
            "learning_rate",
            "num_train_epochs",
            "batch_size",
            "early_stopping",
            "checkpoint_minutes",
            "max_length",
        ),
        "finetune.check",
    ),
    "leaks": "evaluate.without_leaks",
    "compared_arms": "pairwise.check",
}
"""Parameters of the shipped phases that the function which uses them checks, and that function. A test holds every
parameter against these names: one that nobody checks is a mistake."""
_LITERALS = (bool, int, float, str, list, tuple, dict, type(None))


def check_all(names: Mapping[str, Any]) -> None:
    """Refuse the first parameter of a notebook that is out of range.

    Args:
        names: The notebook's names, in its order: ``globals()``. Looked at are those that stand here and hold a
            literal, as parameters do; your own, and what is called like one (a budget that is an object, a model that
            is a function), are left alone. Where a literal of yours is called like one, name what to look at:
            ``check(seed=seed)``.

    Raises:
        ParameterError: One is out of range.

    Example:
        >>> check_all({"samples": 1, "my_own": -1})
    """
    known = {*WHOLE, *NUMBERS, *FRACTIONS, *CHOICES, *TEXTS, *MAY_BE_EMPTY, *OTHERS}
    check(**{name: value for name, value in names.items() if name in known and isinstance(value, _LITERALS)})


def check(**given: Any) -> None:
    """Refuse the first parameter that is out of range.

    Args:
        given: Parameters by name: those of ``WHOLE``, ``NUMBERS``, ``FRACTIONS`` and ``CHOICES``; ``usd_per_million``
            (none, or two prices from 0 on); ``resend`` (statuses of ``batch.ASK``); ``pinned`` and ``banned`` (ids of
            examples); ``repair``, ``keep_approved``, ``one_per_group``, ``logprobs`` and ``pairs`` (true or false);
            ``system_role`` and ``chat_template_kwargs`` (see chat); ``engine`` (see cluster: it is connected to); those
            of ``MAY_BE_EMPTY``; every other one is a text that must not be empty or blank.

    Raises:
        ParameterError: One is out of range.

    Example:
        >>> check(samples=1, temperature=0.9)
    """
    for name, value in given.items():
        if name in (*WHOLE, *NUMBERS, *FRACTIONS):
            _check_number(name, value)
        elif name in CHOICES:
            if value not in CHOICES[name]:
                raise ParameterError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}.")
        elif name == "system_role":
            chat.check_fields(chat_template_kwargs={}, system_role=value)
        elif name == "chat_template_kwargs":
            chat.check_fields(chat_template_kwargs=value, system_role="")
        elif name == "engine":
            cluster.connect(value)
        elif name in OTHERS:
            _check_other(name, value)
        elif not isinstance(value, str | None if name in MAY_BE_EMPTY else str):
            raise ParameterError(f"{name} must be a text, got {value!r}; leave the parameter out for its default.")
        elif name not in MAY_BE_EMPTY and not value.strip():
            raise ParameterError(f"{name} must not be empty, got {value!r}; leave the parameter out for its default.")


def _check_other(name: str, value: Any) -> None:
    is_list = isinstance(value, list | tuple)
    if name == "usd_per_million":
        if not is_list or len(value) not in (0, 2) or not all(_is_number(price) and price >= 0 for price in value):
            raise ParameterError(
                "usd_per_million must be two prices in USD, of a million prompt tokens and of a million answer "
                f"tokens, or empty, got {value!r}."
            )
    elif name in ("repair", "keep_approved", "one_per_group", "logprobs", "pairs"):
        if not isinstance(value, bool):
            raise ParameterError(f"{name} must be True or False, got {value!r}; write it without quotes.")
    elif not is_list:  # a text would be read letter by letter
        raise ParameterError(f"{name} must be a list, got {value!r}; put what it holds in [ ].")
    elif name == "resend":
        if strange := [status for status in value if status not in ASK]:
            raise ParameterError(f"resend must name statuses of {', '.join(ASK)}, got {strange[0]!r}.")
    elif strange := [example for example in value if not isinstance(example, str)]:
        raise ParameterError(f"{name} must name examples by their ids, which are texts, got {strange[0]!r}.")


def _check_number(name: str, value: Any) -> None:
    if name in WHOLE:
        low, high, meaning = WHOLE[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ParameterError(f"{name} must be a whole number from {low} to {high:,}, got {value!r}; {meaning}.")
    elif name in NUMBERS:
        least, most, meaning = NUMBERS[name]
        if not _is_number(value) or not least <= value <= most:
            raise ParameterError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}; {meaning}.")
    elif not _is_number(value) or not 0 < value <= 1:
        raise ParameterError(f"{name} must be in (0, 1], got {value!r}; {FRACTIONS[name]}.")


def _is_number(value: Any) -> bool:
    # compared, not asked math.isfinite, which converts: some integers are larger than any float
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
