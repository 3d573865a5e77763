"""What a frame holds is shown as it is in a notebook's cell."""

import subprocess
import sys

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell

from arislab.system import frames
from arislab.system.text import AS_IS


@pytest.fixture
def shell():
    """A shell without a front end; other tests find none."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_no_formula_is_read_in_what_a_frame_or_a_column_holds(shell):
    frame = pl.DataFrame({"price": ["between $5 and $9", "<b>"]})
    frames.show_as_they_are()
    for shown in (frame, frame["price"]):
        markup = shell.display_formatter.format(shown)[0]["text/html"]
        assert markup == f"<div {AS_IS}>{shown._repr_html_()}</div>"
        assert "between $5 and $9" in markup
        assert "<b>" not in markup


def test_the_lake_sees_to_it_in_a_notebook_and_nothing_is_loaded_elsewhere():
    code = (
        "import sys, arislab.lake, polars as pl; assert 'IPython' not in sys.modules\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(); del sys.modules['arislab.lake']; import arislab.lake\n"
        "print(shell.display_formatter.format(pl.DataFrame({'a': ['$x$']}))[0]['text/html'][:48])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().startswith(f"<div {AS_IS}>"[:40]), done.stderr
