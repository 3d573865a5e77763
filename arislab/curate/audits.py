"""What else than quality could explain which rows were kept (length, place, category, model), and what upsets the cut.

A cut that a cheap fact explains has chosen by that fact, whatever the scorers were meant to see. A cut that another
seed, or one scorer fewer, makes anew is not what the rows are worth. This module does not know how rows were scored.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl

from arislab import stats
from arislab.curate.labels import Labels, few
from arislab.curate.learned import learn
from arislab.curate.selection import Selection
from arislab.errors import ParameterError
from arislab.review import decisions
from arislab.system import equals, processes
from arislab.system.kinds import takes_any_frame

_FOLDS = 5
_SURPRISING = 0.7
"""AUC from which a fact is said to explain the cut; a coin has one half."""
_ALWAYS = ("length of the answer", "place in the file")
_TEMPLATE = "prompt template"
_STABLE, _SHAKY = 0.9, 0.5
"""Jaccard index from which a cut is said to stay, and below which to be another one."""


@takes_any_frame
def audit(
    frame: pl.DataFrame,
    *,
    by: tuple[str, ...] = ("category", "model", "shown"),
    copies: pl.DataFrame | None = None,
    perplexities: pl.DataFrame | None = None,
    seed: int = 0,
    n_boot: int = 200,
) -> pl.DataFrame:
    """Return how well each fact alone tells the kept rows from the others.

    Args:
        frame: ``Selection.frame``: custom_id, kept (Boolean), output (text), quality, and what there is of ``by``,
            messages (see ``template``) and logprob_mean; in the order in which the rows were recorded.
        by: Columns of names. Each name stands for the share of its rows that are kept, counted on the other four fifths
            of the rows, so that a column of names that come once explains nothing.
        copies: From ``verdicts.represent``, for the number of rows that each one stands for.
        perplexities: Rows of ``perplexities``: of each model that is named there the rows whose text it has seen count.
        seed: Of the intervals.
        n_boot: Resamples of rows.

    Returns:
        One row a fact: fact (length of the answer, place in the file, log-probability of the answer by the model that
        gave it, perplexity under a model, near-duplicates, prompt template, each of ``by``; those that differ between
        rows), auc (chance that a
        kept row has more of it than another, 0.5: it says nothing; of names, 1: it says all), low, high (95 %), n, says
        (in words).
    """
    scored = frame.filter(pl.col("quality").is_not_null())
    facts = {
        "length of the answer": scored["output"].str.len_chars(),
        "place in the file": pl.Series(range(len(scored))),
    }
    if "logprob_mean" in scored.columns:
        facts["log-probability of the answer"] = scored["logprob_mean"]
    facts |= _perplexities(scored, perplexities)
    if copies is not None:
        counts = copies.drop_nulls("duplicate_of").group_by(custom_id="duplicate_of").len("_n")
        counted = scored.select("custom_id").join(counts, on="custom_id", how="left", maintain_order="left")
        facts["near-duplicates"] = counted["_n"].fill_null(0)
    facts = {fact: values for fact, values in facts.items() if fact in _ALWAYS or values.drop_nulls().n_unique() > 1}
    if "messages" in scored.columns:
        scored, by = scored.with_columns(template(scored["messages"]).alias(_TEMPLATE)), (*by, _TEMPLATE)
    fold: pl.Series | None = None
    for name in by:
        if name in scored.columns and scored[name].n_unique() > 1:
            fold = _folds(scored["custom_id"]) if fold is None else fold
            facts[name] = _shares(scored, name, fold)
    areas = stats.aucs(facts, scored["kept"], seed=seed, n_boot=n_boot)
    rows = [
        (fact, area.mean, area.low, area.high, area.n, _in_words(fact, area, is_name=fact in by))
        for fact, area in areas.items()
    ]
    columns = ["fact", "auc", "low", "high", "n", "says"]
    schema = dict(zip(columns, (pl.String, *[pl.Float64] * 3, pl.Int64, pl.String), strict=True))
    return pl.DataFrame(rows, schema=schema, orient="row")  # one row per fact


def _perplexities(scored: pl.DataFrame, known: pl.DataFrame | None) -> dict[str, pl.Series]:
    """The perplexity of each answer under each model, null where it was not computed of this text."""
    if known is None or not known.height:
        return {}
    texts = scored.select(
        "custom_id", output_sha256=pl.Series(map(decisions.sha256, scored["output"]), dtype=pl.String)
    )
    facts = {}
    for (_, asked_as), rows in known.sort("base_model", "base_sha256", "asked_as").group_by(
        "base_sha256", "asked_as", maintain_order=True
    ):
        name = f"perplexity under {rows['base_model'][0]}" + ("" if asked_as == "{}" else f", asked with {asked_as}")
        one = rows.select("custom_id", "output_sha256", "logprob_mean")
        joined = texts.join(one, on=["custom_id", "output_sha256"], how="left", maintain_order="left")
        facts[name] = (-joined["logprob_mean"]).exp()
    return facts


def template(messages: pl.Series) -> pl.Series:
    """Return what names the prompt template of each row: a digest of its system message.

    Args:
        messages: As recorded: JSON lists of messages; null: unknown.

    Returns:
        Eight hex digits; "none" without a system message; null if nobody knows.

    Example:
        >>> told, bare = '[{"role": "system", "content": "Judge."}]', '[{"role": "user", "content": "Hi"}]'
        >>> template(pl.Series([told, bare, None])).to_list()
        ['6c88045c', 'none', None]
    """
    names: dict[str | None, str | None] = {None: None}
    for text in messages.unique().drop_nulls():
        system = [message["content"] for message in json.loads(text) if message.get("role") in ("system", "developer")]
        names[text] = hashlib.sha256(json.dumps(system).encode()).hexdigest()[:8] if system else "none"
    return pl.Series([names[text] for text in messages.to_list()], dtype=pl.String)


def stability(
    cut: Selection,
    keep: Callable[[pl.DataFrame, int], Selection],
    *,
    scored: pl.DataFrame,
    without: Mapping[str, pl.DataFrame],
    labels: Labels | None = None,
    came: pl.DataFrame | None = None,
    groups: pl.DataFrame | None = None,
    seed: int = 0,
    n: int = 20,
) -> pl.DataFrame:
    """Return how much of the kept set stays under another seed, without each scorer, and with other labels.

    Args:
        cut: What was kept.
        keep: The rule, from rows (those of ``cut.frame``, with other qualities) and a seed to what is kept.
        scored: From ``scoring.score``: what the rules say; custom_id, quality and the signals ``score_<scorer>``.
        without: From ``scoring.without``: the same without one scorer each.
        labels: Where quality is learned, what it is learned from: resampled, by groups. Null: it is not learned.
        came: As ``scored`` in ``learn``; null: ``scored``.
        groups: As in ``learn``.
        seed: Of the draws.
        n: Seeds of ties, and bootstraps of the labels.

    Returns:
        One row per disturbance: fact, jaccard (rows kept both times to rows kept at all, mean), low, high (least and
        most), kendall_tau (of the qualities, tau-b, mean; null where one has no order), n (rows), says. Where the rule
        cannot keep anything then, the index is 0. The last row tells how many rows were tied at the cut and what
        decided between them.

    Source:
        Kendall 1945 (tau-b); Nogueira, Sechidis and Brown 2018 (stability of what is selected under resampling).
    """
    ids, own = scored["custom_id"], cut.frame["quality"]
    at = pl.Series(equals.places(cut.frame["custom_id"], ids))
    at = at.set(at < 0, None)
    source = scored if came is None else came

    def learned(labels: Labels, left_out: str | None = None) -> pl.DataFrame:
        rules = scored if left_out is None else without[left_out].join(
            scored.drop("quality", f"score_{left_out}"), on="custom_id", how="left", maintain_order="left"
        )  # fmt: skip
        judged = source if left_out is None else source.drop("quality", f"score_{left_out}").join(
            without[left_out], on="custom_id", how="left", maintain_order="left"
        )  # fmt: skip
        quality = learn(labels, judged, _of(groups), seed=seed).quality(rules)
        return rules.select("custom_id", quality=quality)

    def of_rows(quality: pl.DataFrame) -> pl.Series:
        """The qualities of the rows of the cut; null of those whom nobody scored so."""
        if quality["custom_id"].equals(ids):  # as without a scorer: the names are joined once
            return quality["quality"].gather(at)
        joined = cut.frame.select("custom_id").join(
            quality.select("custom_id", "quality"), on="custom_id", how="left", maintain_order="left"
        )
        return joined["quality"]

    def disturbed(name: str | None) -> pl.DataFrame:
        if name is None:
            return _stability(f"{n} seeds of ties", cut, [(own, range(seed + 1, seed + 1 + n))], keep)
        quality = of_rows(without[name] if labels is None else learned(labels, name))
        return _stability(f"without scorer {name}", cut, [(quality, [seed])], keep)

    with ThreadPoolExecutor(processes.cores() if cut.n < _MANY else 1) as pool:  # of many rows each cut takes memory
        parts = list(pool.map(disturbed, [None, *without]))
    if labels is not None:
        draws = [(of_rows(learned(_resampled(labels, scored, _of(groups), seed=seed + i))), [seed]) for i in range(n)]
        parts.append(_stability(f"{n} bootstraps of the labels", cut, draws, keep))
    parts.append(pl.DataFrame({"fact": ["ties at the cut"], "n": [cut.n_tied_at_cut], "says": [_ties(cut)]}))
    return pl.concat(parts, how="diagonal")  # one row per disturbance


_MANY = 2_000_000
"""Rows of which one cut at a time is tried."""


def _ties(cut: Selection) -> str:
    if cut.n_tied_at_cut < 2:
        return "nothing is tied"
    if cut.n_tied_kept == cut.n_tied_at_cut:
        return f"all {cut.n_tied_kept:,} kept"
    return f"{cut.n_tied_kept:,} of {cut.n_tied_at_cut:,} kept, by {cut.ties_by}"


def _of(groups: pl.DataFrame | None) -> pl.DataFrame:
    if groups is None:
        raise ParameterError("groups must be given with labels, got None; rows of one group are resampled together.")
    return groups


def _resampled(labels: Labels, scored: pl.DataFrame, groups: pl.DataFrame, *, seed: int) -> Labels:
    """Draw as many groups of labels as there are, with replacement."""
    on = "custom_id" if "custom_id" in groups.columns else "candidate_id"
    frame = labels.frame
    judged = few(scored.select(*dict.fromkeys(("custom_id", on))), frame["custom_id"])
    names = frame.select("custom_id").join(judged, on="custom_id", how="left", maintain_order="left")
    of = few(groups.select(on, "group_id"), names[on]).unique(on)
    names = names.join(of, on=on, how="left", maintain_order="left")
    group = names.select(pl.col("group_id").fill_null(pl.col("custom_id")).rank("dense") - 1).to_series().to_numpy()
    n = int(group.max()) + 1 if len(group) else 0
    times = np.bincount(np.random.default_rng(seed).integers(0, max(n, 1), n), minlength=n)
    return replace(labels, frame=frame[np.repeat(np.arange(len(group)), times[group]) if n else []])


def _stability(
    fact: str,
    cut: Selection,
    others: Sequence[tuple[pl.Series, Sequence[int]]],
    keep: Callable[[pl.DataFrame, int], Selection],
) -> pl.DataFrame:
    """What other qualities of the rows of the cut, each with some seeds, would change."""
    rows, kept = cut.frame.drop("kept"), _kept(cut)
    shares, taus = [], list[float]()
    for quality, seeds in others:
        # what nobody scored by the rules, or the rules without a scorer, has none
        known = pl.select(first=rows["quality"], second=quality).drop_nulls()
        taus += [stats.kendall_tau(known["first"].to_numpy(), known["second"].to_numpy())] * len(seeds)
        frame = rows.with_columns(quality=quality)
        for seed in seeds:
            try:
                again = _kept(keep(frame, seed))
            except ParameterError:  # a promise that cannot be given then: nothing is kept
                again = kept.clear()
            n_both = int(again.is_in(kept.implode()).sum())
            n_any = len(kept) + len(again) - n_both
            shares.append(n_both / n_any if n_any else 1.0)
    mean = float(np.mean(shares))
    says = "the cut STAYS" if mean >= _STABLE else "ANOTHER cut" if mean < _SHAKY else "the cut changes"
    orders = [tau for tau in taus if not math.isnan(tau)]
    tau = float(np.mean(orders)) if orders else None
    row = {"fact": fact, "jaccard": mean, "low": min(shares), "high": max(shares), "kendall_tau": tau, "n": rows.height}
    return pl.DataFrame([row | {"says": says}], schema=_SCHEMA)


def _kept(cut: Selection) -> pl.Series:
    """The names of the kept rows, without a look at their texts."""
    return cut.frame["custom_id"].filter(cut.frame["kept"])


_SCHEMA = {"fact": pl.String, **dict.fromkeys(("jaccard", "low", "high", "kendall_tau"), pl.Float64)}
_SCHEMA |= {"n": pl.Int64, "says": pl.String}


def _folds(ids: pl.Series) -> pl.Series:
    return pl.Series("_fold", [zlib.crc32(text.encode()) % _FOLDS for text in ids.to_list()])


def _shares(rows: pl.DataFrame, name: str, fold: pl.Series) -> pl.Series:
    """For each row the share of kept ones among the rows of its name in the other folds; without any, that of all."""
    counted = rows.select(pl.col(name).fill_null(""), "kept").with_columns(fold)
    of = pl.col("kept").sum(), pl.len()
    whole = counted.group_by(name).agg(kept_all=of[0], n_all=of[1])
    part = counted.group_by(name, "_fold").agg(kept_fold=of[0], n_fold=of[1])
    joined = counted.join(whole, on=name, how="left", maintain_order="left")
    joined = joined.join(part, on=[name, "_fold"], how="left", maintain_order="left")
    n = pl.col("n_all") - pl.col("n_fold")
    share = pl.when(n > 0).then((pl.col("kept_all") - pl.col("kept_fold")) / n)
    return joined.select(share.fill_null(counted["kept"].mean())).to_series()


def _in_words(fact: str, area: stats.Interval, *, is_name: bool) -> str:
    strength = area.mean if is_name else max(area.mean, 1 - area.mean)
    if math.isnan(area.low) or area.low <= 0.5 <= area.high:  # NaN: all were kept, or none
        return "says nothing"
    direction = "" if is_name else (": more is kept" if area.mean > 0.5 else ": less is kept")
    return f"{'EXPLAINS the cut' if strength >= _SURPRISING else 'says a little'}{direction}"
