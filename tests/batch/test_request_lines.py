"""A user's file of requests: every valid line goes out as it is, every other one is refused with its cause."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab import batch
from arislab.batch.protocol import URL, encode, parse
from arislab.batch.request_lines import MAX_ID, request
from arislab.batch.sending import cut
from arislab.errors import ParameterError
from arislab.server.limits import Limits
from arislab.server.scan import check_line

texts = st.text(max_size=20)
ids = st.text(min_size=1, max_size=40) | st.text(min_size=MAX_ID - 2, max_size=MAX_ID)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
bodies = st.fixed_dictionaries(
    {
        "model": st.text(min_size=1, max_size=30),
        "messages": st.lists(
            st.fixed_dictionaries({"role": texts, "content": texts | st.lists(st.fixed_dictionaries({"text": texts}))}),
            min_size=1,
            max_size=3,
        ),
    },
    optional={
        "seed": st.integers(),
        "temperature": numbers,
        "user": texts,
        "x-more": st.lists(numbers | texts, max_size=3),
    },
)


def written(name, body, *, is_ascii):
    line = {"custom_id": name, "method": "POST", "url": URL, "body": body}
    return json.dumps(line, ensure_ascii=is_ascii).encode()


@settings(max_examples=FUZZ, deadline=None)
@given(rows=st.dictionaries(ids, bodies, min_size=1, max_size=4), is_ascii=st.booleans())
def test_any_valid_file_reaches_the_server_with_its_ids_and_bodies(tmp_path_factory, rows, is_ascii):
    file = tmp_path_factory.getbasetemp() / "requests.jsonl"
    file.write_bytes(b"\n".join(written(name, body, is_ascii=is_ascii) for name, body in rows.items()))
    requests = batch.read_requests(file)
    assert requests["custom_id"].to_list() == list(rows)
    sent = {}
    for names, content in cut(requests, max_lines=100, max_bytes=10**9):
        for name, raw in zip(names, content.split(b"\n")[:-1], strict=True):
            sent[name] = check_line(raw, URL, Limits())  # as arislab serve reads it
    assert sent == {name: (name, json.loads(json.dumps(body))) for name, body in rows.items()}


@settings(max_examples=FUZZ, deadline=None)
@given(name=ids, body=bodies)
def test_a_line_that_is_written_is_the_line_that_is_read(name, body):
    raw = encode(name, batch.canonical(body))
    assert raw.count(b"\n") == 1
    assert raw.isascii()
    assert parse(raw.strip())["custom_id"] == name
    assert request(raw) == (name, json.loads(json.dumps(body)))


@settings(max_examples=FUZZ, deadline=None)
@given(
    raw=st.binary(min_size=1, max_size=60)
    | st.dictionaries(texts, st.none() | numbers | texts | st.lists(texts)).map(json.dumps).map(str.encode)
)
def test_anything_else_is_refused_in_one_sentence(raw):
    with pytest.raises(ValueError, match=r"custom_id|JSON") as caught:
        request(raw)
    assert "\n" not in str(caught.value)


GOOD = {"model": "swift-7b", "messages": [{"role": "user", "content": "Which bird is this?"}]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"custom_id": "n-1", "body": {"model": "m" "messages": []}}', r"no JSON: .* column 44"),
        (b'{"custom_id": "n-1", "body": {"temperature": NaN}}', r"no JSON: .*NaN"),
        (b'{"custom_id": "cut \\ud83d"}', r"no JSON: .*surrogate"),
        (b'{"custom_id": "a", "custom_id": "b"}', r"no JSON: the key 'custom_id' stands twice"),
        (b'["a"]', r"must be a JSON object, got list"),
        (written(4711, GOOD, is_ascii=True), r"custom_id must be text of 1 to 512 characters, got 4711"),
        (written("", GOOD, is_ascii=True), r"custom_id .* got 0 characters"),
        (written("z" * 513, GOOD, is_ascii=True), r"custom_id .* got 513 characters"),
        (b'{"body": {}}', r"custom_id .* got none"),
        (written("n", {"messages": GOOD["messages"]}, is_ascii=True), r"body\.model must name the model .* got none"),
        (written("n", GOOD | {"model": 7}, is_ascii=True), r"body\.model .* got 7"),
        (written("n", {"model": "m"}, is_ascii=True), r"body\.messages must be a list .* got null"),
        (written("n", GOOD | {"messages": []}, is_ascii=True), r"body\.messages .* got \[\]"),
        (written("n", GOOD | {"stream": True}, is_ascii=True), r"stream is not possible"),
        (written("n", GOOD | {"n": 3}, is_ascii=True), r"got n=3"),
        (
            b'{"custom_id": "n", "url": "/v1/responses", "body": {}}',
            r"url must be '/v1/chat/completions', got '/v1/responses'",
        ),
        (b'{"custom_id": "n", "method": "GET"}', r"method must be 'POST', got 'GET'"),
        (b'{"custom_id": "n"}', r"body must be an object, got none"),
    ],
)
def test_the_cause_is_named_with_the_line(tmp_path, raw, said):
    file = tmp_path / "requests.jsonl"
    file.write_bytes(written("first", GOOD, is_ascii=True) + b"\n\n" + raw + b"\n")
    with pytest.raises(ParameterError, match=rf"requests\.jsonl, line 3: .*{said}"):
        batch.read_requests(file)


def test_an_id_that_comes_twice_names_both_lines(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"\n".join(written(name, GOOD, is_ascii=True) for name in ("Ä", "b", "Ä")))
    with pytest.raises(ParameterError, match=r"line 3: custom_id 'Ä' was used in line 1"):
        batch.read_requests(file)


def test_a_content_in_parts_is_taken_as_it_is(tmp_path):
    parts = [
        {"type": "text", "text": "Which bird?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    file = tmp_path / "requests.jsonl"
    file.write_bytes(written("p", GOOD | {"messages": [{"role": "user", "content": parts}]}, is_ascii=True))
    (body,) = batch.read_requests(file)["body"]
    assert json.loads(body)["messages"][0]["content"] == parts
