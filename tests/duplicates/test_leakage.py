"""Splits that phase 5 lets through."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, short_texts

from arislab.duplicates import leaks, split


def test_a_text_that_nobody_is_asked_counts_only_where_somebody_is():
    rows = [
        ("a", "one two", True),
        ("a", "go on", False),
        ("b", "three four", True),
        ("b", "go on", False),
        ("c", "go on!", True),
    ]
    frame = pl.DataFrame(rows, schema=["candidate_id", "text", "whole"], orient="row").with_columns(
        group_id=pl.lit(None, pl.String)
    )
    how = {"split_of": lambda _: "seen", "hidden": "dark"}
    assert split(frame, **how)["group_id"].to_list() == ["a", "a", "a"]
    assert split(frame.head(4), **how)["group_id"].to_list() == ["a", "b"]


asked = st.lists(
    st.tuples(st.one_of(st.none(), short_texts), st.sampled_from([None, None, "g-1", "g-2", "g-3"])),
    min_size=1,
    max_size=30,
)


@pytest.mark.slow
@given(asked, st.sampled_from([0.3, 0.5, 0.8]))
@settings(max_examples=FUZZ, deadline=None)
def test_what_the_split_lets_through_is_never_a_leak_later(data, threshold):
    frame = pl.DataFrame(
        {
            "candidate_id": [f"c{i:02d}" for i in range(len(data))],
            "text": [t for t, _ in data],
            "group_id": [g for _, g in data],
        },
        schema=dict.fromkeys(["candidate_id", "text", "group_id"], pl.String),
    )
    made = split(
        frame, split_of=lambda g: "dark" if sum(g.encode()) % 2 else "seen", hidden="dark", threshold=threshold
    )
    assert made["candidate_id"].to_list() == frame["candidate_id"].to_list()
    own = frame["group_id"].is_not_null()
    assert made["group_id"].filter(own).to_list() == frame["group_id"].filter(own).to_list()
    rows = made.join(frame.select("candidate_id", "text"), on="candidate_id").with_columns(id="candidate_id")
    dark, seen = rows.filter(split="dark"), rows.filter(split="seen")
    assert leaks(dark, seen, threshold=threshold, everybody=frame["text"]).rows() == []
    for group, where in made.drop_nulls("split").group_by("group_id").agg("split").iter_rows():
        assert len(set(where)) == 1, group


@pytest.mark.slow
@given(asked.map(lambda rows: rows[:9]), asked.map(lambda rows: rows[:9]), st.sampled_from([0.3, 0.5, 0.8]))
@settings(max_examples=FUZZ, deadline=None)
def test_what_a_later_import_lets_through_is_no_leak_either_and_moves_nobody(first, second, threshold):
    schema = dict.fromkeys(["candidate_id", "text", "group_id"], pl.String)
    parts = [
        pl.DataFrame([(f"{name}{i}", text, group) for i, (text, group) in enumerate(data)], schema=schema, orient="row")
        for name, data in (("m", first), ("a", second))  # the later ones sort before the known
    ]
    how = {"split_of": lambda g: "dark" if sum(g.encode()) % 2 else "seen", "hidden": "dark", "threshold": threshold}
    known = split(parts[0], **how)
    every = pl.concat(
        [parts[1], known.join(parts[0].select("candidate_id", "text"), on="candidate_id")], how="diagonal"
    )
    made = split(every.select("candidate_id", "text", "group_id", "split"), **how)
    new = made.join(known, on="candidate_id", how="anti")  # what is known is not written again
    rows = pl.concat([new, known]).join(pl.concat(parts).select("candidate_id", "text"), on="candidate_id")
    rows = rows.with_columns(id="candidate_id")
    assert leaks(rows.filter(split="dark"), rows.filter(split="seen"), threshold=threshold).rows() == []


def test_a_text_that_two_groups_share_leaves_the_hidden_split_and_merges_nothing():
    frame = pl.DataFrame(
        {
            "candidate_id": ["a", "b", "c", "d"],
            "text": [
                "we need a nurse in Basel",
                "We need a nurse in Basel!",
                "we need a cook in Bern",
                "a baker in Chur",
            ],
            "group_id": ["g-ad", "g-other", "g-ad", None],
        }
    )
    made = split(frame, split_of=lambda g: "dark" if g == "g-ad" else "seen", hidden="dark")
    assert made.rows() == [("a", "g-ad", None), ("b", "g-other", "seen"), ("c", "g-ad", "dark"), ("d", "d", "seen")]


def test_a_new_candidate_joins_the_group_and_the_split_of_a_known_one():
    frame = pl.DataFrame(
        {
            "candidate_id": ["old", "new", "own"],
            "text": ["what is a fjord", "What is a fjord?", "what is a geyser"],
            "group_id": ["g-7", None, None],
            "split": ["dark", None, None],
        }
    )
    made = split(frame, split_of=lambda _: "seen", hidden="dark")
    assert made.rows() == [("old", "g-7", "dark"), ("new", "g-7", "dark"), ("own", "own", "seen")]


def test_of_nobody_there_is_no_split():
    nobody = pl.DataFrame(schema=dict.fromkeys(("candidate_id", "text", "group_id"), pl.String))
    assert split(nobody, split_of=str, hidden="test").rows() == []
