"""What a probe showed, as it is kept."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from arislab import isolation


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(isolation.VERDICTS), st.lists(st.text(), min_size=1, max_size=3), st.text(), st.integers(0, 99))
def test_a_result_survives_json(verdict, models, text, n):
    result = isolation.Isolation(verdict, tuple(models), n_turned=n, example=text, alike=((text, text),))
    assert isolation.from_dict(json.loads(json.dumps(result.as_dict()))) == result
