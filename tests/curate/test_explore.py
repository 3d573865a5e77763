"""The distribution explorer, by its controls, without a front end."""

import polars as pl
import pytest

from arislab import curate
from arislab.curate import explore
from arislab.errors import ParameterError


@pytest.fixture
def scored():
    return pl.DataFrame(
        {
            "custom_id": [f"r-{i}" for i in range(10)],
            "quality": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9, 0.9, 0.9, None],
            "score_length": [0.5] * 10,
            "category": ["a"] * 6 + ["<b>"] * 3 + [None],
            "difficulty": [0.1, 0.9] * 5,
            "llm_output": ["<script>x</script>"] * 10,
        }
    )


def test_a_fraction_keeps_all_ties_and_counts_them(scored):
    cut = explore.cut(scored, by="quality", fraction=0.2)
    assert (cut.threshold, cut.rows, cut.unscored, cut.kept, cut.ties) == (0.9, 10, 1, 3, 3)
    assert str(cut) == "kept 3 of 10 rows (30.0%) at 0.900 or above; 3 lie exactly there; 1 unscored"
    assert explore.cut(scored, by="quality", fraction=1.0).kept == 9
    assert explore.cut(scored[:0], by="quality", fraction=0.2).kept == 0


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.35, 0.5])
def test_without_ties_a_cut_keeps_as_many_as_the_phase_does(fraction):
    for n in (1, 3, 6, 30, 59):
        frame = pl.DataFrame({"custom_id": [f"r-{i}" for i in range(n)], "quality": [i / n for i in range(n)]})
        kept = curate.keep_top(frame, fraction=fraction).n_kept
        assert explore.cut(frame, by="quality", fraction=fraction).kept == kept


def test_a_threshold_keeps_what_lies_at_or_above_it(scored):
    cut = explore.cut(scored, by="quality", threshold=0.5)
    assert (cut.kept, cut.ties) == (5, 1)
    assert explore.cut(scored, by="quality", threshold=0.0).kept == 9


@pytest.mark.parametrize("bad", [{}, {"fraction": 0.2, "threshold": 0.5}, {"fraction": 20}, {"fraction": 0}])
def test_a_cut_that_means_nothing_is_refused(scored, bad):
    with pytest.raises(ParameterError, match="keeps one row in five"):
        explore.cut(scored, by="quality", **bad)


def test_the_balance_shows_each_group_before_and_after(scored):
    table = explore.balance(scored, by="quality", group="category", threshold=0.6)
    assert table.select("category", "rows", "kept").rows() == [("a", 6, 1), ("<b>", 3, 3), ("unknown", 1, 0)]
    assert table["before"].to_list() == pytest.approx([0.6, 0.3, 0.1])
    assert table["after"].to_list() == pytest.approx([0.25, 0.75, 0])
    table = explore.balance(scored, by="quality", group="difficulty", threshold=0.6)
    assert set(table["difficulty"]) == {"0 - 0.25", "0.75 - 1"}


def test_the_controls_change_cut_picture_and_rows(scored):
    explorer = curate.Explorer(scored)
    assert explorer.group == "category"
    _, _, account, picture, _, rows = explorer.widget.children
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert "kept 3 of 10" in account.value
    before, controls = bytes(picture.value), explorer.controls
    controls["how"].value = "threshold"
    controls["threshold"].value = 0.5
    assert "kept 5 of 10" in account.value
    assert bytes(picture.value) != before
    controls["rows"].click()
    assert rows.value.count("<tr>") == 6
    assert "<script" not in rows.value
    controls["side"].value = "dropped"
    controls["rows"].click()
    assert rows.value.count("<tr>") == 5
    controls["group"].value = None
    controls["by"].value = "score_length"
    assert "kept 9 of 10" not in account.value
    assert "kept 10 of 10" in account.value
    assert rows.value == ""


def test_rows_come_from_the_side_that_was_asked_for(scored):
    explorer = curate.Explorer(scored, fraction=0.2)
    assert set(explorer.sample(side="kept", seed=0)["custom_id"]) == {"r-6", "r-7", "r-8"}
    assert set(explorer.sample(side="at the cut", seed=0)["quality"]) == {0.9}
    assert explorer.sample(2, side="dropped", seed=0).height == 2
    with pytest.raises(ParameterError, match="did you mean 'dropped'"):
        explorer.sample(side="droped")


def test_unknown_columns_are_refused_with_the_closest_one(scored):
    with pytest.raises(ParameterError, match="did you mean 'quality'"):
        curate.Explorer(scored, by="qualty")
    with pytest.raises(ParameterError, match="did you mean 'category'"):
        curate.Explorer(scored, group="categories")


def test_in_a_run_a_picture_and_a_table_show_instead(scored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    curate.Explorer(scored)._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert {"image/png", "text/plain"} < set(shown[0])
    monkeypatch.setenv("ARISLAB_RUN_ID", "r1")
    shown.clear()
    curate.Explorer(scored)._ipython_display_()
    assert set(shown[0]) == {"image/png", "text/plain"}
    assert shown[1].columns == ["category", "rows", "kept", "before", "after"]


def test_without_scored_rows_it_says_what_to_run_first(scored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    explorer = curate.Explorer(scored[:0])
    explorer._ipython_display_()
    assert "arislab run curate" in shown[0]["text/plain"]
    assert explorer.balance.is_empty()
    assert bytes(explorer.widget.children[3].value).startswith(b"\x89PNG")
