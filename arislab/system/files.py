"""Files and folders that are made whole or not at all, and files that are locked.

Never through a link that somebody else laid: what is being made lies beside the target, under a name that nobody can
know before it is there. In a folder that others may write too, a link under a name that can be guessed would lead the
bytes into another file. This module does not know what is written.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
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
    part = beside(path)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # exclusive: not through a link either
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)  # before the rename: after a loss of power the name could stand over an empty file
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync(path.parent)  # the rename itself is on disk only when the folder is


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the name ``folder`` when the block ends; it is on disk then, with what is in it.

    If the block raises, nothing is left of it. The folders above are made if absent.

    Raises:
        OSError: It cannot be made, or there is such a folder already, and something in it.
    """
    part = beside(folder)
    part.mkdir(parents=True)
    try:
        yield part
        publish(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def publish(part: Path, folder: Path) -> None:
    """Give a folder that is complete its name; it is on disk under it then, with what is in it.

    Raises:
        OSError: There is such a folder already, and something in it; or the disk. The folder is where it was.
    """
    for root, _, names in os.walk(part, topdown=False):  # what is in a folder is on disk before its name can be seen
        for name in names:
            sync(Path(root, name))
        sync(Path(root))
    part.rename(folder)
    try:
        sync(folder.parent)
    except OSError:
        folder.rename(part)  # else the caller is told that it failed, and a reader finds it
        raise


def beside(path: Path) -> Path:
    """Return a name in the same folder for what will be renamed to this one: a rename stays within one file system.

    It is cut, as names end at 255 bytes.
    """
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


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


def keep(path: Path, content: bytes) -> None:
    """Write a file as ``replace`` does, in a folder that is made if absent, whose name is on disk then as well.

    Raises:
        OSError: It cannot be written; what stood there still does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write(content)
    sync(path.parent.parent)  # each time: whoever made the folder may not have come so far
