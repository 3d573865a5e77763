"""Answers that cost nothing stand beside those of models, and a model that only copies is not promoted."""

import json
import random
import re

import polars as pl
import pytest

from arislab import bm25, evaluate, models, stats, trivial
from arislab.task import load

KEY_TERMS = '''
"""Task: the tools, subjects and degrees that a sentence of a job ad names."""
import re

def to_messages(candidate):
    return [{"role": "system", "content": "Copy key terms."},
            {"role": "user", "content": f"Key terms of: {candidate['profile']['text']}"}]

def words(text):
    return re.findall(r"\\w[\\w+#]*", text.lower())

def f1(output, gold):
    said, left, hits = words(output), words(", ".join(gold)), 0
    n_gold = len(left)
    for word in said:
        if word in left:
            left.remove(word)
            hits += 1
    return 2 * hits / (len(said) + n_gold)

def copied(output, profile):
    said, known = words(output), set(words(profile["text"]))
    return sum(w in known for w in said) / len(said) if said else 0.0

SCORERS, WEIGHTS = {"f1": f1, "copied": copied}, {"f1": 0.7, "copied": 0.3}
REPORT = {"expert": f1}
GOLD = [{"profile": {"text": "Java or Kotlin ."}, "gold": ["Java", "Kotlin"], "output": "Java, Kotlin"}]
BAD = [{"profile": {"text": "Java or Kotlin ."}, "gold": ["Java", "Kotlin"], "output": "Java"}]
'''


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "key_terms.py"
    path.write_text(KEY_TERMS)
    return load(path)


@pytest.fixture
def sentences(shared):
    """Real sentences of job ads with the terms that experts marked, as candidates; a group is an ad."""
    rows = []
    for line in (shared / "skillspan" / "test.json").read_text().splitlines():
        row, spans = json.loads(line), []
        for word, tag in zip(row["tokens"], row["tags_knowledge"], strict=True):
            if tag.startswith("B"):
                spans.append([word])
            elif tag.startswith("I") and spans:
                spans[-1].append(word)
        if 1 <= len(spans) <= 5 and 6 <= len(row["tokens"]) <= 30:
            profile = {"text": " ".join(row["tokens"]), "gold": [" ".join(span) for span in spans]}
            rows.append(
                (f"s{len(rows):04d}", json.dumps(profile), f"{row['source']}-{row['idx']}", "test", row["source"])
            )
    names = ["candidate_id", "profile", "group_id", "split", "category"]
    return pl.DataFrame(rows, schema=names, orient="row")


def questions(people, task):
    """What is asked, as requests have it."""
    texts = [task.to_messages({"profile": json.loads(p)})[-1]["content"] for p in people["profile"]]
    return people.select("candidate_id", custom_id=pl.concat_str(pl.lit("r-"), "candidate_id")).with_columns(
        input=pl.Series(texts)
    )


def examples(*rows):
    names = ["id", "candidate_id", "input", "output", "quality_score"]
    return pl.DataFrame(rows, schema=dict.fromkeys(names[:4], pl.String) | {"quality_score": pl.Float64}, orient="row")


def candidates(*texts, gold=("x",)):
    return pl.DataFrame(
        {
            "candidate_id": [f"c{i}" for i in range(len(texts))],
            "profile": [json.dumps({"text": text, "gold": list(gold)}) for text in texts],
            "group_id": [f"g{i}" for i in range(len(texts))],
        }
    )


def said(frame, arm):
    return frame.filter(pl.col("arm") == arm)["output"].to_list()


def test_each_arm_says_what_costs_nothing(task):
    people = candidates("Rust and Go at sea", "Go and C on land")
    known = examples(
        ("e1", "x1", "Key terms of: cooks at sea", "fish, sea", 0.4),
        ("e2", "x2", "Key terms of: Go on land", "Go", 0.9),
        ("e3", "x3", "Key terms of: C", "C", 0.9),
        ("e4", "x4", "Key terms of: other", "fish, sea", 0.3),
        ("e5", "x5", "Key terms of: Rust and Go at sea", None, 1.0),
    )
    free = trivial.scores(questions(people, task), people, task, examples=known)
    assert said(free, "echo") == ["Key terms of: Rust and Go at sea", "Key terms of: Go and C on land"]
    assert said(free, "bare echo") == ["Rust and Go at sea", "Go and C on land"]
    assert said(free, "empty") == ["", ""]
    assert said(free, "most frequent") == ["fish, sea", "fish, sea"]
    assert said(free, "nearest") == ["fish, sea", "Go"]
    assert free["custom_id"].n_unique() == free.height == 10
    assert free["quality"].null_count() == 0
    assert "report" not in free.columns


@pytest.mark.parametrize("report", [False, True])
def test_the_arms_have_the_columns_of_those_that_a_model_answers(task, report, tmp_path):
    asked = evaluate.ask(
        {}, candidates=candidates("x"), server=None, folder=tmp_path, recorded=None, task=task, report=report
    )
    people = candidates("Go at sea", "C on land")
    free = trivial.scores(questions(people, task), people, task, examples=examples(), report=report)
    assert free.schema == asked.schema
    assert pl.concat([asked, free]).height == free.height


def test_the_frame_of_all_questions_is_cut_between_words_and_a_text_that_is_all_frame_stays():
    bare = ["Is an apple red today?", "Is an apricot red today?", "Is an apple"]
    assert trivial._bare(bare) == ["apple red today?", "apricot red today?", "apple"]
    assert trivial._bare(["Say it: one. Go on.", "Say it: two. Go on."]) == ["one.", "two."]
    assert trivial._bare(["same", "same"]) == ["same", "same"]
    assert trivial._bare(["a b ", "a b c"]) == ["a b", "c"]
    assert trivial._bare([]) == []


def test_the_nearest_is_never_of_ones_own_group_and_there_may_be_none(task):
    people = candidates("Go at sea", "Go on land").with_columns(group_id=pl.lit("one"))
    known = examples(("e1", "c0", "Go at sea", "Go", 1.0), ("e2", "x9", "nothing alike", "other", 0.5))
    free = trivial.scores(questions(people, task), people, task, examples=known)
    assert said(free, "nearest") == ["other", "other"]
    alone = trivial.scores(questions(people, task), people, task, examples=known.head(1))
    assert said(alone, "nearest") == [None, None]
    assert alone.filter(pl.col("arm") == "nearest")["quality"].to_list() == [None, None]
    none = trivial.scores(questions(people, task), people, task, examples=known.clear())
    assert none["arm"].unique(maintain_order=True).to_list() == ["echo", "bare echo", "empty"]


def test_where_nobody_knows_what_was_asked_there_is_no_row(task):
    people = candidates("Go")
    unknown = questions(people, task).with_columns(input=pl.lit(None, dtype=pl.String))
    some = trivial.scores(questions(people, task), people, task, examples=examples(), report=True)
    none = trivial.scores(unknown, people, task, examples=examples(), report=True)
    assert none.schema == some.schema
    assert none.height == 0
    answered = {"all answers": pl.DataFrame({"candidate_id": ["c0"], "quality": [0.5]})}
    means = evaluate.summary(trivial.beside(none, answered), groups=people)
    assert means["arm"].to_list() == ["all answers"]
    assert trivial.headline(means) == {"best_trivial": None, "quality_best_trivial": None}


def test_each_question_counts_once_and_a_draw_repeats(task):
    people = candidates(*(f"text {i}" for i in range(30)))
    twice = pl.concat([questions(people, task)] * 2).with_columns(
        custom_id=pl.concat_str("custom_id", pl.int_range(60).cast(pl.String))
    )
    few = trivial.scores(twice, people, task, examples=examples(), n=7)
    assert few.group_by("arm").len()["len"].unique().to_list() == [7]
    again = trivial.scores(twice.reverse(), people, task, examples=examples(), n=7)
    assert set(few["candidate_id"]) != set(people["candidate_id"].head(7))
    assert few.height == again.height == 21


def test_an_arm_on_which_a_scorer_fails_is_null_and_says_why(tmp_path):
    path = tmp_path / "first.py"
    path.write_text(
        "def to_messages(candidate): return [{'role': 'user', 'content': candidate['profile']['text']}]\n"
        "def first(output): return output[0] == 'G'\n"
        "SCORERS, WEIGHTS, GOLD = {'first': first}, {'first': 1}, [{'output': 'G'}]\n"
    )
    people, spec = candidates("Go", "C"), load(path)
    free = trivial.scores(questions(people, spec), people, spec, examples=examples())
    rows = {arm: part for (arm,), part in free.partition_by("arm", as_dict=True).items()}
    assert rows["echo"]["quality"].to_list() == [1.0, 0.0]
    assert rows["empty"]["quality"].to_list() == [None, None]
    assert re.search(r"scorer 'first' of first.py failed .* IndexError", rows["empty"]["error"][0])
    means = evaluate.summary(free)
    assert trivial.in_words(means) == "the best answer that costs nothing is echo: quality 0.500"
    assert trivial.headline(means) == {"best_trivial": "echo", "quality_best_trivial": 0.5}
    assert "could be judged" in trivial.in_words(means.filter(pl.col("arm") == "empty"))


@pytest.mark.parametrize(("mean", "is_weak"), [(0.5, False), (0.5001, True)])
def test_scorers_that_pay_for_nothing_are_called_weak(mean, is_weak):
    means = pl.DataFrame({"arm": ["kept answers", "empty", "echo"], "n": [9, 9, 9], "mean": [0.9, 0.1, mean]})
    assert trivial.in_words(means).startswith("WARNING") == is_weak
    assert trivial.headline(means) == {"best_trivial": "echo", "quality_best_trivial": mean}


def evaluated(people, task, say):
    """Phase 5 by its own functions: a baseline of three random words of the sentence, and a model that was trained."""
    rng, asked = random.Random(5), questions(people, task)
    rows = []
    for candidate_id, profile in people.select("candidate_id", "profile").iter_rows():
        text, gold = json.loads(profile)["text"], json.loads(profile)["gold"]
        words = text.split()
        rows.append(("baseline", candidate_id, ", ".join(rng.sample(words, 3))))
        rows.append(("finetuned", candidate_id, say(rng, words, gold)))
    answers = pl.DataFrame(rows, schema=["arm", "candidate_id", "output"], orient="row")
    parts = []
    for (arm,), part in answers.partition_by("arm", as_dict=True, maintain_order=True).items():
        named = part.select("candidate_id", custom_id=pl.concat_str("arm", "candidate_id"), llm_output="output")
        ready = evaluate.scoring.rows(named, people)
        judged = evaluate.scoring.score(ready, task).select("custom_id", "candidate_id", "quality")
        report = evaluate.scoring.report(ready, task).select("custom_id", "report")
        parts.append(judged.join(report, on="custom_id").with_columns(arm=pl.lit(arm), tokens=pl.lit(1)))
    scores = pl.concat(parts)
    known = examples(("e1", "t1", "Experience with Java", "Java", 0.9), ("e2", "t2", "a degree in Law", "Law", 0.9))
    free = trivial.scores(asked, people, task, examples=known, report=True)
    how = {"by": "report", "groups": people}
    comparison = stats.compare(scores, contrasts=[("finetuned", "baseline")], **how)
    everything = pl.concat([scores, free], how="diagonal_relaxed")
    beside = stats.compare(everything, contrasts=trivial.contrasts(free, arm="finetuned"), **how)
    means = evaluate.summary(everything, by="report", groups=people)
    return models.gate(comparison, arm="finetuned", free=beside), evaluate.table(means, comparison, beside)


def copy(rng, words, gold):
    """What a model does that has learned to copy: the sentence, sometimes without a word."""
    return " ".join(word for word in words if rng.random() > 0.02)


def read(rng, words, gold):
    """What a model does that has learned the task: the experts' terms, with a word too many or a term missed."""
    kept = [term for term in gold if rng.random() > 0.1] or gold
    return ", ".join([*kept, rng.choice(words)])


def test_a_model_that_copies_its_input_is_not_promoted_and_the_echo_is_named(sentences, task):
    gate, table = evaluated(sentences, task, copy)
    assert gate["low"] > 0.02, "over its own baseline it looks like progress"
    assert gate["p_holm"] < 0.001
    assert gate["verdict"] == "insufficient evidence"
    assert gate["trivial"]["against"] == "bare echo"
    assert "finetuned beats baseline (+" in gate["reason"]
    assert "it is not shown to beat bare echo, an answer that costs nothing (" in gate["reason"]
    assert re.search(r"^bare echo +0\.\d+ .* of \d+ groups", table, re.MULTILINE)
    assert "finetuned - bare echo" in table
    assert json.loads(json.dumps(gate)) == gate


def test_a_model_that_beats_every_answer_that_costs_nothing_is_promoted(sentences, task):
    gate, _ = evaluated(sentences, task, read)
    assert (gate["verdict"], gate["trivial"]["against"]) == ("promote", "bare echo")
    assert "it beats bare echo, an answer that costs nothing (+" in gate["reason"]
    assert gate["trivial"]["low"] > 0.05


def test_a_model_below_an_answer_that_costs_nothing_is_held(sentences, task):
    gate, _ = evaluated(sentences, task, lambda rng, words, gold: ", ".join(words[:4]) + ", " + gold[0].split()[0])
    assert (gate["verdict"], gate["low"] > 0) == ("hold", True)
    assert "it is below bare echo" in gate["reason"]


def test_an_index_that_knows_the_questions_answers_them_as_one_of_all_words_does():
    chance = random.Random(2)
    words = ["Nurse", "nurse", "Ärztin", "go_lang", "c3", "of", "the", "night", "day", "shift", "two", "…"]
    documents = [" ".join(chance.choices(words, k=chance.randrange(9))) for _ in range(200)] + [None, ""]
    asked = ["the night shift of a Nurse", "ärztin, day!", None, "nothing known"]
    whole, some = bm25.Index(documents), bm25.Index(documents, questions=asked)
    for question in asked:
        assert some.scores(question).tolist() == whole.scores(question).tolist()
    held = [{w.lower() for w in re.findall(r"\w+", text or "")} for text in documents]
    assert [score > 0 for score in whole.scores("night Nurse")] == [bool(h & {"night", "nurse"}) for h in held]
    assert bm25.Index([]).scores("night").tolist() == []


def test_answers_are_set_beside_by_the_scale_that_is_given():
    answers = pl.DataFrame(
        {"custom_id": ["r1", "r2", "r3"], "candidate_id": ["a", "b", "c"], "quality": [0.1, 0.2, 0.3]}
    )
    scale = pl.DataFrame({"custom_id": ["r3", "r1"], "quality": [0.9, 0.7]})
    none = pl.DataFrame(schema={"arm": pl.String, "candidate_id": pl.String, "quality": pl.Float64, "tokens": pl.Int64})
    own = trivial.beside(none, {"all": answers})
    assert own["quality"].to_list() == [0.1, 0.2, 0.3]
    scaled = trivial.beside(none, {"all": answers, "kept": answers.tail(1)}, scale=scale)
    assert scaled.select("arm", "candidate_id", "quality").rows() == [
        ("all", "a", 0.7),
        ("all", "b", None),
        ("all", "c", 0.9),
        ("kept", "c", 0.9),
    ]
