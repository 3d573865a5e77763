"""Which curated rows may be used under a policy, by the decisions of then and of now.

It does not know how decisions are made or folded (review).
"""

from collections.abc import Mapping, Sequence

import polars as pl

from arislab import review
from arislab.errors import ParameterError
from arislab.review import decisions


def approved(curated: pl.DataFrame, reviews: pl.DataFrame | None = None, *, approve: str) -> pl.DataFrame:
    """Return the curated rows of the train split that later phases may use under a policy, as all decisions leave them.

    A decision counts at once, whether or not 2_curate has seen it: rejected rows go, taken-back approvals too, edits
    are applied.

    Args:
        curated: Rows of ``training_data_curated``.
        reviews: Rows of ``reviews``: every event so far; null: only those count that the curated rows have seen.
        approve: ``reviewed``: a person approved or edited the row. ``score``: also rows that nobody has looked at yet.
            What a person rejected stays out under both, and so does a row whose earlier text was rejected, until
            somebody looks at the new one, and one about which people disagree, until somebody adjudicates.

    Raises:
        ParameterError: Another policy, or one that leaves no row.
    """
    reviews = pl.DataFrame(schema=decisions.SCHEMA) if reviews is None else reviews
    rows = usable(curated, reviews, approve=approve)
    if not rows.height:
        counts = review.progress(curated, reviews).filter(pl.col("rows") > 0)
        states = ", ".join(f"{n:,} {state}" for state, n in counts.select("state", "rows").iter_rows())
        raise ParameterError(
            f"approve={approve!r} leaves none of {curated.height:,} curated rows ({states or 'there are none'}); run "
            "2_curate, review some in notebooks/review.ipynb, or use approve='score'."
        )
    return rows


def usable(curated: pl.DataFrame, reviews: pl.DataFrame, *, approve: str) -> pl.DataFrame:
    """Return what ``approved`` returns, or no row."""
    if approve not in ("reviewed", "score"):
        raise ParameterError(
            f"approve must be 'reviewed' or 'score', got {approve!r}; 'score' also takes rows that nobody has reviewed."
        )
    is_doubtful = (pl.col("stale") == "reject").fill_null(value=False) | pl.col("disputed").is_not_null()
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

    No decision had been folded into those.

    Example:
        >>> versions("training_data_curated@3 reviews@12")
        {'training_data_curated': 3, 'reviews': 12}
    """
    return {table: int(n) for table, _, n in (part.partition("@") for part in data_version.split())}
