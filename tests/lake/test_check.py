"""A damaged lake says so in each way to read it, never reads as an older one, and there is a way back."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from toys import people

from arislab.errors import LakeError, ParameterError
from arislab.lake import Lake, Table, storage
from arislab.lake import check as lake_check


def truncate(path, n_bytes=None):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if n_bytes is None else n_bytes])


def newest(table, pattern):
    return max(table.folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def commit(table, version):
    return table.folder / "_delta_log" / f"{version:020}.json"


def cut_after_its_first_line(path):
    path.write_bytes(path.read_bytes().split(b"\n")[0])


DAMAGES = {
    "last commit cut off": lambda t: truncate(commit(t, 2)),
    "last commit cut off between two lines": lambda t: cut_after_its_first_line(commit(t, 2)),
    "last commit empty": lambda t: truncate(commit(t, 2), 0),
    "last commit of zeros": lambda t: commit(t, 2).write_bytes(bytes(900)),
    "last commit of another program": lambda t: commit(t, 2).write_text("[1, 2]"),
    "middle commit gone": lambda t: commit(t, 1).unlink(),
    "middle commit cut off": lambda t: truncate(commit(t, 1)),
    "first commit gone": lambda t: commit(t, 0).unlink(),
    "log gone": lambda t: shutil.rmtree(t.folder / "_delta_log"),
    "data file gone": lambda t: newest(t, "*.parquet").unlink(),
    "data file cut off": lambda t: truncate(newest(t, "*.parquet")),
    "data file empty": lambda t: truncate(newest(t, "*.parquet"), 0),
}


@pytest.fixture
def table(lake):
    """Candidates in three versions of 2, 5 and 9 rows; another table beside it."""
    raw = {"custom_id": "r-1", "candidate_id": "c0000", "task": "t", "sample": 0, "status": "ok", "llm_output": "x"}
    lake["training_data_raw"].append(pl.DataFrame([raw]))
    return lake["candidates"].append(people(2)).append(people(5)).append(people(9))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_table_is_one_message_in_every_way_to_use_it(table, root, name):
    DAMAGES[name](table)
    lake = Lake()
    ways = (
        lake["candidates"].read,
        lake["candidates"].scan,
        lambda: lake["candidates"].latest(where={"split": "train"}),
        lambda: lake["candidates"].append(people(10)),
        lambda: lake["candidates"].upsert(people(1)),
        lambda: lake["candidates"].replace(people(1), where={"split": "train"}),
        lambda: lake.sql("select count(*) from candidates"),
        lambda: lake.lineage("r-1"),
        lambda: lake.export("candidates", root / "out.csv"),
        lake.compact,
    )
    before = sorted(path for path in table.folder.rglob("*") if path.name != "_delta_log")
    for way in ways:
        with pytest.raises(LakeError, match=r"candidates under .* is damaged: .*`arislab doctor` says") as caught:
            way()
        assert "\n" not in str(caught.value)
    assert sorted(path for path in table.folder.rglob("*") if path.name != "_delta_log") == before
    assert "is damaged" in repr(lake)
    assert "is damaged" in lake._repr_html_()
    assert lake.sql("select count(*) from training_data_raw").item() == 1  # what is whole is read


@pytest.mark.parametrize(
    ("name", "whole", "n_rows", "n_kept"),
    [
        ("last commit cut off", 1, 5, 5),
        ("last commit cut off between two lines", 1, 5, 5),
        ("last commit empty", 1, 5, 5),
        ("last commit of zeros", 1, 5, 5),
        ("middle commit gone", 0, 2, 2),
        ("middle commit cut off", 0, 2, 2),
        ("first commit gone", None, 0, None),
        ("log gone", None, 0, None),
        ("data file gone", 1, 5, 5),
        ("data file cut off", 1, 5, 5),
    ],
)
def test_doctor_names_the_newest_whole_version_and_repair_keeps_what_can_be_read(table, name, whole, n_rows, n_kept):
    DAMAGES[name](table)
    state = lake_check.examine(table.lake)[0]
    assert (state.table, state.whole, state.rows, state.is_well) == ("candidates", whole, n_rows, False)
    assert "DAMAGED" in str(state)
    names = {path.name for path in table.folder.rglob("*")}
    done = lake_check.repair(table.lake, state)
    assert bool(done) == (n_kept is not None)
    again = lake_check.examine(table.lake)[0]
    assert again.is_well == (n_kept is not None)
    left = {path.name.removesuffix(".damaged") for path in table.folder.rglob("*")}
    assert names <= left | {"_last_checkpoint"}  # nothing is deleted
    if n_kept is not None:
        assert table.read().height == n_kept
        assert table.append(people(20)).rows == 20  # and it can be written again


def test_a_data_file_that_is_gone_costs_its_own_rows_only(table):
    """The second of three: going back to a whole version would cost the third one's rows too."""
    added = [json.loads(line) for line in commit(table, 1).read_bytes().split(b"\n")]
    (table.folder / next(line["add"]["path"] for line in added if "add" in line)).unlink()
    state = lake_check.examine(table.lake)[0]
    assert (state.whole, state.rows) == (0, 2)
    assert "3 rows are lost" in lake_check.repair(table.lake, state)[0]
    assert sorted(table.read()["candidate_id"]) == [f"c{i:04d}" for i in (0, 1, 5, 6, 7, 8)]


def test_going_back_makes_a_version_the_newest_again_and_keeps_the_rest_readable(table):
    assert "holds the 5 rows of version 1 again, as version 3" in lake_check.back(table.lake, "candidates", 1)
    assert (table.rows, table.read(version=2).height) == (5, 9)
    assert table.read().sort("candidate_id").equals(table.read(version=1).sort("candidate_id"))  # run and time too
    with pytest.raises(ParameterError, match="candidates@7 is not whole"):
        lake_check.back(table.lake, "candidates", 7)


@pytest.mark.parametrize("name", ["last commit cut off", "data file cut off"])
def test_going_back_from_damage(table, name):
    DAMAGES[name](table)
    lake_check.back(table.lake, "candidates", 0)
    assert table.read()["candidate_id"].to_list() == ["c0000", "c0001"]
    assert lake_check.examine(table.lake)[0].is_well


def test_a_byte_that_changed_inside_a_data_file_is_found(table):
    raw = table.lake["training_data_raw"]
    raw.append(raw.read().with_columns(custom_id=pl.lit("r-8"), candidate_id=pl.lit("c0008")))
    path = newest(table, "*.parquet")
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    for way in (
        table.read,
        lambda: table.upsert(people(9)),
        lambda: table.append(people(9)),
        lambda: table.lake.sql("select * from candidates"),
        lambda: table.lake.lineage("r-8"),
    ):
        with pytest.raises(LakeError, match=r"damaged.*`arislab doctor` ") as caught:
            way()
        assert "\n" not in str(caught.value)
    assert "candidates" in repr(table.lake)
    assert "candidates" in repr(table)
    state = lake_check.examine(table.lake)[0]
    assert (state.whole, state.is_well) == (1, False)
    assert path.name in state.damage


@pytest.mark.parametrize("harm", ["cut off", "gone", "pointer cut off"])
def test_a_checkpoint_that_is_damaged_is_set_aside_where_the_commits_say_all(lake, harm):
    table = lake["candidates"].append(people(1))
    for n in (2, 3, 4):
        table.append(people(n))
    DeltaTable(table.uri).create_checkpoint()
    table.append(people(5))
    checkpoint = next(table.folder.glob("_delta_log/*.checkpoint.parquet"))
    if harm == "gone":
        checkpoint.unlink()
    else:
        truncate(checkpoint if harm == "cut off" else table.folder / "_delta_log" / "_last_checkpoint")
    if harm == "pointer cut off":  # readers look it over
        assert table.read().height == 5
        return
    with pytest.raises(LakeError, match=r"is damaged: .*checkpoint"):
        table.read()
    assert "--repair" in str(lake_check.examine(lake)[0])
    assert lake_check.repair(lake, lake_check.examine(lake)[0])
    assert table.read().height == 5
    assert lake_check.examine(lake)[0].is_well


def test_doubled_keys_are_named_and_one_row_of_each_is_kept_in_a_new_version(lake):
    """As two first writers of an older arislab left them."""
    table = lake["candidates"].append(people(3).with_columns(title=pl.lit("first")))
    rows = table.read().with_columns(title=pl.lit("second"), created_at=pl.col("created_at").dt.offset_by("1s"))
    write_deltalake(table.uri, rows.head(2).to_arrow(), mode="append")
    state = lake_check.examine(lake)[0]
    assert (state.n_doubled, state.rows, state.is_well) == (2, 5, False)
    assert "2 of 5 rows share their key with another (first: c0000)" in str(state)
    assert "2 of 5 rows gave way to the newest of their key; version 2" in lake_check.repair(lake, state)[0]
    assert table.read().sort("candidate_id")["title"].to_list() == ["second", "second", "first"]
    assert table.read(version=1).height == 5
    assert lake_check.examine(lake)[0].is_well


def append_before_the_rewrite(monkeypatch, frame):
    """Another writer is done between the look at a table and its rewriting."""
    rewrite = Table.rewrite

    def late(table, *given, **named):
        Lake(table.lake.path, run_id="another")[table.name].append(frame)
        return rewrite(table, *given, **named)

    monkeypatch.setattr(Table, "rewrite", late)


def test_a_repair_of_doubled_keys_keeps_the_rows_that_another_writer_added_meanwhile(lake, monkeypatch):
    table = lake["candidates"].append(people(2))
    write_deltalake(table.uri, table.read().head(1).to_arrow(), mode="append")
    append_before_the_rewrite(monkeypatch, people(3).tail(1))
    done = lake_check.repair(lake, lake_check.examine(lake)[0])
    assert done == ["1 of 4 rows gave way to the newest of their key; version 3"]
    assert sorted(table.read()["candidate_id"]) == ["c0000", "c0001", "c0002"]
    assert lake_check.examine(lake)[0].is_well


def test_going_back_refuses_where_another_writer_added_rows_meanwhile(table, monkeypatch):
    append_before_the_rewrite(monkeypatch, people(10).tail(1))
    with pytest.raises(LakeError, match="candidates is at version 3, no longer at 2: another writer came in between"):
        lake_check.back(table.lake, "candidates", 0)
    assert (table.version, table.rows) == (3, 10)


@pytest.mark.parametrize("version", [0, 2])
def test_going_back_refuses_where_rows_came_while_it_read_the_old_version(table, monkeypatch, version):
    damage = lake_check._damage

    def slow(*given, **named):
        state = damage(*given, **named)
        monkeypatch.setattr(lake_check, "_damage", damage)
        table.append(people(10).tail(1))
        return state

    monkeypatch.setattr(lake_check, "_damage", slow)
    with pytest.raises(LakeError, match="candidates is at version 3, no longer at 2"):
        lake_check.back(table.lake, "candidates", version)
    assert (table.version, table.rows) == (3, 10)


@pytest.mark.parametrize("name", ["last commit cut off", "data file cut off"])
@pytest.mark.parametrize("way", ["repair", "back"])
def test_files_are_set_aside_and_left_out_only_while_no_other_writer_is_at_work(table, monkeypatch, way, name):
    DAMAGES[name](table)
    state = lake_check.examine(table.lake)[0]
    rename, sync_commit, n_held = Path.rename, storage.sync_commit, []

    def under_lock(work):
        def checked(*given):
            with (table.folder.parent / ".locks" / table.name).open("w") as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            n_held.append(1)
            return work(*given)

        return checked

    monkeypatch.setattr(Path, "rename", under_lock(rename))
    monkeypatch.setattr(storage, "sync_commit", under_lock(sync_commit))
    lake_check.repair(table.lake, state) if way == "repair" else lake_check.back(table.lake, "candidates", 0)
    assert n_held
    assert lake_check.examine(table.lake)[0].is_well


def strip_statistics(table):
    """As a program leaves them that counts nothing."""
    for path in table.folder.glob("_delta_log/*.json"):
        actions = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        for action in actions:
            action.get("add", {}).pop("stats", None)
        path.write_text("\n".join(map(json.dumps, actions)))


@pytest.mark.parametrize("column", ["null", "absent"])
def test_a_table_whose_commits_count_no_rows_is_examined_and_mended(table, monkeypatch, column):
    """Newer versions of deltalake answer with a column of nulls, older ones (1.1) with none."""
    strip_statistics(table)
    if column == "absent":
        actions = DeltaTable.get_add_actions
        monkeypatch.setattr(
            DeltaTable, "get_add_actions", lambda delta: pl.DataFrame(actions(delta)).drop("num_records", strict=False)
        )
    state = lake_check.examine(table.lake)[0]
    assert (state.is_well, state.whole, state.rows) == (True, 2, 9)
    truncate(newest(table, "*.parquet"))
    state = lake_check.examine(table.lake)[0]
    assert (state.is_well, state.whole, state.rows) == (False, 1, 5)
    assert "rows that no commit counted are lost" in lake_check.repair(table.lake, state)[0]
    assert table.read().height == 5
    assert lake_check.examine(table.lake)[0].is_well


def test_a_version_that_a_vacuum_took_is_named_with_the_run_that_needs_it(table, root):
    record = {"tables_read": {"candidates": {"version": 0}}, "tables_written": {}}
    folder = root / "papermill_runs" / "20260101T000000Z-curate-abcd"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    table.replace(people(3), where={"split": "train"})
    DeltaTable(table.uri).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(LakeError, match=r"which is gone \(a vacuum deletes the files of older versions\)"):
        table.read(version=0)
    state = lake_check.examine(table.lake)[0]
    assert state.is_well
    assert "1 versions that records name cannot be read (first: 0, of 20260101T000000Z-curate-abcd)" in str(state)


def test_a_first_write_that_was_cut_off_leaves_no_table_and_can_be_made_again(lake):
    table = lake["candidates"]
    (table.folder / "_delta_log").mkdir(parents=True)
    (table.folder / "part-00000-cut-off.parquet").write_bytes(b"PAR1")
    assert not table.exists
    assert table.append(people(2)).rows == 2


def test_a_file_that_does_not_belong_there_changes_nothing(table):
    (table.folder / "notes.txt").write_text("mine")
    (table.folder / "_delta_log" / "00000000000000000002 (copy).json").write_text("{")
    (table.folder.parent / "holiday").mkdir()
    assert table.read().height == 9
    assert [state.is_well for state in lake_check.examine(table.lake)] == [True, True]


@pytest.mark.slow
def test_the_commands_say_it_in_one_line_and_doctor_shows_the_way_back(table, root):
    def arislab(*arguments):
        command = [sys.executable, "-m", "arislab", *arguments, "--root", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        return done.returncode, done.stdout, done.stderr

    truncate(commit(table, 2))
    code, out, err = arislab("sql", "select count(*) from candidates")
    assert (code, out) == (2, "")
    assert "is damaged: version 2 is cut off" in err
    assert "Traceback" not in err
    assert "panicked" not in err
    code, out, _ = arislab("doctor")
    assert code == 1
    assert "whole until version 1 (5 rows); --back candidates@1 goes back to it" in out
    code, out, _ = arislab("doctor", "--repair")
    assert code == 0
    assert "candidates: whole, version 1, 5 rows" in out
