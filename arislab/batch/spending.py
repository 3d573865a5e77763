"""What a job has spent, and whether its budget has room for more. This module sends and cancels nothing."""

import warnings
from collections.abc import Iterable
from typing import Any

from arislab.batch.cost import prices
from arislab.batch.work import Work


def affords(work: Work, shard: dict[str, Any]) -> bool:
    """Whether the budget allows one more file; says so once if it does not."""
    assert work.budget is not None
    mean = mean_tokens(work) or (0.0, 0.0)
    waiting = [s for s in work.shards if s["state"] == "submitted"]
    # what is on its way will be paid, whatever is decided now
    spent, n = summed(work.paid_tokens.values()), shard["n"] + sum(s["n"] for s in waiting)
    if not work.budget.passed(spent[0] + n * mean[0], spent[1] + n * mean[1]):
        return True
    if not work.is_stopped:
        work.is_stopped = True
        warnings.warn(
            f"the budget ({work.budget}) has no room for the next {shard['n']:,} requests: they are not sent. Raise "
            "it and run the cell again to go on.",
            stacklevel=5,
        )
    return False


def mean_tokens(work: Work) -> tuple[float, float] | None:
    """Mean prompt and answer tokens of a request, of those that were answered; null: nobody knows yet.

    Without the answers of twins: these are paid, but a file that is sent once takes none of them.
    """
    n = sum(sum(work.ledger.counts(i).get(s, 0) for s in ("ok", "truncated")) for i in work.answer_tokens)
    if n:
        prompt, answers = summed(work.answer_tokens.values())
        return prompt / n, answers / n
    return work.budget.per_request if work.budget else None


def is_passed(work: Work, running: list[Any]) -> bool:
    """Whether the budget is spent with what running batches have used so far; says so, and nothing more is sent."""
    if work.budget is None or work.is_stopped:
        return False
    if not work.budget.passed(*_used(work, running)):
        return False
    work.is_stopped = True
    warnings.warn(f"the budget ({work.budget}) is spent: what runs is cancelled, answers so far stay.", stacklevel=4)
    return True


def in_words(work: Work, running: Iterable[Any]) -> str:
    """Return what was spent so far beside the budget, or where prices are known what all is expected to cost.

    Empty where there is neither.

    Args:
        work: Whose budget, and whose prices.
        running: Batches on their way, as the server tells of them.
    """
    prompt, answers = _used(work, running)
    if work.budget is not None and (usd := work.budget.spent_usd(prompt, answers)) is not None:
        return f"{usd:,.2f} of {work.budget.usd:,.2f} USD"
    words = [f"{prompt + answers:,} of {work.budget.tokens:,} tokens"] if work.budget is not None else []
    if (prices := work.usd_per_million) is not None:
        spent = money(prompt, answers, prices)
        mean = mean_tokens(work)  # of an answer; null before the first has come
        n = work.requests.height
        words.append(f"{spent} of about {money(n * mean[0], n * mean[1], prices)} USD" if mean else f"{spent} USD")
    return ", ".join(words)


def price_of(models: list[str]) -> tuple[float, float] | None:
    """Return the one price of models, as ``data/prices.toml`` has it; null: one is not known, or they differ."""
    known = [prices(model) for model in models]
    pairs = {price.usd_per_million if price else None for price in known}
    return pairs.pop() if len(pairs) == 1 else None


def money(prompt_tokens: float, answer_tokens: float, usd_per_million: tuple[float, float]) -> str:
    """Return what tokens cost, in USD, with two digits that say something.

    Example:
        >>> money(2_000_000, 500_000, (0.5, 2.0)), money(2_000, 500, (0.5, 2.0))
        ('2.00', '0.0020')
    """
    usd = (prompt_tokens * usd_per_million[0] + answer_tokens * usd_per_million[1]) / 1e6
    return f"{usd:,.2f}" if usd >= 0.1 or usd == 0 else f"{usd:.2g}" if usd < 1e-4 else f"{usd:.4f}"


def _used(work: Work, running: Iterable[Any]) -> tuple[int, int]:
    """Prompt and answer tokens that are paid, with those of running batches so far."""
    prompt, answers = summed(work.paid_tokens.values())
    for batch in running:
        usage = getattr(batch, "usage", None)  # many servers tell it at the end only, or never
        prompt += getattr(usage, "input_tokens", 0) or 0
        answers += getattr(usage, "output_tokens", 0) or 0
    return prompt, answers


def summed(tokens: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return prompt and answer tokens together."""
    both = list(tokens)
    return sum(prompt for prompt, _ in both), sum(answers for _, answers in both)
