"""What a folder's ledger says of its batches, and how they are collected or cancelled without their requests."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from arislab.batch.connection import Server
from arislab.batch.job import Job
from arislab.batch.ledger import OPEN, Ledger
from arislab.batch.requests import REQUEST
from arislab.batch.sending import find_batch
from arislab.errors import ParameterError


def status(folder: Path, *, server: Server | None = None) -> pl.DataFrame:
    """Return one row per batch of a folder's ledger, oldest first.

    Args:
        folder: As in ``submit``.
        server: Asked for the counts of batches that are on their way; null: the ledger alone speaks.

    Returns:
        batch_id (null before it was made), state (planned, uploading, creating, submitted, collected, fruitless,
        refused, lost), attempt, n (requests), done (requests with a result, null if unknown), lines (counts by status,
        and what twins brought), server, changed_at (UTC), error, path.
    """
    ledger, rows = Ledger(Path(folder)), []
    for shard in ledger.rows():
        done: int | None = shard["n"] if shard["state"] not in OPEN else None
        state = shard["state"]
        if server is not None and state == "submitted" and shard["server"] == server.identity:
            batch = find_batch(server, shard["batch_id"])
            state = batch.status if batch is not None else "unknown to the server"
            counts = getattr(batch, "request_counts", None)
            done = counts.completed + counts.failed if counts else None
        lines = ", ".join(f"{n:,} {what}" for what, n in ledger.counts(shard["id"]).items())
        for twin in ledger.twins(shard["id"]):
            brought = (
                f"{twin['n_used']:,} used, {twin['n_doubled']:,} doubled" if twin["state"] == "merged" else "on its way"
            )
            lines += f"; twin {twin['batch_id']}: {brought}"
        rows.append({**shard, "state": state, "done": done, "lines": lines})
    ledger.close()
    schema = {
        "batch_id": pl.String,
        "state": pl.String,
        "attempt": pl.Int64,
        "n": pl.Int64,
        "done": pl.Int64,
        "lines": pl.String,
        "server": pl.String,
        "changed_at": pl.String,
        "error": pl.String,
        "path": pl.String,
    }
    return pl.DataFrame([{k: row[k] for k in schema} for row in rows], schema=schema)  # one row per batch


def _rest(folder: Path, server: Server, batch_ids: Iterable[str] | None = None) -> Job:
    """A job of what is on its way to a server, without requests of its own."""
    ledger = Ledger(Path(folder))
    shards = ledger.rows(f"server = ? and state in {OPEN}", server.identity)
    if batch_ids is not None:
        known = {str(shard["batch_id"]) for shard in shards}
        if strange := set(batch_ids) - known:
            raise ParameterError(
                f"no batch {sorted(strange)[0]!r} is on its way from {folder}; on their way: "
                f"{', '.join(sorted(known)) or 'none'}."
            )
        shards = [shard for shard in shards if shard["batch_id"] in set(batch_ids)]
    empty = pl.DataFrame(schema=REQUEST)
    return Job(empty, server, Path(folder), ledger, shards=shards)


def cancel(folder: Path, *, server: Server, batch_ids: Iterable[str] | None = None) -> pl.DataFrame:
    """Cancel what is on its way from a folder to a server; answers so far stay. Returns ``status`` of the folder.

    Raises:
        ParameterError: A batch that is not on its way.
    """
    _rest(folder, server, batch_ids).cancel()
    return status(folder, server=server)


def collect(folder: Path, *, server: Server) -> pl.DataFrame:
    """Fetch the results of all batches that have ended, so that the server is needed no more.

    Returns ``status`` of the folder.
    """
    job = _rest(folder, server)
    job.look()
    return status(folder, server=server)
