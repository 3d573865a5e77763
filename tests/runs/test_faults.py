"""The fault matrix: ten ways to die, each at the start, in the middle and at the end.

Every verdict right, every record readable.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import disk, ended, need, notebook

from arislab import runs

MOMENTS = {"start": 0, "middle": 1, "end": 2}
STEPS = ("first = 1", "second = 2", "third = 3")
FAULTS = {  # what the cell does -> status, cause, signal, a word of the reason
    "exception": ("raise ValueError('no')", "failed", "exception", None, "ValueError: no"),
    "sys.exit(0)": ("import sys; sys.exit(0)", "failed", "exit", None, "SystemExit: 0"),
    "sys.exit(1)": ("import sys; sys.exit(1)", "failed", "exit", None, "SystemExit: 1"),
    "kernel -9": ("import os; os.kill(os.getpid(), 9)", "killed", "kernel-died", "SIGKILL", "SIGKILL"),
    "kernel segfault": ("import os; os.kill(os.getpid(), 11)", "killed", "kernel-died", "SIGSEGV", "SIGSEGV"),
    "os._exit": ("import os; os._exit(7)", "killed", "kernel-died", None, "exit code 7"),
    "no memory": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, -1))\nx = bytearray(2**33)",
        "failed",
        "out-of-memory",
        None,
        "MemoryError",
    ),
    "cell timeout": ("import time; time.sleep(60)", "timeout", "time-limit", None, "1 s a cell"),
}


def with_fault(folder, code, moment):
    cells = list(STEPS)
    cells.insert(MOMENTS[moment], code)
    return notebook(folder, *cells)


def states(record):
    """States of the cells after parameters, as the record and as the notebook's file tell them."""
    saved = json.loads((Path(record["folder"]) / "notebook.ipynb").read_text())
    in_file = [c["metadata"]["papermill"]["status"] for c in saved["cells"] if c["cell_type"] == "code"]
    assert in_file == [c["status"] for c in record["cells"]]
    return in_file[1:]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_ended_a_run_is_told_apart(root, fault, moment):
    code, status, cause, name, word = FAULTS[fault]
    notebooks = with_fault(root / "notebooks", code, moment)
    runs.execute("curate", root=root, notebooks=notebooks, cell_timeout_s=1 if fault == "cell timeout" else None)
    (run,) = runs.as_json(root)
    assert (run["status"], run["cause"], run["signal"]) == (status, cause, name)
    assert word in run["reason"]
    assert run["cell"]["index"] == 2 + MOMENTS[moment]
    record = json.loads((Path(run["folder"]) / "run.json").read_text()) | {"folder": run["folder"]}
    last = "running" if status in ("killed", "timeout") else "failed"
    before, after = MOMENTS[moment], len(STEPS) - MOMENTS[moment]
    assert states(record) == ["completed"] * before + [last] + ["not-run"] * after
    assert not list(Path(run["folder"]).glob(".*"))
    assert ended_events(run) == ["START", "FAIL"]


def ended_events(run):
    lines = (Path(run["folder"]) / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["eventType"] for line in lines]


RUNNER = """
import sys
from pathlib import Path
from arislab import runs
record = runs.execute("curate", root=Path(sys.argv[1]), notebooks=Path(sys.argv[1]) / "notebooks")
print(record.status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted"), (signal.SIGKILL, "lost")]
)
def test_a_signal_to_the_runner_is_told_or_seen_within_ten_seconds(root, number, status, moment):
    wait = "import os, time; open(os.environ['ARISLAB_ROOT'] + '/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    with_fault(root / "notebooks", wait, moment)
    command = [sys.executable, "-c", RUNNER, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (root / "pid").is_file() or not (root / "pid").read_text():
        assert time.monotonic() < deadline, process.communicate(timeout=5)
        time.sleep(0.02)
    assert runs.as_json(root)[0]["status"] == "running"
    process.send_signal(number)
    process.communicate(timeout=30)
    at = time.monotonic()
    (run,) = runs.as_json(root)
    assert time.monotonic() - at < 10
    assert run["status"] == status
    if status == "interrupted":
        assert (run["cause"], run["signal"]) == ("signal", signal.Signals(number).name)
        assert ended_events(run) == ["START", "ABORT"]
    assert ended(int((root / "pid").read_text())), "the kernel ends with its runner"


@pytest.fixture
def small_disk(root):
    """A root on a disk of three megabytes."""
    with disk(root / "small", size="3m") as small:
        yield small


FILL = """
import os
with open(os.environ['ARISLAB_ROOT'] + '/fill', 'wb', buffering=0) as file:
    try:
        while True: file.write(b'x' * 4096)
    except OSError as error:
        full = error
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_full_disk_is_a_failure_with_a_readable_record(root, small_disk, monkeypatch, moment, is_noticed):
    monkeypatch.setenv("ARISLAB_ROOT", str(small_disk))
    notebooks = with_fault(root / "notebooks", FILL + ("\nraise full" if is_noticed else ""), moment)
    record = runs.execute("curate", root=small_disk, notebooks=notebooks)
    (run,) = runs.as_json(small_disk)
    assert (run["status"], run["cause"]) == (record.status, record.cause) == ("failed", "disk-full")
    assert "No space left" in run["reason"]
    assert (run["cell"] is not None) == is_noticed


def test_a_kernel_that_the_system_ends_for_lack_of_memory_says_so(root):
    group = Path("/sys/fs/cgroup/memory")
    box = group / f"arislab-test-{os.getpid()}"
    try:
        box.mkdir()
        (box / "memory.limit_in_bytes").write_text(str(150 * 2**20))
    except OSError as error:
        need("cgroup", present=False, why=f"no memory group can be made ({error})")
    try:
        enter = f"import os\nopen('{box}/cgroup.procs', 'w').write(str(os.getpid()))"
        notebooks = notebook(root / "notebooks", enter, "x = [bytearray(2**20) for _ in range(2000)]")
        record = runs.execute("curate", root=root, notebooks=notebooks)
    finally:
        for _ in range(50):
            try:
                box.rmdir()
                break
            except OSError:
                time.sleep(0.1)
    assert (record.status, record.cause, record.signal) == ("killed", "out-of-memory", "SIGKILL")


@pytest.mark.slow
def test_a_phase_has_a_limit_over_all_its_cells(root):
    notebooks = notebook(root / "notebooks", "import time; time.sleep(0.6)", "time.sleep(60)")
    record = runs.execute("curate", root=root, notebooks=notebooks, timeout_s=3)
    assert (record.status, record.cell["index"]) == ("timeout", 3)
    assert "3 s in all" in record.reason


@pytest.mark.slow
def test_a_kernel_that_does_not_start_is_a_failure_with_its_own_words(root):
    notebooks = notebook(root / "notebooks", "1")
    (notebooks / "ipykernel_launcher.py").write_text("raise SystemExit('no such luck')\n")
    record = runs.execute("curate", root=root, notebooks=notebooks)
    assert (record.status, record.cause) == ("failed", "no-start")
    assert "did not start" in record.reason
    assert "no such luck" in (record.folder / "log.txt").read_text()
    assert [cell["status"] for cell in record.cells] == ["not-run", "not-run"]


def test_a_kernel_that_crashes_before_it_is_there_is_started_once_more(root):
    notebooks = notebook(root / "notebooks", "print('it ran')")
    (notebooks / "ipykernel_launcher.py").write_text(
        "import os, pathlib, signal\n"
        "first = pathlib.Path(__file__).with_name('started')\n"
        "if not first.exists():\n"
        "    first.touch()\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "from ipykernel.kernelapp import launch_new_instance\n"
        "launch_new_instance()\n"
    )
    record = runs.execute("curate", root=root, notebooks=notebooks)
    assert record.status == "ok", record
    assert "it ran" in (record.folder / "log.txt").read_text()
