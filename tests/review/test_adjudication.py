"""Rows about which people disagree, shown to a third person without names, and settled by what they decide."""

import json

import polars as pl
import pytest
from toys import OUTPUT, Log, curated_rows, events, folded

from arislab import review
from arislab.review import adjudication, decisions

BETTER = OUTPUT.replace("7", "9")
DISPUTE = (
    {"decision": "approve", "reviewer": "Ada", "note": "fine"},
    {"decision": "edit", "reviewer": "Grace", "edited_output": BETTER, "labels": '["wrong facts"]'},
    {"decision": "approve", "reviewer": "Ada", "custom_id": "r-1"},
)


@pytest.fixture
def panel():
    log, reviews = Log(), events(*DISPUTE)
    rows = adjudication.disputed(curated_rows(), reviews, reviewer="Alan")
    made = adjudication.Adjudication(rows, reviewer="Alan", decide=log, reviews=reviews)
    made.log, made.before = log, reviews
    return made


def after(panel):
    return review.fold(curated_rows(), pl.concat([panel.before, panel.log.reviews])).row(0, named=True)


def test_who_disagrees_is_shown_by_letters_and_who_gave_an_opinion_does_not_adjudicate():
    row = adjudication.disputed(curated_rows(), events(*DISPUTE), reviewer="Alan").row(0, named=True)
    assert (row["custom_id"], row["output"]) == ("r-0", OUTPUT)
    assert {one["who"] for one in row["opinions"]} == {"reviewer A", "reviewer B"}
    assert {(one["decision"], one["text"], one["note"]) for one in row["opinions"]} == {
        ("approve", OUTPUT, "fine"), ("edit", BETTER, None)
    }  # fmt: skip
    assert "Ada" not in json.dumps(row)
    assert "Grace" not in json.dumps(row)
    for name in ("Ada", "Grace"):
        assert adjudication.disputed(curated_rows(), events(*DISPUTE), reviewer=name).is_empty()
    settled = events(*DISPUTE, {"decision": "adjudicate", "reviewer": "Alan"})
    assert adjudication.disputed(curated_rows(), settled, reviewer="Edsger").is_empty()


def test_letters_do_not_follow_the_order_of_the_opinions():
    letters = set()
    for n in range(20):
        both = [{"decision": "approve", "reviewer": "Ada"}, {"decision": "reject", "reviewer": "Grace"}]
        seen = events(*({"custom_id": f"r-{n}"} | one for one in both))
        rows = adjudication.disputed(curated_rows(20), seen, reviewer="Alan")
        letters |= {one["who"] for one in rows["opinions"][0] if one["decision"] == "reject"}
    assert letters == {"reviewer A", "reviewer B"}


def test_a_row_that_a_fold_edited_before_it_was_disputed_shows_the_answer_as_it_came():
    once = review.fold(curated_rows(), events(DISPUTE[1]))
    row = adjudication.disputed(once, events(*DISPUTE), reviewer="Alan").row(0, named=True)
    assert row["output"] == OUTPUT


@pytest.mark.parametrize(
    ("act", "approved", "output"),
    [
        (lambda panel: panel.approve(), True, OUTPUT),
        (lambda panel: panel.approve(BETTER), True, BETTER),
        (lambda panel: panel.reject(), False, OUTPUT),
    ],
)
def test_what_is_adjudicated_settles_the_row(panel, act, approved, output):
    assert act(panel)
    row = after(panel)
    assert (row["approved"], row["output"], row["reviewed_by"], row["needs_review"]) == (
        approved,
        output,
        "Alan",
        False,
    )
    assert panel.current is None
    assert not panel.approve()


def test_a_text_that_is_empty_or_breaks_the_json_is_refused_and_a_failed_write_keeps_the_row(panel):
    assert not panel.approve("  ")
    assert not panel.approve("no JSON")
    assert "valid JSON" in panel.notice
    panel.log.error = OSError("the disk is full")
    assert not panel.reject()
    assert "Not stored: the disk is full" in panel.page()
    panel.log.error = None
    assert panel.skip()
    assert panel.current["custom_id"] == "r-0"
    assert panel.reject()


def test_nobody_without_a_name_adjudicates():
    log = Log()
    rows = adjudication.disputed(curated_rows(), events(*DISPUTE))
    panel = adjudication.Adjudication(rows, reviewer="", decide=log)
    assert not panel.approve()
    assert log.rows == []


def test_the_page_shows_the_changes_and_reads_no_text_as_html(panel):
    assert "<del>7 </del><ins>9 </ins>" in panel.page()
    attack = "<script>alert(1)</script>\u202e"
    said = [
        {
            "decision": "edit",
            "edited_output": attack,
            "note": attack,
            "labels": json.dumps([attack]),
            "reviewer": "Ada",
        },
        {"decision": "reject", "note": attack, "reviewer": "Grace"},
    ]
    curated = curated_rows(1, output="plain", input=attack)
    seen = events(*(one | {"shown_sha256": decisions.sha256("plain")} for one in said))
    rows = adjudication.disputed(curated, seen, reviewer="Alan")
    page = adjudication.Adjudication(rows, reviewer="Alan", decide=Log()).page()
    assert page.count("&lt;script&gt;") == 5
    assert "<script>" not in page
    assert "\u202e" not in page


def test_buttons_take_the_text_of_whoever_edited(panel):
    buttons = {one.description: one for one in panel.widget.children[1].children}
    (taking,) = [name for name in buttons if name.startswith("Take the text of reviewer")]
    assert {"Approve as it came", "Reject", "Save own text", "Later"} < set(buttons)
    buttons[taking].click()
    assert after(panel)["output"] == BETTER
    assert "Nothing is left" in panel.widget.children[0].value


@pytest.mark.parametrize(
    ("before", "after"), [("", "a"), ("a b c", "a c"), ("a\nb", "a b"), ("same", "same"), ("x" * 30_000, "y")]
)
def test_a_difference_holds_both_texts(before, after):
    parts = adjudication.difference(before, after)
    assert "".join(text for kind, text in parts if kind != "in") == before
    assert "".join(text for kind, text in parts if kind != "out") == after


def test_in_a_run_without_people_a_line_stands_for_the_panel(panel, monkeypatch):
    monkeypatch.setenv("ARISLAB_RUN_ID", "r")
    assert panel._repr_mimebundle_()["text/plain"] == "Adjudication: 1 rows left."
    assert folded()["needs_review"]
