"""``arislab serve --vllm`` with a stand-in that speaks as much of vLLM's protocol as the engine needs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import Server, command, line, text_of

from arislab.errors import PrerequisiteError
from arislab.server.engines.vllm import VllmEngine

VLLM = r"""
import asyncio, json, os, pathlib, subprocess, sys
from aiohttp import web

home = pathlib.Path(os.environ["STAND_IN"])
if (home / "broken").exists():
    sys.exit("RuntimeError: there is no such checkpoint")
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])  # vLLM has an engine process, too
with (home / "lives").open("a") as lives:
    key = os.environ["VLLM_API_KEY"]
    lives.write(json.dumps({"pids": [os.getpid(), helper.pid], "argv": sys.argv, "key": key}) + "\n")
option = dict(zip(sys.argv, sys.argv[1:]))
base, loras = option["--served-model-name"], {}

def allowed(request):
    return request.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]

async def models(request):
    if not allowed(request):
        return web.json_response({"error": "key"}, status=401)
    return web.json_response({"data": [{"id": name} for name in [base, *loras]]})

async def load(request):
    asked = await request.json()
    if not allowed(request) or asked["lora_name"] in loras or asked.get("load_inplace"):
        return web.json_response({"error": {"message": "refused"}}, status=400)
    weights = pathlib.Path(asked["lora_path"], "adapter_model.safetensors").read_text()
    if weights == "torn":
        return web.json_response({"error": {"message": "header too large"}}, status=400)
    loras[asked["lora_name"]] = weights
    return web.Response(text="Success")

async def chat(request):
    body = await request.json()
    name = body["model"]
    if not allowed(request) or name not in [base, *loras]:
        return web.json_response({"error": {"message": f"no model {name}"}}, status=404)
    await asyncio.sleep(0.02)
    message = {"role": "assistant", "content": loras.get(name, "base") + ":" + body["messages"][-1]["content"]}
    return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

app = web.Application()
app.add_routes([
    web.get("/health", lambda request: asyncio.sleep(0, web.Response())), web.get("/v1/models", models),
    web.post("/v1/load_lora_adapter", load), web.post("/v1/chat/completions", chat),
])
web.run_app(app, host="127.0.0.1", port=int(option["--port"]), print=None)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A Python whose ``-m vllm.entrypoints.openai.api_server`` is the script above, and the folder it writes to."""
    (tmp_path / "vllm.py").write_text(VLLM)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{tmp_path / "vllm.py"}" "$@"\n')
    python.chmod(0o700)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    adapter(tmp_path, "first-1a")
    return tmp_path


def adapter(home: Path, name: str, weights: str | None = None) -> None:
    folder = home / "adapters" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(weights or name)
    (folder / "adapter_config.json").write_text("{}")


def options(home: Path) -> dict[str, object]:
    return {"vllm": "tiny", "vllm-python": home / "python", "adapters": home / "adapters"}


def lives(home: Path) -> list[dict[str, object]]:
    return [json.loads(row) for row in (home / "lives").read_text().splitlines()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


@pytest.mark.slow
def test_each_row_is_answered_though_vllm_is_killed_and_its_key_is_told_to_nobody(stand_in):
    server = Server(stand_in / "data", options(stand_in)).start()
    base, first = [model.id for model in server.client.models.list()]
    assert first == "first-1a"
    rows = [line(f"r-{i}", str(i), model=[base, first][i % 2]) for i in range(400)]
    batch = server.submit(rows)
    server.wait(batch.id, until=lambda b: b.request_counts.completed >= 50)
    os.kill(lives(stand_in)[0]["pids"][0], signal.SIGKILL)
    batch = server.wait(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (400, 0)
    texts = {row["custom_id"]: text_of(row) for row in server.results(batch.output_file_id)}
    assert texts == {f"r-{i}": f"{['base', first][i % 2]}:{i}" for i in range(400)}
    adapter(stand_in, "second-2b")
    assert "second-2b" in [model.id for model in server.client.models.list()]
    late = server.wait(server.submit([line("late", "x", model="second-2b")]).id)
    assert text_of(server.results(late.output_file_id)[0]) == "second-2b:x"
    adapter(stand_in, "second-2b", "other weights")
    changed = server.wait(server.submit([line("late", "x", model="second-2b")]).id)
    assert server.results(changed.error_file_id)[0]["response"]["body"]["error"]["code"] == "adapter_changed"
    seen = lives(stand_in)
    assert len(seen) == 2
    assert all_gone(seen[0]["pids"])
    written = (
        server.log.read_text() + (stand_in / "data" / "vllm.log").read_text() + json.dumps([x["argv"] for x in seen])
    )
    assert not [life["key"] for life in seen if life["key"] in written]
    assert len({life["key"] for life in seen}) == 2
    assert server.stop() == 0
    assert all_gone(seen[1]["pids"])


def test_an_adapter_that_could_not_be_loaded_is_loaded_once_it_is_mended(stand_in):
    server = Server(stand_in / "data", options(stand_in)).start()

    def said(name):
        ended = server.wait(server.submit([line("r", "x", model=name)]).id)
        row = server.results(ended.output_file_id or ended.error_file_id)[0]
        return text_of(row) if ended.output_file_id else row["response"]["body"]["error"]["code"]

    try:
        adapter(stand_in, "second-2b", "torn")
        assert said("second-2b") == "adapter_not_loaded"
        adapter(stand_in, "second-2b", "whole now")
        assert said("second-2b") == "whole now:x"
        adapter(stand_in, "second-2b", "others")
        assert said("second-2b") == "adapter_changed"
    finally:
        server.stop()


def test_nothing_is_left_when_the_server_is_killed(stand_in):
    server = Server(stand_in / "data", options(stand_in)).start()
    server.stop(signal.SIGKILL)
    assert all_gone(lives(stand_in)[0]["pids"])


def test_a_vllm_that_cannot_start_is_one_error_with_the_end_of_its_log(stand_in):
    (stand_in / "broken").touch()
    ran = subprocess.run(command(stand_in / "data", options(stand_in)), capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2
    assert ran.stdout == ""
    message = ran.stderr[ran.stderr.index("arislab: ") :]
    assert "vLLM for 'tiny' ended before it answered" in message
    assert "RuntimeError: there is no such checkpoint" in message
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("argument", ["--api-key", "--api_key=k", "--port", "--host=0.0.0.0"])
def test_options_that_the_engine_sets_are_refused(tmp_path, argument):
    with pytest.raises(PrerequisiteError, match="is set by arislab serve"):
        VllmEngine("tiny", log_file=tmp_path / "vllm.log", arguments=[argument, "x"])


def test_a_python_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PrerequisiteError, match="cannot be executed"):
        VllmEngine("tiny", log_file=tmp_path / "vllm.log", python=str(tmp_path / "none"))
