"""Chats with calls of tools, from request and result lines to what is trained.

Calls stay calls, and what was asked stays as it was asked.

What may happen to a row instead is a status; nothing makes a text of a call, or leaves it out of the conversation.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import FUZZ, SPOKEN, TINY, learned, said, speaking

from arislab import batch, chat, curate, finetune, review, scoring, structured
from arislab.batch import protocol
from arislab.curate import verdicts
from arislab.inputs import importing
from arislab.lake import Lake
from arislab.task import load

NATIVE = (
    "{% if tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}{% for m in messages %}<|{{ m.role }}|>{% if "
    "m.tool_calls %}{{ m.content or '' }}"
    "{% for c in m.tool_calls %}[CALL]{{ c.function | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif "
    "%}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)  # writes calls and tools in the order of their keys, as Mistral's templates do
SPEAKS = {name: SPOKEN[name] for name in ("qwen2_5", "qwen3", "llama3_1", "gemma", "chatml")} | {"native": (NATIVE, {})}


@pytest.fixture(scope="module")
def speakers():
    tokenizer = finetune.load_tokenizer(TINY)
    return {name: (speaking(tokenizer, source), kwargs) for name, (source, kwargs) in SPEAKS.items()}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "any_chat.py"
    path.write_text(
        "def to_messages(candidate): return [{'role': 'user', 'content': candidate['profile']['input']}]\n"
        "SCORERS = {'some': lambda output: 1.0}\nWEIGHTS = {'some': 1}\nGOLD = []\n"
    )
    return load(path)


words = said | st.sampled_from(
    ["weather", "<tool_call>", "[TOOL_CALLS]", '{"name": "x", "arguments": {}}', "null", "[]"]
)
letters = st.text("abcdefgh äß 12.,", min_size=1, max_size=12).map(lambda text: f"x{text}y")
"""Texts that no template and no tokenizer could have anything against."""
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
part = st.builds(lambda text: {"type": "text", "text": text}, words)
picture = st.just({"type": "image_url", "image_url": {"url": "data:,x"}})


@cache  # the strategies are made once, not for each draw of a conversation
def objects(texts):
    values = st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda one: st.lists(one, max_size=3) | st.dictionaries(texts, one, max_size=3),
    )
    return st.dictionaries(st.sampled_from(["town", "b", "a"]) | texts, values, max_size=3)


@cache
def functions(texts, *, odd):
    names = st.sampled_from(["weather", "look_up", "b-2"]) | (texts if odd else st.nothing())
    given = objects(texts)
    given = given.map(json.dumps) | given.map(lambda one: json.dumps(one, ensure_ascii=False)) | given
    no_objects = st.sampled_from(["", "town=Ulm", "[1]", None]) if odd else st.nothing()
    return st.fixed_dictionaries({"name": names, "arguments": given | no_objects})


@cache
def calls(texts, *, odd):
    return st.fixed_dictionaries(
        {"type": st.just("function"), "function": functions(texts, odd=odd)},
        optional={"id": texts, "index": st.integers(0, 3)},
    )


def offers(texts):
    one = st.fixed_dictionaries(
        {"name": texts}, optional={"parameters": objects(texts), "description": texts, "strict": st.booleans()}
    )
    tools = st.lists(one.map(lambda function: {"type": "function", "function": function}), min_size=1, max_size=3)
    older = st.lists(one, min_size=1, max_size=2)
    none = st.sampled_from([{}, {"tools": []}, {"tools": None}])
    return tools.map(lambda some: {"tools": some}) | older.map(lambda some: {"functions": some}) | none


@st.composite
def conversations(draw, texts, *, odd):
    """Messages as they are sent, which end with a question or with what a tool said; odd.

    In every form that clients write.
    """
    chat_so_far = (
        [{"role": draw(st.sampled_from(["system", "developer"])), "content": draw(texts)}]
        if draw(st.booleans())
        else []
    )
    forms = texts | (st.lists(part | picture, min_size=1, max_size=2) if odd else st.nothing())
    beside = st.sampled_from([None, "", " "]) | forms if odd else st.none() | texts
    for more in range(draw(st.integers(1, 2))):
        if more:
            older = {
                "role": "assistant",
                "content": draw(st.none() | texts),
                "function_call": draw(functions(texts, odd=odd)),
            }
            chat_so_far.append(older if odd and draw(st.booleans()) else {"role": "assistant", "content": draw(texts)})
        chat_so_far.append({"role": "user", "content": draw(forms)})
        for _ in range(draw(st.integers(0, 2))):
            made = draw(st.lists(calls(texts, odd=odd), min_size=1, max_size=2))
            asks = {"role": "assistant", "content": draw(beside), "tool_calls": made}
            asks |= {"reasoning_content": draw(texts)} if draw(st.booleans()) else {}
            if asks["content"] is None and draw(st.booleans()):
                del asks["content"]
            chat_so_far.append(asks)
            chat_so_far += [
                {"role": "tool", "content": draw(texts | st.just("")), "tool_call_id": c.get("id", "?")} for c in made
            ]
    return chat_so_far


def answers(texts, *, odd):
    """Messages of the assistant: a text, calls, or both; odd: in every form that servers write."""
    some = st.lists(calls(texts, odd=odd), min_size=1, max_size=3)
    text = st.builds(lambda text: {"role": "assistant", "content": text}, texts)
    both = st.builds(
        lambda text, made: {"role": "assistant", "content": text, "tool_calls": made}, st.none() | texts, some
    )
    if not odd:
        return text | both
    contents = texts | st.lists(part, min_size=1, max_size=2) | st.sampled_from([None, "", " "])
    return st.one_of(
        text,
        st.builds(lambda text, made: {"role": "assistant", "content": text, "tool_calls": made}, contents, some),
        st.builds(
            lambda text, made: {"role": "assistant", "content": text, "function_call": made},
            contents,
            functions(texts, odd=odd),
        ),
        st.builds(lambda text, none: {"content": text, "tool_calls": none}, texts, st.sampled_from([None, []])),
        st.lists(st.sampled_from([{}, 1, None]), min_size=1, max_size=2).map(
            lambda made: {"role": "assistant", "tool_calls": made}
        ),
    )


ODD = conversations(words, odd=True), offers(words), answers(words, odd=True)
SOUND = conversations(words, odd=False), offers(words), answers(words, odd=False)
PLAIN = conversations(letters, odd=False), offers(letters), answers(letters, odd=False)
reasons = st.sampled_from(["stop", "tool_calls", "length", None])
exchanges = st.lists(st.tuples(*ODD, reasons) | st.tuples(*SOUND, reasons), min_size=1, max_size=4)


def written(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=len(line) % 2) + "\n" for line in lines), encoding="utf-8")
    return path


def curated(folder, asked, task):
    """Import, store, score, curate and store exchanges, as phases 1 and 2 do.

    Return their rows in both tables, by their custom_id.
    """
    requests = [
        {
            "custom_id": f"q{i}",
            "method": "POST",
            "url": protocol.URL,
            "body": {"model": "m", "messages": messages, "n": 1, "seed": i} | offered,
        }
        for i, (messages, offered, _, _) in enumerate(asked)
    ]
    results = [
        {
            "custom_id": f"q{i}",
            "response": {
                "status_code": 200,
                "body": {"choices": [{"index": 0, "message": message, "finish_reason": reason}]},
            },
        }
        for i, (_, _, message, reason) in enumerate(asked)
    ]
    lake = Lake(folder / "lake")
    importing.batch(lake, written(folder / "out.jsonl", results), task, requests=written(folder / "in.jsonl", requests))
    raw, people = lake["training_data_raw"].read(), lake["candidates"].read()
    name = pl.col("metadata").str.json_path_match("$.imported_custom_id")
    ok = raw.filter(status="ok")
    if ok.height:
        reviews = lake["reviews"].read()
        rows = structured.check(scoring.rows(ok, people, task=task), task.schema)
        rows = verdicts.edited(rows, verdicts.judged(raw, people, task, reviews, repair=False))
        scored = scoring.score(rows, task).select("custom_id", "quality")
        best = rows.drop("quality", strict=False).join(scored, on="custom_id", maintain_order="left")
        lake["training_data_curated"].replace(
            review.fold(curate.examples(best, people, task), reviews), where={"task": task.name}
        )
    kept = lake["training_data_curated"].read()
    by_name = [{row["name"]: row for row in frame.with_columns(name=name).to_dicts()} for frame in (raw, kept)]
    return *by_name, kept


def expected(message):
    """The text and the calls of an answer."""
    older = message.get("function_call")
    made = message.get("tool_calls") or ([{"type": "function", "function": older}] if isinstance(older, dict) else [])
    content = message.get("content")
    text = "".join(one["text"] for one in content) if isinstance(content, list) else content
    return text, made


def offered_by(body):
    return body.get("tools") or [{"type": "function", "function": one} for one in body.get("functions") or []]


@pytest.mark.slow
@settings(max_examples=FUZZ, deadline=None)
@given(asked=exchanges)
def test_chats_with_tools_come_back_from_import_store_and_curation_as_they_went_in(task, asked):
    with tempfile.TemporaryDirectory() as folder:
        raw, kept, frame = curated(Path(folder), asked, task)
        finetune.export_jsonl(frame, Path(folder) / "chat.jsonl")
        exported = dict(
            zip(frame["id"], (Path(folder) / "chat.jsonl").read_text(encoding="utf-8").split("\n"), strict=False)
        )
    assert len(raw) == len(asked)
    for i, (messages, offered, message, reason) in enumerate(asked):
        row, (text, made) = raw[f"q{i}"], expected(message)
        status = "empty" if not made and not (text or "").strip() else "truncated" if reason == "length" else "ok"
        assert row["status"] == status
        assert (f"q{i}" in kept) == (status == "ok")
        answer = {"role": "assistant", "content": text if (text or "").strip() or not made else None} | (
            {"tool_calls": made} if made else {}
        )
        assert json.dumps(chat.answer(row["llm_output"], row["tool_calls"])) == json.dumps(answer)
        if status == "ok":
            line = {"messages": [*messages, answer]} | ({"tools": offered_by(offered)} if offered_by(offered) else {})
            assert json.dumps(json.loads(exported[kept[f"q{i}"]["id"]])) == json.dumps(line), (
                "also the order of keys, which templates write"
            )


def parsed(message):
    """A message as servers give it to templates: the arguments of its calls as objects."""
    made = []
    for call in message["tool_calls"]:
        given = call["function"]["arguments"]
        given = json.loads(given) if isinstance(given, str) else given
        made.append(call | {"function": call["function"] | {"arguments": given}})
    return message | {"tool_calls": made, "content": message.get("content")}


def texts(value):
    """Every text in a value: the arguments of calls as the JSON that they are."""
    return {json.dumps(value), json.dumps(value, ensure_ascii=False), batch.canonical(value)}


def tokenized(tokenizer, kwargs, messages, offered, message):
    one = batch.outcome(
        {"response": {"status_code": 200, "body": {"choices": [{"index": 0, "message": message}]}}}, "completed"
    )
    row = {"id": "r", "messages": protocol.as_written(messages), "output": one["llm_output"]}
    row |= {"tools": protocol.offered(offered), "tool_calls": one["tool_calls"]}
    frame = pl.DataFrame([row], schema=dict.fromkeys(row, pl.String))
    return finetune.tokenize(frame, tokenizer, max_length=10**6, chat_template_kwargs=kwargs).row(0, named=True)


@pytest.mark.slow
@settings(max_examples=FUZZ, deadline=None)
@given(name=st.sampled_from(sorted(SPEAKS)), exchange=st.tuples(*ODD) | st.tuples(*SOUND) | st.tuples(*SOUND))
@example(
    name="native",
    exchange=(
        [{"role": "user", "content": "0"}],
        {},
        {"role": "assistant", "content": " ", "function_call": {"name": "weather", "arguments": "{}"}},
    ),
)
def test_calls_are_trained_as_the_template_writes_them_or_the_row_has_a_status(speakers, name, exchange):
    tokenizer, kwargs = speakers[name]
    messages, offered, message = exchange
    row = tokenized(tokenizer, kwargs, *exchange)
    if row["status"] != "ok":
        assert row["status"] in finetune.STATUSES
        assert row["reason"]
        return
    template = finetune.check_template(tokenizer, chat_template_kwargs=kwargs)
    sent = [parsed(m) if m.get("tool_calls") else m for m in chat.in_role(messages, template.system_role)]
    shared = {"tools": offered_by(offered) or None, "tokenize": False, **template.chat_template_kwargs}
    prompt = tokenizer.apply_chat_template(sent, add_generation_prompt=True, **shared)
    n_prompt = len(row["input_ids"]) - row["n_supervised"]
    assert row["input_ids"][:n_prompt] == tokenizer(prompt, add_special_tokens=False)["input_ids"], (
        "what a server is asked"
    )
    text, made = expected(message)
    if not made:
        assert learned(tokenizer, row) == text + template.stop_token
        return
    text = text if (text or "").strip() else None  # a blank beside calls is no text, as it comes back from the lake
    assert not any(json_text in learned(tokenizer, row) for json_text in texts(made))
    wholes = [
        tokenizer.apply_chat_template(
            [*sent, parsed({"role": "assistant", "content": content, "tool_calls": made})], **shared
        )
        for content in (text or "", text or None)
    ]
    assert any(whole.removeprefix(prompt).startswith(learned(tokenizer, row)) for whole in wholes)


@pytest.mark.slow
@settings(max_examples=FUZZ, deadline=None)
@given(name=st.sampled_from(["native", "qwen2_5", "qwen3"]), exchange=st.tuples(*PLAIN))
def test_a_chat_with_plain_texts_and_calls_is_never_refused_where_the_template_writes_calls(speakers, name, exchange):
    row = tokenized(*speakers[name], *exchange)
    assert (row["status"], row["reason"]) == ("ok", None)
