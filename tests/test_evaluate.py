"""In-context search and evaluation, with answers that a rule makes up."""

import hashlib
import json

import polars as pl
import pytest
from conftest import people
from hypothesis import given, settings
from hypothesis import strategies as st

from arislab import evaluate, icl, stats
from arislab.errors import LeakageError, ParameterError
from arislab.task import load


def pool(n):
    return pl.DataFrame({"id": [f"e{i:02d}" for i in range(n)], "candidate_id": [f"p{i}" for i in range(n)]})


class World:
    """A set's true quality is the mean worth of its examples; answers add noise that depends on the row (paired)."""

    def __init__(self, noise=0.2):
        self.noise, self.asked = noise, []

    def worth(self, ids):
        return sum(int(i[1:]) for i in ids) / len(ids) / 20

    def ask(self, sets, rows):
        cells = []
        for ids in sets:
            for name in rows["candidate_id"]:
                self.asked.append((ids, name))
                luck = int(hashlib.sha256(f"{name}".encode()).hexdigest()[:4], 16) / 65536 - 0.5
                own = int(hashlib.sha256(f"{ids}{name}".encode()).hexdigest()[:4], 16) / 65536 - 0.5
                cells.append((icl.set_id(ids), name, min(1.0, max(0.0, self.worth(ids) + self.noise * (luck + own)))))
        return pl.DataFrame(cells, schema=["set_id", "candidate_id", "quality"], orient="row")


def test_the_search_finds_a_better_set_than_chance_and_keeps_its_budget():
    gains = []
    for seed in range(8):
        world = World()
        found = icl.search(pool(20), people(120, "validation"), k=3, budget=900, ask=world.ask, seed=seed, n_sets=24)
        assert len(world.asked) == found.n_requests <= 900
        assert len(set(world.asked)) == len(world.asked)  # no cell twice
        gains.append(world.worth(found.example_ids) - 0.475)
    assert min(gains) > 0
    assert sum(gains) / 8 > 0.1


def test_the_same_seed_finds_the_same_set_and_another_draws_others():
    def run(seed):
        return icl.search(pool(20), people(60), k=3, budget=400, ask=World().ask, seed=seed, n_sets=12)

    assert run(1).example_ids == run(1).example_ids
    assert run(1).trials["trial_id"].to_list() == run(1).trials["trial_id"].to_list()
    assert set(run(1).trials["example_ids"].list.join(" ")) != set(run(2).trials["example_ids"].list.join(" "))


def test_all_sets_of_a_round_see_the_same_rows():
    world, seen = World(), []

    def ask(sets, rows):
        seen.append((len(sets), rows["candidate_id"].to_list()))
        return world.ask(sets, rows)

    found = icl.search(pool(20), people(60), k=2, budget=300, ask=ask, seed=0, n_sets=12)
    names = [name for _, rows in seen for name in rows]
    assert len(names) == len(set(names))
    assert found.trials.group_by("round").agg(pl.col("n_validation").n_unique())["n_validation"].to_list() == [1] * len(
        seen
    )
    assert found.trials["chosen"].sum() == 1


def test_missing_cells_are_missing_and_never_0():
    def ask(sets, rows):
        return (
            World(0)
            .ask(sets, rows)
            .with_columns(quality=pl.when(pl.col("candidate_id") == "c0000").then(None).otherwise("quality"))
        )

    found = icl.search(pool(6), people(10), k=1, budget=60, ask=ask, seed=0, n_sets=6)
    assert found.example_ids == ("e05",)
    assert found.score == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be 1..6"),
        ({"k": 7}, "k must be 1..6"),
        ({"budget": 5}, "at least 2 requests a set"),
        ({"validation": people(0)}, "no validation candidates"),
        (
            {"validation": people(3).with_columns(candidate_id=pl.Series(["p1", "x", "y"]))},
            "answers about validation candidates",
        ),
    ],
)
def test_a_search_that_cannot_be_sound_is_refused(change, message):
    arguments = {"validation": people(10), "k": 2, "budget": 100} | change
    with pytest.raises(ParameterError, match=message):
        icl.search(pool(6), arguments.pop("validation"), ask=World().ask, n_sets=6, **arguments)


@settings(max_examples=80, deadline=None)
@given(budget=st.integers(80, 20_000), n_sets=st.integers(2, 40), rows=st.integers(1, 500), rounds=st.integers(1, 6))
def test_a_plan_never_exceeds_budget_or_rows(budget, n_sets, rows, rounds):
    steps = icl.plan(budget=budget, n_sets=n_sets, n_validation=rows, rounds=rounds)
    spent = sum(
        sets * (seen - before) for (sets, seen), before in zip(steps, [0] + [s for _, s in steps[:-1]], strict=True)
    )
    assert spent <= budget
    assert steps[0][0] == n_sets
    assert all(0 < seen <= rows for _, seen in steps)


def test_every_example_is_tried_about_equally_often():
    found = icl.search(pool(20), people(20), k=5, budget=100, ask=World().ask, seed=3, n_sets=20)
    first = found.trials.filter(pl.col("round") == 1)["example_ids"].explode().value_counts()["count"]
    assert (first.min(), first.max()) == (5, 5)


def test_examples_stand_between_system_and_question():
    write = icl.with_examples(
        lambda c: [{"role": "system", "content": "S"}, {"role": "user", "content": c["q"]}],
        [("q1", "a1"), ("q2", "a2")],
    )
    assert [m["content"] for m in write({"q": "now"})] == ["S", "q1", "a1", "q2", "a2", "now"]
    assert [m["role"] for m in icl.with_examples(lambda c: [{"role": "user", "content": "x"}], [("q", "a")])({})] == [
        "user",
        "assistant",
        "user",
    ]


# --- leaks and the gate -----------------------------------------------------------------------------------------------

LONG = "Title: Data Engineer Experience: 7 years Skills: Python, Kafka, Spark, SQL Role: Software Architect Needs: Kafka yes, Rust no"


def asked(**rows):
    return pl.DataFrame({"candidate_id": list(rows), "group_id": [f"g-{r}" for r in rows], "text": list(rows.values())})


def used(text, *, candidate="other", group="g-other"):
    return pl.DataFrame({"id": ["u1"], "candidate_id": [candidate], "group_id": [group], "text": [text]})


def test_a_clean_test_split_has_no_leak():
    found = evaluate.leaks(
        asked(t1=LONG, t2="something else entirely here"), used("nothing of that kind stands in this text")
    )
    assert found.height == 0
    assert evaluate.refuse_leaks(found, n_test=2) == "0 of 2 test candidates leak into training or search"


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        (used(LONG), "exact"),
        (used(LONG.upper().replace(":", " ")), "exact"),
        (used(LONG.replace("Rust no", "Rust yes")), "near"),
        (used("unrelated words only", candidate="t1"), "candidate"),
        (used("unrelated words only", group="g-t1"), "group"),
    ],
)
def test_a_planted_leak_is_found_and_named(planted, kind):
    found = evaluate.leaks(asked(t1=LONG, t2="something else entirely here"), planted)
    assert found.select("candidate_id", "id", "kind").rows() == [("t1", "u1", kind)]
    with pytest.raises(LeakageError, match="1 of 2 test candidates"):
        evaluate.refuse_leaks(found, n_test=2)


def scores(gain, n=200):
    rows = []
    for i in range(n):
        base = int(hashlib.sha256(f"{i}".encode()).hexdigest()[:4], 16) / 65536 * 0.5
        wobble = int(hashlib.sha256(f"w{i}".encode()).hexdigest()[:4], 16) / 65536 * 0.2 - 0.1
        rows += [("baseline", f"c{i}", base + 0.2), ("finetuned", f"c{i}", base + 0.2 + gain + wobble)]
    return pl.DataFrame(rows, schema=["arm", "candidate_id", "quality"], orient="row")


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "promote"), (0.0, "not shown"), (-0.1, "hold")])
def test_the_gate_opens_only_for_a_gain_whose_lower_end_is_above_the_margin(gain, verdict):
    comparison = stats.compare(scores(gain), contrasts=[("finetuned", "baseline")])
    assert evaluate.gate(comparison, arm="finetuned")["verdict"] == verdict
    assert json.dumps(evaluate.gate(comparison, arm="finetuned"))
    with pytest.raises(ParameterError, match="no row 'icl'"):
        evaluate.gate(comparison, arm="icl")


def test_a_gain_below_the_margin_is_no_promotion():
    comparison = stats.compare(scores(0.1), contrasts=[("finetuned", "baseline")])
    assert evaluate.gate(comparison, arm="finetuned", margin=0.2)["verdict"] == "hold"


def test_the_summary_counts_what_is_missing():
    frame = scores(0.1, 50).with_columns(
        tokens=pl.lit(7), quality=pl.when(pl.col("candidate_id") == "c3").then(None).otherwise("quality")
    )
    told = evaluate.summary(frame)
    assert told["arm"].to_list() == ["baseline", "finetuned"]
    assert told.select("n", "n_missing").rows() == [(49, 1), (49, 1)]
    assert (told["low"] < told["mean"]).all()
    assert "finetuned - baseline" in evaluate.table(told, stats.compare(frame, baseline="baseline"))


def test_search_and_report_share_no_row_and_too_few_are_refused_before_anything_is_spent():
    rows, fresh = icl.halves(people(50), n_search=300, n_holdout=300)
    assert (rows.height, fresh.height) == (25, 25)
    assert rows.join(fresh, on="candidate_id", how="semi").height == 0
    with pytest.raises(ParameterError, match="at least 20"):
        icl.halves(people(19), n_search=10, n_holdout=10)


def test_what_all_questions_say_is_no_leak():
    rubric = " ".join(f"rule{i} says word{i}" for i in range(60))
    questions = {f"t{i}": f"{rubric} candidate {i} knows skill{i} and skill{i + 1} and skill{i * 7}" for i in range(30)}
    trained = used(f"{rubric} candidate 999 knows cooking and sewing and riding")
    assert evaluate.leaks(asked(**questions), trained).height == 0
    assert evaluate.leaks(asked(**questions), used(questions["t3"])).select("candidate_id").rows() == [("t3",)]


def test_a_promotion_retires_the_champion_before_it():
    tuned = {"name": "n", "model_path": "n-2", "base_model": "b", "adapter_sha256": "x"}
    known = pl.DataFrame(
        {
            "name": ["n"],
            "version": ["n-1"],
            "alias": ["champion"],
            "base_model": ["b"],
            "adapter_path": ["n-1"],
            "adapter_sha256": ["y"],
            "gate": ["{}"],
            "created_at": [1],
        }
    )
    rows = evaluate.promote(known, tuned, {"verdict": "promote"})
    assert rows.select("version", "alias").rows() == [("n-2", "champion"), ("n-1", "retired")]
    assert evaluate.promote(known, tuned, {"verdict": "not shown"}).select("version", "alias").rows() == [
        ("n-2", "candidate")
    ]


def test_an_arm_is_judged_by_its_own_answers_alone(tmp_path, monkeypatch):
    path = tmp_path / "agree.py"
    path.write_text(
        "def to_messages(candidate): return [{'role': 'user', 'content': 'q'}]\n"
        "def agree(output, others):\n    return sum(o == output for o in others) / len(others) if others else None\n"
        "SCORERS, WEIGHTS = {'agree': agree}, {'agree': 1}\n"
    )
    asked_all = pl.DataFrame(
        {
            "arm": ["a", "a", "b", "b"],
            "candidate_id": ["c"] * 4,
            "sample": [0, 1, 0, 1],
            "custom_id": list("wxyz"),
            "model": ["m"] * 4,
        }
    )
    said = asked_all.with_columns(
        llm_output=pl.Series(["1", "1", "1", "2"]),
        status=pl.lit("ok"),
        error=pl.lit(None),
        finish_reason=pl.lit("stop"),
        prompt_tokens=1,
        completion_tokens=1,
    )
    monkeypatch.setattr(
        evaluate.batch,
        "answer",
        lambda requests, **_: requests.join(said.drop("arm", "candidate_id", "sample", "model"), on="custom_id"),
    )
    arms = {name: part.drop("arm") for (name,), part in asked_all.partition_by("arm", as_dict=True).items()}
    scored = evaluate.ask(arms, candidates=people(1), server=None, folder=tmp_path, table=None, task=load(path))
    assert dict(scored.group_by("arm").agg(pl.col("quality").mean()).iter_rows()) == {"a": 1.0, "b": 0.0}
