import math
from io import BytesIO
from xml.etree import ElementTree

import matplotlib as mpl
import polars as pl
import pytest

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from arislab import curate, plots
from arislab.errors import ParameterError


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def drawn(ax):
    """Draw the figure (text that does not fit warns, and warnings are errors) and return all its words."""
    assert isinstance(ax, Axes)
    ax.figure.canvas.draw()
    labels = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]
    return " | ".join([ax.get_title(loc="left"), ax.get_title(loc="right"), *(label.get_text() for label in labels)])


QUALITY = pl.DataFrame({"quality": [0.1, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 1.0, None, math.nan]})
TRIALS = pl.DataFrame(
    {
        "trial_id": ["a", "b", "c"],
        "round": [1, 1, 2],
        "score": [0.5, None, 0.7],
        "n_validation": [8, 8, 20],
        "chosen": [False, False, True],
    }
)
LOSSES = pl.DataFrame(
    {
        "arm": ["curated", "curated", "random", "random"],
        "step": [1, 2, 1, 2],
        "train_loss": [2.0, 1.0, 2.0, 1.1],
        "eval_loss": [None, 1.2, None, 1.2],
    }
)
ARMS = pl.DataFrame(
    {
        "arm": ["baseline", "icl", "broken"],
        "mean": [0.5, 0.6, None],
        "low": [0.4, 0.55, None],
        "high": [0.6, 0.65, None],
        "n": [20, 20, 0],
    }
)
TOKENS = pl.DataFrame({"prompt_tokens": [400, 410, 420], "completion_tokens": [80, 90, None]})
MIX = pl.DataFrame(
    {
        "kept": [True, True, False, False],
        "category": ["law", "law", "sales", None],
        "output": ["a", "bb", "ccc", "dddd"],
        "length": [1, 2, 3, 4],
    }
)


def test_the_quality_bands_show_their_share_and_the_cut_its_rows():
    words = drawn(plots.quality_distribution(QUALITY, threshold=0.8))
    assert "Quality of 8 outputs, 2 unscored" in words
    assert "cut 0.8: 4 at or above (50%)" in words
    kept = QUALITY.with_columns(kept=pl.col("quality").fill_nan(None) > 0.9)
    assert "cut 0.8: 4 at or above (50%), 1 kept" in drawn(plots.quality_distribution(kept, threshold=0.8))
    # 0.1 | 0.6 0.65 | 0.7 | 0.8 0.85 | 0.9 1.0: a value on an edge belongs to the band above, and 1 to the last
    ax = plots.quality_distribution(QUALITY)
    shares = [text.get_text() for text in ax.texts if "%" in text.get_text()]
    assert shares == ["12%", "25%", "12%", "25%", "25%"]


def test_the_funnel_shows_what_each_step_took():
    words = drawn(plots.funnel([("requested", 200), ("scored", 150), ("kept", 30)]))
    assert "75.0% of all  (−50)" in words
    assert "15.0% of all  (−120)" in words


def test_trials_without_a_score_are_counted_and_the_chosen_one_is_named():
    words = drawn(plots.trials(TRIALS))
    assert "2 sets of examples in 2 rounds, 1 without score" in words
    assert "chosen: 0.700 on 20 rows" in words
    assert "chosen" not in drawn(plots.trials(TRIALS.drop("chosen")))


EFFECTS = pl.DataFrame(
    {
        "id": [f"e{i}" for i in range(20)],
        "effect": [0.03 - i / 300 for i in range(20)],
        "low": [0.01 - i / 300 for i in range(20)],
        "high": [0.05 - i / 300 for i in range(20)],
        "last_minus_first": [i / 1000 for i in range(20)],
        "last_low": [i / 1000 - 0.5 for i in range(20)],
        "last_high": [i / 1000 + 0.5 for i in range(20)],
        "n_sets": [1, *[7] * 19],
    }
)


def test_effects_show_both_ends_with_their_intervals_and_how_many_are_clear():
    words = drawn(plots.effects(EFFECTS))
    assert "+3.0 [+1.0, +5.0]  in 1 set |" in words
    assert "−3.3 [−5.3, −1.3]  in 7 sets" in words
    assert "e5" in words
    assert "e6" not in words
    assert "e13" not in words
    assert "e14" in words
    clear = EFFECTS.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    assert f"{clear} of 20 exclude 0" in words
    place = drawn(
        plots.effects(EFFECTS.with_columns(example=pl.lit("a question of great length, " * 3)), by="last_minus_first")
    )
    assert "+1.9 [−48.1, +51.9]" in place
    assert "0 of 20 exclude 0" in place
    assert "a question of great length, a…" in place
    assert "by standing last, not first" in place
    assert "no rows" in drawn(plots.effects(pl.DataFrame()))
    assert "e19" in drawn(plots.effects(EFFECTS, n=20))
    with pytest.raises(ParameterError, match="no effect 'efect'; did you mean 'effect'"):
        plots.effects(EFFECTS, by="efect")


def test_examples_that_begin_alike_have_names_that_differ():
    questions = [f"Title: {title} · Experience: {years} years · Skills: Excel" for title, years in JOBS]
    few = EFFECTS.head(len(JOBS)).with_columns(example=pl.Series(questions))
    ax = plots.effects(few)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(set(names)) == len(JOBS)
    assert not [name for name in names if name.startswith("Title") or len(name) > 30]
    assert any("4 years" in name for name in names), "what tells the two apart"


JOBS = [("Industrial Engineer", 4), ("Industrial Engineer", 9), ("Compliance Manager", 9)]


def test_trials_of_several_k_have_a_colour_each_that_is_named():
    assert "k=" not in drawn(plots.trials(TRIALS.with_columns(k=pl.lit(3))))
    ax = plots.trials(TRIALS.with_columns(k=pl.Series([3, 3, 5])))
    assert "k=3 | k=5" in drawn(ax)
    named = {text.get_text(): text.get_color() for text in ax.texts}
    assert named["k=3"] != named["k=5"]
    dots = [tuple(colour) for part in ax.collections for colour in part.get_facecolor()]
    assert len(set(dots)) >= 2


def test_losses_are_named_with_their_last_value():
    words = drawn(plots.losses(LOSSES))
    assert "curated 1.200" in words
    assert "random 1.200" in words


def test_both_losses_of_an_arm_have_its_colour_and_the_two_kinds_are_explained():
    from matplotlib.colors import to_hex

    ax = plots.losses(LOSSES)
    assert "thin: training, dots: validation" in drawn(ax)
    training, validation = ax.lines[::2], ax.lines[1::2]
    assert len(training) == len(validation) == LOSSES["arm"].n_unique()
    for one, other in zip(training, validation, strict=True):
        assert to_hex(one.get_color()) == to_hex(other.get_color())
        assert (one.get_marker(), other.get_marker()) == ("None", "o")
        assert one.get_linewidth() < other.get_linewidth()
    assert len({to_hex(line.get_color()) for line in training}) == len(training)
    assert all(tick == int(tick) for tick in ax.get_xticks()), "there is no half a step"


@pytest.mark.parametrize("own", ["default", "dark_background", "transparent"])
def test_a_figure_has_its_own_paper_in_a_dark_notebook_and_under_settings_of_the_user(own):
    from io import BytesIO

    import numpy as np
    from matplotlib import pyplot

    settings = {"figure.facecolor": (1, 1, 1, 0), "axes.facecolor": (1, 1, 1, 0)} if own == "transparent" else own
    with pyplot.style.context(settings):
        for draw, frame in ((plots.losses, LOSSES), (plots.arms, ARMS), (plots.trials, TRIALS)):
            picture = BytesIO()
            draw(frame).figure.savefig(picture, format="png")
            picture.seek(0)
            pixels = pyplot.imread(picture)
            assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3] == 1).all()
            assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
            light = pixels[..., :3].mean(axis=2)
            assert np.quantile(light, 0.5) > 0.9, "paper is white"
            assert light.min() < 0.3, "ink is dark"
        pyplot.close("all")


def test_labels_at_the_end_of_curves_do_not_touch():
    ax = plots.losses(LOSSES)
    drawn(ax)
    curated, random = (text.get_window_extent() for text in ax.texts)
    assert not curated.overlaps(random)


def test_an_arm_without_scores_says_so_and_the_baseline_is_a_line():
    ax = plots.arms(ARMS, baseline="baseline")
    words = drawn(ax)
    assert "0.500 [0.400, 0.600]  n=20" in words
    assert "not scored" in words
    with pytest.raises(ParameterError, match="no arm 'base'; did you mean 'baseline'"):
        plots.arms(ARMS, baseline="base")


def test_arms_say_what_they_are_judged_by_and_of_how_few_groups_the_rows_are():
    words = drawn(plots.arms(ARMS.with_columns(n_groups=pl.lit(4)), score="right_$terms$"))
    assert "Right_$terms$ by arm" in words
    assert "mean right_$terms$ (0 to 1), 95 % interval" in words
    assert "0.500 [0.400, 0.600]  n=20, 4 groups" in words


def test_the_bias_of_a_category_is_its_share_before_and_after():
    words = drawn(plots.bias(MIX, "category"))
    assert "50.0% → 100.0%  (+50.0)" in words
    assert "25.0% → 0.0%  (−25.0)" in words
    assert "(none)" in words


def test_many_categories_are_folded_except_those_that_changed_most():
    names = [f"c{i:02d}" for i in range(30) for _ in range(4)] + ["rare"]
    frame = pl.DataFrame({"category": names, "kept": [name in ("c05", "rare") for name in names]})
    words = drawn(plots.bias(frame, "category"))
    assert "rare" in words
    assert "20 others" in words


def test_the_bias_of_a_number_compares_medians_and_a_long_text_is_its_length():
    words = drawn(plots.bias(MIX, "length"))
    assert "all: median 2.5" in words
    assert "kept: median 1.5" in words
    texts = pl.DataFrame({"output": ["x" * i for i in range(50)], "kept": [i > 20 for i in range(50)]})
    assert "Output (length, characters)" in drawn(plots.bias(texts, "output"))


def test_tokens_show_median_and_sum():
    words = drawn(plots.tokens(TOKENS))
    assert "prompt: median 410, longest 420, 1,230 in all" in words
    assert "completion: median 85" in words


DRAW = {
    "quality_distribution": (plots.quality_distribution, QUALITY),
    "trials": (plots.trials, TRIALS),
    "losses": (plots.losses, LOSSES),
    "arms": (plots.arms, ARMS),
    "tokens": (plots.tokens, TOKENS),
    "bias_category": (lambda frame: plots.bias(frame, "category"), MIX),
    "bias_number": (lambda frame: plots.bias(frame, "length"), MIX),
}


@pytest.mark.parametrize("name", DRAW)
def test_no_rows_one_row_and_only_missing_values_draw(name):
    draw, frame = DRAW[name]
    assert "no rows" in drawn(draw(frame.clear()))
    drawn(draw(frame.head(1)))
    drawn(
        draw(
            frame.with_columns(
                pl.lit(None, dtype=dtype).alias(c) for c, dtype in frame.schema.items() if dtype == pl.Float64
            )
        )
    )


def test_an_empty_funnel_and_a_funnel_of_nothing_draw():
    assert "no rows" in drawn(plots.funnel([]))
    drawn(plots.funnel([("requested", 0), ("kept", 0)]))


def test_a_figure_can_be_part_of_a_larger_one_and_columns_are_named():
    _, ax = pyplot.subplots()
    assert plots.tokens(TOKENS, ax=ax) is ax
    with pytest.raises(ParameterError, match="no column 'qualty'; did you mean 'quality'"):
        plots.quality_distribution(QUALITY, by="qualty")
    with pytest.raises(ParameterError, match="no column 'categry'; did you mean 'category'"):
        plots.bias(MIX, "categry")


def test_many_models_are_categories_and_not_texts():
    frame = pl.DataFrame({"model": [f"model-{i % 73}" for i in range(730)], "kept": [i % 73 < 20 for i in range(730)]})
    assert plots.bias(frame, "model").get_xlabel().startswith("share of rows")
    frame = frame.with_columns(text=pl.Series([f"answer number {i} " * 9 for i in range(730)]))
    assert "characters" in plots.bias(frame, "text").get_xlabel()


# Names that users choose


ODD = ["$x$", r"$\frac{1$ and $2}$", r"a_b^c {d} \$5 $", r"cost in $ (US$) \n", "&<b>#%~", "_hidden", "back\\\\slash"]
SCORED = {"custom_id": ["a", "b", "c"], "quality": [0.2, 0.5, 0.9], "llm_output": ["x"] * 3}


def of_category(name):
    frame = pl.DataFrame({"kept": [True, False], "c": [name, "plain"]})
    return plots.bias(frame, "c").figure, name


def of_column(name):
    frame = pl.DataFrame({"kept": [True, False], f"q {name}": [1, 2]})
    return plots.bias(frame, f"q {name}").figure, f"q {name}".replace("_", " ")


def of_column_of_categories(name):
    frame = pl.DataFrame({"kept": [True, False], f"Q {name}": ["a", "b"]})
    return plots.bias(frame, f"Q {name}").figure, f"Q {name}: all 2 rows".replace("_", " ")


def of_score(name):
    frame = pl.DataFrame({f"GPT {name}": [0.5, 0.7]})
    return plots.quality_distribution(frame, by=f"GPT {name}").figure, f"GPT {name} of 2 outputs".replace("_", " ")


def explorer(name):
    scored = pl.DataFrame(SCORED | {f"score_{name}": [0.1, 0.2, 0.3], "category": [name, "b", name]})
    figure = curate.Explorer(scored, by=f"score_{name}")._figure()
    assert f"score_{name}" in texts(figure)
    return figure, name


WITH_NAMES = {
    "funnel": lambda name: (plots.funnel([(name, 3), ("kept", 1)]).figure, name),
    "effects": lambda name: (plots.effects(EFFECTS.with_columns(example=pl.lit(name))).figure, name),
    "effects by id": lambda name: (plots.effects(EFFECTS.with_columns(id=pl.lit(name))).figure, name),
    "losses": lambda name: (plots.losses(LOSSES.with_columns(arm=pl.lit(name))).figure, f"{name} 1.200"),
    "arms": lambda name: (plots.arms(ARMS.with_columns(arm=pl.lit(name)), baseline=name).figure, name),
    "bias of a category": of_category,
    "bias of a column of numbers": of_column,
    "bias of a column of categories": of_column_of_categories,
    "quality_distribution": of_score,
    "two_orders": lambda name: (plots.two_orders(ORDERS.with_columns(criterion=pl.lit(name))).figure, name),
    "explorer": explorer,
}


ORDERS = pl.DataFrame({"criterion": ["a"] * 4, "first": [0.5, 0.5, 0.25, None], "second": [0.75, 0.75, 0.5, 0.5]})


def texts(figure):
    """What a figure shows, read out of the picture itself."""
    picture = BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(picture, format="svg")
    texts = ElementTree.fromstring(picture.getvalue()).iter("{http://www.w3.org/2000/svg}text")
    return " | ".join("".join(text.itertext()) for text in texts)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("plot", WITH_NAMES)
def test_names_are_shown_as_they_are_and_never_read_as_formulas(plot, name):
    figure, shown = WITH_NAMES[plot](name)
    assert shown in texts(figure)


def test_every_function_that_draws_is_asked_to_draw_odd_names():
    names = {
        name
        for name, it in vars(plots).items()
        if callable(it) and getattr(it, "__module__", "").startswith(plots.__name__)
    }
    without = {"trials", "tokens", "precision_curve", "reliability"}  # which show no name of the user's
    assert {name for name in names if not name.startswith("_")} - without == {
        plot.split()[0] for plot in WITH_NAMES
    } - {"explorer"}


def test_the_curve_of_precision_shows_labels_interval_and_cut():
    rows = [(0.1, 0.95, 0.85, 0.99, 0.2, 40), (0.5, 0.8, 0.7, 0.9, 0.7, 90), (1.0, 0.6, 0.5, 0.7, 1.0, 120)]
    curve = pl.DataFrame(rows, schema=["share", "precision", "low", "high", "recall", "n"], orient="row")
    ax = plots.precision_curve(curve, kept=0.2)
    shown = texts(ax.figure)
    assert "by share kept (120 labels)" in shown
    assert "cut: 20.0%" in shown
    assert "precision, 95 %" in shown
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.95, 0.8, 0.6], [0.2, 0.7, 1.0]]
    nobody = curve.with_columns(n=pl.lit(0), precision=pl.lit(float("nan")))
    assert "no rows" in texts(plots.precision_curve(nobody).figure)


def test_two_orders_show_how_many_answers_have_which_two_scores():
    ax = plots.two_orders(ORDERS)
    assert "Said twice: 3 of 4 answers" in texts(ax.figure)
    (points,) = ax.collections
    assert points.get_offsets().tolist() == [[0.25, 0.5], [0.5, 0.75]]
    assert points.get_sizes()[1] == max(points.get_sizes())
    assert "no rows" in texts(plots.two_orders(ORDERS.with_columns(first=pl.lit(None, pl.Float64))).figure)


def test_reliability_shows_each_bin_with_its_interval():
    rows = [(0.2, 0.25, 0.1, 0.4, 20), (0.8, 0.7, 0.5, 0.9, 30)]
    ax = plots.reliability(pl.DataFrame(rows, schema=["chance", "approved", "low", "high", "n"], orient="row"))
    assert "50 labels" in texts(ax.figure)
    assert ax.collections[1].get_offsets().tolist() == [[0.2, 0.25], [0.8, 0.7]]
    assert "no rows" in texts(plots.reliability(pl.DataFrame()).figure)
