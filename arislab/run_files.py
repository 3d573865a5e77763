"""The folders of runs as they lie on disk: which there are, and one ``run.json`` as a dict, whatever became of it.

A record without a verdict is shown as ``lost`` if its supervisor is gone; a folder without a readable record as ``unreadable``.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from arislab import process
from arislab.place import RUN_ID

OPEN = ("created", "running")
_SILENT_S = 30.0  # without a sign of life from another machine for this long, a run is lost

COLUMNS = (
    "run_id",
    "phase",
    "status",
    "created_at",
    "started_at",
    "duration_s",
    "parameters",
    "headline",
    "reason",
    "commit",
    "run_key",
    "launched_by",
    "folder",
)
"""What a list of runs has for each; null: not known, or not yet."""
_NONE = -1  # which no hash is
_LISTED = (*COLUMNS, "cause", "signal", "cell", "resumed_from", "rerun_of", "seed", "finished_at", "root")


def read(folder: Path) -> dict[str, Any]:
    """Return a record whole, as it is on disk: ``COLUMNS`` and all that it says more."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "run_id": folder.name,
        "folder": str(folder),
        "status": "unreadable",
    }
    if named := RUN_ID.fullmatch(folder.name):
        row["phase"] = named[2]
        with contextlib.suppress(ValueError):  # digits that are no time
            row["created_at"] = datetime.fromisoformat(named[1]).isoformat(timespec="milliseconds")
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found.setdefault("created_at", found.get("started_at"))  # records of version 1
        began = datetime.fromisoformat(found["created_at"])
        if not (began.tzinfo and isinstance(found["run_id"], str) and isinstance(found["parameters"], dict)):
            raise ValueError("fields of other types")
        row |= found | {"folder": str(folder), "commit": found.get("code", {}).get("commit")}
        if row["status"] in OPEN:
            _ = row["supervisor"]["pid"]  # a record without one cannot be judged
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row |= {"status": "unreadable", "reason": f"run.json: {type(error).__name__}: {error}"}
    return row


def seen(run: dict[str, Any]) -> dict[str, Any]:
    """Return the record as a reader sees it now: one without a verdict may be lost."""
    if run["status"] not in OPEN:
        return run
    is_gone = process.gone(run["supervisor"])
    if is_gone is None:
        heart = Path(run["folder"]) / "heartbeat"
        with contextlib.suppress(OSError):
            is_gone = time.time() - heart.stat().st_mtime > _SILENT_S
    if not is_gone:
        return run
    return run | {"status": "lost", "reason": "the process that ran it is gone and wrote no verdict"}


def shown(run: dict[str, Any]) -> dict[str, Any]:
    """Return what a list shows of a record, and what tells whether one without a verdict is lost."""
    return {key: run.get(key) for key in (*_LISTED, *(("supervisor",) if run["status"] in OPEN else ()))}


def names(base: Path) -> list[str]:
    """Return the names in a folder of runs; ``stamp`` tells which of them are runs."""
    if not base.is_dir():
        return []
    return [name for name in os.listdir(base) if not name.startswith(".")]  # noqa: PTH208 - ten thousand Paths cost more


def stamp(name: str, base: int) -> int | None:
    """Return what changes when a run's record is written: -1 if a run has none; null if it is no run.

    Args:
        name: A folder's name.
        base: The opened folder of the runs, a file descriptor.
    """
    try:
        found = os.stat(f"{name}/run.json", dir_fd=base)
    except OSError:
        return _NONE if RUN_ID.fullmatch(name) and _is_folder(name, base) else None
    return hash((found.st_mtime_ns, found.st_size, found.st_ino))


def _is_folder(name: str, base: int) -> bool:
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=base))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def opened(base: Path) -> Iterator[int]:
    """Open a folder of runs for ``stamp``."""
    number = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)


def newest_first(found: list[str], created_at: Callable[[str], str | None]) -> list[str]:
    """Return names of runs by the time they were made; only those whose name does not begin with it are asked for it."""
    timed = [(name[:15], name) for name in found if RUN_ID.match(name)]
    other = [name for name in found if not RUN_ID.match(name)] if len(timed) < len(found) else []
    timed += [((created_at(name) or "").replace("-", "").replace(":", "")[:15], name) for name in other]
    return [name for _, name in sorted(timed, reverse=True)]
