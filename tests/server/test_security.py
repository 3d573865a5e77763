"""What strangers, slow clients and full disks may not do to the batch server, over real HTTP on loopback."""

import asyncio
import errno
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from toys import ENDPOINT, Server, add_batch, jsonl, line, live, read

from arislab.server import runner
from arislab.server.database import TERMINAL
from arislab.server.guard import Guard
from arislab.server.limits import ForbiddenError, Limits, check_fields
from arislab.server.store import Store
from arislab.system import files as whole_files


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("guarded") / "data", {"engine": "echo"}).start()
    yield server
    assert server.stop() == 0


# -- who asks, and for what
# ---------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/v1/arislab"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/models"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/x/content"),
    ("DELETE", "/v1/files/x"),
    ("GET", "/v1/batches"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches/x/live"),
    ("GET", "/v1/batches/x/partial"),
    ("POST", "/v1/chat/completions"),
]


def test_no_route_but_health_opens_without_the_token(server: Server) -> None:
    for method, path in ROUTES:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {server.token}"}):
            assert server.http(method, path, **headers)[0] == 401, (method, path, headers)
    status, body = server.http("GET", "/health")
    assert (status, body) == (200, {"status": "ok"})


def test_a_page_that_rebinds_its_name_to_loopback_is_refused_even_with_the_token(server: Server) -> None:
    bearer = f"Bearer {server.token}"
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]:80", ""):
        for method, path in (*ROUTES, ("GET", "/health")):
            assert server.http(method, path, Authorization=bearer, Host=host)[0] == 403, host


def test_ids_are_never_paths(server: Server) -> None:
    bearer = f"Bearer {server.token}"
    outside = server.data / "secret.jsonl"
    outside.write_text("outside\n")
    for bad in (
        "../secret.jsonl",
        "..%2Fsecret.jsonl",
        "%2e%2e%2fsecret.jsonl",
        "..%5csecret.jsonl",
        "%00",
        "/token",
        ".",
    ):
        for method, path in (
            ("GET", f"/v1/files/{bad}/content"),
            ("GET", f"/v1/files/{bad}"),
            ("DELETE", f"/v1/files/{bad}"),
        ):
            status, _, body = server.request(method, path, Authorization=bearer)
            assert status in (404, 405), (method, path, status)
            assert b"outside" not in body
            assert server.token.encode() not in body
    assert outside.exists()
    for bad in ("../secret.jsonl", str(outside), "file-../../token", "\x00"):
        with pytest.raises(openai.BadRequestError, match="no such file"):
            server.client.batches.create(input_file_id=bad, endpoint=ENDPOINT, completion_window="24h")


def test_a_file_name_cannot_leave_its_field(server: Server) -> None:
    for name in ("../../etc/passwd", "..\\..\\win.ini", 'a";x="b.jsonl', "x" * 1000):
        file = server.client.files.create(file=(name, b"{}\n"), purpose="batch")
        assert len(file.filename) <= 255
        assert not {"/", "\\"} & set(file.filename)
        assert (server.data / "files" / file.id).read_bytes() == b"{}\n"


# -- what a line may not hold
# -------------------------------------------------------------------------------------------


def media(kind: str, url: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: url}]}]}


FORBIDDEN: list[tuple[dict[str, Any], str, str]] = [
    *[
        ({name: "planted-value"}, "forbidden_parameter", f"body.{name}")
        for name in ("api_base", "api_key", "base_url", "extra_headers", "extra_body", "litellm_params", "user_config")
    ],
    (media("image_url", {"url": "http://169.254.169.254/latest"}), "forbidden_url", "body.image_url"),
    (media("image_url", "https://elsewhere.example/x.png"), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "file:///etc/passwd"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": " HTTP://elsewhere.example/"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "//elsewhere.example/"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "http://[broken"}), "forbidden_url", "body.image_url"),
    (media("file_url", "https://elsewhere.example/x.pdf"), "forbidden_url", "body.file_url"),
    (media("audio_url", {"url": "https://elsewhere.example/x"}), "forbidden_url", "body.audio_url"),
    (media("video_url", {"url": "https://elsewhere.example/x"}), "forbidden_url", "body.video_url"),
]


def test_credentials_and_addresses_inside_lines_fail_the_batch(server: Server) -> None:
    rows = [line(f"r-{i}", **body) for i, (body, _, _) in enumerate(FORBIDDEN)]
    batch = server.wait(server.submit(rows).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    found = [(error.line, error.code, error.param) for error in batch.errors.data]
    assert found == [(number, code, param) for number, (_, code, param) in enumerate(FORBIDDEN, start=1)]
    assert "planted-value" not in json.dumps(batch.to_dict())


def test_a_direct_chat_keeps_the_same_rules(server: Server) -> None:
    for body, code, _ in FORBIDDEN:
        fields = {"model": "echo", "messages": [{"role": "user", "content": "x"}], **body}
        with pytest.raises(openai.BadRequestError) as caught:
            server.client.chat.completions.with_raw_response.create(
                model="echo", messages=fields["messages"], extra_body=body
            )
        assert caught.value.body["code"] == code  # type: ignore[index]


def test_what_only_looks_like_an_address_passes() -> None:
    limits = Limits(media_hosts=frozenset({"images.example"}))
    schema = {"type": "object", "properties": {"image_url": {"type": "string"}, "api_key": {"type": "string"}}}
    for body in (
        media("image_url", {"url": "data:image/png;base64,AAAA"}),
        media("image_url", {"url": "https://images.example/x.png"}),
        {"messages": [{"role": "user", "content": "see http://elsewhere.example, api_key=…"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    ):
        check_fields(body, limits)
    for url in (
        "https://images.example.evil.example/x",
        "https://images.example@evil.example/x",
        "ftp://images.example/x",
    ):
        with pytest.raises(ForbiddenError, match="data: URL"):
            check_fields(media("image_url", {"url": url}), limits)


def test_nesting_has_an_end(server: Server, tmp_path: Path) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return {"x": value}

    check_fields(nested(63), Limits())
    with pytest.raises(ForbiddenError, match="64 levels"):
        check_fields(nested(64), Limits())
    deep = line("r-0")
    raw = json.dumps(deep)[:-2].encode() + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"
    batch = server.wait(server.submit(raw).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["invalid_json_line"]


def test_a_line_beyond_8_mb_fails_the_batch_with_its_number(server: Server) -> None:
    batch = server.wait(server.submit(jsonl([line("a"), line("b", "x" * (8 << 20)), line("c")])).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [(2, "line_too_long")]


# -- slow and broken clients
# --------------------------------------------------------------------------------------------


def opened(server: Server, n_bytes: int) -> socket.socket:
    """A connection that has sent the head of an upload of ``n_bytes``."""
    port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\nContent-Length: {n_bytes}\r\n"
    connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=xyz\r\n\r\n")
    return connection


def test_an_upload_that_breaks_off_at_99_percent_leaves_nothing(server: Server) -> None:
    before = sorted(path.name for path in (server.data / "files").iterdir())
    part = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    content = b"planted-upload\n" * 200_000
    connection = opened(server, len(part) + len(content) + len(content) // 99)
    connection.sendall(part + content)
    connection.close()
    deadline = time.monotonic() + 10
    while server.http("GET", "/health")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert sorted(path.name for path in (server.data / "files").iterdir()) == before
    assert list((server.data / "tmp").iterdir()) == []
    assert "planted-upload" not in server.log.read_text()


def test_a_request_that_comes_drop_by_drop_is_given_up() -> None:
    async def ask(limits: Limits, chunk: bytes, pause_s: float) -> int:
        sent: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                while (await receive()).get("more_body"):
                    pass
            except Exception as error:  # noqa: BLE001 - what the guard raised is the outcome
                sent.append(error.status_code)  # type: ignore[attr-defined]
            else:
                sent.append(200)

        left = 20

        async def receive() -> dict[str, Any]:
            nonlocal left
            await asyncio.sleep(pause_s)
            left -= 1
            return {"type": "http.request", "body": chunk, "more_body": left > 0}

        async def send(_: Any) -> None:
            raise AssertionError("the guard let it pass")

        scope = {"type": "http", "path": "/v1/files", "method": "POST"}
        scope["headers"] = [(b"host", b"localhost"), (b"authorization", b"Bearer t")]  # type: ignore[assignment]
        await Guard(app, token="t", host="127.0.0.1", limits=limits)(scope, receive, send)
        return sent[0]

    limits = Limits(grace_s=0.1, slow_bytes_per_s=1000, file_bytes=1_000_000)
    assert asyncio.run(ask(limits, b"x", 0.02)) == 408
    assert asyncio.run(ask(limits, b"x" * 50, 0.02)) == 200, "slow, but not too slow"
    assert asyncio.run(ask(limits, b"x" * 100_000, 0)) == 413


# -- a disk that is full
# ------------------------------------------------------------------------------------------------


def test_a_full_quota_refuses_uploads_with_507_and_lets_results_wait(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"engine": "echo", "quota_gb": 0.0001}).start()  # 100,000 bytes
    try:
        small = server.client.files.create(file=("a.jsonl", b"x" * 60_000), purpose="batch")
        with pytest.raises(openai.InternalServerError, match="quota") as caught:
            server.client.files.create(file=("b.jsonl", b"x" * 60_000), purpose="batch")
        assert caught.value.status_code == 507
        assert caught.value.body["code"] == "disk_full"  # type: ignore[index]
        assert [path.name for path in (server.data / "files").iterdir()] == [small.id]
        batch = server.submit([line(f"r-{i}") for i in range(100)])  # results have about 50,000 bytes
        server.wait(batch.id, until=lambda _: "quota" in server.log.read_text())
        assert server.client.batches.retrieve(batch.id).status == "in_progress"
        server.client.files.delete(small.id)
        done = server.wait(batch.id)
        assert done.status == "completed"
        assert len(server.results(done.output_file_id)) == 100
    finally:
        server.stop()


def test_an_upload_to_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.add_file(io.BytesIO(b"x" * 1000), filename="x", purpose="batch", keep_s=3600)
    assert (
        list(store.tmp_dir.iterdir()),
        list(store.files_dir.iterdir()),
        store.database.query("select * from files"),
    ) == (
        [],
        [],
        [],
    )
    store.close()


def test_a_batch_that_could_not_be_finished_is_finished_when_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, refusals = Store(tmp_path), []
    batch_id = add_batch(store, [line("a"), line("b", n=2)])
    inputs = {path.name for path in store.files_dir.iterdir()}
    sync = whole_files.sync

    def full_at_first(folder: Path) -> None:
        if folder == store.files_dir and len(refusals) < 3:
            refusals.append({path.name for path in store.files_dir.iterdir()} - inputs)
            raise OSError(errno.ENOSPC, "no space left on device")
        sync(folder)

    monkeypatch.setattr(whole_files, "sync", full_at_first)
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert row["status"] == "completed"
    assert [len(left) for left in refusals] == [1, 1, 1], "no try leaves files behind for the next"
    outputs = {row["output_file_id"], row["error_file_id"]}
    assert {path.name for path in store.files_dir.iterdir()} == inputs | outputs
    assert [
        read(store.path(file_id).read_bytes())[0]["custom_id"]
        for file_id in (row["output_file_id"], row["error_file_id"])
    ] == ["a", "b"]
    store.close()


# -- what stays ---------------------------------------------------------------------------------------------------------


def test_an_output_that_nobody_downloaded_outlives_its_expiry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = {}
    for name, pin in (("kept", 1), ("limited", 0)):
        batch_id = add_batch(store, [line("a")])
        store.database.write(lambda db, pin=pin: db.execute("update batches set pin_outputs = ?", (pin,))).result()
        asyncio.run(live(store, batch_id))
        ids[name] = store.batch(batch_id)["output_file_id"]
    store.database.write(lambda db: db.execute("update files set expires_at = 1")).result()
    store.sweep()
    assert {path.name for path in store.files_dir.iterdir()} == {ids["kept"]}
    store.collected(ids["kept"])
    assert store.sweep() == 0, "a day is left, should the download have gone wrong"
    store.database.write(lambda db: db.execute("update files set expires_at = 1")).result()
    assert store.sweep() == 1
    store.close()


def test_a_whole_download_is_noticed_and_a_part_is_not(server: Server) -> None:
    done = server.wait(server.submit([line("a")]).id)
    bearer = {"Authorization": f"Bearer {server.token}"}
    path = f"/v1/files/{done.output_file_id}/content"

    def is_collected() -> bool:
        import sqlite3

        db = sqlite3.connect(f"file:{server.data / 'server.db'}?mode=ro", uri=True)
        try:
            (at,) = db.execute("select collected_at from files where id = ?", (done.output_file_id,)).fetchone()
        finally:
            db.close()
        return at is not None

    assert server.request("GET", path, **bearer, Range="bytes=0-3")[0] == 206
    time.sleep(0.1)
    assert not is_collected()
    assert server.request("GET", path, **bearer)[0] == 200
    deadline = time.monotonic() + 5
    while not is_collected():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ten_thousand_batches_are_listed_by_their_index(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=3600)["id"]
    sql = "insert into batches(id, status, endpoint, input_file_id, output_expires_s, created_at, expires_at) values (?, 'completed', ?, ?, 3600, 1, 2)"
    rows = [(f"batch_{i}", ENDPOINT, source) for i in range(10_000)]
    store.database.write(lambda db: db.executemany(sql, rows)).result()
    store.close()
    server = Server(tmp_path, {"engine": "echo"}).start()
    try:
        began = time.monotonic()
        seen = [batch.id for batch in server.client.batches.list(limit=100)]
        elapsed_s = time.monotonic() - began
        assert seen == [f"batch_{i}" for i in reversed(range(10_000))]
        assert elapsed_s < 15, "100 pages; a scan of the table for each would take minutes"
        done = server.wait(server.submit([line("a")]).id)
        assert done.status == "completed"
    finally:
        server.stop()
    store = Store(tmp_path)
    for sql in (
        "select id from batches where status not in ('failed', 'completed', 'expired', 'cancelled') and input_file_id = 'x'",
        "select * from batches where true and seq < 5 order by seq desc limit 3",
        "select * from batches where id = 'x'",
    ):
        plan = [row["detail"] for row in store.database.query("explain query plan " + sql)]
        assert all(step.startswith("SEARCH") for step in plan), plan
    store.close()


def test_a_clock_that_jumps_expires_nothing_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(50)])
    now = time.time

    async def jump() -> None:
        from arislab.server.engines.echo import EchoEngine

        life = runner.Runner(store, EchoEngine(delay_s=0.01))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 5:
            await asyncio.sleep(0.005)
        monkeypatch.setattr(time, "time", lambda: now() + 7 * 24 * 3600)
        store.sweep()
        while store.batch(batch_id)["status"] not in TERMINAL:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(time, "time", lambda: now() - 7 * 24 * 3600)
        await life.stop()

    asyncio.run(jump())
    row = store.batch(batch_id)
    assert (row["status"], row["completed"]) == ("completed", 50)
    monkeypatch.undo()
    store.sweep()
    assert store.path(row["output_file_id"]).exists()
    store.close()


def test_the_log_has_ids_and_no_prompt_answer_or_key(tmp_path: Path) -> None:
    prompt, key = "planted-prompt-7", "sk-planted-key"
    server = Server(tmp_path / "data", {"engine": "echo"}, {"ARISLAB_UPSTREAM_API_KEY": key}).start()
    try:
        done = server.wait(
            server.submit([line("planted-id", prompt), line("b", prompt, n=2)], metadata={"k": prompt}).id
        )
        failed = server.wait(server.submit([line("a", prompt), line("a", prompt), line("c", prompt, api_key=key)]).id)
        server.client.chat.completions.create(model="echo", messages=[{"role": "user", "content": prompt}])
        with pytest.raises(openai.BadRequestError):
            server.client.chat.completions.create(model="echo", messages=[{"role": prompt, "content": 1}])  # type: ignore[list-item]
        server.results(done.output_file_id)
    finally:
        server.stop()
    log = server.log.read_text()
    assert done.id in log
    assert failed.id in log
    for secret in (prompt, key, server.token, "planted-id"):
        assert secret not in log
    for path in (server.data / "token", server.data / "server.db", server.data / "files" / str(done.output_file_id)):
        assert os.stat(path).st_mode & 0o077 == 0, f"{path} can be read by others"  # noqa: PTH116
