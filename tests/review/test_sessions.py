"""Sessions of several reviewers: nothing is handed out too often, nothing is lost, nobody is told too early."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from toys import FUZZ, NOON, curated_rows

from arislab import curate
from arislab.errors import LakeError, ParameterError
from arislab.review import decisions, journal, sessions
from arislab.review.decisions import SCHEMA, sha256
from arislab.task import load

PLAIN = sessions.Settings(seed=1, overlap=0, gold=0, repeats=0)
SECRETS = {"quality_score": 0.8125, "model": "model-7b-secret", "why": "near the cut", "inclusion_prob": 0.34375}


def queue(n=20, name="q1", **more):
    told = SECRETS | {"queue": name, "stale": "reject", "stale_by": "Hidden Reviewer", "score_rules": 0.71875} | more
    rows = curated_rows(
        n, metadata=json.dumps({"company": "Acme", "quality_score": 0.8125, "model": "model-7b-secret"})
    )
    return rows.with_columns(pl.lit(value).alias(column) for column, value in told.items())


def started(folder, how=PLAIN, *, n=20, gold=None, **more):
    sessions.start(folder / "nurses", queue(n), how, gold=gold)
    return sessions.Session(folder / "nurses", **more)


def said(row, decision="approve", **more):
    """What a browser says of a decision on a row that it was handed."""
    return {
        "event_id": f"{random.getrandbits(64):016x}", "custom_id": row["custom_id"], "decision": decision,
        "shown_sha256": sha256(row["output"]), "asked_sha256": sha256(row["input"]), "queue": row["queue"],
        "labels": "[]", "shown_at": NOON, "decided_at": NOON + timedelta(seconds=2),
    } | more  # fmt: skip


def ids(rows):
    return [row["custom_id"] for row in rows]


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


# ---- leases ----------------------------------------------------------------------------------------------------------


def test_an_item_is_held_by_one_until_the_lease_ends(tmp_path, clock):
    desk = started(tmp_path, clock=clock)
    of_ada = desk.take("Ada", 15)
    assert len(desk.take("Grace", 99)) == 5
    assert desk.take("Ada", 99) == []
    clock.now += 599
    assert desk.take("Alan", 99) == []
    desk.decide([said(of_ada[0])], "Ada")
    clock.now += 2
    assert len(desk.take("Alan", 99)) == 5, "Ada gave a sign of life, Grace none"
    clock.now += 600
    taken = desk.take("Edsger", 99)
    assert sorted(ids(taken)) == sorted({f"r-{i}" for i in range(20)} - {of_ada[0]["custom_id"]}), "one is decided"


def test_a_share_is_judged_by_two_and_nobody_gets_it_twice(tmp_path):
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=0.25, gold=0, repeats=0))
    taken = {name: ids(desk.take(name, 99)) for name in ("Ada", "Grace", "Alan")}
    assert [len(names) for names in taken.values()] == [20, 5, 0]
    assert set(taken["Grace"]) < set(taken["Ada"])
    assert len(set(taken["Ada"])) == 20


def test_each_reviewer_has_an_order_of_their_own_that_the_seed_fixes(tmp_path):
    both = sessions.Settings(seed=1, overlap=1, gold=0, repeats=0)
    first, second = (started(tmp_path / name, both) for name in ("a", "b"))
    assert ids(first.take("Ada", 20)) == ids(second.take("Ada", 20)) != ids(first.take("Grace", 20))


def test_another_page_of_a_reviewer_goes_on_with_what_they_hold(tmp_path):
    desk = started(tmp_path)
    held = desk.take("Ada", 6)
    desk.decide([said(held[2]), said(held[4], "skip")], "Ada")
    desk.close()
    again = sessions.Session(tmp_path / "nurses")
    assert ids(again.take("Ada", 4)) == ids(held[:2] + held[3:4] + held[5:])
    assert again.counts("Ada") == {"decided": 1, "skipped": 1, "left": 18, "total": 20}
    assert set(ids(again.take("Ada", 99))).isdisjoint(ids(held))


def test_what_is_undone_is_held_again_and_what_is_skipped_is_for_others(tmp_path):
    desk = started(tmp_path, n=2)
    one, two = desk.take("Ada", 2)
    verdict = said(one)
    desk.decide([verdict, said(two, "skip")], "Ada")
    assert ids(desk.take("Grace", 9)) == ids([two])
    desk.decide([said(one, "undo", undoes=verdict["event_id"])], "Ada")
    assert desk.take("Alan", 9) == []
    assert desk.counts("Ada") == {"decided": 0, "skipped": 1, "left": 1, "total": 2}
    assert ids(sessions.Session(tmp_path / "nurses").take("Ada", 9)) == ids([one])


def test_a_late_decision_is_one_more_opinion_and_stored_once(tmp_path, clock):
    desk = started(tmp_path, n=1, clock=clock)
    (item,) = desk.take("Ada", 1)
    clock.now += 601
    assert ids(desk.take("Grace", 1)) == ["r-0"]
    late = said(item, "reject")
    for _ in range(3):
        assert desk.decide([late], "Ada")[late["event_id"]]["revealed"]["others"] == []
    desk.decide([said(item)], "Grace")
    events = journal.read(tmp_path).sort("reviewer")
    assert events.select("reviewer", "decision").rows() == [("Ada", "reject"), ("Grace", "approve")]
    clock.now += 601
    assert desk.take("Alan", 1) == []


def test_the_index_is_built_again_from_journals_and_draws(tmp_path):
    desk = started(tmp_path)
    desk.decide([said(row) for row in desk.take("Ada", 7)], "Ada")
    desk.close()
    (tmp_path / "nurses" / "leases.sqlite").unlink()
    assert len(sessions.Session(tmp_path / "nurses").take("Grace", 99)) == 13
    (tmp_path / "nurses" / "leases.sqlite").write_bytes(b"no database" * 999)
    with pytest.raises(LakeError, match=r"leases\.sqlite cannot be used .*remove it: it is built again"):
        sessions.Session(tmp_path / "nurses")


def test_decisions_that_no_journal_has_any_more_are_known_from_the_lake(tmp_path, lake):
    desk = started(tmp_path)
    desk.decide([said(row) for row in desk.take("Ada", 7)], "Ada")
    desk.close()
    assert journal.fold(tmp_path / "nurses", lake["reviews"]) == 7
    assert not [*(tmp_path / "nurses").glob("*.jsonl")]
    (tmp_path / "nurses" / "leases.sqlite").unlink()
    again = sessions.Session(tmp_path / "nurses", reviews=lake["reviews"].read)
    assert len(again.take("Grace", 99)) == 13


KILLED = """
import os, signal, sys, json
from pathlib import Path
from arislab.review import sessions
sys.path.insert(0, sys.argv[2])
from review.test_sessions import said
desk = sessions.Session(Path(sys.argv[1]))
rows = desk.take("Ada", 8)
desk.decide([said(row) for row in rows[:3]], "Ada")
desk._leases.note = lambda events: os.kill(os.getpid(), signal.SIGKILL)
desk.decide([said(rows[3])], "Ada")
"""


def test_what_a_killed_process_held_is_free_again_and_what_it_stored_is_not(tmp_path, clock):
    started(tmp_path).close()
    tests = str(Path(__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": tests}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "nurses"), tests], check=False, env=env)
    assert done.returncode == -signal.SIGKILL
    clock.now = time.time()
    desk = sessions.Session(tmp_path / "nurses", clock=clock)
    assert len(desk.take("Grace", 99)) == 12, "Ada holds four and decided four, the last of which no index knew"
    clock.now += 601
    assert len(desk.take("Alan", 99)) == 16
    assert journal.read(tmp_path).height == 4


def test_what_a_killed_process_stored_is_not_handed_out_again_by_the_next(tmp_path):
    first = started(tmp_path, n=4)
    one, two, *rest = first.take("Ada", 4)
    first._leases.note = lambda events: None  # killed between the journal and the index
    first.decide([said(one)], "Ada")
    again = sessions.Session(tmp_path / "nurses")
    assert ids(again.take("Ada", 9)) == ids([two, *rest])
    assert again.counts("Ada") == {"decided": 1, "skipped": 0, "left": 3, "total": 4}


def test_a_row_that_was_skipped_and_is_drawn_again_leaves_the_places_of_the_first_draw_as_they_were(tmp_path):
    how = sessions.Settings(seed=4, overlap=0.5, gold=0, repeats=0)
    desk = started(tmp_path, how, n=10)
    before = desk._places()
    (row, *others) = desk.take("Ada", 10)
    desk.decide([said(row, "skip"), *(said(other) for other in others)], "Ada")
    desk.decide([said(other) for other in desk.take("Grace", 10) if other["custom_id"] != row["custom_id"]], "Grace")
    again = queue(10, name="q2").filter(pl.col("custom_id") == row["custom_id"])
    sessions.start(tmp_path / "nurses", again, how)
    desk.learn()
    after = desk._places()
    assert {name: k for name, k in after.items() if name != row["custom_id"]} == {
        name: k for name, k in before.items() if name != row["custom_id"]
    }


WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from review.test_sessions import said
from arislab.review import sessions
desk, name, n = sessions.Session(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
while n > 0 and (rows := desk.take(name, min(n, 5))):
    for row in rows:
        print(row["custom_id"], flush=False)
        desk.decide([said(row)], name)
    n -= len(rows)
"""


def work(folder, names, each):
    """Processes that decide at once; returns what each of them was handed."""
    tests = str(Path(__file__).parent.parent)

    def one(name):
        command = [sys.executable, "-c", WORK, str(folder), name, str(each), tests]
        env = os.environ | {"PYTHONPATH": tests}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()

    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


@pytest.mark.slow
def test_eight_at_once_with_500_each_are_handed_nothing_beyond_its_k_and_lose_nothing(tmp_path):
    sessions.start(tmp_path / "nurses", queue(3_400), sessions.Settings(seed=1, overlap=0.2, gold=0, repeats=0))
    names = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Radia", "Tony"]
    handed = work(tmp_path / "nurses", names, 500)
    assert {name: (len(ids), len(set(ids))) for name, ids in handed.items()} == dict.fromkeys(names, (500, 500))
    assert journal.read(tmp_path / "nurses").height == 4_000
    rest = sessions.Session(tmp_path / "nurses")
    for name in [*names, "Leslie"]:
        rest.decide([said(row) for row in rest.take(name, 99)], name)
    events = journal.read(tmp_path / "nurses")
    assert events.height == 4_080
    assert sorted(events.group_by("custom_id").len()["len"]) == [1] * 2_720 + [2] * 680


def test_counts_that_are_carried_along_are_those_that_are_counted_anew(tmp_path):
    sessions.start(tmp_path / "s", queue(40), sessions.Settings(seed=2, overlap=0.4, gold=0, repeats=0.2))
    desk, draw, made, held = sessions.Session(tmp_path / "s"), random.Random(3), {"Ada": [], "Bo": []}, {}
    for _ in range(400):
        name = draw.choice(["Ada", "Bo"])
        if not held.get(name):
            held[name] = desk.take(name, 4)
        if not held[name]:
            continue
        decision = draw.choice(["approve", "approve", "reject", "skip", "flag", "again", "undo", "two"])
        row = held[name][0]
        events = [said(row, decision)]
        if decision in ("again", "undo") and not made[name]:
            continue
        if decision == "again":  # about what was decided before
            events = [said(draw.choice(made[name])[0], "reject")]
        elif decision == "undo":
            row, event = made[name].pop()
            events = [said(row, "undo", undoes=event["event_id"])]
        elif decision == "two":
            events = [said(row, "skip"), said(row, "approve")]
        if decision not in ("again", "undo", "flag"):
            made[name].append((held[name].pop(0), events[-1]))
        desk.decide(events, name)
        for one in ("Ada", "Bo"):
            assert desk.counts(one) == desk._leases.counts(one), decision


# ---- what is taken back, comes late or comes twice -------------------------------------------------------------------

REPEATED = sessions.Settings(seed=1, overlap=0, gold=0, repeats=1)


def repeated(desk):
    """Ada's verdict on an item, and the item as it was planted once more."""
    seen, event = {}, {}
    while True:
        for row in desk.take("Ada", 1):
            if row["custom_id"] in seen:
                return event[row["custom_id"]], row
            event[row["custom_id"]] = said(row)
            seen[row["custom_id"]] = row
            desk.decide([event[row["custom_id"]]], "Ada")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_verdict_on_a_repeat_of_what_was_taken_back_is_the_verdict(tmp_path, at_once):
    """A correction that counted as planted settled nothing: the row trained on without the reviewer's rejection."""
    desk = started(tmp_path, REPEATED, n=40)
    event, again = repeated(desk)
    batch = [said(again, "undo", undoes=event["event_id"]), said(again, "reject")]
    for events in [batch] if at_once else [[one] for one in batch]:
        desk.decide(events, "Ada")
    events = journal.read(tmp_path)
    of_row = decisions.verdicts_by_row(events)[again["custom_id"]]
    assert [one["decision"] for one in of_row] == ["reject"]
    last = events.filter(event_id=batch[1]["event_id"]).select("planted", "queue", "inclusion_prob")
    assert last.rows() == [(None, "q1", 0.34375)], "it weighs as what was drawn does"
    assert again["custom_id"] not in {name for name, _ in desk._leases.held("Ada")}, "it is not asked for again"


def test_a_verdict_on_a_repeat_of_what_stands_is_planted(tmp_path):
    desk = started(tmp_path, REPEATED, n=40)
    _, again = repeated(desk)
    desk.decide([said(again, "reject")], "Ada")
    assert journal.read(tmp_path).filter(planted="repeat")["decision"].to_list() == ["reject"]


@pytest.fixture
def at_noon(monkeypatch):
    """It is noon, and what is handed out was drawn in the morning."""
    monkeypatch.setattr(decisions, "now", lambda: NOON - timedelta(hours=4))
    return lambda: monkeypatch.setattr(decisions, "now", lambda: NOON + timedelta(minutes=1))


def last_verdict(folder):
    (of_row,) = decisions.verdicts_by_row(journal.read(folder)).values()
    return of_row[-1]["decision"]


def test_what_another_browser_could_not_send_for_hours_does_not_undo_what_was_decided_since(tmp_path, at_noon, clock):
    """The older of two verdicts of one person won, if their other browser was offline when they made it."""
    desk = started(tmp_path, n=1, clock=clock)
    at_noon()
    (row,) = desk.take("Ada", 1)
    late = {"shown_at": NOON - timedelta(hours=2), "decided_at": NOON - timedelta(hours=2)}
    desk.decide([said(row, "reject", client_seq=7)], "Ada")
    desk.decide([said(row, "approve", client_seq=7) | late], "Ada")
    assert last_verdict(tmp_path) == "reject"


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_of_one_browser_the_later_verdict_counts_though_its_clock_was_set_back(
    tmp_path, at_once, is_restarted, at_noon, clock
):
    desk = started(tmp_path, n=1, clock=clock)
    at_noon()
    (row,) = desk.take("Ada", 1)
    back = {"decided_at": NOON - timedelta(hours=2)}
    batch = [said(row, "reject", client_seq=8) | back, said(row, "approve", client_seq=7)]
    if at_once:
        desk.decide(batch, "Ada")
    else:
        desk.decide(batch[1:], "Ada")
        if is_restarted:
            desk.close()
            desk = sessions.Session(tmp_path / "nurses", clock=clock)
        desk.decide(batch[:1], "Ada")
    assert last_verdict(tmp_path) == "reject"


def test_what_another_process_reads_in_the_journal_first_is_not_asked_for_again(tmp_path, monkeypatch):
    """Who decided while another page was being opened was shown the same item once more."""
    desk = started(tmp_path, n=1)
    (row,) = desk.take("Ada", 1)
    append = journal.Journal.append

    def overtaken(self, events):
        append(self, events)
        sessions.Session(tmp_path / "nurses").close()

    monkeypatch.setattr(journal.Journal, "append", overtaken)
    desk.decide([said(row)], "Ada")
    assert sessions.Session(tmp_path / "nurses").take("Ada", 9) == []


def test_nothing_is_held_for_nobody_and_nothing_is_stored_unsigned(tmp_path):
    """A page on which nobody had entered a name yet held half of the session for ten minutes."""
    desk = started(tmp_path)
    assert desk.take("", 50) == []
    (row,) = desk.take("Ada", 1)
    with pytest.raises(ParameterError, match="no reviewer; enter your name first"):
        desk.decide([said(row)], "")
    assert len(desk.take("Grace", 99)) == 19


def test_a_skip_that_is_taken_back_holds_nothing_that_somebody_else_holds_by_now(tmp_path):
    """Two people were asked for one item of which one opinion is wanted."""
    desk = started(tmp_path, n=1)
    (row,) = desk.take("Ada", 1)
    skip = said(row, "skip")
    desk.decide([skip], "Ada")
    assert len(desk.take("Grace", 1)) == 1
    desk.decide([said(row, "undo", undoes=skip["event_id"])], "Ada")
    assert (desk._leases.held("Ada"), desk._leases.held("Grace")) == ([], [("r-0", "")])


def test_what_can_be_taken_back_is_known_to_a_page_that_is_opened_again(tmp_path):
    """After a reload of the page nothing could be undone any more."""
    gold = queue(3, "gold").with_columns(custom_id=pl.format("g-{}", "id"))
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=1, gold=1, repeats=0), gold=gold)
    rows = desk.take("Ada", 2)
    made = [said(rows[0]), said(rows[1], "flag"), said(rows[1], "reject"), said(rows[2], "skip")]
    desk.decide(made, "Ada")
    desk.decide([said(rows[1], "undo", undoes=made[2]["event_id"])], "Ada")
    desk.decide([said(desk.take("Grace", 1)[0])], "Grace")
    desk.close()
    (tmp_path / "nurses" / "leases.sqlite").unlink()
    again = sessions.Session(tmp_path / "nurses")
    names = ("event_id", "custom_id", "decision", "queue")
    assert again.trail("Ada") == [{name: event[name] for name in names} for event in (made[0], made[1], made[3])]
    assert rows[0]["custom_id"].startswith("g-"), "one of them was planted, under its own name"
    assert again.trail("Edsger") == []


def test_an_item_that_another_page_handed_out_is_known_as_it_was_shown(tmp_path):
    """An edit that came late, after the lease, was stored unchecked: JSON could be broken by it."""
    desk = started(tmp_path, REPEATED, n=40)
    _, planted = repeated(desk)
    desk.close()
    page = sessions.Session(tmp_path / "nurses", reviewer="Grace")
    (row,) = page.take("Grace", 1)
    assert page.row(row["custom_id"]) == row
    ada = sessions.Session(tmp_path / "nurses", reviewer="Ada")
    assert ada.row(planted["custom_id"], planted["queue"]) == planted
    assert ada.row(planted["custom_id"])["queue"] not in (planted["queue"], None)
    assert sessions.Session(tmp_path / "nurses").row("r-0") | {"queue": "q"} == ada.row("r-0", "q")
    assert ada.row("elsewhere") is None
    assert not {*sessions.BLIND} & ada.row("r-0").keys()


def test_a_slow_clock_makes_no_item_older_than_its_draw_and_no_decision_shorter(tmp_path, at_noon):
    """The labels of everybody were lost: the queue seemed to be drawn before its rows were there."""
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=1, gold=0, repeats=0), n=3)
    clock = Clock()
    clock.now = (NOON - timedelta(hours=1)).timestamp()
    page = sessions.Session(tmp_path / "nurses", clock=clock)
    rows = page.take("Ada", 3)
    at_noon()
    slow = {"shown_at": NOON - timedelta(hours=9), "decided_at": NOON - timedelta(hours=9) + timedelta(seconds=5)}
    desk.decide([said(rows[0]) | slow], "Ada")
    (tmp_path / "nurses" / "leases.sqlite").unlink()
    later = sessions.Session(tmp_path / "nurses", clock=clock)
    later.decide([said(rows[1]) | slow, said(rows[2])], "Ada")
    stored = journal.read(tmp_path).select("custom_id", "shown_at", "decided_at").rows()
    times = {name: pair for name, *pair in stored}
    seconds = timedelta(seconds=5)
    handed, drawn = NOON - timedelta(hours=1), NOON - timedelta(hours=4)
    assert times[rows[0]["custom_id"]] == [handed, handed + seconds]
    assert times[rows[1]["custom_id"]] == [drawn, drawn + seconds], "the index that knew when it was handed out is gone"
    assert times[rows[2]["custom_id"]] == [NOON, NOON + timedelta(seconds=2)], "what can be is left alone"


def test_a_small_session_has_repeats_though_a_browser_takes_all_of_it_at_once(tmp_path):
    """Of a session of up to fifty items nobody could be told how far they agree with themselves."""
    desk = started(tmp_path, REPEATED, n=30)
    rows = desk.take("Ada", 50)
    order = ids(rows)
    repeats = [name for name in dict.fromkeys(order) if order.count(name) == 2]
    assert len(repeats) == 19, "from the twelfth on each item, but for the ten last ones"
    assert min(len(order) - order[::-1].index(n) - 1 - order.index(n) for n in repeats) > 10
    assert len({row["queue"] for row in rows}) == len(rows) == 49
    desk.decide([said(row) for row in rows], "Ada")
    assert sorted(journal.read(tmp_path).filter(planted="repeat")["custom_id"]) == sorted(repeats)
    assert (desk.take("Ada", 50), desk.counts("Ada")["left"]) == ([], 0)


# ---- what nobody is told ---------------------------------------------------------------------------------------------


def test_nothing_that_would_bias_a_reviewer_is_in_what_is_handed_out(tmp_path):
    how = sessions.Settings(seed=1, overlap=0.5, gold=0.2, repeats=0.2)
    desk = started(tmp_path, how, n=60, gold=queue(5, "gold").with_columns(custom_id=pl.format("g-{}", "id")))
    rows = []
    for _ in range(12):
        rows += desk.take("Ada", 6)
        desk.decide([said(row) for row in rows[-6:]], "Ada")
    text = json.dumps(rows, default=str)
    assert not [
        value for value in ("0.8125", "7b-secret", "near the cut", "0.34375", "Hidden", "0.71875") if value in text
    ]
    assert {name for row in rows for name in row} & {*sessions.BLIND} == set()
    assert len({row["queue"] for row in rows}) == len(rows), "no name tells what is planted"
    planted = journal.read(tmp_path)["planted"].value_counts().rows()
    assert {name for name, _ in planted} == {None, "gold", "repeat"}


def test_gold_looks_like_what_was_drawn(tmp_path):
    """Gold had its id as title and no company: whoever saw that knew what was a test, and judged it with more care."""
    task = load("candidate_evaluation")
    facts = [
        {"title": title, "company": f"Acme {i}", "category": "Care", "difficulty": 0.5, "quality": 0.8125}
        for i, title in enumerate(["Nurse", "Web Developer", "Statistician", "Nurse"] * 5)
    ]
    drawn = queue().with_columns(metadata=pl.Series([json.dumps(one) for one in facts]))
    how = sessions.Settings(seed=1, overlap=0, gold=1, repeats=0)
    sessions.start(tmp_path / "nurses", drawn, how, gold=curate.known(task))
    desk = sessions.Session(tmp_path / "nurses")
    rows = desk.take("Ada", 20)
    shown = {row["custom_id"]: json.loads(row["metadata"]) for row in rows}
    assert len(shown) == 20 + len(task.gold) + len(task.bad)
    assert {tuple(one) for one in shown.values()} == {("title", "company", "category", "difficulty")}
    gold = {row["custom_id"]: row["input"] for row in rows if row["custom_id"] in desk.gold["custom_id"].to_list()}
    developers = [shown[name]["company"] for name, text in gold.items() if "Web Developer" in text]
    assert {int(name.split()[1]) % 4 for name in developers} == {1}, "the facts are those of a row of the same title"
    assert all(shown[name]["title"] in text for name, text in gold.items()), "what is known of it stands"


def test_score_model_and_the_opinions_of_others_come_with_the_acknowledgement(tmp_path):
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=1, gold=0, repeats=0), n=1)
    (of_ada,), (of_grace,) = desk.take("Ada", 1), desk.take("Grace", 1)
    first, second, third = said(of_ada, "reject"), said(of_grace), said(of_ada, "flag")
    assert desk.decide([third], "Ada") == {third["event_id"]: {"revealed": {}}}
    told = {"score": 0.8125, "model": "model-7b-secret", "others": []}
    assert desk.decide([first], "Ada") == {first["event_id"]: {"revealed": told}}
    answer = desk.decide([second], "Grace")[second["event_id"]]["revealed"]
    assert answer == told | {"others": ["reject"]}
    again = said(of_ada)
    desk.decide([said(of_ada, "undo", undoes=first["event_id"]), again], "Ada")
    blind = dict(journal.read(tmp_path).select("event_id", "blind").iter_rows())
    assert [blind[e["event_id"]] for e in (third, first, second, again)] == [True, True, True, False]


def test_what_was_told_in_another_session_is_not_blind_in_this(tmp_path):
    desk = started(tmp_path)
    (row,) = desk.take("Ada", 1)
    seen = pl.DataFrame([said(row) | {"reviewer": "Ada", "session": "before"}], schema=SCHEMA)
    again = sessions.Session(tmp_path / "nurses", reviews=lambda: seen)
    again.decide([said(row)], "Ada")
    again.decide([said(row)], "Grace")
    assert dict(journal.read(tmp_path).select("reviewer", "blind").iter_rows()) == {"Ada": False, "Grace": True}


def test_an_event_is_completed_from_its_draw_unless_it_was_planted(tmp_path):
    gold = queue(3, "gold").with_columns(custom_id=pl.format("g-{}", "id"))
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=0, gold=1, repeats=0), gold=gold)
    for row in desk.take("Ada", 3):
        desk.decide([said(row)], "Ada")
    rows = journal.read(tmp_path).select("custom_id", "planted", "why", "inclusion_prob", "queue", "session").rows()
    drawn = {row[1:] for row in rows if row[0].startswith("r-")}
    planted = {row[1:] for row in rows if row[0].startswith("g-")}
    assert drawn == {(None, "near the cut", 0.34375, "q1", "nurses")}
    assert planted == {("gold", None, None, None, "nurses")}
    stray = said({"custom_id": "elsewhere", "output": "A", "input": "Q", "queue": "none"})
    desk.decide([stray], "Ada")
    assert journal.read(tmp_path).filter(custom_id="elsewhere")["inclusion_prob"].to_list() == [None]


def test_a_repeat_is_an_own_item_once_more_and_takes_nobodys_place(tmp_path):
    desk = started(tmp_path, sessions.Settings(seed=1, overlap=0, gold=0, repeats=1), n=40)
    order = []
    while rows := desk.take("Ada", 1):
        order += ids(rows)
        desk.decide([said(row) for row in rows], "Ada")
    repeats = journal.read(tmp_path).filter(planted="repeat")["custom_id"].to_list()
    assert len(repeats) == len(set(repeats)) == 29, "from the twelfth on each item, but for the ten last ones"
    assert sorted(order) == sorted([*(f"r-{i}" for i in range(40)), *repeats])
    assert desk.counts("Ada") == {"decided": 69, "skipped": 0, "left": 0, "total": 69}
    assert min(len(order) - order[::-1].index(n) - 1 - order.index(n) for n in repeats) >= 10


def test_a_decision_that_could_not_be_stored_is_still_blind_and_still_held(tmp_path, monkeypatch):
    desk = started(tmp_path, n=1)
    (row,) = desk.take("Ada", 1)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fdatasync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            desk.decide([said(row)], "Ada")
    assert desk.take("Grace", 1) == []
    desk.decide([said(row)], "Ada")
    assert journal.read(tmp_path).select("reviewer", "blind").rows() == [("Ada", True)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("overlap", 15, r"overlap must be in \[0, 1\], got 15"), ("gold", -1, "gold must"), ("repeats", 2, "repeats must"),
     ("k", 0, "k must be at least 1, got 0"), ("lease_s", 0, "lease_s must be above 0, got 0")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, value, message):
    with pytest.raises(ParameterError, match=message):
        sessions.Settings(seed=1, **{name: value})


def test_a_folder_without_a_session_and_a_queue_without_a_column_are_refused(tmp_path):
    with pytest.raises(LakeError, match="no review session in"):
        sessions.Session(tmp_path)
    with pytest.raises(ParameterError, match="no column 'queue'"):
        sessions.start(tmp_path / "s", queue().drop("queue"), PLAIN)


def test_a_session_that_is_started_again_keeps_its_settings_and_gets_the_new_queue(tmp_path):
    started(tmp_path).close()
    more = queue(25, "q2").filter(pl.col("custom_id").str.tail(2).is_in([f"{i}" for i in range(20, 25)]))
    sessions.start(tmp_path / "nurses", more, sessions.Settings(seed=9))
    desk = sessions.Session(tmp_path / "nurses")
    assert desk.settings == PLAIN
    assert len(desk.take("Ada", 99)) == 25


# ---- any order of all of it ------------------------------------------------------------------------------------------

PEOPLE = st.sampled_from(["Ada", "Grace", "Alan"])


class Office(RuleBasedStateMachine):
    """Reviewers who take, decide, undo, reload, leave and come late, against a model of who may hold what."""

    @initialize(overlap=st.sampled_from([0.0, 0.5, 1.0]))
    def open(self, overlap):
        self.home = tempfile.TemporaryDirectory()
        folder = Path(self.home.name) / "s"
        how = sessions.Settings(seed=3, overlap=overlap, gold=0, repeats=0)
        sessions.start(folder, queue(8), how)
        self.clock, self.folder = Clock(), folder
        self.desk = sessions.Session(folder, clock=self.clock)
        self.k = self.desk._places()
        self.until, self.browser, self.verdicts, self.sent = {}, {}, {}, []

    def takers(self, item, but):
        held = {who for (name, who), until in self.until.items() if name == item and until > self.clock.now}
        return (held | {who for (name, who), made in self.verdicts.items() if name == item and made}) - {but}

    def beat(self, who):
        for key, until in self.until.items():
            if key[1] == who and until > self.clock.now:
                self.until[key] = self.clock.now + 600

    @rule(who=PEOPLE, n=st.integers(1, 4))
    def take(self, who, n):
        self.beat(who)
        free = [c for c in self.k if len(self.takers(c, who)) < self.k[c] and not self.verdicts.get((c, who))]
        held = {name for (name, holder), until in self.until.items() if holder == who and until > self.clock.now}
        mine = self.browser.setdefault(who, {})
        rows = self.desk.take(who, n)
        for row in rows:
            name = row["custom_id"]
            assert name in free or name in held, "handed out beyond its k, or again to whoever judged it"
            assert name not in mine, "the same page has it already"
            mine[name] = row
            self.until[name, who] = self.clock.now + 600
        assert len(rows) == min(n, len(({*free} | held) - {*mine}) + len(rows)), "one that was free was not handed out"

    @rule(who=PEOPLE, decision=st.sampled_from(["approve", "reject"]), pick=st.randoms(use_true_random=False))
    def decide(self, who, decision, pick):
        if mine := self.browser.get(who):
            row = mine[pick.choice(sorted(mine))]
            event = said(row, decision)
            self.desk.decide([event], who)
            self.sent.append((event, who))
            self.beat(who)
            self.until.pop((row["custom_id"], who), None)
            self.verdicts.setdefault((row["custom_id"], who), []).append(event["event_id"])

    @precondition(lambda self: self.sent)
    @rule(pick=st.randoms(use_true_random=False))
    def undo(self, pick):
        event, who = pick.choice(self.sent)
        made = self.verdicts[event["custom_id"], who]
        if event["event_id"] in made:
            undo = said(event | {"input": "", "output": ""}, "undo", undoes=event["event_id"])
            self.desk.decide([undo], who)
            made.remove(event["event_id"])
            self.beat(who)
            if not made and len(self.takers(event["custom_id"], who)) < self.k[event["custom_id"]]:
                self.until[event["custom_id"], who] = self.clock.now + 600

    @precondition(lambda self: self.sent)
    @rule(pick=st.randoms(use_true_random=False))
    def send_again(self, pick):
        event, who = pick.choice(self.sent)
        before = journal.read(self.folder).height
        self.desk.decide([event], who)
        self.beat(who)
        assert journal.read(self.folder).height == before

    @rule(seconds=st.sampled_from([1, 300, 601]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(is_index_lost=st.booleans())
    def restart(self, is_index_lost):
        self.desk.close()
        if is_index_lost:
            (self.folder / "leases.sqlite").unlink()
            self.until.clear()
        self.desk = sessions.Session(self.folder, clock=self.clock)
        self.browser.clear()

    @invariant()
    def every_verdict_is_kept(self):
        if hasattr(self, "desk"):
            stored = set(journal.read(self.folder).filter(pl.col("decision") != "undo")["event_id"])
            assert stored == {event["event_id"] for event, _ in self.sent}

    def teardown(self):
        if hasattr(self, "desk"):
            self.desk.close()
            self.home.cleanup()


TestOffice = pytest.mark.slow(Office.TestCase)
TestOffice.settings = settings(max_examples=max(FUZZ // 2, 10), stateful_step_count=25, deadline=None)
