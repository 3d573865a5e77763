"""Which curated rows may be used under a policy, by the decisions of then and of now.

It does not know how decisions are made or folded (review).
"""

from collections.abc import Mapping, Sequence

import polars as pl

from arislab import review
from arislab.errors import ParameterError, closest
from arislab.review import certificates, decisions
from arislab.system.kinds import takes_any_frame

POLICIES = ("reviewed", "certified", "score")


@takes_any_frame
def approved(
    curated: pl.DataFrame,
    reviews: pl.DataFrame | None = None,
    *,
    approve: str,
    certified: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the curated rows of the train split that later phases may use under a policy, as all decisions leave them.

    A decision counts at once, whether or not 2_curate has seen it: rejected rows go, taken-back approvals too, edits
    are applied.

    Args:
        curated: Rows of ``training_data_curated``.
        reviews: Rows of ``reviews``: every event so far; null: only those count that the curated rows have seen.
        approve: ``reviewed``: a person approved or edited the row. ``certified``: also rows that a certificate in force
            approves. ``score``: also rows that nobody has looked at yet. What a person rejected stays out under all,
            and so does a row whose earlier text was rejected, until somebody looks at the new one, and one about which
            people disagree, until somebody adjudicates.
        certified: From ``in_force``; ``certified`` needs it, no other policy reads it.

    Raises:
        ParameterError: Another policy, one that leaves no row, or ``certified`` without certificates to go by.
    """
    reviews = pl.DataFrame(schema=decisions.SCHEMA) if reviews is None else reviews
    rows = usable(curated, reviews, approve=approve, certified=certified)
    if not rows.height:
        counts = review.progress(certificates.cleared(curated), reviews).filter(pl.col("rows") > 0)
        states = ", ".join(f"{n:,} {state}" for state, n in counts.select("state", "rows").iter_rows())
        raise ParameterError(
            f"approve={approve!r} leaves none of {curated.height:,} curated rows ({states or 'there are none'}); run "
            "2_curate, review some in notebooks/review.ipynb, or use approve='score'."
        )
    return rows


@takes_any_frame
def usable(
    curated: pl.DataFrame, reviews: pl.DataFrame, *, approve: str, certified: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return what ``approved`` returns, or no row."""
    if approve not in POLICIES:
        raise ParameterError(
            f"approve must be 'reviewed', 'certified' or 'score', got {approve!r}; {closest(approve, POLICIES)}. "
            "'score' also takes rows that nobody has reviewed."
        )
    if approve == "certified" and certified is None:
        raise ParameterError(
            "approve='certified' needs certified=…: the rows of the certificates in force, from curate.in_force."
        )
    rows = decisions.standing(certificates.cleared(curated), reviews)
    if approve == "certified" and certified is not None:
        rows = certificates.applied(rows, reviews, certified)
    is_doubtful = (pl.col("stale") == "reject").fill_null(value=False) | pl.col("disputed").is_not_null()
    is_free = pl.col("approved")
    if approve == "score":
        is_free |= pl.col("needs_review") & ~is_doubtful
    return rows.filter(pl.col("split") == "train", is_free).select(curated.columns)


@takes_any_frame
def withdrawn(
    ids: Sequence[str],
    curated: pl.DataFrame,
    reviews: pl.DataFrame,
    *,
    approve: str | None,
    certified: pl.DataFrame | None = None,
) -> list[str]:
    """Return those of the ids that the decisions of today no longer let be used.

    Args:
        ids: Of examples that were shown or learned.
        curated: The rows of ``training_data_curated`` that they came from.
        reviews: Every event so far.
        approve: The policy under which they were used; null (older records): score.
        certified: As in ``approved``, of today.
    """
    now = set(usable(curated, reviews, approve=approve or "score", certified=certified)["id"])
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
