"""The bench's own decoder of the embedded model, beside the package's."""

import shutil
import sys

import numpy as np
import pytest
from toys import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "tests" / "bench"))
import icl_embedded as bench

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


@pytest.mark.slow
def test_it_writes_what_the_package_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_EMBEDDED", str(tmp_path))
    report = bench.compare(n_sets=4, n_rows=4)
    assert report["cells"] == 32
    assert report["same_text"] >= 31  # sums are rounded differently: about one answer in a thousand takes another turn


@pytest.mark.slow
def test_loading_it_leaves_the_floats_of_the_process_alone(tmp_path):
    """A library linked with -ffast-math makes every subnormal float of the process 0, also in the tests that follow."""
    bench.library(tmp_path)
    assert sys.float_info.min / 2 > 0
    assert np.float32(np.finfo(np.float32).tiny) / np.float32(2) > 0


@pytest.mark.slow
def test_a_cell_is_answered_once_and_kept(tmp_path):
    decoder = bench.Decoder(tmp_path)
    rows = bench.candidates(6, seed=9001, split="validation")
    example = ("Title: Statistician", '{"score": 1}')
    cells = bench.Cells(tmp_path / "cells.sqlite", decoder, rows, temperature=0.9)
    first = cells.ask([((example,), [0, 3]), ((), range(6))])
    again = cells.ask([((example,), [3, 0, 5])])[0]
    assert cells.n_answered == 9
    assert again[:2].tolist() == first[0][::-1].tolist()
    later = bench.Cells(tmp_path / "cells.sqlite", decoder, rows, temperature=0.9)
    assert np.array_equal(later.ask([((), range(6))])[0], first[1])
    assert later.n_answered == 0
    other = bench.Cells(tmp_path / "cells.sqlite", decoder, rows, temperature=0.0)
    other.ask([((), [1])])
    assert other.n_answered == 1
