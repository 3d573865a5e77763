"""Who may ask the batch server: token, Host header, sizes, and how slowly."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from toys import Server

from arislab.errors import PrerequisiteError
from arislab.server import guard
from arislab.server.guard import Guard, read_token
from arislab.server.limits import Limits


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


@pytest.mark.parametrize("kind", ["a folder", "a link to", "not text"])
def test_a_token_file_that_is_none_is_one_message(tmp_path, kind):
    path = tmp_path / "token"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(b"\xff\xfe")
        path.chmod(0o600)
    with pytest.raises(PrerequisiteError, match="the token file") as caught:
        read_token(path)
    assert kind in str(caught.value) or "no text" in str(caught.value)
    assert not (tmp_path / "nowhere").exists()
