"""What a judge said, read strictly: one number, or nothing and why.

Where the server told how likely each number was, the score is their mean; a judge that wavers between 3 and 4 says so.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from arislab.batch import ANSWERED, OUTCOMES, Recorded, canonical
from arislab.judge.asking import WINS
from arislab.judge.prompts import STEPS
from arislab.task import Task, in_short

VALUES: dict[bool, dict[str, float]] = {
    False: {str(i + 1): i / (len(STEPS) - 1) for i in range(len(STEPS))},
    True: {"1": 1.0, "2": 0.0, "3": 0.5},
}
"""What each number is worth, 0..1; of two answers (true), for the one that is shown first."""
_MOST = 0.5
"""Chance of all numbers together below which the token is none at which one was wanted."""
_KEPT = (
    "status", "llm_output", "error", "finish_reason", "prompt_tokens", "completion_tokens", "first_token_logprobs",
    "request_sha256", "stem", "model_returned", "attempt", "batch_id",
)  # fmt: skip


def asked(table: Any, items: pl.DataFrame, requests: pl.DataFrame, *, task: Task) -> Recorded:
    """Return what a judge was asked before, in the form in which ``batch`` takes it; what is added is written.

    Args:
        table: ``lake["judgements"]``.
        items: From ``items``: what is asked now.
        requests: From ``requests``, of these: model and body.
        task: Whose answers are judged.
    """
    model, body = requests["model"][0], json.loads(requests["body"][0])
    sent = {name: value for name, value in body.items() if name not in ("model", "messages", "seed")}
    how = canonical(sent | {"roles": [message["role"] for message in body["messages"]]})
    names = ["request_id" if name == "custom_id" else name for name in OUTCOMES]
    frame = table.read(columns=names, where={"judge": model}).rename({"request_id": "custom_id"})
    return Recorded(frame, write=lambda rows: table.upsert(judgements(rows, items, task=task, how=how)))


def judgements(answers: pl.DataFrame, items: pl.DataFrame, *, task: Task, how: str) -> pl.DataFrame:
    """Return rows of ``judgements``: each answer of a judge with its score, or the reason why it has none.

    Args:
        answers: From ``batch.Job.collect``: candidate_id (of the item), custom_id, model, status, llm_output,
            first_token_logprobs and the others of an outcome.
        items: From ``items``.
        task: Whose answers were judged.
        how: In which way, in canonical JSON.

    Returns:
        One row per answer: request_id, the columns of ``items`` but the profile, judge, params, score (Float64, 0..1;
        of two answers the chance that the one shown first is better; null: it said none), reason (null: it has a
        score), and the outcome.
    """
    of_item = items.select(pl.exclude("profile"))
    rows = answers.select("candidate_id", "model", *_KEPT, request_id="custom_id")
    rows = rows.join(of_item, on="candidate_id", how="left", maintain_order="left").drop("candidate_id")
    read = [
        _score(row, VALUES[row["criterion"] == WINS])
        for row in rows.select("status", "llm_output", "first_token_logprobs", "criterion").iter_rows(named=True)
    ]
    scores, reasons = [score for score, _ in read], [reason for _, reason in read]
    return rows.rename({"model": "judge"}).with_columns(
        pl.Series("score", scores, dtype=pl.Float64),
        pl.Series("reason", reasons, dtype=pl.String),
        task=pl.lit(task.name),
        params=pl.lit(how),
    )  # one row per answer


def worth_sending(requests: pl.DataFrame, said: pl.DataFrame, *, most: float) -> tuple[pl.DataFrame, str]:
    """Return what to send after some were answered: all, or none of the others if the judge says no numbers.

    Args:
        requests: From ``requests``: custom_id.
        said: Rows of ``judgements``: request_id, status, score, reason. Where no answer came, nothing is said of the
            judge.
        most: Share of the answers that may have no score, 0..1.

    Returns:
        All requests, or those that stand in ``said``; and what was said there, in words.
    """
    known = said.join(requests.select(request_id="custom_id"), on="request_id", how="semi")
    told = known.filter(pl.col("status").is_in(ANSWERED))
    unread = told.filter(pl.col("score").is_null())
    share = unread.height / max(told.height, 1)
    if not unread.height:
        return requests, f"all {told.height:,} answers so far have a score"
    why, n = unread["reason"].value_counts(sort=True).sort("count", "reason", descending=[True, False]).row(0)
    words = f"{unread.height:,} of {told.height:,} answers so far have no score, most often ({n:,}): {why}"
    if share <= most:
        return requests, words
    stopped = (
        f"{words}. That is more than max_unread ({most:g}): the other {requests.height - known.height:,} are not sent; "
        "raise max_tokens if the judge thinks aloud, or name another judge (model, base_url)"
    )
    return requests.join(known, left_on="custom_id", right_on="request_id", how="semi", maintain_order="left"), stopped


def _score(row: Mapping[str, Any], values: Mapping[str, float]) -> tuple[float | None, str | None]:
    """What an answer is worth, and the reason where it says nothing."""
    if row["status"] != "ok":
        why = "the judge gave no answer" if row["status"] not in ANSWERED else "the judge's answer is not whole"
        return None, f"{why}: {row['status']}"
    text = re.sub(r"\s+", " ", row["llm_output"]).strip()
    if text not in values:
        return None, f"the judge said {in_short(text, 80)}, which is none of {', '.join(values)}"
    chances: dict[str, float] = {}
    for token, logprob in json.loads(row["first_token_logprobs"] or "{}").items():
        if (number := token.strip()) in values:  # " 4" and "4" are one
            chances[number] = chances.get(number, 0.0) + math.exp(logprob)
    total = sum(chances.values())
    if text not in chances or total < _MOST:  # of another token than the number
        return values[text], None
    return round(sum(values[number] * chance for number, chance in chances.items()) / total, 9), None
