"""Certificates by a form: what it stores, what it refuses, and that reviewers get the sample."""

import polars as pl
import pytest
from toys import OUTPUT, curated_rows

from arislab import curate, review
from arislab.review import certificates, decisions, granting


@pytest.fixture
def handed():
    return []


@pytest.fixture
def form(lake, handed):
    rows = curated_rows(400).with_columns(quality_score=pl.when(pl.int_range(400) < 300).then(0.97).otherwise(0.5))
    tables = {"table": lake["certificates"], "rows": lake["certified_rows"], "reviews": lake["reviews"]}
    return granting.Granting(rows, **tables, actor="Ada", hand_out=handed.append)


def judged(lake, queue, *, rejects=0):
    said = ["reject"] * rejects + ["approve"] * (queue.height - rejects)
    rows = queue.iter_rows(named=True)
    made = [decisions.event(row, decision, reviewer="Grace") for row, decision in zip(rows, said, strict=True)]
    lake["reviews"].append(pl.concat(made))


def test_a_stratum_is_fixed_judged_issued_and_withdrawn(form, lake, handed):
    assert form.fix(quality=0.95, category="Health", promise=0.05)
    (queue,) = handed
    assert set(queue["why"]) == {"certificate"}
    assert 40 < queue.height < 59  # of 300 rows: fewer than of many
    (name,) = form.overview()["certificate"]
    assert form.overview()["stratum"].item() == "quality >= 0.95, category Health"
    assert lake["certified_rows"].read().height == 300
    assert not form.issue(name)
    assert "no look yet" in form.notice
    judged(lake, queue)
    assert form.issue(name)
    known = lake["certificates"].read(), lake["certified_rows"].read()
    folded = review.fold(form._curated.drop("_category"), lake["reviews"].read())
    certified = certificates.applied(folded, lake["reviews"].read(), curate.in_force(*known))
    assert certified["approved"].sum() == 300
    assert not form.withdraw(name, " ")
    assert form.notice.startswith("say why")
    assert form.withdraw(name, "the guideline changed")
    known = lake["certificates"].read(), lake["certified_rows"].read()
    certified = certificates.applied(folded, lake["reviews"].read(), curate.in_force(*known))
    assert certified["approved"].sum() == queue.height  # a person approved these
    assert (certified["output"] == OUTPUT).all()


def test_a_reject_asks_for_the_next_look_and_two_end_it(form, lake, handed):
    assert form.fix(quality=0.95, looks=2)
    (name,) = form.overview()["certificate"]
    judged(lake, handed[0], rejects=1)
    assert not form.issue(name)
    assert form.look_further(name)
    judged(lake, handed[1], rejects=1)
    assert not set(handed[0]["custom_id"]) & set(handed[1]["custom_id"])
    assert not form.issue(name)
    assert not form.look_further(name)
    assert "there is no further look" in form.notice


def test_the_same_rows_are_not_fixed_twice_nobody_signs_nothing_and_a_stratum_without_rows_is_refused(form, handed):
    assert form.fix(quality=0.95)
    assert not form.fix(quality=0.95)
    assert "are fixed already" in form.notice
    assert not form.fix(quality=0.99)
    assert "has no row that waits" in form.notice
    form.actor = " "
    assert not form.fix(quality=0.4)
    assert form.notice.startswith("say who leads")
    assert len(handed) == 1


def test_the_form_shows_texts_as_texts_and_its_buttons_do_the_steps(form, lake, handed):
    box = form.widget
    _, fields, buttons = box.children
    fields.children[0].value = 0.95
    buttons.children[0].click()
    assert len(handed) == 1
    judged(lake, handed[0])
    *_, issue, _ = box.children[3].children
    issue.click()
    assert form.overview()["state"].item() == "issued"
    *_, reason, _, _, withdraw = box.children[3].children
    reason.value = "<script>alert(1)</script>"
    withdraw.click()
    assert form.overview()["state"].item() == "withdrawn"
    form.notice = "<img src=x onerror=alert(1)>"
    assert "<img" not in form.page()
    assert "withdrawn" in form.page()
