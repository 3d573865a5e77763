"""A table that is too large for memory is imported and curated from disk, and comes out equal bit for bit."""

import json
import random

import polars as pl
import pytest
from toys import arislab, play

from arislab.curate.selection import near_duplicates
from arislab.lake import Lake, digests
from arislab.system import spilled

TASK = """
SYSTEM = ""


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]


def category(candidate):
    return candidate["profile"]["input"].split()[1]


def long(output):
    return min(1, len(output) / 400)


def agrees(output, others):
    return None if not others else sum(o[:24] == output[:24] for o in others) / len(others)


def level(output, level=None):
    return None if level is None else int(level) / 5


SCHEMA = {"type": "object", "required": ["says"]}
SCORERS = {"long": long, "agrees": agrees, "level": level}
WEIGHTS = {"long": 0.5, "agrees": 0.3, "level": 0.2}
GOLD = [{"output": "x" * 400, "others": ["x" * 400], "level": "5"}]
"""
N = 2_600


def outputs():
    """Answers of two models in JSON, some broken; a cluster of 400 near-copies; questions that several share."""
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 8))) for _ in range(900)]
    copied = chance.choices(words, k=60)
    for i in range(N):
        kind = ("Why", "How", "Where")[i % 3]
        said = chance.choices(words, k=chance.randint(20, 70))
        question = f"About {kind} number-{i // 2}: {' '.join(chance.choices(words, k=12))}"
        if i % 7 == 0:
            said = [*copied[: i % 50], chance.choice(words), *copied[i % 50 + 1 :]]
            question = f"About {kind} the {i % 11} of the copied"
        text = json.dumps({"says": " ".join(said)})
        yield {
            "q": question,
            "a": "" if i % 97 == 0 else text.replace('"', "'") if i % 13 == 0 else text,
            "m": f"m{i % 2}",
            "level": str(i % 6),
        }


def write(file):
    rows = list(outputs())
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        pl.DataFrame(rows).write_csv(file)
    else:
        pl.DataFrame(rows).write_parquet(file)


def imported(root, file, task):
    columns = ["--input", "q", "--output", "a", "--model", "m", "--keep", "level"]
    arislab("import", file, "--as", "outputs", "--task", task, *columns, root=root)


def contents(root):
    lake = Lake(root / "data" / "lake")
    return {name: digests.columns(name, lake[name].read()) for name in lake.tables()}


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "told.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Goes through both ways of holding rows: name of the way, and its root."""

    def each():
        for where, large in (("memory", spilled.LARGE), ("disk", 1)):
            monkeypatch.setattr(spilled, "LARGE", large)
            monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / where))
            yield where, tmp_path / where

    return each


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_import_from_disk_is_that_in_memory(kind, task, tmp_path, places):
    file = tmp_path / f"outputs.{kind}"
    write(file)
    tables = {}
    for where, root in places():
        imported(root, file, task)
        tables[where] = contents(root)
    assert tables["disk"] == tables["memory"]
    assert tables["disk"].keys() == {"candidates", "training_data_raw"}


def test_a_curation_from_disk_is_that_in_memory(task, tmp_path, places):
    file = tmp_path / "outputs.parquet"
    write(file)
    tables = {}
    for where, root in places():
        imported(root, file, task)
        names = play("2_curate", root, task=str(task), repair=True, max_share=0.5, seed=3)
        assert names["n_repaired"] > 50
        assert names["marked"]["duplicate_of"].count() > 200
        tables[where] = contents(root)
    assert tables["disk"] == tables["memory"]
    assert {"training_data_scored", "training_data_curated"} <= tables["disk"].keys()


def test_ten_thousand_near_copies_are_found_from_disk_as_in_memory(monkeypatch):
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=5)) for _ in range(900)]
    copied = chance.choices(words, k=60)
    texts = [" ".join([*copied[: i % 60], chance.choice(words), *copied[i % 60 + 1 :]]) for i in range(10_000)]
    texts += [" ".join(chance.choices(words, k=60)) for _ in range(3_000)]
    chance.shuffle(texts)
    rows = (
        pl.DataFrame({"output": texts})
        .with_row_index("quality")
        .select("output", pl.col("quality").cast(pl.Float64), custom_id=pl.col("quality").cast(pl.String))
    )
    in_memory = near_duplicates(rows, on=["output"])
    monkeypatch.setattr(spilled, "LARGE", 1)
    assert near_duplicates(spilled.frame(rows), on=["output"]).equals(in_memory)
    assert (in_memory["duplicate_of"].count(), in_memory["duplicate_of"].drop_nulls().n_unique()) == (9_999, 1)


def test_a_file_for_which_no_disk_has_room_is_refused_whole(task, tmp_path, monkeypatch):
    file, root = tmp_path / "outputs.jsonl", tmp_path / "root"
    write(file)
    monkeypatch.setattr(spilled, "LARGE", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    columns = ["--input", "q", "--output", "a", "--model", "m"]
    said = arislab("import", file, "--as", "outputs", "--task", task, *columns, root=root, ok=False)
    assert "let TMPDIR name a folder" in said
    assert "Traceback" not in said
    assert not Lake(root / "data" / "lake").tables()
    monkeypatch.delenv("TMPDIR")
    imported(root, file, task)
    assert Lake(root / "data" / "lake")["training_data_raw"].rows == N
