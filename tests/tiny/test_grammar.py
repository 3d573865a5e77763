"""The default task asks and scores in the words of the grammar."""

import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from arislab import task as tasks
from arislab.tiny import grammar
from arislab.tiny.candidates import compose
from arislab.tiny.decoder import MODEL_DIR

CARD = MODEL_DIR / "README.md"


def test_titles_name_their_source_and_licence():
    text = (Path(grammar.__file__).parent / "titles.tsv").read_text("utf-8")
    assert "O*NET" in text
    assert "CC BY 4.0" in text
    assert "CC BY 4.0" in CARD.read_text("utf-8")
    assert len(grammar.titles()) == 60
    assert all(len(title.split()) <= 3 for title in grammar.titles())


@pytest.fixture(scope="module")
def task():
    return tasks.load("candidate_evaluation")


def scores(task, row):
    return {n: float(f(**{c: row[c] for c in inspect.signature(f).parameters})) for n, f in task.scorers.items()}


def test_the_task_asks_in_the_words_of_the_grammar(task):
    rng = Random(0)
    for _ in range(200):
        profile = grammar.make_profile(rng)
        chat = task.to_messages({"profile": profile})
        assert chat == [
            {"role": "system", "content": grammar.SYSTEM[0]},
            {"role": "user", "content": grammar.prompt(profile)},
        ]


def test_every_scorer_gives_gold_one_and_sees_what_is_bad(task):
    assert len(task.gold) >= 3
    assert len(task.bad) >= 5
    for row in task.gold:
        assert scores(task, row) == dict.fromkeys(task.scorers, 1.0)
    for row in task.bad:
        assert scores(task, row)[row["breaks"]] < 1.0, row
    assert {row["breaks"] for row in task.bad} == set(task.scorers)


def test_scorers_and_corpus_agree_on_flawless_answers_and_see_every_habit(task):
    rng = Random(0)
    flawless = grammar.make_evaluator(rng, flawless=True)
    for _ in range(300):
        profile = grammar.make_profile(rng)
        by_scorer = scores(task, {"profile": profile, "output": grammar.evaluate(profile, flawless, rng)})
        assert by_scorer.pop("calibrated") > 0.6
        assert set(by_scorer.values()) == {1.0}, (profile, by_scorer)
    for habit in grammar.HABITS:
        hurt = 0
        for _ in range(60):
            evaluator = replace(grammar.make_evaluator(rng, flawless=True), habits=frozenset([habit]))
            profile = grammar.make_profile(rng)
            by_scorer = scores(task, {"profile": profile, "output": grammar.evaluate(profile, evaluator, rng)})
            hurt += sum(by_scorer.values()) < len(by_scorer) - 0.5
        assert hurt > 15, habit


@pytest.mark.parametrize("output", ["", "null", "[1]", "I would hire.", "{'score': 1}", '{"score": 0.5', "NaN"])
def test_an_answer_that_is_no_json_object_scores_nothing(task, output):
    assert set(scores(task, task.gold[0] | {"output": output}).values()) == {0.0}


@pytest.mark.parametrize(
    "output",
    [
        "{}",
        '{"score": NaN}',
        '{"score": true, "strengths": "x", "concerns": [1, null, {}], "summary": 3}',
        '{"strengths": [[]]}',
    ],
)
def test_odd_answers_are_scored_without_a_crash(task, output):
    by_scorer = scores(task, task.gold[0] | {"output": output})
    assert by_scorer["valid_json"] == 1.0
    assert all(0 <= value <= 1 for value in by_scorer.values())


def test_the_task_file_needs_only_the_standard_library(task):
    used = set(re.findall(r"^(?:import|from) (\w+)", task.source, re.MULTILINE))
    assert used <= sys.stdlib_module_names


def test_difficulty_is_a_fraction_that_varies(task):
    frame = compose(300, seed=0)
    rows = [tasks.candidate_of(row) for row in frame.iter_rows(named=True)]
    difficulties = [task.difficulty(row) for row in rows]
    assert 0 <= min(difficulties) < 0.2
    assert 0.8 < max(difficulties) <= 1
    assert task.category(rows[0]) == rows[0]["category"]
