"""`arislab import` as a user types it, and what it says."""

import json

import polars as pl
import pytest
from toys import arislab

from arislab import curate, review
from arislab.errors import PrerequisiteError
from arislab.inputs import importing
from arislab.lake import Lake
from arislab.task import load

READ = {"encoding": None, "separator": None, "types": {}, "lenient": False}
PEOPLE = "badge,firm,text\n" + "".join(
    f"{i:03},f{i % 7},does thing {i} and {i * 37} of {i * 91} all day\n" for i in range(60)
)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "data" / "lake", run_id="t")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def people(lake, path, text=PEOPLE, *, id="badge", task=None, dry_run=False, **how):
    return importing.candidates(lake, write(path / "people.csv", text), task, id=id, read=READ, dry_run=dry_run, **how)


def asked_about(lake, *names):
    """Record an answer about some candidates."""
    rows = [{"custom_id": f"r-{n}", "candidate_id": n, "task": "t", "status": "ok", "llm_output": "a"} for n in names]
    lake["training_data_raw"].upsert(pl.DataFrame(rows))


def test_the_command_says_what_it_did_and_a_dry_run_writes_nothing(tmp_path):
    file = write(tmp_path / "people.csv", "badge;years;firm\n007;1.50;A\n010;3;B\n")
    command = ["import", file, "--as", "candidates", "--id", "badge", "--type", "years=float", "--group", "firm"]
    printed = arislab(*command, "--dry-run", root=tmp_path)
    assert printed.startswith("2 candidates = 2 new + 0 replaced; 2 groups\nsplits: ")
    assert "read from people.csv: every value as text; separator semicolon; years as float" in printed
    assert "columns: badge, years, firm; none dropped" in printed
    assert 'first row: 007: {"badge":"007","years":1.50,"firm":"A"}' in printed
    assert printed.endswith("dry run: nothing was written\n")
    assert not (tmp_path / "data" / "lake").exists()
    again = arislab(*command, root=tmp_path)
    assert again == printed.removesuffix("dry run: nothing was written\n")
    assert Lake(tmp_path / "data" / "lake")["candidates"].read()["candidate_id"].sort().to_list() == ["007", "010"]


def test_outputs_are_imported_with_what_was_kept_and_dropped(tmp_path):
    file = write(tmp_path / "o.csv", "q,a,level,extra\nWhat?,00012,7,x\n")
    columns = ["--input", "q", "--output", "a", "--keep", "level", "--task", "instruction_following"]
    printed = arislab("import", file, "--as", "outputs", *columns, root=tmp_path)
    assert printed.startswith("1 outputs = 1 ok; samples of 1 candidates in 1 groups\n")
    assert "columns: q, a, level; dropped: extra" in printed
    assert "first row: What? -> 00012" in printed
    raw = Lake(tmp_path / "data" / "lake")["training_data_raw"].read()
    assert raw.select("llm_output", "metadata").rows() == [("00012", '{"level":"7"}')]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as", "people"], "--as must be candidates, outputs or examples"),
        (["--as", "candidates"], "needs --id COLUMN"),
        (["--as", "candidates", "--id", "q", "--keep", "a"], "--keep means nothing for --as candidates"),
        (["--as", "outputs"], "needs --task NAME"),
        (
            ["--as", "outputs", "--task", "instruction_following", "--group", "q"],
            "--group means nothing for --as outputs",
        ),
        (["--as", "outputs", "--task", "instruction_following"], "needs --input COLUMN and --output COLUMN"),
        (["--as", "outputs", "--task", "instruction_following", "--author", "Ada"], "--author means nothing for --as"),
        (["--as", "examples", "--task", "instruction_following"], "needs --author NAME: who wrote them"),
        (["--as", "examples", "--task", "instruction_following", "--model", "m"], "--model means nothing for --as"),
        (["--as", "examples", "--author", "Ada"], "--as examples needs --task NAME"),
        (["--as", "outputs", "--task", "instruction_following", "--requests", "x", "--id", "q"], "--id means nothing"),
        (["--as", "candidates", "--id", "q", "--type", "int"], "--type must be NAME=TYPE, got 'int'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    printed = arislab("import", write(tmp_path / "o.csv", "q,a\n1,2\n"), *options, root=tmp_path, ok=False)
    assert message in printed
    assert "Traceback" not in printed


def test_a_split_without_candidates_is_a_warning_at_import(lake, tmp_path):
    lines = people(lake, tmp_path, "badge,part\na,train\nb,test\n", split="part")
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: the validation split has none of these candidates; "
        "phases 3 to 5 need some: import more, or give --split"
    ]
    assert not [line for line in people(lake, tmp_path) if line.startswith("warning")]


def test_a_column_split_that_decides_nothing_is_a_warning(lake, tmp_path):
    lines = people(lake, tmp_path, "badge,split\na,test\nb,test\n")
    assert any("column 'split', which decides nothing; give --split split" in line for line in lines)


def test_a_task_that_asks_about_the_candidates_finds_near_duplicates(lake, tmp_path):
    text = "id,gold,input\n" + "".join(
        f"p{i},gold {i} {i * 3} {i * 5} {i * 7},Name a river in Austria please\n" for i in range(4)
    )
    lines = people(lake, tmp_path, text, id="id", task=load("instruction_following"))
    assert lines[0] == "4 candidates = 4 new + 0 replaced; 1 groups"
    assert not any("--task NAME" in line for line in lines)


def test_group_of_known_candidates_counts_until_outputs_are_recorded(lake, tmp_path):
    people(lake, tmp_path)
    lines = people(lake, tmp_path, group="firm")
    assert lines[0] == "60 candidates = 0 new + 60 replaced; 7 groups"
    other = Lake(tmp_path / "other", run_id="t")
    people(other, tmp_path)
    before = dict(other["candidates"].read().select("candidate_id", "split").iter_rows())
    asked_about(other, "003", "010")
    lines = people(other, tmp_path, group="firm")
    assert any("--group 'firm' does not count for" in line and "'003' stays in '003'" in line for line in lines)
    after = dict(other["candidates"].read().select("candidate_id", "split").iter_rows())
    assert {n: after[n] for n in ("003", "010")} == {n: before[n] for n in ("003", "010")}


def test_a_split_never_moves_what_was_asked(lake, tmp_path):
    people(lake, tmp_path, "badge,part\na,train\nb,test\n", split="part")
    people(lake, tmp_path, "badge,part\na,test\nb,train\n", split="part")  # nobody was asked yet
    asked_about(lake, "a")
    with pytest.raises(PrerequisiteError, match=r"moves 1 candidates .* 'a' from test to train"):
        people(lake, tmp_path, "badge,part\na,train\nb,test\n", split="part")
    assert dict(lake["candidates"].read().select("candidate_id", "split").iter_rows()) == {"a": "test", "b": "train"}


def test_a_candidate_that_an_older_import_renamed_comes_into_its_group_and_split(lake, tmp_path):
    old = {
        "candidate_id": "7",
        "profile": '{"badge":7,"text":"x y","more":null}',
        "group_id": "g",
        "split": "validation",
    }
    lake["candidates"].upsert(pl.DataFrame([old]))
    lines = people(lake, tmp_path, "badge,text\n007,x y\n8,z\n")
    assert any(
        "1 candidates stand in the lake under a name that an older import changed ('7' for '007')" in line
        for line in lines
    )
    rows = lake["candidates"].read().sort("candidate_id").select("candidate_id", "group_id", "split").rows()
    assert rows[0] == ("007", "g", "validation")
    assert [row[0] for row in rows] == ["007", "7", "8"]


def test_a_profile_that_changes_is_said_where_outputs_are_recorded(lake, tmp_path):
    people(lake, tmp_path, "badge,text\na,one\nb,two\n")
    asked_about(lake, "a")
    lines = people(lake, tmp_path, "badge,text\na,one more\nb,two more\n")
    assert any("1 candidates for which outputs are recorded have another profile now" in line for line in lines)
    assert json.loads(lake["candidates"].read(where={"candidate_id": "a"})["profile"][0])["text"] == "one more"


def test_an_answer_that_an_older_import_respelled_is_said(lake, tmp_path):
    task = load("instruction_following")
    columns = {"input": "q", "output": "a", "read": READ}
    importing.outputs(lake, write(tmp_path / "o.csv", "q,a\nHow much?,1.5\nHow many?,12.0\n"), task, **columns)
    lines = importing.outputs(
        lake, write(tmp_path / "o.csv", "q,a\nHow much?,1.50\nHow many?,00012\n"), task, **columns
    )
    assert any(
        "2 answers stand in the lake as an older import spelled them ('1.5' for '1.50')" in line for line in lines
    )
    again = importing.outputs(
        lake, write(tmp_path / "o.csv", "q,a\nHow much?,1.50\nHow many?,00012\n"), task, **columns
    )
    assert not any("spelled" in line for line in again)
    assert lake["training_data_raw"].rows == 4


def test_what_is_imported_again_word_for_word_keeps_when_it_came(lake, tmp_path):
    task = load("instruction_following")
    columns = {"input": "q", "output": "a", "read": READ, "id": "who"}
    table = "who,q,a\nann,How much?,{}\nann,How many?,12\nbob,Why?,\n"
    importing.outputs(lake, write(tmp_path / "o.csv", table.format("1.5")), task, **columns)
    first = dict(lake["training_data_raw"].read().select("input", "created_at").iter_rows())
    importing.outputs(lake, write(tmp_path / "o.csv", table.format("1.5")), task, **columns)
    assert dict(lake["training_data_raw"].read().select("input", "created_at").iter_rows()) == first
    importing.outputs(lake, write(tmp_path / "o.csv", table.format("1.6")), task, **columns)
    rows = lake["training_data_raw"].read().filter(pl.col("created_at") > max(first.values()))
    assert rows.select("input", "llm_output").rows() == [("How much?", "1.6")]
    assert lake["training_data_raw"].rows == 4  # what was said before stays


def test_a_conversation_that_an_older_import_cut_moves_to_its_candidate_in_the_same_split(lake, tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": q} for q in ("First?", "Go on.")]}
    body["messages"].insert(1, {"role": "assistant", "content": "Yes."})
    line = {"choices": [{"finish_reason": "stop", "message": {"content": "So."}}]}
    ask = write(tmp_path / "in.jsonl", json.dumps({"custom_id": "x", "body": body}))
    results = write(
        tmp_path / "out.jsonl", json.dumps({"custom_id": "x", "response": {"status_code": 200, "body": line}})
    )
    task = load("instruction_following")
    importing.batch(lake, results, task, requests=ask)
    raw = lake["training_data_raw"].read()
    old = {"candidate_id": "c-old", "profile": '{"input":"Go on."}', "group_id": "c-old", "split": "test"}
    fresh = Lake(tmp_path / "fresh", run_id="t")
    fresh["candidates"].upsert(pl.DataFrame([old]))
    fresh["training_data_raw"].upsert(raw.with_columns(candidate_id=pl.lit("c-old")))
    lines = importing.batch(fresh, results, task, requests=ask)
    assert any("1 rows of an older import are samples of another candidate now" in line for line in lines)
    rows = fresh["candidates"].read().filter(pl.col("candidate_id") != "c-old").select("group_id", "split").rows()
    assert rows == [("c-old", "test")]


def outputs(lake, path, *lines, **how):
    file = write(
        path / "o.jsonl", "\n".join(json.dumps(dict(zip(("who", "q", "a"), line, strict=True))) for line in lines)
    )
    return importing.outputs(lake, file, load("instruction_following"), input="q", output="a", read=READ, **how)


def test_candidates_with_several_questions_are_said_with_what_that_means(lake, tmp_path):
    lines = [("Ann", "Why is it dark?", "x"), ("Ann", "How far is Mars?", "y"), ("Bo", "How far is Mars?", "z")]
    printed = outputs(lake, tmp_path, *lines, id="who")
    line = next(line for line in printed if "several questions" in line)
    assert line.startswith("note: 1 candidates have several questions (first: Ann)")
    assert "of one group (the largest has 2)" in line
    printed = outputs(lake, tmp_path, lines[2], id="who")
    assert not any("several questions" in line for line in printed)
    printed = outputs(lake, tmp_path, lines[1], id="who")
    assert any("(first: Ann)" in line for line in printed), "the lake knows the other one"


def test_outputs_without_a_question_are_counted(lake, tmp_path):
    lines = outputs(lake, tmp_path, ("", None, "x"), ("", " \n", "y"), ("", "Why?", "z"))
    assert "warning: 2 outputs have no question (--input is null or blank)" in lines
    assert not any("no question" in line for line in outputs(lake, tmp_path, ("", "Why?", "z")))


def test_the_first_row_is_one_short_line(lake, tmp_path):
    name = "one\ntwo" + "x" * 900
    file = write(tmp_path / "p.jsonl", json.dumps({"n": name, "t": "a"}))
    line = next(s for s in importing.candidates(lake, file, None, id="n", read=READ) if s.startswith("first row"))
    assert line.startswith(r"first row: one\ntwoxxx")
    assert len(line.splitlines()) == 1
    assert len(line) < 400
    line = next(s for s in outputs(lake, tmp_path, ("", "a\nb", "c\rd")) if s.startswith("first row"))
    assert line == r"first row: a\nb -> c\rd"


def batch_lines(**answers):
    """Lines of a result file, by custom_id: a text is an answer, a number a status without one."""
    made = []
    for name, what in answers.items():
        body = (
            {"error": {"message": "slow"}}
            if isinstance(what, int)
            else {"choices": [{"finish_reason": "stop", "message": {"content": text}} for text in what.split("|")]}
        )
        response = {"status_code": what if isinstance(what, int) else 200, "body": body}
        made.append(json.dumps({"custom_id": name, "response": response}))
    return "\n".join(made)


@pytest.fixture
def import_results(lake, tmp_path):
    """Import one result file after another for the same requests.

    Returns the lines that are printed and the answers that are recorded, by the name of the request.
    """
    task = load("instruction_following")

    def importer(text, *, n=1, asks=("Ox?", "Hen?", "Elk?")):
        bodies = [{"model": "m", "n": n, "messages": [{"role": "user", "content": ask}]} for ask in asks]
        ask = [json.dumps({"custom_id": f"q{i}", "body": body}) for i, body in enumerate(bodies)]
        requests = write(tmp_path / "asked.jsonl", "\n".join(ask))
        lines = importing.batch(lake, write(tmp_path / "came.jsonl", text), task, requests=requests)
        rows = lake["training_data_raw"].read().sort("sample").to_dicts()
        recorded = {}
        for row in rows:
            name = json.loads(row["metadata"])["imported_custom_id"]
            recorded.setdefault(name, []).append(row["llm_output"] or json.loads(row["error"]).get("code", "no code"))
        return lines, recorded

    return importer


def test_an_error_file_after_its_output_file_wipes_no_answer(import_results):
    import_results(batch_lines(q0="An ox.", q1="A hen."))
    lines, recorded = import_results(batch_lines(q2=429))
    assert recorded == {"q0": ["An ox."], "q1": ["A hen."], "q2": ["no code"]}
    assert "note: 2 answers are recorded for requests to which this file has none; they are kept" in lines
    lines, recorded = import_results(batch_lines(q0=500, q1="A hen."))
    assert recorded == {"q0": ["An ox."], "q1": ["A hen."], "q2": ["no code"]}, "a missing line hides no reason"
    assert any(line.startswith("note: 1 answers are recorded") for line in lines)


@pytest.mark.parametrize("turn", [1, -1])
def test_parts_of_an_output_file_add_up_in_any_order(import_results, turn):
    parts = [batch_lines(q0="An ox."), batch_lines(q1="A hen.", q2="An elk."), batch_lines(q2=429)][::turn]
    for part in parts:
        lines, recorded = import_results(part)
    assert recorded == {"q0": ["An ox."], "q1": ["A hen."], "q2": ["An elk."]}
    assert not any("replaced by" in line for line in lines)


def test_another_answer_to_the_same_request_replaces_the_recorded_one_and_is_said(import_results):
    import_results(batch_lines(q0="An ox.", q1="A hen."))
    lines, recorded = import_results(batch_lines(q0="Cattle.", q1="A hen."))
    assert recorded["q0"] == ["Cattle."]
    assert any("1 recorded answers are replaced by other ones (first: 'An ox.' by 'Cattle.')" in line for line in lines)


def test_a_request_without_an_answer_moves_no_answer_of_its_equal(import_results):
    import_results(batch_lines(q1="x|y"), n=2, asks=("Same?", "Same?"))
    _, recorded = import_results(batch_lines(q0="v|w"), n=2, asks=("Same?", "Same?"))
    assert {name: sorted(texts) for name, texts in recorded.items()} == {"q0": ["v", "w"], "q1": ["x", "y"]}


def examples(lake, path, *lines, author="Ada", **how):
    return outputs(lake, path, *lines, id="who", author=author, **how)


DEMOS = [(f"d{i}", f"How does one make a {noun} by hand?", f"Take {noun}s apart first.") for i, noun in enumerate(
    ["chair", "kite", "lamp", "boat", "drum", "clock", "violin", "saddle", "basket", "ladder", "oven", "anchor"]
)]  # fmt: skip


def test_examples_that_people_wrote_are_all_for_training_and_approved_by_them(lake, tmp_path):
    lines = examples(lake, tmp_path, *DEMOS)
    assert lines[0] == "12 examples, approved by Ada"
    assert lake["candidates"].read()["split"].unique().to_list() == ["train"]
    reviews, raw = lake["reviews"].read(), lake["training_data_raw"].read()
    assert set(reviews["custom_id"]) == set(raw["custom_id"])
    assert reviews.select("reviewer", "decision").unique().rows() == [("Ada", "approve")]
    assert examples(lake, tmp_path, *DEMOS)[0] == "12 examples, approved by Ada"
    assert lake["reviews"].rows == 12, "once"
    task = load("instruction_following")
    kept = raw.rename({"llm_output": "output"}).with_columns(quality=pl.lit(0.1))
    curated = review.fold(curate.examples(kept, lake["candidates"].read(), task), reviews)
    assert curated["approved"].all()
    assert curated["reviewed_by"].unique().to_list() == ["Ada"]
    assert curate.approved(curated, reviews, approve="reviewed").height == 12


def test_an_example_like_a_test_candidate_is_none_and_moves_nobody(lake, tmp_path):
    known = [("t", DEMOS[0][1], "x"), ("u", DEMOS[1][1], "y")]
    outputs(lake, tmp_path, *known, id="who")
    people = lake["candidates"].read()
    lake["candidates"].upsert(people.with_columns(split=pl.lit("test")))
    before = lake["candidates"].read().select("candidate_id", "group_id", "split").sort("candidate_id")
    lines = examples(lake, tmp_path, *DEMOS, ("t", "Another question about something else entirely?", "z"))
    assert lines[0] == (
        "10 examples, approved by Ada; 3 are none: without an answer, or like a candidate that is kept unseen"
    )
    after = lake["candidates"].read()
    assert after.join(before, on="candidate_id", how="semi").select(before.columns).sort("candidate_id").equals(before)
    train = after.filter(split="train")["candidate_id"].to_list()
    assert sorted(train) == sorted(name for name, *_ in DEMOS[2:])
    approved = lake["reviews"].read()["custom_id"]
    raw = lake["training_data_raw"].read().filter(pl.col("custom_id").is_in(approved.implode()))
    assert sorted(raw["candidate_id"]) == sorted(train)


def test_a_dry_run_of_examples_approves_nothing(lake, tmp_path):
    assert not any("approved" in line for line in examples(lake, tmp_path, *DEMOS, dry_run=True))
    assert lake["reviews"].rows == 0
    assert lake["candidates"].rows == 0
