"""The engine that sends lines to other OpenAI-compatible chat servers: vLLM, SGLang, llama.cpp, Ollama, clouds.

What comes back is read in ``answers``. No redirect is followed: it would carry prompts, and perhaps the key, to a
server that the operator did not name, and a POST that is repeated as a GET is another question.
"""

import asyncio
import hashlib
import logging
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
from yarl import URL

from arislab.server import bodies
from arislab.server.answers import Answer, body_of, passed_through
from arislab.server.engines.base import Emit, Request, Result, failure, marked
from arislab.server.gate import Gate
from arislab.server.limits import ANSWER_BYTES
from arislab.system import masking
from arislab.system.pause import retry_after_s

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("arislab.server")

GROWTH = 4
"""By how much an answer raises the limit: fivefold each round, as a refusal costs little and idle slots cost much."""
BUSY_PER_S = 2000
"""Answers a second beyond which this process is what is slow: more in flight would cost CPU (aiohttp: 0.11 ms a request
with 64 in flight, 0.19 with 512) and bring nothing, so the limit shrinks to its start."""
HOLD_S = 30.0
"""From a refusal until the limit grows again."""


_HEADERS = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


@dataclass
class _Upstream:
    url: str
    headers: dict[str, str] = field(repr=False)
    """Authorization from user and password of the URL, where there is no key."""
    limit: int
    """Requests that may be in flight: grows while answers come, and becomes what the server holds when it refuses
    more."""
    in_flight: int = 0
    mean_s: float = 0.0
    """Seconds of an answer, over about the last round; ``in_flight / mean_s`` come in a second."""
    held_at: float = float("-inf")
    closed_until: float = 0.0


class UpstreamEngine:
    """Sends each line to one of several OpenAI-compatible chat servers and passes the answer through.

    A refusal for load (429, 503) or a server that cannot be reached is waited out for up to ``patience_s``; 408, other
    5xx and broken connections are tried ``attempts`` times; other answers are final. What failed to the end says how
    often it was tried, so that no client tries it again on top. What is in flight when a server refuses one more is
    what it holds: the limit stays there for a while.

    Args:
        urls: base URLs, ``.../v1``.
        start: requests in flight at first, per server.
        ceiling: requests in flight at most, per server.
        attempts: tries per line for failures that are not about load.
        patience_s: seconds that one line may wait for a busy or absent server.
        timeout_s: seconds that one answer may take.
        backoff_s: seconds before the second try; doubles up to 30.
        key: sent as the bearer token; default $ARISLAB_UPSTREAM_API_KEY.
        answer_bytes: the longest answer; what is longer is cut off and an error of its line.
    """

    name = "upstream"
    endpoints = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
    takes_any_model = False
    response_format: bool | None = None
    chunk_lines, whole_chunks = 1, False

    def __init__(
        self,
        urls: Sequence[str],
        *,
        start: int = 32,
        ceiling: int = 512,
        attempts: int = 5,
        patience_s: float = 600.0,
        timeout_s: float = 600.0,
        backoff_s: float = 0.5,
        key: str | None = None,
        answer_bytes: int = ANSWER_BYTES,
    ):
        parts = [masking.take_apart(url.rstrip("/")) for url in urls]
        key = key or os.environ.get("ARISLAB_UPSTREAM_API_KEY")
        self._upstreams = [
            _Upstream(url, {"Authorization": masking.basic(who)} if who and not key else {}, start)
            for url, who in parts
        ]
        hidden = masking.secrets_of({"KEY": key or ""}, list(urls))  # what this engine sends
        self._hidden = [secret.encode() for secret in hidden]
        self._start, self._ceiling, self._attempts, self._patience_s = start, ceiling, attempts, patience_s
        self._timeout_s, self._backoff_s, self._key = timeout_s, backoff_s, key
        self._answer_bytes = answer_bytes
        self.gate = Gate(start * len(self._upstreams))
        self.seen: set[str] = set()
        """Models that it was seen to offer, ever: what was found out while there were fewer may hold no more."""
        self._session: aiohttp.ClientSession | None = None

    @property
    def identity(self) -> str:
        """A name for the servers behind this engine, from which no address can be read."""
        urls = orjson.dumps(sorted(upstream.url for upstream in self._upstreams))
        return f"upstream-{hashlib.sha256(urls).hexdigest()[:16]}"

    def each(self) -> "list[UpstreamEngine]":
        """One engine for each server, to examine them one by one; this one itself if there is but one."""
        if len(self._upstreams) == 1:
            return [self]
        engines = [copy(self) for _ in self._upstreams]
        for one, upstream in zip(engines, self._upstreams, strict=True):
            one._upstreams, one.gate = [_Upstream(upstream.url, upstream.headers, self._start)], Gate(self._start)
        return engines

    async def start(self) -> None:
        """Open the connection pool; the key, if any, is never part of a URL or a log."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # gate and limits say how many; aiohttp's own 100 would queue
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=10),
            headers=_HEADERS | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            auto_decompress=False,  # a small body may become gigabytes: see ``body_of``
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
                url, timeout = f"{upstream.url}/models", aiohttp.ClientTimeout(total=10)
                asking = self._session.get(url, timeout=timeout, allow_redirects=False, headers=upstream.headers)
                async with asking as response:
                    listed = orjson.loads(await body_of(response, self._answer_bytes) or b"")
                    names.update(dict.fromkeys(str(model["id"]) for model in listed["data"]))
        self.seen.update(names)
        return list(names)

    async def load_adapter(self, name: str, folder: str) -> list[str]:
        """Have every server load a LoRA adapter, or none of them; what was against it, a line a server.

        Lines are balanced over all servers: one without the adapter would fail those that it gets. A server that has it
        already, as after a restart of the others, is content.
        """
        self.seen.add(name)
        asked = {"lora_name": name, "lora_path": folder}
        said = [(upstream, await self._order(upstream, "load_lora_adapter", asked)) for upstream in self._upstreams]
        problems = [f"{upstream.url}: {problem}" for upstream, problem in said if problem not in (None, _ALREADY)]
        for upstream, problem in said if problems else ():
            if problem is None:
                await self._order(upstream, "unload_lora_adapter", {"lora_name": name})
        return problems

    async def unload_adapter(self, name: str) -> list[str]:
        """Have every server let an adapter go; what was against it, a line a server."""
        said = [(u.url, await self._order(u, "unload_lora_adapter", {"lora_name": name})) for u in self._upstreams]
        return [f"{url}: {problem}" for url, problem in said if problem is not None]

    async def _order(self, upstream: _Upstream, route: str, body: dict[str, str]) -> str | None:
        """What a server has against an order about an adapter; null: it did it."""
        import aiohttp

        assert self._session is not None
        url, timeout = f"{upstream.url}/{route}", aiohttp.ClientTimeout(total=120)
        try:
            asking = self._session.post(
                url, data=orjson.dumps(body), headers=upstream.headers, timeout=timeout, allow_redirects=False
            )
            async with asking as response:
                if response.status == 200:
                    return None
                text = (await body_of(response, self._answer_bytes) or b"").decode(errors="replace")[:300]
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"no answer ({type(error).__name__})"
        for secret in self._hidden:
            text = text.replace(secret.decode(), "[hidden]")
        if "already" in text and "loaded" in text:
            return _ALREADY
        if response.status in (404, 405) and "lora_name" not in text and "found" in text.lower():
            return _NO_ROUTE
        return f"{response.status}: {text}"

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer one line after the other; what runs at once is up to the gate."""
        for request in chunk:
            emit(await self._complete(request))

    async def _complete(self, request: Request) -> Result:
        began, n_tries, n_failed, delay_s = time.monotonic(), 0, 0, self._backoff_s
        data = bodies.dumps(request.body)
        while True:
            upstream = await self._free()
            asked = time.monotonic()
            answer, retry_s = await self._post(upstream, request, data)
            result = answer.result
            if answer.is_final:
                self._adapt(upstream, time.monotonic() - asked)
                return result
            is_absent = result.body == _UNREACHABLE
            is_load = is_absent or result.status in (429, 503)
            n_tries, n_failed = n_tries + 1, n_failed + (not is_load)
            if n_failed >= self._attempts or time.monotonic() - began > self._patience_s:
                return marked(result, tries=n_tries)
            wait_s = delay_s * random.uniform(0.5, 1.5)  # of chance: what failed together must not come back together
            if is_load:  # the line keeps its place, so a server in trouble is not given more lines
                if is_absent or retry_s or not upstream.in_flight:
                    self._close(upstream, retry_s or wait_s)
                if not is_absent:
                    self._hold(upstream, upstream.in_flight)
            else:
                await self.gate.step_out(wait_s, str(request.body.get("model")))
            delay_s = min(30.0, delay_s * 2)

    async def _free(self) -> _Upstream:
        """Take a slot of the server that has most of them free; wait while all are full or asked us to wait."""
        while True:
            now = time.monotonic()
            free = [u for u in self._upstreams if u.closed_until <= now and u.in_flight < u.limit]
            if free:
                upstream = max(free, key=lambda u: u.limit - u.in_flight)
                upstream.in_flight += 1
                return upstream
            wait_s = min(u.closed_until for u in self._upstreams) - now
            await asyncio.sleep(max(wait_s, 0.05) * random.uniform(1.0, 1.5))

    async def _post(self, upstream: _Upstream, request: Request, data: bytes) -> tuple[Answer, float | None]:
        """One try: what came of it, and the seconds that the server asked us to wait."""
        import aiohttp

        assert self._session is not None
        line, url = request.line, upstream.url + request.endpoint.removeprefix("/v1")
        try:
            asking = self._session.post(url, data=data, headers=upstream.headers, allow_redirects=False)
            async with asking as response:
                if 300 <= response.status < 400:
                    return _redirected(line, response), None
                if (body := await body_of(response, self._answer_bytes)) is None:
                    why = f"the answer has more than {self._answer_bytes} bytes; --max-answer-mb allows more"
                    return Answer(failure(line, 502, "answer_too_large", why)), None
                if response.status != 200:  # a server may say which key it refuses; an answer stays as it is
                    for secret in self._hidden:
                        body = body.replace(secret, b"[hidden]")
                wait_s = retry_after_s(response.headers.get("Retry-After"))
                return passed_through(request, response.status, body), wait_s
        except aiohttp.ClientConnectorError:
            failed = Result(line, 0, _UNREACHABLE)
        except TimeoutError:
            self._hold(upstream, upstream.in_flight // 2)
            failed = failure(line, 0, "upstream_timeout", f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientError as error:
            failed = failure(line, 0, "upstream_connection_error", f"the connection broke: {type(error).__name__}")
        finally:
            upstream.in_flight -= 1
        return Answer(failed, is_final=False), None

    def _adapt(self, upstream: _Upstream, took_s: float) -> None:
        """Allow more in flight after an answer, unless that would only make lines wait."""
        upstream.mean_s += (took_s - upstream.mean_s) / (upstream.in_flight + 1)
        before = upstream.limit
        is_used = upstream.in_flight + 1 >= upstream.limit / 2  # only what is used can be known to be healthy
        if upstream.in_flight > BUSY_PER_S * upstream.mean_s:
            upstream.limit -= upstream.limit > self._start
        elif is_used and upstream.mean_s < self._timeout_s / 2 and time.monotonic() - upstream.held_at > HOLD_S:
            upstream.limit = min(self._ceiling, upstream.limit + GROWTH)
        if upstream.limit != before:
            self._fit()

    def _close(self, upstream: _Upstream, wait_s: float) -> None:
        """Leave a server alone that is absent, takes nothing, or asks for it."""
        now = time.monotonic()
        if now > upstream.closed_until:
            log.info("%s takes nothing now: no requests for %.1f s", upstream.url, wait_s)
        upstream.closed_until = max(upstream.closed_until, now + wait_s)

    def _hold(self, upstream: _Upstream, n: int) -> None:
        """Have ``n`` in flight at most. Refusals that come together each lower it, until it is what the server took."""
        now = time.monotonic()
        if now - upstream.held_at > 1.0:
            log.info("%s is busy: at most %d requests in flight from now on", upstream.url, n)
        upstream.limit, upstream.held_at = max(1, min(upstream.limit, n)), now
        self._fit()

    def _fit(self) -> None:
        self.gate.widen(sum(upstream.limit for upstream in self._upstreams))


_ALREADY = "it is loaded already"
_NO_ROUTE = (
    "it loads no adapters while it runs; start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and "
    "with --max-lora-rank of at least the adapter's r"
)
_UNREACHABLE = orjson.dumps(
    {"code": "upstream_unreachable", "message": "the upstream server cannot be reached; is it running?"}
)


def _redirected(line: int, response: "aiohttp.ClientResponse") -> Answer:
    """A redirect is no answer: the operator names the server that is asked, not the server itself."""
    place = response.headers.get("Location", "")
    try:
        url = response.url.join(URL(place)) if place else None
    except ValueError:
        url = None
    where = f"{url.host}:{url.port}" if url is not None and url.host else "no readable place"
    why = (
        f"the upstream answers {response.status}, a redirect to {where}, and redirects are not followed; "
        "name the right --upstream URL"
    )
    return Answer(failure(line, 502, "upstream_redirect", why))
