"""What a cell shows has bounds until it ends."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from toys import CHECKOUT, code_cells, notebook, ran_cells, ran_well

from arislab.runs import client
from arislab.runs import notebook as notebook_file


@pytest.mark.slow
def test_displays_without_end_are_counted_and_not_held(root, monkeypatch):
    monkeypatch.setattr(client, "_MOST_OUTPUTS", 50)
    record = ran_cells(root, "from IPython.display import display\nfor i in range(500): display(i)", "1 / 0")
    cell = nbformat.read(record.folder / "notebook.ipynb", as_version=4).cells[-2]
    assert "450 more outputs were not kept" in json.dumps(cell.outputs)
    assert record.reason == "ZeroDivisionError: division by zero"


def test_a_picture_that_is_drawn_again_and_again_is_not_a_flood(root, monkeypatch):
    monkeypatch.setattr(client, "_HELD_BYTES", 10_000)
    source = "from IPython.display import clear_output, display\n"
    source += "for i in range(40):\n    clear_output(wait=True)\n    display('a' * 1000 + str(i))"
    record = ran_cells(root, source)
    (output,) = nbformat.read(record.folder / "notebook.ipynb", as_version=4).cells[-1].outputs
    assert output.data["text/plain"].endswith("39'")


PEAK = """
import json, pathlib, re, sys
from arislab import runs
def peak_mb(): return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
root, small, large = map(pathlib.Path, sys.argv[1:])
runs.execute("curate", {}, root=root, notebooks=small)
before = peak_mb()
record = runs.execute("curate", {}, root=root, notebooks=large)
print(json.dumps([peak_mb() - before, record.status, record.reason, str(record.folder)]))
"""
SHOWN = {
    "a display": "from IPython.display import HTML, display\ndisplay(HTML('<p>' + 'x' * 300_000_000))",
    "many parts of one display": "from IPython.display import JSON, display\ndisplay(JSON(['x' * 1_000_000] * 300))",
    "a value": "class Long:\n    def __repr__(self): return 'x' * 300_000_000\nLong()",
    "an error": "raise ValueError('why: ' + 'x' * 300_000_000)",
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process's memory is read from /proc")
@pytest.mark.parametrize("what", SHOWN)
def test_one_large_display_is_not_held_by_who_receives_it(root, what):
    small, large = notebook(root / "small", "'small'"), notebook(root / "large", SHOWN[what])
    command = [sys.executable, "-c", PEAK, str(root), str(small), str(large)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    peak_mb, status, reason, folder = json.loads(done.stdout.splitlines()[-1])
    assert peak_mb < 150
    assert status == ("failed" if what == "an error" else "ok")
    assert reason is None or reason.startswith("ValueError: why: xxx")
    text = (Path(folder) / "notebook.ipynb").read_text()
    assert "bytes were shown at once and not kept: a cell passes on 100,000,000" in text
    assert len(text) < 1_000_000


def test_a_display_within_the_bound_arrives_whole(root):
    record = ran_cells(root, "from IPython.display import HTML, display\ndisplay(HTML('<p>' + 'é' * 20_000_000))")
    assert record.status == "ok"
    (kept,) = (record.folder / "outputs").iterdir()
    assert kept.read_text() == "<p>" + "é" * 20_000_000


def test_streams_are_joined_as_they_come_and_bounded_and_the_log_has_all(root):
    many = "import sys\nfor i in range(3000):\n    print(i, flush=True)\n    print('e', file=sys.stderr, flush=True)"
    record = ran_well(
        root, many, "print('x' * 1_000_000)", "for i in range(5): print(f'\\r{i}', end='', flush=True)\nprint()"
    )
    first, second, third = code_cells(record)[-3:]
    assert [(o.name, o.output_type) for o in first.outputs] == [("stdout", "stream"), ("stderr", "stream")]
    assert first.outputs[0].text == "".join(f"{i}\n" for i in range(3000))
    kept = sum(len(o.text) for o in second.outputs)
    assert 100_000 < kept < notebook_file.CAP_BYTES
    assert second.outputs[-1].text.endswith("log.txt has more of it]\n")
    assert third.outputs[0].text == "4\n", "a line that was overwritten shows its end"
    assert (record.folder / "log.txt").read_text().count("x") > 1_000_000
    assert (record.folder / "notebook.ipynb").stat().st_size < 400_000
