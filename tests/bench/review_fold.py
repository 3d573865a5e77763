"""How long it takes to fold what people decided into curated rows, as 2_curate does.

    python tests/bench/review_fold.py [n_events] [n_rows]

Three reviewers decide at random about rows of some 600 characters: 60 % approve, 20 reject, 10 skip, 5 flag, 5 edit.
"""

import os
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from arislab import review
from arislab.review import decisions


def curated(n):
    """Rows as the table training_data_curated holds them."""
    ids = [f"r-{i:040x}" for i in range(n)]
    outputs = [f"answer {i} {'x' * 600}" for i in range(n)]
    nobody = {"reviewed_by": pl.lit(None, pl.String), "needs_review": pl.lit(True), "approved": pl.lit(False)}
    rows = pl.DataFrame({"custom_id": ids, "output": outputs})
    return rows.with_columns(**nobody, input=pl.lit("Q"), metadata=pl.lit("{}"))


def events(rows, n, seed=1):
    """Decisions about these rows, in the columns of the table reviews."""
    draw = np.random.default_rng(seed)
    of = draw.integers(0, rows.height, n)
    shown = rows["output"].map_elements(decisions.sha256, return_dtype=pl.String)
    kinds = draw.choice(["approve", "reject", "skip", "flag", "edit"], n, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    start = datetime(2026, 11, 1, tzinfo=UTC)
    made = pl.DataFrame(
        {
            "event_id": [f"{i:032x}" for i in range(n)],
            "custom_id": rows["custom_id"][of],
            "reviewer": draw.choice(["Ada", "Grace", "Alan"], n),
            "decision": kinds,
            "edited_output": [f"edited {i}" if kind == "edit" else None for i, kind in enumerate(kinds)],
            "shown_sha256": shown[of],
            "asked_sha256": [decisions.sha256("Q")] * n,
            "seq": np.arange(n) + 1,
            "decided_at": [start + timedelta(seconds=i) for i in range(n)],
            "client_seq": np.arange(n) + 1,
        }
    )
    return decisions.complete(made)


def main(n_events=100_000, n_rows=34_000):
    """Print the time of seven folds."""
    rows = curated(n_rows)
    made, took = events(rows, n_events), []
    for _ in range(7):
        start = time.perf_counter()
        folded = review.fold(rows, made)
        took.append(time.perf_counter() - start)
    approved, load = folded["approved"].sum(), os.getloadavg()[0]
    print(
        f"{n_events:,} events about {n_rows:,} rows, {approved:,} approved; load {load:.2f} on {os.cpu_count()} cores"
    )
    print(f"fold: median {np.median(took):.2f} s of {len(took)}, {min(took):.2f} to {max(took):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
