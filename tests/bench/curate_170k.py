"""170,000 recorded outputs to a curated set, without a model: time, memory, and the ratio to a floor; prints JSON.

    python tests/bench/curate_170k.py [--rows 170000] [--sentences FILE.tsv]
    python tests/bench/curate_170k.py --before 9ca5bde [--rounds 5]
    python tests/bench/curate_170k.py --workers 2 [--rounds 5]

Measured is what a user types: `arislab import FILE --as outputs` and `arislab run curate`. The floor reads the same
JSONL with orjson and writes the same columns with polars, in this process, in the same run. The rows: questions of
about 20 words with two answers each of about 90 words; one row in twenty is a copy of another with a few words changed.
With --before the same way is gone with the code of that commit and with this one in turns, with scorers that cost
nothing; with --workers the seven scorers of a shipped task are called in that many processes and in one, in turns. Both
print the ratio of this to that, pair by pair, as a geometric mean with its 95 % interval.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import polars as pl
from scipy import stats

HERE = Path(__file__).resolve().parents[2]


def sentences(path):
    """Sentences of a tab-separated file's last column, or made of made-up words."""
    chance = random.Random(0)
    if path:
        texts = [
            line.rstrip("\n").split("\t")[-1].strip('"')
            for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]
        ]
        return [s.strip() for text in texts for s in text.split(".") if len(s.split()) > 6]
    words = ["".join(chance.choice("abcdefghijklmnoprstuvw") for _ in range(chance.randint(3, 9))) for _ in range(4000)]
    return [" ".join(chance.choices(words, k=chance.randint(8, 20))) for _ in range(3000)]


def rows(n, pool):
    """Yield question, answer, model; answers differ in quality (some refuse, loop, or stop short)."""
    chance, earlier = random.Random(1), []
    for i in range(n):
        if earlier and chance.random() < 0.05:
            question, answer, model = chance.choice(earlier)
            words = answer.split()
            words[chance.randrange(len(words))] = chance.choice(words)
            yield question, " ".join(words), model
            continue
        if i % 2 == 0:
            question = f"Explain, for case {i}: {chance.choice(pool)}."
        kind = chance.random()
        body = ". ".join(chance.sample(pool, 6))
        answer = (
            "I'm sorry, but I cannot help with that."
            if kind < 0.05
            else body[: len(body) // 3]
            if kind < 0.15
            else f"{body[:300]}\n\n{body[300:]}."
        )
        row = (question, answer, f"m{chance.randrange(5)}")
        if len(earlier) < 5000:
            earlier.append(row)
        yield row


def write(file, arguments):
    """Write the rows as JSONL."""
    with file.open("w", encoding="utf-8") as out:
        for question, answer, model in rows(arguments.rows, sentences(arguments.sentences)):
            out.write(json.dumps({"q": question, "a": answer, "m": model}) + "\n")
    os.sync()  # else whoever is measured first waits for it: commits go to the disk


def ratio(ones, others):
    """Geometric mean of the ratios of pairs, and its 95 % interval (Student's t of the logarithms)."""
    logs = [math.log(one / other) for one, other in zip(ones, others, strict=True)]
    mean, n = statistics.mean(logs), len(logs)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(logs) / math.sqrt(n) if n > 1 else math.inf
    low, ratio, high = (round(math.exp(log), 3) for log in (mean - half, mean, mean + half))
    return {"ratio": ratio, "low": low, "high": high}


def report(**figures):
    """Print figures with what they depend on."""
    versions = {n: importlib.metadata.version(n) for n in ("polars", "deltalake", "orjson", "numpy")}
    print(json.dumps(figures | {"load": os.getloadavg(), "cores": os.cpu_count(), "versions": versions}, indent=1))


FREE = """
SYSTEM = ""


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]


def of(k):
    return lambda output: 1 - len(output) % k / k


SCORERS = {f"s{k}": of(k) for k in (2, 3, 5, 7, 11, 13, 17)}
WEIGHTS = dict.fromkeys(SCORERS, 1)
GOLD = [{"output": ""}]
"""
"""A task whose scorers cost nothing: what is left is the way from a file to the curated rows."""


def gone(checkout, file, task, root):
    """Seconds, CPU seconds and peak memory (of any process of one checkout) of import and curate."""
    env = os.environ | {"PYTHONPATH": str(checkout)}
    arislab = [sys.executable, "-m", "arislab"]
    columns = ["--input", "q", "--output", "a", "--model", "m"]
    measured = {}
    for name, command in (
        ("import", [*arislab, "import", str(file), "--as", "outputs", "--task", str(task), *columns]),
        ("curate", [*arislab, "run", "curate", "-p", "task", str(task)]),
    ):
        began = time.perf_counter()
        child = subprocess.Popen(
            [*command, "--root", str(root)], cwd=checkout, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, said
        measured[f"{name}_s"] = time.perf_counter() - began
        measured[f"{name}_cpu_s"] = usage.ru_utime + usage.ru_stime
        measured[f"{name}_peak_mb"] = usage.ru_maxrss / 1024
    return {key: round(value, 2) for key, value in measured.items()}


def before_and_after(folder, arguments):
    """The way from a file to the curated rows with the code of another commit and with this one, in turns."""
    before, task, file = folder / "before", folder / "free.py", folder / "outputs.jsonl"
    before.mkdir()
    archive = subprocess.run(["git", "archive", arguments.before], cwd=HERE, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(before)], input=archive, check=True)
    task.write_text(FREE)
    write(file, arguments)
    runs = {"before": [], "here": []}
    for i in range(arguments.rounds):
        for name, checkout in (("before", before), ("here", HERE))[:: 1 if i % 2 else -1]:
            root = folder / f"{name}-{i}"
            runs[name].append(gone(checkout, file, task, root))
            shutil.rmtree(root)
    totals = {
        name: {kind: [run[f"import_{kind}"] + run[f"curate_{kind}"] for run in runs[name]] for kind in ("s", "cpu_s")}
        for name in runs
    }
    ratios = {kind: ratio(totals["here"][kind], totals["before"][kind]) for kind in ("s", "cpu_s")}
    report(rows=arguments.rows, before=arguments.before, rounds=arguments.rounds, runs=runs, ratio_of=ratios)


def one_and_many(arguments):
    """The scores of 170,000 rows by seven scorers, in one process and in several, in turns."""
    from arislab import scoring
    from arislab.task import load

    task, questions, outputs = load("instruction_following"), [], []
    for question, answer, _ in rows(arguments.rows, sentences(arguments.sentences)):
        questions.append(question)
        outputs.append(answer)
    names = [f"r{i}" for i in range(arguments.rows)]
    frame = pl.DataFrame({"custom_id": names, "candidate_id": names, "input": questions, "output": outputs})
    frame = frame.with_columns(profile=pl.struct("input").struct.json_encode())
    seconds, digests = {1: [], arguments.workers: []}, set()
    for i in range(arguments.rounds):
        for n in list(seconds)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            scored = scoring.score(frame, task, n_workers=n)
            seconds[n].append(round(time.perf_counter() - began, 2))
            digests.add(hashlib.sha256(scored.write_ipc(None).getvalue()).hexdigest())
    here, below = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    report(
        rows=arguments.rows,
        scorers=list(task.scorers),
        seconds=seconds,
        speed=ratio(seconds[1], seconds[arguments.workers]),
        n_digests=len(digests),
        peak_mb=round(here + arguments.workers * below),
    )


def main():
    """Run import, curate and the floor once each; or what is asked for in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--sentences", default="")
    parser.add_argument("--before", default="", help="a commit")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.workers:
        one_and_many(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.before:
            before_and_after(Path(folder), arguments)
            return
        once(Path(folder), arguments)


def once(folder, arguments):
    """Import, curate and the floor."""
    file = folder / "outputs.jsonl"
    write(file, arguments)
    began = time.perf_counter()
    frame = pl.DataFrame([orjson.loads(line) for line in file.read_bytes().split(b"\n") if line])
    frame.write_parquet(folder / "floor.parquet")
    floor = time.perf_counter() - began
    seconds = {}
    arislab = [sys.executable, "-m", "arislab"]
    task = ["--task", "instruction_following", "--input", "q", "--output", "a", "--model", "m"]
    for name, command in (
        ("import", [*arislab, "import", str(file), "--as", "outputs", *task, "--root", str(folder)]),
        ("curate", [*arislab, "run", "curate", "-p", "task", "instruction_following", "--root", str(folder)]),
    ):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds[name] = round(time.perf_counter() - began, 1)
    record = json.loads(
        subprocess.run(
            [*arislab, "runs", "--json", "--root", str(folder)], capture_output=True, text=True, check=True
        ).stdout
    )[0]
    notebook_bytes = (Path(record["folder"]) / "notebook.ipynb").stat().st_size
    total = sum(seconds.values())
    report(
        rows=arguments.rows,
        seconds=seconds | {"all": round(total, 1), "floor": round(floor, 2)},
        ratio_to_floor=round(total / floor, 1),
        peak_rss_mb_of_any_process=round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        cpu_s=round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1),
        executed_notebook_bytes=notebook_bytes,
        account=record["headline"]["account"],
        last_line=done.stdout.splitlines()[-1],
    )


if __name__ == "__main__":
    main()
