"""A batch on its way, watched: how it ended, and what is odd about it.

Nobody is waited for for ever, and nothing is odd in silence.

This module does not know requests, results or the ledger.
"""

import calendar
import time
import warnings
from typing import Any

from arislab.batch.connection import Server
from arislab.batch.dialects import TERMINAL
from arislab.errors import BatchError

_STALL_S = 300.0
_REMOTE_STALL_S = 6 * 3600.0  # of providers batches may stand still for hours
_CANCELLING_S = 900.0
_OVERDUE_S = 600.0


class Watch:
    """What was seen of the batches of a server since the wait began.

    Args:
        server: From ``connect``.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._missing: dict[str, int] = {}
        self._cancelling: dict[str, float] = {}
        self._told: set[str] = set()

    def ended(self, batch_id: str, batch: Any) -> str | None:
        """Return how a batch has ended.

        It is one of TERMINAL, or lost if the server knows it no more; None while it is on its way.
        """
        if batch is None:
            self._missing[batch_id] = self._missing.get(batch_id, 0) + 1
            # once may be a replica that has not heard of it yet, or a server that is starting
            return "lost" if self._missing[batch_id] >= 3 else None
        self._missing.pop(batch_id, None)
        status = self.server.dialect.status(batch.status)
        if status == "cancelling":
            began = self._cancelling.setdefault(batch_id, time.monotonic())
            # some servers stay in cancelling for ever: what they have by then is fetched
            return "cancelled" if time.monotonic() - began > _CANCELLING_S else None
        return status if status in TERMINAL else None

    def check_words(self, shard: dict[str, Any], batch: Any) -> None:
        """Warn once of a status that nobody knows, and of a batch that is late.

        Stop waiting for one that has outlived its window.

        Raises:
            BatchError: The batch runs ten minutes longer than the window that the server gave it, by this machine's
                clock alone.
        """
        dialect = self.server.dialect
        if not dialect.knows(batch.status) and batch.status not in self._told:
            self._told.add(batch.status)
            warnings.warn(
                f"{self.server.base_url} says {batch.status!r} of a batch, which is no status of the protocol: it "
                "counts as in_progress.",
                stacklevel=4,
            )
        if not batch.expires_at or dialect.status(batch.status) in TERMINAL:
            return
        window_s = batch.expires_at - batch.created_at  # the server's clock may be far off
        age_s = time.time() - calendar.timegm(time.strptime(shard["changed_at"], "%Y-%m-%d %H:%M:%S"))
        if age_s > window_s + _OVERDUE_S:
            raise BatchError(
                f"batch {batch.id} is still {batch.status} {age_s / 3600:.1f} h after it was made, past its window; "
                f"nothing is lost. `arislab batch cancel {batch.id}`, then run the cell again with "
                "resend=('cancelled',)."
            )
        counts = batch.request_counts
        n_done = counts.completed + counts.failed if counts is not None else 0
        if age_s > window_s / 2 and 2 * n_done < shard["n"] and batch.id not in self._told:
            self._told.add(batch.id)
            warnings.warn(
                f"batch {batch.id} has used {age_s / 3600:.1f} of its {window_s / 3600:.1f} h, and the server says "
                f"that {n_done:,} of {shard['n']:,} requests are done. What has no answer when it expires is sent "
                f"again by itself, in a new batch (try {shard['attempt'] + 1}); to have it sooner, "
                f"`arislab batch cancel {batch.id}`, then run the cell again with resend=('cancelled',) and a smaller "
                "max_lines: answers so far stay.",
                stacklevel=4,
            )

    def check_stall(self, batch_id: str, *, still_s: float, done: str) -> None:
        """Stop waiting when nothing has moved for long.

        Args:
            batch_id: One that is waited for.
            still_s: Seconds since anything moved.
            done: What is done, for the message.

        Raises:
            BatchError: Five minutes of the embedded server, six hours of another.
        """
        embedded = self.server.base_url == "embedded"
        if still_s > (_STALL_S if embedded else _REMOTE_STALL_S):
            if embedded:
                self.server.close()
                log = self.server.folder / "server" / "server.log"
                raise BatchError(
                    f"the embedded server finished no request for {_STALL_S:.0f} s ({done}); nothing is "
                    f"lost: run the cell again, it goes on there. The server's log: {log}"
                )
            raise BatchError(
                f"batch {batch_id} made no progress for {still_s / 3600:.0f} h; nothing is lost. Run the cell again to "
                f"go on waiting, or `arislab batch cancel {batch_id}` and then resend=('cancelled',)."
            )
