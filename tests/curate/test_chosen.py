"""Selections as text: read and written without a loss, refused in one sentence, and never run."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab import curate
from arislab.curate import chosen
from arislab.curate.chosen import Condition, parse, written
from arislab.errors import ParameterError
from arislab.task import load

NUMBERS, NAMES = ["quality", "length", "score_short", "score_a b", 'score_"q"'], ["category", "model"]
ROWS = pl.DataFrame(
    {
        "custom_id": list("abcdef"),
        "quality": [0.9, 0.62, 0.61, 0.3, None, 1.0],
        "score_a b": [0.1, 0.2, None, 0.4, 0.5, 0.6],
        "category": ["tech", "law", "tech", None, "tech", 'a "b" and c'],
    }
)


def read(text):
    return parse(text, numbers=NUMBERS, names=NAMES)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", "abcdef"),
        ("  ", "abcdef"),
        ("quality >= 0.62", "abf"),
        ("quality>0.62", "af"),
        ("quality < .62 and quality >= 3e-1", "cd"),
        ("quality <= 0.62", "bcd"),
        ("quality = 1", "f"),
        ("quality != 1", "abcd"),
        ("quality >= -1", "abcdf"),
        ('category = "tech"', "ace"),
        ('category != "tech"', "bf"),
        ('category in ("tech", "law")', "abce"),
        ('category in ("law",)', None),
        ('category not in ("tech", "law")', "f"),
        ("category not in ()", "abcef"),
        ("category in ()", ""),
        ('category = "a \\"b\\" and c"', "f"),
        ('"score_a b" < 0.3 and category = "law"', "b"),
        ('quality >= 0.5\n and   category = "tech"', "ac"),
    ],
)
def test_a_selection_holds_the_rows_that_it_says(text, held):
    if held is None:
        with pytest.raises(ParameterError, match="a name in double quotes is wanted"):
            curate.held(ROWS, text)
    else:
        assert "".join(curate.held(ROWS, text)["custom_id"]) == held


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qualty >= 0.5", "names the column 'qualty'; did you mean 'quality'"),
        ("quality", "at character 8, where it ends: one of >=, >"),
        ("quality >= ", "where it ends: a number is wanted"),
        ('quality >= "0.5"', "a number is wanted, for quality holds numbers"),
        ("quality == 0.5", "a number is wanted"),
        ("quality >= 0.5 or length < 3", "there is no or: use in for several names"),
        ("quality >= 0.5 and", "where it ends: the name of a column is wanted"),
        ("quality >= 1e999", "a finite number is wanted"),
        ("category = tech", "a name in double quotes is wanted"),
        ("category = 'tech'", "what cannot stand there"),
        ("category >= 0.5", "one of =, !=, in, not in is wanted, for category holds names"),
        ("category in tech", "names in parentheses are wanted"),
        ('category in ("tech" "law")', "a comma or a closing parenthesis is wanted"),
        ('category = "tech', "what cannot stand there"),
        ('category = "a\\x"', "written as a JSON string"),
        ('category = "a\nb"', "written as a JSON string"),
        ('"category = "tech"', "names the column 'category = '"),
        ("__import__('os').system('true')", "names the column '__import__'"),
        ("quality >= 0.5; drop table", "what cannot stand there"),
        ("pl.col('quality') > 0", "names the column 'pl'"),
        ("quality >= 0.5) and (quality < 1", "and, or the end, is wanted"),
        ("custom_id = 3", "names the column 'custom_id'"),
    ],
)
def test_whatever_else_is_written_is_refused_in_one_sentence_that_says_what_may_stand_there(text, message):
    with pytest.raises(ParameterError) as error:
        read(text)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0
    assert "selection" in str(error.value)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.floats(allow_nan=False, allow_infinity=False)
CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from(NUMBERS), st.sampled_from([">=", "<=", ">", "<", "=", "!="]), VALUES),
    st.builds(Condition, st.sampled_from(NAMES), st.sampled_from(["=", "!="]), TEXTS),
    st.builds(
        Condition, st.sampled_from(NAMES), st.sampled_from(["in", "not in"]), st.lists(TEXTS, max_size=4).map(tuple)
    ),
)


@settings(max_examples=FUZZ)
@given(st.lists(CONDITIONS, min_size=1, max_size=5))
def test_what_is_written_reads_as_it_was(conditions):
    text = written(conditions)
    assert read(text) == conditions
    assert written(read(text)) == text
    assert "\n" not in text
    assert "\u202e" not in text, "a name cannot turn the text in which it stands"


PARTS = st.sampled_from(
    [*"><=!()., \"'\\0159eE+-\n\u202e", "quality", "category", '"tech"', " and ", " in ", " not ", " >= "]
)


@settings(max_examples=FUZZ)
@given(st.lists(PARTS, max_size=14).map("".join))
def test_any_text_is_read_or_refused(text):
    try:
        conditions = read(text)
    except ParameterError:
        return
    assert read(written(conditions)) == conditions


def test_a_row_without_a_value_meets_no_condition_and_no_row_is_lost_twice():
    for text in ("quality >= 0.5", 'category = "tech"', 'category in ("law")', "quality = 0.3"):
        (condition,) = chosen.parse(text, numbers=["quality"], names=["category"])
        opposite = {">=": "<", "=": "!=", "in": "not in"}[condition.comparison]
        other = Condition(condition.column, opposite, condition.value)
        n_known = ROWS[condition.column].count()
        assert ROWS.filter(condition.expression).height + ROWS.filter(other.expression).height == n_known


TASK = load("candidate_evaluation")
PROFILE = json.dumps(
    {"title": "Nurse", "years": 7, "skills": ["Triage"], "role": "Ward manager", "needs": ["Triage"]} | {"min_years": 4}
)


def texts(output="x" * 30):
    people = pl.DataFrame({"candidate_id": ["s1", "s2"], "profile": [PROFILE] * 2})
    rows = pl.DataFrame(
        {
            "custom_id": ["a", "b"],
            "candidate_id": ["s1", "s2"],
            "output": [output, None],
            "model": ["m", None],
            "profile": [PROFILE] * 2,
        }
    )
    return rows, people


def test_scored_rows_are_described_by_length_model_and_difficulty():
    rows, people = texts()
    scored = pl.DataFrame({"custom_id": ["b", "a"], "quality": [0.2, 0.4], "repaired": [False, False]})
    easy = TASK.__class__(**{**vars(TASK), "difficulty": lambda candidate: candidate["profile"]["years"] / 10})
    found = curate.described(scored, texts=rows, candidates=people, task=easy)
    assert found.select("custom_id", "quality", "length", "model", "difficulty").rows() == [
        ("b", 0.2, None, None, 0.7),
        ("a", 0.4, 30, "m", 0.7),
    ]
    kept = curate.within(
        scored, "difficulty > 0.6 and length < 31", scored=scored, texts=rows, candidates=people, task=easy
    )
    assert kept["custom_id"].to_list() == ["a"]
    assert curate.within(scored, None, scored=scored, texts=rows, candidates=people, task=easy) is scored
    assert curate.within(scored, "", scored=scored, texts=rows, candidates=people, task=easy) is scored
    with pytest.raises(ParameterError, match="holds none of the 2 rows"):
        curate.within(scored, "length > 99", scored=scored, texts=rows, candidates=people, task=easy)


def test_the_length_of_a_repaired_answer_is_that_of_the_text_that_was_scored():
    broken = "{'strengths': ['a', 'b'], 'concerns': ['c'], 'summary': 's', 'score': 0.5, 'recommendation': 'hire'}  \n "
    rows, people = texts(broken)
    scored = pl.DataFrame({"custom_id": ["a"], "quality": [0.4], "repaired": [True]})
    found = curate.described(scored, texts=rows, candidates=people, task=TASK)["length"].item()
    assert 0 < found < len(broken)
