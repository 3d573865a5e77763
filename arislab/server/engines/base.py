"""What answers the lines of a batch: a local model (local.py), other chat servers (upstream.py), an echo, or an echo with faults (faulty.py).

An engine takes a chunk of lines and emits one :class:`Result` for each, in any order. A line that fails is a result too.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arislab.errors import PrerequisiteError
from arislab.server.gate import Gate
from arislab.server.limits import ANSWER_BYTES
from arislab.server.store import NO_USAGE, Usage
from arislab.system import masking

CHAT = "/v1/chat/completions"


class Request(NamedTuple):
    """One line of a batch, or one direct request."""

    line: int
    custom_id: str
    body: dict[str, Any]
    created_at: int
    """Unix time of the batch: answers carry it, so that a line that runs twice gives the same bytes."""
    endpoint: str = CHAT
    batch: str = ""
    """Id of the batch; empty for a direct request."""


class Result(NamedTuple):
    """The answer to one line."""

    line: int
    status: int
    """HTTP status; 0 when no answer was had at all, and ``body`` is then ``{"code", "message"}``."""
    body: bytes
    """JSON on one line."""
    usage: Usage = NO_USAGE


Emit = Callable[[Result], None]


class Engine(Protocol):
    """What the server needs of an engine."""

    name: str
    """``echo``, ``faulty``, ``local``, ``upstream`` or ``vllm``."""
    endpoints: frozenset[str]
    """Endpoints that a batch, or a direct request, may have."""
    chunk_lines: int
    """Lines of a batch are cut into chunks of this many, by position."""
    whole_chunks: bool
    """A chunk with a missing line runs whole again (its texts depend on their neighbours by float rounding)."""
    gate: Gate
    """The caller enters for the model of a chunk before :meth:`run` and leaves after it."""

    takes_any_model: bool
    """It answers for names that :meth:`models` does not list, too."""

    @property
    def response_format(self) -> bool | None:
        """Whether a ``json_schema`` binds the answer; None if the engine cannot know."""

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


def make_engine(
    *,
    model: str | None,
    adapters: Path | None,
    upstream: Sequence[str],
    workers: int | None,
    engine: str | None = None,
    vllm: str | None = None,
    vllm_python: str | None = None,
    vllm_args: Sequence[str] = (),
    data: Path = Path(),
    answer_bytes: int = ANSWER_BYTES,
) -> Engine:
    """Return the engine that the options of ``arislab serve`` ask for.

    Args:
        model: ``tiny`` (the embedded model), or a folder with a Llama checkpoint.
        adapters: a folder whose sub-folders are LoRA adapters; their names are model names.
        upstream: base URLs of OpenAI-compatible chat servers, e.g. ``http://127.0.0.1:8000/v1``; excludes ``model``.
        workers: processes of the local model; default two, or one where there is one core.
        engine: ``echo``, ``echo:SECONDS``, ``faulty`` or ``faulty:SPEC`` (tests), or ``replay:FILE`` (recorded answers); excludes
            all others.
        vllm: the model of a vLLM that is started here; excludes ``model`` and ``upstream``.
        vllm_python: the interpreter that has vLLM.
        vllm_args: options that are passed on to vLLM.
        data: the server's folder; takes what vLLM prints, and what the faulty engine must remember.
        answer_bytes: the longest body of an answer of vLLM or an upstream.

    Raises:
        PrerequisiteError: both or no working choice.
    """
    if vllm is not None:
        if upstream or (model or engine) is not None:
            raise PrerequisiteError(f"--vllm {vllm!r} excludes --model, --engine and --upstream; leave them out")
        from arislab.server.engines.vllm import VllmEngine

        return VllmEngine(
            vllm,
            python=vllm_python,
            arguments=vllm_args,
            adapters=adapters,
            log_file=data / "vllm.log",
            answer_bytes=answer_bytes,
        )
    if vllm_args or vllm_python is not None:
        raise PrerequisiteError(f"{vllm_python or vllm_args[0]!r} is for vLLM only; say which model with --vllm MODEL")
    if upstream:
        if (model or engine) is not None:
            raise PrerequisiteError(
                f"--model {model or engine!r} and --upstream {masking.masked(list(upstream))!r} exclude each other; leave one out"
            )
        if bad := [url for url in upstream if not url.startswith(("http://", "https://"))]:
            raise PrerequisiteError(
                f"--upstream must be a base URL like 'http://127.0.0.1:8000/v1', got {masking.masked(bad[0])!r}"
            )
        from arislab.server.engines.upstream import UpstreamEngine

        return UpstreamEngine(upstream, answer_bytes=answer_bytes)
    if engine is not None:
        return _toy(engine, data)
    folder = Path(__file__).parents[2] / "tiny" / "model" if model in (None, "tiny") else Path(str(model))
    if not (folder / "config.json").is_file():
        raise PrerequisiteError(
            f"--model {model!r}: no config.json in {str(folder)!r}; give 'tiny' or a folder with config.json, model.safetensors and tokenizer.json"
        )
    from arislab.server.engines.local import LocalEngine

    return LocalEngine(folder, adapters=adapters, workers=workers or min(2, os.cpu_count() or 1))


def _toy(engine: str, data: Path) -> Engine:
    """The engine of ``--engine``."""
    name, _, told = engine.partition(":")
    if name == "faulty":
        from arislab.server.engines.faulty import FaultyEngine

        return FaultyEngine(told, tries_file=data / "faulty.tries")
    if name == "replay":
        from arislab.server.engines.replay import ReplayEngine

        return ReplayEngine(Path(told))
    if name != "echo" or not re.fullmatch(r"(\d+(\.\d*)?|\.\d+)?", told):
        raise PrerequisiteError(
            f"--engine must be echo, echo:SECONDS, faulty or faulty:SPEC, got {engine!r}; a model is named with --model or --vllm"
        )
    return EchoEngine(delay_s=float(told or 0))


def failure(line: int, status: int, code: str, message: str) -> Result:
    """A line that failed: an OpenAI error envelope, or a bare code and message where no HTTP answer was had."""
    if status == 0:
        return Result(line, 0, orjson.dumps({"code": code, "message": message}))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Result(
        line, status, orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    )


def marked(failed: Result, **marks: int) -> Result:
    """A line that failed, with what this server has to say about it: ``tries=5`` keeps a client from trying it again on top."""
    answer = orjson.loads(failed.body)
    if problem := answer.get("error"):
        problem = problem if isinstance(problem, dict) else {"message": str(problem)}
        answer["error"] = problem | {"arislab": marks}
    else:
        answer["arislab"] = marks
    return Result(failed.line, failed.status, orjson.dumps(answer), failed.usage)


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


class EchoEngine:
    """Answers with the last user message, for tests.

    Args:
        delay_s: seconds that each line takes; four chunks of eight lines run at once.
    """

    name, endpoints, response_format = "echo", frozenset({CHAT}), False
    takes_any_model = True
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
            emit(echo(request))


def echo(request: Request) -> Result:
    """The last user message; a token is a word."""
    job = generation(request)
    if isinstance(job, Result):
        return job
    users = [message["content"] for message in job["messages"] if message["role"] == "user"]
    text = users[-1] if users else ""
    n_prompt = sum(len(message["content"].split()) for message in job["messages"])
    answer = {"model": job["model"], "text": text, "finish_reason": "stop"}
    return completion(request, **answer, prompt_tokens=n_prompt, completion_tokens=len(text.split()))


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: str
    content: str | list[_Part]


class _TextFormat(BaseModel):
    type: Literal["text"]


class _Body(BaseModel):
    """What the local engines understand of a chat request; fields that it does not name change nothing."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: list[_Message] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # one plain answer per line is all there is: whoever asks for more must hear it
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    response_format: _TextFormat | None = None


def generation(request: Request) -> dict[str, Any] | Result:
    """The fields of a ``decoder.Request``, or a 400 that says which field of the body is wrong."""
    try:
        body = _Body.model_validate(request.body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return failure(request.line, 400, "invalid_value", f"{where}: {first['msg']} (this engine)")
    seed = body.seed
    if seed is None:
        seed = int.from_bytes(hashlib.sha256(request.custom_id.encode()).digest()[:7])
    return {
        "messages": [
            {"role": m.role, "content": m.content if isinstance(m.content, str) else "".join(p.text for p in m.content)}
            for m in body.messages
        ],
        "model": body.model,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "max_tokens": body.max_completion_tokens or body.max_tokens or 256,
        "seed": seed,
        "chat_template_kwargs": body.chat_template_kwargs or None,
    }
