"""Rooms import what their table allows, no file is part of a circle, and the package loads fast."""

import ast
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys

import pytest
from toys import CHECKOUT

PACKAGE = CHECKOUT / "arislab"
ALL = "all"
ARROWS: dict[str, set[str] | str] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "system": set(),
    "chat": set(),  # one renderer of chat templates for training, serving and asking
    "isolation": set(),  # how to find out whether a server mixes models: asked by client and server alike
    "questions": set(),
    "task": set(),
    "cluster": set(),  # who computes, not what
    "structured": {"chat", "cluster"},  # the form of the answer is one of the settings with which a model is asked
    "stats": set(),
    "normal": set(),  # the normal form of a text: alone, so that a helper that writes it starts at once
    "duplicates": {"cluster", "normal"},
    "plots": set(),
    "models": {"stats"},  # the bounds of a gate
    "deploying": {"batch", "models"},  # asks a server for what the registry says of a version
    "smollm2": set(),  # weights for a folder; who serves or trains them is told the folder
    # structured: an edit must fit the SCHEMA where the answer did; stats: how far people agree, and what they promise
    "review": {"stats", "structured"},
    "lab": {"__init__"},  # __init__: the version that a lab notes
    "lake": {"models", "review"},  # the life of a row tells its reviews in their order, and what its adapters became
    "records": set(),
    "batch": {"chat", "isolation"},
    "tiny": {"chat", "lake", "task"},  # lake: the splits of composed candidates
    "calls": {"task"},
    "workers": {"calls", "task"},
    "scoring": {"calls", "cluster", "questions", "task", "workers"},
    "trying": {"calls", "questions", "scoring", "structured", "task"},
    "signals": {"task"},
    "bm25": set(),  # likeness by words: of examples to questions, and of the answer that costs nothing
    "vectors": {"duplicates"},  # likeness by words and by meaning, of rows to each other; the normal forms of texts
    "trivial": {"bm25", "curate", "scoring", "task", "workers"},  # curate: a draw that repeats
    "curate": {
        "batch",
        "duplicates",
        "questions",
        "review",
        "stats",
        "structured",
        "task",
        "vectors",
    },  # batch: the question in a list of messages; stats: what explains a cut, with its interval
    "judge": {"batch", "curate", "scoring", "stats", "task"},  # curate: the messages that an output answers
    # curate: which candidates are taken, and the messages of a record; review: digests of what was shown
    "pairwise": {"batch", "curate", "review", "stats", "task"},
    # judge: what it said of two answers; normal: the normal form of what an edit changed
    "preferences": {"batch", "curate", "judge", "normal", "review", "task"},
    # models: old names; structured: whether an answer has the form
    "evaluate": {"batch", "duplicates", "models", "questions", "scoring", "stats", "structured", "task"},
    "icl": {"batch", "bm25", "chat", "evaluate", "task", "vectors"},
    "finetune": {"__init__", "chat", "tiny"},  # __init__: the version, which goes into an adapter's manifest
    "ranges": {"batch", "chat", "cluster"},  # the names that parameters of several phases may take
    # review: examples count as reviewed by whoever wrote them
    "inputs": {"batch", "duplicates", "lake", "questions", "review", "scoring", "task"},
    "runs": {"__init__", "lake", "records", "task"},  # __init__: the version; task: which file a name means
    # it goes through all that is kept of a person: tables, batches, and records, which are made true again (runs)
    "forgetting": {"batch", "lake", "records", "runs"},
    "prices": {"batch"},  # an old name
    "plugin": {"runs"},  # papermill loads it; what it needs of runs it imports when a notebook runs
    "server": {"__init__", "chat", "isolation", "tiny"},  # __init__: the version
    "cli": ALL,
}
"""Room, or file beside the rooms -> what it may import from arislab; all may import errors and system."""

PATHS = {
    ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    for parts in [path.relative_to(CHECKOUT).with_suffix("").parts]
}
"""Every file of the package by the name under which it is imported; a room's face by the room's."""


def imported(path):
    """Every import of arislab in a file, lazy ones and those for type checkers too.

    The file that it names, and the line.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "arislab":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in PATHS else node.module), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "arislab")


def room_of(name):
    return [*name.split("."), "__init__"][1]


def arrows():
    for name, path in PATHS.items():
        for target, line in imported(path):
            one, other = room_of(name), room_of(target)
            if other not in (one, "errors", "system"):
                yield one, other, f"{path.relative_to(CHECKOUT)}:{line}"


def test_no_room_imports_what_the_table_does_not_allow():
    allowed = {room: targets if targets != ALL else ARROWS for room, targets in ARROWS.items()}
    assert [where for room, target, where in arrows() if target not in allowed[room]] == []


def test_every_arrow_of_the_table_is_used():
    used = {(room, target) for room, target, _ in arrows()}
    assert {(room, t) for room, targets in ARROWS.items() if targets != ALL for t in targets} - used == set()


def test_there_is_no_circle_over_all_files_and_all_imports():
    graph = {name: {target for target, _ in imported(path)} - {name} for name, path in PATHS.items()}
    seen: set[str] = set()

    def walk(name, trail):
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in seen:
            for target in sorted(graph.get(name, ())):
                walk(target, [*trail, name])
            seen.add(name)

    for name in graph:
        walk(name, [])


def test_no_file_imports_the_face_of_its_own_room():
    """The face imports its files: one of them that asked it would find it half made."""
    inside = [(name, path) for name, path in PATHS.items() if path.name != "__init__.py"]
    assert [
        f"{path.relative_to(CHECKOUT)}:{line}"
        for name, path in inside
        for target, line in imported(path)
        if target != "arislab" and name.startswith(f"{target}.")
    ] == []


def test_no_name_of_a_face_is_that_of_a_file_of_its_room():
    """``from arislab.curate import examples`` must mean one thing."""
    both = []
    for name, path in PATHS.items():
        if path.name == "__init__.py":
            files = {p.stem for p in path.parent.iterdir()} - {"__init__"}
            nodes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
            both += [f"{name}.{a.name}" for n in nodes for a in n.names if (a.asname or a.name) in files]
    assert both == []


def test_what_a_face_names_as_the_way_through_its_room_is_there():
    stems = {part for name in PATHS for part in name.split(".")}
    gone = []
    for name, path in PATHS.items():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            known = stems | {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
            gone += [
                f"{name}: {word}" for word in re.findall(r"``(\w+)``", ast.get_docstring(tree)) if word not in known
            ]
    assert gone == []


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
    """Phases 1 to 4 ask candidates for the train or the validation split, each time, and never say "test"."""
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
        assert "test" not in constants or path.name in ("tables.py", "lake.py"), (
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


class Finder(doctest.DocTestFinder):
    """As the library's, but it does not take a function under a decorator for one of the decorator's module."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)


def test_doctests_of_the_package_hold():
    names = [name for name, path in PATHS.items() if ">>>" in path.read_text()]
    assert len(names) > 5
    finder, runner = Finder(), doctest.DocTestRunner()
    tests = {name: finder.find(importlib.import_module(name), name) for name in names}
    results = {name: [runner.run(one) for one in found if one.examples] for name, found in tests.items()}
    assert {name: found for name, found in results.items() if not found or any(one.failed for one in found)} == {}
    written = {name: PATHS[name].read_text().count(">>> ") for name in names}
    assert {name: sum(one.attempted for one in found) for name, found in results.items()} == written


def test_nothing_in_the_tree_is_large_or_names_one_machine():
    """Weights, records and data are a few MB together; what people wrote to be read is none of them."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout.split(
        "\n"
    )
    files = [CHECKOUT / f for f in listed if f and (CHECKOUT / f).is_file()]
    assert [f.name for f in files if f.stat().st_size > 4_000_000] == []
    written = {".py", ".md", ".toml", ".js", ".css"}
    data = [f for f in files if f.suffix not in written and f.relative_to(CHECKOUT).parts[0] != "notebooks"]
    assert sum(f.stat().st_size for f in data) < 5_200_000
    marks = ["/" + "root/", "/" + "work/main"]
    assert [
        f.name
        for f in files
        if f.suffix in (".py", ".md", ".toml", ".ipynb", ".json")
        and any(m in f.read_text(errors="replace") for m in marks)
    ] == []


def test_no_test_file_imports_another():
    """What two of them need stands in toys.py; a helper of a test file goes when the file is parted."""
    files = sorted((CHECKOUT / "tests").rglob("*.py"))
    assert [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if any(part.startswith("test_") for part in name.split("."))
    ] == []
