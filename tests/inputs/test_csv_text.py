import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab.inputs import csv_text

FIELD = st.none() | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",;\t\r\n '), max_size=12)
TABLE = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(FIELD, min_size=n, max_size=n), min_size=1, max_size=6)
)  # rows of equal length


def written(rows, separator, end, *, always):
    """Write rows; a missing field as nothing, an empty one as two quotes, one with special characters in quotes."""

    def field(text):
        if text is None:
            return ""
        is_special = not text or any(c in text for c in (separator, '"', "\r", "\n"))
        return '"' + text.replace('"', '""') + '"' if always or is_special else text

    return "".join(separator.join(map(field, row)) + end for row in rows)


@settings(max_examples=FUZZ, deadline=None)
@given(TABLE, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_what_is_written_is_read_back(rows, separator, end, always, cut):
    text = written(rows, separator, end, always=always)
    read = [fields for _, fields in csv_text.records(text.removesuffix(end) if cut else text, separator)]
    assert read == rows


@settings(max_examples=FUZZ, deadline=None)
@given(TABLE)
def test_each_row_has_the_number_of_its_first_line(rows):
    text = written(rows, ",", "\n", always=False)
    numbers = [line for line, _ in csv_text.records(text, ",")]
    lines = [1 + written(rows[:i], ",", "\n", always=False).count("\n") for i in range(len(rows))]
    assert numbers == lines


@settings(max_examples=FUZZ, deadline=None)
@given(st.text(st.sampled_from('a",\r\n;'), max_size=30))
def test_any_text_is_rows_or_a_refusal_with_its_line(text):
    refusal, rows = "", []
    try:
        rows = list(csv_text.records(text, ","))
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("line ")
        assert '"' in text or "\r" in text
    else:
        assert sum((field or "").count("a") for _, fields in rows for field in fields) == text.count("a")


def test_missing_and_empty_are_two_things():
    assert list(csv_text.records('a,,"",""""\n\n,x,,\n', ",")) == [
        (1, ["a", None, "", '"']),
        (3, [None, "x", None, None]),
    ]


def test_a_quote_inside_a_field_is_a_quote():
    assert list(csv_text.records('5" pipe,"6"" pipe"\n', ",")) == [(1, ['5" pipe', '6" pipe'])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n"x,y\nz\n', "line 2: a quote is opened and never closed"),
        ('a,b\n"x\ny"z,1\n', "line 3: text follows a closing quote"),
        ("a,b\nx\ry,1\n", "line 2: a carriage return stands alone"),
        ('a,b\n"x"\ry,1\n', "line 2: a carriage return stands alone"),
    ],
)
def test_what_is_no_csv_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError, match=message):
        list(csv_text.records(text, ","))


@pytest.mark.parametrize(
    ("text", "separator", "start"),
    [
        ("a,b\n1;2,3\n", ",", 0),
        ("a;b\n1,5;2\n", ";", 0),
        ('a\t"b;c;d"\n', "\t", 0),
        ("only\n1;2;3\n", ",", 0),
        ("sep=|\r\na|b\r\n", "|", 7),
        ("SEP=\t\na\tb\n", "\t", 6),
        ("a,b;c\n", ",", 0),
    ],
)
def test_the_separator_is_what_the_sep_line_or_the_header_says(text, separator, start):
    assert csv_text.separator(text) == (separator, start)
