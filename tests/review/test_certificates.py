"""Many rows approved on a random sample of them: what is promised holds, and people's verdicts win."""

import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.stats import binom, hypergeom
from toys import NOON, OUTPUT, curated_rows

from arislab import review, stats
from arislab.errors import ParameterError
from arislab.lake import tables
from arislab.review import certificates, decisions, estimates, journal, sessions

NOBODY = pl.DataFrame(schema=decisions.SCHEMA)
FIXED = {"stratum": "quality >= .5", "actor": "Lea", "earlier": None}


class Case:
    """A certificate on rows of a table, and people who judge its sample."""

    def __init__(self, n=200, *, rows=None, reviews=NOBODY, earlier=None, **how):
        self.curated = curated_rows(n) if rows is None else rows
        self.plan = certificates.fix(self.curated, reviews, **FIXED | {"earlier": earlier} | how)
        self.name, self.events, self.rows, self.reviews = (
            self.plan.certificate,
            self.plan.event,
            self.plan.rows,
            reviews,
        )

    def queue(self, **how):
        return certificates.sample(self.events, self.rows, self.curated, certificate=self.name, **how)

    def judge(self, word, *, reviewer="Ada", rows=None, **more):
        """Judge rows of the sample in its order, a letter each: approve, edit, reject, skip; a dot is none."""
        kinds = {"a": "approve", "e": "edit", "r": "reject", "s": "skip"}
        rows = self.queue() if rows is None else rows
        made = [
            {
                "event_id": f"{reviewer}-{self.reviews.height}-{i}", "custom_id": row["custom_id"],
                "reviewer": reviewer, "decision": kinds[letter],
                "edited_output": '{"score": 1}' if letter == "e" else None,
                "shown_sha256": decisions.sha256(row["output"]), "asked_sha256": decisions.sha256(row["input"]),
                "decided_at": NOON + timedelta(seconds=self.reviews.height + i), "why": row.get("why"),
                "queue": row.get("queue"), "inclusion_prob": row.get("inclusion_prob"),
            } | more
            for i, (letter, row) in enumerate(zip(word, rows.to_dicts(), strict=False))
            if letter != "."
        ]  # fmt: skip
        self.reviews = pl.concat([self.reviews, pl.DataFrame(made, schema=decisions.SCHEMA)])
        return self

    @property
    def verdict(self):
        return certificates.verdict(self.events, self.rows, self.reviews, certificate=self.name)

    def issue(self):
        event = certificates.issue(self.events, self.rows, self.reviews, certificate=self.name, actor="Lea")
        self.events = pl.concat([self.events, event])
        return self

    def withdraw(self):
        given = (self.events, self.rows, self.reviews)
        event = certificates.withdraw(*given, certificate=self.name, actor="Lea", reason="complaints")
        self.events = pl.concat([self.events, event])
        return self

    @property
    def after(self):
        certified = certificates.in_force(self.events, self.rows)
        return certificates.applied(review.fold(self.curated, self.reviews), self.reviews, certified)


# ---- the promise -----------------------------------------------------------------------------------------------------


def test_no_reject_of_59_certifies_five_percent_and_of_299_one():
    """0.95 ** 59 = 0.0485 and 0.99 ** 299 = 0.0495: of any larger stratum no more are needed."""
    assert 0.95**59 < 0.05 < 0.95**58
    for n_rows in (200, 2_000, 34_000, 1_000_000):
        assert certificates.sizes_at_looks(n_rows, promise=0.05, alpha=0.05)[0] <= 59
        assert certificates.sizes_at_looks(n_rows, promise=0.01, alpha=0.05)[0] <= 299
    assert certificates.sizes_at_looks(1_000_000, promise=0.05, alpha=0.05) == (59,)
    assert certificates.sizes_at_looks(10**8, promise=0.01, alpha=0.05) == (299,)
    assert stats.most_in_population(0, 59, 1_000_000, alpha=0.05) <= 50_000
    assert stats.most_in_population(0, 58, 1_000_000, alpha=0.05) > 50_000


def test_the_bound_is_that_of_clopper_and_pearson_where_the_population_is_large():
    for n_found, n in ((0, 59), (3, 120), (17, 300)):
        exact = 1 - stats.lower_bound(1 - n_found / n, n, alpha=0.05)
        assert stats.most_in_population(n_found, n, 3_000_000, alpha=0.05) / 3_000_000 == pytest.approx(exact, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 0.6), st.sampled_from([0.01, 0.05, 0.2]), st.integers(1, 4))
def test_no_stratum_of_any_size_breaks_its_promise_more_often_than_is_stated(n_rows, promise, alpha, looks):
    """By all of the distribution, not by chance: a stratum with one bad row too many passes a look."""
    sizes = certificates.sizes_at_looks(n_rows, promise=promise, alpha=alpha, looks=looks)
    for n_bad in (m for m in range(n_rows + 1) if m / n_rows > promise + 1e-9):
        assert sum(hypergeom.cdf(k, n_rows, n_bad, n) for k, n in enumerate(sizes)) <= alpha + 1e-12
    assert all(n <= n_rows for n in sizes)
    assert list(sizes) == sorted(sizes)


@pytest.mark.parametrize(("n_rows", "promise", "looks"), [(10_000, 0.05, 1), (10_000, 0.05, 5), (400, 0.02, 3)])
def test_in_ten_thousand_strata_that_break_the_promise_it_is_given_as_often_as_stated_at_most(n_rows, promise, looks):
    """Whoever stops at the first look that passes gains nothing: the chance is spent over all of them."""
    sizes = certificates.sizes_at_looks(n_rows, promise=promise, alpha=0.05, looks=looks)
    n_bad, n, rng = int(promise * n_rows) + 1, 10_000, np.random.default_rng(7)
    # places of the bad rows in a random order: rejects among the first n of each stratum
    found, broken = np.zeros(n, dtype=int), np.zeros(n, dtype=bool)
    before = 0
    for allowed, size in enumerate(sizes):
        found += rng.hypergeometric(n_bad - found, n_rows - before - (n_bad - found), size - before)
        before, broken = size, broken | (found <= allowed)
    # three standard errors of 10,000 throws at the stated share
    assert broken.mean() <= 0.05 + 3 * (0.05 * 0.95 / n) ** 0.5
    assert broken.mean() > 0.015, "nor is it far too careful"


def test_looking_after_every_row_as_if_each_look_were_the_only_one_does_break_it():
    """The test above can fail: the bound of one look, asked after each row, promises far too often."""
    n, rng = 10_000, np.random.default_rng(7)
    rejects = (rng.random((n, 600)) < 0.0501).cumsum(axis=1)
    allowed = binom.ppf(0.05, np.arange(1, 601), 0.05) - 1
    assert (rejects <= allowed).any(axis=1).mean() > 0.1


def test_a_whole_certificate_keeps_its_promise_on_drawn_rows():
    """Through the draw, events and verdicts: of strata with 11 % bad ones few pass a promise of 10 %."""
    issued, n = 0, 80
    rows = curated_rows(150)
    for seed in range(n):
        bad = set(np.random.default_rng(seed).choice(150, 17, replace=False))
        case = Case(rows=rows, promise=0.1, confidence=0.8, looks=2, seed=seed)
        case.judge("".join("r" if int(name[2:]) in bad else "a" for name in case.queue()["custom_id"]))
        issued += case.verdict.holds
    assert 0.04 * n < issued < 0.28 * n


# ---- the flow --------------------------------------------------------------------------------------------------------


def test_the_sample_hangs_on_every_row_of_the_stratum_and_on_the_seed():
    one, same, other, fewer = Case(), Case(), Case(seed=1), Case(rows=curated_rows(200).slice(1))
    assert one.queue()["custom_id"].to_list() == same.queue()["custom_id"].to_list()
    for another in (other, fewer):
        assert another.name != one.name
        assert another.queue()["custom_id"].to_list() != one.queue()["custom_id"].to_list()
    places = np.zeros(200)
    for seed in range(300):
        plan = certificates.fix(one.curated, NOBODY, seed=seed, **FIXED)
        places += plan.rows["is_sampled"].to_numpy()
    n = one.plan.n_at_looks[0]
    assert abs(places.mean() - 300 * n / 200) < 1e-9
    assert places.std() < 2 * (300 * n / 200 * (1 - n / 200)) ** 0.5, "no row is drawn more often than others"


def test_the_queue_is_one_that_the_panel_shows():
    case = Case(300, looks=2)
    queue = case.queue()
    assert queue.columns == [*case.curated.columns, "why", "inclusion_prob", "queue", "stale", "stale_by"]
    assert set(queue["why"]) == {"certificate"}
    assert set(queue["queue"]) == {case.name}
    first, second = case.queue(look=1), case.queue(look=2)
    assert pl.concat([first, second])["custom_id"].to_list() == queue["custom_id"].to_list()
    assert [first["queue"][0], second["queue"][0]] == [f"{case.name}-1", f"{case.name}-2"]
    sizes = case.plan.n_at_looks
    assert first["inclusion_prob"][0] == pytest.approx(sizes[0] / 300)
    assert second["inclusion_prob"][0] == pytest.approx((sizes[1] - sizes[0]) / 300)
    assert review.Panel(first, reviewer="Ada", decide=lambda frame: None).counts["total"] == first.height
    with pytest.raises(ParameterError, match="from 1 to 2, got 3"):
        case.queue(look=3)


def test_rows_that_were_judged_do_not_stand_in_a_stratum():
    rows = curated_rows(80)
    case = Case(rows=rows).judge("ares", rows=rows)
    settled = curated_rows(1, custom_id="s", id="s", reviewed_by="experts", needs_review=False, approved=True)
    with pytest.raises(ParameterError, match="no row that waits, of 3 given"):
        Case(rows=rows.head(3), reviews=case.reviews)
    plan = Case(rows=pl.concat([rows, settled]), reviews=case.reviews).plan
    assert (plan.rows.height, plan.n_left_out) == (77, 4), "a skipped one waits"
    assert "4 that do not wait are left out" in repr(plan)


def test_a_certificate_is_issued_only_if_the_sample_shows_it():
    case = Case(1_000)
    (n,) = case.plan.n_at_looks
    case.judge("a" * (n - 1))
    assert (case.verdict.look, case.verdict.n_next, case.verdict.bound) == (0, n, None)
    with pytest.raises(ParameterError, match=f"no look yet .* the first one is at {n}.*Nothing was issued"):
        case.issue()
    case.judge("." * (n - 1) + "a")
    one = case.verdict
    assert one.holds
    assert (one.look, one.n, one.n_rejects, one.n_next) == (1, n, 0, None)
    assert 0.04 < one.bound <= 0.05 < one.bound_unseen
    event = case.issue().events.row(-1, named=True)
    assert (event["event"], event["n_sample"], event["n_rejects"], event["alpha"]) == ("issued", n, 0, 0.05)
    assert event["bound"] == one.bound
    with pytest.raises(ParameterError, match="is issued already"):
        case.issue()


def test_one_reject_is_one_too_many_at_the_first_look_and_says_how_many_would_do():
    case = Case(1_000)
    (n,) = case.plan.n_at_looks
    case.judge("a" * (n - 1) + "r")
    wanted = certificates.sizes_at_looks(1_000, promise=0.05, alpha=0.1, looks=2)[1]
    assert case.verdict.n_needed == wanted
    with pytest.raises(ParameterError, match=f"With 1 rejects {wanted} judged rows would have been needed"):
        case.issue()
    assert "that was the last look" in repr(case.verdict)


def test_an_edit_is_a_reject_of_the_text_as_it_came():
    case = Case(1_000).judge("e" + "a" * 80)
    assert (case.verdict.holds, case.verdict.n_rejects) == (False, 1)
    # and what somebody says of the edited text is not about the one that came
    case.judge("a", reviewer="Ben", shown_sha256=decisions.sha256('{"score": 1}'))
    assert case.verdict.n_rejects == 1


def test_a_second_look_allows_one_reject():
    case = Case(1_000, looks=2)
    first, second = case.plan.n_at_looks
    case.judge("a" * 10 + "r" + "a" * (first - 11))
    one = case.verdict
    assert (one.holds, one.look, one.n_next, one.alpha_spent) == (False, 1, second, pytest.approx(0.025))
    assert f"the next look is at {second}" in repr(one)
    case.judge("." * first + "a" * (second - first))
    assert (case.verdict.holds, case.verdict.look, case.verdict.n_rejects) == (True, 2, 1)
    assert "look 2 of 2" in repr(case.verdict)
    # a reject after the look that passed is found in vain: that look was decided
    passed = Case(1_000, looks=2).judge("a" * first + "r")
    assert (passed.verdict.holds, passed.verdict.look, passed.verdict.n) == (True, 1, first)


def test_what_is_skipped_or_differed_on_holds_the_look_up():
    case = Case(1_000)
    (n,) = case.plan.n_at_looks
    names = case.queue()["custom_id"]
    case.judge("as" + "a" * n)
    assert (case.verdict.look, case.verdict.waits_for[0]) == (0, names[1])
    case.judge(".a").judge("..r", reviewer="Ben")
    assert (case.verdict.look, case.verdict.waits_for) == (0, (names[2],))
    final = case.queue()[2:3]
    settled = decisions.event(final.row(0, named=True), "adjudicate", reviewer="Cleo")
    case.reviews = pl.concat([case.reviews, settled])
    assert case.verdict.holds
    undone = case.reviews.filter(custom_id=names[5]).row(0, named=True)
    undo = {"decision": "undo", "undoes": undone["event_id"], "event_id": "u", "decided_at": NOON + timedelta(days=1)}
    case.reviews = pl.concat([case.reviews, pl.DataFrame([undone | undo], schema=decisions.SCHEMA)])
    assert (case.verdict.holds, case.verdict.waits_for) == (False, (names[5],))


def test_decisions_on_another_text_or_on_planted_rows_say_nothing():
    for more in ({"shown_sha256": "x"}, {"asked_sha256": "x"}, {"shown_sha256": None}, {"planted": "repeat"}):
        case = Case(1_000).judge("a" * 80, **more)
        assert case.verdict.look == 0
    assert Case(1_000).judge("a" * 80).verdict.look == 1


def test_a_small_stratum_is_judged_whole():
    case = Case(10, promise=0.05)
    assert case.plan.n_at_looks == (10,)
    assert case.judge("a" * 10).verdict.bound == 0
    assert case.verdict.holds
    assert case.verdict.bound_unseen == 0
    bad = Case(10, promise=0.05, looks=9).judge("a" * 9 + "r")
    assert bad.plan.n_at_looks == (10,), "one bad row of ten breaks the promise: no look could allow it"
    with pytest.raises(ParameterError, match="So many rejects break the promise themselves"):
        bad.issue()


def test_a_second_chance_is_not_free():
    case = Case(1_000).judge("r" + "a" * 80)
    again = {"rows": case.curated, "reviews": case.reviews, "seed": 1}
    earlier = (case.events, case.rows)
    with pytest.raises(
        ParameterError, match=rf"944 of 944 rows were in certificates before \({case.name}\)"
    ) as refused:
        Case(**again, earlier=earlier)
    assert "a confidence below 0.95" in str(refused.value)
    assert Case(**again, earlier=earlier, confidence=0.9).plan.event["alpha"].item() == pytest.approx(0.05)
    elsewhere = curated_rows(50, output="another").with_columns(custom_id="x" + pl.col("custom_id"))
    assert Case(rows=elsewhere, earlier=earlier).plan.event["alpha"].item() == pytest.approx(0.05)
    # fixed and given up before any look: nothing was spent
    unseen = Case(1_000).judge("r").withdraw()
    fresh = Case(rows=case.curated, seed=1, earlier=(unseen.events, unseen.rows))
    assert fresh.plan.n_at_looks == case.plan.n_at_looks


def test_fixed_again_it_is_the_same_certificate():
    case = Case(200)
    again = Case(200, earlier=(case.events, case.rows))
    assert again.name == case.name
    assert_frame_equal(again.rows, case.rows)


def test_wrong_numbers_and_names_are_refused():
    for wrong, why in (
        ({"promise": 0}, "promise must be in"), ({"promise": 1}, "promise must be in"),
        ({"confidence": 95}, "confidence must be in"), ({"looks": 0}, "looks must be a whole number"),
        ({"looks": True}, "looks must be a whole number"), ({"actor": " "}, "actor must not be empty"),
        ({"stratum": ""}, "stratum must not be empty"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=why):
            Case(**wrong)
    case = Case()
    with pytest.raises(ParameterError, match=f"no certificate 'nurses'.*{case.name}"):
        certificates.verdict(case.events, case.rows, NOBODY, certificate="nurses")
    with pytest.raises(ParameterError, match="is of 200 rows, and 3 are given"):
        certificates.verdict(case.events, case.rows.head(3), NOBODY, certificate=case.name)


# ---- the fold --------------------------------------------------------------------------------------------------------


def test_issued_its_rows_are_approved_and_withdrawn_all_of_them_wait_again():
    case = Case(200).judge("a" * 80)
    n = case.queue().height
    before = case.after
    assert before["approved"].sum() == n, "what people approved"
    after = case.issue().after
    assert after["approved"].all()
    assert set(after["reviewed_by"]) == {"Ada", f"certificate:{case.name}"}
    assert after.filter(reviewed_by="Ada").height == n
    assert after.schema == case.curated.schema
    progress = dict(review.progress(after, case.reviews).select("state", "rows").iter_rows())
    assert (progress["approved"], progress["certified"]) == (n, 200 - n)
    case.curated = after  # as 2_curate stores them
    assert_frame_equal(case.after, after)
    assert_frame_equal(case.withdraw().after.drop("updated_at"), before.drop("updated_at"))
    with pytest.raises(ParameterError, match="is withdrawn already"):
        case.withdraw()
    with pytest.raises(ParameterError, match="is withdrawn already"):
        case.issue()


def test_a_persons_verdict_on_a_row_wins_whenever_it_comes():
    case = Case(200).judge("a" * 80).issue()
    others = case.after.filter(pl.col("reviewed_by").str.starts_with("certificate"))
    case.judge("rea", reviewer="Ben", rows=others)
    rejected, edited, approved = (
        case.after.row(by_predicate=pl.col("custom_id") == name, named=True) for name in others["custom_id"][:3]
    )
    assert (rejected["approved"], rejected["reviewed_by"]) == (False, "Ben")
    assert (edited["output"], edited["reviewed_by"]) == ('{"score": 1}', "Ben")
    assert (approved["approved"], approved["reviewed_by"]) == (True, "Ben")


@pytest.mark.parametrize("decision", ["reject", "approve", "flag"])
def test_a_row_that_a_person_left_unsettled_is_not_certified(decision):
    case = Case(200).judge("a" * 80).issue()
    name = case.after.filter(pl.col("reviewed_by").str.starts_with("certificate"))["custom_id"][0]
    stale = {"event_id": "x", "custom_id": name, "reviewer": "Ben", "decision": decision, "decided_at": NOON}
    case.reviews = pl.concat([case.reviews, pl.DataFrame([stale | {"shown_sha256": "y"}], schema=decisions.SCHEMA)])
    row = case.after.row(by_predicate=pl.col("custom_id") == name, named=True)
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, True, None)


def test_a_disputed_row_is_not_certified_until_it_is_adjudicated():
    case = Case(200).judge("a" * 80).issue()
    one = case.after.filter(pl.col("reviewed_by").str.starts_with("certificate")).head(1)
    case.judge("a", rows=one).judge("r", reviewer="Ben", rows=one)
    is_it = pl.col("custom_id") == one["custom_id"][0]
    row = case.after.row(by_predicate=is_it, named=True)
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, True, None)
    final = decisions.event(one.row(0, named=True), "adjudicate", reviewer="Cleo")
    case.reviews = pl.concat([case.reviews, final])
    assert case.after.row(by_predicate=is_it, named=True)["reviewed_by"] == "Cleo"


@pytest.mark.parametrize("column", ["output", "input"])
def test_only_the_certified_text_is_approved(column):
    case = Case(200).judge("a" * 80).issue()
    name = case.after.filter(pl.col("reviewed_by").str.starts_with("certificate"))["custom_id"][0]
    is_it = pl.col("custom_id") == name
    for stored in (case.curated, case.after):
        case.curated = stored.with_columns(pl.when(is_it).then(pl.lit("new")).otherwise(pl.col(column)).alias(column))
        row = case.after.row(by_predicate=is_it, named=True)
        assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, True, None)
        assert case.after["approved"].sum() == 199


def test_skips_and_labels_leave_a_certificate_in_force():
    case = Case(200).judge("a" * 80).issue()
    case.curated = case.after
    others = case.after.filter(pl.col("reviewed_by").str.starts_with("certificate"))
    case.judge("ss", reviewer="Ben", rows=others)
    assert case.after["approved"].all()


def test_a_row_of_two_certificates_is_that_of_the_first_until_it_is_withdrawn():
    one = Case(200).judge("a" * 80).issue()
    rest = one.after.filter(pl.col("reviewed_by").str.starts_with("certificate"))
    waiting = certificates.cleared(rest)
    two = Case(rows=waiting, seed=3).judge("a" * 80).issue()
    events, rows = pl.concat([one.events, two.events]), pl.concat([one.rows, two.rows])
    reviews = pl.concat([one.reviews, two.reviews])

    def names():
        certified = certificates.in_force(events, rows)
        return certificates.applied(review.fold(one.curated, reviews), reviews, certified)["reviewed_by"]

    assert names().str.contains(one.name).sum() > 0 == names().str.contains(two.name).sum()
    gone = certificates.withdraw(events, rows, reviews, certificate=one.name, actor="Lea", reason="complaints")
    events = pl.concat([events, gone])
    assert names().str.contains(one.name).sum() == 0 < names().str.contains(two.name).sum()


def test_the_overview_shows_one_that_people_no_longer_bear_out():
    case = Case(200).judge("a" * 80).issue()
    row = certificates.overview(case.events, case.rows, case.reviews).row(0, named=True)
    assert (row["certificate"], row["state"], row["holds"], row["n_rejects"]) == (case.name, "issued", True, 0)
    case.judge("r", decided_at=NOON + timedelta(days=1))
    row = certificates.overview(case.events, case.rows, case.reviews).row(0, named=True)
    assert (row["state"], row["holds"], row["n_rejects"]) == ("issued", False, 1)
    assert certificates.overview(case.events[:0], case.rows[:0], NOBODY).is_empty()


def test_the_tables_hold_it_and_give_it_back(lake):
    case = Case(120).judge("a" * 80)
    lake["certified_rows"].append(case.plan.rows)
    lake["certificates"].append(case.plan.event)
    lake["certificates"].append(case.issue().events.tail(1))
    events, rows = lake["certificates"].read(), lake["certified_rows"].read()
    certified = certificates.in_force(events, rows)
    assert certified.height == 120
    after = certificates.applied(case.curated, case.reviews, certified)
    assert after["reviewed_by"].str.starts_with("certificate:").sum() == 120 - case.queue().height
    assert certificates.verdict(events, rows, case.reviews, certificate=case.name) == case.verdict
    for table, schema in (("certificates", certificates.SCHEMA), ("certified_rows", certificates.ROWS)):
        assert {name: column.dtype for name, column in tables.contract(table).columns.items()} == schema
    assert tables.contract("certificates").columns["event"].allowed == certificates.EVENTS


def test_a_hundred_thousand_certified_rows_fold_in_little_time():
    rows = pl.concat([curated_rows(1)] * 100_000).with_columns(
        custom_id="r-" + pl.int_range(100_000).cast(pl.String),
        output=pl.lit(OUTPUT) + pl.int_range(100_000).cast(pl.String),
    )
    case = Case(rows=rows).judge("a" * 59).issue()
    assert case.after["approved"].all()
    assert json.loads(case.after["metadata"][0])["company"] == "Acme"


@pytest.mark.slow
def test_strata_of_real_answers_are_certified_only_as_far_as_they_are_right(shared):
    """1,319 answers of a model to questions of which the result is known: one in six is wrong."""
    text = (shared / "tora_gsm8k" / "tora-70b.jsonl").read_text()
    lines = [json.loads(line) for line in text.split("\n") if line]
    rows = pl.DataFrame({
        "custom_id": [f"r-{line['idx']}" for line in lines], "input": [line["question"] for line in lines],
        "output": [line["code"][0] for line in lines], "needs_review": True,
        "reviewed_by": pl.Series([None] * len(lines), dtype=pl.String), "approved": False,
    })  # fmt: skip
    wrong = {f"r-{line['idx']}" for line in lines if str(line["gt"]) != str(line["pred"][0])}
    rate, held, issued = len(wrong) / rows.height, 0, {0.12: 0, 0.3: 0}
    assert 0.12 < rate < 0.25
    for seed in range(12):
        for promise in issued:
            case = Case(rows=rows, promise=promise, looks=20, seed=seed)
            case.judge("".join("r" if name in wrong else "a" for name in case.queue()["custom_id"]))
            issued[promise] += case.verdict.holds
            held += case.verdict.bound >= rate
    assert (issued[0.12], held) == (0, 24)
    assert issued[0.3] >= 7, "the last look allows 19 rejects, and 16 are expected"


def test_several_reviewers_judge_the_sample_in_a_session(tmp_path):
    """Each gets rows in an order of their own; which verdict is for the certificate stands in its event."""
    case = Case(120, looks=2)
    sessions.start(tmp_path / "s", case.queue(look=1), sessions.Settings(seed=1, overlap=0.5, gold=0, repeats=0))
    desk = sessions.Session(tmp_path / "s")
    try:
        while items := [(name, item) for name in ("Ada", "Ben") for item in desk.take(name, 5)]:
            for name, item in items:
                shown = {"shown_sha256": decisions.sha256(item["output"]), "queue": item["queue"]}
                shown |= {"asked_sha256": decisions.sha256(item["input"]), "custom_id": item["custom_id"]}
                made = {"event_id": f"{name}-{item['custom_id']}", "decision": "approve", "labels": "[]"}
                desk.decide([shown | made], name)
    finally:
        desk.close()
    case.reviews = journal.read(tmp_path / "s")
    assert case.reviews.height == round(1.5 * case.plan.n_at_looks[0])
    assert set(case.reviews["why"]) == {"certificate"}
    assert (case.verdict.holds, case.verdict.look, case.verdict.n_rejects) == (True, 1, 0)
    assert estimates.approve_rate(case.curated, case.reviews)["n"].to_list() == [0, 0]
