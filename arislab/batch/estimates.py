"""What sending would do and cost, before anything is spent."""

import random
import re
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arislab.batch.answers import Recorded, answer
from arislab.batch.connection import Server
from arislab.batch.job import Job, prepare
from arislab.batch.ledger import UNSENT
from arislab.batch.sending import among, cut, unsendable
from arislab.errors import BatchError, ParameterError
from arislab.system import spilled
from arislab.system.kinds import takes_any_frame


@dataclass(frozen=True)
class Plan:
    """What ``submit`` would do, before anything is spent. The counts sum to ``n_rows``."""

    n_rows: int
    n_same_request: int
    """Rows whose request is identical to an earlier row's: sent once."""
    n_recorded: int
    """Have a recorded answer."""
    n_received: int
    """Have an answer in the folder that is not recorded yet: collected, not paid for again."""
    n_open: int
    """Are on their way in a batch: attached to."""
    n_claimed: int
    """Were claimed and not sent yet, as after a kill, or by another process: sent first, and paid for."""
    n_blocked: dict[str, int]
    """Failed earlier in a way that may cost or fail again, by status; ``resend`` sends them."""
    n_unsendable: int
    """Too long, or not valid text."""
    n_to_send: int
    files: list[tuple[int, int]]
    """Requests and bytes of each file that would be sent, those that lie claimed first."""
    estimate: "Estimate | None" = None
    """Tokens, time and cost, if a dry run was made."""

    def __repr__(self) -> str:
        parts = {
            "same request": self.n_same_request,
            "recorded": self.n_recorded,
            "received": self.n_received,
            "on their way": self.n_open,
            "claimed, not sent yet": self.n_claimed,
            **{f"{status} (not sent again)": n for status, n in self.n_blocked.items()},
            "cannot be sent": self.n_unsendable,
            "to send": self.n_to_send,
        }
        counts = " + ".join(f"{n:,} {what}" for what, n in parts.items() if n or what == "to send")
        size = sum(n_bytes for _, n_bytes in self.files)
        cost = repr(self.estimate) if self.estimate else "tokens, time and cost: unknown before a dry run"
        return f"{self.n_rows:,} rows = {counts}; {len(self.files)} files, {size / 1e6:,.1f} MB; {cost}"


@takes_any_frame
def plan(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    answered: Iterable[str] = (),
    resend: Iterable[str] = (),
    max_lines: int | None = None,
    max_bytes: int | None = None,
    estimate: "Estimate | None" = None,
) -> Plan:
    """Say what ``submit`` would send, and send nothing.

    Args:
        requests: As in ``submit``.
        server: As in ``submit``.
        folder: As in ``submit``.
        answered: As in ``submit``.
        resend: As in ``submit``.
        max_lines: As in ``submit``.
        max_bytes: As in ``submit``.
        estimate: From ``dry_run``.
    """
    job = prepare(requests, server=server, folder=folder, answered=answered, max_lines=max_lines, max_bytes=max_bytes)
    todo = job.requests
    bad = {name for name, body in todo.select("custom_id", "body").iter_rows() if unsendable(body)}
    wanted = todo["custom_id"]
    if bad:
        wanted = wanted.filter(~wanted.is_in(list(bad)))
    with closing(job.ledger):
        free, held, stay = job.ledger.look(wanted, server=server.identity, resend=job.again(set(resend)))
        on_the_way, claimed, waiting = _open(job, held, wanted)
    ids = [name for names in free.values() for name in names]
    blocked: dict[str, int] = {}
    for status in stay.values():
        blocked[status] = blocked.get(status, 0) + 1
    files = cut(among(todo, ids), max_lines=job.max_lines, max_bytes=job.max_bytes)
    return Plan(
        n_rows=requests.height,
        n_same_request=requests.height - todo.height - job.n_recorded,
        n_recorded=job.n_recorded,
        n_received=len(wanted) - len(ids) - len(on_the_way) - len(claimed) - len(stay),
        n_open=len(on_the_way),
        n_claimed=len(claimed),
        n_blocked=blocked,
        n_unsendable=len(bad),
        n_to_send=len(ids),
        files=waiting + [(len(names), len(content)) for names, content in files],
        estimate=estimate,
    )


def _open(job: Job, held: set[int], wanted: pl.Series) -> tuple[set[str], set[str], list[tuple[int, int]]]:
    """Return the wanted requests in batches that have not ended, and those in files of which no batch is known.

    The latter's files follow, with requests and bytes. A kill while a batch was being made may have been too late for
    it: such a file counts as unsent, as nobody knows, and is taken up, not paid twice, if it was made.
    """
    shards = [shard for shard in job.ledger.rows() if shard["id"] in held]
    unsent = [shard for shard in shards if shard["state"] in UNSENT]

    def lines(some: list[dict[str, Any]]) -> set[str]:
        named = pl.Series([name for shard in some for name in job.ledger.lines(shard["id"])], dtype=pl.String)
        return set(named.filter(named.is_in(wanted.implode()))) if some else set()

    sent = lines([shard for shard in shards if shard["state"] == "submitted"])
    return sent, lines(unsent), [(shard["n"], shard["bytes"]) for shard in unsent]


@dataclass(frozen=True)
class Estimate:
    """What the requests that are neither answered nor on their way will take, extrapolated from a few of them.

    Null is unknown: nothing was tried.
    """

    n_requests: int
    n_tried: int
    n_failed: int
    prompt_tokens: tuple[float, float, float] | None
    """Mean, low, high for all requests; 95 % bootstrap interval."""
    completion_tokens: tuple[float, float, float] | None
    seconds: tuple[float, float, float] | None
    """Time for all requests at the rate seen, the interval from the tokens alone; a server at full load is usually
    faster."""
    usd: tuple[float, float, float] | None
    """Null too if no prices were given: prices are never guessed."""
    n_claimed: int = 0
    """Of the requests, those that were claimed and not sent yet, as after a kill: none of them is tried."""

    @property
    def per_request(self) -> tuple[float, float] | None:
        """Mean prompt and answer tokens of a request, for a ``Budget``; null if nothing was tried."""
        if not self.n_tried or self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens[0] / self.n_requests, self.completion_tokens[0] / self.n_requests

    def __repr__(self) -> str:
        if not self.n_requests:
            return "nothing to send: every request has a recorded answer, or is on its way"
        claimed = f"{self.n_claimed:,} were claimed and not sent yet; they will be, and cost"
        if self.prompt_tokens is None or self.completion_tokens is None or self.seconds is None:
            return f"{self.n_requests:,} requests, none tried: {claimed}; tokens, time and cost: unknown"

        def span(x: tuple[float, float, float], form: str = ",.0f") -> str:
            return f"{x[0]:{form}} [{x[1]:{form}}, {x[2]:{form}}]"

        cost = f"{span(self.usd, ',.2f')} USD" if self.usd else "unknown (no prices given)"
        return (
            f"{self.n_requests:,} requests, from {self.n_tried} tried ({self.n_failed} failed): prompt "
            f"{span(self.prompt_tokens)} tokens, answers {span(self.completion_tokens)} tokens, at this rate "
            f"{span(self.seconds)} s, cost {cost}" + (f"; {claimed}" if self.n_claimed else "")
        )


@takes_any_frame
def dry_run(
    requests: pl.DataFrame,
    *,
    server: Server,
    folder: Path,
    recorded: Recorded,
    task: str,
    n: int = 32,
    seed: int = 0,
    usd_per_million: tuple[float, float] | None = None,
) -> Estimate:
    """Ask ``n`` random requests (their answers are kept and not asked for again) and extrapolate to all.

    What is on its way is not tried: its batch may take hours, and is paid for already. Nor is what was claimed and not
    sent yet, as after a kill: it is sent as the file that it lies in, and the estimate is for it too.

    Args:
        requests: As in ``answer``.
        server: As in ``answer``.
        folder: As in ``answer``.
        recorded: As in ``answer``; it knows the answers afterwards.
        task: As in ``answer``.
        n: Requests to try, 1 or more.
        seed: Of the choice and of the bootstrap.
        usd_per_million: Price of a million prompt and of a million answer tokens, if known.

    Raises:
        ParameterError: n is below 1, or the prices are not two.
        BatchError: None of those tried has an answer, or as in ``answer``.
    """
    if n < 1 or (usd_per_million is not None and len(usd_per_million) != 2):
        raise ParameterError(
            f"n must be >= 1 and usd_per_million two prices (prompt, answer), got {n} and {usd_per_million}."
        )
    job = prepare(requests, server=server, folder=folder, answered=recorded.answered)
    distinct, names = job.requests, job.requests["custom_id"]
    with closing(job.ledger):
        _, held, _ = job.ledger.look(names, server=server.identity, resend=job.again(set()))
        on_the_way, claimed, _ = _open(job, held, names)
    if gone := [*on_the_way, *claimed]:
        distinct = spilled.taken(distinct, (~names.is_in(gone)).arg_true())
    if not distinct.height:
        tokens = None if claimed else (0.0, 0.0, 0.0)
        priced = tokens if usd_per_million else None
        return Estimate(len(claimed), 0, 0, tokens, tokens, tokens, priced, len(claimed))
    scale = distinct.height + len(claimed)
    tried = distinct.sample(min(n, distinct.height), seed=seed)
    began = time.monotonic()
    rows = answer(tried, server=server, folder=folder, recorded=recorded, task=task)
    took = time.monotonic() - began
    good = rows.filter(pl.col("completion_tokens").is_not_null(), pl.col("prompt_tokens").is_not_null())
    if not good.height:
        why = str(rows["error"][0])
        way = " A model without a system role takes system_role='user'." if re.search(r"(?i)system.?role", why) else ""
        raise BatchError(
            f"none of {tried.height} requests tried gave an answer (first: {rows['status'][0]}: {why}); mend this "
            f"before sending {scale:,}.{way}"
        )
    chance = random.Random(seed)

    def extrapolate(values: list[float]) -> tuple[float, float, float]:
        # the bootstrap's percentiles: token counts are skewed, and a mean plus or minus would reach below zero
        means = sorted(sum(chance.choices(values, k=len(values))) / len(values) for _ in range(2000))
        return sum(values) / len(values) * scale, means[50] * scale, means[1949] * scale

    prompt = extrapolate(good["prompt_tokens"].cast(float).to_list())
    answers = extrapolate(good["completion_tokens"].cast(float).to_list())
    rate = float(good["completion_tokens"].sum()) / max(took, 1e-6)
    usd = None
    if usd_per_million:
        usd = tuple(
            (p * usd_per_million[0] + a * usd_per_million[1]) / 1e6 for p, a in zip(prompt, answers, strict=True)
        )
    seconds = tuple(a / rate for a in answers)
    n_failed = tried.height - good.height
    n_tried, n_claimed = tried.height, len(claimed)
    return Estimate(scale, n_tried, n_failed, prompt, answers, seconds, usd, n_claimed)  # type: ignore[arg-type]  # of three
