"""The turnstile: who is inside with whom, and that everybody gets in."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab.server.engines import base
from arislab.server.gate import ALONE, Gate


def apart(models):
    """Models a and b may be together, none else."""
    return models <= {"a", "b"}


def run(chunks, *, width, window_s, may=apart, each_s=0.001):
    """Send (model, seconds before it comes) through a gate.

    The models that were inside together, and the order of those that went in.
    """
    seen, order = [], []

    async def main():
        gate, inside = Gate(width, window_s=window_s), Counter()
        gate.may_be_together = may

        async def one(model, after_s):
            await asyncio.sleep(after_s)
            await gate.enter(model)
            inside[model] += 1
            order.append(model)
            seen.append((frozenset(+inside), inside.total()))
            await asyncio.sleep(each_s)
            inside[model] -= 1
            gate.leave(model)

        await asyncio.wait_for(asyncio.gather(*(one(*chunk) for chunk in chunks)), 20)
        assert gate.inside == 0

    asyncio.run(main())
    return seen, order


@settings(max_examples=min(FUZZ, 200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", ALONE, ""]), st.integers(0, 6)), max_size=40),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.002, 10.0]),
)
def test_what_may_not_be_together_never_is_and_everybody_gets_in(chunks, width, window_s):
    seen, order = run([(model, tick / 2000) for model, tick in chunks], width=width, window_s=window_s)
    assert len(order) == len(chunks)
    for models, n in seen:
        assert n <= width
        assert len(models) == 1 or apart(models), models
        assert ALONE not in models or n == 1


def test_models_that_may_be_together_fill_the_gate():
    seen, order = run([("a", 0), ("b", 0)] * 20, width=4, window_s=0.0)
    assert max(n for _, n in seen) == 4
    assert order == ["a", "b"] * 20


def test_in_a_window_one_model_passes_those_who_wait_and_then_they_have_theirs():
    chunks = [("c", 0), ("d", 0)] * 30
    _, long = run(chunks, width=2, window_s=10.0)
    assert long == ["c"] * 30 + ["d"] * 30
    _, short = run(chunks, width=2, window_s=0.005, each_s=0.002)
    changes = sum(one != other for one, other in pairwise(short))
    assert 3 <= changes < 40


def test_a_model_that_always_comes_again_does_not_keep_another_out():
    async def main():
        gate, is_in = Gate(8, window_s=0.02), asyncio.Event()
        gate.may_be_together = apart

        async def forever():
            while not is_in.is_set():
                await gate.enter("c")
                await asyncio.sleep(0.001)
                gate.leave("c")

        crowd = [asyncio.create_task(forever()) for _ in range(20)]
        await asyncio.sleep(0.005)
        await asyncio.wait_for(gate.enter("d"), 5)
        assert gate.inside == 1
        is_in.set()
        gate.leave("d")
        await asyncio.gather(*crowd)

    asyncio.run(main())


def test_whoever_is_cancelled_leaves_no_place_taken():
    async def main():
        gate, chance = Gate(2, window_s=0.001), random.Random(1)
        gate.may_be_together = apart

        async def one(model):
            await gate.enter(model)
            try:
                await gate.step_out(0.001, model)
            finally:
                gate.leave(model)

        tasks = [asyncio.create_task(one(chance.choice("abcd"))) for _ in range(60)]
        await asyncio.sleep(0.005)
        for task in chance.sample(tasks, 40):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.inside == 0
        await asyncio.wait_for(gate.enter("d"), 1)

    asyncio.run(main())


@pytest.mark.parametrize("is_inside", [True, False])
def test_whoever_is_not_inside_only_sleeps(is_inside):
    async def main():
        gate = Gate(1)
        if is_inside:
            await gate.enter("a")
        await gate.step_out(0.0, "a")
        assert gate.inside == is_inside

    asyncio.run(main())


def test_a_gate_serves_in_order_and_loses_no_place() -> None:
    async def run() -> list[int]:
        gate, order = base.Gate(1), []

        async def visit(i: int) -> None:
            await gate.enter()
            order.append(i)
            await asyncio.sleep(0)
            gate.leave()

        visits = [asyncio.create_task(visit(i)) for i in range(6)]
        await asyncio.sleep(0)
        visits[2].cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        assert gate.inside == 0
        await gate.enter()
        waiting = asyncio.create_task(gate.step_out(60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.inside == 1
        gate.leave()
        assert gate.inside == 0
        return order

    assert asyncio.run(run()) == [0, 1, 3, 4, 5]
