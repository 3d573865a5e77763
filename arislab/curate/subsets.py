"""Parts of the examples and of the candidates: which are trained, held out, chosen from, and asked about.

Who is taken is a stable hash of names, never their order: rows that are added later move nobody else.
"""

import hashlib
import json
from collections.abc import Sequence

import polars as pl

from arislab.errors import ParameterError, closest
from arislab.review import certificates
from arislab.system.kinds import takes_any_frame


@takes_any_frame
def hold_out(
    examples: pl.DataFrame, *, fraction: float, seed: int = 0, least: int = 1
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (examples to train on, examples held out for the loss): all answers about one candidate stay together.

    Args:
        examples: From ``approved``.
        fraction: Share of the candidates to hold out; at least ``least``, and at least one stays.
        seed: Of the draw, a stable hash of candidate_id.
        least: Fewest candidates whose loss says something. Where these were more than a tenth of all, nobody is held
            out, and all are trained on: the loss of a handful rises and falls by chance. 1: always.

    Raises:
        ParameterError: The examples are of fewer than two candidates.
    """
    names = examples["candidate_id"].unique().sort()
    if len(names) < 2:
        raise ParameterError(
            f"examples of at least 2 candidates are needed to train and to hold out, got {len(names)}; keep more rows "
            "in 2_curate."
        )
    order = names.to_frame().with_columns(_tie=stable_hash(names, seed)).sort("_tie")
    n_held = max(least, round(fraction * len(names)))
    if least > 1 and n_held > len(names) / 10:
        return examples, examples.clear()
    held = order.head(n_held).select("candidate_id")
    rest = examples.join(held, on="candidate_id", how="anti", maintain_order="left")
    return rest, examples.join(held, on="candidate_id", how="semi", maintain_order="left")


@takes_any_frame
def one_per_group(candidates: pl.DataFrame) -> pl.DataFrame:
    """Return the first candidate of each group, by candidate_id: near-duplicates are not independent rows."""
    return candidates.sort("candidate_id").unique("group_id", keep="first", maintain_order=True)


@takes_any_frame
def spread(candidates: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return up to ``n`` candidates of as many groups as there are: the first of each group, then the second of each.

    Rows of one group are not independent (``stats`` resamples whole groups), so that more groups tell more than more
    rows.

    Args:
        candidates: Rows of ``candidates``.
        n: How many; at most all.
    """
    ordered = candidates.sort("candidate_id")
    place = pl.int_range(pl.len()).over("group_id")
    return ordered.with_columns(_place=place).sort("_place", "candidate_id").drop("_place").head(n)


@takes_any_frame
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
            f"no candidate is in the {split} split, and this phase asks about some; import more candidates, or give "
            "their splits with --split COLUMN."
        )
    return one_per_group(candidates).head(n)


@takes_any_frame
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
        "WARNING: no candidate is in the validation split, so nothing is asked after the training: its loss is all "
        "that is seen of it. Phase 3 needs such candidates, and phase 5 what phase 3 chose: import more, or give their "
        "splits with --split COLUMN"
    )


@takes_any_frame
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
    people = candidates.filter(pl.col(column) == use_case)
    if not people.height:
        known = candidates[column].drop_nulls().unique().to_list()
        raise ParameterError(f"no candidate has {column} {use_case!r}; {closest(use_case, [*known, 'general'])}.")
    return people


@takes_any_frame
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

    They are the best by quality, one per candidate; ties go by a stable hash. A row that only a certificate approved is
    none: it is shown with every request, and nobody has looked at it.

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
    if "reviewed_by" in examples.columns:
        n_given, examples = examples.height, examples.filter(~certificates.is_of_certificate())
        if n_given and not examples.height:
            raise ParameterError(
                f"only certificates approved the {n_given:,} rows, and such rows are no in-context examples; review "
                "some in review.ipynb, or use approve='score'."
            )
    for name in [*pinned, *banned]:
        if name not in examples["id"]:
            raise ParameterError(
                f"example {name!r} is not among the {examples.height:,} approved; "
                '`arislab sql "select id, input, output from training_data_curated"` lists them.'
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
    rows = rows.with_columns(_tie=stable_hash(rows["id"], seed), _pinned=is_pinned).sort(
        "_pinned", "quality_score", "_tie", descending=[True, True, False], nulls_last=True
    )
    rows = rows.unique("candidate_id", keep="first", maintain_order=True).drop("_tie", "_pinned").head(n)
    if lost := set(pinned) - set(rows["id"]):
        raise ParameterError(
            f"pinned example {min(lost)!r} has no place in a pool of {n} with one example a candidate; pin fewer, or "
            "raise pool_size."
        )
    return _with_fact(rows, one_per) if one_per else rows


def _with_fact(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return examples with a fact of their metadata as a column."""
    facts = rows.with_columns(pl.col("metadata").str.json_path_match(f"$.{name}").alias(name))
    if facts[name].null_count() == facts.height:
        known = {fact for text in rows["metadata"].drop_nulls() for fact in json.loads(text)}
        raise ParameterError(f"no example has {name!r} in its metadata; {closest(name, known)}.")
    return facts


def stable_hash(names: pl.Series, seed: int) -> pl.Series:
    """Return a hash of each name, the same on every machine: an order that is random and repeats."""
    return pl.Series(
        [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names.to_list()], dtype=pl.String
    )
