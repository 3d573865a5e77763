"""Input files of batches: what is in their lines, and what is wrong with them.

One line of an input file::

    {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [...]}}

A file may be as large as an upload may be, so one line at a time is held, and of all others only where they start.
This module does not know what becomes of a batch.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from arislab.server import bodies
from arislab.server.database import Record
from arislab.server.engines.base import Request
from arislab.server.limits import ForbiddenError, Limits, check_fields
from arislab.system import json_text

PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
"""Endpoint -> the field of a body that holds what is asked."""
MAX_ERRORS = 100


@dataclass
class Scan:
    """What one pass over an input file found."""

    # arrays of machine integers, not lists: a file may have millions of lines, and they stay for the batch's life
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where each request starts; blank lines have no entry."""
    errors: list[Record] = field(default_factory=list)
    """``{code, line, message, param}``, the first hundred; ``line`` counts from 1, blank lines included."""
    models: dict[str, int] = field(default_factory=dict)
    """Model -> its number, in order of appearance."""
    asked: "array[int]" = field(default_factory=lambda: array("L"))
    """Number of the model of each request."""
    prefixes: dict[bytes, int] = field(default_factory=dict)
    """Digest of all messages but the last -> number of the group, in order of appearance; filled where it is asked
    for."""
    groups: "array[int]" = field(default_factory=lambda: array("L"))
    """Group of each request, or empty."""

    aliases: dict[str, str] = field(default_factory=dict)
    """Alias -> the model that the batch has under it."""

    def asked_models(self) -> set[str]:
        """The models that are asked, under their own names."""
        return {self.aliases.get(name, name) for name in self.models}

    def request_at(self, file: IO[bytes], line: int, batch: Record) -> Request:
        """Read one request of the file that was scanned, with the model's own name."""
        file.seek(self.offsets[line])
        fields = json_text.loads_whole(file.readline())
        body = fields["body"]
        if (model := self.aliases.get(body["model"])) is not None:
            body["model"] = model
        return Request(line, fields["custom_id"], body, batch["created_at"], batch["endpoint"], batch["id"])

    def chunks(self, size: int, *, by_model: bool) -> Iterator[tuple[str, Sequence[int]]]:
        """Model and lines of each chunk in the order in which they are dispatched.

        As they stand, group by group, or one model after the other.
        """
        names, every = [self.aliases.get(name, name) for name in self.models], range(len(self.offsets))
        order = sorted(every, key=self.groups.__getitem__) if self.groups else every
        parts: list[Sequence[int]] = [order]
        if by_model:
            of_model: list[list[int]] = [[] for _ in names]
            for line in order:
                of_model[self.asked[line]].append(line)
            parts = [*of_model]
        for part in parts:
            for first in range(0, len(part), size):
                chunk = part[first : first + size]
                yield names[self.asked[chunk[0]]], chunk


def scan_input(path: Path, endpoint: str, limits: Limits, *, group_by_prefix: bool = False) -> Scan:
    """Check a whole input file in one pass that holds one line at a time.

    Args:
        path: the file.
        endpoint: of the batch; each line must have it as ``url``.
        limits: what the lines must keep.
        group_by_prefix: fill ``prefixes`` and ``groups``.

    Returns:
        Where the requests start, and what is wrong.
    """
    scan = Scan()
    first_lines: dict[str, int] = {}  # custom_id -> the line that used it
    for number, offset, raw in _lines(path, limits.line_bytes):
        if len(scan.errors) == MAX_ERRORS:
            break
        if len(scan.offsets) == limits.requests:
            message = f"the file has more than {limits.requests} requests; split it"
            scan.errors.append(problem("too_many_requests", message, line=number))
            break
        scan.offsets.append(offset)
        try:
            custom_id, body = check_line(raw, endpoint, limits)
        except _BadLineError as bad:
            scan.errors.append({**bad.error, "line": number})
            continue
        if custom_id in first_lines:
            before = first_lines[custom_id]
            message = f"custom_id {custom_id!r} was used in line {before} already; each must be unique in its file"
            scan.errors.append(problem("duplicate_custom_id", message, line=number, param="custom_id"))
        first_lines[custom_id] = number
        scan.asked.append(scan.models.setdefault(body["model"], len(scan.models)))
        if group_by_prefix:
            key = hashlib.sha256(bodies.dumps([body["model"], body.get("messages", [])[:-1]])).digest()[:16]
            scan.groups.append(scan.prefixes.setdefault(key, len(scan.prefixes)))
    if not scan.offsets and not scan.errors:
        scan.errors.append(problem("empty_file", "the file has no requests; each line must be one"))
    return scan


def check_line(raw: bytes, endpoint: str, limits: Limits) -> tuple[str, Record]:
    """Return custom_id and body of one line of an input file."""
    if len(raw) > limits.line_bytes:
        raise _BadLineError("line_too_long", f"a line may have {limits.line_bytes} bytes; shorten its texts")
    try:
        line = json_text.loads_whole(raw)
    except orjson.JSONDecodeError as error:
        raise _BadLineError(
            "invalid_json_line", f"this line is not valid JSON: {error.msg} at column {error.colno}"
        ) from None
    if not isinstance(line, dict):
        raise _BadLineError("invalid_json_line", f"a line must be a JSON object, got {type(line).__name__}")
    for name in ("custom_id", "method", "url", "body"):
        if line.get(name) in (None, ""):
            raise _BadLineError("missing_required_parameter", f"missing required parameter: {name!r}", name)
    if not isinstance(line["custom_id"], str) or len(line["custom_id"]) > 512:
        raise _BadLineError("invalid_custom_id", "custom_id must be a string of at most 512 characters", "custom_id")
    if line["method"] != "POST":
        raise _BadLineError("invalid_method", f"method must be 'POST', got {line['method']!r}", "method")
    if line["url"] != endpoint:
        raise _BadLineError("invalid_url", f"url must be the batch's endpoint {endpoint!r}, got {line['url']!r}", "url")
    _check_body(line["body"], endpoint, limits)
    return line["custom_id"], line["body"]


def _check_body(body: Any, endpoint: str, limits: Limits) -> None:
    if not isinstance(body, dict):
        raise _BadLineError("invalid_body", f"body must be a JSON object, got {type(body).__name__}", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _BadLineError("missing_required_parameter", "missing required parameter: 'body.model'", "body.model")
    name = PROMPTS[endpoint]
    if not isinstance(body.get(name), list if name == "messages" else list | str) or not body[name]:
        raise _BadLineError("missing_required_parameter", f"missing required parameter: 'body.{name}'", f"body.{name}")
    if body.get("stream"):
        raise _BadLineError("invalid_stream", "stream is not possible in a batch; leave it out", "body.stream")
    try:
        check_fields(body, limits)
    except ForbiddenError as error:
        raise _BadLineError(error.code, str(error), f"body.{error.param}".rstrip(".")) from None


class _BadLineError(ValueError):
    """One line of an input file breaks a rule."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.error = problem(code, message, param=param)


def problem(code: str, message: str, *, line: int | None = None, param: str | None = None) -> Record:
    """One of a batch's errors, as OpenAI's API shows it."""
    return {"code": code, "line": line, "message": message, "param": param}


def as_text(errors: list[Record]) -> str:
    """Errors of a batch as its row keeps them."""
    return orjson.dumps(errors).decode()


def _lines(path: Path, line_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    r"""Number from 1, offset and bytes of each line that is not blank; lines end at ``\n`` and nowhere else."""
    number, offset = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(line_bytes + 1):
            number += 1
            start, offset = offset, offset + len(raw)
            tail = raw
            # the rest of a line that is too long is read past in pieces, not kept
            while not tail.endswith(b"\n") and (tail := file.readline(line_bytes)):
                offset += len(tail)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                start, raw = start + 3, raw[3:]
            if raw.strip():
                yield number, start, raw
