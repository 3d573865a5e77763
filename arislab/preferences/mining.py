"""Preference pairs out of decisions, votes and judgements.

One real pair::

    pair_id='p-3c0f…' candidate_id='c-Peru' task='capital' split='train'
    messages='[{"role": "user", "content": "Capital of Peru?"}]' chosen='Lima.' rejected='Cuzco. I hope this helps!'
    source='edit' reviewers=['Ada'] custom_ids=['r-1'] event_ids=['4be1…'] decided_at=…

A pair says that one text is better than another as an answer to the same messages. It is made only where people agree:
what is disputed, stale, taken back or planted makes none, and neither do texts that stand on both sides.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from arislab import review
from arislab import task as tasks
from arislab.batch import canonical
from arislab.curate import curated
from arislab.curate.verdicts import DISPUTED
from arislab.judge import Judge, outputs
from arislab.review import decisions
from arislab.system.kinds import takes_any_frame
from arislab.task import WINS, Task

PEOPLE = ("edit", "approve-reject", "pairwise")
"""Sources of pairs that people decided: an answer and what they made of it; an approved and a rejected answer to one
question; two answers that they compared."""
SOURCES = (*PEOPLE, "judged")
"""All sources; judged: a model compared two answers."""
SPLITS = ("train", "validation")
"""Splits of which pairs are made: what phase 5 asks about is learned from nowhere."""

_NAMES = pl.List(pl.String)
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("pair_id", "candidate_id", "task", "split", "messages", "chosen", "rejected"), pl.String),
    "source": pl.String,
    **dict.fromkeys(("reviewers", "custom_ids", "event_ids"), _NAMES),
    "decided_at": pl.Datetime("us", "UTC"),
}
_QUESTION = ["candidate_id", "messages"]


@takes_any_frame
def mined(
    judged: pl.DataFrame,
    raw: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    task: Task,
    reviews: pl.DataFrame,
    compared: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the preference pairs that people's decisions come to.

    edit: chosen is the edited text, rejected the answer as it was shown. approve-reject: of answers to the same
    messages each approved (or edited) one is better than each rejected one. pairwise: all who voted preferred the same
    of two answers. Left out are pairs whose sides say the same or nothing, those that another pair says the other way
    round, those whose better side people rejected in any sample, or are not of one mind about, answers that are calls
    of tools or were offered some, and edits that break the SCHEMA.

    Args:
        judged: From ``curate.verdicts.judged``: custom_id, verdict, holds, output, original_output, edit_error.
        raw: Rows of ``training_data_raw`` of the task: custom_id, candidate_id, input, messages, plain (if present),
            tools, tool_calls, finish_reason.
        candidates: Rows of ``candidates``; those outside ``SPLITS`` count for nothing.
        task: Writes the messages that a record does not have.
        reviews: Every event so far, those that ``judged`` was made of.
        compared: From ``pairwise.preferred``; null: nobody compared any.

    Returns:
        Rows of the table ``preferences``, sorted by pair_id; the same decisions give the same rows.
    """
    events = _verdicts(reviews)
    rows = _answered(judged.filter("holds", pl.col("edit_error").is_null()), raw, candidates, task=task)
    backed = rows.join(_backing(rows, events), on="custom_id", how="inner", maintain_order="left")
    parts = [_edits(backed), _against(backed)]
    if compared is not None:
        parts.append(_compared(compared, events, candidates, judged=judged))
    pairs = pl.concat([part.select(_PARTS) for part in parts])
    # whichever sample said it: what people rejected, or are not of one mind about, is nothing to learn
    is_doubtful = pl.col("holds") & (pl.col("verdict") == "reject") | (pl.col("reason") == DISPUTED)
    doubtful = _answered(judged.filter(is_doubtful.fill_null(value=False)), raw, candidates, task=task)
    pairs = pairs.join(doubtful, left_on=[*_QUESTION, "chosen"], right_on=[*_QUESTION, "output"], how="anti")
    return _named(pairs, task=task)


def rated(judged: pl.DataFrame, raw: pl.DataFrame, candidates: pl.DataFrame, *, task: Task) -> pl.DataFrame:
    """Return what people said of single answers, for training that needs no pairs (KTO).

    An approved answer is desirable, a rejected one is not; of an edited one the edit is and the answer as it was shown
    is not. Left out are what is stale, disputed or taken back, answers that are calls of tools or were offered some,
    edits that break the SCHEMA, and texts about which two rows say the opposite.

    Args:
        judged: As in ``mined``.
        raw: As in ``mined``.
        candidates: As in ``mined``.
        task: As in ``mined``.

    Returns:
        One row per answer and verdict, sorted by id: id (its custom_id; of what was edited away, with "/original"
        behind it), candidate_id, split, messages, output, is_desirable (Boolean) and custom_ids (its custom_id).
    """
    rows = _answered(judged.filter("holds", pl.col("edit_error").is_null()), raw, candidates, task=task)
    facts = ("candidate_id", "split", "messages")
    said = rows.select("custom_id", *facts, "output", id="custom_id", is_desirable=pl.col("verdict") != "reject")
    before = rows.filter(verdict="edit").select(
        "custom_id", *facts, output="original_output", id=pl.col("custom_id") + "/original", is_desirable=False
    )
    both = pl.concat([said, before], how="diagonal").with_columns(custom_ids=pl.concat_list("custom_id"))
    same = ["messages", "output"]
    is_one = pl.col("is_desirable").n_unique().over(same) == 1
    return both.filter(is_one).sort("id").unique(same, keep="first", maintain_order=True).drop("custom_id")


_PARTS = [name for name in _SCHEMA if name not in ("pair_id", "task")]


def _learnable(candidates: pl.DataFrame) -> pl.DataFrame:
    return candidates.filter(pl.col("split").is_in(SPLITS)).select("candidate_id", "split")


def _answered(judged: pl.DataFrame, raw: pl.DataFrame, candidates: pl.DataFrame, *, task: Task) -> pl.DataFrame:
    """The judged answers with the messages that they answer: texts, not calls of tools."""
    own = raw.join(judged, on="custom_id", how="semi").join(_learnable(candidates), on="candidate_id", how="semi")
    for name in ("tools", "tool_calls"):
        own = own.filter(pl.col(name).is_null()) if name in own.columns else own
    if "finish_reason" in own.columns:
        own = own.filter(pl.col("finish_reason").fill_null("") != "tool_calls")
    behind = candidates.join(own, on="candidate_id", how="semi")
    people = {row["candidate_id"]: tasks.candidate_of(row) for row in behind.iter_rows(named=True)}
    asked = [
        (row["custom_id"], row["candidate_id"], people[row["candidate_id"]]["split"], _messages(row, people, task))
        for row in curated.plain(own).select("custom_id", "candidate_id", "input", "messages").iter_rows(named=True)
    ]
    known = pl.DataFrame(
        asked, schema=dict.fromkeys(("custom_id", "candidate_id", "split", "messages"), pl.String), orient="row"
    )
    texts = judged.select("custom_id", "verdict", "output", "original_output")
    return known.join(texts, on="custom_id", how="inner", maintain_order="left")


def _messages(row: Mapping[str, Any], people: Mapping[str, dict[str, Any]], task: Task) -> str:
    """The messages as they were recorded, else as the task writes them."""
    return row["messages"] or canonical(curated.messages_of(row, people[row["candidate_id"]], task))


# ---- what decides ----------------------------------------------------------------------------------------------------


def _verdicts(reviews: pl.DataFrame) -> pl.DataFrame:
    """The decisions that count: kind, shown (digest of the text judged) and after (of the text that stands then)."""
    is_settling = pl.col("decision").is_in(decisions.VERDICTS) & pl.col("planted").is_null()
    events = review.live(reviews).filter(is_settling)
    rows = events.select("custom_id", "event_id", "reviewer", "decided_at", shown="shown_sha256")
    read = events.select("decision", "edited_output", "labels")
    kinds = [decisions.kind_of(event) for event in read.iter_rows(named=True)]
    edited = [
        decisions.sha256(text) if kind == "edit" and text is not None else None
        for kind, text in zip(kinds, events["edited_output"], strict=True)
    ]
    after = pl.Series(edited, dtype=pl.String)
    rows = rows.with_columns(kind=pl.Series(kinds, dtype=pl.String), after=after)
    return rows.with_columns(pl.coalesce("after", "shown"))


def _backing(rows: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Who stands behind each verdict, and all decisions about its answer: what changes if any of them does."""
    digests = [decisions.sha256(text) for text in rows["output"]]
    now = rows.select("custom_id", "verdict", text=pl.Series(digests, dtype=pl.String))
    said = events.join(now, on="custom_id", how="inner", maintain_order="left")
    is_bad = pl.col("kind") == "reject"
    backs = (pl.col("after") == pl.col("text")) & (is_bad == (pl.col("verdict") == "reject"))
    all_events = said.group_by("custom_id").agg(event_ids=pl.col("event_id").sort())
    who = (
        said.filter(backs)
        .group_by("custom_id")
        .agg(reviewers=pl.col("reviewer").unique().sort(), decided_at=pl.col("decided_at").max())
    )
    return who.join(all_events, on="custom_id", how="inner")


# ---- the sources -----------------------------------------------------------------------------------------------------


def _edits(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("verdict") == "edit").select(
        *_QUESTION,
        "split",
        "reviewers",
        "event_ids",
        "decided_at",
        chosen="output",
        rejected="original_output",
        source=pl.lit("edit"),
        custom_ids=pl.concat_list("custom_id"),
    )


def _against(rows: pl.DataFrame) -> pl.DataFrame:
    """Each approved answer against each rejected one; a text that is both, in two rows, is neither."""
    bad, good = rows.filter(pl.col("verdict") == "reject"), rows.filter(pl.col("verdict") != "reject")
    same = [*_QUESTION, "output"]
    both = good.join(bad, on=same, how="semi").select(same)
    good, bad = (side.join(both, on=same, how="anti", maintain_order="left") for side in (good, bad))
    pairs = good.join(bad, on=_QUESTION, how="inner", suffix="_bad", maintain_order="left_right")
    return pairs.select(
        *_QUESTION,
        "split",
        chosen="output",
        rejected="output_bad",
        source=pl.lit("approve-reject"),
        custom_ids=pl.concat_list("custom_id", "custom_id_bad"),
        reviewers=pl.concat_list("reviewers", "reviewers_bad").list.unique().list.sort(),
        event_ids=pl.concat_list("event_ids", "event_ids_bad").list.sort(),
        decided_at=pl.max_horizontal("decided_at", "decided_at_bad"),
    )


def _compared(
    compared: pl.DataFrame, events: pl.DataFrame, candidates: pl.DataFrame, *, judged: pl.DataFrame
) -> pl.DataFrame:
    """The pairs that people compared, without those whose better side somebody rejected."""
    rows = compared.join(_learnable(candidates), on="candidate_id", how="inner", maintain_order="left")
    bad = judged.filter(pl.col("verdict") == "reject")["custom_id"].to_list()
    rows = rows.filter(~pl.col("custom_ids").list.first().is_in(bad)).with_row_index("row")
    about = rows.select("row", custom_id="custom_ids").explode("custom_id").join(events, on="custom_id", how="inner")
    more = about.group_by("row").agg(more=pl.col("event_id"))
    joined = rows.join(more, on="row", how="left", maintain_order="left")
    every = pl.concat_list("event_ids", pl.col("more").fill_null([]))
    return joined.with_columns(event_ids=every.list.unique().list.sort())


def by_judge(judge: Judge, rows: pl.DataFrame, candidates: pl.DataFrame, *, task: Task) -> pl.DataFrame:
    """Return the pairs of which a judge preferred the same answer whichever was shown first: a source of its own.

    Args:
        judge: What it said; pairs that it was asked about once, or wavers on, make none.
        rows: From ``scoring.rows``: custom_id, candidate_id, output, input, messages of what was judged.
        candidates: Rows of ``candidates`` behind them; those outside ``SPLITS`` count for nothing.
        task: Writes the messages that a record does not have.

    Returns:
        As ``mined``; reviewers is the judge, event_ids are the requests to it.
    """
    said = judge.judgements.filter(criterion=WINS).drop_nulls("score")
    if not said.height:  # the questions of all rows are not written for nothing
        return pl.DataFrame(schema=_SCHEMA)
    people = candidates.join(_learnable(candidates), on="candidate_id", how="semi")
    known = rows.join(people, on="candidate_id", how="semi", maintain_order="left")
    texts = outputs(known, people, task).unique(["asked_sha256", "shown_sha256"], keep="first", maintain_order=True)
    facts = texts.join(known.select("custom_id", "input", "messages", "output"), on="custom_id", maintain_order="left")
    by_name = {row["candidate_id"]: tasks.candidate_of(row) for row in people.iter_rows(named=True)}
    sides = {(row["asked_sha256"], row["shown_sha256"]): row for row in facts.iter_rows(named=True)}
    found = [
        {
            "candidate_id": row["candidate_id"],
            "split": by_name[row["candidate_id"]]["split"],
            "messages": _messages(row, by_name, task),
            "chosen": row["output"],
            "rejected": other["output"],
            "source": "judged",
            "reviewers": [judge.model],
            "custom_ids": [row["custom_id"], other["custom_id"]],
            "event_ids": requests,
            "decided_at": at,
        }
        for row, other, requests, at in _both_ways(said, sides)
    ]
    return _named(pl.DataFrame(found, schema={name: _SCHEMA[name] for name in _PARTS}), task=task)


def _both_ways(
    said: pl.DataFrame, sides: Mapping[tuple[str, str], dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[str], Any]]:
    """The better and the worse of each two answers of which both orders say the same, and the requests."""
    one, other = pl.min_horizontal("shown_sha256", "other_sha256"), pl.max_horizontal("shown_sha256", "other_sha256")
    chance = pl.when(pl.col("shown_sha256") < pl.col("other_sha256")).then("score").otherwise(1 - pl.col("score"))
    told = said.with_columns(one=one, other=other, chance=chance, way=pl.col("shown_sha256") < pl.col("other_sha256"))
    means = told.group_by("asked_sha256", "one", "other", "way").agg(
        pl.col("chance").mean(), pl.col("request_id").sort(), at=pl.col("created_at").max()
    )
    both = means.group_by("asked_sha256", "one", "other").agg(
        "chance", pl.col("request_id").explode(), pl.col("at").max()
    )
    for row in both.sort("asked_sha256", "one", "other").iter_rows(named=True):
        first, second = (sides.get((row["asked_sha256"], row[name])) for name in ("one", "other"))
        if first is None or second is None or len(row["chance"]) < 2:
            continue
        if min(row["chance"]) > 0.5:
            yield first, second, sorted(row["request_id"]), row["at"]
        elif max(row["chance"]) < 0.5:
            yield second, first, sorted(row["request_id"]), row["at"]


def _named(pairs: pl.DataFrame, *, task: Task) -> pl.DataFrame:
    """Name pairs by their content, without those that say nothing or are said both ways round."""
    pairs = pairs.filter(
        pl.col("chosen").str.strip_chars() != pl.col("rejected").str.strip_chars(),
        pl.col("chosen").str.strip_chars() != "",
    )
    turned = pairs.select(*_QUESTION, chosen="rejected", rejected="chosen")
    pairs = pairs.join(turned, on=[*_QUESTION, "chosen", "rejected"], how="anti", maintain_order="left")
    content = [*_QUESTION, "chosen", "rejected", "source"]
    names = [f"p-{_digest(task.name, *row)}" for row in pairs.select(content).iter_rows()]
    named = pairs.with_columns(pair_id=pl.Series(names, dtype=pl.String), task=pl.lit(task.name))
    # samples may say the same: the first of them by name stands for the pair
    return (
        named.sort("pair_id", "custom_ids")
        .unique("pair_id", keep="first", maintain_order=True)
        .select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())
    )  # one row per pair


def _digest(*texts: str) -> str:
    """A name for texts in an order; with their lengths, so that no two lists of them are one text."""
    return decisions.sha256("".join(f"{len(text)}:{text}" for text in texts))[:24]


def withdrawn(pairs: pl.DataFrame, reviews: pl.DataFrame, votes: pl.DataFrame | None = None) -> list[str]:
    """Return the pair_ids of pairs about whose answers people have decided otherwise since, or anything more.

    Args:
        pairs: Rows of ``preferences``.
        reviews: Every event so far.
        votes: From ``pairwise.counting``: event_id and pair_id of the votes that count; null: nobody voted.
    """
    by_people = pairs.filter(pl.col("source").is_in(PEOPLE))
    events = _verdicts(reviews).select("event_id", name="custom_id")
    if votes is not None:
        events = pl.concat([events, votes.select("event_id", name="pair_id")])
    ids = by_people.select("pair_id", event_id="event_ids").explode("event_id")
    about = pl.concat(
        [
            by_people.select("pair_id", name="custom_ids").explode("name"),
            ids.join(events, on="event_id", how="inner").select("pair_id", "name"),
        ]
    )
    now = about.join(events, on="name", how="inner").select("pair_id", "event_id").unique()
    gone = ids.join(now, on=["pair_id", "event_id"], how="anti")
    new = now.join(ids, on=["pair_id", "event_id"], how="anti")
    changed = {*gone["pair_id"], *new["pair_id"]}
    return [name for name in by_people["pair_id"] if name in changed]
