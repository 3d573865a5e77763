"""A template is judged as a whole: what it needs is said, and what cannot be trained is refused with the way out."""

import datetime
import json
import shutil

import pytest
from toys import CHATML, DEEPSEEK, SPOKEN, STOCK, STRIPS, THINKING, TINY, label, learned, one, speaking

from arislab import chat, finetune
from arislab.errors import ParameterError, PrerequisiteError
from arislab.tiny import decoder

OPENED = DEEPSEEK.replace("<｜Assistant｜>{% endif %}", "<｜Assistant｜><think>\n{% endif %}")
SYSTEM, USER = {"role": "system", "content": "Grade the essay."}, {"role": "user", "content": "Sea levels rise."}
ASSISTANT = {"role": "assistant", "content": "Good."}


@pytest.mark.parametrize("name", THINKING)
def test_a_model_that_thinks_first_is_refused_with_the_setting_that_closes_the_block(tokenizer, name):
    other = speaking(tokenizer, SPOKEN[name][0])
    with pytest.raises(
        PrerequisiteError, match=r'set chat_template_kwargs \{"enable_thinking": false\} in phases 1, 3, 4 and 5'
    ):
        finetune.check_template(other)
    row = label(other, [USER], "Fine.")
    assert (row["status"], "enable_thinking" in row["reason"]) == ("template", True)


def test_answers_with_their_own_reasoning_are_trained_where_the_model_is_to_think(tokenizer):
    other = speaking(tokenizer, SPOKEN["qwen3"][0])
    template = finetune.check_template(other, chat_template_kwargs={"enable_thinking": True})
    assert "only answers that hold their own reasoning" in repr(template)
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


@pytest.mark.parametrize(
    ("name", "role"),
    [("gemma", "user"), ("mistral", "user"), ("gemma3", "system"), ("chatml", "system"), ("cohere", "system")],
)
def test_the_role_of_instructions_is_the_one_that_the_template_knows(speakers, name, role):
    template = finetune.check_template(speakers[name][0])
    assert template.system_role == role
    assert template.fields == {"system_role": role}
    assert ("no system role: the instructions stand before the first question" in repr(template)) == (role == "user")


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
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}<|end|>{% endfor %}",
            "leaves the answer out",
        ),
        ("{{ raise_exception('not today') }}", "the chat template refuses: not today"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }} (end)<|end|>{% endfor %}",
            r"writes ' \(end\)' after an answer",
        ),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
            r"'<\|assistant\|>' before an answer, and its generation prompt does not",
        ),
        ((STOCK / "gptoss.jinja").read_text(), "before an answer, and its generation prompt does not"),
        ("{{ messages[0].content + 1 }}", "the chat template refuses: can only concatenate str"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_served_and_trained_alike_is_refused_with_what_to_do(tokenizer, template, message):
    with pytest.raises(PrerequisiteError, match=message):
        finetune.check_template(speaking(tokenizer, template))


def test_a_stop_token_at_which_no_server_stops_is_refused_with_the_number_to_add(folder):
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|system|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
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
