"""What of a lake is whole, what is damaged, and the ways back.

Nothing is deleted: what is set aside is renamed to ``*.damaged``, which a store cannot do: below a URL damage is found,
rows are mended, and files are left to whoever has the store's own tools.

for state in examine(lake): print(state)
candidates: whole, version 3, 5,939 rows
training_data_raw: DAMAGED: version 2 is cut off or overwritten: _delta_log/00000000000000000002.json. Whole until
    version 1 (5,907 rows). …
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from arislab.errors import LakeError, ParameterError, PrerequisiteError
from arislab.lake import opening, storage, tables, turns
from arislab.lake.delta import Lake, Table
from arislab.lake.places import Place, Url
from arislab.system.paths import is_url


@dataclass(frozen=True)
class State:
    """How one table stands."""

    table: str
    damage: str | None
    """What the newest version lacks; null if it is whole."""
    whole: int | None
    """Newest version that can be read to the last value; null if there is none."""
    rows: int
    """Rows of that version."""
    n_doubled: int
    """Rows of that version beyond the first of their key."""
    doubled: str | None
    """One of their keys."""
    unread: tuple[str, ...]
    """Versions that records name and that cannot be read: version and run."""

    @property
    def is_well(self) -> bool:
        """True if there is nothing to mend."""
        return self.damage is None and not self.n_doubled

    def __str__(self) -> str:
        parts = []
        if self.damage is not None:
            if self.whole is not None:
                back = (
                    f"whole until version {self.whole} ({self.rows:,} rows); --back {self.table}@{self.whole} goes "
                    "back to it, --repair keeps all that can be read"
                )
            elif "checkpoint" in self.damage:
                back = "--repair sets it aside and reads the commits"
            else:
                back = "no version is whole: move this table's folder away and run what wrote it again"
            parts.append(f"DAMAGED: {self.damage}; {back}")
        elif not self.n_doubled:
            parts.append(f"whole, version {self.whole}, {self.rows:,} rows")
        if self.n_doubled:
            parts.append(
                f"DOUBLED KEYS: {self.n_doubled:,} of {self.rows:,} rows share their key with another (first: "
                f"{self.doubled}); --repair keeps the newest row of each key in a new version"
            )
        if self.unread:
            parts.append(
                f"{len(self.unread):,} versions that records name cannot be read (first: {self.unread[0]}): their "
                "files are gone, as after a vacuum"
            )
        return f"{self.table}: " + "; ".join(parts)


def examine(lake: Lake) -> list[State]:
    """Read every table to the last value; returns one state per table that exists."""
    named = _named_by_records(lake.data.parent / "papermill_runs", lake.path if is_url(lake.path) else None)
    return [_state(lake[name], named.get(name, {})) for name in lake.tables()]


def _state(table: Table, named: dict[int, str]) -> State:
    damage = _damage(table, None)
    whole = next((version for version in _versions(table) if _damage(table, version) is None), None)
    every = (
        tables.empty(table.name).lazy()
        if whole is None
        else opening.frame(table.name, opening.open_version(table.folder, whole))
    )
    rows = every.select(table.contract.key).collect()
    doubled = rows.filter(rows.is_duplicated()).unique()
    n_doubled = rows.height - rows.n_unique()
    first = " + ".join(map(str, doubled.sort(pl.all()).row(0))) if n_doubled else None
    unread = tuple(
        f"{n}, of {run}" for n, run in sorted(named.items()) if n != whole and _damage(table, n, is_deep=False)
    )
    return State(table.name, damage, whole, rows.height, n_doubled, first, unread)


def _versions(table: Table) -> list[int]:
    """Versions that may be readable, newest first."""
    commits, checkpoints = storage.log_of(table.folder)
    return sorted({*commits, *checkpoints}, reverse=True)


def _damage(table: Table, version: int | None, *, is_deep: bool = True) -> str | None:
    """Say what a version lacks; null if it is whole."""
    from deltalake.exceptions import DeltaError

    try:
        if not storage.exists(table.folder):
            return "nothing was ever written"
        delta = storage.opened(table.folder, version)
        with opening.reached(table.folder):
            for path, n_rows in _files(table, delta) if is_deep else ():
                _read(path, n_rows)
        opening.open_version(table.folder, version)
    except storage.Damage as damage:
        return str(damage)
    except (DeltaError, LakeError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def _files(table: Table, delta: Any) -> list[tuple[Any, int | None]]:
    """Data files and the rows that their commits count.

    The number is null where a commit counts none; without any that does, deltalake may have no such column.
    """
    files = pl.DataFrame(delta.get_add_actions())
    counted = files["num_records"] if "num_records" in files.columns else [None] * files.height
    return [(table.folder / unquote(name), n_rows) for name, n_rows in zip(files["path"], counted, strict=True)]


def _read(path: Path | Url, n_rows: int | None) -> None:
    try:
        height = pl.read_parquet(str(path), glob=False).height
    except pl.exceptions.PolarsError as error:
        raise storage.Damage(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from None
    if n_rows is not None and n_rows != height:
        raise storage.Damage(f"{path.name} has {height:,} rows, and its commit says {n_rows:,}")


def _named_by_records(folder: Path, url: str | None) -> dict[str, dict[int, str]]:
    """Table to version to the run whose record names it, of those that ran on this lake: by URL, or the root's own."""
    runs: dict[str, dict[int, str]] = {}
    for path in sorted(folder.glob("*/run.json")):
        try:
            run = json.loads(path.read_bytes())
            if (run["lake"] if is_url(run.get("lake", "")) else None) != url:
                continue
            named = [*run["tables_read"].items(), *run["tables_written"].items()]
            for table, state in named:
                if isinstance(state["version"], int):
                    runs.setdefault(table, {}).setdefault(state["version"], path.parent.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # an unreadable record is `arislab runs`' to name
    return runs


# ---- the ways back ---------------------------------------------------------------------------------------------------


def repair(lake: Lake, state: State) -> list[str]:
    """Keep all of a table that can be read.

    Commits that are cut off and files that cannot be read are set aside, doubled keys become one.

    Returns what was done; each change of rows is a new version.

    Raises:
        PrerequisiteError: A file would have to be set aside below a URL.
    """
    table, done = lake[state.table], []
    if state.damage is not None:
        _refuse_url(table, state.damage)
        with turns.turn(table.folder):
            done += _mend_log(table)
            is_listed = any(storage.log_of(table.folder)) and _is_readable(table.folder, None)
            done += _mend_files(table) if is_listed else []
    if _state(table, {}).n_doubled:
        n_before = n_after = 0

        def newest_of_each_key(rows: pl.LazyFrame) -> pl.DataFrame:
            nonlocal n_before, n_after
            # the last by time: what an upsert would have left of them
            every = rows.sort("created_at", maintain_order=True).collect()
            kept = every.unique(table.contract.key, keep="last", maintain_order=True)
            n_before, n_after = every.height, kept.height
            return kept

        table.rewrite(newest_of_each_key)
        n_doubled = n_before - n_after
        done.append(f"{n_doubled:,} of {n_before:,} rows gave way to the newest of their key; version {table.version}")
    return done


def back(lake: Lake, name: str, version: int) -> str:
    """Make a version of a table the newest one again; what came after stays readable where it is whole.

    Raises:
        ParameterError: That version is not whole.
        LakeError: Another writer's commit came in between.
        PrerequisiteError: The newest version is damaged, and lies below a URL.
    """
    table = lake[name]
    if isinstance(table.folder, Url) and (newer := _damage(table, None, is_deep=False)) is not None:
        _refuse_url(table, newer)
    newest = max(_versions(table), default=None)
    if (damage := _damage(table, version)) is not None:
        raise ParameterError(f"{name}@{version} is not whole: {damage}; `arislab doctor` says which version is.")
    rows = opening.frame(table.name, opening.open_version(table.folder, version)).collect()
    with turns.turn(table.folder):
        if newest == max(_versions(table), default=None):  # else `rewrite` refuses
            _mend_log(table)
            if _damage(table, None, is_deep=False) is not None:
                _mend_files(table)
            newest = table.version
    if table.version == version:
        return f"{name} is at version {version} again: {rows.height:,} rows"
    table.rewrite(lambda _: rows, version=newest)
    return f"{name} holds the {rows.height:,} rows of version {version} again, as version {table.version}"


def _refuse_url(table: Table, damage: str) -> None:
    if isinstance(table.folder, Url):
        raise PrerequisiteError(
            f"{table.name} under {table.folder.parent} is damaged ({damage}), and files are set aside in folders only. "
            "Bring the object that is named back from the store's own versions or backups; or have a whole version in "
            f"a folder: Lake()[{table.name!r}].link(Lake(FOLDER), version=N). Nothing was changed."
        )


def _mend_log(table: Table) -> list[str]:
    """Set a checkpoint aside that is cut off, and the commits from the first one on that no reader gets past."""
    done = []
    log = table.folder / "_delta_log"
    commits, checkpoints = storage.log_of(table.folder)
    newest = max([*commits, *checkpoints], default=-1)
    try:
        storage.check_log(table.folder)
    except storage.Damage as damage:
        last = next((n for n in range(newest, -1, -1) if _is_readable(table.folder, n)), None)
        if last is None:
            return []
        paths = [path for n, some in checkpoints.items() if n > last for path in some]
        paths += [path for n, path in commits.items() if n > last]
        is_checkpoint = "checkpoint" in str(damage)
        if is_checkpoint and all(n in commits for n in range(newest + 1)):  # the commits say all that it said
            paths = [path for some in checkpoints.values() for path in some]
        if (log / "_last_checkpoint").is_file():
            paths.append(log / "_last_checkpoint")
        for path in paths:
            path.rename(path.with_name(f"{path.name}.damaged"))
            done.append(f"{path.name} set aside as {path.name}.damaged")
    return done


def _is_readable(folder: Place, version: int | None) -> bool:
    try:
        storage.check_log(folder, version)
    except storage.Damage as damage:
        return "_last_checkpoint names" in str(damage)  # set aside in any case
    return True


def _mend_files(table: Table) -> list[str]:
    """Set data files aside that cannot be read, and write a version without them."""
    delta = storage.listed(table.folder)
    lost, n_lost, is_counted = [], 0, True
    for path, n_rows in _files(table, delta):
        size = storage.size_of(delta, path.name)
        try:
            if not path.is_file() or path.stat().st_size != size:
                raise storage.Damage("cut off")
            _read(path, n_rows)
        except storage.Damage:
            lost.append(path)
            n_lost += n_rows or 0
            is_counted &= n_rows is not None
    for path in lost:
        if path.is_file():
            path.rename(path.with_name(f"{path.name}.damaged"))
    if not lost:
        return []
    delta.repair(dry_run=False, **storage.commit_options())
    storage.sync_commit(table.folder, delta.version())
    rows = f"{n_lost:,} rows" if is_counted else "rows that no commit counted"
    return [f"{len(lost):,} data files could not be read: {rows} are lost; version {delta.version()} holds the rest"]
