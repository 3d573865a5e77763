"""The process of a kernel: started by this interpreter, and why it is gone; with it goes what it had started."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from arislab.system import processes

_HELD_MESSAGES = 100_000
"""While a slow disk holds us up; of more than 1,000, the default, the kernel would throw some away."""
_CHILDREN_S = 5.0  # a server finishes what it writes
_RECONNECT_MS = 10
"""Pause before a socket tries again to reach a kernel that does not listen yet; ZeroMQ's own is 100 to 200."""
_POLL_S = 0.01
"""Pause before it is asked again whether a kernel that was told to end has ended; Jupyter's own is 0.1."""


def _n_oom_kills() -> int:
    """How many processes the system has ended for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@dataclass
class Process:
    """What becomes known of a kernel's process."""

    pid: int | None = None
    """Null until it is started."""
    is_given_up: bool = False
    """Its cell passed a limit: nobody waits for its end."""
    children: set[tuple[int, int]] = field(default_factory=set)
    """pid and start time of its descendants when it was told to end."""
    peak_rss_mb: float | None = None
    """Its largest memory until it was told to end; null if it died before that."""
    n_oom_kills: int = field(default_factory=_n_oom_kills)
    """Of the whole system before it started."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that was started, and may not be there yet."""

    manager: Any
    """jupyter_client's."""
    process: Process
    raw: Any
    """File that gets what its process itself prints."""


@contextlib.contextmanager
def started(cwd: Path, env: dict[str, str], raw: Any) -> Iterator[Kernel]:
    """Start a kernel of this interpreter and yield it at once; if nobody has ended it, the end of the block does.

    Args:
        cwd: Its working directory.
        env: Its environment.
        raw: File that gets what its process itself prints.

    Raises:
        OSError: There can be no such process.
    """
    from jupyter_core.utils import run_sync  # also where a loop is running, as in a notebook

    process = Process()
    manager = _manager_class(cwd, env, raw, process)(kernel_name="python3")
    try:
        run_sync(manager.start_kernel)()
        yield Kernel(manager, process, raw)
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)


def _manager_class(cwd: Path, env: dict[str, str], raw: Any, process: Process) -> type:
    """Return a kernel manager for this interpreter; ``process`` gets pid and, at its end, peak memory and children."""
    from jupyter_client.asynchronous.client import AsyncKernelClient
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Client(AsyncKernelClient):
        manager: Any = None
        """Starts the kernel once more if it ends before it was there; null where it may not."""

        async def wait_for_ready(self, timeout: float | None = None) -> None:
            # Jupyter's own goes on to listen for 0.2 s, for messages that nbclient passes over since it asked for none
            until = float("inf") if timeout is None else time.monotonic() + timeout
            while time.monotonic() < until:
                self.kernel_info()
                with contextlib.suppress(Empty):
                    reply = await self.shell_channel.get_msg(timeout=1)
                    if reply["msg_type"] == "kernel_info_reply":
                        await self.iopub_channel.get_msg(timeout=0.2)  # outputs come through
                        return
                if not await self.is_alive():
                    if self.manager is None:
                        raise RuntimeError("Kernel died before replying to kernel_info")
                    # seen once in some thousand starts on a busy machine, a crash inside libzmq; nothing has run
                    manager, self.manager = self.manager, None
                    await manager.restart_kernel(now=True)
            raise RuntimeError(f"Kernel didn't respond in {timeout:g} seconds")

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            # without folders to look in, python3 is the kernel of sys.executable: the environment that env.lock names
            specs = KernelSpecManager(kernel_dirs=[])
            super().__init__(kernel_spec_manager=specs, client_factory=Client, **settings)

        def client(self, **settings: Any) -> Any:
            client = super().client(**settings)
            client.context.rcvhwm, client.context.reconnect_ivl = _HELD_MESSAGES, _RECONNECT_MS
            client.manager = self
            return client

        async def start_kernel(self, **settings: Any) -> Any:  # type: ignore[override]
            # what a cell says is no history of somebody at a prompt
            arguments = ["--IPKernelApp.extra_extensions=arislab.system.floods", "--HistoryManager.hist_file=:memory:"]
            options = {"cwd": str(cwd), "env": env, "stdout": raw, "stderr": raw, "extra_arguments": arguments}
            await super().start_kernel(**{**settings, **options})
            process.pid = getattr(self.provisioner, "pid", None)

        async def shutdown_kernel(  # type: ignore[override] # Jupyter's is a coroutine under a decorator
            self,
            now: bool = False,  # noqa: FBT001, FBT002 - Jupyter's signature
            restart: bool = False,  # noqa: FBT001, FBT002 - Jupyter's signature
        ) -> Any:
            # looked up now: what /proc knows of a process, and who its children are, goes with it
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                process.peak_rss_mb = round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
            process.children = processes.descendants(process.pid) if process.pid else set()
            # once the run was stopped, the end of the running cell is not waited for
            is_stopped = process.is_given_up or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            if not (now or is_stopped) and self.has_kernel:
                await self.interrupt_kernel()
                await self.request_shutdown(restart=restart)
                await self.finish_shutdown(pollinterval=_POLL_S, restart=restart)
            return await super().shutdown_kernel(now=True, restart=restart)

    return ThisInterpreter


def last_words(raw: Any) -> str:
    """Return what the kernel process itself printed, such as why it could not start; the rest came as messages."""
    raw.seek(max(0, raw.seek(0, 2) - 10_000))
    return str(raw.read().decode(errors="replace"))


def death(kernel: Kernel) -> dict[str, Any]:
    """Return status, cause, reason and signal of a run whose kernel is gone."""
    popen = getattr(getattr(kernel.manager, "provisioner", None), "process", None)
    code = popen.poll() if popen is not None else None
    name = signal.Signals(-code).name if code is not None and code < 0 else None
    # the system's own ending is a SIGKILL too; only its counter tells that from one that somebody sent
    if name == "SIGKILL" and _n_oom_kills() > kernel.process.n_oom_kills:
        reason = "the system ended the kernel: out of memory"
        return {"status": "killed", "cause": "out-of-memory", "reason": reason, "signal": name}
    how = f"by {name}" if name else f"with exit code {code}" if code is not None else "for an unknown reason"
    return {"status": "killed", "cause": "kernel-died", "reason": f"kernel died {how}", "signal": name}


def end_children(process: Process, run_id: str | None) -> list[str]:
    """End what the kernel has started and left.

    Its process group, its descendants, and whatever has the run's name in its environment: a child that has left the
    group is still a descendant, one whose parent ended is not, and one with an environment of its own is no longer
    named.

    Returns:
        Which did not end by themselves.
    """
    if process.pid is None:
        return []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    left = process.children | (processes.with_variable("ARISLAB_RUN_ID", run_id) if run_id else set())
    return processes.end(left, patience_s=_CHILDREN_S) if left else []
