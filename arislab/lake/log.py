"""``tables.jsonl`` of a run: which tables its kernel read and wrote, one JSON line each. ``lake`` writes it."""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arislab.lake import conditions


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
            told = entry | {"where": where and conditions.text(where)}
            asked = [told.get(name) for name in ("columns", "where", "sql", "digest")]
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
