"""The task file: what we ask and what is good, in one plain Python file under ``notebooks/tasks/``.

A user with another domain writes one such file and nothing else::

    SYSTEM = "Summarise the ticket in one sentence."


    def to_messages(candidate): ...  # candidate: a row of `candidates`, its profile parsed
    def short(output):
        return 0 < len(output) < 200


    SCORERS, WEIGHTS = {"short": short}, {"short": 1.0}
    GOLD = [{"output": "Printer on floor 3 is out of toner."}]  # every scorer must give 1.0
    BAD = [{"output": ""}]  # quality must be below 1.0

Optional: SCHEMA (JSON schema of the answer), difficulty(candidate) -> 0..1, category(candidate) -> str; REPORT, a dict
as SCORERS is: scorers that phase 5 judges by, and phases 2 to 4 never see, so that what chose the training rows is not
what says how good the model became; and RUBRIC, a dict of name: what a good answer does, for a judge (``judge.ipynb``),
whose scores vote where WEIGHTS names judge_<name>; and REVIEW, a dict for people (``review.ipynb``): labels (list of
texts), ratings (criterion: what 1 and what 5 mean), categories (list of names), guideline (Markdown). A scorer that
asks for ``gold`` is given the reference answer, and says nothing where there is none. Rows are scored in several
processes, each with the file loaded: a scorer is a function of its row.
What goes wrong in the file is one message with the file, the line, the function, the row and what the row holds.
This module does not know what any task asks.
"""

import functools
import hashlib
import inspect
import linecache
import math
import numbers
import os
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from arislab.errors import TaskError, closest
from arislab.system import json_text, paths

Scorer = Callable[..., float | bool | None]
NO_EXIT = (Exception, SystemExit)
"""What foreign code may raise; an interrupt from the keyboard passes."""

WINS = "wins"
"""What stands in the place of a criterion where a judge compares two answers."""

FAILED = "scorer failed: "
"""How the reason of a row begins on which a scorer failed."""


@dataclass(frozen=True, repr=False)
class Task:
    """A loaded task file."""

    name: str
    """File name without ``.py``."""
    path: Path
    """Where it was read from."""
    source: str
    """Its text; goes into each run record."""
    SYSTEM: str
    """System prompt; may be empty."""
    to_messages: Callable[[dict[str, Any]], list[dict[str, str]]]
    """Candidate to chat messages, the system message included."""
    scorers: Mapping[str, Scorer]
    """Name to function; its parameter names are columns."""
    weights: Mapping[str, float]
    """Name to weight > 0; quality is the weighted mean."""
    report: Mapping[str, Scorer | str] = field(default_factory=dict)
    """What phase 5 judges by: name to function, as in scorers, or to the column of a stored score; none: those."""
    rubric: Mapping[str, str] = field(default_factory=dict)
    """Criterion to what a good answer does, for a judge; each is asked for alone."""
    votes: Mapping[str, float] = field(default_factory=dict)
    """Criterion, or ``WINS``, to its weight > 0 beside the scorers; without one a judge has no vote."""
    review: Mapping[str, Any] = field(default_factory=dict)
    """What people are asked: labels, ratings, categories, guideline, as far as the file has them."""
    schema: dict[str, Any] | None = None
    """JSON schema of the answer; null if it is free text."""
    difficulty: Callable[[dict[str, Any]], float | None] | None = None
    """Candidate to 0 (easy) .. 1 (hard)."""
    category: Callable[[dict[str, Any]], str | None] | None = None
    """Candidate to the group that quotas and plots use; without it, the column category of ``candidates``."""
    gold: tuple[dict[str, Any], ...] = ()
    """Rows that every scorer must give 1.0."""
    bad: tuple[dict[str, Any], ...] = ()
    """Rows whose quality must be below 1.0."""
    forgetting: tuple[dict[str, Any], ...] = ()
    """What a tuned model must still know, for the gate of phase 5: rows of messages and output (the words of a good
    answer), from elsewhere than the task."""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """SCORERS and REPORT as the file defined them, which another process can load from it too."""

    @property
    def sha256(self) -> str:
        """Digest of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def version(self) -> str:
        """First 12 hex of the digest: the scorer_version of scored rows."""
        return self.sha256[:12]

    @property
    def family(self) -> str:
        """Name that the adapters trained for it share."""
        return self.name.replace("_", "-")

    def __repr__(self) -> str:
        scorers = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return (
            f"Task {self.name}, version {self.version}: {self.path}\n"
            f"scorers and their weights: {scorers}\n"
            f"{len(self.gold)} GOLD rows, {len(self.bad)} BAD rows"
        )


def candidate_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``candidates`` as task files are given it: its profile parsed.

    Example:
        >>> candidate_of({"candidate_id": "c1", "profile": '{"years": 7}'})
        {'candidate_id': 'c1', 'profile': {'years': 7}}
    """
    return {**row, "profile": json_text.stored(row["profile"])}


def folder(notebooks: Path | None = None) -> Path:
    """Return the folder of the task files: $ARISLAB_TASKS, else ``tasks`` beside the notebooks, else the lab's.

    Args:
        notebooks: Folder of the notebook that asks; default: the lab's.
    """
    if given := os.environ.get("ARISLAB_TASKS"):
        return Path(given)
    if notebooks is not None and (notebooks / "tasks").is_dir():
        return notebooks / "tasks"
    return paths.notebooks() / "tasks"


def find(name: str | Path, *, notebooks: Path | None = None) -> tuple[Path, str]:
    """Return the path of a task file, and its text; nothing of it is run.

    Args:
        name: Its name, or its path, as ``load`` takes it.
        notebooks: Folder of the notebook that asks, in which its kernel works: a path starts there, and ``tasks`` there
            goes before the lab's; default: the working directory, and the lab's.

    Raises:
        TaskError: No such file, or it is no text.
    """
    path = Path(name) if notebooks is None else notebooks / name
    tasks = folder(notebooks)
    if path.suffix != ".py":
        path = tasks / f"{name}.py"
    if not path.is_file():
        known = [p.stem for p in tasks.glob("*.py")]
        raise TaskError(
            f"there is no task file {str(name)!r}; {closest(str(name), known)}. "
            "Give one of these, or the path of a .py file."
        )
    try:
        return path, path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"task file {path.name} cannot be read: {_error_text(error)}; it must be a text file in UTF-8."
        ) from error


def load(name: str | Path) -> Task:
    """Load a task file by name (in ``notebooks/tasks``) or by path.

    The file is executed afresh on each call, so an edit counts in the next cell.

    Raises:
        TaskError: No such file, or it lacks something; the message names what and how to add it.
    """
    path, source = find(name)
    return of_source(path.resolve(), source)  # errors name the lines of the file by this name


def of_source(path: Path, source: str) -> Task:
    """Load a task file as it read when it was found, whatever stands there now.

    Args:
        path: The file, resolved.
        source: Its text, from ``find``.

    Raises:
        TaskError: As in ``load``.
    """
    # without a time of change: errors show the lines of this text, and not those of the file as it may read by then
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    # not an import: one name in two folders, and an edited file, would get the module that Python remembers
    module = types.ModuleType(f"arislab_task_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except NO_EXIT as error:  # foreign code: whatever it raises, the file and the line are what its author needs
        raise TaskError(
            f"task file {path.name} cannot be run: {_error_text(error)}{_line(error, str(path))}; mend it, nothing was "
            "changed."
        ) from error
    names = module.__dict__
    for need, how in (
        ("to_messages", "a function candidate -> list of messages"),
        ("SCORERS", "a dict of name: function"),
        ("WEIGHTS", "a dict of name: number > 0"),
    ):
        if need not in names:
            raise TaskError(
                f"task file {path.name} has no {need}; add {need}: {how} (see notebooks/tasks/candidate_evaluation.py)."
            )
    scorers, weights, rubric = names["SCORERS"], names["WEIGHTS"], names.get("RUBRIC", {})
    _check_rubric(path.name, rubric)
    _check_review(path.name, names.get("REVIEW", {}))
    votes = {f"judge_{criterion}": criterion for criterion in (*rubric, WINS)} if rubric else {}
    _check_scorers(path.name, scorers, weights, [*votes])
    _check_report(path.name, names.get("REPORT", {}))
    _check_others(path.name, names)
    return Task(
        name=path.stem,
        path=path,
        source=source,
        SYSTEM=names.get("SYSTEM", ""),
        to_messages=_guarded(path, "to_messages", names["to_messages"], _messages),
        scorers=scorers,
        weights={name: number(weights[name]) or 0.0 for name in scorers},  # each is above 0, as checked
        report=names.get("REPORT", {}),
        rubric=rubric,
        review=names.get("REVIEW", {}),
        votes={votes[name]: number(weight) or 0.0 for name, weight in weights.items() if name in votes},
        schema=names.get("SCHEMA"),
        difficulty=_guarded(path, "difficulty", names["difficulty"], number) if names.get("difficulty") else None,
        category=_guarded(path, "category", names["category"], _name) if names.get("category") else None,
        gold=tuple(names.get("GOLD", ())),
        bad=tuple(names.get("BAD", ())),
        forgetting=tuple(names.get("FORGETTING", ())),
        own={"SCORERS": dict(scorers), "REPORT": dict(names.get("REPORT", {}))},
    )


def failure(error: BaseException, *, file: Path, function: str, row: str, holds: Mapping[str, Any]) -> TaskError:
    """Return what to raise when a function of a task file failed.

    Where in the file, on which row, and what the row holds.

    Args:
        error: What the function raised.
        file: The task file.
        function: What was called, in words, such as ``scorer 'short'``.
        row: Which row it was given, in words.
        holds: What it was given, by name.
    """
    near = ""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        keys = [key for value in holds.values() if isinstance(value, Mapping) for key in value if isinstance(key, str)]
        near = f", {closest(error.args[0], keys)}" if keys else ""
    return TaskError(f"{function} of {file.name} failed on {row}: {error_text(error, str(file))}{near}; {shown(holds)}")


def error_text(error: BaseException, file: str) -> str:
    """Return the kind of an error, its first line, and the line of a task file that it went through."""
    return f"{_error_text(error)}{_line(error, file)}"


def shown(holds: Mapping[str, Any]) -> str:
    """Return in few words what a row holds."""
    parts = []
    for name, value in list(holds.items())[:8]:
        parts.append(f"{name}={in_short(value, 80)}")
    return f"it was given {', '.join(parts)}" if parts else "it was given nothing"


def in_short(value: Any, limit: int = 200) -> str:
    """Return how a value is written in Python, cut to ``limit`` characters; its kind, if it cannot be written.

    Example:
        >>> in_short("ab" * 9, 12), in_short(10**5000)
        ("'abababab...", 'a value of type int that cannot be shown')
    """
    try:
        text = repr(value).replace("\n", " ")  # of tables; a text has none in its repr
    except NO_EXIT:  # foreign code, and integers of more digits than Python writes
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _error_text(error: BaseException) -> str:
    """Return the kind of an error and its first line; some speak only through their kind."""
    try:
        text = str(error).strip().split("\n")[0]
    except NO_EXIT:  # foreign code too
        text = ""
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _line(error: BaseException, file: str) -> str:
    """Return the last line of the task file that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f" (line {error.lineno})"
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" (line {lines[-1].lineno}: {lines[-1].line})" if lines else ""


def number(value: Any) -> float | None:
    """Return a number as float, of numpy and torch too; None stays None.

    Raises:
        TypeError: It is no number, or none that is finite.

    Example:
        >>> import numpy as np
        >>> number(np.float32(0.5)), number(np.True_), number(None)
        (0.5, 1.0, None)
    """
    if value is None:
        return None
    try:
        if not isinstance(value, numbers.Real | Decimal) and callable(getattr(value, "item", None)):
            value = value.item()  # a scalar of numpy or torch
    except NO_EXIT:  # foreign code
        raise TypeError("no single number") from None
    if not isinstance(value, numbers.Real | Decimal):
        raise TypeError("no number")
    try:
        as_float = float(value)
    except NO_EXIT:  # beyond every float, a signaling NaN, or foreign code
        raise TypeError("no finite number") from None
    if not math.isfinite(as_float):
        raise TypeError("no finite number")
    return as_float


ROUNDING = 1e-6
"""Floats that differ by less are one number."""


def fraction(value: Any) -> float | None:
    """Return what a scorer may return as float in 0..1; what only rounding put outside is 0 or 1.

    Raises:
        TypeError: It is no number in 0..1, no bool, and not None.

    Example:
        >>> fraction(1.0000000000000002), fraction(True)
        (1.0, 1.0)
    """
    as_float = number(value)
    if as_float is not None and not -ROUNDING <= as_float <= 1 + ROUNDING:
        raise TypeError("outside 0..1")
    return None if as_float is None else min(1.0, max(0.0, as_float))


def _name(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("it must return text or None")
    return None if value is None else str(value)  # numpy has a text of its own


def _messages(value: Any) -> list[dict[str, Any]]:
    if not (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        raise TypeError("it must give a list of {'role': text, 'content': text} with at least one entry")
    return value


def _guarded(path: Path, name: str, function: Any, read: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return a function of a candidate that says where it failed, on whom, and what that candidate holds."""
    if not callable(function):
        raise TaskError(f"task file {path.name}: {name} is {in_short(function)}; it must be a function of a candidate.")

    @functools.wraps(function)
    def call(candidate: dict[str, Any]) -> Any:
        try:
            value = function(candidate)
        except NO_EXIT as error:
            raise _candidate_failure(error, path, name, candidate) from error
        try:
            return read(value)
        except TypeError as error:
            wrong = TypeError(f"it returned {in_short(value)}: {error}")
            raise _candidate_failure(wrong, path, name, candidate) from None

    return call


def _candidate_failure(error: BaseException, path: Path, name: str, candidate: dict[str, Any]) -> TaskError:
    row = f"candidate {candidate.get('candidate_id')!r}"
    holds = {"profile": candidate["profile"]} if "profile" in candidate else candidate
    return failure(error, file=path, function=name, row=row, holds=holds)


def _check_scorers(file: str, scorers: Any, weights: Any, judges: Sequence[str]) -> None:
    if not isinstance(scorers, dict) or not scorers:
        raise TaskError(
            f"task file {file}: SCORERS must be a dict of name: function with at least one entry, got "
            f"{in_short(scorers)}."
        )
    for name, function in scorers.items():
        _check_function(file, "SCORERS", name, function)
        if not isinstance(weights, dict):
            raise TaskError(f"task file {file}: WEIGHTS must be a dict of name: number > 0, got {in_short(weights)}.")
        if name not in weights:
            raise TaskError(
                f"task file {file}: scorer {name!r} has no weight; {closest(name, weights)}. Add it to WEIGHTS."
            )
        if name in judges:
            raise TaskError(
                f"task file {file}: a scorer and a criterion of RUBRIC are both called {name!r}; rename one."
            )
    for name, weight in weights.items():
        if not _is_weight(weight):
            raise TaskError(
                f"task file {file}: WEIGHTS[{name!r}] is {in_short(weight)}; it must be a number > 0 (leave a "
                "scorer out to switch it off)."
            )
    unused = sorted(set(weights) - {*scorers, *judges}, key=str)
    if unused:
        raise TaskError(
            f"task file {file}: WEIGHTS names {unused[0]!r}, which is no scorer; "
            f"{closest(str(unused[0]), [*scorers, *judges])}."
        )


def _check_rubric(file: str, rubric: Any) -> None:
    is_rubric = isinstance(rubric, dict) and all(
        isinstance(name, str) and name.isidentifier() and isinstance(text, str) and text.strip()
        for name, text in rubric.items()
    )
    if not is_rubric:
        raise TaskError(
            f"task file {file}: RUBRIC must be a dict of name: what a good answer does (text), under identifiers as "
            f"names, got {in_short(rubric)}."
        )
    if len(set(rubric.values())) < len(rubric):
        raise TaskError(
            f"task file {file}: two criteria of RUBRIC say the same; each would be asked twice: leave one out."
        )
    if WINS in rubric:
        raise TaskError(
            f"task file {file}: RUBRIC has a criterion {WINS!r}, as comparing two answers is called; rename it."
        )


_REVIEW = {
    "labels": "a list of different texts",
    "ratings": "a dict of criterion: what 1 and what 5 mean (text)",
    "categories": "a list of at most 26 different names",
    "guideline": "Markdown (text)",
}
"""What REVIEW may hold."""


def _check_review(file: str, review: Any) -> None:
    if not isinstance(review, dict):
        raise TaskError(
            f"task file {file}: REVIEW must be a dict with some of {', '.join(_REVIEW)}, got {in_short(review)}."
        )
    for name, value in review.items():
        if name not in _REVIEW:
            raise TaskError(f"task file {file}: REVIEW has {in_short(name)}; {closest(str(name), _REVIEW)}.")
        if not _fits(name, value):
            raise TaskError(f"task file {file}: REVIEW[{name!r}] must be {_REVIEW[name]}, got {in_short(value)}.")


def _fits(name: str, value: Any) -> bool:
    """Whether REVIEW may hold a value under a name."""
    if name == "guideline":
        return isinstance(value, str)
    if name == "ratings":
        return isinstance(value, dict) and _are_texts([*value, *value.values()])
    is_list = isinstance(value, list | tuple) and _are_texts(value) and len(set(value)) == len(value)
    return is_list and (name == "labels" or len(value) <= 26)  # a category is chosen by a letter


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) and value.strip() for value in values)


def _check_report(file: str, report: Any) -> None:
    if not isinstance(report, dict):
        raise TaskError(
            f"task file {file}: REPORT must be a dict of name: function, or of name: column with a stored score, got "
            f"{in_short(report)}."
        )
    for name, judge in report.items():
        if not (isinstance(judge, str) and judge.isidentifier() and isinstance(name, str) and name.isidentifier()):
            _check_function(file, "REPORT", name, judge)


def _check_function(file: str, where: str, name: Any, function: Any) -> None:
    if not callable(function) or not isinstance(name, str) or not name.isidentifier():
        raise TaskError(
            f"task file {file}: {where}[{in_short(name)}] is {in_short(function)}; it must be a function under an "
            "identifier as name."
        )
    parameters_of(function, file=file, name=name)


def _is_weight(value: Any) -> bool:
    try:
        weight = number(value)
    except TypeError:
        return False
    return weight is not None and weight > 0


def _check_others(file: str, names: dict[str, Any]) -> None:
    for name in ("GOLD", "BAD"):
        rows = names.get(name, ())
        if not isinstance(rows, list | tuple) or not all(isinstance(row, dict) for row in rows):
            raise TaskError(
                f"task file {file}: {name} must be a list of rows such as {{'output': text}}, got "
                f"{name}={in_short(rows, 80)}."
            )
    forgetting = names.get("FORGETTING", ())
    if not isinstance(forgetting, list | tuple) or not all(map(_is_known, forgetting)):
        raise TaskError(
            f"task file {file}: FORGETTING must be a list of rows such as {{'messages': [{{'role': 'user', 'content': "
            f"'What is 2 + 2?'}}], 'output': '4'}}, got FORGETTING={in_short(forgetting, 80)}."
        )
    if not isinstance(names.get("SYSTEM", ""), str):
        raise TaskError(f"task file {file}: SYSTEM must be text, got {in_short(names['SYSTEM'])}.")


def _is_known(row: Any) -> bool:
    """Whether a row of FORGETTING asks something and says what a good answer holds."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("output"), str)
        and bool(row["output"].strip())
        and isinstance(row.get("messages"), list)
        and bool(row["messages"])
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in row["messages"])
    )


def parameters_of(scorer: Scorer, *, file: str, name: str) -> dict[str, bool]:
    """Return the columns that a scorer asks for, its parameter names: true if it cannot do without (no default).

    Raises:
        TaskError: Its parameters have no names.
    """
    try:
        parameters = inspect.signature(scorer).parameters.values()
    except (TypeError, ValueError):
        raise TaskError(
            f"task file {file}: scorer {name!r} is {in_short(scorer)}, whose parameters have no names; write a "
            "function whose parameters are columns."
        ) from None
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p.default is p.empty for p in named}


def bound(scorer: Scorer, columns: list[str]) -> Callable[..., Any]:
    """Return a scorer as a function of the values of these columns, in this order."""
    kinds = {name: p.kind for name, p in inspect.signature(scorer).parameters.items()}
    names = list(kinds)[: len(columns)]
    if names == columns and all(kinds[name] != inspect.Parameter.KEYWORD_ONLY for name in columns):
        return scorer
    n = sum(kinds[name] == inspect.Parameter.POSITIONAL_ONLY for name in columns)
    return lambda *values: scorer(*values[:n], **dict(zip(columns[n:], values[n:], strict=True)))
