"""The HTTP face of the batch server: OpenAI Files and Batches, models, and direct chat completions.

The real openai SDK is the oracle of this protocol; what it does not know is one extra route,
``GET /v1/batches/{id}/partial?offset=``, which gives the results of a running batch so far.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import uvicorn
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arislab.errors import PrerequisiteError
from arislab.server import engines
from arislab.server.runner import ENDPOINT, MAX_LINE_BYTES, Runner
from arislab.server.store import KEEP_FILES_S, TERMINAL, Record, Store, batch_object, file_object

log = logging.getLogger("arislab.server")

MAX_UPLOAD_BYTES = 200 << 20
WINDOW_S = 24 * 3600
PARTIAL_BYTES = 16 << 20

router = APIRouter()


def create_app(store: Store, engine: engines.Engine, *, token: str, host: str) -> FastAPI:
    """The application on an open store; it starts and stops the engine, and closes the store when it stops.

    Args:
        store: an open store.
        engine: what answers the lines.
        token: what clients send as ``Authorization: Bearer <token>``.
        host: the address that the server is bound to; decides which Host headers are served.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runner = Runner(store, engine)
        app.state.store, app.state.engine, app.state.runner = store, engine, runner
        await engine.start()
        runner.start()
        sweeps = asyncio.create_task(_sweep(store))
        try:
            yield
        finally:
            sweeps.cancel()
            await runner.stop()
            await engine.stop()
            store.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    app.add_middleware(Guard, token=token, host=host)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _server_error)
    return app


def serve(
    data: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: Path | None = None,
    model: str | None = None,
    adapters: Path | None = None,
    upstream: Sequence[str] = (),
    workers: int | None = None,
    parent_pid: int | None = None,
    engine: str | None = None,
) -> None:
    """Serve until SIGTERM, Ctrl-C, or the end of the parent; print one JSON line with the url when ready.

    Args:
        data: folder for files, batches and results; one server at a time.
        host: address to bind; beyond loopback whoever has the token may use the engine.
        port: 0 takes a free one.
        token_file: holds the bearer token; made with mode 0600 if absent. Default ``data/token``.
        model: ``tiny`` (default), or a folder with a Llama checkpoint.
        adapters: folder of LoRA adapters that become model names.
        upstream: base URLs of chat servers to use in place of a model.
        workers: processes of the local model.
        parent_pid: stop when this process is gone.
        engine: ``echo`` or ``echo:SECONDS`` (per line) in place of a model, for tests.

    Raises:
        PrerequisiteError: the folder is in use, the port is taken, the token file is open to others, no such model.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    os.umask(0o077)
    data = Path(data)
    chosen = engines.make_engine(model=engine or model, adapters=adapters, upstream=upstream, workers=workers)
    store = Store(data)
    tempfile.tempdir = str(store.tmp_dir)  # uploads are spooled here, not to a small /tmp
    token_path = Path(token_file) if token_file is not None else data / "token"
    token = read_token(token_path)
    listener = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
    app = create_app(store, chosen, token=token, host=host)
    settings = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=3, server_header=False)
    ready = {"url": url, "token_file": str(token_path.resolve()), "pid": os.getpid()}
    asyncio.run(_run(_Server(settings), listener, chosen, ready, parent_pid))


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read; a new random one is written if the file is absent.

    Raises:
        PrerequisiteError: others can read the file, or it is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise PrerequisiteError(
                f"the token file {str(path)!r} has mode {mode:o}, so others on this machine may read it; make it 600: chmod 600 {path}"
            ) from None
        if not (token := path.read_text().strip()):
            raise PrerequisiteError(
                f"the token file {str(path)!r} is empty; remove it to get a new token, or write one into it"
            ) from None
        return token
    with os.fdopen(descriptor, "w") as file:
        token = "arislab-" + secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


class Guard:
    """What every request passes first: Host allow-list (against DNS rebinding), bearer token, size limit."""

    def __init__(self, app: ASGIApp, *, token: str, host: str):
        self.app, self._token = app, token.encode()
        wildcard = host in ("0.0.0.0", "::", "")
        self._any_address = wildcard  # a page in a browser can forge names, not addresses
        self._hosts = {"127.0.0.1", "localhost", "::1", host.lower()} | (
            {socket.gethostname().lower()} if wildcard else set()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._host_is_known(headers.get(b"host", b"").decode("latin-1")):
            refusal = _envelope(
                403,
                "this Host header is not served; use the url that the server printed when it started",
                code="host_not_allowed",
            )
            await refusal(scope, receive, send)
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scope["path"] != "/health" and not (
            kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)
        ):
            message = "missing or wrong API key; send the content of the server's token file as 'Authorization: Bearer <token>'"
            refusal = _envelope(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        limit = MAX_UPLOAD_BYTES + (1 << 16) if scope["path"] == "/v1/files" else MAX_LINE_BYTES
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await _envelope(413, _too_large(limit), code="request_too_large")(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > limit:
                raise StarletteHTTPException(413, _too_large(limit))
            return message

        await self.app(scope, counted, send)

    def _host_is_known(self, header: str) -> bool:
        name = header.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._hosts:
            return True
        return self._any_address and _is_address(name)


# -- routes -------------------------------------------------------------------------------------------------------------


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
            raise _refuse(400, "missing the multipart field 'file'", param="file")
        if purpose != "batch":
            raise _refuse(400, f"purpose must be 'batch', got {purpose!r}", param="purpose")
        if upload.size is not None and upload.size > MAX_UPLOAD_BYTES:
            raise _refuse(413, _too_large(MAX_UPLOAD_BYTES), code="request_too_large")
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
        raise _refuse(409, f"file {row['id']!r} is read by a running batch; cancel the batch first", code="file_in_use")
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
        raise _refuse(400, f"endpoint must be {ENDPOINT!r}, got {new.endpoint!r}", param="endpoint")
    source = _file(request, new.input_file_id, param="input_file_id", status=400)
    if source["purpose"] != "batch":
        raise _refuse(
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
        raise _refuse(
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
            raise _refuse(
                409, f"batch {row['id']!r} is {row['status']} and cannot be cancelled", code="batch_not_cancellable"
            )
    return batch_object(_batch(request, batch_id))


@router.get("/v1/batches/{batch_id}/partial")
async def partial_results(request: Request, batch_id: str, offset: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Result lines of a running batch in the order in which they came; ``X-Next-Offset`` is where to go on."""
    row = _batch(request, batch_id)
    if row["status"] in TERMINAL:
        raise _refuse(
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
        raise _refuse(400, f"the body is not valid JSON: {error.msg}") from None
    if not isinstance(body, dict) or body.get("stream"):
        raise _refuse(400, "the body must be a JSON object without 'stream': this server answers whole", param="stream")
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
        return _envelope(502, failed["message"], code=failed["code"])
    return Response(result.body, status_code=result.status, media_type="application/json")


# -- inside -------------------------------------------------------------------------------------------------------------


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _file(request: Request, file_id: str, *, param: str = "id", status: int = 404) -> Record:
    row = _store(request).file(file_id)
    if row is None or (row["expires_at"] is not None and row["expires_at"] <= time.time()):
        raise _refuse(status, f"no such file: {file_id!r}", param=param, code="not_found")
    return row


def _batch(request: Request, batch_id: str) -> Record:
    row = _store(request).batch(batch_id)
    if row is None:
        raise _refuse(404, f"no such batch: {batch_id!r}", param="id", code="not_found")
    return row


def _cursor(row: Record | None, after: str) -> int:
    if row is None:
        raise _refuse(400, f"after must be the id of an earlier page's last entry, got {after!r}", param="after")
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
        raise _refuse(
            400, f"expires_after[seconds] must be in 3600..{KEEP_FILES_S}, got {seconds!r}", param="expires_after"
        )
    return int(seconds)


def _too_large(limit: int) -> str:
    return f"the request has more than {limit} bytes; split the file"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse(status: int, message: str, *, param: str | None = None, code: str | None = None) -> HTTPException:
    return HTTPException(status, {"message": message, "param": param, "code": code})


def _envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail: Any = error.detail
    fields = detail if isinstance(detail, dict) else {"message": str(detail)}
    return _envelope(error.status_code, **fields)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return _envelope(400, f"{param or 'the request'}: {first['msg']}", param=param, code=first["type"])


async def _server_error(_: Request, error: Exception) -> Response:
    return _envelope(500, f"the server failed: {type(error).__name__}; its log has the reason")


async def _sweep(store: Store) -> None:
    while True:
        if n_files := await asyncio.to_thread(store.sweep):
            log.info("%d expired files removed", n_files)
        await asyncio.sleep(3600)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PrerequisiteError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port (0 takes a free one)"
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Ends on SIGTERM with exit code 0: the event loop below has the signals, not uvicorn."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    server: uvicorn.Server, listener: socket.socket, engine: engines.Engine, ready: Record, parent_pid: int | None
) -> None:
    def end() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loading: asyncio.Task[None] | None = None
    is_announced, is_child = False, os.getppid() == parent_pid
    while not serving.done():
        if server.started and not is_announced:
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            is_announced = True
            loading = asyncio.create_task(engine.loaded())
        if parent_pid is not None and not _is_alive(parent_pid, is_child=is_child):
            log.info("the parent process %d is gone", parent_pid)
            end()
        if loading is not None and loading.done() and loading.exception() is not None:
            end()
        await asyncio.wait([serving], timeout=0.5 if is_announced else 0.02)
    await serving
    if loading is not None:
        if loading.done() and not loading.cancelled():
            loading.result()  # a model that cannot be loaded is the user's to fix
        loading.cancel()


def _is_alive(pid: int, *, is_child: bool) -> bool:
    if is_child:
        return os.getppid() == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
