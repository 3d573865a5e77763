"""The notebooks keep the house rules, and run from top to bottom with their defaults."""

import ast
import contextlib
import io
import re

import nbformat
import polars as pl
import pytest
from toys import BY_DEFAULT, NOTEBOOKS, arislab

from arislab.lake import Lake
from arislab.runs import parameters_of
from arislab.task import candidate_of, load

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
        # a parameter takes a line with its help, and phase 3 has twenty; code stays short
        assert len(lines) <= (20 if "parameters" in cell.metadata.get("tags", []) else 15), lines[0]
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


@pytest.mark.parametrize("path", PHASES, ids=lambda p: p.stem)
def test_a_phase_ends_with_its_headline_and_an_account(path):
    assert "runs.headline(" in code(path)[-1].source
    assert "account=account" in code(path)[-1].source
    assert any("runs.account(" in cell.source for cell in code(path))


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
