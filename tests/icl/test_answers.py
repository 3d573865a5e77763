"""Cells as requests: none is paid twice across searches, k and budgets.

What it will take is told from records, or is unknown.
"""

import hashlib
import json

import polars as pl
import pytest
from toys import good, people, serving

from arislab import batch, icl
from arislab.errors import ParameterError
from arislab.icl import budget
from arislab.icl import rounds as search_rounds
from arislab.task import load

TEXTS = {f"e{i}": (f"question {i}", f"ANSWER {i}") for i in range(6)}


@pytest.fixture
def world(lake, task_file):
    """A lake, a server that counts, and a function that searches as the notebook does."""
    with serving() as (faults, url):
        faults.is_ours = True
        faults.line = lambda name, n: good(
            name, "FINE" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 else "fine"
        )
        yield World(lake, task_file, faults, batch.connect(url, folder=lake.batches))


class World:
    def __init__(self, lake, task_file, faults, server):
        self.lake, self.task_file, self.faults, self.server = lake, task_file, faults, server
        self.people, self.told = people(24, "validation"), []
        self.read()

    def read(self):
        """What a run does once, in a first cell."""
        raw, cells = self.lake["training_data_raw"], self.lake["icl_cells"]
        self.recorded = batch.Recorded(raw.read(columns=batch.RECORDED), write=raw.upsert)
        self.searched = batch.Recorded(cells.read(columns=icl.SEARCHED), write=cells.upsert, key=cells.contract.key)

    def arms(self, wanted, **change):
        write = load(self.task_file).to_messages
        how = {"model": "m", "seed": 1, "pair_by_candidate": True, **change}
        sets = {s["set_id"][0]: s for s in wanted.partition_by("set_id", maintain_order=True)}
        return {
            name: batch.build_requests(
                self.people.join(s, on="candidate_id", how="semi"),
                icl.with_examples(write, [TEXTS[i] for i in s["example_ids"][0]]),
                **how,
            )
            for name, s in sets.items()
        }

    def ask(self, wanted, purpose="search", **change):
        came = icl.ask(
            wanted, self.arms(wanted, **change), candidates=self.people, server=self.server, folder=self.lake.batches,
            recorded=self.recorded, searched=self.searched, task=load(self.task_file), purpose=purpose,
        )  # fmt: skip
        self.told.append(came)
        return came

    def search(self, **options):
        self.read()
        pool = pl.DataFrame({"id": list(TEXTS)})
        return icl.search(pool, self.people, ask=self.ask, **({"k": 2, "budget": 100} | options))

    @property
    def most_often(self):
        """How often the request that was asked most often was asked."""
        return max(self.faults.asked.values())


def test_no_cell_is_paid_twice_across_searches_k_and_budgets(world):
    first = world.search()
    assert first.n_asked == first.n_requests == sum(world.faults.asked.values())
    again = world.search()
    assert (again.n_asked, again.n_requests) == (0, first.n_requests)
    assert again.cells.drop("known").equals(first.cells.drop("known"))
    larger = world.search(k=[1, 2], budget=300)
    assert 0 < larger.n_asked < larger.n_requests
    assert larger.n_asked == larger.cells.filter(~pl.col("known")).height
    assert world.most_often == 1
    assert sum(world.faults.asked.values()) == first.n_asked + larger.n_asked
    stored = world.lake["icl_cells"].read()
    assert stored["status"].null_count() == 0
    assert stored.group_by("search_id").len().sort("len")["len"].to_list() == [first.n_requests, larger.n_requests]
    late = stored.filter(pl.col("search_id") == larger.search_id)["asked_at"]
    assert late.null_count() == larger.n_requests - larger.n_asked  # those it did not pay for


def test_what_a_search_knows_at_its_end_is_what_the_lake_holds(world):
    """Its tables were read once, before the first round."""
    world.search(budget=200)
    world.ask(icl_cells(["e0"], n=3), purpose="holdout")
    for known, table in ((world.recorded, "training_data_raw"), (world.searched, "icl_cells")):
        columns = [
            name for name in known.frame.columns if name not in ("run_id", "created_at")
        ]  # the lake stamps these
        stored = world.lake[table].read(columns=columns)
        assert stored.height > 100
        assert known.frame.select(columns).sort(known.key).equals(stored.sort(known.key))


def test_an_asker_pairs_rows_asks_once_and_counts_every_cell(world):
    def asker():
        world.read()
        known = {"recorded": world.recorded, "searched": world.searched}
        how = {"model": "m", "parameters": {"seed": 1}, "server": world.server, "folder": world.lake.batches}
        return icl.Asker(TEXTS, world.people, task=load(world.task_file), **how, **known)

    ask = asker()
    sets = [icl_cells(["e0", "e1"], n=4), icl_cells(["e1"], n=3)]
    told = ask(pl.concat(sets))
    assert ask.counts == {"ok": 7}
    assert told["known"].to_list() == [False] * 7
    one, other = (ask.requests(ids, people(2)) for ids in (["e0", "e1"], ["e1"]))
    assert [json.loads(b)["seed"] for b in one["body"]] == [json.loads(b)["seed"] for b in other["body"]]
    assert ask(sets[1], purpose="holdout")["known"].to_list() == [True] * 3
    assert ask.counts == {"ok": 10}
    world.faults.line = lambda name, n: good(name, code=400)
    with pytest.warns(UserWarning, match="completed without a single answer"):
        ask(icl_cells(["e5"], n=2))
    assert ask.counts == {"ok": 10, "error": 2}
    again = asker()  # as after a kill
    assert again(pl.concat(sets))["quality"].equals(told["quality"])
    assert world.most_often == 1


def test_what_changes_an_answer_or_its_quality_is_another_cell(world):
    wanted = icl_cells(["e0", "e1"], n=8)
    world.ask(wanted)
    assert not world.told[-1]["known"].any()
    world.ask(wanted.with_columns(search_id=pl.lit("warm")), temperature=0.5)
    assert not world.told[-1]["known"].any()  # another request
    assert sum(world.faults.asked.values()) == 16
    world.ask(wanted.reverse())
    assert world.told[-1]["known"].all()
    assert world.told[-1]["candidate_id"].to_list() == wanted["candidate_id"].to_list()[::-1]
    before = world.told[-1]
    world.task_file.write_text(world.task_file.read_text().replace('"loud": 3', '"loud": 1'))
    world.ask(wanted.reverse())
    assert world.told[-1]["known"].all()  # judged anew, but
    assert sum(world.faults.asked.values()) == 16  # not asked anew
    assert set(world.told[-1]["quality"]) == {0.0, 0.5}
    assert set(before["quality"]) == {0.0, 0.75}


def test_examples_of_the_same_content_are_the_same_cell_under_any_id(world, monkeypatch):
    world.ask(icl_cells(["e0", "e1"], n=4))
    monkeypatch.setitem(TEXTS, "renamed", TEXTS["e0"])
    world.ask(icl_cells(["renamed", "e1"], n=5, search_id="other"))
    assert world.told[-1]["known"].to_list() == [True] * 4 + [False]
    monkeypatch.setitem(TEXTS, "e0", ("question 0", "EDITED"))  # a reviewer edited it: the id stays
    world.ask(icl_cells(["e0", "e1"], n=4, search_id="third"))
    assert not world.told[-1]["known"].any()
    assert world.most_often == 1


def test_a_cell_of_the_report_that_the_search_paid_for_is_noted_for_the_report(world):
    world.ask(icl_cells(["e0"], n=3))
    world.ask(icl_cells(["e0"], n=3, search_id="other"), purpose="holdout")
    stored = world.lake["icl_cells"].read().filter(pl.col("search_id") == "other")
    assert stored["purpose"].to_list() == ["holdout"] * 3
    assert stored["quality"].null_count() == 0
    assert icl.holdout_uses(world.lake["icl_cells"].read(), world.people, search_id="new") == 2


def test_a_prompt_that_does_not_fit_is_not_sent_again_in_a_later_search(world):
    world.ask(icl_cells(["e1"], n=3))  # others fit
    world.faults.line = lambda name, n: (
        good(name, code=400)
        | {
            "response": {
                "status_code": 400,
                "body": {"error": {"code": "context_length_exceeded", "message": "too long"}},
            }
        }
    )
    with pytest.warns(UserWarning, match="3 requests completed without a single answer.*context_length_exceeded"):
        world.ask(icl_cells(["e0"], n=3))
    assert world.told[-1].select("status", "quality").unique().rows() == [("overflow", 0.0)]
    world.ask(icl_cells(["e0"], n=3, search_id="other"))
    assert world.told[-1]["known"].all()
    assert world.most_often == 1


def test_requests_reach_the_server_set_by_set_in_the_order_of_their_examples(world):
    world.search(k=3, budget=200)
    n_files = 0
    for file, content in world.faults.files.values():
        if file.get("purpose") != "batch":
            continue
        n_files += 1
        prompts = [[m["content"] for m in json.loads(line)["body"]["messages"][:-1]] for line in content.splitlines()]
        assert prompts == sorted(prompts)  # ids of the pool sort as their texts do
    assert n_files == len(world.told)


def icl_cells(ids, *, n, search_id="s"):
    rows = people(n)["candidate_id"]
    return pl.DataFrame(
        {
            "search_id": search_id,
            "set_id": icl.set_id(ids),
            "example_ids": [list(ids)] * n,
            "candidate_id": rows,
            "round": 1,
        }
    )


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
    told = repr(nothing)
    assert f"at most {plans['n_requests'].sum() + 100:,} requests" in told
    assert "tokens: unknown (no prompt and answer of m are recorded)" in told
    assert "time: unknown" in told
    assert "money: unknown (no price of m in data/prices.toml)" in told
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
        [{"role": "user", "content": "x" * 100}, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "rain"}],
        [{"role": "user", "content": [{"type": "text", "text": "x" * 100}, {"type": "image_url", "image_url": {"url": "data:,x"}}]}],
        [{"role": "user", "content": "x" * 100}, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "rain"}],
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
    found = icl.cost(plans, drawn, n_report=0, task=load(task_file), **tables)
    assert found.prompt_tokens == pytest.approx(40 * plans["n_requests"].sum())
    texts = drawn.with_columns(messages=pl.lit(json.dumps([{"role": "user", "content": "x" * 100}])))
    assert (
        20 * plans["n_requests"].sum()
        < icl.cost(plans, texts, n_report=0, task=load(task_file), **tables).prompt_tokens
        < found.prompt_tokens
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
