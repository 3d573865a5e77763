"""What a conversation is: roles in their order, texts, calls of tools; and why a row of them is not trained.

It does not know chat templates.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from arislab import chat

STATUSES = {
    "ok": "trained",
    "empty": "the answer or a message has no text",
    "bad_messages": "messages is not a list of {role, content} with text contents, or tools and calls are not as the "
    "chat protocol has them",
    "bad_roles": "not optional instructions followed by user, assistant, user, …, user (a call of tools is followed "
    "by their answers)",
    "control_token": "a content holds a token that the chat template uses, such as the stop token",
    "template": "the chat template refuses the conversation, or a server could not be asked for this answer",
    "tools": "the answer calls tools, and the chat template does not write calls",
    "boundary": "the last token of the prompt would merge with the first of the answer",
    "no_stop": "no stop token follows the answer",
    "not_reversible": "the labels do not decode to the answer and its stop token",
    "too_long": "longer than max_length; cutting it would cut the stop token",
}


class Refused(Exception):  # noqa: N818  (not an error: it becomes the status of a row)
    """Why a row is not trained: status and reason."""


def checked(messages: Any, output: Any, tools: Any, calls: Any) -> tuple[list[chat.Message], list[Any] | None]:
    """Return the messages before an answer, without fields that no template reads, and the tools; or refuse them."""
    try:
        before, offered = _parsed(messages), _parsed(tools)
    except ValueError as error:
        raise Refused("bad_messages", f"messages or tools are not JSON: {error}") from None
    if not isinstance(before, list) or not all(_is_message(message) for message in before):
        raise Refused("bad_messages", "messages is not a list of {role, content} with text contents")
    is_offer = offered is None or (isinstance(offered, list) and all(map(_is_tool, offered)))
    if not is_offer or not _are_calls(calls):
        raise Refused("bad_messages", "tools or tool_calls are not lists of {type: function, function: {name, …}}")
    if any(map(_HALF.search, strings([before, offered, calls]))):
        raise Refused(
            "bad_messages", "a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        )
    if not _is_dialogue(before):
        raise Refused("bad_roles", f"roles are {[message['role'] for message in before]}")
    texts = [message["content"] for message in before if not _may_be_blank(message)]
    if not all((text or "").strip() for text in (*texts, "calls" if calls else output)):
        raise Refused("empty", STATUSES["empty"])
    return [{name: message[name] for name in _FIELDS if message.get(name) is not None} for message in before], offered


_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which servers hand what was thought before a call to the template, which writes it while the tools are at
work: a prompt without them would be none that a server computes."""


_HALF = re.compile(r"[\ud800-\udfff]")
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
    return isinstance(calls, list) and all(_is_tool(call) and arguments(call) is not None for call in calls)


def arguments(call: Any) -> dict[str, Any] | None:
    """The arguments of a call as an object, or None if they are none."""
    given = call["function"].get("arguments")
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def for_template(message: chat.Message) -> chat.Message:
    """A message as servers give it to templates: the arguments of calls as objects.

    They are text only where a template joins them to one.
    """
    if not message.get("tool_calls"):
        return message
    as_text = message.get("as_text", False)
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(arguments(call), ensure_ascii=False) if as_text else arguments(call),
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
    """Whether a server is asked with it though it has no text: instructions, the answer of a tool, calls."""
    return message["role"] in (*chat.INSTRUCTIONS, "tool") or bool(message.get("tool_calls"))


def skeleton(message: chat.Message) -> chat.Message:
    """The shape of a message: its text replaced, its calls and blanks kept."""
    content = message.get("content")
    return {**message, "content": "x" if content and content.strip() else content}


def strings(value: Any) -> list[str]:
    """All texts in a JSON value, names of fields included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for name, item in value.items() for text in (name, *strings(item))]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else []


def _parsed(messages: Any) -> Any:
    return json.loads(messages) if isinstance(messages, str) else messages
