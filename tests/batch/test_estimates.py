"""What sending would do and cost, before anything is spent."""

import polars as pl
import pytest
from toys import nothing_recorded, people
from toys import question as ask
from toys import questions as requests

from arislab import batch
from arislab.batch import claims
from arislab.batch.job import prepare
from arislab.batch.ledger import Ledger
from arislab.errors import ParameterError


def test_the_estimate_speaks_of_all_requests_and_never_guesses_a_price(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    estimate = batch.dry_run(requests(50), server=server, folder=root / "b", recorded=recorded, task="t", n=10)
    assert (estimate.n_requests, estimate.n_tried, estimate.n_failed, estimate.usd) == (50, 10, 0, None)
    assert estimate.prompt_tokens[1] <= estimate.prompt_tokens[0] <= estimate.prompt_tokens[2]
    assert "cost unknown" in repr(estimate)
    priced = batch.dry_run(
        requests(50), server=server, folder=root / "b", recorded=recorded, task="t", n=10, usd_per_million=(1.0, 2.0)
    )
    assert priced.usd[0] == pytest.approx((priced.prompt_tokens[0] + 2 * priced.completion_tokens[0]) / 1e6)
    assert priced.n_requests == 40  # what was tried first is recorded, and not asked for again
    assert recorded.frame.height == 20


def test_with_every_answer_recorded_there_is_nothing_to_estimate(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    batch.answer(requests(5), **how)
    assert "nothing to send" in repr(batch.dry_run(requests(5), **how, n=3))
    with pytest.raises(ParameterError, match="n must be >= 1"):
        batch.dry_run(requests(5), **how, n=0)


def test_the_plan_sums_to_all_rows_and_sends_nothing(echo, root):
    _, url = echo(0.05)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    batch.submit(requests(6), **how).wait(poll_s=0.05)
    batch.submit(requests(30).tail(20), **how)
    twins = pl.concat([people(40), people(1).with_columns(candidate_id=pl.lit("twin"))])
    frame = batch.build_requests(twins, ask, model="echo", max_tokens=50)
    planned = batch.plan(frame, **how, answered=frame["custom_id"].to_list()[:2], max_lines=10)
    assert (planned.n_rows, planned.n_same_request, planned.n_recorded, planned.n_received, planned.n_open) == (
        41,
        1,
        2,
        4,
        20,
    )
    assert (planned.n_to_send, [n for n, _ in planned.files], planned.n_blocked, planned.n_unsendable) == (
        14,
        [10, 4],
        {},
        0,
    )
    assert "unknown before a dry run" in repr(planned)
    assert len(list(how["server"].client.batches.list())) == 2


@pytest.mark.slow
def test_what_is_on_its_way_is_not_tried_again(echo, root):
    """Its batch may take hours, and whoever runs a notebook again after a kill would wait for it first."""
    _, url = echo(0.1)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    job = batch.submit(requests(30).head(20), **how)
    recorded = nothing_recorded()
    estimate = batch.dry_run(requests(30), **how, recorded=recorded, task="t", n=40)
    assert (estimate.n_requests, estimate.n_tried) == (10, 10)
    assert set(recorded.frame["custom_id"]) == set(requests(30).tail(10)["custom_id"])
    job.wait(poll_s=0.05)
    batch.submit(requests(50).tail(20), **how)
    assert not batch.dry_run(requests(50).tail(20), **how, recorded=recorded, task="t").n_tried


def killed_before_it_sent(frame, *, server, folder, max_lines):
    """All is claimed, as after a kill before the first upload."""
    job = prepare(frame, server=server, folder=folder, max_lines=max_lines)
    claims.claim(job, frame["custom_id"].to_list(), set())
    job.ledger.close()


def test_what_was_claimed_and_not_sent_is_neither_on_its_way_nor_paid(echo, root):
    _, url = echo()
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    killed_before_it_sent(requests(30), **how, max_lines=10)
    tried = {"recorded": nothing_recorded(), "task": "t", "usd_per_million": (1.0, 2.0)}
    estimate = batch.dry_run(requests(30), **how, **tried)
    assert (estimate.n_requests, estimate.n_tried, estimate.n_claimed) == (30, 0, 30)
    assert (estimate.per_request, estimate.prompt_tokens, estimate.usd) == (None, None, None)
    assert "30 were claimed and not sent yet; they will be, and cost; tokens, time and cost: unknown" in repr(estimate)
    planned = batch.plan(requests(35), **how, estimate=estimate)
    assert (planned.n_open, planned.n_claimed, planned.n_to_send, planned.n_received) == (0, 30, 5, 0)
    assert [n for n, _ in planned.files] == [10, 10, 10, 5]
    assert "35 rows = 30 claimed, not sent yet + 5 to send; 4 files" in repr(planned)
    assert "on their way" not in repr(planned)
    some = batch.dry_run(requests(35), **how, **tried)  # those that nobody claimed tell what the others take, too
    assert (some.n_requests, some.n_tried, some.n_claimed) == (35, 5, 30)
    rows = tried["recorded"].frame
    assert set(rows["custom_id"]) == set(requests(35).tail(5)["custom_id"])
    assert some.per_request == pytest.approx((rows["prompt_tokens"].mean(), rows["completion_tokens"].mean()))
    assert "; 30 were claimed and not sent yet; they will be, and cost" in repr(some)


def test_where_all_is_on_its_way_there_is_nothing_to_send_and_no_mean(echo, root):
    _, url = echo(0.1)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    job = batch.submit(requests(10), **how)
    estimate = batch.dry_run(requests(10), **how, recorded=nothing_recorded(), task="t")
    assert (estimate.n_requests, estimate.per_request, estimate.prompt_tokens) == (0, None, (0.0, 0.0, 0.0))
    assert "nothing to send" in repr(estimate)
    job.wait(poll_s=0.05)


@pytest.mark.parametrize("ask_first", ["dry_run", "plan"])
def test_the_ledger_is_let_go_when_it_cannot_be_looked_at(echo, root, monkeypatch, ask_first):
    _, url = echo()
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    more = {"recorded": nothing_recorded(), "task": "t"} if ask_first == "dry_run" else {}
    closed, close = [], Ledger.close

    def look(*_, **__):
        raise OSError("the disk is gone")

    def note(ledger):
        closed.append(ledger)
        close(ledger)

    monkeypatch.setattr(Ledger, "look", look)
    monkeypatch.setattr(Ledger, "close", note)
    with pytest.raises(OSError, match="the disk is gone"):
        getattr(batch, ask_first)(requests(2), **how, **more)
    assert len(closed) == 1
