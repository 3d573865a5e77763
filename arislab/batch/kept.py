"""What lies in a folder of batches beside its ledger: the files as they were sent, and as they came.

    requests/71dd00a9537384f5.jsonl           one file of requests, named after its bytes
    results/0b6f1c2d3e4f5a6b-output.jsonl     a result file, named after its batch (ids of servers fit no file name)
    quarantine.jsonl                          lines that belong to no request, cannot be read, or contradict another

This module does not know what is in a line.
"""

import hashlib
from pathlib import Path

from arislab.errors import BatchError
from arislab.system import files


def keep(path: Path, content: bytes) -> None:
    """Write a file of the folder whole or not at all; it is on disk, under its name, when this returns.

    Raises:
        BatchError: The disk is full, or the folder cannot be written.
    """
    try:
        files.keep(path, content)
    except OSError as error:
        raise BatchError(
            f"cannot write {path} ({error.strerror}); make room and run the cell again: nothing is lost at the server."
        ) from None


def keep_requests(folder: Path, content: bytes) -> tuple[str, Path]:
    """Keep a file of requests; returns the digest of its bytes, and where it lies."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / "requests" / f"{digest[:16]}.jsonl"
    if not path.is_file():
        keep(path, content)
    return digest, path


def result_path(folder: Path, batch_id: str, kind: str) -> Path:
    """Return where a result file of a batch lies."""
    return folder / "results" / f"{hashlib.sha256(batch_id.encode()).hexdigest()[:16]}-{kind}.jsonl"
