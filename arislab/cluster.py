"""Work spread over many processors by Daft: those of this machine, or of a Ray cluster.

``connect`` gives what spreads it: ``map`` calls a function on items, in their order; ``rows`` makes a table of which
the engine holds the parts, and that functions map, group and join.

Functions go to the workers by name, or as they are where they are closures; what they need of arislab has to be
installed there, in the same version. They are called again where a worker was lost, so they change nothing but what
they return. Daft 0.7 counts its use at a server of its makers unless it is told not to: it is told.

What this module does not know: what is scored or compared.

Source:
    Daft (https://docs.daft.ai), chosen by measurement beside Ray Data (papermill_runs/README.md, 2026-11-29).
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from arislab.errors import ArislabError, ParameterError, PrerequisiteError
from arislab.system import imports, on_ray, processes

T = TypeVar("T")
R = TypeVar("R")

_ROWS = 20_000
"""Rows that a function is given at once, at most."""
_AHEAD = 4
"""Items for each processor sent at once: the fewer, the less is in memory; the more, the less is waited for."""
_BYTES = 1 << 30
"""Bytes of the items sent at once, but for the last."""


@cache
def connect(engine: str) -> "Cluster | None":
    """Return what spreads the work, or null for none: this process does it.

    Args:
        engine: Empty: none. ``daft``: this machine. ``daft@ADDRESS``: a Ray cluster; ``auto`` for the one that this
            machine is a node of, ``HOST:PORT``, or ``local`` for a Ray that is started here and ends with this process.

    Raises:
        ParameterError: Something else.
        PrerequisiteError: Daft or Ray is not installed, or Ray cannot be reached.
    """
    if not engine:
        return None
    name, at, address = engine.partition("@") if isinstance(engine, str) else ("", "", "")
    if name != "daft" or bool(at) != bool(address):
        raise ParameterError(
            f"engine must be empty, 'daft' or 'daft@ADDRESS' (auto, local or HOST:PORT of a Ray cluster), got "
            f"{engine!r}; empty: this process alone."
        )
    # what it counts stays here; and its bars would stand in the records of notebooks
    os.environ["DAFT_ANALYTICS_ENABLED"] = os.environ["DAFT_PROGRESS_BAR"] = "0"
    imports.require("engine 'daft'", 'pip install "arislab[daft]"', "daft")
    if address:
        imports.require(f"engine {engine!r}", 'pip install "arislab[daft,ray]"', "ray")
        on_ray.connect(address)
    _choose("ray" if address else "native", engine)
    return Cluster(engine, address or None)


def _choose(runner: str, engine: str) -> None:
    """Have Daft work here or on Ray, which a process can say once."""
    import daft
    from daft.exceptions import DaftCoreException

    try:
        daft.set_runner_ray(noop_if_initialized=True) if runner == "ray" else daft.set_runner_native()
    except DaftCoreException:
        if daft.get_or_infer_runner_type() != runner:
            raise PrerequisiteError(
                f"engine {engine!r} cannot be used in a process where Daft works elsewhere already; restart the kernel."
            ) from None


class _LostError(PrerequisiteError):
    """A node is gone with something that it held."""


class Cluster:
    """Where work goes; made by ``connect``."""

    def __init__(self, engine: str, address: str | None) -> None:
        self.engine, self._address = engine, address

    def __repr__(self) -> str:
        where = "on this machine" if self._address is None else f"on Ray ({self._address})"
        return f"work goes to Daft {where}, {self.n_processors:,} processors"

    @property
    def n_processors(self) -> int:
        """Processors that work can go to."""
        return processes.cores() if self._address is None else on_ray.n_processors()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield what a function returns for each item, in the order of the items; a few are asked for at a time.

        Args:
            function: Defined in a module that workers can import. An ``ArislabError`` that it raises is raised here.
            items: What pickle keeps, of a few MB each.

        Raises:
            PrerequisiteError: The engine failed; where a node was lost, after those items were asked for again.
        """
        import daft

        def called(packed: Any) -> list[bytes]:
            return [_called(function, item) for item in packed.to_pylist()]

        asked = daft.func.batch(return_dtype=daft.DataType.binary(), batch_size=1)(called)
        rest = map(pickle.dumps, items)
        while packed := _some(rest, _AHEAD * self.n_processors):
            try:
                answers = self._answers(asked, packed)
            except _LostError:
                answers = self._answers(asked, packed)  # by the other nodes: all that they need is here
            for _, answer in sorted(zip(answers["place"], answers["answer"], strict=True)):
                result = pickle.loads(answer)
                if isinstance(result, ArislabError):
                    raise result
                yield result

    def _answers(self, asked: Any, packed: list[bytes]) -> dict[str, list[Any]]:
        import daft

        with self._saying_so():
            frame = self._parted(daft.from_pydict({"place": list(range(len(packed))), "item": packed}), len(packed))
            answers: dict[str, list[Any]] = frame.select(
                daft.col("place"), asked(daft.col("item")).alias("answer")
            ).to_pydict()
        return answers

    def rows(self, table: Any) -> "Rows":
        """Return the rows of a pyarrow.Table as rows of the engine; it is sent in pieces of a few thousand rows."""
        import daft

        parts = [table.slice(start, _ROWS) for start in range(0, max(1, table.num_rows), _ROWS)]
        return Rows(self, self._parted(daft.from_arrow(parts), len(parts)))

    def _parted(self, frame: Any, n: int) -> Any:
        """On Ray each part is a task; on one machine Daft parts the rows itself."""
        return frame if self._address is None else frame.into_partitions(n)

    @contextmanager
    def _saying_so(self) -> Iterator[None]:
        from daft.exceptions import DaftCoreException

        failures = (DaftCoreException,) if self._address is None else (DaftCoreException, on_ray.failures())
        try:
            yield
        except failures as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300].rstrip(".")
            is_lost = self._address is not None and isinstance(error, on_ray.losses())
            if is_lost:
                why = "a node of the cluster was lost, and with it rows that it held"
            kind = _LostError if is_lost else PrerequisiteError
            raise kind(
                f"engine {self.engine!r} failed: {why}. Nothing was written; run again, or leave engine empty, which "
                "gives the same in this process."
            ) from error


class Rows:
    """A table of which the engine holds the parts, or how they are made; made by ``Cluster.rows``.

    Functions take and return a pyarrow.Table. They are called with some rows at a time, whichever.
    """

    def __init__(self, cluster: Cluster, frame: Any) -> None:
        self._cluster, self._frame = cluster, frame

    def map(self, function: Callable[[Any], Any], schema: Any) -> "Rows":
        """Return what a function makes of the rows: as many as it likes.

        Args:
            function: pyarrow.Table to pyarrow.Table.
            schema: pyarrow.Schema of what it returns.
        """
        import daft

        names = self._frame.column_names
        made = daft.func.batch(return_dtype=_list_of(schema), batch_size=_ROWS)(_as_lists(function, names, schema))
        lists = self._frame.select(made(*map(daft.col, names)).alias("made"))
        rows = lists.explode("made").where(~daft.col("made").is_null())
        return Rows(self._cluster, rows.select(*(daft.col("made")[name].alias(name) for name in schema.names)))

    def grouped(self, by: str, function: Callable[[Any], Any], schema: Any) -> "Rows":
        """Return what a function makes of all rows that have one value of a column, for each of its values.

        Args:
            by: An integer column; rows of one value have to fit the memory of one worker.
            function: As in ``map``.
            schema: As there.
        """
        import daft

        names = self._frame.column_names
        made = daft.func.batch(return_dtype=_struct_of(schema))(_as_structs(function, names, schema))
        rows = self._frame.groupby(by).map_groups(made(*map(daft.col, names)).alias("made"))
        return Rows(self._cluster, rows.select(*(daft.col("made")[name].alias(name) for name in schema.names)))

    def joined(self, other: "Rows", on: str) -> "Rows":
        """Return the rows of both that have equal values in a column, side by side, in no order."""
        return Rows(self._cluster, self._frame.join(other._frame, on=on))

    def renamed(self, names: dict[str, str]) -> "Rows":
        """Return the columns that are named, under new names."""
        import daft

        return Rows(self._cluster, self._frame.select(*(daft.col(old).alias(new) for old, new in names.items())))

    def kept(self) -> "Rows":
        """Return the same rows, made once and held by the engine: for what is used several times."""
        with self._cluster._saying_so():
            return Rows(self._cluster, self._frame.collect())

    def batches(self, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows, or some of their columns, as pyarrow.RecordBatches, in no order."""
        with self._cluster._saying_so():
            frame = self._frame if names is None else self._frame.select(*names)
            yield from frame.to_arrow_iter()


def _some(items: Iterator[bytes], most: int) -> list[bytes]:
    """The next items, as many as are sent at once."""
    taken, n_bytes = list[bytes](), 0
    for item in islice(items, most):
        taken.append(item)
        n_bytes += len(item)
        if n_bytes >= _BYTES:
            break
    return taken


def _called(function: Callable[[Any], Any], packed: bytes) -> bytes:
    """What a function returns, or the error of ours that it raises, packed."""
    try:
        return pickle.dumps(function(pickle.loads(packed)))
    except ArislabError as error:
        return pickle.dumps(error)


def _struct_of(schema: Any) -> Any:
    import daft
    import pyarrow as pa

    return daft.DataType.from_arrow_type(pa.struct(list(schema)))


def _list_of(schema: Any) -> Any:
    import daft
    import pyarrow as pa

    return daft.DataType.from_arrow_type(pa.large_list(pa.struct(list(schema))))


def _as_structs(function: Callable[[Any], Any], names: Sequence[str], schema: Any) -> Callable[..., Any]:
    """A function of columns, as Daft calls it, that returns the rows of a function of tables as structs."""

    def made(*columns: Any) -> Any:
        import pyarrow as pa

        table = function(pa.table([column.to_arrow() for column in columns], names=list(names)))
        parts = [table[name].combine_chunks().cast(schema.field(name).type) for name in schema.names]
        return pa.StructArray.from_arrays(parts, names=schema.names)

    return made


def _as_lists(function: Callable[[Any], Any], names: Sequence[str], schema: Any) -> Callable[..., Any]:
    """The same for a function that must return one value for each row: the first has all, the others have none."""
    as_structs = _as_structs(function, names, schema)

    def made(*columns: Any) -> Any:
        import pyarrow as pa

        n = len(columns[0])
        if not n:
            return pa.array([], pa.large_list(pa.struct(list(schema))))
        rows = as_structs(*columns)
        offsets = np.full(n + 1, len(rows), dtype=np.int64)
        offsets[0] = 0
        return pa.LargeListArray.from_arrays(pa.array(offsets), rows)

    return made
