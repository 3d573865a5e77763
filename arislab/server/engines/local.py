"""The engine that runs a local model in worker processes; the server's own process never loads torch."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.server.engines.base import CHAT, Emit, Request, Result, completion, failure, generation, marked
from arislab.server.gate import Gate

log = logging.getLogger("arislab.server")

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"


class LocalEngine:
    """``arislab.tiny.decoder.Engine`` in worker processes, one thread each; the server process never loads torch.

    Chunks are cut by position and always generated whole and in input order: the sums inside a batch of rows are
    rounded alike each time, so that a batch that was killed and resumed gives the same bytes as an undisturbed one.

    Args:
        model: folder of a Llama checkpoint.
        adapters: folder of LoRA adapters, or None; adapters that come later are seen.
        workers: number of processes.
    """

    name, endpoints, response_format = "local", frozenset({CHAT}), False
    takes_any_model = False
    chunk_lines, whole_chunks = 128, True

    def __init__(self, model: Path, *, adapters: Path | None, workers: int):
        self.gate = Gate(workers)
        # made now, in the system's folder: that of uploads, which comes to be the default one, may be too deep for the
        # name of the fork server's socket, of which Linux takes 107 bytes
        util.get_temp_dir()
        self._model, self._adapters = model, adapters
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="worker")
        self._n_workers = workers
        self._base, self._is_stopping = "", False
        self._loading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers; they load the model while the server already answers."""
        os.environ.update(_ONE_THREAD)  # torch reads them when it is imported, which is in the fork server
        self._loading = [asyncio.create_task(self._load()) for _ in range(self._n_workers)]

    async def loaded(self) -> None:
        """Wait until one worker answers.

        Raises:
            PrerequisiteError: the model cannot be loaded.
        """
        done, _ = await asyncio.wait(self._loading, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """End the workers."""
        self._is_stopping = True
        for task in self._loading:
            task.cancel()
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            worker.connection.close()
        self._threads.shutdown(wait=False)

    async def models(self) -> list[str]:
        """The base model, then the adapters that lie in the folder now."""
        await self.loaded()
        configs = sorted(self._adapters.glob("*/adapter_config.json")) if self._adapters is not None else []
        return [self._base, *(path.parent.name for path in configs)]

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Generate one chunk in one call of the decoder."""
        jobs = [(request, generation(request)) for request in chunk]
        for _, job in jobs:
            if isinstance(job, Result):
                emit(job)
        good = [(request, job) for request, job in jobs if not isinstance(job, Result)]
        await self.loaded()
        # the worker must be asked and heard to the end even when the batch is cancelled meanwhile
        answers = await asyncio.shield(asyncio.create_task(self._generate([job for _, job in good]))) if good else []
        for i, (request, job) in enumerate(good):
            died = marked(failure(request.line, 500, "worker_died", _DIED), tries=2)
            emit(_answer(request, job, answers[i]) if answers else died)

    async def _load(self) -> None:
        self._idle.put_nowait(await self._worker())

    async def _worker(self) -> _Worker:
        """Start a process and wait for its list of models."""
        # importing torch takes longer than loading a small model: it is done once, and each worker is a fork of that
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        loop = asyncio.get_running_loop()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._model, self._adapters), daemon=True)
        await loop.run_in_executor(self._threads, self._start, process)
        theirs.close()  # while this process holds the other end too, a dead worker is no end of file
        worker = _Worker(process, ours)
        self._workers.append(worker)
        try:
            base = await loop.run_in_executor(self._threads, ours.recv)
        except (EOFError, ConnectionError):
            raise PrerequisiteError(
                f"the model in {str(self._model)!r} cannot be loaded; the reason stands in the server's log above"
            ) from None
        if isinstance(base, PrerequisiteError):
            raise base
        self._base = base
        log.info("worker %d is ready", process.pid)
        return worker

    def _start(self, process: BaseProcess) -> None:
        """Start a process, which waits for the fork server's import, and may be too late."""
        process.start()
        if self._is_stopping:
            process.terminate()

    async def _generate(self, jobs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """Answers of a worker, or an empty list when two workers in a row died of these jobs."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            worker = await self._idle.get()
            try:
                answers: list[tuple[Any, ...]] = await loop.run_in_executor(
                    self._threads, _ask, worker.connection, jobs
                )
            except (EOFError, ConnectionError):
                if self._is_stopping:
                    break
                log.warning("worker %d died and is started again", worker.process.pid)
                self._workers.remove(worker)
                worker.connection.close()
                self._idle.put_nowait(await self._worker())
            else:
                self._idle.put_nowait(worker)
                return answers
        return []


_DIED = "the model's process died twice on this chunk of lines; see the server's log, then send the line again"


def _ask(connection: "Connection[Any, Any]", jobs: list[dict[str, Any]]) -> Any:
    connection.send(jobs)
    return connection.recv()


def _work(connection: "Connection[Any, Any]", model: Path, adapters: Path | None) -> None:
    """The worker process: a list of jobs in, a list of answers out, until the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends us in its own time
    threading.Thread(target=_end_with_server, daemon=True).start()
    from arislab.tiny import decoder

    try:
        engine = decoder.Engine(model, adapters_dir=adapters, threads=1)
    except PrerequisiteError as error:
        connection.send(error)
        return
    connection.send(engine.base)
    with suppress(EOFError):
        while True:
            answers = engine.generate([decoder.Request(**job) for job in connection.recv()])
            connection.send(
                [(a.text, a.finish_reason, a.prompt_tokens, a.completion_tokens, a.error, a.why) for a in answers]
            )


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
    os._exit(1)  # the server was killed; nobody waits for what is being generated


def _answer(request: Request, job: dict[str, Any], answer: tuple[Any, ...]) -> Result:
    text, finish_reason, prompt_tokens, completion_tokens, error, why = answer
    if error is not None:
        status = {"model_not_found": 404, "model_not_loadable": 500}.get(error, 400)
        known = "; GET /v1/models lists those that exist" if status == 404 else ""
        message = f"model {job['model']!r} cannot answer: {error}, prompt of {prompt_tokens} tokens{known}"
        return failure(request.line, status, error, why or message)
    stop = request.body.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        if mark and mark in text:
            text, finish_reason = text.split(mark, 1)[0], "stop"
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return completion(request, model=job["model"], text=text, finish_reason=finish_reason, **counts)
