"""A real vLLM behind ``arislab serve --vllm``: opt-in by ARISLAB_EXPECT=vllm and ARISLAB_VLLM_PYTHON=<its Python>."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from toys import Server, ended, line, need, random_adapter, text_of

from arislab.system import processes

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["yes", "no"]}},
    "required": ["label"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
ON_A_CPU = ["--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.1"]
COMPACT = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']


def servers_of(server: Server, python: str) -> list[int]:
    """Pids of the vLLM that a server has started, without the watcher that leads their group, and of no other vLLM."""
    pids = []
    for pid, _ in processes.descendants(server.process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0] == python.encode() and b"vllm.entrypoints.openai.api_server" in words:
            pids.append(pid)
    return pids


@pytest.mark.filterwarnings("ignore")  # of torch and peft, while the adapter is made
def test_every_row_of_a_batch_comes_back_though_vllm_is_killed_in_the_middle(tmp_path):
    python = os.environ.get("ARISLAB_VLLM_PYTHON", "")
    need("vllm", present=shutil.which(python) is not None, why="ARISLAB_VLLM_PYTHON names no Python that has vLLM")
    random_adapter(tmp_path / "adapters" / "tuned-1a2b")
    options = {"vllm": "tiny", "vllm-python": python, "adapters": tmp_path / "adapters"}
    began = time.monotonic()
    server = Server(tmp_path / "data", options, words=("--", *ON_A_CPU, *COMPACT)).start()
    print(f"ready after {time.monotonic() - began:.1f} s; load {os.getloadavg()}")
    base, tuned = [model.id for model in server.client.models.list()]
    began = time.monotonic()
    limits = {"max_tokens": 32, "temperature": 0, "response_format": FORMAT}
    rows = [line(f"r-{i}", f"Is {i} even?", model=[base, tuned][i % 2], **limits) for i in range(1000)]
    batch = server.submit(rows)
    batch = server.wait(batch.id, until=lambda b: b.request_counts.completed >= 200, timeout_s=120)
    killed = servers_of(server, python)
    print(f"kill -9 {killed} at {batch.request_counts.completed} rows, {time.monotonic() - began:.1f} s")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    batch = server.wait(batch.id, timeout_s=400)
    print(f"{batch.status}: {batch.request_counts}, {time.monotonic() - began:.1f} s; load {os.getloadavg()}")
    answers = {row["custom_id"]: json.loads(text_of(row)) for row in server.results(batch.output_file_id)}
    assert killed
    assert answers.keys() == {row["custom_id"] for row in rows}
    assert all(answer in ({"label": "yes"}, {"label": "no"}) for answer in answers.values())
    assert server.log.read_text().count("INFO isolation: ") == 1, (
        "examined before the first mixed use, and not after the kill"
    )
    # each answer of a mixed batch is the one that its model gives alone, whatever this vLLM does with mixed requests
    free = {"max_tokens": 24, "temperature": 0}
    asked = [(i, name) for i in range(16) for name in (base, tuned)]
    alone = {
        ask: server.client.chat.completions.create(
            model=ask[1], messages=[{"role": "user", "content": f"Tell {ask[0]}."}], **free
        )
        .choices[0]
        .message.content
        for ask in sorted(asked, key=lambda ask: ask[1])
    }
    n_differ = sum(alone[i, base] != alone[i, tuned] for i in range(16))
    assert n_differ >= 4, "the adapter must change something, or nothing can be seen"
    both = [line(f"f-{i}-{name}", f"Tell {i}.", model=name, **free) for i, name in asked]
    free_batch = server.wait(server.submit(both).id, timeout_s=120)
    texts = {row["custom_id"]: text_of(row) for row in server.results(free_batch.output_file_id)}
    other = {base: tuned, tuned: base}
    turned = [
        (i, name)
        for i, name in asked
        if alone[i, base] != alone[i, tuned] and texts[f"f-{i}-{name}"] == alone[i, other[name]]
    ]
    verdict = server.client.post("/arislab/isolation", body={"models": [base, tuned]}, cast_to=object)
    print(
        f"{verdict['verdict']}: {verdict['n_turned']} of {verdict['n_could_show']} turned, {verdict['seconds']} s; "
        f"{n_differ} of 16 differ"
    )
    assert turned == []
    assert verdict["verdict"] in ("isolated", "mixes")
    last = servers_of(server, python)
    assert server.stop() == 0
    assert last
    assert all(map(ended, last))
