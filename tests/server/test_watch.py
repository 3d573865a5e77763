"""The batch server in front of servers that mix models.

Examined before the first mixed use, then one model at a time if need be.
"""

import asyncio
import hashlib
import json
import shutil
import signal
from collections import Counter

import openai
import pytest
from aiohttp import web
from toys import NAMES, Server, Stranger, Upstream, add_batch, line, live, random_adapter, read, text_of

from arislab import batch
from arislab.errors import BatchError
from arislab.isolation import Isolation
from arislab.server.engines import choose, echo
from arislab.server.gate import Gate
from arislab.server.scan import Scan
from arislab.server.store import Store
from arislab.server.watch import MOST_MODELS, Watch

assert Stranger


@pytest.fixture
def front(serve, tmp_path, monkeypatch):
    """Start `arislab serve --upstream` before a server of several models; returns it, and the proxy that counts."""
    made = []

    def start(spec, **options):
        server, proxy = serve(spec)
        env = {"ARISLAB_UPSTREAM_API_KEY": server.token}
        made.append(Server(tmp_path / f"front-{len(made)}", {"upstream": proxy.url, **options}, env).start())
        monkeypatch.setenv("ARISLAB_API_KEY", made[-1].token)
        return made[-1], proxy

    yield start
    for server in made:
        server.stop()


def lines(n, models=NAMES):
    return [line(f"r-{i}-{model}", f"Say {i}.", model=model) for i in range(n) for model in models]


def wrong(server, *batches):
    """custom_ids whose answers do not have the mark of their model, and how many answers there are."""
    rows = [row for made in batches for row in server.results(server.wait(made.id).output_file_id)]
    marks = {}
    for row in rows:
        name = row["custom_id"].split("-", 2)[2]
        marks.setdefault(name, []).append((text_of(row).split("(")[1][:6], row["custom_id"]))
    known = {
        name: max((m for m, _ in its_marks), key=[m for m, _ in its_marks].count) for name, its_marks in marks.items()
    }
    assert len(set(known.values())) == len(known)
    return [
        custom_id for name, its_marks in marks.items() for mark, custom_id in its_marks if mark != known[name]
    ], len(rows)


def found(server):
    return json.loads(server.client.post("/arislab/isolation", body={"models": NAMES}, cast_to=str))


@pytest.mark.slow
def test_a_file_of_two_models_before_a_server_that_mixes_is_answered_one_model_after_the_other(front):
    server, _ = front("mixes,slow=1,slow_s=0.01")
    assert wrong(server, server.submit(lines(60))) == ([], 120)
    assert found(server)["verdict"] == "mixes"
    log = server.log.read_text()
    assert log.count("INFO isolation: mixes; ") == 1


@pytest.mark.slow
def test_two_batches_and_direct_chats_of_other_models_take_turns_too(front):
    server, _ = front("mixes,slow=1,slow_s=0.01")
    made = [server.submit(lines(60, models=[name])) for name in (*NAMES, "faulty-2")]
    said = [
        server.client.chat.completions.create(model=NAMES[i % 2], messages=[{"role": "user", "content": "x"}])
        for i in range(6)
    ]
    assert len({answer.choices[0].message.content for answer in said}) == 2
    assert wrong(server, *made) == ([], 180)


@pytest.mark.slow
def test_a_server_that_keeps_models_apart_is_asked_for_all_at_once(front):
    server, proxy = front("jitters,slow=1,slow_s=0.01")
    assert wrong(server, server.submit(lines(20))) == ([], 40)
    assert found(server)["verdict"] == "isolated"
    n_asked = proxy.asked["chat"]
    assert wrong(server, server.submit(lines(20))) == ([], 40)
    assert proxy.asked["chat"] == n_asked + 40, "the next batch is not examined again"
    assert wrong(server, server.submit(lines(5, models=[*NAMES, "faulty-2"]))) == ([], 15)
    assert proxy.asked["chat"] > n_asked + 40 + 15 + 100, "a model that is added is"


@pytest.mark.slow
def test_one_model_is_asked_without_a_probe(front):
    server, proxy = front("mixes")
    assert wrong(server, server.submit(lines(30, models=NAMES[:1]))) == ([], 30)
    assert wrong(server, server.submit(lines(30, models=NAMES[1:]))) == ([], 30)
    assert proxy.asked["chat"] == 60


@pytest.mark.slow
def test_a_server_killed_in_a_window_goes_on_with_what_it_knew(front):
    server, _ = front("mixes,slow=1,slow_s=0.02")
    made = server.submit(lines(100))
    server.wait(made.id, until=lambda b: b.request_counts.completed >= 40)
    server.stop(signal.SIGKILL)
    server.start()
    assert wrong(server, made) == ([], 200)
    assert server.log.read_text().count("INFO isolation: ") == 1, "the result lies in its folder"


def test_where_one_at_a_time_fails_too_the_batch_ends_with_the_reason(front, tmp_path):
    server, _ = front("sticks")
    made = server.wait(server.submit(lines(3)).id)
    assert (made.request_counts.completed, made.request_counts.failed) == (0, 6)
    row = server.results(made.error_file_id)[0]
    assert "does not answer with the model that was asked. isolation: fails alone; " in json.dumps(row)
    with pytest.raises(BatchError, match="fails alone"):
        batch.isolation(batch.connect(server.url, folder=tmp_path / "b"), models=NAMES)


def test_models_that_answer_alike_go_one_at_a_time(serve, tmp_path, monkeypatch):
    upstream = Server(tmp_path / "up", {"engine": "echo"}).start()
    server = Server(tmp_path / "srv", {"upstream": upstream.url}, {"ARISLAB_UPSTREAM_API_KEY": upstream.token}).start()
    try:
        made = server.wait(server.submit([line(f"r-{i}", f"{i}", model=NAMES[i % 2]) for i in range(20)]).id)
        assert made.request_counts.completed == 20
        verdict = found(server)
        assert (verdict["verdict"], verdict["alike"]) == ("cannot tell", [NAMES])
    finally:
        server.stop()
        upstream.stop()


@pytest.mark.parametrize("n_more", [0, 1])
def test_more_models_than_a_probe_can_take_are_asked_one_at_a_time_without_one(tmp_path, caplog, n_more):
    class Foreign(echo.EchoEngine):
        name, asked, inside, most = "upstream", 0, [], 0

        async def run(self, chunk, emit):
            models = [request.body["model"] for request in chunk]
            self.asked, self.inside = self.asked + len(chunk), self.inside + models
            self.most = max(self.most, len(set(self.inside)))
            await super().run(chunk, emit)
            self.inside = self.inside[len(models) :]

    caplog.set_level("INFO", "arislab.server")
    names, store, engine = [f"m-{i}" for i in range(MOST_MODELS + n_more)], Store(tmp_path), Foreign(delay_s=0.0005)
    batch_id = add_batch(store, [line(f"r-{i}-{name}", "hello", model=name) for i in range(3) for name in names])
    asyncio.run(asyncio.wait_for(live(store, batch_id, engine=engine), 60))
    row = store.batch(batch_id)
    assert len(read(store.path(row["output_file_id"]).read_bytes())) == row["completed"] == 3 * len(names)
    is_probed = engine.asked > 3 * len(names)
    assert is_probed == (n_more == 0)
    said = [record.getMessage() for record in caplog.records if "isolation: cannot tell" in record.getMessage()]
    assert len(said) == 1
    if not is_probed:
        assert engine.most == 1
        assert "17 models are more than the 16 that are examined" in said[0]
        verdict = asyncio.run(Watch(engine, store.database).check(names, again=True))
        assert (verdict.verdict, verdict.n_requests, verdict.is_together) == ("cannot tell", 0, False)
    store.close()


def test_the_lines_of_many_models_are_sorted_in_one_pass():
    looked = []

    class Looked(list):
        def __getitem__(self, at):
            looked.append(at)
            return super().__getitem__(at)

    n_models, n = 300, 900
    scan = Scan(models={f"m-{i}": i for i in range(n_models)}, asked=Looked(i % n_models for i in range(n)))
    scan.offsets.extend(range(n))
    chunks = [(model, list(chunk)) for model, chunk in scan.chunks(2, by_model=True)]
    assert chunks[:3] == [("m-0", [0, 300]), ("m-0", [600]), ("m-1", [1, 301])]
    assert [line for _, chunk in chunks for line in chunk] == [
        i for first in range(n_models) for i in range(first, n, n_models)
    ]
    assert len(looked) == n + len(chunks)


@pytest.mark.slow
@pytest.mark.parametrize("n_urls", [1, 2])
def test_each_server_behind_it_is_examined_and_the_worst_counts(serve, tmp_path, n_urls):
    good, _ = serve("models")
    bad, _ = serve("mixes")
    (tmp_path / "token").write_text("x" * 40)
    both = [one.url for one in (good, bad)][:n_urls]
    assert len({good.token, bad.token}) == 2
    keys = {good.url: good.token, bad.url: bad.token}

    async def main():
        from arislab.server.engines.upstream import UpstreamEngine

        engine = UpstreamEngine(both, key=keys[both[-1]])
        store = Store(tmp_path / "data")
        await engine.start()
        try:
            return await Watch(engine, store.database).check(NAMES)
        finally:
            await engine.stop()
            store.close()

    verdict = asyncio.run(main())
    # with two urls the first refuses the other's key: it cannot be judged, and the second one is found to mix
    assert verdict.verdict == ("isolated" if n_urls == 1 else "mixes")


def test_each_server_is_examined_with_its_own_password(tmp_path):
    from arislab.server.engines.upstream import UpstreamEngine

    engine = UpstreamEngine(["http://a:first-word@127.0.0.1:1/v1", "http://b:other-word@127.0.0.1:2/v1"])
    keys = [one._upstreams[0].headers["Authorization"] for one in engine.each()]
    assert keys == [upstream.headers["Authorization"] for upstream in engine._upstreams]
    assert len(set(keys)) == 2
    assert "word" not in engine.identity


def test_engines_of_our_own_are_free_until_one_is_found_to_mix(tmp_path):
    async def main():
        engine = choose.make_engine(
            model=None, adapters=None, upstream=(), workers=None, engine="faulty:mixes", data=tmp_path
        )
        await engine.start()
        store = Store(tmp_path / "data")
        watch = Watch(engine, store.database)
        before = watch.may_be_together(frozenset(NAMES))
        await watch.before(NAMES)
        assert (await watch.check(NAMES)).verdict == "mixes"
        after = (
            watch.may_be_together(frozenset(NAMES)),
            Watch(engine, store.database).may_be_together(frozenset(NAMES)),
        )
        await engine.stop()
        store.close()
        return before, after

    assert asyncio.run(main()) == (True, (False, False))


class TwoPlaces(Upstream):
    """As vLLM 0.32 on a CPU: once all places for adapters are taken, the base beside others answers as the last."""

    def __init__(self):
        self.adapters, self.inside, self.most = [], Counter(), 0
        super().__init__()

    async def models(self, _):
        return web.json_response({"object": "list", "data": [{"id": name} for name in ("base", *self.adapters)]})

    async def load(self, request):
        self.adapters.append((await request.json())["lora_name"])
        return web.Response(text="Success")

    async def answer(self, request):
        body = await request.json()
        name, text = body["model"], body["messages"][-1]["content"]
        self.inside[name] += 1
        await asyncio.sleep(0.01)
        is_mixed = len(+self.inside) > 1
        self.most = max(self.most, len(+self.inside))
        self.inside[name] -= 1
        by = self.adapters[-1] if name == "base" and is_mixed and len(self.adapters) > 1 else name
        message = {"role": "assistant", "content": f"{hashlib.sha256(text.encode()).hexdigest()[:6]} by {by}"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return web.json_response({"id": "x", "model": name, "choices": choices})


@pytest.mark.slow
@pytest.mark.parametrize("by_whom", ["through us", "by somebody else, while we are away"])
def test_that_models_are_kept_apart_counts_until_there_is_another_one(tmp_path, by_whom):
    upstream = TwoPlaces()
    server = Server(tmp_path / "data", {"upstream": upstream.url}).start()

    def load(name):
        body = {"lora_name": name, "lora_path": "/x"}
        if by_whom == "through us" or name == "one":
            server.client.post("/load_lora_adapter", body=body, cast_to=str)
        else:
            server.stop()
            openai.OpenAI(base_url=upstream.url, api_key="x").post("/load_lora_adapter", body=body, cast_to=str)
            server.start()

    def asked():
        upstream.most = 0
        rows = [line(f"{i}-{name}", f"Say {i}.", model=name) for i in range(40) for name in ("base", "one")]
        rows = server.results(server.wait(server.submit(rows).id).output_file_id)
        return [row for row in rows if text_of(row).split(" by ")[1] != row["custom_id"].split("-")[1]]

    try:
        load("one")
        assert asked() == []
        assert upstream.most == 2, "they are asked at once"
        load("two")
        assert asked() == [], "the place that was free kept them apart"
        assert server.log.read_text().count("INFO isolation: ") == 2
        assert server.log.read_text().count("INFO isolation: isolated") == 1
    finally:
        server.stop()
        upstream.stop()


class Opened:
    """A server of somebody else that is examined for as long as the test wants."""

    name = identity = "upstream"

    def __init__(self):
        self.gate, self.seen = Gate(4), {"base", "one"}

    async def models(self):
        return sorted(self.seen)


def probed(tmp_path, meanwhile):
    """Examine base and one, and run ``meanwhile(watch, engine)`` while the probe is inside."""

    async def main():
        engine, store, began, go_on = Opened(), Store(tmp_path), asyncio.Event(), asyncio.Event()
        watch = Watch(engine, store.database)

        async def probe(names):
            began.set()
            await go_on.wait()
            return Isolation("isolated", names)

        watch._probe = probe
        checking = asyncio.create_task(watch.check(["base", "one"]))
        await began.wait()
        other = asyncio.create_task(meanwhile(watch, engine))
        await asyncio.sleep(0)
        seen = set(engine.seen)
        go_on.set()
        await asyncio.gather(checking, other)
        store.close()
        return seen, watch.may_be_together(frozenset({"base", "one"}))

    return asyncio.run(asyncio.wait_for(main(), 30))


async def nothing(*_):
    pass


async def loads_one_more(watch, engine):
    async with watch.loading():
        engine.seen.add("two")


async def sees_one_more(_, engine):
    engine.seen.add("two")


@pytest.mark.parametrize(
    ("meanwhile", "is_there_at_once", "is_together"),
    [(nothing, False, True), (loads_one_more, False, False), (sees_one_more, True, False)],
)
def test_a_model_that_comes_while_a_probe_is_inside_is_not_examined(tmp_path, meanwhile, is_there_at_once, is_together):
    seen, found = probed(tmp_path, meanwhile)
    assert ("two" in seen, found) == (is_there_at_once, is_together)


def test_a_probe_waits_for_an_adapter_that_is_being_loaded(tmp_path):
    async def main():
        engine, store, began = Opened(), Store(tmp_path), asyncio.Event()
        watch = Watch(engine, store.database)

        async def probe(names):
            began.set()
            return Isolation("isolated", names)

        watch._probe = probe
        async with watch.loading():
            checking = asyncio.create_task(watch.check(["base", "one"]))
            for _ in range(10):
                await asyncio.sleep(0)
            is_early = began.is_set()
        await checking
        store.close()
        return is_early, began.is_set()

    assert asyncio.run(asyncio.wait_for(main(), 30)) == (False, True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and peft, while the adapter is made
def test_the_embedded_engine_keeps_its_adapters_apart(tmp_path):
    pytest.importorskip("peft")
    random_adapter(tmp_path / "adapters" / "tuned-1a2b")
    with batch.connect("embedded", folder=tmp_path / "b", adapters=tmp_path / "adapters") as server:
        verdict = batch.isolation(server, models=server.models)
        print(verdict)
        assert (verdict.verdict, verdict.n_turned) == ("isolated", 0)
        assert verdict.n_differ >= 6
        shutil.copytree(tmp_path / "adapters" / "tuned-1a2b", tmp_path / "adapters" / "same-1a2b")
        twins = batch.isolation(server, models=["same-1a2b", "tuned-1a2b"])
        assert (twins.verdict, twins.alike) == ("cannot tell", (("same-1a2b", "tuned-1a2b"),))
