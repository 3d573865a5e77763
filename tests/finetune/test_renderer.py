"""What a server is asked and what it should say are what is trained, whatever the template writes around it."""

import datetime
import json
import re

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toys import FUZZ, MISTRAL, SPOKEN, label, learned, messages, one, said

from arislab import chat, finetune

SYSTEM, USER = {"role": "system", "content": "Grade the essay."}, {"role": "user", "content": "Sea levels rise."}
ASSISTANT = {"role": "assistant", "content": "Good."}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a town.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]


def asked(tokenizer, messages, kwargs, tools=None):
    """The token ids of the prompt that a server computes.

    Transformers' own rendering of the messages as they are sent.
    """
    template = finetune.check_template(tokenizer, chat_template_kwargs=kwargs)
    kwargs = dict(template.chat_template_kwargs)
    if "strftime_now" in tokenizer.chat_template and "date_string" not in kwargs:
        text = chat.Template(tokenizer.chat_template, tokenizer.special_tokens_map).render(
            chat.in_role(messages, template.system_role), tools=tools, chat_template_kwargs=kwargs
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    sent = chat.in_role(messages, template.system_role)
    return tokenizer.apply_chat_template(sent, tools=tools, add_generation_prompt=True, return_dict=True, **kwargs)[
        "input_ids"
    ]


CHATS = ([USER], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER], [{"role": "developer", "content": "Be brief."}, USER])


@pytest.mark.parametrize("name", SPOKEN)
@pytest.mark.parametrize("messages", [*CHATS, [{"role": "system", "content": ""}, USER]])
def test_prompt_answer_and_stop_are_what_a_server_is_asked_and_should_say(speakers, name, messages):
    tokenizer, kwargs = speakers[name]
    row = label(tokenizer, messages, "A clear  text.", kwargs=kwargs)
    assert (row["status"], row["reason"]) == ("ok", None)
    prompt = asked(tokenizer, messages, kwargs)
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [-100] * len(prompt)
    assert row["labels"][len(prompt) :] == row["input_ids"][len(prompt) :]
    stop = finetune.check_template(tokenizer, chat_template_kwargs=kwargs).stop_token
    assert learned(tokenizer, row) == "A clear  text." + stop


@pytest.mark.parametrize("name", SPOKEN)
def test_instructions_are_in_the_prompt_whatever_role_the_model_knows(speakers, name):
    tokenizer, kwargs = speakers[name]
    for role in ("system", "developer"):
        row = label(tokenizer, [{"role": role, "content": "Mind the commas."}, USER], "Fine.", kwargs=kwargs)
        assert tokenizer.decode(row["input_ids"]).count("Mind the commas.") == 1


dialogue = st.builds(
    lambda head, question, turns: [
        *([{"role": head[0], "content": head[1]}] if head else []),
        {"role": "user", "content": question},
        *(
            m
            for answer, again in turns
            for m in ({"role": "assistant", "content": answer}, {"role": "user", "content": again})
        ),
    ],
    st.none() | st.tuples(st.sampled_from(["system", "developer"]), said | st.just("")),
    said,
    st.lists(st.tuples(said, said), max_size=2),
)


@settings(max_examples=FUZZ, deadline=None)
@given(
    name=st.sampled_from(sorted(SPOKEN)),
    conversation=dialogue | st.lists(messages, max_size=4),
    answer=said | st.just(""),
)
def test_labels_cover_exactly_the_answer_or_the_row_is_refused_with_a_reason(speakers, name, conversation, answer):
    tokenizer, kwargs = speakers[name]
    row = label(tokenizer, conversation, answer, kwargs=kwargs)
    if row["status"] != "ok":
        assert row["status"] in finetune.STATUSES
        assert row["reason"]
        assert row["labels"] is None
        return
    assert answer.strip()
    prompt = asked(tokenizer, conversation, kwargs)
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
    stop = finetune.check_template(tokenizer, chat_template_kwargs=kwargs).stop_token
    assert learned(tokenizer, row) == answer + stop


@settings(max_examples=FUZZ, deadline=None)
@given(name=st.sampled_from(sorted(SPOKEN)), conversation=dialogue)
def test_a_dialogue_of_plain_texts_is_never_refused(speakers, name, conversation):
    texts = [m["content"] for m in conversation]
    assume(not any(re.search(r"[<\[\]>|]", text) for text in texts))
    tokenizer, kwargs = speakers[name]
    row = label(tokenizer, conversation, "Yes.", kwargs=kwargs)
    assert (row["status"], row["reason"]) == ("ok", None)


@pytest.mark.parametrize("name", SPOKEN)
def test_one_renderer_writes_what_transformers_writes(speakers, name):
    tokenizer, kwargs = speakers[name]
    ours = chat.Template(tokenizer.chat_template, tokenizer.special_tokens_map)
    kwargs = kwargs | ({chat.DATE: "1 May 2031"} if "date_string" in tokenizer.chat_template else {})
    for conversation in ([USER], [USER, ASSISTANT, USER], [USER, ASSISTANT]):
        for prompt in (True, False):
            expected = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=prompt, **kwargs
            )
            written = ours.render(conversation, add_generation_prompt=prompt, chat_template_kwargs=kwargs)
            today = datetime.datetime.now().strftime("%B %d, %Y")  # noqa: DTZ005  (transformers asks the local clock)
            assert written.replace(chat.strftime_now("%B %d, %Y"), today) == expected


def test_words_that_begin_with_a_mark_keep_their_first_space():
    """A tokenizer as Llama 2 and Mistral have.

    A word's space is part of it, and the first of a text is dropped when it is read.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = [AddedToken(t, normalized=False, special=True) for t in ("<s>", "</s>", "<unk>")]
    alphabet = sorted(set("▁[]/INSTabcdefghijklmnopqrstuvwxyz. "))
    trainer = trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet)
    made.train_from_iterator(["the sea is a wide place [INST] [/INST] yes it is."] * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = MISTRAL
    question = [{"role": "user", "content": "is the sea wide"}]
    for answer in ("yes it is.", " yes it is."):
        row = label(tokenizer, question, answer)
        assert (row["status"], row["reason"]) == ("ok", None)
        cut = len(row["labels"]) - row["n_supervised"]
        prompt, whole = (tokenizer.decode(part) for part in (row["input_ids"][:cut], row["input_ids"]))
        assert whole.removeprefix(prompt) == answer + "</s>"


CALL = [{"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Łódź"}'}}]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "weather", "arguments": {"town": "Łódź"}}\n</tool_call><|im_end|>'),
        ("qwen3", '<tool_call>\n{"name": "weather", "arguments": {"town": "Łódź"}}\n</tool_call><|im_end|>'),
        ("llama3_1", '{"name": "weather", "parameters": {"town": "Łódź"}}<|eot_id|>'),
    ],
)
def test_a_call_is_trained_as_the_template_writes_it_after_a_prompt_with_the_tools(speakers, name, written):
    tokenizer, kwargs = speakers[name]
    assert finetune.check_template(tokenizer, chat_template_kwargs=kwargs).writes_tools
    row = label(tokenizer, [SYSTEM, USER], json.dumps(CALL), kwargs=kwargs, tools=TOOLS, calls=CALL)
    assert (row["status"], row["reason"]) == ("ok", None)
    prompt = asked(tokenizer, [SYSTEM, USER], kwargs, TOOLS)
    assert row["input_ids"][: len(prompt)] == prompt
    assert "Weather of a town." in tokenizer.decode(prompt)
    assert learned(tokenizer, row) == written


def test_an_answer_to_what_a_tool_said_is_trained_behind_the_call_and_the_result(speakers):
    tokenizer, _ = speakers["qwen2_5"]
    before = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": CALL},
        {"role": "tool", "content": "rain", "tool_call_id": "call_7"},
    ]
    row = label(tokenizer, before, "It rains.", tools=TOOLS)
    assert (row["status"], learned(tokenizer, row)) == ("ok", "It rains.<|im_end|>")
    text = tokenizer.decode(row["input_ids"])
    assert text.index("Łódź") < text.index("<tool_response>\nrain\n</tool_response>") < text.index("It rains.")


def test_a_call_that_the_template_does_not_write_is_left_out_and_counted(speakers):
    tokenizer, _ = speakers["gemma"]
    assert not finetune.check_template(tokenizer).writes_tools
    frame = pl.concat([one([USER], json.dumps(CALL), tools=TOOLS, calls=CALL), one([USER], "Fine.", tools=TOOLS)])
    assert finetune.count_statuses(finetune.tokenize(frame, tokenizer)) == {"ok": 1, "tools": 1}


def test_a_call_is_never_trained_as_text(speakers):
    for name, (tokenizer, kwargs) in speakers.items():
        row = label(tokenizer, [USER], json.dumps(CALL), kwargs=kwargs, tools=TOOLS, calls=CALL)
        assert row["status"] in ("ok", "tools", "too_long"), name
        if row["status"] == "ok":
            assert "call_7" not in learned(tokenizer, row), name


@pytest.mark.parametrize(
    ("calls", "status"),
    [
        ([{"function": {"name": "weather", "arguments": "town=Ulm"}}], "bad_messages"),
        ([{"function": {"arguments": "{}"}}], "bad_messages"),
        ([{"function": {"name": "weather", "arguments": '{"town": "\\u003c|im_end|>"}'}}], "control_token"),
    ],
)
def test_calls_that_are_no_calls_or_hold_control_tokens_are_refused(speakers, calls, status):
    tokenizer, _ = speakers["qwen2_5"]
    assert label(tokenizer, [USER], json.dumps(calls), tools=TOOLS, calls=calls)["status"] == status


def test_a_text_that_a_reviewer_wrote_in_place_of_a_call_is_a_text(speakers):
    tokenizer, _ = speakers["qwen2_5"]
    row = label(tokenizer, [USER], "I cannot know.", tools=TOOLS, calls=CALL)
    assert learned(tokenizer, row) == "I cannot know.<|im_end|>"
    moved = [CALL[0] | {"function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}]
    row = label(tokenizer, [USER], json.dumps(moved), tools=TOOLS, calls=CALL)
    assert '{"town": "Ulm"}' in learned(tokenizer, row)


def test_what_was_thought_before_a_call_stands_in_the_prompt_as_servers_write_it(speakers):
    tokenizer, kwargs = speakers["qwen3"]
    asks = {"role": "assistant", "content": "", "tool_calls": CALL, "reasoning_content": "The town is Polish."}
    before = [USER, asks, {"role": "tool", "content": "rain", "tool_call_id": "call_7"}]
    row = label(tokenizer, before, "It rains.", kwargs=kwargs, tools=TOOLS)
    assert (row["status"], learned(tokenizer, row)) == ("ok", "It rains.<|im_end|>")
    assert "<think>\nThe town is Polish.\n</think>\n\n<tool_call>" in tokenizer.decode(row["input_ids"])
    odd = [USER, asks | {"reasoning_content": ["The town"]}, before[2]]
    assert label(tokenizer, odd, "It rains.", kwargs=kwargs, tools=TOOLS)["status"] == "bad_messages"


def test_an_older_call_in_the_conversation_is_not_left_out_of_it(speakers):
    """No template writes ``function_call``: the conversation would go on as if nothing had been called."""
    tokenizer, _ = speakers["qwen2_5"]
    asks = {"role": "assistant", "content": "I look.", "function_call": CALL[0]["function"]}
    assert label(tokenizer, [USER, asks, USER], "It rains.", tools=TOOLS)["status"] == "bad_messages"
    assert label(tokenizer, [USER, asks | {"function_call": None}, USER], "It rains.", tools=TOOLS)["status"] == "ok"
