"""Preferences and pairs through the cells of phases 2 and 5, and what never crosses from one to the other."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest
from toys import CHECKOUT, TASK, people, play, version

from arislab import evaluate, models, pairwise, stats, trivial
from arislab.errors import ParameterError
from arislab.lake import Lake
from arislab.review import core, decisions
from arislab.runs import convert, parameters_of
from arislab.task import load

N = 12
ANY = {"rate_margin": 1.0, "loss_margin": 1.0}
"""Twelve answers cannot show that no format broke: here only the gain, and what people say, are of interest."""


@pytest.fixture
def recorded(root, monkeypatch):
    """A lake with two answers for each of twelve candidates of the train split, and of the test split."""
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    (root / "shout.py").write_text(TASK)
    lake = Lake(root / "data" / "lake")
    tested = people(N, "test").with_columns(pl.col("candidate_id", "group_id").str.replace("c|g", "t"))
    lake["candidates"].upsert(pl.concat([people(N), tested]))
    rows = []
    for who in ("c", "t"):
        for i in range(N):
            question = f"candidate number {i}"
            asked = json.dumps([{"role": "user", "content": question}])
            for j, text in enumerate((question.upper(), f"{who} {question}, I hope. I hope this helps!")):
                row = {"custom_id": f"r-{who}{i}-{j}", "candidate_id": f"{who}{i:04d}", "sample": j, "llm_output": text}
                rows.append(row | {"task": "shout", "input": question, "messages": asked, "model": "m", "status": "ok"})
    lake["training_data_raw"].upsert(pl.DataFrame(rows))
    return lake


def curate(root):
    return play("2_curate", root, task=str(root / "shout.py"), keep_fraction=1.0, duplicate_threshold=1.0)


def said(lake, name, decision, **more):
    row = lake["training_data_raw"].read(where={"custom_id": name}).row(0, named=True)
    shown = {"custom_id": name, "input": row["input"], "output": row["llm_output"]}
    seen = lake["reviews"].read()
    lake["reviews"].append(decisions.event(shown, decision, reviewer="Ada", seen=seen, **more))


def test_phase_2_mines_what_people_decided_and_takes_back_what_they_take_back(recorded, root, capsys):
    lake = recorded
    curate(root)
    assert lake["preferences"].rows == 0
    said(lake, "r-c0-0", "approve")
    said(lake, "r-c0-1", "reject")
    for i in (1, 2):
        said(lake, f"r-c{i}-1", "edit", edited_output=f"c candidate number {i}, I hope.")
    curate(root)
    assert "2 of 2 edits take out 'i hope this helps' at the end" in capsys.readouterr().out
    pairs = lake["preferences"].read().sort("source", "candidate_id")
    assert pairs.select("source", "candidate_id").rows() == [
        ("approve-reject", "c0000"),
        ("edit", "c0001"),
        ("edit", "c0002"),
    ]
    assert pairs["rejected"].str.ends_with("I hope this helps!").all()
    event = lake["reviews"].read().sort("seq")["event_id"][1]
    undo = decisions.event({"custom_id": "r-c0-1"}, "undo", reviewer="Ada", seen=lake["reviews"].read(), undoes=event)
    lake["reviews"].append(undo)
    curate(root)
    assert lake["preferences"].read()["source"].unique().to_list() == ["edit"]


def test_what_people_say_of_samples_is_learned_from_and_of_test_answers_never(recorded, root):
    lake, spec = recorded, load(str(root / "shout.py"))
    raw, everybody = lake["training_data_raw"].read(), lake["candidates"].read()
    samples = pairwise.samples(raw, everybody, spec, n=99, n_people=1, seed=1)
    assert samples.height == N, "of the train split"
    answers = raw.filter(pl.col("candidate_id").str.starts_with("t")).select(
        "candidate_id", "custom_id", arm=pl.when(sample=0).then(pl.lit("a")).otherwise(pl.lit("b")), output="llm_output"
    )
    tested = everybody.filter(split="test")
    arms = pairwise.pairs(answers, tested, spec, arms=("a", "b"), n=99, n_people=1, seed=1)
    assert arms.height == N
    lake["arm_pairs"].upsert(pl.concat([samples, arms]))
    desk = pairwise.Desk(lake["arm_pairs"].read(), votes=lake["arm_votes"].read, store=lake["arm_votes"].append)
    for item in desk.take("Ada", 99):
        vote = {"event_id": item["custom_id"], "decision": "left", "shown_sha256": item["shown_sha256"]}
        desk.decide([{"custom_id": item["custom_id"], **vote}], "Ada")
    assert (lake["arm_votes"].rows, lake["reviews"].exists) == (2 * N, False)
    curate(root)
    learned = lake["preferences"].read()
    assert (learned["source"].to_list(), learned["split"].to_list()) == (["pairwise"] * N, ["train"] * N)
    for table in ("training_data_curated", "training_data_scored", "preferences"):
        assert lake[table].read()["candidate_id"].str.starts_with("c").all(), table
    forged = lake["arm_pairs"].read().with_columns(split=pl.lit("train"))
    lake["arm_pairs"].upsert(forged.drop("run_id", "created_at"))
    curate(root)
    assert lake["preferences"].rows == N, "the split is that of the candidate, whatever the pair says"


def test_phases_before_the_last_see_no_pair_of_test_answers():
    for path in sorted((CHECKOUT / "notebooks").glob("[1-4]_*.ipynb")):
        source = path.read_text()
        reads = [line for line in source.splitlines() if "arm_pairs" in line]
        assert all('\\"split\\": \\"train\\"' in line for line in reads), path.name
        assert ("arm_votes" in source) == bool(reads)


# --- phase 5 ----------------------------------------------------------------------------------------------------------


def evaluated(lake, root, *, gain, **given):
    """The cells of phase 5 that compare and decide, with answers of all arms that were scored."""
    spec, asked = load(str(root / "shout.py")), lake["candidates"].read(where={"split": "test"})
    rows = [
        {
            "arm": arm, "candidate_id": who, "custom_id": f"r-{arm}-{who}", "model": "m", "status": "ok",
            "output": f"{arm} to {who}", "quality": 0.5 + (gain if arm == "finetuned" else 0) + 0.01 * (i % 3),
            "latency_s": None, "tokens": 9, "prompt_tokens": 5, "completion_tokens": 4,
        }
        for arm in ("baseline", "icl", "finetuned", "icl+finetuned", "control")
        for i, who in enumerate(asked["candidate_id"])
    ]  # fmt: skip
    scores = pl.DataFrame(rows, schema_overrides={"latency_s": pl.Float64})
    scores = scores.with_columns(report=pl.col("quality"))
    free = scores.filter(arm="baseline").with_columns(arm=pl.lit("echo"), quality=pl.lit(0.1), report=pl.lit(0.1))
    everything = pl.concat([scores, free])
    if not lake["model_events"].rows:
        models.Registry(lake).register(pl.DataFrame([version(lake.models, "weights", name="shout")]))
    tuned = lake["model_events"].read().row(0, named=True)
    tuned |= {"model_path": tuned["version"]}
    names = {
        "lake": lake, "spec": spec, "people": asked, "scores": scores, "free": free, "everything": everything,
        "merged": everything, "means": evaluate.summary(everything, by="report", groups=asked), "tuned": tuned,
        "known": None,
        "begun": [],
        "standing": None,
        "evaluate": evaluate, "models": models, "pairwise": pairwise, "stats": stats, "trivial": trivial, "pl": pl,
    }  # fmt: skip
    return play("5_evaluate", root, only=("parameters", "compare", "worst", "gate"), given_names=names, **given)


def everybody_votes(lake, *, better, who=("Ada", "Bo")):
    pairs = lake["arm_pairs"].read()
    desk = pairwise.Desk(pairs, votes=lake["arm_votes"].read, store=lake["arm_votes"].append)
    for name in who:
        for item in desk.take(name, 99):
            side = "left" if item["left"].startswith(better) else "right"
            event = {"event_id": f"{name} {item['custom_id']}", "custom_id": item["custom_id"], "decision": side}
            desk.decide([event | {"shown_sha256": item["shown_sha256"], "dwell_ms": 3_000}], name)


def test_people_overrule_the_scorers_where_the_gate_asks_for_them(recorded, root, capsys):
    given = {"n_arm_pairs": N, "gate_by": "people", **ANY}
    first = evaluated(recorded, root, gain=-0.2, **given)
    assert first["gate"]["verdict"] == "insufficient evidence"
    assert "nobody has compared any of 12 pairs yet" in capsys.readouterr().out
    everybody_votes(recorded, better="finetuned to")
    second = evaluated(recorded, root, gain=-0.2, **given)
    assert second["gate"]["verdict"] == "promote"
    assert recorded["arm_pairs"].rows == N, "the same answers are the same pairs"
    out = capsys.readouterr().out
    assert out.count("finetuned over baseline        1.000  [1.000, 1.000]   n 12 pairs, 24 votes (0 ties)") == 2
    assert "agreement 1.000, alpha unknown, 1.2 minutes" in out
    by_scorers = evaluated(recorded, root, gain=-0.2, n_arm_pairs=N)
    assert by_scorers["gate"]["verdict"] == "hold"
    events = models.Registry(recorded).events()
    gates = events.filter(event="gate")["verdict"].to_list()
    assert gates == ["insufficient evidence", "promote", "hold"]
    assert events.filter(event="alias").height == 1


@pytest.mark.parametrize(("compare", "first"), [("samples", "c"), ("arms", "t")])
def test_the_notebook_of_review_shows_pairs_and_journals_their_votes(recorded, root, monkeypatch, compare, first):
    monkeypatch.setenv("ARISLAB_ROOT", str(root))
    lake = recorded
    curate(root)
    evaluated(lake, root, gain=0.2, n_arm_pairs=N)
    given = {"task": str(root / "shout.py"), "compare": compare, "reviewer": "Ada"}
    panel = play("review", root, **given)["panel"]
    items = panel.ahead(99)
    assert len(items) == N
    shown = [core.item(item) for item in items]
    at, nothing = datetime.now(UTC).isoformat(), {"labels": [], "ratings": {}, "category": None, "note": None}
    events = [
        nothing | {
            "event_id": f"e{i}", "custom_id": item["custom_id"], "decision": "left", "shown_sha256": item["shown"],
            "asked_sha256": item["asked"], "client_seq": i + 1, "shown_at": at, "decided_at": at, "dwell_ms": 900,
        }
        for i, item in enumerate(shown)
    ]  # fmt: skip
    assert panel.hear([core.event(event) for event in events])[1] == {}
    assert not lake["arm_votes"].exists, "not a commit a vote"
    again = play("review", root, **given)
    assert again["panel"].ahead(99) == []
    votes = lake["arm_votes"].read()
    assert (lake["arm_votes"].version, votes.height, lake["reviews"].exists) == (0, N, False)
    pairs = lake["arm_pairs"].read().join(votes, on="pair_id", how="semi")
    assert pairs["candidate_id"].str.starts_with(first).all()


def test_the_arms_that_people_compare_are_given_as_words():
    known = parameters_of(CHECKOUT / "notebooks" / "5_evaluate.ipynb")
    given = {"compared_arms": "icl+finetuned,finetuned", "n_arm_pairs": "50", "n_people": "3", "gate_by": "people"}
    expected = {"compared_arms": ["icl+finetuned", "finetuned"], "n_arm_pairs": 50, "n_people": 3, "gate_by": "people"}
    assert convert(known, given) == expected


def test_without_pairs_phase_5_is_as_before(recorded, root, capsys):
    names = evaluated(recorded, root, gain=0.2, **ANY)
    assert names["gate"]["verdict"] == "promote"
    assert not recorded["arm_pairs"].exists
    assert "what people prefer" not in capsys.readouterr().out
    assert pairwise.headline(names["preferred"]) == {}
    with pytest.raises(ParameterError, match="no pair of these"):
        evaluated(recorded, root, gain=0.2, gate_by="people")
