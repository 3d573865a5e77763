"""Preference pairs: which decisions make one, which never do, and what withdraws one."""

import json

import polars as pl
import pytest
from toys import people

from arislab import pairwise, preferences
from arislab.curate import verdicts
from arislab.judge import Judge
from arislab.review import decisions
from arislab.task import load

GOOD, BAD, MENDED = "Lima.", "Cuzco. I hope this helps!", "Cuzco is not it: Lima."


def recorded(texts, *, who="c0000", question="Capital of Peru?", **more):
    """Rows of training_data_raw: answers to one question of one candidate."""
    messages = json.dumps([{"role": "user", "content": question}])
    rows = [
        {
            "custom_id": f"{who}-{i}", "candidate_id": who, "task": "shout", "sample": i, "input": question,
            "messages": messages, "llm_output": text, "model": "m", "status": "ok",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    names = ("tools", "tool_calls", "finish_reason")
    return pl.DataFrame(rows).with_columns(pl.lit(more.get(name), dtype=pl.String).alias(name) for name in names)


def decided(raw, *said):
    """Events about rows of raw: (sample, decision, reviewer, facts); text: the text that was shown."""
    events = decisions.in_order(pl.DataFrame(schema=decisions.SCHEMA))
    rows = raw.to_dicts()
    for sample, decision, reviewer, *facts in said:
        more = dict(facts[0]) if facts else {}
        planted = more.pop("planted", None)
        shown = {
            "custom_id": rows[sample]["custom_id"],
            "input": rows[sample]["input"],
            "output": more.pop("text", rows[sample]["llm_output"]),
        }
        if decision == "undo":
            shown, more = {"custom_id": shown["custom_id"]}, {"undoes": events["event_id"][more["of"]]}
        event = decisions.event(shown, decision, reviewer=reviewer, seen=events, **more)
        events = pl.concat([events, event.with_columns(planted=pl.lit(planted, dtype=pl.String))])
    return events


def mine(raw, reviews, task_file, *, candidates=None, **more):
    spec, candidates = load(task_file), people(3) if candidates is None else candidates
    judged = verdicts.judged(raw, candidates, spec, reviews)
    return preferences.mined(judged, raw, candidates, task=spec, reviews=reviews, **more)


def texts(pairs):
    return sorted(pairs.select("source", "chosen", "rejected").rows())


def preferring(raw, chosen, rejected):
    """Two people preferred a text to another one, as ``pairwise.preferred`` says it."""
    row = {
        "candidate_id": "c0000", "messages": raw["messages"][0], "chosen": chosen, "rejected": rejected,
        "source": "pairwise", "reviewers": ["Zoe"], "custom_ids": ["c0000-0", "c0000-1"], "event_ids": ["v1"],
    }  # fmt: skip
    at = pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC")
    return pl.DataFrame([row]).with_columns(decided_at=at)


def test_what_people_rejected_or_differ_on_is_no_better_side_whatever_sample_said_it(task_file):
    raw = recorded([BAD, GOOD, GOOD])
    to_good = (0, "edit", "Ada", {"edited_output": GOOD})
    assert texts(mine(raw, decided(raw, to_good), task_file)) == [("edit", GOOD, BAD)]
    assert texts(mine(raw, decided(raw, to_good, (2, "reject", "Bo")), task_file)) == []
    assert texts(mine(raw, decided(raw, to_good, (1, "reject", "Bo"), (1, "approve", "Cy")), task_file)) == []
    preferred = preferring(raw, GOOD, BAD)
    assert texts(mine(raw, decided(raw, (0, "skip", "Ada")), task_file, compared=preferred)) == [
        ("pairwise", GOOD, BAD)
    ]
    assert texts(mine(raw, decided(raw, (2, "reject", "Ada")), task_file, compared=preferred)) == []
    differing = decided(raw, (1, "edit", "Ada", {"edited_output": "Lima, Peru."}), (1, "approve", "Bo"))
    assert texts(mine(raw, differing, task_file, compared=preferred)) == []


def test_an_edit_is_better_than_what_was_shown(task_file):
    raw = recorded([BAD])
    reviews = decided(raw, (0, "edit", "Ada", {"edited_output": MENDED}))
    (pair,) = mine(raw, reviews, task_file).to_dicts()
    assert (pair["chosen"], pair["rejected"], pair["source"], pair["split"]) == (MENDED, BAD, "edit", "train")
    assert json.loads(pair["messages"]) == [{"role": "user", "content": "Capital of Peru?"}]
    assert (pair["reviewers"], pair["custom_ids"]) == (["Ada"], ["c0000-0"])
    assert pair["event_ids"] == reviews["event_id"].to_list()
    assert (pair["task"], pair["candidate_id"], pair["decided_at"]) == ("shout", "c0000", reviews["decided_at"][0])


def test_of_samples_of_one_question_each_approved_is_better_than_each_rejected(task_file):
    raw = recorded([GOOD, BAD, "Quito.", "Nobody saw this."])
    said = [(0, "approve", "Ada"), (1, "reject", "Bo"), (2, "edit", "Ada", {"edited_output": MENDED})]
    assert texts(mine(raw, decided(raw, *said), task_file)) == [
        ("approve-reject", MENDED, BAD),
        ("approve-reject", GOOD, BAD),
        ("edit", MENDED, "Quito."),
    ]
    others = [
        recorded([BAD], who="c0001"),  # another candidate
        recorded([BAD], question="And of Chad?").with_columns(custom_id=pl.lit("other")),  # another question
    ]
    for other in others:
        both = pl.concat([recorded([GOOD]), other])
        assert mine(both, decided(both, (0, "approve", "Ada"), (1, "reject", "Ada")), task_file).height == 0


def test_what_two_samples_say_alike_is_not_on_both_sides(task_file):
    raw = recorded([GOOD, GOOD, BAD])
    reviews = decided(raw, (0, "approve", "Ada"), (1, "reject", "Ada"), (2, "reject", "Ada"))
    assert mine(raw, reviews, task_file).height == 0, "Lima. is approved and rejected: it is better than nothing"
    raw = recorded([GOOD, BAD])
    reviews = decided(raw, (0, "edit", "Ada", {"edited_output": BAD}), (1, "edit", "Ada", {"edited_output": GOOD}))
    assert mine(raw, reviews, task_file).height == 0, "each is better than the other"
    reviews = decided(raw, (0, "edit", "Ada", {"edited_output": f" {GOOD}\n"}))
    assert mine(raw, reviews, task_file).height == 0, "nothing that is read was changed"


NEVER = {
    "skipped, flagged": [(0, "skip", "Ada"), (0, "flag", "Ada")],
    "disputed": [(0, "approve", "Ada"), (0, "reject", "Bo"), (1, "reject", "Ada")],
    "disputed edits": [
        (1, "edit", "Ada", {"edited_output": MENDED}),
        (1, "edit", "Bo", {"edited_output": "Another."}),
    ],
    "stale": [(1, "edit", "Ada", {"edited_output": MENDED, "text": "an earlier text"})],
    "stale on one side": [(0, "approve", "Ada", {"text": "an earlier text"}), (1, "reject", "Ada")],
    "planted": [(1, "edit", "Ada", {"edited_output": MENDED, "planted": "gold"})],
    "planted on one side": [(0, "approve", "Ada"), (1, "reject", "Ada", {"planted": "repeat"})],
    "undone": [(1, "edit", "Ada", {"edited_output": MENDED}), (1, "undo", "Ada", {"of": 0})],
    "undone on one side": [(0, "approve", "Ada"), (1, "reject", "Ada"), (1, "undo", "Ada", {"of": 0})],
}


@pytest.mark.parametrize("said", NEVER.values(), ids=NEVER)
def test_what_is_not_agreed_makes_no_pair(said, task_file):
    raw = recorded([GOOD, BAD])
    assert mine(raw, decided(raw, *said), task_file).height == 0


def test_who_takes_back_the_decision_of_another_takes_nothing_back_and_an_adjudication_settles(task_file):
    raw = recorded([GOOD, BAD])
    edit = (1, "edit", "Ada", {"edited_output": MENDED})
    assert mine(raw, decided(raw, edit, (1, "undo", "Bo", {"of": 0})), task_file).height == 1
    settled = (1, "adjudicate", "Lee", {"edited_output": MENDED})
    pairs = mine(raw, decided(raw, edit, (1, "reject", "Bo"), settled), task_file)
    assert texts(pairs) == [("edit", MENDED, BAD)]
    assert pairs["reviewers"].to_list() == [["Ada", "Lee"]], "those who made this text"
    assert pairs["event_ids"].list.len().to_list() == [3]
    again = mine(raw, decided(raw, edit, (1, "approve", "Bo", {"text": MENDED})), task_file)
    assert again["reviewers"].to_list() == [["Ada", "Bo"]], "who was shown the edited text and approved it"


def test_answers_of_the_test_split_and_calls_of_tools_make_no_pair(task_file):
    raw = recorded([BAD])
    reviews = decided(raw, (0, "edit", "Ada", {"edited_output": MENDED}))
    spec = load(task_file)
    every = people(3)
    judged = verdicts.judged(raw, every, spec, reviews)
    tested = every.with_columns(split=pl.lit("test"))
    assert judged["holds"].all()
    assert preferences.mined(judged, raw, tested, task=spec, reviews=reviews).height == 0
    for name, value in (("tools", "[]"), ("tool_calls", "[]"), ("finish_reason", "tool_calls")):
        assert mine(recorded([BAD], **{name: value}), reviews, task_file).height == 0, name
    assert mine(raw, reviews, task_file, candidates=people(3, "validation"))["split"].to_list() == ["validation"]


def test_the_same_decisions_make_the_same_pairs_in_any_order(task_file, lake):
    raw = pl.concat([recorded([GOOD, BAD, "Quito."], who=f"c{i:04d}") for i in range(3)])
    said = [(i, "approve" if i % 3 == 0 else "reject", "Ada") for i in range(9)]
    reviews = decided(raw, *said)
    pairs = mine(raw, reviews, task_file)
    assert pairs.height == 6
    shuffled = mine(raw.sample(fraction=1, shuffle=True, seed=2), reviews.reverse(), task_file)
    assert shuffled.equals(pairs)
    doubled = mine(raw, pl.concat([reviews, reviews]), task_file)
    assert doubled.equals(pairs), "each event counts once"
    for _ in range(2):
        lake["preferences"].replace(pairs, where={"task": "shout"})
    assert lake["preferences"].rows == 6


def test_a_pair_whose_decisions_changed_since_is_withdrawn(task_file):
    raw = recorded([GOOD, BAD, "Quito."])
    said = [(0, "approve", "Ada"), (1, "reject", "Ada"), (2, "edit", "Ada", {"edited_output": MENDED})]
    pairs = mine(raw, decided(raw, *said), task_file)
    reviews = decided(raw, *said)
    by_text = dict(mine(raw, reviews, task_file).select("pair_id", "source").iter_rows())
    pairs = mine(raw, reviews, task_file)
    assert preferences.withdrawn(pairs, reviews) == []
    row = {"custom_id": "c0000-2", "input": "Capital of Peru?", "output": "Quito."}
    for more, left in (
        (decisions.event(row, "reject", reviewer="Bo", seen=reviews), ["approve-reject"]),
        (decisions.event(row, "skip", reviewer="Bo", seen=reviews), ["approve-reject", "approve-reject", "edit"]),
        (
            decisions.event(row, "undo", reviewer="Ada", seen=reviews, undoes=reviews["event_id"][1]),
            ["edit"],
        ),
    ):
        gone = preferences.withdrawn(pairs, pl.concat([reviews, more]))
        assert sorted(source for name, source in by_text.items() if name not in gone) == left
    assert len(preferences.withdrawn(pairs, reviews.clear())) == pairs.height


# --- pairs that people compared ---------------------------------------------------------------------------------------


def compared(raw, task_file, *said, seed=1):
    """Pairs of samples, and votes (reviewer, the sample that is better, or tie)."""
    pairs = pairwise.samples(raw, people(3), load(task_file), n=9, n_people=2, seed=seed)
    (pair,) = pairs.to_dicts()
    sides = {pair["left"]: "left", pair["right"]: "right", "tie": "tie"}
    votes = [
        {
            "event_id": f"e{i}", "pair_id": pair["pair_id"], "reviewer": who, "vote": sides[better],
            "shown_sha256": pair["shown_sha256"], "seq": i,
        }
        for i, (who, better) in enumerate(said)
    ]  # fmt: skip
    return pairs, pairwise.complete(pl.DataFrame(votes, infer_schema_length=None))


@pytest.mark.parametrize("seed", range(4))
def test_of_two_compared_answers_the_one_that_all_prefer_is_better(task_file, seed):
    raw, nobody = recorded([GOOD, BAD]), decided(recorded([GOOD]))
    for said, expected in (
        ([("Ada", GOOD), ("Bo", GOOD)], [("pairwise", GOOD, BAD)]),
        ([("Ada", BAD)], [("pairwise", BAD, GOOD)]),
        ([("Ada", GOOD), ("Bo", BAD)], []),
        ([("Ada", GOOD), ("Bo", "tie")], []),
        ([("Ada", GOOD), ("Ada", BAD)], [("pairwise", BAD, GOOD)]),
    ):
        pairs, votes = compared(raw, task_file, *said, seed=seed)
        told = pairwise.preferred(pairs, votes)
        found = mine(raw, nobody, task_file, compared=told)
        assert texts(found) == expected
        if expected:
            better = dict(zip(found["custom_ids"][0], found.select("chosen", "rejected").row(0), strict=True))
            assert better == dict(raw.select("custom_id", "llm_output").iter_rows())
            assert preferences.withdrawn(found, nobody, pairwise.counting(pairs, votes)) == []
            none = pairwise.counting(pairs, votes.clear())
            assert preferences.withdrawn(found, nobody, none) == found["pair_id"].to_list()


def test_what_was_rejected_is_better_than_nothing_whoever_preferred_it(task_file):
    raw = recorded([GOOD, BAD])
    pairs, votes = compared(raw, task_file, ("Ada", BAD))
    told = pairwise.preferred(pairs, votes)
    rejected = decided(raw, (1, "reject", "Bo"))
    assert mine(raw, rejected, task_file, compared=told).height == 0
    pairs = mine(raw, decided(raw), task_file, compared=told)
    assert preferences.withdrawn(pairs, rejected, pairwise.counting(*compared(raw, task_file, ("Ada", BAD)))) == (
        pairs["pair_id"].to_list()
    )


# --- what a judge said ------------------------------------------------------------------------------------------------

RUBRIC = 'RUBRIC = {"right": "The answer is right."}\n'


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.2], [("judged", GOOD, BAD)]),  # shown first it is better, and shown second the other is worse
        ([0.2, 0.9], [("judged", BAD, GOOD)]),
        ([0.9, 0.9], []),  # whichever is first is better
        ([0.9], []),
        ([0.9, None], []),
        ([0.5, 0.5], []),
    ],
)
def test_a_judge_that_prefers_one_both_ways_round_makes_a_pair_of_its_own_source(task_file, scores, expected):
    from arislab import judge, scoring

    task_file.write_text(task_file.read_text() + RUBRIC)
    spec, raw, candidates = load(task_file), recorded([GOOD, BAD]), people(1)
    rows = scoring.rows(raw.with_columns(created_at=pl.lit(0), metadata=pl.lit(None)), candidates, task=spec)
    items = judge.items(judge.outputs(rows, candidates, spec), spec, pairs=True)
    wins = items.filter(criterion="wins").sort(pl.col("custom_id") != "c0000-0").head(len(scores))
    said = wins.drop("profile", "candidate_id", "custom_id", "other_id").with_columns(
        request_id=pl.col("shown_sha256"),
        judge=pl.lit("j"),
        params=pl.lit("{}"),
        score=pl.Series(scores, dtype=pl.Float64),
        created_at=pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC"),
    )
    heard = Judge(said, spec, candidates, model="j")
    pairs = preferences.by_judge(heard, rows, candidates, task=spec)
    assert texts(pairs) == expected
    assert preferences.withdrawn(pairs, decided(raw)) == []
    tested = candidates.with_columns(split=pl.lit("test"))
    assert preferences.by_judge(heard, rows, tested, task=spec).height == 0
    if expected:
        assert (pairs["reviewers"].to_list(), pairs["event_ids"].list.len().to_list()) == ([["j"]], [2])


def test_single_verdicts_are_rated_and_an_edit_says_what_was_undesirable(task_file):
    raw = recorded([GOOD, BAD, "Quito.", "Arequipa.", "La Paz."])
    edit = (1, "edit", "Ada", {"edited_output": MENDED})
    reviews = decided(raw, (0, "approve", "Ada"), edit, (2, "reject", "Bo"), (3, "approve", "Bo"), (3, "reject", "Cy"))
    spec, candidates = load(task_file), people(3)
    judged = verdicts.judged(raw, candidates, spec, reviews)
    rows = preferences.rated(judged, raw, candidates, task=spec)
    assert rows.select("id", "output", "is_desirable").rows() == [
        ("c0000-0", GOOD, True),
        ("c0000-1", MENDED, True),
        ("c0000-1/original", BAD, False),
        ("c0000-2", "Quito.", False),
    ]
    assert rows["custom_ids"].to_list() == [["c0000-0"], ["c0000-1"], ["c0000-1"], ["c0000-2"]]
    assert set(rows["split"]) == {"train"}
    twice = recorded([GOOD, GOOD])
    both = decided(twice, (0, "approve", "Ada"), (1, "reject", "Bo"))
    assert not preferences.rated(verdicts.judged(twice, candidates, spec, both), twice, candidates, task=spec).height
    test = people(3, split="test")
    assert not preferences.rated(verdicts.judged(raw, test, spec, reviews), raw, test, task=spec).height
