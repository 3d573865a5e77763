"""Import of 170,000 recorded outputs here and in another checkout, in turns on the same machine.

Seconds and their ratio as JSON.

    git worktree add ../before COMMIT
    python tests/bench/import_170k.py --before ../before [--rows 170000] [--rounds 3]

Measured is what a user types: `arislab import FILE --as outputs` into an empty root, JSONL and CSV. The rows are those
of `curate_170k.py`.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from curate_170k import rows, sentences

HERE = Path(__file__).resolve().parents[2]


def seconds(checkout, file, root):
    """Wall and CPU seconds of one import with the code of a checkout."""
    task = ["--task", "instruction_following", "--input", "q", "--output", "a", "--model", "m"]
    command = [sys.executable, "-m", "arislab", "import", str(file), "--as", "outputs", *task, "--root", str(root)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(cpu, 2),
        "said": done.stdout.splitlines()[0],
    }


def main():
    """Import the same files with both, in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report = {"rows": arguments.rows}
    with tempfile.TemporaryDirectory() as folder:
        recorded = list(rows(arguments.rows, sentences("")))
        files = {kind: Path(folder) / f"outputs.{kind}" for kind in ("jsonl", "csv")}
        with files["jsonl"].open("w", encoding="utf-8") as out:
            out.writelines(json.dumps({"q": q, "a": a, "m": m}) + "\n" for q, a, m in recorded)
        with files["csv"].open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("q", "a", "m"), *recorded])
        for kind, file in files.items():
            runs = {"before": [], "here": []}
            for i in range(arguments.rounds):
                for name, checkout in (("before", arguments.before.resolve()), ("here", HERE)):
                    runs[name].append(seconds(checkout, file, Path(folder) / f"{kind}-{name}-{i}"))
            best = {name: min(run["cpu_s"] for run in rounds) for name, rounds in runs.items()}
            report[kind] = runs | {"ratio_of_least_cpu": round(best["here"] / best["before"], 2)}
    print(json.dumps(report | {"load": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()
