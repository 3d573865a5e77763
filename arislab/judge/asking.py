"""What there is to judge: each answer to each question once, by each criterion and both ways round.

Answers are known by their texts: two rows that say the same to the same question are judged once, and a text that a
reviewer changed has not been judged.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from arislab import task as tasks
from arislab.batch import protocol
from arislab.curate.curated import messages_of
from arislab.curate.subsets import stable_hash
from arislab.errors import ParameterError, TaskError
from arislab.judge import prompts
from arislab.task import Task

WINS = tasks.WINS
"""Stands for a criterion where two answers are compared."""
_REACH = 2
"""Of many answers to one question each is compared with this many on either side of it, in a shuffled round."""
_ITEM = {
    **dict.fromkeys(("candidate_id", "profile", "custom_id", "other_id", "criterion", "rubric_version"), pl.String),
    "swapped": pl.Boolean,
    **dict.fromkeys(("asked_sha256", "shown_sha256", "other_sha256"), pl.String),
}


def outputs(rows: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return what a judge reads of each output.

    Args:
        rows: From ``scoring.rows``: custom_id, candidate_id, output (null: left out), input, messages (null: written
            by the task, about the row's own question).
        candidates: Rows of ``candidates`` behind them, each of them.
        task: Writes messages.

    Returns:
        One row per output with a text: custom_id, candidate_id, question (all messages that it answers), answer,
        asked_sha256 and shown_sha256, their digests.
    """
    told = rows.filter(pl.col("output").is_not_null())
    behind = candidates.join(told, on="candidate_id", how="semi").iter_rows(named=True)
    people = {row["candidate_id"]: tasks.candidate_of(row) for row in behind}
    texts = [
        _conversation(messages_of(row, people[row["candidate_id"]], task))
        for row in told.select("candidate_id", "input", "messages").iter_rows(named=True)
    ]
    own = told.select("custom_id", "candidate_id", question=pl.Series(texts, dtype=pl.String), answer="output")
    digests = {
        name: pl.Series([_digest(text) for text in own[name]], dtype=pl.String) for name in ("question", "answer")
    }
    return own.with_columns(asked_sha256=digests["question"], shown_sha256=digests["answer"])


def draw(outputs: pl.DataFrame, *, n: int, seed: int) -> pl.DataFrame:
    """Return all outputs of some questions, drawn at random, until there are n; 0: all.

    Args:
        outputs: From ``outputs``.
        n: Rows wanted, at least 0; the answers to one question stay together, so it may be a few more.
        seed: Of the draw, a stable hash of the question.

    Raises:
        ParameterError: n is below 0, or there is nothing to draw.
    """
    if n < 0:
        raise ParameterError(f"n_outputs must be at least 0, got {n}; 200 judges two hundred, 0 all of them.")
    if not outputs.height:
        raise ParameterError(
            "there is no output to judge; run 1_generate, or import outputs (arislab import FILE --as outputs)."
        )
    shuffled = outputs.with_columns(_place=stable_hash(outputs["asked_sha256"], seed)).sort("_place", "custom_id")
    numbered = shuffled.drop("_place").with_row_index("_before")
    taken = numbered if n == 0 else numbered.filter(pl.col("_before").first().over("asked_sha256") < n)
    return taken.drop("_before")


def items(outputs: pl.DataFrame, task: Task, *, pairs: bool = False) -> pl.DataFrame:
    """Return what to ask a judge: each answer by each criterion of the task's RUBRIC, with the scale both ways.

    Args:
        outputs: From ``outputs``; rows that say the same to the same question are one.
        task: Its RUBRIC.
        pairs: Compare the answers to one question too, each pair in both orders; of more than five answers each meets
            four others.

    Returns:
        One row per item, as ``batch.build_requests`` takes candidates: candidate_id (of the item), profile (JSON, see
        ``prompts.messages``); custom_id (of the output shown first), other_id (shown second; null: none), criterion
        (``WINS`` where two are compared), rubric_version (of prompt and criterion), swapped, asked_sha256,
        shown_sha256, other_sha256.

    Raises:
        TaskError: The task has no RUBRIC.
        ParameterError: Pairs are wanted, and no question has two answers.
    """
    if not task.rubric:
        raise TaskError(
            f"task file {task.path.name} has no RUBRIC; add one, a dict of name: what a good answer does, such as "
            'RUBRIC = {"helpful": "The answer does what was asked."}.'
        )
    texts = outputs.unique(["asked_sha256", "shown_sha256"], keep="first", maintain_order=True)
    rows = [*_alone(texts, task.rubric), *(_pairs(texts, task.rubric) if pairs else ())]
    if pairs and rows[-1][4] != WINS:
        raise ParameterError(
            "no question has two different answers to compare; run 1_generate with samples above 1, or leave pairs off."
        )
    return pl.DataFrame(rows, schema=_ITEM, orient="row")  # one row per item


def _alone(texts: pl.DataFrame, rubric: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    versions = {name: prompts.version([text], is_pair=False) for name, text in rubric.items()}
    for row in texts.iter_rows(named=True):
        for name, text in rubric.items():
            shown = {"question": row["question"], "answer": row["answer"], "criteria": [text]}
            for swapped in (False, True):
                yield _item(row, None, shown | {"swapped": swapped}, criterion=name, version=versions[name])


def _pairs(texts: pl.DataFrame, rubric: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    criteria = list(rubric.values())
    version = prompts.version(criteria, is_pair=True)
    for _, answers in texts.group_by("asked_sha256", maintain_order=True):
        ring = answers.sort("shown_sha256").to_dicts()  # a digest is as good as a shuffle
        for one, other in _met(len(ring)):
            for swapped, first, second in ((False, ring[one], ring[other]), (True, ring[other], ring[one])):
                shown = {"question": first["question"], "answer": first["answer"], "other": second["answer"]}
                shown |= {"criteria": criteria, "swapped": swapped}
                yield _item(first, second, shown, criterion=WINS, version=version)


def _met(n: int) -> list[tuple[int, int]]:
    """Which of n in a round meet: all, or each the next two."""
    near = {tuple(sorted((i, (i + step) % n))) for i in range(n) for step in range(1, _REACH + 1) if step % n}
    return sorted((one, other) for one, other in near)


def _item(
    row: dict[str, Any], other: dict[str, Any] | None, shown: dict[str, Any], *, criterion: str, version: str
) -> tuple[Any, ...]:
    digests = (row["asked_sha256"], row["shown_sha256"], other and other["shown_sha256"])
    name = _digest(json.dumps([version, shown["swapped"], *digests]))
    profile = json.dumps(shown, ensure_ascii=True, sort_keys=True)
    is_swapped = shown["swapped"]
    return (name, profile, row["custom_id"], other and other["custom_id"], criterion, version, is_swapped, *digests)


def _conversation(messages: list[dict[str, Any]]) -> str:
    """All messages as one text; of one message its text alone."""
    texts = [protocol.text(message.get("content")) or "" for message in messages]
    if len(messages) == 1:
        return texts[0]
    return "\n\n".join(f"[{message.get('role')}]\n{text}" for message, text in zip(messages, texts, strict=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
