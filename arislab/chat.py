"""Chat templates as every side of arislab reads them: what is trained and what a server is asked must be one text.

Models differ in what their template knows. Gemma has no system turn, most have no ``developer`` turn, some write
today's date, Qwen3 writes an empty think block unless ``enable_thinking`` is false. What is decided about it is decided
here once, for training (``labels``), for requests (``batch``) and for the embedded server (``tiny.decoder``). This
module does not know tokens.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from arislab.errors import ParameterError, closest

INSTRUCTIONS = ("system", "developer")
"""Roles of a first message that says how to answer."""
SYSTEM_ROLES = ("", "system", "developer", "user")
"""What ``system_role`` may be: empty for as the task writes it, a role, or user: the instructions stand before the
first question."""
DAY = date(2024, 7, 26)
"""The day that templates write which ask for today's, the one that Llama's write where they have no clock: the same
rows give the same token ids tomorrow."""
DATE = "date_string"
"""Template variable by which some of them, such as Llama 3.2's, let the caller say the date."""
_OURS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
)

Message = dict[str, Any]


def rendering_errors() -> tuple[type[Exception], ...]:
    """Return what a template may raise: its own refusal, and the errors of the Python that it is."""
    from jinja2.exceptions import TemplateError

    return TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError


def strftime_now(form: str) -> str:
    """Return ``DAY`` in a form; stands for the clock that templates may read."""
    return DAY.strftime(form)


def in_role(messages: Sequence[Message], system_role: str) -> list[Message]:
    r"""Return messages with their instructions where the model knows them.

    Args:
        messages: Of a conversation; only a first message of role system or developer is moved.
        system_role: One of ``SYSTEM_ROLES``.

    Example:
        >>> in_role([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], "user")
        [{'role': 'user', 'content': 'Be kind.\n\nHi'}]
    """
    turns = list(messages)
    if not system_role or not turns or turns[0].get("role") not in INSTRUCTIONS:
        return turns
    if system_role != "user":
        return [{**turns[0], "role": system_role}, *turns[1:]]
    text, rest = turns[0]["content"], turns[1:]
    if not text or (isinstance(text, str) and not text.strip()):
        return rest
    if not rest or rest[0].get("role") != "user":
        return [{"role": "user", "content": text}, *rest]
    asked = rest[0]["content"]
    if isinstance(text, str) and isinstance(asked, str):
        return [{**rest[0], "content": f"{text}\n\n{asked}"}, *rest[1:]]
    return [{**rest[0], "content": [*_parts(text, "\n\n"), *_parts(asked)]}, *rest[1:]]


def _parts(content: Any, end: str = "") -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content + end}]
    return [*content, *([{"type": "text", "text": end}] if end else [])]


class Template:
    """A chat template, rendered as transformers does, but with a clock that stands still (``DAY``).

    Args:
        given: Text of the template, or several by name (a mapping, or a list of name and template): ``tool_use`` for
            requests with tools, else ``default``.
        tokens: Special tokens by name (``bos_token``, ``eos_token``, …), which templates may write.

    Raises:
        ValueError: There is none.
        jinja2.TemplateError: It is no jinja.
    """

    def __init__(self, given: Any, tokens: Mapping[str, str]) -> None:
        if isinstance(given, list):
            given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        sources = given if isinstance(given, Mapping) else {"default": given}
        if not isinstance(sources.get("default"), str):
            raise ValueError("no chat template")
        self.source: str = sources["default"]
        self._made = environment()
        self._default = self._made.from_string(plain(self.source))
        with_tools = sources.get("tool_use")
        self._tool_use = self._made.from_string(plain(with_tools)) if isinstance(with_tools, str) else self._default
        self._tokens = dict(tokens)
        self._variables: set[str] | None = None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of a conversation.

        Raises:
            jinja2.TemplateError: The template refuses the messages; it may also raise TypeError, ValueError or another
                error of its code.
        """
        made = self._tool_use if tools else self._default
        given = {**self._tokens, **(chat_template_kwargs or {})}
        # transformers gives None where there are no tools, and templates ask `tools is not none`
        given |= {"tools": list(tools) if tools else None, "documents": None}
        return str(made.render(messages=list(messages), add_generation_prompt=add_generation_prompt, **given))

    def known_role(self) -> str:
        """Return the ``system_role`` that this template needs.

        Returns:
            Empty: it knows system and developer. system: a developer message must be one of role system. user: it
            refuses or drops a system message, so that the instructions must stand before the first question.
        """
        mark = "Q9instructions"  # asked of the template itself: some refuse a system turn, and some drop it in silence
        try:
            written = self.render([{"role": "system", "content": mark}, {"role": "user", "content": "x"}])
        except rendering_errors():
            written = ""
        if mark not in written:
            return "user"
        # a template that writes any role as a turn of its own has no developer turn that the model ever saw
        return "" if re.search(r"\bdeveloper\b", self.source) else "system"

    def variables(self) -> set[str]:
        """Return the variables that the template reads and does not set before.

        Without those that every template is given.
        """
        from jinja2 import meta

        if self._variables is None:  # to read the template once more takes as long as to make it
            names = set(meta.find_undeclared_variables(self._made.parse(plain(self.source))))
            self._variables = names - {*_OURS, *self._tokens, *self._made.globals, "eos_token", "bos_token"}
        return self._variables

    def check(self, chat_template_kwargs: Mapping[str, Any]) -> None:
        """Refuse settings that the template would ignore without a word.

        Raises:
            ParameterError: A name that the template does not read, or that is no setting.
        """
        check_fields(chat_template_kwargs=chat_template_kwargs, system_role="")
        if not chat_template_kwargs:
            return
        known = self.variables()
        if strange := [name for name in chat_template_kwargs if name not in known]:
            raise ParameterError(
                f"the chat template does not read {strange[0]!r} of chat_template_kwargs "
                f"{dict(chat_template_kwargs)!r}; "
                + (f"{closest(strange[0], known)}." if known else "it takes none: leave them out.")
            )


def plain(source: str) -> str:
    """Return a template without the training marks that transformers adds to the language.

    They say nothing when a text is written.
    """
    # {% generation %} is a tag of transformers' own, which jinja refuses
    source = re.sub(r"(\{%-?\s*)generation\b", r"\1if true", source)
    return re.sub(r"(\{%-?\s*)endgeneration\b", r"\1endif", source)


def environment() -> Any:
    """Return the jinja environment that transformers gives to templates, with the clock that stands still."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # sandboxed: a template is code of whoever made the model
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.globals |= {"raise_exception": refuse, "strftime_now": strftime_now}
    made.filters["tojson"] = _tojson
    return made


def _tojson(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  (templates write `tojson(indent=4)`, and may pass it by place)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def check_fields(*, chat_template_kwargs: Mapping[str, Any], system_role: str) -> None:
    """Refuse settings of a request that no server could mean.

    Raises:
        ParameterError: ``chat_template_kwargs`` is no dict, or names what every request has anyway, or ``system_role``
            is none of ``SYSTEM_ROLES``.
    """
    if system_role not in SYSTEM_ROLES:
        raise ParameterError(
            "system_role must be empty (as the task writes it), system, developer, or user (before the first "
            f"question), got {system_role!r}."
        )
    if not isinstance(chat_template_kwargs, Mapping):
        raise ParameterError(
            f"chat_template_kwargs must be a dict, got {chat_template_kwargs!r}; give what the model's chat template "
            "reads, such as {'enable_thinking': false}, or {}."
        )
    if taken := [name for name in chat_template_kwargs if name in _OURS or not str(name).isidentifier()]:
        raise ParameterError(
            f"chat_template_kwargs cannot hold {taken[0]!r}; give what the model's chat template reads, such as "
            "{'enable_thinking': false}."
        )


def fields(
    *, chat_template_kwargs: Mapping[str, Any], system_role: str = "", response_format: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what ``batch.build_requests`` needs to ask in one way, without the settings that are empty.

    Those left out change no custom_id.

    Args:
        chat_template_kwargs: What the model's chat template reads.
        system_role: One of ``SYSTEM_ROLES``.
        response_format: Request field that asks for an answer of a form; null: none.

    Raises:
        ParameterError: As in ``check_fields``.
    """
    check_fields(chat_template_kwargs=chat_template_kwargs, system_role=system_role)
    given = {
        "response_format": response_format,
        "chat_template_kwargs": chat_template_kwargs,
        "system_role": system_role,
    }
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items() if value}


def answer(output: str | None, tool_calls: str | None) -> Message:
    """Return a recorded answer as the message of the assistant that it is.

    Args:
        output: Its text. Of an answer that calls tools the calls as JSON, or with a text beside them
            ``{"content": …, "tool_calls": […]}``; what a reviewer made of it counts.
        tool_calls: The calls as they came, JSON; null: the answer is the text, whatever it looks like.

    Example:
        >>> answer("[1]", None)
        {'role': 'assistant', 'content': '[1]'}
    """
    message: Message = {"role": "assistant", "content": output}
    if not tool_calls:
        return message
    try:
        value, recorded = json.loads(output or ""), json.loads(tool_calls)
    except ValueError:
        return message  # somebody wrote a text in place of the calls
    text, calls = None, value
    if isinstance(value, dict):
        text, calls = value.get("content"), value.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    # the output is written with sorted keys, which is not how the model was shown them, nor how it wrote them
    is_as_it_came = _sorted(calls) == _sorted(recorded)
    if not is_as_it_came and not all(isinstance(call, dict) for call in calls):
        return message  # a list, but none of calls
    return message | {"content": text, "tool_calls": recorded if is_as_it_came else calls}


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def said(text: str | None, calls: Sequence[Any]) -> Any:
    """Return the JSON value that stands for an answer with calls, as its ``output``.

    What scorers and people are shown; see ``answer``.
    """
    return {"content": text, "tool_calls": list(calls)} if (text or "").strip() else list(calls)
