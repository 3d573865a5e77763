"""``tables.jsonl`` of a run: which tables its kernel read and wrote, one JSON line each.

    {"op": "read", "table": "reviews", "version": 3, "rows": 40, "digest": "ab…", "columns": null, "where": {…}}
    {"op": "write", "table": "reviews", "version_before": 3, "version": 4, "rows": 2, "digest": "cd…"}

A kernel is under a run if ``ARISLAB_RUN_DIR`` is set; without one nothing is noted.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.lake import conditions


def is_kept() -> bool:
    """Return whether this process is under a run; only then is a digest worth its time."""
    return bool(os.environ.get("ARISLAB_RUN_DIR"))


def note(op: str, table: str, *, version: int | None, **more: Any) -> None:
    """Add a line to the log of the run that this process is under, if any.

    Raises:
        PrerequisiteError: It cannot be written: a record that leaves out what was read would be no record.
    """
    if not is_kept():
        return
    folder = os.environ["ARISLAB_RUN_DIR"]
    line = json.dumps({"op": op, "table": table, "version": version} | more) + "\n"
    try:
        with (Path(folder) / "tables.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        stored = f"version {version} of {table} is stored, but " if op == "write" else ""
        raise PrerequisiteError(
            f"{stored}the record in {folder} cannot note it ({error.strerror}); check disk space, then run the cell "
            "again."
        ) from None


def reads_and_writes(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge the lines of tables.jsonl: what was read before it was written (inputs), and what was written, by table."""
    read: dict[str, Any] = {}
    written: dict[str, Any] = {}
    parts: dict[str, set[str]] = {}
    for entry in table_lines(path):
        table, version, rows = entry["table"], entry["version"], entry["rows"]
        if entry["op"] == "write":
            first = written.setdefault(table, {"version_before": entry.get("version_before"), "rows": 0})
            first |= {"version": version, "rows": rows + first["rows"]}
        elif table not in written:
            first = read.setdefault(table, {"version": version, "rows": rows})
            first["rows"] = max(first["rows"] or 0, rows or 0) if rows is not None else first["rows"]
            where = entry.get("where")  # in words: an older record holds them
            worded = entry | {"where": where and conditions.text(where)}
            asked = [worded.get(name) for name in ("columns", "where", "sql", "digest")]
            parts.setdefault(table, set()).add(json.dumps(asked))
    for table, several in parts.items():
        read[table]["digest"] = hashlib.sha256(json.dumps(sorted(several)).encode()).hexdigest()
    return read, written


def table_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the lines of a tables.jsonl; a torn last one (the kernel died while it wrote) is left out."""
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            _ = entry["op"], entry["table"], entry["version"], entry["rows"]
            yield entry
