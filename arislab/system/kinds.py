"""Frames of three kinds, pandas, Arrow and polars, at the door of what people type in a notebook; inside all is polars.

What comes back to a user of pandas has Arrow's types: null is null (``pd.NA``), whole numbers stay whole where some are
missing, times are in UTC. pandas and pyarrow are imported only where their frames come in, or are asked for.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import polars as pl

from arislab.errors import ParameterError

P = ParamSpec("P")
R = TypeVar("R")

KINDS = ("polars", "pandas", "arrow")
_TYPES = {
    "polars": ("polars", ("DataFrame",), ("Series",)),
    "pandas": ("pandas", ("DataFrame",), ("Series",)),
    "arrow": ("pyarrow", ("Table", "RecordBatch"), ("Array", "ChunkedArray")),
}
"""Kind -> package, names of its frames, names of its columns; by name, so that nothing is imported to look."""


def takes_any_frame(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes and returns polars frames take pandas and Arrow frames too, and return their kind.

    The first frame among the arguments says which kind is returned; frames in a dict of arguments, and in a tuple or
    dict that is returned, count as well. A result that only holds frames, such as ``curate.Selection``, keeps polars',
    and so does what is made by a decorated ``__init__``: a panel, an explorer.

    Args:
        function: Its columns may be series of pandas or Arrow as well.

    Raises:
        ParameterError: As in ``to_polars``.
    """

    @wraps(function)
    def taking(*args: P.args, **named: P.kwargs) -> R:
        kinds = [kind for kind in map(_kind_in, [*args, *named.values()]) if kind]
        if set(kinds) <= {"polars"}:
            return function(*args, **named)
        inside: Any = function
        came = inside(*map(_inwards, args), **{name: _inwards(value) for name, value in named.items()})
        outwards: R = _outwards(came, kinds[0])
        return outwards

    return taking


def to_polars(frame: Any) -> Any:
    """Return a frame or a column as polars has it; what is neither pandas' nor Arrow's stays as it is.

    An index that only counts rows is left out. A categorical of texts is text, times with an offset are in UTC, and all
    are to the microsecond.

    Args:
        frame: Of any kind.

    Raises:
        ParameterError: A pandas frame with an index that holds more than numbers of rows, names of columns that are no
            texts or stand twice, or a column with values of several types.
    """
    kind, is_frame = _kind(frame)
    if kind in (None, "polars"):
        return frame
    if kind == "pandas":
        return _of_pandas(frame) if is_frame else _of_pandas(frame.to_frame("values"))["values"].alias(frame.name or "")
    if not is_frame:
        return _plain(pl.DataFrame({"values": pl.from_arrow(frame)}))["values"].alias("")
    _check_names(frame.schema.names)
    arrived: Any = pl.from_arrow(frame)
    return _plain(arrived)


def of_kind(frame: Any, kind: str) -> Any:
    """Return a polars frame or series as another kind; pandas' has Arrow's types.

    Args:
        frame: A DataFrame or Series of polars.
        kind: polars, pandas or arrow.

    Raises:
        ParameterError: Another kind.
    """
    check(kind)
    if kind == "pandas":
        return frame.to_pandas(use_pyarrow_extension_array=True)
    return frame.to_arrow() if kind == "arrow" else frame


def check(kind: str) -> None:
    """Refuse what is no kind of frame.

    Raises:
        ParameterError: It is none of ``KINDS``.
    """
    if kind not in KINDS:
        raise ParameterError(f"a frame is given as {', '.join(KINDS)}, got as_={kind!r}; name one of these.")


def _kind(value: Any) -> tuple[str | None, bool]:
    """Whose frame or column it is, if any, and whether it is a frame."""
    for known in type(value).__mro__:
        package = known.__module__.partition(".")[0]
        for kind, (name, frames, columns) in _TYPES.items():
            if package == name and known.__name__ in frames + columns:
                return kind, known.__name__ in frames
    return None, False


def _kind_in(value: Any) -> str | None:
    """Whose frame a value is, or the first of a dict: one that holds other things is not looked through."""
    return _kind(next(iter(value.values()), None) if isinstance(value, dict) else value)[0]


def _inwards(value: Any) -> Any:
    if isinstance(value, dict) and _kind_in(value):
        return {name: to_polars(part) for name, part in value.items()}
    return to_polars(value)


def _outwards(value: Any, kind: str) -> Any:
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_outwards(part, kind) for part in value)
    if isinstance(value, dict):
        return {name: _outwards(part, kind) for name, part in value.items()}
    return of_kind(value, kind) if isinstance(value, pl.DataFrame | pl.Series) else value


def _of_pandas(frame: Any) -> pl.DataFrame:
    index, pandas = frame.index, sys.modules["pandas"]
    # of rows that were chosen the numbers have gaps, and of frames that were put together they stand twice
    is_count = index.nlevels == 1 and index.name is None and pandas.api.types.is_integer_dtype(index.dtype)
    if not is_count and len(index):
        named = ", ".join(repr(name) for name in index.names if name is not None) or f"of {index.dtype}"
        raise ParameterError(
            f"the pandas frame has an index that is more than numbers of rows ({named}), and arislab reads columns "
            "only; give frame.reset_index(), or frame.reset_index(drop=True) to leave it out."
        )
    _check_names(list(frame.columns))
    try:
        return _plain(pl.from_pandas(frame.reset_index(drop=True)))
    except (ValueError, TypeError) as error:  # pyarrow's errors are both
        for name in frame.columns:
            _check_column(frame[[name]])
        raise ParameterError(f"the pandas frame cannot be read: {str(error).splitlines()[0]}.") from None


def _check_names(names: list[Any]) -> None:
    strange = next((name for name in names if not isinstance(name, str) or names.count(name) > 1), None)
    if strange is not None:
        raise ParameterError(
            f"the frame has a column {strange!r}; names of columns must be texts, each once: rename it."
        )


def _check_column(column: Any) -> None:
    try:
        pl.from_pandas(column.reset_index(drop=True))
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"column {column.columns[0]!r} of the pandas frame cannot be read ({str(error).splitlines()[0]}); give it "
            "values of one type."
        ) from None


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without what its library knows and columns of the lake do not."""
    changes = []
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Categorical | pl.Enum):
            changes.append(pl.col(name).cast(pl.String))
        elif isinstance(dtype, pl.Datetime):
            zoned = pl.col(name).dt.convert_time_zone("UTC") if dtype.time_zone else pl.col(name)
            changes.append(zoned.dt.cast_time_unit("us"))
    return frame.with_columns(changes)
