"""One vLLM as a process: how it is started and ended, and what can be asked of it while it lives.

Its process group is led by a watcher of a few megabytes, which ends all of it when the server is gone, however that
went. This module does not know adapters' weights, or when a vLLM is to be started again.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from arislab.server.engines.upstream import UpstreamEngine

if TYPE_CHECKING:
    import aiohttp

TAIL_LINES = 15

_WATCH = """
import os, signal, subprocess, sys, threading

def end_with_the_server():
    sys.stdin.buffer.read()  # its other end is held by the server and by nobody else
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_the_server, daemon=True).start()
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
print(f"arislab: process {child.pid} ended with status {child.wait()}", file=sys.stderr, flush=True)
os.killpg(0, signal.SIGKILL)  # what it left behind
"""


@dataclass
class Life:
    """One vLLM, from its start to its end."""

    url: str
    session: "aiohttp.ClientSession"
    chat: UpstreamEngine
    over: "asyncio.Task[int]"
    """Done when the watcher, and all of its process group with it, has ended."""
    adapters: set[str] = field(default_factory=set)
    """Names that were loaded."""


async def launch(command: Sequence[str], log_file: Path, *, key: str) -> tuple[asyncio.subprocess.Process, int]:
    """Start a command under a watcher; returns the watcher, and where what it prints begins in the log.

    Args:
        command: program and arguments.
        log_file: what it prints is added here.
        key: what vLLM asks of its clients; in the environment, because everybody may read a command line.
    """
    ours = {"VLLM_API_KEY": key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
    log_file.touch(mode=0o600)  # vLLM may log prompts
    with log_file.open("ab") as out:
        offset = out.tell()
        process = await asyncio.create_subprocess_exec(
            # isolated and without site: small, and no file of the working directory can take the place of a module
            *(sys.executable, "-I", "-S", "-c", _WATCH, *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=os.environ | ours,
            start_new_session=True,  # a group that can be killed whole, and that a Ctrl-C for the server does not reach
        )
    return process, offset


async def end(process: asyncio.subprocess.Process, *, patience_s: float) -> None:
    """SIGTERM, then SIGKILL to the whole group."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a group outlives its leader
    await process.wait()


def tail(log_file: Path, offset: int) -> str:
    """The last lines of a log, of those behind a place."""
    with log_file.open("rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (empty)"


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def is_healthy(life: Life) -> bool:
    """Whether it says so."""
    import aiohttp

    try:
        async with life.session.get(f"{life.url}/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def names_of(life: Life) -> list[str]:
    """The models of a vLLM that is healthy and knows our key; none while it is not."""
    import aiohttp

    if not await is_healthy(life):
        return []
    try:
        async with life.session.get(f"{life.url}/v1/models") as response:
            return [model["id"] for model in orjson.loads(await response.read())["data"]]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return []


async def load_adapter(life: Life, name: str, folder: Path) -> tuple[int, str]:
    """Status and text of vLLM's answer; an answer that does not come is 503."""
    import aiohttp

    try:
        asked = {"lora_name": name, "lora_path": str(folder)}
        async with life.session.post(f"{life.url}/v1/load_lora_adapter", json=asked) as response:
            text = (await response.text(errors="replace"))[:500]
            return response.status if response.status < 500 else 503, text
    except (aiohttp.ClientError, TimeoutError) as error:
        await asyncio.sleep(1)  # vLLM is probably about to be found dead, and then the line just runs again
        return 503, f"no answer ({type(error).__name__})"
