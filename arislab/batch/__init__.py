"""Requests in, rows out, over any server that speaks OpenAI's Files and Batches.

The way of a request, a file a step: ``requests`` (written), ``estimates`` (what it would cost), ``simulation`` (how
long it would take), ``job`` (the whole of it), ``claims``, ``outgoing`` and ``sending`` (out), ``watch``, ``results``
and ``settling`` (back), ``accounts`` (what became of it), ``answers`` (recorded before, or asked for now). A server is
known by ``connection`` and ``dialects``, a line by ``protocol``, a folder of batches by ``ledger`` and ``kept``.

It knows neither tasks nor what an answer is worth.
"""

from arislab.batch.answers import (
    OUTCOMES,
    RECORDED,
    Recorded,
    answer,
    isolation,
    reuse_finished,
    run_row,
    states,
    unanswered,
)
from arislab.batch.connection import Server, connect
from arislab.batch.cost import Budget, Price, prices
from arislab.batch.estimates import Estimate, Plan, dry_run, plan
from arislab.batch.folder import cancel, collect, status
from arislab.batch.job import Job, send_together, submit
from arislab.batch.protocol import AGAIN, ANSWERED, ASK, canonical, outcome
from arislab.batch.requests import Preview, build_requests, custom_id, preview, read_requests
from arislab.batch.simulation import Forecast, simulate

__all__ = [
    "AGAIN",
    "ANSWERED",
    "ASK",
    "OUTCOMES",
    "RECORDED",
    "Budget",
    "Estimate",
    "Forecast",
    "Job",
    "Plan",
    "Preview",
    "Price",
    "Recorded",
    "Server",
    "answer",
    "build_requests",
    "cancel",
    "canonical",
    "collect",
    "connect",
    "custom_id",
    "dry_run",
    "isolation",
    "outcome",
    "plan",
    "preview",
    "prices",
    "read_requests",
    "reuse_finished",
    "run_row",
    "send_together",
    "simulate",
    "states",
    "status",
    "submit",
    "unanswered",
]
