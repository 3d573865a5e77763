"""Numbers of headlines as text. This module loads nothing but the standard library."""

from collections.abc import Mapping
from typing import Any


def number_text(value: Any) -> str:
    """Return a number of a headline as text, with its interval if it has one; of several each behind its name."""
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
        mean, low, high = (number_text(value[part]) for part in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]" + (f" n={value['n']:,}" if isinstance(value.get("n"), int) else "")
    if isinstance(value, dict):
        return ", ".join(f"{name} {number_text(part)}" for name, part in value.items()) or "none"
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def headline_line(headline: Mapping[str, Any] | None) -> str:
    """Return a headline on one line."""
    return ", ".join(f"{name} {number_text(value)}" for name, value in (headline or {}).items() if name != "account")


def short(value: Any) -> str:
    """Return a value as text of one line for a message."""
    text = repr(value.to_list() if hasattr(value, "to_list") else value)
    return text if len(text) <= 120 else f"{text[:90]}… ({len(text):,} characters)"
