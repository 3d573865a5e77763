"""Whose a request is: it is claimed by one shard of the ledger at a time, and again when it failed for a while.

This module does not know which file is sent, or when.
"""

from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch import kept, sending
from arislab.batch.protocol import AGAIN
from arislab.batch.work import Work


def again(work: Work, resend: set[str]) -> set[str]:
    """The statuses whose requests are sent again.

    They are those of failures that pass, those that were consented to, and on a server of one's own all failures.
    """
    free = {"error", "lost"} if work.server.dialect.name == "arislab" else set()
    return set(AGAIN) | resend | free


def claim(work: Work, names: pl.Series, statuses: set[str], attempts: int | None = None) -> dict[str, str]:
    """Claim what is free, and attach to what is on its way; the lines that stay as they are come back."""

    # called within the ledger's transaction: the files are on disk before another process can see the claim, and one
    # that was killed in between leaves files that no row names, and that the same bytes take up again
    def write(free: list[str]) -> list[tuple[str, Path, int, list[str]]]:
        part = sending.among(work.requests, free)
        pieces = sending.cut(part, max_lines=work.max_lines, max_bytes=work.max_bytes)
        return [(*kept.keep_requests(work.folder, content), len(content), ids) for ids, content in pieces]

    rows, stay = work.ledger.claim(names, server=work.server.identity, resend=statuses, write=write, attempts=attempts)
    have = {shard["id"] for shard in work.shards}
    work.shards += [row for row in rows if row["id"] not in have]
    return stay


def follow(work: Work, shard: dict[str, Any]) -> None:
    """Claim again the lines of a settled shard that failed for a while, or attach to the process that did."""
    mine = set(work.requests["custom_id"])
    failed = [n for n, status in work.ledger.lines(shard["id"]).items() if status in AGAIN and n in mine]
    if failed and not work.is_stopped:
        claim(work, pl.Series(failed, dtype=pl.String), set(AGAIN), work.attempts)
