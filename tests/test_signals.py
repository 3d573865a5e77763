"""Signals beside the answer that is known to be right, and beside what costs nothing."""

import inspect
import json
import math
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arislab import scoring, signals, stats
from arislab.errors import ParameterError
from arislab.task import load

TASK = """
from arislab import signals
def last_number(output):
    import re
    numbers = re.findall(r"-?\\d[\\d,]*(?:\\.\\d+)?", output)
    return float(numbers[-1].replace(",", "")) if numbers else None
def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["question"]}]
SCORERS = {"agrees": signals.agreement(last_number)}
WEIGHTS = {"agrees": 1}
GOLD = [{"output": "it is 18", "others": ["18", "so 18.0"]}]
BAD = [{"output": "it is 17", "others": ["18", "so 18.0"]}]
"""


def test_confidence_is_the_mean_probability_of_the_tokens():
    rows = pl.DataFrame({"logprob_mean": [math.log(0.5)], "logprob_tail": [0.0], "logprob_window": [-1e9]})
    for part, told in (("mean", 0.5), ("tail", 1.0), ("window", 0.0)):
        scorer = signals.confidence(part)
        (column,) = inspect.signature(scorer).parameters
        assert scorer(rows[column][0]) == pytest.approx(told)
        assert scorer(None) is None
    with pytest.raises(ParameterError, match="mean, tail or window, got 'max'"):
        signals.confidence("max")


def test_a_final_answer_agrees_or_not():
    agrees = signals.agreement(lambda output: re.search(r"\d+|$", output)[0] or None)
    assert agrees("a 7", ["7", "8", "none", "b 7"]) == 0.5
    assert agrees("none", ["7"]) is None
    assert agrees("7", []) is None


def test_objects_agree_field_by_field_over_all_fields_of_both():
    agrees = signals.agreement(json.loads)
    own = '{"level": "senior", "years": 7, "remote": true}'
    assert agrees(own, [own]) == 1.0
    assert agrees(own, ['{"level": "senior", "years": 8, "remote": true}']) == pytest.approx(2 / 3)
    assert agrees(own, ['{"level": "senior", "years": 7, "city": "Bern"}']) == pytest.approx(2 / 4)
    assert agrees(own, ["[1]"]) == 0.0
    assert agrees("{}", ["{}"]) == 1.0


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4))
def test_without_a_key_words_are_compared_whatever_the_text(output, others):
    value = signals.agreement()(output, others)
    assert value is None if not others else 0 <= value <= 1
    assert signals.agreement()(output, [output]) == 1.0


def test_word_sets():
    agrees = signals.agreement()
    assert agrees("Java, Kotlin", ["kotlin; JAVA", "Java"]) == pytest.approx((1 + 0.5) / 2)


def test_real_answers_to_sums_that_agree_are_right_far_more_often_than_long_ones(shared, tmp_path):
    path = tmp_path / "sums.py"
    path.write_text(TASK)
    frames = []
    for file in sorted((shared / "tora_gsm8k").glob("*.jsonl")):
        for number, line in enumerate(file.read_text().splitlines()):
            row = json.loads(line)
            is_right = row["pred"][0] == row["gt"]
            frames.append((f"{file.stem}-{number}", f"q{number}", row["code"][0], is_right))
    rows = pl.DataFrame(frames, schema=["custom_id", "candidate_id", "output", "right"], orient="row")
    task = load(path)
    assert scoring.check(task).height == 2
    scored = scoring.score(rows, task).join(rows.select("custom_id", "right", "output"), on="custom_id")
    told = scored.drop_nulls("quality")
    assert told.height > 0.95 * rows.height
    columns = (told["quality"], told["output"].str.len_chars())
    by_agreement, by_length = (stats.auc(column, told["right"], n_boot=0).mean for column in columns)
    base, kept = told["right"].mean(), told.filter(pl.col("quality") == 1)["right"].mean()
    assert by_agreement > max(by_length, 1 - by_length) + 0.1
    assert kept > base + 0.08
