"""How a batch of rows is decoded: each row draws from a random stream of its own, and leaves the batch when it ends.

The layers that compute the logits are somebody else's: ``llama.Llama``, or any model of ``causal.CausalLM``. Call it
under ``torch.inference_mode()``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

MASKED = -1e9  # not -inf: padding that sees only padding would be NaN, and NaN times a weight of 0 is NaN
KEY_VALUE_BYTES = 512 * 2**20
"""Room for keys and values of a batch; rows that outgrow it are put off."""
GROWTH = 32
"""Tokens for which room is made at once."""


@dataclass
class Row:
    """One prompt and what is being written to it."""

    prompt: list[int]
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    limit: int
    """Tokens to write at most."""
    seed: int
    stop: tuple[str, ...] = ()
    """Texts that end the answer; none is empty."""
    written: list[int] = field(default_factory=list)
    ended: bool = False
    """The model wrote an end token, which is not in ``written``."""
    stopped: bool = False
    """The model wrote one of ``stop``."""
    logprobs: list[float] | None = None
    """Log-probability of each token of ``written``, before temperature and top_p; null: nobody asked."""
    n_top: int = 0
    """How many of the likeliest tokens are kept for each token of ``written``."""
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    """Those, the likeliest first, with their log-probabilities."""


class Batch(Protocol):
    """Rows whose prompts were read."""

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone, by their places."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Write one token to each row, and return the logits [rows, vocabulary] of the next.

        They hold until the next step, which may write its own over them.
        """


class Layers(Protocol):
    """A model: it reads prompts."""

    @property
    def about(self) -> str:
        """Who computes the layers, for the log."""

    @property
    def context(self) -> int:
        """Tokens that it can hold."""

    @property
    def shares_prefix(self) -> bool:
        """Whether a common prefix can be read once for all rows."""

    @property
    def most_rows(self) -> int:
        """Rows of a batch, at most."""

    def bytes_of(self, n_tokens: int, n_prefix: int) -> int:
        """Return the memory of a row's keys and values, behind a common prefix."""

    def prefill(self, tokens: list[int]) -> Any:
        """Return what is kept of a common prefix; None for an empty one."""

    def start(
        self, tokens: torch.Tensor, padding: torch.Tensor, prefix: Any, n_prefix: int
    ) -> tuple[Batch, torch.Tensor]:
        """Read the prompts of a batch behind a prefix; return it, and the logits [rows, vocabulary] after each.

        Args:
            tokens: [rows, n], padded on the left.
            padding: [rows, n], ``MASKED`` where there is no token and 0 elsewhere.
            prefix: As from ``prefill``.
            n_prefix: Its tokens.
        """


def decode(
    model: Layers,
    rows: list[Row],
    prefix: Any,
    n_prefix: int,
    ends: frozenset[int],
    *,
    is_stopped: Callable[[Row], bool],
    done: Callable[[Row], None],
) -> list[Row]:
    """Write all rows of a batch; their prompts begin with the ``n_prefix`` tokens of ``prefix``.

    Args:
        model: That writes.
        rows: Also those that were put off before.
        prefix: As from ``model.prefill``.
        n_prefix: Its tokens.
        ends: Tokens that end an answer.
        is_stopped: Whether a row has written one of its ``stop``; asked after each token of rows that have some.
        done: Called for each row when nothing will be written to it any more.

    Returns:
        Rows that were put off, because the keys and values of all did not fit.
    """
    before = [len(row.written) for row in rows]
    steps = max(row.limit - n for row, n in zip(rows, before, strict=True))
    # all of a row's luck at once and from its own seed: which rows stand beside it, or have ended, changes nothing
    noise = torch.stack(
        [
            torch.rand(n + steps, generator=torch.Generator().manual_seed(row.seed))[n:]
            for row, n in zip(rows, before, strict=True)
        ]
    )
    tails = [(row.prompt + row.written)[n_prefix:] for row in rows]
    longest = max(map(len, tails))  # padded on the left: all rows write their next token into the same slot
    tokens, padding = torch.zeros((len(rows), longest), dtype=torch.long), torch.zeros(len(rows), longest)
    for i, tail in enumerate(tails):
        tokens[i, longest - len(tail) :] = torch.tensor(tail)
        padding[i, : longest - len(tail)] = MASKED
    put_off: list[Row] = []
    batch, logits = model.start(tokens, padding, prefix, n_prefix)
    settings = torch.tensor([[r.temperature, r.top_p] for r in rows])
    for step in range(steps):
        drawn = draw(logits, settings[:, 0], settings[:, 1], noise[:, step])
        known, tops = logprobs_of(logits, drawn, rows)
        live = []
        for i, (row, token, logprob) in enumerate(zip(rows, drawn.tolist(), known, strict=True)):
            row.ended = token in ends
            if not row.ended:
                row.written.append(token)
                if row.logprobs is not None:
                    row.logprobs.append(logprob)
                    if row.n_top:
                        row.tops.append(tops[i][: row.n_top])
                row.stopped = bool(row.stop) and is_stopped(row)
            if row.ended or row.stopped or len(row.written) == row.limit:
                done(row)
            else:
                live.append(i)
        if step and step % GROWTH == 0:
            fit = max(1, KEY_VALUE_BYTES // model.bytes_of(longest + step + GROWTH, n_prefix))
            put_off += [rows[i] for i in live[fit:]]
            live = live[:fit]
        if not live:
            break
        if len(live) < len(rows):
            rows, keep = [rows[i] for i in live], torch.tensor(live)
            drawn, noise, settings = drawn[keep], noise[keep], settings[keep]
            batch.keep(keep)
        del logits  # not two of them at once: the vocabulary may be large
        logits = batch.step(drawn)  # noqa: F841 (the next round reads it)
    return put_off


def logprobs_of(
    logits: torch.Tensor, drawn: torch.Tensor, rows: list[Row]
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Return for each row the log-probability of the token that was drawn, and the likeliest tokens with theirs.

    Where no row asked for them, they are 0 and none.
    """
    if all(row.logprobs is None for row in rows):
        return [0.0] * len(rows), [[]] * len(rows)
    every = logits.log_softmax(-1)
    known: list[float] = every.gather(1, drawn[:, None]).squeeze(1).tolist()
    n_top = min(max(row.n_top for row in rows), every.shape[-1])
    values, tokens = every.topk(n_top)  # none: rows of nothing
    tops = [list(zip(*pair, strict=True)) for pair in zip(tokens.tolist(), values.tolist(), strict=True)]
    return known, tops


def draw(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Choose one token a row; ``temperature``, ``top_p`` and ``noise`` (uniform in 0..1) hold one number a row."""
    drawn = logits.argmax(-1)
    sampled = (temperature > 0).nonzero().squeeze(1)
    if len(sampled):
        chances = (logits[sampled] / temperature[sampled, None].clamp(min=1e-4)).softmax(-1)
        drawn[sampled] = inverse_cdf(chances, noise[sampled])
        nucleus = (top_p[sampled] < 1).nonzero().squeeze(1)
        if len(nucleus):
            ranked, order = chances[nucleus].sort(descending=True, stable=True)
            before = ranked.cumsum(-1) - ranked  # the token that passes top_p belongs to the nucleus
            outside = before >= top_p[sampled][nucleus, None]
            outside[:, 0] = False  # the likeliest token stays, whatever top_p
            ranked = ranked.masked_fill(outside, 0.0)
            place = inverse_cdf(ranked, noise[sampled][nucleus])
            drawn[sampled[nucleus]] = order.gather(1, place[:, None]).squeeze(1)
    return drawn


def inverse_cdf(chances: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the token at which the cumulated chance passes ``noise``."""
    cumulated = chances.cumsum(-1)
    total = cumulated[:, -1:]
    place = torch.searchsorted(cumulated, noise[:, None] * total, right=True).squeeze(1)
    return place.minimum((cumulated < total).sum(-1))  # rounding must not reach past the last possible token
