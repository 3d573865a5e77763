"""What a gate looks at beside the gain, held against numbers that are known by hand."""

import json
import math
import random

import polars as pl
import pytest

from arislab import evaluate, models
from arislab.models import beside
from arislab.task import load

FEW = {"arm": "finetuned", "baseline": "baseline", "margin": 0.03}


def rates(n, *, lost=0, won=0, per_group=1):
    """So many candidates whose answers are whole in both arms, but for those that are lost or won."""
    rows = []
    for i in range(n):
        before = not lost <= i < lost + won
        own = {"candidate_id": f"c{i}", "group_id": f"g{i // per_group}", "is_valid": None, "is_answered": True}
        rows += [own | {"arm": "baseline", "is_whole": before}, own | {"arm": "finetuned", "is_whole": i >= lost}]
    return pl.DataFrame(rows, schema_overrides={"is_valid": pl.Boolean})


def contrast(difference, low, high, n=100, baseline="icl"):
    row = {"arm": "finetuned", "baseline": baseline, "difference": difference, "low": low, "high": high, "n": n}
    return pl.DataFrame([row])


@pytest.mark.parametrize(
    ("gain", "verdict", "says"),
    [
        ((0.03, 0.01, 0.05), "passed", "better than the adapter that it began with (+0.030 [+0.010, +0.050])"),
        ((0.001, -0.014, 0.016), "unclear", "not shown to be better than the adapter that it began with, which costs"),
        ((-0.03, -0.05, -0.01), "failed", "worse than the adapter that it began with"),
        ((math.nan, math.nan, math.nan), "unclear", "not shown to be better"),
    ],
)
def test_an_adapter_that_was_trained_further_must_be_better_than_the_one_it_began_with(gain, verdict, says):
    compared = pl.concat([contrast(0.2, 0.1, 0.3), contrast(*gain, baseline=beside.SFT)])
    costs = pl.DataFrame({"arm": ["finetuned", "icl"], "prompt_tokens": [60.0, 300.0]})
    checks = models.checks(compared, arm="finetuned", rates=rates(200), costs=costs, forgetting=None)
    (said,) = [check for check in checks if check["check"] == "where it began"]
    assert said["verdict"] == verdict
    assert says in said["reason"]
    # (2.8 * .0077 / .001)^2 * 100: of a gain as small as this, a great many
    assert said["n_needed"] == (None if verdict != "unclear" or math.isnan(gain[0]) else 45_919)
    alone = models.checks(contrast(0.2, 0.1, 0.3), arm="finetuned", rates=rates(200), costs=costs, forgetting=None)
    assert "where it began" not in [check["check"] for check in alone]


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        (rates(122), "passed"),  # 1 - 0.025 ** (1 / 122) = 0.0298: nothing was lost, and little can be
        (rates(121), "unclear"),  # 0.0300…3
        (rates(244, per_group=2), "passed"),
        (rates(242, per_group=2), "unclear"),  # two of a group tell no more than one
        (rates(200, lost=30), "failed"),
        (rates(1_000, lost=20), "unclear"),  # 2 points may be lost; 3.07 are not excluded
        (rates(20, won=10), "passed"),  # far better than before: that much cannot be lost at once
        (rates(200, lost=5), "unclear"),
    ],
)
def test_a_rate_may_not_be_lower_by_more_than_the_margin_as_exact_bounds_have_it(case, verdict):
    said = beside.not_lower(case, "is_whole", **FEW)
    assert said["verdict"] == verdict
    assert (said["n_needed"] is None) == (verdict != "unclear")


def test_a_large_group_that_is_lost_is_no_single_one_of_many():
    big = [{"candidate_id": f"x{i}", "group_id": "x", "is_valid": None, "is_answered": True} for i in range(900)]
    rows = [row | {"arm": arm, "is_whole": arm == "baseline"} for row in big for arm in ("baseline", "finetuned")]
    said = beside.not_lower(pl.concat([rates(399), pl.DataFrame(rows, schema=rates(1).schema)]), "is_whole", **FEW)
    assert (said["verdict"], round(said["difference"], 3)) == ("unclear", -0.693)
    assert said["low"] < said["difference"] < said["high"]


def test_how_many_rows_would_decide():
    assert beside.not_lower(rates(60), "is_whole", **FEW)["n_needed"] in range(122, 135)
    assert beside.not_lower(rates(60), "is_valid", **FEW)["verdict"] == "not measured"
    # a difference of 0.1 with a standard error of 0.05 at 100 rows: 100 * (2.8 * 0.05 / 0.1) ** 2
    row = {"difference": 0.1, "low": 0.1 - 1.96 * 0.05, "high": 0.1 + 1.96 * 0.05, "n": 100}
    assert beside.rows_for(row, 0.0) == math.ceil(100 * 1.4**2)
    assert beside.rows_for(row, 0.1) is None, "no number of rows tells a difference from itself"


@pytest.mark.slow
def test_a_rate_that_is_lower_by_the_margin_passes_at_most_as_often_as_promised():
    drawn, n_passed, n_tries, n = random.Random(3), 0, 400, 300
    for _ in range(n_tries):
        lost = sum(drawn.random() < FEW["margin"] for _ in range(n))
        n_passed += beside.not_lower(rates(n, lost=lost), "is_whole", **FEW)["verdict"] == "passed"
    assert n_passed / n_tries <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / n_tries)


COSTS = pl.DataFrame({"arm": ["finetuned", "icl"], "prompt_tokens": [90_000.0, 600_000.0]})


@pytest.mark.parametrize(
    ("row", "costs", "verdict"),
    [
        (contrast(0.0, -0.01, 0.01), COSTS, "passed"),
        (contrast(-0.1, -0.15, -0.05), COSTS, "failed"),
        (contrast(-0.02, -0.06, 0.02), COSTS, "passed"),  # cheaper, and not shown to be worse
        (contrast(-0.4, -0.9, -0.019, n=6), COSTS, "unclear"),  # cheaper, and too far below to be let through
        (contrast(float("nan"), float("nan"), float("nan"), n=1), COSTS, "unclear"),
        (contrast(-0.02, -0.06, 0.02), COSTS.with_columns(prompt_tokens=pl.lit(9.0)), "unclear"),
        (contrast(-0.02, -0.06, 0.02), COSTS.clear(), "unclear"),
        (contrast(0.3, 0.2, 0.4, baseline="baseline"), COSTS, "not measured"),
    ],
)
def test_beside_examples_in_context_an_adapter_is_as_good_or_cheaper_and_not_shown_to_be_worse(row, costs, verdict):
    said = beside.beside_icl(row, costs, arm="finetuned", icl="icl", margin=0.02)
    assert said["verdict"] == verdict
    if costs.height and verdict != "not measured":
        assert "prompt tokens per 1,000 answers" in said["reason"]


def test_a_check_that_fails_holds_and_one_that_is_unclear_asks_for_rows():
    comparison = contrast(0.3, 0.2, 0.4, baseline="baseline").with_columns(p_holm=pl.lit(0.01))
    gated = {
        verdict: models.gate(
            comparison, arm="finetuned", checks=[{"check": "x", "verdict": verdict, "reason": "why", "n_needed": 500}]
        )
        for verdict in ("passed", "failed", "unclear", "not measured")
    }
    assert {k: v["verdict"] for k, v in gated.items()} == {
        "passed": "promote",
        "failed": "hold",
        "unclear": "insufficient evidence",
        "not measured": "promote",
    }
    assert {k: v["n_needed"] for k, v in gated.items()} == dict.fromkeys(gated) | {"unclear": 500}
    assert gated["failed"]["reason"].endswith("; why")
    assert json.dumps(gated)
    assert gated["not measured"]["reason"].endswith("not measured: x")
    named = beside._forgets(comparison.clear(), arm="finetuned", baseline="baseline", margin=0.02)
    assert named["verdict"] == "unclear", "rows that the task names and nobody compared"
    assert beside._forgets(None, arm="finetuned", baseline="baseline", margin=0.02)["verdict"] == "not measured"
    few = models.gate(
        contrast(0.1, -0.1, 0.3, 50, baseline="baseline").with_columns(p_holm=pl.lit(0.4)), arm="finetuned"
    )
    assert (few["verdict"], few["n_needed"]) == (
        "insufficient evidence",
        math.ceil(50 * 2.8**2 * (0.2 / 1.96 / 0.1) ** 2),
    )


TASK = (
    "def to_messages(c): return [{'role': 'user', 'content': 'q'}]\n"
    "def good(output): return 1.0\nSCORERS, WEIGHTS, GOLD = {'good': good}, {'good': 1.0}, [{'output': 'x'}]\n"
)


def test_rates_and_costs_of_answers_as_they_came(tmp_path):
    (tmp_path / "t.py").write_text(TASK + "SCHEMA = {'type': 'object', 'required': ['a']}\n")
    rows = [
        ("c0", "ok", '{"a": 1}', 10, 5),
        ("c1", "ok", '{"b": 1}', 20, 5),
        ("c2", "truncated", '{"a": ', 30, 5),
        ("c3", "refused", "no", 40, 5),
        ("c4", "unavailable", None, None, None),
    ]
    columns = ["candidate_id", "status", "output", "prompt_tokens", "completion_tokens"]
    scores = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        arm=pl.lit("finetuned"), latency_s=pl.lit(None, dtype=pl.Float64)
    )
    people = pl.DataFrame({"candidate_id": [r[0] for r in rows], "group_id": [r[0] for r in rows]})
    shown = evaluate.rates(scores, people, load(str(tmp_path / "t.py")))
    assert shown.select("is_valid", "is_whole", "is_answered").rows() == [
        (True, True, True),
        (False, True, True),
        (False, False, True),
        (False, True, False),
        (None, None, False),  # no answer is no answer
    ]
    assert evaluate.rates(scores, people, load(str(tmp_path / "t.py")))["is_answered"].sum() == 3
    assert evaluate.costs(scores).row(0, named=True) == {
        "arm": "finetuned",
        "n": 4,
        "prompt_tokens": 25_000.0,
        "completion_tokens": 5_000.0,
        "latency_s": None,
        "n_timed": 0,
    }
    (tmp_path / "free.py").write_text(TASK)
    assert evaluate.rates(scores, people, load(str(tmp_path / "free.py")))["is_valid"].null_count() == 5
