"""Requests on their way: cut into files, sent, watched, fetched and accounted for, through crashes of either side.

What is trusted: bytes and custom_ids. What is not: the order of lines, counts, a status of ``completed``, retries of
others. The ledger records each intent before it is acted on; running the same cell again continues. How a file becomes
a batch is in ``sending``, what its result files say in ``results``. This module does not know the lake or any task.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import uniform
from typing import Any

import polars as pl

from arislab.batch import mixing, results, sending
from arislab.batch.connection import Server
from arislab.batch.cost import Budget
from arislab.batch.ledger import FETCHED, OPEN, UNSENT, Ledger, keep
from arislab.batch.protocol import AGAIN, ANSWERED, ASK, canonical, offered, outcome
from arislab.batch.results import BrokenError, Part, Sorted
from arislab.batch.sending import cut, find_batch, unsendable
from arislab.batch.watch import Watch
from arislab.errors import BatchError, ParameterError


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
) -> "Job":
    """Send every distinct request that has no recorded answer and is not on its way already, in as few batches as the server allows.

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

    Raises:
        ParameterError: resend names another status.
        BatchError: The server refused a file or a batch; nothing was spent for it.
    """
    given = {resend} if isinstance(resend, str) else set(resend)
    if strange := given - set(ASK) - set(AGAIN):
        raise ParameterError(f"resend must name statuses of {', '.join(ASK)}, got {sorted(strange)[0]!r}.")
    done = set(answered)
    distinct = requests.unique("custom_id", keep="first", maintain_order=True)
    todo = distinct.filter(~pl.col("custom_id").is_in(list(done))) if done else distinct
    most = server.dialect
    job = Job(
        requests=todo,
        server=server,
        folder=Path(folder),
        ledger=Ledger(Path(folder)),
        window=window,
        attempts=attempts,
        budget=budget,
        max_lines=min(max_lines or most.max_requests, most.max_requests),
        max_bytes=min(max_bytes or most.max_bytes, most.max_bytes),
        n_recorded=distinct.height - todo.height,
    )
    if job.is_one_at_a_time():
        mixing.stop(job.server, mixing.known(job.server, todo["model"], folder=job.folder))
    job._begin(given)
    return job


def send_together(server: Server, folder: Path, asks: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Send requests (custom_id, body) so that the server has all at once, and return the texts of those that were answered.

    In one file, and where the server takes only files of one model, in one batch per model; none are returned of
    batches that did not run at the same time.
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
        job._begin(set())
        answers = job.wait().collect()
        batches = job.batches()
    finally:
        job.ledger.close()
    if len(batches) > 1:
        ended = [one.completed_at or 0 if one else 0 for one in batches]
        if max(one.in_progress_at or one.created_at for one in batches if one) > min(ended):
            return {}
    return dict(answers.filter(pl.col("llm_output").is_not_null()).select("custom_id", "llm_output").iter_rows())


@dataclass
class Job:
    """Requests on their way. ``wait`` for them, then ``collect`` the answers."""

    requests: pl.DataFrame
    """One row per distinct request without a recorded answer."""
    server: Server
    folder: Path
    ledger: Ledger = field(repr=False)
    window: int = 8
    attempts: int = 3
    budget: Budget | None = None
    max_lines: int = 50_000
    max_bytes: int = 190_000_000
    shards: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Rows of the ledger: this job's own files and the earlier ones that hold its requests."""
    n_recorded: int = 0
    """Distinct requests whose answer was recorded before; they are no part of the job."""
    seconds: float = 0.0
    """Time spent in ``wait``."""
    _unsendable: dict[str, str] = field(default_factory=dict, repr=False)
    _answered: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)  # tokens of the lines that count
    _paid: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)  # and of twins
    _paired: set[int] = field(default_factory=set, repr=False)
    _is_stopped: bool = False

    def __post_init__(self) -> None:
        self._watch = Watch(self.server)

    @property
    def batch_ids(self) -> list[str]:
        """Names of the batches at the server."""
        return [str(shard["batch_id"]) for shard in self.shards if shard["batch_id"]]

    def batches(self) -> list[Any]:
        """Return the server's view of each batch, now."""
        return [find_batch(self.server, batch_id) for batch_id in self.batch_ids]

    def wait(self, *, poll_s: float | None = None) -> "Job":
        """Show progress, send what waits, fetch what has ended, send again what failed for a while.

        Until all is accounted for.

        Interrupting and calling it again is safe, also in another process.

        Args:
            poll_s: Seconds between looks; null: 0.2 growing to 2 for a server on this machine, 1 growing to 60 for
                others.

        Raises:
            BatchError: No progress at all for long, every batch refused, or a server that stays away.
        """
        from tqdm.auto import tqdm

        began = moved = time.monotonic()
        is_near = self.server.dialect.name == "arislab"
        pause, longest = (0.2, 2.0) if is_near else (1.0, 60.0)
        with tqdm(
            total=self.requests.height, unit="req", desc="batch", disable=not self._open(), mininterval=1.0
        ) as bar:
            while self._open():
                n_before, states = bar.n, [shard["state"] for shard in self.shards]
                live = self.look()
                self._pump()
                bar.n = min(self.requests.height, self._n_done(live))
                bar.refresh()
                if bar.n != n_before or states != [shard["state"] for shard in self.shards]:
                    moved, pause = time.monotonic(), min(pause, 2.0)
                if left := self._open():
                    done = f"{bar.n:,} of {self.requests.height:,} done"
                    self._watch.check_stall(str(left[0]["batch_id"]), still_s=time.monotonic() - moved, done=done)
                    time.sleep(poll_s if poll_s is not None else uniform(0.7, 1.0) * pause)
                    pause = min(longest, pause * 1.3)
        self.seconds += time.monotonic() - began
        return self

    def collect(self) -> pl.DataFrame:
        """Return one row per request, in the columns of ``training_data_raw`` (without task).

        Also for those that failed.

        Requests that were not sent because the budget was reached have no row. Collecting again is free: results lie in
        the folder.

        Raises:
            BatchError: A batch is still on its way; the server refused everything that was sent; or a batch completed
                without a single answer, and this server never answered anything that was asked from this folder. Where
                it has, a batch of prompts that do not fit, or of the few that failed before, is rows with their status.
        """
        if left := self._open():
            raise BatchError(
                f"batch {left[0]['batch_id'] or left[0]['shard'][:12]} has not ended ({left[0]['state']}); call wait() first."
            )
        refused = [shard for shard in self.shards if shard["state"] == "refused"]
        if refused and len(refused) == len(self.shards) and self.requests.height:
            raise BatchError(
                f"the server refused batch {refused[0]['batch_id']} as a whole ({refused[0]['error']}); mend the requests, or what the "
                "server lacks, and run the cell again with resend=('error',)."
            )
        n = self.account()
        if (first := self.fruitless()) and not self._has_answered():
            raise BatchError(
                f"none of {self.requests.height:,} requests has an answer: batch {first['batch_id']} {first['error']}. "
                f"{self._next(n)} What came lies in {self.folder / 'results'}."
            )
        tools = [
            offered(json.loads(b)) if '"tools":' in b or '"functions":' in b else None for b in self.requests["body"]
        ]
        frame = (
            self.requests.drop("body")
            .with_columns(tools=pl.Series(tools, dtype=pl.String))
            .join(self._outcomes(), on="custom_id", how="inner", maintain_order="left")
        )
        other = frame.filter(~pl.col("model_returned").str.starts_with(pl.col("model")))
        if other.height:
            asked, came = other.row(0, named=True)["model"], other.row(0, named=True)["model_returned"]
            warnings.warn(
                f"{other.height:,} answers come from a model of another name than was asked for (asked {asked!r}, answered {came!r}); both "
                "names are recorded. If these are not the same weights, do not use the rows.",
                stacklevel=2,
            )
        if frame.height + n.get("unsent", 0) != self.requests.height or sum(n.values()) != self.requests.height:
            raise BatchError(
                f"{self.requests.height:,} requests, {frame.height:,} accounted for ({n}); this is a defect of arislab."
            )
        return frame  # one row per request

    def account(self) -> dict[str, int]:
        """Return how many requests are in which state; the sum is the number of requests.

        ``open``: on their way; ``unsent``: never sent.
        """
        known = dict.fromkeys(self.requests["custom_id"], "unsent")
        for shard in self.shards:
            for name, status in self.ledger.lines(shard["id"]).items():
                if name in known and known[name] not in ANSWERED:
                    known[name] = status or "open"
        known |= dict.fromkeys(self._unsendable, "error")
        counts: dict[str, int] = {}
        for status in known.values():
            counts[status] = counts.get(status, 0) + 1
        return dict(sorted(counts.items()))

    def fruitless(self) -> dict[str, Any] | None:
        """Return the first batch that completed without a single answer, if nothing else that was asked has an answer either."""
        counts = self.account()
        found = [shard for shard in self.shards if shard["state"] == "fruitless"]
        return found[0] if found and not any(counts.get(status) for status in ANSWERED) else None

    def _has_answered(self) -> bool:
        """Whether anything of what was asked is recorded, or the server once answered a batch of this folder."""
        state = "state = 'collected' and server = ?"
        return bool(self.n_recorded) or bool(self.ledger.rows(state, self.server.identity))

    def lines(self) -> dict[str, bytes]:
        """Return the line that a server wrote for each request, or an error line that says why there is none.

        Nothing for what is on its way.
        """
        lines: dict[str, bytes] = {}
        done: set[str] = set()
        mine = set(self.requests["custom_id"])
        for shard in self.shards:
            came = self._read(shard).raws
            for name, status in self.ledger.lines(shard["id"]).items():
                if name in mine and name not in done and status is not None:
                    why = {"code": status, "message": shard["error"] or f"no line came in batch {shard['batch_id']}"}
                    absent = {"id": None, "custom_id": name, "response": None, "error": why}
                    lines[name] = came.get(name) or canonical(absent).encode()
                    done |= {name} if status in ANSWERED else set()
        return lines

    def is_one_at_a_time(self) -> bool:
        """Whether batches of one model wait for those of another.

        The server mixes models, or nobody has looked (``batch.isolation``).
        """
        return not self._keeps_apart(set(self.requests["model"]))

    def cancel(self) -> None:
        """Stop what is on its way; lines that have an answer stay, those that were not sent are let go."""
        for shard in self._open():
            self._cancel(shard)

    def again(self, resend: set[str]) -> set[str]:
        """The statuses whose requests are sent again.

        What passes, what was consented to, and on a server of one's own all failures.
        """
        free = {"error", "lost"} if self.server.dialect.name == "arislab" else set()
        return set(AGAIN) | resend | free

    def __repr__(self) -> str:
        states = ", ".join(f"{n:,} {state}" for state, n in self.account().items())
        return f"Job: {self.requests.height:,} requests in {len(self.shards)} batches ({states or 'nothing to send'})"

    # -- sending -------------------------------------------------------------------------------------------------------

    def _begin(self, resend: set[str]) -> None:
        self._unsendable = {}
        for name, body in self.requests.select("custom_id", "body").iter_rows():
            if problem := unsendable(body):
                self._unsendable[name] = problem
        wanted = [name for name in self.requests["custom_id"] if name not in self._unsendable]
        stay = self._claim(wanted, self.again(resend))
        asked = {status: sum(s == status for s in stay.values()) for status in ASK}
        if any(asked.values()):
            told = ", ".join(f"{n:,} {status}" for status, n in asked.items() if n)
            names = tuple(status for status, n in asked.items() if n)
            warnings.warn(
                f"{told} of earlier runs are not sent again by themselves, as that may cost or fail again; resend={names!r} sends them.",
                stacklevel=3,
            )
        self._pump()

    def _claim(self, names: list[str], again: set[str], attempts: int | None = None) -> dict[str, str]:
        """Claim what is free, and attach to what is on its way; the lines that stay as they are come back."""
        wanted = set(names)
        bodies = self.requests.filter(pl.col("custom_id").is_in(list(wanted))) if names else self.requests.clear()

        def write(free: list[str]) -> list[tuple[str, Path, int, list[str]]]:
            part = bodies.filter(pl.col("custom_id").is_in(free))
            return [
                self._write(ids, content)
                for ids, content in cut(part, max_lines=self.max_lines, max_bytes=self.max_bytes)
            ]

        rows, stay = self.ledger.claim(names, server=self.server.identity, resend=again, write=write, attempts=attempts)
        have = {shard["id"] for shard in self.shards}
        self.shards += [row for row in rows if row["id"] not in have]
        return stay

    def _write(self, ids: list[str], content: bytes) -> tuple[str, Path, int, list[str]]:
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / "requests" / f"{digest[:16]}.jsonl"
        if not path.is_file():
            keep(path, content)
        return digest, path, len(content), ids

    def _pump(self) -> None:
        """Send planned files while the window and the budget have room."""
        for shard in self._open():
            n_open = sum(s["state"] in ("uploading", "creating", "submitted") for s in self.shards)
            if shard["state"] == "submitted":
                continue
            if shard["state"] == "planned" and n_open >= self.window:
                break
            if shard["state"] == "planned" and not self._may_stand_beside(shard):
                continue
            if self.budget and n_open and self._mean_tokens() is None:
                break  # the first file is the pilot: it tells what a request takes
            if self._is_stopped or (self.budget and not self._affords(shard)):
                if shard["state"] == "planned":
                    self._withdraw(shard)
                continue
            is_held = self.ledger.hold(shard) and shard["state"] in UNSENT
            if is_held and not sending.send(shard, server=self.server, ledger=self.ledger):
                break
            if shard["state"] not in OPEN:  # another process sent it, and saw its end
                self._follow(shard)
        self.shards = [s for s in self.shards if s["state"] != "withdrawn"]

    def _may_stand_beside(self, shard: dict[str, Any]) -> bool:
        """Whether a batch may be sent now.

        Not beside one of another model, also of another process, unless the server keeps the two apart.
        """
        sent = "server = ? and state in ('uploading', 'creating', 'submitted')"
        beside = {sending.model_of(other["path"]) for other in self.ledger.rows(sent, self.server.identity)}
        return self._keeps_apart({sending.model_of(shard["path"]), *beside})

    def _keeps_apart(self, models: set[str]) -> bool:
        if len(models) < 2 or mixing.sees_to_it(self.server):  # that one sees to it itself
            return True
        found = mixing.known(self.server, models, folder=self.folder)
        return found is not None and found.is_together

    def _withdraw(self, shard: dict[str, Any]) -> None:
        """Let go of a shard for which no batch was asked."""
        if self.ledger.hold(shard) and shard["state"] in ("planned", "uploading"):
            self.ledger.withdraw(shard)
        self.shards = [s for s in self.shards if s["state"] != "withdrawn"]

    def _affords(self, shard: dict[str, Any]) -> bool:
        """Whether the budget allows one more file; says so once if it does not."""
        assert self.budget is not None
        mean = self._mean_tokens() or (0.0, 0.0)
        waiting = [s for s in self.shards if s["state"] == "submitted"]
        spent, n = _sum(self._paid.values()), shard["n"] + sum(s["n"] for s in waiting)
        if not self.budget.passed(spent[0] + n * mean[0], spent[1] + n * mean[1]):
            return True
        if not self._is_stopped:
            self._is_stopped = True
            warnings.warn(
                f"the budget ({self.budget}) has no room for the next {shard['n']:,} requests: they are not sent. Raise it and run the "
                "cell again to go on.",
                stacklevel=5,
            )
        return False

    def _mean_tokens(self) -> tuple[float, float] | None:
        n = sum(sum(self.ledger.counts(i).get(s, 0) for s in ("ok", "truncated")) for i in self._answered)
        if n:
            prompt, answers = _sum(self._answered.values())
            return prompt / n, answers / n
        return self.budget.per_request if self.budget else None

    # -- watching ------------------------------------------------------------------------------------------------------

    def _open(self) -> list[dict[str, Any]]:
        return [shard for shard in self.shards if shard["state"] in OPEN]

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
                self._follow(shard)
                continue
            batch = listed.get(shard["batch_id"]) or find_batch(self.server, shard["batch_id"])
            ended = self._watch.ended(shard["batch_id"], batch)
            if ended == "lost" and self._has_survivor(shard):
                continue  # it is watched from the next look on
            if batch is not None:
                self._watch.check_words(shard, batch)
            twins = self._twins(shard)
            still = [twin for _, twin, how in twins if how is None]
            if ended is None or still:  # the answers of a twin are paid: they are waited for
                live |= {shard["id"]: batch} if batch is not None else {}
                twins_live += still
                continue
            try:
                self._end(shard, batch, ended, twins)
            except BrokenError as error:
                broken.append(error)
        if broken:
            raise broken[0]
        self._watch_budget([*live.values(), *twins_live])
        return live

    def _sweep(self, sent: list[dict[str, Any]]) -> dict[str, Any]:
        """List the newest batches where that is one call for many, and once for each new one, to see whether it has a twin."""
        is_once = self.server.dialect.idempotency_key
        new = [] if is_once else [shard for shard in sent if shard["id"] not in self._paired]
        if not new and len(sent) <= 3:
            return {}
        batches = sending.listed(self.server, "batches", 100) or []
        for shard in new:
            sending.find_twins(shard, batches, server=self.server, ledger=self.ledger)
            self._paired.add(shard["id"])
        return {batch.id: batch for batch in batches} if len(sent) > 3 else {}

    def _has_survivor(self, shard: dict[str, Any]) -> bool:
        """Whether a twin that nobody knew of takes the place of a batch that the server forgot."""
        if self.server.dialect.idempotency_key or self.ledger.twins(shard["id"]):  # none, or waited for already
            return False
        return sending.find_survivor(shard, server=self.server, ledger=self.ledger)

    def _twins(self, shard: dict[str, Any]) -> list[tuple[str, Any, str | None]]:
        """The twins of a shard's batch: name, the server's view, and how each ended; one that runs is cancelled."""
        found = []
        for twin in self.ledger.twins(shard["id"]):
            if twin["state"] != "found":
                continue
            batch = find_batch(self.server, twin["batch_id"])
            ended = self._watch.ended(twin["batch_id"], batch)
            if ended is None and batch is not None and self.server.dialect.status(batch.status) != "cancelling":
                sending.cancel_batch(self.server, twin["batch_id"])
            found.append((twin["batch_id"], batch, ended))
        return found

    def _watch_budget(self, live: list[Any]) -> None:
        """Cancel what runs when what it used already passes the budget."""
        if self.budget is None or self._is_stopped:
            return
        prompt, answers = _sum(self._paid.values())
        for batch in live:
            usage = getattr(batch, "usage", None)
            prompt += getattr(usage, "input_tokens", 0) or 0
            answers += getattr(usage, "output_tokens", 0) or 0
        if self.budget.passed(prompt, answers):
            self._is_stopped = True
            warnings.warn(
                f"the budget ({self.budget}) is spent: what runs is cancelled, answers so far stay.", stacklevel=4
            )
            for shard in self._open():
                self._cancel(shard)

    def _cancel(self, shard: dict[str, Any]) -> None:
        is_creating = shard["state"] in UNSENT and self.ledger.hold(shard) and shard["state"] == "creating"
        if is_creating and not sending.adopt(shard, server=self.server, ledger=self.ledger):
            # it may still be made: whether it is sent again is for the user to say
            names = self.ledger.lines(shard["id"])
            self.ledger.settle(shard, dict.fromkeys(names, "cancelled"), state="lost", error="unconfirmed")
        if shard["state"] in ("planned", "uploading"):
            self._withdraw(shard)
        elif shard["state"] == "submitted":
            sending.cancel_batch(self.server, shard["batch_id"])  # if it has ended meanwhile, it is fetched as it is

    def _n_done(self, live: dict[int, Any]) -> int:
        counts = [batch.request_counts for batch in live.values() if batch.request_counts is not None]
        ended = sum(s["n"] for s in self.shards if s["state"] not in OPEN)
        return int(ended + sum(c.completed + c.failed for c in counts))

    # -- what came -----------------------------------------------------------------------------------------------------

    def _end(self, shard: dict[str, Any], batch: Any, ended: str, twins: list[tuple[str, Any, str | None]]) -> None:
        """Fetch what a batch and its twins brought, settle its lines, and claim again those that failed for a while."""
        names = self.ledger.lines(shard["id"])
        ends = [(str(shard["batch_id"]), batch, ended), *twins]
        found, parts = results.gather(ends, names, server=self.server, folder=self.folder)
        ended = "lost" if parts[0].fetched.is_gone else ended
        told, codes = results.problems(batch, Path(shard["path"])) if ended == "failed" else ("", set())
        if "token_limit_exceeded" in codes and not found.raws:  # all that it lacked was room
            self.ledger.advance(shard, state="planned", batch_id=None, file_id=None, attempt=shard["attempt"] + 1)
            return
        statuses = dict.fromkeys(names, self._absent(ended, codes))
        for name, one in found.outcomes.items():
            is_empty = one["status"] == "unavailable" and '"code":"empty_response"' in one["error"]
            is_second = is_empty and shard["attempt"] > 1  # twice nothing: the model has no answer to this
            statuses[name] = "error" if is_second else one["status"]
        state, error = "collected", ended
        if ended == "failed" and not found.raws:
            state, error = "refused", told
        elif ended == "lost" and not found.raws:
            state, error = "lost", "the result file is gone at the server"
            error = error if batch is not None else "the server does not know the batch any more"
        elif ended == "completed" and not any(status in ANSWERED for status in statuses.values()):
            state, error = "fruitless", "completed without a single answer; " + found.example(names)

        def write() -> None:
            for part in parts:
                results.store(self.folder, part.batch_id, part.fetched)
            for twin in parts[1:]:
                self.ledger.note_twin(shard, twin.batch_id, n_used=len(twin.used), n_doubled=len(twin.doubled))

        self._answered[shard["id"]], self._paid[shard["id"]] = found.tokens, _sum(part.tokens for part in parts)
        is_mine = self.ledger.settle(shard, statuses, state=state, error=error, write=write)
        if is_mine:
            for part in parts:
                results.quarantine(self.folder, part.batch_id, part.strange)
        self._follow(shard)
        if is_mine:
            self._tell(shard, parts, found)

    def _absent(self, ended: str, codes: set[str]) -> str:
        """The status of requests that have no line in a batch that ended so.

        What cost nothing is sent again; else that is for the user to say.
        """
        if ended == "lost":
            return "unavailable" if self.server.dialect.name == "arislab" else "lost"
        if ended == "failed":
            return "unavailable" if codes & {"server_error", "token_limit_exceeded"} else "error"
        return str(outcome(None, ended)["status"])

    def _tell(self, shard: dict[str, Any], parts: list[Part], found: Sorted) -> None:
        """Say what is not as it should be with a batch that was settled just now."""
        for twin in parts[1:]:
            warnings.warn(
                f"batch {shard['batch_id']} has a twin, {twin.batch_id}: a create was repeated on its way to the server, and "
                f"{sum(twin.tokens):,} tokens were spent twice. {len(twin.used):,} of its answers fill gaps, {len(twin.doubled):,} are doubled "
                f"and not used; they are in {self.folder / 'results'}, and listed in quarantine.jsonl.",
                stacklevel=5,
            )
        if found.n_more:
            warnings.warn(
                f"{found.n_more:,} answers of batch {shard['batch_id']} have further choices, which nobody asked for: the first counts, all are "
                f"in {self.folder / 'results'}.",
                stacklevel=5,
            )
        if shard["state"] == "fruitless":
            counts = self.ledger.counts(shard["id"])
            warnings.warn(
                f"batch {shard['batch_id']} of {shard['n']:,} requests {shard['error']}. {self._next(counts)}",
                stacklevel=5,
            )

    def _next(self, counts: dict[str, int]) -> str:
        """What to do about requests without an answer."""
        again = " or ".join(status for status in AGAIN if counts.get(status))
        asked = tuple(status for status in ASK if counts.get(status) and self.server.dialect.name != "arislab")
        told = f"What is {again} is sent again by itself, {self.attempts} times a run at most. " if again else ""
        consent = f" with resend={asked!r}" if asked else ""
        return f"{told}Mend the requests or the server, as the error says, and run the cell again{consent}."

    def _follow(self, shard: dict[str, Any]) -> None:
        """Claim again the lines of a settled shard that failed for a while, or attach to the process that did."""
        mine = set(self.requests["custom_id"])
        failed = [n for n, status in self.ledger.lines(shard["id"]).items() if status in AGAIN and n in mine]
        if failed and not self._is_stopped:
            self._claim(failed, set(AGAIN), self.attempts)

    def _read(self, shard: dict[str, Any]) -> Sorted:
        """The lines of a shard that was fetched, with those of its twins."""
        if shard["state"] not in FETCHED:
            return Sorted()
        twins = [twin["batch_id"] for twin in self.ledger.twins(shard["id"]) if twin["state"] == "merged"]
        return results.read(self.folder, [str(shard["batch_id"]), *twins], self.ledger.lines(shard["id"]))

    def _outcomes(self) -> pl.DataFrame:
        """What became of each request that was sent, or could not be.

        One frame a shard, so that few objects live at once.
        """
        left = set(self.requests["custom_id"])
        frames = [pl.DataFrame(schema=results.SCHEMA)]
        for shard in self.shards:
            lines = {name: status for name, status in self.ledger.lines(shard["id"]).items() if name in left}
            frames.append(results.rows(self._read(shard), shard, lines, folder=self.folder))
            left -= {name for name, status in lines.items() if status in ANSWERED}
        for name, problem in self._unsendable.items():
            why = canonical({"code": "not_sendable", "message": problem})
            row = outcome(None, "") | {"custom_id": name, "status": "error", "error": why}
            frames.append(pl.DataFrame([row], schema=results.SCHEMA, strict=False))
        return pl.concat(frames).unique("custom_id", keep="last", maintain_order=True)  # the answer, else the last try


def _sum(tokens: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Prompt and answer tokens together."""
    both = list(tokens)
    return sum(prompt for prompt, _ in both), sum(answers for _, answers in both)
