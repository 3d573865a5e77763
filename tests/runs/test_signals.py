"""The first signal ends a run, later ones wait for its verdict."""

import os
import signal

import pytest

from arislab.runs import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_later_ones_wait_for_the_verdict(number):
    before = signal.getsignal(number)
    with signals.stoppable():
        with pytest.raises(signals.Stopped, match=signal.Signals(number).name):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before
