"""Processes by names that are not used again, so that a supervisor that died is not taken for another that has its pid."""

import os
from pathlib import Path
from typing import Any


def identity(pid: int) -> dict[str, Any]:
    """Return what names a process for ever: pid, start time in clock ticks since boot, boot, host.

    Where there is no /proc, start time and boot are null, and a reused pid cannot be told.
    """
    return {"pid": pid, "start_ticks": start_ticks(pid), "boot_id": _boot_id(), "hostname": os.uname().nodename}


def gone(named: dict[str, Any]) -> bool | None:
    """Say whether the process that ``identity`` named has ended; null if it belongs to another machine."""
    if named.get("boot_id") != _boot_id():
        # another boot of this machine ended it; another machine cannot be asked
        return True if named.get("hostname") == os.uname().nodename else None
    if named.get("start_ticks") is not None:
        return bool(start_ticks(named["pid"]) != named["start_ticks"])
    try:
        os.kill(named["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process that is alive (a zombie is not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
