"""What a kernel has started ends with it."""

import asyncio

import pytest
from jupyter_client.provisioning import LocalProvisioner
from toys import ended, ran_cells

from arislab.runs import process

STUBBORN = """
import os, signal, subprocess, sys
code = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; "
code += "print('up', flush=True); time.sleep(120)"
options = {"stdout": subprocess.PIPE, "start_new_session": True}
child = subprocess.Popen([sys.executable, "-c", code], **options)
bare = subprocess.Popen([sys.executable, "-c", code], env={}, **options)
for one in (child, bare): one.stdout.readline()
open(os.environ["ARISLAB_ROOT"] + "/pids", "w").write(f"{child.pid} {bare.pid}")
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """These children ignore all requests to end, however long they are waited for."""
    monkeypatch.setattr(process, "_CHILDREN_S", 0.3)


def test_children_that_refuse_to_end_are_ended_and_named(root):
    record = ran_cells(root, STUBBORN)
    pids = [int(pid) for pid in (root / "pids").read_text().split()]
    assert record.status == "ok"
    assert [ended(pid) for pid in pids] == [True, True]
    log = (record.folder / "log.txt").read_text()
    assert all(f"(process {pid}), which did not end by itself" in log for pid in pids)


@pytest.mark.slow
def test_children_of_a_killed_kernel_are_ended_too(root):
    with_name = STUBBORN.replace("(child, bare)", "(child,)").replace("bare = ", "bare = child or ")
    record = ran_cells(root, with_name, "os.kill(os.getpid(), 9)")
    assert record.cause == "kernel-died"
    assert ended(int((root / "pids").read_text().split()[0]))


LATE = """
def late():  # at its end a kernel forgets all names but those within a function
    import collections, os, threading, time
    class Events(collections.deque):
        def append(self, one):
            super().append(one)
            if threading.current_thread().name == "Control":
                time.sleep(0.1)
    def join(**how):
        names = [thread.name for thread in threading.enumerate()]
        with open(os.environ["ARISLAB_ROOT"] + "/left", "a") as file:
            file.write(" ".join(names) + "\\n")
        ended(**how)
    iopub = get_ipython().kernel.iopub_thread
    iopub._events, iopub.thread.join, ended = Events(), join, iopub.thread.join
late()
"""


def test_who_ends_a_kernel_has_said_so_before_what_is_said_goes_nowhere(root):
    record = ran_cells(root, LATE)
    assert record.status == "ok"
    names = (root / "left").read_text().splitlines()[0].split()
    assert "MainThread" in names
    assert "Control" not in names


@pytest.mark.slow
def test_no_kernel_has_to_be_killed(root, monkeypatch):
    killed, terminate = [], LocalProvisioner.terminate

    def told(provisioner, **how):
        killed.append(provisioner.pid)
        return terminate(provisioner, **how)

    monkeypatch.setattr(LocalProvisioner, "terminate", told)
    assert {ran_cells(root, "print('done')").status for _ in range(40)} == {"ok"}  # one of ten had to be, at random
    assert not killed


def test_a_run_can_be_started_where_a_loop_is_running_as_in_a_notebook(root):
    async def started():
        return ran_cells(root, "import os; print('here')")

    record = asyncio.run(started())
    assert record.status == "ok", record.reason
    assert "here" in (record.folder / "log.txt").read_text()
