"""Work in threads, for what numpy and polars do without Python's lock; results come in the order of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from arislab.system import processes

T = TypeVar("T")
R = TypeVar("R")


def count() -> int:
    """Return how many threads numpy works in here; more would only wait for memory."""
    return min(processes.cores(), 4)


def mapped(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield what is made of each item, in their order; a few at a time, for what is not taken yet is in memory."""
    n = count()
    with ThreadPoolExecutor(n) as pool:
        ready: deque[Future[R]] = deque()
        for item in items:
            ready.append(pool.submit(work, item))
            if len(ready) > 2 * n:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()
