"""Records made true again after what they read, and what their files showed, was forgotten.

A record says then under ``forgotten`` by which receipt, its digests are those of what is left, and its seal is new: so
``arislab verify`` still tells a record that was tampered with from one of which a person was taken out. What was not
true before stays untrue.
"""

import json
from pathlib import Path
from typing import Any

from arislab.errors import LakeError
from arislab.lake import Lake, digests
from arislab.lake import log as lake_log
from arislab.records import digests as file_digests
from arislab.records import record as fields
from arislab.records.files import files
from arislab.runs import signing, verify
from arislab.system.files import replace


def witness(folder: Path) -> dict[str, Any] | None:
    """Return what of a record is true now, for ``reseal``; null for a folder without a readable record that has ended.

    Args:
        folder: Of the run.
    """
    raw = _raw(folder)
    if raw is None or not raw.get("record_sha256"):
        return None
    verdict = verify.check_files(raw | {"folder": str(folder)})
    return {
        "is_sealed": raw["record_sha256"] == fields.record_sha256(raw),
        "is_signed": signing.problem(raw.get("signature"), raw["record_sha256"]) is None,
        "untrue": sorted({finding.where for finding in verdict.findings}),
        "files": {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files(folder)},
    }


def reseal(folder: Path, seen: dict[str, Any], receipt: str, *, at: str, tables: list[str]) -> bool:
    """Make a record say what is left of it; returns whether anything of it, or of what it read or left, had changed.

    Args:
        folder: Of the run.
        seen: What ``witness`` said before anything was changed.
        receipt: Name of the receipt.
        at: When, UTC, ISO 8601.
        tables: Names of the tables that lost rows.
    """
    raw = _raw(folder)
    if raw is None:
        return False
    lake, untrue = verify.lake_of(raw | {"folder": str(folder)}), {*seen["untrue"]}
    touched = sorted({*raw["tables_read"], *raw["tables_written"]} & {*tables})
    now = {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files(folder)}
    if not touched and now == seen["files"]:
        return False
    _renew_reads(folder, lake, [name for name in touched if name not in untrue])
    read, _ = lake_log.reads_and_writes(folder / "tables.jsonl")
    for name in (name for name in touched if name not in untrue):
        if name in raw["tables_read"] and name in read:
            raw["tables_read"][name] |= {key: read[name][key] for key in ("rows", "digest") if key in read[name]}
        state = raw["tables_written"].get(name)
        if state and state.get("columns"):
            rows = lake[name].read(where={"run_id": raw["run_id"]}, version=state["version"])
            columns = digests.columns(name, rows)
            state |= {"rows": rows.height, "digest": digests.of_columns(columns, rows.height), "columns": columns}
    for name in raw["files"].keys() - untrue:
        if (folder / name).is_file():
            raw["files"][name] = file_digests.of_file(folder / name)
    marks = [mark for mark in raw.get("forgotten", []) if mark["receipt"] != receipt]
    raw["forgotten"] = [*marks, {"receipt": receipt, "at": at, "tables": touched}]
    if raw.get("run_key"):
        raw["run_key"] = fields.run_key(raw)
    if seen["is_sealed"]:
        raw["record_sha256"] = fields.record_sha256(raw)
        raw["signature"] = signing.sign(raw["record_sha256"]) if seen["is_signed"] else None
    replace(folder / "run.json", json.dumps(raw, indent=1, ensure_ascii=False))
    return True


def _renew_reads(folder: Path, lake: Lake, tables: list[str]) -> None:
    """Write the digests of what the reads of tables would give now."""
    lines = []
    for line in lake_log.table_lines(folder / "tables.jsonl"):
        if line["op"] == "read" and line.get("digest") and line["table"] in tables and line["version"] is not None:
            try:
                rows = lake[line["table"]].read(
                    columns=line.get("columns"), where=line.get("where"), version=line["version"]
                )
                line |= {"rows": rows.height, "digest": digests.digest(line["table"], rows)}
            except LakeError:  # a version whose files were gone before: verify says so, then as now
                pass
        lines.append(json.dumps(line) + "\n")
    if lines:
        replace(folder / "tables.jsonl", "".join(lines))


def _raw(folder: Path) -> dict[str, Any] | None:
    try:
        raw: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
        return raw if isinstance(raw["files"], dict) and isinstance(raw["tables_read"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
