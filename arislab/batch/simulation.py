"""The way of a batch as a simulation: how long would it take, what is asked twice, and what is the narrowest place?

    client  ->  files of 50,000 lines  ->  one `arislab serve`  ->  chat servers with slots  ->  back, and recorded

A simulation of discrete events: times are drawn, and whatever waits is in the queue where the real one waits. The
server's side is the algorithm of ``server.engines.upstream`` and ``server.gate`` (places in flight that grow with
answers and shrink with refusals, Retry-After, pauses before another try), the client's that of ``job.wait``. It knows
nothing of memory, disks, networks or of how long prompts are: times of answers are what its caller says.
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from arislab.errors import ParameterError

START, CEILING, GROWTH, HOLD_S, BUSY_PER_S = 32, 512, 4, 30.0, 2000
ATTEMPTS, PATIENCE_S, TIMEOUT_S, BACKOFF_S = 5, 600.0, 600.0, 0.5
"""As in ``server.engines.upstream``, which this room does not import; a test compares them."""
POLL_S = (0.2, 2.0)
"""Pause of the client between two looks at first, and at most."""
LINES = 50_000
"""Requests in a file."""
EXACT = 200_000
"""Requests that are simulated one by one; of more, the rest goes at the pace of the middle of these."""
_SATURATED = 0.95


@dataclass(frozen=True)
class Forecast:
    """What a simulated batch took."""

    n_requests: int
    n_answered: int
    """The others failed to the end; together they are ``n_requests``."""
    n_calls: int
    """Requests that the chat servers got, refused ones and other tries too."""
    n_refused: int
    """Of these, refused for load or rate: they cost nothing but time."""
    n_failed: int
    """Of these, worked on and broken off by an error."""
    n_twice: int
    """Requests that were being answered when the server was killed: paid for, and asked again."""
    seconds: float
    """From the first file to the last row."""
    requests_per_s: float
    """Over the middle half of the answers."""
    busy_fraction: float
    """Share of the slots that worked, from the first request to the last answer, 0..1."""
    saturated_fraction: float
    """Share of that time in which 95 % of the slots or more worked, 0..1."""
    used: dict[str, float]
    """Place to the share of all seconds for which its work would suffice at full capacity, 0..1: chat servers, rate
    limit, arislab serve, client."""
    gpu_hours: float
    """Chat servers times hours from the first file to the last row, one GPU each."""
    usd: float | None
    """Tokens and GPU hours at the prices that were given; null: none was."""

    @property
    def narrowest(self) -> str:
        """The place that was used most: more of it would help first."""
        return max(self.used, key=lambda place: self.used[place])

    def __repr__(self) -> str:
        money = "unknown (no prices given)" if self.usd is None else f"{self.usd:,.2f} USD"
        return (
            f"{self.n_requests:,} requests in {self.seconds:,.0f} s ({self.requests_per_s:,.1f} a second): "
            f"{self.n_answered:,} answered, {self.n_requests - self.n_answered:,} not; {self.n_calls:,} calls, of "
            f"which {self.n_refused:,} were refused and {self.n_failed:,} failed; {self.n_twice:,} paid twice; "
            f"{self.gpu_hours:,.1f} GPU-hours, {money}; slots busy {self.busy_fraction:.0%}, saturated "
            f"{self.saturated_fraction:.0%} of the time; narrowest: {self.narrowest}"
        )


def simulate(
    n_requests: int,
    *,
    upstreams: int = 1,
    slots: int = 256,
    median_s: float = 0.8,
    spread: float = 7.5,
    tokens_per_s: float | None = None,
    tokens: tuple[float, float] = (300.0, 200.0),
    limit_per_s: float | None = None,
    refuse_fraction: float = 0.0,
    retry_after_s: float | None = None,
    fail_fraction: float = 0.0,
    server_ms: float = 0.4,
    client_ms: tuple[float, float] = (0.06, 0.05),
    crash_after_s: float | None = None,
    down_s: float = 10.0,
    usd_per_million: tuple[float, float] | None = None,
    usd_per_gpu_hour: float | None = None,
    seed: int = 0,
) -> Forecast:
    """Simulate the way of requests through files, one ``arislab serve`` and its chat servers, and back.

    Args:
        n_requests: How many, 1 or more; above 200,000 the rest goes at the pace of the middle of these.
        upstreams: Chat servers, one GPU each, 1 or more.
        slots: Requests that each works on at once, 1 or more; what comes beyond is refused (503).
        median_s: Seconds of an answer in a slot, log-normal; 0: at once.
        spread: 99 % are answered within so many times the median, 1 or more; 1: all take the same.
        tokens_per_s: Tokens that a chat server writes in a second with all slots at work: gives the mean time of an
            answer in place of ``median_s``.
        tokens: Prompt and answer tokens of a request.
        limit_per_s: Requests that each chat server takes in a second of its clock; what comes beyond is refused (429).
        refuse_fraction: Share of the requests that are refused by chance, 0 to below 1.
        retry_after_s: Seconds that a refusal asks to wait; null: it asks for nothing.
        fail_fraction: Share of the answers that break off with an error which may pass, 0 to below 1.
        server_ms: Milliseconds of ``arislab serve`` a request, on its one core; as measured on two shared cores.
        client_ms: Milliseconds of the client a request, before it is sent and after it was answered; likewise.
        crash_after_s: Seconds after which ``arislab serve`` is killed; null: never.
        down_s: Seconds until it is there again.
        usd_per_million: Prices of a million prompt and of a million answer tokens; null: tokens cost nothing here.
        usd_per_gpu_hour: Price of a GPU for an hour; null: GPUs cost nothing here.
        seed: Of all that is drawn: the same seed gives the same forecast.

    Raises:
        ParameterError: A number out of its range.

    Example:
        >>> simulate(1000, median_s=1.0, spread=1, slots=512).n_calls
        1000

    Source:
        Discrete-event simulation: Law, Simulation Modeling and Analysis, 5th ed. (2015), ch. 1.3. Its check, work in
        progress = rate times time: Little, Operations Research 9 (1961), 383.
    """
    _check(locals())
    sigma = math.log(spread) / NormalDist().inv_cdf(0.99)
    if tokens_per_s is not None:
        median_s = slots * tokens[1] / tokens_per_s / math.exp(sigma**2 / 2)
    exact = min(n_requests, EXACT)
    way = _Way(
        n=exact,
        upstreams=[_Upstream() for _ in range(upstreams)],
        slots=slots,
        times=(math.log(median_s), sigma) if median_s else None,
        limit_per_s=limit_per_s,
        refuse_fraction=refuse_fraction,
        retry_after_s=retry_after_s,
        fail_fraction=fail_fraction,
        server_s=server_ms / 1000,
        client_s=(client_ms[0] / 1000, client_ms[1] / 1000),
        chance=random.Random(seed),
    )
    way.run(crash_after_s, down_s)
    pace = way.pace()
    # of more requests all else is in proportion; but a crash, and the few at the end that wait for the slowest
    scale = n_requests / exact
    seconds = way.ended + (n_requests - exact) / min(pace, 1000 / sum(client_ms) if sum(client_ms) else math.inf)
    n_calls, n_refused, n_failed = (round(n * scale) for n in (way.n_calls, way.n_refused, way.n_failed))
    hours = upstreams * seconds / 3600
    costs = []
    if usd_per_million is not None:
        paid = n_calls - n_refused
        costs.append(paid * sum(n * usd for n, usd in zip(tokens, usd_per_million, strict=True)) / 1e6)
    if usd_per_gpu_hour is not None:
        costs.append(hours * usd_per_gpu_hour)
    return Forecast(
        n_requests=n_requests,
        n_answered=round(way.n_answered * scale),
        n_calls=n_calls,
        n_refused=n_refused,
        n_failed=n_failed,
        n_twice=way.n_twice,
        seconds=seconds,
        requests_per_s=pace,
        busy_fraction=way.busy_s / (way.span_s * slots * upstreams) if way.span_s else 0.0,
        saturated_fraction=way.saturated_s / way.span_s if way.span_s else 0.0,
        used=way.used(),
        gpu_hours=hours,
        usd=sum(costs) if costs else None,
    )


def _check(given: dict[str, Any]) -> None:
    least: dict[str, float] = dict.fromkeys(("n_requests", "upstreams", "slots", "spread"), 1)
    least |= dict.fromkeys(("median_s", "server_ms", "down_s", "crash_after_s", "retry_after_s"), 0)
    for name, low in least.items():
        if given[name] is not None and not low <= given[name] < math.inf:
            raise ParameterError(f"{name} must be {low:g} or more, got {given[name]!r}.")
    for name in ("refuse_fraction", "fail_fraction"):
        if not 0 <= given[name] < 1:
            raise ParameterError(f"{name} must be in [0, 1), got {given[name]!r}.")
    for name in ("limit_per_s", "tokens_per_s"):
        if given[name] is not None and not 0 < given[name] < math.inf:
            raise ParameterError(f"{name} must be above 0, got {given[name]!r}; leave it out for none.")
    for name in ("tokens", "client_ms", "usd_per_million"):
        if given[name] is not None and not (len(given[name]) == 2 and all(0 <= x < math.inf for x in given[name])):
            raise ParameterError(f"{name} must be two numbers of 0 or more, got {given[name]!r}.")


class _Upstream:
    """What ``arislab serve`` knows of a chat server, and what that one does."""

    def __init__(self) -> None:
        self.limit, self.in_flight, self.mean_s = START, 0, 0.0
        self.held_at, self.closed_until = -math.inf, 0.0
        self.at_work = 0
        self.second, self.n_in_second = -1, 0


class _Line:
    """A request between the gate and its answer."""

    __slots__ = ("asked", "began", "delay_s", "file", "n_failed", "upstream")

    def __init__(self, file: int, began: float) -> None:
        self.file, self.began, self.delay_s, self.n_failed = file, began, BACKOFF_S, 0
        self.asked = 0.0
        self.upstream: _Upstream | None = None


@dataclass
class _Way:
    """The state of the simulation; times are seconds from its start."""

    n: int
    upstreams: list[_Upstream]
    slots: int
    times: tuple[float, float] | None
    limit_per_s: float | None
    refuse_fraction: float
    retry_after_s: float | None
    fail_fraction: float
    server_s: float
    client_s: tuple[float, float]
    chance: random.Random

    def __post_init__(self) -> None:
        self.now = self.cpu_free = self.cpu_s = 0.0
        self.n_calls = self.n_refused = self.n_failed = self.n_twice = self.n_answered = self.n_lost = 0
        self.inside = self.at_work = self.life = self.order = 0
        self.busy_s = self.saturated_s = self.last = self.ended = 0.0
        self.first: float | None = None
        self.answered_at: list[float] = []
        self.is_up = True
        self.events: list[tuple[float, int, int, Any, tuple[Any, ...]]] = []
        self.sizes = [min(LINES, self.n - start) for start in range(0, self.n, LINES)]
        self.fresh = [0] * len(self.sizes)  # lines of each file that nobody has begun
        self.turns: deque[int] = deque()  # files with such lines
        self.again: deque[_Line] = deque()  # lines that come back into the gate
        self.left = list(self.sizes)
        self.ends: list[float | None] = [None] * len(self.sizes)

    @property
    def span_s(self) -> float:
        """Seconds from the first request to the last answer."""
        return (self.answered_at[-1] if self.answered_at else self.now) - (self.first or 0.0)

    def pace(self) -> float:
        """Answers a second between the first quarter of them and the last."""
        n = len(self.answered_at)
        low, high = n // 4, max(n // 4 + 1, 3 * n // 4)
        if n <= high or self.answered_at[high] <= self.answered_at[low]:
            return n / self.ended if self.ended else 0.0
        return (high - low) / (self.answered_at[high] - self.answered_at[low])

    def used(self) -> dict[str, float]:
        """Place to the share of its capacity that was used."""
        seconds, n = self.ended or math.inf, len(self.upstreams)
        shares = {
            "chat servers": self.busy_s / (self.slots * n),
            "arislab serve": self.cpu_s,
            "client": self.n * sum(self.client_s),
        }
        if self.limit_per_s is not None:
            shares["rate limit"] = (self.n_calls - self.n_refused) / (self.limit_per_s * n)
        return {place: min(1.0, share / seconds) for place, share in shares.items()}

    def run(self, crash_after_s: float | None, down_s: float) -> None:
        """Go on until every line has a row."""
        at = 0.0
        for file, size in enumerate(self.sizes):  # one file after the other is written, and sent when it is whole
            at += size * self.client_s[0]
            self._at(at, self._arrive, file, life=0)
        if crash_after_s is not None:
            self._at(crash_after_s, self._crash, down_s, life=0)
        while self.events and any(self.left):
            time, _, life, act, given = heapq.heappop(self.events)
            if life not in (0, self.life + 1):
                continue  # of a server that was killed
            self._account(time)
            act(*given)
        self.ended = self._collected(at)

    def _collected(self, sent: float) -> float:
        """When the client, which looks now and then once all is sent, has fetched and read the last file."""
        now, pause, open_ = sent, POLL_S[0], dict(enumerate(self.ends))
        while open_:
            done = [file for file, end in open_.items() if end is not None and end <= now]
            for file in done:
                del open_[file]
                now += self.sizes[file] * self.client_s[1]
            if open_ and not done:
                now += self.chance.uniform(0.7, 1.0) * pause
                pause = min(POLL_S[1], pause * 1.3)
        return now

    def _at(self, time: float, act: Any, *given: Any, life: int | None = None) -> None:
        """Have something happen; ``life`` 0: also if the server was killed until then."""
        self.order += 1
        heapq.heappush(self.events, (time, self.order, self.life + 1 if life is None else life, act, given))

    def _account(self, time: float) -> None:
        took, self.now = time - self.now, time
        self.busy_s += took * self.at_work
        if self.at_work >= _SATURATED * self.slots * len(self.upstreams):
            self.saturated_s += took

    # -- the gate ------------------------------------------------------------------------------------------------------

    def _arrive(self, file: int) -> None:
        self.fresh[file] = self.sizes[file]
        self.turns.append(file)
        self._admit()

    def _admit(self) -> None:
        """Let lines in: those that come back, then one of each file in turn."""
        width = sum(upstream.limit for upstream in self.upstreams)
        while self.is_up and self.inside < width and (self.again or self.turns):
            self.inside += 1
            if self.again:
                self._seek(self.again.popleft())
                continue
            file = self.turns.popleft()
            self.fresh[file] -= 1
            if self.fresh[file]:
                self.turns.append(file)
            self._seek(_Line(file, self.now))

    def _leave(self) -> None:
        self.inside -= 1
        self._admit()

    def _seek(self, line: _Line) -> None:
        """Take a place of the chat server that has most of them free, or look again later."""
        now = self.now
        free = [u for u in self.upstreams if u.closed_until <= now and u.in_flight < u.limit]
        if not free:
            wait_s = max(min(u.closed_until for u in self.upstreams) - now, 0.05) * self.chance.uniform(1.0, 1.5)
            return self._at(now + wait_s, self._seek, line)
        upstream = free[0] if len(free) == 1 else max(free, key=lambda u: u.limit - u.in_flight)
        upstream.in_flight += 1
        line.upstream, line.asked = upstream, now
        self.cpu_free = max(now, self.cpu_free) + self.server_s
        self.cpu_s += self.server_s
        return self._at(self.cpu_free, self._reach, line, upstream)

    # -- a chat server -------------------------------------------------------------------------------------------------

    def _reach(self, line: _Line, upstream: _Upstream) -> None:
        self.first = self.now if self.first is None else self.first
        self.n_calls += 1
        if self._is_refused(upstream):
            self.n_refused += 1
            return self._refused(line, upstream)
        upstream.at_work += 1
        self.at_work += 1
        took_s = self.chance.lognormvariate(*self.times) if self.times else 0.0
        is_broken = self.fail_fraction > 0 and self.chance.random() < self.fail_fraction
        return self._at(self.now + took_s, self._answered, line, upstream, is_broken)

    def _is_refused(self, upstream: _Upstream) -> bool:
        if self.limit_per_s is not None:
            # a second of its clock has a whole number of places; of a limit below one, some seconds have none
            second = int(self.now)
            places = math.floor((second + 1) * self.limit_per_s) - math.floor(second * self.limit_per_s)
            upstream.n_in_second = upstream.n_in_second if upstream.second == second else 0
            upstream.second = second
            if upstream.n_in_second >= places:
                return True
        if upstream.at_work >= self.slots:
            return True
        if self.refuse_fraction and self.chance.random() < self.refuse_fraction:
            return True
        upstream.n_in_second += 1
        return False

    def _refused(self, line: _Line, upstream: _Upstream) -> None:
        upstream.in_flight -= 1
        if self.now - line.began > PATIENCE_S:
            return self._end(line, is_answer=False)
        if self.retry_after_s or not upstream.in_flight:
            wait_s = self.retry_after_s or line.delay_s * self.chance.uniform(0.5, 1.5)
            upstream.closed_until = max(upstream.closed_until, self.now + wait_s)
        upstream.limit, upstream.held_at = max(1, min(upstream.limit, upstream.in_flight)), self.now
        line.delay_s = min(30.0, line.delay_s * 2)
        return self._seek(line)

    def _answered(self, line: _Line, upstream: _Upstream, is_broken: bool) -> None:  # noqa: FBT001  # of an event
        upstream.at_work -= 1
        self.at_work -= 1
        upstream.in_flight -= 1
        if not is_broken:
            self._adapt(upstream, self.now - line.asked)
            return self._end(line, is_answer=True)
        self.n_failed += 1
        line.n_failed += 1
        if line.n_failed >= ATTEMPTS or self.now - line.began > PATIENCE_S:
            return self._end(line, is_answer=False)
        wait_s, line.delay_s = line.delay_s * self.chance.uniform(0.5, 1.5), min(30.0, line.delay_s * 2)
        self._at(self.now + wait_s, self._come_back, line)
        return self._leave()

    def _come_back(self, line: _Line) -> None:
        self.again.append(line)
        self._admit()

    def _adapt(self, upstream: _Upstream, took_s: float) -> None:
        upstream.mean_s += (took_s - upstream.mean_s) / (upstream.in_flight + 1)
        if upstream.in_flight > BUSY_PER_S * upstream.mean_s:
            upstream.limit -= upstream.limit > START
        elif (
            upstream.in_flight + 1 >= upstream.limit / 2
            and upstream.mean_s < TIMEOUT_S / 2
            and self.now - upstream.held_at > HOLD_S
        ):
            upstream.limit = min(CEILING, upstream.limit + GROWTH)

    def _end(self, line: _Line, *, is_answer: bool) -> None:
        self.n_answered += is_answer
        self.n_lost += not is_answer
        self.answered_at.append(self.now)
        self.left[line.file] -= 1
        if not self.left[line.file]:
            self.ends[line.file] = self.now
        self._leave()

    # -- a crash -------------------------------------------------------------------------------------------------------

    def _crash(self, down_s: float) -> None:
        """All that has no answer is to be asked again; what was being answered is paid for."""
        self.n_twice += self.at_work
        self.life, self.is_up, self.inside, self.at_work = self.life + 1, False, 0, 0
        self.upstreams = [_Upstream() for _ in self.upstreams]
        self.again.clear()
        self._at(self.now + down_s, self._start, life=0)

    def _start(self) -> None:
        self.is_up, self.cpu_free = True, self.now
        here = [file for file, left in enumerate(self.left) if left and (self.fresh[file] or left < self.sizes[file])]
        self.fresh = [self.left[file] if file in here else 0 for file in range(len(self.left))]
        self.turns = deque(file for file in here)
        self._admit()
