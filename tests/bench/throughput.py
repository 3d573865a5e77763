"""Requests a second, CPU, memory and time to the first result of `arislab serve --upstream`, beside a floor and peers.

python tests/bench/throughput.py [--n 10000] [--peer-n 2000] [--repeats 3] [--peers DIR] [--skip-peers] [--only arislab
floor]

A mock upstream in a process of its own answers about 900 characters: at once ("0ms"), or after log-normal times (median
800 ms, 99 % below 6 s) with 256 slots and 503 beyond them ("800ms"). The k-th request that it takes gets the k-th time
of one seeded sequence, so all systems wait for the same sum. Each system runs in its own process, with 256 requests at
once; arislab finds the 256 by itself:

    arislab   the server behind Files + Batches, from the creation of the batch until it is completed, all results on
    disk floor     a loop of aiohttp and orjson that keeps nothing
    openai    AsyncOpenAI with a semaphore
    curator   bespokelabs-curator, online, its openai backend
    litellm   litellm.Router in process, with a semaphore

The last two are installed into throw-away environments, or into DIR, where they are found again. Ratios are of rates in
one round; at 0 ms openai, curator and litellm get --peer-n requests only (their ``n`` says so), as they are slow.
"memory" is one batch of 50,000 lines of 4 KB. Prints one JSON; exit code 1 if a line of a batch was not answered
exactly once.
"""

import argparse
import asyncio
import http.client
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import Counter
from pathlib import Path

SLOTS = 256
PEERS = {"curator": "bespokelabs-curator", "litellm": "litellm"}
SYSTEMS = ("arislab", "floor", "openai", *PEERS)
MEMORY_LINES, MEMORY_BYTES = 50_000, 4000  # 200 MB, the largest file that the protocol allows


# -- the mock upstream -------------------------------------------------------------------------------------------------


def answer(status, body, more=""):
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "x" * 900}, "finish_reason": "stop", "logprobs": None}
USAGE = {"prompt_tokens": 300, "completion_tokens": 200, "total_tokens": 500}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [CHOICE],
    "usage": USAGE,
}


class Mock:
    """Answers, waits, refuses and counts.

    ``mean`` is the integral of what was in flight from the first request to the last answer.
    """

    def __init__(self, mode, retry_after_s):
        self.times = random.Random(0) if mode == "800ms" else None
        self.slots = SLOTS if mode == "800ms" else math.inf
        more = "" if retry_after_s is None else f"retry-after: {retry_after_s}\r\n"
        self.refusal = answer("503 Service Unavailable", b'{"error":{"message":"all slots are taken"}}', more)
        self.chat = answer("200 OK", json.dumps(CHAT).encode())
        self.n_taken = self.n_refused = self.in_flight = self.most = 0
        self.began = self.changed = None
        self.area = 0.0

    def count(self, change):
        now = time.monotonic()
        self.began = self.began or now
        self.area += self.in_flight * (now - (self.changed or now))
        self.changed, self.in_flight = now, self.in_flight + change
        self.most = max(self.most, self.in_flight)

    def serve(self, connection, head):
        if head.startswith(b"GET"):
            is_stats = head.startswith(b"GET /stats")
            answered = self.stats() if is_stats else {"object": "list", "data": [{"id": "m", "object": "model"}]}
            connection.write(answer("200 OK", json.dumps(answered).encode()))
        elif self.in_flight >= self.slots:
            self.n_refused += 1
            connection.write(self.refusal)
        else:
            self.n_taken += 1
            self.count(1)
            if self.times is None:
                self.end(connection)
            else:
                sigma = math.log(6 / 0.8) / statistics.NormalDist().inv_cdf(0.99)
                delay_s = self.times.lognormvariate(math.log(0.8), sigma)
                asyncio.get_running_loop().call_later(delay_s, self.end, connection)

    def end(self, connection):
        self.count(-1)
        connection.write(self.chat)

    def stats(self):
        span_s = self.changed - self.began if self.began else 0.0
        figures = {
            "taken": self.n_taken,
            "refused": self.n_refused,
            "most_in_flight": self.most,
            "span_s": round(span_s, 2),
        }
        if self.times is not None and span_s:
            mean = self.area / span_s
            figures |= {"mean_in_flight": round(mean, 1), "slots_idle_percent": round(100 * (1 - mean / self.slots), 2)}
        return figures


class Connection(asyncio.Protocol):
    def __init__(self, mock):
        self.mock, self.buffer = mock, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            size = end + 4 + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self.buffer) < size:
                return
            method, self.buffer = self.buffer[:end], self.buffer[size:]
            self.mock.serve(self.transport, method)


async def serve_mock(mode, retry_after_s):
    mock = Mock(mode, retry_after_s)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(mock), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- clients that run in processes of their own ------------------------------------------------------------------------


def body(i, n_bytes):
    """A chat request of about ``n_bytes``."""
    messages = [{"role": "system", "content": "s" * (n_bytes // 3)}]
    messages.append({"role": "user", "content": f"{i:06d} " + "u" * (n_bytes - n_bytes // 3 - 250)})
    return {"model": "m", "messages": messages, "max_tokens": 200}


async def loop(n, call):
    """Run ``call(i)`` for all i, as many at once as there are slots."""
    order, first_s = iter(range(n)), []

    async def worker():
        for i in order:
            await call(i)
            if not first_s:
                first_s.append(time.monotonic() - began)

    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(SLOTS)))
    return {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu, "first_result_s": first_s[0]}


async def run_floor(url, n, n_bytes):
    import aiohttp
    import orjson

    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(i):
            data = orjson.dumps(body(i, n_bytes))
            async with session.post(url + "/chat/completions", data=data, headers=headers) as response:
                assert response.status == 200
                orjson.loads(await response.read())

        return await loop(n, call)


async def run_openai(url, n, n_bytes):
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", timeout=600) as client:
        return await loop(n, lambda i: client.chat.completions.create(**body(i, n_bytes)))


async def run_litellm(url, n, n_bytes):
    import litellm

    litellm.suppress_debug_info = True
    model = {"model": "hosted_vllm/m", "api_base": url, "api_key": "none"}
    router = litellm.Router(model_list=[{"model_name": "m", "litellm_params": model}], timeout=600)
    return await loop(n, lambda i: router.acompletion(**body(i, n_bytes)))


def run_curator(url, n, n_bytes):
    import litellm

    # curator counts tokens with a vocabulary that tiktoken would download; litellm brings it along
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers")
    from bespokelabs import curator

    unlimited = {"max_requests_per_minute": 10**9, "max_tokens_per_minute": 10**12, "max_concurrent_requests": SLOTS}
    limits = {**unlimited, "base_url": url, "api_key": "none"}
    llm = curator.LLM(model_name="m", backend="openai", backend_params=limits, generation_params={"max_tokens": 200})
    with tempfile.TemporaryDirectory() as folder:
        first_s = []

        def watch():  # results are kept line by line; the first one is there when its file is not empty
            while not any(path.stat().st_size for path in Path(folder).rglob("responses_*.jsonl")):
                time.sleep(0.02)
            first_s.append(time.monotonic() - began)

        prompts = [body(i, n_bytes)["messages"] for i in range(n)]
        began, cpu = time.monotonic(), time.process_time()
        threading.Thread(target=watch, daemon=True).start()
        rows = llm(prompts, working_dir=folder).dataset
        assert len(rows) == n, (len(rows), n)
        times = {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
    return {**times, "first_result_s": first_s[0]}


def client(name, url, n, n_bytes):
    run = globals()[f"run_{name}"](url, n, n_bytes)
    figures = asyncio.run(run) if asyncio.iscoroutine(run) else run
    print(json.dumps({**figures, "peak_mb": clock("self")[1]}))


# -- what is measured --------------------------------------------------------------------------------------------------


def clock(pid):
    """CPU seconds of a process and its ended children, and its peak memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def measure_arislab(url, n, n_bytes, folder):
    """One batch through a fresh server; polled every 50 ms, on one connection."""
    from openai import OpenAI

    command = [sys.executable, "-m", "arislab", "serve", "--data", str(folder / "srv"), "--upstream", url]
    command += ["--parent-pid", str(os.getpid())]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        ready = json.loads(process.stdout.readline())
        token = Path(ready["token_file"]).read_text().strip()
        api = OpenAI(base_url=ready["url"], api_key=token, max_retries=0)
        source = folder / "input.jsonl"
        with source.open("w") as file:
            for i in range(n):
                line = {"custom_id": f"r-{i:06d}", "method": "POST", "url": "/v1/chat/completions"}
                file.write(json.dumps({**line, "body": body(i, n_bytes - 80)}) + "\n")
        uploaded = api.files.create(file=source, purpose="batch")
        connection = http.client.HTTPConnection(ready["url"].split("/")[2])

        def state():
            connection.request("GET", f"/v1/batches/{batch.id}", headers={"Authorization": f"Bearer {token}"})
            return json.loads(connection.getresponse().read())

        began, (cpu_s, _), first_s = time.monotonic(), clock(process.pid), None
        batch = api.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
        while (now := state())["status"] not in ("completed", "failed", "expired", "cancelled"):
            if first_s is None and now["request_counts"]["completed"]:
                first_s = time.monotonic() - began
            time.sleep(0.05)
        wall_s, (end_cpu_s, peak_mb) = time.monotonic() - began, clock(process.pid)
        connection.close()
        times = {"wall_s": wall_s, "cpu_s": end_cpu_s - cpu_s, "first_result_s": first_s or wall_s, "peak_mb": peak_mb}
        rows = api.files.content(now["output_file_id"]).read().splitlines() if now["output_file_id"] else []
        answered = Counter(row["custom_id"] for row in map(json.loads, rows) if row["response"]["status_code"] == 200)
        wanted = Counter(f"r-{i:06d}" for i in range(n))
        return {**times, "each_line_once": answered == wanted and now["error_file_id"] is None}
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def measure_client(name, python, url, n, n_bytes, folder):
    quiet = {"TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    env = {**os.environ, **quiet, "HOME": str(folder), "CURATOR_DISABLE_RICH_DISPLAY": "1", "TQDM_DISABLE": "1"}
    command = [python, __file__, "--client", name, url, "--n", str(n), "--bytes", str(n_bytes)]
    try:
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired as error:
        return {"error": f"not done after {error.timeout:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(system, mode, n, n_bytes, given, pythons):
    """One run of one system in front of a fresh mock."""
    python = pythons.get(system, sys.executable)
    if isinstance(python, dict):
        return python
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--mock", mode]
        if given.retry_after is not None:
            command += ["--retry-after", str(given.retry_after)]
        mock = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(mock.stdout.readline())
            url, load = f"http://127.0.0.1:{port}/v1", os.getloadavg()[0]
            if system == "arislab":
                measured = measure_arislab(url, n, n_bytes, Path(folder))
            else:
                measured = measure_client(system, python, url, n, n_bytes, Path(folder))
            if "error" in measured:
                return {"n": n, **measured}
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/stats")
            stats = json.loads(connection.getresponse().read())
            connection.close()
        finally:
            mock.terminate()
            mock.wait(timeout=30)
            mock.stdout.close()
    rates = {"requests_per_s": n / measured["wall_s"], "cpu_ms_per_request": 1000 * measured["cpu_s"] / n}
    figures = {
        name: value if isinstance(value, bool) else round(value, 3) for name, value in {**rates, **measured}.items()
    }
    return {"n": n, **figures, "mock": stats, "load": round(load, 2)}


def install(folder, names):
    """Interpreter of each peer, or {"error": ...}."""
    pythons, versions = {}, {}
    for name in names:
        python = Path(folder) / name / "bin" / "python"
        if not python.exists():
            venv.create(python.parent.parent, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "install", "--quiet", PEERS[name]], capture_output=True, text=True)
        if done.returncode:
            pythons[name] = {"error": done.stderr.strip().splitlines()[-1][:300]}
            continue
        code = "import importlib.metadata as m, sys; print(*(m.version(x) for x in sys.argv[1:]))"
        packages = [PEERS[name], "openai", "aiohttp"]
        installed = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
        pythons[name], versions[name] = str(python), dict(zip(packages, installed.stdout.split(), strict=True))
    return pythons, versions


def summary(runs):
    """Median and range of each number, over the rounds."""
    numbers = ("requests_per_s", "cpu_ms_per_request", "first_result_s", "peak_mb", "wall_s")
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[0]["error"]}
    spreads = {name: spread([run[name] for run in good]) for name in numbers}
    idle = [run["mock"]["slots_idle_percent"] for run in good if "slots_idle_percent" in run["mock"]]
    more = {"slots_idle_percent": spread(idle)} if idle else {}
    return {"n": good[0]["n"], **spreads, **more, "refused": spread([run["mock"]["refused"] for run in good])}


def spread(values):
    kinds = {"median": statistics.median, "min": min, "max": max}
    return {name: float(f"{of(values):.4g}") for name, of in kinds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--peer-n", type=int, default=2000, help="requests of openai, curator and litellm at 0 ms")
    parser.add_argument("--bytes", type=int, default=1800, help="of one request")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=("0ms", "800ms", "memory"), default=["0ms", "800ms", "memory"])
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--skip-peers", action="store_true", help="no openai, curator, litellm")
    parser.add_argument("--peers", type=Path, help="where the environments of the peers are kept")
    parser.add_argument("--retry-after", type=float, help="seconds, in each refusal of the mock")
    parser.add_argument("--mock", choices=("0ms", "800ms"))
    parser.add_argument("--client", nargs=2)
    given = parser.parse_args()
    if given.mock:
        asyncio.run(serve_mock(given.mock, given.retry_after))
    elif given.client:
        client(*given.client, given.n, given.bytes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(given, given.peers or folder)


def compare(given, folder):
    systems = [name for name in given.only if name in ("arislab", "floor") or not given.skip_peers]
    pythons, versions = install(folder, [name for name in systems if name in PEERS])
    rounds = []
    for i in range(given.repeats):
        order = systems[i % len(systems) :] + systems[: i % len(systems)]
        rounds.append({mode: {} for mode in given.modes if mode != "memory"})
        for mode, runs in rounds[-1].items():
            for name in order:
                is_slow = mode == "0ms" and name not in ("arislab", "floor")
                n = min(given.n, given.peer_n) if is_slow else given.n
                runs[name] = measure(name, mode, n, given.bytes, given, pythons)
                print(f"round {i + 1}, {mode}, {name}: {json.dumps(runs[name])}", file=sys.stderr, flush=True)
    report = {"n": given.n, "bytes": given.bytes, "repeats": given.repeats, "concurrency": SLOTS}
    report |= {mode: {name: summary([r[mode][name] for r in rounds]) for name in systems} for mode in rounds[0]}
    every = [run for r in rounds for runs in r.values() for name, run in runs.items() if name == "arislab"]
    if "memory" in given.modes and "arislab" in systems:
        every.append(measure("arislab", "0ms", MEMORY_LINES, MEMORY_BYTES, given, pythons))
        report["memory"] = every[-1]
    report |= {"times_as_fast_as": ratios(rounds), "goals": goals(report, rounds)}
    here = {name: importlib.metadata.version(name) for name in ("arislab", "aiohttp", "openai", "uvicorn", "orjson")}
    report |= {"versions": {**here, **versions}, "load": os.getloadavg(), "cores": os.cpu_count()}
    print(json.dumps({**report, "python": platform.python_version()}, indent=1))
    raise SystemExit(0 if all(run["each_line_once"] for run in every) else 1)


def ratios(rounds):
    """Requests a second of arislab over those of each other system, in the same round."""
    spreads = {}
    for mode, runs in rounds[0].items():
        for name in runs.keys() - {"arislab"} if "arislab" in runs else ():
            pairs = [(r[mode]["arislab"], r[mode][name]) for r in rounds if "error" not in r[mode][name]]
            if pairs:
                spreads.setdefault(mode, {})[name] = spread(
                    [a["requests_per_s"] / b["requests_per_s"] for a, b in pairs]
                )
    return spreads


def goals(report, rounds):
    """Value, bound, and whether it is met; only what was measured."""
    fast, times = report.get("0ms", {}).get("arislab"), ratios(rounds)
    reached = {}
    if fast:
        reached["requests_per_s_at_0ms"] = (fast["requests_per_s"]["median"], ">=", 2000)
        reached["cpu_ms_per_request_at_0ms"] = (fast["cpu_ms_per_request"]["median"], "<=", 0.3)
    if "floor" in times.get("800ms", {}):
        reached["of_the_floor_at_800ms"] = (times["800ms"]["floor"]["median"], ">=", 0.98)
    if "memory" in report:
        reached["peak_mb_of_50000_lines_of_4_kb"] = (round(report["memory"]["peak_mb"]), "<=", 200)
    for mode, peers in times.items():
        for name in peers.keys() - {"floor"}:
            reached[f"times_as_fast_as_{name}_at_{mode}"] = (peers[name]["median"], ">=", 1)
    return {
        name: {"value": value, "goal": f"{sign} {bound}", "met": value >= bound if sign == ">=" else value <= bound}
        for name, (value, sign, bound) in reached.items()
    }


if __name__ == "__main__":
    main()
