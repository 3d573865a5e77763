"""Answers come back from the screen as they were, and what would not show is shown."""

import json

import pytest
from hypothesis import given, settings
from toys import FUZZ, JSON

from arislab.review import layout


def test_json_is_laid_out_without_changing_a_character_of_a_value():

    text = '{"a": 0.90, "a": [], "b": {"c": "x, y: {z}", "d": [1, "q\\"r"]}, "e": {}}'
    pretty = layout.laid_out(text)
    assert pretty.splitlines()[:3] == ["{", '  "a": 0.90,', '  "a": [],']
    assert layout.as_typed(pretty, original=text) == text
    tight = text.replace(", ", ",").replace(": ", ":")
    assert layout.as_typed(layout.laid_out('{"a":[1,3]}'), original='{"a":[1,2]}') == '{"a":[1,3]}'
    assert json.loads(layout.laid_out(tight)) == json.loads(tight)
    assert layout.laid_out("[" * 100_000) == "[" * 100_000, "too deep: shown as it is"


@settings(max_examples=FUZZ, deadline=None)
@given(JSON)
def test_any_json_comes_back_from_the_text_field_as_it_was(value):

    for text in (json.dumps({"v": value}), json.dumps({"v": value}, separators=(",", ":"), ensure_ascii=False)):
        assert layout.as_typed(layout.laid_out(text), original=text) == text


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم", "👩\u200d💻 ❤\ufe0f", "1\ufe0f\u20e3", "two\n\tlines, no\u00a0break", "שלום"]
)
def test_joiners_of_letters_and_signs_stay_what_they_are(text):

    assert layout.visible(text) == text
    assert layout.hidden(text) == []


def test_selectors_and_joiners_that_carry_a_secret_are_shown():

    assert layout.hidden("😀\ufe00\ufe05\ufe03 a\u200db \U000e0041") == ["U+FE05", "U+FE03", "U+200D", "U+E0041"]
