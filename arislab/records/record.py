"""What ``run.json`` says of one run, its digest, and the key that names what decides its result.

``run.schema.json`` beside it is its JSON Schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arislab.records.digests import of_json
from arislab.records.headline import as_text

SCHEMA_VERSION = 2
SEAL = ("record_sha256", "signature")


@dataclass(frozen=True, repr=False)
class Record:
    """What ``run.json`` says about one run; ``run.schema.json`` beside this file is its JSON Schema."""

    run_id: str
    phase: str
    status: str
    """created, running, ok, failed, interrupted, timeout or killed; interactive: run by hand, no verdict."""
    created_at: str
    """UTC, ISO 8601; on disk before the kernel starts."""
    folder: Path
    schema_version: int = SCHEMA_VERSION
    run_key: str | None = None
    """Digest of code, task file, parameters, inputs, environment and seed: equal keys must give equal results. Null
    until the end."""
    launched_by: str = "arislab"
    """arislab, papermill, or jupyter (then nobody supervised it)."""
    resumed_from: str | None = None
    """The run that this one goes on from."""
    rerun_of: str | None = None
    """The run that this one repeats."""
    started_at: str | None = None
    """When the kernel was there."""
    finished_at: str | None = None
    duration_s: float | None = None
    """From created_at to finished_at."""
    cause: str | None = None
    """Kind of reason: exception, exit, signal, time-limit, kernel-died, out-of-memory, disk-full, folder-gone,
    no-start."""
    reason: str | None = None
    """Why it is not ok."""
    signal: str | None = None
    cell: dict[str, Any] | None = None
    """The cell that ran when it ended: index in the source notebook (from 0), id, heading, ename, evalue."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Every code cell: id, status (completed, failed, running, not-run), duration_s."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """In force, as JSON can hold them; ``parameter_types`` says what they are in Python."""
    parameters_passed: dict[str, Any] = field(default_factory=dict)
    parameters_from: dict[str, str] = field(default_factory=dict)
    """Name to where its value came from: default, -p, the name of a file, papermill, …"""
    parameter_types: dict[str, str] = field(default_factory=dict)
    """Name to the type that the notebook declares."""
    seed: int | None = None
    headline: dict[str, Any] | None = None
    tables_read: dict[str, Any] = field(default_factory=dict)
    """Table to {version, rows, digest}; only reads before the run's own first write to it: its inputs."""
    tables_written: dict[str, Any] = field(default_factory=dict)
    """Table to {version_before, version, rows, digest, columns}: what this run left in it; columns gives a digest
    each."""
    servers: list[dict[str, Any]] = field(default_factory=list)
    """Batch servers that were asked: base_url, identity, models, about."""
    notebook: dict[str, Any] = field(default_factory=dict)
    """path, sha256 (of the file), source_sha256 (of the sources of its code cells)."""
    task: dict[str, Any] | None = None
    code: dict[str, Any] = field(default_factory=dict)
    """commit, branch, dirty, diff_sha256, untracked; package_version and package_sha256 of arislab."""
    environment: dict[str, Any] = field(default_factory=dict)
    supervisor: dict[str, Any] = field(default_factory=dict)
    """pid, its start time and the boot it belongs to: how a reader knows that a running record is lost."""
    root: str | None = None
    """Folder of data/ and papermill_runs/ when it ran."""
    lake: str | None = None
    """URL or folder of the tables when it ran. The folder is found again as that of the root in which the record lies
    now; records of older versions, which lack it, ran on that too."""
    peak_rss_mb: float | None = None
    """Largest memory of the kernel process, without its children; null if the kernel died or the system cannot tell."""
    files: dict[str, Any] = field(default_factory=dict)
    """Every other file of the folder: bytes, sha256; of notebook.ipynb also cells, which stay equal when it is only
    saved again (``digests``)."""
    record_sha256: str | None = None
    """Digest of all other fields but signature: a record that was changed by hand says so."""
    signature: dict[str, str] | None = None
    """Of record_sha256, with the key of the user who ran it: key (its fingerprint) and hmac; null where no key can be
    kept."""

    def __repr__(self) -> str:
        took = "" if self.duration_s is None else f" in {self.duration_s:.1f} s"
        lines = [f"{self.phase}: {self.status}{took}, record in {self.folder}"]
        if self.status not in ("ok", "created", "running"):
            lines.append(f"  {_stored(self.tables_written, self.cells)}")
        if self.status != "ok":  # last, where a terminal and a log that is cut at the top still show it
            lines.append(f"  {self.reason}")
            if self.cell:
                lines.append(
                    f"  cell {self.cell['index']} of {Path(self.notebook['path']).name}: {self.cell['heading']}"
                )
        if self.headline:
            lines.append(as_text(self.headline, indent="  "))
        return "\n".join(lines)


def _stored(written: Mapping[str, Any], cells: list[dict[str, Any]]) -> str:
    """Say what a run that is not ok has left in the lake, and what it did not come to."""
    tables = [f"{name} ({state['rows'] or 0:,} rows, version {state['version']})" for name, state in written.items()]
    n_left = sum(cell["status"] in ("not-run", "running", "failed") for cell in cells)
    left = (
        f"; {n_left} of {len(cells)} code cells did not complete, and what they write is not stored" if n_left else ""
    )
    return f"stored in the lake, and kept: {', '.join(tables) or 'nothing'}{left}"


def fields_of(record: Record) -> dict[str, Any]:
    """Return the fields of a record as run.json has them."""
    return {name: value for name, value in vars(record).items() if name != "folder"}


def record_sha256(record: Mapping[str, Any]) -> str:
    """Return the digest of all fields of a run.json but this one and its signature."""
    rest = {name: value for name, value in record.items() if name not in SEAL}
    return of_json(rest)


def run_key(record: Mapping[str, Any]) -> str:
    """Return the digest of what decides a run's result: code, task file, parameters, inputs, environment, seed."""
    decides = {
        "notebook": record["notebook"].get("source_sha256"),
        "package": record["code"].get("package_sha256"),
        "task": (record["task"] or {}).get("sha256"),
        # by its name: a path names the machine, and the text of the task counts by its digest
        "parameters": record["parameters"] | ({"task": record["task"]["name"]} if record["task"] else {}),
        "inputs": {name: state.get("digest") for name, state in record["tables_read"].items()},
        "environment": [record["environment"].get(name) for name in ("python", "lock_sha256")],
        "seed": record["seed"],
    }
    return of_json(decides)
