"""Columns taken as another type."""

import json

import pytest
from toys import read_of_user

from arislab.errors import PrerequisiteError
from arislab.system import json_text


def test_a_type_is_taken_where_it_is_asked_for(tmp_path):
    text = 'a,b,c,d,e\n007,1.50,TRUE,"{""x"": 1.0}",8\n-3,2,0,[],\n,.5,false,,\n'
    types = {"a": "int", "b": "float", "c": "bool", "d": "json", "e": "text"}
    rows = read_of_user(tmp_path, "a.csv", text, types=types)
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
        read_of_user(tmp_path, "a.csv", f'v,w\n,1\n"{value}",2\n', types={"v": kind})


def test_an_unknown_column_of_a_type_is_refused(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"--type 'yers' is no column of a\.csv; did you mean 'years'"):
        read_of_user(tmp_path, "a.csv", "id,years\n1,2\n", types={"yers": "int"})
