"""What a chat template writes: the prompt, what stands between it and an answer, the stop token, a call of tools.

A template is a program. What it does with an answer is found out by having it write one, for each shape of conversation
that comes along, since templates branch on roles, on tools and on what was said before.

What it does not know: templates that are no jinja text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arislab import chat
from arislab.errors import PrerequisiteError
from arislab.finetune.conversations import STATUSES, Refused, arguments, for_template, skeleton

SWITCHES: tuple[dict[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False})
"""Settings by which templates close the think block in the generation prompt."""
QUESTION: list[chat.Message] = [{"role": "user", "content": "x"}]
"""The plainest conversation."""
_THINK = re.compile(r"[<\[]/?[^<>\[\]\s/]*think[^<>\[\]\s]*[>\]]", re.IGNORECASE)
_PROBE, _LAST = "Q9answer", "Q9last"  # no template writes them by itself


@dataclass(frozen=True)
class Turn:
    """What the template writes for conversations of one shape."""

    stop: str
    """Token that ends the answer."""
    n_control: int
    """Control tokens that it writes itself, the stop token included."""
    needs_reasoning: str
    """Why an answer must hold its reasoning; empty if it need not."""
    note: str
    """What it writes between prompt and answer that is not trained; empty if nothing."""


class Renderer:
    """The chat template of one tokenizer, with its settings; remembers what it found out about each shape."""

    def __init__(self, tokenizer: Any, template_kwargs: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
        try:
            self.template = chat.Template(tokenizer.chat_template, tokenizer.special_tokens_map)
        except ValueError:
            raise PrerequisiteError(
                f"{self.name} has no chat template, as base models often lack one; use the instruct model, or put the "
                "template that servers will use into the folder as chat_template.jinja."
            ) from None
        except chat.rendering_errors() as error:
            raise PrerequisiteError(
                f"the chat template of {self.name} is not valid ({error}); mend chat_template.jinja in the folder."
            ) from None
        self.template.check(template_kwargs)
        self.is_dated = "strftime_now" in self.template.source
        self.given, self.kwargs = template_kwargs, dict(template_kwargs)
        if self.is_dated and chat.DATE in self.template.variables():
            # told, and recorded as a setting: a server asked without it would write its own day into the prompt
            self.kwargs.setdefault(chat.DATE, chat.strftime_now("%d %b %Y"))
        self.system_role = self.template.known_role()
        # not all_special_ids: chat models mark turns by added tokens that the tokenizer's config does not name
        added = tokenizer.added_tokens_decoder
        names = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)} - {""}
        self.control_ids = {tokenizer.convert_tokens_to_ids(name) for name in names}
        longest_first = sorted(names, key=len, reverse=True)  # an alternation takes the first that fits
        self.control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.turns: dict[str, Turn] = {}  # by shape of the conversation

    def render(self, messages: Sequence[chat.Message], tools: Any, *, prompt: bool, kwargs: Any = None) -> str:
        """Return the text of a conversation, with the generation prompt or without; or refuse it."""
        try:
            return self.template.render(
                [for_template(message) for message in messages],
                tools=tools,
                add_generation_prompt=prompt,
                chat_template_kwargs=self.kwargs if kwargs is None else kwargs,
            )
        except chat.rendering_errors() as error:
            raise Refused("template", f"the chat template refuses: {error}") from None

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a rendered text."""
        # the template writes the beginning-of-sequence token itself; special tokens on top would double it
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def n_control(self, ids: Sequence[int]) -> int:
        """Return how many of some ids are control tokens."""
        return sum(i in self.control_ids for i in ids)

    def turn(self, before: list[chat.Message], tools: Any) -> Turn:
        """Return what the template writes for conversations of this shape.

        Refuse it where a server could not be asked for a plain answer.
        """
        shape = [skeleton(message) for message in before]
        key = json.dumps([shape, tools], sort_keys=True)
        if key not in self.turns:
            self.turns[key] = self._measured(shape, tools)
        return self.turns[key]

    def _measured(self, shape: list[chat.Message], tools: Any) -> Turn:
        prompt = self.render(shape, tools, prompt=True)
        whole = self.render([*shape, {"role": "assistant", "content": _PROBE}], tools, prompt=False)
        if _PROBE not in whole:
            raise Refused("template", "the chat template leaves the answer out")
        begun, _, rest = whole.rpartition(_PROBE)
        stop = self.control.search(rest)
        if stop is None:
            raise Refused(
                "no_stop",
                "the chat template writes no stop token after an answer; a chat_template.jinja in the folder that "
                "does, "
                "such as {{ eos_token }} after each answer, mends it",
            )
        if rest[: stop.start()].strip():
            raise Refused("template", f"the chat template writes {rest[: stop.start()]!r} after an answer")
        ids = self.ids(prompt + "x" + stop[0])
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise Refused(
                "template", f"the chat template begins with {self.tokenizer.bos_token!r} twice; leave one out"
            )
        needs, note = self._between(shape, tools, prompt, begun)
        return Turn(stop[0], self.n_control(ids), needs, note)

    def _between(self, shape: list[chat.Message], tools: Any, prompt: str, begun: str) -> tuple[str, str]:
        """Judge what the template writes between the prompt and an answer.

        Return why answers must hold their reasoning, and what to tell; each empty if nothing.
        """
        written, bare = self._written(shape, tools, prompt, begun), self.render(shape, tools, prompt=False)
        if opened := _open(_beyond(prompt, bare)):
            return self.reasoning(shape, f"the generation prompt of its chat template opens {opened!r}"), ""
        if not written.strip():
            return "", ""
        if self.control.search(written) or prompt == bare:
            raise Refused(
                "template",
                f"the chat template writes {written!r} before an answer, and its generation prompt does not: servers "
                "would not ask for it; a template with an add_generation_prompt that ends where the answer begins is "
                "needed, as chat_template.jinja in the folder",
            )
        if _THINK.search(written):
            why = f"its chat template puts {written!r} between the generation prompt and the answer"
            # where a setting closes the block, servers can be asked as is trained; where none does, they do not ask for
            # an empty block, and it is only what the template repeats of a history
            if self.switch(shape) or _THINK.sub("", written).strip():
                return self.reasoning(shape, why), ""
        return "", f"writes {written!r} before an answer that it repeats, but not when a server asks: it is not trained"

    def _written(self, shape: list[chat.Message], tools: Any, prompt: str, begun: str) -> str:
        """What the template writes between the prompt and an answer."""
        if begun.startswith(prompt) or not (shape[-1].get("content") or "").strip():
            return _beyond(begun, prompt)
        # once there is an answer, some write what comes before it otherwise (Mistral's keep the instructions with a
        # question that waits): what a server is asked stays the prompt, and only what follows the last message counts
        last = [*shape[:-1], {**shape[-1], "content": _LAST}]
        asked, answered = self.render(last, tools, prompt=True), [*last, {"role": "assistant", "content": _PROBE}]
        before = self.render(answered, tools, prompt=False).rpartition(_PROBE)[0]
        (_, is_asked, tail), (_, is_repeated, end) = asked.rpartition(_LAST), before.rpartition(_LAST)
        is_alike = is_asked and is_repeated and end.startswith(tail)
        return end.removeprefix(tail) if is_alike else _beyond(begun, prompt)

    def reasoning(self, shape: list[chat.Message], why: str) -> str:
        """Return why answers must hold their reasoning, and what else would do."""
        switch = self.switch(shape)
        if not switch:
            return (
                f"{why}: answers must hold their reasoning up to its end, or a chat_template.jinja without it must lie "
                "in the folder"
            )
        (name,) = switch
        return (
            f"{why}; set chat_template_kwargs {json.dumps(switch)} in phases 1, 3, 4 and 5, or, for answers that hold "
            f"their reasoning, {json.dumps({name: True})}"
        )

    def switch(self, shape: list[chat.Message]) -> dict[str, Any]:
        """Return the setting that makes the generation prompt end where answers begin; empty if there is none."""
        known = self.template.variables()
        for switch in SWITCHES:
            if not known.issuperset(switch):
                continue
            given = {"tools": None, "kwargs": self.kwargs | switch}
            try:
                prompt, bare = (self.render(shape, prompt=asked, **given) for asked in (True, False))
                whole = self.render([*shape, {"role": "assistant", "content": _PROBE}], prompt=False, **given)
            except Refused:
                continue
            if not _open(_beyond(prompt, bare)) and not _beyond(whole, prompt).partition(_PROBE)[0].strip():
                return switch
        return {}

    def call(self, before: list[chat.Message], text: str, calls: Any, tools: Any) -> tuple[str, str, int]:
        """Return the prompt, what is trained of an answer that calls tools, and the control tokens of both."""
        prompt, why = self.render(before, tools, prompt=True), ""
        wanted = [text, *(call["function"]["name"] for call in calls)]
        wanted += [name for call in calls for name in arguments(call) or ()]
        # templates differ in how they take no text (empty, null), and some join arguments to a text themselves
        for content, as_text in ((text, False), (text or None, False), (text or None, True)):
            answer = {"role": "assistant", "content": content, "tool_calls": calls, "as_text": as_text}
            try:
                whole = self.render([*before, answer], tools, prompt=False)
            except Refused as refused:
                why = why or refused.args[1]
                continue
            written = whole[len(prompt) :] if whole.startswith(prompt) else ""
            stops = list(self.control.finditer(written))
            # the last one: templates end each of several calls with a token too. A template that leaves calls out
            # writes an empty answer without a word, so that the names must be looked for
            if not stops or written[stops[-1].end() :].strip() or not all(word in written for word in wanted):
                continue
            if _THINK.search(written[: written.find(wanted[1])]) and self.switch(QUESTION):
                why = "its chat template puts thinking before a call"
                raise Refused("template", self.reasoning(QUESTION, why))
            trained = written[: stops[-1].end()]
            return prompt, trained, self.n_control(self.ids(prompt + trained))
        raise Refused("tools", f"{STATUSES['tools']}{f' ({why})' if why else ''}")


def closes_reasoning(output: str) -> bool:
    """Whether an answer holds reasoning up to its end."""
    marks = _THINK.findall(output)
    return bool(marks) and "/" in marks[-1]


def _open(tail: str) -> str:
    """The mark by which a generation prompt leaves a think block open; empty if it does not."""
    marks = _THINK.findall(tail)
    return marks[-1] if marks and "/" not in marks[-1] else ""


def _beyond(text: str, other: str) -> str:
    """What a text says from the first character on that another does not share."""
    shorter = min(len(text), len(other))
    return text[next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), shorter) :]
