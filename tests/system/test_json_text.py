import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, VALUES, WRITERS

from arislab.system import json_text


@settings(max_examples=FUZZ, deadline=None)
@given(VALUES, WRITERS)
def test_every_json_value_is_read_as_python_reads_it(value, how):
    text = json.dumps(value, **how)
    assert repr(json_text.loads(text)) == repr(json.loads(text))  # repr: 1, 1.0, True and -0.0 are four things
    assert repr(json_text.loads(text.encode())) == repr(json.loads(text))
    assert repr(json_text.stored(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["[-0, 18446744073709551616]", "NaN", "[1e999, -1e999]", r'"\ud800"', '{"a":1,"a":2}'])
def test_what_the_lake_holds_is_read_as_python_reads_it(text):
    assert repr(json_text.stored(text)) == repr(json.loads(text))
    with pytest.raises(ValueError, match="Extra data"):
        json_text.stored(text + ",")


@settings(max_examples=FUZZ, deadline=None)
@given(VALUES, WRITERS)
def test_compact_takes_white_space_out_and_nothing_else(value, how):
    assert json_text.compact(json.dumps(value, **how)) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("token", ["1.50", "-0", "0.10e+02", "1E5", "90071992547409931", "3" * 60, "1e-7", "12.0"])
def test_a_number_keeps_its_digits(token):
    assert json_text.compact(f'{{"b": [{token} ], "a": {token}}}') == f'{{"b":[{token}],"a":{token}}}'
    assert json_text.as_text(json_text.exact(f"[ {token}]")[0]) == token
    assert json_text.as_text(json_text.exact(f"[{token}]")[0]) == token


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("text", ["", "a", 'say \\"hi\\"', "\\\\", '\\\\\\"', "\\\\\\\\", "\\u0022", "2024-01-05"])
def test_a_key_twice_is_found_whatever_the_texts_say(text, space):
    with pytest.raises(ValueError, match="twice"):
        json_text.exact(f'{{"k":{space}"{text}",{space}"o":{space}[0,{space}{{"a":1,{space}"a":1}}]}}')
    value = json_text.exact(f'{{"k":{space}"{text}",{space}"o":{space}[0,{space}-0,{space}{{"a":1,{space}"b":1}}]}}')
    assert json_text.dumps(value["o"]) == '[0,-0,{"a":1,"b":1}]'


def test_text_of_a_value_is_what_the_file_says():
    fields = json_text.exact(
        '{"s": "say \\"hi\\"\\n", "t": true, "n": null, "o": {"z": 1.0, "a": []}, "e": "", "u": "\\u00fc"}'
    )
    assert {k: json_text.as_text(v) for k, v in fields.items()} == {
        "s": 'say "hi"\n',
        "t": "true",
        "n": None,
        "o": '{"z":1.0,"a":[]}',
        "e": "",
        "u": "ü",
    }


def test_long_integers_of_python_are_written_in_full():
    assert (
        json_text.dumps({"a": [2**70, -(2**63) - 1, True], "b": 1.5})
        == f'{{"a":[{2**70},{-(2**63) - 1},true],"b":1.5}}'
    )
    assert json_text.as_text(3**90) == str(3**90)


def test_integers_are_exact():
    assert json_text.loads("[18446744073709551617, 9007199254740993]") == [2**64 + 1, 2**53 + 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"score": NaN}', "NaN, and infinity"),
        (b'{"score": -Infinity}', "NaN, and infinity"),
        (b'{"cut": "\\udc00"}', "half a surrogate pair"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"name": "J\xfcrgen"}', "not UTF-8"),
        (b'{"tab": "a\tb"}', "control character"),
        (b'{"city": "Graz", "zip": 1, "city": "Linz"}', "the key 'city' stands twice"),
        (b'{"deep": [{"x": 1, "x": 1}]}', "the key 'x' stands twice"),
        (b'{"big": 1e400}', "infinity"),
        (b'{"torn": ', "unexpected end"),
        (b"[" * 100_000, "depth|nested"),
        (b"", "empty"),
    ],
)
def test_what_is_no_json_is_refused_by_name(line, reason):
    for read in (json_text.loads, json_text.exact, json_text.compact):
        with pytest.raises(ValueError, match=reason):
            read(line)


@pytest.mark.parametrize(
    ("answer", "value", "marks"),
    [
        (b'{"a": 1}', {"a": 1}, ()),
        (b'{"p": [NaN, Infinity, -Infinity, 1e999, 0.5]}', {"p": [None, None, None, None, 0.5]}, ("nan",)),
        (b'{"t": "a\\ud83d b"}', {"t": "a\ufffd b"}, ("surrogates",)),
        (b'{"t": "\\ude00 \\ud83d\\ude00 \\\\ud83d"}', {"t": "\ufffd \U0001f600 \\ud83d"}, ("surrogates",)),
        (b'{"t": "\xed\xa0\xbd\xed\xb8\x80 \xed\xa0\xbdx"}', {"t": "\U0001f600 \ufffdx"}, ("surrogates",)),
        (b'\xef\xbb\xbf{"t": "x"}', {"t": "x"}, ("bom",)),
        (b'{"t": "Caf\xe9 \x80 \x81"}', {"t": "Café € \x81"}, ("latin-1",)),
        (b'{"t": "gr\xc3\xbcn \xe9"}', {"t": "grün é"}, ("latin-1",)),  # what is UTF-8 stays it
        (b'{"t": "one\ttwo\x01"}', {"t": "one\ttwo\x01"}, ("control",)),
        (b'\xef\xbb\xbf{"t": "\\ud800", "n": NaN}', {"t": "\ufffd", "n": None}, ("bom", "surrogates", "nan")),
    ],
)
def test_a_servers_answer_is_read_once_and_marked(answer, value, marks):
    assert json_text.loads_leniently(answer) == (value, marks)


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"a": ', b'{"a": 1}x', b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_json_at_all_is_refused(answer):
    with pytest.raises(ValueError, match=r"\w"):
        json_text.loads_leniently(answer)


@settings(max_examples=FUZZ, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda t: json.dumps(t).encode()))
def test_no_bytes_end_otherwise_than_in_a_value_or_a_value_error(data):
    try:
        value, marks = json_text.loads_leniently(data)
    except ValueError:
        value, marks = None, None
    try:
        strict = json_text.exact(data)
    except ValueError:
        return
    assert marks == ()
    assert json_text.dumps(value) == json_text.dumps(json.loads(json_text.dumps(strict)))


@pytest.mark.parametrize("number", ["9007199254740993", "18446744073709551616", "-123456789012345678901234567890"])
def test_an_answer_keeps_every_digit_of_an_integer(number):
    value, marks = json_text.loads_leniently(b'{"id": %b, "p": 0.5}' % number.encode())
    assert (value["id"], marks) == (int(number), ())
