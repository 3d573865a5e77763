"""Requests on their way: cut into files, sent, watched, fetched and accounted for, through crashes of either side.

What is trusted: bytes and custom_ids. What is not: the order of lines, counts, a status of ``completed``, retries of the SDK (a
create that it repeats is a batch paid twice, so creates are never repeated blindly; a lost answer is reconciled by metadata, or by
the name of the file). The ledger records each intent before it is acted on; running the same cell again continues. This module does
not know the lake or any task.
"""

import calendar
import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from random import uniform
from typing import Any

import polars as pl

from arislab.connection import Server
from arislab.dialect import TERMINAL
from arislab.errors import BatchError, ParameterError
from arislab.ledger import OPEN, UNSENT, Ledger
from arislab.lines import AGAIN, ANSWERED, ASK, URL, canonical, encode, outcome, parse, split

MAX_LINE_BYTES = 8_000_000
_STALL_S = 300.0
_REMOTE_STALL_S = 6 * 3600.0
_CANCELLING_S = 900.0
_OVERDUE_S = 600.0
_LISTED = 2_000  # batches that are looked through for one whose answer was lost


@dataclass(frozen=True)
class Budget:
    """What a job may spend. It stops before the file that would pass it, and cancels what runs when the real usage passes it.

    Raises:
        ParameterError: No limit at all, or a limit in USD without prices.
    """

    usd: float | None = None
    """Most money, in USD; needs ``usd_per_million``."""
    tokens: int | None = None
    """Most tokens, of prompts and answers together."""
    usd_per_million: tuple[float, float] | None = None
    """Price of a million prompt and of a million answer tokens."""
    per_request: tuple[float, float] | None = None
    """Expected prompt and answer tokens of a request (a dry run tells); null: learnt from the first file."""

    def __post_init__(self) -> None:
        if self.usd is None and self.tokens is None:
            raise ParameterError("a budget needs usd or tokens, got neither; leave the budget out for no limit.")
        if self.usd is not None and self.usd_per_million is None:
            raise ParameterError(
                f"a budget of {self.usd} USD needs prices: give usd_per_million=(prompt, answer), or a budget in tokens."
            )

    def passed(self, prompt_tokens: float, completion_tokens: float) -> bool:
        """Say whether so much is more than allowed."""
        if self.tokens is not None and prompt_tokens + completion_tokens > self.tokens:
            return True
        if self.usd is None or self.usd_per_million is None:
            return False
        return (prompt_tokens * self.usd_per_million[0] + completion_tokens * self.usd_per_million[1]) / 1e6 > self.usd


def submit(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    resend: Iterable[str] = (),
    max_lines: int | None = None,
    max_bytes: int | None = None,
    window: int = 8,
    attempts: int = 3,
    budget: Budget | None = None,
) -> "Job":
    """Send every distinct request that has no recorded answer and is not on its way already, in as few batches as the server allows.

    Args:
        requests: From ``build_requests``.
        server: From ``connect``.
        folder: Holds the ledger, the files sent and the files received.
        answered: custom_ids whose answers are recorded; they are not sent.
        resend: Statuses of earlier failures to send again although it may cost or fail again: error, lost, cancelled.
        max_lines: Requests a batch; default and most: the dialect's limit.
        max_bytes: Bytes a file; likewise.
        window: Batches that may be open at the server at once.
        attempts: How often a request is sent in one run when it fails for reasons that pass.
        budget: Null: no limit.

    Raises:
        ParameterError: resend names another status.
        BatchError: The server refused a file or a batch; nothing was spent for it.
    """
    given = {resend} if isinstance(resend, str) else set(resend)
    if strange := given - set(ASK) - set(AGAIN):
        raise ParameterError(f"resend must name statuses of {', '.join(ASK)}, got {sorted(strange)[0]!r}.")
    done = set(answered)
    todo = requests.unique("custom_id", keep="first", maintain_order=True)
    todo = todo.filter(~pl.col("custom_id").is_in(list(done))) if done else todo
    most = server.dialect
    job = Job(
        requests=todo,
        server=server,
        folder=Path(folder),
        ledger=Ledger(Path(folder)),
        window=window,
        attempts=attempts,
        budget=budget,
        max_lines=min(max_lines or most.max_requests, most.max_requests),
        max_bytes=min(max_bytes or most.max_bytes, most.max_bytes),
    )
    job._begin(given)
    return job


@dataclass
class Job:
    """Requests on their way. ``wait`` for them, then ``collect`` the answers."""

    requests: pl.DataFrame
    """One row per distinct request without a recorded answer."""
    server: Server
    folder: Path
    ledger: Ledger = field(repr=False)
    window: int = 8
    attempts: int = 3
    budget: Budget | None = None
    max_lines: int = 50_000
    max_bytes: int = 190_000_000
    shards: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Rows of the ledger: this job's own files and the earlier ones that hold its requests."""
    seconds: float = 0.0
    """Time spent in ``wait``."""
    _unsendable: dict[str, str] = field(default_factory=dict, repr=False)
    _missing: dict[int, int] = field(default_factory=dict, repr=False)
    _cancelling: dict[int, float] = field(default_factory=dict, repr=False)
    _usage: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    _strange: set[str] = field(default_factory=set, repr=False)
    _is_stopped: bool = False

    @property
    def batch_ids(self) -> list[str]:
        """Names of the batches at the server."""
        return [str(shard["batch_id"]) for shard in self.shards if shard["batch_id"]]

    def batches(self) -> list[Any]:
        """Return the server's view of each batch, now."""
        return [find_batch(self.server, batch_id) for batch_id in self.batch_ids]

    def wait(self, *, poll_s: float | None = None) -> "Job":
        """Show progress, send what waits, fetch what has ended, send again what failed for a while; until all is accounted for.

        Interrupting and calling it again is safe, also in another process.

        Args:
            poll_s: Seconds between looks; null: 0.2 growing to 2 for a server on this machine, 1 growing to 60 for others.

        Raises:
            BatchError: No progress at all for long, every batch refused, or a server that stays away.
        """
        from tqdm.auto import tqdm

        began = moved = time.monotonic()
        is_near = self.server.dialect.name == "arislab"
        pause, longest = (0.2, 2.0) if is_near else (1.0, 60.0)
        with tqdm(
            total=self.requests.height, unit="req", desc="batch", disable=not self._open(), mininterval=1.0
        ) as bar:
            while self._open():
                n_before, states = bar.n, [shard["state"] for shard in self.shards]
                live = self.look()
                self._pump()
                bar.n = min(self.requests.height, self._n_done(live))
                bar.refresh()
                if bar.n != n_before or states != [shard["state"] for shard in self.shards]:
                    moved, pause = time.monotonic(), min(pause, 2.0)
                self._check_stall(time.monotonic() - moved, bar.n)
                if self._open():
                    time.sleep(poll_s if poll_s is not None else uniform(0.7, 1.0) * pause)
                    pause = min(longest, pause * 1.3)
        self.seconds += time.monotonic() - began
        return self

    def collect(self) -> pl.DataFrame:
        """Return one row per request, in the columns of ``training_data_raw`` (without task); also for those that failed.

        Requests that were not sent because the budget was reached have no row. Collecting again is free: results lie in the folder.

        Raises:
            BatchError: A batch is still on its way, or the server refused everything that was sent.
        """
        if left := self._open():
            raise BatchError(
                f"batch {left[0]['batch_id'] or left[0]['shard'][:12]} has not ended ({left[0]['state']}); call wait() first."
            )
        refused = [shard for shard in self.shards if shard["state"] == "refused"]
        if refused and len(refused) == len(self.shards) and self.requests.height:
            raise BatchError(
                f"the server refused batch {refused[0]['batch_id']} as a whole ({refused[0]['error']}); mend the requests, or what the "
                "server lacks, and run the cell again with resend=('error',)."
            )
        found = self._outcomes()
        rows = [
            row | found[row["custom_id"]] for row in self.requests.drop("body").to_dicts() if row["custom_id"] in found
        ]
        frame = pl.DataFrame(rows, schema={**self.requests.drop("body").schema, **_SCHEMA}, strict=False)
        other = frame.filter(~pl.col("model_returned").str.starts_with(pl.col("model")))
        if other.height:
            asked, came = other.row(0, named=True)["model"], other.row(0, named=True)["model_returned"]
            warnings.warn(
                f"{other.height:,} answers come from a model of another name than was asked for (asked {asked!r}, answered {came!r}); both "
                "names are recorded. If these are not the same weights, do not use the rows.",
                stacklevel=2,
            )
        n = self.account()
        if frame.height + n.get("unsent", 0) != self.requests.height or sum(n.values()) != self.requests.height:
            raise BatchError(
                f"{self.requests.height:,} requests, {frame.height:,} accounted for ({n}); this is a defect of arislab."
            )
        return frame  # one row per request

    def account(self) -> dict[str, int]:
        """Return how many requests are in which state; the sum is the number of requests. ``open``: on their way; ``unsent``: never sent."""
        known = dict.fromkeys(self.requests["custom_id"], "unsent")
        for shard in self.shards:
            for name, status in self.ledger.lines(shard["id"]).items():
                if name in known and known[name] not in ANSWERED:
                    known[name] = status or "open"
        known |= dict.fromkeys(self._unsendable, "error")
        counts: dict[str, int] = {}
        for status in known.values():
            counts[status] = counts.get(status, 0) + 1
        return dict(sorted(counts.items()))

    def lines(self) -> dict[str, dict[str, Any]]:
        """Return the line that a server wrote for each request, or an error line that says why there is none; nothing for what is on its way."""
        lines: dict[str, dict[str, Any]] = {}
        done: set[str] = set()
        mine = set(self.requests["custom_id"])
        for shard in self.shards:
            came = self._read(shard) if shard["state"] == "collected" else {}
            for name, status in self.ledger.lines(shard["id"]).items():
                if name in mine and name not in done and status is not None:
                    why = {"code": status, "message": shard["error"] or f"no line came in batch {shard['batch_id']}"}
                    lines[name] = came.get(name) or {"id": None, "custom_id": name, "response": None, "error": why}
                    done |= {name} if status in ANSWERED else set()
        return lines

    def cancel(self) -> None:
        """Stop what is on its way; lines that have an answer stay, those that were not sent are let go."""
        for shard in self._open():
            self._cancel(shard)

    def again(self, resend: set[str]) -> set[str]:
        """The statuses whose requests are sent again: what passes, what was consented to, and on a server of one's own all failures."""
        free = {"error", "lost"} if self.server.dialect.name == "arislab" else set()
        return set(AGAIN) | resend | free

    def __repr__(self) -> str:
        states = ", ".join(f"{n:,} {state}" for state, n in self.account().items())
        return f"Job: {self.requests.height:,} requests in {len(self.shards)} batches ({states or 'nothing to send'})"

    # -- sending -------------------------------------------------------------------------------------------------------

    def _begin(self, resend: set[str]) -> None:
        self._unsendable = {}
        for name, body in self.requests.select("custom_id", "body").iter_rows():
            if problem := unsendable(body):
                self._unsendable[name] = problem
        wanted = [name for name in self.requests["custom_id"] if name not in self._unsendable]
        stay = self._claim(wanted, self.again(resend))
        asked = {status: sum(s == status for s in stay.values()) for status in ASK}
        if any(asked.values()):
            told = ", ".join(f"{n:,} {status}" for status, n in asked.items() if n)
            names = tuple(status for status, n in asked.items() if n)
            warnings.warn(
                f"{told} of earlier runs are not sent again by themselves, as that may cost or fail again; resend={names!r} sends them.",
                stacklevel=3,
            )
        self._pump()

    def _claim(self, names: list[str], again: set[str], attempts: int | None = None) -> dict[str, str]:
        """Claim what is free, and attach to what is on its way; the lines that stay as they are come back."""
        wanted = set(names)
        bodies = self.requests.filter(pl.col("custom_id").is_in(list(wanted))) if names else self.requests.clear()

        def write(free: list[str]) -> list[tuple[str, Path, int, list[str]]]:
            part = bodies.filter(pl.col("custom_id").is_in(free))
            return [
                self._write(ids, content)
                for ids, content in cut(part, max_lines=self.max_lines, max_bytes=self.max_bytes)
            ]

        rows, stay = self.ledger.claim(names, server=self.server.identity, resend=again, write=write, attempts=attempts)
        have = {shard["id"] for shard in self.shards}
        self.shards += [row for row in rows if row["id"] not in have]
        return stay

    def _write(self, ids: list[str], content: bytes) -> tuple[str, Path, int, list[str]]:
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / "requests" / f"{digest[:16]}.jsonl"
        if not path.is_file():
            _keep(path, content)
        return digest, path, len(content), ids

    def _pump(self) -> None:
        """Send planned files while the window and the budget have room."""
        for shard in self._open():
            n_open = sum(s["state"] in ("uploading", "creating", "submitted") for s in self.shards)
            if shard["state"] == "submitted":
                continue
            if shard["state"] == "planned" and n_open >= self.window:
                break
            if self.budget and n_open and self._mean_tokens() is None:
                break  # the first file is the pilot: it tells what a request takes
            if self._is_stopped or (self.budget and not self._affords(shard)):
                if shard["state"] == "planned":
                    self._withdraw(shard)
                continue
            if self.ledger.hold(shard) and shard["state"] in UNSENT and not self._send(shard):
                break
            if shard["state"] not in OPEN:  # another process sent it, and saw its end
                self._follow(shard)
        self.shards = [s for s in self.shards if s["state"] != "withdrawn"]

    def _withdraw(self, shard: dict[str, Any]) -> None:
        """Let go of a shard for which no batch was asked."""
        if self.ledger.hold(shard) and shard["state"] in ("planned", "uploading"):
            self.ledger.withdraw(shard)
        self.shards = [s for s in self.shards if s["state"] != "withdrawn"]

    def _affords(self, shard: dict[str, Any]) -> bool:
        """Whether the budget allows one more file; says so once if it does not."""
        assert self.budget is not None
        mean = self._mean_tokens() or (0.0, 0.0)
        waiting = [s for s in self.shards if s["state"] == "submitted"]
        spent, n = self._spent(), shard["n"] + sum(s["n"] for s in waiting)
        if not self.budget.passed(spent[0] + n * mean[0], spent[1] + n * mean[1]):
            return True
        if not self._is_stopped:
            self._is_stopped = True
            warnings.warn(
                f"the budget ({self.budget}) has no room for the next {shard['n']:,} requests: they are not sent. Raise it and run the "
                "cell again to go on.",
                stacklevel=5,
            )
        return False

    def _mean_tokens(self) -> tuple[float, float] | None:
        n = sum(self.ledger.counts(i).get("ok", 0) + self.ledger.counts(i).get("truncated", 0) for i in self._usage)
        if n:
            spent = self._spent()
            return spent[0] / n, spent[1] / n
        return self.budget.per_request if self.budget else None

    def _spent(self) -> tuple[int, int]:
        return sum(u[0] for u in self._usage.values()), sum(u[1] for u in self._usage.values())

    def _send(self, shard: dict[str, Any]) -> bool:
        """Upload a file and create its batch, unless the server says that this happened; False: it has no room now."""
        mark = self.ledger.mark(shard)
        if shard["state"] == "creating" and (found := self._adopt(shard, mark, shard["file_id"])):
            self.ledger.advance(shard, state="submitted", batch_id=found)
            return True
        file_id = shard["file_id"] if shard["state"] == "creating" else None
        if file_id is None and shard["state"] == "uploading":
            file_id = self._uploaded(mark, shard["bytes"])
        if file_id is None:
            if not self.ledger.advance(shard, state="uploading"):
                return True
            file_id = self._upload(shard, mark)
        if not self.ledger.advance(shard, state="creating", file_id=file_id):
            return True  # another process took over while the file was on its way
        return self._create(shard, mark)

    def _upload(self, shard: dict[str, Any], mark: str) -> str:
        import openai

        path, dialect = Path(shard["path"]), self.server.dialect
        if not path.is_file() or _digest(path) != shard["shard"]:
            raise BatchError(
                f"{path} is not the file that was written for this batch; restore it, or remove the ledger."
            )
        more: dict[str, Any] = {}
        if dialect.expires_after_s:
            more["expires_after"] = {"anchor": "created_at", "seconds": dialect.expires_after_s}
        if dialect.upload_model_field:
            first = parse(path.open("rb").readline()) or {}
            more["extra_body"] = {dialect.upload_model_field: first["body"]["model"]}
        with path.open("rb") as file:
            try:
                made = self.server.patiently(
                    lambda: self.server.client.files.create(file=(f"{mark}.jsonl", file), purpose="batch", **more),
                    rewind=file,
                )
            except openai.APIStatusError as error:
                self.ledger.advance(shard, state="planned")
                hint = "nothing was spent"
                if error.status_code == 404:
                    hint = "it has no Files API: put `arislab serve --upstream URL` in front of it"
                raise BatchError(
                    f"{self.server.base_url} refused a file of {shard['n']:,} requests ({error.status_code}: {error.message}); {hint}."
                ) from None
        return str(made.id)

    def _create(self, shard: dict[str, Any], mark: str) -> bool:
        """Create the batch; never twice: a create whose answer was lost is looked for."""
        import openai

        dialect = self.server.dialect
        more: dict[str, Any] = {"extra_headers": {"Idempotency-Key": mark}} if dialect.idempotency_key else {}
        if dialect.expires_after_s:
            more["output_expires_after"] = {"anchor": "created_at", "seconds": dialect.expires_after_s}

        def create() -> Any:
            return self.server.client.batches.create(
                input_file_id=shard["file_id"],
                endpoint=URL,
                completion_window="24h",
                metadata={"arislab_shard": mark},
                **more,
            )

        try:
            made = self.server.patiently(create) if dialect.idempotency_key else create()
        except openai.RateLimitError:  # refused for now, so surely not made
            return False
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            found = self._adopt(shard, mark, shard["file_id"])  # the answer was lost: was the batch made?
            if not found:
                raise BatchError(
                    f"the server did not confirm a batch of {shard['n']:,} requests ({error}); nothing is lost: run the cell again, it "
                    "looks for the batch first."
                ) from None
            self.ledger.advance(shard, state="submitted", batch_id=found)
            return True
        except openai.NotFoundError:
            self.ledger.advance(shard, state="planned", file_id=None)  # the file is gone: it is uploaded again
            return False
        except openai.APIStatusError as error:
            self.ledger.advance(shard, state="planned", file_id=None)
            raise BatchError(
                f"the server refused a batch of {shard['n']:,} requests ({error.status_code}: {error.message}); nothing was spent."
            ) from None
        self.ledger.advance(shard, state="submitted", batch_id=made.id)
        return True

    def _adopt(self, shard: dict[str, Any], mark: str, file_id: str | None) -> str | None:
        """The oldest batch that was made for a file, by metadata or by the name of its input; younger twins are cancelled."""
        import openai

        listed = self._listed("batches")
        if listed is None:
            self.ledger.settle(
                shard, dict.fromkeys(self.ledger.lines(shard["id"]), "lost"), state="lost", error="unconfirmed"
            )
            raise BatchError(
                f"{self.server.base_url} did not confirm a batch of {shard['n']:,} requests and cannot list its batches, so nobody here knows "
                f"whether it was made (file {mark}.jsonl); look there. If it was not, run the cell again with resend=('lost',)."
            )
        files = {file_id} - {None}  # a proxy may strip metadata without saying so
        if not self.server.dialect.metadata:
            files |= set(self._named(mark))
        found = []
        for batch in listed:
            if (batch.metadata or {}).get("arislab_shard") == mark or batch.input_file_id in files:
                found.append(batch)
        found.sort(key=lambda batch: batch.created_at)
        for twin in found[1:]:
            try:
                self.server.client.batches.cancel(twin.id)
            except openai.APIStatusError:
                continue  # it has ended already
        return str(found[0].id) if found else None

    def _named(self, mark: str) -> list[str]:
        return [str(file.id) for file in self._listed("files") or () if file.filename == f"{mark}.jsonl"]

    def _uploaded(self, mark: str, n_bytes: int) -> str | None:
        """The file of an upload that was not confirmed, if it arrived whole."""
        listed = self._listed("files") or ()
        same = [str(f.id) for f in listed if f.filename == f"{mark}.jsonl" and f.bytes == n_bytes]
        return same[-1] if same else None

    def _listed(self, what: str, n: int = _LISTED) -> list[Any] | None:
        """The newest ``n`` files or batches of the server; null if it cannot list them."""
        import openai

        if not self.server.dialect.lists:
            return None
        client = self.server.client
        try:
            if what == "files":
                return list(self.server.patiently(lambda: list(islice(client.files.list(purpose="batch"), n))))
            return list(self.server.patiently(lambda: list(islice(client.batches.list(limit=100), n))))
        except openai.APIStatusError:
            return None

    # -- watching ------------------------------------------------------------------------------------------------------

    def _open(self) -> list[dict[str, Any]]:
        return [shard for shard in self.shards if shard["state"] in OPEN]

    def look(self) -> dict[int, Any]:
        """Ask for the open batches, fetch those that have ended, and say what the others tell."""
        sent = [shard for shard in self.shards if shard["state"] == "submitted"]
        listed = {b.id: b for b in self._listed("batches", 100) or ()} if len(sent) > 3 else {}  # one look for all
        live: dict[int, Any] = {}
        broken: list[_BrokenError] = []
        for shard in sent:
            self.ledger.reload(shard)
            if shard["state"] != "submitted":  # another process saw its end
                self._follow(shard)
                continue
            batch = listed.get(shard["batch_id"]) or find_batch(self.server, shard["batch_id"])
            if batch is None:
                self._missing[shard["id"]] = self._missing.get(shard["id"], 0) + 1
                if self._missing[shard["id"]] >= 3:
                    self._lose(shard, "the server does not know the batch any more")
                continue
            self._missing.pop(shard["id"], None)
            self._check_words(shard, batch)
            status = self.server.dialect.status(batch.status)
            if (
                status == "cancelling"
                and time.monotonic() - self._cancelling.setdefault(shard["id"], time.monotonic()) > _CANCELLING_S
            ):
                status = "cancelled"
            if status not in TERMINAL:
                live[shard["id"]] = batch
                continue
            try:
                self._end(shard, batch, status)
            except _BrokenError as error:
                broken.append(error)
        if broken:
            raise broken[0]
        self._watch_budget(live)
        return live

    def _check_words(self, shard: dict[str, Any], batch: Any) -> None:
        """Warn once of a status that nobody knows; stop waiting for a batch that has outlived its window.

        Raises:
            BatchError: The batch runs ten minutes longer than the window that the server gave it, by this machine's clock alone.
        """
        dialect = self.server.dialect
        if not dialect.knows(batch.status) and batch.status not in self._strange:
            self._strange.add(batch.status)
            warnings.warn(
                f"{self.server.base_url} says {batch.status!r} of a batch, which is no status of the protocol: it counts as in_progress.",
                stacklevel=4,
            )
        if not batch.expires_at or dialect.status(batch.status) in TERMINAL:
            return
        age_s = time.time() - calendar.timegm(time.strptime(shard["changed_at"], "%Y-%m-%d %H:%M:%S"))
        if age_s > batch.expires_at - batch.created_at + _OVERDUE_S:
            raise BatchError(
                f"batch {batch.id} is still {batch.status} {age_s / 3600:.1f} h after it was made, past its window; nothing is lost. "
                f"`arislab batch cancel {batch.id}`, then run the cell again with resend=('cancelled',)."
            )

    def _watch_budget(self, live: dict[int, Any]) -> None:
        """Cancel what runs when what it used already passes the budget."""
        if self.budget is None or self._is_stopped:
            return
        prompt, answers = self._spent()
        for batch in live.values():
            usage = getattr(batch, "usage", None)
            prompt += getattr(usage, "input_tokens", 0) or 0
            answers += getattr(usage, "output_tokens", 0) or 0
        if self.budget.passed(prompt, answers):
            self._is_stopped = True
            warnings.warn(
                f"the budget ({self.budget}) is spent: what runs is cancelled, answers so far stay.", stacklevel=4
            )
            for shard in self._open():
                self._cancel(shard)

    def _cancel(self, shard: dict[str, Any]) -> None:
        import openai

        if shard["state"] in UNSENT and self.ledger.hold(shard) and shard["state"] == "creating":
            if found := self._adopt(shard, self.ledger.mark(shard), shard["file_id"]):
                self.ledger.advance(shard, state="submitted", batch_id=found)
            else:  # it may still be made: whether it is sent again is for the user to say
                names = self.ledger.lines(shard["id"])
                self.ledger.settle(shard, dict.fromkeys(names, "cancelled"), state="lost", error="unconfirmed")
        if shard["state"] in ("planned", "uploading"):
            self._withdraw(shard)
        elif shard["state"] == "submitted":
            try:
                self.server.patiently(lambda: self.server.client.batches.cancel(shard["batch_id"]))
            except openai.APIStatusError:
                return  # it has ended meanwhile, and is fetched as it is

    def _n_done(self, live: dict[int, Any]) -> int:
        counts = [batch.request_counts for batch in live.values() if batch.request_counts is not None]
        ended = sum(s["n"] for s in self.shards if s["state"] not in OPEN)
        return int(ended + sum(c.completed + c.failed for c in counts))

    def _check_stall(self, still_s: float, n_done: int) -> None:
        left = self._open()
        if not left:
            return
        embedded = self.server.base_url == "embedded"
        if still_s > (_STALL_S if embedded else _REMOTE_STALL_S):
            if embedded:
                self.server.close()
                log = self.server.folder / "server" / "server.log"
                raise BatchError(
                    f"the embedded server finished no request for {_STALL_S:.0f} s ({n_done:,} of {self.requests.height:,} done); nothing is "
                    f"lost: run the cell again, it goes on there. The server's log: {log}"
                )
            raise BatchError(
                f"batch {left[0]['batch_id']} made no progress for {still_s / 3600:.0f} h; nothing is lost. Run the cell again to go on "
                f"waiting, or `arislab batch cancel {left[0]['batch_id']}` and then resend=('cancelled',)."
            )

    # -- fetching ------------------------------------------------------------------------------------------------------

    def _end(self, shard: dict[str, Any], batch: Any, status: str) -> None:
        """Fetch what a batch brought, settle its lines, and claim again those that failed for a while."""
        if status == "failed":
            self._refused(shard, batch)
            return
        came, is_cut = {}, False
        try:
            for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
                if file_id:
                    came[kind], is_short = self._content(file_id)
                    is_cut = is_cut or is_short
        except _GoneError:
            self._lose(shard, "the result file is gone at the server")
            return
        lines, strange = self._sorted(shard, came.values())
        self._check_whole(shard, lines, strange, is_cut=is_cut)
        found = {name: outcome(lines.get(name), status) for name in self.ledger.lines(shard["id"])}
        for one in found.values():
            if shard["attempt"] > 1 and one["status"] == "unavailable" and '"code":"empty_response"' in one["error"]:
                one["status"] = "error"  # twice nothing: the model has no answer to this
        tokens = [(one["prompt_tokens"] or 0, one["completion_tokens"] or 0) for one in found.values()]
        self._usage[shard["id"]] = (sum(t[0] for t in tokens), sum(t[1] for t in tokens))

        def write() -> None:
            for kind, content in came.items():
                _keep(self._results(shard, kind), content)

        statuses = {name: one["status"] for name, one in found.items()}
        if self.ledger.settle(shard, statuses, state="collected", error=status, write=write):
            self._quarantine(shard, strange)
        self._follow(shard)

    def _check_whole(
        self, shard: dict[str, Any], lines: dict[str, Any], strange: list[tuple[str, dict[str, Any]]], *, is_cut: bool
    ) -> None:
        """Refuse result files that are surely not what the server has.

        Raises:
            BatchError: All lines belong to other requests, or lines are missing in a file that is shorter than stated.
        """
        n_foreign = sum(why == "foreign" for why, _ in strange)
        if n_foreign and not lines:
            self._quarantine(shard, strange)
            raise _BrokenError(
                f"all {n_foreign:,} lines in the files of batch {shard['batch_id']} belong to other requests: the "
                f"server gave another batch's file. They are in {self.folder / 'quarantine.jsonl'}; run the cell again to fetch it anew."
            )
        if is_cut and len(lines) < shard["n"]:  # the others may have answers, which are not paid again
            raise _BrokenError(
                f"a result file of batch {shard['batch_id']} came three times shorter than {self.server.base_url} states, and "
                f"{shard['n'] - len(lines):,} lines are missing; nothing is lost: run the cell again to fetch it anew."
            )

    def _refused(self, shard: dict[str, Any], batch: Any) -> None:
        """A batch that failed as a whole: its rows are errors, or wait, if all that it lacked was room."""
        told, codes = _problems(batch, Path(shard["path"]))
        if "token_limit_exceeded" in codes:
            self.ledger.advance(shard, state="planned", batch_id=None, file_id=None, attempt=shard["attempt"] + 1)
            return
        status = "unavailable" if "server_error" in codes else "error"
        self.ledger.settle(shard, dict.fromkeys(self.ledger.lines(shard["id"]), status), state="refused", error=told)
        self._follow(shard)

    def _lose(self, shard: dict[str, Any], why: str) -> None:
        """A batch that is gone. Where it cost nothing its lines are sent again; else that is for the user to say."""
        status = "unavailable" if self.server.dialect.name == "arislab" else "lost"
        self.ledger.settle(shard, dict.fromkeys(self.ledger.lines(shard["id"]), status), state="lost", error=why)
        self._follow(shard)

    def _follow(self, shard: dict[str, Any]) -> None:
        """Claim again the lines of a settled shard that failed for a while, or attach to the process that did."""
        mine = set(self.requests["custom_id"])
        failed = [n for n, status in self.ledger.lines(shard["id"]).items() if status in AGAIN and n in mine]
        if failed and not self._is_stopped:
            self._claim(failed, set(AGAIN), self.attempts)

    def _content(self, file_id: str) -> tuple[bytes, bool]:
        """The bytes of a result file, whole: against the size that the server states, and its last line.

        After three tries it is taken as it came: what can be read is, the rest is quarantined.

        Returns:
            The bytes, and whether they are fewer than the server states.
        """
        import openai

        for last in (False, False, True):
            try:
                content = bytes(self.server.patiently(lambda: self.server.client.files.content(file_id).content))
            except openai.NotFoundError:
                raise _GoneError from None
            size = self._size(file_id)
            tail = content.rsplit(b"\n", 1)[-1]
            if (not size or size == len(content)) and (not tail or parse(tail) is not None):
                return content, False
            if not last:
                time.sleep(0.5)
        return content, bool(size and len(content) < size)

    def _size(self, file_id: str) -> int | None:
        """The size of a file as the server states it; null if it does not."""
        import openai

        def look() -> Any:
            try:
                return self.server.client.files.retrieve(file_id).bytes
            except openai.InternalServerError as error:
                if error.status_code in (500, 501):  # it may never answer this
                    return error
                raise

        for _ in range(3):
            try:
                size = self.server.patiently(look)
            except openai.APIStatusError:
                return None
            if not isinstance(size, Exception):
                return int(size) if size else None
            time.sleep(0.5)
        return None

    def _results(self, shard: dict[str, Any], kind: str) -> Path:
        name = hashlib.sha256(str(shard["batch_id"]).encode()).hexdigest()[:16]
        return self.folder / "results" / f"{name}-{kind}.jsonl"

    def _read(self, shard: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The lines of a collected shard."""
        paths = [self._results(shard, kind) for kind in ("output", "error")]
        return self._sorted(shard, (path.read_bytes() for path in paths if path.is_file()))[0]

    def _sorted(
        self, shard: dict[str, Any], contents: Iterable[bytes]
    ) -> tuple[dict[str, dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
        """The lines of result files that belong to a shard, by custom_id; and all others, each with the reason."""
        mine = self.ledger.lines(shard["id"])
        lines: dict[str, dict[str, Any]] = {}
        strange: list[tuple[str, dict[str, Any]]] = []
        for raw in chain.from_iterable(map(split, contents)):
            line = parse(raw)
            if line is None:
                strange.append(("unreadable", {"text": raw.decode("utf-8", "replace")}))
                continue
            name = line.get("custom_id")
            before = lines.get(name) if isinstance(name, str) else None
            if not isinstance(name, str) or name not in mine:
                strange.append(("foreign", line))
            elif before is None:
                lines[name] = line
            elif _same(before, line):
                continue
            elif outcome(before, "")["status"] not in ANSWERED and outcome(line, "")["status"] in ANSWERED:
                strange.append(("doubled", before))
                lines[name] = line
            else:
                strange.append(("doubled", line))
        return lines, strange

    def _quarantine(self, shard: dict[str, Any], strange: list[tuple[str, dict[str, Any]]]) -> None:
        """Keep lines that belong to no request of ours, cannot be read, or contradict another."""
        if strange:
            with (self.folder / "quarantine.jsonl").open("a", encoding="utf-8") as file:
                for why, line in strange:
                    file.write(canonical({"batch_id": shard["batch_id"], "why": why, "line": line}) + "\n")

    def _outcomes(self) -> dict[str, dict[str, Any]]:
        """What became of each request that was sent, or could not be."""
        mine = set(self.requests["custom_id"])
        found: dict[str, dict[str, Any]] = {}
        for shard in self.shards:
            where = {"attempt": shard["attempt"], "batch_id": shard["batch_id"]}
            lines = self._read(shard) if shard["state"] == "collected" else {}
            for name, status in self.ledger.lines(shard["id"]).items():
                if name not in mine or (name in found and found[name]["status"] in ANSWERED):
                    continue
                one = outcome(lines.get(name), shard["error"] or "")
                if name not in lines and shard["state"] != "collected":
                    told = {
                        "code": f"batch_{'failed' if shard['state'] == 'refused' else 'lost'}",
                        "message": shard["error"],
                    }
                    one["error"] = canonical(told)[:2000]
                elif name not in lines and status in ANSWERED:
                    raise BatchError(
                        f"the results of batch {shard['batch_id']} are not in {self.folder / 'results'} any more; restore them from a backup."
                    )
                found[name] = one | {"status": status} | where
        for name, problem in self._unsendable.items():
            why = canonical({"code": "not_sendable", "message": problem})
            found[name] = outcome(None, "") | {"status": "error", "error": why, "attempt": None, "batch_id": None}
        return found


_SCHEMA = {
    "error": pl.String,
    "llm_output": pl.String,
    "finish_reason": pl.String,
    "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "logprob_mean": pl.Float64,
    "model_returned": pl.String,
    "status": pl.String,
    "attempt": pl.Int32,
    "batch_id": pl.String,
}


class _GoneError(Exception):
    """A file that the server does not have any more."""


class _BrokenError(BatchError):
    """A result file that cannot be used as it came; other batches can be fetched all the same."""


def cut(todo: pl.DataFrame, *, max_lines: int, max_bytes: int) -> Iterator[tuple[list[str], bytes]]:
    """Yield custom_ids and bytes of each file for requests (reads custom_id, body, model): one model a file, as OpenAI demands."""
    for part in todo.partition_by("model", maintain_order=True):
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


def find_batch(server: Server, batch_id: str) -> Any:
    """Return the server's view of a batch, or None if it knows none."""
    import openai

    def look() -> Any:
        try:
            return server.client.batches.retrieve(batch_id)
        except openai.NotFoundError:
            return None

    return server.patiently(look)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")  # another process may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BatchError(
            f"cannot write {path} ({error.strerror}); make room and run the cell again: nothing is lost at the server."
        ) from None


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**one, "id": None} == {**other, "id": None}


def unsendable(body: str) -> str | None:
    """Say why a request in canonical JSON cannot be sent; None if it can."""
    if len(body) > MAX_LINE_BYTES:
        return f"the request has {len(body):,} bytes; a line may have {MAX_LINE_BYTES:,}"
    if "\\ud" in body and parse(body.encode()) is None:  # canonical JSON escapes pairs too, and these are characters
        return "its text holds half a character (a lone surrogate); clean the candidate's text"
    return None


def _problems(batch: Any, path: Path) -> tuple[str, set[str]]:
    """Why a batch was refused as a whole, with the requests that the server names; and its codes."""
    listed = (batch.errors.data or []) if batch.errors else []
    sent = path.read_bytes().split(b"\n") if path.is_file() else []
    told = []
    for e in listed[:3]:
        named = parse(sent[e.line - 1]) if e.line and e.line <= len(sent) else None
        name = f" ({named['custom_id']})" if named else ""
        told.append(f"line {e.line}{name}: {e.message}")
    return "; ".join(told) or "no reason given", {str(e.code) for e in listed}
