"""What ``batch.simulate`` says beside what the real way of a batch does, in front of a mock that fails as it is told.

python tests/bench/simulated.py [--calibrate 5000] [--only lognormal broken refused killed whole]

The mock upstream is a process of its own (``throughput.py``): 256 slots and 503 beyond, log-normal times (median 800
ms, 99 % below 6 s), or at once. `arislab serve` and the client are the real ones: ``batch.submit``, ``wait``,
``collect``.
Seconds a request of client and server are measured first, at 0 ms with another n, at the same load. One JSON line a
setting: predicted and measured, and their ratio; exit code 1 if a request has not exactly one answer.
"""

import argparse
import asyncio
import http.client
import json
import math
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl
import throughput
from end_to_end import ask

from arislab import batch

LOGNORMAL = {"slots": throughput.SLOTS, "median_s": 0.8, "spread": 7.5}
SETTINGS = {
    "lognormal": (20_000, LOGNORMAL),
    "broken": (20_000, {**LOGNORMAL, "fail_fraction": 0.01}),
    "refused": (150, {**LOGNORMAL, "refuse_fraction": 0.1, "retry_after_s": 1.0, "fail_fraction": 0.01}),
    "killed": (10_000, {**LOGNORMAL, "crash_after_s": 20.0, "down_s": 10.0}),
    "whole": (170_000, {"slots": 10**6, "median_s": 0.0}),
}
FAILED = throughput.answer("500 Internal Server Error", b'{"error":{"message":"it broke"}}')


class Failing(throughput.Mock):
    """A mock that also refuses and breaks off by chance."""

    def __init__(self, mode, retry_after_s, refuse_fraction, fail_fraction):
        super().__init__(mode, retry_after_s)
        more = "" if retry_after_s is None else f"retry-after: {retry_after_s:g}\r\n"
        self.chance, self.fail_fraction, self.refuse_fraction = random.Random(1), fail_fraction, refuse_fraction
        self.too_many = throughput.answer("429 Too Many Requests", b'{"error":{"message":"slow down"}}', more)
        self.n_failed = 0

    def serve(self, connection, head):
        if head.startswith(b"POST") and self.chance.random() < self.refuse_fraction:
            self.n_refused += 1
            connection.write(self.too_many)
        else:
            super().serve(connection, head)

    def end(self, connection):
        if self.chance.random() < self.fail_fraction:
            self.count(-1)
            self.n_failed += 1
            connection.write(FAILED)
        else:
            super().end(connection)

    def stats(self):
        return super().stats() | {"failed": self.n_failed}


async def serve_mock(given):
    mock = Failing(*given)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: throughput.Connection(mock), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, upstream, port):
    command = [sys.executable, "-m", "arislab", "serve", "--data", f"{folder}/srv", "--upstream", upstream]
    command += ["--port", str(port), "--parent-pid", str(os.getpid())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, json.loads(process.stdout.readline())


def measured(n, setting):
    """Send ``n`` requests through the real client and server; returns seconds by step and what the mock counted."""
    chosen = [
        "800ms" if setting["median_s"] else "0ms",
        setting.get("retry_after_s"),
        setting.get("refuse_fraction", 0.0),
        setting.get("fail_fraction", 0.0),
    ]
    mock = subprocess.Popen([sys.executable, __file__, "--mock", json.dumps(chosen)], stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARISLAB_ROOT"] = folder
        port = int(mock.stdout.readline())
        upstream, here = f"http://127.0.0.1:{port}/v1", free_port()
        process, ready = start(folder, upstream, here)
        running = [process]
        try:
            os.environ["ARISLAB_API_KEY"] = Path(ready["token_file"]).read_text().strip()
            text = json.dumps({"text": "twelve years as a statistician, knows SQL and Julia; " * 8})
            people = pl.DataFrame({"candidate_id": [f"c{i:06d}" for i in range(n)]}).with_columns(
                profile=pl.concat_str(pl.lit(text[:-2] + " "), "candidate_id", pl.lit('"}'))
            )
            requests = batch.build_requests(people, ask, model="m")
            server = batch.connect(ready["url"], folder=Path(folder) / "b")

            def kill():
                time.sleep(setting["crash_after_s"])
                running[0].send_signal(signal.SIGKILL)
                running[0].wait()
                time.sleep(setting["down_s"])
                running[0], _ = start(folder, upstream, here)

            began = time.monotonic()
            if "crash_after_s" in setting:
                threading.Thread(target=kill, daemon=True).start()
            job = batch.submit(requests, server=server, folder=Path(folder) / "b")
            sent = time.monotonic()
            job.wait()
            ended = time.monotonic()
            rows = job.collect()
            done = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/stats")
            stats = json.loads(connection.getresponse().read())
            connection.close()
            assert rows["custom_id"].n_unique() == rows.height == n
            n_answered = rows.filter(pl.col("status") == "ok").height
            job.ledger.close()
        finally:
            running[0].terminate()
            running[0].wait(timeout=30)
            mock.terminate()
            mock.wait(timeout=30)
    steps = {"submit": sent - began, "wait": ended - sent, "collect": done - ended}
    return {"n_answered": n_answered, "seconds": done - began, **steps}, stats


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calibrate", type=int, default=5_000, help="requests by which costs are measured first")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--mock", type=json.loads)
    given = parser.parse_args()
    if given.mock:
        return asyncio.run(serve_mock(given.mock))
    whole = True
    for name in given.only:
        n, setting = SETTINGS[name]
        steps, _ = measured(given.calibrate, {"median_s": 0.0})
        costs = {
            "client_ms": (1000 * steps["submit"] / given.calibrate, 1000 * steps["collect"] / given.calibrate),
            "server_ms": 1000 * steps["wait"] / given.calibrate,
        }
        said = batch.simulate(n, **setting, **costs)
        found, stats = measured(n, setting)
        whole &= found["n_answered"] == n
        pairs = {
            "seconds": (said.seconds, found["seconds"]),
            "calls": (said.n_calls, stats["taken"] + stats["refused"]),
            "refused": (said.n_refused, stats["refused"]),
            "failed": (said.n_failed, stats["failed"]),
            "twice": (said.n_twice, stats["taken"] - stats["failed"] - n),
        }
        report = {"setting": name, "n": n, "costs_ms": costs, "steps_s": found, "load": os.getloadavg()}
        report |= {what: {"predicted": round(a, 1), "measured": round(b, 1)} for what, (a, b) in pairs.items()}
        report["ratio_of_seconds"] = round(said.seconds / found["seconds"], 3)
        report["slots_busy"] = {
            "predicted": round(said.busy_fraction, 3),
            "measured": 1 - stats.get("slots_idle_percent", math.nan) / 100,
        }
        print(json.dumps(report), flush=True)
    print(json.dumps({"cores": os.cpu_count(), "python": platform.python_version()}))
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
