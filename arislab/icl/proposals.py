"""Which ordered sets of examples to try, and on which validation rows: a balanced start, then proposals of a surrogate.

Sets are tuples of indices into the pool. Every function is deterministic in its arguments and the state of ``rng``.
What this module does not know: servers, scores, or what has been paid for.

Source:
    Thompson 1933; Kandasamy et al. 2018, Parallelised Bayesian Optimisation via Thompson Sampling (one draw per set of
    a batch).
"""

from collections.abc import Sequence

import numpy as np

from arislab.icl import surrogate
from arislab.icl.sets import Rules, Set
from arislab.icl.surrogate import Fit, Floats, Ints

_N_DRAWS, _N_MOVES = 250, 400  # ways in which a pool of candidate sets is made


def draw(rules: Rules, n: int, rng: np.random.Generator) -> list[Set]:
    """Return up to ``n`` distinct ordered sets from shuffled decks: every example occurs about equally often."""
    sets: dict[Set, None] = {}
    free = [i for i in range(rules.n) if i not in rules.pinned]
    deck: list[int] = []
    again = 0
    while len(sets) < n and again < 100:  # few sets exist: most draws are known already
        members = rules.fill(deck, rules.k - len(rules.pinned))
        if len(members) + len(rules.pinned) < rules.k:
            deck += [int(i) for i in rng.permutation(free)]
            members = rules.fill(deck, rules.k - len(rules.pinned))
        for i in members:
            deck.remove(i)
        before = len(sets)
        sets[tuple(int(i) for i in rng.permutation([*rules.pinned, *members]))] = None
        again = 0 if len(sets) > before else again + 1
    return list(sets)


def rows(n_rows: int, each: int, n: int, rng: np.random.Generator) -> list[Ints]:
    """Return ``n`` draws of ``each`` distinct rows from shuffled decks: every row occurs about equally often."""
    drawn, deck = [], np.empty(0, dtype=np.int64)
    for _ in range(n):
        if len(deck) < each:
            rest = rng.permutation(n_rows)
            deck = np.concatenate([deck, rest[~np.isin(rest, deck)], rest[np.isin(rest, deck)]])
        drawn.append(deck[:each])
        deck = deck[each:]
    return drawn


def propose(
    fit: Fit, rules: Rules, n: int, rng: np.random.Generator, *, elites: Sequence[Set], noise: float = 1.0
) -> list[Set]:
    """Return up to ``n`` sets, each the best in one draw of the surrogate's posterior (batched Thompson sampling).

    Args:
        fit: The surrogate.
        rules: What a set may look like.
        n: Sets.
        rng: Of the draws.
        elites: Best sets so far: proposals are also near them.
        noise: Scale of the draws, 1 is the posterior's own; less explores less.
    """
    pool = _candidates(fit, rules, rng, elites=elites, noise=noise)
    mean, cov = surrogate.joint(fit, np.array(pool))
    # the pool holds orders of one set, whose rows of the covariance are nearly equal: Cholesky needs a little more
    jitter = 1e-8 * max(1e-3, float(np.trace(cov)) / len(pool)) + 1e-10
    root = noise * np.linalg.cholesky(cov + jitter * np.eye(len(pool)))
    chosen: dict[int, None] = {}
    for _ in range(40):
        draws = mean[:, None] + root @ rng.standard_normal((len(pool), max(16, n)))
        for best in np.argsort(-draws, axis=0, kind="stable")[:4].T:  # the next best, if the best is in the batch
            new = [int(i) for i in best if int(i) not in chosen]
            if new:
                chosen[new[0]] = None
            if len(chosen) >= n:
                return [pool[i] for i in chosen]
    return [pool[i] for i in chosen]


def _candidates(fit: Fit, rules: Rules, rng: np.random.Generator, *, elites: Sequence[Set], noise: float) -> list[Set]:
    """Return about 600 sets worth a look: tops of drawn example effects, small changes of the elites, the elites."""
    n, k, n_free = rules.n, rules.k, rules.k - len(rules.pinned)
    mean, cov = surrogate.linear(fit)
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    # the symmetric root: examples that no set held yet have equal values, whose vectors are another on every machine
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    sets: dict[Set, None] = {}

    def drawn() -> Floats:
        return np.asarray(mean + noise * (root @ rng.standard_normal(2 * n)))

    for _ in range(_N_DRAWS):
        effects = drawn()
        best = rules.fill((int(i) for i in np.argsort(-effects[:n], kind="stable")), n_free + 3)
        if rng.random() < 0.3:
            best = [int(i) for i in rng.permutation(best)]
        held = np.array([*rules.pinned, *best[:n_free]])
        sets[tuple(held[np.argsort(effects[n:][held], kind="stable")].tolist())] = None
    good = [int(i) for i in np.argsort(-mean[:n], kind="stable")[: max(2 * k, 10)]]
    for _ in range(_N_MOVES):
        members = list(elites[int(rng.integers(len(elites)))])
        kind = rng.random()
        if kind < 0.6:
            new = good[int(rng.integers(len(good)))] if rng.random() < 0.7 else int(rng.integers(n))
            at = int(rng.integers(k))
            if new not in members:
                members[at] = new
        elif kind < 0.85 and k > 1:
            i, j = (int(x) for x in rng.permutation(k)[:2])
            members[i], members[j] = members[j], members[i]
        else:
            places = drawn()[n:]
            members.sort(key=lambda i: (places[i], i))
        if rules.allows(members):
            sets[tuple(members)] = None
    return list(sets | dict.fromkeys(elites))
