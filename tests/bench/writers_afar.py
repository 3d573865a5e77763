"""Writers of one table in a store with the protocol of S3 (moto on loopback): is a row lost or doubled, and how long?

python tests/bench/writers_afar.py [--writers 4] [--commits 200] [--alone]

Every second writer appends, the others upsert: a row of its own, and one that all write. ``--alone``: each writer is a
machine of its own, as none of them knows the turns of the others. Prints one JSON; exit code 1 if a row is missing or
there twice. "attempts" counts the commits that came second too: each made a data file that no version names.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import stores  # of the tests

WRITER = """
import sys
from races import rows
from arislab.lake import Lake
k, n, table = int(sys.argv[1]), int(sys.argv[2]), Lake()["candidates"]
for i in range(n):
    if k % 2:
        table.append(rows([f"own{k}-{i}", f"shared{i}"]))
    else:
        table.upsert(rows([f"own{k}-{i}", f"shared{i}"], title=str(k)))
"""


def race(n_writers, n_commits, *, is_alone):
    """Run the writers to their end; returns what they left."""
    from arislab.lake import Lake

    with tempfile.TemporaryDirectory() as folder:
        writers, began = [], time.monotonic()
        for k in range(n_writers):
            turns = Path(folder) / str(k if is_alone else 0)
            turns.mkdir(exist_ok=True)
            env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(turns)}
            command = [sys.executable, "-c", WRITER, str(k), str(n_commits)]
            writers.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
        said = [writer.communicate()[1] for writer in writers]
        took_s = time.monotonic() - began
    table = Lake()["candidates"]
    names = table.read()["candidate_id"]
    own = {f"own{k}-{i}" for k in range(n_writers) for i in range(n_commits)}
    expected = own | {f"shared{i}" for i in range(n_commits)}
    versions = table.history().height
    return {
        "writers": n_writers,
        "commits_each": n_commits,
        "machines": n_writers if is_alone else 1,
        "failed": [text.strip().splitlines()[-1] for text in said if text],
        "lost": len(expected - {*names}),
        "doubled": names.len() - names.n_unique(),
        "versions": versions,
        "attempts": sum(1 for _ in table.folder.glob("*.parquet")),
        "seconds": round(took_s, 1),
        "commits_per_s": round(versions / took_s, 2),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--alone", action="store_true", help="each writer is a machine of its own")
    given = parser.parse_args()
    with stores.store("heedful") as variables:
        os.environ |= variables | {"ARISLAB_LAKE": f"s3://{stores.BUCKET}/lab"}
        report = race(given.writers, given.commits, is_alone=given.alone)
    print(json.dumps({**report, "load": os.getloadavg(), "python": platform.python_version()}))
    raise SystemExit(1 if report["lost"] or report["doubled"] or report["failed"] else 0)


if __name__ == "__main__":
    main()
