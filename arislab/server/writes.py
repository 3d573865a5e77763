"""Answers on their way to the disk: kept while it is full, and replaced by an error line where one cannot be written.

One line of an output file, and one of an error file whose line had no answer at all::

    {"id":"batch_req_…","custom_id":"r-1","response":{"status_code":200,"request_id":"req_…","body":{…}},"error":null}
    {"id":"batch_req_…","custom_id":"r-2","response":null,"error":{"code":"batch_expired","message":"…"}}
"""

import asyncio
import hashlib
import logging
import sqlite3
from collections import deque
from concurrent.futures import Future

import orjson

from arislab.server.database import Record
from arislab.server.engines.base import Result, failure
from arislab.server.spools import NO_USAGE, Refused, Row, Spools, Usage

log = logging.getLogger("arislab.server")

MOST_TOKENS = 1 << 40
"""Of one answer; SQLite adds up 64 bits."""


class Writes:
    """The rows of one batch that are not durable yet, in the groups in which they are written.

    Args:
        spools: Writes them.
        batch: Its row.
        retry_s: Seconds until a full disk is tried again, with all rows that wait together.
    """

    def __init__(self, spools: Spools, batch: Record, *, retry_s: float):
        self._spools, self._seq, self._batch_id, self._retry_s = spools, batch["seq"], batch["id"], retry_s
        self._open: deque[tuple[Future[list[Refused]], list[Row]]] = deque()
        self._replaced: set[int] = set()

    def add(self, row: Row) -> None:
        """Have a row written with the next group."""
        write = self._spools.append(self._seq, [row])
        if not self._open or self._open[-1][0] is not write:
            self._open.append((write, []))
        self._open[-1][1].append(row)

    def are_due(self, n_open: int) -> bool:
        """Whether ``settle`` has something to do.

        Asked for each line, where a coroutine would cost more than the answer.
        """
        return bool(self._open) and (len(self._open) > n_open or self._open[0][0].done())

    async def settle(self, n_open: int) -> None:
        """Look at the groups that have ended; wait until at most ``n_open`` are left, none for a full disk."""
        waiting = n_open
        while rows := await self._unwritten(waiting):
            await asyncio.sleep(self._retry_s)
            rows += await self._unwritten(len(self._open))  # what failed meanwhile goes with them: one wait for all
            self._open.appendleft((self._spools.append(self._seq, rows), rows))
            waiting = min(n_open, len(self._open) - 1)

    async def _unwritten(self, n_open: int) -> list[Row]:
        """The rows of ended groups that the disk did not take."""
        rows: list[Row] = []
        while self._open and (self._open[0][0].done() or len(self._open) > n_open):
            write, group = self._open.popleft()
            try:
                # shielded: a batch that is cancelled here must not cancel a write in which others have rows
                refused = await asyncio.shield(asyncio.wrap_future(write))
            except (OSError, sqlite3.OperationalError):
                rows += group
            else:
                lines = {row.line for row in group} if refused else set()
                for one in refused:  # of all that were written together: other batches, and another entry of this one
                    if one.seq == self._seq and one.row.line in lines:
                        self._replace(one)
        return rows

    def _replace(self, refused: Refused) -> None:
        """Write an error line in place of one that cannot be stored.

        Raises:
            Exception: That cannot be stored either, so the row was not the cause.
        """
        row = refused.row
        if row.line in self._replaced:
            raise refused.error
        self._replaced.add(row.line)
        why = f"the server cannot store the answer to this line: {type(refused.error).__name__}; its log has the reason"
        self.add(row_of(self._batch_id, row.custom_id, failure(row.line, 500, "answer_not_stored", why)))


def row_of(batch_id: str, custom_id: str, result: Result) -> Row:
    """The row of a result; one that cannot be a line of a file is an error line, and costs no other."""
    try:
        if b"\n" in result.body:
            raise ValueError("a line break in its body")
        data = _line(batch_id, custom_id, result)
    except (AttributeError, TypeError, ValueError) as error:
        log.error("%s: an answer cannot be a line: %s", batch_id, error)
        why = f"the answer to this line cannot be written: {type(error).__name__}; the server's log has the reason"
        result = failure(result.line, 500, "answer_not_stored", why)
        data = _line(batch_id, custom_id, result)
    return Row(result.line, result.status == 200, data, _counted(result.usage), custom_id)


def _counted(usage: Usage) -> Usage:
    """Token counts as they can be added up; none where they are no counts.

    The answer is worth more than what is said about it.
    """
    for n in usage:
        if type(n) is not int or not 0 <= n < MOST_TOKENS:
            return NO_USAGE
    return usage if len(usage) == len(NO_USAGE) else NO_USAGE


def _line(batch_id: str, custom_id: str, result: Result) -> bytes:
    """A line of the output or error file around the answer's own bytes; the ids depend on nothing but the place."""
    key = hashlib.sha256(f"{batch_id}:{result.line}".encode()).hexdigest()[:32].encode()
    head = b'{"id":"batch_req_%b","custom_id":%b,' % (key, orjson.dumps(custom_id))
    if result.status == 0:
        return head + b'"response":null,"error":%b}\n' % result.body
    return head + b'"response":{"status_code":%d,"request_id":"req_%b","body":%b},"error":null}\n' % (
        result.status,
        key,
        result.body,
    )
