import hashlib
import json
import math

import numpy as np
import polars as pl
import pytest

from arislab import curate, scoring
from arislab.errors import ParameterError
from arislab.task import load


def rows(n, *, quality, **more):
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "custom_id": [f"r{i:06d}" for i in range(n)],
            "output": ["x" * int(length) for length in rng.integers(5, 400, n)],
            **more,
        }
    )
    return curate.keep_top(frame.with_columns(quality=quality(rng, frame)), fraction=0.2).frame


def auc_of(table):
    return {row["fact"]: row for row in table.to_dicts()}


def test_a_score_that_is_length_is_found_out_and_one_that_is_not_is_not():
    by_length = auc_of(curate.audit(rows(2000, quality=lambda rng, f: f["output"].str.len_chars() / 400)))
    length = by_length["length of the answer"]
    assert length["auc"] == pytest.approx(1.0, abs=0.002)
    assert length["says"] == "EXPLAINS the cut: more is kept"
    assert by_length["place in the file"]["says"] == "says nothing"
    short = auc_of(curate.audit(rows(2000, quality=lambda rng, f: 1 - f["output"].str.len_chars() / 400)))
    assert short["length of the answer"]["says"] == "EXPLAINS the cut: less is kept"
    chance = auc_of(curate.audit(rows(2000, quality=lambda rng, f: pl.Series(rng.random(2000)))))
    assert {row["says"] for row in chance.values()} == {"says nothing"}


def test_perplexity_counts_for_the_text_that_the_model_saw_and_for_each_model_alone():
    frame = rows(400, quality=lambda rng, f: pl.Series(rng.random(400)))
    names, digest = frame["custom_id"], lambda text: hashlib.sha256(text.encode()).hexdigest()
    of = {"output_sha256": [digest(text) for text in frame["output"]], "asked_as": "{}", "task": "t"}
    known = pl.DataFrame({"custom_id": names, "base_model": "one", "base_sha256": "1", **of})
    sure = known.with_columns(logprob_mean=frame["quality"] - 2)  # what it would say itself is kept
    other = sure.head(100).with_columns(base_model=pl.lit("two"), base_sha256=pl.lit("2"))
    other = other.with_columns(
        output_sha256=pl.when(pl.int_range(100) < 40).then("output_sha256").otherwise(pl.lit("?"))
    )
    table = auc_of(curate.audit(frame, perplexities=pl.concat([other, sure])))
    one, two = table["perplexity under one"], table["perplexity under two"]
    assert (one["auc"], one["n"], one["says"]) == (0.0, 400, "EXPLAINS the cut: less is kept")
    assert (two["auc"], two["n"]) == (0.0, 40)  # of the others it saw another text
    assert not [fact for fact in auc_of(curate.audit(frame, perplexities=sure.clear())) if "perplexity" in fact]


def test_a_name_explains_by_its_rows_elsewhere_so_that_names_of_one_row_explain_nothing():
    model = [("good", "bad", "middling")[i % 3] for i in range(3000)]
    worth = {"good": 0.5, "middling": 0.2, "bad": 0.0}
    frame = rows(
        3000,
        quality=lambda rng, f: pl.Series(rng.random(3000) * 0.4 + [worth[m] for m in model]),
        model=model, category=[f"own-{i}" for i in range(3000)], shown=[None] * 3000,
    )  # fmt: skip
    table = auc_of(curate.audit(frame))
    assert table["model"]["says"] == "EXPLAINS the cut"
    assert table["model"]["auc"] > 0.85
    assert table["category"]["auc"] == pytest.approx(0.5, abs=0.03)
    assert "shown" not in table, "a column of one name is no fact"


def test_where_all_rows_are_kept_nothing_is_said_and_unscored_ones_do_not_count():
    frame = rows(50, quality=lambda rng, f: pl.Series([None] * 10 + [0.5] * 40))
    every = frame.with_columns(kept=pl.lit(value=True))
    assert set(curate.audit(every)["says"]) == {"says nothing"}
    assert curate.audit(frame)["n"].to_list() == [40, 40]


def test_prompt_template_log_probability_and_near_duplicates_are_facts_where_they_differ():
    n = 600
    messages = [
        json.dumps([{"role": "system", "content": ("Judge.", "Be kind.")[i % 2]}, {"role": "user", "content": f"{i}"}])
        for i in range(n)
    ]
    copies = pl.DataFrame(
        {"custom_id": [f"copy-{i}" for i in range(100)], "duplicate_of": [f"r{i:06d}" for i in range(100)]}
    )
    frame = rows(
        n,
        quality=lambda rng, f: pl.Series([(i % 2) * 0.5 + 0.5 * float(rng.random()) for i in range(n)]),
        messages=messages, logprob_mean=[-1.0 - (i % 2) for i in range(n)],
    )  # fmt: skip
    table = auc_of(curate.audit(frame, copies=copies))
    assert table["prompt template"]["says"] == "EXPLAINS the cut"
    # every kept row is odd, and 300 of 480 others are even: (300 + 180 / 2) / 480 of them have less
    assert table["log-probability of the answer"]["auc"] == pytest.approx(1 - (300 + 180 / 2) / 480)
    assert "near-duplicates" in table
    one = frame.with_columns(messages=pl.lit(messages[0]), logprob_mean=pl.lit(None, dtype=pl.Float64))
    assert set(auc_of(curate.audit(one, copies=copies.clear()))) == {"length of the answer", "place in the file"}


def qualities(values):
    return pl.DataFrame({"custom_id": [f"r-{i}" for i in range(len(values))], "quality": values})


def top(fraction):
    return lambda frame, seed: curate.keep_top(frame, fraction=fraction, seed=seed)


def stability(values, *, fraction, without):
    frame = qualities(values).with_columns(output=pl.lit("x"))
    keep = top(fraction)
    return auc_of(curate.stability(keep(frame, 0), keep, scored=frame, without=without, n=5))


def test_a_cut_without_ties_stays_under_other_seeds_and_one_of_ties_alone_does_not():
    clear = stability([0.1, 0.2, 0.3, 0.4], fraction=0.5, without={})
    assert clear["5 seeds of ties"]["jaccard"] == 1
    assert clear["5 seeds of ties"]["says"] == "the cut STAYS"
    assert clear["ties at the cut"]["says"] == "nothing is tied"
    level = stability([0.5] * 200, fraction=0.1, without={})
    seeds = level["5 seeds of ties"]
    assert 0 <= seeds["low"] <= seeds["jaccard"] <= seeds["high"] < 0.3
    assert seeds["says"] == "ANOTHER cut"
    assert seeds["kendall_tau"] is None, "rows that are all level have no order"
    assert level["ties at the cut"]["says"] == "20 of 200 kept, by a hash"
    assert level["ties at the cut"]["n"] == 200
    every = stability([0.1, 0.5, 0.5, 0.5], fraction=0.75, without={})
    assert every["ties at the cut"]["says"] == "all 3 kept"


def test_what_a_scorer_does_to_the_cut_is_its_jaccard_index_and_kendall_tau():
    # kept: r-2 and r-3; without the scorer r-3 and r-0: one of three. Of six pairs, (0, 2), (0, 1), (1, 2) turn round
    without = {"form": qualities([0.8, 0.3, 0.2, 0.9]), "none": qualities([None, None, 0.5, 0.6])}
    table = stability([0.1, 0.2, 0.3, 0.4], fraction=0.5, without=without)
    assert table["without scorer form"]["jaccard"] == pytest.approx(1 / 3)
    assert table["without scorer form"]["kendall_tau"] == pytest.approx(0.0)
    assert table["without scorer form"]["says"] == "ANOTHER cut"
    assert table["without scorer none"]["jaccard"] == pytest.approx(1 / 2), "half of two scored rows is one"
    assert table["without scorer none"]["kendall_tau"] == 1


def test_a_promise_that_cannot_be_given_again_keeps_nothing():
    def keep(frame, seed):
        if seed:
            raise ParameterError("no.")
        return curate.keep_top(frame, fraction=0.5)

    frame = qualities([0.1, 0.2])
    table = curate.stability(keep(frame, 0), keep, scored=frame, without={}, n=2)
    assert table["jaccard"].to_list() == [0.0, None]


@pytest.mark.slow
def test_with_learned_quality_the_labels_are_resampled_and_each_signal_is_left_out(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    n = 1_000
    good = rng.random(n) < 0.5
    scored = pl.DataFrame(
        {
            "custom_id": [f"r-{i:04d}" for i in range(n)],
            "candidate_id": [f"c-{i // 2}" for i in range(n)],
            "score_true": np.clip(good * 0.5 + rng.random(n) * 0.6, 0, 1),
            "score_other": np.clip(good * 0.4 + rng.random(n) * 0.6, 0, 1),
            "score_noise": rng.random(n),
            "scorer_version": ["v"] * n,
        }
    ).with_columns(quality=pl.mean_horizontal("score_true", "score_other", "score_noise"))
    groups = pl.DataFrame({"candidate_id": [f"c-{i}" for i in range(500)], "group_id": [f"g-{i}" for i in range(500)]})
    told = scored[:200].select("custom_id", weight=pl.lit(5.0), stratum=pl.lit("q"))
    told = told.with_columns(good=pl.Series(good[:200]))
    labels = curate.Labels(told, scored, 0, 0)
    without = {
        "true": scored.select("custom_id", quality=pl.mean_horizontal("score_other", "score_noise")),
        "noise": scored.select("custom_id", quality=pl.mean_horizontal("score_other", "score_true")),
    }
    learned = curate.learn(labels, scored, groups)
    cut = curate.keep_top(learned.apply(scored), fraction=0.2)
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path))
    table = auc_of(curate.stability(cut, top(0.2), scored=scored, without=without, labels=labels, groups=groups, n=5))
    assert not list(tmp_path.iterdir()), "a record keeps the model that its qualities came from, no other"
    boot = table["5 bootstraps of the labels"]
    assert 0.5 < boot["jaccard"] <= 1
    assert boot["low"] < 1, "other labels make another model"
    assert table["without scorer noise"]["jaccard"] > table["without scorer true"]["jaccard"]
    assert table["without scorer noise"]["kendall_tau"] > 0.8
    with pytest.raises(ParameterError, match="groups must be given with labels, got None"):
        curate.stability(cut, top(0.2), scored=scored, without={}, labels=labels)


def test_quality_without_a_scorer_is_the_weighted_mean_of_the_others(tmp_path):
    (tmp_path / "three.py").write_text(
        "def to_messages(c): return [{'role': 'user', 'content': 'x'}]\n"
        "def a(output): return 1.0\ndef b(output): return 0.0 if output == 'x' else None\n"
        "def c(output): return 0.5 if output else 1.0\n"
        "SCORERS, WEIGHTS = {'a': a, 'b': b, 'c': c}, {'a': 2.0, 'b': 1.0, 'c': 1.0}\nGOLD = [{'output': ''}]\n"
    )
    task = load(str(tmp_path / "three.py"))
    frame = pl.DataFrame({"custom_id": ["1", "2", "3"], "candidate_id": ["1", "2", "3"], "output": ["x", "y", None]})
    scored = scoring.score(frame, task)
    assert scored["quality"].to_list() == [pytest.approx(2.5 / 4), pytest.approx(2.5 / 3), None]
    without = scoring.without(scored, task)
    assert without["a"]["quality"].to_list() == [0.25, 0.5, None]
    assert without["b"]["quality"].to_list() == [pytest.approx(2.5 / 3, abs=1e-8)] * 2 + [None]
    assert without["c"]["quality"].to_list() == [pytest.approx(2 / 3, abs=1e-8), 1.0, None]
    assert not any(math.isnan(value or 0) for frame in without.values() for value in frame["quality"])
