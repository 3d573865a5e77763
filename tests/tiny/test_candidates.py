"""Candidates are the same each time, with duplicates at known rates."""

import json

import polars as pl
import pytest

from arislab import task as tasks
from arislab.errors import ParameterError, PrerequisiteError
from arislab.lake.tables import split_of
from arislab.tiny import grammar
from arislab.tiny.candidates import compose, first


def test_candidates_are_the_same_each_time_and_the_first_do_not_depend_on_n():
    frame = compose(2000, seed=3)
    assert frame.equals(compose(2000, seed=3))
    assert frame.head(50).equals(compose(50, seed=3))
    assert not frame.head(50)["profile"].equals(compose(50, seed=4)["profile"])
    assert frame["candidate_id"].is_unique().all()
    assert frame["candidate_id"][7] == "s3-000007"


def test_duplicates_come_at_the_stated_rates_and_never_straddle_splits():
    frame = compose(6000, seed=0, duplicate_fraction=0.05, near_duplicate_fraction=0.10)
    repeated = frame.filter(pl.col("group_id").is_duplicated())
    first = frame["group_id"].is_first_distinct()
    exact = frame.height - frame["profile"].n_unique()
    assert 1 - first.mean() == pytest.approx(0.15, abs=0.015)
    assert exact / frame.height == pytest.approx(0.05, abs=0.02)
    assert repeated.group_by("group_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert repeated.group_by("group_id").agg(pl.col("title").n_unique())["title"].max() == 1
    assert frame["split"].to_list() == [split_of(group) for group in frame["group_id"]]
    shares = dict(frame["split"].value_counts(normalize=True).iter_rows())
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)
    clean = compose(3000, seed=0, duplicate_fraction=0.0, near_duplicate_fraction=0.0)
    assert clean["profile"].is_unique().all()
    assert clean["group_id"].is_unique().all()


def test_candidates_stay_inside_the_grammar():
    frame = compose(3000, seed=1)
    assert set(frame["use_case"]) == {"tech", "executive", "general"}
    assert set(frame.filter(pl.col("use_case") == "tech")["category"]) == {"Computer and Mathematical"}
    assert set(frame["title"]) <= set(grammar.titles())
    for profile in map(json.loads, frame["profile"]):
        assert {*profile["skills"], *profile["needs"]} <= set(grammar.SKILLS)
        assert 1 <= len(profile["skills"]) <= 5
        assert len(set(profile["skills"])) == len(profile["skills"])
        assert 1 <= profile["years"] <= 15


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": 5, "duplicate_fraction": 1.5}, {"n": 5, "near_duplicate_fraction": -0.1}]
)
def test_impossible_candidates_are_refused(wrong):
    with pytest.raises(ParameterError, match="got"):
        compose(**wrong, seed=0)


def test_candidates_are_made_up_unasked_only_for_the_shipped_task_on_the_embedded_server(tmp_path):
    shipped = tasks.load("candidate_evaluation")
    assert first(5, seed=2, task=shipped, base_url="embedded").equals(compose(5, seed=2))
    own = tmp_path / "candidate_evaluation.py"
    own.write_text(shipped.source + "\n# mine\n")
    for task, url in (
        (shipped, "http://127.0.0.1:1/v1"),
        (tasks.load(own), "embedded"),
        (tasks.load("instruction_following"), "embedded"),
    ):
        with pytest.raises(
            PrerequisiteError, match=f"no candidates for task '{task.name}' on '{url}'; .*arislab import FILE"
        ):
            first(5, seed=2, task=task, base_url=url)
