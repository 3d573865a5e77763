"""A selection of scored rows as text, as a notebook's parameter holds it and its record keeps it.

    quality >= 0.62 and score_short < 0.5 and category in ("tech", "law")

Conditions on columns, joined by ``and``; a number with >=, >, <=, <, = or !=, a name in double quotes with =, !=, in or
not in. A column with a space in its name stands in double quotes too. A row without a value in a column meets no
condition on it. What else is written is refused; nothing is run.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab import structured
from arislab.errors import ParameterError, closest
from arislab.system.kinds import takes_any_frame
from arislab.system.text import json_text
from arislab.task import Task, candidate_of

NAMED = ("category", "use_case", "model")
"""Columns of names that a selection may speak of, where the rows have them."""
NUMBERED = ("quality", "length", "difficulty")
"""Columns of numbers, beside each score_<scorer>."""
_COMPARISONS: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    ">=": lambda column, value: column >= value,
    "<=": lambda column, value: column <= value,
    "!=": lambda column, value: column != value,
    "=": lambda column, value: column == value,
    ">": lambda column, value: column > value,
    "<": lambda column, value: column < value,
    "in": lambda column, value: column.is_in(pl.Series(value, dtype=pl.String)),
    "not in": lambda column, value: ~column.is_in(pl.Series(value, dtype=pl.String)),
}
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)'
    r"|(?P<word>[^\W\d]\w*)|(?P<sign>>=|<=|!=|[=<>(),])"
)
_FORM = 'quality >= 0.62 and category = "tech"'


@dataclass(frozen=True)
class Condition:
    """What one column must be."""

    column: str
    comparison: str
    """One of >=, >, <=, <, =, !=, in, not in."""
    value: float | str | tuple[str, ...]
    """A number, a name, or names (in, not in)."""

    def __str__(self) -> str:
        column = self.column if re.fullmatch(r"[^\W\d]\w*", self.column) else _quoted(self.column)
        if isinstance(self.value, tuple):
            return f"{column} {self.comparison} ({', '.join(map(_quoted, self.value))})"
        value = _quoted(self.value) if isinstance(self.value, str) else _number(self.value)
        return f"{column} {self.comparison} {value}"

    @property
    def expression(self) -> pl.Expr:
        """The condition for polars; false where the column is null."""
        return _COMPARISONS[self.comparison](pl.col(self.column), self.value).fill_null(value=False)


def parse(text: str, *, numbers: Sequence[str], names: Sequence[str]) -> list[Condition]:
    """Return the conditions of a selection.

    Args:
        text: As above; empty or blank: no condition, so every row is held.
        numbers: Columns that hold numbers.
        names: Columns that hold names.

    Raises:
        ParameterError: It is not of this form, or speaks of another column: what stands there, and what may.

    Example:
        >>> parse('quality >= 0.5 and model = "a"', numbers=["quality"], names=["model"])[1]
        Condition(column='model', comparison='=', value='a')
    """
    return _Reader(text, numbers, names).conditions() if text.strip() else []


def written(conditions: Sequence[Condition]) -> str:
    """Return conditions as text; what ``parse`` makes of it is equal to them."""
    return " and ".join(map(str, conditions))


def _quoted(name: str) -> str:
    return json_text(json.dumps(name, ensure_ascii=False))


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


class _Reader:
    """Reads a selection token by token: (kind, value)."""

    def __init__(self, text: str, numbers: Sequence[str], names: Sequence[str]) -> None:
        self.text, self.numbers, self.names = text, list(numbers), list(names)
        self.at = self.end = 0
        self.kind, self.value = "", ""
        self.advance()

    def advance(self) -> None:
        while self.end < len(self.text) and self.text[self.end].isspace():
            self.end += 1
        self.at = self.end
        if self.at == len(self.text):
            self.kind, self.value = "end", ""
            return
        found = _TOKEN.match(self.text, self.end)
        if found is None:
            raise self.error("what cannot stand there")
        self.kind, self.value, self.end = str(found.lastgroup), found[str(found.lastgroup)], found.end()

    def error(self, wanted: str) -> ParameterError:
        rest = self.text[self.at :]
        there = f"{rest[:40]!r} stands" if rest else "it ends"
        return ParameterError(
            f"selection {self.text!r} cannot be read at character {self.at + 1}, where {there}: {wanted}. Write "
            f"conditions joined by and, such as {_FORM}; empty holds every row."
        )

    def take(self, kind: str, *values: str, wanted: str) -> str:
        if self.kind != kind or (values and self.value not in values):
            raise self.error(wanted)
        value = self.value
        self.advance()
        return value

    def conditions(self) -> list[Condition]:
        found = [self.condition()]
        while self.kind != "end":
            self.take("word", "and", wanted="and, or the end, is wanted (there is no or: use in for several names)")
            found.append(self.condition())
        return found

    def condition(self) -> Condition:
        if self.kind not in ("word", "text"):
            raise self.error("the name of a column is wanted")
        column = self.value if self.kind == "word" else self.unquoted()
        if column not in (*self.numbers, *self.names):
            raise ParameterError(
                f"selection {self.text!r} names the column {column!r}; {closest(column, [*self.numbers, *self.names])}."
            )
        self.advance()
        if column in self.numbers:
            sign = self.take("sign", ">=", "<=", "!=", "=", ">", "<", wanted="one of >=, >, <=, <, =, != is wanted")
            value = float(self.take("number", wanted=f"a number is wanted, for {column} holds numbers"))
            if not math.isfinite(value):
                raise self.error("a finite number is wanted")
            return Condition(column, sign, value)
        wanted = f"one of =, !=, in, not in is wanted, for {column} holds names"
        if self.kind == "sign":
            sign = self.take("sign", "=", "!=", wanted=wanted)
            return Condition(column, sign, self.name())
        is_not = self.kind == "word" and self.value == "not"
        if is_not:
            self.advance()
        self.take("word", "in", wanted=wanted)
        return Condition(column, "not in" if is_not else "in", self.several())

    def several(self) -> tuple[str, ...]:
        self.take("sign", "(", wanted="names in parentheses are wanted")
        names = [] if self.value == ")" else [self.name()]
        while names and self.kind == "sign" and self.value == ",":
            self.advance()
            names.append(self.name())
        self.take("sign", ")", wanted="a comma or a closing parenthesis is wanted")
        return tuple(names)

    def name(self) -> str:
        name = self.unquoted()
        self.advance()
        return name

    def unquoted(self) -> str:
        if self.kind != "text":
            raise self.error("a name in double quotes is wanted")
        try:
            return str(json.loads(self.value))
        except ValueError:
            raise self.error('a name is written as a JSON string: a quote in it as \\", a backslash as \\\\') from None


def columns_of(described: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Return which columns of ``described`` a selection may speak of: those of numbers, and those of names.

    Reads: names of columns only.
    """
    scores = [c for c in described.columns if c.startswith("score_")]
    numbers = [*(c for c in NUMBERED if c in described.columns), *scores]
    return numbers, [c for c in NAMED if c in described.columns]


@takes_any_frame
def held(described: pl.DataFrame, selection: str) -> pl.DataFrame:
    """Return the rows that a selection holds, in their order.

    Args:
        described: From ``described``.
        selection: As text; empty: all of them.

    Raises:
        ParameterError: As in ``parse``.
    """
    numbers, names = columns_of(described)
    conditions = parse(selection, numbers=numbers, names=names)
    return described.filter([condition.expression for condition in conditions]) if conditions else described


@takes_any_frame
def described(scored: pl.DataFrame, *, texts: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Return scored rows with what a selection may say of them, and no texts.

    Args:
        scored: Rows of ``training_data_scored`` of one version: custom_id, quality, score_<scorer>, repaired.
        texts: From ``scoring.rows``: custom_id, candidate_id, output and, where known, model, category, use_case,
            profile, created_at.
        candidates: Rows of ``candidates`` behind them, for difficulty.
        task: Its ``difficulty``, where it has one, and its SCHEMA where answers were repaired.

    Returns:
        The columns of ``scored``, and length (characters of the answer as it came, or was repaired; null without one),
        difficulty, and of ``texts`` model, category, use_case, created_at (when the answer was recorded).
    """
    if "repaired" in scored.columns and scored["repaired"].any():
        texts = structured.check(texts, task.schema, repair=True)
    told = texts.select(
        "custom_id",
        pl.col("^(model|category|use_case|created_at)$"),
        length=pl.col("output").str.len_chars(),
        difficulty=_difficulty(texts, candidates, task),
    )
    own = scored.drop([c for c in told.columns if c in scored.columns and c != "custom_id"])
    return own.join(told, on="custom_id", how="left", maintain_order="left")


def _difficulty(texts: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> pl.Series:
    """What the task says of each row's candidate and its own question; asked once for each of them."""
    if task.difficulty is None or "profile" not in texts.columns:
        return pl.Series([None] * texts.height, dtype=pl.Float64)
    people = {row["candidate_id"]: row for row in candidates.iter_rows(named=True)}
    asked = list(texts.select("candidate_id", "profile").iter_rows())
    hard = {
        (who, profile): task.difficulty(candidate_of(people[who] | {"profile": profile}))
        for who, profile in set(asked)
        if who in people and profile is not None
    }
    return pl.Series([hard.get(pair) for pair in asked], dtype=pl.Float64)


@takes_any_frame
def within(
    rows: pl.DataFrame,
    selection: str | None,
    *,
    scored: pl.DataFrame,
    texts: pl.DataFrame,
    candidates: pl.DataFrame,
    task: Task,
) -> pl.DataFrame:
    """Return the rows that a selection holds, of those among which is chosen.

    Args:
        rows: custom_id.
        selection: As text; empty, blank or null: all of them.
        scored: As in ``described``.
        texts: As there.
        candidates: As there.
        task: As there.

    Raises:
        ParameterError: As in ``parse``, or it holds none of the rows.
    """
    if not selection or not selection.strip():
        return rows
    chosen = held(described(scored, texts=texts, candidates=candidates, task=task), selection)
    found = rows.join(chosen, on="custom_id", how="semi", maintain_order="left")
    if found.is_empty() and rows.height:
        raise ParameterError(
            f"selection {selection!r} holds none of the {rows.height:,} rows; look at what they are in explore.ipynb."
        )
    return found
