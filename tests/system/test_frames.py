"""Frames in a notebook's cell: one house style, and what they hold is shown as it is."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell

from arislab.system import frames
from arislab.system.text import AS_IS


@pytest.fixture
def shell(monkeypatch):
    """A shell without a front end; other tests find none, nor what it set."""
    monkeypatch.setenv("POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES", "0")
    monkeypatch.delenv("POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES")
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def shown(shell, value):
    frames.show_in_house_style()
    data, _ = shell.display_formatter.format(value)
    return data["text/html"], data["text/plain"]


FRAME = pl.DataFrame(
    {
        "custom_id": ["r-1", "r-2"],
        "n_rows": [170_000, None],
        "version": [1_234, 2],
        "quality": [0.123456, float("nan")],
        "p_holm": [0.00002, 1.0],
        "is_kept": [True, False],
        "labels": [["too vague", "unkind"], []],
        "decided_at": [datetime(2026, 11, 29, 7, 5, tzinfo=UTC), None],
    }
)


def test_numbers_have_separators_and_are_rounded_and_the_unknown_is_a_dash(shell):
    _, text = shown(shell, FRAME)
    assert text.splitlines() == [
        "custom_id   n_rows  version  quality   p_holm  is_kept  labels             decided_at",
        "r-1        170,000     1234    0.123  2.0e-05  yes      too vague, unkind  2026-11-29 07:05 UTC",
        "r-2              –        2        –    1.000  no       –                  –",
    ]


def test_no_type_stands_in_the_head_and_no_quote_around_a_text(shell):
    markup, text = shown(shell, FRAME)
    for word in ("str", "i64", "f64", "bool", "list[", "shape", "&quot;", "┌"):
        assert word not in markup.replace("string", ""), word
        assert word not in text, word
    assert "custom_<wbr>id" in markup, "a long name may be broken"
    assert markup.count("text-align: right; white-space: nowrap") == 8, "numbers stand right"


def test_long_texts_are_cut_and_many_rows_are_counted(shell):
    frame = pl.DataFrame({"n": range(1_000), "text": ["word " * 200] * 1_000})
    markup, text = shown(shell, frame)
    assert "24 of 1,000 rows" in markup
    lines = text.splitlines()
    assert (lines[0], len(lines), lines[-1].split()[0]) == ("24 of 1,000 rows", 1 + 1 + 24 + 1, "999")
    assert "word…" in lines[2]
    assert len(lines[2]) < 420
    assert shown(shell, frame.clear())[1] == "no rows\nn  text"
    assert shown(shell, pl.DataFrame()) == ("<i>no rows</i>", "no rows")
    wide = pl.DataFrame({f"c{i}": [i] for i in range(60)})
    assert "40 of 60 columns" in shown(shell, wide)[1]


def test_what_the_user_asks_of_polars_still_counts(shell):
    frame = pl.DataFrame({"n": range(100), "text": ["abcdefghij"] * 100})
    with pl.Config(tbl_rows=4, fmt_str_lengths=5, tbl_cols=1, tbl_hide_column_data_types=False):
        _, text = shown(shell, frame)
        assert text.splitlines()[:2] == ["4 of 100 rows, 1 of 2 columns", "n (Int64)"]
    with pl.Config(tbl_rows=-1, fmt_str_lengths=5):
        _, text = shown(shell, frame)
        assert len(text.splitlines()) == 101
        assert "abcde…" in text


def test_no_formula_is_read_in_what_a_frame_or_a_column_holds(shell):
    frame = pl.DataFrame({"price": ["between $5 and $9", "<b>"]})
    for value in (frame, frame["price"]):
        markup, _ = shown(shell, value)
        assert f"<table {AS_IS}>" in markup
        assert "between $5 and $9" in markup
        assert "<b>" not in markup


def test_a_frame_with_a_table_of_its_own_keeps_it(shell):
    class Own(pl.DataFrame):
        def _repr_html_(self, *, _from_series=False):
            return "its own"

    assert shown(shell, Own({"a": [1]}))[0] == f"<div {AS_IS}>its own</div>"


def test_the_lake_sees_to_it_in_a_notebook_and_nothing_changes_elsewhere():
    code = (
        "import sys, arislab.lake, polars as pl; assert 'IPython' not in sys.modules\n"
        "frame = pl.DataFrame({'a': ['$x$']}); print('str' in str(frame))\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(); del sys.modules['arislab.lake']; import arislab.lake\n"
        "print('str' in str(frame)); print(shell.display_formatter.format(frame)[0]['text/html'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLARS_FMT")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    script, notebook, markup = done.stdout.splitlines()
    assert (script, notebook) == ("True", "False"), done.stderr
    assert f"<table {AS_IS}>" in markup
