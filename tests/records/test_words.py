"""What a console calls the numbers of a headline."""

import json
import re
import subprocess
import sys

from toys import CHECKOUT

from arislab.records import words

RUN = {
    "account": {"total": 2, "label": "rows", "states": {"ok": 2}},
    "n_paid_earlier": 0,
    "selection_optimism_points": -13.8,
    "icl": {"mean": 0.78, "low": 0.589, "high": 0.889, "n": 20},
    "precision": {"mean": None, "low": 0.0, "high": 1.0, "n": 0},
    "validation_curated": {"mean": 0.421, "low": 0.156, "high": 0.722, "n": 10},
    "eval_loss": None,
    "my_number": 7,
    "verdict": "hold",
}


def test_the_verdict_comes_first_then_what_has_an_interval_and_what_nobody_knows_is_left_out():
    assert list(words.known(RUN)) == ["verdict", "icl", "curated on validation rows", "my number"]
    assert words.known(None) == {}


def test_a_line_ends_before_the_number_that_does_not_fit():
    assert words.line(RUN, columns=40) == "verdict hold, icl 0.780 [0.589, 0.889]"
    assert words.line(RUN, columns=37) == "verdict hold"
    assert words.line(RUN, columns=0) == ""


def test_no_shipped_notebook_has_a_name_that_only_its_author_understands():
    """Names that begin with n_, or that no dictionary has, are put into words or left out."""
    named = set()
    for path in (CHECKOUT / "notebooks").glob("[1-5]_*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if "runs.headline(" in source:
                named |= set(re.findall(r"\b(n_\w+|\w+_points|\w+_policy|\w+_loss)=", source))
    assert {"n_paid_earlier", "selection_optimism_points", "n_train"} <= named
    assert sorted(named - words._WORDS.keys()) == []


def test_the_list_of_runs_needs_nothing_but_the_standard_library_for_its_words():
    code = "import sys, arislab.records.words; print('polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
