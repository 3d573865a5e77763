"""Requests on their way: cut into files, sent, watched, fetched and accounted for, through crashes of either side.

What is trusted: bytes and custom_ids. What is not: the order of lines, counts, a status of ``completed``, retries of
others. The ledger records each intent before it is acted on; running the same cell again continues. What a job knows
is in ``work``, where its trades are named too. This module does not know the lake or any task.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from random import uniform
from typing import Any

import polars as pl

from arislab.batch import accounts, claims, mixing, outgoing, sending, settling, spending
from arislab.batch.connection import Server
from arislab.batch.cost import Budget
from arislab.batch.ledger import OPEN, Ledger
from arislab.batch.protocol import AGAIN, ASK, canonical
from arislab.batch.results import BrokenError
from arislab.batch.sending import find_batch
from arislab.batch.work import Work
from arislab.errors import BatchError, ParameterError
from arislab.system import spilled
from arislab.system.kinds import to_polars

_NEAR_S, _FAR_S = (0.2, 2.0), (1.0, 60.0)
"""Seconds between looks at batches, the first and the longest: of arislab's own server, and of others."""


def submit(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    resend: Iterable[str] = (),
    max_lines: int | None = None,
    max_bytes: int | None = None,
    window: int = 8,
    attempts: int = 3,
    budget: Budget | None = None,
    usd_per_million: tuple[float, float] | None = None,
) -> "Job":
    """Send every distinct request that has no recorded answer and is not on its way already.

    They go in as few batches as the server allows.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: Holds the ledger, the files sent and the files received.
        answered: custom_ids whose answers are recorded; they are not sent.
        resend: Statuses of earlier failures to send again although it may cost or fail again: error, lost, cancelled.
        max_lines: Requests a batch; default and most: the dialect's limit.
        max_bytes: Bytes a file; likewise.
        window: Batches that may be open at the server at once.
        attempts: How often a request is sent in one run when it fails for reasons that pass.
        budget: Null: no limit.
        usd_per_million: Price of a million prompt and of a million answer tokens, by which what is spent is shown;
            null: that of ``data/prices.toml``, if it knows every model that is asked.

    Raises:
        ParameterError: resend names another status.
        BatchError: The server refused a file or a batch; nothing was spent for it.
    """
    given = {resend} if isinstance(resend, str) else set(resend)
    if strange := given - set(ASK) - set(AGAIN):
        raise ParameterError(f"resend must name statuses of {', '.join(ASK)}, got {sorted(strange)[0]!r}.")
    job = prepare(
        requests,
        server=server,
        folder=folder,
        answered=answered,
        max_lines=max_lines,
        max_bytes=max_bytes,
        window=window,
        attempts=attempts,
        budget=budget,
        usd_per_million=usd_per_million or spending.price_of(requests["model"].unique().sort().to_list()),
    )
    if job.is_one_at_a_time():
        mixing.stop(job.server, mixing.known(job.server, job.requests["model"], folder=job.folder))
    outgoing.begin(job, given)
    return job


def prepare(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    max_lines: int | None = None,
    max_bytes: int | None = None,
    **limits: Any,
) -> "Job":
    """Return the job of the distinct requests without a recorded answer, before anything is claimed or sent.

    Arguments as in ``submit``.
    """
    requests, done = to_polars(requests), to_polars(answered)
    done = pl.Series(done if isinstance(done, pl.Series) else list(done), dtype=pl.String)
    names = requests["custom_id"]
    is_first, is_done = names.is_first_distinct(), names.is_in(done.implode())
    most = server.dialect
    return Job(
        requests=spilled.taken(requests, (is_first & ~is_done).arg_true()),
        server=server,
        folder=Path(folder),
        ledger=Ledger(Path(folder)),
        max_lines=min(max_lines or most.max_requests, most.max_requests),
        max_bytes=min(max_bytes or most.max_bytes, most.max_bytes),
        n_recorded=int((is_first & is_done).sum()),
        **limits,
    )


def send_together(server: Server, folder: Path, asks: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Send requests (custom_id, body) so that the server has all at once, and return the texts of the answers.

    They go in one file, or where the server takes only files of one model, in one batch per model; of batches that did
    not run at the same time no text is returned.
    """
    rows = [(name, body["model"], canonical(body)) for name, body in asks]
    requests = pl.DataFrame(rows, schema=["custom_id", "model", "body"], orient="row")
    try:
        return _texts(requests.with_columns(model=pl.lit("")), server, folder / "one")
    except BatchError:
        return _texts(requests, server, folder / "each")


def _texts(requests: pl.DataFrame, server: Server, folder: Path) -> dict[str, str]:
    job = Job(requests, server, folder, Ledger(folder))
    try:
        outgoing.begin(job, set())
        answers = job.wait().collect()
        batches = job.batches()
    finally:
        job.ledger.close()
    if len(batches) > 1:  # one after the other they would prove nothing about models asked together
        ended = [one.completed_at or 0 if one else 0 for one in batches]
        if max(one.in_progress_at or one.created_at for one in batches if one) > min(ended):
            return {}
    return dict(answers.filter(pl.col("llm_output").is_not_null()).select("custom_id", "llm_output").iter_rows())


class Job(Work):
    """Requests on their way. ``wait`` for them, then ``collect`` the answers."""

    @property
    def batch_ids(self) -> list[str]:
        """Names of the batches at the server."""
        return [str(shard["batch_id"]) for shard in self.shards if shard["batch_id"]]

    def batches(self) -> list[Any]:
        """Return the server's view of each batch, now."""
        return [find_batch(self.server, batch_id) for batch_id in self.batch_ids]

    def wait(self, *, poll_s: float | None = None) -> "Job":
        """Show progress, send what waits, fetch what has ended, send again what failed for a while.

        It returns when all is accounted for. Interrupting it and calling it again is safe, also in another process.

        Args:
            poll_s: Seconds between looks; null: 0.2 growing to 2 for a server on this machine, 1 growing to 60 for
                others.

        Raises:
            BatchError: No progress at all for long, every batch refused, or a server that stays away.
        """
        from tqdm.auto import tqdm

        began = moved = time.monotonic()
        is_near = self.server.dialect.name == "arislab"
        (pause, longest), n_done = _NEAR_S if is_near else _FAR_S, 0
        with tqdm(
            total=self.requests.height, unit="req", desc="batch", disable=not self.open_shards(), mininterval=1.0
        ) as bar:
            while self.open_shards():
                n_before, states = n_done, [shard["state"] for shard in self.shards]
                live = self.look()
                outgoing.pump(self)
                n_done = self._n_done(live)  # of these batches: others' requests in them are waited for too
                bar.n = min(self.requests.height, n_done)
                bar.set_postfix_str(spending.in_words(self, live.values()), refresh=False)
                bar.refresh()
                if n_done != n_before or states != [shard["state"] for shard in self.shards]:
                    moved, pause = time.monotonic(), min(pause, 2.0)
                if left := self.open_shards():
                    done = f"{bar.n:,} of {self.requests.height:,} done"
                    self.watch.check_stall(str(left[0]["batch_id"]), still_s=time.monotonic() - moved, done=done)
                    # drawn, so that notebooks that began together do not ask together for ever
                    time.sleep(poll_s if poll_s is not None else uniform(0.7, 1.0) * pause)
                    pause = min(longest, pause * 1.3)
        self.seconds += time.monotonic() - began
        return self

    def collect(self) -> pl.DataFrame:
        """Return one row per request, in the columns of ``training_data_raw`` (without task).

        Those that failed have one too, and only those that were not sent because the budget was reached have none.
        Collecting again is free: results lie in the folder.

        Raises:
            BatchError: A batch is still on its way; the server refused everything that was sent; or a batch completed
                without a single answer, and this server never answered anything that was asked from this folder. Where
                it has, a batch of prompts that do not fit, or of the few that failed before, is rows with their status.
        """
        return accounts.collect(self)

    def account(self) -> dict[str, int]:
        """Return how many requests are in which state; the sum is the number of requests.

        ``open``: on their way; ``unsent``: never sent.
        """
        return accounts.account(self)

    def fruitless(self) -> dict[str, Any] | None:
        """Return the first batch that completed without a single answer, if nothing else that was asked has one."""
        return accounts.fruitless(self)

    def lines(self) -> dict[str, bytes]:
        """Return the line that a server wrote for each request, or an error line that says why there is none.

        What is on its way has none.
        """
        return accounts.lines(self)

    def is_one_at_a_time(self) -> bool:
        """Whether batches of one model wait for those of another.

        They do where the server mixes models, or nobody has looked (``batch.isolation``).
        """
        return not outgoing.keeps_apart(self, set(self.requests["model"]))

    def cancel(self) -> None:
        """Stop what is on its way; lines that have an answer stay, those that were not sent are let go."""
        outgoing.cancel(self)

    def again(self, resend: set[str]) -> set[str]:
        """Return the statuses whose requests are sent again."""
        return claims.again(self, resend)

    def look(self) -> dict[int, Any]:
        """Ask for the open batches, fetch those that have ended, and say what the others tell."""
        sent = [shard for shard in self.shards if shard["state"] == "submitted"]
        listed = self._sweep(sent)
        live: dict[int, Any] = {}
        twins_live: list[Any] = []
        broken: list[BrokenError] = []
        for shard in sent:
            self.ledger.reload(shard)
            if shard["state"] != "submitted":  # another process saw its end
                claims.follow(self, shard)
                continue
            batch = listed.get(shard["batch_id"]) or find_batch(self.server, shard["batch_id"])
            ended = self.watch.ended(shard["batch_id"], batch)
            if ended == "lost" and self._has_survivor(shard):
                continue  # it is watched from the next look on
            if batch is not None:
                self.watch.check_words(shard, batch)
            twins = self._twins(shard)
            still = [twin for _, twin, how in twins if how is None]
            if ended is None or still:  # the answers of a twin are paid: they are waited for
                live |= {shard["id"]: batch} if batch is not None else {}
                twins_live += still
                continue
            try:
                settling.settle(self, shard, batch, ended, twins)
            except BrokenError as error:  # raised below: one broken file must not keep the others from being fetched
                broken.append(error)
        if broken:
            raise broken[0]
        if spending.is_passed(self, [*live.values(), *twins_live]):
            outgoing.cancel(self)
        return live

    def __repr__(self) -> str:
        states = ", ".join(f"{n:,} {state}" for state, n in self.account().items())
        return f"Job: {self.requests.height:,} requests in {len(self.shards)} batches ({states or 'nothing to send'})"

    def _sweep(self, sent: list[dict[str, Any]]) -> dict[str, Any]:
        """List the newest batches where that is one call for many, and once for each new one: it may have a twin."""
        is_once = self.server.dialect.idempotency_key
        new = [] if is_once else [shard for shard in sent if shard["id"] not in self.paired]
        if not new and len(sent) <= 3:
            return {}
        batches = sending.listed(self.server, "batches", 100) or []
        for shard in new:
            sending.find_twins(shard, batches, server=self.server, ledger=self.ledger)
            self.paired.add(shard["id"])
        return {batch.id: batch for batch in batches} if len(sent) > 3 else {}

    def _has_survivor(self, shard: dict[str, Any]) -> bool:
        """Whether a twin that nobody knew of takes the place of a batch that the server forgot."""
        if self.server.dialect.idempotency_key or self.ledger.twins(shard["id"]):  # none, or waited for already
            return False
        return sending.find_survivor(shard, server=self.server, ledger=self.ledger)

    def _twins(self, shard: dict[str, Any]) -> list[tuple[str, Any, str | None]]:
        """The twins of a shard's batch: name, the server's view, and how each ended; one that runs is cancelled."""
        ends = []
        for twin in self.ledger.twins(shard["id"]):
            if twin["state"] != "found":
                continue
            batch = find_batch(self.server, twin["batch_id"])
            ended = self.watch.ended(twin["batch_id"], batch)
            if ended is None and batch is not None and self.server.dialect.status(batch.status) != "cancelling":
                sending.cancel_batch(self.server, twin["batch_id"])
            ends.append((twin["batch_id"], batch, ended))
        return ends

    def _n_done(self, live: dict[int, Any]) -> int:
        # for the bar alone: counts of servers say nothing, and nothing is decided by them
        counts = [batch.request_counts for batch in live.values() if batch.request_counts is not None]
        ended = sum(s["n"] for s in self.shards if s["state"] not in OPEN)
        return int(ended + sum(c.completed + c.failed for c in counts))
