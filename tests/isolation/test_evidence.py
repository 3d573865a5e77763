"""Statistics on the answers of a probe, against the textbook."""

import pytest

from arislab import isolation


def test_the_chance_is_fishers():
    # Agresti, Categorical Data Analysis, the lady tasting tea: 3 of 4 right, one-sided p = 0.243
    assert isolation.fisher(3, 4, 1, 4) == pytest.approx(0.2429, abs=1e-4)
    assert isolation.fisher(0, 10, 3, 20) == 1.0
    assert isolation.fisher(4, 4, 0, 4) == pytest.approx(1 / 70)
