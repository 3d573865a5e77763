"""Connections of strangers.

Who does not send the head of a request is cut off, and never keeps others from being served.

``guard`` knows tokens and bodies; before it sees anything, a head must have come. Each connection costs a file
descriptor, and a process that has none left neither answers nor writes. This module does not know requests.
"""

import asyncio
import logging
import resource
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

log = logging.getLogger("arislab.server")

HEAD_S = 10.0
"""Seconds within which the head of a request must have come; also of a second one on the same connection."""
HEAD_BYTES = 1 << 16
MOST_AT_ONCE = 64
"""Connections that are taken at once, and that wait to be taken."""
_ROUNDS = 4
"""Rounds of the event loop from taking a connection to giving back the descriptor of the one that makes room for it."""
OWN_DESCRIPTORS = 64
"""For the database, spools, files and uploads."""
MOST_DESCRIPTORS = 1 << 16
MOST_CONNECTIONS = 1000


def raise_descriptors() -> None:
    """Have as many file descriptors as this process may have by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_at_once() -> int:
    """Connections that the event loop takes in a round: they hold a descriptor before anything here sees them."""
    return max(4, min(MOST_AT_ONCE, (_descriptors() - OWN_DESCRIPTORS) // (2 * _ROUNDS)))


def most_connections() -> int:
    """Connections at once: a third of the descriptors that are nobody else's.

    The rest is for upstreams and open files.
    """
    others = OWN_DESCRIPTORS + _ROUNDS * most_at_once()
    return max(8, min(MOST_CONNECTIONS, (_descriptors() - others) // 3))


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


class Connection(asyncio.Protocol):
    """uvicorn's protocol behind a door: a head in time, of bounded size, and a place for whoever sends one.

    Where all places are taken, the oldest connection that has sent no whole head gives up its place.
    """

    _waiting: ClassVar[dict["Connection", None]] = {}  # no request under way, oldest first
    _n_open: ClassVar[int] = 0

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: asyncio.AbstractEventLoop | None = None):
        self._loop = _loop or asyncio.get_running_loop()
        protocol: Any = AutoHTTPProtocol  # typed by uvicorn as a bare asyncio.Protocol
        self._inner = protocol(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: object = None
        self._n_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, from another one if need be."""
        self._transport = transport
        self._timer = self._loop.call_later(HEAD_S, self._look)
        Connection._n_open += 1
        Connection._waiting[self] = None
        self._inner.connection_made(transport)
        if Connection._n_open > most_connections():
            oldest = next(iter(Connection._waiting))
            log.warning("all %d connections are taken: one that has sent no request is closed", most_connections())
            oldest._close()

    def data_received(self, data: bytes) -> None:
        """Pass on what comes; a head without end is not collected."""
        self._inner.data_received(data)
        if not self._is_idle():
            self._n_bytes = 0
            Connection._waiting.pop(self, None)
            return
        Connection._waiting.setdefault(self, None)
        self._n_bytes += len(data)
        if self._n_bytes > HEAD_BYTES:
            self._close()

    def eof_received(self) -> bool | None:
        """Pass it on."""
        done: bool | None = self._inner.eof_received()
        return done

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        if self._timer is not None:
            self._timer.cancel()
        Connection._n_open -= 1
        Connection._waiting.pop(self, None)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    def _is_idle(self) -> bool:
        cycle = self._inner.cycle
        return cycle is None or bool(cycle.response_complete)

    def _look(self) -> None:
        """Close a connection on which no request came since the last look."""
        cycle = self._inner.cycle
        if self._is_idle():
            if cycle is self._seen:
                self._close()
                return
            self._seen = cycle
            Connection._waiting.setdefault(self, None)
        self._timer = self._loop.call_later(HEAD_S, self._look)

    def _close(self) -> None:
        Connection._waiting.pop(self, None)
        self._transport.abort()
