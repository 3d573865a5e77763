"""A large generate through the real server and client, with the echo engine, beside a floor.

170,000 requests become rows of the lake.

python tests/bench/end_to_end.py [--n 170000]

Prints one JSON: wall and CPU seconds by step (client, server), memory, bytes on disk, and the floor: the same request
bytes written to a file, and as many answer lines of the same size read back, parsed, and written as one Parquet file.
Of the client's memory each step has the largest that is anonymous (what the system cannot take back; looked at fifty
times a second), and the largest so far with pages of files (which it can).
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import orjson
import polars as pl

from arislab import batch
from arislab.lake import Lake
from arislab.system import spilled


def clock(pid):
    """CPU seconds of a process and its ended children, and its peak memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


class Anonymous(threading.Thread):
    """Looks at the anonymous memory of this process; ``peak_mb`` is the largest since it was set."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self.start()

    def run(self):
        """Look for as long as the process lives."""
        while True:
            status = Path("/proc/self/status").read_text().splitlines()
            now = next(line for line in status if line.startswith("RssAnon"))
            self.peak_mb = max(self.peak_mb, int(now.split()[1]) / 1024)
            time.sleep(0.02)


def people(n):
    """Candidates as a lake's are read: large ones from disk."""
    text = "twelve years as a statistician, knows SQL and Julia; " * 8

    def part(start):
        numbers = range(start, min(n, start + 10_000))
        profiles = [json.dumps({"text": f"{i}: {text}"}) for i in numbers]
        return pl.DataFrame({"candidate_id": [f"c{i:06d}" for i in numbers], "profile": profiles})

    return spilled.frames(map(part, range(0, n, 10_000)))


def ask(candidate):
    return [
        {"role": "system", "content": "Evaluate the candidate. " * 10},
        {"role": "user", "content": candidate["profile"]["text"]},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=170_000)
    n = parser.parse_args().n
    steps, anonymous = {}, Anonymous()

    def step(name, work):
        wall, cpu, anonymous.peak_mb = time.monotonic(), time.process_time(), 0.0
        out = work()
        _, peak = clock(os.getpid())
        steps[name] = {
            "wall_s": round(time.monotonic() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "anonymous_peak_mb": round(anonymous.peak_mb),
            "client_peak_mb": round(peak),  # so far
        }
        return out

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["ARISLAB_ROOT"] = folder
        command = [sys.executable, "-m", "arislab", "serve", "--data", folder + "/srv", "--engine", "echo"]
        command += ["--parent-pid", str(os.getpid())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            ready = json.loads(process.stdout.readline())
            os.environ["ARISLAB_API_KEY"] = Path(ready["token_file"]).read_text().strip()
            asked = people(n)
            requests = step("build_requests", lambda: batch.build_requests(asked, ask, model="echo"))
            server = batch.connect(ready["url"], folder=root / "b")
            job = step("submit", lambda: batch.submit(requests, server=server, folder=root / "b"))
            step("wait_and_fetch", job.wait)
            rows = step("collect", job.collect)
            table = Lake()["training_data_raw"]
            recorded = batch.Recorded(table.read(columns=batch.OUTCOMES), write=table.upsert)
            step("write_to_the_lake", lambda: recorded.add(rows.with_columns(task=pl.lit("bench"))))
            again = step(
                "resume_with_nothing_to_do", lambda: batch.submit(requests, server=server, folder=root / "b").account()
            )
            server_cpu, server_peak = clock(process.pid)
            _, client_peak = clock(os.getpid())  # without the floor, which holds all answers at once
            stored = table.read(columns=["custom_id", "status"])
            assert stored["custom_id"].n_unique() == stored.height == n == again["ok"], (stored.height, again)
            assert (rows["llm_output"] == rows["input"]).all()
            disk = {
                p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file())
                for p in (root / "b", root / "srv", root / "data")
            }
            sent, parts = ([*(root / "b" / kind).iterdir()] for kind in ("requests", "results"))

            def floor():
                with (root / "floor.jsonl").open("wb") as file:
                    for path in sent:
                        file.write(path.read_bytes())
                lines = (orjson.loads(line) for path in parts for line in path.read_bytes().split(b"\n") if line)
                texts = [(x["custom_id"], x["response"]["body"]["choices"][0]["message"]["content"]) for x in lines]
                pl.DataFrame(texts, schema=["custom_id", "llm_output"], orient="row").write_parquet(
                    root / "floor.parquet"
                )

            step("floor", floor)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
            process.stdout.close()
    total = sum(s["wall_s"] for name, s in steps.items() if name not in ("floor", "resume_with_nothing_to_do"))
    print(
        json.dumps(
            {
                "n": n,
                "steps": steps,
                "total_wall_s": round(total, 1),
                "requests_per_s": round(n / total),
                "times_the_floor": round(total / steps["floor"]["wall_s"], 1),
                "server_cpu_s": round(server_cpu, 1),
                "server_peak_mb": round(server_peak),
                "client_peak_mb": round(client_peak),
                "client_threads": threading.active_count(),
                "disk_bytes": disk,
                "load": os.getloadavg(),
                "python": platform.python_version(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
