"""The memory that the C library keeps of what was freed."""

import ctypes
import os


def trim() -> None:
    """Give back what was freed: where pieces are made and dropped in turns, the C library keeps the room of many."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # of the GNU C library
    if give_back is not None:
        give_back(0)
