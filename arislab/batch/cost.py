"""What a model's tokens cost, from a dated file that its user keeps: ``data/prices.toml``.

One entry of the file::

    [[price]]
    model = "some-model"
    as_of = 2026-11-01
    usd_per_million_prompt = 0.05
    usd_per_million_completion = 0.20
    source = "https://…"

A price that the file does not hold is unknown, never guessed. This module does not know tokens or batches.
"""

import os
import tomllib
import warnings
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from arislab.errors import ParameterError
from arislab.system import paths

_STALE_DAYS = 180


@dataclass(frozen=True)
class Price:
    """What one model costs at one server, as its price list said on a day."""

    model: str
    """Name as requests have it."""
    usd_per_million_prompt: float
    """US dollars for a million prompt tokens in a batch, >= 0."""
    usd_per_million_completion: float
    """US dollars for a million completion tokens in a batch, >= 0."""
    as_of: date
    """Day on which the price list said so."""
    source: str
    """Where: a URL, or a sentence."""

    @property
    def usd_per_million(self) -> tuple[float, float]:
        """Both prices, as ``batch.dry_run`` and ``batch.Budget`` take them."""
        return self.usd_per_million_prompt, self.usd_per_million_completion

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost in US dollars.

        Example:
            >>> Price("m", 0.5, 2.0, date(2026, 11, 1), "the contract").usd(2_000_000, 500_000)
            2.0
        """
        prompt, completion = self.usd_per_million_prompt, self.usd_per_million_completion
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6


def prices(model: str, *, path: Path | None = None, today: date | None = None) -> Price | None:
    """Return the newest price of a model that is not of the future, or None if the file has none.

    Args:
        model: Name as requests have it.
        path: The file; default ``data/prices.toml`` of the root, else of the lab, else the one that arislab came with.
        today: Default: today in UTC.

    Raises:
        ParameterError: The file is not TOML, or an entry breaks the form; also one of another model.

    Warns:
        UserWarning: The price is older than 180 days.
    """
    today = today or datetime.now(UTC).date()
    known = [p for p in _read(path or _default()) if p.model == model and p.as_of <= today]
    if not known:
        return None
    newest = max(known, key=lambda price: price.as_of)
    if (days := (today - newest.as_of).days) > _STALE_DAYS:
        warnings.warn(
            f"the price of {model!r} is of {newest.as_of}, {days} days ago; look at {newest.source} and add a new "
            f"[[price]] to {path or _default()}.",
            stacklevel=2,
        )
    return newest


def _default() -> Path:
    root = os.environ.get("ARISLAB_ROOT")
    folders = [folder / "data" for folder in (root and Path(root), paths.lab(), paths.SHIPPED) if folder]
    return next((f / "prices.toml" for f in folders if (f / "prices.toml").is_file()), folders[0] / "prices.toml")


def _read(path: Path) -> list[Price]:
    if not path.is_file():
        return []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not TOML ({error}); its first lines show the form of an entry.") from None
    entries = content.pop("price", [])
    if content or not isinstance(entries, list):
        raise ParameterError(f"{path} may hold [[price]] entries only, got {', '.join(content) or 'one [price]'}.")
    known = [_price(entry, n, path) for n, entry in enumerate(entries, start=1)]
    if twice := {(p.model, p.as_of) for p in known if sum((q.model, q.as_of) == (p.model, p.as_of) for q in known) > 1}:
        model, day = min(twice)
        raise ParameterError(f"{path} has two prices of {model!r} as of {day}; keep one, or date them apart.")
    return known


def _price(entry: dict[str, Any], n: int, path: Path) -> Price:
    """One entry, checked; ``n`` counts from 1."""
    names = [field.name for field in fields(Price)]
    wrong = [f"{name} is missing" for name in names if name not in entry]
    wrong += [f"{name!r} is unknown" for name in entry if name not in names]
    for name in ("model", "source"):
        if name in entry and not (isinstance(entry[name], str) and entry[name].strip()):
            wrong.append(f"{name} must be a text, got {entry[name]!r}")
    if "as_of" in entry and type(entry["as_of"]) is not date:  # a datetime is a date too, and no day
        wrong.append(f"as_of must be a day without quotes such as 2026-11-01, got {entry['as_of']!r}")
    for name in ("usd_per_million_prompt", "usd_per_million_completion"):
        value = entry.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            wrong.append(f"{name} must be US dollars in 0..1,000,000, got {value!r}")
    if wrong:
        raise ParameterError(
            f"entry {n} of {path} ({entry.get('model', 'no model')}): {'; '.join(wrong)}. An entry has "
            f"{', '.join(names)}."
        )
    return Price(**entry)


@dataclass(frozen=True)
class Budget:
    """What a job may spend.

    It stops before the file that would pass it, and cancels what runs when the real usage passes it.

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
                f"a budget of {self.usd} USD needs prices: give usd_per_million=(prompt, answer), or a budget in "
                "tokens."
            )

    def passed(self, prompt_tokens: float, completion_tokens: float) -> bool:
        """Say whether so much is more than allowed."""
        if self.tokens is not None and prompt_tokens + completion_tokens > self.tokens:
            return True
        spent = self.spent_usd(prompt_tokens, completion_tokens)
        return spent is not None and self.usd is not None and spent > self.usd

    def spent_usd(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Return what so much costs, in USD; null without a limit in USD.

        Example:
            >>> Budget(usd=5.0, usd_per_million=(0.5, 2.0)).spent_usd(2_000_000, 500_000)
            2.0
        """
        if self.usd is None or self.usd_per_million is None:
            return None
        return (prompt_tokens * self.usd_per_million[0] + completion_tokens * self.usd_per_million[1]) / 1e6
