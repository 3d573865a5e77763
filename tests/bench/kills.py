"""Kill a run's supervisor at random moments, a thousand times, and read every record that is left.

python tests/bench/kills.py [--kills 1000] [--seed 0]

Each run is a toy notebook (three cells, a table is read and written) by ``arislab.runs.execute`` in a process of its
own, killed with SIGKILL after a random part of the time that an undisturbed one takes; every tenth kill goes to the
kernel instead. Counted are the states that a reader sees afterwards. Prints one JSON; exit code 1 if any record cannot
be read, is still shown as running after ten seconds, or claims to be ok without having ended.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CELLS = (
    "n: int = 3  # rows",
    "import os\nopen(os.environ['ARISLAB_RUN_DIR'] + '/../pid', 'w').write(str(os.getpid()))\nimport json",
    "with open(os.environ['ARISLAB_RUN_DIR'] + '/tables.jsonl', 'a') as f:\n"
    "    f.write(json.dumps({'op': 'read', 'table': 'candidates', 'version': 0, 'rows': n}) + '\\n')",
    "import time\ntime.sleep(0.1)\n'x' * 10000",
)


def notebook(folder):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    cells = [new_code_cell(source) for source in CELLS]
    cells[0]["metadata"]["tags"] = ["parameters"]
    folder.mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "2_curate.ipynb")
    return folder


def execute(root, notebooks):
    """The supervisor; its process was forked from one that has everything imported."""
    os.setpgid(0, 0)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the process is killed
    from arislab import runs

    runs.execute("curate", root=root, notebooks=notebooks)


def wait_for_kernel(pid_file, process, until):
    while time.monotonic() < until and process.is_alive():
        if pid_file.is_file() and pid_file.read_text():
            return int(pid_file.read_text())
        time.sleep(0.005)
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    # what a supervisor imports, imported once
    import papermill  # noqa: F401

    from arislab import runs
    from arislab.records import find as records  # noqa: F401

    fork = multiprocessing.get_context("fork")
    seen, bad, took_s, looked_s = Counter(), [], [], []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        notebooks = notebook(Path(folder) / "notebooks")
        for number in range(given.kills + 5):
            root = Path(folder) / f"root-{number}"
            root.mkdir()
            os.environ["ARISLAB_ROOT"] = str(root)
            process = fork.Process(target=execute, args=(root, notebooks))
            start = time.monotonic()
            process.start()
            if number < 5:
                process.join(120)
                took_s.append(time.monotonic() - start)
                (run,) = runs.as_json(root)
                assert run["status"] == "ok", run
                continue
            whom = "kernel" if number % 10 == 0 else "supervisor"
            delay = chance.uniform(0, 1.05 * statistics.median(took_s))
            pid = None
            if whom == "kernel":
                pid = wait_for_kernel(root / "papermill_runs" / "pid", process, start + 60)
                time.sleep(chance.uniform(0, 0.05))
            else:
                process.join(delay)
            has_ended = not process.is_alive()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or process.pid, signal.SIGKILL)
            process.join(60)
            at = time.monotonic()
            status = "running"
            while status in ("created", "running") and time.monotonic() - at < 10:
                made = runs.as_json(root)
                status = made[0]["status"] if made else "nothing was made"
            looked_s.append(time.monotonic() - at)
            seen[f"{whom}: {status}"] += 1
            if status in ("created", "running", "unreadable") or (
                status == "ok" and not has_ended and whom == "supervisor" and not whole(made[0])
            ):
                bad.append(
                    {
                        "number": number,
                        "whom": whom,
                        "status": status,
                        "reason": made[0].get("reason") if made else None,
                    }
                )
            if number % 10 == 0:
                print(f"{number} of {given.kills}: {dict(seen)}", file=sys.stderr, flush=True)
    report = {
        "kills": given.kills,
        "states": dict(sorted(seen.items())),
        "unreadable_or_wrong": bad,
        "seconds_until_seen_max": round(max(looked_s), 3),
        "undisturbed_s": round(statistics.median(took_s), 2),
        "seconds": round(time.monotonic() - began),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }
    print(json.dumps(report, indent=1))
    raise SystemExit(1 if bad else 0)


def whole(run):
    """Whether a record that says ok has all its files as recorded: then it had ended, and only its process had not."""
    from arislab.records import record
    from arislab.system import files

    folder = Path(run["folder"])
    raw = json.loads((folder / "run.json").read_text())
    same = all(files.of_file(folder / name)["sha256"] == digest["sha256"] for name, digest in raw["files"].items())
    return same and raw["record_sha256"] == record.record_sha256(raw)


if __name__ == "__main__":
    main()
