"""How sets are asked: paired, once, and every cell accounted for."""

import json

import polars as pl
import pytest
from toys import good, icl_cells, people

from arislab import icl
from arislab.task import load


def test_an_asker_pairs_rows_asks_once_and_counts_every_cell(world):
    def asker():
        world.read()
        known = {"recorded": world.recorded, "searched": world.searched}
        how = {"model": "m", "parameters": {"seed": 1}, "server": world.server, "folder": world.lake.batches}
        return icl.Asker(world.texts, world.people, task=load(world.task_file), **how, **known)

    ask = asker()
    sets = [icl_cells(["e0", "e1"], n=4), icl_cells(["e1"], n=3)]
    first = ask(pl.concat(sets))
    assert ask.counts == {"ok": 7}
    assert first["known"].to_list() == [False] * 7
    one, other = (ask.requests(ids, people(2)) for ids in (["e0", "e1"], ["e1"]))
    assert [json.loads(b)["seed"] for b in one["body"]] == [json.loads(b)["seed"] for b in other["body"]]
    assert ask(sets[1], purpose="holdout")["known"].to_list() == [True] * 3
    assert ask.counts == {"ok": 10}
    world.faults.line = lambda name, n: good(name, code=400)
    with pytest.warns(UserWarning, match="completed without a single answer"):
        ask(icl_cells(["e5"], n=2))
    assert ask.counts == {"ok": 10, "error": 2}
    again = asker()  # as after a kill
    assert again(pl.concat(sets))["quality"].equals(first["quality"])
    assert world.most_often == 1


def test_a_report_asks_a_set_once_however_many_arms_hold_it(world):
    known = {"recorded": world.recorded, "searched": world.searched}
    how = {"model": "m", "parameters": {"seed": 1}, "server": world.server, "folder": world.lake.batches}
    ask = icl.Asker(world.texts, world.people, task=load(world.task_file), **how, **known)
    sets = {"chosen": [["e0"]], "top quality": [["e0"]], "random": [["e1"], ["e2"]], "zero-shot": [[]]}
    rows = [(arm, icl.set_id(ids), ids, f"c000{i}") for arm, some in sets.items() for ids in some for i in range(3)]
    schema = {"arm": pl.String, "set_id": pl.String, "example_ids": pl.List(pl.String), "candidate_id": pl.String}
    scores = ask.report(pl.DataFrame(rows, schema=schema, orient="row"), search_id="s")
    assert scores.select("arm", "candidate_id").unique().height == scores.height == 4 * 3
    assert sum(ask.counts.values()) == sum(world.faults.asked.values()) == 4 * 3  # four sets on three rows
    quality = {arm: part["quality"].to_list() for (arm,), part in scores.partition_by("arm", as_dict=True).items()}
    assert quality["chosen"] == quality["top quality"]
    cells = world.lake["icl_cells"].read()
    assert cells["purpose"].unique().to_list() == ["holdout"]
    each = cells.filter(pl.col("set_id").is_in([icl.set_id(["e1"]), icl.set_id(["e2"])]))
    means = each.group_by("candidate_id").agg(pl.mean("quality")).sort("candidate_id")["quality"]
    assert quality["random"] == means.to_list()


def test_a_few_prompts_of_each_size_are_drawn_and_nothing_is_asked(world):
    known = {"recorded": world.recorded, "searched": world.searched}
    how = {"model": "m", "parameters": {"seed": 1}, "server": world.server, "folder": world.lake.batches}
    ask = icl.Asker(world.texts, world.people, task=load(world.task_file), **how, **known)
    drawn = ask.drawn(world.people, sizes=[1, 3])
    turns = drawn["messages"].map_elements(lambda text: len(json.loads(text)) // 2 - 1, return_dtype=pl.Int64)
    assert turns.value_counts().sort("messages").rows() == [(1, 100), (3, 100)]
    assert ask.drawn(world.people, sizes=[1, 3]).equals(drawn)
    assert not world.faults.asked
    assert ask.label.startswith('m {"seed":1} ')
    assert "ANSWER 5" in ask.label
