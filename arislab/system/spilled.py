"""What is too large for memory, on disk: frames, arrays and lists in files without a name, mapped into memory.

    rows = spilled.frame(lazy)              # a DataFrame as any other, of which the system drops what is not looked at
    some = spilled.taken(rows, places)      # the same texts; where they stand is on disk as well
    good = spilled.filtered(rows, condition)
    keys = spilled.zeros((41, n), np.uint64)
    objects = spilled.listed(read(line) for line in file)

Polars shares the texts of a frame with what is filtered, joined or sorted of it, so one large frame on disk keeps all
that is made of it small: 16 bytes a text in memory. A file goes with the last frame or array that looks into it, and
with its process however that ends: it has no name. It lies in $TMPDIR, else in /var/tmp, for /tmp is memory on some
systems. Values are the same in both places.
"""

import errno
import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from arislab.errors import PrerequisiteError
from arislab.system import heap

T = TypeVar("T")

LARGE = 1 << 29
"""Bytes from which on a frame goes to disk, and an array of half as many."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 5_000
"""Items of a list that go to disk, and come back, at once."""
_AS_OBJECTS = 3
"""Bytes that objects of Python take in memory for each one of their pickle, roughly."""


_IN_MEMORY = 4
"""Bytes in memory that one in a Parquet file becomes: about three of texts, more where these repeat each other."""


def is_large(n_bytes: int, footers: Callable[[], Iterable[Any]], *, most: int) -> bool:
    """Return whether the rows of Parquet files may take more than ``LARGE`` bytes in memory.

    Args:
        n_bytes: Size of the files.
        footers: Gives what pyarrow tells of each (FileMetaData); asked for where the size alone does not say it.
        most: Bytes in memory that one in a file may become.
    """
    if n_bytes * _IN_MEMORY > LARGE or n_bytes * most < LARGE:
        return n_bytes * _IN_MEMORY > LARGE
    groups = (footer.row_group(i) for footer in footers() for i in range(footer.num_row_groups))
    return bool(sum(group.total_byte_size for group in groups) > LARGE)


def frame(rows: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return the rows with what they take in memory on disk, if that is much; a query is answered on the way there.

    Of a DataFrame only those columns move that are in memory: what shares the texts of rows on disk stays theirs.

    Raises:
        PrerequisiteError: The disk is full.
    """
    if isinstance(rows, pl.DataFrame):
        return _moved(rows)
    with _file() as file:
        with _saying_full():
            rows.sink_ipc(file, compression="uncompressed", maintain_order=True)
        return _mapped(file)


def filtered(rows: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """Return the rows for which a condition is true; of large ones as ``taken`` does.

    Raises:
        PrerequisiteError: The disk is full.
    """
    is_true = rows.select(condition & pl.repeat(value=True, n=pl.len())).to_series()  # one value counts for all rows
    return taken(rows, is_true.arg_true())


def taken(rows: pl.DataFrame, at: pl.Series) -> pl.DataFrame:
    """Return rows of a frame, of which those of large ones share the texts, and what else they take is on disk.

    Args:
        rows: Of any size.
        at: Numbers of the rows, in their new order.

    Raises:
        PrerequisiteError: The disk is full.
    """
    if at.len() == rows.height and (at == pl.int_range(rows.height, eager=True)).all():
        return rows
    if at.len() * rows.width * _VIEW < LARGE // 4:
        return rows[at]
    # one after the other: what is made of each is in memory until it is written
    flat = _held(((c.name, [_chunk(c.rechunk())]) for c in rows.iter_columns() if _is_flat(c)), at.to_numpy())
    return pl.DataFrame([flat[c.name] if c.name in flat else c.gather(at) for c in rows.iter_columns()])


_VIEW = 16
"""Bytes that tell how long a text is and where it stands, or hold a short one."""
_PLACES = 1 << 20
_ALIGNED = 64  # bytes; Arrow's own are


def _moved(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows, of which columns that are in memory are on disk, if these take half of ``LARGE`` together."""
    most = LARGE // 2  # several such frames, made of one another, are held at once
    if rows.estimated_size() < most or pl.Object in rows.dtypes:
        return rows
    values, texts = dict[str, int](), dict[str, int]()
    seen = set[int]()
    for column in rows.iter_columns():
        for array in map(_chunk, column.get_chunks()):
            for i, part in enumerate(array.buffers()):
                if part is not None and part.address not in seen and not _is_mapped(part.address):
                    seen.add(part.address)
                    held = values if i < 2 and _is_flat(column) else texts
                    held[column.name] = held.get(column.name, 0) + part.size
    if sum(values.values()) + sum(texts.values()) < most:
        return rows
    moved = {}
    if whole := [name for name, size in texts.items() if size > most // 32]:
        with _file() as file:
            with _saying_full():
                rows.lazy().select(whole).sink_ipc(file, compression="uncompressed", maintain_order=True)
            moved = {column.name: column for column in _mapped(file).iter_columns()}
    some = [name for name in values if name not in moved]
    moved |= _held((name, list(map(_chunk, rows[name].get_chunks()))) for name in some)
    return rows.with_columns(moved.values())


def _mapped(file: IO[bytes]) -> pl.DataFrame:
    import pyarrow.ipc  # no other module of ours needs it, and it takes a while to load

    table = pyarrow.ipc.open_file(_read(file)).read_all()
    columns = dict(zip(table.column_names, table.columns, strict=True))
    # rows in many pieces cost whatever uses them
    pieces = {name: column.chunks for name, column in columns.items() if column.num_chunks > 1}
    whole = _held((name, chunks) for name, chunks in pieces.items() if _is_flat(chunks[0].type))
    return pl.DataFrame(
        [
            whole[name] if name in whole else pl.DataFrame(pl.from_arrow(table.select([name]))).to_series()
            for name in columns
        ]
    )


def _read(file: IO[bytes]) -> Any:
    """What was written to a file, as a buffer of Arrow's that the system reads where it is looked at."""
    import pyarrow

    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    buffer = pyarrow.py_buffer(mapped)
    _ON_DISK.append((weakref.ref(mapped), buffer.address, buffer.address + buffer.size))
    _ON_DISK[:] = [part for part in _ON_DISK if part[0]() is not None]
    heap.trim()
    return buffer


_ON_DISK: list[tuple[Any, int, int]] = []
"""Where in this process files are looked at: who holds the place, its first address, and the one after its last."""


def _is_mapped(address: int) -> bool:
    return any(first <= address < end and of() is not None for of, first, end in tuple(_ON_DISK))


def _chunk(column: pl.Series) -> Any:
    return column.to_arrow(compat_level=pl.CompatLevel.newest())


def _is_flat(of: Any) -> bool:
    """Whether values of a column, or of an Arrow type, take the same number of bytes each, but for texts elsewhere."""
    import pyarrow

    dtype = _chunk(of.clear()).type if isinstance(of, pl.Series) else of
    is_view = pyarrow.types.is_string_view(dtype) or pyarrow.types.is_binary_view(dtype)
    return bool(is_view or (pyarrow.types.is_primitive(dtype) and dtype.bit_width >= 8))


def _held(columns: Iterable[tuple[str, list[Any]]], places: NDArray[Any] | None = None) -> dict[str, pl.Series]:
    """Columns of the Arrow arrays of a flat type, or of some places of one array, on disk; the texts stay theirs.

    One file for all: each that is looked at takes one of the numbers that a process has for open files.
    """
    import pyarrow

    parts = []
    with _file() as file, _saying_full():
        for name, chunks in columns:
            at, texts, valid = file.tell(), list[Any](), list[NDArray[Any]]()
            dtype = chunks[0].type
            is_view = not pyarrow.types.is_primitive(dtype)
            width = _VIEW if is_view else dtype.bit_width // 8
            for array in chunks:
                _, fixed, *more = array.buffers()
                values = np.frombuffer(fixed, np.uint8)[array.offset * width : (array.offset + len(array)) * width]
                values = values.reshape(-1, width)
                is_valid = array.is_valid().to_numpy(zero_copy_only=False)
                valid.append(is_valid if places is None else is_valid[places])
                for start in range(0, len(valid[-1]), _PLACES):
                    some = slice(start, start + _PLACES)
                    part = np.array(values[some] if places is None else values[places[some]])
                    if is_view and texts:  # those of the arrays before stand first
                        views = part.view(np.uint32)
                        views[views[:, 0] > 12, 2] += len(texts)
                    file.write(part.data)
                texts += more
            is_valid = np.concatenate(valid)
            bits = _aligned(file)
            file.write(np.packbits(is_valid, bitorder="little").data)
            parts.append((name, dtype, len(is_valid), len(is_valid) - int(is_valid.sum()), at, bits, texts))
            _aligned(file)
        if not parts:
            return {}
        file.write(bytes(_ALIGNED))  # of nothing there is nothing to map
        mapped = _read(file)
    held = {}
    for name, dtype, n, n_null, at, bits, texts in parts:
        buffers = [mapped.slice(bits) if n_null else None, mapped.slice(at, bits - at), *texts]
        held[name] = pl.Series(name, pl.from_arrow(pyarrow.Array.from_buffers(dtype, n, buffers, null_count=n_null)))
    return held


def _aligned(file: IO[bytes]) -> int:
    """Fill up a file to where the next part may begin, and return that."""
    file.write(bytes(-file.tell() % _ALIGNED))
    return file.tell()


def frames(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return frames of one schema, at least one, below each other; on disk from ``LARGE`` bytes on.

    They are asked for one by one.

    Raises:
        PrerequisiteError: The disk is full.
    """
    import pyarrow.ipc

    held: list[pl.DataFrame] = []
    n_bytes = n_held = 0
    writer: Any = None
    with ExitStack() as stack:
        for part in chain(parts, [None]):
            if part is not None:
                held.append(part)
                n_held += int(part.estimated_size())
            is_full = n_bytes + n_held >= LARGE and n_held >= LARGE // 8  # few pieces: each costs whatever uses it
            if not held or not (is_full or (part is None and writer is not None)):
                continue
            table = pl.concat(held, rechunk=True).to_arrow(compat_level=pl.CompatLevel.newest())
            with _saying_full():
                if writer is None:
                    file = stack.enter_context(_file())
                    writer = pyarrow.ipc.new_file(file, table.schema)
                writer.write_table(table)
            n_bytes, n_held = n_bytes + n_held, 0
            held.clear()
        if writer is None:
            return pl.concat(held, rechunk=True)
        with _saying_full():
            writer.close()
        return _mapped(file)


def arrow(rows: pl.DataFrame) -> Any:
    """Return rows as an Arrow table with texts as all programs read them: large ones on disk, and in one piece.

    Whoever writes several pieces at once may mix their rows.

    Raises:
        PrerequisiteError: The disk is full.
    """
    import pyarrow

    size = int(rows.estimated_size())
    if size < LARGE:
        return rows.to_arrow()
    n_rows = max(1, rows.height * (LARGE // 32) // size)
    columns = {
        column.name: _texts(column, n_rows) if column.dtype == pl.String else column.rechunk().to_arrow()
        for column in rows.iter_columns()
    }
    return pyarrow.table(columns)


def _texts(column: pl.Series, n_rows: int) -> Any:
    """A column of texts one after the other on disk, as an Arrow array; some rows are looked at at once."""
    import pyarrow

    ends, size = [np.zeros(1, np.int64)], 0
    with _file() as file, _saying_full():
        for start in range(0, column.len(), n_rows):
            array = column.slice(start, n_rows).rechunk().to_arrow()
            _, offsets, data = array.buffers()
            stand = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
            if data is not None:
                file.write(data[stand[0] : stand[-1]])
            ends.append(stand[1:] + (size - stand[0]))
            size = int(ends[-1][-1])
        at = [size, size + -size % 64]  # where texts end, and where their ends begin
        file.write(bytes(at[1] - at[0]))
        for part in ends:
            file.write(part.data)
        at += [file.tell()]
        file.write(np.packbits(column.is_not_null().to_numpy(), bitorder="little").data)
        mapped = _read(file)
    parts = [mapped.slice(at[2]), mapped.slice(at[1], at[2] - at[1]), mapped.slice(0, at[0])]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), column.len(), parts, null_count=column.null_count())


def zeros(shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros to write to, on disk if it takes more than half of ``LARGE``.

    Raises:
        PrerequisiteError: The disk is full.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes < LARGE // 2:
        return np.zeros(shape, dtype)
    with _file() as file:
        with _saying_full():
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)  # else a full disk ends the process, at a write to memory
            file.truncate(n_bytes)
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
        if file is not None or (n_bytes and n_bytes >= LARGE // 2):  # of nothing there is nothing to map
            file = file or _file()
            _write(file, held)
    if file is None:
        return np.concatenate(held)
    heap.trim()
    with file:
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype)


def _write(file: IO[bytes], held: list[NDArray[Any]]) -> None:
    with _saying_full():
        for part in held:
            file.write(part.data)
        file.flush()
    held.clear()


def listed(items: Iterable[T]) -> Sequence[T]:
    """Return a list of the items; what takes more than about ``LARGE`` bytes is on disk and comes back in its order.

    Args:
        items: What pickle keeps; they are asked for one by one.

    Raises:
        PrerequisiteError: The disk is full.
    """
    held: list[T] = []
    on_disk: _Listed[T] | None = None
    n_bytes = n_block = 0
    for item in items:
        held.append(item)
        if len(held) % _BLOCK:
            continue
        if on_disk is not None:
            on_disk.add(held)
            held = []
            continue
        if len(held) % (8 * _BLOCK) == _BLOCK:  # what one block in eight takes is enough to know
            n_block = len(pickle.dumps(held[-_BLOCK:], pickle.HIGHEST_PROTOCOL)) * _AS_OBJECTS
        n_bytes += n_block
        if n_bytes > LARGE:
            on_disk = _Listed()
            for start in range(0, len(held), _BLOCK):
                on_disk.add(held[start : start + _BLOCK])
            held = []
    if on_disk is None:
        return held
    on_disk.add(held)
    return on_disk


class _Listed(Sequence[T]):
    """Items in blocks on disk; the last block that was looked at is in memory."""

    def __init__(self) -> None:
        self._file = _file()
        weakref.finalize(self, self._file.close)
        self._ends = [0]
        self._n = 0
        self._at, self._block = -1, list[T]()

    def add(self, block: list[T]) -> None:
        """Write one more block; all but the last are full."""
        with _saying_full():
            self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(block, pickle.HIGHEST_PROTOCOL)))
            self._file.flush()
        self._n += len(block)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, i: int) -> T: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[T]: ...

    def __getitem__(self, i: int | slice) -> T | Sequence[T]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._n))]
        if not -self._n <= i < self._n:
            raise IndexError(i)
        block, place = divmod(i % self._n, _BLOCK)
        if block != self._at:
            size = self._ends[block + 1] - self._ends[block]
            # pread: two readers of one list do not move each other's place
            self._at, self._block = block, pickle.loads(os.pread(self._file.fileno(), size, self._ends[block]))
        return self._block[place]

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(self._n))


def _folder() -> str:
    return os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir())


def _file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=_folder())
    except OSError as error:
        raise _full(error) from None


@contextmanager
def _saying_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # polars' has no number, and what it reads may be gone instead
        if error.errno not in _NO_ROOM and not any(f"os error {code}" in str(error) for code in _NO_ROOM):
            raise
        raise _full(error) from None


def _full(error: OSError) -> PrerequisiteError:
    return PrerequisiteError(
        f"rows that are too large for memory cannot be put into {_folder()} ({error.strerror or error}); make room "
        "there, or let TMPDIR name a folder on a disk that has it. No part of them was written to the lake."
    )
