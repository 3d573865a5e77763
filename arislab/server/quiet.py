"""A log that a flood cannot fill: of each kind of record a few a while, and then how many more there were.

This module does not know what is logged.
"""

import logging
import time
from dataclasses import dataclass


@dataclass
class _Span:
    began: float
    n: int = 0
    n_left_out: int = 0


class RateLimit(logging.Filter):
    """Lets the first records of each kind pass; the first of the next span says how many were left out.

    A kind is a logger and what its message begins with before anything is filled in; a logger as a whole has a limit
    too, for messages that are all different. What is below a warning has ten times the room.

    Args:
        per_kind: warnings and errors of one kind in a span.
        per_logger: warnings and errors of one logger in a span.
        span_s: seconds of a span.
    """

    def __init__(self, *, per_kind: int = 20, per_logger: int = 100, span_s: float = 10.0):
        super().__init__()
        self._per_kind, self._per_logger, self._span_s = per_kind, per_logger, span_s
        self._spans: dict[tuple[str, bool, str], _Span] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        is_loud = record.levelno >= logging.WARNING
        room = 1 if is_loud else 10
        whole = self._span(record.name, "", is_loud=is_loud)
        if whole.n >= self._per_logger * room:
            whole.n_left_out += 1
            return False
        kind = self._span(record.name, str(record.msg)[:40], is_loud=is_loud)
        if kind.n >= self._per_kind * room:
            kind.n_left_out += 1
            return False
        if n := kind.n_left_out + whole.n_left_out:
            record.msg, record.args = f"{record.getMessage()} (and {n} like it were left out before)", None
        for span in (whole, kind):
            span.n, span.n_left_out = span.n + 1, 0
        return True

    def _span(self, name: str, kind: str, *, is_loud: bool) -> _Span:
        now, key = time.monotonic(), (name, is_loud, kind)
        span = self._spans.get(key)
        if span is None or now - span.began > self._span_s:
            if len(self._spans) > 1000:  # messages that are all different
                self._spans = {k: s for k, s in self._spans.items() if now - s.began <= self._span_s}
            span = self._spans[key] = _Span(now, n_left_out=span.n_left_out if span is not None else 0)
        return span
