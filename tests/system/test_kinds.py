"""What people type in a notebook takes frames of pandas, Arrow and polars, and gives back their kind."""

import inspect
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from toys import people

from arislab import batch, curate, evaluate, pairwise, plots, review, scoring, stats, structured
from arislab.errors import LakeError, ParameterError
from arislab.lake import Table
from arislab.review.adjudication import Adjudication
from arislab.review.granting import Granting
from arislab.system import kinds

TYPES = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "arrow": pa.Table}
SCORES = pl.DataFrame(
    {
        "arm": ["base", "tuned"] * 6,
        "candidate_id": [f"c{n}" for n in range(6) for _ in range(2)],
        "quality": [0.1, 0.5, 0.2, 0.4, None, 0.9, 0.3, 0.3, 0.5, 0.8, 0.0, 0.6],
        "latency_s": [1.0] * 12,
        "tokens": [10, None] * 6,
        "status": ["ok"] * 12,
    }
)
GROUPS = pl.DataFrame({"candidate_id": [f"c{n}" for n in range(6)], "group_id": ["g0", "g0", "g1", "g2", "g3", "g4"]})


def same(one, other):
    """Whether a frame of any kind has the values and types of a polars one."""
    back = kinds.to_polars(one)
    assert back.schema == other.schema
    assert back.equals(other, null_equal=True)
    return True


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


def test_a_comparison_is_the_same_of_every_kind_and_comes_back_as_its_kind(kind):
    how = {"baseline": "base", "n_boot": 200}
    expected = stats.verdicts(stats.compare(SCORES, groups=GROUPS, **how))
    compared = stats.compare(kinds.of_kind(SCORES, kind), groups=kinds.of_kind(GROUPS, kind), **how)
    assert isinstance(compared, TYPES[kind])
    verdicts = stats.verdicts(compared)
    assert isinstance(verdicts, TYPES[kind])
    assert same(verdicts, expected)
    assert expected["n"].to_list() == [5]


def test_the_first_frame_says_what_comes_back(kind):
    compared = stats.compare(SCORES, groups=kinds.of_kind(GROUPS, kind), baseline="base", n_boot=200)
    assert isinstance(compared, pl.DataFrame)
    compared = stats.compare(kinds.of_kind(SCORES, kind), groups=GROUPS, baseline="base", n_boot=200)
    assert isinstance(compared, TYPES[kind])


def test_columns_of_numbers_may_be_series_of_any_kind(kind):
    a, b = ([0.5, 0.25, None, 1.0, 0.75], [0.0, 0.25, 0.5, 0.5, 0.5])
    made = {"polars": pl.Series, "pandas": lambda v: pd.Series(v, name="x"), "arrow": pa.array}[kind]
    assert stats.paired_difference(made(a), made(b)) == stats.paired_difference(a, b)
    labels = [True, False, None, True, False]
    assert stats.auc(made(a), made(labels)) == stats.auc(a, labels)
    grouped = stats.group_of(pl.Series(["c0", "c9"]), kinds.of_kind(GROUPS, kind))
    assert grouped.to_list() == stats.group_of(pl.Series(["c0", "c9"]), GROUPS).to_list()


def test_requests_have_the_same_names_whatever_frame_they_were_built_of(kind):
    candidates = people(3).with_columns(category=pl.Series(["a", None, "b"]))
    how = {"model": "m", "seed": 3, "samples": 2}
    expected = batch.build_requests(candidates, lambda c: [{"role": "user", "content": c["profile"]["text"]}], **how)
    given = kinds.of_kind(candidates, kind)
    made = batch.build_requests(given, lambda c: [{"role": "user", "content": c["profile"]["text"]}], **how)
    assert isinstance(made, TYPES[kind])
    assert same(made, expected)
    assert repr(batch.preview(made, n=2)) == repr(batch.preview(expected, n=2))
    states = batch.states(made, kinds.of_kind(pl.DataFrame(schema={"custom_id": pl.String, "status": pl.String}), kind))
    assert sum(states.values()) == 6


def test_several_frames_come_back_as_one_kind_and_empty_ones_too(kind):
    rows = pl.DataFrame({"candidate_id": ["a", "a", "b", "c"], "id": [1, None, 3, 4]})
    rest, held = curate.hold_out(kinds.of_kind(rows, kind), fraction=0.3)
    assert [type(part) for part in (rest, held)] == [TYPES[kind]] * 2
    expected = curate.hold_out(rows, fraction=0.3)
    assert all(map(same, (rest, held), expected))
    rest, held = curate.hold_out(kinds.of_kind(rows, kind), fraction=0.3, least=2)
    assert same(held, rows.clear())
    assert len(held) == 0


def test_an_object_that_holds_a_frame_keeps_the_one_of_polars(kind):
    rows = pl.DataFrame({"custom_id": list("abcde"), "quality": [0.1, None, 0.9, 0.5, 0.7]})
    cut = curate.keep_top(kinds.of_kind(rows, kind), fraction=0.5, by="quality", id="custom_id")
    assert isinstance(cut.frame, pl.DataFrame)
    assert cut.frame.equals(curate.keep_top(rows, fraction=0.5, by="quality", id="custom_id").frame)


def test_figures_and_summaries_take_them(kind):
    import matplotlib as mpl

    mpl.use("agg")
    tokens = pl.DataFrame({"prompt_tokens": [3, 4, None], "completion_tokens": [5, None, 7]})
    figure = plots.tokens(kinds.of_kind(tokens, kind))
    assert figure.get_title() == plots.tokens(tokens).get_title()
    means = evaluate.summary(kinds.of_kind(SCORES, kind))
    assert same(means, evaluate.summary(SCORES))
    assert isinstance(evaluate.intervals(means)["base"], tuple)
    assert evaluate.intervals(means) == evaluate.intervals(evaluate.summary(SCORES))


def test_the_lake_takes_and_gives_every_kind(lake, kind):
    table, rows = (
        lake["candidates"],
        people(4).with_columns(title=pl.Series(["x", None, "z", "x"], dtype=pl.Categorical)),
    )
    given = kinds.of_kind(rows, kind)
    table.append(given.iloc[[0, 1]] if kind == "pandas" else given[:2])
    table.upsert(given)
    read = table.read(as_=kind)
    assert isinstance(read, TYPES[kind])
    assert same(read, table.read())
    assert sorted(table.read()["title"].to_list(), key=str) == [None, "x", "x", "z"]
    table.replace(read, where={"split": ["train", "validation", "test", None]})
    assert table.rows == 4
    assert same(
        table.read(as_=kind, columns=["candidate_id"], where={"title": "nobody"}),
        table.read().head(0).select("candidate_id"),
    )
    with pytest.raises(LakeError, match="has no column 'colour'"):
        table.append(kinds.of_kind(rows.with_columns(colour=pl.lit("red")), kind))


def test_another_kind_is_refused_before_anything_is_read(lake):
    with pytest.raises(ParameterError, match="given as polars, pandas, arrow, got as_='spark'"):
        lake["candidates"].read(as_="spark")


def test_types_stay_what_they_are_on_the_way_to_pandas_and_back(lake):
    lake["candidates"].append(people(2))
    frame = lake["candidates"].read(as_="pandas")
    assert str(frame["created_at"].dtype) == "timestamp[us, tz=UTC][pyarrow]"
    assert frame["title"].isna().all()
    counts = kinds.of_kind(
        pl.DataFrame({"n": [2**60 + 1, None], "day": [datetime(2026, 1, 1, tzinfo=UTC), None]}), "pandas"
    )
    assert str(counts["n"].dtype) == "int64[pyarrow]"
    assert counts["n"].iloc[0] == 2**60 + 1
    assert counts["n"].iloc[1] is pd.NA


def test_frames_as_pandas_makes_them_have_nulls_text_and_utc():
    frame = pd.DataFrame(
        {
            "number": [1.5, np.nan],
            "whole": pd.array([1, None], dtype="Int64"),
            "text": ["a", None],
            "group": pd.Categorical(["x", None]),
            "at": pd.to_datetime(["2026-01-01 01:30", None]).tz_localize("Europe/Berlin"),
            "is_kept": pd.array([True, None], dtype="boolean"),
        }
    )
    assert kinds.to_polars(frame).rows() == [
        (1.5, 1, "a", "x", datetime(2026, 1, 1, 0, 30, tzinfo=UTC), True),
        (None,) * 6,
    ]
    assert kinds.to_polars(frame).schema["at"] == pl.Datetime("us", "UTC")
    assert kinds.to_polars(frame).schema["group"] == pl.String
    nothing = kinds.to_polars(frame.iloc[:0])
    assert nothing.schema == kinds.to_polars(frame).schema
    dictionary = pa.table({"group": pa.array(["x", None]).dictionary_encode()})
    assert kinds.to_polars(dictionary).schema == {"group": pl.String}
    assert kinds.to_polars(dictionary.to_batches()[0])["group"].to_list() == ["x", None]


def test_an_index_that_counts_rows_is_left_out_and_any_other_is_refused():
    frame = pd.DataFrame({"arm": ["a", "b", "c"], "mean": [1.0, 2.0, 3.0]})
    assert kinds.to_polars(frame[frame["mean"] > 1])["arm"].to_list() == ["b", "c"]
    assert kinds.to_polars(pd.concat([frame, frame])).height == 6, "numbers that stand twice"
    assert kinds.to_polars(frame.sort_values("mean", ascending=False))["arm"].to_list() == ["c", "b", "a"]
    for indexed, named in ((frame.set_index("arm"), "'arm'"), (frame.set_index(frame["arm"].to_numpy()), "of ")):
        with pytest.raises(
            ParameterError, match=rf"an index that is more than numbers of rows \({named}.*reset_index\(\)"
        ):
            evaluate.intervals(indexed)
    with pytest.raises(ParameterError, match=r"'arm', 'mean'.*reset_index"):
        evaluate.intervals(frame.set_index(["arm", "mean"], drop=False))


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "has a column 'a'; names of columns must be texts, each once"),
        (pd.DataFrame([[1, 2]]), "has a column 0; names"),
        (
            pd.DataFrame({"fine": [1, 2], "mixed": [1, "x"]}),
            "column 'mixed' of the pandas frame cannot be read .*one type",
        ),
        (pa.table([[1], [2]], names=["a", "a"]), "has a column 'a'; names"),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused_with_the_column(frame, says):
    with pytest.raises(ParameterError, match=says):
        stats.verdicts(frame)


SCORED = pl.DataFrame(
    {
        "custom_id": [f"r-{i}" for i in range(20)],
        "quality": [i / 20 for i in range(19)] + [None],
        "category": ["a", "b"] * 10,
        "duplicate_of": [None] * 18 + ["r-0", None],
    }
)
QUEUE = pl.DataFrame(
    {
        "custom_id": ["r-1", "r-2"], "input": ["Q", "Q"], "output": ["A", "B"], "quality_score": [0.9, None],
        "metadata": ["{}", "{}"],
    }
)  # fmt: skip


def test_an_explorer_of_any_kind_keeps_the_same_rows(kind):
    before = SCORED.select("custom_id", pl.col("quality").alias("quality before"))
    known = curate.Explorer(SCORED, fraction=0.25, before=before)
    explorer = curate.Explorer(kinds.of_kind(SCORED, kind), fraction=0.25, before=kinds.of_kind(before, kind))
    assert explorer.cut.kept["custom_id"].to_list() == known.cut.kept["custom_id"].to_list()
    assert repr(explorer) == repr(known)
    assert explorer.balance.equals(known.balance)
    assert explorer.moves.equals(known.moves)


def test_a_panel_and_its_desk_take_rows_and_earlier_reviews_of_any_kind(kind, tmp_path):
    told = []
    panel = review.Panel(QUEUE, reviewer="Ada", decide=told.append)
    assert panel.approve()
    [first] = told
    of = lambda frame: kinds.of_kind(frame, kind)  # noqa: E731 (two frames, twice)
    again = review.Panel(of(QUEUE), reviewer="Ada", decide=told.append, reviews=of(first))
    assert again.counts == {"total": 2, "decided": 1, "skipped": 0, "left": 1}
    assert again.approve()
    assert isinstance(told[-1], pl.DataFrame), "what is stored is of polars, as tables take it"
    desk = review.QueueDesk(of(QUEUE), reviews=of(pl.concat(told)), store=told.append)
    assert desk.counts("Ada")["left"] == 0
    assert repr(review.Table(of(QUEUE))) == repr(review.Table(QUEUE))


def test_what_is_no_frame_passes_as_it_is():
    @kinds.takes_any_frame
    def given(*args, **named):
        return args, named

    things = ([1], {"a": 1}, {}, None, "x", iter(()), pl.LazyFrame())
    args, named = given(*things, key=things)
    assert all(one is other for one, other in zip(args, things, strict=True))
    assert named["key"] is things
    frames = {"curated": pd.DataFrame({"a": [1]}), "rest": None}
    (inside,), _ = given(frames)
    assert isinstance(inside, dict)
    assert isinstance(inside["curated"], pd.DataFrame), "and it came back as it was given"


TYPED = [
    *(stats.compare, stats.verdicts, stats.auc, stats.mean_interval, stats.paired_difference, stats.precision_at),
    *(getattr(plots, name) for name in plots.__all__ if name != "funnel"),
    *(curate.keep, curate.keep_top, curate.keep_above, curate.near_duplicates, curate.approved, curate.pool),
    *(curate.examples, curate.control, curate.estimates, curate.curve, curate.within, curate.serves, curate.spread),
    *(scoring.rows, scoring.score, structured.check, review.fold, review.queue, review.live, review.picked),
    *(batch.build_requests, batch.preview, batch.states, batch.answer, batch.plan, batch.dry_run),
    *(evaluate.summary, evaluate.table, evaluate.intervals, evaluate.by_category, evaluate.rates, evaluate.ask),
    *(one.__init__ for one in (curate.Explorer, review.Panel, review.QueueDesk, review.Table, pairwise.Desk)),
    *(one.__init__ for one in (Adjudication, Granting)),
]


@pytest.mark.parametrize("function", TYPED, ids=lambda f: f"{f.__module__}.{f.__qualname__}")
def test_what_is_typed_with_frames_takes_any_kind(function):
    assert inspect.unwrap(function) is not function
    assert inspect.unwrap(function).__doc__ == function.__doc__


def test_pandas_is_imported_only_by_who_has_it_or_asks_for_it(lake):
    lake["candidates"].append(people(2))
    code = "import sys\nfrom arislab import curate, evaluate\nfrom arislab.lake import Lake\n"
    code += f"rows = Lake({lake.path!r})['candidates'].read()\ncurate.spread(rows, 1)\nprint('pandas' in sys.modules)\n"
    code += f"print(type(Lake({lake.path!r})['candidates'].read(as_='pandas')).__module__.split('.')[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "pandas"], done.stderr


def test_nothing_is_changed_for_frames_of_polars():
    assert inspect.signature(Table.read).parameters["as_"].default == "polars"
    frame = pl.DataFrame({"group": pl.Series(["x"], dtype=pl.Categorical)})
    assert kinds.to_polars(frame) is frame
    assert kinds.of_kind(frame, "polars") is frame
