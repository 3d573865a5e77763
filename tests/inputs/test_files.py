import gzip
import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, TEXT, VALUES, WRITERS, read_of_user

from arislab.errors import ParameterError, PrerequisiteError
from arislab.inputs import files
from arislab.system import json_text


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SAME_FOLDER = settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(
    st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=5),
    WRITERS,
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_is_read_back_as_it_was_written(tmp_path, objects, how, end):
    lines = [json.dumps(o, **how | {"indent": None}).replace("\r\n", " ") for o in objects]
    rows = read_of_user(tmp_path, "a.jsonl", end.join(lines))
    assert [json_text.dumps(row) for row in rows.rows] == [
        json.dumps(o, ensure_ascii=False, separators=(",", ":")) for o in objects
    ]
    assert list(rows.lines) == [1 + i * end.count("\n") for i in range(len(objects))]


def test_a_line_gets_no_key_and_no_type_from_another(tmp_path):
    lines = ['{"who":"ada","can":{"go":3}}', '{"who":7,"can":["rust"]}', '{"can":0.50,"more":null}']
    rows = read_of_user(tmp_path, "a.jsonl", "\n".join(lines))
    assert [json_text.dumps(row) for row in rows.rows] == lines
    assert rows.texts("who", "--id") == ["ada", "7", None]
    assert rows.texts("can", "--input") == ['{"go":3}', '["rust"]', "0.50"]
    assert rows.columns == ["who", "can", "more"]


def test_only_a_newline_ends_a_line(tmp_path):
    odd = "a\u2028b\u0085c\x1cd\x00"
    rows = read_of_user(
        tmp_path, "a.jsonl", json.dumps({"x": odd}, ensure_ascii=False) + "\n \t\n" + json.dumps({"x": "e"})
    )
    assert (rows.texts("x", "--id"), list(rows.lines)) == ([odd, "e"], [1, 3])


def test_a_csv_value_is_text(tmp_path):
    text = 'code,price,ok,when,note\n007,1.50,True,2024-01-02,\n00012,3,FALSE,,""\n'
    assert read_of_user(tmp_path, "a.csv", text).rows == [
        {"code": "007", "price": "1.50", "ok": "True", "when": "2024-01-02", "note": None},
        {"code": "00012", "price": "3", "ok": "FALSE", "when": None, "note": ""},
    ]


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
        (
            TABLE.replace("é;", "é|", 1).replace(";café", "|café").replace('ë;"', 'ë|"').encode(),
            {"separator": "|"},
            ("separator '|'",),
        ),
        (gzip.compress(TABLE.encode(), mtime=0), {}, ("separator semicolon",)),
        (bytes(pa.compress(TABLE.encode(), codec="zstd", asbytes=True)), {}, ("separator semicolon",)),
    ],
)  # fmt: skip
def test_tables_of_other_programs_are_read(tmp_path, content, how, note):
    rows = read_of_user(tmp_path, "a.csv", content, **how)
    assert (rows.rows, rows.notes) == (ROWS, note)


def test_compressed_jsonl_is_read_by_its_ending_and_its_bytes(tmp_path):
    assert read_of_user(tmp_path, "a.jsonl.gz", gzip.compress(b'{"x":1}')).rows == [{"x": 1}]
    assert read_of_user(tmp_path, "b.jsonl", gzip.compress(b'{"x":1}')).rows == [{"x": 1}]
    with pytest.raises(PrerequisiteError, match=r"cannot read c\.jsonl\.gz"):
        read_of_user(tmp_path, "c.jsonl.gz", gzip.compress(b'{"x":1}' * 99)[:-9])


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
        read_of_user(tmp_path, name, content)


@pytest.mark.parametrize("how", [{"encoding": "klingon"}, {"separator": "::"}, {"separator": '"'}])
def test_an_unknown_encoding_or_separator_is_refused(tmp_path, how):
    with pytest.raises(ParameterError, match=f"--{next(iter(how))}"):
        read_of_user(tmp_path, "a.csv", "a,b\n1,2\n", **how)


def test_a_column_that_is_not_there_hints_at_the_separator(tmp_path):
    rows = read_of_user(tmp_path, "a.csv", "id|x\n1|2\n")
    with pytest.raises(PrerequisiteError, match=r"--id 'id' is no column of a\.csv; .*another separator"):
        rows.texts("id", "--id")


def test_a_missing_file_is_one_clear_message(tmp_path):
    with pytest.raises(PrerequisiteError, match="there is no file"):
        files.read(tmp_path / "none.csv")


def test_nan_and_half_characters_are_overlooked_only_when_asked_to(tmp_path):
    rows = read_of_user(tmp_path, "a.jsonl", '{"a": 1.50, "b": NaN}\n{"a": "x\\ud83d", "b": -Infinity}\n', lenient=True)
    assert [json_text.dumps(row) for row in rows.rows] == ['{"a":1.50,"b":null}', '{"a":"x\ufffd","b":null}']
    assert rows.notes == ("NaN or infinity read as null in 2 lines", "half surrogate pairs read as U+FFFD in 1 lines")
