"""Parameters of a YAML file, as their author wrote them."""

import pytest
from toys import notebook

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.runs.parameter_file import from_file


def test_a_value_in_yaml_is_read_by_the_declared_type(root):
    path = root / "p.yaml"
    declared = runs.parameters_of(notebook(root / "notebooks", "1") / "2_curate.ipynb")
    for written, name, value in (
        ("label: no", "label", "no"),
        ("label: 3.10", "label", "3.10"),
        ("label: 2026-01-31", "label", "2026-01-31"),
        ("label: 0x1F", "label", "0x1F"),
        ("label: '7'", "label", "7"),
        ("names: [no, 1.0, x]", "names", ["no", "1.0", "x"]),
        ("n: 010", "n", 10),
        ("keep_fraction: 1", "keep_fraction", 1.0),
        ("strict: no", "strict", False),
        ("strict: true", "strict", True),
        ("limit: ~", "limit", None),
        ("limit: 4", "limit", 4),
        ("mode: above", "mode", "above"),
    ):
        path.write_text(written + "\n")
        assert runs.convert(declared, from_file(path)) == {name: value}, written
    for written in ("label:", "label: ~"):
        path.write_text(written + "\n")
        with pytest.raises(PrerequisiteError, match="quote it in YAML"):
            runs.convert(declared, from_file(path))
    path.write_text("n: 1:30\n")
    with pytest.raises(PrerequisiteError, match="n must be a whole number, got '1:30'"):
        runs.convert(declared, from_file(path))


def test_a_file_of_comments_gives_nothing_and_a_name_twice_is_refused(root):
    path = root / "p.yaml"
    for written in ("", "# nothing\n", "---\n# later\n"):
        path.write_text(written)
        assert from_file(path) == {}
    for written in ("n: 1\nlabel: a\nn: 2\n", '{"n": 1, "n": 2}'):
        path.write_text(written)
        with pytest.raises(PrerequisiteError, match=r"'n' stands on line 1 and again on line"):
            from_file(path)
