"""People compare two answers: which pairs they see, which votes count, and what they come to."""

import json
import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, people

from arislab import evaluate, models, pairwise, review, stats
from arislab.errors import LakeError, ParameterError
from arislab.review import core
from arislab.task import load

UNCLEAR = "insufficient evidence"

ARMS = ("finetuned", "baseline")


def scores(n, *, same=(), missing=()):
    """What ``evaluate.ask`` returns of two arms and n candidates; those in ``same`` are answered alike."""
    rows = [
        (arm, f"c{i:04d}", f"r-{arm}-{i}", None if i in missing else f"{'x' if i in same else arm} answers {i}")
        for arm in ("baseline", "icl", "finetuned")
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema=["arm", "candidate_id", "custom_id", "output"], orient="row")


@pytest.fixture
def spec(task_file):
    return load(task_file)


def drawn(spec, n=4, *, of=None, n_people=2, seed=1, groups=None, **how):
    asked = people(of or n, "test")
    if groups:
        asked = asked.with_columns(group_id=pl.Series(groups))
    given = {"arms": ARMS, "n": n, "n_people": n_people, "seed": seed}
    return pairwise.pairs(scores(of or n, **how), asked, spec, **given)


def voted(pairs, *said):
    """Votes (number of the pair, reviewer, what is better: an arm, tie, skip), in this order."""
    rows = pairs.to_dicts()
    events = []
    for i, (number, who, better) in enumerate(said):
        pair = rows[number]
        is_arm = better == pair["arm"]
        side = "left" if is_arm == pair["arm_is_left"] else "right"
        vote = side if better in (pair["arm"], pair["baseline"]) else better
        events.append(
            {"event_id": f"e{i}", "pair_id": pair["pair_id"], "reviewer": who, "vote": vote, "seq": i}
            | {"shown_sha256": pair["shown_sha256"], "dwell_ms": 6_000}
        )
    return pairwise.complete(pl.DataFrame(events, infer_schema_length=None))


# --- what is compared -------------------------------------------------------------------------------------------------


def test_a_pair_holds_both_answers_and_whose_they_are_stays_in_the_lake(spec, lake):
    pairs = drawn(spec, 40)
    lake["arm_pairs"].upsert(pairs)
    for pair in pairs.to_dicts():
        number = int(pair["candidate_id"][1:])
        texts = [f"finetuned answers {number}", f"baseline answers {number}"]
        assert [pair["left"], pair["right"]] == (texts if pair["arm_is_left"] else texts[::-1])
        assert pair["shown_sha256"] == pairwise.shown_sha256(pair["left"], pair["right"])
        assert json.loads(pair["messages"])[-1]["content"] == pair["input"] == f"candidate number {number}"
        assert (pair["arm_custom_id"], pair["split"]) == (f"r-finetuned-{number}", "test")
    assert 8 < pairs["arm_is_left"].sum() < 32, "the sides are drawn for each pair"
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, store=lake["arm_votes"].append)
    items = desk.take("Ada", 99)
    assert len(items) == 40
    assert {tuple(item) for item in items} == {("kind", "custom_id", "input", "left", "right", "shown_sha256")}
    told = json.dumps([{**item, "left": "", "right": ""} for item in items])
    assert not [word for word in ("arm", "baseline", "finetuned", "r-") if word in told]


def test_the_same_answers_under_the_same_seed_are_the_same_pairs(spec):
    assert drawn(spec, 9).equals(drawn(spec, 9))
    fewer = drawn(spec, 5, of=9)
    assert drawn(spec, 9).join(fewer, on="pair_id", how="semi").height == 5, "more pairs keep those that were there"
    other = drawn(spec, 9, seed=2)
    changed = drawn(spec, 9)["arm_is_left"] != other["arm_is_left"]
    assert (drawn(spec, 9)["pair_id"] != other["pair_id"]).to_list() == changed.to_list()
    assert changed.any()


def test_only_answers_that_differ_make_pairs_of_as_many_groups_as_there_are(spec):
    assert drawn(spec, 9, same=(1, 2), missing=(3,)).height == 6
    assert drawn(spec, 0, of=4).height == 0
    groups = ["a", "a", "a", "b", "b", "c"]
    assert drawn(spec, 3, of=6, groups=groups)["group_id"].sort().to_list() == ["a", "b", "c"]
    assert drawn(spec, 3, of=6, groups=groups, same=(5,))["group_id"].sort().to_list() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("arms", "n", "gate_by", "message"),
    [
        (["finetuned"], 1, "scorers", "two different arms, got"),
        (["finetuned", "finetuned"], 0, "scorers", "two different arms"),
        ([1, "baseline"], 0, "scorers", "two different arms"),
        (["finetuned", "basline"], 0, "scorers", "'basline', which is no arm; .*'baseline'"),
        (["finetuned", "baseline"], 0, "people", "n_arm_pairs is 0"),
        (["finetuned", "icl"], 5, "people", "finetuned over baseline"),
        (["baseline", "finetuned"], 5, "people", "finetuned over baseline"),
    ],
)
def test_what_cannot_be_compared_or_cannot_decide_is_said_before_anybody_is_asked(arms, n, gate_by, message):
    with pytest.raises(ParameterError, match=message):
        pairwise.check(arms, among=["baseline", "icl", "finetuned"], n=n, gate_by=gate_by)
    pairwise.check(["icl", "baseline"], among=["baseline", "icl"], n=5, gate_by="scorers")


# --- who compares -----------------------------------------------------------------------------------------------------


def desk_of(pairs, lake):
    return pairwise.Desk(pairs, votes=lake["arm_votes"].read, store=lake["arm_votes"].append)


def vote(item, decision, event_id, **more):
    said = {"custom_id": item["custom_id"], "shown_sha256": item["shown_sha256"]}
    return said | {"event_id": event_id, "decision": decision} | more


def test_a_pair_goes_to_so_many_people_and_to_nobody_twice(spec, lake):
    pairs = drawn(spec, 6)
    desk = desk_of(pairs, lake)
    taken = {who: desk.take(who, 99) for who in ("Ada", "Bo", "Cy")}
    assert [len(items) for items in taken.values()] == [6, 6, 0], "two people a pair: for the third none is left"
    assert desk.take("Ada", 99) == []
    ada, bo = ([item["custom_id"] for item in taken[who]] for who in ("Ada", "Bo"))
    assert sorted(ada) == sorted(bo)
    assert ada != bo, "each in an order of their own"
    desk.decide([vote(taken["Ada"][0], "skip", "s")], "Ada")
    assert [item["custom_id"] for item in desk.take("Cy", 99)] == ada[:1], "who skips leaves their place to another"
    assert desk.counts("Ada") == {"total": 6, "decided": 0, "skipped": 1, "left": 5}
    desk.decide([vote(item, "left", f"v{i}") for i, item in enumerate(taken["Ada"][1:4])], "Ada")
    assert desk.counts("Ada") == {"total": 6, "decided": 3, "skipped": 1, "left": 2}
    again = desk_of(pairs, lake)
    assert len(again.take("Ada", 99)) == 2, "who comes back goes on"
    assert desk.counts("Dee")["left"] == 0


def test_a_vote_that_comes_twice_is_stored_once_and_another_session_may_bring_it(spec, lake):
    pairs = drawn(spec, 2)
    desk, other = desk_of(pairs, lake), desk_of(pairs, lake)
    item, _ = desk.take("Ada", 2)
    event = vote(item, "left", "one", dwell_ms=7, client_seq=1)
    assert desk.decide([event, event], "Ada") == {"one": {"revealed": {}}}
    assert desk.decide([event], "Ada") == other.decide([event], "Ada") == {"one": {"revealed": {}}}
    assert lake["arm_votes"].rows == 1
    row = lake["arm_votes"].read().row(0, named=True)
    assert (row["vote"], row["reviewer"], row["dwell_ms"], row["session"]) == ("left", "Ada", 7, "arm-pairs")


def test_a_persons_votes_stay_in_their_order_whatever_the_clock_says(spec, lake):
    pairs = drawn(spec, 1)
    desk = desk_of(pairs, lake)
    (item,) = desk.take("Ada", 1)
    later, now = datetime.now(UTC) + timedelta(days=9), datetime.now(UTC)
    for name, decision, at in (("a", "left", later), ("b", "tie", now), ("c", "right", now - timedelta(days=1))):
        desk.decide([vote(item, decision, name, decided_at=at)], "Ada")
    assert pairwise.latest(pairs, lake["arm_votes"].read())["vote"].to_list() == ["right"]
    assert lake["arm_votes"].read()["decided_at"].max() < later, "a browser from the future does not decide for good"


def test_votes_go_through_a_journal_and_are_folded_in_one_commit(spec, lake):
    pairs = drawn(spec, 20)
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=lake.review / "pairs")
    for i, item in enumerate(desk.take("Ada", 20)):
        desk.decide([vote(item, "left", f"v{i}")], "Ada")
    assert not lake["arm_votes"].exists
    assert lake.collect() == 20
    assert (lake["arm_votes"].version, lake["arm_votes"].rows, lake["reviews"].exists) == (0, 20, False)
    assert lake.collect() == 0
    assert pairwise.win_rate(pairs, lake["arm_votes"].read())["n_votes"].item() == 20


def test_processes_that_share_a_folder_hand_a_pair_to_no_more_people_than_it_wants(spec, lake):
    """And what a killed one stored is known to the others once its lease has ended, though no index heard of it."""
    pairs, now = drawn(spec, 6), [1_000.0]
    folder, clock = lake.review / "pairs", lambda: now[0]

    def opened(of=pairs):
        return pairwise.Desk(of, votes=lake["arm_votes"].read, folder=folder, clock=clock)

    one, other = opened(), opened()
    ada, bo = one.take("Ada", 99), other.take("Bo", 4)
    assert len(one.take("Cy", 99)) == 2, "Ada and Bo hold four pairs, which two people compare"
    more = opened(drawn(spec, 8))
    assert more.counts("Ada") == {"total": 8, "decided": 0, "skipped": 0, "left": 8}
    assert len(more.take("Dee", 99)) == 2, "of a draw that holds these six too, the places are shared"
    stored = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=folder, clock=clock)
    stored._leases.note = lambda events: None  # killed between the journal and the index
    stored.decide([vote(item, "right", f"b{i}") for i, item in enumerate(bo)], "Bo")
    lake.collect()
    now[0] += 601
    one.decide([vote(item, "left", f"a{i}") for i, item in enumerate(ada)], "Ada")
    assert len(other.take("Eve", 99)) == 2
    assert other.counts("Bo") == {"total": 6, "decided": 4, "skipped": 0, "left": 0}


def test_what_a_killed_process_stored_is_not_handed_out_again_by_the_next(spec, lake):
    pairs, folder = drawn(spec, 2), lake.review / "pairs"
    first = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=folder)
    one, two = first.take("Ada", 2)
    first._leases.note = lambda events: None  # killed between the journal and the index
    first.decide([vote(one, "left", "a")], "Ada")
    again = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=folder)
    assert again.take("Ada", 9) == [two]
    assert again.counts("Ada")["decided"] == 1


def test_a_vote_whose_index_failed_is_told_again_and_counts_once(spec, lake, monkeypatch):
    pairs = drawn(spec, 2)
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=lake.review / "pairs")
    (item, _) = desk.take("Ada", 2)
    note, failures = desk._leases.note, [LakeError("the index of leases cannot be used")]
    monkeypatch.setattr(
        desk._leases, "note", lambda events: (_ for _ in ()).throw(failures.pop()) if failures else note(events)
    )
    with pytest.raises(LakeError):
        desk.decide([vote(item, "left", "a")], "Ada")
    assert desk.decide([vote(item, "left", "a")], "Ada") == {"a": {"revealed": {}}}
    assert desk.counts("Ada") == {"total": 2, "decided": 1, "skipped": 0, "left": 1}
    assert (lake.collect(), lake["arm_votes"].rows) == (1, 1)


def test_of_a_vote_that_is_changed_without_taking_it_back_the_latest_has_the_place(spec, lake):
    pairs = drawn(spec, 1)
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=lake.review / "pairs")
    (item,) = desk.take("Ada", 1)
    assert desk.take("Bo", 1) == [item]
    assert desk.take("Cy", 1) == []
    desk.decide([vote(item, "left", "a"), vote(item, "skip", "b")], "Ada")
    assert desk.counts("Ada") == {"total": 1, "decided": 0, "skipped": 1, "left": 0}
    assert desk.take("Cy", 1) == [item], "win_rate says that it waits for one more"
    desk.decide([vote(item, "undo", "c", undoes="b")], "Ada")
    assert desk.counts("Ada") == {"total": 1, "decided": 1, "skipped": 0, "left": 0}


def test_an_older_vote_that_comes_late_from_another_browser_does_not_beat_a_newer_one(spec, lake):
    pairs, now = drawn(spec, 1), datetime.now(UTC)
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, folder=lake.review / "pairs")
    (item,) = desk.take("Ada", 1)
    desk.decide([vote(item, "right", "new", client_seq=1, decided_at=now)], "Ada")
    desk.decide([vote(item, "left", "old", client_seq=7, decided_at=now - timedelta(hours=3))], "Ada")
    lake.collect()
    assert pairwise.latest(pairs, lake["arm_votes"].read())["vote"].to_list() == ["right"]


def test_nobody_holds_or_votes_without_a_name(spec, lake):
    desk = pairwise.Desk(drawn(spec, 1), votes=lake["arm_votes"].read, folder=lake.review / "pairs")
    assert desk.take("", 9) == []
    (item,) = desk.take("Ada", 9)
    with pytest.raises(ParameterError, match="enter your name first"):
        desk.decide([vote(item, "left", "a")], "")
    assert lake.collect() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "approve"}, "left, right, tie, skip, flag, undo, got 'approve'"),
        ({"decision": "undo"}, "an undo names the event"),
        ({"undoes": "e"}, "no other vote does"),
    ],
)
def test_what_is_no_vote_is_refused_and_nothing_is_stored(spec, lake, change, message):
    desk = desk_of(drawn(spec, 2), lake)
    first, second = desk.take("Ada", 2)
    with pytest.raises(ParameterError, match=message):
        desk.decide([vote(first, "left", "a"), vote(second, "left", "b") | change], "Ada")
    assert lake["arm_votes"].rows == 0
    desk.decide([vote(first, "left", "a")], "Ada")
    assert lake["arm_votes"].rows == 1


def test_a_vote_about_a_pair_of_an_earlier_draw_is_kept_and_counts_for_that_pair(spec, lake):
    earlier, now = drawn(spec, 4), drawn(spec, 4, seed=7)
    gone = earlier.join(now, on="pair_id", how="anti")
    assert gone.height
    (late, *_) = pairwise.Desk(gone, votes=lake["arm_votes"].read, store=lambda frame: None).take("Ada", 1)
    desk = desk_of(now, lake)
    desk.decide([vote(late, "left", "late")], "Ada")
    assert desk.counts("Ada")["decided"] == 0
    votes = lake["arm_votes"].read()
    assert pairwise.win_rate(now, votes)["n_votes"].item() == 0
    assert pairwise.win_rate(earlier, votes)["n_votes"].item() == 1


def test_the_review_panel_shows_pairs_and_its_votes_go_to_their_own_table(spec, lake):
    desk = desk_of(drawn(spec, 3), lake)
    panel = review.Panel(desk, reviewer="Ada")
    assert panel.counts["left"] == 3
    items = [core.item(row) for row in panel.ahead(9)]
    assert {item["kind"] for item in items} == {"pair"}
    told = json.dumps([{k: v for k, v in item.items() if k not in ("left", "right")} for item in items])
    assert not [word for word in ("arm", "baseline", "finetuned") if word in told]
    first = panel.current
    said = {"custom_id": first["custom_id"], "shown_sha256": items[0]["shown"], "asked_sha256": items[0]["asked"]}
    facts = {"edited_output": None, "labels": "[]", "ratings": None, "category": None, "note": None, "queue": None}
    for name, decision, undoes in (("a", "left", None), ("b", "undo", "a"), ("c", "tie", None)):
        event = said | facts | {"event_id": name, "decision": decision, "undoes": undoes, "dwell_ms": 900}
        assert panel.hear([event]) == ({name: {"revealed": {}}}, {})
    assert panel.counts == {"total": 3, "decided": 1, "skipped": 0, "left": 2}
    assert pairwise.counting(drawn(spec, 3), lake["arm_votes"].read())["vote"].to_list() == ["tie"]
    assert not lake["reviews"].exists


def test_where_a_vote_cannot_be_stored_it_can_be_said_again(spec, lake):
    pairs, full = drawn(spec, 1), [True]

    def store(frame):
        if full:
            raise OSError("no space left on device")
        lake["arm_votes"].append(frame)

    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, store=store)
    (item,) = desk.take("Ada", 1)
    with pytest.raises(OSError, match="no space"):
        desk.decide([vote(item, "left", "a")], "Ada")
    full.clear()
    desk.decide([vote(item, "left", "a")], "Ada")
    assert (lake["arm_votes"].rows, desk.counts("Ada")["decided"]) == (1, 1)


def test_after_a_restart_a_person_can_take_back_votes_of_these_pairs_and_nothing_else(spec, lake):
    pairs = drawn(spec, 3)
    desk = desk_of(pairs, lake)
    one, two, three = desk.take("Ada", 9)
    said = [vote(one, "left", "a"), vote(two, "tie", "b"), vote(three, "skip", "c")]
    desk.decide([*said, vote(one | {"custom_id": "v-of-another-task"}, "left", "d")], "Ada")
    desk.decide([vote(two, "undo", "e", undoes="b")], "Ada")
    desk.decide([vote(two, "right", "g")], "Grace")
    again = desk_of(pairs, lake)
    assert [(e["event_id"], e["custom_id"], e["decision"]) for e in again.trail("Ada")] == [
        ("a", one["custom_id"], "left"), ("c", three["custom_id"], "skip"),
    ]  # fmt: skip
    panel = review.Panel(again, reviewer="Ada", dwell_s=0)
    assert panel.undo()
    assert panel.current == three
    assert panel.undo()
    assert panel.current == one
    assert [e["event_id"] for e in desk_of(pairs, lake).trail("Ada")] == []
    assert again.row("v-of-another-task") is None


# --- what they said ---------------------------------------------------------------------------------------------------

F, B = ARMS


def taken_back(votes, name):
    """Who voted first takes back an event."""
    undo = {"event_id": "u", "vote": "undo", "undoes": name}
    return votes.head(1).with_columns(pl.lit(9, dtype=pl.Int64).alias("seq"), **{k: pl.lit(v) for k, v in undo.items()})


def rate(pairs, *said):
    return pairwise.win_rate(pairs, voted(pairs, *said)).row(0, named=True)


ALPHA = 1 - (2 * 3.5**2 + 2 * 2.5**2) / 6 / (2 * (1 * 1 * 1 + 1 * 4 * 2.5**2 + 1 * 4 * 3.5**2) / 30)
"""Krippendorff's alpha by hand of the votes (1, 1), (1, 0) and (0.5, 1): six values, of which one is 0, one 0.5, four
1; 0 and 1 are 3.5 ranks apart, 0.5 and 1 are 2.5, 0 and 0.5 are 1. It is 1 - 37 / 30."""


def test_a_win_rate_by_hand(spec):
    pairs = drawn(spec, 4)
    said = [(0, "Ada", F), (0, "Bo", F), (1, "Ada", F), (1, "Bo", B), (2, "Ada", "tie"), (2, "Bo", F), (3, "Ada", B)]
    row = rate(pairs, *said)
    assert row["win_rate"] == (1 + 0.5 + 0.75 + 0) / 4
    assert (row["n"], row["n_pairs"], row["n_waiting"], row["n_groups"]) == (4, 4, 1, 4)
    assert (row["n_votes"], row["n_ties"], row["n_people"]) == (7, 1, 2)
    assert row["agreement"] == 1 / 3, "of three pairs that two compared, in one they said the same"
    assert row["alpha"] == pytest.approx(ALPHA)
    assert row["minutes"] == pytest.approx(7 * 6 / 60)
    expected = stats.mean_interval([1, 0.5, 0.75, 0])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    text = pairwise.in_words(pairwise.win_rate(pairs, voted(pairs, *said)))
    assert "finetuned over baseline" in text
    assert "0.562" in text
    assert (
        f"7 votes (1 ties) of 2 people, agreement 0.333, alpha {row['alpha']:.3f}, 0.7 minutes; 1 wait for more votes"
        in text
    )


def test_the_latest_vote_of_each_person_counts_and_skips_count_for_nothing(spec):
    pairs = drawn(spec, 1)
    assert rate(pairs, (0, "Ada", F), (0, "Ada", B))["win_rate"] == 0
    assert rate(pairs, (0, "Ada", F), (0, "Ada", B))["n_votes"] == 1
    assert rate(pairs, (0, "Ada", F), (0, "Bo", "skip"))["n_votes"] == 1
    row = rate(pairs, (0, "Ada", F), (0, "Ada", "skip"))
    assert (row["win_rate"], row["n"], row["n_votes"]) == (None, 0, 0)
    assert rate(pairs, (0, "Ada", "tie"))["win_rate"] == 0.5
    flagged = rate(pairs, (0, "Ada", F), (0, "Ada", "flag"))
    assert (flagged["win_rate"], flagged["n_votes"]) == (1, 1), "a flag takes no vote's place"


def test_a_flag_beside_votes_keeps_none_of_them_from_being_stored(spec, lake):
    desk = desk_of(drawn(spec, 2), lake)
    first, second = desk.take("Ada", 2)
    desk.decide([vote(first, "left", "a"), vote(second, "flag", "b"), vote(second, "tie", "c")], "Ada")
    assert sorted(lake["arm_votes"].read()["vote"]) == ["flag", "left", "tie"]
    assert desk.counts("Ada") == {"total": 2, "decided": 2, "skipped": 0, "left": 0}


def test_a_vote_that_was_taken_back_or_is_about_another_text_does_not_count(spec):
    pairs = drawn(spec, 1)
    votes = voted(pairs, (0, "Ada", F), (0, "Bo", B))
    undo = taken_back(votes, "e0")
    assert pairwise.win_rate(pairs, pl.concat([votes, undo]))["win_rate"].item() == 0
    other = undo.with_columns(reviewer=pl.lit("Bo"))
    assert pairwise.win_rate(pairs, pl.concat([votes, other]))["win_rate"].item() == 0.5, "nobody undoes another's vote"
    for digest in ("0" * 64, None, pairwise.shown_sha256(pairs["right"].item(), pairs["left"].item())):
        elsewhere = votes.with_columns(shown_sha256=pl.lit(digest, dtype=pl.String))
        assert pairwise.win_rate(pairs, elsewhere)["n_votes"].item() == 0
    assert pairwise.win_rate(pairs, pl.concat([votes, votes]))["n_votes"].item() == 2, "each event counts once"
    strange = votes.with_columns(pair_id=pl.lit("v-none"))
    assert pairwise.win_rate(pairs, strange)["n_votes"].item() == 0


def test_an_undone_vote_leaves_the_one_before_it(spec):
    pairs = drawn(spec, 1)
    votes = voted(pairs, (0, "Ada", F), (0, "Ada", B))
    undo = taken_back(votes, "e1")
    assert pairwise.win_rate(pairs, pl.concat([votes, undo]))["win_rate"].item() == 1


def test_groups_are_resampled_whole(spec):
    wins = [(i, "Ada", F if i < 8 else B) for i in range(12)]
    alone = rate(drawn(spec, 12), *wins)
    grouped = drawn(spec, 12).with_columns(group_id=pl.Series([f"g{i // 4}" for i in range(12)]))
    row = rate(grouped, *wins)
    assert (row["n_groups"], row["win_rate"]) == (3, alone["win_rate"])
    assert row["high"] - row["low"] > alone["high"] - alone["low"]
    expected = stats.mean_interval([1.0] * 8 + [0.0] * 4, groups=[i // 4 for i in range(12)])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_without_pairs_or_votes_nothing_is_claimed(spec):
    none = drawn(spec, 0, of=3)
    empty = pairwise.win_rate(none, voted(drawn(spec, 1)).clear())
    assert (empty.height, pairwise.in_words(empty), pairwise.headline(empty)) == (0, "", {})
    pairs = drawn(spec, 3)
    result = pairwise.win_rate(pairs, voted(pairs))
    row = result.row(0, named=True)
    assert [row[name] for name in ("win_rate", "low", "high", "p", "agreement", "minutes")] == [None] * 6
    assert (row["n_waiting"], pairwise.headline(result)) == (3, {})
    assert pairwise.in_words(result) == "finetuned over baseline: nobody has compared any of 3 pairs yet"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ABC"), st.sampled_from([F, B, "tie", "skip"]))))
@settings(max_examples=FUZZ, deadline=None)
def test_the_rate_is_that_of_a_plain_count_and_one_minus_that_of_the_other_arm(said):
    pairs = pl.DataFrame(
        [
            {
                "pair_id": f"v{i}", "group_id": f"g{i}", "arm": F, "baseline": B, "arm_is_left": i % 2 == 0,
                "shown_sha256": f"s{i}", "n_people": 2, "left": "l", "right": "r",
            }
            for i in range(4)
        ],
        schema_overrides=pairwise.PAIRS,
    )  # fmt: skip
    latest = {(number, who): better for number, who, better in said}
    by_pair = {}
    for (number, _), better in latest.items():
        if better != "skip":
            by_pair.setdefault(number, []).append({F: 1.0, B: 0.0, "tie": 0.5}[better])
    rates = [sum(values) / len(values) for values in by_pair.values()]
    row = pairwise.win_rate(pairs, voted(pairs, *said)).row(0, named=True)
    assert row["n"] == len(rates)
    assert (row["win_rate"] is None) == (not rates)
    if rates:
        assert row["win_rate"] == pytest.approx(math.fsum(rates) / len(rates))
        turned = pairs.with_columns(arm=pl.lit(B), baseline=pl.lit(F), arm_is_left=~pl.col("arm_is_left"))
        assert pairwise.win_rate(turned, voted(pairs, *said))["win_rate"].item() == pytest.approx(1 - row["win_rate"])


# --- what it decides --------------------------------------------------------------------------------------------------


def comparison(gain=0.0):
    rows = [(arm, f"c{i}", 0.5 + (gain if arm == F else 0) + 0.01 * (i % 3)) for arm in ARMS for i in range(30)]
    frame = pl.DataFrame(rows, schema=["arm", "candidate_id", "quality"], orient="row")
    return stats.compare(frame, contrasts=[ARMS])


@pytest.mark.parametrize(
    ("n_won", "n", "verdict"),
    [(18, 20, "promote"), (10, 20, UNCLEAR), (2, 20, "hold"), (3, 3, UNCLEAR), (12, 12, "promote")],
)
def test_people_promote_an_arm_only_if_the_lower_end_of_its_win_rate_is_above_one_half(spec, n_won, n, verdict):
    pairs = drawn(spec, n, n_people=1)
    said = pairwise.win_rate(pairs, voted(pairs, *[(i, "Ada", F if i < n_won else B) for i in range(n)]))
    for gain in (-0.3, 0.3):
        gate = models.gate(comparison(gain), arm=F, people=said)
        assert (gate["verdict"], gate["people"]["win_rate"]) == (verdict, n_won / n), "whatever the scorers say"
        assert json.dumps(gate, allow_nan=False)
    words = {"promote": "people prefer", "hold": "people do not prefer", UNCLEAR: "are not shown to prefer"}
    assert words[verdict] in gate["reason"]
    assert "people" not in models.gate(comparison(), arm=F)


def test_people_decide_once_all_pairs_are_compared(spec):
    pairs = drawn(spec, 20, n_people=2)
    every = [(i, who, F) for i in range(20) for who in ("Ada", "Bo")]
    gate = models.gate(comparison(), arm=F, people=pairwise.win_rate(pairs, voted(pairs, *every[:-1])))
    assert gate["verdict"] == UNCLEAR
    assert "1 of 20 wait" in gate["reason"]
    assert (
        models.gate(comparison(), arm=F, people=pairwise.win_rate(pairs, voted(pairs, *every)))["verdict"] == "promote"
    )
    nobody = models.gate(comparison(), arm=F, people=pairwise.win_rate(pairs, voted(pairs)))
    assert nobody["verdict"] == UNCLEAR
    assert json.dumps(nobody, allow_nan=False)


def test_what_costs_nothing_keeps_the_gate_shut_for_people_too(spec):
    pairs = drawn(spec, 20, n_people=1)
    said = pairwise.win_rate(pairs, voted(pairs, *[(i, "Ada", F) for i in range(20)]))
    free = comparison().with_columns(baseline=pl.lit("echo"))
    gate = models.gate(comparison(), arm=F, people=said, free=free)
    assert gate["verdict"] == UNCLEAR
    assert "people prefer finetuned to baseline" in gate["reason"]
    with pytest.raises(ParameterError, match="compared no pair of these"):
        models.gate(comparison(), arm=F, people=said.with_columns(arm=pl.lit("icl")))


def test_the_win_rate_stands_in_the_table_beside_the_scorers(spec):
    pairs = drawn(spec, 4, n_people=1)
    said = pairwise.in_words(pairwise.win_rate(pairs, voted(pairs, *[(i, "Ada", F) for i in range(4)])))
    rows = pl.DataFrame({"arm": list(ARMS), "candidate_id": ["c"] * 2, "quality": [0.5, 0.4], "tokens": [1, 1]})
    means = evaluate.summary(rows)
    table = evaluate.table(means, comparison(), people=said)
    assert table.endswith(said)
    assert "what people prefer" in table
    assert "what people prefer" not in evaluate.table(means, comparison())
