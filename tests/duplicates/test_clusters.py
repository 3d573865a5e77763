"""Stars and groups: what resembles what, and what a chain connects."""

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, corpus, edited, jaccard, short_texts

from arislab.duplicates import groups, pairs, shingles


@given(st.lists(st.one_of(st.none(), short_texts), max_size=25), st.sampled_from([0.3, 0.6]))
@settings(max_examples=FUZZ, deadline=None)
def test_groups_are_the_connected_components_of_similar_texts(data, threshold):
    frame = pl.DataFrame({"candidate_id": [f"c{i:02d}" for i in range(len(data))], "profile": data})
    frame = frame.cast({"profile": pl.String})
    group = list(range(len(data)))
    for i in range(len(data)):
        for j in range(i):
            if data[i] is not None and data[j] is not None and jaccard(data[i], data[j]) >= threshold:
                group = [min(group[i], group[j]) if g in (group[i], group[j]) else g for g in group]
    grouped = groups(frame, on="profile", threshold=threshold)
    assert grouped["candidate_id"].to_list() == frame["candidate_id"].to_list()
    assert grouped["group_id"].to_list() == [f"c{g:02d}" for g in group]


def test_groups_of_a_large_set_join_every_planted_copy():
    rng = random.Random(4)
    originals = corpus(2_100, rng)
    data = originals + [edited(text, 1, rng) for text in originals[:300]]
    frame = pl.DataFrame({"candidate_id": [f"c{i:04d}" for i in range(len(data))], "profile": data})
    group_ids = groups(frame, on="profile")["group_id"].to_list()
    assert group_ids[:2_100] == [f"c{i:04d}" for i in range(2_100)]
    assert np.mean([group_ids[2_100 + i] == f"c{i:04d}" for i in range(300)]) >= 0.99


def test_nothing_and_texts_that_are_null_have_no_company():
    nothing = pl.DataFrame({"candidate_id": [], "text": []}, schema={"candidate_id": pl.String, "text": pl.String})
    assert groups(nothing).rows() == []
    nulls = pl.DataFrame({"candidate_id": ["a", "b"], "text": pl.Series([None, None], dtype=pl.String)})
    assert groups(nulls)["group_id"].to_list() == ["a", "b"]


def test_texts_of_one_name_are_one_group_and_connect_others():
    rows = [
        ("a", "bees fly far"),
        ("b", "mines are deep"),
        ("a", "rivers are long"),
        ("c", "Rivers are long!"),
        ("d", None),
    ]
    frame = pl.DataFrame(rows, schema=["candidate_id", "text"], orient="row")
    assert groups(frame).rows() == [("a", "a"), ("b", "b"), ("a", "a"), ("c", "a"), ("d", "d")]


def test_what_most_texts_say_is_judged_by_those_that_are_named():
    form = "please say in one sentence what this is about and who should see it now"
    asked = [f"{form} {kind} {thing}" for kind in "abcde" for thing in ("boat", "bread", "bed", "bell", "bowl")]
    frame = pl.DataFrame({"text": [*asked, *(f"other {i}" for i in range(30))]}).with_row_index("candidate_id")
    frame = frame.with_columns(pl.format("c{}", "candidate_id").alias("candidate_id"))
    assert groups(frame)["group_id"].n_unique() == 30 + 5, "of a kind they share all but the last word"
    assert groups(frame, everybody=pl.Series([*asked, None]))["group_id"].n_unique() == 55


@pytest.mark.slow
@pytest.mark.parametrize("bits", [22, 5])  # all keys at once, and a part at a time
def test_buckets_are_those_of_all_hashes_of_all_rows(bits, monkeypatch):
    monkeypatch.setattr(pairs, "_SHARED_BITS", bits)
    rng = random.Random(8)
    texts = corpus(300, rng)
    texts += [edited(text, k, rng) for k in (1, 2, 5) for text in texts[:100]] + ["one", "one", "two words"]
    frame = pl.DataFrame({"input": [f"a form that all have {i % 40}" for i in range(len(texts))], "output": texts})
    columns = shingles.columns_of(frame, {})
    for threshold in (0.05, 0.5, 0.8, 0.95, 1.0):
        n_bands, n_hashes = pairs._bands(threshold)
        drawn = np.random.default_rng(0)
        flips = drawn.integers(0, 1 << 32, (n_bands, n_hashes), dtype=np.uint32)
        factors = drawn.integers(0, 1 << 31, (n_bands, n_hashes), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        views = []
        for view in ([columns[0]], [columns[1]], columns):
            rows = [
                np.concatenate([c.values[c.offsets[i] : c.offsets[i + 1]] for c in view]) for i in range(len(texts))
            ]
            bands = []
            for flip, factor in zip(flips, factors, strict=True):
                of = {}
                for i, row in enumerate(rows):
                    least = tuple(((row ^ f) * m).min() for f, m in zip(flip, factor, strict=True))
                    of.setdefault(least, []).append(i)
                bands.append(sorted(members for members in of.values() if len(members) > 1))
            views.append(bands)
        n_pairs = [sum(len(members) * (len(members) - 1) for band in bands[:4] for members in band) for bands in views]
        found = pairs.buckets(columns, threshold)
        told = [
            sorted(rows[number == i].tolist() for i in range(number.max(initial=-1) + 1) if (number == i).any())
            for rows, number in found.bands
        ]
        assert told == views[n_pairs.index(min(n_pairs))], threshold
