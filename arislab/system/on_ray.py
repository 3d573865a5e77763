"""A Ray that is started here, or reached: telemetry off, no dashboard, a token.

What this file does not know: what Ray is used for.
"""

import logging
import os
import secrets
import sys
from typing import Any

from arislab.errors import PrerequisiteError

log = logging.getLogger("arislab")
_REACH = "run this on a node of the cluster, with its RAY_AUTH_TOKEN if it asks for one"


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
    import ray  # it reads what the environment says of tokens as it is imported

    try:
        ray.init(**ours, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises bare ones
        what = "does not start" if address == "local" else f"cannot be reached at {address!r}"
        hint = "it needs about ten seconds of a free core; try again" if address == "local" else _REACH
        raise PrerequisiteError(f"Ray {what}: {str(error).splitlines()[0]}; {hint}") from error


def n_processors() -> int:
    """Return the processors of all nodes."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def failures() -> type[Exception]:
    """Return the class of all that Ray raises."""
    from ray.exceptions import RayError

    found: type[Exception] = RayError
    return found
