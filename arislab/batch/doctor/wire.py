"""What goes over the wire to a server under examination, and what its replies say in a few words.

Raw HTTP, as the openai SDK would send it: the SDK would hide what deviates. This module does not know any check.
"""

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from arislab.system import masking


@dataclass(frozen=True)
class Wire:
    """How a server is reached: a connection per call, so that one that it closes spoils no other."""

    url: str
    key: str | None = field(repr=False)
    credentials: str | None = field(repr=False)
    """user:password of the URL, sent where there is no key."""
    timeout_s: float

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, key: bool = True
    ) -> tuple[int, Any, bytes]:
        """Return status, parsed JSON (null if it is none) and bytes.

        Status 0 if no reply came. 429 and 503 are asked again.
        """
        parts = urlsplit(self.url + path)
        by_name = masking.basic(self.credentials) if self.credentials and not self.key else None
        own = {"Authorization": by_name or f"Bearer {self.key or 'none'}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        if data is not None:
            own["Content-Type"] = "application/json"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        for pause_s in (1, 4, 15, 0):  # a limit of requests a minute is no deviation
            connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
            try:
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request(method, target, data, {**own, **(headers or {})})
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException) as error:
                return 0, {"error": {"message": f"no reply: {type(error).__name__}: {error}"}}, b""
            finally:
                connection.close()
            if reply.status not in (429, 503) or not pause_s:
                break
            time.sleep(pause_s)
        try:
            value = json.loads(content)
        except (json.JSONDecodeError, UnicodeDecodeError):
            value = None
        return reply.status, value, content


def is_url(text: str) -> bool:
    """Say whether a text is the URL of a server."""
    parts = urlsplit(text)
    try:
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def jsonl(lines: list[dict[str, Any]], *, ascii_only: bool = True) -> bytes:
    """Return the bytes of a file of requests."""
    return b"".join(json.dumps(line, ensure_ascii=ascii_only).encode() + b"\n" for line in lines)


def as_object(reply: Any, raw: bytes) -> dict[str, Any]:
    """Return a reply if it is an object, else the error that its bytes would be."""
    return reply if isinstance(reply, dict) else {"error": {"message": raw[:200].decode(errors="replace")}}


def listed(reply: Any) -> list[dict[str, Any]]:
    """Return the objects of a list reply; nothing of anything else."""
    data = reply.get("data") if isinstance(reply, dict) else None
    return [x for x in data if isinstance(x, dict)] if isinstance(data, list) else []


def count(batch: dict[str, Any], name: str) -> int:
    """Return one of a batch's request_counts; 0 if there is none."""
    counts = batch.get("request_counts")
    value = counts.get(name) if isinstance(counts, dict) else 0
    return value if isinstance(value, int) else 0


def said(reply: Any, raw: bytes = b"") -> str:
    """Return what a reply says, in a few words."""
    error = reply.get("error", reply.get("detail")) if isinstance(reply, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return short(str(error or raw[:200].decode(errors="replace") or reply))


def short(text: str, n: int = 160) -> str:
    """Return a text in one line of ``n`` characters at most."""
    flat = " ".join(text.split())
    return flat if len(flat) <= n else flat[: n - 1] + "…"


def pairs(values: dict[str, Any]) -> str:
    """Return names and values, as a finding shows them."""
    return ", ".join(f"{name} {value!r}" for name, value in values.items())
