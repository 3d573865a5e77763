"""What older imports made of a text."""

import polars as pl
import pytest

from arislab.inputs import earlier


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("007", ["7", "7.0"]),
        ("9007199254740993", ["9007199254740992.0"]),
        ("00012", ["12", "12.0"]),
        ("FALSE", ["false"]),
        ("12", ["12.0"]),
        ("-.5", ["-0.5"]),
        ("1_000", []),
        ("1e999", ["inf"]),
        ("abc", []),
        ("", []),
    ],
)
def test_spellings_are_what_older_imports_made_of_a_text(text, others):
    assert set(others) <= set(earlier.spellings(text))
    assert text not in earlier.spellings(text)
    assert bool(earlier.spellings(text)) == bool(others)


def test_another_row_that_happens_to_be_named_so_is_no_older_one():
    known = pl.DataFrame({"candidate_id": ["7"], "profile": ['{"badge":7,"text":"somebody else"}']})
    frame = pl.DataFrame({"candidate_id": ["007"], "profile": ['{"badge":"007","text":"x y"}']})
    assert earlier.renamed(frame, known) == {}
    both = pl.DataFrame({"candidate_id": ["007", "7"], "profile": ['{"badge":"007"}', '{"badge":"7"}']})
    assert earlier.renamed(both, known.with_columns(profile=pl.lit('{"badge":7}'))) == {}
