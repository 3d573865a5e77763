"""Processes by names that are not used again.

By these a supervisor that died is not taken for another process that has its pid.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any


def cores() -> int:
    """Return the number of cores that this process may use."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # a container's share of the machine, where there is one
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123 - no path of ours
            quota, period = file.read().split()
        n = min(n, max(1, int(quota) // int(period)))
    return n


def identity(pid: int) -> dict[str, Any]:
    """Return what names a process for ever: pid, start time in clock ticks since boot, boot, host.

    Where there is no /proc, start time and boot are null, and a reused pid cannot be told.
    """
    return {"pid": pid, "start_ticks": start_ticks(pid), "boot_id": _boot_id(), "hostname": os.uname().nodename}


def gone(named: dict[str, Any]) -> bool | None:
    """Say whether the process that ``identity`` named has ended; null if it belongs to another machine or container."""
    is_here = named.get("hostname") == os.uname().nodename
    if named.get("boot_id") == _boot_id() and _is_alive(named):
        return False
    # another boot of this machine ended it; another machine cannot be asked, and neither can another container of
    # this one, which has its boot but pids of its own
    return True if is_here else None


def _is_alive(named: dict[str, Any]) -> bool:
    if named.get("start_ticks") is not None:
        return bool(start_ticks(named["pid"]) == named["start_ticks"])
    try:
        os.kill(named["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def descendants(pid: int) -> set[tuple[int, int]]:
    """Return the processes that a process started, and those that they did: pid and start time of each.

    Empty without /proc.
    """
    children: dict[int, list[int]] = {}
    for child in _pids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(
                Path(f"/proc/{child}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
            children.setdefault(parent, []).append(child)
    below, todo = set(), [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            if (ticks := start_ticks(child)) is not None:
                below.add((child, ticks))
            todo.append(child)
    return below


def with_variable(name: str, value: str) -> set[tuple[int, int]]:
    """Return the processes that were started with a variable of the environment: pid and start time of each.

    Empty without /proc.
    """
    wanted = f"\0{name}={value}\0".encode(errors="surrogateescape")
    started = set()
    for pid in _pids():
        with contextlib.suppress(OSError):  # another user's, or gone
            is_meant = wanted in b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
            if is_meant and (ticks := start_ticks(pid)) is not None:
                started.add((pid, ticks))
    return started


def end(processes: set[tuple[int, int]], *, patience_s: float) -> list[str]:
    """End processes, first with SIGTERM, after a while with SIGKILL.

    Args:
        processes: pid and start time of each.
        patience_s: How long they may take after SIGTERM.

    Returns:
        The command and pid of each that did not end by itself, and of each that could not be ended.
    """
    until, commands = time.monotonic() + patience_s, {pid: _command(pid) for pid, _ in processes}
    _send(processes, signal.SIGTERM)
    while (left := _alive(processes)) and time.monotonic() < until:
        time.sleep(0.02)
    _send(left, signal.SIGKILL)
    for _ in range(50):
        if not (still := _alive(left)):
            break
        time.sleep(0.02)
    states = {pid: "which could not be ended" for pid, _ in still} if left else {}
    slow = "which did not end by itself"
    return [f"{commands[pid]} (process {pid}), {states.get(pid, slow)}" for pid, _ in sorted(left)]


def _send(processes: set[tuple[int, int]], number: signal.Signals) -> None:
    for pid, _ in _alive(processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _alive(processes: set[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(pid, ticks) for pid, ticks in processes if start_ticks(pid) == ticks}


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()[:80] or "a process"
    return "a process"


def _pids() -> list[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - quicker
    except OSError:
        return []
    return [int(name) for name in names if name.isdigit() and int(name) != os.getpid()]


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process that is alive (a zombie is not)."""
    try:
        # behind the last bracket: the program's name stands in brackets, and may hold spaces and brackets itself
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
