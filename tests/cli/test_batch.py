"""``arislab batch``: a file of requests in, a file of results out, and an account that sums up in between."""

import json
import re
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
from toys import KEY, Scripted
from typer.testing import CliRunner

from arislab.batch import job
from arislab.cli.batch import app
from arislab.errors import BatchError, ParameterError, PrerequisiteError

RUN = CliRunner()


def line(n, text="hello", **body):
    body = {"model": "echo", "messages": [{"role": "user", "content": f"{text} {n}"}], "max_tokens": 8, **body}
    return {"custom_id": f"q-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path, lines):
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An echo server; 20 lines take it about a second."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "arislab", "serve", "--data", str(folder / "d"), "--engine", "echo:0.2"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        ready = process.stdout.readline()
        assert ready, (folder / "log").read_text()
        yield json.loads(ready)
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def batch(root, server, monkeypatch):
    """Run a command in an empty root, with the key in the environment."""
    monkeypatch.setenv("ARISLAB_API_KEY", Path(server["token_file"]).read_text().strip())
    monkeypatch.setattr(job, "_NEAR_S", (0.02, 0.2))

    def run(command, *arguments, url=server["url"], code=0):
        given = [command, *map(str, arguments), *(["--base-url", url] if url else [])]
        done = RUN.invoke(app, given)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    return run


def summed(printed):
    n, _, rest = re.search(r"^([\d,]+) (?:requests|rows) = (.+)$", printed, re.MULTILINE).group(0).partition(" = ")
    parts = [int(x.replace(",", "")) for x in re.findall(r"([\d,]+) [a-z]", rest.partition(";")[0])]
    assert sum(parts) == int(n.split()[0].replace(",", ""))
    return rest


def test_a_file_without_a_single_answer_ends_with_1(batch, root, server):
    file = write(root / "in.jsonl", [line(n, "no", temperature=-1) for n in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = RUN.invoke(app, ["submit", str(file), "--base-url", server["url"], "--wait"])
    assert (done.exit_code, summed(done.stdout)) == (1, "3 error")
    assert re.search(
        r"batch batch_\w+ of 3 requests completed without a single answer; for instance q-0: .*temp", done.stderr
    )
    assert re.search(r"no request has an answer: batch batch_\w+ completed without", done.stderr)
    assert "fruitless" in batch("status", url="")
    assert summed(batch("collect", file, "--out", root / "out.jsonl", code=1)) == "3 error"
    assert len((root / "out.jsonl").read_text().splitlines()) == 3, "the error lines are there all the same"


def test_a_file_goes_out_and_its_results_come_back_in_its_order(batch, root):
    file = write(root / "in.jsonl", [line(n) for n in (3, 1, 2)] + [line(9, temperature=-1)])
    assert summed(batch("plan", file)).startswith("4 to send; 1 files")
    printed = batch("submit", file, "--wait")
    assert summed(printed) == "1 error + 3 ok"
    out = root / "out.jsonl"
    printed = batch("collect", file, "--out", out)
    assert summed(printed) == "1 error + 3 ok"
    lines = [json.loads(x) for x in out.read_text().splitlines()]
    assert [x["custom_id"] for x in lines] == ["q-3", "q-1", "q-2", "q-9"]
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "hello 3"
    assert (lines[3]["response"]["status_code"], lines[3]["error"]) == (400, None)
    assert not list(root.glob("*.part"))


def test_submitting_again_sends_nothing_and_status_shows_one_batch(batch, root):
    file = write(root / "in.jsonl", [line(n) for n in range(3)])
    first = batch("submit", file, "--wait")
    assert batch("submit", file, "--wait") == first
    assert summed(batch("plan", file)).startswith("3 received + 0 to send")
    rows = json.loads(batch("status", "--json", url=""))
    assert [(r["state"], r["n"], r["attempt"]) for r in rows] == [("collected", 3, 1)]
    shown = batch("status")
    assert rows[0]["batch_id"] in shown
    assert "1 batches, 3 requests" in shown


def test_a_longer_file_sends_only_what_is_new(batch, root):
    batch("submit", write(root / "in.jsonl", [line(n) for n in range(3)]), "--wait")
    file = write(root / "more.jsonl", [line(n) for n in range(5)])
    assert summed(batch("plan", file)).startswith("3 received + 2 to send")
    assert summed(batch("submit", file, "--wait")) == "5 ok"
    assert [r["n"] for r in json.loads(batch("status", "--json"))] == [3, 2]


def test_what_is_on_its_way_can_be_cancelled_and_the_file_still_sums_up(batch, root):
    file = write(root / "in.jsonl", [line(n, max_tokens=7) for n in range(200)])
    printed = batch("submit", file)
    assert summed(printed) == "200 open"
    batch_id = printed.split()[-1]
    assert batch_id.startswith("batch_")
    out = root / "out.jsonl"
    assert "0 lines in" in batch("collect", file, "--out", out, code=1)
    with pytest.raises(ParameterError, match=f"no batch 'batch_x' is on its way .*{batch_id}"):
        batch("cancel", "batch_x")
    assert batch_id in batch("cancel", batch_id)
    printed = batch("submit", file, "--wait")  # waits for the end; cancelled rows are not sent again unasked
    assert "cancelled" in summed(printed)
    summed(batch("collect", file, "--out", out))
    lines = [json.loads(x) for x in out.read_text().splitlines()]
    assert [x["custom_id"] for x in lines] == [f"q-{n}" for n in range(200)]
    assert {x["error"]["code"] for x in lines if x["response"] is None} <= {"cancelled", "batch_cancelled"}


@pytest.mark.slow
def test_cancelled_rows_are_sent_again_on_consent_only(batch, root, server):
    file = write(root / "in.jsonl", [line(n, max_tokens=6) for n in range(80)])
    batch("submit", file)
    batch("cancel")
    assert "cancelled" in summed(batch("submit", file, "--wait"))
    assert "cancelled (not sent again)" in batch("plan", file)
    with pytest.raises(ParameterError, match="resend must name statuses"):
        batch("submit", file, "--resend", "everything")
    assert "to send" in summed(batch("plan", file, "--resend", "cancelled"))
    assert "cancelled (not" not in batch("plan", file, "--resend", "cancelled")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        printed = RUN.invoke(app, ["submit", str(file), "--base-url", server["url"]]).stderr
    assert re.fullmatch(r"arislab: \d+ cancelled of earlier runs are not sent again .*\n", printed)
    assert summed(batch("submit", file, "--resend", "cancelled", "--wait")) == "80 ok"
    batch("collect", file, "--out", root / "out.jsonl")
    lines = [json.loads(x) for x in (root / "out.jsonl").read_text().splitlines()]
    assert [(x["custom_id"], x["error"]) for x in lines] == [(f"q-{n}", None) for n in range(80)]


def test_a_price_is_shown_from_the_users_file_or_said_to_be_unknown(batch, root):
    file = write(root / "in.jsonl", [line(1)])
    assert "price of echo: unknown" in batch("plan", file)
    (root / "data").mkdir(exist_ok=True)
    entry = (
        'model = "echo"\nas_of = {}\nusd_per_million_prompt = 0.05\nusd_per_million_completion = 0.2\nsource = "list"\n'
    )
    (root / "data" / "prices.toml").write_text("[[price]]\n" + entry.format(datetime.now(UTC).date()))
    assert "price of echo: 0.05 USD a million prompt tokens, 0.2 USD" in batch("plan", file)


def test_the_echo_answers_for_any_model_so_a_file_for_another_server_can_be_tried_on_it(batch, root):
    file = write(root / "in.jsonl", [line(n, model="org/large-70b") for n in range(3)])
    batch("submit", file, "--wait")
    batch("collect", file, "--out", root / "out.jsonl")
    rows = [json.loads(row) for row in (root / "out.jsonl").read_text().splitlines()]
    assert [row["response"]["body"]["model"] for row in rows] == ["org/large-70b"] * 3


def test_a_model_that_the_server_does_not_have_is_refused_before_a_line_is_sent(batch, root, monkeypatch):
    monkeypatch.setenv("ARISLAB_API_KEY", KEY)
    server = Scripted()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        with pytest.raises(ParameterError, match="has no model 'nobody'; Known: m"):
            batch("submit", write(root / "model.jsonl", [line(1, model="nobody")]), url=server.url)
        assert not server.files
    finally:
        server.shutdown()
        server.server_close()


def test_each_mistake_is_one_clear_error_and_nothing_is_sent(batch, root, monkeypatch):
    file = write(root / "in.jsonl", [line(1)])
    with pytest.raises(ParameterError, match="there is no file"):
        batch("submit", root / "none.jsonl")
    with pytest.raises(ParameterError, match=r"bad\.jsonl, line 2"):
        batch("submit", write(root / "bad.jsonl", [line(1), {"custom_id": "x"}]))
    with pytest.raises(ParameterError, match="there is no dialect 'klingon'"):
        batch("plan", file, "--dialect", "klingon")
    with pytest.raises(PrerequisiteError, match="nothing answers at"):
        batch("plan", file, url="http://127.0.0.1:1/v1")
    with pytest.raises(PrerequisiteError, match="cannot write"):
        batch("collect", file, "--out", root / "no" / "folder" / "out.jsonl")
    monkeypatch.setenv("ARISLAB_API_KEY", "wrong")
    with pytest.raises((PrerequisiteError, BatchError), match="refuses"):
        batch("submit", file)
    assert json.loads(batch("status", "--json", url="")) == []


def test_no_key_is_written_to_the_folder_or_printed(batch, root, server):
    key = Path(server["token_file"]).read_text().strip()
    file = write(root / "in.jsonl", [line(1)])
    printed = batch("submit", file, "--wait") + batch("status") + batch("collect", file, "--out", root / "out.jsonl")
    assert key not in printed
    assert [p for p in root.rglob("*") if p.is_file() and key.encode() in p.read_bytes()] == []


def test_the_doctor_prints_its_table_and_ends_with_0_on_our_server(batch):
    printed = batch("doctor", "--model", "echo")
    assert re.search(
        r"31 checks = \d+ holds \+ \d deviates \+ 0 unknown; 0 deviations that the client cannot bridge", printed
    )


def test_the_doctor_ends_with_1_where_the_client_cannot_work(root):
    broken = Scripted("no files")
    threading.Thread(target=broken.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        done = RUN.invoke(app, ["doctor", "--base-url", broken.url, "--json"], env={"ARISLAB_API_KEY": KEY})
    finally:
        broken.shutdown()
        broken.server_close()
    assert done.exit_code == 1
    assert {row["check"] for row in json.loads(done.stdout) if not row["bridged"]} == {"upload"}


def test_the_commands_are_mounted_and_every_error_prints_without_a_traceback(root):
    command = [
        sys.executable,
        "-m",
        "arislab",
        "batch",
        "plan",
        "none.jsonl",
        "--base-url",
        "embedded",
        "--root",
        str(root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "arislab: there is no file none.jsonl; give a JSONL file of requests.\n"


NAMES = [
    "Bewerbung Jörg/7",
    'said "yes"',
    "run-2026/" + "0123456789" * 50,
    "\u2028\t\\ \U0001f426",
    " ",
    "'; drop table lines",
]


def test_ids_of_any_form_go_out_and_come_back(batch, root):
    file = write(root / "in.jsonl", [{**line(n), "custom_id": name} for n, name in enumerate(NAMES)])
    assert summed(batch("submit", file, "--wait")) == f"{len(NAMES)} ok"
    batch("collect", file, "--out", root / "out.jsonl")
    lines = [json.loads(x) for x in (root / "out.jsonl").read_text().splitlines()]
    assert [x["custom_id"] for x in lines] == NAMES
    texts = [x["response"]["body"]["choices"][0]["message"]["content"] for x in lines]
    assert texts == [f"hello {n}" for n in range(len(NAMES))]
    assert summed(batch("plan", file)).startswith(f"{len(NAMES)} received + 0 to send")
