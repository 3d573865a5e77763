"""What of a row is a person's, and what is only their name in the row of somebody else."""

import html
import json

import polars as pl
import pytest

from arislab.forgetting.person import Person

GONE, ALIKE, OTHER = "r-" + "a" * 40, "r-" + "a" * 39 + "b", "r-" + "b" * 40
TEXT = 'Title: "Baker" & more\nSkills: bread, rolls and 7 kinds of cake'
PERSON = Person("R", ["p-00001"], [GONE, "pair-000001"], [(TEXT[:24], TEXT)])


@pytest.mark.parametrize(
    ("table", "rows", "left"),
    [
        ("judgements", {"custom_id": [OTHER, OTHER], "other_id": [GONE, None]},
         {"custom_id": [OTHER], "other_id": [None]}),
        ("arm_votes", {"pair_id": ["pair-000001", "pair-0000011"]}, {"pair_id": ["pair-0000011"]}),
        ("candidates", {"candidate_id": ["p-00001", "p-000011"], "group_id": ["p-00001", "p-00001"]},
         {"candidate_id": ["p-000011"], "group_id": ["forgotten-R-1"]}),
        ("training_data_scored", {"custom_id": [OTHER], "duplicate_of": [GONE]},
         {"custom_id": [OTHER], "duplicate_of": ["forgotten-R-2"]}),
        ("perplexities", {"custom_id": [GONE, ALIKE], "task": [ALIKE, f"{ALIKE} {GONE[:20]}…"]},
         {"custom_id": [ALIKE], "task": [f"{ALIKE} [forgotten R]…"]}),
        ("training_rows", {"id": [GONE, OTHER]}, {"id": ["forgotten-R-2", OTHER]}),
        ("certified_rows", {"custom_id": [GONE], "shown_sha256": ["5c1e"]},
         {"custom_id": ["forgotten-R-2"], "shown_sha256": ["[forgotten R]"]}),
        ("icl_trials", {"example_ids": [[OTHER, GONE], [OTHER]]}, {"example_ids": [[OTHER, "forgotten-R-2"], [OTHER]]}),
        ("reviews", {"custom_id": [OTHER], "note": ["like p-00001, not p-00001-b"]},
         {"custom_id": [OTHER], "note": ["like forgotten-R-1, not p-00001-b"]}),
    ],
)  # fmt: skip
def test_a_row_about_them_goes_and_a_row_that_names_them_stays_whole(table, rows, left):
    new, n = PERSON.frame(pl.DataFrame(rows), table)
    assert new.to_dict(as_series=False) == left
    assert n >= 1
    assert PERSON.frame(new, table)[1] == 0


@pytest.mark.parametrize(
    "wrote",
    [
        str,
        json.dumps,
        lambda text: json.dumps(json.dumps({"content": text})),
        html.escape,
        lambda text: text[:40] + "…",
    ],
)
def test_a_text_is_found_however_it_is_written(wrote):
    told, n = PERSON.leaf(f"of {wrote(TEXT)} and of others")
    assert n == 1
    assert "Baker" not in told
    assert "bread" not in told
    assert told.startswith("of ")
    assert told.endswith(" and of others")


def test_a_name_that_is_short_is_one_only_where_a_field_says_so():
    short = Person("R", ["7"])
    assert short.value({"candidate_id": "7", "n": "7", "note": "7 of 7"}) == (
        {"candidate_id": "forgotten-R-1", "n": "7", "note": "7 of 7"},
        1,
    )
    assert short.is_about({"candidate_id": "7"})
    assert not short.is_about({"candidate_id": "77"})
