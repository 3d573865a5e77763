"""A Files + Batches server on loopback that keeps state, counts what it is asked to do, and fails as it is told."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
        """Route to a list of faults, used up one a call: "refuse" (not done, no answer), "drop" (done, but no answer comes),
        "done-503" (done, and denied), "twice" (a proxy repeats it, and passes the second answer on), "twice-drop" (and then breaks
        the connection), or (status, body, headers)."""
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
            found = do() or (404, "no such thing")
            code, body = (200, found) if isinstance(found, dict) else (found[0], {"error": {"message": found[1]}})
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
