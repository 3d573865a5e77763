"""What a client must survive, each against a server that does it.

Numbers in the ids are those of the project's list of failures.
"""

import json
import os
import re
import time
import warnings
from collections import Counter

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, good, people, questions, serving

from arislab import batch
from arislab.batch import connection, kept, outgoing, results, sending, watch
from arislab.batch.dialects import dialect
from arislab.batch.ledger import Ledger
from arislab.errors import BatchError, ParameterError, PrerequisiteError

N = 4
FRAME = batch.build_requests(people(N), lambda c: [{"role": "user", "content": c["profile"]["text"]}], model="m")
A, *_ = FRAME["custom_id"]


@pytest.fixture
def server():
    with serving() as (faults, url):
        yield faults, url


def run(url, folder, **more):
    """Send all and return the rows; the account sums to N."""
    job = batch.submit(FRAME, server=batch.connect(url, folder=folder), folder=folder, **more).wait(poll_s=0.01)
    rows = job.collect()
    assert rows["custom_id"].to_list() == FRAME["custom_id"].to_list()
    assert sum(job.account().values()) == N
    return rows


def failed(name, error, **more):
    return {"id": "y", "custom_id": name, "response": None, "error": error} | more


@pytest.mark.parametrize(
    ("route", "fault", "n_creates"),
    [
        pytest.param("create", "drop", 1, id="2-create-done-but-its-answer-lost"),
        pytest.param("create", "done-503", 1, id="2-create-done-but-denied"),
        pytest.param("upload", (503, "busy", ()), 1, id="8-upload-503"),
        pytest.param("upload", "drop", 1, id="8-upload-reset"),
        pytest.param("retrieve", "refuse", 1, id="8-retrieve-reset"),
        pytest.param("content", "refuse", 1, id="8-download-reset"),
        pytest.param("upload", (429, "slow down", (("retry-after", "0"),)), 1, id="8-upload-429-with-retry-after"),
        pytest.param("retrieve", (500, "oops", ()), 1, id="8-retrieve-500"),
        pytest.param("list", (502, "oops", ()), 1, id="8-list-502"),
        pytest.param("content", (503, "busy", ()), 1, id="8-download-503"),
    ],
)
def test_a_control_call_that_fails_once_costs_nothing(server, tmp_path, route, fault, n_creates):
    faults, url = server
    faults.script[route] = [fault]
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (len(faults.batches), set(faults.asked.values())) == (n_creates, {1})
    assert faults.script[route] == [], "the call was made"


@pytest.mark.parametrize(
    ("first", "status", "n_asked"),
    [
        pytest.param(failed(A, {"code": "batch_expired", "message": "late"}), "ok", 2, id="4-expired"),
        pytest.param(good(A, code=429), "ok", 2, id="9-status-429"),
        pytest.param(good(A, code=500), "ok", 2, id="9-status-500"),
        pytest.param(good(A, code=0), "ok", 2, id="9-status-0"),
        pytest.param(good(A, code=408), "ok", 2, id="9-status-408"),
        pytest.param(good(A, code=400), "error", 1, id="10-status-400"),
        pytest.param(good(A, code=404), "error", 1, id="10-status-404"),
        pytest.param(good(A, code=413), "error", 1, id="10-status-413"),
        pytest.param(good(A, code=422), "error", 1, id="10-status-422"),
        pytest.param(failed(A, {"code": "content_filter", "message": "no"}), "error", 1, id="10-content-filter"),
        pytest.param(failed(A, "it broke"), "ok", 2, id="11-error-as-text"),
        pytest.param(good(A, code=422, error="bad field"), "error", 1, id="11-response-and-error"),
        pytest.param(None, "ok", 2, id="12-no-line-though-counts-say-so"),
        pytest.param(
            {"custom_id": A, "response": {"status_code": 200, "body": {"choices": []}}, "error": None},
            "ok",
            2,
            id="14-no-choices",
        ),
        pytest.param(good(A, "cut", reason="length"), "truncated", 1, id="15-truncated"),
        pytest.param(b'{"torn": \n', "ok", 2, id="28-a-line-that-is-no-json"),
        pytest.param(b'{"custom_id": "\xff"}\n', "ok", 2, id="28-bytes-that-are-no-utf-8"),
        pytest.param(json.dumps(good(A, float("nan"))).encode() + b"\n", "empty", 1, id="28-nan"),
    ],
)
def test_a_line_that_fails_first_is_asked_again_only_where_that_can_help(server, tmp_path, first, status, n_asked):
    faults, url = server
    faults.line = lambda name, n: first if name == A and n == 1 else good(name)
    rows = run(url, tmp_path)
    assert rows["status"].to_list() == [status] + ["ok"] * (N - 1)
    assert faults.asked == {**dict.fromkeys(FRAME["custom_id"], 1), A: n_asked}
    assert run(url, tmp_path)["status"].to_list() == rows["status"].to_list() if status != "error" else True


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(
            lambda x: good(x, "a\u2028b\u2029c\u0085d\x1ce"), "a\u2028b\u2029c\u0085d\x1ce", id="27-separators"
        ),
        pytest.param(
            lambda x: json.dumps(good(x, "a\u2028b\u0085c"), ensure_ascii=False).encode() + b"\n",
            "a\u2028b\u0085c",
            id="27-separators-not-escaped",
        ),
        pytest.param(lambda x: json.dumps(good(x)).encode() + b"\r\n", "fine", id="28-crlf"),
        pytest.param(lambda x: good(x, "a\x00b\ud83d\ude00"), "a\x00b\U0001f600", id="28-nul-and-surrogate-pairs"),
        pytest.param(lambda x: b"\n\n" + json.dumps(good(x)).encode() + b"\n", "fine", id="28-blank-lines"),
        pytest.param(
            lambda x: good(x) | {"response": {"status_code": 200, "body": json.dumps(good(x)["response"]["body"])}},
            "fine",
            id="11-body-as-json-text",
        ),
        pytest.param(
            lambda x: json.dumps(good(x)).encode() + b"\n" + json.dumps(good(x)).encode() + b"\n",
            "fine",
            id="17-doubled",
        ),
    ],
)
def test_odd_bytes_and_shapes_give_the_same_answers(server, tmp_path, make, text):
    faults, url = server
    faults.line = lambda name, n: make(name)
    assert run(url, tmp_path)["llm_output"].to_list() == [text] * N
    assert set(faults.asked.values()) == {1}


def test_16_20_28_a_shuffled_file_with_a_byte_order_mark_and_no_last_newline_is_read_whole(server, tmp_path):
    faults, url = server
    faults.line = lambda name, n: good(name, name)
    faults.content = lambda data: b"\xef\xbb\xbf" + b"\n".join(data.strip().split(b"\n")[::-1])
    assert run(url, tmp_path)["llm_output"].to_list() == FRAME["custom_id"].to_list()
    assert set(faults.asked.values()) == {1}


def test_20_a_download_cut_short_without_a_length_is_fetched_again_not_paid_again(server, tmp_path):
    faults, url = server
    cuts = [100, 300]
    faults.is_chunked, faults.content = True, lambda data: data[: cuts.pop()] if cuts else data
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (set(faults.asked.values()), cuts) == ({1}, [])


def test_20_a_file_that_stays_cut_at_the_end_of_a_line_is_not_taken_for_whole(server, tmp_path):
    faults, url = server
    faults.is_chunked, faults.script["file"] = True, [(500, "oops", ())]
    faults.content = lambda data: b"".join(data.splitlines(keepends=True)[:-1])
    with pytest.raises(BatchError, match=r"three times shorter than .* 1 lines are missing; .* run the cell again"):
        run(url, tmp_path)
    faults.content = lambda data: data
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_20_one_broken_file_does_not_keep_the_others_from_being_fetched(server, tmp_path):
    faults, url = server
    faults.content = lambda data: data.replace(b"r-", b"x-") if A.encode() in data else data
    with pytest.raises(BatchError, match="another batch's file"):
        run(url, tmp_path, max_lines=1)
    states = [row["state"] for row in Ledger(tmp_path).rows()]
    assert states == ["submitted"] + ["collected"] * (N - 1)


@pytest.mark.parametrize("status", ["pending", "queued", "running", "IN_PROGRESS", "daydreaming"])
def test_26_a_status_that_nobody_knows_is_waited_for(server, tmp_path, status):
    faults, url = server
    job = batch.submit(FRAME, server=batch.connect(url, folder=tmp_path), folder=tmp_path)
    (made,) = faults.batches.values()
    made["status"] = status
    if status != "daydreaming":
        job.look()
    else:
        with pytest.warns(UserWarning, match="no status of the protocol"):
            job.look()
    job.look()  # warned once
    assert job.account() == {"open": N}
    made["status"] = "completed"
    assert job.wait(poll_s=0.01).account() == {"ok": N}
    assert set(faults.asked.values()) == {1}


def test_5_a_batch_that_someone_cancelled_is_taken_in_and_not_sent_again_by_itself(server, tmp_path):
    faults, url = server
    faults.end = lambda n: {"status": "cancelled"}
    faults.line = lambda name, n: good(name) if name == A else None
    assert run(url, tmp_path)["status"].to_list() == ["ok"] + ["cancelled"] * (N - 1)
    with pytest.warns(UserWarning, match=r"resend=\('cancelled',\)"):
        run(url, tmp_path)
    assert len(faults.batches) == 1


def test_22_a_batch_that_the_server_forgot_is_lost_and_sent_again_on_consent_only(server, tmp_path):
    faults, url = server
    job = batch.submit(FRAME, server=batch.connect(url, folder=tmp_path), folder=tmp_path)
    faults.batches.clear()
    assert job.wait(poll_s=0.01).account() == {"lost": N}
    with pytest.warns(UserWarning, match=r"resend=\('lost',\)"):
        run(url, tmp_path)
    assert faults.calls["create"] == 1
    assert run(url, tmp_path, resend=("lost",))["status"].to_list() == ["ok"] * N
    assert faults.calls["create"] == 2


def test_21_a_result_file_that_is_gone_is_lost_and_not_paid_again_by_itself(server, tmp_path):
    faults, url = server
    faults.script["content"] = [(404, "expired", ())]
    assert run(url, tmp_path)["status"].to_list() == ["lost"] * N
    assert set(faults.asked.values()) == {1}


@pytest.mark.parametrize("code", [400, 422])
def test_7_a_create_that_is_refused_is_not_repeated(server, tmp_path, code):
    faults, url = server
    faults.script["create"] = [(code, "no such model", ())]
    with pytest.raises(BatchError, match="no such model"):
        run(url, tmp_path)
    assert (faults.calls["create"], sum(faults.asked.values())) == (1, 0)


def test_38_a_lost_answer_to_create_is_found_by_the_name_of_the_file_where_metadata_is_stripped(server, tmp_path):
    faults, url = server
    faults.is_without_metadata, faults.script["create"] = True, ["drop"]
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (faults.calls["create"], set(faults.asked.values())) == (1, {1})


def test_18_the_file_of_another_batch_is_refused_whole(server, tmp_path):
    faults, url = server
    faults.line = lambda name, n: good(f"other-{name}")
    with pytest.raises(BatchError, match="another batch's file"):
        run(url, tmp_path)
    faults.content = lambda data: data.replace(b"other-", b"")
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_33_a_full_queue_is_waited_for_and_nothing_is_asked_twice(server, tmp_path):
    faults, url = server
    full = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "enqueued", "line": None}]}
    faults.end = lambda n: {"status": "failed", "errors": full} if n == 0 else {"status": "completed"}
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_24_a_batch_that_outlives_its_window_is_not_waited_for_for_ever(server, tmp_path):
    faults, url = server
    job = batch.submit(FRAME, server=batch.connect(url, folder=tmp_path), folder=tmp_path)
    (made,) = faults.batches.values()
    made |= {
        "status": "in_progress",
        "created_at": 10**9,
        "expires_at": 10**9 + 86_400,
    }  # the server's clock may be far off
    job.look()
    job.ledger.db.execute("update shards set changed_at = '2020-01-01 00:00:00'")
    with pytest.raises(BatchError, match=r"past its window.*arislab batch cancel batch-0.*resend"):
        job.look()
    assert job.account() == {"open": N}


def test_19_answers_of_a_model_with_another_name_are_recorded_and_said(server, tmp_path):
    faults, url = server

    def other(name, n):
        line = good(name)
        line["response"]["body"]["model"] = "m-2026" if name == A else "quite-another"
        return line

    faults.line = other
    job = batch.submit(FRAME, server=batch.connect(url, folder=tmp_path), folder=tmp_path).wait(poll_s=0.01)
    with pytest.warns(UserWarning, match=rf"{N - 1} answers come from .*asked 'm', answered 'quite-another'"):
        rows = job.collect()
    assert set(rows["model_returned"]) == {"m-2026", "quite-another"}


def test_38_a_server_that_cannot_list_leaves_a_lost_create_to_its_user(server, tmp_path):
    faults, url = server
    faults.is_without_list, faults.script = True, {"create": ["drop"]}
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path}
    with pytest.raises(BatchError, match=r"cannot list its batches.*resend=\('lost',\)"):
        batch.submit(FRAME, **how)
    with pytest.warns(UserWarning, match=f"{N} lost"):
        again = batch.submit(FRAME, **how)
    assert (again.account(), len(faults.batches)) == ({"lost": N}, 1)
    assert batch.submit(FRAME, **how, resend=("lost",)).wait(poll_s=0.01).account() == {"ok": N}
    assert len(faults.batches) == 2


def submit(url, folder, **more):
    return batch.submit(FRAME, server=batch.connect(url, folder=folder), folder=folder, **more)


def test_1_a_file_that_was_uploaded_before_a_crash_is_found_by_its_name_and_used(server, tmp_path):
    faults, url = server
    faults.script["create"] = ["refuse"]
    with pytest.raises(BatchError, match="run the cell again"):
        run(url, tmp_path)
    Ledger(tmp_path).db.execute("update shards set state = 'uploading', file_id = null")  # as a crash leaves it
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (faults.calls["upload"], set(faults.asked.values())) == (1, {1})


def with_twin(faults, url, folder):
    """A batch on its way, one made of the same file a little later, and a client that died before it knew of either."""
    faults.is_lazy = True
    submit(url, folder)
    (made,) = faults.batches.values()
    faults.batches["batch-x"] = made | {"id": "batch-x", "created_at": 5}
    Ledger(folder).db.execute("update shards set state = 'creating', batch_id = null")


def aside(folder):
    """What lies in quarantine: reason, batch and request."""
    quarantined = [json.loads(x) for x in (folder / "quarantine.jsonl").read_text().splitlines()]
    return [(x["why"], x["batch_id"], x["line"]["custom_id"]) for x in quarantined]


def share(faults):
    """The first batch that ends answers a and b, the second b and c, the third all."""
    a, b, c, _ = FRAME["custom_id"]
    parts = {1: (a, b), 2: (b, c)}
    faults.line = lambda name, n: good(name, f"answer {n}") if name in parts.get(n, FRAME["custom_id"]) else None
    return a, b, c


@pytest.mark.parametrize("end", ["cancelled", "completed", "expired", "file gone", "forgotten", "failed"])
def test_2_of_two_batches_for_one_file_the_older_is_kept_and_the_other_cancelled(server, tmp_path, end):
    faults, url = server
    with_twin(faults, url, tmp_path)
    job = submit(url, tmp_path)
    assert job.batch_ids == ["batch-0"]
    assert [b["status"] for b in faults.batches.values()] == ["in_progress", "cancelling"]
    _, b, _ = share(faults)
    faults.finish("batch-0", {"status": "expired"})
    job.look()
    assert job.account() == {"open": N}, "the answers of the twin are waited for"
    faults.finish("batch-x", {"status": end if end in ("completed", "expired", "failed") else "cancelled"})
    if end == "file gone":
        del faults.files["file-out-batch-x"]
    if end == "forgotten":
        del faults.batches["batch-x"]
    faults.is_lazy = False
    with pytest.warns(UserWarning, match="batch batch-0 has a twin, batch-x: a create was repeated") as warned:
        rows = job.wait(poll_s=0.01).collect()
    assert len(warned) == 1
    assert sum(job.account().values()) == rows.height == N
    has_come = end in ("cancelled", "completed", "expired")
    answers_kept = ["answer 1", "answer 1", "answer 3" if end in ("file gone", "forgotten") else "answer 2", "answer 3"]
    assert rows["llm_output"].to_list() == answers_kept
    if has_come:
        assert rows["batch_id"].to_list() == ["batch-0", "batch-0", "batch-x", "batch-1"]
        assert aside(tmp_path) == [("doubled", "batch-x", b)]
        assert "1 of its answers fill gaps, 1 are doubled" in str(warned[0].message)
        assert "10 tokens were spent twice" in str(warned[0].message)
        assert "twin batch-x: 1 used, 1 doubled" in batch.status(tmp_path)["lines"][0]
        assert any(b'"answer 2"' in f.read_bytes() and b.encode() in f.read_bytes() for f in tmp_path.glob("results/*"))
    n_again = len(faults.names(faults.batches["batch-1"]["input_file_id"]))
    assert n_again == (1 if has_come else 2)
    assert run(url, tmp_path)["llm_output"].to_list() == answers_kept


@pytest.mark.parametrize("end", ["failed", "forgotten", "file gone"])
def test_2_the_twin_of_a_batch_that_brought_nothing_stands_in_for_it(server, tmp_path, end):
    faults, url = server
    with_twin(faults, url, tmp_path)
    job = submit(url, tmp_path)
    faults.finish("batch-0", {"status": "completed" if end == "file gone" else "failed"})
    if end == "file gone":
        del faults.files["file-out-batch-0"]
    if end == "forgotten":
        del faults.batches["batch-0"]
    _, _, c = share(faults)
    faults.line = lambda name, n: good(name, "the twin's") if name != c else good(name, code=400)
    faults.finish("batch-x", {"status": "completed"})
    with pytest.warns(UserWarning, match="3 of its answers fill gaps, 0 are doubled"):
        rows = job.wait(poll_s=0.01).collect()
    missing = {"failed": "error", "forgotten": "lost", "file gone": "lost"}[end]
    assert rows["status"].to_list() == ["ok", "ok", missing, "ok"]
    assert set(rows.filter(status="ok")["batch_id"]) == {"batch-x"}
    assert faults.calls["create"] == 1


def test_2_a_create_that_a_proxy_repeats_is_seen_although_it_was_answered(server, tmp_path):
    faults, url = server
    faults.is_lazy, faults.script["create"] = True, ["twice"]
    job = submit(url, tmp_path)
    assert job.batch_ids == ["batch-1"], "the answer to the second"
    job.look()
    assert job.batch_ids == ["batch-0"]
    assert [b["status"] for b in faults.batches.values()] == ["in_progress", "cancelling"]
    share(faults)
    faults.finish("batch-1", {"status": "cancelled"})
    faults.finish("batch-0", {"status": "completed"})
    faults.is_lazy = False
    with pytest.warns(UserWarning, match="1 of its answers fill gaps, 1 are doubled"):
        assert job.wait(poll_s=0.01).collect()["status"].to_list() == ["ok"] * N
    assert faults.calls["create"] == 2  # what neither had answered


@pytest.mark.parametrize("has_metadata", [True, False])
def test_2_the_twin_of_a_batch_that_the_server_forgot_is_found_and_not_paid_again(server, tmp_path, has_metadata):
    faults, url = server
    faults.is_lazy, faults.script["create"], faults.is_without_metadata = True, ["twice"], not has_metadata
    job = submit(url, tmp_path)
    assert job.batch_ids == ["batch-1"], "the answer to the second"
    del faults.batches["batch-1"]
    faults.finish("batch-0", {"status": "completed"})
    with pytest.warns(UserWarning, match="batch batch-0 has a twin, batch-1"):
        rows = job.wait(poll_s=0.01).collect()
    assert rows["status"].to_list() == ["ok"] * N
    assert (set(rows["batch_id"]), set(faults.asked.values()), faults.calls["create"]) == ({"batch-0"}, {1}, 1)
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N


def test_2_a_batch_that_is_listed_but_cannot_be_retrieved_is_no_twin_of_itself(server, tmp_path):
    faults, url = server
    faults.is_lazy = True
    job = submit(url, tmp_path)
    faults.script["retrieve"] = [(404, "no such batch", ())] * 3  # of a replica that lags behind
    for _ in range(4):
        job.look()
    assert (faults.calls["cancel"], faults.batches["batch-0"]["status"]) == (0, "in_progress")
    assert job.account() == {"lost": N}


def test_2_a_server_that_knows_the_key_of_a_create_makes_no_twin(server, tmp_path):
    faults, url = server
    faults.is_ours, faults.script["create"] = True, ["twice"]
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (len(faults.batches), faults.calls["list"], set(faults.asked.values())) == (1, 0, {1})


class KilledError(BaseException):
    """The process is gone."""


def kill(monkeypatch, target, name, *, after=0):
    """Let a process die at one call of a function."""
    left, call = [after], getattr(target, name)

    def dying(*given, **more):
        left[0] -= 1
        if left[0] == -1:
            raise KilledError
        return call(*given, **more)

    monkeypatch.setattr(target, name, dying)


@pytest.mark.parametrize("where", ["before the twin is cancelled", "between the result files", "before the quarantine"])
def test_2_a_crash_between_finding_a_twin_and_merging_it_loses_and_doubles_nothing(
    server, tmp_path, monkeypatch, where
):
    faults, url = server
    with_twin(faults, url, tmp_path)
    share(faults)
    with monkeypatch.context() as patch:
        if where == "before the twin is cancelled":
            kill(patch, sending, "cancel_batch")
            with pytest.raises(KilledError):
                submit(url, tmp_path)
            assert faults.batches["batch-x"]["status"] == "in_progress"
            faults.is_without_list = True  # it is known from the ledger alone
            submit(url, tmp_path).look()  # another process
            faults.is_without_list = False
            assert faults.batches["batch-x"]["status"] == "cancelling"
        job = submit(url, tmp_path)
        faults.finish("batch-0", {"status": "expired"})
        faults.finish("batch-x", {"status": "cancelled"})
        faults.is_lazy = False
        if where != "before the twin is cancelled":
            what = {
                "between the result files": (kept, "keep", 1),
                "before the quarantine": (results, "quarantine", 0),
            }
            kill(patch, *what[where][:2], after=what[where][2])
            with pytest.raises(KilledError):
                job.wait(poll_s=0.01)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        rows = run(url, tmp_path)
    assert rows["llm_output"].to_list() == ["answer 1", "answer 1", "answer 2", "answer 3"]
    assert Counter(faults.asked.values()) == {2: 3, 3: 1}
    assert run(url, tmp_path)["llm_output"].to_list() == rows["llm_output"].to_list()


def test_2_two_notebooks_merge_a_twin_once(server, tmp_path):
    faults, url = server
    with_twin(faults, url, tmp_path)
    both = [submit(url, tmp_path) for _ in range(2)]
    _, b, _ = share(faults)
    faults.finish("batch-0", {"status": "expired"})
    faults.finish("batch-x", {"status": "cancelled"})
    faults.is_lazy = False
    with pytest.warns(UserWarning, match="has a twin") as warned:
        outputs = [job.wait(poll_s=0.01).collect()["llm_output"].to_list() for job in both]
    assert outputs == [["answer 1", "answer 1", "answer 2", "answer 3"]] * 2
    assert (len(warned), aside(tmp_path)) == (1, [("doubled", "batch-x", b)])
    assert faults.calls["create"] == 2


def test_2_what_a_twin_used_counts_against_the_budget(server, tmp_path):
    faults, url = server
    faults.script["create"] = ["twice"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        job = submit(url, tmp_path, max_lines=2, budget=batch.Budget(tokens=25)).wait(poll_s=0.01)
    assert job.account() == {"ok": 2, "unsent": 2}  # 10 tokens, 10 of the twin, and 10 more would pass it
    assert ["has a twin" in str(warned[0].message), "has no room" in str(warned[1].message)] == [True, True]
    faults.calls.clear()
    assert submit(url, tmp_path / "b", max_lines=2, budget=batch.Budget(tokens=25)).wait(poll_s=0.01).account() == {
        "ok": N
    }


def test_2_a_ledger_from_before_twins_is_taken_over(server, tmp_path):
    faults, url = server
    faults.is_lazy = True
    submit(url, tmp_path)
    book = Ledger(tmp_path)
    book.db.executescript("drop table twins; pragma user_version = 2")
    book.close()
    faults.finish("batch-0", {"status": "completed"})
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert faults.calls["create"] == 1


@pytest.mark.parametrize("absent", ["no line", "a line that says so"])
def test_4_an_expired_batch_is_taken_in_and_only_what_is_missing_is_sent_again(server, tmp_path, absent):
    faults, url = server
    late = failed(A, {"code": "batch_expired", "message": "late"}) if absent == "a line that says so" else None
    faults.line = lambda name, n: late if name == A and n == 1 else good(name)
    faults.end = lambda n: {"status": "completed" if n else "expired"}
    rows = run(url, tmp_path)
    assert (rows["status"].to_list(), rows["attempt"].to_list()) == (["ok"] * N, [2] + [1] * (N - 1))
    assert faults.asked == {**dict.fromkeys(FRAME["custom_id"], 1), A: 2}


def test_6_a_batch_that_fails_validation_names_the_requests_and_is_not_sent_again_by_itself(server, tmp_path):
    faults, url = server
    errors = [{"code": "invalid_value", "message": "temperature is too high", "line": 2}]
    faults.end = lambda n: {"status": "failed", "errors": {"object": "list", "data": errors}}
    with pytest.raises(BatchError, match=rf"line 2 \({FRAME['custom_id'][1]}\): temperature is too high"):
        run(url, tmp_path)
    with pytest.warns(UserWarning, match="4 error of earlier runs"), pytest.raises(BatchError, match="as a whole"):
        run(url, tmp_path)
    assert (len(faults.batches), sum(faults.asked.values())) == (1, 0)


@pytest.mark.parametrize("error_file", ["file-out-batch-0", None])
def test_13_a_completed_batch_without_an_output_file_is_read_from_its_error_file(server, tmp_path, error_file):
    faults, url = server
    faults.line = lambda name, n: good(name, code=400)
    faults.end = lambda n: {"status": "completed", "output_file_id": None, "error_file_id": error_file}
    job = submit(url, tmp_path, attempts=2)
    with pytest.warns(UserWarning, match="without a single answer"):
        job.wait(poll_s=0.01)
    assert job.account() == {"error" if error_file else "unavailable": N}
    assert len(faults.batches) == (1 if error_file else 2)
    with pytest.raises(BatchError, match="none of 4 requests has an answer"):
        job.collect()


def test_13_a_batch_that_completes_without_a_single_answer_is_loud_and_stops_the_phase(server, tmp_path):
    faults, url = server
    faults.line = lambda name, n: failed(name, {"code": "invalid_model", "message": "m is not loaded"})
    job = submit(url, tmp_path)
    why = rf"completed without a single answer; for instance {A}: .*m is not loaded.*"
    why += r"run the cell again with resend=\('error',\)"
    with pytest.warns(UserWarning, match=rf"batch batch-0 of 4 requests {why}"):
        job.wait(poll_s=0.01)
    assert batch.status(tmp_path)["state"].to_list() == ["fruitless"]
    assert "m is not loaded" in batch.status(tmp_path)["error"][0]
    for again in (job, None):  # the same in another process
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            again = again or submit(url, tmp_path).wait(poll_s=0.01)
        with pytest.raises(BatchError, match=rf"none of 4 requests has an answer: batch batch-0 {why}.*results"):
            again.collect()
        assert again.account() == {"error": N}
        assert len(again.lines()) == N
    faults.line = lambda name, n: good(name)
    assert run(url, tmp_path, resend=("error",))["status"].to_list() == ["ok"] * N


def test_13_a_fruitless_batch_among_others_is_rows_and_a_warning(server, tmp_path):
    faults, url = server
    _, b, c, d = FRAME["custom_id"]
    faults.line = lambda name, n: good(name, code=400 if name in (c, d) else 200)
    with pytest.warns(UserWarning, match="batch batch-1 of 2 requests completed without a single answer"):
        rows = run(url, tmp_path, max_lines=2)
    assert rows["status"].to_list() == ["ok", "ok", "error", "error"]
    with pytest.warns(
        UserWarning, match="2 error of earlier runs"
    ):  # what is left of a phase does not stop it for ever
        rest = submit(url, tmp_path, answered=[A, b]).wait(poll_s=0.01)
    assert rest.collect()["status"].to_list() == ["error", "error"]


def test_14_an_answer_without_choices_twice_is_an_error_and_not_asked_for_ever(server, tmp_path):
    faults, url = server
    nothing = {"response": {"status_code": 200, "body": {"choices": []}}}
    faults.line = lambda name, n: good(name) if name == A else {"custom_id": name} | nothing
    with pytest.warns(UserWarning, match="batch batch-1 of 3 requests completed without a single answer"):
        assert run(url, tmp_path)["status"].to_list() == ["ok"] + ["error"] * (N - 1)
    assert faults.asked == dict.fromkeys(FRAME["custom_id"], 2) | {A: 1}


def test_17_of_two_answers_to_one_request_the_first_counts_and_the_other_is_kept_aside(server, tmp_path):
    faults, url = server
    faults.line = lambda name, n: b"".join(json.dumps(good(name, x)).encode() + b"\n" for x in ("first", "second"))
    assert run(url, tmp_path)["llm_output"].to_list() == ["first"] * N
    assert run(url, tmp_path)["llm_output"].to_list() == ["first"] * N
    aside = [json.loads(x) for x in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(x["why"], x["line"]["custom_id"]) for x in aside] == [("doubled", name) for name in FRAME["custom_id"]]


def test_21_of_two_result_files_one_that_is_gone_does_not_take_the_other_along(server, tmp_path):
    faults, url = server
    faults.line = lambda name, n: good(name) if name == A else None
    faults.end = lambda n: {"status": "completed", "error_file_id": "file-that-is-gone"}
    assert run(url, tmp_path)["status"].to_list() == ["ok"] + ["lost"] * (N - 1)
    assert len(faults.batches) == 1


@pytest.mark.parametrize(
    ("hours", "n_done", "is_late"), [(12.1, 1, True), (12.1, 2, False), (11.9, 0, False), (23.0, 0, True)]
)
def test_21_a_batch_that_is_late_is_said_once_with_what_to_do(server, tmp_path, hours, n_done, is_late):
    faults, url = server
    faults.is_lazy = True
    job = submit(url, tmp_path)
    (made,) = faults.batches.values()
    made |= {"created_at": 10**9, "expires_at": 10**9 + 86_400}  # the server's clock is far off
    made["request_counts"] = {"total": N, "completed": n_done, "failed": 0}
    sent = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - hours * 3600))
    job.ledger.db.execute("update shards set changed_at = ?", (sent,))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        job.look()
        job.look()
    assert len(warned) == is_late
    if is_late:
        said = (
            rf"batch batch-0 has used {hours:.1f} of its 24.0 h.* {n_done} of 4 .*arislab batch cancel batch-0.*resend"
        )
        assert re.search(said, str(warned[0].message))
    faults.finish("batch-0", {"status": "completed"})
    assert job.wait(poll_s=0.01).account() == {"ok": N}


def test_21_where_files_expire_early_a_longer_life_is_asked_for(server, tmp_path):
    faults, url = server
    uploads, creates = [], []
    upload, create = faults.upload, faults.create
    faults.upload = lambda data: uploads.append(data) or upload(data)
    faults.create = lambda asked, key=None: creates.append(asked) or create(asked, key)
    connected = batch.connect(url, folder=tmp_path, dialect="control_layer")
    batch.submit(FRAME, server=connected, folder=tmp_path).wait(poll_s=0.01)
    assert b'name="expires_after[seconds]"\r\n\r\n2592000' in uploads[0]
    assert creates[0]["output_expires_after"] == {"anchor": "created_at", "seconds": 2_592_000}


def test_23_a_server_that_restarts_is_waited_for_and_one_that_stays_away_is_not_for_ever(server, tmp_path, monkeypatch):
    faults, url = server
    faults.script["retrieve"] = ["refuse"] * 4
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    faults.script["create"] = [(429, "later", ())]
    job = batch.submit(FRAME, server=batch.connect(url, folder=tmp_path / "b"), folder=tmp_path / "b")
    monkeypatch.setattr(connection, "_PATIENCE_S", 0.05)
    faults.script["retrieve"] = ["refuse"] * 500
    with pytest.raises(BatchError, match=r"did not answer for 0 s .* run the cell again"):
        job.wait(poll_s=0.01)
    faults.script.clear()
    assert job.wait(poll_s=0.01).account() == {"ok": N}


def test_24_a_batch_without_any_progress_is_not_waited_for_for_ever(server, tmp_path, monkeypatch):
    faults, url = server
    faults.is_lazy = True
    monkeypatch.setattr(watch, "_REMOTE_STALL_S", 0.05)
    job = submit(url, tmp_path)
    with pytest.raises(BatchError, match=r"batch batch-0 made no progress .*arislab batch cancel batch-0.*resend"):
        job.wait(poll_s=0.02)
    assert job.account() == {"open": N}


@pytest.mark.slow
def test_24_a_few_that_are_in_a_long_batch_wait_as_long_as_it_moves(echo, root, monkeypatch):
    """As after a kill: what is asked for now is on its way with thousands of others."""
    _, url = echo(0.1)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    batch.submit(questions(40), **how)
    monkeypatch.setattr(watch, "_REMOTE_STALL_S", 1.5)
    assert batch.submit(questions(40).tail(1), **how).wait(poll_s=0.02).account() == {"ok": 1}


def test_25_a_batch_that_stays_in_cancelling_counts_as_cancelled(server, tmp_path, monkeypatch):
    faults, url = server
    faults.is_lazy = True
    job = submit(url, tmp_path)
    job.cancel()
    monkeypatch.setattr(watch, "_CANCELLING_S", 0.02)
    assert job.wait(poll_s=0.03).account() == {"cancelled": N}


def test_29_30_files_are_cut_by_lines_and_bytes_and_no_line_is_too_long(tmp_path):
    files = list(sending.cut(FRAME, max_lines=3, max_bytes=10**6))
    assert [len(ids) for ids, _ in files] == [3, 1]
    size = max(len(line) for _, content in files for line in content.splitlines(keepends=True))
    assert [len(ids) for ids, _ in sending.cut(FRAME, max_lines=100, max_bytes=2 * size)] == [2, 2]
    limits = dialect("openai")
    assert (limits.max_requests, limits.max_bytes) == (50_000, 190_000_000)
    assert "8,000,000" in sending.unsendable("x" * 8_000_001)


def test_31_names_of_requests_are_short_plain_and_the_same_in_any_process():
    assert all(re.fullmatch("[A-Za-z0-9_.-]{1,64}", name) for name in FRAME["custom_id"])
    assert A == "r-71dd00a9537384f5fc73b89785db3368ea812a75"


def test_32_a_file_that_was_altered_before_it_was_sent_is_not_sent(server, tmp_path):
    faults, url = server
    faults.script["upload"] = [(413, "too large", ())]
    with pytest.raises(BatchError, match="refused a file"):
        run(url, tmp_path)
    (path,) = (tmp_path / "requests").iterdir()
    path.write_bytes(path.read_bytes().replace(b"number 1", b"number 7"))
    with pytest.raises(BatchError, match="is not the file that was written for this batch"):
        run(url, tmp_path)
    assert faults.batches == {}


def test_34_a_full_disk_stops_the_download_and_nothing_is_paid_again(server, tmp_path, monkeypatch):
    faults, url = server

    def full(_):
        raise OSError(28, "No space left on device")

    job = submit(url, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BatchError, match=r"cannot write .*results.* \(No space left on device\); make room"):
            job.wait(poll_s=0.01)
    assert list(tmp_path.rglob("*.part")) == []
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_34_a_full_disk_under_the_ledger_is_one_clear_error_before_anything_is_sent(server, tmp_path):
    faults, url = server
    book = Ledger(tmp_path)
    (pages,) = book.db.execute("pragma page_count").fetchone()
    book.db.execute(f"pragma max_page_count = {pages}")
    many = [(f"d{i}", tmp_path, 1, [f"r-{i}-{j}" for j in range(99)]) for i in range(99)]
    with pytest.raises(PrerequisiteError, match=r"cannot write the batch ledger .*full.*nothing is lost"):
        book.claim([name for *_, names in many for name in names], server=url, resend=(), write=lambda _: many)
    assert (book.rows(), faults.calls["upload"]) == ([], 0)


def test_36_a_key_that_was_changed_stops_the_wait_and_a_new_one_goes_on(server, tmp_path):
    faults, url = server
    job = submit(url, tmp_path)
    faults.script["retrieve"] = [(401, "sk-planted is unknown", ())]
    with pytest.raises(BatchError, match=r"refuses the key .* set ARISLAB_API_KEY .* nothing is lost") as caught:
        job.wait(poll_s=0.01)
    assert "planted" not in str(caught.value)
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_39_many_batches_are_watched_with_one_call(server, tmp_path):
    faults, url = server
    faults.is_lazy = True
    job = submit(url, tmp_path, max_lines=1)
    faults.calls.clear()
    job.look()
    assert (faults.calls["list"], faults.calls["retrieve"]) == (1, 0)


def test_33_only_a_window_of_batches_is_open_at_once(server, tmp_path):
    faults, url = server
    faults.is_lazy = True
    job = submit(url, tmp_path, max_lines=1, window=2)
    assert len(faults.batches) == 2
    faults.finish("batch-0", {"status": "completed"})
    job.look()
    outgoing.pump(job)
    assert [b["status"] for b in faults.batches.values()] == ["completed", "in_progress", "in_progress"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"url": "/v1/embeddings"}, "line 1: url must be '/v1/chat/completions', got '/v1/embeddings'"),
        ({"body": {"model": "m", "messages": [{}], "stream": True}}, "line 1: stream is not possible"),
        ({"custom_id": "x" * 513}, "line 1: custom_id must be text of 1 to 512 characters, got 513"),
        ({"body": {"model": "m"}}, "line 1: body.messages must be a list"),
        (
            {"body": {"model": "m", "messages": [{}], "n": 2}},
            "line 1: a request has one answer, .*; got n=2. .*one line",
        ),
    ],
)
def test_40_what_no_batch_can_hold_is_refused_before_it_is_sent(tmp_path, line, message):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body} | line)
    )
    with pytest.raises(ParameterError, match=message):
        batch.read_requests(tmp_path / "in.jsonl")
    for more in ({"stream": True}, {"n": 2}):
        with pytest.raises(ParameterError, match=r"one answer, whole; .*samples=3"):
            batch.build_requests(people(1), lambda c: [{"role": "user", "content": "x"}], model="m", **more)


def test_40_further_choices_that_nobody_asked_for_are_said_and_kept(server, tmp_path):
    faults, url = server

    def two(name, n):
        line = good(name, "first")
        line["response"]["body"]["choices"] += good(name, "second")["response"]["body"]["choices"] * (name == A)
        return line

    faults.line = two
    with pytest.warns(UserWarning, match="1 answers of batch batch-0 have further choices.*results"):
        assert run(url, tmp_path)["llm_output"].to_list() == ["first"] * N
    (received,) = (tmp_path / "results").iterdir()
    assert received.read_text().count("second") == 1


def test_40_an_answer_that_calls_a_tool_is_its_call_and_not_nothing(server, tmp_path):
    faults, url = server
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}

    def calls(name, n):
        line = good(name, None, reason="tool_calls")
        line["response"]["body"]["choices"][0]["message"]["tool_calls"] = [call]
        return line

    faults.line = calls
    rows = run(url, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert json.loads(rows["llm_output"][0]) == [call]


def test_28_a_parameter_that_json_does_not_have_is_one_clear_error():
    with pytest.raises(ParameterError, match=r"must be a finite number, got .*'top_p': nan"):
        batch.build_requests(people(1), lambda c: [{"role": "user", "content": "x"}], model="m", top_p=float("nan"))


def test_progress_stands_in_a_log_without_a_terminal(server, tmp_path, capfd):
    _, url = server
    run(url, tmp_path)
    shown = capfd.readouterr().err
    assert "batch: 100%" in shown
    assert f"{N}/{N}" in shown


# -- two notebooks on one folder ---------------------------------------------------------------------------------------


def test_3_a_notebook_that_slept_through_its_lease_sends_nothing_that_another_has_sent(server, tmp_path):
    faults, url = server
    upload = faults.upload

    def slow(data):
        faults.upload = upload
        Ledger(tmp_path).db.execute("update shards set owner = '1@another-machine', beat = 0")
        assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
        return upload(data)

    faults.upload = slow
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert (len(faults.batches), set(faults.asked.values())) == (1, {1})


def test_3_what_another_notebook_sent_and_fetched_in_the_meantime_is_not_sent_again(server, tmp_path):
    faults, url = server
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path, "max_lines": 2}
    first = batch.submit(FRAME, **how, window=1)
    batch.submit(FRAME, **how).wait(poll_s=0.01)
    assert first.wait(poll_s=0.01).account() == {"ok": N}
    assert (len(faults.batches), set(faults.asked.values())) == (2, {1})


def test_3_two_notebooks_that_see_one_failed_batch_send_it_again_once(server, tmp_path):
    faults, url = server
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path}
    full = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "enqueued", "line": None}]}
    faults.is_lazy = True
    both = [batch.submit(FRAME, **how) for _ in range(2)]
    faults.finish("batch-0", {"status": "failed", "errors": full})
    for job in both:
        job.look()
        outgoing.pump(job)
    assert len(faults.batches) == 2
    faults.finish("batch-1", {"status": "completed"})
    assert [job.wait(poll_s=0.01).account() for job in both] == [{"ok": N}] * 2
    assert set(faults.asked.values()) == {1}


def test_3_a_notebook_follows_the_lines_that_another_sends_again(server, tmp_path):
    faults, url = server
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path}
    faults.line = lambda name, n: good(name, code=500) if n == 1 else good(name)
    faults.is_lazy = True
    both = [batch.submit(FRAME, **how) for _ in range(2)]
    faults.finish("batch-0", {"status": "completed"})
    faults.is_lazy = False
    with pytest.warns(UserWarning, match="batch batch-0 of 4 requests completed without a single answer"):
        assert [job.wait(poll_s=0.01).account() for job in both] == [{"ok": N}] * 2
    assert set(faults.asked.values()) == {2}


def test_3_cancelling_does_not_free_what_another_notebook_has_sent(server, tmp_path):
    faults, url = server
    faults.is_lazy = True
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path, "max_lines": 2}
    first = batch.submit(FRAME, **how, window=1)
    batch.submit(FRAME, **how)
    first.cancel()
    assert [made["status"] for made in faults.batches.values()] == ["cancelling"] * 2
    assert batch.submit(FRAME, **how).account() == {"open": N}
    assert len(faults.batches) == 2


def test_1_cancelling_what_was_never_confirmed_leaves_it_to_its_user(server, tmp_path):
    faults, url = server
    faults.script["create"] = ["refuse"]
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path}
    with pytest.raises(BatchError, match="did not confirm"):
        batch.submit(FRAME, **how)
    batch.cancel(tmp_path, server=how["server"])
    with pytest.warns(UserWarning, match=f"{N} cancelled"):
        assert batch.submit(FRAME, **how).account() == {"cancelled": N}
    assert batch.submit(FRAME, **how, resend=("cancelled",)).wait(poll_s=0.01).account() == {"ok": N}
    assert set(faults.asked.values()) == {1}


def test_3_results_that_another_notebook_has_fetched_are_not_written_over(server, tmp_path):
    faults, url = server

    def content(data):
        faults.content = lambda data: data
        assert set(run(url, tmp_path)["llm_output"]) == {"fine"}  # the other is faster
        return data.replace(b"fine", b"torn")

    faults.content = content
    assert set(run(url, tmp_path)["llm_output"]) == {"fine"}
    assert list(tmp_path.rglob("*.part")) == []


def test_33_what_waits_for_room_and_is_let_go_is_sent_under_a_new_name(server, tmp_path):
    faults, url = server
    faults.is_ours = True  # it takes one input file for each Idempotency-Key
    full = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "enqueued", "line": None}]}
    faults.end = lambda n: {"status": "failed", "errors": full} if n == 0 else {"status": "completed"}
    how = {"server": batch.connect(url, folder=tmp_path), "folder": tmp_path}
    job = batch.submit(FRAME, **how)
    job.look()
    job.cancel()
    assert job.account() == {"unsent": N}
    assert batch.status(tmp_path).height == 0
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_20_the_size_of_a_cut_file_is_asked_until_the_server_is_back(server, tmp_path):
    faults, url = server
    faults.is_chunked, faults.script["file"] = True, [(503, "restarting", ())] * 3 + ["refuse"] * 3
    cuts = [1, 1]
    faults.content = lambda data: b"".join(data.splitlines(keepends=True)[: -cuts.pop()]) if cuts else data
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


def test_what_a_batch_had_answered_when_it_failed_is_kept_and_not_paid_again(server, tmp_path):
    """A server that gives up in the middle hands out what it has.

    Some say "failed" then, some "completed" with error lines.
    """
    faults, url = server
    gave_up = {"object": "list", "data": [{"code": "server_error", "message": "the server failed", "line": None}]}
    faults.line = lambda name, n: good(name, f"try {n}") if name == A or n > 1 else None
    real = faults.finish

    def failing(batch_id, end):
        real(batch_id, {"status": "completed"})
        if end["status"] == "failed":
            faults.batches[batch_id] |= end

    faults.finish = failing
    faults.end = lambda n: {"status": "failed", "errors": gave_up} if n == 0 else {"status": "completed"}
    rows = run(url, tmp_path)
    assert rows["llm_output"].to_list() == ["try 1", *["try 2"] * (N - 1)]
    assert faults.asked == {A: 1, **dict.fromkeys(FRAME["custom_id"].to_list()[1:], 2)}


@pytest.mark.parametrize("place", ["error", "body"])
def test_11_what_a_server_tried_to_the_end_is_not_tried_again_on_top(server, tmp_path, place):
    faults, url = server
    error = {"code": "server_error", "message": "no memory", "arislab": {"tries": 5}}
    tried = failed(A, error)
    if place == "body":
        tried |= {"error": None, "response": {"status_code": 500, "body": {"error": error}}}
    faults.line = lambda name, n: tried if name == A else good(name)
    rows = run(url, tmp_path)
    assert (rows["status"].to_list(), faults.asked[A]) == (["error"] + ["ok"] * (N - 1), 1)
    assert json.loads(rows["error"][0])["message"] == "no memory"


def test_8_a_call_of_which_the_server_says_that_it_is_final_is_not_repeated(server, tmp_path):
    faults, url = server
    job = submit(url, tmp_path)
    n_before, final = faults.calls["retrieve"], (503, "tried five times", (("x-should-retry", "false"),))
    faults.script["retrieve"] = [final]
    with pytest.raises(openai.InternalServerError, match="tried five times"):
        job.wait(poll_s=0.01)
    assert faults.calls["retrieve"] == n_before + 1
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
    assert set(faults.asked.values()) == {1}


odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=2)
)
told_of = st.fixed_dictionaries(
    {},
    optional={
        "model": odd,
        "usage": odd | st.fixed_dictionaries({"prompt_tokens": odd, "completion_tokens": odd}),
        "arislab": odd | st.fixed_dictionaries({"tries": odd, "read_leniently": odd}),
        "error": odd,
        "choices": odd
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "message": odd | st.fixed_dictionaries({"content": odd, "refusal": odd}),
                    "finish_reason": odd,
                },
            ),
            max_size=2,
        ),
    },
)


@settings(max_examples=FUZZ, deadline=None)
@given(status=odd | st.just(200), body=odd | told_of, error=odd | told_of)
def test_a_line_of_any_shape_is_one_row_of_its_request(tmp_path_factory, status, body, error):
    folder = tmp_path_factory.getbasetemp()
    line = {"custom_id": A, "response": {"status_code": status, "body": body}, "error": error}
    sorted_lines = results.sort("batch-7", [[json.dumps(line).encode()]], {A})
    shard = {"batch_id": "batch-7", "error": "completed", "state": "collected", "attempt": 1}
    known = {A: sorted_lines.outcomes[A]["status"] if sorted_lines.outcomes else "unavailable"}
    rows = results.rows(sorted_lines, shard, known, folder=folder)
    assert rows.select("custom_id", "status").rows() == [(A, known[A])]
    assert rows.schema == results.SCHEMA
    assert sum(sorted_lines.tokens) >= 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_12_requests_are_not_carried_to_where_a_redirect_points(server, tmp_path, status):
    faults, url = server
    with serving() as (elsewhere, there):
        faults.script["upload"] = [(status, "look there", (("location", f"{there}/files"),))]
        with pytest.raises(BatchError, match=rf"refused a file of 4 requests \({status}: .*nothing was spent"):
            submit(url, tmp_path)
        assert not elsewhere.calls
        assert not elsewhere.files
    assert run(url, tmp_path)["status"].to_list() == ["ok"] * N
