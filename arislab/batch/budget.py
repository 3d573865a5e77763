"""What a job may spend. This module does not know requests or servers."""

from dataclasses import dataclass

from arislab.errors import ParameterError


@dataclass(frozen=True)
class Budget:
    """What a job may spend. It stops before the file that would pass it, and cancels what runs when the real usage passes it.

    Raises:
        ParameterError: No limit at all, or a limit in USD without prices.
    """

    usd: float | None = None
    """Most money, in USD; needs ``usd_per_million``."""
    tokens: int | None = None
    """Most tokens, of prompts and answers together."""
    usd_per_million: tuple[float, float] | None = None
    """Price of a million prompt and of a million answer tokens."""
    per_request: tuple[float, float] | None = None
    """Expected prompt and answer tokens of a request (a dry run tells); null: learnt from the first file."""

    def __post_init__(self) -> None:
        if self.usd is None and self.tokens is None:
            raise ParameterError("a budget needs usd or tokens, got neither; leave the budget out for no limit.")
        if self.usd is not None and self.usd_per_million is None:
            raise ParameterError(
                f"a budget of {self.usd} USD needs prices: give usd_per_million=(prompt, answer), or a budget in tokens."
            )

    def passed(self, prompt_tokens: float, completion_tokens: float) -> bool:
        """Say whether so much is more than allowed."""
        if self.tokens is not None and prompt_tokens + completion_tokens > self.tokens:
            return True
        if self.usd is None or self.usd_per_million is None:
            return False
        return (prompt_tokens * self.usd_per_million[0] + completion_tokens * self.usd_per_million[1]) / 1e6 > self.usd
