"""An OpenAI batch input file and its output file to rows of the lake.

One line of each, which their custom_id joins, and the candidate behind them::

    {"custom_id": "q-1", "body": {"model": "m", "messages": [{"role": "system", …}, {"role": "user", …}]}}
    {"custom_id": "q-1", "response": {"status_code": 200, "body": {"choices": [...], "usage": {...}}}, "error": null}
    candidate_id='c-5e…', profile='{"input":"Go on.","messages":[{"role":"system",…},…]}'

A candidate is the whole conversation; where that is one question in plain text, its profile is ``{"input": …}``. What a
result line says is read by ``batch.protocol.outcomes``, as in live collection.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch
from arislab.batch import protocol
from arislab.batch.results import SCHEMA
from arislab.errors import PrerequisiteError
from arislab.inputs import files, lake_rows
from arislab.system import json_text


@dataclass(frozen=True)
class _Request:
    line: int
    """Its number in the file."""
    name: str
    """Its custom_id there."""
    body: dict[str, Any]


def read(requests: Path, results: Path, *, task: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rows of ``candidates`` for ``lake_rows.placed``, rows of ``training_data_raw``).

    Every request is a row: one without a line in the output file has status unavailable. An answer with several choices
    is as many rows, samples of one candidate. An answer counts before a failure of the same request, whichever line
    comes first.

    Args:
        requests: The input file.
        results: The output file, or output and error file put together.
        task: Name of the task file that will judge the answers.

    Raises:
        PrerequisiteError: A line is no chat request, two have one custom_id, two answers to one request differ, or a
            result belongs to no request; the message names the lines.
    """
    asked = _requests(requests)
    answered = _results(results, {request.name for request in asked}, requests.name)
    rows: list[dict[str, Any]] = []
    drawn: dict[str, int] = {}
    for request in asked:
        number, ones = answered.get(request.name, (None, protocol.outcomes(None, "completed")))
        whole, messages = batch.canonical(request.body), request.body["messages"]
        first = drawn.get(whole, 0)  # the same body several times: several samples
        drawn[whole] = first + max(len(ones), _n(request.body))
        for choice, one in enumerate(ones):
            kept = {"imported_custom_id": request.name} | ({"imported_choice": choice} if len(ones) > 1 else {})
            rows.append({
                "custom_id": batch.custom_id(request.body, sample=first + choice),
                "candidate_id": _candidate(messages),
                "input": protocol.asked(messages),
                "messages": protocol.as_written(messages),
                "tools": protocol.offered(request.body),
                "model": request.body.get("model"),
                "metadata": json_text.dumps(kept),
                "request_sha256": hashlib.sha256(whole.encode()).hexdigest(),
                **one,
                "error": _with_line(one["error"], number),
            })  # fmt: skip
    texts = ("candidate_id", "input", "messages", "tools", "model", "metadata", "request_sha256")
    kinds = {k: v for k, v in SCHEMA.items() if k not in ("attempt", "batch_id")}
    raw = pl.DataFrame(rows, schema=kinds | dict.fromkeys(texts, pl.String))  # one row per request and choice
    raw = raw.with_columns(task=pl.lit(task), sample=pl.int_range(pl.len()).over("candidate_id").cast(pl.Int32))
    people = raw.unique("candidate_id", keep="first", maintain_order=True)
    questions = people.select("input", "messages").iter_rows()
    profiles = [_profile(text, json_text.loads(messages)) for text, messages in questions]
    return lake_rows.nameless(people["candidate_id"], profiles), raw


def _requests(path: Path) -> list[_Request]:
    asked: list[_Request] = []
    first: dict[str, int] = {}
    for number, line in files.objects(path, files.strictly):
        name, body = json_text.as_text(line.get("custom_id")), line.get("body")
        messages = body.get("messages") if isinstance(body, dict) else None
        if not name or not isinstance(body, dict) or not isinstance(body.get("model", ""), str | None):
            raise _refused(path, number, "no request; it needs a custom_id and a body with model and messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise _refused(
                path, number, f"request {name!r} is no chat request: body.messages must be a list of messages"
            )
        if name in first:
            raise _refused(
                path, number, f"custom_id {name!r} was used in line {first[name]}; give each request its own"
            )
        first[name] = number
        asked.append(_Request(number, name, body))
    if not asked:
        raise PrerequisiteError(f"{path.name} has no requests; nothing was imported.")
    return asked


def _results(path: Path, names: set[str], requests: str) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """By custom_id: the number of the line that counts, and what it says."""
    results: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    foreign: list[str] = []
    for number, line in files.objects(path, json_text.loads_leniently):
        name = json_text.as_text(line.get("custom_id"))
        if name is None or name not in names:
            foreign.append(f"line {number}, custom_id {name!r}")
            continue
        ones = protocol.outcomes(line, "completed")
        before, known = results.get(name, (0, None))
        if known is None or not _answers(known):
            results[name] = (number, ones) if known is None or _answers(ones) else (before, known)
        elif _answers(ones) and [_status_and_text(one) for one in ones] != [_status_and_text(one) for one in known]:
            raise _refused(path, number, f"it answers {name!r} otherwise than line {before}; keep one of them")
    if foreign:
        raise PrerequisiteError(
            f"{len(foreign):,} lines of {path.name} answer no request of {requests} (first: {foreign[0]}); these files "
            "do not belong together, nothing was imported."
        )
    return results


def _n(body: dict[str, Any]) -> int:
    """How many choices a request asks for.

    So many numbers of samples are reserved for it: if it fails, the answers of other requests keep theirs.
    """
    n = body.get("n")
    return n if isinstance(n, int) and 0 < n < 1000 else 1


def _answers(ones: list[dict[str, Any]]) -> bool:
    return any(one["status"] in batch.ANSWERED for one in ones)


def _status_and_text(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["status"], one["llm_output"]


def _refused(path: Path, number: int, problem: str) -> PrerequisiteError:
    return PrerequisiteError(f"{path.name} line {number}: {problem}; nothing was imported.")


def _with_line(error: str | None, number: int | None) -> str | None:
    """An error as JSON text, with the number of the line that says it."""
    if error is None or number is None:
        return error
    return f'{{"line":{number},{error[1:]}' if len(error) > 2 else f'{{"line":{number}}}'


def _is_plain(messages: list[dict[str, Any]]) -> bool:
    """Whether a conversation is one question in plain text."""
    only = messages[0]
    return (
        len(messages) == 1
        and only == {"role": "user", "content": only.get("content")}
        and isinstance(only["content"], str)
    )


def _candidate(messages: list[dict[str, Any]]) -> str:
    return lake_rows.hashed(messages[0]["content"] if _is_plain(messages) else batch.canonical(messages))


def _profile(text: str, messages: list[dict[str, Any]]) -> str:
    return json_text.dumps({"input": text} | ({} if _is_plain(messages) else {"messages": messages}))
