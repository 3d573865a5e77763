"""What a judge said as signals of rows: one column a criterion, null where it said nothing.

A score is of a text: a row whose text is not the one that was judged has none.
"""

import hashlib

import polars as pl

from arislab import scoring
from arislab.batch import canonical
from arislab.errors import ParameterError, TaskError
from arislab.judge import prompts
from arislab.judge.asking import WINS, outputs
from arislab.task import Task

ORDERS = 2
"""How often each is asked; a score needs all of them."""
_ASKED = ["asked_sha256", "shown_sha256"]
COLUMNS = [
    "request_id", "judge", "criterion", "swapped", "rubric_version", "params", *_ASKED, "other_sha256", "score",
    "created_at",
]  # fmt: skip
"""Columns of ``judgements`` that are needed here."""


class Judge:
    """What one judge said of the answers of a task, by the RUBRIC as it reads now.

    Args:
        judgements: Rows of the table ``judgements`` of that judge, in ``COLUMNS``; of whichever task, for a text and
            what is asked of it are the same.
        task: Its RUBRIC, and the weights that a judge's scores have.
        candidates: Behind the rows that are scored.
        model: The judge as its server names it; empty: none, and nothing of what is said here is used.

    Raises:
        ParameterError: It has judged nothing by this RUBRIC.
        TaskError: WEIGHTS gives a judge a vote, and none is named.
    """

    def __init__(self, judgements: pl.DataFrame, task: Task, candidates: pl.DataFrame, *, model: str) -> None:
        self.task, self.candidates, self.model = task, candidates, model
        if not model and task.votes:
            raise TaskError(
                f"WEIGHTS of {task.path.name} gives judge_{next(iter(task.votes))} a vote, and no judge is named; run "
                "judge.ipynb, then give its model as judge_model, or take the weight out."
            )
        self.judgements = current(judgements, task, model=model)
        """Its newest answers: those of one way of asking."""
        if model and not self.judgements.height:
            raise ParameterError(
                f"judge_model is {model!r}, which has judged nothing by the RUBRIC of {task.path.name} as it reads now "
                '(arislab sql "select judge, count(*) n from judgements group by judge" lists who has judged). Run '
                "judge.ipynb, or leave judge_model empty."
            )

    def joined(self, scored: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        """Return scored rows with what the judge said of them; without a judge, as they are.

        Where WEIGHTS gives a criterion a vote, a row that has no such score has no quality: the mean of the others
        would be of something else.

        Args:
            scored: From ``scoring.score``.
            rows: What was scored: custom_id, candidate_id, output, input, messages.

        Returns:
            The same rows with score_judge_<criterion> (Float64, 0..1, null: not judged, or no number; score_judge_wins:
            the mean chance that it is better than another answer); quality and reason where it has a vote, and
            scorer_version, which names what it said.
        """
        if not self.model:
            return scored
        told = outputs(rows, self.candidates, self.task).select("custom_id", *_ASKED)
        for name, scores in self.scores.items():
            told = told.join(scores.rename({"score": name}), on=_ASKED, how="left", maintain_order="left")
        told = scored.select("custom_id").join(told, on="custom_id", how="left", maintain_order="left")
        out = scored.with_columns(told.select(*self.scores))
        return self._voted(out).with_columns(scorer_version=pl.col("scorer_version") + f"+{self.version}")

    @property
    def version(self) -> str:
        """First 8 hex of a digest of the judge, of what it was asked and of what it said."""
        said = self.judgements.sort("request_id").select("request_id", "score").rows()
        return hashlib.sha256(canonical([self.model, said]).encode()).hexdigest()[:8]

    @property
    def scores(self) -> dict[str, pl.DataFrame]:
        """Column to asked_sha256, shown_sha256 and score, of what was judged in both orders."""
        by_name = {}
        for (criterion,), part in self.judgements.group_by("criterion", maintain_order=True):
            scores = part.select(*_ASKED, "score") if criterion != WINS else _wins(part)
            whole = scores.group_by(*_ASKED, maintain_order=True).agg(pl.col("score").mean(), n=pl.col("score").count())
            by_name[f"score_judge_{criterion}"] = whole.filter(pl.col("n") >= ORDERS).drop("n")
        return dict(sorted(by_name.items()))

    def _voted(self, scored: pl.DataFrame) -> pl.DataFrame:
        """The rows with the judge's votes in their quality."""
        if not self.task.votes:
            return scored
        votes = {f"score_judge_{criterion}": weight for criterion, weight in self.task.votes.items()}
        if missing := [name for name in votes if name not in scored.columns]:
            raise TaskError(
                f"WEIGHTS of {self.task.path.name} gives {missing[0].removeprefix('score_')} a vote, of which "
                f"{self.model} said nothing; run judge.ipynb{' with pairs' if missing[0].endswith(WINS) else ''}, or "
                "take the weight out."
            )
        named = {name.removeprefix("score_"): weight for name, weight in votes.items()}
        _, mean = scoring.weighted_mean(dict(self.task.weights) | named)
        is_judged = pl.all_horizontal(pl.col(name).is_not_null() for name in votes)
        return scored.with_columns(
            quality=pl.when(is_judged & pl.col("quality").is_not_null()).then(mean),
            reason=pl.when(pl.col("quality").is_not_null() & ~is_judged).then(pl.lit("not judged")).otherwise("reason"),
        )


def current(judgements: pl.DataFrame, task: Task, *, model: str) -> pl.DataFrame:
    """Return what a judge said by the RUBRIC as it reads now, asked in the newest way.

    Args:
        judgements: Rows of the table ``judgements``: judge, rubric_version, params, created_at.
        task: Its RUBRIC.
        model: The judge.

    Returns:
        Those rows, criterion as this task calls it: another one may have asked the same under another name.
    """
    names = {prompts.version([text], is_pair=False): name for name, text in task.rubric.items()}
    if names:
        names[prompts.version(list(task.rubric.values()), is_pair=True)] = WINS
    ours = judgements.filter(pl.col("judge") == model, pl.col("rubric_version").is_in(list(names)))
    ours = ours.with_columns(criterion=pl.col("rubric_version").replace_strict(names, return_dtype=pl.String))
    newest = ours.sort("created_at", "params", "request_id")["params"].tail(1)
    return ours.filter(pl.col("params").is_in(newest.to_list()))


def _wins(pairs: pl.DataFrame) -> pl.DataFrame:
    """asked_sha256, shown_sha256 and score of every answer in each pair that was judged in both orders, twice a pair.

    A null of one order makes both null: a judge that prefers what it sees first would count for whom it saw first.
    """
    first = pairs.select(*_ASKED, "other_sha256", "score")
    second = pairs.select(
        "asked_sha256", shown_sha256="other_sha256", other_sha256="shown_sha256", score=1 - pl.col("score")
    )
    both = pl.concat([first, second])
    pair = [*_ASKED, "other_sha256"]
    whole = both.group_by(pair, maintain_order=True).agg("score", n=pl.col("score").count())
    return whole.filter(pl.col("n") >= ORDERS).explode("score").select(*_ASKED, "score")
