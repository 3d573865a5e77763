"""The kernel side of a review panel in a process of its own, which dies, or has no room, as it is told."""

import errno
import multiprocessing
import os
import signal

import polars as pl

from arislab import review
from arislab.errors import ArislabError
from arislab.review import core, journal


def serve(connection, folder, queue, known, fault):
    """Store what a browser says and acknowledge it, until the fault comes: at the third message."""
    reviews = pl.concat([known, journal.read(folder)]).unique("event_id", maintain_order=True)
    desk = review.QueueDesk(queue, reviews=reviews, folder=folder)
    panel, at, write = review.Panel(desk, reviewer="Ada"), 0, os.write
    while True:
        said, at = connection.recv(), at + 1
        if at == 3 and fault == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        os.write = full if 3 <= at < 6 and fault == "full" else write  # and then there is room again
        try:
            told, refused = panel.hear([core.event(one) for one in said])
        except (OSError, ArislabError):
            told, refused = {}, {}
        os.write = write
        if at == 3 and fault in ("stored", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        assert not refused, refused
        connection.send(list(told))


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


class Kernel:
    """That process, seen from a browser: it acknowledges, or is silent."""

    def __init__(self, folder, queue):
        # not forked: polars has threads, and what is forked beside them waits for ever
        self.context, self.folder, self.queue = multiprocessing.get_context("spawn"), folder, queue
        self.process = None

    def start(self, known, fault=""):
        """Begin anew, as a notebook does that is run again: with all that the table knows."""
        self.end()
        self.here, there = self.context.Pipe()
        self.process = self.context.Process(target=serve, args=(there, self.folder, self.queue, known, fault))
        self.process.start()
        there.close()

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def ask(self, events):
        """The event_ids that it acknowledges; null once it is dead."""
        try:
            self.here.send(events)
            return self.here.recv()
        except (EOFError, OSError):
            return None
