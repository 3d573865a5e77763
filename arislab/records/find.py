"""Reading run records: the newest, those that fulfil a condition, one of them whole. This module writes no record."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arislab.errors import PrerequisiteError, closest
from arislab.records import files as run_files
from arislab.records.files import COLUMNS, OPEN
from arislab.system.paths import RUN_ID

if TYPE_CHECKING:
    from arislab.records import index as run_index

__all__ = ["COLUMNS", "OPEN", "as_json", "find", "read", "select"]

_FEW = 500  # so many files are read sooner than the index is brought up to date


def as_json(root: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Return every record under a root, newest first, as plain dicts.

    They have the columns of ``list_runs``, cause, signal, cell and some more; ``read`` gives one whole. A record
    without a verdict is shown as ``lost`` if its supervisor is gone; a folder without a readable record as
    ``unreadable``.

    Args:
        root: Folder of ``papermill_runs/``.
        limit: The newest so many; null: all.
    """
    return select(root, limit=limit)


def read(folder: Path) -> dict[str, Any]:
    """Return one record whole, as ``as_json`` does."""
    return run_files.seen(run_files.read(folder))


def find(root: Path, name: str) -> dict[str, Any]:
    """Return the record whose run_id starts or ends with a text, or the newest run of a phase.

    Raises:
        PrerequisiteError: No run, or several.
    """
    base = root / "papermill_runs"
    if name and Path(name).name == name and (base / name / "run.json").is_file():
        return read(base / name)
    from arislab.records import index as run_index

    runs = run_index.ask(base, lambda index: index.runs())
    matches = [run for run in runs if run[1].startswith(name) or run[1].endswith(f"-{name}")]
    matches = matches or [run for run in runs if run[2] == name][:1]
    if len(matches) != 1:
        known = [run_id for _, run_id, _ in runs]
        which = closest(name, known)
        if matches:
            which = f"{len(matches)} runs match, such as {matches[0][1]}; give more of it"
        raise PrerequisiteError(f"there is no run {name!r} under {root}: {which}. `arislab runs` lists them.")
    return read(base / matches[0][0])


def select(root: Path, *, where: str = "", sort: str = "", limit: int | None = None) -> list[dict[str, Any]]:
    """Return the runs that fulfil a condition, newest first or sorted.

    Args:
        root: Folder of ``papermill_runs/``.
        where: Condition in SQL (SQLite) over ``COLUMNS``, and the numbers of the headline (of intervals: the mean) and
            the parameters by name. As in SQL, what a run does not have is null, and text is larger than any number.
        sort: One of these; the largest first.
        limit: Most runs.

    Raises:
        ParameterError: The condition cannot be read, or no run has what is sorted by.
    """
    base = root / "papermill_runs"
    if not where and not sort and limit is not None and limit <= _FEW:
        return _newest(base, limit)
    from arislab.records import index as run_index  # listing the newest does without a database

    def chosen(index: "run_index.RunIndex") -> list[dict[str, Any]]:
        names = index.chosen(where, sort, limit) if where or sort else [name for name, *_ in index.runs()][:limit]
        return index.wholes(names)

    return run_index.ask(base, chosen)


def _newest(base: Path, limit: int) -> list[dict[str, Any]]:
    """Return the newest runs from their files."""
    with run_files.opened(base) as folder:
        if folder is None:
            return []

        def runs(names: Iterable[str]) -> list[tuple[tuple[str, str, str], dict[str, Any]]]:
            listed = []
            for name in names:
                run = run_files.read(base / name)
                if run["status"] == "unreadable" and run_files.stamp(name, folder) is None:
                    continue  # no run, or deleted by now
                order = (run_files.age(name, run["created_at"]), run["run_id"], name)
                listed.append((order, run_files.seen(run_files.shown(run))))
            return listed

        names = run_files.names(folder)
        timed = sorted((name for name in names if RUN_ID.match(name)), reverse=True)
        listed = runs(name for name in names if not RUN_ID.match(name))  # few: their names do not tell their time
        n_other = len(listed)
        for _, same_second in itertools.groupby(timed, key=lambda name: name[:15]):
            if len(listed) - n_other >= limit:
                break
            listed += runs(same_second)
    return [run for _, run in sorted(listed, key=lambda row: row[0], reverse=True)[:limit]]
