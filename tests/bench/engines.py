"""Scoring and near-duplicates by this process, by Daft and by Ray Data: time, memory and equal results; prints JSON.

    python tests/bench/engines.py [--rows 170000] [--engines here daft ray-data daft@local] [--sentences FILE.tsv]

Each engine works in a process of its own, on the rows of `curate_170k.py`: the seven scorers of instruction_following,
and near-duplicates of question and answer at .8. Daft is asked as `arislab run curate -p engine daft` asks it. Ray Data
is asked the same way by the class below, which is how the two were compared before one was chosen: the same functions,
mapped, grouped and joined by it. Seconds are of the step alone, without starting the engine; CPU and memory (what the
system cannot take back, at its largest) are those of all processes together, frames of the measuring process included.
"""

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from curate_170k import report, sentences
from scale import memory, told, write

HERE = Path(__file__).resolve().parents[2]
STEPS = ("score", "near-duplicates")


class RayData:
    """What `arislab.cluster.Cluster` does, by Ray Data."""

    n_parts = 32

    def __init__(self):
        from arislab.system import on_ray

        on_ray.connect("local")
        import ray.data
        from ray.data.context import ShuffleStrategy

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.shuffle_strategy = False, ShuffleStrategy.HASH_SHUFFLE
        self.ray = ray

    def map(self, function, items):
        """As there; a wave of items at a time."""
        rest = iter(items)
        while some := [{"place": i, "item": pickle.dumps(item)} for i, item in enumerate(islice(rest, 8))]:
            rows = self.ray.data.from_items(some, override_num_blocks=len(some))
            told = rows.map(lambda row: {**row, "item": pickle.dumps(function(pickle.loads(row["item"])))}).take_all()
            yield from (pickle.loads(row["item"]) for row in sorted(told, key=lambda row: row["place"]))

    def rows(self, table):
        """As there."""
        parts = [table.slice(i, 20_000).combine_chunks() for i in range(0, table.num_rows, 20_000)]
        return RayRows(self.ray, self.ray.data.from_arrow(parts))


class RayRows:
    """What `arislab.cluster.Rows` does, by Ray Data."""

    def __init__(self, ray, data):
        self.ray, self.data = ray, data

    def map(self, function, schema):
        """As there; schemas are found by it."""
        made = self.data.map_batches(
            lambda table: function(table).select(schema.names).cast(schema),
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
        )
        return RayRows(self.ray, made)

    def grouped(self, by, function, schema):
        """As there."""
        groups = self.data.groupby(by, num_partitions=RayData.n_parts)
        made = groups.map_groups(
            lambda table: function(table).select(schema.names).cast(schema), batch_format="pyarrow"
        )
        return RayRows(self.ray, made)

    def joined(self, other, on):
        """As there."""
        return RayRows(self.ray, self.data.join(other.data, "inner", RayData.n_parts // 2, on=(on,)))

    def renamed(self, names):
        """As there."""
        return RayRows(self.ray, self.data.rename_columns({old: new for old, new in names.items() if old != new}))

    def kept(self):
        """As there."""
        return RayRows(self.ray, self.data.materialize())

    def batches(self, names=None):
        """As there."""
        data = self.data if names is None else self.data.select_columns(list(names))
        for reference in data.to_arrow_refs():
            yield from self.ray.get(reference).to_batches()


def one(engine, step, file):
    """Do one step by one engine and print what it took, and a digest of the result."""
    from arislab import cluster, duplicates, scoring
    from arislab.system.equals import first_of_equals
    from arislab.task import load

    rows = pl.read_parquet(file).with_row_index("i")
    rows = rows.select(custom_id=pl.format("c{}", "i"), candidate_id=pl.format("c{}", "i"), input="q", output="a")
    if engine == "ray-data":
        ray_data = RayData()
        cluster.connect = lambda _: ray_data
    name = "" if engine == "here" else engine
    cluster.connect(name)
    began = time.perf_counter()
    if step == "score":
        made = scoring.score(rows, load("instruction_following"), engine=name)
        digest = made.drop("scorer_version").write_csv().encode()
    else:
        star, score = duplicates.stars(rows.select("input", "output"), questions=("input",), engine=name)
        digest = star.tobytes() + score.tobytes()
        first = first_of_equals(rows.select("input", "output"))
        assert (star != np.arange(len(star))).sum() > (first != np.arange(len(first))).sum()
    print(json.dumps({"s": round(time.perf_counter() - began, 1), "sha256": hashlib.sha256(digest).hexdigest()[:16]}))


def measured(engine, step, file):
    """What one step by one engine takes, with all that it starts."""
    command = [sys.executable, __file__, "--one", engine, step, str(file)]
    peak, cpu = 0.0, {}
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            peak = max(peak, memory(child.pid)[0])
            for pid, text in told(child.pid, "stat"):
                fields = text.rpartition(") ")[2].split()
                cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            time.sleep(1)
        said = child.stdout.read().splitlines()
        if child.returncode:
            return {"failed": child.stderr.read().splitlines()[-1:]}
    return json.loads(said[-1]) | {"cpu_s": round(sum(cpu.values()), 1), "mb": round(peak)}


def main():
    """Measure each engine and step in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--engines", nargs="+", default=["here", "daft", "ray-data", "daft@local"])
    parser.add_argument("--steps", nargs="+", default=STEPS)
    parser.add_argument("--sentences")
    parser.add_argument("--one", nargs=3)
    arguments = parser.parse_args()
    if arguments.one:
        return one(*arguments.one)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.parquet"
        write(file, arguments.rows, sentences(arguments.sentences))
        took = {}
        for step in arguments.steps:
            took[step] = {}
            for engine in arguments.engines:
                took[step][engine] = measured(engine, step, file) | {"load": os.getloadavg()[0]}
                print(step, engine, json.dumps(took[step][engine]), file=sys.stderr, flush=True)
    equal = {step: len({one["sha256"] for one in by.values() if "sha256" in one}) == 1 for step, by in took.items()}
    report(rows=arguments.rows, took=took, equal=equal)
    return None


if __name__ == "__main__":
    main()
