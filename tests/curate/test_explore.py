"""The explorer without a front end: what it keeps, says, and does when the browser tells it of a brush."""

import json

import numpy as np
import polars as pl
import pytest
from toys import CHECKOUT

from arislab import curate
from arislab.curate import binned, chosen
from arislab.curate.labels import Labels
from arislab.errors import ParameterError

CUT = {"rule": "top", "fraction": 0.2, "threshold": 0.5}


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


def many(n=3000, seed=1):
    """Rows with ties, near-duplicates, rows without quality, a long tail of lengths, and more names than are shown."""
    draw = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "custom_id": [f"r-{i}" for i in range(n)],
            "quality": draw.beta(4, 2, n).round(2),
            "score_short": draw.random(n).round(3),
            "length": draw.lognormal(6, 1, n).astype(int),
            "category": draw.choice([f"kind {i}" for i in range(15)], n),
            "model": draw.choice(["<img src=x>", 'quo"te', "\u202eturned", "plain"], n),
        }
    )
    is_odd = np.arange(n) % 17 == 0
    copies = np.where(np.arange(n) % 5 == 4, "r-0", None)
    return frame.with_columns(
        quality=pl.when(pl.Series(is_odd)).then(None).otherwise("quality"),
        category=pl.when(pl.Series(is_odd)).then(None).otherwise("category"),
        duplicate_of=pl.Series(copies.tolist(), dtype=pl.String),
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("selection", ["", 'score_short >= 0.25 and category in ("kind 1", "kind 2", "kind 3")'])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 1.0])
def test_a_share_keeps_the_very_rows_that_2_curate_keeps(fraction, selection, seed):
    known = many()
    explorer = curate.Explorer(known, fraction=fraction, selection=selection, seed=seed)
    unique = chosen.held(known.filter(pl.col("duplicate_of").is_null()), selection)
    cut = curate.keep(unique, rule="top", fraction=fraction, threshold=0.8, seed=seed)
    assert explorer.cut.kept["custom_id"].to_list() == cut.kept["custom_id"].to_list()
    assert repr(explorer.cut) == repr(cut)
    assert explorer.n_copies == known["duplicate_of"].count() == 600


def test_a_threshold_keeps_the_very_rows_that_2_curate_keeps():
    known = many()
    explorer = curate.Explorer(known, threshold=0.62)
    cut = curate.keep(known.filter(pl.col("duplicate_of").is_null()), rule="above", fraction=0.2, threshold=0.62)
    assert explorer.cut.kept["custom_id"].to_list() == cut.kept["custom_id"].to_list()
    assert explorer.cut.n_tied_at_cut == cut.n_tied_at_cut > 1


@pytest.mark.parametrize("bad", [{"fraction": 20}, {"fraction": 0}, {"threshold": 1.2}])
def test_a_cut_that_means_nothing_is_refused(scored, bad):
    with pytest.raises(ParameterError, match=r"must be in [(\[]0, 1\], got"):
        _ = curate.Explorer(scored, **bad).cut


def test_the_balance_shows_each_group_before_and_after(scored):
    table = curate.Explorer(scored, threshold=0.6, group="category").balance
    assert table.select("category", "rows", "kept").rows() == [("a", 6, 1), ("<b>", 3, 3), ("unknown", 1, 0)]
    assert table["before"].to_list() == pytest.approx([0.6, 0.3, 0.1])
    assert table["after"].to_list() == pytest.approx([0.25, 0.75, 0])
    table = curate.Explorer(scored, threshold=0.6, group="difficulty").balance
    assert set(table["difficulty"]) == {"0 - 0.25", "0.75 - 1"}


def test_the_group_that_is_shown_has_more_than_one_value(scored):
    assert curate.Explorer(scored.with_columns(category=pl.lit("one"))).group == "difficulty"
    assert curate.Explorer(scored.select("custom_id", "quality", category=pl.lit("one"))).group == "category"


# ---- what the browser is given, and what it tells ------------------------------------------------------------------


def codes(explorer):
    """The block as the browser reads it: scores, and the codes by column."""
    made = explorer.widget
    n = made.about["n"]
    scores = np.frombuffer(made.block[: 8 * n])
    columns = np.frombuffer(made.block[8 * n :], dtype=np.uint8).reshape(-1, n)
    return scores, dict(zip([c["name"] for c in made.about["columns"]], columns, strict=True))


def test_the_block_has_a_row_at_the_place_of_its_rank_and_a_byte_a_column():
    known = many()
    explorer = curate.Explorer(known, seed=3)
    scores, columns = codes(explorer)
    unique = known.filter(pl.col("duplicate_of").is_null())
    n_scored = explorer.widget.about["scored"]
    assert n_scored == unique["quality"].count()
    assert (np.diff(scores[:n_scored]) <= 0).all()
    kept = curate.keep_top(unique, fraction=0.2, seed=3).kept["custom_id"]
    assert set(explorer._ranked["custom_id"][: kept.len()]) == set(kept)
    assert set(columns) == {"quality", "score_short", "length", "category", "model"}
    assert (columns["quality"][n_scored:] == binned.NONE).all()
    assert len(explorer.widget.block) == unique.height * (8 + 5)
    assert explorer.widget.about["columns"][3]["names"][-1] == "4 others"
    assert "U+202Eturned" in explorer.widget.about["columns"][4]["names"]


@pytest.mark.parametrize(
    "brushes",
    [
        {"quality": [10, 30]},
        {"quality": [0, 20], "score_short": [25, 49]},
        {"length": [3, 8], "category": [0, 2, 5]},
        {"length": [40, 40]},
        {"score_short": [0, 49]},
        {"category": [11]},
        {"category": [1, 11], "model": [0]},
        {"category": list(range(12))},
        {"model": [0, 1, 2, 3]},
    ],
)
def test_the_selection_as_text_holds_the_rows_whose_codes_are_brushed(brushes):
    explorer = curate.Explorer(many(seed=4))
    _, columns = codes(explorer)
    brushed = np.ones(explorer._ranked.height, dtype=bool)
    for column in explorer.widget.about["columns"]:
        brush = brushes.get(column["name"])
        if brush:
            own = columns[column["name"]]
            inside = (own >= brush[0]) & (own <= brush[1]) if "edges" in column else np.isin(own, brush)
            brushed &= inside
    told = explorer.settle({"brushes": brushes, "cut": CUT, "seq": 5})
    wanted = explorer._ranked["custom_id"].filter(pl.Series(brushed)).to_list()
    assert set(explorer.held["custom_id"]) == set(wanted)
    assert len(wanted) > 0
    again = curate.Explorer(many(seed=4), selection=told["selection"])
    assert set(again.held["custom_id"]) == set(wanted)
    assert told["seq"] == 5


def test_a_brush_narrows_the_selection_that_the_notebook_was_given():
    explorer = curate.Explorer(many(), selection='model = "plain"', task="t", seed=1)
    told = explorer.settle({"brushes": {"score_short": [25, 49]}, "cut": CUT | {"rule": "above"}, "seq": 1})
    assert told["selection"] == explorer.selection == 'model = "plain" and score_short >= 0.5'
    assert told["command"] == (
        "arislab run curate -p task t -p selection 'model = \"plain\" and score_short >= 0.5' -p keep_rule above "
        "-p keep_threshold 0.5 -p seed 1"
    )
    assert explorer.cut.rule == "quality >= 0.5"
    assert explorer.review()["text"] == "selection: str = 'model = \"plain\" and score_short >= 0.5'"
    explorer.settle({"brushes": {}, "cut": CUT, "seq": 2})
    assert (explorer.selection, explorer.cut.rule) == ('model = "plain"', "the top 0.2 by quality")


def test_the_widget_answers_the_browser(scored):
    made = curate.Explorer(scored).widget
    sent = []
    made.send = sent.append
    made.state = {"brushes": {"category": [1]}, "cut": CUT, "seq": 1}
    assert made.told["selection"] == 'category = "<b>"'
    made._asked(None, {"kind": "rows", "first": 0}, [])
    made._asked(None, {"kind": "review"}, [])
    rows, review = sent
    assert {row["facts"][0] for row in rows["rows"]} == {"r-6", "r-7", "r-8"}
    assert rows["n"] == 3
    assert rows["rows"][0]["texts"][1] == ("Answer", [("<script>x</script>", False)])
    assert review["text"] == "selection: str = 'category = \"<b>\"'"
    json.dumps([made.about, made.told, sent])


def test_rows_come_best_first_a_page_at_a_time_with_what_a_reviewer_sees(scored):
    def show(rows):
        return rows.with_columns(input=pl.lit("Q\u202e"), output=pl.lit("A"))

    page = curate.Explorer(scored, threshold=0.6, show=show).page(3, 4)
    assert [row["facts"][0] for row in page["rows"]] == ["r-5", "r-4", "r-3", "r-2"]
    assert [row["kept"] for row in page["rows"]] == [True, False, False, False]
    assert page["rows"][0]["texts"] == [("Question", [("Q", False), ("U+202E", True)]), ("Answer", [("A", False)])]
    assert (page["n"], page["first"], page["size"]) == (10, 3, 4)
    assert curate.Explorer(scored).page(9, 4)["rows"][0]["facts"][1] == "quality none"


# ---- the worth of a cut --------------------------------------------------------------------------------------------


def labels_of(frame, good):
    """A census: every row labelled, with the weight of one."""
    rows = frame.select("custom_id", good=good, weight=pl.lit(1.0), stratum=pl.lit("q kept"))
    return Labels(rows, frame, 0, 0)


def test_precision_is_of_the_rows_that_are_kept_and_of_the_selection():
    frame = many().filter(pl.col("duplicate_of").is_null(), pl.col("quality").is_not_null())
    is_good = pl.col("quality") + (pl.col("score_short") - 0.5) * 0.4 > 0.6
    explorer = curate.Explorer(frame, threshold=0.6, labels=labels_of(frame, is_good))
    kept = frame.filter(pl.col("quality") >= 0.6)
    told = f"estimated precision of the kept: {kept.select(is_good.mean()).item():.3f} ["
    assert explorer.worth.startswith(told)
    assert explorer.worth.endswith(f"n {kept.height:,} labels")
    told = explorer.settle({"brushes": {"category": [2]}, "cut": CUT | {"rule": "above", "threshold": 0.6}, "seq": 1})
    held = kept.join(explorer.held, on="custom_id", how="semi")
    assert told["worth"].startswith(f"estimated precision of the kept: {held.select(is_good.mean()).item():.3f} [")
    (near,) = [row for row in explorer.widget.about["curve"] if row[0] == selection_n(frame.height)]
    best = curate.keep_top(frame, fraction=0.25, seed=0).kept
    assert near[1] == pytest.approx(best.select(is_good.mean()).item(), abs=0.005)


def selection_n(n):
    return -(-n // 4)


def test_without_labels_and_where_quality_was_learned_from_them_it_says_so(scored):
    assert curate.Explorer(scored).worth.startswith("no labels: review some rows first")
    labels = labels_of(scored.filter(pl.col("quality").is_not_null()), pl.lit(value=True))
    learned = curate.Explorer(scored.with_columns(quality_rules="quality"), labels=labels)
    assert "learned from the labels" in learned.worth
    assert learned.widget.about["curve"] == []
    other = curate.Explorer(scored, by="score_length", labels=labels)
    assert other.worth == "no precision: the cut is on score_length, and 2_curate cuts quality"
    assert other.command == "2_curate cuts quality, this is a cut of score_length"


# ---- two versions --------------------------------------------------------------------------------------------------


def versions():
    now = pl.DataFrame({"custom_id": list("abcd"), "quality": [0.9, 0.8, 0.2, 0.1]})
    before = pl.DataFrame({"custom_id": list("abcd"), "quality": [0.9, 0.1, 0.3, 0.8]})
    every = pl.concat(
        [
            before.with_columns(scorer_version=pl.lit("old1"), run_id=pl.lit("run-1")),
            now.with_columns(scorer_version=pl.lit("new1"), run_id=pl.lit("run-2")),
        ]
    )
    return every, now


@pytest.mark.parametrize("name", ["old1", "ol", "run-1"])
def test_two_versions_are_compared_at_the_same_cut(name):
    every, now = versions()
    explorer = curate.Explorer(now, fraction=0.5, before=curate.earlier(every, name, now=now))
    assert explorer.moved == "beside the version before: 1 rows came in, 1 went out, 1 are in both"
    assert explorer.moves.head(2).select("custom_id", "kept_before", "kept_now").rows() == [
        ("b", False, True),
        ("d", True, False),
    ]
    assert explorer.moves["change"].to_list() == pytest.approx([0.7, -0.7, -0.1, 0.0])
    about = explorer.widget.about
    assert about["columns"][0]["before"] == len(about["columns"]) - 1
    assert about["columns"][-1]["hidden"]
    texts = [text.get_text() for text in explorer._figure().axes[0].get_legend().get_texts()]
    assert "all 4 before" in texts


def test_a_version_that_is_not_there_is_refused_with_the_closest_one():
    every, now = versions()
    with pytest.raises(ParameterError, match="did you mean 'run-1'"):
        curate.earlier(every, "run_1", now=now)
    assert curate.earlier(every, "", now=now) is None
    assert curate.Explorer(now).moves.is_empty()


def test_unknown_columns_are_refused_with_the_closest_one(scored):
    with pytest.raises(ParameterError, match="did you mean 'quality'"):
        curate.Explorer(scored, by="qualty")
    with pytest.raises(ParameterError, match="did you mean 'category'"):
        curate.Explorer(scored, group="categories")


# ---- where nobody is ------------------------------------------------------------------------------------------------


def test_in_a_run_a_picture_and_a_table_show_instead(scored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    curate.Explorer(scored)._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert {"image/png", "text/plain"} < set(shown[0])
    assert "kept 2 of 9" in shown[0]["text/plain"]
    monkeypatch.setenv("ARISLAB_RUN_ID", "r1")
    shown.clear()
    curate.Explorer(scored)._ipython_display_()
    assert set(shown[0]) == {"image/png", "text/plain"}
    assert shown[0]["image/png"].startswith(b"\x89PNG")
    assert shown[1].columns == ["category", "rows", "kept", "before", "after"]


def test_without_scored_rows_it_says_what_to_run_first(scored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    explorer = curate.Explorer(scored[:0])
    explorer._ipython_display_()
    assert "arislab run curate" in shown[0]["text/plain"]
    assert explorer.balance.is_empty()
    assert explorer.png().startswith(b"\x89PNG")
    assert explorer.moves.is_empty()


def test_rows_that_are_all_unscored_can_be_looked_at(scored):
    explorer = curate.Explorer(scored.with_columns(quality=pl.lit(None, dtype=pl.Float64)))
    assert explorer.cut.n_kept == 0
    assert explorer.widget.about["scored"] == 0
    assert explorer.png().startswith(b"\x89PNG")


def test_the_module_is_small_and_goes_by_text_alone():
    source = (CHECKOUT / "arislab/curate/explore.js").read_text()
    assert len(source) < 30_000
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http", "import "):
        assert word not in source, word


# ---- columns as codes -----------------------------------------------------------------------------------------------


def test_numbers_in_0_to_1_are_binned_in_fiftieths_and_others_in_round_steps():
    made = binned.numbers(pl.Series("q", [0.0, 0.019, 0.02, 0.58, 1.0, None]))
    assert made.codes.tolist() == [0, 0, 1, 29, 49, binned.NONE]
    made = binned.numbers(pl.Series("length", [*range(100), 5000]))
    assert made.edges[:3] == (0, 5, 10)
    assert made.is_open
    assert made.codes.max() == len(made.edges) - 2
    made = binned.numbers(pl.Series("same", [7, 7]))
    assert len(made.edges) >= 2
    assert binned.numbers(pl.Series("none", [None], dtype=pl.Float64)).codes.tolist() == [binned.NONE]


def test_names_are_coded_by_how_many_rows_have_them():
    made = binned.names(pl.Series("c", [*"abbccc", None, *"dddd", *"efghijklmnop"]))
    assert made.names[:3] == ("d", "c", "b")
    assert made.codes[[7, 3, 1, 6]].tolist() == [0, 1, 2, binned.NONE]
    assert made.n_others == 5
    assert (made.codes == 11).sum() == 5


def test_a_version_that_another_begins_with_can_be_compared():
    rows = {"custom_id": ["a", "a"], "quality": [0.2, 0.8], "scorer_version": ["v1", "v1+abc"], "run_id": ["r1", "r2"]}
    scored = pl.DataFrame(rows)
    now = scored.tail(1)
    assert curate.earlier(scored, "v1", now=now).rows() == [("a", 0.2)]
    assert curate.earlier(scored, "v1+", now=now).rows() == [("a", 0.8)]


def test_the_command_names_what_made_the_scores():
    scored = pl.DataFrame(
        {"custom_id": ["a", "b"], "quality": [0.2, 0.8], "quality_rules": [0.5, 0.6], "repaired": [False, True]}
    )
    given = curate.made_with(scored, judge_model="a critic")
    command = curate.Explorer(scored, task="sums", given=given).command
    assert command == (
        "arislab run curate -p task sums -p judge_model 'a critic' -p quality_from people -p repair True "
        "-p keep_rule top -p keep_fraction 0.2 -p seed 0"
    )
    assert curate.made_with(scored.select("custom_id", "quality")) == {}
