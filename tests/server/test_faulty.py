"""The engine with scripted faults, and what the real client makes of them."""

import asyncio
import importlib.util
import signal
import time

import pytest
from toys import Server, people

from arislab import batch
from arislab.errors import PrerequisiteError
from arislab.server.engines import base, choose
from arislab.server.engines.faulty import LASTING, PASSING, FaultyEngine, read_spec

SPEC = "429=0.05,500=0.05,timeout=0.05,empty=0.05,400=0.05,content_filter=0.05,length=0.05,broken=0.05"
SPEC += ",slow=0.05,slow_s=0.02,seed=3"
ENDS = {"400": "error", "content_filter": "refused", "length": "truncated"}
FRAME = batch.build_requests(people(300), lambda c: [{"role": "user", "content": c["profile"]["text"]}], model="faulty")


@pytest.fixture
def start(tmp_path, monkeypatch):
    made = []

    def serve(name, spec):
        made.append(Server(tmp_path / name, {"engine": f"faulty:{spec}"}).start())
        monkeypatch.setenv("ARISLAB_API_KEY", made[-1].token)
        return made[-1]

    yield serve
    for server in made:
        server.stop()


def submit(server, folder):
    return batch.submit(FRAME, server=batch.connect(server.url, folder=folder), folder=folder, max_lines=100)


def test_a_run_through_every_fault_sums_to_n_with_the_statuses_that_were_scripted(start, tmp_path):
    job = submit(start("srv", SPEC), tmp_path / "b").wait(poll_s=0.05)
    rows = job.collect()
    faults = [FaultyEngine(SPEC, tries_file=tmp_path / "x").fault(name) for name in FRAME["custom_id"]]
    assert set(faults) == {None, *PASSING, *LASTING}
    assert rows["status"].to_list() == [ENDS.get(fault, "ok") for fault in faults]
    assert rows["attempt"].to_list() == [2 if fault in PASSING else 1 for fault in faults]
    assert sum(job.account().values()) == 300
    for fault, asked, got in zip(faults, FRAME["input"], rows["llm_output"], strict=True):
        cut = {"length": asked[: len(asked) // 2], "content_filter": "", "broken": f'{{"answer":"{asked}', "400": None}
        assert got == cut.get(fault, asked)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_rows_of_an_undisturbed_one(start, tmp_path):
    calm = submit(start("calm", SPEC), tmp_path / "b").wait(poll_s=0.05).collect()
    server = start(
        "killed", SPEC.replace("slow=0.05,slow_s=0.02", "slow=0.6,slow_s=0.05")
    )  # the same but for its speed
    submit(server, tmp_path / "c")
    for goal in (40, 120):
        while sum(b.request_counts.completed for b in server.client.batches.list()) < goal:
            time.sleep(0.02)
        server.stop(signal.SIGKILL)
        server.start()
    killed = submit(server, tmp_path / "c").wait(poll_s=0.05).collect()
    same = ["custom_id", "status", "llm_output", "attempt", "finish_reason"]
    assert killed.select(same).equals(calm.select(same))


def test_a_passing_fault_counts_batches_not_tries_and_remembers_them_over_a_restart(tmp_path):
    def ask(batch_id, **more):
        async def run():
            engine, results = FaultyEngine("429=1,tries=3", tries_file=tmp_path / "tries"), []
            await engine.start()
            request = base.Request(0, "odd \n id", {"model": "m", "messages": [{"role": "user", "content": "x"}]}, 0)
            await engine.run(
                [request._replace(batch=batch_id)],
                results.append,
            )
            await engine.stop()
            return results[0].status

        return asyncio.run(run())

    assert [ask(name) for name in ("b1", "b1", "b2", "b1", "b3", "b2", "b4")] == [429, 429, 429, 429, 200, 429, 200]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("faulty:teimout=0.1", r"no 'teimout'; did you mean 'timeout'\? Known: .*Write it as faulty:429=0\.03"),
        ("faulty:429", r"'429' has no number; write 429=0\.1"),
        ("faulty:429=0.1,", "no ''"),
        ("faulty:429=0.7,500=0.7", r"sum at most 1, got '429=0\.7,500=0\.7' with the sum 1\.4; lower one"),
        ("faulty:429=nan", "must be in 0..1"),
        ("faulty:tries=0", "tries 1, 2, …"),
        ("faulty:slow_s=-1", "slow_s must be >= 0"),
        (
            "echo:soon",
            "must be echo, echo:SECONDS, faulty or faulty:SPEC, got 'echo:soon'; a model is named with --model",
        ),
        ("parrot", "got 'parrot'"),
    ],
)
def test_a_bad_engine_says_what_is_allowed_and_what_to_write(engine, message, tmp_path):
    with pytest.raises(PrerequisiteError, match=message):
        choose.make_engine(model=None, adapters=None, upstream=(), workers=None, engine=engine, data=tmp_path)


def test_a_model_without_torch_is_refused_with_the_line_that_installs_it(monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(PrerequisiteError, match=r'needs torch, .*; run: pip install "arislab\[train\]"'):
        choose.make_engine(model="tiny", adapters=None, upstream=(), workers=None, data=tmp_path)


def test_faults_come_at_their_rates_and_differ_with_the_seed(tmp_path):
    names = [f"r-{i}" for i in range(20_000)]
    drawn = {}
    for seed in (0, 1):
        engine = FaultyEngine(f"429=0.1,length=0.3,seed={seed}", tries_file=tmp_path / "x")
        drawn[seed] = [engine.fault(name) for name in names]
        assert abs(drawn[seed].count("429") / 20_000 - 0.1) < 0.01
        assert abs(drawn[seed].count("length") / 20_000 - 0.3) < 0.015
    assert drawn[0] != drawn[1]
    assert 0 < sum(read_spec("").values()) - sum(read_spec("seed=0").values()) <= 0.25, "most lines of the mix are fine"
