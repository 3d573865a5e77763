"""Kept rows to examples that later phases may use, and the control set that shows whether the choice was worth anything.

This module does not know how rows were scored or cut (scoring, selection) nor how people decide (review); what they
decided it asks of decisions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from arislab import questions, review
from arislab import task as tasks
from arislab.batch import protocol
from arislab.errors import ParameterError, closest
from arislab.review import decisions
from arislab.task import Task

_MARKS = ("original_output", "scored_sha256")
"""Facts by which `decisions` knows an edited row; a column of these names in an older import is none."""
_METADATA = ("company", "title", "category", "use_case")


def examples(kept: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return rows of ``training_data_curated`` for kept outputs; nobody has reviewed them yet.

    Args:
        kept: custom_id, candidate_id, task, input, messages (null: written again by the task), output, quality,
            metadata; tools, tool_calls and finish_reason, if present (an output that is calls of tools stays one);
            repaired (where true, the example's metadata say so); original_output (where not null, output is a text that
            a reviewer made of it, and quality that text's: the metadata keep the original, and scored_sha256).
        candidates: Rows of ``candidates`` behind them.
        task: Its to_messages, difficulty and category fill what the record does not have.
    """
    if not kept.height:
        raise ParameterError(
            "the cut keeps no row; lower keep_threshold or raise keep_fraction (if no row has a quality, see what the scorers return). The curated set "
            "stays as it was."
        )
    people = {
        row["candidate_id"]: tasks.candidate_of(row)
        for row in candidates.join(kept, on="candidate_id", how="semi").to_dicts()
    }
    rows = []
    for row in kept.to_dicts():
        candidate = people[row["candidate_id"]]
        if not row["messages"]:  # the answer is to its own question, not to the first of its name
            candidate = questions.about(candidate, row.get("input"))
        messages = json.loads(row["messages"]) if row["messages"] else task.to_messages(candidate)
        facts: dict[str, Any] = {name: candidate[name] for name in _METADATA if candidate.get(name) is not None}
        facts["difficulty"] = None
        facts |= json.loads(row["metadata"]) if row.get("metadata") else {}  # what the user kept at import goes first
        facts = {name: fact for name, fact in facts.items() if name not in _MARKS}
        if task.difficulty:
            facts["difficulty"] = task.difficulty(candidate)
        if row.get("repaired"):
            facts["repaired"] = True
        if row.get("original_output") is not None:
            facts |= {"original_output": row["original_output"], "scored_sha256": decisions.sha256(row["output"])}
        if task.category:
            facts["category"] = task.category(candidate)
        rows.append({
            "id": row["custom_id"], "candidate_id": row["candidate_id"], "custom_id": row["custom_id"], "task": task.name,
            "input": protocol.asked(messages), "messages": json.dumps(messages, ensure_ascii=False), "output": row["output"],
            "tools": row.get("tools"), "tool_calls": _calls(row),
            "quality_score": row["quality"], "needs_review": True, "approved": False, "reviewed_by": None,
            "metadata": json.dumps(facts, ensure_ascii=False, sort_keys=True, default=str), "split": candidate["split"], "updated_at": None,
        })  # fmt: skip
    schema: dict[str, Any] = {
        "reviewed_by": pl.String,
        "tools": pl.String,
        "tool_calls": pl.String,
        "quality_score": pl.Float64,
        "needs_review": pl.Boolean,
        "approved": pl.Boolean,
        "updated_at": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)  # one row per kept example


def _calls(row: Mapping[str, Any]) -> str | None:
    """The calls of tools that an output is, as they came; rows of older versions have them as the text alone."""
    if row.get("tool_calls") or row.get("finish_reason") != "tool_calls":
        return row.get("tool_calls")
    text = row.get("original_output") or row["output"]
    return text if text and text.lstrip().startswith("[") else None


def approved(curated: pl.DataFrame, reviews: pl.DataFrame | None = None, *, approve: str) -> pl.DataFrame:
    """Return the curated rows of the train split that later phases may use under a policy, as all decisions leave them.

    A decision counts at once, whether or not 2_curate has seen it: rejected rows go, taken-back approvals too, edits
    are applied.

    Args:
        curated: Rows of ``training_data_curated``.
        reviews: Rows of ``reviews``: every event so far; null: only those count that the curated rows have seen.
        approve: ``reviewed``: a person approved or edited the row. ``score``: also rows that nobody has looked at yet.
            What a person rejected stays out under both, and so does a row whose earlier text was rejected, until
            somebody looks at the new one.

    Raises:
        ParameterError: Another policy, or one that leaves no row.
    """
    reviews = pl.DataFrame(schema=decisions.SCHEMA) if reviews is None else reviews
    rows = usable(curated, reviews, approve=approve)
    if not rows.height:
        counts = review.progress(curated, reviews).filter(pl.col("rows") > 0)
        states = ", ".join(f"{n:,} {state}" for state, n in counts.select("state", "rows").iter_rows())
        raise ParameterError(
            f"approve={approve!r} leaves none of {curated.height:,} curated rows ({states or 'there are none'}); run 2_curate, review some in "
            "notebooks/review.ipynb, or use approve='score'."
        )
    return rows


def usable(curated: pl.DataFrame, reviews: pl.DataFrame, *, approve: str) -> pl.DataFrame:
    """Return what ``approved`` returns, or no row."""
    if approve not in ("reviewed", "score"):
        raise ParameterError(
            f"approve must be 'reviewed' or 'score', got {approve!r}; 'score' also takes rows that nobody has reviewed."
        )
    is_doubtful = (pl.col("stale") == "reject").fill_null(value=False)
    is_free = (
        pl.col("approved") if approve == "reviewed" else pl.col("approved") | pl.col("needs_review") & ~is_doubtful
    )
    return decisions.standing(curated, reviews).filter(pl.col("split") == "train", is_free).select(curated.columns)


def withdrawn(ids: Sequence[str], curated: pl.DataFrame, reviews: pl.DataFrame, *, approve: str | None) -> list[str]:
    """Return those of the ids that the decisions of today no longer let be used.

    Args:
        ids: Of examples that were shown or learned.
        curated: The rows of ``training_data_curated`` that they came from.
        reviews: Every event so far.
        approve: The policy under which they were used; null (older records): score.
    """
    now = set(usable(curated, reviews, approve=approve or "score")["id"])
    return [name for name in ids if name not in now]


def data_version(versions: Mapping[str, int | None]) -> str:
    """Return what a record says of the tables that its examples came from; a table that does not exist yet is left out.

    Example:
        >>> data_version({"training_data_curated": 3, "reviews": 12})
        'training_data_curated@3 reviews@12'
    """
    return " ".join(f"{table}@{n}" for table, n in versions.items() if n is not None)


def versions(data_version: str) -> dict[str, int]:
    """Return the tables and versions of a ``data_version``; older ones name training_data_curated alone.

    No decision was folded then.

    Example:
        >>> versions("training_data_curated@3 reviews@12")
        {'training_data_curated': 3, 'reviews': 12}
    """
    return {table: int(n) for table, _, n in (part.partition("@") for part in data_version.split())}


def hold_out(examples: pl.DataFrame, *, fraction: float, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (examples to train on, examples held out for the loss): all answers about one candidate stay together.

    Args:
        examples: From ``approved``.
        fraction: Share of the candidates to hold out; at least one, and at least one stays.
        seed: Of the draw, a stable hash of candidate_id.
    """
    names = examples["candidate_id"].unique().sort()
    if len(names) < 2:
        raise ParameterError(
            f"examples of at least 2 candidates are needed to train and to hold out, got {len(names)}; keep more rows in 2_curate."
        )
    order = names.to_frame().with_columns(_tie=_hash(names, seed)).sort("_tie")
    held = order.head(max(1, round(fraction * len(names)))).select("candidate_id")
    return examples.join(held, on="candidate_id", how="anti", maintain_order="left"), examples.join(
        held, on="candidate_id", how="semi", maintain_order="left"
    )


def one_per_group(candidates: pl.DataFrame) -> pl.DataFrame:
    """Return the first candidate of each group, by candidate_id: near-duplicates are not independent rows."""
    return candidates.sort("candidate_id").unique("group_id", keep="first", maintain_order=True)


def first_of_groups(candidates: pl.DataFrame, *, n: int, split: str) -> pl.DataFrame:
    """Return the first ``n`` candidates of different groups.

    Args:
        candidates: Rows of ``candidates`` of one split.
        n: How many; at most all.
        split: Name of the split, for the message.

    Raises:
        ParameterError: There is none.
    """
    if not candidates.height:
        raise ParameterError(
            f"no candidate is in the {split} split, and this phase asks about some; import more candidates, or give their splits with "
            "--split COLUMN."
        )
    return one_per_group(candidates).head(n)


def to_look_at(candidates: pl.DataFrame, *, n: int) -> tuple[pl.DataFrame, str]:
    """Return the first ``n`` validation candidates of different groups, and how many they are in words.

    There may be none: what is trained is trained all the same.

    Args:
        candidates: Rows of ``candidates`` of the validation split.
        n: How many; at most all.
    """
    people = one_per_group(candidates).head(n)
    if people.height:
        return people, f"{people.height:,} validation candidates"
    return people, (
        "WARNING: no candidate is in the validation split, so nothing is asked after the training: its loss is all that "
        "is seen of it here, and phase 5 judges it. Import more candidates, or give their splits with --split COLUMN"
    )


def serves(candidates: pl.DataFrame, *, use_case: str, column: str = "use_case") -> pl.DataFrame:
    """Return the candidates that a use case is about.

    Args:
        candidates: Rows of ``candidates``.
        use_case: ``general`` takes all; another name only those that have it in ``column``.
        column: Column of ``candidates``.

    Raises:
        ParameterError: There is no such column, or nobody has this use case.
    """
    if use_case == "general":
        return candidates
    if column not in candidates.columns:
        raise ParameterError(f"candidates have no column {column!r}; {closest(column, candidates.columns)}.")
    found = candidates.filter(pl.col(column) == use_case)
    if not found.height:
        known = candidates[column].drop_nulls().unique().to_list()
        raise ParameterError(f"no candidate has {column} {use_case!r}; {closest(use_case, [*known, 'general'])}.")
    return found


def pool(
    examples: pl.DataFrame,
    *,
    n: int,
    use_case: str = "general",
    column: str = "use_case",
    pinned: Sequence[str] = (),
    banned: Sequence[str] = (),
    one_per: str = "",
    seed: int = 0,
) -> pl.DataFrame:
    """Return up to ``n`` examples for the in-context search.

    The best by quality, one per candidate, ties by a stable hash.

    Args:
        examples: From ``approved``.
        n: Size of the pool.
        use_case: ``general`` takes all; another name only examples whose metadata have it in ``column``.
        column: As in ``serves``.
        pinned: Ids that are in the pool whatever their quality and use case; they count.
        banned: Ids that are not.
        one_per: Name of a fact in the metadata that becomes a column of the pool (null where an example has none), for
            ``icl.search(one_per=…)``; empty: none.
        seed: Of the hash.

    Raises:
        ParameterError: An id that no example has, more pins than places, or no example left.
    """
    for name in [*pinned, *banned]:
        if name not in examples["id"]:
            raise ParameterError(
                f'example {name!r} is not among the {examples.height:,} approved; `arislab sql "select id, input, output from training_data_curated"` lists them.'
            )
    fits = pl.lit(value=True)
    if use_case != "general":
        fits = (pl.col("metadata").str.json_path_match(f"$.{column}") == use_case).fill_null(value=False)
    is_pinned = pl.col("id").is_in(list(pinned))
    if "tool_calls" in examples.columns:  # shown as a turn of text they would teach to write calls as text
        examples = examples.filter(pl.col("tool_calls").is_null())
    rows = examples.filter(fits | is_pinned, ~pl.col("id").is_in(list(banned)))
    if not rows.height:
        raise ParameterError(
            f"no example has {column} {use_case!r} in its metadata; use 'general', or another use case."
        )
    rows = rows.with_columns(_tie=_hash(rows["id"], seed), _pinned=is_pinned).sort(
        "_pinned", "quality_score", "_tie", descending=[True, True, False], nulls_last=True
    )
    rows = rows.unique("candidate_id", keep="first", maintain_order=True).drop("_tie", "_pinned").head(n)
    if lost := set(pinned) - set(rows["id"]):
        raise ParameterError(
            f"pinned example {min(lost)!r} has no place in a pool of {n} with one example a candidate; pin fewer, or raise pool_size."
        )
    if not one_per:
        return rows
    found = rows.with_columns(pl.col("metadata").str.json_path_match(f"$.{one_per}").alias(one_per))
    if found[one_per].null_count() == found.height:
        known = {name for text in rows["metadata"].drop_nulls() for name in json.loads(text)}
        raise ParameterError(f"no example has {one_per!r} in its metadata; {closest(one_per, known)}.")
    return found


def draw(
    answers: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    curated: pl.DataFrame,
    heldout: pl.DataFrame,
    n: int,
    seed: int = 0,
) -> list[str]:
    """Return the custom_ids of ``n`` random outputs for ``control``: of the same models, about nobody who is held out.

    They are drawn by name, so that texts are read of these alone.

    Args:
        answers: custom_id, candidate_id, model of the rows of ``training_data_raw`` with status ok.
        candidates: Candidates of the train split.
        curated: Examples whose models count.
        heldout: Examples whose candidates do not.
        n: As in ``control``.
        seed: As in ``control``.
    """
    models = answers.join(curated, on="custom_id", how="semi").select("model").unique()
    rows = answers.join(models, on="model", how="semi", nulls_equal=True)
    rows = rows.join(heldout, on="candidate_id", how="anti").join(candidates, on="candidate_id", how="semi")
    return _drawn(rows, n=n, seed=seed)["custom_id"].to_list()


def control(raw: pl.DataFrame, candidates: pl.DataFrame, task: Task, *, n: int, seed: int = 0) -> pl.DataFrame:
    """Return ``n`` random outputs as examples: what training on uncurated rows of the same number gives.

    Args:
        raw: Rows of ``training_data_raw`` with status ok, of the models whose outputs were curated.
        candidates: Candidates of the train split.
        task: Writes the messages where the record has none.
        n: How many; at most all.
        seed: Of the draw, a stable hash of custom_id.
    """
    rows = raw.join(candidates, on="candidate_id", how="semi")
    drawn = _drawn(rows, n=n, seed=seed).rename({"llm_output": "output"})
    return examples(drawn.with_columns(quality=pl.lit(None, dtype=pl.Float64)), candidates, task)


def _drawn(rows: pl.DataFrame, *, n: int, seed: int) -> pl.DataFrame:
    return rows.with_columns(_tie=_hash(rows["custom_id"], seed)).sort("_tie").head(n)


def _hash(names: pl.Series, seed: int) -> pl.Series:
    return pl.Series([hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names], dtype=pl.String)
