"""Which files go out now, and which are let go.

The window, the budget and a server that mixes models say so; how one file becomes a batch is in ``sending``. This
module does not know what comes back.
"""

import warnings
from typing import Any

from arislab.batch import claims, mixing, sending, spending
from arislab.batch.ledger import OPEN, UNSENT
from arislab.batch.protocol import ASK
from arislab.batch.work import Work


def begin(work: Work, resend: set[str]) -> None:
    """Claim the requests of a job, say which stay as they are, and send what may be sent now."""
    work.unsendable = {}
    for name, body in work.requests.select("custom_id", "body").iter_rows():
        if problem := sending.unsendable(body):
            work.unsendable[name] = problem
    wanted = work.requests["custom_id"]
    if work.unsendable:
        wanted = wanted.filter(~wanted.is_in(list(work.unsendable)))
    stay = claims.claim(work, wanted, claims.again(work, resend))
    asked = {status: sum(s == status for s in stay.values()) for status in ASK}
    if any(asked.values()):
        counts = ", ".join(f"{n:,} {status}" for status, n in asked.items() if n)
        names = tuple(status for status, n in asked.items() if n)
        warnings.warn(
            f"{counts} of earlier runs are not sent again by themselves, as that may cost or fail again; "
            f"resend={names!r} sends them.",
            stacklevel=3,
        )
    pump(work)


def pump(work: Work) -> None:
    """Send planned files while the window and the budget have room."""
    for shard in work.open_shards():
        if shard["state"] == "submitted":
            continue
        n_sent = sum(s["state"] == "submitted" for s in work.shards)
        n_open = n_sent + sum(s["state"] in ("uploading", "creating") for s in work.shards)
        if shard["state"] == "planned" and n_open >= work.window:
            break
        if shard["state"] == "planned" and not _may_stand_beside(work, shard):
            continue
        n_before = n_open if shard["state"] == "planned" else n_sent  # one that a kill left half sent goes first
        if work.budget and n_before and spending.mean_tokens(work) is None:
            continue  # the first file is the pilot: it tells what a request takes
        if work.is_stopped or (work.budget and not spending.affords(work, shard)):
            if shard["state"] == "planned":
                _withdraw(work, shard)
            continue
        is_held = work.ledger.hold(shard) and shard["state"] in UNSENT
        if is_held and not sending.send(shard, server=work.server, ledger=work.ledger):
            break
        if shard["state"] not in OPEN:  # another process sent it, and saw its end
            claims.follow(work, shard)
    work.shards = [s for s in work.shards if s["state"] != "withdrawn"]


def _may_stand_beside(work: Work, shard: dict[str, Any]) -> bool:
    """Whether a batch may be sent now.

    It may not go beside one of another model, also of another process, unless the server keeps the two apart.
    """
    sent = "server = ? and state in ('uploading', 'creating', 'submitted')"
    beside = {sending.model_of(other["path"]) for other in work.ledger.rows(sent, work.server.identity)}
    return keeps_apart(work, {sending.model_of(shard["path"]), *beside})


def keeps_apart(work: Work, models: set[str]) -> bool:
    """Whether a server is known to answer each of these models' requests with that model."""
    if len(models) < 2 or mixing.sees_to_it(work.server):
        return True
    verdict = mixing.known(work.server, models, folder=work.folder)
    return verdict is not None and verdict.is_together


def cancel(work: Work) -> None:
    """Stop what is on its way; lines that have an answer stay, those that were not sent are let go."""
    for shard in work.open_shards():
        _cancel(work, shard)


def _cancel(work: Work, shard: dict[str, Any]) -> None:
    is_creating = shard["state"] in UNSENT and work.ledger.hold(shard) and shard["state"] == "creating"
    if is_creating and not sending.adopt(shard, server=work.server, ledger=work.ledger):
        # it may still be made: whether it is sent again is for the user to say
        names = work.ledger.lines(shard["id"])
        work.ledger.settle(shard, dict.fromkeys(names, "cancelled"), state="lost", error="unconfirmed")
    if shard["state"] in ("planned", "uploading"):
        _withdraw(work, shard)
    elif shard["state"] == "submitted":
        sending.cancel_batch(work.server, shard["batch_id"])  # if it has ended meanwhile, it is fetched as it is


def _withdraw(work: Work, shard: dict[str, Any]) -> None:
    """Let go of a shard for which no batch was asked."""
    if work.ledger.hold(shard) and shard["state"] in ("planned", "uploading"):
        work.ledger.withdraw(shard)
    work.shards = [s for s in work.shards if s["state"] != "withdrawn"]
