"""The engine that starts a vLLM of its own: a child process with a random key, started again when it dies.

Three processes: this server; a watcher of a few megabytes, which leads the child's process group and ends it when the
server is gone, however that went; and vLLM with whatever processes it makes. Each start is one life, with a port, a key
and an UpstreamEngine of its own; lines that were in flight when a life ended run again in the next.

Adapters are the sub-folders of one folder. vLLM loads each at its first request, under the folder's name, and never in
place: its prefix cache knows an adapter by name and path only, so new weights under an old name would be answered from
the old ones' cache. A name must therefore hold the weights' digest, and a folder whose weights change is refused.
"""

import asyncio
import hashlib
import logging
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from arislab.errors import PrerequisiteError
from arislab.server.engines import vllm_process
from arislab.server.engines.base import Emit, Request, Result, failure, marked
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.engines.vllm_process import Life
from arislab.server.gate import Gate
from arislab.server.limits import ANSWER_BYTES
from arislab.tiny.decoder import base_name
from arislab.tiny.weights import MODEL_DIR

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("arislab.server")

OURS = ("--model", "--host", "--port", "--uds", "--api-key", "--ssl-keyfile", "--ssl-certfile")
"""Options of vLLM that the engine sets itself, or that would put the key where others can read it."""
MAX_DEATHS = 5  # of vLLM with one line in flight: such a line may well be the reason
MAX_MISSED = 3  # health checks in a row


class VllmEngine:
    """Starts vLLM's OpenAI server on a free port of the loopback interface and sends it each line.

    Args:
        model: ``tiny`` (the embedded model), a folder, or a name that vLLM can find. A folder is served under its own
            name.
        log_file: what vLLM prints is added here.
        python: the interpreter that has vLLM; default this one.
        arguments: further options of vLLM, e.g. ``["--max-model-len", "4096"]``; they win over those set here.
        adapters: folder of LoRA adapters, or None; adapters that come later are seen.
        start_limit_s: seconds that vLLM may take until it answers.
        stop_limit_s: seconds that it may take to end after SIGTERM; then SIGKILL.
        health_s: seconds between two health checks; three that fail in a row, and it is started anew.
        backoff_s: seconds before it is started again; doubles up to 60 until it has served for a minute.
        answer_bytes: the longest body of an answer.

    Raises:
        PrerequisiteError: no such interpreter, or an argument that is not the user's to set.
    """

    name = "vllm"
    endpoints = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
    takes_any_model = False
    response_format = True
    chunk_lines, whole_chunks = UpstreamEngine.chunk_lines, UpstreamEngine.whole_chunks

    def __init__(
        self,
        model: str,
        *,
        log_file: Path,
        python: str | None = None,
        arguments: Sequence[str] = (),
        adapters: Path | None = None,
        start_limit_s: float = 1800.0,
        stop_limit_s: float = 10.0,
        health_s: float = 10.0,
        backoff_s: float = 1.0,
        answer_bytes: int = ANSWER_BYTES,
    ):
        program = shutil.which(python or sys.executable)
        if program is None:
            raise PrerequisiteError(
                f"--vllm-python {python!r} cannot be executed; give the python of the environment that has vLLM"
            )
        for argument in arguments:
            option = argument.partition("=")[0].replace("_", "-")
            if option in OURS:
                raise PrerequisiteError(
                    f"vLLM's {option} is set by arislab serve; leave it out of the options after --"
                )
        self._model, self._log_file, self._python = model, log_file, program
        self._arguments, self._adapters = list(arguments), adapters
        self._start_limit_s, self._stop_limit_s = start_limit_s, stop_limit_s
        self._health_s, self._backoff_s, self._answer_bytes = health_s, backoff_s, answer_bytes
        self.gate = Gate(1)
        self._names: list[str] = []  # what vLLM offers by itself
        self._weights: dict[str, tuple[Path, tuple[int, int]]] = {}  # adapter -> file, and its state when first loaded
        self._seen: set[str] = set()
        self._loading = asyncio.Lock()
        self._serving = asyncio.Event()
        self._life: Life | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def identity(self) -> str:
        """A name for this vLLM: its program, model and options."""
        parts = orjson.dumps([self._python, self._model, self._arguments])
        return f"vllm-{hashlib.sha256(parts).hexdigest()[:16]}"

    @property
    def seen(self) -> set[str]:
        """Adapters that it was asked to load, ever, also those that failed."""
        return set(self._seen)

    async def start(self) -> None:
        """Start vLLM; it loads the model while the server already answers."""
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise())

    async def loaded(self) -> None:
        """Wait until vLLM answers.

        Raises:
            PrerequisiteError: it ended, or did not answer within its time; the message has the end of its log.
        """
        await asyncio.shield(self._first)

    async def stop(self) -> None:
        """End vLLM and all that it started."""
        self._supervisor.cancel()
        await asyncio.wait((self._supervisor,))
        await self._end()

    async def models(self) -> list[str]:
        """The base model, then the adapters that lie in the folder now."""
        await self.loaded()
        return list(dict.fromkeys([*self._names, *sorted(self._folders())]))

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer all lines; those that vLLM takes with it when it dies run again when it is back."""
        waiting = {request.line: request for request in chunk}

        def pass_on(result: Result) -> None:
            if waiting.pop(result.line, None) is not None:
                emit(result)

        for _ in range(MAX_DEATHS):
            await self._serving.wait()
            assert self._life is not None
            life = self._life
            answering = asyncio.create_task(self._answer(life, list(waiting.values()), pass_on))
            try:
                await asyncio.wait((answering, life.over), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not answering.done():
                    answering.cancel()
                    await asyncio.wait((answering,))
            if not answering.cancelled():
                return answering.result()
        message = f"vLLM died {MAX_DEATHS} times while it had this line; see {self._log_file.name}, then send it again"
        for line in list(waiting):
            pass_on(marked(failure(line, 0, "vllm_died", message), tries=MAX_DEATHS))

    async def _answer(self, life: Life, requests: list[Request], emit: Emit) -> None:
        ready = []
        for request in requests:
            if (refusal := await self._offer(life, request)) is None:
                ready.append(request)
            else:
                emit(refusal)
        await life.chat.run(ready, emit)

    async def _offer(self, life: Life, request: Request) -> Result | None:
        """Have the adapter of a request loaded; None if nothing is against the request."""
        name = str(request.body.get("model"))
        if name in self._names:
            return None
        async with self._loading:
            if (known := self._weights.get(name) or self._found(name)) is None:
                return None  # vLLM answers that there is no such model
            file, state = known
            if _state(file) != state:
                message = (
                    f"the weights of adapter {name!r} changed after they were loaded; a name stands for one set of "
                    "weights: put the new ones into a folder whose name holds their digest"
                )
                return failure(request.line, 409, "adapter_changed", message)
            if name not in life.adapters:
                self._seen.add(name)  # before it is loaded
                status, message = await vllm_process.load_adapter(life, name, file.parent.resolve())
                if status >= 400 and "already been loaded" not in message:
                    return failure(request.line, status, "adapter_not_loaded", f"vLLM cannot load {name!r}: {message}")
                self._weights[name] = known  # not of a load that failed: its folder may be mended
                life.adapters.add(name)
                log.info("adapter %s is loaded", name)
        return None

    def _found(self, name: str) -> tuple[Path, tuple[int, int]] | None:
        if (folder := self._folders().get(name)) is None:
            return None
        file = next(iter(sorted(folder.glob("adapter_model.*"))), folder / "adapter_model.safetensors")
        return file, _state(file)

    def _folders(self) -> dict[str, Path]:
        if self._adapters is None:
            return {}
        return {path.parent.name: path.parent for path in self._adapters.glob("*/adapter_config.json")}

    async def _supervise(self) -> None:
        """Keep one vLLM running; only its first start may fail for good."""
        import aiohttp

        delay_s = self._backoff_s
        while True:
            began, key = time.monotonic(), secrets.token_hex(32)
            headers, timeout = {"Authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(total=30)
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                try:
                    life = await self._begin(session, key)
                except (PrerequisiteError, OSError) as error:
                    if not self._first.done():
                        why = PrerequisiteError(
                            f"vLLM cannot be started: {error}; mend this and start the server again"
                        )
                        self._first.set_exception(error if isinstance(error, PrerequisiteError) else why)
                        return
                    log.error("%s", error)
                else:
                    log.info("vLLM is ready after %.1f s", time.monotonic() - began)
                    began = time.monotonic()
                    await self._live(life)
                    if time.monotonic() - began > 60:
                        delay_s = self._backoff_s
            log.warning("vLLM ended; it is started again in %g s, its log is %s", delay_s, self._log_file)
            await asyncio.sleep(delay_s)
            delay_s = min(60.0, delay_s * 2)

    async def _begin(self, session: "aiohttp.ClientSession", key: str) -> Life:
        """Start vLLM and wait until it answers."""
        port = vllm_process.free_port()
        self._process, offset = await vllm_process.launch(self._command(port), self._log_file, key=key)
        url = f"http://127.0.0.1:{port}"
        over = asyncio.create_task(self._process.wait())
        life = Life(url, session, UpstreamEngine([f"{url}/v1"], key=key, answer_bytes=self._answer_bytes), over)
        deadline = time.monotonic() + self._start_limit_s
        while not (names := await vllm_process.names_of(life)):
            if over.done() or time.monotonic() > deadline:
                why = "ended before it answered" if over.done() else f"did not answer within {self._start_limit_s:g} s"
                await self._end()
                raise PrerequisiteError(
                    f"vLLM for {self._model!r} {why}; mend what its log {self._log_file} says, or give the Python that "
                    f"has vLLM with --vllm-python. The end of the log:\n{vllm_process.tail(self._log_file, offset)}"
                )
            await asyncio.wait((over,), timeout=0.2)
        self._names = names
        return life

    def _command(self, port: int) -> list[str]:
        folder = MODEL_DIR if self._model == "tiny" else Path(self._model)
        model = [self._model]
        if folder.is_dir():  # the same name as the in-process engine gives it
            model = [str(folder.resolve()), "--served-model-name", base_name(folder)]
        loras = ["--enable-lora"] if self._adapters is not None else []
        module = [self._python, "-m", "vllm.entrypoints.openai.api_server", "--model", *model]
        where = ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        return [*module, *where, *loras, *self._arguments]

    async def _live(self, life: Life) -> None:
        """Let lines in until vLLM is dead or no longer answers."""
        self.gate.widen(life.chat.gate.width)
        life.chat.gate = self.gate
        await life.chat.start()
        self._life = life
        life.over.add_done_callback(lambda _: self._serving.clear())  # before whoever waits for the end is told
        self._serving.set()
        if not self._first.done():
            self._first.set_result(None)
        n_missed = 0
        try:
            while not life.over.done() and n_missed < MAX_MISSED:
                await asyncio.wait((life.over,), timeout=self._health_s)
                n_missed = 0 if await vllm_process.is_healthy(life) else n_missed + 1
            if not life.over.done():
                log.error("vLLM failed %d health checks in a row", MAX_MISSED)
            await self._end()
        finally:
            self._serving.clear()
            await life.chat.stop()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await vllm_process.end(process, patience_s=self._stop_limit_s)


def _state(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return (0, 0)
    return stat.st_mtime_ns, stat.st_size
