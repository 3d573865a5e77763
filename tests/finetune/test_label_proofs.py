"""Thousands of generated conversations for each family of chat templates, judged without our renderer.

What is asked is what transformers writes for the messages; what is trained is the answer and the stop token that stands
in the table below; which rows cannot be trained follows from the texts alone. ``ARISLAB_LABEL_PROOFS=10000`` judges
that many conversations for each family; the default is few, for everyday.
"""

import json
import os
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import polars as pl
import pytest
from toys import STOCK

from arislab import finetune

N = int(os.environ.get("ARISLAB_LABEL_PROOFS", "200"))

# as OpenHermes and most chat models without a template of their own have it
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Mistral-7B-Instruct-v0.3, without its branches for tools: the instructions stand before the *last* question, and only
# while it waits for an answer
MISTRAL = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}
{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- for message in loop_messages %}{%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
{{- raise_exception("After the optional system message, roles must alternate user/assistant") }}{%- endif %}
{%- endfor %}{{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %}
{%- if loop.last and system_message is defined %}
{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}{%- else %}
{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}{%- elif message["role"] == "assistant" %}
{{- " " + message["content"]|trim + eos_token}}{%- else %}
{{- raise_exception("Only user and assistant roles are supported") }}{%- endif %}{%- endfor %}
"""


@dataclass(frozen=True)
class Family:
    template: str
    kind: str
    """Of tokenizer: byte level, byte level after NFC, words that begin with a mark (gemma, mistral, phi3)."""
    stop: str
    marks: tuple[str, ...]
    bos: str = ""
    eos: str = ""
    kwargs: tuple[tuple[str, bool], ...] = ()


def stock(name):
    return (STOCK / f"{name}.jinja").read_text()


IM = ("<|im_start|>", "<|im_end|>")
FAMILIES = {
    "gemma3": Family(stock("gemma3"), "gemma", "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>"),
    "llama3": Family(
        stock("llama3"), "bytes", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|end_of_text|>",
    ),
    "qwen3": Family(
        stock("qwen3"), "nfc", "<|im_end|>", IM, eos="<|endoftext|>", kwargs=(("enable_thinking", False),)
    ),
    "chatml": Family(CHATML, "bytes", "<|im_end|>", IM, eos="<|endoftext|>"),
    "phi3": Family(
        stock("phi3"), "phi3", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<s>", "<|endoftext|>"
    ),
    "mistral": Family(MISTRAL, "mistral", "</s>", ("[INST]", "[/INST]"), "<s>", "</s>"),
}  # fmt: skip

TEXT = (
    "Evaluate the candidate for the role of nurse. The score is 0.75, recommendation: hire, after 7 years of work with "
    "SQL and Kafka. Ja, der Prüfer hört zu; être là, où ça? {\"strengths\": [\"7 years\"]}\n\n- one\n- two\n  three\n"
)  # fmt: skip

PIECES = (
    "7 years of work", "Évaluer l'infirmière", "naïve cafe\u0301", "护士 · 七年", "👩🏽‍⚕️ ok 🇩🇪", "مرحبا بالعالم",
    "שלום", "\u202eevil\u202c", "a\u00a0b\u2028c", "x\ty", "code:\n```py\nx = {'a': 1}\n```",
    '{"score": 0.5, "ok": [true]}', "()", "<b>bold</b> & <i>", "{{ bos_token }} {% raise %}", "¿qué?", "0", ".",
    "\ufeffbom", "\x00nul", "a\r\nb", "ﬁ ligature ½",
)  # fmt: skip


def tokenizer_of(family):
    """A tokenizer of 600 tokens, built as the family's is, whose marks are tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made, by_bytes = Tokenizer(models.BPE()), family.kind in ("bytes", "nfc")
    if by_bytes:
        made.normalizer = normalizers.NFC() if family.kind == "nfc" else None
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        ends = [decoders.ByteFallback(), decoders.Fuse()]
        if family.kind == "mistral":
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            ends += [decoders.Strip(" ", 1, 0)]
        elif family.kind == "phi3":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            ends += [decoders.Strip(" ", 1, 0)]
        else:
            made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), *ends])
    alphabet = pre_tokenizers.ByteLevel.alphabet() if by_bytes else []
    words = [part for word in (*PIECES, *TEXT.split(" ")) for part in (word, f" {word}")]
    size = 600 if by_bytes else 344  # and 256 bytes
    made.train_from_iterator(words * 3, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    if not by_bytes:  # characters that the vocabulary lacks are written as bytes, as SentencePiece does
        spec = json.loads(made.to_str())
        tokens = [*spec["model"]["vocab"], *(f"<0x{byte:02X}>" for byte in range(256))]
        spec["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "byte_fallback": True}
        made = Tokenizer.from_str(json.dumps(spec))
    named = {name: token for name, token in (("bos_token", family.bos), ("eos_token", family.eos)) if token}
    # Phi-3's marks take the white space behind them away
    made.add_special_tokens([
        AddedToken(mark, normalized=False, special=True, rstrip=family.kind == "phi3")
        for mark in dict.fromkeys((*named.values(), *family.marks))
    ])  # fmt: skip
    if family.kind == "gemma":
        made.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2, 3)])  # lines never merge with words
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    tokenizer.chat_template = family.template
    return tokenizer


LITERALS = sorted({mark for family in FAMILIES.values() for mark in (*family.marks, family.bos, family.eos) if mark})


def a_text(rng):
    """A text that people or models write, now and then one that they should not."""
    text = " ".join(rng.choice(PIECES) for _ in range(rng.choice((1, 1, 2, 3, 5))))
    roll = rng.random()
    if roll < 0.03:
        return rng.choice(("", " ", "\n\n", "\t"))
    if roll < 0.06:
        return text + rng.choice(LITERALS) + rng.choice(("", " system: obey", "\n"))
    if roll < 0.09:
        return f"<think>\n{text}\n</think>\n\n{text}"
    if roll < 0.11:
        return rng.choice(("<think>", "</think>")) + text
    if roll < 0.22:
        return rng.choice((" ", "\n", "  ", "")) + text + rng.choice((" ", "\n\n", ""))
    return " ".join([text] * 400) if roll < 0.225 else text


CALL = {"id": "call00001", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "x"}'}}


def a_conversation(rng):
    """Messages that wait for an answer, one in eight of them in an order that no chat has; and the answer."""
    messages = [{"role": rng.choice(("system", "system", "developer")), "content": a_text(rng)}] * (rng.random() < 0.6)
    for _ in range(rng.choice((0, 0, 0, 1, 2, 4))):
        messages += [{"role": "user", "content": a_text(rng)}, {"role": "assistant", "content": a_text(rng)}]
    messages.append({"role": "user", "content": a_text(rng)})
    roll = rng.random()
    if roll < 0.06:
        wrong = {"role": rng.choice(("system", "assistant", "tool", "critic", "user")), "content": a_text(rng)}
        messages.insert(rng.randrange(len(messages) + 1), wrong)
    elif roll < 0.12:
        messages.pop(rng.randrange(len(messages)))
    elif roll < 0.15:
        messages += [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
        messages += [{"role": "tool", "tool_call_id": "call00001", "content": a_text(rng)}]
    elif roll < 0.16:
        messages[-1]["content"] = rng.choice((None, 7, [{"type": "text", "text": "x"}], "\ud83d half of an emoji"))
    return messages, a_text(rng)


def first_fault(family, messages, answer):
    """The status that a row must have: what is wrong with it, seen by its texts and roles alone; None if nothing is."""
    texts = [message["content"] for message in messages]
    is_call = ["tool_calls" in message for message in messages]
    if not all(isinstance(text, str) for text in texts) or any("\ud83d" in text for text in texts):
        return "bad_messages"
    spelt = "".join("c" if call else message["role"][0] for message, call in zip(messages, is_call, strict=True))
    # `critic` begins as a call does
    if "critic" in [message["role"] for message in messages] or not re.fullmatch(r"[sd]?u(au)*(ct)?", spelt):
        return "bad_roles"
    if not answer.strip() or any(m["role"] in ("user", "assistant") and not is_call[i] and not texts[i].strip()
                                 for i, m in enumerate(messages)):  # fmt: skip
        return "empty"
    control = {*family.marks, family.bos, family.eos} - {""}
    if any(mark in text for mark in control for text in (*texts, answer)):
        return "control_token"
    if "c" in spelt and family.template in (FAMILIES["gemma3"].template, MISTRAL):
        return "template"  # they refuse the roles of a call
    # Phi-3's marks take away what stands behind them, and one space is put in its place
    if family.kind == "phi3" and answer != answer.lstrip() and answer != " " + answer.lstrip():
        return "not_reversible"
    return None


def nfc(text):
    return unicodedata.normalize("NFC", text)


def proven(tokenizer, family, row, messages, answer):
    """Judge a row whose texts are in order; return what became of it."""
    how = {"add_generation_prompt": True, **dict(family.kwargs)}
    asked = [dict(message) for message in messages]
    asked[0]["role"] = {"developer": "system"}.get(asked[0]["role"], asked[0]["role"])
    for message in asked:
        if "tool_calls" in message:
            message["tool_calls"] = [CALL | {"function": CALL["function"] | {"arguments": {"word": "x"}}}]
    prompt, trained = tokenizer.apply_chat_template(asked, tokenize=False, **how), answer + family.stop
    served = tokenizer.apply_chat_template(asked, return_dict=True, **how)["input_ids"]
    encoded = tokenizer(prompt + trained, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels, n = encoded["input_ids"], row["labels"], len(served)
    if row["status"] == "boundary":  # a line that an answer begins with becomes one token with the line before it
        assert ids[:n] != served
        assert answer[0].isspace()
        return "boundary"
    assert (row["status"], row["reason"]) == ("ok", None), (messages, answer)
    assert row["input_ids"] == ids == served + ids[n:]
    assert labels == [-100] * n + ids[n:]
    for label, (start, end) in zip(labels, encoded["offset_mapping"], strict=True):
        # Phi-3's mark ends behind the white space that it takes away
        assert not (prompt + trained)[len(prompt) : end].strip() if label == -100 else start >= len(prompt)
    # where words begin with a mark, a first space shows only behind something
    behind = tokenizer.decode(ids)[len(tokenizer.decode(served)) :]
    assert nfc(trained) in (nfc(tokenizer.decode(labels[n:])), nfc(behind))
    assert ids.count(tokenizer.convert_tokens_to_ids(family.stop)) == prompt.count(family.stop) + 1
    assert ids.count(tokenizer.bos_token_id) == ("bos_token" in family.template)
    whole, how = [*asked, {"role": "assistant", "content": answer}], dict(family.kwargs)
    if not tokenizer.apply_chat_template(whole, tokenize=False, **how).startswith(prompt + trained):
        return "written otherwise in a history"
    assert tokenizer.apply_chat_template(whole, return_dict=True, **how)["input_ids"][: len(ids)] == ids
    return "as in a history"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_trained_is_the_answer_and_the_stop_token_or_the_row_says_why_not(name):
    family = FAMILIES[name]
    tokenizer, rng = tokenizer_of(family), random.Random(name)
    rows = [a_conversation(rng) for _ in range(N)]
    given = [{"id": str(i), "messages": json.dumps(rows[i][0]), "output": rows[i][1]} for i in range(N)]
    examples = pl.DataFrame(given)
    tokenized = finetune.tokenize(examples, tokenizer, max_length=10**6, chat_template_kwargs=dict(family.kwargs))
    assert tokenized["id"].to_list() == examples["id"].to_list()
    counts = Counter()
    for row, (messages, answer) in zip(tokenized.iter_rows(named=True), rows, strict=True):
        fault = first_fault(family, messages, answer)
        if fault:
            assert row["status"] == fault, (row["reason"], messages, answer)
            assert row["input_ids"] is row["labels"] is None
        assert (row["reason"] is None) == (row["status"] == "ok")
        counts[fault or proven(tokenizer, family, row, messages, answer)] += 1
    n_ok = counts["as in a history"] + counts["written otherwise in a history"]
    assert n_ok == finetune.count_statuses(tokenized)["ok"] > 0.6 * N
    # Mistral's writes a space before an answer that it repeats, and none when a server asks
    assert (counts["as in a history"] < 0.1 * n_ok) if name == "mistral" else (counts["as in a history"] > 0.8 * n_ok)
