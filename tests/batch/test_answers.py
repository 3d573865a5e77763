"""The client against a real server of ours (echo engine), and against a scripted one that misbehaves."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import people

from arislab import batch
from arislab.batch import sending
from arislab.batch.ledger import UNSENT, Ledger
from arislab.errors import BatchError, ParameterError, PrerequisiteError, TaskError


def ask(candidate):
    return [{"role": "user", "content": candidate["profile"]["text"]}]


def requests(n, **more):
    return batch.build_requests(people(n), ask, model="echo", max_tokens=50, **more)


@pytest.fixture
def echo(root, monkeypatch):
    """A server that answers with the question, a little later."""
    made = []

    def start(delay=0):
        command = [
            sys.executable,
            "-m",
            "arislab",
            "serve",
            "--data",
            str(root / "srv"),
            "--engine",
            f"echo:{delay}",
            "--parent-pid",
            str(os.getpid()),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        told = json.loads(process.stdout.readline())
        made.append(process)
        monkeypatch.setenv("ARISLAB_API_KEY", Path(told["token_file"]).read_text().strip())
        return process, told["url"]

    yield start
    for process in made:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def nothing_recorded(write=lambda rows: None):
    counts = ("prompt_tokens", "completion_tokens")
    schema = {name: pl.Int64 if name in counts else pl.String for name in batch.RECORDED}
    return batch.Recorded(pl.DataFrame(schema=schema), write=write)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_same_request_has_the_same_id_and_any_change_another():
    one = requests(3)
    assert requests(3)["custom_id"].to_list() == one["custom_id"].to_list()
    assert one["custom_id"].n_unique() == 3
    assert one["custom_id"].str.len_chars().max() <= 64
    for change in ({"temperature": 0.5}, {"seed": 2}, {"top_p": 0.9}):
        assert not set(requests(3, **change)["custom_id"]) & set(one["custom_id"]), change
    louder = batch.build_requests(
        people(3), lambda c: [{"role": "system", "content": "x"}, *ask(c)], model="echo", max_tokens=50
    )
    other = batch.build_requests(people(3), ask, model="other", max_tokens=50)
    assert not (set(louder["custom_id"]) | set(other["custom_id"])) & set(one["custom_id"])


def test_every_row_has_its_own_seed_and_pairing_shares_it_between_arms():
    def seeds(frame):
        return [json.loads(b)["seed"] for b in frame["body"]]

    assert len(set(seeds(requests(50)))) == 50
    other = batch.build_requests(
        people(5), lambda c: [{"role": "user", "content": "else"}, *ask(c)], model="m", pair_by_candidate=True
    )
    assert seeds(other) == seeds(requests(5, pair_by_candidate=True))
    assert seeds(requests(5)) != seeds(requests(5, pair_by_candidate=True))
    assert all(0 <= s < 2**31 for s in seeds(requests(50)))


def test_candidates_with_the_same_profile_share_one_request():
    twins = pl.concat([people(3), people(1).with_columns(candidate_id=pl.lit("twin"))])
    frame = batch.build_requests(twins, ask, model="echo")
    assert (frame.height, frame["custom_id"].n_unique()) == (4, 3)
    assert batch.states(frame, nothing_recorded().frame) == {"same_request": 1, "unsent": 3}


def test_several_samples_of_one_candidate_differ():
    frame = requests(2, samples=3)
    assert frame["sample"].to_list() == [0, 1, 2, 0, 1, 2]
    assert frame["custom_id"].n_unique() == 6


@pytest.mark.parametrize("bad", [{"samples": 0}, {"temperature": -1}])
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(ParameterError, match="must be >="):
        batch.build_requests(people(1), ask, model="m", **bad)
    with pytest.raises(ParameterError, match="no candidates"):
        batch.build_requests(people(0), ask, model="m")


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=40, unique=True),
    max_lines=st.integers(1, 7),
    max_bytes=st.integers(300, 2000),
)
def test_cutting_loses_no_request_and_keeps_the_limits(texts, max_lines, max_bytes):
    frame = pl.DataFrame(
        {"candidate_id": [f"{i}" for i in range(len(texts))], "profile": [json.dumps({"text": t}) for t in texts]}
    )
    made = batch.build_requests(frame, ask, model="m")
    files = list(sending.cut(made, max_lines=max_lines, max_bytes=max_bytes))
    lines = [line + b"\n" for _, file in files for line in file.split(b"\n")[:-1]]
    assert [name for ids, _ in files for name in ids] == made["custom_id"].to_list()
    assert [json.loads(line)["custom_id"] for line in lines] == made["custom_id"].to_list()
    assert all(line.endswith(b"\n") and line.isascii() and line.count(b"\n") == 1 for line in lines)
    for ids, file in files:
        assert len(ids) == file.count(b"\n") <= max_lines
        assert len(ids) == 1 or len(file) <= max_bytes


def test_a_file_holds_one_model():
    two = pl.concat([requests(2), batch.build_requests(people(2), ask, model="b")])
    assert [len(ids) for ids, _ in sending.cut(two, max_lines=10, max_bytes=10**6)] == [2, 2]


# --- through a server -------------------------------------------------------------------------------------------------


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


def test_text_with_line_separators_survives(echo, root):
    odd = "a\u2028b\u2029c\u0085d\r\ne\x0bf \U0001f600"
    frame = pl.DataFrame({"candidate_id": ["x"], "profile": [json.dumps({"text": odd})]})
    _, url = echo()
    recorded = nothing_recorded()
    got = batch.answer(
        batch.build_requests(frame, ask, model="echo"),
        server=batch.connect(url, folder=root / "b"),
        folder=root / "b",
        recorded=recorded,
        task="t",
    )
    assert got["llm_output"].to_list() == [odd]


def test_recorded_answers_are_not_asked_again(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    batch.answer(requests(5), **how)
    job = batch.submit(requests(8), server=server, folder=root / "b", answered=recorded.answered)
    assert job.requests.height == 3
    job.wait(poll_s=0.05)
    again = batch.answer(requests(5), **how)
    assert again["status"].to_list() == ["ok"] * 5
    assert len(list((root / "b" / "requests").iterdir())) == 2


def test_answers_are_written_before_they_count_as_recorded(echo, root):
    """A kill, or a full disk, between the two leaves what stands in the folder, and the next try pays for nothing."""
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    written = []

    def write(rows):
        if not written:
            written.append("failed")
            raise OSError("no space")
        written.append((rows["custom_id"].to_list(), recorded.frame.height))

    recorded = nothing_recorded(write)
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    with pytest.raises(OSError, match="no space"):
        batch.answer(requests(4), **how)
    assert recorded.answered.to_list() == []
    assert batch.answer(requests(4), **how)["status"].to_list() == ["ok"] * 4
    assert written[1:] == [(requests(4)["custom_id"].to_list(), 0)]
    assert sorted(recorded.answered) == sorted(requests(4)["custom_id"])
    assert len(list(server.client.batches.list())) == 1


def test_a_row_that_is_written_again_takes_the_place_of_the_earlier_one():
    recorded = nothing_recorded()
    recorded.add(pl.DataFrame({"custom_id": ["a", "b"], "status": ["error", "ok"], "attempt": [1, 1]}))
    recorded.add(pl.DataFrame({"custom_id": ["a"], "status": ["ok"], "llm_output": ["fine"]}))
    assert recorded.frame.columns == batch.RECORDED
    assert recorded.frame.select("custom_id", "status", "llm_output").rows() == [("b", "ok", None), ("a", "ok", "fine")]
    assert recorded.of(pl.DataFrame({"custom_id": ["a", "a", "c"]}))["custom_id"].to_list() == ["a"]


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


def test_a_create_whose_answer_was_lost_is_adopted_not_repeated(echo, root):
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    job = batch.submit(requests(6), server=server, folder=root / "b")
    ledger = Ledger(root / "b")
    ledger.db.execute("update shards set state = 'creating', batch_id = null")  # as after a crash between call and note
    again = batch.submit(requests(6), server=server, folder=root / "b")
    assert again.batch_ids == job.batch_ids
    assert len(list(server.client.batches.list())) == 1


def test_the_estimate_speaks_of_all_requests_and_never_guesses_a_price(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    told = batch.dry_run(requests(50), server=server, folder=root / "b", recorded=recorded, task="t", n=10)
    assert (told.n_requests, told.n_tried, told.n_failed, told.usd) == (50, 10, 0, None)
    assert told.prompt_tokens[1] <= told.prompt_tokens[0] <= told.prompt_tokens[2]
    assert "cost unknown" in repr(told)
    priced = batch.dry_run(
        requests(50), server=server, folder=root / "b", recorded=recorded, task="t", n=10, usd_per_million=(1.0, 2.0)
    )
    assert priced.usd[0] == pytest.approx((priced.prompt_tokens[0] + 2 * priced.completion_tokens[0]) / 1e6)
    assert priced.n_requests == 40  # what was tried first is recorded, and not asked for again
    assert recorded.frame.height == 20


def test_nobody_at_the_address_is_one_clear_message(root):
    with pytest.raises(PrerequisiteError, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
        batch.connect("http://127.0.0.1:9/v1", folder=root)
    with pytest.raises(ParameterError, match="'embedded' or a URL"):
        batch.connect("localhost:8000", folder=root)


def test_a_wrong_key_is_one_clear_message_without_the_key(echo, root, monkeypatch):
    _, url = echo()
    monkeypatch.setenv("ARISLAB_API_KEY", "sk-planted-4711")
    with pytest.raises(PrerequisiteError, match="refuses") as caught:
        batch.connect(url, folder=root)
    assert "4711" not in str(caught.value)


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


# --- a scripted server that misbehaves --------------------------------------------------------------------------------


class Scripted(BaseHTTPRequestHandler):
    """Files + Batches whose output and error files the test writes."""

    output, error, status, creates, drop_create, failed, unlisted = b"", b"", "completed", 0, False, "", ""
    batches: list[dict] = []  # noqa: RUF012

    def log_message(self, *_):
        pass

    def reply(self, body, code=200, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        kind = type(self)
        if self.path.endswith("/arislab"):
            self.reply({"error": {"message": "no such route"}}, code=404)
        elif self.path.endswith("/models"):
            self.reply({"object": "list", "data": [{"id": "large", "object": "model", "created": 0, "owned_by": "x"}]})
        elif "/models/" in self.path:
            name = self.path.partition("/models/")[2]
            found = {"id": name, "object": "model", "created": 0, "owned_by": "x"}
            self.reply(
                found if name == kind.unlisted else {"error": {"message": "no"}}, 200 if name == kind.unlisted else 404
            )
        elif "/content" in self.path:
            self.reply(kind.output if "file-out" in self.path else kind.error, kind="application/octet-stream")
        elif "/files/" in self.path:
            self.reply({"error": {"message": "sizes are not told"}}, code=404)
        elif "/batches?" in self.path or self.path.endswith("/batches"):
            self.reply({"object": "list", "data": kind.batches, "has_more": False})
        else:
            (found,) = [b for b in kind.batches if self.path.endswith(b["id"])]
            refused = {"status": "failed", "output_file_id": None}  # as OpenAI's: nothing of it ran
            self.reply(found | (refused if found["id"] == kind.failed else {"status": kind.status}))

    def do_POST(self):
        kind = type(self)
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/files"):
            self.reply(
                {
                    "id": "file-in",
                    "object": "file",
                    "bytes": len(data),
                    "created_at": 0,
                    "filename": "x",
                    "purpose": "batch",
                    "status": "processed",
                }
            )
            return
        kind.creates += 1
        made = {
            "id": f"batch-{kind.creates}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-in",
            "completion_window": "24h",
            "created_at": 0,
            "status": kind.status,
        }
        made |= {
            "metadata": json.loads(data).get("metadata"),
            "output_file_id": "file-out",
            "error_file_id": "file-err" if kind.error else None,
        }
        kind.batches.append(made | {"request_counts": {"total": 999, "completed": 999, "failed": 0}})  # counts lie
        if kind.drop_create:
            self.close_connection = True
            self.connection.close()
            return
        self.reply(kind.batches[-1])


@pytest.fixture
def scripted(root):
    kind = type("Scripted", (Scripted,), {"batches": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1", root / "b"
    server.shutdown()
    server.server_close()
    thread.join()


def line(name, text="fine", *, reason="stop", status=200, **more):
    body = {
        "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **more}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return (
        json.dumps(
            {
                "id": "x",
                "custom_id": name,
                "response": {"status_code": status, "request_id": "r", "body": body},
                "error": None,
            }
        ).encode()
        + b"\n"
    )


def test_a_model_is_one_that_the_server_lists_or_knows_when_asked(scripted, monkeypatch, tmp_path):
    kind, url, folder = scripted
    kind.unlisted = "quiet-7b"
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path))
    server = batch.connect(url, folder=folder)
    with pytest.raises(ParameterError, match="has no model 'larg'; did you mean 'large'"):
        server.model("larg")
    assert [server.model(name) for name in ("", "large", "quiet-7b")] == ["large", "large", "quiet-7b"]
    told = [json.loads(line) for line in (tmp_path / "servers.jsonl").read_text().splitlines()]
    assert told[0]["models"] == ["large"]
    assert [one["also"] for one in told if "also" in one] == ["quiet-7b"]


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


def test_a_lost_answer_to_create_is_reconciled_not_retried(scripted):
    kind, url, folder = scripted
    kind.drop_create = True
    frame = requests(2)
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder).wait(poll_s=0.01).collect()
    assert kind.creates == 1
    assert rows["status"].to_list() == ["ok", "ok"]


def test_rows_without_an_answer_are_sent_again_as_a_new_attempt(scripted):
    kind, url, folder = scripted
    frame, recorded = requests(3), nothing_recorded()
    how = {"server": batch.connect(url, folder=folder), "folder": folder, "recorded": recorded, "task": "t"}
    nothing = pytest.warns(UserWarning, match="batch batch-. of 3 requests completed without a single answer")
    with nothing, pytest.raises(BatchError, match="none of 3 requests has an answer"):
        batch.answer(frame, **how)
    assert recorded.frame.height == 0  # the phase stops
    assert kind.creates == 3  # attempts of one run
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    assert batch.answer(frame, **how)["status"].to_list() == ["ok"] * 3
    assert kind.creates == 4


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


def test_a_task_for_other_candidates_names_the_candidate(root):
    with pytest.raises(TaskError, match=r"candidate 'c0000': KeyError: 'title'\. Its profile has text"):
        batch.build_requests(people(1), lambda c: [{"role": "user", "content": c["profile"]["title"]}], model="m")
    with pytest.raises(TaskError, match="must give a list"):
        batch.build_requests(people(1), lambda c: [], model="m")


def test_an_empty_answer_is_an_answer_and_not_a_missing_one():
    came = json.loads(line("x", ""))
    assert (batch.outcome(came, "completed")["status"], batch.outcome(came, "completed")["llm_output"]) == ("empty", "")


def test_with_every_answer_recorded_there_is_nothing_to_estimate(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    batch.answer(requests(5), **how)
    assert "nothing to send" in repr(batch.dry_run(requests(5), **how, n=3))
    with pytest.raises(ParameterError, match="n must be >= 1"):
        batch.dry_run(requests(5), **how, n=0)


# --- what the ledger decides ------------------------------------------------------------------------------------------


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


def test_the_plan_sums_to_all_rows_and_sends_nothing(echo, root):
    _, url = echo(0.05)
    how = {"server": batch.connect(url, folder=root / "b"), "folder": root / "b"}
    batch.submit(requests(6), **how).wait(poll_s=0.05)
    batch.submit(requests(30).tail(20), **how)
    twins = pl.concat([people(40), people(1).with_columns(candidate_id=pl.lit("twin"))])
    frame = batch.build_requests(twins, ask, model="echo", max_tokens=50)
    told = batch.plan(frame, **how, answered=frame["custom_id"].to_list()[:2], max_lines=10)
    assert (told.n_rows, told.n_same_request, told.n_recorded, told.n_received, told.n_open) == (41, 1, 2, 4, 20)
    assert (told.n_to_send, [n for n, _ in told.files], told.n_blocked, told.n_unsendable) == (14, [10, 4], {}, 0)
    assert "unknown before a dry run" in repr(told)
    assert len(list(how["server"].client.batches.list())) == 2


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


def test_raising_max_tokens_asks_only_what_was_cut_off(scripted):
    kind, url, folder = scripted
    recorded = nothing_recorded()
    how = {"server": batch.connect(url, folder=folder), "folder": folder, "recorded": recorded, "task": "t"}
    short = batch.build_requests(people(3), ask, model="m", max_tokens=2)
    long = batch.build_requests(people(3), ask, model="m", max_tokens=50)
    assert [json.loads(b)["seed"] for b in short["body"]] == [json.loads(b)["seed"] for b in long["body"]]
    assert (short["stem"] == long["stem"]).all()
    assert not set(short["custom_id"]) & set(long["custom_id"])
    a, b, c = short["custom_id"]
    kind.output = line(a) + line(b, "cut o", reason="length") + line(c)
    batch.answer(short, **how)
    again = batch.reuse_finished(long, recorded.frame)
    assert again["custom_id"].to_list() == [a, long["custom_id"][1], c]
    assert again["request_sha256"].to_list() == [
        short["request_sha256"][0],
        *long["request_sha256"][1:2],
        short["request_sha256"][2],
    ]
    kind.output = line(long["custom_id"][1], "cut off no more")
    rows = batch.answer(again, **how)
    assert (rows["llm_output"].to_list(), rows["status"].to_list()) == (["fine", "cut off no more", "fine"], ["ok"] * 3)
    assert Path(folder / "requests").is_dir()
    assert sorted(len(f.read_bytes().splitlines()) for f in (folder / "requests").iterdir()) == [1, 3]
    tiny = batch.build_requests(people(3), ask, model="m", max_tokens=1)  # what has two tokens does not fit into one
    assert batch.reuse_finished(tiny, recorded.frame)["custom_id"].to_list() == tiny["custom_id"].to_list()


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


def test_two_notebooks_never_send_a_request_twice(echo, root):
    _, url = echo(0.02)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']; from test_answers import *\n"
        "from pathlib import Path; folder = Path(sys.argv[3])\n"
        "rows = batch.submit(requests(200), server=batch.connect(sys.argv[2], folder=folder), folder=folder, max_lines=40)"
        ".wait(poll_s=0.05).collect()\n"
        "assert rows['status'].to_list() == ['ok'] * 200, rows\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), url, str(root / "b")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    sent = list(batch.connect(url, folder=root / "b").client.batches.list())
    assert sum(b.request_counts.total for b in sent) == 200


def test_a_ledger_of_the_first_version_is_taken_over(scripted):
    kind, url, folder = scripted
    frame = requests(3)
    server = batch.connect(url, folder=folder)
    batch.submit(frame, server=server, folder=folder)
    db = Ledger(folder).db
    old = db.execute("select * from shards").fetchone()
    for sql in ("drop table shards", "drop table lines", "drop table about", "pragma user_version = 0"):
        db.execute(sql)
    db.execute(
        "create table shards (shard, attempt, server, path, n, state, file_id, batch_id, changed_at, primary key (shard, attempt, server))"
    )
    db.execute(
        "insert into shards values (?, 1, ?, ?, 3, 'submitted', ?, ?, null)",
        (old["shard"], url, old["path"], old["file_id"], old["batch_id"]),
    )
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=server, folder=folder).wait(poll_s=0.01).collect()
    assert (rows["status"].to_list(), kind.creates) == (["ok"] * 3, 1)


WORDS = ("geheim99", "p%40ss:wört/er")


def as_written_before(folder, url, word):
    """Have a ledger name its server as earlier versions did.

    With user and password, in its rows and in what lies about in its file.
    """
    book = Ledger(folder)
    named = url.replace("://", f"://anna:{word}@")
    for i in (1, 9, 30, 2):
        book.db.execute("update shards set server = ?, error = ?", (named, f"no answer from {named}/batches; " * i))
    book.close()
    return named


@pytest.mark.parametrize("word", WORDS)
def test_a_ledger_that_names_its_server_with_a_password_goes_on_and_keeps_no_password(scripted, word):
    kind, url, folder = scripted
    frame, how = requests(40), {"folder": folder, "max_lines": 1}
    batch.submit(frame, server=batch.connect(url, folder=folder), **how).ledger.close()
    named = as_written_before(folder, url, word)
    assert word.encode() in (folder / "ledger.sqlite").read_bytes()
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=batch.connect(named, folder=folder), **how).wait(poll_s=0.01).collect()
    assert set(rows["status"]) == {"ok"}
    assert kind.creates == 40, "what was sent under the old name is not sent again"
    assert {row["server"] for row in Ledger(folder).rows()} == {url}
    for path in folder.rglob("*"):
        assert not path.is_file() or word.encode() not in path.read_bytes(), path.name
    assert "geheim" not in repr(batch.status(folder).to_dicts())


def test_what_lies_about_in_a_ledgers_file_is_taken_out_when_there_is_room_again(scripted, monkeypatch):
    _, url, folder = scripted
    how = {"folder": folder, "max_lines": 1}
    batch.submit(requests(40), server=batch.connect(url, folder=folder), **how).ledger.close()
    as_written_before(folder, url, WORDS[0])
    connect = sqlite3.connect

    class Full(sqlite3.Connection):
        def execute(self, sql, *values):
            if sql == "vacuum":
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=Full))
        for _ in range(2):
            with pytest.raises(PrerequisiteError, match=r"cannot write the batch ledger .*disk is full"):
                Ledger(folder)
    assert [row["server"] for row in Ledger(folder).rows()] == [url] * 40
    assert WORDS[0].encode() not in (folder / "ledger.sqlite").read_bytes()


def test_an_at_sign_in_the_path_of_a_url_is_no_password(scripted):
    _, url, folder = scripted
    batch.submit(requests(3), server=batch.connect(url, folder=folder), folder=folder).ledger.close()
    book = Ledger(folder)
    book.db.execute("update shards set server = ?", (f"{url}/@team",))
    before = book.rows()
    book.close()
    assert Ledger(folder).rows() == before


@pytest.mark.parametrize("states", [("submitted", "submitted"), ("creating", "submitted"), ("submitted", "planned")])
def test_a_file_that_was_sent_under_two_spellings_of_a_url_is_two_attempts(scripted, states):
    """As happens when a password changes, or moves from the URL into the environment."""
    _, url, folder = scripted
    frame = requests(3)
    batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder).ledger.close()
    book = Ledger(folder)
    (row,) = book.rows()
    for word, state in zip(WORDS, states, strict=True):
        row |= {"server": url.replace("://", f"://anna:{word}@"), "state": state, "batch_id": None}
        kept = [name for name in row if name != "id"]
        sql = f"insert into shards ({', '.join(kept)}) values ({', '.join('?' * len(kept))})"
        made = book.db.execute(sql, [row[name] for name in kept]).lastrowid
        book.db.execute("insert into lines select custom_id, ?, null from lines where shard_id = 1", (made,))
    marks = {row["id"]: book.mark(row) for row in book.rows()}
    book.close()
    book = Ledger(folder)
    rows = book.rows()
    assert [row["server"] for row in rows] == [url] * 3
    assert len({(row["shard"], row["attempt"]) for row in rows}) == 3
    unsent = [row for row in rows if row["state"] in UNSENT]
    assert [book.mark(row) for row in unsent] == [marks[row["id"]] for row in unsent], "under this name it may be there"
    assert book.look(frame["custom_id"], server=url, resend=()) == ({}, {3}, {})


def test_what_became_of_requests_is_known_without_their_texts(root, echo):
    _, url = echo()
    written = []
    bare = batch.Recorded(nothing_recorded().frame.select(batch.OUTCOMES), write=written.append)
    with batch.connect(url, folder=root / "b") as server:
        how = {"server": server, "folder": root / "b", "recorded": bare, "task": "t"}
        assert batch.dry_run(requests(6), **how, n=2).n_failed == 0
        rows = batch.answer(requests(6), **how)
    assert rows["status"].to_list() == ["ok"] * 6
    assert "llm_output" not in rows.columns
    assert set(bare.frame.columns) == set(batch.OUTCOMES)
    assert pl.concat(rows.select("llm_output") for rows in written)["llm_output"].null_count() == 0  # stored whole
    assert batch.states(requests(6), bare.frame) == {"ok": 6}


@pytest.mark.parametrize(
    ("states", "n_open", "status"),
    [({"ok": 3, "truncated": 1}, 0, "complete"), ({"ok": 2, "lost": 1, "unsent": 1}, 2, "partial")],
)
def test_the_row_of_a_run_says_whether_every_request_has_its_answer(states, n_open, status):
    asked = requests(2, samples=2)
    assert batch.unanswered(states | {"same_request": 5}) == n_open
    facts = {"run_id": "r", "task": "t", "batch_ids": ["b1"], "parameters": {"seed": 1}}
    (row,) = batch.run_row(asked, states, **facts).to_dicts()
    assert row == {
        "run_id": "r", "task": "t", "batch_ids": ["b1"], "total_candidates": 2, "model": "echo", "params": '{"seed":1}',
        "status": status,
    }  # fmt: skip
