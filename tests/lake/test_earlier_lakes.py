"""A lake of commit 9ca5bde, made by that commit's code (``fixtures/make_lake_9ca5bde.py``), goes on in this one."""

import json
import tarfile

import polars as pl
import pytest
from toys import CHECKOUT, arislab

from arislab.lake import Lake, tables
from arislab.lake import check as lake_check
from arislab.lake.digests import digest

ROWS = {
    "candidates": 90,
    "training_data_raw": 60,
    "training_data_scored": 43,
    "reviews": 12,
    "training_data_curated": 22,
}


@pytest.fixture
def earlier(root):
    """Root of the lake, with the files that were imported into it and the record of one run."""
    with tarfile.open(CHECKOUT / "tests" / "fixtures" / "lake_9ca5bde.tar.xz") as packed:
        packed.extractall(root, filter="data")
    return root


def test_every_table_and_version_is_read_and_has_the_columns_of_today(earlier):
    lake = Lake(earlier / "data" / "lake")
    assert {name: lake[name].rows for name in lake.tables()} == ROWS
    for name in lake.tables():
        for version in lake[name].history()["version"]:
            rows = lake[name].read(version=version)
            assert set(tables.columns_of(name)) <= set(rows.columns), name
        tables.check(name, lake[name].read())
    assert lake.sql("select count(*) n from reviews join training_data_raw using (custom_id)").item() == 12
    assert all(state.is_well and not state.unread for state in lake_check.examine(lake))
    edited = lake["reviews"].read(where={"decision": "edit"})["custom_id"][0]
    assert {"candidates", "training_data_raw", "reviews"} <= set(lake.lineage(edited))


def test_rows_of_today_are_written_beside_those_of_then(earlier):
    lake = Lake(earlier / "data" / "lake")
    for name, n_rows in ROWS.items():
        rows = lake[name].read()
        keys = {key: pl.lit("new") for key in tables.contract(name).key}
        lake[name].append(rows.head(1).with_columns(**keys)).upsert(rows.head(3)).append(rows)
        again = lake[name].read()
        assert again.height == n_rows + 1
        known = again.join(again.filter(pl.all_horizontal(pl.col(k) == "new" for k in keys)), on=list(keys), how="anti")
        assert digest(name, known) == digest(name, rows), name


@pytest.mark.slow
def test_the_record_of_then_is_listed_and_checked_and_phase_2_runs_again(earlier):
    assert "curate" in arislab("runs", root=earlier)
    before = Lake(earlier / "data" / "lake")["training_data_curated"].read()
    arislab("run", "curate", "-p", "task", "instruction_following", "-p", "keep_fraction", "0.5", root=earlier)
    now = Lake(earlier / "data" / "lake")["training_data_curated"].read()
    assert sorted(now["custom_id"]) == sorted(before["custom_id"])
    assert dict(now.select("custom_id", "approved").iter_rows()) == dict(
        before.select("custom_id", "approved").iter_rows()
    )
    assert now["approved"].sum() == 9


@pytest.mark.slow
def test_importing_the_same_files_again_doubles_no_row_and_loses_none(earlier):
    lake = Lake(earlier / "data" / "lake")
    before = {
        name: set(lake[name].read()[tables.contract(name).key[0]]) for name in ("candidates", "training_data_raw")
    }
    outputs = (
        "--as",
        "outputs",
        "--task",
        "instruction_following",
        "--input",
        "question",
        "--output",
        "answer",
        "--model",
        "model",
    )
    for _ in range(2):
        arislab("import", earlier / "people.jsonl", "--as", "candidates", "--id", "id", root=earlier)
        arislab("import", earlier / "people.csv", "--as", "candidates", "--id", "id", root=earlier)
        arislab("import", earlier / "answers.jsonl", *outputs, root=earlier)
    for name, names in before.items():
        keys = lake[name].read()[tables.contract(name).key[0]]
        assert keys.is_unique().all()
        assert names <= set(keys)
    assert set(lake["training_data_raw"].read()["custom_id"]) == before["training_data_raw"]
    people = set(lake["candidates"].read()["candidate_id"])
    assert people - before["candidates"] == {
        "000",
        "001",
        "002",
        "003",
        "004",
        "005",
    }  # as the file has them; 0 to 5 stay


@pytest.mark.slow
def test_importing_again_says_what_an_earlier_import_had_changed_and_moves_nobody(earlier):
    lake = Lake(earlier / "data" / "lake")
    before = {row["candidate_id"]: row for row in lake["candidates"].read().to_dicts()}
    printed = arislab("import", earlier / "people.csv", "--as", "candidates", "--id", "id", root=earlier)
    assert printed.startswith("6 candidates = 6 new + 0 replaced; ")
    assert "6 candidates stand in the lake under a name that an older import changed ('0' for '000')" in printed
    printed = arislab("import", earlier / "people.jsonl", "--as", "candidates", "--id", "id", root=earlier)
    assert printed.startswith("24 candidates = 0 new + 24 replaced; ")
    after = {row["candidate_id"]: row for row in lake["candidates"].read().to_dicts()}
    for name in ("000", "001", "002", "003", "004", "005"):
        old = str(int(name))
        assert json.loads(after[name]["profile"])["plz"] == f"00{name}"
        assert {k: after[name][k] for k in ("group_id", "split")} == {k: before[old][k] for k in ("group_id", "split")}
        assert after[old]["profile"] == before[old]["profile"]  # recorded outputs may name it
    lines = [line for line in (earlier / "people.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [json.loads(after[json.loads(line)["id"]]["profile"]) for line in lines] == [
        json.loads(line) for line in lines
    ]
    assert all("null" not in after[json.loads(line)["id"]]["profile"] for line in lines)
