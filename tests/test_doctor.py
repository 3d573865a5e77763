"""The doctor says of our own server that all holds, and sees each fault of a server that is broken on purpose."""

import email
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from arislab.batch.doctor import CHECKS, as_text, diagnose
from arislab.errors import ParameterError, PrerequisiteError

KEY = "planted-key-7f"
URL = "/v1/chat/completions"


class Scripted(ThreadingHTTPServer):
    """A correct server in memory, but for its quirks; a batch moves one step whenever it is looked at."""

    daemon_threads = True

    def __init__(self, *quirks):
        super().__init__(("127.0.0.1", 0), Handler)
        self.quirks, self.files, self.batches, self.ids = set(quirks), {}, {}, itertools.count(1)
        self.n_requests, self.lock = 0, threading.RLock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def has(self, quirk):
        return quirk in self.server.quirks

    def reply(self, status, told):
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(told, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, message):
        self.reply(status, {"error": {"message": f"{message} ({KEY})", "type": "x", "param": None, "code": None}})

    def do_any(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        path, query = path.removeprefix("/v1"), dict(re.findall(r"(\w+)=([^&]*)", query))
        with self.server.lock:
            if self.headers.get("Authorization") != f"Bearer {KEY}" and not self.has("open"):
                return self.error(401, "no key")
            if self.has("teapot"):
                return self.reply(500, b"<html>teapot")
            name = f"{self.command} {path}"
            if re.search(r"/(file-|batch_)", path):
                return self.route_one(re.sub(r"/(file-|batch_)\w+", "/{id}", name), *path.split("/")[1:3])
            return self.route(name, query, content)

    do_GET = do_POST = do_DELETE = do_any  # noqa: N815

    def route(self, name, query, content):
        server = self.server
        match name:
            case "GET /models":
                return self.reply(200, {"object": "list", "data": [] if self.has("no models") else [{"id": "m"}]})
            case "POST /chat/completions":
                if self.has("no chat"):
                    return self.error(404, "no such route")
                return self.reply(200, self.answer(json.loads(content)))
            case "POST /files":
                return self.upload(content)
            case "GET /files":
                data = [] if self.has("no file list") else [f["object"] for f in server.files.values()]
                return self.reply(200, {"object": "list", "data": data, "has_more": False})
            case "POST /batches":
                return self.create(json.loads(content))
            case "GET /batches":
                return self.page(query)
        return self.error(405, "not allowed")

    def route_one(self, name, kind, one_id):
        server = self.server
        store = server.files if kind == "files" else server.batches
        if one_id not in store:
            return self.error(500 if self.has("unknown is 500") else 404, "no such id")
        one = store[one_id]
        match name:
            case "GET /files/{id}/content":
                return self.reply(200, one["content"])
            case "DELETE /files/{id}":
                running = [
                    b["input_file_id"] for b in server.batches.values() if b["status"] in ("validating", "in_progress")
                ]
                if one_id in running and not self.has("deletes input"):
                    return self.error(409, "in use")
                del store[one_id]
                return self.reply(200, {"id": one_id, "object": "file", "deleted": True})
            case "GET /batches/{id}":
                self.step(one)
                return self.reply(200, self.shown(one))
            case "POST /batches/{id}/cancel":
                if one["status"] in ("completed", "failed", "cancelled") and not self.has("not terminal"):
                    return self.error(409, "has ended")
                one["status"] = "cancelling" if one["status"] != "completed" else "cancelled"
                return self.reply(200, self.shown(one))
        return self.error(405, "not allowed")

    def answer(self, body):
        self.server.n_requests += 1
        text = body["messages"][-1]["content"]
        if "response_format" in body and self.has("schema ignored"):
            text = "Sure! Here is your JSON."
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]
        model = "other" if self.has("another model") else body["model"]
        return {"model": model, "choices": choices, **({} if self.has("no line usage") else {"usage": usage})}

    def upload(self, content):
        if self.has("no files"):
            return self.error(404, "no such route")
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = {
            p.get_param("name", header="content-disposition"): p
            for p in email.message_from_bytes(kind + content).get_payload()
        }
        data = content.split(b"octet-stream\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        if self.has("needs model") and "target_model_names" not in form:
            return self.error(400, "target_model_names is missing")
        if self.has("mangles"):
            data = data.replace("\u2028".encode(), b" ")
        now = int(time.time())
        keep = 86_400 if self.has("a day") else 2_592_000
        if "expires_after[seconds]" in form and not self.has("ignores expiry"):
            keep = int(form["expires_after[seconds]"].get_payload())
        file = {"id": f"file-{next(self.server.ids):06}", "object": "file", "bytes": len(data), "created_at": now}
        file |= {"expires_at": now + keep, "filename": form["file"].get_filename(), "purpose": "batch"}
        if self.has("file object"):
            file["bytes"] = 0
        self.server.files[file["id"]] = {"object": file, "content": data}
        return self.reply(200, file)

    def create(self, body):
        server = self.server
        if self.has("no batches"):
            return self.error(500, "not now")
        key = self.headers.get("Idempotency-Key")
        for known in server.batches.values():
            if key and known["key"] == key and not self.has("no idempotency"):
                return self.reply(200, self.shown(known))
        wrong = (
            body["endpoint"] != URL or body["completion_window"] != "24h" or body["input_file_id"] not in server.files
        )
        if wrong and not self.has("takes any create"):
            return self.error(400, "bad create")
        content = server.files.get(body["input_file_id"], {"content": b""})["content"]
        batch = {
            "id": f"batch_{next(server.ids):06}",
            "object": "batch",
            "created_at": int(time.time()),
            "errors": None,
            **body,
        }
        batch |= {
            "status": "validating",
            "key": key,
            "lines": [],
            "done": [],
            "output_file_id": None,
            "error_file_id": None,
        }
        if self.has("no metadata"):
            batch["metadata"] = None
        if problem := self.check(content, batch["lines"]):
            if self.has("refuses at create"):
                return self.error(400, f"line {problem[0]}: {problem[1]}")
            batch["errors"] = {
                "object": "list",
                "data": [{"line": problem[0], "message": problem[1], "code": "x", "param": None}],
            }
        server.batches[batch["id"]] = batch
        return self.reply(200, self.shown(batch))

    def check(self, content, lines):
        for n, raw in enumerate(content.split(b"\n"), start=1):
            if not raw:
                continue
            try:
                line = json.loads(raw)
            except ValueError:
                if not self.has("takes bad json"):
                    return (None if self.has("no line number") else n), "bad JSON"
                continue
            if line.get("custom_id") in [x["custom_id"] for x in lines] and not self.has("takes duplicates"):
                return n, "duplicate"
            if line.get("url", URL) != URL and not self.has("takes any url"):
                return n, "url"
            if line.get("body", {}).get("stream") and not self.has("takes stream"):
                return n, "stream"
            lines.append(line)
        return None

    def step(self, batch):
        if batch["status"] in ("completed", "failed", "cancelled") or self.has("stuck"):
            return
        if batch["errors"]:
            batch["status"] = "failed"
        elif batch["status"] == "validating":
            batch["status"] = "finalizing" if self.has("odd graph") and len(batch["lines"]) == 5 else "in_progress"
        elif batch["status"] == "finalizing":
            batch["status"] = "in_progress"
        elif batch["status"] == "cancelling":
            if self.has("cancel loses"):
                batch["done"] = []
            self.end(batch, "cancelled")
        else:
            slow = "-long-" in str(batch["lines"])
            n = len(batch["done"])
            batch["done"] += batch["lines"][n : n + 1] if slow else batch["lines"][n:]
            if len(batch["done"]) == len(batch["lines"]):
                self.end(batch, "completed")

    def end(self, batch, status):
        out, err = [], []
        for line in batch["done"]:
            bad = line["body"].get("temperature") == -1 and not self.has("answers anything")
            body = {"error": {"message": "temperature"}} if bad else self.answer(line["body"])
            response = {"status_code": 400 if bad else 200, "request_id": "r", "body": body}
            whole = {"id": f"r{len(out)}", "custom_id": line["custom_id"], "response": response, "error": None}
            if self.has("body is text"):
                response["body"] = json.dumps(body)
            if bad and self.has("error is text"):
                whole |= {"error": "temperature", "response": None}
            if self.has("bare lines"):
                whole["response"] = "hello"
            (err if bad and not self.has("one file") else out).append(whole)
        if self.has("loses a line") and status == "completed":
            out = out[1:]
        for name, lines in (("output_file_id", out), ("error_file_id", err)):
            if lines:
                batch[name] = f"file-{next(self.server.ids):06}"
                data = b"".join(json.dumps(x).encode() + b"\n" for x in lines)
                self.server.files[batch[name]] = {"object": {"id": batch[name], "object": "file"}, "content": data}
        batch |= {"status": status, "n_out": len(out), "n_err": len(err)}

    def shown(self, batch):
        done, ended = len(batch["done"]), "n_out" in batch
        counts = {
            "total": len(batch["lines"]),
            "completed": batch["n_out"] if ended else done,
            "failed": batch.get("n_err", 0),
        }
        if self.has("counts lie"):
            counts["completed"] = counts["total"]
        tokens = None if self.has("no usage") else {"total_tokens": 5 * counts["completed"]}
        hidden = ("key", "lines", "done", "n_out", "n_err")
        status = (
            {"in_progress": "running"}.get(batch["status"], batch["status"])
            if self.has("own words")
            else batch["status"]
        )
        return {k: v for k, v in batch.items() if k not in hidden} | {
            "status": status,
            "request_counts": counts,
            "usage": tokens,
        }

    def page(self, query):
        rows = [self.shown(b) for b in reversed(self.server.batches.values())]
        ids = [row["id"] for row in rows]
        if query.get("after") in ids and not self.has("no cursor"):
            rows = rows[ids.index(query["after"]) + 1 :]
        n = int(query.get("limit", 20))
        return self.reply(200, {"object": "list", "data": rows[:n], "has_more": len(rows) > n})


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


def test_our_own_server_holds_every_check(tmp_path):
    command = [sys.executable, "-m", "arislab", "serve", "--data", str(tmp_path / "d"), "--engine", "echo:0.2"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        told = process.stdout.readline()
        assert told, (tmp_path / "log").read_text()
        ready = json.loads(told)
        frame = diagnose(ready["url"], Path(ready["token_file"]).read_text().strip(), patience_s=60)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    refuses = {"response_format"}  # an echo keeps no schema, and says so
    assert named(frame, "holds") | refuses == set(CHECKS), as_text(frame)
    assert frame["bridged"].all()
