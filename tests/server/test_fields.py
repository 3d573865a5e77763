"""What an engine that samples itself does not honour is refused by name, and defaults that ask for nothing are not."""

import json

import pytest
from toys import line

from arislab.server.engines import base
from arislab.server.engines.echo import echo


def asked(**fields):
    return base.Request(3, "r-1", line("r-1", **fields)["body"], 0)


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("top_k", 40, [-1, 0, None]),
        ("min_p", 0.05, [0, 0.0]),
        ("repetition_penalty", 1.1, [1, 1.0]),
        ("frequency_penalty", 0.5, [0]),
        ("presence_penalty", -0.5, [0]),
        ("logit_bias", {"50256": -100}, [{}]),
        ("n", 2, [1]),
        ("stream", True, [False]),
        ("tools", [{"type": "function"}], [[]]),
        ("tool_choice", "required", ["none", "auto"]),
        ("response_format", {"type": "json_object"}, [{"type": "text"}]),
        ("ignore_eos", True, [False]),
        ("stop_token_ids", [7], [[]]),
        ("guided_json", {"type": "object"}, [None]),
        ("max_token", 5, [None]),  # misspelt: the answer would be longer than was asked
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(name, value, others):
    refused = base.generation(asked(**{name: value}))
    assert isinstance(refused, base.Result)
    error = json.loads(refused.body)["error"]
    assert (refused.line, refused.status, error["code"]) == (3, 400, "unsupported_parameter")
    assert error["message"].startswith(f"{name}: ")
    assert "temperature, top_logprobs, top_p" in error["message"]
    assert "Leave the field out, or serve the model with vLLM" in error["message"]
    for other in others:
        assert isinstance(base.generation(asked(**{name: other})), dict), other


def test_who_has_no_model_has_no_probabilities():
    assert base.generation(asked(logprobs=True))["logprobs"]
    assert not base.generation(asked())["logprobs"]
    refused = base.generation(asked(logprobs=True), takes_others=True)
    assert json.loads(refused.body)["error"]["message"].startswith("logprobs: ")


def test_the_likeliest_tokens_are_given_beside_the_probabilities():
    assert base.generation(asked(logprobs=True, top_logprobs=5))["top_logprobs"] == 5
    assert base.generation(asked(top_logprobs=0))["top_logprobs"] == 0
    for fields, why in (
        ({"top_logprobs": 5}, "top_logprobs: needs logprobs true (this engine)"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs: Input should be less than or equal to 20 (this engine)",
        ),
    ):
        error = json.loads(base.generation(asked(**fields)).body)["error"]
        assert (error["code"], error["message"]) == ("invalid_value", why)


def test_labels_of_a_request_are_no_settings():
    fields = {"user": "u-7", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"}
    assert base.generation(asked(**fields)) == base.generation(asked())


def test_calls_in_a_conversation_are_refused_and_empty_ones_are_not():
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]

    def conversation(**more):
        answer = {"role": "assistant", "content": "Wait.", "refusal": None, **more}
        return base.generation(asked(messages=[{"role": "user", "content": "hi"}, answer]))

    assert isinstance(conversation(tool_calls=[]), dict)
    refused = conversation(tool_calls=calls)
    assert isinstance(refused, base.Result)
    assert b"messages.1.tool_calls: " in refused.body


def test_values_out_of_range_keep_their_own_error():
    refused = base.generation(asked(temperature=9))
    assert isinstance(refused, base.Result)
    assert json.loads(refused.body)["error"]["code"] == "invalid_value"


def test_the_echo_takes_settings_of_a_model_and_still_gives_one_plain_answer():
    assert echo(asked(top_k=40, guided_json={}, frequency_penalty=1)).status == 200
    assert echo(asked(n=2)).status == 400


def test_the_limit_of_an_answer_is_what_was_asked_or_none():
    def limit(**fields):
        job = base.generation(asked(**fields))
        assert isinstance(job, dict)
        return job["max_tokens"]

    assert [limit(), limit(max_tokens=None), limit(max_tokens=7)] == [None, None, 7]
    assert limit(max_tokens=7, max_completion_tokens=9) == 9, "OpenAI's newer name counts"
