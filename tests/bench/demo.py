"""`arislab demo` from an empty root: seconds by phase, peak memory of all its processes together, import time.

Prints JSON.

    python tests/bench/demo.py [--seed 1]

Memory is the sum of the proportional set sizes (/proc/*/smaps_rollup) of the command and its descendants, looked at
every two
seconds: shared pages count once. The ratio is the demo's wall time over its own CPU time per core, both from the same
    run.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def family(pid):
    """The process and its descendants."""
    processes, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        processes.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += [int(x) for x in task.read_text().split()]
            except OSError:
                continue
    return processes


def pss_mb(pid):
    """Proportional set size of one process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def main():
    """Run the demo once, and the import in five fresh processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    code = "import time; t = time.perf_counter(); import arislab; print(time.perf_counter() - t)"
    imports = sorted(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    )
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as root:
        began, peak = time.perf_counter(), 0.0
        demo = subprocess.Popen(
            [sys.executable, "-m", "arislab", "demo", "--seed", arguments.seed, "--root", root],
            stdout=subprocess.DEVNULL,
        )
        while demo.poll() is None:
            peak = max(peak, sum(map(pss_mb, family(demo.pid))))
            time.sleep(2)
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        listed = subprocess.run(
            [sys.executable, "-m", "arislab", "runs", "--json", "--root", root],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    cpu = used.ru_utime + used.ru_stime
    print(
        json.dumps(
            {
                "exit": demo.returncode,
                "seed": arguments.seed,
                "wall_s": round(wall, 1),
                "cpu_s": round(cpu, 1),
                "wall_over_cpu_per_core": round(wall / (cpu / (os.cpu_count() or 1)), 2),
                "phase_s": {run["phase"]: round(run["duration_s"], 1) for run in reversed(json.loads(listed))},
                "peak_pss_mb": round(peak),
                "import_arislab_s": {"median": round(imports[2], 3), "worst_of_5": round(imports[-1], 3)},
                "load_before": load,
                "cores": os.cpu_count(),
                "versions": {
                    n: importlib.metadata.version(n)
                    for n in ("torch", "transformers", "trl", "peft", "papermill", "polars")
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
