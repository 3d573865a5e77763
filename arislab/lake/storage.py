"""One table's folder in Delta's format, or the same below a URL (``places``).

It is opened only if it is whole, written by one after the other, and on disk when a write returns. Below a URL the
store itself sees to what lasts.

    _delta_log/000…0.json, 000…1.json, …   one version each: the files that it adds and removes, with their sizes
    part-….parquet                         rows; never changed after their commit

Delta's own reader leaves out what it cannot parse: a last commit that was cut off is an older table without a word. So
the log is read here first. Writes are compare-and-swap: a commit is the version after the one whose rows were looked
at, or it fails and is tried again.
"""

import contextlib
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from arislab.errors import LakeError
from arislab.lake.places import FOR_POLARS, Place, Url
from arislab.system import files as whole_files

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d+\.\d+)?\.parquet")
_ADDED, _REMOVED = ("num_added_files", "num_target_files_added"), ("num_removed_files", "num_target_files_removed")
_FOR_EVER = "interval 36500 days"
PROPERTIES = {"delta.logRetentionDuration": _FOR_EVER, "delta.deletedFileRetentionDuration": _FOR_EVER}
"""Of new tables: records name versions, so no reader's housekeeping may take them away."""
_AFAR = {"delta.checkpointInterval": "10"}
"""Below a URL each commit since the last checkpoint is a request of everybody who opens the table; Delta's own hundred
would be a minute of them."""


_GROUP_ROWS = 100_000
"""Rows of a table that are read at once, at most."""


class Damage(Exception):  # noqa: N818  # raised and caught here and by the lake, which says it in its own words
    """What is wrong with a table's folder: file and version."""


# ---- what is there ---------------------------------------------------------------------------------------------------


def log_of(folder: Any) -> tuple[dict[int, Any], dict[int, list[Any]]]:
    """Return the commits and the checkpoints of a table's log, by version; empty where there is no table."""
    commits: dict[int, Any] = {}
    checkpoints: dict[int, list[Any]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder / "_delta_log").iterdir():
            if match := _COMMIT.fullmatch(path.name):
                commits[int(match[1])] = path
            elif match := _CHECKPOINT.fullmatch(path.name):
                checkpoints.setdefault(int(match[1]), []).append(path)
    return commits, checkpoints


def exists(folder: Place) -> bool:
    """Return whether a folder holds a table, whole or not; data files of a first write that was cut off are none.

    Raises:
        Damage: There are data files, and the folder of the log is gone.
    """
    if any(log_of(folder)):
        return True
    if not (folder / "_delta_log").is_dir() and any(folder.glob("*.parquet")):
        raise Damage("there are data files, but _delta_log is gone")
    return False


def opened(folder: Place, version: int | None = None) -> Any:
    """Return a DeltaTable of a folder whose log and files are whole up to a version; default the newest.

    Raises:
        Damage: A commit, a checkpoint or a data file of that version is missing or cut off.
        DeltaError: There is no such version.
    """
    check_log(folder, version)
    table = listed(folder, version)
    check_files(folder, table)
    return table


def listed(folder: Place, version: int | None = None) -> Any:
    """Return a DeltaTable as its log describes it; whether its files are there was not looked at."""
    if isinstance(folder, Url):
        return _table_type()(str(folder), version=version, storage_options=folder.options())
    return _table_type()(folder, version=version)


def target(folder: Place) -> dict[str, Any]:
    """Return by which arguments ``write_deltalake`` makes a table there."""
    if isinstance(folder, Url):
        options = folder.options()
        return {"table_or_uri": str(folder), "storage_options": options, "configuration": PROPERTIES | _AFAR}
    return {"table_or_uri": folder, "configuration": PROPERTIES}


def size_of(table: Any, name: str) -> int:
    """Return the bytes that a data file has according to its commit."""
    import polars as pl

    sizes = pl.DataFrame(table.get_add_actions()).filter(pl.col("path") == name)["size_bytes"]
    return int(sizes[0])


@cache
def _table_type() -> Any:
    from deltalake import DeltaTable

    class Table(DeltaTable):  # type: ignore[misc]  # deltalake is untyped here
        """Names its files as the file system does: Delta's names are those of URLs, which polars takes for paths."""

        def file_uris(self, *args: Any, **named: Any) -> list[str]:
            return [unquote(uri) for uri in super().file_uris(*args, **named)]

    return Table


def check_log(folder: Place, version: int | None = None) -> None:
    """Raise Damage if a reader of a version would meet a commit that is missing or cut off."""
    named = _named_checkpoint(folder)  # before the log: a checkpoint that another writer makes meanwhile is in it then
    commits, checkpoints = log_of(folder)
    newest = max([*commits, *checkpoints], default=-1)
    newest = newest if version is None else min(version, newest)
    start = max((at for at in checkpoints if at <= newest), default=-1)  # where a reader begins: no older commit counts
    for path in checkpoints.get(start, ()):
        _check_parquet(path, f"checkpoint {path.name} (version {start})")
    for at in range(start + 1, newest + 1):
        if at not in commits:
            raise Damage(f"version {at} is missing: there is no _delta_log/{at:020}.json")
        _check_commit(commits[at], at)
    if named is not None and named not in checkpoints:
        raise Damage(f"checkpoint {named:020}.checkpoint.parquet is gone, which _delta_log/_last_checkpoint names")


def _named_checkpoint(folder: Place) -> int | None:
    """Version of the checkpoint that a table names as its last; null if it names none, or says nothing."""
    try:
        return int(json.loads((folder / "_delta_log" / "_last_checkpoint").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


_seen: dict[tuple[str, int, int], None] = {}
"""Commits and checkpoints that were read and are whole: path, size, time of change."""


def _mark(path: Path | Url) -> tuple[str, int, int]:
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns)


def _check_commit(path: Path | Url, version: int) -> None:
    if (mark := _mark(path)) not in _seen:
        actions_of(path, version)
        _seen[mark] = None


def actions_of(path: Path | Url, version: int) -> list[dict[str, Any]]:
    """Return what a commit says, line by line.

    Raises:
        Damage: It is cut off: within a line, or fewer files are named than it counted.
    """
    try:
        actions = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    except ValueError:
        raise Damage(f"version {version} is cut off or overwritten: _delta_log/{path.name}") from None
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise Damage(f"version {version} is empty: _delta_log/{path.name} says nothing")
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    counted = info.get("operationMetrics") or {}
    for kinds, names in (
        (("add", "metaData", "cdc"), _ADDED),
        (("remove",), _REMOVED),
    ):  # a merge counts a new schema as a file
        n = max((counted[name] for name in names if isinstance(counted.get(name), int)), default=0)
        if sum(any(kind in action for kind in kinds) for action in actions) < n:
            raise Damage(f"version {version} is cut off: _delta_log/{path.name} names fewer files than it counts")
    return actions


def check_files(folder: Place, table: Any) -> None:
    """Raise Damage if a data file of an open table is missing or has another size than its commit says."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions()).select("path", "size_bytes").rows() if table.version() >= 0 else []
    sizes = _sizes(folder, [unquote(name) for name, _ in files])
    for name, size in files:
        path = folder / unquote(name)
        there = sizes.get(unquote(name))
        if there is None:
            raise Damage(
                f"version {table.version()} needs {path.name}, which is gone (a vacuum deletes the files of older "
                "versions)"
            )
        if there != size:
            raise Damage(f"version {table.version()} needs {path.name}, which has {there:,} of {size:,} bytes")


def _sizes(folder: Place, names: list[str]) -> dict[str, int]:
    """Bytes of those of some files that are there: a store lists them, as asking for each would take long."""
    if isinstance(folder, Url):
        return folder.sizes(names)
    sizes = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            sizes[name] = (folder / name).stat().st_size
    return sizes


def _check_parquet(path: Path | Url, what: str) -> None:
    if (mark := _mark(path)) in _seen:
        return
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        if (start, file.read(4)) != (b"PAR1", b"PAR1"):
            raise Damage(f"{what} is cut off or no Parquet file")
    _seen[mark] = None


# ---- writing ---------------------------------------------------------------------------------------------------------


def commit_options() -> dict[str, Any]:
    """Return with which options of deltalake each commit is made.

    It is made only as the version after the one that was looked at, and takes no old versions away.
    """
    from deltalake import CommitProperties, PostCommitHookProperties

    return {
        "commit_properties": CommitProperties(max_commit_retries=0),
        "post_commithook_properties": PostCommitHookProperties(cleanup_expired_logs=False),
    }


def write_options() -> dict[str, Any]:
    """Return with which options of deltalake rows are written, those of the commit among them.

    Zstandard makes half of what Delta's own Snappy makes of text, in the same time; and who reads rows one group after
    the other holds a few groups, so these are small.
    """
    from deltalake import WriterProperties

    return {
        "writer_properties": WriterProperties(compression="ZSTD", max_row_group_size=_GROUP_ROWS),
        **commit_options(),
    }


def begin(folder: Url) -> None:
    """Make the log of a table that does not exist yet: a store has no folder without an object in it."""
    import polars as pl

    pl.DataFrame({"log": ["begun"]}).write_csv(f"{folder}/_delta_log/_begun.csv", storage_options=FOR_POLARS)


def link(source: Place, target: Place, *, version: int) -> None:
    """Make a place the same table at a version: same rows, version and history, and no bytes copied if that can be.

    From or to a place below a URL what this version and those before it need is copied.

    Raises:
        LakeError: A link stands where a file should be.
    """
    if isinstance(source, Url) or isinstance(target, Url):
        return _copy(source, target, version=version)
    for path in source.rglob("*"):
        inside = path.relative_to(source)
        number = re.match(r"(\d{20})\.", path.name)
        is_later = inside.parts[0] == "_delta_log" and (number is None or int(number[1]) > version)
        _refuse_link(source, path)
        if path.is_dir() or is_later:  # without _last_checkpoint a reader looks for it itself
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target / inside)  # files of a table never change, so that two may share them
        except OSError:  # another file system, or one without links
            shutil.copy2(path, target / inside)


def _refuse_link(table: Path, path: Path) -> None:
    if path.is_symlink():
        inside = path.relative_to(table)
        raise LakeError(f"{table.name} holds a link, {inside}, where a file should be; no table has one: remove it.")


def _copy(source: Place, target: Place, *, version: int) -> None:
    commits, checkpoints = log_of(source)
    log = [path for n, path in sorted(commits.items(), reverse=True) if n <= version]
    log += [path for n, some in checkpoints.items() if n <= version for path in some]
    actions = [action for n, path in commits.items() if n <= version for action in actions_of(path, n)]
    names = {unquote(action["add"]["path"]) for action in actions if "add" in action}
    # those of commits that only a checkpoint still tells of
    names |= {unquote(path) for path in listed(source, version).get_add_actions()["path"].to_pylist()}
    there = _sizes(source, sorted(names))  # without those that a vacuum took from older versions
    # rows before the log that names them, the first commit after all others: what is cut off here is no whole table
    for path in (*(source / name for name in sorted(there)), *log):
        if isinstance(source, Path):
            _refuse_link(source, path)
        copied = target / str(path)[len(str(source)) + 1 :]
        with path.open("rb") as file:
            if isinstance(copied, Url):
                copied.write(file)
                continue
            copied.parent.mkdir(parents=True, exist_ok=True)
            with copied.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 22)


def sync_commit(folder: Place, version: int) -> None:
    """Have a commit on disk, with the files that it adds, its checkpoint and all their names.

    It outlives a loss of power. A store says that it has an object only when it does.
    """
    if isinstance(folder, Url):
        return
    log = folder / "_delta_log"
    commit = log / f"{version:020}.json"
    added = [folder / unquote(action["add"]["path"]) for action in actions_of(commit, version) if "add" in action]
    checkpoint = sorted(log.glob(f"{version:020}.checkpoint*"))
    if checkpoint:
        checkpoint.append(log / "_last_checkpoint")
    parents = [folder.parent, folder.parent.parent] if version == 0 else []  # the folder's own name is new then
    # rows before the commit that names them, files before folders: nothing is ever named on disk that is not there
    for path in (*added, *checkpoint, commit, log, folder, *parents):
        whole_files.sync(path)
