"""Evaluation: leaks, the gate, and what an arm is judged by."""

import hashlib
import json

import polars as pl
import pytest
from toys import CHECKOUT, TASK, people

from arislab import curate, evaluate, models, stats
from arislab.errors import LeakageError, ParameterError, TaskError
from arislab.task import load

# --- leaks and the gate -----------------------------------------------------------------------------------------------

LONG = (
    "Title: Data Engineer Experience: 7 years Skills: Python, Kafka, Spark, SQL "
    "Role: Software Architect Needs: Kafka yes, Rust no"
)


def asked(**rows):
    return pl.DataFrame({"candidate_id": list(rows), "group_id": [f"g-{r}" for r in rows], "text": list(rows.values())})


def used(text, *, candidate="other", group="g-other"):
    return pl.DataFrame({"id": ["u1"], "candidate_id": [candidate], "group_id": [group], "text": [text]})


def test_a_clean_test_split_has_no_leak():
    leaked = evaluate.leaks(
        asked(t1=LONG, t2="something else entirely here"), used("nothing of that kind stands in this text")
    )
    assert leaked.height == 0
    assert evaluate.refuse_leaks(leaked, n_test=2) == "0 of 2 test candidates leak into training or search"


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
    leaked = evaluate.leaks(asked(t1=LONG, t2="something else entirely here"), planted)
    assert leaked.select("candidate_id", "id", "kind").rows() == [("t1", "u1", kind)]
    with pytest.raises(LeakageError, match="1 of 2 test candidates"):
        evaluate.refuse_leaks(leaked, n_test=2)


def test_a_leak_can_be_taken_out_and_is_said():
    people_asked = asked(**{f"t{i}": f"{LONG} and also thing{i}" for i in range(3)})
    leaked = evaluate.leaks(people_asked, pl.concat([used(people_asked["text"][1]), used(people_asked["text"][2])]))
    rest, said = evaluate.without_leaks(people_asked, leaked.filter(candidate_id="t1"), leaks="drop")
    assert rest["candidate_id"].to_list() == ["t0", "t2"]
    assert said == "1 of 3 test candidates leak and are taken out: t1; 2 are reported on"
    clean, said = evaluate.without_leaks(people_asked, leaked.head(0), leaks="drop")
    assert (clean.height, said) == (3, "0 of 3 test candidates leak into training or search")
    with pytest.raises(LeakageError, match="leaks='drop' reports on the rest"):
        evaluate.without_leaks(people_asked, leaked, leaks="refuse")
    with pytest.raises(LeakageError, match=r"all 3 test candidates .* nobody is left"):
        evaluate.without_leaks(people_asked, people_asked.select("candidate_id"), leaks="drop")
    with pytest.raises(ParameterError, match=r"leaks must be 'refuse' .* got 'ignore'"):
        evaluate.without_leaks(people_asked, leaked, leaks="ignore")


def test_a_leak_is_looked_for_in_all_that_was_asked_and_in_the_last_question():
    curated = pl.DataFrame(
        {
            "id": ["a", "b"],
            "candidate_id": ["c1", "c2"],
            "messages": [
                json.dumps(
                    [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
                    ]
                ),
                None,
            ],
            "input": ["Who?", "What?"],
        }
    )
    assert evaluate.trained_texts(curated).rows() == [("a", "c1", "Who?"), ("b", "c2", "What?")]
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on"},
    ]
    curated = curated.with_columns(messages=pl.lit(json.dumps(talk)), input=pl.lit("Go on")).head(1)
    assert evaluate.trained_texts(curated)["text"].to_list() == ["Hi\nYes?\nGo on", "Go on"]


def strangers(n, split):
    """Candidates of another task: their profiles lack what this one asks about."""
    own = [pl.format("{}-{}", pl.lit(split), name).alias(name) for name in ("candidate_id", "group_id")]
    return people(n, split).with_columns(*own, profile=pl.lit('{"input": "7 + 5"}'))


def test_a_candidate_whom_the_task_cannot_ask_about_resembles_nobody_where_that_is_allowed(task_file):
    to_messages = load(task_file).to_messages
    everybody = pl.concat([strangers(2, "train"), people(2), strangers(1, "validation")])
    with pytest.raises(TaskError, match=r"to_messages of shout.py failed on candidate 'train-c0000': KeyError: 'text'"):
        evaluate.texts(everybody, to_messages)
    said = evaluate.texts(everybody, to_messages, or_nothing=True)
    assert said["candidate_id"].to_list() == everybody["candidate_id"].to_list()
    assert said["text"].to_list() == [None, None, "candidate number 0", "candidate number 1", None]
    named = said.with_columns(id="candidate_id")
    assert evaluate.leaks(named[:1], named[1:], everybody=named["text"]).height == 0


def leaks_cell(lake, spec, drawn=()):
    """Run the cell of phase 5 that looks for leaks, on what is in the lake; nothing was trained on."""
    book = json.loads((CHECKOUT / "notebooks" / "5_evaluate.ipynb").read_text())
    source = "".join(next(cell["source"] for cell in book["cells"] if cell.get("id") == "leaks"))
    names = {"lake": lake, "spec": spec, "use_case": "general", "chosen": {"use_case_column": None}, "tuned": {}}
    names |= {name: lake["training_data_curated"].read() for name in ("shown_from", "learned_from")}
    names |= {"n_test": 3, "leak_threshold": 0.8, "drawn": drawn}
    names |= {"curate": curate, "evaluate": evaluate, "pl": pl, "leaks": "refuse"}
    exec(source, names)
    return names["people"]


def test_what_the_control_learned_is_a_leak_too(lake, task_file):
    spec = load(task_file)
    lake["candidates"].append(pl.concat([people(3, "test"), strangers(2, "train"), strangers(2, "validation")]))
    raw = pl.DataFrame({"custom_id": ["r-1"], "candidate_id": ["train-c0000"], "input": ["candidate number 1"]})
    raw = raw.with_columns(task=pl.lit("shout"), status=pl.lit("ok"), messages=pl.lit(None, dtype=pl.String))
    lake["training_data_raw"].append(raw.with_columns(llm_output=pl.lit("OUT")))
    assert leaks_cell(lake, spec).height == 3
    with pytest.raises(LeakageError, match="'c0001' is exact to 'r-1'"):
        leaks_cell(lake, spec, drawn=["r-1"])


def test_phase_5_fails_on_a_candidate_that_it_evaluates_and_on_no_other(lake, task_file):
    spec = load(task_file)
    lake["candidates"].append(pl.concat([people(3, "test"), strangers(2, "train"), strangers(2, "validation")]))
    assert leaks_cell(lake, spec)["candidate_id"].to_list() == ["c0000", "c0001", "c0002"]
    lake["candidates"].append(strangers(1, "test").with_columns(candidate_id=pl.lit("a0"), group_id=pl.lit("g-a0")))
    with pytest.raises(TaskError, match=r"to_messages of shout.py failed on candidate 'a0': KeyError: 'text'"):
        leaks_cell(lake, spec)


def scores(gain, n=200):
    rows = []
    for i in range(n):
        base = int(hashlib.sha256(f"{i}".encode()).hexdigest()[:4], 16) / 65536 * 0.5
        wobble = int(hashlib.sha256(f"w{i}".encode()).hexdigest()[:4], 16) / 65536 * 0.2 - 0.1
        rows += [("baseline", f"c{i}", base + 0.2), ("finetuned", f"c{i}", base + 0.2 + gain + wobble)]
    return pl.DataFrame(rows, schema=["arm", "candidate_id", "quality"], orient="row")


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "promote"), (0.0, "insufficient evidence"), (-0.1, "hold")])
def test_the_gate_opens_only_for_a_gain_whose_lower_end_is_above_the_margin(gain, verdict):
    comparison = stats.compare(scores(gain), contrasts=[("finetuned", "baseline")])
    assert models.gate(comparison, arm="finetuned")["verdict"] == verdict
    assert json.dumps(models.gate(comparison, arm="finetuned"))
    with pytest.raises(ParameterError, match="no row 'icl'"):
        models.gate(comparison, arm="icl")


@pytest.mark.parametrize(
    ("over_echo", "over_empty", "verdict", "named"),
    [
        (0.05, 0.3, "promote", "echo"),
        (0.0, 0.3, "insufficient evidence", "echo"),
        (0.3, 0.0, "insufficient evidence", "empty"),
        (-0.1, 0.3, "hold", "echo"),
    ],
)
def test_the_gate_stays_shut_below_an_answer_that_costs_nothing(over_echo, over_empty, verdict, named):
    frame = scores(0.2)
    tuned = frame.filter(pl.col("arm") == "finetuned")
    gains = {"echo": over_echo, "empty": over_empty}
    wobble = pl.Series([(-1) ** i * 0.05 for i in range(tuned.height)])
    free = [tuned.with_columns(arm=pl.lit(arm), quality=pl.col("quality") - g + wobble) for arm, g in gains.items()]
    mute = tuned.with_columns(arm=pl.lit("nearest"), quality=pl.lit(None, dtype=pl.Float64))
    comparison = stats.compare(frame, contrasts=[("finetuned", "baseline")])
    beside = stats.compare(
        pl.concat([frame, *free, mute]), contrasts=[("finetuned", arm) for arm in ("echo", "empty", "nearest")]
    )
    gate = models.gate(comparison, arm="finetuned", free=beside)
    assert (gate["verdict"], gate["trivial"]["against"]) == (verdict, named)
    assert named in gate["reason"]
    assert gate["difference"] == comparison["difference"][0]
    assert models.gate(comparison, arm="finetuned", free=beside, margin=0.5)["verdict"] == "hold"


def seeded():
    """Two candidates, a baseline, and three trainings of one arm."""
    quality = {"baseline": [0.2, 0.4], "tuned": [0.5, 0.7], "tuned #2": [0.6, 0.8], "tuned #3": [0.7, None]}
    rows = [(arm, f"c{i}", q, 10 * (i + 1)) for arm, values in quality.items() for i, q in enumerate(values)]
    return pl.DataFrame(rows, schema=["arm", "candidate_id", "quality", "tokens"], orient="row")


def test_seeds_are_averaged_by_candidate_and_their_spread_is_said():
    merged = evaluate.over_seeds(seeded())
    assert merged["arm"].to_list() == ["baseline", "baseline", "tuned", "tuned"]
    assert merged["quality"].to_list() == pytest.approx([0.2, 0.4, 0.6, 0.75])
    assert evaluate.summary(merged)["n"].to_list() == [2, 2]
    assert evaluate.spread(seeded()) == ("tuned: 3 seeds, 0.600, 0.700, 0.700; mean 0.667, standard deviation 0.058")
    one = seeded().filter(~pl.col("arm").str.contains("#"))
    assert evaluate.spread(one).startswith("one seed a training")
    assert evaluate.over_seeds(one).equals(one.with_columns(pl.col("tokens").cast(pl.Float64)))
    named = evaluate.per_seed("control", [{"model_path": "m1"}, {"model_path": "m2"}])
    assert named == {"control": "m1", "control #2": "m2"}


def test_it_is_said_by_what_phase_5_judges(task_file):
    own = load(task_file)
    assert "the task names no REPORT scorers" in evaluate.judges(own)
    task_file.write_text(TASK + "REPORT = {'loud': loud, 'other': lambda output: 1.0}\n")
    assert "REPORT scorers loud, other, of which loud also chose the training rows" in evaluate.judges(load(task_file))
    task_file.write_text(TASK + "REPORT = {'other': lambda output: 1.0}\n")
    assert "REPORT scorers other, which no earlier phase has seen" in evaluate.judges(load(task_file))


def test_the_table_shows_both_columns_where_they_differ_and_one_where_not():
    frame = scores(0.1).with_columns(tokens=1, report=pl.col("quality") / 2)
    comparison = stats.compare(frame, contrasts=[("finetuned", "baseline")], by="report")
    both = evaluate.table(evaluate.summary(frame, by="report"), comparison).splitlines()
    assert both[0].split() == ["arm", "report", "95", "%", "interval", "n", "quality"]
    means = dict(frame.group_by("arm").agg(pl.col("quality").mean()).iter_rows())
    assert float(both[1].split()[-1]) == pytest.approx(means["baseline"], abs=5e-4)
    assert float(both[1].split()[1]) == pytest.approx(means["baseline"] / 2, abs=5e-4)
    assert evaluate.table(evaluate.summary(frame), comparison).splitlines()[0].split()[-1] == "n"


def test_results_stand_by_category_with_their_intervals(task_file):
    frame = scores(0.1, 60).with_columns(tokens=1)
    who = pl.DataFrame({"candidate_id": [f"c{i}" for i in range(60)], "profile": ["{}"] * 60})
    kinds = ["nurse"] * 30 + ["cook"] * 20 + ["smith", "smith", "baker", "clerk", None, *["monk"] * 5]
    who = who.with_columns(category=pl.Series(kinds), group_id=pl.Series([f"g{i // 2}" for i in range(60)]))
    how = {"contrast": ("finetuned", "baseline")}
    table = evaluate.by_category(frame, who, load(task_file), n_most=2, **how)
    assert table["category"].to_list() == ["nurse", "cook", "others"]
    assert table.select("n", "n_groups").rows() == [(30, 15), (20, 10), (10, 5)]
    nurse = table.row(0, named=True)
    means = {
        arm: part["quality"].mean()
        for (arm,), part in frame.filter(pl.col("candidate_id").is_in([f"c{i}" for i in range(30)]))
        .partition_by("arm", as_dict=True)
        .items()
    }
    assert (nurse["finetuned"], nurse["baseline"]) == pytest.approx((means["finetuned"], means["baseline"]))
    assert nurse["difference"] == pytest.approx(means["finetuned"] - means["baseline"])
    assert nurse["low"] < nurse["difference"] < nurse["high"]
    every = evaluate.by_category(frame, who, load(task_file), **how)
    assert every["category"].to_list() == ["nurse", "cook", "monk", "smith", "baker", "clerk", None]


def test_a_gain_below_the_margin_is_no_promotion():
    comparison = stats.compare(scores(0.1), contrasts=[("finetuned", "baseline")])
    assert models.gate(comparison, arm="finetuned", margin=0.2)["verdict"] == "hold"


def test_the_summary_counts_what_is_missing():
    frame = scores(0.1, 50).with_columns(
        tokens=pl.lit(7), quality=pl.when(pl.col("candidate_id") == "c3").then(None).otherwise("quality")
    )
    summary = evaluate.summary(frame)
    assert summary["arm"].to_list() == ["baseline", "finetuned"]
    assert summary.select("n", "n_missing").rows() == [(49, 1), (49, 1)]
    assert (summary["low"] < summary["mean"]).all()
    assert "finetuned - baseline" in evaluate.table(summary, stats.compare(frame, baseline="baseline"))


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
    rows = models.promote(known, tuned, {"verdict": "promote"})
    assert rows.select("version", "alias").rows() == [("n-2", "champion"), ("n-1", "retired")]
    assert models.promote(known, tuned, {"verdict": "not shown"}).select("version", "alias").rows() == [
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
    scored = evaluate.ask(arms, candidates=people(1), server=None, folder=tmp_path, recorded=None, task=load(path))
    assert dict(scored.group_by("arm").agg(pl.col("quality").mean()).iter_rows()) == {"a": 1.0, "b": 0.0}


class Watch:
    """A server whose models take so many seconds, and longer the first time."""

    def __init__(self, **seconds):
        self.takes, self.asked = seconds, []

    def seconds(self, body):
        self.asked.append((body["model"], body["messages"]))
        takes = self.takes[body["model"]]
        return takes and (takes if self.asked.count(self.asked[-1]) + len(self.asked) > 4 else 100 * takes)


def test_answers_are_timed_in_rounds_and_the_first_does_not_count():
    arms = {
        arm: pl.DataFrame(
            {
                "candidate_id": ["c2", "c0", "c1"],
                "custom_id": [f"{arm}-2", f"{arm}-0", f"{arm}-1"],
                "body": [json.dumps({"model": arm, "messages": n}) for n in (2, 0, 1)],
            }
        )
        for arm in ("baseline", "icl", "finetuned", "control")
    }
    scores = pl.concat(
        [frame.select(pl.lit(arm).alias("arm"), "candidate_id", "custom_id") for arm, frame in arms.items()]
    ).with_columns(
        latency_s=pl.lit(None, dtype=pl.Float64),
        prompt_tokens=pl.when(arm="icl").then(400).otherwise(60),
        completion_tokens=9,
    )
    watch = Watch(baseline=0.2, icl=0.5, finetuned=0.2)
    timed = evaluate.timed(scores, arms, server=watch)
    assert watch.asked == [(arm, n) for n in range(3) for arm in ("baseline", "icl", "finetuned")]
    assert timed.columns == scores.columns
    assert timed.drop("latency_s").equals(scores.drop("latency_s"))
    costs = {row["arm"]: row for row in evaluate.costs(timed).to_dicts()}
    assert {arm: (row["latency_s"], row["n_timed"]) for arm, row in costs.items()} == {
        "baseline": (0.2, 2), "icl": (0.5, 2), "finetuned": (0.2, 2), "control": (None, 0),
    }  # fmt: skip
    assert evaluate.costs_in_words(timed).splitlines() == [
        "prompt tokens per 1,000 answers: baseline 60,000, icl 400,000, finetuned 60,000, control 60,000",
        "an answer asked alone (median of 2): baseline 0.20 s, icl 0.50 s, finetuned 0.20 s",
    ]
    # one counted round, however long it takes
    assert (
        evaluate.timed(scores, arms, server=Watch(baseline=1, icl=1, finetuned=1), within_s=0.0)["latency_s"].count()
        == 3
    )


def test_where_an_answer_cannot_be_timed_one_is_asked_for_and_the_rows_stay_as_they_are():
    frame = pl.DataFrame({"candidate_id": ["c"], "custom_id": ["r"], "body": ['{"model": "m", "messages": 0}']})
    scores = frame.select(
        pl.lit("icl").alias("arm"),
        "candidate_id",
        "custom_id",
        pl.lit(None, dtype=pl.Float64).alias("latency_s"),
        prompt_tokens=None,
        completion_tokens=None,
    )
    watch = Watch(m=None)
    assert evaluate.timed(scores, {"icl": pl.concat([frame, frame])}, server=watch).equals(scores)
    assert len(watch.asked) == 1
    assert evaluate.costs_in_words(scores) == (
        "prompt tokens per 1,000 answers: the server told none\nan answer asked alone: not measured at this server"
    )


def test_intervals_are_named_by_arm_and_by_contrast():
    means = evaluate.summary(scores(0.1).with_columns(tokens=1))
    comparison = stats.compare(scores(0.1), contrasts=[("finetuned", "baseline")])
    assert list(evaluate.intervals(means)) == ["baseline", "finetuned"]
    row = means.row(0, named=True)
    assert evaluate.intervals(means)["baseline"] == (row["mean"], row["low"], row["high"], row["n"])
    gain = comparison.row(0, named=True)
    assert evaluate.intervals(comparison) == {
        "finetuned - baseline": (gain["difference"], gain["low"], gain["high"], gain["n"])
    }


def test_where_nobody_is_to_be_asked_there_are_no_arms_and_an_empty_result(tmp_path, task_file):
    task = load(task_file)
    arms = evaluate.arms(people(2), task, models={"baseline": "m", "tuned": "n"}, seed=1, pair_by_candidate=True)
    assert {arm: frame["model"].unique().to_list() for arm, frame in arms.items()} == {
        "baseline": ["m"],
        "tuned": ["n"],
    }
    assert evaluate.custom_ids(arms) == sorted([*arms["baseline"]["custom_id"], *arms["tuned"]["custom_id"]])
    nobody = evaluate.arms(people(0), task, models={"baseline": "m"}, seed=1)
    assert (nobody, evaluate.custom_ids(nobody)) == ({}, [])
    empty = evaluate.ask(nobody, candidates=people(0), server=None, folder=tmp_path, recorded=None, task=task)
    assert (empty.height, empty.columns[:3]) == (0, ["arm", "candidate_id", "sample"])
    assert {f"score_{name}" for name in task.scorers} <= set(empty.columns)
    assert evaluate.intervals(evaluate.summary(empty)) == {}


def test_a_version_that_is_known_keeps_its_state():
    trained = pl.DataFrame(
        {
            "name": ["n"] * 3,
            "base_model": ["b"] * 3,
            "adapter_sha256": ["x", "y", "z"],
            "model_path": ["n-1", "n-2", "n-3"],
            "arm": ["curated", "curated", "control"],
        }
    )
    rows = models.register(trained, pl.DataFrame({"version": ["n-1"]}))
    assert rows.select("version", "adapter_path", "alias").rows() == [
        ("n-2", "n-2", "candidate"),
        ("n-3", "n-3", "control"),
    ]
