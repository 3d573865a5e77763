"""What people decided, from the first import to what is trained.

Through the cells of the notebooks, with lakes of a few rows.
"""

import json

import polars as pl
import pytest
from toys import arislab, play

from arislab import curate as curating
from arislab import finetune, icl, review
from arislab.curate import verdicts
from arislab.errors import ParameterError
from arislab.lake import Lake
from arislab.review import decisions
from arislab.task import load

TASK = '''"""Task: name the capital, with a reason."""
import json

SYSTEM = "Name the capital as JSON."
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string"}, "why": {"type": "string"}},
    "required": ["capital"],
}


def to_messages(candidate):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate["profile"]["input"]}]


def length(output):
    return min(1.0, len(output) / 400)


SCORERS = {"length": length}
WEIGHTS = {"length": 1}
GOLD = [{"output": "x" * 400}]
'''
LANDS = [
    "Peru",
    "Kenya",
    "Norway",
    "Laos",
    "Chad",
    "Cuba",
    "Iran",
    "Oman",
    "Mali",
    "Fiji",
    "Iraq",
    "Togo",
    "Nepal",
    "Gabon",
]
LANDS += [f"{one} of {n}" for n in ("old", "tomorrow") for one in LANDS]


def answer(land, *, words=12, tail=""):
    why = " ".join(f"{land.lower().replace(' ', '')}word{chr(97 + i)}" for i in range(words))
    return json.dumps({"capital": f"City of {land}", "why": why + tail})


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    (tmp_path / "capital.py").write_text(TASK)
    return tmp_path


def imported(root, answers, *, model="one"):
    """Record one answer of a model for each land; the requests stay the same, whatever came back."""
    lake = Lake(root / "data" / "lake")
    people = [
        {
            "candidate_id": f"c-{land}", "profile": json.dumps({"input": f"Capital of {land}?"}),
            "group_id": f"g-{land}",
            "split": "train", "use_case": "general",
        }
        for land in answers
    ]  # fmt: skip
    asked = [json.dumps([{"role": "user", "content": f"Capital of {land}?"}]) for land in answers]
    raw = [
        {
            "custom_id": f"r-{model}-{land}", "candidate_id": f"c-{land}", "task": "capital", "sample": 0,
            "input": f"Capital of {land}?",
            "messages": messages, "llm_output": text, "model": model, "status": "ok",
            "request_sha256": f"{model} {land}",
        }
        for messages, (land, text) in zip(asked, answers.items(), strict=True)
    ]  # fmt: skip
    lake["candidates"].upsert(pl.DataFrame(people))
    lake["training_data_raw"].upsert(pl.DataFrame(raw))
    return lake


def curate(root, **given):
    return play("2_curate", root, task=str(root / "capital.py"), **{"keep_fraction": 1.0} | given)


def decide(lake, kind, *, n=None, reviewer="Ada", **more):
    """Decide on waiting rows in the panel of the review notebook's lake."""
    curated, reviews = lake["training_data_curated"].read(), lake["reviews"].read()
    queue = review.queue(curated, reviews, n=curated.height, seed=1)
    panel = review.Panel(queue, reviewer=reviewer, decide=lake["reviews"].append, reviews=reviews, **more)
    rows = []
    while panel.current is not None and len(rows) < (n or queue.height):
        rows.append(panel.current)
        assert kind(panel)
    return pl.DataFrame(rows)


def approve(panel):
    return panel.approve()


def reject(panel):
    return panel.reject()


def trained(root, **given):
    """The texts that phase 4 writes to train on."""
    there = {"lake": Lake(root / "data" / "lake"), "spec": load(str(root / "capital.py"))}
    there |= {"curate": curating, "finetune": finetune}
    play("4_finetune", root, only=("parameters", "examples"), given_names=there, **given)
    lines = (root / "data" / "exports" / "finetuning_data.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


@pytest.mark.slow
def test_answers_that_are_imported_over_others_inherit_no_verdict(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:36]})
    curate(root)
    assert decide(lake, approve).height == 36
    names = curate(root)
    assert (names["curated"]["approved"].sum(), names["lost"].height) == (36, 0)
    imported(root, {land: answer(land, words=9) for land in LANDS[:36]})
    names = curate(root)
    assert names["curated"].height == 36
    assert names["curated"]["approved"].sum() == 0
    assert names["curated"]["reviewed_by"].null_count() == 36
    assert verdicts.in_words(names["lost"]) == f"WARNING: 36 approved answers are not kept: 36 {verdicts.STALE}"
    queue = review.queue(names["curated"], lake["reviews"].read(), n=36, seed=1)
    assert set(queue["stale"]) == {"approve"}
    imported(root, {land: answer(land) for land in LANDS[:36]})
    assert curate(root)["curated"]["approved"].sum() == 36, "the text that was approved is back"


@pytest.mark.slow
def test_a_repaired_answer_is_bound_to_the_text_that_was_shown(root):
    broken = {land: answer(land).replace('"', "'") for land in LANDS[:6]}
    lake = imported(root, broken)
    curate(root, repair=True)
    assert json.loads(decide(lake, approve)["output"][0]), "people see the repaired text"
    assert curate(root, repair=True)["curated"]["approved"].sum() == 6
    assert curate(root)["curated"]["approved"].sum() == 0, "nobody saw the answers as they came"
    imported(root, {land: text.replace("City", "Town") for land, text in broken.items()})
    assert curate(root, repair=True)["curated"]["approved"].sum() == 0


@pytest.mark.parametrize("policy", ["score", "reviewed"])
def test_phase_4_uses_every_decision_at_once(root, policy):
    lake = imported(root, {land: answer(land) for land in LANDS[:12]})
    curate(root)
    assert len(trained(root)) == 12, "all: of so few none is held out"
    good = decide(lake, approve, n=6)
    bad = decide(lake, reject)
    texts = trained(root, approve=policy)
    assert not set(texts) & set(bad["output"])
    assert set(texts) == set(good["output"])
    assert len(texts) == 6
    reviews = lake["reviews"].read()
    undone = reviews.filter(pl.col("decision") == "approve").head(3)
    for event in undone.to_dicts():
        row = {"custom_id": event["custom_id"]}
        lake["reviews"].append(decisions.event(row, "undo", reviewer="Ada", seen=reviews, undoes=event["event_id"]))
    taken_back = set(good.join(undone, on="custom_id", how="semi")["output"])
    texts = set(trained(root, approve=policy))
    assert (len(texts & taken_back) > 0) == (policy == "score"), "what waits again trains only under the policy score"
    assert not texts & set(bad["output"])


def test_phase_3_chooses_from_what_people_left_and_records_what_they_had_said_by_then(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:8]})
    curate(root)
    bad = decide(lake, reject, n=3)
    decide(lake, lambda panel: panel.edit(panel.current["output"].replace("City", "Town")), n=1)
    people = [
        {
            "candidate_id": f"v{i}",
            "profile": '{"input": "?"}',
            "group_id": f"v{i}",
            "split": "validation",
            "use_case": "general",
        }
        for i in range(20)
    ]
    lake["candidates"].upsert(pl.DataFrame(people))
    given = {"lake": lake, "spec": load(str(root / "capital.py")), "curate": curating, "icl": icl}
    names = play("3_icl", root, only=("parameters", "rows"), given_names=given)
    assert curating.data_version(names["versions"]) == "training_data_curated@0 reviews@3"
    assert names["pool"].height == 5
    assert not set(names["pool"]["id"]) & set(bad["id"])
    assert sum("Town" in text for text in names["pool"]["output"]) == 1


def second_model(lands):
    """The same answers, with a word more: near-duplicates of those of the first."""
    return {land: answer(land, tail=" indeed") for land in lands}


@pytest.mark.slow
def test_what_is_like_a_rejected_answer_never_trains_and_approvals_stay(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:30]})
    curate(root)
    good, bad = decide(lake, approve, n=15), decide(lake, reject)
    imported(root, second_model(LANDS[:30]), model="two")
    names = curate(root)
    curated = names["curated"]
    assert curated["approved"].sum() == 15
    assert set(curated.filter("approved")["id"]) == set(good["id"])
    assert dict(names["states"])["like_a_rejected"] == 15
    assert names["lost"].height == 0
    for policy in ("score", "reviewed"):
        texts = trained(root, approve=policy)
        assert not {text.split("word")[0] for text in texts} & {text.split("word")[0] for text in bad["output"]}
    only_two = curate(root, model="two")
    assert only_two["curated"]["candidate_id"].is_in(good["candidate_id"].to_list()).all(), (
        "like a rejected answer of another model"
    )
    assert verdicts.in_words(only_two["lost"]) == "WARNING: 15 approved answers are not kept: 15 of another model"
    assert curate(root, duplicate_threshold=0.5)["curated"]["approved"].sum() == 15
    assert curate(root, duplicate_threshold=1.0)["curated"]["approved"].sum() == 15
    names = curate(root, keep_fraction=0.1)
    assert verdicts.in_words(names["lost"]) == "every approved answer is kept"
    assert names["cut"].rule.endswith("that people approved below it")
    assert verdicts.in_words(curate(root, keep_fraction=0.1, keep_approved=False)["lost"]).endswith("below the cut")


def test_a_rejected_answer_that_resembles_another_still_takes_out_what_resembles_it():
    def text(start):
        return " ".join(chr(97 + i // 10) * 3 + chr(97 + i % 10) for i in range(start, start + 40))

    rows = pl.DataFrame(
        {
            "custom_id": ["a", "b", "c", "d"], "input": ["q"] * 4,
            "output": [text(0), text(4), text(8), "another answer"],
            "quality": [0.5, 0.4, 0.9, None],
        }
    )  # fmt: skip
    held = {"holds": True, "verdict": "reject"}
    judged = pl.DataFrame(
        [{"custom_id": name, "input": "q", "output": "", **held} for name in "ab"], schema=verdicts._COLUMNS
    )
    marked = verdicts.represent(rows, judged, threshold=0.7, seed=1)
    assert dict(marked.select("custom_id", "duplicate_of").iter_rows()) == {"a": None, "b": "a", "c": "b", "d": None}
    assert marked["like_rejected"].to_list() == [False, True, True, False]
    nobody = verdicts.represent(rows, judged.clear(), threshold=0.7, seed=1)
    assert nobody["duplicate_of"].to_list() == [None, "c", None, None]
    kept = judged.with_columns(verdict=pl.lit("approve")).head(1)
    assert verdicts.represent(rows, kept, threshold=0.7, seed=1)["duplicate_of"].to_list() == [None, "a", None, None]


def test_what_says_the_same_as_a_rejected_answer_goes_with_it_where_meaning_is_asked_for():
    texts = [
        "You can inform me of any questions about the rate, please.",
        "Please inform me of any questions about the rate you can.",
        "About any questions of the rate please inform me, you can.",
        "Something else.",
    ]
    rows = pl.DataFrame(
        {"custom_id": list("abcd"), "input": ["q"] * 4, "output": texts, "quality": [0.1, 0.9, 0.8, 0.7]}
    )
    no = pl.DataFrame({"custom_id": ["a"], "verdict": ["reject"], "holds": [True], "input": ["q"], "output": texts[:1]})
    apart = verdicts.represent(rows, no.clear(), threshold=0.9, seed=1)
    assert apart["duplicate_of"].null_count() == 4
    joined = verdicts.represent(rows, no.clear(), threshold=0.9, seed=1, by_meaning=0.9)
    assert joined["duplicate_of"].to_list() == ["b", None, "b", None], "the best one stays"
    bad = verdicts.represent(rows, no, threshold=0.9, seed=1, by_meaning=0.9)
    assert bad["duplicate_of"].to_list() == [None, "a", "a", None]
    assert bad["like_rejected"].to_list() == [False, True, True, False]


def test_an_answer_about_which_people_disagree_holds_nothing_and_is_counted(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:6]})
    curate(root)
    shown = decide(lake, approve).to_dicts()
    lake["reviews"].append(pl.concat([decisions.event(row, "reject", reviewer="Grace") for row in shown]))
    names = curate(root)
    assert (names["curated"]["approved"].sum(), names["curated"]["needs_review"].sum()) == (0, 6)
    assert names["judged"].select("verdict", "holds", "reason").unique().rows() == [("reject", False, "disputed")]


def test_an_answer_whose_rejected_text_changed_goes_before_its_copies_and_waits(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:5]})
    curate(root)
    decide(lake, reject)
    imported(root, second_model(LANDS[:5]))  # the same requests, a word more: what was rejected is nowhere any more
    imported(root, {land: answer(land, words=13, tail=" indeed") for land in LANDS[:5]}, model="two")
    curated = curate(root, duplicate_threshold=0.5)["curated"]
    assert curated["id"].sort().to_list() == sorted(f"r-one-{land}" for land in LANDS[:5])
    assert curated["needs_review"].all()
    with pytest.raises(ParameterError, match="5 stale"):
        trained(root)


def test_an_edited_answer_is_scored_and_compared_as_it_now_reads(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:6]})
    before = dict(curate(root)["curated"].select("id", "quality_score").iter_rows())
    longer = answer("Peru", words=30)
    edited = decide(lake, lambda panel: panel.edit(longer), n=1)["id"].item()
    at_once = lake["reviews"].read().pipe(lambda reviews: review.fold(lake["training_data_curated"].read(), reviews))
    row = at_once.row(by_predicate=pl.col("id") == edited, named=True)
    assert (row["output"], row["quality_score"]) == (longer, before[edited])
    assert "scored_sha256" not in json.loads(row["metadata"]), "the quality is of the answer as it came"
    names = curate(root)
    row = names["curated"].row(by_predicate=pl.col("id") == edited, named=True)
    assert row["quality_score"] == pytest.approx(len(longer) / 400)
    assert json.loads(row["metadata"])["scored_sha256"] == decisions.sha256(longer)
    scored = lake["training_data_scored"].read()
    assert scored.filter("edited")["custom_id"].to_list() == [edited]
    assert review.fold(names["curated"], lake["reviews"].read()).equals(names["curated"])
    event = lake["reviews"].read().row(0, named=True)
    undo = decisions.event(
        {"custom_id": edited}, "undo", reviewer="Ada", seen=lake["reviews"].read(), undoes=event["event_id"]
    )
    lake["reviews"].append(undo)
    assert dict(curate(root)["curated"].select("id", "quality_score").iter_rows())[edited] == before[edited]


def test_a_kept_column_is_never_taken_for_the_original_of_an_edit(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:4]})
    raw = lake["training_data_raw"].read()
    lake["training_data_raw"].upsert(
        raw.with_columns(metadata=pl.lit('{"original_output": "x", "scored_sha256": "y", "source": "z"}'))
    )
    curate(root)
    decide(lake, approve)
    curated = curate(root)["curated"]
    assert curated["approved"].sum() == 4
    assert set(curated["output"]) == {answer(land) for land in LANDS[:4]}
    assert json.loads(curated["metadata"][0]) == {"difficulty": None, "source": "z", "use_case": "general"}


def test_an_edit_from_elsewhere_that_breaks_the_schema_is_counted(root, capsys):
    lake = imported(root, {land: answer(land) for land in LANDS[:4]})
    row = curate(root)["curated"].row(0, named=True)
    lake["reviews"].append(decisions.event(row, "edit", reviewer="script", edited_output='{"town": "x"}'))
    capsys.readouterr()
    curate(root)
    assert "1 were edited by people, 1 of them against the SCHEMA" in capsys.readouterr().out


def test_an_approved_answer_that_is_none_any_more_is_named(root):
    lake = imported(root, {land: answer(land) for land in LANDS[:5]})
    curate(root)
    decide(lake, approve)
    raw = lake["training_data_raw"].read()
    lake["training_data_raw"].upsert(
        raw.head(1).with_columns(status=pl.lit("error"), llm_output=pl.lit(None, dtype=pl.String))
    )
    lake["candidates"].upsert(lake["candidates"].read().tail(1).with_columns(split=pl.lit("test")))
    assert sorted(curate(root)["lost"]["reason"]) == [
        "of candidates outside the train split",
        "without an answer now (error)",
    ]


def test_an_approved_answer_that_is_not_selected_is_named(root):
    lake = imported(root, {land: answer(land, words=12 + i) for i, land in enumerate(LANDS[:6])})
    curate(root)
    assert decide(lake, approve).height == 6
    lengths = lake["training_data_raw"].read()["llm_output"].str.len_chars()
    names = curate(root, selection=f"length < {lengths.max()}")
    n_longest = (lengths == lengths.max()).sum()
    assert names["lost"]["reason"].to_list() == ["outside the selection"] * n_longest
    assert names["curated"].height == 6 - n_longest
    assert names["states"]["not_selected"] == n_longest


@pytest.mark.slow
def test_the_story_by_the_command_line(root):
    """Import, curate, decide, curate again, import others over them: what the command line says and the lake holds."""
    task = root / "capital.py"
    lines = [{"q": f"Capital of {land}?", "a": answer(land), "who": land} for land in LANDS[:30]]
    (root / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    options = ["--as", "outputs", "--task", task, "--id", "who", "--input", "q", "--output", "a"]
    arislab("import", root / "answers.jsonl", *options, root=root)
    printed = arislab("run", "curate", "-p", f"task={task}", "-p", "keep_fraction=1.0", root=root)
    said = "approved, but not kept 0 decided on a text that changed since 0 disputed among people 0"
    assert said in " ".join(printed.split())
    lake = Lake(root / "data" / "lake")
    rows = lake["training_data_curated"].read().sort("id")
    n = rows.height
    seen = lake["reviews"].read()
    for kind, part in (("approve", rows.head(n - 4)), ("reject", rows.tail(4))):
        for row in part.to_dicts():
            lake["reviews"].append(decisions.event(row, kind, reviewer="Ada", seen=seen))
    texts = trained(root, approve="reviewed")
    assert len(texts) == n - 4
    assert not set(texts) & set(rows.tail(4)["output"])
    raw = lake["training_data_raw"].read()
    changed = raw.with_columns(llm_output=pl.col("llm_output").str.replace("City", "Town"))
    lake["training_data_raw"].upsert(changed)  # as a server does that answers the same requests anew
    assert curate(root)["lost"].height == n - 4
    assert lake["training_data_curated"].read()["approved"].sum() == 0
    with pytest.raises(ParameterError, match="leaves none of"):
        trained(root, approve="reviewed")
    assert not {text for text in trained(root) if "Town" not in text}


def test_conversations_that_end_with_the_same_question_are_no_near_duplicates():
    talks = [
        [
            {"role": "user", "content": f"Tell me about the {thing}."},
            {"role": "assistant", "content": "Gladly."},
            {"role": "user", "content": "Go on."},
        ]
        for thing in ("glacier above the village", "market in the old town", "glacier above the village!")
    ]
    rows = pl.DataFrame(
        {
            "custom_id": ["a", "b", "c", "d"],
            "input": ["Go on."] * 4,
            "messages": [*(json.dumps(talk) for talk in talks), None],
            "output": ["It is very old, and many people come to see it."] * 4,
            "quality": [0.9, 0.8, 0.7, 0.6],
        }
    )
    nobody = pl.DataFrame(schema=verdicts._COLUMNS)
    marked = verdicts.represent(rows, nobody, threshold=0.8, seed=1)
    assert marked["duplicate_of"].to_list() == [None, None, "a", None]
