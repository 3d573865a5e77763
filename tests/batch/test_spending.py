"""A budget stops what would pass it."""

import pytest
from toys import nothing_recorded
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.batch import claims, spending
from arislab.batch.job import prepare
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


@pytest.mark.parametrize("state", ["planned", "uploading", "creating"])
def test_a_budget_holds_for_what_a_killed_job_had_claimed(echo, root, state):
    _, url = echo()
    frame, server = requests(12), batch.connect(url, folder=root / "b")
    killed = prepare(frame, server=server, folder=root / "b", max_lines=4)
    claims.claim(killed, frame["custom_id"].to_list(), set())
    for shard in killed.shards[1:]:  # two are half sent where two processes were killed
        killed.ledger.note(shard, state=state)
    killed.ledger.close()
    estimate = batch.dry_run(frame, server=server, folder=root / "b", recorded=nothing_recorded(), task="t")
    budget = batch.Budget(tokens=1, per_request=estimate.per_request)
    job = batch.submit(frame, server=server, folder=root / "b", max_lines=4, budget=budget)
    assert len(list(server.client.batches.list())) == 1, "the first file is the pilot"
    with pytest.warns(UserWarning, match="is spent"):
        job.wait(poll_s=0.05)
    assert len(list(server.client.batches.list())) == 1
    assert job.account()["ok"] == 4


def test_what_was_spent_so_far_stands_beside_the_budget_in_its_unit():
    from types import SimpleNamespace

    running = [SimpleNamespace(usage=SimpleNamespace(input_tokens=500_000, output_tokens=None)), SimpleNamespace()]

    def words(budget, prices=None):
        work = SimpleNamespace(
            budget=budget, usd_per_million=prices, paid_tokens={1: (500_000, 250_000)},
            answer_tokens={1: (500_000, 250_000)}, requests=requests(40),
            ledger=SimpleNamespace(counts=lambda shard: {"ok": 9, "truncated": 1, "error": 5}),
        )  # fmt: skip
        return spending.in_words(work, running)

    assert words(None) == ""
    assert words(None, (1.0, 4.0)) == "2.00 of about 6.00 USD", "40 requests at what ten answers took"
    assert words(batch.Budget(tokens=2_000_000), (1.0, 4.0)) == (
        "1,250,000 of 2,000,000 tokens, 2.00 of about 6.00 USD"
    )
    assert words(batch.Budget(usd=20.0, usd_per_million=(1.0, 4.0)), (1.0, 4.0)) == "2.00 of 20.00 USD", "once"
    assert words(batch.Budget(usd=20.0, usd_per_million=(1.0, 4.0))) == "2.00 of 20.00 USD"
    assert words(batch.Budget(tokens=2_000_000)) == "1,250,000 of 2,000,000 tokens"


PRICE = """[[price]]
model = "{}"
as_of = {}
usd_per_million_prompt = 1.0
usd_per_million_completion = 4.0
source = "the contract"
"""


def test_money_is_shown_wherever_the_price_of_all_models_is_known_and_nowhere_else(echo, root, monkeypatch):
    from datetime import UTC, datetime

    _, url = echo()
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "prices.toml").write_text(PRICE.format("echo", datetime.now(UTC).date()))
    said = []
    monkeypatch.setattr(spending, "in_words", lambda *given, real=spending.in_words: said.append(real(*given)) or "")
    frame, server = requests(12), batch.connect(url, folder=root / "b")
    assert set(frame["model"]) == {"echo"}
    batch.submit(frame, server=server, folder=root / "b").wait(poll_s=0.01)
    assert said[-1].endswith(" USD"), said
    assert spending.price_of(["echo"]) == (1.0, 4.0)
    assert spending.price_of(["echo", "another"]) is None
    said.clear()
    given = batch.submit(requests(13), server=server, folder=root / "c", usd_per_million=(2.0, 2.0)).wait(poll_s=0.01)
    assert given.usd_per_million == (2.0, 2.0)
    (root / "data" / "prices.toml").unlink()
    assert spending.price_of(["echo"]) is None
