"""The engine whose lines are answered by Ray actors, each with one upstream or one vLLM of its own.

Why an engine and not a driver that reads request files: what makes a batch safe stays where it is proven. The server
keeps every answer on disk line by line, a client finds its batches again by its ledger, and budget and quarantine are
those of any other server. Ray adds what it is good at: it places replicas over the GPUs of a cluster, starts one again
that died or whose node is gone, and lets nodes be drained. What was in flight when a replica or this process dies is
asked again, and may be paid for twice; nothing else is. Ray's HttpRequestProcessor takes one URL, ignores Retry-After
and loses the status, so a replica is an engine of arislab's, ``UpstreamEngine`` or ``VllmEngine``, as it is.

arislab must be installed on the nodes, in the version of this process. Ray takes commands from whoever reaches its
ports, and these listen on all interfaces. Not known here: how long a cluster takes to give a GPU; a replica that has
none yet is waited for.
"""

import asyncio
import hashlib
import itertools
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from arislab.errors import PrerequisiteError
from arislab.server.engines.base import Emit, Engine, Request, Result, failure, marked
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.engines.vllm import VllmEngine
from arislab.server.gate import Gate
from arislab.system import masking, on_ray
from arislab.system.imports import require

log = logging.getLogger("arislab.server")

MAX_DEATHS = 5
"""Replicas that one line may see die."""
MOST_AT_ONCE = 1024
"""Calls that an actor takes at once: more than an upstream's ceiling, so that Ray itself never queues."""
STOPPED_S = 30.0
"""A replica that says nothing for so long is ended, and started again by Ray."""
STOP_S = 12.0
"""Seconds that a replica has to end its engine when the server ends."""
_OURS = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Else Ray ends the watcher of a vLLM (see ``vllm_process``) before it can end vLLM, which then stays on its GPU."""
_GPUS = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")


class Replica:
    """What lives in an actor: one engine.

    Args:
        make: makes the engine; called once in the life of an actor's process.
    """

    def __init__(self, make: Callable[[], Engine]):
        self._make = make
        self._life = secrets.token_hex(8)
        self._engine: Engine | None = None
        self._loading: asyncio.Task[Engine] | None = None

    async def load(self) -> tuple[str, int, str, int]:
        """Start the engine, or wait until it is there.

        Returns:
            A name of this life of the actor, its process id, its node, and the requests that it takes at once.

        Raises:
            PrerequisiteError: it will never answer.
        """
        import ray

        if self._loading is None:
            self._loading = asyncio.create_task(self._loaded())
        self._engine = await asyncio.shield(self._loading)
        return self._life, os.getpid(), ray.get_runtime_context().get_node_id(), self._engine.gate.width

    async def state(self) -> tuple[str, int]:
        """The name of this life, and the requests that it takes at once; 0 before it is loaded."""
        return self._life, 0 if self._engine is None else self._engine.gate.width

    async def models(self) -> list[str]:
        """Names of the models of its engine; none before it is loaded."""
        return [] if self._engine is None else await self._engine.models()

    async def answer(self, request: Request) -> tuple[Result | None, int]:
        """The answer to a line, and the requests that it takes at once by now; null before it is loaded."""
        if self._engine is None:
            return None, 0
        results: list[Result] = []
        await self._engine.run([request], results.append)
        return results[0], self._engine.gate.width

    async def stop(self) -> None:
        """End its engine."""
        if self._engine is not None:
            await self._engine.stop()

    async def _loaded(self) -> Engine:
        engine = self._make()
        await engine.start()
        await engine.loaded()
        return engine


@dataclass
class _Placed:
    """A replica as this process sees it."""

    number: int
    make: Callable[[], Engine] = field(repr=False)
    handle: Any = None
    node: str = ""
    width: int = 0
    """Requests that it takes at once; 0 while it is not there."""
    in_flight: int = 0
    is_leaving: bool = False
    """Its node is drained: it gets no more lines, and moves when the last one is answered."""
    look: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set by whoever thinks that it died."""

    @property
    def n_free(self) -> int:
        return 0 if self.is_leaving else self.width - self.in_flight


class RayEngine:
    """Sends each line to the replica that has most places free.

    A replica's own engine says how many requests it takes at once, waits where its server asks for it, and tries again.
    Here is only decided which replica gets a line, and that a line whose replica died goes to another one.

    Args:
        makes: a function for each replica that makes its engine on the node; it is pickled.
        address: ``local`` (a Ray of its own on this machine), ``auto`` (the one that runs here), or the ``HOST:PORT``
            of one.
        identity: a name for what is behind the replicas, from which no address can be read.
        gpus: GPUs that each replica needs.
        response_format: see :class:`Engine`.
        health_s: seconds between two looks at a replica, and at which nodes are drained.
        backoff_s: seconds before a replica that cannot be started is tried again; doubles up to 60.

    Raises:
        PrerequisiteError: Ray is not installed.
    """

    name = "ray"
    endpoints = UpstreamEngine.endpoints
    takes_any_model = False
    chunk_lines, whole_chunks = UpstreamEngine.chunk_lines, UpstreamEngine.whole_chunks

    def __init__(
        self,
        makes: Sequence[Callable[[], Engine]],
        *,
        address: str,
        identity: str,
        gpus: int = 0,
        response_format: bool | None = None,
        health_s: float = 5.0,
        backoff_s: float = 1.0,
    ):
        require("--ray", 'pip install "arislab[ray]"', "ray")
        self.gate, self.identity, self.response_format = Gate(1), identity, response_format
        self.seen: set[str] = set()
        """Models that it was seen to offer, ever."""
        self._address, self._gpus, self._health_s, self._backoff_s = address, gpus, health_s, backoff_s
        self._placed = [_Placed(number, make) for number, make in enumerate(makes)]
        self._problems: dict[int, PrerequisiteError] = {}
        self._is_part = False

    def each(self) -> "list[RayEngine]":
        """One engine for each replica that is there, to examine them one by one."""
        engines = []
        for placed in self._placed:
            if placed.width:
                one = copy(self)
                one._placed, one.gate, one._is_part = [placed], Gate(placed.width), True
                engines.append(one)
        return engines or [self]

    async def start(self) -> None:
        """Begin to start Ray, or to connect to it, and to place the replicas."""
        if not self._is_part:
            self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live())
            self._life.add_done_callback(self._ended)

    async def loaded(self) -> None:
        """Wait until the first replica can answer.

        Raises:
            PrerequisiteError: Ray does not start or cannot be reached, or no replica can be started.
        """
        await asyncio.shield(self._first)

    async def stop(self) -> None:
        """Let the replicas go, and end a Ray that was started here."""
        import ray

        if not self._is_part:
            self._life.cancel()
            await asyncio.wait((self._life,))
            there = [placed.handle for placed in self._placed if placed.width]
            await asyncio.gather(*(_stopped(handle) for handle in there))
            await asyncio.to_thread(ray.shutdown)

    async def models(self) -> list[str]:
        """Models of all replicas that answer now."""
        from ray.exceptions import RayActorError

        await self.loaded()
        names: dict[str, None] = {}
        for placed in self._placed:
            if placed.width:
                try:
                    names.update(dict.fromkeys(await asyncio.wait_for(placed.handle.models.remote(), STOPPED_S)))
                except (RayActorError, TimeoutError):
                    placed.look.set()
        self.seen.update(names)
        return list(names)

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer one line after the other; what runs at once is up to the gate."""
        for request in chunk:
            emit(await self._complete(request))

    async def _complete(self, request: Request) -> Result:
        import ray
        from ray.exceptions import RayActorError

        n_deaths = 0
        while n_deaths < MAX_DEATHS:
            placed = await self._free()
            placed.in_flight += 1
            asked = placed.handle.answer.remote(request)
            try:
                result, width = await asked
            except asyncio.CancelledError:
                ray.cancel(asked)  # else its upstream goes on with an answer that nobody wants
                raise
            except RayActorError:
                n_deaths += 1
                self._fit(placed, 0)
                placed.look.set()
                continue
            finally:
                placed.in_flight -= 1
            if result is not None:
                self._fit(placed, width if placed.width else 0)
                return Result(*result)
            self._fit(placed, 0)  # it died and is back, and nobody has loaded it yet
            placed.look.set()
        message = f"{MAX_DEATHS} replicas died while they had this line; the server's log says where; send it again"
        return marked(failure(request.line, 0, "replica_died", message), tries=MAX_DEATHS)

    async def _free(self) -> _Placed:
        """The replica that has most places free; wait while none has one."""
        while True:
            placed = max(self._placed, key=lambda one: one.n_free)
            if placed.n_free > 0:
                return placed
            await asyncio.sleep(0.05)

    def _fit(self, placed: _Placed, width: int) -> None:
        if placed.width != width:
            placed.width = width
            self.gate.widen(sum(one.width for one in self._placed if not one.is_leaving))

    # -- the life of the replicas ----------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            await asyncio.to_thread(on_ray.connect, self._address)
            self._check_gpus()
        except PrerequisiteError as error:
            self._first.set_exception(error)
            return
        async with asyncio.TaskGroup() as group:
            for placed in self._placed:
                group.create_task(self._tend(placed))
            group.create_task(self._watch_nodes())

    def _ended(self, life: asyncio.Task[None]) -> None:
        if life.cancelled() or (error := life.exception()) is None:
            return
        log.error("nobody looks after the replicas any more; start the server again", exc_info=error)
        if not self._first.done():
            self._first.set_exception(error)

    def _check_gpus(self) -> None:
        import ray

        needed, n_there = self._gpus * len(self._placed), int(ray.cluster_resources().get("GPU", 0))
        if n_there >= needed:
            return
        why = f"{len(self._placed)} replicas need {needed} GPUs, and Ray has {n_there}"
        if self._address == "local":
            raise PrerequisiteError(f"{why}; lower --replicas, or name a cluster with --ray HOST:PORT")
        log.warning("%s: the others wait until the cluster has more", why)

    async def _tend(self, placed: _Placed) -> None:
        """Have one replica placed, loaded and looked after for ever."""
        import ray
        from ray.exceptions import ActorDiedError, RayActorError, RayError

        delay_s = self._backoff_s
        while True:
            if placed.handle is None:
                placed.handle = self._actor(placed.make)
            began = time.monotonic()
            try:
                life, pid, placed.node, width = await placed.handle.load.remote()
                took_s = time.monotonic() - began
                where = f"process {pid}, node {placed.node}"
                log.info("replica %d is ready after %.1f s: %s", placed.number, took_s, where)
                placed.is_leaving = False
                self._fit(placed, width)
                if not self._first.done():
                    self._first.set_result(None)
                delay_s = self._backoff_s
                await self._stay(placed, life)
                log.warning("replica %d ended; Ray has started it again", placed.number)
            except RayActorError as error:
                log.warning("replica %d ended (%s); Ray starts it again", placed.number, type(error).__name__)
                if isinstance(error, ActorDiedError):  # for good: somebody told Ray so, or its job ended
                    placed.handle = None
                    self._cannot(placed, error)
            except TimeoutError:
                log.error("replica %d has said nothing for %g s and is ended", placed.number, STOPPED_S)
                ray.kill(placed.handle, no_restart=False)
            except (PrerequisiteError, RayError) as error:
                self._cannot(placed, error)
                ray.kill(placed.handle, no_restart=False)
            self._fit(placed, 0)
            await asyncio.sleep(delay_s)
            delay_s = min(60.0, delay_s * 2)

    async def _stay(self, placed: _Placed, life: str) -> None:
        """Look at a replica until it has another life."""
        while True:
            placed.look.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(placed.look.wait(), self._health_s)
            now, width = await asyncio.wait_for(placed.handle.state.remote(), STOPPED_S)
            if now != life:
                return
            self._fit(placed, width)

    def _cannot(self, placed: _Placed, error: Exception) -> None:
        """Note a replica that cannot be started; where none can and none ever could, the server ends."""
        why = PrerequisiteError(str(getattr(error, "cause", error)))
        self._problems[placed.number] = why
        log.error("replica %d: %s", placed.number, why)
        if not self._first.done() and len(self._problems) == len(self._placed):
            self._first.set_exception(why)

    async def _watch_nodes(self) -> None:
        """Move replicas away from nodes that are drained, once they have answered what they had."""
        import ray
        from ray._private.state import state  # where Ray Train looks, too; no public function says it
        from ray.exceptions import RayError

        while True:
            await asyncio.sleep(self._health_s)
            try:
                leaving = await asyncio.to_thread(state.get_draining_nodes)
            except RayError as error:
                log.warning("Ray does not say which nodes are drained: %s", error)
                continue
            for placed in self._placed:
                if placed.width and placed.node in leaving and not placed.is_leaving:
                    log.info("replica %d leaves node %s, which is drained", placed.number, placed.node)
                    placed.is_leaving = True
                    self.gate.widen(sum(one.width for one in self._placed if not one.is_leaving))
                if placed.is_leaving and placed.width and not placed.in_flight:
                    ray.kill(placed.handle, no_restart=False)
                    placed.look.set()

    def _actor(self, make: Callable[[], Engine]) -> Any:
        import ray

        actor = ray.remote(
            num_cpus=1 if self._gpus else 0,
            num_gpus=self._gpus,
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=0,  # which replica a line goes to next is decided here
            max_concurrency=MOST_AT_ONCE,
            runtime_env={"env_vars": _OURS} if self._gpus else None,
        )(Replica)
        return actor.remote(make)


async def _stopped(handle: Any) -> None:
    from ray.exceptions import RayError

    with suppress(RayError, TimeoutError):
        await asyncio.wait_for(handle.stop.remote(), STOP_S)


def over_upstreams(
    urls: Sequence[str], *, address: str, replicas: int | None, key: str | None, answer_bytes: int
) -> RayEngine:
    """An engine whose replicas ask chat servers, in turn one URL each.

    Args:
        urls: base URLs, as the nodes reach them.
        address: of Ray.
        replicas: how many; null: one for each URL.
        key: sent to the servers as the bearer token; it goes to the nodes as Ray sends it, in clear text without TLS.
        answer_bytes: the longest body of an answer.
    """
    n = _count(replicas, len(urls))
    if n < len(urls):
        raise PrerequisiteError(f"--replicas {n} leaves some of {len(urls)} --upstream URLs unasked; leave it out")
    makes = [partial(UpstreamEngine, [urls[i % len(urls)]], key=key, answer_bytes=answer_bytes) for i in range(n)]
    shown = orjson.dumps(sorted(masking.take_apart(url)[0] for url in urls))
    return RayEngine(makes, address=address, identity=f"ray-{hashlib.sha256(shown).hexdigest()[:16]}")


def over_vllm(
    model: str,
    *,
    address: str,
    replicas: int | None,
    python: str | None,
    arguments: Sequence[str],
    adapters: Path | None,
    answer_bytes: int,
) -> RayEngine:
    """An engine whose replicas each start a vLLM on the GPUs that Ray gives them.

    Args:
        model: as the nodes see it; so are the other paths.
        address: of Ray.
        replicas: how many; null: one.
        python: the interpreter that has vLLM.
        arguments: options of vLLM; tensor and pipeline parallel sizes say how many GPUs a replica needs.
        adapters: folder of LoRA adapters, on a disk that all nodes share.
        answer_bytes: the longest body of an answer.
    """
    make = partial(_vllm, model, python=python, arguments=list(arguments), adapters=adapters, answer_bytes=answer_bytes)
    parts = orjson.dumps([python, model, list(arguments)])
    return RayEngine(
        [make] * _count(replicas, 1),
        address=address,
        identity=f"ray-{hashlib.sha256(parts).hexdigest()[:16]}",
        gpus=gpus_of(arguments),
        response_format=True,
    )


def _vllm(model: str, **options: Any) -> VllmEngine:
    # on whatever node this is; the folder is for nobody else, as vLLM may log prompts
    return VllmEngine(model, log_file=Path(tempfile.mkdtemp(prefix="arislab-vllm-")) / "vllm.log", **options)


def _count(replicas: int | None, default: int) -> int:
    n = default if replicas is None else replicas
    if n < 1:
        raise PrerequisiteError(f"--replicas must be 1 or more, got {n}; leave it out for {default}")
    return n


def gpus_of(arguments: Sequence[str]) -> int:
    """GPUs that one vLLM with these options needs: tensor parallel size times pipeline parallel size.

    Example:
        >>> gpus_of(["--tensor-parallel-size", "4", "--pipeline-parallel-size=2"]), gpus_of([])
        (8, 1)
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    sizes = [value for option, value in itertools.pairwise(words) if option.replace("_", "-") in _GPUS]
    if bad := [size for size in sizes if not size.isdigit() or size == "0"]:
        raise PrerequisiteError(f"a parallel size of vLLM must be 1 or more, got {bad[0]!r}")
    return math.prod(map(int, sizes))
