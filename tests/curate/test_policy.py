"""Which curated rows later phases may use."""

import polars as pl
import pytest
from toys import NOON, curated_rows, four_curated

from arislab import curate, review
from arislab.errors import ParameterError
from arislab.review import certificates, decisions

NOBODY = pl.DataFrame(schema=decisions.SCHEMA)


def test_the_policy_decides_what_later_phases_may_use():
    assert curate.approved(four_curated(), NOBODY, approve="reviewed")["id"].to_list() == ["a"]
    assert curate.approved(four_curated(), NOBODY, approve="score")["id"].to_list() == ["a", "b", "d"]  # c was rejected
    with pytest.raises(ParameterError, match="'certified' or 'score', got 'both'"):
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


def certified_curated(n=100):
    """Rows of which a certificate approves all, once people have judged its sample: curated, reviews, certified."""
    rows = curated_rows(n)
    plan = certificates.fix(rows, NOBODY, earlier=None, stratum="all", actor="Lea", promise=0.1)
    queue = certificates.sample(plan.event, plan.rows, rows, certificate=plan.certificate)
    reviews = pl.concat([decisions.event(row, "approve", reviewer="Ada") for row in queue.to_dicts()])
    issued = certificates.issue(plan.event, plan.rows, reviews, certificate=plan.certificate, actor="Lea")
    return rows, reviews, curate.in_force(pl.concat([plan.event, issued]), plan.rows)


def test_rows_of_a_certificate_are_a_policy_of_their_own():
    rows, reviews, certified = certified_curated()
    n = reviews.height
    stored = certificates.applied(review.fold(rows, reviews), reviews, certified)
    none = certified.clear()
    for curated in (rows, stored):
        assert curate.approved(curated, reviews, approve="reviewed", certified=certified).height == n
        whole = curate.approved(curated, reviews, approve="certified", certified=certified)
        assert whole["reviewed_by"].str.starts_with("certificate:").sum() == 100 - n
        assert curate.approved(curated, reviews, approve="certified", certified=none).height == n, "withdrawn"
        assert set(curate.approved(curated, reviews, approve="score")["reviewed_by"]) == {None, "Ada"}
        with pytest.raises(ParameterError, match=r"needs certified=.*curate\.in_force"):
            curate.approved(curated, reviews, approve="certified")


def test_what_was_learned_under_a_certificate_is_withdrawn_with_it():
    rows, reviews, certified = certified_curated()
    ids, how = rows["id"].to_list(), {"approve": "certified"}
    assert curate.withdrawn(ids, rows, reviews, certified=certified, **how) == []
    gone = curate.withdrawn(ids, rows, reviews, certified=certified.clear(), **how)
    assert len(gone) == 100 - reviews.height
    assert not set(gone) & set(reviews["custom_id"])


def test_rows_of_a_certificate_are_no_in_context_examples():
    rows, reviews, certified = certified_curated()
    taken = curate.approved(rows, reviews, approve="certified", certified=certified)
    pool = curate.pool(taken, n=100)
    assert set(pool["id"]) == set(reviews["custom_id"])
    with pytest.raises(ParameterError, match="only certificates approved the 3 rows"):
        curate.pool(taken.filter(certificates.is_of_certificate()).head(3), n=2)


def test_verdicts_for_a_certificate_are_no_labels():
    """They were drawn from its stratum alone, and what it approved nobody has judged."""
    rows, reviews, _ = certified_curated()
    scored = rows.select("custom_id", created_at=pl.lit(NOON), quality=pl.lit(0.5))
    judged = reviews.select("custom_id", verdict="decision", holds=True)
    labels = curate.labelled(scored, judged, reviews)
    assert (labels.frame.height, labels.n_picked) == (0, reviews.height)
    drawn = reviews.with_columns(why=pl.lit("kept"))
    assert curate.labelled(scored, judged, drawn).frame.height == reviews.height
