"""Run records: a phase's notebook executed by papermill, and the truth about what became of it.

One run is one folder ``papermill_runs/<UTC>-<phase>-<4 hex>/``::

    run.json        {"run_id": "20261122T221500Z-curate-3f9a", "phase": "curate", "status": "ok", "parameters": {"seed": 0, …}, …}
    notebook.ipynb  the executed notebook       log.txt      what the kernel printed, and the supervisor's remarks
    code.diff       uncommitted changes         env.lock     name==version of every installed package
    task.py         the task file as it was     tables.jsonl one line per read or write of the lake

``run.json`` is written first as ``running`` and last as the verdict, by the process that supervises the kernel: papermill
marks the cells that a killed kernel never ran as completed, so a notebook's own statuses are never asked.
Statuses: running, ok, failed, interrupted (SIGINT or SIGTERM), and, seen by the reader only: lost (``running``, but the
supervisor is gone) and unreadable. This module does not know what any phase does, and does not open the lake.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from arislab import provenance
from arislab.errors import PrerequisiteError, closest
from arislab.headline import Account, Headline, account, as_text, headline
from arislab.kernel import Log, Outcome, Stopped, stoppable, supervise
from arislab.parameters import Parameter, convert, parameters_of

__all__ = [
    "PHASES",
    "Account",
    "Headline",
    "Parameter",
    "Record",
    "account",
    "as_json",
    "convert",
    "execute",
    "headline",
    "list_runs",
    "lock",
    "parameters_of",
]

PHASES = {
    "generate": "1_generate.ipynb",
    "curate": "2_curate.ipynb",
    "icl": "3_icl.ipynb",
    "finetune": "4_finetune.ipynb",
    "evaluate": "5_evaluate.ipynb",
}

_RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-(\w+)-[0-9a-f]{4}")


@dataclass(frozen=True, repr=False)
class Record:
    """What ``run.json`` says about one run."""

    run_id: str
    phase: str
    status: str
    """running, ok, failed or interrupted."""
    started_at: str
    """UTC, ISO 8601."""
    folder: Path
    finished_at: str | None = None
    duration_s: float | None = None
    reason: str | None = None
    """Why it is not ok."""
    cell: dict[str, Any] | None = None
    """The failing cell: index in the source notebook (from 0), id, heading, ename, evalue."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """In force, typed."""
    parameters_passed: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    headline: dict[str, Any] | None = None
    tables_read: dict[str, Any] = field(default_factory=dict)
    """Table to {version, rows}; only reads before the run's own first write to it: its inputs."""
    tables_written: dict[str, Any] = field(default_factory=dict)
    """Table to {version, rows, digest}: the last version, and what this run wrote in all."""
    notebook: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = None
    code: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    supervisor: dict[str, Any] = field(default_factory=dict)
    """pid, its start time and the boot it belongs to: how a reader knows that a running record is lost."""
    peak_rss_mb: float | None = None
    """Largest memory of the kernel process, without its children; null if the kernel died or the system cannot tell."""

    def __repr__(self) -> str:
        took = "" if self.duration_s is None else f" in {self.duration_s:.1f} s"
        lines = [f"{self.phase}: {self.status}{took}, record in {self.folder}"]
        if self.status != "ok":
            lines.append(f"  {self.reason}")
            if self.cell:
                lines.append(
                    f"  cell {self.cell['index']} of {Path(self.notebook['path']).name}: {self.cell['heading']}"
                )
        if self.headline:
            lines.append(as_text(self.headline, indent="  "))
        return "\n".join(lines)


def execute(
    phase: str,
    given: Mapping[str, object] | None = None,
    *,
    root: Path,
    notebooks: Path | None = None,
    echo: Callable[[str], object] | None = None,
) -> Record:
    """Run the notebook of a phase as a recorded run.

    A notebook that fails or is interrupted is a record with that status, not an exception.

    Args:
        phase: ``curate``, ``2_curate``, or the path of any notebook.
        given: Parameters; text is read as the type that the notebook declares.
        root: Folder of ``data/`` and ``papermill_runs/``.
        notebooks: Folder of the notebooks; default: the checkout's.
        echo: Gets one line a cell.

    Raises:
        PrerequisiteError: Unknown phase, parameter or task, or the phase is running already; nothing was made.
    """
    root = root.resolve()
    name, notebook = _find(phase, notebooks or Path(__file__).resolve().parent.parent / "notebooks")
    declared = parameters_of(notebook)
    passed = convert(declared, given or {})
    if "task" in passed:
        passed["task"] = _task_argument(passed["task"])
    in_force = {p.name: p.default for p in declared.values()} | passed
    hidden = provenance.secrets_of(dict(os.environ))
    task, task_source = _task(in_force["task"], notebook.parent) if "task" in in_force else (None, "")
    with lock(root, name), stoppable():
        environment, installed = provenance.environment()
        code, diff = provenance.code(notebook.parent)
        now, began = datetime.now(UTC), time.monotonic()
        folder = _new_folder(root, f"{now:%Y%m%dT%H%M%SZ}-{name}")
        record = Record(
            run_id=folder.name,
            phase=name,
            status="running",
            started_at=now.isoformat(timespec="milliseconds"),
            folder=folder,
            parameters=in_force,
            parameters_passed=passed,
            seed=in_force.get("seed"),
            notebook={"path": str(notebook), "sha256": hashlib.sha256(notebook.read_bytes()).hexdigest()},
            task=task,
            code=code,
            environment=environment,
            supervisor=provenance.process(os.getpid()),
        )
        _save(record, hidden)
        try:
            files = {"env.lock": installed.encode(), "code.diff": diff, "task.py": task_source.encode()}
            for file, content in files.items():
                if content:
                    (folder / file).write_bytes(content)
            outcome = _run(record, notebook, passed, root, hidden, echo)
        except Stopped as stop:
            outcome = Outcome("interrupted", str(stop))
        return _finish(record, outcome, began, hidden)


def _run(
    record: Record,
    notebook: Path,
    passed: dict[str, Any],
    root: Path,
    hidden: list[str],
    echo: Callable[[str], object] | None,
) -> Outcome:
    """Run the notebook in its kernel, with a log."""
    tasks = notebook.parent / "tasks"
    variables = {
        **({"ARISLAB_TASKS": str(tasks)} if tasks.is_dir() else {}),
        **os.environ,
        "ARISLAB_ROOT": str(root),
        "ARISLAB_RUN_ID": record.run_id,
        "ARISLAB_RUN_DIR": str(record.folder),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONHASHSEED": "0",
    }
    with (record.folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
        log = Log(file, clean=lambda text: str(provenance.without(text, hidden)), echo=echo)
        log.line(f"{record.run_id} on {sys.executable}")
        executed = record.folder / "notebook.ipynb"
        outcome = supervise(notebook, executed, parameters=passed, cwd=notebook.parent, env=variables, log=log)
        log.line(": ".join(filter(None, (outcome.status, outcome.reason))))
    return outcome


def _finish(record: Record, outcome: Outcome, began: float, hidden: list[str]) -> Record:
    """Write the verdict, after the files that it sums up."""
    folder = record.folder
    for path in folder.iterdir():
        cleaned = provenance.hide_in(path, hidden) if path.name != "run.json" else None
        if cleaned is not None:
            _replace(path, cleaned)
    read, written = _tables(folder / "tables.jsonl")
    finished = dataclasses.replace(
        record,
        **vars(outcome),
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        duration_s=round(time.monotonic() - began, 3),
        tables_read=read,
        tables_written=written,
    )
    return _save(finished, hidden)


def _find(phase: str, notebooks: Path) -> tuple[str, Path]:
    """Return the phase's short name and its notebook."""
    stems = {Path(file).stem: name for name, file in PHASES.items()}
    path = Path(phase)
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise PrerequisiteError(f"there is no notebook {phase}; give its path, or one of {', '.join(PHASES)}.")
        return stems.get(path.stem) or re.sub(r"\W+", "_", path.stem), path.resolve()
    name = stems.get(phase, phase)
    if name not in PHASES:
        raise PrerequisiteError(
            f"there is no phase {phase!r}; {closest(phase, PHASES)}; or give the path of a notebook."
        )
    return name, (notebooks / PHASES[name]).resolve()


def _new_folder(root: Path, start: str) -> Path:
    for _ in range(100):
        folder = root / "papermill_runs" / f"{start}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise PrerequisiteError(
        f"no free name for a run under {root / 'papermill_runs'}; remove folders that start with {start}."
    )


def _task_argument(task: Any) -> Any:
    """Return a path as an absolute one, since the kernel works in another folder; a name as it is."""
    return (
        str(Path(task).resolve()) if isinstance(task, str) and task.endswith(".py") and Path(task).is_file() else task
    )


def _task(task: Any, notebooks: Path) -> tuple[dict[str, Any], str]:
    """Return path and digest of the task file, and its text."""
    folder = Path(os.environ.get("ARISLAB_TASKS", notebooks / "tasks"))
    path = notebooks / str(task) if str(task).endswith(".py") else folder / f"{task}.py"
    try:
        source = path.read_text(encoding="utf-8")
    except OSError:
        known = [p.stem for p in folder.glob("*.py")]
        raise PrerequisiteError(
            f"there is no task file {str(task)!r}; {closest(str(task), known)}. Give one of these, or the path of a .py file."
        ) from None
    return {"name": path.stem, "path": str(path), "sha256": hashlib.sha256(source.encode()).hexdigest()}, source


@contextlib.contextmanager
def lock(root: Path, phase: str) -> Iterator[None]:
    """Hold the right to run a phase under a root; the system frees it when the process ends, however it ends.

    Raises:
        PrerequisiteError: Another run holds it, or the folder cannot be written.
    """
    path = root / "papermill_runs" / ".locks" / phase
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {path.parent.parent} ({error.strerror}); choose another folder with --root."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PrerequisiteError(
                f"phase {phase!r} is already running under {root} ({file.read().strip() or 'another process'}); "
                f"wait for it, stop it, or choose another folder with --root."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield


def _tables(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge the lines of tables.jsonl to what was read before it was written, and what was written, by table."""
    read: dict[str, Any] = {}
    written: dict[str, Any] = {}
    digests: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            entry = json.loads(line)
            table, version, rows = entry["table"], entry["version"], entry["rows"]
        except (ValueError, KeyError):
            continue  # a torn last line: the kernel died while it wrote
        if entry["op"] == "read":
            if table not in written:
                read[table] = {"version": version, "rows": rows}
            continue
        digests.setdefault(table, []).append(entry.get("digest", ""))
        written[table] = {"version": version, "rows": rows + written.get(table, {"rows": 0})["rows"]}
    for table, several in digests.items():
        joined = hashlib.sha256("\n".join(sorted(several)).encode()).hexdigest()
        written[table]["digest"] = several[0] if len(several) == 1 else joined
    return read, written


def _save(record: Record, hidden: list[str]) -> Record:
    """Write run.json whole or not at all, without secrets."""
    plain = {name: value for name, value in vars(record).items() if name != "folder"}
    text = json.dumps(provenance.without(plain, hidden), indent=1, ensure_ascii=False, default=str)
    _replace(record.folder / "run.json", text)
    return record


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# ---- reading ----------------------------------------------------------------------------------------------------------

_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "phase": pl.String,
    "status": pl.String,
    "started_at": pl.Datetime("ms", "UTC"),
    "duration_s": pl.Float64,
    "parameters": pl.String,
    "headline": pl.String,
    "reason": pl.String,
    "commit": pl.String,
    "folder": pl.String,
}


def as_json(root: Path) -> list[dict[str, Any]]:
    """Return every record under a root, newest first, as plain dicts with at least the columns of ``list_runs``.

    A record that says running is shown as ``lost`` if its supervisor is gone; a folder without a readable record as
    ``unreadable``.
    """
    base = root / "papermill_runs"
    folders = [f for f in base.iterdir() if f.is_dir()] if base.is_dir() else []
    runs = [_read(f) for f in folders if _RUN_ID.fullmatch(f.name) or (f / "run.json").exists()]
    return sorted(runs, key=lambda run: (str(run["started_at"] or ""), str(run["run_id"])), reverse=True)


def _read(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_SCHEMA) | {
        "run_id": folder.name,
        "folder": str(folder),
        "status": "unreadable",
    }
    named = _RUN_ID.fullmatch(folder.name)
    if named:
        began = datetime.strptime(named[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        row |= {"phase": named[2], "started_at": began.isoformat(timespec="milliseconds")}
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        began = datetime.fromisoformat(found["started_at"])
        if not (began.tzinfo and isinstance(found["run_id"], str) and isinstance(found["parameters"], dict)):
            raise ValueError("fields of other types")
        row |= found | {"commit": found.get("code", {}).get("commit")}
        if row["status"] == "running" and provenance.gone(row["supervisor"]):
            row |= {"status": "lost", "reason": "the process that ran it is gone and wrote no verdict"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row |= {"status": "unreadable", "reason": f"run.json: {type(error).__name__}: {error}"}
    return row


def list_runs(root: Path) -> pl.DataFrame:
    """Return the recorded runs under a root, newest first.

    Returns:
        One row per run: run_id, phase, status, started_at, duration_s, parameters and headline (JSON), reason, commit, folder.
        Null: not known, or not yet.
    """
    rows = []
    for run in as_json(root):
        row = {name: run.get(name) for name in _SCHEMA}
        row |= {"started_at": row["started_at"] and datetime.fromisoformat(row["started_at"])}
        row |= {name: row[name] if row[name] is None else json.dumps(row[name]) for name in ("parameters", "headline")}
        rows.append(row)
    return pl.DataFrame(rows, schema=_SCHEMA, strict=False)  # one row per run
