"""The import graph is a star without circles, and the package loads fast."""

import ast
import json
import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT

PACKAGE = CHECKOUT / "arislab"
ARROWS = {
    "__init__": set(),
    "__main__": {"cli", "listing", "text"},
    "listing": {"formats", "place", "records", "text"},
    "errors": set(),
    "tables": set(),
    "conditions": set(),
    "storage": {"whole"},
    "whole": set(),
    "lake_check": {"lake", "storage", "tables"},
    "lake": {"conditions", "digests", "interactive", "lineage", "place", "storage", "tables", "text", "whole"},
    "lineage": {"decisions", "lake"},  # lake: for type checkers only
    "canonical": {"place"},
    "place": set(),
    "formats": set(),
    "json_text": set(),
    "csv_text": set(),
    "files": {"csv_text", "json_text"},
    "process": set(),
    "masking": set(),
    "text": {"masking"},
    "signing": set(),
    "floods": set(),
    "parameter_file": set(),
    "tablelog": {"conditions"},
    "digests": {"canonical", "place", "tables"},
    "task": set(),
    "questions": set(),
    "scoring": {"json_text", "questions", "task"},
    "duplicates": set(),
    "selection": {"duplicates"},
    "curation": {"decisions", "lines", "questions", "task"},
    "verdicts": {"curation", "decisions", "duplicates", "selection", "structured", "task"},
    "stats": set(),
    "plots": set(),
    "prices": set(),
    "doctor": {"connection", "dialect", "lines", "masking"},
    "batch_cli": {"batch", "doctor", "lake", "ledger", "mixing", "prices", "records", "text", "whole"},
    "dialect": set(),
    "lines": {"chat", "json_text"},
    "pause": set(),
    "connection": {"dialect", "isolation", "masking", "pause"},
    "isolation": set(),
    "mixing": {"connection", "isolation"},
    "ledger": {"lines", "masking", "whole"},
    "budget": set(),
    "sending": {"connection", "ledger", "lines"},
    "results": {"connection", "ledger", "lines"},
    "watch": {"connection", "dialect"},
    "job": {"budget", "connection", "ledger", "lines", "mixing", "results", "sending", "watch"},
    "request_lines": {"json_text", "lines"},
    "batch": {
        "budget",
        "chat",
        "conditions",
        "connection",
        "isolation",
        "job",
        "ledger",
        "lines",
        "mixing",
        "request_lines",
        "sending",
    },
    "inputs": {"duplicates", "files", "json_text", "lines", "questions", "tables"},
    "batch_files": {"batch", "files", "inputs", "json_text", "lines", "results"},
    "earlier": set(),
    "importing": {
        "batch",
        "batch_files",
        "earlier",
        "files",
        "inputs",
        "lines",
        "questions",
        "scoring",
        "tables",
        "task",
    },
    "import_cli": {"importing", "runs_cli", "task", "text"},
    "surrogate": set(),
    "designs": {"surrogate"},
    "references": {"climb", "surrogate"},
    "climb": {"designs", "surrogate"},
    "icl": {"climb", "designs", "surrogate"},
    "cells": {"batch", "evaluate", "icl", "lines", "task"},
    "evaluate": {"batch", "duplicates", "questions", "scoring", "stats", "task"},
    "chat": set(),
    "labels": {"chat", "text"},
    "finetune": {"chat", "labels", "whole"},
    "ranges": {"chat", "lines"},
    "trainer": {"labels"},
    "decisions": {"json_text"},
    "review": {"decisions", "panel", "structured", "text"},
    "panel": {"decisions", "review"},  # review: for type checkers only
    "explore": {"text"},
    "headline": {"formats", "text"},
    "parameters": {"masking", "parameter_file"},
    "provenance": set(),
    "engine": {"text", "whole"},
    "openlineage": set(),
    "kernel": {"engine", "headline", "parameters", "plugin", "process", "text"},
    "plugin": {"parameters", "runs"},  # papermill loads it; what it needs of runs it imports when a notebook runs
    "run_files": {"place", "process"},
    "run_index": {"run_files"},
    "records": {"place", "run_files", "run_index"},
    "run_diff": {"canonical", "formats"},
    "runs_frame": {"formats", "records", "text"},
    "interactive": {"parameters", "runs"},
    "runs": {
        "canonical",
        "digests",
        "engine",
        "headline",
        "kernel",
        "lake",
        "masking",
        "openlineage",
        "parameters",
        "place",
        "process",
        "provenance",
        "records",
        "run_files",
        "runs_frame",
        "signing",
        "tablelog",
        "whole",
    },
    "server": {"chat", "isolation", "json_text", "masking", "pause", "text", "tiny", "whole"},
    "tiny": {"chat", "tables", "task", "whole"},  # one renderer of chat templates for training and serving
    "verify": {
        "canonical",
        "digests",
        "formats",
        "lake",
        "parameters",
        "provenance",
        "records",
        "run_diff",
        "run_files",
        "runs",
        "signing",
        "tablelog",
    },
    "export": {"canonical", "chat", "headline", "icl", "lines", "masking", "run_files", "task"},
    "runs_cli": {
        "export",
        "headline",
        "lake",
        "parameter_file",
        "parameters",
        "place",
        "records",
        "run_diff",
        "runs",
        "text",
        "verify",
    },
    "cli": {
        "batch_cli",
        "curation",
        "decisions",
        "export",
        "import_cli",
        "lake_check",
        "lineage",
        "place",
        "runs",
        "runs_cli",
        "server",
        "task",
        "text",
        "tiny",
    },
}
"""module or sub-package -> what it may import from arislab; all may import errors."""


def arrows():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            targets = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "arislab":
                inner = node.module.split(".")[1:]
                targets = inner[:1] or [a.name for a in node.names]
            elif isinstance(node, ast.Import):
                targets = [a.name.split(".")[1] for a in node.names if a.name.startswith("arislab.")]
            for target in targets:
                if target not in (name, "errors") and not target.startswith("__"):
                    yield name, target, f"{path.relative_to(CHECKOUT)}:{node.lineno}"


def test_no_module_imports_what_the_table_does_not_allow():
    assert [where for name, target, where in arrows() if target not in ARROWS[name]] == []


def test_every_arrow_of_the_table_is_used():
    used = {(name, target) for name, target, _ in arrows()}
    assert {(n, t) for n, targets in ARROWS.items() for t in targets} - used == set()


def module_level(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arislab"):
            yield from ((node.module.split(".")[1:] or [a.name])[0] for a in node.names)


def test_there_is_no_circle_among_imports_at_module_level():
    graph = {}
    for path in PACKAGE.glob("*.py"):
        graph[path.stem] = set(module_level(path)) - {path.stem}
    seen: set[str] = set()

    def walk(name, trail):
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name not in seen:
            for target in graph.get(name, ()):
                walk(target, [*trail, name])
            seen.add(name)

    for name in graph:
        walk(name, [])


HEAVY = ("torch", "transformers", "vllm", "ipywidgets", "matplotlib", "ray", "papermill", "pandas", "IPython")


@pytest.mark.parametrize(
    "module",
    [
        "arislab",
        "arislab.lake",
        "arislab.batch",
        "arislab.cli.main",
        "arislab.runs",
        "arislab.finetune",
        "arislab.review",
        "arislab.plots",
        "arislab.server.app",
    ],
)
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_only_phase_5_reads_the_test_split():
    """Phases 1 to 4 ask the table of candidates for the train or the validation split, each time, and never say "test"."""
    reads = 0
    for path in sorted((CHECKOUT / "notebooks").glob("[1-4]_*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code":
                continue
            assert "'test'" not in source, path.name
            assert '"test"' not in source, path.name
            for call in re.findall(r'lake\["candidates"\]\.(?:read|scan)\(([^)]*)\)', source):
                reads += 1
                assert '{"split": "train"}' in call or '{"split": "validation"}' in call, f"{path.name}: {call}"
            assert 'lake.sql("' not in source, path.name
    assert reads >= 5
    for path in PACKAGE.rglob("*.py"):
        constants = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        assert "test" not in constants or path.name in ("tables.py", "cli.py"), (
            path.name
        )  # the split's definition, and a count of it
    assert '{\\"split\\": \\"test\\"}' in (CHECKOUT / "notebooks" / "5_evaluate.ipynb").read_text()


def test_every_module_and_public_function_has_a_docstring():
    bare = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) and path.stat().st_size:
            bare.append(str(path))
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                bare.append(f"{path.name}:{node.name}")
    assert bare == []


def test_doctests_of_the_package_hold():
    names = [str(p) for p in PACKAGE.rglob("*.py") if ">>>" in p.read_text()]
    assert len(names) > 5
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--doctest-modules", "-p", "no:cacheprovider", *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_nothing_in_the_tree_is_large_or_names_one_machine():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout.split(
        "\n"
    )
    files = [CHECKOUT / f for f in listed if f and (CHECKOUT / f).is_file()]
    assert [f.name for f in files if f.stat().st_size > 4_000_000] == []
    assert sum(f.stat().st_size for f in files) < 10_000_000
    marks = ["/" + "root/", "/" + "work/main"]
    assert [
        f.name
        for f in files
        if f.suffix in (".py", ".md", ".toml", ".ipynb", ".json")
        and any(m in f.read_text(errors="replace") for m in marks)
    ] == []
