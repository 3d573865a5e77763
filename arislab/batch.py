r"""Requests to raw outputs, through any server of the OpenAI Files + Batches protocol.

One line of an input file, and one of an output file::

    {
        "body": {"max_tokens": 160, "messages": [...], "model": "m", "seed": 7},
        "custom_id": "r-0b6f…",
        "method": "POST",
        "url": "/v1/chat/completions",
    }
    {
        "custom_id": "r-0b6f…",
        "error": null,
        "id": "…",
        "response": {"body": {"choices": [...], "usage": {...}}, "status_code": 200},
    }

Trusted: bytes and custom_ids. Not trusted: line order, counts, a status of ``completed``, the SDK's retries (a create that it
repeats is a batch paid twice, so creates are never retried; a lost answer is reconciled by metadata). A ledger beside the run
records each intent before it is acted on; running the same cell again continues. This module does not know the lake or any task.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arislab.connection import Server, connect
from arislab.errors import BatchError, ParameterError, TaskError
from arislab.ledger import Ledger

__all__ = [
    "ANSWERED",
    "Estimate",
    "Job",
    "Preview",
    "Server",
    "Table",
    "answer",
    "build_requests",
    "canonical",
    "connect",
    "custom_id",
    "dry_run",
    "outcome",
    "preview",
    "states",
    "submit",
]

MAX_LINES = 50_000
MAX_BYTES = 190_000_000
ANSWERED = ("ok", "truncated", "refused", "empty")
"""Statuses of requests that have an answer; all others are sent again by the next run."""
_TERMINAL = ("completed", "failed", "expired", "cancelled")
_URL = "/v1/chat/completions"
_REQUEST = ["candidate_id", "sample", "custom_id", "input", "messages", "model", "body", "request_sha256"]
_STALL_S = 300.0


class Table(Protocol):
    """What ``answer`` needs of a lake table."""

    def read(self, *, columns: list[str] | None = None, where: str | None = None) -> pl.DataFrame:
        """Return rows."""

    def upsert(self, frame: pl.DataFrame) -> Any:
        """Write rows."""


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


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
    **parameters: Any,
) -> pl.DataFrame:
    """Return one row per candidate and sample: candidate_id, sample, custom_id, input, messages, model, body, request_sha256.

    Identical requests (candidates with the same profile) share a custom_id and are sent once. Each request carries its own random
    seed: with one seed for all, all answers draw the same random numbers and share their faults.

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
        parameters: Further fields of the request body.

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
    rows = []
    for row in candidates.to_dicts():
        messages = _written(to_messages, row | {"profile": json.loads(row["profile"])})
        body = {
            "model": model,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": max_tokens,
            **parameters,
        }
        text = canonical(body)
        for sample in range(samples):
            drawn = f"{seed}:{sample}:{row['candidate_id'] if pair_by_candidate else text}"
            body["seed"] = int(hashlib.sha256(drawn.encode()).hexdigest()[:8], 16) >> 1
            whole = canonical(body)
            rows.append(
                (
                    row["candidate_id"],
                    sample,
                    custom_id(body, sample=sample),
                    messages[-1]["content"],
                    canonical(messages),
                    model,
                    whole,
                    hashlib.sha256(whole.encode()).hexdigest(),
                )
            )
    return pl.DataFrame(rows, schema=_REQUEST, orient="row").with_columns(
        pl.col("sample").cast(pl.Int32)
    )  # one row per candidate and sample


def _written(
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]], candidate: dict[str, Any]
) -> list[dict[str, str]]:
    """The messages about one candidate; a task file that cannot write them is named with the candidate."""
    try:
        messages = to_messages(candidate)
        shaped = bool(messages) and all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TaskError(
            f"to_messages failed on candidate {candidate['candidate_id']!r}: {type(error).__name__}: {error}. Its profile has "
            f"{', '.join(candidate['profile'])}; this task is for other candidates, or the import lacks a column."
        ) from error
    if not shaped:
        raise TaskError(
            f"to_messages gave {messages!r} for candidate {candidate['candidate_id']!r}; it must give a list of "
            "{'role': text, 'content': text} with at least one entry."
        )
    return messages


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


# --- submit, wait, collect --------------------------------------------------------------------------------------------


def submit(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    max_lines: int = MAX_LINES,
    max_bytes: int = MAX_BYTES,
) -> "Job":
    """Send every distinct request that has no recorded answer, cut into as few batches as the protocol allows.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: Holds the ledger, the files sent and the files received.
        answered: custom_ids whose answers are recorded; they are not sent.
        max_lines: Requests a batch.
        max_bytes: Bytes a file.
    """
    done = set(answered)
    todo = requests.unique("custom_id", keep="first", maintain_order=True)
    todo = todo.filter(~pl.col("custom_id").is_in(list(done))) if done else todo
    ledger, shards = Ledger(Path(folder)), []
    where = server.base_url
    for lines in _cut(todo, max_lines=max_lines, max_bytes=max_bytes):
        content = b"".join(lines)
        shard = hashlib.sha256(content).hexdigest()
        path = Path(folder) / "requests" / f"{shard[:16]}.jsonl"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.replace(path)
        row = ledger.open_shard(shard, where, path, len(lines))
        _send(row, ledger, server)
        shards.append(row)
    return Job(todo, shards, ledger, server, Path(folder))


def _cut(todo: pl.DataFrame, *, max_lines: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Yield the lines of each file: one model a file, as OpenAI demands."""
    for part in todo.partition_by("model", maintain_order=True):
        lines: list[bytes] = []
        size = 0
        for name, body in part.select("custom_id", "body").iter_rows():
            line = b'{"body":%b,"custom_id":"%b","method":"POST","url":"%b"}\n' % (
                body.encode(),
                name.encode(),
                _URL.encode(),
            )
            if lines and (len(lines) == max_lines or size + len(line) > max_bytes):
                yield lines
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        yield lines


def _send(row: dict[str, Any], ledger: Ledger, server: Server) -> None:
    """Upload a shard and create its batch, unless the ledger or the server says that this happened already."""
    import openai

    mark = f"{row['shard'][:48]}-{row['attempt']}"
    if row["batch_id"]:
        if _batch(server, row["batch_id"]) is not None:
            return
        ledger.note(row, state="planned", batch_id=None, file_id=None)  # the server has forgotten it
    if row["state"] == "creating":
        found = _adopt(server, mark)
        if found:
            ledger.note(row, state="submitted", batch_id=found)
            return
    ledger.note(row, state="uploading")
    with Path(row["path"]).open("rb") as file:
        try:
            uploaded = server.patiently(
                lambda: server.client.files.create(file=(f"{mark}.jsonl", file), purpose="batch"), rewind=file
            )
        except openai.APIStatusError as error:
            hint = (
                "it has no Files API: put `arislab serve --upstream URL` in front of it"
                if error.status_code == 404
                else "nothing was spent"
            )
            raise BatchError(
                f"{server.base_url} refused a file of {row['n']:,} requests ({error.status_code}: {error.message}); {hint}."
            ) from None
    ledger.note(row, state="creating", file_id=uploaded.id)
    try:
        made = server.client.batches.create(
            input_file_id=uploaded.id, endpoint=_URL, completion_window="24h", metadata={"arislab_shard": mark}
        )
        ledger.note(row, state="submitted", batch_id=made.id)
    except (openai.APIConnectionError, openai.InternalServerError) as error:
        found = _adopt(server, mark)  # the answer was lost: was the batch made?
        if not found:
            raise BatchError(
                f"the server did not confirm a batch of {row['n']:,} requests ({error}); nothing is lost: run the cell again."
            ) from None
        ledger.note(row, state="submitted", batch_id=found)
    except openai.APIStatusError as error:
        ledger.note(row, state="planned", file_id=None)
        raise BatchError(
            f"the server refused a batch of {row['n']:,} requests ({error.status_code}: {error.message}); nothing was spent."
        ) from None


def _adopt(server: Server, mark: str) -> str | None:
    for batch in server.patiently(lambda: list(server.client.batches.list(limit=100))):
        if (batch.metadata or {}).get("arislab_shard") == mark:
            return str(batch.id)
    return None


def _batch(server: Server, batch_id: str) -> Any:
    import openai

    def look() -> Any:
        try:
            return server.client.batches.retrieve(batch_id)
        except openai.NotFoundError:
            return None

    return server.patiently(look)


@dataclass
class Job:
    """Requests on their way. ``wait`` for them, then ``collect`` the answers."""

    requests: pl.DataFrame
    shards: list[dict[str, Any]]
    ledger: Ledger
    server: Server
    folder: Path
    seconds: float = 0.0

    @property
    def batch_ids(self) -> list[str]:
        """Names of the batches at the server."""
        return [str(shard["batch_id"]) for shard in self.shards]

    def batches(self) -> list[Any]:
        """Return the server's view of each batch, now."""
        return [_batch(self.server, batch_id) for batch_id in self.batch_ids]

    def wait(self, *, poll_s: float = 0.5) -> "Job":
        """Show progress until every batch has ended; interrupting and calling it again is safe."""
        from tqdm.auto import tqdm

        began, total = time.monotonic(), sum(shard["n"] for shard in self.shards)
        moved = began
        with tqdm(total=total, unit="req", desc="batch", disable=not total, mininterval=1.0) as bar:
            while True:
                now = [b for b in self.batches() if b is not None]
                done = sum(
                    b.request_counts.completed + b.request_counts.failed for b in now if b.request_counts is not None
                )
                if done != bar.n:
                    moved = time.monotonic()
                bar.n = done
                bar.refresh()
                if all(b.status in _TERMINAL for b in now):
                    break
                if self.server.base_url == "embedded" and time.monotonic() - moved > _STALL_S:
                    self.server.close()
                    raise BatchError(
                        f"the embedded server finished no request for {_STALL_S:.0f} s ({done:,} of {total:,} done); nothing is lost: run the "
                        f"cell again, it goes on there. The server's log: {self.server.folder / 'server' / 'server.log'}"
                    )
                time.sleep(poll_s)
        self.seconds += time.monotonic() - began
        return self

    def collect(self) -> pl.DataFrame:
        """Return one row per request sent, in the columns of ``training_data_raw`` (without task); also for those that failed.

        Collecting again is free: until its answers are recorded, a batch stays the one that the same requests attach to. Only
        a batch that brought no answer at all is followed by a new attempt.

        Raises:
            BatchError: A batch is still running, or was refused as a whole.
        """
        lines: dict[str, dict[str, Any]] = {}
        ended: dict[str, str] = {}
        found = [(shard, _batch(self.server, shard["batch_id"])) for shard in self.shards]
        for shard, batch in found:
            if batch is None or batch.status not in _TERMINAL:
                raise BatchError(
                    f"batch {shard['batch_id']} has not ended ({batch.status if batch else 'unknown'}); call wait() first."
                )
        refused = [(shard, batch) for shard, batch in found if batch.status == "failed"]
        for shard, _ in refused:
            self.ledger.note(shard, state="fruitless")  # the next run sends it as a new attempt
        if refused and len(refused) == len(found):
            shard, batch = refused[0]
            raise BatchError(
                f"the server refused batch {shard['batch_id']} as a whole ({_problems(batch)}); mend the requests and run the cell again."
            )
        sent_by_shard = []
        for shard, batch in found:
            sent = {json.loads(line)["custom_id"] for line in Path(shard["path"]).read_bytes().split(b"\n") if line}
            if batch.status == "failed":  # its rows are errors; those of the other batches are not lost for it
                told = {"code": "batch_failed", "message": _problems(batch)}
                lines |= {name: {"custom_id": name, "error": told} for name in sent}
            for line in self._lines(batch):
                name = str(line.get("custom_id"))
                if name in sent and name not in lines:
                    lines[name] = line
                else:
                    self._quarantine(batch.id, line)
            ended |= dict.fromkeys(sent, batch.status)
            sent_by_shard.append(sent)
        outcomes = {name: outcome(lines.get(name), ended.get(name, "")) for name in self.requests["custom_id"]}
        rows = [row | outcomes[row["custom_id"]] for row in self.requests.drop("body").to_dicts()]
        for shard, sent in zip(self.shards, sent_by_shard, strict=True):
            if not any(outcomes[name]["status"] in ANSWERED for name in sent):
                self.ledger.note(shard, state="fruitless")
        schema = {
            "error": pl.String,
            "llm_output": pl.String,
            "finish_reason": pl.String,
            "prompt_tokens": pl.Int64,
            "completion_tokens": pl.Int64,
            "logprob_mean": pl.Float64,
            "status": pl.String,
        }
        frame = pl.DataFrame(rows, schema={**self.requests.drop("body").schema, **schema}, strict=False)
        if frame.height != self.requests.height:
            raise BatchError(
                f"{self.requests.height:,} requests were sent, {frame.height:,} accounted for; this is a defect of arislab."
            )
        return frame  # one row per request

    def _lines(self, batch: Any) -> Iterator[dict[str, Any]]:
        """Yield the lines of output and error file; the bytes are kept beside the ledger."""
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if not file_id:
                continue
            content = self._content(file_id)
            path = self.folder / "results" / f"{hashlib.sha256(batch.id.encode()).hexdigest()[:16]}-{kind}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            for line in content.split(b"\n"):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError:
                        self._quarantine(batch.id, {"unreadable": line.decode("utf-8", "replace")})

    def _content(self, file_id: str) -> bytes:
        return bytes(self.server.patiently(lambda: self.server.client.files.content(file_id).content))

    def _quarantine(self, batch_id: str, line: dict[str, Any]) -> None:
        """Keep a line that belongs to no request of ours, or comes twice."""
        with (self.folder / "quarantine.jsonl").open("a", encoding="utf-8") as file:
            file.write(canonical({"batch_id": batch_id, "line": line}) + "\n")

    def __repr__(self) -> str:
        state = ", ".join(
            f"{b.status} {b.request_counts.completed:,}/{b.request_counts.total:,}"
            if b and b.request_counts
            else "unknown"
            for b in self.batches()
        )
        return f"Job: {self.requests.height:,} requests in {len(self.shards)} batches ({state or 'nothing to send'})"


def _problems(batch: Any) -> str:
    """Why a batch was refused as a whole."""
    listed = (batch.errors.data or []) if batch.errors else []
    return "; ".join(f"line {e.line}: {e.message}" for e in listed[:3]) or "no reason given"


def outcome(line: dict[str, Any] | None, batch_status: str) -> dict[str, Any]:
    """What became of one request, from its output or error line."""
    if line is None:
        return {
            "status": "expired" if batch_status == "expired" else "lost",
            "error": f"no line in the files of a batch that is {batch_status}",
        }
    response, problem = line.get("response") or {}, line.get("error")
    body = response.get("body") or {}
    if problem or response.get("status_code") != 200:
        told = (
            problem
            or (body.get("error") if isinstance(body, dict) else body)
            or {"message": f"status {response.get('status_code')}"}
        )
        code = told.get("code") if isinstance(told, dict) else None
        return {"status": "expired" if code == "batch_expired" else "error", "error": canonical(told)[:2000]}
    choice = (body.get("choices") or [{}])[0]
    message, reason = choice.get("message") or {}, choice.get("finish_reason")
    text, usage = message.get("content"), body.get("usage") or {}
    if message.get("refusal") or reason == "content_filter":
        status = "refused"
    elif not (text or "").strip():
        status = "empty"
    else:
        status = "truncated" if reason == "length" else "ok"
    tokens = [t["logprob"] for t in (choice.get("logprobs") or {}).get("content") or []]
    return {
        "status": status,
        "llm_output": text if text is not None else message.get("refusal"),
        "finish_reason": reason,
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "logprob_mean": min(0.0, sum(tokens) / len(tokens)) if tokens else None,
    }


def answer(requests: pl.DataFrame, *, server: Server, folder: Path, table: Table, task: str) -> pl.DataFrame:
    """Ask what is not recorded yet in one go, record it, and return one row per row of ``requests``.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: As in ``submit``.
        table: The lake's ``training_data_raw``.
        task: Name of the task, recorded with each row.

    Returns:
        The columns of ``requests`` with status, llm_output, error, finish_reason, prompt_tokens, completion_tokens.
    """
    known = _recorded(requests, table)
    answered = known.filter(pl.col("status").is_in(ANSWERED))["custom_id"]
    job = submit(requests.select(_REQUEST), server=server, folder=folder, answered=answered)
    if job.shards:
        table.upsert(job.wait().collect().with_columns(task=pl.lit(task)))
        known = _recorded(requests, table)
    return requests.join(known, on="custom_id", how="left", maintain_order="left")  # one row per row of requests


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
    wanted = ["custom_id", "status", "llm_output", "error", "finish_reason", "prompt_tokens", "completion_tokens"]
    return table.read(columns=wanted).join(requests.select("custom_id").unique(), on="custom_id", how="semi")


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
        raise BatchError(
            f"none of {tried.height} requests tried gave an answer (first: {rows['status'][0]}: {rows['error'][0]}); mend this before sending {distinct.height:,}."
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
