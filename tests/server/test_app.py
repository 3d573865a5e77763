"""The batch server as a process: killed, doubled, without a model, without a parent."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from toys import Server, command, line, text_of

from arislab.server import app


@pytest.mark.slow
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


def test_what_a_server_writes_is_sent_at_once() -> None:
    """Else the second write of an answer waits for the client to acknowledge the first, and the client takes 40 ms."""

    async def is_sent_at_once() -> int:
        accepted = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(
            lambda _, writer: accepted.set_result(writer), sock=app._listen("127.0.0.1", 0)
        ) as server:
            _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer = await asyncio.wait_for(accepted, 30)
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for one in (writer, client):
                one.close()
                await one.wait_closed()
            return option

    assert asyncio.run(is_sent_at_once())


def test_a_second_server_on_the_same_folder_is_refused(echo: Server) -> None:
    second = subprocess.run(
        command(echo.data, {"engine": "echo"}), capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 2
    assert "Traceback" not in second.stderr
    assert "in use by another arislab server" in second.stderr
    assert f"pid {echo.process.pid}" in second.stderr
    assert not second.stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_server_whose_parent_ends_while_it_loads_ends_quietly(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    options = {"model": "tiny", "workers": 1, "parent_pid": gone.pid}
    done = subprocess.run(command(tmp_path / "data", options), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("is gone") == 1
    assert "Traceback" not in done.stderr


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
