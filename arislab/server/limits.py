"""How much a client may send, and what a line may not hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SERVER_FIELDS = frozenset(
    {"api_base", "api_key", "base_url", "extra_headers", "extra_body", "litellm_params", "user_config"}
)
"""Top-level fields that would choose where a line is sent, or as whom; the operator alone does."""

ANSWER_BYTES = 32 << 20
"""Of the body of an answer: a thousand times the usual one, and a few hundred of them fit into memory."""

MEDIA_FIELDS = frozenset({"image_url", "file_url", "audio_url", "video_url"})
"""Fields at any depth whose URL the engine would fetch."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes; OpenAI's numbers unless said otherwise."""

    requests: int = 50_000
    """Lines of a batch."""
    file_bytes: int = 200_000_000
    line_bytes: int = 8 << 20
    body_bytes: int = 8 << 20
    """Any request but an upload."""
    answer_bytes: int = ANSWER_BYTES
    """The body of one answer of an upstream, once it is decompressed (ours)."""
    json_depth: int = 64
    """Nested objects and arrays in the body of a line (ours; OpenAI names none)."""
    window_s: int = 24 * 3600
    """From the creation of a batch to its expiry."""
    keep_s: int = 30 * 24 * 3600
    """From the creation of a file to its expiry."""
    quota_bytes: int | None = None
    """Files and results together; None is no limit but the disk's."""
    grace_s: float = 30.0
    """Seconds before a slow request body is given up ..."""
    slow_bytes_per_s: float = 10_000.0
    """... unless it has brought this many bytes for each second beyond them."""
    media_hosts: frozenset[str] = field(default_factory=frozenset)
    """Hosts that a line may name in an image, file, audio or video URL; data: URLs are always allowed."""


class ForbiddenError(ValueError):
    """A body holds what no client may send.

    Attributes:
        param: the field.
        code: ``forbidden_parameter``, ``forbidden_url`` or ``too_deep``.
    """

    def __init__(self, code: str, param: str, message: str):
        super().__init__(message)
        self.code, self.param = code, param


def check_fields(body: dict[str, Any], limits: Limits) -> None:
    """Refuse credentials, addresses, URLs to fetch, and nesting beyond ``limits.json_depth``.

    Raises:
        ForbiddenError: names the field and what to do.
    """
    if names := sorted(SERVER_FIELDS & body.keys()):
        raise ForbiddenError(
            "forbidden_parameter", names[0], f"{names[0]!r} is set by the server only; leave it out of the body"
        )
    open_: list[tuple[Any, int]] = [(body, 1)]  # not a recursion, which a body nested deep enough would break off
    while open_:
        value, depth = open_.pop()
        if depth > limits.json_depth:
            raise ForbiddenError(
                "too_deep", "", f"the body is nested deeper than {limits.json_depth} levels; flatten it"
            )
        if isinstance(value, dict):
            for name in MEDIA_FIELDS & value.keys():
                for url in _urls(value[name]):
                    if not _is_allowed(url, limits.media_hosts):
                        message = (
                            f"{name!r} must be a data: URL here, as this server fetches nothing for a client; "
                            "send the content itself"
                        )
                        raise ForbiddenError("forbidden_url", name, message)
            value = list(value.values())
        open_.extend((inner, depth + 1) for inner in value if isinstance(inner, dict | list))


def _urls(value: Any) -> Iterator[str]:
    """The URL of a media field: itself, or its ``url``; anything else (a JSON Schema's property) is none."""
    if isinstance(value, dict):
        value = value.get("url")
    if isinstance(value, str):
        yield value


def _is_allowed(url: str, hosts: frozenset[str]) -> bool:
    try:
        parts = urlsplit(url.strip())
        return parts.scheme == "data" or (parts.scheme in ("http", "https") and parts.hostname in hosts)
    except ValueError:
        return False  # e.g. an unclosed bracket
