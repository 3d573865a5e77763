"""The gate: whether what was measured on the test split speaks for a promotion."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from arislab.errors import ParameterError
from arislab.models.beside import rows_for


def gate(
    comparison: pl.DataFrame,
    *,
    arm: str,
    baseline: str = "baseline",
    margin: float = 0.0,
    free: pl.DataFrame | None = None,
    people: pl.DataFrame | None = None,
    checks: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Decide whether an arm may be promoted.

    The lower end of its paired 95 % gain over the baseline must exceed ``margin``, and that of its gain over each
    answer that costs nothing must exceed 0. To beat all of them is one claim: no level is corrected for their number.
    Where people decide, the lower end of the win rate must exceed one half instead of the first, once all pairs are
    compared: before, it would be promoted at whatever moment it looks best.

    Args:
        comparison: From ``stats.compare``.
        arm: The arm to promote.
        baseline: What it must beat.
        margin: Smallest gain that counts, in units of quality.
        free: From ``stats.compare``: the arm against each arm of ``trivial.scores``. Those that no scorer could judge
            count for nothing.
        people: From ``pairwise.win_rate``, where people decide; null: the scorers do.
        checks: From ``checks``: one that failed holds the arm, one that is unclear asks for more rows, and what was not
            measured is told and stands in nobody's way.

    Returns:
        verdict (promote; hold: an interval lies below what it had to exceed, or a check failed; else insufficient
        evidence), n_needed (rows that would decide; null: it is decided, or no number is known), arm, against (the
        baseline), difference, low, high, p_holm, n, margin, reason (in words), checks, and trivial: the free answer
        that came closest (against, difference, low, high, n), null without any. Where people decide also people:
        win_rate, low, high, p, n, n_pairs, n_waiting, n_votes, agreement and alpha.

    Raises:
        ParameterError: The comparison has no such contrast, or people compared other arms.
    """
    rows = comparison.filter((pl.col("arm") == arm) & (pl.col("baseline") == baseline))
    if not rows.height:
        raise ParameterError(f"the comparison has no row {arm!r} against {baseline!r}; add it to the contrasts.")
    row, closest = rows.row(0, named=True), _closest(free, arm)
    votes = None if people is None else _votes(people, arm=arm, baseline=baseline)
    verdicts = [_verdict(row, margin) if votes is None else _of_people(votes)]
    verdicts += [_verdict(closest, 0.0)] if closest else []
    verdicts += [_OF_CHECK[check["verdict"]] for check in checks]
    verdict = next(name for name in ("hold", UNCLEAR, "promote") if name in verdicts)
    needed = [check["n_needed"] for check in checks if check["verdict"] == "unclear"]
    needed += [rows_for(row, margin)] if votes is None and _verdict(row, margin) == UNCLEAR else []
    needed += [rows_for(closest, 0.0)] if closest and _verdict(closest, 0.0) == UNCLEAR else []
    n_needed = max((n for n in needed if n is not None), default=None) if verdict == UNCLEAR else None
    more = f"; about {n_needed:,} test candidates would decide" if n_needed else ""
    return {
        "arm": arm,
        "against": baseline,
        "verdict": verdict,
        **{k: row[k] for k in ("difference", "low", "high", "p_holm", "n")},
        "margin": margin,
        "reason": _reason(arm, row, margin, closest, votes, checks) + more,
        "n_needed": n_needed,
        "checks": list(checks),
        "trivial": closest
        and {"against": closest["baseline"]} | {k: closest[k] for k in ("difference", "low", "high", "n")},
        **({} if votes is None else {"people": votes}),
    }


UNCLEAR = "insufficient evidence"
_OF_CHECK = {"passed": "promote", "not measured": "promote", "failed": "hold", "unclear": UNCLEAR}
_VOTES = ("win_rate", "low", "high", "p", "n", "n_pairs", "n_waiting", "n_votes", "agreement", "alpha")


def _votes(people: pl.DataFrame, *, arm: str, baseline: str) -> dict[str, Any]:
    rows = people.filter((pl.col("arm") == arm) & (pl.col("baseline") == baseline))
    if not rows.height:
        raise ParameterError(
            f"people are to decide on {arm!r} over {baseline!r}, and compared no pair of these; compared_arms and "
            "n_arm_pairs say what they compare."
        )
    return {name: rows[name].item() for name in _VOTES}


def _of_people(votes: dict[str, Any]) -> str:
    """The verdict of people; a win rate without spread has an interval without width, so p is asked too."""
    if votes["n_waiting"] or votes["low"] is None or votes["p"] >= _LEAST_P:
        return UNCLEAR
    return "promote" if votes["low"] > _HALF else "hold" if votes["high"] < _HALF else UNCLEAR


_HALF, _LEAST_P = 0.5, 0.05


def _verdict(contrast: dict[str, Any], margin: float) -> str:
    return "promote" if contrast["low"] > margin else "hold" if contrast["high"] < margin else UNCLEAR


def _closest(free: pl.DataFrame | None, arm: str) -> dict[str, Any] | None:
    """The free answer that an arm is least sure to beat."""
    if free is None:
        return None
    judged = free.filter(pl.col("arm") == arm, pl.col("low").is_not_nan()).sort("low", maintain_order=True)
    return judged.row(0, named=True) if judged.height else None


def _reason(
    arm: str,
    row: dict[str, Any],
    margin: float,
    closest: dict[str, Any] | None,
    votes: dict[str, Any] | None,
    checks: Sequence[dict[str, Any]],
) -> str:
    over = f"the margin {margin:g} over {row['baseline']}" if margin else row["baseline"]
    by_scorers = f"{arm} {_beats(row, margin)} {over} ({_gain(row)})"
    parts = [by_scorers] if votes is None else [_said(arm, row["baseline"], votes)]
    if closest:
        parts.append(
            f"it {_beats(closest, 0.0)} {closest['baseline']}, an answer that costs nothing ({_gain(closest)})"
        )
    parts += [check["reason"] for check in checks if check["verdict"] in ("failed", "unclear")]
    if unmeasured := [check["check"] for check in checks if check["verdict"] == "not measured"]:
        parts.append(f"not measured: {', '.join(unmeasured)}")
    return "; ".join(parts)


def _said(arm: str, baseline: str, votes: dict[str, Any]) -> str:
    if votes["n_waiting"]:
        return (
            f"people have not compared all pairs of {arm} and {baseline} yet: {votes['n_waiting']:,} of "
            f"{votes['n_pairs']:,} wait"
        )
    words = {"promote": "prefer", "hold": "do not prefer", UNCLEAR: "are not shown to prefer"}[_of_people(votes)]
    ends = "" if votes["low"] is None else f" [{votes['low']:.3f}, {votes['high']:.3f}]"
    rate = "unknown" if votes["win_rate"] is None else f"{votes['win_rate']:.3f}"
    return f"people {words} {arm} to {baseline} (win rate {rate}{ends}, n {votes['n']:,})"


def _beats(contrast: dict[str, Any], margin: float) -> str:
    words = {"promote": "beats", "hold": "is below", UNCLEAR: "is not shown to beat"}
    return words[_verdict(contrast, margin)]


def _gain(contrast: dict[str, Any]) -> str:
    return f"{contrast['difference']:+.3f} [{contrast['low']:+.3f}, {contrast['high']:+.3f}], n {contrast['n']:,}"
