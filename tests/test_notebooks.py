"""The notebooks keep the house rules, and run from top to bottom with their defaults."""

import ast
import contextlib
import io
import re

import nbformat
import polars as pl
import pytest
from toys import BY_DEFAULT, CHECKOUT, NOTEBOOKS, arislab

from arislab import curate, review
from arislab.lake import Lake
from arislab.review.panel import BACKENDS
from arislab.runs import find_notebook, parameters_of
from arislab.task import candidate_of, load

RECORDS = sorted((CHECKOUT / "papermill_runs").glob("example*/**/notebook.ipynb"))
RECORDED = [p for p in NOTEBOOKS if "arislab" in nbformat.read(p, 4).metadata]
PHASES = [p for p in NOTEBOOKS if p.name[0].isdigit()]
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@each
def test_sources_hold_no_output_and_no_injected_cell(path):
    for cell in code(path):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "injected-parameters" not in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_by_hand_it_is_recorded_under_the_name_that_it_has_when_it_is_run(path):
    """Else ``verify generate`` would take up what a judge did."""
    assert nbformat.read(path, 4).metadata["arislab"] == {"phase": find_notebook(str(path))[0]}


@each
def test_any_front_end_can_open_and_run_it(path):
    """JupyterLab is the one that tests drive; nothing here is for it alone: VS Code, notebook 7 and nbclient run it."""
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor >= 5) == (4, True), "cells have ids"
    assert book.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert book.metadata.language_info.name == "python"
    ids = [cell.id for cell in book.cells]
    assert len(set(ids)) == len(ids)
    for cell in code(path):
        ast.parse(cell.source)  # neither magics nor shell
        for word in ("jupyterlab", "jupyterapp", "Javascript(", "get_ipython"):
            assert word not in cell.source, word


STANDARD = {"@jupyter-widgets/base", "@jupyter-widgets/controls", "anywidget"}
"""Modules of widgets that every front end has, or loads from the environment in which the kernel runs."""


def test_widgets_are_of_modules_that_every_front_end_knows_and_have_words_beside_them():
    from ipywidgets import Widget

    row = {"custom_id": ["r-1"], "input": ["Q"], "output": ["A"], "quality_score": [0.9], "metadata": ["{}"]}
    scored = pl.DataFrame({"custom_id": ["r-1", "r-2"], "quality": [0.5, 0.75], "category": ["a", "b"]})
    made = [
        *(review.Panel(pl.DataFrame(row), reviewer="Ada", decide=print, backend=name).widget for name in BACKENDS),
        curate.Explorer(scored).widget,
    ]
    for outer in made:
        parts, seen = [outer], []
        while parts:
            one = parts.pop()
            seen.append(one)
            parts += [child for child in getattr(one, "children", ()) if isinstance(child, Widget)]
        modules = {getattr(one, name) for one in seen for name in ("_model_module", "_view_module")}
        assert modules <= STANDARD
        bundle = outer._repr_mimebundle_()
        bundle = bundle[0] if isinstance(bundle, tuple) else bundle
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert "text/plain" in bundle


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: f"{p.parents[1].name}-{p.parent.name}")
def test_what_a_record_shows_can_be_shown_anywhere(path):
    nbformat.validate(nbformat.read(path, 4))
    for cell in code(path):
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            assert not kinds or kinds & {"text/html", "text/plain", "image/png", "text/markdown"}, kinds


@each
def test_it_opens_with_the_question_and_has_one_parameters_cell(path):
    book = nbformat.read(path, 4)
    assert book.cells[0].cell_type == "markdown"
    assert "?" in book.cells[0].source
    tagged = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert line.count("=") == 1, f"papermill drops a parameter with a second '=': {line}"
        assert "  # " in line, f"no help: {line}"


@each
def test_every_parameter_has_a_type_a_default_and_help(path):
    for name, parameter in parameters_of(path).items():
        assert parameter.help, name
        assert parameter.type, name


@each
def test_what_a_cell_counts_it_also_sorts_by_what_it_counted_by(path):
    """Else equal counts stand in another order each time, and a rerun is not equal to its record."""
    for line in "\n".join(cell.source for cell in code(path)).splitlines():
        if "value_counts" in line or re.search(r"\bjoin\(.*how=.left.(?!.*maintain_order)", line):
            assert "maintain_order" in line, line
        if by := re.search(r"group_by\((.*?)\)", line):
            (keys,) = re.findall(r"\.sort\((.*?)\)", line) or [""]
            assert set(re.findall(r'"(\w+)"', by[1])) <= set(re.findall(r'"(\w+)"', keys)), line


@pytest.mark.parametrize("path", PHASES, ids=lambda p: p.stem)
def test_cells_are_short_and_hold_no_plumbing(path):
    cells = code(path)
    assert len(cells) <= (15 if path.stem == "2_curate" else 12)
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        # a parameter takes a line with its help, and phase 2 has 21; code stays short
        assert len(lines) <= (21 if "parameters" in cell.metadata.get("tags", []) else 15), lines[0]
        assert [line for line in lines if len(line) > 120] == []
        for node in ast.walk(ast.parse(cell.source.replace("%", "#"))):
            assert not isinstance(node, ast.ClassDef | ast.Try | ast.While | ast.For), cell.source
        for word in ("open(", "Path(", "requests.get", "sys.path", "%pip", "os.environ"):
            assert word not in cell.source.replace("requests.", "rows."), word


def test_of_the_recorded_answers_a_phase_reads_what_it_uses():
    """Of 170,000 of them the texts are most: they are read of the rows that are asked about, or drawn."""
    n_reads = 0
    for path in PHASES:
        if path.stem != "2_curate":  # which scores them all
            source = "\n".join(cell.source for cell in code(path))
            for call in re.findall(r'(?:raw_table|lake\["training_data_raw"\])\.read\((.*)\)', source):
                n_reads += 1
                assert "where={" in call, f"{path.name}: {call}"
                assert '"custom_id":' in call or ("columns=" in call and "messages" not in call.split("where=")[0]), (
                    call
                )
    assert n_reads >= 6


def first_output(path):
    """What a notebook shows first: its statements run one by one until one prints, or a cell ends with a value."""
    names, printed = {}, io.StringIO()
    for cell in code(path):
        statements = ast.parse(cell.source).body
        for node in statements:
            with contextlib.redirect_stdout(printed):
                if node is statements[-1] and isinstance(node, ast.Expr):
                    value = eval(ast.unparse(node), names)
                    printed.write("" if value is None else repr(value))
                else:
                    exec(ast.unparse(node), names)
            if printed.getvalue():
                return printed.getvalue()
    return None


@each
def test_its_first_output_names_the_lake(path, root):
    assert first_output(path) == f"{root}/data/lake\n"
    assert not Lake().tables()


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_what_is_recorded_ends_with_its_headline_and_an_account(path):
    last = ast.parse(code(path)[-1].source).body[-1]
    assert isinstance(last, ast.Expr), "a headline that no cell shows is in no record"
    assert ast.unparse(last).startswith("runs.headline(")
    if path.stem != "deploy":  # which counts no rows
        assert "account=account" in code(path)[-1].source
        assert any("runs.account(" in cell.source for cell in code(path))


@each
def test_how_tables_look_is_said_in_one_place_and_none_is_printed(path):
    """A frame is shown as a cell's value or by display, in the house style; print has polars' own."""
    source = "\n".join(cell.source for cell in code(path))
    assert "pl.Config" not in source
    for call in re.findall(r"^ *print\((.*)\)$", source, re.MULTILINE):
        assert not re.search(r"\.(with_columns|select|group_by|by_category|head)\b", call), call


def test_no_count_of_what_people_decided_stands_above_the_panel_that_goes_on_counting():
    cells = code(next(path for path in NOTEBOOKS if path.stem == "review"))
    [panel] = [i for i, cell in enumerate(cells) if "review.Panel(" in cell.source]
    counts = [i for i, cell in enumerate(cells) if "review.progress(" in cell.source]
    assert counts
    assert min(counts) > panel
    assert all("table.as_of(" in cells[i].source and "run this cell again" in cells[i].source for i in counts)


@pytest.mark.slow
def test_all_notebooks_run_with_their_defaults(notebooks_run):
    """nbval-lax executes every cell of all but prefer in one root, in order: this is the demo, by hand."""
    code_of_exit, printed = notebooks_run.wait(1800)
    assert code_of_exit == 0, printed[-6000:]
    n_cells = sum(len(code(path)) for path in BY_DEFAULT)
    assert f"{n_cells} passed" in printed
    lake = Lake(notebooks_run.root / "data" / "lake")
    gains = lake.sql("select arm, avg(quality) q, count(*) n from evaluations group by arm")
    quality, n = dict(zip(gains["arm"], gains["q"], strict=True)), gains["n"].min()
    assert n >= 400
    assert quality["baseline"] < quality["icl"]
    assert quality["baseline"] < quality["finetuned"]
    assert quality["control"] < quality["finetuned"]
    plant_a_leak(lake)
    message = arislab("run", "evaluate", root=notebooks_run.root, ok=False)
    assert "1 of 500 test candidates are also in what was trained or searched on" in message
    assert lake["evaluations"].rows == gains["n"].sum() == 10 * n  # five arms, five without a model; nothing was added


def plant_a_leak(lake):
    """Put the question about one test candidate, a word changed, among the curated examples."""
    person = lake["candidates"].read(where="split = 'test'").sort("candidate_id").row(0, named=True)
    text = load("candidate_evaluation").to_messages(candidate_of(person))[-1]["content"]
    row = lake["training_data_curated"].read().head(1)
    planted = row.with_columns(
        id=pl.lit("planted"), custom_id=pl.lit("planted"), input=pl.lit(text.replace("Minimum", "minimum"))
    )
    lake["training_data_curated"].append(planted)
