"""The routes of OpenAI's Files and Batches, models and chat completions.

The real openai SDK is the oracle of this protocol; what it does not know is one extra route,
``GET /v1/batches/{id}/partial?offset=``, which gives the results of a running batch so far.
"""

import asyncio
import json
import logging
import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from arislab.server import engines
from arislab.server.guard import MAX_UPLOAD_BYTES, envelope, refuse, too_large
from arislab.server.runner import ENDPOINT
from arislab.server.store import KEEP_FILES_S, TERMINAL, Record, Store

log = logging.getLogger("arislab.server")

WINDOW_S = 24 * 3600
PARTIAL_BYTES = 16 << 20

router = APIRouter()


class ExpiresAfter(BaseModel):
    """When a file goes away."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=3600, le=KEEP_FILES_S)


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
    async with request.form(max_files=1, max_fields=10) as form:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise refuse(400, "missing the multipart field 'file'", param="file")
        if purpose != "batch":
            raise refuse(400, f"purpose must be 'batch', got {purpose!r}", param="purpose")
        if upload.size is not None and upload.size > MAX_UPLOAD_BYTES:
            raise refuse(413, too_large(MAX_UPLOAD_BYTES), code="request_too_large")
        keep_s = _keep_s(form.get("expires_after[seconds]"))
        name = Path((upload.filename or "input.jsonl").replace("\\", "/")).name[:255]
        row = await asyncio.to_thread(
            _store(request).add_file, upload.file, filename=name, purpose="batch", keep_s=keep_s
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
    where = "(expires_at is null or expires_at > ?)"
    values: list[Any] = [int(time.time())]
    seq = _cursor(_store(request).file(after), after) if after else None
    if purpose is not None:
        where, values = f"{where} and purpose = ?", [*values, purpose]
    return _page(_store(request), "files", where, values, limit=limit, seq=seq, order=order)


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Record:
    """One file's record."""
    return file_object(_file(request, file_id))


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Record:
    """Remove a file that no running batch reads."""
    row = _file(request, file_id)
    if not await asyncio.to_thread(_store(request).delete_file, row["id"]):
        raise refuse(409, f"file {row['id']!r} is read by a running batch; cancel the batch first", code="file_in_use")
    return {"id": row["id"], "object": "file", "deleted": True}


@router.get("/v1/files/{file_id}/content")
async def file_content(request: Request, file_id: str) -> Response:
    """The bytes of a file."""
    path = _store(request).path(_file(request, file_id)["id"])
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Content-Type-Options": "nosniff"})


@router.post("/v1/batches")
async def create_batch(
    request: Request, new: NewBatch, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> Record:
    """Create a batch; its lines are checked afterwards, in state ``validating``."""
    if new.endpoint != ENDPOINT:
        raise refuse(400, f"endpoint must be {ENDPOINT!r}, got {new.endpoint!r}", param="endpoint")
    source = _file(request, new.input_file_id, param="input_file_id", status=400)
    if source["purpose"] != "batch":
        raise refuse(
            400,
            f"file {source['id']!r} has purpose {source['purpose']!r}; upload it with purpose 'batch'",
            param="input_file_id",
        )
    now = int(time.time())
    columns = {
        "endpoint": new.endpoint,
        "input_file_id": source["id"],
        "output_expires_s": new.output_expires_after.seconds if new.output_expires_after else KEEP_FILES_S,
        "metadata": json.dumps(new.metadata) if new.metadata is not None else None,
        "idempotency_key": idempotency_key,
        "created_at": now,
        "expires_at": now + WINDOW_S,
    }
    row, is_new = await asyncio.to_thread(_store(request).add_batch, columns)
    if is_new:
        log.info("%s: created from %s", row["id"], source["id"])
        request.app.state.runner.take(row["id"])
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
    seq = _cursor(_store(request).batch(after), after) if after else None
    return _page(_store(request), "batches", "true", [], limit=limit, seq=seq, order="desc")


@router.get("/v1/batches/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Record:
    """One batch, with its counts as of the last durable line."""
    return batch_object(_batch(request, batch_id))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Record:
    """Stop a batch; lines that are done stay."""
    row = _batch(request, batch_id)
    if row["status"] not in ("cancelling", "cancelled") and not await request.app.state.runner.cancel(row["id"]):
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
    data = await asyncio.to_thread(_store(request).spooled, row, offset, PARTIAL_BYTES)
    return Response(data, media_type="application/x-ndjson", headers={"X-Next-Offset": str(offset + len(data))})


@router.get("/v1/models")
async def list_models(request: Request) -> Record:
    """Names that a line may have in ``body.model``."""
    names = await request.app.state.engine.models()
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "arislab"} for name in names],
    }


@router.post("/v1/chat/completions")
async def chat_completion(request: Request) -> Response:
    """One answer now, by the engine that runs the batches."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise refuse(400, f"the body is not valid JSON: {error.msg}") from None
    if not isinstance(body, dict) or body.get("stream"):
        raise refuse(400, "the body must be a JSON object without 'stream': this server answers whole", param="stream")
    engine: engines.Engine = request.app.state.engine
    results: list[engines.Result] = []
    await engine.gate.enter()
    try:
        await engine.run([engines.Request(0, secrets.token_hex(16), body, int(time.time()))], results.append)
    finally:
        engine.gate.leave()
    result = results[0]
    if result.status == 0:
        failed = orjson.loads(result.body)
        return envelope(502, failed["message"], code=failed["code"])
    return Response(result.body, status_code=result.status, media_type="application/json")


# -- what is shown -----------------------------------------------------------------------------------------------------


def batch_object(row: Record) -> Record:
    """A batch as OpenAI's API shows it."""
    shown = (
        "id endpoint input_file_id status output_file_id error_file_id created_at in_progress_at expires_at finalizing_at "
        "completed_at failed_at expired_at cancelling_at cancelled_at model"
    )
    return {
        "object": "batch",
        **{name: row[name] for name in shown.split()},
        "completion_window": "24h",
        "errors": {"object": "list", "data": json.loads(row["errors"])} if row["errors"] else None,
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
        "request_counts": {name: row[name] for name in ("total", "completed", "failed")},
        "usage": {
            "input_tokens": row["input_tokens"],
            "input_tokens_details": {"cached_tokens": row["cached_tokens"]},
            "output_tokens": row["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"]},
            "total_tokens": row["input_tokens"] + row["output_tokens"],
        },
    }


def file_object(row: Record) -> Record:
    """A file as OpenAI's API shows it."""
    names = ("id", "bytes", "created_at", "expires_at", "filename", "purpose")
    return {"object": "file", "status": "processed", **{name: row[name] for name in names}}


# -- inside -------------------------------------------------------------------------------------------------------------


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _file(request: Request, file_id: str, *, param: str = "id", status: int = 404) -> Record:
    row = _store(request).file(file_id)
    if row is None or (row["expires_at"] is not None and row["expires_at"] <= time.time()):
        raise refuse(status, f"no such file: {file_id!r}", param=param, code="not_found")
    return row


def _batch(request: Request, batch_id: str) -> Record:
    row = _store(request).batch(batch_id)
    if row is None:
        raise refuse(404, f"no such batch: {batch_id!r}", param="id", code="not_found")
    return row


def _cursor(row: Record | None, after: str) -> int:
    if row is None:
        raise refuse(400, f"after must be the id of an earlier page's last entry, got {after!r}", param="after")
    return int(row["seq"])


def _page(
    store: Store, table: str, where: str, values: list[Any], *, limit: int, seq: int | None, order: str
) -> Record:
    shown = {"files": file_object, "batches": batch_object}[table]
    if seq is not None:
        where, values = f"{where} and seq {'<' if order == 'desc' else '>'} ?", [*values, seq]
    rows = store.query(f"select * from {table} where {where} order by seq {order} limit ?", *values, limit + 1)
    page = [shown(row) for row in rows[:limit]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": len(rows) > limit}


def _keep_s(seconds: object) -> int:
    if seconds is None:
        return KEEP_FILES_S
    if not (isinstance(seconds, str) and seconds.isdigit() and 3600 <= int(seconds) <= KEEP_FILES_S):
        raise refuse(
            400, f"expires_after[seconds] must be in 3600..{KEEP_FILES_S}, got {seconds!r}", param="expires_after"
        )
    return int(seconds)
