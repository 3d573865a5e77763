"""Tables for people: what a frame holds, as they read it, and nothing of it as HTML."""

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest

from arislab.review.table import Table, as_of

HOSTILE = "<img src=x onerror='window.pwned = 1'>\u202e $5 and $9"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([None, float("nan"), 0.25, 1234.5], ["–", "–", "0.250", "1,234.500"]),
        ([34_000, 0, None], ["34,000", "0", "–"]),
        ([True, False, None], ["yes", "no", "–"]),
        (["approve", "", "a\nb"], ["approve", "", "a\nb"]),
        ([["a", "b"], []], ["a, b", "–"]),
        ([{"n_rows": 3, "share": None}], ["n rows 3, share –"]),
        ([datetime(2026, 11, 28, 13, 5, tzinfo=timezone(timedelta(hours=2)))], ["2026-11-28 11:05 UTC"]),
    ],
)
def test_values_are_written_as_people_write_them(values, shown):
    table = Table(pl.DataFrame({"n_rows": values}))
    assert (table.names, [row for (row,) in table.rows]) == (["n rows"], shown)


def test_what_strangers_wrote_is_text_in_cells_names_and_caption():
    page = Table(pl.DataFrame({HOSTILE: [HOSTILE]}), caption=HOSTILE)._repr_html_()
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=&#x27;window.pwned = 1&#x27;&gt;<mark>U+202E</mark> $5 and $9") == 3
    assert "tex2jax_ignore" in page, "nor is it a formula"
    assert "str" not in page.replace("strong", "")
    plain = repr(Table(pl.DataFrame({"note": ["\x1b[31mred\n"]})))
    assert "\x1b" not in plain
    assert len(plain.splitlines()) == 2


def test_an_empty_frame_has_its_names_alone():
    assert repr(Table(pl.DataFrame(schema={"reviewer": pl.String, "n": pl.Int64}))) == "reviewer  n"


def test_a_moment_is_told_in_utc():
    assert as_of(datetime(2026, 11, 28, 12, 0, 5, tzinfo=UTC)).startswith(
        "as of 2026-11-28 12:00:05 UTC; load the page"
    )
