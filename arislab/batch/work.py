"""What a job knows of its requests: which they are, in which shards of the ledger they lie, and what they took so far.

What is done with them are functions of one trade each: ``claims`` (whose is a request), ``outgoing`` (which file may go
out now), ``settling`` (a batch ended), ``accounts`` (what became of each), ``spending``. ``job`` is what a notebook has
of it. This module does nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch.connection import Server
from arislab.batch.cost import Budget
from arislab.batch.ledger import OPEN, Ledger
from arislab.batch.watch import Watch


@dataclass
class Work:
    """Requests, and where they stand."""

    requests: pl.DataFrame
    """One row per distinct request without a recorded answer."""
    server: Server
    folder: Path
    ledger: Ledger = field(repr=False)
    window: int = 8
    attempts: int = 3
    budget: Budget | None = None
    usd_per_million: tuple[float, float] | None = None
    """Price of a million prompt and of a million answer tokens; null: unknown, and no money is shown."""
    max_lines: int = 50_000
    max_bytes: int = 190_000_000
    shards: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Rows of the ledger: this job's own files and the earlier ones that hold its requests."""
    n_recorded: int = 0
    """Distinct requests whose answer was recorded before; they are no part of the job."""
    seconds: float = 0.0
    """Time spent in ``wait``."""
    unsendable: dict[str, str] = field(default_factory=dict, repr=False)
    """custom_ids that no file can hold, and why."""
    answer_tokens: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    """By shard that ended in this process: prompt and answer tokens of the lines that count."""
    paid_tokens: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    """The same with those of twins, whose answers are paid as well."""
    paired: set[int] = field(default_factory=set, repr=False)
    """Shards for whose batch a twin was looked for."""
    is_stopped: bool = False
    """The budget is spent: nothing more is sent."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.server)

    def open_shards(self) -> list[dict[str, Any]]:
        """Return the shards that are on their way, or wait to be sent."""
        return [shard for shard in self.shards if shard["state"] in OPEN]
