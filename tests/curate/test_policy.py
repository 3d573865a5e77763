"""Which curated rows later phases may use."""

import polars as pl
import pytest
from toys import four_curated

from arislab import curate
from arislab.errors import ParameterError
from arislab.review import decisions

NOBODY = pl.DataFrame(schema=decisions.SCHEMA)


def test_the_policy_decides_what_later_phases_may_use():
    assert curate.approved(four_curated(), NOBODY, approve="reviewed")["id"].to_list() == ["a"]
    assert curate.approved(four_curated(), NOBODY, approve="score")["id"].to_list() == ["a", "b", "d"]  # c was rejected
    with pytest.raises(ParameterError, match="'reviewed' or 'score'"):
        curate.approved(four_curated(), NOBODY, approve="both")
    with pytest.raises(ParameterError, match=r"leaves none of 4 curated rows \(2 rejected, 2 waiting\)"):
        curate.approved(four_curated(approved=[False] * 4), NOBODY, approve="reviewed")


def test_a_decision_counts_at_once_in_later_phases():
    rows = {row["id"]: row for row in four_curated().to_dicts()}
    mended = {"edited_output": "answer d, mended"}
    seen = [
        decisions.event(rows[name], kind, reviewer="Ada", **more)
        for name, kind, more in (("a", "approve", {}), ("b", "reject", {}), ("d", "edit", mended))
    ]
    reviewed = curate.approved(four_curated(), pl.concat(seen), approve="reviewed")
    assert reviewed.select("id", "output").rows() == [("a", "answer a"), ("d", "answer d, mended")]
    assert curate.approved(four_curated(), pl.concat(seen), approve="score")["id"].to_list() == ["a", "d"]
    undo = decisions.event({"custom_id": "a"}, "undo", reviewer="Ada", undoes=seen[0]["event_id"][0])
    after = pl.concat([*seen, undo])
    assert curate.approved(four_curated(), after, approve="reviewed")["id"].to_list() == ["d"]
    assert curate.approved(four_curated(), after, approve="score")["id"].to_list() == ["a", "d"]  # a waits again


def test_a_row_about_which_people_disagree_trains_nobody_under_any_policy():
    rows = {row["id"]: row for row in four_curated().to_dicts()}
    seen = [decisions.event(rows["b"], "approve", reviewer="Ada")]
    seen += [decisions.event(rows["b"], "edit", reviewer="Grace", edited_output="answer b, mended")]
    for approve in ("reviewed", "score"):
        assert "b" not in curate.approved(four_curated(), pl.concat(seen), approve=approve)["id"].to_list()
    alone = pl.concat([decisions.event(rows[name], "reject", reviewer="Ada") for name in "ad"] + seen)
    with pytest.raises(ParameterError, match=r"\(3 rejected, 1 disputed\)"):
        curate.approved(four_curated(), alone, approve="score")
    settled = pl.concat([*seen, decisions.event(rows["b"], "adjudicate", reviewer="Alan")])
    assert curate.approved(four_curated(), settled, approve="reviewed")["id"].to_list() == ["a", "b"]


def test_a_row_whose_earlier_text_was_rejected_waits_for_a_person_under_both_policies():
    before = {row["id"]: row | {"output": "as it read before"} for row in four_curated().to_dicts()}
    seen = pl.concat(
        [decisions.event(before[name], kind, reviewer="Ada") for name, kind in (("b", "reject"), ("d", "approve"))]
    )
    assert curate.approved(four_curated(), seen, approve="score")["id"].to_list() == ["a", "d"]
    assert curate.approved(four_curated(), seen, approve="reviewed")["id"].to_list() == ["a"]
