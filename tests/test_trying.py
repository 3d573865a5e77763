"""A mistake in any function of a task file is one message of the first cell."""

import json

import polars as pl
import pytest

from arislab import scoring
from arislab.errors import TaskError
from arislab.task import load
from arislab.trying import tried

TASK = """
def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["question"]}]


def difficulty(candidate):
    return candidate["profile"]["level"] / 10


def category(candidate):
    return candidate["profile"]["subject"]


def short(output, profile):
    return len(output) < 9 * profile["level"]


def right(output, truth=None):
    return None if truth is None else output == truth


def kind(output):
    return 1.0


SCHEMA = {"type": "object", "required": ["answer"]}
SCORERS, WEIGHTS = {"short": short, "right": right}, {"short": 1, "right": 1}
REPORT = {"kind": kind}
"""
PROFILE = {"question": "Why is it dark?", "level": 3, "subject": "sky"}


@pytest.fixture
def task_of(tmp_path):
    def written(old="", new=""):
        assert old in TASK
        path = tmp_path / "sky.py"
        path.write_text(TASK.replace(old, new) if old else TASK)
        return load(path)

    return written


def people(lake, n=6, *, split="train", prefix="c", profile=PROFILE):
    frame = pl.DataFrame({"candidate_id": [f"{prefix}{i}" for i in range(n)]})
    frame = frame.with_columns(group_id="candidate_id", profile=pl.lit(json.dumps(profile)), split=pl.lit(split))
    lake["candidates"].upsert(frame)


def answers(lake, n=6, *, prefix="c", outputs=None, **more):
    frame = pl.DataFrame(
        {
            "custom_id": [f"{prefix}r{i}" for i in range(n)],
            "candidate_id": [f"{prefix}{i}" for i in range(n)],
            "llm_output": outputs or ['{"answer": 1}'] * n,
        }
    )
    given = {"task": "sky", "status": "ok", "model": "m"} | more
    lake["training_data_raw"].upsert(frame.with_columns(**{name: pl.lit(value) for name, value in given.items()}))


def test_a_task_whose_functions_work_is_returned_as_it_is(lake, task_of):
    task = task_of()
    assert tried(task, lake) is task  # nothing is there to try it on
    people(lake)
    assert tried(task, lake) is task
    answers(lake)
    assert tried(task, lake) is task


@pytest.mark.parametrize("has_answers", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('["question"]', '["questoin"]'),
            r"to_messages of sky\.py failed on candidate 'c0': KeyError: 'questoin' \(line 3: .*\), did you mean "
            r"'question'\?.*; it was given profile=\{'question': 'Why is it dark\?'",
        ),
        (('["level"] / 10', '["leve"] / 10'), r"difficulty of sky\.py failed on candidate 'c0': KeyError.*'level'"),
        (('["subject"]', '["subjct"]'), r"category of sky\.py failed on candidate 'c0': KeyError: .*'subject'"),
        (("return [{", "return {} and [{"), r"to_messages of sky\.py failed on candidate 'c0': .*it returned \{\}"),
        (('"type": "object"', '"type": "objekt"'), r"sky\.py: the task's SCHEMA is no JSON schema: .*'objekt'"),
        (('["answer"]', "{1, 2}"), r"SCHEMA of sky\.py is no JSON schema: .*set"),
        (('{"type": "object", "required": ["answer"]}', "7"), r"SCHEMA of sky\.py is no JSON schema"),
    ],
)
def test_a_wrong_key_names_file_function_candidate_what_it_holds_and_the_nearest_key(
    lake, task_of, has_answers, change, message
):
    people(lake)
    if has_answers:
        answers(lake)
    with pytest.raises(TaskError, match=message):
        tried(task_of(*change), lake)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('profile["level"]', 'profile["levle"]'),
            r"scorer 'short' of sky\.py failed on row 'cr0': KeyError: 'levle' .*'level'.* each of the 5 rows",
        ),
        (("return 1.0", "return 3"), r"scorer 'kind' of sky\.py returned 3 on row 'cr0'; it must return 0\.\.1"),
        (("def kind(output)", "def kind(outptu)"), r"scorer 'kind' of sky\.py asks for the column 'outptu'.*'output'"),
        (
            ("return 1.0", "import os; os._exit(1)"),
            r"scorer 'kind' of sky\.py failed on row 'cr0': it ended",
        ),
    ],
)
def test_a_scorer_that_fails_on_all_of_a_handful_of_rows_is_named(lake, task_of, change, message):
    people(lake)
    answers(lake)
    with pytest.raises(TaskError, match=message):
        tried(task_of(*change), lake)


def test_a_scorer_may_fail_on_a_row_and_give_gold_nothing(lake, task_of):
    people(lake)
    answers(lake, outputs=['{"answer": 1}', "broken", *['{"answer": 2}'] * 4])
    tried(task_of("return 1.0", "import json; return 0.0 if json.loads(output) else None"), lake)


def test_a_column_that_was_kept_with_other_rows_is_no_mistake(lake, task_of):
    people(lake)
    answers(lake)
    needs_truth = ("truth=None", "truth")
    with pytest.raises(TaskError, match=r"scorer 'right' of sky\.py asks for the column 'truth'"):
        tried(task_of(*needs_truth), lake)
    people(lake, 300, prefix="a")
    answers(lake, 300, prefix="a")
    people(lake, 1, prefix="z")
    answers(lake, 1, prefix="z", metadata='{"truth": "x"}')
    tried(task_of(*needs_truth), lake)


def test_only_the_train_split_is_tried(lake, task_of):
    people(lake)
    for split in ("validation", "test"):
        people(lake, split=split, prefix=split, profile={"question": "hidden"})
        answers(lake, prefix=split)
    tried(task_of(), lake)
    answers(lake)
    tried(task_of(), lake)


def test_to_messages_is_not_asked_of_recorded_chats_where_no_model_is_asked(lake, task_of):
    people(lake, profile={"level": 3, "subject": "sky", "input": "Why?"})
    answers(lake, messages='[{"role": "user", "content": "Why?"}]')
    tried(task_of(), lake, asks=False)
    with pytest.raises(TaskError, match=r"to_messages of sky\.py failed on candidate 'c0': KeyError: 'question'"):
        tried(task_of(), lake)
    answers(lake, 1)  # without messages, to_messages has to write its example
    with pytest.raises(TaskError, match=r"to_messages of sky\.py failed on candidate 'c0': KeyError: 'question'"):
        tried(task_of(), lake, asks=False)


def test_it_is_tried_on_rows_of_the_train_split_though_others_were_written_since(lake, task_of):
    people(lake)
    answers(lake)
    people(lake, 300, split="validation", prefix="a", profile={"question": "hidden"})
    answers(lake, 300, prefix="a")
    with pytest.raises(TaskError, match=r"scorer 'short' of sky\.py failed on row 'cr0': KeyError: 'levle'"):
        tried(task_of('profile["level"]', 'profile["levle"]'), lake)


def test_candidates_of_another_task_are_not_tried_where_the_task_has_rows(lake, task_of):
    people(lake, prefix="a", profile={"text": "of another task"})
    people(lake)
    answers(lake)
    tried(task_of(), lake)


def test_nothing_is_judged(lake, task_of, monkeypatch):
    people(lake)
    answers(lake)
    monkeypatch.setattr(scoring, "check", None)
    tried(task_of("return 1.0", "return 0.0"), lake)


def test_scorers_are_given_the_other_answers_and_repaired_ones_as_they_will_be(lake, task_of):
    people(lake)
    answers(lake, outputs=['```json\n{"answer": 1}\n```'] * 6)
    more = lake["training_data_raw"].read().drop("run_id", "created_at")
    lake["training_data_raw"].upsert(more.with_columns(custom_id=pl.lit("again ") + pl.col("custom_id")))
    agrees = task_of(
        "def right(output, truth=None):", "def right(output, others):\n    return 1 / len(others)\n\n\ndef _(output):"
    )
    assert tried(agrees, lake, asks=False) is agrees
    reads = task_of("    return len(output)", "    import json\n    json.loads(output)\n    return len(output)")
    with pytest.raises(TaskError, match="short"):
        tried(reads, lake, asks=False)
    assert tried(reads, lake, asks=False, repair=True) is reads
