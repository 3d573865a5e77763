"""``arislab export --icl``: the chosen examples as messages for any client."""

import hashlib
import json
import sys

import polars as pl
import pytest

from arislab import batch, evaluate, icl
from arislab.__main__ import main
from arislab.errors import PrerequisiteError
from arislab.icl import prompt
from arislab.review import decisions
from arislab.task import load
from arislab.tiny.candidates import compose

IDS = ["e2", "e0", "e1"]
FORM = {"temperature": 0.9, "max_tokens": 40}


@pytest.fixture
def chosen(lake):
    """A lake with three examples, chosen for general and for tech."""
    lake["candidates"].append(compose(60, seed=3))
    spec = load("candidate_evaluation")
    authors = evaluate.texts(lake["candidates"].read(where="split = 'train'").head(3), spec.to_messages)
    rows = [
        {
            "id": f"e{i}", "candidate_id": row["candidate_id"], "custom_id": f"e{i}", "task": spec.name,
            "input": row["text"], "output": f'{{"score": 0.{i}}}', "quality_score": 0.9, "needs_review": True,
            "approved": False, "split": "train",
        }
        for i, row in enumerate(authors.to_dicts())
    ]  # fmt: skip
    lake["training_data_curated"].append(pl.DataFrame(rows))
    sets = [
        {
            "id": f"s-{name}", "search_id": "s", "task": spec.name, "example_ids": ids, "k": len(ids),
            "validation_score": 0.8, "ci_low": 0.7, "ci_high": 0.9, "n_validation": 300, "n_holdout_uses": 1,
            "verdict": "improves", "use_case": name,
            "use_case_column": "use_case", "approve_policy": "score", "model": "m", "scorer_version": spec.version,
            "params": json.dumps({**FORM, "seed": 1}), "data_version": "training_data_curated@0",
        }
        for name, ids in (("general", IDS), ("tech", IDS[:2]))
    ]  # fmt: skip
    lake["icl_examples"].append(pl.DataFrame(sets))
    return lake


def exported(capsys, monkeypatch, *more):
    monkeypatch.setattr(sys, "argv", ["arislab", "export", "--icl", *more])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_an_example_that_was_rejected_since_is_named_and_an_edit_by_then_is_shown(chosen, capsys, monkeypatch):
    rows = {row["id"]: row for row in chosen["training_data_curated"].read().to_dicts()}
    mended = '{"score": 0.5}'
    chosen["reviews"].append(decisions.event(rows[IDS[1]], "edit", reviewer="Ada", edited_output=mended))
    row = chosen["icl_examples"].read(where={"use_case": "general"}).drop("run_id", "created_at")
    chosen["icl_examples"].upsert(row.with_columns(data_version=pl.lit("training_data_curated@0 reviews@0")))
    code, out, err = exported(capsys, monkeypatch)
    assert (code, err) == (0, "")
    answers = [m["content"] for m in json.loads(out)["messages"] if m["role"] == "assistant"]
    assert answers == [mended if i == IDS[1] else rows[i]["output"] for i in IDS]
    chosen["reviews"].append(decisions.event(rows[IDS[0]], "reject", reviewer="Ada"))
    code, out, err = exported(capsys, monkeypatch)
    assert (code, f"1 of 3 examples may not be used any more by the decisions of today (first: {IDS[0]!r})" in err) == (
        0,
        True,
    )
    assert [m["content"] for m in json.loads(out)["messages"] if m["role"] == "assistant"] == answers, (
        "the set as it was chosen"
    )


def test_the_message_list_holds_the_chosen_examples_in_order_and_says_where_it_comes_from(chosen, capsys, monkeypatch):
    code, out, err = exported(capsys, monkeypatch)
    assert (code, err) == (0, "")
    body = json.loads(out)
    spec = load("candidate_evaluation")
    texts = {row["id"]: row for row in chosen["training_data_curated"].read().to_dicts()}
    turns = [(m["role"], m["content"]) for m in body["messages"]]
    assert turns[0] == ("system", spec.SYSTEM)
    assert turns[1:-1] == [t for i in IDS for t in (("user", texts[i]["input"]), ("assistant", texts[i]["output"]))]
    assert turns[-1] == ("user", "{{question}}")
    assert (body["model"], body["parameters"]) == ("m", FORM)
    provenance = body["provenance"]
    assert (provenance["example_ids"], provenance["k"], provenance["use_case"], provenance["seed"]) == (
        IDS,
        3,
        "general",
        1,
    )
    assert provenance["validation_score"] == {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 300, "n_holdout_uses": 1}
    assert (provenance["task"], provenance["scorer_version"], provenance["task_now"]) == (
        spec.name,
        spec.version,
        spec.version,
    )
    assert provenance["run_id"] == "interactive"
    compact = json.dumps(body["messages"], sort_keys=True, separators=(",", ":"))
    assert provenance["sha256"] == hashlib.sha256(compact.encode()).hexdigest()


def test_a_set_for_a_model_without_a_system_role_is_exported_as_it_was_asked(chosen, capsys, monkeypatch):
    row = chosen["icl_examples"].read(where={"use_case": "general"}).drop("run_id", "created_at")
    params = json.dumps({**FORM, "seed": 1, "system_role": "user", "chat_template_kwargs": {"enable_thinking": False}})
    chosen["icl_examples"].upsert(row.with_columns(params=pl.lit(params)))
    body = json.loads(exported(capsys, monkeypatch)[1])
    assert body["parameters"] == FORM | {"chat_template_kwargs": {"enable_thinking": False}}
    assert [m["role"] for m in body["messages"]] == ["user", "assistant"] * 3 + ["user"]
    assert body["messages"][0]["content"].startswith(load("candidate_evaluation").SYSTEM + "\n\n")


def test_each_use_case_has_its_set_and_a_file_can_be_written(chosen, capsys, monkeypatch, tmp_path):
    path = tmp_path / "icl.json"
    code, out, _ = exported(capsys, monkeypatch, "--use-case", "tech", "--out", str(path))
    assert code == 0
    assert out == f"2 examples of s-tech for tech, as 6 messages, in {path}\n"
    assert json.loads(path.read_text())["provenance"]["example_ids"] == IDS[:2]


@pytest.mark.slow
def test_exported_messages_are_the_requests_of_phase_5_at_the_embedded_server(chosen, capsys, monkeypatch):
    """Phase 5 asks its arm; a client that fills the exported list has the same requests, so nothing is left to ask."""
    spec, lake = load("candidate_evaluation"), chosen
    with batch.connect("embedded", folder=lake.batches) as server:
        name = server.model()
        lake["icl_examples"].upsert(
            lake["icl_examples"].read(where="use_case = 'general'").with_columns(model=pl.lit(name))
        )
        texts = {row["id"]: (row["input"], row["output"]) for row in lake["training_data_curated"].read().to_dicts()}
        shown = icl.with_examples(spec.to_messages, [texts[i] for i in IDS])  # as 5_evaluate does
        who = lake["candidates"].read(where="split = 'validation'").head(6)
        arm = batch.build_requests(who, shown, model=name, seed=1, pair_by_candidate=True, **FORM)
        table = lake["training_data_raw"]
        recorded = batch.Recorded(table.read(columns=batch.RECORDED), write=table.upsert)
        how = {"server": server, "folder": lake.batches, "recorded": recorded, "task": spec.name}
        answers = batch.answer(arm, **how)
        assert answers["status"].is_in(["ok", "truncated"]).all()

        _, out, _ = exported(capsys, monkeypatch, "--model", name)
        body = json.loads(out)

        def fill(candidate):
            question = spec.to_messages(candidate)[-1]["content"]
            *before, last = body["messages"]
            return [*before, {"role": last["role"], "content": last["content"].replace("{{question}}", question)}]

        mine = batch.build_requests(
            who, fill, model=body["model"], seed=1, pair_by_candidate=True, **body["parameters"]
        )
        assert mine["body"].to_list() == arm["body"].to_list()
        assert mine["custom_id"].to_list() == arm["custom_id"].to_list()
        n_batches = len(list(server.client.batches.list()))
        assert batch.answer(mine, **how)["llm_output"].to_list() == answers["llm_output"].to_list()
        assert len(list(server.client.batches.list())) == n_batches
        direct = server.client.chat.completions.create(**json.loads(mine["body"][0]))
        assert direct.usage.prompt_tokens == answers["prompt_tokens"][0]
        assert direct.choices[0].message.content


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--use-case", "executive"],
            "no examples were chosen for use case 'executive'; there are: general (candidate_evaluation, m), tech",
        ),
        (["--model", "gpt"], "no examples were chosen for use case 'general', model 'gpt'; there are: general"),
        (["--out", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
    ],
)
def test_a_set_that_cannot_be_exported_is_one_clear_error(chosen, capsys, monkeypatch, more, message):
    code, out, err = exported(capsys, monkeypatch, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("lake")
def test_a_lake_without_a_search_says_how_to_make_one(capsys, monkeypatch):
    code, _, err = exported(capsys, monkeypatch)
    assert code == 2
    assert err == (
        "arislab: no examples were chosen for use case 'general'; there are: none. "
        "`arislab run icl -p use_case general` searches some.\n"
    )
    monkeypatch.setattr(sys, "argv", ["arislab", "export"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == (
        "arislab: export needs one of --icl, --preferences, --training or --adapter VERSION (with --merged, if you "
        "like): what to write.\n"
    )


def test_a_prompt_that_is_not_one_fixed_list_is_refused_and_a_changed_task_is_told(
    chosen, capsys, monkeypatch, tmp_path
):
    source = load("candidate_evaluation").source
    path = tmp_path / "candidate_evaluation.py"
    path.write_text(source + "\n# edited\n")
    code, out, err = exported(capsys, monkeypatch, "--task", str(path))
    assert code == 0
    assert "the task file is another one now" in err
    assert json.loads(out)["provenance"]["task_now"] == load(path).version
    asked = '[{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]'
    assert asked in source
    path.write_text(source.replace(asked, asked.replace("SYSTEM}", "SYSTEM + user}")))
    code, out, err = exported(capsys, monkeypatch, "--task", str(path))
    assert (code, out) == (2, "")
    assert "writes more than one fixed system message and one question" in err


def test_an_example_that_is_gone_is_named(chosen):
    row = chosen["icl_examples"].read(where="use_case = 'tech'").row(0, named=True)
    curated, authors = chosen["training_data_curated"].read(), chosen["candidates"].read()
    with pytest.raises(PrerequisiteError, match="example 'e0' of s-tech is not in training_data_curated@0"):
        prompt.messages(row, curated.filter(pl.col("id") != "e0"), authors, load("candidate_evaluation"))
    with pytest.raises(PrerequisiteError, match="the candidates behind s-tech are not in this lake"):
        prompt.messages(row, curated, authors.head(0), load("candidate_evaluation"))


def test_leaks_between_the_splits_are_found_before_anything_is_asked(lake, task_file, monkeypatch, capsys):
    texts = {"a": "red apples on the old market square", "b": "blue boats near the northern harbour wall"}
    rows = [
        ("t0", texts["a"], "train", "g0"),
        ("v0", texts["b"], "validation", "g1"),
        ("x0", "quiet trains through a green valley", "test", "g2"),
    ]

    def told(*more):
        frame = pl.DataFrame([*rows, *more], schema=["candidate_id", "text", "split", "group_id"], orient="row")
        profile = frame["text"].map_elements(lambda text: json.dumps({"text": text}), return_dtype=pl.String)
        lake["candidates"].upsert(frame.drop("text").with_columns(profile.alias("profile")))
        monkeypatch.setattr(sys, "argv", ["arislab", "check", "leaks", "--task", str(task_file)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().out

    assert told() == (0, "0 of 1 test candidates (1 groups) are like one of another split\n")
    code, out = told(("x1", texts["a"], "test", "g3"), ("x2", texts["b"] + " today", "test", "g4"))
    assert code == 1
    assert "x1 is a copy of t0, similarity 1.00\n" in out
    assert "x2 is a near-copy of v0, similarity 0.83\n" in out
    assert "2 of 3 test candidates (3 groups) are like one of another split\n" in out
    assert "arislab import" in out
    lake["candidates"].replace(lake["candidates"].read().clear(), where={"split": "test"})
    with pytest.raises(SystemExit):
        main()
    assert "0 candidates are in the test split and 2 in train and validation" in capsys.readouterr().err
