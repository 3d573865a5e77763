"""Places for coverage: the right rows, as many of them, and what they cost."""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arislab import curate, vectors
from arislab.curate import diversity
from arislab.errors import ParameterError


def rows(quality, texts=None, **columns):
    n = len(quality)
    return pl.DataFrame(
        {
            "custom_id": [f"r-{i:03d}" for i in range(n)],
            "quality": quality,
            "input": [""] * n,
            "output": texts or ["same"] * n,
            **columns,
        },
        schema_overrides={"quality": pl.Float64, "input": pl.String, "output": pl.String},
    )


def one_hot(texts):
    """A vector for each first letter, so that the right choice is known by hand."""
    return np.array([[float((text or " ")[0] == letter) for letter in "abcdefgh"] for text in texts])


def kept(cut):
    return cut.kept["custom_id"].sort().to_list()


def test_places_for_coverage_go_to_what_no_kept_row_is_like():
    frame = rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], ["a1", "a2", "a3", "b1", "a4", "b2", "c1", "c2"])
    cut = curate.keep_diverse(frame, fraction=0.5, diversity=0.5, embed=one_hot)
    # two places by quality (a1, a2); then b and c, each of which two rows are: the better row of the two
    assert kept(cut) == ["r-000", "r-001", "r-003", "r-006"]
    assert cut.threshold == 0.3
    # compared are all but a1, which is sure of its place; a2 is level with the last place by quality: itself
    assert cut.rule == "the top 0.5 by quality, 0.5 of the places for coverage (of 7 rows, by embeddings)"
    # only the best twice as many compete: with a quarter kept, these are a1, a2, a3, b1
    assert kept(curate.keep_diverse(frame, fraction=0.25, diversity=0.5, embed=one_hot)) == ["r-000", "r-003"]


def test_rows_tied_at_the_cut_are_chosen_by_coverage_then_by_a_hash():
    frame = rows([1.0] * 8, ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1"])
    cut = curate.keep_diverse(frame, fraction=0.375, diversity=0.01, embed=one_hot)
    assert sorted(text[0] for text in cut.kept["output"]) == ["a", "b", "c"]
    assert (cut.n_tied_at_cut, cut.n_tied_kept, cut.ties_by) == (8, 3, "coverage, then a hash")
    seeds = {tuple(kept(curate.keep_diverse(frame, fraction=0.375, seed=s, embed=one_hot))) for s in range(8)}
    assert len(seeds) > 1, "which of the a's is a hash"
    plain = curate.keep_top(frame, fraction=0.375)
    assert plain.ties_by == "a hash"


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 8), st.integers(0, 10_000), st.integers(1, 7))
def test_greedy_is_within_its_bound_of_the_best_choice(n, seed, n_kept):
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3))
    n_kept = min(n_kept, n - 1)
    part = [vectors._unit(points)]
    places = diversity.Places(np.ones(n), np.full(n, -1), n, n_kept)
    chosen, _ = diversity.chosen(places, share=1.0, vectors_of=lambda some: [part[0][some]])
    alike = np.clip(vectors.products(part[0], part[0]), 0, 1)

    def worth(some):
        return float(alike[:, list(some)].max(axis=1).sum())

    best = max(worth(some) for some in itertools.combinations(range(n), n_kept))
    assert len(set(chosen)) == n_kept
    assert worth(chosen) >= (1 - 1 / np.e) * best - 1e-3
    assert worth(chosen) <= best + 1e-3
    # each step takes the row that adds most: the eager greedy is the oracle of the lazy one
    eager = []
    for _ in range(n_kept):
        eager.append(max(set(range(n)) - set(eager), key=lambda row: (round(worth([*eager, row]), 4), -row)))
    assert worth(chosen) == pytest.approx(worth(eager), abs=2e-3)


QUALITIES, WRITTEN = st.sampled_from([None, 0.1, 0.5, 1.0]), st.sampled_from(["", "a", "a b", "c d", None])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(QUALITIES, WRITTEN), max_size=25),
    st.sampled_from([0.1, 0.4, 1.0]),
    st.sampled_from([0.01, 0.3, 1.0]),
    st.sampled_from([None, 0.2, 0.5]),
)
def test_as_many_are_kept_as_by_quality_alone_in_any_row_order(values, fraction, share, max_share):
    frame = rows([q for q, _ in values], [text for _, text in values] or None)
    frame = frame.with_columns(
        category=pl.Series([["x", "y", None][i % 3] for i in range(len(frame))], dtype=pl.String)
    )
    quota = {} if max_share is None else {"quota": "category", "max_share": max_share}
    plain = curate.keep_top(frame, fraction=fraction, **quota)
    cut = curate.keep_diverse(frame, fraction=fraction, diversity=share, **quota)
    assert cut.n_kept == plain.n_kept
    assert cut.n_wanted == plain.n_wanted
    assert cut.kept["quality"].null_count() == 0
    if max_share is not None:
        counts = cut.kept.drop_nulls("category")["category"].value_counts()["count"].to_list()
        assert max(counts, default=0) <= max(1, int(round(max_share * cut.n_wanted, 9)))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert kept(curate.keep_diverse(shuffled, fraction=fraction, diversity=share, **quota)) == kept(cut)


def test_where_all_are_equal_one_row_or_all_are_kept_it_is_the_choice_by_quality():
    for frame, fraction in ((rows([0.5] * 9), 0.4), (rows([0.3]), 0.2), (rows([0.9, 0.1, 0.5]), 1.0), (rows([]), 0.2)):
        assert kept(curate.keep_diverse(frame, fraction=fraction)) == kept(curate.keep_top(frame, fraction=fraction))
    silent = rows([0.5] * 6, [None, "", "", None, "", ""])
    assert curate.keep_diverse(silent, fraction=0.5).n_kept == 3


def test_beyond_the_limit_the_best_compete_for_few_places_and_many_are_refused(monkeypatch):
    monkeypatch.setattr(diversity, "LIMIT", 3)
    frame = rows([1.0] * 10, [f"{'abcdefghij'[i]} word" for i in range(10)])
    with pytest.raises(ParameterError, match="diversity gives 5 places to coverage, which compares 3 rows at most"):
        curate.keep_diverse(frame, fraction=0.5, diversity=1.0)
    monkeypatch.setattr(diversity, "LIMIT", 4)
    cut = curate.keep_diverse(frame, fraction=0.2, diversity=0.5)
    assert (cut.n_kept, "(of 4 rows" in cut.rule) == (2, True)


def test_one_row_of_each_group_is_the_best_of_it_and_too_few_groups_are_said():
    frame = rows([0.9, 0.8, 0.7, 0.6], candidate_id=["c1", "c2", "c3", "c9"])
    candidates = pl.DataFrame({"candidate_id": ["c1", "c2", "c3"], "group_id": ["g1", "g1", "g2"]})
    cut = curate.keep(frame, rule="top", fraction=0.5, threshold=0.5, groups=candidates)
    assert kept(cut) == ["r-000", "r-002"]
    assert cut.rule == "the top 0.5 by quality, one row of each group of candidates"
    assert cut.frame.columns == [*frame.columns, "kept"]
    every = curate.keep(frame, rule="top", fraction=1.0, threshold=0.5, groups=candidates, diversity=0.5)
    assert kept(every) == ["r-000", "r-002", "r-003"], "a candidate of no group is a group of its own"
    assert "only 3 of 4 wanted: there are no more values of group of candidates" in every.rule
    one = candidates.with_columns(group_id=pl.lit("g"))
    alone = curate.keep(frame.head(3), rule="top", fraction=1.0, threshold=0.5, groups=one, diversity=0.5)
    assert kept(alone) == ["r-000"]
    above = curate.keep(frame, rule="above", fraction=1.0, threshold=0.65, groups=candidates)
    assert kept(above) == ["r-000", "r-002"]
    assert above.rule == "quality >= 0.65, one row of each group of candidates"


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        ("precision", {"diversity": 0.3}, "diversity must be 0 with keep_rule 'precision', got 0.3"),
        ("above", {"diversity": 0.3}, "diversity must be 0 with keep_rule 'above'"),
        ("precision", {"groups": pl.DataFrame()}, "one_per_group must be False with keep_rule 'precision'"),
        ("top", {"diversity": 1.5}, r"diversity must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_does_not_go_together_is_one_clear_error(rule, given, message):
    with pytest.raises(ParameterError, match=message):
        curate.keep(rows([0.5]), rule=rule, fraction=0.5, threshold=0.5, **given)


def test_what_coverage_cost_is_shown_beside_chance():
    frame = rows([0.9, 0.8, 0.7, 0.6], ["a1", "a2", "b1", "b2"])
    plain = curate.keep_top(frame, fraction=0.5)
    cut = curate.keep_diverse(frame, fraction=0.5, diversity=0.5, embed=one_hot)
    assert kept(cut) == ["r-000", "r-002"]
    table = curate.cost(cut, plain, embed=one_hot)
    assert table["kept"].to_list() == ["by quality alone", "for coverage", "by chance"]
    old, new, luck = table.iter_rows(named=True)
    # texts differ in the output alone; embedded empty inputs are no vector: a cosine of two columns is half
    assert (old["quality"], new["quality"]) == pytest.approx((0.85, 0.8))
    assert (old["coverage"], new["coverage"]) == pytest.approx((0.25, 0.5))
    assert (old["repetition"], new["repetition"]) == pytest.approx((0.5, 0.0))
    assert old["n_replaced"] == 0
    assert new["n_replaced"] == 1
    assert 0.75 <= luck["quality"] <= 0.85
    numbers = curate.cost_in_numbers(table)
    assert numbers == pytest.approx({"diversity_replaced": 1, "diversity_quality": -0.05, "diversity_coverage": 0.25})
    same = curate.cost(plain, plain)
    assert curate.cost_in_words(same) == "no row is kept for coverage alone"
    assert curate.cost_in_numbers(same) == {}


def test_rows_that_say_the_same_are_joined_but_never_over_other_numbers():
    texts = [
        "If you have any questions about my rate, please inform me.",
        "Please inform me if you have any questions about my rate.",
        "Please inform me if you have any questions about my rate of 100.",
        "If you have any questions about my rate of 900, please inform me.",
        "Nothing of the kind.",
        "",
        None,
    ]
    frame = rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], texts).with_columns(input=pl.lit("What now?"))
    plain = curate.near_duplicates(frame, on=["input", "output"])
    assert plain["duplicate_of"].null_count() == 7
    marked = curate.near_duplicates(frame, on=["input", "output"], by_meaning=0.9)
    assert marked["duplicate_of"].to_list() == [None, "r-000", None, None, None, None, None]
    assert 0.9 <= marked["similarity"][1] <= 1
    by_vectors = curate.near_duplicates(
        frame, on=["output"], by_meaning=0.9, embed=lambda some: np.ones((len(some), 2))
    )
    assert by_vectors["duplicate_of"].to_list() == [None, "r-000", None, None, "r-000", "r-000", None]
    with pytest.raises(ParameterError, match=r"similar_by_meaning must be in \[0, 1\], got 1.2"):
        curate.near_duplicates(frame, on=["output"], by_meaning=1.2)


def test_an_embedding_model_is_named_with_its_server(tmp_path):
    assert curate.embedder("", folder=tmp_path) is None
    for wrong in ("bge-small", "@http://127.0.0.1:1/v1", "bge@nowhere"):
        with pytest.raises(ParameterError, match=r"embedding_model must be MODEL@URL, got .*; for example"):
            curate.embedder(wrong, folder=tmp_path)


def test_json_of_a_headline_holds_what_coverage_cost():
    table = pl.DataFrame(
        [("by quality alone", 2, 0.0, 0.9, 0.2, 0.3), ("for coverage", 2, 1.0, 0.8, 0.4, 0.1)],
        schema=["kept", "n", "n_replaced", "quality", "coverage", "repetition"],
        orient="row",
    )
    assert json.loads(json.dumps(curate.cost_in_numbers(table)))["diversity_replaced"] == 1
