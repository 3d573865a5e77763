"""A thousand decisions while the kernel of the panel dies, or its disk is full, fifty times: what an outbox keeps."""

import random
from datetime import UTC, datetime

import polars as pl
import pytest
from dying import Kernel
from toys import curated_rows

from arislab.review import decisions, journal

N, N_FAULTS = 1_000, 50
FAULTS = ("before", "stored", "torn", "full")
"""The kernel dies before it stores, or before it answers; the same, and its last line is torn; there is no room."""


def outputs():
    """Rows whose outputs can be told apart: "answer 3" and so on."""
    texts = pl.Series("output", [f"answer {i} is a good one" for i in range(N)])
    return curated_rows(N).with_columns(texts, queue=pl.lit("q"), why=pl.lit("kept"))


@pytest.fixture
def kernel(tmp_path):
    made = Kernel(tmp_path / "session", outputs())
    yield made
    made.end()


def decided(number, row, decision):
    """A decision as a browser says it."""
    at = datetime.now(UTC).isoformat()
    return {
        "event_id": f"{number:032x}", "custom_id": row["custom_id"], "decision": decision, "edited_output": None,
        "labels": [], "ratings": {}, "category": None, "note": None, "queue": "q", "undoes": None,
        "shown_sha256": decisions.sha256(row["output"]), "asked_sha256": decisions.sha256(row["input"]),
        "shown_at": at, "decided_at": at, "dwell_ms": 900, "client_seq": number,
    }  # fmt: skip


@pytest.mark.slow
def test_a_thousand_decisions_under_fifty_faults_are_stored_once_each_and_in_their_order(kernel, lake):
    draw, rows = random.Random(5), outputs().to_dicts()
    kinds, said = [draw.choice(["approve", "reject", "skip"]) for _ in rows], []
    faults = [FAULTS[i % len(FAULTS)] for i in range(N_FAULTS)]
    draw.shuffle(faults)
    outbox = []
    for fault in [*faults, ""]:
        table = lake["reviews"]
        kernel.start(decisions.complete(table.read()), fault)
        for _ in range(N // N_FAULTS):
            if (at := len(said)) < N:
                said.append(decided(at + 1, rows[at], kinds[at]))
                outbox.append(said[-1])
            known = kernel.ask(outbox)  # a browser sends again what nobody acknowledged
            outbox = outbox if known is None else [one for one in outbox if one["event_id"] not in known]
        if fault == "torn":
            kernel.end()
            newest = max(kernel.folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
            with newest.open("ab") as file:
                file.write(b'{"event_id": "half a li')
        if draw.random() < 0.2:  # a run begins meanwhile
            journal.fold(kernel.folder, lake["reviews"])
    assert outbox == []
    journal.fold(kernel.folder, lake["reviews"])
    stored = decisions.in_order(lake["reviews"].read())
    assert stored.select("event_id", "custom_id", "decision").rows() == [
        (one["event_id"], one["custom_id"], one["decision"]) for one in said
    ]
    assert stored["client_seq"].to_list() == list(range(1, N + 1))
    assert stored["reviewer"].unique().to_list() == ["Ada"]
    assert decisions.live(stored).select(pl.len()).item() == N
