"""Quality from labels: learned where it is shown to be worth it, said by parts that had not seen the label."""

import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from arislab import curate, stats
from arislab.curate import learned
from arislab.curate.labels import Labels

THEN = datetime(2026, 1, 1, tzinfo=UTC)


def study(n=1_200, *, n_labels=200, seed=0, tells=(2.0, 0.0), noise=1.0):
    """Scored rows with two signals and a rule that says nothing, and labels of some; what is true of all of them."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(size=n)
    good = rng.logistic(size=n) * noise < tells[0] * a + tells[1] * b - 0.3
    names = [f"r-{i}" for i in range(n)]
    scored = pl.DataFrame(
        {
            "custom_id": names, "candidate_id": [f"c-{i // 2}" for i in range(n)], "scorer_version": "abc",
            "reason": None,
            "quality": rng.uniform(size=n).round(2), "score_a": a, "score_b": b, "score_same": 1.0,
            "created_at": THEN,
        }
    )  # fmt: skip
    chosen = rng.choice(n, n_labels, replace=False)
    frame = pl.DataFrame(
        {"custom_id": [names[i] for i in chosen], "good": good[chosen], "weight": n / n_labels, "stratum": "q kept"}
    )
    groups = scored.select("candidate_id", group_id="candidate_id").unique(maintain_order=True)
    return Labels(frame.sort("custom_id"), scored, 0, 0), scored, groups, good


def test_a_category_of_which_people_think_otherwise_shows_that_what_is_said_of_it_is_wrong():
    labels, scored, groups, _ = study(n_labels=400)
    names = pl.Series(["law", "sales", "sales", "sales", None] * 240)
    is_law = dict(zip(scored["custom_id"], names == "law", strict=True))
    strict = labels.frame.with_columns(
        good=pl.col("good") & ~pl.col("custom_id").replace_strict(is_law).fill_null(value=False)
    )
    rare = names.scatter([1], "rare")
    found = curate.learn(Labels(strict, scored.with_columns(category=rare), 0, 0), scored, groups)
    rows = {row["category"]: row for row in found.by_category.to_dicts()}
    assert list(rows) == ["law", "sales"]
    n = {
        name: labels.frame["custom_id"].is_in(scored["custom_id"].filter(rare == name).implode()).sum() for name in rows
    }
    assert {name: row["n"] for name, row in rows.items()} == n
    assert (rows["law"]["approved"], rows["law"]["high"] < rows["law"]["chance"]) == (0.0, True)
    assert rows["law"]["error_low"] > rows["sales"]["error_high"]
    assert rows["sales"]["low"] < rows["sales"]["approved"] < rows["sales"]["high"]
    assert curate.learn(labels, scored, groups).by_category.is_empty()


def test_the_signal_that_tells_is_used_alone_where_another_adds_nothing():
    labels, scored, groups, good = study()
    found = curate.learn(labels, scored, groups)
    assert found.model.signals == ("score_a",)
    worth = {row["signal"]: row for row in found.worth.to_dicts()}
    assert worth["best signal"]["used"]
    assert not worth["stack"]["used"]
    assert worth["best signal"]["auc"] > 0.75
    assert 0.4 < worth["rules"]["auc"] < 0.6
    assert found.gain.low < 0
    assert f"; a stack of all signals is not shown to be better: AUC {found.gain.mean:+.3f} [" in repr(found)
    after = found.apply(scored)
    assert after["quality_rules"].equals(scored["quality"])
    assert after["scorer_version"][0] == f"abc+{found.model.digest}"
    order = after.sort("score_a")["quality"]
    assert order.is_sorted()
    assert order.n_unique() > 0.99 * len(order), "rows that differ do not tie, but for the ninth digit"
    gap = abs(after["quality"].mean() - good.mean())
    assert gap < 0.08
    before, now = (
        learned.calibration_error(rows["quality"].to_numpy(), good.astype(float), np.ones(len(good)))
        for rows in (scored, after)
    )
    assert now < before / 2


def test_a_stack_is_used_where_it_is_shown_to_be_better():
    labels, scored, groups, _ = study(n_labels=400, tells=(1.5, 1.5))
    found = curate.learn(labels, scored, groups)
    assert found.model.signals == ("score_a", "score_b")
    worth = {row["signal"]: row for row in found.worth.to_dicts()}
    assert worth["stack"]["used"]
    assert worth["stack"]["auc"] > worth["best signal"]["auc"] + 0.05
    assert found.gain.mean == pytest.approx(worth["stack"]["auc"] - worth["best signal"]["auc"])
    assert found.gain.low > 0
    assert repr(found).startswith("quality is the chance that a person approves, from a stack of score_a, score_b, le")
    assert "not shown" not in repr(found)
    assert found.ways["stack"] == replace(found.model, knots=(), reach=1.0)


def test_a_hundred_labels_of_a_queue_make_a_stack_beside_the_best_signal_of_ten():
    """One signal tells, one tells a little, eight tell nothing, one row in eight is good, and those kept count less.

    Beside it a plain regression with the weights of the queue, which costs nothing.
    """
    found, plain, best = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 4_000
        values = rng.normal(size=(n, 10))
        good = rng.logistic(size=n) < 1.2 * values[:, 0] + 0.4 * values[:, 1] - 2.5
        quality = (values.mean(axis=1) + 0.5 * rng.normal(size=n)).argsort().argsort() / n
        parts = [(70, np.flatnonzero(quality >= 0.8)), (30, np.flatnonzero(quality < 0.8))]
        chosen = np.concatenate([rng.choice(part, size, replace=False) for size, part in parts])
        weights = np.concatenate([np.full(size, len(part) / size) for size, part in parts])
        names = np.array([f"r-{i}" for i in range(n)])
        scored = pl.DataFrame({"custom_id": names, "candidate_id": names, "quality": quality}).with_columns(
            **{f"score_{i}": values[:, i] for i in range(10)}
        )
        frame = pl.DataFrame({"custom_id": names[chosen], "good": good[chosen], "weight": weights, "stratum": "q"})
        groups = scored.select("candidate_id", group_id="candidate_id")
        one = curate.learn(Labels(frame.sort("custom_id"), scored, 0, 0), scored, groups, seed=seed)
        if one.ways:  # else there are too few good rows
            fit = LogisticRegression().fit(values[chosen], good[chosen], sample_weight=weights / weights.mean())
            for told, scores in (
                (found, one.ways["stack"].log_odds(scored)), (plain, values @ fit.coef_[0]), (best, values[:, 0])
            ):  # fmt: skip
                told.append(stats.sampled_auc(scores, good, np.ones(n)).mean)
    assert len(found) >= 15
    assert np.mean(found) > np.mean(plain) + 0.04
    assert np.mean(found) > np.mean(best) - 0.025


def of_a_queue(seed, n_labels):
    """Rows of which a queue draws those that the rules kept more densely, the only ones of which the rules tell much.

    Another signal tells more of all of them.
    """
    rng = np.random.default_rng(seed)
    n = 5_000
    rules, other, luck = rng.normal(size=(3, n))
    good = rng.logistic(size=n) < 3 * np.maximum(rules - 0.8, 0) + other - 1.5
    kept = rules >= np.quantile(rules, 0.8)
    parts = [(7 * n_labels // 10, np.flatnonzero(kept)), (3 * n_labels // 10, np.flatnonzero(~kept))]
    chosen = np.concatenate([rng.choice(part, size, replace=False) for size, part in parts])
    weights = np.concatenate([np.full(size, len(part) / size) for size, part in parts])
    names = np.array([f"r-{i}" for i in range(n)])
    scored = pl.DataFrame(
        {
            "custom_id": names, "candidate_id": names, "quality": rules, "score_other": other,
            "score_like_rules": rules + 0.3 * luck,
        }
    )  # fmt: skip
    frame = pl.DataFrame({"custom_id": names[chosen], "good": good[chosen], "weight": weights, "stratum": "q"})
    groups = scored.select("candidate_id", group_id="candidate_id")
    return Labels(frame.sort("custom_id"), scored, 0, 0), scored, groups, good


def test_what_the_queue_looked_at_is_not_taken_for_the_best_signal():
    """Among its labels the rules have an AUC of .76 and the other signal one of .69; among all rows .63 and .71."""
    picked, held, by_chance = 0, 0, []
    for seed in range(20):
        labels, scored, groups, good = of_a_queue(seed, 1_000)
        found = curate.learn(labels, scored, groups, seed=seed)
        picked += found.ways["best signal"].signals == ("score_other",)
        rules = found.worth.row(by_predicate=pl.col("signal") == "rules", named=True)
        told = labels.frame.join(scored, on="custom_id", maintain_order="left")
        same = stats.sampled_auc(told["quality"], told["good"], told["weight"])
        assert (rules["auc"], rules["low"], rules["high"]) == pytest.approx((same.mean, same.low, same.high))
        by_chance.append([stats.auc(told[name], told["good"], n_boot=1).mean for name in ("quality", "score_other")])
        held += rules["low"] <= stats.auc(scored["quality"], good, n_boot=1).mean <= rules["high"]
    assert picked >= 12, "by the labels alone as they were drawn it would be none"
    assert held >= 18
    assert np.mean(by_chance, axis=0) == pytest.approx([0.76, 0.69], abs=0.01)


def test_weights_make_the_chance_and_not_the_order():
    labels, scored, groups, _ = study(n_labels=400)
    other = labels.frame.with_columns(weight=pl.when("good").then(9.0).otherwise(1.0))
    first, heavy = (curate.learn(Labels(frame, scored, 0, 0), scored, groups) for frame in (labels.frame, other))
    assert first.ways == heavy.ways
    assert first.apply(scored)["quality"].mean() + 0.2 < heavy.apply(scored)["quality"].mean()


@given(
    st.integers(0, 10_000), st.integers(20, 200), st.integers(1, 12), st.sampled_from([0.02, 0.3, 3.0, 30.0]),
    st.floats(0.05, 0.95),
)  # fmt: skip
@example(0, 20, 12, 30.0, 0.95)
def test_the_regression_is_where_the_posterior_is_highest(seed, n, n_columns, strength, share):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(n, n_columns)) * rng.uniform(0, 1, n_columns).round()  # some say nothing at all
    good = (rng.uniform(size=n) < np.where(columns[:, 0] * strength > 0, share, 1 - share)).astype(float)
    good[:2] = 0, 1
    lean = np.full(n_columns, 0.05)
    intercept, slopes = learned._regression(columns, good, lean)
    one, other = columns[good == 1], columns[good == 0]
    squared = (one.mean(axis=0) - other.mean(axis=0)) ** 2
    error = one.var(axis=0) / len(one) + other.var(axis=0) / len(other)
    trust = [math.sqrt(max(1 - 2 * e / s, 0.09)) if s > 0 else 0.3 for e, s in zip(error, squared, strict=True)]

    def loss(x):
        margin = (2 * good - 1) * (x[0] + columns @ (x[1:] * trust))
        return np.logaddexp(0, -margin).sum() + ((x[1:] - lean) ** 2).sum() / 0.1

    least = minimize(loss, np.zeros(n_columns + 1), method="BFGS", options={"gtol": 1e-8}).fun
    assert loss(np.append(intercept, slopes / trust)) <= least + 1e-6


def test_what_is_predicted_of_a_row_is_what_the_regressions_say():
    labels, scored, groups, _ = study(n_labels=400, tells=(1.5, 1.5))
    found = curate.learn(labels, scored, groups)
    told = found.unseen(scored)
    by_fold = [1 / (1 + np.exp(-model.log_odds(scored))) for model in found.folded]
    sizes = found.held.group_by("fold").len().sort("fold")["len"].to_numpy()
    assert np.allclose(told["chance"].to_numpy(), np.average(by_fold, axis=0, weights=sizes))
    place = dict(zip(scored["custom_id"], range(scored.height), strict=True))
    for name, fold, _ in found.held.rows():
        own = told.row(place[name], named=True)
        every = by_fold[fold]
        assert own["held"] == pytest.approx(every[place[name]])
        assert own["above"] == pytest.approx((every > every[place[name]]).mean(), abs=1e-3)
    assert told["held"].count() == 400


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"n_labels": 49}, "there are 49 labels, and at least 50 are needed; review 1 more"),
        ({"n_labels": 60, "tells": (0.0, 0.0), "noise": 0.01}, "0 of 60 labels are approved"),
        ({"n_labels": 200, "tells": (0.0, 0.0), "seed": 5}, "no signal is shown to tell what people approve"),
    ],
)
def test_where_nothing_is_shown_quality_stays_what_the_rules_say(kind, why):
    labels, scored, groups, _ = study(**kind)
    found = curate.learn(labels, scored, groups)
    assert why in found.refused
    assert bool(found.ways) == ("no signal" in why), "whoever looks can see what it would have been"
    assert repr(found) == f"quality stays what the rules say: {found.refused}"
    assert_frame_equal(found.apply(scored), scored)


@pytest.mark.parametrize("good", [True, False])
def test_labels_of_one_kind_that_are_of_one_group_are_no_sample_of_it(good):
    """Whatever is held out, the rest would hold one kind alone."""
    labels, scored, _, _ = study(n_labels=100)
    some = labels.frame["custom_id"].to_list()[:15]
    frame = labels.frame.with_columns(good=pl.col("custom_id").is_in(some) == good)
    groups = scored.select(
        "custom_id", group_id=pl.when(pl.col("custom_id").is_in(some)).then(pl.lit("one")).otherwise("custom_id")
    )
    found = curate.learn(Labels(frame, scored, 0, 0), scored, groups)
    kind = "approved" if good else "not approved"
    assert found.refused == f"all labels that are {kind} are of one group of candidates; review rows of other ones."
    assert_frame_equal(found.apply(scored), scored)


@pytest.mark.slow
def test_a_score_without_meaning_is_rarely_taken_for_one():
    """Of 40 studies in which nothing tells anything, one in twenty or so may look as if it did."""
    used = 0
    for seed in range(40):
        labels, scored, groups, _ = study(400, n_labels=100, seed=seed, tells=(0.0, 0.0))
        used += curate.learn(labels, scored, groups, seed=seed).model is not None
    assert used <= 5


def test_where_the_rules_tell_best_they_are_made_a_chance():
    labels, scored, groups, _ = study(tells=(2.0, 2.0), n_labels=60)
    both = (scored["score_a"] + scored["score_b"]).rank() / scored.height
    scored = scored.with_columns(quality=both)
    found = curate.learn(labels, scored, groups)
    assert found.model.signals == ("quality",)
    assert "from what the rules say" in repr(found)
    after = found.apply(scored)
    assert after.sort("quality_rules")["quality"].is_sorted()
    assert after["quality_rules"].equals(both)


def test_a_signal_the_wrong_way_round_is_turned():
    labels, scored, groups, _ = study(tells=(-2.0, 0.0))
    found = curate.learn(labels, scored, groups)
    assert found.apply(scored).sort("score_a")["quality"].is_sorted(descending=True)


def test_the_same_in_gives_the_same_out_to_the_last_bit():
    labels, scored, groups, _ = study(n_labels=400, tells=(1.5, 1.5))
    first = curate.learn(labels, scored, groups, seed=3)
    order = random.Random(0).sample(range(scored.height), scored.height)
    again = curate.learn(labels, scored[order], groups[list(reversed(range(groups.height)))], seed=3)
    assert first.model == again.model
    assert first.folded == again.folded
    assert_frame_equal(first.held, again.held)
    assert_frame_equal(first.worth, again.worth)


def test_a_row_without_a_quality_or_a_signal_gets_what_can_be_said():
    labels, scored, groups, _ = study()
    some = scored.with_columns(
        quality=pl.when(pl.col("custom_id") != "r-1").then("quality"),
        score_a=pl.when(pl.col("custom_id") != "r-2").then("score_a"),
    )
    after = curate.learn(labels, some, groups).apply(some).filter(pl.col("custom_id").is_in(["r-1", "r-2"]))
    quality = dict(after.select("custom_id", "quality").rows())
    assert quality["r-1"] is None, "a scorer failed on it"
    assert 0.2 < quality["r-2"] < 0.8, "it counts as the mean of those that could tell"


def test_rows_of_one_group_are_on_one_side_of_each_fold():
    """Twins with one label: whoever sees one of them knows the other, if both are not kept apart."""
    rng = np.random.default_rng(0)
    n = 200
    twin = np.repeat(np.arange(n // 2), 2)
    good = rng.uniform(size=n // 2)[twin] < 0.5
    scored = pl.DataFrame(
        {
            "custom_id": [f"r-{i}" for i in range(n)], "candidate_id": [f"c-{i}" for i in twin], "quality": 0.5,
            "scorer_version": "v", "score_name": twin / n, "created_at": THEN,
        }
    )  # fmt: skip
    labels = Labels(scored.select("custom_id", good=pl.Series(good), weight=1.0, stratum=pl.lit("q")), scored, 0, 0)
    data = learned._Data(
        labels.frame.join(scored, on="custom_id"),
        ("score_name",),
        good.astype(float),
        np.ones(n),
        list(scored["candidate_id"]),
        scored,
    )
    for held in data.folds(1):
        assert not set(twin[held]) & set(np.delete(twin, held))


def test_scores_in_two_clumps_are_two_steps():
    """Between the middles of the clumps stands no label: rows at the inner edge of one are as good as at its outer."""
    rng = np.random.default_rng(0)
    n = 3_000
    says = rng.uniform(size=n) < 0.3
    good = rng.uniform(size=n) < np.where(says, 0.6, 0.05)
    labels, scored, groups, _ = study(n, n_labels=400)
    scored = scored.with_columns(score_a=pl.Series(0.6 * says + 0.4 * rng.uniform(size=n)))
    told = dict(zip(scored["custom_id"], good.tolist(), strict=True))
    frame = labels.frame.with_columns(good=pl.Series([told[name] for name in labels.frame["custom_id"]]))
    found = curate.learn(Labels(frame, scored, 0, 0), scored, groups)
    assert found.model.signals == ("score_a",)
    after = found.apply(scored)
    inner = after.filter(pl.col("score_a").is_between(0.3, 0.4))
    assert inner["quality"].mean() == pytest.approx(0.05, abs=0.05)
    labelled = frame.join(scored, on="custom_id").filter(pl.col("score_a") > 0.6)["good"].mean()
    assert after.filter(pl.col("score_a") > 0.6)["quality"].mean() == pytest.approx(labelled, abs=0.05)


def test_what_predicts_a_label_has_not_seen_it():
    """With other labels in one fold, the predictions of that fold are the same."""
    labels, scored, groups, _ = study(n_labels=400, tells=(1.5, 1.5))
    first = curate.learn(labels, scored, groups)
    in_fold = first.held.filter(fold=0)["custom_id"].to_list()
    rows = labels.frame.with_row_index().filter(pl.col("custom_id").is_in(in_fold))
    swap = dict(zip(rows["custom_id"], rows["good"].reverse(), strict=True))
    good = [swap.get(name, was) for name, was in labels.frame.select("custom_id", "good").rows()]
    other = Labels(labels.frame.with_columns(good=pl.Series(good)), scored, 0, 0)
    data = [
        learned._Data(
            one.frame.join(scored, on="custom_id", maintain_order="left"), ("score_a", "score_b"),
            one.frame["good"].to_numpy().astype(float), np.ones(400), one.frame["custom_id"].to_list(), scored,
        )
        for one in (labels, other)
    ]  # fmt: skip
    fold = np.flatnonzero(data[0].rows["custom_id"].is_in(in_fold).to_numpy())
    assert learned._folded(data[0], data[0].stack, [fold]) == learned._folded(data[1], data[1].stack, [fold])


def test_the_model_stands_in_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path))
    labels, scored, groups, _ = study()
    found = curate.learn(labels, scored, groups)
    after = found.apply(scored)
    text = json.loads((tmp_path / learned.RECORDED).read_text())
    kept = learned.Model(
        **{
            name: tuple(map(tuple, value)) if name == "knots" else tuple(value) if isinstance(value, list) else value
            for name, value in text.items()
        }
    )
    assert kept.digest == found.model.digest
    again = pl.Series(kept.chances(kept.log_odds(scored))).round(9)
    assert again.equals(after["quality"].alias(""))


def test_the_calibration_error_is_the_mean_distance():
    assert (
        learned.calibration_error(np.array([0.2] * 5 + [0.8] * 5), np.array([0.0] * 4 + [1.0] * 6), np.ones(10)) == 0.1
    )
    exact = np.repeat([0.1, 0.9], 50)
    good = np.concatenate([np.repeat([1.0, 0.0], [5, 45]), np.repeat([1.0, 0.0], [45, 5])])
    assert learned.calibration_error(exact, good, np.ones(100)) == pytest.approx(0.0)
    assert learned.calibration_error(1 - exact, good, np.ones(100)) == pytest.approx(0.8)
