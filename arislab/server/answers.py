"""What another server answered: read whole or not at all, within bounds, and never asked for again once it is there.

An answer of status 200 was paid for (a page of a proxy, which is no answer of the endpoint, was not, and is tried
again). Where it is no strict JSON (NaN, half a surrogate pair, a byte order mark, Latin-1) it is read all the same, and
says so::

    {"choices": [...], "usage": {...}, "arislab": {"read_leniently": ["nan"]}}

A line that failed although it was tried again says how often, so that nobody tries it again on top::

    {"error": {"message": "…", "code": "server_error", "arislab": {"tries": 5}}}

This module does not know where answers come from, or when to ask again.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from arislab.server.engines.base import Request, Result, failure
from arislab.server.spools import NO_USAGE, Usage
from arislab.system.json_text import fields, loads_leniently

if TYPE_CHECKING:
    import aiohttp


class Answer(NamedTuple):
    """What came of one try."""

    result: Result
    is_final: bool = True
    """Asking again would bring the same, or be paid for again."""


async def body_of(response: "aiohttp.ClientResponse", limit: int) -> bytes | None:
    """Return the decompressed body of a response, or None if it has more than ``limit`` bytes.

    What is beyond is not read.

    Raises:
        aiohttp.ClientPayloadError: it is compressed in a way that nobody asked for, or badly.
    """
    length, headers = response.content_length, response.headers
    if length is not None and "Content-Encoding" not in headers:
        return await response.read() if length <= limit else None
    coding = headers.get("Content-Encoding", "").strip().lower()
    parts: list[bytes] = []
    left = limit
    unpack = _unpacker(coding)
    async for packed in response.content.iter_any():
        for part in unpack(packed, left):
            parts.append(part)
            left -= len(part)
        if left < 0:
            response.close()
            return None
    return b"".join(parts)


def _unpacker(coding: str) -> Callable[[bytes, int], Iterator[bytes]]:
    """A function from packed bytes to unpacked ones, of which it gives one byte more than it may at most."""
    from aiohttp import ClientPayloadError

    if coding in ("identity", ""):
        return lambda packed, left: iter((packed[: left + 1],))
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ClientPayloadError(f"the answer is compressed with {coding!r}, although it was asked for plain")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as its head says

    def inflated(packed: bytes, left: int) -> Iterator[bytes]:
        try:
            yield inflater.decompress(packed, left + 1)
        except zlib.error as error:
            raise ClientPayloadError(f"the answer's compression is broken: {error}") from None

    return inflated


def passed_through(request: Request, status: int, body: bytes) -> Answer:
    """The answer's own bytes, once they are known to be what the status says."""
    line = request.line
    marks: tuple[str, ...] = ()
    try:
        answer = orjson.loads(body)  # its bytes go on as they are, so that long integers need not be exact here
    except orjson.JSONDecodeError:
        answer, marks = _read_leniently(body)
    if not isinstance(answer, dict) or (status == 200 and not {"choices", "data"} & answer.keys()):
        why = f"status {status}, but not an answer of this endpoint: {_begin(body)}"
        status = status if status >= 400 else 502
        return Answer(failure(line, status, "bad_upstream_answer", why), is_final=not _passes(status))
    if status == 200 and (lack := _lack(request.endpoint, answer)):
        why = f"status 200, but {lack}: {_begin(body)}"
        return Answer(failure(line, 502, "empty_response", why))
    if marks:
        answer["arislab"] = fields(answer.get("arislab")) | {"read_leniently": list(marks)}
        body = json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
    # a line break in valid JSON can only be layout, and would end the line of the output file
    body = body.strip().replace(b"\r", b" ").replace(b"\n", b" ")
    result = Result(line, status, body, _usage(answer.get("usage")))
    if not _passes(status):
        return Answer(result)
    own = fields(answer.get("error")).get("arislab", answer.get("arislab"))  # an upstream that is a server of this kind
    return Answer(result, is_final="tries" in fields(own))


def _read_leniently(body: bytes) -> tuple[Any, tuple[str, ...]]:
    try:
        return loads_leniently(body)
    except ValueError:
        return None, ()


def _passes(status: int) -> bool:
    """Whether a failure of this status may be over with the next try."""
    return status in (408, 429) or status >= 500


def _lack(endpoint: str, answer: dict[str, Any]) -> str | None:
    """What a whole answer lacks to be one of its endpoint; None if nothing."""
    name = "data" if endpoint.endswith("/embeddings") else "choices"
    parts = answer.get(name)
    if not isinstance(parts, list) or not parts:
        return f"without {name}"
    is_there = _has_vector if name == "data" else _has_message if endpoint.endswith("/chat/completions") else _has_text
    for part in parts:
        if not isinstance(part, dict) or not is_there(part):
            return f"with {name} that hold no text, refusal, call or vector"
    return None


def _has_vector(part: dict[str, Any]) -> bool:
    return isinstance(part.get("embedding"), list | str)


def _has_message(part: dict[str, Any]) -> bool:
    message = part.get("message")
    return isinstance(message, dict) and isinstance(message.get("content"), str | list | None)


def _has_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("text"), str)


def _begin(body: bytes) -> str:
    return body[:300].decode(errors="replace")


def _usage(usage: Any) -> Usage:
    """Token counts: input, of these cached, output, of these reasoning; 0 for what is no number."""
    if not usage or not isinstance(usage, dict):
        return NO_USAGE
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cached, reasoning = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return (
        prompt if type(prompt) is int else 0,
        _count(cached, "cached_tokens") if cached else 0,
        output if type(output) is int else 0,
        _count(reasoning, "reasoning_tokens") if reasoning else 0,
    )


def _count(details: Any, name: str) -> int:
    value = fields(details).get(name)
    return value if type(value) is int else 0
