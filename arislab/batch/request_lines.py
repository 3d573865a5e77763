"""One line of a user's file of requests: taken as it is, or refused with its cause before anything is sent.

One line; ids may have any characters::

    {
        "custom_id": "Bewerbung Jörg/7",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [...]},
    }

This module does not know files or servers.
"""

from typing import Any

from arislab.batch.protocol import URL, canonical
from arislab.system import json_text

MAX_ID = 512
"""Characters of a custom_id; as many as arislab's own server takes, and more than some others do."""
_LINE = '{"custom_id": "…", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "…", "messages": […]}}'


def request(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the custom_id and the body of one line of an input file.

    Raises:
        ValueError: It is no request; says what is wrong with it, and what to write.
    """
    try:
        line = json_text.loads(raw)
    except ValueError as error:
        raise ValueError(f"this is no JSON: {error}; a line looks like {_LINE}.") from None
    if not isinstance(line, dict):
        raise ValueError(f"a line must be a JSON object, got {type(line).__name__}; it looks like {_LINE}.")
    name = line.get("custom_id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID:
        got = f"{len(name)} characters" if isinstance(name, str) else canonical(name) if "custom_id" in line else "none"
        raise ValueError(f"custom_id must be text of 1 to {MAX_ID} characters, got {got}; a line looks like {_LINE}.")
    if line.get("method", "POST") != "POST":
        raise ValueError(f"method must be 'POST', got {line['method']!r}.")
    if line.get("url", URL) != URL:
        raise ValueError(f"url must be {URL!r}, got {line['url']!r}: a client of arislab sends chat requests only.")
    body = line.get("body")
    if not isinstance(body, dict):
        raise ValueError(f"body must be an object, got {canonical(body) if 'body' in line else 'none'}; see {_LINE}.")
    _check_body(body)
    return name, body


def _check_body(body: dict[str, Any]) -> None:
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        got = canonical(model) if "model" in body else "none"
        raise ValueError(f'body.model must name the model that is asked, got {got}; write "model": "…" into the body.')
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"body.messages must be a list of at least one message, got {canonical(messages)[:80]}.")
    if body.get("stream"):
        raise ValueError("stream is not possible in a batch; leave it out.")
    if body.get("n") not in (None, 1):
        raise ValueError(
            f"a request has one answer, so that none is lost; got n={body['n']!r}. Leave n out, and write one line "
            "with a custom_id and a seed of its own for each answer."
        )
