"""Two runs that must be equal, the recorded one and the one that repeats it, and the first thing in which they differ.

What is left out of the comparison: measured times, names that servers give to batches, progress bars
(``lake.digests``, ``records.outputs``). This module runs nothing and reads no file of a record but the notebook.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

from arislab.lake import Lake, tables
from arislab.lake.digests import canonical, column_sha256
from arislab.records import diff as run_diff
from arislab.records import outputs
from arislab.records.text import number_text, short
from arislab.runs.verify import Finding, Verdict, lake_of


def compare(before: dict[str, Any], now: dict[str, Any]) -> Verdict:
    """Compare two runs that must be equal: status, parameters, code, inputs, rows, notebook outputs, headline.

    Args:
        before: The recorded run.
        now: The run that repeats it, here or under another root.
    """
    level = level_of(before)
    differences = [
        *_status(before, now),
        # the task is a name or a path of the machine; its text is compared below, as code
        *_named("parameter", before["parameters"], now["parameters"], but=("task",)),
        *_named("code", _code(before), _code(now)),
    ]
    one, other = (lake_of(run) for run in (before, now))
    for name in sorted(before["tables_read"].keys() | now["tables_read"].keys()):
        digests = [run["tables_read"].get(name, {}).get("digest") for run in (before, now)]
        if None not in digests and digests[0] != digests[1]:
            differences.append((f"input {name}", "other rows were read"))
    tables = sorted(before["tables_written"].keys() | now["tables_written"].keys())
    for name in tables:
        if name not in before["tables_written"] or name not in now["tables_written"]:
            where = "now" if name in now["tables_written"] else "before"
            differences.append((name, f"was written only {where}"))
        elif difference := first_difference(name, _rows(one, name, before), _rows(other, name, now)):
            differences.append((name, difference))
    n_cells, n_left_out = 0, 0
    books = [_cells(run) for run in (before, now)]
    if books[0] is not None and books[1] is not None:
        n_cells, n_left_out = len(books[0][0]), books[0][1]
        if difference := outputs.first_differing_cell(books[0][0], books[1][0]):
            differences.append(("notebook", difference))
    counts = {
        "code cells": n_cells - n_left_out,
        "cells left out, for they show times": n_left_out,
        "tables": len(tables),
    }
    return Verdict(before["run_id"], level, counts, [Finding(level, where, what) for where, what in differences])


def _status(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    if before["status"] == now["status"]:
        return []
    return [("status", f"{before['status']} before, {now['status']} now: {now.get('reason')}")]


def _named(kind: str, one: dict[str, Any], other: dict[str, Any], but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    names = [n for n in one.keys() | other.keys() if n not in but and one.get(n) != other.get(n)]
    return [(f"{kind} {n}", f"{one.get(n)!r} before, {other.get(n)!r} now") for n in sorted(names)]


def _code(run: dict[str, Any]) -> dict[str, Any]:
    """Digests of what ran; those that a record of an older version lacks are left out."""
    parts = {
        "package": run["code"].get("package_sha256"),
        "notebook": run["notebook"].get("source_sha256") or run["notebook"].get("sha256"),
        "task file": (run["task"] or {}).get("sha256"),
    }
    return {name: value for name, value in parts.items() if run.get("schema_version", 1) >= 2 or name == "task file"}


def _rows(lake: Lake, name: str, run: dict[str, Any]) -> pl.DataFrame:
    return lake[name].read(where={"run_id": run["run_id"]}, version=run["tables_written"][name]["version"])


def _cells(run: dict[str, Any]) -> tuple[list[dict[str, Any]], int] | None:
    try:
        notebook = json.loads((Path(run["folder"]) / "notebook.ipynb").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outputs.cells(notebook, places=run_diff.places(run))


def level_of(run: dict[str, Any]) -> str:
    """Return V2 for a run that asked a model or people, V1 for any other."""
    has_people = bool(run["tables_read"].get("reviews", {}).get("rows"))
    return "V2" if has_people or {"training_data_raw", "judgements"} & {*run["tables_written"]} else "V1"


def within(before: dict[str, Any], now: dict[str, Any]) -> Verdict:
    """Compare at V3: every number of the headline that has an interval lies, run again, within the recorded one."""
    findings, n = [], 0
    for name, interval in (before["headline"] or {}).items():
        if not isinstance(interval, dict) or not {"mean", "low", "high"} <= interval.keys():
            continue
        n += 1
        new = (now["headline"] or {}).get(name)
        mean = new.get("mean") if isinstance(new, dict) else None
        if mean is None or not interval["low"] <= mean <= interval["high"]:
            findings.append(
                Finding("V3", f"headline {name}", f"{number_text(interval)} before, {number_text(new)} now")
            )
    findings += [Finding("V3", where, what) for where, what in _status(before, now)]
    return Verdict(before["run_id"], "V3", {"numbers with intervals": n}, findings)


def first_difference(table: str, before: pl.DataFrame, now: pl.DataFrame) -> str | None:
    """Say where two frames of a table first differ: column, key of the row, both values; null if they are equal."""
    one, other = canonical(table, before), canonical(table, now)
    if missing := sorted(set(one.columns) ^ set(other.columns)):
        where = "now" if missing[0] in other.columns else "before"
        return f"column {missing[0]!r} has values only {where}"
    keys = [k for k in tables.contract(table).key if k in one.columns]
    if one.height != other.height or (keys and not one.select(keys).equals(other.select(keys), null_equal=True)):
        left, right = ((a.join(b, on=keys, how="anti") if keys else a) for a, b in ((one, other), (other, one)))
        alone = left if left.height else right
        which = f"; only {'before' if left.height else 'now'}: {_key(alone, keys, 0)}" if keys and alone.height else ""
        return f"{one.height:,} rows before, {other.height:,} now{which}"
    for name in one.columns:
        if column_sha256(one[name]) != column_sha256(other[name]):
            # two nulls are equal here
            same = one[name].eq_missing(other[name])
            row = next((i for i, equal in enumerate(same.to_list()) if not equal), 0)
            values = f"{short(one[name][row])} before, {short(other[name][row])} now"
            return f"row {_key(one, keys, row)}, column {name!r}: {values}"
    return None


def _key(frame: pl.DataFrame, keys: list[str], row: int) -> str:
    return ", ".join(f"{k}={frame[k][row]!r}" for k in keys) or f"number {row}"
