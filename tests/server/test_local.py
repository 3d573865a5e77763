"""The engine of the embedded model, in processes that may be killed."""

import os
import re
import signal
from pathlib import Path

from toys import Server, line, text_of


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


def test_a_data_folder_with_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    data = tmp_path / ("n" * 120) / "data"
    data.parent.mkdir()
    server = Server(data, {"model": "tiny", "workers": 1}).start()
    try:
        assert server.client.models.list().data[0].id.startswith("arislab-tiny-")
    finally:
        assert server.stop() == 0
