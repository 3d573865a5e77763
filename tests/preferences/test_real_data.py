"""Preferences and win rates of real answers of real models, which stand beside the checkout."""

import json
from collections import Counter
from itertools import product

import polars as pl
import pytest
from toys import TASK

from arislab import pairwise, preferences
from arislab.curate import verdicts
from arislab.review import decisions
from arislab.task import load

MODELS, N = 6, 60


@pytest.fixture
def answers(shared):
    """Answers of six models to sixty instructions, with the chance that a judge prefers each to a reference."""
    frame = pl.read_parquet(shared / "alpaca_eval" / "outputs_dev.parquet").drop_nulls()
    asked = frame["instruction"].unique().sort().head(N).to_list()
    models = frame["generator"].unique().sort().head(MODELS).to_list()
    rows = frame.filter(pl.col("instruction").is_in(asked), pl.col("generator").is_in(models))
    number = {text: i for i, text in enumerate(asked)}
    return rows.with_columns(number=pl.col("instruction").replace_strict(number)).sort("number", "generator")


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "shout.py").write_text(TASK)
    return load(tmp_path / "shout.py")


def people(split):
    names = [f"c{i:04d}" for i in range(N)]
    return pl.DataFrame({"candidate_id": names, "group_id": names}).with_columns(
        profile=pl.lit('{"text": "?"}'), split=pl.lit(split)
    )


def test_each_pair_of_real_answers_is_what_was_approved_over_what_was_rejected(answers, spec):
    raw = answers.select(
        custom_id=pl.concat_str(pl.lit("r-"), "number", pl.lit("-"), "generator"),
        candidate_id=pl.concat_str(pl.lit("c"), pl.col("number").cast(pl.String).str.zfill(4)),
        task=pl.lit("shout"),
        input="instruction",
        messages=pl.Series([json.dumps([{"role": "user", "content": text}]) for text in answers["instruction"]]),
        llm_output="output",
        model="generator",
        status=pl.lit("ok"),
        chance="win_prob",
    )
    shown = raw.rename({"llm_output": "output"}).to_dicts()
    says = ["approve" if row["chance"] > 0.5 else "reject" for row in shown]
    reviews = pl.concat([decisions.event(row, what, reviewer="Ada") for row, what in zip(shown, says, strict=True)])
    judged = verdicts.judged(raw, people("train"), spec, reviews)
    pairs = preferences.mined(judged, raw, people("train"), task=spec, reviews=reviews)
    expected = Counter()
    for number in set(raw["candidate_id"]):
        own = [(row["output"], what) for row, what in zip(shown, says, strict=True) if row["candidate_id"] == number]
        good, bad = ({text for text, what in own if what == word} for word in ("approve", "reject"))
        expected[number] = len({(a, b) for a, b in product(good - bad, bad - good) if a.strip() != b.strip()})
    found = dict(pairs.group_by("candidate_id").len().iter_rows())
    assert found == {name: n for name, n in expected.items() if n}
    assert sum(found.values()) > 100
    chance = {(row["candidate_id"], row["output"]): row["chance"] for row in shown}
    for row in pairs.iter_rows(named=True):
        better, worse = (chance[row["candidate_id"], row[side]] for side in ("chosen", "rejected"))
        assert better > 0.5 >= worse
    assert preferences.withdrawn(pairs, reviews) == []


def test_the_win_rate_over_real_answers_is_the_share_that_voters_prefer(answers, spec):
    arms = answers["generator"].unique().sort().to_list()[:2]
    scores = answers.select(
        arm="generator",
        candidate_id=pl.concat_str(pl.lit("c"), pl.col("number").cast(pl.String).str.zfill(4)),
        custom_id=pl.concat_str("number", "generator"),
        output="output",
        chance="win_prob",
    )
    pairs = pairwise.pairs(scores, people("test"), spec, arms=arms, n=N, n_people=1, seed=1)
    assert pairs.height > N / 2
    chance = {(row["candidate_id"], row["output"]): row["chance"] for row in scores.iter_rows(named=True)}
    kept = []
    desk = pairwise.Desk(pairs, votes=lambda: pl.DataFrame(schema=pairwise.EVENTS), store=kept.append)
    name_of, n_won = dict(pairs.select("pair_id", "candidate_id").iter_rows()), 0
    for item in desk.take("Ada", N):
        left, right = (chance[name_of[item["custom_id"]], item[side]] for side in ("left", "right"))
        event = {"event_id": item["custom_id"], "custom_id": item["custom_id"], "shown_sha256": item["shown_sha256"]}
        desk.decide([event | {"decision": "left" if left > right else "right"}], "Ada")
    votes = pl.concat(kept)
    for pair in pairs.iter_rows(named=True):
        arm, other = (pair["left"], pair["right"])[:: 1 if pair["arm_is_left"] else -1]
        n_won += chance[pair["candidate_id"], arm] > chance[pair["candidate_id"], other]
    row = pairwise.win_rate(pairs, votes).row(0, named=True)
    assert (row["n_votes"], row["n_waiting"]) == (pairs.height, 0)
    assert row["win_rate"] == pytest.approx(n_won / pairs.height)
