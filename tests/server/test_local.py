"""The engine of the embedded model, in processes that may be killed."""

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from toys import Server, ended, line, text_of

from arislab.server.engines import base
from arislab.server.engines.local import CHUNKS, LocalEngine, chunk_of
from arislab.system import processes
from arislab.tiny.decoder import MODEL_DIR, base_name


@pytest.mark.slow
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


def generated(requests, *, seen=lambda engine, results: None):
    """The results of one chunk in the order in which they came; ``seen`` is called after each."""

    async def run():
        engine, results = LocalEngine(MODEL_DIR, adapters=None, workers=1), []

        def emit(result):
            results.append(result)
            seen(engine, results)

        await engine.start()
        try:
            await engine.run(requests, emit)
        finally:
            await engine.stop()
        return results

    return asyncio.run(run())


def chunk(n, **fields):
    """``n`` requests, the last with the shortest answer."""
    asked = {"model": base_name(MODEL_DIR), "temperature": 1.5, **fields}
    return [
        base.Request(i, f"r-{i}", line("", f"candidate {i}", **{"max_tokens": 4 * (n - i), **asked})["body"], 0)
        for i in range(n)
    ]


def content(result):
    return json.loads(result.body)["choices"][0]["message"]["content"]


def test_an_answer_is_given_while_its_siblings_are_still_written() -> None:
    is_busy = []
    results = generated(chunk(30), seen=lambda engine, results: is_busy.append(engine._idle.empty()))
    assert all(is_busy[:10])
    assert results[0].line != 0, "the longest is not waited for"
    assert sorted(result.line for result in results) == list(range(30))


def test_a_worker_that_dies_amid_a_chunk_costs_no_answer_and_gives_none_twice() -> None:
    undisturbed, killed = generated(chunk(30)), []

    def kill(engine, results):
        if not killed:
            killed.append(engine._workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    revived = generated(chunk(30), seen=kill)
    assert killed
    assert sorted(revived) == sorted(undisturbed)


def test_lines_of_workers_that_die_twice_are_failures_and_what_was_given_stays() -> None:
    killed = []

    def kill(engine, results):
        pid = engine._workers[-1].process.pid
        if pid not in killed and len(killed) < 2 and results[-1].status == 200:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    results = sorted(generated(chunk(30), seen=kill))
    assert [result.line for result in results] == list(range(30))
    given = [result for result in results if result.status == 200]
    assert 2 <= len(given) < 30
    assert all(b"worker_died" in result.body for result in results if result not in given)


@pytest.mark.slow
def test_a_signal_that_reaches_all_processes_costs_no_line(tmp_path: Path) -> None:
    """As whoever ends a run sends it: to the workers and their fork server too, before the server has stopped."""
    server = Server(tmp_path / "data", {"model": "tiny", "workers": 2}).start()
    name = server.client.models.list().data[0].id
    lines = [line(f"r-{i}", f"candidate {i}", model=name, max_tokens=60) for i in range(400)]
    batch = server.submit(lines)
    server.wait(batch.id, until=lambda b: b.request_counts.completed > 0)
    others = [pid for pid, _ in processes.descendants(server.process.pid)]
    assert len(others) >= 3
    for pid in others:
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert "died" not in server.log.read_text()
    assert server.stop() == 0
    assert all(ended(pid) for pid in others)
    server.start()
    whole = server.wait(batch.id, timeout_s=120)
    assert (whole.request_counts.completed, whole.request_counts.failed) == (400, 0)
    assert server.stop() == 0


def test_a_stop_text_ends_the_answer_at_the_server_too() -> None:
    (whole,) = generated(chunk(1, temperature=0, max_tokens=60))
    text = content(whole)
    (short,) = generated(chunk(1, temperature=0, max_tokens=60, stop=["never", text[20:26]]))
    answer = json.loads(short.body)
    assert (content(short), answer["choices"][0]["finish_reason"]) == (text[: text.index(text[20:26])], "stop")
    assert answer["usage"]["completion_tokens"] < json.loads(whole.body)["usage"]["completion_tokens"]


def test_settings_that_the_template_does_not_read_are_refused_by_name() -> None:
    (refused,) = generated(chunk(1, chat_template_kwargs={"enable_thinking": False}))
    error = json.loads(refused.body)["error"]
    assert (refused.status, error["code"]) == (400, "unsupported_parameter")
    assert "does not read 'enable_thinking'" in error["message"]


@pytest.mark.parametrize(("n_bytes", "lines"), [(3_744_208, 128), (538_090_408, 32), (2_500_000_000, 8)])
def test_a_chunk_is_small_where_the_model_is_large(tmp_path: Path, n_bytes: int, lines: int) -> None:
    for i in range(2):
        with (tmp_path / f"model-{i}.safetensors").open("wb") as file:
            file.truncate(n_bytes // 2)
    assert chunk_of(tmp_path) == lines
    assert list(CHUNKS.values()) == sorted(CHUNKS.values(), reverse=True)


@pytest.mark.slow
def test_a_data_folder_with_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    data = tmp_path / ("n" * 120) / "data"
    data.parent.mkdir()
    server = Server(data, {"model": "tiny", "workers": 1}).start()
    try:
        assert server.client.models.list().data[0].id.startswith("arislab-tiny-")
    finally:
        assert server.stop() == 0
