"""Which sets and rows are drawn."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
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


SEARCH = """
import numpy as np
from arislab.icl import proposals, sets, surrogate

rng = np.random.default_rng(0)
rules = sets.Rules(40, 5)
tried, worth, fit = proposals.draw(rules, 24, rng), rng.normal(size=40) / 2, None
for _ in range(4):
    set_of = np.repeat(np.arange(len(tried)), 12)
    row_of = np.concatenate(proposals.rows(60, 12, len(tried), rng))
    effects = worth[np.array(tried)].sum(axis=1)
    quality = (rng.uniform(size=len(set_of)) < surrogate.sigmoid(effects[set_of])).astype(float)
    fit = surrogate.fit(np.array(tried), set_of, row_of, quality, n_examples=40, n_rows=60, start=fit)
    best = np.argsort(-surrogate.estimates(fit, np.array(tried))["estimate"].to_numpy(), kind="stable")[:5]
    tried += proposals.propose(fit, rules, 8, rng, elites=[tried[int(i)] for i in best])
    tried = list(dict.fromkeys(tried))
print(tried)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names kinds of x86")
def test_another_kind_of_processor_searches_the_same_sets():
    """Each kind has its own order of sums: last bits differ, and whatever turns on them is another search elsewhere."""
    found = [
        subprocess.run(
            [sys.executable, "-c", SEARCH], env=os.environ | {"OPENBLAS_CORETYPE": kind, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=True,
        ).stdout
        for kind in ("Prescott", "Haswell")
    ]  # fmt: skip
    assert found[0].count("(") > 40
    assert found[0] == found[1]
