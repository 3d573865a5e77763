"""Votes of people about pairs of answers: what one event of the table ``arm_votes`` holds.

What is compared, and what votes come to, is not known here (``pairwise``).
"""

from typing import Any

import polars as pl

VOTES = ("left", "right", "tie", "skip", "flag", "undo")
"""What an event may be: a side is better, neither is; skip and flag say nothing of them; undo takes one back."""
_TIME = pl.Datetime("us", "UTC")
SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("event_id", "pair_id", "reviewer", "vote", "shown_sha256"), pl.String),
    "seq": pl.Int64,
    **dict.fromkeys(("shown_at", "decided_at"), _TIME),
    **dict.fromkeys(("dwell_ms", "client_seq"), pl.Int64),
    **dict.fromkeys(("session", "undoes"), pl.String),
}
"""Columns of an event."""
