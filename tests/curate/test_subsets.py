"""Which part of the examples and of the candidates a phase takes."""

import polars as pl
import pytest
from toys import four_curated, people

from arislab import curate
from arislab.errors import ParameterError


def test_the_pool_takes_the_best_one_of_each_candidate():
    assert curate.pool(four_curated(), n=3)["id"].to_list()[-1] == "d"
    assert set(curate.pool(four_curated(), n=2)["id"]) == {"b", "c"}
    with pytest.raises(ParameterError, match="use_case 'executive'"):
        curate.pool(four_curated(), n=2, use_case="executive")


def test_a_pool_keeps_pins_whatever_their_quality_and_leaves_bans_out():
    assert curate.pool(four_curated(), n=2, pinned=["d"])["id"].to_list()[0] == "d"
    assert set(curate.pool(four_curated(), n=3, pinned=["a"])["id"]) == {"a", "c", "d"}  # a and b are of one candidate
    assert set(curate.pool(four_curated(), n=3, banned=["b"])["id"]) == {"a", "c", "d"}
    facts = ['{"use_case": "tech", "category": "x"}'] * 3 + ['{"use_case": "general"}']
    mixed = four_curated(metadata=facts)
    assert set(curate.pool(mixed, n=3, use_case="tech")["id"]) == {"b", "c"}
    assert set(curate.pool(mixed, n=3, use_case="tech", pinned=["d"])["id"]) == {"b", "c", "d"}
    assert set(curate.pool(mixed, n=3, use_case="x", column="category")["id"]) == {"b", "c"}
    assert dict(curate.pool(mixed, n=3, one_per="category").select("id", "category").iter_rows()) == {
        "b": "x",
        "c": "x",
        "d": None,
    }
    for options, message in (
        ({"pinned": ["e"]}, "example 'e' is not among the 4 approved"),
        ({"banned": ["e"]}, "example 'e' is not among"),
        ({"pinned": ["a", "b"]}, "pinned example 'b' has no place|pinned example 'a' has no place"),
        ({"one_per": "categry"}, "did you mean 'category'"),
    ):
        with pytest.raises(ParameterError, match=message):
            curate.pool(mixed, n=2, **options)


def test_a_use_case_takes_its_candidates():
    people = pl.DataFrame({"candidate_id": ["a", "b"], "use_case": ["tech", None], "title": ["x", "y"]})
    assert curate.serves(people, use_case="general").equals(people)
    assert curate.serves(people, use_case="tech")["candidate_id"].to_list() == ["a"]
    assert curate.serves(people, use_case="y", column="title")["candidate_id"].to_list() == ["b"]
    with pytest.raises(ParameterError, match="no candidate has use_case 'techs'; did you mean 'tech'"):
        curate.serves(people, use_case="techs")
    with pytest.raises(ParameterError, match="no column 'titel'; did you mean 'title'"):
        curate.serves(people, use_case="y", column="titel")


def test_answers_about_one_candidate_are_held_out_together():
    frame = pl.DataFrame({"id": [f"e{i}" for i in range(40)], "candidate_id": [f"c{i // 2}" for i in range(40)]})
    train, held = curate.hold_out(frame, fraction=0.1, seed=1)
    assert (train.height, held.height) == (36, 4)
    assert train.join(held, on="candidate_id", how="semi").height == 0
    assert (
        curate.hold_out(frame.reverse(), fraction=0.1, seed=1)[1]["id"].sort().to_list() == held["id"].sort().to_list()
    )
    with pytest.raises(ParameterError, match="at least 2 candidates"):
        curate.hold_out(frame.head(2), fraction=0.1)


@pytest.mark.parametrize(("n", "n_held"), [(299, 0), (300, 30), (599, 30), (601, 30), (640, 32), (2, 0)])
def test_a_handful_is_not_held_out(n, n_held):
    frame = pl.DataFrame({"id": [f"e{i}" for i in range(n)], "candidate_id": [f"c{i}" for i in range(n)]})
    train, held = curate.hold_out(frame, fraction=0.05, seed=1, least=30)
    assert (train.height, held.height) == (n - n_held, n_held)
    assert held.schema == frame.schema


def test_one_of_each_group_whatever_the_order_of_rows():
    frame = people(6).with_columns(group_id=pl.Series(list("aabbcc")))
    assert curate.one_per_group(frame)["candidate_id"].to_list() == ["c0000", "c0002", "c0004"]
    assert curate.one_per_group(frame.reverse()).equals(curate.one_per_group(frame))


def test_there_may_be_nobody_to_look_at_and_that_is_said():
    six = people(6).with_columns(group_id=pl.Series(list("aabbcc")))
    some, said = curate.to_look_at(six, n=2)
    assert (some["candidate_id"].to_list(), said) == (["c0000", "c0002"], "2 validation candidates")
    nobody, said = curate.to_look_at(six.clear(), n=2)
    assert nobody.height == 0
    assert said.startswith("WARNING: no candidate is in the validation split")
    assert "Phase 3 needs such candidates, and phase 5 what phase 3 chose" in said
