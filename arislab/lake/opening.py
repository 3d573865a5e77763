"""Tables as they are opened: the versions that are whole, in the columns of their contracts.

    open_version(folder, 3)            # a DeltaTable; or a LakeError that says what is damaged, and the way back
    frame(folder.name, table)          # its rows, with null for columns that are younger than the version

A folder is ``<lake>/<table>``, or such a place below a URL. This module writes nothing.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from arislab.errors import LakeError
from arislab.lake import places, receipts, storage, tables
from arislab.lake.places import Place, Url
from arislab.system import spilled

DAMAGED = re.compile(r"parquet|snappy|zstd|thrift|arrow error|utf-?8|python exception", re.IGNORECASE)
"""In what libraries say of a file whose bytes are not what was written; they have no error of their own for that."""


def names(lake: Place) -> list[str]:
    """Return the names of the tables that exist, damaged ones too."""
    # one look at the lake: below a URL each table that is asked for is a request
    inside = {path.name for path in lake.iterdir()} if isinstance(lake, Url) else tables.TABLES.keys()
    return [name for name in tables.TABLES if name in inside and is_there(lake / name)]


@contextlib.contextmanager
def reached(place: Place) -> Iterator[None]:
    """Say what it means if a store cannot be used, or lacks what was listed there a moment ago.

    Raises:
        LakeError: A data file is gone.
        PrerequisiteError: The store does not answer, or refuses.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not isinstance(place, Url):
            raise
        raise damaged(place, storage.Damage(f"a data file is gone ({str(error).splitlines()[0]})")) from None
    except OSError as error:
        if not isinstance(place, Url):
            raise
        raise place.unreachable(error) from None


def exists(folder: Place) -> bool:
    """Return whether something was written to a table.

    Raises:
        LakeError: It is damaged.
    """
    try:
        return storage.exists(folder)
    except storage.Damage as damage:
        raise damaged(folder, damage) from None


def is_there(folder: Place) -> bool:
    """Return whether there is a table, whole or damaged."""
    try:
        return storage.exists(folder)
    except storage.Damage:
        return True


def open_version(folder: Place, version: int | None = None) -> Any:
    """Return the DeltaTable of a version; default the newest.

    Raises:
        LakeError: It is damaged, there is no such version, or another program wrote it.
    """
    from deltalake.exceptions import DeltaError

    name = folder.name
    try:
        with reached(folder):
            table = storage.opened(folder, version)
    except storage.Damage as damage:
        raise damaged(folder, damage) from None
    except DeltaError as error:
        if version is None:
            raise damaged(folder, storage.Damage(str(error).splitlines()[0])) from None
        raise LakeError(
            f"{name} under {folder.parent} has no version {version} ({str(error).splitlines()[0]}); "
            f"lake[{name!r}].history() lists those that exist."
        ) from None
    have = {field.name for field in table.schema().fields}
    missing = [k for k in tables.contract(name).key if k not in have]
    if missing:
        raise LakeError(
            f"{name} under {folder.parent} has no column {missing[0]!r} (it has {', '.join(sorted(have))}): "
            "another program wrote it. Move that folder away, or choose another --root."
        )
    return table


def frame(name: str, table: Any) -> pl.LazyFrame:
    """Return the rows of an open table; of null, for one that does not exist, a frame without rows."""
    if table is None:
        return tables.empty(name).lazy()
    is_folder = table.table_uri.startswith("file:")
    rows = pl.scan_delta(table, storage_options=None if is_folder else places.FOR_POLARS)
    have = rows.collect_schema().names()  # a table, or a version of it, may be older than a column of its contract
    columns = tables.contract(name).columns
    late = [pl.lit(None, dtype=c.dtype).alias(n) for n, c in columns.items() if n not in have]
    return rows.with_columns(late) if late else rows


def is_large(table: Any) -> bool:
    """Return whether the rows of an open table, taken out of its files, may be more than memory should hold."""
    n_bytes = int(pl.DataFrame(table.get_add_actions())["size_bytes"].sum())

    def footers() -> Iterator[Any]:
        if not table.table_uri.startswith("file:"):
            return (part.metadata for part in table.to_pyarrow_dataset().get_fragments())
        from pyarrow import parquet  # a dataset of a folder would ask for other modules, which take a while to load

        return map(parquet.read_metadata, table.file_uris())

    try:
        return spilled.is_large(n_bytes, footers, most=1_000)
    except (ValueError, NotImplementedError, OSError):  # pyarrow's; who reads the rows says what is wrong with them
        return True


def being_forgotten(folder: Place) -> LakeError | None:
    """Return the error of a lake from which a candidate is being taken; null if nobody is."""
    if isinstance(folder, Url) or not (folder.parent / receipts.UNDER_WAY).is_file():
        return None  # below a URL nobody is: ``forgetting`` refuses
    return LakeError(
        f"{folder.name} under {folder.parent} is not to be had now: a candidate is being forgotten, or that was cut "
        "off; then `arislab forget` without a name completes it."
    )


def damaged(folder: Place, damage: storage.Damage) -> LakeError:
    """Return the error of a table that is not whole."""
    if (under_way := being_forgotten(folder)) is not None:
        return under_way
    return LakeError(
        f"{folder.name} under {folder.parent} is damaged: {damage}. Nothing was read or written; "
        "`arislab doctor` says which version is whole and how to go back to it."
    )


def unreadable(folder: Place, text: str) -> LakeError:
    """Return the error of a table with a data file that a library cannot read."""
    return damaged(folder, storage.Damage(f"a data file cannot be read ({text})"))
