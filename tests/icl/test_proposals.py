"""Which sets and rows are drawn."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from arislab.errors import ParameterError
from arislab.icl import proposals
from arislab.icl import sets as example_sets


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 12),
    k=st.integers(1, 6),
    n_groups=st.integers(1, 12),
    n_pinned=st.integers(0, 2),
    n_sets=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_drawn_sets_keep_the_rules_whatever_they_are(n, k, n_groups, n_pinned, n_sets, seed):
    try:
        rules = example_sets.Rules(n, k, tuple(range(min(n_pinned, n))), tuple(i % n_groups for i in range(n)))
    except ParameterError:
        return
    sets = proposals.draw(rules, n_sets, np.random.default_rng(seed))
    assert sets
    assert len(set(sets)) == len(sets) <= n_sets
    assert all(len(s) == k and rules.allows(s) for s in sets)


def test_every_example_and_every_row_is_tried_about_equally_often():
    sets = proposals.draw(example_sets.Rules(20, 5), 20, np.random.default_rng(3))
    assert np.bincount(np.array(sets).ravel()).tolist() == [5] * 20
    rows = proposals.rows(30, 7, 60, np.random.default_rng(3))
    assert all(len(set(r.tolist())) == 7 for r in rows)
    assert np.bincount(np.concatenate(rows)).tolist() == [14] * 30
