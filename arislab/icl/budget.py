"""What a search will ask and cost, and what of it is paid for already."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import polars as pl

from arislab import batch
from arislab.batch import protocol
from arislab.errors import ParameterError
from arislab.icl import rounds as search_rounds
from arislab.task import Task

_PAID = (*batch.ANSWERED, "overflow")  # an answer came, or never can
_LEAST_CELLS = 64  # of a round that tells a rate
_LIKE = 500  # recorded requests whose tokens a character are counted
FACTS = ["status", "quality", "tokens"]
SEARCHED = [
    "search_id", "set_id", "candidate_id", "custom_id", "scorer_version", "round", *FACTS, "asked_at", "created_at",
]  # fmt: skip
"""Columns of ``icl_cells`` that tell what is paid for, and at which rate it was asked."""


def plan(k: int | Sequence[int], *, budget: int, n_validation: int) -> pl.DataFrame:
    """Return what a search will ask: the plans of all k (see ``rounds.plan``), which share the budget equally.

    Args:
        k: Examples a set; one number, or several.
        budget: Most requests in all.
        n_validation: Rows for the search.

    Returns:
        One row per k and round: the columns of ``rounds.plan``, and k.

    Raises:
        ParameterError: No k at all, or a budget too small for as many.
    """
    sizes = sorted({k} if isinstance(k, int) else set(k))
    if not sizes:
        raise ParameterError("k is an empty list; give the number of examples a set, or several.")
    each = search_rounds.plan(budget=budget // len(sizes), n_validation=n_validation)
    return pl.concat([each.with_columns(k=pl.lit(size, dtype=pl.Int64)) for size in sizes])


def paid(wanted: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Return the cells of all searches whose request and scorer version are wanted, and that have their answer.

    Args:
        wanted: custom_id and scorer_version, from ``icl.requested``.
        cells: Rows of ``icl_cells``: search_id, set_id, candidate_id, custom_id, scorer_version, status, quality,
            tokens.

    Returns:
        One row per custom_id: search_id, set_id, candidate_id, custom_id, status, quality, tokens; of the same search
        where it has one.
    """
    columns = ["search_id", "set_id", "candidate_id", "custom_id", "scorer_version", *FACTS]
    rows = cells.filter(pl.col("status").is_in(_PAID)).select(columns)
    rows = rows.join(wanted, on=["custom_id", "scorer_version"], how="semi")
    mine = wanted.select("search_id", "set_id", "candidate_id", is_own=pl.lit(value=True))
    rows = rows.join(mine.unique(), on=["search_id", "set_id", "candidate_id"], how="left")
    order = [pl.col("is_own").fill_null(value=False), "search_id", "set_id", "candidate_id"]
    rows = rows.sort(order, descending=[True, False, False, False])
    return rows.unique("custom_id", keep="first", maintain_order=True).drop("scorer_version", "is_own")


@dataclass(frozen=True, repr=False)
class Cost:
    """What a search and its report will take at most; an unknown is None, never guessed."""

    n_search: int
    """Requests of the search."""
    n_rounds: int
    """Batches of the search, one after the other."""
    n_report: int
    """Requests of the report, one more batch."""
    prompt_tokens: float | None
    completion_tokens: float | None
    seconds: float | None
    usd: float | None
    how: tuple[str, str, str]
    """Where tokens, time and money come from, or why they are unknown."""

    def __repr__(self) -> str:
        tokens, time, money = self.how
        n = self.n_search + self.n_report
        lines = [
            f"at most {n:,} requests: {self.n_search:,} to search, in {self.n_rounds} batches, and {self.n_report:,} "
            "to report; what any search has paid for is not asked again"
        ]
        if self.prompt_tokens is None or self.completion_tokens is None:
            lines.append(f"tokens: unknown ({tokens})")
        else:
            lines.append(
                f"tokens: about {self.prompt_tokens / 1e6:,.2f} million of prompts and "
                f"{self.completion_tokens / 1e6:,.2f} million of answers ({tokens})"
            )
        lines.append(
            f"time: unknown ({time})"
            if self.seconds is None
            else f"time: about {self.seconds / 60:,.1f} minutes ({time})"
        )
        lines.append(f"money: unknown ({money})" if self.usd is None else f"money: about {self.usd:,.2f} USD ({money})")
        return "\n".join(lines)


def cost(
    plans: pl.DataFrame,
    drawn: pl.DataFrame,
    *,
    n_report: int,
    raw: pl.DataFrame | pl.LazyFrame,
    cells: pl.DataFrame,
    task: Task,
    usd_per_million: tuple[float, float] | None = None,
) -> Cost:
    """Say what a search and its report will take, from what is recorded; nothing is asked.

    Prompt tokens: the characters of drawn prompts, times the tokens a character that this model's recorded prompts had.
    Answer tokens: the mean of its recorded answers. Time: the rate of the newest search of this model. Embeddings are
    not counted.

    Args:
        plans: From ``plan``.
        drawn: A few requests of the search: messages (JSON) and model.
        n_report: Requests of the report.
        raw: Rows of ``training_data_raw``: custom_id, task, model, messages, prompt_tokens, completion_tokens. Of a
            LazyFrame only a few hundred messages are read.
        cells: Rows of ``icl_cells``: search_id, round, custom_id, asked_at, created_at.
        task: Whose requests count.
        usd_per_million: Price of a million prompt and of a million answer tokens; None: unknown.
    """
    model = drawn["model"][0]
    n_search = int(plans["n_requests"].sum())
    n = n_search + n_report
    rows = raw.lazy()
    mine = rows.filter(pl.col("task") == task.name, pl.col("model") == model)
    tokens = mine.select("custom_id", "prompt_tokens", "completion_tokens").drop_nulls().collect()
    prompt = completion = usd = None
    how = f"no prompt and answer of {model} are recorded"
    some = tokens.sort("custom_id").head(_LIKE)  # digests: a random sample
    # by their names, not by a join, and nulls dropped only then: so polars filters while it reads a file, and never
    # holds the texts of all other rows
    chosen = rows.filter(pl.col("custom_id").is_in(some["custom_id"].implode()))
    texts = chosen.select("custom_id", "messages").collect().drop_nulls()
    if texts.height:
        sample = some.join(texts, on="custom_id")
        per_character = float(sample["prompt_tokens"].sum()) / max(1, sum(_characters(sample["messages"])))
        prompt = n * per_character * fmean(_characters(drawn["messages"]))
        completion = n * float(tokens["completion_tokens"].sum()) / tokens.height
        how = (
            f"{drawn.height} drawn prompts at {per_character:.3f} tokens a character, as in {sample.height:,} recorded "
            f"requests of {model}; the mean of {tokens.height:,} recorded answers"
        )
    rate, source = rate_of(cells.join(tokens, on="custom_id", how="semi"))
    money = f"no price of {model} in data/prices.toml"
    if usd_per_million is not None:
        money = f"{usd_per_million[0]:g} and {usd_per_million[1]:g} USD a million tokens"
        if prompt is None or completion is None:
            money += ", for an unknown number"
        else:
            usd = (prompt * usd_per_million[0] + completion * usd_per_million[1]) / 1e6
    seconds = n / rate if rate else None
    n_rounds = plans["round"].n_unique()
    return Cost(n_search, n_rounds, n_report, prompt, completion, seconds, usd, (how, source, money))


def rate_of(cells: pl.DataFrame) -> tuple[float | None, str]:
    """Return requests a second in the newest search that tells, and which one that is.

    Args:
        cells: Rows of ``icl_cells``: search_id, round, custom_id, asked_at, created_at (when the answers were written).
    """
    rounds = (
        cells.drop_nulls("asked_at")
        .group_by("search_id", "round")
        .agg(
            n=pl.col("custom_id").n_unique(),
            began=pl.col("asked_at").min(),
            seconds=(pl.col("created_at").max() - pl.col("asked_at").min()).dt.total_milliseconds() / 1000,
        )
        .filter(pl.col("n") >= _LEAST_CELLS, pl.col("seconds") > 0)
    )
    if not rounds.height:
        return None, "no search of this model has a recorded rate"
    newest = rounds.sort("began")["search_id"][-1]
    own = rounds.filter(pl.col("search_id") == newest)
    rate = float(own["n"].sum()) / float(own["seconds"].sum())
    return rate, f"{rate:.1f} requests a second in {newest}"


def _characters(messages: pl.Series) -> list[int]:
    """Return how many characters each conversation has: its texts without their JSON, and calls of tools as JSON."""
    return [sum(len(_message_text(m)) for m in json.loads(text)) for text in messages]


def _message_text(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    return (protocol.text(message.get("content")) or "") + (json.dumps(calls) if calls else "")
