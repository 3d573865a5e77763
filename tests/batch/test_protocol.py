"""The one parser of result lines, for live batches and for imported files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, TEXT

from arislab import batch
from arislab.batch import protocol
from arislab.batch.results import SCHEMA
from arislab.lake.tables import STATUSES


def result(*choices, **body):
    return {
        "custom_id": "x",
        "response": {"status_code": 200, "body": {"choices": list(choices), **body}},
        "error": None,
    }


def choice(content, index=0, **more):
    return {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": content}} | more


def test_choices_are_read_in_the_order_of_their_index_and_tokens_counted_once():
    line = result(
        choice("zwei", 1), choice("drei", 2), choice("eins", 0), usage={"prompt_tokens": 5, "completion_tokens": 9}
    )
    ones = protocol.outcomes(line, "completed")
    assert [one["llm_output"] for one in ones] == ["eins", "zwei", "drei"]
    assert [one["completion_tokens"] for one in ones] == [9, None, None]
    assert batch.outcome(line, "completed") == ones[0]
    assert protocol.n_choices(line) == 3


def test_choices_without_a_telling_index_stay_as_they_came():
    assert [o["llm_output"] for o in protocol.outcomes(result(choice("a", 0), choice("b", 0)), "")] == ["a", "b"]
    assert [o["llm_output"] for o in protocol.outcomes(result(choice("a", None), choice("b", 0)), "")] == ["a", "b"]
    assert [o["llm_output"] for o in protocol.outcomes(result("odd", choice("b", 0)), "")] == ["b"]


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        ("plain", "ok", "plain"),
        ([{"type": "text", "text": "one "}, {"type": "output_text", "text": "two"}], "ok", "one two"),
        (["one ", "two"], "ok", "one two"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}], "ok", "yes"),
        ([{"type": "text", "text": None}], "empty", None),
        ([], "empty", None),
        (None, "empty", None),
        (17, "ok", "17"),
        ({"verdict": "yes", "at": [1, 2]}, "ok", '{"at":[1,2],"verdict":"yes"}'),
        (False, "ok", "false"),
        ([{"type": "refusal", "refusal": "I may not say."}], "refused", "I may not say."),
        ([{"type": "text", "text": "Well: "}, {"type": "refusal", "refusal": "no."}], "refused", "Well: "),
        ([{"type": "image_url", "image_url": {"url": "u"}}], "ok", '[{"image_url":{"url":"u"},"type":"image_url"}]'),
        (
            [{"type": "text", "text": "see"}, {"type": "audio", "id": 1}],
            "ok",
            '[{"text":"see","type":"text"},{"id":1,"type":"audio"}]',
        ),
    ],
)
def test_the_text_of_an_answer_is_that_of_its_parts(content, status, text):
    one = batch.outcome(result(choice(content)), "completed")
    assert (one["status"], one["llm_output"]) == (status, text)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("abort", "truncated"),
        ("error", "truncated"),
        ("max_tokens", "truncated"),
        ("MAX_TOKENS", "truncated"),
        ("model_length", "truncated"),
        ("length", "truncated"),
        ("CONTENT_FILTER", "refused"),
        ("eos_token", "ok"),
        ("stop", "ok"),
    ],
)
def test_an_answer_that_did_not_come_to_its_end_is_not_whole(reason, status):
    one = batch.outcome(result(choice("The tide comes in and", finish_reason=reason)), "completed")
    assert (one["status"], one["llm_output"], one["finish_reason"]) == (status, "The tide comes in and", reason)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_broke_off_before_its_first_word_is_asked_for_again(reason):
    one = batch.outcome(result(choice("", finish_reason=reason)), "completed")
    assert (one["status"], json.loads(one["error"])["code"]) == ("unavailable", "broken_off")


NOTHING = [{"code": None, "message": None}, {"message": "", "code": 0}, {}, "", None, False]


@pytest.mark.parametrize("error", NOTHING)
def test_an_error_that_says_nothing_beside_an_answer_is_none(error):
    assert batch.outcome(result(choice("Yes.")) | {"error": error}, "completed")["status"] == "ok"
    assert batch.outcome(result(choice("Yes."), error=error), "completed")["status"] == "ok"
    bare = {"custom_id": "x", "response": {"body": {"choices": [choice("Yes.")], "error": error}}}
    assert batch.outcome(bare, "completed")["llm_output"] == "Yes."
    refused = {"custom_id": "x", "response": {"status_code": 400, "body": {"error": error}}, "error": error}
    assert batch.outcome(refused, "completed")["status"] == "error"


def test_an_answer_of_a_completion_endpoint_is_its_text():
    assert (
        batch.outcome(result({"index": 0, "text": "on and on", "finish_reason": "length"}), "")["llm_output"]
        == "on and on"
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (200, "ok"),
        ("200", "ok"),
        (200.0, "ok"),
        ("200 OK", "ok"),
        ("429 Too Many Requests", "unavailable"),
        (400, "error"),
        ("²", "ok"),  # no digits: the body decides
        (True, "ok"),
        ([500], "ok"),
        (10**30, "ok"),
    ],
)
def test_a_status_code_of_any_type_is_read(code, status):
    line = result(choice("a"))
    line["response"]["status_code"] = code
    assert batch.outcome(line, "")["status"] == status


@pytest.mark.parametrize(
    "body",
    [
        {"usage": [1, 2]},
        {"usage": {"prompt_tokens": "12", "completion_tokens": 2**63}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": True}},
        {"usage": {"prompt_tokens": 1.5, "completion_tokens": {"n": 1}}},
        {"model": ["m"]},
    ],
)
def test_counts_that_are_none_are_unknown(body):
    one = batch.outcome(result(choice("a"), **body), "")
    assert (one["status"], one["prompt_tokens"], one["completion_tokens"]) == ("ok", None, None)


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        ({"content": [{"logprob": -1}, {"logprob": -2.0}]}, -1.5),
        ({"content": [{"logprob": "x"}, {"logprob": True}, {"logprob": 10**400}, 7, {"logprob": -1.0}]}, -1.0),
        ({"content": {"logprob": -1}}, None),
        ({"content": 3}, None),
        ([{"logprob": -1}], None),
        ("none", None),
    ],
)
def test_logprobs_of_any_type_are_read(logprobs, mean):
    assert batch.outcome(result(choice("a", logprobs=logprobs)), "")["logprob_mean"] == mean


def test_of_log_probabilities_the_mean_the_end_and_the_weakest_stretch_are_kept():
    values = [-0.1] * 20 + [-2.0] * 16 + [-0.5] * 16
    one = batch.outcome(result(choice("a", logprobs={"content": [{"logprob": value} for value in values]})), "")
    assert one["logprob_mean"] == pytest.approx(sum(values) / 52)
    assert (one["logprob_tail"], one["logprob_window"]) == (pytest.approx(-0.5), pytest.approx(-2.0))
    short = batch.outcome(result(choice("a", logprobs={"content": [{"logprob": -1.0}, {"logprob": -3.0}]})), "")
    assert [short[name] for name in ("logprob_mean", "logprob_tail", "logprob_window")] == [-2.0] * 3
    none = batch.outcome(result(choice("a")), "")
    assert [none[name] for name in ("logprob_mean", "logprob_tail", "logprob_window")] == [None] * 3
    kept = {"logprob_mean": -0.5, "logprob_tail": None, "logprob_window": "much"}
    replayed = batch.outcome(result(choice("a", logprobs={"content": [], "arislab": kept})), "")
    assert [replayed[name] for name in kept] == [-0.5, None, None]


def token(text, *others):
    return {"token": text, "top_logprobs": [{"token": t, "logprob": p} for t, p in others]}


@pytest.mark.parametrize(
    ("logprobs", "kept"),
    [
        ({"content": [token("4", ("4", -0.1), ("5", -2))]}, {"4": -0.1, "5": -2.0}),
        ({"content": [token(" \n", ("9", -1)), token("4", ("4", 1e-9), (7, -1))]}, {"4": 0.0}),
        # of a model that thinks first the answer is the end of what it wrote
        ({"content": [token("So"), token(" 4", ("4", -9)), token("</t>"), token("4", ("4", -0.5))]}, {"4": -0.5}),
        ({"content": [token("3", ("3", -0.1))]}, None),
        ({"content": [token("4"), token("5", ("5", -1))]}, None),
        ({"content": [{"top_logprobs": [{"token": "4", "logprob": -1}]}]}, None),
        (
            {"content": [], "arislab": {"first_token_logprobs": '{"4":-1,"5":"x","6":1e300,"7":1}'}},
            {"4": -1.0, "7": 0.0},
        ),
        ({"content": [], "arislab": {"first_token_logprobs": 4}}, None),
        ({"content": [], "arislab": {"first_token_logprobs": "oops"}}, None),
        ({"content": [], "arislab": {"first_token_logprobs": "[1]"}}, None),
    ],
)
def test_of_the_first_token_of_an_answer_the_alternatives_are_kept(logprobs, kept):
    told = batch.outcome(result(choice("4", logprobs=logprobs)), "")["first_token_logprobs"]
    assert (told and json.loads(told)) == kept


def test_an_answer_that_is_no_canonical_json_is_read():
    raw = b'\xef\xbb\xbf{"custom_id": "x", "response": {"status_code": 200, "body": {"choices": '
    raw += b'[{"message": {"content": "a\\ud83d"}, "p": NaN}]}}}'
    assert protocol.parse(raw) is None
    assert batch.outcome(protocol.answer(raw), "")["llm_output"] == "a\ufffd"


def test_an_error_of_any_depth_is_a_row():
    deep = json.loads("[" * 900 + "]" * 900)
    one = batch.outcome({"custom_id": "x", "response": None, "error": {"code": "odd", "data": deep}}, "")
    assert one["status"] == "unavailable"
    assert json.loads(one["error"])


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([2**63, "200", "²", 10**400, "x" * 3000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def shaped(**fields):
    """An object with the fields that are known, each of its own shape or of any other, or absent."""
    return st.fixed_dictionaries({}, optional={name: kind | ODD for name, kind in fields.items()})


TOKENS = st.integers(0, 99)
PART = shaped(type=st.sampled_from(["text", "image_url", "thinking"]), text=st.text(max_size=5))
MESSAGE = shaped(
    content=st.text(max_size=5) | st.lists(PART, max_size=3),
    refusal=st.text(max_size=5),
    tool_calls=st.just([{"id": "c"}]),
)
TOKEN = {"token": st.text(max_size=2), "logprob": st.floats(-9, 0)}
LOGPROBS = shaped(content=st.lists(shaped(**TOKEN, top_logprobs=st.lists(shaped(**TOKEN), max_size=2)), max_size=3))
CHOICE = shaped(
    index=st.integers(0, 2),
    finish_reason=st.sampled_from(["stop", "length", "content_filter"]),
    message=MESSAGE,
    text=st.text(max_size=3),
    logprobs=LOGPROBS,
)
ERROR = shaped(
    code=st.sampled_from(["batch_expired", "429", "invalid_request"]),
    message=st.text(max_size=5),
    type=st.text(max_size=3),
)
BODY = shaped(
    choices=st.lists(CHOICE | ODD, max_size=3),
    usage=shaped(prompt_tokens=TOKENS, completion_tokens=TOKENS),
    model=st.just("m"),
    error=ERROR,
)
RESPONSE = shaped(status_code=st.sampled_from([200, 400, 429, 500]), body=BODY | BODY.map(lambda b: json.dumps(b)))
LINE = shaped(custom_id=st.just("x"), response=RESPONSE, error=ERROR)


@settings(max_examples=FUZZ, deadline=None)
@given(LINE)
def test_any_line_ends_in_rows_that_the_tables_take(line):
    ones = protocol.outcomes(line, "completed")
    assert ones
    for one in ones:
        assert one["status"] in STATUSES
        assert (one["error"] is None) == (one["status"] in batch.ANSWERED)
        for name, kind in SCHEMA.items():
            if one.get(name) is not None:
                wanted = {"String": str, "Int64": int, "Float64": float}[str(kind)]
                assert type(one[name]) is wanted, name
        for name in ("prompt_tokens", "completion_tokens"):
            assert one[name] is None or 0 <= one[name] < 2**63
        assert one["logprob_mean"] is None or one["logprob_mean"] <= 0
    assert len(ones) == max(1, protocol.n_choices(line)) or ones[0]["status"] not in batch.ANSWERED


@settings(max_examples=FUZZ, deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from(["stop", "length"])), min_size=1, max_size=4), st.randoms())
def test_every_choice_of_a_whole_line_is_read_back(answers, chance):
    choices = [choice(text, i, finish_reason=reason) for i, (text, reason) in enumerate(answers)]
    chance.shuffle(choices)
    raw = json.dumps(result(*choices, usage={"prompt_tokens": 3, "completion_tokens": 4})).encode()
    ones = protocol.outcomes(protocol.answer(raw), "completed")
    assert [(one["llm_output"], one["finish_reason"]) for one in ones] == answers
