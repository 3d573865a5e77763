"""What must never be written or shown: keys from the environment, and the user and password of a URL.

    http://user:word@host/v1   is shown and recorded as   http://[hidden]@host/v1

A URL is taken apart where it is used (``take_apart``): the address goes into connections, ledgers and messages, the
credentials only into a header. Secrets are known by the names of their variables and by their place in a URL; this
module does not know what else may be one, and looks into no binary format. It loads nothing but the standard library.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "[hidden]"
_NAMED = re.compile(r"KEY(?!WORD|BOARD)|TOKEN(?!I[SZ])|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
"""A tokenizer is no token and a keyword no key: their values are names of models and words, which answers hold too."""
_SHORTEST = 8  # shorter values are words such as "true"; cutting them out would wreck the record
_SHORTEST_IN_URL = 6  # where a value stands between "://" and "@", it is a secret; elsewhere a short one is a word
_URL = re.compile(r"\b((?:https?|[a-z][a-z0-9+.-]*(?=://[^\s/?#@]*:))://)([^\s/?#\"'<>]*)@", re.IGNORECASE)
_IS_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://\S*\s*\Z", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&](?:api[_-]?key|key|token|access_token|secret|password|sig|signature)=)([^\s&#\"'<>\\]+)", re.IGNORECASE
)


def take_apart(url: str) -> tuple[str, str | None]:
    """Return a URL without user and password, and these as ``user:password``, decoded; null if it has none.

    What a record shows for them counts as none, so that its parameters can be used again.

    Example:
        >>> take_apart("http://me:p%40ss@host:8000/v1")
        ('http://host:8000/v1', 'me:p@ss')
        >>> take_apart("http://[hidden]@host/v1")
        ('http://host/v1', None)
    """
    scheme, slashes, rest = url.partition("://")
    who = _who(rest) if slashes else None
    if who is None:
        return url, None
    user, _, password = who.partition(":")
    credentials = None if who in (HIDDEN, "") else f"{unquote(user)}:{unquote(password)}"
    return f"{scheme}://{rest[len(who) + 1 :]}", credentials


def _who(rest: str) -> str | None:
    """What stands before the @ of a URL's host, given what follows ``://``.

    Also where its password has a / ? or # that is not escaped.
    """
    who, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if at:
        return who
    has_password = re.match(r"[^/?#:@]*:(?!\d*(?:[/?#]|$))", rest)  # digits would be a port
    who, at, _ = rest.rpartition("@") if has_password else ("", "", "")
    return who if at else None


def basic(credentials: str) -> str:
    """Return the Authorization header of ``user:password``."""
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


def secrets_of(variables: Mapping[str, str], *values: Any) -> list[str]:
    """Return what must not be written, longest first, in every form in which it may be written.

    Args:
        variables: The environment: values of variables named …KEY…, …TOKEN…, …SECRET…, …PASSWORD…, line by line, unless
            they have under 8 characters or are paths that exist; and what stands before the @ of the URLs in any value.
        values: Texts, or lists and dicts of text, whose URLs count too.
    """
    secrets: set[str] = set()
    for name, value in variables.items():
        if _NAMED.search(name) and not (value.startswith("/") and Path(value).exists()):
            secrets.update(line for text in value.splitlines() if len(line := text.strip()) >= _SHORTEST)
    for text in _texts([*variables.values(), *values]):
        if "@" in text and "://" in text:
            whole = _who(text.partition("://")[2]) if _IS_URL.match(text) else None
            for who in {*(who for _, who in _URL.findall(text)), whole or HIDDEN} - {HIDDEN, ""}:
                secrets.update(_of_url(who))
        secrets.update(value for _, value in _QUERY.findall(text) if len(value) >= _SHORTEST_IN_URL)
    every = {form for secret in secrets - {HIDDEN} for form in _forms(secret)}
    return sorted(every, key=lambda form: (-len(form), form))


def _of_url(who: str) -> Iterable[str]:
    user, colon, password = who.partition(":")
    secret = password if colon else user
    for part in (who, secret, unquote(secret)):
        if len(part) >= _SHORTEST_IN_URL:
            yield part
    yield basic(f"{unquote(user)}:{unquote(password)}").removeprefix("Basic ")


def _forms(secret: str) -> set[str]:
    """A secret as text, in JSON, as Python writes it, and in a URL."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe=""),
    }


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(list(pair))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _texts(item)


def without(value: Any, hidden: list[str]) -> Any:
    """Return text, or lists and dicts of text, with ``[hidden]`` for secrets and for what stands before a URL's @."""
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, HIDDEN)
        if "://" in value:
            value = _URL.sub(rf"\1{HIDDEN}@", value) if "@" in value else value
            value = _QUERY.sub(rf"\1{HIDDEN}", value) if "=" in value else value
        return value
    if isinstance(value, dict):
        return {without(key, hidden): without(item, hidden) for key, item in value.items()}
    return [without(item, hidden) for item in value] if isinstance(value, (list, tuple)) else value


def masked(value: Any) -> Any:
    """Return text, or lists and dicts of text, without the secrets of this process's environment and of URLs."""
    return without(value, _known(tuple(sorted(os.environ.items()))))


@lru_cache(maxsize=4)
def _known(variables: tuple[tuple[str, str], ...]) -> list[str]:
    return secrets_of(dict(variables))


def hide_in(path: Path, hidden: list[str]) -> str | None:
    """Return the text of a file without secrets; null if it holds none, or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    cleaned = str(without(text, hidden))
    return None if cleaned == text else cleaned
