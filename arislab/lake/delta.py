"""The lake: Delta tables under ``data/lake``, read and written as polars frames, queried with SQL.

    lake = Lake()
    lake["training_data_raw"].read(where={"status": "ok"})
    lake["training_data_raw"].upsert(rows)
    lake.sql("select category, avg(quality_score) from training_data_curated group by 1")

What a table holds stands in ``tables.py``. The lake does not know phases, scorers or models. Under a run
(``ARISLAB_RUN_DIR`` is set) each read and write adds a line to the run's ``tables.jsonl``, so the record is not kept by
hand::

    {
        "op": "read",
        "table": "reviews",
        "version": 3,
        "rows": 40,
        "digest": "ab…",
        "columns": null,
        "where": {"reviewer": "k"},
    }
    {"op": "write", "table": "reviews", "version_before": 3, "version": 4, "rows": 2, "digest": "cd…"}
"""

import errno
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import LakeError, PrerequisiteError, closest
from arislab.lake import conditions, digests, storage, tables
from arislab.lake.conditions import Where
from arislab.system import files, paths
from arislab.system.paths import root
from arislab.system.text import AS_IS, html

_RETRIES = 20
_FEW = 1_000
_DAMAGED = re.compile(r"parquet|snappy|thrift|arrow error|utf-?8|python exception", re.IGNORECASE)
"""In what libraries say of a file whose bytes are not what was written."""
_READER = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",  # the last one
}
"""Settings of DuckDB under which a query can read the tables that it is given, and nothing else."""
_READS = ("SELECT", "EXPLAIN", "MULTI")  # MULTI: how DuckDB takes a PIVOT


class Lake:
    """All tables under one folder.

    Args:
        path: Folder of the tables; default ``<root>/data/lake``.
        run_id: Written on every row; default $ARISLAB_RUN_ID, else the run whose folder is $ARISLAB_RUN_DIR, else
            ``interactive``.
    """

    def __init__(self, path: str | Path | None = None, *, run_id: str | None = None) -> None:
        self.path = str(root() / "data" / "lake" if path is None else paths.usable(path, "the lake's folder"))
        self.run_id = run_id or os.environ.get("ARISLAB_RUN_ID") or _run_by_hand() or "interactive"
        self.data = Path(self.path).parent
        """Folder beside the tables: batches, models and exports live there."""

    @property
    def models(self) -> Path:
        """Folder of the adapters; the embedded server serves each by its folder name."""
        return self._folder("models")

    @property
    def batches(self) -> Path:
        """Folder of the batch ledger and of the embedded server's files."""
        return self._folder("batches")

    @property
    def exports(self) -> Path:
        """Folder for files made for others."""
        return self._folder("exports")

    def _folder(self, name: str) -> Path:
        folder = self.data / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrerequisiteError(
                f"cannot write to {folder} ({error.strerror}); choose another folder with --root."
            ) from None
        return folder

    def __getitem__(self, name: str) -> "Table":
        return Table(self, name)

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, damaged ones too."""
        return [name for name in tables.TABLES if self[name]._is_there()]

    def sql(self, query: str) -> pl.DataFrame:
        """Answer one SELECT with DuckDB over the newest version of the tables.

        Files, settings and variables are out of its reach.

        Raises:
            LakeError: The query is more or other than a SELECT, or cannot be answered; the message is DuckDB's, with
                the tables that exist.
        """
        import duckdb

        with duckdb.connect() as connection:
            for setting, value in _READER.items():
                connection.execute(f"set {setting} = {value}")
            try:
                kinds = [statement.type.name for statement in connection.extract_statements(query)]
                if len(kinds) != 1 or kinds[0] not in _READS:
                    raise LakeError(
                        f"cannot answer {query!r}: it is {' + '.join(kinds) or 'empty'}. Give one SELECT; rows are written by phases, "
                        "`arislab import` and the panel, and files are read by `arislab import`."
                    )
                for name in self.tables():
                    if re.search(rf"\b{name}\b", query, re.IGNORECASE):
                        table = self[name]._delta()
                        connection.register(name, table.to_pyarrow_dataset())
                        self[name]._log("read", version=table.version(), rows=None, sql=query)
                answer: pl.DataFrame = connection.sql(query).pl()
            except (duckdb.Error, pl.exceptions.PolarsError) as error:
                known = ", ".join(self.tables()) or "no table yet; run `arislab demo`"
                if _DAMAGED.search(str(error)):
                    known += "; if a data file is damaged, `arislab doctor` names it and the way back"
                raise LakeError(f"cannot answer {query!r}: {str(error).splitlines()[0]}. Tables: {known}.") from None
            return answer

    def lineage(self, custom_id: str) -> dict[str, pl.DataFrame]:
        """Return every row that belongs to one request and to what was made with its output, by table in the order of life.

        Args:
            custom_id: Of the request, the start of it, or a candidate_id that was asked about once. What the frames
                hold beyond their tables' columns, and what the lake cannot know, stands in ``lineage.py``.

        Raises:
            PrerequisiteError: No row, or several.
        """
        from arislab.lake.lineage import follow

        try:
            return follow(self, custom_id)
        except pl.exceptions.ComputeError as error:
            raise LakeError(
                f"cannot follow {custom_id!r}: a data file is damaged ({str(error).splitlines()[0]}); `arislab doctor` names it and the way back."
            ) from None

    def compact(self) -> dict[str, int]:
        """Merge small files of every table; returns files removed by table. Older versions stay readable."""
        removed = {}
        for name in self.tables():
            removed[name] = self[name]._compact()
        return removed

    def export(self, table: str, path: str | Path, *, where: Where | None = None) -> Path:
        """Write a table to one Parquet, CSV or JSONL file, whole or not at all."""
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
            told = {"table": name, "rows": None, "version": None, "one row": tables.contract(name).doc}
            try:
                delta = self[name]._delta()
                n_rows = self[name]._frame(delta).select(pl.len()).collect().item()
                told |= {"rows": n_rows, "version": delta.version()}
            except (LakeError, pl.exceptions.ComputeError) as error:  # a display says it, and the next read refuses
                told["one row"] = str(error).splitlines()[0]
            rows.append(told)
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
        rows = "".join(
            f"<tr><td>{r['table']}</td><td style='text-align:right'>{_count(r['rows'])}</td>"
            f"<td style='text-align:right'>{_count(r['version'])}</td>"
            f"<td style='text-align:left'>{html(r['one row'])}</td></tr>"
            for r in self._overview().to_dicts()
        )
        if not rows:
            return "<i>The lake is empty: run <code>arislab demo</code>, or import candidates.</i>"
        return f"<table {AS_IS}><tr><th>table</th><th>rows</th><th>version</th><th></th></tr>{rows}</table>"


class Table:
    """One table of the lake; it need not exist yet."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.contract = tables.contract(name)
        self.lake, self.name = lake, name
        self.folder = Path(lake.path) / name
        self.uri = str(self.folder)

    @property
    def exists(self) -> bool:
        """True once something was written."""
        try:
            return storage.exists(self.folder)
        except storage.Damage as damage:
            raise self._damaged(damage) from None

    def _is_there(self) -> bool:
        try:
            return storage.exists(self.folder)
        except storage.Damage:
            return True

    @property
    def version(self) -> int | None:
        """Number of the newest version; null if the table does not exist."""
        return int(self._delta().version()) if self.exists else None

    @property
    def rows(self) -> int:
        """Number of rows of the newest version."""
        return int(self._frame(self._delta()).select(pl.len()).collect().item()) if self.exists else 0

    def history(self) -> pl.DataFrame:
        """Return one row per version, newest first: version, timestamp, operation."""
        if not self.exists:
            return pl.DataFrame(
                schema={"version": pl.Int64, "timestamp": pl.Datetime("ms", "UTC"), "operation": pl.String}
            )
        rows = [{k: h.get(k) for k in ("version", "timestamp", "operation")} for h in self._delta().history()]
        return pl.DataFrame(rows).with_columns(pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC"))

    def version_at(self, at: str) -> int | None:
        """Number of the version that was the newest at a time (ISO 8601 with an offset); null if there was none."""
        before = self.history().filter(pl.col("timestamp") <= datetime.fromisoformat(at))["version"]
        newest = before.max()
        return int(str(newest)) if newest is not None else None

    def scan(self, *, version: int | None = None) -> pl.LazyFrame:
        """Return the table as a polars LazyFrame; an empty one if it does not exist."""
        delta = self._delta(version) if self.exists else None
        self._log("read", version=delta.version() if delta else None, rows=None)
        return self._frame(delta)

    def _frame(self, delta: Any) -> pl.LazyFrame:
        if delta is None:
            return tables.empty(self.name).lazy()
        found = pl.scan_delta(delta)
        have = found.collect_schema().names()  # a table, or a version of it, may be older than a column of its contract
        late = [pl.lit(None, dtype=c.dtype).alias(n) for n, c in self.contract.columns.items() if n not in have]
        return found.with_columns(late) if late else found

    def read(
        self, *, columns: list[str] | None = None, where: Where | None = None, version: int | None = None
    ) -> pl.DataFrame:
        """Return rows as a frame.

        Args:
            columns: Columns to return; default all.
            where: Column to value, such as ``{"task": spec.name, "status": ["ok", "empty"], "model": None}``; or a
                constant condition in SQL, such as ``"quality >= 0.8"``, with no name in it.
            version: Version to read; default the newest.
        """
        where = self._condition(where)
        delta = self._delta(version) if self.exists else None
        lazy = self._frame(delta)
        try:
            if where is not None:
                lazy = lazy.filter(conditions.expression(where))
            frame = (lazy.select(columns) if columns else lazy).collect()
        except pl.exceptions.PolarsError as error:
            known = ", ".join(tables.columns_of(self.name))
            if _DAMAGED.search(str(error)):
                raise self._damaged(
                    storage.Damage(f"a data file cannot be read ({str(error).splitlines()[0]})")
                ) from None
            which = "" if where is None else f" where {conditions.text(where)!r}"
            raise LakeError(
                f"cannot read {self.name}{which}: {str(error).splitlines()[0]}. Columns: {known}."
            ) from None
        if "ARISLAB_RUN_DIR" in os.environ:
            told = {
                "rows": frame.height,
                "digest": digests.digest(self.name, frame),
                "columns": columns,
                "where": where,
            }
            self._log("read", version=delta.version() if delta else None, **told)
        return frame

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
                f"{self.name} has no row where {conditions.text(where)} ({self.contract.doc}); run the phase that writes it first: arislab demo runs all."
            )
        return rows.row(-1, named=True)

    def append(self, frame: pl.DataFrame, *, run_id: str | None = None) -> "Table":
        """Add the rows whose key is new; a row whose key exists stays as it is. Several processes may do so at once."""
        checked = self._checked(frame, run_id)
        self._commit(checked, lambda delta: self._add(delta, self._new(delta, checked)))
        return self

    def upsert(self, frame: pl.DataFrame, *, on: str | list[str] | None = None, run_id: str | None = None) -> "Table":
        """Add rows whose key is new and replace those whose key exists (older versions keep the replaced row)."""
        checked = self._checked(frame, run_id)
        keys = [on] if isinstance(on, str) else list(on or self.contract.key)
        self._commit(checked, lambda delta: self._merge(delta, checked, keys))
        return self

    def replace(self, frame: pl.DataFrame, *, where: Where, run_id: str | None = None) -> "Table":
        """Make ``frame`` the rows that fulfil ``where``, in one commit.

        What stood there stays readable as an older version.

        A row elsewhere that has the key of a new one gives way to it.

        Args:
            frame: Rows that all fulfil ``where``.
            where: Column to value, such as ``{"task": spec.name}``, as in ``read``.
            run_id: As in ``append``.
        """
        from deltalake import write_deltalake

        checked, condition = self._checked(frame, run_id), self._condition(where) or {}
        n_other = checked.height - checked.filter(conditions.expression(condition)).height
        if n_other:
            raise LakeError(
                f"{self.name}: {n_other:,} of {checked.height:,} rows are none where {conditions.text(condition)}; nothing was written."
            )

        def write(delta: Any) -> pl.DataFrame:
            if delta is None:
                return self._add(delta, checked)
            which = conditions.predicate(condition)
            others = self._frame(delta).filter(conditions.expression(condition).fill_null(value=False).not_())
            rows, given = checked, {"mode": "overwrite", "schema_mode": "merge", **storage.how()}
            if self._known(others, checked).height:
                left = others.join(checked.lazy(), on=self.contract.key, how="anti", maintain_order="left").collect()
                rows = pl.concat([left, checked], how="diagonal")
            else:
                given["predicate"] = which
            write_deltalake(delta, rows.to_arrow(), **given)
            return checked

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
        from deltalake import write_deltalake

        def write(delta: Any) -> pl.DataFrame:
            if version is not None and delta.version() != version:
                raise LakeError(
                    f"{self.name} is at version {delta.version()}, no longer at {version}: another writer came in between, and "
                    "nothing was written. Run it again if those rows may give way too."
                )
            frame = change(self._frame(delta))
            write_deltalake(delta, frame.to_arrow(), mode="overwrite", schema_mode="merge", **storage.how())
            return frame

        self._commit(tables.empty(self.name), write, is_always=True)
        return self

    def _known(self, rows: pl.LazyFrame, frame: pl.DataFrame) -> pl.DataFrame:
        """Keys of rows that a frame has too."""
        keys = list(self.contract.key)
        few = frame[keys[0]].unique() if frame.height <= _FEW else None  # then the files' statistics say which to open
        rows = rows if few is None else rows.filter(pl.col(keys[0]).is_in(few.implode()))
        return rows.select(keys).join(frame.lazy().select(keys), on=keys, how="semi").collect()

    def _new(self, delta: Any, frame: pl.DataFrame) -> pl.DataFrame:
        if delta is None:
            return frame
        return frame.join(
            self._known(self._frame(delta), frame), on=self.contract.key, how="anti", maintain_order="left"
        )

    def _add(self, delta: Any, frame: pl.DataFrame) -> pl.DataFrame:
        from deltalake import write_deltalake

        if delta is None:  # the one who makes the table; who comes second finds it when it tries again
            write_deltalake(
                self.folder, frame.to_arrow(), mode="error", configuration=storage.PROPERTIES, **storage.how()
            )
        elif frame.height:
            write_deltalake(delta, frame.to_arrow(), mode="append", schema_mode="merge", **storage.how())
        return frame

    def _merge(self, delta: Any, frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
        if delta is None:
            return self._add(delta, frame)
        # cast: merge compares the source's string views with the table's strings
        same = conditions.same(keys, "t", "s")
        aliases = {"source_alias": "s", "target_alias": "t"}
        merged = delta.merge(frame.to_arrow(), predicate=same, merge_schema=True, **aliases, **storage.how())
        merged.when_matched_update_all().when_not_matched_insert_all().execute()
        return frame

    def _compact(self) -> int:
        from deltalake.exceptions import DeltaError

        with storage.turn(self.folder):
            delta = self._delta()
            before = delta.version()
            try:
                n_removed = int(delta.optimize.compact(**storage.how())["numFilesRemoved"])
            except (DeltaError, OSError) as error:
                raise self._no_place(error) if isinstance(error, OSError) else self._failed(error) from None
            for version in range(before + 1, delta.version() + 1):
                self._sync(version)
        return n_removed

    def link(self, lake: "Lake", *, version: int) -> None:
        """Make another lake's table of this name what this one was at a version.

        Same rows, version and history, no bytes copied.

        Args:
            lake: The other lake, in a folder of the same file system; it has no table of this name.
            version: The version that becomes the newest one there.

        Raises:
            LakeError: There is no such version.
        """
        self._delta(version)
        source, target = self.folder, Path(lake.path) / self.name
        for path in source.rglob("*"):
            inside = path.relative_to(source)
            number = re.match(r"(\d{20})\.", path.name)
            is_later = inside.parts[0] == "_delta_log" and (number is None or int(number[1]) > version)
            if path.is_symlink():
                raise LakeError(
                    f"{self.name} holds a link, {inside}, where a file should be; no table has one: remove it."
                )
            if path.is_dir() or is_later:  # without _last_checkpoint a reader looks for it itself
                continue
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target / inside)
            except OSError:  # another file system, or one without links
                shutil.copy2(path, target / inside)

    def _checked(self, frame: pl.DataFrame, run_id: str | None) -> pl.DataFrame:
        stamp = {
            "run_id": pl.lit(run_id or self.lake.run_id),
            "created_at": pl.lit(datetime.now(UTC)).dt.cast_time_unit("us"),
        }
        if "run_id" in frame.columns and "run_id" in self.contract.key and run_id is None:
            stamp.pop("run_id")
        return tables.check(self.name, frame.drop([c for c in stamp if c in frame.columns]).with_columns(**stamp))

    def _commit(self, frame: pl.DataFrame, write: Callable[[Any], pl.DataFrame], *, is_always: bool = False) -> None:
        """Run a write on the newest version; where another writer's commit came in between, on that one again.

        On disk when it returns.

        Args:
            frame: Rows to write; none, and the table exists: nothing is done.
            write: Given the open table, or null where there is none; returns the rows that it wrote.
            is_always: Write even without rows.
        """
        from deltalake.exceptions import CommitFailedError, DeltaError

        is_there = self.exists  # first of all: a folder whose log is gone must not get one
        self._make_place()
        with storage.turn(self.folder):
            for attempt in range(_RETRIES):
                is_there = is_there or self.exists
                delta = self._delta() if is_there else None
                before = None if delta is None else int(delta.version())
                if delta is not None:
                    self._check_schema(delta)
                if delta is not None and not frame.height and not is_always:
                    return self._log_write(frame, before, before)
                try:
                    written = write(delta)
                except (CommitFailedError, DeltaError) as error:
                    if not isinstance(error, CommitFailedError) and "already exists" not in str(error):
                        raise self._failed(error) from None
                    if attempt == _RETRIES - 1:
                        raise LakeError(
                            f"{self.name}: other writers were faster {_RETRIES} times; run the cell again ({error})."
                        ) from None
                    time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
                except OSError as error:
                    raise self._no_place(error) from None
                else:
                    now = 0 if before is None else before + 1 if written.height or is_always else before
                    if now != before:
                        self._sync(now)
                    return self._log_write(written, before, now)
        return None

    def _sync(self, version: int) -> None:
        try:
            storage.sync_commit(self.folder, version)
        except OSError as error:
            raise PrerequisiteError(
                f"{self.name} version {version} was written under {self.lake.path}, but the disk does not confirm it ({error.strerror}): "
                "a loss of power may take it back. Check the disk, then run the cell again."
            ) from None

    def _failed(self, error: Exception) -> LakeError | PrerequisiteError:
        text = str(error).splitlines()[0]
        if "No space left" in str(error) or "Disk quota" in str(error) or "os error 28" in str(error):
            return self._no_place(OSError(errno.ENOSPC, "No space left on device"))
        if _DAMAGED.search(text):
            return self._damaged(storage.Damage(f"a data file cannot be read ({text})"))
        return LakeError(f"cannot write {self.name}: {text}; nothing was written.")

    def _make_place(self) -> None:
        """Refuse a folder that cannot be written before anything is written."""
        try:
            (self.folder / "_delta_log").mkdir(
                parents=True, exist_ok=True
            )  # before any data: data without it is damage
        except OSError as error:
            raise self._no_place(error) from None
        if not os.access(self.folder, os.W_OK):
            raise self._no_place(PermissionError(errno.EACCES, "no write permission"))

    def _check_schema(self, delta: Any) -> None:
        columns = tables.columns_of(self.name)
        for field in delta.schema().fields:
            column = columns.get(field.name)
            if column is not None and _delta_type(column.dtype) != getattr(field.type, "type", ""):
                raise LakeError(
                    f"{self.name} under {self.lake.path} has another schema: {field.name} is {getattr(field.type, 'type', '?')}, arislab "
                    f"writes {_delta_type(column.dtype)}; nothing was written. Move that folder away, or choose another --root."
                )

    def _no_place(self, error: OSError) -> PrerequisiteError:
        return PrerequisiteError(
            f"cannot write {self.name} under {self.lake.path} ({error.strerror or error}): nothing of this write is stored, all earlier "
            "versions are. Check permissions and disk space, or choose another folder with --root; then run it again."
        )

    def _delta(self, version: int | None = None) -> Any:
        from deltalake.exceptions import DeltaError

        try:
            table = storage.opened(self.folder, version)
        except storage.Damage as damage:
            raise self._damaged(damage) from None
        except DeltaError as error:
            if version is None:
                raise self._damaged(storage.Damage(str(error).splitlines()[0])) from None
            raise LakeError(
                f"{self.name} under {self.lake.path} has no version {version} ({str(error).splitlines()[0]}); "
                f"lake[{self.name!r}].history() lists those that exist."
            ) from None
        have = {field.name for field in table.schema().fields}
        missing = [k for k in self.contract.key if k not in have]
        if missing:
            raise LakeError(
                f"{self.name} under {self.lake.path} has no column {missing[0]!r} (it has {', '.join(sorted(have))}): "
                "another program wrote it. Move that folder away, or choose another --root."
            )
        return table

    def _damaged(self, damage: storage.Damage) -> LakeError:
        return LakeError(
            f"{self.name} under {self.lake.path} is damaged: {damage}. Nothing was read or written; "
            "`arislab doctor` says which version is whole and how to go back to it."
        )

    def _log_write(self, frame: pl.DataFrame, before: int | None, now: int | None) -> None:
        if "ARISLAB_RUN_DIR" in os.environ:
            told = {"rows": frame.height, "digest": digests.digest(self.name, frame), "version_before": before}
            self._log("write", version=now, **told)

    def _log(self, op: str, *, version: int | None, **told: Any) -> None:
        folder = os.environ.get("ARISLAB_RUN_DIR")
        if folder:
            line = json.dumps({"op": op, "table": self.name, "version": version} | told) + "\n"
            try:
                with (Path(folder) / "tables.jsonl").open("a", encoding="utf-8") as log:
                    log.write(line)
            except OSError as error:
                stored = f"version {version} of {self.name} is stored, but " if op == "write" else ""
                raise PrerequisiteError(
                    f"{stored}the record in {folder} cannot note it ({error.strerror}); check disk space, then run the cell again."
                ) from None

    def __repr__(self) -> str:
        if not self._is_there():
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


def _delta_type(dtype: Any) -> str:
    """Delta's name of a polars type."""
    if dtype == pl.List(pl.String):
        return "array"
    if isinstance(dtype, pl.Datetime):
        return "timestamp"
    return {pl.String: "string", pl.Int64: "long", pl.Int32: "integer", pl.Float64: "double", pl.Boolean: "boolean"}[
        dtype
    ]
