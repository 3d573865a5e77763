"""What a search will ask, round by round."""

from hypothesis import given, settings
from hypothesis import strategies as st

from arislab.errors import ParameterError
from arislab.icl import rounds as search_rounds

METHODS = ("halving", "surrogate")


@settings(max_examples=80, deadline=None)
@given(budget=st.integers(100, 60_000), rows=st.integers(1, 500), method=st.sampled_from(METHODS))
def test_a_plan_never_exceeds_budget_or_rows(budget, rows, method):
    try:
        steps = search_rounds.plan(budget=budget, n_validation=rows, method=method)
    except ParameterError as error:
        assert "budget must be at least" in str(error)  # noqa: PT017
        assert budget < 250
        return
    assert 0 < steps["n_requests"].sum() <= budget
    assert steps["n_rows"].min() > 0
    assert (steps["n_rows"].sum() if method == "halving" else steps["n_rows"].max()) <= rows
