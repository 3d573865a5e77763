"""A job against a real server of ours (echo engine), and against a scripted one that misbehaves."""

import json
import os
import signal
import time

import polars as pl
import pytest
from toys import people
from toys import question as ask
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.errors import BatchError, ParameterError


def test_every_request_comes_back_as_one_row(echo, root):
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    frame = requests(40)
    job = batch.submit(frame, server=server, folder=root / "b", max_lines=15)
    rows = job.wait(poll_s=0.05).collect()
    assert len(job.batch_ids) == 3
    assert rows["custom_id"].to_list() == frame["custom_id"].to_list()
    assert rows["status"].unique().to_list() == ["ok"]
    assert rows["llm_output"].to_list() == rows["input"].to_list()


def test_a_second_try_of_the_same_cell_attaches_to_the_batch_that_runs(echo, root):
    _, url = echo(0.05)
    server = batch.connect(url, folder=root / "b")
    first = batch.submit(requests(20), server=server, folder=root / "b")
    second = batch.submit(requests(20), server=server, folder=root / "b")
    assert first.batch_ids == second.batch_ids
    second.wait(poll_s=0.05)
    assert len(list(server.client.batches.list())) == 1


def test_answers_collected_but_not_recorded_are_collected_again_not_paid_again(echo, root):
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    first = batch.submit(requests(6), server=server, folder=root / "b")
    first.wait(poll_s=0.05).collect()  # the process dies here, before the lake has them
    again = batch.submit(requests(6), server=server, folder=root / "b")
    assert again.wait(poll_s=0.05).collect()["status"].to_list() == ["ok"] * 6
    assert len(list(server.client.batches.list())) == 1


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_nothing(echo, root):
    process, url = echo(0.02)
    server = batch.connect(url, folder=root / "b")
    batch.submit(requests(60), server=server, folder=root / "b")
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, url = echo(0)
    again = batch.connect(url, folder=root / "b")
    rows = batch.submit(requests(60), server=again, folder=root / "b").wait(poll_s=0.05).collect()
    assert rows["status"].to_list() == ["ok"] * 60
    assert rows["llm_output"].to_list() == rows["input"].to_list()
    assert len(list(again.client.batches.list())) == 1


def test_reordered_doubled_missing_foreign_and_torn_lines_are_accounted_for(scripted):
    kind, url, folder = scripted
    frame = requests(5)
    a, b, c, d, e = frame["custom_id"]
    kind.output = (
        line(c) + line(a, "first") + line(a, "second") + line("r-foreign") + b'{"torn": ' + b"\n" + line(b, None)
    )
    kind.error = json.dumps(
        {"id": "y", "custom_id": d, "response": None, "error": {"code": "batch_expired", "message": "late"}}
    ).encode()
    job_ = batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder, attempts=1)
    rows = {row["custom_id"]: row for row in job_.wait(poll_s=0.01).collect().to_dicts()}
    assert [rows[x]["status"] for x in (a, b, c, d, e)] == ["ok", "empty", "ok", "expired", "unavailable"]
    assert rows[a]["llm_output"] == "first"
    quarantined = [json.loads(x)["line"] for x in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [q.get("custom_id", "torn") for q in quarantined] == [a, "r-foreign", "torn"]


def test_each_ending_has_its_status(scripted):
    kind, url, folder = scripted
    frame = requests(5)
    a, b, c, d, e = frame["custom_id"]
    kind.output = (
        line(a, "cut off", reason="length")
        + line(b, "no", refusal="I will not")
        + line(c, "x", reason="content_filter")
        + line(d, "   ")
        + line(e, "x", status=500)
    )
    rows = (
        batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder, attempts=1)
        .wait(poll_s=0.01)
        .collect()
    )
    assert rows["status"].to_list() == ["truncated", "refused", "refused", "empty", "unavailable"]
    assert rows["llm_output"].to_list()[0] == "cut off"
    assert rows["error"].is_not_null().to_list() == [False] * 4 + [True]


def test_a_batch_refused_as_a_whole_says_why(scripted):
    kind, url, folder = scripted
    kind.status = "failed"
    with pytest.raises(BatchError, match="as a whole"):
        batch.submit(requests(2), server=batch.connect(url, folder=folder), folder=folder).wait(poll_s=0.01).collect()


def test_one_refused_batch_costs_only_its_own_rows(scripted):
    kind, url, folder = scripted
    two = pl.concat([requests(2), batch.build_requests(people(2), ask, model="b", max_tokens=50)])
    kind.output = b"".join(line(x) for x in two["custom_id"])
    job = batch.submit(two, server=batch.connect(url, folder=folder), folder=folder)
    refused = job.batch_ids[0]
    kind.failed = refused
    rows = job.wait(poll_s=0.01).collect()
    assert rows["status"].to_list() == ["error", "error", "ok", "ok"]
    assert "batch_failed" in rows["error"][0]


def test_an_empty_answer_is_an_answer_and_not_a_missing_one():
    answer = json.loads(line("x", ""))
    assert (batch.outcome(answer, "completed")["status"], batch.outcome(answer, "completed")["llm_output"]) == (
        "empty",
        "",
    )


def test_a_changed_set_attaches_to_what_is_on_its_way_and_sends_only_the_rest(echo, root):
    _, url = echo(0.05)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    first = batch.submit(requests(40), **how)
    more = batch.submit(requests(60), **how)
    assert [shard["n"] for shard in more.shards] == [40, 20]
    assert more.shards[0]["batch_id"] == first.batch_ids[0]
    rows = more.wait(poll_s=0.05).collect()
    assert rows["llm_output"].to_list() == requests(60)["input"].to_list()
    fewer = batch.submit(requests(10), **how)  # all of them lie in the folder, not yet in a lake
    assert fewer.account() == {"ok": 10}
    assert fewer.wait().collect()["llm_output"].to_list() == requests(10)["input"].to_list()
    assert len(list(how["server"].client.batches.list())) == 2


def test_another_folder_asks_the_same_server_anew(echo, root):
    _, url = echo()
    for folder in (root / "b", root / "c"):
        job_ = batch.submit(requests(5), server=batch.connect(url, folder=folder), folder=folder).wait(poll_s=0.05)
        assert job_.account() == {"ok": 5}
    assert len(list(batch.connect(url, folder=root / "b").client.batches.list())) == 2


def test_what_may_cost_again_is_sent_again_on_consent_only(scripted):
    kind, url, folder = scripted
    frame = requests(2)
    a, b = frame["custom_id"]
    kind.output = line(a) + line(b, status=400)
    how = {"server": batch.connect(url, folder=folder), "folder": folder}
    rows = batch.submit(frame, **how).wait(poll_s=0.01).collect()
    assert (rows["status"].to_list(), rows["attempt"].to_list(), kind.creates) == (["ok", "error"], [1, 1], 1)
    with pytest.warns(UserWarning, match=r"1 error of earlier runs .* resend=\('error',\)"):
        again = batch.submit(frame, **how).wait(poll_s=0.01).collect()
    assert (again.equals(rows), kind.creates) == (True, 1)
    kind.output = line(b, "now")
    mended = batch.submit(frame, **how, resend=("error",)).wait(poll_s=0.01).collect()
    assert (mended["status"].to_list(), mended["attempt"].to_list(), kind.creates) == (["ok", "ok"], [1, 2], 2)
    assert mended["llm_output"].to_list() == ["fine", "now"]
    with pytest.raises(ParameterError, match="resend must name"):
        batch.submit(frame, **how, resend=("ok",))


def test_a_row_that_cannot_be_sent_is_a_row_with_a_reason(echo, root):
    _, url = echo()
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    texts = ["fine", "half a character \ud83d", "a whole one \U0001f600", "x" * 8_000_001]
    frame = pl.DataFrame({"candidate_id": list("abcd"), "profile": [json.dumps({"text": t}) for t in texts]})
    got = batch.submit(batch.build_requests(frame, ask, model="echo"), **how).wait(poll_s=0.05).collect()
    assert got["status"].to_list() == ["ok", "error", "ok", "error"]
    assert "lone surrogate" in got["error"][1]
    assert "8,000,000" in got["error"][3]
