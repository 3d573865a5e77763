"""What a search will take is told from records, or is unknown."""

import json

import polars as pl
import pytest
from toys import icl_cells

from arislab import icl
from arislab.errors import ParameterError
from arislab.icl import budget
from arislab.icl import rounds as search_rounds
from arislab.task import load


def test_the_cost_is_told_from_what_is_recorded_and_the_rest_is_unknown(world):
    plans = icl.plan(2, budget=400, n_validation=24)
    sets = icl_cells(["e0", "e1"], n=4)
    (drawn,) = world.arms(sets).values()
    how = {
        "n_report": 100,
        "raw": world.lake["training_data_raw"].read(),
        "cells": world.lake["icl_cells"].read(),
        "task": load(world.task_file),
    }
    nothing = icl.cost(plans, drawn, **how)
    assert (nothing.prompt_tokens, nothing.completion_tokens, nothing.seconds, nothing.usd) == (None,) * 4
    text = repr(nothing)
    assert f"at most {plans['n_requests'].sum() + 100:,} requests" in text
    assert "tokens: unknown (no prompt and answer of m are recorded)" in text
    assert "time: unknown" in text
    assert "money: unknown (no price of m in data/prices.toml)" in text
    priced = repr(icl.cost(plans, drawn, **how, usd_per_million=(1e6, 2e6)))
    assert "money: unknown (1e+06 and 2e+06 USD a million tokens, for an unknown number)" in priced
    world.search(budget=200)  # 3 prompt tokens and 2 of the answer each, whatever it says
    n = plans["n_requests"].sum() + 100
    how |= {"raw": world.lake["training_data_raw"].read(), "cells": world.lake["icl_cells"].read()}
    known = icl.cost(plans, drawn, **how, usd_per_million=(1e6, 2e6))
    assert known.completion_tokens == pytest.approx(2 * n)
    assert known.prompt_tokens == pytest.approx(3 * n, rel=0.1)  # drawn prompts are about as long as the recorded
    assert known.usd == pytest.approx(known.prompt_tokens + 2 * known.completion_tokens)
    assert known.seconds > 0
    assert "requests a second in icl-" in repr(known)


def test_the_cost_of_prompts_with_calls_and_parts_is_told_too(lake, task_file):
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    chats = [
        [{"role": "user", "content": "x" * 100}, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain"}],
        [{"role": "user",
            "content": [{"type": "text", "text": "x" * 100}, {"type": "image_url", "image_url": {"url": "data:,x"}}]}],
        [{"role": "user", "content": "x" * 100}, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "rain"}],
    ]  # fmt: skip
    row = {
        "candidate_id": "c",
        "task": load(task_file).name,
        "status": "ok",
        "model": "m",
        "prompt_tokens": 40,
        "completion_tokens": 2,
    }
    rows = [row | {"custom_id": f"r-{i}", "messages": json.dumps(chat)} for i, chat in enumerate(chats)]
    lake["training_data_raw"].append(pl.DataFrame(rows))
    drawn = pl.DataFrame({"messages": [row["messages"] for row in rows], "model": "m"})
    plans = icl.plan(3, budget=200, n_validation=24)
    tables = {"raw": lake["training_data_raw"].read(), "cells": lake["icl_cells"].read()}
    estimate = icl.cost(plans, drawn, n_report=0, task=load(task_file), **tables)
    assert estimate.prompt_tokens == pytest.approx(40 * plans["n_requests"].sum())
    texts = drawn.with_columns(messages=pl.lit(json.dumps([{"role": "user", "content": "x" * 100}])))
    assert (
        20 * plans["n_requests"].sum()
        < icl.cost(plans, texts, n_report=0, task=load(task_file), **tables).prompt_tokens
        < estimate.prompt_tokens
    )


def test_several_k_share_the_budget_and_no_k_is_refused():
    both = icl.plan([5, 3, 5], budget=400, n_validation=24)
    assert both["k"].unique().sort().to_list() == [3, 5]
    assert both["n_requests"].sum() <= 400
    assert both.filter(pl.col("k") == 3).drop("k").equals(search_rounds.plan(budget=200, n_validation=24))
    assert icl.plan(3, budget=200, n_validation=24).equals(icl.plan([3], budget=200, n_validation=24))
    with pytest.raises(ParameterError, match="k is an empty list"):
        icl.plan([], budget=400, n_validation=24)


def test_a_rate_is_that_of_the_newest_search_and_needs_a_round_of_some_size():
    def cell(search, n, second, took):
        at = pl.datetime(2026, 1, 1, 0, 0, 0, time_zone="UTC", time_unit="us")
        return pl.select(
            search_id=pl.lit(search), round=pl.lit(1, dtype=pl.Int64), custom_id=pl.int_range(n).cast(pl.String),
            asked_at=at + pl.duration(seconds=second), created_at=at + pl.duration(seconds=second + took),
        )  # fmt: skip

    rounds = pl.concat([cell("old", 100, 0, 10), cell("new", 128, 50, 4), cell("small", 63, 90, 1)])
    rate, source = budget.rate_of(rounds)
    assert (rate, source) == (32.0, "32.0 requests a second in new")
    assert budget.rate_of(rounds.head(0)) == (None, "no search of this model has a recorded rate")
