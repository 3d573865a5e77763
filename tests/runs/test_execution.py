"""Run records tell the truth: toy notebooks, real kernels, real deaths."""

import signal
import subprocess
import sys
import time

import pytest
from toys import ended, notebook, saved

from arislab import runs
from arislab.errors import PrerequisiteError


def test_what_cannot_run_is_refused_before_anything_is_made(root, toy):
    notebooks = toy("1")
    for phase, given, says in [
        ("curate", {"keep_fracton": "0.1"}, "did you mean 'keep_fraction'"),
        ("curate", {"n": "many"}, "n must be a whole number, got 'many'"),
        ("curate", {"task": "shuot"}, "did you mean 'shout'"),
        ("curat", {}, "did you mean 'curate'"),
        ("gone.ipynb", {}, "no notebook"),
    ]:
        with pytest.raises(PrerequisiteError, match=says):
            runs.execute(phase, given, root=root, notebooks=notebooks)
    assert not (root / "papermill_runs").exists()


def test_a_root_that_cannot_be_written_is_named(root, toy):
    notebooks = toy("1")
    (root / "papermill_runs").write_text("a file is in the way")
    with pytest.raises(PrerequisiteError, match="cannot write to"):
        runs.execute("curate", root=root, notebooks=notebooks)


def test_importing_runs_loads_nothing_heavy():
    heavy = ("papermill", "nbformat", "IPython", "zmq", "torch")
    code = f"import sys, arislab.runs; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_failing_cell_is_named(root, toy):
    notebooks = toy("print('before')", "\n\n1 / 0", "print('after')")
    record = runs.execute("curate", {"n": 4}, root=root, notebooks=notebooks)
    run = saved(record)
    assert (run["status"], run["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert run["cell"]["index"] == 3, "the place in the notebook that the user edits"
    assert (run["cell"]["ename"], run["cell"]["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in (record.folder / "log.txt").read_text()
    assert "after" not in (record.folder / "log.txt").read_text()
    assert "cell 3 of 2_curate.ipynb: 1 / 0" in repr(record)


def test_a_killed_kernel_is_a_failure(root, toy):
    notebooks = toy(
        "import os, subprocess\nchild = subprocess.Popen(['sleep', '60']).pid",
        "open(os.environ['ARISLAB_ROOT'] + '/child', 'w').write(str(child))\nos.kill(os.getpid(), 9)",
        "1",
    )
    run = saved(runs.execute("curate", root=root, notebooks=notebooks))
    assert (run["status"], run["reason"], run["cell"]["index"]) == ("killed", "kernel died by SIGKILL", 3)
    assert ended(int((root / "child").read_text())), "what the kernel started ends with it"


def test_leaving_by_sys_exit_is_a_failure(root, toy):
    record = runs.execute("curate", root=root, notebooks=toy("import sys\nsys.exit(0)"))
    assert (record.status, record.reason) == ("failed", "SystemExit: 0")


@pytest.fixture
def supervisor(root):
    """Start a supervisor in a process of its own; returns it and its kernel's pid once the long cell runs."""
    started = []

    def start():
        notebooks = notebook(
            root / "notebooks",
            "import os, time",
            "open(os.environ['ARISLAB_ROOT'] + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(120)",
        )
        code = "import sys; from pathlib import Path; from arislab import runs; "
        code += "print(runs.execute('curate', root=Path(sys.argv[1]), notebooks=Path(sys.argv[2])).status)"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(notebooks)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        for _ in range(1200):
            if (root / "pid").exists() and (root / "pid").read_text():
                return process, int((root / "pid").read_text())
            assert process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the kernel did not start within a minute")

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_stopped_supervisor_says_interrupted(root, supervisor):
    process, pid = supervisor()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "interrupted"
    (run,) = runs.as_json(root)
    assert (run["status"], run["reason"], run["cell"]["index"]) == ("interrupted", "SIGTERM", 3)
    assert ended(pid)


def test_a_killed_supervisor_is_seen_as_lost_and_the_phase_is_free_again(root, supervisor):
    process, pid = supervisor()
    (run,) = runs.as_json(root)
    assert run["status"] == "running"
    with pytest.raises(PrerequisiteError, match=f"'curate' is already running under .*process {process.pid} since"):
        runs.execute("curate", root=root, notebooks=root / "notebooks")
    assert len(runs.as_json(root)) == 1, "the refused run left nothing"
    process.kill()
    process.wait()
    (run,) = runs.as_json(root)
    assert (run["status"], run["duration_s"]) == ("lost", None)
    with runs.lock(root, "curate"):
        pass
    assert ended(pid)


def test_phases_and_roots_do_not_lock_each_other(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    with (
        runs.lock(a, "curate"),
        runs.lock(a, "icl"),
        runs.lock(b, "curate"),
        pytest.raises(PrerequisiteError, match="already running"),
        runs.lock(a, "curate"),
    ):
        pass
    with runs.lock(tmp_path / "a", "curate"):
        pass


@pytest.mark.slow
def test_two_runs_of_a_phase_queue_if_they_are_told_to(root):
    book = notebook(root / "notebooks", "import time; time.sleep(1)")
    code = "import sys; from pathlib import Path; from arislab import runs; "
    code += "print(runs.execute('curate', root=Path(sys.argv[1]), notebooks=Path(sys.argv[2]), wait=True).status)"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(root), str(book)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["ok", "ok"]
    first, second = sorted(runs.as_json(root), key=lambda run: run["created_at"])
    assert second["created_at"] >= first["finished_at"]
