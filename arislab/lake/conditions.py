"""Which rows are meant: column to value, for polars, for Delta and in words.

Names from outside are values here, never SQL.

    expression({"task": "it's", "model": None})  # polars: task is that text, and model is null
    predicate({"status": ["ok", "empty"]})       # Delta: "status" in ('ok', 'empty')
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import polars as pl

from arislab.errors import ParameterError
from arislab.system.text import identifier

Value = str | int | float | bool | None
Where = Mapping[str, Value | Collection[Value]] | str
"""Column to value: equal to it, null if it is None, one of them if it is a list. A text is a condition in SQL, written
by a person or as a constant: no name from data, file or parameter belongs into it."""


def plain(where: Where | None) -> Where | None:
    """Return a condition whose collections are lists, as a record keeps it.

    A value that no column can equal is refused.
    """
    if where is None or isinstance(where, str):
        return where
    listed: dict[str, Any] = {}
    for name, value in where.items():
        listed[name] = (
            value if value is None or _is_one(value) else list(value) if isinstance(value, Iterable) else value
        )
        for each in listed[name] if isinstance(listed[name], list) else [listed[name]]:
            if not (each is None or _is_one(each)) or (isinstance(each, float) and not math.isfinite(each)):
                raise ParameterError(
                    f"where {name!r} got {each!r}; give a text, a number, True, False, None or a list of them."
                )
    return listed


def expression(where: Where) -> pl.Expr:
    """Return a condition as a polars expression; null is no match."""
    if isinstance(where, str):
        return pl.sql_expr(where)
    every = [_matches(name, value) for name, value in where.items()]
    return pl.all_horizontal(every) if every else pl.lit(value=True)


def _matches(name: str, value: Value | Collection[Value]) -> pl.Expr:
    column = pl.col([name])  # in a list: a name alone may be a pattern
    if value is None:
        return column.is_null()
    if _is_one(value):
        return column == pl.lit(value)
    values: list[Any] = list(value)  # type: ignore[arg-type]  # not one value
    some = column.is_in([each for each in values if each is not None])
    return some | column.is_null() if None in values else some


def predicate(where: Where) -> str:
    """Return a condition as Delta reads it: names in double, texts in single quotes, each quote inside doubled."""
    return _text(where, identifier)


def text(where: Where) -> str:
    """Return a condition in words: for messages, and for what is compared between records.

    Example:
        >>> text({"task": "it's", "sample": [0, 1], "model": None})
        "task = 'it''s' and sample in (0, 1) and model is null"
    """
    return _text(where, str)


def _text(where: Where, name_of: Any) -> str:
    if isinstance(where, str):
        return where
    return " and ".join(_says(name_of(name), value) for name, value in where.items()) or "true"


def _says(name: str, value: Value | Collection[Value]) -> str:
    if value is None:
        return f"{name} is null"
    if _is_one(value):
        return f"{name} = {_literal(value)}"
    values: list[Any] = list(value)  # type: ignore[arg-type]  # not one value
    some = [_literal(each) for each in values if each is not None]
    parts = [f"{name} in ({', '.join(some)})"] if some else []
    parts += [f"{name} is null"] if None in values else []
    return f"({' or '.join(parts)})" if len(parts) > 1 else "".join(parts) or "false"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _is_one(value: Any) -> bool:
    return isinstance(value, str | int | float)
