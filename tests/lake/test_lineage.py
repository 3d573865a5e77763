"""The life of a row is told from the lake alone, and says no more than the lake knows."""

import json
import sys

import polars as pl
import pytest
from toys import people, reviews

from arislab.__main__ import main
from arislab.errors import PrerequisiteError
from arislab.lake import lineage
from arislab.review import decisions

SETTINGS = {"base_model": "m", "method": "lora", "adapter_sha256": "0", "approve_policy": "score"}


def raw(i, **more):
    row = {"custom_id": f"r-{i:04d}", "candidate_id": f"c{i:04d}", "task": "shout_it", "sample": 0, "status": "ok"}
    asked = {"input": f"say {i}", "llm_output": f"SAY {i}", "messages": json.dumps(turns(f"say {i}"))}
    return row | asked | more


def turns(*texts):
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def example(i, **more):
    stand = {"quality_score": 0.9, "needs_review": True, "approved": False, "split": "train", "metadata": "{}"}
    named = {"id": f"r-{i:04d}", "custom_id": f"r-{i:04d}", "candidate_id": f"c{i:04d}", "task": "shout_it"}
    return named | {"input": f"say {i}", "output": f"SAY {i}", "messages": "[]"} | stand | more


def training(adapter, version, **more):
    data = {"training_examples": 2, "data_version": f"training_data_curated@{version}", "model_path": adapter}
    return {"id": adapter, "name": "shout-it", "arm": "curated"} | SETTINGS | data | more


def answer(arm, candidate, **more):
    row = {"evaluation_id": "eval-1", "arm": arm, "candidate_id": candidate, "task": "shout_it", "status": "ok"}
    return row | {"custom_id": f"e-{arm}-{candidate}", "model": "m", "quality": 0.5} | more


@pytest.fixture
def lived(lake):
    """Rows 0, 1 and 2 were curated, 0 was shown, version 1 dropped row 2.

    One adapter a version, and a control, which row 3 went into.

    The older adapter held row 1 out for its loss, the newer left row 1 out as too long.
    """
    lake["candidates"].append(people(4))
    generate = {"task": "shout_it", "total_candidates": 4, "model": "m", "status": "complete", "params": "{}"}
    lake["training_runs"].append(pl.DataFrame([generate]), run_id="g")
    lake["training_data_raw"].append(pl.DataFrame([raw(i) for i in range(4)]), run_id="g")
    scored = [{"custom_id": f"r-{i:04d}", "candidate_id": f"c{i:04d}", "quality": i / 4} for i in range(4)]
    marks = {"scorer_version": pl.lit("abc"), "task": pl.lit("shout_it"), "score_loud": pl.lit(1.0)}
    lake["training_data_scored"].append(pl.DataFrame(scored).with_columns(**marks), run_id="c")
    lake["training_data_curated"].append(pl.DataFrame([example(i) for i in range(3)]), run_id="c")
    lake["training_data_curated"].replace(pl.DataFrame([example(0), example(1)]), where="true", run_id="d")
    chosen = {"id": "set-1", "search_id": "s", "task": "shout_it", "example_ids": ["r-0001", "r-0000"], "k": 2}
    policy = {"use_case": "general", "approve_policy": "score", "data_version": "training_data_curated@1"}
    lake["icl_examples"].append(pl.DataFrame([chosen | policy]), run_id="i")
    trial = {"trial_id": "t", "search_id": "s", "example_ids": ["r-0000"], "score": 0.7, "n_validation": 9}
    lake["icl_trials"].append(pl.DataFrame([trial]), run_id="i")
    control = training("control", 0, arm="control")
    lake["finetuning_runs"].append(pl.DataFrame([training("old", 0), training("new", 1), control]), run_id="f")
    roles = [("old", "curated", 0, "trained"), ("old", "curated", 1, "held out"), ("old", "curated", 2, "trained")]
    roles += [("new", "curated", 0, "trained"), ("new", "curated", 1, "too_long"), ("control", "control", 3, "trained")]
    given = [{"model_path": m, "arm": arm, "id": f"r-{i:04d}", "role": role} for m, arm, i, role in roles]
    lake["training_rows"].append(pl.DataFrame(given), run_id="f")
    states = [{"name": "shout-it", "version": v, "alias": a} for v, a in (("old", "candidate"), ("control", "control"))]
    lake["models"].append(pl.DataFrame(states), run_id="f")
    tests = [answer(arm, c) for arm in ("baseline", "icl") for c in ("x", "y")]
    tests += [answer("finetuned", c, model="new", quality=1.0) for c in ("x", "y")]
    tests += [answer("control", c, model="control") for c in ("x", "y")]
    lake["evaluations"].append(pl.DataFrame(tests), run_id="e")
    shown = json.dumps(turns("say 1", "SAY 1", "say 0", "SAY 0", "say x"))
    asked = [raw(0, custom_id=t["custom_id"], candidate_id=t["candidate_id"], llm_output="!") for t in tests]
    asked = [row | ({"messages": shown} if "icl" in row["custom_id"] else {}) for row in asked]
    lake["training_data_raw"].append(pl.DataFrame(asked), run_id="e")
    return lake


def heights(life):
    return {table: rows.height for table, rows in life.items()}


def test_the_tables_come_in_the_order_of_life(lived):
    assert list(heights(lived.lineage("r-0000")).items()) == [
        ("candidates", 1),
        ("training_runs", 1),
        ("training_data_raw", 1),
        ("training_data_scored", 1),
        ("training_data_curated", 2),
        ("icl_trials", 1),
        ("icl_examples", 1),
        ("finetuning_runs", 2),
        ("model_events", 1),
        ("evaluations", 4),
    ]


def test_an_adapter_is_linked_to_what_it_was_given_and_its_answers_only_to_what_it_learned_from(lived):
    dropped = lived.lineage("r-0002")
    assert dropped["finetuning_runs"].select("id", "role").rows() == [("old", "trained")]
    assert dropped["training_data_curated"]["version"].to_list() == [0]
    assert "evaluations" not in dropped, "only the newer adapter, which never saw the row, was tested"
    unlearned = lived.lineage("r-0001")
    assert unlearned["finetuning_runs"].select("id", "role").sort("id").rows() == [
        ("new", "too_long"),
        ("old", "held out"),
    ]
    assert unlearned["evaluations"]["arm"].unique().to_list() == ["icl"]
    text = lineage.as_text(unlearned)
    assert "old (candidate)\n  held out for its loss; arm curated, training_data_curated@0" in text.replace(
        "\n    ", "\n  "
    )
    assert "left out of its training: too_long; arm curated" in text


def test_a_control_adapter_is_linked_to_the_random_outputs_that_it_learned_from(lived):
    life = lived.lineage("r-0003")
    assert life["finetuning_runs"].select("id", "role").rows() == [("control", "trained")]
    assert life["evaluations"]["arm"].unique().to_list() == ["control"]
    assert "one of the 2 examples that it learned from; arm control\n" in lineage.as_text(life)
    assert "control" not in lived.lineage("r-0000")["evaluations"]["arm"].to_list()


def test_a_row_that_no_training_was_given_says_so(lake):
    lake["training_data_raw"].append(pl.DataFrame([raw(1)]))
    assert "no adapter learned from it" in lineage.as_text(lake.lineage("r-0001"))


def test_an_arm_is_linked_only_if_its_prompt_showed_the_row(lived):
    arms = lived.lineage("r-0000")["evaluations"]["arm"].unique().sort().to_list()
    assert arms == ["finetuned", "icl"]
    shorter = json.dumps(turns("say 1", "SAY 1", "say x"))
    lived["training_data_raw"].upsert(
        pl.DataFrame([raw(0, custom_id=f"e-icl-{c}", candidate_id=c, messages=shorter) for c in ("x", "y")])
    )
    assert lived.lineage("r-0000")["evaluations"]["arm"].unique().to_list() == ["finetuned"]


@pytest.mark.parametrize(
    "more",
    [
        {"content": None, "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]},
        {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]},
        {"content": [{"type": "text", "text": "SAY 1"}]},
    ],
)
def test_prompts_with_calls_and_parts_are_looked_through_too(lived, more):
    prompt = [*turns("say 1"), {"role": "assistant"} | more, {"name": "no role"}, *turns("say 0", "SAY 0", "say x")]
    rows = [raw(0, custom_id=f"e-icl-{c}", candidate_id=c, messages=json.dumps(prompt)) for c in ("x", "y")]
    lived["training_data_raw"].upsert(pl.DataFrame(rows))
    assert lived.lineage("r-0000")["evaluations"]["arm"].unique().sort().to_list() == ["finetuned", "icl"]
    assert "evaluations" not in lived.lineage("r-0001")


def test_decisions_are_told_in_their_order_and_those_about_another_text_as_such(lived):
    now = example(0)
    seen = decisions.event(now | {"output": "SAY NOTHING"}, "reject", reviewer="Ada")
    later = decisions.event(now, "approve", reviewer="Grace", seen=seen)
    earlier = later["decided_at"].dt.offset_by("-2d")  # a clock that was set back
    lived["reviews"].append(pl.concat([later.with_columns(decided_at=earlier), seen]))
    decided = [
        line.strip()[17:]
        for line in lineage.as_text(lived.lineage("r-0000")).splitlines()
        if "Ada" in line or "Grace" in line
    ]
    assert decided == ["Ada: reject (of another text)", "Grace: approve"]


def test_a_test_answer_says_what_it_is(lived):
    life = lived.lineage("e-icl-x")
    assert heights(life) == {"training_data_raw": 1, "evaluations": 1}
    assert "it is itself the answer of icl in eval-1" in lineage.as_text(life)


def test_a_row_is_found_by_the_start_of_its_name_or_by_its_candidate(lived):
    assert lineage.find(lived, "r-0003") == lineage.find(lived, "c0003") == "r-0003"
    assert lineage.find(lived, "e-finetuned-y") == "e-finetuned-y"
    with pytest.raises(PrerequisiteError, match="4 rows match 'r-', such as r-0000 and r-0001; give more"):
        lineage.find(lived, "r-")
    with pytest.raises(PrerequisiteError, match='no row of training_data_raw matches "r\'9"'):
        lineage.find(lived, "r'9")


def test_a_name_that_starts_another_is_still_found(lake):
    lake["training_data_raw"].append(pl.DataFrame([raw(1), raw(1, custom_id="r-00010")]))
    assert lineage.find(lake, "r-0001") == "r-0001"


def test_an_empty_lake_says_so(lake):
    with pytest.raises(PrerequisiteError, match="no row of training_data_raw"):
        lake.lineage("r-1")


def test_the_text_names_each_step_and_the_run_that_made_it(lived):
    blocks = lineage.as_text(lived.lineage("r-0000")).split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "r-0000: sample 0 about c0000, task shout_it",
        "candidate · interactive",
        "request · g",
        "output · g",
        "scores · c",
        "reviews",
        "curated set · c · d",
        "in-context sets · i",
        "adapters · f",
        "test answers · e",
    ]
    text = "\n".join(blocks)
    assert "chosen, as number 2 of 2: set-1" in text
    assert "one of the 2 examples that it learned from; arm curated, training_data_curated@1\n" in text
    assert "eval-1 icl: n=2, mean quality 0.500 over 2 scored, m" in text


def test_the_command_prints_text_or_every_row(lived, monkeypatch, capsys):
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["arislab", "lineage", "r-0000", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    text, _, printed = capsys.readouterr().out.partition("{\n")
    assert text.startswith("r-0000: sample 0")
    assert len(json.loads("{" + printed)["evaluations"]) == 4


def test_lineage_follows_a_row_through_the_tables(lake):
    raw = {"custom_id": "r-1", "candidate_id": "c0000", "task": "t", "sample": 0, "status": "ok", "llm_output": "x"}
    lake["candidates"].append(people(2))
    lake["training_data_raw"].append(pl.DataFrame([raw]))
    lake["reviews"].append(reviews(["r-1"]))
    assert {name: frame.height for name, frame in lake.lineage("r-1").items()} == {
        "training_data_raw": 1,
        "reviews": 1,
        "candidates": 1,
    }


def test_the_life_of_a_row_says_that_people_disagree_about_it(lived):
    row = lived["training_data_curated"].read(where={"id": "r-0000"}).row(0, named=True)
    lived["reviews"].append(decisions.event(row, "approve", reviewer="Ada"))
    assert "disputed" not in lineage.as_text(lived.lineage("r-0000"))
    lived["reviews"].append(decisions.event(row, "reject", reviewer="Grace"))
    assert "disputed: it trains nobody until somebody adjudicates" in lineage.as_text(lived.lineage("r-0000"))
