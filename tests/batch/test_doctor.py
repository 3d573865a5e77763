"""The doctor says of our own server that all holds, and sees each fault of a server that is broken on purpose."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from toys import KEY, Scripted

from arislab.batch.doctor import CHECKS, as_text, diagnose
from arislab.batch.doctor.wire import Wire
from arislab.errors import ParameterError, PrerequisiteError


@pytest.fixture
def examine():
    servers = []

    def run(*quirks, **options):
        server = Scripted(*quirks)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        frame = diagnose(server.url, KEY, **{"patience_s": 20, "timeout_s": 10, **options})
        assert frame["check"].to_list() == list(CHECKS)
        return frame, server

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def named(frame, verdict):
    return set(frame.filter(frame["verdict"] == verdict)["check"])


def test_everything_holds_on_a_correct_server_with_few_requests_and_nothing_left_there(examine):
    frame, server = examine()
    assert named(frame, "holds") == set(CHECKS), as_text(frame)
    assert frame["bridged"].all()
    assert server.n_requests <= 30
    assert {f["object"].get("purpose") for f in server.files.values()} == {None}  # results only, inputs are removed
    assert {b["status"] for b in server.batches.values()} <= {"completed", "failed", "cancelled"}


SEEN = {
    "open": "no key, no service",
    "unknown is 500": "unknown ids give 404",
    "no chat": "direct chat; response_format",
    "schema ignored": "response_format",
    "needs model": "upload",
    "mangles": "content byte for byte; file object; openai SDK reads it",
    "file object": "file object",
    "ignores expiry": "expires_after",
    "a day": "files kept a week",
    "no file list": "files are listed",
    "takes any create": "bad creates are refused",
    "no metadata": "metadata is kept",
    "no idempotency": "Idempotency-Key",
    "takes duplicates": "duplicate custom_id refused",
    "takes bad json": "bad JSON refused with its line",
    "no line number": "bad JSON refused with its line",
    "takes any url": "wrong url refused",
    "takes stream": "stream refused",
    "own words": "statuses are OpenAI's",
    "odd graph": "statuses are OpenAI's",
    "loses a line": "every line comes once",
    "body is text": "lines have OpenAI's form; a failed line is an error",
    "bare lines": "lines have OpenAI's form; a failed line is an error; usage is reported; model is the one asked for",
    "one file": "a failed line is an error; usage is reported",
    "error is text": "a failed line is an error",
    "counts lie": "counts add up; usage is reported; cancel keeps what is done",
    "no usage": "usage is reported",
    "no line usage": "usage is reported",
    "another model": "model is the one asked for",
    "no cursor": "batches are listed in pages; openai SDK reads it",
    "deletes input": "running input is safe",
    "cancel loses": "cancel keeps what is done",
    "not terminal": "an ended batch stays ended",
}


@pytest.mark.parametrize("quirk", SEEN)
def test_each_fault_is_seen_and_no_other_check_blames_the_server(examine, quirk):
    frame, _ = examine(quirk)
    assert named(frame, "deviates") == set(SEEN[quirk].split("; ")), as_text(frame)
    assert frame.filter(frame["verdict"] == "deviates")["client"].str.len_chars().min() > 10


def test_every_check_is_seen_to_fail_at_least_once():
    elsewhere = {"models are listed", "create"}
    assert set(CHECKS) - elsewhere == {check for seen in SEEN.values() for check in seen.split("; ")}


@pytest.mark.parametrize(
    ("quirk", "check", "n_reached"),
    [("no models", "models are listed", 1), ("no files", "upload", 6), ("no batches", "create", 12)],
)
def test_what_cannot_be_reached_is_unknown_and_says_why(examine, quirk, check, n_reached):
    frame, _ = examine(quirk)
    assert named(frame, "deviates") == {check}
    assert not frame.filter(frame["check"] == check)["bridged"].item()
    unknown = frame.filter(frame["verdict"] == "unknown")
    assert unknown.height == len(CHECKS) - n_reached
    assert unknown["seen"].str.starts_with("not reached: ").all()


def test_a_file_that_is_refused_at_create_is_refused_as_well_as_one_that_fails_later(examine):
    frame, _ = examine("refuses at create")
    assert not named(frame, "deviates")
    row = frame.filter(frame["check"] == "duplicate custom_id refused")
    assert row["seen"].item().startswith("at create: 400: line 2: duplicate")


def test_an_engine_that_answers_anything_leaves_the_failed_line_unknown(examine):
    frame, _ = examine("answers anything")
    assert named(frame, "unknown") == {"a failed line is an error"}


def test_batches_that_never_end_are_given_up_and_cancelled(examine):
    frame, server = examine("stuck", patience_s=0.5)
    row = frame.filter(frame["check"] == "statuses are OpenAI's")
    assert row["seen"].item() == "still cancelling, validating when patience ended"
    assert "lines have OpenAI's form" in named(frame, "unknown")
    assert {b["status"] for b in server.batches.values()} == {"cancelling"}


def test_the_key_is_in_no_finding_although_the_server_repeats_it(examine):
    for quirk in ("no chat", "refuses at create"):
        frame, _ = examine(quirk)
        assert KEY not in as_text(frame)
        assert "[hidden]" in as_text(frame)


def test_nothing_there_a_wrong_key_and_no_url_are_one_clear_error(examine):
    _, server = examine()
    with pytest.raises(PrerequisiteError, match=r"refuses the key \(401\); set ARISLAB_API_KEY"):
        diagnose(server.url, "wrong")
    with pytest.raises(PrerequisiteError, match=r"nothing answers at http://127\.0\.0\.1:1/v1"):
        diagnose("http://127.0.0.1:1/v1", KEY)
    for no_url in ("localhost:8000", "http://", "http://host:99999/v1"):
        with pytest.raises(ParameterError, match="--base-url must be a URL"):
            diagnose(no_url, KEY)
    with pytest.raises(ParameterError, match="no HTTP header can carry") as caught:
        diagnose(server.url, f"{KEY}\n")
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_our_own_server_holds_every_check(tmp_path):
    command = [sys.executable, "-m", "arislab", "serve", "--data", str(tmp_path / "d"), "--engine", "echo:0.2"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        first_line = process.stdout.readline()
        assert first_line, (tmp_path / "log").read_text()
        ready = json.loads(first_line)
        frame = diagnose(ready["url"], Path(ready["token_file"]).read_text().strip(), patience_s=60)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    refuses = {"response_format"}  # an echo keeps no schema, and says so
    assert named(frame, "holds") | refuses == set(CHECKS), as_text(frame)
    assert frame["bridged"].all()


def test_no_repr_shows_a_key():
    wire = Wire(url="http://h/v1", key="sk-planted", credentials="anna:planted", timeout_s=1)
    assert "planted" not in repr(wire)
