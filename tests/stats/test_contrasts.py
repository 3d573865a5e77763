import math

import numpy as np
import polars as pl
import pytest

from arislab import stats
from arislab.errors import ParameterError


def test_holm_gives_the_textbook_values_in_the_order_given():
    # Holm's step-down by hand: 4*.005, 3*.01, max(2*.03, ...), max(.04, ...)
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert stats.holm([]).tolist() == []


def test_holm_keeps_a_missing_p_missing_and_does_not_count_it():
    adjusted = stats.holm([0.02, math.nan, 0.04])
    assert math.isnan(adjusted[1])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])


def scores():
    quality = {
        "baseline": [0.1, 0.2, 0.3, None, 0.5],
        "icl": [0.2, 0.2, 0.5, 0.9, None],
        "finetuned": [0.6, 0.7, 0.8, 0.9, 1.0],
    }
    return pl.DataFrame(
        [
            {"arm": arm, "candidate_id": f"c{i}", "quality": q}
            for arm, values in quality.items()
            for i, q in enumerate(values)
        ]
    )


def test_compare_uses_candidates_scored_in_both_arms_and_counts_the_rest():
    table = stats.compare(scores(), baseline="baseline")
    assert table["arm"].to_list() == ["icl", "finetuned"]
    assert table["n"].to_list() == [3, 4]
    assert table["n_dropped"].to_list() == [2, 1]
    assert table["difference"].to_list() == pytest.approx([0.1, 0.5])
    assert table.select("wins", "ties", "losses").row(0) == (2, 1, 0)
    assert table["p_holm"].to_list() == pytest.approx(stats.holm(table["p"]).tolist())


def test_compare_does_not_depend_on_the_order_of_rows():
    shuffled = scores().sample(fraction=1.0, shuffle=True, seed=4)
    contrasts = [("finetuned", "icl"), ("icl", "baseline")]
    assert stats.compare(shuffled, contrasts=contrasts).equals(stats.compare(scores(), contrasts=contrasts))


def test_compare_averages_the_samples_of_a_candidate_first():
    doubled = pl.concat([scores(), scores().with_columns(pl.col("quality") + 0.2)])
    table = stats.compare(doubled, baseline="baseline")
    assert table["n"].to_list() == [3, 4]


def test_compare_names_the_arms_it_has():
    with pytest.raises(ParameterError, match="no arm 'base' in the scores; did you mean 'baseline'"):
        stats.compare(scores(), baseline="base")
    with pytest.raises(ParameterError, match="exactly one"):
        stats.compare(scores())


def test_the_minimal_detectable_effect_is_the_textbook_formula():
    # two-sided 5 %, power 80 %: (1.95996 + 0.84162) * sd / sqrt(n)
    assert stats.minimal_detectable_effect(1.0, 100) == pytest.approx(0.280158, abs=1e-6)
    assert stats.minimal_detectable_effect(1.0, 100, n_contrasts=3) > stats.minimal_detectable_effect(1.0, 100)
    with pytest.raises(ParameterError, match="n >= 1"):
        stats.minimal_detectable_effect(1.0, 0)


# --- what a hold-out may claim ----------------------------------------------------------------------------------------


def holdout(rng, n, gain):
    """Pass or fail of two arms on n rows of very different difficulty; ``gain`` is in logits."""
    difficulty = rng.normal(0.6, 3.0, n)
    return [(rng.random(n) < 1 / (1 + np.exp(-(difficulty + g)))).astype(float) for g in (gain, 0.0)]


def true_gain(gain):
    """The same in quality: integrated over difficulties."""
    x, w = np.polynomial.hermite_e.hermegauss(201)
    means = [float((w / w.sum()) @ (1 / (1 + np.exp(-(0.6 + 3.0 * x + g))))) for g in (gain, 0.0)]
    return means[0] - means[1]


@pytest.mark.parametrize("gain", [0.0, 0.5, 2.0])
def test_the_interval_of_a_holdout_covers_the_true_difference(gain):
    rng, truth, runs = np.random.default_rng(21), true_gain(gain), 1_000
    covered = sum(
        d.low <= truth <= d.high
        for d in (stats.paired_difference(*holdout(rng, 200, gain), seed=r, n_boot=1_000) for r in range(runs))
    )
    assert 0.93 <= covered / runs <= 0.97


def compared(rng, gains, n=200):
    arms = {"base": holdout(rng, n, 0.0)[1]} | {name: holdout(rng, n, gain)[0] for name, gain in gains.items()}
    frame = pl.concat(
        [
            pl.DataFrame({"arm": [name] * n, "candidate_id": [f"c{i:04d}" for i in range(n)], "quality": values})
            for name, values in arms.items()
        ]
    )
    return stats.verdicts(stats.compare(frame, baseline="base", n_boot=1_000))


@pytest.mark.slow
def test_equal_arms_are_told_apart_in_at_most_one_of_twenty_families():
    rng, runs = np.random.default_rng(22), 400
    families = [compared(rng, dict.fromkeys("xyz", 0.0)) for _ in range(runs)]
    assert {f["verdict"].n_unique() for f in families} <= {1, 2}
    wrong = sum((f["verdict"] != "not shown").any() for f in families)
    assert wrong / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_verdicts_name_what_is_better_worse_and_not_shown():
    table = compared(np.random.default_rng(23), {"better": 3.0, "worse": -3.0, "same": 0.0}, n=1_000)
    assert dict(table.select("arm", "verdict").iter_rows()) == {
        "better": "improves",
        "worse": "worse",
        "same": "not shown",
    }
    se = (table["high"] - table["low"]) / 3.92
    assert table["mde"].to_list() == pytest.approx((2.8 * se).to_list(), rel=0.01)
    few = pl.DataFrame({"arm": ["a", "b"], "candidate_id": ["c", "c"], "quality": [1.0, 0.0]})
    assert stats.verdicts(stats.compare(few, baseline="b")).select("mde", "verdict").row(0) == (None, "not shown")


def test_an_effect_of_the_minimal_detectable_size_is_seen_in_four_of_five_runs():
    rng, runs, n = np.random.default_rng(24), 400, 200
    sd = 0.4
    effect = stats.minimal_detectable_effect(sd, n)
    shown = sum(
        stats.paired_difference(rng.normal(effect, sd, n), np.zeros(n), seed=r, n_boot=1_000).low > 0
        for r in range(runs)
    )
    assert 0.74 <= shown / runs <= 0.86


def test_candidates_of_one_group_are_resampled_together():
    rng = np.random.default_rng(8)
    names = [f"c{i:03d}" for i in range(120)]
    groups = pl.DataFrame({"candidate_id": names[:100], "group_id": [f"g{i // 10}" for i in range(100)]})
    shift = np.repeat(rng.normal(0.05, 0.2, 12), 10)
    rows = [("a", n, 0.5 + s) for n, s in zip(names, shift, strict=True)] + [("b", n, 0.5) for n in names]
    frame = pl.DataFrame(rows, schema=["arm", "candidate_id", "report"], orient="row")
    how = {"contrasts": [("a", "b")], "by": "report"}
    alone, together = stats.compare(frame, **how), stats.compare(frame, groups=groups, **how)
    assert (alone["n"][0], alone["n_groups"][0]) == (120, 120)
    assert (together["n"][0], together["n_groups"][0]) == (120, 30), "20 stand alone"
    width = together["high"][0] - together["low"][0]
    assert width > 1.5 * (alone["high"][0] - alone["low"][0])
    assert together["difference"][0] == pytest.approx(alone["difference"][0])
    assert stats.group_of(pl.Series(["c000", "c119", "new"]), groups).to_list() == ["g0", "c119", "new"]
