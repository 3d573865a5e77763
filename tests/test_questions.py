"""Several questions under one name: each answer keeps its own, and groups, splits and leaks know all of them."""

import itertools
import json
import random
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import CHECKOUT, FUZZ

from arislab import curate, evaluate, questions, scoring
from arislab.errors import LeakageError, PrerequisiteError
from arislab.inputs import importing
from arislab.lake import Lake, conditions, tables
from arislab.task import load

READ = {"encoding": None, "separator": None, "types": {}, "lenient": False}
SHIPPED = load("instruction_following")
NAMES = {
    split: [name for name in (f"reader{i:03}" for i in range(400)) if tables.split_of(name) == split]
    for split in tables.SPLITS
}
TRAIN, VALIDATION, TEST = (NAMES[split] for split in tables.SPLITS)
BEES = "How do honey bees find the way back to their own hive after a long flight?"
DELTA = "Why do the rivers of a delta change their course every few hundred years?"
SALT = "Which salt did people in the Alps mine before there were any railways there?"
RUBRIC = """
def to_messages(candidate):
    rules = (
        "Read the question with care, answer in one paragraph of plain words, name what you do not know, "
        "and invent nothing at all."
    )
    return [{"role": "user", "content": rules + " The question is: " + candidate["profile"]["input"]}]
def said(output):
    return 1.0
SCORERS, WEIGHTS, GOLD = {"said": said}, {"said": 1}, [{"output": "x"}]
"""


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "data" / "lake", run_id="t")


def outputs(lake, path, *lines, task=SHIPPED, **how):
    """Import lines of (who, question, answer[, split])."""
    file = path / "o.jsonl"
    names = ("who", "q", "a", "part")
    file.write_text("\n".join(json.dumps(dict(zip(names, line, strict=False))) for line in lines))
    return importing.outputs(lake, file, task, input="q", output="a", id="who", read=READ, **how)


def batch(lake, path, *talks, task=SHIPPED):
    """Import conversations, each a list of texts, that were all answered."""
    asked, answered = [], []
    for i, talk in enumerate(talks):
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(talk)]
        asked.append(json.dumps({"custom_id": f"q{i}", "body": {"model": "m", "messages": turns}}))
        body = {"choices": [{"finish_reason": "stop", "message": {"content": f"Answer {i}."}}]}
        answered.append(json.dumps({"custom_id": f"q{i}", "response": {"status_code": 200, "body": body}}))
    (path / "in.jsonl").write_text("\n".join(asked))
    (path / "out.jsonl").write_text("\n".join(answered))
    return importing.batch(lake, path / "out.jsonl", task, requests=path / "in.jsonl")


def stands(lake):
    rows = lake["candidates"].read().select("candidate_id", "group_id", "split").iter_rows()
    return {name: (group, split) for name, group, split in rows}


def curated(lake, task):
    """All answers about the train split, as if all of them were good enough."""
    raw = lake["training_data_raw"].read().rename({"llm_output": "output"}).filter(status="ok")
    people = lake["candidates"].read(where={"split": "train"})
    kept = raw.join(people, on="candidate_id", how="semi").with_columns(quality=pl.lit(1.0))
    return curate.examples(kept, people, task) if kept.height else None


def leaks(lake, task=SHIPPED):
    """What the cell of phase 5 finds: it asks about every test candidate, all of the train split was trained on."""
    book = json.loads((CHECKOUT / "notebooks" / "5_evaluate.ipynb").read_text())
    source = "".join(next(cell["source"] for cell in book["cells"] if cell.get("id") == "leaks"))
    trained = curated(lake, task)
    nothing = pl.DataFrame(schema=dict.fromkeys(("id", "candidate_id", "messages", "input"), pl.String))
    shelf = {name: lake[name] for name in ("candidates", "training_data_raw")}
    shelf["training_data_curated"] = SimpleNamespace(read=lambda **_: nothing if trained is None else trained)
    names = {"lake": shelf, "spec": task, "use_case": "general", "chosen": {"use_case_column": None}, "tuned": {}}
    names |= {name: shelf["training_data_curated"].read() for name in ("shown_from", "learned_from")}
    names |= {"n_test": 10_000, "leak_threshold": 0.8, "drawn": []}
    names |= {"curate": curate, "evaluate": evaluate, "pl": pl, "leaks": "refuse", "print": lambda *_: None}
    try:
        exec(source, names)
    except LeakageError:
        assert names["leaking"].height
    return names["leaking"]


# --- an answer keeps its question -------------------------------------------------------------------------------------


def test_an_answer_is_trained_as_the_answer_to_its_own_question(lake, tmp_path):
    outputs(lake, tmp_path, ("Ann", BEES, "By the sun."), ("Ann", DELTA, "They silt up."), split=None)
    lake["candidates"].upsert(lake["candidates"].read().with_columns(split=pl.lit("train")))
    rows = curated(lake, SHIPPED).sort("output").select("input", "output").rows()
    assert rows == [(BEES, "By the sun."), (DELTA, "They silt up.")]
    for row in curated(lake, SHIPPED).to_dicts():
        assert json.loads(row["messages"])[-1]["content"] == row["input"]


def test_difficulty_and_category_of_an_example_are_those_of_its_question(tmp_path):
    path = tmp_path / "levels.py"
    path.write_text(
        RUBRIC + "def difficulty(candidate):\n    return 1.0 if 'delta' in candidate['profile']['input'] else 0.0\n"
        "def category(candidate):\n    return 'river' if 'delta' in candidate['profile']['input'] else 'bee'\n"
    )
    person = {"candidate_id": "Ann", "profile": json.dumps({"input": BEES, "n": 1}), "split": "train"}
    raw = {"candidate_id": "Ann", "task": "levels", "quality": 1.0, "messages": None, "metadata": None}
    kept = pl.DataFrame([raw | {"custom_id": n, "input": q, "output": n} for n, q in (("x", BEES), ("y", DELTA))])
    metadata = curate.examples(kept, pl.DataFrame([person]), load(path))["metadata"].to_list()
    assert [(json.loads(m)["difficulty"], json.loads(m)["category"]) for m in metadata] == [
        (0.0, "bee"),
        (1.0, "river"),
    ]
    rows = scoring.rows(kept.rename({"output": "llm_output"}), pl.DataFrame([person]), task=load(path))
    assert rows["category"].to_list() == ["bee", "river"]
    assert [json.loads(p) for p in rows["profile"]] == [{"input": BEES, "n": 1}, {"input": DELTA, "n": 1}]
    assert rows["profile"][0] == person["profile"]


def test_answers_to_another_question_are_no_other_answers_to_this_one(tmp_path):
    path = tmp_path / "agree.py"
    path.write_text(
        "def to_messages(candidate): return [{'role': 'user', 'content': 'q'}]\n"
        "def agree(output, others):\n    return sum(o == output for o in others) / len(others) if others else None\n"
        "SCORERS, WEIGHTS = {'agree': agree}, {'agree': 1}\n"
    )
    said = [("w", BEES, "sun"), ("x", BEES, "sun"), ("y", DELTA, "silt"), ("z", DELTA, "sand")]
    raw = pl.DataFrame([{"custom_id": i, "candidate_id": "Ann", "input": q, "llm_output": a} for i, q, a in said])
    assert scoring.score(scoring.rows(raw), load(path))["quality"].to_list() == [1.0, 1.0, 0.0, 0.0]


def test_a_profile_without_input_and_recorded_messages_stay_as_they_are():
    ad = {"candidate_id": "Ann", "profile": {"title": "cook"}}
    assert questions.about(ad, BEES) is ad
    talk = {"candidate_id": "c", "profile": {"input": "Go on.", "messages": [{"role": "user", "content": "Go on."}]}}
    assert questions.about(talk, None) is talk
    assert questions.about(talk, "Go on.") is talk
    assert questions.about(talk, BEES)["profile"] == {"input": BEES}
    assert [one["profile"]["input"] for one in questions.each(talk, ["Go on.", BEES])] == ["Go on.", BEES]
    person = pl.DataFrame({"candidate_id": ["c"], "profile": [json.dumps(talk["profile"])]})
    raw = {"custom_id": "x", "candidate_id": "c", "input": BEES, "llm_output": "a", "messages": "[]"}
    assert json.loads(scoring.rows(pl.DataFrame([raw]), person)["profile"][0]) == talk["profile"]


# --- groups and splits know all questions -----------------------------------------------------------------------------


def test_candidates_that_share_any_question_are_one_group(lake, tmp_path):
    first, second, third = TRAIN[0], TEST[0], TEST[1]
    said = outputs(
        lake,
        tmp_path,
        (first, BEES, "By the sun."),
        (first, DELTA, "They silt up."),
        (second, DELTA.upper().replace("?", ""), "Because of sand."),
        (third, SALT, "Rock salt."),
        (third, SALT, "Common salt."),
    )
    assert said[0] == "5 outputs = 5 ok; samples of 3 candidates in 2 groups"
    smallest = min(first, second)
    assert stands(lake)[first] == stands(lake)[second] == (smallest, tables.split_of(smallest))
    assert stands(lake)[third] == (third, "test")
    assert any(line.startswith(f"note: 1 candidates have several questions (first: {first});") for line in said)
    assert not leaks(lake).height
    assert not any("several" in line for line in outputs(lake, tmp_path, (third, SALT, "Sea salt.")))


def test_a_marked_split_that_tears_what_any_question_joins_is_refused_by_line(lake, tmp_path):
    lines = [("ann", BEES, "x", "train"), ("ann", DELTA, "x", "train"), ("bo", f"{DELTA}!", "x", "test")]
    with pytest.raises(PrerequisiteError, match=r"line 3: the row is marked test, line 1 is marked train, .*'ann'"):
        outputs(lake, tmp_path, *lines, split="part")
    said = outputs(lake, tmp_path, *lines[:2], ("bo", SALT, "x", "test"), split="part")
    assert stands(lake) == {"ann": ("ann", "train"), "bo": ("bo", "test")}
    assert not any("none of these" in line and "test" in line.split("split")[0] for line in said)


def test_a_later_candidate_joins_whose_second_question_it_shares(lake, tmp_path):
    for old, new in ((TEST[0], TRAIN[0]), (TRAIN[1], TEST[1])):
        outputs(lake, tmp_path, (old, f"As {old} asks: {BEES}", "x"), (old, f"As {old} asks: {DELTA}", "x"))
        outputs(lake, tmp_path, (new, f"As {old} asks: {DELTA.lower()}", "x"))
        assert stands(lake)[new] == stands(lake)[old] == (old, tables.split_of(old))
    assert not leaks(lake).height


def test_a_later_candidate_between_two_known_groups_is_in_no_split(lake, tmp_path):
    outputs(lake, tmp_path, (TEST[0], BEES, "x"), (TRAIN[0], DELTA, "x"))
    said = outputs(lake, tmp_path, ("new", BEES, "x"), ("new", DELTA, "x"))
    assert stands(lake)["new"][1] is None
    assert any("1 candidates are in no split" in line and "'new'" in line for line in said)
    assert (stands(lake)[TEST[0]][1], stands(lake)[TRAIN[0]][1]) == ("test", "train")
    assert not leaks(lake).height


def test_a_later_question_that_stands_in_the_test_split_is_said_by_name_and_moves_nobody(lake, tmp_path):
    known = TRAIN[0], TEST[0]
    outputs(lake, tmp_path, (known[0], BEES, "By the sun."), (known[1], DELTA, "They silt up."), (TEST[1], SALT, "x"))
    before = stands(lake)
    said = outputs(lake, tmp_path, (known[0], DELTA.upper(), "Because of sand."))
    assert stands(lake) == before
    warning = next(line for line in said if line.startswith("warning: 1 candidates of the test split are asked"))
    assert f"({known[1]} as {known[0]})" in warning
    assert leaks(lake).select("candidate_id", "kind").rows() == [(known[1], "exact")]
    said = outputs(lake, tmp_path, (TEST[2], "What do gulls eat on the open sea in the winter months?", "Fish."))
    assert any(f"({known[1]} as {known[0]})" in line for line in said), "as long as it is so"


def test_a_later_question_of_a_test_candidate_counts_too(lake, tmp_path):
    outputs(lake, tmp_path, (TRAIN[0], BEES, "By the sun."), (TEST[0], DELTA, "They silt up."))
    said = outputs(lake, tmp_path, (TEST[0], BEES, "By polarised light."))
    assert any(f"({TEST[0]} as {TRAIN[0]})" in line for line in said)


def test_candidates_imported_later_are_compared_with_all_recorded_questions(lake, tmp_path):
    outputs(lake, tmp_path, (TEST[0], BEES, "x"), (TEST[0], DELTA, "x"))
    file = tmp_path / "people.jsonl"
    file.write_text(json.dumps({"id": "new", "input": DELTA.lower()}))
    importing.candidates(lake, file, SHIPPED, id="id", read=READ)
    assert stands(lake)["new"] == (TEST[0], "test")


def test_questions_for_a_profile_that_cannot_hold_them_are_a_warning(lake, tmp_path):
    file = tmp_path / "people.jsonl"
    file.write_text(json.dumps({"id": "ann", "title": "cook"}))
    importing.candidates(lake, file, None, id="id", read=READ)
    said = outputs(lake, tmp_path, ("ann", BEES, "x"), ("ann", DELTA, "x"))
    assert any(line.startswith("warning: 1 of them (first: ann) have a profile without 'input'") for line in said)
    said = outputs(lake, tmp_path, ("bo", BEES, "x"), ("bo", DELTA, "x"))
    assert not any("without 'input'" in line for line in said)


def test_the_end_of_a_conversation_is_a_question_too(lake, tmp_path):
    ends = ["Tell me about bees.", "What of them?", BEES], ["Let us talk of rivers.", "Which?", "Go on."]
    batch(lake, tmp_path, *ends, ["I like old mines.", "Me too.", "Go on."])
    groups = [group for group, _ in stands(lake).values()]
    assert len(set(groups)) == 3, "conversations about different things may end alike"
    outputs(lake, tmp_path, ("new", BEES, "x"), ("newer", SALT, "x"))
    talk = next(n for n in stands(lake) if json.loads(profile(lake, n)).get("input") == BEES and n != "new")
    assert stands(lake)["new"] == stands(lake)[talk]
    assert stands(lake)["newer"][0] == "newer"
    assert not leaks(lake).height


def test_what_most_questions_say_is_judged_by_all_of_them_at_import_and_in_phase_5(lake, tmp_path):
    form = (
        "Please read what a guest of our hotel by the lake wrote in the book at the door last week, say in one plain "
        "sentence what it is about, name "
        "who in the house should take care of it, and do not promise anything that we could not keep. The guest wrote: "
    )
    guests, wishes = (
        [*TRAIN[:4], *TEST[:4]],
        list(
            itertools.product(("soft", "warm", "quiet"), ("bed", "bread", "boat", "tea", "path", "song", "room", "dog"))
        ),
    )
    wrote = [f"{form}a {kind} {thing} is missing" for kind, thing in wishes]
    outputs(lake, tmp_path, *[(guests[i // 3], text, "Housekeeping.") for i, text in enumerate(wrote)])
    assert [stands(lake)[name] for name in guests] == [(name, tables.split_of(name)) for name in guests]
    assert not leaks(lake).height


def test_outputs_are_compared_as_the_task_asks_about_them(lake, tmp_path):
    path = tmp_path / "wrapped.py"
    path.write_text(RUBRIC)
    outputs(lake, tmp_path, (TRAIN[0], "A lake?", "x"), (TEST[0], "A mine?", "x"), task=load(path))
    assert len({group for group, _ in stands(lake).values()}) == 1, "in a long text one word is no difference"
    assert not leaks(lake, load(path)).height
    path.write_text(RUBRIC.replace('["input"]', '["essay"]'))
    said = outputs(lake, tmp_path, (TRAIN[1], "A lake?", "x"), (TEST[1], "A mine!", "x"), task=load(path))
    assert said[0].endswith("samples of 2 candidates in 1 groups"), "a task that cannot ask: what was recorded counts"


def profile(lake, name):
    return lake["candidates"].read(where={"candidate_id": name})["profile"][0]


# --- whatever is imported, phase 5 finds nothing, or it was said
# --------------------------------------------------------


class Shelf:
    """A table in memory, as far as imports and phase 5 use one."""

    def __init__(self, name):
        contract = tables.TABLES[name]
        self.key, schema = list(contract.key), {column: c.dtype for column, c in contract.columns.items()}
        self.frame = pl.DataFrame(schema=schema)

    def read(self, *, columns=None, where=None):
        frame = self.frame.filter(conditions.expression(where or {}))
        return frame.select(columns or frame.columns)

    def upsert(self, rows):
        new = pl.concat([self.frame.clear(), rows.select(pl.col(c) for c in rows.columns)], how="diagonal_relaxed")
        kept = self.frame.join(new, on=self.key, how="anti")
        self.frame = pl.concat([kept, new.select(self.frame.columns).cast(self.frame.schema)])


CHANCE = random.Random(0)
WORDS = [
    a + b for a in ("riv", "delt", "hon", "bee", "min", "salt", "wint", "gull") for b in ("er", "a", "ey", "ing", "s")
]
SENTENCES = [" ".join(CHANCE.choices(WORDS, k=CHANCE.randint(9, 20))) for _ in range(120)]
CHANGES = (str, str.title, "{}?".format, "{} today".format, lambda text: f"  {text.replace(' ', '  ')}")
WHO = [*TRAIN[:3], *TRAIN[60:64], *VALIDATION[:3], *TEST[:6]]


def question(chance, pool):
    """One of the first sentences, a little changed: the smaller the pool, the more are alike."""
    return chance.choice(CHANGES)(SENTENCES[chance.randrange(pool)])


def recorded(seed, n, pool):
    """A file of outputs: name to its 1 to 4 questions."""
    chance = random.Random(seed)
    return {who: [question(chance, pool) for _ in range(chance.randint(1, 4))] for who in chance.sample(WHO, n)}


def talks(seed, n, pool):
    """A batch of conversations; all about other things, but with ends that may be alike."""
    chance = random.Random(seed)
    return [(f"{SENTENCES[-i]} {i}", "Which one?", question(chance, pool)) for i in range(1, n + 1)]


SEEDS, POOLS = st.integers(0, 1 << 30), st.sampled_from([4, 12, 40, 110])
FILES = st.lists(
    st.one_of(
        st.builds(recorded, SEEDS, st.integers(1, len(WHO)), POOLS),
        st.builds(recorded, SEEDS, st.integers(9, len(WHO)), POOLS),
        st.builds(talks, SEEDS, st.integers(1, 8), POOLS),
    ),
    min_size=1,
    max_size=3,
)
SAME_FOLDER = settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["shipped", "wrapped"])
def task(request, tmp_path):
    if request.param == "shipped":
        return SHIPPED
    path = tmp_path / "wrapped.py"
    path.write_text(RUBRIC)
    return load(path)


class Shelves(dict):
    """A lake in memory; nobody is forgotten in it."""

    def __init__(self, data):
        super().__init__({name: Shelf(name) for name in ("candidates", "training_data_raw")})
        self.data = data


@pytest.mark.slow
@SAME_FOLDER
@given(FILES)
def test_phase_5_finds_nothing_that_the_import_did_not_say_by_name(tmp_path, task, files):
    lake = Shelves(tmp_path)
    for i, file in enumerate(files):
        before = stands(lake)
        if isinstance(file, dict):
            lines = [(who, text, f"answer {i} {n}") for who, texts in file.items() for n, text in enumerate(texts)]
            said = outputs(lake, tmp_path, *lines, task=task)
        else:
            said = batch(lake, tmp_path, *file, task=task)
        after = stands(lake)
        assert {name: after[name] for name in before} == before
        named = " ".join(line for line in said if line.startswith("warning") and "of the test split" in line)
        leaked = leaks(lake, task)["candidate_id"].to_list()
        assert [name for name in leaked if f"{name} as " not in named] == []
        assert i or not named, "what comes first exposes nobody"
