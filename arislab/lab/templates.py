"""What a lab starts from: the files that came with the installed arislab, by their place in a lab."""

import json
from pathlib import Path
from typing import Any

from arislab.system.paths import SHIPPED

_FILES = Path(__file__).parent / "files"
_OWN = {"README.md": "README.md", ".gitignore": "gitignore", ".gitattributes": "gitattributes"}
_TASKS = ("notebooks/tasks/*.py", "notebooks/tasks/*.jsonl")
_GUIDE = ("notebooks/guide/*.md", "notebooks/guide/*.svg", "notebooks/guide/*.yaml")
_PATTERNS = ("notebooks/*.ipynb", *_GUIDE, *_TASKS, "data/prices.toml", "data/sample/*")


def shipped() -> dict[str, bytes]:
    """Return the content of every template by its place in a lab (``/`` between folders), in order of the places."""
    found = {place: (_FILES / name).read_bytes() for place, name in _OWN.items()}
    for pattern in _PATTERNS:
        for path in SHIPPED.glob(pattern):
            if path.is_file():
                found[path.relative_to(SHIPPED).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def is_same(place: str, one: bytes, other: bytes) -> bool:
    """Say whether two contents of a file are the same to whoever edits it.

    Line ends do not count, and of a notebook neither what running, opening and saving it leaves: outputs, execution
    counts, ids, kernel and widget state.
    """
    if one == other:
        return True
    if place.endswith(".ipynb") and (cells := _cells(one)) is not None:
        return cells == _cells(other)
    return one.replace(b"\r\n", b"\n") == other.replace(b"\r\n", b"\n")


def as_lines(place: str, content: bytes) -> list[str] | None:
    """Return a file as lines to compare: a notebook as its cells, each under a rule; null if it is no text."""
    if place.endswith(".ipynb") and (cells := _cells(content)) is not None:
        phase, parts = cells
        lines = [f"# metadata: {phase}"]
        for kind, tags, source in parts:
            lines += [f"# %% [{' '.join([kind, *tags])}]", *source.splitlines()]
        return lines
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return None


def _cells(content: bytes) -> tuple[str, list[tuple[str, tuple[str, ...], str]]] | None:
    """Phase of a notebook, and kind, tags and source of each cell; null if it is no notebook."""
    try:
        notebook = json.loads(content)
        phase = notebook.get("metadata", {}).get("arislab", {})
        cells = [(str(c["cell_type"]), _tags(c), "".join(c["source"])) for c in notebook["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # JSON that is no notebook, or none
        return None
    return json.dumps(phase, sort_keys=True), cells


def _tags(cell: dict[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, cell.get("metadata", {}).get("tags", ())))
