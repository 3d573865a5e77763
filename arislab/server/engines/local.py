"""The engine that runs a local model in worker processes; the server's own process never loads torch."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.server.engines.base import CHAT, Emit, Logprob, Request, Result, completion, failure, generation, marked
from arislab.server.gate import Gate

log = logging.getLogger("arislab.server")

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
CHUNKS = {64 * 2**20: 128, 2**30: 32, 2**40: 8}
"""Bytes of a model, at most -> lines of a chunk: what a kill costs against what is read for few rows.

SmolLM2-135M, answer tokens a CPU second and CPU seconds of a chunk: 8 lines 59 and 6, 16 lines 78 and 10, 32 lines 97
and 15, 64 lines 104 and 28.
"""


@dataclass
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"


class LocalEngine:
    """``arislab.tiny.decoder.Engine`` in worker processes, one thread each; the server process never loads torch.

    Chunks are cut by position and always generated whole and in input order: the sums inside a batch of rows are
    rounded alike each time, so that a batch that was killed and resumed gives the same bytes as an undisturbed one.
    Each answer is given as soon as its row ends. After a kill a chunk with a missing line runs whole again, and what it
    says about lines that are done is the same and dropped: a chunk is what a kill costs, and large models get small
    ones (``chunk_of``).

    Args:
        model: folder of a checkpoint.
        adapters: folder of LoRA adapters, or None; adapters that come later are seen.
        workers: number of processes.
    """

    name, endpoints, response_format = "local", frozenset({CHAT}), False
    takes_any_model = False
    whole_chunks = True

    def __init__(self, model: Path, *, adapters: Path | None, workers: int):
        self.gate = Gate(workers)
        # made now, in the system's folder: that of uploads, which comes to be the default one, may be too deep for the
        # name of the fork server's socket, of which Linux takes 107 bytes
        util.get_temp_dir()
        self._model, self._adapters = model, adapters
        self.chunk_lines = chunk_of(model)
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
            worker.process.kill()
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
        """Generate one chunk in one call of the decoder, and emit each answer when it is there."""
        jobs = [(request, generation(request)) for request in chunk]
        for _, job in jobs:
            if isinstance(job, Result):
                emit(job)
        good = [(request, job) for request, job in jobs if not isinstance(job, Result)]
        await self.loaded()
        if not good:
            return
        answers: asyncio.Queue[tuple[int, _Answer] | None] = asyncio.Queue()
        # the worker must be asked and heard to the end even when the batch is cancelled meanwhile
        asking = asyncio.shield(asyncio.create_task(self._generate([job for _, job in good], answers.put_nowait)))
        asking.add_done_callback(lambda _: answers.put_nowait(None))
        left = dict(enumerate(good))
        while (answer := await answers.get()) is not None:
            if answer[0] in left:  # a worker that took over begins again with the first
                request, job = left.pop(answer[0])
                emit(_result(request, job, answer[1]))
        await asking
        for request, _ in left.values():
            emit(marked(failure(request.line, 500, "worker_died", _DIED), tries=2))

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
            ready = await loop.run_in_executor(self._threads, ours.recv)
        except (EOFError, ConnectionError):
            process.join(timeout=5)
            is_killed = process.exitcode == -signal.SIGKILL  # as Linux does to what needs too much memory
            why = ": its process was killed" if is_killed else "; the reason stands in the server's log above"
            raise PrerequisiteError(f"the model in {str(self._model)!r} cannot be loaded{why}") from None
        if isinstance(ready, PrerequisiteError):
            raise ready
        self._base, about = ready
        log.info("worker %d is ready: %s", process.pid, about)
        return worker

    def _start(self, process: BaseProcess) -> None:
        """Start a process, which waits for the fork server's import, and may be too late."""
        process.start()
        if self._is_stopping:
            process.kill()

    async def _generate(self, jobs: list[dict[str, Any]], heard: Callable[[tuple[int, "_Answer"]], None]) -> None:
        """Have a worker generate, and another one if it dies; two that die of these jobs are enough."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            worker = await self._idle.get()
            try:
                await loop.run_in_executor(
                    self._threads,
                    _ask,
                    worker.connection,
                    jobs,
                    lambda answer: loop.call_soon_threadsafe(heard, answer),
                )
            except (EOFError, ConnectionError):
                if self._is_stopping:
                    return
                log.warning("worker %d died and is started again", worker.process.pid)
                self._workers.remove(worker)
                worker.connection.close()
                self._idle.put_nowait(await self._worker())
            else:
                self._idle.put_nowait(worker)
                return


_DIED = "the model's process died twice on this chunk of lines; see the server's log, then send the line again"
_Answer = tuple[str, str, int, int, str | None, str, tuple[Logprob, ...] | None]
"""The fields of ``decoder.Answer``, which the server process does not load."""


def chunk_of(model: Path) -> int:
    """Return the lines of a chunk, by the size of the model."""
    n_bytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return next((lines for most, lines in CHUNKS.items() if n_bytes <= most), min(CHUNKS.values()))


def _ask(connection: "Connection[Any, Any]", jobs: list[dict[str, Any]], heard: Callable[[Any], Any]) -> None:
    """Send jobs to a worker and pass on its answers until it says that there are no more."""
    connection.send(jobs)
    while (answer := connection.recv()) is not None:
        heard(answer)


def _work(connection: "Connection[Any, Any]", model: Path, adapters: Path | None) -> None:
    """The worker process: a list of jobs in, a list of answers out, until the server is gone."""
    # Ctrl-C and whoever ends a run reach all processes: died we before the server knows, it would call our lines failed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_server, daemon=True).start()
    from arislab.tiny import decoder

    try:
        engine = decoder.Engine(model, adapters_dir=adapters, threads=1)
    except PrerequisiteError as error:
        connection.send(error)
        return
    connection.send((engine.base, engine.about))
    with suppress(EOFError):
        while True:
            jobs = [decoder.Request(**job) for job in connection.recv()]
            engine.generate(jobs, lambda i, answer: connection.send((i, astuple(answer))))
            connection.send(None)


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
    os._exit(1)  # the server was killed; nobody waits for what is being generated


def _result(request: Request, job: dict[str, Any], answer: _Answer) -> Result:
    text, finish_reason, prompt_tokens, completion_tokens, error, why, logprobs = answer
    if error is not None:
        status = {"model_not_found": 404, "model_not_loadable": 500}.get(error, 400)
        known = "; GET /v1/models lists those that exist" if status == 404 else ""
        message = f"model {job['model']!r} cannot answer: {error}, prompt of {prompt_tokens} tokens{known}"
        return failure(request.line, status, error, why or message)
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return completion(request, model=job["model"], text=text, finish_reason=finish_reason, logprobs=logprobs, **counts)
