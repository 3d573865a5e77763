"""What is too large for memory, on disk: frames and arrays in files without a name, mapped into memory.

    rows = spilled.frame(lazy)              # a DataFrame as any other, of which the system drops what is not looked at
    keys = spilled.zeros((41, n), np.uint64)

Polars shares the texts of a frame with what is filtered, joined or sorted of it, so one large frame on disk keeps all
that is made of it small. A file goes with the last frame or array that looks into it, and with its process however that
ends: it has no name. It lies in $TMPDIR, else in /var/tmp, for /tmp is memory on some systems. Values are the same in
both places.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from arislab.errors import PrerequisiteError

LARGE = 1 << 29
"""Bytes from which on a frame goes to disk, and an array of half as many."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def frame(rows: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return the rows on disk if they take more than ``LARGE`` bytes; a query is answered on the way there.

    Raises:
        PrerequisiteError: The disk is full.
    """
    import pyarrow.ipc  # no other module of ours needs it, and it takes a while to load

    if isinstance(rows, pl.DataFrame) and (rows.estimated_size() < LARGE or pl.Object in rows.dtypes):
        return rows
    with _file() as file:
        try:
            rows.lazy().sink_ipc(file, compression="uncompressed", maintain_order=True)
        except OSError as error:  # polars' has no number, and what it reads may be gone instead
            if error.errno not in _NO_ROOM and not any(f"os error {code}" in str(error) for code in _NO_ROOM):
                raise
            raise _full(error) from None
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    table = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped)).read_all()
    return pl.DataFrame(pl.from_arrow(table))


def zeros(shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros to write to, on disk if it takes more than half of ``LARGE``.

    Raises:
        PrerequisiteError: The disk is full.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes < LARGE // 2:
        return np.zeros(shape, dtype)
    with _file() as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)  # else a full disk ends the process, at a write to memory
            file.truncate(n_bytes)
        except OSError as error:
            raise _full(error) from None
        mapped = mmap.mmap(file.fileno(), n_bytes)
    return np.frombuffer(mapped, dtype).reshape(shape)


def concatenated(parts: Iterable[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """Return one-dimensional arrays as one, on disk from half of ``LARGE`` bytes on; parts are asked for one by one.

    Raises:
        PrerequisiteError: The disk is full.
    """
    held, n_bytes, file = [np.zeros(0, dtype)], 0, None
    for part in parts:
        held.append(np.ascontiguousarray(part, dtype))
        n_bytes += held[-1].nbytes
        if file is not None or n_bytes >= LARGE // 2:
            file = file or _file()
            _write(file, held)
    if file is None:
        return np.concatenate(held)
    with file:
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype)


def _write(file: IO[bytes], held: list[NDArray[Any]]) -> None:
    try:
        for part in held:
            file.write(part.data)
        file.flush()
    except OSError as error:
        raise _full(error) from None
    held.clear()


def _folder() -> str:
    return os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir())


def _file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=_folder())
    except OSError as error:
        raise _full(error) from None


def _full(error: OSError) -> PrerequisiteError:
    return PrerequisiteError(
        f"rows that are too large for memory cannot be put into {_folder()} ({error.strerror or error}); make room "
        "there, or let TMPDIR name a folder on a disk that has it. Nothing in the lake was changed."
    )
