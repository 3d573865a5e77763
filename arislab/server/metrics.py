"""How fast lines are done, and the numbers of ``GET /metrics`` in Prometheus' text format."""

import time
from collections import deque

from arislab.server.database import TERMINAL, Database, used_bytes

WINDOW_S = 30


class Meter:
    """Lines and generated tokens a second, over the last half minute.

    Args:
        now: seconds of a monotonic clock at the start.
    """

    def __init__(self, now: float):
        self._began = now
        self._seconds: deque[list[int]] = deque()  # [second, lines, tokens]

    def add(self, now: float, n_tokens: int) -> None:
        """Count one line."""
        if not self._seconds or self._seconds[-1][0] != int(now):
            self._forget(now)
            self._seconds.append([int(now), 0, 0])
        self._seconds[-1][1] += 1
        self._seconds[-1][2] += n_tokens

    def rates(self, now: float) -> tuple[float, float]:
        """Lines a second and tokens a second."""
        self._forget(now)
        elapsed_s = max(min(now - self._began, WINDOW_S), 1e-3)
        return tuple(sum(entry[i] for entry in self._seconds) / elapsed_s for i in (1, 2))  # type: ignore[return-value]

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] < now - WINDOW_S:
            self._seconds.popleft()


def text(database: Database, *, in_flight: int, width: int, began: float) -> str:
    """All numbers as Prometheus reads them; no label holds anything that a client wrote.

    Args:
        database: has the counts of all batches, so the totals survive a restart.
        in_flight: lines that wait for the engine's answer.
        width: chunks that may be with the engine at once.
        began: Unix time at which the server started.
    """
    (sums,) = database.query(
        "select coalesce(sum(completed), 0) completed, coalesce(sum(failed), 0) failed, coalesce(sum(input_tokens), "
        "0) input, coalesce(sum(cached_tokens), 0) cached, coalesce(sum(output_tokens), 0) output, coalesce(sum(case "
        f"when status not in {TERMINAL} then total - completed - failed end), 0) waiting from batches"
    )
    statuses = {
        row["status"]: row["n"] for row in database.query("select status, count(*) n from batches group by status")
    }
    every = ("validating", "in_progress", "finalizing", "cancelling", *TERMINAL)
    families: list[tuple[str, str, str, dict[str, float]]] = [
        ("batches", "gauge", "Batches by status.", {f'{{status="{name}"}}': statuses.get(name, 0) for name in every}),
        (
            "lines_total",
            "counter",
            "Lines with a durable result.",
            {f'{{result="{name}"}}': sums[name] for name in ("completed", "failed")},
        ),
        (
            "tokens_total",
            "counter",
            "Tokens of these lines; cached is a part of input.",
            {f'{{kind="{name}"}}': sums[name] for name in ("input", "cached", "output")},
        ),
        ("lines_waiting", "gauge", "Lines of running batches without a result.", {"": sums["waiting"]}),
        ("lines_in_flight", "gauge", "Lines that the engine has.", {"": in_flight}),
        ("chunks_allowed", "gauge", "Chunks that the engine may have at once.", {"": width}),
        ("disk_bytes", "gauge", "Files and results on disk.", {"": used_bytes(database)}),
        ("uptime_seconds", "gauge", "Since the server started.", {"": time.time() - began}),
    ]
    return "".join(
        f"# HELP arislab_{name} {note}\n# TYPE arislab_{name} {kind}\n"
        + "".join(f"arislab_{name}{labels} {value}\n" for labels, value in samples.items())
        for name, kind, note, samples in families
    )
