"""Arms on the same candidates: ask, score, sum up, and look for leaks before.

An arm is a way to answer: baseline (zero-shot), icl (with examples), finetuned (adapter), control (adapter trained on a
random set of the same size). All arms answer the same candidates with the same random seeds; what is reported is the
paired difference (``stats.compare``). Only phase 5 reads the test split, and has it looked over here first.
"""

import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch, duplicates, models, questions, scoring, stats, structured
from arislab.batch import requests as batch_requests
from arislab.duplicates import leaks as leaks  # notebooks of earlier versions ask for it here
from arislab.errors import LeakageError, ParameterError, TaskError
from arislab.system.kinds import takes_any_frame
from arislab.task import Task, candidate_of

gate, promote, serve_command = models.gate, models.promote, models.serve_command  # notebooks had them here

_ASKED: dict[str, Any] = {
    **dict.fromkeys(("arm", "candidate_id"), pl.String), "sample": pl.Int32,
    **dict.fromkeys(("custom_id", "model", "status", "error", "output"), pl.String),
    "quality": pl.Float64, **dict.fromkeys(("tokens", "prompt_tokens", "completion_tokens"), pl.Int64),
    "latency_s": pl.Float64,
}  # fmt: skip
"""Columns of ``ask``, in their order."""


def arms(people: pl.DataFrame, task: Task, *, models: Mapping[str, str], **parameters: Any) -> dict[str, pl.DataFrame]:
    """Return arms that ask the same candidates in the same way, each another model, for ``ask``.

    Args:
        people: Rows of ``candidates``; none: no arms.
        task: Writes the questions.
        models: Name of the arm to that of the model.
        parameters: As in ``batch.build_requests``.
    """
    if not people.height:
        return {}
    return {
        arm: batch.build_requests(people, task.to_messages, model=model, **parameters) for arm, model in models.items()
    }


def custom_ids(arms: Mapping[str, pl.DataFrame]) -> list[str]:
    """Return the names of all requests of arms, so that what is recorded of these alone is read."""
    return sorted({name for requests in arms.values() for name in requests["custom_id"]})


@takes_any_frame
def ask(
    arms: dict[str, pl.DataFrame],
    *,
    candidates: pl.DataFrame,
    server: batch.Server,
    folder: Path,
    recorded: batch.Recorded,
    task: Task,
    report: bool = False,
    stored: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Let every arm answer, in one go, and score the answers.

    Args:
        arms: Name to requests (from ``batch.build_requests``); none: no row, and nobody is asked.
        candidates: Rows of ``candidates`` behind the requests.
        server: As in ``batch.answer``.
        folder: As in ``batch.answer``.
        recorded: As in ``batch.answer``.
        task: Its scorers judge.
        report: Judge by the REPORT scorers as well, which is for phase 5 alone.
        stored: custom_id and scores that somebody else gave, for REPORT scorers that are names of columns.

    Returns:
        One row per arm and request: arm, candidate_id, sample, custom_id, model, status, output (null if none came),
        error (what the server said; null if an answer came), quality (0..1, null = no answer or unscored), tokens
        (prompt_tokens and completion_tokens together), latency_s (null: see ``timed``), score_<scorer>; with
        ``report`` also report (0..1) and report_<scorer> as in ``scoring.report``.
    """
    judged = [f"score_{name}" for name in task.scorers]
    if report:
        judged += ["report", *(f"report_{name}" for name in task.report)]
    if not arms:
        return pl.DataFrame(schema=_ASKED | dict.fromkeys(judged, pl.Float64))
    requests = pl.concat([frame.with_columns(arm=pl.lit(name)) for name, frame in arms.items()])
    answers = batch.answer(requests, server=server, folder=folder, recorded=recorded, task=task.name)
    parts = []
    for arm in answers.partition_by("arm", maintain_order=True):  # an arm is judged by its own answers alone (others)
        distinct = arm.unique("custom_id", keep="first", maintain_order=True)
        rows = scoring.rows(distinct, candidates)
        scored = scoring.score(rows, task).drop("candidate_id", "task", "scorer_version", "reason")
        if report:
            if stored is not None:
                rows = rows.join(stored, on="custom_id", how="left", maintain_order="left")
            scored = scored.join(scoring.report(rows, task), on="custom_id", how="left", maintain_order="left")
        parts.append(arm.join(scored, on="custom_id", how="left", maintain_order="left"))
    out = pl.concat(parts).rename({"llm_output": "output"})
    out = out.with_columns(
        tokens=pl.col("prompt_tokens") + pl.col("completion_tokens"), latency_s=pl.lit(None, dtype=pl.Float64)
    )
    return out.select(*_ASKED, *judged)  # one row per arm and request


def timed(
    scores: pl.DataFrame,
    arms: Mapping[str, pl.DataFrame],
    *,
    server: batch.Server,
    among: Iterable[str] = ("baseline", "icl", "finetuned"),
    n: int = 10,
    within_s: float = 10.0,
) -> pl.DataFrame:
    """Return the same rows, some with the seconds that an answer takes when it is asked alone.

    A batch does not tell them. In rounds each arm is asked once about the same candidate, so that what else the machine
    does meets all alike; the first round warms up and does not count.

    Args:
        scores: From ``ask``.
        arms: As in ``ask``.
        server: Still open. Of one whose answers may be paid (``Server.seconds``) nothing is asked.
        among: Arms that are asked, of those that there are.
        n: Rounds that count, at most.
        within_s: Seconds after which no round begins any more, once one has counted.

    Returns:
        The rows of ``scores``, latency_s set where a request was asked so.
    """
    asked = {arm: arms[arm].sort("candidate_id") for arm in among if arm in arms}
    rounds = min((min(n + 1, frame.height) for frame in asked.values()), default=0)
    began, found = time.monotonic(), []
    for at in range(rounds):
        if at > 1 and time.monotonic() - began > within_s:
            break
        for arm, frame in asked.items():
            seconds = server.seconds(json.loads(frame["body"][at]))
            if seconds is None and not at:
                return scores  # it cannot be told here
            found += [(arm, frame["custom_id"][at], seconds)] if at else []
    schema = {"arm": pl.String, "custom_id": pl.String, "latency_s": pl.Float64}
    by_request = pl.DataFrame(found, schema=schema, orient="row").unique(["arm", "custom_id"], maintain_order=True)
    order = scores.columns
    told = scores.drop("latency_s").join(by_request, on=["arm", "custom_id"], how="left", maintain_order="left")
    return told.select(order)


_NUMBER = r" #\d+$"
"""How the arms of the second seed on are told from the first: ``finetuned #2``."""


def per_seed(arm: str, trained: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the adapters of an arm by a name for each: the arm, and from the second seed on its number.

    Args:
        arm: Name of the arm of the first.
        trained: From ``finetune.of_seeds``.
    """
    return {arm if n == 1 else f"{arm} #{n}": row["model_path"] for n, row in enumerate(trained, start=1)}


@takes_any_frame
def over_seeds(scores: pl.DataFrame) -> pl.DataFrame:
    """Return one row per arm and candidate: the mean over the seeds with which the arm was trained.

    Args:
        scores: From ``ask`` or ``trivial.scores``; arms named as by ``per_seed`` are one.

    Returns:
        arm, candidate_id, and the means of quality, report (if there) and tokens; a seed without a score counts not.
    """
    values = [name for name in ("quality", "report", "tokens") if name in scores.columns]
    merged = scores.with_columns(pl.col("arm").str.replace(_NUMBER, ""))
    return merged.group_by("arm", "candidate_id", maintain_order=True).agg(pl.col(values).mean())


@takes_any_frame
def spread(scores: pl.DataFrame, *, by: str = "quality") -> str:
    """Return how much the seeds of a training differ: a line an arm with its means; none where there is one seed.

    Args:
        scores: As in ``over_seeds``.
        by: Column whose means are shown.
    """
    means = scores.group_by("arm", maintain_order=True).agg(pl.col(by).mean())
    seeds = means.with_columns(pl.col("arm").str.replace(_NUMBER, "")).group_by("arm", maintain_order=True).agg(by)
    lines = [
        f"{arm}: {len(values)} seeds, {', '.join(f'{value:.3f}' for value in values)}; mean "
        f"{statistics.fmean(values):.3f}, standard deviation {statistics.stdev(values):.3f}"
        for arm, values in seeds.iter_rows()
        if len(values) > 1 and None not in values
    ]
    return "\n".join(lines) or "one seed a training: what a second one would give is not known (-p seeds 3 in phase 4)"


def judges(task: Task) -> str:
    """Return a line that says by what phase 5 judges, and whether it is something else than what chose the rows."""
    if not task.report:
        return (
            "judged by the SCORERS that chose the training rows, for the task names no REPORT scorers: what they "
            "reward is what was learned, whether or not it is good"
        )
    known = {id(scorer): name for name, scorer in task.scorers.items()}
    same = [name for name, judge in task.report.items() if id(judge) in known]
    names = ", ".join(task.report)
    if same:
        return (
            f"judged by the REPORT scorers {names}, of which {', '.join(same)} also chose the training rows; quality "
            "is by the SCORERS"
        )
    return f"judged by the REPORT scorers {names}, which no earlier phase has seen; quality is by the SCORERS"


@takes_any_frame
def summary(scores: pl.DataFrame, *, by: str = "quality", groups: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return one row per arm, in order of appearance.

    Args:
        scores: From ``ask``, ``trivial.scores`` or ``icl.Asker.report``: arm, quality, tokens, and the column ``by``.
        by: Column that is summed up.
        groups: candidate_id and group_id of candidates who are not independent, as in ``stats.compare``.

    Returns:
        arm, n (rows with a score), n_missing (rows without), mean (0..1), low and high (95 % bootstrap interval),
        n_groups (groups behind the interval), quality (its mean), tokens (mean a request).
    """
    rows = []
    of = None if groups is None else stats.group_of(scores["candidate_id"], groups)
    for arm in scores["arm"].unique(maintain_order=True):
        is_of_arm = scores["arm"] == arm
        part = scores.filter(is_of_arm)
        mean = stats.mean_interval(part[by], groups=None if of is None else of.filter(is_of_arm))
        rows.append(
            {
                "arm": arm,
                "n": mean.n,
                "n_missing": mean.n_missing,
                "mean": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "n_groups": mean.n_groups,
                "quality": part["quality"].mean(),
                "tokens": part["tokens"].mean(),
            }
        )
    columns = {"arm": pl.String, "n": pl.Int64, "n_missing": pl.Int64}
    columns |= dict.fromkeys(("mean", "low", "high"), pl.Float64) | {"n_groups": pl.Int64}
    return pl.DataFrame(rows, schema=columns | dict.fromkeys(("quality", "tokens"), pl.Float64))


@takes_any_frame
def intervals(frame: pl.DataFrame) -> dict[str, tuple[float, float, float, int]]:
    """Return (mean, low, high, n) by arm, or by ``arm - baseline``, for the headline.

    Args:
        frame: From ``summary``, or from ``stats.compare``.
    """
    if "difference" in frame.columns:
        name, value = pl.concat_str("arm", "baseline", separator=" - "), "difference"
    else:
        name, value = pl.col("arm"), "mean"
    return {arm: tuple(numbers) for arm, *numbers in frame.select(name, value, "low", "high", "n").iter_rows()}


@takes_any_frame
def table(
    means: pl.DataFrame,
    comparison: pl.DataFrame,
    beside: pl.DataFrame | None = None,
    *,
    level: float = 0.95,
    people: str = "",
) -> str:
    """Return the result as text: one line per arm, one per contrast, each with its interval.

    Args:
        means: From ``summary``.
        comparison: From ``stats.compare``; with verdict and mde from ``stats.verdicts``, if they are to be shown.
        beside: From ``stats.compare`` with answers that cost nothing: a family of its own.
        level: Of the comparison's intervals.
        people: From ``pairwise.in_words``: what people prefer; empty: nobody was to compare any.
    """
    apart = (pl.col("quality") - pl.col("mean")).abs() > 1e-9  # means of the same numbers, summed in another order
    both = "quality" in means.columns and bool(means.select(apart.any()).item())
    lines = [f"{'arm':<16} {'report' if both else 'quality':>8}  {'95 % interval':<16} {'n':>6}" + "  quality" * both]
    for r in means.to_dicts():
        missing = f" ({r['n_missing']:,} without a score)" if r["n_missing"] else ""
        groups = f" of {r['n_groups']:,} groups" if r.get("n_groups", r["n"]) < r["n"] else ""
        line = f"{r['arm']:<16} {r['mean']:>8.3f}  [{r['low']:.3f}, {r['high']:.3f}]   {r['n']:>6,}"
        lines.append(line + (f"  {_or_dash(r['quality'])}" if both else "") + groups + missing)
    lines += ["", f"{'paired difference':<28} {'gain':>7}  {f'{100 * level:.3g} % interval':<18} {'p (Holm)':>9}"]
    for r in [*comparison.to_dicts(), *(beside.to_dicts() if beside is not None else [])]:
        interval = f"[{r['low']:+.3f}, {r['high']:+.3f}]"
        name = f"{r['arm']} - {r['baseline']}"
        lines.append(f"{name:<28} {r['difference']:>+7.3f}  {interval}   {r['p_holm']:>9.4f}{_verdict(r)}")
    if people:
        lines += ["", f"{'what people prefer':<28} {'win rate':>7}  95 % interval; a tie counts half", people]
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return f"{value:>7.3f}" if value is not None else f"{'-':>7}"


def _verdict(contrast: dict[str, Any]) -> str:
    """Return the verdict of a contrast; what was not shown is at most about as large as what these rows could show."""
    if "verdict" not in contrast:
        return ""
    unseen = contrast["verdict"] == "not shown" and contrast["mde"] is not None
    return f"   {contrast['verdict']}" + (f" (these rows show {contrast['mde']:.3f} or more)" if unseen else "")


@takes_any_frame
def rates(scores: pl.DataFrame, people: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return how each answer came, whatever it is worth: is it of the form, is it whole, is it one at all?

    Args:
        scores: From ``ask``.
        people: Rows of ``candidates``: candidate_id, group_id.
        task: Its SCHEMA is the form.

    Returns:
        arm, candidate_id, group_id, is_valid (fits the SCHEMA; null: there is none, or no answer came), is_whole (the
        model ended it, and not the limit; null: no answer came), is_answered (an answer came that is neither refused
        nor empty).
    """
    errors = structured.check(scores.select("output"), task.schema)["schema_error"]
    came = pl.col("status").is_in(list(batch.ANSWERED))
    valid = pl.lit(None, dtype=pl.Boolean) if task.schema is None else errors.is_null() & scores["output"].is_not_null()
    rows = scores.with_columns(
        is_valid=pl.when(came).then(valid),
        is_whole=pl.when(came).then(pl.col("status") != "truncated"),
        is_answered=came & ~pl.col("status").is_in(["refused", "empty"]),
    )
    rows = rows.join(people.select("candidate_id", "group_id"), on="candidate_id", how="left", maintain_order="left")
    return rows.select("arm", "candidate_id", "group_id", "is_valid", "is_whole", "is_answered")


@takes_any_frame
def costs(scores: pl.DataFrame) -> pl.DataFrame:
    """Return what the answers of each arm cost, per 1,000 answers.

    Args:
        scores: From ``ask``: arm, prompt_tokens, completion_tokens, latency_s.

    Returns:
        arm, n (answers of which the server told tokens), prompt_tokens and completion_tokens (per 1,000 answers; null:
        it told none), latency_s (median seconds of an answer asked alone; null: not measured), n_timed (of how many).
    """
    mean = [(1000 * pl.col(name).mean()).round(0).alias(name) for name in ("prompt_tokens", "completion_tokens")]
    told, timed = pl.col("prompt_tokens").count().alias("n"), pl.col("latency_s").count().alias("n_timed")
    return scores.group_by("arm", maintain_order=True).agg(told, *mean, pl.col("latency_s").median(), timed)


@takes_any_frame
def costs_in_words(scores: pl.DataFrame) -> str:
    """Return what the arms cost that a promotion is about, one line for tokens and one for seconds.

    Args:
        scores: From ``ask``, or from ``timed``.
    """
    rows = costs(scores).to_dicts()
    tokens = [f"{r['arm']} {r['prompt_tokens']:,.0f}" for r in rows if r["prompt_tokens"] is not None]
    seconds = [f"{r['arm']} {r['latency_s']:.2f} s" for r in rows if r["latency_s"] is not None]
    n = max((r["n_timed"] for r in rows), default=0)
    alone = f"an answer asked alone (median of {n})" if n else "an answer asked alone"
    return (
        f"prompt tokens per 1,000 answers: {', '.join(tokens) or 'the server told none'}\n"
        f"{alone}: {', '.join(seconds) or 'not measured at this server'}"
    )


def forgetting(
    task: Task,
    models: Mapping[str, str],
    *,
    server: batch.Server,
    folder: Path,
    recorded: batch.Recorded,
    **parameters: Any,
) -> pl.DataFrame | None:
    """Ask what a model knew before it was trained, of the task's FORGETTING rows, greedily; null: it has none.

    Args:
        task: Its FORGETTING rows: messages, and the output that a good answer has the words of.
        models: Name of the arm to that of the model.
        server: As in ``batch.answer``.
        folder: As in ``batch.answer``.
        recorded: As in ``batch.answer``.
        parameters: As in ``batch.build_requests``, such as max_tokens.

    Returns:
        One row per arm and FORGETTING row: arm, candidate_id (``forgetting-0``, …), output, quality (0..1, F1 of the
        words of output and answer; 0 where no answer came).

    Source:
        F1 of words: Rajpurkar et al. 2016, SQuAD; words are folded to lower case, none is left out.
    """
    if not task.forgetting:
        return None
    rows = [{"candidate_id": f"forgetting-{i}", "profile": json.dumps({"row": i})} for i in range(len(task.forgetting))]
    texts = dict.fromkeys(("company", "title", "category", "use_case"), "")
    items = pl.DataFrame([row | texts for row in rows])
    asks = {
        arm: batch.build_requests(
            items,
            lambda c: task.forgetting[c["profile"]["row"]]["messages"],
            model=model,
            temperature=0.0,
            **parameters,
        ).with_columns(arm=pl.lit(arm))
        for arm, model in models.items()
    }
    how: Any = {"server": server, "folder": folder, "recorded": recorded, "task": task.name}
    answers = batch.answer(pl.concat(asks.values()), **how)
    known = {row["candidate_id"]: task.forgetting[i]["output"] for i, row in enumerate(rows)}
    quality = [
        _f1(known[candidate_id], text)
        for candidate_id, text in answers.select("candidate_id", "llm_output").iter_rows()
    ]
    return answers.select("arm", "candidate_id", output="llm_output").with_columns(quality=pl.Series(quality))


def _f1(expected: str, given: str | None) -> float:
    words = [Counter(re.findall(r"\w+", (text or "").lower())) for text in (expected, given)]
    shared = (words[0] & words[1]).total()
    return 2 * shared / (words[0].total() + words[1].total()) if shared else 0.0


@takes_any_frame
def by_category(
    scores: pl.DataFrame,
    people: pl.DataFrame,
    task: Task,
    *,
    contrast: tuple[str, str],
    by: str = "quality",
    n_most: int = 8,
    seed: int = 0,
) -> pl.DataFrame:
    """Return the gain of an arm in each category, the largest first: a mean over all may hide one that loses.

    Args:
        scores: As in ``summary``.
        people: Rows of ``candidates`` that were asked about.
        task: Its category(candidate), if it has one, goes before the column category.
        contrast: Arm and baseline.
        by: As in ``summary``.
        n_most: Categories with a row of their own; the rest are one, ``others``.
        seed: Of the bootstrap.

    Returns:
        category (null: none), n, n_groups, a mean of each of the two arms by its name, difference, low and high (95 %,
        paired, whole groups resampled; not corrected for the number of categories).
    """
    own = [task.category(candidate_of(row)) if task.category else row["category"] for row in people.to_dicts()]
    named = people.select("candidate_id", category=pl.Series(own, dtype=pl.String))
    sizes = named.group_by("category").len().sort("len", "category", descending=[True, False], nulls_last=True)
    order = sizes["category"].to_list()
    most = order if len(order) <= n_most + 1 else order[:n_most]
    rest = [] if len(most) == len(order) else ["others"]
    category = pl.when(pl.col("category").is_in(most, nulls_equal=True)).then("category").otherwise(pl.lit("others"))
    rows = scores.join(named.with_columns(category), on="candidate_id", how="inner", maintain_order="left")
    parts = []
    for name in [*most, *rest]:
        part = rows.filter(pl.col("category").eq_missing(name))
        gain = stats.compare(part, contrasts=[contrast], by=by, groups=people, seed=seed)
        means = [part.filter(arm=arm)[by].mean() for arm in contrast]
        parts.append(
            gain.select(
                pl.lit(name, dtype=pl.String).alias("category"),
                "n",
                "n_groups",
                *[pl.lit(mean, dtype=pl.Float64).alias(arm) for arm, mean in zip(contrast, means, strict=True)],
                "difference",
                "low",
                "high",
            )
        )
    return pl.concat(parts)


@takes_any_frame
def find_leaks(
    people: pl.DataFrame,
    everybody: pl.DataFrame,
    *,
    curated: Iterable[pl.DataFrame],
    task: Task,
    recorded: pl.DataFrame,
    threshold: float,
    control: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the candidates who stand in what was trained or searched on, or resemble it, as ``leaks`` does.

    What was trained are the questions of curated rows; what was searched on are all validation candidates. What most
    texts of the lake say, a rubric or a form, counts for nothing.

    Args:
        people: Candidates that are to be asked about.
        everybody: All rows of ``candidates``, of other tasks too.
        curated: Rows of ``training_data_curated``, of every version that was shown or learned.
        task: Writes the questions.
        recorded: As in ``texts``.
        threshold: As in ``leaks``.
        control: Rows of ``training_data_raw`` that a control learned: custom_id, candidate_id, input, messages.
    """
    asked = texts(everybody, task.to_messages, recorded=recorded, or_nothing=True)
    # versions of one example differ in its answer, never in its question: one of them is enough
    columns = ["id", "candidate_id", "input", "messages"]
    rows = [frame.select(columns) for frame in curated]
    if control is not None:
        rows.append(control.rename({"custom_id": "id"}).select(columns))
    learned = trained_texts(pl.concat(rows).unique("id", keep="first", maintain_order=True))
    learned = learned.join(everybody.select("candidate_id", "group_id"), on="candidate_id", how="left")
    validation = everybody.filter(pl.col("split") == "validation")
    searched = texts(validation, task.to_messages, or_nothing=True).with_columns(id="candidate_id")
    used = pl.concat([learned, searched], how="diagonal")
    return leaks(texts(people, task.to_messages), used, threshold=threshold, everybody=asked["text"])


def across(
    people: pl.DataFrame, others: pl.DataFrame, *, task: Task, recorded: pl.DataFrame, threshold: float
) -> pl.DataFrame:
    """Return the candidates who resemble one of another split, before anybody is asked; as ``leaks`` does.

    Args:
        people: Rows of ``candidates`` that must be like no other.
        others: Rows of ``candidates`` of the other splits.
        task: Writes the questions.
        recorded: As in ``texts``.
        threshold: As in ``leaks``.
    """
    used = texts(others, task.to_messages, recorded=recorded, or_nothing=True).with_columns(id="candidate_id")
    tested = texts(people, task.to_messages, or_nothing=True)
    return leaks(tested, used, threshold=threshold, everybody=pl.concat([tested["text"], used["text"]]))


def refuse_leaks(leaking: pl.DataFrame, *, n_test: int) -> str:
    """Return a line that says 0 leaks, or raise.

    Raises:
        LeakageError: ``leaking`` has rows; the message names the first.
    """
    if leaking.height:
        row = leaking.row(0, named=True)
        raise LeakageError(
            f"{leaking.height:,} of {n_test:,} test candidates are also in what was trained or searched on (first: "
            f"{row['candidate_id']!r} is {row['kind']} to {row['id']!r}, similarity {row['similarity']:.2f}); "
            "leaks='drop' reports on the rest, or take those rows out of training_data_curated, train again, then "
            "evaluate."
        )
    return f"0 of {n_test:,} test candidates leak into training or search"


def without_leaks(people: pl.DataFrame, leaking: pl.DataFrame, *, leaks: str) -> tuple[pl.DataFrame, str]:
    """Return the test candidates to ask, and a line that says which were taken out.

    Args:
        people: Candidates of the test split.
        leaking: From ``find_leaks``.
        leaks: ``refuse``: any leak stops the evaluation. ``drop``: those that leak are taken out.

    Raises:
        LeakageError: A leak, under ``refuse``; or nobody is left.
        ParameterError: Another policy.
    """
    if leaks not in ("refuse", "drop"):
        raise ParameterError(
            f"leaks must be 'refuse' (any leak stops the evaluation) or 'drop' (report on the rest), got {leaks!r}."
        )
    if leaks == "refuse" or not leaking.height:
        return people, refuse_leaks(leaking, n_test=people.height)
    names = leaking["candidate_id"].to_list()
    rest = people.join(leaking, on="candidate_id", how="anti", maintain_order="left")
    if not rest.height:
        raise LeakageError(
            f"all {people.height:,} test candidates are also in what was trained or searched on; nobody is left to "
            "report on: import candidates that were not trained on, or train without these."
        )
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return (
        rest,
        f"{len(names):,} of {people.height:,} test candidates leak and are taken out: {', '.join(names[:10])}{more}; "
        f"{rest.height:,} are reported on",
    )


def texts(
    frame: pl.DataFrame,
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]],
    *,
    recorded: pl.DataFrame | None = None,
    or_nothing: bool = False,
) -> pl.DataFrame:
    """Return candidate_id, group_id and text of candidates (what is asked, see ``duplicates.asked``), for ``leaks``.

    Args:
        frame: Rows of ``candidates``.
        to_messages: Of the task.
        recorded: candidate_id and input of outputs without messages: a candidate has a further row for each question
            that is not that of its profile. Null: one row per candidate.
        or_nothing: Whether a candidate about whom the task knows no question, such as one of another task, has a null
            text and resembles nobody.

    Raises:
        TaskError: The task knows no question about a candidate, and not `or_nothing`.
    """
    known = {} if recorded is None else questions.by_name(recorded)
    asked: list[tuple[str, str | None, str | None]] = []
    for row in frame.iter_rows(named=True):
        candidate = candidate_of(row)
        for one in questions.each(candidate, known.get(row["candidate_id"], ())):
            try:
                text = duplicates.asked(batch_requests.written(to_messages, one))
            except TaskError:
                if not or_nothing:
                    raise
                text = None
            asked.append((row["candidate_id"], row["group_id"], text))
    schema = dict.fromkeys(("candidate_id", "group_id", "text"), pl.String)
    return pl.DataFrame(asked, schema=schema, orient="row")


def trained_texts(curated: pl.DataFrame) -> pl.DataFrame:
    """Return id, candidate_id and text of curated rows, for ``leaks``.

    A row has one or two: all that was asked, and the last question alone.
    """
    conversations = [duplicates.asked(json.loads(row)) if row else None for row in curated["messages"]]
    whole, last = (
        curated.select("id", "candidate_id", text=text) for text in (pl.Series(conversations, dtype=pl.String), "input")
    )
    return pl.concat([whole, last]).drop_nulls("text").unique(maintain_order=True)
