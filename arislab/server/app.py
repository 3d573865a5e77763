"""The batch server: OpenAI Files and Batches, models, and direct chat completions, in front of an engine."""

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from arislab import __version__
from arislab.errors import PrerequisiteError
from arislab.server import alias_routes, direct, routes
from arislab.server.connections import MOST_AT_ONCE, Connection, most_at_once, raise_descriptors
from arislab.server.database import Record
from arislab.server.engines import base, choose
from arislab.server.guard import Guard, envelope, read_token
from arislab.server.limits import Limits
from arislab.server.quiet import RateLimit
from arislab.server.runner import Runner
from arislab.server.schema import Api
from arislab.server.store import Store
from arislab.system import masking
from arislab.system.text import terminal

log = logging.getLogger("arislab.server")


def create_app(
    store: Store,
    engine: base.Engine,
    *,
    token: str,
    host: str,
    limits: Limits | None = None,
    group_by_prefix: bool = False,
) -> FastAPI:
    """The application on an open store; it starts and stops the engine, and closes the store when it stops.

    Args:
        store: an open store.
        engine: what answers the lines.
        token: what clients send as ``Authorization: Bearer <token>``.
        host: the address that the server is bound to; decides which Host headers are served.
        limits: what clients may send.
        group_by_prefix: see :class:`Runner`.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runner = Runner(store, engine, limits=limits, group_by_prefix=group_by_prefix)
        app.state.limits, app.state.began = limits, time.time()
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

    app = Api(lifespan=lifespan, version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.include_router(routes.router)
    app.include_router(direct.router)
    app.include_router(alias_routes.router)
    app.add_middleware(Guard, token=token, host=host, limits=limits)
    app.add_exception_handler(OSError, _disk_error)
    app.add_exception_handler(sqlite3.OperationalError, _disk_error)
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
    vllm: str | None = None,
    vllm_python: str | None = None,
    vllm_args: Sequence[str] = (),
    ray: str | None = None,
    replicas: int | None = None,
    limits: Limits | None = None,
    group_by_prefix: bool = False,
) -> None:
    """Serve until SIGTERM, Ctrl-C, or the end of the parent; print one JSON line with the url when ready.

    Args:
        data: folder for files, batches and results; one server at a time.
        host: address to bind; beyond loopback whoever has the token may use the engine.
        port: 0 takes a free one.
        token_file: holds the bearer token; made with mode 0600 if absent. Default ``data/token``.
        model: ``tiny`` (default), or a folder with a checkpoint.
        adapters: folder of LoRA adapters that become model names.
        upstream: base URLs of chat servers to use in place of a model.
        workers: processes of the local model.
        parent_pid: stop when this process is gone.
        engine: ``echo``, ``echo:SECONDS`` (per line), ``faulty`` or ``faulty:SPEC`` in place of a model, for tests.
        vllm: model of a vLLM that is started here, in place of the others.
        vllm_python: the interpreter that has vLLM; default this one.
        vllm_args: options that are passed on to vLLM.
        ray: ``local``, ``auto`` or HOST:PORT: actors of that Ray ask the upstreams, or start the vLLMs.
        replicas: actors of Ray.
        limits: what clients may send, and how much is kept.
        group_by_prefix: dispatch lines that share all messages but the last together.

    Raises:
        PrerequisiteError: the folder is in use, the port is taken, the token file is open to others, no such model.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fit("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(RateLimit())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    os.umask(0o077)  # questions and answers, and the token, are for nobody else on this machine
    raise_descriptors()
    data, limits = Path(data), limits or Limits()
    chosen = choose.make_engine(
        model=model,
        adapters=adapters,
        upstream=upstream,
        workers=workers,
        engine=engine,
        vllm=vllm,
        vllm_python=vllm_python,
        vllm_args=vllm_args,
        ray=ray,
        replicas=replicas,
        data=data,
        answer_bytes=limits.answer_bytes,
    )
    store = Store(data, quota_bytes=limits.quota_bytes)
    tempfile.tempdir = str(store.tmp_dir)  # uploads are spooled here, not to a small /tmp
    token_path = Path(token_file) if token_file is not None else data / "token"
    token = read_token(token_path)
    listener = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
    app = create_app(store, chosen, token=token, host=host, limits=limits, group_by_prefix=group_by_prefix)
    settings = uvicorn.Config(
        app,
        http=Connection,
        backlog=most_at_once(),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        server_header=False,
    )
    ready = {"url": url, "token_file": str(token_path.resolve()), "pid": os.getpid()}
    asyncio.run(_run(_Server(settings), listener, chosen, ready, parent_pid))


async def _sweep(store: Store) -> None:
    while True:
        try:
            if n_files := await asyncio.to_thread(store.sweep):
                log.info("%d expired files removed", n_files)
        except (OSError, sqlite3.Error) as error:
            log.error("expired files stay for now: %s", error)
        await asyncio.sleep(3600)


class _Fit(logging.Formatter):
    """Lines of the log without secrets, and without what steers a terminal: clients choose some of their words."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal(masking.masked(super().format(record)))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, or asyncio sets no TCP_NODELAY, and answers on a connection that is kept wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # else the port of a server that was just stopped is taken until its last connections are forgotten
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
    server: uvicorn.Server, listener: socket.socket, engine: base.Engine, ready: Record, parent_pid: int | None
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
        if server.started and loading is None and not server.should_exit:
            # asyncio has one number for how many it takes at once and how many may wait; who finds the queue full tries
            # again after a second
            listener.listen(MOST_AT_ONCE)
            loading = asyncio.create_task(engine.loaded())
        if loading is not None and loading.done() and not is_announced:
            if loading.cancelled() or loading.exception() is not None:
                end()
            else:
                # What is loaded now stays to the end: each full collection would walk it again, hundreds of times in a
                # large batch.
                gc.collect()
                gc.freeze()
                sys.stdout.write(json.dumps(ready) + "\n")
                sys.stdout.flush()
                is_announced = True
        if parent_pid is not None and not server.should_exit and not _is_alive(parent_pid, is_child=is_child):
            log.info("the parent process %d is gone", parent_pid)
            end()
        await asyncio.wait([serving], timeout=0.5 if is_announced else 0.02)
    await serving
    if loading is not None and loading.done() and not loading.cancelled():
        loading.result()  # a model that cannot be loaded is the user's to fix


def _is_alive(pid: int, *, is_child: bool) -> bool:
    if is_child:  # a child gets another parent at once, and so needs not trust a pid, which may be used again
        return os.getppid() == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail: Any = error.detail
    fields = detail if isinstance(detail, dict) else {"message": str(detail)}
    return envelope(error.status_code, **fields)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return envelope(400, f"{param or 'the request'}: {first['msg']}", param=param, code=first["type"])


async def _disk_error(_: Request, error: Exception) -> Response:
    full = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) in full or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        log.error("refused: %s", error)
        return envelope(507, f"the server's disk is full: {error}; delete files and try again", code="disk_full")
    log.error("the disk or the database failed: %s", error)
    return envelope(500, f"the server failed: {type(error).__name__}; its log has the reason")


async def _server_error(_: Request, error: Exception) -> Response:
    return envelope(500, f"the server failed: {type(error).__name__}; its log has the reason")
