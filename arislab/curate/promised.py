"""Keep by a rule: the best share, all from a threshold on, or as many as can be kept at a promised precision."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import polars as pl

from arislab import stats
from arislab.curate import diversity as coverage
from arislab.curate import selection
from arislab.curate.labels import LEAST, Labels
from arislab.curate.selection import Selection
from arislab.curate.worth import Labelled, ranked
from arislab.errors import ParameterError
from arislab.system.kinds import takes_any_frame
from arislab.vectors import Embed

ALPHAS = {0.05: 0.005, 0.1: 0.005, 0.2: 0.015, 0.4: 0.005, 0.7: 0.005, 1.0: 0.015}
"""Cuts from which a promised precision is looked for, and the chance to be wrong that each may spend: 0.05 in all."""
ALPHA = 0.05
_GROUP = "group of candidates"
"""Column that holds it for as long as rows are chosen; named as the rule says it."""


@takes_any_frame
def keep(
    frame: pl.DataFrame,
    *,
    rule: str,
    fraction: float,
    threshold: float,
    precision: float = 0.9,
    labels: Labels | None = None,
    chances: pl.DataFrame | None = None,
    seed: int = 0,
    quota: str | None = None,
    max_share: float = 1.0,
    diversity: float = 0.0,
    embed: Embed | None = None,
    groups: pl.DataFrame | None = None,
) -> Selection:
    """Keep by rule: ``top`` is `keep_top`, ``above`` is `keep_above`, ``precision`` is `keep_promised`.

    Args:
        frame: Columns quality, custom_id and `quota`; input and output (``diversity``), candidate_id (``groups``).
        rule: ``top``, ``above`` or ``precision``.
        fraction: As in `keep_top`.
        threshold: As in `keep_above`.
        precision: As in `keep_promised`, which needs ``labels``.
        labels: As there.
        chances: As there.
        seed: As in `keep_top`; not used by ``above``.
        quota: As in `keep_top`; only used by ``top``.
        max_share: As in `keep_top`; 1: no quota.
        diversity: As in `keep_diverse`; 0: none. Only with ``top``.
        embed: As there.
        groups: Rows of ``candidates``: candidate_id and group_id. One row of each group is kept, the best; null: no
            such limit. Not with ``precision``, which promises something of all rows from the best on.

    Raises:
        ParameterError: Another rule, what does not go with it, or as in the function that it stands for.
    """
    if diversity and rule in ("above", "precision"):
        raise ParameterError(
            f"diversity must be 0 with keep_rule {rule!r}, got {diversity!r}; it gives away places of a fixed number, "
            "as keep_rule 'top' has them."
        )
    if groups is not None:
        if rule == "precision":
            raise ParameterError(
                "one_per_group must be False with keep_rule 'precision', which promises something of all rows from the "
                "best on; keep by 'top' or 'above'."
            )
        selection.check_columns(frame, ["candidate_id"])
        names = groups.select("candidate_id", pl.col("group_id").alias(_GROUP)).unique("candidate_id")
        frame = frame.join(names, on="candidate_id", how="left", maintain_order="left")
    one_per = None if groups is None else _GROUP
    if rule == "top":
        quota = quota if max_share < 1 else None
        if diversity:
            cut = coverage.keep_diverse(
                frame, fraction=fraction, diversity=diversity, seed=seed, quota=quota, max_share=max_share,
                one_per=one_per, embed=embed,
            )  # fmt: skip
        else:
            cut = selection.keep_top(
                frame, fraction=fraction, seed=seed, quota=quota, max_share=max_share, one_per=one_per
            )
        return replace(cut, frame=cut.frame.drop(_GROUP, strict=False))
    if rule == "above":
        cut = selection.keep_above(frame, threshold=threshold, one_per=one_per, seed=seed)
        return replace(cut, frame=cut.frame.drop(_GROUP, strict=False))
    if rule == "precision" and labels is not None:
        return keep_promised(frame, labels, precision=precision, chances=chances, seed=seed)
    raise ParameterError(
        "keep_rule must be 'top' (the best share), 'above' (all from a threshold on) or 'precision' (as many as people "
        f"are shown to approve of), got {rule!r}."
    )


def keep_promised(
    frame: pl.DataFrame, labels: Labels, *, precision: float, chances: pl.DataFrame | None = None, seed: int = 0
) -> Selection:
    """Keep as many of the best rows as can be kept at a promised precision.

    The promise is broken with a chance of 5 % at most: each cut has to pass an exact test at its part of that. From six
    cuts (the best twentieth, tenth, fifth, two fifths, seven tenths, and all) it goes on a hundredth at a time for as
    long as the tests pass; the largest cut that was passed is taken.

    Args:
        frame: custom_id (unique), quality (null: never kept).
        labels: From ``labelled``. They alone count here, not the qualities.
        precision: Share of the kept rows that people would approve, in (0, 1).
        chances: As in ``estimates``: a label stands where models put it that had not seen it.
        seed: Of the order among ties.

    Raises:
        ParameterError: It cannot be promised: with how many labels it could be, as far as can be told.

    Source:
        Angelopoulos et al. 2021, Learn then Test (fixed sequences from several starts); Clopper and Pearson 1934 on
        the effective sample size of Korn and Graubard 1998.
    """
    if not 0 < precision < 1:
        raise ParameterError(f"keep_precision must be in (0, 1), got {precision!r}; 0.9 promises nine in ten.")
    sample = Labelled(ranked(frame, seed), labels, chances)
    if labels.frame.height < LEAST:
        raise ParameterError(
            f"keep_rule 'precision' needs at least {LEAST} labels, and there are {labels.frame.height:,}; review "
            "more in review.ipynb, or keep by 'top'. Nothing was kept."
        )
    n = sample.rows.height
    test = functools.cache(lambda share: _test(sample, selection.n_top(n, share)))  # few of the cuts are looked at
    passed = [share for start, alpha in ALPHAS.items() for share in _walk(start, test, precision, alpha)]
    if not passed:
        raise ParameterError(_impossible({start: test(start) for start in ALPHAS}, labels, precision))
    best = max(passed)
    cut = selection.keep_top(frame, fraction=best, seed=seed)
    rule = f"the top {best:g} by quality, of which {precision:g} are approved (promised, wrong in {ALPHA:g} at most)"
    return replace(cut, rule=rule)


def _test(sample: Labelled, n_kept: int) -> tuple[float, float]:
    """Share of good rows among the best so many, and the effective number of labels that say so."""
    share = sample.precision(pl.col("_rank") < n_kept, helped=False)
    return share.labels_only.mean, share.n_effective


def _walk(start: float, test: Callable[[float], tuple[float, float]], promise: float, alpha: float) -> Iterator[float]:
    """Give the cuts from a start on for as long as each is shown to keep the promise."""
    for share in (step / 100 for step in range(round(100 * start), 101)):
        mean, n = test(share)
        if math.isnan(mean) or stats.lower_bound(mean, n, alpha=alpha) < promise:
            return
        yield share


def _impossible(tested: dict[float, tuple[float, float]], labels: Labels, promise: float) -> str:
    n = labels.frame.height
    text = f"a precision of {promise:g} cannot be promised with {n:,} labels"
    needs = []
    for share, alpha in ALPHAS.items():
        mean, n_effective = tested[share]
        more = None if math.isnan(mean) or n_effective <= 0 else stats.n_labels_for(mean, promise, alpha=alpha)
        if more is not None:
            needs.append((math.ceil(more / n_effective * n), share, mean))
    if needs:
        n_needed, share, mean = min(needs)
        return (
            f"{text}; the best {share:g} seem to have {mean:.3f}: about {n_needed:,} labels would show it. Review "
            "more, or lower keep_precision. Nothing was kept."
        )
    known = [(mean, share) for share, (mean, _) in tested.items() if not math.isnan(mean)]
    mean, share = max(known, default=(math.nan, 0.0))
    return (
        f"{text}, nor with more: the best cut seems to have {mean:.3f} (the top {share:g}). Better signals are needed, "
        "or a lower keep_precision. Nothing was kept."
    )
