"""Parameters: read from the notebook's cell, and given values turned into the declared types."""

import json
from datetime import date

import hypothesis.strategies as st
import nbformat
import pytest
from hypothesis import given, settings
from nbformat.v4 import new_code_cell, new_notebook
from toys import parameters as declared

from arislab import runs
from arislab.errors import ParameterError, PrerequisiteError
from arislab.runs import parameters


def test_parameters_are_read_with_type_default_and_help(root):
    parameters = declared(root)
    assert list(parameters)[:3] == ["task", "keep_fraction", "n"]
    assert parameters["keep_fraction"] == runs.Parameter("keep_fraction", "float", 0.2, "share to keep, in (0, 1]")
    assert (parameters["label"].default, parameters["label"].help) == ("a # b", "free text")
    assert parameters["seed"].help == ""
    untyped = declared(root, "x = 3\ny = None\nz = 'a'  # text")
    assert [p.type for p in untyped.values()] == ["int", "str", "str"]


def test_a_notebook_without_a_parameters_cell_has_none(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "plain.ipynb")
    assert runs.parameters_of(tmp_path / "plain.ipynb") == {}


@pytest.mark.parametrize(
    ("source", "says"),
    [("n: int = 3 +", "line 1"), ("n: int = 2 * 3", "must be a literal"), ("n: frame = 1", "declared as 'frame'")],
)
def test_a_parameters_cell_that_cannot_be_read_is_named(root, source, says):
    with pytest.raises(ParameterError, match=says):
        runs.convert(declared(root, source), {"n": "3"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(PrerequisiteError, match=r"x\.ipynb is not a notebook"):
        runs.parameters_of(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("n", "12", 12),
        ("n", "1_000", 1000),
        ("n", 5, 5),
        ("keep_fraction", "1e-1", 0.1),
        ("keep_fraction", 1, 1.0),
        ("label", "007", "007"),
        ("label", "true", "true"),
        ("label", 'it\'s "so" \\ é\n{}', 'it\'s "so" \\ é\n{}'),
        ("strict", "false", False),
        ("strict", "True", True),
        ("names", "a, b", ["a", "b"]),
        ("names", '["a,b"]', ["a,b"]),
        ("names", "", []),
        ("names", ("a",), ["a"]),
        ("limit", "none", None),
        ("limit", "4", 4),
        ("limit", None, None),
        ("mode", "above", "above"),
    ],
)
def test_values_get_the_declared_type(root, name, given, value):
    converted = runs.convert(declared(root), {name: given})[name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("n", "12.5"),
        ("n", "1e3"),
        ("n", "١٢"),
        ("n", True),
        ("n", 3.0),
        ("n", ""),
        ("keep_fraction", "many"),
        ("keep_fraction", "nan"),
        ("keep_fraction", "inf"),
        ("keep_fraction", True),
        ("label", 7),
        ("strict", "1"),
        ("strict", 1),
        ("names", 3),
        ("names", [1]),
        ("names", "[1"),
        ("limit", "all"),
        ("mode", "below"),
    ],
)
def test_a_value_of_another_type_is_refused(root, name, given):
    with pytest.raises(ParameterError) as caught:
        runs.convert(declared(root), {name: given})
    assert f"{name} must be" in str(caught.value)
    assert repr(given) in str(caught.value)
    assert "default" in str(caught.value)


def test_numpy_numbers_keep_their_kind(root):
    import numpy as np

    assert runs.convert(declared(root), {"n": np.int64(3), "keep_fraction": np.float64(0.5)}) == {
        "n": 3,
        "keep_fraction": 0.5,
    }


@pytest.mark.parametrize("name", ["api_key", "token", "openai_api_key", "password", "client_secret"])
def test_a_parameter_that_looks_like_a_secret_is_refused(root, name):
    with pytest.raises(ParameterError, match="looks like a secret"):
        runs.convert(declared(root), {name: "x"})


def test_tokens_and_files_of_tokens_are_no_secrets(root):
    source = "max_tokens: int = 3\ntoken_file: str = ''\napi_key_env: str = 'K'\n"
    assert runs.convert(declared(root, source), {"max_tokens": "4", "token_file": "t", "api_key_env": "E"})


KINDS = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.text(),
    "date": st.dates(),
    "int | None": st.none() | st.integers(),
    "list[str]": st.lists(st.text()),
    "tuple[int, date]": st.tuples(st.integers(), st.dates()),
    "tuple[float, ...]": st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    "dict": st.dictionaries(st.text(), st.integers() | st.text()),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind])))
def test_every_value_survives_the_record_the_command_line_and_the_cell(drawn):
    kind, value = drawn
    declared = {"x": runs.Parameter("x", kind, None, "")}

    def same(again):
        assert repr(again) == repr(value)

    same(runs.convert(declared, {"x": value})["x"])
    same(runs.convert(declared, {"x": json.loads(json.dumps(parameters.plain(value)))})["x"])
    same(runs.convert(declared, {"x": parameters.as_text(value)})["x"])
    same(eval(parameters.as_code(value), {}))


def test_dates_are_shown_in_help_as_they_are_passed():
    assert "2026-01-31" in parameters.describe({"d": runs.Parameter("d", "date", date(2026, 1, 31), "day")})
