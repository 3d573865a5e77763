"""Outputs become examples, curated ones and random ones."""

import json

import polars as pl
import pytest
from toys import people

from arislab import curate
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
    answers = raw.select("custom_id", "candidate_id", "model")
    how = {"n": 12, "seed": 3}
    drawn = curate.draw(answers, candidates, curated=curated, heldout=heldout, **how)
    assert len(drawn) == len(set(drawn)) == 12
    assert drawn == curate.draw(answers.reverse(), candidates, curated=curated, heldout=heldout, **how)
    rows = raw.filter(pl.col("custom_id").is_in(drawn))
    assert rows["model"].null_count() == 12
    assert rows.join(heldout, on="candidate_id", how="semi").height == 0
    # the same as if all texts had been read
    all_of_them = own.join(heldout, on="candidate_id", how="anti")
    whole, few = (curate.control(frame, candidates, load(task_file), **how) for frame in (all_of_them, rows))
    assert few.equals(whole)
