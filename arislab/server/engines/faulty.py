"""The engine that fails as it is told, for tests and benchmarks of whoever sends batches.

What becomes of a line depends on the seed, its custom_id, and how many batches asked it before; on nothing else. So a
run that was killed and an undisturbed one end with the same rows. Not so with faults of a server of several models,
which are about what else it is asked: with any of these each model has its own answer to a prompt.
"""

import asyncio
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import orjson

from arislab.errors import PrerequisiteError, closest
from arislab.server.engines.base import CHAT, Emit, Request, Result, completion, failure
from arislab.server.engines.echo import echo
from arislab.server.gate import Gate

PASSING = ("429", "500", "timeout", "empty")
"""Faults that are over with the ``tries``-th batch that asks a line: HTTP 429 and 500, no answer at all, an answer
without choices."""
LASTING = ("400", "content_filter", "length", "broken", "slow")
"""HTTP 400; a filtered answer; one that is cut off; one whose text is JSON without its end; one that takes
``slow_s``."""
SETTINGS = {"slow_s": 0.2, "tries": 2.0, "seed": 0.0}
MODELS = {"models": 3.0, "mixes": 0.0, "sticks": 0.0, "jitters": 0.0}
"""How many models there are, and which part of the answers is wrong: of the first model while another one is asked too
(it gets that one's answers); of the first model once another one was asked, even alone; of any model that has another
request beside it (other words at the end). A name without a number is 1 for a fault, and for ``models`` 3."""
MIX = "429=0.03,500=0.03,timeout=0.02,empty=0.02,400=0.02,content_filter=0.01,length=0.03,broken=0.03,slow=0.01"


def read_spec(text: str) -> dict[str, float]:
    """Return rates and settings of ``NAME=NUMBER,…``; a fault that is not named has rate 0, an empty text is ``MIX``.

    Raises:
        PrerequisiteError: An unknown name, no number, or numbers out of range.

    Example:
        >>> read_spec("429=0.5,tries=3")["tries"]
        3.0
    """
    spec = dict.fromkeys((*PASSING, *LASTING), 0.0) | SETTINGS
    if any(part.partition("=")[0] in MODELS for part in text.split(",")):
        spec |= MODELS
    for part in (text or MIX).split(","):
        name, sign, value = part.partition("=")
        if name in MODELS and not sign:
            value = "3" if name == "models" else "1"
        if name not in spec:
            known = [*spec, *MODELS]
            raise PrerequisiteError(
                f"--engine faulty has no {name!r}; {closest(name, known)}. Write it as faulty:{MIX}"
            )
        try:
            spec[name] = float(value)
        except ValueError:
            raise PrerequisiteError(
                f"--engine faulty: {part!r} has no number; write {name}={SETTINGS.get(name, 0.1):g}"
            ) from None
    rates = [spec[name] for name in (*PASSING, *LASTING)]
    if not all(0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
        raise PrerequisiteError(
            f"--engine faulty: each rate must be in 0..1 and their sum at most 1, got {text!r} with the sum "
            f"{sum(rates):g}; lower one"
        )
    if spec["slow_s"] < 0 or spec["tries"] < 1 or spec["tries"] % 1 or spec["seed"] % 1:
        raise PrerequisiteError(
            f"--engine faulty: slow_s must be >= 0, tries 1, 2, … and seed a whole number, got {text!r}; leave them "
            "out for slow_s=0.2,tries=2,seed=0"
        )
    if not all(0 <= spec.get(name, 0) <= 1 for name in MODELS if name != "models") or spec.get(
        "models", 1
    ) not in range(1, 100):
        raise PrerequisiteError(
            f"--engine faulty: mixes, sticks and jitters must be in 0..1 and models 1, 2, … 99, got {text!r}"
        )
    return spec


class FaultyEngine:
    """Answers with the last user message, but for a fraction of the lines.

    Args:
        spec: see ``read_spec``.
        tries_file: remembers over a restart which batches asked a line whose fault passes.
    """

    name, endpoints, response_format = "faulty", frozenset({CHAT}), False
    takes_any_model = True
    chunk_lines, whole_chunks = 8, False

    def __init__(self, spec: str, *, tries_file: Path):
        self.gate, self._spec, self._tries_file = Gate(4), read_spec(spec), tries_file
        self._asked_in: dict[str, list[str]] = defaultdict(list)  # digest of a custom_id -> batches, in order
        self._log: TextIO | None = None
        self._inside: Counter[str] = Counter()  # lines in flight by model
        self._last_other = ""  # the model that was asked last, but for the first one

    async def start(self) -> None:
        """Read which tries there were."""
        # line by line: a try that a kill took out of memory would count as none
        self._log = self._tries_file.open("a+", encoding="ascii", buffering=1)
        self._log.seek(0)
        for entry in self._log.read().split("\n")[:-1]:
            name, batch = entry.split(" ")
            self._asked_in[name].append(batch)

    async def loaded(self) -> None:
        """Nothing to wait for."""

    async def stop(self) -> None:
        """Let the file go."""
        if self._log is not None:
            self._log.close()

    async def models(self) -> list[str]:
        """One name, or as many as were asked for; any other is answered too."""
        return ["faulty", *(f"faulty-{number}" for number in range(1, int(self._spec.get("models", 1))))]

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer or fail one line after the other."""
        if "models" not in self._spec:
            return await self._run(chunk, emit)
        names = [str(request.body.get("model")) for request in chunk]
        self._inside.update(names)
        try:
            await asyncio.sleep(0.002)
            await self._run(chunk, emit)
        finally:
            self._inside.subtract(names)

    async def _run(self, chunk: Sequence[Request], emit: Emit) -> None:
        for request in chunk:
            fault = self.fault(request.custom_id)
            if fault in PASSING and self._try(request) >= self._spec["tries"]:
                fault = None
            if fault == "slow":
                await asyncio.sleep(self._spec["slow_s"])
            good = echo(request) if "models" not in self._spec else self._in_its_way(request)
            emit(_failed(request, fault, good) if fault is not None and good.status == 200 else good)

    def fault(self, custom_id: str) -> str | None:
        """The fault of a line at its first try, or None."""
        digest = hashlib.sha256(f"{self._spec['seed']:.0f}:{custom_id}".encode()).digest()
        drawn = int.from_bytes(digest[:7]) / 2**56
        for name in (*PASSING, *LASTING):
            drawn -= self._spec[name]
            if drawn < 0:
                return name
        return None

    def _in_its_way(self, request: Request) -> Result:
        """An answer that tells its model from others, or one of the faults of a server of several models."""
        asked = str(request.body.get("model"))
        beside = [name for name, n in self._inside.items() if n and name not in (asked, "faulty")]
        answers, more = asked, ""
        if asked == "faulty" and beside and random.random() < self._spec["mixes"]:
            answers = beside[-1]
        if asked == "faulty" and self._last_other and random.random() < self._spec["sticks"]:
            answers = self._last_other
        if self._inside.total() > 1 and random.random() < self._spec["jitters"]:
            more = f" {random.randrange(100)}"
        if asked != "faulty":
            self._last_other = asked
        good = echo(request)
        if good.status != 200:
            return good
        body = orjson.loads(good.body)
        text = f"{body['choices'][0]['message']['content']} ({hashlib.sha256(answers.encode()).hexdigest()[:6]}){more}"
        n_prompt, n_written = good.usage[0], len(text.split())
        return completion(
            request,
            model=asked,
            text=text,
            finish_reason="stop",
            prompt_tokens=n_prompt,
            completion_tokens=n_written,
        )

    def _try(self, request: Request) -> int:
        """The number of the batch among those that asked this line; a batch that a crash made ask twice counts once."""
        name = hashlib.sha256(request.custom_id.encode()).hexdigest()[:32]
        batches = self._asked_in[name]
        if request.batch not in batches:
            batches.append(request.batch)
            assert self._log is not None
            self._log.write(f"{name} {request.batch}\n")
        return batches.index(request.batch) + 1


def _failed(request: Request, fault: str, good: Result) -> Result:
    """What comes in place of a good answer."""
    if fault == "429":
        return failure(request.line, 429, "rate_limit_exceeded", "scripted: too many requests")
    if fault == "500":
        return failure(request.line, 500, "server_error", "scripted: the server failed")
    if fault == "timeout":
        return failure(request.line, 0, "upstream_timeout", "scripted: no answer came in time")
    if fault == "400":
        return failure(request.line, 400, "invalid_value", "scripted: the request is refused for good")
    body = orjson.loads(good.body)
    if fault == "empty":
        return Result(request.line, 200, orjson.dumps(body | {"choices": []}), good.usage)
    text: str = body["choices"][0]["message"]["content"]
    reason = "stop"
    if fault == "content_filter":
        text, reason = "", "content_filter"
    elif fault == "length":
        text, reason = text[: max(1, len(text) // 2)], "length"
    elif fault == "broken":
        text = orjson.dumps({"answer": text}).decode()[:-2]
    n_prompt, _, _, _ = good.usage
    return completion(
        request,
        model=body["model"],
        text=text,
        finish_reason=reason,
        prompt_tokens=n_prompt,
        completion_tokens=len(text.split()),
    )
