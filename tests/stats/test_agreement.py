"""Coefficients of agreement, against published worked examples and another implementation."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score

from arislab.errors import ParameterError
from arislab.stats.agreement import coefficients

FOUR = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}
"""Four observers of twelve units, some missing: Krippendorff 2011, section C."""


def opinions(raters):
    rows = [(item, rater, value) for rater, values in raters.items() for item, value in enumerate(values)]
    return pl.DataFrame(rows, schema=["item", "rater", "value"], orient="row")


def crossed(table):
    """Opinions of two raters from how often one said the row and the other the column."""
    pairs = [pair for pair, n in np.ndenumerate(np.asarray(table)) for _ in range(n)]
    return opinions({"A": [one for one, _ in pairs], "B": [other for _, other in pairs]})


def only(frame, measure, **how):
    (one,) = coefficients(frame, measures=[measure], **how)
    return one


@pytest.mark.parametrize(("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_four_observers_is_what_krippendorff_computes(scale, published):
    one = only(opinions(FOUR), "krippendorff_alpha", scale=scale)
    assert one.estimate == pytest.approx(published, abs=0.0005)
    assert (one.n, one.n_raters) == (11, 4), "the unit that one observer alone judged tells nothing"
    assert one.low < one.estimate < one.high <= 1


def test_alpha_of_two_observers_is_what_krippendorff_computes():
    """Binary data of ten units (section A, 0.095) and nominal data of twelve (section B, 0.692)."""
    binary = {"M": [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], "H": [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]}
    assert only(opinions(binary), "krippendorff_alpha").estimate == pytest.approx(0.095, abs=0.0005)
    nominal = {"B": list("aabbdcccedda"), "G": list("babbbccceddd")}
    assert only(opinions(nominal), "krippendorff_alpha").estimate == pytest.approx(0.692, abs=0.0005)


def test_ac1_stands_where_kappa_collapses():
    """125 subjects of which nearly all are positive: Gwet 2008. By hand: 0.944 agreed, 2 * 0.972 * 0.028 by chance."""
    frame = crossed([[118, 5], [2, 0]])
    chance = 2 * 0.972 * 0.028
    assert only(frame, "gwet_ac1").estimate == pytest.approx((0.944 - chance) / (1 - chance))
    assert only(frame, "gwet_ac1").estimate == pytest.approx(0.9408, abs=0.0001)
    assert only(frame, "cohen_kappa").estimate == pytest.approx(-0.0234, abs=0.0001)
    assert only(frame, "raw_agreement").estimate == pytest.approx(0.944)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    for k in (2, 3, 5):
        first = rng.integers(0, k, 80)
        second = np.where(rng.random(80) < 0.6, first, rng.integers(0, k, 80))
        one = only(opinions({"A": first.tolist(), "B": second.tolist()}), "cohen_kappa")
        assert one.estimate == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_an_interval_holds_the_agreement_of_all_items_as_often_as_it_says():
    rng, holds, n = np.random.default_rng(5), [], 400
    pairs = [(0, 0)] * 55 + [(1, 1)] * 25 + [(0, 1)] * 12 + [(1, 0)] * 8
    everything = np.array(pairs)
    true = cohen_kappa_score(everything[:, 0], everything[:, 1])
    for seed in range(n):
        drawn = everything[rng.integers(0, 100, 120)]
        one = only(
            opinions({"A": drawn[:, 0].tolist(), "B": drawn[:, 1].tolist()}), "cohen_kappa", seed=seed, n_boot=400
        )
        holds.append(one.low <= true <= one.high)
    assert 0.91 <= np.mean(holds) <= 0.99


def test_of_one_rater_only_the_pairs_with_them_count():
    """A agrees with B and with C half of the time; that B and C agree with each other does not matter."""
    frame = opinions({"A": [0, 0, 1, 1], "B": [0, 1, 1, 0], "C": [0, 1, 1, 0]})
    assert only(frame, "raw_agreement", rater="A").estimate == pytest.approx(0.5)
    assert only(frame, "raw_agreement", rater="B").estimate == pytest.approx(0.75)
    two = opinions({"A": [0, 0, 1, 1, 0], "B": [0, 1, 1, 0, 0]})
    assert coefficients(two, rater="A") == coefficients(two)


def test_what_cannot_be_said_is_null_with_why():
    alone = opinions({"A": [1, 2, 1], "B": [None, None, None]})
    same = opinions({"A": [1, 1, 1], "B": [1, 1, 1]})
    for frame, why in ((alone, "no item has two"), (same, "all opinions on 3 items are 1"), (alone[:0], "no item")):
        for one in coefficients(frame, measures=["krippendorff_alpha", "gwet_ac1", "raw_agreement", "cohen_kappa"]):
            assert (one.estimate, one.low, one.high) == (None, None, None)
            assert why in one.reason
    constant = opinions({"A": [1, 1, 1], "B": [2, 2, 2]})
    assert only(constant, "cohen_kappa").estimate == 0, (
        "all that they agree on is what chance gives: nothing of nothing"
    )


def test_raters_who_never_differ_have_no_interval():
    one = only(opinions({"A": [0, 1] * 5, "B": [0, 1] * 5}), "krippendorff_alpha")
    assert (one.estimate, one.low) == (1, None)
    assert "no spread among 10 items" in one.reason


def test_the_same_seed_gives_the_same_interval_in_any_order_of_the_rows():
    frame = opinions(FOUR)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert coefficients(frame, scale="ordinal") == coefficients(shuffled, scale="ordinal")
    assert only(frame, "gwet_ac1", seed=1).low != only(frame, "gwet_ac1", seed=2).low


def test_the_order_of_words_is_what_makes_them_ordinal():
    words = {"A": ["low", "mid", "high", "low", "high"], "B": ["low", "high", "high", "mid", "high"]}
    numbers = {name: [["low", "mid", "high"].index(word) for word in said] for name, said in words.items()}
    named = only(opinions(words), "krippendorff_alpha", scale="ordinal", order=["low", "mid", "high"])
    assert named.estimate == pytest.approx(
        only(opinions(numbers), "krippendorff_alpha", scale="ordinal").estimate, abs=1e-12
    )
    assert named.estimate != only(opinions(words), "krippendorff_alpha", scale="ordinal").estimate
    with pytest.raises(ParameterError, match="'high' is not in order"):
        only(opinions(words), "krippendorff_alpha", order=["low", "mid"])


def test_a_wrong_name_is_refused_once():
    with pytest.raises(ParameterError, match="'krippendorf'"):
        only(opinions(FOUR), "krippendorf")
    with pytest.raises(ParameterError, match="'ranks'"):
        only(opinions(FOUR), "gwet_ac1", scale="ranks")
    with pytest.raises(ParameterError, match="of two raters, and 4"):
        only(opinions(FOUR), "cohen_kappa")
