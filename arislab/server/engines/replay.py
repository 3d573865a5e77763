"""The engine that gives recorded answers again, so that a run can be repeated without asking a model.

The file has one JSON object a line. The first says what each server was that the run connected to; each other one is a
recorded row::

    {"connections": [{"base_url": "embedded", "models": ["arislab-tiny"], "engine": "local", "response_format": false,
                      "replayed": null}]}
    {"custom_id": "r-0b6f…", "status": "ok", "llm_output": "{…}", "finish_reason": "stop", "prompt_tokens": 96, …}

A request that is not in the file is an error of its line: it was not asked in the run that is repeated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from arislab import chat
from arislab.errors import PrerequisiteError
from arislab.server.engines.base import CHAT, Emit, Request, Result, completion, failure
from arislab.server.gate import Gate

_LOGPROBS = ("logprob_mean", "logprob_tail", "logprob_window", "first_token_logprobs")


class ReplayEngine:
    """Answers with what was recorded.

    Args:
        path: The file described above.

    Raises:
        PrerequisiteError: There is no such file, or it is another.
    """

    endpoints = frozenset({CHAT})
    takes_any_model = False
    chunk_lines, whole_chunks = 64, False

    def __init__(self, path: Path):
        self.gate = Gate(4)
        try:
            head, *rest = path.read_bytes().split(b"\n")
            servers = orjson.loads(head)["connections"]
            self._models = list(dict.fromkeys(name for server in servers for name in server["models"]))
            self.name = str(servers[-1]["engine"] or "unknown")
            self.response_format: bool | None = servers[-1]["response_format"]
            self._rows = {row["custom_id"]: row for row in map(orjson.loads, filter(None, rest))}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise PrerequisiteError(
                f"--engine replay:{path} is no file of recorded answers ({type(error).__name__}: {error}); `arislab "
                "rerun` makes one."
            ) from None

    async def start(self) -> None:
        """Nothing to load."""

    async def loaded(self) -> None:
        """Nothing to wait for."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def models(self) -> list[str]:
        """The models that the servers had, in their order."""
        return self._models

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer each line with its recorded row."""
        for request in chunk:
            row = self._rows.get(request.custom_id)
            emit(_answer(request, row) if row is not None else failure(request.line, 400, "not_recorded", _UNKNOWN))


_UNKNOWN = "this request was not asked in the run that is repeated"


def _answer(request: Request, row: dict[str, Any]) -> Result:
    """A line whose outcome is the recorded row."""
    problem = orjson.loads(row["error"]) if row["error"] is not None else {}
    marks = problem.get("marks") if problem.get("code") == "read_leniently" else None
    if problem and not marks:
        if row["status"] == "error":
            return Result(request.line, 400, orjson.dumps({"error": problem}))
        return Result(request.line, 0, orjson.dumps(problem))
    made = completion(
        request,
        model=row["model_returned"],
        text=row["llm_output"],
        finish_reason=row["finish_reason"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
    )
    body = orjson.loads(made.body)
    if row["status"] == "refused" and row["finish_reason"] != "content_filter":
        body["choices"][0]["message"] |= {"content": None, "refusal": row["llm_output"]}
    if row.get("tool_calls"):
        body["choices"][0]["message"] |= chat.answer(row["llm_output"], row["tool_calls"])
    if marks:
        body["arislab"] = {"read_leniently": marks}
    summary = {name: row.get(name) for name in _LOGPROBS}
    if any(value is not None for value in summary.values()):
        # the record keeps no more of the tokens than this
        body["choices"][0]["logprobs"] = {"content": [], "arislab": summary}
    return Result(request.line, 200, orjson.dumps(body), made.usage)
