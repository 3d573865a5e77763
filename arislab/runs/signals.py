"""SIGINT and SIGTERM to the supervisor of a run: the first one ends the run, none keeps the verdict from the disk."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM reached the supervisor; asyncio lets only KeyboardInterrupt through at once."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into Stopped and ignore later ones, so that a verdict can be written."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # no other thread may set handlers; there a signal ends the process at once, and a reader sees the record as lost
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    hold()  # a second Ctrl-C would cut off the verdict that the first one asks for
    raise Stopped(signal.Signals(number).name)


def hold() -> None:
    """Ignore both signals from now on, inside ``stoppable``."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
