"""What an ordered set of examples is worth, learned from scattered cells.

Model: a cell's quality y in 0..1 of set s on row v is quasi-Bernoulli, ``logit E[y] = difficulty_v + f_s``.
Difficulties are normal around a free mean: this is the pairing, any two sets are comparable whatever rows they saw. f
is a Gaussian process::

    K(s, t) / tau^2 = main  / k        * examples in common                      worth of each example
                    + pair  / C(k, 2)  * pairs in common                         synergy and redundancy
                    + order / sum(p^2) * sum of p(position in s) p(position in t)   p = -1 (first) .. 1 (last)
                    + own/2 [same set] + own/2 [same order]                      what no model can predict

The mixture and tau are chosen by marginal likelihood. Everything is a pure function of its arguments; numpy only.

What this module does not know: which cells to ask next (proposals), or that the largest of many estimates is biased
upward.

Source:
    Rasch 1960 (difficulties); Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, chapters 2, 3.4 and
    5.4; McCullagh and Nelder 1989, chapter 9 (quasi-likelihood). The kernel and its presets are our own, measured on
    synthetic surfaces.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRESETS = {
    "mixed": (0.50, 0.20, 0.15, 0.15),
    "additive": (0.80, 0.05, 0.10, 0.05),
    "interacting": (0.20, 0.45, 0.20, 0.15),
}
"""Shares of (main, pair, order, own) in the variance between sets."""
_TAUS = np.array([0.04, 0.08, 0.15, 0.25, 0.4, 0.6])  # SD between sets, logits
_FAVOUR = {"mixed": 0.7}  # nats: a mild preference where the evidence is equal
_SD_DIFFICULTY = 2.5  # logits
_N_EVIDENCE = 300  # sets on which mixture and tau are chosen
CLEAR = 2.7  # nats; 0 of 50 false alarms on surfaces where the choice is irrelevant


@dataclass(frozen=True, repr=False)
class Fit:
    """The surrogate after some cells."""

    sets: Ints
    """One row per set that has cells: indices of its examples, in prompt order."""
    n_examples: int
    difficulty: Floats
    """One per row of validation, logits; a row without cells has the mean."""
    preset: str
    """The mixture chosen."""
    tau: float
    """SD between sets, logits."""
    evidence: float
    """Log evidence for any difference between sets, nats; above 2.7 the choice of examples matters."""
    dispersion: float
    """Pearson's: 1 for pass or fail, less for graded quality."""
    weights: Floats
    """K^-1 f: what predictions are made of."""
    inverse: Floats
    """(K + noise)^-1."""

    def __repr__(self) -> str:
        verdict = "the choice matters" if self.matters else "no difference shown"
        return (
            f"Fit on {len(self.sets):,} sets: {self.preset}, tau {self.tau:.2f} logits, "
            f"evidence {self.evidence:.1f} nats ({verdict})"
        )

    @property
    def matters(self) -> bool:
        """Whether the cells show that sets differ at all."""
        return self.evidence > CLEAR


def fit(
    sets: Ints,
    set_of: Ints,
    row_of: Ints,
    quality: Floats,
    *,
    n_examples: int,
    n_rows: int,
    start: Fit | None = None,
) -> Fit:
    """Fit difficulties and sets to cells by iterated reweighted least squares around a Gaussian process (Laplace).

    Args:
        sets: Indices of examples, one row per set; every set has a cell.
        set_of: Of each cell: index in ``sets``.
        row_of: Of each cell: index of its validation row.
        quality: Of each cell, 0..1; cells without a quality are not passed.
        n_examples: Size of the pool.
        n_rows: Validation rows in all.
        start: An earlier fit of the same search, to start from.
    """
    n = len(sets)
    parts = _overlaps(sets, sets, n_examples=n_examples)
    mean = float(np.clip(quality.mean(), 0.02, 0.98))  # of 0 and 1 the logit is infinite
    difficulty = start.difficulty if start else np.full(n_rows, math.log(mean / (1 - mean)))
    preset, tau = (start.preset, start.tau) if start else ("mixed", 0.2)
    f, dispersion, evidence, level = np.zeros(n), 1.0, 0.0, 0.0
    choose_at = 0 if start else 1  # without a start, difficulties must settle first
    mixture = _kernel(parts, preset, k=sets.shape[1])
    for i in range(3):
        for _ in range(1 if i else 3):  # the first steps go far: all rows start at one difficulty
            difficulty = _difficulties(difficulty, f[set_of], row_of, quality, dispersion)
        p = sigmoid(difficulty[row_of] + f[set_of])
        w = np.maximum(p * (1 - p), 1e-4)
        dispersion = float(np.clip(np.mean((quality - p) ** 2) / np.mean(w), 0.02, 1.3))
        precision = np.maximum(np.bincount(set_of, w, n) / dispersion, 1e-6)
        working = f + np.bincount(set_of, quality - p, n) / dispersion / precision
        if i == choose_at:
            preset, tau, evidence = _choose(parts, working, 1 / precision, k=sets.shape[1])
            mixture = _kernel(parts, preset, k=sets.shape[1])
        kernel = mixture * tau**2
        inverse: Floats = np.linalg.inv(kernel + np.diag(1 / precision)).astype(np.float64)
        inverse = (inverse + inverse.T) / 2  # rounding makes it lopsided, and covariances made of it indefinite
        ones = inverse.sum(axis=1)
        level = float(ones @ working / ones.sum())
        weights = inverse @ (working - level)
        f = kernel @ weights
    return Fit(sets, n_examples, difficulty + level, preset, tau, evidence, dispersion, weights, inverse)


def posterior(fit: Fit, sets: Ints) -> tuple[Floats, Floats]:
    """Return mean and SD of f for any sets, seen or not, logits."""
    across = _kernel(_overlaps(sets, fit.sets, n_examples=fit.n_examples), fit.preset, k=sets.shape[1]) * fit.tau**2
    spread = fit.tau**2 - np.einsum("ij,ij->i", across @ fit.inverse, across)
    return across @ fit.weights, np.sqrt(np.maximum(spread, 1e-12))  # of a set seen often, rounding leaves less than 0


def joint(fit: Fit, sets: Ints) -> tuple[Floats, Floats]:
    """Return mean and covariance of f for any sets, logits."""
    k = sets.shape[1]
    across = _kernel(_overlaps(sets, fit.sets, n_examples=fit.n_examples), fit.preset, k=k) * fit.tau**2
    own = _kernel(_overlaps(sets, sets, n_examples=fit.n_examples), fit.preset, k=k) * fit.tau**2
    return across @ fit.weights, own - across @ fit.inverse @ across.T


def linear(fit: Fit) -> tuple[Floats, Floats]:
    """Return mean and covariance, in logits, of the examples' worth (first n_examples) and position effects (last)."""
    k = fit.sets.shape[1]
    main, _, order, _ = PRESETS[fit.preset]
    p = _positions(k)
    prior = np.repeat([fit.tau**2 * main / k, fit.tau**2 * order / max(float(p @ p), 1e-9) * (k > 1)], fit.n_examples)
    across = np.concatenate(_features(fit.sets, n_examples=fit.n_examples), axis=1) * prior
    return across.T @ fit.weights, np.diag(prior) - across.T @ fit.inverse @ across


def quality(fit: Fit, f: Floats) -> Floats:
    """Return the mean quality, 0..1, over all validation rows of sets with these f."""
    return np.asarray(sigmoid(fit.difficulty[None, :] + f[:, None]).mean(axis=1))


def slope(fit: Fit) -> float:
    """Return how much quality one logit of f is worth, averaged over the validation rows."""
    p = sigmoid(fit.difficulty)
    return float((p * (1 - p)).mean())


def estimates(fit: Fit, sets: Ints) -> pl.DataFrame:
    """Return estimate, low and high (95 %, 0..1) of the mean quality of sets over the validation rows, one row per set.

    The interval holds for a set picked beforehand; the best of many is still biased upward, if far less than its raw
    score.
    """
    mean, sd = posterior(fit, sets)
    ends = [quality(fit, mean + z * sd) for z in (0.0, -1.96, 1.96)]
    return pl.DataFrame(dict(zip(("estimate", "low", "high"), ends, strict=True)))


def effects(fit: Fit, ids: list[str]) -> pl.DataFrame:
    """Return what each example adds, largest first.

    Args:
        fit: The surrogate.
        ids: Of all examples, by index.

    Returns:
        One row per example: id, effect (quality gained where it takes the place of an average example; points of 1),
        low, high (95 %), last_minus_first (what standing last instead of first gains), last_low, last_high, n_sets
        (that hold it).
    """
    mean, cov = linear(fit)
    n, unit = fit.n_examples, slope(fit)
    centred = np.eye(n) - 1 / n
    worth = centred @ mean[:n]
    sd = np.sqrt(np.maximum(np.diag(centred @ cov[:n, :n] @ centred), 0))
    place, place_sd = 2 * mean[n:], 2 * np.sqrt(np.maximum(np.diag(cov)[n:], 0))
    frame = pl.DataFrame(
        {
            "id": ids,
            "effect": unit * worth,
            "low": unit * (worth - 1.96 * sd),
            "high": unit * (worth + 1.96 * sd),
            "last_minus_first": unit * place,
            "last_low": unit * (place - 1.96 * place_sd),
            "last_high": unit * (place + 1.96 * place_sd),
            "n_sets": np.bincount(fit.sets.ravel(), minlength=n),
        }
    )
    return frame.sort(["effect", "id"], descending=[True, False])


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)).

    Example:
        >>> sigmoid(np.array([0.0])).tolist()
        [0.5]
    """
    return np.asarray(1 / (1 + np.exp(-x)))


def _difficulties(difficulty: Floats, f: Floats, row_of: Ints, y: Floats, dispersion: float) -> Floats:
    """One Newton step per row, with a normal prior around their mean."""
    p = sigmoid(difficulty[row_of] + f)
    w = np.maximum(p * (1 - p), 1e-4)
    n = len(difficulty)
    pull = (difficulty - difficulty.mean()) / _SD_DIFFICULTY**2
    gradient = np.bincount(row_of, y - p, n) / dispersion - pull
    curvature = np.bincount(row_of, w, n) / dispersion + 1 / _SD_DIFFICULTY**2
    # clipped: where p is near 0 or 1 the curve is flat, and a whole step would jump over the solution
    return np.asarray(difficulty + np.clip(gradient / curvature, -1.5, 1.5))


def _choose(parts: tuple[Floats, Floats], working: Floats, noise: Floats, *, k: int) -> tuple[str, float, float]:
    """Return mixture, tau and the log evidence against tau = 0, on at most ``_N_EVIDENCE`` sets."""
    n = len(working)
    at = np.arange(n) if n <= _N_EVIDENCE else np.random.default_rng(0).permutation(n)[:_N_EVIDENCE]
    z, r, root = working[at], noise[at], np.sqrt(noise[at])
    common, agreement = (part[np.ix_(at, at)] for part in parts)
    best, chosen = -math.inf, ("mixed", float(_TAUS[0]))
    for preset in PRESETS:
        kernel = _kernel((common, agreement), preset, k=k)
        values, vectors = np.linalg.eigh(kernel / root[:, None] / root[None, :])  # once, for all tau
        for tau in _TAUS:
            scaled = vectors.T @ ((z - np.average(z, weights=1 / (r + tau**2))) / root)
            spread = 1 + tau**2 * np.maximum(values, 0)
            log_evidence = -0.5 * float((scaled**2 / spread).sum() + np.log(spread).sum()) + _FAVOUR.get(preset, 0.0)
            if log_evidence > best:
                best, chosen = log_evidence, (preset, float(tau))
    alone = (z - np.average(z, weights=1 / r)) / root
    return *chosen, best + 0.5 * float(alone @ alone)


def _positions(k: int) -> Floats:
    return np.linspace(-1, 1, k) if k > 1 else np.zeros(1)


def _features(sets: Ints, *, n_examples: int) -> tuple[Floats, Floats]:
    """Return which examples a set holds, and where: one row per set, one column per example."""
    holds, where = np.zeros((len(sets), n_examples)), np.zeros((len(sets), n_examples))
    at = np.arange(len(sets))[:, None]
    holds[at, sets] = 1
    where[at, sets] = _positions(sets.shape[1])[None, :]
    return holds, where


def _overlaps(a: Ints, b: Ints, *, n_examples: int) -> tuple[Floats, Floats]:
    """Return examples in common, and agreement of positions, of all pairs of sets: what every mixture is made of."""
    (holds_a, where_a), (holds_b, where_b) = (_features(s, n_examples=n_examples) for s in (a, b))
    return holds_a @ holds_b.T, where_a @ where_b.T


def _kernel(parts: tuple[Floats, Floats], preset: str, *, k: int) -> Floats:
    common, agreement = parts
    main, pair, order, own = PRESETS[preset]
    most = float(_positions(k) @ _positions(k))
    same_set = common > k - 0.5
    same_order = same_set & (agreement > most - 1e-6)
    kernel = common * main / k + own / 2 * same_set + own / 2 * same_order
    if k > 1:
        kernel += pair / (k * (k - 1)) * common * (common - 1) + order / most * agreement
    else:  # neither pairs nor an order: their share belongs to the example
        kernel += (pair + order) * common
    return np.asarray(kernel)
