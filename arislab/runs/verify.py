"""What is checked of a recorded run, level by level; here V0, which runs nothing.

- V0: the record's files have their digests (the notebook at least those of its cells: opening it saves it anew), and
  the tables still hold what the run read and left.
- V1: a run that asked no model and no people, run again (``rerun``), gives the same notebook outputs, rows, headline
  and adapter, bit for bit (``compare``).
- V2: a run that did, with the recorded answers and reviews given again, likewise.
- V3: the model asked anew: the headline's numbers within their recorded intervals.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import LakeError
from arislab.lake import Lake, digests
from arislab.lake import log as lake_log
from arislab.records import digests as file_digests
from arislab.records import files as run_files
from arislab.records.record import record_sha256


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be."""

    level: str
    """V0, V1, V2 or V3."""
    where: str
    """run.json, the name of a file, a table, the notebook, or the headline."""
    what: str
    """The first difference, in words."""

    def __repr__(self) -> str:
        return f"{self.level} {self.where}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What a verification found."""

    run_id: str
    level: str
    """The highest level that was checked."""
    checked: dict[str, int] = field(default_factory=dict)
    """How many of what were compared."""
    findings: list[Finding] = field(default_factory=list)
    """Empty: the run is verified."""
    note: str | None = None
    """Why the record cannot be run again to the same result, if so."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.checked.items())
        if not self.findings:
            return f"{self.run_id}: {self.level} equal ({counts})" + (f"\n  {self.note}" if self.note else "")
        lines = [f"{self.run_id}: NOT equal at {self.level} ({counts})", *(f"  {finding}" for finding in self.findings)]
        return "\n".join(lines)


_UNREADABLE = (LakeError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What reading a damaged Parquet file raises; polars panics at some."""


# ---- V0: what is recorded is still there -----------------------------------------------------------------------------


def check_files(run: dict[str, Any]) -> Verdict:
    """Check at V0 that a record, its files, and the rows that it read and left are what they were.

    Args:
        run: A record from ``records.find``.
    """
    folder, findings = Path(run["folder"]), []
    raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if raw.get("record_sha256") is not None and raw["record_sha256"] != record_sha256(raw):
        findings += _changed_fields(raw, folder)
    findings += [Finding("V0", name, "is a link, which no file of a record is") for name in run_files.links(folder)]
    for name, recorded in run.get("files", {}).items():
        if run_files.is_linked(folder / name, folder):
            findings.append(Finding("V0", name, "is not read: it lies outside of the record, or behind a link"))
            continue
        try:
            change = file_digests.change(folder / name, recorded)
        except OSError as error:
            findings.append(Finding("V0", name, f"cannot be read ({error.strerror})"))
            continue
        if change:
            findings.append(Finding("V0", name, change))
    lake = lake_of(run)
    n_reads = 0
    for line in lake_log.table_lines(folder / "tables.jsonl"):
        if line["op"] == "read" and line.get("digest") and line["version"] is not None:
            n_reads += 1
            findings += _check_read(lake, line)
    for name, recorded in run.get("tables_written", {}).items():
        if recorded.get("columns"):
            findings += _check_left(lake, name, recorded, run["run_id"])
    checked = {
        "files": len(run.get("files", {})),
        "reads": n_reads,
        "tables written": len(run.get("tables_written", {})),
    }
    return Verdict(run["run_id"], "V0", checked, findings, _forgotten(run))


def lake_of(run: dict[str, Any]) -> Lake:
    """Return the lake on which a run ran: the one of its URL, or of the root in which its record lies now."""
    return Lake(run_files.lake_of(run), root=run_files.root_of(run))


def _forgotten(run: dict[str, Any]) -> str | None:
    """Say that a person was taken out of what a record read or showed (``resealing``); null if nobody was."""
    marks = run.get("forgotten") or []
    if not marks:
        return None
    said = [
        f"receipt {mark['receipt']} on {mark['at'][:10]} ({', '.join(mark['tables']) or 'its files alone'})"
        for mark in marks
    ]
    return (
        f"of what it read and left, a person was forgotten: {'; '.join(said)}. Without "
        "their rows it gives another result: it is not run again."
    )


def _changed_fields(raw: dict[str, Any], folder: Path) -> list[Finding]:
    """Say what of run.json was changed, where another file of the record tells."""
    try:
        first = (folder / "events.jsonl").read_text(encoding="utf-8").partition("\n")[0]
        then = dict(json.loads(first)["run"]["facets"]["arislab_run"]["parameters"])
        now = dict(raw["parameters"])
    except (OSError, ValueError, KeyError, TypeError):  # the file that would tell is gone or damaged, as run.json is
        then, now = {}, {}
    changes = [
        Finding("V0", "run.json", f"parameter {name!r} is {now.get(name)!r}, was {then[name]!r} when the run was made")
        for name in then
        if then[name] != now.get(name)
    ]
    return changes or [Finding("V0", "run.json", "was changed after the run (its record_sha256 does not fit)")]


def _check_read(lake: Lake, line: dict[str, Any]) -> list[Finding]:
    name, version = line["table"], line["version"]
    try:
        frame = lake[name].read(columns=line.get("columns"), where=line.get("where"), version=version)
    except _UNREADABLE as error:
        return [Finding("V0", name, f"version {version}, an input, cannot be read: {str(error).splitlines()[0]}")]
    if digests.digest(name, frame) == line["digest"]:
        return []
    what = f"version {version}, an input, is not what was read: {frame.height:,} rows now, {line['rows']:,} then"
    return [Finding("V0", name, what)]


def _check_left(lake: Lake, name: str, state: dict[str, Any], run_id: str) -> list[Finding]:
    try:
        frame = lake[name].read(where={"run_id": run_id}, version=state["version"])
    except _UNREADABLE as error:
        return [
            Finding("V0", name, f"version {state['version']}, an output, cannot be read: {str(error).splitlines()[0]}")
        ]
    now = digests.columns(name, frame)
    changed = sorted(c for c in now.keys() | state["columns"].keys() if now.get(c) != state["columns"].get(c))
    if not changed and frame.height == state["rows"]:
        return []
    which = f"column {', '.join(map(repr, changed))}" if len(changed) < len(now) else "all columns"
    rows = f"{frame.height:,} rows now, {state['rows']:,} then"
    what = f"version {state['version']}, an output, was changed: {which}; {rows}"
    return [Finding("V0", name, what)]
