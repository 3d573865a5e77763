"""A cut that is decided in explore.ipynb is the cut that 2_curate makes: same rows, same numbers, same selection."""

import json
import random
import shlex

import polars as pl
import pytest
from toys import arislab, play

from arislab.errors import ParameterError
from arislab.lake import Lake
from arislab.records import find as records

pytestmark = pytest.mark.slow  # each goes on where the one before it ended

TASK = '''"""Task: name the capital, with a reason."""

SYSTEM = "Name the capital."


def to_messages(candidate):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate["profile"]["input"]}]


def difficulty(candidate):
    return (len(candidate["profile"]["input"]) % 5) / 4


def category(candidate):
    return candidate["profile"]["input"][0]


def short(output):
    return None if output.startswith("?") else max(0.0, 1 - len(output) // 30 / 20)


def even(output):
    return None if output.startswith("?") else output.count("a") % 2 == 0


SCORERS = {"short": short, "even": even}
WEIGHTS = {"short": 2, "even": 1}
GOLD = [{"output": "yes."}]
'''
SELECTION = 'length >= 30 and difficulty > 0 and model = "two" and length < 230'


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A lake of 300 answers of two models: with ties, near-duplicates, and some that no scorer can tell."""
    root = tmp_path_factory.mktemp("one_cut")
    (root / "capital.py").write_text(TASK)
    draw, lake = random.Random(3), Lake(root / "data" / "lake")
    words = [f"{one}{two}{three}" for one in "bdfgklm" for two in "aeiou" for three in "nrst"]
    questions = [f"{draw.choice('ABC')} capital of {' '.join(draw.sample(words, 5))}?" for _ in range(300)]
    answers = [" ".join(draw.choices(words, k=draw.randint(4, 60))) for _ in questions]
    for i in range(0, 300, 10):
        answers[i + 3 + i // 10 % 2] = "? " + answers[i]  # of either model
        questions[i + 1], answers[i + 1] = questions[i + 2], answers[i + 2]  # near-duplicates
    people = [
        {
            "candidate_id": f"c-{i:03d}", "profile": json.dumps({"input": question}), "group_id": f"g-{i:03d}",
            "split": "train", "use_case": "general",
        }
        for i, question in enumerate(questions)
    ]  # fmt: skip
    raw = [
        {
            "custom_id": f"r-{i:03d}", "candidate_id": f"c-{i:03d}", "task": "capital", "sample": 0, "input": question,
            "messages": json.dumps([{"role": "user", "content": question}]), "llm_output": text,
            "model": ("one", "two")[i % 2], "status": "ok", "request_sha256": f"{i}",
        }
        for i, (question, text) in enumerate(zip(questions, answers, strict=True))
    ]  # fmt: skip
    lake["candidates"].append(pl.DataFrame(people))
    lake["training_data_raw"].append(pl.DataFrame(raw))
    return root


@pytest.fixture
def here(root, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(root))
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    return {"task": str(root / "capital.py")}


@pytest.mark.parametrize("selection", ["", SELECTION, 'category in ("A", "C") and length < 200'])
@pytest.mark.parametrize("fraction", [0.2, 0.35])
def test_the_notebooks_keep_the_same_rows_and_count_the_same(here, root, selection, fraction):
    made = play("2_curate", root, selection=selection, keep_fraction=fraction, **here)
    cut = made["cut"]
    explorer = play("explore", root, selection=selection, keep_fraction=fraction, **here)["explorer"]
    assert set(explorer.cut.kept["custom_id"]) == set(cut.kept["custom_id"])
    assert repr(explorer.cut) == repr(cut)
    assert (explorer.cut.n, explorer.cut.n_unscored, explorer.cut.threshold) == (cut.n, cut.n_unscored, cut.threshold)
    assert cut.n_tied_at_cut > 1
    assert cut.n_unscored > 0
    assert explorer.n_copies == 30
    states = made["states"]
    assert states.get("not_selected", 0) == made["unique"].height - cut.n
    assert (states.get("not_selected", 0) > 0) == bool(selection)
    assert sum(states.values()) == 300
    assert "300 outputs = " in str(made["account"])


def test_the_command_of_the_explorer_curates_so_and_the_record_keeps_the_selection(here, root):
    explorer = play("explore", root, selection=SELECTION, **here)["explorer"]
    state = {"brushes": {"score_even": [49, 49]}, "cut": {"rule": "above", "threshold": 0.7, "fraction": 0.2}}
    told = explorer.settle(state | {"seq": 1})
    assert told["selection"] == SELECTION + " and score_even >= 0.98"
    arislab(*shlex.split(told["command"])[1:], root=root)
    (run, *_) = records.as_json(root)
    assert run["parameters"]["selection"] == told["selection"]
    assert run["headline"]["n_kept"] == explorer.cut.n_kept
    kept = Lake(root / "data" / "lake")["training_data_curated"].read()
    assert set(kept["custom_id"]) == set(explorer.cut.kept["custom_id"])
    shown = play("explore", root, selection=told["selection"], **here)["explorer"].page(0, 200)
    marks = {row["facts"][0] for row in shown["rows"]}
    assert marks == set(explorer.held["custom_id"])
    assert all(row["texts"][0][1][0][0].endswith("?") for row in shown["rows"])


def test_review_draws_from_the_selection_alone_and_marks_its_rows_as_picked(here, root):
    play("2_curate", root, **here)
    book = play("review", root, selection=SELECTION, n_review=500, reviewer="Ada", **here)
    explorer = play("explore", root, selection=SELECTION, **here)["explorer"]
    scored = explorer.held.filter(pl.col("quality").is_not_null())
    assert set(book["queue"]["custom_id"]) == set(scored["custom_id"])
    assert book["panel"].approve()
    lake = Lake(root / "data" / "lake")
    lake.collect()
    assert lake["reviews"].read().select("why", "queue", "inclusion_prob").row(0) == ("picked", None, None)
    again = play("explore", root, **here)
    assert again["labels"].frame.is_empty()
    assert again["labels"].n_picked == 1
    assert again["explorer"].worth.startswith("no labels")


def test_two_versions_of_the_scorers_are_compared_at_the_same_cut(here, root):
    play("2_curate", root, **here)
    first = play("explore", root, **here)
    (version,) = set(first["scored"]["scorer_version"])
    path = root / "capital.py"
    text = path.read_text()
    try:
        path.write_text(text.replace('{"short": 2, "even": 1}', '{"short": 9, "even": 1}'))
        play("2_curate", root, **here)
        second = play("explore", root, compare_with=version, **here)["explorer"]
        with pytest.raises(ParameterError, match="compare_with 'elsewhere' names 0 versions"):
            play("explore", root, compare_with="elsewhere", **here)
    finally:
        path.write_text(text)
    old, new = set(first["explorer"].cut.kept["custom_id"]), set(second.cut.kept["custom_id"])
    moves = second.moves
    assert set(moves.filter("kept_now")["custom_id"]) == new
    assert set(moves.filter("kept_before")["custom_id"]) == old
    assert second.moved.startswith(
        f"beside the version before: {len(new - old)} rows came in, {len(old - new)} went out"
    )
    assert new != old
    assert moves["change"].abs().drop_nulls().is_sorted(descending=True)
    assert len(second.widget.block) == 270 * (8 + len(second.widget.about["columns"]))


def test_a_selection_that_cannot_be_read_or_holds_nothing_stops_2_curate_before_it_writes(here, root):
    version = Lake(root / "data" / "lake")["training_data_curated"].version
    for selection, message in (("lenght < 3", "did you mean 'length'"), ("length < 3", "holds none of the")):
        with pytest.raises(ValueError, match=message):
            play("2_curate", root, selection=selection, **here)
    assert Lake(root / "data" / "lake")["training_data_curated"].version == version
