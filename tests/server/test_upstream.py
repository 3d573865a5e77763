"""What an upstream may answer: each answer is read once, within bounds, kept, and never paid for twice."""

import asyncio
import gzip
import json
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openai
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, Server, ServerHere, Upstream, ask, jsonl, line, text_of

from arislab import batch, icl
from arislab.errors import PrerequisiteError
from arislab.server.answers import passed_through
from arislab.server.engines import base
from arislab.server.engines.upstream import UpstreamEngine
from arislab.system import json_text, masking

COUNTS = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}


def said(text="a stork", **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "model": "bird", "choices": [choice], "usage": COUNTS, **more}


def packed(n_mb):
    inside = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(inside.compress(b" " * (1 << 20)) for _ in range(n_mb)) + inside.compress(
        json.dumps(said()).encode()
    )
    return body + inside.flush()


PLAIN = json.dumps(said("caf\u00e9"), ensure_ascii=False)
ODD = {
    "not a number": (json.dumps(said(logprob=float("nan"), bias=float("-inf"))).encode(), ["nan"], "a stork"),
    "half": (json.dumps(said("cut \\u")).replace("\\\\u", "\\ud83e").encode(), ["surrogates"], "cut \ufffd"),
    "mark": (b"\xef\xbb\xbf" + PLAIN.encode(), ["bom"], "caf\u00e9"),
    "latin": (PLAIN.encode("latin-1"), ["latin-1"], "caf\u00e9"),
}
"""Whole answers that are no strict JSON: bytes, what is overlooked, the text."""


class Wild(BaseHTTPRequestHandler):
    """Answers as the last message says."""

    protocol_version = "HTTP/1.1"
    asked: Counter
    seeds: list
    elsewhere = ""

    def log_message(self, *_):
        pass

    def send(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.asked[f"GET {self.path}"] += 1
        names = ["bird", "org/bird-7b:free", "o'neil \u00fc"]
        self.send(json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/embeddings"):
            texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            vectors = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
            return self.send(
                json.dumps({"object": "list", "data": vectors, "model": asked["model"], "usage": COUNTS}).encode()
            )
        if "prompt" in asked:
            return self.send(json.dumps({"choices": [{"index": 0, "text": asked["prompt"][::-1]}]}).encode())
        what = asked["messages"][-1]["content"]
        self.asked[what] += 1
        self.seeds += [asked["seed"]] if "seed" in asked else []
        return self.answer(what)

    def answer(self, what):
        name, _, rest = what.partition(": ")
        if what in ODD:
            self.send(ODD[what][0])
        elif name == "body":
            self.send(rest.encode("latin-1"))
        elif name == "fails":
            self.send(json.dumps({"error": {"message": "no memory"}}).encode(), int(rest))
        elif name == "fails oddly":
            self.send(rest.encode(), 503)
        elif name == "redirect":
            self.send(json.dumps(said("from nowhere")).encode(), int(rest), Location=self.elsewhere + self.path)
        elif name == "here":
            self.send(b"{}", int(rest), Location=self.path + "/")
        elif name == "bomb":
            self.send(packed(int(rest)), Content_Encoding="gzip")
        elif name == "packed":
            self.send(gzip.compress(json.dumps(said()).encode()), Content_Encoding=rest)
        elif name == "endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.flood(b"10000\r\n" + b" " * 0x10000 + b"\r\n", 4000)
        elif name == "large":
            self.send_response(200)
            self.send_header("Content-Length", str(int(rest) << 20))
            self.end_headers()
            self.flood(b" " * (1 << 20), int(rest))
        elif name == "later" and self.asked[what] == 1:
            self.send(b'{"error": {"message": "busy"}}', 429, Retry_After=rest)
        else:
            self.send(json.dumps(said()).encode())

    def flood(self, part, n):
        self.close_connection = True
        try:
            for _ in range(n):
                self.wfile.write(part)
        except OSError:
            self.asked["cut off"] += 1


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that hangs up is the point of some tests."""


def serve(handler):
    server = Quiet(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/v1"


@pytest.fixture
def wild():
    """A wild upstream, its url, and what it was asked."""
    handler = type("Wild", (Wild,), {"asked": Counter(), "seeds": []})
    other = type("Elsewhere", (Wild,), {"asked": Counter(), "seeds": []})
    servers = [serve(handler), serve(other)]
    handler.elsewhere, handler.there = servers[1][1].removesuffix("/v1"), other.asked
    handler.url = servers[0][1]
    yield handler
    for server, _ in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def front(wild, tmp_path, monkeypatch):
    """The server in front of it, in this process; between its tries it waits for hundredths of a second."""
    server = ServerHere(tmp_path / "front", UpstreamEngine([wild.url], backoff_s=0.01)).start()
    monkeypatch.setenv("ARISLAB_API_KEY", server.token)
    yield server
    assert server.stop() == 0


@pytest.fixture
def front_process(wild, tmp_path):
    """`arislab serve --upstream` in front of it."""
    server = Server(tmp_path / "front", {"upstream": wild.url}).start()
    yield server
    server.stop()


def one(wild, text, **options):
    (result,) = ask(UpstreamEngine([wild.url], attempts=3, backoff_s=0.01, **options), [text])
    return result, json.loads(result.body)


# -- whole answers that are no strict JSON
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_is_no_strict_json_is_asked_once_kept_and_marked(wild, name):
    result, body = one(wild, name)
    assert (result.status, wild.asked[name]) == (200, 1)
    assert body["choices"][0]["message"]["content"] == ODD[name][2]
    assert body["arislab"] == {"read_leniently": ODD[name][1]}
    assert result.usage == (4, 0, 1, 0)


def test_the_words_of_an_answer_stay_whatever_the_environment_holds(wild, monkeypatch):
    for name in ("KEYWORDS", "TOKENIZER", "SOME_API_KEY"):
        monkeypatch.setenv(name, "strength")
    body = '{"choices":[{"message":{"content":"Her strength is her strength."}}]}'
    result, _ = one(wild, f"body: {body}", key="strength")
    assert (result.status, result.body.decode()) == (200, body)


def test_an_answer_that_is_strict_json_passes_byte_for_byte(wild):
    body = '{"choices":[{"message":{"content":"\u2028 1.50"},"index":0}],  "n":1.50,"big":12345678901234567890123}'
    result, _ = one(wild, "body: " + body.encode().decode("latin-1"))
    assert result.body == body.encode()


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": [{"index": 0, "message": {"content": 5}}]}',
        '{"choices": [{"index": 0, "message": null}]}',
        '{"choices": ["a stork"]}',
        '{"data": [{"embedding": [1.0]}]}',
    ],
)
def test_an_answer_without_a_usable_choice_is_an_error_row_and_asked_once(wild, body):
    result, answer = one(wild, f"body: {body}")
    assert (result.status, answer["error"]["code"], wild.asked[f"body: {body}"]) == (502, "empty_response", 1)
    assert "choices" in answer["error"]["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I would rather not."},
        {
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"content": [{"type": "text", "text": "in parts"}]},
        {"content": ""},
        {"content": None, "reasoning_content": "hm"},
    ],
)
def test_refusals_calls_and_parts_are_answers(wild, message):
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", **message}}]})
    result, answer = one(wild, f"body: {body}")
    assert (result.status, answer) == (200, json.loads(body))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
near = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values
        | st.lists(
            st.fixed_dictionaries({"message": json_values | st.fixed_dictionaries({"content": json_values})}),
            max_size=2,
        ),
        "data": json_values,
        "usage": json_values
        | st.fixed_dictionaries({"prompt_tokens": json_values, "prompt_tokens_details": json_values}),
        "error": json_values,
        "arislab": json_values,
    },
)
anything = (
    st.binary(max_size=60)
    | near.map(json.dumps).map(str.encode)
    | near.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
)


@settings(max_examples=FUZZ, deadline=None)
@given(
    body=anything,
    status=st.sampled_from([200, 201, 204, 400, 404, 408, 422, 429, 500, 503]),
    endpoint=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]),
)
def test_any_body_becomes_one_line_of_json_or_an_error_row(body, status, endpoint):
    got = passed_through(base.Request(7, "r", {}, 0, endpoint), status, body)
    assert got.result.line == 7
    assert b"\n" not in got.result.body
    answer = json.loads(got.result.body.decode("utf-8"))
    json.dumps(answer, allow_nan=False).encode()
    if got.result.status == 200:
        assert answer.get("choices") or answer.get("data"), "an answer of status 200 has something to say"
        assert got.is_final, "what was paid for is not asked again"
    if status == 200 and not got.is_final:
        assert got.result.status == 502
    assert base.marked(got.result, tries=3).body if not got.is_final else True


def test_a_request_reaches_the_upstream_with_every_digit_of_its_numbers(front, wild):
    seed = 12345678901234567890123
    rows = [line("r", f"seed {seed}", model="bird", seed=seed, top_p=0.1), line("s", "fine", model="bird", seed=7)]
    done = front.wait(front.submit(rows).id)
    assert [r["custom_id"] for r in front.results(done.output_file_id)] == ["r", "s"]
    front.client.chat.completions.create(
        model="bird", messages=[{"role": "user", "content": "directly"}], extra_body={"seed": -seed}
    )
    assert sorted(wild.seeds) == [-seed, 7, seed]


@pytest.mark.parametrize("depth", [60, 400, 900])
def test_a_deep_body_with_a_long_number_is_an_answer_or_a_refusal(depth):
    raw = b'{"n": 12345678901234567890123, "x": ' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(json_text.loads_whole(raw)["n"], int if depth < 500 else int | float)


# -- how often ---------------------------------------------------------------------------------------------------------


def rows_of(front, tmp_path, texts):
    messages = [[{"role": "user", "content": text}] for text in texts]
    people = pl.DataFrame({"candidate_id": texts, "profile": [json.dumps(m) for m in messages]})
    requests = batch.build_requests(people, lambda c: c["profile"], model="bird")
    folder = tmp_path / "b"
    job = batch.submit(requests, server=batch.connect(front.url, folder=folder), folder=folder)
    rows = job.wait(poll_s=0.05).collect()
    return rows.select("candidate_id", "status", "llm_output", "error", "attempt", "prompt_tokens").rows_by_key(
        "candidate_id", named=True, unique=True
    )


@pytest.mark.filterwarnings("ignore:.*completed without a single answer")  # the second try of one line
def test_tries_of_server_and_client_do_not_multiply(front, wild, tmp_path):
    html = "body: <html>please log in</html>"
    text = "fails oddly: gateway"
    nulls = 'body: {"choices": null}'
    got = rows_of(front, tmp_path, ["fine", *ODD, "fails: 500", "fails: 400", html, nulls])
    asked = {name: wild.asked[name] for name in got}
    assert {asked[name] for name in ("fine", *ODD, "fails: 400")} == {1}
    assert (asked["fails: 500"], asked[html], asked[nulls]) == (5, 5, 2)
    assert {got[name]["status"] for name in ("fine", *ODD)} == {"ok"}
    assert {got[name]["status"] for name in ("fails: 500", "fails: 400", html, nulls)} == {"error"}
    assert json.loads(got["fails: 500"]["error"])["arislab"] == {"tries": 5}
    assert got["fine"]["error"] is None
    for name, (_, marks, words) in ODD.items():
        error = json.loads(got[name]["error"])
        assert (got[name]["llm_output"], error["code"], error["marks"]) == (words, "read_leniently", marks)
        assert got[name]["prompt_tokens"] == 4
    assert text not in asked


def test_a_direct_request_that_the_server_tried_is_not_tried_again_by_its_client(front, wild, tmp_path):
    server = batch.connect(front.url, folder=tmp_path / "b")
    question = [{"role": "user", "content": "fails: 500"}]
    with pytest.raises(openai.InternalServerError):
        server.patiently(lambda: server.client.chat.completions.create(model="bird", messages=question))
    with pytest.raises(openai.InternalServerError):
        openai.OpenAI(base_url=front.url, api_key=front.token).chat.completions.create(model="bird", messages=question)
    assert wild.asked["fails: 500"] == 10, "two questions, five tries each"


def test_a_server_behind_a_server_does_not_multiply_tries(front, wild):
    engine = UpstreamEngine([front.url], attempts=4, backoff_s=0.01, key=front.token)
    (result,) = ask(engine, ["fails: 500"])
    assert (result.status, wild.asked["fails: 500"]) == (500, 5)


def test_a_failed_body_of_any_shape_can_say_how_often_it_was_tried():
    for body in (b"{}", b'{"error":"loading"}', b'{"error":{"message":"x"}}', b'{"detail":[1]}', b'{"error":null}'):
        answer = json.loads(base.marked(base.Result(0, 500, body), tries=5).body)
        line = {"custom_id": "a", "response": {"status_code": 500, "body": answer}, "error": None}
        assert batch.outcome(line, "completed")["status"] == "error", answer
    lost = {"response": None, "error": {"code": "batch_lost", "message": "gone"}}
    assert batch.outcome(lost, "completed")["status"] == "lost"


# -- how long ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["nan", "inf", "Fri, 31 Dec 99999999999 23:59:59 GMT", "-1", "yesterday"])
def test_an_odd_pause_costs_neither_the_line_nor_a_storm_of_requests(wild, header):
    began = time.monotonic()
    result, _ = one(wild, f"later: {header}")
    assert (result.status, wild.asked[f"later: {header}"]) == (200, 2)
    assert time.monotonic() - began < 10


# -- how much ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["endless", "large: 200", "bomb: 200"])
def test_an_answer_beyond_the_limit_is_cut_off_and_not_asked_again(wild, what):
    result, answer = one(wild, what, answer_bytes=1 << 20)
    assert (result.status, answer["error"]["code"], wild.asked[what]) == (502, "answer_too_large", 1)
    assert "--max-answer-mb" in answer["error"]["message"]


@pytest.mark.slow
def test_answers_without_end_do_not_fill_the_memory(front_process, wild):
    def peak_mb():
        (row,) = (
            x
            for x in Path(f"/proc/{front_process.process.pid}/status").read_text().splitlines()
            if x.startswith("VmHWM")
        )
        return int(row.split()[1]) / 1024

    before = peak_mb()
    rows = [
        line(f"r-{i}", what, model="bird") for i, what in enumerate(["bomb: 800", "endless", "large: 2000", "fine"])
    ]
    done = front_process.wait(front_process.submit(rows).id)
    assert [r["custom_id"] for r in front_process.results(done.output_file_id)] == ["r-3"]
    codes = {r["custom_id"]: r["response"]["body"]["error"]["code"] for r in front_process.results(done.error_file_id)}
    assert codes == dict.fromkeys(["r-0", "r-1", "r-2"], "answer_too_large")
    assert peak_mb() - before < 250, "not gigabytes"


def test_a_compressed_answer_is_read_and_a_strange_coding_is_refused(wild):
    for coding in ("gzip", "x-gzip", "identity"):
        result, _ = one(wild, f"packed: {coding}")
        assert result.status == (502 if coding == "identity" else 200), coding  # bytes of gzip are no JSON
    result, answer = one(wild, "packed: br")
    assert (result.status, answer["code"]) == (0, "upstream_connection_error")


# -- where from --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["redirect", "here"])
def test_a_redirect_is_an_error_row_that_names_the_host_and_nobody_else_is_asked(wild, kind, status):
    result, answer = one(wild, f"{kind}: {status}")
    assert (result.status, answer["error"]["code"], wild.asked[f"{kind}: {status}"]) == (502, "upstream_redirect", 1)
    assert "127.0.0.1" in answer["error"]["message"]
    assert not wild.there
    assert not [name for name in wild.asked if name.startswith("GET")], "a POST stays a POST"


# -- other endpoints ---------------------------------------------------------------------------------------------------


def test_models_are_found_by_any_name_and_an_unknown_one_is_said(front):
    for model in front.client.models.list():
        assert front.client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError, match="no such model: 'fish'") as caught:
        front.client.models.retrieve("fish")
    assert caught.value.body["code"] == "model_not_found"


def test_completions_and_embeddings_are_answered_directly_under_the_same_rules(front):
    assert front.client.completions.create(model="bird", prompt="abc").choices[0].text == "cba"
    vectors = front.client.embeddings.create(model="bird", input=["a", "bbb"], encoding_format="float").data
    assert [vector.embedding[0] for vector in vectors] == [1.0, 3.0]
    with pytest.raises(openai.BadRequestError, match="api_base"):
        front.client.embeddings.create(model="bird", input="a", extra_body={"api_base": "http://elsewhere"})
    with pytest.raises(openai.BadRequestError, match="stream"):
        front.client.completions.create(model="bird", prompt="abc", stream=True)
    for path in ("embeddings", "completions"):
        assert front.http("POST", f"/v1/{path}")[0] == 401


def test_the_embedding_model_of_phase_3_works_through_a_server(front, tmp_path):
    embed = icl.embedder(batch.connect(front.url, folder=tmp_path / "b"), model="bird")
    assert np.array_equal(embed(["ab", None, "a" * 9]), [[2.0, 1.0], [1.0, 1.0], [9.0, 1.0]])


def test_an_engine_without_an_endpoint_names_those_it_has(tmp_path, monkeypatch):
    server = Server(tmp_path / "data", {"engine": "echo"}).start()
    monkeypatch.setenv("ARISLAB_API_KEY", server.token)
    try:
        with pytest.raises(openai.NotFoundError, match="no /v1/embeddings; it has /v1/chat/completions"):
            server.client.embeddings.create(model="echo", input="a")
        with pytest.raises(PrerequisiteError, match="refuses embeddings of 'echo'"):
            icl.embedder(batch.connect(server.url, folder=tmp_path / "b"), model="echo")(["a"])
        assert server.client.models.retrieve("echo").id == "echo"
    finally:
        server.stop()


def test_a_closed_engine_answers_nothing_more(wild):
    """The pool of connections is closed with the engine, also after answers that were cut off."""

    async def run():
        engine = UpstreamEngine([wild.url], answer_bytes=1 << 16)
        await engine.start()
        results = []
        await engine.gate.enter()
        await engine.run([base.Request(0, "r", line("", "endless")["body"], 0)], results.append)
        await engine.stop()
        return results[0].status, engine._session.closed

    assert asyncio.run(run()) == (502, True)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.mark.slow
def test_an_upstream_in_trouble_costs_no_line(upstream: Upstream, tmp_path: Path) -> None:
    other = Upstream()
    key, prompt = "sk-planted-key", "planted-prompt"
    server = Server(
        tmp_path / "data", {"upstream": [upstream.url, other.url]}, {"ARISLAB_UPSTREAM_API_KEY": key}
    ).start()
    kinds = ["fine", "500once", "429once", "503once", "droponce", "\u2028", "400"]
    lines = [line(f"r-{i}", f"{prompt} {i} {kinds[i % len(kinds)]}", model="m") for i in range(80)]
    try:
        assert [model.id for model in server.client.models.list()] == ["m"]
        done = server.wait(server.submit(lines).id)
        results, errors = server.results(done.output_file_id), server.results(done.error_file_id)
        chat = server.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "direct fine"}])
        with pytest.raises(openai.BadRequestError):
            server.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "direct 400"}])
    finally:
        assert server.stop() == 0
        other.stop()
    assert done.status == "completed"
    assert done.usage is not None
    assert done.usage.input_tokens_details.cached_tokens == len(results)
    wanted = {row["custom_id"]: row["body"]["messages"][0]["content"] for row in lines}
    failed = {custom_id for custom_id, text in wanted.items() if text.split(" ")[-1] == "400"}
    assert {r["custom_id"]: text_of(r) for r in results} == {k: v for k, v in wanted.items() if k not in failed}
    assert results[0]["response"]["body"]["vendor_field"] == [1.5, None], "answers are passed through"
    assert {r["custom_id"] for r in errors} == failed
    assert {r["response"]["status_code"] for r in errors} == {400}
    assert all(n == 1 for text, n in upstream.tries.items() if text.endswith(("fine", "400")))
    assert upstream.tries, "both servers are used"
    assert other.tries, "both servers are used"
    assert upstream.keys | other.keys == {f"Bearer {key}"}
    assert chat.choices[0].message.content == "direct fine"
    kept = b"".join(path.read_bytes() for path in server.data.rglob("server.db*")) + server.log.read_bytes()
    for secret in (key, prompt, server.token):
        assert secret.encode() not in kept


def test_retries_end(upstream: Upstream) -> None:
    (result,) = ask(UpstreamEngine([upstream.url], attempts=3, backoff_s=0.01), ["always 500"])
    assert (result.status, upstream.tries["always 500"]) == (500, 3)
    (result,) = ask(UpstreamEngine([upstream.url], attempts=2, backoff_s=0.01), ["a page of html"])
    assert (result.status, json.loads(result.body)["error"]["code"]) == (502, "bad_upstream_answer")
    dead = "http://127.0.0.1:9/v1"  # nothing listens on the discard port
    (result,) = ask(UpstreamEngine([dead], patience_s=0.3, backoff_s=0.05), ["hello"])
    assert (result.status, json.loads(result.body)["code"]) == (0, "upstream_unreachable")


def test_what_is_in_flight_grows_while_answers_come_and_becomes_less_at_a_refusal(upstream: Upstream) -> None:
    engine = UpstreamEngine([upstream.url], start=8)
    ask(engine, [f"{i} fine" for i in range(100)])
    assert engine.gate.width > 8, "it grows while answers come"
    assert upstream.most_busy <= engine.gate.width
    engine = UpstreamEngine([upstream.url], start=8, backoff_s=0.01)
    results = ask(engine, [f"{i} 503once" for i in range(4)])
    assert [result.status for result in results] == [200] * 4
    assert engine.gate.width < 8


def test_a_server_with_few_slots_is_given_as_many_requests_as_it_holds(upstream: Upstream) -> None:
    upstream.slots = 12
    engine = UpstreamEngine([upstream.url], start=8, backoff_s=0.01)
    results = ask(engine, [f"{i} fine" for i in range(400)])
    assert [result.status for result in results] == [200] * 400
    assert 10 <= engine.gate.width <= 12, "neither the ceiling nor half of what it holds"
    assert upstream.refused < 40, "and few are refused on the way"


def test_retry_after_zero_is_no_invitation_to_ask_without_pause(upstream: Upstream) -> None:
    upstream.slots, upstream.retry_after = 1, "0"
    engine = UpstreamEngine([upstream.url], start=8, backoff_s=0.05)
    assert all(result.status == 200 for result in ask(engine, [f"{i} fine" for i in range(24)]))
    assert upstream.refused < 24


def test_time_outs_lower_what_is_in_flight(upstream: Upstream) -> None:
    engine = UpstreamEngine([upstream.url], start=16, timeout_s=0.05, attempts=2, backoff_s=0.01)
    results = ask(engine, [f"{i} hang" for i in range(16)])
    assert {result.status for result in results} == {0}
    assert engine.gate.width < 16


def test_completions_and_embeddings_run_where_the_engine_has_them(upstream: Upstream, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"upstream": upstream.url}).start()
    got = {}
    try:
        for endpoint, body in (("/v1/completions", {"prompt": "abc"}), ("/v1/embeddings", {"input": "abcd"})):
            row = {"custom_id": "r", "method": "POST", "url": endpoint, "body": {"model": "m", **body}}
            empty = {**row, "body": {"model": "m"}}
            made = [server.client.files.create(file=("x", jsonl([one])), purpose="batch") for one in (row, empty)]
            done, failed = (
                server.wait(
                    server.client.batches.create(input_file_id=f.id, endpoint=endpoint, completion_window="24h").id
                )  # type: ignore[arg-type]
                for f in made
            )
            got[endpoint] = server.results(done.output_file_id)[0]["response"]["body"]
            assert failed.status == "failed"
            assert failed.errors is not None
            assert failed.errors.data is not None
            assert failed.errors.data[0].param == f"body.{next(iter(body))}"
    finally:
        server.stop()
    assert got["/v1/completions"]["choices"][0]["text"] == "ABC"
    assert got["/v1/embeddings"]["data"][0]["embedding"] == [4.0]


def test_an_upstream_that_is_away_for_a_while_costs_no_line():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = []
    later = threading.Timer(0.5, lambda: made.append(Upstream(port)))
    later.start()
    try:
        results = ask(UpstreamEngine([f"http://127.0.0.1:{port}/v1"], backoff_s=0.05, attempts=1), ["a fine", "b fine"])
    finally:
        later.join()
        made[0].stop()
    assert [result.status for result in results] == [200, 200]


def test_an_upstream_that_hangs_is_given_up_as_often_as_told():
    upstream = Upstream()
    try:
        (result,) = ask(UpstreamEngine([upstream.url], timeout_s=0.1, attempts=2, backoff_s=0.01), ["it will hang"])
    finally:
        upstream.stop()
    assert (result.status, json.loads(result.body)["code"]) == (0, "upstream_timeout")
    assert upstream.tries["it will hang"] == 2


def test_an_upstream_that_takes_connections_and_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts; nobody reads
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        began = time.monotonic()
        (result,) = ask(UpstreamEngine([url], timeout_s=0.1, attempts=2, backoff_s=0.01), ["hello"])
    assert (result.status, json.loads(result.body)["code"]) == (0, "upstream_timeout")
    assert time.monotonic() - began < 20


def test_an_error_in_a_body_of_status_200_is_no_answer():
    upstream = Upstream()
    try:
        (result,) = ask(UpstreamEngine([upstream.url], attempts=2, backoff_s=0.01), ["an errorbody"])
        (once,) = ask(UpstreamEngine([upstream.url], attempts=2, backoff_s=0.01), ["an errorbodyonce"])
    finally:
        upstream.stop()
    error = json.loads(result.body)["error"]
    assert (result.status, error["code"], upstream.tries["an errorbody"]) == (502, "bad_upstream_answer", 2)
    assert "out of memory" in error["message"]
    assert once.status == 200


def test_no_repr_shows_the_password_of_an_upstream():
    engine = UpstreamEngine(["http://anna:planted@127.0.0.1:1/v1"], key="")
    assert masking.basic("anna:planted").split()[1] not in repr(engine._upstreams)
