"""Other programs read the tables as they are: a lake of ten years is worth what opens it then."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import daft
import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from toys import need, people


@pytest.fixture
def written(lake):
    """A table that went through every kind of write; there is a checkpoint too."""
    table = lake["candidates"].append(people(30))
    table.upsert(people(40).with_columns(profile=pl.lit('{"text": "changed"}')))
    table.replace(people(5, split="test"), where={"split": "test"})
    for i in range(8):
        table.upsert(people(1).with_columns(candidate_id=pl.lit(f"late {i} ü%20")))
    lake.compact()
    DeltaTable(table.uri).create_checkpoint()
    table.rewrite(lambda rows: rows.filter(pl.col("candidate_id") != "c0039").collect())
    return table


def actions(table, kind):
    logs = sorted((table.folder / "_delta_log").glob("*.json"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


def test_a_table_asks_for_the_oldest_readers_and_no_feature_that_few_have(written):
    assert [checkpoint.name for checkpoint in (written.folder / "_delta_log").glob("*.checkpoint.parquet")]
    protocols = actions(written, "protocol")
    assert {(p["minReaderVersion"], p["minWriterVersion"]) for p in protocols} == {(1, 2)}
    assert not any(p.get("readerFeatures") or p.get("writerFeatures") for p in protocols)
    assert not any(add.get("deletionVector") for add in actions(written, "add"))
    for about in actions(written, "metaData"):
        assert about["format"]["provider"] == "parquet"
        assert about["partitionColumns"] == []
        assert not any("columnMapping" in name for name in about["configuration"])


def test_times_are_utc_and_texts_are_texts_in_the_files_themselves(written):
    paths = list(written.folder.glob("*.parquet"))
    assert len(paths) > 10
    schemas = [pq.read_schema(path) for path in paths]
    assert {str(schema.field("created_at").type) for schema in schemas} == {"timestamp[us, tz=UTC]"}
    # Delta's own merge writes string views, which Daft cannot read
    kinds = {str(schema.field(name).type) for schema in schemas for name in ("candidate_id", "profile", "run_id")}
    assert kinds <= {"string", "large_string"}


def test_pandas_duckdb_arrow_and_polars_find_the_same_rows(written):
    ours = written.read().sort("candidate_id")
    assert ours.height == 40 + 8 - 1
    delta = DeltaTable(written.uri)
    ids = ours["candidate_id"].to_list()
    pandas = delta.to_pandas().sort_values("candidate_id")
    assert pandas["candidate_id"].to_list() == ids
    assert pandas["created_at"].dt.tz_convert("UTC").to_list() == ours["created_at"].to_list()
    assert sorted(delta.to_pyarrow_table().column("candidate_id").to_pylist()) == sorted(ids)
    assert pl.scan_delta(written.uri).collect().sort("candidate_id").equals(ours)
    # DuckDB's own extension for Delta is a download; through the files of the newest version it needs none
    files = [str(written.folder / name) for name in delta.file_uris()]
    answer = duckdb.read_parquet(files).select("candidate_id", "split").order("candidate_id").fetchall()
    assert answer == ours.select("candidate_id", "split").rows()


def test_daft_finds_the_same_rows(written):
    theirs = daft.read_deltalake(written.uri).sort("candidate_id").to_arrow()
    ours = written.read().sort("candidate_id")
    assert pl.DataFrame(theirs).select(ours.columns).cast(dict(ours.schema)).equals(ours)


def test_rays_reader_finds_the_same_rows(written):
    has_ray = importlib.util.find_spec("ray") is not None
    need("ray", present=has_ray, why='Ray is not installed (pip install "arislab[ray]")')
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", RAY, written.uri]
    child = subprocess.run(command, capture_output=True, check=True, text=True, env=env)
    ours = written.read().sort("candidate_id")
    theirs = pl.read_json(io.StringIO(child.stdout.splitlines()[-1]), schema_overrides={"candidate_id": pl.String})
    assert theirs.rows() == ours.select("candidate_id", "profile", "split").rows()


RAY = """
import json, sys, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
rows = ray.data.read_delta(sys.argv[1]).take_all()
names = ("candidate_id", "profile", "split")
print(json.dumps(sorted(({name: row[name] for name in names} for row in rows), key=lambda row: row["candidate_id"])))
ray.shutdown()
"""
"""In a process of its own, which its actors end with."""


def test_each_older_version_is_there_for_other_programs_too(written):
    counts = [DeltaTable(written.uri, version=n).to_pyarrow_table().num_rows for n in range(written.version + 1)]
    assert counts == [written.read(version=n).height for n in range(written.version + 1)]
    assert counts[:2] == [30, 40]


def test_rows_of_any_name_give_way_to_theirs_and_to_no_others(lake):
    """The rows that give way are named in a condition: a name that reads as SQL must not widen it."""
    names = ["a'b", 'a"b', "a\\b", "a\nb", "a%b", "a_b", "' or '1'='1", "x') --", "ü😀", " a "][:10]
    table = lake["candidates"].append(people(10).with_columns(candidate_id=pl.Series(names)))
    table.append(people(5))
    for name in names:
        table.upsert(people(1).with_columns(candidate_id=pl.lit(name), profile=pl.lit('{"text": "new"}')))
        assert table.rows == 15, name
    new = table.read().filter(pl.col("profile") == '{"text": "new"}')
    assert sorted(new["candidate_id"]) == sorted(names)
    many = people(2_000).with_columns(profile=pl.lit('{"text": "many"}'))  # more than one condition names
    table.upsert(many)
    assert table.rows == 2_000 + 10
    assert table.read()["profile"].value_counts().sort("count")["count"].to_list() == [10, 2_000]
