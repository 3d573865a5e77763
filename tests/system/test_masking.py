"""Keys and passwords stand in no file of a root, and in nothing that is printed; and yet they work."""

import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, here, notebook, people, serving

from arislab import batch, runs
from arislab.errors import ParameterError, PrerequisiteError
from arislab.lake import Lake
from arislab.system import masking

# ---- the functions


@pytest.mark.parametrize(
    ("url", "plain", "credentials"),
    [
        ("http://host:8000/v1", "http://host:8000/v1", None),
        ("http://anna:geheim99@host:8000/v1", "http://host:8000/v1", "anna:geheim99"),
        ("https://anna@host/v1", "https://host/v1", "anna:"),
        ("http://:geheim99@host", "http://host", ":geheim99"),
        ("http://anna:p%40ss%2Fw@host/v1", "http://host/v1", "anna:p@ss/w"),
        ("http://anna:p@ss@host/v1", "http://host/v1", "anna:p@ss"),
        ("http://anna:pa/ss#1@host/v1", "http://host/v1", "anna:pa/ss#1"),
        ("http://[hidden]@host/v1", "http://host/v1", None),
        ("http://host/users/@anna", "http://host/users/@anna", None),
        ("http://[::1]:80/v1", "http://[::1]:80/v1", None),
        ("embedded", "embedded", None),
        ("anna@host", "anna@host", None),
    ],
)
def test_a_url_is_taken_apart(url, plain, credentials):
    assert masking.take_apart(url) == (plain, credentials)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(user=WORDS, word=WORDS.filter(lambda text: text not in ("", "hidden]")), port=st.sampled_from(["", ":8000"]))
@settings(max_examples=FUZZ, deadline=None)
def test_any_user_and_password_work_and_are_masked(user, word, port):
    url = f"http://{quote(user, safe='')}:{quote(word, safe='')}@host{port}/v1"
    assert masking.take_apart(url) == (f"http://host{port}/v1", f"{user}:{word}")
    shown = f"http://[hidden]@host{port}/v1"
    assert masking.masked(url) == shown
    assert masking.masked({"a": [f"see {url}, or ({url})"]}) == {"a": [f"see {shown}, or ({shown})"]}
    assert masking.take_apart(shown) == (f"http://host{port}/v1", None)


def may_be_key(text):
    """A path that exists is none, as `secrets_of` says, nor is what keys are replaced by."""
    return text != masking.HIDDEN and not (text.startswith("/") and Path(text).exists())


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Zs", "Cc", "Zl", "Zp"]), min_size=8, max_size=40)


@given(key=KEYS.filter(may_be_key))
@settings(max_examples=FUZZ, deadline=None)
def test_a_key_is_hidden_as_text_in_json_in_python_and_in_a_url(key):
    hidden = masking.secrets_of({"MY_KEY": key})
    for form in (key, json.dumps([key]), json.dumps([key], ensure_ascii=False), repr([key]), quote(key, safe="")):
        cleaned = masking.without(f"before {form} after", hidden)
        assert form not in cleaned
        assert "[hidden]" in cleaned


def test_what_only_looks_like_a_password_stays():
    for text in (
        "write to anna@host.org",
        "http://host:8000/a@b",
        "a://b",
        "git@host:repo.git",
        "ssh://git@host/repo",
        "12:30@home",
    ):
        assert masking.masked(text) == text


def test_a_password_is_hidden_where_it_stands_alone_and_as_a_header(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://anna:geheim99@proxy:3128")
    header = masking.basic("anna:geheim99")
    assert masking.masked(f"geheim99 {header}") == "[hidden] Basic [hidden]"


def test_a_base_url_is_refused_without_showing_its_password(tmp_path):
    for url in ("ftp://anna:geheim99@host/v1", "http://anna:geheim99@host/v1?x=1", "http://host/v1?api_key=geheim99"):
        with pytest.raises(ParameterError) as caught:
            batch.connect(url, folder=tmp_path)
        assert "geheim99" not in str(caught.value)
    with pytest.raises(ParameterError) as caught:
        runs.convert({"n": runs.Parameter("n", "int", 1, "")}, {"n": "http://anna:geheim99@host"})
    assert "geheim99" not in str(caught.value)


# ---- who is asked with what


@contextmanager
def recorded():
    """Yield the address of a server with one model, and the headers of what it is asked."""
    headers = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            headers.append({name.lower(): value for name, value in self.headers.items()})
            body = json.dumps(
                {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]}
            )
            self.send_response(200 if self.path.endswith("/models") else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", headers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", ["ARISLAB_API_KEY", "OPENAI_API_KEY"])
def test_a_key_stays_the_bearer_token_whatever_the_url_holds(monkeypatch, tmp_path, name):
    for other in ("ARISLAB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "sk-bearer-0123456789")
    with (
        recorded() as (address, headers),
        pytest.warns(UserWarning, match=r"user and password in the URL are not used"),
    ):
        server = batch.connect(f"http://anna:geheim99@{address}/v1", folder=tmp_path)
    assert {h["authorization"] for h in headers} == {"Bearer sk-bearer-0123456789"}
    assert server.identity == f"http://{address}/v1"
    assert "geheim99" not in repr(vars(server).keys()) + repr(server) + server.base_url


def test_without_a_key_user_and_password_are_sent_as_basic_authorization(monkeypatch, tmp_path):
    for other in ("ARISLAB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(other, raising=False)
    with recorded() as (address, headers):
        batch.connect(f"http://anna:p%40ss@{address}/v1", folder=tmp_path)
    assert {h["authorization"] for h in headers} == {"Basic " + base64.b64encode(b"anna:p@ss").decode()}


# ---- nothing of it is written

KEY, OPENAI, UPSTREAM = "sk-arislab-planted-1", "sk-openai-planted-2", "sk-upstream-planted-3"
WORD, UPSTREAM_WORD, OTHER = "pass-planted-4", "pass-planted-5", "cell-planted-secret-6"
PLANTED = (KEY, OPENAI, UPSTREAM, WORD, UPSTREAM_WORD, OTHER)
ASK = """
import os
import polars as pl
from arislab import batch
from arislab.lake import Lake
lake = Lake()
server = batch.connect(base_url, folder=lake.batches)
requests = batch.build_requests(
    lake["candidates"].read(), lambda c: [{"role": "user", "content": c["profile"]["text"]}],
    model=server.model(""), max_tokens=5
)
table = lake["training_data_raw"]
recorded = batch.Recorded(table.read(columns=batch.RECORDED), write=table.upsert)
raw = batch.answer(requests, server=server, folder=lake.batches, recorded=recorded, task="shout")
print(base_url, os.environ["A_SECRET"], os.environ["OPENAI_API_KEY"])
print(dict(os.environ))
raw.select("status", "error").to_dicts()
"""
FAIL = """
raise RuntimeError(f"no {base_url} with {os.environ['A_SECRET']} and {os.environ['ARISLAB_API_KEY']!r}")
"""


@contextmanager
def upstream():
    """A chat server that refuses every second question, and says with which key it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, code, body):
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.reply(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if asked["messages"][-1]["content"].endswith(("1", "3")):
                message = f"Incorrect API key provided: {self.headers['authorization']}"
                self.reply(401, {"error": {"message": message, "type": "invalid_request_error"}})
                return
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            self.reply(
                200,
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [choice],
                    "usage": usage,
                },
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://anna:{UPSTREAM_WORD}@127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def texts(root):
    """All that the files under a root hold, by name: as bytes, and what is compressed in tables as text."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet" and data:
                data += pl.read_parquet(path).write_json().encode()
            yield path.relative_to(root).as_posix(), data


def forms(secret):
    return {secret, quote(secret, safe=""), base64.b64encode(f"anna:{secret}".encode()).decode()}


def leaks(root, *printed):
    leaked = []
    for name, data in [*texts(root), *((f"output {i}", text.encode()) for i, text in enumerate(printed))]:
        leaked += [(name, secret) for secret in PLANTED for form in forms(secret) if form.encode() in data]
    return leaked


@contextmanager
def serve(folder, url, env):
    token = folder / "token"
    token.write_text(KEY + "\n")
    token.chmod(0o600)
    command = [
        sys.executable,
        "-m",
        "arislab",
        "serve",
        "--data",
        str(env["ARISLAB_ROOT"]) + "/data/chat",
        "--token-file",
        str(token),
    ]
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen([*command, "--upstream", url], stdout=subprocess.PIPE, stderr=log, env=env, text=True)
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
        log.close()


def run(root, env, url, *cells):
    book = notebook(root.parent / "books", *cells, parameters='base_url: str = "embedded"  # a server')
    done = here("run", book / "2_curate.ipynb", "--root", root, "-p", "base_url", url, **env)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("has_key", [True, False], ids=["upstream key", "password in the upstream URL"])
def test_planted_secrets_are_in_no_file_of_a_root(tmp_path, monkeypatch, has_key):
    root = tmp_path / "root"
    env = {k: v for k, v in os.environ.items() if k not in ("ARISLAB_RUN_ID", "ARISLAB_RUN_DIR", "ARISLAB_TASKS")}
    env |= {"ARISLAB_ROOT": str(root), "ARISLAB_API_KEY": KEY, "OPENAI_API_KEY": OPENAI, "A_SECRET": OTHER}
    env |= {"ARISLAB_UPSTREAM_API_KEY": UPSTREAM} if has_key else {}
    monkeypatch.setenv("ARISLAB_ROOT", str(root))
    Lake()["candidates"].append(people(4))
    with upstream() as address, serve(tmp_path, address, env) as served:
        url = served.replace("http://", f"http://anna:{WORD}@")
        good, output = run(root, env, url, ASK)
        bad, more = run(root, env, url, ASK, FAIL)
        worst = run(root, env, url.replace("/v1", "/v2"), ASK)
    with serving() as (faults, address):  # a server that repeats the key which it refuses
        faults.script["models"] = [(401, f"Incorrect API key provided: {KEY}", ())]
        refused, most = run(root, env, address.replace("http://", f"http://anna:{WORD}@"), ASK)
    assert (good, bad, worst[0], refused) == (0, 1, 1, 1), output + more + most
    answers = Lake()["training_data_raw"].read()
    assert dict(answers["status"].value_counts().iter_rows()) == {"ok": 2, "http_error": 2} or answers.height == 4, (
        answers
    )
    assert "Incorrect API key provided: " in "".join(answers["error"].drop_nulls())
    printed = (output, more, worst[1], most, (tmp_path / "serve.log").read_text())
    assert leaks(root, *printed) == []
    records = [json.loads(path.read_text()) for path in root.glob("papermill_runs/2*/run.json")]
    assert {r["parameters"]["base_url"].partition("@")[0] for r in records} == {"http://[hidden]"}
    book = next(root.glob("papermill_runs/2*/notebook.ipynb")).read_text()
    assert "http://[hidden]@127.0.0.1" in book, "the parameters cell stands there, without the password"


def test_plain_papermill_gets_a_notebook_without_the_password_too(root, monkeypatch, tmp_path):
    import papermill

    books = notebook(
        tmp_path / "books", "print(base_url)\nassert 'geheim99' in base_url", parameters='base_url: str = "embedded"'
    )
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(books / "2_curate.ipynb"),
        str(out),
        parameters={"base_url": "http://anna:geheim99@127.0.0.1:1/v1"},
        engine_name="arislab",
        kernel_name="python3",
        language="python",
        progress_bar=False,
    )
    record = runs.as_json(root)[0]
    assert record["status"] == "ok", "the cell got the password"
    assert "http://[hidden]@127.0.0.1:1/v1" in out.read_text()
    leaked = [
        path
        for path in [out, *Path(record["folder"]).rglob("*")]
        if path.is_file() and b"geheim99" in path.read_bytes()
    ]
    assert leaked == []


@pytest.mark.slow
def test_a_default_with_a_password_works_and_is_masked_even_if_the_run_is_never_ended(root, monkeypatch):
    cell = "import os, pathlib\nfolder = pathlib.Path(os.environ['ARISLAB_RUN_DIR'])\nassert 'geheim99' in base_url\n"
    cell += "import time; time.sleep(2.5)\n"
    cell += "print([p.name for p in folder.rglob('*') if p.is_file() and b'geheim99' in p.read_bytes()])"
    books = notebook(root / "books", "1", cell, parameters='base_url: str = "http://anna:geheim99@host/v1"')
    record = runs.execute("curate", root=root, notebooks=books)
    assert record.status == "ok", record
    printed = (record.folder / "log.txt").read_text()
    assert "[]" in printed.splitlines()[-2], printed


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path):
    with pytest.raises(PrerequisiteError) as caught:
        batch.connect("http://anna:geheim99@127.0.0.1:9/v1", folder=tmp_path)
    assert "127.0.0.1:9" in str(caught.value)
    assert "geheim99" not in str(caught.value)


def test_the_name_of_a_tokenizer_and_a_keyword_are_no_secrets():
    words = {"TOKENIZER": "Qwen/Qwen3-0.6B", "KEYWORDS": "strength", "KEYBOARD_LAYOUT": "qwertz-de"}
    assert masking.secrets_of(words) == []
    assert masking.secrets_of({"HF_TOKEN": "hf_123456789", "KEY": "k-123456789"}) == ["hf_123456789", "k-123456789"]
