"""The task file: what we ask and what is good, in one plain Python file under ``notebooks/tasks/``.

A user with another domain writes one such file and nothing else::

    SYSTEM = "Summarise the ticket in one sentence."


    def to_messages(candidate): ...  # candidate: a row of `candidates`, its profile parsed
    def short(output):
        return len(output) < 200


    SCORERS, WEIGHTS = {"short": short}, {"short": 1.0}
    GOLD = [{"output": "Printer on floor 3 is out of toner."}]  # every scorer must give 1.0
    BAD = [{"output": ""}]  # quality must be below 1.0

Optional: SCHEMA (JSON schema of the answer), difficulty(candidate) -> 0..1, category(candidate) -> str.
This module does not know what any task asks.
"""

import hashlib
import inspect
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arislab.errors import TaskError, closest

Scorer = Callable[..., float | bool | None]


@dataclass(frozen=True)
class Task:
    """A loaded task file."""

    name: str
    """File name without ``.py``."""
    path: Path
    """Where it was read from."""
    source: str = field(repr=False)
    """Its text; goes into each run record."""
    SYSTEM: str = field(repr=False)
    """System prompt; may be empty."""
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]] = field(repr=False)
    """Candidate to chat messages, the system message included."""
    scorers: Mapping[str, Scorer]
    """Name to function; its parameter names are columns."""
    weights: Mapping[str, float] = field(repr=False)
    """Name to weight > 0; quality is the weighted mean."""
    schema: dict[str, Any] | None = field(repr=False, default=None)
    """JSON schema of the answer; null if it is free text."""
    difficulty: Callable[[dict[str, Any]], float | None] | None = field(repr=False, default=None)
    """Candidate to 0 (easy) .. 1 (hard)."""
    category: Callable[[dict[str, Any]], str | None] | None = field(repr=False, default=None)
    """Candidate to the group that quotas and plots use; without it, the column category of ``candidates``."""
    gold: tuple[dict[str, Any], ...] = field(repr=False, default=())
    """Rows that every scorer must give 1.0."""
    bad: tuple[dict[str, Any], ...] = field(repr=False, default=())
    """Rows whose quality must be below 1.0."""

    @property
    def sha256(self) -> str:
        """Digest of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def version(self) -> str:
        """First 12 hex of the digest: the scorer_version of scored rows."""
        return self.sha256[:12]


def folder() -> Path:
    """Return the folder of the shipped task files: $ARISLAB_TASKS, else ``notebooks/tasks`` of the checkout."""
    given = os.environ.get("ARISLAB_TASKS")
    return Path(given) if given else Path(__file__).resolve().parent.parent / "notebooks" / "tasks"


def load(name: str | Path) -> Task:
    """Load a task file by name (in ``notebooks/tasks``) or by path.

    The file is executed afresh on each call, so an edit counts in the next cell.

    Raises:
        TaskError: No such file, or it lacks something; the message names what and how to add it.
    """
    path = Path(name)
    if path.suffix != ".py":
        path = folder() / f"{name}.py"
    if not path.is_file():
        known = [p.stem for p in folder().glob("*.py")]
        raise TaskError(
            f"there is no task file {str(name)!r}; {closest(str(name), known)}. Give one of these, or the path of a .py file."
        )
    source = path.read_text(encoding="utf-8")
    module = types.ModuleType(f"arislab_task_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (SyntaxError, ImportError, NameError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise TaskError(
            f"task file {path.name} cannot be run: {type(error).__name__}: {error}; mend it, nothing was changed."
        ) from error
    found = module.__dict__
    for need, how in (
        ("to_messages", "a function candidate -> list of messages"),
        ("SCORERS", "a dict of name: function"),
        ("WEIGHTS", "a dict of name: number > 0"),
    ):
        if need not in found:
            raise TaskError(
                f"task file {path.name} has no {need}; add {need}: {how} (see notebooks/tasks/candidate_evaluation.py)."
            )
    scorers, weights = found["SCORERS"], found["WEIGHTS"]
    _check_scorers(path.name, scorers, weights)
    return Task(
        name=path.stem,
        path=path.resolve(),
        source=source,
        SYSTEM=found.get("SYSTEM", ""),
        to_messages=found["to_messages"],
        scorers=scorers,
        weights={name: float(weights[name]) for name in scorers},
        schema=found.get("SCHEMA"),
        difficulty=found.get("difficulty"),
        category=found.get("category"),
        gold=tuple(found.get("GOLD", ())),
        bad=tuple(found.get("BAD", ())),
    )


def _check_scorers(file: str, scorers: Any, weights: Any) -> None:
    if not isinstance(scorers, dict) or not scorers:
        raise TaskError(
            f"task file {file}: SCORERS must be a dict of name: function with at least one entry, got {scorers!r}."
        )
    for name, function in scorers.items():
        if not callable(function) or not str(name).isidentifier():
            raise TaskError(
                f"task file {file}: SCORERS[{name!r}] is {function!r}; it must be a function under an identifier as name."
            )
        if name not in weights:
            raise TaskError(
                f"task file {file}: scorer {name!r} has no weight; {closest(name, weights)}. Add it to WEIGHTS."
            )
        if not float(weights[name]) > 0:
            raise TaskError(
                f"task file {file}: WEIGHTS[{name!r}] is {weights[name]!r}; it must be a number > 0 (leave a scorer out to switch it off)."
            )
    unused = sorted(set(weights) - set(scorers))
    if unused:
        raise TaskError(
            f"task file {file}: WEIGHTS names {unused[0]!r}, which is no scorer; {closest(unused[0], scorers)}."
        )


def columns_of(scorer: Scorer) -> list[str]:
    """Return the columns that a scorer asks for: its parameter names."""
    return list(inspect.signature(scorer).parameters)
