"""What an engine of the server is: what it is asked, what it gives, and what all of them share.

An engine takes a chunk of lines and emits one :class:`Result` for each, in any order. A line that fails is a result
too.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arislab.server.engines.fields import refusal, unsupported
from arislab.server.gate import Gate
from arislab.server.spools import NO_USAGE, Usage

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
    """What the server needs of an engine; ``choose`` makes one by the options of ``arislab serve``.

    One that passes questions on to a server which arislab did not write stands in ``watch.FOREIGN``, since that may mix
    models, and has a text ``identity`` besides, by which results about it are known again.
    """

    name: str
    """``echo``, ``faulty``, ``local``, ``ray``, ``upstream`` or ``vllm``; a replay has that of the one it repeats."""
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


def failure(line: int, status: int, code: str, message: str) -> Result:
    """A line that failed: an OpenAI error envelope, or a bare code and message where no HTTP answer was had."""
    if status == 0:
        return Result(line, 0, orjson.dumps({"code": code, "message": message}))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Result(
        line, status, orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    )


def marked(failed: Result, **marks: int) -> Result:
    """A line that failed, with what this server says about it: ``tries=5`` keeps a client from trying again on top."""
    answer = orjson.loads(failed.body)
    if problem := answer.get("error"):
        problem = problem if isinstance(problem, dict) else {"message": str(problem)}
        answer["error"] = problem | {"arislab": marks}
    else:
        answer["arislab"] = marks
    return Result(failed.line, failed.status, orjson.dumps(answer), failed.usage)


Logprob = tuple[str, float, Sequence[tuple[str, float]]]
"""Text and log-probability of a token, and those of the likeliest tokens at its place."""


def _tokens(pairs: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": text, "logprob": value} for text, value in pairs]


def completion(
    request: Request,
    *,
    model: str,
    text: str,
    finish_reason: str,
    prompt_tokens: int,
    completion_tokens: int,
    logprobs: Sequence[Logprob] | None = None,
) -> Result:
    """A ``chat.completion`` whose bytes depend on nothing but the request and the text (and its log-probabilities)."""
    tokens = None
    if logprobs is not None:
        tokens = [{"token": t, "logprob": p, "top_logprobs": _tokens(others)} for t, p, others in logprobs]
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
                "logprobs": None if tokens is None else {"content": tokens},
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


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: str
    content: str | list[_Part]


class _Body(BaseModel):
    """What the engines of arislab's own read of a chat request."""

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
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


_PROBABILITIES = ("logprobs", "top_logprobs")


def generation(request: Request, *, takes_others: bool = False) -> dict[str, Any] | Result:
    """The fields of a ``decoder.Request``, or a 400 that says which field of the body is wrong.

    Args:
        request: A chat request. Without ``max_tokens`` an answer may be as long as the context leaves room.
        takes_others: Fields that only a model has are ignored, for an engine that has none.
    """
    # who has no model has no probabilities either
    taken = [name for name in _Body.model_fields if name not in _PROBABILITIES or not takes_others]
    if field := unsupported(request.body, taken, takes_others=takes_others):
        return failure(request.line, 400, "unsupported_parameter", refusal(*field, taken))
    try:
        body = _Body.model_validate(request.body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return failure(request.line, 400, "invalid_value", f"{where}: {first['msg']} (this engine)")
    if body.top_logprobs and not body.logprobs:
        return failure(request.line, 400, "invalid_value", "top_logprobs: needs logprobs true (this engine)")
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
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "seed": seed,
        "chat_template_kwargs": body.chat_template_kwargs or None,
        "logprobs": bool(body.logprobs),
        "top_logprobs": body.top_logprobs or 0,
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    }
