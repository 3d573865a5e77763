"""From reviews to a quality that people would agree with: phases, panel and record, as a user goes through them."""

import json
import random

import polars as pl
import pytest
from toys import arislab, play

from arislab import curate, review, runs, scoring, task
from arislab.curate import learned
from arislab.errors import ParameterError
from arislab.lake import Lake

TASK = """
SYSTEM = "Add."


def to_messages(candidate):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate["profile"]["input"]}]


def polite(output):
    return output.count("please") / 9


def sure(output):
    return output.count("!") / 9


SCORERS = {"polite": polite, "sure": sure}
WEIGHTS = {"polite": 50, "sure": 1}
GOLD = [{"output": "pleasepleasepleasepleasepleasepleasepleasepleaseplease!!!!!!!!!"}]
"""
N = 420


def is_good(output):
    """What the reviewer goes by: how sure an answer is, and a little luck; not how polite, which the rules pay for."""
    return output.count("!") + len(output) % 4 >= 6


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    (tmp_path / "sums.py").write_text(TASK)
    rng = random.Random(0)
    names = [f"{i:04d}" for i in range(N)]
    answers = [
        "please" * rng.randrange(10)
        + f" {rng.getrandbits(60):x} {rng.getrandbits(50):x} gives {rng.getrandbits(40):x}"
        + "!" * rng.randrange(10)
        for _ in names
    ]
    lake = Lake(tmp_path / "data" / "lake")
    asked = [f"{rng.getrandbits(60):x} and {rng.getrandbits(60):x}?" for _ in names]
    lake["candidates"].upsert(
        pl.DataFrame(
            {
                "candidate_id": [f"c-{n}" for n in names], "profile": [json.dumps({"input": text}) for text in asked],
                "group_id": [f"g-{n}" for n in names], "split": "train", "category": ["even", "odd"] * (N // 2),
            }
        )
    )  # fmt: skip
    lake["training_data_raw"].upsert(
        pl.DataFrame(
            {
                "custom_id": [f"r-{n}" for n in names], "candidate_id": [f"c-{n}" for n in names], "task": "sums",
                "sample": 0, "input": asked, "llm_output": answers, "model": "m", "status": "ok",
                "messages": [json.dumps([{"role": "user", "content": text}]) for text in asked],
            },
            schema_overrides={"sample": pl.Int32},
        )
    )  # fmt: skip
    return tmp_path


def curated(root, **given):
    return play("2_curate", root, task=str(root / "sums.py"), max_scorer_failures=0.0, **given)


def test_of_all_texts_a_queue_reads_those_that_it_drew(root):
    curated(root)
    lake, read = Lake(root / "data" / "lake"), []
    kept = lake["training_data_curated"].read()

    def raw(ids):
        read.extend(ids)
        return lake["training_data_raw"].read(where={"custom_id": ids})

    spec = task.load(root / "sums.py")
    scored = curate.newest(lake["training_data_scored"].read(), spec)
    show = curate.showing(scored, raw, lake["candidates"].read(), curated=kept, task=spec)
    queue = review.queue(curate.drawable(scored, kept), lake["reviews"].read(), n=20, seed=3, show=show)
    below = queue.filter(why="below the cut")["custom_id"].to_list()
    assert (queue.height, len(below), sorted(read)) == (20, 6, sorted(below))  # what was kept stands in its own table


def reviewed(root, n):
    """Queue and panel as the review notebook makes them; decide on n rows by ``is_good``."""
    names = play("review", root, task=str(root / "sums.py"), n_review=n, reviewer="Ada")
    panel = names["panel"]
    assert isinstance(panel, review.Panel)
    while panel.current is not None:
        assert panel.approve() if is_good(panel.current["output"]) else panel.reject()
    Lake(root / "data" / "lake").collect()  # as a run does when it begins
    return names["queue"]


@pytest.mark.slow
def test_reviews_become_the_quality_and_say_what_the_cut_is_worth(root):
    first = curated(root)
    assert first["labels"].frame.is_empty()
    assert first["worth"].row(1)[2:5] == (0.0, 1.0, 0)
    queue = reviewed(root, 150)
    # a quarter of the 84 kept ones lies near the cut: all of both kinds, and the rest from below
    assert dict(queue.group_by("why").len().iter_rows()) == {"below the cut": 66, "near the cut": 21, "kept": 63}

    lake = Lake(root / "data" / "lake")
    raw = lake["training_data_raw"].read()
    truth = raw.select("custom_id", good=pl.col("llm_output").map_elements(is_good, pl.Boolean))
    by_rules = curated(root)
    assert by_rules["labels"].frame.height == 150
    best = curate.keep_top(by_rules["unique"], fraction=0.2, seed=1)  # what people approved below it is kept too
    frame = best.frame.join(truth, on="custom_id")
    assert by_rules["cut"].n_kept > best.n_kept == 84
    numbers = {row["what"]: row for row in by_rules["worth"].to_dicts()}
    for what, true in (
        ("approved of all rows", frame["good"].mean()),
        ("precision of the kept", frame.filter("kept")["good"].mean()),
        ("recall of the approved", frame.filter("good")["kept"].mean()),
    ):
        assert numbers[what]["low"] - 1e-9 <= true <= numbers[what]["high"] + 1e-9, what

    # every row of the cut has a label
    assert numbers["precision of the kept"]["low"] == pytest.approx(frame.filter("kept")["good"].mean())
    given = {"task": str(root / "sums.py"), "quality_from": "people", "keep_approved": False}
    by_people = runs.execute("curate", given, root=root)
    assert by_people.status == "ok", by_people.reason
    scored = lake["training_data_scored"].read().filter(pl.col("scorer_version").str.contains("+", literal=True))
    curated_now = lake["training_data_curated"].read()
    kept = truth.join(curated_now, on="custom_id", how="semi")
    assert (scored.height, kept.height) == (N, 84)
    assert kept["good"].mean() > 0.95, "the rules paid for politeness; people did not"
    assert scored["quality_rules"].null_count() == 0
    assert by_people.headline["quality_from"] == "people"
    assert by_people.headline["precision"]["mean"] > numbers["precision of the kept"]["high"]
    folder = root / "papermill_runs" / by_people.run_id
    assert json.loads((folder / learned.RECORDED).read_text())["signals"] == ["score_sure"]
    assert "of the 84 kept rows would be kept by the rules too" in (folder / "log.txt").read_text(encoding="utf-8")
    assert "V2 equal" in arislab("verify", "curate", root=root)


@pytest.mark.slow
def test_what_people_approved_stays_when_less_is_kept(root):
    curated(root, keep_fraction=1.0)
    queue = reviewed(root, 60)
    good = set(queue.filter(pl.col("output").map_elements(is_good, pl.Boolean))["custom_id"])
    rows = curated(root, keep_fraction=0.05)["curated"]
    assert set(rows.filter("approved")["custom_id"]) == good
    assert rows.height > len(good)
    names = curated(root, keep_fraction=0.05, keep_approved=False)
    assert names["lost"].height == len(good) - names["curated"]["approved"].sum() > 0


@pytest.mark.slow
def test_a_precision_is_promised_or_refused(root):
    curated(root)
    reviewed(root, 150)
    names = curated(root, quality_from="people", keep_rule="precision", keep_precision=0.7)
    assert "of which 0.7 are approved (promised" in names["cut"].rule
    with pytest.raises(ParameterError, match="cannot be promised with 150 labels"):
        curated(root, keep_rule="precision", keep_precision=0.99)


@pytest.mark.slow
def test_edited_answers_are_labels_of_what_they_were_and_kept_as_they_are(root):
    curated(root)
    names = play("review", root, task=str(root / "sums.py"), n_review=60, reviewer="Ada")
    panel = names["panel"]
    edited = panel.current["custom_id"]
    assert panel.edit("please 1 gives 1!!!!!!!!!")
    while panel.current is not None:
        assert panel.approve()
    Lake(root / "data" / "lake").collect()
    after = curated(root)
    told = dict(after["labels"].frame.select("custom_id", "good").rows())
    assert (told.pop(edited), set(told.values())) == (False, {True})
    came = scoring.as_came(after["scored"], after["came"], after["spec"]).filter(custom_id=edited)
    now = after["scored"].filter(custom_id=edited)
    assert (came["score_sure"].item(), now["score_sure"].item()) != (1.0, 1.0)
    assert now["score_sure"].item() == 1.0
