"""Certificates: many rows approved at once, on a random sample of them that people judged.

    fix      the rows are fixed (a stratum: say quality >= .95, category nurse), and what will be promised of them
    sample   a random order of them is drawn, and people judge its first rows, in a queue of their own
    verdict  at each look that was stated beforehand: how many may people reject at most, of all of the stratum?
    issue    only if that is within the promise: its rows are approved at the fold, by ``certificate:<id>``
    withdraw takes all of them back

In a notebook, with ``known = lambda: (lake["certificates"].read(), lake["certified_rows"].read())``::

    plan = certificates.fix(rows, reviews, stratum="quality >= .95, nurse", actor="Lea", looks=3, earlier=known())
    lake["certified_rows"].append(plan.rows)
    lake["certificates"].append(plan.event)
    queue = certificates.sample(*known(), curated, certificate=plan.certificate, look=1)  # for a panel, or a session
    certificates.verdict(*known(), lake["reviews"].read(), certificate=plan.certificate)  # look 2 if it says so
    lake["certificates"].append(certificates.issue(*known(), lake["reviews"].read(), certificate=…, actor="Lea"))

All is a log of events (table certificates) and the rows that each is about, bound to their texts (certified_rows). An
edit is a reject of the text as it came. A person's verdict on a row always wins; a row of which somebody said anything
that does not settle it (its text was another one, reviewers differ) is not approved by a certificate. This module does
not know where the tables are kept, nor which phases use certified rows (curate.policy).
"""

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from arislab import stats
from arislab.errors import ParameterError, closest
from arislab.review.agreement import TEXT, opinions
from arislab.review.decisions import CERTIFICATE, VERDICTS, kind_of, live, sha256
from arislab.review.estimates import CERTIFICATE as WHY

EVENTS = ("fixed", "issued", "withdrawn")
_TIME = pl.Datetime("us", "UTC")
SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("certificate", "event", "actor", "reason"), pl.String),
    "at": _TIME,
    **dict.fromkeys(("stratum", "rows_sha256"), pl.String),
    **dict.fromkeys(("n_rows", "n_sample", "n_rejects"), pl.Int64),
    **dict.fromkeys(("bound", "promise", "confidence"), pl.Float64),
    "looks": pl.Int64,
    "alpha": pl.Float64,
    "seed": pl.Int64,
}
ROWS: dict[str, Any] = {
    **dict.fromkeys(("certificate", *TEXT), pl.String),
    "is_sampled": pl.Boolean,
    "place": pl.Int64,
}
_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996: 29 rows are 29 % of them


@dataclass(frozen=True)
class Plan:
    """A stratum that is fixed and what will be promised of it, to be stored before anybody looks at its sample."""

    certificate: str
    """Name of the certificate: a digest of its rows and of all that was stated."""
    event: pl.DataFrame
    """The event for the table certificates."""
    rows: pl.DataFrame
    """The rows of the stratum, for the table certified_rows."""
    n_at_looks: tuple[int, ...]
    """How many rows of the sample must be judged for each look; look k certifies with k - 1 rejects among them."""
    n_left_out: int
    """Rows that were given and are not in the stratum: they were judged, or do not wait."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n:,}" for n in self.n_at_looks)
        left_out = f" ({self.n_left_out:,} that do not wait are left out)" if self.n_left_out else ""
        return (
            f"certificate {self.certificate}: {self.rows.height:,} rows{left_out}; looks at {sizes} judged rows of the "
            "sample, each allows one reject more, the first none"
        )


def fix(
    rows: pl.DataFrame,
    reviews: pl.DataFrame,
    *,
    earlier: tuple[pl.DataFrame, pl.DataFrame] | None,
    stratum: str,
    actor: str,
    promise: float = 0.05,
    confidence: float = 0.95,
    looks: int = 1,
    seed: int = 0,
    reason: str | None = None,
) -> Plan:
    """Fix a stratum, what is promised of it and when it is looked at; only then is its sample drawn.

    The chance to be wrong is spent on the looks in equal parts, so it does not matter at which one somebody stops. What
    earlier certificates spent on some of these rows is not left: who tries again until it works would promise anything.

    Args:
        rows: Rows of ``training_data_curated``: custom_id, input, output, needs_review, reviewed_by. Those that wait
            for review, and of which nobody has said anything, are the stratum.
        reviews: Every event so far.
        earlier: All events of the table certificates, and all rows of certified_rows; null: there are none.
        stratum: How the rows were selected, in words or as a condition.
        actor: Who fixes it.
        promise: Share of the stratum that people would reject (or edit), at most, in (0, 1).
        confidence: Chance that the promise holds, at least, in (0, 1).
        looks: How often it may be looked at, from 1. Look k may have k - 1 rejects, at more judged rows.
        seed: Of the draw.
        reason: Why, for the log.

    Raises:
        ParameterError: A number out of range, a stratum without rows, or one whose chance to be wrong is spent.

    Source:
        Clopper and Pearson 1934 for a sample without replacement (exact, by the hypergeometric distribution; Konijn
        1973, Statistical Theory of Sample Survey Design and Analysis); a union bound over the looks (alpha spending,
        Lan and DeMets 1983): valid under optional stopping at every one of them.

    Example:
        >>> rows = {"custom_id": [f"r-{i}" for i in range(10_000)], "input": "Q", "output": "A"}
        >>> rows |= {"needs_review": True, "reviewed_by": None}
        >>> from arislab.review.decisions import SCHEMA
        >>> fix(pl.DataFrame(rows), pl.DataFrame(schema=SCHEMA), earlier=None, stratum="all", actor="Ada").n_at_looks
        (59,)
    """
    _check(promise=promise, confidence=confidence, looks=looks, stratum=stratum, actor=actor)
    free = rows.filter("needs_review", pl.col("reviewed_by").is_null()).unique("custom_id", keep="first")
    free = free.join(_spoken_of(reviews), on="custom_id", how="anti").sort("custom_id")
    if not free.height:
        raise ParameterError(
            f"stratum {stratum!r} has no row that waits, of {rows.height:,} given; a certificate is for rows that "
            "nobody has judged. Select others."
        )
    texts = free.select(
        "custom_id",
        shown_sha256=pl.Series([sha256(text) for text in free["output"]], dtype=pl.String),
        asked_sha256=pl.Series([sha256(text) for text in free["input"]], dtype=pl.String),
    )
    digest = hashlib.sha256(json.dumps(texts.rows()).encode()).hexdigest()
    name = hashlib.sha256(json.dumps([digest, stratum, promise, confidence, looks, seed]).encode()).hexdigest()[:12]
    alpha = _left(texts, earlier, confidence, but=name)
    sizes = sizes_at_looks(free.height, promise=promise, alpha=alpha, looks=looks)
    # the draw hangs on every row of the stratum: nobody knows it before they are fixed
    order = np.random.default_rng([seed, int(name, 16)]).permutation(free.height) + 1
    place = pl.Series("place", order, dtype=pl.Int64)
    is_sampled = place <= sizes[-1]
    marked = texts.with_columns(
        certificate=pl.lit(name), is_sampled=is_sampled, place=pl.when(is_sampled).then(place)
    ).select(*ROWS)
    made: dict[str, Any] = {"certificate": name, "event": "fixed", "actor": actor, "reason": reason}
    made |= {
        "at": datetime.now(UTC),
        "stratum": stratum,
        "rows_sha256": digest,
        "n_rows": free.height,
        "n_sample": sizes[-1],
    }
    made |= {"promise": promise, "confidence": confidence, "looks": len(sizes), "alpha": alpha, "seed": seed}
    return Plan(name, pl.DataFrame([made], schema=SCHEMA), marked, sizes, rows.height - free.height)


def _check(*, promise: float, confidence: float, looks: int, stratum: str, actor: str) -> None:
    for name, value, hint in (
        ("promise", promise, "0.05 is at most one reject in twenty"),
        ("confidence", confidence, "0.95 is wrong in one certificate of twenty at most"),
    ):
        if not 0 < value < 1:
            raise ParameterError(f"{name} must be in (0, 1), got {value!r}; {hint}.")
    if isinstance(looks, bool) or not isinstance(looks, int) or looks < 1:
        raise ParameterError(f"looks must be a whole number from 1, got {looks!r}; look k allows k - 1 rejects.")
    for name, text in (("stratum", stratum), ("actor", actor)):
        if not text.strip():
            raise ParameterError(f"{name} must not be empty, got {text!r}; it stands in the log of the certificate.")


def _spoken_of(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return custom_id of the rows of which a person has said something that stands, of whatever text."""
    said = live(reviews).filter(pl.col("decision").is_in((*VERDICTS, "flag")), pl.col("planted").is_null())
    return said.select("custom_id").unique()


def _left(
    texts: pl.DataFrame, earlier: tuple[pl.DataFrame, pl.DataFrame] | None, confidence: float, *, but: str
) -> float:
    """Return what is left of the chance to be wrong, after what earlier certificates spent on any of these texts.

    Fixed again, a certificate does not count against itself.
    """
    alpha = round(1 - confidence, 12)
    if earlier is None:
        return alpha
    events, rows = (frame.filter(pl.col("certificate") != but) for frame in earlier)
    shared = rows.join(texts, on=list(TEXT), how="semi")
    spent = [(name, _spent(own)) for (name,), own in events.group_by("certificate")]
    schema = {"certificate": pl.String, "spent": pl.Float64}
    shared = shared.join(pl.DataFrame(spent, schema=schema, orient="row").filter(pl.col("spent") > 0), on="certificate")
    if not shared.height:
        return alpha
    most = float(max(shared.group_by(TEXT).agg(pl.col("spent").sum())["spent"]))
    left = round(alpha - most, 12)
    if left <= 0:
        names = ", ".join(shared["certificate"].unique().sort())
        raise ParameterError(
            f"{shared['custom_id'].n_unique():,} of {texts.height:,} rows were in certificates before ({names}), which "
            f"have spent {most:g} of the chance to be wrong, and confidence {confidence:g} leaves {alpha:g} in all; "
            f"select other rows, or promise with a confidence below {1 - most:g}."
        )
    return left


def _spent(events: pl.DataFrame) -> float:
    """Return what a certificate spent: all that it stated, or, withdrawn before it was issued, that of its looks."""
    is_given_up = "withdrawn" in events["event"] and "issued" not in events["event"]
    return float(events.filter(event="withdrawn" if is_given_up else "fixed")["alpha"].sum())


def sizes_at_looks(n_rows: int, *, promise: float, alpha: float, looks: int = 1) -> tuple[int, ...]:
    """Return how many rows must be judged for each look; look k certifies with k - 1 rejects among them.

    Args:
        n_rows: Rows of the stratum.
        promise: As in ``fix``.
        alpha: Chance to be wrong, over all looks.
        looks: As in ``fix``; where so few rows may be bad that no further reject could be allowed, there are fewer.

    Example:
        >>> sizes_at_looks(10_000, promise=0.05, alpha=0.05), sizes_at_looks(10_000, promise=0.01, alpha=0.05)
        ((59,), (291,))
        >>> sizes_at_looks(10_000, promise=0.05, alpha=0.05, looks=3)
        (80, 118, 151)
    """
    n_bad = _broken_by(n_rows, promise)
    looks = min(looks, n_bad)
    return tuple(_least(n_rows, n_bad, allowed, alpha / looks) for allowed in range(looks))


def _broken_by(n_rows: int, promise: float) -> int:
    """The least number of bad rows that breaks a promise."""
    return min(math.floor(promise * n_rows + _ROUNDING) + 1, n_rows)


def _least(n_rows: int, n_bad: int, allowed: int, alpha: float) -> int:
    """Return the least sample in which so many bad rows would show by more than is allowed, but for a chance alpha."""
    from scipy.stats import hypergeom

    low, high = allowed, n_rows
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = hypergeom.cdf(allowed, n_rows, n_bad, middle) <= alpha
        low, high = (low, middle) if is_enough else (middle, high)
    return high


# ---- the sample, and what it says ------------------------------------------------------------------------------------


def sample(
    certificates: pl.DataFrame, rows: pl.DataFrame, curated: pl.DataFrame, *, certificate: str, look: int | None = None
) -> pl.DataFrame:
    """Return the rows to judge for a certificate, in the order of the draw, as ``review.queue`` returns them.

    Whoever may stop early asks for the rows of one look after the other; within a look they may be judged in any order.

    Args:
        certificates: Events of the table certificates.
        rows: Rows of the table certified_rows.
        curated: Rows of ``training_data_curated``; one whose text is another by now cannot be judged any more.
        certificate: Its name.
        look: Only the rows that this look adds to those before, from 1; null: all of them.

    Returns:
        Rows of ``curated``, with why (certificate), inclusion_prob (the chance that this queue held the row, of those
        of the stratum), queue (name of the certificate, and after a dash of the look), stale and stale_by (null).

    Raises:
        ParameterError: There is no such certificate, or look.
    """
    plan, mine = _plan(certificates, rows, certificate)
    sizes = _sizes(plan)
    if look is not None and not 1 <= look <= len(sizes):
        raise ParameterError(f"look must be a whole number from 1 to {len(sizes)}, got {look!r}; so many were stated.")
    bounds = (0, *sizes)
    first, last = (0, sizes[-1]) if look is None else bounds[look - 1 : look + 1]
    drawn = mine.filter(pl.col("place") > first, pl.col("place") <= last).sort("place").select(*TEXT)
    texts = _with_digests(curated.join(drawn, on="custom_id", how="semi"))
    found = drawn.join(texts, on=list(TEXT), how="inner", maintain_order="left")
    none, chance = pl.lit(None, dtype=pl.String), pl.lit((last - first) / plan["n_rows"])
    queue = pl.lit(certificate if look is None else f"{certificate}-{look}")
    return cleared(found.select(curated.columns)).with_columns(
        why=pl.lit(WHY), inclusion_prob=chance, queue=queue, stale=none, stale_by=none
    )  # one row per output to judge


@dataclass(frozen=True)
class Verdict:
    """What the judged rows of a sample say of its stratum."""

    certificate: str
    """Its name."""
    state: str
    """fixed, issued or withdrawn."""
    holds: bool
    """At a look that was reached, the bound was within the promise: it may be issued."""
    look: int
    """The look that ``holds`` is of, or the last one that was reached; 0: none yet."""
    looks: int
    """How many were stated."""
    n: int
    """Judged rows of that look; without one, those that are judged in an unbroken order so far."""
    n_rejects: int
    """Of these, rejected or edited."""
    bound: float | None
    """Share of the stratum that people would reject, at most, as sure as one look is; null before the first."""
    bound_unseen: float | None
    """The same of the rows that nobody judged for it; larger where the stratum is small. Nothing is promised of it."""
    promise: float
    """What it must not exceed."""
    alpha_spent: float
    """Part of the chance to be wrong that the looks so far took."""
    n_next: int | None
    """Judged rows, from the first on, at which the next look is; null after the last one, or if it holds."""
    n_needed: int | None
    """Judged rows that would be needed with as many rejects, could one look only once; null: no number."""
    waits_for: tuple[str, ...]
    """Up to 20 rows of the sample, in order, that the next look waits for: not judged, or people differ on them."""

    def __repr__(self) -> str:
        said = f"{self.n_rejects:,} rejects of {self.n:,}"
        if self.bound is None:
            return f"certificate {self.certificate}: no look yet ({said}), the first one is at {self.n_next:,}"
        what = f"at most {self.bound:.2%} rejects ({said}, look {self.look} of {self.looks})"
        if self.holds:
            return f"certificate {self.certificate}: {what}, as promised (at most {self.promise:.2%})"
        then = f"the next look is at {self.n_next:,}" if self.n_next else "that was the last look"
        return f"certificate {self.certificate}: {what}, more than the promised {self.promise:.2%}; {then}"


def verdict(certificates: pl.DataFrame, rows: pl.DataFrame, reviews: pl.DataFrame, *, certificate: str) -> Verdict:
    """Return what people's decisions on the sample say, at the looks that were stated; call it as often as you like.

    A look is reached when all of its rows are judged, in the order of the draw: rows that reviewers skip, or differ on,
    hold it up, for what is left out by choice is no random sample. Decisions on other texts of these rows do not count.

    Args:
        certificates: Events of the table certificates.
        rows: Rows of the table certified_rows.
        reviews: Every event so far.
        certificate: Its name.

    Raises:
        ParameterError: There is no such certificate.

    Source:
        As in ``fix``.
    """
    plan, mine = _plan(certificates, rows, certificate)
    drawn = mine.filter("is_sampled").sort("place").join(_judged(mine, reviews), on="custom_id", how="left")
    drawn = drawn.sort("place")
    is_bad = drawn["is_bad"].to_list()
    n_unbroken = next((at for at, bad in enumerate(is_bad) if bad is None), len(is_bad))
    sizes, alpha = _sizes(plan), plan["alpha"] / plan["looks"]
    reached = [n for n in sizes if n <= n_unbroken]
    passed = [k for k, n in enumerate(reached) if sum(is_bad[:n]) <= k]
    look = passed[0] + 1 if passed else len(reached)
    n = sizes[look - 1] if look else n_unbroken
    n_rejects = sum(is_bad[:n])
    bound = unseen = None
    if look:
        n_bad = stats.most_in_population(n_rejects, n, plan["n_rows"], alpha=alpha)
        bound = n_bad / plan["n_rows"]
        unseen = (n_bad - n_rejects) / (plan["n_rows"] - n) if plan["n_rows"] > n else 0.0
    further = None if passed or len(reached) == len(sizes) else sizes[len(reached)]
    waits = drawn.head(further or 0).filter(pl.col("is_bad").is_null())["custom_id"].head(20)
    return Verdict(
        certificate=certificate,
        state=_state(certificates, certificate),
        holds=bool(passed),
        look=look,
        looks=len(sizes),
        n=n,
        n_rejects=n_rejects,
        bound=bound,
        bound_unseen=unseen,
        promise=plan["promise"],
        alpha_spent=alpha * look,
        n_next=further,
        n_needed=_needed(plan, n_rejects),
        waits_for=tuple(waits),
    )


def _plan(certificates: pl.DataFrame, rows: pl.DataFrame, certificate: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the event that fixed a certificate, and its rows."""
    plans = certificates.filter(pl.col("event") == "fixed")
    own = plans.filter(pl.col("certificate") == certificate)
    mine = rows.filter(pl.col("certificate") == certificate)
    if not own.height:
        raise ParameterError(f"there is no certificate {certificate!r}; {closest(certificate, plans['certificate'])}.")
    plan = own.row(0, named=True)
    if mine.height != plan["n_rows"]:
        raise ParameterError(
            f"certificate {certificate!r} is of {plan['n_rows']:,} rows, and {mine.height:,} are given; give all rows "
            "of the table certified_rows, and store those of a plan before its event."
        )
    return plan, mine


def _sizes(plan: dict[str, Any]) -> tuple[int, ...]:
    return sizes_at_looks(plan["n_rows"], promise=plan["promise"], alpha=plan["alpha"], looks=plan["looks"])


def _state(certificates: pl.DataFrame, certificate: str) -> str:
    events = set(certificates.filter(pl.col("certificate") == certificate)["event"])
    return next(state for state in reversed(EVENTS) if state in events)


def _judged(rows: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return custom_id and is_bad of rows on whose certified text people are of one mind, or somebody adjudicated."""
    events = live(reviews).join(rows.select(TEXT), on=list(TEXT), how="semi", maintain_order="left")
    final = events.filter(pl.col("decision") == "adjudicate", pl.col("planted").is_null())
    final = final.unique("custom_id", keep="last", maintain_order=True)
    adjudged = pl.DataFrame(
        [(row["custom_id"], kind_of(row) != "approve") for row in final.iter_rows(named=True)],
        schema={"custom_id": pl.String, "is_bad": pl.Boolean},
        orient="row",
    )
    is_bad = pl.col("decision") != "approve"
    said = opinions(events).group_by("custom_id").agg(is_bad=is_bad.any(), is_one=is_bad.n_unique() == 1)
    agreed = said.filter("is_one").select("custom_id", "is_bad").join(adjudged, on="custom_id", how="anti")
    return pl.concat([adjudged, agreed])


def _needed(plan: dict[str, Any], n_rejects: int) -> int | None:
    n_bad = _broken_by(plan["n_rows"], plan["promise"])
    return None if n_rejects >= n_bad else _least(plan["n_rows"], n_bad, n_rejects, plan["alpha"])


# ---- events ----------------------------------------------------------------------------------------------------------


def issue(
    certificates: pl.DataFrame,
    rows: pl.DataFrame,
    reviews: pl.DataFrame,
    *,
    certificate: str,
    actor: str,
    reason: str | None = None,
) -> pl.DataFrame:
    """Return the event that issues a certificate, for the table certificates: from then on its rows are approved.

    Args:
        certificates: As in ``verdict``.
        rows: As there.
        reviews: As there.
        certificate: Its name.
        actor: Who issues it.
        reason: Why, for the log.

    Raises:
        ParameterError: The sample does not show what was promised, or it was issued or withdrawn before.
    """
    plan, _ = _plan(certificates, rows, certificate)
    one = verdict(certificates, rows, reviews, certificate=certificate)
    if one.state != "fixed":
        raise ParameterError(f"certificate {certificate!r} is {one.state} already; fix another stratum.")
    if not one.holds:
        raise ParameterError(f"{one!r}. {_what_next(one)} Nothing was issued.")
    found = {"n_sample": one.n, "n_rejects": one.n_rejects, "bound": one.bound, "alpha": one.alpha_spent}
    return _event(plan, "issued", actor, reason, found)


def _what_next(one: Verdict) -> str:
    if one.n_next is not None:
        return f"Judge the sample's first {one.n_next:,} rows."
    if one.n_needed is None:
        return "So many rejects break the promise themselves; fix a stratum of better rows."
    return (
        f"With {one.n_rejects:,} rejects {one.n_needed:,} judged rows would have been needed; fix a stratum of better "
        "rows, or state more looks."
    )


def withdraw(
    certificates: pl.DataFrame,
    rows: pl.DataFrame,
    reviews: pl.DataFrame,
    *,
    certificate: str,
    actor: str,
    reason: str,
) -> pl.DataFrame:
    """Return the event that takes a certificate and all of its rows back, for the table certificates.

    One that was never issued can be given up like this: only what its looks took is spent.

    Args:
        certificates: As in ``verdict``.
        rows: As there.
        reviews: As there.
        certificate: Its name.
        actor: Who withdraws it.
        reason: Why, for the log.

    Raises:
        ParameterError: There is no such certificate, or it was withdrawn before.
    """
    plan, _ = _plan(certificates, rows, certificate)
    one = verdict(certificates, rows, reviews, certificate=certificate)
    if one.state == "withdrawn":
        raise ParameterError(f"certificate {certificate!r} is withdrawn already; its rows wait again.")
    found = {"n_sample": one.n, "n_rejects": one.n_rejects, "bound": one.bound, "alpha": one.alpha_spent}
    return _event(plan, "withdrawn", actor, reason, found)


def _event(plan: dict[str, Any], event: str, actor: str, reason: str | None, found: dict[str, Any]) -> pl.DataFrame:
    if not actor.strip():
        raise ParameterError(f"actor must not be empty, got {actor!r}; it stands in the log of the certificate.")
    made = {"event": event, "actor": actor, "reason": reason, "at": datetime.now(UTC)}
    return pl.DataFrame([{name: plan[name] for name in SCHEMA} | made | found], schema=SCHEMA)  # one row: the event


def overview(certificates: pl.DataFrame, rows: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Return how all certificates stand.

    Args:
        certificates: As in ``verdict``.
        rows: As there.
        reviews: As there.

    Returns:
        One row per certificate, in the order in which they were fixed: certificate, state, stratum, n_rows, promise,
        confidence, looks, look, n, n_rejects, bound, n_next, holds (as in ``Verdict``; false for an issued one: people
        have changed their minds since, and it should be withdrawn), actor, at (of its newest event).
    """
    plans = certificates.filter(pl.col("event") == "fixed").sort("at", "certificate")
    lines = []
    for plan in plans.iter_rows(named=True):
        one = verdict(certificates, rows, reviews, certificate=plan["certificate"])
        newest = certificates.filter(certificate=plan["certificate"], event=one.state).row(0, named=True)
        named = {name: newest[name] for name in ("certificate", "stratum", "n_rows", "confidence", "actor", "at")}
        lines.append(named | {name: value for name, value in vars(one).items() if name in _OVERVIEW})
    return pl.DataFrame(lines, schema=_OVERVIEW)  # one row per certificate


_OVERVIEW: dict[str, Any] = {
    **dict.fromkeys(("certificate", "state", "stratum"), pl.String),
    "n_rows": pl.Int64,
    **dict.fromkeys(("promise", "confidence"), pl.Float64),
    **dict.fromkeys(("looks", "look", "n", "n_rejects"), pl.Int64),
    "bound": pl.Float64,
    "n_next": pl.Int64,
    "holds": pl.Boolean,
    "actor": pl.String,
    "at": _TIME,
}


# ---- the rows --------------------------------------------------------------------------------------------------------


def in_force(certificates: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the certificates that were issued and not withdrawn.

    Args:
        certificates: Events of the table certificates.
        rows: Rows of the table certified_rows.

    Returns:
        One row per text: certificate (of several the one issued first), custom_id, shown_sha256, asked_sha256, at
        (when it was issued).
    """
    gone = certificates.filter(pl.col("event") == "withdrawn")
    issued = certificates.filter(pl.col("event") == "issued").join(gone, on="certificate", how="anti")
    issued = issued.sort("at", "certificate").select("certificate", "at").unique("certificate", maintain_order=True)
    found = issued.join(rows.select("certificate", *TEXT), on="certificate", maintain_order="left")
    return found.unique(TEXT, keep="first", maintain_order=True)  # one row per certified text


def applied(curated: pl.DataFrame, reviews: pl.DataFrame, certified: pl.DataFrame) -> pl.DataFrame:
    """Return the curated rows as certificates leave them: approved, where their text is the one that was certified.

    A row of which a person said anything that stands is left to people: their verdict wins, and one that does not
    settle it (stale, disputed, a flag) keeps the certificate from doing so. Rows whose certificate is not in force any
    more wait again. Applying it twice changes nothing.

    Args:
        curated: Rows of ``training_data_curated``, folded (``review.fold``, ``decisions.standing``).
        reviews: Every event so far.
        certified: From ``in_force``.

    Returns:
        ``curated``: same rows, same order, same types. Certified ones are approved, do not need review, and have
        reviewed_by ``certificate:<id>``.
    """
    rows = cleared(curated).with_row_index("_row")
    near = rows.join(certified, on="custom_id", how="semi").filter(pl.col("reviewed_by").is_null())
    near = near.join(_spoken_of(reviews), on="custom_id", how="anti")
    near = _with_digests(near).join(certified.rename({"at": "_at"}), on=list(TEXT), how="inner")
    marked = rows.join(near.select("_row", "certificate", "_at"), on="_row", how="left", maintain_order="left")
    is_certified = pl.col("certificate").is_not_null()
    after = {
        "approved": pl.lit(value=True),
        "needs_review": pl.lit(value=False),
        "reviewed_by": pl.lit(CERTIFICATE) + pl.col("certificate"),
        "updated_at": pl.col("_at"),
    }
    return marked.with_columns(
        pl.when(is_certified).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in after.items()
        if name in curated.columns
    ).select(curated.columns)


def cleared(curated: pl.DataFrame) -> pl.DataFrame:
    """Return the curated rows as they are without any certificate: what only one approved waits again."""
    is_certified = is_of_certificate()
    after = {"approved": pl.lit(value=False), "needs_review": pl.lit(value=True), "reviewed_by": pl.lit(None)}
    return curated.with_columns(
        pl.when(is_certified).then(value).otherwise(pl.col(name)).alias(name) for name, value in after.items()
    )


def is_of_certificate() -> pl.Expr:
    """Return whether a row was approved by a certificate, not by a person; reads reviewed_by."""
    return pl.col("reviewed_by").str.starts_with(CERTIFICATE).fill_null(value=False)


def _with_digests(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        shown_sha256=pl.Series([sha256(text) for text in rows["output"]], dtype=pl.String),
        asked_sha256=pl.Series([sha256(text) for text in rows["input"]], dtype=pl.String),
    )
