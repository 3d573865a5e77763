"""``arislab serve --ray`` on a real Ray: replicas, nodes and the server itself are killed, and each line is kept once.

Ray takes ten seconds of a core to start and its own limit is 15; so one cluster is shared by most tests here.
"""

import importlib.util
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from toys import CHECKOUT, Server, Upstream, command, line, need, text_of

from arislab.errors import PrerequisiteError
from arislab.server.engines import choose
from arislab.server.engines.ray import gpus_of
from arislab.system.imports import jsonschema

HAS_RAY = importlib.util.find_spec("ray") is not None
N = 1500
HEAD = """
import sys, time
from ray.cluster_utils import Cluster
# the raylets write errors of their own to stderr, and everything is gone with this process
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(int(sys.argv[1]))]
print(cluster.address, flush=True)
for word in sys.stdin:
    node = {one.node_id: one for one in nodes}[word.strip()]
    cluster.remove_node(node, allow_graceful=False)
    print("gone", flush=True)
cluster.shutdown()
"""


class Cluster:
    """A Ray of several nodes in another process, with a GPU each that is only said to be there."""

    def __init__(self, n_workers: int) -> None:
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD, str(n_workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | self.env,
            text=True,
        )
        self.address = self.line()

    def line(self) -> str:
        """The next line of its own, between what Ray prints."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            if re.fullmatch(r"[\d.]+:\d+|gone", said.strip()):
                return said.strip()
        raise AssertionError("Ray did not start: is a core free?")

    def lose(self, node: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(node + "\n")
        self.process.stdin.flush()
        assert self.line() == "gone"

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def cluster():
    need("ray", present=HAS_RAY, why='Ray is not installed (pip install "arislab[ray]")')
    made = Cluster(2)
    yield made
    made.stop()


@pytest.fixture
def upstreams():
    servers = [Upstream(), Upstream()]
    yield servers
    for server in servers:
        server.stop()


def replicas(server: Server) -> dict[int, tuple[int, str]]:
    """Process and node of each replica, of its latest life."""
    ready = re.findall(r"replica (\d+) is ready after .*: process (\d+), node (\w+)", server.log.read_text())
    return {int(number): (int(pid), node) for number, pid, node in ready}


def until(what, *, within_s=60):
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """A process that nobody has taken note of yet, as its parent is gone, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kept(server: Server, batch) -> dict[str, list]:
    """Every line of a batch that has ended: custom_id -> its lines."""
    lines: dict[str, list] = {}
    for row in server.results(batch.output_file_id) + server.results(batch.error_file_id):
        lines.setdefault(row["custom_id"], []).append(row)
    return lines


def test_server_replica_and_node_are_lost_and_each_line_is_there_once(cluster, upstreams, tmp_path):
    options = {"upstream": [one.url for one in upstreams], "ray": cluster.address, "replicas": 4}
    server = Server(tmp_path / "data", options, env=cluster.env).start()
    kinds = ["fine"] * 36 + ["400", "429once", "500once", "droponce"]
    batch = server.submit([line(f"r-{i}", f"{i} {kinds[i % 40]}", model="m") for i in range(N)])

    def go_on(goal):
        server.wait(batch.id, until=lambda b: b.request_counts.completed >= goal, timeout_s=60)

    try:
        go_on(100)
        number, first = next(iter(replicas(server).items()))  # whichever was ready first
        os.kill(first[0], signal.SIGKILL)
        until(lambda: replicas(server)[number] != first)
        go_on(500)
        server.stop(signal.SIGKILL)
        server.start()
        go_on(900)
        until(lambda: len(replicas(server)) == 4)
        away = next(node for _, node in replicas(server).values() if is_worker(cluster, node))
        cluster.lose(away)
        batch = server.wait(batch.id, timeout_s=90)
        lines = kept(server, batch)
        assert sorted(lines, key=lambda name: int(name[2:])) == [f"r-{i}" for i in range(N)]
        assert {len(rows) for rows in lines.values()} == {1}
        refused = [name for name, (row,) in lines.items() if row["response"]["status_code"] != 200]
        assert refused == [f"r-{i}" for i in range(N) if kinds[i % 40] == "400"]
        (row,) = lines[refused[0]]
        assert row["response"]["status_code"] == 400
        assert row["response"]["body"] == {"error": {"message": "no", "code": "bad"}}
        assert all(text_of(lines[f"r-{i}"][0]) == f"{i} fine" for i in range(36))
        until(lambda: away not in {node for _, node in replicas(server).values()})
        asked = [one.tries for one in upstreams]
        again = sum(n for tries in asked for text, n in tries.items() if text.endswith((" fine", " 400")))
        # three deaths, each with at most what the replicas that died may have had
        assert again - sum(kinds[i % 40] in ("fine", "400") for i in range(N)) <= 4 * 512
        assert all(tries for tries in asked), "both upstreams are asked"
        assert server.stop() == 0
    finally:
        server.process.kill()


def is_worker(cluster: Cluster, node: str) -> bool:
    """Whether a node may be lost without the head."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.get_runtime_context().get_node_id())"
    if not hasattr(cluster, "head"):
        done = subprocess.run(
            [sys.executable, "-c", code, cluster.address],
            capture_output=True,
            text=True,
            env=os.environ | cluster.env,
            check=True,
        )
        cluster.head = done.stdout.strip().splitlines()[-1]
    return node != cluster.head


def test_who_has_no_token_cannot_reach_a_ray_and_is_told_so(cluster, upstreams, tmp_path):
    options = {"upstream": upstreams[0].url, "ray": cluster.address}
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    ran = subprocess.run(
        command(tmp_path / "data", options), capture_output=True, text=True, timeout=90, env=env, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"Ray cannot be reached at '{cluster.address}'" in ran.stderr
    assert "Traceback" not in ran.stderr


FAKE = (Path(__file__).parent / "test_vllm.py").read_text().split('VLLM = r"""')[1].split('"""')[0]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_each_replica_starts_a_vllm_on_a_gpu_of_its_own_and_none_outlives_the_server(cluster, tmp_path, end):
    program = 'import os; print("GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)\n' + FAKE
    (tmp_path / "vllm.py").write_text(program)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexport STAND_IN="{tmp_path}"\nshift 2\nexec "{sys.executable}" "{tmp_path / "vllm.py"}" "$@"\n'
    )
    python.chmod(0o700)
    options = {"vllm": "tiny", "vllm-python": python, "ray": cluster.address, "replicas": 2}
    server = Server(tmp_path / "data", options, env=cluster.env).start()
    try:
        until(lambda: len(replicas(server)) == 2)
        (base,) = [model.id for model in server.client.models.list()]
        batch = server.submit([line(f"r-{i}", str(i), model=base) for i in range(400)])
        server.wait(batch.id, until=lambda b: b.request_counts.completed >= 50)
        lives = [json.loads(row) for row in (tmp_path / "lives").read_text().splitlines()]
        actor = replicas(server)[1][0]
        alone = next(pid for pid in (life["pids"][0] for life in lives) if parent(parent(pid)) != actor)
        os.kill(alone, signal.SIGKILL)  # vLLM alone: its actor starts it again
        os.kill(actor, signal.SIGKILL)  # an actor: Ray does
        batch = server.wait(batch.id, timeout_s=90)
        lines = kept(server, batch)
        assert {name: text_of(row) for name, (row,) in lines.items()} == {f"r-{i}": f"base:{i}" for i in range(400)}
        nodes = {node for _, node in replicas(server).values()}
        assert len(nodes) == 2, "each node has one GPU"
        until(lambda: len((tmp_path / "lives").read_text().splitlines()) == 4)  # two of each replica
        assert server.stop(end) == (0 if end == signal.SIGTERM else -end)
    finally:
        server.process.kill()
    lives = [json.loads(row) for row in (tmp_path / "lives").read_text().splitlines()]
    until(lambda: not any(is_alive(pid) for life in lives for pid in life["pids"]))


def test_replicas_leave_a_node_that_is_drained_and_no_line_is_asked_twice(cluster, upstreams, tmp_path):
    """The last test of the cluster: the node takes nothing more."""
    options = {"upstream": [one.url for one in upstreams], "ray": cluster.address, "replicas": 4}
    server = Server(tmp_path / "data", options, env=cluster.env).start()
    try:
        until(lambda: len(replicas(server)) == 4)
        away = next(node for _, node in replicas(server).values() if is_worker(cluster, node))
        batch = server.submit([line(f"r-{i}", f"{i} fine", model="m") for i in range(N)])
        server.wait(batch.id, until=lambda b: b.request_counts.completed >= 50)
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        drain = ["drain-node", "--address", cluster.address, "--node-id", away, *why]
        drain += ["--deadline-remaining-seconds", "300"]
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *drain],
            env=os.environ | cluster.env,
            check=True,
            capture_output=True,
        )
        until(lambda: away not in {node for _, node in replicas(server).values()})
        assert server.wait(batch.id, timeout_s=90).request_counts.completed == N
        assert sum(n for one in upstreams for n in one.tries.values()) == N
        assert server.stop() == 0
    finally:
        server.process.kill()


def test_a_ray_of_its_own_warns_writes_no_token_and_ends_with_the_server(upstreams, tmp_path):
    need("ray", present=HAS_RAY, why='Ray is not installed (pip install "arislab[ray]")')
    home = tmp_path / "home"
    home.mkdir()
    options = {"upstream": [one.url for one in upstreams], "ray": "local"}
    server = Server(tmp_path / "data", options, env={"HOME": str(home)}).start()
    try:
        batch = server.wait(server.submit([line(f"r-{i}", f"{i} fine", model="m") for i in range(50)]).id)
        assert batch.request_counts.completed == 50
        assert "listen on all interfaces" in server.log.read_text()
        assert not (home / ".ray").exists()
    finally:
        server.stop(signal.SIGKILL)
    pids = [pid for pid, _ in replicas(server).values()]
    assert len(pids) == 2
    until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ray": "local"}, "has nothing to place; add --upstream URL or --vllm MODEL"),
        ({"replicas": 2, "upstream": ["http://127.0.0.1:1/v1"]}, "--replicas 2 is for Ray only"),
    ],
)
def test_options_that_do_not_fit_are_one_error(tmp_path, options, words):
    given = {"model": None, "adapters": None, "upstream": (), "workers": None} | options
    with pytest.raises(PrerequisiteError, match=re.escape(words)):
        choose.make_engine(**given, data=tmp_path)


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match=re.escape('pip install "arislab[ray]"')):
        choose.make_engine(model=None, adapters=None, upstream=["http://127.0.0.1:1/v1"], workers=None, ray="local")


def test_fewer_replicas_than_upstreams_are_refused():
    need("ray", present=HAS_RAY, why='Ray is not installed (pip install "arislab[ray]")')
    urls = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    with pytest.raises(PrerequisiteError, match="leaves some of 2"):
        choose.make_engine(model=None, adapters=None, upstream=urls, workers=None, ray="local", replicas=1)


def test_an_odd_parallel_size_is_refused():
    with pytest.raises(PrerequisiteError, match="must be 1 or more, got 'x'"):
        gpus_of(["--tensor-parallel-size", "x"])


# -- the configuration that is shipped


def shipped() -> list[dict]:
    return list(yaml.safe_load_all((CHECKOUT / "notebooks" / "guide" / "kuberay.yaml").read_text()))


def problems(job: dict) -> list[str]:
    schema = json.loads((CHECKOUT / "tests" / "fixtures" / "rayjob.schema.json").read_text())
    return [error.message for error in jsonschema().Draft202012Validator(schema).iter_errors(job)]


def test_the_kuberay_configuration_is_what_the_operator_takes_and_has_eight_gpus():
    job = next(one for one in shipped() if one["kind"] == "RayJob")
    assert problems(job) == []
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == 8
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_a_misspelt_field_of_the_configuration_is_seen():
    job = next(one for one in shipped() if one["kind"] == "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "password"
    assert len(problems(job)) == 2


def test_the_server_that_the_configuration_starts_has_the_options_that_it_gives():
    job = next(one for one in shipped() if one["kind"] == "RayJob")
    words = re.findall(r"--[a-z-]+", job["spec"]["entrypoint"].partition(" -- ")[0])
    asked = [sys.executable, "-m", "arislab", "serve", "--help"]
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=env)
    assert words
    assert [word for word in words if word not in done.stdout] == []
