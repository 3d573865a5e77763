"""A Ray that is started here, or reached: telemetry off, no dashboard, a token.

What this file does not know: what Ray is used for.
"""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from arislab.errors import PrerequisiteError

log = logging.getLogger("arislab")
_REACH = "run this on a node of the cluster, with its RAY_AUTH_TOKEN if it asks for one"
_ANSWERS_S = 5.0
"""Seconds in which the machine at HOST:PORT has to take a connection."""


def connect(address: str) -> None:
    """Start a Ray on this machine, or connect to one.

    Nothing is done where this process is connected already. Telemetry is off, there is no dashboard, and a Ray that is
    started here asks everybody for a random token, which stands in the environment of its processes and in no file.

    Raises:
        PrerequisiteError: it does not start, or cannot be reached.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ours: dict[str, Any] = {"address": address}
    if address == "local":
        # else Ray writes a token into the home directory, or has none
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        ours |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        log.warning(
            "Ray's processes (gcs_server, raylet, workers) listen on all interfaces, although they are told 127.0.0.1; "
            "they ask for a token that is made here, and a firewall should keep others away"
        )
    elif address != "auto" and "://" not in address:
        _knock(address)
    import ray  # it reads what the environment says of tokens as it is imported

    try:
        with _asking_once(address):
            ray.init(**ours, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises bare ones
        what = "does not start" if address == "local" else f"cannot be reached at {address!r}"
        hint = "it needs about ten seconds of a free core; try again" if address == "local" else _REACH
        raise PrerequisiteError(f"Ray {what}: {str(error).splitlines()[0]}; {hint}") from error


def _knock(address: str) -> None:
    """Raise where nobody listens at HOST:PORT: Ray itself takes minutes to say so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PrerequisiteError(f"Ray cannot be reached at {address!r}: it has to be auto, local or HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_S).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise PrerequisiteError(f"Ray cannot be reached at {address!r}: {error}; {_REACH}") from error


@contextmanager
def _asking_once(address: str) -> Iterator[None]:
    """Have Ray ask a cluster once, 40 s at most, in place of 20 times; one that starts here is waited for as ever."""
    name = "RAY_gcs_server_port_wait_time_s"
    is_ours = address != "local" and name not in os.environ
    if is_ours:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if is_ours:
            del os.environ[name]


def n_processors() -> int:
    """Return the processors of all nodes."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def failures() -> type[Exception]:
    """Return the class of all that Ray raises."""
    from ray.exceptions import RayError

    found: type[Exception] = RayError
    return found


def losses() -> type[Exception]:
    """Return the class of what Ray raises where something that a node held is gone with it."""
    from ray.exceptions import ObjectLostError

    found: type[Exception] = ObjectLostError
    return found
