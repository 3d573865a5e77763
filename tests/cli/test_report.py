"""What a run prints at its end."""

from dataclasses import replace
from pathlib import Path

import pytest
from toys import here, notebook

from arislab.cli import report
from arislab.records.record import Record

HEADLINE = {
    "account": {"total": 60, "label": "answers", "states": {"ok": 60}},
    "n_paid_earlier": 12,
    "zero_shot": {"mean": 0.68, "low": 0.464, "high": 0.821, "n": 1020},
    "chosen": {"mean": 0.8255, "low": -0.647, "high": 0.9, "n": 20},
    "k": 2,
    "reason": "word " * 60,
}


@pytest.fixture
def record(tmp_path):
    return Record("r", "icl", "ok", "now", tmp_path / "r", duration_s=27.25, headline=HEADLINE, root=str(tmp_path))


def test_rows_numbers_notebook_and_what_comes_next(record, tmp_path):
    first, account, *table, notebook_, next_ = report.of(record).splitlines()
    assert first == "icl: ok in 27.2 s"
    assert account == "  60 answers = 60 ok"
    assert table[:4] == [
        "                        mean   95 % interval       n",
        "  chosen examples      0.826  -0.647 to 0.900     20",
        "  no examples          0.680   0.464 to 0.821  1,020",
        "  examples in the set  2",
    ]
    assert [line.split()[0] for line in table[4:]] == ["why", "word", "word", "word"]
    assert max(map(len, table)) <= 120
    assert notebook_ == f"  notebook  {tmp_path}/r/notebook.ipynb"
    assert next_ == f"  next      arislab run finetune --root {tmp_path}"
    assert "arislab run" not in report.of(record, is_alone=False)


@pytest.mark.parametrize(
    ("phase", "headline", "passed", "step"),
    [
        ("generate", {}, {"task": "key_terms", "n_candidates": 5}, "arislab run curate -p task key_terms"),
        ("curate", {}, {"model": "a b"}, "arislab run icl -p model 'a b'"),
        ("finetune", {}, {"base_url": "embedded:/m"}, "arislab run evaluate -p base_url embedded:/m"),
        ("evaluate", {"verdict": "promote"}, {}, "arislab run deploy"),
        ("evaluate", {"verdict": "hold"}, {}, "arislab review"),
        ("judge", {"judge": "m-7"}, {}, "arislab run curate -p judge_model m-7"),
        ("prefer", {"loss": "dpo"}, {}, "arislab run evaluate -p trained dpo"),
        ("toy", {}, {}, None),
        ("deploy", {}, {}, None),
    ],
)
def test_the_next_step_takes_along_what_was_given(record, phase, headline, passed, step):
    done = replace(record, phase=phase, headline=headline, parameters_passed=passed, root=None)
    assert report.next_step(done) == step


def test_no_root_is_named_in_the_lab_around(monkeypatch, tmp_path):
    (tmp_path / "arislab.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert report.at(tmp_path) == ""
    assert report.at(tmp_path / "a b") == f" --root '{tmp_path}/a b'"
    assert report.at(None) == ""


def test_a_run_that_failed_says_why_and_where_to_look(root):
    books = notebook(root / "notebooks", "1 / 0")
    done = here("run", books / "2_curate.ipynb", "--root", root)
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stdout
    *_, where, again = done.stdout.splitlines()
    path = Path(where.removeprefix("  notebook  "))
    assert path.is_file()
    assert path.name == "notebook.ipynb"
    assert again == f"  go on     arislab resume {path.parent.name} --root {root}"
