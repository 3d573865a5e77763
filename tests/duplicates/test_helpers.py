import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from arislab.duplicates import shingles
from arislab.duplicates.helpers import Helpers
from arislab.normal import canonical
from arislab.system import processes

TEXTS = [f"**Step {i}** - take {i}.5 × $5 of «ü{i}»\n| a | b |\n" * 3 for i in range(60)]


def test_helpers_write_what_a_loop_writes_and_end_with_the_block():
    expected = [canonical(text) for text in TEXTS]
    with Helpers(2) as some:
        assert [some.forms(TEXTS) for _ in range(3)] == [expected] * 3
        assert some.forms(TEXTS[:1]) == expected[:1]
        (one,) = some._all  # one at a time is enough for one thread
        assert one.poll() is None
    assert one.poll() is not None


def test_where_a_helper_is_ended_its_texts_are_gone_through_here():
    with Helpers(1) as some:
        some.forms(TEXTS)
        some._all[0].kill()
        some._all[0].wait()
        assert [some.forms(TEXTS) for _ in range(2)] == [[canonical(text) for text in TEXTS]] * 2


def test_a_helper_ends_with_whoever_started_it():
    code = (
        "import os; from arislab.duplicates.helpers import Helpers; some = Helpers(1); "
        f"some.forms({TEXTS!r}); print(some._all[0].pid, flush=True); os._exit(1)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    end = time.monotonic() + 20
    while processes.start_ticks(int(child.stdout)) is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert processes.start_ticks(int(child.stdout)) is None


@pytest.mark.parametrize("is_whole", [False, True])
def test_shingles_are_the_same_with_and_without_help(monkeypatch, is_whole):
    texts = pl.Series(TEXTS * 30 + ["plain words"])
    monkeypatch.setattr(shingles, "CHUNK_BYTES", 1 << 15)  # it orders the shingles of a row
    here = shingles.shingles_of(texts, salt=1, is_whole=is_whole)
    asked, taken = [], Helpers._taken
    monkeypatch.setattr(Helpers, "_taken", lambda some: asked.append(taken(some)) or asked[-1])
    monkeypatch.setattr(shingles, "_WITH_HELP", 0)
    monkeypatch.setattr(shingles.threads, "count", lambda: 2)
    there = shingles.shingles_of(texts, salt=1, is_whole=is_whole)
    assert len(asked) > len(set(asked)) >= 1
    assert None not in asked
    assert np.array_equal(here[0].values, there[0].values)
    assert np.array_equal(here[0].offsets, there[0].offsets)
    assert all(np.array_equal(a, b) for a, b in zip(here[1:], there[1:], strict=True))
