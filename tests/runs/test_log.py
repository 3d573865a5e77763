"""What a run prints has a bound, and what it failed with is said in its log."""

import os

import pytest
from toys import ran_cells, ran_well

from arislab.runs import log as log_file
from arislab.system import floods


@pytest.mark.slow
def test_a_cell_that_prints_without_end_fills_neither_record_nor_memory(root):
    record = ran_cells(root, "for _ in range(300): print('x' * 200_000)", "print('y' * 30_000_000)", "print('after')")
    assert record.status == "ok", record
    log = (record.folder / "log.txt").read_text()
    assert log.count("x") < floods.CELL_CHARACTERS + 1000
    assert log.count("y") < floods.CELL_CHARACTERS + 1000
    assert "50,000,300 more characters were printed and not kept" in log
    assert "20,000,001 more characters were printed and not kept" in log
    assert "after" in log
    assert (record.folder / "notebook.ipynb").stat().st_size < 1_000_000


@pytest.mark.slow
def test_the_log_of_a_run_has_a_bound_and_the_verdict_stands_behind_it(root, monkeypatch):
    monkeypatch.setattr(log_file, "LOG_BYTES", 1_000_000)
    record = ran_cells(root, "print('x' * 3_000_000)", "print('z' * 3_000_000)", "raise ValueError('why')")
    log = (record.folder / "log.txt").read_text()
    assert len(log) < 1_100_000
    assert "the rest is not kept" in log
    assert "ValueError: why" in log.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["__repr__(self)", "_repr_html_(self)", "_repr_mimebundle_(self, **_)", "_ipython_display_(self)"]
)
def test_a_display_that_fails_is_named_by_its_own_error(root, method):
    record = ran_cells(root, f"class Broken:\n    def {method}: raise LookupError('no such picture')\nBroken()")
    assert (record.status, record.reason) == ("failed", "LookupError: no such picture")
    assert (record.cell["ename"], record.cell["evalue"]) == ("LookupError", "no such picture")
    assert "NoneType" not in (record.folder / "log.txt").read_text()


def test_a_reader_of_the_log_finds_no_secret_of_the_engine(root, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sk-planted-998877")
    record = ran_well(
        root, "from IPython.display import HTML\nimport os\nHTML('k' * 300_000 + os.environ['MY_API_KEY'])"
    )
    for path in record.folder.rglob("*"):
        assert not path.is_file() or b"sk-planted" not in path.read_bytes(), path
    assert os.environ["MY_API_KEY"]
