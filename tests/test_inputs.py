import json

import polars as pl
import pytest

from arislab import inputs
from arislab.errors import PrerequisiteError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_each_format_gives_the_same_rows(tmp_path):
    frame = pl.DataFrame({"id": ["a", "b"], "skill": ["x, y", 'say "hi"\nthere']})
    frame.write_csv(tmp_path / "p.csv")
    frame.write_parquet(tmp_path / "p.parquet")
    frame.write_ndjson(tmp_path / "p.jsonl")
    for name in ("p.csv", "p.parquet", "p.jsonl"):
        assert inputs.read_file(tmp_path / name).equals(frame), name


def test_jsonl_is_split_at_newlines_only(tmp_path):
    odd = "a\u2028b\u0085c"
    path = write(tmp_path / "o.jsonl", json.dumps({"x": odd}, ensure_ascii=False) + "\n\n" + json.dumps({"x": "d"}))
    assert inputs.read_file(path)["x"].to_list() == [odd, "d"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": 2}\n{"x": ', "line 3 of 3: the last line is torn"),
        ("a.jsonl", '{"x": 1}\nnope}\n{"x": 2}\n', "line 2 of 3: this line is not JSON"),
        ("a.jsonl", '{"x": 1}\n[2]\n', "a JSON object is needed, got list"),
        ("a.jsonl", "", "has no rows"),
        ("a.csv", "id,x\n", "has no rows"),
        ("a.xlsx", "x", "the ending must be .csv, .jsonl or .parquet"),
        ("a.parquet", "x", "cannot read a.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_message(tmp_path, name, text, message):
    with pytest.raises(PrerequisiteError, match=message):
        inputs.read_file(write(tmp_path / name, text))


def test_a_missing_file_is_one_clear_message(tmp_path):
    with pytest.raises(PrerequisiteError, match="there is no file"):
        inputs.read_file(tmp_path / "none.csv")


PROFILES = pl.DataFrame(
    {
        "nr": [1, 2, 3],
        "title": ["Cook", "Cook", "Pilot"],
        "text": [
            "boils eggs for many hungry people every day",
            "boils eggs for many hungry people every day",
            "flies far",
        ],
        "firm": ["A", "B", "A"],
    }
)


def test_a_users_own_profiles_become_candidates():
    frame = inputs.candidates(PROFILES, id="nr", text="text")
    assert frame["candidate_id"].to_list() == ["1", "2", "3"]
    assert json.loads(frame["profile"][2]) == {"nr": 3, "title": "Pilot", "text": "flies far", "firm": "A"}
    assert frame["title"].to_list() == ["Cook", "Cook", "Pilot"]
    assert frame["group_id"][0] == frame["group_id"][1] != frame["group_id"][2]  # near-duplicates share a group
    assert frame["split"][0] == frame["split"][1]


def test_a_given_group_decides_the_split():
    frame = inputs.candidates(PROFILES, id="nr", group="firm")
    assert frame["group_id"].to_list() == ["g-A", "g-B", "g-A"]


def test_repeated_empty_and_unknown_ids_are_refused():
    with pytest.raises(PrerequisiteError, match="'Cook' 2 times"):
        inputs.candidates(PROFILES, id="title")
    with pytest.raises(PrerequisiteError, match="must be unique and never empty"):
        inputs.candidates(PROFILES.with_columns(nr=pl.Series([1, None, 3])), id="nr")
    with pytest.raises(PrerequisiteError, match="did you mean 'text'"):
        inputs.candidates(PROFILES, id="txt")


RECORDED = pl.DataFrame(
    {"q": ["1+1", "1+1", "2+2", "3+3"], "a": ["2", "3", "4", None], "who": ["m1", "m2", "m1", "m1"], "gt": [2, 2, 4, 6]}
)


def test_outputs_of_one_input_are_samples_of_one_candidate():
    people, raw = inputs.outputs(RECORDED, task="sums", input="q", output="a", model="who", keep=["gt"])
    assert (people.height, raw.height) == (3, 4)
    assert raw["sample"].to_list() == [0, 1, 0, 0]
    assert raw["status"].to_list() == ["ok", "ok", "ok", "empty"]
    assert raw["candidate_id"].n_unique() == 3
    assert json.loads(raw["metadata"][0]) == {"gt": 2}
    assert json.loads(people["profile"][0]) == {"input": "1+1"}
    assert raw["custom_id"].n_unique() == 4


def test_importing_twice_gives_the_same_rows_and_any_change_another_id():
    first = inputs.outputs(RECORDED, task="sums", input="q", output="a")[1]["custom_id"].to_list()
    assert inputs.outputs(RECORDED, task="sums", input="q", output="a")[1]["custom_id"].to_list() == first
    assert inputs.outputs(RECORDED, task="sums", input="q", output="a", model="who")[1]["custom_id"].to_list() != first


def test_batch_files_are_joined_by_custom_id_and_nothing_is_lost(tmp_path):
    def ask(n):
        return {
            "custom_id": f"x{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": f"q{n}"}]},
        }

    def answer(n, text):
        body = {
            "choices": [{"finish_reason": "stop", "message": {"content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
        return {"custom_id": f"x{n}", "response": {"status_code": 200, "body": body}, "error": None}

    asked = write(tmp_path / "in.jsonl", "\n".join(json.dumps(ask(n)) for n in range(4)))
    failed = {"custom_id": "x1", "response": None, "error": {"code": "batch_expired", "message": "late"}}
    came = write(tmp_path / "out.jsonl", "\n".join(json.dumps(x) for x in (answer(2, "b"), answer(0, "a"), failed)))
    people, raw = inputs.from_batch_files(asked, came, task="t")
    assert raw["status"].to_list() == ["ok", "expired", "ok", "unavailable"]
    assert raw["llm_output"].to_list() == ["a", None, "b", None]
    assert people.height == 4
    foreign = write(tmp_path / "foreign.jsonl", json.dumps(answer(9, "z")))
    with pytest.raises(PrerequisiteError, match="do not belong together"):
        inputs.from_batch_files(asked, foreign, task="t")


def test_the_same_request_several_times_is_several_samples(tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    asked = [{"custom_id": f"x{n}", "body": body} for n in range(4)]
    came = [
        {
            "custom_id": f"x{n}",
            "response": {
                "status_code": 200,
                "body": {"choices": [{"finish_reason": "stop", "message": {"content": f"a{n}"}}]},
            },
        }
        for n in range(4)
    ]
    one = write(tmp_path / "in.jsonl", "\n".join(map(json.dumps, asked)))
    two = write(tmp_path / "out.jsonl", "\n".join(map(json.dumps, came)))
    people, raw = inputs.from_batch_files(one, two, task="t")
    assert (people.height, raw.height, raw["custom_id"].n_unique()) == (1, 4, 4)
    assert raw["llm_output"].to_list() == ["a0", "a1", "a2", "a3"]


def test_the_order_of_a_file_names_no_row_and_equal_rows_stay_apart():
    twice = pl.concat([RECORDED, RECORDED.head(1)])
    first = inputs.outputs(twice, task="sums", input="q", output="a")[1]
    other = inputs.outputs(twice.reverse(), task="sums", input="q", output="a")[1]
    assert first["custom_id"].n_unique() == 5
    assert set(first["custom_id"]) == set(other["custom_id"])


def test_a_known_candidate_keeps_group_and_split_when_a_larger_file_comes():
    first = inputs.candidates(PROFILES.tail(2), id="nr", text="text")
    grown = inputs.keep_known(inputs.candidates(PROFILES, id="nr", text="text"), first)
    before = {r["candidate_id"]: (r["group_id"], r["split"]) for r in first.to_dicts()}
    after = {r["candidate_id"]: (r["group_id"], r["split"]) for r in grown.to_dicts()}
    assert {k: after[k] for k in before} == before
    assert after["1"] == after["2"]  # the new near-duplicate follows the group that was there
