"""The fold of decisions into the curated rows: by what was shown, in the order in which it was known."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from toys import FUZZ, NOON, OUTPUT, Log, curated_rows, edit, events, folded

from arislab import review
from arislab.lake import tables
from arislab.review import decisions


def test_an_approval_approves_and_a_rejection_does_not():
    row = folded({"decision": "approve"})
    assert (row["approved"], row["needs_review"], row["reviewed_by"], row["output"]) == (True, False, "Ada", OUTPUT)
    assert row["updated_at"] == NOON
    row = folded({"decision": "reject"})
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, False, "Ada")


def test_an_edit_replaces_the_output_and_keeps_the_original():
    better = OUTPUT.replace("7", "9")
    row = folded({"decision": "edit", "edited_output": better})
    assert (row["approved"], row["needs_review"], row["output"]) == (True, False, better)
    assert json.loads(row["metadata"])["original_output"] == OUTPUT
    assert json.loads(row["metadata"])["company"] == "Acme"
    row = folded({"decision": "edit", "edited_output": better}, curated=curated_rows(1, metadata=None))
    assert json.loads(row["metadata"]) == {"original_output": OUTPUT}


@pytest.mark.parametrize("decision", ["skip", "label", "flag"])
def test_skips_labels_and_flags_settle_nothing(decision):
    before, after = curated_rows(), review.fold(curated_rows(), events({"decision": decision, "labels": '["helpful"]'}))
    assert_frame_equal(before, after)
    assert folded({"decision": "approve"}, {"decision": decision})["approved"], "nor take they a decision back"


ADA, GRACE, ALAN = ({"reviewer": name} for name in ("Ada", "Grace", "Alan"))


def stands(*rows):
    return decisions.standing(curated_rows(1), events(*rows)).row(0, named=True)


def test_a_row_about_which_people_disagree_is_disputed_until_somebody_adjudicates():
    dispute = [{"decision": "approve"} | ADA, {"decision": "reject"} | GRACE]
    row = stands(*dispute)
    assert (row["needs_review"], row["approved"], row["reviewed_by"], row["disputed"]) == (True, False, None, "reject")
    assert stands(*reversed(dispute))["disputed"] == "reject", "whoever came first"
    assert stands(*dispute, {"decision": "approve"} | ALAN)["disputed"] == "reject", "a majority settles nothing"
    assert stands(*dispute, {"decision": "approve"} | GRACE)["approved"], "Grace changed her mind"
    third = {"decision": "adjudicate"} | ALAN
    for order in ([*dispute, third], [third, *dispute]):
        row = stands(*order)
        assert (row["approved"], row["reviewed_by"], row["disputed"]) == (True, "Alan", None)
    assert not stands(*dispute, third | {"labels": '["reject"]'})["approved"]
    assert stands(*dispute, third | {"edited_output": "{}"})["output"] == "{}"
    taken_back = [*dispute, third | {"event_id": "a"}, {"decision": "undo", "undoes": "a"} | ALAN]
    assert stands(*taken_back)["disputed"] == "reject"


def test_people_who_want_different_texts_disagree_and_who_wants_the_edited_one_agrees():
    better, edited = '{"score": 0.6}', {"decision": "edit", "edited_output": '{"score": 0.6}'} | ADA
    saw = {"shown_sha256": decisions.sha256(better)}
    row = stands(edited, {"decision": "approve"} | GRACE)
    assert (row["disputed"], row["output"], row["approved"], row["needs_review"]) == ("edit", OUTPUT, False, True)
    assert stands(edited, {"decision": "edit", "edited_output": "{}"} | GRACE)["disputed"] == "edit"
    for agreed in ({"decision": "edit", "edited_output": better}, {"decision": "approve"} | saw):
        row = stands(edited, agreed | GRACE)
        assert (row["disputed"], row["output"], row["reviewed_by"]) == (None, better, "Grace")
    assert stands(edited, {"decision": "reject"} | saw | GRACE)["disputed"] == "reject"
    row = stands({"decision": "reject"} | ADA, {"decision": "reject"} | GRACE)
    assert (row["disputed"], row["approved"], row["reviewed_by"]) == (None, False, "Grace")


@pytest.mark.parametrize("planted", tables.PLANTED)
def test_what_was_planted_to_measure_people_settles_nothing(planted):
    row = stands({"decision": "approve"} | ADA, {"decision": "reject", "planted": planted} | GRACE)
    assert (row["approved"], row["reviewed_by"]) == (True, "Ada")
    assert stands({"decision": "reject", "planted": planted} | ADA)["needs_review"]


def test_a_row_that_was_settled_and_then_disputed_waits_as_its_answer_came():
    edited = {"decision": "edit", "edited_output": "{}", "event_id": "a"} | ADA
    once = review.fold(curated_rows(1), events(edited))
    then = review.fold(once, events(edited, {"decision": "reject"} | GRACE))
    assert_frame_equal(then.drop("updated_at"), curated_rows(1).drop("updated_at"))
    not_queued = curated_rows(1, needs_review=False)
    both = events({"decision": "approve"} | ADA, {"decision": "reject"} | GRACE)
    assert review.fold(not_queued, both)["needs_review"].item()


def test_a_reviewer_takes_back_only_their_own_events():
    approve = {"decision": "approve", "event_id": "a"}
    assert folded(approve, {"decision": "undo", "undoes": "a", "reviewer": "Grace"})["approved"]
    assert not folded(approve, {"decision": "undo", "undoes": "a"})["approved"]


def test_an_undo_after_a_fold_restores_the_row():
    before, edit = curated_rows(), {"decision": "edit", "edited_output": "{}", "event_id": "a"}
    once = review.fold(before, events(edit))
    back = review.fold(once, events(edit, {"decision": "undo", "undoes": "a"}))
    assert_frame_equal(back.drop("updated_at"), before.drop("updated_at"), check_dtypes=True)


def test_events_of_unknown_outputs_change_nothing_and_types_stay():
    before = curated_rows().with_columns(pl.col("quality_score").cast(pl.Float32))
    assert_frame_equal(review.fold(before, events({"decision": "reject", "custom_id": "elsewhere"})), before)
    assert review.fold(before, events({"decision": "edit", "edited_output": "{}"})).schema == before.schema
    assert_frame_equal(review.fold(before, tables.empty("reviews")), before)
    assert_frame_equal(review.fold(before[:0], events({"decision": "reject"})), before[:0])


def test_a_decision_about_another_text_is_stale_and_never_applied():
    then, now = curated_rows(3, output="answer A"), curated_rows(3, output="answer B")
    log = Log()
    panel = review.Panel(then, reviewer="Ada", decide=log)
    assert panel.approve()
    assert panel.reject()
    assert panel.edit("answer A, mended")
    assert review.fold(then, log.reviews)["approved"].to_list() == [True, False, True]
    assert_frame_equal(review.fold(now, log.reviews), now)
    assert_frame_equal(
        review.fold(review.fold(then, log.reviews).with_columns(output=pl.lit("answer A")), log.reviews),
        review.fold(then, log.reviews),
    )
    stands = decisions.standing(now, log.reviews)
    assert stands["stale"].to_list() == ["approve", "reject", "edit"]
    assert dict(review.progress(now, log.reviews).select("state", "rows").iter_rows())["stale"] == 3
    again = review.queue(now, log.reviews, n=5, seed=0)
    assert set(again["stale"]) == {"approve", "reject", "edit"}
    panel = review.Panel(again, reviewer="Ada", decide=log, reviews=log.reviews, backend="buttons")
    assert panel.counts["left"] == 3, "what Ada decided about another text is not decided"
    assert f"{panel.current['stale']} by Ada, of another text" in (panel.widget and panel._view.card.value)
    assert panel.approve()
    assert review.fold(now, log.reviews)["approved"].sum() == 1
    assert review.fold(then, log.reviews)["approved"].sum() == 2, "the old text has its old verdict, or none"


def test_a_decision_belongs_to_the_question_too():
    log = Log()
    assert review.Panel(curated_rows(1), reviewer="Ada", decide=log).approve()
    asked_otherwise = curated_rows(1, input="input 0, but of another year")
    assert not review.fold(asked_otherwise, log.reviews)["approved"].item()
    older = log.reviews.drop("asked_sha256", "seq")  # an event of a lake that never recorded the question
    assert review.fold(asked_otherwise, older)["approved"].item()
    assert not review.fold(curated_rows(1, output="another"), older)["approved"].item()


def test_a_row_that_was_approved_for_an_earlier_text_waits_again():
    stored = curated_rows(1, output="answer B").with_columns(
        approved=True, needs_review=False, reviewed_by=pl.lit("Ada")
    )
    row = review.fold(stored, events({"decision": "approve", "shown_sha256": decisions.sha256("answer A")})).row(
        0, named=True
    )
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, True, None)


def test_an_event_that_does_not_say_what_was_shown_applies_to_nothing():
    stands = decisions.standing(curated_rows(1), events({"decision": "approve", "shown_sha256": None}))
    assert (stands["approved"].item(), stands["stale"].item()) == (False, "approve")


def test_who_was_shown_an_edited_text_and_approves_it_approves_that_text():
    edited = '{"strengths": []}'
    edit = {"decision": "edit", "edited_output": edited, "event_id": "a"}
    seen = {"decision": "approve", "reviewer": "Grace", "shown_sha256": decisions.sha256(edited)}
    row = folded(edit, seen)
    assert (row["output"], row["reviewed_by"], row["approved"]) == (edited, "Grace", True)
    undone = folded(edit, seen, {"decision": "undo", "undoes": "a"})
    assert (undone["output"], undone["approved"], undone["needs_review"]) == (OUTPUT, False, True)


@pytest.mark.parametrize("edited", ['{"score": NaN}', '{"score": 1, "score": 2}', "not JSON any more"])
def test_an_edit_of_an_older_panel_that_is_no_json_is_stale(edited):
    stands = decisions.standing(curated_rows(1), events({"decision": "edit", "edited_output": edited}))
    assert (stands["output"].item(), stands["approved"].item(), stands["stale"].item()) == (OUTPUT, False, "edit")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where it is put."""
    times = [NOON]
    monkeypatch.setattr(decisions, "now", lambda: times[-1])
    return times


def test_a_clock_that_is_set_back_reorders_no_decision(clock, log):
    panel = review.Panel(curated_rows(1), reviewer="Ada", decide=log)
    assert panel.approve()
    clock.append(NOON - timedelta(days=1))
    assert panel.undo()
    assert panel.reject()
    assert [row["decided_at"] for row in log.rows] == sorted((row["decided_at"] for row in log.rows), reverse=True)
    assert not review.fold(curated_rows(1), log.reviews)["approved"].item()
    clock.append(NOON - timedelta(days=2))
    other = review.Panel(
        review.queue(curated_rows(1), log.reviews[:0], n=1, seed=0), reviewer="Grace", decide=log, reviews=log.reviews
    )
    assert other.reject()
    assert review.fold(curated_rows(1), log.reviews)["reviewed_by"].item() == "Grace", "she saw what Ada decided"


def test_two_sessions_that_know_nothing_of_each_other_are_ordered_by_time(clock):
    logs = [Log(), Log()]
    panels = [
        review.Panel(curated_rows(4), reviewer=name, decide=log)
        for name, log in zip(("Ada", "Grace"), logs, strict=True)
    ]
    done = [(0, "approve"), (0, "approve"), (0, "reject"), (1, "approve"), (1, "approve"), (0, "approve")]
    for panel, decide in done:
        clock.append(clock[-1] + timedelta(seconds=1))
        assert getattr(panels[panel], decide)()
    rows = review.fold(curated_rows(4), pl.concat([log.reviews for log in reversed(logs)]))
    assert rows["reviewed_by"].to_list() == ["Grace", "Grace", "Ada", "Ada"]
    assert rows["approved"].to_list() == [True, True, False, True]


ACTS = st.lists(
    st.tuples(st.sampled_from(["approve", "reject", "edit", "skip", "undo"]), st.integers(-90, 90), st.booleans()),
    max_size=10,
)


@pytest.mark.slow
@settings(max_examples=FUZZ, deadline=None)
@given(ACTS)
def test_what_a_reviewer_did_last_counts_whatever_the_clock_says(acts):
    rows, log, done, now = curated_rows(1), Log(), [], NOON
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "now", lambda: now)
        panel = review.Panel(rows, reviewer="Ada", decide=log)
        for n, (act, days, is_new) in enumerate(acts):
            now += timedelta(days=days)
            if is_new or act != "undo":  # another session, of whoever comes back to the row
                panel = review.Panel(rows, reviewer="Ada", decide=log, reviews=log.reviews)
                panel._current = "r-0"
            if act == "undo":
                assert panel.undo() == bool(done)
                done = done[:-1]
            else:
                assert panel.edit(edit(n)) if act == "edit" else getattr(panel, act)()
                done.append((act, edit(n) if act == "edit" else OUTPUT))
    verdict = [one for one in done if one[0] != "skip"][-1:]
    row = review.fold(rows, log.reviews[random.Random(0).sample(range(len(log.rows)), len(log.rows))]).row(
        0, named=True
    )
    if not verdict:
        assert (row["approved"], row["needs_review"]) == (False, True)
    else:
        ((act, text),) = verdict
        assert (row["approved"], row["needs_review"], row["output"]) == (act != "reject", False, text)


def test_two_people_who_decide_at_once_lose_nothing(lake):
    rows = curated_rows(6)
    panels = [review.Panel(rows, reviewer=name, decide=lake["reviews"].append) for name in ("Ada", "Grace")]

    def work(panel):
        return [panel.approve() if i % 2 else panel.reject() for i in range(6)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, panels)) == [[True] * 6] * 2
    reviews = lake["reviews"].read()
    assert reviews.group_by("reviewer").len().sort("reviewer").rows() == [("Ada", 6), ("Grace", 6)]
    assert review.fold(rows, reviews)["approved"].to_list() == [False, True] * 3
    again = review.Panel(rows, reviewer="Ada", decide=lake["reviews"].append, reviews=reviews)
    assert again.counts["left"] == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["r-0", "r-1", "r-2", "gone"]),
        st.sampled_from(["Ada", "Grace"]),
        st.sampled_from(tables.DECISIONS),
        st.integers(0, 3),  # seconds: many ties
        st.integers(0, 11),  # what an undo takes back
        st.sampled_from([OUTPUT, "another text", *(edit(i) for i in range(12))]),  # what was shown
    ),
    max_size=12,
)


def made(drawn):
    """Events whose clocks say anything and whose sequence numbers are missing, equal or against the clock."""
    return pl.DataFrame(
        [
            {
                "event_id": f"e{i:02d}", "custom_id": custom_id, "reviewer": who, "decision": decision,
                "labels": ["[]", '["reject"]', None, "reject"][at],
                "edited_output": edit(i) if decision in ("edit", "adjudicate") and i % 2 == 0 else None,
                "shown_sha256": decisions.sha256(shown),
                "asked_sha256": decisions.sha256("input 0") if back % 3 == 0 else None,
                "decided_at": NOON + timedelta(seconds=at), "undoes": f"e{back:02d}" if decision == "undo" else None,
                "seq": None if back % 4 == 0 else at * 1_000_000 + back,
            }
            for i, (custom_id, who, decision, at, back, shown) in enumerate(drawn)
        ],
        schema=decisions.SCHEMA,
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=FUZZ, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_fold_loses_nothing_and_depends_on_no_order(drawn, shuffle, cut):
    before, reviews = curated_rows(3), made(drawn)
    after = review.fold(before, reviews)
    assert after.select("id", "input", "quality_score").equals(before.select("id", "input", "quality_score"))
    assert after.schema == before.schema
    assert after["output"].null_count() == 0
    order = list(range(reviews.height))
    shuffle.shuffle(order)
    assert_frame_equal(review.fold(before, reviews[order]), after)
    assert_frame_equal(review.fold(before, pl.concat([reviews, reviews[order]])), after)
    assert_frame_equal(review.fold(after, reviews), after)
    said = {decisions.sha256(text) for text in reviews["edited_output"].drop_nulls()} | set(reviews["shown_sha256"])
    assert {decisions.sha256(text) for text in after.filter("approved")["output"]} <= said, (
        "nobody saw, or wrote, that text"
    )
    stepwise = review.fold(review.fold(before, reviews[:cut]), reviews)
    assert_frame_equal(stepwise.drop("updated_at"), after.drop("updated_at"))
    assert review.progress(before, reviews)["rows"].sum() == 3


@settings(max_examples=FUZZ, deadline=None)
@given(EVENTS, st.integers(0, 11))
def test_an_undone_event_counts_as_if_it_had_never_been(drawn, i):
    reviews, before = made(drawn), curated_rows(3)
    target = reviews[i : i + 1].filter(pl.col("decision") != "undo")
    undo = target.with_columns(event_id=pl.lit("u"), decision=pl.lit("undo"), undoes="event_id")
    without = reviews.join(target, on="event_id", how="anti")
    assert_frame_equal(review.fold(before, pl.concat([reviews, undo])), review.fold(before, without))


def test_progress_sums_to_all_rows():
    curated = curated_rows(7).with_columns(needs_review=pl.col("id") != "r-4")
    reviews = events(
        {"decision": "approve"}, {"decision": "reject", "custom_id": "r-1"},
        {"decision": "edit", "edited_output": "{}", "custom_id": "r-2"}, {"decision": "skip", "custom_id": "r-3"},
        {"decision": "approve", "custom_id": "r-5", "shown_sha256": decisions.sha256("what it was then")},
        {"decision": "approve", "custom_id": "r-6"}, {"decision": "reject", "custom_id": "r-6", "reviewer": "Grace"},
    )  # fmt: skip
    counts = dict(review.progress(curated, reviews).select("state", "rows").iter_rows())
    assert counts == dict.fromkeys(decisions.STATES, 1) | {"certified": 0}


def test_the_schema_of_events_is_the_contract_of_the_table_reviews():
    contract = {n: c.dtype for n, c in tables.columns_of("reviews").items() if n not in ("run_id", "created_at")}
    assert contract == decisions.SCHEMA
    assert tuple(tables.columns_of("reviews")["decision"].allowed) == tables.DECISIONS
