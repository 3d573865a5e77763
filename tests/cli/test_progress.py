"""What stands on the screen while a run goes on: a bar at a terminal, lines elsewhere."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from toys import here, notebook, shown_at

from arislab import runs
from arislab.cli import progress
from arislab.runs import Step
from arislab.runs.progress import read_line

SLOW = """import time
from tqdm.auto import tqdm
for _ in tqdm(range(20), desc="batch", unit="req", mininterval=0.1): time.sleep(0.12)"""


@pytest.fixture
def lines(monkeypatch):
    """Lines of a clock that a test moves, and what they printed."""
    now, printed = [100.0], []
    monkeypatch.setattr(progress, "print", lambda text, **_: printed.append(text))
    view = progress.Lines("icl", clock=lambda: now[0])

    def at(second, step=None):
        now[0] = 100.0 + second
        if step is not None:
            view.show(step)
        view.tick()
        return printed

    return at


def test_a_cell_that_takes_its_time_has_a_line_and_one_each_ten_seconds_while_it_tells_more(lines):
    lines(0, Step(1, 12, "Load"))
    assert lines(0.5, Step(2, 12, "Search")) == ["icl: running …"], "a short cell has no line"
    assert lines(1.6)[1:] == ["icl 2/12, 0:01, Search"]
    for second in range(2, 11):
        lines(second, Step(2, 12, "Search", (f"batch: {second}/60",)))
    assert len(lines(11)) == 2
    lines(12, Step(2, 12, "Search", ("search: 0/3", "batch: 12/60")))
    assert lines(12)[2:] == ["icl 2/12, 0:12, Search · batch: 12/60 · search: 0/3"]
    assert len(lines(71)) == 3, "nothing new was told"
    assert lines(73)[3:] == ["icl 2/12, 1:13, Search · batch: 12/60 · search: 0/3"]
    lines(80, Step(3, 12, "x" * 200))
    assert [len(line) for line in lines(82)[4:]] == [120]


def test_a_step_that_another_run_tells_of_has_a_line_at_once(monkeypatch):
    printed = []
    monkeypatch.setattr(progress, "print", lambda text, **_: printed.append(text))
    view = progress.Lines("curate", short_s=0.0)
    view.show(Step(2, 3, "A toy"))
    view.tick()
    view.tick()
    assert printed == ["curate: running …", "curate 2/3, 0:00, A toy"]


@pytest.mark.slow
def test_without_a_terminal_there_are_lines_and_no_carriage_returns(root):
    books = notebook(root / "notebooks", SLOW)
    done = here("run", books / "2_curate.ipynb", "--root", root)
    assert done.returncode == 0, done
    begun, *told = done.stdout.splitlines()
    assert begun == "2_curate: running …"
    assert re.fullmatch(r"2_curate 2/2, 0:\d\d, A toy( · batch: \d+/20 \[.*\])?", told[0])
    assert "\r" not in done.stdout
    assert all(len(line) <= 120 for line in told if "notebook" not in line)


def at_a_terminal(*words, columns, **env):
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **env}
    env = {name: value for name, value in env.items() if value}
    command = [sys.executable, "-m", "arislab", *map(str, words)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = shown_at(ours)
    return process.wait(timeout=120), shown.decode()


@pytest.mark.slow
def test_a_rerun_and_a_verification_show_where_they_are_too(root):
    books = notebook(root / "notebooks", SLOW, "n")
    record = runs.execute("curate", {}, root=root, notebooks=books)
    assert record.status == "ok", record
    for words in (("rerun", record.run_id), ("verify", record.run_id)):
        done = here(*words, "--root", root)
        assert done.returncode == 0, done
        told = [line for line in done.stdout.splitlines() if line.startswith("curate ")]
        assert re.fullmatch(r"curate 2/3, 0:\d\d, A toy( · batch: \d+/20 \[.*)?", told[0]), done.stdout
        assert "next " not in done.stdout, "what the inner run reports is not shown"
    code, shown = at_a_terminal("rerun", record.run_id, "--root", root, columns=90, CI="")
    assert code == 0, shown
    assert "curate 2/3 |" in shown


def test_what_a_line_says_is_read_as_it_was_said():
    step = Step(3, 12, "Search", ("search: 0/3 [00:01<00:02]", "batch: 12/60, 0.12 of about 1.30 USD"))
    assert read_line(step.line("icl", 75)) == step
    assert read_line(step.line("icl", 75) + "\n") == step
    for line in ("icl: running …", "", "icl: ok in 3.0 s", "  60 answers = 60 ok", "icl 3 of 12"):
        assert read_line(line) is None


@pytest.mark.slow
def test_at_a_terminal_a_bar_is_written_over_and_nothing_is_left_of_it(root):
    books = notebook(root / "notebooks", SLOW)
    code, shown = at_a_terminal("run", books / "2_curate.ipynb", "--root", root, columns=90, CI="")
    assert code == 0, shown
    states = shown.replace("\r\n", "\n").split("\n")[0].split("\r")
    bars = [state for state in states if state.startswith("2_curate 2/2 |")]
    assert [bar for bar in bars if re.search(r"A toy · batch: \d+/20 \[\d\d:\d\d<", bar)], shown
    assert max(map(len, states)) < 90
    assert states[-2].strip() == "", "it is wiped"
    assert states[-1].startswith("2_curate: ok") or states[-1].startswith("curate: ok"), states[-1]


def test_in_ci_a_terminal_gets_lines_too(root):
    books = notebook(root / "notebooks", "1")
    code, shown = at_a_terminal("run", books / "2_curate.ipynb", "--root", root, columns=90, CI="true")
    assert code == 0, shown
    assert shown.startswith("2_curate: running …\r\n")


@pytest.mark.slow
def test_a_reader_that_has_gone_does_not_end_the_run(root, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    books = notebook(root / "notebooks", SLOW)
    monkeypatch.setattr(sys, "stdout", Gone())
    with progress.shown("curate") as tell:
        record = runs.execute("curate", {}, root=root, notebooks=books, tell=tell)
    monkeypatch.undo()
    assert record.status == "ok"


@pytest.mark.slow
def test_what_asks_for_json_is_told_nothing_else(project):
    import json

    from toys import ran

    root, _ = project
    ran(project, n=2)
    done = here("verify", "curate", "--root", root, "--json")
    assert [verdict["findings"] for verdict in json.loads(done.stdout)] == [[], []]
    assert done.stderr == ""
