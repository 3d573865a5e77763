"""A task's SCHEMA goes with the requests where the server takes it.

Answers are checked, and a repair is never silent.
"""

import json
from types import SimpleNamespace

import httpx
import openai
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arislab import curate, scoring, structured
from arislab.errors import BatchError, ParameterError, TaskError
from arislab.lake import tables
from arislab.task import load

SCHEMA = load("candidate_evaluation").schema
GOOD = json.dumps({"strengths": ["a"], "concerns": [], "summary": "s", "score": 0.8, "recommendation": "hire"})
PYTHON = GOOD.replace('"', "'")


def toy(*answers, about=None):
    """A server that gives these status codes to direct questions, one each, and keeps what it was asked."""
    asked = []

    def create(**body):
        asked.append(body)
        code = answers[len(asked) - 1]
        if code != 200:
            reply = httpx.Response(code, request=httpx.Request("POST", "http://toy/v1"))
            raise openai.APIStatusError("no such field", response=reply, body=None)

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    server = SimpleNamespace(client=client, about=about or {}, base_url="http://toy/v1", patiently=lambda call: call())
    server.decisions = []
    server.decided = lambda form, why: server.decisions.append((form, why))
    return server, asked


def frame(*outputs):
    return pl.DataFrame(
        {"custom_id": [f"r-{i}" for i in range(len(outputs))], "output": pl.Series(outputs, dtype=pl.String)}
    )


def test_a_task_without_schema_asks_for_nothing():
    server, asked = toy()
    form, why = structured.response_format(None, server=server, model="m")
    assert form is None
    assert "no SCHEMA" in why
    assert asked == []


@pytest.mark.parametrize("honours", [True, False])
def test_our_own_server_is_believed_and_not_asked(honours):
    server, asked = toy(about={"server": "arislab", "engine": "local", "response_format": honours})
    form, why = structured.response_format(SCHEMA, server=server, model="m")
    assert (form is not None) == honours
    assert ("local" in why) != honours
    assert asked == []
    assert server.decisions == [(form, why)]
    server.about = {"replayed": [{"type": "x"}, "as it was"]}
    assert structured.response_format(SCHEMA, server=server, model="m") == ({"type": "x"}, "as it was")


def test_another_server_is_asked_for_one_token_in_the_form_of_openai():
    server, asked = toy(200)
    form, _ = structured.response_format(SCHEMA, server=server, model="m")
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert (asked[0]["max_tokens"], asked[0]["response_format"]) == (1, form)


def test_an_upstream_that_our_server_knows_nothing_of_is_asked():
    server, asked = toy(400, 400, about={"server": "arislab", "engine": "upstream", "response_format": None})
    form, why = structured.response_format(SCHEMA, server=server, model="m")
    assert form is None
    assert "400: no such field" in why
    assert [body["response_format"]["json_schema"]["strict"] for body in asked] == [True, False]


def test_a_server_that_takes_no_strict_schema_gets_a_loose_one():
    form, _ = structured.response_format(SCHEMA, server=toy(400, 200)[0], model="m")
    assert form["json_schema"]["strict"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
    ],
)
def test_a_schema_with_open_objects_is_never_sent_as_strict(schema):
    server, asked = toy(200)
    form, _ = structured.response_format(schema, server=server, model="m")
    assert form["json_schema"]["strict"] is False
    assert len(asked) == 1


@pytest.mark.parametrize("code", [408, 409])
def test_a_failure_that_may_pass_is_no_answer_as_it_would_rename_all_requests(code):
    with pytest.raises(BatchError, match=f"answered {code}"):
        structured.response_format(SCHEMA, server=toy(code)[0], model="m")


@pytest.mark.parametrize("honours", [True, False])
def test_a_shape_is_all_that_requests_ask_for_beside_their_messages_and_says_why(honours):
    server, _ = toy(about={"server": "arislab", "engine": "local", "response_format": honours})
    kwargs = {"enable_thinking": False}
    shape = structured.shape(SCHEMA, server=server, model="m", chat_template_kwargs=kwargs, system_role="user")
    form, why = structured.response_format(SCHEMA, server=server, model="m")
    assert shape.fields == ({"response_format": form} if honours else {}) | {
        "chat_template_kwargs": kwargs,
        "system_role": "user",
    }
    assert repr(shape) == why
    assert structured.shape(None, server=server, model="m").fields == {}
    with pytest.raises(ParameterError, match="system_role must be empty"):
        structured.shape(SCHEMA, server=server, model="m", system_role="critic")


def test_valid_answers_and_missing_ones_have_no_error():
    out = structured.check(frame(GOOD, None), SCHEMA, repair=True)
    assert out["schema_error"].to_list() == [None, None]
    assert out["repaired"].to_list() == [False, False]
    assert out["output"].to_list() == [GOOD, None]


def test_without_a_schema_nothing_is_checked():
    assert structured.check(frame("prose"), None, repair=True).row(0) == ("r-0", "prose", None, False)


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("prose", "not JSON"),
        ("", "not JSON"),
        (GOOD.replace("0.8", "8"), "$.score: 8 is greater than the maximum of 1"),
        (GOOD.replace("0.8", "NaN"), "NaN is no number of JSON"),
        (GOOD.replace("hire", "maybe"), "$.recommendation"),
        ("[" * 100_000, "not JSON"),
        ('{"\\ud800": 1}', "$"),
    ],
)
def test_what_breaks_the_schema_is_told_and_left_alone(output, error):
    out = structured.check(frame(output), SCHEMA)
    assert error in out["schema_error"][0]
    assert (out["output"][0], out["repaired"][0]) == (output, False)


def test_a_repair_needs_consent_and_is_marked():
    assert structured.check(frame(PYTHON), SCHEMA)["output"].to_list() == [PYTHON]
    out = structured.check(frame(GOOD, PYTHON), SCHEMA, repair=True)
    assert out["repaired"].to_list() == [False, True]
    assert "not JSON" in out["schema_error"][1]  # of the answer as it came
    assert json.loads(out["output"][1]) == json.loads(GOOD)


@pytest.mark.parametrize("output", ["prose", GOOD.replace("0.8", "8"), GOOD[:40], '"text"'])
def test_what_cannot_be_mended_to_fit_the_schema_stays_as_it_came(output):
    out = structured.check(frame(output), SCHEMA, repair=True)
    assert (out["output"][0], out["repaired"][0]) == (output, False)


def test_prose_is_not_repaired_to_nothing_under_a_schema_that_allows_anything():
    assert structured.check(frame("prose"), {}, repair=True)["repaired"].to_list() == [False]


mess = st.one_of(
    st.text(),
    st.builds(
        lambda i, s: GOOD[:i] + s + GOOD[i:],
        st.integers(0, len(GOOD)),
        st.sampled_from(["'", ",", "}", "\n", "//x", " "]),
    ),
    st.sampled_from([None, GOOD, PYTHON, f"```json\n{GOOD}\n```", GOOD[:-1]]),
)


@given(st.lists(mess, min_size=1, max_size=8))
def test_repaired_rows_are_always_marked_and_all_others_are_what_came(outputs):
    answers = frame(*outputs)
    out = structured.check(answers, SCHEMA, repair=True)
    for before, after, error, repaired in zip(
        answers["output"], out["output"], out["schema_error"], out["repaired"], strict=True
    ):
        assert repaired == (before != after)
        if repaired:
            assert error is not None
            assert structured.check(frame(after), SCHEMA)["schema_error"][0] is None


def test_a_schema_that_is_none_or_lies_elsewhere_is_refused_and_nothing_is_fetched():
    with pytest.raises(TaskError, match="no JSON schema"):
        structured.check(frame(GOOD), {"type": "thing"})
    with pytest.raises(TaskError, match="nothing is fetched"):
        structured.check(frame(GOOD), {"$ref": "http://127.0.0.1:9/schema.json"})


def test_the_marks_reach_the_scored_table_and_the_example():
    task = load("candidate_evaluation")
    people = pl.DataFrame([{
        "candidate_id": "c", "split": "train", "group_id": "c", "category": "k",
        "profile": json.dumps(
            {"title": "T", "years": 5, "skills": ["SQL"], "role": "R", "needs": ["SQL"], "min_years": 4}
        ),
    }])  # fmt: skip
    raw = pl.DataFrame([{"custom_id": "r", "candidate_id": "c", "llm_output": PYTHON}])
    rows = structured.check(scoring.rows(raw, people, task=task), task.schema, repair=True)
    scored = scoring.score(rows, task)
    assert scored.select("repaired", "score_valid_json").row(0) == (True, 1.0)
    assert scored["schema_error"][0].startswith("not JSON")
    assert {"schema_error", "repaired"} <= set(tables.columns_of("training_data_scored"))
    best = rows.join(scored.select("custom_id", "quality"), on="custom_id")
    example = curate.examples(
        best.with_columns(task=pl.lit(task.name), input=None, messages=None, metadata=None), people, task
    )
    assert json.loads(example["metadata"][0])["repaired"] is True
