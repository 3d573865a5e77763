"""A batch has ended: what it brought is fetched, kept and judged, and its lines are settled in the ledger.

Results are on disk before the ledger says so, in the transaction that says so: of two processes that fetched one batch
only one writes. What the files say is in ``results``. This module does not know what is sent.
"""

import warnings
from pathlib import Path
from typing import Any

from arislab.batch import claims, results, spending
from arislab.batch.accounts import next_step
from arislab.batch.protocol import ANSWERED, outcome
from arislab.batch.results import Part, Sorted
from arislab.batch.work import Work


def settle(work: Work, shard: dict[str, Any], batch: Any, ended: str, twins: list[tuple[str, Any, str | None]]) -> None:
    """Fetch what a batch and its twins brought, settle its lines, and claim again those that failed for a while."""
    names = work.ledger.lines(shard["id"])
    ends = [(str(shard["batch_id"]), batch, ended), *twins]
    lines, parts = results.gather(ends, names, server=work.server, folder=work.folder)
    ended = "lost" if parts[0].fetched.is_gone else ended
    reason, codes = results.problems(batch, Path(shard["path"])) if ended == "failed" else ("", set())
    if "token_limit_exceeded" in codes and not lines.raws:  # all that it lacked was room
        # as a new attempt, hence under a new mark: under the old one the batch that failed would be adopted
        work.ledger.advance(shard, state="planned", batch_id=None, file_id=None, attempt=shard["attempt"] + 1)
        return
    statuses = dict.fromkeys(names, _absent(work, ended, codes))
    for name, one in lines.outcomes.items():
        is_empty = one["status"] == "unavailable" and '"code":"empty_response"' in one["error"]
        is_second = is_empty and shard["attempt"] > 1  # twice nothing: the model has no answer to this
        statuses[name] = "error" if is_second else one["status"]
    state, error = "collected", ended
    if not lines.raws and ended == "failed":
        state, error = "refused", reason
    elif not lines.raws and ended == "lost":
        gone = "the result file is gone at the server"
        state, error = "lost", gone if batch is not None else "the server does not know the batch any more"
    elif ended == "completed" and not any(status in ANSWERED for status in statuses.values()):
        state, error = "fruitless", "completed without a single answer; " + lines.example(names)

    def write() -> None:
        for part in parts:
            results.store(work.folder, part.batch_id, part.fetched)
        for twin in parts[1:]:
            work.ledger.note_twin(shard, twin.batch_id, n_used=len(twin.used), n_doubled=len(twin.doubled))

    work.answer_tokens[shard["id"]] = lines.tokens
    work.paid_tokens[shard["id"]] = spending.summed(part.tokens for part in parts)
    is_mine = work.ledger.settle(shard, statuses, state=state, error=error, write=write)
    if is_mine:  # after the ledger: a kill in between leaves them out of the quarantine, never twice in it
        for part in parts:
            results.quarantine(work.folder, part.batch_id, part.strange)
    claims.follow(work, shard)
    if is_mine:
        _warn(work, shard, parts, lines)


def _absent(work: Work, ended: str, codes: set[str]) -> str:
    """The status of requests that have no line in a batch that ended so.

    What cost nothing is sent again; else that is for the user to say.
    """
    if ended == "lost":
        return "unavailable" if work.server.dialect.name == "arislab" else "lost"
    if ended == "failed":
        return "unavailable" if codes & {"server_error", "token_limit_exceeded"} else "error"
    return str(outcome(None, ended)["status"])


def _warn(work: Work, shard: dict[str, Any], parts: list[Part], lines: Sorted) -> None:
    """Say what is not as it should be with a batch that was settled just now."""
    for twin in parts[1:]:
        warnings.warn(
            f"batch {shard['batch_id']} has a twin, {twin.batch_id}: a create was repeated on its way to the server, "
            f"and {sum(twin.tokens):,} tokens were spent twice. {len(twin.used):,} of its answers fill gaps, "
            f"{len(twin.doubled):,} are doubled and not used; they are in {work.folder / 'results'}, and listed in "
            "quarantine.jsonl.",
            stacklevel=5,
        )
    if lines.n_more:
        warnings.warn(
            f"{lines.n_more:,} answers of batch {shard['batch_id']} have further choices, which nobody asked for: the "
            f"first counts, all are in {work.folder / 'results'}.",
            stacklevel=5,
        )
    if shard["state"] == "fruitless":
        counts = work.ledger.counts(shard["id"])
        warnings.warn(
            f"batch {shard['batch_id']} of {shard['n']:,} requests {shard['error']}. {next_step(work, counts)}",
            stacklevel=5,
        )
