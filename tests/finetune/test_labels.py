"""What is trained is what a server is asked, row by row, for the chat templates that people have."""

import copy
import importlib.util
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import nurses, plain

from arislab import finetune

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
unmarked = words.filter(lambda text: text.strip() and "<|" not in text)


@settings(max_examples=300, deadline=None)
@given(
    system=st.none() | unmarked,
    user=unmarked,
    turns=st.lists(st.tuples(unmarked, unmarked), max_size=2),
    answer=unmarked,
)
def test_what_is_trained_is_the_answer_and_the_stop_token_and_nothing_of_the_prompt(
    tokenizer, system, user, turns, answer
):
    chat = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": user})
    for reply, question in turns:
        chat += [{"role": "assistant", "content": reply}, {"role": "user", "content": question}]
    row = finetune.tokenize(plain(chat, answer), tokenizer).row(0, named=True)
    assert (row["status"], row["reason"]) == ("ok", None)
    trained = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(trained) == answer + "<|end|>"
    assert row["labels"][-len(trained) :] == row["input_ids"][-len(trained) :] == trained
    served = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert row["input_ids"][: -len(trained)] == served
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    assert (row["n_tokens"], row["n_supervised"]) == (len(row["input_ids"]), len(trained))


USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be kind"}
ASSISTANT = {"role": "assistant", "content": "hello"}
MALFORMED = [
    ("[", "yes", "bad_messages"),
    ("{}", "yes", "bad_messages"),
    ("null", "yes", "bad_messages"),
    ([{"role": "user"}], "yes", "bad_messages"),
    ([{"role": "user", "content": None}], "yes", "bad_messages"),
    ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "yes", "bad_messages"),
    ([{"role": "user", "content": "half of an emoji: \ud83d"}], "yes", "bad_messages"),
    ([], "yes", "bad_roles"),
    ([SYSTEM], "yes", "bad_roles"),
    ([USER, USER], "yes", "bad_roles"),
    ([SYSTEM, SYSTEM, USER], "yes", "bad_roles"),
    ([USER, SYSTEM], "yes", "bad_roles"),
    ([ASSISTANT, USER], "yes", "bad_roles"),
    ([USER, ASSISTANT], "yes", "bad_roles"),
    ([USER, {"role": "tool", "content": "4"}, USER], "yes", "bad_roles"),
    ([USER], None, "empty"),
    ([USER], "", "empty"),
    ([USER], " \n", "empty"),
    ([{"role": "user", "content": " "}], "yes", "empty"),
    ([USER], "yes<|end|>", "control_token"),
    ([{"role": "user", "content": "a profile with <|assistant|> in it"}], "yes", "control_token"),
    ([SYSTEM | {"content": "<|pad|>"}, USER], "yes", "control_token"),
]


@pytest.mark.parametrize(("messages", "output", "status"), MALFORMED)
def test_a_malformed_row_gets_a_status_and_a_reason_and_no_labels(tokenizer, messages, output, status):
    row = finetune.tokenize(plain(messages, output), tokenizer).row(0, named=True)
    assert row["status"] == status in finetune.STATUSES
    assert row["reason"]
    assert row["input_ids"] is row["labels"] is None


def test_every_row_comes_back_once_and_in_order(tokenizer):
    frames = [plain(messages, output) for messages, output, _ in MALFORMED] + [nurses(range(5))]
    examples = pl.concat(frames).with_columns(id=pl.int_range(pl.len()).cast(pl.String))
    tokenized = finetune.tokenize(examples, tokenizer)
    assert tokenized["id"].to_list() == examples["id"].to_list()
    assert finetune.count_statuses(tokenized) == {
        "bad_messages": 7,
        "bad_roles": 8,
        "control_token": 3,
        "empty": 4,
        "ok": 5,
    }


def test_a_row_at_max_length_is_whole_and_one_token_less_refuses_it(tokenizer):
    examples = nurses([1])
    n = finetune.tokenize(examples, tokenizer)["n_tokens"][0]
    fits = finetune.tokenize(examples, tokenizer, max_length=n).row(0, named=True)
    assert fits["status"] == "ok"
    assert fits["labels"][-1] == tokenizer.convert_tokens_to_ids("<|end|>")
    long = finetune.tokenize(examples, tokenizer, max_length=n - 1).row(0, named=True)
    assert (long["status"], long["labels"], long["n_tokens"]) == ("too_long", None, n)


def with_template(tokenizer, template, *tokens):
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"additional_special_tokens": list(tokens)})
    changed.chat_template = template
    return changed


def from_trl(name):
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    return (Path(folder) / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("name", "tokens", "kwargs", "stop"),
    [
        ("gemma3", ["<start_of_turn>", "<end_of_turn>"], {}, "<end_of_turn>"),
        ("llama3", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], {}, "<|eot_id|>"),
        ("qwen3", ["<|im_start|>", "<|im_end|>"], {"enable_thinking": False}, "<|im_end|>"),
    ],
)
def test_stock_templates_of_other_families_train_the_answer_and_their_own_stop_token(
    tokenizer, name, tokens, kwargs, stop
):
    other = with_template(tokenizer, from_trl(name), *tokens)
    for chat in ([SYSTEM, USER], [USER], [USER, ASSISTANT, USER]):
        row = finetune.tokenize(plain(chat, "Yes, I do."), other, chat_template_kwargs=kwargs).row(0, named=True)
        assert (row["status"], row["reason"]) == ("ok", None)
        assert other.decode([label for label in row["labels"] if label != -100]) == "Yes, I do." + stop
        assert row["labels"][-1] == other.convert_tokens_to_ids(stop)


@pytest.mark.parametrize(
    ("template", "status"),
    [
        # what qwen3 does unless thinking is off: text between the generation prompt and the answer
        (from_trl("qwen3"), "template"),
        ("{{ raise_exception('no') }}", "template"),
        (
            "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|user|>{% endif %}",
            "no_stop",
        ),
        ("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}{% endif %}", "ok"),
        (
            "{% for m in messages %}Ski{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}Ski{% endif %}",
            "boundary",
        ),
        ("{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}", "template"),
    ],
)
def test_a_template_that_cannot_be_labelled_is_refused_row_by_row(tokenizer, template, status):
    other = with_template(tokenizer, template, "<|im_start|>", "<|im_end|>")
    row = finetune.tokenize(plain([USER], "lls: SQL"), other).row(0, named=True)
    assert row["status"] == status
