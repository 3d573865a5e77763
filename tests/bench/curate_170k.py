"""170,000 recorded outputs to a curated set, without a model: time, memory, and the ratio to a floor; prints JSON.

    python tests/bench/curate_170k.py [--rows 170000] [--sentences FILE.tsv]

Measured is what a user types: `arislab import FILE --as outputs` and `arislab run curate`. The floor reads the same
JSONL with orjson and writes the same columns with polars, in this process, in the same run. The rows: questions of
about 20 words with two answers each of about 90 words; one row in twenty is a copy of another with a few words changed.
"""

import argparse
import importlib.metadata
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import polars as pl


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


def main():
    """Run import, curate and the floor once each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--sentences", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for question, answer, model in rows(arguments.rows, sentences(arguments.sentences)):
                out.write(json.dumps({"q": question, "a": answer, "m": model}) + "\n")
        began = time.perf_counter()
        frame = pl.DataFrame([orjson.loads(line) for line in file.read_bytes().split(b"\n") if line])
        frame.write_parquet(Path(folder) / "floor.parquet")
        floor = time.perf_counter() - began
        seconds = {}
        arislab = [sys.executable, "-m", "arislab"]
        task = ["--task", "instruction_following", "--input", "q", "--output", "a", "--model", "m"]
        for name, command in (
            ("import", [*arislab, "import", str(file), "--as", "outputs", *task, "--root", folder]),
            ("curate", [*arislab, "run", "curate", "-p", "task", "instruction_following", "--root", folder]),
        ):
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name] = round(time.perf_counter() - began, 1)
        record = json.loads(
            subprocess.run(
                [*arislab, "runs", "--json", "--root", folder], capture_output=True, text=True, check=True
            ).stdout
        )[0]
        notebook_bytes = (Path(record["folder"]) / "notebook.ipynb").stat().st_size
    total = sum(seconds.values())
    print(
        json.dumps(
            {
                "rows": arguments.rows,
                "seconds": seconds | {"all": round(total, 1), "floor": round(floor, 2)},
                "ratio_to_floor": round(total / floor, 1),
                "peak_rss_mb_of_any_process": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
                "cpu_s": round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1),
                "executed_notebook_bytes": notebook_bytes,
                "account": record["headline"]["account"],
                "last_line": done.stdout.splitlines()[-1],
                "load": os.getloadavg(),
                "versions": {n: importlib.metadata.version(n) for n in ("polars", "deltalake", "orjson", "numpy")},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
