"""The notebooks of a review session, cell by cell: what is drawn, who may settle what, and what is counted."""

from datetime import UTC, datetime

import polars as pl
import pytest
from review.test_sessions import said
from test_review_pages import TASK, filled
from toys import play

from arislab.review import decisions, sessions


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    return filled(tmp_path)


def opened(root, name):
    """A session of four rows at a time as a page serves it that somebody opens."""
    cells = {"n_review": 4, "overlap": 0.0, "planted": 0.0}
    return sessions.Session(play("review_page", root, reviewer=name, **cells)["folder"])


def test_a_session_that_is_judged_goes_on_with_what_can_be_drawn_by_now(lake, tmp_path):
    """Rows that were generated after the first page had been opened were never shown to anybody."""
    desk, now = opened(tmp_path, "Ada"), decisions.now()
    of_ada = desk.take("Ada", 99)
    desk.decide([said(row, shown_at=now, decided_at=now) for row in of_ada], "Ada")
    of_grace = opened(tmp_path, "Grace").take("Grace", 99)
    assert (len(of_ada), len(of_grace)) == (4, 2)
    names = {row["custom_id"] for row in of_ada + of_grace}
    assert names == set(lake["training_data_curated"].read()["custom_id"])
    assert opened(tmp_path, "Alan").take("Alan", 9) == [], "nothing is added while one is left"


def event(row, decision, reviewer, **more):
    return decisions.event(row, decision, reviewer=reviewer, **more)


def test_what_is_disputed_or_flagged_in_the_notebook_of_one_person_comes_before_the_lead(lake, tmp_path):
    """A row about which two people disagreed in review.ipynb waited for ever: no page showed it for adjudication."""
    one, two, *_ = lake["training_data_curated"].read().rows(named=True)
    stray = {"custom_id": "r-of-another-task", "input": "Q", "output": "A"}
    made = [event(one, "approve", "Ada"), event(one, "reject", "Grace"), event(two, "flag", "Ada")]
    lake["reviews"].append(pl.concat([*made, event(stray, "flag", "Ada")]))
    book = play("review_lead", tmp_path, reviewer="Alan")
    assert book["rows"]["custom_id"].to_list() == [one["custom_id"]]
    assert book["flags"]["custom_id"].to_list() == [two["custom_id"]]
    assert book["own"].is_empty(), "pace and agreement are of the session"


@pytest.mark.parametrize("notebook", ["review", "review_lead"])
def test_rows_of_a_certificate_that_was_withdrawn_are_not_counted_as_certified(lake, tmp_path, notebook, monkeypatch):
    """The count said that rows were settled which nobody had looked at, and no certificate vouched for any more."""
    shown = []
    monkeypatch.setattr(
        "arislab.review.progress", lambda *frames: shown.append(decisions.progress(*frames)) or shown[-1]
    )
    rows = lake["training_data_curated"].read()
    of_rows = [
        {"certificate": "c1", "custom_id": row["custom_id"], "is_sampled": False}
        | {"shown_sha256": decisions.sha256(row["output"]), "asked_sha256": decisions.sha256(row["input"])}
        for row in rows.head(4).rows(named=True)
    ]
    lake["certified_rows"].append(pl.DataFrame(of_rows))
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def say(what, minute):
        lake["certificates"].append(certificate(what, at.replace(minute=minute)))

    def states():
        play(notebook, tmp_path, reviewer="Alan")
        return dict(shown[-1].select("state", "rows").iter_rows())

    say("issued", 0)
    assert states()["certified"] == 4, "before 2_curate is run"
    marks = pl.when(pl.col("custom_id").is_in([row["custom_id"] for row in of_rows]))
    stored = rows.with_columns(
        reviewed_by=marks.then(pl.lit("certificate:c1")),
        approved=marks.then(pl.lit(value=True)).otherwise(pl.lit(value=False)),
        needs_review=marks.then(pl.lit(value=False)).otherwise(pl.lit(value=True)),
    )
    lake["training_data_curated"].replace(stored.drop("run_id", "created_at"), where={"task": TASK.name})
    assert states()["certified"] == 4
    say("withdrawn", 1)
    assert (states()["certified"], states()["waiting"]) == (0, 6)


def certificate(what, at):
    known = {"stratum": "all", "rows_sha256": "0" * 64, "n_rows": 4, "looks": 1, "seed": 1}
    row = {"certificate": "c1", "event": what, "at": at, "actor": "Alan"} | known
    return pl.DataFrame([row], schema_overrides={"at": pl.Datetime("us", "UTC")})
