r"""Lines of request, output and error files.

One line of an input file, and one of an output file::

    {
        "body": {"max_tokens": 160, "messages": [...], "model": "m", "seed": 7},
        "custom_id": "r-0b6f…",
        "method": "POST",
        "url": "/v1/chat/completions",
    }
    {
        "custom_id": "r-0b6f…",
        "error": null,
        "id": "…",
        "response": {"body": {"choices": [...], "usage": {...}}, "status_code": 200},
    }

Servers differ: an error may be a string, stand beside a response, or in a body of status 200; a body may be a JSON
string; content may be a text or parts; any field may be of any type; counts and order say nothing. Lines end at the
byte ``\n`` and nowhere else: U+2028 in a text is no line's end. This module does not know files, servers or batches.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import IO, Any

import orjson

from arislab import chat
from arislab.system import json_text
from arislab.system.json_text import fields

URL = "/v1/chat/completions"
ANSWERED = ("ok", "truncated", "refused", "empty")
"""An answer came: it is recorded and not asked for again."""
AGAIN = ("unavailable", "expired")
"""No answer, for reasons that pass: sent again by itself, three attempts a run."""
ASK = ("error", "lost", "cancelled")
"""No answer, and sending it again may cost money or fail again: only with ``resend``."""

LOGPROBS = ("logprob_mean", "logprob_tail", "logprob_window")
"""What is kept of the log-probabilities of an answer's tokens: their mean, that of the last ``WINDOW``, and the lowest
of any ``WINDOW`` in a row (of all, where there are fewer)."""
WINDOW = 16
FIRST = "first_token_logprobs"
"""What is kept of the first token of an answer: JSON object of the tokens that could have stood there, and their
log-probabilities. A judge that answers with one number has said all of it there."""
_EMPTY: dict[str, Any] = {
    "error": None,
    "llm_output": None,
    "tool_calls": None,
    "finish_reason": None,
    "prompt_tokens": None,
    "completion_tokens": None,
    **dict.fromkeys((*LOGPROBS, FIRST)),
    "model_returned": None,
}


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def as_written(value: Any) -> str:
    """Return JSON in the order of its keys, which chat templates write out.

    Where a model is shown tools and calls, the order is text.

    Raises:
        ValueError: As ``canonical``.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def encode(custom_id: str, body: str) -> bytes:
    """Return one line of an input file, for a body in canonical JSON and an id of any characters."""
    return f'{{"body":{body},"custom_id":{json.dumps(custom_id)},"method":"POST","url":"{URL}"}}\n'.encode()


def split(content: bytes | IO[bytes]) -> Iterator[bytes]:
    r"""Yield the lines that are not blank; only ``\n`` ends one.

    A byte order mark and ``\r`` before the end are dropped.

    Args:
        content: The bytes of a file, or the file itself, which is then read line by line.
    """
    source = BytesIO(content) if isinstance(content, bytes) else content  # neither knows another end of a line than \n
    if source.read(3) != b"\xef\xbb\xbf":
        source.seek(0)
    for line in source:
        if stripped := line.strip(b" \t\r\n"):
            yield stripped


def parse(raw: bytes) -> dict[str, Any] | None:
    """Return one line as an object, or None if it is none."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def answer(raw: bytes) -> dict[str, Any] | None:
    """Return one line of a result file, as ``parse`` does, but overlook NaN, half surrogate pairs and their like.

    It was paid for.
    """
    try:
        line, _ = json_text.loads_leniently(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def outcome(line: dict[str, Any] | None, batch_status: str) -> dict[str, Any]:
    """Say what became of one request, from its output or error line; of several choices the first by index counts.

    Args:
        line: The parsed line; null if none came.
        batch_status: Terminal status of its batch.

    Returns:
        status (one of ANSWERED, AGAIN, ASK), error (JSON text), llm_output (of an answer that calls tools: the calls as
        JSON), tool_calls (JSON), finish_reason, prompt_tokens, completion_tokens, ``LOGPROBS``, ``FIRST``,
        model_returned; null where nothing is known.
    """
    return outcomes(line, batch_status)[0]


def outcomes(line: dict[str, Any] | None, batch_status: str) -> list[dict[str, Any]]:
    """Say what became of one request, as ``outcome`` does, for each choice of its answer in the order of their index.

    The token counts of the answer, which are of all choices together, stand with the first one.
    """
    if line is None:
        status = {"expired": "expired", "cancelled": "cancelled"}.get(batch_status, "unavailable")
        return [_failed(status, {"code": "missing_line", "message": f"no line in the files of a {batch_status} batch"})]
    response, problem = fields(line.get("response")), _problem(line)
    body = _body(response)
    inner = _problem(body)
    code = _status_code(response, problem, inner, body)
    if problem or code != 200 or inner:
        error = problem or inner or body or {"message": f"status {code}"}
        return [_failed(_kind(error, code), error)]
    choices = _choices(body)
    if not choices:
        return [_failed("unavailable", {"code": "empty_response", "message": "status 200 without choices"})]
    answers = [_answer(choice, body) for choice in choices]
    return answers[:1] + [answer | {"prompt_tokens": None, "completion_tokens": None} for answer in answers[1:]]


def n_choices(line: dict[str, Any]) -> int:
    """Return how many choices an answer has; 0 for a line without an answer, 1 for most."""
    return len(_choices(_body(fields(line.get("response")))))


def text(content: Any) -> str | None:
    """Return the text of a message's content: itself, or its text parts put together; null if there is neither.

    Example:
        >>> text(
        ...     [
        ...         {"type": "text", "text": "Who is "},
        ...         {"type": "image_url", "image_url": {}},
        ...         {"type": "text", "text": "this?"},
        ...     ]
        ... )
        'Who is this?'
    """
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


def asked(messages: Sequence[dict[str, Any]]) -> str:
    """Return what a user asks: the text of the last message of role user, else of the last one.

    It is empty if that has none.
    """
    users = [m for m in messages if m.get("role") == "user"] or list(messages)
    return (text(users[-1].get("content")) or "") if users else ""


def _body(response: dict[str, Any]) -> Any:
    body = response.get("body")
    if isinstance(body, str):  # a server that wraps JSON in JSON
        return answer(body.encode("utf-8", "surrogatepass")) or body
    return body


def _problem(holder: Any) -> Any:
    """The error that a line or a body tells.

    It is null if there is none, or one that says nothing, such as ``{"code": 0, "message": ""}``.
    """
    error = fields(holder).get("error")
    return error if (any(error.values()) if isinstance(error, dict) else error) else None


def _choices(body: Any) -> list[dict[str, Any]]:
    """The choices of an answer by their index, where each has another one; else as they came."""
    choices = [choice for choice in _listed(fields(body).get("choices")) if isinstance(choice, dict)]
    places = [choice.get("index") for choice in choices]
    if len({place for place in places if isinstance(place, int)}) < len(places):
        return choices
    return sorted(choices, key=lambda choice: int(choice["index"]))


def _answer(choice: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    message, usage = fields(choice.get("message")), fields(body.get("usage"))
    reason, text, refusal = choice.get("finish_reason"), _answer_text(message, choice), _refusal(message)
    ended = reason.lower() if isinstance(reason, str) else None
    if calls := _calls(message):
        text = _json(chat.said(text, calls))
    if refusal or ended == "content_filter":
        status = "refused"
    elif not (text or "").strip():
        if ended in _BROKEN_OFF:
            return _failed("unavailable", {"code": "broken_off", "message": f"finish_reason {reason} without a text"})
        status = "empty"
    else:
        status = "truncated" if ended in (*_TOO_LONG, *_BROKEN_OFF) else "ok"
    return {
        "status": status,
        "error": None,
        "llm_output": refusal if text is None and refusal else text,
        "tool_calls": _json(calls, as_written) if calls else None,
        "finish_reason": reason if isinstance(reason, str) else None,
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        **_confidence(fields(choice.get("logprobs"))),
        FIRST: _first_token(fields(choice.get("logprobs")), text),
        "model_returned": body.get("model") if isinstance(body.get("model"), str) else None,
    }


_TOO_LONG = ("length", "max_tokens", "model_length")
"""Names of servers, in small letters, for an answer that met its limit."""
_BROKEN_OFF = ("abort", "error")
"""Names for an answer that the server began and did not end: vLLM's and OpenRouter's."""


def _refusal(message: dict[str, Any]) -> str | None:
    """What a message says to refuse, in its field or in its parts; null if it does not."""
    if message.get("refusal"):
        return _plain(message["refusal"])
    parts = [fields(part).get("refusal") for part in _listed(message.get("content"))]
    return "".join(_plain(part) for part in parts if part) or None


def _answer_text(message: dict[str, Any], choice: dict[str, Any]) -> str | None:
    """The text of an answer; what is no text (a number, a picture) is kept as JSON, parts that think aloud left out."""
    content = message.get("content", choice.get("text"))
    if not isinstance(content, str | list | None):
        return _json(content)
    silent = ("thinking", "reasoning", "redacted_thinking", "refusal")
    parts = [part for part in _listed(content) if fields(part).get("type") not in silent]
    if not all(isinstance(part, str) or isinstance(fields(part).get("text", 0), str | None) for part in parts):
        return _json(parts)
    return text(parts if isinstance(content, list) else content)


def offered(body: dict[str, Any]) -> str | None:
    """Return the tools that a request offers, as JSON in the order of its keys; the older functions are tools.

    It is null if there are none.
    """
    tools = body.get("tools") or [{"type": "function", "function": one} for one in _listed(body.get("functions"))]
    return as_written(tools) if tools else None


def _calls(message: dict[str, Any]) -> list[Any]:
    """The calls of tools that a message makes; the older function_call is one of them."""
    calls, older = message.get("tool_calls"), message.get("function_call")
    if isinstance(calls, list) and calls:
        return calls
    return [{"type": "function", "function": older}] if isinstance(older, dict) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    """A number of tokens; null if it is none that a table can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return int(value) if 0 <= value < 2**63 and value == int(value) else None


def _confidence(logprobs: dict[str, Any]) -> dict[str, float | None]:
    """What is kept of the log-probabilities, null where there are none.

    Source:
        Fu et al. 2025, Deep Think with Confidence: the end and the weakest stretch tell more than the mean.
    """
    if isinstance(summary := logprobs.get("arislab"), dict):  # of a server that replays what was recorded
        kept = {name: _logprob({"logprob": summary.get(name)}) for name in LOGPROBS}
        return {name: None if value is None else min(0.0, value) for name, value in kept.items()}
    tokens = [_logprob(token) for token in _listed(logprobs.get("content"))]
    known = [logprob for logprob in tokens if logprob is not None]
    if not known:
        return dict.fromkeys(LOGPROBS)
    sums, size = [0.0, *accumulate(known)], min(WINDOW, len(known))  # once over the tokens, however long the answer
    windows = [(end - start) / size for start, end in zip(sums, sums[size:], strict=False)]
    values = (sums[-1] / len(known), windows[-1], min(windows))
    return {name: min(0.0, value) for name, value in zip(LOGPROBS, values, strict=True)}


def _first_token(logprobs: dict[str, Any], text: str | None) -> str | None:
    """The alternatives to the token with which an answer begins, as JSON; null where none were told.

    Of a model that thinks first the tokens are of all that it wrote, the answer is the end of it.
    """
    if isinstance(summary := logprobs.get("arislab"), dict):  # of a server that replays what was recorded
        kept = summary.get(FIRST)
        told = list(fields(answer(kept.encode())).items()) if isinstance(kept, str) else []
        return _alternatives([(token, _logprob({"logprob": value})) for token, value in told])
    tokens = [token for token in map(fields, _listed(logprobs.get("content"))) if isinstance(token.get("token"), str)]
    written = "".join(token["token"] for token in tokens)
    start, end = written.rfind((text or "").strip()), 0
    for token in tokens if start >= 0 else ():
        end += len(token["token"])
        if end > start and token["token"].strip():
            tops = map(fields, _listed(token.get("top_logprobs")))
            return _alternatives([(one.get("token"), _logprob(one)) for one in tops])
    return None


def _alternatives(told: Sequence[tuple[Any, float | None]]) -> str | None:
    known = {token: min(0.0, value) for token, value in told if isinstance(token, str) and value is not None}
    return _json(known) if known else None


def _logprob(token: Any) -> float | None:
    value = fields(token).get("logprob")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -1e300 < value < 1e300 else None


def _json(value: Any, form: Callable[[Any], str] = canonical) -> str:
    try:
        return form(value)
    except (ValueError, RecursionError) as error:  # not from a line that parse read, but for hundreds of levels
        return canonical({"message": f"what the server said is no JSON: {type(error).__name__}"})


def _failed(status: str, error: Any) -> dict[str, Any]:
    return {
        **_EMPTY,
        "status": status,
        "error": _json(error if isinstance(error, dict) else {"message": _plain(error)})[:2000],
    }


def _plain(error: Any) -> str:
    return error if isinstance(error, str) else _json(error)


def _status_code(response: dict[str, Any], problem: Any, inner: Any, body: Any) -> int:
    """HTTP status of a line, 0 if it had none: some servers write it into the error, some not at all."""
    codes = [response.get("status_code"), fields(problem).get("code"), fields(inner).get("code")]
    for code in codes:
        # also "429 Too Many Requests", and 429.0 of a server that has one type of number
        number = re.fullmatch(r"\s*([0-9]{1,9})(?:\.0*)?(?:\s.*)?", str(code), re.DOTALL)
        if number and not isinstance(code, bool):
            return int(number[1])
    return 200 if isinstance(body, dict) and "choices" in body and not problem else 0


def _kind(error: Any, code: int) -> str:
    # the word goes before the number, which servers write as they like
    name = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    if name in ("batch_expired", "batch_cancelled", "batch_lost"):
        return name.removeprefix("batch_")
    if isinstance(error, dict) and fields(error.get("arislab")).get("tries"):
        return "error"  # arislab's own server has tried it as often as can help; trying on top would multiply
    if name in ("content_filter", "not_sendable", "batch_failed") or name.startswith("invalid_"):
        return "error"
    passing = code in (0, 200, 408, 409, 425, 429) or code >= 500
    return "unavailable" if passing else "error"
