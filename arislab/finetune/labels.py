"""Examples to token labels that are proven row by row, and the chat template behind them, which is judged before anything is read.

The prompt of an example is what a server is asked: the chat template with the generation prompt, its instructions where
the model knows them (``chat.in_role``). What is trained is the answer as it is recorded and the token at which servers
stop, nothing else, whatever the template would make of the answer in a history (Gemma strips it, Qwen3 puts an empty
think block before it). An answer that calls tools is trained as the template writes the call.

What it does not know: how a server reads an answer (reasoning and tool parsers), and templates that are no jinja text.
"""

import collections
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import PrerequisiteError
from arislab.finetune.weights import require, resolve_model
from arislab.system.text import AS_IS, html

STATUSES = {
    "ok": "trained",
    "empty": "the answer or a message has no text",
    "bad_messages": "messages is not a list of {role, content} with text contents, or tools and calls are not as the chat protocol has them",
    "bad_roles": "not optional instructions followed by user, assistant, user, …, user (a call of tools is followed by their answers)",
    "control_token": "a content holds a token that the chat template uses, such as the stop token",
    "template": "the chat template refuses the conversation, or a server could not be asked for this answer",
    "tools": "the answer calls tools, and the chat template does not write calls",
    "boundary": "the last token of the prompt would merge with the first of the answer",
    "no_stop": "no stop token follows the answer",
    "not_reversible": "the labels do not decode to the answer and its stop token",
    "too_long": "longer than max_length; cutting it would cut the stop token",
}
SWITCHES: tuple[dict[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False})
"""Settings by which templates close the think block in the generation prompt."""
_THINK = re.compile(r"[<\[]/?[^<>\[\]\s/]*think[^<>\[\]\s]*[>\]]", re.IGNORECASE)
_PROBE = "Q9answer"


@dataclass(frozen=True)
class ChatTemplate:
    """What a model's chat template asks of training and serving. Shown by the first cell of phase 4."""

    name: str
    """The model's folder."""
    system_role: str
    """Where instructions stand, see ``chat.SYSTEM_ROLES``."""
    chat_template_kwargs: Mapping[str, Any]
    """What it is rendered with, in training and in requests; a date that it can be told is among them."""
    stop_token: str
    """Ends each answer."""
    writes_tools: bool
    """Whether calls of tools can be trained."""
    notes: tuple[str, ...]
    """What is unusual about it, in words."""

    def __repr__(self) -> str:
        settings = f", rendered with {dict(self.chat_template_kwargs)}" if self.chat_template_kwargs else ""
        return "\n".join(
            [f"{self.name}: answers end with {self.stop_token!r}{settings}", *(f"- {note}" for note in self.notes)]
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What ``batch.build_requests`` needs to ask as is trained."""
        return chat.fields(chat_template_kwargs=self.chat_template_kwargs, system_role=self.system_role)


def check_template(model: Any, *, chat_template_kwargs: Mapping[str, Any] | None = None) -> ChatTemplate:
    """Judge the chat template of a model before anything is trained.

    Args:
        model: A model's folder or name, or a loaded tokenizer.
        chat_template_kwargs: As in ``tokenize``.

    Raises:
        PrerequisiteError: There is no chat template, or none that a server and training could share; the message says
            what to do.
        ParameterError: ``chat_template_kwargs`` holds what the template does not read.
    """
    labeller = _Labeller(load_tokenizer(model), 2**31, dict(chat_template_kwargs or {}))
    folder = resolve_model(model) if isinstance(model, str | Path) else None
    return labeller.judged(folder)


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
    labeller = _Labeller(load_tokenizer(tokenizer), max_length, dict(chat_template_kwargs or {}))
    rows = []
    for row in examples.select(columns_of(examples)).iter_rows(named=True):
        row_id = row.pop("id")
        rows.append({"id": row_id, **labeller.label(**row)})
    columns: dict[str, Any] = {"id": pl.String, "input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)}
    columns |= {"status": pl.String, "reason": pl.String, "n_tokens": pl.Int32, "n_supervised": pl.Int32}
    return pl.DataFrame(rows, schema=columns)  # one row per example


def columns_of(examples: pl.DataFrame) -> list[str]:
    """Return the columns of examples that labels are made of."""
    return ["id", "messages", "output", *(name for name in ("tools", "tool_calls") if name in examples.columns)]


class _Refused(Exception):  # noqa: N818  (not an error: it becomes the status of a row)
    """Why a row is not trained: status and reason."""


@dataclass(frozen=True)
class _Turn:
    """What the template writes for conversations of one shape."""

    stop: str
    """Token that ends the answer."""
    n_control: int
    """Control tokens that it writes itself, the stop token included."""
    needs_reasoning: str
    """Why an answer must hold its reasoning; empty if it need not."""
    note: str
    """What it writes between prompt and answer that is not trained; empty if nothing."""


class _Labeller:
    """Renders and labels one conversation at a time with one tokenizer."""

    def __init__(self, tokenizer: Any, max_length: int, template_kwargs: dict[str, Any]) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
        try:
            self.template = chat.Template(tokenizer.chat_template, tokenizer.special_tokens_map)
        except ValueError:
            raise PrerequisiteError(
                f"{self.name} has no chat template, as base models often lack one; use the instruct model, or put the template that servers "
                "will use into the folder as chat_template.jinja."
            ) from None
        except chat.rendering_errors() as error:
            raise PrerequisiteError(
                f"the chat template of {self.name} is not valid ({error}); mend chat_template.jinja in the folder."
            ) from None
        self.template.check(template_kwargs)
        self.is_dated = "strftime_now" in self.template.source
        self.given, self.kwargs = template_kwargs, dict(template_kwargs)
        if self.is_dated and chat.DATE in self.template.variables():
            self.kwargs.setdefault(chat.DATE, chat.strftime_now("%d %b %Y"))
        self.system_role = self.template.known_role()
        added = tokenizer.added_tokens_decoder
        names = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)} - {""}
        self.control_ids = {tokenizer.convert_tokens_to_ids(name) for name in names}
        self.control = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)")
        self.turns: dict[str, _Turn] = {}  # by shape of the conversation

    def judged(self, folder: Path | None) -> ChatTemplate:
        """Say what the template needs, or refuse it as a whole."""
        try:
            turn = self._turn([{"role": "user", "content": "x"}], None)
        except _Refused as refused:
            raise PrerequisiteError(f"{self.name} cannot be trained: {refused.args[1]}.") from None
        if turn.needs_reasoning and not any(self.given.get(name) is True for switch in SWITCHES for name in switch):
            raise PrerequisiteError(f"{self.name} cannot be trained as it is: {turn.needs_reasoning}.")
        self._check_stop(turn.stop, folder)
        notes = [turn.note] if turn.note else []
        if turn.needs_reasoning:
            notes.append("only answers that hold their own reasoning are trained")
        if self.system_role == "user":
            notes.append(
                "no system role: the instructions stand before the first question, in training and in requests"
            )
        if chat.DATE in self.kwargs and chat.DATE not in self.given:
            notes.append(
                f"writes the date: told {self.kwargs[chat.DATE]!r} in training and in requests, so that every day gives the same tokens"
            )
        elif self.is_dated:
            notes.append(
                f"writes the date of the clock: {chat.DAY} is trained, and asked by the embedded server; another server writes its own day"
            )
        return ChatTemplate(self.name, self.system_role, self.kwargs, turn.stop, self._writes_tools(), tuple(notes))

    def _check_stop(self, stop: str, folder: Path | None) -> None:
        """Refuse a stop token at which servers would not stop."""
        if folder is None:
            return
        configs = [folder / name for name in ("config.json", "generation_config.json") if (folder / name).exists()]
        given = [json.loads(path.read_text("utf-8")).get("eos_token_id") for path in configs]
        own: Any = next((ids for ids in reversed(given) if ids is not None), [])  # of the generation config, if there
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        number = self.tokenizer.convert_tokens_to_ids(stop)
        if number not in ends:
            known = sorted(end for end in ends if end is not None)
            raise PrerequisiteError(
                f"{self.name} cannot be trained as it is: its chat template ends answers with {stop!r} (id {number}), and servers stop at {known} "
                f"only, so that answers would never end; add {number} to eos_token_id in generation_config.json of the folder."
            )

    def _writes_tools(self) -> bool:
        call = {"id": "call00001", "type": "function", "function": {"name": "q9look", "arguments": {"word": "x"}}}
        tool = {
            "type": "function",
            "function": {"name": "q9look", "description": "x", "parameters": {"type": "object", "properties": {}}},
        }
        try:
            self._call([{"role": "user", "content": "x"}], "", [call], [tool])
        except _Refused:
            return False
        return True

    def label(self, messages: Any, output: Any, tools: Any = None, tool_calls: Any = None) -> dict[str, Any]:
        """Return the columns of one row, but its id."""
        try:
            answer = chat.answer(output, tool_calls)
            output, calls = answer["content"], answer.get("tool_calls")
            before, given = self._checked(messages, output, tools, calls)
            input_ids, n_prompt = self._encode(before, output, given, calls)
        except _Refused as refused:
            status, reason = refused.args
            return {"status": status, "reason": reason, "n_tokens": 0, "n_supervised": 0}
        row = {"n_tokens": len(input_ids), "n_supervised": len(input_ids) - n_prompt}
        if len(input_ids) > self.max_length:
            return {**row, "status": "too_long", "reason": f"{len(input_ids)} tokens, max_length is {self.max_length}"}
        return {**row, "status": "ok", "input_ids": input_ids, "labels": [-100] * n_prompt + input_ids[n_prompt:]}

    def _checked(self, messages: Any, output: Any, tools: Any, calls: Any) -> tuple[list[chat.Message], Any]:
        """Return the messages before the answer and the tools, or refuse what no template should see."""
        try:
            before, given = _parsed(messages), _parsed(tools)
        except ValueError as error:
            raise _Refused("bad_messages", f"messages or tools are not JSON: {error}") from None
        if not isinstance(before, list) or not all(_is_message(message) for message in before):
            raise _Refused("bad_messages", "messages is not a list of {role, content} with text contents")
        if not (given is None or (isinstance(given, list) and all(map(_is_tool, given)))) or not _are_calls(calls):
            raise _Refused("bad_messages", "tools or tool_calls are not lists of {type: function, function: {name, …}}")
        roles = [message["role"] for message in before]
        if not _is_dialogue(before):
            raise _Refused("bad_roles", f"roles are {roles}")
        texts = [message["content"] for message in before if not _may_be_blank(message)]
        if not all((text or "").strip() for text in (*texts, "calls" if calls else output)):
            raise _Refused("empty", STATUSES["empty"])
        plain = [{name: message[name] for name in _FIELDS if message.get(name) is not None} for message in before]
        said = [*plain, {"role": "assistant", "content": output, "tool_calls": calls}]
        for text in _strings([given, *map(_for_template, said)]):
            if control := self.control.search(text):
                raise _Refused("control_token", f"a content holds {control[0]!r}, a token of the chat template")
        return chat.in_role(plain, self.system_role), given or None

    def _render(self, messages: Sequence[chat.Message], tools: Any, *, prompt: bool, kwargs: Any = None) -> str:
        try:
            return self.template.render(
                [_for_template(message) for message in messages],
                tools=tools,
                add_generation_prompt=prompt,
                chat_template_kwargs=self.kwargs if kwargs is None else kwargs,
            )
        except chat.rendering_errors() as error:
            raise _Refused("template", f"the chat template refuses: {error}") from None

    def _ids(self, text: str) -> list[int]:
        # the template writes the beginning-of-sequence token itself; special tokens on top would double it
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _encode(self, before: list[chat.Message], output: Any, tools: Any, calls: Any) -> tuple[list[int], int]:
        """Return the ids up to and including the stop token, and how many of them are prompt."""
        if calls:
            prompt, trained, n_control = self._call(before, output or "", calls, tools)
        else:
            turn = self._turn(before, tools)
            if turn.needs_reasoning and not _closes_reasoning(output):
                raise _Refused("template", turn.needs_reasoning)
            prompt, trained, n_control = self._render(before, tools, prompt=True), output + turn.stop, turn.n_control
        prompt_ids, ids = self._ids(prompt), self._ids(prompt + trained)
        n_prompt = len(prompt_ids)
        if ids[:n_prompt] != prompt_ids:
            raise _Refused("boundary", "the last token of the prompt merges with the first of the answer")
        if ids[-1] not in self.control_ids:
            raise _Refused("no_stop", "no stop token follows the answer")
        if sum(i in self.control_ids for i in ids) != n_control:
            raise _Refused("control_token", "a content turns into a token of the chat template")
        decoded = self._decoded(ids, n_prompt)
        # a tokenizer that normalises (NFC) may write the same characters in fewer code points
        if trained not in decoded and _nfc(trained) not in map(_nfc, decoded):
            raise _Refused("not_reversible", f"the labels decode to {decoded[0][:60]!r}, not to {trained[:60]!r}")
        return ids, n_prompt

    def _decoded(self, ids: list[int], n_prompt: int) -> tuple[str, ...]:
        """The text of the labels, alone and behind the prompt.

        Where words begin with a mark, only the second keeps the first space.
        """
        alone, prompt, whole = (
            self.tokenizer.decode(part, clean_up_tokenization_spaces=False)
            for part in (ids[n_prompt:], ids[:n_prompt], ids)
        )
        return (alone, whole[len(prompt) :]) if whole.startswith(prompt) else (alone,)

    def _turn(self, before: list[chat.Message], tools: Any) -> _Turn:
        """What the template writes for conversations of this shape.

        Refuse it where a server could not be asked for a plain answer.
        """
        shape = [_skeleton(message) for message in before]
        key = json.dumps([shape, tools], sort_keys=True)
        if key not in self.turns:
            self.turns[key] = self._measured(shape, tools)
        return self.turns[key]

    def _measured(self, shape: list[chat.Message], tools: Any) -> _Turn:
        prompt = self._render(shape, tools, prompt=True)
        whole = self._render([*shape, {"role": "assistant", "content": _PROBE}], tools, prompt=False)
        if _PROBE not in whole:
            raise _Refused("template", "the chat template leaves the answer out")
        begun, _, rest = whole.rpartition(_PROBE)
        stop = self.control.search(rest)
        if stop is None:
            raise _Refused(
                "no_stop",
                "the chat template writes no stop token after an answer; a chat_template.jinja in the folder that does, such as "
                "{{ eos_token }} after each answer, mends it",
            )
        if rest[: stop.start()].strip():
            raise _Refused("template", f"the chat template writes {rest[: stop.start()]!r} after an answer")
        ids = self._ids(prompt + "x" + stop[0])
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise _Refused(
                "template", f"the chat template begins with {self.tokenizer.bos_token!r} twice; leave one out"
            )
        needs, note = self._between(shape, tools, prompt, begun)
        return _Turn(stop[0], sum(i in self.control_ids for i in ids), needs, note)

    def _between(self, shape: list[chat.Message], tools: Any, prompt: str, begun: str) -> tuple[str, str]:
        """Judge what the template writes between the prompt and an answer: (why answers must hold reasoning, what to tell), empty if nothing."""
        written, bare = _beyond(begun, prompt), self._render(shape, tools, prompt=False)
        if opened := _open(_beyond(prompt, bare)):
            return self._reasoning(shape, f"the generation prompt of its chat template opens {opened!r}"), ""
        if not written.strip():
            return "", ""
        if self.control.search(written) or prompt == bare:
            raise _Refused(
                "template",
                f"the chat template writes {written!r} before an answer, and its generation prompt does not: servers would not ask for it; "
                "a template with an add_generation_prompt that ends where the answer begins is needed, as chat_template.jinja in the folder",
            )
        if _THINK.search(written):
            why = f"its chat template puts {written!r} between the generation prompt and the answer"
            if self._switch(shape) or _THINK.sub("", written).strip():
                return self._reasoning(shape, why), ""
        return "", f"writes {written!r} before an answer that it repeats, but not when a server asks: it is not trained"

    def _reasoning(self, shape: list[chat.Message], why: str) -> str:
        switch = self._switch(shape)
        if not switch:
            return f"{why}: answers must hold their reasoning up to its end, or a chat_template.jinja without it must lie in the folder"
        (name,) = switch
        return (
            f"{why}; set chat_template_kwargs {json.dumps(switch)} in phases 1, 3, 4 and 5, or, for answers that hold their reasoning, "
            f"{json.dumps({name: True})}"
        )

    def _switch(self, shape: list[chat.Message]) -> dict[str, Any]:
        """The setting that makes the generation prompt end where answers begin; empty if there is none."""
        known = self.template.variables()
        for switch in SWITCHES:
            if not known.issuperset(switch):
                continue
            given = {"tools": None, "kwargs": self.kwargs | switch}
            try:
                prompt, bare = (self._render(shape, prompt=asked, **given) for asked in (True, False))
                whole = self._render([*shape, {"role": "assistant", "content": _PROBE}], prompt=False, **given)
            except _Refused:
                continue
            if not _open(_beyond(prompt, bare)) and not _beyond(whole, prompt).partition(_PROBE)[0].strip():
                return switch
        return {}

    def _call(self, before: list[chat.Message], text: str, calls: Any, tools: Any) -> tuple[str, str, int]:
        """Return the prompt, what is trained of an answer that calls tools, and the control tokens of both."""
        prompt, why = self._render(before, tools, prompt=True), ""
        wanted = [text, *(call["function"]["name"] for call in calls)]
        wanted += [name for call in calls for name in _arguments(call) or ()]
        for content, as_text in ((text, False), (text or None, False), (text or None, True)):
            answer = {"role": "assistant", "content": content, "tool_calls": calls, "as_text": as_text}
            try:
                whole = self._render([*before, answer], tools, prompt=False)
            except _Refused as refused:
                why = why or refused.args[1]
                continue
            said = whole[len(prompt) :]
            stops = list(self.control.finditer(said))
            if (
                whole.startswith(prompt)
                and stops
                and all(word in said for word in wanted)
                and not said[stops[-1].end() :].strip()
            ):
                if _THINK.search(said[: said.find(wanted[1])]) and self._switch([{"role": "user", "content": "x"}]):
                    raise _Refused(
                        "template",
                        self._reasoning(
                            [{"role": "user", "content": "x"}], "its chat template puts thinking before a call"
                        ),
                    )
                trained = said[: stops[-1].end()]
                return prompt, trained, sum(i in self.control_ids for i in self._ids(prompt + trained))
        raise _Refused("tools", f"{STATUSES['tools']}{f' ({why})' if why else ''}")


_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which servers hand what was thought before a call to the template, which writes it while the tools are at
work."""
_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name", *_REASONING)


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    if message.get("function_call") or not all(isinstance(message.get(name), str | None) for name in _REASONING):
        return False  # no template writes the older form of a call, so that it would be left out
    calls = message.get("tool_calls")
    if calls and message["role"] == "assistant":
        return _are_calls(calls) and isinstance(message.get("content"), str | None)
    return isinstance(message.get("content"), str) and not calls


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _are_calls(calls: Any) -> bool:
    if calls is None:
        return True
    return isinstance(calls, list) and all(_is_tool(call) and _arguments(call) is not None for call in calls)


def _arguments(call: Any) -> dict[str, Any] | None:
    """The arguments of a call as an object, or None if they are none."""
    given = call["function"].get("arguments")
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _for_template(message: chat.Message) -> chat.Message:
    """A message as servers give it to templates: the arguments of calls as objects.

    As text only where a template joins them to one.
    """
    if not message.get("tool_calls"):
        return message
    as_text = message.get("as_text", False)
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(_arguments(call), ensure_ascii=False) if as_text else _arguments(call),
            },
        }
        for call in message["tool_calls"]
    ]
    return {name: value for name, value in message.items() if name != "as_text"} | {
        "tool_calls": calls,
        "content": message.get("content"),
    }


def _is_dialogue(before: Sequence[chat.Message]) -> bool:
    """Whether roles follow each other as in a chat that waits for an answer."""
    spelt = "".join(
        "c" if message.get("tool_calls") else {"user": "u", "assistant": "a", "tool": "t"}.get(message["role"], "?")
        for message in (before[1:] if before and before[0]["role"] in chat.INSTRUCTIONS else before)
    )
    return re.fullmatch(r"u(((ct+)+a?|a)u)*(ct+)*", spelt) is not None


def _may_be_blank(message: chat.Message) -> bool:
    """A server is asked with empty instructions, an empty answer of a tool, or calls without text, as with any other."""
    return message["role"] in (*chat.INSTRUCTIONS, "tool") or bool(message.get("tool_calls"))


def _skeleton(message: chat.Message) -> chat.Message:
    """The shape of a message: its text replaced, its calls and blanks kept."""
    content = message.get("content")
    return {**message, "content": "x" if content and content.strip() else content}


def _strings(value: Any) -> list[str]:
    """All texts in a JSON value, names of fields included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for name, item in value.items() for text in (name, *_strings(item))]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def _beyond(text: str, other: str) -> str:
    """What a text says from the first character on that another does not share."""
    return text[
        next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other))) :
    ]


def _open(tail: str) -> str:
    """The mark by which a generation prompt leaves a think block open; empty if it does not."""
    marks = _THINK.findall(tail)
    return marks[-1] if marks and "/" not in marks[-1] else ""


def _closes_reasoning(output: str) -> bool:
    marks = _THINK.findall(output)
    return bool(marks) and "/" in marks[-1]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _parsed(messages: Any) -> Any:
    return json.loads(messages) if isinstance(messages, str) else messages


def load_tokenizer(tokenizer: Any) -> Any:
    """Return a transformers tokenizer: of a model folder, or the one given."""
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    require("tokenize", 'pip install -e ".[train]"', "transformers", "torch")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(tokenizer))


@dataclass(frozen=True)
class Preview:
    """A few labelled rows as HTML: the prompt in grey, what is trained marked. Shown by Jupyter."""

    rows: tuple[tuple[str, str, str], ...]
    """(id, prompt, trained part) of each row shown."""
    counts: Mapping[str, int]
    """Rows by status, over all rows."""

    def __repr__(self) -> str:
        return f"Preview({len(self.rows)} rows; {', '.join(f'{k} {v}' for k, v in self.counts.items())})"

    def _repr_html_(self) -> str:
        parts = [
            f'<p style="font-family:monospace;white-space:pre-wrap"><b>{html(row_id)}</b>\n'
            f'<span style="opacity:.6">{html(prompt)}</span>'
            f'<mark title="trained">{html(trained)}</mark></p>'
            for row_id, prompt, trained in self.rows
        ]
        counts = ", ".join(f"{html(status)} {n}" for status, n in self.counts.items())
        return f"<div {AS_IS}>{''.join(parts)}<small>marked: trained · rows: {counts}</small></div>"


def preview(tokenized: pl.DataFrame, tokenizer: Any, *, n: int = 3) -> Preview:
    """Show the first `n` trained rows of what `tokenize` returned, decoded from its ids and labels."""
    tokenizer = load_tokenizer(tokenizer)
    rows = []
    for row in tokenized.filter(pl.col("status") == "ok").head(n).iter_rows(named=True):
        cut = row["n_tokens"] - row["n_supervised"]
        rows.append((row["id"], tokenizer.decode(row["input_ids"][:cut]), tokenizer.decode(row["labels"][cut:])))
    return Preview(tuple(rows), count_statuses(tokenized))


def count_statuses(tokenized: pl.DataFrame) -> dict[str, int]:
    """Return rows by status."""
    return dict(sorted(collections.Counter(tokenized["status"].to_list()).items()))
