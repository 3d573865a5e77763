"""Cells as requests: none is paid twice across searches, k and budgets.

What it will take is told from records, or is unknown.
"""

import json

import polars as pl
import pytest
from toys import good, icl_cells

from arislab import icl


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


def test_what_changes_an_answer_or_its_quality_is_another_cell(world):
    wanted = icl_cells(["e0", "e1"], n=8)
    world.ask(wanted)
    assert not world.answered[-1]["known"].any()
    world.ask(wanted.with_columns(search_id=pl.lit("warm")), temperature=0.5)
    assert not world.answered[-1]["known"].any()  # another request
    assert sum(world.faults.asked.values()) == 16
    world.ask(wanted.reverse())
    assert world.answered[-1]["known"].all()
    assert world.answered[-1]["candidate_id"].to_list() == wanted["candidate_id"].to_list()[::-1]
    before = world.answered[-1]
    world.task_file.write_text(world.task_file.read_text().replace('"loud": 3', '"loud": 1'))
    world.ask(wanted.reverse())
    assert world.answered[-1]["known"].all()  # judged anew, but
    assert sum(world.faults.asked.values()) == 16  # not asked anew
    assert set(world.answered[-1]["quality"]) == {0.0, 0.5}
    assert set(before["quality"]) == {0.0, 0.75}


def test_examples_of_the_same_content_are_the_same_cell_under_any_id(world, monkeypatch):
    world.ask(icl_cells(["e0", "e1"], n=4))
    monkeypatch.setitem(world.texts, "renamed", world.texts["e0"])
    world.ask(icl_cells(["renamed", "e1"], n=5, search_id="other"))
    assert world.answered[-1]["known"].to_list() == [True] * 4 + [False]
    monkeypatch.setitem(world.texts, "e0", ("question 0", "EDITED"))  # a reviewer edited it: the id stays
    world.ask(icl_cells(["e0", "e1"], n=4, search_id="third"))
    assert not world.answered[-1]["known"].any()
    assert world.most_often == 1


def test_a_cell_of_the_report_that_the_search_paid_for_is_noted_for_the_report(world):
    world.ask(icl_cells(["e0"], n=3))
    world.ask(icl_cells(["e0"], n=3, search_id="other"), purpose="holdout")
    stored = world.lake["icl_cells"].read()
    other = stored.filter(pl.col("search_id") == "other")
    assert other["purpose"].to_list() == ["holdout"] * 3
    assert other["quality"].null_count() == 0
    assert icl.holdout_uses(stored, world.people, people=world.people, search_id="new") == 2


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
    assert world.answered[-1].select("status", "quality").unique().rows() == [("overflow", 0.0)]
    world.ask(icl_cells(["e0"], n=3, search_id="other"))
    assert world.answered[-1]["known"].all()
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
    assert n_files == len(world.answered)


def manifest():
    cells = pl.DataFrame(
        {
            "search_id": "s",
            "set_id": ["p", "p", "q"],
            "example_ids": [["a"], ["a"], ["b"]],
            "candidate_id": ["x", "y", "x"],
            "round": 1,
        }
    )
    arms = {
        "p": pl.DataFrame({"candidate_id": ["x", "y"], "custom_id": ["r1", "r2"]}),
        "q": pl.DataFrame({"candidate_id": ["x"], "custom_id": ["r3"]}),
    }
    return icl.requested(cells, arms, task="t", scorer_version="v")


def test_a_manifest_names_every_request_before_it_is_sent(lake):
    lake["icl_cells"].upsert(manifest())
    stored = lake["icl_cells"].read().sort("custom_id")
    assert stored["custom_id"].to_list() == ["r1", "r2", "r3"]
    assert stored["status"].to_list() == [None] * 3
    assert stored["purpose"].unique().to_list() == ["search"]
    scores = pl.DataFrame(
        {
            "arm": ["p", "p", "q"], "candidate_id": ["x", "y", "x"], "status": ["ok", "error", "error"],
            "error": [None, '{"code": "context_length_exceeded"}', '{"code": "boom"}'], "quality": [0.5, None, None],
            "tokens": [7, None, None],
        }
    )  # fmt: skip
    lake["icl_cells"].upsert(icl.answered(manifest(), scores))
    stored = lake["icl_cells"].read().sort("custom_id")
    assert stored.select("status", "quality").rows() == [("ok", 0.5), ("overflow", 0.0), ("error", None)]


def test_a_holdout_that_served_another_search_is_told():
    cells = pl.DataFrame(
        {
            "search_id": ["old", "old", "older", "new", "other"],
            "candidate_id": ["x", "y", "y", "x", "z"],
            "purpose": ["holdout"] * 4 + ["search"],
        }
    )
    rows = pl.DataFrame({"candidate_id": ["x", "y", "z"], "group_id": ["gx", "gy", "gz"]})
    assert icl.holdout_uses(cells, rows, people=rows, search_id="new") == 3
    assert icl.holdout_uses(cells, rows, people=rows, search_id="old") == 3
    assert icl.holdout_uses(cells, rows.tail(1), people=rows, search_id="new") == 1
    assert icl.holdout_uses(cells.head(0), rows, people=rows, search_id="new") == 1
    same = rows.with_columns(group_id=pl.lit("g"))  # z itself served none, but others of its group did
    assert icl.holdout_uses(cells, same.tail(1), people=same, search_id="new") == 3
