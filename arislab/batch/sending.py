"""How a file of requests becomes one batch at a server: uploaded, created once, found again when the answer was lost.

A create that is repeated is a batch paid twice, so it is never repeated here, and one whose answer was lost is looked
for, by metadata or by the name of the file. Others repeat: a proxy, a server's own SDK. Of the twins that this makes
the oldest counts, the others are cancelled, and what they had answered fills its gaps (``job``). The ledger has each
intent before it is acted on. This module does not know budgets, results or any other file.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch.connection import Server
from arislab.batch.ledger import Ledger
from arislab.batch.protocol import URL, encode, parse
from arislab.errors import BatchError

MAX_LINE_BYTES = 8_000_000
_LISTED = 2_000  # batches that are looked through for one whose answer was lost


def cut(todo: pl.DataFrame, *, max_lines: int, max_bytes: int) -> Iterator[tuple[list[str], bytes]]:
    """Yield custom_ids and bytes of each file for requests (reads custom_id, body, model).

    Each file is of one model, as OpenAI demands.
    """
    for part in todo.select("custom_id", "body", "model").partition_by("model", maintain_order=True):
        ids: list[str] = []
        lines: list[bytes] = []
        size = 0
        for name, body in part.select("custom_id", "body").iter_rows():
            line = encode(name, body)
            if lines and (len(lines) == max_lines or size + len(line) > max_bytes):
                yield ids, b"".join(lines)
                ids, lines, size = [], [], 0
            ids.append(name)
            lines.append(line)
            size += len(line)
        if lines:
            yield ids, b"".join(lines)


def among(requests: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Return what ``cut`` reads of those of some distinct requests that are named."""
    some = requests.select("custom_id", "body", "model")
    return some if len(names) == some.height else some.filter(pl.col("custom_id").is_in(names))


@lru_cache(maxsize=4096)
def model_of(path: str) -> str:
    """Return the model that a file of requests asks: the one of its first line."""
    with Path(path).open("rb") as file:
        first = parse(file.readline()) or {}
    return str(first["body"]["model"])


def unsendable(body: str) -> str | None:
    """Say why a request in canonical JSON cannot be sent; None if it can."""
    if len(body) > MAX_LINE_BYTES:
        return f"the request has {len(body):,} bytes; a line may have {MAX_LINE_BYTES:,}"
    if "\\ud" in body and parse(body.encode()) is None:  # canonical JSON escapes pairs too, and these are characters
        return "its text holds half a character (a lone surrogate); clean the candidate's text"
    return None


def find_batch(server: Server, batch_id: str) -> Any:
    """Return the server's view of a batch, or None if it knows none."""
    import openai

    def look() -> Any:
        try:
            return server.client.batches.retrieve(batch_id)
        except openai.NotFoundError:
            return None

    return server.patiently(look)


def listed(server: Server, what: str, n: int = _LISTED) -> list[Any] | None:
    """Return the newest ``n`` files or batches of a server; None if it cannot list them."""
    import openai

    if not server.dialect.lists:
        return None
    try:
        if what == "files":
            return list(server.patiently(lambda: _newest(server.client.files.list(purpose="batch"), n)))
        return list(server.patiently(lambda: _newest(server.client.batches.list(limit=100), n)))
    except openai.APIStatusError:
        return None


def _newest(first_page: Any, n: int) -> list[Any]:
    """The first ``n`` entries of a list, once each; a server without a cursor gives the same page for ever."""
    entries: dict[str, Any] = {}
    for page in first_page.iter_pages():
        known = len(entries)
        entries |= {entry.id: entry for entry in page.data if entry.id not in entries}
        if len(entries) == known or len(entries) >= n:
            break
    return list(entries.values())[:n]


def send(shard: dict[str, Any], *, server: Server, ledger: Ledger) -> bool:
    """Upload a file and create its batch, unless the server says that this happened; False: it has no room now."""
    if shard["state"] == "creating" and adopt(shard, server=server, ledger=ledger):
        return True
    file_id = shard["file_id"] if shard["state"] == "creating" else None
    if file_id is None and shard["state"] == "uploading":
        file_id = _uploaded(server, ledger.mark(shard), shard["bytes"])
    if file_id is None:
        if not ledger.advance(shard, state="uploading"):
            return True
        file_id = _upload(shard, server=server, ledger=ledger)
    if not ledger.advance(shard, state="creating", file_id=file_id):
        return True  # another process took over while the file was on its way
    return _create(shard, server=server, ledger=ledger)


def _upload(shard: dict[str, Any], *, server: Server, ledger: Ledger) -> str:
    import openai

    path, dialect = Path(shard["path"]), server.dialect
    if not path.is_file() or _digest(path) != shard["shard"]:
        raise BatchError(f"{path} is not the file that was written for this batch; restore it, or remove the ledger.")
    more: dict[str, Any] = {}
    if dialect.expires_after_s:
        more["expires_after"] = {"anchor": "created_at", "seconds": dialect.expires_after_s}
    if dialect.upload_model_field:
        more["extra_body"] = {dialect.upload_model_field: model_of(shard["path"])}
    name = f"{ledger.mark(shard)}.jsonl"
    with path.open("rb") as file:
        try:
            made = server.patiently(
                lambda: server.client.files.create(file=(name, file), purpose="batch", **more), rewind=file
            )
        except openai.APIStatusError as error:
            ledger.advance(shard, state="planned")
            hint = "nothing was spent"
            if error.status_code == 404:
                hint = "it has no Files API: put `arislab serve --upstream URL` in front of it"
            raise BatchError(
                f"{server.base_url} refused a file of {shard['n']:,} requests ({error.status_code}: {error.message}); "
                f"{hint}."
            ) from None
    return str(made.id)


def _create(shard: dict[str, Any], *, server: Server, ledger: Ledger) -> bool:
    """Create the batch; never twice: a create whose answer was lost is looked for."""
    import openai

    dialect, mark = server.dialect, ledger.mark(shard)
    more: dict[str, Any] = {"extra_headers": {"Idempotency-Key": mark}} if dialect.idempotency_key else {}
    if dialect.expires_after_s:
        more["output_expires_after"] = {"anchor": "created_at", "seconds": dialect.expires_after_s}

    def create() -> Any:
        return server.client.batches.create(
            input_file_id=shard["file_id"],
            endpoint=URL,
            completion_window="24h",
            metadata={"arislab_shard": mark},
            **more,
        )

    try:  # without an idempotency key once: a create whose answer was lost may have been done
        made = server.patiently(create) if dialect.idempotency_key else create()
    except openai.RateLimitError:  # refused for now, so surely not made
        return False
    except (openai.APIConnectionError, openai.InternalServerError) as error:
        if not adopt(shard, server=server, ledger=ledger):  # the answer was lost: was the batch made?
            raise BatchError(
                f"the server did not confirm a batch of {shard['n']:,} requests ({error}); nothing is lost: run the "
                "cell again, it looks for the batch first."
            ) from None
        return True
    except openai.NotFoundError:
        ledger.advance(shard, state="planned", file_id=None)  # the file is gone: it is uploaded again
        return False
    except openai.APIStatusError as error:
        ledger.advance(shard, state="planned", file_id=None)
        raise BatchError(
            f"the server refused a batch of {shard['n']:,} requests ({error.status_code}: {error.message}); nothing "
            "was spent."
        ) from None
    # a kill before this line leaves "creating": the next process finds the batch by its mark (``adopt``)
    ledger.advance(shard, state="submitted", batch_id=made.id)
    return True


def adopt(shard: dict[str, Any], *, server: Server, ledger: Ledger) -> bool:
    """Look for the batch of a create that was not confirmed; of twins the oldest counts, and the others are cancelled.

    Raises:
        BatchError: The server lists no batches, so that nobody can know; the shard is lost.
    """
    mark = ledger.mark(shard)
    batches = listed(server, "batches")
    if batches is None:
        names = ledger.lines(shard["id"])
        ledger.settle(shard, dict.fromkeys(names, "lost"), state="lost", error="unconfirmed")
        raise BatchError(
            f"{server.base_url} did not confirm a batch of {shard['n']:,} requests and cannot list its batches, so "
            f"nobody here knows whether it was made (file {mark}.jsonl); look there. If it was not, run the cell again "
            "with resend=('lost',)."
        )
    files = {shard["file_id"]}  # and of uploads that were repeated
    if not server.dialect.metadata:
        files |= set(_named(server, mark))
    same = _of(mark, files, batches)
    if not same:
        return False
    _settle_on(shard, same[0], same[1:], server=server, ledger=ledger)
    return True


def find_twins(shard: dict[str, Any], batches: Iterable[Any], *, server: Server, ledger: Ledger) -> None:
    """Look among a server's batches for twins of a shard's batch.

    Somebody made them who repeated a create that we sent once.
    """
    same = _alive(shard, batches, server=server, ledger=ledger)
    if len(same) > 1 and shard["batch_id"] in (batch.id for batch in same):
        _settle_on(shard, same[0], same[1:], server=server, ledger=ledger)


def find_survivor(shard: dict[str, Any], *, server: Server, ledger: Ledger) -> bool:
    """Let a twin stand in for a batch that the server does not know any more; False: there is none.

    The server may have forgotten the one that it had named to us, and hold the answers of the other.
    """
    lost = str(shard["batch_id"])
    same = _alive(shard, listed(server, "batches") or (), server=server, ledger=ledger)
    same = [batch for batch in same if batch.id != lost]  # a list may lag behind, and have it still
    if not same:
        return False
    if ledger.pair(shard, same[0].id, [*(batch.id for batch in same[1:]), lost]):
        for batch in same[1:]:
            cancel_batch(server, batch.id)
    return True


def _alive(shard: dict[str, Any], batches: Iterable[Any], *, server: Server, ledger: Ledger) -> list[Any]:
    """The batches that were made for a shard, the oldest first; not others that failed, as these brought nothing."""
    return [
        batch
        for batch in _of(ledger.mark(shard), {shard["file_id"]}, batches)
        if batch.id == shard["batch_id"] or server.dialect.status(batch.status) != "failed"
    ]


def _settle_on(shard: dict[str, Any], kept: Any, twins: list[Any], *, server: Server, ledger: Ledger) -> None:
    """Write which batch counts; then cancel its twins, which the next process does if this one dies in between."""
    if ledger.pair(shard, kept.id, [twin.id for twin in twins]):
        for twin in twins:
            cancel_batch(server, twin.id)


def cancel_batch(server: Server, batch_id: str) -> bool:
    """Cancel a batch; False: the server does not, for instance because it has ended."""
    import openai

    try:
        server.patiently(lambda: server.client.batches.cancel(batch_id))
    except openai.APIStatusError:
        return False
    return True


def _of(mark: str, files: set[str | None], batches: Iterable[Any]) -> list[Any]:
    """The batches that were made for a shard, the oldest first. A proxy may strip metadata without saying so."""
    same = []
    for batch in batches:
        given = (batch.metadata or {}).get("arislab_shard")
        if given == mark or (given is None and batch.input_file_id in files - {None}):
            same.append(batch)
    same.reverse()  # they are listed newest first, and times are whole seconds
    return sorted(same, key=lambda batch: batch.created_at)


def _named(server: Server, mark: str) -> list[str]:
    return [str(file.id) for file in listed(server, "files") or () if file.filename == f"{mark}.jsonl"]


def _uploaded(server: Server, mark: str, n_bytes: int) -> str | None:
    """The file of an upload that was not confirmed, if it arrived whole."""
    same = [str(f.id) for f in listed(server, "files") or () if f.filename == f"{mark}.jsonl" and f.bytes == n_bytes]
    return same[-1] if same else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
