"""What a probe showed about some models of a server, and how that is said and kept.

This module asks and counts nothing.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

VERDICTS = ("isolated", "mixes", "fails alone", "cannot tell", "one model")
"""Models may be asked together; only one at a time; not even that; one at a time, as nothing is known; there is nothing
to mix."""
N_NAMED = 16
"""Names in a message, at most."""
KEEP_S = 24 * 3600
"""A result counts for so long: tomorrow another version may serve under this URL."""


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
    n_departed: int = 0
    """Answers asked for beside another model that were neither the model's own nor another one's of these."""
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

        It does of all that it was about, and of any part of them unless the verdict is "cannot tell".
        """
        # "cannot tell" may be due to one of them: it says nothing of the others without it
        age_s = ((now or datetime.now(UTC)) - datetime.fromisoformat(self.checked_at)).total_seconds()
        asked, known = set(models), set(self.models)
        same = asked == known if self.verdict == "cannot tell" else asked <= known
        return same and not self.problem and age_s < KEEP_S

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"isolation: {self.verdict}; {_why(self)}{_cost(self)}"


def from_dict(fields: dict[str, Any]) -> Isolation:
    """Return the result that ``as_dict`` gave."""
    alike = tuple((str(a), str(b)) for a, b in fields["alike"])
    return Isolation(**{**fields, "models": tuple(fields["models"]), "alike": alike})


def _why(result: Isolation) -> str:
    n_more = len(result.models) - N_NAMED
    names = ", ".join(result.models[:N_NAMED]) + (f" and {n_more:,} more" if n_more > 0 else "")
    if result.verdict == "one model":
        return f"only {names} is asked, so there is nothing to mix"
    if result.problem:
        return f"there are no answers to judge ({result.problem}), so {names} are asked one model at a time, to be safe"
    turned = (
        ""
        if not result.n_could_show
        else (
            f"{result.n_turned} of {result.n_could_show} answers turned into another model's while {names} were asked "
            f"at once, {result.n_control_turned} of {result.n_control} while one model was"
        )
    )
    if result.verdict == "fails alone":
        return (
            f"{result.n_turned_alone} answers were another model's although one model was asked at a time "
            f"({result.example}); restart the server for each model, or use another one; `arislab batch doctor "
            "--models A,B` examines it anew"
        )
    if result.verdict == "mixes":
        return f"{turned} ({result.example}); this server gets one model at a time"
    if result.alike:
        pairs = ", ".join(f"{a!r} and {b!r}" for a, b in result.alike)
        return (
            f"{pairs} answer {result.n_prompts} prompts alike, so nobody can tell which of them answered: they may be "
            f"the same weights, or the server may take one for the other; {turned}{'; ' if turned else ''}one model at "
            "a time, to be safe"
        )
    if result.verdict == "cannot tell":
        often = f"{turned} ({result.example}): too few to tell it from what batching does"
        departed = (
            f"{turned}, and {result.n_departed} into answers that none of them gives alone: a model that is not asked "
            "may have answered"
        )
        often = often if result.n_turned else departed if result.n_departed else ""
        why = often or "alone, a model answers a prompt differently each time"
        return f"{why}; one model at a time, to be safe"
    # none of n turned: rates above 1 - 0.05^(1/n) would have shown at least one with 95 %
    least = 1 - 0.05 ** (1 / max(1, result.n_could_show))
    return (
        f"{turned} ({result.n_differ} of {result.n_prompts} prompts tell the models apart; {least:.0%} would have "
        "shown with 95 % certainty)"
    )


def _cost(result: Isolation) -> str:
    return (
        f" [{result.n_requests:,} requests, {result.seconds:.1f} s, {result.checked_at}]" if result.n_requests else ""
    )
