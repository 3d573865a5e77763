import json

import pytest

from arislab.errors import PrerequisiteError
from arislab.inputs import batch_files, lake_rows


def ask(name, *texts, system=None, **more):
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    messages = [{"role": "system", "content": system}] * bool(system) + turns
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": messages} | more,
    }


def choice(text, index=0):
    return {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}


def answer(name, *texts):
    body = {
        "choices": [choice(t, i) for i, t in enumerate(texts)],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    return {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}


def failed(name, code="batch_expired"):
    return {"custom_id": name, "response": None, "error": {"code": code, "message": "late"}}


@pytest.fixture
def read(tmp_path):
    """Write both files and read them."""

    def reader(requests, results):
        for name, lines in (("in.jsonl", requests), ("out.jsonl", results)):
            text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return batch_files.read(tmp_path / "in.jsonl", tmp_path / "out.jsonl", task="t")

    return reader


def test_files_are_joined_by_custom_id_and_nothing_is_lost(read):
    people, raw = read([ask(f"x{n}", f"q{n}") for n in range(4)], [answer("x2", "b"), answer("x0", "a"), failed("x1")])
    assert raw["status"].to_list() == ["ok", "expired", "ok", "unavailable"]
    assert raw["llm_output"].to_list() == ["a", None, "b", None]
    assert people.height == 4
    assert json.loads(raw["error"][1])["line"] == 3  # of the file that says so


def test_the_same_request_several_times_is_several_samples(read):
    people, raw = read([ask(f"x{n}", "q") for n in range(4)], [answer(f"x{n}", f"a{n}") for n in range(4)])
    assert (people.height, raw.height, raw["custom_id"].n_unique()) == (1, 4, 4)
    assert raw["llm_output"].to_list() == ["a0", "a1", "a2", "a3"]
    assert raw["sample"].to_list() == [0, 1, 2, 3]


def test_every_choice_is_a_sample(read):
    line = answer("x", "first", "second")
    line["response"]["body"]["choices"].reverse()
    people, raw = read([ask("x", "q", n=2), ask("y", "r", n=2)], [line, failed("y")])
    assert raw["llm_output"].to_list() == ["first", "second", None]
    assert raw["sample"].to_list() == [0, 1, 0]
    assert raw["prompt_tokens"].to_list() == [1, None, None]
    assert (people.height, raw["custom_id"].n_unique()) == (2, 3)
    assert json.loads(raw["metadata"][1]) == {"imported_custom_id": "x", "imported_choice": 1}


def test_a_candidate_is_the_whole_conversation(read):
    requests = [
        ask("a", "May I?", "Which?", "Go on.", system="A judge."),
        ask("b", "How long?", "Soft?", "Go on."),
        ask("c", "Hello!", system="Be kind."),
        ask("d", "Hello!", system="Be rude."),
        ask("e", "Hello!"),
        ask("f", "Hello!"),
    ]
    people, raw = read(requests, [answer(r["custom_id"], r["custom_id"]) for r in requests])
    assert people.height == 5
    assert raw["candidate_id"].n_unique() == 5
    profiles = dict(people.select("candidate_id", "profile").iter_rows())
    for request, candidate in zip(requests, raw["candidate_id"], strict=True):
        profile = json.loads(profiles[candidate])
        messages = request["body"]["messages"]
        assert profile["input"] == messages[-1]["content"]
        assert profile.get("messages", messages) == messages
        assert ("messages" in profile) == (len(messages) > 1)
    assert raw["candidate_id"][4] == lake_rows.hashed("Hello!")  # as an output without batch files has it


def test_a_question_in_parts_is_the_text_of_its_parts(read):
    parts = [
        {"type": "text", "text": "What is "},
        {"type": "image_url", "image_url": {"url": "data:,x"}},
        {"type": "text", "text": "this?"},
    ]
    people, raw = read([ask("p", parts)], [answer("p", "a cat")])
    assert raw["input"].to_list() == ["What is this?"]
    assert json.loads(raw["messages"][0])[0]["content"] == parts
    assert json.loads(people["profile"][0])["messages"][0]["content"] == parts


@pytest.mark.parametrize("order", [1, -1])
def test_an_answer_counts_before_a_failure_whichever_comes_first(read, order):
    _, raw = read([ask("x", "q")], [answer("x", "yes"), failed("x"), failed("x", "429")][::order])
    assert raw["llm_output"].to_list() == ["yes"]


def test_the_same_answer_twice_is_one(read):
    _, raw = read([ask("x", "q")], [answer("x", "yes"), answer("x", "yes") | {"id": "again"}])
    assert raw["llm_output"].to_list() == ["yes"]


@pytest.mark.parametrize(
    ("requests", "results", "message"),
    [
        (
            [ask("x", "river"), ask("z", "q"), ask("x", "mountain")],
            [],
            "in.jsonl line 3: custom_id 'x' was used in line 1",
        ),
        (
            [ask("x", "q")],
            [answer("x", "a"), failed("x"), answer("x", "b")],
            "out.jsonl line 3: it answers 'x' otherwise than line 1",
        ),
        (
            [ask("x", "q")],
            [answer("x", "a"), answer("y", "b")],
            "1 lines of out.jsonl answer no request .*line 2, custom_id 'y'",
        ),
        ([ask("x", "q")], [{"response": None}], "line 1, custom_id None"),
        ([ask("x", "q")], ['{"custom_id": "x", "respo'], "out.jsonl line 1 of 1: the last line is torn"),
        ([{"custom_id": "x", "body": {"model": "m"}}], [], "in.jsonl line 1: request 'x' is no chat request"),
        (
            [{"custom_id": "x", "body": {"model": "m", "messages": []}}],
            [],
            "in.jsonl line 1: request 'x' is no chat request",
        ),
        (
            [{"custom_id": "x", "body": {"model": "m", "messages": ["hi"]}}],
            [],
            "in.jsonl line 1: request 'x' is no chat request",
        ),
        ([ask("x", "q"), {"body": {"messages": []}}], [], "in.jsonl line 2: no request"),
        ([ask("x", "q"), {"custom_id": "y", "body": 3}], [], "in.jsonl line 2: no request"),
        ([{"custom_id": "x", "body": {"model": 3, "messages": []}}], [], "in.jsonl line 1: no request"),
        ([], [], "in.jsonl has no requests"),
    ],
)
def test_files_that_do_not_pair_are_refused_with_the_lines(read, requests, results, message):
    with pytest.raises(PrerequisiteError, match=message):
        read(requests, results)


def test_results_that_are_no_canonical_json_are_read(read):
    line = json.dumps(answer("x", "cut \ud83d")).replace('"usage"', '"spread": NaN, "usage"')
    _, raw = read([ask("x", "q")], [line])
    assert raw["llm_output"].to_list() == ["cut \ufffd"]


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "x"},
        {"custom_id": "x", "response": {"status_code": 200, "body": "<html>"}},
        {"custom_id": "x", "response": {"status_code": 200, "body": {"choices": {"0": 1}}}},
        {"custom_id": "x", "response": [], "error": "gone"},
    ],
)
def test_a_line_that_says_nothing_known_is_a_status_with_its_number(read, line):
    _, raw = read([ask("x", "q")], [line])
    assert raw["status"].to_list() == ["unavailable"]
    assert json.loads(raw["error"][0])["line"] == 1


def test_a_number_as_custom_id_joins_too(read):
    _, raw = read([ask("x", "q") | {"custom_id": 7}], [answer("x", "a") | {"custom_id": 7}])
    assert raw["llm_output"].to_list() == ["a"]
