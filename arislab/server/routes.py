"""The routes of OpenAI's Files and Batches, and what the server says of itself (``direct`` has those of the models).

The real openai SDK is the oracle of this protocol. What it does not know: ``GET /v1/batches/{id}/partial?offset=`` (the
results of a running batch so far), ``GET /v1/batches/{id}/live`` (its speed), ``GET /v1/arislab`` (what this server is
and takes), ``GET /metrics`` (Prometheus) and ``GET /openapi.json``.
"""

import asyncio
import dataclasses
import json
import logging
import re
import time
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile

from arislab import __version__
from arislab.server import metrics
from arislab.server.database import LIVE, TERMINAL, Record
from arislab.server.guard import refuse, too_large
from arislab.server.shown import batch_object, file_object
from arislab.server.state import engine_of, limits_of, runner_of, store_of
from arislab.server.store import Store
from arislab.server.watch import MOST_MODELS

log = logging.getLogger("arislab.server")

PARTIAL_BYTES = 16 << 20

router = APIRouter()


class ExpiresAfter(BaseModel):
    """When a file goes away."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=3600, le=30 * 24 * 3600)


class NewBatch(BaseModel):
    """The body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    output_expires_after: ExpiresAfter | None = None


@router.get("/health")
async def health() -> Record:
    """Alive; says nothing else, as it needs no token."""
    return {"status": "ok"}


@router.post("/v1/files")
async def create_file(request: Request) -> Record:
    """Take an upload."""
    length = request.headers.get("content-length", "0")  # before the body is read, which would fill a full disk
    store_of(request).require_room(int(length) if length.isdigit() else 0)
    async with request.form(max_files=1, max_fields=10) as form:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise refuse(400, "missing the multipart field 'file'", param="file")
        if purpose != "batch":
            raise refuse(400, f"purpose must be 'batch', got {purpose!r}", param="purpose")
        limits = limits_of(request)
        if upload.size is not None and upload.size > limits.file_bytes:
            raise refuse(413, too_large(limits.file_bytes), code="request_too_large")
        keep_s = _keep_s(form.get("expires_after[seconds]"), limits.keep_s)
        # some clients send a whole path, with the separators of their system
        name = Path((upload.filename or "input.jsonl").replace("\\", "/")).name[:255]
        row = await asyncio.to_thread(
            store_of(request).add_file, upload.file, filename=name, purpose="batch", keep_s=keep_s
        )
    log.info("%s: uploaded, %d bytes", row["id"], row["bytes"])
    return file_object(row)


@router.get("/v1/files")
async def list_files(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Record:
    """Files, newest first unless ``order`` is asc."""
    where, values = LIVE, {"now": int(time.time()), "purpose": purpose}
    seq = _cursor(store_of(request).file(after), after) if after else None
    if purpose is not None:
        where += " and purpose = :purpose"
    return _page(store_of(request), "files", where, values, limit=limit, seq=seq, order=order)


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Record:
    """One file's record."""
    return file_object(_file(request, file_id))


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Record:
    """Remove a file that no running batch reads."""
    row = _file(request, file_id)
    if not await asyncio.to_thread(store_of(request).delete_file, row["id"]):
        raise refuse(409, f"file {row['id']!r} is read by a running batch; cancel the batch first", code="file_in_use")
    return {"id": row["id"], "object": "file", "deleted": True}


@router.get("/v1/files/{file_id}/content")
async def file_content(request: Request, file_id: str) -> Response:
    """The bytes of a file."""
    store, row = store_of(request), _file(request, file_id)
    sent = None
    if row["pinned"] and "range" not in request.headers:
        sent = BackgroundTask(store.collected, row["id"])  # runs once all bytes are sent
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(store.path(row["id"]), media_type="application/octet-stream", headers=headers, background=sent)


@router.post("/v1/batches")
async def create_batch(
    request: Request, new: NewBatch, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> Record:
    """Create a batch; its lines are checked afterwards, in state ``validating``."""
    if new.endpoint not in (known := sorted(engine_of(request).endpoints)):
        raise refuse(400, f"endpoint must be one of {', '.join(known)}, got {new.endpoint!r}", param="endpoint")
    source = _file(request, new.input_file_id, param="input_file_id", status=400)
    if source["purpose"] != "batch":
        raise refuse(
            400,
            f"file {source['id']!r} has purpose {source['purpose']!r}; upload it with purpose 'batch'",
            param="input_file_id",
        )
    now, limits, after = int(time.time()), limits_of(request), new.output_expires_after
    columns = {
        "endpoint": new.endpoint,
        "input_file_id": source["id"],
        "output_expires_s": after.seconds if after else limits.keep_s,
        "pin_outputs": after is None,
        "metadata": json.dumps(new.metadata) if new.metadata is not None else None,
        "idempotency_key": idempotency_key,
        "created_at": now,
        "expires_at": now + limits.window_s,
    }
    row, is_new = await asyncio.to_thread(store_of(request).add_batch, columns)
    if is_new:
        log.info("%s: created from %s", row["id"], source["id"])
        runner_of(request).take(row["id"])
    elif row["input_file_id"] != source["id"]:
        raise refuse(
            409,
            "this Idempotency-Key was used with another input_file_id; use a new key",
            code="idempotency_key_reused",
        )
    return batch_object(row)


@router.get("/v1/batches")
async def list_batches(
    request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> Record:
    """Batches, newest first."""
    seq = _cursor(store_of(request).batch(after), after) if after else None
    return _page(store_of(request), "batches", "true", {}, limit=limit, seq=seq, order="desc")


@router.get("/v1/batches/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Record:
    """One batch, with its counts as of the last durable line."""
    return batch_object(_batch(request, batch_id))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Record:
    """Stop a batch; lines that are done stay."""
    row = _batch(request, batch_id)
    if row["status"] not in ("cancelling", "cancelled") and not await runner_of(request).cancel(row["id"]):
        row = _batch(request, batch_id)
        if row["status"] not in ("cancelling", "cancelled"):
            raise refuse(
                409, f"batch {row['id']!r} is {row['status']} and cannot be cancelled", code="batch_not_cancellable"
            )
    return batch_object(_batch(request, batch_id))


@router.get("/v1/batches/{batch_id}/partial")
async def partial_results(request: Request, batch_id: str, offset: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Result lines of a running batch in the order in which they came; ``X-Next-Offset`` is where to go on."""
    row = _batch(request, batch_id)
    if row["status"] in TERMINAL:
        raise refuse(
            409, f"batch {row['id']!r} is {row['status']}; read its output and error files", code="batch_finished"
        )
    data = await asyncio.to_thread(store_of(request).spools.read, row, offset, PARTIAL_BYTES)
    return Response(data, media_type="application/x-ndjson", headers={"X-Next-Offset": str(offset + len(data))})


@router.get("/v1/batches/{batch_id}/live")
async def live(request: Request, batch_id: str) -> Record:
    """How fast a batch is, and when it will end (:meth:`Runner.live`)."""
    return runner_of(request).live(_batch(request, batch_id))


@router.get("/v1/arislab")
async def about(request: Request) -> Record:
    """What this server is.

    A client knows by it that the extra routes exist, and whether a data folder is the one it knew.
    """
    engine, limits = engine_of(request), dataclasses.asdict(limits_of(request))
    return {
        "server": "arislab",
        "version": __version__,
        "instance": store_of(request).database.instance,
        "engine": engine.name,
        "response_format": engine.response_format,
        "isolation": True,
        "limits": {name: limits[name] for name in ("requests", "file_bytes", "line_bytes", "window_s")},
    }


class Examined(BaseModel):
    """The body of ``POST /v1/arislab/isolation``."""

    models: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(min_length=1, max_length=MOST_MODELS)
    again: bool = False


@router.post("/v1/arislab/isolation")
async def isolation(request: Request, asked: Examined) -> Record:
    """Whether models may be asked at once.

    Examines the engine, for seconds, if that is not known (:meth:`Watch.check`).
    """
    return (await runner_of(request).watch.check(asked.models, again=asked.again)).as_dict()


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus(request: Request) -> Response:
    """Numbers for Prometheus (send the token as ``authorization.credentials``)."""
    runner, width = runner_of(request), engine_of(request).gate.width
    began = request.app.state.began
    text = await asyncio.to_thread(
        metrics.text, store_of(request).database, in_flight=runner.in_flight, width=width, began=began
    )
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


# -- inside ------------------------------------------------------------------------------------------------------------


def _file(request: Request, file_id: str, *, param: str = "id", status: int = 404) -> Record:
    rows = store_of(request).database.query(
        f"select * from files where id = :id and {LIVE}", {"id": file_id, "now": int(time.time())}
    )
    if not rows:
        raise refuse(status, f"no such file: {file_id!r}", param=param, code="not_found")
    return rows[0]


def _batch(request: Request, batch_id: str) -> Record:
    row = store_of(request).batch(batch_id)
    if row is None:
        raise refuse(404, f"no such batch: {batch_id!r}", param="id", code="not_found")
    return row


def _cursor(row: Record | None, after: str) -> int:
    if row is None:
        raise refuse(400, f"after must be the id of an earlier page's last entry, got {after!r}", param="after")
    return int(row["seq"])


def _page(store: Store, table: str, where: str, values: Record, *, limit: int, seq: int | None, order: str) -> Record:
    shown = {"files": file_object, "batches": batch_object}[table]
    if seq is not None:
        where += f" and seq {'<' if order == 'desc' else '>'} :seq"
    values = {**values, "seq": seq, "limit": limit + 1}  # one more than is shown tells whether there are more
    rows = store.database.query(f"select * from {table} where {where} order by seq {order} limit :limit", values)
    page = [shown(row) for row in rows[:limit]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": len(rows) > limit}


def _keep_s(seconds: object, most: int) -> int:
    if seconds is None:
        return most
    if not (isinstance(seconds, str) and re.fullmatch("[0-9]{4,8}", seconds) and 3600 <= int(seconds) <= most):
        raise refuse(400, f"expires_after[seconds] must be in 3600..{most}, got {seconds!r}", param="expires_after")
    return int(seconds)
