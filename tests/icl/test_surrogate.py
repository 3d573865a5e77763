"""What the surrogate learns from scattered cells."""

import numpy as np
import pytest

from arislab.icl import proposals, surrogate
from arislab.icl import sets as example_sets


def test_the_surrogate_recovers_difficulties_and_worth():
    rng = np.random.default_rng(0)
    worth, difficulty = rng.normal(size=10) * 0.8, rng.normal(size=50) * 2
    sets = np.array(proposals.draw(example_sets.Rules(10, 3), 120, rng))
    set_of, row_of = np.repeat(np.arange(120), 50), np.tile(np.arange(50), 120)
    p = surrogate.sigmoid(worth[sets].sum(1)[set_of] + difficulty[row_of])
    y = (rng.random(len(p)) < p).astype(float)
    fit = surrogate.fit(sets, set_of, row_of, y, n_examples=10, n_rows=50)
    mean, sd = surrogate.posterior(fit, sets)
    truth = worth[sets].sum(1)
    assert np.corrcoef(mean, truth)[0, 1] > 0.95
    assert np.corrcoef(fit.difficulty, difficulty)[0, 1] > 0.95
    assert fit.preset == "additive"
    assert fit.matters
    assert 0.85 <= np.mean(abs(mean - truth + np.mean(truth)) < 1.96 * sd + 0.3) <= 1.0
    joint_mean, cov = surrogate.joint(fit, sets[:5])
    assert joint_mean == pytest.approx(mean[:5])
    assert np.sqrt(np.diag(cov)) == pytest.approx(sd[:5])


def test_a_set_that_was_never_tried_is_less_certain():
    rng = np.random.default_rng(1)
    sets = np.array([(0, 1), (1, 2), (2, 3)])
    cells = np.repeat(np.arange(3), 40), np.tile(np.arange(40), 3)
    fit = surrogate.fit(sets, *cells, rng.random(120).round(), n_examples=6, n_rows=40)
    _, sd = surrogate.posterior(fit, np.array([(0, 1), (1, 0), (4, 5)]))
    assert sd[0] < sd[1] < sd[2] <= fit.tau + 1e-9
