"""Examples to token labels that are proven row by row.

The prompt of an example is what a server is asked: the chat template with the generation prompt, its instructions where
the model knows them (``chat.in_role``). What is trained is the answer as it is recorded and the token at which servers
stop, nothing else, whatever the template would make of the answer in a history (Gemma strips it, Qwen3 puts an empty
think block before it). An answer that calls tools is trained as the template writes the call.

What it does not know: how a server reads an answer (reasoning and tool parsers).
"""

import collections
import unicodedata
from collections.abc import Mapping
from typing import Any

import polars as pl

from arislab import chat
from arislab.finetune import conversations
from arislab.finetune.conversations import Refused
from arislab.finetune.renderer import Renderer, closes_reasoning
from arislab.finetune.weights import load_tokenizer
from arislab.system.kinds import takes_any_frame

NOT_TRAINED = -100
"""The label that torch's cross entropy, and so every trainer, leaves out of the loss."""


@takes_any_frame
def tokenize(
    examples: pl.DataFrame,
    tokenizer: Any,
    *,
    max_length: int = 512,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Turn examples into token ids and labels, each row with the proof that exactly the answer is trained.

    The prompt is rendered by the model's own chat template with the generation prompt, as a server does; the answer and
    its stop token follow it, and nothing else is trained. A row is `ok` only if the prompt's tokens are those that a
    server computes, and the labels decode to the answer and the stop token. Nothing is ever cut.

    Args:
        examples: columns id, messages (JSON list of system, user and assistant messages), output (String); where
            present tools (JSON list of what could be called) and tool_calls (where not null, output is calls of tools:
            see ``chat.answer``).
        tokenizer: a model folder, or a loaded transformers tokenizer with a chat template.
        max_length: tokens, prompt and answer together.
        chat_template_kwargs: passed to the template and to be passed when serving, such as
            ``{"enable_thinking": False}``.

    Returns:
        One row per example, in order: id, input_ids and labels (List of Int32; -100 is not trained; null unless ok),
        status (see ``STATUSES``), reason (null if ok), n_tokens and n_supervised (0 if the row could not be rendered).

    Raises:
        PrerequisiteError: the tokenizer has no chat template.
        ParameterError: chat_template_kwargs holds what the template does not read.
    """
    renderer = Renderer(load_tokenizer(tokenizer), dict(chat_template_kwargs or {}))
    rows = []
    for row in examples.select(_read(examples)).iter_rows(named=True):
        row_id = row.pop("id")
        rows.append({"id": row_id, **_label(renderer, max_length, **row)})
    columns: dict[str, Any] = {"id": pl.String, "input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)}
    columns |= {"status": pl.String, "reason": pl.String, "n_tokens": pl.Int32, "n_supervised": pl.Int32}
    return pl.DataFrame(rows, schema=columns)  # one row per example


def columns_of(examples: pl.DataFrame) -> list[str]:
    """Return the columns of examples that training reads, of preferences too (``pairs``)."""
    return [*_read(examples), *(name for name in ("rejected", "is_desirable") if name in examples.columns)]


def _read(examples: pl.DataFrame) -> list[str]:
    """The columns that labels are made of."""
    return ["id", "messages", "output", *(name for name in ("tools", "tool_calls") if name in examples.columns)]


def count_statuses(tokenized: pl.DataFrame) -> dict[str, int]:
    """Return rows by status."""
    return dict(sorted(collections.Counter(tokenized["status"].to_list()).items()))


def none_usable(tokenized: pl.DataFrame, which: str) -> str:
    """Return the words for rows of which no one is ok: how many of each status, and the first reasons."""
    reasons = tokenized["reason"].drop_nulls().unique(maintain_order=True).head(3).to_list()
    counts = count_statuses(tokenized)
    return f"none of the {tokenized.height} {which} can be used: {counts}; first reasons: {reasons}"


def _label(
    renderer: Renderer, max_length: int, messages: Any, output: Any, tools: Any = None, tool_calls: Any = None
) -> dict[str, Any]:
    """Return the columns of one row, but its id."""
    try:
        answer = chat.answer(output, tool_calls)
        output, calls = answer["content"], answer.get("tool_calls")
        before, offered = _checked(renderer, messages, output, tools, calls)
        input_ids, n_prompt = _encode(renderer, before, output, offered, calls)
    except Refused as refused:
        status, reason = refused.args
        return {"status": status, "reason": reason, "n_tokens": 0, "n_supervised": 0}
    row = {"n_tokens": len(input_ids), "n_supervised": len(input_ids) - n_prompt}
    if len(input_ids) > max_length:
        return {**row, "status": "too_long", "reason": f"{len(input_ids)} tokens, max_length is {max_length}"}
    return {**row, "status": "ok", "input_ids": input_ids, "labels": [NOT_TRAINED] * n_prompt + input_ids[n_prompt:]}


def _checked(
    renderer: Renderer, messages: Any, output: Any, tools: Any, calls: Any
) -> tuple[list[chat.Message], list[Any] | None]:
    """Return the messages before the answer and the tools, or refuse what no template should see."""
    before, offered = conversations.checked(messages, output, tools, calls)
    # a content that spells a control token would be one: it could end the answer, or open a turn of another role
    answer = {"role": "assistant", "content": output, "tool_calls": calls}
    for text in conversations.strings([offered, *map(conversations.for_template, [*before, answer])]):
        if control := renderer.control.search(text):
            raise Refused("control_token", f"a content holds {control[0]!r}, a token of the chat template")
    return chat.in_role(before, renderer.system_role), offered or None


def _encode(
    renderer: Renderer, before: list[chat.Message], output: Any, tools: Any, calls: Any
) -> tuple[list[int], int]:
    """Return the ids up to and including the stop token, and how many of them are prompt."""
    if calls:
        prompt, trained, n_control = renderer.call(before, output or "", calls, tools)
    else:
        turn = renderer.turn(before, tools)
        if turn.needs_reasoning and not closes_reasoning(output):
            raise Refused("template", turn.needs_reasoning)
        prompt, trained = renderer.render(before, tools, prompt=True), output + turn.stop
        n_control = turn.n_control
    # tokenised as one text and cut, since a tokenizer may merge across the seam: where it does, the prompt's ids are
    # not those that a server computes, and the row is refused
    prompt_ids, ids = renderer.ids(prompt), renderer.ids(prompt + trained)
    n_prompt = len(prompt_ids)
    if ids[:n_prompt] != prompt_ids:
        raise Refused("boundary", "the last token of the prompt merges with the first of the answer")
    if ids[-1] not in renderer.control_ids:
        raise Refused("no_stop", "no stop token follows the answer")
    # `_checked` looks at texts, this at ids: a tokenizer that normalises can make a control token of other characters
    if sum(i in renderer.control_ids for i in ids) != n_control:
        raise Refused("control_token", "a content turns into a token of the chat template")
    decoded = _decoded(renderer, ids, n_prompt)
    # a tokenizer that normalises (NFC) may write the same characters in fewer code points
    if trained not in decoded and _nfc(trained) not in map(_nfc, decoded):
        raise Refused("not_reversible", f"the labels decode to {decoded[0][:60]!r}, not to {trained[:60]!r}")
    return ids, n_prompt


def _decoded(renderer: Renderer, ids: list[int], n_prompt: int) -> tuple[str, ...]:
    """The text of the labels, alone and behind the prompt.

    Where words begin with a mark, only the second keeps the first space.
    """
    alone, prompt, whole = (
        # without the clean-up, by which some tokenizers take the space before a comma away
        renderer.tokenizer.decode(part, clean_up_tokenization_spaces=False)
        for part in (ids[n_prompt:], ids[:n_prompt], ids)
    )
    return (alone, whole[len(prompt) :]) if whole.startswith(prompt) else (alone,)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
