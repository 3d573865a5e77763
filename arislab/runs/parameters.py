"""Parameters of a notebook: read from the cell tagged ``parameters``, and given values turned into the declared types.

One line of such a cell::

    keep_fraction: float = 0.2  # kept of all scored outputs, (0, 1]

papermill guesses types from the text (007 becomes 7, true stays text) and lets unknown names pass; here the notebook's
own annotation decides and a wrong name or type is refused before anything is made. This module does not know what a
value is good for: a range is checked by the function that uses it.
"""

import ast
import contextlib
import io
import json
import math
import re
import tokenize
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.runs.parameter_file import Written, meant
from arislab.system import masking

_SECRET = re.compile(
    r"(^|_)(token|secret|password|passwd|(api|access|secret|private)_?key)(?!_(file|path|env|variable))(_|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Parameter:
    """One line of the cell tagged ``parameters``: ``name: type = literal  # help, unit, range``."""

    name: str
    type: str
    """Annotation as written, such as ``float`` or ``str | None``; without one, the type of the default."""
    default: Any
    """Value when nothing is passed."""
    help: str
    """The comment on the line; empty if there is none."""


def parameters_of(notebook: Path, *, cells: list[Any] | None = None) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, in its order; empty if no cell is tagged ``parameters``.

    Args:
        notebook: Its path.
        cells: Its cells, if they are known already.
    """
    cells = notebook_json(notebook)["cells"] if cells is None else cells
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        return {}
    source = "".join(tagged[0]["source"])
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ParameterError(
            f"the parameters cell of {notebook.name} is not Python (line {error.lineno}: {error.msg}); mend that line."
        ) from None
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parameters = {}
    for line in tree.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            name, value, annotation = line.target.id, line.value, ast.unparse(line.annotation)
        elif isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            name, value, annotation = line.targets[0].id, line.value, ""
        else:
            continue
        try:
            default = _literal(value)
        except ValueError:
            raise ParameterError(
                f"parameter {name} of {notebook.name} is {ast.unparse(value)!r}; "
                "a default must be a literal such as 0.2, 'x' or date(2026, 1, 31)."
            ) from None
        kind = annotation or ("str" if default is None else type(default).__name__)
        parameters[name] = Parameter(name, kind, default, comments.get(line.end_lineno or line.lineno, ""))
    return parameters


def _literal(value: ast.expr) -> Any:
    """The value of a literal, or of ``date(year, month, day)``."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("date", "datetime.date") and not value.keywords:
        return date(*(ast.literal_eval(part) for part in value.args))
    return ast.literal_eval(value)


def convert(parameters: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the given values in the types that the notebook declares.

    Text from the command line is read as the declared type ('007' stays text where text is declared); values from
    Python must have it.

    Raises:
        ParameterError: An unknown name, a value of another type, or a name that looks like a secret.
    """
    for name in [*given, *parameters]:
        if _SECRET.search(name):
            raise ParameterError(
                f"parameter {name!r} looks like a secret, and parameters stand in the run record; "
                f"set it as an environment variable instead and read it in the notebook."
            )
    values = {}
    for name, value in given.items():
        if name not in parameters:
            raise ParameterError(f"there is no parameter {name!r}; {closest(name, parameters)}.")
        parameter = parameters[name]
        try:
            values[name] = _typed(value, _type_of(parameter))
        except ValueError as error:
            hint = f" ({parameter.help})" if parameter.help else ""
            raise ParameterError(
                f"{name} must be {_ALLOWED.get(parameter.type, parameter.type)}, got {_shown(value)}{error}; "
                f"its default is {parameter.default!r}{hint}."
            ) from None
    return values


def in_force(declared: Mapping[str, Parameter], passed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all parameters: those that were passed, and the defaults of the others."""
    return {p.name: p.default for p in declared.values()} | dict(passed)


def _shown(value: object) -> str:
    """A value that was refused, without what must not be shown."""
    return repr(masking.masked(value))


_ALLOWED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as '[1, 2]'",
    "list[float]": "numbers with commas between",
    "list[int]": "whole numbers with commas between",
    "int | list[int]": "a whole number, or several with commas between",
    "tuple": "a list such as '[1, 2]'",
    "dict": "a JSON object",
    "date": "a date such as 2026-01-31",
}
_NAMES = {
    **{kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict, date)},
    "datetime": types.SimpleNamespace(date=date),
    "None": None,
}


def _type_of(parameter: Parameter) -> Any:
    """Return the annotation as a typing object; only builtin names, ``|``, ``[]``, Optional and Literal are known."""
    known: dict[str, Any] = {**_NAMES, "Optional": typing.Optional, "Literal": typing.Literal, "__builtins__": {}}
    try:
        # the annotation is a piece of a notebook, which is code that runs anyway; names beyond these are refused
        return eval(parameter.type, known)
    except (NameError, TypeError, SyntaxError, AttributeError):
        raise ParameterError(
            f"parameter {parameter.name} is declared as {parameter.type!r}; use int, float, bool, str, date, list, "
            "tuple, dict, Literal[…], or one of them with | None."
        ) from None


def _typed(value: Any, kind: Any) -> Any:
    """Return value as kind; ValueError carries what to add to 'got …'."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, Written) and origin is None:
        return _written_as(value, kind)
    if kind in (list, tuple, dict):
        value = meant(value)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, members)
    if origin is typing.Literal:
        for member in members:
            if value == member or str(value) == str(member) or (isinstance(value, Written) and value.meant is member):
                return member
        raise ValueError("")
    if origin is list:
        if isinstance(value, str) and not value.lstrip().startswith("["):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return [_typed(item, members[0]) for item in _held(value, list)]
    if origin is tuple:
        return _tuple(_held(value, tuple), members)
    if origin is dict:
        return {str(key): _typed(item, members[1]) for key, item in _held(value, dict).items()}
    return _text_as(value, kind) if isinstance(value, str) else _exactly(value, kind)


def _one_of(value: Any, members: tuple[Any, ...]) -> Any:
    """Return value as the first of several types that takes it."""
    is_null = value is None or (isinstance(value, Written) and value.meant is None)
    if type(None) in members and (is_null or str(value).lower() in ("none", "null")):
        return None
    for member in members:
        if member is not type(None):
            with contextlib.suppress(ValueError):
                return _typed(value, member)
    raise ValueError("")


def _held(value: Any, kind: type) -> Any:
    """A list, tuple or dict whose members are to be read by their own types."""
    if isinstance(value, dict if kind is dict else (list, tuple)):
        return value if kind is dict else kind(value)
    return _typed(value, kind)


def _written_as(value: Written, kind: Any) -> Any:
    """A value without quotes in a YAML file as a declared type: its characters decide, as after ``-p``.

    For bool also YAML's yes and no.
    """
    if kind is bool and isinstance(value.meant, bool):
        return value.meant
    if kind is str and value.meant is None:
        raise ValueError(" (YAML takes it for nothing; if you mean text, quote it in YAML)")
    try:
        return _text_as(str(value), kind)
    except ValueError as error:
        raise ValueError(f" (YAML takes it for {value.meant!r}; if you mean text, quote it in YAML){error}") from None


def _tuple(values: tuple[Any, ...], members: tuple[Any, ...]) -> tuple[Any, ...]:
    kinds = members[:1] * len(values) if members[1:] == (...,) else members
    if len(kinds) != len(values):
        raise ValueError(f" ({len(values)} values)")
    return tuple(_typed(item, kind) for item, kind in zip(values, kinds, strict=True))


def _text_as(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError("")
    if kind is int:
        if re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*", text.strip()):
            return int(text)
        raise ValueError("")
    if kind is float:
        number = float(text) if re.fullmatch(r"[+-]?[0-9_.]+([eE][+-]?[0-9]+)?", text.strip()) else math.nan
        return _exactly(number, float)
    if kind is date:
        try:
            return date.fromisoformat(text.strip())
        except ValueError as error:
            raise ValueError(f" ({error})") from None
    if kind is tuple and not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return _exactly(json.loads(text), kind)
    except json.JSONDecodeError as error:
        raise ValueError(f" ({error})") from None


def _exactly(value: Any, kind: Any) -> Any:
    if hasattr(value, "item") and not isinstance(value, (list, dict)):
        value = value.item()  # numpy scalar
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(value)
    # by its very type: to Python True is an int, and to a reader it is no number of rows
    if type(value) is not kind or kind is float:
        raise ValueError("")
    return value


def plain(value: Any) -> Any:
    """Return a parameter's value as JSON can hold it; ``convert`` gives it back, as its type is declared."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_text(value: Any) -> str:
    """Return a parameter's value as the text that ``-p NAME`` reads back to it."""
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value)


def as_code(value: Any) -> str:
    """Return the Python expression of a parameter's value, exactly."""
    if isinstance(value, date):
        return f'__import__("datetime").date({value.year}, {value.month}, {value.day})'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {as_code(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(as_code, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def describe(parameters: Mapping[str, Parameter]) -> str:
    """Return one line a parameter: name, type, default, and what the notebook says of it (meaning, unit, range)."""
    rows = [(p.name, p.type, repr(plain(p.default)), p.help) for p in parameters.values()]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    )


def notebook_json(path: Path) -> dict[str, Any]:
    """Return a notebook's JSON; nbformat is not asked, because its import takes seconds.

    Raises:
        PrerequisiteError: The file is missing or is not a notebook of format 4.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PrerequisiteError(f"cannot read the notebook {path} ({error.strerror}).") from None
    except ValueError as error:
        raise PrerequisiteError(f"{path} is not a notebook ({error}); restore it, for instance with git.") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise PrerequisiteError(f"{path} is not a notebook of format 4 (it has no cells); save it again in JupyterLab.")
    return content
