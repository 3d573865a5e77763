"""A run that is being recorded, and the truth about what became of it.

One run is one folder ``papermill_runs/<UTC>-<phase>-<4 hex>/``::

    run.json        {"schema_version": 2, "run_id": "20261122T221500Z-curate-3f9a", "phase": "curate", …}
    notebook.ipynb  the executed notebook       log.txt       what the kernel printed, and the supervisor's remarks
    code.diff       uncommitted changes         env.lock      name==version of every installed package
    task.py         the task file as it was     tables.jsonl  one line per read or write of the lake
    events.jsonl    OpenLineage RunEvents       servers.jsonl what the batch servers said of themselves
    examples.jsonl  what phase 1 showed, of a file        heartbeat     touched every two seconds while it runs
    outputs/        its main plot, and outputs too large for the notebook
    quality_model.json  what phase 2 learned from reviews

``run.json`` is on disk as ``created`` before the kernel starts, then ``running``, and last the verdict, by the process
that supervises the kernel: ok, failed, interrupted (SIGINT or SIGTERM to us), timeout, killed (the kernel's process was
ended). A reader sees two more: lost (no verdict, and the supervisor is gone) and unreadable. A notebook's own cell
states are never asked. The room ``records`` reads what is written here. This module does not know what any phase does.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import digests
from arislab.lake.log import reads_and_writes
from arislab.records import digests as file_digests
from arislab.records import files as run_files
from arislab.records.headline import Headline
from arislab.records.record import SEAL, Record, fields_of, record_sha256, run_key
from arislab.runs import openlineage, provenance, signing
from arislab.runs.kernel import Job, Outcome
from arislab.runs.log import Log
from arislab.runs.notebook import trust
from arislab.runs.parameters import Parameter, in_force, notebook_json, plain
from arislab.runs.progress import Step
from arislab.runs.signals import Stopped
from arislab.system import files as whole_files
from arislab.system import masking, paths, processes
from arislab.system.files import replace

_HEARTBEAT_S = 2.0
_RESERVE_BYTES = 256_000  # given back before the verdict is written, so that a full disk has room for it


class Recording:
    """A run that is being recorded: the record is on disk before anything runs, and ends with a verdict.

    Args:
        name: Of the phase.
        notebook: Its path.
        declared: Its parameters.
        passed: Values that were passed, in the declared types.
        root: Folder of ``data/`` and ``papermill_runs/``.
        echo: Gets one line a cell.
        fields: Further fields of the record: launched_by, parameters_from, …
    """

    def __init__(
        self,
        name: str,
        notebook: Path,
        declared: dict[str, Parameter],
        passed: dict[str, Any],
        *,
        root: Path,
        echo: Callable[[str], object] | None,
        **fields: Any,
    ) -> None:
        values = in_force(declared, passed)
        self.hidden = masking.secrets_of(os.environ, values, {p.name: p.default for p in declared.values()})
        task, task_source = provenance.task(values, notebook.parent)
        environment, installed = provenance.environment()
        code, diff = provenance.code(notebook.parent)
        source = notebook_json(notebook)["cells"] if notebook.is_file() else []
        sources = [[c.get("id"), "".join(c["source"])] for c in source if c["cell_type"] == "code"]
        now, self.began = datetime.now(UTC), time.monotonic()
        self.source, self.root, self.echo, self.notebook = source, root, echo, notebook
        self.lake = paths.lake(root)
        folder = root / "papermill_runs" / f"{now:%Y%m%dT%H%M%SZ}-{name}-{secrets.token_hex(2)}"
        self.record = Record(
            run_id=folder.name,
            phase=name,
            status="created",
            created_at=now.isoformat(timespec="milliseconds"),
            folder=folder,
            parameters=plain(values),
            parameters_passed=plain(passed),
            parameter_types={p.name: p.type for p in declared.values()},
            seed=values.get("seed"),
            notebook={
                "path": str(notebook),
                "sha256": hashlib.sha256(notebook.read_bytes()).hexdigest() if notebook.is_file() else None,
                "source_sha256": file_digests.of_json(sources),
            },
            task=task,
            code=code | provenance.package(),
            environment=environment,
            supervisor=processes.identity(os.getpid()),
            root=str(root),
            lake=self.lake,
            **fields | {"parameters_from": dict.fromkeys(values, "default") | fields["parameters_from"]},
        )
        self.passed = passed
        self.files = {"env.lock": installed.encode(), "code.diff": diff, "task.py": task_source.encode()}

    def run(
        self,
        work: Callable[[Job], Outcome],
        *,
        cwd: Path,
        timeout_s: float | None = None,
        cell_timeout_s: float | None = None,
        also_save: Callable[[Any], object] | None = None,
        tell: Callable[[Step], object] | None = None,
    ) -> Record:
        """Record, run, and write the verdict."""
        ended = threading.Event()
        self._begin()
        folder = self.record.folder
        beat = threading.Thread(target=_beat, args=(folder / "heartbeat", ended), daemon=True)
        beat.start()
        try:
            self._begin_files()
            with (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                log = Log(file, clean=self.clean, echo=self.echo)
                log.line(f"{self.record.run_id} on {sys.executable}")
                job = Job(
                    self.source,
                    folder / "notebook.ipynb",
                    cwd,
                    self._variables(),
                    log,
                    self._started,
                    parameters=self.passed,
                    timeout_s=timeout_s,
                    cell_timeout_s=cell_timeout_s,
                    also_save=also_save,
                    clean=self.clean,
                    tell=tell,
                )
                outcome = work(job)
                log.line(": ".join(filter(None, (outcome.status, outcome.reason))))
        except Stopped as stop:
            outcome = Outcome("interrupted", "signal", str(stop), signal=str(stop))
        except OSError as error:
            outcome = Outcome(
                "failed",
                "disk-full" if error.errno == errno.ENOSPC else "exception",
                f"{type(error).__name__}: {error}",
            )
        finally:
            # before the verdict: no beat may touch the heartbeat after it was removed
            ended.set()
            beat.join()
        return self._finish(outcome)

    def clean(self, text: str) -> str:
        """Return a text without secrets."""
        return str(masking.without(text, self.hidden))

    def clean_copy(self, nb: Any) -> Any:
        """Return a notebook without secrets."""
        from nbformat import from_dict

        return from_dict(masking.without(nb, self.hidden))

    def _begin(self) -> None:
        """Have the record on disk before anything runs.

        Raises:
            PrerequisiteError: It cannot be written.
            LakeError: What people decided cannot be folded into the lake.
        """
        self._collect()
        while not self._is_made():
            # another run of this second has these four hex
            folder = self.record.folder.with_name(f"{self.record.folder.name[:-4]}{secrets.token_hex(2)}")
            self.record = dataclasses.replace(self.record, folder=folder, run_id=folder.name)

    def _collect(self) -> None:
        """Have in the table what people decided so far; before the run is on record, since it is not the run's work."""
        if paths.journals(self.lake, self.root).is_dir():
            from arislab.lake import Lake

            Lake(self.lake, root=self.root).collect()

    def _is_made(self) -> bool:
        try:
            return _make_folder(self.record.folder, self._text())
        except OSError as error:
            raise PrerequisiteError(
                f"the run was not begun: its record cannot be written to {self.record.folder.parent} "
                f"({error.strerror}); nothing was stored. Make room, or choose another folder with --root."
            ) from None

    def _begin_files(self) -> None:
        folder = self.record.folder
        (folder / ".reserve").write_bytes(b"\0" * _RESERVE_BYTES)
        for name, content in self.files.items():
            if content:
                text = self.clean(content.decode(errors="surrogateescape"))
                (folder / name).write_bytes(text.encode(errors="surrogateescape"))
        self._event()

    def open(self) -> None:
        """Begin a run that nobody supervises: the kernel itself keeps the record."""
        self._begin()
        self._begin_files()
        self._started()

    def note(self, **changes: Any) -> None:
        """Change fields of a run that goes on."""
        self.record = dataclasses.replace(self.record, **changes)
        self._save()

    def note_headline(self, shown: Any) -> None:
        """Keep the headline that a cell showed."""
        if isinstance(shown, Headline):
            self.record = dataclasses.replace(self.record, headline=shown.numbers)

    def end(self, **verdict: Any) -> Record:
        """Write the verdict of a run that nobody supervised."""
        return self._finish(Outcome(headline=self.record.headline, **verdict))

    def _variables(self) -> dict[str, str]:
        tasks = self.notebook.parent / "tasks"
        return {
            **({"ARISLAB_TASKS": str(tasks)} if tasks.is_dir() else {}),
            **os.environ,
            "ARISLAB_ROOT": str(self.root),
            "ARISLAB_RUN_ID": self.record.run_id,
            "ARISLAB_RUN_DIR": str(self.record.folder),
            # one that the shell of the caller has set would open windows, or show nothing
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            # a rerun must walk through a set in the same order
            "PYTHONHASHSEED": "0",
        }

    def _started(self) -> None:
        self.note(status="running", started_at=_now())

    def _finish(self, outcome: Outcome) -> Record:
        """Write the verdict, after the files that it sums up."""
        folder = self.record.folder
        outcome = self._with_folder(outcome)
        with contextlib.suppress(OSError):
            (folder / ".reserve").unlink()
        verdict = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        read, written = reads_and_writes(folder / "tables.jsonl")
        self.record = dataclasses.replace(
            self.record,
            **verdict,
            finished_at=_now(),
            duration_s=round(time.monotonic() - self.began, 3),
            tables_read=read,
            tables_written=self._left(written),
            servers=_json_lines(folder / "servers.jsonl"),
        )
        self.record = dataclasses.replace(self.record, run_key=run_key(vars(self.record)))
        try:
            for path in run_files.files(folder):
                # what the kernel wrote there itself went past the supervisor, who masks the rest
                cleaned = masking.hide_in(path, self.hidden) if path.name != "run.json" else None
                if cleaned is not None:
                    replace(path, cleaned)
            if (folder / "notebook.ipynb").is_file():
                trust(folder / "notebook.ipynb")
            self._event()
            (folder / "heartbeat").unlink(missing_ok=True)
        except OSError as error:
            # a run whose files are not whole is not ok; any other verdict is the first cause, and stays
            if self.record.status == "ok":
                self.record = dataclasses.replace(
                    self.record,
                    status="failed",
                    cause="disk-full",
                    reason=f"the record's files could not be written: {error}",
                )
        files = {
            path.relative_to(folder).as_posix(): file_digests.of_file(path)
            for path in run_files.files(folder)
            if path.name != "run.json" and not path.name.startswith(".")
        }
        # last: whoever reads a verdict finds the files that it speaks of, and their digests
        self.record = dataclasses.replace(self.record, files=files)
        try:
            self._save()
        except OSError as error:
            raise PrerequisiteError(
                f"{self.record!r}\n  The verdict cannot be written to {folder} ({error.strerror}), "
                "so the record says 'lost' from now on."
            ) from None
        return self.record

    def _with_folder(self, outcome: Outcome) -> Outcome:
        """Make the folder again if it was removed during the run, so that the verdict has a place.

        The outcome says so.
        """
        if self.record.folder.is_dir():
            return outcome
        with contextlib.suppress(OSError):  # saving the verdict tells
            self.record.folder.mkdir(parents=True)
        why = (
            "the run's folder was removed while it ran, and with it log, notebook and the list of tables; "
            f"it had ended {outcome.status}"
        )
        reason = f"{why}: {outcome.reason}" if outcome.reason else why
        return dataclasses.replace(outcome, status="failed", cause="folder-gone", reason=reason)

    def _left(self, written: dict[str, Any]) -> dict[str, Any]:
        """Add to each table what this run left in it: rows and digests of the rows that carry its name."""
        if not written:
            return written
        from arislab.lake import Lake

        lake = Lake(self.lake, root=self.root)
        for name, state in written.items():
            if not lake[name].exists:
                state["problem"] = "the table is gone"
                continue
            try:
                rows = lake[name].read(where={"run_id": self.record.run_id}, version=state["version"])
            except LakeError as error:
                state["problem"] = str(error)
                continue
            columns = digests.columns(name, rows)
            state |= {"rows": rows.height, "digest": digests.of_columns(columns, rows.height), "columns": columns}
        return written

    def _event(self) -> None:
        event = openlineage.event(fields_of(self.record), at=_now(), lake=paths.as_url(self.lake))
        line = json.dumps(masking.without(event, self.hidden), ensure_ascii=False, default=str) + "\n"
        descriptor = os.open(self.record.folder / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # one write to a file that only grows: a kill leaves a whole event or none
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _text(self) -> str:
        """What run.json says now, without secrets."""
        fields = masking.without(fields_of(self.record), self.hidden)
        fields["record_sha256"] = record_sha256(fields)
        fields["signature"] = signing.sign(fields["record_sha256"])
        seal = {name: fields[name] for name in SEAL}
        self.record = dataclasses.replace(self.record, **seal)
        return json.dumps(fields, indent=1, ensure_ascii=False, default=str)

    def _save(self) -> None:
        """Write run.json whole or not at all."""
        replace(self.record.folder / "run.json", self._text())


def _make_folder(folder: Path, record: str) -> bool:
    """Make the folder of a run with its run.json in it, at once: no reader ever sees one without the other.

    Returns:
        False if there is such a folder already.
    """
    try:
        with whole_files.made(folder) as part:
            (part / "run.json").write_text(record, encoding="utf-8", errors="surrogateescape")
    except OSError:
        if folder.exists():
            return False
        raise
    return True


def _beat(path: Path, ended: threading.Event) -> None:
    """Touch a file until the run has ended; a reader on another machine has nothing else to go by."""
    while True:
        with contextlib.suppress(OSError):
            path.touch()
        if ended.wait(_HEARTBEAT_S):
            return


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file that was written line by line, without a torn last one."""
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
