import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, TEXT, VALUES, WRITERS

from arislab.errors import ParameterError, PrerequisiteError
from arislab.inputs import files, importing
from arislab.system import json_text
from arislab.task import load


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, name, content, **how):
    return files.read(write(path / name, content), **how)


SAME_FOLDER = settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(
    st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=5),
    WRITERS,
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_is_read_back_as_it_was_written(tmp_path, objects, how, end):
    lines = [json.dumps(o, **how | {"indent": None}).replace("\r\n", " ") for o in objects]
    rows = read(tmp_path, "a.jsonl", end.join(lines))
    assert [json_text.dumps(row) for row in rows.rows] == [
        json.dumps(o, ensure_ascii=False, separators=(",", ":")) for o in objects
    ]
    assert list(rows.lines) == [1 + i * end.count("\n") for i in range(len(objects))]


def test_a_line_gets_no_key_and_no_type_from_another(tmp_path):
    lines = ['{"who":"ada","can":{"go":3}}', '{"who":7,"can":["rust"]}', '{"can":0.50,"more":null}']
    rows = read(tmp_path, "a.jsonl", "\n".join(lines))
    assert [json_text.dumps(row) for row in rows.rows] == lines
    assert rows.texts("who", "--id") == ["ada", "7", None]
    assert rows.texts("can", "--input") == ['{"go":3}', '["rust"]', "0.50"]
    assert rows.columns == ["who", "can", "more"]


def test_only_a_newline_ends_a_line(tmp_path):
    odd = "a\u2028b\u0085c\x1cd\x00"
    rows = read(tmp_path, "a.jsonl", json.dumps({"x": odd}, ensure_ascii=False) + "\n \t\n" + json.dumps({"x": "e"}))
    assert (rows.texts("x", "--id"), list(rows.lines)) == ([odd, "e"], [1, 3])


def test_a_csv_value_is_text(tmp_path):
    text = 'code,price,ok,when,note\n007,1.50,True,2024-01-02,\n00012,3,FALSE,,""\n'
    assert read(tmp_path, "a.csv", text).rows == [
        {"code": "007", "price": "1.50", "ok": "True", "when": "2024-01-02", "note": None},
        {"code": "00012", "price": "3", "ok": "FALSE", "when": None, "note": ""},
    ]


def test_a_type_is_taken_where_it_is_asked_for(tmp_path):
    text = 'a,b,c,d,e\n007,1.50,TRUE,"{""x"": 1.0}",8\n-3,2,0,[],\n,.5,false,,\n'
    types = {"a": "int", "b": "float", "c": "bool", "d": "json", "e": "text"}
    rows = read(tmp_path, "a.csv", text, types=types)
    assert [json_text.dumps(row) for row in rows.rows] == [
        '{"a":7,"b":1.50,"c":true,"d":{"x":1.0},"e":"8"}',
        '{"a":-3,"b":2.0,"c":false,"d":[],"e":null}',
        '{"a":null,"b":0.5,"c":false,"d":null,"e":null}',
    ]
    assert json.loads(json_text.dumps(rows.rows[0]))["b"] == 1.5


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", "1.0", "line 3: 'v' is '1.0', no int"),
        ("int", "1_000", "no int"),
        ("float", "1,5", "no float"),
        ("float", "nan", "no float"),
        ("bool", "yes", "no bool"),
        ("json", "{x}", "no json"),
        ("date", "1", "the type must be one of text, int"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_line(tmp_path, kind, value, message):
    with pytest.raises(PrerequisiteError, match=message):
        read(tmp_path, "a.csv", f'v,w\n,1\n"{value}",2\n', types={"v": kind})


def test_an_unknown_column_of_a_type_is_refused(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"--type 'yers' is no column of a\.csv; did you mean 'years'"):
        read(tmp_path, "a.csv", "id,years\n1,2\n", types={"yers": "int"})


TABLE = 'name;café\nŽoë;"a;b\n"\n'
ROWS = [{"name": "Žoë", "café": "a;b\n"}]


@pytest.mark.parametrize(
    ("content", "how", "note"),
    [
        (TABLE.encode(), {}, ("separator semicolon",)),
        (TABLE.encode("utf-8-sig"), {}, ("separator semicolon",)),
        (TABLE.encode("utf-16"), {}, ("encoding utf-16", "separator semicolon")),
        (TABLE.encode("utf-16-be"), {"encoding": "utf-16-be"}, ("encoding utf-16-be", "separator semicolon")),
        (TABLE.encode("cp1252"), {"encoding": "cp1252"}, ("encoding cp1252", "separator semicolon")),
        (("sep=;\r\n" + TABLE).encode(), {}, ("separator semicolon",)),
        (TABLE.replace(";", "\t", 1).replace('ë;"a', 'ë\t"a').encode(), {"separator": "tab"}, ("separator tab",)),
        (TABLE.replace("é;", "é|", 1).replace(";café", "|café").replace('ë;"', 'ë|"').encode(), {"separator": "|"}, ("separator '|'",)),
        (gzip.compress(TABLE.encode(), mtime=0), {}, ("separator semicolon",)),
        (bytes(pa.compress(TABLE.encode(), codec="zstd", asbytes=True)), {}, ("separator semicolon",)),
    ],
)  # fmt: skip
def test_tables_of_other_programs_are_read(tmp_path, content, how, note):
    rows = read(tmp_path, "a.csv", content, **how)
    assert (rows.rows, rows.notes) == (ROWS, note)


def test_compressed_jsonl_is_read_by_its_ending_and_its_bytes(tmp_path):
    assert read(tmp_path, "a.jsonl.gz", gzip.compress(b'{"x":1}')).rows == [{"x": 1}]
    assert read(tmp_path, "b.jsonl", gzip.compress(b'{"x":1}')).rows == [{"x": 1}]
    with pytest.raises(PrerequisiteError, match=r"cannot read c\.jsonl\.gz"):
        read(tmp_path, "c.jsonl.gz", gzip.compress(b'{"x":1}' * 99)[:-9])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": 2}\n{"x": ', "line 3 of 3: the last line is torn"),
        ("a.jsonl", '{"x": 1}\nnope}\n{"x": 2}\n', "line 2 of 3: this line is not JSON"),
        ("a.jsonl", '{"x": 1}\n[2]\n', "line 2: a JSON object is needed, got list"),
        ("a.jsonl", '{"x": 1}\n{"x": NaN}\n', "line 2 of 2: this line is not JSON: NaN.*--lenient"),
        ("a.jsonl", '{"x": "\\ud800"}\n', "line 1 of 1: .*half a surrogate pair.*--lenient"),
        ("a.jsonl", '{"x": 1}\n{"x": 1, "x": 2}\n', "line 2 of 2: .*the key 'x' stands twice"),
        ("a.jsonl", b'{"x": 1}\n{"x": "J\xfcrg"}\n', "line 2: byte 0xfc is no utf-8; .*--encoding cp1252"),
        ("a.jsonl", "", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "id,x\n", "has no rows"),
        ("a.csv", "id,x,id\n1,2,3\n", "header: column 3 repeats 'id' of column 1"),
        ("a.csv", ",x\n1,2\n", "header: column 1 has no name"),
        ("a.csv", "id,x\n1,2\n3\n", r"line 3: 1 fields, the header has 2 \(separator: comma\)"),
        ("a.csv", 'id,x\n"1\n",2\n3,4,5\n', "line 4: 3 fields, the header has 2"),
        ("a.csv", 'id,x\n1,"2\n', "line 2: a quote is opened and never closed"),
        ("a.csv", "id,x\n1,M\xfcller\n".encode("cp1252"), "line 2: byte 0xfc is no utf-8"),
        ("a.csv", "id,x\n1,2\n".encode("utf-16-le"), "looks like UTF-16 without its mark"),
        ("a.csv", b"PK\x03\x04rest", "zip or Excel"),
        ("a.xlsx", "x", "the ending must be .csv, .jsonl or .parquet. Save it as CSV UTF-8"),
        ("a.json", "[]", "Write one object a line"),
        ("a.parquet", "x", "cannot read a.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_message(tmp_path, name, content, message):
    with pytest.raises(PrerequisiteError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize("how", [{"encoding": "klingon"}, {"separator": "::"}, {"separator": '"'}])
def test_an_unknown_encoding_or_separator_is_refused(tmp_path, how):
    with pytest.raises(ParameterError, match=f"--{next(iter(how))}"):
        read(tmp_path, "a.csv", "a,b\n1,2\n", **how)


def test_a_column_that_is_not_there_hints_at_the_separator(tmp_path):
    rows = read(tmp_path, "a.csv", "id|x\n1|2\n")
    with pytest.raises(PrerequisiteError, match=r"--id 'id' is no column of a\.csv; .*another separator"):
        rows.texts("id", "--id")


def test_a_missing_file_is_one_clear_message(tmp_path):
    with pytest.raises(PrerequisiteError, match="there is no file"):
        files.read(tmp_path / "none.csv")


def test_nan_and_half_characters_are_overlooked_only_when_asked_to(tmp_path):
    rows = read(tmp_path, "a.jsonl", '{"a": 1.50, "b": NaN}\n{"a": "x\\ud83d", "b": -Infinity}\n', lenient=True)
    assert [json_text.dumps(row) for row in rows.rows] == ['{"a":1.50,"b":null}', '{"a":"x\ufffd","b":null}']
    assert rows.notes == ("NaN or infinity read as null in 2 lines", "half surrogate pairs read as U+FFFD in 1 lines")


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
    said = importing.outputs(lake, tmp_path / "a.parquet", task, input="q", output="a", read=read)
    assert "columns: q, a; dropped: photo, split" in said
    assert any("the file has a column 'split', which decides nothing" in line for line in said)
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
