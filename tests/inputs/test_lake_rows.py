import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, TEXT, VALUES

from arislab.errors import PrerequisiteError, TaskError
from arislab.inputs import files, lake_rows
from arislab.inputs.files import Rows
from arislab.lake import tables
from arislab.system import json_text


def rows(*values, name="people.jsonl"):
    return Rows(name, list(values), range(1, len(values) + 1))


COOK = "boils eggs for many hungry people every day"
PROFILES = (
    {"nr": 1, "title": "Cook", "text": COOK, "firm": "A"},
    {"nr": 2, "title": "Cook", "text": COOK, "firm": "B"},
    {"nr": 3, "title": "Pilot", "text": "flies far", "firm": "A"},
)


NOBODY = pl.DataFrame(schema=dict.fromkeys(("candidate_id", "profile", "group_id", "split"), pl.String))


def imported(file, *, asked=lake_rows.by_profile, known=NOBODY, fixed=(), renamed=None, **how):
    frame = lake_rows.candidates(file, **how)
    return lake_rows.placed(frame, known, asked=asked, fixed=fixed, renamed=renamed).frame


def test_a_users_own_profiles_become_candidates():
    frame = imported(rows(*PROFILES), id="nr", asked=lake_rows.by_column("text"))
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
    frame = lake_rows.candidates(files.read(path), id="id")
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
    frame = imported(files.read(path), id="id")
    assert frame["profile"].str.len_chars().max() < 60
    assert frame["group_id"].n_unique() == 30


def test_near_duplicates_are_sought_in_what_is_asked_not_in_ids_and_gold():
    people = [
        {"nr": f"{i:09d} x{i} y{i} z{i}", "gold": f"answer {i} of {i * 7} and {i * 13}", "q": COOK} for i in range(4)
    ]
    alone = imported(rows(*people), id="nr")
    asked = imported(rows(*people), id="nr", asked=lambda candidate: candidate["profile"]["q"])
    by_text = imported(rows(*people), id="nr", asked=lake_rows.by_column("q"))
    assert alone["group_id"].n_unique() == 4
    assert asked["group_id"].n_unique() == by_text["group_id"].n_unique() == 1


def test_people_with_names_of_thirty_digits_are_placed(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(f'{{"id":{10**30 + i},"t":"{t}"}}' for i, t in enumerate("ab")))
    frame = imported(files.read(path), id="id")
    assert frame["candidate_id"].to_list() == [str(10**30), str(10**30 + 1)]
    assert frame["group_id"].n_unique() == 2


def test_a_name_is_no_part_of_what_is_compared():
    frame = imported(rows(*[{"nr": f"no {i} of {i * 7}", "q": COOK} for i in range(3)]), id="nr")
    assert frame["group_id"].n_unique() == 1


def test_a_given_group_is_kept_and_joined_by_near_duplicates():
    people = [p | {"nr": i} for i, p in enumerate(PROFILES)] + [{"nr": 3, "text": COOK + "!", "firm": None}]
    frame = imported(rows(*people[1:]), id="nr", group="firm", asked=lake_rows.by_column("text"))
    assert frame["group_id"].to_list() == ["g-B", "g-A", "g-B"]
    assert frame["split"].to_list() == [tables.split_of(group) for group in frame["group_id"]]


def test_a_blank_group_is_no_group():
    people = [
        {"nr": i, "text": f"person {i} " + "abcdefghij"[i] * 9, "g": g} for i, g in enumerate(["", " ", None, "x", "x"])
    ]
    frame = imported(rows(*people), id="nr", group="g", asked=lake_rows.by_column("text"))
    assert frame["group_id"].n_unique() == 4
    assert frame["group_id"][3] == frame["group_id"][4] == "g-x"


def test_a_text_that_two_groups_share_leaves_the_test_split_and_merges_nothing():
    hidden = next(f for f in map(str, range(99)) if tables.split_of(f"g-{f}") == "test")
    seen = next(f for f in map(str, range(99)) if tables.split_of(f"g-{f}") == "train")
    people = [
        {"nr": 1, "text": COOK, "firm": hidden},
        {"nr": 2, "text": COOK.upper(), "firm": seen},
        {"nr": 3, "text": "flies far", "firm": hidden},
    ]
    frame = imported(rows(*people), id="nr", group="firm", asked=lake_rows.by_column("text"))
    assert frame["group_id"].to_list() == [f"g-{hidden}", f"g-{seen}", f"g-{hidden}"]
    assert frame["split"].to_list() == [None, "train", "test"]


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
        lake_rows.candidates(rows({"nr": "a"}, {"nr": value}), id="nr")


def test_an_unknown_column_is_refused_with_the_closest():
    with pytest.raises(PrerequisiteError, match=r"--id 'txt' is no column .* did you mean 'text'"):
        lake_rows.candidates(rows(*PROFILES), id="txt")


def test_the_split_of_the_file_is_the_split():
    marked = [
        p | {"part": part, "text": f"{p['text']} {part}"}
        for p, part in zip(PROFILES, ("test", "train", "validation"), strict=True)
    ]
    frame = imported(rows(*marked), id="nr", split="part")
    assert frame["split"].to_list() == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train", "train", "dev"), "line 3: --split 'part' must be one of train, validation, test, got 'dev'"),
        (("train", "train", None), "line 3: .*got None"),
        (
            ("train", "test", "test"),
            "line 3: the row is marked test, line 1 is marked train, and both are of group 'g-A'",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused_by_line(parts, message):
    marked = [p | {"part": part} for p, part in zip(PROFILES, parts, strict=True)]
    with pytest.raises(PrerequisiteError, match=message):
        lake_rows.candidates(rows(*marked), id="nr", group="firm", split="part")


def test_near_duplicates_in_two_splits_are_refused_by_line():
    file = rows(*[p | {"part": part} for p, part in zip(PROFILES, ("train", "test", "test"), strict=True)])
    frame = lake_rows.candidates(file, id="nr", split="part")
    placed = lake_rows.placed(frame, NOBODY, asked=lake_rows.by_column("text")).frame
    with pytest.raises(
        PrerequisiteError, match=r"line 2: the row is marked test, line 1 is marked train, .*near-duplicates"
    ):
        lake_rows.refuse_torn_groups(file, frame, placed)


RECORDED = (
    {"q": "1+1", "a": "2", "who": "m1", "gt": 2},
    {"q": "1+1", "a": "3", "who": "m2", "gt": 2},
    {"q": "2+2", "a": "4", "who": "m1", "gt": 4},
    {"q": "3+3", "a": None, "who": "m1", "gt": 6},
)


def test_outputs_of_one_input_are_samples_of_one_candidate():
    people, raw = lake_rows.outputs(rows(*RECORDED), task="sums", input="q", output="a", model="who", keep=["gt"])
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
    _, raw = lake_rows.outputs(files.read(path), task="t", input="q", output="a", keep=["k"])
    assert raw["input"].to_list() == ['[{"role":"user","content":"hi"}]', "x"]
    assert raw["llm_output"].to_list() == ['{"z":1.0,"b":[]}', "false"]
    assert raw["metadata"].to_list() == ['{"k":12345678901234567890}', "{}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("output", "rename the column"), ("split", "--split decides"), ("score_x", "rename"), ("others", "rename")],
)
def test_a_name_that_scorers_know_otherwise_cannot_be_kept(name, message):
    with pytest.raises(PrerequisiteError, match=f"--keep '{name}': .*{message}"):
        lake_rows.outputs(
            rows({"q": "x", "a": "y", name: 1}),
            task="t",
            input="q",
            output="a",
            keep=[name],
            reserved={"output", "split", "others"},
        )


def test_all_outputs_of_a_candidate_have_one_split():
    marked = [r | {"part": part} for r, part in zip(RECORDED, ("test", "test", "train", "validation"), strict=True)]
    people, _ = lake_rows.outputs(rows(*marked), task="t", input="q", output="a", split="part")
    assert people["split"].to_list() == ["test", "train", "validation"]
    with pytest.raises(
        PrerequisiteError, match="line 2: the row is marked train, line 1 about the same candidate test"
    ):
        lake_rows.outputs(
            rows(*[marked[0], marked[1] | {"part": "train"}]), task="t", input="q", output="a", split="part"
        )


def test_an_output_without_the_name_of_its_candidate_is_refused_by_line():
    with pytest.raises(PrerequisiteError, match="line 2: --id 'who' is empty"):
        lake_rows.outputs(rows(RECORDED[0], RECORDED[1] | {"who": ""}), task="t", input="q", output="a", id="who")


@pytest.mark.parametrize(
    ("column", "values", "how", "message"),
    [
        ("nr", ["a", " "], {}, "file.parquet row 2: --id 'nr' is empty"),
        ("nr", ["a", "a"], {}, r"file.parquet row 2: --id 'nr' 'a' stands 2 times \(first in row 1\)"),
        ("part", ["test", "dev"], {"split": "part"}, "file.parquet row 2: --split 'part' must be one of"),
        (
            "part", ["test", "train"], {"split": "part", "group": "firm"},
            "row 2: the row is marked train, row 1 is marked test",
        ),
        (
            "part", ["test", "train"], {"split": "part"},
            "row 2: the row is marked train, row 1 is marked test, .*near-duplicates",
        ),
        (
            "part", ["test", "train"], {"split": "part", "input": "text"},
            "row 2: the row is marked train, row 1 about the same candidate test",
        ),
        ("who", ["a", None], {"id": "who", "input": "text"}, "file.parquet row 2: --id 'who' is empty"),
        ("n", ["1", "one"], {"types": {"n": "int"}}, "file.parquet row 2: 'n' is 'one', no int"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_parquet_file_is_named_by_row(tmp_path, column, values, how, message):
    """A Parquet file has no lines: who looks for line 2 of it opens an editor and finds none."""
    columns = {"nr": ["a", "b"], "firm": "A", "text": COOK, column: values}
    pl.DataFrame(columns).write_parquet(tmp_path / "file.parquet")

    def read(*, types=None, **how):
        file = files.read(tmp_path / "file.parquet", types=types)
        if "input" in how:
            return lake_rows.outputs(file, task="t", output="firm", **how)
        frame = lake_rows.candidates(file, **{"id": "nr"} | how)
        placed = lake_rows.placed(frame, NOBODY, asked=lake_rows.by_column("text")).frame
        return lake_rows.refuse_torn_groups(file, frame, placed)

    with pytest.raises(PrerequisiteError, match=message) as refused:
        read(**how)
    assert "line" not in str(refused.value)


def test_importing_twice_gives_the_same_rows_and_any_change_another_id():
    def ids(**how):
        return lake_rows.outputs(rows(*RECORDED), task="sums", input="q", output="a", **how)[1]["custom_id"].to_list()

    assert ids() == ids()
    assert ids(model="who") != ids()


def test_the_order_of_a_file_names_no_row_and_equal_rows_stay_apart():
    twice = [*RECORDED, RECORDED[0]]
    first = lake_rows.outputs(rows(*twice), task="sums", input="q", output="a")[1]
    other = lake_rows.outputs(rows(*twice[::-1]), task="sums", input="q", output="a")[1]
    assert first["custom_id"].n_unique() == 5
    assert set(first["custom_id"]) == set(other["custom_id"])


SAME_FOLDER = settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=5))
def test_outputs_are_read_back_as_they_were_written(tmp_path, values):
    path = tmp_path / "o.jsonl"
    path.write_text("\n".join(json.dumps({"q": q, "a": a, "kept": k}) for q, a, k in values))
    people, raw = lake_rows.outputs(files.read(path), task="t", input="q", output="a", keep=["kept"])

    def text(value):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert raw["llm_output"].to_list() == [None if a is None else text(a) for _, a, _ in values]
    assert raw["input"].to_list() == ["" if q is None else text(q) for q, _, _ in values]
    assert [repr(json.loads(m)) for m in raw["metadata"]] == [repr({"kept": k}) for _, _, k in values]
    assert raw["custom_id"].n_unique() == len(values)
    assert set(raw["candidate_id"]) == set(people["candidate_id"])


@pytest.mark.slow
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
    frame = imported(files.read(path), id="id")
    assert frame["candidate_id"].to_list() == list(people)
    assert [repr(json.loads(p)) for p in frame["profile"]] == [repr({"id": n} | f) for n, f in people.items()]
    assert frame["title"].to_list() == [json_text.as_text(f.get("title")) for f in people.values()]
    assert frame["split"].null_count() == 0


def test_a_known_candidate_keeps_group_and_split_when_a_larger_file_comes():
    how = {"id": "nr", "asked": lake_rows.by_column("text")}
    first = imported(rows(*PROFILES[1:]), **how)
    grown = imported(rows(*PROFILES), known=first, fixed=first["candidate_id"].to_list(), **how)
    before = {r["candidate_id"]: (r["group_id"], r["split"]) for r in first.to_dicts()}
    after = {r["candidate_id"]: (r["group_id"], r["split"]) for r in grown.to_dicts()}
    assert {k: after[k] for k in before} == before
    assert after["1"] == after["2"]  # the new near-duplicate follows the group that was there


def known(name, group, split, text="x"):
    return pl.DataFrame(
        {"candidate_id": [name], "profile": [json.dumps({"text": text})], "group_id": [group], "split": [split]}
    )


def test_a_near_duplicate_of_a_known_candidate_joins_its_group_though_the_file_has_it_not():
    frame = imported(
        rows(PROFILES[0]), id="nr", known=known("old", "g-old", "validation", COOK), asked=lake_rows.by_column("text")
    )
    assert frame.select("group_id", "split").rows() == [("g-old", "validation")]


def test_a_new_member_of_a_known_group_follows_its_split_whatever_its_hash():
    frame = imported(rows({"nr": "new", "firm": "A"}), id="nr", group="firm", known=known("old", "g-A", "test"))
    assert frame["split"].to_list() == ["test"]


def test_what_was_trained_on_never_becomes_test():
    for split in ("train", "validation", "test"):
        frame = imported(
            rows({"nr": "7", "firm": "A"}), id="nr", group="firm", known=known("7", "7", split), fixed=["7"]
        )
        assert frame.select("group_id", "split").rows() == [("7", split)]


def test_a_renamed_candidate_takes_over_group_and_split():
    frame = imported(rows({"nr": "007"}), id="nr", known=known("7", "g", "validation"), renamed={"007": "7"})
    assert frame.select("candidate_id", "group_id", "split").rows() == [("007", "g", "validation")]


def test_a_task_that_knows_no_question_about_somebody_in_the_lake_hinders_nobody():
    def asked(candidate):
        if "q" not in candidate["profile"]:
            raise TaskError("no q")
        return candidate["profile"]["q"]

    assert imported(rows({"nr": 1, "q": "x"}), id="nr", known=known("old", "g", "train"), asked=asked).height == 1
    with pytest.raises(TaskError):
        imported(rows({"nr": 1}), id="nr", asked=asked)


@pytest.mark.parametrize("messages", [None, "3 unread", 7, True, {"n": 2}, [], ["hi", 4], [{"content": "x"}, "hi"]])
def test_a_column_messages_that_is_no_chat_hinders_no_import(messages):
    profile = json.dumps({"name": "Ida", "messages": messages})
    ida = known("ida", "g", "train").with_columns(profile=pl.lit(profile))
    people, _ = lake_rows.outputs(rows({"q": "Where is Ulm?", "a": "On the Danube."}), task="t", input="q", output="a")
    assert lake_rows.placed(people, ida, asked=lake_rows.by_input).frame.height == 1
    assert lake_rows.by_input({"profile": {"input": "Where?", "messages": messages}}) == "Where?"
