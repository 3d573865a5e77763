"""How long a server asks to wait: the header Retry-After, of which any proxy on the way may have made anything.

One of these, where it is as it should be::

    Retry-After: 3
    Retry-After: Thu, 26 Nov 2026 23:59:59 GMT
"""

import math
import time
from email.utils import parsedate_to_datetime

MOST_S = 120.0
"""Whoever asks for more is asked again after this."""


def retry_after_s(header: str | None, *, now: float | None = None) -> float | None:
    """Return the seconds that a server asks to wait, at most ``MOST_S``.

    It is null where it asks for nothing that can be meant.

    Args:
        header: A number of seconds, or a date of HTTP.
        now: Unix time; default the clock's.

    Example:
        >>> retry_after_s("2.5"), retry_after_s("nan"), retry_after_s("-1"), retry_after_s("soon")
        (2.5, None, 0.0, None)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - (time.time() if now is None else now)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # what the parser of dates raises for odd ones
            return None
    return min(max(seconds, 0.0), MOST_S) if math.isfinite(seconds) else None
