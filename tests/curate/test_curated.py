"""Outputs become examples, curated ones and random ones."""

import json

import polars as pl
import pytest
from toys import people

from arislab import curate, ranges
from arislab.errors import ParameterError
from arislab.task import load


def test_examples_carry_the_messages_and_the_facts(task_file):
    kept = pl.DataFrame(
        {
            "custom_id": ["r1"],
            "candidate_id": ["c0001"],
            "task": ["shout"],
            "input": ["x"],
            "messages": [None],
            "output": ["Y"],
            "quality": [0.5],
            "metadata": ['{"gt": 1}'],
        },
        schema_overrides={"messages": pl.String},
    )
    row = curate.examples(
        kept,
        people(3).with_columns(
            title=pl.lit("Cook"), company=pl.lit(None), category=pl.lit(None), use_case=pl.lit("general")
        ),
        load(task_file),
    ).row(0, named=True)
    assert [m["role"] for m in json.loads(row["messages"])] == ["system", "user"]
    assert row["input"] == "candidate number 1"
    assert json.loads(row["metadata"]) == {"gt": 1, "title": "Cook", "use_case": "general", "difficulty": None}
    assert (row["approved"], row["needs_review"]) == (False, True)


def test_a_cut_that_keeps_nothing_says_so(task_file):
    with pytest.raises(ParameterError, match="keeps no row"):
        curate.examples(pl.DataFrame(schema={"candidate_id": pl.String}), people(1), load(task_file))


def test_control_outputs_are_drawn_by_name_of_the_same_models_and_about_nobody_held_out(task_file):
    candidates = people(40).with_columns(split=pl.lit("train"))
    raw = candidates.select(
        "candidate_id",
        custom_id=pl.concat_str(pl.lit("r-"), "candidate_id"),
        model=pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("other")).otherwise(pl.lit(None, dtype=pl.String)),
        task=pl.lit("shout"),
        messages=pl.lit(None, dtype=pl.String),
        metadata=pl.lit(None, dtype=pl.String),
        llm_output=pl.lit("A"),
    )
    own = raw.filter(pl.col("model").is_null())  # a model may be unknown
    curated, heldout = own.head(9), own.slice(9, 3)
    answers = raw.with_columns(status=pl.lit("ok")).lazy()
    of = {"curated": curated, "heldout": heldout}
    drawn = curate.draw(answers, candidates, **of, n=12, seed=3)
    assert len(drawn) == len(set(drawn)) == 12
    assert drawn == curate.draw(answers.reverse(), candidates, **of, n=12, seed=3)
    names = raw.select("custom_id", "candidate_id", "model")  # as notebooks of earlier versions do
    assert drawn == curate.draw(names, candidates, **of, n=12, seed=3)
    rows = raw.filter(pl.col("custom_id").is_in(drawn))
    assert rows["model"].null_count() == 12
    assert rows.join(heldout, on="candidate_id", how="semi").height == 0
    made = curate.control(rows.reverse(), candidates, load(task_file), seed=3)
    assert curate.control(rows, candidates, load(task_file), n=5, seed=3)["id"].to_list() == drawn[:5]
    assert made["id"].to_list() == drawn, "in the order of the draw, however the rows were read"
    assert made["quality_score"].null_count() == 12


def drawable():
    """What a model was asked about the train split, some of it of no use to a trainer, and two validation answers."""
    texts = ["a" * (i + 1) for i in range(8)]
    states = ["ok", "truncated", "ok", "ok", "truncated", "ok", "ok", "ok"]
    train = people(12).with_columns(split=pl.lit("train"))
    rows = pl.DataFrame(
        {"llm_output": [*texts, None, "", "x" * 99, "y" * 98], "status": [*states, "error", "empty", "ok", "ok"]}
    )
    rows = rows.with_columns(
        candidate_id=train["candidate_id"], custom_id=pl.concat_str(pl.lit("r-"), train["candidate_id"])
    )
    return rows.with_columns(model=pl.lit("m"), task=pl.lit("shout")), train.head(10)


@pytest.mark.parametrize(("rule", "n"), [("random", 3), ("longest", 3), ("unfiltered", 7)])
def test_a_control_is_drawn_before_any_filter(rule, n):
    rows, train = drawable()
    of = {"curated": rows.filter(pl.col("status") == "ok").head(2), "heldout": train.slice(7, 1)}
    drawn = curate.draw(rows.lazy(), train, **of, n=3, rule=rule, seed=1)
    assert len(drawn) == n
    taken = rows.filter(pl.col("custom_id").is_in(drawn))
    assert taken.join(of["heldout"], on="candidate_id", how="semi").height == 0
    assert taken["candidate_id"].is_in(train["candidate_id"].implode()).all(), "the train split alone"
    assert taken["llm_output"].str.len_chars().min() > 0
    how = curate.control_in_words(taken, rule=rule)
    if rule == "longest":
        assert taken["llm_output"].str.len_chars().to_list() == [5, 6, 7]
        assert how == "control: 3 outputs of the same models before any filter (2 ok, 1 truncated), the longest"
    if rule == "unfiltered":
        assert how.endswith("before any filter (5 ok, 2 truncated), all that there were")


def test_a_random_control_takes_truncated_answers_as_often_as_they_came():
    rows, train = drawable()
    of = {"curated": rows.head(1), "heldout": train.clear()}
    shares = [
        rows.filter(pl.col("custom_id").is_in(curate.draw(rows.lazy(), train, **of, n=4, seed=seed)))["status"]
        for seed in range(200)
    ]
    n_cut = sum((statuses == "truncated").sum() for statuses in shares)
    assert n_cut / 800 == pytest.approx(2 / 8, abs=0.04)


def test_a_control_of_another_rule_is_refused():
    assert ranges.CHOICES["control"] == curate.CONTROLS
    rows, train = drawable()
    with pytest.raises(ParameterError, match=r"control must be one of random, longest, unfiltered .* got 'best'"):
        curate.draw(rows.lazy(), train, curated=rows, heldout=rows.clear(), n=1, rule="best")


def test_rows_are_spread_over_as_many_groups_as_there_are():
    rows = people(9).with_columns(group_id=pl.Series(["a", "a", "a", "b", "b", "c", "d", "d", "d"]))
    assert curate.spread(rows.reverse(), 4)["candidate_id"].to_list() == ["c0000", "c0003", "c0005", "c0006"]
    assert curate.spread(rows, 4).equals(curate.one_per_group(rows).head(4))
    assert curate.spread(rows, 6)["candidate_id"].to_list()[4:] == ["c0001", "c0004"]
    assert curate.spread(rows, 99).height == 9
    assert curate.spread(rows, 99).columns == rows.columns
