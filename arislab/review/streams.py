"""In what order a reviewer decided, when what one browser could not send comes late.

Source:
    Hybrid logical clocks (Kulkarni et al. 2014): an event goes by the time at which it was decided, but after what was
    decided before in the same browser.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


class Streams:
    """Which seq each number (client_seq) that a browser counts its events by got.

    Example:
        >>> streams = Streams()
        >>> streams.learn([{"reviewer": "Ada", "client_seq": 1, "seq": 2_000}])
        >>> streams.seq({"client_seq": 2}, "Ada", at=datetime.fromtimestamp(0.001), before=[])
        2001
    """

    def __init__(self) -> None:
        self._seqs = dict[tuple[str, int | None], int]()

    def learn(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take over events: reviewer, client_seq and seq of each.

        Where two browsers used a number, the earlier one stays.
        """
        for event in events:
            number, seq = event["client_seq"], event["seq"] or 0
            known = self._seqs.setdefault((event["reviewer"], number), seq)
            self._seqs[event["reviewer"], number] = max(known, seq) if number is None else min(known, seq)

    def seq(self, event: Mapping[str, Any], reviewer: str, *, at: datetime, before: Sequence[Mapping[str, Any]]) -> int:
        """Return the seq of a new event: microseconds since 1970, but after what the same browser said before it.

        Of another browser of the same reviewer nothing follows: what it could not send for hours is as old as it says.

        Args:
            event: As the browser says it.
            reviewer: Who decided.
            at: When it was decided.
            before: What the same browser says before it, with its seq.
        """
        number = event.get("client_seq")
        in_order = self._seqs.get((reviewer, None if number is None else number - 1), -1)
        return max(int(at.timestamp() * 1e6), max(in_order, before[-1]["seq"] if before else -1) + 1)
