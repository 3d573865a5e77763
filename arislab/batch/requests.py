"""Requests: what a model is asked, each with an id of its whole text, made from candidates or read from a user's file.

The bytes of the protocol are described in ``protocol``, the way of a request in ``job`` (there ``sending``, back
``results``), the differences of servers in ``dialects``, what is answered already in ``answers``. This module does not
know the lake or any task.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.batch.protocol import asked, canonical
from arislab.batch.request_lines import request
from arislab.errors import ParameterError, TaskError
from arislab.system import spilled
from arislab.system.kinds import takes_any_frame

REQUEST = {
    "candidate_id": pl.String,
    "sample": pl.Int32,
    "custom_id": pl.String,
    "input": pl.String,
    "messages": pl.String,
    "model": pl.String,
    "body": pl.String,
    "request_sha256": pl.String,
    "stem": pl.String,
}
_PART = 10_000
LIMITS = ("max_tokens", "max_completion_tokens")
"""Fields that bound the length of an answer and change nothing else of it."""


def custom_id(body: dict[str, Any], *, sample: int) -> str:
    """Return the name of a request: a digest of the whole body and the number of the sample.

    Example:
        >>> custom_id({"model": "m", "messages": []}, sample=0)
        'r-9786e4bd910f9f13724d7c340facf9ab54a1a9f8'
    """
    return "r-" + hashlib.sha256(canonical({"body": body, "sample": sample}).encode()).hexdigest()[:40]


@takes_any_frame
def build_requests(
    candidates: pl.DataFrame,
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]],
    *,
    model: str,
    temperature: float = 1.0,
    max_tokens: int = 256,
    samples: int = 1,
    seed: int = 0,
    pair_by_candidate: bool = False,
    system_role: str = "",
    **parameters: Any,
) -> pl.DataFrame:
    """Return one row per candidate and sample.

    Identical requests (candidates with the same profile) share a custom_id and are sent once. Each request carries its
    own random seed: with one seed for all, all answers draw the same random numbers and share their faults. The seed
    does not depend on max_tokens, and neither does ``stem``, which names the question: see ``reuse_finished``.

    Args:
        candidates: Reads candidate_id, profile (JSON), company, title, category, use_case.
        to_messages: Candidate (profile parsed) to chat messages.
        model: Name as the server knows it. It must name the weights: an answer recorded under it is never asked for
            again.
        temperature: 0 = greedy.
        max_tokens: Longest answer; a longer one is cut and gets status truncated.
        samples: Answers per candidate.
        seed: Base of the seeds of the rows.
        pair_by_candidate: True: a row's seed depends on candidate and sample alone, so that arms and example sets which
            ask about the same candidate draw the same random numbers (paired differences).
        system_role: Role in which the instructions are sent (``chat.SYSTEM_ROLES``); empty: as to_messages writes them.
        parameters: Further fields of the request body. An empty chat_template_kwargs is none: it changes no custom_id,
            and is not sent.

    Returns:
        The columns of ``REQUEST``: candidate_id, sample (from 0), custom_id, input (the last user message), messages
        (JSON), model, body (canonical JSON), request_sha256 (of the body), stem.

    Raises:
        ParameterError: No candidates, or a parameter out of range.
    """
    if not candidates.height:
        raise ParameterError(
            "there are no candidates to ask about; import some (arislab import FILE --as candidates) or run 1_generate."
        )
    if samples < 1 or max_tokens < 1 or temperature < 0:
        raise ParameterError(
            f"samples and max_tokens must be >= 1 and temperature >= 0, got {samples}, {max_tokens}, {temperature}."
        )
    if parameters.get("stream") or parameters.get("n", 1) != 1:
        raise ParameterError(
            f"a request of a batch has one answer, whole; got stream={parameters.get('stream')!r}, "
            f"n={parameters.get('n', 1)!r}. samples=3 gives three requests, each with a seed and a row of its own."
        )
    chat.check_fields(chat_template_kwargs=parameters.get("chat_template_kwargs") or {}, system_role=system_role)
    if not parameters.get("chat_template_kwargs"):
        parameters.pop("chat_template_kwargs", None)

    def frame(part: pl.DataFrame) -> pl.DataFrame:
        rows: list[tuple[Any, ...]] = []
        for row in part.iter_rows(named=True):
            messages = chat.in_role(written(to_messages, row | {"profile": json.loads(row["profile"])}), system_role)
            body = {
                "model": model,
                "messages": messages,
                "temperature": temperature,
                "max_tokens": max_tokens,
                **parameters,
            }
            text = _finite({name: value for name, value in body.items() if name not in LIMITS})
            for sample in range(samples):
                drawn = f"{seed}:{sample}:{row['candidate_id'] if pair_by_candidate else text}"
                body["seed"] = int(hashlib.sha256(drawn.encode()).hexdigest()[:8], 16) >> 1  # some engines take 31 bits
                rows.append((row["candidate_id"], sample, *_request(body, sample)))
        return pl.DataFrame(rows, schema=REQUEST | {"candidate_id": part.schema["candidate_id"]}, orient="row")

    # few rows as Python objects at once
    return spilled.frames(map(frame, candidates.iter_slices(_PART)))  # one row per candidate and sample


def _finite(body: dict[str, Any]) -> str:
    """Canonical JSON of a request body without its limits."""
    try:
        return canonical(body)
    except ValueError as error:  # JSON has no NaN and no infinity
        given = {name: value for name, value in body.items() if name != "messages"}
        raise ParameterError(f"a parameter of a request must be a finite number, got {given}; mend it.") from error


def _request(body: dict[str, Any], sample: int) -> tuple[str, ...]:
    """The columns of a request from custom_id on."""
    whole, question = canonical(body), asked(body["messages"])
    return (
        custom_id(body, sample=sample),
        question.encode("utf-8", "replace").decode(),  # half a character cannot be stored
        canonical(body["messages"]),
        body["model"],
        whole,
        hashlib.sha256(whole.encode()).hexdigest(),
        _stem(body, sample),
    )


def written(
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]], candidate: dict[str, Any]
) -> list[dict[str, str]]:
    """The messages about one candidate; a task file that cannot write them is named with the candidate."""
    try:
        messages = to_messages(candidate)
        shaped = bool(messages) and all(isinstance(m["role"], str) and _is_content(m) for m in messages)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TaskError(
            f"to_messages failed on candidate {candidate['candidate_id']!r}: {type(error).__name__}: {error}. Its "
            f"profile has {', '.join(candidate['profile'])}; this task is for other candidates, or the import lacks a "
            "column."
        ) from error
    if not shaped:
        raise TaskError(
            f"to_messages gave {messages!r} for candidate {candidate['candidate_id']!r}; it must give a list of "
            "{'role': text, 'content': text or parts} with at least one entry."
        )
    return messages


def _is_content(message: dict[str, Any]) -> bool:
    """Whether a message says something: a text, parts, or calls of tools."""
    content = message.get("content")
    if isinstance(content, str):
        return True
    is_parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
    return is_parts or (content is None and bool(message.get("tool_calls")))


@dataclass(frozen=True)
class Preview:
    """Rendered conversations."""

    conversations: list[list[dict[str, str]]]

    def __repr__(self) -> str:
        blocks = ["\n".join(f"[{m['role']}]\n{m['content']}" for m in chat) for chat in self.conversations]
        return ("\n" + "-" * 60 + "\n").join(blocks)


@takes_any_frame
def preview(requests: pl.DataFrame, *, n: int = 2) -> Preview:
    """Show the first ``n`` conversations as they will be sent."""
    return Preview([json.loads(text) for text in requests["messages"].head(n)])


def _stem(body: dict[str, Any], sample: int) -> str:
    """The name of a question: as ``custom_id``, but without the bound on the answer's length."""
    rest = {name: value for name, value in body.items() if name not in LIMITS}
    return "s" + custom_id(rest, sample=sample)[1:]


def read_requests(path: Path) -> pl.DataFrame:
    """Return the rows of ``build_requests`` for an input file of the protocol, which keeps its custom_ids.

    Raises:
        ParameterError: A line that is no request, or an id that comes twice; with its number and the cause.
    """
    rows: list[tuple[Any, ...]] = []
    line_of: dict[str, int] = {}
    content = Path(path).read_bytes()
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            name, body = request(raw)
        except ValueError as error:
            raise ParameterError(f"{path}, line {number}: {error}") from None
        if name in line_of:
            raise ParameterError(
                f"{path}, line {number}: custom_id {name!r} was used in line {line_of[name]}; give each line its own."
            )
        line_of[name] = number
        whole, messages = canonical(body), body["messages"]
        last = messages[-1].get("content") if isinstance(messages[-1], dict) else None
        text = last if isinstance(last, str) else canonical(last)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        rows.append((name, 0, name, text, canonical(messages), body["model"], whole, digest, _stem(body, 0)))
    if not rows:
        raise ParameterError(f"{path} has no requests; each line must be one.")
    return pl.DataFrame(rows, schema=REQUEST, orient="row")  # one row per line
