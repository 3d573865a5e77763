"""In-context search: what it promises about cells, budgets, rules, kills and seeds; a rule makes up the answers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toys import CHECKOUT, people

from arislab import icl
from arislab.errors import ParameterError
from arislab.icl import rounds as search_rounds

METHODS = ("halving", "surrogate")
both = pytest.mark.parametrize("method", METHODS)


def pool(n):
    return pl.DataFrame({"id": [f"e{i:02d}" for i in range(n)], "candidate_id": [f"p{i}" for i in range(n)]})


def number(*what):
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 2**32


class World:
    """A set's true quality is the mean worth of its examples.

    Answers add noise, of which half depends on the row alone (paired).
    """

    def __init__(self, noise=0.2):
        self.noise, self.asked, self.calls = noise, [], []

    def worth(self, ids):
        return sum(int(i[1:]) for i in ids) / len(ids) / 20

    def ask(self, cells):
        self.calls.append(cells)
        rows = []
        for name, ids, candidate in cells.select("set_id", "example_ids", "candidate_id").iter_rows():
            self.asked.append((tuple(ids), candidate))
            noise = number(candidate) + number(ids, candidate) - 1
            rows.append((name, candidate, min(1.0, max(0.0, self.worth(ids) + self.noise * noise))))
        return pl.DataFrame(rows, schema=["set_id", "candidate_id", "quality"], orient="row")


def found_by(method, *, seed=0, world=None, budget=900, k=3, n=20, rows=120, **options):
    ask = (world or World()).ask
    return icl.search(
        pool(n), people(rows, "validation"), k=k, budget=budget, ask=ask, seed=seed, method=method, **options
    )


# --- what is found ----------------------------------------------------------------------------------------------------


@both
def test_the_search_finds_a_better_set_than_chance_and_keeps_its_budget(method):
    gains = []
    for seed in range(6):
        world = World()
        result = found_by(method, world=world, seed=seed)
        assert len(world.asked) == result.n_requests == result.n_asked <= 900
        assert len(set(world.asked)) == len(world.asked)  # no cell twice
        assert len(world.calls) == result.round  # one batch a round
        gains.append(world.worth(result.example_ids) - 0.475)
    assert min(gains) > 0
    assert sum(gains) / 6 > (0.1 if method == "halving" else 0.25)


def test_the_surrogates_estimate_is_less_biased_than_the_score():
    worlds = [(World(0.6), seed) for seed in range(6)]
    searches = [found_by("surrogate", world=world, seed=seed) for world, seed in worlds]
    excess = [
        (f.score - w.worth(f.example_ids), f.estimate[0] - w.worth(f.example_ids))
        for f, (w, _) in zip(searches, worlds, strict=True)
    ]
    assert abs(np.mean([e for _, e in excess])) <= abs(np.mean([s for s, _ in excess])) + 0.01
    assert all(f.estimate[1] < f.estimate[0] < f.estimate[2] for f in searches)


def test_it_says_whether_the_choice_of_examples_matters():
    def luck(cells):
        return cells.select("set_id", "candidate_id", quality=pl.concat_str("set_id", "candidate_id").hash(1) % 2)

    assert found_by("surrogate").matters
    null = icl.search(pool(20), people(120), k=3, budget=900, ask=luck, method="surrogate")
    assert not null.matters
    assert "is not shown" in repr(null)


def test_effects_name_the_examples_that_help_and_hold_the_truth():
    result = found_by("surrogate", world=World(0.3), budget=2_000)
    top = result.effects["id"].head(3).to_list()
    assert set(top) <= {"e15", "e16", "e17", "e18", "e19"}
    assert result.effects["id"].sort().to_list() == pool(20)["id"].to_list()
    truth = result.effects["id"].str.slice(1).cast(pl.Int64).cast(pl.Float64)
    truth = (truth - truth.mean()) / 20 / 3
    covered = (result.effects["low"] <= truth) & (truth <= result.effects["high"])
    assert covered.mean() >= 0.8
    assert result.effects["n_sets"].sum() == 3 * result.cells["set_id"].n_unique()


def test_several_k_share_the_budget_and_each_has_a_winner():
    world = World()
    result = found_by("auto", world=world, k=[1, 3], budget=900)
    assert result.winners["k"].to_list() == [1, 3]
    assert result.winners["example_ids"].list.len().to_list() == [1, 3]
    assert result.n_requests <= 900
    assert result.trials.group_by("k").agg(pl.col("n_validation").sum()).height == 2
    assert len(world.calls) == result.round
    assert result.example_ids == ("e19",)  # the mean of one best example beats that of three
    assert result.trials["chosen"].sum() == 1


def test_a_small_budget_halves_and_a_large_one_learns():
    assert search_rounds.plan(budget=1_999, n_validation=250)["method"][0] == "halving"
    assert search_rounds.plan(budget=2_000, n_validation=250)["method"][0] == "surrogate"
    assert search_rounds.plan(budget=10_000, n_validation=250).height == 5


# --- seeds, kills, known cells ----------------------------------------------------------------------------------------


def same(a, b):
    for field in ("trials", "effects", "winners"):
        assert_frame_equal(getattr(a, field), getattr(b, field), check_exact=True)
    assert_frame_equal(a.cells.drop("known"), b.cells.drop("known"), check_exact=True)
    assert (a.example_ids, a.score, a.estimate, a.evidence, a.search_id) == (
        b.example_ids, b.score, b.estimate, b.evidence, b.search_id,
    )  # fmt: skip


@both
def test_the_same_seed_gives_the_same_search_bit_for_bit_and_another_a_different_one(method):
    class Shuffled(World):
        def ask(self, cells):
            return super().ask(cells).sample(fraction=1.0, shuffle=True, seed=5)

    first = found_by(method, seed=1)
    same(first, found_by(method, seed=1, world=Shuffled()))  # nor does the order of answers matter
    backwards = icl.search(
        pool(20).reverse(), people(120).reverse(), k=3, budget=900, ask=World().ask, seed=1, method=method
    )
    same(first, backwards)  # nor that of pool and rows
    assert set(first.cells["set_id"]) != set(found_by(method, seed=2).cells["set_id"])


@both
def test_after_each_round_there_is_a_choice_and_more_rounds_only_add(method):
    full = found_by(method)
    for rounds in range(1, full.round + 1):
        part = found_by(method, rounds=rounds)
        assert part.round == rounds
        assert_frame_equal(part.cells, full.cells.filter(pl.col("round") <= rounds), check_exact=True)
        assert len(part.example_ids) == 3
        assert part.trials["chosen"].sum() == 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
import polars as pl
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']
from test_loop import World, found_by
method, store, at = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
world = World()
def ask(cells):
    answers = world.ask(cells)
    with store.open("a") as out:
        for i, row in enumerate(answers.to_dicts()):
            if cells["round"][0] == at and i >= answers.height // 2:  # half of the round is on disk
                out.flush(); os.fsync(out.fileno()); os.kill(os.getpid(), signal.SIGKILL)
            out.write(json.dumps(row) + "\\n")
    return answers
class Storing:
    def __init__(self): self.ask = ask
found_by(method, world=Storing())
"""


@pytest.mark.slow
@both
def test_a_search_killed_in_any_round_goes_on_with_the_same_cells_to_the_same_winner(method, tmp_path):
    whole_world = World()
    whole = found_by(method, world=whole_world)
    for at in range(1, whole.round + 1):
        store = tmp_path / f"{at}.jsonl"
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), method, str(store), str(at)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        known = pl.DataFrame([json.loads(line) for line in store.read_text().splitlines()])
        world = World()
        again = found_by(method, world=world, known=known)
        same(whole, again)
        assert again.n_asked == whole.n_requests - known.height
        before = set(known.select("set_id", "candidate_id").iter_rows())
        assert before.isdisjoint((icl.set_id(ids), row) for ids, row in world.asked)
        assert again.cells["known"].sum() == known.height


@both
def test_cells_of_another_search_are_used_where_wanted_and_change_nothing(method):
    first = found_by(method, seed=3)
    other = found_by(method, seed=4, budget=1_500)
    world = World()
    again = found_by(
        method, seed=3, world=world, known=pl.concat([first.cells, other.cells]).unique(["set_id", "candidate_id"])
    )
    same(first, again)
    assert world.calls == []
    assert again.n_asked == 0


def test_cells_of_a_set_stand_together_and_so_do_sets_with_the_same_first_examples():
    world = World()
    found_by("surrogate", world=world)
    for cells in world.calls:
        assert cells["example_ids"].to_list() == sorted(cells["example_ids"].to_list())
        assert cells.select(pl.struct("set_id", "candidate_id").is_duplicated().any()).item() is False
        assert cells["round"].n_unique() == 1


# --- cells without an answer ------------------------------------------------------------------------------------------


def without(lost, **columns):
    def ask(cells):
        return World(0).ask(cells).with_columns(quality=pl.when(lost).then(None).otherwise("quality"), **columns)

    return ask


@both
def test_missing_cells_are_missing_and_never_0(method):
    lost = pl.col("candidate_id").str.ends_with("7")  # a tenth of the rows, whatever the set
    scored = pl.lit("ok")
    result = icl.search(pool(6), people(40), k=1, budget=240, ask=without(lost, status=scored), method=method)
    assert result.example_ids == ("e05",)
    assert result.score == pytest.approx(0.25)
    assert result.n_missing > 0
    assert result.stopped == ""  # answered, but without a score: the scorer could not tell
    assert f"{result.n_missing} missing" in repr(result)


def test_a_round_with_many_unanswered_cells_ends_the_search_with_a_choice():
    lost = pl.col("candidate_id").str.ends_with("7")
    result = icl.search(pool(6), people(40), k=1, budget=240, ask=without(lost))
    assert result.round < search_rounds.plan(budget=240, n_validation=40).height
    assert "of the cells of round" in result.stopped
    assert result.stopped in repr(result)
    assert result.example_ids == ("e05",)
    rows_left_out = icl.search(
        pool(6), people(40), k=1, budget=240, ask=lambda cells: World(0).ask(cells).filter(~lost)
    )
    assert_frame_equal(rows_left_out.trials, result.trials)


@both
def test_nothing_answered_is_no_crash_and_no_result(method):
    result = icl.search(
        pool(6), people(40), k=2, budget=240, ask=lambda cells: World().ask(cells).head(0), method=method
    )
    assert result.round == 1
    assert result.score != result.score
    assert result.estimate[0] != result.estimate[0]
    assert result.n_missing == result.n_requests
    assert len(result.example_ids) == 2


def test_a_prompt_that_does_not_fit_counts_0_for_its_set():
    def ask(cells):
        overflows = pl.col("example_ids").list.contains("e19")
        cells = World(0).ask(cells).join(cells, on=["set_id", "candidate_id"])
        return cells.with_columns(
            quality=pl.when(overflows).then(0.0).otherwise("quality"),
            status=pl.when(overflows).then(pl.lit("overflow")).otherwise(pl.lit("ok")),
        )

    result = icl.search(pool(20), people(60), k=3, budget=900, ask=ask, method="surrogate")
    assert "e19" not in result.example_ids
    assert result.effects["id"][-1] == "e19"
    assert result.stopped == ""


# --- rules ------------------------------------------------------------------------------------------------------------


@both
def test_pinned_banned_and_one_per_category_hold_for_every_set_asked(method):
    examples = pool(20).with_columns(category=pl.Series([f"c{i % 4}" for i in range(19)] + [None]))
    result = icl.search(
        examples, people(60), k=3, budget=900, ask=World().ask, method=method, pinned=["e02"], banned=["e18"],
        one_per="category",
    )  # fmt: skip
    category = dict(examples.select("id", "category").iter_rows())
    for ids in result.trials["example_ids"]:
        assert "e02" in ids
        assert "e18" not in ids
        named = [category[i] for i in ids if category[i]]
        assert len(named) == len(set(named))
    assert "e19" in result.trials["example_ids"].explode().to_list()  # null is a category of its own


def test_all_sets_of_a_halving_round_see_the_same_rows():
    world = World()
    result = found_by("halving", world=world, budget=300, k=2)
    for cells in world.calls:
        rows = cells.group_by("set_id").agg(pl.col("candidate_id").sort())["candidate_id"]
        assert rows.n_unique() == 1
    seen = [name for cells in world.calls for name in cells["candidate_id"].unique()]
    assert len(seen) == len(set(seen))
    assert result.trials.group_by("round").agg(pl.col("n_validation").n_unique())["n_validation"].max() == 1


# --- plans and refusals -----------------------------------------------------------------------------------------------


@both
def test_a_search_spends_what_its_plan_says(method):
    result = found_by(method, n=20, budget=1_200)
    planned = search_rounds.plan(budget=1_200, n_validation=120, method=method)["n_requests"]
    spent = result.cells.group_by("round").len().sort("round")["len"]
    assert result.n_requests <= planned.sum()
    assert result.n_requests > 0.9 * planned.sum()
    assert spent[0] == planned[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, r"k must be 1\.\.6"),
        ({"k": 7}, r"k must be 1\.\.6"),
        ({"k": []}, "k is an empty list"),
        ({"budget": 5}, "budget must be at least 32"),
        ({"budget": 30, "method": "surrogate"}, "use method='halving'"),
        ({"method": "halvin"}, "did you mean 'halving'|halving"),
        ({"validation": people(0)}, "no validation candidates"),
        ({"validation": people(3).with_columns(candidate_id=pl.Series(["p1", "x", "y"]))},
            "answers about validation candidates"),
        ({"validation": pl.concat([people(3), people(3)])}, "occurs twice"),
        ({"pinned": ["e01", "e02", "e03"]}, "3 examples are pinned and k is 2"),
        ({"pinned": ["e9"]}, "the pool has no example 'e9'"),
        ({"pinned": ["e01"], "banned": ["e01"]}, "both pinned and banned"),
        ({"banned": [f"e{i:02d}" for i in range(5)]}, r"k must be 1\.\.1"),
        ({"one_per": "same"}, "the pool has 1"),
        ({"ask": lambda cells: pl.concat([World().ask(cells)] * 2)}, "share set and candidate"),
        ({"ask": lambda cells: World().ask(cells).with_columns(quality=pl.lit(2.0))},
            r"quality must be in 0\.\.1, got 2\.0"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_sound_is_refused(change, message):
    arguments = {"validation": people(40), "k": 2, "budget": 100, "ask": World().ask} | change
    with pytest.raises(ParameterError, match=message):
        icl.search(pool(6).with_columns(same=pl.lit("x")), arguments.pop("validation"), **arguments)


def test_a_tiny_world_is_searched_without_asking_twice():
    world = World()
    result = icl.search(pool(2), people(3), k=2, budget=5_000, ask=world.ask)
    assert len(set(world.asked)) == len(world.asked) == result.n_requests == 6  # two orders on three rows


def test_search_and_report_share_no_row_and_too_few_are_refused_before_anything_is_spent():
    rows, fresh = icl.halves(people(50), n_search=300, n_holdout=300)
    assert (rows.height, fresh.height) == (25, 25)
    assert rows.join(fresh, on="candidate_id", how="semi").height == 0
    with pytest.raises(ParameterError, match="at least 20"):
        icl.halves(people(19), n_search=10, n_holdout=10)


def test_search_and_report_share_no_group_and_take_more_of_a_group_only_when_all_groups_are_there():
    everybody = people(200).with_columns(group_id=pl.concat_str(pl.lit("g"), pl.int_range(200) % 40))
    rows, fresh = icl.halves(everybody, n_search=50, n_holdout=300, seed=3)
    assert (rows.height, rows["group_id"].n_unique()) == (50, 20)  # two of each, then a third of ten
    assert rows.group_by("group_id").len()["len"].sort().to_list() == [2] * 10 + [3] * 10
    assert (fresh.height, fresh["group_id"].n_unique()) == (100, 20)  # all that the other groups have
    assert not set(rows["group_id"]) & set(fresh["group_id"])
    few, _ = icl.halves(everybody, n_search=12, n_holdout=5, seed=3)
    assert few["group_id"].n_unique() == 12
    assert few.equals(icl.halves(everybody.reverse(), n_search=12, n_holdout=5, seed=3)[0])
    with pytest.raises(ParameterError, match=r"19 independent validation candidates \(groups\), at least 20"):
        icl.halves(people(200).with_columns(group_id=pl.concat_str(pl.lit("g"), pl.int_range(200) % 19)),
                   n_search=9, n_holdout=9)  # fmt: skip


@pytest.mark.parametrize("k", [0, -1, 4, [1, 4], [2, -1], True, 2.0, "2", 10**9])
def test_a_number_of_examples_that_the_pool_cannot_give_says_what_is_approved(k):
    pool = pl.DataFrame({"id": ["a", "b", "c"]})
    with pytest.raises(
        ParameterError, match=r"k must be 1\.\.3 \(the size of the pool\), got .*; 7 examples are approved"
    ):
        icl.sizes(k, pool=pool, n_approved=7)
    assert icl.sizes([3, 1, 3], pool=pool, n_approved=7) == [1, 3]
    assert icl.sizes(2, pool=pool, n_approved=7) == [2]
