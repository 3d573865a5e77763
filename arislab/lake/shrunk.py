"""The log of a table whose data files have fewer rows than when they were committed.

Versions keep their numbers, and files their names: only what the log says of them is made true again, and statistics of
values, which may be those of rows that are gone, are left out. This module does not know which rows went.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from arislab.errors import LakeError
from arislab.lake import storage
from arislab.system import files


def refuse_damage(folder: Path) -> None:
    """Refuse a table with a data file that is not as long as its commit says: a later look could not tell why.

    Raises:
        LakeError: There is one.
    """
    for version, path in storage.log_of(folder)[0].items():
        for file, action in _files(folder, _read(path, version)):
            if file.is_file() and file.stat().st_size != action.get("size", file.stat().st_size):
                raise LakeError(
                    f"{folder.name}@{version} is damaged: {file.name} is not as long as its commit says; "
                    "`arislab doctor` first. Nothing was forgotten."
                )


def renew(folder: Path, clean: Callable[[str], tuple[str, int]], *, is_dry: bool = False) -> int:
    """Make a log say what its files are; return how many entries held something that had to go.

    Args:
        folder: Of the table.
        clean: Gives a text without what must go, and how often that stood in it.
        is_dry: Only count.

    Raises:
        LakeError: A checkpoint stands for commits that are gone, so that it cannot be made anew.
    """
    commits, checkpoints = storage.log_of(folder)
    n, is_changed = 0, False
    for version, path in sorted(commits.items()):
        actions = _read(path, version)
        before = json.dumps(actions)
        for file, action in _files(folder, actions):
            held = clean(action.get("stats") or "")[1]
            n += held
            if is_dry:
                continue
            if held or (file.is_file() and file.stat().st_size != action.get("size", file.stat().st_size)):
                _tell(file, action)
        for action in actions:
            if "commitInfo" in action:
                text, held = clean(json.dumps(action["commitInfo"]))
                n += held
                action["commitInfo"] = json.loads(text)
        if json.dumps(actions) != before and not is_dry:
            is_changed = True
            files.replace(path, "".join(json.dumps(a, separators=(",", ":")) + "\n" for a in actions))
    if not checkpoints or is_dry:
        return n
    newest = max([*commits, *checkpoints])
    if set(range(newest + 1)) - commits.keys():
        if is_changed:
            raise LakeError(
                f"a checkpoint of {folder.name} stands for commits that are gone, and may hold statistics of theirs"
            )
        return n
    for path in (*(path for some in checkpoints.values() for path in some), folder / "_delta_log" / "_last_checkpoint"):
        path.unlink(missing_ok=True)
    storage.listed(folder).create_checkpoint()
    return n


def _read(path: Path, version: int) -> list[dict[str, Any]]:
    try:
        return storage.actions_of(path, version)
    except storage.Damage as damage:
        raise LakeError(f"{path.parent.parent.name} is damaged: {damage}; `arislab doctor` first.") from None


def _files(folder: Path, actions: list[dict[str, Any]]) -> list[tuple[Path, dict[str, Any]]]:
    """Data files that a commit adds or removes, with what it says of them."""
    said = [action[kind] for action in actions for kind in ("add", "remove") if kind in action]
    return [(folder / unquote(one["path"]), one) for one in said]


def _tell(file: Path, action: dict[str, Any]) -> None:
    n_rows = json.loads(action.get("stats") or "{}").get("numRecords")
    if file.is_file():
        action["size"] = file.stat().st_size
        try:
            n_rows = pl.scan_parquet(file, glob=False).select(pl.len()).collect().item()
        except pl.exceptions.PolarsError as error:
            raise LakeError(f"{file.name} cannot be read ({str(error).splitlines()[0]})") from None
    if action.get("stats"):
        action["stats"] = json.dumps({"numRecords": n_rows})
