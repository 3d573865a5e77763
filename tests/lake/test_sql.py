"""One SELECT over the tables, and nothing else."""

import polars as pl
import pytest
from toys import people, reviews

from arislab.errors import LakeError


def test_sql_sees_the_newest_version_and_errors_name_the_tables(lake):
    lake["candidates"].append(people(4))
    assert lake.sql("select count(*) n from candidates").item() == 4
    with pytest.raises(LakeError, match="Tables: candidates"):
        lake.sql("select * from nowhere")


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1 as a) to '{folder}/copied.csv'",
        "copy candidates to '{folder}/copied.parquet'",
        "attach '{folder}/other.db' as other",
        "export database '{folder}/whole'",
        "select * from candidates; copy (select 7) to '{folder}/second.csv'",
        "select 1; select 2",
        "create table kept as select * from candidates",
        "delete from candidates",
        "update candidates set split = 'test'",
        "insert into candidates values (1)",
        "drop view candidates",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "pragma database_list",
        "call pragma_version()",
        "prepare p as select 1",
        "begin",
        "",
        "  -- nothing",
    ],
)
def test_sql_that_is_more_than_one_select_is_refused_and_writes_nothing(lake, root, query):
    lake["candidates"].append(people(2))
    before = sorted(root.rglob("*"))
    with pytest.raises(LakeError, match="Give one SELECT") as refused:
        lake.sql(query.format(folder=root))
    assert "\n" not in str(refused.value)
    assert sorted(root.rglob("*")) == before
    assert lake["candidates"].read()["split"].to_list() == ["train", "train"]


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{folder}/secret.csv')",
        "select * from '{folder}/secret.csv'",
        "select content from read_text('{folder}/secret.csv')",
        "select * from read_blob('{folder}/secret.csv')",
        "select * from glob('{folder}/*')",
        "with x as (from read_csv_auto('{folder}/secret.csv')) select * from x, candidates",
        "select * from sniff_csv('{folder}/secret.csv')",
        "select * from parquet_scan('{folder}/*.parquet')",
        "select * from secret",
        "select getenv('HOME')",
    ],
)
def test_sql_reads_the_tables_and_nothing_else(lake, root, query):
    secret = pl.DataFrame({"word": ["swordfish"]})
    secret.write_csv(root / "secret.csv")
    lake["candidates"].append(people(2))
    with pytest.raises(LakeError, match="Tables: candidates") as refused:
        lake.sql(query.format(folder=root))
    assert "swordfish" not in str(refused.value)


def test_sql_still_answers_what_readers_ask(lake):
    lake["candidates"].append(people(3))
    lake["reviews"].append(reviews(["c0001"]))
    both = "with r as (select custom_id from reviews) "
    both += "select c.title from CANDIDATES c join r on r.custom_id = c.candidate_id"
    assert lake.sql(both).height == 1
    assert lake.sql("from candidates select count(*) n").item() == 3
    assert lake.sql("select profile->>'text' as t from \"candidates\" order by 1").item(0, 0) == "candidate number 0"
    assert lake.sql("pivot candidates on split using count(*)").height == 3
    assert lake.sql("explain select * from candidates").height >= 1


def test_sql_compares_texts_numbers_and_times_of_rows_that_were_merged(lake):
    lake["candidates"].append(people(3))
    lake["candidates"].upsert(
        people(4).with_columns(split=pl.when(pl.int_range(4) < 1).then(pl.lit("test")).otherwise("split"))
    )
    for query, n in (
        ("select count(*) from candidates where split = 'train'", 3),
        ("select count(*) from candidates where split in ('test', 'nowhere')", 1),
        ("select count(*) from candidates where split <> 'train' and candidate_id = 'c0000'", 1),
        ("select count(*) from candidates where candidate_id > 'c0001'", 2),
        ("select count(*) from candidates where profile like '%number 3%'", 1),
        ("select count(*) from candidates where created_at > timestamp '2020-01-01'", 4),
        ("select count(*) from candidates where use_case is null", 4),
    ):
        assert lake.sql(query).item() == n, query
