"""What a notebook says at its end: the account of its rows, and the numbers that its run is remembered by.

A headline is shown as text and as a table, and travels in the executed notebook under its own MIME type, where the run
record picks it up. This module does not know any phase.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arislab.errors import BatchError, ParameterError
from arislab.records.text import number_text
from arislab.system import frames
from arislab.system.text import AS_IS, html

HEADLINE_MIME = "application/vnd.arislab.headline+json"


@dataclass(frozen=True)
class Account:
    """A total and the states that its rows ended in; they add up."""

    total: int
    """Rows that went in."""
    label: str
    """What a row is, in the plural."""
    states: dict[str, int]
    """State to rows; every row is in exactly one."""

    def __repr__(self) -> str:
        parts = [f"{n:,} {name.replace('_', ' ')}" for name, n in self.states.items() if n] or ["0"]
        return f"{self.total:,} {self.label} = " + " + ".join(parts)

    def _repr_html_(self) -> str:
        return f"<b {AS_IS}>{html(repr(self))}</b>"


def account(total: int, *, label: str = "candidates", **states: int) -> Account:
    """Return the account of ``total`` rows by the state each ended in.

    Raises:
        BatchError: The states do not add up to the total.

    Example:
        >>> account(6000, ok=5870, truncated=61, same_request_as_another=69)
        6,000 candidates = 5,870 ok + 61 truncated + 69 same request as another
    """
    counts = {name: int(n) for name, n in states.items()}
    reached = sum(counts.values())
    if reached != total or min(counts.values(), default=0) < 0:
        parts = " + ".join(f"{n:,} {name}" for name, n in counts.items()) or "no state"
        raise BatchError(
            f"the account of {total:,} {label} does not add up: {parts} = {reached:,} ({reached - total:+,}); "
            f"every row must end in exactly one state, so look for rows dropped or counted twice."
        )
    return Account(int(total), label, counts)


@dataclass(frozen=True)
class Headline:
    """The numbers that a run is remembered by; ends up in its record when a cell shows it."""

    numbers: dict[str, Any]
    """Name to number, text, or {mean, low, high, n}; ``account`` is {total, label, states}."""

    def __repr__(self) -> str:
        return as_text(self.numbers)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        known = {name: number_text(value) for name, value in self.numbers.items() if name != "account"}
        rows = [[name.replace("_", " "), text] for name, text in known.items()]
        caption = _account_text(self.numbers) if "account" in self.numbers else ""
        return {
            "text/plain": repr(self),
            "text/html": frames.markup((), rows, is_text=[True, True], caption=caption),
            HEADLINE_MIME: self.numbers,
        }


def headline(account: Account | None = None, **numbers: Any) -> Headline:
    """Return the run's headline; make it the value of the last cell.

    Args:
        account: Where the rows went.
        numbers: Each a number, text, a (mean, low, high, n) tuple, or an object with these attributes. nan becomes
            null.
    """
    plain: dict[str, Any] = {} if account is None else {"account": dataclasses.asdict(account)}
    for name, value in numbers.items():
        if isinstance(value, tuple) and len(value) == 4:
            value = dict(zip(("mean", "low", "high", "n"), value, strict=True))
        elif all(hasattr(value, part) for part in ("mean", "low", "high", "n")):
            value = {part: getattr(value, part) for part in ("mean", "low", "high", "n")}
        plain[name] = (
            {k: _scalar(name, v) for k, v in value.items()} if isinstance(value, dict) else _scalar(name, value)
        )
    return Headline(plain)


def _scalar(name: str, value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ParameterError(
        f"headline {name}={value!r} cannot stand in a record; give a number, text, or (mean, low, high, n)."
    )


def _account_text(numbers: Mapping[str, Any]) -> str:
    return repr(Account(**numbers["account"]))


def as_text(numbers: Mapping[str, Any], *, indent: str = "") -> str:
    """Return a headline as lines of text: the account, then one number a line."""
    rows = {name: number_text(value) for name, value in numbers.items() if name != "account"}
    width = max(map(len, rows), default=0)
    lines = [_account_text(numbers)] if "account" in numbers else []
    lines += [f"{name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join(indent + line for line in lines)
