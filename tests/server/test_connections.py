"""Connections that send no request are cut off, keep nobody from being served, and cannot fill the log."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
import uvicorn
from toys import command

from arislab.server import connections
from arislab.server.connections import Connection

HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
WHOLE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def app(scope, receive, send):
    """Answers with the length of the body."""
    if scope["type"] != "http":
        return
    n_bytes, more = 0, True
    while more:
        message = await receive()
        n_bytes, more = n_bytes + len(message.get("body", b"")), message.get("more_body", False)
    body = str(n_bytes).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(monkeypatch, *, head_s=0.4, most=8):
    monkeypatch.setattr(connections, "HEAD_S", head_s)
    monkeypatch.setattr(connections, "most_connections", lambda: most)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = uvicorn.Config(app, http=Connection, lifespan="off", log_config=None, timeout_keep_alive=60)
        server = uvicorn.Server(settings)
        running = asyncio.create_task(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def opened(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def is_cut(reader, timeout_s=3.0):
    try:
        return await asyncio.wait_for(reader.read(4096), timeout_s) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


async def answer(reader):
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)).split(b"\r\n")[0], await reader.readexactly(1)


def test_half_a_head_is_cut_off_in_time(monkeypatch):
    async def run():
        async with serving(monkeypatch) as port:
            began = time.monotonic()
            halves = [await opened(port, HALF) for _ in range(4)] + [await opened(port, b"")]
            cut = await asyncio.gather(*(is_cut(reader) for reader, _ in halves))
            took_s = time.monotonic() - began
            for _, writer in halves:
                writer.close()
            return cut, took_s

    cut, took_s = asyncio.run(run())
    assert cut == [True] * 5
    assert 0.3 < took_s < 2.5


def test_who_sends_a_whole_request_is_served_while_all_places_are_held_by_halves(monkeypatch):
    async def run():
        async with serving(monkeypatch, head_s=30) as port:
            halves = [await opened(port, HALF) for _ in range(30)]
            reader, writer = await opened(port, WHOLE)
            reply = await answer(reader)
            writer.close()
            gone = await asyncio.gather(*(is_cut(reader, 0.5) for reader, _ in halves))
            for _, writer in halves:
                writer.close()
            return reply, gone

    reply, gone = asyncio.run(run())
    assert reply == (b"HTTP/1.1 200 OK", b"0")
    assert gone[:20] == [True] * 20, "the oldest give way"
    assert gone.count(False) <= 8


@pytest.mark.slow
def test_a_slow_body_and_a_kept_connection_are_nobody_s_business(monkeypatch):
    async def run():
        async with serving(monkeypatch) as port:
            reader, writer = await opened(port, b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n")
            for _ in range(5):
                await asyncio.sleep(0.3)  # longer than a head may take
                writer.write(b"x")
            replies = [await answer(reader)]
            for _ in range(4):
                await asyncio.sleep(0.2)
                writer.write(WHOLE)
                replies.append(await answer(reader))
            writer.write(HALF)  # the fifth request never becomes one
            cut = await is_cut(reader)
            writer.close()
            return replies, cut

    replies, cut = asyncio.run(run())
    assert replies == [(b"HTTP/1.1 200 OK", b"5")] + [(b"HTTP/1.1 200 OK", b"0")] * 4
    assert cut


def test_a_head_without_end_is_not_collected(monkeypatch):
    async def run():
        async with serving(monkeypatch, head_s=30) as port:
            _, writer = await opened(port, b"GET / HTTP/1.1\r\n")
            sent = 0
            try:
                while sent < 1 << 24:
                    writer.write(b"X-More: " + b"x" * 8000 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
                    sent += 8010
            except ConnectionError:
                pass
            writer.close()
            return sent

    assert asyncio.run(run()) < 1 << 23


@pytest.mark.slow
def test_hundreds_of_halves_neither_stop_a_server_nor_fill_its_log(tmp_path):
    few = ["sh", "-c", 'ulimit -n 160; exec "$@"', "sh"]
    with (tmp_path / "log").open("w") as log:
        started = [*few, *command(tmp_path / "data", {"engine": "echo"})]
        process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=log, text=True)
    halves = []
    try:
        ready = json.loads(process.stdout.readline())
        port = int(ready["url"].rsplit(":", 1)[1].removesuffix("/v1"))
        for _ in range(300):
            halves.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            halves[-1].sendall(HALF)
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as asking:
                asking.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert asking.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for half in halves:
            half.close()
        process.terminate()
        process.wait(20)
        process.stdout.close()
    printed = (tmp_path / "log").read_text()
    assert "out of system resource" not in printed
    assert len(printed) < 20_000


def test_a_process_takes_as_many_descriptors_as_it_may_have():
    limits = subprocess.run(
        [
            *("sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh", sys.executable, "-c"),
            "from arislab.server.connections import *; import resource; raise_descriptors(); "
            "print(*resource.getrlimit(resource.RLIMIT_NOFILE), most_connections())",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    soft, hard, most = map(int, limits.stdout.split())
    assert soft == min(hard, connections.MOST_DESCRIPTORS) or hard == -1
    assert 8 <= most <= connections.MOST_CONNECTIONS
