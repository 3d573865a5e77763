"""The recorded runs as a frame, as a researcher compares them in a notebook. ``find`` reads the files."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from arislab.records import find as records
from arislab.records.text import headline_line
from arislab.system.text import AS_IS, html

_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "phase": pl.String,
    "status": pl.String,
    "created_at": pl.Datetime("ms", "UTC"),
    "started_at": pl.Datetime("ms", "UTC"),
    "duration_s": pl.Float64,
    "parameters": pl.String,
    "headline": pl.String,
    "reason": pl.String,
    "commit": pl.String,
    "run_key": pl.String,
    "launched_by": pl.String,
    "folder": pl.String,
}


class Runs(pl.DataFrame):
    """One row per run, newest first; in a notebook it shows what a researcher compares.

    Columns: run_id, phase, status, created_at, started_at, duration_s, parameters and headline (JSON), reason, commit,
    run_key, launched_by, folder; null: not known, or not yet.
    """

    def _repr_html_(self, *, _from_series: bool = False) -> str:
        shown = self.head(50).to_dicts()
        # cut before it is escaped: half an entity would show
        lines = [(row["reason"] or headline_line(json.loads(row["headline"] or "null")))[:160] for row in shown]
        rows = "".join(
            f"<tr><td>{html(row['run_id'])}</td><td>{html(row['phase'] or '')}</td>"
            f"<td><b style='color:{_COLOURS.get(row['status'], 'inherit')}'>{html(row['status'])}</b></td>"
            f"<td style='text-align:right'>{'' if row['duration_s'] is None else format(row['duration_s'], '.1f')}</td>"
            f"<td style='text-align:left'>{html(line)}</td></tr>"
            for row, line in zip(shown, lines, strict=True)
        )
        more = f"<caption>the newest 50 of {self.height:,} runs</caption>" if self.height > 50 else ""
        head = "<tr><th>run</th><th>phase</th><th>status</th><th>seconds</th><th>headline, or why not ok</th></tr>"
        return f"<table {AS_IS}>{more}{head}{rows}</table>" if rows else "<i>No runs yet: <code>arislab demo</code></i>"


_COLOURS = {"ok": "#2e7d32", "failed": "#c62828", "killed": "#c62828", "timeout": "#c62828", "lost": "#ef6c00"}


def list_runs(root: Path) -> Runs:
    """Return the recorded runs under a root, newest first.

    Returns:
        One row per run, in the columns of ``Runs``.
    """
    rows = []
    for run in records.as_json(root):
        row = {name: run.get(name) for name in _SCHEMA}
        for name in ("created_at", "started_at"):
            row[name] = datetime.fromisoformat(str(row[name])) if row[name] else None
        row |= {name: row[name] if row[name] is None else json.dumps(row[name]) for name in ("parameters", "headline")}
        rows.append(row)
    return Runs(rows, schema=_SCHEMA, strict=False)  # one row per run
