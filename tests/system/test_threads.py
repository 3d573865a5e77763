"""Work in threads comes back in its order, and a few pieces of it are in memory at once."""

import threading

import pytest

from arislab.system import threads


def test_results_come_in_order_and_few_items_are_asked_for_ahead(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 2)
    begun, others = [], threading.Barrier(2)

    def work(i):
        if i < 2:
            others.wait(10)  # two are at work together, or this breaks
        return i * i

    def items():
        for i in range(100):
            begun.append(i)
            yield i

    results = threads.mapped(work, items())
    assert next(results) == 0
    assert len(begun) == 5
    assert list(results) == [i * i for i in range(1, 100)]


def test_what_goes_wrong_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(threads.mapped(lambda i: 1 // i, [1, 0, 2]))
