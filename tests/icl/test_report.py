"""What a search comes to: how optimistic its score was, and the row that later phases read."""

import json

import polars as pl
from toys import TASK, people

from arislab import evaluate, icl, stats
from arislab.lake import tables
from arislab.task import load


def found_and_fresh():
    """A small search, and the answers of its set and of no examples on fresh rows."""

    def ask(cells):
        worth = [sum(int(i[1:]) for i in ids) / 20 for ids in cells["example_ids"]]
        return cells.select("set_id", "candidate_id").with_columns(quality=pl.Series(worth))

    pool = pl.DataFrame({"id": [f"e{i}" for i in range(9)]})
    result = icl.search(pool, people(40, "validation"), k=2, budget=200, ask=ask)
    rows = [(arm, f"c{i}", base + i / 100) for arm, base in (("chosen", 0.5), ("zero-shot", 0.2)) for i in range(20)]
    scores = pl.DataFrame(rows, schema=["arm", "candidate_id", "quality"], orient="row").with_columns(tokens=9)
    means = evaluate.summary(scores)
    return result, means, stats.verdicts(stats.compare(scores, contrasts=[("chosen", "zero-shot")]))


def test_how_much_better_the_search_made_its_set_look_is_said_with_the_numbers_beside_it():
    result, means, _ = found_and_fresh()
    gap = icl.optimism(result, means)
    fresh = means.filter(arm="chosen")["mean"][0]
    assert gap.points == 100 * (result.score - fresh)
    assert gap.matters == ("yes" if result.matters else "not shown")
    assert f"on fresh rows {fresh:.3f} [" in repr(gap)
    assert f"Search score ~~{result.score:.3f}~~" in gap._repr_markdown_()
    assert "2.7 are needed" in repr(gap)


def test_the_row_of_a_set_fits_the_table_and_holds_how_it_was_asked(tmp_path):
    (tmp_path / "shout.py").write_text(TASK)
    task = load(tmp_path / "shout.py")
    result, means, comparison = found_and_fresh()
    row = icl.set_row(
        result, means, comparison, task=task, model="m", parameters={"seed": 1, "temperature": 0.5},
        use_case="tech", use_case_column="use_case", approve_policy="score", n_holdout_uses=2, data_version="t@1",
    )  # fmt: skip
    known = set(tables.columns_of("icl_examples"))
    assert set(row.columns) <= known
    assert known - set(row.columns) == {"run_id", "created_at"}  # the lake stamps these
    (stored,) = row.to_dicts()
    assert stored["example_ids"] == list(result.example_ids)
    assert (stored["k"], stored["verdict"], stored["n_validation"]) == (2, "improves", 20)
    assert json.loads(stored["params"]) == {"seed": 1, "temperature": 0.5}
    assert stored["id"] == f"{result.search_id}-{icl.set_id(result.example_ids)}"
