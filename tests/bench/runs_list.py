"""List ten thousand run records: the first time, again, filtered, and by the command line with Python's own start.

python tests/bench/runs_list.py [--runs 10000] [--record papermill_runs/example/evaluate/run.json]

The records are copies of a real one under other names. Prints one JSON; milliseconds of wall and of this
process's CPU, medians of seven calls.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent.parent


def median_ms(work, n=7):
    took = []
    for _ in range(n):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        took.append(((time.perf_counter() - began) * 1000, (time.process_time() - cpu) * 1000))
    return {"wall": round(statistics.median(t[0] for t in took)), "cpu": round(statistics.median(t[1] for t in took))}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--record", type=Path, default=HERE / "papermill_runs" / "example" / "evaluate" / "run.json")
    given = parser.parse_args()
    from arislab.records import diff as run_diff
    from arislab.records import find as records

    real = json.loads(given.record.read_text())
    with tempfile.TemporaryDirectory() as folder:
        root, phases = Path(folder), ("generate", "curate", "icl", "finetune", "evaluate")
        for number in range(given.runs):
            second = f"{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}"
            name = f"20260101T{second}Z-{phases[number % 5]}-{number:04x}"
            made = root / "papermill_runs" / name
            made.mkdir(parents=True)
            (made / "run.json").write_text(json.dumps(real | {"run_id": name, "phase": phases[number % 5]}))
        began = time.perf_counter()
        n = len(records.as_json(root))
        first_ms = (time.perf_counter() - began) * 1000
        assert n == given.runs
        command = [sys.executable, "-m", "arislab", "runs", "--root", folder]

        def call(*words):
            subprocess.run([*command, *words], check=True, capture_output=True)

        start = [sys.executable, "-c", "import arislab.cli.listing"]
        report = {
            "runs": n,
            "first_list_ms": round(first_ms),
            "newest_50_ms": median_ms(lambda: records.select(root, limit=50)),
            "filter_ms": median_ms(lambda: records.select(root, where="phase = 'icl' and baseline > 0.5", limit=50)),
            "sort_ms": median_ms(lambda: records.select(root, sort="finetuned", limit=50)),
            "all_ms": median_ms(lambda: records.as_json(root)),
            "command_ms": median_ms(lambda: call()),
            "command_filter_ms": median_ms(lambda: call("--where", "phase = 'icl' and baseline > 0.5")),
            "command_sort_ms": median_ms(lambda: call("--sort", "finetuned")),
            "of_these_python_and_imports_ms": median_ms(lambda: subprocess.run(start, check=True)),
            "diff_ms": median_ms(lambda: run_diff.diff(records.find(root, name), records.find(root, name))),
            "index_bytes": (root / "papermill_runs" / ".index.sqlite").stat().st_size,
            "load": os.getloadavg(),
            "python": platform.python_version(),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
