"""Phase 1 may show examples, and later phases train on the prompt without them."""

import json

import polars as pl
import pytest
from toys import arislab, people

from arislab import batch, curate, icl
from arislab.errors import ParameterError
from arislab.lake import Lake
from arislab.task import load

TURNS = [("candidate one", "ONE"), ("candidate two", "TWO")]


def said(text):
    return json.dumps([{"role": "user", "content": text}])


def lines(folder, *rows):
    path = folder / "gold.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_the_examples_of_a_file_stand_between_instructions_and_question(tmp_path, task_file):
    path = lines(tmp_path, {"input": "candidate one", "output": "ONE"}, "", {"input": "candidate two", "output": "TWO"})
    shown = icl.of_file(path)
    assert list(shown.turns) == TURNS
    assert shown.name.startswith("gold.jsonl-")
    assert repr(shown) == f"2 examples are shown ({shown.name})"
    messages = shown.over(load(task_file).to_messages)({"profile": {"text": "three"}})
    assert [m["content"] for m in messages] == ["Shout.", "candidate one", "ONE", "candidate two", "TWO", "three"]
    path.write_text(path.read_text().replace("TWO", "2"))
    assert icl.of_file(path).name != shown.name, "other examples are another set"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"input": "a"}'], "line 1 of .* is no example; one is"),
        ([{"input": "a", "output": "b"}, "{"], "line 2 of .* is no example"),
        ([{"input": "a", "output": " "}], "line 1 of .* is no example"),
        (["[1]"], "line 1 of .* is no example"),
        ([""], "holds no example; leave examples empty to show none"),
    ],
)
def test_what_is_no_example_is_refused_with_its_line(tmp_path, rows, message):
    with pytest.raises(ParameterError, match=message):
        icl.of_file(lines(tmp_path, *rows))
    with pytest.raises(ParameterError, match=r"examples must be icl, or a file .* there is no such file"):
        icl.of_file(tmp_path / "missing.jsonl")


def test_rows_keep_what_was_shown_and_the_prompt_without_it(task_file):
    task, written = load(task_file), []
    shown = icl.Shown("set-1", TURNS)
    how = {"model": "m", "samples": 2}
    asked = batch.build_requests(people(3), shown.over(task.to_messages), **how)
    prompts = batch.build_requests(people(3), task.to_messages, **how)
    write = shown.marking(written.append, asked, plain=prompts["messages"])
    other = {"custom_id": ["r-of-before"], "llm_output": ["X"]}
    rows = pl.concat([asked.select("custom_id", llm_output=pl.lit("A")), pl.DataFrame(other)])
    write(rows.with_columns(shown=pl.lit(None, dtype=pl.String)))
    (marked,) = written
    assert marked["custom_id"].to_list() == rows["custom_id"].to_list()
    assert marked["shown"].to_list() == ["set-1"] * 6 + [None]
    assert marked["plain"].to_list() == [*prompts["messages"], None]
    assert icl.Shown().marking(written.append, asked, plain=prompts["messages"]) == written.append


def test_examples_are_made_of_the_plain_prompt_and_name_their_round(task_file):
    raw = pl.DataFrame(
        {
            "custom_id": ["a", "b"], "candidate_id": ["c0000", "c0001"], "task": "shout", "input": "q", "model": "m",
            "messages": [said("SHOWN"), said("q")], "plain": [said("q"), None], "shown": ["set-1", None],
            "output": "A", "quality": 0.5, "metadata": None,
        }
    )  # fmt: skip
    made = curate.examples(curate.plain(raw), people(2).with_columns(split=pl.lit("train")), load(task_file))
    assert [json.loads(m)[0]["content"] for m in made["messages"]] == ["q", "q"]
    assert [json.loads(m).get("shown") for m in made["metadata"]] == ["set-1", None]
    assert curate.plain(raw.drop("plain")).equals(raw.drop("plain"))
    assert curate.rounds(raw) == "1 of m, without examples; 1 of m, shown set-1"


def test_the_control_is_of_the_same_prompt():
    train = people(8).with_columns(split=pl.lit("train"))
    rows = train.select("candidate_id", custom_id=pl.concat_str(pl.lit("r-"), "candidate_id")).with_columns(
        model=pl.lit("m"), status=pl.lit("ok"), llm_output=pl.lit("A"), shown=pl.Series(["s"] * 5 + [None] * 3)
    )
    of = {"heldout": rows.clear(), "n": 99}
    assert set(curate.draw(rows, train, curated=rows.head(1), **of)) == set(rows["custom_id"].head(5))
    assert set(curate.draw(rows, train, curated=rows.tail(1), **of)) == set(rows["custom_id"].tail(3))


@pytest.mark.slow
def test_phases_1_2_and_4_distil_a_prompt_with_examples(tmp_path):
    """Through the notebooks, on the embedded model: answers are better with examples, and trained without them."""
    root, gold = tmp_path / "root", tmp_path / "gold.jsonl"
    few = ["-p", "n_candidates", "60", "-p", "n_dry_run", "8"]
    arislab("run", "generate", *few, root=root)
    arislab("run", "curate", "-p", "keep_fraction", "0.1", root=root)
    lake = Lake(root / "data" / "lake")
    best = lake["training_data_curated"].read().sort("quality_score", descending=True).head(3)
    gold.write_text("\n".join(json.dumps(row) for row in best.select("input", "output").to_dicts()))
    arislab("run", "generate", *few, "-p", "examples", str(gold), root=root)
    raw = lake["training_data_raw"].read()
    shown = raw.filter(pl.col("shown").is_not_null())
    assert (raw.height, shown.height) == (120, 60), "those of the dry run are marked too"
    name = icl.of_file(gold).name
    gold.unlink()  # the record has a copy
    assert "V2 equal" in arislab("verify", "generate", root=root)
    assert shown["shown"].unique().to_list() == [name]
    asked = [(json.loads(sent), json.loads(plain)) for sent, plain in shown.select("messages", "plain").iter_rows()]
    assert all(len(sent) == len(plain) + 6 and sent[-1] == plain[-1] and sent[0] == plain[0] for sent, plain in asked)
    before = raw.filter(pl.col("shown").is_null())
    assert {json.dumps(plain) for _, plain in asked} == {json.dumps(json.loads(m)) for m in before["messages"]}
    arislab("run", "curate", "-p", "keep_fraction", "0.3", root=root)
    curated = lake["training_data_curated"].read()
    prompts = {row["custom_id"]: row for row in raw.to_dicts()}
    kept = [(row, prompts[row["custom_id"]]) for row in curated.to_dicts()]
    assert any(source["shown"] for _, source in kept)
    assert all(json.loads(row["messages"]) == json.loads(source["plain"] or source["messages"]) for row, source in kept)
    quality = lake["training_data_scored"].read().join(raw.select("custom_id", "shown"), on="custom_id")
    means = {
        bool(shown): mean
        for shown, mean in quality.group_by(pl.col("shown").is_not_null()).agg(pl.col("quality").mean()).iter_rows()
    }
    assert means[True] > means[False] + 0.1, means
