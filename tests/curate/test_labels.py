"""Verdicts as labels: which of them say something of rows that nobody looked at."""

from datetime import timedelta
from itertools import combinations

import polars as pl
import pytest
from toys import NOON, OUTPUT

from arislab import curate
from arislab.review import decisions

BEFORE = NOON - timedelta(days=1)


def population(n, *, at=BEFORE, **more):
    rows = [{"custom_id": f"r-{i}", "created_at": at, "quality": 0.5} | more for i in range(n)]
    return pl.DataFrame(rows, schema_overrides={"quality": pl.Float64})


def events(*verdicts):
    """custom_id, decision, queue, chance, and minutes after noon, of each."""
    rows = [
        {
            "event_id": f"e{i}", "custom_id": name, "reviewer": "Ada", "decision": decision, "queue": queue,
            "why": "kept", "inclusion_prob": chance, "shown_at": NOON + timedelta(minutes=minute),
            "decided_at": NOON + timedelta(minutes=minute), "shown_sha256": decisions.sha256(OUTPUT),
        }
        for i, (name, decision, queue, chance, minute) in enumerate(verdicts)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=decisions.SCHEMA)


def judged(*verdicts, holds=True):
    schema = {"custom_id": pl.String, "verdict": pl.String, "holds": pl.Boolean}
    return pl.DataFrame([(name, said, holds) for name, said, *_ in verdicts], schema=schema, orient="row")


def found(rows, *verdicts, **more):
    return curate.labelled(rows, judged(*verdicts, **more), events(*verdicts))


def test_one_queue_weighs_its_rows_by_their_chance():
    one = found(population(10), ("r-1", "approve", "q", 0.2, 0), ("r-2", "reject", "q", 0.2, 1))
    assert one.frame.select("custom_id", "good", "weight").rows() == [("r-1", True, 5.0), ("r-2", False, 5.0)]
    assert one.frame["stratum"].to_list() == ["q kept", "q kept"]
    assert repr(one) == "2 labels of 10 rows that could be drawn: 1 approved as they came"


def test_an_answer_that_had_to_be_edited_was_not_good_as_it_came():
    one = found(population(4), ("r-0", "edit", "q", 0.5, 0), ("r-1", "approve", "q", 0.5, 0))
    assert dict(one.frame.select("custom_id", "good").rows()) == {"r-0": False, "r-1": True}


def test_who_stops_early_has_labels_for_all_rows_all_the_same():
    one = found(population(100), *[(f"r-{i}", "approve", "q", 0.2, i) for i in range(5)])
    assert one.frame["weight"].sum() == pytest.approx(100)


def test_two_queues_estimate_the_whole_without_bias():
    """Over every pair of draws of 2 of 6, then 2 of the 4 left, the mean of the estimates is the truth."""
    good = {"r-0": True, "r-1": True, "r-2": False, "r-3": True, "r-4": False, "r-5": False}
    estimates = []
    for first in combinations(good, 2):
        for second in combinations([name for name in good if name not in first], 2):
            verdicts = [
                (name, "approve" if good[name] else "reject", queue, chance, minute)
                for names, queue, chance, minute in ((first, "a", 1 / 3, 0), (second, "b", 1 / 2, 60))
                for name in names
            ]
            frame = found(population(6), *verdicts).frame
            assert frame.height == 4
            estimates.append((frame["weight"] * frame["good"]).sum())
    assert sum(estimates) / len(estimates) == pytest.approx(3)


def test_once_every_row_has_a_label_nothing_is_estimated():
    first = [(f"r-{i}", "approve", "a", 1.0, i) for i in range(15)]  # of a queue of 30 of which half was done
    second = [(f"r-{i}", "reject", "b", 1.0, 100 + i) for i in range(15, 30)]
    frame = found(population(30), *first, *second).frame
    assert set(frame["weight"]) == {1.0}
    assert (frame["weight"] * frame["good"]).sum() == 15


def test_verdicts_on_rows_that_no_queue_drew_are_no_labels():
    verdicts = [("r-0", "approve", None, None, 0), ("r-1", "approve", "q", 0.5, 5), ("r-2", "reject", "q", 0.5, 5)]
    one = found(population(5), *verdicts)
    assert one.frame["custom_id"].to_list() == ["r-1", "r-2"]
    assert one.n_picked == 1
    assert "1 verdicts are no labels" in repr(one)


def test_a_verdict_about_another_text_is_no_label():
    assert found(population(5), ("r-1", "approve", "q", 0.5, 0), holds=False).frame.is_empty()


def test_of_rows_that_came_after_the_last_queue_nothing_is_said():
    late = population(3, at=NOON + timedelta(days=1)).with_columns(custom_id="n" + pl.col("custom_id"))
    one = found(pl.concat([population(10), late]), ("r-1", "approve", "q", 0.2, 0), ("r-2", "reject", "q", 0.2, 0))
    assert (one.population.height, one.n_not_drawable) == (10, 3)
    assert one.frame["weight"].sum() == pytest.approx(10)
    assert "of 3 rows nothing is said" in repr(one)


def test_a_queue_that_could_not_draw_from_all_rows_counts_no_more():
    late = population(10, at=NOON + timedelta(minutes=30)).with_columns(custom_id="n" + pl.col("custom_id"))
    rows = pl.concat([population(10), late])
    one = found(rows, ("r-1", "approve", "a", 0.5, 0), ("nr-2", "reject", "b", 0.1, 60))
    assert one.frame["custom_id"].to_list() == ["nr-2"]
    assert (one.population.height, one.n_picked) == (20, 1)


def test_rows_without_a_quality_could_not_be_drawn():
    rows = population(4).with_columns(quality=pl.when(pl.col("custom_id") != "r-3").then("quality"))
    assert found(rows, ("r-1", "approve", "q", 0.5, 0)).population.height == 3


def test_nobody_has_said_anything_yet():
    one = curate.labelled(population(3), judged(), events())
    assert (one.frame.height, one.population.height, one.n_not_drawable) == (0, 3, 0)
    assert repr(one).startswith("no labels: nobody has decided")


def test_what_is_decided_on_picked_rows_is_no_label_and_leaves_those_of_a_draw_as_they_are():
    """A queue over a selection draws from that alone: weighed as a draw from all rows it would speak for the rest."""
    drawn = [(f"r-{i}", "approve" if i % 2 else "reject", "q", 0.2, i) for i in range(4)]
    picked = [(f"r-{i}", "approve", None, None, 10 + i) for i in range(10, 15)]
    alone, beside = found(population(20), *drawn), found(population(20), *drawn, *picked)
    assert beside.frame.equals(alone.frame)
    assert beside.n_picked == 5
    assert found(population(20), *picked).frame.is_empty()
