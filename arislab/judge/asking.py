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
from arislab.batch import build_requests, protocol
from arislab.curate.curated import messages_of
from arislab.curate.subsets import stable_hash
from arislab.errors import ParameterError, TaskError
from arislab.judge import prompts
from arislab.task import Task

WINS = tasks.WINS
"""Stands for a criterion where two answers are compared."""
_REACH = 2
"""Of many answers to one question each is compared with this many on either side of it, in a shuffled round."""
_PART = 5_000
_ITEM = {
    **dict.fromkeys(("candidate_id", "profile", "custom_id", "other_id", "criterion", "rubric_version"), pl.String),
    "swapped": pl.Boolean,
    **dict.fromkeys(("asked_sha256", "shown_sha256", "other_sha256"), pl.String),
}


def outputs(rows: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return what a judge reads of each output.

    Args:
        rows: From ``scoring.rows``: custom_id, candidate_id, output (null: left out), input, messages (null: written
            by the task, about the row's own question), tools if present.
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
        _conversation(messages_of(row, people[row["candidate_id"]], task), row.get("tools"))
        for row in told.select("candidate_id", "input", "messages", pl.col("^tools$")).iter_rows(named=True)
    ]
    answers = [_whole(text) for text in told["output"]]
    own = told.select("custom_id", "candidate_id").with_columns(
        question=pl.Series(texts, dtype=pl.String), answer=pl.Series(answers, dtype=pl.String)
    )
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
    frames = [_frame(_alone(part, task.rubric)) for part in texts.iter_slices(_PART)]  # few as Python objects at once
    compared = _frame(_pairs(texts, task.rubric)) if pairs else None
    if compared is not None and not compared.height:
        raise ParameterError(
            "no question has two different answers to compare; run 1_generate with samples above 1, or leave pairs off."
        )
    return pl.concat(frames if compared is None else [*frames, compared])  # one row per item


def requests(items: pl.DataFrame, **how: Any) -> pl.DataFrame:
    """Return the requests about items, as ``batch.build_requests`` writes them, without the texts that bodies hold too.

    Args:
        items: From ``items``.
        how: As in ``batch.build_requests``: model, temperature, max_tokens and others.
    """
    parts = (build_requests(part, prompts.messages, **how) for part in items.iter_slices(_PART))
    return pl.concat([part.with_columns(input=pl.lit(""), messages=pl.lit("[]")) for part in parts])


def _frame(rows: Iterator[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=_ITEM, orient="row")


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


def _conversation(messages: list[dict[str, Any]], tools: str | None) -> str:
    """All that an answer answers as one text: tools that were offered, messages with their calls, what is no text."""
    texts = [_text(message) for message in messages]
    if len(messages) > 1:
        texts = [f"[{message.get('role')}]\n{text}" for message, text in zip(messages, texts, strict=True)]
    return _whole("\n\n".join([f"[tools]\n{tools}", *texts] if tools else texts))


def _text(message: dict[str, Any]) -> str:
    """The text of a message; of a picture and its like, which a judge is not shown, the name of its digest."""
    content, calls = message.get("content"), message.get("tool_calls")
    parts = content if isinstance(content, list) else [content or ""]
    texts = [
        protocol.text([part]) or f"[{dict(part).get('type')} {_digest(protocol.canonical(part))[:12]}]"
        if isinstance(part, dict)
        else str(part)
        for part in parts
    ]
    return "\n".join([*texts, protocol.canonical(calls)] if calls else texts)


def _whole(text: str) -> str:
    """A text that can be stored: half a character is none."""
    return text.encode("utf-8", "replace").decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
