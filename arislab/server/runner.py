"""The life of a batch: validating -> in_progress -> finalizing -> completed, and the ways out of it.

What goes by seconds of a batch's window runs on the monotonic clock once the batch runs: a clock that jumps expires
nothing.

Whatever fails, what is durable reaches the output file: a line that cannot be answered or stored is an error line, and
a batch that cannot go on ends with an error line for each line that has no result. ``failed`` stays the word for a file
that was refused, and for a batch of which not even that can be written.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from arislab.errors import BatchError, PrerequisiteError
from arislab.server.aliases import Aliases
from arislab.server.database import TERMINAL, Record
from arislab.server.engines.base import Emit, Engine, Request, Result, failure
from arislab.server.gate import Gate
from arislab.server.limits import Limits
from arislab.server.metrics import Meter
from arislab.server.scan import Scan, as_text, problem, scan_input
from arislab.server.store import Store
from arislab.server.watch import Watch
from arislab.server.writes import Writes, row_of

log = logging.getLogger("arislab.server")

MAX_OPEN_WRITES = 256  # groups of answers of one batch that are not on disk yet
RETRY_WRITE_S = 5.0
LOST = (
    "the answer to this line was stored, and the file that held it is gone or cut; it is not asked again unless it is"
    " sent again"
)
EXPIRED = "the batch reached the end of its completion window before this line ran"


class Runner:
    """Moves every unfinished batch towards a terminal state, from wherever a crash left it.

    Args:
        store: where batches live.
        engine: what answers their lines.
        limits: what lines must keep.
        group_by_prefix: dispatch lines that share all messages but the last together, for an engine that caches
            prompts.
    """

    def __init__(self, store: Store, engine: Engine, *, limits: Limits | None = None, group_by_prefix: bool = False):
        self._store, self._engine, self._limits = store, engine, limits or Limits()
        self._group_by_prefix, self._is_stopping = group_by_prefix, False
        self._asked: dict[str, dict[int, str]] = {}  # batch -> line -> custom_id, of lines that the engine has
        self._meters: dict[str, Meter] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._models: dict[str, set[str]] = {}  # batch -> models, of batches that run
        self.watch = Watch(engine, store.database)
        """Which models the engine may have at once."""
        self.aliases = Aliases(store.database)
        """Names that stand for a model."""
        self._overdue: set[str] = set()  # batches whose window passed while they ran

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
        self._begin(batch_id, self._live(batch_id))

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

    def in_use(self) -> set[str]:
        """Models that requests and batches ask which are not answered yet."""
        return self._engine.gate.asked().union(*self._models.values())

    def live(self, batch: Record) -> Record:
        """What one batch does now.

        Returns:
            ``total, completed, failed, in_flight`` (lines), ``requests_per_s``, ``tokens_per_s`` (generated tokens;
            both over the last half minute), ``eta_s`` (seconds, None if unknown, 0 at the end).
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

    def _begin(self, batch_id: str, life: Coroutine[Any, Any, None], *, is_last: bool = False) -> None:
        if self._is_stopping:
            life.close()
            return
        self._stops[batch_id] = asyncio.Event()
        task = self._lives[batch_id] = asyncio.create_task(life)
        task.add_done_callback(lambda task: self._ended(batch_id, task, is_last=is_last))

    def _ended(self, batch_id: str, task: asyncio.Task[None], *, is_last: bool) -> None:
        del self._lives[batch_id], self._stops[batch_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        log.error("%s: stopped: %s", batch_id, cause, exc_info=None if isinstance(cause, PrerequisiteError) else cause)
        if isinstance(cause, PrerequisiteError):
            return  # the user must act; the next start takes the batch up
        is_passing = isinstance(cause, OSError | sqlite3.Error) and not isinstance(cause, FileNotFoundError)
        # a full disk; or not even its end can be written now, and what is durable must not go with it
        if is_passing or is_last:
            asyncio.get_running_loop().call_later(RETRY_WRITE_S, self.take, batch_id)
            return
        self._begin(batch_id, self._give_up(batch_id, cause), is_last=True)

    async def _live(self, batch_id: str) -> None:
        """Move a batch from where it is to its end."""
        batch, scan = self._row(batch_id), Scan()
        await self._replace_lost(batch)
        if batch["status"] in ("validating", "in_progress"):
            scan = await self._scan(batch)
        if batch["status"] == "validating":
            await self._validated(batch_id, scan)
        batch = self._row(batch_id)
        if batch["status"] == "in_progress":
            await self._progress(batch, scan)
            await self._advance(batch_id, "finalizing", ("in_progress",))
            await self._replace_lost(batch)  # again: a spool may be cut while the batch runs
        batch = self._row(batch_id)
        if batch["status"] in TERMINAL:
            return
        status = "completed"
        if batch["status"] == "cancelling":
            status = "cancelled"
        elif batch["completed"] + batch["failed"] < batch["total"]:
            is_overdue = batch_id in self._overdue or time.time() >= batch["expires_at"]
            status = "expired" if is_overdue else "completed"
            none = ("server_error", "the server has no result of this line")
            why = ("batch_expired", EXPIRED) if is_overdue else none
            await self._fill(batch, await self._missing(batch), *why)
        await self._finish(batch, status)

    async def _give_up(self, batch_id: str, cause: BaseException) -> None:
        """End a batch that cannot go on: with what is durable, and an error line for each other line."""
        message = f"the server failed: {type(cause).__name__}; its log has the reason"
        if isinstance(cause, BatchError):
            message = str(cause)
        if isinstance(cause, FileNotFoundError):
            message = "the file of its requests, or another file of the server, is gone; the server's log says which"
        errors = as_text([problem("server_error", message)])
        if await self._advance(batch_id, "failed", ("validating",), errors=errors):
            return
        await self._advance(batch_id, "finalizing", ("in_progress",))
        batch = self._row(batch_id)
        if batch["status"] in TERMINAL:
            return
        try:
            await self._replace_lost(batch)
            await self._fill(batch, await self._missing(batch), "server_error", message)
        except (FileNotFoundError, LookupError, TypeError, ValueError) as error:  # the requests cannot be read again
            log.error("%s: the lines without a result get none: %s", batch_id, error)
            await self._finish(batch, "failed", errors=errors)
        else:
            await self._finish(batch, "completed", errors=errors)

    async def _finish(self, batch: Record, status: str, *, errors: str | None = None) -> None:
        await asyncio.to_thread(self._store.finish, batch, status, errors=errors)
        ended = self._row(batch["id"])
        counts = [ended[name] for name in ("completed", "failed", "total")]
        log.info("%s: %s, %d lines completed, %d failed, of %d", batch["id"], ended["status"], *counts)

    def _row(self, batch_id: str) -> Record:
        batch = self._store.batch(batch_id)
        assert batch is not None
        return batch

    async def _scan(self, batch: Record) -> Scan:
        path, group = self._store.path(batch["input_file_id"]), self._group_by_prefix
        return await asyncio.to_thread(scan_input, path, batch["endpoint"], self._limits, group_by_prefix=group)

    async def _advance(self, batch_id: str, status: str, from_: tuple[str, ...], **columns: Any) -> bool:
        return await asyncio.to_thread(self._store.advance, batch_id, status, from_=from_, **columns)

    async def _validated(self, batch_id: str, scan: Scan) -> None:
        if scan.errors:
            first = scan.errors[0]
            log.info("%s: failed validation, first: %s in line %s", batch_id, first["code"], first["line"])
            await self._advance(batch_id, "failed", ("validating",), errors=as_text(scan.errors))
            return
        model = next(iter(scan.models)) if len(scan.models) == 1 else None
        # from here on the batch stays with what its aliases name now
        named = {name: stood_for for name in scan.models if (stood_for := self.aliases.resolve(name)) != name}
        columns = {"total": len(scan.offsets), "model": named.get(model, model) if model else None}
        await self._advance(
            batch_id, "in_progress", ("validating",), **columns, aliases=json.dumps(named) if named else None
        )

    async def _progress(self, batch: Record, scan: Scan) -> None:
        """Run what is missing until all lines are done, someone cancels, or the time is over."""
        pump = asyncio.create_task(self._pump(batch, scan))
        stop = asyncio.create_task(self._stops[batch["id"]].wait())
        try:
            # read once: from here on asyncio's clock counts, which nobody sets back or forward
            left_s = max(0.0, batch["expires_at"] - time.time())
            ended, _ = await asyncio.wait((pump, stop), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            self._overdue |= set() if ended else {batch["id"]}
        finally:
            stop.cancel()
            pump.cancel()
            await asyncio.wait((pump, stop))
            self._asked.pop(batch["id"], None)
            self._models.pop(batch["id"], None)
            self._meters.pop(batch["id"], None)
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error  # also one that came while the batch was being stopped

    async def _pump(self, batch: Record, scan: Scan) -> None:
        """Give the engine what is missing, chunk by chunk; return when every line is durable."""
        store, engine, size = self._store, self._engine, self._engine.chunk_lines
        done = await asyncio.to_thread(store.spools.done_lines, batch["seq"])
        asked = self._asked[batch["id"]] = {}
        meter = self._meters[batch["id"]] = Meter(time.monotonic())
        writes = Writes(store.spools, batch, retry_s=RETRY_WRITE_S)

        def emit(result: Result) -> None:
            if (custom_id := asked.pop(result.line, None)) is None:
                return  # a line that was done before, and ran again for the sake of its chunk
            row = row_of(batch["id"], custom_id, result)
            meter.add(time.monotonic(), row.usage[2])
            writes.add(row)

        scan.aliases = json.loads(batch["aliases"] or "{}")
        self._models[batch["id"]] = scan.asked_models()
        await self.watch.before(set().union(*self._models.values()))
        models = frozenset(self._models[batch["id"]])
        by_model = len(models) > 1 and not self.watch.may_be_together(models)
        with store.path(batch["input_file_id"]).open("rb") as file:
            async with asyncio.TaskGroup() as group:
                for model, chunk in scan.chunks(size, by_model=by_model):
                    missing = [line for line in chunk if line not in done]
                    if not missing:
                        continue
                    if writes.are_due(MAX_OPEN_WRITES):
                        await writes.settle(MAX_OPEN_WRITES)
                    await engine.gate.enter(model)
                    lines = chunk if engine.whole_chunks else missing
                    # read only once there is a place for it, so that memory holds what is in flight and not the file
                    requests = [scan.request_at(file, line, batch) for line in lines]
                    asked |= {request.line: request.custom_id for request in requests if request.line not in done}
                    task = group.create_task(self._ask(requests, emit, asked))
                    leave = partial(_leave, engine.gate, model)
                    task.add_done_callback(leave)  # also for a task that is cancelled unstarted
        await writes.settle(0)  # outside of the group: it must not end before what it wrote is on disk

    async def _ask(self, requests: Sequence[Request], emit: Emit, asked: Mapping[int, str]) -> None:
        """Have the engine answer a chunk; each line that it leaves among the asked ones gets an error line."""
        why = "the engine gave no answer to this line"
        try:
            await self._engine.run(requests, emit)
        except PrerequisiteError:
            raise
        except Exception as error:  # engines are foreign code: what one raises costs the lines it had, not the batch
            log.error("the engine failed on %d lines", len(requests), exc_info=error)
            why = f"the engine failed: {type(error).__name__}; the server's log has the reason"
        for request in requests:
            if request.line in asked:
                emit(failure(request.line, 500, "server_error", why))

    async def _replace_lost(self, batch: Record) -> None:
        """Give each line whose durable answer is gone an error line that says so."""
        if lost := await asyncio.to_thread(self._store.spools.lost_lines, batch["seq"]):
            await self._fill(batch, lost, "batch_lost", LOST)

    async def _missing(self, batch: Record) -> list[int]:
        done = await asyncio.to_thread(self._store.spools.done_lines, batch["seq"])
        return [line for line in range(batch["total"]) if line not in done]

    async def _fill(self, batch: Record, lines: Iterable[int], code: str, message: str) -> None:
        """Give lines without a result an error line, as OpenAI does."""
        scan, rows = await self._scan(batch), []
        with self._store.path(batch["input_file_id"]).open("rb") as file:
            for line in lines:
                custom_id = scan.request_at(file, line, batch).custom_id
                rows.append(row_of(batch["id"], custom_id, failure(line, 0, code, message)))
        # a line has one result: that of a lost one stands in the way of the error line
        await asyncio.to_thread(self._store.spools.forget, batch["seq"], [row.line for row in rows])
        writes = Writes(self._store.spools, batch, retry_s=RETRY_WRITE_S)
        for row in rows:
            writes.add(row)
        await writes.settle(0)


def _leave(gate: Gate, model: str, _: asyncio.Task[None]) -> None:
    gate.leave(model)
