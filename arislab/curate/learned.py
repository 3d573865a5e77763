"""Quality as people would say it: the chance that a person approves a row, learned from labels of drawn rows.

    signals (score_…) -> logistic regression, or the best signal alone -> isotonic regression -> 0..1

Everything that is said about it is said by parts of it that had not seen the label in question (five folds over
groups). It is used only where it is shown to be worth it, and says why where it is not.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab import stats
from arislab.curate.labels import LEAST, Labels, few
from arislab.system import equals

Floats = NDArray[np.float64]
RECORDED = "quality_model.json"
"""File of a record with the model that its qualities came from."""
_FOLDS = 5
_LEAST_OF_A_KIND = 10
"""Labels of the rarer kind below which nothing is learned: two a fold."""
_LEAST_OF_A_CATEGORY = 20
"""Labels of a category below which nothing is said of it alone."""
_N_ERRORS = 200
"""Resamples for the interval of a calibration error."""
_LEAN, _SPREAD = 0.05, 0.05
"""Mean and variance of a coefficient before any label is seen, log-odds per standard deviation: a score is meant to be
higher for the better row, and few labels cannot tell ten signals apart."""
_LEAST_TRUST = 0.3
"""Least factor on a column whose means of good and other rows are no further apart than chance would have them."""
_BEYOND = 300
"""Labels by chance at which what they say beyond the stack counts half, where the best signal is chosen."""
_STEPS = 50
"""Newton steps; a handful is enough."""
_SIDES: tuple[Literal["right"], Literal["left"]] = ("right", "left")
_TILT = 1e-4
"""How far a step of the calibration rises from end to end: rows of different scores do not tie."""
_DIGITS = 9
"""Coefficients and knots are rounded: their last bits differ between machines, and qualities would too."""


@dataclass(frozen=True)
class Model:
    """A score of rows by their signals, and how it becomes a chance; of plain numbers, so that a record keeps it."""

    signals: tuple[str, ...]
    """Columns that it reads; null counts as the mean of those that could tell."""
    centers: tuple[float, ...]
    """What is taken off each signal."""
    coefficients: tuple[float, ...]
    """Log-odds per unit of each signal; small where labels are few, for they rank, and knots make the chance."""
    missing: tuple[float, ...]
    """Log-odds added where a signal is null."""
    intercept: float
    knots: tuple[tuple[float, float], ...] = ()
    """Log-odds and chance: between them the chance is interpolated."""
    reach: float = 1.0
    """Log-odds by which it levels off beyond the outer knots."""

    def log_odds(self, rows: pl.DataFrame) -> Floats:
        """Score rows, the better the higher."""
        total = np.full(rows.height, self.intercept)
        for name, center, slope, absent in zip(
            self.signals, self.centers, self.coefficients, self.missing, strict=True
        ):
            values = rows[name].to_numpy().astype(float)
            total += np.where(np.isnan(values), absent, (values - center) * slope)
        return total

    def chances(self, log_odds: Floats) -> Floats:
        """Return the chance that a person approves what is scored so, 0..1; strictly increasing."""
        x, y = (np.array(column) for column in zip(*self.knots, strict=True))
        inside = np.interp(log_odds, x, y)
        over, under = np.maximum(log_odds - x[-1], 0.0), np.maximum(x[0] - log_odds, 0.0)
        beyond = -np.expm1(-over / self.reach) + np.expm1(-under / self.reach)
        chances: Floats = np.clip(inside + _TILT * beyond, 0.0, 1.0)
        return chances

    @property
    def digest(self) -> str:
        """First 8 hex of the sha256 of its numbers."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False, repr=False)
class Learned:
    """What was learned from labels, what it is worth, and whether it is used."""

    refused: str
    """Why quality stays what the rules say; empty: it is learned."""
    n_labels: int
    model: Model | None = None
    folded: tuple[Model, ...] = ()
    """The models that were fitted without a fold of the labels each."""
    held: pl.DataFrame | None = None
    """custom_id of each label, the fold that it is in, and its log-odds by the model that had not seen it."""
    ways: dict[str, Model] = field(default_factory=dict)
    """Called "best signal" and "stack": each learned from all labels, without knots; also the one that is not used."""
    gain: stats.Interval | None = None
    """AUC of the stack above that of the best signal (95 %, each by parts that had not seen the label); null: there is
    one signal."""
    worth: pl.DataFrame = field(default_factory=pl.DataFrame)
    """One row per way to rank (rules, best signal, stack): signal, auc, low, high (95 %, of all rows for which the
    labels stand), calibration_error, error_low, error_high (95 %, of the labels at hand), n, used."""
    reliability: pl.DataFrame = field(default_factory=pl.DataFrame)
    """One row per bin of the cross-fitted chance: chance, approved, low, high, n."""
    by_category: pl.DataFrame = field(default_factory=pl.DataFrame)
    """One row per category of at least 20 labels: category, chance (mean, cross-fitted), approved, low, high (95 %),
    calibration_error, error_low, error_high (95 %, of few labels well above 0 by chance alone), n."""

    def __repr__(self) -> str:
        if self.model is None:
            return f"quality stays what the rules say: {self.refused}"
        used = self.worth.filter("used").row(0, named=True)
        alone = "what the rules say" if self.model.signals == ("quality",) else self.model.signals[0]
        what = "a stack of " + ", ".join(self.model.signals) if used["signal"] == "stack" else alone
        told = (
            f"quality is the chance that a person approves, from {what}, learned from {self.n_labels:,} labels: AUC "
            f"{used['auc']:.3f} [{used['low']:.3f}, {used['high']:.3f}], calibration error "
            f"{used['calibration_error']:.3f}"
        )
        if self.gain is None or used["signal"] == "stack":
            return told
        gain = f"{self.gain.mean:+.3f} [{self.gain.low:+.3f}, {self.gain.high:+.3f}]"
        return f"{told}; a stack of all signals is not shown to be better: AUC {gain}"

    def unseen(self, scored: pl.DataFrame) -> pl.DataFrame | None:
        """Return what predicts labels that had no part in it; null where nothing was learned.

        It is the chance as the regression has it: where labels are few, its calibration to them would add more noise to
        an estimate than it takes out.

        Args:
            scored: custom_id and the signals, of all rows.

        Returns:
            custom_id, chance (0..1, mean of the models without a fold each, as many times as the fold has labels); and
            of a labelled row, by the model without its fold: held (its chance), above and upto (share of all rows that
            it puts above this one; above or level with it). Null elsewhere.

        Source:
            Zrnic and Candès 2024, Cross-prediction-powered inference: what is learned from labels may predict them so.
        """
        if self.model is None or self.held is None:
            return None
        from scipy.special import expit

        chance, parts = np.zeros(scored.height), []
        for number, one in enumerate(self.folded):
            own = self.held.filter(fold=number).select("custom_id", "log_odds")
            every = one.log_odds(scored)
            chance += expit(every) * own.height / self.held.height
            ordered, held = np.sort(every), own["log_odds"].to_numpy()
            above, upto = (pl.Series(1 - np.searchsorted(ordered, held, side) / len(every)) for side in _SIDES)
            parts.append(own.select("custom_id", held=pl.Series(expit(held)), above=above, upto=upto))
        rows = scored.select("custom_id").with_columns(chance=pl.Series(chance, dtype=pl.Float64))
        return rows.join(pl.concat(parts), on="custom_id", how="left", maintain_order="left")

    def apply(self, scored: pl.DataFrame) -> pl.DataFrame:
        """Return scored rows with the learned quality; where it was refused, as they are.

        A row that has no quality by the rules (a scorer failed, no output) gets none. Under a run, the record gets the
        model (``RECORDED``).

        Reads: quality, scorer_version, the signals.

        Adds: quality_rules (Float64, what the rules said); changes quality and scorer_version, which names the model.
        """
        if self.model is None:
            return scored
        if folder := os.environ.get("ARISLAB_RUN_DIR"):
            text = json.dumps(asdict(self.model), indent=1, sort_keys=True)
            (Path(folder) / RECORDED).write_text(text + "\n", encoding="utf-8")
        return scored.with_columns(
            quality=self.quality(scored),
            quality_rules="quality",
            scorer_version=pl.col("scorer_version") + f"+{self.model.digest}",
        )

    def quality(self, scored: pl.DataFrame) -> pl.Series:
        """Return the quality that ``apply`` gives the rows, and record nothing."""
        if self.model is None:
            return scored["quality"]
        chances = pl.Series(self.model.chances(self.model.log_odds(scored)), dtype=pl.Float64).round(_DIGITS)
        return scored.select(quality=pl.when(pl.col("quality").is_not_null()).then(chances)).to_series()


def learn(labels: Labels, scored: pl.DataFrame, groups: pl.DataFrame, *, seed: int = 0) -> Learned:
    """Learn from labels the chance that a person approves a row.

    A logistic regression over the signals is used if its AUC is shown to be above that of the best single signal (the
    interval of the gain excludes 0); else that signal alone is, made a chance. What the rules make of all their scores
    is one of the single signals. Nothing is learned from fewer than 50 labels, from fewer than 10 of either kind, or
    where no signal is shown to tell anything.

    The regression ranks, and has no weights: those of a queue cost more in spread than they bring
    (``tests/bench/curate_quality.py``). What is said of all rows has them: AUC, calibration, its error, and whatever is
    estimated with it.

    Args:
        labels: From ``labelled``.
        scored: From ``scoring.score``, of the texts that were judged: custom_id, quality and the signals
            ``score_<scorer>``.
        groups: candidate_id or custom_id, and group_id: rows of one group are never on both sides of a fold.
        seed: Of the folds, and of the interval of a calibration error.

    Source:
        Wolpert 1992 (stacking); Gelman et al. 2008 (a prior for logistic regressions); Breiman 1995 (garrote: signals
        that tell nothing shrink the more); Zadrozny and Elkan 2002 (isotonic calibration).
    """
    on = "custom_id" if "custom_id" in groups.columns else "candidate_id"
    judged = few(scored, labels.frame["custom_id"])
    rows = labels.frame.join(judged, on="custom_id", how="inner", maintain_order="left")
    of = few(groups.select(on, "group_id"), rows[on]).unique(on)
    rows = rows.join(of, on=on, how="left", maintain_order="left")
    n, n_good = rows.height, int(rows["good"].sum())
    signals = [c for c in sorted(scored.columns) if c.startswith("score_") and rows[c].drop_nulls().n_unique() > 1]
    if refused := _too_few(n, n_good, signals):
        return Learned(refused, n)
    every = scored.select("custom_id", pl.col("quality", *signals).cast(pl.Float64))
    data = _Data(
        rows,
        tuple(signals),
        rows["good"].to_numpy().astype(float),
        rows["weight"].to_numpy() / rows["weight"].to_numpy().mean(),
        rows["group_id"].fill_null(rows["custom_id"]).to_list(),
        every.join(labels.population, on="custom_id", how="semi", maintain_order="left"),
    )
    everything = np.arange(n)
    ways: dict[str, Callable[[NDArray[np.int64]], Model]] = {"best signal": data.single, "stack": data.stack}
    folds = data.folds(seed)
    if not all(0 < np.delete(data.good, fold).sum() < n - len(fold) for fold in folds):
        kind = "approved" if 2 * n_good <= n else "not approved"
        return Learned(f"all labels that are {kind} are of one group of candidates; review rows of other ones.", n)
    folded = {name: _folded(data, way, folds) for name, way in ways.items()}
    held = {name: data.held(models, folds, Model.log_odds) for name, models in folded.items()}
    places = {name: data.held(models, folds, data.places) for name, models in folded.items()}
    chances = {name: data.held(models, folds, lambda m, r: m.chances(m.log_odds(r))) for name, models in folded.items()}
    gain = data.gain(places["stack"], places["best signal"]) if len(signals) > 1 else None
    used = "stack" if gain is not None and gain.low > 0 else "best signal"
    fitted = {name: way(everything) for name, way in ways.items()}
    areas = {name: data.auc(scores) for name, scores in places.items()}
    of_rules = data.auc(rows["quality"].to_numpy())
    worth = _worth(data, areas | {"rules": of_rules}, chances, used, seed=seed)
    among = data.auc_among_labels(places[used])
    if not among.low > 0.5:
        return Learned(
            f"no signal is shown to tell what people approve (AUC of the best among the labels {among}); add a signal "
            "(arislab.signals), or review more rows.",
            n,
            worth=worth,
            ways=fitted,
            gain=gain,
        )
    model = _with_knots(fitted[used], fitted[used].log_odds(rows), data.good, data.weights)
    number = np.empty(n, dtype=np.int64)
    for i, fold in enumerate(folds):
        number[fold] = i
    own = rows.select("custom_id", fold=pl.Series(number), log_odds=pl.Series(held[used], dtype=pl.Float64))
    known = labels.population
    by_category = pl.DataFrame()
    if "category" in known.columns:
        categories = rows.join(known.select("custom_id", _of="category"), on="custom_id", maintain_order="left")["_of"]
        by_category = _by_category(chances[used], data, categories, seed=seed)
    bins = _reliability(chances[used], data)
    return Learned("", n, model, tuple(folded[used]), own, fitted, gain, worth, bins, by_category)


def _too_few(n: int, n_good: int, signals: Sequence[str]) -> str:
    if n < LEAST:
        return f"there are {n:,} labels, and at least {LEAST} are needed; review {LEAST - n:,} more in review.ipynb."
    rare = min(n_good, n - n_good)
    if rare < _LEAST_OF_A_KIND:
        kind = "approved" if n_good == rare else "not approved"
        return (
            f"only {rare:,} of {n:,} labels are {kind}, and at least {_LEAST_OF_A_KIND} are needed; review more rows."
        )
    return "" if signals else "no scorer says different things about the labelled rows; add a signal (arislab.signals)."


@dataclass(frozen=True)
class _Data:
    """Labelled rows, and the two ways to learn from some of them."""

    rows: pl.DataFrame
    signals: tuple[str, ...]
    good: Floats
    weights: Floats
    groups: list[str]
    population: pl.DataFrame
    """custom_id, quality and the signals of all rows for which the labels stand."""

    def folds(self, seed: int) -> list[NDArray[np.int64]]:
        """Return the rows of each fold; a group is in one, and each fold has about the same share of good rows."""
        from sklearn.model_selection import StratifiedGroupKFold

        split = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
        return [held for _, held in split.split(self.rows, self.good, self.groups) if len(held)]

    def held(
        self,
        models: Sequence[Model],
        folds: Sequence[NDArray[np.int64]],
        score: Callable[[Model, pl.DataFrame], Floats],
    ) -> Floats:
        """Score each row by the model that was fitted without its fold."""
        scores = np.empty(self.rows.height)
        for model, fold in zip(models, folds, strict=True):
            scores[fold] = score(model, self.rows[fold.tolist()])
        return scores

    def stack(self, some: NDArray[np.int64]) -> Model:
        """Fit a logistic regression over all signals."""
        return self._fit(self.signals, some)

    def single(self, some: NDArray[np.int64]) -> Model:
        """Fit one over the signal that ranks best, either way round.

        That is the one which goes along most, in the population, with what a stack of the same labels says, and, the
        more labels there are, with what they say beyond it. A few labels alone cannot rank ten signals; and as they
        were drawn, without weights, they favour what they were drawn by.
        """
        from scipy.special import expit

        stack, weights = self.stack(some), self.weights[some]
        chances, own = expit(self._of_all(stack)), expit(stack.log_odds(self.rows[some.tolist()]))
        beyond = weights * (self.good[some] - own) / weights.sum()
        size = float(weights.sum() ** 2 / (weights @ weights))

        def strength(name: str) -> float:
            sides = self._sides[name]
            told = float(chances @ sides) / len(sides) + size / (size + _BEYOND) * float(beyond @ sides[self._at[some]])
            return round(abs(told), _DIGITS)

        # what the rules make of all their scores is one signal among them, and may be the best
        return self._fit((max((*self.signals, "quality"), key=strength),), some)

    @functools.cached_property
    def _sides(self) -> dict[str, Floats]:
        """How far above the middle of the population each of its rows stands by each signal, -0.5..0.5; null: 0."""
        ranks = self.population.select(
            (pl.col(name).fill_nan(None).rank() - (pl.col(name).fill_nan(None).count() + 1) / 2).fill_null(0.0)
            for name in (*self.signals, "quality")
        )
        return {name: ranks[name].to_numpy() / ranks.height for name in ranks.columns}

    @functools.cached_property
    def _at(self) -> NDArray[np.int64]:
        """Places of the labelled rows in the population."""
        return equals.places(self.rows["custom_id"], self.population["custom_id"])

    @functools.cached_property
    def _known(self) -> dict[Model, Floats]:
        return {}

    def _of_all(self, model: Model) -> Floats:
        """Log-odds of the population; a stack is asked twice, to choose a signal and for itself."""
        model = replace(model, knots=(), reach=1.0)
        if model not in self._known:
            self._known[model] = model.log_odds(self.population)
        return self._known[model]

    def places(self, model: Model, rows: pl.DataFrame) -> Floats:
        """Return the share of the population that a model puts below each row, and half of what it puts level."""
        ordered, scores = np.sort(self._of_all(model)), model.log_odds(rows)
        below, upto = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
        shares: Floats = (below + upto) / 2 / max(len(ordered), 1)
        return shares

    def auc(self, scores: Floats) -> stats.Interval:
        """Return the chance that a good row of the population stands above another."""
        return stats.sampled_auc(scores, self.good, self.weights, groups=self.groups)

    def auc_among_labels(self, scores: Floats) -> stats.Interval:
        """Return the same among the labels as they were drawn, with less doubt.

        It is no AUC of the population. Whether it is .5 tells whether that is: rows are drawn by what is known of them,
        and where that says nothing about approval, neither does it among those that are drawn.
        """
        return stats.sampled_auc(scores, self.good, np.ones(len(scores)), groups=self.groups)

    def gain(self, scores: Floats, others: Floats) -> stats.Interval:
        """Return by how much that of scores is above that of others."""
        return stats.sampled_auc_gain(scores, others, self.good, self.weights, groups=self.groups)

    def resampled(self, seed: int, n_boot: int) -> list[Floats]:
        """How often each row comes when whole groups are drawn with replacement."""
        group = np.unique(self.groups, return_inverse=True)[1]
        n, rng = int(group.max()) + 1, np.random.default_rng(seed)
        return [np.bincount(rng.integers(0, n, n), minlength=n)[group].astype(float) for _ in range(n_boot)]

    def _values(self, name: str) -> Floats:
        return self.rows[name].to_numpy().astype(float)

    def _fit(self, names: Sequence[str], some: NDArray[np.int64]) -> Model:
        """Fit without weights: they cost more in spread than they bring, and the calibration speaks for all rows."""
        good, columns, centers, scales = self.good[some], [], [], []
        for name in names:
            values = self._values(name)[some]
            known = np.isfinite(values)
            center = float(values[known].mean()) if known.any() else 0.0
            scale = float(values[known].std()) if known.any() else 0.0
            columns.append(np.where(known, values - center, 0.0) / (scale or 1.0))
            columns.append((~known if not known.all() else np.zeros(len(some))).astype(float))
            centers.append(center)
            scales.append(scale or 1.0)
        intercept, slopes = _regression(np.column_stack(columns), good, np.array([_LEAN, 0.0] * len(names)))
        return Model(
            tuple(names),
            tuple(round(center, _DIGITS) for center in centers),
            tuple(round(float(slope) / scale, _DIGITS) for slope, scale in zip(slopes[::2], scales, strict=True)),
            tuple(round(float(slope), _DIGITS) for slope in slopes[1::2]),
            round(intercept, _DIGITS),
        )


def _regression(columns: Floats, good: Floats, lean: Floats) -> tuple[float, Floats]:
    """Return intercept and coefficients of a logistic regression that leans towards what is thought without labels.

    A column leans the more, the less its means of good and other rows are apart in units of their standard error; where
    the square of that is 2 or less, Akaike's criterion would leave it out.
    """
    from scipy.special import expit

    kinds = [columns[good == kind] for kind in (1, 0)]
    n_good, n_other = map(len, kinds)
    apart, error = kinds[0].mean(axis=0) - kinds[1].mean(axis=0), sum(kind.var(axis=0) / len(kind) for kind in kinds)
    ratio = np.divide(error, apart**2, out=np.ones_like(error), where=apart != 0)
    trust = np.sqrt(np.maximum(1 - 2 * ratio, _LEAST_TRUST**2))
    x = np.column_stack([np.ones(len(columns)), columns * trust])
    middle, penalty = np.append(0.0, lean), np.append(0.0, np.full(len(lean), 1 / _SPREAD))
    fit = np.append(math.log(n_good / n_other), lean)
    for _ in range(_STEPS):  # of a strictly convex sum
        chance = expit(x @ fit)
        gradient = x.T @ (good - chance) - penalty * (fit - middle)
        step = np.linalg.solve((x.T * (chance * (1 - chance))) @ x + np.diag(penalty), gradient)
        fit += step
        if np.abs(step).max() < 1e-12:
            break
    return float(fit[0]), fit[1:] * trust


def _folded(data: _Data, way: Callable[[NDArray[np.int64]], Model], folds: Sequence[NDArray[np.int64]]) -> list[Model]:
    """Fit a model without each fold, labels of that fold unseen from end to end."""
    models = []
    for held in folds:
        rest = np.setdiff1d(np.arange(data.rows.height), held)
        model = way(rest)
        scores = model.log_odds(data.rows[rest.tolist()])
        models.append(_with_knots(model, scores, data.good[rest], data.weights[rest]))
    return models


def _with_knots(model: Model, scores: Floats, good: Floats, weights: Floats) -> Model:
    """Add the calibration: each block of the isotonic regression is a step, two knots wide and all but level.

    Between the middles of blocks, as centred isotonic regression has it, scores that come in two clumps would get what
    lies between them, where no label is.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    x, y, w = scores[order], good[order], weights[order]
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, y, sample_weight=w)
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 1e-12)
    knots, last = list[tuple[float, float]](), 0.0
    for start, end in zip(starts, [*starts[1:], len(x)], strict=True):
        block = slice(start, end)
        # a block of n labels cannot say 0 or 1: half a label of either kind is added
        share = (float(w[block] @ y[block]) + 0.5 * w.mean()) / (float(w[block].sum()) + w.mean())
        share = max(share, last + 3 * _TILT)
        ends = sorted({round(float(x[start]), _DIGITS), round(float(x[end - 1]), _DIGITS)})
        steps = zip(ends, (share - _TILT, share + _TILT) if len(ends) > 1 else (share,), strict=True)
        knots += [(at, round(chance, _DIGITS)) for at, chance in steps if not knots or at > knots[-1][0]]
        last = share
    return replace(model, knots=tuple(knots), reach=round(float(scores.std()) or 1.0, _DIGITS))


def _worth(
    data: _Data, areas: dict[str, stats.Interval], chances: dict[str, Floats], used: str, *, seed: int
) -> pl.DataFrame:
    by_way = chances | {"rules": data.rows["quality"].to_numpy().astype(float)}
    resampled, rows = data.resampled(seed, _N_ERRORS), []
    for name, area in sorted(areas.items()):
        error = _error(by_way[name], data, resampled, np.arange(data.rows.height))
        rows.append((name, area.mean, area.low, area.high, *error, area.n, name == used))
    types = [pl.String, *[pl.Float64] * 6, pl.Int64, pl.Boolean]
    names = ["signal", "auc", "low", "high", "calibration_error", "error_low", "error_high", "n", "used"]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")  # one row per way to rank


def _error(
    chances: Floats, data: _Data, resampled: Sequence[Floats], some: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return the calibration error of some rows with its interval.

    It is of the labels at hand: few of them make bins that miss by chance, in the estimate as in each resample.
    """
    error = calibration_error(chances[some], data.good[some], data.weights[some])
    errors = [calibration_error(chances[some], data.good[some], (data.weights * times)[some]) for times in resampled]
    low, high = np.nanquantile(errors, [0.025, 0.975])
    return error, float(low), float(high)


def _by_category(chances: Floats, data: _Data, categories: pl.Series, *, seed: int) -> pl.DataFrame:
    resampled, rows = data.resampled(seed, _N_ERRORS), []
    for name in categories.drop_nulls().unique().sort():
        some = np.flatnonzero((categories == name).fill_null(value=False).to_numpy())
        if len(some) >= _LEAST_OF_A_CATEGORY:
            weights = np.maximum(data.rows["weight"].to_numpy()[some], 1.0)
            share = stats.share(data.good[some], weights).interval
            said = float(np.average(chances[some], weights=weights))
            error = _error(chances, data, resampled, some)
            rows.append((name, said, share.mean, share.low, share.high, *error, len(some)))
    names = ["category", "chance", "approved", "low", "high", "calibration_error", "error_low", "error_high", "n"]
    types = [pl.String, *[pl.Float64] * 7, pl.Int64]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")  # one row per category


def calibration_error(chances: Floats, good: Floats, weights: Floats, *, n_bins: int = 10) -> float:
    """Return the expected calibration error: how far chance and share of good rows are apart, over bins of equal size.

    Args:
        chances: 0..1; NaN is left out.
        good: 0 or 1.
        weights: Of the rows.
        n_bins: Bins; equal chances are never split between two.

    Source:
        Naeini et al. 2015; bins of equal size as in Nguyen and O'Connor 2015.

    Example:
        >>> calibration_error(np.array([0.2] * 5 + [0.8] * 5), np.array([0.0] * 4 + [1.0] * 6), np.ones(10))
        0.1
    """
    known = np.isfinite(chances) & (weights > 0)
    chances, good, weights = chances[known], good[known], weights[known]
    bins = _bins(chances, weights, n_bins)
    gaps = [
        weights[inside].sum()
        * abs(np.average(chances[inside], weights=weights[inside]) - np.average(good[inside], weights=weights[inside]))
        for inside in bins
    ]
    return round(float(sum(gaps) / weights.sum()), _DIGITS) if bins else math.nan


def _bins(chances: Floats, weights: Floats, n_bins: int) -> list[NDArray[np.int64]]:
    """Rows of each bin of about the same weight, lowest chance first."""
    known = np.flatnonzero(np.isfinite(chances))
    if not len(known):
        return []
    values, level = np.unique(chances[known], return_inverse=True)
    mass = np.bincount(level, weights[known], minlength=len(values))
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    number = np.minimum((middle * n_bins).astype(int), n_bins - 1)[level]
    return [known[number == i] for i in range(n_bins) if (number == i).any()]


def _reliability(chances: Floats, data: _Data) -> pl.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for inside in _bins(chances, data.weights, min(10, max(3, len(chances) // 20))):
        weights = np.maximum(data.rows["weight"].to_numpy()[inside], 1.0)
        share = stats.share(data.good[inside], weights).interval
        rows.append((float(np.average(chances[inside], weights=weights)), share.mean, share.low, share.high, share.n))
    names = ["chance", "approved", "low", "high", "n"]
    types = [*[pl.Float64] * 4, pl.Int64]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")  # one row per bin
