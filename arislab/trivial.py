"""Answers that cost nothing: what a model must beat before a gain over its own baseline means anything.

A scorer that rewards words of the question pays for copying it, and a model that learns to copy looks like progress.
Whoever stands below one of these arms shows nothing that a line of code does not.

- echo: the question as it is asked.
- bare echo: the question without the frame that all questions share (what they begin and end with).
- empty: nothing.
- most frequent: one answer for everybody, the one that most examples have.
- nearest: of the example whose question has most words in common (BM25), its answer.

This module knows neither models nor arms of an evaluation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from arislab import bm25, scoring, workers
from arislab.curate.subsets import stable_hash
from arislab.errors import TaskError
from arislab.system.equals import places
from arislab.system.kinds import takes_any_frame
from arislab.task import Task

WEAK = 0.5
"""Mean quality above which an answer that costs nothing says that the scorers are weak."""
ARMS = ("echo", "bare echo", "empty", "most frequent", "nearest")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("arm", "candidate_id"), pl.String), "sample": pl.Int32,
    **dict.fromkeys(("custom_id", "model", "status", "error", "output"), pl.String),
    "quality": pl.Float64, **dict.fromkeys(("tokens", "prompt_tokens", "completion_tokens"), pl.Int64),
    "latency_s": pl.Float64,
}  # fmt: skip
"""Columns of ``scores``, in their order."""
_ANSWERED = ("output", "tool_calls", "finish_reason", "quality", "schema_error", "repaired", "edited")
"""What a recorded answer brings, and an answer without a model does not have."""


@takes_any_frame
def scores(
    questions: pl.DataFrame,
    candidates: pl.DataFrame,
    task: Task,
    *,
    examples: pl.DataFrame,
    report: bool = False,
    n: int | None = None,
) -> pl.DataFrame:
    """Answer questions without a model, and score the answers as those of a model are.

    Args:
        questions: Requests, or rows of ``training_data_raw``: custom_id, candidate_id, input, and what else scorers may
            ask for. Each question about a candidate counts once, and none whose input is null.
        candidates: Rows of ``candidates`` behind them.
        task: Its scorers judge.
        examples: Rows of ``training_data_curated`` whose answers are given: id, candidate_id, input, output and
            quality_score. The nearest is never of the candidate's own group, as far as ``candidates`` know it; without
            any, the arms most frequent and nearest are left out.
        report: Judge by the REPORT scorers as well, which is for phase 5 alone.
        n: Most questions, drawn by a stable hash of custom_id; null: all.

    Returns:
        One row per arm and question: arm, candidate_id, sample (0), custom_id (the arm's own), model (null), status
        (ok), output, error (null; why a scorer that failed on this arm could not judge it), quality (null: unscored),
        tokens, prompt_tokens and completion_tokens (0), latency_s (null), and score_<scorer>; with ``report`` also
        report and report_<scorer>. An arm that says the same as an earlier one to all is left out.
    """
    # which rows, by narrow columns: a table without copies of its texts
    once = questions.select("custom_id", "candidate_id", "input", _question=pl.col("input").hash())
    once = once.with_row_index("_row").drop_nulls("input").drop("input")
    once = once.unique(["candidate_id", "_question"], keep="first", maintain_order=True)
    if n is not None and once.height > n:
        once = once.with_columns(_tie=stable_hash(once["custom_id"], 0)).bottom_k(n, by="_tie").sort("_tie")
    asked = questions[once["_row"]].drop(_ANSWERED, strict=False)
    if not asked.height:  # nobody knows what was asked
        return pl.DataFrame(schema=_TYPES | dict.fromkeys(_judged(task, report=report), pl.Float64))
    parts: list[pl.DataFrame] = []
    given: list[list[str | None]] = []
    with workers.kept():  # arms are judged one by one, for a scorer may fail on all of one; workers start once
        for arm, outputs in _answers(asked, candidates, examples):
            if outputs not in given:
                given.append(outputs)
                rows = _rows(arm, outputs, asked)
                parts.append(_scored(rows, candidates, task, report=report))
    return pl.concat(parts, how="diagonal")


@takes_any_frame
def contrasts(free: pl.DataFrame, *, arm: str) -> list[tuple[str, str]]:
    """Return an arm against each that costs nothing, for ``stats.compare``.

    Args:
        free: From ``scores``.
        arm: What must beat them.
    """
    return [(arm, name) for name in free["arm"].unique(maintain_order=True)]


def beside(
    free: pl.DataFrame, answered: Mapping[str, pl.DataFrame], *, scale: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return answers of models and such that cost nothing as arms of one frame: arm, candidate_id, quality, tokens.

    Args:
        free: From ``scores``.
        answered: Name of the arm to rows with candidate_id and quality.
        scale: custom_id and quality that count in place of theirs: what judges and people say, nobody has said of an
            answer without a model. Rows without such a quality have none. Null: their own.
    """
    tokens = pl.lit(None, dtype=pl.Int64).alias("tokens")
    parts = []
    for arm, frame in answered.items():
        quality = frame["quality"]
        if scale is not None:
            at = pl.Series(places(frame["custom_id"], scale["custom_id"]))
            quality = scale["quality"].gather(at.set(at < 0, None))
        parts.append(frame.select(pl.lit(arm).alias("arm"), "candidate_id", quality.alias("quality"), tokens))
    return pl.concat([*parts, free.select("arm", "candidate_id", "quality", "tokens")])


def in_words(means: pl.DataFrame) -> str:
    """Return what the best answer that costs nothing gets, and a warning where that says that the scorers are weak.

    Args:
        means: From ``evaluate.summary``, with the arms of ``scores`` among them.
    """
    best = _best(means)
    if best is None:
        return "no answer that costs nothing could be judged by these scorers"
    text = f"the best answer that costs nothing is {best['arm']}: quality {best['mean']:.3f}"
    if best["mean"] <= WEAK:
        return text
    return (
        f"WARNING: {text}, above {WEAK:g}. The scorers are weak: that much of what they reward can be had without a "
        "model; let them see more of what makes an answer right, or weigh that more"
    )


def headline(means: pl.DataFrame) -> dict[str, Any]:
    """Return the best answer that costs nothing and its quality, for a run's headline; as ``in_words``."""
    best = _best(means) or {"arm": None, "mean": None}
    return {"best_trivial": best["arm"], "quality_best_trivial": best["mean"]}


def _best(means: pl.DataFrame) -> dict[str, Any] | None:
    judged = means.filter(pl.col("arm").is_in(ARMS), pl.col("n") > 0).sort("mean", descending=True, maintain_order=True)
    return judged.row(0, named=True) if judged.height else None


def _answers(
    asked: pl.DataFrame, candidates: pl.DataFrame, examples: pl.DataFrame
) -> Iterator[tuple[str, list[str | None]]]:
    texts = asked["input"].to_list()
    yield "echo", texts
    yield "bare echo", list(_bare(texts))
    yield "empty", [""] * len(texts)
    usable = examples.drop_nulls("output").sort("id")
    if usable.height:
        yield "most frequent", [_most_frequent(usable)] * len(texts)
        yield "nearest", _nearest(asked, candidates, usable)


def _bare(asked: Sequence[str]) -> list[str]:
    """The questions without what all begin and end with, cut between words; a text that is all frame stays whole."""
    if len(set(asked)) < 2:
        return list(asked)
    begin = _whole_words(_common(asked))
    rest = [text[len(begin) :] for text in asked]
    end = _whole_words(_common([text[::-1] for text in rest]))
    return [text[: len(text) - len(end)].strip() or whole.strip() for text, whole in zip(rest, asked, strict=True)]


def _common(texts: Sequence[str]) -> str:
    """What all texts begin with: what the first and the last of them in order do."""
    low, high = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:n]


def _whole_words(frame: str) -> str:
    """A common beginning up to its last space: what follows may be half of a word."""
    at = max((i for i, character in enumerate(frame) if character.isspace()), default=-1)
    return frame[: at + 1]


def _most_frequent(examples: pl.DataFrame) -> str:
    """The answer that most examples have; of equally many the best, then the first by name."""
    counted = examples.group_by("output").agg(
        n=pl.len(), quality=pl.col("quality_score").mean().fill_null(0.0), first=pl.col("id").min()
    )
    return str(counted.sort("n", "quality", "first", descending=[True, True, False])["output"][0])


def _nearest(asked: pl.DataFrame, candidates: pl.DataFrame, examples: pl.DataFrame) -> list[str | None]:
    index, outputs = bm25.Index(examples["input"], questions=asked["input"]), examples["output"]
    named = pl.concat([part.select("candidate_id") for part in (asked, examples)])
    groups = dict(candidates.select("candidate_id", "group_id").join(named, on="candidate_id", how="semi").iter_rows())
    members: dict[str, list[int]] = {}
    for i, name in enumerate(examples["candidate_id"].to_list()):
        members.setdefault(groups.get(name, name), []).append(i)
    answers: list[str | None] = []
    for name, text in asked.select("candidate_id", "input").iter_rows():
        likeness = index.scores(text)
        likeness[members.get(groups.get(name, name), [])] = -1.0  # the answer of one's own costs a model
        best = int(np.argmax(likeness))
        answers.append(outputs[best] if likeness[best] >= 0 else None)
    return answers


def _rows(arm: str, outputs: Sequence[str | None], asked: pl.DataFrame) -> pl.DataFrame:
    names = [f"{arm}: {name}" for name in asked["custom_id"]]
    return asked.with_columns(
        custom_id=pl.Series(names, dtype=pl.String),
        llm_output=pl.Series(outputs, dtype=pl.String),
        arm=pl.lit(arm),
        sample=pl.lit(0, dtype=pl.Int32),
        model=pl.lit(None, dtype=pl.String),
        status=pl.lit("ok"),
        **dict.fromkeys(("tokens", "prompt_tokens", "completion_tokens"), pl.lit(0, dtype=pl.Int64)),
        latency_s=pl.lit(None, dtype=pl.Float64),
    )


def _scored(rows: pl.DataFrame, candidates: pl.DataFrame, task: Task, *, report: bool) -> pl.DataFrame:
    ready = scoring.rows(rows, candidates, task=task)
    judged, why = _or_why(lambda: scoring.score(ready, task).select("custom_id", "quality", pl.col("^score_.*$")))
    reports = [_or_why(lambda: scoring.report(ready, task))] if report else []
    for part in (judged, *(part for part, _ in reports)):
        rows = rows if part is None else rows.join(part, on="custom_id", how="left", maintain_order="left")
    names = ["quality", *_judged(task, report=report)]
    unscored = [pl.lit(None, dtype=pl.Float64).alias(name) for name in names if name not in rows.columns]
    error = next(filter(None, [why, *(why for _, why in reports)]), None)
    rows = rows.rename({"llm_output": "output"}).with_columns(*unscored, error=pl.lit(error, dtype=pl.String))
    return rows.select(*_TYPES, *names[1:])


def _judged(task: Task, *, report: bool) -> list[str]:
    names = [f"score_{name}" for name in task.scorers]
    return names + (["report", *(f"report_{name}" for name in task.report)] if report else [])


def _or_why(score: Callable[[], Any]) -> tuple[Any, str | None]:
    """What scoring gives, or why it gave nothing.

    Scorers are written for answers of a model, and may fail on an empty one: then nothing can be said of that arm.
    """
    try:
        return score(), None
    except TaskError as error:
        return None, str(error)
