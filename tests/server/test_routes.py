"""Files and batches over real HTTP on loopback, with the real openai SDK as their oracle."""

import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from toys import ENDPOINT, Server, jsonl, line, read, text_of

from arislab.server.store import Store


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
    refused = [(error.line, error.code, error.param) for error in batch.errors.data]
    assert refused == [(number, code, param) for number, (_, code, param) in enumerate(bad, start=3)]
    with pytest.raises(openai.ConflictError):
        echo.client.batches.cancel(batch.id)  # terminal states do not change


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


@pytest.mark.slow
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


def opened(server: Server, n_bytes: int) -> socket.socket:
    """A connection that has sent the head of an upload of ``n_bytes``."""
    port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n"
    head += f"Content-Length: {n_bytes}\r\n"
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


@pytest.mark.slow
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
        bearer = f"Bearer {server.token}"

        def is_answered(_: openai.types.Batch) -> bool:  # some lines are, and their results wait
            now = server.http("GET", f"/v1/batches/{batch.id}/live", Authorization=bearer)[1]
            return now["requests_per_s"] > 0 and now["in_flight"] == 0

        server.wait(batch.id, until=is_answered)
        time.sleep(0.5)  # in which they would be stored if there was room
        waiting = server.client.batches.retrieve(batch.id)
        assert waiting.status == "in_progress"
        assert waiting.request_counts is not None
        assert waiting.request_counts.completed == 0
        server.client.files.delete(small.id)
        done = server.wait(batch.id)
        assert done.status == "completed"
        assert len(server.results(done.output_file_id)) == 100
    finally:
        server.stop()


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


@pytest.mark.slow
def test_ten_thousand_batches_are_listed_by_their_index(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=3600)["id"]
    sql = "insert into batches(id, status, endpoint, input_file_id, output_expires_s, created_at, expires_at) "
    sql += "values (?, 'completed', ?, ?, 3600, 1, 2)"
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
        "select id from batches where status not in ('failed', 'completed', 'expired', 'cancelled') "
        "and input_file_id = 'x'",
        "select * from batches where true and seq < 5 order by seq desc limit 3",
        "select * from batches where id = 'x'",
    ):
        plan = [row["detail"] for row in store.database.query("explain query plan " + sql)]
        assert all(step.startswith("SEARCH") for step in plan), plan
    store.close()
