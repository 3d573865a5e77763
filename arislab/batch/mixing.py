"""Asking a server of the protocol whether it keeps its models apart (``isolation`` judges).

arislab's own server examines what stands behind it. Until any other was asked, a job sends it batches of one model at a
time. It is asked by chat, or by small batches where it has no chat. The result stays in ``isolation.jsonl`` beside the
ledger until the models change or a day has passed, and in the run's record. This module does not know jobs.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from arislab.batch.connection import Server
from arislab.errors import BatchError
from arislab.isolation import Answers, Isolation, Wave, body, examine, from_dict, text_of

Batches = Callable[[Server, Path, list[tuple[str, dict[str, Any]]]], dict[str, str]]
"""Sends (custom_id, body) pairs in batches, all together; returns the texts of those that were answered."""
_NO_CHAT = ("404", "405", "501")


def check(
    server: Server, models: Iterable[str], *, folder: Path, batches: Batches | None = None, again: bool = False
) -> Isolation:
    """Return whether models of a server may be asked at once; asks the server if that is not known, for seconds.

    Args:
        server: From ``connect``.
        models: Names as the server knows them; one name needs no request.
        folder: Where results are kept.
        batches: How to ask a server that has no chat; null: such a server cannot be examined.
        again: Ask although a result is known.

    Raises:
        BatchError: The server answers with another model even if one is asked at a time, or it stays away.
    """
    names = tuple(dict.fromkeys(models))
    if server.recorded is not None and len(names) > 1:
        return _as_recorded(server.recorded, names)
    result = None if again or sees_to_it(server) else known(server, names, folder=folder)
    result = result or probe(server, names, folder=folder, batches=batches, again=again)
    server.note_isolation(result)
    stop(server, result)
    return result


def stop(server: Server, result: Isolation | None) -> None:
    """Raise if a server is known to answer with another model even where one is asked at a time.

    Raises:
        BatchError: It is.
    """
    if result is not None and result.verdict == "fails alone":
        raise BatchError(f"{server.base_url} does not answer with the model that was asked. {result!r}")


def sees_to_it(server: Server) -> bool:
    """Whether a server is one of ours, which finds out by itself what it may be asked at once, and keeps to it."""
    return bool(server.about.get("isolation"))


def probe(
    server: Server, models: Iterable[str], *, folder: Path, batches: Batches | None = None, again: bool = True
) -> Isolation:
    """Ask a server, keep what its answers show, and return it, whatever it is. Arguments as in ``check``."""
    names = tuple(dict.fromkeys(models))
    if len(names) < 2:
        return Isolation("one model", names)
    if sees_to_it(server):
        asked = {"models": names, "again": again}
        return from_dict(
            server.patiently(
                lambda: server.client.post("/arislab/isolation", body=asked, cast_to=object, options={"timeout": 3600})
            )
        )
    result = _ask(server, names, folder, batches)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "isolation.jsonl").open("a", encoding="utf-8") as file:  # a line before may be torn: begin a new one
        beside = {"identity": server.identity, "beside": server.models}
        file.write("\n" + json.dumps({**beside, **result.as_dict()}) + "\n")
    return result


def known(server: Server, models: Iterable[str], *, folder: Path) -> Isolation | None:
    """Return the newest result that still says something of these models, or None; asks nothing.

    That a server keeps models apart counts until it lists another one, as an adapter that was loaded since.
    """
    path, names = folder / "isolation.jsonl", set(models)
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    for line in reversed(lines):
        try:
            fields = json.loads(line)
            identity, beside = fields.pop("identity"), set(fields.pop("beside", ()))
            result = from_dict(fields)
        except (ValueError, AttributeError, KeyError, TypeError):
            continue  # torn by a kill, or of another version: as if nothing was known
        is_current = beside.issuperset(server.models) or not result.is_together
        if identity == server.identity and result.covers(names) and is_current:
            return result
    return None


def _as_recorded(recorded: list[dict[str, Any]], models: tuple[str, ...]) -> Isolation:
    """What the run that is repeated was told."""
    for one in recorded:
        if set(one["models"]) == set(models):
            return from_dict(one)
    return Isolation("cannot tell", models, problem="the run that is repeated did not ask")


def _ask(server: Server, models: tuple[str, ...], folder: Path, batches: Batches | None) -> Isolation:
    began, waves = time.monotonic(), examine(models)
    answers: Answers | None = None
    text, problem = _chat(server, body(models[0], 0, max_tokens=1), is_patient=False)
    if text is None and (batches is None or not problem.startswith(_NO_CHAT)):
        return Isolation("cannot tell", models, problem=f"asked by chat it says {problem}")
    try:
        while True:
            wave = next(waves) if answers is None else waves.send(answers)
            answers = (
                _by_chat(server, wave)
                if batches is None or text is not None
                else _by_batch(server, wave, folder, batches)
            )
    except StopIteration as end:
        result: Isolation = end.value
    return replace(result, seconds=round(time.monotonic() - began, 1))


def _by_chat(server: Server, wave: Wave) -> Answers:
    """Send a wave as direct chats; those that belong at once from as many threads."""
    bodies = [body(model, prompt, max_tokens=wave.max_tokens) for model, prompt in wave.asks]
    if wave.at_once:
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = list(threads.map(lambda one: _chat(server, one), bodies))
    else:
        answers = [_chat(server, one) for one in bodies]
    return [text for text, _ in answers], next((problem for _, problem in answers if problem), "")


def _chat(server: Server, asked: dict[str, Any], *, is_patient: bool = True) -> tuple[str | None, str]:
    """The text of one answer, or null and why there is none.

    A server that is busy or absent is waited for, if patient.
    """
    import openai

    def ask() -> Any:
        return server.client.post("/chat/completions", body=asked, cast_to=object)

    try:
        answer = server.patiently(ask) if is_patient else ask()
    except openai.APIStatusError as error:
        return None, f"{error.status_code}: {str(error.message)[:200]}"
    except openai.APIConnectionError as error:
        return None, f"nothing ({error})"
    text = text_of(answer)
    return text, "" if text is not None else "an answer without a message"


def _by_batch(server: Server, wave: Wave, folder: Path, batches: Batches) -> Answers:
    """Send a wave as one batch: what is alone then is a model, not a request."""
    mark = secrets.token_hex(8)
    asks = [(f"p-{mark}-{i}", body(*ask, max_tokens=wave.max_tokens)) for i, ask in enumerate(wave.asks)]
    texts = batches(server, folder / "isolation", asks)
    missing = (
        ""
        if len(texts) == len(asks)
        else f"{len(asks) - len(texts)} of {len(asks)} requests got no answer at the same time"
    )
    return [texts.get(name) for name, _ in asks], missing
