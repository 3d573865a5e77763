"""Writers in processes of their own that start at one moment; what each lake must hold afterwards.

Used by test_lake; alone, it prints a table.

python tests/races.py 200
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import polars as pl

from arislab.lake import Lake, turns

KINDS = {
    "first upsert": "all writers upsert the same keys into a table that nobody has made",
    "first append": "all append the same keys, and one each of their own, to a table that nobody has made",
    "first replace": "all make the same rows the rows of their own category; nobody has made the table",
    "later upsert": "all upsert the same new keys into a table that has rows",
    "later append": "all append the same new keys, and one each of their own, to a table that has rows",
    "later replace": "all replace the rows of one category at once",
    "replace and append": "one replaces the rows of a category while the others append to another one",
    "replace and upsert": "one replaces the rows of a category while the others upsert some of the same keys",
    "same key, two categories": "each makes the same keys the rows of its own category",
}


def rows(ids, category="a", title=""):
    """Candidates with these ids."""
    frame = pl.DataFrame({"candidate_id": ids}, schema={"candidate_id": pl.String})
    return frame.with_columns(
        profile=pl.lit("{}"),
        group_id="candidate_id",
        split=pl.lit("train"),
        category=pl.lit(category),
        title=pl.lit(title),
    )


SHARED = [f"c{i}" for i in range(12)]


def write(kind, table, k):
    """What writer ``k`` does."""
    if kind in ("first upsert", "later upsert"):
        table.upsert(rows(SHARED, title=str(k)))
    elif kind in ("first append", "later append"):
        table.append(rows([*SHARED, f"own{k}"]))
    elif kind in ("first replace", "same key, two categories"):
        table.replace(rows(SHARED, category=f"of {k}"), where={"category": f"of {k}"})
    elif kind == "later replace" or k == 0:
        table.replace(rows(SHARED, title=str(k)), where={"category": "a"})
    elif kind == "replace and append":
        for i in range(3):
            table.append(rows([f"own{k}-{i}"], category="b"))
    else:
        table.upsert(rows([*SHARED[6:], f"own{k}"], category="b"))


def expected(kind, n_writers):
    """Keys that the table must hold at the end, each once."""
    own = {
        "first append": [f"own{k}" for k in range(n_writers)],
        "later append": [f"own{k}" for k in range(n_writers)],
        "replace and append": [f"own{k}-{i}" for k in range(1, n_writers) for i in range(3)],
        "replace and upsert": [f"own{k}" for k in range(1, n_writers)],
    }.get(kind, [])
    seed = [] if kind.startswith("first") else ["seed"]
    return sorted([*SHARED, *own, *seed])


def work():
    """One writer: takes lines (kind, folder, number, moment, locked or not) and says how each write ended."""
    turn = turns.turn
    for line in sys.stdin:
        kind, folder, k, at, is_locked = json.loads(line)
        turns.turn = turn if is_locked else contextlib.nullcontext
        table = Lake(folder)["candidates"]
        time.sleep(max(0.0, at - time.time()))
        try:
            write(kind, table, k)
            said = "ok"
        except Exception as error:  # noqa: BLE001  # whatever it is, the race counts it
            said = f"{type(error).__name__}: {error}"
        print(json.dumps(said), flush=True)


def race(n, *, n_writers):
    """Run ``n`` races of each way in turn; returns what went wrong, and how many were run of which kind."""
    wrong, counts = [], Counter()
    worker = [sys.executable, __file__, "work"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        writers = [stack.enter_context(subprocess.Popen(worker, **pipes)) for _ in range(n_writers)]
        for number in range(n):
            kind, is_locked = list(KINDS)[number % len(KINDS)], number % 2 == 1
            place = Path(folder) / str(number)
            if not kind.startswith("first"):
                Lake(place)["candidates"].append(rows(["seed"], category="b"))
            at = time.time() + (2.0 if number == 0 else 0.02)
            for k, writer in enumerate(writers):
                writer.stdin.write(json.dumps([kind, str(place), k, at, is_locked]) + "\n")
                writer.stdin.flush()
            said = [json.loads(writer.stdout.readline()) for writer in writers]
            ids = sorted(Lake(place)["candidates"].read()["candidate_id"])
            counts[kind] += 1
            if ids != expected(kind, n_writers) or set(said) != {"ok"}:
                wrong.append({"kind": kind, "locked": is_locked, "said": said, "found": ids})
        for writer in writers:
            writer.stdin.close()
    return wrong, counts


def main(n):
    """Print one line per number of writers."""
    for n_writers in (2, 4):
        began = time.monotonic()
        wrong, counts = race(n, n_writers=n_writers)
        doubled = sum(len(one["found"]) != len(set(one["found"])) for one in wrong)
        print(
            json.dumps(
                {
                    "writers": n_writers,
                    "races": counts.total(),
                    "doubled": doubled,
                    "lost or failed": len(wrong) - doubled,
                    "seconds": round(time.monotonic() - began),
                    "wrong": wrong[:3],
                }
            )
        )


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else main(int(sys.argv[1]))
