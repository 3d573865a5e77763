import doctest
import hashlib
import math
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import corpus, edited, jaccard, short_texts

from arislab.curate import keep, keep_above, keep_top, near_duplicates, selection
from arislab.curate.selection import ranking
from arislab.duplicates import pairs
from arislab.errors import ParameterError


def rows(quality, **columns):
    return pl.DataFrame(
        {"custom_id": [f"r-{i:03d}" for i in range(len(quality))], "quality": quality, **columns},
        schema_overrides={"quality": pl.Float64},
    )


# ---- keep_top and keep_above


def test_keep_top_keeps_exactly_the_ceiling_of_the_fraction_of_scored_rows():
    chosen = keep_top(rows([0.1 * i for i in range(11)]), fraction=0.2)
    assert (chosen.n_kept, chosen.threshold) == (3, 0.8)
    assert keep_top(rows([i / 30 for i in range(30)]), fraction=0.1).n_kept == 3  # 0.1 * 30 is 3.0000000000000004


def test_an_unscored_row_is_never_kept_and_never_counted_as_zero():
    chosen = keep_top(rows([0.0, None, math.nan, 0.5]), fraction=1.0)
    assert chosen.frame["kept"].to_list() == [True, False, False, True]
    assert (chosen.n, chosen.n_unscored, chosen.n_kept) == (4, 2, 2)
    above = keep_above(rows([None, math.nan, 0.0]), threshold=0.0)
    assert above.frame["kept"].to_list() == [False, False, True]


def test_ties_at_the_cut_are_counted_and_broken_the_same_way_in_any_row_order():
    frame = rows([0.9, *[0.5] * 9])
    chosen = keep_top(frame, fraction=0.4)
    assert (chosen.n_kept, chosen.threshold, chosen.n_tied_at_cut, chosen.n_tied_kept) == (4, 0.5, 9, 3)
    shuffled = keep_top(frame.sample(fraction=1, shuffle=True, seed=1), fraction=0.4)
    assert set(shuffled.kept["custom_id"]) == set(chosen.kept["custom_id"])
    others = {frozenset(keep_top(frame, fraction=0.4, seed=seed).kept["custom_id"]) for seed in range(8)}
    assert len(others) > 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 0.1, 0.5, 0.9, None, math.nan]), max_size=40), st.floats(0.01, 1))
def test_what_is_kept_are_the_first_of_all_rows_in_order_of_quality_and_of_a_hash(quality, fraction):
    frame = rows(quality)
    hashes = {name: hashlib.blake2b(f"7 {name}".encode(), digest_size=8).digest() for name in frame["custom_id"]}
    scored = frame.fill_nan(None).drop_nulls("quality").rows()
    ordered = [name for name, _ in sorted(scored, key=lambda row: (-row[1], hashes[row[0]]))]
    kept = keep_top(frame, fraction=fraction, seed=7).kept
    assert set(kept["custom_id"]) == set(ordered[: kept.height])
    assert kept.height == math.ceil(round(fraction * len(ordered), 9))
    assert frame["custom_id"].gather(ranking(frame, seed=7)[: len(ordered)]).to_list() == ordered


def test_keep_above_keeps_what_reaches_the_threshold_and_no_fixed_number():
    chosen = keep_above(rows([0.8, 0.79999, 1.0, 0.2]), threshold=0.8)
    assert chosen.frame["kept"].to_list() == [True, False, True, False]
    assert (chosen.rule, chosen.n_tied_at_cut, chosen.n_tied_kept) == ("quality >= 0.8", 1, 1)


def test_the_repr_says_what_was_done():
    assert repr(keep_top(rows([0.9, 0.5, 0.5, 0.1, None]), fraction=0.5)) == (
        "the top 0.5 by quality: kept 2 of 4 scored rows (50.0%); cut at 0.5, 1 of 2 tied there kept; 1 unscored left "
        "out"
    )


def test_a_quota_moves_the_next_best_of_other_categories_up():
    frame = rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], category=["a", "a", "a", "b", "b", "c"])
    chosen = keep_top(frame, fraction=0.5, quota="category", max_share=0.34)
    assert chosen.kept["custom_id"].to_list() == ["r-000", "r-003", "r-005"]
    assert keep_top(frame, fraction=0.5, quota="category").kept["category"].to_list() == ["a", "a", "a"]


def test_a_quota_that_cannot_be_met_says_how_many_were_wanted():
    frame = rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], category=["a"] * 5 + ["b"])
    chosen = keep_top(frame, fraction=0.8, quota="category", max_share=0.3)
    assert (chosen.n_kept, chosen.n_wanted) == (2, 5)
    assert "only 2 of 5 wanted" in chosen.rule
    assert "5 were wanted" in repr(chosen)
    met = keep_top(frame, fraction=0.5, quota="category", max_share=0.7)
    assert (met.n_kept, met.n_wanted) == (3, 3)
    assert "wanted" not in repr(met)
    assert keep_above(frame, threshold=0.5).n_wanted is None


def test_wrong_parameters_say_what_is_allowed():
    with pytest.raises(ParameterError) as error:
        keep_top(rows([0.5]), fraction=20)
    assert str(error.value) == "keep_fraction must be in (0, 1], got 20; it is a fraction: 0.2 keeps one in five."
    with pytest.raises(ParameterError, match=r"threshold must be in \[0, 1\], got 80"):
        keep_above(rows([0.5]), threshold=80)
    with pytest.raises(ParameterError, match="did you mean 'quality'"):
        keep_top(rows([0.5]), by="qualty")
    with pytest.raises(ParameterError, match="ranked by a number"):
        keep_top(rows([0.5]), by="custom_id")
    twice = pl.concat([rows([0.5]), rows([0.4])])
    with pytest.raises(ParameterError, match="custom_id 'r-000' stands in several rows"):
        keep_top(twice)


@given(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=40), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_selection_loses_no_row_and_keeps_no_worse_row_than_it_drops(quality, fraction):
    frame = rows(quality)
    chosen = keep_top(frame, fraction=fraction)
    assert chosen.frame.drop("kept").equals(frame)
    scored = [q for q in quality if q is not None]
    assert chosen.n_kept == chosen.kept.height == math.ceil(round(fraction * len(scored), 9))
    dropped = [q for q, kept in zip(quality, chosen.frame["kept"], strict=True) if q is not None and not kept]
    if chosen.n_kept and dropped:
        assert chosen.kept["quality"].min() >= max(dropped)


# ---- near-duplicates


def similar(frame, on, i, j, threshold):
    return min(jaccard(frame[c][i], frame[c][j]) for c in on) >= threshold


def check_stars(frame, result, on, threshold):
    """Nothing lost, stars only, exact similarities, and no two kept rows alike."""
    assert result.drop("duplicate_of", "similarity").equals(frame)
    place = {name: i for i, name in enumerate(frame["custom_id"])}
    kept = [i for i, other in enumerate(result["duplicate_of"]) if other is None]
    for i, (other, similarity) in enumerate(result.select("duplicate_of", "similarity").iter_rows()):
        assert (other is None) == (similarity is None)
        if other is not None:
            assert place[other] in kept
            assert similarity == pytest.approx(min(jaccard(frame[c][i], frame[c][place[other]]) for c in on))
            assert similarity >= threshold
            assert frame["quality"][place[other]] >= frame["quality"][i]
    for a in kept:
        assert not any(similar(frame, on, a, b, threshold) for b in kept if b > a)


@given(
    st.lists(st.tuples(short_texts, short_texts, st.sampled_from([0.1, 0.5, 0.9])), max_size=25),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
@settings(max_examples=80, deadline=None)
def test_small_sets_agree_with_comparing_every_pair(data, threshold):
    frame = rows([q for _, _, q in data], input=[a for a, _, _ in data], output=[b for _, b, _ in data])
    frame = frame.cast({"input": pl.String, "output": pl.String})
    for on in (["output"], ["input", "output"]):
        check_stars(frame, near_duplicates(frame, on=on, threshold=threshold), on, threshold)


@given(st.lists(st.tuples(short_texts, short_texts, st.sampled_from([0.1, 0.9])), min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_hashing_finds_what_comparing_every_pair_finds(data):
    frame = rows([q for _, _, q in data], input=[a for a, _, _ in data], output=[b for _, b, _ in data])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "EXACT_ROWS", 0)
        hashed = near_duplicates(frame, on=["input", "output"], threshold=1.0)
        check_stars(frame, hashed, ["input", "output"], 1.0)  # at 1.0 no pair can be missed
        loose = near_duplicates(frame, on=["input", "output"], threshold=0.5)
    assert loose["duplicate_of"].null_count() <= hashed["duplicate_of"].null_count()


def test_large_sets_find_nearly_all_planted_copies_and_nothing_else():
    rng = random.Random(0)
    originals = corpus(2_400, rng)
    copies = [edited(text, 2, rng) for text in originals[:400]]  # 6 of 58 shingles: Jaccard 52 / 64 = 0.81 or more
    frame = rows([0.9] * 2_400 + [0.1] * 400, output=originals + copies)
    result = near_duplicates(frame, on=["output"], threshold=0.8)
    sources = result["duplicate_of"].to_list()
    assert not any(sources[:2_400])
    expected = [f"r-{i:03d}" for i in range(400)]
    assert all(own is None or own == source for own, source in zip(sources[2_400:], expected, strict=True))
    assert sum(own is not None for own in sources[2_400:]) >= 0.95 * 400


def test_a_long_template_shared_by_all_rows_neither_hides_duplicates_nor_makes_them():
    rng = random.Random(1)
    template = corpus(1, rng, length=200)[0]
    outputs = corpus(2_200, rng, length=30)
    outputs += outputs[:50]
    asked = [f"{template} {text}" for text in corpus(2_200, rng, length=8)]
    asked += [text.upper() for text in asked[:50]]
    frame = rows([rng.random() for _ in outputs], input=asked, output=outputs)
    result = near_duplicates(frame, on=["input", "output"], threshold=0.8)
    assert len(frame) - result["duplicate_of"].null_count() == 50


def test_different_questions_under_one_rubric_with_the_same_answer_are_no_duplicates():
    rubric = " ".join(f"rule {word} holds" for word in corpus(1, random.Random(5), length=80)[0].split())
    tickets = ["printer is out of toner", "screen stays black", "cannot log in", "mouse is lost", "door does not lock"]
    asked = [
        f"{rubric} Ticket: {ticket} in {room} room" for ticket in tickets for room in ("the green", "his", "any", "no")
    ]
    frame = rows([0.5] * 21, input=[*asked, asked[0].upper()], output=["hardware"] * 21)
    marked = near_duplicates(frame, on=["input", "output"], threshold=0.8)
    assert marked["duplicate_of"].drop_nulls().len() == 1
    assert near_duplicates(frame, on=["input", "output"], questions=())["duplicate_of"].null_count() == 1


def test_a_large_cluster_collapses_onto_its_best_row():
    rng = random.Random(2)
    base = corpus(1, rng, length=80)[0]
    frame = rows([i / 3_000 for i in range(3_000)], output=[edited(base, 1, rng) for _ in range(3_000)])
    result = near_duplicates(frame, on=["output"], threshold=0.8)
    kept = result.filter(pl.col("duplicate_of").is_null())["custom_id"].to_list()
    assert kept == ["r-2999"]


def test_exact_copies_point_to_the_row_that_is_kept_in_the_end():
    long = "one two three four five six seven eight nine ten eleven twelve"
    frame = rows([0.2, 0.1, 0.9], output=[long, long, long + " thirteen"])
    result = near_duplicates(frame, on=["output"], threshold=0.8)
    assert result["duplicate_of"].to_list() == ["r-002", "r-002", None]
    assert result["similarity"].to_list() == pytest.approx([10 / 11, 10 / 11, None])


def test_all_columns_must_be_similar_and_null_resembles_nothing():
    frame = rows([0.5] * 4, input=["a b c", "a b c", None, None], output=["x y z", "u v w", "x y z", "x y z"])
    assert near_duplicates(frame, on=["input", "output"])["duplicate_of"].null_count() == 4
    assert near_duplicates(frame, on=["output"])["duplicate_of"].null_count() == 2


def test_case_and_punctuation_do_not_matter_and_short_texts_compare_as_a_whole():
    frame = rows([0.9, 0.1, 0.1, 0.1], output=["Strong fit.", "“strong” fit", "strong", "weak fit"])
    assert near_duplicates(frame, on=["output"])["duplicate_of"].to_list() == [None, "r-000", None, None]


def test_scripts_without_spaces_are_compared_by_character():
    frame = rows([0.9, 0.1, 0.1], output=["候选人非常适合这个职位。", "候选人非常适合这个职位！", "他不适合"])
    assert near_duplicates(frame, on=["output"])["duplicate_of"].to_list() == [None, "r-000", None]


def test_the_result_depends_on_the_rows_and_not_on_their_order():
    rng = random.Random(3)
    base = corpus(60, rng, vocabulary=400, length=25)
    frame = rows(
        [rng.choice([0.2, 0.4, None]) for _ in range(240)],
        output=[edited(rng.choice(base), 1, rng) for _ in range(240)],
    )
    result = near_duplicates(frame, on=["output"], threshold=0.7).sort("custom_id")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=5)
    assert near_duplicates(shuffled, on=["output"], threshold=0.7).sort("custom_id").equals(result)
    kept = near_duplicates(frame, on=["output"], threshold=0.7, prefer=None, seed=1)
    assert kept["duplicate_of"].null_count() < 240


def test_near_duplicates_of_nothing_are_nothing():
    empty = rows([], output=pl.Series([], dtype=pl.String))
    assert near_duplicates(empty, on=["output"]).columns == [
        "custom_id",
        "quality",
        "output",
        "duplicate_of",
        "similarity",
    ]
    all_null = rows([0.5, 0.5], output=pl.Series([None, None], dtype=pl.String))
    assert near_duplicates(all_null, on=["output"])["duplicate_of"].null_count() == 2


def test_wrong_columns_say_what_is_needed():
    frame = rows([0.5], output=["x"])
    with pytest.raises(ParameterError, match="on must name at least one"):
        near_duplicates(frame, on=[])
    with pytest.raises(ParameterError, match="no column 'outptu'; did you mean 'output'"):
        near_duplicates(frame, on=["outptu"])
    with pytest.raises(ParameterError, match="compare String columns"):
        near_duplicates(frame, on=["quality"])
    with pytest.raises(ParameterError, match=r"threshold must be in \(0, 1\]"):
        near_duplicates(frame, on=["output"], threshold=0)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(selection)
    assert result.attempted
    assert not result.failed


def test_the_rule_is_one_of_two_and_rows_without_a_value_fill_no_quota():
    frame = pl.DataFrame(
        {"custom_id": [f"r{i}" for i in range(20)], "quality": [i / 20 for i in range(20)], "category": [None] * 20},
        schema_overrides={"category": pl.String},
    )
    kept = keep(frame, rule="top", fraction=0.5, threshold=0.8, quota="category", max_share=0.3)
    assert kept.n_kept == 10
    assert keep(frame, rule="above", fraction=0.5, threshold=0.9).n_kept == 2
    with pytest.raises(ParameterError, match="keep_rule must be 'top'"):
        keep(frame, rule="Top", fraction=0.5, threshold=0.8)


def test_states_stand_in_an_order_of_their_own():
    """A group_by has none: two runs of one notebook would print two accounts."""
    statuses = ["ok", "overflow", "lost", "error", "expired", "cancelled", "empty"]
    recorded = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(70)], "status": statuses * 10})
    no_reason = pl.lit(None, dtype=pl.String)
    marked = rows([0.9] * 10, duplicate_of=[None] * 10).with_columns(
        like_rejected=pl.lit(value=False), reason=no_reason
    )
    counts = selection.states(recorded, train=recorded, marked=marked, cut=keep_top(marked, fraction=0.5))
    assert list(counts)[:6] == ["cancelled", "empty", "error", "expired", "lost", "overflow"]


def test_every_recorded_output_ends_in_one_state():
    recorded = pl.DataFrame({"custom_id": [f"r-{i:03d}" for i in range(10)], "status": ["ok"] * 7 + ["lost"] * 3})
    train = recorded.tail(9)  # one is about a candidate of another split
    marked = rows([0.9, 0.8, 0.7, None, None, 0.9], duplicate_of=[None, None, None, None, None, "r-000"])
    reason = [None] * 3 + ["scorer failed: 'loud': ValueError: no", "no scorer could tell", None]
    marked = marked.with_columns(like_rejected=pl.Series([False] * 5 + [True]), reason=pl.Series(reason))
    cut = keep_top(marked.filter(pl.col("duplicate_of").is_null()), fraction=0.5)
    counts = selection.states(recorded, train=train, marked=marked, cut=cut)
    assert counts == {
        "lost": 3, "near_duplicate": 0, "like_a_rejected": 1, "scorer_failed": 1, "unscored": 1, "kept": 2,
        "below_the_cut": 1, "held_out": 1,
    }  # fmt: skip
    assert sum(counts.values()) == recorded.height


def test_rows_that_were_not_selected_are_a_state_of_their_own():
    recorded = pl.DataFrame({"custom_id": [f"r-{i:03d}" for i in range(6)], "status": ["ok"] * 6})
    marked = rows([0.9, 0.8, 0.7, None, 0.6, 0.9], duplicate_of=[None] * 5 + ["r-000"])
    marked = marked.with_columns(like_rejected=pl.lit(value=False), reason=pl.lit(None, dtype=pl.String))
    chosen = marked.filter(pl.col("duplicate_of").is_null(), pl.col("custom_id") != "r-000")
    counts = selection.states(recorded, train=recorded, marked=marked, cut=keep_top(chosen, fraction=0.5))
    assert counts == {
        "not_selected": 1, "near_duplicate": 1, "like_a_rejected": 0, "scorer_failed": 0, "unscored": 1, "kept": 2,
        "below_the_cut": 1, "held_out": 0,
    }  # fmt: skip
    assert sum(counts.values()) == recorded.height
