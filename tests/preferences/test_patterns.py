"""Edits that repeat: what people take out, put in or change again and again."""

import json

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab import preferences

HOPE = "I hope this helps!"


def edits(*pairs):
    """What ``verdicts.judged`` says of edits: (before, after)."""
    names = [f"r{i:02d}" for i in range(len(pairs))]
    before, after = zip(*pairs, strict=True) if pairs else ((), ())
    columns = {"custom_id": names, "original_output": before, "output": after, "holds": [True] * len(pairs)}
    schema = {"custom_id": pl.String, "original_output": pl.String, "output": pl.String, "holds": pl.Boolean}
    return pl.DataFrame(columns, schema=schema)


def found(*pairs, **how):
    patterns = preferences.edit_patterns(edits(*pairs), **how)
    return patterns.select("change", "where", "text", "n").rows()


def test_a_closing_phrase_that_14_of_60_edits_take_out_is_named_whatever_its_spelling():
    spelt = [HOPE, "I hope this helps.", "**I hope  this helps!**", "\nI HOPE THIS HELPS"]
    closing = [(f"Answer number {i}. {spelt[i % 4]}", f"Answer number {i}.") for i in range(14)]
    other = [(f"The city of land {i}.", f"The town by river {i}.") for i in range(46)]
    patterns = preferences.edit_patterns(edits(*closing, *other))
    first = patterns.filter(change="deleted").row(0, named=True)
    assert (first["where"], first["text"], first["n"], first["n_edits"]) == ("end", "i hope this helps", 14, 60)
    assert first["share"] == 14 / 60
    assert first["custom_ids"] == [f"r{i:02d}" for i in range(5)]
    assert "14 of 60 edits take out 'i hope this helps' at the end" in preferences.in_words(patterns)
    assert patterns["n"].to_list() == sorted(patterns["n"], reverse=True)


def test_words_of_a_sentence_that_is_still_there_are_compared_one_by_one():
    pairs = [(f"We must hire number {i}.", f"We can hire number {i}.") for i in range(3)]
    assert found(*pairs) == [("replaced", "within", "must → can", 3)]
    assert found(*[(after, before) for before, after in pairs]) == [("replaced", "within", "can → must", 3)]
    pairs = [(f"Number {i} is very good.", f"Number {i} is good.") for i in range(2)]
    assert found(*pairs) == [("deleted", "within", "very", 2)]
    assert found(*pairs[:1]) == []
    assert found(*pairs[:1], least=1) == [("deleted", "within", "very", 1)]


def test_what_is_put_in_before_and_after_is_told_from_what_stands_between():
    pairs = [(f"Text {i}. More {i}.", f"Sure. Text {i}. Indeed. More {i}. Bye.") for i in range(2)]
    assert sorted(found(*pairs)) == [
        ("inserted", "end", "bye", 2),
        ("inserted", "start", "sure", 2),
        ("inserted", "within", "indeed", 2),
    ]


def test_a_pattern_counts_once_an_edit():
    assert found((f"A. {HOPE} B. {HOPE} C.", "A. B. C."), (f"D. {HOPE}", "D. Else.")) == []


def test_json_objects_are_compared_field_by_field():
    def answer(**more):
        return json.dumps({"score": 0.5, "recommendation": "hire", "skills": ["a", "b"], "note": {"by": "x"}} | more)

    pairs = [
        (answer(), answer(score=0.7)),
        (answer(score=0.1), answer(score=0.9)),
        (answer(), answer(recommendation="reject")),
        (answer(), answer(recommendation="reject", skills=["b", "a"])),
        (answer(), answer(skills=["a"])),
        (answer(), answer(skills=["b", "c"])),
        (answer(), answer(note={"by": "x", "at": 1})),
        (answer(), json.dumps(json.loads(answer()), indent=2)),
    ]
    assert found(*pairs) == [
        ("replaced", "recommendation", "", 2),
        ("replaced", "recommendation", "hire → reject", 2),
        ("replaced", "score", "", 2),
    ]
    every = found(*pairs, least=1)
    assert ("deleted", "skills[]", "", 1) in every
    assert ("replaced", "skills[]", "a → c", 1) in every
    assert ("inserted", "note.at", "", 1) in every
    assert len(every) == 9, "order and layout of JSON are no change"


def test_verdicts_that_are_no_edits_or_do_not_hold_count_for_nothing():
    assert preferences.in_words(preferences.edit_patterns(edits())) == "no edit repeats"
    rows = edits(*[(f"A {i}. {HOPE}", f"A {i}.") for i in range(3)])
    assert preferences.edit_patterns(rows.with_columns(holds=pl.lit(value=False))).height == 0
    assert preferences.edit_patterns(rows.with_columns(original_output=pl.lit(None, dtype=pl.String))).height == 0


def test_adversarial_texts_are_compared_too():
    deep = "{" + '"a":{' * 900 + "}" * 901
    long = " ".join(f"w{i}" for i in range(4_000))
    odd = ['{"a": NaN}', '{"a": 1, "a": 2}', deep, long, "\u202eabc\u202c", "", "{", "\x00", "۱۲۳", "好。是。"]
    pairs = [(one, other) for one in odd for other in odd if one != other]
    patterns = preferences.edit_patterns(edits(*pairs), least=1)
    assert (patterns["n_edits"] == len(pairs)).all()
    assert preferences.in_words(patterns)


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=6))
@settings(max_examples=FUZZ, deadline=None)
def test_shares_are_shares_and_the_order_of_edits_is_none(pairs):
    patterns = preferences.edit_patterns(edits(*pairs), least=1)
    assert patterns.filter(~pl.col("share").is_between(0, 1, closed="right")).height == 0
    turned = preferences.edit_patterns(edits(*pairs).reverse(), least=1)
    assert turned.equals(patterns)
    assert found(*[(text, text) for text, _ in pairs], least=1) == []
