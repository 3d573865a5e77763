"""What a gate looks at beside the gain: in-context examples, format, ends, refusals, and what was known before.

Each check says passed, failed, unclear (the rows are too few to say; with the number that would do), or not measured.
"""

import math
from typing import Any

import polars as pl

from arislab import stats

RATES = {"is_valid": "format validity", "is_whole": "stop rate", "is_answered": "answers that are no refusals"}
"""Columns of ``evaluate.rates``, and what the share of true is called."""
SFT = "sft"
"""Arm of the adapter with which preference training began."""
_MOST = 10_000_000


def checks(
    comparison: pl.DataFrame,
    *,
    arm: str,
    rates: pl.DataFrame,
    costs: pl.DataFrame,
    forgetting: pl.DataFrame | None,
    baseline: str = "baseline",
    icl: str = "icl",
    icl_margin: float = 0.02,
    rate_margin: float = 0.03,
    forgetting_margin: float = 0.02,
) -> list[dict[str, Any]]:
    """Return what is looked at beside the gain over the baseline, in a fixed order.

    Args:
        comparison: From ``stats.compare``, with a row of the arm against ``icl``; an adapter that was trained further
            has one against ``SFT`` too, and must be better: to keep that one costs nothing.
        arm: The arm to promote.
        rates: From ``evaluate.rates``.
        costs: From ``evaluate.costs``.
        forgetting: From ``stats.compare``: the arm against the baseline on the task's FORGETTING rows; null: the task
            names none.
        baseline: What the arm must not be worse than in format, ends and refusals.
        icl: Arm with in-context examples.
        icl_margin: By how much the quality may lie below that of ``icl``.
        rate_margin: By how much each rate may lie below that of the baseline.
        forgetting_margin: By how much the score of FORGETTING rows may lie below that of the baseline.

    Returns:
        One object per check: check (its name), verdict, reason (in words), difference, low, high (the arm less the
        other; null: not measured), margin, n, n_needed (rows that would decide; null: it is decided, or no number
        would).
    """
    begun = comparison.filter((pl.col("arm") == arm) & (pl.col("baseline") == SFT))
    return [
        beside_icl(comparison, costs, arm=arm, icl=icl, margin=icl_margin),
        *([_beyond(begun.row(0, named=True))] if begun.height else []),
        *(not_lower(rates, column, arm=arm, baseline=baseline, margin=rate_margin) for column in RATES),
        _forgets(forgetting, arm=arm, baseline=baseline, margin=forgetting_margin),
    ]


def _beyond(row: dict[str, Any]) -> dict[str, Any]:
    """Is an adapter better than the one that it was trained further from?"""
    numbers = {k: row[k] for k in ("difference", "low", "high", "n")} | {"margin": 0.0}
    name, gain = "where it began", f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if row["low"] > 0:
        return _said(name, "passed", f"better than the adapter that it began with ({gain})", **numbers)
    if row["high"] < 0:
        return _said(name, "failed", f"worse than the adapter that it began with ({gain})", **numbers)
    why = f"not shown to be better than the adapter that it began with, which costs nothing ({gain})"
    needed = rows_for(row, 0.0) if math.isfinite(row["low"]) and math.isfinite(row["high"]) else None
    return _said(name, "unclear", why, **numbers, n_needed=needed)


def beside_icl(comparison: pl.DataFrame, costs: pl.DataFrame, *, arm: str, icl: str, margin: float) -> dict[str, Any]:
    """Is the arm as good as in-context examples, or cheaper and not shown to be worse?

    As good: the lower end of its gain lies above minus the margin. An arm whose prompts are shorter need not show that,
    if its gain lies above minus the margin and the interval reaches 0. It fails where the upper end lies below.

    Args:
        comparison: From ``stats.compare``.
        costs: From ``evaluate.costs``: arm, prompt_tokens (per 1,000 answers).
        arm: The arm to promote.
        icl: Arm with in-context examples.
        margin: By how much its quality may lie below.
    """
    name = "in-context"
    rows = comparison.filter((pl.col("arm") == arm) & (pl.col("baseline") == icl))
    if not rows.height:
        return _said(name, "not measured", f"no arm {icl} was compared", margin=margin)
    row = rows.row(0, named=True)
    told: dict[str, float | None] = dict(costs.select("arm", "prompt_tokens").iter_rows())
    mine, theirs = told.get(arm), told.get(icl)
    is_cheaper = mine is not None and theirs is not None and mine < theirs
    numbers = {k: row[k] for k in ("difference", "low", "high", "n")} | {"margin": margin}
    price = (
        "" if mine is None or theirs is None else f"; {mine:,.0f} prompt tokens per 1,000 answers, {icl} {theirs:,.0f}"
    )
    gain = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if not math.isfinite(row["low"]) or not math.isfinite(row["high"]):
        return _said(name, "unclear", f"too few rows beside {icl} for an interval{price}", **numbers)
    if row["low"] > -margin:
        return _said(name, "passed", f"not below {icl} by more than {margin:g} ({gain}){price}", **numbers)
    if row["high"] < -margin:
        return _said(name, "failed", f"below {icl} by more than {margin:g} ({gain}){price}", **numbers)
    if is_cheaper and row["high"] >= 0 and row["difference"] >= -margin:
        return _said(name, "passed", f"cheaper than {icl}, not shown to be worse ({gain}){price}", **numbers)
    needed = rows_for(row, -margin)
    return _said(
        name,
        "unclear",
        f"may be below {icl} by more than {margin:g} ({gain}){price}",
        **numbers,
        n_needed=needed,
    )


def not_lower(rates: pl.DataFrame, column: str, *, arm: str, baseline: str, margin: float) -> dict[str, Any]:
    """Is a rate of an arm lower than that of the baseline by no more than a margin?

    By the wider of two intervals. Exact bounds on groups of candidates: of how many the arm loses what the baseline
    had, at most (97.5 %), less that of how many it gains, at least (97.5 %); where nothing was lost on few rows, much
    may be lost on others. And the paired bootstrap over whole groups, which knows how many rows a group has.

    Args:
        rates: From ``evaluate.rates``.
        column: One of ``RATES``.
        arm: The arm to promote.
        baseline: What it is compared with.
        margin: By how much the rate may be lower.

    Source:
        Clopper and Pearson 1934; two bounds at half the level each hold together (Bonferroni).
    """
    name = RATES[column]
    pairs = rates.filter(pl.col("arm").is_in([arm, baseline]), pl.col(column).is_not_null()).pivot(
        on="arm", index=["candidate_id", "group_id"], values=column
    )
    if not {arm, baseline} <= set(pairs.columns) or not pairs.drop_nulls().height:
        if column == "is_valid" and not rates[column].count():
            return _said(name, "not measured", f"{name}: not measured (the task has no SCHEMA)", margin=margin)
        return _said(name, "unclear", f"{name}: no candidate has an answer of both arms", margin=margin)
    pairs = pairs.drop_nulls().with_columns(
        lost=(pl.col(baseline) & ~pl.col(arm)).cast(pl.Int64), won=(pl.col(arm) & ~pl.col(baseline)).cast(pl.Int64)
    )
    # candidates of a group are not independent: a group loses or wins as a whole
    groups = pairs.group_by("group_id").agg(change=pl.col("won").sum() - pl.col("lost").sum())["change"]
    n, n_lost, n_won = groups.len(), int((groups < 0).sum()), int((groups > 0).sum())
    means = [int(pairs[each].sum()) / pairs.height for each in (arm, baseline)]
    rows = pairs.unpivot([arm, baseline], index="candidate_id", variable_name="arm", value_name="share")
    by_rows = stats.compare(
        rows.with_columns(pl.col("share").cast(pl.Float64)),
        contrasts=[(arm, baseline)],
        by="share",
        groups=pairs.select("candidate_id", "group_id"),
    ).row(0, named=True)
    low = min(by_rows["low"], stats.lower_bound(n_won / n, n, alpha=0.025) - _upper(n_lost, n))
    high = max(by_rows["high"], _upper(n_won, n) - stats.lower_bound(n_lost / n, n, alpha=0.025))
    numbers = {"difference": means[0] - means[1], "low": low, "high": high, "margin": margin, "n": pairs.height}
    shown = f"{name} {means[0]:.1%}, {baseline} {means[1]:.1%}"
    if low >= -margin:
        return _said(name, "passed", shown, **numbers)
    if high < -margin:
        return _said(name, "failed", f"{shown}: lower by more than {margin:.2%}", **numbers)
    needed = rows_for(by_rows, -margin) if means[0] - means[1] > -margin else None
    if n_lost / n - n_won / n < margin and means[0] - means[1] > -margin:
        exact = next(
            (
                m
                for m in _sizes(n)
                if stats.lower_bound(n_won / n, m, alpha=0.025) - _upper(n_lost / n * m, m) >= -margin
            ),
            None,
        )
        needed = max((each for each in (needed, exact) if each is not None), default=None)
    why = f"{shown}: may be lower by {-low:.2%}, {margin:.2%} is allowed"
    return _said(name, "unclear", why, **numbers, n_needed=needed)


def rows_for(row: dict[str, Any], margin: float) -> int | None:
    """Return how many rows would show that a difference is above a margin, or below it; null: no number would.

    As it is now, with a chance of 80 %: ``n * ((1.96 + 0.84) * standard error / distance) ** 2``.

    Args:
        row: Of ``stats.compare``: difference, low, high, n.
        margin: What is to be exceeded.
    """
    distance, width = abs(float(row["difference"]) - margin), float(row["high"] - row["low"]) / (2 * 1.96)
    if not distance or not width or math.isnan(width):
        return None
    n = int(row["n"])
    return min(_MOST, max(n + 1, math.ceil(n * ((1.96 + 0.84) * width / distance) ** 2)))


def _forgets(forgetting: pl.DataFrame | None, *, arm: str, baseline: str, margin: float) -> dict[str, Any]:
    if forgetting is None:
        why = "forgetting: not measured (the task names no FORGETTING rows)"
        return _said("forgetting", "not measured", why, margin=margin)
    rows = forgetting.filter((pl.col("arm") == arm) & (pl.col("baseline") == baseline))
    row = rows.row(0, named=True) if rows.height else {}
    if not rows.height or not math.isfinite(row["low"]):
        why = f"the FORGETTING rows were not compared, or are too few ({row.get('n', 0)})"
        return _said("forgetting", "unclear", why, margin=margin)
    numbers = {k: row[k] for k in ("difference", "low", "high", "n")} | {"margin": margin}
    shown = f"on FORGETTING rows {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], n {row['n']:,}"
    if row["low"] >= -margin:
        return _said("forgetting", "passed", shown, **numbers)
    if row["high"] < -margin:
        return _said("forgetting", "failed", f"{shown}: more than {margin:g} is forgotten", **numbers)
    why = f"{shown}: more than {margin:g} may be forgotten"
    return _said("forgetting", "unclear", why, **numbers, n_needed=rows_for(row, -margin))


def _said(check: str, verdict: str, reason: str, **numbers: Any) -> dict[str, Any]:
    return {"check": check, "verdict": verdict, "reason": reason} | {
        name: numbers.get(name) for name in ("difference", "low", "high", "margin", "n", "n_needed")
    }


def _upper(count: float, n: int) -> float:
    return 1.0 - stats.lower_bound(1.0 - count / n, n, alpha=0.025)


def _sizes(n: int) -> list[int]:
    """Numbers of rows that are tried, each a tenth more than the one before."""
    sizes = [n + 1]
    while sizes[-1] < 1_000_000:
        sizes.append(math.ceil(sizes[-1] * 1.1))
    return sizes
