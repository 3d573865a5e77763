"""Names that stand for a model, and for another one later: nobody ever gets an answer of a model that was not asked."""

import asyncio
import hashlib
import itertools
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from toys import Server, ServerHere, line, need, people, random_adapter, text_of

from arislab.batch import build_requests, connect, submit
from arislab.errors import ParameterError, PrerequisiteError
from arislab.server.aliases import Aliases
from arislab.server.engines.faulty import FaultyEngine
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.store import Store

ALIAS = "fam@champion"
SWAPS = int(os.environ.get("ARISLAB_SWAPS", "12"))
REQUESTS = int(os.environ.get("ARISLAB_SWAP_REQUESTS", 200 * SWAPS))
"""Of the test under load: 50 swaps are 10,000 requests."""
ALONE = 40
"""Questions of which a vLLM is asked alone what it answers."""


@pytest.fixture
def three(tmp_path):
    server = Server(tmp_path / "data", {"engine": "faulty:models=3"}).start()
    yield server
    server.stop()


def switch(server, model, **more):
    body = {"alias": ALIAS, "model": model} | more
    return server.client.post("/arislab/aliases", body=body, cast_to=object)


def chat(server, model, text="hi", **body):
    return server.client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **body)


def asked(candidate):
    return [{"role": "user", "content": candidate["candidate_id"]}]


def mark(model):
    """What the faulty engine ends an answer of a model with."""
    return f"({hashlib.sha256(model.encode()).hexdigest()[:6]})"


def test_an_alias_is_answered_by_the_model_that_it_names_and_the_answer_says_which(three):
    assert switch(three, "faulty-1", expected=None)["previous"] is None
    listed = {m.id: m.root for m in three.client.models.list()}
    assert listed == {"faulty": "faulty", "faulty-1": "faulty-1", "faulty-2": "faulty-2", ALIAS: "faulty-1"}
    assert three.client.models.retrieve(ALIAS).root == "faulty-1"
    answer = chat(three, ALIAS)
    assert (answer.model, answer.choices[0].message.content) == ("faulty-1", f"hi {mark('faulty-1')}")
    made = switch(three, "faulty-2", expected="faulty-1")
    assert (made["model"], made["previous"]) == ("faulty-2", "faulty-1")
    assert chat(three, ALIAS).model == "faulty-2"
    assert switch(three, "faulty-2", expected="faulty-1")["previous"] == "faulty-1", "asked again, it is as it was"


def test_who_comes_second_is_told_and_what_cannot_be_is_refused(three):
    switch(three, "faulty-1")
    with pytest.raises(openai.ConflictError, match="names 'faulty-1' now, not None: somebody else"):
        switch(three, "faulty-2", expected=None)
    with pytest.raises(openai.ConflictError, match="not 'faulty': somebody else switched it"):
        switch(three, "faulty-2", expected="faulty")
    assert chat(three, ALIAS).model == "faulty-1"
    for bad in ("champion", "a b@c", "@champion", "fam@", "x@y@z"):
        with pytest.raises(openai.BadRequestError):
            three.client.post("/arislab/aliases", body={"alias": bad, "model": "faulty"}, cast_to=object)


@pytest.mark.slow
def test_an_alias_outlives_the_server_and_so_does_what_a_batch_took_it_for(tmp_path):
    options = {"engine": "faulty:models=3,slow=1,slow_s=0.05"}
    server = Server(tmp_path / "data", options).start()
    switch(server, "faulty-1")
    made = server.submit([line(f"r-{i}", f"say {i}", model=ALIAS) for i in range(120)])
    server.wait(made.id, until=lambda b: b.request_counts.completed > 5)
    switch(server, "faulty-2")
    server.stop(signal.SIGKILL)
    server = Server(tmp_path / "data", options).start()
    assert chat(server, ALIAS).model == "faulty-2"
    ended = server.wait(made.id)
    assert ended.model == "faulty-1"
    rows = server.results(ended.output_file_id)
    assert {row["response"]["body"]["model"] for row in rows} == {"faulty-1"}
    assert sorted(text_of(row) for row in rows) == sorted(f"say {i} {mark('faulty-1')}" for i in range(120))
    server.stop()


def test_a_model_is_in_use_until_the_last_who_came_for_it_is_answered(tmp_path, request):
    engine, may_answer = FaultyEngine("models=3", tries_file=tmp_path / "tries"), threading.Event()
    answer = engine.run

    async def held(chunk, emit):
        while not may_answer.is_set():
            await asyncio.sleep(0.005)
        await answer(chunk, emit)

    engine.run = held
    server = ServerHere(tmp_path / "data", engine).start()
    request.addfinalizer(server.stop)

    def in_use():
        return server.client.get("/arislab/aliases", cast_to=object)["in_use"]

    switch(server, "faulty-1")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(chat, server, ALIAS)
        try:
            until = time.monotonic() + 20
            while in_use() != ["faulty-1"] and time.monotonic() < until:
                time.sleep(0.005)
            switch(server, "faulty-2")
            assert in_use() == ["faulty-1"]
        finally:
            may_answer.set()
        assert early.result().model == "faulty-1", "it came before the switch"
    assert in_use() == []


@dataclass
class Answering:
    """A server of which is known what each of its models answers to the i-th question."""

    server: Server
    names: tuple[str, ...]
    """The first two take turns behind the alias; all are asked by their own names too."""
    says: Callable[[str, int], str]
    body: dict[str, Any] = field(default_factory=dict)

    def strays_to(self, model, i, text):
        """The other model whose answer a text is, or begins like for longer than like its own; null: none."""
        own = self.says(model, i)
        alike = {name: [a == b for a, b in zip(text, self.says(name, i), strict=False)] for name in self.names}
        shared = {name: [*each, False].index(False) for name, each in alike.items()}
        others = [name for name in self.names if name != model and self.says(name, i) != own]
        return next((name for name in others if text != own and shared[name] > shared[model]), None)


@pytest.fixture(params=["faulty", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])])
def answering(request, tmp_path):
    """The faulty engine; or the vLLM at $ARISLAB_VLLM_URL, which serves the embedded model and loads adapters."""
    if request.param == "faulty":
        three = request.getfixturevalue("three")
        yield Answering(three, ("faulty-1", "faulty-2"), lambda model, i: f"say {i} {mark(model)}")
        return
    url = os.environ.get("ARISLAB_VLLM_URL", "")
    need("vllm", present=bool(url), why="ARISLAB_VLLM_URL names no vLLM that runs and loads adapters")
    server = Server(tmp_path / "data", {"upstream": url}).start()
    base = server.client.models.list().data[0].id
    names, body = [f"swapped-{n}-{secrets.token_hex(4)}" for n in (1, 2)], {"temperature": 0, "max_tokens": 16}
    for seed, name in enumerate(names, start=1):
        random_adapter(tmp_path / name, seed=seed, spread=0.3)
        adapter = {"lora_name": name, "lora_path": str(tmp_path / name)}
        server.client.post("/load_lora_adapter", body=adapter, cast_to=str)
    alone = {
        (name, i): chat(server, name, f"say {i}", **body).choices[0].message.content
        for name in (*names, base)
        for i in range(ALONE)
    }
    assert sum(len({alone[name, i] for name in (*names, base)}) == 3 for i in range(ALONE)) > ALONE / 2
    yield Answering(server, (*names, base), lambda model, i: alone[model, i % ALONE], body)
    for name in names:
        server.client.post("/arislab/aliases", body={"alias": ALIAS, "model": base}, cast_to=object)
        server.client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of torch and peft, while adapters are made
def test_under_load_and_many_swaps_every_answer_is_of_the_model_that_it_names(answering):
    server, names = answering.server, answering.names
    switch(server, names[0])
    held = [(0.0, 0.0, names[0])]  # switches: when each was asked for, when it was answered, to which
    ended, n_answered, began_at = threading.Event(), itertools.count(), time.monotonic()
    n_now = 0

    def swap():
        for i in range(SWAPS):
            while n_now < (i + 1) * REQUESTS // (SWAPS + 1) and not ended.is_set():
                ended.wait(0.005)
            name = names[(i + 1) % 2]
            before = time.monotonic()
            switch(server, name, expected=names[i % 2])
            held.append((before, time.monotonic(), name))

    def ask(i):
        nonlocal n_now
        asked = (ALIAS, *names)[i % (1 + len(names))]
        began = time.monotonic()
        answer = chat(server, asked, f"say {i % ALONE if answering.body else i}", **answering.body)
        n_now = next(n_answered)
        return i, asked, began, time.monotonic(), answer.model, answer.choices[0].message.content

    with ThreadPoolExecutor(9) as pool:
        swapping = pool.submit(swap)
        asked = [pool.submit(ask, i) for i in range(REQUESTS)]
        lines = [line(f"b-{i}", f"say {i}", model=ALIAS, **answering.body) for i in range(REQUESTS // 4)]
        batch = server.submit(lines)
        answers = [one.result() for one in asked]
        ended.set()
        swapping.result()
    # a switch takes effect between the moment it was asked for and its answer
    pairs = itertools.pairwise([*held, (float("inf"), float("inf"), "")])
    spans = [(asked_at, name, answered) for (asked_at, _, name), (_, answered, _) in pairs]
    wrong, departed = [], Counter()
    for i, name, began, done, model, text in answers:
        served = {n for start, n, end in spans if start <= done and began <= end} if name == ALIAS else {name}
        if model not in served or answering.strays_to(model, i, text) is not None:
            wrong.append((i, name, model, text, served))
        departed["through the alias" if name == ALIAS else "by name"] += text != answering.says(model, i)
    print(
        f"{REQUESTS} requests, {len(held) - 1} swaps, {time.monotonic() - began_at:.1f} s: {len(wrong)} wrong; other "
        f"than alone: {dict(departed)}; load {os.getloadavg()}"
    )
    assert wrong == []
    assert len(held) == SWAPS + 1
    rows = server.results(server.wait(batch.id, timeout_s=300).output_file_id)
    assert len({row["response"]["body"]["model"] for row in rows}) == 1
    assert len(rows) == REQUESTS // 4
    if not answering.body:  # where nothing is rounded
        assert departed.total() == 0


def test_our_client_names_requests_by_the_model_behind_an_alias(three, tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_API_KEY", three.token)
    with connect(three.url, folder=tmp_path) as server:
        with pytest.raises(ParameterError, match="Aliases are made by `arislab run deploy`"):
            server.model(ALIAS)
        server.switch(ALIAS, "faulty-1", expected=None)
        assert server.model(ALIAS) == "faulty-1"
        assert ALIAS not in server.models
        assert server.model() == "faulty"
        with pytest.raises(PrerequisiteError, match="somebody else"):
            server.switch(ALIAS, "faulty-2", expected="faulty-2")
        switch(three, "faulty-2")  # by somebody else
        assert server.model(ALIAS) == "faulty-2"
        assert server.in_use() == set()


def test_adapters_are_loaded_by_the_upstreams_all_of_them_or_none(tmp_path):
    from aiohttp import web

    class Vllm:
        """What vLLM answers to orders about adapters."""

        def __init__(self, *, fails=False):
            self.names, self.fails = {"base"}, fails

        async def models(self, _):
            return web.json_response({"data": [{"id": name} for name in sorted(self.names)]})

        async def load(self, request):
            name = (await request.json())["lora_name"]
            if self.fails:
                return web.json_response({"message": "LoRA rank 64 is greater than max_lora_rank 16"}, status=400)
            if name in self.names:
                return web.json_response({"message": f"adapter '{name}' has already been loaded"}, status=400)
            self.names.add(name)
            return web.Response(text="Success")

        async def unload(self, request):
            self.names.discard((await request.json())["lora_name"])
            return web.Response(text="Success")

        async def start(self, *, routes=True):
            app = web.Application()
            app.router.add_get("/v1/models", self.models)
            if routes:
                app.router.add_post("/v1/load_lora_adapter", self.load)
                app.router.add_post("/v1/unload_lora_adapter", self.unload)
            self.runner = web.AppRunner(app)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"

    async def scene():
        good, bad, plain = Vllm(), Vllm(fails=True), Vllm()
        urls = [await good.start(), await bad.start(), await plain.start(routes=False)]
        engine = UpstreamEngine(urls[:1])
        await engine.start()
        assert await engine.load_adapter("v1", "/models/v1") == []
        assert await engine.load_adapter("v1", "/models/v1") == [], "as after the restart of another server"
        assert "v1" in await engine.models()
        await engine.stop()
        both = UpstreamEngine(urls[:2])
        await both.start()
        (problem,) = await both.load_adapter("v2", "/models/v2")
        assert "max_lora_rank 16" in problem
        assert good.names == {"base", "v1"}, "lines are balanced: none has it, or all do"
        await both.stop()
        without = UpstreamEngine(urls[2:])
        await without.start()
        (problem,) = await without.load_adapter("v3", "/models/v3")
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in problem
        await without.stop()
        for each in (good, bad, plain):
            await each.runner.cleanup()

    asyncio.run(scene())


def test_a_switch_is_on_disk_when_it_returns(tmp_path):
    store = Store(tmp_path / "data")
    aliases = Aliases(store.database)
    assert aliases.switch(ALIAS, "a", {None})["model"] == "a"
    assert aliases.switch(ALIAS, "b", {None}) is None
    assert aliases.resolve(ALIAS) == "a"
    assert aliases.resolve("b") == "b"
    store.close()
    store = Store(tmp_path / "data")
    assert Aliases(store.database).resolve(ALIAS) == "a"
    store.close()


def test_that_an_alias_is_answered_by_its_model_is_no_surprise(three, tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("ARISLAB_API_KEY", three.token)
    with connect(three.url, folder=tmp_path) as server:
        server.switch(ALIAS, "faulty-1", expected=None)
        requests = build_requests(people(2), asked, model=ALIAS)
        rows = submit(requests, server=server, folder=tmp_path).wait().collect()
    assert rows["model_returned"].unique().to_list() == ["faulty-1"]
    assert rows["model"].unique().to_list() == [ALIAS]
    assert not [w for w in recwarn if "of another name than was asked" in str(w.message)]
