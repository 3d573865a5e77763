"""A process is known by more than its number."""

import os
import signal
import subprocess
import sys
import time

from arislab.system import processes


def test_processes_are_known_by_start_time_and_environment():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "MARK": "of this test"}
    )
    try:
        deadline = time.monotonic() + 20
        while not processes.with_variable("MARK", "of this test") and time.monotonic() < deadline:
            time.sleep(0.05)
        ((pid, ticks),) = processes.with_variable("MARK", "of this test")
        assert (pid, ticks) in processes.descendants(os.getpid())
        assert processes.with_variable("MARK", "of this") == set()
        assert processes.end({(pid, ticks - 1)}, patience_s=0.1) == [], "another process that has its number stays"
        assert child.poll() is None
        assert processes.end({(pid, ticks)}, patience_s=10) == []
    finally:
        child.kill()
        assert child.wait() == -signal.SIGTERM
