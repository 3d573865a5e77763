"""The batch server over real HTTP on loopback, with the real openai SDK as its oracle."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ENDPOINT, Server, Upstream, add_batch, ask, command, jsonl, line, live, read, text_of

from arislab.errors import PrerequisiteError
from arislab.server import guard, runner
from arislab.server.engines import base
from arislab.server.engines import echo as echoing
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.limits import Limits
from arislab.server.scan import request_at, scan_input
from arislab.server.store import Store


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("echo") / "data", {"engine": "echo"}).start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("slow") / "data", {"engine": "echo:0.01"}
    ).start()  # about 400 lines a second
    yield server
    assert server.stop() == 0


# -- the protocol -------------------------------------------------------------------------------------------------------


def test_a_file_comes_back_byte_for_byte_and_can_be_deleted(echo: Server) -> None:
    data = jsonl([line("a", "x\u2028y")]) + b'\n{"not": "checked at upload"'
    file = echo.client.files.create(file=("../../etc/in.jsonl", data), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(data), "in.jsonl", "batch", "processed")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 30 * 24 * 3600
    assert echo.client.files.content(file.id).content == data
    assert echo.client.files.retrieve(file.id) == file
    assert file.id in [other.id for other in echo.client.files.list(purpose="batch", order="asc")]
    assert echo.client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        echo.client.files.content(file.id)
    assert caught.value.body["code"] == "not_found"  # type: ignore[index]
    assert not (echo.data / "files" / file.id).exists()


def test_a_file_may_expire_earlier(echo: Server) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    file = echo.client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch", expires_after=after)  # type: ignore[arg-type]
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="3600"):
        echo.client.files.create(
            file=("in.jsonl", b"{}\n"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 1}
        )


def test_a_batch_lives_from_validating_to_completed(echo: Server) -> None:
    lines = [line(f"r-{i}", f"one two {i}", seed=i) for i in range(300)]
    batch = echo.submit(lines, metadata={"shard": "7"})
    assert (batch.status, batch.object, batch.endpoint, batch.completion_window) == (
        "validating",
        "batch",
        ENDPOINT,
        "24h",
    )
    batch = echo.wait(batch.id)
    assert batch.status == "completed"
    assert batch.metadata == {"shard": "7"}
    assert batch.model == "echo"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 300, "completed": 300, "failed": 0}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (900, 900, 1800)
    assert batch.error_file_id is None
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert stamps == sorted(stamps)  # type: ignore[type-var]
    assert batch.output_file_id is not None
    assert echo.client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    results = echo.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == [row["custom_id"] for row in lines]
    assert [text_of(result) for result in results] == [f"one two {i}" for i in range(300)]
    assert len({result["id"] for result in results}) == 300
    assert all(result["error"] is None and result["response"]["status_code"] == 200 for result in results)
    openai.types.chat.ChatCompletion.model_validate(results[0]["response"]["body"], strict=True)
    assert not list((echo.data / "spool").iterdir()), "the spool of a finished batch is removed"


def test_text_with_unusual_line_separators_survives(echo: Server) -> None:
    texts = ["a\u2028b\u2029c\u0085d\x0b\x1ce\rf\r\ng", "\u00e9\U0001f600\ufeff", '"\\n"']
    rows = [line(f"r-{i}", text) for i, text in enumerate(texts)]
    data = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\r\n\n" for row in rows)  # CRLF, blank lines
    batch = echo.wait(echo.submit(b"\xef\xbb\xbf" + data[:-3]).id)  # a BOM, and no line end at the end
    assert batch.status == "completed", batch.errors
    assert [text_of(result) for result in echo.results(batch.output_file_id)] == texts


def test_bad_lines_fail_the_batch_with_their_numbers(echo: Server) -> None:
    good = line("a")
    bad: list[tuple[bytes, str, str | None]] = [
        (b'{"custom_id": "torn', "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (json.dumps(good).encode(), "duplicate_custom_id", "custom_id"),
        (json.dumps({**good, "custom_id": ""}).encode(), "missing_required_parameter", "custom_id"),
        (json.dumps({**good, "custom_id": "b", "method": "GET"}).encode(), "invalid_method", "method"),
        (json.dumps({**good, "custom_id": "c", "url": "/v1/embeddings"}).encode(), "invalid_url", "url"),
        (
            json.dumps({**good, "custom_id": "d", "body": {"messages": [{}]}}).encode(),
            "missing_required_parameter",
            "body.model",
        ),
        (json.dumps(line("e", stream=True)).encode(), "invalid_stream", "body.stream"),
        (json.dumps(line("f", api_base="http://elsewhere")).encode(), "forbidden_parameter", "body.api_base"),
        (b'{"custom_id": "g", "x": "\xff"}', "invalid_json_line", None),
    ]
    data = json.dumps(good).encode() + b"\n\n" + b"\n".join(raw for raw, _, _ in bad) + b"\n"
    batch = echo.wait(echo.submit(data).id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.data is not None
    found = [(error.line, error.code, error.param) for error in batch.errors.data]
    assert found == [(number, code, param) for number, (_, code, param) in enumerate(bad, start=3)]
    with pytest.raises(openai.ConflictError):
        echo.client.batches.cancel(batch.id)  # terminal states do not change


def test_limits_on_lines(echo: Server, tmp_path: Path) -> None:
    empty = echo.wait(echo.submit(b"\n\n").id)
    assert empty.errors is not None
    assert empty.errors.data is not None
    assert [error.code for error in empty.errors.data] == ["empty_file"]
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([line("a"), line("b", "x" * 1000), line("c"), line("d")]))
    errors = scan_input(path, ENDPOINT, Limits(requests=3, line_bytes=300)).errors
    assert [(error["line"], error["code"]) for error in errors] == [(2, "line_too_long"), (4, "too_many_requests")]


def test_lines_that_the_engine_refuses_stand_in_the_error_file(echo: Server) -> None:
    batch = echo.wait(echo.submit([line("ok"), line("hot", temperature=9), line("two", n=2)]).id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 2}
    assert [result["custom_id"] for result in echo.results(batch.output_file_id)] == ["ok"]
    errors = {result["custom_id"]: result["response"] for result in echo.results(batch.error_file_id)}
    assert errors.keys() == {"hot", "two"}
    assert errors["hot"]["status_code"] == 400
    assert "temperature" in errors["hot"]["body"]["error"]["message"]


def test_cancel_keeps_finished_lines(slow: Server) -> None:
    batch = slow.submit([line(f"r-{i}") for i in range(4000)])
    slow.wait(batch.id, until=lambda b: b.request_counts.completed > 40)
    with pytest.raises(openai.ConflictError):
        slow.client.files.delete(batch.input_file_id)  # it is being read
    assert slow.client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = slow.wait(batch.id, timeout_s=10)
    assert done.status == "cancelled"
    assert done.cancelling_at is not None
    assert done.request_counts is not None
    assert 40 < done.request_counts.completed < 4000
    assert len(slow.results(done.output_file_id)) == done.request_counts.completed
    assert slow.client.batches.cancel(batch.id).status == "cancelled"
    assert slow.client.files.delete(batch.input_file_id).deleted


def test_batches_take_turns_and_results_can_be_read_while_they_run(slow: Server) -> None:
    large = slow.submit([line(f"r-{i}") for i in range(4000)])
    slow.wait(large.id, until=lambda b: b.request_counts.completed > 0)
    small = slow.wait(slow.submit([line(f"s-{i}") for i in range(8)]).id, timeout_s=5)
    assert small.status == "completed"
    assert slow.client.batches.retrieve(large.id).status == "in_progress"
    path, offset, seen = f"/v1/batches/{large.id}/partial?offset=", 0, []
    while len(seen) < 100:
        status, headers, data = slow.request("GET", f"{path}{offset}", Authorization=f"Bearer {slow.token}")
        assert status == 200
        seen += read(data) if data else []
        offset = int(headers["x-next-offset"])
    assert len({result["custom_id"] for result in seen}) == len(seen)
    slow.client.batches.cancel(large.id)
    slow.wait(large.id)


def test_lists_are_paged_newest_first(echo: Server) -> None:
    made = [echo.submit([line("a")]).id for _ in range(5)]
    page = echo.client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:2:-1]
    assert page.has_more
    everything = [batch.id for batch in echo.client.batches.list(limit=2)]
    assert everything[:5] == made[::-1]
    assert len(set(everything)) == len(everything)
    last = echo.client.batches.list(limit=100, after=everything[-1])
    assert (last.data, last.has_more) == ([], False)
    with pytest.raises(openai.BadRequestError):
        echo.client.batches.list(limit=101)
    with pytest.raises(openai.BadRequestError):
        echo.client.batches.list(after="batch_unknown")


def test_what_a_batch_may_not_be(echo: Server) -> None:
    file = echo.client.files.create(file=("in.jsonl", jsonl([line("a")])), purpose="batch")

    def create(**changes: Any) -> None:
        wanted = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h", **changes}
        echo.client.batches.create(**wanted)

    for changes, param in (
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"input_file_id": "../token"}, "input_file_id"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(**changes)
        assert caught.value.body["param"] == param  # type: ignore[index]
        assert caught.value.body["type"] == "invalid_request_error"  # type: ignore[index]


def test_an_idempotency_key_makes_one_batch(echo: Server) -> None:
    file = echo.client.files.create(file=("in.jsonl", jsonl([line("a")])), purpose="batch")
    options = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}
    ids = {
        echo.client.batches.create(**options, extra_headers={"Idempotency-Key": "shard-1"}).id  # type: ignore[arg-type]
        for _ in range(3)
    }
    assert len(ids) == 1


def test_models_and_direct_chat(echo: Server) -> None:
    assert [model.id for model in echo.client.models.list()] == ["echo"]
    answer = echo.client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "hi"
    with pytest.raises(openai.BadRequestError):
        echo.client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}], n=2)


# -- who may ask --------------------------------------------------------------------------------------------------------


def test_only_the_token_opens(echo: Server) -> None:
    for key in ("sk-guess", echo.token[:-1], echo.token + "x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            openai.OpenAI(base_url=echo.url, api_key=key, max_retries=0).models.list()
        assert key not in str(caught.value)
    assert echo.http("GET", "/v1/models")[0] == 401
    assert echo.http("GET", "/health") == (200, {"status": "ok"})
    status, body = echo.http("GET", "/v1/nothing", Authorization=f"Bearer {echo.token}")
    assert status == 404
    assert body["error"].keys() == {"message", "type", "param", "code"}


def test_only_known_host_headers_are_served(echo: Server) -> None:
    bearer = f"Bearer {echo.token}"
    assert echo.http("GET", "/v1/models", Authorization=bearer, Host="localhost:80")[0] == 200
    assert echo.http("GET", "/v1/models", Authorization=bearer, Host="evil.example")[0] == 403
    assert echo.http("GET", "/health", Host="evil.example:1234")[0] == 403


def test_the_token_file_is_private(echo: Server, tmp_path: Path) -> None:
    token = Path(echo.ready["token_file"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert echo.data.stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "token"
    shared.write_text("secret\n")
    shared.chmod(0o644)
    with pytest.raises(PrerequisiteError, match="chmod 600"):
        guard.read_token(shared)
    shared.chmod(0o600)
    assert guard.read_token(shared) == "secret"


def test_large_bodies_are_refused_before_they_are_read(echo: Server) -> None:
    bearer = f"Bearer {echo.token}"
    length = {"Content-Length": str(1 << 40)}
    assert echo.http("POST", "/v1/files", Authorization=bearer, **length)[0] == 413
    assert echo.http("POST", "/v1/batches", Authorization=bearer, **{"Content-Length": str(9 << 20)})[0] == 413


# -- what a crash may not do
# --------------------------------------------------------------------------------------------


def test_a_killed_server_resumes_without_a_line_lost_or_doubled(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"engine": "echo:0.01"}).start()
    lines = [line(f"r-{i}", f"text {i}") for i in range(800)]
    batch = server.submit(lines)
    for goal in (100, 400):
        before = server.wait(batch.id, until=lambda b, goal=goal: b.request_counts.completed >= goal)
        server.stop(signal.SIGKILL)
        spool = next((server.data / "spool").iterdir())
        with spool.open("ab") as file:
            file.write(b'{"id":"torn')  # bytes that came to disk without being committed
        (server.data / "files" / "file-orphan").write_bytes(b"an upload that did not end")
        server.start()
        after = server.client.batches.retrieve(batch.id)
        assert after.request_counts is not None
        assert before.request_counts is not None
        assert after.request_counts.completed >= before.request_counts.completed
    done = server.wait(batch.id)
    assert done.status == "completed"
    results = server.results(done.output_file_id)
    assert [(r["custom_id"], text_of(r)) for r in results] == [(f"r-{i}", f"text {i}") for i in range(800)]
    assert not (server.data / "files" / "file-orphan").exists()
    assert server.stop() == 0


def test_finishing_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line("a"), line("b", n=2)])

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "finish", full)
        asyncio.run(live(store, batch_id, until=("finalizing",)))
    store.close()
    store = Store(tmp_path)
    assert store.batch(batch_id)["status"] == "finalizing"
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], row["failed"]) == ("completed", 1, 1)
    assert [r["custom_id"] for r in read(store.path(row["output_file_id"]).read_bytes())] == ["a"]
    assert [r["custom_id"] for r in read(store.path(row["error_file_id"]).read_bytes())] == ["b"]
    store.finish(row, "cancelled")
    assert store.batch(batch_id) == row, "a terminal state is immutable"
    late = store.batch(add_batch(store, [line("a")]))
    assert store.advance(late["id"], "cancelling", from_=("validating",))
    store.finish(late, "completed")
    assert store.batch(late["id"])["status"] == "cancelled", "who cancels while the files are made is heard"
    store.close()


def test_results_wait_for_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from arislab.server import spools as module

    write_at, refusals = module.write_at, []

    def full_at_first(descriptor: int, data: bytes, offset: int) -> None:
        if len(refusals) < 2:
            refusals.append(os.pwrite(descriptor, data[:5], offset))  # a part of it came to disk
            raise OSError("no space left on device")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(module, "write_at", full_at_first)
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(100)])
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], len(refusals)) == ("completed", 100, 2)
    assert len(read(store.path(row["output_file_id"]).read_bytes())) == 100
    store.close()


def test_lines_that_did_not_run_in_time_expire(tmp_path: Path) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(400)])

    async def some() -> None:
        life = runner.Runner(store, echoing.EchoEngine(delay_s=0.01))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 10:
            await asyncio.sleep(0.01)
        await life.stop()

    asyncio.run(some())
    store.database.write(
        lambda db: db.execute("update batches set expires_at = 1")
    ).result()  # while the server was off
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert row["status"] == "expired"
    assert row["failed"] == 400 - row["completed"]
    done, expired = (read(store.path(row[name]).read_bytes()) for name in ("output_file_id", "error_file_id"))
    assert {r["error"]["code"] for r in expired} == {"batch_expired"}
    assert sorted(r["custom_id"] for r in done + expired) == sorted(f"r-{i}" for i in range(400))
    store.close()


def test_files_are_swept_when_they_expire_but_not_under_a_running_batch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    used = store.batch(add_batch(store, [line("a")]))["input_file_id"]
    unused = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=3600)["id"]
    kept = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=7200)["id"]
    store.database.write(
        lambda db: db.execute("update files set expires_at = 1 where id in (?, ?)", (used, unused))
    ).result()
    assert store.sweep() == 1
    assert {path.name for path in store.files_dir.iterdir()} == {used, kept}
    store.close()


def test_a_second_server_on_the_same_folder_is_refused(echo: Server) -> None:
    second = subprocess.run(
        command(echo.data, {"engine": "echo"}), capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 2
    assert "Traceback" not in second.stderr
    assert "in use by another arislab server" in second.stderr
    assert f"pid {echo.process.pid}" in second.stderr
    assert not second.stdout


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for model, reason in (("model", "no safetensors"), ("nowhere", "no config.json")):
        options = {"model": tmp_path / model, "workers": 1}
        ended = subprocess.run(
            command(tmp_path / "data", options), capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode != 0
        assert not ended.stdout, "the url is printed once the engine can answer"
        assert "arislab: " in ended.stderr
        assert "Traceback" not in ended.stderr
        assert reason in ended.stderr


def test_the_server_ends_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    server = Server(tmp_path / "data", {"engine": "echo", "parent_pid": parent.pid}).start()
    parent.communicate(b"\n", timeout=10)
    assert server.process.wait(timeout=10) == 0
    server.client.close()


# -- upstreams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


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
    engine = UpstreamEngine([upstream.url], start=16, timeout_s=0.2, attempts=2, backoff_s=0.01)
    results = ask(engine, [f"{i} hang" for i in range(16)])
    assert {result.status for result in results} == {0}
    assert engine.gate.width < 16


# -- the local model ----------------------------------------------------------------------------------------------------


def test_the_embedded_model_gives_the_same_bytes_after_a_kill(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"model": "tiny", "workers": 1}).start()
    name = server.client.models.list().data[0].id
    assert name.startswith("arislab-tiny-")
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text(), "torch stays out of the server"
    lines = [line(f"r-{i}", f"candidate {i}", model=name, max_tokens=24) for i in range(300)]
    lines[7]["body"]["model"] = "unknown"
    whole = server.wait(server.submit(lines).id, timeout_s=120)
    batch = server.submit(lines)
    before = server.wait(batch.id, until=lambda b: b.request_counts.completed > 0)
    assert before.request_counts is not None
    assert before.request_counts.completed < 299
    server.stop(signal.SIGKILL)
    server.start()
    killed = server.wait(batch.id, timeout_s=120)
    outputs = [server.results(done.output_file_id) for done in (whole, killed)]
    texts = [[(r["custom_id"], text_of(r)) for r in results] for results in outputs]
    assert texts[0] == texts[1]
    assert len({text for _, text in texts[0]}) > 150, "each row draws from its own seed"
    errors = server.results(killed.error_file_id)
    assert [(r["custom_id"], r["response"]["status_code"]) for r in errors] == [("r-7", 404)]

    # a worker that dies is replaced, and its lines run again
    pids = [int(pid) for pid in re.findall(r"worker (\d+) is ready", server.log.read_text())]
    batch = server.submit(lines)
    server.wait(batch.id, until=lambda b: b.status == "in_progress")
    os.kill(pids[-1], signal.SIGKILL)
    revived = server.wait(batch.id, timeout_s=120)
    assert [(r["custom_id"], text_of(r)) for r in server.results(revived.output_file_id)] == texts[0]
    assert server.stop() == 0


# -- lines --------------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=8), ends=st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]))
def test_every_line_is_found_again_by_its_offset(texts: list[str], ends: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    rows = [line(f"r-{i}", text.encode("utf-8", "replace").decode()) for i, text in enumerate(texts)]
    path.write_bytes(ends.join(json.dumps(row, ensure_ascii=i % 2 == 0).encode() for i, row in enumerate(rows)))
    scan = scan_input(path, ENDPOINT, Limits())
    assert not scan.errors
    with path.open("rb") as file:
        found = [
            request_at(file, offset, i, {"id": "b", "created_at": 0, "endpoint": ENDPOINT})
            for i, offset in enumerate(scan.offsets)
        ]
    assert [(request.custom_id, request.body) for request in found] == [(row["custom_id"], row["body"]) for row in rows]


def test_a_gate_serves_in_order_and_loses_no_place() -> None:
    async def run() -> list[int]:
        gate, order = base.Gate(1), []

        async def visit(i: int) -> None:
            await gate.enter()
            order.append(i)
            await asyncio.sleep(0)
            gate.leave()

        visits = [asyncio.create_task(visit(i)) for i in range(6)]
        await asyncio.sleep(0)
        visits[2].cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        assert gate.inside == 0
        await gate.enter()
        waiting = asyncio.create_task(gate.step_out(60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.inside == 1
        gate.leave()
        assert gate.inside == 0
        return order

    assert asyncio.run(run()) == [0, 1, 3, 4, 5]


# -- what a batch does now
# ----------------------------------------------------------------------------------------------


def test_the_server_says_what_it_is_and_keeps_its_name_over_restarts(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"engine": "echo", "max_window": 2}).start()
    bearer = f"Bearer {server.token}"
    status, about = server.http("GET", "/v1/arislab", Authorization=bearer)
    assert (status, about["server"], about["engine"], about["response_format"]) == (200, "arislab", "echo", False)
    limits = {"requests": 50_000, "file_bytes": 200_000_000, "line_bytes": 8 << 20, "window_s": 7200}
    assert about["limits"] == limits
    assert re.fullmatch("[0-9a-f]{32}", about["instance"])
    batch = server.wait(server.submit([line("a")]).id)
    assert batch.expires_at is not None
    assert batch.expires_at - batch.created_at == 7200
    server.stop()
    server.start()
    assert server.http("GET", "/v1/arislab", Authorization=f"Bearer {server.token}")[1] == about
    server.stop()


def test_a_running_batch_tells_its_speed_and_when_it_will_end(slow: Server) -> None:
    bearer = f"Bearer {slow.token}"
    batch = slow.submit([line(f"r-{i}", "one two three") for i in range(1200)])
    slow.wait(batch.id, until=lambda b: b.request_counts.completed > 200)
    status, now = slow.http("GET", f"/v1/batches/{batch.id}/live", Authorization=bearer)
    assert status == 200
    assert (now["total"], now["failed"]) == (1200, 0)
    assert 0 < now["in_flight"] <= 32, "four chunks of eight lines"
    assert 0 < now["requests_per_s"] <= 400
    assert now["tokens_per_s"] == pytest.approx(3 * now["requests_per_s"], abs=0.01)
    assert now["eta_s"] == pytest.approx((1200 - now["completed"]) / now["requests_per_s"], abs=0.11)
    slow.wait(batch.id)
    now = slow.http("GET", f"/v1/batches/{batch.id}/live", Authorization=bearer)[1]
    assert (now["completed"], now["in_flight"], now["eta_s"]) == (1200, 0, 0)
    assert slow.http("GET", "/v1/batches/batch_x/live", Authorization=bearer)[0] == 404


def test_prometheus_can_read_the_numbers(echo: Server) -> None:
    bearer = f"Bearer {echo.token}"
    echo.wait(echo.submit([line("a", "planted-text"), line("b", n=2)]).id)
    status, headers, body = echo.request("GET", "/metrics", Authorization=bearer)
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    text = body.decode()
    sample = re.compile(r'arislab_[a-z_]+(\{[a-z]+="[a-z_]+"\})? [0-9.e+]+')
    rows = [row for row in text.splitlines() if not row.startswith("#")]
    assert all(sample.fullmatch(row) for row in rows), rows
    values = dict(row.rsplit(" ", 1) for row in rows)
    assert int(values['arislab_lines_total{result="completed"}']) >= 1
    assert int(values['arislab_lines_total{result="failed"}']) >= 1
    assert int(values["arislab_disk_bytes"]) == sum(path.stat().st_size for path in (echo.data / "files").iterdir())
    assert "planted-text" not in text
    assert echo.request("GET", "/metrics")[0] == 401


def test_lines_of_one_prefix_are_dispatched_together(tmp_path: Path) -> None:
    shots = ["four examples", "eight examples"]
    rows = [line(f"r-{i}", f"question {i}") for i in range(20)]
    for i, row in enumerate(rows):
        row["body"]["messages"].insert(0, {"role": "system", "content": shots[i % 2]})
    store, seen = Store(tmp_path), []

    class Watched(echoing.EchoEngine):
        async def run(self, chunk: Any, emit: Any) -> None:
            seen.extend(request.body["messages"][0]["content"] for request in chunk)
            await super().run(chunk, emit)

    async def run(*, group_by_prefix: bool) -> list[str]:
        seen.clear()
        batch_id = add_batch(store, rows)
        life = runner.Runner(store, Watched(), group_by_prefix=group_by_prefix)
        life.take(batch_id)
        while store.batch(batch_id)["status"] != "completed":
            await asyncio.sleep(0.01)
        await life.stop()
        written = read(store.path(store.batch(batch_id)["output_file_id"]).read_bytes())
        assert [r["custom_id"] for r in written] == [row["custom_id"] for row in rows], "the output keeps input order"
        return list(seen)

    assert asyncio.run(run(group_by_prefix=False)) == shots * 10
    assert asyncio.run(run(group_by_prefix=True)) == [shots[0]] * 10 + [shots[1]] * 10
    store.close()


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
