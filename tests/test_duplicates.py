"""Near-duplicates, groups and leaks: what is invisible does not count, what is said does."""

import random

import numpy as np
import polars as pl
from conftest import FUZZ
from hypothesis import given, settings
from hypothesis import strategies as st

from arislab.duplicates import groups, leaks, split


def shingles(text):
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(a, b):
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


words = st.sampled_from(["fit", "strong", "weak", "candidate", "the", "a", "role", "Python,", "SQL.", "years"])
texts = st.lists(words, max_size=7).map(" ".join)


def corpus(n, rng, vocabulary=3_000, length=60):
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(length)) for _ in range(n)]


def edited(text, n_changes, rng):
    parts = text.split()
    for place in rng.sample(range(len(parts)), n_changes):
        parts[place] = f"new{rng.randrange(10**6)}"
    return " ".join(parts)


# ---- groups


@given(st.lists(st.one_of(st.none(), texts), max_size=25), st.sampled_from([0.3, 0.6]))
@settings(max_examples=FUZZ, deadline=None)
def test_groups_are_the_connected_components_of_similar_texts(data, threshold):
    frame = pl.DataFrame({"candidate_id": [f"c{i:02d}" for i in range(len(data))], "profile": data})
    frame = frame.cast({"profile": pl.String})
    group = list(range(len(data)))
    for i in range(len(data)):
        for j in range(i):
            if data[i] is not None and data[j] is not None and jaccard(data[i], data[j]) >= threshold:
                group = [min(group[i], group[j]) if g in (group[i], group[j]) else g for g in group]
    found = groups(frame, on="profile", threshold=threshold)
    assert found["candidate_id"].to_list() == frame["candidate_id"].to_list()
    assert found["group_id"].to_list() == [f"c{g:02d}" for g in group]


def test_groups_of_a_large_set_join_every_planted_copy():
    rng = random.Random(4)
    originals = corpus(2_100, rng)
    data = originals + [edited(text, 1, rng) for text in originals[:300]]
    frame = pl.DataFrame({"candidate_id": [f"c{i:04d}" for i in range(len(data))], "profile": data})
    found = groups(frame, on="profile")["group_id"].to_list()
    assert found[:2_100] == [f"c{i:04d}" for i in range(2_100)]
    assert np.mean([found[2_100 + i] == f"c{i:04d}" for i in range(300)]) >= 0.99


def test_nothing_and_texts_that_are_null_have_no_company():
    nothing = pl.DataFrame({"candidate_id": [], "text": []}, schema={"candidate_id": pl.String, "text": pl.String})
    assert groups(nothing).rows() == []
    nulls = pl.DataFrame({"candidate_id": ["a", "b"], "text": pl.Series([None, None], dtype=pl.String)})
    assert groups(nulls)["group_id"].to_list() == ["a", "b"]


# ---- splits that phase 5 lets through

asked = st.lists(
    st.tuples(st.one_of(st.none(), texts), st.sampled_from([None, None, "g-1", "g-2", "g-3"])), min_size=1, max_size=30
)


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
