"""The turnstile in front of an engine: how much it has at once, and which models together."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 15.0
"""Seconds for which one model has the gate while another waits, where the two may not be inside together; more where
emptying it takes long."""
ALONE = "\0"
"""Whoever enters under this name is inside alone."""


class Gate:
    """``width`` chunks inside at most, the others wait in the order of their arrival.

    Each running batch queues for one chunk at a time, so batches take turns and a small one is not stuck behind a large
    one.

    Of models that may not be together (``may_be_together``, see ``watch``) one is inside for a window; then nobody goes
    in until all are out, and next is who waited longest.
    """

    def __init__(self, width: int, *, window_s: float = WINDOW_S):
        self.width, self.inside = width, 0
        self.may_be_together: Callable[[frozenset[str]], bool] = lambda models: True
        self._window_s, self._drain_s = window_s, 0.0
        self._models: dict[str, int] = {}  # chunks inside; no zeros
        # the window of the models inside, and since when they are waited for
        self._began = self._closed = float("-inf")
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    async def enter(self, model: str = "") -> None:
        """Wait for a place; ``model`` is whom the chunk asks, and empty says nothing of it."""
        if not self._waiting and self._fits(model):  # nobody overtakes those who wait already
            self._go_in(model)
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((model, place))
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            # let in and cancelled in one turn of the loop: nobody else would give this place back
            if place.done() and not place.cancelled():
                self.leave(model)
            raise

    def leave(self, model: str = "") -> None:
        """Give the place to the next one."""
        self.inside -= 1
        if (n := self._models.get(model, 0) - 1) > 0:
            self._models[model] = n
        else:
            self._models.pop(model, None)
        if self._waiting:
            self._admit()

    async def step_out(self, delay_s: float, model: str = "") -> None:
        """Sleep outside, so that others go on meanwhile, and come back in turn.

        Who is not inside, as a probe is, only sleeps.
        """
        if model not in self._models:
            return await asyncio.sleep(delay_s)
        self.leave(model)
        try:
            await asyncio.sleep(delay_s)
            await self.enter(model)
        except asyncio.CancelledError:
            self._go_in(model)  # whoever entered will leave once more
            raise

    def asked(self) -> set[str]:
        """Models of the chunks inside, and of those that wait."""
        return {*self._models, *(model for model, place in self._waiting if not place.done())}

    def widen(self, width: int) -> None:
        """Set the number of places (at least 1)."""
        self.width = max(1, width)
        self._admit()

    def _fits(self, model: str) -> bool:
        if self.inside >= self.width:
            return False
        if not self._models or (model in self._models and len(self._models) == 1 and model != ALONE):
            return True
        return ALONE not in (model, *self._models) and self.may_be_together(frozenset({model, *self._models}))

    def _go_in(self, model: str) -> None:
        if model not in self._models:
            now = time.monotonic()
            if not self._models and self._closed > self._began:
                self._drain_s = now - self._closed
            self._began = now
        self.inside += 1
        self._models[model] = self._models.get(model, 0) + 1

    def _admit(self) -> None:
        """Let in who may go in, the longest waiting first.

        Others pass one who must wait for the models inside only during a window.
        """
        at = 0
        while at < len(self._waiting) and self.inside < self.width:
            model, place = self._waiting[at]
            if place.done():  # cancelled while it waited
                del self._waiting[at]
            elif self._fits(model):
                del self._waiting[at]
                self._go_in(model)
                place.set_result(None)
            elif model != ALONE and time.monotonic() - self._began < max(self._window_s, 4 * self._drain_s):
                # where emptying takes long, longer turns: else most of the time nothing would be asked
                at += 1
            else:
                self._closed = self._closed if self._closed > self._began else time.monotonic()
                return
