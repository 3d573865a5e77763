"""The folders of runs as they lie on disk: which there are, and one ``run.json`` as a dict, whatever became of it.

A record without a verdict is shown as ``lost`` if its supervisor is gone; a folder without a readable record as
``unreadable``.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.system import processes
from arislab.system.paths import RUN_ID, is_url

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
    """Return a record whole, as it is on disk: ``COLUMNS`` and all that it says more.

    A record that is no JSON, lacks a field or has one of another type is ``unreadable``, with the reason; ``is_unread``
    if the file is there but could not be read this time.
    """
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
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record.setdefault("created_at", record.get("started_at"))  # records of version 1
        _check(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        is_unread = isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError))
        return row | {"reason": f"run.json: {type(error).__name__}: {error}", "is_unread": is_unread}
    row |= record | {"folder": str(folder), "commit": record.get("code", {}).get("commit")}
    return row


def _check(record: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError if a record's fields are not what a list of runs relies on."""
    for name in ("run_id", "status", "phase", "reason", "run_key", "launched_by"):
        text = record[name] if name in ("run_id", "status") else record.get(name) or ""
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}, must be text")
    if not isinstance(record["parameters"], dict) or not isinstance(record.get("headline"), dict | None):
        raise ValueError("parameters and headline must be objects")
    if not isinstance(record.get("code", {}), dict):
        raise ValueError(f"code is {record['code']!r}, must be an object")
    took = record.get("duration_s")
    if isinstance(took, bool) or not isinstance(took, int | float | None):
        raise ValueError(f"duration_s is {took!r}, must be a number")
    began = datetime.fromisoformat(record["created_at"])
    if not began.tzinfo:
        raise ValueError(f"created_at {record['created_at']!r} has no offset")
    _ = began.astimezone(UTC)
    if record.get("started_at") is not None:
        datetime.fromisoformat(record["started_at"])
    if record["status"] in OPEN:  # one without a supervisor cannot be judged
        pid = record["supervisor"]["pid"]
        if not isinstance(pid, int) or not 0 < pid < 2**31:
            raise ValueError(f"supervisor.pid is {pid!r}, must be the number of a process")


def root_of(run: Mapping[str, Any]) -> Path:
    """Return the folder of ``data/`` and ``papermill_runs/`` in which a record lies now, wherever it ran."""
    return Path(run["folder"]).parent.parent


def lake_of(run: Mapping[str, Any]) -> str:
    """Return the URL of the lake on which a run ran, or the folder of the tables in the root in which it lies now."""
    named = run.get("lake")
    return str(named) if is_url(named) else str(root_of(run) / "data" / "lake")


def seen(run: dict[str, Any]) -> dict[str, Any]:
    """Return the record as a reader sees it now: one without a verdict may be lost."""
    if run["status"] not in OPEN:
        return run
    is_gone = processes.gone(run["supervisor"])
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


@contextlib.contextmanager
def opened(base: Path) -> Iterator[int | None]:
    """Open a folder of runs for ``names`` and ``stamp``; null if there is none.

    Raises:
        PrerequisiteError: It may not be read.
    """
    try:
        number = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise PrerequisiteError(f"cannot read {base}: {error.strerror}; allow it, or choose another --root.") from None
    try:
        yield number
    finally:
        os.close(number)


def files(folder: Path) -> list[Path]:
    """Return the files of a run in order, those that are meant: a link is none of them, wherever it points."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_linked(path, folder))


def links(folder: Path) -> list[str]:
    """Return the names of the links in the folder of a run."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink())


def is_linked(path: Path, folder: Path) -> bool:
    """Say whether a path below a folder goes through a link, or out of the folder."""
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else ("..",)
    return ".." in parts or any((folder / Path(*parts[: n + 1])).is_symlink() for n in range(len(parts)))


def names(base: int | None) -> list[str]:
    """Return the names in an opened folder of runs; ``stamp`` tells which are runs.

    A name that is not UTF-8 is never one.
    """
    entries = [] if base is None else os.listdir(base)  # noqa: PTH208 - a descriptor
    listed = [name for name in entries if not name.startswith(".")]
    # one look at all of them together: asking each of ten thousand names whether it is text takes longer than the list
    return listed if "".join(listed).isascii() else [name for name in listed if _is_text(name)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def stamp(name: str, base: int) -> int | None:
    """Return what changes when a run's record is written: -1 if a run has none; null if it is no run.

    Args:
        name: A folder's name.
        base: The opened folder of the runs, a file descriptor.
    """
    try:
        state = os.stat(f"{name}/run.json", dir_fd=base)
    except OSError:
        return _NONE if RUN_ID.fullmatch(name) and _is_folder(name, base) else None
    # ctime and inode, which nobody sets: a file put back with its old time is seen to be another
    return hash((state.st_ctime_ns, state.st_size, state.st_ino))


def _is_folder(name: str, base: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=base).st_mode)
    except OSError:
        return False


def age(name: str, created_at: str | None) -> str:
    """Return a text by which runs sort by the time they were made.

    Its second, from the name if that has one, then all that is known of it.
    """
    exact = ""
    if created_at:
        exact = datetime.fromisoformat(created_at).astimezone(UTC).isoformat(timespec="microseconds")
    second = name[:15] if RUN_ID.match(name) else exact.replace("-", "").replace(":", "")[:15]
    return f"{second} {exact}"
