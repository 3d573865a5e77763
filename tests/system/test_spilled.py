"""What is too large for memory: the same values from disk, whatever is made of them, and nothing left behind."""

import numpy as np
import polars as pl
import pytest

from arislab.errors import PrerequisiteError
from arislab.system import spilled
from arislab.system.json_text import Number, exact


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where large values go; everything is large."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(spilled, "LARGE", 1)
    return tmp_path


def rows(n):
    return pl.DataFrame(
        {
            "id": [f"r-{i}" for i in range(n)],
            "text": [None if i % 7 == 0 else f"größer {i} " * 9 for i in range(n)],
            "n": list(range(n)),
            "score": [None if i % 5 == 0 else i / n for i in range(n)],
            "is_odd": [i % 2 == 1 for i in range(n)],
            "nothing": pl.Series([None] * n, dtype=pl.String),
            "parts": [[f"{i}", None] if i % 3 else None for i in range(n)],
        },
        schema_overrides={"n": pl.Int32, "parts": pl.List(pl.String)},
    ).with_columns(at=pl.datetime(2026, 11, 29, time_zone="UTC"))


def test_a_frame_on_disk_is_the_frame_whatever_is_made_of_it(folder):
    whole = rows(2_000)
    for held in (spilled.frame(whole), spilled.frame(whole.lazy()), spilled.frames(whole.iter_slices(300))):
        assert held.schema == whole.schema
        assert held.equals(whole)
        few = pl.DataFrame({"id": ["r-3", "r-1999", "r-7"]})
        assert held.join(few, on="id", how="semi").equals(whole.join(few, on="id", how="semi"))
        assert held.sort("text", "id").equals(whole.sort("text", "id"))
        longer = pl.col("text").str.len_chars() > 90
        assert spilled.frame(held.filter(longer)).equals(whole.filter(longer))
    assert spilled.frame(whole.lazy().filter(pl.col("n") < 0)).equals(whole.head(0))
    assert list(folder.iterdir()) == []  # the files have no name, so that no end of the process leaves one


def test_what_is_small_stays_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there is no such folder"))
    whole = rows(10)
    assert spilled.frame(whole) is whole
    assert spilled.frames([whole.head(4), whole.tail(6)]).equals(whole)
    assert spilled.listed(iter("abc")) == ["a", "b", "c"]
    assert spilled.zeros((2, 3), np.uint64).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_arrays_on_disk_hold_what_was_written(folder):
    keys = spilled.zeros((3, 1_000), np.uint64)
    keys[1] = np.arange(1_000)
    assert keys.sum(axis=1).tolist() == [0, 499_500, 0]
    parts = [np.arange(k, dtype=np.uint32) for k in range(50)]
    assert np.array_equal(spilled.concatenated(iter(parts), np.uint32), np.concatenate(parts))
    assert len(spilled.concatenated(iter([]), np.uint32)) == 0


def test_a_list_on_disk_gives_back_its_items_in_any_order(folder):
    items = [exact(f'{{"id": {i}, "price": {i}.50, "note": null}}') for i in range(23_456)]
    held = spilled.listed(iter(items))
    assert not isinstance(held, list)
    assert list(held) == items
    assert (len(held), held[0], held[-1], held[17_000]) == (23_456, items[0], items[-1], items[17_000])
    assert held[9_998:10_002] == items[9_998:10_002]
    assert type(held[5]["price"]) is Number  # a number keeps its digits
    with pytest.raises(IndexError):
        held[23_456]


def test_a_disk_without_room_is_said_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(spilled, "LARGE", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    for write in (
        lambda: spilled.frame(rows(10)),
        lambda: spilled.frames([rows(10)]),
        lambda: spilled.zeros(10, np.int64),
        lambda: spilled.concatenated([np.zeros(9)], np.float64),
        lambda: spilled.listed(range(10_000)),
    ):
        with pytest.raises(PrerequisiteError, match="TMPDIR"):
            write()


def test_nothing_concatenated_is_nothing_however_little_may_stay_in_memory(monkeypatch):
    monkeypatch.setattr(spilled, "LARGE", 1)
    assert spilled.concatenated([np.zeros(0, np.int64)] * 2, np.int64).tolist() == []
    assert spilled.concatenated([np.zeros(0, np.int64), np.arange(3)], np.int64).tolist() == [0, 1, 2]
