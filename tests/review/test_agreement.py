"""How far reviewers agree, read from their events."""

import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score
from toys import NOON, events

from arislab.errors import ParameterError
from arislab.review import agreement, decisions

WORDS = {"a": "approve", "e": "edit", "r": "reject"}


def said(reviewer, word, **more):
    """One event per letter: approve, edit or reject of r-0, r-1, …; a dot is none."""
    return [
        {"event_id": f"{reviewer}-{i}", "custom_id": f"r-{i}", "reviewer": reviewer, "decision": WORDS[letter]} | more
        for i, letter in enumerate(word)
        if letter != "."
    ]


def only(table, **where):
    return table.row(
        by_predicate=pl.all_horizontal(pl.col(c).eq_missing(value) for c, value in where.items()), named=True
    )


def overall(*rows, measure="krippendorff_alpha", blind=False, **how):
    return only(agreement.coefficients(events(*rows), **how), part="all", measure=measure, blind=blind)


ADA, BEN = "aaarreaaarraeraaraaa", "aarrreaaaraaeaaaraaa"


def test_a_pair_has_the_kappa_of_scikit_learn():
    table = agreement.coefficients(events(*said("Ada", ADA), *said("Ben", BEN)))
    pair = only(table, part="pair", measure="cohen_kappa")
    assert pair["estimate"] == pytest.approx(cohen_kappa_score(list(ADA), list(BEN)), abs=1e-12)
    assert (pair["name"], pair["other"], pair["n"], pair["n_raters"]) == ("Ada", "Ben", 20, 2)
    assert pair["low"] < pair["estimate"] < pair["high"]
    raw = only(table, part="all", measure="raw_agreement", blind=False)
    assert raw["estimate"] == pytest.approx(np.mean([a == b for a, b in zip(ADA, BEN, strict=True)]))


def test_only_opinions_on_the_same_text_stand_beside_each_other():
    rows = [*said("Ada", ADA), *said("Ben", BEN)]
    both = overall(*rows)
    for column in ("shown_sha256", "asked_sha256"):
        elsewhere = {column: decisions.sha256("another")}
        assert overall(*rows, *said("Cleo", "a" * 20, **elsewhere)) == both
        apart = overall(*said("Ada", ADA), *said("Ben", BEN, **elsewhere))
        assert (apart["estimate"], apart["reason"]) == (None, "no item has two opinions")
    assert overall(*said("Ada", ADA), *said("Ben", BEN, shown_sha256=None))["estimate"] is None, "no text, no opinion"


def test_of_each_reviewer_the_latest_live_verdict_counts():
    late = [{"event_id": "n1", "custom_id": "r-0", "reviewer": "Ben", "decision": "reject"}]
    back = [{"event_id": "n2", "custom_id": "r-0", "reviewer": "Ben", "decision": "undo", "undoes": "n1"}]
    rows = [*said("Ada", ADA), *said("Ben", BEN)]
    assert overall(*rows, *late)["estimate"] < overall(*rows)["estimate"]
    assert overall(*rows, *late, *back) == overall(*rows)


def test_adjudications_planted_texts_and_what_is_no_verdict_are_no_opinions():
    rows = [*said("Ada", ADA), *said("Ben", BEN)]
    more = [
        {"reviewer": "Cleo", "decision": "adjudicate", "event_id": "c1"},
        {"reviewer": "Cleo", "decision": "approve", "planted": "gold", "event_id": "c2"},
        {"reviewer": "Ben", "decision": "reject", "planted": "repeat", "event_id": "c3"},
        {"reviewer": "Cleo", "decision": "skip", "event_id": "c4"},
        {"reviewer": "Cleo", "decision": "label", "event_id": "c5"},
        {"reviewer": "Cleo", "decision": "flag", "event_id": "c6"},
    ]
    assert overall(*rows, *more) == overall(*rows)


def test_blind_opinions_never_stand_beside_others():
    rows = [*said("Ada", ADA, blind=True), *said("Ben", BEN, blind=True), *said("Cleo", "r" * 20, blind=False)]
    assert overall(*rows, blind=True)["n"] == 20
    assert overall(*rows, blind=True)["n_raters"] == 2
    assert overall(*rows, blind=False)["reason"] == "no item has two opinions"
    after = [
        row | {"event_id": "again", "blind": False, "decision": "reject"} for row in rows if row["reviewer"] == "Ben"
    ]
    assert overall(*rows, after[0], blind=True)["n"] == 19, "who saw the others and changed their mind is not blind"


def test_what_cannot_be_told_is_null_with_why():
    alone = overall(*said("Ada", ADA))
    assert (alone["estimate"], alone["n"]) == (None, 0)
    same = overall(*said("Ada", "aaa"), *said("Ben", "aaa"))
    assert (same["estimate"], same["low"], same["n"]) == (None, None, 3)
    assert same["reason"] == "all opinions on 3 items are approve: nothing sets agreement apart from chance"
    nobody = agreement.coefficients(pl.DataFrame(schema=decisions.SCHEMA))
    assert set(nobody["reason"]) == {"no item has two opinions"}
    assert set(nobody["part"]) == {"all"}


def test_agreement_by_category_and_by_reviewer():
    rows = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(20)], "category": ["nurse"] * 8 + ["chef"] * 12})
    three = events(*said("Ada", ADA), *said("Ben", BEN), *said("Cleo", BEN))
    table = agreement.coefficients(three, rows=rows)
    nurse = only(table, part="category", name="nurse", measure="raw_agreement")
    first = [(a, b) for a, b in zip(ADA, BEN, strict=True)][:8]
    # of three opinions of which two are the same one pair of three agrees
    assert nurse["estimate"] == pytest.approx(np.mean([1 if a == b else 1 / 3 for a, b in first]))
    assert nurse["n"] == 8
    ada, ben = (only(table, part="reviewer", name=name, measure="raw_agreement") for name in ("Ada", "Ben"))
    share = np.mean([a == b for a, b in zip(ADA, BEN, strict=True)])
    assert ada["estimate"] == pytest.approx(share)
    assert ben["estimate"] == pytest.approx((share + 1) / 2)
    assert table.filter(part="pair")["measure"].to_list() == ["cohen_kappa", "gwet_ac1", "raw_agreement"] * 3


def test_ratings_are_ordinal_and_categories_are_not():
    stars = {"Ada": [1, 2, 3, 4, 5, 5, 4, 2], "Ben": [1, 2, 3, 5, 5, 4, 4, 1]}
    rows = [
        row | {"ratings": json.dumps({"tone of voice": n, 'a "quote"': 1}), "category": "chef" if n > 3 else "nurse"}
        for name, given in stars.items()
        for row, n in zip(said(name, "a" * 8), given, strict=True)
    ]
    ordinal, nominal = overall(*rows, of="tone of voice"), overall(*rows, of="tone of voice", scale="nominal")
    assert ordinal["estimate"] > 0.85 > nominal["estimate"]
    assert "are 1" in overall(*rows, of='a "quote"')["reason"]
    assert overall(*rows, of="category")["estimate"] == 1
    with pytest.raises(ParameterError, match=r"nobody has rated 'tone'.*tone of voice"):
        overall(*rows, of="tone")


def test_a_reviewer_agrees_with_themselves_as_far_as_repeats_say():
    again = [row | {"event_id": f"again-{i}", "planted": "repeat"} for i, row in enumerate(said("Ada", "aarraa"))]
    table = agreement.repeats(events(*said("Ada", "aarrra"), *again, *said("Ben", "aaaaaa")))
    ada = only(table, reviewer="Ada", measure="raw_agreement")
    assert (ada["estimate"], ada["n"]) == (pytest.approx(5 / 6), 6)
    assert only(table, reviewer="Ada", measure="cohen_kappa")["estimate"] == pytest.approx(
        cohen_kappa_score(list("aarrra"), list("aarraa"))
    )
    assert only(table, reviewer=None, measure="raw_agreement")["estimate"] == pytest.approx(5 / 6)
    assert "Ben" not in table["reviewer"], "nothing was shown to Ben again"
    before = agreement.repeats(events(*again, *said("Ada", "aarrra")))
    assert set(before["n"]) == {0}, "a repeat is of what was said before it"


def test_accuracy_is_of_planted_gold_alone():
    gold = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(6)], "decision": ["approve"] * 3 + ["reject"] * 3})
    rows = [*said("Ada", "aarrea", planted="gold"), *said("Ben", "rrrrrr")]
    (ada,) = agreement.accuracy(events(*rows), gold).to_dicts()
    assert (ada["reviewer"], ada["n"], ada["n_missed"], ada["n_refused"]) == ("Ada", 6, 1, 1)
    assert ada["accuracy"] == pytest.approx(4 / 6)
    # Clopper and Pearson, 4 of 6
    assert (ada["low"], ada["high"]) == (pytest.approx(0.2228, abs=1e-4), pytest.approx(0.9567, abs=1e-4))


def test_a_reviewer_who_drifts_is_seen_and_one_who_does_not_is_not():
    hours = [row | {"decided_at": NOON + timedelta(minutes=i)} for i, row in enumerate(said("Ada", "a" * 120))]
    tired = [
        row | {"decided_at": NOON + timedelta(minutes=i)} for i, row in enumerate(said("Ben", "a" * 60 + "r" * 60))
    ]
    table = agreement.drift(events(*hours, *tired, *said("Cleo", "a" * 120)))
    ben = table.filter(reviewer="Ben")
    assert ben["start"].to_list() == [NOON, NOON + timedelta(hours=1)]
    assert ben["agreement"].to_list() == [1, 0]
    assert ben["high"][1] < 0.1 < 0.9 < ben["low"][0]
    assert ben["p_holm"].max() < 1e-10
    assert table.filter(reviewer="Ada")["p_holm"].min() == 1
    gold = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(120)], "decision": "approve"})
    planted = [row | {"planted": "gold"} for row in tired]
    right = agreement.drift(events(*planted), gold=gold, every="30m")
    assert right.select("agreement", "n").rows() == [(1, 30), (1, 30), (0, 30), (0, 30)]
    single = agreement.drift(events(*planted[:20]), gold=gold)
    assert (single["p"].item(), single["p_holm"].item()) == (None, None)


def test_speed_cuts_pauses_and_knows_older_events():
    dwell = [{"decision": "approve", "dwell_ms": ms, "event_id": f"d{ms}"} for ms in (2_000, 4_000, 6_000, 3_600_000)]
    ada = agreement.speed(events(*dwell)).to_dicts()[0]
    assert (ada["n"], ada["minutes"], ada["median_s"]) == (4, pytest.approx(72 / 60), 5.0)
    assert ada["per_minute"] == pytest.approx(60 / 18)
    assert ada["low"] < ada["per_minute"] < ada["high"]
    older = [
        {"decision": "skip", "event_id": "o1", "shown_at": NOON - timedelta(seconds=8), "decided_at": NOON},
        {"decision": "reject", "event_id": "o2", "decided_at": NOON + timedelta(seconds=12)},
        {"decision": "label", "event_id": "o3", "decided_at": NOON + timedelta(seconds=13)},
    ]
    assert agreement.seconds(events(*older))["seconds"].to_list() == [8, 12]
    first = {"decision": "approve", "event_id": "f"}
    assert agreement.speed(events(first)).is_empty(), "nothing says how long the first one took"


def test_half_a_hundred_thousand_events_take_little():
    """Eight reviewers, each text by two: what a page of the lead asks for."""
    rng = np.random.default_rng(1)
    n = 25_000
    letters = np.array(["approve", "reject", "edit"])
    parts = []
    for half in range(2):
        parts.append(
            pl.DataFrame({
                "event_id": [f"{half}-{i}" for i in range(n)],
                "custom_id": [f"r-{i}" for i in range(n)],
                "reviewer": [f"R{(i + half * (1 + i // 8 % 7)) % 8}" for i in range(n)],
                "decision": letters[np.where(rng.random(n) < 0.8, 0, rng.integers(0, 3, n))],
                "shown_sha256": "x", "asked_sha256": "y", "blind": True,
                "decided_at": [NOON + timedelta(seconds=i) for i in range(n)],
            })
        )  # fmt: skip
    table = agreement.coefficients(decisions.complete(pl.concat(parts)), n_boot=200)
    assert only(table, part="all", measure="raw_agreement", blind=True)["n"] == n
    assert table.filter(part="pair")["n"].sum() == 3 * n
