import dataclasses
import json
import signal
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from toys import TASK, people

from arislab import curate, scoring
from arislab.errors import TaskError
from arislab.task import FAILED, load


def raw(outputs, **more):
    n = len(outputs)
    return pl.DataFrame(
        {
            "custom_id": [f"r{i}" for i in range(n)],
            "candidate_id": [f"c{i:04d}" for i in range(n)],
            "llm_output": outputs,
            **more,
        }
    )


@pytest.mark.parametrize("name", ["candidate_evaluation", "instruction_following"])
def test_gold_rows_of_every_shipped_task_score_1_and_bad_rows_less(name):
    task = load(name)
    checked = scoring.check(task)
    gold, bad = checked.filter(pl.col("kind") == "gold"), checked.filter(pl.col("kind") == "bad")
    assert gold["quality"].to_list() == [1.0] * len(task.gold)
    assert bad.height == len(task.bad) >= 3
    assert bad["quality"].max() < 1
    for scorer in task.scorers:
        n_below = checked.filter(pl.col(f"score_{scorer}") < 1).height
        assert n_below, f"no BAD row shows what {scorer} is for"


def test_quality_is_the_weighted_mean_of_what_could_be_told(task_file):
    task = load(task_file)
    frame = scoring.rows(raw(["CANDIDATE NUMBER 0", "candidate number 1", "HEY", None]), people(4))
    scored = scoring.score(frame, task)
    assert scored["quality"].to_list() == [1.0, 0.25, 0.75, None]
    assert scored["reason"].to_list() == [None, None, None, "no output"]
    assert scored["scorer_version"].unique().to_list() == [task.version]


def test_cannot_tell_is_null_and_never_0(tmp_path):
    path = tmp_path / "shy.py"
    path.write_text(TASK.replace("return output.isupper()", "return None"))
    profiles = people(2).with_columns(profile=pl.Series([json.dumps({"text": ""}), json.dumps({"text": "b"})]))
    scored = scoring.score(scoring.rows(raw(["a", "b"]), profiles), load(path))
    assert scored["score_loud"].to_list() == [None, None]
    assert scored["quality"].to_list() == [None, 1.0]
    assert scored["reason"].to_list() == ["no scorer could tell", None]


def test_no_row_is_lost_and_the_order_stays(task_file):
    outputs = ["A", None, "b", "", "C"] * 20
    scored = scoring.score(scoring.rows(raw(outputs), people(100)), load(task_file))
    assert scored["custom_id"].to_list() == [f"r{i}" for i in range(100)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("SCORERS = ", "SCORER = "), "has no SCORERS; add SCORERS"),
        (("WEIGHTS = ", "WEIGHT = "), "has no WEIGHTS"),
        (("def to_messages", "def messages"), "has no to_messages"),
        (('{"loud": 3, "same": 1}', '{"loud": 3}'), "'same' has no weight"),
        (('{"loud": 3, "same": 1}', '{"loud": 3, "same": 0}'), "must be a number > 0"),
        (('{"loud": 3, "same": 1}', '{"loud": 3, "same": 1, "lod": 1}'), "did you mean 'loud'"),
        (('SCORERS = {"loud": loud, "same": same}', "SCORERS = {}"), "at least one entry"),
    ],
)
def test_an_incomplete_task_file_is_one_clear_message(task_file, change, message):
    task_file.write_text(TASK.replace(*change))
    with pytest.raises(TaskError, match=message):
        load(task_file)


def test_an_unknown_task_names_the_closest(tmp_path):
    with pytest.raises(TaskError, match="did you mean 'candidate_evaluation'"):
        load("candidate_evalution")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 7", "returned 7 on row 'r0'; it must return 0..1"),
        ("return -0.1", "returned -0.1"),
        ("return float('nan')", "returned nan"),
        ("return 'good'", "returned 'good'"),
        ("return 1 / 0", "failed on row 'r0': ZeroDivisionError"),
        ("return {}['x']", "failed on row 'r0': KeyError"),
    ],
)
def test_a_scorer_that_misbehaves_is_named_with_the_row(task_file, body, message):
    task_file.write_text(TASK.replace("return output.isupper()", body))
    with pytest.raises(TaskError, match=message):
        scoring.score(scoring.rows(raw(["A"]), people(1)), load(task_file))


FAILS_ON_SOME = """
    if output.endswith("7"):
        return {"a": 1}[output[:3]]
    if output.endswith("13"):
        return 7
    return 1.0"""


def test_a_scorer_that_fails_on_some_rows_leaves_these_without_quality_and_says_why(task_file):
    task_file.write_text(TASK.replace("return output.isupper()", FAILS_ON_SOME.strip()))
    texts = [f"ROW {i}" for i in range(1000)]
    frame, task = scoring.rows(raw(texts), people(1000)), load(task_file)
    scored = scoring.score(frame, task, max_failures=0.2)
    failed = scored.filter(pl.col("reason").is_not_null())
    bad = [f"r{i}" for i in range(1000) if str(i).endswith(("7", "13"))]
    assert failed["custom_id"].to_list() == bad
    assert failed["quality"].null_count() == failed["score_loud"].null_count() == len(bad) == 110
    assert failed["score_same"].null_count() == 0, "what the other scorer said stays"
    assert scored["quality"].null_count() == 110, "no other row lost anything"
    reasons = dict(failed.select("custom_id", "reason").iter_rows())
    assert reasons["r7"].startswith(f"{FAILED}'loud': KeyError: 'ROW' (line ")
    assert 'return {"a": 1}[output[:3]]' in reasons["r7"]
    assert reasons["r13"] == f"{FAILED}'loud': returned 7, which is not in 0..1"
    everywhere = "scorers failed on 110 of 1,000 rows, most often: 100 times scorer 'loud' of .* failed on row 'r7'"
    with pytest.raises(TaskError, match=rf"{everywhere}.*; 10 times scorer 'loud' .* returned 7 on row 'r13'.*0\.1 of"):
        scoring.score(frame, task, max_failures=0.1)


def test_a_row_on_which_two_scorers_fail_names_both_and_one_without_output_none(task_file):
    broken = TASK.replace("return output.isupper()", "return 1 / 0")
    task_file.write_text(broken.replace("return None if not", "return {}['x'] if profile else None if not"))
    scored = scoring.score(scoring.rows(raw(["A", None]), people(2)), load(task_file), max_failures=1)
    both, none = scored["reason"]
    assert both.count("ZeroDivisionError") == both.count("KeyError") == 1
    assert none == "no output"


def test_a_scorer_that_does_not_end_costs_its_row_and_no_more(task_file):
    loop = """while output == 'B':
        try:
            pass
        except Exception:
            pass
    return 1.0"""
    task_file.write_text(TASK.replace("return output.isupper()", loop))
    frame = scoring.rows(raw(["A", "B", "C"]), people(3))
    scored = scoring.score(frame, load(task_file), max_failures=0.5, timeout_s=0.2)
    assert scored["score_loud"].to_list() == [1.0, None, 1.0]
    assert "it took more than 0.2 s for this row (scorer_timeout_s)" in scored["reason"][1]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_a_thread_scorers_have_no_clock_and_score_the_same(task_file):
    frame, task = scoring.rows(raw(["A", "b"]), people(2)), load(task_file)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scoring.score, frame, task).result().equals(scoring.score(frame, task))


def test_a_scorer_that_asks_for_an_unknown_column_is_told_the_closest(task_file):
    task_file.write_text(TASK.replace("def loud(output):", "def loud(outputt):").replace("output.isupper()", "True"))
    with pytest.raises(TaskError, match="did you mean 'output'"):
        scoring.score(scoring.rows(raw(["A"]), people(1)), load(task_file))


def test_gold_below_1_and_bad_at_1_are_refused(task_file):
    task_file.write_text(TASK.replace('"output": "HI"', '"output": "Hi"'))
    with pytest.raises(TaskError, match="gives 0 to GOLD row 0"):
        scoring.check(load(task_file))
    task_file.write_text(TASK.replace('"output": "ho"', '"output": "HI"'))
    with pytest.raises(TaskError, match="BAD row 0"):
        scoring.check(load(task_file))
    task_file.write_text(TASK.replace("GOLD = [", "_ = ["))
    with pytest.raises(TaskError, match="no GOLD rows"):
        scoring.check(load(task_file))


def test_others_are_the_other_answers_of_the_same_candidate(tmp_path):
    path = tmp_path / "agree.py"
    path.write_text(
        "def to_messages(candidate): return []\n"
        "def agree(output, others):\n    return sum(o == output for o in others) / len(others) if others else None\n"
        "SCORERS, WEIGHTS = {'agree': agree}, {'agree': 1}\n"
    )
    frame = raw(["7", "7", "8", "7"]).with_columns(candidate_id=pl.Series(["a", "a", "a", "b"]))
    assert scoring.score(frame.rename({"llm_output": "output"}), load(path))["quality"].to_list() == [
        0.5,
        0.5,
        0.0,
        None,
    ]


def test_kept_metadata_are_columns_that_scorers_may_ask_for(tmp_path):
    path = tmp_path / "truth.py"
    path.write_text(
        "def to_messages(candidate): return []\ndef right(output, gt):\n    return output == gt\nSCORERS, WEIGHTS = "
        "{'right': right}, {'right': 1}\n"
    )
    frame = scoring.rows(raw(["7", "8"], metadata=['{"gt": "7"}', '{"gt": "7"}']))
    assert scoring.score(frame, load(path))["quality"].to_list() == [1.0, 0.0]


def test_an_edited_task_file_counts_at_once(task_file):
    before = load(task_file).version
    task_file.write_text(TASK + "\n# edited\n")
    assert load(task_file).version != before


def test_a_scorer_that_can_never_tell_is_not_trusted(task_file):
    task_file.write_text(TASK.replace("return output.isupper()", "return None"))
    with pytest.raises(TaskError, match=r"'loud' of shout\.py cannot tell on any GOLD row"):
        scoring.check(load(task_file))


def test_a_task_decides_the_category(task_file):
    task_file.write_text(
        TASK + "\ndef category(candidate):\n    return 'long' if len(candidate['profile']['text']) > 18 else 'short'\n"
    )
    frame = scoring.rows(raw(["A"] * 12), people(12), task=load(task_file))
    assert frame["category"].to_list() == ["short"] * 10 + ["long"] * 2


def test_a_task_is_asked_only_for_the_category_of_candidates_that_have_rows(task_file):
    task_file.write_text(TASK + "\ndef category(candidate):\n    return candidate['profile']['text'][:9]\n")
    strangers = people(3).with_columns(candidate_id="s-" + pl.col("candidate_id"), profile=pl.lit('{"input": "7 + 5"}'))
    frame = scoring.rows(raw(["A", "B"]), pl.concat([strangers, people(4)]), task=load(task_file))
    assert frame["category"].to_list() == ["candidate"] * 2
    with pytest.raises(TaskError, match=r"category of shout.py failed on candidate 's-c0001': KeyError: 'text'"):
        scoring.rows(raw(["A"]).with_columns(candidate_id=pl.lit("s-c0001")), strangers, task=load(task_file))


def test_a_task_file_that_cannot_be_run_is_one_clear_message(task_file):
    for text, what in (("def broken(:", "SyntaxError"), ("import nothing_of_that_name", "ModuleNotFoundError")):
        task_file.write_text(text)
        with pytest.raises(TaskError, match=f"cannot be run: {what}"):
            load(task_file)


def test_gold_rows_bring_the_other_answers_they_are_judged_with(tmp_path):
    path = tmp_path / "agree.py"
    path.write_text(
        "def to_messages(candidate): return []\n"
        "def agree(output, others):\n    return sum(o == output for o in others) / len(others) if others else None\n"
        "SCORERS, WEIGHTS = {'agree': agree}, {'agree': 1}\n"
        "GOLD, BAD = [{'output': '7', 'others': ['7', '7']}], [{'output': '7', 'others': ['7', '8']}]\n"
    )
    assert scoring.check(load(path))["quality"].to_list() == [1.0, 0.5]


def test_what_was_kept_at_import_reaches_the_scorer_as_it_was(task_file):
    seen = []
    spec = dataclasses.replace(
        load(task_file),
        weights={"seen": 1.0},
        scorers={
            "seen": lambda title, status, model, score, tags: seen.append((title, status, model, score, tags)) or True
        },
    )
    raw = pl.DataFrame(
        {
            "custom_id": ["a", "b", "c"],
            "candidate_id": ["p", "q", "q"],
            "llm_output": ["x", "y", "z"],
            "status": ["ok"] * 3,
            "model": ["m"] * 3,
            "metadata": [
                '{"title":"Dr","status":"gold","model":null,"score":9007199254740993,"tags":["u",1.50]}',
                '{"title":7,"score":0.5,"tags":{"k":true},"output":"other"}',
                None,
            ],
        }
    )
    people = pl.DataFrame(
        {"candidate_id": ["p", "q"], "profile": ["{}", "{}"], "title": ["Cook", "Pilot"], "category": [None, "c"]}
    )
    rows = scoring.rows(raw, people, task=spec)
    scoring.score(rows, spec)
    assert seen == [
        ("Dr", "gold", None, 2**53 + 1, ["u", 1.5]),
        (7, "ok", "m", 0.5, {"k": True}),
        ("Pilot", "ok", "m", None, None),
    ]
    assert rows["output"].to_list() == ["x", "y", "z"]
    assert rows["title"].to_list() == ["Dr", "7", "Pilot"]  # as text, for quotas and plots
    assert rows["tags"].to_list() == ['["u",1.50]', '{"k":true}', None]


def test_names_that_scorers_know_otherwise_are_reserved(task_file):
    task = dataclasses.replace(load(task_file), category=None, difficulty=None)
    assert {"output", "input", "profile", "others", "custom_id", "candidate_id", "split"} <= scoring.reserved(task)
    assert {"tools", "tool_calls"} <= scoring.reserved(task)  # what the model was given and did, not what a file says
    assert not {"category", "title", "status", "model"} & scoring.reserved(task)
    assert "category" in scoring.reserved(dataclasses.replace(task, category=lambda candidate: "x"))


def test_scorers_see_the_calls_of_a_row_and_not_a_kept_column_of_that_name(task_file):
    seen = []
    task = dataclasses.replace(
        load(task_file), weights={"seen": 1.0}, scorers={"seen": lambda tool_calls: seen.append(tool_calls) or True}
    )
    calls = [{"type": "function", "function": {"name": "map", "arguments": "{}"}}]
    rows = raw(["A"], tool_calls=[json.dumps(calls)], metadata=['{"tool_calls":"two"}'])
    scoring.score(scoring.rows(rows, people(1), task=task), task)
    assert seen == [calls]


def test_what_was_kept_at_import_is_a_fact_of_the_example(task_file):
    task = dataclasses.replace(load(task_file), category=None, difficulty=None)
    kept = scoring.rows(
        raw(["A"], metadata=['{"title":"Dr","difficulty":3,"use_case":"tech"}'], messages=[None], task=["t"]), people(1)
    )
    example = curate.examples(kept.with_columns(quality=1.0), people(1).with_columns(split=pl.lit("train")), task)
    facts = json.loads(example["metadata"][0])
    assert (facts["title"], facts["difficulty"], facts["use_case"]) == ("Dr", 3, "tech")


def test_the_input_of_an_example_is_the_text_of_its_parts(task_file):
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Who is this?"}, {"type": "image_url", "image_url": {"url": "u"}}],
        }
    ]
    kept = scoring.rows(raw(["A", "B"], messages=[json.dumps(parts), None], task=["t"] * 2), people(2))
    examples = curate.examples(
        kept.with_columns(quality=1.0), people(2).with_columns(split=pl.lit("train")), load(task_file)
    )
    assert examples["input"][0] == "Who is this?"
    assert json.loads(examples["messages"][0]) == parts


GOLDEN = """
def to_messages(candidate): return [{"role": "user", "content": "q"}]
def right(output, gold): return output == gold
def known(gold=None): return gold is not None
SCORERS, WEIGHTS = {"right": right, "known": known}, {"right": 3, "known": 1}
GOLD = [{"gold": "A", "output": "A"}]
"""


def written(tmp_path, text):
    path = tmp_path / "golden.py"
    path.write_text(text)
    return load(path)


def test_a_scorer_that_needs_gold_works_where_gold_is_and_says_nothing_elsewhere(tmp_path):
    task = written(tmp_path, GOLDEN)
    scoring.check(task)
    profiles = ['{"gold": "A"}', '{"gold": "B"}', '{"text": "gold"}', '{"gold": null}', '{"gold": "A"}']
    who = people(5).with_columns(profile=pl.Series(profiles))
    kept = [None, None, None, None, '{"gold": "C"}']
    frame = scoring.rows(raw(["A", "A", "A", "A", "C"], metadata=kept), who)
    scored = scoring.score(frame, task)
    assert scored["score_right"].to_list() == [1.0, 0.0, None, None, 1.0], "what came with the answer goes first"
    assert scored["score_known"].to_list() == [1.0, 1.0, 0.0, 0.0, 1.0], "it can do without, and is asked"
    assert scored["quality"].to_list() == [1.0, 0.25, 0.0, 0.0, 1.0]
    nobody = scoring.score(scoring.rows(raw(["A"])), task)
    assert nobody["score_right"].to_list() == [None], "without candidates there is no gold, and no error"


def test_gold_may_be_a_list_in_the_profile_and_at_import(tmp_path):
    text = GOLDEN.replace("output == gold", "gold == ['A', 'B']").replace('{"gold": "A",', '{"gold": ["A", "B"],')
    task = written(tmp_path, text)
    who = people(2).with_columns(profile=pl.Series(['{"gold": ["A", "B"]}', "{}"]))
    frame = scoring.rows(raw(["x", "x"], metadata=[None, '{"gold": ["A", "B"]}']), who)
    assert scoring.score(frame, task)["score_right"].to_list() == [1.0, 1.0]


def test_report_scorers_judge_apart_and_are_no_part_of_quality(tmp_path):
    text = GOLDEN + (
        "def brief(output): return len(output) < 3 if output else None\nREPORT = {'brief': brief, 'judge': 'judged'}\n"
    )
    task = written(tmp_path, text)
    frame = scoring.rows(raw(["A", "ABC", "", None]), people(4)).with_columns(judged=pl.Series([0.5, None, None, 1.0]))
    report = scoring.report(frame, task)
    assert report.columns == ["custom_id", "report_brief", "report_judge", "report"]
    assert report["report"].to_list() == [0.75, 0.0, None, 1.0]
    assert scoring.report(frame.drop("judged"), task)["report_judge"].null_count() == 4
    assert not [name for name in scoring.score(frame, task).columns if "brief" in name or "report" in name]
    with pytest.raises(
        TaskError, match=r"REPORT\['judge'\] of golden.py is the column 'judged', which holds 5.0 on row"
    ):
        scoring.report(frame.with_columns(judged=5.0), task)


def test_without_report_scorers_the_report_is_the_quality(task_file):
    frame = scoring.rows(raw(["CANDIDATE NUMBER 0", "x"]), people(2))
    scored = scoring.score(frame, load(task_file))
    assert scoring.report(frame, load(task_file))["report"].to_list() == scored["quality"].to_list()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("7", "REPORT must be a dict of name: function, or of name: column with a stored score, got 7"),
        ("{'a b': right}", r"REPORT\['a b'\] is <function"),
        ("{'a': 3}", r"REPORT\['a'\] is 3; it must be a function under an identifier"),
        ("{'a': 'no column'}", r"REPORT\['a'\] is 'no column'"),
    ],
)
def test_a_report_that_is_none_is_refused(tmp_path, report, message):
    with pytest.raises(TaskError, match=message):
        written(tmp_path, f"{GOLDEN}\nREPORT = {report}\n")
