"""What a run prints at its end: where the rows went, its numbers in one table, where to look, and what comes next."""

import os
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arislab.records import words
from arislab.records.headline import Account
from arislab.records.record import Record
from arislab.records.text import number_text
from arislab.runs.notebook import MAIN_PLOT
from arislab.system import paths
from arislab.system.text import one_line

COLUMNS = 120
"""Most that a line of a report takes, but for paths and commands: these are copied."""
_NEXT = {
    "generate": ("curate",),
    "curate": ("icl",),
    "icl": ("finetune",),
    "finetune": ("evaluate",),
    "judge": ("curate", "judge_model", "judge"),
    "prefer": ("evaluate", "trained", "loss"),
}
"""Phase to the phase after it; with the parameter that takes over a number of the headline, where there is one."""
_SHARED = ("task", "base_url", "model")
"""Parameters that the next phase is given as well, if it has them."""


def of(record: Record, *, is_alone: bool = True) -> str:
    """Return the report of a run.

    Args:
        record: What ``runs.execute`` returned.
        is_alone: False: another phase follows at once, so that none is named.
    """
    if record.status != "ok":
        return f"{record!r}\n{_places(record, {'go on': f'arislab resume {record.run_id}{at(record.root)}'})}"
    took = "" if record.duration_s is None else f" in {record.duration_s:.1f} s"
    headline = record.headline or {}
    parts = [f"{record.phase}: ok{took}"]
    if "account" in headline:
        parts.append(textwrap.indent(repr(Account(**headline["account"])), "  "))
    follows = {"next": step} if is_alone and (step := next_step(record)) else {}
    return "\n".join([*parts, *table(headline), _places(record, follows)])


def table(headline: Mapping[str, Any]) -> list[str]:
    """Return the numbers of a headline as lines: those with an interval first, one below the other."""
    shown = words.known(headline)
    width = max(map(len, shown), default=0)
    measured = {name: value for name, value in shown.items() if words.is_interval(value)}
    lines = [f"  {'':<{width}} {'mean':>6}  {' 95 % interval':<16} {'n':>5}"] if measured else []
    for name, value in measured.items():
        mean, low, high = (number_text(value[part]) for part in ("mean", "low", "high"))
        lines.append(f"  {name:<{width}} {mean:>6}  {low:>6} to {high:<6} {value.get('n') or 0:>5,}")
    for name, value in shown.items():
        if name not in measured:
            text = one_line(number_text(value))
            first, *rest = textwrap.wrap(text, COLUMNS - width - 4, break_long_words=False) or [""]
            lines += [f"  {name:<{width}}  {first}", *(f"  {'':<{width}}  {more}" for more in rest)]
    return lines


def _places(record: Record, follows: Mapping[str, str]) -> str:
    plot = record.folder / "outputs" / f"{MAIN_PLOT}.png"
    where = {"plot": str(plot)} if plot.is_file() else {}
    where |= {"notebook": str(record.folder / "notebook.ipynb"), **follows}
    return "\n".join(f"  {name:<8}  {place}" for name, place in where.items())


def next_step(record: Record) -> str | None:
    """Return the command that follows a run that is ok, with what it was given; null: nobody knows one."""
    from arislab import runs

    headline = record.headline or {}
    if record.phase == "evaluate":
        step: tuple[str, ...] = ("deploy",) if headline.get("verdict") == "promote" else ()
        if not step:
            return f"arislab review{at(record.root)}"
    else:
        step = _NEXT.get(record.phase, ())
    if not step:
        return None
    phase, *taken = step
    declared = runs.parameters_of(runs.find_notebook(phase)[1])
    given = {name: value for name, value in record.parameters_passed.items() if name in _SHARED and name in declared}
    if taken and headline.get(taken[1]):
        given[taken[0]] = headline[taken[1]]
    passed = "".join(f" -p {name} {shlex.quote(str(value))}" for name, value in given.items())
    return f"arislab run {phase}{passed}{at(record.root)}"


def at(root: str | Path | None) -> str:
    """Return the options with which a command finds a root, none in the lab around, and a lake by URL."""
    where = "" if root is None or paths.lab() == Path(root) else f" --root {shlex.quote(str(root))}"
    lake = os.environ.get("ARISLAB_LAKE")
    return f"{where} --lake {shlex.quote(lake)}" if lake else where
