"""How rows come into a table: several writers, full disks, and what is on disk when a write returns."""

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from races import race
from toys import FUZZ, disk, people, reviews

from arislab.batch import kept, ledger
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake, opening, storage
from arislab.lake.digests import digest
from arislab.system import files as whole_files


def test_a_rewrite_starts_again_from_the_rows_that_another_writer_added_meanwhile(lake):
    from deltalake import write_deltalake

    table, n_rows = lake["candidates"].append(people(2)), []
    late = table.read().tail(1).with_columns(candidate_id=pl.lit("late"))

    def change(rows):
        if not n_rows:  # a writer that does not wait for its turn
            write_deltalake(table.uri, late.to_arrow(), mode="append")
        n_rows.append(rows.collect().height)
        return rows.with_columns(title=pl.lit("new")).collect()

    table.rewrite(change)
    assert n_rows == [2, 3]
    assert table.read().sort("candidate_id").select("candidate_id", "title").rows() == [
        ("c0000", "new"),
        ("c0001", "new"),
        ("late", "new"),
    ]
    with pytest.raises(LakeError, match="candidates is at version 2, no longer at 1"):
        table.rewrite(change, version=1)
    assert table.version == 2


def test_a_folder_of_another_schema_is_refused_and_left_as_it_is(lake):
    from deltalake import write_deltalake

    write_deltalake(lake["candidates"].uri, pl.DataFrame({"a": [1]}).to_arrow())
    for act in (
        lake["candidates"].read,
        lambda: lake["candidates"].append(people(1)),
        lambda: lake["candidates"].upsert(people(1)),
    ):
        with pytest.raises(LakeError, match="choose another --root"):
            act()
    assert pl.read_delta(lake["candidates"].uri).columns == ["a"]


def test_a_type_that_differs_is_refused(lake):
    from deltalake import write_deltalake

    columns = {"candidate_id": ["a"], "profile": ["{}"], "group_id": [7], "split": ["train"]}
    write_deltalake(lake["candidates"].uri, pl.DataFrame(columns).to_arrow())
    with pytest.raises(LakeError, match="another schema"):
        lake["candidates"].append(people(1))
    assert pl.read_delta(lake["candidates"].uri).height == 1


def test_a_place_that_cannot_be_written_is_one_clear_message(root):
    blocked = root / "file"
    blocked.write_text("no folder")
    lake = Lake(blocked / "data" / "lake")
    with pytest.raises(PrerequisiteError, match="cannot write"):
        lake["candidates"].append(people(1))
    with pytest.raises(PrerequisiteError, match="cannot write"):
        lake.batches  # noqa: B018


WRITER = """
import sys, polars as pl
from arislab.lake import Lake
lake, name = Lake(sys.argv[1]), sys.argv[2]
for i in range(15):
    frame = pl.DataFrame({"event_id": [f"{name}-{i}-{j}" for j in range(4)]}).with_columns(
        custom_id="event_id", reviewer=pl.lit(name), decision=pl.lit("approve"),
        decided_at=pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC"))
    (lake["reviews"].append if i % 3 else lake["reviews"].upsert)(frame)
"""


def test_two_processes_that_append_at_once_lose_nothing(lake):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, lake.path, name]) for name in ("ann", "bob")]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    rows = lake["reviews"].read()
    assert rows.height == rows["event_id"].n_unique() == 2 * 15 * 4


@pytest.mark.slow
@pytest.mark.parametrize("n_writers", [2, 4])
def test_writers_that_start_at_once_double_no_key_and_lose_no_row(n_writers):
    """Every second race runs without the lock: then the commits alone must hold."""
    wrong, counts = race(max(18, FUZZ // 10), n_writers=n_writers)
    assert wrong == []
    assert counts.total() >= 18


def test_appending_a_key_that_exists_leaves_its_row_as_it_is(lake):
    lake["candidates"].append(people(2).with_columns(title=pl.lit("first")))
    lake["candidates"].append(people(3).with_columns(title=pl.lit("second")))
    assert lake["candidates"].read().sort("candidate_id")["title"].to_list() == ["first", "first", "second"]
    assert lake["candidates"].append(people(3)).version == 1  # nothing new: no version
    row = {"name": "m", "version": "v", "alias": "candidate"}
    lake["models"].append(pl.DataFrame([row, row | {"alias": "champion"}])).append(
        pl.DataFrame([row | {"version": "w"}, row])
    )
    assert sorted(lake["models"].read().select("version", "alias").iter_rows()) == [
        ("v", "candidate"),
        ("v", "champion"),
        ("w", "candidate"),
    ]


def test_many_rows_at_once_are_told_from_those_that_exist(lake):
    lake["candidates"].append(people(1_500)).append(people(2_600).tail(2_000))
    assert lake["candidates"].rows == lake["candidates"].read()["candidate_id"].n_unique() == 2_600


def test_a_row_elsewhere_that_has_the_key_of_a_new_one_gives_way_to_it(lake):
    lake["candidates"].append(people(4).with_columns(category=pl.lit("old")))
    lake["candidates"].replace(people(2).with_columns(category=pl.lit("new")), where={"category": "new"})
    rows = lake["candidates"].read().sort("candidate_id")
    assert rows["candidate_id"].to_list() == ["c0000", "c0001", "c0002", "c0003"]
    assert rows["category"].to_list() == ["new", "new", "old", "old"]
    assert lake["candidates"].read(version=0)["category"].to_list() == ["old"] * 4


def test_replacing_with_no_rows_takes_those_away_that_are_meant(lake):
    lake["candidates"].append(people(2)).append(people(3, split="test").tail(1))
    lake["candidates"].replace(people(1).clear(), where={"split": "train"})
    assert lake["candidates"].read()["candidate_id"].to_list() == ["c0002"]


def test_a_write_that_another_program_outran_is_tried_again_on_its_version(lake, monkeypatch):
    """The other program knows no lock: it commits after this writer looked and before it wrote."""
    from deltalake import write_deltalake

    table = lake["candidates"].append(people(1))
    looked = opening.frame

    def outrun(name, delta):
        monkeypatch.setattr(opening, "frame", looked)
        rows = table.read().with_columns(candidate_id=pl.lit("c0001"), title=pl.lit("other"))
        write_deltalake(table.uri, rows.to_arrow(), mode="append")
        return looked(name, delta)

    monkeypatch.setattr(opening, "frame", outrun)
    table.append(people(3))
    rows = table.read().sort("candidate_id")
    assert rows["candidate_id"].to_list() == ["c0000", "c0001", "c0002"]
    assert rows["title"].to_list() == [None, "other", None]


@pytest.fixture
def synced(monkeypatch):
    """Paths in the order in which they were synced to disk."""
    paths, fsync = [], os.fsync

    def noted(descriptor):
        fsync(descriptor)
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", noted)
    return paths


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="which file was synced is read from /proc")
@pytest.mark.parametrize(
    "write",
    [
        lambda table: table.append(people(5)),
        lambda table: table.upsert(people(1)),
        lambda table: table.replace(people(2), where={"split": "train"}),
        lambda table: table.lake.compact(),
    ],
    ids=["append", "upsert", "replace", "compact"],
)
def test_a_commit_and_its_files_are_on_disk_when_a_write_returns(lake, synced, write):
    table = lake["candidates"].append(people(2)).append(people(3))
    first = set(synced)
    assert {table.folder, table.folder.parent, table.folder / "_delta_log"} <= first
    assert set(table.folder.glob("*.parquet")) <= first
    synced.clear()
    before = set(table.folder.rglob("*"))
    write(table)
    new = {path for path in set(table.folder.rglob("*")) - before if not path.is_dir()}
    assert len(new) >= 2  # a commit, and a file of rows
    assert new <= set(synced)
    files, log = [synced.index(path) for path in new], synced.index(table.folder / "_delta_log")
    assert max(files) < log < synced.index(table.folder)  # first what is in them, then their names


def test_a_write_that_the_disk_does_not_confirm_is_no_success(lake, monkeypatch):
    lake["candidates"].append(people(1))

    def fails(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(PrerequisiteError, match=r"candidates version 1 was written .* loss of power may take it back"):
        lake["candidates"].append(people(2))


def test_ledger_files_and_verdicts_are_on_disk_under_their_names(root, synced):
    kept.keep(root / "batches" / "results" / "b.jsonl", b"{}\n")
    assert synced[0].parent == root / "batches" / "results"
    assert synced[1:] == [root / "batches" / "results", root / "batches"]
    synced.clear()
    whole_files.replace(root / "run.json", "{}")
    assert [path.parent for path in synced] == [root, root.parent]  # what is in it, then its name
    assert synced[0].name != "run.json"
    book = ledger.Ledger(root / "batches")
    assert book.db.execute("pragma synchronous").fetchone()[0] == 3  # extra: also the folder, after the journal is gone


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    with disk(tmp_path / "small", size="1m") as place:
        yield place


@pytest.mark.parametrize("act", ["append", "upsert", "replace", "compact"])
def test_a_full_disk_is_one_message_that_says_what_is_stored(small_disk, act):
    """And when there is room again, the same write goes through."""
    table = Lake(small_disk / "data" / "lake")["candidates"].append(people(5))
    words = [os.urandom(600).hex() for _ in range(3_000)]
    large = people(3_000).with_columns(title=pl.Series(words))
    where = {"where": {"split": "train"}} if act == "replace" else {}
    if act == "compact":
        for n in range(6, 30):
            table.append(people(n).with_columns(title=pl.Series(words[:n])))
        (small_disk / "filler").write_bytes(b"")
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "filler").write_bytes(bytes(2_000_000))
        with pytest.raises(PrerequisiteError, match="nothing of this write is stored"):
            table.lake.compact()
        assert table.rows == 29
        return
    with pytest.raises(
        PrerequisiteError, match=r"No space left on device.*nothing of this write is stored, all earlier versions are"
    ):
        getattr(table, act)(large, **where)
    (small_disk / "filler").write_bytes(b"")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(2_000_000))
    with pytest.raises(PrerequisiteError, match="nothing of this write is stored"):
        getattr(table, act)(people(6), **where)
    assert (table.version, table.rows) == (0, 5)
    (small_disk / "filler").unlink()
    assert getattr(table, act)(people(7), **where).rows == 7


@pytest.mark.parametrize("is_older", [False, True], ids=["a new table", "a table of an older arislab"])
def test_no_housekeeping_takes_a_version_away_that_a_record_names(lake, monkeypatch, is_older):
    """Delta deletes commits of a month ago when it writes a checkpoint, and vacuum the files of versions a week old."""
    from deltalake import DeltaTable

    if is_older:
        monkeypatch.setattr(storage, "PROPERTIES", {})
    table = lake["reviews"].append(reviews(["e0"]))
    DeltaTable(table.uri).alter.set_table_properties({"delta.checkpointInterval": "4"})
    table.replace(reviews(["e1"]), where={"reviewer": "ann"})
    old = time.time() - 400 * 86_400
    for path in table.folder.rglob("*"):
        os.utime(path, (old, old))
    for i in range(2, 12):
        table.append(reviews([f"e{i}"]))
    assert list((table.folder / "_delta_log").glob("*.checkpoint.parquet"))
    assert table.read(version=0)["event_id"].to_list() == ["e0"]
    if not is_older:
        DeltaTable(table.uri).vacuum(dry_run=False)
    assert table.read(version=0)["event_id"].to_list() == ["e0"]
    assert table.rows == 11


def test_compacting_changes_no_row(lake):
    for i in range(4):
        lake["reviews"].append(reviews([f"e{i}"]))
    before = digest("reviews", lake["reviews"].read())
    assert lake.compact() == {"reviews": 4}
    assert digest("reviews", lake["reviews"].read()) == before


def test_files_are_small_and_are_read_a_few_rows_at_once_however_they_were_written(lake, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(storage, "_GROUP_ROWS", 1_000)
    table = lake["candidates"].append(people(2_500))
    table.upsert(people(2_600))
    table.rewrite(lambda rows: rows.with_columns(title=pl.lit("new")).collect())
    table.append(people(2_700).tail(100))
    written = {path: parquet.read_metadata(path) for path in table.folder.glob("*.parquet")}
    assert len(written) == 4
    assert lake.compact()["candidates"] == 2
    written |= {path: parquet.read_metadata(path) for path in table.folder.glob("*.parquet")}
    groups = [file.row_group(i) for file in written.values() for i in range(file.num_row_groups)]
    assert {group.column(i).compression for group in groups for i in range(group.num_columns)} == {"ZSTD"}
    assert max(group.num_rows for group in groups) == 1_000
    assert table.read().height == 2_700
