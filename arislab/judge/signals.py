"""What a judge said as signals of rows: one column a criterion, null where it said nothing.

A score is of a text: a row whose text is not the one that was judged has none.
"""

import functools
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
        if model and not task.rubric:
            raise TaskError(
                f"judge_model is {model!r}, and task file {task.path.name} has no RUBRIC to judge by; "
                "add one and run judge.ipynb, or leave judge_model empty."
            )
        self.judgements = current(judgements, task, model=model)
        """Its answers, of one way of asking."""
        self.n_all = judgements.height
        self.params = next(iter(self.judgements["params"].unique()), "")
        if model and not self.judgements.height:
            raise ParameterError(
                f"judge_model is {model!r}, which has judged nothing by the RUBRIC of {task.path.name} as it reads now "
                '(arislab sql "select judge, count(*) n from judgements group by judge" lists who has judged). Run '
                "judge.ipynb, or leave judge_model empty."
            )

    def __repr__(self) -> str:
        if not self.model:
            return "no judge is heard (judge_model is empty)"
        parts = [f"{criterion} {scores.height:,}" for criterion, scores in sorted(self.scores.items())]
        unheard = self.n_all - self.judgements.height
        others = f"; {unheard:,} answers that it gave when it was asked otherwise are not used" if unheard else ""
        return f"{self.model} gave scores of so many texts: {', '.join(parts)}; asked with {self.params}{others}"

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
        for criterion, scores in sorted(self.scores.items()):
            known = scores.rename({"score": f"score_judge_{criterion}"})
            told = told.join(known, on=_ASKED, how="left", maintain_order="left")
        told = scored.select("custom_id").join(told, on="custom_id", how="left", maintain_order="left")
        out = scored.with_columns(told.select(pl.col("^score_judge_.*$"), *_ASKED))
        return self._voted(out).drop(_ASKED).with_columns(scorer_version=pl.col("scorer_version") + f"+{self.version}")

    @property
    def version(self) -> str:
        """First 8 hex of a digest of the judge, of what it was asked and of what it said."""
        said = self.judgements.select("request_id", "score").rows()
        return hashlib.sha256(canonical([self.model, said]).encode()).hexdigest()[:8]

    @functools.cached_property
    def scores(self) -> dict[str, pl.DataFrame]:
        """Criterion to asked_sha256, shown_sha256 and score, of what was judged both ways round.

        The mean of both ways, whatever the number of answers each way; of pairs the mean over them.
        """
        by_name, mean = {}, pl.col("score").mean()
        pair = [*_ASKED, "other_sha256"]
        for (criterion,), part in self.judgements.group_by("criterion", maintain_order=True):
            one = _sides(part) if criterion == WINS else part.select(*pair, "score", way="swapped")
            one = one.drop_nulls("score").group_by(*pair, "way", maintain_order=True).agg(mean)
            one = one.group_by(pair, maintain_order=True).agg(mean, n=pl.len()).filter(n=ORDERS)
            one = one.group_by(_ASKED, maintain_order=True).agg(mean)
            # rounded: sums in another order differ in the last bit, and rows that tie would not
            by_name[str(criterion)] = one.with_columns(pl.col("score").round(9))
        return by_name

    def _voted(self, scored: pl.DataFrame) -> pl.DataFrame:
        """The rows with the judge's votes in their quality, and why one that lacks a vote has none."""
        if not self.task.votes:
            return scored
        if missing := [name for name in self.task.votes if name not in self.scores]:
            raise TaskError(
                f"WEIGHTS of {self.task.path.name} gives judge_{missing[0]} a vote, of which {self.model} said "
                f"nothing; run judge.ipynb{' with pairs' if missing[0] == WINS else ''}, or take the weight out."
            )
        reasons = []
        for criterion in self.task.votes:
            asked = self.judgements.filter(criterion=criterion)
            sides = _sides(asked) if criterion == WINS else asked
            texts = scored.join(sides.select(_ASKED).unique(), on=_ASKED, how="semi")["custom_id"]
            is_asked = pl.col("custom_id").is_in(texts.to_list())
            why = pl.when(is_asked).then(pl.lit("said no number, one way round or both")).otherwise(pl.lit("not asked"))
            lacks = pl.col(f"score_judge_{criterion}").is_null()
            reasons.append(pl.when(lacks).then(pl.concat_str(pl.lit(f"judge_{criterion}: "), why)))
        total_of = {f"judge_{criterion}": weight for criterion, weight in self.task.votes.items()}
        _, mean = scoring.weighted_mean(dict(self.task.weights) | total_of)
        has_quality, first = pl.col("quality").is_not_null(), pl.coalesce(reasons)
        return scored.with_columns(
            quality=pl.when(has_quality & first.is_null()).then(mean),
            reason=pl.when(has_quality & first.is_not_null()).then(first).otherwise("reason"),
        )


def heard_in(scored: pl.DataFrame, judgements: pl.DataFrame, task: Task, candidates: pl.DataFrame) -> str:
    """Return the judge whose scores stand in scored rows; empty if none do, or what it says has changed since.

    Args:
        scored: Rows of one version: scorer_version.
        judgements: Rows of ``judgements``, in ``COLUMNS``.
        task: Its RUBRIC.
        candidates: As in ``Judge``.
    """
    versions = set(scored["scorer_version"].unique().str.split("+").explode())
    for model in judgements["judge"].unique().sort():
        if current(judgements, task, model=model).height:
            judge = Judge(judgements.filter(judge=model), task, candidates, model=model)
            if judge.version in versions:
                return judge.model
    return ""


def current(judgements: pl.DataFrame, task: Task, *, model: str) -> pl.DataFrame:
    """Return what a judge said by the RUBRIC as it reads now, asked in one way: that which gave the most scores.

    Of ways that gave equally many it is the newest. A trial of another way on a few rows changes nothing.

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
    ways = ours.group_by("params").agg(n=pl.col("score").count(), at=pl.col("created_at").max())
    best = ways.sort("n", "at", "params")["params"].tail(1)
    return ours.filter(pl.col("params").is_in(best.to_list())).sort("request_id")


def _sides(pairs: pl.DataFrame) -> pl.DataFrame:
    """Each comparison from the side of either answer, with whether that one was shown first."""
    first = pairs.select(*_ASKED, "other_sha256", "score", way=pl.lit(value=True))
    turned = {"shown_sha256": "other_sha256", "other_sha256": "shown_sha256"}
    second = pairs.select("asked_sha256", **turned, score=1 - pl.col("score"), way=pl.lit(value=False))
    return pl.concat([first, second.select(first.columns)])
