"""What answers the lines of a batch: a local model in worker processes, other chat servers, or an echo.

An engine takes a chunk of lines and emits one :class:`Result` for each, in any order. A line that fails is a result too.
"""

import asyncio
import hashlib
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from arislab.errors import PrerequisiteError
from arislab.server.store import NO_USAGE, Usage

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("arislab.server")


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a batch, or one direct chat completion."""

    line: int
    custom_id: str
    body: dict[str, Any]
    created_at: int
    """Unix time of the batch: answers carry it, so that a line that runs twice gives the same bytes."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one line."""

    line: int
    status: int
    """HTTP status; 0 when no answer was had at all, and ``body`` is then ``{"code", "message"}``."""
    body: bytes
    """JSON on one line."""
    usage: Usage = NO_USAGE


Emit = Callable[[Result], None]


class Gate:
    """A turnstile: ``width`` chunks inside at most, the others wait in the order of their arrival.

    Each running batch queues for one chunk at a time, so batches take turns and a small one is not stuck behind a large one.
    """

    def __init__(self, width: int):
        self.width, self.inside = width, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place."""
        if self.inside < self.width and not self._waiting:
            self.inside += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place to the next one."""
        self.inside -= 1
        self.widen(self.width)

    def widen(self, width: int) -> None:
        """Set the number of places (at least 1)."""
        self.width = max(1, width)
        while self._waiting and self.inside < self.width:
            place = self._waiting.popleft()
            if not place.done():
                self.inside += 1
                place.set_result(None)


class Engine(Protocol):
    """What the server needs of an engine."""

    chunk_lines: int
    """Lines of a batch are cut into chunks of this many, by position."""
    whole_chunks: bool
    """A chunk with a missing line runs whole again (its texts depend on their neighbours by float rounding)."""
    gate: Gate
    """The caller enters before :meth:`run` and leaves after it."""

    async def start(self) -> None:
        """Begin to load what is needed; return at once."""

    async def loaded(self) -> None:
        """Wait until the engine can answer; raise PrerequisiteError if it never will."""

    async def stop(self) -> None:
        """End processes and connections."""

    async def models(self) -> list[str]:
        """Names that a request may have in ``model``."""

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer all lines; call ``emit`` once for each of them, as soon as it is known."""


def make_engine(*, model: str | None, adapters: Path | None, upstream: Sequence[str], workers: int | None) -> Engine:
    """Return the engine that the options of ``arislab serve`` ask for.

    Args:
        model: ``tiny`` (the embedded model), a folder with a Llama checkpoint, or ``echo`` / ``echo:SECONDS`` (tests).
        adapters: a folder whose sub-folders are LoRA adapters; their names are model names.
        upstream: base URLs of OpenAI-compatible chat servers, e.g. ``http://127.0.0.1:8000/v1``; excludes ``model``.
        workers: processes of the local model; default two, or one where there is one core.

    Raises:
        PrerequisiteError: both or no working choice.
    """
    if upstream:
        if model is not None:
            raise PrerequisiteError(
                f"--model {model!r} and --upstream {list(upstream)!r} exclude each other; leave one out"
            )
        if bad := [url for url in upstream if not url.startswith(("http://", "https://"))]:
            raise PrerequisiteError(f"--upstream must be a base URL like 'http://127.0.0.1:8000/v1', got {bad[0]!r}")
        return UpstreamEngine(upstream)
    name, _, delay = (model or "tiny").partition(":")
    if name == "echo":
        return EchoEngine(delay_s=float(delay or 0))
    folder = Path(__file__).parent.parent / "tiny" / "model" if model in (None, "tiny") else Path(str(model))
    if not (folder / "config.json").is_file():
        raise PrerequisiteError(
            f"--model {model!r}: no config.json in {str(folder)!r}; give 'tiny' or a folder with config.json, model.safetensors and tokenizer.json"
        )
    return LocalEngine(folder, adapters=adapters, workers=workers or min(2, os.cpu_count() or 1))


def failure(line: int, status: int, code: str, message: str) -> Result:
    """A line that failed: an OpenAI error envelope, or a bare code and message where no HTTP answer was had."""
    if status == 0:
        return Result(line, 0, orjson.dumps({"code": code, "message": message}))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Result(
        line, status, orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    )


def completion(
    request: Request, *, model: str, text: str, finish_reason: str, prompt_tokens: int, completion_tokens: int
) -> Result:
    """A ``chat.completion`` whose bytes depend on nothing but the request and the text."""
    digest = hashlib.sha256(f"{request.created_at}:{request.line}:{request.custom_id}".encode()).hexdigest()
    body = {
        "id": f"chatcmpl-{digest[:29]}",
        "object": "chat.completion",
        "created": request.created_at,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return Result(request.line, 200, orjson.dumps(body), (prompt_tokens, 0, completion_tokens, 0))


# -- echo ---------------------------------------------------------------------------------------------------------------


class EchoEngine:
    """Answers with the last user message, for tests.

    Args:
        delay_s: seconds that each line takes; four chunks of eight lines run at once.
    """

    chunk_lines, whole_chunks = 8, False

    def __init__(self, delay_s: float = 0.0):
        self.gate, self._delay_s = Gate(4), delay_s

    async def start(self) -> None:
        """Nothing to load."""

    async def loaded(self) -> None:
        """Nothing to wait for."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def models(self) -> list[str]:
        """One name; any other is answered too."""
        return ["echo"]

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer one line after the other."""
        for request in chunk:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            job = _generation(request)
            if isinstance(job, Result):
                emit(job)
                continue
            users = [message["content"] for message in job["messages"] if message["role"] == "user"]
            text = users[-1] if users else ""
            n_prompt = sum(len(message["content"].split()) for message in job["messages"])
            answer = {"model": job["model"], "text": text, "finish_reason": "stop"}
            emit(completion(request, **answer, prompt_tokens=n_prompt, completion_tokens=len(text.split())))


# -- a local model ------------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"


class LocalEngine:
    """``arislab.tiny.decoder.Engine`` in worker processes, one thread each; the server process never loads torch.

    Chunks are cut by position and always generated whole and in input order: the sums inside a batch of rows are rounded
    alike each time, so that a batch that was killed and resumed gives the same bytes as an undisturbed one.

    Args:
        model: folder of a Llama checkpoint.
        adapters: folder of LoRA adapters, or None; adapters that come later are seen.
        workers: number of processes.
    """

    chunk_lines, whole_chunks = 128, True

    def __init__(self, model: Path, *, adapters: Path | None, workers: int):
        self.gate = Gate(workers)
        self._model, self._adapters = model, adapters
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="worker")
        self._n_workers = workers
        self._base = ""
        self._loading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers; they load the model while the server already answers."""
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
        found = sorted(self._adapters.glob("*/adapter_config.json")) if self._adapters is not None else []
        return [self._base, *(path.parent.name for path in found)]

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Generate one chunk in one call of the decoder."""
        jobs = [(request, _generation(request)) for request in chunk]
        for _, job in jobs:
            if isinstance(job, Result):
                emit(job)
        good = [(request, job) for request, job in jobs if not isinstance(job, Result)]
        await self.loaded()
        # the worker must be asked and heard to the end even when the batch is cancelled meanwhile
        answers = await asyncio.shield(asyncio.create_task(self._generate([job for _, job in good]))) if good else []
        for i, (request, job) in enumerate(good):
            emit(_answer(request, job, answers[i]) if answers else failure(request.line, 500, "worker_died", _DIED))

    async def _load(self) -> None:
        self._idle.put_nowait(await self._worker())

    async def _worker(self) -> _Worker:
        """Start a process and wait for its list of models."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._model, self._adapters, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        try:
            base = await asyncio.get_running_loop().run_in_executor(self._threads, ours.recv)
        except (EOFError, ConnectionError):
            raise PrerequisiteError(
                f"the model in {str(self._model)!r} cannot be loaded; the reason stands in the server's log above"
            ) from None
        if isinstance(base, PrerequisiteError):
            raise base
        self._base = base
        log.info("worker %d is ready", process.pid)
        return worker

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


def _work(connection: "Connection[Any, Any]", model: Path, adapters: Path | None, parent_pid: int) -> None:
    """The worker process: a list of jobs in, a list of answers out, until the server is gone."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends us in its own time
    threading.Thread(target=_end_with, args=(parent_pid,), daemon=True).start()
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
            connection.send([(a.text, a.finish_reason, a.prompt_tokens, a.completion_tokens, a.error) for a in answers])


def _end_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os._exit(1)  # the server was killed; nobody waits for what is being generated


def _answer(request: Request, job: dict[str, Any], answer: tuple[Any, ...]) -> Result:
    text, finish_reason, prompt_tokens, completion_tokens, error = answer
    if error == "model_not_found":
        return failure(
            request.line, 404, error, f"model {job['model']!r} does not exist; GET /v1/models lists those that do"
        )
    if error is not None:
        status = 400 if error in ("context_length_exceeded", "invalid_messages") else 500
        return failure(
            request.line, status, error, f"the model could not answer: {error} (prompt of {prompt_tokens} tokens)"
        )
    for stop in _stops(request.body):
        if stop in text:
            text, finish_reason = text.split(stop, 1)[0], "stop"
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return completion(request, model=job["model"], text=text, finish_reason=finish_reason, **counts)


def _stops(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else [text for text in stop if isinstance(text, str) and text]


def _generation(request: Request) -> dict[str, Any] | Result:
    """The fields of a ``decoder.Request``, or a 400 that says which field of the body is wrong."""
    body = request.body
    for name in ("tools", "functions", "logprobs", "stream"):
        if body.get(name):
            return failure(
                request.line, 400, "unsupported_parameter", f"{name!r} is not supported by this engine; leave it out"
            )
    if body.get("n") not in (None, 1):
        return failure(
            request.line, 400, "unsupported_parameter", f"n must be 1, got {body['n']!r}; send one line for each sample"
        )
    if isinstance(body.get("response_format"), dict) and body["response_format"].get("type") != "text":
        return failure(
            request.line, 400, "unsupported_parameter", "response_format is not supported by this engine; leave it out"
        )
    messages = [_message(message) for message in body["messages"]] if isinstance(body.get("messages"), list) else []
    if not messages or None in messages:
        return failure(
            request.line,
            400,
            "invalid_messages",
            "messages must be a non-empty list of {'role', 'content'} with text contents",
        )
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 256
    numbers = {
        "temperature": (body.get("temperature"), 0, 2),
        "top_p": (body.get("top_p"), 0, 1),
        "max_tokens": (limit, 1, 1 << 20),
    }
    for name, (value, low, high) in numbers.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high
        ):
            return failure(
                request.line, 400, "invalid_value", f"{name} must be a number in {low}..{high}, got {value!r}"
            )
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        return failure(request.line, 400, "invalid_value", f"seed must be an integer, got {seed!r}")
    if seed is None:
        seed = int.from_bytes(hashlib.sha256(request.custom_id.encode()).digest()[:7])
    one = {name: 1.0 if value is None else float(value) for name, (value, _, _) in numbers.items()}
    return {
        "messages": messages,
        "model": body.get("model") if isinstance(body.get("model"), str) else "",
        "temperature": one["temperature"],
        "top_p": one["top_p"],
        "max_tokens": int(limit),
        "seed": seed,
    }


def _message(message: Any) -> dict[str, str] | None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return None
    content = message.get("content")
    if isinstance(content, list):  # parts, of which text is the only kind that we can read
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = (
            "".join(part for part in parts if isinstance(part, str))
            if all(isinstance(part, str) for part in parts)
            else None
        )
    return {"role": message["role"], "content": content} if isinstance(content, str) else None


# -- other chat servers -------------------------------------------------------------------------------------------------


@dataclass
class _Upstream:
    url: str
    limit: float
    """Requests that may be in flight: grows while answers come, is halved when the server says that it has too many."""
    in_flight: int = 0
    steady: bool = False
    """False: the limit doubles each round (as TCP starts); True: it grows by one each round, after the first refusal."""
    cut_at: float = field(default=float("-inf"))
    closed_until: float = 0.0


class UpstreamEngine:
    """Sends each line to one of several OpenAI-compatible chat servers and passes the answer through.

    A refusal for load (429, 503) or a server that cannot be reached is waited out for up to ``patience_s``, and halves
    what is in flight; 408, other 5xx and broken connections are tried ``attempts`` times; other answers are final.

    Args:
        urls: base URLs, ``.../v1``.
        start: requests in flight at first, per server.
        ceiling: requests in flight at most, per server.
        attempts: tries per line for failures that are not about load.
        patience_s: seconds that one line may wait for a busy or absent server.
        timeout_s: seconds that one answer may take.
        backoff_s: seconds before the second try; doubles up to 30.
    """

    chunk_lines, whole_chunks = 1, False

    def __init__(
        self,
        urls: Sequence[str],
        *,
        start: int = 16,
        ceiling: int = 512,
        attempts: int = 5,
        patience_s: float = 600.0,
        timeout_s: float = 600.0,
        backoff_s: float = 0.5,
    ):
        self._upstreams = [_Upstream(url.rstrip("/"), float(start)) for url in urls]
        self._ceiling, self._attempts, self._patience_s = ceiling, attempts, patience_s
        self._timeout_s, self._backoff_s = timeout_s, backoff_s
        self.gate = Gate(start * len(self._upstreams))
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool; the key, if any, comes from the environment only."""
        import aiohttp

        key = os.environ.get("ARISLAB_UPSTREAM_API_KEY")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=10),
            headers={"Authorization": f"Bearer {key}"} if key else None,
        )

    async def loaded(self) -> None:
        """Nothing to wait for: a server that is absent now may come."""

    async def stop(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """Models of all servers that answer now."""
        import aiohttp

        assert self._session is not None
        names: dict[str, None] = {}
        for upstream in self._upstreams:
            with suppress(aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with self._session.get(f"{upstream.url}/models", timeout=timeout) as response:
                    names.update(dict.fromkeys(model["id"] for model in orjson.loads(await response.read())["data"]))
        return list(names)

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer one line after the other; what runs at once is up to the gate."""
        for request in chunk:
            emit(await self._complete(request))

    async def _complete(self, request: Request) -> Result:
        began, attempt, delay_s = time.monotonic(), 0, self._backoff_s
        data = orjson.dumps(request.body)
        while True:
            upstream = await self._free()
            result, retry_after_s = await self._post(upstream, request.line, data)
            if not _transient(result):
                self._grow(upstream)
                return result
            is_load = result.status in (429, 503) or result.body == _UNREACHABLE
            attempt += not is_load
            if is_load:
                self._cut(upstream, retry_after_s if retry_after_s is not None else delay_s)
            if attempt >= self._attempts or time.monotonic() - began > self._patience_s:
                return result
            # the line keeps its place while it waits, so a server in trouble is not given more lines
            await asyncio.sleep(0.0 if is_load else delay_s * random.uniform(0.5, 1.5))
            delay_s = min(30.0, delay_s * 2)

    async def _free(self) -> _Upstream:
        """Take a slot of the server that has most of them free; wait while all are full or asked us to wait."""
        while True:
            now = time.monotonic()
            free = [u for u in self._upstreams if u.closed_until <= now and u.in_flight < max(1.0, u.limit)]
            if free:
                upstream = max(free, key=lambda u: u.limit - u.in_flight)
                upstream.in_flight += 1
                return upstream
            wait_s = min(u.closed_until for u in self._upstreams) - now
            await asyncio.sleep(max(wait_s, 0.05) * random.uniform(1.0, 1.5))

    async def _post(self, upstream: _Upstream, line: int, data: bytes) -> tuple[Result, float | None]:
        """One try: its result, and the seconds that the server asked us to wait."""
        import aiohttp

        assert self._session is not None
        url, headers = f"{upstream.url}/chat/completions", {"Content-Type": "application/json"}
        try:
            async with self._session.post(url, data=data, headers=headers) as response:
                body = await response.read()
                return _passed_through(line, response.status, body), _retry_after(response.headers.get("Retry-After"))
        except aiohttp.ClientConnectorError:
            return Result(line, 0, _UNREACHABLE), None
        except TimeoutError:
            return failure(line, 0, "upstream_timeout", f"no answer within {self._timeout_s:g} s"), None
        except aiohttp.ClientError as error:
            return failure(line, 0, "upstream_connection_error", f"the connection broke: {type(error).__name__}"), None
        finally:
            upstream.in_flight -= 1

    def _grow(self, upstream: _Upstream) -> None:
        if upstream.in_flight + 1 >= upstream.limit / 2:  # only what is used can be known to be healthy
            upstream.limit = min(self._ceiling, upstream.limit + (1 / upstream.limit if upstream.steady else 1))
            self._fit()

    def _cut(self, upstream: _Upstream, wait_s: float) -> None:
        """Halve what is in flight, once for all refusals of a moment, and leave the server alone for a while."""
        now = time.monotonic()
        upstream.closed_until = max(upstream.closed_until, now + wait_s)
        if now - upstream.cut_at > 1.0:
            upstream.limit, upstream.steady, upstream.cut_at = max(1.0, upstream.limit / 2), True, now
            log.info("%s is busy or absent: %d requests in flight from now on", upstream.url, upstream.limit)
            self._fit()

    def _fit(self) -> None:
        self.gate.widen(sum(int(upstream.limit) for upstream in self._upstreams))


_UNREACHABLE = orjson.dumps(
    {"code": "upstream_unreachable", "message": "the upstream server cannot be reached; is it running?"}
)


def _transient(result: Result) -> bool:
    return result.status in (0, 408, 429) or result.status >= 500


def _passed_through(line: int, status: int, body: bytes) -> Result:
    """The answer's own bytes, once they are known to be what the status says."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or (status == 200 and "choices" not in answer):
        text = body[:300].decode(errors="replace")
        return failure(
            line,
            status if status >= 400 else 502,
            "bad_upstream_answer",
            f"status {status}, but not a chat completion: {text}",
        )
    # a line break in valid JSON can only be layout, and would end the line of the output file
    return Result(line, status, body.strip().replace(b"\r", b" ").replace(b"\n", b" "), _usage(answer.get("usage")))


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return NO_USAGE

    def count(fields: Any, name: str) -> int:
        value = fields.get(name) if isinstance(fields, dict) else None
        return value if isinstance(value, int) else 0

    cached = count(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return count(usage, "prompt_tokens"), cached, count(usage, "completion_tokens"), reasoning


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait, from a number or a date; at most two minutes."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 120.0)
