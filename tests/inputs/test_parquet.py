"""Parquet files, value by value."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest

from arislab.errors import PrerequisiteError
from arislab.inputs import files, importing
from arislab.system import json_text, spilled
from arislab.task import load


def test_parquet_keeps_its_types_exactly(tmp_path):
    frame = pl.DataFrame(
        {
            "text": ["007", None],
            "big": pl.Series([2**64 - 1, 0], dtype=pl.UInt64),
            "half": pl.Series([0.1, None], dtype=pl.Float32),
            "money": pl.Series([Decimal("1.50"), None]),
            "who": [{"name": "Ivo", "age": 31, "at": [1.5, None]}, None],
            "tags": [["a", "b"], []],
            "flag": [True, None],
            "day": [date(2024, 2, 29), None],
            "at": [datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC), None],
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    rows = files.read(tmp_path / "a.parquet")
    assert json_text.dumps(rows.rows[0]) == (
        '{"text":"007","big":18446744073709551615,"half":0.1,"money":1.50,"who":{"name":"Ivo","age":31,"at":[1.5,null]},'
        '"tags":["a","b"],"flag":true,"day":"2024-02-29","at":"2024-02-29T12:00:00.000001+00:00","kind":"x"}'
    )
    assert rows.texts("who", "--output") == ['{"name":"Ivo","age":31,"at":[1.5,null]}', None]
    assert rows.texts("tags", "--output") == ['["a","b"]', "[]"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([b"\x00", b"x"], "column 'v' is of type Binary"),
        ([timedelta(1), None], "column 'v' is of type Duration"),
        ([[b"x"], []], "column 'v' is of type Binary"),
        ([1.0, float("nan")], "column 'v' row 2 is NaN or infinite"),
        ([[1.0], [float("inf")]], "column 'v' row 2 holds NaN or infinity.*--lenient"),
    ],
)
def test_a_parquet_column_that_cannot_be_kept_is_refused_by_name(tmp_path, values, message):
    pl.DataFrame({"v": values}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(PrerequisiteError, match=message):
        files.read(tmp_path / "a.parquet")


def test_numbers_of_32_bits_keep_their_digits_wherever_they_stand(tmp_path):
    half = pl.Float32
    kinds = {
        "flat": half,
        "list": pl.List(half),
        "fixed": pl.Array(half, 2),
        "who": pl.Struct({"w": half, "to": pl.List(pl.Struct({"x": half}))}),
    }
    row = {
        "flat": 0.7,
        "list": [0.7, None, 16777216.0],
        "fixed": [3.3, -0.1],
        "who": {"w": 1e-7, "to": [{"x": 2.6}, None]},
    }
    pl.DataFrame([row], schema=kinds).write_parquet(tmp_path / "a.parquet")
    assert json_text.dumps(files.read(tmp_path / "a.parquet").rows[0]) == (
        '{"flat":0.7,"list":[0.7,null,16777216.0],"fixed":[3.3,-0.1],"who":{"w":1e-7,"to":[{"x":2.6},null]}}'
    )


def test_nan_deep_in_a_parquet_column_is_null_and_counted_when_asked_to(tmp_path):
    nan = float("nan")
    rows = [{"v": [{"x": nan}, {"x": 0.5}]}, {"v": [{"x": float("inf")}]}, {"v": None}]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    read = files.read(tmp_path / "a.parquet", lenient=True)
    assert read.rows == [{"v": [{"x": None}, {"x": 0.5}]}, {"v": [{"x": None}]}, {"v": None}]
    assert read.notes == ("NaN or infinity read as null in 2 values",)


def test_a_parquet_column_that_nobody_asked_for_stops_nothing_and_is_named(tmp_path, lake):
    photos = pl.DataFrame({"q": ["Who is shown?"], "a": ["A welder."], "photo": [b"\xff\x00"], "split": ["test"]})
    photos.write_parquet(tmp_path / "a.parquet")
    read = {"encoding": None, "separator": None, "types": {}, "lenient": False}
    task = load("instruction_following")
    lines = importing.outputs(lake, tmp_path / "a.parquet", task, input="q", output="a", read=read)
    assert "columns: q, a; dropped: photo, split" in lines
    assert any("the file has a column 'split', which decides nothing" in line for line in lines)
    with pytest.raises(PrerequisiteError, match="column 'photo' is of type Binary"):
        importing.outputs(lake, tmp_path / "a.parquet", task, input="q", output="a", keep=["photo"], read=read)


def test_the_name_of_a_parquet_file_is_a_name_and_no_pattern(tmp_path):
    for name, value in (("people[1].parquet", "asked for"), ("people1.parquet", "a decoy"), ("p*.parquet", "a star")):
        pl.DataFrame({"v": [value]}).write_parquet(tmp_path / name)
    assert files.read(tmp_path / "people[1].parquet").rows == [{"v": "asked for"}]
    assert files.read(tmp_path / "p*.parquet").rows == [{"v": "a star"}]


def test_nanoseconds_are_kept_or_refused(tmp_path):
    fine = pl.Series("v", [1_000_000], dtype=pl.Int64).cast(pl.Datetime("ns"))
    pl.DataFrame({"v": fine}).write_parquet(tmp_path / "a.parquet")
    assert files.read(tmp_path / "a.parquet").rows == [{"v": "1970-01-01T00:00:00.001000"}]
    pl.DataFrame({"v": fine + timedelta(microseconds=1)}).with_columns(
        pl.Series("v", [1_000_001], dtype=pl.Int64).cast(pl.Datetime("ns"))
    ).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(PrerequisiteError, match="has nanoseconds"):
        files.read(tmp_path / "b.parquet")


@pytest.mark.parametrize("error", [pa.ArrowInvalid, pa.ArrowNotImplementedError])
def test_a_file_whose_footer_pyarrow_cannot_read_is_read_all_the_same(tmp_path, monkeypatch, error):
    def refuse(_):
        raise error("unknown")

    pl.DataFrame({"q": ["a", "b"]}).write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr("pyarrow.parquet.read_metadata", refuse)
    monkeypatch.setattr(spilled, "LARGE", 100_000)  # between the size of the file and what that may become
    assert list(files.read(tmp_path / "rows.parquet").rows) == [{"q": "a"}, {"q": "b"}]
