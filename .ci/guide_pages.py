"""Write the pages of the guide that say what the code says: ``python .ci/guide_pages.py``.

``tests/test_guide.py`` fails while a page in ``notebooks/guide`` is another one than this file would write. Nothing
here knows what the other pages say.
"""

import ast
import importlib
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
GUIDE = CHECKOUT / "notebooks" / "guide"
MADE = "<!-- Written by .ci/guide_pages.py: change the code that it is read from, then run it. -->"


def lake_tables() -> str:
    """Return the page on the tables of the lake, from ``arislab/lake/tables.py``."""
    from arislab.lake.tables import TABLES

    parts = [
        "# Lake tables",
        MADE,
        _wrapped(
            "What each table of the lake holds, as the lake checks it on every write (`arislab/lake/tables.py`). Every "
            "row also has `run_id` (the run that wrote it; `interactive` for a notebook run by hand) and `created_at` "
            "(UTC). A column that is not "
            "*required* may be null. How to read one: [your own data](own-data.md), `arislab sql`. What the words "
            "mean: [glossary](glossary.md)."
        ),
        _wrapped(" · ".join(f"[{name}](#{name})" for name in TABLES)),
    ]
    for name, table in TABLES.items():
        key = ", ".join(f"`{column}`" for column in table.key)
        parts.append(f"## {name}")
        parts.append(_wrapped(f"{table.doc} Key: {key}."))
        lines = [_bullet(f"`{column}` ({_facts(spec)}): {spec.doc}") for column, spec in table.columns.items()]
        if table.prefix:
            lines.append(_bullet(f"`{table.prefix}…` (Float64): one column for each scorer"))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _facts(spec: Any) -> str:
    facts = [str(spec.dtype)] + ["required"] * spec.required
    if spec.allowed:
        facts.append("one of " + ", ".join(spec.allowed))
    if spec.low is not None or spec.high is not None:
        facts.append(f"{_end(spec.low)}..{_end(spec.high)}")
    return "; ".join(facts)


def _end(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def command_line() -> str:
    """Return the page on the command line, from the verbs of ``arislab`` and their options."""
    from typer.main import get_command

    from arislab.cli import listing, main

    top = get_command(main.app)
    panels = [", ".join(f"[{verb}](#arislab-{verb})" for verb in verbs) for verbs in main._VERBS.values()]
    parts = [
        "# Command line",
        MADE,
        _wrapped(
            "Each command works in any folder of a lab, or with `--root DIR` on another one. `--help` after a command "
            "prints what stands here; `arislab run PHASE --help` the [parameters](parameters.md) of a phase."
        ),
        "\n".join(_bullet(f"{name}: {links}") for name, links in zip(main._VERBS, panels, strict=True)),
    ]
    for words, command in verbs_of(top):
        parts.append(f"## {' '.join(['arislab', *words])}")
        parts += [_wrapped(paragraph) for paragraph in (command.help or "").strip().split("\n\n")]
        if words == ["runs"]:
            parts.append("\n".join(_bullet(line) for line in _of_argparse(listing._parser())))
            continue
        lines = [_bullet(line) for line in map(_parameter, command.params) if line]
        parts += ["\n".join(lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def verbs_of(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    """Walk a command line: the words of each verb, and its command; groups before what they hold."""
    if words:
        yield list(words), command
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        yield from verbs_of(command.commands[name], (*words, name))


def _parameter(parameter: Any) -> str | None:
    if "--help" in parameter.opts:
        return None
    what = (parameter.help or "").strip()
    required = "required" if parameter.required else ""
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name or '').strip('{}[]').upper()}`" + _said(what, required)
    names = ", ".join(parameter.opts)
    value = "" if parameter.is_flag else parameter.metavar or str(parameter.name).upper()
    default = parameter.default if isinstance(parameter.default, str | int | float) and not parameter.is_flag else None
    default = f"default `{default}`" if default not in (None, "") and "default" not in what.lower() else ""
    return f"`{f'{names} {value}'.strip()}`" + _said(what, required, default)


def _said(what: str, *facts: str) -> str:
    beside = ", ".join(filter(None, facts))
    beside = f" ({beside})" if beside else ""
    return f"{beside}: {what}" if what else beside


def _of_argparse(parser: Any) -> Iterator[str]:
    for action in parser._actions:
        if "--help" not in action.option_strings:
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            yield f"`{', '.join(action.option_strings)}{value}`: {action.help}"


def parameters() -> str:
    """Return the page on the parameters of the notebooks, from their cells."""
    from arislab.runs import parameters_of

    parts = [
        "# Parameters of the notebooks",
        MADE,
        _wrapped(
            "The cell tagged `parameters` of each notebook, with its defaults: give others with `arislab run PHASE -p "
            "NAME VALUE`, with `-f FILE.yaml`, or edit the cell. A list is JSON (`'[3, 5]'`) or values with commas "
            "between."
        ),
    ]
    for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb")):
        parts.append(f"## {path.stem}")
        parts.append(f"[{path.name}](../{path.name})")
        parts.append(
            "\n".join(
                _bullet(f"`{name}: {one.type} = {one.default!r}`: {one.help}")
                for name, one in parameters_of(path).items()
            )
        )
    return "\n\n".join(parts) + "\n"


def rooms() -> str:
    """Return the page on the rooms of the package, from their docstrings and the table of ``tests/test_imports.py``."""
    source = ast.parse((CHECKOUT / "tests" / "test_imports.py").read_text())
    (table,) = (node.value for node in source.body if _assigns(node, "ARROWS"))
    arrows: dict[str, list[str]] = {}
    for key, value in zip(table.keys, table.values, strict=True):
        names = sorted(ast.literal_eval(value)) if isinstance(value, ast.Set) and value.elts else []
        arrows[ast.literal_eval(key)] = ["any"] if isinstance(value, ast.Name) else names
    parts = [
        "# Rooms",
        MADE,
        _wrapped(
            "A room is a folder of `arislab/`, or a file beside the folders. What each may import of the others stands "
            "in one table of `tests/test_imports.py`, and a test holds it; all may import `errors` and `system`. How "
            "to work here: [contribute](contribute.md)."
        ),
    ]
    lines = []
    for room, others in sorted(arrows.items()):
        what = (importlib.import_module(f"arislab.{room}" if room != "__init__" else "arislab").__doc__ or "").strip()
        first = " ".join(what.split("\n\n")[0].split())
        allowed = ", ".join(other if other == "any" else f"`{other}`" for other in others) or "none"
        lines.append(_bullet(f"`{room}`: {first} Imports: {allowed}."))
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def case_study() -> str:
    """Return the picture of the case study, from the records of its three seeds: a line an interval, a dot a mean."""
    folder = CHECKOUT / "papermill_runs" / "example-real"
    places = [folder / "evaluate", folder / "seed-2" / "evaluate", folder / "seed-3" / "evaluate"]
    seeds = [json.loads((place / "run.json").read_text())["headline"] for place in places]
    width, left, row, top = 560, 120, 42, 16
    foot = top + row * len(ARMS)

    def x(value: float) -> str:
        return f"{left + value * (width - left - 20) / 0.5:.1f}"

    parts = []
    for mark in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
        parts.append(f'<line x1="{x(mark)}" y1="{top}" x2="{x(mark)}" y2="{foot}" stroke="{FAINT}" stroke-width=".5"/>')
        parts.append(f'<text x="{x(mark)}" y="{foot + 16}" text-anchor="middle">{mark:g}</text>')
    for n, arm in enumerate(ARMS):
        middle = top + row * n + row / 2
        parts.append(f'<text x="{left - 12}" y="{middle + 4:g}" text-anchor="end">{arm}</text>')
        for place, seed in enumerate(seeds):
            y = f"{middle + 9 * (place - 1):g}"
            low, mean, high = (x(seed[arm][end]) for end in ("low", "mean", "high"))
            parts.append(f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" stroke="{INK}" stroke-width="2"/>')
            parts.append(f'<circle cx="{mean}" cy="{y}" r="3.5" fill="{INK}"/>')
    n_rows = seeds[0]["baseline"]["n"]
    what = f"right_terms (F1), {n_rows} test sentences; from the top seeds 1, 2, 3; 95 % intervals over whole ads"
    parts.append(f'<text x="{left}" y="{foot + 36}">{what}</text>')
    size = f'viewBox="0 0 {width + 120} {foot + 48}" width="{width + 120}" height="{foot + 48}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="{FAINT}">'
    return "\n".join([head, MADE, *parts, "</svg>"]) + "\n"


ARMS = ("baseline", "nearest", "icl", "control", "finetuned", "icl+finetuned")
INK, FAINT = "#4a86c8", "#7d8590"
"""Colours that can be seen on white and on black."""


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _wrapped(text: str) -> str:
    return textwrap.fill(_shown(text), 120, break_long_words=False, break_on_hyphens=False)


def _bullet(text: str) -> str:
    # what follows a bullet is indented as its text, and no line of it may begin another list
    lines = textwrap.wrap(_shown(text), 118, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(f"\\{line}" if line[:2] in ("- ", "+ ", "* ") else line for line in lines)


def _shown(text: str) -> str:
    # outside of code a < begins a tag, and what follows would not be seen
    parts = " ".join(text.replace("``", "`").split()).split("`")
    return "`".join(part if n % 2 else part.replace("<", "&lt;") for n, part in enumerate(parts))


PAGES: dict[str, Callable[[], str]] = {
    "case-study.svg": case_study,
    "command-line.md": command_line,
    "lake-tables.md": lake_tables,
    "parameters.md": parameters,
    "rooms.md": rooms,
}
"""Page in ``notebooks/guide`` -> what it says."""


if __name__ == "__main__":
    for place, written in PAGES.items():
        (GUIDE / place).write_text(written(), encoding="utf-8")
