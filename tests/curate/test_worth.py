"""What a cut is worth by labels, and the cut that keeps a promise."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from arislab import curate, review
from arislab.curate.labels import Labels
from arislab.errors import ParameterError
from arislab.lake import tables

SHARES = {
    "as good everywhere": lambda quality: np.full(len(quality), 0.95),
    "just too few": lambda quality: np.full(len(quality), 0.89),
    "better and better": lambda quality: 0.5 + 0.5 * quality,
    "worse and worse": lambda quality: 0.97 - 0.3 * quality,
}


def study(kind, seed, *, n_labels=300, n=2_000, fraction=0.2):
    """Rows cut by quality, what is true of them, and labels of rows that a queue drew."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(size=n)
    rows = pl.DataFrame(
        {
            "custom_id": [f"r-{i}" for i in range(n)], "quality": quality,
            "good": rng.uniform(size=n) < SHARES[kind](quality), "category": ["a", "b"] * (n // 2),
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
    )  # fmt: skip
    frame = curate.keep_top(rows, fraction=fraction).frame
    show = lambda chosen: chosen.select(  # noqa: E731
        "custom_id", "quality_score", input=pl.lit("q"), output=pl.lit("a"), needs_review=True, approved=False,
        reviewed_by=pl.lit(None, dtype=pl.String), metadata=pl.lit("{}"),
    )  # fmt: skip
    drawable = frame.select("custom_id", "kept", quality_score="quality")
    queue = review.queue(drawable, tables.empty("reviews"), n=n_labels, seed=seed, show=show)
    told = queue.join(frame.select("custom_id", "good"), on="custom_id").select(
        "custom_id", "good", weight=1 / pl.col("inclusion_prob"), stratum="why"
    )
    return frame, Labels(told.sort("custom_id"), frame, 0, 0)


def test_the_estimates_hold_what_is_true_of_all_rows():
    n_in = dict.fromkeys(("approved", "precision", "recall", "category"), 0)
    for seed in range(40):
        frame, labels = study("better and better", seed, n_labels=150)
        truth = {
            "approved": frame["good"].mean(),
            "precision": frame.filter("kept")["good"].mean(),
            "recall": frame.filter("good")["kept"].mean(),
            "category": frame.filter("kept", category="a")["good"].mean(),
        }
        table = {row["what"]: row for row in curate.estimates(frame, labels).to_dicts()}
        lines = dict(
            zip(
                truth,
                (
                    "approved of all rows",
                    "precision of the kept",
                    "recall of the approved",
                    "precision, a",
                ),
                strict=True,
            )
        )
        for name, line in lines.items():
            n_in[name] += table[line]["low"] <= truth[name] <= table[line]["high"]
    assert all(n >= 35 for n in n_in.values()), n_in  # 0.95 of 40 is 38


def test_the_mean_of_the_labels_is_not_the_share_of_all_rows():
    frame, labels = study("better and better", 0)
    row = curate.estimates(frame, labels).row(0, named=True)
    assert row["naive"] > frame["good"].mean() + 0.05
    assert abs(row["estimate"] - frame["good"].mean()) < 0.06
    assert "̶" in curate.worth_in_words(curate.estimates(frame, labels))


def test_the_curve_goes_from_the_best_rows_to_all():
    frame, labels = study("better and better", 1)
    curve = curate.curve(frame, labels)
    assert curve["share"].to_list() == [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    at_cut = curve.filter(pl.col("share") == 0.2).row(0, named=True)
    kept = curate.estimates(frame, labels).row(1, named=True)
    assert at_cut["precision"] == pytest.approx(kept["estimate"])
    assert at_cut["n"] == kept["n"]
    assert curve["recall"].is_sorted()
    assert curve["recall"][-1] == 1
    assert curve["n"][-1] == 300


def test_without_labels_nothing_is_claimed():
    frame, labels = study("better and better", 1)
    nobody = Labels(labels.frame.clear(), frame, 0, 0)
    table = curate.estimates(frame, nobody)
    assert table.head(3).select("low", "high", "n").rows() == [(0.0, 1.0, 0)] * 3
    assert curate.worth_in_words(table).count("no label says it") == 3


@pytest.mark.parametrize("kind", ["just too few", "better and better", "worse and worse"])
def test_a_promise_is_broken_in_one_of_twenty_at_most(kind):
    broken = 0
    for seed in range(60):
        frame, labels = study(kind, seed)
        try:
            kept = curate.keep_promised(frame, labels, precision=0.9).kept
        except ParameterError:
            continue
        broken += kept["good"].mean() < 0.9
    assert broken <= 3


def test_what_is_good_everywhere_is_kept_whole_under_a_lower_promise():
    whole = 0
    for seed in range(40):
        frame, labels = study("as good everywhere", seed, fraction=1.0)
        try:
            whole += curate.keep_promised(frame, labels, precision=0.9).n_kept == frame.height
        except ParameterError:
            continue
    assert whole >= 32


def test_a_promise_that_cannot_be_made_says_how_many_labels_would_show_it():
    frame, labels = study("as good everywhere", 0, n_labels=60)
    with pytest.raises(
        ParameterError, match=r"cannot be promised with 60 labels; the best .* about [\d,]+ labels would"
    ):
        curate.keep_promised(frame, labels, precision=0.9)
    frame, labels = study("worse and worse", 0)
    with pytest.raises(ParameterError, match="nor with more: the best cut seems to have"):
        curate.keep_promised(frame, labels, precision=0.99)
    frame, labels = study("better and better", 0, n_labels=40)
    with pytest.raises(ParameterError, match="at least 50 labels, and there are 40"):
        curate.keep_promised(frame, labels, precision=0.9)
    with pytest.raises(ParameterError, match="keep_precision must be in"):
        curate.keep_promised(frame, labels, precision=1.0)


def test_the_rule_says_what_was_promised():
    frame, labels = study("better and better", 3)
    cut = curate.keep(frame.drop("kept"), rule="precision", fraction=0.2, threshold=0.8, precision=0.8, labels=labels)
    assert "of which 0.8 are approved (promised, wrong in 0.05 at most)" in cut.rule
    assert cut.kept["quality"].min() >= frame.join(cut.kept, on="custom_id", how="anti")["quality"].max()


def test_what_people_approved_below_the_cut_is_kept_and_counted():
    frame, _ = study("better and better", 0)
    cut = curate.keep_top(frame.drop("kept"), fraction=0.2)
    below = cut.frame.filter(~pl.col("kept"))["custom_id"].head(3).to_list()
    more = curate.with_approved(cut, [*below, cut.kept["custom_id"][0]])
    assert more.n_kept == cut.n_kept + 3
    assert set(below) <= set(more.kept["custom_id"])
    assert more.rule.endswith("and 3 that people approved below it")
    assert more.threshold == cut.threshold
    assert curate.with_approved(cut, []) is cut


def test_what_learning_changed_is_said():
    frame, _ = study("better and better", 0)
    cut = curate.keep_top(frame.drop("kept"), fraction=0.2)

    def fifth(rows):
        return curate.keep_top(rows, fraction=0.2)

    assert curate.changed(cut, frame, keep=fifth) == "quality is what the rules say"
    other = frame.with_columns(quality=1 - pl.col("quality"))
    told = "0 of the 400 kept rows would be kept by the rules too, 400 are in the place of others"
    assert told in curate.changed(cut, other, keep=fifth)
    groups = frame.select(candidate_id="custom_id", group_id=pl.Series([f"g{i // 4}" for i in range(frame.height)]))
    rows = frame.drop("kept").with_columns(candidate_id="custom_id")

    def best_of_each(rows):
        return curate.keep(rows, rule="top", fraction=0.2, threshold=0.0, groups=groups)

    # the same order by other numbers: what groups left out is not laid at people's door
    squared = frame.with_columns(quality=pl.col("quality") ** 2)
    cut = best_of_each(rows)
    assert f"{cut.n_kept} of the {cut.n_kept} kept" in curate.changed(cut, squared, keep=best_of_each)


def test_precision_of_a_cut_that_is_not_the_best_rows_is_of_the_rows_that_were_kept():
    gaps = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n = 2_400
        x = np.clip(np.repeat(rng.random(n // 4), 4) + rng.normal(0, 0.03, n), 0, 1)
        good = rng.random(n) < 0.05 + 0.9 * x**2
        ids = [f"r{i}" for i in range(n)]
        scored = pl.DataFrame(
            {
                "custom_id": ids, "candidate_id": ids, "quality": x * 0.8 + rng.random(n) * 0.2, "score_a": x,
                "score_b": rng.random(n), "scorer_version": "v", "good": good,
            }
        )  # fmt: skip
        told = scored[np.sort(rng.choice(n, 500, replace=False)).tolist()]
        told = told.select("custom_id", "good", weight=pl.lit(n / 500), stratum=pl.lit("q"))
        labels = Labels(told, scored, 0, 0)
        groups = pl.DataFrame({"candidate_id": ids, "group_id": [f"g{i // 4}" for i in range(n)]})
        found = curate.learn(labels, scored, groups, seed=1)
        cut = curate.keep(found.apply(scored), rule="top", fraction=0.2, threshold=0.0, groups=groups, seed=1)
        told = curate.estimates(cut.frame, labels, chances=found.unseen(scored)).row(1, named=True)
        gaps.append(told["estimate"] - cut.kept["good"].mean())
    assert abs(np.mean(gaps)) < 0.06, "taken for the best fifth the kept rows look better by 0.16"


def learned_study(seed, *, n=2_000, n_labels=200, levels=False):
    """Rows of which ten signals say a little (or one says it in four levels), cut by what was learned from labels."""
    rng = np.random.default_rng(seed)
    signals = [rng.normal(size=n) for _ in range(1 if levels else 10)]
    if levels:
        signals[0] = signals[0].round().clip(-1, 2)
    good = rng.logistic(size=n) < sum(signals[:4]) * (1.5 if levels else 0.5)
    names = [f"r-{i}" for i in range(n)]
    scored = pl.DataFrame(
        {
            "custom_id": names, "candidate_id": names, "scorer_version": "v", "good": good,
            "quality": rng.uniform(size=n), "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            **{f"score_{i}": values for i, values in enumerate(signals)},
        }
    )  # fmt: skip
    chosen = pl.Series(rng.choice(names, n_labels, replace=False))
    told = scored.filter(pl.col("custom_id").is_in(chosen.to_list()))
    told = told.select("custom_id", "good", weight=pl.lit(n / n_labels), stratum=pl.lit("q"))
    labels = Labels(told.sort("custom_id"), scored, 0, 0)
    found = curate.learn(labels, scored, scored.select("custom_id", group_id="custom_id"), seed=seed)
    return scored, labels, found


@pytest.mark.slow
@pytest.mark.parametrize("levels", [False, True])
def test_labels_do_not_vouch_for_a_cut_that_they_made(levels):
    """What was learned from labels puts those that are good above the cut: counted there, they make it look better."""
    gaps, n_in = [], 0
    for seed in range(12):
        scored, labels, found = learned_study(seed, levels=levels)
        assert found.model is not None
        cut = curate.keep_top(found.apply(scored), fraction=0.4, seed=seed)
        true = cut.kept["good"].mean()
        told = curate.estimates(cut.frame, labels, chances=found.unseen(scored)).row(1, named=True)
        gaps.append(told["estimate"] - true)
        n_in += told["low"] <= true <= told["high"]
    assert abs(np.mean(gaps)) < 0.03, "counted where their labels pulled them, they are 0.05 too good"
    assert n_in >= 10


def test_a_label_stands_where_it_is_among_rows_that_are_level():
    scored, labels, found = learned_study(3, levels=True)
    unseen = found.unseen(scored)
    told = unseen.drop_nulls("held")
    assert told.height == 200
    assert (told["above"] < told["upto"]).all()
    assert (told["upto"] - told["above"]).max() > 0.2, "four levels"
    assert unseen["chance"].is_between(0, 1).all()
    whole = curate.curve(found.apply(scored), labels, chances=unseen)
    assert whole.filter(pl.col("share") == 1.0)["n"].item() == 200
    assert whole["n"].is_sorted()
