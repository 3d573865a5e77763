"""The lake: Delta tables under ``data/lake``, read and written as frames (polars, pandas, Arrow), queried with SQL.

    lake = Lake()
    lake["training_data_raw"].read(where={"status": "ok"})
    lake["training_data_raw"].read(as_="pandas")
    lake["training_data_raw"].upsert(rows)
    lake.sql("select task, avg(quality_score) from training_data_curated group by 1")

Or below a URL of an object store, ``Lake("s3://bucket/lab")``, which has the tables only: models, batches, exports and
what reviewers decide but nobody folded yet lie below the root's ``data/`` in any case, as other programs write them.

What a table holds stands in ``tables``, how it is opened in ``opening``, how rows come into it in ``writing``. The lake
does not know phases, scorers or models. Under a run each read and write adds a line to the run's ``tables.jsonl``
(``log``), so the record is not kept by hand.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import polars as pl

from arislab.errors import LakeError, PrerequisiteError, closest
from arislab.lake import conditions, digests, log, opening, places, receipts, sql, storage, tables, writing
from arislab.lake.conditions import Where
from arislab.review import journal
from arislab.system import files, frames, kinds, paths, spilled


class Lake:
    """All tables under one folder, or below one URL.

    Args:
        path: Folder of the tables, or ``s3://bucket/path``, ``gs://…``, ``az://…`` or ``abfss://…``; default the URL
            $ARISLAB_LAKE, else ``<root>/data/lake``.
        run_id: Written on every row; default $ARISLAB_RUN_ID, else the run whose folder is $ARISLAB_RUN_DIR, else
            ``interactive``.
        root: Folder whose ``data/`` has what a lake by URL does not: models, batches, exports, review journals; default
            $ARISLAB_ROOT, else the lab. A lake in a folder has it beside itself.
    """

    def __init__(
        self, path: str | Path | None = None, *, run_id: str | None = None, root: str | Path | None = None
    ) -> None:
        self.place = places.of(paths.lake() if path is None else path)
        self.path = str(self.place)
        self.run_id = run_id or os.environ.get("ARISLAB_RUN_ID") or _run_by_hand() or "interactive"
        self._root = None if root is None else Path(root)

    @property
    def data(self) -> Path:
        """Folder of batches, models and exports: beside the tables, or for a lake by URL that of the root."""
        if isinstance(self.place, Path):
            return self.place.parent
        return (self._root or paths.root()) / "data"

    @property
    def models(self) -> Path:
        """Folder of the adapters; the embedded server serves each by its folder name."""
        return paths.made(self.data / "models")

    @property
    def batches(self) -> Path:
        """Folder of the batch ledger and of the embedded server's files."""
        return paths.made(self.data / "batches")

    @property
    def exports(self) -> Path:
        """Folder for files made for others."""
        return paths.made(self.data / "exports")

    @property
    def review(self) -> Path:
        """Folder of what review sessions keep: decisions that are not folded into the table reviews yet, and draws.

        Of a lake by URL it lies below ``data/review``, one for each lake.
        """
        return paths.made(paths.journals(self.path, self._root))

    def collect(self) -> int:
        """Fold what people decided, and journals still hold, into reviews and arm_votes; return how many events.

        Panels, and runs as they begin, do this by themselves.

        Raises:
            LakeError: A journal is damaged; no journal was removed.
        """
        folder = paths.journals(self.path, self._root)
        if not folder.is_dir():
            return 0
        n_votes = journal.fold(folder, self["arm_votes"], journal.VOTES)  # first: fewer, and rarely damaged by hand
        return n_votes + journal.fold(folder, self["reviews"])

    def __getitem__(self, name: str) -> "Table":
        return Table(self, name)

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, damaged ones too."""
        return opening.names(self.place)

    def sql(self, query: str) -> pl.DataFrame:
        """Answer one SELECT with DuckDB over the newest version of the tables.

        Files, settings and variables are out of its reach.

        Raises:
            LakeError: The query is more or other than a SELECT, or cannot be answered; the message is DuckDB's, with
                the tables that exist.
        """
        with opening.reached(self.place):
            return sql.answer(self.place, query)

    def lineage(self, custom_id: str) -> dict[str, pl.DataFrame]:
        """Return every row that belongs to one request and to what was made with its output.

        They come by table, in the order of life.

        Args:
            custom_id: Of the request, the start of it, or a candidate_id that was asked about once. What the frames
                hold beyond their tables' columns, and what the lake cannot know, stands in ``lineage.py``.

        Raises:
            PrerequisiteError: No row, or several.
        """
        from arislab.lake.lineage import follow

        try:
            with opening.reached(self.place):
                return follow(self, custom_id)
        except pl.exceptions.ComputeError as error:
            raise LakeError(
                f"cannot follow {custom_id!r}: a data file is damaged ({str(error).splitlines()[0]}); `arislab doctor` "
                "names it and the way back."
            ) from None

    def compact(self) -> dict[str, int]:
        """Merge small files of every table; returns files removed by table. Older versions stay readable."""
        removed = {}
        for name in self.tables():
            removed[name] = writing.compact(self[name].folder)
        return removed

    def export(self, table: str, path: str | Path, *, where: Where | None = None) -> Path:
        """Write a table to one Parquet, CSV or JSONL file, whole or not at all, and return its path.

        Args:
            table: Its name.
            path: Of the file; its ending (.parquet, .csv, .jsonl) says the form. Folders above are made.
            where: As in ``Table.read``.

        Raises:
            PrerequisiteError: Another ending.
        """
        target = Path(path)
        forms: Any = {
            ".parquet": pl.DataFrame.write_parquet,
            ".csv": pl.DataFrame.write_csv,
            ".jsonl": pl.DataFrame.write_ndjson,
        }
        write = forms.get(target.suffix)
        if write is None:
            raise PrerequisiteError(f"cannot export to {target.name!r}; the ending must be .parquet, .csv or .jsonl.")
        frame = self[table].read(where=where)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.written(target) as file:
            write(frame, file)
        return target

    def _overview(self) -> pl.DataFrame:
        rows = []
        for name in self.tables():
            row = {"table": name, "rows": None, "version": None, "one row": tables.contract(name).doc}
            try:
                delta = opening.open_version(self[name].folder)
                with opening.reached(self.place):
                    n_rows = opening.frame(name, delta).select(pl.len()).collect().item()
                row |= {"rows": n_rows, "version": delta.version()}
            except (LakeError, pl.exceptions.ComputeError) as error:  # a display says it, and the next read refuses
                row["one row"] = str(error).splitlines()[0]
            rows.append(row)
        return pl.DataFrame(
            rows, schema={"table": pl.String, "rows": pl.Int64, "version": pl.Int64, "one row": pl.String}
        )

    def __repr__(self) -> str:
        lines = [f"Lake: {len(self.tables())} tables"]
        lines += [
            f"  {row['table']:<24} {row['rows']:>9,} rows  version {row['version']}"
            if row["rows"] is not None
            else f"  {row['table']:<24} {row['one row']}"
            for row in self._overview().to_dicts()
        ]
        return "\n".join(lines if len(lines) > 1 else ["Lake: empty; run `arislab demo`, or import candidates"])

    def _repr_html_(self) -> str:
        rows = [
            [r["table"], _count(r["rows"]), _count(r["version"]), r["one row"]] for r in self._overview().to_dicts()
        ]
        if not rows:
            return "<i>The lake is empty: run <code>arislab demo</code>, or import candidates.</i>"
        return frames.markup(["table", "rows", "version", "one row is"], rows, is_text=[True, False, False, True])


class Table:
    """One table of the lake; it need not exist yet."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.contract = tables.contract(name)
        self.lake, self.name = lake, name
        self.folder: places.Place = lake.place / name
        self.uri = str(self.folder)

    @property
    def exists(self) -> bool:
        """True once something was written."""
        return opening.exists(self.folder)

    @property
    def version(self) -> int | None:
        """Number of the newest version; null if the table does not exist."""
        return int(opening.open_version(self.folder).version()) if self.exists else None

    @property
    def rows(self) -> int:
        """Number of rows of the newest version."""
        if not self.exists:
            return 0
        every = opening.frame(self.name, opening.open_version(self.folder))
        with opening.reached(self.folder):
            return int(every.select(pl.len()).collect().item())

    def history(self) -> pl.DataFrame:
        """Return one row per version, newest first: version, timestamp, operation."""
        if not self.exists:
            return pl.DataFrame(
                schema={"version": pl.Int64, "timestamp": pl.Datetime("ms", "UTC"), "operation": pl.String}
            )
        versions = opening.open_version(self.folder).history()
        rows = [{name: one.get(name) for name in ("version", "timestamp", "operation")} for one in versions]
        return pl.DataFrame(rows).with_columns(pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC"))

    def version_at(self, at: str) -> int | None:
        """Number of the version that was the newest at a time (ISO 8601 with an offset); null if there was none."""
        before = self.history().filter(pl.col("timestamp") <= datetime.fromisoformat(at))["version"]
        newest = before.max()
        return int(str(newest)) if newest is not None else None

    def scan(self, *, version: int | None = None) -> pl.LazyFrame:
        """Return the table as a polars LazyFrame; an empty one if it does not exist."""
        delta = opening.open_version(self.folder, version) if self.exists else None
        log.note("read", self.name, version=delta.version() if delta else None, rows=None)
        return opening.frame(self.name, delta)

    @overload
    def read(
        self,
        *,
        columns: list[str] | None = None,
        where: Where | None = None,
        version: int | None = None,
        as_: Literal["polars"] = "polars",
    ) -> pl.DataFrame: ...

    @overload
    def read(
        self,
        *,
        columns: list[str] | None = None,
        where: Where | None = None,
        version: int | None = None,
        as_: Literal["pandas", "arrow"],
    ) -> Any: ...

    def read(
        self,
        *,
        columns: list[str] | None = None,
        where: Where | None = None,
        version: int | None = None,
        as_: str = "polars",
    ) -> Any:
        """Return rows as a frame; those of a large table are held on disk (``system.spilled``), and read like others.

        Args:
            columns: Columns to return; default all.
            where: Column to value, such as ``{"task": spec.name, "status": ["ok", "empty"], "model": None}``; or a
                constant condition in SQL, such as ``"quality >= 0.8"``, with no name in it.
            version: Version to read; default the newest.
            as_: Whose frame it is: polars, pandas (its types are Arrow's: null is ``pd.NA``), or arrow (a Table).

        Raises:
            LakeError: There is no such column or version, or the table is damaged.
            ParameterError: ``as_`` names another kind.
            PrerequisiteError: The disk has no room for the rows of a large table.
        """
        kinds.check(as_)
        where = self._condition(where)
        delta = opening.open_version(self.folder, version) if self.exists else None
        lazy = opening.frame(self.name, delta)
        try:
            if where is not None:
                lazy = lazy.filter(conditions.expression(where))
            lazy = lazy.select(columns) if columns else lazy
            with opening.reached(self.folder):
                frame = spilled.frame(lazy) if delta is not None and opening.is_large(delta) else lazy.collect()
        except pl.exceptions.PolarsError as error:
            known = ", ".join(tables.columns_of(self.name))
            if opening.DAMAGED.search(str(error)):
                raise opening.unreadable(self.folder, str(error).splitlines()[0]) from None
            which = "" if where is None else f" where {conditions.text(where)!r}"
            raise LakeError(
                f"cannot read {self.name}{which}: {str(error).splitlines()[0]}. Columns: {known}."
            ) from None
        if log.is_kept():
            digest, at = digests.digest(self.name, frame), delta.version() if delta else None
            more = {"digest": digest, "columns": columns, "where": where}
            log.note("read", self.name, version=at, rows=frame.height, **more)
        return kinds.of_kind(frame, as_)

    def head(self, n: int, *, where: Where, columns: list[str] | None = None) -> pl.DataFrame:
        """Return the first rows that fulfil a condition, to try something on.

        What a run makes does not depend on them, and its record does not name them.

        Args:
            n: How many, at most.
            where: As in ``read``.
            columns: As in ``read``.

        Raises:
            LakeError: There is no such column.
        """
        condition = self._condition(where)
        delta = opening.open_version(self.folder, None) if self.exists else None
        lazy = opening.frame(self.name, delta)
        lazy = lazy if condition is None else lazy.filter(conditions.expression(condition))
        with opening.reached(self.folder):
            return (lazy.select(columns) if columns else lazy).head(n).collect()

    def _condition(self, where: Where | None) -> Where | None:
        """Refuse a column that the table does not have; Delta would say so in its own words."""
        known, prefix = tables.columns_of(self.name), self.contract.prefix
        for name in where if where is not None and not isinstance(where, str) else ():
            if name not in known and not (prefix and name.startswith(prefix)):
                raise LakeError(
                    f"{self.name} has no column {name!r}; {closest(name, known)}. Columns: {', '.join(known)}."
                )
        return conditions.plain(where)

    def latest(self, *, where: Where) -> dict[str, Any]:
        """Return the newest row that fulfils a condition; without one, LakeError says so."""
        rows = self.read(where=where).sort("created_at")
        if not rows.height:
            raise LakeError(
                f"{self.name} has no row where {conditions.text(where)} ({self.contract.doc}); run the phase that "
                "writes it first: arislab demo runs all."
            )
        return rows.row(-1, named=True)

    def append(self, frame: pl.DataFrame, *, run_id: str | None = None) -> "Table":
        """Add the rows whose key is new; a row whose key exists stays as it is. Several processes may do so at once.

        Args:
            frame: Rows in columns of the table, of polars, pandas or Arrow; those that may be null may be missing.
            run_id: Written on each row; default the lake's.

        Raises:
            LakeError: Rows break the table's contract; nothing was written.
        """
        checked = self._checked(frame, run_id)
        self._commit(checked, lambda delta: writing.add(self.folder, delta, writing.new(self.folder, delta, checked)))
        return self

    def extend(self, choose: Callable[[pl.DataFrame], pl.DataFrame], *, run_id: str | None = None) -> pl.DataFrame:
        """Add what a function chooses by the rows that stand there: nobody else's come in between.

        Args:
            choose: Given all rows, returns those to add as in ``append``; called again where another writer was faster.
                What it raises is raised, and nothing was written.
            run_id: As in ``append``.

        Returns:
            The rows that were added, in all columns of the table.

        Raises:
            LakeError: As in ``append``.
        """

        def write(delta: Any) -> pl.DataFrame:
            rows = self._checked(choose(opening.frame(self.name, delta).collect()), run_id)
            return writing.add(self.folder, delta, writing.new(self.folder, delta, rows))

        return self._commit(None, write)

    def upsert(self, frame: pl.DataFrame, *, on: str | list[str] | None = None, run_id: str | None = None) -> "Table":
        """Add rows whose key is new and replace those whose key exists (older versions keep the replaced row).

        Args:
            frame: As in ``append``.
            on: Columns by which rows are told apart; default the key of the table.
            run_id: As in ``append``.

        Raises:
            LakeError: As in ``append``.
        """
        checked = self._checked(frame, run_id)
        keys = [on] if isinstance(on, str) else list(on or self.contract.key)
        self._commit(checked, lambda delta: writing.merge(self.folder, delta, checked, keys))
        return self

    def replace(self, frame: pl.DataFrame, *, where: Where, run_id: str | None = None) -> "Table":
        """Make ``frame`` the rows that fulfil ``where``, in one commit.

        What stood there stays readable as an older version. A row elsewhere that has the key of a new one gives way to
        it.

        Args:
            frame: Rows that all fulfil ``where``.
            where: Column to value, such as ``{"task": spec.name}``, as in ``read``.
            run_id: As in ``append``.

        Raises:
            LakeError: A row does not fulfil ``where``, or as in ``append``; nothing was written.
        """
        checked, condition = self._checked(frame, run_id), self._condition(where) or {}
        n_other = checked.height - checked.filter(conditions.expression(condition)).height
        if n_other:
            raise LakeError(
                f"{self.name}: {n_other:,} of {checked.height:,} rows are none where {conditions.text(condition)}; "
                "nothing was written."
            )

        # also without rows: then those that fulfil the condition go
        write = partial(writing.replace, self.folder, frame=checked, where=condition)
        self._commit(checked, write, is_always=True)
        return self

    def rewrite(self, change: Callable[[pl.LazyFrame], pl.DataFrame], *, version: int | None = None) -> "Table":
        """Make what a function returns all that this table holds; run and time of each row stay (for repairs).

        Args:
            change: Given the rows of the newest version; called again where another writer's commit came in between.
            version: The version that must be the newest one; default any.

        Raises:
            LakeError: Another version is the newest one; nothing was written.
        """

        def write(delta: Any) -> pl.DataFrame:
            if version is not None and delta.version() != version:
                raise LakeError(
                    f"{self.name} is at version {delta.version()}, no longer at {version}: another writer came in "
                    "between, and nothing was written. Run it again if those rows may give way too."
                )
            return writing.rewrite(delta, change(opening.frame(self.name, delta)))

        self._commit(tables.empty(self.name), write, is_always=True)
        return self

    def link(self, lake: "Lake", *, version: int) -> None:
        """Make another lake's table of this name what this one was at a version.

        Rows, version and history are the same; files are hard links, or copies where links cannot be. From or to a lake
        by URL the files of this version and of those before it are copied; a copy that was cut off is no whole table,
        and nobody else may write to it meanwhile.

        Args:
            lake: The other lake; it has no table of this name.
            version: The version that becomes the newest one there.

        Raises:
            LakeError: There is no such version, or the other lake has a table of this name.
            PrerequisiteError: A store cannot be used, or not by several writers.
        """
        opening.open_version(self.folder, version)
        there = lake[self.name].folder
        with opening.reached(self.folder), opening.reached(there):
            if opening.is_there(there):
                raise LakeError(
                    f"cannot link {self.name} to {lake.path}: it has such a table already. Give a lake without one; "
                    "nothing was written."
                )
            if isinstance(there, places.Url):
                there.check_writers()
            storage.link(self.folder, there, version=version)

    def _checked(self, frame: pl.DataFrame, run_id: str | None) -> pl.DataFrame:
        frame = kinds.to_polars(frame)
        stamp = {
            "run_id": pl.lit(run_id or self.lake.run_id),
            "created_at": pl.lit(datetime.now(UTC)).dt.cast_time_unit("us"),
        }
        # where a row is a run (training_runs), its run_id is what it is about, not who wrote it
        if "run_id" in frame.columns and "run_id" in self.contract.key and run_id is None:
            stamp.pop("run_id")
        checked = tables.check(self.name, frame.drop([c for c in stamp if c in frame.columns]).with_columns(**stamp))
        if self.name in ("candidates", "training_data_raw"):  # by which anybody comes in
            gone = receipts.forgotten(self.lake.data, checked["candidate_id"].unique())
            if name := next(iter(sorted(gone)), None):
                raise LakeError(
                    f"{self.name}: candidate {name!r} was {gone[name]}; leave their rows out ({len(gone):,} such "
                    "candidates). Nothing was written."
                )
        return spilled.frame(checked)

    def _commit(
        self, frame: pl.DataFrame | None, write: Callable[[Any], pl.DataFrame], *, is_always: bool = False
    ) -> pl.DataFrame:
        """Run a write as ``writing.commit`` does, and note it; returns its rows."""
        rows, before, now = writing.commit(self.folder, frame, write, is_always=is_always)
        if log.is_kept():
            digest = digests.digest(self.name, rows)
            log.note("write", self.name, version=now, rows=rows.height, digest=digest, version_before=before)
        return rows

    def __repr__(self) -> str:
        if not opening.is_there(self.folder):
            return f"Table {self.name}: does not exist yet. {self.contract.doc}"
        try:
            return f"Table {self.name}: {self.rows:,} rows, version {self.version}. {self.contract.doc}"
        except (LakeError, pl.exceptions.ComputeError) as error:
            return f"Table {self.name}: {str(error).splitlines()[0]}"


def _run_by_hand() -> str:
    """The run that a kernel of JupyterLab records of itself (``runs.begin``); empty if there is none."""
    return Path(os.environ.get("ARISLAB_RUN_DIR", "")).name


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"
