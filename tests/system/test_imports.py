"""Imports that take long for the sake of what nobody asks."""

import subprocess
import sys

import pytest
from toys import notebook

pytest.importorskip("rfc3987_syntax", reason="JupyterLab's grammar of IRIs is not installed")


def lines(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()


def test_jsonschema_is_imported_without_the_grammar_of_iris_and_still_checks_iris():
    code = """
import sys
from arislab.system import imports
jsonschema = imports.jsonschema()
print("rfc3987_syntax" in sys.modules, imports.jsonschema() is sys.modules["jsonschema"])
check = jsonschema.Draft202012Validator.FORMAT_CHECKER
print([check.conforms(text, kind) for kind in ("iri", "iri-reference") for text in ("https://é.ch/ü", "a b", "ü")])
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax("iri", "https://é.ch"), hasattr(rfc3987_syntax, "parse"))
"""
    assert lines(code) == ["False True", "[True, False, False, True, False, True]", "True True"]


def test_a_run_and_the_check_of_an_answer_do_without_the_grammar_of_iris(root):
    structured = 'from arislab import structured\nstructured._validator(\'{"type": "object"}\')'
    book = notebook(root / "notebooks", structured, "import sys; print('grammar', 'rfc3987_syntax' in sys.modules)")
    code = f"""
import sys
sys.argv = ["arislab", "run", {str(book / "2_curate.ipynb")!r}, "--root", {str(root)!r}]
from arislab.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end
print("grammar", "rfc3987_syntax" in sys.modules, "papermill" in sys.modules)
"""
    assert lines(code)[-1] == "grammar False True"
    (log,) = root.glob("papermill_runs/*/log.txt")
    assert "grammar False" in log.read_text()
