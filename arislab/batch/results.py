"""Result files of batches: fetched whole, kept as they came, sorted by request.

Servers shuffle, double and tear lines, and hand out other batches' files. Lines are joined by custom_id alone; those
that belong to no request, cannot be read, or contradict another go to ``quarantine.jsonl``. Of two batches that were
made for the same requests the answers of the second fill the gaps of the first. This module does not know the ledger or
what is sent.
"""

import time
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch import kept
from arislab.batch.connection import Server
from arislab.batch.ledger import FETCHED
from arislab.batch.protocol import ANSWERED, FIRST, LOGPROBS, answer, canonical, n_choices, outcome, parse, split
from arislab.errors import BatchError

KINDS = ("output", "error")
_AGAIN_S = 0.5  # until a file that came cut, or a size that was not told, is asked for again
SCHEMA = {
    "custom_id": pl.String,
    "error": pl.String,
    "llm_output": pl.String,
    "tool_calls": pl.String,
    "finish_reason": pl.String,
    "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    **dict.fromkeys(LOGPROBS, pl.Float64),
    FIRST: pl.String,
    "model_returned": pl.String,
    "status": pl.String,
    "attempt": pl.Int32,
    "batch_id": pl.String,
}
"""What ``rows`` says of a request."""


class BrokenError(BatchError):
    """A result file that cannot be used as it came; other batches can be fetched all the same."""


@dataclass
class Fetched:
    """The result files of one batch."""

    contents: dict[str, bytes] = field(default_factory=dict)
    """Bytes by kind: output, error."""
    is_cut: bool = False
    """They are fewer than the server states."""
    is_gone: bool = False
    """The server does not have one of the files any more."""


@dataclass
class Sorted:
    """The lines of one batch, or of two that were made for the same requests."""

    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By custom_id: what became of it (``protocol.outcome``), with batch_id; one entry per request that has a line."""
    raws: dict[str, bytes] = field(default_factory=dict)
    """The lines as they came."""
    strange: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Lines that are not used, each with the reason: unreadable, foreign, doubled."""
    n_more: int = 0
    """Answers with more choices than the one that counts."""

    def fill(self, twin: "Sorted") -> tuple[list[str], list[str]]:
        """Take the answers of a twin where there is none.

        Returns:
            The custom_ids whose answer was taken, and those that had one already.
        """
        used, doubled = [], []
        for name, one in twin.outcomes.items():
            if one["status"] not in ANSWERED:
                continue
            if name in self.outcomes and self.outcomes[name]["status"] in ANSWERED:
                doubled.append(name)
            else:
                self.outcomes[name], self.raws[name] = one, twin.raws[name]
                used.append(name)
        return used, doubled

    def example(self, names: Iterable[str]) -> str:
        """Say what is wrong with one of some requests; with one that has a line, if any has."""
        for name, one in self.outcomes.items():
            return f"for instance {name}: {one['error']}"[:500]
        return f"for instance {next(iter(names))}: no line at all"

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and answer tokens of all lines."""
        ones = self.outcomes.values()
        return sum(one["prompt_tokens"] or 0 for one in ones), sum(one["completion_tokens"] or 0 for one in ones)


@dataclass
class Part:
    """What one of the batches that were made for the same requests brought."""

    batch_id: str
    fetched: Fetched
    tokens: tuple[int, int]
    """Prompt and answer tokens of all its lines."""
    strange: list[tuple[str, dict[str, Any]]]
    """As in ``Sorted``."""
    used: list[str] = field(default_factory=list)
    """Of a twin: custom_ids whose answer fills a gap of the first batch."""
    doubled: list[str] = field(default_factory=list)
    """Of a twin: custom_ids that the first batch answered too."""


def gather(
    ends: list[tuple[str, Any, str | None]], mine: Collection[str], *, server: Server, folder: Path
) -> tuple[Sorted, list[Part]]:
    """Fetch what a batch and its twins brought, and fill the gaps of the first with the answers of the others.

    Args:
        ends: Name, the server's view, and how it ended, of the batch and of its twins.
        mine: custom_ids that they were made for.
        server: Holds the files.
        folder: Where the quarantine lies.

    Returns:
        The lines that count, and what each batch brought.

    Raises:
        BrokenError: A result file is surely not what the server has.
    """
    lines, parts = Sorted(), []
    for n, (batch_id, batch, ended) in enumerate(ends):
        fetched = fetch(server, batch) if batch is not None and ended != "lost" else Fetched()
        one = _checked(batch_id, fetched, mine, folder=folder, url=server.base_url)
        parts.append(Part(batch_id, fetched, one.tokens, one.strange))
        if n == 0:
            lines = one
            continue
        parts[n].used, parts[n].doubled = lines.fill(one)
        where = f"results/{kept.result_path(folder, batch_id, 'output').name}"
        parts[n].strange += [("doubled", {"custom_id": name, "in": where}) for name in parts[n].doubled]
    return lines, parts


def fetch(server: Server, batch: Any) -> Fetched:
    """Return those result files of a batch that the server still has."""
    fetched = Fetched()
    for kind, file_id in zip(KINDS, (batch.output_file_id, batch.error_file_id), strict=True):
        if file_id:
            content, is_short = _content(server, file_id)
            fetched.is_cut, fetched.is_gone = fetched.is_cut or is_short, fetched.is_gone or content is None
            fetched.contents |= {kind: content} if content is not None else {}
    return fetched


def _content(server: Server, file_id: str) -> tuple[bytes | None, bool]:
    """The bytes of a result file, whole: against the size that the server states, and its last line.

    After three tries it is taken as it came: what can be read is, the rest is quarantined.

    Returns:
        The bytes, null if the server does not have the file any more; and whether they are fewer than it states.
    """
    import openai

    for last in (False, False, True):
        try:
            content = bytes(server.patiently(lambda: server.client.files.content(file_id).content))
        except openai.NotFoundError:
            return None, False
        size = _size(server, file_id)
        tail = content[content.rfind(b"\n") + 1 :]  # whole files end with a line's end, or with a whole line
        if (not size or size == len(content)) and (not tail or answer(tail) is not None):
            return content, False
        if not last:
            time.sleep(_AGAIN_S)
    return content, bool(size and len(content) < size)


def _size(server: Server, file_id: str) -> int | None:
    """The size of a file as the server states it; null if it does not."""
    import openai

    def look() -> Any:
        try:
            return server.client.files.retrieve(file_id).bytes
        except openai.InternalServerError as error:
            if error.status_code in (500, 501):  # it may never answer this
                return error
            raise

    for _ in range(3):
        try:
            size = server.patiently(look)
        except openai.APIStatusError:
            return None
        if not isinstance(size, Exception):
            return int(size) if size else None
        time.sleep(_AGAIN_S)
    return None


def store(folder: Path, batch_id: str, fetched: Fetched) -> None:
    """Keep the result files of a batch as they came."""
    for kind, content in fetched.contents.items():
        kept.keep(kept.result_path(folder, batch_id, kind), content)


def sort(batch_id: str, contents: Iterable[Iterable[bytes]], mine: Container[str]) -> Sorted:
    """Return the lines of result files by request; of two for one the first answer counts, else the first line.

    Args:
        batch_id: Their batch.
        contents: The lines of each file.
        mine: custom_ids that the batch was made for.
    """
    lines = Sorted()
    for raw in chain.from_iterable(contents):
        line = answer(raw)
        if line is None:
            lines.strange.append(("unreadable", {"text": raw.decode("utf-8", "replace")}))
            continue
        name = line.get("custom_id")
        if not isinstance(name, str) or name not in mine:
            lines.strange.append(("foreign", line))
            continue
        one = outcome(line, "") | {"batch_id": batch_id}
        if one["error"] is None:
            one["error"] = _note(line)
        if name in lines.raws:
            before = answer(lines.raws[name]) or {}
            if {**before, "id": None} == {**line, "id": None}:  # a line sent twice, with an id of its own each time
                continue
            if lines.outcomes[name]["status"] in ANSWERED or one["status"] not in ANSWERED:
                lines.strange.append(("doubled", line))
                continue
            lines.strange.append(("doubled", before))
        lines.outcomes[name], lines.raws[name] = one, raw
        lines.n_more += n_choices(line) > 1
    return lines


def _note(line: dict[str, Any]) -> str | None:
    """What arislab's own server overlooked to read an answer that was no strict JSON; null for most."""
    body = line["response"]["body"]  # of an answer: there is one
    own = body.get("arislab") if isinstance(body, dict) else None
    marks = own.get("read_leniently") if isinstance(own, dict) else None
    if not marks:
        return None
    return canonical({"code": "read_leniently", "marks": marks, "message": "the answer was no strict JSON"})


def _checked(batch_id: str, fetched: Fetched, mine: Collection[str], *, folder: Path, url: str) -> Sorted:
    """Sort what was just fetched, unless it is surely not what the server has.

    Raises:
        BrokenError: All lines belong to other requests, or lines are missing in a file that is shorter than stated.
    """
    lines = sort(batch_id, map(split, fetched.contents.values()), mine)
    n_foreign = sum(why == "foreign" for why, _ in lines.strange)
    # a few foreign lines are a server's fault that costs nothing; a whole file of them is another batch's
    if n_foreign and not lines.raws:
        quarantine(folder, batch_id, lines.strange)
        raise BrokenError(
            f"all {n_foreign:,} lines in the files of batch {batch_id} belong to other requests: the server gave "
            f"another batch's file. They are in {folder / 'quarantine.jsonl'}; run the cell again to fetch it anew."
        )
    if fetched.is_cut and len(lines.raws) < len(mine):  # the others may have answers, which are not paid again
        raise BrokenError(
            f"a result file of batch {batch_id} came three times shorter than {url} states, and "
            f"{len(mine) - len(lines.raws):,} lines are missing; nothing is lost: run the cell again to fetch it anew."
        )
    return lines


def read(folder: Path, batch_ids: Iterable[str], mine: Container[str]) -> Sorted:
    """Return the lines of a batch that was fetched, its gaps filled by its twins.

    Args:
        folder: Holds ``results/``.
        batch_ids: The batch, then its twins.
        mine: As in ``sort``.
    """
    first, *twins = (
        sort(batch_id, (_lines(kept.result_path(folder, batch_id, kind)) for kind in KINDS), mine)
        for batch_id in batch_ids
    )
    for twin in twins:
        first.fill(twin)
    return first


def _lines(file: Path) -> Iterable[bytes]:
    if file.is_file():
        with file.open("rb") as opened:
            yield from split(opened)


def quarantine(folder: Path, batch_id: str, strange: list[tuple[str, dict[str, Any]]]) -> None:
    """Keep lines that belong to no request of ours, cannot be read, or contradict another."""
    if strange:
        with (folder / "quarantine.jsonl").open("a", encoding="utf-8") as file:
            for why, line in strange:
                file.write(canonical({"batch_id": batch_id, "why": why, "line": line}) + "\n")


def rows(brought: Sorted, shard: dict[str, Any], lines: dict[str, str | None], *, folder: Path) -> pl.DataFrame:
    """Return what became of the requests of a shard, one row each, in the columns of ``SCHEMA``.

    Args:
        brought: From ``read``; empty for a shard that was never fetched.
        shard: The ledger's row.
        lines: Its requests that are asked about, and the status that the ledger has of each.
        folder: Holds ``results/``, for the message.

    Raises:
        BatchError: The result files are not there any more.
    """
    made = []
    for name, status in lines.items():
        if name not in brought.outcomes and status in ANSWERED:
            raise BatchError(
                f"the results of batch {shard['batch_id']} are not in {folder / 'results'} any more; restore them from "
                "a backup."
            )
        one = brought.outcomes.get(name) or _without_line(shard)
        made.append(one | {"custom_id": name, "status": status, "attempt": shard["attempt"]})
    return pl.DataFrame(made, schema=SCHEMA, strict=False)  # one row per request


def _without_line(shard: dict[str, Any]) -> dict[str, Any]:
    """What became of a request that has no line in the files of its batch."""
    one = outcome(None, str(shard["error"] or "").partition(" ")[0]) | {"batch_id": shard["batch_id"]}
    if shard["state"] not in FETCHED:
        why = {"code": f"batch_{'failed' if shard['state'] == 'refused' else 'lost'}", "message": shard["error"]}
        one["error"] = canonical(why)[:2000]
    return one


def problems(batch: Any, path: Path) -> tuple[str, set[str]]:
    """Return why a batch was refused as a whole, with the requests that the server names; and its codes."""
    listed = (batch.errors.data or []) if batch.errors else []
    sent = path.read_bytes().split(b"\n") if path.is_file() else []
    reasons = []
    for e in listed[:3]:
        named = parse(sent[e.line - 1]) if e.line and e.line <= len(sent) else None
        name = f" ({named['custom_id']})" if named else ""
        reasons.append(f"line {e.line}{name}: {e.message}")
    return "; ".join(reasons) or "no reason given", {str(e.code) for e in listed}
