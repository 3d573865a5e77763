"""The answers of a probe so far, and what they say: which models can be told apart, and which answers turned.

This module does not know what is asked next.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile

from arislab.isolation.prompts import PROMPTS, SHORT
from arislab.isolation.verdict import Isolation

Cell = tuple[str, int]
"""A model and the number of a prompt."""


@dataclass(frozen=True)
class Wave:
    """Requests that belong together."""

    asks: tuple[Cell, ...]
    at_once: bool
    """All in flight together, or one after the other and nothing beside it."""
    max_tokens: int = SHORT


Answers = tuple[Sequence[str | None], str]
"""The text of each answer of a wave, null if none came; and the first thing that went wrong, or nothing."""
Texts = defaultdict[Cell, list[str]]


class Evidence:
    """The answers so far."""

    def __init__(self, models: list[str]) -> None:
        self.models, self.problem, self.n_requests, self.is_mixed = models, "", 0, False
        self.first, self.again, self.control, self.mixed = (defaultdict[Cell, list[str]](list) for _ in range(4))
        self.tokens: dict[Cell, int] = {}
        self.rounds: list[tuple[int, int, int, int]] = []
        """``departed`` at the end of each round."""

    def take(self, into: Texts, wave: Wave, answers: Answers) -> None:
        """Keep the answers of a wave."""
        texts, problem = answers
        self.n_requests, self.is_mixed = self.n_requests + len(wave.asks), self.is_mixed or into is self.mixed
        self.problem = self.problem or problem
        for cell, text in zip(wave.asks, texts, strict=True):
            if text is not None:
                into[cell].append(text)
                self.tokens[cell] = wave.max_tokens

    def stable(self, cell: Cell) -> str | None:
        """What a model alone answers to a prompt each time; null if that differs."""
        texts = {*self.first.get(cell, ()), *self.again.get(cell, ())}
        return texts.pop() if len(texts) == 1 and cell in self.again else None

    def others(self, cell: Cell) -> dict[str, str]:
        """The other models that answer a prompt differently alone, and what each answers."""
        own = self.stable(cell)
        texts = {name: self.stable((name, cell[1])) for name in self.models}
        return {name: text for name, text in texts.items() if text is not None and own is not None and text != own}

    def cells(self) -> list[Cell]:
        """The answers that would show a mix."""
        return [cell for cell in self.first if self.others(cell)]

    def n_differ(self, one: str, other: str) -> int:
        """Prompts that tell two models apart."""
        prompts = (prompt for prompt in range(len(PROMPTS)) if (one, prompt) in self.first)
        both = ((self.stable((one, prompt)), self.stable((other, prompt))) for prompt in prompts)
        return sum(own is not None and text is not None and own != text for own, text in both)

    def pairs(self) -> Iterable[tuple[str, str]]:
        """Pairs of models that gave an answer: names may be invented, and of all names there are too many pairs."""
        answered = {name for name, _ in self.first}
        return combinations([name for name in self.models if name in answered], 2)

    def blind(self) -> list[tuple[str, str]]:
        """Pairs of models that no prompt tells apart."""
        return [pair for pair in self.pairs() if not self.n_differ(*pair)]

    def alike(self) -> list[tuple[str, str]]:
        """Those of them that answer alike; of the rest one or both answer differently each time."""
        texts = {cell: self.stable(cell) for cell in self.first}
        prompts = {prompt for _, prompt in texts}
        return [
            (one, other)
            for one, other in self.blind()
            if any(texts.get((one, prompt)) == texts.get((other, prompt)) is not None for prompt in prompts)
        ]

    def weak(self) -> list[str]:
        """Models of which hardly a prompt tells one from another."""
        few = {name for pair in self.pairs() if self.n_differ(*pair) < 2 for name in pair}
        return [name for name in self.models if name in few]

    def turned_alone(self) -> list[str]:
        """Answers of one model alone that became what another one answered first."""
        return [
            _example(cell, text, own=own, other=name)
            for cell, texts in self.again.items()
            for own in self.first.get(cell, [])
            for text in texts
            for name in self.models
            if text != own and text in self.first.get((name, cell[1]), ())
        ]

    def turned(self, cell: Cell, text: str) -> str | None:
        """The model whose answer a text is, or is nearer to than to its own; null if it is its own."""
        own = self.stable(cell)
        assert own is not None
        if text == own:
            return None
        others = self.others(cell)
        same = [name for name, other in others.items() if text == other]
        # the beginning decides: greedy decoding that batching has changed departs once, and never comes back
        near = [name for name, other in others.items() if _shared(text, other) > _shared(text, own)]
        return next(iter([*same, *near]), None)

    def counts(self) -> tuple[int, int, int, int]:
        """Answers that turned and all answers, with other models beside them, and with one model only."""
        counts: list[int] = []
        for texts in (self.mixed, self.control):
            turned = [self.turned(cell, text) is not None for cell in texts for text in texts[cell]]
            counts += [sum(turned), len(turned)]
        return counts[0], counts[1], counts[2], counts[3]

    def departed(self) -> tuple[int, int, int, int]:
        """Answers that are not the model's own and all answers, with other models beside them, and with one only."""
        counts: list[int] = []
        for texts in (self.mixed, self.control):
            departed = [text != self.stable(cell) for cell in texts for text in texts[cell]]
            counts += [sum(departed), len(departed)]
        return counts[0], counts[1], counts[2], counts[3]

    def is_suspect(self) -> bool:
        """Whether other models beside them changed more answers in the first round than batching did.

        It does not matter into what: a model that is not asked may answer too.
        """
        return fisher(*self.rounds[0]) < 0.001

    def departs(self) -> bool:
        """Whether the rounds after the first, taken together, bear its suspicion out."""
        # answers of one wave share how many were in flight with it, which a busy machine decides: to the test they are
        # independent, so one round alone accuses too often
        later = tuple(last - first for first, last in zip(self.rounds[0], self.rounds[-1], strict=True))
        return self.is_suspect() and fisher(*later) < 0.001

    def chance(self) -> float:
        """How probable so many turned answers are, if other models beside them made no difference."""
        return fisher(*self.counts())

    def examples(self) -> list[str]:
        """Answers beside other models that are another model's, and never came with one model only."""
        return [
            _example(cell, text, own=self.stable(cell), other=other)
            for cell, texts in self.mixed.items()
            for text in texts
            for other, others_text in self.others(cell).items()
            if text == others_text and text not in self.control.get(cell, ())
        ]

    def missing(self) -> str:
        """Why the answers do not suffice for a verdict; nothing if they do."""
        silent = [name for name in self.models if not any(cell[0] == name for cell in self.first)]
        unanswered = [cell for cell in self.cells() if cell not in self.mixed]
        if silent:
            return f"{silent[0]!r} gave no answer: {self.problem or 'nothing came'}"
        if self.is_mixed and len(unanswered) > len(self.cells()) / 2:
            return f"asked at once, {len(unanswered)} of {len(self.cells())} answers did not come: {self.problem}"
        return ""

    def result(self, verdict: str) -> Isolation:
        """The verdict with all that was counted."""
        n_turned, n_mixed, n_control_turned, n_control = self.counts()
        alone, problem = self.turned_alone(), self.missing()
        return Isolation(
            "cannot tell" if problem and verdict == "isolated" else verdict,
            tuple(self.models),
            n_prompts=len({prompt for _, prompt in self.first}),
            n_differ=len({prompt for _, prompt in self.cells()}),
            n_could_show=n_mixed,
            n_turned=n_turned,
            n_control=n_control,
            n_control_turned=n_control_turned,
            n_turned_alone=len(alone),
            n_departed=self.departed()[0] - n_turned,
            alike=tuple(self.alike()),
            example=next(iter([*alone, *self.examples()]), ""),
            problem=problem,
            n_requests=self.n_requests,
        )


def _shared(one: str, other: str) -> int:
    """Characters with which two texts begin alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _example(cell: Cell, text: str, *, own: str | None, other: str) -> str:
    return f"{cell[0]!r} was asked {PROMPTS[cell[1]]!r} and said {_short(text)} as {other!r} does, not {_short(own)}"


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 40 else text[:39] + "…")


def fisher(k: int, n: int, k_control: int, n_control: int) -> float:
    """Return the probability of ``k`` or more of ``n`` beside ``k_control`` of ``n_control``, if both come at one rate.

    Fisher's exact test, one-sided.

    Example:
        >>> round(fisher(3, 10, 0, 20), 4)
        0.0296
    """
    total, hits = n + n_control, k + k_control
    ways = sum(math.comb(hits, i) * math.comb(total - hits, n - i) for i in range(k, min(hits, n) + 1))
    return ways / math.comb(total, n)
