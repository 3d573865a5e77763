"""Kill -9 at random moments, server and client in turn, and look for what was lost, doubled, or asked twice.

python tests/bench/durability.py [--lines 20000] [--kills 50] [--seed 0] [--ray 2]

A mock upstream in this process counts how often each request reaches it. `arislab serve --upstream` stands in front of
it; a client process builds the requests, submits, waits, collects and writes to a lake. A killed process is started
again at once. With `--ray N` the server has N replicas on a Ray of its own and two upstreams, and it and a replica are
killed in turn. Then the same is done undisturbed, in fresh folders, and the two tables are compared. Prints one JSON;
exit code 1 if anything was lost or doubled.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import polars as pl
from aiohttp import web

from arislab import batch
from arislab.lake import Lake

COLUMNS = ["custom_id", "candidate_id", "status", "llm_output", "finish_reason", "prompt_tokens", "completion_tokens"]


class Mock:
    """A chat server that answers every prompt with its reverse, after a while, and counts."""

    def __init__(self, delay_s):
        self.asked, self.last_at, self.delay_s, self.busy = Counter(), 0.0, delay_s, 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()
        self.ready.wait()

    def serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.begin())
        self.ready.set()
        self.loop.run_forever()

    async def begin(self):
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        for _ in range(2):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.urls = [f"http://127.0.0.1:{port}/v1" for _, port in runner.addresses]

    async def models(self, _):
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def chat(self, request):
        text = (await request.json())["messages"][-1]["content"]
        self.asked[text] += 1
        self.last_at = time.monotonic()
        self.busy += 1
        try:
            await asyncio.sleep(self.delay_s * random.uniform(0.5, 1.5))
        finally:
            self.busy -= 1
        message = {"role": "assistant", "content": text[::-1]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(text), "completion_tokens": len(text), "total_tokens": 2 * len(text)}
        return web.json_response({"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def ask(candidate):
    return [{"role": "user", "content": candidate["profile"]["text"]}]


def client(url, root, n):
    """What a notebook does; runs in a process of its own and may die anywhere."""
    people = pl.DataFrame(
        {
            "candidate_id": [f"c{i:06d}" for i in range(n)],
            "profile": [json.dumps({"text": f"profile {i}\u2028"}) for i in range(n)],
        }
    )
    requests = batch.build_requests(people, ask, model="m", max_tokens=64)
    server = batch.connect(url, folder=root / "b")
    table = Lake()["training_data_raw"]
    answered = table.read(columns=["custom_id", "status"]).filter(pl.col("status").is_in(batch.ANSWERED))["custom_id"]
    job = batch.submit(requests, server=server, folder=root / "b", answered=answered, max_lines=max(1, n // 8))
    table.upsert(job.wait(poll_s=0.2).collect().with_columns(task=pl.lit("bench")))


class Run:
    """One server and one client on folders of their own."""

    def __init__(self, root, mock, n, n_replicas=0):
        self.root, self.mock, self.n, self.n_replicas = root, mock, n, n_replicas
        root.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.ready_s, self.busy_s, self.n_again = [], [], 0
        self.start_server()
        self.start_client()

    def start_server(self):
        began = time.monotonic()
        command = [sys.executable, "-m", "arislab", "serve", "--data", str(self.root / "srv"), "--port", str(self.port)]
        command += ["--upstream", self.mock.urls[0], "--parent-pid", str(os.getpid())]
        if self.n_replicas:
            command += ["--upstream", self.mock.urls[1], "--ray", "local", "--replicas", str(self.n_replicas)]
        with (self.root / "server.log").open("a") as log:
            self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.server.stdout.readline()
        self.server.stdout.close()
        if not line:
            raise SystemExit((self.root / "server.log").read_text()[-2000:])
        self.ready = json.loads(line)
        self.ready_s.append(time.monotonic() - began)
        return began

    def kill_replica(self, chance):
        """Kill the actor of one replica; False if none is up."""
        ready = re.findall(r"replica (\d+) is ready after .*: process (\d+)", (self.root / "server.log").read_text())
        pids = [int(pid) for pid in dict(ready).values() if Path(f"/proc/{pid}").exists()]
        if pids:
            os.kill(chance.choice(pids), signal.SIGKILL)
        return bool(pids)

    def start_client(self):
        env = {
            **os.environ,
            "ARISLAB_ROOT": str(self.root),
            "ARISLAB_API_KEY": Path(self.ready["token_file"]).read_text().strip(),
        }
        command = [sys.executable, __file__, "--client", self.ready["url"], str(self.root), "--lines", str(self.n)]
        with (self.root / "client.log").open("a") as log:
            self.client = subprocess.Popen(command, stdout=log, stderr=log, env=env)

    def is_done(self):
        """Whether the client has ended well.

        One that stopped with an error is run again, as a user runs the cell again.
        """
        code = self.client.poll()
        if code not in (None, 0):
            self.n_again += 1
            if self.n_again > 100:
                raise SystemExit("the client ends with errors only: " + (self.root / "client.log").read_text()[-3000:])
            self.start_client()
        return code == 0

    def stop(self):
        self.server.terminate()
        self.server.wait(timeout=30)

    def rows(self):
        os.environ["ARISLAB_ROOT"] = str(self.root)
        return Lake()["training_data_raw"].read(columns=COLUMNS).sort("custom_id")


def disturbed(run, n_kills, chance):
    """Kill in turn until the client has ended; return the kills by kind, and what was in flight at them in all."""
    kills = Counter()
    other = "replica" if run.n_replicas else "client"
    in_flight = 0
    while not run.is_done():
        time.sleep(chance.uniform(0.05, 2.5))
        if kills.total() >= n_kills:
            continue
        in_flight += run.mock.busy
        if kills["server"] <= kills[other]:
            run.server.kill()
            run.server.wait()
            before = run.mock.last_at
            began = run.start_server()
            deadline = time.monotonic() + 10
            while run.mock.last_at == before and time.monotonic() < deadline:
                time.sleep(0.01)
            if run.mock.last_at != before:
                run.busy_s.append(time.monotonic() - began)
            kills["server"] += 1
        elif run.n_replicas:
            kills[other] += run.kill_replica(chance)
        elif not run.is_done():
            run.client.kill()
            run.client.wait()
            run.start_client()
            kills["client"] += 1
    return kills, in_flight


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay-s", type=float, default=1.0)
    parser.add_argument("--client", nargs=2)
    parser.add_argument("--ray", type=int, default=0, help="replicas on a Ray of the server's own")
    given = parser.parse_args()
    if given.client:
        client(given.client[0], Path(given.client[1]), given.lines)
        return
    with tempfile.TemporaryDirectory() as folder:
        mock = Mock(given.delay_s)
        began = time.monotonic()
        run = Run(Path(folder) / "disturbed", mock, given.lines, given.ray)
        kills, in_flight = disturbed(run, given.kills, random.Random(given.seed))
        disturbed_s, asked = time.monotonic() - began, mock.asked
        run.stop()
        mock.asked = Counter()
        began = time.monotonic()
        calm = Run(Path(folder) / "calm", mock, given.lines, given.ray)
        calm_kills, _ = disturbed(calm, 0, random.Random(given.seed))
        calm_s = time.monotonic() - began
        calm.stop()
        rows, wanted = run.rows(), calm.rows()
        lost = given.lines - rows.filter(pl.col("status") == "ok")["custom_id"].n_unique()
        doubled = rows.height - rows["custom_id"].n_unique()
        report = {
            "lines": given.lines,
            "kills": dict(kills),
            "cells_run_again_after_an_error": run.n_again,
            "lost": lost,
            "doubled": doubled,
            "equal_to_an_undisturbed_run": rows.equals(wanted),
            "lines_redone": asked.total() - len(asked),
            "in_flight_at_kills": in_flight,
            "redone_per_server_kill": round((asked.total() - len(asked)) / max(1, kills["server"]), 1),
            "lines_redone_undisturbed": mock.asked.total() - len(mock.asked),
            "server_ready_s": {"median": round(statistics.median(run.ready_s), 2), "max": round(max(run.ready_s), 2)},
            "resumed_s": {
                "median": round(statistics.median(run.busy_s), 2) if run.busy_s else None,
                "max": round(max(run.busy_s), 2) if run.busy_s else None,
                "n": len(run.busy_s),
            },
            "disturbed_s": round(disturbed_s, 1),
            "undisturbed_s": round(calm_s, 1),
            "load": os.getloadavg(),
            "python": platform.python_version(),
        }
        print(json.dumps(report, indent=1))
        good = not lost and not doubled and rows.equals(wanted) and kills.total() >= given.kills and not calm_kills
        raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
