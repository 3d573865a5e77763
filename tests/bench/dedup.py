"""Time near-duplicate removal and measure what it finds; prints one JSON object.

    python tests/bench/dedup.py [--rows 170000] [--threshold 0.8] [--texts occupation_data.tsv]

Texts are five sentences drawn from the file (any text with sentences; without it: random words from a Zipf
distribution), and for every tenth row a copy of another row in which 4 % of the words were replaced. `recall_planted`
is the share of these pairs of which at most one row is kept; `recall_at_threshold` the same over the pairs whose exact
Jaccard index reaches the threshold (4 % of the words are 11 % of the shingles: many pairs lie below 0.8).
"""

import argparse
import json
import os
import platform
import random
import resource
import sys
import time
from pathlib import Path

# one thread, set before polars is loaded: the seconds of two commits are compared, not those of two machines
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

from arislab import curate


def sentences(path: Path | None, rng: random.Random) -> list[str]:
    if path is None:
        letters = str.maketrans("0123456789", "abcdefghij")  # a word with a digit in it counts in full
        words = [f"word{int(i)}".translate(letters) for i in np.random.default_rng(0).zipf(1.3, 40_000) % 20_000]
        return [" ".join(rng.sample(words, 18)) for _ in range(2_000)]
    parts = [s.strip() for s in path.read_text(encoding="utf-8").replace("\t", ".").split(".")]
    return [s for s in parts if len(s.split()) > 6]


def corpus(n_rows: int, pool: list[str], rng: random.Random) -> tuple[list[str], list[tuple[int, int]]]:
    n_planted = n_rows // 10
    texts = [". ".join(rng.sample(pool, 5)) for _ in range(n_rows - n_planted)]
    words = " ".join(pool).split()
    planted = []
    for row in range(len(texts), n_rows):
        source = rng.randrange(n_rows - n_planted)
        copy = texts[source].split()
        for _ in range(max(1, len(copy) * 4 // 100)):
            copy[rng.randrange(len(copy))] = rng.choice(words)
        planted.append((source, row))
        texts.append(" ".join(copy))
    return texts, planted


def jaccard(a: str, b: str) -> float:
    sets = []
    for text in (a, b):
        words = [w for w in "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split() if w]
        sets.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--texts", type=Path, default=None)
    options = parser.parse_args()
    rng = random.Random(0)
    texts, planted = corpus(options.rows, sentences(options.texts, rng), rng)
    exact = [jaccard(texts[a], texts[b]) for a, b in planted]
    frame = pl.DataFrame({"custom_id": [f"r-{i:06d}" for i in range(len(texts))], "output": texts})
    n_words = sum(len(text.split()) for text in texts[:2_000]) / 2_000
    del texts  # or the peak of memory would hold them twice
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.perf_counter(), time.process_time()
    result = curate.near_duplicates(frame, on=["output"], threshold=options.threshold, prefer=None)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    kept = result["duplicate_of"].is_null().to_list()
    hits = [not (kept[a] and kept[b]) for a, b in planted]
    reached = [hit for hit, similarity in zip(hits, exact, strict=True) if similarity >= options.threshold]
    kilobytes = 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux kilobytes
    report = {
        "rows": options.rows,
        "words_per_row": round(n_words, 1),
        "threshold": options.threshold,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_s, 2),
        "n_planted": len(planted),
        "recall_planted": round(sum(hits) / len(hits), 4),
        "n_planted_at_threshold": len(reached),
        "recall_at_threshold": round(sum(reached) / max(1, len(reached)), 4),
        "n_duplicates": len(result) - result["duplicate_of"].null_count(),
        "lowest_similarity": result["similarity"].min(),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / kilobytes),
        "rss_before_mb": round(before / 1024 / kilobytes),
        "texts": options.texts.name if options.texts else "random words",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "polars": pl.__version__,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
