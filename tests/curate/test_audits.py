import numpy as np
import polars as pl
import pytest

from arislab import curate


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
