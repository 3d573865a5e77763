"""How rows come into a table: on the version whose rows were looked at, and on disk when a write returns.

    commit(folder, rows, lambda table: add(folder, table, new(folder, table, rows)))

Delta would put a commit that comes second on top of the first one without looking at its keys again. Here it fails
instead, and the whole write runs again on the version that has both. A folder is ``<lake>/<table>``, or such a place
below a URL; null stands for a table that does not exist yet. This module does not know what rows mean, or which run
wrote them.
"""

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import polars as pl

from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import conditions, opening, places, storage, tables, turns
from arislab.lake.conditions import Where
from arislab.lake.contract import has_doubles
from arislab.lake.places import Place, Url
from arislab.system import spilled

_RETRIES, _RETRIES_AFAR = 20, 120
"""Below a URL writers of other machines collide once before they know of each other."""
_PAUSE_S, _PAUSE_AFAR_S = (0.01, 0.05), (0.0, 0.3)
"""Shortest and longest pause after the first collision: about what a commit takes there."""
_FEW = 1_000


class Written(NamedTuple):
    """What a commit did."""

    rows: pl.DataFrame
    before: int | None
    """Version that it was made on; null if there was no table."""
    now: int | None
    """Version that it made, or ``before`` if there was nothing to write."""


def commit(
    folder: Place, frame: pl.DataFrame | None, write: Callable[[Any], pl.DataFrame], *, is_always: bool = False
) -> Written:
    """Run a write on the newest version; where another writer's commit came in between, on that one again.

    On disk when it returns.

    Args:
        folder: Of the table.
        frame: Rows to write; none, and the table exists: nothing is done. Null: only the write knows them.
        write: Given the open table, or null where there is none; returns the rows that it wrote.
        is_always: Write even without rows.

    Raises:
        LakeError: The table is damaged or has another schema, a candidate is being forgotten, or others were faster
            each time.
        PrerequisiteError: The disk is full, the folder cannot be written, or a store cannot be used, or not by several
            writers.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    is_there = opening.exists(folder)  # first of all: a folder whose log is gone must not get one
    if (under_way := opening.being_forgotten(folder)) is not None:
        raise under_way
    _make_place(folder, is_new=not is_there)
    retries = _RETRIES_AFAR if isinstance(folder, Url) else _RETRIES
    with turns.turn(folder), turns.Queue(folder) as queue:
        for attempt in range(retries):
            queue.wait(is_crowded=attempt > 0)
            is_there = is_there or opening.exists(folder)
            table = opening.open_version(folder) if is_there else None
            before = None if table is None else int(table.version())
            if table is not None:
                _check_schema(folder, table)
            if table is not None and frame is not None and not frame.height and not is_always:
                return Written(frame, before, before)
            try:
                with _said(folder), opening.reached(folder):
                    rows = write(table)
            except (CommitFailedError, DeltaError) as error:
                if not isinstance(error, CommitFailedError) and "already exists" not in str(error):
                    raise failed(folder, error) from None
                if attempt == retries - 1:
                    raise LakeError(
                        f"{folder.name}: other writers were faster {retries} times; run the cell again ({error})."
                    ) from None
                # of chance, and longer each time: writers that collided would collide again
                shortest, longest = _PAUSE_AFAR_S if isinstance(folder, Url) else _PAUSE_S
                time.sleep(random.uniform(shortest, longest) * min(attempt + 1, _RETRIES))
            else:
                # not asked of the table: by now another program's commit may stand behind ours
                now = 0 if before is None else before + 1 if rows.height or is_always else before
                if now != before:
                    _sync(folder, now)
                return Written(rows, before, now)
    raise AssertionError("the last attempt returns or raises")


def add(folder: Place, table: Any, frame: pl.DataFrame) -> pl.DataFrame:
    """Append rows, or make the table with them; returns them."""
    from deltalake import write_deltalake

    if table is None:  # the one who makes the table; who comes second finds it when it tries again
        write_deltalake(data=spilled.arrow(frame), mode="error", **storage.target(folder), **storage.write_options())
    elif frame.height:
        write_deltalake(table, spilled.arrow(frame), mode="append", schema_mode="merge", **storage.write_options())
    return frame


def _collected(table: Any, rows: pl.LazyFrame) -> pl.DataFrame:
    return spilled.frame(rows) if opening.is_large(table) else rows.collect()


def new(folder: Place, table: Any, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose key the table does not have."""
    if table is None:
        return frame
    key = tables.contract(folder.name).key
    known = _known(key, opening.frame(folder.name, table), frame)
    return frame.join(known, on=key, how="anti", maintain_order="left") if known.height else frame


def merge(folder: Place, table: Any, frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Add rows whose keys are new, and put the others in the place of those that have them; returns them.

    Not by Delta's own merge: it writes texts as Arrow's string views, which other programs cannot read (Daft), or
    compare (DuckDB over Arrow).

    Raises:
        LakeError: Two of the rows have the same keys.
    """
    if has_doubles(frame.select(keys)):
        raise LakeError(
            f"{folder.name}: rows of one write share their {' + '.join(keys)}, by which they are told apart; drop the "
            "doubles. Nothing was written."
        )
    if table is None:
        return add(folder, table, frame)
    rows = opening.frame(folder.name, table)
    if not _known(tuple(keys), rows, frame).height:
        return add(folder, table, frame)
    some = frame[keys[0]].unique()
    where: Where | None = {keys[0]: some.to_list()} if len(some) <= _FEW else None  # else all is written anew
    near = rows if where is None else rows.filter(conditions.expression(where))
    kept = _collected(table, near.join(frame.lazy().select(keys), on=keys, how="anti", maintain_order="left"))
    _overwrite(table, pl.concat([kept, frame], how="diagonal"), where)
    return frame


def _overwrite(table: Any, frame: pl.DataFrame, where: Where | None) -> None:
    """Make rows all that a table holds where a condition is fulfilled; null: all that it holds."""
    from deltalake import write_deltalake

    only = {} if where is None else {"predicate": conditions.predicate(where)}
    write_deltalake(
        table, spilled.arrow(frame), mode="overwrite", schema_mode="merge", **only, **storage.write_options()
    )


def replace(folder: Place, table: Any, frame: pl.DataFrame, where: Where) -> pl.DataFrame:
    """Put rows in the place of those that fulfil a condition, and of those that have their keys; returns them."""
    if table is None:
        return add(folder, table, frame)
    key = tables.contract(folder.name).key
    # null is no match, and what does not match stays
    others = opening.frame(folder.name, table).filter(conditions.expression(where).fill_null(value=False).not_())
    if not _known(key, others, frame).height:
        _overwrite(table, frame, where)
        return frame
    # a predicate takes away the rows of one condition only; these stand elsewhere, so that all is written anew
    left = _collected(table, others.join(frame.lazy().select(key), on=key, how="anti", maintain_order="left"))
    _overwrite(table, pl.concat([left, frame], how="diagonal"), None)
    return frame


def rewrite(table: Any, frame: pl.DataFrame) -> pl.DataFrame:
    """Make rows all that a table holds; returns them."""
    _overwrite(table, frame, None)
    return frame


def compact(folder: Place) -> int:
    """Merge the small files of a table; returns how many files that took away from the newest version."""
    from deltalake.exceptions import DeltaError

    with turns.turn(folder), turns.Queue(folder) as queue:
        queue.wait(is_crowded=True)  # it takes longer than other writers, who would always be faster
        table = opening.open_version(folder)
        _make_place(folder, is_new=False)
        before = table.version()
        try:
            n_removed = int(table.optimize.compact(**storage.write_options())["numFilesRemoved"])
        except (DeltaError, OSError) as error:
            raise _no_place(folder, error) if isinstance(error, OSError) else failed(folder, error) from None
        for version in range(before + 1, table.version() + 1):
            _sync(folder, version)
    return n_removed


def _known(key: tuple[str, ...], rows: pl.LazyFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """Keys of rows that a frame has too."""
    keys = list(key)
    few = frame[keys[0]].unique() if frame.height <= _FEW else None  # then the files' statistics say which to open
    rows = rows if few is None else rows.filter(pl.col(keys[0]).is_in(few.implode()))
    return rows.select(keys).join(frame.lazy().select(keys), on=keys, how="semi").collect()


# ---- what is in the way ----------------------------------------------------------------------------------------------


def _make_place(folder: Place, *, is_new: bool) -> None:
    """Refuse a folder that cannot be written, or a store that would lose rows, before anything is written."""
    if isinstance(folder, Url):
        folder.check_writers()
    try:
        # before any data: data files without a log are damage, an empty log is a table that does not exist yet
        if isinstance(folder, Url):
            return storage.begin(folder) if is_new else None
        (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_place(folder, error) from None
    if not os.access(folder, os.W_OK):
        raise _no_place(folder, PermissionError(errno.EACCES, "no write permission"))


def _check_schema(folder: Place, table: Any) -> None:
    columns = tables.columns_of(folder.name)
    for field in table.schema().fields:
        column = columns.get(field.name)
        if column is not None and _delta_type(column.dtype) != getattr(field.type, "type", ""):
            raise LakeError(
                f"{folder.name} under {folder.parent} has another schema: {field.name} is "
                f"{getattr(field.type, 'type', '?')}, arislab writes {_delta_type(column.dtype)}; nothing was written. "
                "Move that folder away, or choose another --root."
            )


def _delta_type(dtype: Any) -> str:
    """Delta's name of a polars type."""
    if dtype == pl.List(pl.String):
        return "array"
    if isinstance(dtype, pl.Datetime):
        return "timestamp"
    return {pl.String: "string", pl.Int64: "long", pl.Int32: "integer", pl.Float64: "double", pl.Boolean: "boolean"}[
        dtype
    ]


def _sync(folder: Place, version: int) -> None:
    try:
        storage.sync_commit(folder, version)
    except OSError as error:
        raise PrerequisiteError(
            f"{folder.name} version {version} was written under {folder.parent}, but the disk does not confirm it "
            f"({error.strerror}): a loss of power may take it back. Check the disk, then run the cell again."
        ) from None


@contextmanager
def _said(folder: Place) -> Iterator[None]:
    """Say in arislab's words what stops a write that is neither Delta's nor another writer's doing."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        if not opening.DAMAGED.search(str(error)):
            raise
        raise opening.unreadable(folder, str(error).splitlines()[0]) from None
    except OSError as error:
        raise _no_place(folder, error) from None


def failed(folder: Place, error: Exception) -> LakeError | PrerequisiteError:
    """Return what an error of Delta's library means: it has one kind for a full disk, a damaged file and the rest."""
    if isinstance(folder, Url) and places.is_of_store(error):
        return folder.unreachable(error)
    text = str(error).splitlines()[0]
    if "No space left" in str(error) or "Disk quota" in str(error) or "os error 28" in str(error):
        return _no_place(folder, OSError(errno.ENOSPC, "No space left on device"))
    if opening.DAMAGED.search(text):
        return opening.unreadable(folder, text)
    return LakeError(f"cannot write {folder.name}: {text}; nothing was written.")


def _no_place(folder: Place, error: OSError) -> PrerequisiteError:
    if isinstance(folder, Url):
        return folder.unreachable(error)
    return PrerequisiteError(
        f"cannot write {folder.name} under {folder.parent} ({error.strerror or error}): nothing of this write is "
        "stored, all earlier versions are. Check permissions and disk space, or choose another folder with --root; "
        "then run it again."
    )
