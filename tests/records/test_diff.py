"""What differs between two records is said by heading."""

from pathlib import Path

import pytest
from toys import notebook

from arislab import runs
from arislab.records import diff as run_diff
from arislab.records import find as records


def test_what_differs_between_two_runs_is_said_by_heading(three):
    one, other = (records.find(three, name) for name in ("aaaa", "bbbb"))
    (Path(one["folder"]) / "task.py").write_text("SYSTEM = 'a'\n")
    (Path(other["folder"]) / "task.py").write_text("SYSTEM = 'b'\n")
    (Path(one["folder"]) / "env.lock").write_text("polars==1\nx==1\n")
    (Path(other["folder"]) / "env.lock").write_text("polars==2\nx==1\n")
    differences = run_diff.diff(one, other)
    assert differences == {
        "parameters": ["k: 3 → 5"],
        "task file": ["-SYSTEM = 'a'", "+SYSTEM = 'b'"],
        "environment": ["-polars==1", "+polars==2"],
        "headline": ["gain: 0.700 [0.600, 0.800] n=10 → 0.900 [0.850, 0.800] n=10 (intervals apart)"],
    }
    assert run_diff.diff(one, one) == {}


@pytest.mark.slow
def test_cell_outputs_are_compared_without_clocks(root):
    book = notebook(
        root / "notebooks", "print(n)", "import time\nprint('x' * n)\nprint(time.time(), file=__import__('sys').stderr)"
    )
    made = [runs.execute("curate", {"n": n}, root=root, notebooks=book) for n in (3, 3, 4)]
    one, same, other = (records.find(root, record.run_id) for record in made)
    assert run_diff.diff(one, same) == {}
    differences = run_diff.diff(one, other)
    assert differences["parameters"] == ["n: 3 → 4"]
    assert len(differences["cells"]) == 3, differences["cells"]  # injected, and both that print
