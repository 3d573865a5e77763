"""Requests to raw outputs, through any server of the OpenAI Files + Batches protocol: what is asked, what it will take, what came.

The bytes of the protocol are described in ``lines``, the way of a request in ``job`` (there ``sending``, back ``results``), the
differences of servers in ``dialect``; what users type is all reachable here. This module does not know the lake or any task.
"""

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arislab import chat
from arislab.batch import mixing
from arislab.batch.budget import Budget
from arislab.batch.connection import Server, connect
from arislab.batch.job import Job, send_together, submit
from arislab.batch.ledger import OPEN, Ledger
from arislab.batch.protocol import AGAIN, ANSWERED, ASK, asked, canonical, outcome
from arislab.batch.request_lines import request
from arislab.batch.sending import cut, find_batch, unsendable
from arislab.errors import BatchError, ParameterError, TaskError
from arislab.isolation import Isolation
from arislab.lake.conditions import Where

__all__ = [
    "AGAIN",
    "ANSWERED",
    "ASK",
    "Budget",
    "Estimate",
    "Job",
    "Plan",
    "Preview",
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
    "read_requests",
    "reuse_finished",
    "send_together",
    "states",
    "status",
    "submit",
]

_REQUEST = {
    "candidate_id": pl.String,
    "sample": pl.Int32,
    "custom_id": pl.String,
    "input": pl.String,
    "messages": pl.String,
    "model": pl.String,
    "body": pl.String,
    "request_sha256": pl.String,
    "stem": pl.String,
}
_PART = 10_000
_LIMITS = ("max_tokens", "max_completion_tokens")
"""Fields that bound the length of an answer and change nothing else of it."""


class Table(Protocol):
    """What ``answer`` needs of a lake table."""

    def read(self, *, columns: list[str] | None = None, where: Where | None = None) -> pl.DataFrame:
        """Return rows."""

    def upsert(self, frame: pl.DataFrame) -> Any:
        """Write rows."""


def custom_id(body: dict[str, Any], *, sample: int) -> str:
    """Return the name of a request: a digest of the whole body and the number of the sample.

    Example:
        >>> custom_id({"model": "m", "messages": []}, sample=0)
        'r-9786e4bd910f9f13724d7c340facf9ab54a1a9f8'
    """
    return "r-" + hashlib.sha256(canonical({"body": body, "sample": sample}).encode()).hexdigest()[:40]


def build_requests(
    candidates: pl.DataFrame,
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]],
    *,
    model: str,
    temperature: float = 1.0,
    max_tokens: int = 256,
    samples: int = 1,
    seed: int = 0,
    pair_by_candidate: bool = False,
    system_role: str = "",
    **parameters: Any,
) -> pl.DataFrame:
    """Return one row per candidate and sample: candidate_id, sample, custom_id, input, messages, model, body, request_sha256, stem.

    Identical requests (candidates with the same profile) share a custom_id and are sent once. Each request carries its own random
    seed: with one seed for all, all answers draw the same random numbers and share their faults. The seed does not depend on
    max_tokens, and neither does ``stem``, which names the question: see ``reuse_finished``.

    Args:
        candidates: Reads candidate_id, profile (JSON), company, title, category, use_case.
        to_messages: Candidate (profile parsed) to chat messages.
        model: Name as the server knows it. It must name the weights: an answer recorded under it is never asked for again.
        temperature: 0 = greedy.
        max_tokens: Longest answer; a longer one is cut and gets status truncated.
        samples: Answers per candidate.
        seed: Base of the seeds of the rows.
        pair_by_candidate: True: a row's seed depends on candidate and sample alone, so that arms and example sets which ask
            about the same candidate draw the same random numbers (paired differences).
        system_role: Role in which the instructions are sent (``chat.SYSTEM_ROLES``); empty: as to_messages writes them.
        parameters: Further fields of the request body. An empty chat_template_kwargs is none: it changes no custom_id, and is not sent.

    Raises:
        ParameterError: No candidates, or a parameter out of range.
    """
    if not candidates.height:
        raise ParameterError(
            "there are no candidates to ask about; import some (arislab import FILE --as candidates) or run 1_generate."
        )
    if samples < 1 or max_tokens < 1 or temperature < 0:
        raise ParameterError(
            f"samples and max_tokens must be >= 1 and temperature >= 0, got {samples}, {max_tokens}, {temperature}."
        )
    if parameters.get("stream") or parameters.get("n", 1) != 1:
        raise ParameterError(
            f"a request of a batch has one answer, whole; got stream={parameters.get('stream')!r}, n={parameters.get('n', 1)!r}. samples=3 gives "
            "three requests, each with a seed and a row of its own."
        )
    chat.check_fields(chat_template_kwargs=parameters.get("chat_template_kwargs") or {}, system_role=system_role)
    if not parameters.get("chat_template_kwargs"):
        parameters.pop("chat_template_kwargs", None)
    frames = []
    for part in candidates.iter_slices(_PART):  # few rows as Python objects at once
        rows: list[tuple[Any, ...]] = []
        for row in part.iter_rows(named=True):
            messages = chat.in_role(written(to_messages, row | {"profile": json.loads(row["profile"])}), system_role)
            body = {
                "model": model,
                "messages": messages,
                "temperature": temperature,
                "max_tokens": max_tokens,
                **parameters,
            }
            text = _finite({name: value for name, value in body.items() if name not in _LIMITS})
            for sample in range(samples):
                drawn = f"{seed}:{sample}:{row['candidate_id'] if pair_by_candidate else text}"
                body["seed"] = int(hashlib.sha256(drawn.encode()).hexdigest()[:8], 16) >> 1
                rows.append((row["candidate_id"], sample, *_request(body, sample)))
        frames.append(pl.DataFrame(rows, schema=_REQUEST | {"candidate_id": part.schema["candidate_id"]}, orient="row"))
    return pl.concat(frames)  # one row per candidate and sample


def _finite(body: dict[str, Any]) -> str:
    """Canonical JSON of a request body without its limits."""
    try:
        return canonical(body)
    except ValueError as error:  # JSON has no NaN and no infinity
        told = {name: value for name, value in body.items() if name != "messages"}
        raise ParameterError(f"a parameter of a request must be a finite number, got {told}; mend it.") from error


def _request(body: dict[str, Any], sample: int) -> tuple[str, ...]:
    """The columns of a request from custom_id on."""
    whole, said = canonical(body), asked(body["messages"])
    return (
        custom_id(body, sample=sample),
        said.encode("utf-8", "replace").decode(),  # half a character cannot be stored
        canonical(body["messages"]),
        body["model"],
        whole,
        hashlib.sha256(whole.encode()).hexdigest(),
        _stem(body, sample),
    )


def written(
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]], candidate: dict[str, Any]
) -> list[dict[str, str]]:
    """The messages about one candidate; a task file that cannot write them is named with the candidate."""
    try:
        messages = to_messages(candidate)
        shaped = bool(messages) and all(isinstance(m["role"], str) and _is_content(m) for m in messages)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TaskError(
            f"to_messages failed on candidate {candidate['candidate_id']!r}: {type(error).__name__}: {error}. Its profile has "
            f"{', '.join(candidate['profile'])}; this task is for other candidates, or the import lacks a column."
        ) from error
    if not shaped:
        raise TaskError(
            f"to_messages gave {messages!r} for candidate {candidate['candidate_id']!r}; it must give a list of "
            "{'role': text, 'content': text or parts} with at least one entry."
        )
    return messages


def _is_content(message: dict[str, Any]) -> bool:
    """Whether a message says something: a text, parts, or calls of tools."""
    content = message.get("content")
    is_parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
    return isinstance(content, str) or is_parts or (content is None and bool(message.get("tool_calls")))


@dataclass(frozen=True)
class Preview:
    """Rendered conversations."""

    conversations: list[list[dict[str, str]]]

    def __repr__(self) -> str:
        blocks = ["\n".join(f"[{m['role']}]\n{m['content']}" for m in chat) for chat in self.conversations]
        return ("\n" + "-" * 60 + "\n").join(blocks)


def preview(requests: pl.DataFrame, *, n: int = 2) -> Preview:
    """Show the first ``n`` conversations as they will be sent."""
    return Preview([json.loads(text) for text in requests["messages"].head(n)])


def _stem(body: dict[str, Any], sample: int) -> str:
    """The name of a question: as ``custom_id``, but without the bound on the answer's length."""
    rest = {name: value for name, value in body.items() if name not in _LIMITS}
    return "s" + custom_id(rest, sample=sample)[1:]


def read_requests(path: Path) -> pl.DataFrame:
    """Return the rows of ``build_requests`` for an input file of the protocol, which keeps its custom_ids.

    Raises:
        ParameterError: A line that is no request, or an id that comes twice; with its number and the cause.
    """
    rows: list[tuple[Any, ...]] = []
    seen: dict[str, int] = {}
    content = Path(path).read_bytes()
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            name, body = request(raw)
        except ValueError as error:
            raise ParameterError(f"{path}, line {number}: {error}") from None
        if name in seen:
            raise ParameterError(
                f"{path}, line {number}: custom_id {name!r} was used in line {seen[name]}; give each line its own."
            )
        seen[name] = number
        whole, messages = canonical(body), body["messages"]
        said = messages[-1].get("content") if isinstance(messages[-1], dict) else None
        text = said if isinstance(said, str) else canonical(said)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        rows.append((name, 0, name, text, canonical(messages), body["model"], whole, digest, _stem(body, 0)))
    if not rows:
        raise ParameterError(f"{path} has no requests; each line must be one.")
    return pl.DataFrame(rows, schema=_REQUEST, orient="row")  # one row per line


def reuse_finished(requests: pl.DataFrame, *, table: Table) -> pl.DataFrame:
    """Let requests whose question was answered in full under another max_tokens stand for that recorded request.

    An answer that ended by itself within the limit is the same under any limit that it fits in (same seed, same model). So after
    raising max_tokens only the truncated rows are new. Columns custom_id and request_sha256 are those of the recorded request.

    Args:
        requests: From ``build_requests``; reads custom_id, stem, body.
        table: The lake's ``training_data_raw``.
    """
    columns = ["custom_id", "stem", "status", "completion_tokens", "request_sha256"]
    known = table.read(columns=columns, where="status in ('ok', 'refused', 'empty') and stem is not null")
    limits = pl.Series("limit", [_limit(json.loads(body)) for body in requests["body"]], dtype=pl.Int64)
    asked = requests.select("custom_id", "stem", limits).unique("custom_id")
    fits = (
        known.rename({"custom_id": "known_id", "request_sha256": "known_sha256"})
        .join(asked, on="stem")
        .filter((pl.col("known_id") == pl.col("custom_id")) | (pl.col("completion_tokens") < pl.col("limit")))
        .sort(pl.col("known_id") != pl.col("custom_id"), "known_id")
        .unique("custom_id", keep="first", maintain_order=True)
    )
    found = requests.join(
        fits.select("custom_id", "known_id", "known_sha256"), on="custom_id", how="left", maintain_order="left"
    )
    return found.with_columns(
        custom_id=pl.coalesce("known_id", "custom_id"), request_sha256=pl.coalesce("known_sha256", "request_sha256")
    ).drop("known_id", "known_sha256")  # one row per row of requests


def _limit(body: dict[str, Any]) -> int:
    return min((int(body[name]) for name in _LIMITS if body.get(name)), default=2**62)


def answer(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    table: Table,
    task: str,
    resend: Iterable[str] = (),
    budget: Budget | None = None,
) -> pl.DataFrame:
    """Ask what is not recorded yet in one go, record it, and return one row per row of ``requests``.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: As in ``submit``.
        table: The lake's ``training_data_raw``.
        task: Name of the task, recorded with each row.
        resend: As in ``submit``.
        budget: As in ``submit``.

    Returns:
        The columns of ``requests`` with status, llm_output, error, finish_reason, prompt_tokens, completion_tokens.
    """
    known = _recorded(requests, table)
    answered = known.filter(pl.col("status").is_in(ANSWERED))["custom_id"]
    job = submit(
        requests.select(*_REQUEST), server=server, folder=folder, answered=answered, resend=resend, budget=budget
    )
    if job.requests.height:
        table.upsert(job.wait().collect().with_columns(task=pl.lit(task)))
        known = _recorded(requests, table)
    return requests.join(known, on="custom_id", how="left", maintain_order="left")  # one row per row of requests


def isolation(server: Server, *, models: Iterable[str], again: bool = False) -> Isolation:
    """Return whether a server answers with the model that was asked while it is asked for several; the run's record keeps it.

    A server that mixes them, or of which this cannot be told, gets one model at a time from now on.

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


def states(requests: pl.DataFrame, table: Table) -> dict[str, int]:
    """Return what became of every row of ``requests``, for the account: counts by status, and two more.

    ``same_request``: rows whose request is identical to an earlier row's and was sent once. ``unsent``: no record at all.
    """
    known = _recorded(requests, table).select("custom_id", "status")
    rows = requests.select("custom_id", shared=~pl.col("custom_id").is_first_distinct()).join(
        known, on="custom_id", how="left"
    )
    state = pl.when(pl.col("shared")).then(pl.lit("same_request")).otherwise(pl.col("status").fill_null("unsent"))
    return dict(rows.group_by(state.alias("state")).len().sort("state").iter_rows())


def _recorded(requests: pl.DataFrame, table: Table) -> pl.DataFrame:
    wanted = ["custom_id", "status", "llm_output", "tool_calls", "tools", "error", "finish_reason"]
    wanted += ["prompt_tokens", "completion_tokens"]
    return table.read(columns=wanted).join(requests.select("custom_id").unique(), on="custom_id", how="semi")


@dataclass(frozen=True)
class Plan:
    """What ``submit`` would do, before anything is spent. The counts sum to ``n_rows``."""

    n_rows: int
    n_same_request: int
    """Rows whose request is identical to an earlier row's: sent once."""
    n_recorded: int
    """Have a recorded answer."""
    n_received: int
    """Have an answer in the folder that is not recorded yet: collected, not paid for again."""
    n_open: int
    """Are on their way in a batch: attached to."""
    n_blocked: dict[str, int]
    """Failed earlier in a way that may cost or fail again, by status; ``resend`` sends them."""
    n_unsendable: int
    """Too long, or not valid text."""
    n_to_send: int
    files: list[tuple[int, int]]
    """Requests and bytes of each file that would be sent."""
    estimate: "Estimate | None" = None
    """Tokens, time and cost, if a dry run was made."""

    def __repr__(self) -> str:
        parts = {
            "same request": self.n_same_request,
            "recorded": self.n_recorded,
            "received": self.n_received,
            "on their way": self.n_open,
            **{f"{status} (not sent again)": n for status, n in self.n_blocked.items()},
            "cannot be sent": self.n_unsendable,
            "to send": self.n_to_send,
        }
        told = " + ".join(f"{n:,} {what}" for what, n in parts.items() if n or what == "to send")
        size = sum(n_bytes for _, n_bytes in self.files)
        cost = repr(self.estimate) if self.estimate else "tokens, time and cost: unknown before a dry run"
        return f"{self.n_rows:,} rows = {told}; {len(self.files)} files, {size / 1e6:,.1f} MB; {cost}"


def plan(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    resend: Iterable[str] = (),
    max_lines: int | None = None,
    max_bytes: int | None = None,
    estimate: "Estimate | None" = None,
) -> Plan:
    """Say what ``submit`` would send, and send nothing.

    Args:
        requests: As in ``submit``.
        server: As in ``submit``.
        folder: As in ``submit``.
        answered: As in ``submit``.
        resend: As in ``submit``.
        max_lines: As in ``submit``.
        max_bytes: As in ``submit``.
        estimate: From ``dry_run``.
    """
    job = Job(
        requests.unique("custom_id", keep="first", maintain_order=True), server, Path(folder), Ledger(Path(folder))
    )
    distinct, done = job.requests.height, set(answered)
    todo = job.requests.filter(~pl.col("custom_id").is_in(list(done)))
    most = server.dialect
    lines, size = (
        min(max_lines or most.max_requests, most.max_requests),
        min(max_bytes or most.max_bytes, most.max_bytes),
    )
    bad = {name for name, body in todo.select("custom_id", "body").iter_rows() if unsendable(body)}
    wanted = [name for name in todo["custom_id"] if name not in bad]
    free, held, stay = job.ledger.look(wanted, server=server.identity, resend=job.again(set(resend)))
    ids = [name for names in free.values() for name in names]
    on_the_way: set[str] = set()
    for shard in job.ledger.rows():
        if shard["id"] in held and shard["state"] in OPEN:
            on_the_way |= set(job.ledger.lines(shard["id"])) & set(wanted)
    blocked: dict[str, int] = {}
    for status in stay.values():
        blocked[status] = blocked.get(status, 0) + 1
    job.ledger.close()
    return Plan(
        n_rows=requests.height,
        n_same_request=requests.height - distinct,
        n_recorded=distinct - todo.height,
        n_received=len(wanted) - len(ids) - len(on_the_way) - len(stay),
        n_open=len(on_the_way),
        n_blocked=blocked,
        n_unsendable=len(bad),
        n_to_send=len(ids),
        files=[
            (len(p), len(c))
            for p, c in cut(todo.filter(pl.col("custom_id").is_in(ids)), max_lines=lines, max_bytes=size)
        ],
        estimate=estimate,
    )


def status(folder: Path, *, server: Server | None = None) -> pl.DataFrame:
    """Return one row per batch of a folder's ledger, oldest first.

    Args:
        folder: As in ``submit``.
        server: Asked for the counts of batches that are on their way; null: the ledger alone speaks.

    Returns:
        batch_id (null before it was made), state (planned, uploading, creating, submitted, collected, fruitless, refused, lost), attempt,
        n (requests), done (requests with a result, null if unknown), lines (counts by status, and what twins brought), server, changed_at
        (UTC), error, path.
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
                f"no batch {sorted(strange)[0]!r} is on its way from {folder}; on their way: {', '.join(sorted(known)) or 'none'}."
            )
        shards = [shard for shard in shards if shard["batch_id"] in set(batch_ids)]
    empty = pl.DataFrame(schema=_REQUEST)
    return Job(empty, server, Path(folder), ledger, shards=shards)


def cancel(folder: Path, *, server: Server, batch_ids: Iterable[str] | None = None) -> pl.DataFrame:
    """Cancel what is on its way from a folder to a server; answers so far stay. Returns ``status`` of the folder.

    Raises:
        ParameterError: A batch that is not on its way.
    """
    _rest(folder, server, batch_ids).cancel()
    return status(folder, server=server)


def collect(folder: Path, *, server: Server) -> pl.DataFrame:
    """Fetch the results of all batches that have ended, so that the server is needed no more. Returns ``status`` of the folder."""
    job = _rest(folder, server)
    job.look()
    return status(folder, server=server)


@dataclass(frozen=True)
class Estimate:
    """What the requests without a recorded answer will take, extrapolated from a few of them."""

    n_requests: int
    n_tried: int
    n_failed: int
    prompt_tokens: tuple[float, float, float]
    """Mean, low, high for all requests; 95 % bootstrap interval."""
    completion_tokens: tuple[float, float, float]
    seconds: tuple[float, float, float]
    """Time for all requests at the rate seen, the interval from the tokens alone; a server at full load is usually faster."""
    usd: tuple[float, float, float] | None
    """Null if no prices were given: prices are never guessed."""

    @property
    def per_request(self) -> tuple[float, float]:
        """Mean prompt and answer tokens of a request, for a ``Budget``."""
        n = max(1, self.n_requests)
        return self.prompt_tokens[0] / n, self.completion_tokens[0] / n

    def __repr__(self) -> str:
        if not self.n_requests:
            return "nothing to send: every request has a recorded answer"

        def span(x: tuple[float, float, float], form: str = ",.0f") -> str:
            return f"{x[0]:{form}} [{x[1]:{form}}, {x[2]:{form}}]"

        cost = f"{span(self.usd, ',.2f')} USD" if self.usd else "unknown (no prices given)"
        return (
            f"{self.n_requests:,} requests, from {self.n_tried} tried ({self.n_failed} failed): prompt {span(self.prompt_tokens)} tokens, "
            f"answers {span(self.completion_tokens)} tokens, at this rate {span(self.seconds)} s, cost {cost}"
        )


def dry_run(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    table: Table,
    task: str,
    n: int = 32,
    seed: int = 0,
    usd_per_million: tuple[float, float] | None = None,
) -> Estimate:
    """Ask ``n`` random requests (their answers are kept and not asked for again) and extrapolate to all.

    Args:
        requests: As in ``answer``.
        server: As in ``answer``.
        folder: As in ``answer``.
        table: As in ``answer``.
        task: As in ``answer``.
        n: Requests to try, 1 or more.
        seed: Of the choice and of the bootstrap.
        usd_per_million: Price of a million prompt and of a million answer tokens, if known.
    """
    if n < 1 or (usd_per_million is not None and len(usd_per_million) != 2):
        raise ParameterError(
            f"n must be >= 1 and usd_per_million two prices (prompt, answer), got {n} and {usd_per_million}."
        )
    answered = _recorded(requests, table).filter(pl.col("status").is_in(ANSWERED))["custom_id"]
    distinct = requests.unique("custom_id", keep="first", maintain_order=True)
    distinct = distinct.filter(~pl.col("custom_id").is_in(answered.to_list()))
    if not distinct.height:
        nothing = (0.0, 0.0, 0.0)
        return Estimate(0, 0, 0, nothing, nothing, nothing, nothing if usd_per_million else None)
    tried = distinct.sample(min(n, distinct.height), seed=seed)
    began = time.monotonic()
    rows = answer(tried, server=server, folder=folder, table=table, task=task)
    took = time.monotonic() - began
    good = rows.filter(pl.col("completion_tokens").is_not_null(), pl.col("prompt_tokens").is_not_null())
    if not good.height:
        told = str(rows["error"][0])
        way = " A model without a system role takes system_role='user'." if re.search(r"(?i)system.?role", told) else ""
        raise BatchError(
            f"none of {tried.height} requests tried gave an answer (first: {rows['status'][0]}: {told}); mend this before sending {distinct.height:,}.{way}"
        )
    chance, scale = random.Random(seed), distinct.height

    def extrapolate(values: list[float]) -> tuple[float, float, float]:
        means = sorted(sum(chance.choices(values, k=len(values))) / len(values) for _ in range(2000))
        return sum(values) / len(values) * scale, means[50] * scale, means[1949] * scale

    prompt, answers = (
        extrapolate(good["prompt_tokens"].cast(float).to_list()),
        extrapolate(good["completion_tokens"].cast(float).to_list()),
    )
    rate = float(good["completion_tokens"].sum()) / max(took, 1e-6)
    usd = None
    if usd_per_million:
        usd = tuple(
            (p * usd_per_million[0] + a * usd_per_million[1]) / 1e6 for p, a in zip(prompt, answers, strict=True)
        )
    seconds = tuple(a / rate for a in answers)
    return Estimate(scale, tried.height, tried.height - good.height, prompt, answers, seconds, usd)  # type: ignore[arg-type]
