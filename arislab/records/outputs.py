"""Executed notebooks in one form, so that two equal runs compare equal: without what their clocks and folders put in.

Left out are execution times and counts, widget ids, and what went to stderr (progress bars); run ids and the paths of
the run's folders are replaced. ``lake.digests`` does the same for the rows of tables.
"""

import re
from typing import Any

from arislab.records.headline import HEADLINE_MIME
from arislab.records.text import short
from arislab.system.paths import RUN_ID

VOLATILE_TAG = "volatile-output"
"""Tag of a cell whose output shows measured times; such outputs are left out of comparisons, and counted."""

INJECTED = "injected-parameters"
"""papermill's tag of the cell with the parameters that were passed, and here its id in every run."""
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

_MEASURED = re.compile(r"(^|_)(seconds|s)$")
_OBJECT_AT = re.compile(r" at 0x[0-9a-f]+")


def cells(notebook: dict[str, Any], *, places: dict[str, str]) -> tuple[list[dict[str, Any]], int]:
    """Return the code cells of an executed notebook in canonical form, and how many have outputs that are left out.

    Args:
        notebook: The notebook's JSON.
        places: Name to path of the folders of the run (its root, its checkout), which are replaced in texts.

    Returns:
        One dict a code cell: id, source, outputs.
    """
    code_cells, n_left_out = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        is_volatile = VOLATILE_TAG in cell.get("metadata", {}).get("tags", [])
        n_left_out += is_volatile
        outputs = [] if is_volatile else [o for o in map(_output, cell.get("outputs", [])) if o is not None]
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        name = cell.get("id")
        if INJECTED in cell.get("metadata", {}).get("tags", []):
            name, source = INJECTED, _passed(source)
            if not source:
                continue
        code_cells.append({"id": name, "source": source, "outputs": _replaced(outputs, places)})
    return code_cells, n_left_out


def _passed(source: str) -> str:
    """What an injected cell sets but the task: that is a name or a path of the machine, and its file is compared."""
    lines = [line for line in source.splitlines() if line and not line.startswith(("#", "task = "))]
    return "\n".join(lines)


def _output(output: dict[str, Any]) -> dict[str, Any] | None:
    """One output without what differs between equal runs; null if nothing is left of it."""
    if output["output_type"] == "stream":
        return None if output["name"] == "stderr" else {"text": "".join(output["text"])}
    if output["output_type"] == "error":
        return {"ename": output["ename"], "evalue": output["evalue"]}
    data = output.get("data", {})
    if WIDGET_MIME in data:
        return None
    if HEADLINE_MIME in data:
        return {HEADLINE_MIME: {k: v for k, v in data[HEADLINE_MIME].items() if not _MEASURED.search(k)}}
    return {kind: "".join(v) if isinstance(v, list) else v for kind, v in sorted(data.items())}


def _replaced(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        # the longest first: a checkout may lie inside the root
        for name, path in sorted(places.items(), key=lambda place: -len(place[1])):
            value = value.replace(path, f"<{name}>") if path else value
        return _OBJECT_AT.sub("", RUN_ID.sub("<run>", value))
    if isinstance(value, dict):
        return {k: _replaced(v, places) for k, v in value.items()}
    return [_replaced(v, places) for v in value] if isinstance(value, list) else value


def first_differing_cell(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """Say which code cell of two notebooks in canonical form first differs, and how; null if none does."""
    for number, (one, other) in enumerate(zip(before, now, strict=False), start=1):
        if one == other:
            continue
        where = f"code cell {number} ({one['id']})"
        if one["source"] != other["source"]:
            return f"{where}: source {_lines(one['source'], other['source'])}"
        if len(one["outputs"]) != len(other["outputs"]):
            return f"{where}: {len(one['outputs'])} outputs before, {len(other['outputs'])} now"
        for a, b in zip(one["outputs"], other["outputs"], strict=True):
            for kind in sorted(a.keys() | b.keys()):
                if a.get(kind) != b.get(kind):
                    return f"{where}: {kind} {_lines(a.get(kind), b.get(kind))}"
        return f"{where}: id {one['id']!r} before, {other['id']!r} now"
    if len(before) != len(now):
        return f"{len(before)} code cells before, {len(now)} now"
    return None


def _lines(one: Any, other: Any) -> str:
    """The first line in which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = next(k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k))
        return f"{name!r}: {short(one.get(name))} before, {short(other.get(name))} now"
    left, right = str(one).split("\n"), str(other).split("\n")
    for a, b in zip(left, right, strict=False):
        if a != b:
            start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(0, start - 20)
            return f"{short(a[start:])} before, {short(b[start:])} now"
    return f"{len(left)} lines before, {len(right)} now"
