"""Files that are written whole or not at all, and those that are locked: never through a link that somebody else laid.

The bytes go to a new file beside the target, whose name nobody can know before it is there: in a folder that others may
write too, a link under a name that can be guessed would lead them into another file. This module does not know what is
written.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that takes the name ``path`` when the block ends; it is on disk then, under its name.

    If the block raises, what stood there still does. A link under the name is replaced, not followed.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # exclusive: not through a link either
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync(path.parent)


def opened(path: Path) -> IO[bytes]:
    """Open a file that processes lock, and in which they say who they are.

    It is made if absent, and no link is followed.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    return os.fdopen(descriptor, "r+b", buffering=0)  # what does not fit on the disk must not come up again at the end


def sync(path: Path) -> None:
    """Have what a file holds, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def of_file(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": sha.hexdigest()}


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; it is on disk when this returns.

    Raises:
        OSError: It cannot be written; what stood there still does.
    """
    with written(path) as file:
        file.write(text.encode(errors="surrogateescape"))
