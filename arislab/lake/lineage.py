"""The life of one row, table by table.

It goes from the candidate through request, output, scores, reviews and curated set to what was made with it.

    for table, rows in follow(lake, "r-70c14ed7…").items(): …   # candidates, training_runs, training_data_raw, …

One thing the lake does not know, and so nothing here claims it: what a prompt showed whose messages were not kept.
"""

import json
from itertools import pairwise
from typing import Any, Protocol

import polars as pl

from arislab import models
from arislab.errors import PrerequisiteError
from arislab.lake.conditions import Where
from arislab.review import decisions


class Readable(Protocol):
    """What is read of a table of the lake."""

    @property
    def version(self) -> int | None:
        """Its newest version."""

    def scan(self, *, version: int | None = None) -> pl.LazyFrame:
        """Its rows, when they are needed."""

    def read(
        self, *, columns: list[str] | None = None, where: Where | None = None, version: int | None = None
    ) -> pl.DataFrame:
        """Its rows that fulfil a condition."""


class Tables(Protocol):
    """What gives tables by name: the lake, or anything like it."""

    def __getitem__(self, name: str) -> Readable:
        """One table."""


_ANSWER_CHARS = 300


def find(lake: Tables, name: str) -> str:
    """Return the custom_id that is, or starts with, a text; or that of a candidate who was asked about once.

    Raises:
        PrerequisiteError: No row, or several.
    """
    matches = pl.col("custom_id").str.starts_with(name) | (pl.col("candidate_id") == name)
    ids = lake["training_data_raw"].scan().filter(matches).select("custom_id").collect()["custom_id"].sort()
    if name and name in ids:
        return name
    if ids.len() == 1:
        return str(ids[0])
    what = (
        f"{ids.len():,} rows match {name!r}, such as {ids[0]} and {ids[1]}; give more of the custom_id"
        if ids.len()
        else f"no row of training_data_raw matches {name!r}; give a custom_id, the start of one, or a candidate_id"
    )
    raise PrerequisiteError(f'{what}. `arislab sql "select custom_id from training_data_raw limit 5"` lists some.')


def follow(lake: Tables, name: str) -> dict[str, pl.DataFrame]:
    """Return every row that belongs to one request, and to what was made with its output.

    They come by table, in the order of life.

    Args:
        lake: Where to look.
        name: A custom_id, or what ``find`` takes.

    Returns:
        Table to rows; tables without one are left out. ``training_data_curated`` has one row per version that was
        looked at (column version): the newest, and those that a set or a training used. ``finetuning_runs``: trainings
        that were given the row, with its role (column added, see ``training_rows``). ``model_events``: what these
        adapters are now, as ``models.states`` says. ``evaluations``: answers of the
        adapters that learned from it, and answers whose prompt showed it.
    """
    custom_id = find(lake, name)
    where = {"custom_id": custom_id}
    raw = lake["training_data_raw"].read(where=where)
    asked = raw.row(0, named=True)
    scored, reviews, answered = (
        lake[table].read(where=where) for table in ("training_data_scored", "reviews", "evaluations")
    )
    trials, sets = (
        lake[table].scan().filter(pl.col("example_ids").list.contains(custom_id)).collect()
        for table in ("icl_trials", "icl_examples")
    )
    trainings = _trainings(lake, custom_id)
    curated = _curated(lake, custom_id, _versions(sets) | _versions(trainings))
    given_to = trainings["model_path"].unique().to_list()
    learned = trainings.filter(pl.col("role") == "trained")["model_path"].unique().to_list()
    events = models.with_older(lake["model_events"].read(), lake["models"].read())
    states = models.states(events).filter(pl.col("version").is_in(given_to))
    answers = lake["evaluations"].scan().filter(pl.col("model").is_in(learned)).collect()
    shown = lake["evaluations"].scan().join(_shown(lake, curated).lazy(), on=["evaluation_id", "arm"], how="semi")
    life = {
        "candidates": lake["candidates"].read(where={"candidate_id": asked["candidate_id"]}),
        "training_runs": lake["training_runs"].read(where={"run_id": asked["run_id"]}),
        "training_data_raw": raw,
        "training_data_scored": scored.sort("created_at"),
        "reviews": decisions.in_order(reviews).select("event_id").join(reviews, on="event_id", maintain_order="left"),
        "training_data_curated": curated,
        "icl_trials": trials,
        "icl_examples": sets.sort("created_at"),
        "finetuning_runs": trainings,
        "model_events": states,
        "deployments": lake["deployments"].scan().filter(pl.col("version").is_in(learned)).collect(),
        "evaluations": pl.concat([answered, answers, shown.collect()]).unique(
            ["evaluation_id", "arm", "candidate_id"], maintain_order=True
        ),
    }
    return {table: rows for table, rows in life.items() if rows.height}


def _versions(rows: pl.DataFrame) -> set[int]:
    named = rows["data_version"].drop_nulls().str.extract(r"\btraining_data_curated@(\d+)\b").drop_nulls()
    return set(named.cast(pl.Int64).to_list())


def _curated(lake: Tables, custom_id: str, versions: set[int]) -> pl.DataFrame:
    """The row as it stood in each version, by version."""
    table = lake["training_data_curated"]
    newest = table.version
    looked_at = sorted(versions | ({newest} if newest is not None else set()))
    rows = [table.read(where={"id": custom_id}, version=n).with_columns(version=pl.lit(n)) for n in looked_at]
    empty = table.scan().limit(0).collect().with_columns(version=pl.lit(0))
    return pl.concat([empty, *rows])


def _trainings(lake: Tables, custom_id: str) -> pl.DataFrame:
    """Trainings whose examples had the row, with its role in each."""
    roles = lake["training_rows"].scan().filter(pl.col("id") == custom_id).select("model_path", "role")
    return lake["finetuning_runs"].scan().join(roles, on="model_path").collect().sort("created_at", "model_path")


def _shown(lake: Tables, curated: pl.DataFrame) -> pl.DataFrame:
    """Evaluation and arm of the prompts that showed the row as an example.

    One request of each arm is read, since all show the same.
    """
    arms = lake["evaluations"].scan().filter(pl.col("task").is_in(curated["task"].unique().to_list()))
    first = arms.group_by("evaluation_id", "arm").agg(pl.col("custom_id").drop_nulls().first()).collect()
    asked = pl.col("custom_id").is_in(first["custom_id"].drop_nulls().to_list())
    prompts = lake["training_data_raw"].scan().filter(asked).select("custom_id", "messages").collect()
    turns = set(curated.select("input", "output").iter_rows())
    showing = [
        row["custom_id"] for row in prompts.to_dicts() if turns & set(_turns(json.loads(row["messages"] or "[]")))
    ]
    return first.filter(pl.col("custom_id").is_in(showing)).select("evaluation_id", "arm")


def _turns(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Question and answer of the examples in a prompt (``icl.with_examples``)."""
    turns = [[message.get(name) for name in ("role", "content")] for message in messages]
    pairs = [(a, b) for (asks, a), (answers, b) in pairwise(turns) if (asks, answers) == ("user", "assistant")]
    return [
        (a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str)
    ]  # examples are texts, calls and parts are not


# ---- in words --------------------------------------------------------------------------------------------------------


def as_text(life: dict[str, pl.DataFrame]) -> str:
    """Return the life of a row, from ``follow``, as text: one step a block, with the runs that wrote it."""
    raw = life["training_data_raw"].row(0, named=True)
    blocks = [f"{raw['custom_id']}: sample {raw['sample']} about {raw['candidate_id']}, task {raw['task']}"]
    for title, tables, say in _STEPS:
        rows = [life[table] for table in tables if table in life]
        runs = dict.fromkeys(run for frame in rows for run in frame["run_id"].to_list())
        lines = [line for line in say(life) if line]
        if lines:
            blocks.append("\n  ".join([title + "".join(f" · {run}" for run in runs), *lines]))
    return "\n\n".join(blocks)


def _rows(life: dict[str, pl.DataFrame], table: str) -> list[dict[str, Any]]:
    return life[table].to_dicts() if table in life else []


def _candidate(life: dict[str, pl.DataFrame]) -> list[str]:
    lines = []
    for row in _rows(life, "candidates"):
        facts = [row[name] for name in ("candidate_id", "title", "company", "category") if row[name]]
        lines.append(", ".join([*facts, f"{row['split'] or 'no'} split", f"group {row['group_id']}"]))
    return lines or ["not in the lake"]


def _request(life: dict[str, pl.DataFrame]) -> list[str]:
    raw = life["training_data_raw"].row(0, named=True)
    batch = f"batch {raw['batch_id']}" if raw["batch_id"] else "no batch recorded"
    lines = [f"model {raw['model'] or 'unknown'}, {batch}, attempt {raw['attempt'] or 'unknown'}"]
    for row in _rows(life, "training_runs"):
        lines.append(f"one of a generate run over {row['total_candidates']:,} candidates, {row['params'] or ''}")
    return lines


def _output(life: dict[str, pl.DataFrame]) -> list[str]:
    raw = life["training_data_raw"].row(0, named=True)
    tokens = f"{_known(raw['prompt_tokens'])} + {_known(raw['completion_tokens'])} tokens"
    return [f"{raw['status']}, finish_reason {_known(raw['finish_reason'])}, {tokens}", _cut(raw["llm_output"])]


def _scores(life: dict[str, pl.DataFrame]) -> list[str]:
    lines = []
    for row in _rows(life, "training_data_scored"):
        quality = "unscored: " + str(row["reason"]) if row["quality"] is None else f"quality {row['quality']:.3f}"
        parts = [
            f"{c.removeprefix('score_')} {v:.2f}" for c, v in row.items() if c.startswith("score_") and v is not None
        ]
        marks = ["repaired before it was scored"] if row["repaired"] else []
        marks += [f"as it came it broke the SCHEMA: {row['schema_error']}"] if row["schema_error"] else []
        lines.append("; ".join([f"{quality} by scorers {row['scorer_version']}", ", ".join(parts), *marks]))
    return lines or ["never scored"]


def _reviews(life: dict[str, pl.DataFrame]) -> list[str]:
    texts = {text for row in _rows(life, "training_data_curated")[-1:] for text in _readings(row)}
    known = {decisions.sha256(text) for text in texts}
    lines = [
        f"{row['decided_at']:%Y-%m-%d %H:%M} {row['reviewer']}: {row['decision']}"
        + (f" to {_cut(row['edited_output'])}" if row["edited_output"] else "")
        + (" (of another text)" if known and row["shown_sha256"] not in known and row["decision"] != "undo" else "")
        for row in _rows(life, "reviews")
    ]
    if lines and "training_data_curated" in life:
        newest = life["training_data_curated"][-1:]
        is_disputed = decisions.standing(newest, life["reviews"])["disputed"].item() is not None
        lines += ["disputed: it trains nobody until somebody adjudicates"] if is_disputed else []
    return lines or ["nobody reviewed it"]


def _readings(row: dict[str, Any]) -> list[str]:
    """The texts that a curated row stands for: its answer, and what it was before it was edited."""
    original = decisions.metadata_of(row["metadata"]).get("original_output")
    return [row["output"], *([] if original is None else [original])]


def _kept(life: dict[str, pl.DataFrame]) -> list[str]:
    lines = []
    for row in _rows(life, "training_data_curated"):
        stand = "approved" if row["approved"] else "not reviewed" if row["needs_review"] else "rejected"
        by = f" by {row['reviewed_by']}" if row["reviewed_by"] else ""
        quality = "unknown" if row["quality_score"] is None else f"{row['quality_score']:.3f}"
        lines.append(f"version {row['version']}: quality {quality}, {row['split']} split, {stand}{by}")
    return lines or ["not in the curated set"]


def _sets(life: dict[str, pl.DataFrame]) -> list[str]:
    trials = _rows(life, "icl_trials")
    lines = []
    if trials:
        best = max(trials, key=lambda row: row["score"] or 0.0)
        lines.append(
            f"in {len(trials):,} trials of {len({row['search_id'] for row in trials}):,} searches, "
            f"the best with {_known(best['score'])} on {_known(best['n_validation'])} rows"
        )
    for row in _rows(life, "icl_examples"):
        place = row["example_ids"].index(life["training_data_raw"]["custom_id"][0]) + 1
        lines.append(
            f"chosen, as number {place} of {len(row['example_ids'])}: {row['id']}, validation "
            f"{_known(row['validation_score'])} [{_known(row['ci_low'])}, {_known(row['ci_high'])}] "
            f"n={_known(row['n_validation'])}"
        )
    return lines or ["in no set of examples"]


def _adapters(life: dict[str, pl.DataFrame]) -> list[str]:
    states = {row["version"]: row["state"] for row in _rows(life, "model_events")}
    lines = []
    for row in _rows(life, "finetuning_runs"):
        lines.append(f"{row['model_path']} ({states.get(row['model_path'], 'not registered')})")
        roles = {
            "trained": f"one of the {_known(row['training_examples'])} examples that it learned from",
            "held out": "held out for its loss",
        }
        role = roles.get(row["role"], f"left out of its training: {row['role']}")
        data = f", {_known(row['data_version'])}" if row["arm"] == "curated" else ""
        lines.append(f"  {role}; arm {row['arm']}{data}")
    served = [f"served: {row['version']} at {_known(row['endpoint'])}" for row in _rows(life, "deployments")]
    return [*(lines or ["no adapter learned from it"]), *served]


def _answers(life: dict[str, pl.DataFrame]) -> list[str]:
    rows = life.get("evaluations")
    if rows is None:
        return ["none came of it"]
    own = rows.filter(pl.col("custom_id") == life["training_data_raw"]["custom_id"][0])
    lines = [f"it is itself the answer of {row['arm']} in {row['evaluation_id']}" for row in own.to_dicts()]
    others = rows.join(own, on="custom_id", how="anti", nulls_equal=True, maintain_order="left")
    means = others.group_by("evaluation_id", "arm", "model", maintain_order=True).agg(
        n=pl.len(), mean=pl.col("quality").mean(), scored=pl.col("quality").count()
    )
    lines += [
        f"{row['evaluation_id']} {row['arm']}: n={row['n']:,}, mean quality {_known(row['mean'])} over "
        f"{row['scored']:,} scored, {row['model']}"
        for row in means.to_dicts()
    ]
    return lines


_STEPS: list[tuple[str, tuple[str, ...], Any]] = [
    ("candidate", ("candidates",), _candidate),
    ("request", ("training_data_raw",), _request),
    ("output", ("training_data_raw",), _output),
    ("scores", ("training_data_scored",), _scores),
    ("reviews", ("reviews",), _reviews),
    ("curated set", ("training_data_curated",), _kept),
    ("in-context sets", ("icl_trials", "icl_examples"), _sets),
    ("adapters", ("finetuning_runs", "model_events", "deployments"), _adapters),
    ("test answers", ("evaluations",), _answers),
]


def _known(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _cut(text: str | None) -> str:
    if text is None:
        return ""
    line = " ".join(text.split())
    return line if len(line) <= _ANSWER_CHARS else f"{line[:_ANSWER_CHARS]} …"
