"""The life of a batch: validating -> in_progress -> finalizing -> completed, and the ways out of it.

One line of an input file::

    {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [...]}}

What goes by seconds of a batch's window runs on the monotonic clock once the batch runs: a clock that jumps expires nothing.
"""

import asyncio
import hashlib
import logging
import sqlite3
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from arislab.errors import PrerequisiteError
from arislab.server.engines import Engine, Request, Result
from arislab.server.limits import ForbiddenError, Limits, check_fields
from arislab.server.metrics import Meter
from arislab.server.store import NO_USAGE, TERMINAL, Record, Row, Store

log = logging.getLogger("arislab.server")

PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
"""Endpoint -> the field of a body that holds what is asked."""
MAX_ERRORS = 100
MAX_OPEN_WRITES = 256  # groups of answers of one batch that are not on disk yet
RETRY_WRITE_S = 5.0


@dataclass
class Scan:
    """What one pass over an input file found."""

    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where each request starts; blank lines have no entry."""
    errors: list[Record] = field(default_factory=list)
    """``{code, line, message, param}``, the first hundred; ``line`` counts from 1, blank lines included."""
    models: set[str] = field(default_factory=set)
    prefixes: dict[bytes, int] = field(default_factory=dict)
    """Digest of all messages but the last -> number of the group, in order of appearance; filled where it is asked for."""
    groups: "array[int]" = field(default_factory=lambda: array("L"))
    """Group of each request, or empty."""

    def order(self) -> Sequence[int]:
        """Lines in the order in which they are dispatched: as they stand, or group by group."""
        lines = range(len(self.offsets))
        return sorted(lines, key=self.groups.__getitem__) if self.groups else lines


class Runner:
    """Moves every unfinished batch towards a terminal state, from wherever a crash left it.

    Args:
        store: where batches live.
        engine: what answers their lines.
        limits: what lines must keep.
        group_by_prefix: dispatch lines that share all messages but the last together, for an engine that caches prompts.
    """

    def __init__(self, store: Store, engine: Engine, *, limits: Limits | None = None, group_by_prefix: bool = False):
        self._store, self._engine, self._limits = store, engine, limits or Limits()
        self._group_by_prefix, self._is_stopping = group_by_prefix, False
        self._asked: dict[str, dict[int, str]] = {}  # batch -> line -> custom_id, of lines that the engine has
        self._meters: dict[str, Meter] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}

    def start(self) -> None:
        """Take up all batches that are not finished."""
        for batch in self._store.unfinished():
            log.info("%s: taken up in state %s", batch["id"], batch["status"])
            self.take(batch["id"])

    async def stop(self) -> None:
        """Let go of all batches; what is durable stays, the rest runs again at the next start."""
        self._is_stopping = True
        for task in self._lives.values():
            task.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def take(self, batch_id: str) -> None:
        """Begin with a batch, or go on with it."""
        if self._is_stopping:
            return
        self._stops[batch_id] = asyncio.Event()
        task = asyncio.create_task(self._live(batch_id))
        self._lives[batch_id] = task
        task.add_done_callback(lambda task: self._ended(batch_id, task))

    async def cancel(self, batch_id: str) -> bool:
        """Ask a batch to stop; False if it is beyond that."""
        before = ("validating", "in_progress", "finalizing")
        moved = await asyncio.to_thread(self._store.advance, batch_id, "cancelling", from_=before)
        if moved and batch_id in self._stops:
            self._stops[batch_id].set()
        return moved

    @property
    def in_flight(self) -> int:
        """Lines that the engine has."""
        return sum(len(asked) for asked in self._asked.values())

    def live(self, batch: Record) -> Record:
        """What one batch does now.

        Returns:
            ``total, completed, failed, in_flight`` (lines), ``requests_per_s``, ``tokens_per_s`` (generated tokens; both
            over the last half minute), ``eta_s`` (seconds, None if unknown, 0 at the end).
        """
        meter, asked = self._meters.get(batch["id"]), self._asked.get(batch["id"], {})
        requests_per_s, tokens_per_s = meter.rates(time.monotonic()) if meter is not None else (0.0, 0.0)
        n_left = batch["total"] - batch["completed"] - batch["failed"]
        eta_s = 0.0 if batch["status"] in TERMINAL else None
        if batch["status"] == "in_progress" and requests_per_s:
            eta_s = round(n_left / requests_per_s, 1)
        counts = {name: batch[name] for name in ("total", "completed", "failed")}
        rates = {"requests_per_s": round(requests_per_s, 3), "tokens_per_s": round(tokens_per_s, 3), "eta_s": eta_s}
        return {**counts, "in_flight": len(asked), **rates}

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._lives[batch_id], self._stops[batch_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        log.error("%s: stopped: %s", batch_id, cause, exc_info=None if isinstance(cause, PrerequisiteError) else cause)
        if isinstance(cause, PrerequisiteError | FileNotFoundError):
            return  # the user must act; the next start takes the batch up
        if isinstance(cause, OSError | sqlite3.Error):  # a full disk, and this passes
            asyncio.get_running_loop().call_later(RETRY_WRITE_S, self.take, batch_id)
            return
        message = f"the server failed: {type(cause).__name__}; its log has the reason"
        before = ("validating", "in_progress", "finalizing", "cancelling")
        self._store.advance(batch_id, "failed", from_=before, errors=_errors([_error("server_error", message)]))

    async def _live(self, batch_id: str) -> None:
        store = self._store
        batch = store.batch(batch_id)
        assert batch is not None
        scan = Scan()
        if batch["status"] in ("validating", "in_progress"):
            scan = await self._scan(batch)
        if batch["status"] == "validating":
            await self._validated(batch_id, scan)
        batch = store.batch(batch_id)
        assert batch is not None
        if batch["status"] == "in_progress":
            await self._progress(batch, scan)
            await self._advance(batch_id, "finalizing", ("in_progress",))
        batch = store.batch(batch_id)
        if batch is not None and batch["status"] not in TERMINAL:
            status = "completed"
            if batch["status"] == "cancelling":
                status = "cancelled"
            elif batch["completed"] + batch["failed"] < batch["total"]:
                status = "expired"
                await self._expire(batch)
            await asyncio.to_thread(store.finish, batch, status)
            ended = store.batch(batch_id) or batch
            counts = [ended[name] for name in ("completed", "failed", "total")]
            log.info("%s: %s, %d lines completed, %d failed, of %d", batch_id, ended["status"], *counts)

    async def _scan(self, batch: Record) -> Scan:
        path, group = self._store.path(batch["input_file_id"]), self._group_by_prefix
        return await asyncio.to_thread(scan_input, path, batch["endpoint"], self._limits, group_by_prefix=group)

    async def _advance(self, batch_id: str, status: str, from_: tuple[str, ...], **columns: Any) -> bool:
        return await asyncio.to_thread(self._store.advance, batch_id, status, from_=from_, **columns)

    async def _validated(self, batch_id: str, scan: Scan) -> None:
        if scan.errors:
            first = scan.errors[0]
            log.info("%s: failed validation, first: %s in line %s", batch_id, first["code"], first["line"])
            await self._advance(batch_id, "failed", ("validating",), errors=_errors(scan.errors))
            return
        model = next(iter(scan.models)) if len(scan.models) == 1 else None
        await self._advance(batch_id, "in_progress", ("validating",), total=len(scan.offsets), model=model)

    async def _progress(self, batch: Record, scan: Scan) -> None:
        """Run what is missing until all lines are done, someone cancels, or the time is over."""
        pump = asyncio.create_task(self._pump(batch, scan))
        stop = asyncio.create_task(self._stops[batch["id"]].wait())
        try:
            left_s = max(0.0, batch["expires_at"] - time.time())
            await asyncio.wait((pump, stop), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            pump.cancel()
            await asyncio.wait((pump, stop))
            self._asked.pop(batch["id"], None)
            self._meters.pop(batch["id"], None)
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    async def _pump(self, batch: Record, scan: Scan) -> None:
        """Give the engine what is missing, chunk by chunk; return when every line is durable."""
        store, engine, size = self._store, self._engine, self._engine.chunk_lines
        done = await asyncio.to_thread(store.done_lines, batch["seq"])
        asked = self._asked[batch["id"]] = {}
        meter = self._meters[batch["id"]] = Meter(time.monotonic())
        writes: deque[tuple[Future[None], list[Row]]] = deque()

        def emit(result: Result) -> None:
            if (custom_id := asked.pop(result.line, None)) is None:
                return  # a line that was done before, and ran again for the sake of its chunk
            meter.add(time.monotonic(), result.usage[2])
            row = Row(result.line, result.status == 200, _line(batch["id"], custom_id, result), result.usage)
            write = store.append(batch["seq"], [row])
            if not writes or writes[-1][0] is not write:
                writes.append((write, []))
            writes[-1][1].append(row)

        order = scan.order()
        with store.path(batch["input_file_id"]).open("rb") as file:
            async with asyncio.TaskGroup() as group:
                for first in range(0, len(order), size):
                    chunk = order[first : first + size]
                    missing = [line for line in chunk if line not in done]
                    if not missing:
                        continue
                    await self._settle(batch, writes, MAX_OPEN_WRITES)
                    await engine.gate.enter()
                    lines = chunk if engine.whole_chunks else missing
                    requests = [_request(file, scan.offsets[line], line, batch) for line in lines]
                    asked |= {request.line: request.custom_id for request in requests if request.line not in done}
                    task = group.create_task(engine.run(requests, emit))
                    task.add_done_callback(lambda _: engine.gate.leave())  # also for a task that is cancelled unstarted
        await self._settle(batch, writes, 0)

    async def _settle(self, batch: Record, writes: "deque[tuple[Future[None], list[Row]]]", n_open: int) -> None:
        """Look at the writes that have ended, and wait until ``n_open`` at most have not."""
        while writes and (writes[0][0].done() or len(writes) > n_open):
            write, rows = writes.popleft()
            if not write.done() or write.exception() is not None:
                await self._written(batch, rows, write)

    async def _written(self, batch: Record, rows: list[Row], write: "Future[None]") -> None:
        """Wait until rows are durable; while the disk is full they are kept, and tried again."""
        while True:
            try:
                await asyncio.shield(asyncio.wrap_future(write))
            except (OSError, sqlite3.OperationalError):
                await asyncio.sleep(RETRY_WRITE_S)
                write = self._store.append(batch["seq"], rows)
            else:
                return

    async def _expire(self, batch: Record) -> None:
        """Give each line that has no answer an error line, as OpenAI does."""
        scan = await self._scan(batch)
        done = await asyncio.to_thread(self._store.done_lines, batch["seq"])
        message = "the batch reached the end of its completion window before this line ran"
        body = orjson.dumps({"code": "batch_expired", "message": message})
        rows = []
        with self._store.path(batch["input_file_id"]).open("rb") as file:
            for line in set(range(batch["total"])) - done:
                custom_id = _request(file, scan.offsets[line], line, batch).custom_id
                rows.append(Row(line, False, _line(batch["id"], custom_id, Result(line, 0, body)), NO_USAGE))
        await self._written(batch, rows, self._store.append(batch["seq"], rows))


def scan_input(path: Path, endpoint: str, limits: Limits, *, group_by_prefix: bool = False) -> Scan:
    """Check a whole input file in one pass that holds one line at a time.

    Args:
        path: the file.
        endpoint: of the batch; each line must have it as ``url``.
        limits: what the lines must keep.
        group_by_prefix: fill ``prefixes`` and ``groups``.

    Returns:
        Where the requests start, and what is wrong.
    """
    scan = Scan()
    seen: dict[str, int] = {}
    for number, offset, raw in _lines(path, limits.line_bytes):
        if len(scan.errors) == MAX_ERRORS:
            break
        if len(scan.offsets) == limits.requests:
            message = f"the file has more than {limits.requests} requests; split it"
            scan.errors.append(_error("too_many_requests", message, line=number))
            break
        scan.offsets.append(offset)
        try:
            custom_id, body = check_line(raw, endpoint, limits)
        except _BadLineError as bad:
            scan.errors.append({**bad.error, "line": number})
            continue
        if custom_id in seen:
            message = (
                f"custom_id {custom_id!r} was used in line {seen[custom_id]} already; each must be unique in its file"
            )
            scan.errors.append(_error("duplicate_custom_id", message, line=number, param="custom_id"))
        seen[custom_id] = number
        scan.models.add(body["model"])
        if group_by_prefix:
            key = hashlib.sha256(orjson.dumps([body["model"], body.get("messages", [])[:-1]])).digest()[:16]
            scan.groups.append(scan.prefixes.setdefault(key, len(scan.prefixes)))
    if not scan.offsets and not scan.errors:
        scan.errors.append(_error("empty_file", "the file has no requests; each line must be one"))
    return scan


def check_line(raw: bytes, endpoint: str, limits: Limits) -> tuple[str, Record]:
    """Return custom_id and body of one line of an input file."""
    if len(raw) > limits.line_bytes:
        raise _BadLineError("line_too_long", f"a line may have {limits.line_bytes} bytes; shorten its texts")
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _BadLineError(
            "invalid_json_line", f"this line is not valid JSON: {error.msg} at column {error.colno}"
        ) from None
    if not isinstance(line, dict):
        raise _BadLineError("invalid_json_line", f"a line must be a JSON object, got {type(line).__name__}")
    for name in ("custom_id", "method", "url", "body"):
        if line.get(name) in (None, ""):
            raise _BadLineError("missing_required_parameter", f"missing required parameter: {name!r}", name)
    if not isinstance(line["custom_id"], str) or len(line["custom_id"]) > 512:
        raise _BadLineError("invalid_custom_id", "custom_id must be a string of at most 512 characters", "custom_id")
    if line["method"] != "POST":
        raise _BadLineError("invalid_method", f"method must be 'POST', got {line['method']!r}", "method")
    if line["url"] != endpoint:
        raise _BadLineError("invalid_url", f"url must be the batch's endpoint {endpoint!r}, got {line['url']!r}", "url")
    _check_body(line["body"], endpoint, limits)
    return line["custom_id"], line["body"]


def _check_body(body: Any, endpoint: str, limits: Limits) -> None:
    if not isinstance(body, dict):
        raise _BadLineError("invalid_body", f"body must be a JSON object, got {type(body).__name__}", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _BadLineError("missing_required_parameter", "missing required parameter: 'body.model'", "body.model")
    name = PROMPTS[endpoint]
    if not isinstance(body.get(name), list if name == "messages" else list | str) or not body[name]:
        raise _BadLineError("missing_required_parameter", f"missing required parameter: 'body.{name}'", f"body.{name}")
    if body.get("stream"):
        raise _BadLineError("invalid_stream", "stream is not possible in a batch; leave it out", "body.stream")
    try:
        check_fields(body, limits)
    except ForbiddenError as error:
        raise _BadLineError(error.code, str(error), f"body.{error.param}".rstrip(".")) from None


class _BadLineError(ValueError):
    """One line of an input file breaks a rule."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.error = _error(code, message, param=param)


def _error(code: str, message: str, *, line: int | None = None, param: str | None = None) -> Record:
    return {"code": code, "line": line, "message": message, "param": param}


def _errors(errors: list[Record]) -> str:
    return orjson.dumps(errors).decode()


def _lines(path: Path, line_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    r"""Number from 1, offset and bytes of each line that is not blank; lines end at ``\n`` and nowhere else."""
    number, offset = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(line_bytes + 1):
            number += 1
            start, offset = offset, offset + len(raw)
            tail = raw
            while not tail.endswith(b"\n") and (
                tail := file.readline(line_bytes)
            ):  # the rest of a line that is too long
                offset += len(tail)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                start, raw = start + 3, raw[3:]
            if raw.strip():
                yield number, start, raw


def _request(file: IO[bytes], offset: int, line: int, batch: Record) -> Request:
    file.seek(offset)
    fields = orjson.loads(file.readline())
    return Request(line, fields["custom_id"], fields["body"], batch["created_at"], batch["endpoint"], batch["id"])


def _line(batch_id: str, custom_id: str, result: Result) -> bytes:
    """A line of the output or error file around the answer's own bytes; the ids depend on nothing but the place."""
    key = hashlib.sha256(f"{batch_id}:{result.line}".encode()).hexdigest()[:32].encode()
    head = b'{"id":"batch_req_%b","custom_id":%b,' % (key, orjson.dumps(custom_id))
    if result.status == 0:
        return head + b'"response":null,"error":%b}\n' % result.body
    return head + b'"response":{"status_code":%d,"request_id":"req_%b","body":%b},"error":null}\n' % (
        result.status,
        key,
        result.body,
    )
