"""Places in an object store, for tables of a lake by URL: what the lake needs of ``pathlib``, and what a store needs.

    s3://bucket/lab   /reviews   /_delta_log/00000000000000000003.json
    the lake          a table    an object, whose size and time its listing says

Credentials and endpoint come from the standard variables (AWS_…, GOOGLE_…, AZURE_…), which deltalake reads by itself;
nothing of them stands in a message. A store confirms an object when it is there for good, so that nothing is synced,
and it has no locks: several writers are safe only where it makes an object on the condition that there is none, which
``check_writers`` tries out. This module does not know Delta's log, nor what a table is.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Barrier
from typing import IO, Any, NamedTuple

from arislab.errors import PrerequisiteError
from arislab.system import masking, paths

WRITERS = "ARISLAB_LAKE_WRITERS"
"""Variable that says by 1 that nobody else writes to this lake, so that a store without conditional puts will do."""
_FRESH_S = 60.0
"""Seconds for which a listing of data files counts: they never change, and only a vacuum takes one away."""
_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "ARISLAB_LAKE")
_RIVALS, _ROUNDS = 4, 3
"""Writers at one moment, and moments, in which a store must let one alone make an object."""
_PART_BYTES = 1 << 22
_RETRIES, _RETRY_S = 8, 60
"""A store that is restarted is asked again for so long; deltalake's own three minutes look like a hang."""
FOR_POLARS: dict[str, Any] = {"max_retries": _RETRIES}
"""What polars takes in the place of ``Url.options``: it has a type of its own for the same name."""

_SAYS = {
    r"NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist": "there is no such bucket",
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|AuthenticationFailed|AuthorizationFailure|InvalidToken|"
    r"ExpiredToken|Unauthorized|Forbidden|\b40[13]\b": "the store refuses the credentials, or what they may do there",
    r"metadata|credential|token": "there are no credentials",
    r"Connect|connection|dns|timed out|sending request|\b50[0-9]\b": "the store does not answer",
}
"""What libraries say of a store that cannot be used -> the same in words; they have one error for all of it."""


class Size(NamedTuple):
    """Bytes of an object and the time of its last change, as ``Path.stat`` has them."""

    st_size: int
    st_mtime_ns: int


class Url:
    """A place in an object store: an object, or all those whose names begin with it.

    Args:
        base: URL of the lake, from ``paths.lake_url``.
        key: Place below it; empty: the lake itself.
        size: Of the object, where a listing said it.
    """

    def __init__(self, base: str, key: str = "", *, size: Size | None = None) -> None:
        self._base, self._key, self._size = base, key, size

    @property
    def name(self) -> str:
        """Last part of the place."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The place around; the lake is its own."""
        return Url(self._base, self._key.rpartition("/")[0])

    def __truediv__(self, name: str) -> "Url":
        return Url(self._base, f"{self._key}/{name}" if self._key else name)

    def __str__(self) -> str:
        return f"{self._base}/{self._key}" if self._key else self._base

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def iterdir(self) -> Iterator["Url"]:
        """Yield what lies directly in this place; nothing if nothing does."""
        yield from self._listed(recursive=False)

    def rglob(self, pattern: str) -> Iterator["Url"]:
        """Yield the objects below this place whose names match."""
        objects = (path for path in self._listed(recursive=True) if path._size is not None)
        yield from (path for path in objects if PurePosixPath(path.name).match(pattern))

    def glob(self, pattern: str) -> Iterator["Url"]:
        """Yield what lies directly in this place and has a name that matches."""
        yield from (path for path in self.iterdir() if PurePosixPath(path.name).match(pattern))

    def is_dir(self) -> bool:
        """Return whether objects lie below this place."""
        return next(self.iterdir(), None) is not None

    def is_file(self) -> bool:
        """Return whether this is an object."""
        try:
            return self.stat().st_size >= 0
        except FileNotFoundError:
            return False

    def stat(self) -> Size:
        """Return size and time of an object, as the listing had them that gave this place, else as they are.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if self._size is None:
            (info,) = self._asked(lambda store: store.get_file_info([self._key]))
            if not info.is_file:
                raise FileNotFoundError(str(self))
            self._size = Size(info.size, info.mtime_ns or 0)
        return self._size

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open an object to be read."""
        file: IO[bytes] = self._asked(lambda store: store.open_input_file(self._key))
        return file

    def write(self, file: IO[bytes]) -> None:
        """Make an object of what a file holds, in the place of one that may be there."""

        def copy(store: Any) -> None:
            stream = store.handler._handler.open_output_stream(self._key)  # Arrow's own hands it no bytes
            while some := file.read(_PART_BYTES):
                stream.write(bytes(some))
            stream.close()

        self._asked(copy)

    def read_bytes(self) -> bytes:
        """Return the content of an object."""

        def read(store: Any) -> bytes:
            with store.open_input_file(self._key) as file:
                return bytes(file.read())

        content: bytes = self._asked(read)
        return content

    def unlink(self) -> None:
        """Delete an object."""
        self._asked(lambda store: store.delete_file(self._key))

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the bytes of those of the objects of this place that are there, by name.

        A listing counts for a minute: what is read again and again is not listed each time.
        """
        wanted, (at, known) = {*names}, _sizes.get((str(self), _variables()), (0.0, {}))
        if time.monotonic() - at > _FRESH_S or not wanted <= known.keys():
            start = len(self._key) + 1
            known = {path._key[start:]: path.stat().st_size for path in self.rglob("*")}
            _sizes[str(self), _variables()] = (time.monotonic(), known)
        return {name: known[name] for name in wanted & known.keys()}

    def options(self) -> dict[str, str]:
        """Return how deltalake is to reach the store, beside what the environment says."""
        options = {"max_retries": str(_RETRIES), "retry_timeout": f"{_RETRY_S}s"}
        chosen = {"AWS_CONDITIONAL_PUT", "AWS_S3_LOCKING_PROVIDER"} & {name.upper() for name in os.environ}
        if self._base.startswith("s3") and not chosen:
            options["aws_conditional_put"] = "etag"
        return options

    def check_writers(self) -> None:
        """Refuse a store that lets two writers make the same object; it is tried out once a lake and process.

        A trial, no proof: rivals of this machine make an object at one moment, a few times. A store without conditions
        whose answers came so far apart each time that the rivals saw each other's object would pass.

        Raises:
            PrerequisiteError: It does, or it cannot be written.
        """
        if os.environ.get(WRITERS) == "1":
            return
        from deltalake.exceptions import DeltaError

        try:
            is_safe = _is_conditional(self._base, _variables())
        except (OSError, DeltaError) as error:
            raise self.unreachable(error) from None
        if not is_safe:
            raise PrerequisiteError(
                f"nothing was written to {self._base}: its store does not heed If-None-Match, so that of two writers "
                "at a time one would lose rows without a word. Use a store with conditional puts (AWS S3, R2, GCS, "
                f"Azure, MinIO), or say by {WRITERS}=1 that no other notebook, panel or machine writes to this lake."
            )

    def unreachable(self, error: Exception) -> PrerequisiteError:
        """Return the error of a store that could not be used, without what it said of keys."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        what = next((words for pattern, words in _SAYS.items() if re.search(pattern, text)), None)
        if what is None:
            first = re.split(r"[<\n]", text, maxsplit=1)[0].strip()
            what = f"the store says {masking.masked(first)!r}"
        return PrerequisiteError(
            f"cannot use the lake {self._base}: {what}. Bucket, credentials and endpoint come from --lake or "
            "ARISLAB_LAKE and the variables AWS_…, GOOGLE_… or AZURE_…; check them, then run it again: what was "
            "stored stays."
        )

    def _listed(self, *, recursive: bool) -> Iterator["Url"]:
        from pyarrow.fs import FileSelector, FileType

        chosen = FileSelector(self._key, recursive=recursive, allow_not_found=True)
        for info in self._asked(lambda store: store.get_file_info(chosen)):
            is_object = info.type == FileType.File
            yield Url(self._base, info.path, size=Size(info.size, info.mtime_ns or 0) if is_object else None)

    def _asked(self, ask: Callable[[Any], Any]) -> Any:
        try:
            return ask(_store(self._base, tuple(self.options().items()), _variables()))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.unreachable(error) from None


Place = Path | Url
"""Where a table lies: a folder, or below a URL."""
_sizes: dict[tuple[str, tuple[str, ...]], tuple[float, dict[str, int]]] = {}
"""Listings of data files by place, with the time at which each was made."""


def of(lake: str | Path) -> Place:
    """Return the place of a lake, or say what is in the way.

    Args:
        lake: A URL or a folder.
    """
    if isinstance(lake, str) and paths.is_url(lake):
        return Url(paths.lake_url(lake, "the lake's URL"))
    return paths.usable(lake, "the lake's folder")


def is_of_store(error: Exception) -> bool:
    """Say whether an error of Delta's library is one of the store, not of the table."""
    return re.search(r"object.?store|Generic \w+ error|Error performing", str(error), re.IGNORECASE) is not None


def _variables() -> tuple[str, ...]:
    """What of the environment says how a store is reached: another account is another store."""
    return tuple(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES))


@lru_cache(maxsize=16)
def _store(base: str, options: tuple[tuple[str, str], ...], variables: tuple[str, ...]) -> Any:
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    return PyFileSystem(DeltaStorageHandler(base, dict(options)))


@lru_cache(maxsize=64)
def _is_conditional(base: str, variables: tuple[str, ...]) -> bool:
    """Have writers commit the same version of a table of their own at one moment; the table goes away again.

    Each looks first whether there is that version, as deltalake's do: only those of one moment come to the condition.
    """
    from deltalake import DeltaTable, Field, Schema
    from deltalake.schema import PrimitiveType

    place = Url(base) / f".writers-{secrets.token_hex(8)}"
    try:
        DeltaTable.create(str(place), Schema([Field("n", PrimitiveType("long"))]), storage_options=place.options())
        with ThreadPoolExecutor(_RIVALS) as pool:
            n_alone = 0
            for _ in range(3 * _ROUNDS):
                if (n := _n_committed(place, pool)) > 1:
                    return False
                n_alone += n  # none: an answer was lost on its way and asked for again, which says nothing
                if n_alone == _ROUNDS:
                    return True
            return False
    finally:
        for path in list(place.rglob("*")):
            path.unlink()


def _n_committed(place: Url, pool: ThreadPoolExecutor) -> int:
    """How many of several writers made the next version."""
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import CommitFailedError

    start, once = Barrier(_RIVALS), CommitProperties(max_commit_retries=0)

    def commit(_: int) -> bool:
        table = DeltaTable(str(place), storage_options=place.options())
        start.wait(_RETRY_S)
        try:
            # without actions; and it lets other threads run meanwhile, as a change of properties would not
            table.create_write_transaction([], "append", table.schema(), commit_properties=once)
        except CommitFailedError:
            return False
        return True

    return sum(pool.map(commit, range(_RIVALS)))
