"""Does a server answer with the model that was asked, also while it is asked for others?

Not every server does. vLLM 0.32 (CPU build) answered 13 of 13 requests for the base model with the adapter that was
asked beside it, and named the base model all the same. What shows it are frozen prompts, answered greedily: by each
model alone, one request after the other, twice, so that what one model leaves behind shows in the next; by one model as
many at once as later by all, which shows what batching alone changes; then by all models at once. An answer that turns
into another model's only then is a finding.

``examine`` says what to ask and judges the answers; it sends nothing (``mixing`` asks a server of the protocol, the
batch server its upstream). What cannot be seen: models that answer all prompts alike, requests of other users of a
server, a fault that comes later.
"""

import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations, takewhile
from typing import Any

VERDICTS = ("isolated", "mixes", "fails alone", "cannot tell", "one model")
"""Models may be asked together; only one at a time; not even that; one at a time, as nothing is known; there is nothing
to mix."""
PROMPTS = tuple(
    """Tell me about the sea.
What is 17 + 25?
Write one sentence about a dog.
Name three colours.
Candidate: worked 7 years as a nurse, speaks Polish. Minimum: 5 years. What do you think of the candidate?
Why is the sky blue?
Continue: Once upon a time
Is a tomato a fruit? Give a reason.
List the days of the week.
Translate into French: good morning.
Answer in JSON: which city is the capital of Italy?
Describe your work in a few words.
Write a title for a story about rain.
What do you do on a Sunday?
Summarise: The meeting was moved from Monday to Thursday because the room was taken.
Give advice to somebody who has slept badly.
Candidate: a cook with 2 years of experience who wants to lead a kitchen of 20. Score the candidate from 0 to 1.
Which is larger, 0.9 or 0.11?
Write a short poem about iron.
What is missing: red, green, …
Explain what a contract is.
Who are you?
Say something kind.
What would you pack for a week in the mountains?
Write a line of Python that adds two numbers.
Reply to this letter: Dear team, my parcel has not arrived.
Compare tea and coffee.
Name an animal that starts with K.
What happened in 1969?
Candidate: no experience, learns fast. The job: driver of a bus. Hire or not?
Give the opposite of: early, full, kind.
Repeat after me: blue horses run.""".splitlines()
)
"""Frozen: the same for every server and every time, so that results can be compared."""
N_FIRST, SHORT, LONG = 12, 24, 64
"""Prompts of the first try and tokens of their answers; where models answer those alike, the others are asked with
longer answers."""
ROUNDS = 3
"""How often models are asked at once, at most; the first time decides in most cases."""
ENOUGH = 100
"""Answers of models asked together: a server that mixes 3 % of them shows with a probability of 95 %."""
AT_ONCE = 64
"""Requests in flight at most."""
N_NAMED = 16
"""Names in a message, at most."""
KEEP_S = 24 * 3600
"""A result counts for so long: tomorrow another version may serve under this URL."""


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


@dataclass(frozen=True)
class Isolation:
    """What a probe showed about some models of one server."""

    verdict: str
    """One of ``VERDICTS``."""
    models: tuple[str, ...]
    n_prompts: int = 0
    n_differ: int = 0
    """Prompts on which at least two of the models answer differently, alone."""
    n_could_show: int = 0
    """Answers that were asked for beside another model and would show a mix: their models answer these prompts
    differently."""
    n_turned: int = 0
    """Of these, how many were another model's answer, or nearer to it than to the model's own."""
    n_control: int = 0
    """Answers to the same prompts with requests for one model only beside them."""
    n_control_turned: int = 0
    """Of these, how many were nearer to another model's: what batching explains."""
    n_turned_alone: int = 0
    """Answers of a model asked alone that were another model's once that one had been asked."""
    alike: tuple[tuple[str, str], ...] = ()
    """Pairs of models that answered all prompts alike, so that nobody can tell from outside which of them answered."""
    example: str = ""
    problem: str = ""
    """Why nothing could be told, if so."""
    n_requests: int = 0
    seconds: float = 0.0
    checked_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_together(self) -> bool:
        """Whether these models may be asked at once."""
        return self.verdict in ("isolated", "one model")

    def covers(self, models: Iterable[str], *, now: datetime | None = None) -> bool:
        """Whether this result still says something of these models.

        Those that it was about, or for two verdicts a part of them.
        """
        age_s = ((now or datetime.now(UTC)) - datetime.fromisoformat(self.checked_at)).total_seconds()
        asked, known = set(models), set(self.models)
        same = asked == known if self.verdict == "cannot tell" else asked <= known
        return same and not self.problem and age_s < KEEP_S

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"isolation: {self.verdict}; {_why(self)}{_cost(self)}"


def from_dict(told: dict[str, Any]) -> Isolation:
    """Return the result that ``as_dict`` gave."""
    alike = tuple((str(a), str(b)) for a, b in told["alike"])
    return Isolation(**{**told, "models": tuple(told["models"]), "alike": alike})


def _why(found: Isolation) -> str:
    n_more = len(found.models) - N_NAMED
    names = ", ".join(found.models[:N_NAMED]) + (f" and {n_more:,} more" if n_more > 0 else "")
    if found.verdict == "one model":
        return f"only {names} is asked, so there is nothing to mix"
    if found.problem:
        return f"there are no answers to judge ({found.problem}), so {names} are asked one model at a time, to be safe"
    turned = (
        ""
        if not found.n_could_show
        else (
            f"{found.n_turned} of {found.n_could_show} answers turned into another model's while {names} were asked at once, "
            f"{found.n_control_turned} of {found.n_control} while one model was"
        )
    )
    if found.verdict == "fails alone":
        return (
            f"{found.n_turned_alone} answers were another model's although one model was asked at a time ({found.example}); restart the server "
            "for each model, or use another one; `arislab batch doctor --models A,B` examines it anew"
        )
    if found.verdict == "mixes":
        return f"{turned} ({found.example}); this server gets one model at a time"
    if found.alike:
        pairs = ", ".join(f"{a!r} and {b!r}" for a, b in found.alike)
        return (
            f"{pairs} answer {found.n_prompts} prompts alike, so nobody can tell which of them answered: they may be the same weights, or the "
            f"server may take one for the other; {turned}{'; ' if turned else ''}one model at a time, to be safe"
        )
    if found.verdict == "cannot tell":
        often = f"{turned} ({found.example}): too few to tell it from what batching does"
        return f"{often if found.n_turned else 'alone, a model answers a prompt differently each time'}; one model at a time, to be safe"
    least = 1 - 0.05 ** (1 / max(1, found.n_could_show))
    return f"{turned} ({found.n_differ} of {found.n_prompts} prompts tell the models apart; {least:.0%} would have shown with 95 % certainty)"


def _cost(found: Isolation) -> str:
    return f" [{found.n_requests:,} requests, {found.seconds:.1f} s, {found.checked_at}]" if found.n_requests else ""


def body(model: str, prompt: int, *, max_tokens: int = SHORT) -> dict[str, Any]:
    """Return the chat request for a frozen prompt."""
    messages = [{"role": "user", "content": PROMPTS[prompt]}]
    return {"model": model, "messages": messages, "temperature": 0, "seed": 1, "max_tokens": max_tokens}


def text_of(answer: Any) -> str | None:
    """Return what a chat completion says, with what it thought; null if it is none."""
    try:
        message = answer["choices"][0]["message"]
        parts = [message.get(name) for name in ("reasoning", "reasoning_content", "content")]
    except (LookupError, TypeError, AttributeError):
        return None
    return "\n".join(part for part in parts if isinstance(part, str))


# -- what is asked, and what the answers say
# ------------------------------------------------------------------------------


def examine(models: Sequence[str]) -> Generator[Wave, Answers, Isolation]:
    """Yield what to ask, wave by wave, take the answers, and return what they show; sends nothing.

    Args:
        models: Two or more names; any order.
    """
    seen = _Seen(list(dict.fromkeys(models)))
    yield from _alone(seen, seen.models, range(N_FIRST), SHORT)
    if len(seen.turned_alone()) > 1:
        return seen.result("fails alone")
    if weak := seen.weak():
        yield from _alone(seen, weak, range(N_FIRST, len(PROMPTS)), LONG)
        if len(seen.turned_alone()) > 1:
            return seen.result("fails alone")
    if not seen.cells():
        return seen.result("cannot tell")
    for _ in range(ROUNDS):
        yield from _at_once(seen)
        if not seen.examples() or seen.chance() < 0.001:
            break
    if not seen.examples():
        return seen.result("cannot tell" if seen.blind() else "isolated")
    is_rare = seen.counts()[2] == 0  # turned within one model never, so hardly by batching
    if seen.chance() < 0.001 or (is_rare and seen.chance() < 0.05):
        return seen.result("mixes")
    return seen.result("cannot tell" if is_rare or seen.blind() else "isolated")


def _alone(seen: "_Seen", models: list[str], prompts: Sequence[int], max_tokens: int) -> Generator[Wave, Answers, None]:
    """Ask each model alone, then again.

    The second time from the end, so that other prompts follow the change of models.
    """
    forth, back = tuple(prompts), tuple(reversed(prompts))
    for into, order in ((seen.first, forth), (seen.again, back), (seen.again, forth)):
        for name in models:
            wave = Wave(tuple((name, prompt) for prompt in order), at_once=False, max_tokens=max_tokens)
            seen.take(into, wave, (yield wave))
        if into is seen.again and len(seen.turned_alone()) != 1:  # one may be chance: once more
            break


def _at_once(seen: "_Seen") -> Generator[Wave, Answers, None]:
    """Ask for ``ENOUGH`` answers of one model at a time, and for as many of all together, each as many at once."""
    cells = seen.cells()
    n_times = math.ceil(ENOUGH / len(cells))
    for max_tokens in (SHORT, LONG):
        asks = [cell for cell in cells if seen.tokens[cell] == max_tokens]
        for name in seen.models:
            yield from _together(seen, seen.control, [cell for cell in asks if cell[0] == name] * n_times, max_tokens)
        mixed = sorted(asks, key=lambda cell: (cell[1], seen.models.index(cell[0])))
        every = [cell for i in range(n_times) for cell in (reversed(mixed) if i % 2 else mixed)]
        yield from _together(seen, seen.mixed, every, max_tokens)


def _together(seen: "_Seen", into: "_Texts", asks: list[Cell], max_tokens: int) -> Generator[Wave, Answers, None]:
    for start in range(0, len(asks), AT_ONCE):
        wave = Wave(tuple(asks[start : start + AT_ONCE]), at_once=True, max_tokens=max_tokens)
        seen.take(into, wave, (yield wave))


class _Seen:
    """The answers so far."""

    def __init__(self, models: list[str]) -> None:
        self.models, self.problem, self.n_requests, self.is_mixed = models, "", 0, False
        self.first, self.again, self.control, self.mixed = (defaultdict[Cell, list[str]](list) for _ in range(4))
        self.tokens: dict[Cell, int] = {}

    def take(self, into: "_Texts", wave: Wave, answers: Answers) -> None:
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
        told = {name: self.stable((name, cell[1])) for name in self.models}
        return {name: text for name, text in told.items() if text is not None and own is not None and text != own}

    def cells(self) -> list[Cell]:
        """The answers that would show a mix."""
        return [cell for cell in self.first if self.others(cell)]

    def n_differ(self, one: str, other: str) -> int:
        """Prompts that tell two models apart."""
        prompts = (prompt for prompt in range(len(PROMPTS)) if (one, prompt) in self.first)
        told = ((self.stable((one, prompt)), self.stable((other, prompt))) for prompt in prompts)
        return sum(own is not None and text is not None and own != text for own, text in told)

    def pairs(self) -> Iterable[tuple[str, str]]:
        """Pairs of models that gave an answer: names may be invented, and of all names there are too many pairs."""
        answered = {name for name, _ in self.first}
        return combinations([name for name in self.models if name in answered], 2)

    def blind(self) -> list[tuple[str, str]]:
        """Pairs of models that no prompt tells apart."""
        return [pair for pair in self.pairs() if not self.n_differ(*pair)]

    def alike(self) -> list[tuple[str, str]]:
        """Those of them that answer alike; of the rest one or both answer differently each time."""
        told = {cell: self.stable(cell) for cell in self.first}
        prompts = {prompt for _, prompt in told}
        return [
            (one, other)
            for one, other in self.blind()
            if any(told.get((one, prompt)) == told.get((other, prompt)) is not None for prompt in prompts)
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
        near = [name for name, other in others.items() if _shared(text, other) > _shared(text, own)]
        return next(iter([*same, *near]), None)

    def counts(self) -> tuple[int, int, int, int]:
        """Answers that turned and all answers, with other models beside them, and with one model only."""
        found: list[int] = []
        for texts in (self.mixed, self.control):
            told = [self.turned(cell, text) is not None for cell in texts for text in texts[cell]]
            found += [sum(told), len(told)]
        return found[0], found[1], found[2], found[3]

    def chance(self) -> float:
        """How probable so many turned answers are, if other models beside them made no difference."""
        return fisher(*self.counts())

    def examples(self) -> list[str]:
        """Answers beside other models that are another model's, and never came with one model only."""
        return [
            _example(cell, text, own=self.stable(cell), other=other)
            for cell, texts in self.mixed.items()
            for text in texts
            for other, said in self.others(cell).items()
            if text == said and text not in self.control.get(cell, ())
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
            alike=tuple(self.alike()),
            example=next(iter([*alone, *self.examples()]), ""),
            problem=problem,
            n_requests=self.n_requests,
        )


_Texts = defaultdict[Cell, list[str]]


def _shared(one: str, other: str) -> int:
    """Characters with which two texts begin alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _example(cell: Cell, text: str, *, own: str | None, other: str) -> str:
    return f"{cell[0]!r} was asked {PROMPTS[cell[1]]!r} and said {_short(text)} as {other!r} does, not {_short(own)}"


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 40 else text[:39] + "…")


def fisher(k: int, n: int, k_control: int, n_control: int) -> float:
    """Return the probability of ``k`` or more of ``n`` beside ``k_control`` of ``n_control`` if both come at one rate (Fisher, one-sided).

    Example:
        >>> round(fisher(3, 10, 0, 20), 4)
        0.0296
    """
    total, hits = n + n_control, k + k_control
    ways = sum(math.comb(hits, i) * math.comb(total - hits, n - i) for i in range(k, min(hits, n) + 1))
    return ways / math.comb(total, n)
