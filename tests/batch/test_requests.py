"""Requests have an id of their whole text, and each a seed of its own."""

import json

import pytest
from toys import people
from toys import question as ask
from toys import questions as requests

from arislab import batch
from arislab.errors import ParameterError, TaskError


def test_the_same_request_has_the_same_id_and_any_change_another():
    one = requests(3)
    assert requests(3)["custom_id"].to_list() == one["custom_id"].to_list()
    assert one["custom_id"].n_unique() == 3
    assert one["custom_id"].str.len_chars().max() <= 64
    for change in ({"temperature": 0.5}, {"seed": 2}, {"top_p": 0.9}):
        assert not set(requests(3, **change)["custom_id"]) & set(one["custom_id"]), change
    louder = batch.build_requests(
        people(3), lambda c: [{"role": "system", "content": "x"}, *ask(c)], model="echo", max_tokens=50
    )
    other = batch.build_requests(people(3), ask, model="other", max_tokens=50)
    assert not (set(louder["custom_id"]) | set(other["custom_id"])) & set(one["custom_id"])


def test_every_row_has_its_own_seed_and_pairing_shares_it_between_arms():
    def seeds(frame):
        return [json.loads(b)["seed"] for b in frame["body"]]

    assert len(set(seeds(requests(50)))) == 50
    other = batch.build_requests(
        people(5), lambda c: [{"role": "user", "content": "else"}, *ask(c)], model="m", pair_by_candidate=True
    )
    assert seeds(other) == seeds(requests(5, pair_by_candidate=True))
    assert seeds(requests(5)) != seeds(requests(5, pair_by_candidate=True))
    assert all(0 <= s < 2**31 for s in seeds(requests(50)))


def test_several_samples_of_one_candidate_differ():
    frame = requests(2, samples=3)
    assert frame["sample"].to_list() == [0, 1, 2, 0, 1, 2]
    assert frame["custom_id"].n_unique() == 6


@pytest.mark.parametrize("bad", [{"samples": 0}, {"temperature": -1}])
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(ParameterError, match="must be >="):
        batch.build_requests(people(1), ask, model="m", **bad)
    with pytest.raises(ParameterError, match="no candidates"):
        batch.build_requests(people(0), ask, model="m")


def test_a_task_for_other_candidates_names_the_candidate(root):
    with pytest.raises(TaskError, match=r"candidate 'c0000': KeyError: 'title'\. Its profile has text"):
        batch.build_requests(people(1), lambda c: [{"role": "user", "content": c["profile"]["title"]}], model="m")
    with pytest.raises(TaskError, match="must give a list"):
        batch.build_requests(people(1), lambda c: [], model="m")
