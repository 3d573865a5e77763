"""What is too large for memory: the same values from disk, whatever is made of them, and nothing left behind."""

from pathlib import Path

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


def is_on_disk(address):
    """Whether what stands at an address of this process is a file without a name."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= address < high:
            return line.endswith("(deleted)")
    return False


def test_rows_taken_of_a_frame_are_those_rows(folder):
    whole = rows(2_000)
    some = [[*range(1_999, -1, -1)], [7, 7, 0, 1_999], [3], [], [*range(1, 2_000)]]
    for held in (whole, spilled.frames(whole.iter_slices(300)), pl.concat([whole.head(9), whole.tail(1_991)])):
        assert spilled.taken(held, pl.Series(range(2_000), dtype=pl.UInt32)) is held
        for at in some:
            places = pl.Series(at, dtype=pl.UInt32)
            few = spilled.taken(held, places)
            assert few.schema == whole.schema
            assert few.equals(whole[places])
            assert spilled.taken(few, places.arg_sort()).equals(whole[places][places.arg_sort()])
    assert list(folder.iterdir()) == []


def test_rows_that_fulfil_a_condition_are_those_that_filter_gives(folder):
    whole = rows(2_000)
    for held in (whole, spilled.frames(whole.iter_slices(300))):
        for condition in (pl.col("score") > 0.5, pl.col("is_odd"), pl.col("text").is_null(), pl.lit(value=False)):
            assert spilled.filtered(held, condition).equals(whole.filter(condition))
        for condition in (pl.col("n") >= 0, pl.lit(value=True)):
            assert spilled.filtered(held, condition) is held


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what stands where")
def test_of_a_frame_made_of_one_on_disk_only_what_is_new_moves(folder):
    held = spilled.frames(rows(2_000).iter_slices(300))
    made = held.with_columns(loud=pl.col("text").str.to_uppercase(), half=pl.col("n") / 2, name=pl.lit("one of all"))
    moved = spilled.frame(made)
    assert moved.equals(made)
    newest = pl.CompatLevel.newest()
    for name in ("loud", "half", "name"):
        assert all(is_on_disk(part.address) for part in moved[name].to_arrow(compat_level=newest).buffers() if part)
    for name in ("id", "text", "n", "score", "at"):
        before, after = (frame[name].to_arrow(compat_level=newest).buffers() for frame in (made, moved))
        assert [part and part.address for part in after] == [part and part.address for part in before], name


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what stands where")
def test_nothing_of_a_large_frame_is_in_memory_but_what_is_no_text_or_number(folder):
    held = spilled.frames(rows(2_000).iter_slices(300))
    mixed = spilled.taken(held, pl.Series([*range(1_999, -1, -1)], dtype=pl.UInt32))
    newest = pl.CompatLevel.newest()
    for frame in (held, mixed):
        for name in ("id", "text", "n", "score", "at"):
            _, *parts = frame[name].to_arrow(compat_level=newest).buffers()
            assert all(is_on_disk(part.address) for part in parts if part.size), name
    texts = spilled.arrow(mixed)["text"].chunk(0)
    assert all(is_on_disk(part.address) for part in texts.buffers())


def test_an_arrow_table_from_disk_is_that_in_memory_and_in_one_piece(folder):
    whole = rows(2_000)
    for held in (whole, whole[5:77], whole.head(1), whole.clear(), pl.concat([whole, whole])):
        table = spilled.arrow(held)
        table.validate(full=True)
        assert table.equals(held.rechunk().to_arrow())
        assert {column.num_chunks for column in table.columns} <= {0, 1}
        assert pl.from_arrow(table).equals(held)
    assert list(folder.iterdir()) == []


def test_what_is_small_stays_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there is no such folder"))
    whole = rows(10)
    assert spilled.frame(whole) is whole
    assert spilled.frames([whole.head(4), whole.tail(6)]).equals(whole)
    assert spilled.taken(whole, pl.Series([3, 1])).equals(whole[[3, 1]])
    assert spilled.arrow(whole).equals(whole.to_arrow())
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
        lambda: spilled.taken(rows(10), pl.Series([3, 1])),
        lambda: spilled.arrow(rows(10)),
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
