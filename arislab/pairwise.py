"""People compare two answers to one question without knowing whose they are.

Two arms of phase 5, or two samples of phase 1. One pair, as a person is shown it::

    kind='pair' custom_id='v-91c0…' input='Capital of Peru?' left='Lima.' right='Cuzco, I think.'

Which side is whose is drawn for each pair and stays in the lake. A vote is bound to both texts by their digest; of each
person the latest vote about a pair counts. This module does not know where pairs and votes are kept.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from arislab import curate, stats
from arislab import task as tasks
from arislab.batch import canonical, protocol
from arislab.curate import subsets
from arislab.curate.curated import messages_of
from arislab.errors import LakeError, ParameterError, closest
from arislab.review import journal
from arislab.review.decisions import sha256
from arislab.review.journal import Journal
from arislab.review.leases import Leases
from arislab.review.streams import Streams
from arislab.review.votes import SCHEMA as EVENTS
from arislab.review.votes import VOTES
from arislab.stats.agreement import coefficients
from arislab.system.kinds import takes_any_frame
from arislab.task import Task

_NAMES = pl.List(pl.String)
PAIRS: dict[str, Any] = {
    **dict.fromkeys(("pair_id", "task", "split", "candidate_id", "group_id", "arm", "baseline"), pl.String),
    **dict.fromkeys(("arm_custom_id", "baseline_custom_id", "input", "messages"), pl.String),
    "arm_is_left": pl.Boolean,
    **dict.fromkeys(("left", "right", "shown_sha256"), pl.String),
    "n_people": pl.Int64,
}
"""Columns of ``pairs``."""
_LEASE_S = 600.0
"""Seconds that a pair is held without a sign of whoever has it before them."""


def shown_sha256(left: str, right: str) -> str:
    """Return the digest by which a vote names the two texts that were shown, in their order."""
    return sha256(json.dumps([left, right], ensure_ascii=False))


# ---- what is compared ------------------------------------------------------------------------------------------------


def check(arms: Sequence[str], *, among: Iterable[str], n: int, gate_by: str) -> None:
    """Refuse what cannot be compared, or cannot decide, before anything is spent.

    Args:
        arms: The arm, and the baseline that it is compared with.
        among: All arms.
        n: Pairs.
        gate_by: ``scorers``, or ``people``: what a promotion asks for.

    Raises:
        ParameterError: Not two different arms of these; or people decide about no pair, or not about what is
            promoted.
    """
    if len(arms) != 2 or arms[0] == arms[1] or not all(isinstance(arm, str) for arm in arms):
        raise ParameterError(
            f"compared_arms must name two different arms, got {list(arms)!r}; ['finetuned', 'baseline'] has people "
            "compare these."
        )
    known = list(among)
    if strange := [arm for arm in arms if arm not in known]:
        raise ParameterError(f"compared_arms names {strange[0]!r}, which is no arm; {closest(strange[0], known)}.")
    if gate_by == "people" and not n:
        raise ParameterError(
            "gate_by is 'people' and n_arm_pairs is 0: nobody compares anything; set n_arm_pairs, or gate_by 'scorers'."
        )
    if gate_by == "people" and list(arms) != ["finetuned", "baseline"]:
        raise ParameterError(
            f"gate_by is 'people', who compare {list(arms)!r}; what may be promoted is finetuned over baseline: "
            "compared_arms must be ['finetuned', 'baseline']."
        )


@takes_any_frame
def pairs(
    scores: pl.DataFrame,
    people: pl.DataFrame,
    task: Task,
    *,
    arms: Sequence[str],
    n: int,
    n_people: int,
    seed: int,
) -> pl.DataFrame:
    """Return pairs of two arms' answers for people to compare, where the two differ.

    Args:
        scores: From ``evaluate.ask``: arm, candidate_id, custom_id, output (null: no answer, no pair).
        people: Rows of ``candidates`` that were asked about; as many groups as there are, as ``curate.spread`` takes.
        task: Writes the question.
        arms: The arm, and the baseline that it is compared with.
        n: Pairs; at most as many as differ. 0: none.
        n_people: People who compare each pair.
        seed: Of the sides.

    Returns:
        One row per pair, in the columns of ``PAIRS``. pair_id is a digest of what is shown and of the sides, so the
        same answers under the same seed are the same pairs, and what people said of them still counts.

    Raises:
        ParameterError: As in ``check``.
    """
    check(arms, among=scores["arm"].unique(maintain_order=True), n=n, gate_by="scorers")
    columns = ["candidate_id", "custom_id", "output"]
    one, other = (
        scores.filter(pl.col("arm") == arm, pl.col("output").is_not_null())
        .select(columns)
        .unique("candidate_id", keep="first", maintain_order=True)
        for arm in arms
    )
    both = one.join(other, on="candidate_id", how="inner", suffix="_other", maintain_order="left")
    both = both.filter(_differ("output", "output_other"))
    drawn = curate.spread(people.join(both, on="candidate_id", how="semi"), n)
    answers = {row["candidate_id"]: row for row in both.iter_rows(named=True)}
    rows = []
    for person in drawn.iter_rows(named=True):
        messages = task.to_messages(tasks.candidate_of(person))
        sides = dict(zip(("arm", "baseline"), arms, strict=True))
        rows.append(_pair(person, answers[person["candidate_id"]], messages, sides | {"task": task.name}, seed=seed))
    return pl.DataFrame([row | {"n_people": n_people} for row in rows], schema=PAIRS)  # one row per pair


@takes_any_frame
def samples(
    raw: pl.DataFrame, candidates: pl.DataFrame, task: Task, *, n: int, n_people: int, seed: int
) -> pl.DataFrame:
    """Return pairs of recorded answers to one question, of which preferences are learned: one pair a question.

    Args:
        raw: Rows of ``training_data_raw`` of the task: custom_id, candidate_id, input, messages, llm_output, model,
            status, tools and tool_calls.
        candidates: Rows of ``candidates`` of the train split; what is recorded of others makes no pair.
        task: Writes the messages that a record does not have.
        n: Pairs; at most as many questions as have two different answers.
        n_people: As in ``pairs``.
        seed: Of the draw, of the two answers and of the sides.

    Returns:
        As ``pairs``; arm and baseline are the models that answered.
    """
    people = {row["candidate_id"]: row for row in candidates.filter(split="train").iter_rows(named=True)}
    own = curate.plain(raw).filter(pl.col("status") == "ok", pl.col("candidate_id").is_in(list(people)))
    own = own.filter(pl.col("tools").is_null(), pl.col("tool_calls").is_null())
    own = own.rename({"llm_output": "output"}).with_columns(_place=subsets.stable_hash(own["custom_id"], seed))
    own = own.sort("_place").unique(["candidate_id", "messages", "input", "output"], keep="first", maintain_order=True)
    firsts = own.group_by("candidate_id", "messages", "input", maintain_order=True).head(2)
    rows = []
    for _, two in firsts.group_by("candidate_id", "messages", "input", maintain_order=True):
        if two.height < 2 or not two.select(_differ(pl.col("output").first(), pl.col("output").last())).item():
            continue
        one, other = two.to_dicts()
        person = people[one["candidate_id"]]
        messages = messages_of(one, tasks.candidate_of(person), task)
        both = one | {f"{name}_other": value for name, value in other.items()}
        sides = {"arm": one["model"], "baseline": other["model"], "task": task.name}
        rows.append(_pair(person, both, messages, sides, seed=seed))
        if len(rows) == n:
            break
    return pl.DataFrame([row | {"n_people": n_people} for row in rows], schema=PAIRS)


def _differ(one: str | pl.Expr, other: str | pl.Expr) -> pl.Expr:
    """Whether two texts say something else: what nobody can see makes no pair."""
    first, second = (pl.col(text) if isinstance(text, str) else text for text in (one, other))
    return first.str.strip_chars() != second.str.strip_chars()


def _pair(
    person: Mapping[str, Any],
    answers: Mapping[str, Any],
    messages: list[dict[str, Any]],
    facts: Mapping[str, Any],
    *,
    seed: int,
) -> dict[str, Any]:
    """One pair; the side of the arm is a stable hash of both answers, so that it says nothing."""
    ids = (answers["custom_id"], answers["custom_id_other"])
    drawn = hashlib.sha256(canonical([seed, *ids]).encode()).digest()
    is_left = drawn[0] % 2 == 0
    texts = (answers["output"], answers["output_other"])
    left, right = texts if is_left else texts[::-1]
    question = canonical(messages)
    made = [facts["task"], facts["arm"], facts["baseline"], person["candidate_id"], question, left, right, is_left]
    return {
        "pair_id": f"v-{sha256(canonical(made))[:24]}",
        "split": person["split"],
        "candidate_id": person["candidate_id"],
        "group_id": person["group_id"],
        **facts,
        "arm_custom_id": ids[0],
        "baseline_custom_id": ids[1],
        "input": protocol.asked(messages),
        "messages": question,
        "arm_is_left": is_left,
        "left": left,
        "right": right,
        "shown_sha256": shown_sha256(left, right),
    }


# ---- who compares ----------------------------------------------------------------------------------------------------


class Desk:
    """Hands pairs to people and keeps their votes: what the review panel asks for, for pairs.

    A pair goes to no more than its n_people while they hold or have compared it, in all processes that share a folder,
    and to nobody twice.

    Args:
        pairs: Rows of ``arm_pairs``.
        votes: Reads every event about them so far, such as ``lake["arm_votes"].read``.
        folder: For journals and the index of who holds what; ``lake.collect()`` folds them. Without it ``store`` keeps.
        store: Stores a frame in the columns of ``EVENTS`` durably, each event once; default: a journal in ``folder``.
        name: Of the session.
        clock: Seconds since 1970, the same for all processes.

    Example:
        >>> desk = Desk(pl.DataFrame(schema=PAIRS), votes=lambda: pl.DataFrame(schema=EVENTS), store=print)
        >>> desk.take("Ada", 5), desk.counts("Ada")
        ([], {'total': 0, 'decided': 0, 'skipped': 0, 'left': 0})
    """

    @takes_any_frame
    def __init__(
        self,
        pairs: pl.DataFrame,
        *,
        votes: Callable[[], pl.DataFrame],
        folder: Path | None = None,
        store: Callable[[pl.DataFrame], object] | None = None,
        name: str = "arm-pairs",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self._folder = name, folder if folder is None else Path(folder)
        self._pairs = {row["pair_id"]: row for row in pairs.iter_rows(named=True)}
        self._votes, self._store, self._journals = votes, store, dict[str, Journal]()
        self._known, self._streams = set[str](), Streams()
        self._handed = dict[str, set[str]]()
        """Pairs that each person was given by this process."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        index = Path(":memory:") if self._folder is None else self._folder / "leases.sqlite"
        self._leases = Leases(index, lease_s=_LEASE_S, is_last_only=True, clock=clock)
        self._learn()

    def _learn(self) -> None:
        """Take over what stands in journals and in the table now."""
        # journals first: what is folded between the two readings stands in the table by then
        kept = [] if self._folder is None else [journal.read(self._folder, journal.VOTES)]
        events = pl.concat([*kept, complete(self._votes())]).unique("event_id", keep="first", maintain_order=True)
        rows = events.sort("seq", "decided_at", "event_id", nulls_last=False).rows(named=True)
        self._known |= set(events["event_id"])
        self._streams.learn(rows)
        self._leases.learn({name: pair["n_people"] for name, pair in self._pairs.items()}, self._about_these(rows))

    def _about_these(self, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Events about the texts of these pairs, as the index of leases has them."""
        shown = {name: pair["shown_sha256"] for name, pair in self._pairs.items()}
        return [
            {**event, "custom_id": event["pair_id"], "decision": event["vote"], "planted": None}
            for event in events
            if event["pair_id"] in shown
            and (event["vote"] == "undo" or event["shown_sha256"] == shown[event["pair_id"]])
        ]

    def take(self, reviewer: str, n: int) -> list[dict[str, Any]]:
        """Return up to ``n`` further pairs for a person, without whose answers they are, and hold them.

        Each person has an order of their own; what they hold and this process did not hand out yet comes first. Who has
        no name yet gets none.
        """
        if not reviewer:
            return []
        if self._leases.has_expired:  # whoever held it may have voted, and been killed before the index knew
            self._learn()
            self._leases.expire()
        self._leases.beat(reviewer)
        handed = self._handed.setdefault(reviewer, set())
        names = [name for name, _ in self._leases.held(reviewer) if name in self._pairs and name not in handed][:n]
        order = sorted(self._pairs.keys() - handed, key=lambda name: sha256(f"{reviewer} {name}"))
        names += self._leases.take(reviewer, [name for name in order if name not in names], n=n - len(names))
        handed.update(names)
        return [_item(self._pairs[name]) for name in names]

    def decide(self, events: Sequence[Mapping[str, Any]], reviewer: str) -> dict[str, dict[str, Any]]:
        """Store votes durably, each once, and return what may be shown now for each event_id: nothing of the arms.

        Args:
            events: event_id, custom_id (of the pair), decision (one of ``VOTES``), shown_sha256; undoes of an undo; if
                known, shown_at, decided_at, dwell_ms, client_seq. Votes about pairs of an earlier draw, which a browser
                kept, are stored too.
            reviewer: Who voted.

        Raises:
            ParameterError: An event is no vote, or nobody's; nothing was stored.
            OSError: Nothing was stored.
        """
        if not reviewer:
            raise ParameterError("a vote has no reviewer; enter your name first: every vote is signed.")
        known = self._known | self._leases.known(event["event_id"] for event in events)
        new = {event["event_id"]: event for event in events if event["event_id"] not in known}
        made = list[dict[str, Any]]()
        for event in sorted(new.values(), key=lambda event: event.get("client_seq") or 0):
            made.append(self._row(event, reviewer, made))
        if made:
            self._keep(made, reviewer)
            self._streams.learn(made)
            self._leases.note(self._about_these(made))
            self._known |= set(new)  # last: what no index heard of is told again
        else:
            self._leases.beat(reviewer)
        return {event["event_id"]: {"revealed": {}} for event in events}

    def _row(self, event: Mapping[str, Any], reviewer: str, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        pair_id, vote = event.get("custom_id"), event.get("decision")
        if vote not in VOTES:
            raise ParameterError(f"a vote about a pair must be one of {', '.join(VOTES)}, got {vote!r}.")
        if (vote == "undo") != (event.get("undoes") is not None):
            raise ParameterError(
                f"an undo names the event that it undoes, and no other vote does, got {dict(event)!r}."
            )
        now = datetime.now(UTC)
        decided_at = min(event.get("decided_at") or now, now)
        known = {"pair_id": pair_id, "reviewer": reviewer, "vote": vote, "session": self.name, "decided_at": decided_at}
        seq = self._streams.seq(event, reviewer, at=decided_at, before=before)
        return {column: event.get(column) for column in EVENTS} | known | {"seq": seq}

    def _keep(self, made: list[dict[str, Any]], reviewer: str) -> None:
        if self._store is not None:
            self._store(pl.DataFrame(made, schema=EVENTS))  # one row per vote
            return
        if self._folder is None:
            raise LakeError("nobody keeps votes: give the desk a folder, or a function that stores them.")
        if reviewer not in self._journals:
            self._journals[reviewer] = Journal(self._folder, reviewer=reviewer, form=journal.VOTES)
        self._journals[reviewer].append(made)

    def counts(self, reviewer: str) -> dict[str, int]:
        """Pairs of this desk: total, decided and skipped by a person, left for them."""
        return self._leases.counts(reviewer, among=self._pairs) | {"total": len(self._pairs)}

    def trail(self, reviewer: str) -> list[dict[str, Any]]:
        """Return a person's votes about these pairs that can be taken back, oldest first.

        As event_id, custom_id (of the pair), decision and queue (there is none).
        """
        return [
            {"event_id": event_id, "custom_id": name, "decision": vote, "queue": None}
            for event_id, name, vote, _ in self._leases.trail(reviewer)
            if name in self._pairs
        ]

    def row(self, custom_id: str, queue: str | None = None) -> dict[str, Any] | None:
        """Return a pair as ``take`` returns it; None for those that this desk does not have."""
        return _item(self._pairs[custom_id]) if custom_id in self._pairs else None


def _item(pair: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: pair[name] for name in ("input", "left", "right", "shown_sha256")}
    return {"kind": "pair", "custom_id": pair["pair_id"], **shown}


# ---- what they said --------------------------------------------------------------------------------------------------


def complete(votes: pl.DataFrame) -> pl.DataFrame:
    """Return events in the columns of ``EVENTS``; those that are missing are null."""
    late = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in EVENTS.items() if name not in votes.columns]
    return votes.with_columns(late).select(pl.col(name).cast(dtype) for name, dtype in EVENTS.items())


def latest(pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Return of each pair and person the latest vote about these texts that was not taken back, skips included.

    Args:
        pairs: pair_id, shown_sha256.
        votes: Every event so far; a person takes back only votes of their own.
    """
    events = complete(votes).sort("seq", "decided_at", "event_id", nulls_last=False)
    events = events.unique("event_id", keep="first", maintain_order=True)
    undone = events.filter(pl.col("vote") == "undo").select("reviewer", event_id="undoes")
    live = events.filter(~pl.col("vote").is_in(("undo", "flag"))).join(
        undone, on=["reviewer", "event_id"], how="anti", maintain_order="left"
    )
    about = live.join(pairs.select("pair_id", "shown_sha256"), on=["pair_id", "shown_sha256"], how="semi")
    return about.sort("seq", "decided_at", "event_id").unique(["pair_id", "reviewer"], keep="last", maintain_order=True)


@takes_any_frame
def counting(pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Return the votes that count: as ``latest``, without skips, with value (1: the arm is better, 0.5: tie, 0).

    Args:
        pairs: As in ``latest``, and arm_is_left.
        votes: As there.
    """
    said = latest(pairs, votes).filter(pl.col("vote") != "skip")
    known = said.join(pairs.select("pair_id", "arm_is_left"), on="pair_id", how="inner", maintain_order="left")
    value = (
        pl.when(pl.col("vote") == "tie")
        .then(0.5)
        .otherwise(((pl.col("vote") == "left") == pl.col("arm_is_left")).cast(pl.Float64))
    )
    return known.with_columns(value=value).drop("arm_is_left")


_RESULT: dict[str, Any] = {
    **dict.fromkeys(("arm", "baseline"), pl.String),
    **dict.fromkeys(("win_rate", "low", "high", "p"), pl.Float64),
    **dict.fromkeys(("n", "n_pairs", "n_waiting", "n_groups", "n_votes", "n_ties", "n_people"), pl.Int64),
    **dict.fromkeys(("agreement", "alpha", "minutes"), pl.Float64),
}


@takes_any_frame
def win_rate(pairs: pl.DataFrame, votes: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Return how often people prefer the arm, a tie counted half, and how sure that is.

    Args:
        pairs: In the columns of ``PAIRS``; without any there is no row.
        votes: Every event about them so far.
        seed: Of the bootstrap.

    Returns:
        One row per arm and baseline: arm, baseline, win_rate (0..1, mean over the pairs of the mean of their votes;
        null without votes), low and high (95 %, whole groups resampled; null below two groups), p (two-sided, against
        0.5), n (pairs with a vote), n_pairs, n_waiting (pairs that fewer than their n_people have compared), n_groups,
        n_votes, n_ties (votes), n_people (who voted), agreement (share of two people on one pair who said the same,
        mean over the pairs) and alpha (Krippendorff's, ordinal: a tie is between the sides; both null where nobody was
        second on a pair, alpha also where all said one thing), minutes (of looking at pairs; null if no browser told).
        Pairs are of answers that differ: the rate says nothing of how often they do.

    Source:
        As ``stats.paired_difference``, of the win rate against one half, and ``stats.agreement``.
    """
    said = counting(pairs, votes)
    rows = []
    for (arm, baseline), part in pairs.group_by("arm", "baseline", maintain_order=True):
        own = said.join(part, on="pair_id", how="semi", maintain_order="left")
        by_pair = own.group_by("pair_id").agg(value=pl.col("value").mean(), voters=pl.len())
        every = part.join(by_pair, on="pair_id", how="left").sort("pair_id")  # resamples go by the order of rows
        half = pl.Series([0.5] * every.height)
        gain = stats.paired_difference(every["value"], half, groups=every["group_id"], seed=seed)
        rate = [every["value"].mean(), gain.low + 0.5, gain.high + 0.5, gain.p]
        n_waiting = every.filter(pl.col("voters").fill_null(0) < pl.col("n_people")).height
        counts = [gain.n, every.height, n_waiting, gain.n_groups, own.height, own.filter(vote="tie").height]
        looked = own["dwell_ms"].drop_nulls()
        minutes = float(looked.sum()) / 60_000 if len(looked) else None
        rows.append((arm, baseline, *rate, *counts, own["reviewer"].n_unique(), *_agreement(own), minutes))
    return pl.DataFrame(rows, schema=_RESULT, orient="row").with_columns(
        pl.col("win_rate", "low", "high", "p").fill_nan(None)
    )


def _agreement(said: pl.DataFrame) -> list[float | None]:
    """How far people agree on pairs that two or more compared: raw, and alpha, to which a tie is between the sides."""
    n = pl.col("len")
    counts = said.group_by("pair_id", "value").len().group_by("pair_id").agg(n.sum(), same=(n * (n - 1)).sum())
    raw = counts.filter(n > 1).select((pl.col("same") / (n * (n - 1))).mean()).item()
    opinions = said.select("value", item="pair_id", rater="reviewer")
    # no interval is asked for: one resample
    (alpha,) = coefficients(opinions, measures=("krippendorff_alpha",), scale="ordinal", n_boot=1)
    return [raw, alpha.estimate]


def in_words(result: pl.DataFrame) -> str:
    """Return what people said, a line for each two arms; nothing where nobody was to be asked.

    Args:
        result: From ``win_rate``.
    """
    return "\n".join(map(_line, result.iter_rows(named=True)))


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['arm']} over {row['baseline']}"
    if row["win_rate"] is None:
        return f"{name}: nobody has compared any of {row['n_pairs']:,} pairs yet"
    interval = "" if row["low"] is None else f"  [{row['low']:.3f}, {row['high']:.3f}]"
    told = {name: "unknown" if row[name] is None else f"{row[name]:.3f}" for name in ("agreement", "alpha")}
    agreed = ", ".join(f"{name} {value}" for name, value in told.items())
    minutes = "" if row["minutes"] is None else f", {row['minutes']:.1f} minutes"
    groups = f" of {row['n_groups']:,} groups" if row["n_groups"] < row["n"] else ""
    waiting = f"; {row['n_waiting']:,} wait for more votes" if row["n_waiting"] else ""
    return (
        f"{name:<28} {row['win_rate']:>7.3f}{interval}   n {row['n']:,} pairs{groups}, {row['n_votes']:,} votes "
        f"({row['n_ties']:,} ties) of {row['n_people']:,} people, {agreed}{minutes}{waiting}"
    )


def headline(result: pl.DataFrame) -> dict[str, Any]:
    """Return (win rate, low, high, n) of what people said, for the headline; nothing where nobody was to be asked.

    Args:
        result: From ``win_rate``.
    """
    return {
        f"people: {row['arm']} over {row['baseline']}": tuple(row[name] for name in ("win_rate", "low", "high", "n"))
        for row in result.iter_rows(named=True)
        if row["win_rate"] is not None
    }


@takes_any_frame
def preferred(pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of which all who voted preferred the same side: what ``preferences.mined`` takes.

    Args:
        pairs: In the columns of ``PAIRS``.
        votes: Every event about them so far.

    Returns:
        candidate_id, messages, chosen, rejected, source (pairwise), reviewers, custom_ids (of the chosen, then of the
        rejected answer), event_ids, decided_at.
    """
    said = counting(pairs, votes)
    agreed = said.group_by("pair_id").agg(
        pl.col("value").mean(),
        reviewers=pl.col("reviewer").unique().sort(),
        event_ids=pl.col("event_id").sort(),
        decided_at=pl.col("decided_at").max(),
    )
    clear = agreed.filter(pl.col("value").is_in([0.0, 1.0]))
    rows = pairs.join(clear, on="pair_id", how="inner", maintain_order="left")
    is_arm = pl.col("value") == 1
    names = pl.when(is_arm).then(pl.concat_list("arm_custom_id", "baseline_custom_id"))
    is_left = is_arm == pl.col("arm_is_left")
    return rows.select(
        "candidate_id",
        "messages",
        chosen=pl.when(is_left).then("left").otherwise("right"),
        rejected=pl.when(is_left).then("right").otherwise("left"),
        source=pl.lit("pairwise"),
        reviewers="reviewers",
        custom_ids=names.otherwise(pl.concat_list("baseline_custom_id", "arm_custom_id")),
        event_ids="event_ids",
        decided_at="decided_at",
    )
