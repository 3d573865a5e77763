"""The desk of one queue: what it hands out, what it stores, and what it says after."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from toys import NOON, Log, curated_rows
from toys import events as made

from arislab.errors import LakeError
from arislab.lake import Lake
from arislab.review import QueueDesk, decisions, journal
from arislab.review.decisions import sha256


def drawn(n=4, name="q1"):
    """A queue as ``review.queue`` returns it."""
    more = {"why": "kept", "inclusion_prob": 0.25, "queue": name, "model": "toy"}
    return curated_rows(n).with_columns(pl.lit(v).alias(k) for k, v in more.items())


def said(desk, custom_id, decision, *, event_id=None, **more):
    """What the browser says of a decision."""
    row = desk.rows.get(custom_id, {"output": "", "input": ""})
    return {
        "event_id": event_id or f"{decision} {custom_id}", "custom_id": custom_id, "decision": decision,
        "shown_sha256": sha256(row["output"]), "asked_sha256": sha256(row["input"]), "queue": row.get("queue"),
        "labels": "[]", "shown_at": NOON, "decided_at": NOON + timedelta(seconds=2),
    } | more  # fmt: skip


def desk_of(folder, monkeypatch, *, drawn_at=NOON, now=NOON + timedelta(hours=1), **more):
    """A desk whose queue was drawn at a time, an hour ago."""
    monkeypatch.setattr(decisions, "now", lambda: drawn_at)
    desk = QueueDesk(drawn(), folder=folder, **more)
    monkeypatch.setattr(decisions, "now", lambda: now)
    return desk


def ids(rows):
    return [row["custom_id"] for row in rows]


def test_items_are_handed_out_in_order_each_once_and_to_each_reviewer():
    desk = QueueDesk(drawn(5), store=Log())
    assert ids(desk.take("Ada", 2)) == ["r-0", "r-1"]
    assert ids(desk.take("Ada", 2)) == ["r-2", "r-3"]
    assert ids(desk.take("Grace", 9)) == ["r-0", "r-1", "r-2", "r-3", "r-4"]
    assert ids(desk.take("Ada", 9)) == ["r-4"]
    assert desk.take("Ada", 9) == []


def test_a_decision_is_completed_with_what_the_browser_is_never_told(tmp_path, monkeypatch):
    desk = desk_of(tmp_path / "nurses", monkeypatch)
    answer = desk.decide([said(desk, "r-1", "reject", labels='["wrong facts"]')], "Ada")
    assert answer == {"reject r-1": {"revealed": {"score": 0.51, "model": "toy"}}}
    [row] = journal.read(tmp_path).to_dicts()
    known = {
        "reviewer": "Ada",
        "session": "nurses",
        "why": "kept",
        "inclusion_prob": 0.25,
        "queue": "q1",
        "blind": True,
    }
    assert known.items() <= row.items()
    assert row["labels"] == '["wrong facts"]'
    assert row["seq"] == int((NOON + timedelta(seconds=2)).timestamp() * 1e6)


def test_a_decision_that_is_told_again_is_stored_once_and_answered_again():
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    one = said(desk, "r-0", "approve")
    assert desk.decide([one, one], "Ada") == desk.decide([one], "Ada")
    assert len(log.rows) == 1
    again = QueueDesk(drawn(), store=log, reviews=log.reviews)
    assert set(again.decide([one], "Ada")) == {"approve r-0"}
    assert len(log.rows) == 1


def test_after_it_was_decided_score_and_model_are_known_so_the_next_decision_is_not_blind():
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    desk.decide([said(desk, "r-0", "approve")], "Ada")
    desk.decide([said(desk, "r-0", "undo", undoes="approve r-0"), said(desk, "r-0", "reject")], "Ada")
    desk.decide([said(desk, "r-1", "approve", blind=False), said(desk, "r-0", "approve", event_id="g")], "Grace")
    assert [(r["decision"], r["blind"]) for r in log.rows] == [
        ("approve", True), ("undo", False), ("reject", False), ("approve", False), ("approve", True),
    ]  # fmt: skip
    later = QueueDesk(drawn(), store=log, reviews=log.reviews)
    later.decide([said(desk, "r-0", "approve", event_id="once more")], "Ada")
    assert log.rows[-1]["blind"] is False


def test_counts_follow_decisions_skips_flags_and_undos():
    desk = QueueDesk(drawn(4), store=Log())
    zero = {"total": 4, "decided": 0, "skipped": 0, "left": 4}
    assert desk.counts("Ada") == zero
    desk.decide([said(desk, "r-0", "approve"), said(desk, "r-1", "skip"), said(desk, "r-2", "flag")], "Ada")
    assert desk.counts("Ada") == zero | {"decided": 1, "skipped": 1, "left": 2}
    assert desk.counts("Grace") == zero
    desk.decide([said(desk, "r-1", "reject")], "Ada")
    assert desk.counts("Ada") == zero | {"decided": 2, "left": 2}
    desk.decide([said(desk, "r-1", "undo", undoes="reject r-1")], "Ada")
    assert desk.counts("Ada") == zero | {"decided": 1, "skipped": 1, "left": 2}, "the skip before it counts again"


def test_what_was_decided_of_a_row_as_it_reads_now_is_not_handed_out_again():
    rows = drawn(4)
    old = [
        {"custom_id": "r-0", "decision": "approve"},
        {"custom_id": "r-1", "decision": "approve", "shown_sha256": sha256("another text")},
        {"custom_id": "r-2", "decision": "approve", "reviewer": "Grace"},
        {"custom_id": "r-3", "decision": "skip"},
    ]
    desk = QueueDesk(rows, store=Log(), reviews=made(*old))
    assert ids(desk.take("Ada", 9)) == ["r-1", "r-2"]
    assert desk.counts("Ada") == {"total": 4, "decided": 1, "skipped": 1, "left": 2}


def test_a_decision_goes_after_all_that_its_queue_was_drawn_by_and_never_into_the_future():
    log, soon = Log(), datetime.now(UTC) + timedelta(days=1)
    reviews = made({"decision": "approve", "reviewer": "Grace", "seq": 5}, {"decision": "skip", "decided_at": soon})
    desk = QueueDesk(drawn(), store=log, reviews=reviews)
    desk.decide([said(desk, "r-0", "approve"), said(desk, "r-1", "approve", decided_at=soon)], "Ada")
    newest = int(soon.timestamp() * 1e6)
    assert [row["seq"] for row in log.rows] == [newest + 1, newest + 2]
    assert log.rows[1]["decided_at"] < soon
    desk.decide([said(desk, "r-2", "approve", queue="of yesterday")], "Grace")
    assert log.rows[-1]["seq"] == int((NOON + timedelta(seconds=2)).timestamp() * 1e6), "it was decided before"


def test_what_arrives_late_at_another_kernel_is_completed_from_the_draw_that_showed_it(tmp_path):
    folder = tmp_path / "s"
    first = QueueDesk(drawn(2), folder=folder)
    late = said(first, "r-1", "approve")
    other = drawn(2, name="q2").with_columns(custom_id=pl.lit("x-") + pl.col("custom_id"), inclusion_prob=pl.lit(0.5))
    second = QueueDesk(other, folder=folder)
    evil = said(first, "r-0", "approve", queue="../../draws/q1")
    unknown = said(first, "r-0", "skip", queue="q9")
    second.decide([late, evil, unknown], "Ada")
    rows = journal.read(folder)
    assert rows["inclusion_prob"].to_list() == [0.25, None, None]
    assert rows["queue"].to_list() == ["q1", "../../draws/q1", "q9"]
    assert second.counts("Ada")["decided"] == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LakeError("reviews is locked")])
def test_what_could_not_be_stored_is_not_counted_and_can_be_told_again(error):
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    log.error = error
    one = said(desk, "r-0", "approve")
    with pytest.raises(type(error)):
        desk.decide([one], "Ada")
    assert desk.counts("Ada")["left"] == 4
    log.error = None
    desk.decide([one], "Ada")
    assert log.rows[0]["blind"], "nothing was told of it before"


def test_decisions_of_two_kernels_are_folded_into_the_lake_each_once(tmp_path):
    lake = Lake(tmp_path / "lake")
    one, two = (QueueDesk(drawn(), folder=lake.review / "s") for _ in range(2))
    both = said(one, "r-0", "approve")
    one.decide([both], "Ada")
    two.decide([both, said(two, "r-1", "skip")], "Ada")
    assert journal.fold(lake.review, lake["reviews"]) == 2
    assert lake["reviews"].read().sort("custom_id")["decision"].to_list() == ["approve", "skip"]


@pytest.mark.parametrize("decision", ["flag", "skip", "label", "undo"])
def test_what_judges_nothing_tells_nothing_so_the_verdict_after_it_is_blind(decision):
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    assert desk.decide([said(desk, "r-0", decision, undoes="no event")], "Ada") == {f"{decision} r-0": {"revealed": {}}}
    desk.decide([said(desk, "r-0", "approve")], "Ada")
    assert [row["blind"] for row in log.rows] == [True, True]


def test_a_verdict_that_was_taken_back_is_known_to_its_reviewer_after_a_restart_too():
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    desk.decide([said(desk, "r-0", "approve"), said(desk, "r-0", "undo", undoes="approve r-0")], "Ada")
    again = QueueDesk(drawn(), store=log, reviews=log.reviews)
    again.decide([said(desk, "r-0", "reject")], "Ada")
    assert log.rows[-1]["blind"] is False, "score and model were told after the approval"


def test_an_older_decision_that_comes_late_from_another_browser_does_not_beat_a_newer_one():
    log = Log()
    desk = QueueDesk(drawn(), store=log)
    newer = said(desk, "r-0", "reject", stream="office", client_seq=7, decided_at=NOON + timedelta(minutes=9))
    late = said(desk, "r-0", "approve", stream="train", client_seq=400)
    desk.decide([newer], "Ada")
    desk.decide([late], "Ada")
    assert decisions.live(log.reviews)["decision"].to_list() == ["approve", "reject"]
    back = NOON + timedelta(minutes=8)  # the clock of one browser was set back
    desk.decide([said(desk, "r-0", "edit", edited_output="x", stream="office", client_seq=8, decided_at=back)], "Ada")
    assert decisions.live(log.reviews)["decision"].to_list() == ["approve", "reject", "edit"]
    resent = said(desk, "r-1", "skip", stream="office", client_seq=6, decided_at=NOON + timedelta(minutes=7))
    desk.decide([resent], "Ada")
    assert log.rows[-1]["seq"] == int((NOON + timedelta(minutes=7)).timestamp() * 1e6), "it was decided before these"


def test_nothing_was_shown_before_its_queue_was_drawn_whatever_a_slow_clock_says(tmp_path, monkeypatch):
    desk = desk_of(tmp_path / "s", monkeypatch)
    slow = {"shown_at": NOON - timedelta(days=400), "decided_at": NOON - timedelta(days=399)}
    desk.decide([said(desk, "r-0", "approve", **slow)], "Ada")
    other = drawn(2, name="q2").with_columns(custom_id=pl.lit("x-") + pl.col("custom_id"))
    QueueDesk(other, folder=tmp_path / "s").decide([said(desk, "r-1", "approve", **slow)], "Ada")
    later = desk_of(tmp_path / "s", monkeypatch, drawn_at=NOON + timedelta(minutes=30))  # the same draw, shown again
    later.decide([said(desk, "r-2", "approve")], "Ada")
    rows = journal.read(tmp_path).sort("custom_id")
    assert rows["shown_at"].to_list() == [NOON] * 3
    assert rows["decided_at"].to_list() == [NOON, NOON, NOON + timedelta(seconds=2)]


def test_an_undo_that_is_stored_before_its_event_takes_it_back_all_the_same():
    desk = QueueDesk(drawn(), store=Log())
    desk.decide([said(desk, "r-0", "undo", undoes="approve r-0")], "Ada")
    desk.decide([said(desk, "r-0", "approve")], "Ada")
    assert desk.counts("Ada")["left"] == 4
    assert desk.trail("Ada") == []


def test_the_trail_holds_what_can_be_taken_back_in_this_session_alone(tmp_path, monkeypatch):
    reviews = made(
        {"custom_id": "r-1", "decision": "approve", "session": "another", "queue": "q0"},
        {"custom_id": "z-1", "decision": "approve", "session": "another"},
        {"custom_id": "z-2", "decision": "skip", "session": "s"},
        {"custom_id": "z-3", "decision": "skip", "session": "s", "reviewer": "Grace"},
    )
    desk = desk_of(tmp_path / "s", monkeypatch, reviews=reviews)
    desk.decide([said(desk, "r-0", "reject"), said(desk, "r-3", "flag")], "Ada")
    desk.decide([said(desk, "r-3", "undo", undoes="flag r-3")], "Ada")
    assert [(e["custom_id"], e["decision"], e["queue"]) for e in desk.trail("Ada")] == [
        ("r-1", "approve", "q0"), ("z-2", "skip", None), ("r-0", "reject", "q1"),
    ]  # fmt: skip
    assert ids([desk.row("r-2"), desk.row("r-2", "q0")]) == ["r-2", "r-2"]
    assert desk.row("z-2") is None
