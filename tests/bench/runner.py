"""What recording a run costs: 200 cells by bare nbclient, by plain papermill, by our engine, as a whole recorded run.

python tests/bench/runner.py [--cells 200] [--repeats 5] [--cost 0.0]

Each system runs the same notebook in a process of its own, with its imports done before the clock starts; the order is
turned each repeat. CPU is that of the runner, without the kernel's. Prints one JSON: medians with the range, and ratios
to nbclient by repeat.
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
from importlib.metadata import version
from pathlib import Path

SYSTEMS = ("nbclient", "papermill", "engine", "recorded run")


def notebook(path, n, cost_s):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    work = f"import time; until = time.monotonic() + {cost_s}\nwhile time.monotonic() < until: pass\n" if cost_s else ""
    cells = [new_code_cell("x: int = 0  # start"), *(new_code_cell(f"{work}print({i})\n{i} + x") for i in range(n))]
    cells[0]["metadata"]["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def measure(system, path):
    """Run one system; returns wall and CPU seconds and the number of saves."""
    import nbformat
    import papermill
    from nbclient import NotebookClient
    from papermill.engines import papermill_engines

    from arislab import runs
    from arislab.runs import kernel, supervise
    from arislab.runs.log import Log

    papermill_engines.register(supervise._ENGINE, supervise._SupervisedEngine)
    papermill.engines  # noqa: B018
    nb = nbformat.read(path, 4)
    out = path.with_name("out.ipynb")
    wall, cpu = time.monotonic(), time.process_time()
    if system == "nbclient":
        NotebookClient(nb, kernel_name="python3").execute()
        nbformat.write(nb, out)
    elif system == "papermill":
        papermill.execute_notebook(
            str(path), str(out), engine_name="nbclient", kernel_name="python3", progress_bar=False
        )
    elif system == "engine":
        log = Log(path.with_name("log.txt").open("a"), clean=lambda text: text, echo=None)
        source = json.loads(path.read_text())["cells"]
        job = kernel.Job(source, out, path.parent, dict(os.environ), log, lambda: None, parameters={"x": 0})
        outcome = supervise.supervise(path, job)
        assert outcome.status == "ok", outcome
    else:
        record = runs.execute(str(path), {"x": 0}, root=path.parent)
        assert record.status == "ok", record
    return {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}


def spread(values):
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cost", type=float, default=0.0, help="seconds of work a cell")
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]))))
        return
    measured = {system: [] for system in SYSTEMS}
    for repeat in range(given.repeats):
        for system in SYSTEMS[repeat % len(SYSTEMS) :] + SYSTEMS[: repeat % len(SYSTEMS)]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "cells.ipynb"
                notebook(path, given.cells, given.cost)
                command = [sys.executable, __file__, "--one", system, str(path)]
                env = {**os.environ, "ARISLAB_ROOT": folder}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
                measured[system].append(json.loads(done.stdout.splitlines()[-1]))
    base = measured["nbclient"]
    figures = {
        system: {
            "wall_s": spread([run["wall_s"] for run in runs]),
            "cpu_s": spread([run["cpu_s"] for run in runs]),
            "wall_over_nbclient": spread([a["wall_s"] / b["wall_s"] for a, b in zip(runs, base, strict=True)]),
            "cpu_s_more_than_nbclient": spread([a["cpu_s"] - b["cpu_s"] for a, b in zip(runs, base, strict=True)]),
        }
        for system, runs in measured.items()
    }
    versions = {name: version(name) for name in ("papermill", "nbclient", "nbformat", "ipykernel")}
    figures |= {"cells": given.cells, "repeats": given.repeats, "work_s_a_cell": given.cost, "versions": versions}
    print(json.dumps(figures | {"load": os.getloadavg(), "python": platform.python_version()}, indent=1))


if __name__ == "__main__":
    main()
