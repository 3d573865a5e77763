"""A name is a value: what it holds changes no condition, and no SQL is put together from names."""

import ast
import json
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import CHECKOUT, FUZZ, people

from arislab.errors import LakeError, ParameterError
from arislab.lake import Lake, conditions
from arislab.lake.log import reads_and_writes

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "O'Neil",
        "x' or '1' = '1",
        "a''b",
        '"b"',
        "50%",
        "\\",
        "\\'",
        "é\ne\u0301",
        "--",
        "/* */",
        ";",
        "$1",
        "?",
        ":a",
        "{}",
        "null",
        "\0",
    ]
)


def named(names, marks):
    """One candidate per name, whose category is the name and whose title is a mark."""
    return people(len(names)).with_columns(category=pl.Series(names), title=pl.Series(marks))


@given(names=st.lists(NAMES, min_size=2, max_size=5, unique=True))
@settings(max_examples=FUZZ, deadline=None)
def test_polars_finds_the_rows_of_a_name_and_no_others(names):
    frame = named(names, names).vstack(
        people(1).with_columns(category=pl.lit(None, pl.String), title=pl.lit(None, pl.String))
    )
    for name in names:
        assert frame.filter(conditions.expression({"category": name}))["title"].to_list() == [name]
    assert frame.filter(conditions.expression({"category": None})).height == 1
    assert frame.filter(conditions.expression({"category": names[1:]}))["title"].to_list() == names[1:]
    assert frame.filter(conditions.expression({"category": [names[0], None]})).height == 2
    assert frame.filter(conditions.expression({"category": []})).height == 0
    assert frame.filter(conditions.expression({})).height == len(names) + 1


@given(names=st.lists(NAMES, min_size=2, max_size=4, unique=True))
@settings(max_examples=max(3, FUZZ // 10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_replacing_the_rows_of_a_name_leaves_all_others_alone(names, tmp_path_factory):
    table = Lake(tmp_path_factory.mktemp("lake"))["candidates"].append(named(names, ["old"] * len(names)))
    table.replace(named(names, ["new"] * len(names)).head(1), where={"category": names[0]})
    titles = dict(table.read().select("category", "title").iter_rows())
    assert titles == {name: "new" if name == names[0] else "old" for name in names}
    table.replace(table.read().clear(), where={"category": names[1:], "title": "old"})
    assert table.read()["category"].to_list() == names[:1]


def test_a_column_that_the_table_does_not_have_is_refused_with_the_closest_one(lake):
    lake["candidates"].append(people(2))
    for act in (
        lake["candidates"].read,
        lake["candidates"].latest,
        lambda where: lake["candidates"].replace(people(1), where=where),
    ):
        for name in ("splitt", "^.*$", "split = 'train' or split", "*"):
            with pytest.raises(LakeError, match="has no column"):
                act(where={name: "train"})
    assert lake["candidates"].version == 0


@pytest.mark.parametrize("value", [float("nan"), {"a": "b"}, object(), [["train"]]])
def test_a_value_that_no_column_can_equal_is_refused(lake, value):
    with pytest.raises(ParameterError, match="give a text, a number, True, False, None or a list of them") as refused:
        lake["candidates"].read(where={"split": value if not isinstance(value, dict) else [value]})
    assert "'split'" in str(refused.value)


def test_rows_that_do_not_fulfil_the_condition_cannot_take_the_place_of_those_that_do(lake):
    lake["candidates"].append(people(2))
    with pytest.raises(LakeError, match="nothing was written"):
        lake["candidates"].replace(people(2), where={"split": "validation"})
    assert lake["candidates"].read()["split"].to_list() == ["train", "train"]


def test_the_newest_row_of_a_name_is_found_and_a_missing_one_is_named(lake):
    lake["candidates"].append(people(2).with_columns(company=pl.lit("O'Neil & Söhne")))
    assert lake["candidates"].latest(where={"company": "O'Neil & Söhne"})["split"] == "train"
    with pytest.raises(LakeError, match="no row where company = 'O''Neil' and title is null"):
        lake["candidates"].latest(where={"company": "O'Neil", "title": None})


def test_a_record_keeps_the_condition_and_its_digest_is_that_of_older_records(lake, root, monkeypatch):
    lake["candidates"].append(people(2))
    noted = []
    for where in ({"split": "train", "category": ("a", "b")}, "split = 'train' and category in ('a', 'b')"):
        folder = root / str(len(noted))
        folder.mkdir()
        monkeypatch.setenv("ARISLAB_RUN_DIR", str(folder))
        lake["candidates"].read(where=where)
        noted.append(reads_and_writes(folder / "tables.jsonl")[0]["candidates"])
        line = json.loads((folder / "tables.jsonl").read_text())
        assert line["where"] == json.loads(json.dumps(where))
        assert lake["candidates"].read(where=line["where"]).height == line["rows"]
    assert noted[0] == noted[1]


# ---- no SQL is put together from names -------------------------------------------------------------------------------


def sources():
    """Name and Python source of the package, the tests, the tasks and each notebook."""
    for folder in ("arislab", "tests", "notebooks"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            yield path.relative_to(CHECKOUT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield path.relative_to(CHECKOUT).as_posix(), re.sub(r"(?m)^%.*$", "", "\n\n".join(code))


def is_built(node):
    """True for an f-string with a hole, a sum or a % with a text, and str.format or str.join."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
        return any(
            isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in ast.walk(node)
        )
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_method and node.func.attr in ("format", "join") and isinstance(node.func.value, ast.Constant)


def conditions_built(source):
    """Conditions and queries of the lake that are put together from pieces, here or in a name that is given on."""
    tree = ast.parse(source)
    built = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_built(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        asked = [word.value for word in node.keywords if word.arg in ("where", "predicate", "query")]
        asked += node.args[:1] if name in ("sql", "sql_expr") else []
        for argument in asked:
            pieces = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
            if any(is_built(piece) or (isinstance(piece, ast.Name) and piece.id in built) for piece in pieces):
                yield ast.unparse(node)


SQL = re.compile(r"\b(select|insert into|delete from|update|where|filter|tags\.)", re.IGNORECASE)
VALUE = re.compile(r"(=|<>|!=|<|>|\blike|\b(in|values)\s*\()\s*'?\s*$", re.IGNORECASE)
KNOWN_VALUES = {
    (
        "arislab/lake/conditions.py",
        "', '.join(some)",
    ),  # Delta has no parameters: the one place that quotes, tested above
    (
        "arislab/records/mlflow.py",
        "name",
    ),  # MLflow's filters have no parameters; a name with a quote is refused before
    ("arislab/server/store.py", "marks"),  # question marks
    ("tests/batch/test_failures.py", "pages"),
    ("tests/server/test_crashes.py", "wait_ms"),
}


def values_written(source):
    """Holes of f-strings that stand where SQL has a value.

    A constant in capitals is none, and neither are question marks.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        texts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
        if not any(text and SQL.search(text) for text in texts):
            continue
        for before, part in zip(texts, node.values[1:], strict=False):
            if before is None or not VALUE.search(before) or not isinstance(part, ast.FormattedValue):
                continue
            value = ast.unparse(part.value)
            if not value.split(".")[-1].strip("_").isupper() and "'?'" not in value and part.conversion == -1:
                yield value


@pytest.mark.slow
def test_nobody_writes_a_value_into_sql():
    """For SQLite, MLflow and DuckDB alike: values are bound.

    Names of columns and tables cannot be; they are constants, or quoted.
    """
    written = {(name, value) for name, source in sources() for value in values_written(source)}
    assert written - KNOWN_VALUES == set()


@pytest.mark.parametrize(
    "line",
    [
        "db.execute(f\"select * from runs where name = '{name}'\")",
        'db.execute(f"delete from runs where n in ({names})")',
        'db.execute(f"update runs set x = {quoted(name)} where n = ?")',
        "client.search_runs(filter_string=f\"tags.run = '{name}'\")",
    ],
)
def test_the_search_for_values_in_sql_finds_each_way_to_write_one(line):
    assert list(values_written(line))


@pytest.mark.slow
def test_nobody_puts_a_condition_or_a_query_of_the_lake_together_from_pieces():
    assert [(name, built) for name, source in sources() for built in conditions_built(source)] == []


@pytest.mark.parametrize(
    "line",
    [
        "t.read(where=f\"task = '{name}'\")",
        't.latest(where="task = \'" + name + "\'")',
        "t.replace(rows, where=\"task = '%s'\" % name)",
        "t.read(where=\"task = '{}'\".format(name))",
        "t.read(where=f\"task = '{name}'\" if name else None)",
        "w = f\"task = '{name}'\"\nt.read(where=w)",
        "lake.sql(f\"select * from t where x = '{name}'\")",
        "pl.sql_expr('x in (' + names + ')')",
    ],
)
def test_the_search_for_such_conditions_finds_each_way_to_write_one(line):
    assert list(conditions_built(line))
