"""Which models an engine may have at once.

Known from the database, or found out by a probe while nothing else is asked (``isolation``).

Models of a server that arislab did not write (upstream, vLLM, also on Ray) go in one after the other until a probe has
shown that it keeps them apart. That counts until it has another model: vLLM 0.32 (CPU build) keeps models apart while
it has a place for one more adapter, and answers for the base model with the last adapter when all are taken. An adapter
that somebody
else loads and lets go again between two looks at its list of models is not seen.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import orjson

from arislab.errors import BatchError
from arislab.isolation import VERDICTS, Answers, Isolation, Wave, body, examine, from_dict, text_of
from arislab.server.database import Database
from arislab.server.engines.base import CHAT, Engine, Request, Result
from arislab.server.gate import ALONE

log = logging.getLogger("arislab.server")

FOREIGN = ("upstream", "vllm", "ray")
ANSWER_S = 60.0
"""Seconds that one answer of a probe may take."""
MOST_MODELS = 16
"""A probe of more keeps everybody else waiting for too long: it asks each name dozens of times, also those that
somebody invented."""
WORST = ("fails alone", "mixes", "cannot tell", "isolated")
assert set(WORST) < set(VERDICTS)


class Watch:
    """Tells the gate of an engine which models may be inside together.

    Args:
        engine: whose gate is told.
        database: keeps results over a restart.
    """

    def __init__(self, engine: Engine, database: Database):
        self._engine, self._database = engine, database
        self._examining = asyncio.Lock()
        self._together: dict[frozenset[str], bool] = {}
        rows = database.query("select value from meta where name like 'isolation:%' order by name")
        kept = [orjson.loads(row["value"]) for row in rows]
        self._identity: str = getattr(engine, "identity", engine.name)
        # each result, and the models that the engine was seen to have by then
        self._found = [
            (from_dict(one["found"]), frozenset(one.get("beside", ()))) for one in kept if one["of"] == self._identity
        ]
        self._n_seen = 0
        engine.gate.may_be_together = self.may_be_together

    def may_be_together(self, models: frozenset[str]) -> bool:
        """Whether the engine may have these models at once."""
        if len(self._seen()) != self._n_seen:
            self._n_seen = len(self._seen())
            self._together.clear()
        if models not in self._together:
            known = self._known(models)
            is_free = self._engine.name not in FOREIGN if known is None else known.is_together
            self._together[models] = is_free
        return self._together[models]

    async def before(self, models: Iterable[str]) -> None:
        """Find out what is not known of models that are about to be asked at once.

        Raises:
            BatchError: The engine answers with another model even if one is asked at a time.
        """
        names = frozenset(models)
        if len(names) < 2 or (self._engine.name not in FOREIGN and self._known(names) is None):
            return
        result = await self.check(sorted(names))
        if result.verdict == "fails alone":
            raise BatchError(
                "the models are not asked: the server behind this one does not answer with the model that was asked. "
                f"{result!r}"
            )

    async def check(self, models: Iterable[str], *, again: bool = False) -> Isolation:
        """Return whether models may be asked at once; what runs waits for the probe, if one is needed.

        More than ``MOST_MODELS`` are not examined: one at a time, as nothing is known.

        Args:
            models: their names.
            again: probe although a result is known.
        """
        names = tuple(dict.fromkeys(models))
        if len(names) < 2:
            return Isolation("one model", names)
        if self._engine.name in FOREIGN:
            await self._engine.models()  # whether there is another one by now
        async with self._examining:
            result = None if again else self._known(names)
            if result is None and len(names) > MOST_MODELS:
                problem = f"{len(names):,} models are more than the {MOST_MODELS} that are examined"
                result = Isolation("cannot tell", names, problem=problem)
                log.info("%s", result)
            if result is None:
                await self._engine.gate.enter(ALONE)
                before = frozenset(self._seen())
                try:
                    result = await self._probe(names)
                finally:
                    self._engine.gate.leave(ALONE)
                log.info("%s", result)
                # one that came meanwhile was not beside all of the probe, but those examined were, if they exist
                await self._keep(result, before | (self._seen() & set(names)))
        return result

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Let nobody be inside beside others while the engine loads an adapter; who is inside alone may stay.

        A probe is not inside meanwhile: one of the two waits for the other.
        """
        async with self._examining:
            is_mixed = len(self._engine.gate.asked()) > 1
            if is_mixed:
                await self._engine.gate.enter(ALONE)
            try:
                yield
            finally:
                if is_mixed:
                    self._engine.gate.leave(ALONE)

    def _seen(self) -> set[str]:
        seen: set[str] = getattr(self._engine, "seen", set())
        return seen

    def _known(self, models: Iterable[str]) -> Isolation | None:
        names, seen = frozenset(models), self._seen()
        return next(
            (
                result
                for result, beside in reversed(self._found)
                if result.covers(names) and (seen <= beside or not result.is_together)
            ),
            None,
        )

    async def _keep(self, result: Isolation, beside: frozenset[str]) -> None:
        kept = {"of": self._identity, "found": result.as_dict(), "beside": sorted(beside)}
        text = orjson.dumps(kept).decode()
        name = f"isolation:{result.checked_at}:{secrets.token_hex(4)}"
        write = self._database.write(lambda db: db.execute("insert into meta values (?, ?)", (name, text)))
        await asyncio.wrap_future(write)
        self._found.append((result, beside))
        self._together.clear()
        self._engine.gate.widen(self._engine.gate.width)  # has it look again at who waited for want of this result

    async def _probe(self, models: tuple[str, ...]) -> Isolation:
        """Examine each server behind the engine; the worst is the result."""
        began, results = time.monotonic(), []
        each = getattr(self._engine, "each", None)
        engines: Sequence[Engine] = each() if each is not None else [self._engine]
        for engine in engines:
            if engine is not self._engine:
                await engine.start()
            try:
                results.append(await _examined(engine, models))
            finally:
                if engine is not self._engine:
                    await engine.stop()
        worst = min(results, key=lambda one: WORST.index(one.verdict))
        n_requests = sum(one.n_requests for one in results)
        return replace(worst, n_requests=n_requests, seconds=round(time.monotonic() - began, 1))


async def _examined(engine: Engine, models: tuple[str, ...]) -> Isolation:
    waves, answers = examine(models), None
    try:
        while True:
            wave = next(waves) if answers is None else waves.send(answers)
            answers = await _asked(engine, wave)
    except StopIteration as end:
        result: Isolation = end.value
    return result


async def _asked(engine: Engine, wave: Wave) -> Answers:
    """The answers to a wave; one after the other is given up after two that did not come."""
    mark, now = secrets.token_hex(8), int(time.time())
    bodies = [body(*ask, max_tokens=wave.max_tokens) for ask in wave.asks]
    requests = [Request(i, f"probe-{mark}-{i}", asked, now, CHAT) for i, asked in enumerate(bodies)]
    results: dict[int, Result] = {}

    def emit(result: Result) -> None:
        results[result.line] = result

    async def run(chunk: list[Request]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(engine.run(chunk, emit), ANSWER_S * len(chunk))

    if wave.at_once:
        size = engine.chunk_lines
        await asyncio.gather(*(run(requests[i : i + size]) for i in range(0, len(requests), size)))
    else:
        n_failed = 0
        for request in requests:
            await run([request])
            n_failed += request.line not in results or results[request.line].status != 200
            if n_failed == 2:
                break
    failed = next((r for r in results.values() if r.status != 200), None)
    problem = failed.body[:200].decode(errors="replace") if failed is not None else f"no answer within {ANSWER_S:g} s"
    return [_text(results.get(i)) for i in range(len(requests))], problem


def _text(result: Result | None) -> str | None:
    return text_of(orjson.loads(result.body)) if result is not None and result.status == 200 else None
