"""Tables as they were, and tables that are older than their contract."""

from datetime import UTC, datetime

import polars as pl
from toys import people

from arislab.lake import Lake, opening
from arislab.system import spilled


def test_every_version_stays_readable(lake):
    lake["candidates"].append(people(2))
    lake["candidates"].append(people(5).tail(3))
    assert (lake["candidates"].rows, lake["candidates"].read(version=0).height) == (5, 2)
    assert lake["candidates"].history()["version"].to_list() == [1, 0]


def test_a_table_that_is_older_than_a_column_reads_it_as_null(lake):
    from deltalake import write_deltalake

    row = {
        "custom_id": "r-1",
        "candidate_id": "c",
        "task": "t",
        "status": "ok",
        "run_id": "r",
        "created_at": datetime.now(UTC),
    }
    write_deltalake(f"{lake.path}/training_data_raw", pl.DataFrame([row]).to_arrow())
    raw = lake["training_data_raw"]
    assert raw.read(columns=["custom_id", "stem", "attempt"], where="stem is null").row(0) == ("r-1", None, None)
    raw.upsert(pl.DataFrame([{**row, "custom_id": "r-2", "stem": "s-2", "attempt": 1}]).drop("run_id", "created_at"))
    assert raw.read(where="stem = 's-2'")["custom_id"].to_list() == ["r-2"]
    assert raw.read().height == 2


def test_how_large_a_table_is_is_known_wherever_it_lies(tmp_path, monkeypatch):
    for folder in ("plain", "a space", "größer 50%"):
        table = Lake(tmp_path / folder / "data" / "lake")["candidates"].append(people(3_000))
        opened = opening.open_version(table.folder)
        size = table.read().estimated_size()
        for limit, is_large in ((size * 2, False), (size // 50, True)):
            monkeypatch.setattr(spilled, "LARGE", limit)
            assert opening.is_large(opened) is is_large, (folder, limit)
