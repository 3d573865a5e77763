"""Toys that several tests share: candidates, notebooks, the command, servers that count and fail as they are told."""

import asyncio
import copy
import email
import hashlib
import http.client
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import openai
import polars as pl
import pytest
from aiohttp import web
from hypothesis import strategies as st

from arislab import batch, finetune, icl, review, runs
from arislab.__main__ import main
from arislab.lake import tables
from arislab.records import find as records
from arislab.review import decisions
from arislab.server import runner
from arislab.server.database import TERMINAL
from arislab.server.engines import base
from arislab.server.engines import echo as echoing
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.store import Store
from arislab.system import files, processes
from arislab.system.processes import start_ticks
from arislab.tiny import grammar
from arislab.tiny.decoder import MODEL_DIR

CHECKOUT = Path(__file__).resolve().parent.parent


FUZZ = int(os.environ.get("ARISLAB_FUZZ", "100"))
"""Examples that each property test of the edges (files, names, events, messages, races) tries; 2,000 before a
release."""


def need(resource: str, *, present: bool, why: str) -> None:
    """Skip, or fail where the resource was promised."""
    if present:
        return
    if resource in os.environ.get("ARISLAB_EXPECT", "").split(","):
        pytest.fail(f"{resource} was promised by ARISLAB_EXPECT, but {why}")
    pytest.skip(why)


@contextmanager
def disk(folder, *, size):
    """A disk of this size at a new folder; skips where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
    need("mount", present=bool(mounted), why="a small disk cannot be mounted (not root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


TASK = """
SYSTEM = "Shout."
def to_messages(candidate):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate["profile"]["text"]}]
def loud(output):
    return output.isupper()
def same(output, profile):
    return None if not profile["text"] else float(output.lower() == profile["text"].lower())
SCORERS = {"loud": loud, "same": same}
WEIGHTS = {"loud": 3, "same": 1}
GOLD = [{"profile": {"text": "hi"}, "output": "HI"}]
BAD = [{"profile": {"text": "hi"}, "output": "ho"}]
"""


def people(n, split="train"):
    """``n`` candidates whose profile is a number in words."""
    return pl.DataFrame(
        {
            "candidate_id": [f"c{i:04d}" for i in range(n)],
            "profile": [f'{{"text": "candidate number {i}"}}' for i in range(n)],
            "group_id": [f"g{i:04d}" for i in range(n)],
            "split": [split] * n,
        }
    )


def reviews(names):
    """One decision a name: Ann approved the row of that custom_id."""
    return pl.DataFrame({"event_id": names}).with_columns(
        custom_id=pl.col("event_id"),
        reviewer=pl.lit("ann"),
        decision=pl.lit("approve"),
        decided_at=pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC"),
    )


def read_of_user(folder, name, content, **how):
    """What is read of a user's file with this name and content."""
    from arislab.inputs import files

    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.read(path, **how)


def good(name, text="fine", *, code=200, reason="stop", **more):
    """An output line."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    body = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    line = {"id": "x", "custom_id": name, "response": {"status_code": code, "request_id": "r", "body": body}}
    return line | {"error": None} | more


class Faults:
    """What the server does; a test sets the fields."""

    def __init__(self):
        self.files, self.batches = {}, {}
        self.asked = Counter()
        """How often the answer to a custom_id was computed, which is what costs money."""
        self.calls = Counter()
        """Calls by route: upload, create, retrieve, list, content, cancel, models."""
        self.script = {}
        """Route to a list of faults, used up one a call: "refuse" (not done, no answer), "drop" (done, but no answer
        comes), "done-503" (done, and denied), "twice" (a proxy repeats it, and passes the second answer on),
        "twice-drop" (and then breaks the connection), or (status, body, headers)."""
        self.line = lambda name, n: good(name)
        """custom_id and number of the attempt to an output line (dict or bytes), None for no line at all."""
        self.embed = lambda asked: (404, "no embeddings here")
        """What a call of /embeddings gives."""
        self.end = lambda n: {"status": "completed"}
        """Number of the batch to the fields that it ends with."""
        self.content = lambda data: data
        """What is sent of a result file; with ``is_chunked`` no length is told."""
        self.is_chunked = self.is_without_metadata = self.is_without_list = False
        self.is_ours = False
        """It says that it is arislab's own server, and knows Idempotency-Key."""
        self.is_lazy = False
        """Batches stay in progress until ``finish``."""
        self.is_repeated = False
        """A proxy is sending for the second time what a client sent once."""
        self.keys, self.n_made, self.watch = {}, 0, lambda batch, names: None
        """What is told of each batch that is made."""

    def fault(self, route):
        self.calls[route] += 1
        waiting = self.script.get(route)
        return waiting.pop(0) if waiting else None

    def upload(self, data):
        rest = data.partition(b"filename=")[2]
        name = rest.split(b'"')[1].decode()
        content = rest.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
        file = {"id": f"file-{self.calls['upload']}", "object": "file", "bytes": len(content), "created_at": 0}
        file |= {"filename": name, "purpose": "batch", "status": "processed"}
        self.files[file["id"]] = (file, content)
        return file

    def create(self, asked, key=None):
        if self.is_ours and (made := self.batches.get(self.keys.get(key))):
            return made if made["input_file_id"] == asked["input_file_id"] else (409, "this Idempotency-Key was used")
        names, n = self.names(asked["input_file_id"]), self.n_made
        self.n_made += 1
        made = {"id": f"batch-{n}", "object": "batch", "endpoint": "/v1/chat/completions"}
        made |= {
            "completion_window": "24h",
            "status": "in_progress",
            "created_at": len(self.keys),
            "output_file_id": None,
        }
        made |= {"input_file_id": asked["input_file_id"], "error_file_id": ""}
        made |= {"metadata": None if self.is_without_metadata else asked.get("metadata")}
        made |= {"request_counts": {"total": len(names), "completed": len(names), "failed": 0}}  # counts lie
        self.watch(made, names)
        self.batches[made["id"]] = made
        self.keys[key or made["id"]] = made["id"]
        if not self.is_lazy:
            self.finish(made["id"], self.end(n))
        return made

    def names(self, file_id):
        return [json.loads(x)["custom_id"] for x in self.files[file_id][1].split(b"\n") if x.strip()]

    def finish(self, batch_id, end):
        """End a batch: the lines that come are computed now."""
        made = self.batches[batch_id]
        if end["status"] in ("completed", "expired", "cancelled"):
            names = self.names(made["input_file_id"])
            self.asked.update(names)
            lines = [self.line(name, self.asked[name]) for name in names]
            raw = [x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines if x is not None]
            name = f"file-out-{batch_id}"
            self.files[name] = ({"id": name, "bytes": sum(map(len, raw))}, b"".join(raw))
            made["output_file_id"] = name
        made |= end

    def cancel(self, batch_id):
        made = self.batches.get(batch_id)
        if made is not None and made["status"] in ("completed", "expired", "failed"):
            return (409, "it has ended")
        if made is not None and made["status"] == "in_progress":
            made["status"] = "cancelling"
        return made


class Handler(BaseHTTPRequestHandler):
    faults: Faults

    def log_message(self, *_):
        pass

    def reply(self, body, code=200, headers=(), *, has_length=True):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        if has_length:
            self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def repeat(self, do):
        self.faults.is_repeated = True
        try:
            return do()
        finally:
            self.faults.is_repeated = False

    def serve(self, route, do):
        fault = self.faults.fault(route)
        if fault in ("twice", "twice-drop"):
            do()
            do, fault = partial(self.repeat, do), "drop" if fault == "twice-drop" else None
        if fault in ("drop", "refuse", "done-503"):
            if fault != "refuse":
                do()
            if fault == "done-503":
                self.reply({"error": {"message": "busy"}}, 503)
            self.close_connection = True
        elif fault is not None:
            self.reply({"error": {"message": fault[1]}}, fault[0], fault[2])
        else:
            answer = do() or (404, "no such thing")
            code, body = (200, answer) if isinstance(answer, dict) else (answer[0], {"error": {"message": answer[1]}})
            self.reply(body, code)

    def do_GET(self):
        it, path = self.faults, self.path.split("?")[0].removeprefix("/v1")
        key = path.split("/")[2] if path.count("/") > 1 else ""
        if path == "/models":
            model = {"id": "m", "object": "model", "created": 0, "owned_by": "x"}
            self.serve("models", lambda: {"object": "list", "data": [model]})
        elif path == "/arislab" and it.is_ours:
            self.serve("arislab", lambda: {"server": "arislab", "instance": "i"})
        elif path.endswith("/content"):
            fault = it.fault("content")
            if isinstance(fault, str):
                self.close_connection = True
            elif fault is not None or key not in it.files:
                self.reply({"error": {"message": "gone"}}, *((fault[0], fault[2]) if fault else (404,)))
            else:
                self.reply(it.content(it.files[key][1]), has_length=not it.is_chunked)
        elif path.startswith("/files/"):
            self.serve("file", lambda: it.files.get(key, (None,))[0])
        elif path in ("/files", "/batches") and it.is_without_list:
            self.reply({"error": {"message": "not supported"}}, 404)
        elif path == "/files":
            self.serve("files", lambda: {"object": "list", "data": [f for f, _ in it.files.values()]})
        elif path == "/batches":
            self.serve("list", lambda: {"object": "list", "data": list(it.batches.values())[::-1], "has_more": False})
        else:
            self.serve("retrieve", lambda: it.batches.get(key) if path.startswith("/batches/") else None)

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/files"):
            self.serve("upload", lambda: self.faults.upload(data))
        elif self.path.endswith("/batches"):
            self.serve("create", lambda: self.faults.create(json.loads(data), self.headers.get("idempotency-key")))
        elif self.path.endswith("/embeddings"):
            self.serve("embeddings", lambda: self.faults.embed(json.loads(data)))
        else:
            self.serve("cancel", lambda: self.faults.cancel(self.path.split("/")[3]))


@contextmanager
def serving():
    """Yield the faults of a server and its URL."""
    faults = Faults()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"faults": faults}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield faults, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def shown_at(terminal):
    """All that came to a terminal until its other end was closed; closes this one."""
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(terminal)
    return shown


def here(*words, **env):
    """The command in this process, as one of its own would run it: exit code, and what it printed to which."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace")]
    code = 0
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, env), warnings.catch_warnings():
        warnings.simplefilter("default")
        for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", quiet)
        patch.chdir(CHECKOUT)
        patch.setattr(sys, "argv", ["arislab", *map(str, words)])
        patch.setattr(sys, "excepthook", sys.excepthook)  # the command sets its own
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    for stream in streams:
        stream.flush()
    return subprocess.CompletedProcess(words, code, *(stream.buffer.getvalue().decode() for stream in streams))


def checked(done, *, ok):
    assert (done.returncode == 0) == ok, f"{done.args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if ok else done.stderr + done.stdout


def arislab(*arguments, root, ok=True, **env):
    """What the command prints; of one that fails, to both streams."""
    return checked(here(*arguments, "--root", root, **env), ok=ok)


def arislab_process(*arguments, root, ok=True, timeout=240, **env):
    """The same, by a process of its own."""
    command = [sys.executable, "-m", "arislab", *map(str, arguments), "--root", str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | env, cwd=CHECKOUT
    )
    return checked(done, ok=ok)


NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
GUIDE = sorted((CHECKOUT / "notebooks" / "guide").glob("*.md"))
BY_DEFAULT = [path for path in NOTEBOOKS if path.stem != "prefer"]
"""Those that run without anybody: prefer needs what people prefer."""


NBVAL = """
import os, signal, sys, threading
import pytest
held = os.dup(0)  # pytest puts its own in the place of 0
def stop():
    os.read(held, 1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop, daemon=True).start()
options = ["--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
sys.exit(pytest.main(options + sys.argv[1:]))
"""
"""pytest over notebooks. It is interrupted, as by Ctrl-C, when who started it closes its standard input, or is gone."""


class NotebooksBeside:
    """nbval executes every cell of all notebooks but one in one root, in order, in a process beside this one."""

    def __init__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="arislab-test-notebooks-"))
        self.root, self._printed = self._folder / "root", self._folder / "printed"
        env = os.environ | {"ARISLAB_ROOT": str(self.root), "MPLBACKEND": "agg"}
        for name in ("ARISLAB_RUN_ID", "ARISLAB_RUN_DIR", "PYTEST_ADDOPTS"):  # one notebook after the other
            env.pop(name, None)
        with self._printed.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", NBVAL, *map(str, BY_DEFAULT)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=CHECKOUT,
                start_new_session=True,  # Ctrl-C reaches it once, when ``stop`` does so
            )

    def wait(self, timeout_s):
        """Return its exit code and what it printed."""
        return self._process.wait(timeout_s), self._printed.read_text()

    def stop(self):
        """End it and what it has started, and remove what it wrote."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        processes.end(processes.with_variable("ARISLAB_ROOT", str(self.root)), patience_s=5)
        shutil.rmtree(self._folder)


KEY = "planted-key-7f"


URL = "/v1/chat/completions"


class Scripted(ThreadingHTTPServer):
    """A correct server in memory, but for its quirks; a batch moves one step whenever it is looked at."""

    daemon_threads = True

    def __init__(self, *quirks):
        super().__init__(("127.0.0.1", 0), DoctorHandler)
        self.quirks, self.files, self.batches, self.ids = set(quirks), {}, {}, itertools.count(1)
        self.n_requests, self.lock = 0, threading.RLock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class DoctorHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def has(self, quirk):
        return quirk in self.server.quirks

    def reply(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
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


CELLS = (
    "n: int = 3  # rows",
    "import polars as pl\nfrom arislab import runs\nfrom arislab.lake import Lake\nruns.begin()\nlake = "
    "Lake()\nlake.run_id",
    "lake['candidates'].append(pl.DataFrame({'candidate_id': [str(i) for i in range(n)], 'profile': '{}', 'group_id': "
    "'g', 'split': 'train'}))",
    "runs.headline(runs.account(n, ok=n), quality=(0.5, 0.4, 0.6, n))",
)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


NUMBERS = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)


VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


WRITERS = st.fixed_dictionaries({
    "ensure_ascii": st.booleans(),
    "indent": st.sampled_from([None, 1, "\t"]),
    "separators": st.sampled_from([None, (",", ":"), (" ,\r\n", "  : ")]),
})  # fmt: skip


TINY = MODEL_DIR


STOCK = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"


CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == "
    "'assistant' %}"
    " {{ m.content | trim }}</s>{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' "
    "%}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)


GRANITE = (
    "<|role|>system<|/role|>Today is {{ strftime_now('%B %d, %Y') }}.<|stop|>{% for m in messages %}<|role|>{{ m.role "
    "}}<|/role|>"
    "{{ m.content }}<|stop|>{% endfor %}{% if add_generation_prompt %}<|role|>assistant<|/role|>{% endif %}"
)


MARKED = (
    "{% for m in messages %}<|u|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|e|>{% endgeneration "
    "%}{% else %}{{ m.content }}"
    "<|e|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|u|>{% endif %}"
)


SWITCHLESS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think></think>\n{% endif "
    "%}{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


STRIPS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim | replace('  ', ' ') }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


OWN = {
    "chatml": (CHATML, {}),
    "mistral": (MISTRAL, {}),
    "deepseek": (DEEPSEEK, {}),
    "granite": (GRANITE, {}),
    "generation marks": (MARKED, {}),
    "a think block that no setting closes": (SWITCHLESS, {}),
    "strips answers": (STRIPS, {}),
}


FAMILIES = (
    "gemma",
    "gemma3",
    "llama3",
    "llama3_1",
    "llama3_2",
    "phi3",
    "phi3_5",
    "qwen2_5",
    "qwen3_instruct_2507",
    "lfm2",
    "cohere",
)


TEMPLATES = OWN | {name: ((STOCK / f"{name}.jinja").read_text(), {}) for name in FAMILIES}


THINKING = ("qwen3", "qwen3_5_think", "qwen3_6", "nemotron_3_nano")
SPOKEN = TEMPLATES | {name: ((STOCK / f"{name}.jinja").read_text(), {"enable_thinking": False}) for name in THINKING}


MARKS = r"<[|｜][\w▁/]+[|｜]>|<(?:start|end)_of_turn>|<\|[A-Z_]+\|>|\[/?INST\]|</s>"


def speaking(tokenizer, template, **tokens):
    """The tiny tokenizer with another template, whose marks are tokens of its own."""
    changed = copy.deepcopy(tokenizer)
    new = sorted(set(re.findall(MARKS, template)) - set(changed.get_vocab()))
    changed.add_special_tokens({"additional_special_tokens": new, **tokens})
    changed.chat_template = template
    return changed


def one(messages, output, *, tools=None, calls=None):
    row = {"id": "r-0", "messages": json.dumps(messages), "output": output}
    row |= {"tools": json.dumps(tools) if tools else None, "tool_calls": json.dumps(calls) if calls else None}
    return pl.DataFrame([row], schema=dict.fromkeys(row, pl.String))


def label(tokenizer, messages, output, *, kwargs=None, **tools):
    frame = one(messages, output, **tools)
    return finetune.tokenize(frame, tokenizer, max_length=4096, chat_template_kwargs=kwargs).row(0, named=True)


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


said = st.text(st.characters(codec="utf-8"), min_size=1, max_size=25).filter(str.strip)


roles = st.sampled_from(["system", "developer", "user", "assistant", "tool", "critic", ""])


messages = st.fixed_dictionaries(
    {"role": roles, "content": st.one_of(said, st.sampled_from(["", " ", "<|im_end|>", "</think>", "<think>"]))}
)


NAMES = ["faulty", "faulty-1"]


class Stranger(BaseHTTPRequestHandler):
    """Passes on what it is asked, and hides that arislab answers; a server without chat on demand."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its head

    def do(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.removeprefix("/v1")
        self.server.asked[path.split("?")[0].split("/")[1]] += 1
        is_hidden = path.startswith("/arislab") or (path.startswith("/chat") and not self.server.chats)
        if is_hidden:
            status, content = 404, b'{"error": {"message": "no such route"}}'
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            connection.request(self.command, self.path, body, kept)
            reply = connection.getresponse()
            status, content = reply.status, reply.read()
            connection.close()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do  # noqa: N815 - the names that http.server calls

    def log_message(self, *_):
        pass


def plant(root, name, **fields):
    """Write a record as a run leaves it."""
    folder = root / "papermill_runs" / name
    folder.mkdir(parents=True)
    began = f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}.000+00:00"
    record = {
        "run_id": name,
        "phase": name.split("-")[1],
        "status": "ok",
        "created_at": began,
        "parameters": {},
        "code": {"commit": "a" * 40, "dirty": False},
        "environment": {"python": "3.11.7"},
        "notebook": {"path": "n.ipynb", "sha256": "b"},
        "task": None,
        "tables_read": {},
        "tables_written": {},
        "headline": None,
    }
    (folder / "run.json").write_text(json.dumps(record | fields))
    return folder


PARAMETERS = """\
from typing import Literal
task: str = "shout"  # task file: a name, or a path
keep_fraction: float = 0.2  # share to keep, in (0, 1]
n: int = 3  # rows, 1 or more
label: str = "a # b"  # free text
strict: bool = True  # refuse what is unclear
names: list[str] = []  # none = all
limit: int | None = None  # rows; none for all
mode: Literal["top", "above"] = "top"  # rule
seed: int = 7
"""


def notebook(folder, *cells, parameters=PARAMETERS, name="2_curate"):
    """Write a toy notebook; returns the folder."""
    import nbformat  # takes as long as all that is above, and tests start processes that need what is above
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "shout.py").write_text("SYSTEM = 'Shout.'\n")
    first = [new_markdown_cell("# A toy"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=[*first, *map(new_code_cell, cells)]), folder / f"{name}.ipynb")
    return folder


def parameters(root, source=PARAMETERS):
    return runs.parameters_of(notebook(root / "nb", parameters=source) / "2_curate.ipynb")


def ended(pid, *, within_s=20):
    """Wait until a process is gone."""
    for _ in range(within_s * 20):
        if start_ticks(pid) is None:
            return True
        time.sleep(0.05)
    return False


ENDPOINT = "/v1/chat/completions"


def command(data: Path, options: dict[str, Any]) -> list[str]:
    pairs = [(name, one) for name, value in options.items() for one in (value if isinstance(value, list) else [value])]
    given = [text for name, one in pairs for text in (f"--{name.replace('_', '-')}", str(one))]
    return [sys.executable, "-m", "arislab", "serve", "--data", str(data), *given]


@dataclass
class Server:
    data: Path
    options: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    """More of the command, after its options."""

    def start(self) -> "Server":
        self.log = self.data.parent / f"{self.data.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command(self.data, self.options), *self.words],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.env},
            )
        assert self.process.stdout is not None
        with self.process.stdout as out:
            line = out.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)
        self.url = self.ready["url"]
        self.token = Path(self.ready["token_file"]).read_text().strip()
        self.client = openai.OpenAI(base_url=self.url, api_key=self.token, max_retries=0)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.client.close()
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def submit(self, lines: list[dict[str, Any]] | bytes, **options: Any) -> openai.types.Batch:
        data = lines if isinstance(lines, bytes) else jsonl(lines)
        file = self.client.files.create(file=("in.jsonl", data), purpose="batch")
        return self.client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", **options)

    def wait(self, batch_id: str, *, until: Any = None, timeout_s: float = 40) -> openai.types.Batch:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            batch = self.client.batches.retrieve(batch_id)
            if until(batch) if until else batch.status in ("completed", "failed", "cancelled", "expired"):
                return batch
            time.sleep(0.02)
        raise AssertionError(f"{batch.status} {batch.request_counts} after {timeout_s} s: {self.log.read_text()}")

    def results(self, file_id: str | None) -> list[dict[str, Any]]:
        return read(self.client.files.content(file_id).content) if file_id else []

    def request(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        host, port = re.fullmatch(r"http://(.+):(\d+)/v1", self.url).groups()  # type: ignore[union-attr]
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.headers.items()), response.read()
        finally:
            connection.close()

    def http(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, body = self.request(method, path, **headers)
        return status, json.loads(body)


class ServerHere(Server):
    """The same in a thread of this process, with an engine whose pauses the test sets."""

    def __init__(self, data: Path, engine: base.Engine) -> None:
        super().__init__(data, {})
        self._engine = engine

    def start(self) -> "ServerHere":
        import uvicorn  # these two take as long as all that is above

        from arislab.server import app

        self.log, self.token = self.data.parent / f"{self.data.name}.log", "t" * 40
        self.log.touch()
        listener = app._listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        made = app.create_app(Store(self.data), self._engine, token=self.token, host="127.0.0.1")
        self._server = uvicorn.Server(uvicorn.Config(made, http=app.Connection, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        until = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.005)
        self.client = openai.OpenAI(base_url=self.url, api_key=self.token, max_retries=0)
        return self

    def stop(self, _: int = 0) -> int:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)
        return int(self._thread.is_alive())


def line(custom_id: str, text: str = "hello", *, model: str = "echo", **body: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in lines)


def read(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [json.loads(raw) for raw in data[:-1].split(b"\n")]


def text_of(result: dict[str, Any]) -> str:
    return result["response"]["body"]["choices"][0]["message"]["content"]


def add_batch(store: Store, lines: list[dict[str, Any]]) -> str:
    file = store.add_file(io.BytesIO(jsonl(lines)), filename="in.jsonl", purpose="batch", keep_s=3600)
    now = int(time.time())
    columns = {"endpoint": ENDPOINT, "input_file_id": file["id"], "output_expires_s": 3600, "metadata": None}
    columns |= {"idempotency_key": None, "created_at": now, "expires_at": now + 3600}
    return store.add_batch(columns)[0]["id"]


async def live(
    store: Store, batch_id: str, *, engine: base.Engine | None = None, until: tuple[str, ...] = TERMINAL
) -> None:
    life = runner.Runner(store, engine or echoing.EchoEngine())
    life.take(batch_id)
    while store.batch(batch_id)["status"] not in until:
        await asyncio.sleep(0.01)
    await life.stop()


async def until_some(store: Store, batch_id: str, n: int, *, engine: base.Engine) -> None:
    """Live through a batch until ``n`` of its lines are completed, and let go of it before all are."""
    answer, n_asked = engine.run, 0

    async def held(chunk, emit):
        nonlocal n_asked
        if n_asked >= 2 * n:  # a busy machine would see its end before it looks
            await asyncio.Event().wait()
        n_asked += len(chunk)
        await answer(chunk, emit)

    engine.run = held
    life = runner.Runner(store, engine)
    life.take(batch_id)
    while store.batch(batch_id)["completed"] < n:
        await asyncio.sleep(0.005)
    await life.stop()


def output_and_errors(store: Store, batch_id: str) -> list[list[dict[str, Any]]]:
    """The lines of a batch's output file and of its error file."""
    row = store.batch(batch_id)
    named = (row["output_file_id"], row["error_file_id"])
    return [read(store.path(name).read_bytes()) if name else [] for name in named]


class Upstream:
    """A chat server that misbehaves as the last word of the prompt says, each line's first time only."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.tries: dict[str, int] = {}
        self.keys: set[str | None] = set()
        self.busy = self.most_busy = self.refused = 0
        self.slots: int | None = None
        """Requests that it answers at once; it refuses more with 503."""
        self.retry_after: str | None = None
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self.answer)
            app.router.add_get("/v1/models", self.models)
            app.router.add_post("/v1/completions", self.complete)
            app.router.add_post("/v1/embeddings", self.embed)
            app.router.add_post("/v1/load_lora_adapter", self.load)
            self._runner = web.AppRunner(app)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", self._port)
            await site.start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
            return self._runner

        self._loop.run_until_complete(start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)  # of what hangs
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def load(self, _: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def complete(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        return web.json_response({"object": "text_completion", "choices": [{"index": 0, "text": text.upper()}]})

    async def embed(self, request: web.Request) -> web.Response:
        vector = [float(len((await request.json())["input"]))]
        return web.json_response({"object": "list", "data": [{"index": 0, "embedding": vector}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("Authorization"))
        text = (await request.json())["messages"][-1]["content"]
        self.tries[text] = n = self.tries.get(text, 0) + 1
        kind = text.split()[-1]
        if self.slots is not None and self.busy >= self.slots:
            self.refused += 1
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return web.json_response({"error": {"message": "busy"}}, status=503, headers=headers)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0.005)
        self.busy -= 1
        if kind == "400":
            return web.json_response({"error": {"message": "no", "code": "bad"}}, status=400)
        if kind == "500" or (kind == "500once" and n == 1):
            return web.Response(status=500, text="oops")
        if kind == "429once" and n == 1:
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.2"})
        if kind == "503once" and n == 1:
            return web.json_response({"error": {"message": "full"}}, status=503)
        if kind == "droponce" and n == 1:
            assert request.transport is not None
            request.transport.close()
        if kind == "hang":
            await self._end.wait()
        if kind == "errorbody" or (kind == "errorbodyonce" and n == 1):
            return web.json_response({"error": {"message": "out of memory", "code": 500}})
        if kind == "html":
            return web.Response(text="<html>welcome</html>")
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        usage["prompt_tokens_details"] = {"cached_tokens": 1}  # type: ignore[assignment]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = {
            "id": "x",
            "object": "chat.completion",
            "vendor_field": [1.50, None],
            "choices": [choice],
            "usage": usage,
        }
        return web.Response(
            body=json.dumps(body, indent=2, ensure_ascii=False).encode(), content_type="application/json"
        )


def ask(engine: UpstreamEngine, texts: list[str]) -> list[base.Result]:
    async def run() -> list[base.Result]:
        results: list[base.Result] = []
        await engine.start()

        async def one(i: int) -> None:
            await engine.gate.enter()
            await engine.run([base.Request(i, f"r-{i}", line("", texts[i])["body"], 0)], results.append)
            engine.gate.leave()

        await asyncio.gather(*(one(i) for i in range(len(texts))))
        await engine.stop()
        return results

    return asyncio.run(run())


READ = """
import polars as pl
from arislab import runs
from arislab.lake import Lake
lake = Lake()
people = lake["candidates"].read(where="split = 'train'")
"""


WRITE = """
now = pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC")
rows = people.head(n).select(event_id="candidate_id", custom_id="candidate_id", inclusion_prob=pl.lit(keep_fraction))
lake["reviews"].upsert(rows.with_columns(reviewer=pl.lit(label), decision=pl.lit("approve"), decided_at=now))
print(lake.run_id, lake.path, "measured")
"""


HEADLINE = (
    "runs.headline(runs.account(n, ok=n), share=(keep_fraction, 0.1, 0.3, n), took_seconds=__import__('time').time())"
)


def git(folder, *arguments):
    names = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)


def ran(project, **given):
    root, notebooks = project
    record = runs.execute("curate", given, root=root, notebooks=notebooks)
    assert record.status == "ok", record
    return records.find(root, record.run_id)


def ran_cells(root, *cells, **given):
    """The record of a notebook of these cells, whatever became of it."""
    return runs.execute("curate", given, root=root, notebooks=notebook(root / "notebooks", *cells))


def saved(record):
    return json.loads((record.folder / "run.json").read_text())


def ran_well(root, *cells, **given):
    record = ran_cells(root, *cells, **given)
    assert record.status == "ok", record
    return record


def executed(record):
    import nbformat  # see above

    return nbformat.read(record.folder / "notebook.ipynb", 4)


def code_cells(record):
    return [cell for cell in executed(record).cells if cell.cell_type == "code"]


def ids(rows):
    return [run["run_id"][-4:] for run in rows]


def arislab_command(root, *words):
    return here(*words, "--root", root)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shingles(text):
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(a, b):
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


_words = st.sampled_from(["fit", "strong", "weak", "candidate", "the", "a", "role", "Python,", "SQL.", "years"])
short_texts = st.lists(_words, max_size=7).map(" ".join)


LETTERS = str.maketrans("0123456789", "abcdefghij")  # a word with a digit in it is a name that counts in full


def corpus(n, rng, vocabulary=3_000, length=60):
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(length)).translate(LETTERS) for _ in range(n)]


def edited(text, n_changes, rng):
    parts = text.split()
    for place in rng.sample(range(len(parts)), n_changes):
        parts[place] = f"new{rng.randrange(10**6)}".translate(LETTERS)
    return " ".join(parts)


TRAINER_KEY = "sk-planted-0123456789"


def nurse(i, answer=None):
    messages = [
        {"role": "system", "content": "Evaluate the candidate for the role. Reply with one JSON object."},
        {"role": "user", "content": f"Title: Nurse\nExperience: {i % 15 + 1} years\nSkills: SQL, Kafka"},
    ]
    output = answer or json.dumps({"strengths": [f"worked {i % 15 + 1} years as Nurse"], "score": 0.75})
    return {"id": f"r-{i:04d}", "messages": json.dumps(messages), "output": output}


def nurses(numbers):
    return pl.DataFrame([nurse(i) for i in numbers])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def plain(messages, output):
    messages = messages if isinstance(messages, str) else json.dumps(messages)
    return pl.DataFrame([{"id": "r-0", "messages": messages, "output": output}], schema_overrides={"output": pl.String})


OUTPUT = '{"strengths": ["7 years"], "score": 0.90, "recommendation": "hire"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def curated_rows(n=6, **more):
    metadata = json.dumps({"company": "Acme", "title": "Nurse", "difficulty": 0.4, "category": "Health"})
    rows = [
        {
            "id": f"r-{i}", "custom_id": f"r-{i}", "candidate_id": f"s1-{i}", "task": "t",
            "input": f"input {i}", "messages": "[]", "output": OUTPUT, "quality_score": 0.5 + i / 100,
            "needs_review": True, "approved": False, "reviewed_by": None, "metadata": metadata, "split": "train",
            "updated_at": None,
        } | more
        for i in range(n)
    ]  # fmt: skip
    schema = {c: tables.columns_of("training_data_curated")[c].dtype for c in rows[0]} if rows else None
    return pl.DataFrame(rows, schema=schema or tables.empty("training_data_curated").schema)


def events(*rows):
    full = [
        {
            "event_id": f"e{i}",
            "custom_id": "r-0",
            "reviewer": "Ada",
            "decided_at": NOON + timedelta(seconds=i),
            "shown_sha256": decisions.sha256(OUTPUT),
        }
        | row
        for i, row in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=decisions.SCHEMA)  # fmt: skip


def folded(*rows, custom_id="r-0", curated=None):
    frame = review.fold(curated_rows() if curated is None else curated, events(*rows))
    return frame.row(by_predicate=pl.col("custom_id") == custom_id, named=True)


class Log:
    """Where the decisions of a test go."""

    def __init__(self):
        self.frames = []
        self.error = None

    def __call__(self, frame):
        if self.error:
            raise self.error
        self.frames.append(frame)

    @property
    def rows(self):
        return pl.concat(self.frames).to_dicts() if self.frames else []

    @property
    def reviews(self):
        return pl.concat(self.frames) if self.frames else pl.DataFrame(schema=decisions.SCHEMA)


class Handing:
    """A desk that hands out the rows that it is told to, each once to each reviewer, and keeps what it hears."""

    name = "handing"

    def __init__(self, rows, *, known=(), trail=()):
        self.rows, self.known, self.before = list(rows), [*rows, *known], list(trail)
        self.heard, self.asked, self.at = [], [], {}

    def take(self, reviewer, n):
        self.asked.append(reviewer)
        at = self.at.get(reviewer, 0)
        taken = self.rows[at : at + n]
        self.at[reviewer] = at + len(taken)
        return taken

    def decide(self, events, reviewer):
        self.heard += events
        return {event["event_id"]: {"revealed": {}} for event in events}

    def counts(self, reviewer):
        undone = {event["undoes"] for event in self.heard}
        n = sum(e["decision"] not in ("undo", "flag") and e["event_id"] not in undone for e in self.heard)
        return {"total": len(self.rows), "decided": n, "skipped": 0, "left": len(self.rows) - n}

    def trail(self, reviewer):
        return self.before

    def row(self, custom_id, queue=None):
        return next((r for r in self.known if r["custom_id"] == custom_id and r.get("queue") == queue), None)


def edit(i):
    return json.dumps({"edit": i})


def chats(n, k=0, seed=7):
    """``n`` prompts that share ``k`` examples."""
    rng = Random(seed)
    chat = [{"role": "system", "content": grammar.SYSTEM[0]}]
    evaluator = grammar.make_evaluator(rng, flawless=True)
    for _ in range(k):
        profile = grammar.make_profile(rng)
        chat.append({"role": "user", "content": grammar.prompt(profile)})
        chat.append({"role": "assistant", "content": grammar.evaluate(profile, evaluator, rng)})
    return [[*chat, {"role": "user", "content": grammar.prompt(grammar.make_profile(rng))}] for _ in range(n)]


def icl_cells(ids, *, n, search_id="s"):
    """Return the cells of one set on the first ``n`` people."""
    rows = people(n)["candidate_id"]
    return pl.DataFrame(
        {
            "search_id": search_id,
            "set_id": icl.set_id(ids),
            "example_ids": [list(ids)] * n,
            "candidate_id": rows,
            "round": 1,
        }
    )


def four_curated(**columns):
    """Return four curated rows: an approved one, a rejected one, and two that wait, of three candidates."""
    base = {
        "id": ["a", "b", "c", "d"],
        "candidate_id": ["1", "1", "2", "3"],
        "quality_score": [0.9, 1.0, 1.0, 0.8],
        "split": ["train"] * 4,
    }
    base |= {
        "approved": [True, False, False, False],
        "needs_review": [False, True, False, True],
        "metadata": ['{"use_case": "tech"}'] * 4,
        "custom_id": ["a", "b", "c", "d"],
        "input": ["q"] * 4,
        "output": ["answer a", "answer b", "answer c", "answer d"],
        "reviewed_by": ["Ada", None, "Ada", None],
    }
    return pl.DataFrame(base | columns, schema_overrides={"reviewed_by": pl.String})


def question(candidate):
    """The question about a candidate: its text."""
    return [{"role": "user", "content": candidate["profile"]["text"]}]


def questions(n, **more):
    """The requests about ``n`` people, for an echo."""
    return batch.build_requests(people(n), question, model="echo", max_tokens=50, **more)


def nothing_recorded(write=lambda rows: None):
    """What is recorded before the first answer."""
    counts = ("prompt_tokens", "completion_tokens")
    schema = {name: pl.Int64 if name in counts else pl.String for name in batch.RECORDED}
    return batch.Recorded(pl.DataFrame(schema=schema), write=write)


class ScriptedBatches(BaseHTTPRequestHandler):
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
            model = {"id": name, "object": "model", "created": 0, "owned_by": "x"}
            self.reply(
                model if name == kind.unlisted else {"error": {"message": "no"}}, 200 if name == kind.unlisted else 404
            )
        elif "/content" in self.path:
            self.reply(kind.output if "file-out" in self.path else kind.error, kind="application/octet-stream")
        elif "/files/" in self.path:
            self.reply({"error": {"message": "sizes are not told"}}, code=404)
        elif "/batches?" in self.path or self.path.endswith("/batches"):
            self.reply({"object": "list", "data": kind.batches, "has_more": False})
        else:
            (batch,) = [b for b in kind.batches if self.path.endswith(b["id"])]
            refused = {"status": "failed", "output_file_id": None}  # as OpenAI's: nothing of it ran
            self.reply(batch | (refused if batch["id"] == kind.failed else {"status": kind.status}))

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


def result_line(name, text="fine", *, reason="stop", status=200, **more):
    """A line of an output file, in bytes."""
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


def random_adapter(folder: Path, *, seed: int = 1, spread: float = 0.05) -> Any:
    """Write a random LoRA adapter of the embedded model; return the adapted model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # 0 at first, so that a new adapter changes nothing
            parameter.data.normal_(0, spread)
    model.save_pretrained(folder)
    return model


def play(name, root, *, only=(), given_names=(), **given):
    """Run the code cells of a notebook here, all or some, with its defaults but for what is given; return its names."""
    path = CHECKOUT / "notebooks" / f"{name}.ipynb"
    assert given.keys() <= runs.parameters_of(path).keys()
    from IPython.display import display  # every kernel has it
    from matplotlib import pyplot  # most who import toys draw nothing

    names: dict[str, object] = {"__name__": "notebook", "display": display, **dict(given_names)}

    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and (not only or cell["id"] in only):
            exec("".join(cell["source"]), names)
            names |= given if "parameters" in cell["metadata"].get("tags", []) else {}
            pyplot.close("all")
    return names


BASE = {"name": "base", "sha256": "b" * 64}


def version(folder, text, *, arm="curated", name="fam"):
    """A version's folder as training leaves it, and its row of ``finetuning_runs``."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    place = folder / f"{name}-{arm}-{sha256[:12]}"
    place.mkdir(parents=True)
    (place / "adapter_model.safetensors").write_text(text)
    (place / "adapter_config.json").write_text("{}")
    config = hashlib.sha256(b"{}").hexdigest()
    files = {"adapter_model.safetensors": sha256, "adapter_config.json": config}
    manifest = {"name": name, "arm": arm, "base": BASE, "data_sha256": "d", "files": files}
    (place / "manifest.json").write_text(json.dumps(manifest))
    row = {"id": f"ft-{text}", "name": name, "arm": arm, "base_model": "base", "data_version": "t@1"}
    return row | {"adapter_sha256": sha256, "model_path": place.name}


def adapter(lake, seed, *, family="candidate-evaluation"):
    """A random adapter of the embedded model as training leaves it, registered and judged; returns its name."""
    from arislab import models  # what few tests need

    staging = lake.models / f"new-{seed}"
    random_adapter(staging, seed=seed, spread=0.3)
    for path in staging.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    digests = {path.name: files.of_file(path)["sha256"] for path in staging.iterdir()}
    sha256 = digests["adapter_model.safetensors"]
    base = finetune.base_fingerprint(finetune.resolve_model("tiny"))
    manifest = {"name": family, "arm": "curated", "base": base, "data_sha256": "d", "files": digests}
    manifest["hyperparameters"] = {"r": 4, "lora_alpha": 16, "chat_template_kwargs": {}, "stop_tokens": ["<|end|>"]}
    (staging / "manifest.json").write_text(json.dumps(manifest))
    name = f"{family}-curated-{sha256[:12]}"
    staging.rename(lake.models / name)
    numbers = {"r": 4, "lora_alpha": 16, "max_length": 512}
    row = {"id": f"ft-{seed}", "name": family, "arm": "curated", "base_model": base["name"], "method": "lora"}
    row |= {
        "training_examples": 1,
        "model_path": name,
        "adapter_sha256": sha256,
        "hyperparameters": json.dumps(numbers),
    }
    row |= {"data_version": "training_data_curated@0"}
    lake["finetuning_runs"].append(pl.DataFrame([row]))
    registry = models.Registry(lake)
    registry.register(pl.DataFrame([row]))
    registry.judge(name, {"verdict": "promote", "reason": "finetuned beats baseline"}, evaluation="eval-1")
    return name
