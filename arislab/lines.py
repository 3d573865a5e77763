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

Servers differ: an error may be a string, stand beside a response, or in a body of status 200; a body may be a JSON string; counts and
order say nothing. Lines end at the byte ``\n`` and nowhere else: U+2028 in a text is no line's end. This module does not know files,
servers or batches.
"""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import IO, Any

import orjson

URL = "/v1/chat/completions"
ANSWERED = ("ok", "truncated", "refused", "empty")
"""An answer came: it is recorded and not asked for again."""
AGAIN = ("unavailable", "expired")
"""No answer, for reasons that pass: sent again by itself, three attempts a run."""
ASK = ("error", "lost", "cancelled")
"""No answer, and sending it again may cost money or fail again: only with ``resend``."""

_EMPTY: dict[str, Any] = {
    "error": None,
    "llm_output": None,
    "finish_reason": None,
    "prompt_tokens": None,
    "completion_tokens": None,
    "logprob_mean": None,
    "model_returned": None,
}


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def encode(custom_id: str, body: str) -> bytes:
    """Return one line of an input file, for a body in canonical JSON and an id of any characters."""
    return f'{{"body":{body},"custom_id":{json.dumps(custom_id)},"method":"POST","url":"{URL}"}}\n'.encode()


def split(content: bytes | IO[bytes]) -> Iterator[bytes]:
    r"""Yield the lines that are not blank; only ``\n`` ends one. A byte order mark and ``\r`` before the end are dropped.

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


def outcome(line: dict[str, Any] | None, batch_status: str) -> dict[str, Any]:
    """Say what became of one request, from its output or error line.

    Args:
        line: The parsed line; null if none came.
        batch_status: Terminal status of its batch.

    Returns:
        status (one of ANSWERED, AGAIN, ASK), error (JSON text), llm_output (of an answer that calls tools: the calls as JSON),
        finish_reason, prompt_tokens, completion_tokens, logprob_mean, model_returned; null where nothing is known.
    """
    if line is None:
        status = {"expired": "expired", "cancelled": "cancelled"}.get(batch_status, "unavailable")
        return _failed(status, {"code": "missing_line", "message": f"no line in the files of a {batch_status} batch"})
    response, problem = line.get("response"), line.get("error")
    response = response if isinstance(response, dict) else {}
    body = response.get("body")
    if isinstance(body, str):  # a server that wraps JSON in JSON
        body = parse(body.encode()) or body
    code = _status_code(response, problem, body)
    inner = body.get("error") if isinstance(body, dict) else None
    if problem or code != 200 or inner:
        told = problem or inner or body or {"message": f"status {code}"}
        return _failed(_kind(told, code), told)
    return _answer(body)


def n_choices(line: dict[str, Any]) -> int:
    """Return how many choices an answer has; 0 for a line without an answer, 1 for most."""
    body = _fields(line.get("response")).get("body")
    body = parse(body.encode()) if isinstance(body, str) else body
    choices = _fields(body).get("choices")
    return len(choices) if isinstance(choices, list) else 0


def _answer(body: Any) -> dict[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        return _failed("unavailable", {"code": "empty_response", "message": "status 200 without choices"})
    message, usage = _fields(choice.get("message")), _fields(body.get("usage"))
    reason, text, refusal = choice.get("finish_reason"), _text(message.get("content")), message.get("refusal")
    if not text and message.get("tool_calls"):
        text = canonical(message["tool_calls"])
    if refusal or reason == "content_filter":
        status = "refused"
    elif not (text or "").strip():
        status = "empty"
    else:
        status = "truncated" if reason == "length" else "ok"
    content = (choice.get("logprobs") or {}).get("content") or []
    tokens = [t["logprob"] for t in content if isinstance(t, dict) and isinstance(t.get("logprob"), int | float)]
    return {
        "status": status,
        "error": None,
        "llm_output": text if text is not None else refusal,
        "finish_reason": reason,
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "logprob_mean": min(0.0, sum(tokens) / len(tokens)) if tokens else None,
        "model_returned": body.get("model") if isinstance(body.get("model"), str) else None,
    }


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else None


def _failed(status: str, told: Any) -> dict[str, Any]:
    text = canonical(told if isinstance(told, dict) else {"message": str(told)})
    return {**_EMPTY, "status": status, "error": text[:2000]}


def _status_code(response: dict[str, Any], problem: Any, body: Any) -> int:
    """HTTP status of a line, 0 if it had none: some servers write it into the error, some not at all."""
    codes = [response.get("status_code")]
    codes += [
        x.get("code") for x in (problem, body.get("error") if isinstance(body, dict) else None) if isinstance(x, dict)
    ]
    for code in codes:
        if isinstance(code, int) or (isinstance(code, str) and code.isdigit()):
            return int(code)
    return 200 if isinstance(body, dict) and "choices" in body and not problem else 0


def _kind(told: Any, code: int) -> str:
    name = str(told.get("code") or told.get("type") or "") if isinstance(told, dict) else ""
    if name in ("batch_expired", "batch_cancelled", "batch_lost"):
        return name.removeprefix("batch_")
    if isinstance(told, dict) and _fields(told.get("arislab")).get("tries"):
        return "error"  # arislab's own server has tried it as often as can help; trying on top would multiply
    if name in ("content_filter", "not_sendable", "batch_failed") or name.startswith("invalid_"):
        return "error"
    passing = code in (0, 200, 408, 409, 425, 429) or code >= 500
    return "unavailable" if passing else "error"
