"""The life of a batch: validating -> in_progress -> finalizing -> completed, and the ways out of it.

One line of an input file::

    {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [...]}}
"""

import asyncio
import hashlib
import logging
import sqlite3
import time
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from arislab.errors import PrerequisiteError
from arislab.server.engines import Engine, Request, Result
from arislab.server.store import NO_USAGE, TERMINAL, Record, Row, Store

log = logging.getLogger("arislab.server")

ENDPOINT = "/v1/chat/completions"
MAX_LINES = 50_000
MAX_LINE_BYTES = 8 << 20
MAX_ERRORS = 100
MAX_OPEN_WRITES = 256  # groups of answers of one batch that are not on disk yet
RETRY_WRITE_S = 5.0
SERVER_FIELDS = {
    "api_base",
    "api_key",
    "base_url",
    "extra_headers",
}  # a line may not choose where it is sent, or as whom


@dataclass
class Scan:
    """What one pass over an input file found."""

    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where each request starts; blank lines have no entry."""
    errors: list[Record] = field(default_factory=list)
    """``{code, line, message, param}``, the first hundred; ``line`` counts from 1, blank lines included."""
    models: set[str] = field(default_factory=set)


class Runner:
    """Moves every unfinished batch towards a terminal state, from wherever a crash left it.

    Args:
        store: where batches live.
        engine: what answers their lines.
    """

    def __init__(self, store: Store, engine: Engine):
        self._store, self._engine = store, engine
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}

    def start(self) -> None:
        """Take up all batches that are not finished."""
        for batch in self._store.unfinished():
            log.info("%s: taken up in state %s", batch["id"], batch["status"])
            self.take(batch["id"])

    async def stop(self) -> None:
        """Let go of all batches; what is durable stays, the rest runs again at the next start."""
        for task in self._lives.values():
            task.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def take(self, batch_id: str) -> None:
        """Begin with a batch."""
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

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._lives[batch_id], self._stops[batch_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        log.error("%s: stopped: %s", batch_id, cause, exc_info=None if isinstance(cause, PrerequisiteError) else cause)
        if isinstance(cause, PrerequisiteError | OSError | sqlite3.Error):
            return  # these pass; the next start takes the batch up
        message = f"the server failed: {type(cause).__name__}; its log has the reason"
        before = ("validating", "in_progress", "finalizing", "cancelling")
        self._store.advance(batch_id, "failed", from_=before, errors=_errors([_error("server_error", message)]))

    async def _live(self, batch_id: str) -> None:
        store = self._store
        batch = store.batch(batch_id)
        assert batch is not None
        scan = Scan()
        if batch["status"] in ("validating", "in_progress"):
            scan = await asyncio.to_thread(scan_input, store.path(batch["input_file_id"]), batch["endpoint"])
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
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    async def _pump(self, batch: Record, scan: Scan) -> None:
        """Give the engine what is missing, chunk by chunk; return when every line is durable."""
        store, engine, size = self._store, self._engine, self._engine.chunk_lines
        done = await asyncio.to_thread(store.done_lines, batch["seq"])
        asked: dict[int, str] = {}  # line -> custom_id, of lines that have no answer yet
        writes: deque[tuple[Future[None], list[Row]]] = deque()

        def emit(result: Result) -> None:
            if (custom_id := asked.pop(result.line, None)) is None:
                return  # a line that was done before, and ran again for the sake of its chunk
            row = Row(result.line, result.status == 200, _line(batch["id"], custom_id, result), result.usage)
            write = store.append(batch["seq"], [row])
            if not writes or writes[-1][0] is not write:
                writes.append((write, []))
            writes[-1][1].append(row)

        with store.path(batch["input_file_id"]).open("rb") as file:
            async with asyncio.TaskGroup() as group:
                for first in range(0, len(scan.offsets), size):
                    chunk = range(first, min(first + size, len(scan.offsets)))
                    missing = [line for line in chunk if line not in done]
                    if not missing:
                        continue
                    await self._settle(batch, writes, MAX_OPEN_WRITES)
                    await engine.gate.enter()
                    lines = chunk if engine.whole_chunks else missing
                    requests = [_request(file, scan.offsets[line], line, batch["created_at"]) for line in lines]
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
        scan = await asyncio.to_thread(scan_input, self._store.path(batch["input_file_id"]), batch["endpoint"])
        done = await asyncio.to_thread(self._store.done_lines, batch["seq"])
        message = "the batch reached the end of its completion window before this line ran"
        body = orjson.dumps({"code": "batch_expired", "message": message})
        rows = []
        with self._store.path(batch["input_file_id"]).open("rb") as file:
            for line in set(range(batch["total"])) - done:
                custom_id = _request(file, scan.offsets[line], line, batch["created_at"]).custom_id
                rows.append(Row(line, False, _line(batch["id"], custom_id, Result(line, 0, body)), NO_USAGE))
        await self._written(batch, rows, self._store.append(batch["seq"], rows))


def scan_input(path: Path, endpoint: str) -> Scan:
    """Check a whole input file in one pass that holds one line at a time.

    Returns:
        Where the requests start, and what is wrong.
    """
    scan = Scan()
    seen: dict[str, int] = {}
    for number, offset, raw in _lines(path):
        if len(scan.errors) == MAX_ERRORS:
            break
        if len(scan.offsets) == MAX_LINES:
            scan.errors.append(
                _error("too_many_requests", f"the file has more than {MAX_LINES} requests; split it", line=number)
            )
            break
        scan.offsets.append(offset)
        try:
            custom_id, model = check_line(raw, endpoint)
        except _BadLineError as bad:
            scan.errors.append({**bad.error, "line": number})
            continue
        if custom_id in seen:
            message = (
                f"custom_id {custom_id!r} was used in line {seen[custom_id]} already; each must be unique in its file"
            )
            scan.errors.append(_error("duplicate_custom_id", message, line=number, param="custom_id"))
        seen[custom_id] = number
        scan.models.add(model)
    if not scan.offsets and not scan.errors:
        scan.errors.append(_error("empty_file", "the file has no requests; each line must be one"))
    return scan


def check_line(raw: bytes, endpoint: str) -> tuple[str, str]:
    """Return custom_id and model of one line of an input file."""
    if len(raw) > MAX_LINE_BYTES:
        raise _BadLineError("line_too_long", f"a line may have {MAX_LINE_BYTES} bytes")
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
    return line["custom_id"], _check_body(line["body"])


def _check_body(body: Any) -> str:
    if not isinstance(body, dict):
        raise _BadLineError("invalid_body", f"body must be a JSON object, got {type(body).__name__}", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _BadLineError("missing_required_parameter", "missing required parameter: 'body.model'", "body.model")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise _BadLineError(
            "missing_required_parameter", "missing required parameter: 'body.messages'", "body.messages"
        )
    if body.get("stream"):
        raise _BadLineError("invalid_stream", "stream is not possible in a batch; leave it out", "body.stream")
    if forbidden := sorted(SERVER_FIELDS & body.keys()):
        raise _BadLineError(
            "forbidden_parameter", f"{forbidden[0]!r} is set by the server only; leave it out", f"body.{forbidden[0]}"
        )
    return str(body["model"])


class _BadLineError(ValueError):
    """One line of an input file breaks a rule."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.error = _error(code, message, param=param)


def _error(code: str, message: str, *, line: int | None = None, param: str | None = None) -> Record:
    return {"code": code, "line": line, "message": message, "param": param}


def _errors(errors: list[Record]) -> str:
    return orjson.dumps(errors).decode()


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    r"""Number from 1, offset and bytes of each line that is not blank; lines end at ``\n`` and nowhere else."""
    number, offset = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            start, offset = offset, offset + len(raw)
            tail = raw
            while not tail.endswith(b"\n") and (
                tail := file.readline(MAX_LINE_BYTES)
            ):  # the rest of a line that is too long
                offset += len(tail)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                start, raw = start + 3, raw[3:]
            if raw.strip():
                yield number, start, raw


def _request(file: IO[bytes], offset: int, line: int, created_at: int) -> Request:
    file.seek(offset)
    fields = orjson.loads(file.readline())
    return Request(line, fields["custom_id"], fields["body"], created_at)


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
