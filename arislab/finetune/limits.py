"""Memory and disk that did not suffice: how it is known, and what to change.

Torch, safetensors, Arrow and Polars each say it in words of their own; a process that Linux kills for its memory says
nothing. A training process ends with the number of the error (ENOMEM, ENOSPC) as its exit code: a full disk may not
take a message.
"""

import errno
import re
import signal
from collections.abc import Mapping
from typing import Any

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
_DISK = (
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "pytorchstreamwriter failed",
    "unexpected pos",  # of torch, when it closes a file that it could not write
)


def reached(error: BaseException) -> int | None:
    """Return the limit that an error means: errno.ENOMEM, errno.ENOSPC (a quota too), or None.

    Example:
        >>> reached(OSError(errno.EDQUOT, "Disk quota exceeded")) == errno.ENOSPC
        True
        >>> reached(ValueError("no such row"))
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _MEMORY):
        return errno.ENOMEM
    if any(words in text for words in _DISK):
        return errno.ENOSPC
    before = error.__context__  # the file may be closed, which fails too, while the write's error is on its way
    return reached(before) if before is not None else None


def of_exit(code: int) -> int | None:
    """Return the limit that the exit code of a training process means; SIGKILL is how Linux takes memory back."""
    return errno.ENOMEM if code == -signal.SIGKILL else code if code in (errno.ENOMEM, errno.ENOSPC) else None


def of_launch(log: str) -> int | None:
    """Return the limit that the log of `accelerate launch` means: it says how the first of its processes ended.

    Example:
        >>> of_launch("  exitcode  : 28 (pid: 2871)") == errno.ENOSPC
        True
    """
    codes = re.findall(r"exitcode\s*: (-?\d+) \(pid", log)  # the last is that of the root cause
    return of_exit(int(codes[-1])) if codes else None


def what_to_change(limit: int, settings: Mapping[str, Any], *, workers: int, folder: str) -> str:
    """Return what the user can change.

    Args:
        limit: errno.ENOMEM or errno.ENOSPC.
        settings: Of the training.
        workers: Trainings at once.
        folder: Of the adapters.
    """
    if limit == errno.ENOSPC:
        return f"Make room on the disk of {folder}, or give another root"
    size, parts, length = (settings[key] for key in ("batch_size", "gradient_accumulation_steps", "max_length"))
    more = next((n for n in range(parts + 1, size + 1) if size % n == 0), None)
    changes = [f"fewer at once (workers is {workers}, try 1)"] if workers > 1 else []
    if more:
        changes.append(
            f"more parts of a batch (gradient_accumulation_steps is {parts}, try {more}: same but for rounding)"
        )
    else:
        changes.append(f"gradient_accumulation_steps is {parts}, the most for this batch_size")
    changes.append(f"shorter examples (max_length is {length:,}, longer ones are left out)")
    changes.append(f"a smaller batch_size (is {size}; another result)")
    if settings["method"] != "qlora":
        changes.append(f"method 'qlora' (is {settings['method']!r}), a base in 4 bits")
    return "To need less memory, in this order: " + "; ".join(changes)
