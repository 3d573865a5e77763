"""The account of a run's rows, and the numbers that it is remembered by."""

import json
from collections import namedtuple

import pytest

from arislab import runs
from arislab.errors import BatchError, ParameterError


def test_an_account_reads_like_a_sum():
    view = runs.account(6000, ok=5870, truncated=61, refused=0, same_request_as_another=69)
    assert repr(view) == "6,000 candidates = 5,870 ok + 61 truncated + 69 same request as another"
    assert "6,000 candidates" in view._repr_html_()
    assert repr(runs.account(0, label="rows")) == "0 rows = 0"


@pytest.mark.parametrize("states", [{"ok": 5}, {"ok": 8}, {"ok": 8, "lost": -1}, {}])
def test_an_account_that_does_not_add_up_is_refused(states):
    with pytest.raises(BatchError, match=f"account of 7 rows does not add up: .*= {sum(states.values())} "):
        runs.account(7, label="rows", **states)


def test_a_headline_takes_numbers_text_and_intervals():
    import numpy as np

    interval = namedtuple("interval", "mean low high n")(0.5, 0.4, 0.6, 100)
    shown = runs.headline(
        runs.account(2, ok=2),
        icl=(0.7, 0.6, 0.8, 50),
        base=interval,
        n=np.int64(1234),
        policy="score",
        bad=float("nan"),
    )
    bundle = shown._repr_mimebundle_()
    numbers = json.loads(json.dumps(bundle["application/vnd.arislab.headline+json"], allow_nan=False))
    assert numbers == {
        "account": {"total": 2, "label": "candidates", "states": {"ok": 2}},
        "icl": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 50},
        "base": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100},
        "n": 1234,
        "policy": "score",
        "bad": None,
    }
    assert bundle["text/plain"].splitlines()[:2] == ["2 candidates = 2 ok", "icl     0.700 [0.600, 0.800] n=50"]
    assert "<script" not in runs.headline(x="<script>")._repr_mimebundle_()["text/html"]
    with pytest.raises(ParameterError, match="headline x="):
        runs.headline(x=[1])


def test_several_numbers_under_one_name_are_shown_each_behind_its_name():
    shown = runs.headline(spread={"fair": 0.25, "of <both>": None, "n": 1200}, spread_of_none={})
    assert repr(shown) == "spread          fair 0.250, of <both> unknown, n 1,200\nspread_of_none  none"
    assert "fair 0.250, of &lt;both&gt; unknown, n 1,200" in shown._repr_mimebundle_()["text/html"]
