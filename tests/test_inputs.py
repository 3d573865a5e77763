import json

import polars as pl
import pytest
from conftest import FUZZ
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_json_text import TEXT, VALUES

from arislab import files, inputs, json_text
from arislab.errors import PrerequisiteError
from arislab.files import Rows


def rows(*values, name="people.jsonl"):
    return Rows(name, list(values), range(1, len(values) + 1))


COOK = "boils eggs for many hungry people every day"
PROFILES = (
    {"nr": 1, "title": "Cook", "text": COOK, "firm": "A"},
    {"nr": 2, "title": "Cook", "text": COOK, "firm": "B"},
    {"nr": 3, "title": "Pilot", "text": "flies far", "firm": "A"},
)


def test_a_users_own_profiles_become_candidates():
    frame = inputs.candidates(rows(*PROFILES), id="nr", text="text")
    assert frame["candidate_id"].to_list() == ["1", "2", "3"]
    assert json.loads(frame["profile"][2]) == {"nr": 3, "title": "Pilot", "text": "flies far", "firm": "A"}
    assert frame["title"].to_list() == ["Cook", "Cook", "Pilot"]
    assert frame["group_id"][0] == frame["group_id"][1] != frame["group_id"][2]  # near-duplicates share a group
    assert frame["split"][0] == frame["split"][1]


def test_ids_and_profiles_are_what_the_file_says(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"id": 1.50, "n": 90071992547409931, "k": "\\u00fc"}\n{"id": "1.5", "tags": {"z": 1, "a": null}}\n'
    )
    frame = inputs.candidates(files.read(path), id="id")
    assert frame["candidate_id"].to_list() == ["1.50", "1.5"]
    assert frame["profile"].to_list() == [
        '{"id":1.50,"n":90071992547409931,"k":"ü"}',
        '{"id":"1.5","tags":{"z":1,"a":null}}',
    ]


def test_people_whose_skills_are_keys_are_people_of_their_own(tmp_path):
    skills = [
        f"{a}{b}"
        for a in ("weld", "sew", "brew", "till", "saw", "herd")
        for b in ("ing", "er", "craft", "ology", "ship")
    ]
    lines = [{"id": f"p{i}", "skills": {skills[i % 30]: 3, skills[(7 * i + 1) % 30]: i}} for i in range(30)]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    frame = inputs.candidates(files.read(path), id="id")
    assert frame["profile"].str.len_chars().max() < 60
    assert frame["group_id"].n_unique() == 30


def test_near_duplicates_are_sought_in_what_is_asked_not_in_ids_and_gold():
    people = [
        {"nr": f"{i:09d} x{i} y{i} z{i}", "gold": f"answer {i} of {i * 7} and {i * 13}", "q": COOK} for i in range(4)
    ]
    alone = inputs.candidates(rows(*people), id="nr")
    asked = inputs.candidates(rows(*people), id="nr", asked=lambda candidate: candidate["profile"]["q"])
    by_text = inputs.candidates(rows(*people), id="nr", text="q")
    assert alone["group_id"].n_unique() > 1
    assert asked["group_id"].n_unique() == by_text["group_id"].n_unique() == 1


def test_a_given_group_decides_the_split():
    frame = inputs.candidates(rows(*PROFILES), id="nr", group="firm", text="title")
    groups = frame["group_id"].to_list()
    assert groups[0] == groups[2]
    assert frame["split"][0] == frame["split"][2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "line 2: --id 'nr' is empty"),
        ("", "line 2: --id 'nr' is empty"),
        ("  ", "line 2: --id 'nr' is empty"),
        ("a", "line 2: --id 'nr' 'a' stands 2 times \\(first in line 1\\)"),
    ],
)
def test_empty_and_repeated_ids_are_refused_by_line(value, message):
    with pytest.raises(PrerequisiteError, match=message):
        inputs.candidates(rows({"nr": "a"}, {"nr": value}), id="nr")


def test_an_unknown_column_is_refused_with_the_closest():
    with pytest.raises(PrerequisiteError, match=r"--id 'txt' is no column .* did you mean 'text'"):
        inputs.candidates(rows(*PROFILES), id="txt")


def test_the_split_of_the_file_is_the_split():
    marked = [
        p | {"part": part, "text": f"{p['text']} {part}"}
        for p, part in zip(PROFILES, ("test", "train", "validation"), strict=True)
    ]
    frame = inputs.candidates(rows(*marked), id="nr", split="part", group="nr")
    assert frame["split"].to_list() == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train", "train", "dev"), "line 3: --split 'part' must be one of train, validation, test, got 'dev'"),
        (("train", "train", None), "line 3: .*got None"),
        (("train", "test", "train"), "line 2: the row is marked test, line 1 is marked train"),
    ],
)
def test_a_split_that_cannot_be_is_refused_by_line(parts, message):
    marked = [p | {"part": part} for p, part in zip(PROFILES, parts, strict=True)]
    with pytest.raises(PrerequisiteError, match=message):
        inputs.candidates(rows(*marked), id="nr", text="text", split="part")


RECORDED = (
    {"q": "1+1", "a": "2", "who": "m1", "gt": 2},
    {"q": "1+1", "a": "3", "who": "m2", "gt": 2},
    {"q": "2+2", "a": "4", "who": "m1", "gt": 4},
    {"q": "3+3", "a": None, "who": "m1", "gt": 6},
)


def test_outputs_of_one_input_are_samples_of_one_candidate():
    people, raw = inputs.outputs(rows(*RECORDED), task="sums", input="q", output="a", model="who", keep=["gt"])
    assert (people.height, raw.height) == (3, 4)
    assert raw["sample"].to_list() == [0, 1, 0, 0]
    assert raw["status"].to_list() == ["ok", "ok", "ok", "empty"]
    assert raw["candidate_id"].n_unique() == 3
    assert json.loads(raw["metadata"][0]) == {"gt": 2}
    assert json.loads(people["profile"][0]) == {"input": "1+1"}
    assert raw["custom_id"].n_unique() == 4


def test_answers_and_kept_values_are_what_the_file_says(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_text(
        '{"q":[{"role":"user","content":"hi"}],"a":{"z":1.0,"b":[]},"k":12345678901234567890}\n{"q":"x","a":false}\n'
    )
    _, raw = inputs.outputs(files.read(path), task="t", input="q", output="a", keep=["k"])
    assert raw["input"].to_list() == ['[{"role":"user","content":"hi"}]', "x"]
    assert raw["llm_output"].to_list() == ['{"z":1.0,"b":[]}', "false"]
    assert raw["metadata"].to_list() == ['{"k":12345678901234567890}', "{}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("output", "rename the column"), ("split", "--split decides"), ("score_x", "rename"), ("others", "rename")],
)
def test_a_name_that_scorers_know_otherwise_cannot_be_kept(name, message):
    with pytest.raises(PrerequisiteError, match=f"--keep '{name}': .*{message}"):
        inputs.outputs(
            rows({"q": "x", "a": "y", name: 1}),
            task="t",
            input="q",
            output="a",
            keep=[name],
            reserved={"output", "split", "others"},
        )


def test_all_outputs_of_a_candidate_have_one_split():
    marked = [r | {"part": part} for r, part in zip(RECORDED, ("test", "test", "train", "validation"), strict=True)]
    people, _ = inputs.outputs(rows(*marked), task="t", input="q", output="a", split="part")
    assert people["split"].to_list() == ["test", "train", "validation"]
    with pytest.raises(
        PrerequisiteError, match="line 2: the row is marked train, line 1 about the same candidate test"
    ):
        inputs.outputs(rows(*[marked[0], marked[1] | {"part": "train"}]), task="t", input="q", output="a", split="part")


def test_an_output_without_the_name_of_its_candidate_is_refused_by_line():
    with pytest.raises(PrerequisiteError, match="line 2: --id 'who' is empty"):
        inputs.outputs(rows(RECORDED[0], RECORDED[1] | {"who": ""}), task="t", input="q", output="a", id="who")


def test_importing_twice_gives_the_same_rows_and_any_change_another_id():
    def ids(**how):
        return inputs.outputs(rows(*RECORDED), task="sums", input="q", output="a", **how)[1]["custom_id"].to_list()

    assert ids() == ids()
    assert ids(model="who") != ids()


def test_the_order_of_a_file_names_no_row_and_equal_rows_stay_apart():
    twice = [*RECORDED, RECORDED[0]]
    first = inputs.outputs(rows(*twice), task="sums", input="q", output="a")[1]
    other = inputs.outputs(rows(*twice[::-1]), task="sums", input="q", output="a")[1]
    assert first["custom_id"].n_unique() == 5
    assert set(first["custom_id"]) == set(other["custom_id"])


SAME_FOLDER = settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=5))
def test_outputs_are_read_back_as_they_were_written(tmp_path, values):
    path = tmp_path / "o.jsonl"
    path.write_text("\n".join(json.dumps({"q": q, "a": a, "kept": k}) for q, a, k in values))
    people, raw = inputs.outputs(files.read(path), task="t", input="q", output="a", keep=["kept"])

    def text(value):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert raw["llm_output"].to_list() == [None if a is None else text(a) for _, a, _ in values]
    assert raw["input"].to_list() == ["" if q is None else text(q) for q, _, _ in values]
    assert [repr(json.loads(m)) for m in raw["metadata"]] == [repr({"kept": k}) for _, _, k in values]
    assert raw["custom_id"].n_unique() == len(values)
    assert set(raw["candidate_id"]) == set(people["candidate_id"])


@SAME_FOLDER
@given(
    st.dictionaries(
        TEXT.filter(str.strip),
        st.dictionaries(TEXT.filter(lambda k: k != "id"), VALUES, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_candidates_are_read_back_as_they_were_written(tmp_path, people):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"id": name} | fields) for name, fields in people.items()))
    frame = inputs.candidates(files.read(path), id="id")
    assert frame["candidate_id"].to_list() == list(people)
    assert [repr(json.loads(p)) for p in frame["profile"]] == [repr({"id": n} | f) for n, f in people.items()]
    assert frame["title"].to_list() == [json_text.as_text(f.get("title")) for f in people.values()]


def test_a_known_candidate_keeps_group_and_split_when_a_larger_file_comes():
    first = inputs.candidates(rows(*PROFILES[1:]), id="nr", text="text")
    grown = inputs.keep_known(inputs.candidates(rows(*PROFILES), id="nr", text="text"), first)
    before = {r["candidate_id"]: (r["group_id"], r["split"]) for r in first.to_dicts()}
    after = {r["candidate_id"]: (r["group_id"], r["split"]) for r in grown.to_dicts()}
    assert {k: after[k] for k in before} == before
    assert after["1"] == after["2"]  # the new near-duplicate follows the group that was there


def test_a_new_member_of_a_known_group_follows_its_split_whatever_its_hash():
    known = pl.DataFrame({"candidate_id": ["old"], "group_id": ["g-A"], "split": ["test"]})
    frame = pl.DataFrame(
        {"candidate_id": ["new", "other"], "group_id": ["g-A", "g-B"], "split": ["train", "validation"]}
    )
    assert inputs.keep_known(frame, known)["split"].to_list() == ["test", "validation"]


def test_a_renamed_candidate_takes_over_group_and_split():
    known = pl.DataFrame({"candidate_id": ["7"], "group_id": ["7"], "split": ["validation"]})
    frame = pl.DataFrame({"candidate_id": ["007"], "group_id": ["007"], "split": ["test"]})
    kept = inputs.keep_known(frame, known, renamed={"007": "7"})
    assert kept.rows() == [("007", "7", "validation")]
