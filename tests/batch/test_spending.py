"""A budget stops what would pass it."""

import pytest
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.errors import ParameterError


def test_a_budget_stops_before_the_file_that_would_pass_it(scripted):
    kind, url, folder = scripted
    frame = requests(12)
    kind.output = b"".join(line(x) for x in frame["custom_id"])  # 5 tokens each
    server = batch.connect(url, folder=folder)
    with pytest.warns(UserWarning, match="has no room for the next 4 requests"):
        job_ = batch.submit(frame, server=server, folder=folder, max_lines=4, budget=batch.Budget(tokens=45)).wait(
            poll_s=0.01
        )
    assert (kind.creates, job_.account()) == (2, {"ok": 8, "unsent": 4})
    assert job_.collect().height == 8
    rest = batch.submit(frame, server=server, folder=folder, max_lines=4).wait(poll_s=0.01)
    assert (kind.creates, rest.account()) == (3, {"ok": 12})
    with pytest.raises(ParameterError, match="needs prices"):
        batch.Budget(usd=1.0)
    assert batch.Budget(usd=1.0, usd_per_million=(1.0, 2.0)).passed(500_001, 250_000)
