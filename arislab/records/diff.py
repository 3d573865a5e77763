"""What differs between two run records: lines of text by heading."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arislab.records import outputs
from arislab.records.files import root_of
from arislab.records.text import number_text


def diff(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Return what differs between two runs: lines of text by heading; headings without a difference are left out.

    Args:
        before: A record from ``find`` or ``read``.
        now: Another one.
    """
    one, other = Path(before["folder"]), Path(now["folder"])
    differences = {
        "status": _pair(before["status"], now["status"]),
        "parameters": _fields(before["parameters"] or {}, now["parameters"] or {}),
        "code": [
            *_fields(*({k: run.get("code", {}).get(k) for k in ("commit", "package_sha256")} for run in (before, now))),
            *_texts(one / "code.diff", other / "code.diff"),
        ],
        "notebook": _fields(*({"source": run.get("notebook", {}).get("source_sha256")} for run in (before, now))),
        "task file": _texts(one / "task.py", other / "task.py"),
        "environment": [
            *_fields(
                *({k: run.get("environment", {}).get(k) for k in ("python", "platform")} for run in (before, now))
            ),
            *_texts(one / "env.lock", other / "env.lock"),
        ],
        "inputs": _fields(*({k: _state(v) for k, v in run.get("tables_read", {}).items()} for run in (before, now))),
        "outputs": _fields(
            *({k: _state(v) for k, v in run.get("tables_written", {}).items()} for run in (before, now))
        ),
        "headline": _headlines(before.get("headline") or {}, now.get("headline") or {}),
        "cells": _cells(before, now),
    }
    return {name: lines for name, lines in differences.items() if lines}


def places(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders, the lake and the task file that a run's outputs may name, for comparisons."""
    root = run.get("root") or str(root_of(run))
    task = (run.get("task") or {}).get("path") or ""
    lake = run.get("lake") or f"{root}/data/lake"
    return {"root": root, "code": run.get("code", {}).get("checkout") or "", "task": task, "lake": lake}


def _pair(one: Any, other: Any) -> list[str]:
    return [] if one == other else [f"{one} → {other}"]


def _fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*one, *other])
    return [f"{n}: {one.get(n)!r} → {other.get(n)!r}" for n in names if one.get(n) != other.get(n)]


def _state(table: Mapping[str, Any]) -> str:
    return (
        f"version {table.get('version')}, {table.get('rows'):,} rows, {str(table.get('digest'))[:12]}"
        if isinstance(table.get("rows"), int)
        else f"version {table.get('version')}"
    )


def _texts(one: Path, other: Path) -> list[str]:
    before, now = ((p.read_text(errors="replace").splitlines() if p.is_file() else []) for p in (one, other))
    # without context: what is equal says nothing here
    lines = difflib.unified_diff(before, now, lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _headlines(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Numbers side by side; intervals that do not overlap say so."""
    lines = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if a == b:
            continue
        line = f"{name}: {number_text(a)} → {number_text(b)}"
        if isinstance(a, dict) and isinstance(b, dict) and _is_bounded(a) and _is_bounded(b):
            apart = a["high"] < b["low"] or b["high"] < a["low"]
            line += " (intervals apart)" if apart else " (intervals overlap)"
        lines.append(line)
    return lines


def _is_bounded(interval: Mapping[str, Any]) -> bool:
    return interval.get("low") is not None and interval.get("high") is not None


def _cells(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The code cells whose outputs differ, with the first difference of each."""
    books = []
    for run in (before, now):
        try:
            notebook = json.loads((Path(run["folder"]) / "notebook.ipynb").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        books.append({cell["id"]: cell for cell in outputs.cells(notebook, places=places(run))[0]})
    one, other = books
    lines = []
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            lines.append(f"{name}: only in {'the first' if name in one else 'the second'}")
        elif difference := outputs.first_differing_cell([one[name]], [other[name]]):
            lines.append(difference.partition(" ")[2].partition(" ")[2].partition(" ")[2])
    return lines
