"""Answers to requests: those that are recorded, and those that are asked for now.

This module does not know the lake; it is given rows, and how to write more.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch import mixing
from arislab.batch.connection import Server
from arislab.batch.cost import Budget
from arislab.batch.job import send_together, submit
from arislab.batch.ledger import Ledger
from arislab.batch.protocol import ANSWERED, canonical
from arislab.batch.requests import LIMITS, REQUEST
from arislab.isolation import Isolation
from arislab.system.kinds import takes_any_frame

RECORDED = [
    "custom_id", "stem", "request_sha256", "status", "llm_output", "tool_calls", "tools", "error", "finish_reason",
    "prompt_tokens", "completion_tokens",
]  # fmt: skip
"""Columns of ``training_data_raw`` by which requests find what is recorded of them."""
OUTCOMES = [name for name in RECORDED if name not in ("llm_output", "tool_calls", "tools")]
"""``RECORDED`` without the texts, by far the most of it: enough where what became of requests is asked, not what they
say."""
_ANSWER = [name for name in RECORDED if name not in ("stem", "request_sha256")]  # requests have their own


class Recorded:
    """Rows of a table that were read once, and that grow by what this process writes.

    Each read of a lake table is digested for the run's record, so a search of many rounds that read its table again in
    each would mostly read. What other processes write meanwhile is not seen here, and need not be: requests on their
    way, and answers that came but are in no row yet, stand in the ledger of the folder, which ``submit`` asks in the
    transaction that claims what it sends.

    Args:
        frame: Rows as they were read, such as ``lake["training_data_raw"].read(columns=batch.RECORDED)``.
        write: Makes rows durable and replaces those with the same key, such as ``lake["training_data_raw"].upsert``.
        key: Columns that tell rows apart, those of the table.
    """

    def __init__(
        self, frame: pl.DataFrame, *, write: Callable[[pl.DataFrame], object], key: Sequence[str] = ("custom_id",)
    ) -> None:
        self.frame, self.write, self.key = frame, write, list(key)

    def add(self, rows: pl.DataFrame) -> None:
        """Write rows, then know them.

        Were it the other way round, a failed write would pass for an answer that is recorded.
        """
        self.write(rows)
        have = rows.select(name for name in self.frame.columns if name in rows.columns)
        others = self.frame.join(have, on=self.key, how="anti", maintain_order="left")
        self.frame = pl.concat([others, have.cast({n: self.frame.schema[n] for n in have.columns})], how="diagonal")

    def of(self, requests: pl.DataFrame) -> pl.DataFrame:
        """Return what is recorded of requests: one row per recorded one."""
        return self.frame.join(requests.select("custom_id").unique(), on="custom_id", how="semi", maintain_order="left")

    @property
    def answered(self) -> pl.Series:
        """custom_ids that have an answer, for ``submit``."""
        return self.frame.filter(pl.col("status").is_in(ANSWERED))["custom_id"]

    def __repr__(self) -> str:
        return f"Recorded: {self.frame.height:,} rows"


@takes_any_frame
def reuse_finished(requests: pl.DataFrame, recorded: pl.DataFrame) -> pl.DataFrame:
    """Let requests whose question was answered in full under another max_tokens stand for that recorded request.

    An answer that ended by itself within the limit is the same under any limit that it fits in (same seed, same model).
    So after raising max_tokens only the truncated rows are new. Columns custom_id and request_sha256 are those of the
    recorded request.

    Args:
        requests: From ``build_requests``; reads custom_id, stem, body.
        recorded: Rows of ``training_data_raw``: custom_id, stem (null: fits nothing), status, completion_tokens,
            request_sha256.
    """
    whole = recorded.filter(pl.col("status").is_in(["ok", "refused", "empty"]), pl.col("stem").is_not_null())
    known = whole.select("custom_id", "stem", "status", "completion_tokens", "request_sha256")
    asked = requests.select("custom_id", "stem", "body").join(known.select("stem"), on="stem", how="semi")
    limits = pl.Series("limit", [_limit(json.loads(body)) for body in asked["body"]], dtype=pl.Int64)
    asked = asked.select("custom_id", "stem", limits).unique("custom_id")
    fits = (
        known.rename({"custom_id": "known_id", "request_sha256": "known_sha256"})
        .join(asked, on="stem")
        .filter((pl.col("known_id") == pl.col("custom_id")) | (pl.col("completion_tokens") < pl.col("limit")))
        .sort(pl.col("known_id") != pl.col("custom_id"), "known_id")
        .unique("custom_id", keep="first", maintain_order=True)
    )
    if not fits.height:
        return requests
    names = requests.select("custom_id", "request_sha256").join(fits, on="custom_id", how="left", maintain_order="left")
    return requests.with_columns(
        names.select(pl.coalesce("known_id", "custom_id").alias("custom_id")).to_series(),
        names.select(pl.coalesce("known_sha256", "request_sha256").alias("request_sha256")).to_series(),
    )  # one row per row of requests


def _limit(body: dict[str, Any]) -> int:
    return min((int(body[name]) for name in LIMITS if body.get(name)), default=2**62)


@takes_any_frame
def answer(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    recorded: Recorded,
    task: str,
    resend: Iterable[str] = (),
    budget: Budget | None = None,
) -> pl.DataFrame:
    """Ask what is not recorded yet in one go, record it, and return one row per row of ``requests``.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: As in ``submit``.
        recorded: Rows of ``training_data_raw`` in the columns ``RECORDED``, or ``OUTCOMES`` where no text is needed;
            what is new is written before this returns.
        task: Name of the task, recorded with each row.
        resend: As in ``submit``.
        budget: As in ``submit``.

    Returns:
        The columns of ``requests`` with status, llm_output, error, finish_reason, prompt_tokens, completion_tokens;
        those of them that ``recorded`` has.
    """
    job = submit(
        requests.select(*REQUEST),
        server=server,
        folder=folder,
        answered=recorded.answered,
        resend=resend,
        budget=budget,
    )
    if job.requests.height:
        recorded.add(job.wait().collect().with_columns(task=pl.lit(task)))
    known = recorded.of(requests).select(name for name in _ANSWER if name in recorded.frame.columns)
    return requests.join(known, on="custom_id", how="left", maintain_order="left")  # one row per row of requests


def isolation(server: Server, *, models: Iterable[str], again: bool = False) -> Isolation:
    """Return whether a server answers with the model that was asked while it is asked for several.

    The run's record keeps it. A server that mixes them, or of which this cannot be told, gets one model at a time from
    now on.

    Args:
        server: From ``connect``.
        models: Names that will be asked for; of one there is nothing to mix, and nothing is asked.
        again: Ask although a result of the last 24 hours is known.

    Raises:
        BatchError: It answers with another model even where one is asked at a time: nothing that it says can be used.
    """
    ledger = Ledger(server.folder)
    try:
        is_busy = bool(ledger.rows("server = ? and state = 'submitted'", server.identity))
    finally:
        ledger.close()
    names = tuple(dict.fromkeys(models))
    if (
        is_busy
        and len(names) > 1
        and not (mixing.sees_to_it(server) or mixing.known(server, names, folder=server.folder))
    ):
        return Isolation(
            "cannot tell", names, problem="batches are on their way to this server, and a probe needs it alone"
        )
    return mixing.check(server, names, folder=server.folder, batches=send_together, again=again)


@takes_any_frame
def states(requests: pl.DataFrame, recorded: pl.DataFrame) -> dict[str, int]:
    """Return what became of every row of ``requests``, for the account: counts that sum to all of them.

    Args:
        requests: custom_id.
        recorded: Rows of ``training_data_raw``: custom_id, status.

    Returns:
        Status to rows; and ``same_request``, rows whose request is identical to an earlier row's and was sent once, and
        ``unsent``, rows without any record.
    """
    rows = requests.select("custom_id", shared=~pl.col("custom_id").is_first_distinct()).join(
        recorded.select("custom_id", "status"), on="custom_id", how="left"
    )
    state = pl.when(pl.col("shared")).then(pl.lit("same_request")).otherwise(pl.col("status").fill_null("unsent"))
    return dict(rows.group_by(state.alias("state")).len().sort("state").iter_rows())


def unanswered(states: Mapping[str, int]) -> int:
    """Return how many requests have no answer, of what ``states`` returned."""
    return sum(n for state, n in states.items() if state not in (*ANSWERED, "same_request"))


def run_row(
    requests: pl.DataFrame,
    states: Mapping[str, int],
    *,
    run_id: str,
    task: str,
    batch_ids: Sequence[str],
    parameters: Mapping[str, Any],
) -> pl.DataFrame:
    """Return the row of ``training_runs`` for requests that were sent.

    Args:
        requests: From ``build_requests``: candidate_id, model.
        states: From ``states``.
        run_id: Of the run.
        task: Name of the task.
        batch_ids: Of ``Job.batch_ids``.
        parameters: With which the requests were built.
    """
    row = {
        "run_id": run_id,
        "task": task,
        "batch_ids": list(batch_ids),
        "total_candidates": requests["candidate_id"].n_unique(),
        "model": requests["model"][0],
        "params": canonical(dict(parameters)),
        "status": "partial" if unanswered(states) else "complete",
    }
    return pl.DataFrame([row], schema_overrides={"batch_ids": pl.List(pl.String)})  # one row: the run
