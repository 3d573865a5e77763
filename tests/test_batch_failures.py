"""What a client must survive, each against a server that does it; numbers in the ids are those of the project's list of failures."""

import json

import pytest
from conftest import people
from faults import good, serving

from arislab import batch
from arislab.errors import BatchError
from arislab.ledger import Ledger

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


def failed(name, told, **more):
    return {"id": "y", "custom_id": name, "response": None, "error": told} | more


@pytest.mark.parametrize(
    ("route", "fault", "n_creates"),
    [
        pytest.param("create", "drop", 1, id="2-create-done-but-its-answer-lost"),
        pytest.param("upload", (503, "busy", ()), 1, id="8-upload-503"),
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


@pytest.mark.parametrize(
    ("first", "status", "n_asked"),
    [
        pytest.param(failed(A, {"code": "batch_expired", "message": "late"}), "ok", 2, id="4-expired"),
        pytest.param(good(A, code=429), "ok", 2, id="9-status-429"),
        pytest.param(good(A, code=500), "ok", 2, id="9-status-500"),
        pytest.param(good(A, code=0), "ok", 2, id="9-status-0"),
        pytest.param(good(A, code=400), "error", 1, id="10-status-400"),
        pytest.param(good(A, code=413), "error", 1, id="10-status-413"),
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
        job._pump()
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
