"""What to ask next, wave by wave, until the answers suffice for a verdict; nothing is sent here."""

import math
from collections.abc import Generator, Sequence

from arislab.isolation.evidence import Answers, Cell, Evidence, Texts, Wave
from arislab.isolation.prompts import LONG, N_FIRST, PROMPTS, SHORT
from arislab.isolation.verdict import Isolation

ROUNDS = 3
"""How often models are asked at once, at most; the first time decides in most cases, unless it raises a suspicion."""
ENOUGH = 100
"""Answers of models asked together: a server that mixes 3 % of them shows with a probability of 95 %."""
AT_ONCE = 64
"""Requests in flight at most."""


def examine(models: Sequence[str]) -> Generator[Wave, Answers, Isolation]:
    """Yield what to ask, wave by wave, take the answers, and return what they show; sends nothing.

    Args:
        models: Two or more names; any order.
    """
    evidence = Evidence(list(dict.fromkeys(models)))
    yield from _alone(evidence, evidence.models, range(N_FIRST), SHORT)
    if len(evidence.turned_alone()) > 1:
        return evidence.result("fails alone")
    if weak := evidence.weak():
        yield from _alone(evidence, weak, range(N_FIRST, len(PROMPTS)), LONG)
        if len(evidence.turned_alone()) > 1:
            return evidence.result("fails alone")
    if not evidence.cells():
        return evidence.result("cannot tell")
    for _ in range(ROUNDS):
        yield from _at_once(evidence)
        evidence.rounds.append(evidence.departed())
        if evidence.chance() < 0.001 or not (evidence.examples() or evidence.is_suspect()):
            break
    if not evidence.examples():
        return evidence.result("cannot tell" if evidence.blind() or evidence.departs() else "isolated")
    # each round is another look at the same question, so one of them counts only by a bound stricter than 0.05
    is_rare = evidence.counts()[2] == 0  # turned within one model never, so hardly by batching
    if evidence.chance() < 0.001 or (is_rare and evidence.chance() < 0.05):
        return evidence.result("mixes")
    return evidence.result("cannot tell" if is_rare or evidence.blind() or evidence.departs() else "isolated")


def _alone(
    evidence: Evidence, models: list[str], prompts: Sequence[int], max_tokens: int
) -> Generator[Wave, Answers, None]:
    """Ask each model alone, then again.

    The second time goes from the end, so that other prompts follow the change of models.
    """
    forth, back = tuple(prompts), tuple(reversed(prompts))
    for into, order in ((evidence.first, forth), (evidence.again, back), (evidence.again, forth)):
        for name in models:
            wave = Wave(tuple((name, prompt) for prompt in order), at_once=False, max_tokens=max_tokens)
            evidence.take(into, wave, (yield wave))
        if into is evidence.again and len(evidence.turned_alone()) != 1:  # one may be chance: once more
            break


def _at_once(evidence: Evidence) -> Generator[Wave, Answers, None]:
    """Ask for ``ENOUGH`` answers of one model at a time, and for as many of all together, each as many at once."""
    cells = evidence.cells()
    n_times = math.ceil(ENOUGH / len(cells))
    for max_tokens in (SHORT, LONG):
        asks = [cell for cell in cells if evidence.tokens[cell] == max_tokens]
        mixed = sorted(asks, key=lambda cell: (cell[1], evidence.models.index(cell[0])))
        every = [cell for i in range(n_times) for cell in (reversed(mixed) if i % 2 else mixed)]
        parts = [(evidence.control, [cell for cell in asks if cell[0] == name] * n_times) for name in evidence.models]
        parts.append((evidence.mixed, every))
        # what is asked first opens the connections, so less of it is in flight together: each has its turn
        for into, part in reversed(parts) if len(evidence.rounds) % 2 else parts:
            yield from _together(evidence, into, part, max_tokens)


def _together(evidence: Evidence, into: Texts, asks: list[Cell], max_tokens: int) -> Generator[Wave, Answers, None]:
    for start in range(0, len(asks), AT_ONCE):
        wave = Wave(tuple(asks[start : start + AT_ONCE]), at_once=True, max_tokens=max_tokens)
        evidence.take(into, wave, (yield wave))
