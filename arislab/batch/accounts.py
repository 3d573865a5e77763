"""What became of each request of a job: counts, rows, lines, and what to do about those without an answer.

The ledger says which, the result files say what; every request is in one count and in one row. This module asks no
server.
"""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from arislab.batch import results
from arislab.batch.ledger import FETCHED
from arislab.batch.protocol import AGAIN, ANSWERED, ASK, canonical, offered, outcome
from arislab.batch.results import Sorted
from arislab.batch.work import Work
from arislab.errors import BatchError
from arislab.system import spilled


def collect(work: Work) -> pl.DataFrame:
    """Return one row per request; see ``Job.collect``."""
    if left := work.open_shards():
        raise BatchError(
            f"batch {left[0]['batch_id'] or left[0]['shard'][:12]} has not ended ({left[0]['state']}); call wait() "
            "first."
        )
    refused = [shard for shard in work.shards if shard["state"] == "refused"]
    if refused and len(refused) == len(work.shards) and work.requests.height:
        raise BatchError(
            f"the server refused batch {refused[0]['batch_id']} as a whole ({refused[0]['error']}); mend the requests, "
            "or what the server lacks, and run the cell again with resend=('error',)."
        )
    n = account(work)
    if (first := fruitless(work)) and not _has_answered(work):
        raise BatchError(
            f"none of {work.requests.height:,} requests has an answer: batch {first['batch_id']} {first['error']}. "
            f"{next_step(work, n)} What came lies in {work.folder / 'results'}."
        )
    tools = [  # few bodies have any, and parsing them all takes longer than the rest of this
        offered(json.loads(b)) if '"tools":' in b or '"functions":' in b else None for b in work.requests["body"]
    ]
    sent, came = work.requests.drop("body").with_columns(tools=pl.Series(tools, dtype=pl.String)), _outcomes(work)
    # by the names alone: a join of the frames would copy all texts of large ones
    names = [frame.select("custom_id").with_row_index(row) for row, frame in (("_sent", sent), ("_came", came))]
    both = names[0].join(names[1], on="custom_id", how="inner", maintain_order="left")
    frame = spilled.taken(sent, both["_sent"]).hstack(spilled.taken(came.drop("custom_id"), both["_came"]))
    # a server may add the version to the name: gpt-x answers as gpt-x-2026-08-01; an alias is answered by its model
    asked_for = pl.col("model").replace(work.server.aliases)
    other = frame.filter(~pl.col("model_returned").str.starts_with(asked_for))
    if other.height:
        asked, answered = other.row(0, named=True)["model"], other.row(0, named=True)["model_returned"]
        warnings.warn(
            f"{other.height:,} answers come from a model of another name than was asked for (asked {asked!r}, "
            f"answered {answered!r}); both names are recorded. If these are not the same weights, do not use the rows.",
            stacklevel=3,
        )
    if frame.height + n.get("unsent", 0) != work.requests.height or sum(n.values()) != work.requests.height:
        raise BatchError(
            f"{work.requests.height:,} requests, {frame.height:,} accounted for ({n}); this is a defect of arislab."
        )
    return frame  # one row per request


def account(work: Work) -> dict[str, int]:
    """Return how many requests are in which state; the sum is the number of requests.

    ``open``: on their way; ``unsent``: never sent.
    """
    known = dict.fromkeys(work.requests["custom_id"], "unsent")
    for shard in work.shards:
        for name, status in work.ledger.lines(shard["id"]).items():
            if name in known and known[name] not in ANSWERED:
                known[name] = status or "open"
    known |= dict.fromkeys(work.unsendable, "error")
    counts: dict[str, int] = {}
    for status in known.values():
        counts[status] = counts.get(status, 0) + 1
    return dict(sorted(counts.items()))


def fruitless(work: Work) -> dict[str, Any] | None:
    """Return the first batch that completed without a single answer, if nothing else that was asked has one either."""
    without = [shard for shard in work.shards if shard["state"] == "fruitless"]
    if not without:
        return None
    counts = account(work)
    return None if any(counts.get(status) for status in ANSWERED) else without[0]


def _has_answered(work: Work) -> bool:
    """Whether anything of what was asked is recorded, or the server once answered a batch of this folder."""
    state = "state = 'collected' and server = ?"
    return bool(work.n_recorded) or bool(work.ledger.rows(state, work.server.identity))


def lines(work: Work) -> dict[str, bytes]:
    """Return the line that a server wrote for each request, or an error line that says why there is none.

    What is on its way has none.
    """
    written: dict[str, bytes] = {}
    done: set[str] = set()
    mine = set(work.requests["custom_id"])
    for shard in work.shards:
        raws = _read(work, shard).raws
        for name, status in work.ledger.lines(shard["id"]).items():
            if name in mine and name not in done and status is not None:
                why = {"code": status, "message": shard["error"] or f"no line came in batch {shard['batch_id']}"}
                absent = {"id": None, "custom_id": name, "response": None, "error": why}
                written[name] = raws.get(name) or canonical(absent).encode()
                done |= {name} if status in ANSWERED else set()
    return written


def next_step(work: Work, counts: dict[str, int]) -> str:
    """What to do about requests without an answer."""
    again = " or ".join(status for status in AGAIN if counts.get(status))
    asked = tuple(status for status in ASK if counts.get(status) and work.server.dialect.name != "arislab")
    by_itself = f"What is {again} is sent again by itself, {work.attempts} times a run at most. " if again else ""
    consent = f" with resend={asked!r}" if asked else ""
    return f"{by_itself}Mend the requests or the server, as the error says, and run the cell again{consent}."


def _read(work: Work, shard: dict[str, Any]) -> Sorted:
    """The lines of a shard that was fetched, with those of its twins."""
    if shard["state"] not in FETCHED:
        return Sorted()
    twins = [twin["batch_id"] for twin in work.ledger.twins(shard["id"]) if twin["state"] == "merged"]
    return results.read(work.folder, [str(shard["batch_id"]), *twins], work.ledger.lines(shard["id"]))


def _outcomes(work: Work) -> pl.DataFrame:
    """What became of each request that was sent, or could not be."""
    rows = spilled.frames(_by_shard(work))
    # the answer, else the last try; by the names alone, without copies of the texts
    last = rows.select("custom_id").with_row_index("_row").unique("custom_id", keep="last", maintain_order=True)
    return spilled.taken(rows, last["_row"])


def _by_shard(work: Work) -> Iterator[pl.DataFrame]:
    """One frame a shard, so that few objects live at once."""
    left = set(work.requests["custom_id"])
    yield pl.DataFrame(schema=results.SCHEMA)
    for shard in work.shards:
        lines = {name: status for name, status in work.ledger.lines(shard["id"]).items() if name in left}
        yield results.rows(_read(work, shard), shard, lines, folder=work.folder)
        left -= {name for name, status in lines.items() if status in ANSWERED}
    for name, problem in work.unsendable.items():
        why = canonical({"code": "not_sendable", "message": problem})
        row = outcome(None, "") | {"custom_id": name, "status": "error", "error": why}
        yield pl.DataFrame([row], schema=results.SCHEMA, strict=False)
