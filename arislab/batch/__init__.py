"""Requests in, rows out, over any server that speaks OpenAI's Files and Batches.

It knows neither tasks nor what an answer is worth.
"""

from arislab.batch.budget import Budget
from arislab.batch.connection import Server, connect
from arislab.batch.cost import Price, prices
from arislab.batch.job import Job, send_together, submit
from arislab.batch.protocol import AGAIN, ANSWERED, ASK, canonical, outcome
from arislab.batch.requests import (
    Estimate,
    Plan,
    Preview,
    Table,
    answer,
    build_requests,
    cancel,
    collect,
    custom_id,
    dry_run,
    isolation,
    plan,
    preview,
    read_requests,
    reuse_finished,
    states,
    status,
)

__all__ = [
    "AGAIN",
    "ANSWERED",
    "ASK",
    "Budget",
    "Estimate",
    "Job",
    "Plan",
    "Preview",
    "Price",
    "Server",
    "Table",
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
    "send_together",
    "states",
    "status",
    "submit",
]
