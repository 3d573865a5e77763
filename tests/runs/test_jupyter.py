"""Whoever runs a phase by hand in JupyterLab leaves a record too, marked as such; here its kernel without its pages."""

import os
import signal
import time
from pathlib import Path

from toys import CELLS

from arislab import runs
from arislab.records import find as records


def the_run(root):
    (run,) = runs.as_json(root)
    return records.read(Path(run["folder"]))


def test_run_all_is_recorded_as_ok_and_as_unsupervised(root, kernel):
    assert kernel(*CELLS[:2]) == ["ok"] * 2
    assert (the_run(root)["status"], the_run(root)["launched_by"]) == ("running", "jupyter")
    assert kernel(*CELLS[2:]) == ["ok"] * 2
    run = the_run(root)
    assert (run["status"], run["phase"]) == ("ok", "toy")
    assert run["headline"]["quality"] == {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    assert run["tables_written"]["candidates"]["rows"] == 3
    assert run["parameters"] == {"n": 3}
    assert kernel("1 + 1") == ["ok"]
    assert the_run(root)["status"] == "ok"


def test_cells_out_of_order_or_edited_get_no_verdict(root, kernel):
    kernel(CELLS[0], CELLS[1], CELLS[3], "n = 4", CELLS[2])
    run = the_run(root)
    assert run["status"] == "interactive"
    assert "out of order" in run["reason"]


def test_a_value_that_was_changed_by_hand_is_recorded(root, kernel):
    kernel("n: int = 5", CELLS[1])
    run = the_run(root)
    assert (run["parameters"], run["parameters_passed"]) == ({"n": 5}, {"n": 5})
    assert run["parameters_from"] == {"n": "jupyter"}


def test_a_failing_cell_is_a_failure_until_it_is_mended(root, kernel):
    assert kernel(*CELLS[:2], "1 / 0") == ["ok", "ok", "error"]
    assert (the_run(root)["status"], the_run(root)["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    kernel(CELLS[2])
    assert the_run(root)["status"] == "running"


def test_the_parameters_cell_begins_another_run(root, kernel):
    kernel(*CELLS, *CELLS)
    assert [run["status"] for run in runs.as_json(root)] == ["ok", "ok"]


def test_a_killed_kernel_is_lost(root, kernel):
    kernel(*CELLS[:2])
    os.kill(the_run(root)["supervisor"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while the_run(root)["status"] != "lost" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert the_run(root)["status"] == "lost"
