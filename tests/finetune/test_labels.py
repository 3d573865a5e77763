"""What is trained is what a server is asked, for the chat templates that people have.

The rest is refused with the way out.
"""

import datetime
import json
import re
import shutil

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toys import (
    CHATML,
    DEEPSEEK,
    FUZZ,
    MISTRAL,
    STOCK,
    STRIPS,
    TEMPLATES,
    TINY,
    label,
    learned,
    messages,
    one,
    said,
    speaking,
)

from arislab import chat, finetune
from arislab.errors import ParameterError, PrerequisiteError
from arislab.tiny import decoder

OPENED = DEEPSEEK.replace("<｜Assistant｜>{% endif %}", "<｜Assistant｜><think>\n{% endif %}")
THINKING = ("qwen3", "qwen3_5_think", "qwen3_6", "nemotron_3_nano")
TEMPLATES |= {name: ((STOCK / f"{name}.jinja").read_text(), {"enable_thinking": False}) for name in THINKING}
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


@pytest.fixture(scope="module")
def speakers(tokenizer):
    return {name: (speaking(tokenizer, source), kwargs) for name, (source, kwargs) in TEMPLATES.items()}


def asked(tokenizer, messages, kwargs, tools=None):
    """The token ids of the prompt that a server computes.

    Transformers' own rendering of the messages as they are sent.
    """
    found = finetune.check_template(tokenizer, chat_template_kwargs=kwargs)
    kwargs = dict(found.chat_template_kwargs)
    if "strftime_now" in tokenizer.chat_template and "date_string" not in kwargs:
        text = chat.Template(tokenizer.chat_template, tokenizer.special_tokens_map).render(
            chat.in_role(messages, found.system_role), tools=tools, chat_template_kwargs=kwargs
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    sent = chat.in_role(messages, found.system_role)
    return tokenizer.apply_chat_template(sent, tools=tools, add_generation_prompt=True, return_dict=True, **kwargs)[
        "input_ids"
    ]


# What is trained


CHATS = ([USER], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER], [{"role": "developer", "content": "Be brief."}, USER])


@pytest.mark.parametrize("name", TEMPLATES)
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


@pytest.mark.parametrize("name", TEMPLATES)
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
    name=st.sampled_from(sorted(TEMPLATES)),
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
@given(name=st.sampled_from(sorted(TEMPLATES)), conversation=dialogue)
def test_a_dialogue_of_plain_texts_is_never_refused(speakers, name, conversation):
    texts = [m["content"] for m in conversation]
    assume(not any(re.search(r"[<\[\]>|]", text) for text in texts))
    tokenizer, kwargs = speakers[name]
    row = label(tokenizer, conversation, "Yes.", kwargs=kwargs)
    assert (row["status"], row["reason"]) == ("ok", None)


@pytest.mark.parametrize("name", TEMPLATES)
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


# Reasoning


@pytest.mark.parametrize("name", THINKING)
def test_a_model_that_thinks_first_is_refused_with_the_setting_that_closes_the_block(tokenizer, name):
    other = speaking(tokenizer, TEMPLATES[name][0])
    with pytest.raises(
        PrerequisiteError, match=r'set chat_template_kwargs \{"enable_thinking": false\} in phases 1, 3, 4 and 5'
    ):
        finetune.check_template(other)
    row = label(other, [USER], "Fine.")
    assert (row["status"], "enable_thinking" in row["reason"]) == ("template", True)


def test_answers_with_their_own_reasoning_are_trained_where_the_model_is_to_think(tokenizer):
    other = speaking(tokenizer, TEMPLATES["qwen3"][0])
    found = finetune.check_template(other, chat_template_kwargs={"enable_thinking": True})
    assert "only answers that hold their own reasoning" in repr(found)
    thought = "<think>\nTides first.\n</think>\n\nFine."
    row = label(other, [USER], thought, kwargs={"enable_thinking": True})
    assert learned(other, row) == thought + "<|im_end|>"
    assert label(other, [USER], "Fine.", kwargs={"enable_thinking": True})["status"] == "template"


def test_a_prompt_that_opens_a_think_block_takes_only_answers_that_close_it(tokenizer):
    other = speaking(tokenizer, OPENED)
    with pytest.raises(
        PrerequisiteError,
        match=r"opens '<think>': answers must hold their reasoning up to its end, or a chat_template\.jinja",
    ):
        finetune.check_template(other)
    assert label(other, [USER], "Fine.")["status"] == "template"
    assert (
        learned(other, label(other, [USER], "Tides.\n</think>\n\nFine."))
        == "Tides.\n</think>\n\nFine.<｜end▁of▁sentence｜>"
    )


def test_an_empty_think_block_that_no_setting_closes_is_said_and_not_trained(speakers):
    tokenizer, _ = speakers["a think block that no setting closes"]
    assert "'<think></think>\\n' before an answer that it repeats, but not when a server asks" in repr(
        finetune.check_template(tokenizer)
    )


# Instructions, dates, bos


@pytest.mark.parametrize(
    ("name", "role"),
    [("gemma", "user"), ("mistral", "user"), ("gemma3", "system"), ("chatml", "system"), ("cohere", "system")],
)
def test_the_role_of_instructions_is_the_one_that_the_template_knows(speakers, name, role):
    found = finetune.check_template(speakers[name][0])
    assert found.system_role == role
    assert found.fields == {"system_role": role}
    assert ("no system role: the instructions stand before the first question" in repr(found)) == (role == "user")


def test_a_template_that_knows_developers_is_given_them(tokenizer):
    source = STRIPS.replace(
        "<|{{ m.role }}|>", "{{ '<|system|>dev: ' if m.role == 'developer' else '<|' + m.role + '|>' }}"
    )
    other = speaking(tokenizer, source)
    assert finetune.check_template(other).system_role == ""
    row = label(other, [{"role": "developer", "content": "Be brief."}, USER], "Fine.")
    assert "<|system|>dev: Be brief.<|end|>" in other.decode(row["input_ids"])


@pytest.mark.parametrize(("name", "form"), [("granite", "%B %d, %Y"), ("llama3_2", "%d %b %Y")])
def test_a_template_with_a_date_gives_the_same_tokens_on_every_day(speakers, monkeypatch, name, form):
    tokenizer, _ = speakers[name]
    texts = set()
    for day in (3, 19):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2031, 5, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        row = label(tokenizer, [USER], "Fine.")
        texts.add((row["status"], tokenizer.decode(row["input_ids"])))
    ((status, text),) = texts
    assert status == "ok"
    assert chat.DAY.strftime(form) in text
    assert "writes the date" in repr(finetune.check_template(tokenizer))


def test_a_date_that_can_be_told_is_told_to_servers_too(speakers):
    tokenizer, _ = speakers["llama3_2"]
    assert finetune.check_template(tokenizer).fields["chat_template_kwargs"] == {"date_string": "26 Jul 2024"}
    mine = finetune.check_template(tokenizer, chat_template_kwargs={"date_string": "1 May 2031"})
    assert mine.fields["chat_template_kwargs"] == {"date_string": "1 May 2031"}


def test_a_bos_that_is_also_the_turn_marker_trains_and_one_written_twice_is_refused(tokenizer):
    other = speaking(tokenizer, CHATML)
    other.bos_token, other.eos_token = "<|im_start|>", "<|im_end|>"
    row = label(other, [SYSTEM, USER, ASSISTANT, USER], "Fine.")
    assert (row["status"], learned(other, row)) == ("ok", "Fine.<|im_end|>")
    other.chat_template = "{{ bos_token }}" + CHATML
    with pytest.raises(PrerequisiteError, match=r"begins with '<\|im_start\|>' twice; leave one out"):
        finetune.check_template(other)


# Refused as a whole, with what to do


@pytest.fixture
def folder(tmp_path):
    def made(template=None, **config):
        path = tmp_path / "my-base"
        shutil.copytree(TINY, path)
        (path / "chat_template.jinja").unlink()
        if template is not None:
            (path / "chat_template.jinja").write_text(template)
        for name, changes in config.items():
            file = path / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return path

    return made


def test_a_base_model_without_a_template_is_named_with_the_way_out(folder):
    path = folder()
    for ask in (lambda: finetune.check_template(path), lambda: finetune.tokenize(one([USER], "Fine."), path)):
        with pytest.raises(
            PrerequisiteError, match=rf"{path} has no chat template, .*instruct model, or put .* chat_template\.jinja"
        ):
            ask()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", r"is not valid .*mend chat_template\.jinja"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", r"writes no stop token after an answer; .*eos_token"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}<|end|>{% endfor %}", "leaves the answer out"),
        ("{{ raise_exception('not today') }}", "the chat template refuses: not today"),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }} (end)<|end|>{% endfor %}", r"writes ' \(end\)' after an answer"),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}", r"'<\|assistant\|>' before an answer, and its generation prompt does not"),
        ((STOCK / "gptoss.jinja").read_text(), "before an answer, and its generation prompt does not"),
        ("{{ messages[0].content + 1 }}", "the chat template refuses: can only concatenate str"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_served_and_trained_alike_is_refused_with_what_to_do(tokenizer, template, message):
    with pytest.raises(PrerequisiteError, match=message):
        finetune.check_template(speaking(tokenizer, template))


def test_a_stop_token_at_which_no_server_stops_is_refused_with_the_number_to_add(folder):
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|system|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    path = folder(template)
    with pytest.raises(
        PrerequisiteError, match=r"with '<\|system\|>' \(id 2\), and servers stop at \[5\] only.*add 2 to eos_token_id"
    ):
        finetune.check_template(path)
    (path / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
    assert finetune.check_template(path).stop_token == "<|system|>"


def test_settings_that_a_template_ignores_are_refused_with_those_it_reads(speakers):
    tokenizer, _ = speakers["qwen3"]
    with pytest.raises(ParameterError, match=r"does not read 'enable_thinkin' .* did you mean 'enable_thinking'"):
        finetune.check_template(tokenizer, chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ParameterError, match="it takes none: leave them out"):
        finetune.check_template(speakers["mistral"][0], chat_template_kwargs={"enable_thinking": False})
    with pytest.raises(ParameterError, match="cannot hold 'messages'"):
        finetune.check_template(tokenizer, chat_template_kwargs={"messages": []})


def test_several_templates_by_name_are_read_by_training_and_the_embedded_server_alike(folder):
    default = STRIPS.replace("<|{{ m.role }}|>", "<|{{ m.role }}|>d:")
    path = folder(
        tokenizer_config={
            "chat_template": [{"name": "default", "template": default}, {"name": "tool_use", "template": STRIPS}]
        }
    )
    tokenizer = finetune.load_tokenizer(path)
    row = label(tokenizer, [USER], "Fine.")
    assert "d:Sea levels" in tokenizer.decode(row["input_ids"])
    assert decoder.ChatTemplate(path).render([USER]) == "<|user|>d:Sea levels rise.<|end|><|assistant|>"


@pytest.mark.parametrize("name", ["gemma", "llama3_2", "granite", "qwen3", "chatml"])
def test_the_embedded_server_writes_the_prompt_that_was_trained(speakers, tmp_path, name):
    tokenizer, kwargs = speakers[name]
    tokenizer.save_pretrained(tmp_path)
    served = decoder.ChatTemplate(tmp_path)
    for conversation in ([SYSTEM, USER], [{"role": "developer", "content": "Be brief."}, USER]):
        row = label(tokenizer, conversation, "Fine.", kwargs=kwargs)
        cut = len(row["labels"]) - row["n_supervised"]
        assert served.render(conversation, kwargs) == tokenizer.decode(row["input_ids"][:cut])


# Tools


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
