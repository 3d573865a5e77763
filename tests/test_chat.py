"""Instructions go where the model knows them, settings that are empty change no id, and calls of tools stay calls."""

import json

import polars as pl
import pytest
from toys import people

from arislab import batch, chat, curate, finetune, scoring
from arislab.batch import protocol
from arislab.errors import ParameterError
from arislab.server.engines import base, replay
from arislab.task import load

USER = {"role": "user", "content": "Where is Ulm?"}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "map", "arguments": '{"town": "Ulm"}'}}]
TOOLS = [{"type": "function", "function": {"name": "map", "parameters": {"type": "object", "properties": {}}}}]


SYSTEM, DEVELOPER = ({"role": role, "content": "Be brief."} for role in ("system", "developer"))


@pytest.mark.parametrize(
    ("before", "role", "after"),
    [
        ([SYSTEM, USER], "", None),
        ([DEVELOPER, USER], "system", [SYSTEM, USER]),
        ([SYSTEM, USER], "developer", [DEVELOPER, USER]),
        ([SYSTEM, USER], "user", [{"role": "user", "content": "Be brief.\n\nWhere is Ulm?"}]),
        ([{"role": "system", "content": " "}, USER], "user", [USER]),
        ([{"role": "system", "content": "Be brief."}], "user", [{"role": "user", "content": "Be brief."}]),
        ([USER], "user", None),
        ([], "user", None),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "user",
            [{"role": "user", "content": [{"type": "text", "text": "Be brief.\n\n"}, {"type": "text", "text": "Hi"}]}],
        ),
    ],
)  # fmt: skip
def test_only_the_instructions_move_and_only_to_the_role_asked_for(before, role, after):
    assert chat.in_role(before, role) == (before if after is None else after)


def ask(candidate):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": candidate["profile"]["text"]}]


def test_empty_settings_change_no_id_and_are_not_sent_and_others_do_and_are():
    plain = batch.build_requests(people(2), ask, model="m")
    same = batch.build_requests(people(2), ask, model="m", chat_template_kwargs={}, system_role="")
    written_so = batch.build_requests(people(2), ask, model="m", system_role="system")
    assert plain.equals(same)
    assert plain.equals(written_so)
    assert "chat_template_kwargs" not in plain["body"][0]
    still = batch.build_requests(people(2), ask, model="m", chat_template_kwargs={"enable_thinking": False})
    assert json.loads(still["body"][0])["chat_template_kwargs"] == {"enable_thinking": False}
    assert not set(still["custom_id"]) & set(plain["custom_id"])
    first = batch.build_requests(people(2), ask, model="m", system_role="user")
    assert json.loads(first["body"][0])["messages"] == [{"role": "user", "content": "Be brief.\n\ncandidate number 0"}]
    assert "system_role" not in first["body"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"system_role": "critic"}, "system_role must be empty .* got 'critic'"),
        ({"chat_template_kwargs": {"messages": []}}, "cannot hold 'messages'"),
        ({"chat_template_kwargs": {"a b": 1}}, "cannot hold 'a b'"),
        ({"chat_template_kwargs": {"x": float("nan")}}, "must be a finite number"),
    ],
)
def test_settings_that_no_request_can_have_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        batch.build_requests(people(1), ask, model="m", **settings)


def test_fields_leave_out_what_is_empty():
    assert chat.fields(chat_template_kwargs={}, system_role="", response_format=None) == {}
    assert chat.fields(chat_template_kwargs={"a": 1}, system_role="user", response_format={"type": "text"}) == {
        "chat_template_kwargs": {"a": 1}, "system_role": "user", "response_format": {"type": "text"},
    }  # fmt: skip


def tuned(kwargs, role="system"):
    return {"model_path": "toy-1", "hyperparameters": json.dumps({"chat_template_kwargs": kwargs, "system_role": role})}


def test_the_arms_of_an_evaluation_are_asked_as_the_adapter_was_trained():
    off = {"enable_thinking": False}
    assert finetune.asked_as(tuned(off), chat_template_kwargs={}) == {
        "chat_template_kwargs": off,
        "system_role": "system",
    }
    assert finetune.asked_as(tuned({}, "user"), None, chat_template_kwargs={}) == {"system_role": "user"}
    assert finetune.asked_as({"model_path": "old", "hyperparameters": None}, None, chat_template_kwargs={}) == {}
    dated = tuned(off | {"date_string": "26 Jul 2024"})
    same = finetune.asked_as(dated, json.dumps({"chat_template_kwargs": off}), chat_template_kwargs=off)
    assert same["chat_template_kwargs"] == {"enable_thinking": False, "date_string": "26 Jul 2024"}


@pytest.mark.parametrize(
    ("trained", "others", "given", "message"),
    [
        ({}, [], {"enable_thinking": False}, "must be {}, with which toy-1 was trained, got {'enable_thinking': "
                                             "False}"),
        ({"a": 1}, [], {"a": 2}, "must be {'a': 1}"),
        ({"a": 1}, ["{}"], {}, "and an arm beside it was made with {}; run phases 3 and 4 with the same, such as -p "
                               "chat_template_kwargs"),
        ({"a": 1}, [None], {}, "an arm beside it"),
        ({}, ['{"chat_template_kwargs": {"a": 1}}'], {}, "an arm beside it was made with {'a': 1}"),
    ],
)  # fmt: skip
def test_an_evaluation_that_would_ask_otherwise_than_was_trained_is_refused(trained, others, given, message):
    with pytest.raises(ParameterError, match=message):
        finetune.asked_as(tuned(trained), *others, chat_template_kwargs=given)


def test_the_local_engines_take_the_settings_of_a_request():
    body = {"model": "m", "messages": [USER], "chat_template_kwargs": {"enable_thinking": False}}
    request = base.Request(0, "r-1", body, 0)
    assert base.generation(request)["chat_template_kwargs"] == {"enable_thinking": False}
    assert (
        base.generation(base.Request(0, "r-1", body | {"chat_template_kwargs": {}}, 0))["chat_template_kwargs"] is None
    )


# Calls of tools


def line(message, reason="tool_calls"):
    return {
        "response": {
            "status_code": 200,
            "body": {"choices": [{"index": 0, "message": message, "finish_reason": reason}]},
        }
    }


def test_an_answer_that_calls_is_ok_and_its_calls_are_kept_apart():
    one = batch.outcome(line({"role": "assistant", "content": None, "tool_calls": CALLS}), "completed")
    assert (one["status"], json.loads(one["tool_calls"]), json.loads(one["llm_output"])) == ("ok", CALLS, CALLS)
    both = batch.outcome(line({"content": "I look.", "tool_calls": CALLS}), "completed")
    assert json.loads(both["llm_output"]) == {"content": "I look.", "tool_calls": CALLS}
    older = batch.outcome(line({"content": None, "function_call": {"name": "map", "arguments": "{}"}}), "completed")
    assert json.loads(older["tool_calls"]) == [{"type": "function", "function": {"name": "map", "arguments": "{}"}}]
    for message in (
        {"content": json.dumps(CALLS)},
        {"content": "Ulm.", "tool_calls": []},
        {"content": "Ulm.", "tool_calls": None},
    ):
        plain = batch.outcome(line(message, "stop"), "completed")
        assert (plain["llm_output"], plain["tool_calls"]) == (message["content"], None)
    assert batch.outcome(None, "expired")["tool_calls"] is None


def test_an_answer_and_its_record_are_the_same_message():
    for text in (None, "I look."):
        one = batch.outcome(line({"content": text, "tool_calls": CALLS}), "completed")
        assert chat.answer(one["llm_output"], one["tool_calls"]) == {
            "role": "assistant",
            "content": text,
            "tool_calls": CALLS,
        }
    moved = [CALLS[0] | {"function": {"name": "map", "arguments": '{"town": "Bonn"}'}}]
    assert chat.answer(json.dumps(moved), json.dumps(CALLS))["tool_calls"] == moved
    for text in ('["Ulm", "Bonn"]', "[{}, 1]", '{"content": "Ulm."}', '{"tool_calls": []}', "7"):
        assert chat.answer(text, json.dumps(CALLS)) == {"role": "assistant", "content": text}
    assert chat.answer("[]", json.dumps(CALLS)) == {"role": "assistant", "content": "[]"}
    assert chat.answer("no JSON", json.dumps(CALLS)) == {"role": "assistant", "content": "no JSON"}


def test_tools_of_a_request_are_those_offered():
    assert json.loads(protocol.offered({"tools": TOOLS})) == TOOLS
    assert json.loads(protocol.offered({"functions": [{"name": "map"}]})) == [
        {"type": "function", "function": {"name": "map"}}
    ]
    assert protocol.offered({"tools": []}) is None


def raw(**more):
    row = {
        "custom_id": "r-1",
        "candidate_id": "c0000",
        "task": "t",
        "input": "Where?",
        "messages": json.dumps([USER]),
        "quality": 1.0,
    }
    row |= {
        "metadata": None,
        "output": json.dumps(CALLS),
        "tools": json.dumps(TOOLS),
        "tool_calls": json.dumps(CALLS),
        "finish_reason": "tool_calls",
    }
    return pl.DataFrame(
        [row | more], schema_overrides={"metadata": pl.String, "tools": pl.String, "tool_calls": pl.String}
    )


def test_calls_go_through_curation_to_the_export(task_file, tmp_path):
    rows = curate.examples(raw(), people(1), load(task_file))
    older = curate.examples(
        raw(tool_calls=None), people(1), load(task_file)
    )  # as versions without the column wrote them
    assert json.loads(rows["tool_calls"][0]) == json.loads(older["tool_calls"][0]) == CALLS
    text = curate.examples(raw(tool_calls=None, finish_reason="stop"), people(1), load(task_file))
    assert text["tool_calls"][0] is None
    finetune.export_jsonl(rows, tmp_path / "chat.jsonl")
    assert json.loads((tmp_path / "chat.jsonl").read_text()) == {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}], "tools": TOOLS,
    }  # fmt: skip
    with pytest.raises(ParameterError, match="no example"):
        curate.pool(rows, n=3)
    assert curate.pool(pl.concat([rows, text.with_columns(id=pl.lit("r-2"))]), n=3)["id"].to_list() == ["r-2"]


def test_scorers_are_given_the_calls_as_values(tmp_path):
    path = tmp_path / "maps.py"
    path.write_text(
        "def to_messages(c): return [{'role': 'user', 'content': 'x'}]\n"
        "def right_tool(tool_calls, tools):\n    return tool_calls[0]['function']['name'] in [t['function']['name'] "
        "for t in tools]\n"
        "def as_text(output): return output.startswith('[')\n"
        "SCORERS = {'right_tool': right_tool, 'as_text': as_text}\nWEIGHTS = {'right_tool': 1, 'as_text': 1}\nGOLD = "
        "[]\n"
    )
    scored = scoring.score(raw(), load(path))
    assert scored.select("score_right_tool", "score_as_text", "quality").row(0) == (1.0, 1.0, 1.0)


def test_a_recorded_call_is_replayed_as_a_call():
    row = {
        "error": None,
        "status": "ok",
        "model_returned": "m",
        "llm_output": json.dumps(CALLS),
        "tool_calls": json.dumps(CALLS),
    }
    row |= {"finish_reason": "tool_calls", "prompt_tokens": 3, "completion_tokens": 5, "logprob_mean": None}
    made = replay._answer(base.Request(0, "r-1", {}, 0), row)
    again = batch.outcome({"response": {"status_code": 200, "body": json.loads(made.body)}}, "completed")
    assert (again["tool_calls"], json.loads(again["llm_output"])) == (protocol.as_written(CALLS), CALLS)


def test_a_row_without_the_columns_reads_them_as_null(lake):
    frame = pl.DataFrame(
        {"custom_id": ["r-1"], "candidate_id": ["c"], "task": ["t"], "status": ["ok"], "llm_output": ["Ulm."]}
    )
    lake["training_data_raw"].upsert(frame)
    assert lake["training_data_raw"].read(columns=["tools", "tool_calls"]).row(0) == (None, None)
