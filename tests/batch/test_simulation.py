"""The simulated way of a batch keeps the laws of queues, and asks as often as the real one does."""

import dataclasses
import inspect
import json
import math
import random
from collections import Counter

import polars as pl
import pytest
from toys import ServerHere, Upstream, arislab, here

from arislab import batch
from arislab.batch import simulation
from arislab.errors import ParameterError
from arislab.server.engines import upstream

FREE = {"server_ms": 0.0, "client_ms": (0.0, 0.0)}
STEADY = {"median_s": 1.0, "spread": 1.0, **FREE}


def test_it_has_the_numbers_of_the_engine_and_of_the_client():
    engine = upstream.UpstreamEngine(["http://127.0.0.1:9/v1"])
    assert (engine._start, engine._ceiling) == (simulation.START, simulation.CEILING)
    assert (engine._attempts, engine._patience_s) == (simulation.ATTEMPTS, simulation.PATIENCE_S)
    assert (engine._timeout_s, engine._backoff_s) == (simulation.TIMEOUT_S, simulation.BACKOFF_S)
    names = ("GROWTH", "HOLD_S", "BUSY_PER_S")
    assert [getattr(simulation, name) for name in names] == [getattr(upstream, name) for name in names]
    # as it is written: tests of batches look more often
    assert f"_NEAR_S, _FAR_S = {simulation.POLL_S}," in inspect.getsource(batch.job)


def test_at_saturation_what_is_in_work_is_rate_times_time():
    forecast = batch.simulate(20_000, slots=200, **STEADY)
    assert forecast.requests_per_s * 1.0 == pytest.approx(200, rel=0.03)
    assert forecast.saturated_fraction > 0.9
    assert forecast.narrowest == "chat servers"
    drawn = batch.simulate(20_000, slots=200, median_s=0.8, spread=7.5, **FREE)
    mean_s = 0.8 * math.exp((math.log(7.5) / 2.3263) ** 2 / 2)
    assert drawn.requests_per_s * mean_s == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"fail_fraction": 0.3},
        {"refuse_fraction": 0.05},
        {"limit_per_s": 40.0, "retry_after_s": 1.0},
        {"fail_fraction": 0.05, "crash_after_s": 6.0, "down_s": 2.0},
        {"upstreams": 3, "crash_after_s": 3.0},
        {"slots": 3, "median_s": 0.0},
    ],
)
def test_no_request_is_lost_and_every_call_is_accounted_for(setting):
    given = {"slots": 64, "median_s": 0.4, **setting}
    forecast = batch.simulate(3_000, **given)
    n_lost = forecast.n_requests - forecast.n_answered
    tries = forecast.n_answered + forecast.n_refused + forecast.n_failed + forecast.n_twice
    assert forecast.n_calls == tries
    assert n_lost == 0 if not setting.get("fail_fraction") else n_lost < 40
    assert batch.simulate(3_000, **given) == forecast, "the same seed"
    assert batch.simulate(3_000, **given, seed=1).seconds != forecast.seconds


def test_more_slots_are_never_slower_and_more_servers_neither():
    seconds = [batch.simulate(5_000, slots=slots, **STEADY).seconds for slots in (8, 32, 64, 256, 512)]
    assert seconds == sorted(seconds, reverse=True)
    seconds = [batch.simulate(5_000, slots=64, upstreams=n, **STEADY).seconds for n in (1, 2, 4)]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("limit", [0.5, 7.0, 50.0])
def test_a_rate_limit_holds_in_every_second(limit, monkeypatch):
    taken, ask = Counter(), simulation._Way._is_refused

    def noted(self, server):
        is_refused = ask(self, server)
        taken[int(self.now)] += not is_refused
        return is_refused

    monkeypatch.setattr(simulation._Way, "_is_refused", noted)
    n = round(20 * limit)
    forecast = batch.simulate(n, limit_per_s=limit, median_s=0.1)
    assert max(taken.values()) <= math.ceil(limit)
    assert taken.total() == n == forecast.n_answered
    assert forecast.seconds >= n / limit - 2


def test_the_narrowest_place_moves_to_the_server_and_to_the_client():
    assert batch.simulate(20_000, median_s=0.0).narrowest == "arislab serve"
    slow = batch.simulate(20_000, median_s=0.0, client_ms=(1.0, 1.0))
    assert slow.narrowest == "client"
    assert slow.seconds >= 40
    assert batch.simulate(2_000, limit_per_s=20.0, retry_after_s=0.2).narrowest == "rate limit"


def test_what_was_being_answered_when_the_server_was_killed_is_paid_twice():
    forecast = batch.simulate(5_000, slots=100, crash_after_s=10.0, **STEADY)
    assert forecast.n_twice == 100
    whole = batch.simulate(5_000, slots=100, **STEADY)
    assert forecast.seconds == pytest.approx(whole.seconds + 10 + 1, abs=10)


def test_of_more_requests_than_are_simulated_the_rest_goes_at_their_pace(monkeypatch):
    whole = batch.simulate(40_000, slots=100, **STEADY)
    monkeypatch.setattr(simulation, "EXACT", 10_000)
    extended = batch.simulate(40_000, slots=100, **STEADY)
    assert extended.seconds == pytest.approx(whole.seconds, rel=0.02)
    assert (extended.n_answered, extended.n_requests) == (40_000, 40_000)


def test_tokens_give_times_gpu_hours_and_money():
    given = {"slots": 256, "tokens_per_s": 2_500.0, "spread": 2.0, "tokens": (300.0, 200.0)}
    forecast = batch.simulate(20_000, **given, usd_per_million=(0.5, 2.0), usd_per_gpu_hour=3.0)
    assert forecast.gpu_hours == pytest.approx(20_000 * 200 / 2_500 / 3600, rel=0.1)
    paid = forecast.n_calls - forecast.n_refused
    assert forecast.usd == pytest.approx(paid * (300 * 0.5 + 200 * 2.0) / 1e6 + 3.0 * forecast.gpu_hours)
    assert batch.simulate(10).usd is None
    assert "unknown (no prices given)" in repr(batch.simulate(10))


WRONG = {
    "n_requests": 0,
    "slots": 0,
    "spread": 0.5,
    "median_s": -1.0,
    "fail_fraction": 1.0,
    "limit_per_s": 0.0,
    "tokens": (1.0,),
    "retry_after_s": math.nan,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_number_out_of_its_range_is_named(name):
    with pytest.raises(ParameterError, match=rf"{name} must be .*got"):
        batch.simulate(**{"n_requests": 10, name: WRONG[name]})


class Failing(Upstream):
    """Breaks off a share of the tries, drawn."""

    def __init__(self, fraction):
        self.fraction, self.chance, self.n_calls = fraction, random.Random(7), 0
        super().__init__()

    async def answer(self, request):
        self.n_calls += 1
        if self.chance.random() < self.fraction:
            return upstream_failure()
        return await super().answer(request)


def upstream_failure():
    from aiohttp import web

    return web.Response(status=500, text="oops")


def test_the_real_server_asks_as_often_as_the_simulated_one_does(tmp_path, monkeypatch):
    n, fraction = 400, 0.3
    asked = Failing(fraction)
    server = ServerHere(tmp_path / "srv", upstream.UpstreamEngine([asked.url], backoff_s=0.001)).start()
    try:
        monkeypatch.setenv("ARISLAB_API_KEY", server.token)
        people = pl.DataFrame({"candidate_id": [f"c{i}" for i in range(n)], "profile": ["{}"] * n})
        made = batch.build_requests(people, lambda c: [{"role": "user", "content": c["candidate_id"]}], model="m")
        job = batch.submit(made, server=batch.connect(server.url, folder=tmp_path / "b"), folder=tmp_path / "b")
        counts = job.wait().account()
        job.ledger.close()
    finally:
        server.stop()
        asked.stop()
    said = batch.simulate(n, fail_fraction=fraction, median_s=0.005)
    # of independent draws until the first success: the deviation of their sum, of two such sums, four times
    bound = 4 * math.sqrt(2 * n * fraction) / (1 - fraction)
    assert abs(asked.n_calls - said.n_calls) < bound
    assert asked.n_calls > n + bound, "the bound tells tries from none"
    assert n - counts["ok"] <= 8
    assert n - said.n_answered <= 8, "of 400, a share of .3 ** 5 fails five times"


def test_the_command_says_what_the_function_says(root):
    words = ("batch", "simulate", "2000", "--slots", "64", "--fail-fraction", "0.1", "--usd-per-gpu-hour", "2")
    said = json.loads(arislab(*words, "--json", root=root))
    forecast = batch.simulate(2000, slots=64, fail_fraction=0.1, usd_per_gpu_hour=2.0)
    assert said == dataclasses.asdict(forecast) | {"narrowest": forecast.narrowest}
    assert "2,000 requests in" in arislab(*words, root=root)
    refused = here("batch", "simulate", "10", "--model", "nobody", "--root", root)
    assert (refused.returncode, "has no price of 'nobody'" in refused.stderr) == (2, True)
    prices = root / "data" / "prices.toml"
    prices.parent.mkdir()
    prices.write_text(
        '[[price]]\nmodel = "m"\nas_of = 2026-11-01\nusd_per_million_prompt = 1.0\nusd_per_million_completion = 0.0\n'
        'source = "a contract"\n'
    )
    priced = json.loads(arislab("batch", "simulate", "1000", "--model", "m", "--json", root=root))
    assert priced["usd"] == pytest.approx((priced["n_calls"] - priced["n_refused"]) * 300 / 1e6)
