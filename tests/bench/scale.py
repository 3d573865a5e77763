"""Recorded outputs to a curated set at several sizes: time, memory, what goes to disk, and how they grow; prints JSON.

    python tests/bench/scale.py [--rows 17000 170000 1700000] [--sentences FILE.tsv]

Measured is what a user types: `arislab import FILE.parquet --as outputs` and `arislab run curate`, for the rows of
`curate_170k.py` with scorers that cost nothing. Memory is that of all processes together, looked at each second:
anonymous memory (what the system cannot take back), pages of files (which it can), and the files without a name that
hold what is too large for memory, each at its largest. Growth is the exponent b of rows ** b between a size and the
one before. Building, sending and collecting requests is measured by `end_to_end.py`, near-duplicates by `engines.py`.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from curate_170k import FREE, report, rows, sentences

HERE = Path(__file__).resolve().parents[2]
SPILL = os.environ.get("TMPDIR", "/var/tmp")
"""Where `arislab.system.spilled` puts what is too large for memory."""


def tree(pid):
    """A process and all that it started."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it has ended
            continue
        children.setdefault(int(text[text.rindex(")") + 2 :].split()[1]), []).append(int(stat.parent.name))
    every = [pid]
    for one in every:
        every += children.get(one, [])
    return every


def told(pid, name):
    """What the system tells of a process, and of each that it started and that has not ended, in a file of /proc."""
    for one in tree(pid):
        try:
            yield one, Path(f"/proc/{one}/{name}").read_text()
        except OSError:
            continue


def memory(pid):
    """Anonymous and file pages of a process and its children, in MB; shared pages count once (PSS)."""
    total = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    for _, text in told(pid, "smaps_rollup"):
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) / 1024
    return total["Pss_Anon"] + total["Pss_Shmem"], total["Pss_File"]


def on_disk(pid):
    """MB of the files without a name into which a process and its children look: what did not fit memory."""
    sizes = {}
    for _, text in told(pid, "maps"):
        for line in text.splitlines():
            span, _, offset, device, inode, *path = line.split(maxsplit=5)
            if path and path[0].endswith("(deleted)") and path[0].startswith(SPILL):
                start, end = (int(at, 16) for at in span.split("-"))
                sizes[device, inode] = max(sizes.get((device, inode), 0), int(offset, 16) + end - start)
    return sum(sizes.values()) / 2**20


def measured(command):
    """Seconds, CPU seconds and largest memory of a command and what it starts."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        os.set_blocking(child.stderr.fileno(), False)
        said, peaks = b"", (0.0, 0.0, 0.0)
        while (found := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            peaks = tuple(map(max, peaks, (*memory(child.pid), on_disk(child.pid))))
            said += child.stderr.read() or b""
            time.sleep(1)
        seconds, usage = time.perf_counter() - began, found[2]
        child.returncode = os.waitstatus_to_exitcode(found[1])
        said += child.stderr.read() or b""
    assert child.returncode == 0, said.decode()
    return {
        "s": round(seconds, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "anonymous_mb": round(peaks[0]),
        "file_pages_mb": round(peaks[1]),
        "on_disk_mb": round(peaks[2]),
    }


def write(file, n, pool):
    """Write the rows as Parquet, some at a time."""
    every = rows(n, pool)
    with pq.ParquetWriter(file, pa.schema(dict.fromkeys("qam", pa.large_string())), compression="zstd") as writer:
        while some := list(itertools.islice(every, 100_000)):
            writer.write_table(pl.DataFrame(some, schema=["q", "a", "m"], orient="row").to_arrow())


def main():
    """Measure each size in a folder of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[17_000, 170_000, 1_700_000])
    parser.add_argument("--sentences")
    arguments = parser.parse_args()
    pool, sizes = sentences(arguments.sentences), {}
    for n in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            task, file, root = (Path(folder) / name for name in ("free.py", "outputs.parquet", "root"))
            task.write_text(FREE)
            write(file, n, pool)
            arislab = [sys.executable, "-m", "arislab"]
            columns = ["--input", "q", "--output", "a", "--model", "m"]
            sizes[n] = {
                "import": measured(
                    [
                        *arislab,
                        "import",
                        str(file),
                        "--as",
                        "outputs",
                        "--task",
                        str(task),
                        *columns,
                        "--root",
                        str(root),
                    ]
                ),
                "curate": measured([*arislab, "run", "curate", "-p", "task", str(task), "--root", str(root)]),
                "file_mb": round(file.stat().st_size / 2**20),
            }
        print(n, json.dumps(sizes[n]), file=sys.stderr, flush=True)
    growth = {
        f"{after}/{before}": {
            step: round(math.log(sizes[after][step][what] / sizes[before][step][what]) / math.log(after / before), 2)
            for step in ("import", "curate")
            for what in ("cpu_s",)
        }
        for before, after in zip(arguments.rows, arguments.rows[1:], strict=False)
    }
    report(sizes=sizes, growth_of_cpu=growth)


if __name__ == "__main__":
    main()
